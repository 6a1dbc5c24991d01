//! Elements in another order, as a [`View`] says it: the one loop behind every rearrangement that is not a copy of rows.

use crate::transform::view::View;

/// Rows and columns of a tile: both sides of it stay in the first-level cache.
const TILE: usize = 32;

/// Fills `target` with the elements of `source` that `view` names, in its order. Elements that `source` does not hold are
/// an error of the plan; their places keep what they hold.
pub fn gather<T: Copy>(source: &[T], view: &View, target: &mut [T]) {
    let view = view.simplified();
    let dims = view.shape.len();
    let Some(from) = usize::try_from(view.offset).ok().and_then(|at| source.get(at..)) else { return };
    let shape: Vec<usize> = view.shape.iter().map(|&n| n as usize).collect();
    let strides: Vec<usize> = view.strides.iter().map(|&s| s as usize).collect();
    let (columns, step) = (shape[dims - 1], strides[dims - 1]);
    if columns == 0 {
        return;
    }
    // A transposition reads down the columns of the source: where the next dimension out is the dense one, tiles of
    // both make use of every cache line that comes in.
    if step > 1 && dims >= 2 && strides[dims - 2] == 1 {
        let rows = shape[dims - 2];
        let plane = rows * columns;
        each_outer(&shape[..dims - 2], &strides[..dims - 2], |index, at| {
            if let (Some(from), Some(to)) =
                (from.get(at..), target.get_mut(index * plane..(index + 1) * plane))
            {
                transpose(from, to, rows, columns, step);
            }
        });
        return;
    }
    each_outer(&shape[..dims - 1], &strides[..dims - 1], |index, at| {
        let Some(to) = target.get_mut(index * columns..(index + 1) * columns) else { return };
        if step == 1 {
            if let Some(row) = from.get(at..at + columns) {
                to.copy_from_slice(row);
            }
        } else if let Some(from) = from.get(at..) {
            match (step, from.first()) {
                (0, Some(&x)) => to.fill(x),
                _ => to.iter_mut().zip(from.iter().step_by(step.max(1))).for_each(|(to, &x)| *to = x),
            }
        }
    });
}

/// Calls `each` with the number and the offset of every combination of the outer dimensions.
fn each_outer(shape: &[usize], strides: &[usize], mut each: impl FnMut(usize, usize)) {
    let count: usize = shape.iter().product();
    let mut index = vec![0usize; shape.len()];
    let mut at = 0;
    for number in 0..count {
        each(number, at);
        for d in (0..shape.len()).rev() {
            index[d] += 1;
            at += strides[d];
            if index[d] < shape[d] {
                break;
            }
            at -= strides[d] * shape[d];
            index[d] = 0;
        }
    }
}

/// `to[r][c] = from[r + c × step]`.
fn transpose<T: Copy>(from: &[T], to: &mut [T], rows: usize, columns: usize, step: usize) {
    for r0 in (0..rows).step_by(TILE) {
        let r1 = (r0 + TILE).min(rows);
        for c0 in (0..columns).step_by(TILE) {
            let c1 = (c0 + TILE).min(columns);
            for r in r0..r1 {
                let Some(row) = to.get_mut(r * columns + c0..r * columns + c1) else { return };
                let Some(from) = from.get(r + c0 * step..) else { return };
                for (to, &x) in row.iter_mut().zip(from.iter().step_by(step)) {
                    *to = x;
                }
            }
        }
    }
}

/// The same for elements of `width` bytes.
pub fn gather_bytes(source: &[u8], view: &View, width: usize, target: &mut [u8]) {
    /// One width a row, so that the loop moves whole elements.
    fn of<const N: usize>(source: &[u8], view: &View, target: &mut [u8]) {
        gather(source.as_chunks::<N>().0, view, target.as_chunks_mut::<N>().0);
    }
    match width {
        1 => of::<1>(source, view, target),
        2 => of::<2>(source, view, target),
        4 => of::<4>(source, view, target),
        8 => of::<8>(source, view, target),
        // Blocks: the width is one more dimension.
        _ => {
            let mut bytes = view.clone();
            bytes.offset *= width as u64;
            bytes.strides.iter_mut().for_each(|s| *s *= width as u64);
            bytes.shape.push(width as u64);
            bytes.strides.push(1);
            of::<1>(source, &bytes, target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Element by element, as the definition says.
    fn naive(source: &[u32], view: &View) -> Vec<u32> {
        let mut places = vec![view.offset];
        for (&n, &s) in view.shape.iter().zip(&view.strides) {
            places = places.iter().flat_map(|&at| (0..n).map(move |i| at + i * s)).collect();
        }
        places.iter().map(|&at| source[at as usize]).collect()
    }

    #[test]
    fn agrees_with_the_definition() {
        let source: Vec<u32> = (0..6 * 70 * 50).collect();
        let whole = || View::whole(&[6, 70, 50]).unwrap();
        for (name, view) in [
            ("whole", whole()),
            ("transposed planes", whole().swap(1, 2).unwrap()),
            ("transposed outer", whole().swap(0, 2).unwrap()),
            ("outer swapped", whole().swap(0, 1).unwrap()),
            ("odd rows", whole().split(1, &[35, 2]).unwrap().at(2, 1).unwrap()),
            ("pairs", whole().split(1, &[5, 2, 7]).unwrap().swap(2, 3).unwrap()),
            ("each third column", whole().split(2, &[25, 2]).unwrap().at(3, 1).unwrap()),
            ("repeated", View { offset: 3, shape: vec![4, 5], strides: vec![1, 0] }),
            ("one", View { offset: 17, shape: vec![1], strides: vec![1] }),
        ] {
            let expected = naive(&source, &view);
            let mut out = vec![0; expected.len()];
            gather(&source, &view, &mut out);
            assert_eq!(out, expected, "{name}");
            let bytes: Vec<u8> = source.iter().flat_map(|x| x.to_le_bytes()).collect();
            let mut out = vec![0; expected.len() * 4];
            gather_bytes(&bytes, &view, 4, &mut out);
            let expected: Vec<u8> = expected.iter().flat_map(|x| x.to_le_bytes()).collect();
            assert_eq!(out, expected, "{name}, bytes");
        }
        let blocks: Vec<u8> = (0..4 * 3).collect();
        let mut out = vec![0; 12];
        let swapped = View::whole(&[2, 2]).unwrap().swap(0, 1).unwrap();
        gather_bytes(&blocks, &swapped, 3, &mut out);
        assert_eq!(out, [0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11]);
    }

    #[test]
    fn a_source_too_short_is_no_panic() {
        let view = View::whole(&[4, 4]).unwrap().swap(0, 1).unwrap();
        gather(&[1u32, 2, 3], &view, &mut [0; 16]);
        gather(&[1u32, 2, 3], &View { offset: 9, ..view }, &mut [0; 16]);
    }
}
