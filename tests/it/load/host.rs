//! What arrives in host memory: every fixture in every form, casts, cuts, arenas.

use super::{fixtures, loaded, opened, synthetic, to_cpu, write_safetensors};
use crate::hostile::Seeded;
use crate::naive::{goldens, materialise, sha256, testdata};
use half::{bf16, f16};
use hoist::ErrorKind;
use hoist::dtype::DType;
use hoist::load::{DTypeChoice, Form, Loaded, Options};
use hoist::run::Io;
use hoist::transform::arch::parallel::{Override, Rank};
use std::collections::{BTreeMap, BTreeSet};

/// Every fixture, mapped, owned and read directly, on one thread and on three: the bytes are the goldens' and the twin's.
#[test]
fn every_fixture_arrives_in_every_form() {
    let golden: BTreeMap<_, _> = fixtures().into_iter().flat_map(|(format, _)| goldens(format)).collect();
    let mut forms = BTreeSet::new();
    for (format, fixture) in fixtures() {
        let path = testdata(&fixture);
        let files: BTreeMap<String, Vec<u8>> = opened(&path)
            .table
            .files
            .iter()
            .map(|f| (f.name.clone(), std::fs::read(testdata(&format!("{format}/{}", f.name))).unwrap()))
            .collect();
        let mut digests = BTreeSet::new();
        for (form, io) in [
            (Form::Auto, Io::Auto),
            (Form::Owned, Io::Auto),
            (Form::Owned, Io::Buffered),
            (Form::Owned, Io::Direct),
        ] {
            for (threads, check) in [(1, true), (3, false)] {
                let what = format!("{fixture} {form:?} {io:?} {threads}");
                let model = opened(&path);
                let table = model.table.clone();
                let options = Options { form, io, threads: Some(threads), check, ..to_cpu() };
                let loaded =
                    hoist::load::load(model, options).wait().unwrap_or_else(|e| panic!("{what}: {e}"));
                forms.insert(loaded.report.form);
                assert_eq!(loaded.tensors.len(), table.tensors.len(), "{what}");
                for (tensor, row) in loaded.tensors.iter().zip(&table.tensors) {
                    let file = &table.files[row.at.span.file.index()].name;
                    let bytes = tensor.bytes().unwrap();
                    let facts = (tensor.name(), tensor.dtype(), tensor.shape(), tensor.size_bytes());
                    assert_eq!(
                        facts,
                        (row.name.as_str(), row.dtype, &row.shape[..], row.size_bytes()),
                        "{what}"
                    );
                    assert!(bytes == materialise(&files[file], row), "{what}: {}", row.name);
                    let said = &golden[&format!("{format}/{file}")][&row.name];
                    assert_eq!(sha256(bytes), said.sha256, "{what}: {}", row.name);
                }
                if let Some(found) = &loaded.report.check {
                    assert_eq!(found.tensor_count, table.tensors.len(), "{what}");
                    digests.insert(found.digest.clone());
                }
            }
        }
        assert_eq!(digests.len(), 1, "{fixture}: {digests:?}");
    }
    assert_eq!(forms, BTreeSet::from(["mapped", "owned"]));
}

/// A model of several files, its larger tensors in several units, each of the ways to read.
#[test]
fn a_model_arrives_in_every_form() {
    let path = testdata("rustdoc-llama-6m");
    let mut digests = BTreeSet::new();
    for (form, io, threads) in [
        (Form::Auto, Io::Auto, None),
        (Form::Owned, Io::Buffered, Some(1)),
        (Form::Owned, Io::Direct, Some(1)),
        (Form::Owned, Io::Direct, Some(3)),
    ] {
        let options = Options { form, io, threads, check: true, ..to_cpu() };
        let loaded = loaded(&path, options).unwrap();
        if io == Io::Direct && loaded.report.direct_bytes == 0 {
            eprintln!("SKIPPED: no direct reads here: {:?}", loaded.report.notes);
        }
        let model = opened(&path);
        for (tensor, row) in loaded.tensors.iter().zip(&model.table.tensors) {
            let file = std::fs::read(path.join(&model.table.files[row.at.span.file.index()].name)).unwrap();
            assert!(tensor.bytes().unwrap() == materialise(&file, row), "{form:?} {io:?} {}", row.name);
        }
        digests.insert(loaded.report.check.unwrap().digest);
    }
    assert_eq!(digests.len(), 1);
}

