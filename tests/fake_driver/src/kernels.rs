//! The kernels' Rust twins. They are found by the names in the PTX text that was loaded, and written another way than
//! the PTX and than hoist's own casts: a value is decoded into an f64, which holds every one of them exactly, and
//! rounded once, by arithmetic.

use crate::memory::device_range;
use crate::state::{Code, violation};

/// A kernel of a module: its name, and the sizes of its parameters in bytes.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) params: Vec<usize>,
}

/// The kernels of a PTX text, or `None` where it is not PTX.
pub(crate) fn entries(ptx: &str) -> Option<Vec<Entry>> {
    let code: String =
        ptx.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect();
    if !code.contains(".version") || !code.contains(".target") {
        return None;
    }
    let mut found = Vec::new();
    for part in code.split(".entry").skip(1) {
        let (name, rest) = part.split_once('(')?;
        let (params, _) = rest.split_once(')')?;
        let params = params
            .split(',')
            .filter(|p| !p.trim().is_empty())
            .map(|p| match p.split_whitespace().nth(1)? {
                ".u64" | ".b64" | ".s64" => Some(8),
                ".u32" | ".b32" | ".s32" | ".f32" => Some(4),
                _ => None,
            })
            .collect::<Option<Vec<usize>>>()?;
        found.push(Entry { name: name.trim().to_owned(), params });
    }
    Some(found)
}

