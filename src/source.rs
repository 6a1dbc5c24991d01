//! Sources: where bytes come from. Each knows how to read at an offset through a shared reference, and declares its
//! temper: what it likes to be asked.

#[cfg(feature = "http")]
pub mod ahead;
#[cfg(feature = "http")]
pub mod http;
pub mod hub;
pub mod local;
#[cfg(feature = "object")]
pub mod object;
#[cfg(feature = "http")]
pub mod ranged;
pub mod stop;

use crate::error::{Error, Result};
use crate::text::grouped;
use local::LocalFile;
use std::fmt::Debug;
use std::io::IoSliceMut;
use std::path::Path;
use std::sync::Arc;

/// How a source likes to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Temper {
    /// The largest gap worth reading over rather than asking twice.
    pub gap_bytes_max: u64,
    /// Requests worth having in flight at once.
    pub depth: u32,
    /// Whether it lies across a network, so that many readers beat alignment.
    pub network: bool,
}

/// Bytes by offset, through a shared reference, from any thread.
pub trait ReadAt: Send + Sync + Debug {
    /// The size now, as it was when the source was opened.
    fn size_bytes(&self) -> u64;

    /// Reads up to `buf.len()` bytes at `offset_bytes`; fewer only at the end.
    fn read_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<usize>;

    /// How it likes to be read.
    fn temper(&self) -> Temper;

    /// The local file behind it, where there is one.
    fn as_local(&self) -> Option<&LocalFile>;

    /// What tells this version of a file that lies beyond a network from others of its name (an ETag, a commit), where the
    /// server says. A local file's are its size and its time of change.
    fn version(&self) -> Option<&str> {
        None
    }

    /// Reads exactly `buf.len()` bytes; a file that ends before them has shrunk.
    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match self.read_at(&mut buf[done..], offset_bytes + done as u64)? {
                0 => {
                    let end = offset_bytes + done as u64;
                    let message = format!(
                        "ended at byte {} where it had {} when it was opened",
                        grouped(end),
                        grouped(self.size_bytes())
                    );
                    return Err(Error::bad_input(message)
                        .at(end)
                        .detail("the file changed while it was read"));
                }
                n => done += n,
            }
        }
        Ok(())
    }

    /// Fills several buffers, one after the other, at one go where the source can. A file that ends before them has shrunk.
    fn read_vectored_at(&self, buffers: &mut [IoSliceMut<'_>], offset_bytes: u64) -> Result<()> {
        read_each_at(self, buffers, offset_bytes)
    }
}

/// Fills several buffers, each by itself.
fn read_each_at(
    file: &(impl ReadAt + ?Sized),
    buffers: &mut [IoSliceMut<'_>],
    offset_bytes: u64,
) -> Result<()> {
    let mut at = offset_bytes;
    for buffer in buffers {
        file.read_exact_at(buffer, at)?;
        at += buffer.len() as u64;
    }
    Ok(())
}

/// The most bytes between pieces that one read of them passes over.
const PASSED_BYTES_MAX: u64 = 4 << 20;

/// Reads several pieces of a file, each into its place. Where each read crosses a network, pieces that lie near each other
/// come with one.
pub fn read_pieces(file: &dyn ReadAt, mut pieces: Vec<(u64, &mut [u8])>) -> Result<()> {
    let Temper { network, gap_bytes_max, .. } = file.temper();
    if !network || file.as_local().is_some() || pieces.len() < 2 {
        return pieces.into_iter().try_for_each(|(at, piece)| file.read_exact_at(piece, at));
    }
    pieces.sort_by_key(|(at, _)| *at);
    let mut passed = Vec::new();
    let mut pieces = pieces.into_iter().peekable();
    while let Some((start, first)) = pieces.next() {
        let mut end = start + first.len() as u64;
        let mut group = vec![(0, first)];
        let mut gaps_bytes = 0;
        // Pieces that share bytes are not of one read.
        while let Some((at, piece)) = pieces.next_if(|(at, _)| {
            at.checked_sub(end)
                .is_some_and(|gap| gap <= gap_bytes_max && gaps_bytes + gap <= PASSED_BYTES_MAX)
        }) {
            gaps_bytes += at - end;
            group.push(((at - end) as usize, piece));
            end = at + group.last().map_or(0, |(_, piece)| piece.len() as u64);
        }
        passed.resize(gaps_bytes as usize, 0);
        let mut rest = passed.as_mut_slice();
        let mut buffers = Vec::with_capacity(group.len() * 2);
        for (gap, piece) in group {
            let (gap, after) = std::mem::take(&mut rest).split_at_mut(gap);
            rest = after;
            if !gap.is_empty() {
                buffers.push(IoSliceMut::new(gap));
            }
            buffers.push(IoSliceMut::new(piece));
        }
        file.read_vectored_at(&mut buffers, start)?;
    }
    Ok(())
}

/// A URL as it may be shown: what is behind `?` may be a signature, and what is before `@` a password.
pub fn without_secrets(url: &str) -> String {
    let url = url.split('?').next().unwrap_or(url);
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    match rest.split_once('@') {
        Some((user, place)) if user.contains(':') => format!("…@{place}"),
        _ => url.to_owned(),
    }
}

/// A name that a place lists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The path relative to the place, with `/`.
    pub name: String,
    /// The size, where the listing tells it.
    pub size_bytes: u64,
    /// Whether it is a directory.
    pub is_directory: bool,
}

/// A directory, a prefix, a repo's tree: lists and opens.
pub trait Place: Send + Sync + Debug {
    /// What is in it: files and directories of the top, or of `under` (a directory's name as listed), sorted by name.
    fn list(&self, under: &str) -> Result<Vec<Entry>>;

    /// Opens a file by its listed name. Names that leave the place are refused.
    fn open(&self, name: &str) -> Result<Arc<dyn ReadAt>>;

    /// The directory that it is, where it is one of this machine.
    fn directory(&self) -> Option<&Path> {
        None
    }

    /// Whether what it lists is all there is. A web server has no listing: what is there is found out by asking.
    fn is_listed(&self) -> bool {
        true
    }
}
