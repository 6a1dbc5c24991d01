//! Quantising as it is converted: which outputs of a draft become codes and scales, under which names, and what the config
//! says of it.
//!
//! A draft arrives with plain matrices under Hugging Face's names. Experts that lie in one tensor are taken apart first, into
//! the names that engines read (`pack/experts.rs`); then each matrix is either a linear layer of the decoder that fits the
//! scheme, and becomes the tensors of its layout, or stays as it is. What an engine fuses when it loads stays or goes
//! together.

mod blocks;
mod config;
mod experts;
mod mlx;
mod torchao;
mod weighing;

pub(super) use config::insert;

use super::draft::Draft;
use super::{Options, draft::ConfigEdit};
use crate::dtype::{Class, DType};
use crate::error::{Error, Result};
use crate::open::Model;
use crate::text::{Shown, grouped};
use crate::transform::arch::{self, Cut, Form as Laid, Group, Part as Of};
use crate::transform::block;
use crate::transform::config::Description;
use crate::transform::importance::Importance;
use crate::transform::mixture::Mixture;
use crate::transform::packing::Content;
use crate::transform::recipe::{Form, Output, Packed, Source, Value};
use crate::transform::scheme::{self, Asked, Config, Named, Scheme, Settled, Stays};
use crate::transform::select::Selection;
use mlx::Rules;
use serde_json::Value as Json;
use std::collections::HashMap;
use std::sync::Arc;
use weighing::Weighing;

/// How a model is to be quantised.
#[derive(Debug, Clone)]
pub struct Quantize {
    /// Into what.
    pub scheme: Named,
    /// What was asked for within it.
    pub asked: Asked,
    /// Patterns of names that stay.
    pub keep: Vec<String>,
    /// Patterns of names that are quantised too.
    pub also: Vec<String>,
    /// Refuse what does not fit instead of keeping it.
    pub strict: bool,
    /// Take NaN and infinity for zero.
    pub zero_odd: bool,
    /// Dequantise what is quantised already.
    pub requantize: bool,
    /// How much the error of each input channel counts.
    pub importance: Option<Arc<Importance>>,
    /// Block types, where a person chooses them.
    pub blocks: BlockTypes,
}

/// Block types that a person chooses, before the rules of a mixture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockTypes {
    /// Patterns of names, and the type of what they match; the first that matches counts.
    pub tensors: Vec<(String, DType)>,
    /// Of the head.
    pub output: Option<DType>,
    /// Of the embedding.
    pub embedding: Option<DType>,
    /// No rules: all of the mixture's own type.
    pub pure: bool,
}

/// Floats that weights are in.
const FLOATS: &[DType] = &[DType::F32, DType::F16, DType::BF16];

/// What was chosen.
#[derive(Debug, Clone, PartialEq)]
pub enum Chosen {
    /// Codes and scales, every choice made.
    Matrices(Settled),
    /// Blocks.
    Blocks(&'static Mixture),
}

/// A tensor that is quantised.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantised {
    /// Its name before.
    pub name: String,
    /// Its sizes, outermost first.
    pub shape: Vec<u64>,
    /// What it becomes: a layout's name, or a block type's.
    pub form: String,
    /// Bytes that it had.
    pub before_bytes: u64,
    /// Bytes of what holds it now.
    pub after_bytes: u64,
}

/// What was decided.
#[derive(Debug, Clone)]
pub struct Decided {
    /// The scheme, every choice made.
    pub chosen: Chosen,
    /// Whether the model has experts.
    pub experts: bool,
    /// What is quantised, in the order in which it is written.
    pub quantised: Vec<Quantised>,
    /// Matrices that stay, and why.
    pub kept: Vec<(String, Why)>,
}

/// Why a matrix stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// It is of a kind that stays: embeddings, head, router …
    Kind(&'static str),
    /// A person said so.
    Asked,
    /// Its sizes do not fit the scheme.
    Misfit(String),
    /// An engine fuses it with one that stays.
    Fused(String),
}

/// Projections that engines read as one: the last parts of their names.
const FUSED: &[&[&str]] = &[
    &["q_proj", "k_proj", "v_proj"],
    &["gate_proj", "up_proj"],
    &["w1", "w3"],
    &["wq", "wk", "wv"],
    &["query", "key", "value"],
    &["q_a_proj", "kv_a_proj_with_mqa"],
];

