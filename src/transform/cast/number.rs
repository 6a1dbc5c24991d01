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

/// Bits of the least f32 that f16 has no finite number for.
pub(super) const ABOVE_F16: u32 = 65520.0f32.to_bits();
/// Bits of the least f32 that bf16 has no finite number for.
pub(super) const ABOVE_BF16: u32 = 0x7f7f_8000;

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

/// Exact, but for infinities and NaNs, which come out as numbers from 65536 on.
#[inline(always)]
pub(super) fn finite_f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let placed = u32::from(bits & 0x7fff) << 13;
    let normal = placed.wrapping_add((F32_BIAS - 15) << F32_MANTISSA);
    let least = f32::from_bits((F32_BIAS - 14) << F32_MANTISSA);
    let subnormal = f32::from_bits(placed.wrapping_add(least.to_bits())) - least;
    f32::from_bits(choose(below(placed, 1 << F32_MANTISSA), subnormal.to_bits(), normal) | sign)
}

/// Exact; the payload of a NaN is kept and made quiet.
#[inline(always)]
pub(crate) fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let placed = u32::from(bits & 0x7fff) << 13;
    let infinity = 31 << F32_MANTISSA;
    let quiet = choose(below(infinity, placed), 1 << 22, 0);
    let special = placed.wrapping_add((255 - 31) << F32_MANTISSA) | quiet | sign;
    f32::from_bits(choose(below(placed, infinity), finite_f16_to_f32(bits).to_bits(), special))
}

/// Rounds to nearest even what has a magnitude below [`ABOVE_F16`].
#[inline(always)]
pub(super) fn ordinary_f32_to_f16(x: f32) -> u16 {
    let sign = x.to_bits() >> 16 & 0x8000;
    let magnitude = x.to_bits() & 0x7fff_ffff;
    let odd = magnitude >> 13 & 1;
    let normal = magnitude.wrapping_sub((F32_BIAS - 15) << F32_MANTISSA).wrapping_add(0xfff + odd) >> 13;
    // The last bit of a half is that of the least f16.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let rounded = choose(below(magnitude, (F32_BIAS - 14) << F32_MANTISSA), subnormal, normal);
    (rounded | sign) as u16
}

/// Zero, or what is normal in f16, which is exact: f16 has the longer mantissa. The second is not zero for all else.
#[inline(always)]
pub(super) fn normal_bf16_to_f16(bits: u16) -> (u16, u16) {
    const LEAST: u16 = 113 << 7;
    const ABOVE: u16 = 143 << 7;
    let magnitude = bits & 0x7fff;
    let moved = magnitude.wrapping_sub(LEAST);
    let is_zero = magnitude == 0;
    let half = if is_zero { 0 } else { moved.wrapping_add(1 << 7) << 3 };
    (half | bits & 0x8000, u16::from((moved >= ABOVE - LEAST) & !is_zero))
}

/// Rounds to nearest even; the upper payload of a NaN is kept and made quiet.
#[inline(always)]
pub(crate) fn f32_to_f16(x: f32) -> u16 {
    let sign = x.to_bits() >> 16 & 0x8000;
    let magnitude = x.to_bits() & 0x7fff_ffff;
    let nan = magnitude >> 13 & 0x3ff | 0x7e00;
    let special = choose(below(F32_INFINITY, magnitude), nan, 0x7c00) | sign;
    choose(below(magnitude, ABOVE_F16), ordinary_f32_to_f16(x).into(), special) as u16
}

/// f64 → f32 rounded to odd: a second rounding to a type at least two bits narrower is then correct.
#[inline(always)]
pub(super) fn to_odd(x: f64) -> f32 {
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
pub(super) fn narrow_f16(x: f32, saturate: bool) -> ([u8; 2], u32) {
    let y = f32_to_f16(x);
    let overflow = below(x.to_bits() & 0x7fff_ffff, F32_INFINITY) & (y & 0x7fff == 0x7c00);
    // The largest finite value stands just before infinity.
    (y.wrapping_sub(u16::from(overflow & saturate)).to_le_bytes(), overflow.into())
}

/// Rounds to nearest even what is no NaN.
#[inline(always)]
pub(super) fn ordinary_f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// The nearest bf16, as f32; ties to even. A NaN becomes a quiet one.
#[inline(always)]
pub(crate) fn round_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    let is_nan = below(F32_INFINITY, bits & 0x7fff_ffff);
    f32::from_bits(choose(is_nan, bits | 0x0040_0000, nearest) & 0xffff_0000)
}

#[inline(always)]
pub(super) fn narrow_bf16(x: f32, saturate: bool) -> ([u8; 2], u32) {
    let magnitude = x.to_bits() & 0x7fff_ffff;
    let quiet = x.to_bits() >> 16 | 0x40;
    let y = choose(below(F32_INFINITY, magnitude), quiet, ordinary_f32_to_bf16(x).into()) as u16;
    let overflow = below(magnitude, F32_INFINITY) & (y & 0x7fff == 0x7f80);
    (y.wrapping_sub(u16::from(overflow & saturate)).to_le_bytes(), overflow.into())
}

/// A float of eight bits.
#[derive(Clone, Copy)]
pub(super) struct F8 {
    mantissa_bits: u32,
    bias: u32,
    /// The largest finite number.
    largest: u32,
    /// Bits of the least f32 that there is no finite number for.
    pub(super) above: u32,
    /// What it becomes: infinity, or where there is none the NaN.
    beyond: u32,
    /// What a NaN becomes.
    nan: u32,
}

