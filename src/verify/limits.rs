//! Which figures a comparison must keep, from what the two models' numbers are written in.
//!
//! Limits are there to find what is broken: a permutation forgotten, a scale misread, a tensor swapped. They say nothing
//! about whether a quantisation is a good one. What loss is to be expected depends on how far the candidate's numbers had
//! to move from the reference's, so that is found out first, tensor by tensor ([`Step`]), and `ROWS` has the figures for
//! it.
//!
//! A model is rarely of one type: norms stay in f32, embeddings in 16 bits, a few matrices get more bits than others. The
//! step that decides is the coarsest in which, together with those coarser than it, at least `SHARE_MIN` of all
//! parameters are. Below that share a few small tensors would loosen the limit for all the others; with a larger one a
//! small model with a large vocabulary, whose embedding is kept, would be held to the embedding's limit.

use crate::dtype::{Class, DType};
use crate::transform::recipe::{Recipe, Source, Value};
use crate::verify::Gate;
use hashbrown::HashMap;
use std::fmt;

/// How numbers are written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scheme {
    /// The element type, or that of the codes.
    pub name: &'static str,
    /// Bits of a number, or of its code; scales are not counted.
    pub bits: f64,
    /// Numbers along a row that share a scale: `Some` for codes with a scale for each group, `None` for numbers without
    /// any, and for codes with one scale for a row or more ([`Scheme::is_coded`] tells the two apart).
    pub group: Option<u64>,
    /// Whether the numbers are codes that mean something only with a scale.
    pub is_coded: bool,
}

/// `4-bit, group 128`; `16-bit`; `8-bit, per channel`.
impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-bit", self.bits)?;
        match self.group {
            Some(group) => write!(f, ", group {group}"),
            None if self.is_coded => f.write_str(", per channel"),
            None => Ok(()),
        }
    }
}

/// Bits of a code, and numbers that share a scale, of the block types: nominal bits without what scales, minima and
/// signs shared by several add. (ggml-common.h and ggml-quants.c of ggml 0.25; the inner groups of the super-blocks.)
#[rustfmt::skip]
const BLOCKS: &[(DType, f64, u64)] = &[
    (DType::Q4_0, 4.0, 32), (DType::Q4_1, 4.0, 32), (DType::Q5_0, 5.0, 32), (DType::Q5_1, 5.0, 32),
    (DType::Q8_0, 8.0, 32), (DType::Q8_1, 8.0, 32), (DType::Q8K, 8.0, 256),
    (DType::Q2K, 2.0, 16), (DType::Q3K, 3.0, 16), (DType::Q4K, 4.0, 32), (DType::Q5K, 5.0, 32), (DType::Q6K, 6.0, 16),
    (DType::IQ1S, 1.0, 32), (DType::IQ1M, 1.0, 16), (DType::IQ2XXS, 2.0, 32), (DType::IQ2XS, 2.0, 16),
    (DType::IQ2S, 2.0, 16), (DType::IQ3XXS, 3.0, 32), (DType::IQ3S, 3.0, 32), (DType::IQ4NL, 4.0, 32),
    (DType::IQ4XS, 4.0, 32), (DType::TQ1_0, 1.6, 256), (DType::TQ2_0, 2.0, 256), (DType::MXFP4, 4.0, 32),
    (DType::NVFP4, 4.0, 16), (DType::Q1_0, 1.0, 128), (DType::Q2_0, 2.0, 64),
];

impl Scheme {
    /// Of a plain type or of blocks.
    pub fn of_dtype(dtype: DType) -> Scheme {
        let facts = dtype.facts();
        if let Some(&(_, bits, group)) = BLOCKS.iter().find(|row| row.0 == dtype) {
            return Scheme { name: facts.name, bits, group: Some(group), is_coded: true };
        }
        let bits = f64::from(facts.block_bytes * 8) / f64::from(facts.block_elements);
        Scheme { name: facts.name, bits, group: None, is_coded: facts.class == Class::Block }
    }

    /// Of a value of a recipe; `None` for one that is in no file. `dtype_of` gives the type of a tensor of the table.
    fn of_value(value: &Value, dtype_of: &dyn Fn(usize) -> Option<DType>) -> Option<Scheme> {
        match &value.source {
            Source::Tensor(_) | Source::Joined(_) => Some(Scheme::of_dtype(value.dtype)),
            Source::Scaled { codes, block_columns, .. } => {
                let codes = dtype_of(*codes).map_or(Scheme::of_dtype(DType::F8E4M3), Scheme::of_dtype);
                // A scale for all columns is one for a row, or for more than that.
                let group =
                    value.shape.last().filter(|&columns| block_columns < columns).map(|_| *block_columns);
                Some(Scheme { group, is_coded: true, ..codes })
            }
            Source::Mxfp4 { .. } => Some(Scheme::of_dtype(DType::MXFP4)),
            Source::Packed(packed) => {
                let packing = &packed.packing;
                let group = (packing.group_columns < packing.columns).then_some(packing.group_columns);
                let bits = f64::from(packing.bits);
                Some(Scheme { name: packing.layout.name, bits, group, is_coded: true })
            }
            Source::Made(_) => None,
        }
    }
}

