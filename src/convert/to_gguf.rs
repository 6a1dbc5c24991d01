//! A Hugging Face checkpoint as a GGUF, and a GGUF with other keys.

use super::Options;
use super::draft::Draft;
use crate::checkpoint::{Container, MetaValue};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::open::Model;
use crate::run::examine;
use crate::source::local::LocalPlace;
use crate::source::{Place, ReadAt};
use crate::text::Shown;
use crate::transform::arch::families::{self, Sizes};
use crate::transform::arch::keys::{self, Extra, Parameters, Pooling};
use crate::transform::arch::translate::{self, Want};
use crate::transform::recipe::{Output, Recipe};
use crate::transform::select::Selection;
use crate::transform::vocab;
use serde_json::Value as Json;
use std::path::Path;

/// The largest tokenizer file that is read: the largest in use have some 35 MB.
const TOKENIZER_BYTES_MAX: u64 = 256 << 20;
/// The embedding's name, whose rows decide the vocabulary's size.
const EMBEDDING: &str = "token_embd.weight";
/// What says how text becomes one vector, in sentence-transformers' layout.
const POOLING: &str = "1_Pooling/config.json";

/// Translates by the family's rows.
pub(super) fn draft(model: &Model, options: &Options) -> Result<Draft> {
    let mut draft = Draft::default();
    let config = model.json("config.json")?.ok_or_else(|| {
        Error::not_found("there is no config.json beside the weights, so the family is not known")
            .hint("--raw writes the tensors alone, which no engine runs")
    })?;
    let family = families::of_config_for_gguf(&config)?;
    let sizes = Sizes::of_config(&config).map_err(|e| e.file("config.json"))?;
    let all = model.values(Some(&config))?;
    draft.notes.extend(all.notes);
    let want = options.dtype.map_or(Want::Own, Want::Type);
    let selection = Selection::new(&options.include, &options.exclude)?;
    let names: Vec<String> = all.values.iter().map(|v| v.name.clone()).collect();
    let mut kept = all.values;
    // What no row knows can be left out by the name that the checkpoint gives it.
    kept.retain(|v| !selection.excludes(&v.name));
    let mut recipe = translate::to_gguf(kept.clone(), family, &sizes, &config, want)?;
    let mut parted = None;
    for &pair in &recipe.equal {
        if !examine::equal(model, &recipe, pair)? {
            parted = Some(pair.0);
        }
    }
    if let Some(head) = parted {
        // Said to be tied, and it is not: what the file holds counts.
        let name = Shown(&recipe.values[head].name).to_string();
        draft
            .notes
            .push(format!("`{name}` differs from the embedding, though the config ties them: it is written"));
        recipe = translate::to_gguf(kept, family, &sizes, &untied(&config), want)?;
    }
    recipe.left_out.extend(all.left_out);
    let embedding_rows = rows(&recipe.outputs);
    select(&mut recipe, &selection, &names)?;
    let generation = model.json("generation_config.json")?;
    let card = model
        .companion("README.md", super::draft::JSON_BYTES_MAX)?
        .map(|b| String::from_utf8_lossy(&b).into_owned());
    let pooling = match model.companion(POOLING, super::draft::JSON_BYTES_MAX)? {
        Some(bytes) => {
            let pooling = serde_json::from_slice(&bytes)
                .map_err(|e| Error::bad_input(format!("is not JSON: {e}")).file(POOLING))?;
            Some(Pooling::from_config(&pooling).map_err(|e| e.file(POOLING))?)
        }
        None => None,
    };
    let extra = Extra {
        name: &model.name,
        vocab_rows: embedding_rows,
        parameters: parameters(&recipe.outputs),
        file_type: file_type(&recipe.outputs, options.dtype),
        prediction_layers: 0,
        pooling,
        generation_config: generation.as_ref(),
        model_card: card.as_deref(),
    };
    let made = keys::to_gguf(family.gguf, &config, &extra).map_err(|e| match e.file_name() {
        None => e.file("config.json"),
        Some(_) => e,
    })?;
    draft.keys = made.entries;
    draft.notes.extend(made.notes);
    draft.embedding_rows = embedding_rows;
    // Another one may be taken because this one is missing or unknown.
    if options.tokenizer_from.is_none() {
        let source = Files::of(model);
        let mut made =
            vocabulary(&source, family.gguf, &config, generation.as_ref(), embedding_rows, options)?;
        if options.chat_template.is_some() {
            made.notes.retain(|note| !note.contains("no chat template"));
        }
        draft.take_vocabulary(made);
    }
    draft.recipe = recipe;
    Ok(draft)
}

impl Draft {
    fn take_vocabulary(&mut self, vocabulary: vocab::ToGguf) {
        self.keys.retain(|(key, _)| !key.starts_with("tokenizer."));
        self.keys.extend(vocabulary.keys);
        self.vocabulary = Some(vocabulary.summary);
        self.chat_template = vocabulary.template;
        self.notes.extend(vocabulary.notes);
    }
}

/// Companion files by name, from wherever.
struct Files<'a> {
    place: &'a dyn Place,
    names: Vec<String>,
}

