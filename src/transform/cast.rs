//! Kernels over elements on the CPU: casts between float types, and the making of plain bytes from strided,
//! big-endian, conjugated or negated ones.
//!
//! The cast kernels keep these rules, which the GPU's kernels keep too: widening is exact; narrowing rounds to
//! nearest, ties to even, once; a NaN stays a NaN with its sign and its upper payload bits, made quiet (bf16 to f32 keeps
//! every bit; the one NaN of the fnuz types becomes the plain positive one); a finite value that rounds to infinity is
//! counted, and becomes the largest finite value if saturation is asked for.
//!
//! Types of eight bits, which only the CPU casts to, add three: a NaN becomes the type's NaN of all ones with its sign
//! (fnuz: its only one), as torch has it; e4m3 and the fnuz types have no infinity, so what is too large for them, an
//! infinity included, is counted and becomes that NaN, or the largest finite value if saturation is asked for; what
//! rounds to zero in a fnuz type loses its sign.
//!
//! The loops are plain ones over branch-free integer arithmetic (`cast/number.rs`), which the compiler vectorises for
//! any target. Their sums wrap, because a check for overflow would keep it from that.

mod number;

pub(crate) use number::{f16_to_f32, f32_to_f16, round_bf16};

use crate::dtype::{Class, DType};
use crate::transform::simd::{Kernel, Level, run};
use number::{E4M3, E4M3_FNUZ, E5M2, E5M2_FNUZ, F8_VALUES, F8S};

/// Float types that a cast can start from.
pub const SOURCES: &[DType] = &[
    DType::F64,
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::F8E4M3,
    DType::F8E5M2,
    DType::F8E4M3FNUZ,
    DType::F8E5M2FNUZ,
];

/// Float types that a cast can end in on every device: those that models compute in.
pub const TARGETS: &[DType] = &[DType::F32, DType::F16, DType::BF16];

/// Float types that a cast can end in on the CPU only: those that files are made small with.
pub const SMALL_TARGETS: &[DType] = &[DType::F8E4M3, DType::F8E5M2, DType::F8E4M3FNUZ, DType::F8E5M2FNUZ];

/// Whether every device has a kernel from one type to the other.
pub fn is_supported(from: DType, to: DType) -> bool {
    from != to && SOURCES.contains(&from) && TARGETS.contains(&to)
}

/// Whether [`cast`] has a kernel from one type to the other.
pub fn can_cast(from: DType, to: DType) -> bool {
    from != to && SOURCES.contains(&from) && (TARGETS.contains(&to) || SMALL_TARGETS.contains(&to))
}

/// Casts `source` into `target`, element by element; both hold whole elements and as many of them. Returns how many
/// finite values became infinite, or would have: with `saturate` they become the largest finite value. (For types
/// without infinity: how many values became a NaN that were none.) A pair that [`can_cast`] denies leaves `target`
/// untouched.
pub fn cast(from: DType, to: DType, source: &[u8], target: &mut [u8], saturate: bool) -> u64 {
    if !can_cast(from, to) {
        return 0;
    }
    match from {
        DType::F64 if to == DType::F32 => f64_to_f32(source, target, saturate),
        // What is rounded to odd first is rounded but once in the end.
        DType::F64 => {
            to_each(source, target, Read::new(NONE, |b| number::to_odd(f64::from_le_bytes(b))), to, saturate)
        }
        DType::F32 => to_each(source, target, Read::new(ANY, f32::from_le_bytes), to, saturate),
        DType::BF16 if to == DType::F16 => bf16_to_f16(source, target, saturate),
        DType::BF16 if to == DType::F32 => {
            run(Level::best(), WidenBf16(source, target));
            0
        }
        DType::BF16 => to_each(source, target, Read::new(ANY, bf16_to_f32), to, saturate),
        DType::F16 => {
            let plain = |b| number::finite_f16_to_f32(u16::from_le_bytes(b));
            let full = |b| f16_to_f32(u16::from_le_bytes(b));
            to_each(source, target, Read { limit: number::ABOVE_F16, plain, full }, to, saturate)
        }
        DType::F8E4M3 => from_table(source, target, &F8_VALUES[E4M3], to, saturate),
        DType::F8E5M2 => from_table(source, target, &F8_VALUES[E5M2], to, saturate),
        DType::F8E4M3FNUZ => from_table(source, target, &F8_VALUES[E4M3_FNUZ], to, saturate),
        DType::F8E5M2FNUZ => from_table(source, target, &F8_VALUES[E5M2_FNUZ], to, saturate),
        _ => 0,
    }
}

