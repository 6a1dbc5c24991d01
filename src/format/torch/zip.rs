//! The zip container as torch writes it: where each member's bytes lie.
//!
//! A zip is read from its end. The end record (and its 64-bit twin) says where the directory is; the directory says
//! each member's size and where its local header begins; only the local header says how long it is itself, and so where
//! the data begins (torch pads it there to 64 bytes). Sizes are taken from the directory: torch leaves them out of
//! local headers. Members are stored as they are, else they could not be read by range.
//!
//! Zips have a history of meaning different things to different readers. So everything that is said twice must agree,
//! and whatever could be read in two ways is refused: two end records, two members of one name, members that overlap.
//! Layout: PKWARE APPNOTE 6.3.10, §4.3 and §4.5.3.

use crate::error::{Error, Result};
use crate::format::{Known, Step};
use crate::text::{Shown, grouped};
use std::collections::HashMap;
use std::ops::Range;

pub(super) const END: &[u8; 4] = b"PK\x05\x06";
const END_BYTES: u64 = 22;
pub(super) const END64: &[u8; 4] = b"PK\x06\x06";
const END64_BYTES: u64 = 56;
pub(super) const LOCATOR64: &[u8; 4] = b"PK\x06\x07";
const LOCATOR64_BYTES: u64 = 20;
pub(super) const CENTRAL: &[u8; 4] = b"PK\x01\x02";
pub(super) const LOCAL: &[u8; 4] = b"PK\x03\x04";
const LOCAL_BYTES: u64 = 30;
/// The most that may stand from the 64-bit end record to the end: a comment is at most 65,535 bytes.
const TAIL_BYTES: u64 = END64_BYTES + LOCATOR64_BYTES + END_BYTES + 0xffff;
/// The largest directory that is read. A member takes at least 46 bytes there.
const DIRECTORY_BYTES_MAX: u64 = 64 << 20;
/// What is asked for beyond a local header's fixed part and name: torch's padding and a 64-bit extra field fit.
const LOCAL_EXTRA_BYTES: u64 = 100;

const FLAGS_ENCRYPTED: u16 = 1 | 1 << 6 | 1 << 13;
const FLAG_SIZES_FOLLOW: u16 = 1 << 3;

/// A member, as the directory has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    /// Its whole name.
    pub(super) name: &'a [u8],
    /// CRC-32 of its bytes; zero may mean that none was computed.
    pub(super) crc32: u32,
    /// Its size.
    pub(super) size_bytes: u64,
    flags: u16,
    method: u16,
    header_bytes: u64,
    /// Where the next member, or the directory, begins.
    limit_bytes: u64,
}

/// The directory.
#[derive(Debug)]
pub(super) struct Directory<'a> {
    /// In its own order.
    pub(super) entries: Vec<Entry<'a>>,
    by_name: HashMap<&'a [u8], usize>,
}

/// Little-endian fields, in order. Missing bytes are an error of the caller's, told by `None`.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, size: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(size)?;
        self.0 = rest;
        Some(head)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
}

fn damaged(why: impl Into<String>) -> Error {
    Error::bad_input(format!("the zip is damaged: {}", why.into()))
}

fn shown(name: &[u8]) -> String {
    Shown(&String::from_utf8_lossy(name)).to_string()
}

/// What the end records say.
struct End {
    count: u64,
    directory: Range<u64>,
}

impl<'a> Directory<'a> {
    /// Reads the directory, or says what is missing for it.
    pub(super) fn read(known: &'a Known) -> Result<Step<Directory<'a>>> {
        let size = known.size_bytes();
        let tail = size.saturating_sub(TAIL_BYTES)..size;
        let bytes = match known.want(tail.clone(), "the zip's end record")? {
            Ok(bytes) => bytes,
            Err(wish) => return Ok(Step::Need(vec![wish])),
        };
        let end = match find_end(known, bytes, tail.start)? {
            Ok(end) => end,
            Err(wish) => return Ok(Step::Need(vec![wish])),
        };
        let directory_bytes = end.directory.end - end.directory.start;
        if directory_bytes > DIRECTORY_BYTES_MAX {
            let (found, most) = (grouped(directory_bytes), grouped(DIRECTORY_BYTES_MAX));
            let message = format!("the zip's directory takes {found} bytes; hoist reads up to {most}");
            return Err(Error::unsupported(message));
        }
        let bytes = match known.want(end.directory.clone(), "the zip's directory")? {
            Ok(bytes) => bytes,
            Err(wish) => return Ok(Step::Need(vec![wish])),
        };
        parse_directory(bytes, &end).map(Step::Done)
    }

    /// The member of this name.
    pub(super) fn get(&self, name: &[u8]) -> Option<&Entry<'a>> {
        self.by_name.get(name).and_then(|&i| self.entries.get(i))
    }
}