/// How far numbers had to move: the finest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Not at all: the same type, or one that holds every number of the other.
    Same,
    /// To another type of 16 bits.
    Cast,
    /// To eight bits and a scale.
    Eight,
    /// To four bits or more, with a scale for each 32 numbers or fewer.
    FourFine,
    /// The same with larger groups, up to 128.
    FourCoarse,
    /// Further.
    Far,
}

/// What a step may cost.
struct Row {
    step: Step,
    /// Bits, in words for a person; the candidate's scheme is said where there is nothing.
    name: &'static str,
    /// Largest relative error of a logit.
    max_relative: Option<f64>,
    /// Mean KL divergence in nats.
    max_kl: Option<f64>,
    /// Share of positions with the same likeliest token.
    min_top1: Option<f64>,
    /// Cosine of two embeddings.
    min_cosine: Option<f64>,
    /// Largest error of a number of an embedding, of hidden states, of scores, relative to the largest of the reference's. A
    /// cosine does not see that all of them are a hundred times too large; this does, and is no tighter than the cosine
    /// where only the direction is off.
    vectors: Option<f64>,
    /// The same for heads with one score: there is no direction, nor a label, so this is all that they are judged by.
    score: Option<f64>,
    /// Whether labels must be the same.
    labels: bool,
    /// How far apart, relative to their length, hidden states may be. Names the layer where two models part; fails nothing.
    hidden: f64,
}

#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row { step: Step::Same,       name: "the same numbers", max_relative: Some(1e-3), max_kl: None,        min_top1: None,       min_cosine: Some(0.9999), vectors: Some(1e-3), score: Some(1e-3), labels: true,  hidden: 1e-3 },
    Row { step: Step::Cast,       name: "16-bit",           max_relative: None,       max_kl: Some(0.001), min_top1: None,       min_cosine: Some(0.999),  vectors: Some(0.06), score: Some(0.03), labels: true,  hidden: 0.03 },
    Row { step: Step::Eight,      name: "",                 max_relative: None,       max_kl: Some(0.005), min_top1: Some(0.97), min_cosine: Some(0.99),   vectors: Some(0.2),  score: Some(0.05), labels: false, hidden: 0.1  },
    Row { step: Step::FourFine,   name: "",                 max_relative: None,       max_kl: Some(0.10),  min_top1: Some(0.85), min_cosine: Some(0.95),   vectors: Some(0.5),  score: Some(0.25), labels: false, hidden: 0.4  },
    Row { step: Step::FourCoarse, name: "",                 max_relative: None,       max_kl: Some(0.25),  min_top1: Some(0.80), min_cosine: Some(0.95),   vectors: Some(0.5),  score: Some(0.25), labels: false, hidden: 0.5  },
    Row { step: Step::Far,        name: "",                 max_relative: None,       max_kl: None,        min_top1: None,       min_cosine: None,         vectors: None,       score: None,       labels: false, hidden: 0.7  },
];

/// The share of parameters from which on a step decides.
pub const SHARE_MIN: f64 = 0.05;

/// The step from a reference's scheme to a candidate's.
fn step(candidate: &Scheme, reference: &Scheme) -> Step {
    // Wide floats hold what any code means, to the last bits.
    if candidate == reference || (!candidate.is_coded && candidate.bits >= 32.0) {
        return Step::Same;
    }
    match (candidate.bits, candidate.group) {
        (16.0.., _) => Step::Cast,
        (8.0.., _) => Step::Eight,
        (4.0.., Some(..=32)) => Step::FourFine,
        (4.0.., Some(..=128)) => Step::FourCoarse,
        _ => Step::Far,
    }
}

/// What a pass was computed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Computed {
    /// f32, on both sides.
    F32,
    /// 16 bits, on either.
    Half,
    /// Quantised blocks as they are: the kernels round what they are multiplied with to eight bits.
    Blocks,
}

impl Computed {
    /// No step is taken to be finer than arithmetic is.
    fn floor(self) -> Step {
        match self {
            Computed::F32 => Step::Same,
            Computed::Half => Step::Cast,
            Computed::Blocks => Step::Eight,
        }
    }
}

