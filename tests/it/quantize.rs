//! Quantising: what is read back is the quantiser's own numbers, whatever the cut; the same bytes in every run; what is
//! refused, and with which code.

use crate::cli::{code, hoist, text};
use crate::families::model;
use crate::naive::testdata;
use hoist::dtype::DType;
use hoist::open::Model;
use hoist::quantize::{Options, Plan, quantize};
use hoist::run::examine::pieces;
use hoist::transform::method::{Method, ScaleType, amax, nvfp4_global};
use hoist::transform::packing::Band;
use hoist::transform::packing::faces::round_to;
use hoist::transform::recipe::{Output, Part, Recipe};
use hoist::transform::scheme::{self, Asked, CHANNEL};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const SMALL: &str = "rustdoc-llama-6m";

pub fn open(path: &Path) -> Model {
    let options = hoist::open::Options { follow_links: false, ..Default::default() };
    hoist::open::open(path.to_str().unwrap(), &options).unwrap()
}

/// Shape and numbers of everything in a model.
pub fn numbers(path: &Path) -> BTreeMap<String, (Vec<u64>, Vec<f32>)> {
    let model = open(path);
    let config = model.json("config.json").unwrap();
    let values = model.values(config.as_ref()).unwrap().values;
    let outputs = values.iter().enumerate().map(|(i, value)| Output {
        name: value.name.clone(),
        dtype: DType::F32,
        shape: value.shape.clone(),
        parts: vec![Part::new(i, value.view().unwrap())],
        narrow: None,
        form: Default::default(),
    });
    let recipe = Recipe { outputs: outputs.collect(), values: values.clone(), ..Recipe::default() };
    let read = |output: &Output| {
        let mut all = Vec::new();
        pieces(&model, &recipe, output, |bytes| {
            all.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())));
            true
        })
        .unwrap();
        (output.name.clone(), (output.shape.clone(), all))
    };
    recipe.outputs.iter().map(read).collect()
}

/// Files by name.
pub fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path());
    entries
        .filter(|p| p.is_file())
        .map(|p| (p.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(p).unwrap()))
        // The journal holds when it was.
        .filter(|(name, _)| name != ".hoist.json")
        .collect()
}

/// The matrices of fused experts under the names of single ones: turned `[in, out]` or not, gate and up in turn or not.
fn apart(
    all: &BTreeMap<String, (Vec<u64>, Vec<f32>)>,
    turned: bool,
    paired: bool,
) -> BTreeMap<String, (Vec<u64>, Vec<f32>)> {
    let mut out = BTreeMap::new();
    for (name, (shape, numbers)) in all {
        let [experts, a, b] = shape[..] else {
            out.insert(name.clone(), (shape.clone(), numbers.clone()));
            continue;
        };
        let (rows, columns) = if turned { (b, a) } else { (a, b) };
        let at = |e: u64, r: u64, c: u64| {
            let inner = if turned { c * b + r } else { r * b + c };
            numbers[(e * a * b + inner) as usize]
        };
        let (layer, kind) = name.split_once(".experts.").unwrap();
        for e in 0..experts {
            let mut put = |which: &str, rows: Vec<u64>| {
                let matrix = rows.iter().flat_map(|&r| (0..columns).map(move |c| at(e, r, c))).collect();
                let name = format!("{layer}.experts.{e}.{which}.weight");
                out.insert(name, (vec![rows.len() as u64, columns], matrix));
            };
            let half = rows / 2;
            match (kind, paired) {
                ("gate_up_proj", true) => {
                    put("gate_proj", (0..half).map(|r| 2 * r).collect());
                    put("up_proj", (0..half).map(|r| 2 * r + 1).collect());
                }
                ("gate_up_proj", false) => {
                    put("gate_proj", (0..half).collect());
                    put("up_proj", (half..rows).collect());
                }
                _ => put(kind, (0..rows).collect()),
            }
        }
    }
    out
}