impl<'a> Files<'a> {
    fn of(model: &'a Model) -> Files<'a> {
        let mut names: Vec<String> = model.entries.iter().map(|e| e.name.clone()).collect();
        for folder in model.entries.iter().filter(|e| e.is_directory && e.name == "additional_chat_templates")
        {
            let inner = model.place.list(&folder.name).unwrap_or_default();
            names.extend(inner.into_iter().map(|e| e.name));
        }
        Files { place: &*model.place, names }
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        if !self.names.iter().any(|n| n == name) {
            return Ok(None);
        }
        let file = self.place.open(name)?;
        let size_bytes = file.size_bytes();
        if size_bytes > TOKENIZER_BYTES_MAX {
            return Err(Error::unsupported(format!("has {}", crate::text::bytes(size_bytes))).file(name));
        }
        let mut bytes = vec![0; usize::try_from(size_bytes).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0).map_err(|e| e.file(name))?;
        Ok(Some(bytes))
    }
}

fn vocabulary(
    files: &Files<'_>,
    arch: &str,
    config: &Json,
    generation_config: Option<&Json>,
    embedding_rows: u64,
    options: &Options,
) -> Result<vocab::ToGguf> {
    let names = &files.names;
    let pre = options.tokenizer_pre.as_deref();
    let wanted = vocab::Options { arch, config, generation_config, embedding_rows, pre, names };
    vocab::to_gguf(&|name| files.read(name), &wanted)
}

/// Leaves out what the patterns do not take. Their names are those that are written; to leave out, the source's too.
pub(super) fn select(recipe: &mut Recipe, selection: &Selection, source: &[String]) -> Result<()> {
    if selection.is_all() {
        return Ok(());
    }
    let written = recipe.outputs.iter().map(|o| o.name.as_str());
    let mut picked = selection.pick_names(written.chain(source.iter().map(String::as_str)))?;
    picked.retain(|&index| index < recipe.outputs.len());
    if picked.is_empty() {
        let example = recipe.outputs.first().map_or(String::new(), |o| Shown(&o.name).to_string());
        return Err(Error::not_found("the patterns leave no tensor")
            .hint(format!("they are for the names that are written, like `{example}`")));
    }
    let mut index = 0;
    recipe.outputs.retain(|_| {
        index += 1;
        picked.binary_search(&(index - 1)).is_ok()
    });
    recipe.notes.push("some tensors are left out: no engine will run it as it is".into());
    Ok(())
}

fn untied(config: &Json) -> Json {
    let mut config = config.clone();
    for place in ["", "text_config", "llm_config", "language_config"] {
        let part = if place.is_empty() { Some(&mut config) } else { config.get_mut(place) };
        if let Some(part) = part.and_then(Json::as_object_mut) {
            part.insert("tie_word_embeddings".into(), false.into());
        }
    }
    config
}

/// Rows of the embedding.
fn rows(outputs: &[Output]) -> u64 {
    outputs.iter().find(|o| o.name == EMBEDDING).and_then(|o| o.shape.first().copied()).unwrap_or(0)
}

fn parameters(outputs: &[Output]) -> Parameters {
    let mut parameters = Parameters::default();
    outputs.iter().for_each(|o| parameters.add(&o.name, &o.shape));
    parameters
}

/// `general.file_type`: the type that was asked for, else the one with most bytes.
fn file_type(outputs: &[Output], wanted: Option<DType>) -> u32 {
    let mut sums: Vec<(DType, u64)> = Vec::new();
    for output in outputs {
        let size = output.size_bytes().unwrap_or(0);
        match sums.iter_mut().find(|(d, _)| *d == output.dtype) {
            Some((_, sum)) => *sum = sum.saturating_add(size),
            None => sums.push((output.dtype, size)),
        }
    }
    let packed = sums.iter().any(|(d, _)| *d == DType::MXFP4).then_some(DType::MXFP4);
    let most = sums.iter().max_by_key(|(_, size)| *size).map(|(d, _)| *d);
    // A packing that was asked for has the name; floats beside experts that stay packed have not.
    let asked = wanted.filter(|d| !d.is_float());
    asked.or(packed).or(wanted).or(most).and_then(keys::file_type).unwrap_or(0)
}

/// The type of a tensor that is written under a name of its own: what a GGUF keeps as f32 stays so.
pub(super) fn type_for(to: Container, wanted: DType, name: &str, shape: &[u64]) -> DType {
    if to != Container::Gguf {
        return wanted;
    }
    let block = u64::from(wanted.facts().block_elements);
    if translate::stays_f32(name, shape) {
        DType::F32
    } else if shape.last().is_some_and(|n| n.is_multiple_of(block)) {
        wanted
    } else {
        DType::F16
    }
}

/// The keys of a GGUF whose tensors keep their names: the source's.
pub(super) fn keys_of(model: &Model, options: &Options, recipe: &Recipe) -> Result<Vec<(String, MetaValue)>> {
    let mut keys: Vec<(String, MetaValue)> = Vec::new();
    if !model.is_gguf() {
        let name = [("general.architecture", "unknown"), ("general.name", &model.name)];
        keys.extend(name.map(|(k, v)| (k.to_owned(), MetaValue::from(v))));
        keys.push(("general.file_type".into(), MetaValue::U32(file_type(&recipe.outputs, options.dtype))));
        return Ok(keys);
    }
    for (key, value, file) in &model.table.meta.entries {
        // Of a split model the first file has them all; a splitting is never inherited.
        if file.index() == 0 && !key.starts_with("split.") {
            keys.push((key.clone(), value.clone()));
        }
    }
    if options.dtype.is_some() {
        put(&mut keys, "general.file_type", MetaValue::U32(file_type(&recipe.outputs, options.dtype)));
    }
    Ok(keys)
}

fn put(keys: &mut Vec<(String, MetaValue)>, key: &str, value: MetaValue) {
    match keys.iter_mut().find(|(k, _)| k == key) {
        Some((_, old)) => *old = value,
        None => keys.push((key.to_owned(), value)),
    }
}

/// What the user wants changed: another tokenizer, another template, single keys.
pub(super) fn edit_keys(draft: &mut Draft, options: &Options) -> Result<()> {
    if let Some(directory) = &options.tokenizer_from {
        let arch = draft.keys.iter().find(|(k, _)| k == "general.architecture").and_then(|(_, v)| v.as_str());
        let arch = arch.unwrap_or_default().to_owned();
        let place = LocalPlace::new(directory.as_path());
        let entries = place.list("").map_err(|e| e.file(directory.display().to_string()))?;
        let files = Files { place: &place, names: entries.into_iter().map(|e| e.name).collect() };
        let read = |name: &str| -> Result<Option<Json>> {
            let Some(bytes) = files.read(name)? else { return Ok(None) };
            serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|e| Error::bad_input(format!("is not JSON: {e}")).file(name))
        };
        let config = read("config.json")?.unwrap_or_else(|| Json::Object(Default::default()));
        let generation = read("generation_config.json")?;
        let rows = match draft.embedding_rows {
            0 => rows(&draft.recipe.outputs),
            known => known,
        };
        let vocabulary =
            vocabulary(&files, &arch, &config, generation.as_ref(), rows, options).map_err(|e| {
                match e.file_name() {
                    Some(name) => {
                        let path = directory.join(name).display().to_string();
                        e.file(path)
                    }
                    None => e.file(directory.display().to_string()),
                }
            })?;
        draft.take_vocabulary(vocabulary);
    }
    if let Some(path) = &options.chat_template {
        let text = read_text(path)?;
        put(&mut draft.keys, vocab::CHAT_TEMPLATE, text.as_str().into());
        draft.chat_template = Some(path.display().to_string());
    }
    for key in &options.unset {
        let before = draft.keys.len();
        draft.keys.retain(|(k, _)| k != key);
        if draft.keys.len() == before {
            return Err(Error::not_found(format!("there is no key `{}` to leave out", Shown(key)))
                .detail("a key is left out by its whole name"));
        }
    }
    if draft.keys.iter().all(|(key, _)| key != "general.architecture") {
        return Err(Error::usage("a GGUF without `general.architecture` is one that nothing opens"));
    }
    for (key, value) in &options.meta {
        let old = draft.keys.iter().find(|(k, _)| k == key).map(|(_, old)| old);
        if let Some(old) = old.filter(|old| std::mem::discriminant(*old) != std::mem::discriminant(value)) {
            return Err(Error::usage(format!("`{}` is of another type: {}", Shown(key), type_name(old)))
                .hint(format!("--meta '{}={}:VALUE'", Shown(key), type_name(old))));
        }
        put(&mut draft.keys, key, value.clone());
    }
    Ok(())
}

