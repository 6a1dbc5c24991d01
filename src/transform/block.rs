//! Blocks of numbers: ggml's block types and OCP microscaling, to f32 and from it.
//!
//! A row a type says how its blocks are read and, where we write it, made; the kinds of packing have a file each, with
//! `decode` beside `encode`. Layouts are those of `ggml-common.h`; the arithmetic is that of the reference
//! (`ggml-quants.c` without contraction, gguf-py), in its order, so that every number is equal to the last bit. Only
//! the payload and sign of a NaN (from a NaN or infinite scale) are left open.
//!
//! Kernels take arrays of one block's size. So nothing in them can reach outside a block whatever the bytes are, and the
//! compiler sees loops of fixed length, which it vectorises.

mod bits;
mod ends;
mod fit;
mod fp4;
mod iq;
mod iq4;
mod k;
mod q4;
mod q5;
mod q8;
mod scaled;
mod simd;
mod weighing;

pub use fp4::{decode_mx, repack_mx};
pub use scaled::scale;

use crate::dtype::DType;
use crate::transform::cast;
use std::marker::PhantomData;
use weighing::Importance;

type Decode = fn(&[u8], &mut [f32]);
type Encode = fn(&[f32], &mut [u8], Option<Importance>) -> u64;

/// How one type's blocks are read and made.
struct Row {
    dtype: DType,
    decode: Decode,
    encode: Option<Encode>,
}

const fn reads(dtype: DType, decode: Decode) -> Row {
    Row { dtype, decode, encode: None }
}

const fn both(dtype: DType, decode: Decode, encode: Encode) -> Row {
    Row { dtype, decode, encode: Some(encode) }
}

#[rustfmt::skip]
const ROWS: &[Row] = &[
    both(DType::Q8_0,    |b, x| each(b, x, q8::decode_0), plain::<q8::Type0, 32, 34>),
    both(DType::Q4_0,    |b, x| each(b, x, q4::decode_0), ends::encode::<q4::Type0, 18>),
    both(DType::Q4_1,    |b, x| each(b, x, q4::decode_1), ends::encode::<q4::Type1, 20>),
    both(DType::Q5_0,    |b, x| each(b, x, q5::decode_0), ends::encode::<q5::Type0, 22>),
    both(DType::Q5_1,    |b, x| each(b, x, q5::decode_1), ends::encode::<q5::Type1, 24>),
    reads(DType::Q8_1,   |b, x| each(b, x, q8::decode_1)),
    both(DType::Q2K,     |b, x| each(b, x, k::decode_2), k::encode_2),
    both(DType::Q3K,     |b, x| each(b, x, k::decode_3), k::encode_3),
    both(DType::Q4K,     |b, x| each(b, x, k::decode_4), k::encode_4),
    both(DType::Q5K,     |b, x| each(b, x, k::decode_5), k::encode_5),
    both(DType::Q6K,     |b, x| each(b, x, k::decode_6), k::encode_6),
    reads(DType::Q8K,    |b, x| each(b, x, q8::decode_k)),
    reads(DType::IQ2XXS, |b, x| each(b, x, iq::decode_2xxs)),
    reads(DType::IQ2XS,  |b, x| each(b, x, iq::decode_2xs)),
    reads(DType::IQ2S,   |b, x| each(b, x, iq::decode_2s)),
    reads(DType::IQ3XXS, |b, x| each(b, x, iq::decode_3xxs)),
    reads(DType::IQ3S,   |b, x| each(b, x, iq::decode_3s)),
    reads(DType::IQ1S,   |b, x| each(b, x, iq::decode_1s)),
    reads(DType::IQ1M,   |b, x| each(b, x, iq::decode_1m)),
    both(DType::IQ4NL,   |b, x| each(b, x, iq4::decode_nl), iq4::encode_nl),
    both(DType::IQ4XS,   |b, x| each(b, x, iq4::decode_xs), iq4::encode_xs),
    both(DType::TQ1_0,   |b, x| each(b, x, bits::decode_ternary_1), plain::<bits::Ternary1, 256, 54>),
    both(DType::TQ2_0,   |b, x| each(b, x, bits::decode_ternary_2), plain::<bits::Ternary2, 256, 66>),
    reads(DType::Q1_0,   |b, x| each(b, x, bits::decode_1)),
    reads(DType::Q2_0,   |b, x| each(b, x, bits::decode_2)),
    both(DType::MXFP4,   |b, x| each(b, x, fp4::decode_mxfp4), plain::<fp4::MxFp4, 32, 17>),
    reads(DType::NVFP4,  |b, x| each(b, x, fp4::decode_nvfp4)),
];

