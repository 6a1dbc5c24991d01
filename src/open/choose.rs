//! Which files of a directory are the weights: decided from the listing alone, before a byte is read.
//!
//! safetensors before PyTorch before GGUF; within a family what an index names, then the usual single name, then the
//! only candidate there is. Several candidates are never guessed between and never mixed: the caller is told to choose.

use crate::error::{Error, Result};
use crate::format::gguf::names::{
    is_side_file, parse_split_name, quant_equals, quant_matches, quant_of_name, split_name,
};
use crate::source::Entry;
use crate::text::{Shown, bytes};
use std::collections::BTreeMap;

/// What was chosen.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Weights {
    /// The shards that this index names; where it names none that is there, `or` (a stale index beside a merged file).
    Indexed { index: String, or: Option<String> },
    /// These files.
    Files(Vec<String>),
    /// These files, the parts of one GGUF model in order.
    Gguf(Vec<String>),
    /// The weights of an adapter, for want of a model's.
    Adapter(String),
}

/// A family of names that one loader understands.
struct Family {
    extensions: &'static [&'static str],
    indexes: &'static [&'static str],
    singles: &'static [&'static str],
    adapter: &'static str,
}

#[rustfmt::skip]
const FAMILIES: &[Family] = &[
    Family {
        extensions: &[".safetensors"],
        indexes: &["model.safetensors.index.json", "diffusion_pytorch_model.safetensors.index.json"],
        singles: &["model.safetensors", "diffusion_pytorch_model.safetensors"],
        adapter: "adapter_model.safetensors",
    },
    Family {
        extensions: &[".bin", ".pt", ".pth", ".ckpt"],
        indexes: &["pytorch_model.bin.index.json", "diffusion_pytorch_model.bin.index.json"],
        singles: &["pytorch_model.bin", "diffusion_pytorch_model.bin"],
        adapter: "adapter_model.bin",
    },
];

/// Beginnings of names that share an extension with weights and are none: a trainer's state, other frameworks'.
const NOT_WEIGHTS: &[&str] = &[
    "adapter_model",
    "training_args",
    "trainer_state",
    "optimizer",
    "scheduler",
    "rng_state",
    "random_states",
    "scaler",
    "openvino_",
    "tokenizer",
    "vocab",
    "imatrix",
    "zero_pp_rank",
    "mp_rank",
];

/// Words before the extension that mark a second copy of the same model (diffusers and transformers call it the variant).
const VARIANTS: &[&str] = &[
    "fp16", "fp32", "bf16", "f16", "f32", "fp8", "int8", "int4", "8bit", "4bit", "ema", "non_ema", "no_ema",
];

/// Chooses from a directory's listing. `quantisation` is the user's `:Q4_K_M`, which only GGUF has. `None` where nothing
/// there is a weights file.
pub(crate) fn choose(entries: &[Entry], quantisation: Option<&str>) -> Result<Option<Weights>> {
    let files: Vec<&Entry> = entries.iter().filter(|e| !e.is_directory).collect();
    if quantisation.is_none() {
        for family in FAMILIES {
            if let Some(weights) = choose_in(family, &files)? {
                return Ok(Some(weights));
            }
        }
    }
    if let Some(weights) = choose_gguf(&files, quantisation)? {
        return Ok(Some(weights));
    }
    let adapter = FAMILIES.iter().map(|f| f.adapter).find(|a| files.iter().any(|e| e.name == *a));
    match quantisation {
        None => Ok(adapter.map(|a| Weights::Adapter(a.to_string()))),
        Some(wanted) => {
            Err(Error::not_found(format!("holds no GGUF file, so no quantisation `{}`", Shown(wanted))))
        }
    }
}

/// What could be the `Q4_K_M` of `name:Q4_K_M`.
pub(super) fn is_quantisation(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// Whether a name is one that a file of weights has.
#[cfg(feature = "object")]
pub(super) fn is_weights_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    FAMILIES.iter().flat_map(|f| f.extensions).chain(&[".gguf"]).any(|x| name.ends_with(x))
}

