//! Methods: from numbers to codes and scales. Data-free; one kernel a method, for every grid.
//!
//! A *grid* says which numbers a group can hold once its scale is known: how many codes, whether there is a zero point and of
//! what kind, and what scales are stored in. A *method* chooses the scale and the zero point of each group, and the codes.
//! Groups are independent, so a result never depends on how a tensor is cut into bands.
//!
//! Scales are rounded to what they are stored in before codes are chosen: codes fit the scales that a reader will find.

// Loops over lanes go through several arrays at one index: that is the form that becomes vectors.
#![allow(clippy::needless_range_loop)]

mod extremes;
pub mod floor;
mod groups;
mod hqq;
mod levels;
mod line;
mod measure;
mod passes;
mod rtn;
mod search;
mod sums;

pub use measure::{Error, amax, band_error, error, nvfp4_global, odd};

use crate::dtype::DType;
use crate::transform::packing::Band;
use crate::transform::simd::{Level, run};
use groups::{Fit, Walk};
use hqq::Hqq;
use levels::{E2M1, E4M3, E5M2, Integers, Levels, Table};
use passes::Tile;
use rtn::{RtnIntegers, RtnLevels, RtnTable, Zero};
use search::{SearchAffine, SearchIntegers, SearchLevels, SearchNarrow, SearchNarrowAffine, Wholes};

/// How scale, zero point and codes are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// Round to nearest with the scale that the group's extremes ask for: the codes of each layout's reference tool.
    Rtn,
    /// The least squared error: candidates for scale and zero point, each with the scale that fits its codes best.
    Search,
    /// Half-quadratic quantisation: the zero point moves, the scale stays. For layouts whose zero point is a float.
    Hqq,
}

/// Which numbers a group can hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// Codes and how they are spaced.
    pub kind: Kind,
    /// What scales (and float zero points) are stored in.
    pub scale: ScaleType,
}

/// Codes and how they are spaced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// `(code − middle) · scale` with so many bits.
    Symmetric {
        /// Bits of a code.
        bits: u32,
        /// Whether scales may be negative, which lets the larger end of a group have the code that only one end has.
        signed_scales: bool,
    },
    /// `(code − zero) · scale`, `zero` an integer among the codes.
    Asymmetric {
        /// Bits of a code.
        bits: u32,
    },
    /// `code · scale + bias`, `bias` a float.
    Affine {
        /// Bits of a code.
        bits: u32,
    },
    /// `(code − middle) · scale + bias`, `bias` a float (torchao).
    Centred {
        /// Bits of a code.
        bits: u32,
    },
    /// `table[code] · scale`, the scale being the group's largest magnitude (NF4).
    Table(&'static [f32; 16]),
    /// Four-bit floats (E2M1), the code as it is stored: sign, exponent, mantissa.
    E2M1,
    /// Eight-bit floats, the code their bits: E4M3 (`F8E4M3`) or E5M2 (`F8E5M2`); any other type is taken as E4M3.
    Float(DType),
}

/// What scales are stored in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ScaleType {
    /// A float type.
    Float(DType),
    /// A power of two.
    E8M0,
    /// An eight-bit float (E4M3), after a multiplication by a number that the whole matrix has in common.
    E4M3 {
        /// That number.
        global: f32,
    },
}

/// Whose round-to-nearest: tools differ in whether the range must hold zero, in which scale divides, in when a zero point is
/// added. Only grids of integers have more than one; a rule that a grid does not know is compressed-tensors'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Rule {
    /// compressed-tensors (min-max observer, arithmetic in f32); of grids with a bias torchao's (tinygemm).
    #[default]
    CompressedTensors,
    /// gptqmodel: codes are made with the scale before it is rounded. (But symmetric groups without a negative number have
    /// the scale of all others: the tool halves it, and loses the upper half of their numbers.)
    Gptq,
    /// AutoAWQ: the range need not hold zero.
    Awq,
    /// MLX: one end of the range is held exactly.
    Mlx,
}

