//! Numbers and strange text as a person reads them, for messages and reports.

use std::fmt::{self, Write};

/// `4996145216` as `4,996,145,216`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A size in bytes with a decimal unit and three or four digits: `12.1 MB`, `5.6 kB`, `890 B`.
pub fn bytes(n: u64) -> String {
    scaled(n as f64, &["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

/// A count in thousands, millions, billions: `8.19 B`, `6.03 M`, `4.1 k`, `512`.
pub fn count(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["", " k", " M", " B", " T"] {
        if value < 999.5 {
            return match unit {
                "" => format!("{n}"),
                _ if value < 99.95 => format!("{value:.2}{unit}"),
                _ => format!("{value:.0}{unit}"),
            };
        }
        value /= 1000.0;
    }
    format!("{value:.0} Q")
}

/// Bytes a second in decimal gigabytes: `51.8 GB/s`, `0.043 GB/s`; what is too slow for those in smaller units, `520 kB/s`.
pub fn rate(bytes: u64, seconds: f64) -> String {
    let r = bytes as f64 / seconds.max(1e-9) / 1e9;
    match r {
        r if r >= 100.0 => format!("{r:.0} GB/s"),
        r if r >= 1.0 => format!("{r:.1} GB/s"),
        r if r >= 0.1 => format!("{r:.2} GB/s"),
        r if r >= 0.001 => format!("{r:.3} GB/s"),
        r => format!("{:.0} kB/s", r * 1e6),
    }
}

fn scaled(mut value: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // 999.95 would round to 1000.0 of the smaller unit.
    while unit + 1 < units.len() && value >= if unit == 0 { 1000.0 } else { 999.95 } {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{value:.0} {}", units[0]),
        _ => format!("{value:.1} {}", units[unit]),
    }
}

/// Shows text that came from a file: control characters and other unprintable ones escaped, overlong text cut.
pub struct Shown<'a>(pub &'a str);

/// The most characters of a foreign text that a message repeats.
const SHOWN_CHARS_MAX: usize = 300;

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, c) in self.0.chars().enumerate() {
            if i == SHOWN_CHARS_MAX {
                return f.write_char('…');
            }
            // Bidirectional overrides and zero-width characters could make one name look like another.
            let hides = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
            if c.is_control() || hides {
                write!(f, "{}", c.escape_unicode())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (n, g, b, c) in [
            (0, "0", "0 B", "0"),
            (999, "999", "999 B", "999"),
            (1000, "1,000", "1.0 kB", "1.00 k"),
            (999_960, "999,960", "1.0 MB", "1.00 M"),
            (12_069_464, "12,069,464", "12.1 MB", "12.07 M"),
            (4_996_145_216, "4,996,145,216", "5.0 GB", "5.00 B"),
        ] {
            assert_eq!((grouped(n).as_str(), bytes(n).as_str(), count(n).as_str()), (g, b, c));
        }
        assert_eq!(rate(51_800_000_000, 1.0), "51.8 GB/s");
        assert_eq!(rate(43_000_000, 1.0), "0.043 GB/s");
        assert_eq!(rate(1_000_000, 2.0), "500 kB/s");
        assert_eq!(rate(0, 2.0), "0 kB/s");
    }

    #[test]
    fn strange_text_is_escaped() {
        assert_eq!(Shown("a\x1b[31m\u{202e}é").to_string(), "a\\u{1b}[31m\\u{202e}é");
        assert_eq!(Shown(&"x".repeat(400)).to_string().chars().count(), 301);
    }
}