/// Changes the draft.
///
/// # Errors
/// `Usage`: what the scheme does not have; patterns for what is never quantised; with `strict` sizes that do not fit; a group
/// size or patterns to keep that leave nothing to quantise. `Unsupported`: a model that is quantised already, or has no linear
/// layers that are known; experts of an unknown family. `NotFound`: no config; a pattern that matches nothing. `BadInput`: an
/// importance of another model.
pub(super) fn pack(model: &Model, options: &Options, asked: &Quantize, draft: &mut Draft) -> Result<Decided> {
    let scheme = match asked.scheme {
        Named::Matrices(scheme) => scheme,
        Named::Blocks(mixture) => return blocks::blocks(model, mixture, asked, draft),
    };
    if asked.blocks != BlockTypes::default() {
        return Err(Error::usage("types of single tensors are for the schemes of GGUF")
            .hint("--scheme q4_k_m with --tensor-type, --output-type, --embedding-type or --pure"));
    }
    if !options.makes_directory() {
        return Err(Error::usage("a quantised model is a directory: its config says how it is to be read")
            .hint("an OUT without an extension"));
    }
    let made = draft.texts.iter().find(|(name, _)| name == "config.json");
    let config: Json = match made {
        Some((_, bytes)) => serde_json::from_slice(bytes).ok(),
        None => model.json("config.json")?,
    }
    .filter(Json::is_object)
    .ok_or_else(|| {
        Error::not_found("there is no config.json, in which it would be said how the weights are quantised")
            .hint("name the model's directory")
    })?;
    if !asked.requantize {
        draft.recipe.outputs.iter().try_for_each(|o| refuse_quantised(o, &draft.recipe.values))?;
    }
    let about = Description::from_config(&config);
    experts::take_apart(draft, &config, about.layers)?;
    let rules = (scheme.stays == Stays::Mlx).then(|| Rules::of(&config));
    if let Some(rules) = rules {
        mlx::stack(draft, rules, about.layers)?;
    }
    let choice = Choice { layers: about.layers, rules };
    let chosen = choose(draft, scheme, asked, &choice)?;
    let experts = chosen.iter().map(|&i| &draft.recipe.outputs[i]);
    let experts = experts.into_iter().any(|o| is_expert(&o.name) || mlx::is_stack(&o.name, &o.shape));
    let dtype = main_dtype(draft, &chosen, &about);
    let settled = scheme.settle(&asked.asked, dtype, experts)?;
    let how = How { eight: rules.map(|rules| (rules, settled.in_eight_bits())), settled: &settled };
    let kept = fit(draft, &how, asked, &chosen)?;
    let mut decided = Decided {
        chosen: Chosen::Matrices(settled.clone()),
        experts,
        quantised: Vec::new(),
        kept: Vec::new(),
    };
    let mut weighing = match &asked.importance {
        Some(importance) => Some(Weighing::new(importance, &settled, &config)?),
        None => None,
    };
    write_faces(draft, &mut decided, &how, &choice, &chosen, &kept, weighing.as_mut())?;
    if draft.recipe.packed.is_empty() {
        let why = decided.kept.iter().find_map(|(name, why)| match why {
            Why::Misfit(why) => Some(format!("`{}`: {why}", Shown(name))),
            _ => None,
        });
        let asked_for = decided.kept.iter().any(|(_, why)| *why == Why::Asked);
        return Err(match why {
            Some(why) => Error::usage("the group size fits no tensor of the model").detail(why),
            None if asked_for => Error::usage("--keep keeps every linear layer of the model"),
            None => Error::unsupported("holds no linear layers that hoist knows to quantise")
                .hint("--also 'GLOB' names them; hoist inspect MODEL --tree shows the names"),
        });
    }
    if let Some(weighing) = weighing {
        draft.notes.push(weighing.finish()?);
    }
    let ignored = ignored(draft, &config, &settled);
    let said = config::of(&settled, &ignored, &draft.recipe.packed);
    if said.get("dynamic").is_some() && said.get(config::GPTQ_MODULES).is_none() {
        draft.notes.push(
            "transformers does not open GPTQ where a projection is quantised in some layers only; gptqmodel does".into(),
        );
    }
    draft.config = ConfigEdit { quantization: Some(said.clone()), ..std::mem::take(&mut draft.config) };
    if let Some((_, bytes)) = draft.texts.iter_mut().find(|(name, _)| name == "config.json") {
        let mut config = config;
        insert(&mut config, &said);
        *bytes = config::text(&config)?;
    }
    if settled.scheme.config == Config::TorchAo {
        torchao::add_metadata(draft, &settled);
    }
    if settled.scheme.config == Config::Gptq {
        draft.texts.push(("quantize_config.json".into(), config::text(&said)?));
    }
    Ok(decided)
}

