//! `strftime_now`: a moment, written by a format.

use std::time::{SystemTime, UNIX_EPOCH};

/// A date and a time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Microseconds since the start of 1970.
    microseconds: i64,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl Moment {
    /// Now, in coordinated universal time: what hoist renders depends on no setting of the machine.
    pub fn now() -> Moment {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Moment { microseconds: i64::try_from(since.as_micros()).unwrap_or(i64::MAX) }
    }

    /// Seconds since the start of 1970.
    pub fn of_unix(seconds: i64) -> Moment {
        Moment { microseconds: seconds.saturating_mul(1_000_000) }
    }

    /// Year, month and day, both from one. H. Hinnant's `civil_from_days`: years begin in March, so that the day that a
    /// leap year adds is its last.
    fn date(self) -> (i64, usize, i64) {
        let days = self.microseconds.div_euclid(86_400_000_000) + 719_468;
        let era = days.div_euclid(146_097);
        let day = days.rem_euclid(146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day_of_year = day - (365 * year + year / 4 - year / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = year + era * 400 + i64::from(month <= 2);
        (year, usize::try_from(month).unwrap_or(1), day)
    }

    /// Python's `strftime` in the locale C. Directives that locales or time zones change are refused.
    pub(super) fn format(self, format: &str) -> Result<String, String> {
        let (year, month, day) = self.date();
        let seconds = self.microseconds.div_euclid(1_000_000).rem_euclid(86_400);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let weekday = usize::try_from((self.microseconds.div_euclid(86_400_000_000) + 4).rem_euclid(7));
        let weekday = weekday.unwrap_or(0);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][month - 1];
        let day_of_year = before + day + i64::from(leap && month > 2);
        let hour_12 = if hour % 12 == 0 { 12 } else { hour % 12 };
        let month_name = MONTHS[month - 1];
        let mut out = String::with_capacity(format.len());
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut directive = chars.next();
            // Of the C library: no leading zeros.
            let bare = directive == Some('-');
            if bare {
                directive = chars.next();
            }
            let number = |n: i64, width: usize| match bare {
                true => n.to_string(),
                false => format!("{n:0width$}"),
            };
            let text = match directive {
                Some('Y') => number(year, 4),
                Some('y') => number(year.rem_euclid(100), 2),
                Some('m') => number(month as i64, 2),
                Some('d') => number(day, 2),
                Some('e') if !bare => format!("{day:2}"),
                Some('H') => number(hour, 2),
                Some('I') => number(hour_12, 2),
                Some('M') => number(minute, 2),
                Some('S') => number(second, 2),
                Some('j') => number(day_of_year, 3),
                Some('f') if !bare => format!("{:06}", self.microseconds.rem_euclid(1_000_000)),
                Some('w') => weekday.to_string(),
                Some('u') => if weekday == 0 { 7 } else { weekday }.to_string(),
                Some('B') if !bare => month_name.into(),
                Some('b' | 'h') if !bare => month_name[..3].into(),
                Some('A') if !bare => DAYS[weekday].into(),
                Some('a') if !bare => DAYS[weekday][..3].into(),
                Some('p') if !bare => if hour < 12 { "AM" } else { "PM" }.into(),
                Some('F') if !bare => format!("{year:04}-{month:02}-{day:02}"),
                Some('D') if !bare => format!("{month:02}/{day:02}/{:02}", year.rem_euclid(100)),
                Some('T') if !bare => format!("{hour:02}:{minute:02}:{second:02}"),
                Some('R') if !bare => format!("{hour:02}:{minute:02}"),
                // A moment without a zone has none to write.
                Some('z' | 'Z') if !bare => String::new(),
                Some('n') if !bare => "\n".into(),
                Some('t') if !bare => "\t".into(),
                Some('%') if !bare => "%".into(),
                other => {
                    let sign = if bare { "-" } else { "" };
                    let other = other.map(String::from).unwrap_or_default();
                    return Err(format!("`strftime_now` with `%{sign}{other}`"));
                }
            };
            out.push_str(&text);
        }
        Ok(out)
    }
}
