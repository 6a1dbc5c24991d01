//! `hoist load --quantize`: what is asked of it, and what is told of it.

use crate::cli::quantize::{How, Nan, group_size};
use hoist::convert::Decided;
use hoist::load::{self, Loaded};
use hoist::quantize::report::why_text;
use hoist::quantize::{self, Arrived, LoadOptions, LoadPlan};
use hoist::text::{Shown, grouped};
use hoist::transform::method;
use hoist::transform::scheme::CHANNEL;
use hoist::{Result, machine};
use serde_json::{Value, json};
use std::path::PathBuf;

/// What is quantised belongs to one model: the environment does not set it.
pub(crate) const QUANTISE: &str = "Quantising on the way";

/// The arguments that say what is quantised, and how.
#[derive(Debug, clap::Args)]
pub(super) struct Quantising {
    /// Quantise on the way: the tensors are those of the files that `hoist quantize --scheme NAME` writes (which alone takes
    /// block types for single tensors)
    #[arg(long = "quantize", value_name = "NAME", help_heading = QUANTISE)]
    scheme: Option<String>,
    /// How scales and codes are chosen [default: search]
    #[arg(long, value_enum, value_name = "NAME", requires = "scheme", help_heading = QUANTISE)]
    method: Option<How>,
    /// Neighbours of a row that share a scale, or `channel` for whole rows [default: the scheme's]
    #[arg(long, value_name = "N", value_parser = group_size, requires = "scheme", help_heading = QUANTISE)]
    group_size: Option<u64>,
    /// Without zero points [default for mixtures of experts]
    #[arg(long, conflicts_with = "asymmetric", requires = "scheme", help_heading = QUANTISE)]
    symmetric: bool,
    /// With zero points [default for dense models]
    #[arg(long, requires = "scheme", help_heading = QUANTISE)]
    asymmetric: bool,
    /// Symmetric with scales of either sign: less error, but not every GPU kernel is known to read them
    #[arg(long, conflicts_with = "asymmetric", requires = "scheme", help_heading = QUANTISE)]
    signed_scales: bool,
    /// How much the error of each input channel counts: llama.cpp's imatrix (GGUF or .dat), or safetensors of weights
    #[arg(long, value_name = "FILE", requires = "scheme", help_heading = QUANTISE)]
    importance: Option<PathBuf>,
    /// GPTQ version 2, whose zero points are stored as they are
    #[arg(long, requires = "scheme", help_heading = QUANTISE)]
    gptq_v2: bool,
    /// Keep tensors whose names match a pattern as they are
    #[arg(long, value_name = "GLOB", requires = "scheme", help_heading = QUANTISE)]
    keep: Vec<String>,
    /// Quantise matrices whose names match a pattern too
    #[arg(long, value_name = "GLOB", requires = "scheme", help_heading = QUANTISE)]
    also: Vec<String>,
    /// Refuse a model with matrices that do not fit, instead of keeping those
    #[arg(long, requires = "scheme", help_heading = QUANTISE)]
    strict: bool,
    /// What becomes of NaN and infinity [default: refuse]
    #[arg(long, value_enum, value_name = "WHAT", requires = "scheme", help_heading = QUANTISE)]
    nan: Option<Nan>,
    /// Dequantise a model that is quantised already, and quantise that
    #[arg(long, requires = "scheme", help_heading = QUANTISE)]
    requantize: bool,
}

