//! Which type each tensor is written with.

use super::{Draft, check_class, common};
use crate::dtype::{DType, element_count};
use crate::error::{Error, Result};
use crate::transform::recipe::{Output, Part, Recipe, Source, Value};

/// Which type an output shall have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// The source's own, as far as the target has it. What must be f32 in a GGUF is f32.
    Own,
    /// This one, for every tensor that may have it: `f32`, `f16`, `bf16`, and for a GGUF `q8_0`.
    Type(DType),
}

/// Tensors that stay f32 in a GGUF whatever their shape, as the reference converter has it; besides them norms, whatever
/// has fewer than two dimensions, and names that do not end in `.weight`.
const F32_ENDS: &[&str] =
    &["ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "position_embd.weight", "token_types.weight"];

/// Whether a tensor of a GGUF is f32 whatever is asked for.
pub fn stays_f32(name: &str, shape: &[u64]) -> bool {
    shape.len() < 2
        || name.ends_with("_norm.weight")
        || !name.ends_with(".weight")
        || F32_ENDS
            .iter()
            .any(|end| name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// Gives a GGUF's tensors their types and makes them outputs.
pub(super) fn of_gguf(out: &mut Recipe, drafts: Vec<Draft>, want: Want) -> Result<()> {
    if let Want::Type(dtype) = want
        && !matches!(dtype, DType::F32 | DType::F16 | DType::BF16 | DType::Q8_0)
    {
        return Err(Error::unsupported(format!("`{dtype}` is no type that convert writes into a GGUF"))
            .hint("f32, f16, bf16 or q8_0"));
    }
    let (mut fell_back, mut kept, mut rounded) = (0u64, 0u64, 0u64);
    let mut generated = std::mem::take(&mut out.outputs);
    for draft in drafts {
        let packed = |v: &Value| matches!(v.source, Source::Mxfp4 { .. });
        let sources = || draft.parts.iter().filter_map(|(_, p)| out.values.get(p.value));
        sources().try_for_each(check_class)?;
        let last = draft.shape.last().copied().unwrap_or(1);
        let dtype = if sources().all(packed) {
            kept += 1;
            DType::MXFP4
        } else if stays_f32(&draft.name, &draft.shape) {
            DType::F32
        } else {
            match want {
                Want::Own => {
                    let own = common(&out.values, &draft);
                    rounded += u64::from(own == DType::F64);
                    own_in_gguf(own)
                }
                Want::Type(dtype) if !last.is_multiple_of(dtype.facts().block_elements.into()) => {
                    fell_back += 1;
                    DType::F16
                }
                Want::Type(dtype) => dtype,
            }
        };
        generated.push(output(draft, dtype, None));
    }
    out.outputs = generated;
    if fell_back > 0 {
        out.notes.push(format!("{fell_back} tensors are f16: their rows do not fill whole blocks of 32"));
    }
    if kept > 0 && want != Want::Own {
        out.notes
            .push(format!("{kept} tensors stay mxfp4, as the model was trained: they are never requantised"));
    }
    if rounded > 0 {
        out.notes.push(format!("{rounded} tensors of f64 become f32: no engine reads f64 weights"));
    }
    Ok(())
}

/// The type of a GGUF that holds a type's numbers: all of them, but for f64.
fn own_in_gguf(dtype: DType) -> DType {
    match dtype {
        DType::F64 => DType::F32,
        // Every float of eight bits or less is a bf16.
        d if d.is_float() && d.facts().ggml.is_none() => DType::BF16,
        d => d,
    }
}

/// Gives a checkpoint's tensors their types and makes them outputs. Quantised sources become bf16 unless another type is
/// asked for, or f16 where that is what the file's other weights have; tensors that a GGUF only keeps as f32 are marked
/// to be narrowed where that loses nothing.
pub(super) fn of_hf(out: &mut Recipe, drafts: Vec<Draft>, want: Want) -> Result<()> {
    if let Want::Type(dtype) = want
        && !matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
    {
        return Err(Error::unsupported(format!(
            "`{dtype}` is no type that convert writes into a checkpoint"
        ))
        .hint("f32, f16 or bf16"));
    }
    let main = main_type(&out.values);
    for draft in drafts {
        let sources = || draft.parts.iter().filter_map(|(_, p)| out.values.get(p.value));
        sources().try_for_each(check_class)?;
        // Rows of zeros are of no type.
        let mut types = sources().filter(|v| !matches!(v.source, Source::Made(_)));
        let first = types.next();
        let own = first.map_or(DType::F32, |v| v.dtype);
        let own = if types.all(|v| v.dtype == own) { own } else { DType::F32 };
        let kept = first.is_some_and(|v| v.dtype == DType::F32 && stays_f32(&v.name, &v.shape));
        let (dtype, narrow) = match want {
            Want::Type(dtype) => (dtype, None),
            Want::Own if kept => (DType::F32, (main != DType::F32).then_some(main)),
            Want::Own if own.is_plain() => (own, None),
            Want::Own => (main, None),
        };
        out.outputs.push(output(draft, dtype, narrow));
    }
    Ok(())
}

/// The type of a GGUF's weights that are not f32 whatever they were: that of the most elements, where it is plain; bf16
/// where all are quantised.
fn main_type(values: &[Value]) -> DType {
    const PLAIN: [DType; 3] = [DType::BF16, DType::F16, DType::F32];
    let free = || values.iter().filter(|v| !stays_f32(&v.name, &v.shape));
    let count = |dtype: DType| {
        let sizes = free().filter(|v| v.dtype == dtype).map(|v| element_count(&v.shape).unwrap_or(0));
        sizes.fold(0u64, u64::saturating_add)
    };
    let quantised = free().any(|v| !v.dtype.is_plain());
    let candidates = PLAIN.into_iter().filter(|&d| !(quantised && d == DType::F32));
    candidates
        .map(|d| (count(d), d))
        .filter(|(n, _)| *n > 0)
        .max_by_key(|(n, _)| *n)
        .map_or(DType::BF16, |(_, d)| d)
}

/// Gives the tensors of a forward pass the types of what they are made of.
pub(super) fn of_forward(out: &mut Recipe, drafts: Vec<Draft>) -> Result<()> {
    for draft in drafts {
        let sources = || draft.parts.iter().filter_map(|(_, p)| out.values.get(p.value));
        sources().try_for_each(check_class)?;
        let own = common(&out.values, &draft);
        // What is added is added in f32, and numbers of a block are its own only as long as they stay together.
        let whole = |part: &Part| {
            let block = u64::from(own.facts().block_elements);
            let (size, stride) = (part.view.shape.last(), part.view.strides.last());
            let outer = part.view.strides.iter().rev().skip(1);
            block == 1
                || size.is_some_and(|n| n.is_multiple_of(block))
                    && stride == Some(&1)
                    && part.view.offset.is_multiple_of(block)
                    && outer
                        .zip(part.view.shape.iter().rev().skip(1))
                        .all(|(s, &n)| n == 1 || s.is_multiple_of(block))
        };
        let kept = draft.parts.iter().all(|(_, part)| part.add == 0.0 && whole(part));
        out.outputs.push(output(draft, if kept { own } else { DType::F32 }, None));
    }
    Ok(())
}

fn output(draft: Draft, dtype: DType, narrow: Option<DType>) -> Output {
    let parts: Vec<Part> = draft.parts.into_iter().map(|(_, part)| part).collect();
    Output { name: draft.name, dtype, shape: draft.shape, parts, narrow, form: Default::default() }
}
