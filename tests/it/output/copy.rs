//! Bytes that are copied and hashed: the same whichever way they go.

use super::hash_of;
use hoist::Error;
use hoist::sink::file::{Copied, Existing, FileSink};
use hoist::sink::output::hash::{BLOCK_BYTES, FileHash, Hash, combine, hash_file};
use hoist::source::local::LocalFile;
use hoist::source::{ReadAt, Temper};
use std::fs;
use std::io::Read;
use std::path::Path;

#[test]
fn hashes_of_files_do_not_depend_on_the_way() {
    // xxh3 of nothing, and of known text: the vectors of the reference implementation.
    assert_eq!(combine(&[]).to_string(), "2d06800538d394c2");
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("x");
    let block = BLOCK_BYTES as usize;
    for size in [0, 1, 1000, block - 1, block, block + 1, 2 * block, 2 * block + 77] {
        let bytes: Vec<u8> =
            (0..size).map(|i| (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]).collect();
        fs::write(&path, &bytes).unwrap();
        let file = fs::File::open(&path).unwrap();
        let expected = hash_of(&bytes);
        let size = size as u64;
        assert_eq!(hash_file(&file, size).unwrap(), expected);
        // In pieces of any length, from behind; what lies across their edges is read back, and nothing else.
        for piece in [1 << 10, 1000, block - 1, block, block * 2 + 5] {
            let whole = FileHash::new(size);
            let mut at_hand = 0;
            let pieces: Vec<&[u8]> = bytes.chunks(piece).collect();
            for (n, piece_bytes) in pieces.iter().enumerate().rev() {
                whole.note(piece_bytes, (n * piece) as u64);
                let (start, end) = (n * piece, n * piece + piece_bytes.len());
                let last = if end == bytes.len() { end } else { end / block * block };
                at_hand += last.saturating_sub(start.next_multiple_of(block));
            }
            let mut read = 0;
            let mut read_back = |into: &mut [u8], at: u64| {
                read += into.len();
                into.copy_from_slice(&bytes[at as usize..][..into.len()]);
                Ok(())
            };
            let half = size / 2;
            whole.read_back(half..size, &mut Vec::new(), &mut read_back).unwrap();
            whole.read_back(0..size, &mut Vec::new(), &mut read_back).unwrap();
            assert_eq!(whole.finish().unwrap(), expected, "{size} {piece}");
            assert_eq!(read + at_hand, bytes.len(), "{size} {piece}");
        }
        for size in [size + 1, u64::MAX] {
            assert!(hash_file(&file, size).is_err(), "a file that is shorter than {size}");
        }
        if size > block as u64 {
            let partial = FileHash::new(size);
            partial.note(&bytes[block..2 * block.min(bytes.len() / 2)], block as u64);
            assert!(partial.finish().unwrap_err().to_string().contains("block 0 of"));
        }
    }
    assert_eq!(Hash::parse("00ffffffffffffff"), Some(Hash(0xff_ffff_ffff_ffff)));
    for bad in ["", "0", "00FFFFFFFFFFFFFF", "+0ffffffffffffff", "000000000000000000"] {
        assert_eq!(Hash::parse(bad), None, "{bad}");
    }
}

/// A source that is no local file.
#[derive(Debug)]
struct Remote(Vec<u8>);

