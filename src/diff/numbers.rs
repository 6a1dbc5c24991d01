//! How far two runs of numbers are from each other.
//!
//! Everything is compared as f64, which holds every number of the other types but the largest integers; those are counted
//! by their bytes. Sums go over lanes and blocks in a fixed order, so that the same files give the same figures whatever
//! the threads.

use crate::dtype::{Class, DType};
use crate::transform::block;
use crate::transform::cast::{self, f16_to_f32};

/// Elements that are read at once: both sides stay in the cache.
pub(super) const BLOCK_ELEMENTS: usize = 4096;

/// Lanes of the sums.
const LANES: usize = 8;

/// Whether elements of this type can be read as numbers.
pub(super) fn has_numbers(dtype: DType) -> bool {
    !matches!(dtype, DType::F4 | DType::F6E2M3 | DType::F6E3M2)
        && (dtype.facts().class != Class::Block || block::can_decode(dtype))
}

/// Numbers of an element: a complex one has two.
fn parts(dtype: DType) -> usize {
    if dtype.facts().class == Class::Complex { 2 } else { 1 }
}

/// Reads numbers. The memory is kept from block to block.
#[derive(Debug, Default)]
struct Reader {
    single: Vec<f32>,
    double: Vec<f64>,
}

impl Reader {
    /// The numbers of whole elements or blocks of a type that [`has_numbers`].
    fn read(&mut self, dtype: DType, bytes: &[u8]) -> &[f64] {
        let single = |x: f32| f64::from(x);
        match dtype {
            DType::F64 | DType::C128 => self.of(bytes, f64::from_le_bytes),
            DType::F32 | DType::C64 => self.of(bytes, |b| single(f32::from_le_bytes(b))),
            DType::C32 => self.of(bytes, |b| single(f16_to_f32(u16::from_le_bytes(b)))),
            DType::U8 | DType::Bool => self.of(bytes, |[b]| b.into()),
            DType::I8 => self.of(bytes, |b| i8::from_le_bytes(b).into()),
            DType::U16 => self.of(bytes, |b| u16::from_le_bytes(b).into()),
            DType::I16 => self.of(bytes, |b| i16::from_le_bytes(b).into()),
            DType::U32 => self.of(bytes, |b| u32::from_le_bytes(b).into()),
            DType::I32 => self.of(bytes, |b| i32::from_le_bytes(b).into()),
            // The nearest that an f64 holds: their differences are counted by their bytes.
            DType::U64 => self.of(bytes, |b| u64::from_le_bytes(b) as f64),
            DType::I64 => self.of(bytes, |b| i64::from_le_bytes(b) as f64),
            // A power of two of 2⁻¹²⁷ to 2¹²⁷; all ones are no number.
            DType::F8E8M0 => self.of(bytes, |[b]| match b {
                0xff => f64::NAN,
                b => f64::from_bits((u64::from(b) + 1023 - 127) << 52),
            }),
            other => {
                let facts = other.facts();
                let count = bytes.len() / facts.block_bytes as usize * facts.block_elements as usize;
                self.single.clear();
                self.single.resize(count, 0.0);
                if facts.class == Class::Block {
                    block::decode(other, bytes, &mut self.single);
                } else {
                    cast::cast(other, DType::F32, bytes, bytemuck::cast_slice_mut(&mut self.single), false);
                }
                self.double.clear();
                self.double.extend(self.single.iter().map(|&x| single(x)));
                &self.double
            }
        }
    }

    fn of<const N: usize>(&mut self, bytes: &[u8], number: impl Fn([u8; N]) -> f64) -> &[f64] {
        self.double.clear();
        self.double.extend(bytes.as_chunks::<N>().0.iter().map(|&b| number(b)));
        &self.double
    }
}

/// What a comparison needs at hand.
#[derive(Debug, Default)]
pub(super) struct Readers {
    a: Reader,
    b: Reader,
}

