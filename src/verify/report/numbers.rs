//! Figures as a person reads them: as many digits as say something.

/// Two digits that count: `0.071`, `0.92`, `6.1`, `27`, `4.0e-6`.
pub(super) fn figure(x: f64) -> String {
    match x.abs() {
        _ if !x.is_finite() => x.to_string(),
        0.0 => "0".to_owned(),
        9.95..9.95e5 => format!("{x:.0}"),
        a @ 9.5e-4..9.95 => format!("{x:.*}", (1.0 - a.log10().floor()).clamp(0.0, 6.0) as usize),
        _ => format!("{x:.1e}"),
    }
}

/// A mean with its standard error, to the error's first digit: `0.071 ± 0.002`.
pub(super) fn with_error(mean: f64, error: f64) -> String {
    if !(error > 0.0 && error.is_finite() && mean.abs() >= 9.5e-4) {
        return match (mean == 0.0, error > 0.0 && error.is_finite()) {
            (false, true) => format!("{} ± {error:.0e}", figure(mean)),
            _ => figure(mean),
        };
    }
    let decimals = (-error.log10().floor()).clamp(0.0, 6.0) as usize;
    format!("{mean:.decimals$} ± {error:.decimals$}")
}

/// A cosine, with as many nines as it has and a digit more.
pub(super) fn cosine(x: f64) -> String {
    if x == 1.0 || !x.is_finite() {
        return x.to_string();
    }
    let text = format!("{x:.12}");
    let nines = text.strip_prefix("0.").map_or(0, |d| d.len() - d.trim_start_matches('9').len());
    format!("{x:.*}", (nines + 2).clamp(4, 12))
}

/// A share as per cent: one decimal, more where it is nearly all, and `100 %` only where it is all.
pub(super) fn percent(share: f64) -> String {
    if share == 1.0 {
        return "100 %".to_owned();
    }
    let x = share * 100.0;
    let decimals = (1..=6).find(|&d| format!("{x:.d$}") != format!("{:.d$}", 100.0)).unwrap_or(6);
    format!("{x:.decimals$} %")
}

/// A limit that is a share: `97 %`, `99.5 %`.
pub(super) fn share_limit(share: f64) -> String {
    // To a millionth: 0.97 · 100 is not quite 97.
    format!("{} %", (share * 1e8).round() / 1e6)
}

/// By how much more, as per cent: `+0.9 %`, `+0.012 %`, `−0.4 %`.
pub(super) fn change(ratio: f64) -> String {
    let x = (ratio - 1.0) * 100.0;
    let text = match x.abs() {
        a if !a.is_finite() => return x.to_string(),
        a if a < 5e-5 => return "±0 %".to_owned(),
        a if a < 0.095 => figure(a),
        a => format!("{a:.1}"),
    };
    format!("{}{text} %", if x < 0.0 { '−' } else { '+' })
}

/// A perplexity: two decimals, one above a hundred, none above a thousand.
pub(super) fn perplexity(x: f64) -> String {
    match x {
        x if x >= 999.5 => format!("{x:.0}"),
        x if x >= 99.95 => format!("{x:.1}"),
        x => format!("{x:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits() {
        for (x, shown) in [
            (0.0, "0"),
            (0.0711, "0.071"),
            (0.0182, "0.018"),
            (0.92, "0.92"),
            (6.12, "6.1"),
            (9.97, "10"),
            (27.3, "27"),
            (0.00123, "0.0012"),
            (4.03e-6, "4.0e-6"),
            (1.5e7, "1.5e7"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(figure(x), shown, "{x}");
        }
        for (mean, error, shown) in [
            (0.0711, 0.0021, "0.071 ± 0.002"),
            (0.0711, 0.0, "0.071"),
            (1.234, 0.5, "1.2 ± 0.5"),
            (4.03e-6, 1.1e-7, "4.0e-6 ± 1e-7"),
            (0.0, 0.0, "0"),
            (f64::NAN, f64::NAN, "NaN"),
        ] {
            assert_eq!(with_error(mean, error), shown);
        }
        for (x, shown) in
            [(1.0, "1"), (0.9971, "0.9971"), (0.999_987_6, "0.999988"), (0.5, "0.5000"), (-0.25, "-0.2500")]
        {
            assert_eq!(cosine(x), shown);
        }
        for (x, shown) in [
            (1.0, "100 %"),
            (0.918, "91.8 %"),
            (0.9997, "99.97 %"),
            (0.99999, "99.999 %"),
            (0.0, "0.0 %"),
            (f64::NAN, "NaN %"),
        ] {
            assert_eq!(percent(x), shown);
        }
        for (x, shown) in [(0.97, "97 %"), (0.8, "80 %"), (0.995, "99.5 %"), (0.07, "7 %")] {
            assert_eq!(share_limit(x), shown);
        }
        for (x, shown) in [
            (9.73 / 9.64, "+0.9 %"),
            (0.996, "−0.4 %"),
            (1.00012, "+0.012 %"),
            (1.0, "±0 %"),
            (2.5, "+150.0 %"),
        ] {
            assert_eq!(change(x), shown);
        }
        for (x, shown) in [(9.73, "9.73"), (123.45, "123.5"), (12345.6, "12346"), (f64::INFINITY, "inf")] {
            assert_eq!(perplexity(x), shown);
        }
    }
}
