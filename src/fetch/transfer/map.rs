//! The chunk map: which units of a partial file are there, kept beside it.
//!
//! A unit is 256 KiB, and its entry is a mark and CRC-32 of its bytes, written after them; zero says that it is missing. An
//! entry is a claim and no more: before a later run counts a claimed unit as there it reads it, which its hash needs
//! anyway, and compares. So the order in which data and map reach the disk does not matter, and neither a lost power
//! supply nor a damaged map can make bytes pass for what they are not: what does not fit its entry is fetched again.
//! Nothing is synced for the map's sake. After `kill -9` the page cache holds every unit whose entry was written.
//!
//! The head says which content the map is of ([`key`]). A map of other content, of another size, cut short or damaged in
//! its head is dropped, and its partial file with it.

use super::{Digest, Item};
use crate::error::{Error, Result};
use crate::sink::file::{read_exact_at, shown, write_all_at};
use sha2::{Digest as _, Sha256};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// The unit of what is there and what is not.
pub(super) const UNIT_BYTES: u64 = 256 << 10;

const MAGIC: [u8; 8] = *b"hoistmap";
const FORMAT: u32 = 1;
/// Magic, format, unit, size, key, and xxh3 of these.
const HEAD_BYTES: usize = 8 + 4 + 4 + 8 + 32 + 8;
const ENTRY_BYTES: u64 = 8;
/// What an entry of a unit that is there has above its CRC-32.
const THERE: u64 = 0x746e_6974_0000_0000;

/// Which content a map is of.
pub(super) type Key = [u8; 32];

/// Units of so many bytes.
pub(super) fn unit_count(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(UNIT_BYTES)
}

/// What the entry of a unit says: never zero. CRC-32 is the cheapest check here (the processor has it), and what it lets
/// through by accident, the hash of the whole does not.
pub(super) fn check_of(unit: &[u8]) -> u64 {
    THERE | u64::from(crc32fast::hash(unit))
}

/// The name of the map of a partial file.
pub(super) fn path_of(partial: &Path) -> PathBuf {
    let mut name = partial.as_os_str().to_owned();
    name.push(".map");
    name.into()
}

/// Which content an item is, where that can be said at all: the hash that is expected, else the version that the source
/// tells.
pub(super) fn key(item: &Item) -> Option<Key> {
    let mut hash = Sha256::new();
    hash.update(item.size_bytes.to_le_bytes());
    match (&item.expected, item.from.version()) {
        (Some(Digest::Sha256(digest)), _) => {
            hash.update(b"sha256");
            hash.update(digest);
        }
        (Some(Digest::GitSha1(digest)), _) => {
            hash.update(b"git");
            hash.update(digest);
        }
        (None, Some(version)) => {
            hash.update(b"version");
            hash.update((item.from.name().len() as u64).to_le_bytes());
            hash.update(item.from.name());
            hash.update(version);
        }
        (None, None) => return None,
    }
    Some(hash.finalize().into())
}

fn head(size_bytes: u64, key: &Key) -> [u8; HEAD_BYTES] {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    head.extend_from_slice(&MAGIC);
    head.extend_from_slice(&FORMAT.to_le_bytes());
    head.extend_from_slice(&(UNIT_BYTES as u32).to_le_bytes());
    head.extend_from_slice(&size_bytes.to_le_bytes());
    head.extend_from_slice(key);
    head.extend_from_slice(&xxh3_64(&head).to_le_bytes());
    let mut whole = [0; HEAD_BYTES];
    whole.copy_from_slice(&head);
    whole
}

/// Opens a regular file for reading and writing; a link is not followed.
pub(super) fn open_existing(path: &Path) -> Option<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path).ok()?;
    file.metadata().ok()?.is_file().then_some(file)
}

/// A map that is written.
#[derive(Debug)]
pub(super) struct Map {
    file: File,
    path: PathBuf,
}

impl Map {
    /// A new one, without entries, in the place of any other.
    pub(super) fn create(path: PathBuf, size_bytes: u64, key: &Key) -> Result<Map> {
        let fail = |e| Error::io("cannot be created", e).file(shown(&path));
        // Removed first and never followed: what lies there may be a link.
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(fail(e)),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(fail)?;
        file.set_len(HEAD_BYTES as u64 + ENTRY_BYTES * unit_count(size_bytes)).map_err(fail)?;
        write_all_at(&file, &head(size_bytes, key), 0).map_err(fail)?;
        Ok(Map { file, path })
    }

    /// The map at `path` and its entries, if it is whole and of this content.
    pub(super) fn open(path: &Path, size_bytes: u64, key: &Key) -> Option<(Map, Vec<u64>)> {
        let count = unit_count(size_bytes);
        let file = open_existing(path)?;
        let expected_bytes = count.checked_mul(ENTRY_BYTES)?.checked_add(HEAD_BYTES as u64)?;
        if file.metadata().ok()?.len() != expected_bytes {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(expected_bytes).ok()?];
        read_exact_at(&file, &mut bytes, 0).ok()?;
        let (found, entries) = bytes.split_at_checked(HEAD_BYTES)?;
        if found != head(size_bytes, key) {
            return None;
        }
        let entries = entries.as_chunks::<8>().0.iter().map(|entry| u64::from_le_bytes(*entry)).collect();
        Some((Map { file, path: path.to_owned() }, entries))
    }

    /// Writes the entry of a unit whose bytes are written.
    pub(super) fn record(&self, unit: u64, check: u64) -> Result<()> {
        write_all_at(&self.file, &check.to_le_bytes(), HEAD_BYTES as u64 + ENTRY_BYTES * unit)
            .map_err(|e| Error::io("cannot be written", e).file(shown(&self.path)))
    }
}