/// A recipe and the types of its source's tensors.
#[derive(Clone, Copy)]
pub struct Written<'a> {
    /// What is needed of the model.
    pub recipe: &'a Recipe,
    /// The type of a tensor of its table.
    pub dtype_of: &'a dyn Fn(usize) -> Option<DType>,
}

impl Written<'_> {
    /// Each output's schemes, with the elements that are written so.
    fn schemes(&self) -> HashMap<&str, Vec<(Scheme, u64)>> {
        let mut schemes: HashMap<&str, Vec<(Scheme, u64)>> = HashMap::new();
        for output in &self.recipe.outputs {
            let of = schemes.entry(&output.name).or_default();
            for part in &output.parts {
                let value = self.recipe.values.get(part.value);
                let Some(scheme) = value.and_then(|v| Scheme::of_value(v, self.dtype_of)) else { continue };
                add(of, scheme, crate::dtype::element_count(&part.view.shape).unwrap_or(u64::MAX));
            }
        }
        schemes
    }

    /// The scheme of most of its parameters.
    pub fn main_scheme(&self) -> Option<Scheme> {
        let mut all = Vec::new();
        for (scheme, elements) in self.schemes().into_values().flatten() {
            add(&mut all, scheme, elements);
        }
        largest(&all)
    }
}

fn add(to: &mut Vec<(Scheme, u64)>, scheme: Scheme, elements: u64) {
    match to.iter_mut().find(|(known, _)| *known == scheme) {
        Some((_, sum)) => *sum = sum.saturating_add(elements),
        None => to.push((scheme, elements)),
    }
}

/// The scheme with most elements. Of equals a fixed one, so that the order of a map does not decide.
fn largest(of: &[(Scheme, u64)]) -> Option<Scheme> {
    of.iter()
        .max_by_key(|(scheme, elements)| (*elements, scheme.name, scheme.group))
        .map(|(scheme, _)| *scheme)
}

/// The limits of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// The step that they are for.
    pub step: Step,
    /// What is shown for it: `4-bit, group 128`, `16-bit`, `the same numbers`.
    pub name: String,
    /// The limits themselves.
    pub gate: Gate,
    /// Largest relative error of a number of an embedding, of hidden states, or of several scores.
    pub vectors: Option<f64>,
    /// The same of a head's only score.
    pub score: Option<f64>,
    /// Whether labels must be the same.
    pub labels: bool,
    /// How far apart, relative to their length, hidden states may be before two models are said to part.
    pub hidden: f64,
    /// Whether the user gave any of them.
    pub given: bool,
    /// Whether the user gave the cosine: then it is for logits too, and else for embeddings only.
    pub cosine_given: bool,
    /// What a person should know of the choice.
    pub note: Option<String>,
}

impl Limits {
    /// For two models. What the user gives replaces the default of the same figure; a limit on any figure of the logits
    /// also takes the one on their largest relative error away, which says that two models are the same and leaves no
    /// room for another. Of vectors and scores the cosine does so; either of the two does with labels, which nobody else
    /// could allow to differ.
    pub fn of_models(
        candidate: &Written<'_>,
        reference: &Written<'_>,
        computed: Computed,
        user: &Gate,
    ) -> Limits {
        let others = reference.schemes();
        let usual = reference.main_scheme();
        // Elements by step, and the schemes they are in.
        let mut steps: Vec<(Step, Vec<(Scheme, u64)>)> = Vec::new();
        let mut total = 0u64;
        for (name, schemes) in candidate.schemes() {
            let other = others.get(name).and_then(|all| largest(all)).or(usual);
            for (scheme, elements) in schemes {
                let step = other.map_or(Step::Same, |other| step(&scheme, &other));
                total = total.saturating_add(elements);
                match steps.iter_mut().find(|(s, _)| *s == step) {
                    Some((_, of)) => add(of, scheme, elements),
                    None => steps.push((step, vec![(scheme, elements)])),
                }
            }
        }
        steps.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
        let mut seen = 0u64;
        let mut chosen = (Step::Same, None);
        for (step, of) in &steps {
            seen = of.iter().fold(seen, |sum, (_, n)| sum.saturating_add(*n));
            chosen = (*step, largest(of));
            if seen as f64 >= SHARE_MIN * total as f64 {
                break;
            }
        }
        // However few numbers were moved, what is computed of them is not the same any more.
        let least = if steps.iter().any(|(step, _)| *step > Step::Same) { Step::Cast } else { Step::Same };
        let step = chosen.0.max(least).max(computed.floor());
        let scheme = chosen.1.filter(|_| step == chosen.0);
        let mut limits = Limits::at(step, scheme, user);
        if let (Some(candidate), Some(reference)) = (candidate.main_scheme(), usual)
            && reference.bits < candidate.bits
            && reference.bits < 16.0
        {
            limits.note = Some(format!(
                "the reference is {reference} and the candidate {candidate}: the candidate is expected to hold the reference's numbers"
            ));
        }
        limits
    }