/// How one matrix is quantised.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantiser {
    /// Which numbers a group can hold.
    pub grid: Grid,
    /// How they are chosen.
    pub method: Method,
    /// Whose codes [`Method::Rtn`] makes, and which candidate the search has from it.
    pub rule: Rule,
    /// Rows of a group.
    pub group_rows: usize,
    /// Neighbours of a row in a group.
    pub group_columns: usize,
    /// How much the error of each column counts, `[columns]`; all the same where there is none.
    pub importance: Option<std::sync::Arc<[f32]>>,
}

impl Kind {
    /// Whether groups have a zero point or bias.
    pub fn has_zeros(self) -> bool {
        matches!(self, Kind::Asymmetric { .. } | Kind::Affine { .. } | Kind::Centred { .. })
    }
}

/// Codes of no more bits have a search of their own ([`search`]).
const NARROW_BITS: u32 = 4;

/// What the scale of round-to-nearest is multiplied by in a search, where levels are floats: they repeat with each power of
/// two, so that one octave has all there is.
const OCTAVE: [f32; 16] = [
    1.0, 1.044, 1.09, 1.139, 1.189, 1.242, 1.297, 1.354, 1.414, 1.477, 1.542, 1.61, 1.682, 1.756, 1.834,
    1.915,
];

/// The same for a table, whose ends are its largest steps.
const SHRUNK: [f32; 16] =
    [1.0, 0.98, 0.96, 0.94, 0.92, 0.9, 0.88, 0.86, 0.84, 0.82, 0.79, 0.76, 0.72, 1.02, 1.05, 1.08];

impl Quantiser {
    /// Quantises whole rows: `numbers` `[rows, columns]` row-major. `band` is overwritten. The rows are a multiple of
    /// `group_rows`, but for a matrix's last.
    ///
    /// Groups of a table ([`Kind::Table`]) run over the numbers of the whole band, row after row, as bitsandbytes has them;
    /// all others begin anew with each row, and a row's last may be shorter. What is NaN or infinite gets some code; callers
    /// who mind ask [`odd`] first. [`Method::Hqq`] needs a bias and is a search on grids without one.
    pub fn quantise(&self, numbers: &[f32], columns: usize, band: &mut Band) {
        self.quantise_at(Level::best(), numbers, columns, band);
    }

    /// [`Quantiser::quantise`] with the instructions of a level; the result is the same with all of them.
    pub fn quantise_at(&self, level: Level, numbers: &[f32], columns: usize, band: &mut Band) {
        let rows = numbers.len().checked_div(columns).unwrap_or(0);
        let numbers = &numbers[..rows * columns];
        let is_flat = matches!(self.grid.kind, Kind::Table(_));
        let line = if is_flat { numbers.len() } else { columns };
        let group_columns = if self.group_columns == 0 { line.max(1) } else { self.group_columns };
        let group_rows = if is_flat { 1 } else { self.group_rows.max(1) };
        let groups = line.div_ceil(group_columns) * if is_flat { 1 } else { rows.div_ceil(group_rows) };
        band.rows = rows;
        band.columns = columns;
        band.groups = None;
        band.nested = None;
        // Scales are those that numbers are multiplied by: with a global number what is stored divided by it.
        band.global = match self.grid.scale {
            ScaleType::E4M3 { global } => global,
            _ => 0.0,
        };
        // All of them are written: what a band before left need not be cleared.
        band.codes.resize(numbers.len(), 0);
        band.scales.resize(groups, 0.0);
        band.zeros.resize(if self.grid.kind.has_zeros() { groups } else { 0 }, 0.0);
        if numbers.is_empty() {
            return;
        }
        // Where all count the same, none needs to be counted.
        let differ = |weights: &&[f32]| weights.iter().any(|w| Some(w) != weights.first());
        let weights = self
            .importance
            .as_deref()
            .filter(|w| w.len() == columns && self.method == Method::Search)
            .filter(differ);
        let mut flat = Vec::new();
        let weights = match weights {
            Some(weights) if is_flat => {
                flat.extend(weights.iter().cycle().take(numbers.len()));
                &flat[..]
            }
            Some(weights) => weights,
            None => &[],
        };
        let level = if level.is_here() { level } else { Level::Base };
        let job = Job { level, numbers, columns: line, group_rows, group_columns, weights, band };
        self.fit(job);
    }

