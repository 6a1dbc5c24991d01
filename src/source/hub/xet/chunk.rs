//! A chunk of a xorb: eight bytes that say how it is packed, then its bytes (protocol, "xorb format").

use bytes::Bytes;
use lz4_flex::frame::FrameDecoder;
use std::io::Read;

/// Version (1), packed size (3, little-endian), packing (1), size (3, little-endian).
pub(super) const HEADER_BYTES: usize = 8;

/// The most bytes of a chunk, by the protocol.
const DECODED_BYTES_MAX: u32 = 128 << 10;

/// The most bytes of a packed chunk; those that packing would make larger are stored as they are.
const ENCODED_BYTES_MAX: usize = 2 * DECODED_BYTES_MAX as usize;

/// How a chunk is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    /// Not at all.
    Plain,
    /// An LZ4 frame.
    Lz4,
    /// An LZ4 frame of the bytes in four groups: the first of each four, then the second, and so on.
    GroupedLz4,
}

/// What a chunk's head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    packing: Packing,
    /// Bytes that follow.
    pub(super) encoded_bytes: usize,
    /// Bytes that they decode to.
    pub(super) decoded_bytes: u32,
}

impl Header {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong, to be read after "a xorb".
    pub(super) fn parse(bytes: &[u8]) -> Result<Header, String> {
        let &[version, e0, e1, e2, packing, d0, d1, d2] = bytes else {
            return Err("whose chunk has no whole head".to_owned());
        };
        if version != 0 {
            return Err(format!("with a chunk of version {version}, of which only 0 is known"));
        }
        let packing = match packing {
            0 => Packing::Plain,
            1 => Packing::Lz4,
            2 => Packing::GroupedLz4,
            other => return Err(format!("with a chunk of packing {other}, which is not known")),
        };
        let encoded_bytes = u32::from_le_bytes([e0, e1, e2, 0]) as usize;
        let decoded_bytes = u32::from_le_bytes([d0, d1, d2, 0]);
        if decoded_bytes == 0 || decoded_bytes > DECODED_BYTES_MAX || encoded_bytes > ENCODED_BYTES_MAX {
            return Err(format!(
                "with a chunk of {decoded_bytes} bytes, packed {encoded_bytes}: 1 to {DECODED_BYTES_MAX} are allowed"
            ));
        }
        Ok(Header { packing, encoded_bytes, decoded_bytes })
    }
}

/// Unpacks a chunk's bytes.
///
/// # Errors
/// What is wrong, to be read after "a xorb".
pub(super) fn decode(header: &Header, encoded: Bytes) -> Result<Bytes, String> {
    let size = header.decoded_bytes as usize;
    let decoded = match header.packing {
        Packing::Plain => encoded,
        Packing::Lz4 => unpack(&encoded, size)?.into(),
        Packing::GroupedLz4 => ungroup(&unpack(&encoded, size)?).into(),
    };
    match decoded.len() == size {
        true => Ok(decoded),
        false => Err("with a chunk of another size than its head says".to_owned()),
    }
}

/// An LZ4 frame; no more than one byte too many of it.
fn unpack(encoded: &[u8], size: usize) -> Result<Vec<u8>, String> {
    let mut decoded = Vec::with_capacity(size + 1);
    FrameDecoder::new(encoded)
        .take(size as u64 + 1)
        .read_to_end(&mut decoded)
        .map_err(|_| "with a chunk that does not unpack".to_owned())?;
    Ok(decoded)
}

/// Four groups, the first ones a byte longer where the size is no multiple of four, back into order.
fn ungroup(groups: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; groups.len()];
    let mut rest = groups;
    for first in 0..4 {
        let (group, after) = rest.split_at(((groups.len() + 3).saturating_sub(first) / 4).min(rest.len()));
        for (to, from) in bytes.iter_mut().skip(first).step_by(4).zip(group) {
            *to = *from;
        }
        rest = after;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use lz4_flex::frame::FrameEncoder;
    use std::io::Write;

    fn pack(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = FrameEncoder::new(Vec::new());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn header(packing: u8, encoded: usize, decoded: usize) -> Result<Header, String> {
        let (e, d) = (encoded.to_le_bytes(), decoded.to_le_bytes());
        Header::parse(&[0, e[0], e[1], e[2], packing, d[0], d[1], d[2]])
    }

    #[test]
    fn chunks_come_back() {
        for size in [1, 2, 3, 4, 5, 6, 7, 8, 1000, 1001, 65_537, 131_072] {
            let bytes: Vec<u8> = (0..size).map(|i: usize| (i / 4 % 5 + i % 4 * 50) as u8).collect();
            let grouped: Vec<u8> =
                (0..4).flat_map(|first| bytes.iter().copied().skip(first).step_by(4)).collect();
            for (packing, encoded) in [(0, bytes.clone()), (1, pack(&bytes)), (2, pack(&grouped))] {
                let header = header(packing, encoded.len(), size).unwrap();
                assert_eq!(header.encoded_bytes, encoded.len());
                assert!(decode(&header, encoded.into()).unwrap() == bytes, "{packing} {size}");
            }
        }
    }

    #[test]
    fn damage_is_found() {
        let bytes = vec![7; 1000];
        let packed = pack(&bytes);
        for (packing, encoded, size, word) in [
            (0, bytes.clone(), 999, "another size"),
            (1, packed.clone(), 999, "another size"),
            (1, packed.clone(), 1001, "another size"),
            (2, packed.clone(), 100, "another size"),
            (1, packed[..packed.len() / 2].to_vec(), 1000, ""),
            (1, bytes.clone(), 1000, "does not unpack"),
            (1, Vec::new(), 1000, ""),
            // A bomb: no more than a byte too many of it is unpacked.
            (1, pack(&vec![0; 8 << 20]), 131_072, "another size"),
        ] {
            let header = header(packing, encoded.len(), size).unwrap();
            let what = decode(&header, encoded.into()).unwrap_err();
            assert!(what.contains(word), "{packing} {size}: {what}");
        }
        for (packing, encoded, decoded) in
            [(0, 1, 0), (0, 1, 131_073), (1, 262_145, 1), (3, 1, 1), (255, 1, 1)]
        {
            assert!(header(packing, encoded, decoded).is_err(), "{packing} {encoded} {decoded}");
        }
        assert!(Header::parse(&[1, 1, 0, 0, 0, 1, 0, 0]).is_err());
        assert!(Header::parse(&[0; 7]).is_err());
        // The mark of a xorb's end, where a chunk was expected.
        assert!(Header::parse(b"XETBLOB\0").is_err());
    }
}