/// The same for stacks as mlx-lm has them: a tensor for each projection.
fn stacked(
    all: &BTreeMap<String, (Vec<u64>, Vec<f32>)>,
    names: &[(&str, &str)],
) -> BTreeMap<String, (Vec<u64>, Vec<f32>)> {
    let mut out = BTreeMap::new();
    for (name, (shape, numbers)) in all {
        let predicts =
            |layer: &str| all.contains_key(&format!("{}.eh_proj.weight", layer.trim_end_matches(".mlp")));
        // Multi-token prediction is left as it is.
        let Some((layer, _)) = name.split_once(".experts.").filter(|(layer, _)| !predicts(layer)) else {
            out.insert(name.clone(), (shape.clone(), numbers.clone()));
            continue;
        };
        for (own, stack) in names {
            let expert = |e: usize| all.get(&format!("{layer}.experts.{e}.{own}.weight"));
            let experts: Vec<_> = (0..).map_while(expert).collect();
            let shape = [&[experts.len() as u64], &experts[0].0[..]].concat();
            let numbers = experts.iter().flat_map(|(_, numbers)| numbers).copied().collect();
            out.insert(format!("{layer}.switch_mlp.{stack}.weight"), (shape, numbers));
        }
    }
    out
}

/// Ends of the names of matrices that NVFP4 gives one global scale.
const TOGETHER: &[&[&str]] = &[
    &["q_proj.weight", "k_proj.weight", "v_proj.weight"],
    &["gate_proj.weight", "up_proj.weight"],
    &["w1.weight", "w3.weight"],
];

