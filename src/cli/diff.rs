//! `hoist diff`: arguments and output; the work is the library's.

use super::model::{self, Reach, Reads};
use super::output::{Align, Out, size_bytes, table};
use super::progress::Watch;
use super::{Common, model_text, signals};
use hoist::diff::{self, Difference, KeysDiff, Options, Report, TensorDiff, Values, Which};
use hoist::open::Model;
use hoist::text::{Shown, bytes, count, grouped, rate};
use hoist::{Error, ErrorKind, Result, machine};
use serde_json::{Value, json};
use std::ffi::OsString;

/// Lines of each kind that are shown without `-v`.
const SHOWN_MAX: usize = 20;

/// The arguments of `hoist diff`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit code 0: equal. 11: they differ. Between a GGUF and Hugging Face's names types may differ."
)]
pub(crate) struct Args {
    /// A file, a directory, an index, `org/name[@revision][:Q4_K_M]` of the Hugging Face hub, or a URL: `hf://…`, `s3://…`,
    /// `gs://…`, `az://…`, `https://…`
    a: OsString,
    /// The model that it is compared with
    b: OsString,
    /// Compare only tensors whose names match a pattern (GGUF's names, where one of the two is a GGUF)
    #[arg(long, alias = "filter", value_name = "GLOB", env = "HOIST_INCLUDE", hide_env_values = true)]
    include: Vec<String>,
    /// Leave out tensors whose names match a pattern
    #[arg(long, value_name = "GLOB", env = "HOIST_EXCLUDE", hide_env_values = true)]
    exclude: Vec<String>,
    /// Compare what stands beside the tensors too: a GGUF's keys, a safetensors header's metadata
    #[arg(long, env = "HOIST_METADATA", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    metadata: bool,
    /// Tensors may be of another type where all their values are the same numbers
    #[arg(long, env = "HOIST_IGNORE_DTYPE", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    ignore_dtype: bool,
    /// The most memory
    #[arg(long, value_name = "SIZE", value_parser = size_bytes, default_value = "512MiB", env = "HOIST_MEMORY", hide_env_values = true)]
    memory: u64,
    #[command(flatten)]
    reach: Reach,
}

/// Runs the command.
pub(crate) fn run(args: Args, common: &Common) -> Result<()> {
    let names = [model_text(&args.a)?.to_owned(), model_text(&args.b)?.to_owned()];
    let cancel = signals::cancelled();
    let mut warnings = Vec::new();
    let mut models = Vec::with_capacity(2);
    for name in &names {
        let model = model::open(name, &args.reach, Reads::All, common)?;
        for note in &model.table.notes {
            common.warn(note);
            warnings.push(note.clone());
        }
        models.push(model);
    }
    let facts: Vec<Value> = names.iter().zip(&models).map(|(name, model)| facts(name, model)).collect();
    let (Some(b), Some(a)) = (models.pop(), models.pop()) else {
        return Err(Error::bug("two models were opened and are not there"));
    };
    let options = Options {
        include: args.include,
        exclude: args.exclude,
        ignore_dtype: args.ignore_dtype,
        metadata: args.metadata,
        memory_bytes: args.memory,
        threads: common.threads.map(std::num::NonZeroUsize::get),
    };
    let job = diff::diff(a, b, options);
    Watch::new(common, "compare").follow(&job, cancel, false);
    let report =
        job.wait().map_err(|e| if signals::received().is_some() { signals::stopped() } else { e })?;
    report.notes.iter().for_each(|note| common.note(note));
    let mut out = Out::stdout();
    if common.json {
        out.json("hoist.diff/1", document(&facts, &report, &warnings))?;
    } else {
        for line in lines(&report, common.verbose > 0) {
            out.line(&line)?;
        }
    }
    out.finish()?;
    if report.is_equal() {
        return Ok(());
    }
    let [a, b] = names.map(|name| Shown(&name).to_string());
    Err(Error::new(ErrorKind::CheckFailed, format!("`{a}` and `{b}` differ: {}", parts(&report).join(", "))))
}

fn facts(name: &str, model: &Model) -> Value {
    let mut containers: Vec<String> = model.table.files.iter().map(|f| f.container.to_string()).collect();
    containers.dedup();
    let totals = model.table.totals();
    json!({
        "model": name,
        "commit": model.commit,
        "containers": containers,
        "files": model.table.files.len(),
        "tensors": model.table.tensors.len(),
        "elements": totals.elements,
        "bytes": totals.size_bytes,
    })
}

