//! Numbers of codes that have four bits at most: sixteen numbers are all there are in a group, and each code picks one.
//!
//! Compilers make loads of that, one number each, where a vector holds them all: the instructions are named here, which makes
//! this one of the files with unsafe code.

#![allow(unsafe_code)]

use crate::transform::simd::Level;

/// `table[code & 15]` for each code. `level` is one that the machine has.
#[inline(always)]
pub(super) fn lookup(level: Level, table: &[f32; 16], codes: &[u8], out: &mut [f32]) {
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
    use super::plain;
    use std::arch::x86_64::*;

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
    use super::*;

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