/// Runs the kernel called `name`.
pub(crate) fn run(name: &str, args: &[u64]) -> Result<(), Code> {
    let pair = name.strip_prefix("cast_").and_then(|rest| {
        FORMATS.iter().find_map(|from| {
            let to = rest.strip_prefix(from.name)?.strip_prefix('_')?;
            Some((from, FORMATS.iter().find(|t| t.name == to)?))
        })
    });
    match (pair, args) {
        (Some((from, to)), &[source, target, count, overflow, saturate]) => {
            cast(from, to, [source, target, count, overflow], saturate as u32 != 0).map_err(|code| match code
            {
                1 => 700,
                other => other,
            })
        }
        _ => violation(format!("kernel {name} has no twin, or other parameters")).map_err(|_: Code| 719),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Special {
    /// Inf and NaN as IEEE 754 has them.
    Ieee,
    /// No Inf; NaN is all ones.
    Finite,
    /// No Inf, no negative zero; NaN is 0x80.
    UnsignedZero,
}

struct Format {
    name: &'static str,
    exponent_bits: u32,
    mantissa_bits: u32,
    bias: i32,
    special: Special,
}

#[rustfmt::skip]
const FORMATS: &[Format] = &[
    Format { name: "f64",         exponent_bits: 11, mantissa_bits: 52, bias: 1023, special: Special::Ieee },
    Format { name: "f32",         exponent_bits: 8,  mantissa_bits: 23, bias: 127,  special: Special::Ieee },
    Format { name: "f16",         exponent_bits: 5,  mantissa_bits: 10, bias: 15,   special: Special::Ieee },
    Format { name: "bf16",        exponent_bits: 8,  mantissa_bits: 7,  bias: 127,  special: Special::Ieee },
    Format { name: "f8_e4m3fnuz", exponent_bits: 4,  mantissa_bits: 3,  bias: 8,    special: Special::UnsignedZero },
    Format { name: "f8_e5m2fnuz", exponent_bits: 5,  mantissa_bits: 2,  bias: 16,   special: Special::UnsignedZero },
    Format { name: "f8_e4m3",     exponent_bits: 4,  mantissa_bits: 3,  bias: 7,    special: Special::Finite },
    Format { name: "f8_e5m2",     exponent_bits: 5,  mantissa_bits: 2,  bias: 15,   special: Special::Ieee },
];

enum Value {
    /// The mantissa aligned to 52 bits.
    Nan {
        negative: bool,
        mantissa: u64,
    },
    Number(f64),
}

impl Format {
    fn size_bytes(&self) -> usize {
        (1 + self.exponent_bits + self.mantissa_bits) as usize / 8
    }

    fn infinity(&self) -> u64 {
        ((1 << self.exponent_bits) - 1) << self.mantissa_bits
    }

    fn sign(&self) -> u64 {
        1 << (self.exponent_bits + self.mantissa_bits)
    }

    fn decode(&self, bits: u64) -> Value {
        let negative = bits & self.sign() != 0;
        let magnitude = bits & (self.sign() - 1);
        let mantissa = magnitude & ((1 << self.mantissa_bits) - 1);
        let exponent = (magnitude >> self.mantissa_bits) as i32;
        let signed = |v: f64| Value::Number(if negative { -v } else { v });
        match self.special {
            Special::Ieee if magnitude > self.infinity() => {
                return Value::Nan { negative, mantissa: mantissa << (52 - self.mantissa_bits) };
            }
            Special::Ieee if magnitude == self.infinity() => return signed(f64::INFINITY),
            Special::Finite if magnitude == self.sign() - 1 => {
                return Value::Nan { negative, mantissa: mantissa << (52 - self.mantissa_bits) };
            }
            Special::UnsignedZero if bits == self.sign() => {
                return Value::Nan { negative: false, mantissa: 0 };
            }
            _ => {}
        }
        if self.mantissa_bits == 52 {
            return Value::Number(f64::from_bits(bits));
        }
        let (whole, exponent) =
            if exponent == 0 { (mantissa, 1) } else { (mantissa | 1 << self.mantissa_bits, exponent) };
        signed(whole as f64 * power(exponent - self.bias - self.mantissa_bits as i32))
    }

    /// The nearest value's bits, and whether a finite value became Inf.
    fn encode(&self, value: Value) -> (u64, bool) {
        let number = match value {
            Value::Nan { negative, mantissa } => {
                let top = mantissa >> (52 - self.mantissa_bits) | 1 << (self.mantissa_bits - 1);
                let sign = u64::from(negative) * self.sign();
                return (sign | self.infinity() | top, false);
            }
            Value::Number(number) => number,
        };
        let sign = u64::from(number.is_sign_negative()) * self.sign();
        let size = number.abs();
        if size.is_infinite() {
            return (sign | self.infinity(), false);
        }
        // Anything below 2^-1022 is far below half the least value of any target.
        if size < f64::MIN_POSITIVE {
            return (sign, false);
        }
        let exponent = ((size.to_bits() >> 52) as i32 - 1023).max(1 - self.bias);
        let steps = (size * power(self.mantissa_bits as i32 - exponent)).round_ties_even() as u64;
        let bits = (((exponent + self.bias - 1) as u64) << self.mantissa_bits) + steps;
        if bits >= self.infinity() { (sign | self.infinity(), true) } else { (sign | bits, false) }
    }
}

/// 2^n, exactly.
fn power(n: i32) -> f64 {
    f64::from_bits(((n + 1023) as u64) << 52)
}

fn cast(
    from: &Format,
    to: &Format,
    [source, target, count, overflow]: [u64; 4],
    saturate: bool,
) -> Result<(), Code> {
    let (from_bytes, to_bytes) = (from.size_bytes(), to.size_bytes());
    if !source.is_multiple_of(from_bytes as u64)
        || !target.is_multiple_of(to_bytes as u64)
        || !overflow.is_multiple_of(8)
    {
        return violation(format!("cast_{}_{}: an address is not aligned", from.name, to.name))
            .map_err(|_: Code| 716);
    }
    let count = usize::try_from(count).map_err(|_| 700)?;
    if count == 0 {
        return Ok(());
    }
    let read = device_range(source, count.checked_mul(from_bytes).ok_or(700)?, "a cast's source")?;
    let write = device_range(target, count.checked_mul(to_bytes).ok_or(700)?, "a cast's target")?;
    let counter = if overflow == 0 { None } else { Some(device_range(overflow, 8, "a cast's counter")?) };
    let mut overflows = 0u64;
    for i in 0..count {
        let mut word = [0u8; 8];
        unsafe {
            std::ptr::copy_nonoverlapping(
                (read + i * from_bytes) as *const u8,
                word.as_mut_ptr(),
                from_bytes,
            );
        }
        let bits = u64::from_le_bytes(word);
        let (mut out, over) = match (from.name, to.name) {
            // Keeps every bit, also of a signalling NaN.
            ("bf16", "f32") => (bits << 16, false),
            _ => to.encode(from.decode(bits)),
        };
        if over {
            overflows += 1;
            if saturate {
                out -= 1;
            }
        }
        unsafe {
            std::ptr::copy_nonoverlapping(
                out.to_le_bytes().as_ptr(),
                (write + i * to_bytes) as *mut u8,
                to_bytes,
            );
        }
    }
    if let Some(counter) = counter {
        let counter = counter as *mut u64;
        unsafe { counter.write(counter.read().wrapping_add(overflows)) };
    }
    Ok(())
}
