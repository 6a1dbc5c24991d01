//! Two models' vectors: embeddings, hidden states, scores.

use super::NotFinite;
use super::compare::{cosine, relative};
use rayon::prelude::*;

/// Elements whose sums are made by one worker; fixed, so that figures do not depend on how many there are.
const CHUNK: usize = 1 << 16;

/// How far numbers are from those of a reference. Accumulates; a new one has seen nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Vectors {
    elements: u64,
    not_finite: NotFinite,
    dot: f64,
    reference_squares: f64,
    candidate_squares: f64,
    difference_squares: f64,
    max_abs: f64,
    reference_max_abs: f64,
}

/// How far one vector is from another, element by element; what one has more than the other counts as not finite.
pub fn vectors(reference: &[f32], candidate: &[f32]) -> Vectors {
    let mut sums = Vectors::default();
    sums.add(reference, candidate);
    sums
}

impl Vectors {
    /// Takes more elements of both.
    pub fn add(&mut self, reference: &[f32], candidate: &[f32]) {
        let parts: Vec<Vectors> = reference
            .par_chunks(CHUNK)
            .zip(candidate.par_chunks(CHUNK))
            .map(|(a, b)| {
                let mut sums = Vectors::default();
                a.iter().zip(b).for_each(|(&x, &y)| sums.one(x, y));
                sums
            })
            .collect();
        parts.iter().for_each(|part| self.merge(part));
        let unpaired = reference.len().abs_diff(candidate.len()) as u64;
        self.elements += unpaired;
        self.not_finite.either += unpaired;
    }

    fn one(&mut self, reference: f32, candidate: f32) {
        let (a, b) = (f64::from(reference), f64::from(candidate));
        self.elements += 1;
        if !a.is_finite() || !b.is_finite() {
            self.not_finite.reference += u64::from(!a.is_finite());
            self.not_finite.candidate += u64::from(!b.is_finite());
            self.not_finite.either += 1;
            return;
        }
        self.dot += a * b;
        self.reference_squares += a * a;
        self.candidate_squares += b * b;
        self.difference_squares += (a - b) * (a - b);
        self.max_abs = self.max_abs.max((a - b).abs());
        self.reference_max_abs = self.reference_max_abs.max(a.abs());
    }

    /// Takes what another has seen.
    pub fn merge(&mut self, other: &Vectors) {
        self.elements += other.elements;
        self.not_finite.reference += other.not_finite.reference;
        self.not_finite.candidate += other.not_finite.candidate;
        self.not_finite.either += other.not_finite.either;
        self.dot += other.dot;
        self.reference_squares += other.reference_squares;
        self.candidate_squares += other.candidate_squares;
        self.difference_squares += other.difference_squares;
        self.max_abs = self.max_abs.max(other.max_abs);
        self.reference_max_abs = self.reference_max_abs.max(other.reference_max_abs);
    }

    /// Elements that were seen.
    pub fn elements(&self) -> u64 {
        self.elements
    }

    /// Elements of which one or the other is infinite or no number. No figure knows of them but that each is NaN where
    /// there are any: what could not be compared is not alike.
    pub fn not_finite(&self) -> u64 {
        self.not_finite.either
    }

    /// The same by whose they are. What one has more than the other is neither's.
    pub fn not_finite_of(&self) -> NotFinite {
        self.not_finite
    }

    /// The cosine of the two as one vector each.
    pub fn cosine(&self) -> f64 {
        self.known(cosine(self.dot, self.reference_squares, self.candidate_squares))
    }

    /// The largest difference.
    pub fn max_abs(&self) -> f64 {
        self.known(self.max_abs)
    }

    /// That, divided by the largest magnitude of the reference.
    pub fn max_relative(&self) -> f64 {
        self.known(relative(self.max_abs, self.reference_max_abs))
    }

    /// The length of the difference divided by that of the reference.
    pub fn relative(&self) -> f64 {
        self.known(relative(self.difference_squares.sqrt(), self.reference_squares.sqrt()))
    }

    fn known(&self, figure: f64) -> f64 {
        if self.not_finite.either > 0 || self.elements == 0 { f64::NAN } else { figure }
    }
}

/// The mean of many rows: of the last hidden states of all tokens.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Means {
    sums: Vec<f64>,
    rows: u64,
}

impl Means {
    /// Of rows of so many elements.
    pub fn new(width: usize) -> Means {
        Means { sums: vec![0.0; width], rows: 0 }
    }

    /// Takes rows, one behind the other.
    pub fn add(&mut self, rows: &[f32]) {
        let width = self.sums.len().max(1);
        for row in rows.chunks_exact(width) {
            self.sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
            self.rows += 1;
        }
    }

    /// The cosine with another's mean; NaN where nothing was seen, or something that is not finite.
    pub fn cosine(&self, other: &Means) -> f64 {
        if self.rows == 0 || other.rows == 0 || self.sums.len() != other.sums.len() {
            return f64::NAN;
        }
        let [mut dot, mut a_squares, mut b_squares] = [0.0f64; 3];
        for (a, b) in self.sums.iter().zip(&other.sums) {
            dot += a * b;
            a_squares += a * a;
            b_squares += b * b;
        }
        if !dot.is_finite() || !a_squares.is_finite() || !b_squares.is_finite() {
            return f64::NAN;
        }
        cosine(dot, a_squares, b_squares)
    }
}
