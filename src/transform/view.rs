//! A view: which elements of a value, and in which order.
//!
//! Every rearrangement that separates one family's files from another's is one of these: permuting the rows of a head,
//! splitting a fused matrix, taking each second row, transposing. A view holds sizes and strides and no data, so
//! rearrangements compose for nothing, invert by swapping two dimensions back, and are carried out once, when bytes
//! move (`plan::weave`).

use crate::checkpoint::row_major_strides;
use crate::error::{Error, Result};
use std::ops::Range;

/// Elements of a value, in an order. The value's own elements are numbered row-major.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct View {
    /// The first element's number.
    pub offset: u64,
    /// Sizes, outermost first.
    pub shape: Vec<u64>,
    /// Elements of the value between neighbours along each dimension.
    pub strides: Vec<u64>,
}

impl View {
    /// All elements, as they lie.
    pub fn whole(shape: &[u64]) -> Result<View> {
        let strides = row_major_strides(shape)
            .ok_or_else(|| Error::bad_input(format!("has shape {shape:?}, whose product overflows")))?;
        Ok(View { offset: 0, shape: shape.to_vec(), strides: strides.into() })
    }

    /// How many elements. Never overflows: a view of a value that has a size holds no more elements than it.
    pub fn element_count(&self) -> u64 {
        self.shape.iter().product()
    }

    /// The number in the value of the view's `index`-th element, counted row-major; `None` beyond its end.
    pub fn element(&self, index: u64) -> Option<u64> {
        if index >= self.element_count() {
            return None;
        }
        let (mut rest, mut at) = (index, self.offset);
        for (n, stride) in self.shape.iter().zip(&self.strides).rev() {
            at += rest % n * stride;
            rest /= n;
        }
        Some(at)
    }

    /// Dimension `dim` as several, outermost first, whose product it must be.
    pub fn split(mut self, dim: usize, sizes: &[u64]) -> Result<View> {
        let (size, stride) = self.dim(dim)?;
        if sizes.iter().try_fold(1u64, |n, &s| n.checked_mul(s)) != Some(size) {
            return Err(Error::bad_input(format!(
                "has {size} along dimension {dim}, which is not {}",
                sizes.iter().map(u64::to_string).collect::<Vec<_>>().join(" × ")
            )));
        }
        let mut inner = stride;
        let mut strides = vec![0; sizes.len()];
        for (place, &n) in strides.iter_mut().zip(sizes).rev() {
            *place = inner;
            // Only where a size of one stands for a stride that is never used can this grow beyond the value.
            inner = inner.saturating_mul(n);
        }
        self.shape.splice(dim..=dim, sizes.iter().copied());
        self.strides.splice(dim..=dim, strides);
        Ok(self)
    }

    /// Two dimensions exchanged.
    pub fn swap(mut self, a: usize, b: usize) -> Result<View> {
        self.dim(a)?;
        self.dim(b)?;
        self.shape.swap(a, b);
        self.strides.swap(a, b);
        Ok(self)
    }