/// How a source's experts become those of the output.
enum Experts {
    /// They are the same tensors.
    Same,
    /// They lie in one tensor: turned, gate and up in turn.
    Fused(bool, bool),
    /// They are stacked, and called otherwise.
    Stacked(&'static [(&'static str, &'static str)]),
}

/// Quantises, reads back, and holds every number against the quantiser's own, made of whole matrices.
fn check(
    source: &Path,
    name: &str,
    asked: Asked,
    memory_mib: u64,
    experts: Experts,
) -> (usize, PathBuf, tempfile::TempDir) {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    let mut options = Options::new(&out, name).unwrap();
    options.quantize.asked = asked.clone();
    options.memory_bytes = memory_mib << 20;
    let summary = quantize(open(source), options).wait().unwrap_or_else(|e| panic!("{name} {asked:?}: {e}"));
    let before = numbers(source);
    let before = match experts {
        Experts::Fused(turned, paired) => apart(&before, turned, paired),
        Experts::Stacked(names) => stacked(&before, names),
        Experts::Same => before,
    };
    let after = numbers(&out);
    let settled = summary.decided.settled().unwrap();
    let quantised: BTreeMap<&str, f64> =
        summary.errors.iter().map(|(name, error)| (name.as_str(), error.relative())).collect();
    assert_eq!(
        before.keys().collect::<Vec<_>>(),
        after.keys().collect::<Vec<_>>(),
        "{name}: every tensor is there, under its name"
    );
    for (tensor, (shape, expected)) in &before {
        let (found_shape, found) = &after[tensor];
        assert_eq!(shape, found_shape, "{name} {tensor}");
        let Some(&error) = quantised.get(tensor.as_str()) else {
            assert_eq!(expected, found, "{name} {tensor} stays as it is");
            continue;
        };
        // Routers, by mlx-lm's rule for this family.
        let eight = name == "mlx" && tensor.ends_with("mlp.gate.weight");
        let settled = if eight { settled.in_eight_bits() } else { settled.clone() };
        let columns = *shape.last().unwrap();
        let packing = settled.packing(expected.len() as u64 / columns, columns);
        let mut quantiser = settled.quantiser(columns, None);
        if let ScaleType::E4M3 { global } = &mut quantiser.grid.scale {
            let of = |name: &str| amax(&before[name].1);
            let together = TOGETHER.iter().find(|set| set.iter().any(|end| tensor.ends_with(end)));
            let members = together.into_iter().flat_map(|set| {
                let parent = set.iter().find_map(|end| tensor.strip_suffix(end)).unwrap();
                set.iter().map(move |end| format!("{parent}{end}"))
            });
            *global = nvfp4_global(members.map(|m| of(&m)).fold(of(tensor), f32::max));
        }
        let mut band = Band::default();
        quantiser.quantise(expected, columns as usize, &mut band);
        let mut own = vec![0.0; expected.len()];
        packing.numbers(&band, &mut own);
        round_to(packing.dtype, &mut own);
        // Eight-bit floats in 32 bits are their products, which the scales' type cannot hold.
        let mut found = found.clone();
        round_to(packing.dtype, &mut found);
        let wrong = own.iter().zip(&found).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        assert_eq!(wrong, 0, "{name} {asked:?} {tensor} {shape:?}: numbers that differ");
        assert!(error > 0.0 && error < 0.3, "{name} {tensor}: an error of {error}");
    }
    (quantised.len(), out, place)
}

#[test]
fn every_scheme_reads_back_as_it_was_quantised() {
    let channel = Asked { group: Some(CHANNEL), ..Asked::default() };
    let rtn = Asked { method: Some(Method::Rtn), ..Asked::default() };
    let asked: &[(&str, Asked)] = &[
        ("int4", Asked::default()),
        ("int4", Asked { symmetric: Some(true), group: Some(32), ..rtn.clone() }),
        ("int4", Asked { signed_scales: true, group: Some(64), ..Asked::default() }),
        ("int4", Asked { method: Some(Method::Rtn), ..channel.clone() }),
        ("gptq", Asked::default()),
        ("gptq", Asked { gptq_v2: true, symmetric: Some(false), ..rtn.clone() }),
        ("awq", rtn.clone()),
        ("mlx", Asked { method: Some(Method::Hqq), ..Asked::default() }),
        ("nf4", rtn.clone()),
        ("mxfp4", rtn.clone()),
        ("nvfp4a16", rtn.clone()),
        ("nvfp4a16", Asked::default()),
        ("torchao", Asked::default()),
        ("torchao-int8", rtn.clone()),
        ("torchao-int8", Asked { symmetric: Some(true), ..Asked::default() }),
        ("fp8", rtn.clone()),
        ("fp8-block", rtn.clone()),
    ];
    for (name, asked) in asked {
        // Small memory makes many bands of each matrix.
        let (count, _, _) = check(&testdata(SMALL), name, asked.clone(), 64, Experts::Same);
        let more = if *name == "mlx" { 2 } else { 0 };
        assert_eq!(count, 35 + more, "{name}: five layers of seven linears, and for MLX embedding and head");
    }
}

#[test]
fn experts_are_quantised_in_both_forms() {
    let rtn = Asked { method: Some(Method::Rtn), group: Some(32), ..Asked::default() };
    for (family, fused, count) in [
        ("qwen3_moe", Experts::Same, 4 + 6 * 3),
        ("qwen3_moe-fused", Experts::Fused(false, false), 4 + 6 * 3),
        ("llama4", Experts::Fused(true, false), 4 * 4 + 2 * 3 + 2 * (4 + 1) * 3),
    ] {
        let place = tempfile::tempdir().unwrap();
        let source = model::write(&model::spec(family), place.path());
        let (found, out, _out) = check(&source, "int4", rtn.clone(), 64, fused);
        assert_eq!(found, count, "{family}");
        let config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
        let said = &config["quantization_config"];
        let weights = &said["config_groups"]["group_0"]["weights"];
        assert_eq!(weights["symmetric"], true, "{family}: symmetric for experts");
        let ignored: Vec<&str> =
            said["ignore"].as_array().unwrap().iter().map(|m| m.as_str().unwrap()).collect();
        assert!(ignored.contains(&"lm_head"), "{family}: {ignored:?}");
        let routers = ignored.iter().filter(|m| m.ends_with(".gate") || m.ends_with(".router")).count();
        assert_eq!(routers, if family == "llama4" { 2 } else { 1 }, "{family}: {ignored:?}");
    }
}

#[test]
fn experts_are_stacked_as_mlx_lm_has_them() {
    let rtn = Asked { method: Some(Method::Rtn), group: Some(32), ..Asked::default() };
    const NAMED: &[(&str, &str)] =
        &[("gate_proj", "gate_proj"), ("up_proj", "up_proj"), ("down_proj", "down_proj")];
    const NUMBERED: &[(&str, &str)] = &[("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")];
    // Attention, three stacks, the router, embedding and head.
    for (family, names, count) in
        [("qwen3_moe", NAMED, 4 + 3 + 1 + 2), ("mixtral", NUMBERED, 4 + 3 + 1 + 2), ("glm4_moe", NAMED, 0)]
    {
        let place = tempfile::tempdir().unwrap();
        let source = model::write(&model::spec(family), place.path());
        let (found, out, _out) = check(&source, "mlx", rtn.clone(), 64, Experts::Stacked(names));
        assert!(found == count || count == 0 && found > 7, "{family}: {found}");
        let config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
        let said = &config["quantization"];
        assert_eq!(said, &config["quantization_config"], "{family}");
        let router = &said["model.layers.0.mlp.gate"];
        let eight = serde_json::json!({ "group_size": 64, "bits": 8 });
        assert_eq!(router == &eight, family == "qwen3_moe", "{family}: {said}");
        assert!(said.get("lm_head").is_none(), "{family}: {said}");
    }
    for (family, scheme) in [("deepseek_v3", "mlx"), ("qwen3_moe", "torchao")] {
        let place = tempfile::tempdir().unwrap();
        let source = model::write(&model::spec(family), place.path());
        let options = Options::new(place.path().join("out"), scheme).unwrap();
        let refused = Plan::new(&open(&source), &options).unwrap_err();
        assert_eq!(refused.kind().exit_code(), 9, "{family}: {refused}");
    }
}

#[test]
fn the_same_bytes_whatever_the_cut() {
    for (scheme, group) in [("int4", Some(64)), ("nvfp4a16", None)] {
        let place = tempfile::tempdir().unwrap();
        let mut trees = Vec::new();
        for (number, (memory, threads)) in [(64, 1), (512, 3), (100, 8)].into_iter().enumerate() {
            let mut options = Options::new(place.path().join(number.to_string()), scheme).unwrap();
            options.memory_bytes = memory << 20;
            options.threads = Some(threads);
            options.quantize.asked.group = group;
            let out = options.out.clone();
            quantize(open(&testdata(SMALL)), options).wait().unwrap();
            trees.push(tree(&out));
        }
        assert!(trees[0] == trees[1] && trees[0] == trees[2], "{scheme}: a run differs");
        assert!(trees[0].contains_key("tokenizer.json") && trees[0].contains_key("config.json"));
    }
}

/// The entries of the first file's header.
fn metadata(out: &Path) -> BTreeMap<String, String> {
    let file = tree(out).into_iter().find(|(name, _)| name.ends_with(".safetensors")).unwrap().1;
    let size = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&file[8..8 + size]).unwrap();
    let entries = header["__metadata__"].as_object().unwrap().iter();
    entries.map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned())).collect()
}

