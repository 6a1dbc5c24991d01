//! What several files say of each other: an index against the shards, the parts of a split GGUF against their count.

use super::headers::Opened;
use crate::error::{Error, Result};
use crate::format::gguf::names::Split;
use crate::format::shards::Index;
use crate::text::{Shown, grouped};
use hashbrown::{HashMap, HashSet};

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

/// A note on shards of the same numbering that lie there and that the index does not name: an index of another saving.
pub(super) fn unnamed_shards<'a>(named: &[&str], listed: impl Iterator<Item = &'a str>) -> Option<String> {
    // `model-00002-of-00003.safetensors` as `model-…-of-00003.safetensors`.
    fn numbering(name: &str) -> Option<(&str, &str)> {
        let (front, back) = name.split_once("-of-")?;
        let (stem, number) = front.rsplit_once('-')?;
        number.bytes().all(|b| b.is_ascii_digit()).then_some((stem, back))
    }
    let known: HashSet<(&str, &str)> = named.iter().filter_map(|n| numbering(n)).collect();
    let unnamed: Vec<&str> =
        listed.filter(|n| !named.contains(n) && numbering(n).is_some_and(|s| known.contains(&s))).collect();
    let first = unnamed.first()?;
    let more = if unnamed.len() > 1 { " and others" } else { "" };
    Some(format!("`{}`{more} lies here and is not in the index, so it is not read", Shown(first)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Container, Extent, FileId, MetaValue, Part, Span, Tensor};
    use crate::dtype::DType;
    use crate::source::local::LocalFile;
    use std::path::Path;
    use std::sync::Arc;

    /// A part with its three keys (`None`: without them) and so many tensors.
    fn opened(number: usize, keys: Option<(u16, u16, i32)>, tensors: usize) -> Opened {
        let tensor = |n: usize| Tensor {
            name: format!("{number}.{n}"),
            dtype: DType::U8,
            shape: vec![],
            at: Extent::plain(Span { file: FileId(0), offset_bytes: 0, size_bytes: 1 }),
        };
        let keys = keys.map(|(no, count, total)| {
            [
                ("split.no", MetaValue::U16(no)),
                ("split.count", MetaValue::U16(count)),
                ("split.tensors.count", MetaValue::I32(total)),
            ]
        });
        let meta = keys.into_iter().flatten().map(|(k, v)| (k.to_string(), v)).collect();
        let tensors = (0..tensors).map(tensor).collect();
        let part = Part { container: Container::Gguf, tensors, meta, notes: vec![] };
        // Any file will do: only headers are looked at.
        let file = Arc::new(LocalFile::open(Path::new(file!())).unwrap());
        Opened { name: format!("part{number}"), file, part }
    }

    #[test]
    fn parts_of_a_split_model_agree() {
        type Row<'a> = (&'a [(Option<(u16, u16, i32)>, usize)], Option<&'a str>);
        let rows: &[Row<'_>] = &[
            (&[(None, 3)], None),
            (&[(Some((0, 0, 3)), 3)], None),
            (&[(Some((0, 1, 3)), 3)], None),
            (&[(Some((0, 2, 3)), 0), (Some((1, 2, 3)), 3)], None),
            (
                &[(Some((1, 3, 9)), 3)],
                Some("part0: is part 2 of 3 of a split model, and its name does not say"),
            ),
            (
                &[(Some((0, 2, 3)), 3), (None, 1)],
                Some("part1: is named as part 2 of 2 but holds no `split.count`"),
            ),
            (
                &[(Some((0, 2, 3)), 1), (Some((0, 2, 3)), 2)],
                Some("part1: is named as part 2 of 2 but says of itself that it is part 1 of 2"),
            ),
            (
                &[(Some((0, 3, 3)), 1), (Some((1, 2, 3)), 2)],
                Some("part0: is named as part 1 of 2 but says of itself that it is part 1 of 3"),
            ),
            (
                &[(Some((0, 2, 3)), 1), (Some((1, 2, 4)), 2)],
                Some("part1: says that the parts hold 4 tensors together; the first part says 3"),
            ),
            (
                &[(Some((0, 2, 3)), 1), (Some((1, 2, 3)), 1)],
                Some("part0: says that the parts hold 3 tensors together, but they hold 2"),
            ),
        ];
        for (parts, said) in rows {
            let parts: Vec<Opened> =
                parts.iter().enumerate().map(|(n, &(keys, tensors))| opened(n, keys, tensors)).collect();
            let got = check_split(&parts).err().map(|e| e.to_string());
            match (&got, said) {
                (None, None) => {}
                (Some(got), Some(said)) if got.contains(said) => {}
                _ => panic!("{got:?}, expected {said:?}"),
            }
        }
    }
}
