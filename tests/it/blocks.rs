//! Blocks, casts and scales against the originals: gguf-py, ggml, transformers and torch, as digests over bytes and
//! numbers that both sides make (`testdata/make/blocks.py`).

use crate::hostile::Seeded;
use crate::naive::{sha256, testdata};
use hoist::dtype::{Class, DType};
use hoist::transform::block;
use hoist::transform::cast::{SMALL_TARGETS, TARGETS, can_cast, cast};
use serde_json::Value;

const RANDOM_BLOCKS: usize = 512;

fn goldens() -> Value {
    serde_json::from_slice(&std::fs::read(testdata("golden/blocks.json")).unwrap()).unwrap()
}

fn random(seed: u64, count: usize) -> Vec<u64> {
    let mut random = Seeded::new(seed);
    (0..count).map(|_| random.next()).collect()
}

fn random_bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = random(seed, count.div_ceil(8)).into_iter().flat_map(u64::to_le_bytes).collect();
    bytes.truncate(count);
    bytes
}

/// Every NaN alike.
fn digest(numbers: &[f32]) -> String {
    let bits = numbers.iter().map(|x| if x.is_nan() { 0x7fc0_0000 } else { x.to_bits() });
    sha256(&bits.flat_map(u32::to_le_bytes).collect::<Vec<u8>>())
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

fn check(rows: Vec<(String, String, &Value)>) {
    assert!(!rows.is_empty());
    let wrong: Vec<&str> =
        rows.iter().filter(|(_, ours, golden)| golden != &ours).map(|row| row.0.as_str()).collect();
    assert!(wrong.is_empty(), "these differ from the originals: {wrong:?}");
}

#[test]
fn every_block_type_decodes_as_the_originals_do() {
    let goldens = goldens();
    let rows = DType::ALL.iter().filter(|d| d.facts().class == Class::Block).map(|&dtype| {
        let facts = dtype.facts();
        let (bytes, elements) = (facts.block_bytes as usize, facts.block_elements as usize);
        let mut blocks: Vec<u8> = (0..=255u8).flat_map(|fill| vec![fill; bytes]).collect();
        blocks.extend(random_bytes(u64::from(facts.ggml.unwrap()), RANDOM_BLOCKS * bytes));
        let mut numbers = vec![0.0; blocks.len() / bytes * elements];
        block::decode(dtype, &blocks, &mut numbers);
        (dtype.to_string(), digest(&numbers), &goldens["decode"][dtype.name()]["sha256"])
    });
    check(rows.collect());
}

/// The numbers that the golden bytes were made of; whole blocks of 256.
fn encode_inputs() -> Vec<(&'static str, Vec<f32>)> {
    const COUNT: usize = 256 * 256;
    let random = random(7, COUNT);
    let powers: Vec<i32> = self::random(8, COUNT / 32).iter().map(|r| (r % 160) as i32 - 145).collect();
    let uniform: Vec<f32> = random
        .iter()
        .enumerate()
        .map(|(i, r)| (((r >> 40) as f64 - f64::from(1 << 23)) * 2f64.powi(powers[i / 32])) as f32)
        .collect();
    let halves = random
        .iter()
        .enumerate()
        .map(|(i, r)| if i % 32 == 0 { 127.0 } else { ((r % 509) as f32 - 254.0) / 2.0 });
    let patterns = random.iter().map(|&r| {
        let bits = r as u32;
        f32::from_bits(if bits & 0x7f80_0000 == 0x7f80_0000 { bits ^ 0x4000_0000 } else { bits })
    });
    let near = random.iter().map(|r| ((r % 2001) as f32 - 1000.0) * 0.1);
    let sparse = random.iter().zip(&uniform).enumerate().map(|(i, (r, &x))| match i {
        0..512 => 0.0,
        512..1024 => -0.0,
        _ if r % 5 == 0 => x,
        _ => 0.0,
    });
    vec![
        ("halves", halves.collect()),
        ("patterns", patterns.collect()),
        ("near", near.collect()),
        ("sparse", sparse.collect()),
        ("uniform", uniform),
    ]
}

fn encoded(dtype: DType, numbers: &[f32]) -> (Vec<u8>, u64) {
    let facts = dtype.facts();
    let mut out = vec![0; numbers.len() / facts.block_elements as usize * facts.block_bytes as usize];
    let lost = block::encode(dtype, numbers, &mut out);
    (out, lost)
}

#[test]
fn numbers_encode_to_the_originals_bytes() {
    let goldens = goldens();
    let inputs = encode_inputs();
    let of = &goldens;
    // The others are in `ggml_blocks.rs`.
    let types = DType::ALL.iter().copied().filter(|d| of["encode"].get(d.name()).is_some());
    let types: Vec<DType> = types.filter(|&d| block::can_encode(d)).collect();
    let rows = types.iter().flat_map(|&dtype| {
        inputs.iter().map(move |(case, numbers)| {
            let (bytes, _) = encoded(dtype, numbers);
            (format!("{dtype} {case}"), sha256(&bytes), &of["encode"][dtype.name()][case])
        })
    });
    check(rows.collect());
}

#[test]
fn a_block_with_a_number_that_is_none_holds_no_finite_number() {
    for (name, odd, lost) in [
        ("infinity", f32::INFINITY, 0),
        ("negative infinity", f32::NEG_INFINITY, 0),
        ("NaN", f32::NAN, 0),
        ("NaN with a payload", f32::from_bits(0xff80_1234), 0),
        ("a scale that f16 lacks", 65520.0 * 127.0, 32),
        ("the largest number", f32::MIN, 32),
    ] {
        for place in [0, 13, 31] {
            let mut numbers: Vec<f32> = (0..64).map(|i| i as f32 - 31.5).collect();
            numbers[place] = odd;
            let (bytes, found) = encoded(DType::Q8_0, &numbers);
            assert_eq!(found, lost, "{name}");
            let mut back = vec![0.0; 64];
            block::decode(DType::Q8_0, &bytes, &mut back);
            assert!(back[..32].iter().all(|x| !x.is_finite()), "{name}: {back:?}");
            assert!(back[32..].iter().all(|x| x.is_finite()), "{name}: {back:?}");
        }
    }
}

#[test]
fn microscaling_reads_and_repacks_as_the_originals_do() {
    let goldens = goldens();
    let nibbles = random_bytes(41, 240 * 16);
    let scales: Vec<u8> = (0..240).map(|i| (i % 255) as u8).collect();
    let mut numbers = vec![0.0; 240 * 32];
    let mut blocks = vec![0; 240 * 17];
    block::decode_mx(&nibbles, &scales, &mut numbers);
    block::repack_mx(&nibbles, &scales, &mut blocks);
    check(vec![
        ("f32".into(), digest(&numbers), &goldens["mx"]["f32"]),
        ("blocks".into(), sha256(&blocks), &goldens["mx"]["blocks"]),
    ]);
}

/// Every pattern of the narrow types; of f32 those of f16 and bf16, what lies half-way between them, their neighbours,
/// and random ones.
fn cast_source(dtype: DType) -> Vec<u8> {
    if dtype.facts().block_bytes == 1 {
        return (0..=255).collect();
    }
    let patterns = 0..=u16::MAX;
    if dtype != DType::F32 {
        return patterns.flat_map(u16::to_le_bytes).collect();
    }
    let half = |b: u16| half::f16::from_bits(b).to_f32().to_bits();
    let brain = |b: u16| u32::from(b) << 16;
    let mut near: Vec<u32> = patterns.clone().map(half).collect();
    near.extend(patterns.clone().map(|b| half(b).wrapping_add(0x1000)));
    near.extend(patterns.clone().map(brain));
    near.extend(patterns.map(|b| brain(b) + 0x8000));
    let mut all = near.clone();
    all.extend(near.iter().map(|b| b.wrapping_add(1)));
    all.extend(near.iter().map(|b| b.wrapping_sub(1)));
    all.extend(random(9, 1 << 17).iter().map(|&r| r as u32));
    all.into_iter().flat_map(u32::to_le_bytes).collect()
}

#[test]
fn casts_round_as_torch_does() {
    let goldens = goldens();
    let mut rows = Vec::new();
    let golden = goldens["casts"].as_object().unwrap();
    for (from, targets) in golden {
        let source_dtype = DType::from_user(from).unwrap();
        let source = cast_source(source_dtype);
        for (to, golden) in targets.as_object().unwrap() {
            let target_dtype = DType::from_user(to).unwrap();
            assert!(can_cast(source_dtype, target_dtype), "{from} {to}");
            let count = source.len() / source_dtype.facts().block_bytes as usize;
            let mut made = vec![0; count * target_dtype.facts().block_bytes as usize];
            let saturates = golden["saturates"].as_bool().unwrap();
            let overflows = cast(source_dtype, target_dtype, &source, &mut made, saturates);
            let sha = match target_dtype.facts().block_bytes {
                1 => sha256(&made),
                4 => digest(&f32s(&made)),
                _ => {
                    let mut wide = vec![0; count * 4];
                    cast(target_dtype, DType::F32, &made, &mut wide, false);
                    digest(&f32s(&wide))
                }
            };
            assert_eq!(overflows, golden["overflows"].as_u64().unwrap(), "{from} to {to}");
            rows.push((format!("{from} to {to}"), sha, &golden["sha256"]));
        }
    }
    assert_eq!(rows.len(), 7 * 6);
    check(rows);
}

/// What torch does not say: saturation, and rounding once from f64.
#[test]
fn narrow_casts_saturate_and_round_once() {
    let wide = |dtype: DType, byte: u8| {
        let mut out = [0; 4];
        cast(dtype, DType::F32, &[byte], &mut out, false);
        f32::from_le_bytes(out)
    };
    for &dtype in SMALL_TARGETS {
        let mut finite: Vec<f64> =
            (0..=255).map(|b| wide(dtype, b)).filter(|x| x.is_finite()).map(f64::from).collect();
        finite.sort_by(f64::total_cmp);
        let largest = *finite.last().unwrap();
        let narrow = |x: f64, saturate: bool| {
            let mut out = [0];
            let overflows = cast(DType::F64, dtype, &x.to_le_bytes(), &mut out, saturate);
            (wide(dtype, out[0]), overflows)
        };
        for pair in finite.windows(2) {
            let middle = f64::midpoint(pair[0], pair[1]);
            // Far less than an f32 can tell from the middle, so that rounding twice would see a tie.
            for (x, expected) in [(middle.next_down(), pair[0]), (middle.next_up(), pair[1])] {
                assert_eq!(narrow(x, false), (expected as f32, 0), "{dtype} {x}");
            }
        }
        let has_infinity = dtype == DType::F8E5M2;
        let least_kept = narrow(largest * 1.01, false);
        assert_eq!(least_kept, (largest as f32, 0), "{dtype}");
        for sign in [1.0, -1.0] {
            for x in [largest * 1.2, 1e38, 1e300] {
                let (y, overflows) = narrow(x * sign, false);
                assert!(!y.is_finite() && overflows == 1, "{dtype} {x}: {y}");
                assert_eq!(narrow(x * sign, true), ((largest * sign) as f32, 1), "{dtype} {x}");
            }
            let infinity = f64::INFINITY * sign;
            match has_infinity {
                true => assert_eq!(narrow(infinity, true), (infinity as f32, 0)),
                false => assert_eq!(narrow(infinity, true), ((largest * sign) as f32, 1)),
            }
            assert!(narrow(f64::NAN * sign, true).0.is_nan() && narrow(f64::NAN, true).1 == 0);
        }
    }
}

#[test]
fn casts_that_are_not_leave_all_as_it_is() {
    for &from in DType::ALL {
        for &to in DType::ALL {
            if can_cast(from, to) {
                assert!(from != to && (TARGETS.contains(&to) || SMALL_TARGETS.contains(&to)));
                continue;
            }
            let mut target = [7; 64];
            assert_eq!(cast(from, to, &[1; 64], &mut target, false), 0);
            assert_eq!(target, [7; 64], "{from} to {to}");
        }
    }
}

#[test]
fn scales_multiply_as_torch_does() {
    let goldens = goldens();
    let rows = goldens["scaled"].as_object().unwrap().iter().map(|(name, golden)| {
        let sizes: Vec<u64> =
            golden["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
        let [rows, columns, block_rows, block_columns] = sizes[..] else { panic!("{name}") };
        let codes = random_bytes(51, (rows * columns) as usize);
        let count = (rows.div_ceil(block_rows) * columns.div_ceil(block_columns)) as usize;
        let scales: Vec<f32> =
            random(52, count).iter().map(|r| (r >> 40) as f32 / (1 << 30) as f32).collect();
        let mut bytes = vec![0; codes.len() * 4];
        cast(DType::F8E4M3, DType::F32, &codes, &mut bytes, false);
        let mut numbers = f32s(&bytes);
        // In pieces that end anywhere, as a stream does.
        let mut first = 0;
        let mut random = Seeded::new(3);
        let mut rest = numbers.as_mut_slice();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at_mut((1 + random.below(700)).min(rest.len()));
            block::scale(piece, first, columns, block_rows, block_columns, &scales);
            first += piece.len() as u64;
            rest = after;
        }
        (name.clone(), digest(&numbers), &golden["sha256"])
    });
    check(rows.collect());
}
