//! `hoist inspect`: arguments and output; the work is the library's.

use super::model::{self, Reach, Reads};
use super::output::{Align, Out, size_bytes, table};
use super::progress::Watch;
use super::{Common, say, signals};
use hoist::checkpoint::{Checkpoint, Tensor};
use hoist::inspect::fit::{Ask, Fit, MARGIN_BYTES, MARGIN_PART, Need, WAYS_MAX, device_free_bytes, fit};
use hoist::inspect::hash::{Digests, hash};
use hoist::inspect::tree::{Node, tree};
use hoist::inspect::{HeadKind, Options, Report, Sum, inspect};
use hoist::open::Model;
use hoist::sink::device::DeviceSpec;
use hoist::text::{Shown, bytes, count, rate};
use hoist::transform::config::Description;
use hoist::transform::select::Selection;
use hoist::{Error, Result};
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The arguments of `hoist inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The model: a file, a directory, an index file, or a repo in the cache
    model: OsString,
    /// Every tensor: name, dtype, shape, bytes, file, offset
    #[arg(long, env = "HOIST_TENSORS", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    tensors: bool,
    /// Names as a tree, layers that are alike as one
    #[arg(long, env = "HOIST_TREE", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    tree: bool,
    /// The model's digest, and with --tensors each tensor's: the same in any container, shards and order. Reads all
    #[arg(long, env = "HOIST_HASH", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    hash: bool,
    /// Only tensors whose names match; `*` also matches dots. May be repeated
    #[arg(long, alias = "filter", value_name = "GLOB", env = "HOIST_INCLUDE", hide_env_values = true)]
    include: Vec<String>,
    /// No tensors whose names match. May be repeated
    #[arg(long, value_name = "GLOB", env = "HOIST_EXCLUDE", hide_env_values = true)]
    exclude: Vec<String>,
    /// Whether it fits a device, or one with so much memory free: `cuda:0`, `80GB`
    #[arg(long, value_name = "DEVICE|SIZE", env = "HOIST_FIT", hide_env_values = true)]
    fit: Option<Target>,
    /// Positions cached for each sequence [default: the model's context, at most 8192]
    #[arg(long, value_name = "N", requires = "fit", env = "HOIST_CTX", hide_env_values = true)]
    ctx: Option<u64>,
    /// Sequences at once
    #[arg(
        long,
        value_name = "N",
        requires = "fit",
        env = "HOIST_BATCH",
        hide_env_values = true,
        default_value_t = 1
    )]
    batch: u64,
    #[command(flatten)]
    reach: Reach,
}

/// What a model is to fit.
#[derive(Debug, Clone)]
enum Target {
    /// A GPU.
    Device(DeviceSpec),
    /// So much free memory.
    Bytes(u64),
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Target, String> {
        if text.to_ascii_lowercase().starts_with("cuda") {
            return text
                .parse()
                .map(Target::Device)
                .map_err(|_: Error| "a device is `cuda:N` or `cuda:GPU-…`, as in `cuda:0`".to_owned());
        }
        size_bytes(text).map(Target::Bytes)
    }
}

/// The context assumed where none is asked for and the model's is larger.
const CONTEXT_DEFAULT_MAX: u64 = 8192;

/// The most notes that a terminal is given; a damaged file can have a million.
const NOTES_MAX: usize = 20;

/// Runs the command.
pub(crate) fn run(args: Args, common: &Common) -> Result<()> {
    let name = super::model_text(&args.model)?;
    let selection = Selection::new(&args.include, &args.exclude)?;
    let ask = match &args.fit {
        None => None,
        Some(Target::Bytes(free_bytes)) => Some(*free_bytes),
        Some(Target::Device(device)) => Some(device_free_bytes(device)?),
    };
    let cancel = args.hash.then(signals::cancelled);
    let model = model::open(name, &args.reach, Reads::of(!args.hash), common)?;
    let model = Arc::new(model);
    let report = inspect(&model, &Options { selection })?;
    for note in report.notes.iter().take(NOTES_MAX) {
        common.note(&Shown(note).to_string());
    }
    if report.notes.len() > NOTES_MAX {
        common.note(&format!("{} more notes, in --json", report.notes.len() - NOTES_MAX));
    }
    let fit = ask.map(|free_bytes| {
        let context = report.description.context.unwrap_or(CONTEXT_DEFAULT_MAX).min(CONTEXT_DEFAULT_MAX);
        fit(&report, Ask { free_bytes, context: args.ctx.unwrap_or(context), batch: args.batch })
    });
    let digests = match cancel {
        Some(cancel) => Some(digests(&model, &report, common, cancel)?),
        None => None,
    };
    let mut out = Out::stdout();
    if common.json {
        let mut document = summary_json(&report);
        if args.tensors {
            let mut tensors: Vec<Value> =
                report.picked.iter().map(|&i| tensor_json(&model.table, &model.table.tensors[i])).collect();
            for (tensor, (_, digest)) in tensors.iter_mut().zip(digests.iter().flat_map(|d| &d.tensors)) {
                tensor["blake3"] = digest.to_string().into();
            }
            document.insert("tensors".into(), tensors.into());
        }
        if let Some(digests) = &digests {
            document.insert("digest".into(), digests.model.to_string().into());
            document.insert("hashed_bytes".into(), digests.bytes.into());
            document.insert("hash_seconds".into(), digests.seconds.into());
        }
        if args.tree {
            document.insert("tree".into(), node_json(&tree(&model.table, &report.picked)));
        }
        if let Some(fit) = &fit {
            document.insert("fit".into(), fit_json(fit));
        }
        out.json("hoist.inspect/1", Value::Object(document))?;
        return out.finish();
    }
    if args.tensors {
        show_tensors(&mut out, &model, &report, digests.as_ref())?;
    }
    if args.tree {
        let mut rows = Vec::new();
        tree(&model.table, &report.picked).children.iter().for_each(|n| tree_rows(n, 0, &mut rows));
        let align = [Align::Left, Align::Right, Align::Right, Align::Left];
        table(&align, &rows).iter().try_for_each(|line| out.line(line))?;
    }
    if let Some(digests) = &digests {
        out.line(&format!("digest  {}", digests.model))?;
    }
    if !args.tensors && !args.tree && !args.hash && fit.is_none() {
        show_summary(&mut out, &report, common.verbose > 0)?;
    }
    if let Some(fit) = &fit {
        out.line(&headline(&report))?;
        show_fit(&mut out, &report, fit)?;
    }
    out.finish()
}

/// Hashes the selected tensors; says how fast on standard error.
fn digests(model: &Arc<Model>, report: &Report, common: &Common, cancel: &AtomicBool) -> Result<Digests> {
    let job = hash(Arc::clone(model), report.picked.clone(), common.threads.map(NonZeroUsize::get));
    Watch::new(common, "hash").follow(&job, cancel, false);
    let digests =
        job.wait().map_err(|e| if signals::received().is_some() { signals::stopped() } else { e })?;
    if !common.quiet {
        let Digests { bytes: size, seconds, threads, .. } = digests;
        say(&format!(
            "hashed {} in {seconds:.2} s   {}   {threads} threads",
            bytes(size),
            rate(size, seconds)
        ));
    }
    Ok(digests)
}

/// `Qwen3-8B   qwen3   8.19 B parameters   bf16   16.4 GB in 5 shards`
fn headline(report: &Report) -> String {
    let mut facts = vec![Shown(&report.name).to_string()];
    facts.extend(report.commit.as_deref().map(|c| format!("@{}", c.get(..8).unwrap_or(c))));
    facts.extend(report.description.family.as_deref().map(|f| Shown(f).to_string()));
    facts.push(format!("{} parameters", count(report.total.parameters)));
    facts.push(dtype_mix(report));
    if let Some(q) = &report.description.quantisation {
        facts.push(Shown(&q.summary()).to_string());
    }
    let files = match report.files {
        1 => String::new(),
        n => format!(" in {n} shards"),
    };
    facts.push(format!("{}{files}", bytes(report.total.size_bytes)));
    facts.join("   ")
}

/// The element types, most bytes first; a few small ones by number.
fn dtype_mix(report: &Report) -> String {
    const SHOWN_MAX: usize = 4;
    let names: Vec<_> = report.dtypes.iter().map(|(d, _)| d.name()).collect();
    match names.len() {
        0 => "no tensors".to_owned(),
        n if n > SHOWN_MAX => format!("{} and {} more", names[..SHOWN_MAX].join(" "), n - SHOWN_MAX),
        _ => names.join(" "),
    }
}

fn show_summary(out: &mut Out, report: &Report, verbose: bool) -> Result<()> {
    out.line(&headline(report))?;
    let d = &report.description;
    let sizes = size_facts(d, report);
    if !sizes.is_empty() {
        out.line(&format!("  {}", sizes.join("   ")))?;
    }
    if report.total.tensors < report.tensors_in_model {
        out.line(&format!("  {} of {} tensors selected", report.total.tensors, report.tensors_in_model))?;
    }
    // The largest part has twelve blocks.
    const BAR: f64 = 12.0;
    let most = report.groups.iter().map(|(_, sum)| sum.size_bytes).max().unwrap_or(0).max(1);
    for (group, sum) in &report.groups {
        let bar = "▇".repeat((sum.size_bytes as f64 / most as f64 * BAR).round() as usize);
        let line = format!("  {:<9}  {:>3}   {:>6}  {bar}", group.name(), sum.tensors, bytes(sum.size_bytes));
        out.line(line.trim_end())?;
    }
    let yes = |b: bool| if b { "yes" } else { "no" };
    let tokenizer = match &report.tokenizer {
        None => "no".to_owned(),
        Some(t) => {
            let vocab = t.vocab.map(|n| format!(" {n}")).unwrap_or_default();
            let pre = t.pre.as_ref().map(|p| format!(" pre {p}")).unwrap_or_default();
            format!("{}{vocab}{pre}", t.kind)
        }
    };
    out.line(&format!(
        "  tokenizer {tokenizer}   chat template {}   generation config {}",
        yes(report.chat_template),
        yes(report.generation_config)
    ))?;
    if verbose {
        for line in verbose_facts(d, report) {
            out.line(&format!("  {line}"))?;
        }
    }
    Ok(())
}

/// `layers 36`, `hidden 4096` …: what is known.
fn size_facts(d: &Description, report: &Report) -> Vec<String> {
    let mut facts = Vec::new();
    let mut fact = |name: &str, n: Option<u64>| facts.extend(n.map(|n| format!("{name} {n}")));
    fact("layers", d.layers);
    fact("hidden", d.hidden);
    match (d.heads, d.kv_heads) {
        (Some(heads), Some(kv)) if heads != kv && d.mla.is_none() => {
            facts.push(format!("heads {heads} ({kv} key/value)"));
        }
        (heads, _) => fact("heads", heads),
    }
    let mut fact = |name: &str, n: Option<u64>| facts.extend(n.map(|n| format!("{name} {n}")));
    fact("vocabulary", d.vocab);
    fact("context", d.context);
    fact("window", d.sliding_window);
    if let Some(e) = d.experts {
        let used = e.used.map(|n| format!(" ({n} used)")).unwrap_or_default();
        let shared = e.shared.filter(|&n| n > 0).map(|n| format!(" + {n} shared")).unwrap_or_default();
        facts.push(format!("experts {}{used}{shared}", e.count));
    }
    facts.extend(report.head.map(|head| format!("head {}", head_word(head))));
    facts
}

fn head_word(head: HeadKind) -> &'static str {
    match head {
        HeadKind::Untied => "untied",
        HeadKind::Tied => "tied",
    }
}

/// What `-v` adds, one fact a line.
fn verbose_facts(d: &Description, report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = |name: &str, value: Option<String>| {
        lines.extend(value.filter(|v| !v.is_empty()).map(|v| format!("{name} {}", Shown(&v))));
    };
    line("commit", report.commit.clone());
    line(
        "written as",
        Some(report.containers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    );
    line("task", d.task.map(str::to_owned));
    line("architectures", Some(d.architectures.join(", ")));
    line("intermediate", d.intermediate.map(|n| n.to_string()));
    line("head size", d.head_dim.map(|n| n.to_string()));
    line("expert intermediate", d.experts.and_then(|e| e.intermediate).map(|n| n.to_string()));
    line("latent attention", d.mla.map(|m| format!("rank {}, rotary {}", m.kv_rank, m.rope_dim)));
    for rope in &d.rope {
        let mut facts = Vec::new();
        facts.extend(rope.layer_type.clone());
        facts.extend(rope.theta.map(|t| format!("base {t}")));
        facts.extend(rope.scaling.clone());
        facts.extend(rope.parameters.iter().map(|(k, v)| format!("{k} {v}")));
        line("rope", Some(facts.join(", ")));
    }
    for (dtype, sum) in &report.dtypes {
        line(dtype.name(), Some(format!("{} tensors, {}", sum.tensors, bytes(sum.size_bytes))));
    }
    lines
}

fn shape_text(shape: &[u64]) -> String {
    let sizes: Vec<_> = shape.iter().map(u64::to_string).collect();
    format!("[{}]", sizes.join(", "))
}

fn show_tensors(out: &mut Out, model: &Model, report: &Report, digests: Option<&Digests>) -> Result<()> {
    let heads = ["name", "dtype", "shape", "bytes", "file", "offset"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(report.picked.iter().map(|&i| {
        let t = &model.table.tensors[i];
        vec![
            Shown(&t.name).to_string(),
            t.dtype.to_string(),
            shape_text(&t.shape),
            t.size_bytes().to_string(),
            file_name(&model.table, t),
            t.at.span.offset_bytes.to_string(),
        ]
    }));
    let mut align = vec![Align::Left, Align::Left, Align::Left, Align::Right, Align::Left, Align::Right];
    if let Some(digests) = digests {
        align.push(Align::Left);
        let column = digests.tensors.iter().map(|(_, digest)| digest.to_string());
        let column = std::iter::once("blake3".to_owned()).chain(column);
        rows.iter_mut().zip(column).for_each(|(row, cell)| row.push(cell));
    }
    table(&align, &rows).iter().try_for_each(|line| out.line(line))
}

fn file_name(table: &Checkpoint, tensor: &Tensor) -> String {
    table.files.get(tensor.at.span.file.index()).map(|f| Shown(&f.name).to_string()).unwrap_or_default()
}

fn tree_rows(node: &Node, depth: usize, rows: &mut Vec<Vec<String>>) {
    let leaf = node.leaf.as_ref().map(|(dtype, shape)| format!("{dtype} {}", shape_text(shape)));
    rows.push(vec![
        format!("{}{}", "  ".repeat(depth), Shown(&node.label)),
        node.tensors.to_string(),
        bytes(node.size_bytes),
        leaf.unwrap_or_default(),
    ]);
    node.children.iter().for_each(|child| tree_rows(child, depth + 1, rows));
}

fn show_fit(out: &mut Out, report: &Report, fit: &Fit) -> Result<()> {
    let Ask { free_bytes, context, batch } = fit.ask;
    let cache = match fit.cache_bytes {
        Some(n) => bytes(n),
        None => "unknown".to_owned(),
    };
    let sum = |need: &Need| bytes(need.total_bytes());
    let verdict = |need: &Need| if fit.holds(need) { "fits" } else { "does not fit" };
    let without =
        if fit.cache_bytes.is_none() { ", the cache left out: the config lacks its sizes" } else { "" };
    out.line(&format!("  {} {} free{without}", verdict(&fit.one), bytes(free_bytes)))?;
    let rows = [
        ("weights", bytes(fit.one.weights_bytes), String::new()),
        ("cache", cache, format!("keys and values of {context} positions × {batch}, 16 bits each")),
        (
            "margin",
            bytes(fit.one.margin_bytes),
            format!(
                "{} MiB for the driver, 1/{MARGIN_PART} of weights and cache for activations",
                MARGIN_BYTES >> 20
            ),
        ),
        ("needed", sum(&fit.one), String::new()),
    ];
    let rows = rows.map(|(name, size, why)| vec![format!("  {name}"), size, why]);
    table(&[Align::Left, Align::Right, Align::Left], &rows).iter().try_for_each(|line| out.line(line))?;
    let heads = report.description.heads.is_some();
    out.line(&match &fit.fewest {
        Some(n) if n.ways == 1 => "  gpus 1".to_owned(),
        Some(n) => format!("  gpus {}   {} on each (tensor parallel)", n.ways, sum(n)),
        None if heads => format!("  gpus more than {WAYS_MAX} of this size, or none that divide the heads"),
        None => "  gpus unknown: the model does not say how many heads it has".to_owned(),
    })?;
    let rows: Vec<_> = fit
        .schemes
        .iter()
        .map(|(s, need)| {
            let why = format!("{:.2} bits a weight", s.bits);
            vec![format!("  {}", s.name), sum(need), verdict(need).to_owned(), why]
        })
        .collect();
    table(&[Align::Left, Align::Right, Align::Left, Align::Left], &rows)
        .iter()
        .try_for_each(|line| out.line(line))
}

fn sum_json(sum: &Sum) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("tensors".into(), sum.tensors.into());
    map.insert("parameters".into(), sum.parameters.into());
    map.insert("size_bytes".into(), sum.size_bytes.into());
    map
}

fn summary_json(report: &Report) -> Map<String, Value> {
    let named = |name: &str, key: &str, sum: &Sum| {
        let mut map = Map::from_iter([(key.to_owned(), Value::from(name))]);
        map.extend(sum_json(sum));
        Value::Object(map)
    };
    let d = &report.description;
    let mut map = Map::new();
    let mut put = |key: &str, value: Value| drop(map.insert(key.to_owned(), value));
    put("name", report.name.as_str().into());
    put("commit", report.commit.as_deref().into());
    put("family", d.family.as_deref().into());
    put("containers", report.containers.iter().map(|c| c.to_string().to_lowercase()).collect());
    put("files", report.files.into());
    put("tensors_in_model", report.tensors_in_model.into());
    put("total", Value::Object(sum_json(&report.total)));
    put("dtypes", report.dtypes.iter().map(|(d, sum)| named(d.name(), "dtype", sum)).collect());
    put("groups", report.groups.iter().map(|(g, sum)| named(g.name(), "group", sum)).collect());
    put("description", description_json(d));
    put("head", report.head.map(head_word).into());
    put(
        "tokenizer",
        report
            .tokenizer
            .as_ref()
            .map_or(Value::Null, |t| json!({"kind": t.kind, "vocabulary": t.vocab, "pre": t.pre})),
    );
    put("chat_template", report.chat_template.into());
    put("generation_config", report.generation_config.into());
    put("notes", report.notes.iter().map(String::as_str).collect());
    map
}

fn description_json(d: &Description) -> Value {
    let rope = d.rope.iter().map(|r| {
        let parameters: Map<_, _> = r.parameters.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        json!({"layer_type": r.layer_type, "theta": r.theta, "scaling": r.scaling, "parameters": parameters})
    });
    let experts = d.experts.map(
        |e| json!({"count": e.count, "used": e.used, "shared": e.shared, "intermediate": e.intermediate}),
    );
    let quantisation =
        d.quantisation.as_ref().map(|q| json!({"method": q.method, "bits": q.bits, "group_size": q.group}));
    json!({
        "architectures": d.architectures, "task": d.task, "layers": d.layers, "hidden": d.hidden,
        "intermediate": d.intermediate, "heads": d.heads, "key_value_heads": d.kv_heads, "head_dim": d.head_dim,
        "vocabulary": d.vocab, "context": d.context, "sliding_window": d.sliding_window,
        "rope": rope.collect::<Value>(), "experts": experts,
        "latent_attention": d.mla.map(|m| json!({"rank": m.kv_rank, "rotary": m.rope_dim})),
        "dtype": d.dtype.map(|d| d.name()), "quantisation": quantisation,
    })
}

fn tensor_json(table: &Checkpoint, t: &Tensor) -> Value {
    json!({
        "name": t.name, "dtype": t.dtype.name(), "shape": t.shape, "size_bytes": t.size_bytes(),
        "file": table.files.get(t.at.span.file.index()).map(|f| f.name.as_str()), "offset_bytes": t.at.span.offset_bytes,
        "contiguous": t.at.is_plain(),
    })
}

fn node_json(node: &Node) -> Value {
    let mut map = Map::new();
    map.insert("label".into(), node.label.as_str().into());
    map.insert("tensors".into(), node.tensors.into());
    map.insert("size_bytes".into(), node.size_bytes.into());
    if let Some((dtype, shape)) = &node.leaf {
        map.insert("dtype".into(), dtype.name().into());
        map.insert("shape".into(), shape.as_slice().into());
    }
    if !node.children.is_empty() {
        map.insert("children".into(), node.children.iter().map(node_json).collect());
    }
    Value::Object(map)
}

fn fit_json(fit: &Fit) -> Value {
    let need = |n: &Need| {
        json!({
            "gpus": n.ways, "weights_bytes": n.weights_bytes, "cache_bytes": n.cache_bytes,
            "margin_bytes": n.margin_bytes, "needed_bytes": n.total_bytes(), "fits": fit.holds(n),
        })
    };
    let schemes = fit.schemes.iter().map(|(s, n)| json!({"scheme": s.name, "bits": s.bits, "one": need(n)}));
    json!({
        "free_bytes": fit.ask.free_bytes, "context": fit.ask.context, "batch": fit.ask.batch,
        "cache_bytes": fit.cache_bytes, "one": need(&fit.one), "fewest": fit.fewest.as_ref().map(need),
        "schemes": schemes.collect::<Value>(),
    })
}
