//! Blocks made as ggml's reference quantisers make them, to the last byte: against llama.cpp's own bytes, and against
//! digests over numbers that both sides make (`testdata/make/ggml_blocks.py`).

use crate::hostile::Seeded;
use crate::naive::{sha256, testdata};
use hoist::dtype::DType;
use hoist::transform::block;
use serde_json::Value;

const COUNT: usize = 1 << 16;
const COLUMNS: usize = 512;

fn random(seed: u64, count: usize) -> Vec<u64> {
    let mut random = Seeded::new(seed);
    (0..count).map(|_| random.next()).collect()
}

fn centred(random: u64) -> f64 {
    (random >> 40) as f64 - f64::from(1 << 23)
}

fn inputs() -> Vec<(&'static str, Vec<f32>)> {
    let bits = random(21, COUNT);
    let parts: Vec<Vec<u64>> = (22..26).map(|seed| random(seed, COUNT)).collect();
    let powers = random(26, COUNT / 128);
    let weights: Vec<f32> = (0..COUNT)
        .map(|i| {
            let sum: f64 = parts.iter().map(|part| centred(part[i])).sum();
            (sum * 2f64.powi((powers[i / 128] % 6) as i32 - 32)) as f32
        })
        .collect();
    let bf16: Vec<f32> = weights.iter().map(|x| f32::from_bits(x.to_bits() & 0xffff_0000)).collect();
    let powers = random(27, COUNT / 32);
    let powers = (0..COUNT).map(|i| {
        let x = centred(bits[i]) * 2f64.powi((powers[i / 32] % 250) as i32 - 149);
        x.clamp(-3.4e38, 3.4e38) as f32
    });
    let patterns = bits.iter().map(|&bits| {
        let bits = bits as u32;
        f32::from_bits(if bits & 0x7f80_0000 == 0x7f80_0000 { bits ^ 0x4000_0000 } else { bits })
    });
    let sparse = (0..COUNT).map(|i| {
        let x = if bits[i].is_multiple_of(7) { weights[i] } else { 0.0 };
        if i % 2 == 0 && bits[i].is_multiple_of(3) { x * -0.0 } else { x }
    });
    let outliers = bf16.iter().enumerate().map(|(i, x)| match i % 256 {
        17 => x * 1000.0,
        200 => x * -30.0,
        _ => *x,
    });
    vec![
        ("powers", powers.collect()),
        ("patterns", patterns.collect()),
        ("sparse", sparse.collect()),
        ("outliers", outliers.collect()),
        ("positive", weights.iter().map(|x| x.abs()).collect()),
        ("negative", bf16.iter().map(|x| -x.abs()).collect()),
        ("constant", (0..COUNT).map(|i| weights[i / 64 * 64]).collect()),
        ("zero", (0..COUNT).map(|i| if i < COUNT / 2 { 0.0 } else { -0.0 }).collect()),
        ("weights", weights),
        ("bf16", bf16),
    ]
}

fn importance() -> Vec<f32> {
    let values = random(31, COLUMNS).into_iter().map(|random| {
        let value = (random >> 40) as f64 / f64::from(1 << 24);
        if random % 16 == 0 { 0.0 } else { (value * value * 8.0) as f32 }
    });
    values.collect()
}

fn types() -> Vec<DType> {
    DType::ALL.iter().copied().filter(|&dtype| block::can_encode(dtype)).collect()
}

fn space(dtype: DType, numbers: usize) -> Vec<u8> {
    let facts = dtype.facts();
    vec![0x5a; numbers / facts.block_elements as usize * facts.block_bytes as usize]
}

fn plain(dtype: DType, numbers: &[f32]) -> Vec<u8> {
    let mut out = space(dtype, numbers.len());
    block::encode(dtype, numbers, &mut out);
    out
}

fn weighed(dtype: DType, numbers: &[f32], first: usize, importance: &[f32]) -> Vec<u8> {
    let mut out = space(dtype, numbers.len());
    block::encode_weighed(dtype, numbers, importance.len(), first as u64, importance, &mut out);
    out
}

