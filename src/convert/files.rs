//! Which tensors go into which file, and where in it.

use super::draft::Draft;
use super::{Options, SHARD_BYTES};
use crate::checkpoint::{Container, FileRef, Tensor};
use crate::error::{Error, Result};
use crate::format::gguf::layout as gguf;
use crate::format::gguf::names::split_name;
use crate::format::layout::{self, Entry, Laid};
use crate::format::safetensors::layout as safetensors;
use crate::format::torch::layout as torch;
use crate::format::torch::layout::TorchLaid;
use crate::open::Model;
use crate::run::weave::Target;
use crate::transform::method::Quantiser;
use crate::transform::recipe::{Form, Output, Source};
use std::collections::BTreeMap;
use std::ops::Range;
use xxhash_rust::xxh3::Xxh3;

/// One file of weights.
#[derive(Debug, Clone)]
pub struct FilePlan {
    /// Its name, relative to OUT where that is a directory.
    pub name: String,
    /// Its tensors, by their place in the recipe's outputs.
    pub outputs: Vec<usize>,
    /// What lies where.
    pub laid: Laid,
    /// A PyTorch file's checksums and directory, which follow from the data.
    pub(super) torch: Option<TorchLaid>,
}

impl FilePlan {
    /// What is to be written, in the order of the file.
    pub(super) fn target(&self, hashes: bool) -> Target {
        // A storage that several tensors share is written once.
        let mut places: Vec<(u64, usize, usize)> = match &self.torch {
            Some(torch) => {
                torch.storages.iter().map(|&i| (self.laid.offsets_bytes[i], i, self.outputs[i])).collect()
            }
            None => {
                (0..self.outputs.len()).map(|i| (self.laid.offsets_bytes[i], i, self.outputs[i])).collect()
            }
        };
        if self.torch.is_none() {
            places.sort_unstable();
        }
        Target {
            outputs: places.iter().map(|p| p.2).collect(),
            offsets_bytes: places.iter().map(|p| p.0).collect(),
            size_bytes: self.laid.file_size_bytes,
            checksums: self.torch.is_some(),
            hashes,
        }
    }
}

/// Files, and the indexes that name them.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) files: Vec<FilePlan>,
    pub(super) indexes: Vec<(String, Vec<u8>)>,
}

/// Names of weights that keep their stem, whatever they are written in.
const STEMS: &[&str] = &["diffusion_pytorch_model", "adapter_model"];

/// The extension and the usual stem of a container's files.
fn usual(container: Container) -> (&'static str, &'static str) {
    match container {
        Container::Safetensors => ("safetensors", "model"),
        Container::Torch => ("bin", "pytorch_model"),
        Container::Gguf => ("gguf", "model"),
    }
}

/// Lays everything out; every header is read back by our own reader.
pub(super) fn lay_out(
    model: &Model,
    draft: &Draft,
    options: &Options,
    container: Container,
    directory: bool,
) -> Result<Files> {
    let outputs = &draft.recipe.outputs;
    let mut files = Files::default();
    if !directory {
        let name = options.out.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let all: Vec<usize> = (0..outputs.len()).collect();
        let entries = outputs.iter().map(|o| entry(&o.name, o.dtype, &o.shape)).collect::<Vec<_>>();
        files.files.push(file(model, draft, options, container, name, all, &entries, (0, 1, outputs.len()))?);
        return Ok(files);
    }
    // A model of several components has a folder for each.
    let mut groups: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
    for index in 0..outputs.len() {
        let key = match container {
            Container::Gguf => (String::new(), gguf_stem(options)),
            _ => home(model, draft, index, container),
        };
        groups.entry(key).or_default().push(index);
    }
    for ((folder, stem), members) in groups {
        let inside = |name: &str| -> String {
            name.strip_prefix(&folder).and_then(|n| n.strip_prefix('/')).unwrap_or(name).to_owned()
        };
        let entries: Vec<Entry> = members
            .iter()
            .map(|&i| entry(&inside(&outputs[i].name), outputs[i].dtype, &outputs[i].shape))
            .collect();
        // An alias takes no room.
        let sizes: Vec<u64> = members
            .iter()
            .zip(&entries)
            .map(|(&i, e)| if draft.firsts[i] == i { e.size_bytes() } else { Ok(0) })
            .collect::<Result<_>>()?;
        let shards: Vec<Range<usize>> = match container {
            Container::Gguf => gguf::split(&sizes, options.split_bytes, options.split_tensors),
            _ => match options.shard_bytes {
                Some(shard_bytes) => split_together(draft, &members, &sizes, shard_bytes),
                None if model.is_gguf() => split_together(draft, &members, &sizes, SHARD_BYTES),
                None => split_as_source(model, draft, &members),
            },
        };
        let count = shards.len();
        let (extension, _) = usual(container);
        let mut map = Vec::new();
        let path = |name: String| if folder.is_empty() { name } else { format!("{folder}/{name}") };
        for (index, shard) in shards.into_iter().enumerate() {
            let name = match container {
                Container::Gguf if count > 1 => split_name(&stem, index as u32, count as u32),
                _ => layout::shard_name(&stem, extension, index, count),
            };
            map.extend(entries[shard.clone()].iter().map(|e| (e.name.clone(), name.clone())));
            let part = (index, count, outputs.len());
            files.files.push(file(
                model,
                draft,
                options,
                container,
                path(name),
                members[shard.clone()].to_vec(),
                &entries[shard],
                part,
            )?);
        }
        if count > 1 && container != Container::Gguf {
            let elements = members
                .iter()
                .zip(&sizes)
                .filter(|(_, s)| **s > 0)
                .map(|(&i, _)| outputs[i].shape.iter().fold(1u64, |n, &d| n.saturating_mul(d)));
            let total = elements.fold(0u64, u64::saturating_add);
            let bytes = sizes.iter().fold(0u64, |sum, &s| sum.saturating_add(s));
            map.sort();
            let json = layout::index_json(total, bytes, map.iter().map(|(n, f)| (n.as_str(), f.as_str())));
            files.indexes.push((path(layout::index_name(&stem, extension)), json.into_bytes()));
        }
    }
    Ok(files)
}