/// Finds the end record, which is the last thing in a zip but for a comment, and its 64-bit twin.
fn find_end(known: &Known, tail: &[u8], tail_start: u64) -> Result<std::result::Result<End, Range<u64>>> {
    let is_end = |at: usize| {
        let mut fields = Fields(tail.get(at..)?);
        let signature = fields.take(4)? == END;
        fields.take(16)?;
        let comment = usize::from(fields.u16()?);
        (signature && fields.0.len() == comment).then_some(at)
    };
    let mut found = (0..tail.len().saturating_sub(END_BYTES as usize - 1)).filter_map(is_end);
    let (Some(at), second) = (found.next(), found.next()) else {
        return Err(damaged("it has no end record").detail("the file was probably cut short"));
    };
    let comment = tail.get(at + END_BYTES as usize..).unwrap_or(&[]);
    if second.is_some() || comment.windows(4).any(|w| w == END) {
        return Err(damaged("it has two end records, so that readers may disagree on what it holds"));
    }
    let end_at = tail_start + at as u64;
    let unreadable = || damaged("its end record is cut short");
    let mut fields = Fields(tail.get(at + 4..).unwrap_or(&[]));
    let disks = (fields.u16().ok_or_else(unreadable)?, fields.u16().ok_or_else(unreadable)?);
    let counts = (fields.u16().ok_or_else(unreadable)?, fields.u16().ok_or_else(unreadable)?);
    let (size, offset) = (fields.u32().ok_or_else(unreadable)?, fields.u32().ok_or_else(unreadable)?);

    let locator_at = end_at.checked_sub(LOCATOR64_BYTES);
    let locator = locator_at.and_then(|at| known.get(at..end_at)).filter(|l| l.starts_with(LOCATOR64));
    let (count, size, offset, must_end) = match (locator, locator_at) {
        (Some(locator), Some(locator_at)) => {
            let mut fields = Fields(locator.get(4..).unwrap_or(&[]));
            let (disk, at) = (fields.u32().ok_or_else(unreadable)?, fields.u64().ok_or_else(unreadable)?);
            let disk_count = fields.u32().ok_or_else(unreadable)?;
            if disk != 0 || disk_count > 1 {
                return Err(Error::unsupported("the zip is split over several files"));
            }
            // The record may carry more than is known of it; torch's and everyone's has 56 bytes.
            if at.checked_add(END64_BYTES) != Some(locator_at) {
                return Err(damaged(format!(
                    "its 64-bit end record is said to be at byte {} and must be at {}",
                    grouped(at),
                    grouped(locator_at.saturating_sub(END64_BYTES))
                )));
            }
            let record = match known.want(at..locator_at, "the zip's 64-bit end record")? {
                Ok(record) => record,
                Err(wish) => return Ok(Err(wish)),
            };
            let mut fields = Fields(record);
            let signature = fields.take(4) == Some(END64);
            let record_size = fields.u64().ok_or_else(unreadable)?;
            fields.take(4);
            let disks64 = (fields.u32().ok_or_else(unreadable)?, fields.u32().ok_or_else(unreadable)?);
            let counts64 = (fields.u64().ok_or_else(unreadable)?, fields.u64().ok_or_else(unreadable)?);
            let (size64, offset64) =
                (fields.u64().ok_or_else(unreadable)?, fields.u64().ok_or_else(unreadable)?);
            if !signature || record_size != END64_BYTES - 12 {
                return Err(damaged("its 64-bit end record is not one").at(at));
            }
            let agrees = |narrow: u32, all: u32, wide: u64| narrow == all || u64::from(narrow) == wide;
            let both = agrees(counts.1.into(), 0xffff, counts64.1)
                && agrees(counts.0.into(), 0xffff, counts64.0)
                && agrees(size, u32::MAX, size64)
                && agrees(offset, u32::MAX, offset64);
            if !both || disks64 != (0, 0) || counts64.0 != counts64.1 {
                return Err(damaged("its two end records disagree").at(at));
            }
            (counts64.1, size64, offset64, at)
        }
        _ => {
            if disks != (0, 0) || counts.0 != counts.1 {
                return Err(Error::unsupported("the zip is split over several files"));
            }
            (u64::from(counts.1), u64::from(size), u64::from(offset), end_at)
        }
    };
    if offset.checked_add(size) != Some(must_end) {
        return Err(damaged(format!(
            "its directory of {} bytes is said to begin at byte {}, and must end at byte {}",
            grouped(size),
            grouped(offset),
            grouped(must_end)
        )));
    }
    Ok(Ok(End { count, directory: offset..must_end }))
}

