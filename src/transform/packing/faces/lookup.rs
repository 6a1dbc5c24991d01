//! Numbers of codes that have four bits at most: sixteen numbers are all there are in a group, and each code picks one.
//!
//! Compilers make loads of that, one number each, where a vector holds them all; and they make the sixteen one by one, so
//! that the vector has to wait for stores to be done. The instructions are named here, which makes this one of the files with
//! unsafe code.

#![allow(unsafe_code)]

use crate::dtype::DType;
use crate::transform::simd::Level;

/// The numbers of all codes of four bits, in one line of the cache: they are loaded as soon as they are stored, and what crosses
/// lines takes longer to get from one to the other.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
pub(in crate::transform) struct Sixteen(pub [f32; 16]);

/// `(code − zero) · scale` for all codes of four bits, rounded to a type: the same as number by number, which is left to the
/// caller for types and machines that are not known here. Whether they are. `level` is one that the machine has.
///
/// Into a place, and not returned: what is moved is moved in parts, which a vector has to wait for too.
#[inline(always)]
pub(super) fn integers(level: Level, dtype: DType, zero: f32, scale: f32, out: &mut [f32; 16]) -> bool {
    #[cfg(target_arch = "x86_64")]
    if level == Level::Avx512 && matches!(dtype, DType::F32 | DType::BF16 | DType::F16) {
        // SAFETY: whoever hands in a level has asked the machine for it.
        unsafe { x86::integers(dtype, zero, scale, out) };
        return true;
    }
    let _ = (level, dtype, zero, scale, out);
    false
}

/// `table[code & 15]` for each code. `level` is one that the machine has.
#[inline(always)]
pub(in crate::transform) fn lookup(level: Level, table: &[f32; 16], codes: &[u8], out: &mut [f32]) {
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: whoever hands in a level has asked the machine for it.
        Level::Avx512 => unsafe { x86::avx512(table, codes, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { x86::avx2(table, codes, out) },
        _ => plain(table, codes, out),
    }
}

/// What the others do, for every machine.
#[inline(always)]
fn plain(table: &[f32; 16], codes: &[u8], out: &mut [f32]) {
    for (x, &code) in out.iter_mut().zip(codes) {
        *x = table[usize::from(code & 15)];
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{DType, plain};
    use std::arch::x86_64::*;

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn integers(dtype: DType, zero: f32, scale: f32, out: &mut [f32; 16]) {
        let codes = _mm512_setr_ps(0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.);
        let exact = _mm512_mul_ps(_mm512_sub_ps(codes, _mm512_set1_ps(zero)), _mm512_set1_ps(scale));
        let nearest = match dtype {
            DType::BF16 => round_bf16(exact),
            DType::F16 => _mm512_cvtph_ps(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(exact)),
            _ => exact,
        };
        // SAFETY: an array is as wide as a vector.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), nearest) };
    }

    /// As `cast`'s, ties to even and NaN to a quiet one.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn round_bf16(x: __m512) -> __m512 {
        let bits = _mm512_castps_si512(x);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let nearest = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        let whole = _mm512_mask_or_epi32(nearest, is_nan, bits, _mm512_set1_epi32(0x0040_0000));
        _mm512_castsi512_ps(_mm512_and_si512(whole, _mm512_set1_epi32(!0xffff)))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512(table: &[f32; 16], codes: &[u8], out: &mut [f32]) {
        let ((runs, rest), (places, place_rest)) = (codes.as_chunks::<16>(), out.as_chunks_mut::<16>());
        // SAFETY: the table is as wide as a vector.
        let numbers = unsafe { _mm512_loadu_ps(table.as_ptr()) };
        for (run, place) in runs.iter().zip(places) {
            // SAFETY: a run is as wide as a quarter of a vector, and its place as wide as one.
            unsafe {
                let codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(run.as_ptr().cast()));
                // Only four bits of each are looked at.
                _mm512_storeu_ps(place.as_mut_ptr(), _mm512_permutexvar_ps(codes, numbers));
            }
        }
        plain(table, rest, place_rest);
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn avx2(table: &[f32; 16], codes: &[u8], out: &mut [f32]) {
        let ((runs, rest), (places, place_rest)) = (codes.as_chunks::<8>(), out.as_chunks_mut::<8>());
        // SAFETY: the table is as wide as two vectors.
        let (low, high) =
            unsafe { (_mm256_loadu_ps(table.as_ptr()), _mm256_loadu_ps(table.as_ptr().add(8))) };
        for (run, place) in runs.iter().zip(places) {
            // SAFETY: a run is as wide as a quarter of a vector, and its place as wide as one.
            unsafe {
                let codes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(run.as_ptr().cast()));
                // Three bits of each are looked at; the fourth, as a sign, says in which half.
                let half = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes));
                let both = (_mm256_permutevar8x32_ps(low, codes), _mm256_permutevar8x32_ps(high, codes));
                _mm256_storeu_ps(place.as_mut_ptr(), _mm256_blendv_ps(both.0, both.1, half));
            }
        }
        plain(table, rest, place_rest);
    }
}

#[cfg(test)]
mod tests {
    use super::super::round_to;
    use super::*;

    #[test]
    fn integers_are_the_formulas() {
        let odd = [0.0, -0.0, f32::NAN, f32::INFINITY, f32::MAX, 1.0e-45, 65520.0, 0.1, -0.37, 3.0e-6];
        for (zero, scale, dtype) in odd.iter().flat_map(|&scale| {
            [0.0, 8.0, 7.5]
                .into_iter()
                .flat_map(move |zero| [DType::F32, DType::BF16, DType::F16].map(|dtype| (zero, scale, dtype)))
        }) {
            let mut expected: [f32; 16] = std::array::from_fn(|code| (code as f32 - zero) * scale);
            round_to(dtype, &mut expected);
            for &level in Level::ALL.iter().filter(|level| level.is_here()) {
                let mut found = [0f32; 16];
                if !integers(level, dtype, zero, scale, &mut found) {
                    continue;
                }
                for (a, b) in found.iter().zip(expected) {
                    let is_same = a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
                    assert!(is_same, "{level:?} {dtype} {zero} {scale}: {a}, {b}");
                }
            }
        }
    }

    #[test]
    fn levels_agree() {
        let table: [f32; 16] = std::array::from_fn(|n| n as f32 * 1.5 - 7.0);
        let codes: Vec<u8> = (0..=255).chain(0..37).collect();
        for count in [0, 1, 7, 8, 9, 15, 16, 17, 31, 33, codes.len()] {
            let expected: Vec<f32> = codes[..count].iter().map(|c| table[usize::from(c & 15)]).collect();
            for &level in Level::ALL.iter().filter(|level| level.is_here()) {
                let mut out = vec![0f32; count];
                lookup(level, &table, &codes[..count], &mut out);
                assert_eq!(out, expected, "{level:?}");
            }
        }
    }
}