impl Readers {
    /// Whether elements of two types are the same numbers, as [`Sums::differing`] has it.
    pub(super) fn equal(&mut self, a: (DType, &[u8]), b: (DType, &[u8])) -> bool {
        let (x, y) = (self.a.read(a.0, a.1), self.b.read(b.0, b.1));
        // Counted to the end, which is faster than looking after each.
        x.iter().zip(y).map(|(&x, &y)| u32::from(differ(x, y))).sum::<u32>() == 0
    }
}

fn differ(x: f64, y: f64) -> bool {
    x.to_bits() != y.to_bits() && !(x.is_nan() && y.is_nan())
}

/// What two runs of numbers have in common, as sums and extremes. Elements that are not finite on both sides are left
/// out of these.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Sums {
    /// Elements that are not the same: by their bytes where both are of one plain type, else by their numbers (a NaN
    /// equals a NaN, −0 is not 0).
    pub(super) differing: u64,
    /// Those of them of which one or both are NaN or infinite.
    pub(super) not_finite: u64,
    /// The largest difference.
    pub(super) max_abs: f64,
    /// The element that has it first.
    pub(super) worst: u64,
    /// The largest magnitude of A.
    pub(super) top: f64,
    /// Σ a·b, Σ a², Σ b², Σ (a−b)².
    pub(super) dot: f64,
    pub(super) aa: f64,
    pub(super) bb: f64,
    pub(super) dd: f64,
}

impl Sums {
    /// With those of what follows.
    pub(super) fn and(self, next: Sums) -> Sums {
        let (max_abs, worst) = match next.max_abs > self.max_abs {
            true => (next.max_abs, next.worst),
            false => (self.max_abs, self.worst),
        };
        Sums {
            differing: self.differing + next.differing,
            not_finite: self.not_finite + next.not_finite,
            max_abs,
            worst,
            top: self.top.max(next.top),
            dot: self.dot + next.dot,
            aa: self.aa + next.aa,
            bb: self.bb + next.bb,
            dd: self.dd + next.dd,
        }
    }

    /// Adds elements that begin at number `first`: `a` of the one type, `b` of the other, as many on both sides, no more
    /// than [`BLOCK_ELEMENTS`].
    pub(super) fn add(&mut self, readers: &mut Readers, a: (DType, &[u8]), b: (DType, &[u8]), first: u64) {
        if !has_numbers(a.0) || !has_numbers(b.0) {
            self.differing += unequal(a.0, a.1, b.1);
            return;
        }
        let (x, y) = (readers.a.read(a.0, a.1), readers.b.read(b.0, b.1));
        let mut sums = of_numbers(x, y);
        let parts = parts(a.0);
        if sums.max_abs > self.max_abs {
            let is_worst = |(x, y): (&f64, &f64)| is_finite(*x, *y) && (x - y).abs() == sums.max_abs;
            sums.worst = first + (x.iter().zip(y).position(is_worst).unwrap_or(0) / parts) as u64;
        }
        if a.0 == b.0 && a.0.is_plain() {
            sums.differing = unequal(a.0, a.1, b.1);
        } else {
            sums.differing = sums.differing.div_ceil(parts as u64);
        }
        *self = self.and(sums);
    }
}

fn is_finite(x: f64, y: f64) -> bool {
    x.is_finite() && y.is_finite()
}