/// The nearest value of a float type with so many mantissa bits, least exponent and largest value; ties to even.
fn nearest(x: f64, mantissa_bits: i32, exponent_min: i32, max: f64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let exponent = ((x.to_bits() >> 52 & 0x7ff) as i32 - 1023).max(exponent_min);
    // In two steps, each within f64's own range.
    let scale = |x: f64, by: i32| x * 2f64.powi(by / 2) * 2f64.powi(by - by / 2);
    let y = scale(scale(x, mantissa_bits - exponent).round_ties_even(), exponent - mantissa_bits);
    if y.abs() > max { f64::INFINITY.copysign(x) } else { y }
}

/// What an element of a source type is.
fn value(dtype: DType, bytes: &[u8]) -> f64 {
    let small = |mantissa_bits: i32, bias: i32, bits: u8| {
        let (e, m) = (i32::from(bits & 0x7f) >> mantissa_bits, i32::from(bits) & ((1 << mantissa_bits) - 1));
        let magnitude = match e {
            0 => f64::from(m) * 2f64.powi(1 - bias - mantissa_bits),
            _ => f64::from((1 << mantissa_bits) + m) * 2f64.powi(e - bias - mantissa_bits),
        };
        if bits & 0x80 != 0 { -magnitude } else { magnitude }
    };
    match dtype {
        DType::F64 => f64::from_le_bytes(bytes.try_into().unwrap()),
        DType::F32 => f32::from_le_bytes(bytes.try_into().unwrap()).into(),
        DType::F16 => f16::from_le_bytes(bytes.try_into().unwrap()).to_f64(),
        DType::BF16 => bf16::from_le_bytes(bytes.try_into().unwrap()).to_f64(),
        DType::F8E4M3 if bytes[0] & 0x7f == 0x7f => f64::NAN,
        DType::F8E4M3 => small(3, 7, bytes[0]),
        DType::F8E5M2 if bytes[0] & 0x7f > 0x7c => f64::NAN,
        DType::F8E5M2 if bytes[0] & 0x7f == 0x7c => f64::INFINITY.copysign(small(2, 15, bytes[0])),
        DType::F8E5M2 => small(2, 15, bytes[0]),
        other => panic!("{other} has no twin"),
    }
}

/// Mantissa bits, least exponent, largest value.
fn target_facts(target: DType) -> (i32, i32, f64) {
    match target {
        DType::F32 => (23, -126, f64::from(f32::MAX)),
        DType::F16 => (10, -14, 65504.0),
        _ => (7, -126, bf16::MAX.to_f64()),
    }
}

/// A file with values of each float type: all of the small types, random patterns of the large ones.
fn floats() -> Vec<(&'static str, DType, Vec<u64>, Vec<u8>)> {
    let mut random = Seeded::new(7);
    let halves: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let mut singles: Vec<u8> = (0..30_000).flat_map(|_| (random.next() as u32).to_le_bytes()).collect();
    // Patterns near a tie of f16, of both signs.
    for x in (0..5_000).map(|i| f64::from(i) * 0.25 - 600.0 + 2049.0) {
        singles.extend((x as f32).to_le_bytes());
    }
    let doubles: Vec<u8> = (0..30_000)
        .flat_map(|i| {
            let bits = random.next();
            // Half of them in the range of the targets.
            let exponent =
                if i % 2 == 0 { 1023 - 160 + random.below(300) as u64 } else { bits >> 52 & 0x7ff };
            (bits & !(0x7ff << 52) | exponent << 52).to_le_bytes()
        })
        .collect();
    vec![
        ("f16", DType::F16, vec![256, 256], halves.clone()),
        ("bf16", DType::BF16, vec![65536], halves),
        ("f32", DType::F32, vec![35_000], singles),
        ("f64", DType::F64, vec![2, 15_000], doubles),
        ("f8", DType::F8E4M3, vec![16, 16], (0..=255).collect()),
        ("f8e5", DType::F8E5M2, vec![256], (0..=255).collect()),
        ("i32", DType::I32, vec![3], vec![1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]),
        ("bool", DType::Bool, vec![2], vec![0, 1]),
    ]
}