/// What differs, counted.
fn parts(report: &Report) -> Vec<String> {
    let of = |is: fn(&Difference) -> bool| report.differing.iter().filter(|d| is(&d.what)).count();
    let mut parts = Vec::new();
    for (n, what) in [
        (of(|d| matches!(d, Difference::Values(_))), "in values"),
        (of(|d| *d == Difference::Shape), "in shape"),
        (of(|d| matches!(d, Difference::Incomparable(_))), "of types that cannot be compared"),
        (of(|d| *d == Difference::DType), "in type only"),
        (report.only_a.len(), "only in A"),
        (report.only_b.len(), "only in B"),
    ] {
        if n > 0 {
            parts.push(format!("{} {what}", plural(n, "tensor")));
        }
    }
    if let Some(keys) = &report.keys {
        let n = keys.only_a.len() + keys.only_b.len() + keys.differing.len();
        if n > 0 {
            parts.push(plural(n, "key"));
        }
    }
    parts
}

fn plural(n: usize, word: &str) -> String {
    format!("{} {word}{}", grouped(n as u64), if n == 1 { "" } else { "s" })
}

/// A difference as it is read: three digits, and no more zeros than help.
fn number(x: f64) -> String {
    match x {
        0.0 => "0".to_owned(),
        x if (1e-2..1e6).contains(&x.abs()) => format!("{x:.3}"),
        x => format!("{x:.2e}"),
    }
}

fn shape(shape: &[u64]) -> String {
    let sizes: Vec<String> = shape.iter().map(u64::to_string).collect();
    format!("[{}]", sizes.join(", "))
}

/// The name of a tensor, with its other name where it has one.
fn name(diff: &TensorDiff) -> String {
    match &diff.name_b {
        None => Shown(&diff.name).to_string(),
        Some(other) => format!("{} (B: {})", Shown(&diff.name), Shown(other)),
    }
}

fn types(diff: &TensorDiff) -> String {
    match diff.dtypes {
        (a, b) if a == b => a.to_string(),
        (a, b) => format!("{a} → {b}"),
    }
}

/// One line a fact, the worst first, the sum last.
fn lines(report: &Report, verbose: bool) -> Vec<String> {
    let most = if verbose { usize::MAX } else { SHOWN_MAX };
    let mut lines = Vec::new();
    let mut list = |kind: &str, head: usize, all: Vec<String>| {
        let left = all.len().saturating_sub(most.saturating_add(head));
        let shown = all.len() - left;
        lines
            .extend(all.into_iter().take(shown).map(|line| format!("{kind:<9}{line}").trim_end().to_owned()));
        if left > 0 {
            lines.push(format!("{kind:<9}… and {} more; -v shows them", grouped(left as u64)));
        }
    };
    let mut rows: Vec<Vec<String>> = report.differing.iter().filter_map(row).collect();
    if !rows.is_empty() {
        let head = ["max abs", "max rel", "rms", "cosine", "differing", "of", "tensor", "type"];
        rows.insert(0, head.map(str::to_owned).to_vec());
        let align = [[Align::Right; 6].as_slice(), &[Align::Left; 2]].concat();
        list("values", 1, table(&align, &rows));
    }
    let of = |pick: fn(&TensorDiff) -> Option<String>| report.differing.iter().filter_map(pick).collect();
    list(
        "shape",
        0,
        of(|d| {
            let shapes = format!("{} ≠ {}", shape(&d.shapes.0), shape(&d.shapes.1));
            (d.what == Difference::Shape).then(|| format!("{}  {shapes}", name(d)))
        }),
    );
    list(
        "type",
        0,
        of(|d| match &d.what {
            Difference::Incomparable(why) => Some(format!("{}  {}  {why}", name(d), types(d))),
            Difference::DType => Some(format!("{}  {}  the same numbers", name(d), types(d))),
            _ => None,
        }),
    );
    let names = |names: &[String]| names.iter().map(|n| Shown(n).to_string()).collect();
    list("only A", 0, names(&report.only_a));
    list("only B", 0, names(&report.only_b));
    if let Some(keys) = &report.keys {
        let only = |names: &[String], which: &str| {
            names.iter().map(|n| format!("{}  only in {which}", Shown(n))).collect::<Vec<_>>()
        };
        let differing = keys.differing.iter().map(|(key, a, b)| format!("{}  {a} ≠ {b}", Shown(key)));
        list("key", 0, differing.chain(only(&keys.only_a, "A")).chain(only(&keys.only_b, "B")).collect());
    }
    for (which, why, names) in left_out(report) {
        let shown: Vec<String> =
            names.iter().take(if verbose { usize::MAX } else { 3 }).map(|n| Shown(n).to_string()).collect();
        let more = if shown.len() < names.len() { ", …" } else { "" };
        let what = plural(names.len(), "tensor");
        lines.push(format!("left out {what} of {which} ({why}): {}{more}", shown.join(", ")));
    }
    lines.push(summary(report));
    lines
}

fn summary(report: &Report) -> String {
    let compared = format!(
        "{} compared in {:.2} s   {}",
        bytes(report.bytes),
        report.seconds,
        rate(report.bytes, report.seconds)
    );
    if report.is_equal() {
        let keys = report.keys.as_ref().map(|k| format!(", {}", plural(k.equal, "key"))).unwrap_or_default();
        let what = plural(report.compared, "tensor");
        return format!("equal    {what}, {} elements{keys}   {compared}", count(report.elements));
    }
    let equal = format!("{} of {} equal", grouped(report.equal() as u64), plural(report.compared, "tensor"));
    format!("differ   {}   {equal}   {compared}", parts(report).join(", "))
}