#[inline(always)]
fn bf16_to_f32(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

/// What most models are read by.
struct WidenBf16<'a>(&'a [u8], &'a mut [u8]);

impl Kernel for WidenBf16<'_> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let (source, target) = elements(self.0, self.1);
        for (&x, y) in source.iter().zip(target) {
            *y = bf16_to_f32(x).to_le_bytes();
        }
    }
}

/// The cast that most models want has a way of its own, without f32: twice as many elements in a vector. Groups that
/// hold what is not normal in f16 go the other one.
fn bf16_to_f16(source: &[u8], target: &mut [u8], saturate: bool) -> u64 {
    let with_care = |source: &[[u8; 2]], target: &mut [[u8; 2]]| {
        let read = Read::new(ANY, bf16_to_f32);
        to_each(source.as_flattened(), target.as_flattened_mut(), read, DType::F16, saturate)
    };
    let (source, target) = elements(source, target);
    let (sources, source_rest) = source.as_chunks::<GROUP>();
    let (targets, target_rest) = target.as_chunks_mut::<GROUP>();
    let mut overflows = 0u64;
    for (source, target) in sources.iter().zip(targets) {
        let mut odd = 0;
        for (&x, y) in source.iter().zip(target.iter_mut()) {
            let (half, is_odd) = number::normal_bf16_to_f16(u16::from_le_bytes(x));
            *y = half.to_le_bytes();
            odd |= is_odd;
        }
        if odd != 0 {
            overflows += with_care(source, target);
        }
    }
    overflows + with_care(source_rest, target_rest)
}

fn f64_to_f32(source: &[u8], target: &mut [u8], saturate: bool) -> u64 {
    let mut overflows = 0;
    for (&x, y) in source.as_chunks().0.iter().zip(target.as_chunks_mut().0) {
        let x = f64::from_le_bytes(x);
        let narrow = x as f32;
        let overflow = x.is_finite() && narrow.is_infinite();
        *y = if overflow && saturate { f32::MAX.copysign(narrow) } else { narrow }.to_le_bytes();
        overflows += u64::from(overflow);
    }
    overflows
}

/// The whole elements that both hold, as many of one as of the other.
#[inline(always)]
fn elements<'a, const A: usize, const B: usize>(
    source: &'a [u8],
    target: &'a mut [u8],
) -> (&'a [[u8; A]], &'a mut [[u8; B]]) {
    let (source, target) = (source.as_chunks().0, target.as_chunks_mut().0);
    let count = source.len().min(target.len());
    (&source[..count], &mut target[..count])
}

/// A limit that every magnitude is below, a NaN's too.
const ANY: u32 = 1 << 31;
/// A limit that no magnitude is below.
const NONE: u32 = 0;

/// How a source's elements become f32: `plain` is right wherever what it gives has a magnitude with bits below `limit`,
/// and gives others a magnitude that is not; `full` is always right.
struct Read<P, F> {
    limit: u32,
    plain: P,
    full: F,
}

impl<F: Copy> Read<F, F> {
    fn new(limit: u32, read: F) -> Read<F, F> {
        Read { limit, plain: read, full: read }
    }
}

fn from_table(source: &[u8], target: &mut [u8], values: &[f32; 256], to: DType, saturate: bool) -> u64 {
    to_each(source, target, Read::new(ANY, |[b]: [u8; 1]| values[usize::from(b)]), to, saturate)
}

