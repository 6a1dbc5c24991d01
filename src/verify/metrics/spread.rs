//! A figure that each position has: its mean, and how it is spread.

/// How a figure is spread over positions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The mean's standard error: the standard deviation divided by √n, as if positions knew nothing of each other. Zero
    /// for one position.
    pub error: f64,
    /// Half of the positions have less.
    pub median: f64,
    /// 99 % have less.
    pub p99: f64,
    /// 99.9 % have less.
    pub p999: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of values, none of which is NaN; all fields are NaN where there are none. Percentiles lie on the line between
    /// the two nearest values (as numpy's and llama-perplexity's do).
    pub fn of(values: &[f64]) -> Spread {
        let (mean, error) = mean_and_error(values);
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let at = |fraction| percentile(&sorted, fraction);
        Spread { mean, error, median: at(0.5), p99: at(0.99), p999: at(0.999), max: at(1.0) }
    }
}

/// The mean and its standard error.
pub(super) fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    if values.len() < 2 {
        return (mean, if values.is_empty() { f64::NAN } else { 0.0 });
    }
    // In a second pass: the difference of two large sums would lose what is small.
    let squares: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
    (mean, (squares / (n - 1.0) / n).sqrt())
}

fn percentile(sorted: &[f64], fraction: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = fraction * last as f64;
    let below = (place.floor() as usize).min(last);
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_few() {
        let s = Spread::of(&[4.0, 1.0, 2.0, 3.0]);
        assert_eq!((s.mean, s.median, s.max), (2.5, 2.5, 4.0));
        assert!((s.p99 - 3.97).abs() < 1e-12 && (s.p999 - 3.997).abs() < 1e-12, "{s:?}");
        assert!((s.error - (5.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-15, "{s:?}");
        let one = Spread::of(&[7.0]);
        assert_eq!((one.mean, one.error, one.median, one.p999, one.max), (7.0, 0.0, 7.0, 7.0, 7.0));
        assert!(Spread::of(&[]).mean.is_nan() && Spread::of(&[]).max.is_nan());
    }
}
