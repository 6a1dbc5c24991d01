//! Quantised checkpoints in every layout: what hoist reads is what the layout's own client reads, bit for bit; what is read
//! and written again is what was there; what does not fit is refused by name.
//!
//! `testdata/golden/packings` is made by the clients themselves (`testdata/make/packings.py`).

use crate::naive::testdata;
use hoist::ErrorKind;
use hoist::checkpoint::{Checkpoint, Container, Extent, FileId, FileRef, Span, Tensor};
use hoist::dtype::DType;
use hoist::inspect;
use hoist::open::{self, Model};
use hoist::plan::weave::{Limits, Work, tasks};
use hoist::run::make::Hands;
use hoist::transform::packing::faces::round_to;
use hoist::transform::packing::{Axes, Band, Content};
use hoist::transform::recipe::{Output, Part, Recipe, Source, Value};
use hoist::transform::values::{Values, values_with};
use serde_json::{Value as Json, json};
use std::path::Path;

fn model(path: &Path) -> Model {
    open::open(path.to_str().unwrap(), &open::Options::default()).unwrap()
}

/// A tensor's bytes.
fn bytes(model: &Model, tensor: &Tensor) -> Vec<u8> {
    let span = tensor.at.span;
    let mut bytes = vec![0; span.size_bytes as usize];
    model.files[span.file.index()].read_exact_at(&mut bytes, span.offset_bytes).unwrap();
    bytes
}

fn folders() -> Vec<String> {
    let all = std::fs::read_dir(testdata("golden/packings")).unwrap().map(|entry| entry.unwrap());
    let mut names: Vec<String> = all
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() > 30, "{names:?}");
    names
}

/// A value's numbers through plan and hands, as `dtype`; `turned` swaps its last two dimensions.
fn made(model: &Model, value: &Value, dtype: DType, limits: &Limits, turned: bool) -> hoist::Result<Vec<u8>> {
    let mut view = value.view()?;
    if turned {
        view = view.swap(value.shape.len() - 2, value.shape.len() - 1)?;
    }
    let output = Output {
        name: value.name.clone(),
        dtype,
        shape: view.shape.clone(),
        parts: vec![Part::new(0, view)],
        narrow: None,
        form: Default::default(),
    };
    let recipe = Recipe { values: vec![value.clone()], ..Recipe::default() };
    let mut out = vec![0xa5; output.size_bytes()? as usize];
    let mut hands = Hands::default();
    let mut end = 0;
    for task in tasks(&model.table, &recipe, &output, limits)? {
        let Work::Make(make) = &task.work else { panic!("{} is copied", value.name) };
        assert_eq!(task.offset_bytes, end, "{}", value.name);
        end += task.size_bytes;
        let (made, _) = hands.make(make, &model.files, false)?;
        out[task.offset_bytes as usize..end as usize].copy_from_slice(made);
    }
    assert_eq!(end as usize, out.len(), "{}", value.name);
    Ok(out)
}

fn widened(bytes: &[u8], dtype: DType) -> Vec<f32> {
    let two = |i: usize| u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]);
    match dtype {
        DType::BF16 => (0..bytes.len() / 2).map(|i| half::bf16::from_bits(two(i)).to_f32()).collect(),
        DType::F16 => (0..bytes.len() / 2).map(|i| half::f16::from_bits(two(i)).to_f32()).collect(),
        _ => bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
    }
}