/// Chooses the narrowing kernel.
#[inline(always)]
fn to_each<const A: usize>(
    source: &[u8],
    target: &mut [u8],
    read: Read<impl Fn([u8; A]) -> f32, impl Fn([u8; A]) -> f32>,
    to: DType,
    saturate: bool,
) -> u64 {
    match to {
        DType::F32 => each(source, target, read, ANY, f32::to_le_bytes, |x| (x.to_le_bytes(), 0)),
        DType::F16 => {
            let plain = |x| number::ordinary_f32_to_f16(x).to_le_bytes();
            each(source, target, read, number::ABOVE_F16, plain, |x| number::narrow_f16(x, saturate))
        }
        DType::BF16 => {
            let plain = |x| number::ordinary_f32_to_bf16(x).to_le_bytes();
            each(source, target, read, number::ABOVE_BF16, plain, |x| number::narrow_bf16(x, saturate))
        }
        DType::F8E4M3 => to_f8::<A, E4M3>(source, target, read, saturate),
        DType::F8E5M2 => to_f8::<A, E5M2>(source, target, read, saturate),
        DType::F8E4M3FNUZ => to_f8::<A, E4M3_FNUZ>(source, target, read, saturate),
        DType::F8E5M2FNUZ => to_f8::<A, E5M2_FNUZ>(source, target, read, saturate),
        _ => 0,
    }
}

/// The type is a parameter of the compiler's, so that each has a loop of its own.
#[inline(always)]
fn to_f8<const A: usize, const KIND: usize>(
    source: &[u8],
    target: &mut [u8],
    read: Read<impl Fn([u8; A]) -> f32, impl Fn([u8; A]) -> f32>,
    saturate: bool,
) -> u64 {
    let above = const { F8S[KIND].above };
    let plain = |x| [F8S[KIND].ordinary(x)];
    each(source, target, read, above, plain, |x| F8S[KIND].narrow(x, saturate))
}

/// Elements that are looked at together.
const GROUP: usize = 16;

/// Reads, converts and writes each element; sums the overflows. A group whose magnitudes are all below `limit` is done
/// the plain way, which knows no overflow, infinity or NaN; all groups of a model's weights are such. The few others are
/// done again in full.
#[inline(always)]
fn each<const A: usize, const B: usize>(
    source: &[u8],
    target: &mut [u8],
    read: Read<impl Fn([u8; A]) -> f32, impl Fn([u8; A]) -> f32>,
    limit: u32,
    plain: impl Fn(f32) -> [u8; B],
    full: impl Fn(f32) -> ([u8; B], u32),
) -> u64 {
    let limit = limit.min(read.limit);
    let in_full = |source: &[[u8; A]], target: &mut [[u8; B]]| {
        let mut overflows = 0u32;
        for (&x, y) in source.iter().zip(target) {
            let (bytes, overflow) = full((read.full)(x));
            *y = bytes;
            overflows = overflows.wrapping_add(overflow);
        }
        u64::from(overflows)
    };
    let (source, target) = elements(source, target);
    let (sources, source_rest) = source.as_chunks::<GROUP>();
    let (targets, target_rest) = target.as_chunks_mut::<GROUP>();
    let mut overflows = 0u64;
    for (source, target) in sources.iter().zip(targets) {
        // The sign bit stays while each magnitude less the limit is negative.
        let mut below = ANY;
        for (&x, y) in source.iter().zip(target.iter_mut()) {
            let x = (read.plain)(x);
            below &= (x.to_bits() & !ANY).wrapping_sub(limit);
            *y = plain(x);
        }
        if below & ANY == 0 {
            overflows += in_full(source, target);
        }
    }
    overflows + in_full(source_rest, target_rest)
}

/// How to make plain bytes of an odd block of elements: which elements, in which order, and what to do to each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fix {
    /// Element type of the source.
    pub dtype: DType,
    /// Sizes, outermost first, in blocks of the dtype (elements for plain types).
    pub shape: Vec<u64>,
    /// Blocks between neighbours along each dimension, in the bytes that were gathered.
    pub strides: Vec<u64>,
    /// Swap the bytes of each field.
    pub swap: bool,
    /// Negate the imaginary part.
    pub conj: bool,
    /// Negate every number.
    pub neg: bool,
}

impl Fix {
    /// Bytes it yields.
    pub fn size_bytes(&self) -> u64 {
        self.shape.iter().product::<u64>() * u64::from(self.dtype.facts().block_bytes)
    }