    /// Chooses the kernel.
    fn fit(&self, job: Job<'_>) {
        let Grid { kind, scale } = self.grid;
        let (level, rule) = (job.level, self.rule);
        let integers = |bits, zero| RtnIntegers { level, rule, levels: Integers { bits }, zero, scale };
        match kind {
            Kind::Symmetric { bits, signed_scales } => {
                self.integers(integers(bits, Zero::Middle), signed_scales, job);
            }
            Kind::Asymmetric { bits } => self.integers(integers(bits, Zero::Code), false, job),
            Kind::Affine { bits } => self.affine(integers(bits, Zero::Bias), job),
            Kind::Centred { bits } => self.affine(integers(bits, Zero::MiddleBias), job),
            Kind::Table(values) => {
                let levels = Table::new(values);
                match self.method {
                    Method::Rtn => job.run(RtnTable { levels, scale, group_size: self.group_columns }),
                    _ => self.levels(RtnLevels { levels, scale }, SHRUNK, job),
                }
            }
            Kind::E2M1 => self.levels(RtnLevels { levels: E2M1, scale }, OCTAVE, job),
            Kind::Float(DType::F8E5M2) => self.levels(RtnLevels { levels: E5M2::NEW, scale }, OCTAVE, job),
            Kind::Float(_) => self.levels(RtnLevels { levels: E4M3::NEW, scale }, OCTAVE, job),
        }
    }

    fn integers(&self, rtn: RtnIntegers, signed: bool, job: Job<'_>) {
        let tile = Tile::new();
        match self.method {
            Method::Rtn => job.run(rtn),
            _ if job.weights.is_empty() && rtn.levels.bits <= NARROW_BITS => {
                job.run(SearchNarrow { rtn, signed, wholes: Wholes::default() });
            }
            _ if job.weights.is_empty() => job.run(SearchIntegers::<false> { rtn, signed, tile }),
            _ => job.run(SearchIntegers::<true> { rtn, signed, tile }),
        }
    }

    fn affine(&self, rtn: RtnIntegers, job: Job<'_>) {
        let tile = Tile::new();
        match self.method {
            Method::Rtn => job.run(rtn),
            Method::Hqq => job.run(Hqq { rtn, tile }),
            Method::Search if job.weights.is_empty() && rtn.levels.bits <= NARROW_BITS => {
                job.run(SearchNarrowAffine { rtn, wholes: Wholes::default() });
            }
            Method::Search if job.weights.is_empty() => job.run(SearchAffine::<false> { rtn, tile }),
            Method::Search => job.run(SearchAffine::<true> { rtn, tile }),
        }
    }

    fn levels<L: Levels>(&self, rtn: RtnLevels<L>, factors: [f32; 16], job: Job<'_>) {
        let tile = Tile::new();
        match self.method {
            Method::Rtn => job.run(rtn),
            _ if job.weights.is_empty() => job.run(SearchLevels::<L, false> { rtn, tile, factors }),
            _ => job.run(SearchLevels::<L, true> { rtn, tile, factors }),
        }
    }
}

/// Numbers between −1 and 1 for tests, the same in every run.
#[cfg(test)]
fn drawn(count: usize) -> Vec<f32> {
    let mut state = 1u32;
    let draw = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0 * 2.0 - 1.0
    };
    (0..count).map(draw).collect()
}

/// A band to be filled.
struct Job<'a> {
    level: Level,
    numbers: &'a [f32],
    columns: usize,
    group_rows: usize,
    group_columns: usize,
    weights: &'a [f32],
    band: &'a mut Band,
}

impl Job<'_> {
    fn run<F: Fit>(self, fit: F) {
        let Job { level, numbers, columns, group_rows, group_columns, weights, band } = self;
        let Band { codes, scales, zeros, .. } = band;
        run(level, Walk { fit, numbers, columns, group_rows, group_columns, weights, codes, scales, zeros });
    }
}