fn of_numbers(a: &[f64], b: &[f64]) -> Sums {
    let (mut max, mut top) = ([0f64; LANES], [0f64; LANES]);
    let (mut dot, mut aa, mut bb, mut dd) = ([0f64; LANES], [0f64; LANES], [0f64; LANES], [0f64; LANES]);
    let (mut differing, mut not_finite) = ([0u64; LANES], [0u64; LANES]);
    let mut lanes = |x: &[f64; LANES], y: &[f64; LANES]| {
        for i in 0..LANES {
            let differs = differ(x[i], y[i]);
            let finite = is_finite(x[i], y[i]);
            let (x, y) = if finite { (x[i], y[i]) } else { (0.0, 0.0) };
            let d = (x - y).abs();
            max[i] = max[i].max(d);
            top[i] = top[i].max(x.abs());
            dot[i] += x * y;
            aa[i] += x * x;
            bb[i] += y * y;
            dd[i] += d * d;
            differing[i] += u64::from(differs);
            not_finite[i] += u64::from(differs && !finite);
        }
    };
    let (x, x_rest) = a.as_chunks::<LANES>();
    let (y, y_rest) = b.as_chunks::<LANES>();
    x.iter().zip(y).for_each(|(x, y)| lanes(x, y));
    // Zeros on both sides add nothing.
    let (mut x, mut y) = ([0.0; LANES], [0.0; LANES]);
    x.iter_mut().zip(x_rest).for_each(|(to, &from)| *to = from);
    y.iter_mut().zip(y_rest).for_each(|(to, &from)| *to = from);
    lanes(&x, &y);
    let most = |lanes: [f64; LANES]| lanes.into_iter().fold(0.0, f64::max);
    let sum = |lanes: [f64; LANES]| lanes.into_iter().sum();
    Sums {
        differing: differing.into_iter().sum(),
        not_finite: not_finite.into_iter().sum(),
        max_abs: most(max),
        worst: 0,
        top: most(top),
        dot: sum(dot),
        aa: sum(aa),
        bb: sum(bb),
        dd: sum(dd),
    }
}