fn row(dtype: DType) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.dtype == dtype)
}

/// Whether blocks of this type can be turned into numbers: every block type of ggml.
pub fn can_decode(dtype: DType) -> bool {
    row(dtype).is_some()
}

/// Whether numbers can be turned into blocks of this type.
pub fn can_encode(dtype: DType) -> bool {
    row(dtype).is_some_and(|row| row.encode.is_some())
}

/// Decodes whole blocks: `n × block_bytes` bytes into `n × block_elements` numbers. The whole blocks that both hold are
/// decoded; a type that [`can_decode`] denies leaves `out` untouched.
pub fn decode(dtype: DType, blocks: &[u8], out: &mut [f32]) {
    if let Some(row) = row(dtype) {
        (row.decode)(blocks, out);
    }
}

/// Encodes whole blocks: `n × block_elements` numbers into `n × block_bytes` bytes, which are those of ggml's reference
/// built for x86-64 without contraction. Returns how many finite numbers lie in blocks whose scale does not fit its type:
/// such a block holds no finite number, or what the reference makes of numbers whose squares overflow. A block that was
/// given a NaN or an infinity holds no finite number and is not counted. A type that [`can_encode`] denies leaves `out`
/// untouched.
pub fn encode(dtype: DType, numbers: &[f32], out: &mut [u8]) -> u64 {
    row(dtype).and_then(|row| row.encode).map_or(0, |encode| encode(numbers, out, None))
}

/// [`encode`] where the error counts by an importance of the columns: `numbers` are the elements from `first` on of a
/// matrix of `columns` columns, and `importance` is that of each column; those that it lacks count as 1. As in the
/// reference, types that have no search (Q8_0, MXFP4, TQ1_0, TQ2_0) do not look at it. Q4_0, Q4_1, Q5_0 and Q5_1 weigh by the mean square of a whole row
/// too: `numbers` should be whole rows ([`weighs_rows`]).
pub fn encode_weighed(
    dtype: DType,
    numbers: &[f32],
    columns: usize,
    first: u64,
    importance: &[f32],
    out: &mut [u8],
) -> u64 {
    let importance = Importance { columns, first, importance };
    row(dtype).and_then(|row| row.encode).map_or(0, |encode| encode(numbers, out, Some(importance)))
}

/// Whether an encoder with importance must be given whole rows, for their mean square has a part in the weights.
pub fn weighs_rows(dtype: DType) -> bool {
    matches!(dtype, DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1)
}

/// What became of a block's numbers.
enum Sound {
    /// They are kept as well as the type can.
    Kept,
    /// They are finite, but the scale does not fit.
    Lost,
    /// One is not finite.
    Never,
}

/// The largest magnitude; not finite if a number is not.
#[inline(always)]
fn farthest(numbers: &[f32]) -> f32 {
    // Magnitudes are ordered as their bits are; a NaN is above all.
    let far = numbers.iter().fold(0, |max: i32, &x| max.max((x.to_bits() & 0x7fff_ffff) as i32));
    f32::from_bits(far as u32)
}

/// Whether a block whose numbers reach so far holds them with these f16 for scales.
#[inline(always)]
fn sound(far: f32, scales: &[u16]) -> Sound {
    if !far.is_finite() {
        return Sound::Never;
    }
    // Squares of numbers that are far beyond every type's range overflow, and their scale may then be anything.
    let lost = far > BEYOND || scales.iter().any(|scale| scale & 0x7c00 == 0x7c00);
    if lost { Sound::Lost } else { Sound::Kept }
}

/// More than the largest scale in f16, times the largest code of a scale, times the largest of a number.
const BEYOND: f32 = 1e9;

/// Carries `one` over the blocks of `B` bytes and `N` numbers.
#[inline(always)]
fn each<const B: usize, const N: usize>(
    blocks: &[u8],
    out: &mut [f32],
    one: impl Fn(&[u8; B], &mut [f32; N]),
) {
    for (block, out) in blocks.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        one(block, out);
    }
}

/// A type whose blocks are made each for itself, and without regard to an importance.
trait Plain<const N: usize, const B: usize> {
    /// Called from [`simd::Kernel::run`], and to be inlined as it is. Returns as [`encode`] does.
    fn encode(numbers: &[f32; N], block: &mut [u8; B]) -> u64;
}