#[test]
fn every_header_says_all_that_torchao_asks() {
    let place = tempfile::tempdir().unwrap();
    let mut options = Options::new(place.path().join("out"), "torchao").unwrap();
    options.shard_bytes = Some(1_000_000);
    let out = options.out.clone();
    quantize(open(&testdata(SMALL)), options).wait().unwrap();
    assert!(out.join("model.safetensors.index.json").is_file());
    let said = metadata(&out);
    let names: Vec<String> = serde_json::from_str(&said["tensor_names"]).unwrap();
    let all = numbers(&testdata(SMALL));
    assert_eq!(names.len(), all.len());
    for name in &names {
        let entry: serde_json::Value = serde_json::from_str(&said[name]).unwrap();
        let class = if name.contains("_proj") { "Int4Tensor" } else { "Tensor" };
        assert_eq!(entry["_type"], class, "{name}");
        if class == "Int4Tensor" {
            assert_eq!(entry["_data"]["shape"], serde_json::json!(all[name].0), "{name}");
            assert_eq!(entry["_data"]["block_size"], serde_json::json!([1, 128]), "{name}");
        }
    }
}

#[test]
fn shards_never_part_a_matrix() {
    let place = tempfile::tempdir().unwrap();
    let mut options = Options::new(place.path().join("out"), "gptq").unwrap();
    options.shard_bytes = Some(200_000);
    options.quantize.asked.method = Some(Method::Rtn);
    let plan = Plan::new(&open(&testdata(SMALL)), &options).unwrap();
    assert!(plan.conversion.files.len() > 5);
    for packed in &plan.conversion.recipe.packed {
        let holds = |file: &&hoist::convert::FilePlan| {
            packed.outputs.iter().flatten().any(|output| file.outputs.contains(output))
        };
        assert_eq!(plan.conversion.files.iter().filter(holds).count(), 1, "{}", packed.matrix.name);
    }
    let out = options.out.clone();
    quantize(open(&testdata(SMALL)), options).wait().unwrap();
    assert_eq!(numbers(&out).len(), numbers(&testdata(SMALL)).len());
    assert!(out.join("quantize_config.json").is_file());
}