/// Elements whose bytes differ.
fn unequal(dtype: DType, a: &[u8], b: &[u8]) -> u64 {
    fn of<const N: usize>(a: &[u8], b: &[u8]) -> u64 {
        a.as_chunks::<N>().0.iter().zip(b.as_chunks::<N>().0).map(|(x, y)| u64::from(x != y)).sum()
    }
    let facts = dtype.facts();
    let blocks = match facts.block_bytes {
        1 => of::<1>(a, b),
        2 => of::<2>(a, b),
        4 => of::<4>(a, b),
        8 => of::<8>(a, b),
        16 => of::<16>(a, b),
        width => {
            let width = width as usize;
            a.chunks_exact(width).zip(b.chunks_exact(width)).map(|(x, y)| u64::from(x != y)).sum()
        }
    };
    blocks * u64::from(facts.block_elements)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(numbers: &[f32]) -> Vec<u8> {
        numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    /// Element by element, as the definitions say.
    fn naive(a: &[f64], b: &[f64]) -> Sums {
        let mut sums = Sums::default();
        for (i, (&x, &y)) in a.iter().zip(b).enumerate() {
            let differs = x.to_bits() != y.to_bits() && !(x.is_nan() && y.is_nan());
            sums.differing += u64::from(differs);
            if !x.is_finite() || !y.is_finite() {
                sums.not_finite += u64::from(differs);
                continue;
            }
            if (x - y).abs() > sums.max_abs {
                (sums.max_abs, sums.worst) = ((x - y).abs(), i as u64);
            }
            sums.top = sums.top.max(x.abs());
            sums.dot += x * y;
            sums.aa += x * x;
            sums.bb += y * y;
            sums.dd += (x - y) * (x - y);
        }
        sums
    }

    #[test]
    fn sums_are_what_they_are_defined_as() {
        // Small integers: every sum is exact in any order.
        let number = |i: u64, k: u64| ((i * 7 + i * i * k) % 23) as f32 - 11.0;
        for count in [0u64, 1, 7, 8, 9, 100, 4096] {
            let mut a: Vec<f32> = (0..count).map(|i| number(i, 3)).collect();
            let mut b: Vec<f32> = (0..count).map(|i| number(i, if i % 5 == 0 { 4 } else { 3 })).collect();
            if count > 50 {
                (a[10], b[10]) = (f32::NAN, f32::NAN);
                (a[11], b[11]) = (f32::INFINITY, f32::INFINITY);
                (a[12], b[12]) = (f32::NAN, 1.0);
                (a[13], b[13]) = (2.0, f32::NEG_INFINITY);
                (a[14], b[14]) = (0.0, -0.0);
                (a[15], b[15]) = (100.0, 0.0);
            }
            let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
            let expected = naive(&wide(&a), &wide(&b));
            let mut sums = Sums::default();
            sums.add(&mut Readers::default(), (DType::F32, &bytes(&a)), (DType::F32, &bytes(&b)), 0);
            assert_eq!(sums, expected, "{count}");
            // In two pieces, of which the second begins elsewhere.
            let (at, mut pieces) = (count as usize / 3, Sums::default());
            for range in [0..at, at..count as usize] {
                let first = range.start as u64;
                let (x, y) = (bytes(&a[range.clone()]), bytes(&b[range]));
                pieces.add(&mut Readers::default(), (DType::F32, &x), (DType::F32, &y), first);
            }
            assert_eq!(pieces, expected, "{count}");
        }
    }

    #[test]
    fn every_type_is_read_as_its_numbers() {
        for (dtype, bytes, expected) in [
            (DType::Bool, &[0, 1][..], &[0.0, 1.0][..]),
            (DType::I8, &[255, 128], &[-1.0, -128.0]),
            (DType::U16, &[0, 1, 255, 255], &[256.0, 65535.0]),
            (DType::I32, &[255, 255, 255, 255], &[-1.0]),
            (DType::U64, &[0, 0, 0, 0, 1, 0, 0, 0], &[4294967296.0]),
            (DType::I64, &[254, 255, 255, 255, 255, 255, 255, 255], &[-2.0]),
            (DType::BF16, &[0x80, 0x3f, 0x40, 0xc0], &[1.0, -3.0]),
            (DType::F16, &[0, 0x3c, 1, 0], &[1.0, 5.960464477539063e-8]),
            (DType::F8E4M3, &[0x38, 0x7e], &[1.0, 448.0]),
            (DType::F8E8M0, &[127, 0, 254], &[1.0, 5.877471754111438e-39, 1.7014118346046923e38]),
            (DType::C32, &[0, 0x3c, 0, 0xbc], &[1.0, -1.0]),
            (DType::C64, &[0, 0, 128, 63, 0, 0, 0, 192], &[1.0, -2.0]),
        ] {
            assert!(has_numbers(dtype));
            assert_eq!(Reader::default().read(dtype, bytes), expected, "{dtype}");
        }
        assert!(Reader::default().read(DType::F8E8M0, &[255])[0].is_nan());
        for &dtype in DType::ALL.iter().filter(|d| has_numbers(**d)) {
            let facts = dtype.facts();
            let zeros = vec![0; facts.block_bytes as usize * 3];
            let count = Reader::default().read(dtype, &zeros).len();
            assert_eq!(count, facts.block_elements as usize * 3 * parts(dtype), "{dtype}");
        }
    }

    #[test]
    fn elements_differ_by_their_bytes() {
        for (dtype, a, b, expected) in [
            // An f64 does not tell these two apart.
            (DType::I64, (1i64 << 60).to_le_bytes().to_vec(), ((1i64 << 60) + 1).to_le_bytes().to_vec(), 1),
            (DType::C64, vec![0; 16], [vec![1; 8], vec![0; 8]].concat(), 1),
            (DType::F4, vec![1, 2, 3], vec![1, 3, 3], 2),
            (DType::F6E2M3, vec![1; 6], vec![1, 1, 1, 1, 1, 2], 4),
        ] {
            let mut sums = Sums::default();
            sums.add(&mut Readers::default(), (dtype, &a), (dtype, &b), 0);
            assert_eq!(sums.differing, expected, "{dtype}");
        }
    }
}