    /// Fills `target` (exactly [`Fix::size_bytes`]) from `source`. Elements that `source` does not hold are an error of
    /// the plan; they come out as zeros.
    pub fn apply(&self, source: &[u8], target: &mut [u8]) {
        let width = self.dtype.facts().block_bytes as usize;
        let mut index = vec![0u64; self.shape.len()];
        let inner = self.shape.len().saturating_sub(1);
        let (inner_count, inner_stride) = match self.shape.last() {
            Some(&n) => (n as usize, self.strides[inner] as usize),
            None => (1, 1),
        };
        for row in target.chunks_mut((inner_count * width).max(1)) {
            let start: u64 = index.iter().zip(&self.strides).take(inner).map(|(i, s)| i * s).sum();
            let start = start as usize * width;
            if inner_stride == 1 {
                if let Some(from) = source.get(start..start + row.len()) {
                    row.copy_from_slice(from);
                }
            } else {
                for (i, to) in row.chunks_exact_mut(width).enumerate() {
                    let at = start + i * inner_stride * width;
                    if let Some(from) = source.get(at..at + width) {
                        to.copy_from_slice(from);
                    }
                }
            }
            for d in (0..inner).rev() {
                index[d] += 1;
                if index[d] < self.shape[d] {
                    break;
                }
                index[d] = 0;
            }
        }
        if self.swap {
            swap_fields(self.dtype, target);
        }
        let width_of_part = if self.dtype.facts().class == Class::Complex { width / 2 } else { width };
        if self.conj && self.dtype.facts().class == Class::Complex {
            for pair in target.chunks_exact_mut(width) {
                negate(self.dtype, &mut pair[width_of_part..]);
            }
        }
        if self.neg {
            for number in target.chunks_exact_mut(width_of_part) {
                negate(self.dtype, number);
            }
        }
    }
}

/// Swaps the bytes of each field of each block, in place.
pub fn swap_fields(dtype: DType, bytes: &mut [u8]) {
    let facts = dtype.facts();
    match facts.fields {
        [(1, _)] => {}
        [(2, 1)] => bytes.as_chunks_mut::<2>().0.iter_mut().for_each(|b| b.reverse()),
        [(4, 1)] => bytes.as_chunks_mut::<4>().0.iter_mut().for_each(|b| b.reverse()),
        [(8, 1)] => bytes.as_chunks_mut::<8>().0.iter_mut().for_each(|b| b.reverse()),
        fields => {
            for block in bytes.chunks_exact_mut(facts.block_bytes as usize) {
                let mut at = 0;
                for &(width, count) in fields {
                    let (width, count) = (usize::from(width), usize::from(count));
                    if width > 1 {
                        for field in block[at..at + width * count].chunks_exact_mut(width) {
                            field.reverse();
                        }
                    }
                    at += width * count;
                }
            }
        }
    }
}

