//! One error type for the whole crate. The kind is the exit code; the rest answers which file, which tensor, at
//! which byte, what was expected against what was found, and what to do.

use crate::text::Shown;
use std::fmt;
use std::io;
use std::time::Duration;

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// ELOOP of this system: links in a circle.
#[cfg(unix)]
const LINK_LOOP: i32 = libc::ELOOP;
#[cfg(not(unix))]
const LINK_LOOP: i32 = i32::MIN;

/// What went wrong, one variant per exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Corrupt, truncated or refused input; an output that exists and is not ours; a cast that overflows.
    BadInput,
    /// An unknown flag, a choice that is needed and was not made, values that contradict each other.
    Usage,
    /// A file, repo, revision, tensor or pattern that is not there.
    NotFound,
    /// Permissions or a token.
    NotAllowed,
    /// I/O or network; worth a retry.
    Io,
    /// Rate limited; worth a retry.
    RateLimited,
    /// A hash or a comparison of contents differs.
    Integrity,
    /// No space on disk, no memory on the host or the device.
    NoSpace,
    /// A format, type or architecture that hoist knows of and does not handle.
    Unsupported,
    /// The driver or the GPU.
    Driver,
    /// A check of `verify` failed, or `diff` found a difference.
    CheckFailed,
    /// Whoever read our output went away.
    ClosedPipe,
    /// A signal asked us to stop.
    Signal(u8),
}

impl ErrorKind {
    /// The process's exit code for this kind.
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorKind::BadInput => 1,
            ErrorKind::Usage => 2,
            ErrorKind::NotFound => 3,
            ErrorKind::NotAllowed => 4,
            ErrorKind::Io => 5,
            ErrorKind::RateLimited => 6,
            ErrorKind::Integrity => 7,
            ErrorKind::NoSpace => 8,
            ErrorKind::Unsupported => 9,
            ErrorKind::Driver => 10,
            ErrorKind::CheckFailed => 11,
            ErrorKind::ClosedPipe => 141,
            ErrorKind::Signal(n) => 128u8.saturating_add(n),
        }
    }

    /// Whether the same may succeed a little later.
    pub fn is_worth_a_retry(self) -> bool {
        matches!(self, ErrorKind::Io | ErrorKind::RateLimited)
    }
}

/// An error of any part of hoist. Parsers give tensor and offset; `open` adds the file.
pub struct Error(Box<Facts>);

#[derive(Debug)]
struct Facts {
    kind: ErrorKind,
    file: Option<String>,
    tensor: Option<String>,
    offset_bytes: Option<u64>,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    source: Option<io::Error>,
    retry_after: Option<Duration>,
}

impl Error {
    /// An error of `kind`. The message has no full stop and shows values in backticks. When a tensor is added, the
    /// message is read as a predicate after its name: "ends at byte 12 but the file has 8".
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Box::new(Facts {
            kind,
            file: None,
            tensor: None,
            offset_bytes: None,
            message: message.into(),
            detail: None,
            hint: None,
            source: None,
            retry_after: None,
        }))
    }

    /// Something that cannot be, unless hoist itself is wrong.
    pub fn bug(what: impl Into<String>) -> Error {
        Error::new(ErrorKind::BadInput, what).detail("this is a bug of hoist")
    }

    /// Corrupt, truncated or refused input.
    pub fn bad_input(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::BadInput, message)
    }

    /// Something recognised and not handled.
    pub fn unsupported(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Unsupported, message)
    }

    /// The caller asked for something that makes no sense.
    pub fn usage(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Usage, message)
    }

    /// Something that is not there.
    pub fn not_found(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::NotFound, message)
    }

    /// An error of the operating system, its kind taken from the code.
    pub fn io(doing: impl Into<String>, source: io::Error) -> Error {
        let kind = match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::NotAllowed,
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::OutOfMemory => ErrorKind::NoSpace,
            io::ErrorKind::BrokenPipe => ErrorKind::ClosedPipe,
            // What no retry mends: a folder in place of a file, a name that is none, links in a circle.
            io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::InvalidFilename
            | io::ErrorKind::InvalidInput => ErrorKind::BadInput,
            _ if cfg!(unix) && source.raw_os_error() == Some(LINK_LOOP) => ErrorKind::BadInput,
            _ => ErrorKind::Io,
        };
        let mut error = Error::new(kind, doing);
        error.0.source = Some(source);
        error
    }

    /// Names the file, unless one is named already.
    pub fn file(mut self, name: impl Into<String>) -> Error {
        self.0.file.get_or_insert_with(|| name.into());
        self
    }

    /// Names the tensor, unless one is named already.
    pub fn tensor(mut self, name: impl Into<String>) -> Error {
        self.0.tensor.get_or_insert_with(|| name.into());
        self
    }

    /// Says at which byte of the file, unless that is known already.
    pub fn at(mut self, offset_bytes: u64) -> Error {
        self.0.offset_bytes.get_or_insert(offset_bytes);
        self
    }

    /// A second line: what this means.
    pub fn detail(mut self, detail: impl Into<String>) -> Error {
        self.0.detail.get_or_insert_with(|| detail.into());
        self
    }

    /// A last line: what to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.0.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Another hint than the one it has: what to do depends on what was wanted.
    pub fn hint_instead(mut self, hint: impl Into<String>) -> Error {
        self.0.hint = Some(hint.into());
        self
    }

    /// How long a server asked to wait before another attempt.
    pub fn after(mut self, wait: Duration) -> Error {
        self.0.retry_after = Some(wait);
        self
    }

    /// Another kind: what is refused where a file is read is what a check of it finds.
    pub fn kind_instead(mut self, kind: ErrorKind) -> Error {
        self.0.kind = kind;
        self
    }

    /// The kind, which is the exit code.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// How long a server asked to wait before another attempt, where it did.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The file, where one is known.
    pub fn file_name(&self) -> Option<&str> {
        self.0.file.as_deref()
    }

    /// The tensor, where one is known.
    pub fn tensor_name(&self) -> Option<&str> {
        self.0.tensor.as_deref()
    }

    /// The byte of the file, where it is known.
    pub fn offset_bytes(&self) -> Option<u64> {
        self.0.offset_bytes
    }

    /// What to do, where there is something.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

/// The whole message: one line, then detail and hint on lines of their own, indented by two.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Facts { file, tensor, offset_bytes, message, detail, hint, source, .. } = &*self.0;
        if let Some(file) = file {
            write!(f, "{}: ", Shown(file))?;
        }
        if let Some(tensor) = tensor {
            write!(f, "tensor `{}` ", Shown(tensor))?;
        }
        f.write_str(message)?;
        if let Some(offset) = offset_bytes {
            write!(f, " (at byte {})", crate::text::grouped(*offset))?;
        }
        if let Some(source) = source {
            write!(f, ": {source}")?;
        }
        if let Some(detail) = detail {
            write!(f, "\n  {detail}")?;
        }
        if let Some(hint) = hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_one_sentence() {
        let e = Error::bad_input("ends at byte 12 but the file has 8")
            .tensor("a\nb")
            .file("x.safetensors")
            .file("ignored")
            .detail("the file was probably cut short")
            .hint("fetch it again");
        assert_eq!(
            e.to_string(),
            "x.safetensors: tensor `a\\u{a}b` ends at byte 12 but the file has 8\n  the file was probably cut short\n  hint: fetch it again"
        );
        assert_eq!(e.kind().exit_code(), 1);
        assert!(size_of::<Error>() == size_of::<usize>());
    }
}
