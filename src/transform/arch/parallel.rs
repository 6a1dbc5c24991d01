//! The tensor-parallel cut: which part of a tensor a rank holds.
//!
//! The rows say what kind of cut a layer takes; this file turns that into ranges along one dimension. The rule in words:
//! divide evenly what has no structure; give a rank whole heads; a tensor that is several laid end to end (queries, keys
//! and values; gate and up) is cut piece by piece, so its part is several ranges. What cannot be cut exactly is refused,
//! never rounded: a wrong slice loads without complaint and computes nonsense.
//!
//! Pure, so that a test can hold it against every family's real names.

use super::{Cut, Form, Part, Row, Units, find};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::text::Shown;
use crate::transform::config::Description;
use globset::{GlobBuilder, GlobMatcher};
use std::ops::Range;

/// One of the ranks that share a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rank {
    index: u64,
    count: u64,
}

impl Rank {
    /// Rank `index` of `count`.
    ///
    /// # Errors
    /// Usage, where `index` is not below `count`.
    pub fn new(index: u64, count: u64) -> Result<Rank> {
        if index >= count {
            return Err(Error::usage(format!(
                "rank {index} of {count}: ranks count from 0 to {}",
                count.max(1) - 1
            )));
        }
        Ok(Rank { index, count })
    }

    /// From `R/W`, as in `0/2`.
    ///
    /// # Errors
    /// Usage, where it is not two numbers, the first below the second.
    pub fn parse(text: &str) -> Result<Rank> {
        let numbers = text.split_once('/').and_then(|(r, w)| Some((r.parse().ok()?, w.parse().ok()?)));
        let (index, count) = numbers.ok_or_else(|| {
            Error::usage(format!("`{}` is not a rank; write R/W, as in `0/2`", Shown(text)))
        })?;
        Rank::new(index, count)
    }

    /// Which one, from zero.
    pub fn index(self) -> u64 {
        self.index
    }

    /// How many share the model.
    pub fn count(self) -> u64 {
        self.count
    }
}

/// A person's word on how some tensors are cut: `GLOB=DIM`, or `GLOB=all`.
#[derive(Debug, Clone)]
pub struct Override {
    glob: GlobMatcher,
    dim: Option<usize>,
}

impl Override {
    /// From `GLOB=DIM` (cut evenly along that dimension, outermost is 0) or `GLOB=all` (whole on every rank).
    ///
    /// # Errors
    /// Usage, where it is neither.
    pub fn parse(text: &str) -> Result<Override> {
        let refuse = |why: &str| {
            Err(Error::usage(format!("`{}` {why}", Shown(text)))
                .hint("--slice 'GLOB=DIM', as in --slice '*.my_proj.weight=0', or 'GLOB=all'"))
        };
        let Some((glob, dim)) = text.rsplit_once('=') else { return refuse("has no `=`") };
        let dim = match dim {
            "all" => None,
            number => match number.parse() {
                Ok(n) => Some(n),
                Err(_) => return refuse("ends with neither a dimension nor `all`"),
            },
        };
        match GlobBuilder::new(glob).build() {
            Ok(glob) => Ok(Override { glob: glob.compile_matcher(), dim }),
            Err(e) => refuse(&format!("is not a pattern: {}", e.kind())),
        }
    }

    /// The pattern, as it was given.
    pub fn pattern(&self) -> &str {
        self.glob.glob().glob()
    }

    /// Whether it speaks of this tensor.
    pub fn matches(&self, name: &str) -> bool {
        self.glob.is_match(name)
    }
}

/// A part of a tensor: these indices of one dimension, all of the others. Ranges ascend, do not touch, and are not
/// empty unless the dimension is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The dimension, outermost is 0.
    pub dim: usize,
    /// Its indices.
    pub ranges: Vec<Range<u64>>,
}

impl Slice {
    /// How many indices there are.
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(|r| r.end - r.start).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shape of the part.
    pub fn shape(&self, whole: &[u64]) -> Vec<u64> {
        let mut shape = whole.to_vec();
        if let Some(size) = shape.get_mut(self.dim) {
            *size = self.len();
        }
        shape
    }
}

/// The part of tensor `name` that `rank` holds; `None` for all of it. The first override that matches wins over the
/// rows. `shape` is in torch's order, for a GGUF too.
///
/// # Errors
/// Unsupported where no row knows the name, or its packing cannot be cut; usage where the sizes do not divide by the
/// number of ranks. Both say which `--slice` would help.
pub fn slice(
    name: &str,
    shape: &[u64],
    dtype: DType,
    description: &Description,
    rank: Rank,
    overrides: &[Override],
) -> Result<Option<Slice>> {
    if rank.count == 1 {
        return Ok(None);
    }
    let tensor = Named { name, shape, dtype, description, rank };
    let cut = match overrides.iter().find(|o| o.matches(name)) {
        Some(Override { dim: None, .. }) => None,
        Some(Override { dim: Some(dim), .. }) => Some((*dim, tensor.ranges(*dim, Units::Even)?)),
        None => tensor.by_rows()?,
    };
    let Some((dim, ranges)) = cut else { return Ok(None) };
    let ranges = joined(ranges);
    if let [only] = ranges.as_slice()
        && only.start == 0
        && Some(&only.end) == shape.get(dim)
    {
        return Ok(None);
    }
    let slice = Slice { dim, ranges };
    tensor.check_blocks(&slice)?;
    Ok(Some(slice))
}

