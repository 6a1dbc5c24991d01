//! Where codes, scales and zero points lie in each face, and how they get into a band and out of it.

use super::{Band, Packing};
use crate::dtype::DType;
use std::ops::Range;

/// Bytes of a face: runs of one length at equal distances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strip {
    /// The first run's first byte, counted in the face.
    pub offset_bytes: u64,
    /// Bytes of a run.
    pub run_bytes: u64,
    /// From one run to the next.
    pub pitch_bytes: u64,
    /// How many.
    pub run_count: u64,
}

impl Packing {
    /// A band begins at a multiple of so many rows: what shares an element or a scale is in one band.
    pub fn rows_together(&self) -> u64 {
        8
    }

    /// The type of a face. `face` counts in the layout's faces.
    pub fn face_dtype(&self, face: usize) -> DType {
        let _ = face;
        self.dtype
    }

    /// The shape of a face, as it is stored.
    pub fn face_shape(&self, face: usize) -> Vec<u64> {
        let _ = face;
        Vec::new()
    }

    /// Where in a face these rows of the matrix lie. A face that does not depend on rows is one run with every band; writers
    /// write it with the first.
    pub fn strip(&self, face: usize, rows: Range<u64>) -> Strip {
        let _ = (face, rows);
        Strip { offset_bytes: 0, run_bytes: 0, pitch_bytes: 0, run_count: 0 }
    }

    /// The bytes of a strip, run after run without gaps, from a band that holds these rows.
    pub fn write(&self, face: usize, band: &Band, rows: Range<u64>, out: &mut [u8]) {
        let _ = (face, band, rows, out);
    }

    /// Fills a band with what the bytes of a strip say; the inverse of [`Packing::write`].
    pub fn read(&self, face: usize, bytes: &[u8], rows: Range<u64>, band: &mut Band) {
        let _ = (face, bytes, rows, band);
    }

    /// The numbers that a band stands for, `[rows, columns]`: in f32, not yet rounded to [`Packing::dtype`].
    pub fn numbers(&self, band: &Band, out: &mut [f32]) {
        let _ = (band, out);
    }
}
