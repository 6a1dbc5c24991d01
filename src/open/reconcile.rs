//! What several files say of each other: an index against the shards, the parts of a split GGUF against their count.

use super::headers::Opened;
use crate::error::{Error, Result};
use crate::format::gguf::names::Split;
use crate::format::shards::Index;
use crate::text::{Shown, grouped};
use std::collections::{HashMap, HashSet};

/// Notes on where index and shards disagree. Neither is an error: the reference writer drops aliases from the shards and
/// leaves them in the map, and tools that add tensors forget the map.
pub(super) fn with_index(index: &Index, under: &str, opened: &[Opened]) -> Vec<String> {
    let mut held: HashMap<&str, &str> = HashMap::new();
    for file in opened {
        let name = file.name.strip_prefix(under).unwrap_or(&file.name);
        held.extend(file.part.tensors.iter().map(|t| (t.name.as_str(), name)));
    }
    let mapped: HashSet<&str> = index.weight_map.iter().map(|(tensor, _)| tensor.as_str()).collect();
    let absent = index.weight_map.iter().map(|(t, _)| t.as_str()).filter(|t| !held.contains_key(t));
    let elsewhere = index.weight_map.iter().filter(|(t, f)| held.get(t.as_str()).is_some_and(|h| h != f));
    let unmapped = opened.iter().flat_map(|o| &o.part.tensors).map(|t| t.name.as_str());
    let unmapped = unmapped.filter(|t| !mapped.contains(t));
    [
        few(absent, "in the index but in no shard"),
        few(elsewhere.map(|(t, _)| t.as_str()), "in another shard than the index says"),
        few(unmapped, "in a shard but not in the index"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// "3 tensors are …: `a`, `b`, `c`".
fn few<'a>(names: impl Iterator<Item = &'a str>, are: &str) -> Option<String> {
    const SHOWN_MAX: usize = 3;
    let (mut shown, mut count) = (Vec::new(), 0u64);
    for name in names {
        count += 1;
        if shown.len() < SHOWN_MAX {
            shown.push(format!("`{}`", Shown(name)));
        }
    }
    let more = if count > SHOWN_MAX as u64 { ", …" } else { "" };
    match count {
        0 => None,
        1 => Some(format!("1 tensor is {are}: {}", shown.join(", "))),
        _ => Some(format!("{} tensors are {are}: {}{more}", grouped(count), shown.join(", "))),
    }
}

/// The parts of a split GGUF: each says which it is, how many there are, and how many tensors they hold together.
pub(super) fn check_split(opened: &[Opened]) -> Result<()> {
    let mut tensors_count = None;
    for (index, file) in opened.iter().enumerate() {
        let fail = |message: String| Err(Error::bad_input(message).file(file.name.clone()));
        let split = Split::of(&file.part.meta).map_err(|e| e.file(file.name.clone()))?;
        match split {
            None if opened.len() > 1 => {
                return fail(format!(
                    "is named as part {} of {} but holds no `split.count`",
                    index + 1,
                    opened.len()
                ));
            }
            None => {}
            Some(split) if opened.len() == 1 => {
                return Err(Error::not_found(format!(
                    "is part {} of {} of a split model, and its name does not say where the others are",
                    u64::from(split.index) + 1,
                    split.count
                ))
                .file(file.name.clone())
                .hint("give the parts their names: NAME-00001-of-00003.gguf, NAME-00002-of-00003.gguf, …"));
            }
            Some(split) => {
                if (split.index as usize, split.count as usize) != (index, opened.len()) {
                    return fail(format!(
                        "is named as part {} of {} but says of itself that it is part {} of {}",
                        index + 1,
                        opened.len(),
                        u64::from(split.index) + 1,
                        split.count
                    ));
                }
                let total = *tensors_count.get_or_insert(split.tensors_count);
                if total != split.tensors_count {
                    return fail(format!(
                        "says that the parts hold {} tensors together; the first part says {}",
                        grouped(split.tensors_count),
                        grouped(total)
                    ));
                }
            }
        }
    }
    let held = opened.iter().map(|o| o.part.tensors.len() as u64).sum::<u64>();
    match tensors_count {
        Some(total) if total != held => {
            let first = opened.first().map_or("", |o| &o.name);
            Err(Error::bad_input(format!(
                "says that the parts hold {} tensors together, but they hold {}",
                grouped(total),
                grouped(held)
            ))
            .file(first))
        }
        _ => Ok(()),
    }
}