    /// The dimensions in another order: `order[i]` is the one that comes i-th.
    pub fn permuted(self, order: &[usize]) -> Result<View> {
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..self.shape.len()) {
            return Err(Error::bug(format!("{order:?} is no order of {} dimensions", self.shape.len())));
        }
        let of = |sizes: &[u64]| order.iter().map(|&d| sizes[d]).collect();
        Ok(View { offset: self.offset, shape: of(&self.shape), strides: of(&self.strides) })
    }

    /// A range along one dimension.
    pub fn slice(mut self, dim: usize, range: Range<u64>) -> Result<View> {
        let (size, stride) = self.dim(dim)?;
        if range.start > range.end || range.end > size {
            return Err(Error::bad_input(format!(
                "has {size} along dimension {dim}, where {} to {} are needed",
                range.start, range.end
            )));
        }
        if range.start < range.end {
            self.offset += range.start * stride;
        }
        self.shape[dim] = range.end - range.start;
        Ok(self)
    }

    /// One of a dimension, which goes.
    pub fn at(self, dim: usize, index: u64) -> Result<View> {
        let mut view = self.slice(dim, index..index.saturating_add(1))?;
        view.shape.remove(dim);
        view.strides.remove(dim);
        Ok(view)
    }

    fn dim(&self, dim: usize) -> Result<(u64, u64)> {
        match (self.shape.get(dim), self.strides.get(dim)) {
            (Some(&size), Some(&stride)) => Ok((size, stride)),
            _ => Err(Error::bad_input(format!(
                "has {} dimensions, where one more than {dim} is needed",
                self.shape.len()
            ))),
        }
    }

    /// The same elements in the same order with as few dimensions as can say it; none of one, at least one.
    pub fn simplified(&self) -> View {
        let mut dims: Vec<(u64, u64)> = Vec::with_capacity(self.shape.len());
        for (&n, &stride) in self.shape.iter().zip(&self.strides) {
            if n == 1 {
                continue;
            }
            match dims.last_mut() {
                Some((count, outer)) if n.checked_mul(stride) == Some(*outer) => {
                    *count *= n;
                    *outer = stride;
                }
                _ => dims.push((n, stride)),
            }
        }
        if dims.is_empty() {
            dims.push((1, 1));
        }
        let (shape, strides) = dims.into_iter().unzip();
        View { offset: self.offset, shape, strides }
    }

    /// The elements that stand at `range` in the view's own order, as views that follow each other: few, whatever the range
    /// (two for each dimension at most).
    pub fn run(&self, range: Range<u64>) -> Result<Vec<View>> {
        let count = self.element_count();
        if range.start > range.end || range.end > count {
            return Err(Error::bug(format!(
                "a view of {count} elements has no {} to {}",
                range.start, range.end
            )));
        }
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let (mut start, mut end) = (range.start, range.end);
        let mut view = self.simplified();
        // From the outermost dimension inwards: whole steps of it are one view; what is left over at both ends goes on inside.
        while start < end {
            let outer = view.shape.first().copied().unwrap_or(1).max(1);
            let inner = view.element_count() / outer;
            let (first, last) = (start / inner, (end - 1) / inner);
            if view.shape.len() == 1 || start % inner == 0 && end % inner == 0 {
                before.push(view.slice(0, first..last + 1)?);
                break;
            }
            if first == last {
                view = view.at(0, first)?;
                (start, end) = (start - first * inner, end - first * inner);
                continue;
            }
            // The two ends lie in different steps: each is a run of its own.
            let head = (start % inner > 0).then_some(start % inner);
            let tail = (end % inner > 0).then_some(end % inner);
            let whole = first + u64::from(head.is_some())..last + u64::from(tail.is_none());
            if let Some(head) = head {
                before.extend(view.clone().at(0, first)?.run(head..inner)?);
            }
            if let Some(tail) = tail {
                after = view.clone().at(0, last)?.run(0..tail)?;
            }
            if !whole.is_empty() {
                before.push(view.slice(0, whole)?);
            }
            break;
        }
        before.append(&mut after);
        Ok(before)
    }

    /// Whether the elements are one run of the value.
    pub fn is_run(&self) -> bool {
        let view = self.simplified();
        view.shape.len() == 1 && view.strides[0] == 1 || view.element_count() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(view: &View) -> Vec<u64> {
        let mut out = vec![view.offset];
        for (&n, &s) in view.shape.iter().zip(&view.strides) {
            out = out.iter().flat_map(|&at| (0..n).map(move |i| at + i * s)).collect();
        }
        out
    }

    #[test]
    fn rearrangements() {
        let whole = || View::whole(&[4, 3]).unwrap();
        for (name, view, expected) in [
            ("whole", whole(), (0..12).collect::<Vec<u64>>()),
            ("transposed", whole().swap(0, 1).unwrap(), vec![0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]),
            ("second half", whole().slice(0, 2..4).unwrap(), vec![6, 7, 8, 9, 10, 11]),
            (
                "pairs of one head of four rows",
                whole().split(0, &[1, 2, 2]).unwrap().swap(1, 2).unwrap(),
                vec![0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11],
            ),
            ("odd rows", whole().split(0, &[2, 2]).unwrap().at(1, 1).unwrap(), vec![3, 4, 5, 9, 10, 11]),
        ] {
            assert_eq!(elements(&view), expected, "{name}");
            assert_eq!(elements(&view.simplified()), expected, "{name}, simplified");
            let runs = expected.windows(2).all(|w| w[1] == w[0] + 1);
            assert_eq!(view.is_run(), runs, "{name}");
        }
    }

    #[test]
    fn runs() {
        let views = [
            View::whole(&[4, 3, 5]).unwrap(),
            View::whole(&[4, 3, 5]).unwrap().swap(0, 2).unwrap(),
            View::whole(&[12]).unwrap(),
            View::whole(&[1, 7]).unwrap(),
            View::whole(&[8, 6]).unwrap().split(0, &[2, 2, 2]).unwrap().swap(1, 2).unwrap(),
        ];
        for view in views {
            let all = elements(&view);
            let count = all.len() as u64;
            for start in 0..=count {
                for end in start..=count {
                    let pieces = view.run(start..end).unwrap();
                    let found: Vec<u64> = pieces.iter().flat_map(elements).collect();
                    assert_eq!(found, all[start as usize..end as usize], "{view:?} {start}..{end}");
                    assert!(pieces.len() <= 2 * view.shape.len());
                }
            }
            assert!(view.run(0..count + 1).is_err());
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let whole = || View::whole(&[4, 3]).unwrap();
        assert!(whole().split(0, &[3, 2]).is_err());
        assert!(whole().split(0, &[u64::MAX, 2]).is_err());
        assert!(whole().split(2, &[1]).is_err());
        assert!(whole().slice(0, 2..5).is_err());
        assert!(whole().at(1, 3).is_err());
        assert!(whole().at(1, u64::MAX).is_err());
        assert!(whole().swap(0, 2).is_err());
        assert!(View::whole(&[u64::MAX, u64::MAX, 2]).is_err());
    }
}
