//! Numbers that codes can stand for, and what scales are stored in: rounding to them.
//!
//! Everything here is a few operations without branches, so that loops over it are loops over vectors. Rounding to a
//! multiple of a power of two is one addition: of a number so large that its last bit is worth that much (and a subtraction
//! to take it off again); the float unit's own rounding is to nearest, ties to even.

use super::ScaleType;
use crate::dtype::DType;
use crate::transform::cast::{f16_to_f32, f32_to_f16};

/// What is added to round to an integer: 1.5 · 2^23. The low bits of the sum are the integer.
pub(super) const TO_INTEGER: f32 = 12_582_912.0;

/// The larger; the second where the first is a NaN. One instruction, which `f32::max` is not.
#[inline(always)]
pub(super) fn above(x: f32, least: f32) -> f32 {
    if x > least { x } else { least }
}

/// The smaller; the second where the first is a NaN.
#[inline(always)]
pub(super) fn below(x: f32, most: f32) -> f32 {
    if x < most { x } else { most }
}

/// Between two bounds; the lower one where it is a NaN.
#[inline(always)]
pub(super) fn clamp(x: f32, least: f32, most: f32) -> f32 {
    below(above(x, least), most)
}

/// Numbers that codes stand for when the scale is one.
pub(super) trait Levels: Copy {
    /// The nearest one; bounds are those of codes that are integers.
    fn nearest(self, y: f32, least: f32, most: f32) -> f32;
    /// The largest.
    fn largest(self) -> f32;
    /// The code of the one that is nearest.
    fn code(self, y: f32) -> u8;
}

/// Integers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Integers {
    /// Bits of a code.
    pub bits: u32,
}

impl Integers {
    /// The largest code.
    #[inline(always)]
    pub(super) fn top(self) -> f32 {
        ((1u32 << self.bits.min(8)) - 1) as f32
    }

    /// The code of zero where codes are symmetric.
    #[inline(always)]
    pub(super) fn middle(self) -> f32 {
        (1u32 << self.bits.clamp(1, 8) >> 1) as f32
    }
}

impl Levels for Integers {
    #[inline(always)]
    fn nearest(self, y: f32, least: f32, most: f32) -> f32 {
        (clamp(y, least, most) + TO_INTEGER) - TO_INTEGER
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        self.top() * 0.5
    }

    #[inline(always)]
    fn code(self, y: f32) -> u8 {
        (clamp(y, 0.0, self.top()) + TO_INTEGER).to_bits() as u8
    }
}

/// Four-bit floats: 0, ½, 1, 1½, 2, 3, 4, 6 and their negatives.
#[derive(Debug, Clone, Copy)]
pub(super) struct E2M1;

/// The magnitude of the nearest, of a number that is not negative.
#[inline(always)]
fn e2m1_magnitude(m: f32) -> f32 {
    let m = below(m, 6.0);
    // Numbers are ½ apart below 2, 1 below 4, 2 above.
    let round = if m < 4.0 { TO_INTEGER } else { TO_INTEGER * 2.0 };
    let round = if m < 2.0 { TO_INTEGER * 0.5 } else { round };
    (m + round) - round
}

impl Levels for E2M1 {
    #[inline(always)]
    fn nearest(self, y: f32, _: f32, _: f32) -> f32 {
        e2m1_magnitude(y.abs()).copysign(y)
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        6.0
    }

    #[inline(always)]
    fn code(self, y: f32) -> u8 {
        // As bits: half has the exponent 126, and one bit of mantissa follows; it and zero have none.
        let m = e2m1_magnitude(y.abs());
        let normal = (m.to_bits() >> 22).wrapping_sub(126 * 2);
        let magnitude = if m < 1.0 { (m * 2.0 + TO_INTEGER).to_bits() & 1 } else { normal };
        let sign = if y < 0.0 { 8 } else { 0 };
        (magnitude | sign) as u8
    }
}

/// Eight-bit floats with so many bits of mantissa and such an exponent bias, which have a negative zero and NaNs at the end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Floats<const MANTISSA: u32, const BIAS: u32> {
    /// The largest finite number.
    largest: f32,
}

/// OCP E4M3, without infinities.
pub(super) type E4M3 = Floats<3, 7>;
/// OCP E5M2.
pub(super) type E5M2 = Floats<2, 15>;

impl E4M3 {
    pub(super) const NEW: E4M3 = Floats { largest: 448.0 };
}

impl E5M2 {
    pub(super) const NEW: E5M2 = Floats { largest: 57344.0 };
}

impl<const MANTISSA: u32, const BIAS: u32> Floats<MANTISSA, BIAS> {
    /// The least normal number.
    const NORMAL: f32 = f32::from_bits((128 - BIAS) << 23);
    /// The least number.
    const LEAST: f32 = f32::from_bits((128 - BIAS - MANTISSA) << 23);

    /// The magnitude of the nearest, of a number that is not negative.
    #[inline(always)]
    fn magnitude(self, m: f32) -> f32 {
        let m = below(m, self.largest);
        // What is added has an exponent 23 above that of the last bit. Numbers below the least normal one are as far apart
        // as just above it.
        let normal = above(m, Self::NORMAL);
        let exponent = normal.to_bits() & 0x7f80_0000;
        let round = f32::from_bits(exponent.wrapping_add((23 - MANTISSA) << 23) | 1 << 22);
        (m + round) - round
    }