fn parse_directory<'a>(bytes: &'a [u8], end: &End) -> Result<Directory<'a>> {
    let mut fields = Fields(bytes);
    let mut entries = Vec::new();
    while !fields.0.is_empty() {
        let at = end.directory.end - fields.0.len() as u64;
        let entry = parse_entry(&mut fields, end.directory.start)
            .ok_or_else(|| damaged("an entry of its directory is cut short").at(at))??;
        entries.push(entry);
    }
    if entries.len() as u64 != end.count {
        let message = format!(
            "its end record counts {} members, its directory has {}",
            grouped(end.count),
            grouped(entries.len() as u64)
        );
        return Err(damaged(message));
    }
    let mut by_name = HashMap::with_capacity(entries.len());
    for (i, entry) in entries.iter().enumerate() {
        if by_name.insert(entry.name, i).is_some() {
            return Err(damaged(format!("it has two members called `{}`", shown(entry.name))));
        }
    }
    // Each member must end before the next begins. How long a local header is, only the header knows: here its least
    // size is compared, its true one when it is read.
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by_key(|&i| entries.get(i).map_or(0, |e| e.header_bytes));
    let mut limit_bytes = end.directory.start;
    for &i in order.iter().rev() {
        let Some(entry) = entries.get_mut(i) else { continue };
        let least = LOCAL_BYTES + entry.name.len() as u64;
        let fits = entry.header_bytes.checked_add(least).and_then(|e| e.checked_add(entry.size_bytes));
        if fits.is_none_or(|e| e > limit_bytes) {
            return Err(overlap(entry, limit_bytes));
        }
        entry.limit_bytes = limit_bytes;
        limit_bytes = entry.header_bytes;
    }
    Ok(Directory { entries, by_name })
}

fn overlap(entry: &Entry, limit_bytes: u64) -> Error {
    damaged(format!(
        "member `{}` of {} bytes reaches beyond byte {}, where the next thing begins",
        shown(entry.name),
        grouped(entry.size_bytes),
        grouped(limit_bytes)
    ))
    .at(entry.header_bytes)
}

/// One entry; `None` where the directory ends inside it.
fn parse_entry<'a>(fields: &mut Fields<'a>, directory_start: u64) -> Option<Result<Entry<'a>>> {
    if fields.take(4)? != CENTRAL {
        return Some(Err(damaged("an entry of its directory does not begin as one")));
    }
    fields.take(4)?; // versions
    let (flags, method) = (fields.u16()?, fields.u16()?);
    fields.take(4)?; // time and date
    let crc32 = fields.u32()?;
    let (packed, unpacked) = (fields.u32()?, fields.u32()?);
    let (name_size, extra_size, comment_size) = (fields.u16()?, fields.u16()?, fields.u16()?);
    let disk = fields.u16()?;
    fields.take(6)?; // attributes
    let offset = fields.u32()?;
    let name = fields.take(name_size.into())?;
    let extra = fields.take(extra_size.into())?;
    fields.take(comment_size.into())?;
    let wide = wide_values(extra, [unpacked, packed, offset]);
    let Some([unpacked, packed, header_bytes]) = wide else {
        return Some(Err(damaged(format!(
            "the 64-bit sizes of `{}` are missing or there twice",
            shown(name)
        ))));
    };
    if disk != 0 && disk != 0xffff {
        return Some(Err(Error::unsupported("the zip is split over several files")));
    }
    if flags & FLAGS_ENCRYPTED != 0 {
        let message = format!("the zip's member `{}` is encrypted", shown(name));
        return Some(Err(Error::unsupported(message).hint("re-save it with torch.save")));
    }
    if method == 0 && packed != unpacked {
        let message = format!(
            "the stored member `{}` has {} bytes and is said to hold {}",
            shown(name),
            grouped(packed),
            grouped(unpacked)
        );
        return Some(Err(damaged(message)));
    }
    let entry =
        Entry { name, crc32, size_bytes: packed, flags, method, header_bytes, limit_bytes: directory_start };
    Some(Ok(entry))
}

/// Uncompressed size, compressed size and offset: those whose 32 bits are all ones come, in this order, from the
/// extra field 0x0001. `None` where it lacks one or is there twice.
fn wide_values(extra: &[u8], narrow: [u32; 3]) -> Option<[u64; 3]> {
    let mut wide = None;
    let mut fields = Fields(extra);
    // A rest too short for a field is padding; some writers leave it.
    while let (Some(tag), Some(size)) = (fields.u16(), fields.u16()) {
        let Some(body) = fields.take(size.into()) else { break };
        if tag == 1 && wide.replace(body).is_some() {
            return None;
        }
    }
    let mut fields = Fields(wide.unwrap_or(&[]));
    let mut values = [0; 3];
    for (value, narrow) in values.iter_mut().zip(narrow) {
        *value = if narrow == u32::MAX { fields.u64()? } else { narrow.into() };
    }
    Some(values)
}