#[test]
fn every_layout_is_read_as_its_client_reads_it() {
    let golden = model(&testdata("golden/packings/expected.safetensors"));
    let (mut matrices, mut failures) = (0, Vec::new());
    for folder in folders() {
        let model = model(&testdata(&format!("golden/packings/{folder}")));
        let config = model.json("config.json").unwrap();
        let all = model.values(config.as_ref()).unwrap_or_else(|e| panic!("{folder}: {e}"));
        assert!(all.left_out.is_empty(), "{folder}: {:?}", all.left_out);
        assert!(all.notes.is_empty(), "{folder}: {:?}", all.notes);
        for value in &all.values {
            let name = format!("{folder}/{}", value.name);
            let expected = golden.table.tensors.iter().find(|t| t.name == name);
            let expected = expected.unwrap_or_else(|| panic!("{name} is no value"));
            assert!(value.source.is_coded(), "{name}");
            assert_eq!((value.dtype, &value.shape), (expected.dtype, &expected.shape), "{name}");
            matrices += 1;
            let wanted = widened(&bytes(&golden, expected), expected.dtype);
            let (rows, columns) = (value.shape[value.shape.len() - 2], value.shape[value.shape.len() - 1]);
            // Where memory is short, bands are narrow and turned faces are read in runs.
            let wide = 1 << 20;
            for (chunk_bytes, matrix_bytes) in [(64, wide), (64, 20_000), (700, wide), (1 << 20, wide)] {
                let limits = Limits {
                    chunk_bytes,
                    band_numbers: chunk_bytes / 4,
                    stretch_numbers: chunk_bytes,
                    copy_bytes: 1 << 20,
                    matrix_bytes,
                };
                for (dtype, turned) in [(value.dtype, false), (DType::F32, false), (DType::F32, true)] {
                    if turned && matrix_bytes < wide {
                        continue;
                    }
                    let found = made(&model, value, dtype, &limits, turned).unwrap();
                    let mut found = widened(&found, dtype);
                    if let Source::Scaled { .. } = value.source {
                        // These are not rounded to the scales' type before they are asked for in it.
                        round_to(value.dtype, &mut found);
                    }
                    let at = |i: usize| {
                        let (i, rows, columns) = (i as u64, rows, columns);
                        let (outer, i) = (i / (rows * columns) * rows * columns, i % (rows * columns));
                        let i = if turned { i % rows * columns + i / rows } else { i };
                        (outer + i) as usize
                    };
                    let differ: Vec<(usize, f32, f32)> = found
                        .iter()
                        .enumerate()
                        .map(|(i, &x)| (i, x, wanted[at(i)]))
                        .filter(|(_, x, y)| x.to_bits() != y.to_bits())
                        // bitsandbytes' kernels differ among themselves in the sign of FP4's second zero.
                        .filter(|(_, x, y)| !folder.starts_with("fp4") || x != y)
                        .collect();
                    if !differ.is_empty() || found.len() != wanted.len() {
                        let few = &differ[..differ.len().min(3)];
                        failures.push(format!(
                            "{name} {dtype} {turned} {chunk_bytes}: {} of {} differ: {few:?}",
                            differ.len(),
                            wanted.len()
                        ));
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(matrices, golden.table.tensors.len());
}

#[test]
fn what_is_read_is_written_as_it_was() {
    let mut failures = Vec::new();
    for folder in folders() {
        let model = model(&testdata(&format!("golden/packings/{folder}")));
        let config = model.json("config.json").unwrap();
        for value in model.values(config.as_ref()).unwrap().values {
            let Source::Packed(packed) = &value.source else { continue };
            let packing = &packed.packing;
            let faces = packing.layout.faces.iter().zip(&packed.tensors).enumerate();
            let faces: Vec<_> = faces.filter_map(|(n, (face, t))| Some((n, face, (*t)?))).collect();
            let together = packing.rows_together();
            for step in [together, packing.rows.next_multiple_of(together)] {
                for start in (0..packing.rows).step_by(step as usize) {
                    let rows = start..packing.rows.min(start + step);
                    let mut band = Band::default();
                    let cut = |number: usize, all: &[u8]| -> Vec<u8> {
                        let strip = packing.strip(number, rows.clone());
                        if matches!(packing.layout.faces[number].axes, Axes::Fixed(_) | Axes::Columns) {
                            return all.to_vec();
                        }
                        let at = |n: u64| (strip.offset_bytes + n * strip.pitch_bytes) as usize;
                        let run = |n| all[at(n)..at(n) + strip.run_bytes as usize].to_vec();
                        (0..strip.run_count).flat_map(run).collect()
                    };
                    for &(number, _, tensor) in &faces {
                        let tensor = &model.table.tensors[tensor];
                        let piece = cut(number, &bytes(&model, tensor));
                        packing.read(number, &piece, rows.clone(), &mut band).unwrap();
                    }
                    for &(number, face, tensor) in &faces {
                        let tensor = &model.table.tensors[tensor];
                        let piece = cut(number, &bytes(&model, tensor));
                        let mut back = vec![0xa5; piece.len()];
                        // JSON that scales need is written from what was read of it.
                        packing.write(number, &band, rows.clone(), &mut back);
                        // An unused list of groups is all −1 in older files.
                        if back != piece && face.content != Content::Groups {
                            failures.push(format!("{folder}/{} {rows:?} {}", value.name, tensor.name));
                        }
                        let shape = packing.face_shape(number);
                        let dtype = packing.face_dtype(number);
                        if !packing.layout.is_nested() || face.content != Content::State {
                            assert_eq!(
                                shape.iter().product::<u64>(),
                                tensor.element_count(),
                                "{}",
                                tensor.name
                            );
                        }
                        assert_eq!(dtype, tensor.dtype, "{folder}/{}", tensor.name);
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn inspect_names_the_scheme_and_counts_what_is_packed() {
    let rows = [
        ("gptq_sym", 32 * 128 + 64 * 64, "2 matrices are quantised as GPTQ: 4 bits, groups of 32"),
        ("ct_8bit_asym", 24 * 128 + 17 * 256, "as compressed-tensors integers: 8 bits, groups of 32"),
        ("ct_channel", 9 * 77 + 16 * 64, "as compressed-tensors integers: 4 bits, a scale for each row"),
        ("mlx_3bit", 24 * 128 + 17 * 256, "as MLX affine: 3 bits, groups of 64"),
        ("nf4_double", 24 * 128 + 17 * 36 + 160 * 128, "as bitsandbytes NF4, double-quantised: 4 bits"),
        ("mlx_4bit", 2 * 24 * 128 + 17 * 256, "3 matrices are quantised as MLX affine: 4 bits, groups of"),
        ("ct_nvfp4", 24 * 128 + 17 * 256, "as compressed-tensors NVFP4: 4 bits, groups of 16"),
        ("torchao_int4", 24 * 128 + 17 * 256, "as torchao int4: 4 bits, groups of 64"),
        ("torchao_intx", 24 * 128 + 17 * 256, "as torchao integers in bytes: 8 bits, groups of 32"),
    ];
    for (folder, parameters, note) in rows {
        let model = model(&testdata(&format!("golden/packings/{folder}")));
        let report = inspect::inspect(&model, &inspect::Options::default()).unwrap();
        assert_eq!(report.total.parameters, parameters, "{folder}");
        assert!(report.notes.iter().any(|n| n.contains(note)), "{folder}: {:?}", report.notes);
    }
}

#[test]
fn groups_that_are_not_there_are_refused_when_they_are_read() {
    let folder = testdata("golden/packings/gptq_act_order");
    let broken = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("config.json"), broken.path().join("config.json")).unwrap();
    let mut file = std::fs::read(folder.join("model.safetensors")).unwrap();
    let whole = model(&folder);
    let groups = whole.table.tensors.iter().find(|t| t.name == "a.g_idx").unwrap().at.span.offset_bytes;
    for (group, message) in [(4i32, "in group 4"), (-1, "in group -1"), (i32::MIN, "in group -2147483648")] {
        file[groups as usize + 20..][..4].copy_from_slice(&group.to_le_bytes());
        std::fs::write(broken.path().join("model.safetensors"), &file).unwrap();
        let model = model(broken.path());
        let config = model.json("config.json").unwrap();
        let all = model.values(config.as_ref()).unwrap();
        let value = all.values.iter().find(|v| v.name == "a.weight").unwrap();
        let limits = Limits::within(64 << 20);
        let error = made(&model, value, DType::F32, &limits, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadInput);
        assert!(error.to_string().contains(&format!("has column 5 {message}")), "{error}");
    }
}

type Row<'a> = (&'a str, DType, &'a [u64]);

fn table(rows: &[Row<'_>]) -> Checkpoint {
    let mut table = Checkpoint::default();
    let mut offset_bytes = 0u64;
    for &(name, dtype, shape) in rows {
        let count = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).unwrap();
        let size_bytes = dtype.size_bytes(count).unwrap();
        let at = Extent::plain(Span { file: FileId(0), offset_bytes, size_bytes });
        offset_bytes = offset_bytes.saturating_add(size_bytes);
        table.tensors.push(Tensor { name: name.into(), dtype, shape: shape.to_vec(), at });
    }
    let container = Container::Safetensors;
    table.files.push(FileRef { name: "model".into(), size_bytes: offset_bytes, container });
    table
}

/// Values of a table whose `weight_shape` is `[8, 64]` and whose other small tensors hold `state`.
fn of(rows: &[Row<'_>], config: &Json, state: &str) -> hoist::Result<Values> {
    values_with(&table(rows), Some(config), &|tensor: &Tensor| {
        Ok(match tensor.dtype {
            DType::I64 => [8u64, 64].into_iter().flat_map(u64::to_le_bytes).collect(),
            _ => state.as_bytes().to_vec(),
        })
    })
}

const I32: DType = DType::I32;
const U32: DType = DType::U32;
const U8: DType = DType::U8;
const I8: DType = DType::I8;
const F16: DType = DType::F16;
const BF16: DType = DType::BF16;
const F32: DType = DType::F32;
const I64: DType = DType::I64;

const GPTQ: &[Row<'_>] = &[
    ("a.qweight", I32, &[8, 16]),
    ("a.qzeros", I32, &[2, 2]),
    ("a.scales", F16, &[2, 16]),
    ("a.g_idx", I32, &[64]),
];
const AWQ: &[Row<'_>] =
    &[("a.qweight", I32, &[64, 2]), ("a.qzeros", I32, &[2, 2]), ("a.scales", F16, &[2, 16])];
const CT: &[Row<'_>] = &[
    ("a.weight_packed", I32, &[8, 8]),
    ("a.weight_scale", BF16, &[8, 2]),
    ("a.weight_shape", I64, &[2]),
    ("a.weight_zero_point", I32, &[1, 2]),
];
const NF4: &[Row<'_>] = &[
    ("a.weight", U8, &[256, 1]),
    ("a.weight.absmax", F32, &[8]),
    ("a.weight.quant_map", F32, &[16]),
    ("a.weight.quant_state.bitsandbytes__nf4", U8, &[70]),
];
const MLX: &[Row<'_>] =
    &[("a.weight", U32, &[8, 8]), ("a.scales", BF16, &[8, 1]), ("a.biases", BF16, &[8, 1])];
const STATE: &str = r#"{"quant_type":"nf4","blocksize":64,"dtype":"bfloat16","shape":[8,64]}"#;

/// A table with one row in place of another, or without it.
fn with<'a>(rows: &[Row<'a>], name: &str, row: Option<(DType, &'a [u64])>) -> Vec<Row<'a>> {
    let of = |&(n, dtype, shape): &Row<'a>| match row {
        _ if n != name => Some((n, dtype, shape)),
        Some((dtype, shape)) => Some((n, dtype, shape)),
        None => None,
    };
    rows.iter().filter_map(of).collect()
}

#[test]
fn what_fits_is_read() {
    let none = json!({});
    let gptq = json!({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32}});
    let mlx = json!({"quantization": {"bits": 4, "group_size": 64}});
    let rows: &[(&[Row<'_>], &Json, &str, &[u64])] = &[
        (GPTQ, &gptq, "GPTQ", &[16, 64]),
        (GPTQ, &none, "GPTQ", &[16, 64]),
        (&with(GPTQ, "a.g_idx", None), &gptq, "GPTQ", &[16, 64]),
        (AWQ, &none, "AWQ", &[16, 64]),
        (CT, &none, "compressed-tensors integers", &[8, 64]),
        (NF4, &none, "bitsandbytes NF4", &[8, 64]),
        (MLX, &mlx, "MLX affine", &[8, 64]),
    ];
    for (rows, config, layout, shape) in rows {
        let found = of(rows, config, STATE).unwrap_or_else(|e| panic!("{layout}: {e}"));
        let [value] = &found.values[..] else { panic!("{layout}: {:?}", found.values) };
        let Source::Packed(packed) = &value.source else { panic!("{layout}: {value:?}") };
        assert_eq!((value.name.as_str(), &value.shape[..]), ("a.weight", *shape), "{layout}");
        assert_eq!(packed.packing.layout.name, *layout);
        assert!(found.left_out.is_empty(), "{layout}");
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let bad = ErrorKind::BadInput;
    let unread = ErrorKind::Unsupported;
    let none = json!({});
    let config = |config: Json| json!({"quantization_config": config});
    let gptq = |key: &str, value: Json| config(json!({"quant_method": "gptq", key: value}));
    let awq = |key: &str, value: Json| config(json!({"quant_method": "awq", key: value}));
    let ct = |key: &str, value: Json| {
        config(
            json!({"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {key: value}}}}),
        )
    };
    let mlx = |key: &str, value: Json| json!({"quantization": {"bits": 4, "group_size": 64, key: value}});
    const HUGE: u64 = 1 << 30;
    let rows: Vec<(&str, Vec<Row<'_>>, Json, ErrorKind, &str)> = vec![
        (
            "scales missing",
            with(GPTQ, "a.scales", None),
            none.clone(),
            bad,
            "needs `a.scales`, which is not there",
        ),
        (
            "scales of other rows",
            with(GPTQ, "a.scales", Some((F16, &[2, 24]))),
            none.clone(),
            bad,
            "has shape [8, 16] and `a.qzeros` has [2, 2]: zero points of 24 rows are needed",
        ),
        (
            "scales of other groups",
            with(GPTQ, "a.scales", Some((F16, &[3, 16]))),
            none.clone(),
            bad,
            "`a.qzeros` has [2, 2]: zero points of 3 groups are needed",
        ),
        (
            "scales of another type",
            with(GPTQ, "a.scales", Some((F32, &[2, 16]))),
            none.clone(),
            bad,
            "tensor `a.scales` is `f32` of shape [2, 16]",
        ),
        (
            "groups of other columns",
            with(GPTQ, "a.g_idx", Some((I32, &[63]))),
            none.clone(),
            bad,
            "`a.g_idx` has [63]: a group for each of 64 columns is needed",
        ),
        (
            "groups of another type",
            with(GPTQ, "a.g_idx", Some((I64, &[64]))),
            none.clone(),
            bad,
            "tensor `a.g_idx` is `i64` of shape [64]",
        ),
        (
            "three bits",
            vec![("a.qweight", I32, &[6, 32]), ("a.qzeros", I32, &[2, 3]), ("a.scales", F16, &[2, 32])],
            none.clone(),
            unread,
            "is GPTQ with codes of 3 bits, where hoist reads 4 and 8",
        ),
        ("other bits", GPTQ.to_vec(), gptq("bits", json!(8)), bad, "where the config has `bits` = 8"),
        ("no bits", GPTQ.to_vec(), gptq("bits", json!("four")), bad, "has `bits` = `\"four\"`"),
        ("other groups", GPTQ.to_vec(), gptq("group_size", json!(128)), bad, "`group_size` = 128"),
        ("Marlin", GPTQ.to_vec(), gptq("checkpoint_format", json!("marlin")), unread, "the format `marlin`"),
        (
            "no method",
            GPTQ.to_vec(),
            config(json!({"quant_method": "x\u{1b}"})),
            unread,
            "is `x\\u{1b}` by its config",
        ),
        (
            "AWQ by its shapes",
            AWQ.to_vec(),
            gptq("bits", json!(4)),
            bad,
            "that is AWQ, and the config says otherwise",
        ),
        ("GEMV", AWQ.to_vec(), awq("version", json!("gemv")), unread, "the version `gemv`"),
        (
            "plain weights too",
            [GPTQ, &[("a.weight", F16, &[16, 64])]].concat(),
            none.clone(),
            bad,
            "here as plain numbers too: `a.weight`",
        ),
        (
            "no numbers",
            vec![("a.qweight", I32, &[0, 0]), ("a.qzeros", I32, &[0, 0]), ("a.scales", F16, &[0, 0])],
            none.clone(),
            bad,
            "neither GPTQ nor AWQ",
        ),
        (
            "a vector",
            vec![("a.qweight", I32, &[8]), ("a.qzeros", I32, &[2, 2]), ("a.scales", F16, &[2, 16])],
            none.clone(),
            bad,
            "codes have two dimensions",
        ),
        (
            "huge",
            vec![
                ("a.qweight", I32, &[HUGE, HUGE]),
                ("a.qzeros", I32, &[1, HUGE]),
                ("a.scales", F16, &[1, HUGE]),
            ],
            none.clone(),
            unread,
            "is GPTQ with codes of 32 bits",
        ),
        (
            "sizes that do not fit",
            with(CT, "a.weight_packed", Some((I32, &[8, 7]))),
            none.clone(),
            bad,
            "it says that the matrix is [8, 64]",
        ),
        (
            "sizes of another type",
            with(CT, "a.weight_shape", Some((I32, &[2]))),
            none.clone(),
            bad,
            "as two `i64` are needed",
        ),
        (
            "no sizes",
            with(CT, "a.weight_shape", None),
            none.clone(),
            bad,
            "needs `a.weight_shape` or a config",
        ),
        (
            "scales of other columns",
            with(CT, "a.weight_scale", Some((BF16, &[8, 3]))),
            none.clone(),
            bad,
            "`a.weight_scale` has [8, 3]",
        ),
        (
            "zero points of other rows",
            with(CT, "a.weight_zero_point", Some((I32, &[2, 2]))),
            none.clone(),
            bad,
            "tensor `a.weight_zero_point` is `i32` of shape [2, 2]",
        ),
        (
            "no zero points",
            with(CT, "a.weight_zero_point", None),
            ct("symmetric", json!(false)),
            bad,
            "needs `a.weight_zero_point`, which is not there",
        ),
        (
            "zero points all the same",
            CT.to_vec(),
            ct("symmetric", json!(true)),
            bad,
            "is symmetric by its config",
        ),
        ("three bits of CT", CT.to_vec(), ct("num_bits", json!(3)), unread, "codes of 3 bits"),
        ("other groups of CT", CT.to_vec(), ct("group_size", json!(128)), bad, "where the config has [128]"),
        (
            "packed codes without scales",
            with(CT, "a.weight_scale", None),
            none.clone(),
            unread,
            "packed integers without scales",
        ),
        (
            "no state",
            with(NF4, "a.weight.quant_state.bitsandbytes__nf4", None),
            none.clone(),
            bad,
            "needs `a.weight.quant_state.bitsandbytes__nf4`",
        ),
        (
            "other codes",
            with(NF4, "a.weight", Some((U8, &[255, 1]))),
            none.clone(),
            bad,
            "tensor `a.weight` is `u8` of shape [255, 1]",
        ),
        (
            "other scales",
            with(NF4, "a.weight.absmax", Some((F32, &[9]))),
            none.clone(),
            bad,
            "tensor `a.weight.absmax` is `f32` of shape [9]",
        ),
        (
            "scales in bytes",
            with(NF4, "a.weight.absmax", Some((U8, &[8]))),
            none.clone(),
            bad,
            "tensor `a.weight.absmax` is `u8`",
        ),
        ("no bits of MLX", MLX.to_vec(), none.clone(), bad, "no config says how many bits"),
        ("seven bits", MLX.to_vec(), mlx("bits", json!(7)), unread, "codes of 7 bits"),
        ("minus bits", MLX.to_vec(), mlx("bits", json!(-4)), unread, "codes of 0 bits"),
        ("another mode", MLX.to_vec(), mlx("mode", json!("mxfp4")), unread, "the mode `mxfp4`"),
        ("other groups of MLX", MLX.to_vec(), mlx("group_size", json!(32)), bad, "`group_size` = 32"),
        (
            "no biases",
            with(MLX, "a.biases", None),
            mlx("bits", json!(4)),
            bad,
            "needs `a.biases`, which is not there",
        ),
        (
            "other biases",
            with(MLX, "a.biases", Some((BF16, &[8, 2]))),
            mlx("bits", json!(4)),
            bad,
            "tensor `a.biases` is `bf16` of shape [8, 2]",
        ),
        (
            "int8 of other rows",
            vec![("a.weight", I8, &[8, 64]), ("a.SCB", F32, &[9])],
            none.clone(),
            bad,
            "tensor `a.SCB` is `f32` of shape [9]",
        ),
        (
            "an Int4Tensor of other groups",
            vec![
                ("a._weight_qdata", I8, &[8, 32]),
                ("a._weight_scale", BF16, &[3, 8]),
                ("a._weight_zero_point", BF16, &[3, 8]),
            ],
            none.clone(),
            bad,
            "scales of an `Int4Tensor` are [groups, rows]",
        ),
        (
            "activations that are scaled",
            vec![
                ("a._weight_qdata", I8, &[8, 32]),
                ("a._weight_scale", BF16, &[8, 1]),
                ("a._weight_act_pre_scale", BF16, &[32]),
            ],
            none.clone(),
            unread,
            "has `a._weight_act_pre_scale`",
        ),
    ];
    for (name, tensors, config, kind, message) in rows {
        let error = of(&tensors, &config, STATE).map(|v| v.values).expect_err(name);
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert!(error.to_string().contains(message), "{name}: {error}");
    }
    let states = [
        ("", "no JSON"),
        ("[]", "without text under `dtype`"),
        (
            r#"{"quant_type":"nf4","blocksize":0,"dtype":"bfloat16","shape":[8,64]}"#,
            "a count under `blocksize`",
        ),
        (r#"{"quant_type":"fp4","blocksize":64,"dtype":"bfloat16","shape":[8,64]}"#, "its codes are `fp4`"),
        (r#"{"quant_type":"nf4","blocksize":64,"dtype":"int8","shape":[8,64]}"#, "of dtype `int8`"),
        (r#"{"quant_type":"nf4","blocksize":64,"dtype":"bfloat16","shape":[8,-1]}"#, "a list of sizes"),
        (
            r#"{"quant_type":"nf4","blocksize":64,"dtype":"bfloat16","shape":[]}"#,
            "says nothing of its matrix's shape",
        ),
        (r#"{"quant_type":"nf4","blocksize":64,"dtype":"bfloat16","shape":[0,64]}"#, "shape [0, 64]"),
        (
            r#"{"quant_type":"nf4","blocksize":64,"dtype":"bfloat16","shape":[18446744073709551615,18446744073709551615]}"#,
            "shape [18446744073709551615",
        ),
        (
            r#"{"quant_type":"nf4","blocksize":64,"dtype":"bfloat16","shape":[8,64],"nested_blocksize":256}"#,
            "has one of",
        ),
        (
            r#"{"quant_type":"nf4","blocksize":64,"dtype":"bfloat16","shape":[8,64],"nested_blocksize":64,"nested_offset":0.5}"#,
            "other than 256",
        ),
        (
            r#"{"quant_type":"nf4","blocksize":18446744073709551615,"dtype":"bfloat16","shape":[8,64]}"#,
            "absmax",
        ),
    ];
    for (state, message) in states {
        let error = of(NF4, &none, state).map(|v| v.values).expect_err(state);
        assert!(error.to_string().contains(message), "{state}: {error}");
    }
}
