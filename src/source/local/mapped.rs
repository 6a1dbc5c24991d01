//! A file as memory: mapped, and every page made present in parallel before anybody looks.
//!
//! The contract of a map is that nobody shortens the file while it is in use. Populating finds a file that was
//! truncated or cannot be read before that, as an error; later, only the handler of SIGBUS in the binary can say so.
#![allow(unsafe_code)]

use super::LocalFile;
use crate::error::{Error, Result};
use crate::source::ReadAt;
use memmap2::{Mmap, MmapOptions};
use std::ops::Range;

/// A whole file, mapped read-only.
#[derive(Debug)]
pub struct Mapped {
    map: Mmap,
    name: String,
}

impl Mapped {
    /// Maps a file. Nothing is present yet.
    pub fn new(file: &LocalFile) -> Result<Mapped> {
        let name = file.path().display().to_string();
        let too_large = || Error::unsupported("is larger than this machine's addresses").file(&name);
        let size = usize::try_from(file.size_bytes()).map_err(|_| too_large())?;
        // SAFETY: the map is read-only. That the file does not shrink or change while it is mapped is promised by
        // whoever asked for a mapped load, and said in its documentation; the identity is checked around the load.
        let map = unsafe { MmapOptions::new().len(size).map(file.file()) };
        let map = map.map_err(|e| Error::io("cannot be mapped", e).file(&name))?;
        Ok(Mapped { map, name })
    }

    /// The bytes of a range; empty where it leaves the file.
    pub fn bytes(&self, range: Range<u64>) -> &[u8] {
        crate::buf::usize_range(range).and_then(|r| self.map.get(r)).unwrap_or(&[])
    }

    /// Makes the pages of a range present. An error is the file's: I/O, or that it has become shorter.
    pub fn populate(&self, range: Range<u64>) -> Result<()> {
        let page = super::page_bytes();
        let start = range.start - range.start % page;
        let end = range.end.min(self.map.len() as u64);
        let Some(range) = crate::buf::usize_range(start..end).filter(|r| !r.is_empty()) else {
            return Ok(());
        };
        #[cfg(target_os = "linux")]
        {
            let address = self.map[range.start..].as_ptr() as *mut libc::c_void;
            // SAFETY: the range lies inside the map; the advice only makes pages present.
            let result = unsafe { libc::madvise(address, range.len(), libc::MADV_POPULATE_READ) };
            if result == 0 {
                return Ok(());
            }
            let error = std::io::Error::last_os_error();
            match error.raw_os_error() {
                // Before Linux 5.14.
                Some(libc::EINVAL) => {}
                Some(libc::EFAULT) => {
                    let message =
                        "cannot be read: an I/O error, or the file became shorter while it was mapped";
                    return Err(Error::new(crate::error::ErrorKind::Io, message)
                        .file(&self.name)
                        .at(range.start as u64));
                }
                _ => return Err(Error::io("cannot be read", error).file(&self.name).at(range.start as u64)),
            }
        }
        let mut sum = 0u8;
        for page in self.map[range].chunks(page as usize) {
            sum = sum.wrapping_add(page[0]);
        }
        std::hint::black_box(sum);
        Ok(())
    }
}
