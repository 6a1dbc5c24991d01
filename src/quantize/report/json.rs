//! The document: all there is, numbers as numbers. What is not known is null.

use super::place::{Place, place};
use super::{About, why_text};
use crate::quantize::{Ends, Floor, Summary, snr_db};
use serde_json::{Value, json};

/// All of it.
pub(super) fn document(summary: &Summary, about: &About<'_>) -> String {
    let decided = &summary.decided;
    let written = &summary.written;
    let tensors: Vec<Value> = summary
        .matrices
        .iter()
        .map(|m| {
            let Place { layer, projection, expert, .. } = place(&m.quantised.name);
            let relative = m.relative();
            json!({
                "name": m.quantised.name,
                "layer": layer,
                "projection": projection,
                "expert": expert,
                "shape": m.quantised.shape,
                "numbers": m.numbers(),
                "form": m.quantised.form,
                "method": m.method,
                "bytes_before": m.quantised.before_bytes,
                "bytes": m.quantised.after_bytes,
                "bits_per_weight": m.bits_per_weight(),
                "error": relative,
                "largest": m.error.map(|e| e.largest),
                "snr_db": relative.map(snr_db).filter(|x| x.is_finite()),
                "odd": m.error.map(|e| e.odd),
            })
        })
        .collect();
    let kept: Vec<Value> = summary
        .kept
        .iter()
        .map(|k| {
            json!({
                "name": k.name,
                "shape": k.shape,
                "dtype": k.dtype.to_string(),
                "bytes": k.size_bytes,
                "why": why_text(&k.why),
            })
        })
        .collect();
    let is_measured = summary.measured() > 0;
    let relative = is_measured.then(|| summary.error.relative());
    let document = json!({
        "schema": "hoist.quantize.report/1",
        "hoist": env!("CARGO_PKG_VERSION"),
        "model": about.model,
        "out": about.out,
        "scheme": decided.scheme(),
        "about": decided.text(),
        "method": decided.method(),
        "totals": {
            "tensors": summary.tensors,
            "quantized": summary.matrices.len(),
            "measured": summary.measured(),
            "kept": summary.kept.len(),
            "weights": decided.numbers(),
            "bits_per_weight": summary.bits_per_weight(),
            "weight_bytes_before": decided.before_bytes(),
            "weight_bytes": decided.after_bytes(),
            "source_bytes": written.source_bytes,
            "file_bytes": written.file_bytes,
            "error": relative,
            "largest": is_measured.then_some(summary.error.largest),
            "snr_db": relative.map(snr_db).filter(|x| x.is_finite()),
            "odd": summary.error.odd,
            "seconds": written.seconds,
        },
        "floor": summary.floor.as_ref().map(floor),
        "ends": ends(&summary.ends, written.file_bytes),
        "matrices": tensors,
        "kept": kept,
        "notes": written.notes,
    });
    format!("{document:#}\n")
}

/// The floor for a program.
pub(super) fn floor(floor: &Floor) -> Value {
    json!({
        "ratio": floor.ratio,
        "groups": floor.groups,
        "numbers": floor.numbers,
        "seconds": floor.seconds,
    })
}

/// Embedding and head for a program.
pub(super) fn ends(ends: &Ends, file_bytes: u64) -> Value {
    json!({
        "matrices": ends.matrices,
        "weights": ends.numbers,
        "quantized": ends.quantised,
        "bytes": ends.size_bytes,
        "bytes_if_narrow": ends.narrow_bytes,
        "file_bytes_if_narrow": ends.output_bytes(file_bytes),
    })
}
