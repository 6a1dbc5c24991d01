//! One number from one float type to another, without branches: every way is computed and the right one chosen, so that
//! a loop over these is a loop over vectors.
//!
//! Two tricks carry it. Moving an exponent from one bias to another is an integer addition, and rounding to nearest even
//! is another (half a unit less one, plus the bit that decides a tie). Subnormal numbers have no exponent to move; they
//! are shifted into place by the float unit, by adding (or taking away) a power of two whose last bit is theirs.

/// Bits of f32's mantissa.
const F32_MANTISSA: u32 = 23;
/// f32's exponent bias.
const F32_BIAS: u32 = 127;
/// f32's infinity, the largest magnitude that is no NaN.
const F32_INFINITY: u32 = 255 << F32_MANTISSA;

/// A source value: an f32, or an f64 that is rounded once only.
#[derive(Clone, Copy)]
pub(super) enum Wide {
    Single(f32),
    Double(f64),
}

impl Wide {
    /// The number as an f32 that rounds to a narrower type as the number itself does.
    #[inline(always)]
    fn single(self) -> f32 {
        match self {
            Wide::Single(x) => x,
            Wide::Double(x) => to_odd(x),
        }
    }
}

/// `a` where `condition`, else `b`; a value and not a jump.
#[inline(always)]
fn choose(condition: bool, a: u32, b: u32) -> u32 {
    if condition { a } else { b }
}

/// `magnitude` is less than `limit`; neither has the sign bit, and vectors compare signed numbers with least effort.
#[inline(always)]
fn below(magnitude: u32, limit: u32) -> bool {
    (magnitude as i32) < limit as i32
}

/// Exact; the payload of a NaN is kept and made quiet.
#[inline(always)]
pub(crate) fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let placed = u32::from(bits & 0x7fff) << 13;
    let infinity = 31 << F32_MANTISSA;
    let quiet = choose(below(infinity, placed), 1 << 22, 0);
    let special = placed.wrapping_add((255 - 31) << F32_MANTISSA) | quiet;
    let normal = placed.wrapping_add((F32_BIAS - 15) << F32_MANTISSA);
    let least = f32::from_bits((F32_BIAS - 14) << F32_MANTISSA);
    let subnormal = f32::from_bits(placed.wrapping_add(least.to_bits())) - least;
    let finite = choose(below(placed, 1 << F32_MANTISSA), subnormal.to_bits(), normal);
    f32::from_bits(choose(below(placed, infinity), finite, special) | sign)
}

/// Rounds to nearest even; the upper payload of a NaN is kept and made quiet.
#[inline(always)]
pub(crate) fn f32_to_f16(x: f32) -> u16 {
    let sign = x.to_bits() >> 16 & 0x8000;
    let magnitude = x.to_bits() & 0x7fff_ffff;
    let nan = magnitude >> 13 & 0x3ff | 0x7e00;
    let odd = magnitude >> 13 & 1;
    let normal = magnitude.wrapping_sub((F32_BIAS - 15) << F32_MANTISSA).wrapping_add(0xfff + odd) >> 13;
    // The last bit of a half is that of the least f16.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let rounded = choose(below(magnitude, (F32_BIAS - 14) << F32_MANTISSA), subnormal, normal);
    let finite = choose(below(magnitude, (F32_BIAS + 16) << F32_MANTISSA), rounded, 0x7c00);
    (choose(below(F32_INFINITY, magnitude), nan, finite) | sign) as u16
}

/// f64 → f32 rounded to odd: a second rounding to a type at least two bits narrower is then correct.
#[inline(always)]
fn to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    let back = f64::from(nearest);
    if back == x || x.is_nan() || nearest.to_bits() & 1 == 1 {
        return nearest;
    }
    // Inexact and even: the odd neighbour on the side of x. An infinity's neighbour is the largest finite value.
    let bits = nearest.to_bits();
    let toward_zero = back.abs() > x.abs();
    f32::from_bits(if toward_zero { bits - 1 } else { bits + 1 })
}

#[inline(always)]
pub(super) fn narrow_f32(x: Wide, saturate: bool) -> ([u8; 4], u32) {
    let (y, finite) = match x {
        Wide::Single(x) => return (x.to_le_bytes(), 0),
        Wide::Double(x) => (x as f32, x.is_finite()),
    };
    let overflow = finite && y.is_infinite();
    let y = if overflow && saturate { f32::MAX.copysign(y) } else { y };
    (y.to_le_bytes(), overflow.into())
}

#[inline(always)]
pub(super) fn narrow_f16(x: Wide, saturate: bool) -> ([u8; 2], u32) {
    let x = x.single();
    let y = f32_to_f16(x);
    let overflow = below(x.to_bits() & 0x7fff_ffff, F32_INFINITY) & (y & 0x7fff == 0x7c00);
    // The largest finite value stands just before infinity.
    (y.wrapping_sub(u16::from(overflow & saturate)).to_le_bytes(), overflow.into())
}