/// Shards of at most so many bytes, in which tensors that hold a matrix together stay together.
fn split_together(draft: &Draft, members: &[usize], sizes: &[u64], shard_bytes: u64) -> Vec<Range<usize>> {
    let matrix = |at: usize| match draft.recipe.outputs.get(members[at]).map(|o| &o.form) {
        Some(Form::Face { packed, .. }) => Some(*packed),
        _ => None,
    };
    // Where each piece that is not to be parted begins.
    let starts: Vec<usize> = (0..members.len())
        .filter(|&at| at == 0 || matrix(at).is_none() || matrix(at) != matrix(at - 1))
        .collect();
    let end = |n: usize| starts.get(n).copied().unwrap_or(members.len());
    let whole: Vec<u64> = (0..starts.len())
        .map(|n| sizes[end(n)..end(n + 1)].iter().fold(0u64, |sum, &size| sum.saturating_add(size)))
        .collect();
    let shards = layout::split_by_size(&whole, shard_bytes);
    shards.into_iter().map(|shard| end(shard.start)..end(shard.end)).collect()
}

/// A shard for each file of the source: outputs are in its order.
fn split_as_source(model: &Model, draft: &Draft, members: &[usize]) -> Vec<Range<usize>> {
    let mut shards: Vec<Range<usize>> = Vec::new();
    let mut last = None;
    for (at, &index) in members.iter().enumerate() {
        // An alias stays with what it shares.
        let file = match draft.firsts[index] == index {
            true => source_of(model, draft, index).map(|(tensor, _)| tensor.at.span.file).or(last),
            false => last,
        };
        match shards.last_mut() {
            Some(shard) if file == last => shard.end = at + 1,
            _ => shards.push(at..at + 1),
        }
        last = file;
    }
    if shards.is_empty() {
        shards.push(0..0);
    }
    shards
}

/// The first tensor that an output is made of, and its file.
fn source_of<'a>(model: &'a Model, draft: &Draft, index: usize) -> Option<(&'a Tensor, &'a FileRef)> {
    let output = &draft.recipe.outputs[index];
    // One tensor of several that hold a matrix is made of what the matrix is made of.
    let parts = match output.form {
        Form::Face { packed, .. } => &draft.recipe.packed.get(packed)?.matrix.parts,
        _ => &output.parts,
    };
    let source = &draft.recipe.values.get(parts.first()?.value)?.source;
    if matches!(source, Source::Joined(_)) {
        return None;
    }
    let tensor = model.table.tensors.get(*source.tensors().first()?)?;
    Some((tensor, model.table.files.get(tensor.at.span.file.index())?))
}

fn entry(name: &str, dtype: crate::dtype::DType, shape: &[u64]) -> Entry {
    Entry { name: name.to_owned(), dtype, shape: shape.to_vec() }
}

/// OUT's name without what is said by the files' own.
fn gguf_stem(options: &Options) -> String {
    let name = options.out.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    match name.strip_suffix(".gguf").unwrap_or(&name) {
        "" | ".." => "model".to_owned(),
        stem => stem.to_owned(),
    }
}

/// The folder and stem of the file that an output's first source lies in.
fn home(model: &Model, draft: &Draft, index: usize, container: Container) -> (String, String) {
    let (_, stem) = usual(container);
    let file = source_of(model, draft, index);
    let Some((tensor, file)) = file else { return (String::new(), stem.to_owned()) };
    let (folder, name) = file.name.rsplit_once('/').unwrap_or(("", &file.name));
    let is_component =
        !folder.is_empty() && tensor.name.strip_prefix(folder).is_some_and(|n| n.starts_with('/'));
    let kept = STEMS.iter().find(|s| name.starts_with(*s));
    let folder = if is_component { folder } else { "" };
    (folder.to_owned(), kept.copied().unwrap_or(stem).to_owned())
}

