//! A zip as torch writes it, byte for byte: members stored as they are, their data at multiples of 64.
//!
//! Everything but the CRC-32 of data that is not there yet is known beforehand, and where that stands too: torch puts it
//! behind the data (flag bit 3) and into the directory, and both have their place and size from the start. So local
//! headers never change, and a file can be written in any order. What torch does beyond the specification is kept,
//! because torch reads it back: no versions, a 64-bit field in a local header without the sign for it, 64-bit end records
//! in every file.
//!
//! Layout: PKWARE APPNOTE 6.3.10, §4.3 and §4.5.3; torch `caffe2/serialize/inline_container.cc` (`getPadding`); where
//! fields become wide, from files that torch 2.15 wrote.

use super::zip::{CENTRAL, END, END64, LOCAL, LOCATOR64};
use crate::error::Result;
use crate::format::layout::end_bytes;

/// Data begins at a multiple of this; the member `.storage_alignment` says so.
pub(super) const ALIGNMENT_BYTES: u64 = 64;

const DESCRIPTOR: &[u8; 4] = b"PK\x07\x08";
/// Names are UTF-8.
const FLAG_UTF8: u16 = 1 << 11;
/// The CRC-32 and the sizes follow the data.
const FLAG_SIZES_FOLLOW: u16 = 1 << 3;
/// Numbers from here on are wide: all ones in 32 bits are the sign for that.
const WIDE: u64 = 0xffff_ffff;
/// Of a local header, without name and extra fields.
const LOCAL_BYTES: u64 = 30;
/// The tag and the size that begin an extra field.
const EXTRA_HEAD_BYTES: u64 = 4;
/// What the 64-bit end record says of who made the file and what is needed to read it.
const VERSIONS64: [u16; 2] = [0x031e, 0x002d];

/// A member whose place is settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    name: String,
    header_bytes: u64,
    /// Where its data begins.
    pub(super) data_bytes: u64,
    pub(super) size_bytes: u64,
}

impl Member {
    /// The member that begins at a place. The name must fit 16 bits.
    pub(super) fn at(name: String, header_bytes: u64, size_bytes: u64) -> Result<Member> {
        let mut member = Member { name, header_bytes, data_bytes: 0, size_bytes };
        let unpadded =
            LOCAL_BYTES + (member.name.len() + member.wide_field(0).len()) as u64 + EXTRA_HEAD_BYTES;
        let start = end_bytes(header_bytes, unpadded)?;
        member.data_bytes = end_bytes(start, start.next_multiple_of(ALIGNMENT_BYTES) - start)?;
        Ok(member)
    }

    /// Where the next one begins.
    pub(super) fn end_bytes(&self) -> Result<u64> {
        end_bytes(end_bytes(self.data_bytes, self.size_bytes)?, self.descriptor(0).len() as u64)
    }

    fn flags(&self) -> u16 {
        if self.size_bytes > 0 { FLAG_UTF8 | FLAG_SIZES_FOLLOW } else { FLAG_UTF8 }
    }

    /// The extra field with what 32 bits do not hold: the size, the same again or zero, and the offset. Empty where all
    /// fits.
    fn wide_field(&self, size_again_bytes: u64) -> Vec<u8> {
        let mut body = Vec::new();
        if self.size_bytes >= WIDE {
            body.extend(self.size_bytes.to_le_bytes());
            body.extend(size_again_bytes.to_le_bytes());
        }
        if self.header_bytes >= WIDE {
            body.extend(self.header_bytes.to_le_bytes());
        }
        if body.is_empty() {
            return body;
        }
        let mut field = fields16(&[1, body.len() as u16]);
        field.extend(body);
        field
    }

    /// What stands before the data, from the member's first byte on. The padding is an extra field of its own.
    pub(super) fn local_header(&self) -> Vec<u8> {
        // torch gives one of the two sizes here, and the other with the CRC-32.
        let wide = self.wide_field(0);
        let extra_at = LOCAL_BYTES + self.name.len() as u64;
        let extra_size = (self.data_bytes - self.header_bytes).saturating_sub(extra_at);
        let padding = extra_size.saturating_sub(wide.len() as u64 + EXTRA_HEAD_BYTES);
        let mut out = LOCAL.to_vec();
        out.extend(fields16(&[0, self.flags(), 0, 0, 0])); // version, flags, method, time, date
        out.extend(fields32(&[0, 0, 0])); // CRC-32, both sizes
        out.extend(fields16(&[self.name.len() as u16, extra_size as u16]));
        out.extend(self.name.as_bytes());
        out.extend(wide);
        out.extend(b"FB");
        out.extend(fields16(&[padding as u16]));
        out.resize(out.len() + padding as usize, b'Z');
        out
    }

    /// What stands behind the data.
    pub(super) fn descriptor(&self, crc32: u32) -> Vec<u8> {
        if self.size_bytes == 0 {
            return Vec::new();
        }
        let mut out = DESCRIPTOR.to_vec();
        out.extend(crc32.to_le_bytes());
        match self.wide_field(0).is_empty() {
            true => out.extend(fields32(&[self.size_bytes as u32; 2])),
            false => out.extend([self.size_bytes.to_le_bytes(); 2].as_flattened()),
        }
        out
    }

    /// Its entry in the directory.
    fn central(&self, crc32: u32) -> Vec<u8> {
        let wide = self.wide_field(self.size_bytes);
        let size = narrow(self.size_bytes);
        let mut out = CENTRAL.to_vec();
        out.extend(fields16(&[0, 0, self.flags(), 0, 0, 0])); // versions, flags, method, time, date
        out.extend(fields32(&[crc32, size, size]));
        out.extend(fields16(&[self.name.len() as u16, wide.len() as u16, 0, 0, 0])); // no comment, disk, attributes
        out.extend(fields32(&[0, narrow(self.header_bytes)])); // attributes, offset
        out.extend(self.name.as_bytes());
        out.extend(wide);
        out
    }
}

/// The directory and the end records, which begin at `at_bytes` and end the file. For each member its CRC-32.
pub(super) fn directory<'a>(members: impl Iterator<Item = (&'a Member, u32)>, at_bytes: u64) -> Vec<u8> {
    let (mut out, mut count) = (Vec::new(), 0u64);
    for (member, crc32) in members {
        out.extend(member.central(crc32));
        count += 1;
    }
    let size_bytes = out.len() as u64;
    out.extend(END64);
    out.extend(44u64.to_le_bytes()); // bytes that follow in this record
    out.extend(fields16(&VERSIONS64));
    out.extend(fields32(&[0, 0])); // disks
    for wide in [count, count, size_bytes, at_bytes] {
        out.extend(wide.to_le_bytes());
    }
    out.extend(LOCATOR64);
    out.extend(fields32(&[0]));
    out.extend(at_bytes.saturating_add(size_bytes).to_le_bytes());
    out.extend(fields32(&[1]));
    out.extend(END);
    let count = u16::try_from(count).unwrap_or(u16::MAX);
    out.extend(fields16(&[0, 0, count, count]));
    out.extend(fields32(&[narrow(size_bytes), narrow(at_bytes)]));
    out.extend(fields16(&[0])); // comment
    out
}

fn narrow(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn fields16(numbers: &[u16]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

fn fields32(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}
