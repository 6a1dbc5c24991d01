//! Reports of what quantising lost: the three forms say the same, hold whatever a file names its tensors, and stay small.

use crate::cli::{code, hoist, text};
use crate::families::model;
use crate::naive::testdata;
use hoist::dtype::DType;
use hoist::quantize::report::{About, Format, text as report};
use hoist::quantize::{Kept, Measured, Options, Plan, Summary, quantize};
use hoist::transform::method::Method;
use hoist::{convert::Quantised, convert::Why};
use serde_json::Value;
use std::path::Path;
use std::process::Output;

const SMALL: &str = "rustdoc-llama-6m";
const ABOUT: About<'static> = About { model: "org/name", out: "OUT" };

fn run(model: &Path, method: Method, group: u64) -> Summary {
    let place = tempfile::tempdir().unwrap();
    let mut options = Options::new(place.path().join("out"), "int4").unwrap();
    options.quantize.asked.method = Some(method);
    options.quantize.asked.group = Some(group);
    let model = hoist::open::open(model.to_str().unwrap(), &Default::default()).unwrap();
    quantize(model, options).wait().unwrap()
}

/// `hoist quantize MODEL -o OUT …`.
fn command(model: &Path, out: &Path, more: &[&str]) -> Output {
    let mut arguments = vec!["quantize", model.to_str().unwrap(), "-o", out.to_str().unwrap()];
    arguments.extend(more);
    hoist(&arguments).output().unwrap()
}

/// A summary with these matrices in place of its own.
fn with(summary: &Summary, names: impl IntoIterator<Item = String>) -> Summary {
    let error = summary.matrices[0].error;
    let matrices = names.into_iter().map(|name| {
        let shape = vec![768, 2048];
        let quantised = Quantised {
            name,
            shape,
            form: "pack-quantized".into(),
            before_bytes: 3 << 20,
            after_bytes: 817_889,
        };
        Measured { quantised, method: "search", error }
    });
    Summary { matrices: matrices.collect(), ..summary.clone() }
}

/// RFC 4180, by its own rules.
fn parse_csv(text: &str) -> Vec<Vec<String>> {
    let (mut lines, mut line, mut field) = (Vec::new(), Vec::new(), String::new());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if field.is_empty() => loop {
                match chars.next().expect("a quote is closed") {
                    '"' if chars.peek() == Some(&'"') => field.extend(chars.next()),
                    '"' => break,
                    c => field.push(c),
                }
            },
            '"' => panic!("a quote within a field that has none around it"),
            ',' => line.push(std::mem::take(&mut field)),
            '\r' => {
                assert_eq!(chars.next(), Some('\n'));
                line.push(std::mem::take(&mut field));
                lines.push(std::mem::take(&mut line));
            }
            '\n' => panic!("a bare end of line"),
            c => field.push(c),
        }
    }
    assert!(line.is_empty() && field.is_empty(), "the last line has an end");
    lines
}

/// Tags are closed in their order, attributes quoted, nothing runs and nothing is loaded.
fn check_html(page: &str) {
    for never in
        ["<script", "javascript:", "onload", "@import", "url(", "<img", "<link", "<iframe", " src=", " href="]
    {
        assert!(!page.contains(never), "{never}");
    }
    assert_eq!(page.matches("http").count(), page.matches("\"http://www.w3.org/2000/svg\"").count());
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        let end = at + rest[at..].find('>').expect("a tag has an end");
        let tag = &rest[at + 1..end];
        assert!(!tag.contains('<'), "{tag}");
        let name = tag.trim_start_matches('/').split([' ', '\n']).next().unwrap();
        match tag.chars().next() {
            Some('/') => assert_eq!(open.pop(), Some(name), "closed in order"),
            Some('!') => {}
            _ if tag.ends_with('/') || name == "meta" => {}
            _ => open.push(name),
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "{open:?}");
}

fn cells(page: &str) -> usize {
    page.matches("<rect class=\"c ").count()
}