#[inline(always)]
pub(super) fn narrow_bf16(x: Wide, saturate: bool) -> ([u8; 2], u32) {
    let bits = x.single().to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let quiet = bits >> 16 | 0x40;
    let y = choose(below(F32_INFINITY, magnitude), quiet, rounded) as u16;
    let overflow = below(magnitude, F32_INFINITY) & (y & 0x7fff == 0x7f80);
    (y.wrapping_sub(u16::from(overflow & saturate)).to_le_bytes(), overflow.into())
}

/// A float of eight bits.
pub(super) struct F8 {
    mantissa_bits: u32,
    bias: u32,
    /// The largest finite number.
    largest: u32,
    /// What a number above it becomes: infinity, or where there is none the NaN.
    beyond: u32,
    /// What a NaN becomes.
    nan: u32,
}

/// e4m3fn: no infinity; NaN where all bits below the sign are ones.
pub(super) const E4M3: F8 = F8 { mantissa_bits: 3, bias: 7, largest: 0x7e, beyond: 0x7f, nan: 0x7f };
/// As IEEE would have it.
pub(super) const E5M2: F8 = F8 { mantissa_bits: 2, bias: 15, largest: 0x7b, beyond: 0x7c, nan: 0x7f };
/// The `fnuz` types: no infinity, no negative zero, whose pattern is the only NaN; the bias is one more.
pub(super) const E4M3_FNUZ: F8 = F8 { mantissa_bits: 3, bias: 8, largest: 0x7f, beyond: 0x80, nan: 0x80 };
/// See [`E4M3_FNUZ`].
pub(super) const E5M2_FNUZ: F8 = F8 { mantissa_bits: 2, bias: 16, largest: 0x7f, beyond: 0x80, nan: 0x80 };

impl F8 {
    /// Exact. Not for e5m2, whose infinity it does not know.
    #[inline(always)]
    pub(super) fn widen(self, bits: u8) -> f32 {
        let fnuz = self.nan == 0x80;
        let sign = u32::from(bits & 0x80) << 24;
        let magnitude = u32::from(bits & 0x7f);
        let placed = magnitude << (F32_MANTISSA - self.mantissa_bits);
        let normal = placed.wrapping_add((F32_BIAS - self.bias) << F32_MANTISSA);
        let least = f32::from_bits((F32_BIAS + 1 - self.bias) << F32_MANTISSA);
        let subnormal = f32::from_bits(placed.wrapping_add(least.to_bits())) - least;
        let finite = choose(magnitude < 1 << self.mantissa_bits, subnormal.to_bits(), normal) | sign;
        let (is_nan, nan) = match fnuz {
            true => (bits == 0x80, 0x7fc0_0000),
            false => (magnitude == 0x7f, 0x7ff0_0000 | sign),
        };
        f32::from_bits(choose(is_nan, nan, finite))
    }

    /// Rounds to nearest even.
    #[inline(always)]
    pub(super) fn narrow(self, x: Wide, saturate: bool) -> ([u8; 1], u32) {
        let fnuz = self.nan == 0x80;
        let has_infinity = self.beyond != self.nan;
        let bits = x.single().to_bits();
        let magnitude = bits & 0x7fff_ffff;
        let shift = F32_MANTISSA - self.mantissa_bits;
        let odd = magnitude >> shift & 1;
        let half_less_one = (1 << (shift - 1)) - 1;
        let normal = magnitude.wrapping_sub((F32_BIAS - self.bias) << F32_MANTISSA);
        let normal = normal.wrapping_add(half_less_one + odd) >> shift;
        // The power of two whose last bit is that of this type's least number.
        let power = (F32_BIAS + 1 + shift - self.bias) << F32_MANTISSA;
        let subnormal = (f32::from_bits(magnitude) + f32::from_bits(power)).to_bits().wrapping_sub(power);
        let least_normal = (F32_BIAS + 1 - self.bias) << F32_MANTISSA;
        let rounded = choose(below(magnitude, least_normal), subnormal, normal);
        let is_nan = below(F32_INFINITY, magnitude);
        let beyond = below(self.largest, rounded);
        let kept = has_infinity & (magnitude == F32_INFINITY);
        let overflow = beyond & !is_nan & !kept;
        let limited = choose(overflow & saturate, self.largest, self.beyond);
        let y = choose(is_nan, self.nan, choose(beyond, limited, rounded));
        let signless = fnuz & ((y == 0) | (y == 0x80));
        let sign = choose(signless, 0, bits >> 24 & 0x80);
        ([(y | sign) as u8], overflow.into())
    }
}