fn plain<T: Plain<N, B>, const N: usize, const B: usize>(
    numbers: &[f32],
    out: &mut [u8],
    _: Option<Importance>,
) -> u64 {
    simd::run(EachPlain::<T, N, B> { numbers, out, of: PhantomData })
}

struct EachPlain<'a, T, const N: usize, const B: usize> {
    numbers: &'a [f32],
    out: &'a mut [u8],
    of: PhantomData<T>,
}

impl<T: Plain<N, B>, const N: usize, const B: usize> simd::Kernel for EachPlain<'_, T, N, B> {
    type Made = u64;

    #[inline(always)]
    fn run<const L: usize>(self) -> u64 {
        let mut lost = 0;
        for (x, block) in self.numbers.as_chunks().0.iter().zip(self.out.as_chunks_mut().0) {
            lost += T::encode(x, block);
        }
        lost
    }
}

/// The f16 at byte `at` of a block. `at` is a constant of the layout.
#[inline(always)]
fn half<const B: usize>(block: &[u8; B], at: usize) -> f32 {
    cast::f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

#[inline(always)]
fn half_to<const B: usize>(block: &mut [u8; B], at: usize, bits: u16) {
    block[at..at + 2].copy_from_slice(&bits.to_le_bytes());
}

/// The f16 that makes no number of a block finite.
const NAN: u16 = 0x7e00;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Class;

    #[test]
    fn every_block_type_has_its_row_and_size() {
        for &dtype in DType::ALL {
            let facts = dtype.facts();
            assert_eq!(can_decode(dtype), facts.class == Class::Block, "{dtype}");
            assert!(ROWS.iter().filter(|r| r.dtype == dtype).count() <= 1, "{dtype}");
            if !can_decode(dtype) {
                continue;
            }
            // One block of the facts' size fills exactly the facts' number of elements, and one byte less none.
            let (bytes, elements) = (facts.block_bytes as usize, facts.block_elements as usize);
            let mut out = vec![9e9; elements * 2];
            decode(dtype, &vec![0x5a; bytes], &mut out);
            assert!(out[..elements].iter().all(|&x| x != 9e9), "{dtype}");
            assert!(out[elements..].iter().all(|&x| x == 9e9), "{dtype}");
            out.fill(9e9);
            decode(dtype, &vec![0x5a; bytes - 1], &mut out);
            decode(dtype, &vec![0x5a; bytes], &mut out[..elements - 1]);
            assert!(out.iter().all(|&x| x == 9e9), "{dtype}");
        }
    }

    #[test]
    fn every_width_makes_the_same_bytes() {
        // A count of blocks that fills no width.
        let numbers: Vec<f32> = (0..256 * 37).map(|i| ((i * i % 8191) as f32 - 4000.0) * 1e-4).collect();
        let importance: Vec<f32> = (0..256 * 37).map(|i| (i % 19) as f32 * 0.3).collect();
        for row in ROWS.iter().filter(|row| row.encode.is_some()) {
            let facts = row.dtype.facts();
            let make = || {
                let count = numbers.len() / facts.block_elements as usize * facts.block_bytes as usize;
                let (mut plain, mut weighed) = (vec![0; count], vec![0; count]);
                encode(row.dtype, &numbers, &mut plain);
                encode_weighed(row.dtype, &numbers, numbers.len(), 0, &importance, &mut weighed);
                (plain, weighed)
            };
            let widest = make();
            for lanes in [8, 16, 32] {
                assert!(simd::tests::with_lanes(lanes, make) == widest, "{} {lanes}", row.dtype);
            }
        }
    }

    #[test]
    fn no_bytes_make_a_decoder_panic() {
        let mut state = 1u64;
        for row in ROWS {
            let facts = row.dtype.facts();
            for fill in [0x00, 0x7f, 0x80, 0xff] {
                let mut out = vec![0.0; facts.block_elements as usize];
                decode(row.dtype, &vec![fill; facts.block_bytes as usize], &mut out);
            }
            let mut bytes = vec![0; facts.block_bytes as usize * 64];
            for byte in &mut bytes {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                *byte = (state >> 56) as u8;
            }
            let mut out = vec![0.0; facts.block_elements as usize * 64];
            decode(row.dtype, &bytes, &mut out);
        }
    }
}
