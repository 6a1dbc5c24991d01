//! Reading numbers and strings from the front of a file, of which only a first part may be known.

use crate::checkpoint::ByteOrder;
use crate::error::Error;
use crate::format::HEADER_BYTES_MAX;
use crate::text::{Shown, grouped};

/// Why reading stopped.
#[derive(Debug)]
pub(super) enum Stop {
    /// The bytes up to this offset are needed to go on. They lie inside the file.
    Need(u64),
    /// The file is refused.
    Fail(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Fail(error)
    }
}

impl Stop {
    /// Adds what is known of the place to an error, and leaves a wish alone.
    pub(super) fn explain(self, how: impl FnOnce(Error) -> Error) -> Stop {
        match self {
            Stop::Fail(error) => Stop::Fail(how(error)),
            need => need,
        }
    }
}

/// What reading gives.
pub(super) type Take<T> = Result<T, Stop>;

/// A place in the header.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    known: &'a [u8],
    at: u64,
    file_size_bytes: u64,
    /// Byte order of all numbers.
    pub(super) order: ByteOrder,
    /// Version 1: counts, lengths and dimensions are u32.
    pub(super) narrow: bool,
    /// Names that ended with NULs, which were taken off.
    pub(super) trimmed_names: u64,
}

impl<'a> Cursor<'a> {
    /// The start of a file whose first bytes are known.
    pub(super) fn new(known: &'a [u8], file_size_bytes: u64) -> Cursor<'a> {
        Cursor { known, at: 0, file_size_bytes, order: ByteOrder::Little, narrow: false, trimmed_names: 0 }
    }

    /// The offset of the next byte.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The size of the whole file.
    pub(super) fn file_size_bytes(&self) -> u64 {
        self.file_size_bytes
    }

    /// Bytes that are known from here on.
    pub(super) fn known_bytes(&self) -> u64 {
        (self.known.len() as u64).saturating_sub(self.at)
    }

    /// Known bytes that were already read.
    pub(super) fn since(&self, start: u64) -> &'a [u8] {
        let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        self.known.get(index(start)..index(self.at)).unwrap_or(&[])
    }

    /// The next `size_bytes` bytes; `what` names them in the message where the file has fewer.
    pub(super) fn bytes(&mut self, size_bytes: u64, what: &str) -> Take<&'a [u8]> {
        let end = match self.at.checked_add(size_bytes) {
            Some(end) if end <= self.file_size_bytes => end,
            _ => {
                let end = u128::from(self.at) + u128::from(size_bytes);
                let end = u64::try_from(end).map_or_else(|_| end.to_string(), grouped);
                let size = grouped(self.file_size_bytes);
                return Err(Stop::Fail(
                    Error::bad_input(format!("{what} ends at byte {end} but the file has {size}"))
                        .at(self.at)
                        .detail("the file was probably cut short, or its header is damaged"),
                ));
            }
        };
        if end > HEADER_BYTES_MAX {
            let message =
                format!("the header reaches beyond byte {}, the most hoist reads", grouped(HEADER_BYTES_MAX));
            return Err(Stop::Fail(Error::unsupported(message).at(self.at)));
        }
        let range = usize::try_from(self.at).ok().zip(usize::try_from(end).ok());
        let bytes = range.and_then(|(start, end)| self.known.get(start..end)).ok_or(Stop::Need(end))?;
        self.at = end;
        Ok(bytes)
    }

    /// Refuses a count of things, as `says` has it, of which each takes at least `each_bytes` when the file has no room
    /// for so many. To be asked before anything is reserved or walked.
    pub(super) fn room_for(&self, count: u64, each_bytes: u64, says: &str, things: &str) -> Take<()> {
        let left = self.file_size_bytes.saturating_sub(self.at);
        let needed = u128::from(count) * u128::from(each_bytes);
        if needed <= u128::from(left) {
            return Ok(());
        }
        let needed = u64::try_from(needed).map_or_else(|_| needed.to_string(), grouped);
        let message = format!(
            "{says} says {} {things}, which need {needed} bytes or more, but the file has {} after that",
            grouped(count),
            grouped(left)
        );
        Err(Stop::Fail(
            Error::bad_input(message)
                .at(self.at)
                .detail("the file was probably cut short, or its header is damaged"),
        ))
    }

    /// A number's bytes, least significant first.
    pub(super) fn number<const N: usize>(&mut self, what: &str) -> Take<[u8; N]> {
        let mut number = [0; N];
        for (to, from) in number.iter_mut().zip(self.bytes(N as u64, what)?) {
            *to = *from;
        }
        if self.order == ByteOrder::Big {
            number.reverse();
        }
        Ok(number)
    }

    pub(super) fn u32(&mut self, what: &str) -> Take<u32> {
        self.number(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Take<u64> {
        self.number(what).map(u64::from_le_bytes)
    }

    /// A count, a length or a dimension: u64, and u32 in version 1.
    pub(super) fn size(&mut self, what: &str) -> Take<u64> {
        if self.narrow { self.u32(what).map(u64::from) } else { self.u64(what) }
    }

    /// Bytes of a [`Cursor::size`].
    pub(super) fn size_width(&self) -> u64 {
        if self.narrow { 4 } else { 8 }
    }

    /// A string: its length and its bytes.
    pub(super) fn text(&mut self, what: &str) -> Take<&'a [u8]> {
        let size_bytes = self.size(what)?;
        self.bytes(size_bytes, what)
    }

    /// A name that must be UTF-8 and no longer than GGUF allows. A few writers end theirs as C does; elsewhere a NUL is
    /// refused, because readers in C and all others would see two different names.
    pub(super) fn name(&mut self, what: &str) -> Take<&'a str> {
        let start = self.at;
        let size_bytes = self.size(what)?;
        let refused = |message: String| Stop::Fail(Error::bad_input(message).at(start));
        if size_bytes > NAME_BYTES_MAX {
            let (found, most) = (grouped(size_bytes), grouped(NAME_BYTES_MAX));
            return Err(refused(format!("{what} is {found} bytes long; names in GGUF have at most {most}")));
        }
        let bytes = self.bytes(size_bytes, what)?;
        let name = std::str::from_utf8(bytes).map_err(|_| {
            let shown = String::from_utf8_lossy(bytes);
            refused(format!("{what} `{}` is not UTF-8", Shown(&shown)))
        })?;
        let trimmed = name.trim_end_matches('\0');
        if trimmed.contains('\0') {
            return Err(refused(format!("{what} `{}` has a NUL inside", Shown(trimmed))));
        }
        self.trimmed_names += u64::from(trimmed.len() < name.len());
        Ok(trimmed)
    }
}

/// The most bytes of a key (GGUF's specification), taken for tensor names too.
const NAME_BYTES_MAX: u64 = 65_535;