#[test]
fn the_three_forms_say_the_same() {
    let place = tempfile::tempdir().unwrap();
    let model = testdata(SMALL);
    let read = |form: &str| {
        let file = place.path().join(format!("report.{form}"));
        let out = place.path().join(form);
        let output = command(&model, &out, &["--report", file.to_str().unwrap()]);
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        let said = text(&output.stdout);
        assert!(said.contains(&format!("report {}", file.display())), "{said}");
        assert!(
            said.contains(" × the floor (") && said.contains("packed ") && said.contains("(−7"),
            "{said}"
        );
        std::fs::read_to_string(file).unwrap()
    };
    let json: Value = serde_json::from_str(&read("json")).unwrap();
    let table = parse_csv(&read("csv"));
    let page = read("html");
    assert_eq!(json["schema"], "hoist.quantize.report/1");
    let matrices = json["matrices"].as_array().unwrap();
    let kept = json["kept"].as_array().unwrap();
    assert_eq!((matrices.len(), kept.len()), (35, 2));
    // The table.
    let header = &table[0];
    assert!(table.iter().all(|line| line.len() == header.len()));
    assert_eq!(table.len(), 1 + matrices.len() + kept.len());
    let column = |name: &str| header.iter().position(|h| h == name).unwrap();
    for (line, matrix) in table[1..].iter().zip(matrices) {
        assert_eq!(line[column("name")], matrix["name"].as_str().unwrap());
        assert_eq!(line[column("layer")], matrix["layer"].to_string());
        for (theirs, ours) in [
            ("relative_error", "error"),
            ("largest_error", "largest"),
            ("snr_db", "snr_db"),
            ("bits_per_weight", "bits_per_weight"),
        ] {
            let (table, document) =
                (line[column(theirs)].parse::<f64>().unwrap(), matrix[ours].as_f64().unwrap());
            assert!((table / document - 1.0).abs() < 1e-12, "{theirs}: {table}, {document}");
        }
        let (error, snr) = (matrix["error"].as_f64().unwrap(), matrix["snr_db"].as_f64().unwrap());
        assert!((0.05..0.2).contains(&error) && (10f64.powf(-snr / 20.0) / error - 1.0).abs() < 1e-9);
    }
    // Totals follow from the lines.
    let totals = &json["totals"];
    let sum = |key: &str| matrices.iter().map(|m| m[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!(totals["weights"], sum("numbers"));
    assert_eq!(totals["weight_bytes"], sum("bytes"));
    assert_eq!(totals["weight_bytes_before"], sum("bytes_before"));
    let floor = &json["floor"];
    let ratio = floor["ratio"].as_f64().unwrap();
    assert!((1.0..1.01).contains(&ratio) && floor["groups"] == 512, "{floor}");
    // Half of this model is vocabulary.
    let ends = &json["ends"];
    assert_eq!(ends["matrices"], 2);
    assert_eq!(ends["bytes"], 2 * 4096 * 256 * 2);
    assert!(ends["file_bytes_if_narrow"].as_u64().unwrap() < totals["file_bytes"].as_u64().unwrap() * 7 / 10);
    // The page.
    check_html(&page);
    assert_eq!(cells(&page), 5 * 7, "a cell for each layer and projection");
    for said in ["layer 4 down_proj: ", "embedding and head are ", "prefers-color-scheme:dark"] {
        assert!(page.contains(said), "{said}");
    }
    assert!(page.len() < 64 << 10, "{} bytes", page.len());
}

#[test]
fn the_floor_is_the_same_in_every_run_and_shows_what_a_search_wins() {
    let [one, two] = [1, 2].map(|_| run(&testdata(SMALL), Method::Search, 128).floor.unwrap());
    assert_eq!((one.ratio, one.groups), (two.ratio, two.groups));
    assert!(one.ratio >= 1.0 - 1e-6 && one.ratio < 1.005, "{one:?}");
    let plain = run(&testdata(SMALL), Method::Rtn, 128).floor.unwrap();
    assert!(plain.ratio > 1.03, "{plain:?}");
    assert_eq!(plain.groups, one.groups);
    // Fused experts, turned in the file: rows there are dear to read, and there are fewer of them.
    let place = tempfile::tempdir().unwrap();
    let source = model::write(&model::spec("llama4"), place.path());
    let turned = run(&source, Method::Search, 32).floor.unwrap();
    assert!(turned.ratio >= 1.0 - 1e-6 && turned.ratio < 1.02 && turned.groups > 100, "{turned:?}");
}

#[test]
fn a_mixture_of_many_experts_stays_small() {
    let summary = run(&testdata(SMALL), Method::Rtn, 128);
    let projections = ["gate_proj", "up_proj", "down_proj"];
    let names = (0..64).flat_map(|layer| {
        let attention = ["q_proj", "k_proj", "v_proj", "o_proj"]
            .map(|p| format!("model.layers.{layer}.self_attn.{p}.weight"));
        let experts = (0..128).flat_map(move |expert| {
            projections.map(|p| format!("model.layers.{layer}.mlp.experts.{expert}.{p}.weight"))
        });
        attention.into_iter().chain(experts).collect::<Vec<_>>()
    });
    let summary = with(&summary, names);
    let page = report(Format::Html, &summary, &ABOUT);
    check_html(&page);
    assert_eq!(cells(&page), 64 * 7);
    assert!(page.len() < 300_000, "{} bytes", page.len());
    assert!(page.contains("layer 63 experts.down_proj: ") && page.contains(" together, worst "));
    assert_eq!(parse_csv(&report(Format::Csv, &summary, &ABOUT)).len(), 1 + 64 * (4 + 3 * 128) + 2);
}

#[test]
fn names_from_a_file_are_only_text() {
    let summary = run(&testdata(SMALL), Method::Rtn, 128);
    let hostile = [
        "</title><script>alert(1)</script>".to_owned(),
        "model.layers.0.\"onload=\"x".to_owned(),
        "model.layers.1.a'b&c<d>".to_owned(),
        "=HYPERLINK(\"http://x\",\"y\")".to_owned(),
        "@sum".to_owned(),
        "-1+1".to_owned(),
        "a,b\r\nc\u{1b}[31m\u{202e}".to_owned(),
        "\"".to_owned(),
        String::new(),
        "model.layers.7.".to_owned() + &"x".repeat(100_000),
        "layers.18446744073709551615.q".to_owned(),
    ];
    let mut summary = with(&summary, hostile.clone());
    summary.kept = vec![Kept {
        name: hostile[0].clone(),
        shape: vec![1],
        dtype: DType::BF16,
        size_bytes: 2,
        why: Why::Fused(hostile[3].clone()),
    }];
    let about = About { model: &hostile[0], out: &hostile[6] };
    let page = report(Format::Html, &summary, &about);
    // What a page says of them is escaped, so that none of it is a tag or an address that anything follows.
    let plain = page.replace("http://x", "").replace("onload=&quot;", "");
    check_html(&plain);
    assert!(page.contains("&lt;script&gt;") && page.contains("\\u{1b}") && page.len() < 64 << 10);
    assert!(!page.contains('\u{1b}') && !page.contains('\u{202e}'));
    let table = parse_csv(&report(Format::Csv, &summary, &about));
    assert_eq!(table.len(), 1 + hostile.len() + 1);
    assert_eq!(table[4][0], "'=HYPERLINK(\"http://x\",\"y\")");
    assert_eq!((table[5][0].as_str(), table[6][0].as_str()), ("'@sum", "'-1+1"));
    assert_eq!(table[7][0], "a,b\\u{d}\\u{a}c\\u{1b}[31m\u{202e}");
    assert_eq!(table[8][0], "\"");
    let json: Value = serde_json::from_str(&report(Format::Json, &summary, &about)).unwrap();
    for (matrix, name) in json["matrices"].as_array().unwrap().iter().zip(&hostile) {
        assert_eq!(matrix["name"], *name);
    }
    // Very many layers and very many projections are counted and not drawn.
    let many = (0..3000).map(|i| format!("layers.{}.p{}", i * 7, i % 100));
    let page = report(Format::Html, &with(&summary, many), &about);
    assert!(
        cells(&page) <= 48 * 256 && page.contains("Drawn are 256 of 3,000 layers and 48 of 100 projections")
    );
}

#[test]
fn what_was_not_measured_is_said() {
    let mut summary = run(&testdata(SMALL), Method::Rtn, 128);
    for matrix in summary.matrices.iter_mut().skip(10) {
        matrix.error = None;
    }
    let page = report(Format::Html, &summary, &ABOUT);
    check_html(&page);
    assert!(page.contains("Errors are those of 10 of 35 matrices"));
    assert_eq!(cells(&page), 35);
    assert_eq!(page.matches("<rect class=\"c none\"").count(), 25);
    let json: Value = serde_json::from_str(&report(Format::Json, &summary, &ABOUT)).unwrap();
    assert_eq!(json["totals"]["measured"], 10);
    assert!(json["matrices"][20]["error"].is_null() && json["matrices"][20]["bytes"].is_u64());
    let table = parse_csv(&report(Format::Csv, &summary, &ABOUT));
    let error = table[0].iter().position(|h| h == "relative_error").unwrap();
    assert!(!table[10][error].is_empty() && table[11][error].is_empty());
    // None at all: no scale, no ten worst, and no figure that would be a guess.
    summary.matrices.iter_mut().for_each(|m| m.error = None);
    let page = report(Format::Html, &summary, &ABOUT);
    check_html(&page);
    assert!(!page.contains("Relative error</dt>") && !page.contains("<h2>The worst</h2>"));
}

#[test]
fn a_report_never_costs_the_model() {
    let place = tempfile::tempdir().unwrap();
    let model = testdata(SMALL);
    let copy = place.path().join("model");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(&model).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let out = place.path().join("out");
    std::fs::write(place.path().join("there.csv"), "mine").unwrap();
    std::fs::create_dir(place.path().join("folder.html")).unwrap();
    for (report, force, expected, part) in [
        ("report.pdf", false, 2, "is no name of a report"),
        ("report", false, 2, ".html, .json or .csv"),
        ("there.csv", false, 1, "exists already"),
        ("no/such/report.html", false, 3, "no folder"),
        ("folder.html", true, 1, "is a directory"),
        ("out/report.html", true, 2, "the model is written to"),
        ("model/config.json", true, 1, "is a file of the model"),
    ] {
        let report = if report.starts_with("out/") {
            // OUT is made by the run.
            std::fs::create_dir_all(&out).unwrap();
            place.path().join(report)
        } else {
            place.path().join(report)
        };
        let mut more = vec!["--report", report.to_str().unwrap()];
        more.extend(force.then_some("--force"));
        let output = command(&copy, &out, &more);
        let said = text(&output.stderr);
        assert!(code(&output) == expected && said.contains(part), "{report:?}: {} {said}", code(&output));
        let _ = std::fs::remove_dir(&out);
        assert!(!out.exists(), "{report:?}: nothing is written");
    }
    assert_eq!(std::fs::read_to_string(place.path().join("there.csv")).unwrap(), "mine");
    // Another report is replaced where a person says so.
    let report = place.path().join("there.csv");
    std::fs::write(&report, "name,layer,projection,expert,shape\n").unwrap();
    let more = ["--report", report.to_str().unwrap(), "--force", "--method", "rtn", "--json"];
    // A dry run measures nothing, and says so.
    let output = command(&copy, &out, &[&more[..], &["--dry-run"]].concat());
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let notes = said["notes"].as_array().unwrap();
    assert!(notes.iter().any(|n| n.as_str().unwrap().starts_with("no report is written")), "{said}");
    assert!(std::fs::read_to_string(&report).unwrap().starts_with("name,layer,") && !out.exists());
    let output = command(&copy, &out, &more);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["report"], report.to_str().unwrap());
    assert!(said["floor"]["ratio"].as_f64().unwrap() > 1.0 && said["measured"] == 35);
    assert_eq!(parse_csv(&std::fs::read_to_string(&report).unwrap()).len(), 38);
    let left: Vec<_> = std::fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|n| n.to_string_lossy().starts_with(".there.csv.hoist")), "{left:?}");
}

