//! Methods: from numbers to codes and scales. Data-free; one kernel a method, for every grid.
//!
//! A *grid* says which numbers a group can hold once its scale is known: how many codes, whether there is a zero point and of
//! what kind, and what scales are stored in. A *method* chooses the scale and the zero point of each group, and the codes.
//! Groups are independent, so a result never depends on how a tensor is cut into bands.
//!
//! Scales are rounded to what they are stored in before codes are chosen: codes fit the scales that a reader will find.

use crate::dtype::DType;
use crate::transform::packing::Band;

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
    /// `table[code] · scale`, the scale being the group's largest magnitude (NF4).
    Table(&'static [f32; 16]),
    /// Four-bit floats (E2M1), the code as it is stored: sign, exponent, mantissa.
    E2M1,
    /// Eight-bit floats, the code their bits.
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

/// How one matrix is quantised.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantiser {
    /// Which numbers a group can hold.
    pub grid: Grid,
    /// How they are chosen.
    pub method: Method,
    /// Rows of a group.
    pub group_rows: usize,
    /// Neighbours of a row in a group.
    pub group_columns: usize,
    /// How much the error of each column counts, `[columns]`; all the same where there is none.
    pub importance: Option<std::sync::Arc<[f32]>>,
}

/// How far a matrix is from what it was.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Error {
    /// Sum of squares of the differences.
    pub squares: f64,
    /// Sum of squares of the numbers.
    pub total: f64,
    /// The largest difference.
    pub largest: f64,
    /// Numbers.
    pub count: u64,
    /// Numbers that are none: NaN or infinite.
    pub odd: u64,
}

impl Error {
    /// Both together.
    pub fn and(self, other: Error) -> Error {
        Error {
            squares: self.squares + other.squares,
            total: self.total + other.total,
            largest: self.largest.max(other.largest),
            count: self.count + other.count,
            odd: self.odd + other.odd,
        }
    }

    /// Length of the difference over length of the numbers (relative Frobenius error); zero where there is nothing.
    pub fn relative(&self) -> f64 {
        if self.total > 0.0 { (self.squares / self.total).sqrt() } else { 0.0 }
    }
}

impl Quantiser {
    /// Quantises whole rows: `numbers` `[rows, columns]` row-major. `band` is overwritten. The rows are a multiple of
    /// `group_rows`, but for a matrix's last.
    pub fn quantise(&self, numbers: &[f32], columns: usize, band: &mut Band) {
        let _ = (numbers, columns, band);
    }
}