/// Whether a value is quantised already. Floats of eight bits with their scales are what their makers publish, and are only
/// widened.
fn is_quantised(value: &Value) -> bool {
    match &value.source {
        Source::Packed(_) | Source::Mxfp4 { .. } => true,
        Source::Scaled { .. } => false,
        _ => value.dtype.facts().class == Class::Block,
    }
}

/// Refuses what is made of codes: they are quantised again only where a person says so.
fn refuse_quantised(output: &Output, values: &[Value]) -> Result<()> {
    let mut values = output.parts.iter().filter_map(|p| values.get(p.value));
    let Some(value) = values.find(|v| is_quantised(v)) else { return Ok(()) };
    Err(Error::unsupported(format!("is quantised already, as {}", value.stored_as()))
        .tensor(&value.name)
        .hint("the unquantised original gives a better model; --requantize dequantises this one first"))
}

/// The module that a matrix belongs to.
fn module(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap_or(name)
}

/// The number after `layers.` (or what it is called) in a name.
fn layer(name: &str) -> Option<u64> {
    let mut segments = name.split('.');
    segments.find(|s| matches!(*s, "layers" | "h" | "layer"))?;
    segments.next()?.parse().ok()
}

/// Whether it is part of one of several experts.
fn is_expert(name: &str) -> bool {
    name.split('.').any(|segment| segment == "experts")
}

/// Why a matrix stays, by its name and sizes; `None` for a linear layer of the decoder.
fn stays(name: &str, shape: &[u64], layers: Option<u64>) -> Option<&'static str> {
    let Some((row, part)) = arch::find(name) else { return Some("of no known kind") };
    if part != Of::Weight || shape.len() != 2 {
        return Some("no matrix of a linear layer");
    }
    if layer(name).zip(layers).is_some_and(|(layer, layers)| layer >= layers) {
        return Some("multi-token prediction");
    }
    match (row.group, row.cut, row.form) {
        (Group::Embedding, ..) => Some("embedding"),
        (Group::Head, ..) => Some("head"),
        (Group::Norms, ..) => Some("norm"),
        (Group::Other, ..) => Some("of no known kind"),
        // Of what belongs to experts only what chooses among them is whole on every rank.
        (Group::Experts, Cut::Whole, _) => Some("router"),
        (_, Cut::Refused(_), _) => Some("linear attention"),
        (_, _, Laid::Linear) => None,
        _ => Some("not a linear layer"),
    }
}

/// What decides whether a matrix stays.
struct Choice<'a> {
    /// The model's layers; what comes behind them is multi-token prediction.
    layers: Option<u64>,
    /// mlx-lm's rules, where they count.
    rules: Option<&'a Rules>,
}

impl Choice<'_> {
    /// Why a tensor stays.
    fn stays(&self, output: &Output) -> Option<&'static str> {
        let why = stays(&output.name, &output.shape, self.layers);
        let Some(rules) = self.rules else { return why };
        match why {
            Some("embedding" | "head") => None,
            Some("router") if rules.linear_routers => None,
            Some(_) if mlx::is_stack(&output.name, &output.shape) => None,
            why => why,
        }
    }
}

/// How matrices are quantised: all alike, but for what has eight bits by mlx-lm's rules.
struct How<'a> {
    settled: &'a Settled,
    eight: Option<(&'a Rules, Settled)>,
}

impl How<'_> {
    /// How this one is.
    fn of(&self, name: &str) -> &Settled {
        match &self.eight {
            Some((rules, eight)) if rules.is_eight(module(name)) => eight,
            _ => self.settled,
        }
    }
}

/// Rows and columns of a matrix, or of a stack of them one below the other.
fn sizes(shape: &[u64]) -> Option<(u64, u64)> {
    let (&columns, outer) = shape.split_last()?;
    let rows = outer.iter().try_fold(1u64, |n, &size| n.checked_mul(size))?;
    matches!(shape.len(), 2 | 3).then_some((rows, columns))
}