/// Each element is what the definition says; overflow is counted, refused, or saturated; integers and bools stay. With
/// a check and without: they take different ways.
#[test]
fn casts_are_the_twins() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("floats.safetensors");
    write_safetensors(&path, &floats());
    for target in [DType::F32, DType::F16, DType::BF16] {
        let (mantissa_bits, exponent_min, max) = target_facts(target);
        for (saturate, check, threads) in
            [(true, true, 1), (true, false, 3), (false, false, 1), (false, true, 3)]
        {
            let options = Options {
                dtype: DTypeChoice::To(target),
                saturate,
                check,
                threads: Some(threads),
                ..to_cpu()
            };
            let what = format!("{target} saturate {saturate} check {check}");
            let mut overflows = 0;
            let mut right: Vec<(DType, Vec<f64>)> = Vec::new();
            for (_, dtype, _, bytes) in floats() {
                let is_cast = dtype.is_float() && dtype != target;
                let values = bytes.chunks(dtype.facts().block_bytes as usize);
                if !is_cast {
                    right.push((dtype, Vec::new()));
                    continue;
                }
                let values = values.map(|b| value(dtype, b)).map(|x| {
                    let y = nearest(x, mantissa_bits, exponent_min, max);
                    let overflow = x.is_finite() && y.is_infinite();
                    overflows += u64::from(overflow);
                    if overflow { max.copysign(x) } else { y }
                });
                right.push((target, values.collect()));
            }
            let got = loaded(&path, options);
            if overflows > 0 && !saturate {
                let error = got.expect_err(&what);
                assert_eq!(error.kind(), ErrorKind::BadInput, "{what}: {error}");
                let count = hoist::text::grouped(overflows);
                assert!(
                    error.to_string().contains(&format!("{count} finite values become infinite")),
                    "{error}"
                );
                continue;
            }
            let got = got.unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(got.report.overflow_count, overflows, "{what}");
            for ((tensor, (dtype, values)), (_, _, _, source)) in got.tensors.iter().zip(&right).zip(floats())
            {
                assert_eq!(tensor.dtype(), *dtype, "{what} {}", tensor.name());
                let bytes = tensor.bytes().unwrap();
                if values.is_empty() {
                    assert_eq!(bytes, source, "{what} {}", tensor.name());
                    continue;
                }
                for (i, (b, x)) in bytes.chunks(dtype.facts().block_bytes as usize).zip(values).enumerate() {
                    let y = value(*dtype, b);
                    let same = if x.is_nan() { y.is_nan() } else { x.to_bits() == y.to_bits() };
                    assert!(same, "{what} {} element {i}: {y:e}, not {x:e}", tensor.name());
                }
            }
        }
    }
}

/// `device` means f32 on a CPU; eight-bit floats beside their scales mean nothing alone and stay.
#[test]
fn the_devices_own_type_is_f32() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("scaled.safetensors");
    write_safetensors(
        &path,
        &[
            ("w", DType::F8E4M3, vec![4], vec![1, 2, 3, 4]),
            ("w_scale", DType::BF16, vec![1], vec![0x80, 0x3f]),
        ],
    );
    let got = loaded(&path, Options { dtype: DTypeChoice::Device, ..to_cpu() }).unwrap();
    let facts: Vec<_> = got.tensors.iter().map(|t| (t.dtype(), t.bytes().unwrap().to_vec())).collect();
    assert_eq!(facts, [(DType::F8E4M3, vec![1, 2, 3, 4]), (DType::F32, 1f32.to_le_bytes().to_vec())]);
}

#[test]
fn patterns_choose() {
    let path = testdata("rustdoc-llama-6m");
    let names = |include: &[&str], exclude: &[&str]| -> hoist::Result<Vec<String>> {
        let texts = |v: &[&str]| v.iter().map(|s| s.to_string()).collect();
        let got = loaded(&path, Options { include: texts(include), exclude: texts(exclude), ..to_cpu() })?;
        Ok(got.tensors.iter().map(|t| t.name().to_string()).collect())
    };
    let all = names(&[], &[]).unwrap();
    let norms: Vec<_> = all.iter().filter(|n| n.contains("norm")).cloned().collect();
    assert_eq!(names(&["*norm*"], &[]).unwrap(), norms);
    assert_eq!(names(&["*norm*"], &["model.layers.*"]).unwrap(), ["model.norm.weight"]);
    assert_eq!(names(&["lm_head.weight", "model.norm.weight"], &[]).unwrap().len(), 2);
    for (include, exclude, kind) in [
        (&["*nothing*"][..], &[][..], ErrorKind::NotFound),
        (&["*norm*", "*nothing*"], &[], ErrorKind::NotFound),
        (&[], &["*nothing*"], ErrorKind::NotFound),
        (&["*norm*"], &["*"], ErrorKind::NotFound),
        (&["[a"], &[], ErrorKind::Usage),
    ] {
        let error = names(include, exclude).unwrap_err();
        assert_eq!(error.kind(), kind, "{include:?} {exclude:?}: {error}");
    }
}

