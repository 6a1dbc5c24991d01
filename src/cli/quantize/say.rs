//! What `hoist quantize` says, to a person and to a program.

use super::Args;
use hoist::convert::Why;
use hoist::machine;
use hoist::quantize::{Options, Plan, Summary};
use hoist::text::{Shown, bytes, grouped, rate};
use hoist::transform::scheme::{CHANNEL, group_text};
use serde_json::{Value, json};

/// What a person should know of the plan.
pub(super) fn notes(plan: &Plan, args: &Args) -> Vec<String> {
    let decided = &plan.decided;
    let mut notes = plan.conversion.notes.clone();
    if let Some(settled) = decided.settled().filter(|s| decided.experts && s.scheme.name == "int4") {
        notes.push(match settled.symmetric {
            true if !args.symmetric && !args.signed_scales => {
                "a mixture of experts: symmetric, which every engine takes; --asymmetric has less error and needs a vLLM of \
                 mid-2026 or later (0.19 refuses it)"
                    .to_owned()
            }
            true => return notes,
            false => "asymmetric experts need a vLLM of mid-2026 or later: 0.19 refuses them".to_owned(),
        });
    }
    notes
}

/// The plan for a person.
pub(super) fn plan_lines(plan: &Plan, options: &Options, verbose: bool) -> Vec<String> {
    let decided = &plan.decided;
    let kept = decided.kept_lines();
    let kept = if kept.is_empty() { String::new() } else { format!("; kept: {}", kept.join(", ")) };
    let free = plan.conversion.free_bytes.map(|f| format!(" of {} free", bytes(f))).unwrap_or_default();
    let mut lines = vec![
        format!(
            "scheme {} ({})   method {}   {} of {} tensors{kept}",
            decided.scheme(),
            decided.text(),
            decided.method(),
            grouped(plan.matrices() as u64),
            grouped(plan.tensors() as u64),
        ),
        format!(
            "plan   {} in → {} out   {:.2} bits a weight   memory {} MiB   disk {}{free}",
            bytes(plan.conversion.source_bytes),
            bytes(plan.conversion.file_bytes),
            decided.bits_per_weight(),
            options.memory_bytes >> 20,
            bytes(plan.conversion.file_bytes),
        ),
    ];
    if verbose {
        for (name, why) in &decided.kept {
            lines.push(format!("       kept   {}   {}", Shown(name), why_text(why)));
        }
    }
    lines.extend(plan.conversion.files_left_out.iter().map(|line| format!("       left out: {line}")));
    lines
}

pub(in crate::cli) fn why_text(why: &Why) -> String {
    match why {
        Why::Kind(kind) => (*kind).to_owned(),
        Why::Asked => "asked for".to_owned(),
        Why::Misfit(why) => why.clone(),
        Why::Fused(with) => format!("fused with {}", Shown(with)),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// The result for a person.
pub(super) fn lines(summary: &Summary, model: &str) -> Vec<String> {
    let written = &summary.written;
    let out = written.out.display().to_string();
    let share = written.file_bytes as f64 / (written.source_bytes as f64).max(1.0);
    let kept = match written.kept_files {
        0 => String::new(),
        1 => "   1 file kept from an earlier run".to_owned(),
        n => format!("   {n} files kept from an earlier run"),
    };
    let error = match summary.errors.is_empty() {
        true => String::new(),
        false => format!("   error {}", percent(summary.error.relative())),
    };
    let mut lines = vec![format!(
        "wrote  {}  {} → {} ({}{:.0} %)   {:.2} bits a weight{error}   {:.2} s   {}{kept}",
        Shown(&out),
        bytes(written.source_bytes),
        bytes(written.file_bytes),
        if share > 1.0 { '+' } else { '−' },
        (share - 1.0).abs() * 100.0,
        summary.bits_per_weight(),
        written.seconds,
        rate(written.source_bytes, written.seconds),
    )];
    let worst: Vec<String> = summary
        .worst(2)
        .into_iter()
        .map(|(name, error)| {
            format!("{} {}", Shown(name.strip_suffix(".weight").unwrap_or(name)), percent(error))
        })
        .collect();
    if !worst.is_empty() {
        lines.push(format!("worst  {}", worst.join("   ")));
    }
    if summary.error.odd > 0 {
        lines.push(format!("nan    {} numbers were taken for zeros", grouped(summary.error.odd)));
    }
    lines.push(format!("next   hoist verify {} --against {}", Shown(&out), Shown(model)));
    lines
}

/// The plan for a program.
pub(super) fn planned(plan: &Plan, options: &Options, notes: &[String], warnings: &[String]) -> Value {
    let decided = &plan.decided;
    let settled = decided.settled();
    let kept: Vec<Value> =
        plan.decided.kept.iter().map(|(name, why)| json!({ "name": name, "why": why_text(why) })).collect();
    let files: Vec<Value> = plan
        .conversion
        .files
        .iter()
        .map(|f| json!({ "name": f.name, "tensors": f.outputs.len(), "bytes": f.laid.file_size_bytes }))
        .collect();
    json!({
        "out": options.out.display().to_string(),
        "dry_run": true,
        "scheme": decided.scheme(),
        "layout": settled.map(|s| s.layout.name),
        "group_size": settled.map(|s| s.group).filter(|&group| group != CHANNEL),
        "group": settled.map(|s| group_text(s.group)),
        "symmetric": settled.map(|s| s.symmetric),
        "signed_scales": settled.map(|s| s.signed_scales),
        "method": decided.method(),
        "experts": plan.decided.experts,
        "quantized": plan.matrices(),
        "tensors": plan.tensors(),
        "weights": decided.numbers(),
        "bits_per_weight": plan.decided.bits_per_weight(),
        "weight_bytes_before": decided.before_bytes(),
        "weight_bytes": decided.after_bytes(),
        "source_bytes": plan.conversion.source_bytes,
        "file_bytes": plan.conversion.file_bytes,
        "free_bytes": plan.conversion.free_bytes,
        "memory_bytes": options.memory_bytes,
        "kept": kept,
        "files": files,
        "companions": plan.conversion.companion_names().collect::<Vec<_>>(),
        "files_left_out": plan.conversion.files_left_out,
        "notes": notes,
        "warnings": warnings,
    })
}

/// What the run adds to its plan.
pub(super) fn done(mut document: Value, summary: &Summary) -> Value {
    let written = &summary.written;
    if let Some(fields) = document.as_object_mut() {
        let mut put = |key: &str, value: Value| fields.insert(key.to_owned(), value);
        put("dry_run", false.into());
        put("seconds", json!(written.seconds));
        put("bytes_per_second", json!(written.source_bytes as f64 / written.seconds.max(1e-9)));
        put("cpu_seconds", json!(written.cpu_seconds));
        put("threads", json!(written.threads));
        put("kept_files", json!(written.kept_files));
        put("error", if summary.errors.is_empty() { Value::Null } else { json!(summary.error.relative()) });
        put("odd", json!(summary.error.odd));
        let of = |(name, error): &(String, hoist::transform::method::Error)| json!({ "name": name, "error": error.relative(), "largest": error.largest });
        put("matrices", summary.errors.iter().map(of).collect());
        put("peak_rss_bytes", json!(machine::peak_resident_bytes()));
        put("notes", json!(written.notes));
    }
    document
}