#[test]
fn blocks_are_those_of_llama_cpp() {
    let read = |name: &str| std::fs::read(testdata("golden/ggml").join(name)).unwrap();
    let numbers: Vec<f32> = read("input.f32").as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for dtype in types() {
        if !testdata("golden/ggml").join(format!("{dtype}.bin")).exists() {
            continue;
        }
        let (ours, theirs) = (plain(dtype, &numbers), read(&format!("{dtype}.bin")));
        assert_eq!(ours.len(), theirs.len(), "{dtype}");
        let differ = ours.iter().zip(&theirs).filter(|(a, b)| a != b).count();
        if differ > 0 {
            wrong.push(format!("{dtype}: {differ} bytes"));
        }
        seen += 1;
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(seen, 12);
}

#[test]
fn blocks_are_ggmls_with_and_without_importance() {
    let goldens: Value =
        serde_json::from_slice(&std::fs::read(testdata("golden/ggml.json")).unwrap()).unwrap();
    let (inputs, importance) = (inputs(), importance());
    let mut wrong = Vec::new();
    let mut check = |what: &str, dtype: DType, case: &str, ours: Vec<u8>| {
        if goldens[what][dtype.name()][case] != sha256(&ours) {
            wrong.push(format!("{what} {dtype} {case}"));
        }
    };
    for dtype in types() {
        for (case, numbers) in &inputs {
            check("plain", dtype, case, plain(dtype, numbers));
            let ours = weighed(dtype, numbers, 0, &importance);
            if goldens["weighed"].get(dtype.name()).is_some() {
                check("weighed", dtype, case, ours);
            } else {
                assert_eq!(ours, plain(dtype, numbers), "{dtype} has no search");
            }
        }
    }
    assert!(wrong.is_empty(), "these differ from ggml: {wrong:?}");
    assert_eq!(goldens["weighed"].as_object().unwrap().len(), 11);
}

/// Where a task's numbers are cut changes nothing; but it must be at rows where the mean square of a row counts.
#[test]
fn blocks_do_not_depend_on_how_numbers_are_cut() {
    let (inputs, importance) = (inputs(), importance());
    let numbers = &inputs.iter().find(|(case, _)| *case == "outliers").unwrap().1[..32 * COLUMNS];
    for dtype in types() {
        let unit = if block::weighs_rows(dtype) { COLUMNS } else { dtype.facts().block_elements as usize };
        let (all_plain, all_weighed) = (plain(dtype, numbers), weighed(dtype, numbers, 0, &importance));
        for count in [unit, unit * 3, unit * 7] {
            let (mut pieces_plain, mut pieces_weighed) = (Vec::new(), Vec::new());
            for (i, piece) in numbers.chunks(count).enumerate() {
                pieces_plain.extend(plain(dtype, piece));
                pieces_weighed.extend(weighed(dtype, piece, i * count, &importance));
            }
            assert!(pieces_plain == all_plain, "{dtype} {count}");
            assert!(pieces_weighed == all_weighed, "{dtype} {count} with importance");
        }
    }
}

#[test]
fn a_block_with_a_number_that_is_none_holds_no_finite_number() {
    let ones = vec![1.0; 256];
    for dtype in types() {
        let elements = dtype.facts().block_elements as usize;
        // What no scale holds, and how many numbers are counted as lost by it. A power of two always fits.
        let too_large = if dtype == DType::MXFP4 { 0 } else { elements as u64 };
        for (odd, expected) in [
            (f32::INFINITY, 0),
            (f32::NEG_INFINITY, 0),
            (f32::NAN, 0),
            (f32::from_bits(0xff80_1234), 0),
            (f32::MAX, too_large),
            (f32::MIN, too_large),
            (1e30, too_large),
        ] {
            for place in [0, 13, elements - 1] {
                let mut numbers: Vec<f32> = (0..512).map(|i| (i % 32) as f32 - 15.5).collect();
                numbers[place] = odd;
                for importance in [None, Some(&ones)] {
                    let mut bytes = space(dtype, 512);
                    let lost = match importance {
                        None => block::encode(dtype, &numbers, &mut bytes),
                        Some(importance) => {
                            block::encode_weighed(dtype, &numbers, 256, 0, importance, &mut bytes)
                        }
                    };
                    let what = format!("{dtype} {odd} at {place}, importance: {}", importance.is_some());
                    // Where a row's mean square counts, the whole row is touched.
                    if importance.is_none() || !block::weighs_rows(dtype) {
                        assert_eq!(lost, expected, "{what}");
                    }
                    if odd.is_finite() {
                        continue;
                    }
                    let mut back = vec![0.0; 512];
                    block::decode(dtype, &bytes, &mut back);
                    assert!(back[..elements].iter().all(|x| !x.is_finite()), "{what}: {back:?}");
                    assert!(back[256..].iter().all(|x| x.is_finite()), "{what}: {back:?}");
                }
            }
        }
    }
}

/// An importance of the wrong length, of nonsense, or none: something is made, and nothing panics.
#[test]
fn no_importance_makes_an_encoder_panic() {
    let numbers: Vec<f32> = (0..1024).map(|i| (i as f32 * 0.37).sin()).collect();
    for dtype in types() {
        for importance in [
            &[][..],
            &[1.0],
            &[f32::NAN; 512],
            &[f32::INFINITY; 300],
            &[-1.0; 512],
            &[0.0; 512],
            &[1e38; 512],
        ] {
            for (columns, first) in [(0, 0), (1, 5), (512, u64::MAX), (300, 7), (usize::MAX, u64::MAX - 3)] {
                let mut out = space(dtype, numbers.len());
                block::encode_weighed(dtype, &numbers, columns, first, importance, &mut out);
            }
        }
    }
}