#[test]
fn what_is_refused_and_how() {
    let place = tempfile::tempdir().unwrap();
    let model = testdata(SMALL);
    let model = model.to_str().unwrap();
    let out = place.path().join("out");
    let out_text = out.to_str().unwrap();
    let done = place.path().join("done");
    let done = done.to_str().unwrap();
    assert_eq!(code(&hoist(&["quantize", model, "-o", done, "--method", "rtn", "-q"]).output().unwrap()), 0);
    let gguf = place.path().join("m.gguf");
    let gguf = gguf.to_str().unwrap();
    assert_eq!(code(&hoist(&["convert", model, "-o", gguf, "--dtype", "q8_0", "-q"]).output().unwrap()), 0);
    let bad = place.path().join("bad");
    damage(Path::new(model), &bad);
    let bad = bad.to_str().unwrap();
    let mute = place.path().join("mute");
    std::fs::create_dir(&mute).unwrap();
    for (name, bytes) in tree(Path::new(model)).iter().filter(|(name, _)| !name.starts_with("tokenizer")) {
        std::fs::write(mute.join(name), bytes).unwrap();
    }
    let mute = mute.to_str().unwrap();
    for (arguments, expected, part) in [
        (vec![model, "--scheme", "int5"], 2, "no scheme `int5`"),
        (vec![model, "--group-size", "48"], 2, "no group size 48"),
        (vec![model, "--scheme", "awq", "--symmetric"], 2, "never symmetric"),
        (vec![model, "--scheme", "gptq", "--asymmetric"], 2, "cannot hold a zero"),
        (vec![model, "--gptq-v2"], 2, "no second version"),
        (vec![model, "--method", "hqq"], 2, "no method `hqq`"),
        (vec![model, "--symmetric", "--asymmetric"], 2, "cannot be used with"),
        (vec![model, "--keep", "nothing*"], 3, "matches none"),
        (vec![model, "--also", "*embed_tokens*"], 2, "cannot be quantised"),
        (vec![done], 9, "is quantised already"),
        (vec![gguf], 9, "is quantised already"),
        (vec![bad], 1, "self_attn.q_proj.weight"),
        (vec![bad, "--scheme", "nvfp4a16"], 1, "self_attn.q_proj.weight"),
        (vec![model, "--scheme", "torchao", "--symmetric"], 2, "never symmetric"),
        (vec![model, "--scheme", "q4_k_m", "--output-type", "q9"], 2, "there are f16, bf16, f32, q4_0"),
        // A hint of a flag that only a conversion has says whose it is.
        (vec![mute, "--scheme", "q4_k_m"], 3, "hint: hoist convert first: `--tokenizer-from DIR`"),
    ] {
        let mut all = vec!["quantize", "-o", out_text, "-q"];
        all.extend(&arguments);
        let output = hoist(&all).output().unwrap();
        let error = text(&output.stderr);
        assert!(
            code(&output) == expected && error.contains(part),
            "{arguments:?}: {} {error}",
            code(&output)
        );
        assert!(!out.exists(), "{arguments:?} leaves something");
    }
    // What may be had after all.
    for arguments in [
        vec![done, "--requantize"],
        vec![gguf, "--requantize"],
        vec![bad, "--nan", "zero"],
        vec![bad, "--nan", "zero", "--scheme", "nvfp4a16"],
    ] {
        let mut all = vec!["quantize", "-o", out_text, "--method", "rtn", "--force", "-q"];
        all.extend(&arguments);
        let output = hoist(&all).output().unwrap();
        assert_eq!(code(&output), 0, "{arguments:?}: {}", text(&output.stderr));
    }
}