/// A rank's part of the model.
fn part(rank: &str, slices: &[&str], dtype: DTypeChoice) -> hoist::Result<Loaded> {
    let options = Options {
        rank: Some(Rank::parse(rank)?),
        slices: slices.iter().map(|s| Override::parse(s)).collect::<hoist::Result<_>>()?,
        dtype,
        check: true,
        ..to_cpu()
    };
    loaded(&testdata("rustdoc-llama-6m"), options)
}

/// Parts laid side by side along a dimension.
fn joined(parts: &[(&[u64], &[u8])], dim: usize) -> Vec<u8> {
    let outer: u64 = parts[0].0[..dim].iter().product();
    let mut whole = Vec::new();
    for o in 0..outer as usize {
        for (_, bytes) in parts {
            let row = bytes.len() / outer as usize;
            whole.extend(&bytes[o * row..(o + 1) * row]);
        }
    }
    whole
}

/// The ranks' parts, side by side, are the whole; with a cast too.
#[test]
fn ranks_share_a_model() {
    for dtype in [DTypeChoice::Keep, DTypeChoice::To(DType::F32)] {
        let whole = loaded(&testdata("rustdoc-llama-6m"), Options { dtype, ..to_cpu() }).unwrap();
        for count in [1, 2] {
            let ranks: Vec<Loaded> =
                (0..count).map(|r| part(&format!("{r}/{count}"), &[], dtype).unwrap()).collect();
            let mut cut = BTreeMap::new();
            for (n, tensor) in whole.tensors.iter().enumerate() {
                let parts: Vec<(&[u64], &[u8])> =
                    ranks.iter().map(|r| (r.tensors[n].shape(), r.tensors[n].bytes().unwrap())).collect();
                let dims: Vec<usize> =
                    (0..tensor.shape().len()).filter(|&d| parts[0].0[d] != tensor.shape()[d]).collect();
                match dims[..] {
                    [] => assert!(parts.iter().all(|p| p.1 == tensor.bytes().unwrap()), "{}", tensor.name()),
                    [dim] => {
                        assert!(joined(&parts, dim) == tensor.bytes().unwrap(), "{}", tensor.name());
                        let kind = tensor.name().rsplit('.').nth(1).unwrap().to_string();
                        cut.insert(kind, dim);
                    }
                    _ => panic!("{} is cut along {dims:?}", tensor.name()),
                }
            }
            let expected = [
                ("down_proj", 1),
                ("embed_tokens", 0),
                ("gate_proj", 0),
                ("k_proj", 0),
                ("lm_head", 0),
                ("o_proj", 1),
                ("q_proj", 0),
                ("up_proj", 0),
                ("v_proj", 0),
            ];
            let expected = expected.map(|(k, d)| (k.to_string(), d)).into_iter().collect();
            assert_eq!(cut, if count == 1 { BTreeMap::new() } else { expected });
        }
    }
}

/// Four ranks and two key and value heads: two ranks hold the same head.
#[test]
fn ranks_repeat_heads_that_are_too_few() {
    let whole = loaded(&testdata("rustdoc-llama-6m"), to_cpu()).unwrap();
    for r in 0..4 {
        let rank = part(&format!("{r}/4"), &[], DTypeChoice::Keep).unwrap();
        for (name, first, heads) in [("k_proj", r / 2, 2), ("v_proj", r / 2, 2), ("q_proj", r, 4)] {
            let name = format!("model.layers.1.self_attn.{name}.weight");
            let (got, all) = (rank.get(&name).unwrap(), whole.get(&name).unwrap().bytes().unwrap());
            let head = all.len() / heads;
            assert!(got.bytes().unwrap() == &all[first * head..(first + 1) * head], "{r} {name}");
        }
    }
}