/// Tensors that are no part of the comparison, by side and reason.
fn left_out(report: &Report) -> Vec<(char, &'static str, Vec<&str>)> {
    let mut groups: Vec<(char, &'static str, Vec<&str>)> = Vec::new();
    for (which, one) in &report.left_out {
        let which = if *which == Which::A { 'A' } else { 'B' };
        match groups.iter_mut().find(|g| (g.0, g.1) == (which, one.why)) {
            Some(group) => group.2.push(&one.name),
            None => groups.push((which, one.why, vec![&one.name])),
        }
    }
    groups
}

/// The numbers of a tensor whose values differ.
fn row(diff: &TensorDiff) -> Option<Vec<String>> {
    let Difference::Values(Values { elements, differing, not_finite, figures }) = &diff.what else {
        return None;
    };
    let figures = match figures {
        Some(f) => [number(f.max_abs), number(f.max_rel), number(f.rms), f.cosine.map_or("–".into(), cosine)],
        None => ["–"; 4].map(str::to_owned),
    };
    let mut row = figures.to_vec();
    let odd =
        if *not_finite > 0 { format!(" ({} NaN or infinite)", grouped(*not_finite)) } else { String::new() };
    row.extend([grouped(*differing), grouped(*elements), name(diff), format!("{}{odd}", types(diff))]);
    Some(row)
}

/// A cosine, with as many nines as it has and a digit more.
fn cosine(x: f64) -> String {
    let text = format!("{x:.12}");
    let nines =
        text.strip_prefix("0.").map_or(0, |digits| digits.len() - digits.trim_start_matches('9').len());
    format!("{x:.*}", (nines + 2).clamp(4, 12))
}

/// The result for a program.
fn document(facts: &[Value], report: &Report, warnings: &[String]) -> Value {
    let finite = |x: f64| if x.is_finite() { json!(x) } else { Value::Null };
    let differing: Vec<Value> = report
        .differing
        .iter()
        .map(|d| {
            let mut fields = json!({
                "name": d.name,
                "name_b": d.name_b,
                "dtype_a": d.dtypes.0.name(),
                "dtype_b": d.dtypes.1.name(),
                "shape_a": d.shapes.0,
                "shape_b": d.shapes.1,
                "differs_in": match &d.what {
                    Difference::Shape => "shape",
                    Difference::Incomparable(_) => "kind",
                    Difference::Values(_) => "values",
                    Difference::DType => "dtype",
                },
            });
            if let (Difference::Values(values), Some(fields)) = (&d.what, fields.as_object_mut()) {
                fields.insert("elements".into(), values.elements.into());
                fields.insert("differing".into(), values.differing.into());
                fields.insert("not_finite".into(), values.not_finite.into());
                if let Some(f) = &values.figures {
                    fields.insert("max_abs".into(), finite(f.max_abs));
                    fields.insert("max_rel".into(), finite(f.max_rel));
                    fields.insert("rms".into(), finite(f.rms));
                    fields.insert("cosine".into(), json!(f.cosine));
                    fields.insert("max_abs_at".into(), json!(f.at));
                }
            }
            fields
        })
        .collect();
    let left_out: Vec<Value> = report
        .left_out
        .iter()
        .map(|(which, l)| {
            json!({ "of": if *which == Which::A { "a" } else { "b" }, "name": l.name, "why": l.why })
        })
        .collect();
    let keys = report.keys.as_ref().map(|k: &KeysDiff| {
        let differing: Vec<Value> =
            k.differing.iter().map(|(key, a, b)| json!({ "key": key, "a": a, "b": b })).collect();
        json!({ "equal": k.equal, "only_a": k.only_a, "only_b": k.only_b, "differing": differing })
    });
    json!({
        "a": facts.first(),
        "b": facts.get(1),
        "equal": report.is_equal(),
        "tensors_compared": report.compared,
        "tensors_equal": report.equal(),
        "elements": report.elements,
        "differing": differing,
        "only_a": report.only_a,
        "only_b": report.only_b,
        "left_out": left_out,
        "metadata": keys,
        "translated": report.translated.map(|(which, family)| {
            json!({ "which": if which == Which::A { "a" } else { "b" }, "family": family })
        }),
        "bytes": report.bytes,
        "seconds": report.seconds,
        "bytes_per_second": report.bytes as f64 / report.seconds.max(1e-9),
        "cpu_seconds": report.cpu_seconds,
        "threads": report.threads,
        "peak_rss_bytes": machine::peak_resident_bytes(),
        "notes": report.notes,
        "warnings": warnings,
    })
}