/// A copy of a model with a NaN in one of its matrices.
pub fn damage(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for (name, mut bytes) in tree(from) {
        let mark = b"model.layers.0.self_attn.q_proj.weight";
        if name.ends_with(".safetensors") && bytes.windows(mark.len()).any(|w| w == mark) {
            let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
            let tensor = &json[std::str::from_utf8(mark).unwrap()];
            let at = 8 + header + tensor["data_offsets"][0].as_u64().unwrap() as usize;
            bytes[at..at + 2].copy_from_slice(&half::bf16::NAN.to_le_bytes());
        }
        std::fs::write(to.join(name), bytes).unwrap();
    }
}

#[test]
fn what_does_not_fit_is_kept_and_told() {
    let place = tempfile::tempdir().unwrap();
    // Its experts are 96 wide.
    let source = model::write(&model::spec("llama4"), place.path());
    let (count, out, _out) = check(
        &source,
        "int4",
        Asked { method: Some(Method::Rtn), group: Some(64), ..Asked::default() },
        64,
        Experts::Fused(true, false),
    );
    assert!(count > 0);
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
    let ignored = config["quantization_config"]["ignore"].to_string();
    // Down does not fit, so that gate and up of the same experts stay too.
    for module in ["experts.0.down_proj", "experts.3.gate_proj", "shared_expert.down_proj"] {
        assert!(ignored.contains(module), "{module}: {ignored}");
    }
    let mut options = Options::new(place.path().join("strict"), "int4").unwrap();
    options.quantize.strict = true;
    let refused = Plan::new(&open(&source), &options).unwrap_err();
    assert_eq!(refused.kind().exit_code(), 2, "{refused}");
}

#[test]
fn a_dry_run_says_what_a_run_writes() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    let model = testdata(SMALL);
    let arguments = ["quantize", model.to_str().unwrap(), "-o", out.to_str().unwrap(), "--json", "-q"];
    let dry = hoist(&[&arguments[..], &["--dry-run"]].concat()).output().unwrap();
    assert!(!out.exists());
    let run = hoist(&arguments).output().unwrap();
    let read = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
    let (dry, run) = (read(&dry.stdout), read(&run.stdout));
    for key in ["scheme", "group_size", "quantized", "tensors", "file_bytes", "bits_per_weight", "kept"] {
        assert_eq!(dry[key], run[key], "{key}");
    }
    let on_disk: u64 = tree(&out).values().map(|b| b.len() as u64).sum();
    assert_eq!(run["file_bytes"].as_u64().unwrap(), on_disk);
    assert!(run["peak_rss_bytes"].as_u64().unwrap() < 600 << 20);
    assert_eq!(run["matrices"].as_array().unwrap().len(), 35);
    // 4 bits, a scale of 16 and a zero point of 4 for each 128, and the shapes.
    let bits = run["bits_per_weight"].as_f64().unwrap();
    assert!((4.15..4.17).contains(&bits), "{bits}");
}