/// A set of files that make one model: a single file, or numbered shards.
#[derive(Default)]
struct Candidate {
    size_bytes: u64,
    /// Number (from one) and name; a single file is number 1.
    parts: BTreeMap<u64, String>,
    count: u64,
}

fn choose_in(family: &Family, files: &[&Entry]) -> Result<Option<Weights>> {
    let there = |name: &&&str| files.iter().any(|e| e.name == **name);
    let single = family.singles.iter().find(there).map(|s| s.to_string());
    if let Some(index) = family.indexes.iter().find(there) {
        return Ok(Some(Weights::Indexed { index: index.to_string(), or: single }));
    }
    if let Some(single) = single {
        return Ok(Some(Weights::Files(vec![single])));
    }
    // What is left has a name of its own. Plain names first, then Mistral's and Meta's second copy, then variants.
    let mut indexes: [Vec<&str>; 3] = Default::default();
    let mut candidates: [BTreeMap<String, Candidate>; 3] = Default::default();
    for entry in files {
        if NOT_WEIGHTS.iter().any(|prefix| entry.name.starts_with(prefix)) {
            continue;
        }
        if let Some(stem) = index_stem(family, &entry.name) {
            indexes[rank(stem, is_variant_index(&entry.name))].push(&entry.name);
            continue;
        }
        let Some(stem) = family.extensions.iter().find_map(|x| entry.name.strip_suffix(x)) else { continue };
        let (stem, variant) = split_variant(stem);
        let (stem, number, count) = split_number(stem);
        // transformers writes the variant before the number, diffusers after it.
        let (stem, variant) = match variant {
            Some(_) => (stem, variant),
            None => split_variant(stem),
        };
        // Names that differ in the number alone belong together.
        let key = match entry.name.rsplit_once("-of-") {
            Some((before, after)) if count > 1 => {
                format!("{}-of-{after}", before.trim_end_matches(|c: char| c.is_ascii_digit()))
            }
            _ => entry.name.clone(),
        };
        let candidate = candidates[rank(stem, variant.is_some())].entry(key).or_default();
        candidate.size_bytes = candidate.size_bytes.saturating_add(entry.size_bytes);
        candidate.count = count;
        candidate.parts.insert(number, entry.name.clone());
    }
    for (indexes, candidates) in indexes.iter().zip(&candidates) {
        match indexes[..] {
            [] => {}
            [one] => return Ok(Some(Weights::Indexed { index: one.to_string(), or: None })),
            _ => {
                return Err(several(
                    "indexes",
                    indexes.iter().map(|i| format!("`{}`", Shown(i))),
                    "name one of them",
                ));
            }
        }
        let mut all = candidates.values();
        match (all.next(), all.next()) {
            (None, _) => {}
            (Some(only), None) => return complete(only).map(|files| Some(Weights::Files(files))),
            _ if is_model_parallel(candidates) => {
                return Err(Error::unsupported(format!(
                    "holds {} files of a model cut for tensor parallelism, as Meta publishes Llama",
                    candidates.len()
                ))
                .hint("transformers' convert_llama_weights_to_hf.py joins them, or take the repo whose name ends in -hf"));
            }
            _ => {
                let rows = candidates.values().map(|c| {
                    let name = c.parts.values().next().map_or("", String::as_str);
                    format!("`{}` ({})", Shown(name), bytes(c.size_bytes))
                });
                return Err(several(
                    "weights files and no index that joins them",
                    rows,
                    "name one of the files",
                ));
            }
        }
    }
    Ok(None)
}

/// 0 for a name of its own, 1 for the second copy of Mistral and Meta, 2 for a variant.
fn rank(stem: &str, is_variant: bool) -> usize {
    match (is_variant, stem.starts_with("consolidated")) {
        (true, _) => 2,
        (_, true) => 1,
        _ => 0,
    }
}