#[allow(clippy::too_many_arguments)]
fn file(
    model: &Model,
    draft: &Draft,
    options: &Options,
    container: Container,
    name: String,
    outputs: Vec<usize>,
    entries: &[Entry],
    (index, count, total): (usize, usize, usize),
) -> Result<FilePlan> {
    let in_file = |e: Error| e.file(name.as_str());
    let mut sealed = None;
    let laid = match container {
        Container::Safetensors => {
            let mut laid = safetensors::lay_out(entries, &draft.metadata, None).map_err(in_file)?;
            if let Some(phase) = phase(model, draft, &outputs, &laid) {
                laid = safetensors::lay_out(entries, &draft.metadata, Some(phase)).map_err(in_file)?;
            }
            safetensors::check(&laid, entries).map_err(in_file)?;
            laid
        }
        Container::Gguf => {
            let keys = gguf::split_meta(&draft.keys, index, count, total)?;
            let laid = gguf::lay_out(entries, &keys, options.alignment).map_err(in_file)?;
            gguf::check(&laid, entries).map_err(in_file)?;
            laid
        }
        Container::Torch => {
            let place: BTreeMap<usize, usize> = outputs.iter().enumerate().map(|(at, &o)| (o, at)).collect();
            let firsts: Vec<usize> = outputs
                .iter()
                .enumerate()
                .map(|(at, &o)| place.get(&draft.firsts[o]).copied().unwrap_or(at))
                .collect();
            let file_name = name.rsplit('/').next().unwrap_or(&name);
            let stem = file_name.rsplit_once('.').map_or(file_name, |(stem, _)| stem);
            let torch = torch::lay_out(entries, &firsts, stem).map_err(in_file)?;
            torch::check(&torch, entries).map_err(in_file)?;
            let laid = torch.laid.clone();
            sealed = Some(torch);
            laid
        }
    };
    Ok(FilePlan { name, outputs, laid, torch: sealed })
}

/// Where the first tensor lies within the source's blocks, when both are safetensors: a copy between equal places can
/// share blocks instead of copying them, and so can the copies of what follows it in both. Sources whose tensors are not
/// even aligned to eight bytes are not worth imitating.
fn phase(model: &Model, draft: &Draft, outputs: &[usize], laid: &Laid) -> Option<u64> {
    let (_, first) = laid.offsets_bytes.iter().zip(outputs).min()?;
    let output = &draft.recipe.outputs[*first];
    let [part] = output.parts.as_slice() else { return None };
    let Source::Tensor(tensor) = draft.recipe.values.get(part.value)?.source else { return None };
    let tensor = model.table.tensors.get(tensor)?;
    let file = model.table.files.get(tensor.at.span.file.index())?;
    let at = tensor.at.span.offset_bytes;
    let same =
        file.container == Container::Safetensors && tensor.dtype == output.dtype && at.is_multiple_of(8);
    same.then_some(at)
}

/// A hash of everything that decides the output's bytes but the sources themselves.
pub(super) fn hash(
    draft: &Draft,
    files: &[FilePlan],
    companions: &[super::Companion],
    options: &Options,
) -> String {
    /// Feeds what is formatted to a hash, so that no text of the whole is ever made.
    struct Sink(Xxh3);
    impl std::fmt::Write for Sink {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.update(text.as_bytes());
            Ok(())
        }
    }
    let mut sink = Sink(Xxh3::new());
    let mut add = |what: std::fmt::Arguments<'_>| {
        // Writing to a hash does not fail.
        let _ = std::fmt::Write::write_fmt(&mut sink, what);
    };
    add(format_args!("{:?} ", options.saturate));
    // Importance as it lies: as text it would take seconds in a large model.
    let digest = |weights: &[f32]| {
        let mut hash = Xxh3::new();
        weights.iter().for_each(|x| hash.update(&x.to_le_bytes()));
        hash.digest128()
    };
    for output in &draft.recipe.outputs {
        match &output.form {
            Form::Weighed(weights) => {
                let plain = Output { form: Form::Plain, ..output.clone() };
                add(format_args!("{plain:?} {}", digest(weights)));
            }
            _ => add(format_args!("{output:?}")),
        }
    }
    for packed in &draft.recipe.packed {
        let p = &packed.packing;
        add(format_args!("{:?} {} {} {} {}", packed.matrix, p.layout.name, p.bits, p.group_columns, p.dtype));
        let weights = packed.quantiser.importance.as_deref().map(digest);
        let quantiser = Quantiser { importance: None, ..packed.quantiser.clone() };
        add(format_args!("{quantiser:?} {weights:?} {:?}", packed.outputs));
    }
    add(format_args!("{:?}", options.quantize.as_ref().map(|q| q.zero_odd)));
    for value in &draft.recipe.values {
        add(format_args!("{value:?}"));
    }
    for file in files {
        add(format_args!("{} {} ", file.name, file.laid.file_size_bytes));
        for (at, bytes) in &file.laid.fixed {
            add(format_args!("{at} {:x} ", xxhash_rust::xxh3::xxh3_128(bytes)));
        }
    }
    for companion in companions {
        add(format_args!("{companion:?}"));
    }
    format!("{:032x}", sink.0.digest128())
}