/// The type of a key's value, as `--meta` names it.
fn type_name(value: &MetaValue) -> String {
    match value {
        MetaValue::U8(_) => "u8".into(),
        MetaValue::I8(_) => "i8".into(),
        MetaValue::U16(_) => "u16".into(),
        MetaValue::I16(_) => "i16".into(),
        MetaValue::U32(_) => "u32".into(),
        MetaValue::I32(_) => "i32".into(),
        MetaValue::U64(_) => "u64".into(),
        MetaValue::I64(_) => "i64".into(),
        MetaValue::F32(_) => "f32".into(),
        MetaValue::F64(_) => "f64".into(),
        MetaValue::Bool(_) => "bool".into(),
        MetaValue::Text(_) => "str".into(),
        MetaValue::Array(array) => format!("arr[{}]", array.kind.name()),
        MetaValue::Null => "nothing".into(),
    }
}

fn read_text(path: &Path) -> Result<String> {
    let shown = path.display().to_string();
    let file = crate::source::local::LocalFile::open(path)?;
    if file.size_bytes() > super::draft::JSON_BYTES_MAX {
        return Err(Error::unsupported("is too large for a chat template").file(shown));
    }
    let mut bytes = vec![0; usize::try_from(file.size_bytes()).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0).map_err(|e| e.file(shown.as_str()))?;
    String::from_utf8(bytes).map_err(|_| Error::bad_input("is not UTF-8").file(shown))
}
