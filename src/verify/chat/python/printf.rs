//! `format % arguments`: the conversions `s`, `d`, `i`, `f` and `%`, with flags, and a width and a precision in digits.

use super::super::budget::{Budget, a, failed, refused};
use super::{Number, text};
use minijinja::{Error, Value};

/// The widest field, and the most digits.
const FIELD_MAX: usize = 1000;

/// The text of a format.
///
/// # Errors
/// Too few arguments, or too many where `all` are to be used; what Python's `%` refuses, and what is refused here.
pub(in crate::verify::chat) fn format(
    budget: &Budget,
    format: &str,
    args: &[Value],
    all: bool,
) -> Result<String, Error> {
    let (mut out, mut args, mut rest) = (String::new(), args.iter(), format);
    budget.bytes(format.len())?;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let (flags, after) = cut(after, |c| matches!(c, '-' | '0' | '+' | ' '));
        let (width, after) = cut(after, |c| c.is_ascii_digit());
        let (precision, after) = match after.strip_prefix('.') {
            Some(after) => {
                let (digits, after) = cut(after, |c| c.is_ascii_digit());
                (Some(small(digits)?), after)
            }
            None => (None, after),
        };
        let width = small(width)?;
        let Some(conversion) = after.chars().next() else { return Err(failed("a format that ends in `%`")) };
        rest = after.get(conversion.len_utf8()..).unwrap_or_default();
        match conversion {
            '%' if flags.is_empty() && width == 0 && precision.is_none() => out.push('%'),
            's' | 'd' | 'i' | 'f' => {
                let arg = args.next().ok_or_else(|| failed("too few arguments for a format"))?;
                let body = converted(budget, conversion, precision, arg)?;
                budget.bytes(width.saturating_add(body.len()))?;
                out.push_str(&placed(&body, conversion != 's', flags, width));
            }
            _ => return Err(refused(format!("`%{conversion}` in a format"))),
        }
    }
    out.push_str(rest);
    match all && args.next().is_some() {
        true => Err(failed("too many arguments for a format")),
        false => Ok(out),
    }
}

/// A text's beginning of such characters, and the rest.
fn cut(text: &str, of: impl Fn(char) -> bool) -> (&str, &str) {
    let rest = text.trim_start_matches(of);
    text.split_at(text.len() - rest.len())
}

fn small(digits: &str) -> Result<usize, Error> {
    match digits {
        "" => Ok(0),
        _ => {
            let number = digits.parse().ok().filter(|n| *n <= FIELD_MAX);
            number.ok_or_else(|| refused(format!("a field wider than {FIELD_MAX}")))
        }
    }
}

fn converted(
    budget: &Budget,
    conversion: char,
    precision: Option<usize>,
    arg: &Value,
) -> Result<String, Error> {
    Ok(match (conversion, Number::of(arg)) {
        ('s', _) => {
            let whole = text(budget, arg)?;
            match precision {
                Some(most) => whole.chars().take(most).collect(),
                None => whole,
            }
        }
        ('f', Some(number)) if number.float().is_finite() => {
            format!("{:.*}", precision.unwrap_or(6), number.float())
        }
        ('d' | 'i', Some(Number::Int(n))) if precision.is_none() => n.to_string(),
        (_, Some(_)) => {
            return Err(refused(format!("`%{conversion}` of such a number, or with a precision")));
        }
        (_, None) => return Err(failed(format!("`%{conversion}` of {}", a(arg)))),
    })
}

fn placed(body: &str, is_number: bool, flags: &str, width: usize) -> String {
    let signed = is_number && !body.starts_with('-');
    let sign = match (signed, flags.contains('+'), flags.contains(' ')) {
        (true, true, _) => "+",
        (true, false, true) => " ",
        _ => "",
    };
    let (minus, digits) = if is_number { cut(body, |c| c == '-') } else { ("", body) };
    let missing = width.saturating_sub(sign.len() + body.chars().count());
    if flags.contains('-') {
        format!("{sign}{body}{}", " ".repeat(missing))
    } else if flags.contains('0') && is_number {
        format!("{sign}{minus}{}{digits}", "0".repeat(missing))
    } else {
        format!("{}{sign}{body}", " ".repeat(missing))
    }
}