/// A person's word on how to cut wins; a word about nothing, or without a rank, is refused.
#[test]
fn slices_override() {
    let name = "model.layers.0.self_attn.q_proj.weight";
    let whole = loaded(&testdata("rustdoc-llama-6m"), to_cpu()).unwrap();
    let whole = whole.get(name).unwrap();
    let parts = [0, 1].map(|r| part(&format!("{r}/2"), &["*.q_proj.weight=1"], DTypeChoice::Keep).unwrap());
    let sides = [0, 1].map(|r: usize| parts[r].get(name).unwrap());
    assert_eq!(sides[0].shape(), [whole.shape()[0], whole.shape()[1] / 2]);
    let sides = sides.map(|t| (t.shape(), t.bytes().unwrap()));
    assert!(joined(&sides, 1) == whole.bytes().unwrap());
    let kept = part("1/2", &["*.q_proj.weight=all"], DTypeChoice::Keep).unwrap();
    assert_eq!(kept.get(name).unwrap().bytes(), whole.bytes());
    assert_eq!(part("0/2", &["*.nothing=0"], DTypeChoice::Keep).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(part("0/2", &["*.q_proj.weight=2"], DTypeChoice::Keep).unwrap_err().kind(), ErrorKind::Usage);
    let slices = vec![Override::parse("*.q_proj.weight=1").unwrap()];
    let error = loaded(&testdata("rustdoc-llama-6m"), Options { slices, ..to_cpu() }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
}

/// Arenas are given away as vectors of the type, without a copy; not when a tensor still holds them, nor of mapped files.
#[test]
fn arenas_become_vectors() {
    let path = testdata("rustdoc-llama-6m");
    let owned = || loaded(&path, Options { form: Form::Owned, check: true, ..to_cpu() }).unwrap();
    let copies: Vec<Vec<u8>> = owned().tensors.iter().map(|t| t.bytes().unwrap().to_vec()).collect();
    let got = owned();
    let address = got.tensors[0].bytes().unwrap().as_ptr() as usize;
    let mut arenas = got.into_arenas().unwrap();
    assert_eq!(arenas.len(), 1);
    let arena = arenas.remove(0);
    assert_eq!(arena.dtype, DType::BF16);
    let places = arena.tensors.clone();
    let (values, first) = arena.into_vec::<bf16>().unwrap();
    assert_eq!(values[first..].as_ptr() as usize, address, "the memory moved");
    for ((name, shape, offset_bytes), bytes) in places.iter().zip(&copies) {
        let start = first + *offset_bytes as usize / 2;
        let count = shape.iter().product::<u64>() as usize;
        let right: Vec<bf16> = bytes.chunks(2).map(|b| bf16::from_le_bytes(b.try_into().unwrap())).collect();
        assert!(values[start..start + count] == right, "{name}");
        assert!(offset_bytes.is_multiple_of(64), "{name}");
    }
    let got = owned();
    let kept = got.tensors[0].clone();
    assert!(got.into_arenas().is_none());
    assert_eq!(kept.bytes().unwrap(), copies[0]);
    assert!(loaded(&path, to_cpu()).unwrap().into_arenas().is_none());
    let mixed =
        loaded(&testdata("safetensors/all_dtypes.safetensors"), Options { form: Form::Owned, ..to_cpu() });
    let mixed = mixed.unwrap();
    let count = mixed.tensors.iter().map(|t| t.dtype()).collect::<BTreeSet<_>>().len();
    let arenas = mixed.into_arenas().unwrap();
    assert_eq!(arenas.len(), count);
    for arena in arenas {
        let four_wide = arena.dtype.facts().block_bytes == 4;
        assert_eq!(arena.into_vec::<f32>().is_some(), four_wide, "a vector of another width");
    }
}

/// A file that is hot as a whole, with a cold stretch that nobody expected: it is read around the page cache, without a
/// ring that was made for it beforehand, and everything is right.
#[test]
fn a_cold_stretch_in_a_hot_file_is_read_around_the_cache() {
    // A model of its own: other tests would bring the stretch back.
    let path = synthetic(300);
    let model = opened(&path);
    for file in &model.files {
        let mut bytes = vec![0; 1 << 20];
        let mut at = 0;
        while at < file.size_bytes() {
            at += file.read_at(&mut bytes, at).unwrap() as u64;
        }
    }
    let local = model.files[1].as_local().unwrap();
    local.drop_from_cache(40 << 20, 24 << 20);
    let takes_direct = local.direct().is_ok();
    let options = Options { form: Form::Owned, check: true, threads: Some(2), ..to_cpu() };
    let loaded = hoist::load::load(model, options).wait().unwrap();
    let report = &loaded.report;
    let Some(cached) = report.cached_fraction else {
        eprintln!("SKIPPED: this system does not count cached pages");
        return;
    };
    assert!(cached > 0.9 && cached < 1.0, "{cached}");
    if takes_direct {
        assert!(report.direct_bytes >= 20 << 20, "{report:?}");
        assert!(report.direct_bytes <= 64 << 20, "{report:?}");
    } else {
        eprintln!("SKIPPED: no direct reads here");
    }
    assert_eq!(report.check.as_ref().unwrap().tensor_count, loaded.tensors.len());
}