/// The outputs that are to be quantised, in their order.
fn choose(draft: &Draft, scheme: &Scheme, asked: &Quantize, choice: &Choice<'_>) -> Result<Vec<usize>> {
    let outputs = &draft.recipe.outputs;
    let names = || outputs.iter().map(|o| o.name.as_str());
    let pick = |globs: &[String]| match globs {
        [] => Ok(Vec::new()),
        globs => Selection::new(globs, &[])?.pick_names(names()),
    };
    let also = pick(&asked.also)?;
    // A pattern to keep that matches nothing is a typing mistake too.
    pick(&asked.keep)?;
    for &index in &also {
        let output = &outputs[index];
        let is_matrix = output.shape.len() == 2 && output.name.ends_with(".weight");
        let is_float = output.dtype.is_float();
        let is_turned = arch::find(&output.name).is_some_and(|(row, _)| row.form == Laid::Conv);
        if !is_matrix || !is_float || is_turned || arch::group(&output.name) == Group::Embedding {
            let what = if is_turned { "a Conv1D, `[in, out]`" } else { "no linear layer" };
            return Err(Error::usage(format!("is {what}, and cannot be quantised as a linear layer"))
                .tensor(&output.name)
                .hint("a narrower pattern for --also; --scheme q4_k_m, a GGUF, quantises all matrices"));
        }
        if scheme.config.keeps_head() && arch::group(&output.name) == Group::Head {
            return Err(Error::usage(format!(
                "is the head, which readers of `{}` take as it is",
                scheme.name
            ))
            .tensor(&output.name)
            .hint("--scheme int4 or gptq, or a GGUF"));
        }
    }
    let linear = |index: &usize| {
        let output = &outputs[*index];
        output.dtype.is_float() && choice.stays(output).is_none()
    };
    Ok((0..outputs.len()).filter(|i| linear(i) || also.binary_search(i).is_ok()).collect())
}

/// The type of the model: what its config says, else what most of the numbers are.
fn main_dtype(draft: &Draft, chosen: &[usize], about: &Description) -> DType {
    let is_model = |d: &DType| FLOATS.contains(d);
    about.dtype.filter(is_model).unwrap_or_else(|| {
        let mut sums: HashMap<DType, u64> = HashMap::new();
        for &index in chosen {
            let output = &draft.recipe.outputs[index];
            let sum = sums.entry(output.dtype).or_default();
            *sum = sum.saturating_add(output.size_bytes().unwrap_or(0));
        }
        let most = sums.into_iter().filter(|(d, _)| is_model(d)).max_by_key(|&(dtype, sum)| (sum, dtype));
        most.map_or(DType::BF16, |(dtype, _)| dtype)
    })
}

/// What an engine reads as one: the same text for all of its members.
fn fused_key(name: &str) -> Option<String> {
    let module = module(name);
    if let Some((layer, _)) = module.split_once(".experts.") {
        return Some(format!("{layer}.experts"));
    }
    projections(module)
}

/// Of one layer, or one expert, what engines read as one matrix.
fn projections(module: &str) -> Option<String> {
    let (parent, last) = module.rsplit_once('.')?;
    let set = FUSED.iter().position(|set| set.contains(&last))?;
    Some(format!("{parent} {set}"))
}

/// Matrices whose scales have a number in common: engines have one for what they read as one matrix.
fn sharing(packed: &[Packed]) -> Vec<Vec<usize>> {
    let mut sets: Vec<Vec<usize>> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (index, one) in packed.iter().enumerate() {
        if one.packing.layout.find(Content::Global).is_none() {
            continue;
        }
        let module = module(&one.matrix.name);
        let key = projections(module).unwrap_or_else(|| module.to_owned());
        let place = *places.entry(key).or_insert_with(|| {
            sets.push(Vec::new());
            sets.len() - 1
        });
        sets[place].push(index);
    }
    sets
}