/// Negates one little-endian number: the sign bit of a float, two's complement of an integer.
fn negate(dtype: DType, number: &mut [u8]) {
    match dtype.facts().class {
        Class::Float | Class::Complex => {
            if let Some(last) = number.last_mut() {
                *last ^= 0x80;
            }
        }
        _ => {
            let mut carry = 1u16;
            for byte in number {
                let sum = u16::from(!*byte) + carry;
                *byte = sum as u8;
                carry = sum >> 8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    /// The nearest of all 16-bit patterns, ties to the even one; infinity counts as the next power of two. (half's own
    /// `from_f64` drops the lower half of the f64 and so misses values just above a tie.)
    fn nearest(x: f64, value: fn(u16) -> f64, infinity: f64) -> u16 {
        // Beyond it, f64 no longer tells the distances apart.
        let x = if x.is_finite() { x.clamp(-infinity, infinity) } else { x };
        let distance = |bits: u16| {
            let v = value(bits);
            (x - if v.is_infinite() { infinity.copysign(v) } else { v }).abs()
        };
        let patterns = (0..=u16::MAX)
            .filter(|&b| !value(b).is_nan() && value(b).is_sign_negative() == x.is_sign_negative());
        if x.is_infinite() {
            return patterns.into_iter().find(|&b| value(b) == x).unwrap();
        }
        patterns.min_by(|&a, &b| distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1)))).unwrap()
    }

    #[test]
    fn every_half_widens_as_the_half_crate_does() {
        let bits: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let mut out = vec![0; bits.len() * 2];
        for (from, wide) in [
            (DType::F16, (|b| f16::from_bits(b).to_f32()) as fn(u16) -> f32),
            (DType::BF16, |b| f32::from_bits(u32::from(b) << 16)),
        ] {
            assert_eq!(cast(from, DType::F32, &bits, &mut out, false), 0);
            for (b, y) in (0..=u16::MAX).zip(out.as_chunks::<4>().0) {
                assert_eq!(u32::from_le_bytes(*y), wide(b).to_bits(), "{from} {b:#x}");
            }
        }
    }

    #[test]
    fn narrowing_rounds_once_and_counts_overflow() {
        let specials = [
            0.0,
            -0.0,
            1.0,
            65504.0,
            65519.99,
            65520.0,
            -1e6,
            3.4e38,
            3.39e38,
            1e300,
            5.96e-8,
            2.98e-8,
            2.99e-8,
            1e-40,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
            2049.0,
            2051.0,
            1.0 + 1.0 / 2048.0 + 1e-12,
        ];
        for x in specials {
            for (from, bytes) in
                [(DType::F64, x.to_le_bytes().to_vec()), (DType::F32, (x as f32).to_le_bytes().to_vec())]
            {
                let exact = if from == DType::F64 { x } else { f64::from(x as f32) };
                let mut y = [0; 2];
                let overflow = cast(from, DType::F16, &bytes, &mut y, false);
                let expected = if exact.is_nan() {
                    0x7e00
                } else {
                    nearest(exact, |b| f16::from_bits(b).to_f64(), 65536.0)
                };
                if !exact.is_nan() {
                    assert_eq!(u16::from_le_bytes(y), expected, "{from} {x}");
                }
                assert_eq!(overflow, u64::from(exact.is_finite() && expected & 0x7fff == 0x7c00), "{x}");
                cast(from, DType::F16, &bytes, &mut y, true);
                assert_eq!(exact.is_finite(), f16::from_le_bytes(y).is_finite(), "{x} saturated");
                let overflow = cast(from, DType::BF16, &bytes, &mut y, false);
                let expected = if exact.is_nan() {
                    0x7fc0
                } else {
                    nearest(exact, |b| bf16::from_bits(b).to_f64(), 2f64.powi(128))
                };
                if !exact.is_nan() {
                    assert_eq!(u16::from_le_bytes(y), expected, "{from} {x}");
                }
                assert_eq!(overflow, u64::from(exact.is_finite() && expected & 0x7fff == 0x7f80), "{x}");
            }
        }
    }

    /// The patterns of all f32 that f16 has a number for or is between two of, and some of all others.
    #[test]
    fn f16_is_made_as_the_half_crate_makes_it() {
        let near = (0..=u16::MAX).flat_map(|b| {
            let bits = f16::from_bits(b).to_f32().to_bits();
            [0, 1, 0xfff, 0x1000, 0x1001, 0x1fff].map(|d| bits.wrapping_add(d))
        });
        for bits in near.chain((0..=u32::MAX).step_by(65537)) {
            let ours = f32_to_f16(f32::from_bits(bits));
            assert_eq!(ours, f16::from_f32(f32::from_bits(bits)).to_bits(), "{bits:#x}");
        }
        let brains: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let mut halves = vec![0; brains.len()];
        cast(DType::BF16, DType::F16, &brains, &mut halves, false);
        for (b, y) in (0..=u16::MAX).zip(halves.as_chunks::<2>().0) {
            assert_eq!(
                u16::from_le_bytes(*y),
                f16::from_f32(bf16::from_bits(b).to_f32()).to_bits(),
                "{b:#x}"
            );
        }
    }

    /// A group is done the plain way or in full; either way its elements are what each is by itself.
    #[test]
    fn elements_do_not_depend_on_their_neighbours() {
        let mut state = 1u64;
        let mut random = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 32) as u32
        };
        const COUNT: usize = 16 * 40 + 5;
        for &from in SOURCES {
            let width = from.facts().block_bytes as usize;
            let any: Vec<u8> = (0..COUNT * width).map(|_| random() as u8).collect();
            // Of moderate size, with one of any kind now and then.
            let mut moderate = any.clone();
            let numbers: Vec<u8> =
                (0..COUNT).flat_map(|_| ((random() as f32 / 2e9 - 1.0) / 16.0).to_le_bytes()).collect();
            match from {
                DType::F64 => {
                    for (x, y) in numbers.as_chunks().0.iter().zip(moderate.as_chunks_mut().0) {
                        *y = f64::from(f32::from_le_bytes(*x)).to_le_bytes();
                    }
                }
                DType::F32 => moderate.clone_from(&numbers),
                _ => drop(cast(DType::F32, from, &numbers, &mut moderate, false)),
            }
            for at in [77, 200, 333] {
                moderate[at * width..][..width].copy_from_slice(&any[at * width..][..width]);
            }
            for &to in TARGETS.iter().chain(SMALL_TARGETS).filter(|&&to| can_cast(from, to)) {
                for (source, saturate) in [(&any, false), (&any, true), (&moderate, false), (&moderate, true)]
                {
                    let target_width = to.facts().block_bytes as usize;
                    let mut together = vec![0; COUNT * target_width];
                    let mut apart = together.clone();
                    let overflows = cast(from, to, source, &mut together, saturate);
                    let pairs = source.chunks(width).zip(apart.chunks_mut(target_width));
                    let sum: u64 = pairs.map(|(x, y)| cast(from, to, x, y, saturate)).sum();
                    assert_eq!((overflows, together), (sum, apart), "{from} {to} {saturate}");
                    // A target that is too short takes what it can.
                    let mut short = vec![0; 19 * target_width];
                    cast(from, to, source, &mut short, saturate);
                    let mut whole = vec![0; COUNT * target_width];
                    cast(from, to, source, &mut whole, saturate);
                    assert_eq!(short, whole[..short.len()], "{from} {to}");
                }
            }
        }
    }

    #[test]
    fn f8_values() {
        for (dtype, bits, value) in [
            (DType::F8E4M3, 0x7e, 448.0),
            (DType::F8E4M3, 0x01, 2f32.powi(-9)),
            (DType::F8E4M3, 0x80, -0.0),
            (DType::F8E5M2, 0x7b, 57344.0),
            (DType::F8E5M2, 0x01, 2f32.powi(-16)),
            (DType::F8E4M3FNUZ, 0x7f, 240.0),
            (DType::F8E4M3FNUZ, 0x01, 2f32.powi(-10)),
            (DType::F8E5M2FNUZ, 0x7f, 57344.0),
            (DType::F8E5M2FNUZ, 0x81, -(2f32.powi(-17))),
        ] {
            let mut y = [0; 4];
            cast(dtype, DType::F32, &[bits], &mut y, false);
            assert_eq!(f32::from_le_bytes(y).to_bits(), value.to_bits(), "{dtype} {bits:#x}");
        }
        for (dtype, bits) in [(DType::F8E4M3, 0xff), (DType::F8E4M3FNUZ, 0x80), (DType::F8E5M2, 0x7d)] {
            let mut y = [0; 4];
            cast(dtype, DType::F32, &[bits], &mut y, false);
            assert!(f32::from_le_bytes(y).is_nan(), "{dtype} {bits:#x}");
        }
    }

    #[test]
    fn negation_is_exact() {
        for (dtype, before, after) in [
            (DType::I16, vec![1, 0], vec![0xff, 0xff]),
            (DType::I16, vec![0, 0x80], vec![0, 0x80]),
            (DType::U8, vec![3], vec![0xfd]),
            (DType::BF16, vec![0x80, 0x3f], vec![0x80, 0xbf]),
        ] {
            let mut bytes = before;
            negate(dtype, &mut bytes);
            assert_eq!(bytes, after, "{dtype}");
        }
    }
}