impl ReadAt for Remote {
    fn size_bytes(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<usize, Error> {
        let rest = &self.0[(offset_bytes as usize).min(self.0.len())..];
        // A few bytes at a time.
        let n = rest.len().min(buf.len()).min(999);
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
    fn temper(&self) -> Temper {
        Temper { gap_bytes_max: 0, depth: 1, network: true }
    }
    fn as_local(&self) -> Option<&LocalFile> {
        None
    }
}

#[test]
fn ranges_are_copied_whichever_way() {
    let bytes: Vec<u8> = (0..300_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let here = tempfile::tempdir().unwrap();
    let path = here.path().join("source");
    fs::write(&path, &bytes).unwrap();
    let local = LocalFile::open(&path).unwrap();
    let remote = Remote(bytes.clone());
    let mut targets = vec![(here.path().to_owned(), "here")];
    // Another file system, where there is one: the kernel may refuse.
    let shm = tempfile::tempdir_in("/dev/shm").ok();
    targets.extend(shm.iter().map(|d| (d.path().to_owned(), "memory")));
    let size = bytes.len() as u64;
    for (folder, what) in &targets {
        for (from, source) in [(&local as &dyn ReadAt, "local"), (&remote, "remote")] {
            let sink = FileSink::create(&folder.join("out"), size + 10, Existing::Replace).unwrap();
            let mut expected = vec![0u8; bytes.len() + 10];
            let mut total = Copied::default();
            for (from_at, to_at, n) in [
                (0u64, 10u64, size),
                (1, 3, 0),
                (4096, 0, 5000),
                (7, 9, 100_001),
                (5000, 904, 300_000),
                (size - 1, size + 9, 1),
            ] {
                let copied = sink.copy_range(from, from_at, to_at, n, &mut vec![0; 65536]).unwrap();
                assert_eq!(copied.kernel_bytes + copied.buffer_bytes, n, "{what} {source}");
                expected[to_at as usize..][..n as usize]
                    .copy_from_slice(&bytes[from_at as usize..][..n as usize]);
                total.kernel_bytes += copied.kernel_bytes;
                total.buffer_bytes += copied.buffer_bytes;
            }
            if (*what, source) == ("here", "local") {
                assert_eq!(total.buffer_bytes, 0, "the kernel did not copy on one file system");
            }
            sink.start_writeback(0, size);
            sink.start_writeback(0, 0);
            let mut back = vec![0; expected.len()];
            sink.read_exact_at(&mut back, 0).unwrap();
            let differs = back.iter().zip(&expected).position(|(a, b)| a != b);
            assert_eq!(differs, None, "{what} {source}");
            sink.finish().unwrap();
            assert!(fs::read(folder.join("out")).unwrap() == expected, "{what} {source}");
            let sink = FileSink::create(&folder.join("out"), size + 10, Existing::Replace).unwrap();
            // Beyond the target, beyond the source, no buffer where one is needed.
            for (from_at, to_at, n, room, said) in [
                (0, 11, size, 10, "was laid out for 1,200,010 bytes"),
                (0, u64::MAX, 2, 10, "was laid out for"),
                (size - 5, 0, 6, 10, "ended at byte 1,200,000 where it had 1,200,000"),
                (u64::MAX, 0, 6, 10, ""),
            ] {
                let error = sink.copy_range(from, from_at, to_at, n, &mut vec![0; room]).unwrap_err();
                assert!(error.to_string().contains(said), "{what} {source}: {error}");
            }
            if source == "remote" {
                assert!(sink.copy_range(from, 0, 0, 5, &mut []).is_err());
            }
        }
    }
    // A source that is cut short under us.
    let sink = FileSink::create(&here.path().join("out"), size, Existing::Replace).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(1000).unwrap();
    let error = sink.copy_range(&local, 0, 0, size, &mut vec![0; 65536]).unwrap_err();
    assert!(error.to_string().contains("ended at byte 1,000 where it had 1,200,000"), "{error}");
    drop(sink);
    // A file of the kernel's that copies as empty and reads as something.
    let version = LocalFile::open(Path::new("/proc/version")).unwrap();
    let mut text = String::new();
    fs::File::open("/proc/version").unwrap().read_to_string(&mut text).unwrap();
    let sink = FileSink::create(&here.path().join("version"), text.len() as u64, Existing::Replace).unwrap();
    let copied = sink.copy_range(&version, 0, 0, text.len() as u64, &mut vec![0; 4096]).unwrap();
    assert_eq!(copied, Copied { kernel_bytes: 0, buffer_bytes: text.len() as u64 });
}