/// Of the chosen those that stay after all, and why.
fn fit(draft: &Draft, how: &How<'_>, asked: &Quantize, chosen: &[usize]) -> Result<HashMap<usize, Why>> {
    let keep = Selection::new(&[], &asked.keep)?;
    let mut kept: HashMap<usize, Why> = HashMap::new();
    let mut sets: HashMap<String, usize> = HashMap::new();
    for &index in chosen {
        let output = &draft.recipe.outputs[index];
        let Some((rows, columns)) = sizes(&output.shape) else { continue };
        let settled = how.of(&output.name);
        let why = match settled.misfit(rows, columns) {
            _ if keep.excludes(&output.name) => Why::Asked,
            Some(why) if asked.strict => {
                return Err(Error::usage(format!(
                    "does not fit `{}`, {}: {why}",
                    settled.scheme.name,
                    settled.group_text()
                ))
                .tensor(&output.name)
                .hint("without --strict it is kept as it is"));
            }
            Some(why) => Why::Misfit(why),
            None => continue,
        };
        if let Some(key) = fused_key(&output.name) {
            sets.entry(key).or_insert(index);
        }
        kept.insert(index, why);
    }
    for &index in chosen {
        if kept.contains_key(&index) {
            continue;
        }
        let with = fused_key(&draft.recipe.outputs[index].name).and_then(|key| sets.get(&key));
        if let Some(&with) = with {
            kept.insert(index, Why::Fused(draft.recipe.outputs[with].name.clone()));
        }
    }
    Ok(kept)
}

/// Puts the tensors of the layout where each matrix was.
fn write_faces(
    draft: &mut Draft,
    decided: &mut Decided,
    how: &How<'_>,
    choice: &Choice<'_>,
    chosen: &[usize],
    kept: &HashMap<usize, Why>,
    mut weighing: Option<&mut Weighing>,
) -> Result<()> {
    let outputs = std::mem::take(&mut draft.recipe.outputs);
    for (index, matrix) in outputs.into_iter().enumerate() {
        let is_chosen = chosen.binary_search(&index).is_ok();
        if !is_chosen || kept.contains_key(&index) {
            if matrix.shape.len() == 2 && matrix.dtype.is_float() {
                let why = kept.get(&index).cloned();
                let why =
                    why.unwrap_or_else(|| Why::Kind(choice.stays(&matrix).unwrap_or("of no known kind")));
                decided.kept.push((matrix.name.clone(), why));
            }
            draft.recipe.outputs.push(matrix);
            continue;
        }
        let Some((rows, columns)) = sizes(&matrix.shape) else {
            return Err(Error::bug("a matrix of other than two dimensions").tensor(&matrix.name));
        };
        let settled = how.of(&matrix.name);
        let packing = settled.packing(rows, columns);
        let importance = match &mut weighing {
            Some(weighing) => weighing.of(&matrix.name, columns)?,
            None => None,
        };
        let quantiser = settled.quantiser(columns, importance);
        let mut quantised = Quantised {
            name: matrix.name.clone(),
            shape: matrix.shape.clone(),
            form: packing.layout.name.to_owned(),
            before_bytes: matrix.size_bytes()?,
            after_bytes: 0,
        };
        let base = module(&matrix.name).to_owned();
        let number = draft.recipe.packed.len();
        let mut places = Vec::with_capacity(packing.layout.faces.len());
        for (face, facts) in packing.layout.faces.iter().enumerate() {
            if !settled.writes(face) {
                places.push(None);
                continue;
            }
            let mut shape = packing.face_shape(face);
            if let [outer @ .., _, _] = &matrix.shape[..]
                && let Some(rows) = shape.first_mut().filter(|_| !outer.is_empty())
            {
                // A stack's faces are stacks: what lies in rows lies in the rows of each.
                *rows /= outer.iter().product::<u64>().max(1);
                shape.splice(0..0, outer.iter().copied());
            }
            let output = Output {
                name: format!("{base}{}", facts.suffix),
                dtype: packing.face_dtype(face),
                shape,
                parts: Vec::new(),
                narrow: None,
                form: Form::Face { packed: number, face },
            };
            quantised.after_bytes = quantised.after_bytes.saturating_add(output.size_bytes()?);
            places.push(Some(draft.recipe.outputs.len()));
            draft.recipe.outputs.push(output);
        }
        let matrix = Output { shape: vec![rows, columns], ..matrix };
        draft.recipe.packed.push(Packed { matrix, packing, quantiser, outputs: places });
        decided.quantised.push(quantised);
    }
    draft.recipe.sharing = sharing(&draft.recipe.packed);
    draft.firsts = (0..draft.recipe.outputs.len()).collect();
    Ok(())
}