/// A tensor to cut, and all that decides how.
struct Named<'a> {
    name: &'a str,
    shape: &'a [u64],
    dtype: DType,
    description: &'a Description,
    rank: Rank,
}

impl Named<'_> {
    fn refuse(&self, error: fn(String) -> Error, why: impl Into<String>) -> Error {
        error(why.into()).tensor(self.name).hint(format!(
            "--slice '{}=DIM' cuts it evenly, `=all` keeps it whole on every rank",
            Shown(self.name)
        ))
    }

    fn usage(&self, why: impl Into<String>) -> Error {
        self.refuse(Error::usage, why)
    }

    fn unsupported(&self, why: impl Into<String>) -> Error {
        self.refuse(Error::unsupported, why)
    }

    fn by_rows(&self) -> Result<Option<(usize, Vec<Range<u64>>)>> {
        let Some((row, part)) = find(self.name) else {
            let family = self.description.family.as_deref().unwrap_or("unknown");
            return Err(self.unsupported(format!(
                "is in no row of the tensor-parallel table (family `{}`)",
                Shown(family)
            )));
        };
        let (cut, form) = self.layout(row)?;
        let (units, out) = match cut {
            Cut::Whole => return Ok(None),
            Cut::Refused(why) => return Err(self.unsupported(format!("cannot be cut among ranks: {why}"))),
            Cut::OneHead => return self.one_head().map(|()| None),
            Cut::Out(units) => (units, true),
            Cut::In(units) => (units, false),
        };
        let dim = match (part, out) {
            (Part::Whole, _) | (Part::Bias, false) => return Ok(None),
            (Part::Packed, _) => {
                return Err(self.unsupported("is packed in a layout that hoist does not cut among ranks yet"));
            }
            (Part::Bias, true) => self.shape.len().checked_sub(1),
            (Part::Weight, _) => Some(match (form, out) {
                (Form::PerHead, _) | (Form::Linear, true) | (Form::Conv, false) => 0,
                (Form::Linear, false) | (Form::Conv, true) | (Form::Stacked, true) => 1,
                (Form::StackedConv, false) => 1,
                (Form::Stacked, false) | (Form::StackedConv, true) => 2,
            }),
        };
        let size = dim.and_then(|d| self.shape.get(d)).copied();
        match (dim, size) {
            // One scale for all rows or columns, or for the whole tensor, is every rank's.
            (_, Some(1)) if is_scale(self.name) => Ok(None),
            (_, None) if is_scale(self.name) => Ok(None),
            (Some(dim), Some(_)) => Ok(Some((dim, self.ranges(dim, units)?))),
            _ => Err(self.unsupported(format!("has shape {:?}, which is not that of its layer", self.shape))),
        }
    }

    /// The row's cut and form for this family.
    fn layout(&self, row: &Row) -> Result<(Cut, Form)> {
        match row.except {
            None => Ok((row.cut, row.form)),
            Some(_) if self.description.family.is_none() => Err(self
                .unsupported("is laid out differently from family to family, and the family is not known")),
            Some((families, cut, form)) if self.description.is_family(families) => Ok((cut, form)),
            Some(_) => Ok((row.cut, row.form)),
        }
    }

    /// A norm over one head is every rank's; a norm over all heads would need a sum over the ranks.
    fn one_head(&self) -> Result<()> {
        let size = self.shape.last().copied().unwrap_or(0);
        match self.description.head_dim {
            Some(head_dim) if size != head_dim => Err(self.unsupported(format!(
                "normalises {size} values at once where a head has {head_dim}: it spans heads, which ranks do not share"
            ))),
            _ => Ok(()),
        }
    }

    /// This rank's ranges of dimension `dim`.
    fn ranges(&self, dim: usize, units: Units) -> Result<Vec<Range<u64>>> {
        let Some(&size) = self.shape.get(dim) else {
            return Err(self.usage(format!("has shape {:?}, which has no dimension {dim}", self.shape)));
        };
        let d = self.description;
        Ok(match units {
            Units::Even => vec![self.even(0, size)?],
            Units::Pairs => {
                let range = self.even(0, size)?;
                if !(range.end - range.start).is_multiple_of(2) {
                    return Err(self.usage(format!(
                        "has {size} alternating gate and up rows, whose pairs {} ranks cannot share",
                        self.rank.count
                    )));
                }
                vec![range]
            }
            Units::Q => vec![self.heads(0, size, self.count(d.heads, "heads")?, false)?],
            Units::Kv => {
                vec![self.heads(0, size, self.count(d.kv_heads, "key/value heads")?, true)?]
            }
            Units::Halves => self.parts(size, &[1, 1], |at, size| self.even(at, size))?,
            Units::Up => match d.intermediate {
                Some(n) if n.checked_mul(2) == Some(size) => self.ranges(dim, Units::Halves)?,
                Some(_) => vec![self.even(0, size)?],
                None => {
                    return Err(self.unsupported(
                        "may hold gate and up together, and the model does not say how wide its MLP is",
                    ));
                }
            },
            Units::Qkv => {
                let (q, kv) = (self.count(d.heads, "heads")?, self.count(d.kv_heads, "key/value heads")?);
                let mut counts = [(q, false), (kv, true), (kv, true)].into_iter();
                self.parts(size, &[q, kv, kv], |at, size| {
                    let (count, shared) = counts.next().unwrap_or((kv, true));
                    self.heads(at, size, count, shared)
                })?
            }
            Units::QkvByGroup => match self.count(d.kv_heads, "key/value heads")? {
                1 => self.ranges(dim, Units::Qkv)?,
                kv if kv.is_multiple_of(self.rank.count) => vec![self.even(0, size)?],
                kv => {
                    return Err(self.usage(format!(
                        "holds {kv} groups of queries, key and value, which {} ranks cannot share",
                        self.rank.count
                    )));
                }
            },
        })
    }

    fn count(&self, count: Option<u64>, what: &str) -> Result<u64> {
        count.filter(|&n| n > 0).ok_or_else(|| {
            self.unsupported(format!("is cut by {what}, and the model does not say how many it has"))
        })
    }

    /// An equal share of `size` indices from `at` on.
    fn even(&self, at: u64, size: u64) -> Result<Range<u64>> {
        if !size.is_multiple_of(self.rank.count) {
            return Err(self.usage(format!(
                "has a dimension of {size} to cut, which {} ranks cannot share evenly",
                self.rank.count
            )));
        }
        let share = size / self.rank.count;
        let start = at + share * self.rank.index;
        Ok(start..start + share)
    }

    /// Whole heads of `size` indices from `at` on. A query head belongs to one rank; of key/value heads (`shared`)
    /// there may be fewer than ranks, and neighbours then hold the same one.
    fn heads(&self, at: u64, size: u64, count: u64, shared: bool) -> Result<Range<u64>> {
        let ranks = self.rank.count;
        if count.is_multiple_of(ranks) {
            return self.even(at, size);
        }
        if shared && ranks.is_multiple_of(count) && size.is_multiple_of(count) {
            let share = size / count;
            let start = at + share * (self.rank.index / (ranks / count));
            return Ok(start..start + share);
        }
        let what = if shared { "key/value heads" } else { "heads" };
        Err(self.usage(format!("has {count} {what}, which {ranks} ranks cannot share")))
    }

    /// `size` indices that are several parts end to end, in the given proportions; each is cut on its own.
    fn parts(
        &self,
        size: u64,
        proportions: &[u64],
        mut cut: impl FnMut(u64, u64) -> Result<Range<u64>>,
    ) -> Result<Vec<Range<u64>>> {
        let sum = proportions.iter().try_fold(0u64, |sum, &n| sum.checked_add(n)).filter(|&n| n > 0);
        let Some(unit) = sum.filter(|&sum| size.is_multiple_of(sum)).map(|sum| size / sum) else {
            return Err(
                self.usage(format!("has a dimension of {size}, which is not parts of {proportions:?}"))
            );
        };
        let mut at = 0;
        let mut ranges = Vec::with_capacity(proportions.len());
        for n in proportions {
            // No overflow: the parts add up to `size`.
            ranges.push(cut(at, n * unit)?);
            at += n * unit;
        }
        Ok(ranges)
    }

    /// Refuses a cut that would part a block. Blocks run along the last dimension.
    fn check_blocks(&self, slice: &Slice) -> Result<()> {
        let block = u64::from(self.dtype.facts().block_elements);
        let row = self.shape.last().copied().unwrap_or(1);
        let along = slice.dim + 1 == self.shape.len();
        let whole = |n: u64| n.is_multiple_of(block);
        let fits = if along { slice.ranges.iter().all(|r| whole(r.start) && whole(r.end)) } else { true };
        if fits && (block == 1 || whole(row)) {
            return Ok(());
        }
        Err(self.unsupported(format!(
            "is `{}` in blocks of {block} elements along rows of {row}, and the cut for {} ranks would part a block",
            self.dtype, self.rank.count
        )))
    }
}

fn is_scale(name: &str) -> bool {
    name.rsplit('.').next().is_some_and(|last| last.starts_with("weight_scale"))
}

/// Ranges that touch made one.
fn joined(ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut out: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match out.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => out.push(range),
        }
    }
    out
}