/// A Qwen3 of these sizes as a header and a hole behind it, which is all that a plan looks at.
fn qwen3(folder: &Path, hidden: u64, intermediate: u64, is_tied: bool) {
    let (layers, vocabulary, queries, keys) = (36, 151_936, 32 * 128, 8 * 128);
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocabulary, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    if !is_tied {
        shapes.push(("lm_head.weight".to_owned(), vec![vocabulary, hidden]));
    }
    for layer in 0..layers {
        let parts: &[(&str, &[u64])] = &[
            ("self_attn.q_proj", &[queries, hidden]),
            ("self_attn.k_proj", &[keys, hidden]),
            ("self_attn.v_proj", &[keys, hidden]),
            ("self_attn.o_proj", &[hidden, queries]),
            ("self_attn.q_norm", &[128]),
            ("self_attn.k_norm", &[128]),
            ("mlp.gate_proj", &[intermediate, hidden]),
            ("mlp.up_proj", &[intermediate, hidden]),
            ("mlp.down_proj", &[hidden, intermediate]),
            ("input_layernorm", &[hidden]),
            ("post_attention_layernorm", &[hidden]),
        ];
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        shapes.extend(parts.iter().map(|(part, shape)| (name(part), shape.to_vec())));
    }
    let (mut header, mut at) = (serde_json::Map::new(), 0u64);
    for (name, shape) in shapes {
        let end = at + 2 * shape.iter().product::<u64>();
        let entry = serde_json::json!({ "dtype": "BF16", "shape": shape, "data_offsets": [at, end] });
        header.insert(name, entry);
        at = end;
    }
    let mut header = serde_json::to_vec(&header).unwrap();
    header.resize(header.len().next_multiple_of(8), b' ');
    let bytes = [&(header.len() as u64).to_le_bytes()[..], &header].concat();
    let file = folder.join("model.safetensors");
    std::fs::write(&file, &bytes).unwrap();
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(bytes.len() as u64 + at).unwrap();
    let config = serde_json::json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "torch_dtype": "bfloat16",
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": vocabulary,
        "tie_word_embeddings": is_tied, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// Whole models, with the embedding and the head that stay as they are, are smaller by this share; and what those keep is said.
#[test]
fn what_whole_models_shrink_to() {
    // Qwen3-4B, whose head is its embedding, and Qwen3-8B.
    for (hidden, intermediate, is_tied, least) in [(2560, 9728, true, 0.66), (4096, 12_288, false, 0.62)] {
        let (place, beside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        qwen3(place.path(), hidden, intermediate, is_tied);
        let out = beside.path().join("out");
        let (model, out) = (place.path().to_str().unwrap(), out.to_str().unwrap());
        let output = hoist(&["quantize", model, "-o", out, "--dry-run", "--json"]).output().unwrap();
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let of = |key: &str| plan[key].as_f64().unwrap();
        let share = 1.0 - of("file_bytes") / of("source_bytes");
        assert!((least..least + 0.02).contains(&share), "{hidden}: {share}");
        // Of what is quantised, against halves.
        let linear = 1.0 - of("weight_bytes") / of("weight_bytes_before");
        assert!((0.70..0.75).contains(&linear), "{hidden}: {linear}");
        assert!(plan["ends"]["file_bytes_if_narrow"].as_f64().unwrap() < of("file_bytes"));
    }
}

#[test]
fn schemes_are_found_by_name() {
    for scheme in scheme::SCHEMES {
        assert_eq!(scheme::find(scheme.name).unwrap().name(), scheme.name);
        assert!(!scheme.groups.is_empty() && !scheme.methods.is_empty(), "{}", scheme.name);
    }
}
