//! The table: a line for each matrix (RFC 4180), those that stay too.

use super::place::{Place, place};
use super::why_text;
use crate::quantize::{Summary, snr_db};
use std::fmt::Write;

/// The columns. Sizes are bytes; errors are shares, not per cent; what is not known is empty.
const COLUMNS: &[&str] = &[
    "name",
    "layer",
    "projection",
    "expert",
    "shape",
    "numbers",
    "state",
    "why",
    "form",
    "method",
    "bytes_before",
    "bytes",
    "bits_per_weight",
    "relative_error",
    "largest_error",
    "snr_db",
    "odd",
];

/// All of it.
pub(super) fn table(summary: &Summary) -> String {
    let mut out = String::with_capacity(160 * (summary.matrices.len() + summary.kept.len() + 1));
    line(&mut out, COLUMNS.iter().map(|c| (*c).to_owned()));
    let optional = |n: Option<u64>| n.map(|n| n.to_string()).unwrap_or_default();
    for matrix in &summary.matrices {
        let Place { layer, projection, expert, .. } = place(&matrix.quantised.name);
        let error = |of: &dyn Fn(&crate::transform::method::Error) -> f64| {
            matrix.error.as_ref().map(of).filter(|x| x.is_finite()).map(|x| x.to_string()).unwrap_or_default()
        };
        let fields = [
            foreign(&matrix.quantised.name),
            optional(layer),
            foreign(&projection),
            optional(expert),
            shape(&matrix.quantised.shape),
            matrix.numbers().to_string(),
            "quantised".to_owned(),
            String::new(),
            matrix.quantised.form.clone(),
            matrix.method.to_owned(),
            matrix.quantised.before_bytes.to_string(),
            matrix.quantised.after_bytes.to_string(),
            matrix.bits_per_weight().to_string(),
            error(&|e| e.relative()),
            error(&|e| e.largest),
            error(&|e| snr_db(e.relative())),
            matrix.error.map(|e| e.odd.to_string()).unwrap_or_default(),
        ];
        line(&mut out, fields);
    }
    for kept in &summary.kept {
        let Place { layer, projection, expert, .. } = place(&kept.name);
        let numbers = kept.shape.iter().fold(1u64, |n, &size| n.saturating_mul(size));
        let bits = kept.size_bytes as f64 * 8.0 / (numbers as f64).max(1.0);
        let mut fields: [String; 17] = Default::default();
        fields[0] = foreign(&kept.name);
        fields[1] = optional(layer);
        fields[2] = foreign(&projection);
        fields[3] = optional(expert);
        fields[4] = shape(&kept.shape);
        fields[5] = numbers.to_string();
        fields[6] = "kept".to_owned();
        fields[7] = foreign(&why_text(&kept.why));
        fields[8] = kept.dtype.to_string();
        fields[11] = kept.size_bytes.to_string();
        fields[12] = bits.to_string();
        line(&mut out, fields);
    }
    out
}

fn shape(sizes: &[u64]) -> String {
    sizes.iter().map(u64::to_string).collect::<Vec<_>>().join("x")
}

/// Text of a file. Control characters are escaped, so that a line is a line; what a spreadsheet would take for a formula gets
/// the apostrophe that makes it text there.
fn foreign(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 1);
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        out.push('\'');
    }
    for c in text.chars() {
        if c.is_control() {
            let _ = write!(out, "{}", c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// A line; what holds a comma, a quote or an end of line is quoted.
fn line(out: &mut String, fields: impl IntoIterator<Item = String>) {
    for (i, field) in fields.into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        if field.contains([',', '"', '\n', '\r']) || field.starts_with(' ') || field.ends_with(' ') {
            out.push('"');
            out.push_str(&field.replace('"', "\"\""));
            out.push('"');
        } else {
            out.push_str(&field);
        }
    }
    out.push_str("\r\n");
}