    /// The number of a code without sign that stands for one.
    #[inline(always)]
    pub(super) fn value(self, code: u32) -> f32 {
        // Seen as a f32 of the same bits it is too small by a power of two, and a subnormal one is then right too.
        f32::from_bits(code << (23 - MANTISSA)) * f32::from_bits((254 - BIAS) << 23)
    }

    /// The nearest number.
    #[inline(always)]
    pub(super) fn round(self, y: f32) -> f32 {
        self.magnitude(y.abs()).copysign(y)
    }
}

impl<const MANTISSA: u32, const BIAS: u32> Levels for Floats<MANTISSA, BIAS> {
    #[inline(always)]
    fn nearest(self, y: f32, _: f32, _: f32) -> f32 {
        self.round(y)
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        self.largest
    }

    #[inline(always)]
    fn code(self, y: f32) -> u8 {
        let m = self.magnitude(y.abs());
        let normal = (m.to_bits() >> (23 - MANTISSA)).wrapping_sub((127 - BIAS) << MANTISSA);
        // Below the least normal number the code counts steps.
        let subnormal = (m * (1.0 / Self::LEAST) + TO_INTEGER).to_bits() & 0x7f;
        let magnitude = if m < Self::NORMAL { subnormal } else { normal };
        (magnitude | y.to_bits() >> 31 << 7) as u8
    }
}

/// Sixteen numbers, ascending.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    values: [f32; 16],
    /// Halfway between neighbours. What lies on one belongs to the lower.
    bounds: [f32; 15],
}

impl Table {
    pub(super) fn new(values: &[f32; 16]) -> Table {
        Table { values: *values, bounds: std::array::from_fn(|i| (values[i] + values[i + 1]) / 2.0) }
    }
}

impl Levels for Table {
    #[inline(always)]
    fn nearest(self, y: f32, _: f32, _: f32) -> f32 {
        let mut nearest = self.values[0];
        for i in 0..15 {
            nearest = if y > self.bounds[i] { self.values[i + 1] } else { nearest };
        }
        nearest
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        1.0
    }

    #[inline(always)]
    fn code(self, y: f32) -> u8 {
        let mut code = 0u32;
        for bound in self.bounds {
            code = code.wrapping_add(u32::from(y > bound));
        }
        code as u8
    }
}

/// Bounds of a rounded magnitude: what is too large becomes the largest finite number, what would vanish the least one. A
/// scale of zero or infinity would lose a whole group.
#[inline(always)]
fn bounded(x: f32, rounded: f32, least: f32, largest: f32) -> f32 {
    clamp(rounded.abs(), if x == 0.0 { 0.0 } else { least }, largest).copysign(x)
}

/// Rounds to bf16, to nearest even.
#[inline(always)]
fn to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = f32::from_bits(bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000);
    bounded(x, rounded, f32::from_bits(1 << 16), f32::from_bits(0x7f7f_0000))
}

/// Rounds to f16, to nearest even.
#[inline(always)]
fn to_f16(x: f32) -> f32 {
    bounded(x, f16_to_f32(f32_to_f16(x)), f16_to_f32(1), 65504.0)
}

/// Rounds to eight bits, to nearest even.
#[inline(always)]
fn to_f8<const MANTISSA: u32, const BIAS: u32>(format: Floats<MANTISSA, BIAS>, x: f32) -> f32 {
    bounded(x, format.round(x), Floats::<MANTISSA, BIAS>::LEAST, format.largest)
}

/// 2^(code − 127); code 0 is subnormal.
#[inline(always)]
pub(super) fn power(code: u32) -> f32 {
    f32::from_bits(if code == 0 { 1 << 22 } else { code.min(254) << 23 })
}

impl ScaleType {
    /// What readers will find where these numbers are stored.
    #[inline(always)]
    pub(super) fn store<const N: usize>(self, numbers: &mut [f32; N]) {
        match self {
            ScaleType::Float(DType::BF16) => numbers.iter_mut().for_each(|x| *x = to_bf16(*x)),
            ScaleType::Float(DType::F16) => numbers.iter_mut().for_each(|x| *x = to_f16(*x)),
            ScaleType::Float(DType::F8E4M3) => numbers.iter_mut().for_each(|x| *x = to_f8(E4M3::NEW, *x)),
            ScaleType::Float(_) => {
                numbers.iter_mut().for_each(|x| *x = bounded(*x, *x, f32::from_bits(1), f32::MAX));
            }
            ScaleType::E8M0 => {
                numbers.iter_mut().for_each(|x| *x = power(x.abs().to_bits().wrapping_add(1 << 22) >> 23));
            }
            ScaleType::E4M3 { global } => {
                numbers.iter_mut().for_each(|x| *x = to_f8(E4M3::NEW, *x * global) / global);
            }
        }
    }

    /// What a reader will find where this number is stored.
    #[inline(always)]
    pub(super) fn stored(self, x: f32) -> f32 {
        let mut stored = [x];
        self.store(&mut stored);
        stored[0]
    }
}