impl Entry<'_> {
    /// Refuses a member whose bytes are not in the file as they are.
    pub(super) fn check_stored(&self) -> Result<()> {
        let method = match self.method {
            0 => return Ok(()),
            8 => "deflate".to_string(),
            12 => "bzip2".to_string(),
            14 => "lzma".to_string(),
            93 => "zstd".to_string(),
            other => format!("method {other}"),
        };
        let message = format!(
            "the zip's member `{}` is compressed ({method}); hoist reads members that are stored as they are",
            shown(self.name)
        );
        Err(Error::unsupported(message).hint("re-save it with torch.save, which compresses nothing"))
    }

    /// What to ask for to know where the data begins, with as many bytes of the data as `data_bytes`.
    pub(super) fn header_wish(&self, data_bytes: u64) -> Range<u64> {
        let head = LOCAL_BYTES + self.name.len() as u64 + LOCAL_EXTRA_BYTES;
        let end = self.header_bytes.saturating_add(head).saturating_add(data_bytes);
        self.header_bytes..end.min(self.limit_bytes)
    }

    /// Where the member's bytes lie, once its local header is known and agrees with the directory; else the wish for
    /// the header.
    pub(super) fn data(&self, known: &Known) -> Result<std::result::Result<Range<u64>, Range<u64>>> {
        let fixed = self.header_bytes..self.header_bytes.saturating_add(LOCAL_BYTES);
        let Ok(header) = known.want(fixed, "a local header of the zip")? else {
            return Ok(Err(self.header_wish(0)));
        };
        let disagree = |what: &str| {
            damaged(format!(
                "the directory and the local header of `{}` disagree on its {what}",
                shown(self.name)
            ))
            .at(self.header_bytes)
        };
        let parsed = (|| {
            let mut fields = Fields(header);
            let signature = fields.take(4)? == LOCAL;
            fields.take(2)?;
            let (flags, method) = (fields.u16()?, fields.u16()?);
            fields.take(4)?;
            let (crc32, packed, unpacked) = (fields.u32()?, fields.u32()?, fields.u32()?);
            Some((signature, flags, method, crc32, packed, unpacked, fields.u16()?, fields.u16()?))
        })();
        let Some((true, flags, method, crc32, packed, unpacked, name_size, extra_size)) = parsed else {
            let message = format!("member `{}` has no local header", shown(self.name));
            return Err(damaged(message).at(self.header_bytes));
        };
        if usize::from(name_size) != self.name.len() {
            return Err(disagree("name"));
        }
        let data_bytes = LOCAL_BYTES + u64::from(name_size) + u64::from(extra_size);
        let start = self.header_bytes.saturating_add(data_bytes);
        let end = start.saturating_add(self.size_bytes);
        if end > self.limit_bytes {
            return Err(overlap(self, self.limit_bytes));
        }
        let Some(header) = known.get(self.header_bytes..start) else {
            return Ok(Err(self.header_bytes..start));
        };
        let (name, extra) = header
            .get(LOCAL_BYTES as usize..)
            .and_then(|rest| rest.split_at_checked(name_size.into()))
            .unwrap_or_default();
        if name != self.name {
            return Err(disagree("name"));
        }
        let flags_compared = FLAGS_ENCRYPTED | FLAG_SIZES_FOLLOW;
        if method != self.method || flags & flags_compared != self.flags & flags_compared {
            return Err(disagree("way of storing"));
        }
        // Where sizes follow the data, the header may leave them out; what it says all the same must be true.
        let follow = self.flags & FLAG_SIZES_FOLLOW != 0;
        let Some([unpacked, packed, _]) = wide_values(extra, [unpacked, packed, 0]) else {
            return Err(disagree("size"));
        };
        for size in [packed, unpacked] {
            if size != self.size_bytes && !(follow && size == 0) {
                return Err(disagree("size"));
            }
        }
        if crc32 != self.crc32 && crc32 != 0 && self.crc32 != 0 {
            return Err(disagree("CRC-32"));
        }
        Ok(Ok(start..end))
    }
}

/// CRC-32 as zip has it (reflected 0x04c11db7).
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let mut crc = i as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, &b| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ b)])
}

#[cfg(test)]
mod tests {
    #[test]
    fn crc32_of_the_standard_check() {
        assert_eq!(super::crc32(b"123456789"), 0xcbf4_3926);
    }
}
