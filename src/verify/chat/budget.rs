//! What a template may cost: bytes made, and steps taken inside one operation.
//!
//! minijinja counts instructions, and an instruction may copy a text or walk a list of any size. So everything that
//! makes a value says here beforehand how large it is to be. Nothing is ever given back: the sum of all that was made
//! bounds what is alive.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes that any template may make, and more for each byte that it is given.
const MADE_BYTES: u64 = 64 << 20;
const MADE_PER_INPUT_BYTE: u64 = 256;
/// Values that may be looked at inside of operations, and more for each byte of input.
const STEPS: u64 = 4_000_000;
const STEPS_PER_INPUT_BYTE: u64 = 16;
/// An entry of a list or a map.
pub(super) const ENTRY_BYTES: usize = 32;
/// Values inside one another.
const DEPTH_MAX: usize = 64;

/// Why rendering ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Something that is not rendered here, or too much of it.
    Refused,
    /// What fails in Python as well.
    Failed,
    /// `raise_exception`.
    Raised,
}

/// The cause, as it travels in minijinja's error.
#[derive(Debug)]
pub(super) struct Mark(pub(super) Cause);

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::error::Error for Mark {}

fn error(cause: Cause, message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message).with_source(Mark(cause))
}

pub(super) fn refused(message: impl Into<String>) -> Error {
    error(Cause::Refused, message.into())
}

pub(super) fn failed(message: impl Into<String>) -> Error {
    error(Cause::Failed, message.into())
}

pub(super) fn raised(message: impl Into<String>) -> Error {
    error(Cause::Raised, message.into())
}

/// What is left to a template.
#[derive(Debug)]
pub(super) struct Budget {
    bytes: AtomicU64,
    steps: AtomicU64,
}

impl Budget {
    pub(super) fn new(input_bytes: usize) -> Budget {
        let input_bytes = input_bytes as u64;
        let of = |base: u64, more: u64| AtomicU64::new(base.saturating_add(input_bytes.saturating_mul(more)));
        Budget { bytes: of(MADE_BYTES, MADE_PER_INPUT_BYTE), steps: of(STEPS, STEPS_PER_INPUT_BYTE) }
    }

    /// Says that so many bytes are to be made.
    pub(super) fn bytes(&self, count: usize) -> Result<(), Error> {
        spend(&self.bytes, count, "it makes texts and lists that have no end")?;
        self.steps(count / 64)
    }

    /// Says that so many entries of a list or a map are to be made.
    pub(super) fn entries(&self, count: usize) -> Result<(), Error> {
        self.bytes(count.saturating_mul(ENTRY_BYTES))
    }

    /// Says that so many values are to be looked at.
    pub(super) fn steps(&self, count: usize) -> Result<(), Error> {
        spend(&self.steps, count, "it takes more steps than a template may")
    }

    /// A value that goes into another, a list or a namespace: plain data, of bounded depth. Iterators, macros and
    /// namespaces cannot, for neither their depth nor their end can be told.
    pub(super) fn plain(&self, value: &Value) -> Result<(), Error> {
        self.plain_at(value, 0)
    }

    fn plain_at(&self, value: &Value, depth: usize) -> Result<(), Error> {
        self.steps(1)?;
        if depth >= DEPTH_MAX {
            return Err(refused(format!("it has more than {DEPTH_MAX} values one in another")));
        }
        match value.kind() {
            ValueKind::Undefined
            | ValueKind::None
            | ValueKind::Bool
            | ValueKind::Number
            | ValueKind::String => Ok(()),
            ValueKind::Seq => value.try_iter()?.try_for_each(|item| self.plain_at(&item, depth + 1)),
            ValueKind::Map if !is_object(value) => {
                value.try_iter()?.try_for_each(|key| self.plain_at(&value.get_item(&key)?, depth + 1))
            }
            _ => Err(refused(format!("{} inside another value", a(value)))),
        }
    }
}

fn spend(left: &AtomicU64, count: usize, message: &str) -> Result<(), Error> {
    let spent = left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(count as u64));
    spent.map(|_| ()).map_err(|_| refused(message))
}

/// Whether a value with entries is an object of the language, a namespace, a loop or a macro, and no mapping. minijinja has
/// no other way to tell.
pub(super) fn is_object(value: &Value) -> bool {
    value.kind() == ValueKind::Map
        && value.as_object().is_some_and(|object| {
            let name = object.type_name();
            name.ends_with("::Namespace") || name.contains("::vm::")
        })
}

/// What a value is, with an article.
pub(super) fn a(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined => "an undefined value",
        ValueKind::None => "`None`",
        ValueKind::Bool => "a truth value",
        ValueKind::Number => "a number",
        ValueKind::String => "a text",
        ValueKind::Seq => "a list",
        ValueKind::Map if is_object(value) => "an object",
        ValueKind::Map => "a mapping",
        ValueKind::Iterable => "an iterator",
        _ => "an object",
    }
}