    /// For a file of logits, which is taken to be of the same numbers.
    pub fn of_file(computed: Computed, user: &Gate) -> Limits {
        let mut limits = Limits::at(computed.floor(), None, user);
        if !limits.given {
            limits.note = Some(
                "a file is taken to be of the same numbers as the model; for one that was made before quantising, --max-kl and --min-top1 (of vectors and scores --min-cosine and --max-rel) say what may be lost"
                    .to_owned(),
            );
        }
        limits
    }

    fn at(step: Step, scheme: Option<Scheme>, user: &Gate) -> Limits {
        // Every step has a row: see the tests.
        let row = ROWS.iter().find(|row| row.step == step).unwrap_or(&ROWS[0]);
        let of_logits =
            [user.max_kl, user.min_top1, user.min_top5, user.max_relative].iter().any(Option::is_some);
        let gate = Gate {
            max_relative: user.max_relative.or(row.max_relative.filter(|_| !of_logits)),
            max_kl: user.max_kl.or(row.max_kl),
            min_top1: user.min_top1.or(row.min_top1),
            min_cosine: user.min_cosine.or(row.min_cosine),
            ..*user
        };
        let name = match (row.name, scheme) {
            ("", Some(scheme)) => scheme.to_string(),
            ("", None) => "8-bit arithmetic".to_owned(),
            (name, _) => name.to_owned(),
        };
        let given = *user != Gate::default();
        let cosine_given = user.min_cosine.is_some();
        let of_vectors = |default: Option<f64>| user.max_relative.or(default.filter(|_| !cosine_given));
        Limits {
            step,
            name,
            gate,
            vectors: of_vectors(row.vectors),
            score: of_vectors(row.score),
            labels: row.labels && !cosine_given && user.max_relative.is_none(),
            hidden: row.hidden,
            given,
            cosine_given,
            note: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_and_each_step_has_its_row() {
        for &dtype in DType::ALL {
            let rows = BLOCKS.iter().filter(|row| row.0 == dtype).count();
            assert_eq!(rows, usize::from(dtype.facts().class == Class::Block), "{dtype}");
            assert!(Scheme::of_dtype(dtype).bits > 0.0);
        }
        let steps = [Step::Same, Step::Cast, Step::Eight, Step::FourFine, Step::FourCoarse, Step::Far];
        assert_eq!(ROWS.iter().map(|row| row.step).collect::<Vec<_>>(), steps);
    }

    #[test]
    fn steps() {
        let of = Scheme::of_dtype;
        let coded = |bits, group| Scheme { name: "int", bits, group, is_coded: true };
        for (candidate, reference, expected) in [
            (of(DType::BF16), of(DType::BF16), Step::Same),
            (of(DType::F32), of(DType::BF16), Step::Same),
            (of(DType::F32), of(DType::Q4K), Step::Same),
            (of(DType::Q4K), of(DType::Q4K), Step::Same),
            (of(DType::F16), of(DType::BF16), Step::Cast),
            (of(DType::BF16), of(DType::F32), Step::Cast),
            (of(DType::BF16), of(DType::Q8_0), Step::Cast),
            (of(DType::Q8_0), of(DType::F32), Step::Eight),
            (coded(8.0, None), of(DType::BF16), Step::Eight),
            (of(DType::Q6K), of(DType::BF16), Step::FourFine),
            (of(DType::Q4_0), of(DType::Q8_0), Step::FourFine),
            (coded(4.0, Some(64)), of(DType::BF16), Step::FourCoarse),
            (coded(4.0, Some(128)), of(DType::BF16), Step::FourCoarse),
            (coded(4.0, Some(256)), of(DType::BF16), Step::Far),
            (coded(4.0, None), of(DType::BF16), Step::Far),
            (of(DType::Q3K), of(DType::BF16), Step::Far),
            (of(DType::TQ1_0), of(DType::BF16), Step::Far),
        ] {
            assert_eq!(step(&candidate, &reference), expected, "{candidate} of {reference}");
        }
        assert_eq!(coded(4.0, Some(128)).to_string(), "4-bit, group 128");
        assert_eq!(coded(8.0, None).to_string(), "8-bit, per channel");
        assert_eq!(of(DType::BF16).to_string(), "16-bit");
    }
}
