//! Hashes of files that are there already: SHA-256, and git's SHA-1 of a blob, by which a hub names small files.

use super::transfer::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::run::job::Control;
use sha2::Digest as _;
use std::io::Read;
use std::path::Path;

/// Which hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Sha256,
    GitSha1,
}

/// Some of both.
enum State {
    Sha256(sha2::Sha256),
    GitSha1(sha1::Sha1),
}

impl State {
    fn new(kind: Kind, size_bytes: u64) -> State {
        match kind {
            Kind::Sha256 => State::Sha256(sha2::Sha256::new()),
            Kind::GitSha1 => {
                let mut state = sha1::Sha1::new();
                state.update(format!("blob {size_bytes}\0").as_bytes());
                State::GitSha1(state)
            }
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            State::Sha256(state) => state.update(bytes),
            State::GitSha1(state) => state.update(bytes),
        }
    }

    fn end(self) -> Digest {
        match self {
            State::Sha256(state) => Digest::Sha256(state.finalize().into()),
            State::GitSha1(state) => Digest::GitSha1(state.finalize().into()),
        }
    }
}

/// The hash of bytes.
pub(super) fn of_bytes(bytes: &[u8], kind: Kind) -> Digest {
    let mut state = State::new(kind, bytes.len() as u64);
    state.update(bytes);
    state.end()
}

/// The hash of a file.
///
/// # Errors
/// The system's. `Signal` where the job was cancelled.
pub(super) fn of_file(path: &Path, kind: Kind, control: &Control) -> Result<Digest> {
    let fail = |e| Error::io("cannot be read", e).file(path.display().to_string());
    let mut file = std::fs::File::open(path).map_err(fail)?;
    let mut state = State::new(kind, file.metadata().map_err(fail)?.len());
    let mut buffer = vec![0; 1 << 20];
    loop {
        if control.is_stopped() {
            return Err(Error::new(ErrorKind::Signal(2), "cancelled"));
        }
        match file.read(&mut buffer) {
            Ok(0) => return Ok(state.end()),
            Ok(n) => state.update(buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(fail(e)),
        }
    }
}

/// A hash from how it is written: 64 hex digits are SHA-256, 40 git's SHA-1.
pub(super) fn from_hex(text: &str) -> Option<Digest> {
    let mut bytes = Vec::with_capacity(32);
    for pair in text.as_bytes().chunks(2) {
        let digit = |b: Option<&u8>| char::from(*b?).to_digit(16);
        let byte = digit(pair.first())? << 4 | digit(pair.get(1))?;
        bytes.push(u8::try_from(byte).ok()?);
    }
    let sha256 = || <[u8; 32]>::try_from(bytes.as_slice()).ok().map(Digest::Sha256);
    let git = || <[u8; 20]>::try_from(bytes.as_slice()).ok().map(Digest::GitSha1);
    sha256().or_else(git)
}

/// The kind of a hash.
pub(super) fn kind(digest: &Digest) -> Kind {
    match digest {
        Digest::Sha256(_) => Kind::Sha256,
        Digest::GitSha1(_) => Kind::GitSha1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_hashes() {
        // `git hash-object` and `sha256sum` of the same bytes.
        for (bytes, kind, expected) in [
            (&b""[..], Kind::GitSha1, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
            (b"hello\n", Kind::GitSha1, "ce013625030ba8dba906f756967f9e9ca394464a"),
            (b"hello\n", Kind::Sha256, "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"),
        ] {
            let digest = of_bytes(bytes, kind);
            assert_eq!(digest.to_string(), expected);
            assert_eq!(from_hex(expected), Some(digest));
        }
        for text in ["", "e6", "g".repeat(40).as_str(), "é9de29bb2d1d6434b8b29ae775ad8c2e48c539"] {
            assert_eq!(from_hex(text), None, "{text}");
        }
    }
}