/// The modules that engines must know to be as they were: every linear layer that is not quantised, by its full name. MLX takes
/// embeddings for quantised too, unless it is told, and has no module for a head that is the embedding.
fn ignored(draft: &Draft, config: &Json, settled: &Settled) -> Vec<String> {
    let embeddings = settled.scheme.stays == Stays::Mlx;
    let mut modules = Vec::new();
    for output in &draft.recipe.outputs {
        if output.form != Form::Plain || !embeddings && arch::group(&output.name) == Group::Embedding {
            continue;
        }
        match (output.name.strip_suffix(".weight"), output.shape.len()) {
            (Some(module), 2) => modules.push(module.to_owned()),
            // Experts in one tensor that stay so: engines see a module for each.
            (None, 3) if is_expert(&output.name) => {
                if let Some((layer, _)) = output.name.split_once(".experts") {
                    modules.push(format!("re:{}\\.experts\\..*", layer.replace('.', "\\.")));
                }
            }
            _ => {}
        }
    }
    // A head that is the embedding is a module all the same.
    let generates = Description::from_config(config).generates();
    let is_head = |name: &str| arch::group(name) == Group::Head;
    let written = draft.recipe.packed.iter().any(|p| is_head(&p.matrix.name));
    if generates
        && !embeddings
        && !written
        && !modules.iter().any(|m| m == "lm_head" || m.ends_with(".lm_head"))
    {
        modules.push("lm_head".to_owned());
    }
    let mut seen = std::collections::HashSet::new();
    modules.retain(|m| seen.insert(m.clone()));
    modules
}

impl BlockTypes {
    /// The types that can be chosen, by name.
    pub fn names() -> String {
        let made = DType::ALL.iter().filter(|&&d| FLOATS.contains(&d) || block::can_encode(d));
        made.map(|d| d.name()).collect::<Vec<_>>().join(", ")
    }
}

impl Decided {
    fn sum(&self, of: impl Fn(&Quantised) -> u64) -> u64 {
        self.quantised.iter().fold(0u64, |sum, one| sum.saturating_add(of(one)))
    }

    /// Numbers that are quantised.
    pub fn numbers(&self) -> u64 {
        self.sum(|one| one.shape.iter().fold(1u64, |n, &size| n.saturating_mul(size)))
    }

    /// Bytes that those numbers had.
    pub fn before_bytes(&self) -> u64 {
        self.sum(|one| one.before_bytes)
    }

    /// Bytes of what holds them now.
    pub fn after_bytes(&self) -> u64 {
        self.sum(|one| one.after_bytes)
    }

    /// Bits of a quantised number, with everything that belongs to it.
    pub fn bits_per_weight(&self) -> f64 {
        self.after_bytes() as f64 * 8.0 / (self.numbers() as f64).max(1.0)
    }

    /// The scheme's name.
    pub fn scheme(&self) -> &'static str {
        match &self.chosen {
            Chosen::Matrices(settled) => settled.scheme.name,
            Chosen::Blocks(mixture) => mixture.name,
        }
    }

    /// How scales and codes are chosen.
    pub fn method(&self) -> &'static str {
        match &self.chosen {
            Chosen::Matrices(settled) => scheme::method_name(settled.method),
            Chosen::Blocks(_) => "ggml",
        }
    }

    /// What it is, in a few words.
    pub fn text(&self) -> String {
        match &self.chosen {
            Chosen::Matrices(settled) => settled.text(),
            Chosen::Blocks(_) => "GGUF".to_owned(),
        }
    }

    /// The layout of matrices, where there is one.
    pub fn settled(&self) -> Option<&Settled> {
        match &self.chosen {
            Chosen::Matrices(settled) => Some(settled),
            Chosen::Blocks(_) => None,
        }
    }

    /// What stays, by reason: the reason in words, and how many.
    pub fn kept_lines(&self) -> Vec<String> {
        let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for (name, why) in &self.kept {
            let why = match why {
                Why::Kind(kind) => (*kind).to_owned(),
                Why::Asked => "asked for".to_owned(),
                Why::Misfit(why) => why.clone(),
                Why::Fused(_) => "engines fuse it with one that stays".to_owned(),
            };
            let place = *places.entry(why.clone()).or_insert(groups.len());
            match groups.get_mut(place) {
                Some((_, names)) => names.push(name),
                None => groups.push((why, vec![name])),
            }
        }
        let line = |(why, names): &(String, Vec<&str>)| match names[..] {
            [name] => format!("{} ({why})", Shown(name)),
            _ => format!("{} tensors ({why})", grouped(names.len() as u64)),
        };
        groups.iter().map(line).collect()
    }
}