/// What the name of a file says of it as weights: which family (0 safetensors, 1 PyTorch), and 0 for a name of its own, 1 for
/// the second copy of Mistral and Meta, 2 for a variant. `None` for what is no weights of these families.
#[cfg(feature = "hub")]
pub(crate) fn standing(name: &str) -> Option<(usize, usize)> {
    if NOT_WEIGHTS.iter().any(|prefix| name.starts_with(prefix)) {
        return None;
    }
    FAMILIES.iter().enumerate().find_map(|(family, facts)| {
        let stem = facts.extensions.iter().find_map(|x| name.strip_suffix(x))?;
        let (stem, variant) = split_variant(stem);
        let (stem, _, _) = split_number(stem);
        let is_variant = variant.is_some() || split_variant(stem).1.is_some();
        Some((family, rank(stem, is_variant)))
    })
}

/// Whether a file has the name under which an adapter's weights are saved.
#[cfg(feature = "hub")]
pub(crate) fn is_adapter(name: &str) -> bool {
    FAMILIES.iter().any(|family| family.adapter == name)
}

/// `consolidated.00`, `consolidated.01`, …: each holds a slice of every tensor.
fn is_model_parallel(candidates: &BTreeMap<String, Candidate>) -> bool {
    candidates.keys().all(|key| {
        let digits = key.strip_prefix("consolidated.").and_then(|rest| rest.split('.').next());
        digits.is_some_and(|d| d.len() == 2 && d.bytes().all(|b| b.is_ascii_digit()))
    })
}

/// The stem of `STEM.safetensors.index.json` and of `STEM.safetensors.index.fp16.json`.
fn index_stem<'a>(family: &Family, name: &'a str) -> Option<&'a str> {
    let rest = name.strip_suffix(".json")?;
    let rest = split_variant(rest).0.strip_suffix(".index")?;
    family.extensions.iter().find_map(|x| rest.strip_suffix(x))
}

fn is_variant_index(name: &str) -> bool {
    let rest = name.strip_suffix(".json").unwrap_or(name);
    let stem = rest.split(".index").next().and_then(|s| s.rsplit_once('.')).map_or(rest, |(stem, _)| stem);
    split_variant(rest).1.is_some() || split_variant(stem).1.is_some()
}

/// `model.fp16` → `model` and `fp16`.
fn split_variant(stem: &str) -> (&str, Option<&str>) {
    match stem.rsplit_once('.') {
        Some((rest, last)) if VARIANTS.contains(&last.to_ascii_lowercase().as_str()) => (rest, Some(last)),
        _ => (stem, None),
    }
}

/// `model-00002-of-00004` → `model`, 2, 4; anything else is one of one. Number and count are written equally wide, so that
/// no two names have the same number.
fn split_number(stem: &str) -> (&str, u64, u64) {
    let number = |text: &str| {
        let digits = (1..=9).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        if digits { text.parse::<u64>().ok() } else { None }
    };
    let parse = || {
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (rest, index) = rest.rsplit_once('-').filter(|(_, index)| index.len() == count.len())?;
        let (index, count) = (number(index)?, number(count)?);
        (index >= 1 && index <= count).then_some((rest, index, count))
    };
    parse().unwrap_or((stem, 1, 1))
}

/// How many of a numbered set there are, for a file of it that stands alone: `(2, 4)`.
pub(super) fn number_of(name: &str) -> Option<(u64, u64)> {
    let stem = FAMILIES.iter().flat_map(|f| f.extensions).find_map(|x| name.strip_suffix(x))?;
    let (_, number, count) = split_number(split_variant(stem).0);
    (count > 1).then_some((number, count))
}

/// The files of a candidate, all its numbers being there.
fn complete(candidate: &Candidate) -> Result<Vec<String>> {
    // As many files as numbers are all numbers: each lies in 1..=count and is a key only once.
    if candidate.parts.len() as u64 == candidate.count {
        return Ok(candidate.parts.values().cloned().collect());
    }
    let absent = (1..=candidate.count).find(|n| !candidate.parts.contains_key(n)).unwrap_or_default();
    let first = candidate.parts.values().next().map_or("", String::as_str);
    Err(Error::not_found(format!(
        "holds {} of {} shards like `{}`: number {absent} is not there",
        candidate.parts.len(),
        candidate.count,
        Shown(first)
    )))
}

const SHOWN_MAX: usize = 30;

