//! Which tensors are compared, and in which type each side is made.
//!
//! Of one type, both are made as they are stored, so that bytes can be compared. Else both are made as numbers: plain types
//! as they are stored too, blocks and codes with scales as f32, which holds all of their numbers.

use super::numbers::{Sums, has_numbers};
use super::sides::Sides;
use super::{Difference, Figures, Options, Report, Values};
use crate::dtype::{Class, DType, element_count};
use crate::error::{ErrorKind, Result};
use crate::open::Model;
use crate::plan::weave::{Limits, tasks};
use crate::transform::recipe::Output;
use crate::transform::select::Selection;
use std::collections::HashSet;

/// Two tensors that belong together.
pub(super) struct Pair {
    pub(super) a: Output,
    pub(super) b: Output,
    /// What they are stored as; the outputs have the types they are streamed in.
    pub(super) dtypes: (DType, DType),
    /// The shapes that the files have.
    pub(super) shapes: (Vec<u64>, Vec<u64>),
    pub(super) elements: u64,
    /// What is known to differ without reading.
    pub(super) known: Option<Difference>,
}

/// The tensors that are compared. What only one side has goes into the report.
pub(super) fn pairs(
    a: &Model,
    b: &Model,
    sides: &Sides,
    options: &Options,
    limits: &Limits,
    report: &mut Report,
) -> Result<Vec<Pair>> {
    let matched = sides.matched();
    let (of_a, of_b) = (&sides.a.recipe.outputs, &sides.b.recipe.outputs);
    // A tensor that meets another's bytes goes by its own name, which the other side does not have. A pattern may also
    // mean what only one side has.
    let known: HashSet<&str> = of_a.iter().map(|o| o.name.as_str()).collect();
    let names = matched.pairs.iter().map(|&(i, j)| match known.contains(of_b[j].name.as_str()) {
        true => of_a[i].name.as_str(),
        false => of_b[j].name.as_str(),
    });
    let names: Vec<&str> = names
        .chain(matched.only_a.iter().map(|&i| of_a[i].name.as_str()))
        .chain(matched.only_b.iter().map(|&j| of_b[j].name.as_str()))
        .collect();
    let picked = Selection::new(&options.include, &options.exclude)?.pick_names(names)?;
    let (pair_count, only_a_count) = (matched.pairs.len(), matched.only_a.len());
    let mut pairs = Vec::with_capacity(pair_count);
    for index in picked {
        if let Some(&(i, j)) = matched.pairs.get(index) {
            pairs.push(pair(a, b, sides, &of_a[i], &of_b[j], limits)?);
        } else if let Some(&i) = matched.only_a.get(index - pair_count) {
            report.only_a.push(of_a[i].name.clone());
        } else if let Some(&j) = matched.only_b.get(index - pair_count - only_a_count) {
            report.only_b.push(of_b[j].name.clone());
        }
    }
    Ok(pairs)
}

/// Two tensors, with the types they are streamed in.
fn pair(a: &Model, b: &Model, sides: &Sides, of_a: &Output, of_b: &Output, limits: &Limits) -> Result<Pair> {
    let (stored_a, stored_b) = (sides.a.stored(of_a), sides.b.stored(of_b));
    let mut pair = Pair {
        a: of_a.clone(),
        b: of_b.clone(),
        dtypes: (stored_a.0, stored_b.0),
        shapes: (of_a.shape.clone(), of_b.shape.clone()),
        elements: element_count(&of_a.shape).unwrap_or(0),
        known: None,
    };
    // GGUF's writers drop outer dimensions of one.
    let bare = |shape: &[u64]| -> Vec<u64> { shape.iter().copied().skip_while(|&n| n == 1).collect() };
    let same_shape =
        of_a.shape == of_b.shape || sides.translated.is_some() && bare(&of_a.shape) == bare(&of_b.shape);
    if !same_shape {
        pair.known = Some(Difference::Shape);
        return Ok(pair);
    }
    if stored_a == stored_b && stored_a.1 {
        (pair.a.dtype, pair.b.dtype) = (stored_a.0, stored_b.0);
    } else {
        pair.a.dtype = streamed(stored_a);
        pair.b.dtype = streamed(stored_b);
        // An f64 does not tell the largest integers apart.
        let wide = |d: DType| matches!(d, DType::I64 | DType::U64);
        let complex = |d: DType| d.facts().class == Class::Complex;
        let numbers = [pair.a.dtype, pair.b.dtype];
        if numbers[0] != numbers[1]
            && (numbers.into_iter().any(wide) || complex(numbers[0]) != complex(numbers[1]))
            || !numbers.into_iter().all(has_numbers)
        {
            let why = format!("`{}` and `{}` are no numbers of one kind", stored_a.0, stored_b.0);
            pair.known = Some(Difference::Incomparable(why));
            return Ok(pair);
        }
    }
    for (model, side, output) in [(a, &sides.a, &pair.a), (b, &sides.b, &pair.b)] {
        match tasks(&model.table, &side.recipe, output, limits) {
            Ok(_) => {}
            // What needs more memory is worth an error; what cannot be compared at all is an answer.
            Err(e) if e.kind() == ErrorKind::Unsupported && e.hint_text().is_none() => {
                pair.known = Some(Difference::Incomparable(e.to_string()));
                break;
            }
            Err(e) => return Err(e.file(&model.name)),
        }
    }
    Ok(pair)
}

/// The type a tensor is streamed in where both are to be read as numbers: its own where that is plain.
fn streamed((dtype, as_it_is): (DType, bool)) -> DType {
    if as_it_is && dtype.is_plain() && has_numbers(dtype) { dtype } else { DType::F32 }
}

impl Pair {
    /// How the values differ.
    pub(super) fn values(&self, sums: &Sums) -> Values {
        let Sums { differing, not_finite, max_abs, worst, top, dot, aa, bb, dd } = *sums;
        let elements = self.elements;
        let figures = (has_numbers(self.a.dtype) && has_numbers(self.b.dtype)).then(|| {
            let mut at = Vec::with_capacity(self.shapes.0.len());
            let mut rest = worst;
            for &size in self.shapes.0.iter().rev() {
                at.push(rest % size.max(1));
                rest /= size.max(1);
            }
            at.reverse();
            let cosine = dot / (aa.sqrt() * bb.sqrt());
            let max_rel = if max_abs == 0.0 { 0.0 } else { max_abs / top };
            let rms = (dd / elements.max(1) as f64).sqrt();
            // Rounding may take it a little too far.
            Figures {
                max_abs,
                max_rel,
                rms,
                cosine: Some(cosine.clamp(-1.0, 1.0)).filter(|c| c.is_finite()),
                at,
            }
        });
        Values { elements, differing, not_finite, figures }
    }
}