#[test]
fn embedding_and_head_are_told_where_they_are_much() {
    let place = tempfile::tempdir().unwrap();
    let options = Options::new(place.path().join("out"), "int4").unwrap();
    let model = hoist::open::open(testdata(SMALL).to_str().unwrap(), &Default::default()).unwrap();
    let plan = Plan::new(&model, &options).unwrap();
    let (ends, file_bytes) = (plan.ends, plan.conversion.file_bytes);
    assert!(ends.are_large(file_bytes) && !ends.quantised);
    assert_eq!(ends.numbers, 2 * 4096 * 256);
    let bits = plan.decided.bits_per_weight();
    assert_eq!(ends.narrow_bytes, (ends.numbers as f64 * bits / 8.0) as u64);
    // Arguments, and what is said of what stays; nothing where it is empty.
    for (arguments, out, stays) in [
        (
            &[][..],
            "out",
            "embedding and head are 4.2 MB of 6.5 MB (64 %), which engines of this layout take as they are; ",
        ),
        (
            &["--also", "lm_head.weight"],
            "out",
            "the embedding is 2.1 MB of 5.0 MB (42 %), which engines of this layout take as it is; ",
        ),
        (&["--scheme", "mlx"], "out", ""),
        (
            &["--scheme", "mlx", "--keep", "*embed*"],
            "out",
            "the embedding is 2.1 MB of 5.2 MB (40 %), kept as asked for; with",
        ),
        (&[], "out.gguf", "all at q4_k the file would be 3.7 MB: --embedding-type q4_k --output-type q4_k\n"),
        (
            &["--keep", "output.weight"],
            "out.gguf",
            "kept as asked for; all at q4_k the file would be 3.7 MB\n",
        ),
        (&["--output-type", "f16"], "out.gguf", "kept as asked for; all at q4_k the file would be 3.7 MB\n"),
        // No expert is there to be mxfp4, and all else is q8_0.
        (&["--scheme", "mxfp4"], "out.gguf", ""),
        (&["--pure"], "out.gguf", ""),
    ] {
        let output =
            command(&testdata(SMALL), &place.path().join(out), &[arguments, &["--dry-run"]].concat());
        let said = text(&output.stdout);
        assert!(said.contains("\npacked "), "{arguments:?}: {said}");
        let line = said.split_inclusive('\n').find(|line| line.starts_with("stays  "));
        let is_said = line.is_some_and(|line| !stays.is_empty() && line.contains(stays));
        assert!(is_said || line.is_none() && stays.is_empty(), "{arguments:?}: {said}");
    }
}