impl Quantising {
    /// What is asked for, if anything is.
    pub(super) fn options(&self, load: &load::Options) -> Result<Option<LoadOptions>> {
        let Some(scheme) = &self.scheme else { return Ok(None) };
        let mut options = LoadOptions::new(scheme)?;
        let quantize = &mut options.quantize;
        quantize.asked.method = self.method.map(How::method);
        quantize.asked.group = self.group_size;
        // Clap refuses both.
        quantize.asked.symmetric = (self.symmetric || self.asymmetric).then_some(self.symmetric);
        quantize.asked.signed_scales = self.signed_scales;
        quantize.asked.gptq_v2 = self.gptq_v2;
        let available_bytes = machine::available_memory_bytes().unwrap_or(u64::MAX);
        quantize.importance =
            self.importance.as_deref().map(|f| quantize::importance(f, available_bytes)).transpose()?;
        quantize.keep = self.keep.clone();
        quantize.also = self.also.clone();
        quantize.strict = self.strict;
        quantize.zero_odd = self.nan == Some(Nan::Zero);
        quantize.requantize = self.requantize;
        // A sample of the bus or the disk says nothing here: the cores decide.
        options.load = load::Options { measure: false, ..load.clone() };
        Ok(Some(options))
    }
}

/// What is told of what was quantised.
pub(super) struct Told {
    pub(super) decided: Decided,
    error: method::Error,
    errors: Vec<(String, method::Error)>,
}

impl Told {
    /// Parts it from the tensors.
    pub(super) fn of(arrived: Arrived) -> (Loaded, Told) {
        let Arrived { loaded, decided, error, errors } = arrived;
        (loaded, Told { decided, error, errors })
    }
}

/// The plan in one line.
pub(super) fn headline(plan: &LoadPlan) -> String {
    let decided = &plan.decided;
    let kept = decided.kept_lines();
    let kept = if kept.is_empty() { String::new() } else { format!("; kept: {}", kept.join(", ")) };
    let faces: usize = plan.recipe.packed.iter().map(|p| p.outputs.iter().flatten().count()).sum();
    let tensors = (plan.recipe.outputs.len() + plan.recipe.packed.len()).saturating_sub(faces);
    format!(
        "scheme {} ({})   method {}   {} of {} tensors{kept}",
        decided.scheme(),
        decided.text(),
        decided.method(),
        grouped(decided.quantised.len() as u64),
        grouped(tensors as u64),
    )
}

/// The result for a person.
pub(super) fn lines(told: &Told) -> Vec<String> {
    let Told { decided, error, errors } = told;
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let off = match errors.is_empty() {
        true => String::new(),
        false => format!("   error {}", percent(error.relative())),
    };
    let mut lines = vec![format!(
        "scheme {}   {} tensors quantised   {:.2} bits a weight{off}",
        decided.scheme(),
        grouped(decided.quantised.len() as u64),
        decided.bits_per_weight(),
    )];
    if error.odd > 0 {
        lines.push(format!("nan    {} numbers were taken for zeros", grouped(error.odd)));
    }
    lines
}

/// What `-v` adds.
pub(super) fn details(decided: &Decided) -> Vec<String> {
    let line = |(name, why): &(String, _)| format!("kept   {}   {}", Shown(name), why_text(why));
    decided.kept.iter().map(line).collect()
}

/// The result for a program.
pub(super) fn document(told: &Told) -> Value {
    let Told { decided, error, errors } = told;
    let settled = decided.settled();
    let kept: Vec<Value> =
        decided.kept.iter().map(|(name, why)| json!({ "name": name, "why": why_text(why) })).collect();
    let matrices: Vec<Value> = errors
        .iter()
        .map(|(name, e)| json!({ "name": name, "error": e.relative(), "largest": e.largest }))
        .collect();
    json!({
        "scheme": decided.scheme(),
        "layout": settled.map(|s| s.layout.name),
        "group_size": settled.map(|s| s.group).filter(|&group| group != CHANNEL),
        "group": settled.map(|s| s.group_text()),
        "symmetric": settled.map(|s| s.symmetric),
        "method": decided.method(),
        "experts": decided.experts,
        "quantized": decided.quantised.len(),
        "weights": decided.numbers(),
        "bits_per_weight": decided.bits_per_weight(),
        "weight_bytes_before": decided.before_bytes(),
        "weight_bytes": decided.after_bytes(),
        "error": (!errors.is_empty()).then(|| error.relative()),
        "odd": error.odd,
        "matrices": matrices,
        "kept": kept,
    })
}