/// Places in [`F8S`].
pub(super) const E4M3: usize = 0;
pub(super) const E5M2: usize = 1;
pub(super) const E4M3_FNUZ: usize = 2;
pub(super) const E5M2_FNUZ: usize = 3;

#[rustfmt::skip]
pub(super) const F8S: [F8; 4] = [
    // e4m3fn: no infinity; NaN where all bits below the sign are ones. Half-way from 448 goes to its even code.
    F8 { mantissa_bits: 3, bias: 7, largest: 0x7e, above: 464.0f32.to_bits() + 1, beyond: 0x7f, nan: 0x7f },
    // As IEEE would have it.
    F8 { mantissa_bits: 2, bias: 15, largest: 0x7b, above: 61440.0f32.to_bits(), beyond: 0x7c, nan: 0x7f },
    // The fnuz types: no infinity, no negative zero, whose pattern is the only NaN; the bias is one more.
    F8 { mantissa_bits: 3, bias: 8, largest: 0x7f, above: 248.0f32.to_bits(), beyond: 0x80, nan: 0x80 },
    F8 { mantissa_bits: 2, bias: 16, largest: 0x7f, above: 61440.0f32.to_bits(), beyond: 0x80, nan: 0x80 },
];

/// What each code of each of [`F8S`] stands for; all are exact.
pub(super) static F8_VALUES: [[f32; 256]; 4] =
    [F8S[E4M3].values(), F8S[E5M2].values(), F8S[E4M3_FNUZ].values(), F8S[E5M2_FNUZ].values()];

impl F8 {
    const fn is_fnuz(self) -> bool {
        self.nan == 0x80
    }

    const fn values(self) -> [f32; 256] {
        let mut values = [0.0; 256];
        let mut code = 0;
        while code < 256 {
            values[code as usize] = f32::from_bits(self.widened(code));
            code += 1;
        }
        values
    }

    /// The bits of the f32.
    const fn widened(self, code: u32) -> u32 {
        let (sign, magnitude) = ((code & 0x80) << 24, code & 0x7f);
        // The payload of a NaN is kept and made quiet.
        if self.is_fnuz() && code == 0x80 {
            return 0x7fc0_0000;
        }
        let placed = magnitude << (F32_MANTISSA - self.mantissa_bits);
        if !self.is_fnuz() && magnitude > self.largest {
            let infinity = self.beyond != self.nan && magnitude == self.beyond;
            let quiet = if infinity { 0 } else { 1 << 22 };
            return sign | F32_INFINITY | placed & ((1 << F32_MANTISSA) - 1) | quiet;
        }
        if magnitude < 1 << self.mantissa_bits {
            let least = f32::from_bits((F32_BIAS + 1 - self.bias) << F32_MANTISSA);
            return sign | (f32::from_bits(placed + least.to_bits()) - least).to_bits();
        }
        sign | (placed + ((F32_BIAS - self.bias) << F32_MANTISSA))
    }

    /// The magnitude's code, as if there were codes without end.
    #[inline(always)]
    fn rounded(self, x: f32) -> u32 {
        let magnitude = x.to_bits() & 0x7fff_ffff;
        let shift = F32_MANTISSA - self.mantissa_bits;
        let odd = magnitude >> shift & 1;
        let half_less_one = (1 << (shift - 1)) - 1;
        let normal = magnitude.wrapping_sub((F32_BIAS - self.bias) << F32_MANTISSA);
        let normal = normal.wrapping_add(half_less_one + odd) >> shift;
        // The power of two whose last bit is that of this type's least number.
        let power = (F32_BIAS + 1 + shift - self.bias) << F32_MANTISSA;
        let subnormal = (f32::from_bits(magnitude) + f32::from_bits(power)).to_bits().wrapping_sub(power);
        let least_normal = (F32_BIAS + 1 - self.bias) << F32_MANTISSA;
        choose(below(magnitude, least_normal), subnormal, normal)
    }

    #[inline(always)]
    fn with_sign_of(self, x: f32, code: u32) -> u8 {
        let signless = self.is_fnuz() & ((code == 0) | (code == 0x80));
        (code | choose(signless, 0, x.to_bits() >> 24 & 0x80)) as u8
    }

    /// Rounds to nearest even what has a magnitude below [`F8::above`].
    #[inline(always)]
    pub(super) fn ordinary(self, x: f32) -> u8 {
        self.with_sign_of(x, self.rounded(x))
    }

    /// Rounds to nearest even.
    #[inline(always)]
    pub(super) fn narrow(self, x: f32, saturate: bool) -> ([u8; 1], u32) {
        let magnitude = x.to_bits() & 0x7fff_ffff;
        let is_nan = below(F32_INFINITY, magnitude);
        let beyond = !below(magnitude, self.above);
        let has_infinity = self.beyond != self.nan;
        let kept = has_infinity & (magnitude == F32_INFINITY);
        let overflow = beyond & !is_nan & !kept;
        let limited = choose(overflow & saturate, self.largest, self.beyond);
        let code = choose(is_nan, self.nan, choose(beyond, limited, self.rounded(x)));
        ([self.with_sign_of(x, code)], overflow.into())
    }
}