/// What is advised gives what is said; nothing is, where rows fill no smaller blocks and positions are never quantised.
#[test]
fn advice_about_the_ends_is_true() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out.gguf");
    let read = |model: &Path, more: &[&str]| {
        let output = command(model, &out, &[more, &["--dry-run"]].concat());
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        text(&output.stdout).to_string()
    };
    let said = read(&testdata(SMALL), &["--tensor-type", "token_embd*=q8_0"]);
    let line = said.lines().find(|line| line.starts_with("stays  ")).unwrap_or_else(|| panic!("{said}"));
    let (_, rest) = line.split_once("the file would be ").unwrap();
    let (size, flags) = rest.split_once(": ").unwrap();
    let then = read(&testdata(SMALL), &flags.split(' ').collect::<Vec<_>>());
    assert!(then.contains(&format!("→ {size} out")), "{line}\n{then}");
    let bert = model::write(&model::spec("bert"), place.path());
    let said = read(&bert, &[]);
    assert!(
        said.contains("kept: 2 tensors (by llama-quantize's rules)") && !said.contains("stays"),
        "{said}"
    );
}

/// Every tensor of a plan, with what it was and what it becomes; their bytes are those of the files but for the headers.
#[test]
fn a_plan_lists_every_tensor() {
    let place = tempfile::tempdir().unwrap();
    for (out, scheme, name, from, to, bytes) in [
        ("out", "int4", "model.layers.0.mlp.up_proj.weight_packed", "bf16", "i32", 768 * 256 / 2),
        ("out", "int4", "model.embed_tokens.weight", "bf16", "bf16", 4096 * 256 * 2),
        ("out.gguf", "q4_k_m", "blk.0.ffn_up.weight", "bf16", "q4_k", 768 * 256 / 256 * 144),
        ("out.gguf", "q4_k_m", "output_norm.weight", "bf16", "f32", 256 * 4),
    ] {
        let more = ["--scheme", scheme, "--dry-run", "--json"];
        let output = command(&testdata(SMALL), &place.path().join(out), &more);
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        let outputs = said["outputs"].as_array().unwrap();
        let expected = serde_json::json!({ "name": name, "from": from, "to": to, "bytes": bytes });
        assert!(outputs.contains(&expected), "{expected}: {outputs:?}");
        let sum: u64 = outputs.iter().map(|o| o["bytes"].as_u64().unwrap()).sum();
        let files: u64 = said["files"].as_array().unwrap().iter().map(|f| f["bytes"].as_u64().unwrap()).sum();
        assert!(sum < files && files - sum < files / 20, "{sum} {files}");
    }
}
