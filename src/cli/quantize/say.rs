//! What `hoist quantize` says, to a person and to a program.

use super::Args;
use crate::cli::lock;
use hoist::convert::Decided;
use hoist::machine;
use hoist::quantize::report::{change, ends_json, ends_text, floor_json, percent, why_text};
use hoist::quantize::{Ends, Measured, Options, Plan, Summary, snr_db};
use hoist::text::{Shown, bytes, grouped, rate};
use hoist::transform::scheme::CHANNEL;
use serde_json::{Value, json};

/// What a person should know of the plan.
pub(super) fn notes(plan: &Plan, args: &Args) -> Vec<String> {
    let decided = &plan.decided;
    let mut notes = plan.conversion.notes.clone();
    let scheme = decided.scheme();
    if decided.experts && ["gptq", "awq", "nf4", "nvfp4a16"].contains(&scheme) {
        notes.push(format!(
            "transformers (5.23) does not read experts as {scheme}: they stay random or it fails; the layout is vLLM's, which has \
             not been run on it here"
        ));
    }
    if scheme == "int4" && decided.settled().is_some_and(|s| !s.symmetric) {
        notes.push(
            "transformers (5.23) needs CompressedTensorsConfig(dequantize=True) to open zero points; --symmetric opens without"
                .to_owned(),
        );
    }
    if args.dry_run && args.report.is_some() {
        notes.push("no report is written: a dry run measures nothing".to_owned());
    }
    if args.requantize {
        notes.push("errors are against the numbers of the quantised source, not of its original".to_owned());
    }
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
    let importance = options.quantize.importance.as_ref();
    let importance =
        importance.map(|i| format!(", {} of it importance", bytes(i.memory_bytes()))).unwrap_or_default();
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
            "plan   {} in → {} out   {:.2} bits a weight   memory {} MiB{importance}   disk {}{free}",
            bytes(plan.conversion.source_bytes),
            bytes(plan.conversion.file_bytes),
            decided.bits_per_weight(),
            options.memory_bytes >> 20,
            bytes(plan.conversion.file_bytes),
        ),
        packed(decided),
    ];
    lines.extend(stays(decided, &plan.ends, plan.conversion.file_bytes));
    if verbose {
        for (name, why) in &decided.kept {
            lines.push(format!("       kept   {}   {}", Shown(name), why_text(why)));
        }
    }
    lines.extend(plan.conversion.files_left_out.iter().map(|line| format!("       left out: {line}")));
    lines.extend(lock::plan_line(options.lock.as_ref(), plan.conversion.read_again_bytes));
    lines
}

/// What became of the weights that are quantised.
fn packed(decided: &Decided) -> String {
    let (before, after) = (decided.before_bytes(), decided.after_bytes());
    format!(
        "packed {} → {} ({})   {:.2} bits a weight",
        bytes(before),
        bytes(after),
        change(before, after),
        decided.bits_per_weight()
    )
}

/// What keeps the whole model from being as small as its weights are.
fn stays(decided: &Decided, ends: &Ends, file_bytes: u64) -> Option<String> {
    ends_text(decided, ends, file_bytes).map(|line| format!("stays  {line}"))
}

/// The result for a person.
pub(super) fn lines(summary: &Summary, model: &str, report: Option<&str>) -> Vec<String> {
    let written = &summary.written;
    let out = written.out.display().to_string();
    let kept = match written.kept_files {
        0 => String::new(),
        1 => "   1 file kept from an earlier run".to_owned(),
        n => format!("   {n} files kept from an earlier run"),
    };
    let mut lines = vec![
        format!(
            "wrote  {}  {} → {} ({})   {:.2} s   {}{kept}",
            Shown(&out),
            bytes(written.source_bytes),
            bytes(written.file_bytes),
            change(written.source_bytes, written.file_bytes),
            written.seconds,
            rate(written.source_bytes, written.seconds),
        ),
        packed(&summary.decided),
    ];
    let (known, all) = (summary.measured(), summary.matrices.len());
    if known > 0 {
        let floor =
            summary.floor.map(|f| format!("   {:.3} × the floor ({} groups)", f.ratio, grouped(f.groups)));
        let of = match known < all {
            true => format!("   of {} of {} matrices", grouped(known as u64), grouped(all as u64)),
            false => String::new(),
        };
        lines.push(format!("error  {}{}{of}", percent(summary.error.relative()), floor.unwrap_or_default()));
    }
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
    lines.extend(stays(&summary.decided, &summary.ends, written.file_bytes));
    if summary.error.odd > 0 {
        lines.push(format!("nan    {} numbers were taken for zeros", grouped(summary.error.odd)));
    }
    lines.extend(report.map(|report| format!("report {}", Shown(report))));
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
    let outputs: Vec<Value> = plan
        .outputs()
        .map(|t| json!({ "name": t.name, "from": t.from, "to": t.to.name(), "bytes": t.size_bytes }))
        .collect();
    json!({
        "out": options.out.display().to_string(),
        "dry_run": true,
        "scheme": decided.scheme(),
        "layout": settled.map(|s| s.layout.name),
        "group_size": settled.map(|s| s.group).filter(|&group| group != CHANNEL),
        "group": settled.map(|s| s.group_text()),
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
        "importance_bytes": options.quantize.importance.as_ref().map(|i| i.memory_bytes()),
        "kept": kept,
        "outputs": outputs,
        "files": files,
        "companions": plan.conversion.companion_names().collect::<Vec<_>>(),
        "files_left_out": plan.conversion.files_left_out,
        "lock": lock::plan_json(options.lock.as_ref(), plan.conversion.read_again_bytes),
        "ends": ends_json(&plan.ends, plan.conversion.file_bytes),
        "notes": notes,
        "warnings": warnings,
    })
}

/// What the run adds to its plan.
pub(super) fn done(mut document: Value, summary: &Summary, report: Option<&str>) -> Value {
    let written = &summary.written;
    if let Some(fields) = document.as_object_mut() {
        let mut put = |key: &str, value: Value| fields.insert(key.to_owned(), value);
        put("dry_run", false.into());
        put("seconds", json!(written.seconds));
        put("bytes_per_second", json!(written.source_bytes as f64 / written.seconds.max(1e-9)));
        put("cpu_seconds", json!(written.cpu_seconds));
        put("threads", json!(written.threads));
        put("kept_files", json!(written.kept_files));
        let relative = (summary.measured() > 0).then(|| summary.error.relative());
        put("error", json!(relative));
        put("snr_db", json!(relative.map(snr_db).filter(|x| x.is_finite())));
        put("measured", json!(summary.measured()));
        put("floor", summary.floor.as_ref().map_or(Value::Null, floor_json));
        put("odd", json!(summary.error.odd));
        let of = |m: &Measured| {
            let error = m.error?;
            Some(json!({
                "name": m.quantised.name,
                "error": error.relative(),
                "largest": error.largest,
                "bits_per_weight": m.bits_per_weight(),
                "form": m.quantised.form,
            }))
        };
        put("matrices", summary.matrices.iter().filter_map(of).collect());
        put("report", json!(report));
        put("peak_rss_bytes", json!(machine::peak_resident_bytes()));
        put("notes", json!(written.notes));
    }
    document
}