/// Several of something, one line each.
fn several(what: &str, rows: impl Iterator<Item = String>, hint: &str) -> Error {
    let rows: Vec<String> = rows.collect();
    let mut shown = rows.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join("\n  ");
    if rows.len() > SHOWN_MAX {
        shown.push_str(&format!("\n  and {} more", rows.len() - SHOWN_MAX));
    }
    Error::usage(format!("holds several {what}")).detail(shown).hint(hint)
}

/// A GGUF model in a listing: one file or all its parts.
struct Gguf<'a> {
    quantisation: Option<&'a str>,
    size_bytes: u64,
    /// Index and name.
    parts: BTreeMap<u32, &'a str>,
    count: u32,
}

impl Gguf<'_> {
    fn name(&self) -> &str {
        self.parts.values().next().copied().unwrap_or_default()
    }
}

fn choose_gguf(files: &[&Entry], quantisation: Option<&str>) -> Result<Option<Weights>> {
    let mut models: BTreeMap<(&str, u32), Gguf<'_>> = BTreeMap::new();
    for entry in files {
        if !entry.name.to_ascii_lowercase().ends_with(".gguf") || is_side_file(&entry.name) {
            continue;
        }
        let (prefix, index, count) = match parse_split_name(&entry.name) {
            Some(split) => (split.prefix, split.index, split.count),
            None => (entry.name.as_str(), 0, 1),
        };
        let model = models.entry((prefix, count)).or_insert_with(|| Gguf {
            quantisation: quant_of_name(&entry.name),
            size_bytes: 0,
            parts: BTreeMap::new(),
            count,
        });
        model.size_bytes = model.size_bytes.saturating_add(entry.size_bytes);
        // `.gguf` and `.GGUF`: the first of the listing counts.
        model.parts.entry(index).or_insert(&entry.name);
    }
    let table = |models: &mut dyn Iterator<Item = &Gguf<'_>>| {
        models
            .map(|m| {
                format!(
                    "{:<12} {:>9}   {}",
                    Shown(m.quantisation.unwrap_or("?")).to_string(),
                    bytes(m.size_bytes),
                    Shown(m.name())
                )
            })
            .collect::<Vec<_>>()
    };
    let Some(wanted) = quantisation else {
        let mut all = models.values();
        return match (all.next(), all.next()) {
            (None, _) => Ok(None),
            (Some(only), None) => gguf_parts(only).map(Some),
            _ => {
                let rows = table(&mut models.values()).into_iter();
                Err(several(
                    "GGUF models, of which one is to be chosen",
                    rows,
                    "add the quantisation to the name (`NAME:Q4_K_M`), or name the file",
                ))
            }
        };
    };
    if models.is_empty() {
        return Ok(None);
    }
    let same = |how: fn(&str, &str) -> bool| {
        models.values().filter(|m| m.quantisation.is_some_and(|q| how(q, wanted))).collect::<Vec<_>>()
    };
    let mut found = same(quant_equals);
    if found.is_empty() {
        found = same(quant_matches);
    }
    match found[..] {
        [only] => gguf_parts(only).map(Some),
        [] => {
            let rows = table(&mut models.values());
            Err(Error::not_found(format!("holds no quantisation `{}`", Shown(wanted)))
                .detail(rows.into_iter().take(SHOWN_MAX).collect::<Vec<_>>().join("\n  "))
                .hint("choose one of these"))
        }
        _ => {
            let rows = table(&mut found.iter().copied()).into_iter();
            Err(several(&format!("GGUF models of quantisation `{}`", Shown(wanted)), rows, "name the file"))
        }
    }
}

/// All parts of a split model, all being there.
fn gguf_parts(model: &Gguf<'_>) -> Result<Weights> {
    let Some(absent) = (0..model.count).find(|n| !model.parts.contains_key(n)) else {
        return Ok(Weights::Gguf(model.parts.values().map(|name| name.to_string()).collect()));
    };
    let prefix = parse_split_name(model.name()).map_or("", |split| split.prefix);
    Err(Error::not_found(format!(
        "holds {} of the {} files of a split GGUF: `{}` is not there",
        model.parts.len(),
        model.count,
        Shown(&split_name(prefix, absent, model.count))
    )))
}
