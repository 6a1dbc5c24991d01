//! Scales that lie beside a matrix, one for each of its blocks: FP8 weights.

/// Multiplies `numbers`, which are the elements `first .. first + numbers.len()` (row-major) of one matrix of `columns`
/// columns, by the scales of their blocks. `scales` are the matrix's own, row-major
/// `[ceil(rows / block_rows), ceil(columns / block_columns)]`; elements whose scale it lacks become NaN, so that none
/// stays a bare code. Blocks of zero count as one as large as the matrix.
pub fn scale(
    numbers: &mut [f32],
    first: u64,
    columns: u64,
    block_rows: u64,
    block_columns: u64,
    scales: &[f32],
) {
    if columns == 0 {
        return;
    }
    let block_columns = if block_columns == 0 { columns } else { block_columns.min(columns) };
    let scales_per_row = columns.div_ceil(block_columns);
    let (mut row, mut column) = (first / columns, first % columns);
    let mut rest = numbers;
    while !rest.is_empty() {
        let band = row.checked_div(block_rows).unwrap_or(0);
        let at = band.checked_mul(scales_per_row).and_then(|n| n.checked_add(column / block_columns));
        let scale = at.and_then(|at| usize::try_from(at).ok()).and_then(|at| scales.get(at));
        let scale = scale.copied().unwrap_or(f32::NAN);
        let end = ((column / block_columns + 1).saturating_mul(block_columns)).min(columns);
        let count = usize::try_from(end - column).unwrap_or(usize::MAX).min(rest.len());
        let (run, after) = rest.split_at_mut(count);
        for x in run {
            *x *= scale;
        }
        column += count as u64;
        if column == columns {
            (row, column) = (row.saturating_add(1), 0);
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_takes_its_own_blocks_scale() {
        for (rows, columns, block_rows, block_columns) in [
            (1u64, 1u64, 1, 1),
            (5, 7, 2, 3),
            (4, 6, 2, 2),
            (3, 8, 1, 8),
            (3, 8, 3, 8),
            (6, 5, 128, 128),
            (3, 4, 0, 0),
        ] {
            let (of_rows, of_columns) = (
                if block_rows == 0 { rows } else { block_rows },
                if block_columns == 0 { columns } else { block_columns },
            );
            let per_row = columns.div_ceil(of_columns);
            let scales: Vec<f32> = (0..rows.div_ceil(of_rows) * per_row).map(|i| i as f32 + 0.5).collect();
            let naive: Vec<f32> = (0..rows * columns)
                .map(|i| {
                    let (r, c) = (i / columns, i % columns);
                    (i as f32 + 1.0) * scales[(r / of_rows * per_row + c / of_columns) as usize]
                })
                .collect();
            for first in 0..rows * columns {
                for last in first..rows * columns {
                    let mut numbers: Vec<f32> = (first..=last).map(|i| i as f32 + 1.0).collect();
                    scale(&mut numbers, first, columns, block_rows, block_columns, &scales);
                    assert_eq!(
                        numbers,
                        naive[first as usize..=last as usize],
                        "{rows}×{columns} {first}..={last}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_missing_scale_makes_no_bare_code() {
        let mut numbers = [1.0; 4];
        scale(&mut numbers, 0, 2, 1, 2, &[3.0]);
        assert_eq!(numbers[..2], [3.0, 3.0]);
        assert!(numbers[2..].iter().all(|x| x.is_nan()));
        scale(&mut numbers, u64::MAX - 1, u64::MAX, u64::MAX, 1, &[]);
        scale(&mut numbers, u64::MAX, 1, 1, u64::MAX, &[]);
        scale(&mut [], 0, 0, 0, 0, &[]);
        assert!(numbers.iter().all(|x| x.is_nan()));
    }
}
