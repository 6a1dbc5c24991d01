//! Digests of tensors and of a model that depend on nothing but what the tensors are: not on the container, the shards,
//! the order, the byte order or the strides they are stored with.
//!
//! **A tensor's digest** is the keyed BLAKE3 hash of its bytes: row-major, without gaps, little endian, lazy conjugation
//! and negation carried out, nothing cast; blocks of quantised and sub-byte types as they are stored. The key is the
//! BLAKE3 hash of a line of text: hoist's name of the dtype, a space, and the sizes joined by commas (`bf16 4096,256`;
//! nothing after the space for a scalar). So a reshape or a reinterpretation of the same bytes has another digest.
//!
//! **A model's digest** is the BLAKE3 hash of one line a tensor, in the order of the names' bytes: the digest in
//! hexadecimal, dtype and sizes as above, the name's length in bytes, the name; joined by single spaces and ended by a
//! line feed. In Python:
//!
//! ```text
//! key    = blake3(f"{dtype} {','.join(map(str, shape))}".encode()).digest()
//! tensor = blake3(data, key=key).hexdigest()
//! model  = blake3(b"".join(f"{tensor} {dtype} {sizes} {len(name.encode())} {name}\n".encode() for … in sorted order)).hexdigest()
//! ```
//!
//! BLAKE3 is a tree, so one large tensor is hashed by all threads at once: it is cut into pieces that are whole
//! subtrees, each read and hashed by whichever worker comes next, and the pieces' values are joined at the end. Workers
//! take pieces in the order of the files. Memory is one piece a worker and 32 bytes a piece. What does not lie in the
//! file as it shall be hashed (strides, the other byte order) goes through a plan, one tensor a worker.

use crate::buf::{PAGE_BYTES, Ring, Slot};
use crate::checkpoint::Tensor;
use crate::error::{Error, Result};
use crate::machine;
use crate::open::Model;
use crate::plan::{Cut, Item, Plan, Target, Unit};
use crate::run::job::{Control, Job};
use crate::run::{self, BLOCKING_READERS};
use crate::source::local::LocalFile;
use crate::source::local::direct::Queue;
use crate::source::local::residency::{cached_fraction, residency_ahead};
use crate::source::{ReadAt, read_pieces};
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A piece of a tensor: a power of two of BLAKE3's chunks, so that it is a subtree, and small enough for a cache.
const PIECE_BYTES: u64 = 2 << 20;
/// Below this a direct read is not worth its alignment.
const DIRECT_BYTES_MIN: u64 = 64 << 10;
/// A model of which less than this is in the page cache is read by more threads than there are cores.
const HOT_FRACTION: f64 = 0.9;

/// A BLAKE3 digest; shown in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// The digests of a model.
#[derive(Debug, Clone)]
pub struct Digests {
    /// Of all tensors that were asked for.
    pub model: Digest,
    /// Of each, in the order they were asked for, by its place in the table. Aliases are hashed once and named each.
    pub tensors: Vec<(usize, Digest)>,
    /// Bytes hashed, aliases once.
    pub bytes: u64,
    /// How long that took.
    pub seconds: f64,
    /// Threads that read and hashed.
    pub threads: usize,
}

/// Hashes tensors of a model, `picked` by their places in the table.
///
/// # Errors
/// What reading meets; bad input where a file changed meanwhile.
pub fn hash(model: Arc<Model>, picked: Vec<usize>, threads: Option<usize>) -> Job<Digests> {
    Job::start("hash", false, move |control| {
        let started = Instant::now();
        check_unchanged(&model)?;
        let firsts = model.table.firsts();
        let work = Work::new(&model, picked.iter().map(|&i| firsts[i]))?;
        let threads = threads.unwrap_or_else(|| work.threads(&model));
        let threads = threads.clamp(1, work.pieces.len().max(1));
        control.plan(format!("hashing {} tensors", picked.len()), work.bytes);
        let (next, hashed) = (AtomicUsize::new(0), AtomicU64::new(0));
        run::parallel("hash", threads, control, |_| {
            let mut reader = Reader::new()?;
            while !control.is_stopped() {
                let Some(&piece) = work.pieces.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                let size = work.hash(&model, piece, &mut reader, control)?;
                hashed.fetch_add(size, Ordering::Relaxed);
            }
            Ok(())
        })?;
        check_unchanged(&model)?;
        let digests = work.finish()?;
        let tensors: Vec<(usize, Digest)> = picked
            .iter()
            .map(|&i| Some((i, *digests.get(&firsts[i])?)))
            .collect::<Option<_>>()
            .ok_or_else(|| Error::bug("the hash's plan does not hold"))?;
        Ok(Digests {
            model: of_model(tensors.iter().map(|&(i, digest)| (&model.table.tensors[i], digest)).collect()),
            tensors,
            bytes: hashed.into_inner(),
            seconds: started.elapsed().as_secs_f64(),
            threads,
        })
    })
}

/// The key of a tensor's hash, which is what the tensor is besides its bytes.
fn key(tensor: &Tensor) -> [u8; 32] {
    *blake3::hash(kind_text(tensor).as_bytes()).as_bytes()
}

/// `bf16 4096,256`
fn kind_text(tensor: &Tensor) -> String {
    let sizes: Vec<_> = tensor.shape.iter().map(u64::to_string).collect();
    format!("{} {}", tensor.dtype.name(), sizes.join(","))
}

/// The digest of tensors in any order.
fn of_model(mut tensors: Vec<(&Tensor, Digest)>) -> Digest {
    tensors.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    let mut hasher = blake3::Hasher::new();
    for (tensor, digest) in tensors {
        let line = format!("{digest} {} {} {}\n", kind_text(tensor), tensor.name.len(), tensor.name);
        hasher.update(line.as_bytes());
    }
    Digest(*hasher.finalize().as_bytes())
}

fn check_unchanged(model: &Model) -> Result<()> {
    model.files.iter().try_for_each(|f| f.as_local().map_or(Ok(()), LocalFile::check_unchanged))
}

/// One tensor's hash on its way.
struct Hashing {
    tensor: usize,
    key: [u8; 32],
    state: Mutex<State>,
}

struct State {
    /// The values of the pieces' subtrees, in their order; filled in any order.
    values: Vec<ChainingValue>,
    left: usize,
    digest: Option<Digest>,
}

impl Hashing {
    /// Notes a piece's value; the last one joins them all.
    fn note(&self, piece: usize, value: ChainingValue) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = state.values.get_mut(piece) {
            *place = value;
            state.left = state.left.saturating_sub(1);
        }
        if state.left == 0 {
            let values = std::mem::take(&mut state.values);
            let (left, right) = values.split_at(left_count(values.len()));
            let mode = Mode::KeyedHash(&self.key);
            let root = merge_subtrees_root(&joined(left, mode), &joined(right, mode), mode);
            state.digest = Some(Digest(*root.as_bytes()));
        }
    }

    /// Notes the whole tensor's digest.
    fn done(&self, hash: blake3::Hash) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.digest = Some(Digest(*hash.as_bytes()));
    }
}

/// Pieces in the left subtree of so many: the largest power of two that leaves something for the right one.
fn left_count(count: usize) -> usize {
    1 << count.saturating_sub(1).max(1).ilog2()
}

/// The value of a subtree of these pieces. Never called with none. As deep as the tree: the logarithm of the count.
fn joined(values: &[ChainingValue], mode: Mode<'_>) -> ChainingValue {
    match values {
        [] => ChainingValue::default(),
        [one] => *one,
        many => {
            let (left, right) = many.split_at(left_count(many.len()));
            merge_subtrees_non_root(&joined(left, mode), &joined(right, mode), mode)
        }
    }
}

/// A piece of work: a tensor by its place in [`Work::hashing`], and which piece of it.
#[derive(Clone, Copy)]
struct Piece {
    hashing: u32,
    piece: u32,
}

struct Work {
    hashing: Vec<Hashing>,
    pieces: Vec<Piece>,
    bytes: u64,
}

impl Work {
    /// What is to be done, each tensor once.
    fn new(model: &Model, tensors: impl Iterator<Item = usize>) -> Result<Work> {
        let table = &model.table;
        let mut order: Vec<usize> = tensors.collect();
        // Those that one worker does alone come first, so that none of them is what everyone waits for at the end.
        order.sort_by_key(|&i| {
            let at = &table.tensors[i].at;
            (at.is_plain(), at.span.file, at.span.offset_bytes, i)
        });
        order.dedup();
        let mut work = Work { hashing: Vec::with_capacity(order.len()), pieces: Vec::new(), bytes: 0 };
        for tensor in order {
            let facts = &table.tensors[tensor];
            let size = facts.size_bytes();
            work.bytes = work.bytes.saturating_add(size);
            let count = if facts.at.is_plain() { size.div_ceil(PIECE_BYTES).max(1) } else { 1 };
            let too_large = || Error::unsupported("is too large to be hashed").tensor(&facts.name);
            let count = u32::try_from(count).map_err(|_| too_large())?;
            let hashing = u32::try_from(work.hashing.len()).map_err(|_| too_large())?;
            work.pieces.extend((0..count).map(|piece| Piece { hashing, piece }));
            let values = if count > 1 { vec![ChainingValue::default(); count as usize] } else { Vec::new() };
            let state = Mutex::new(State { values, left: count as usize, digest: None });
            work.hashing.push(Hashing { tensor, key: key(facts), state });
        }
        Ok(work)
    }

    /// As many threads as cores where the page cache holds the bytes; more where each waits for a disk or a network.
    fn threads(&self, model: &Model) -> usize {
        let cached = |f: &Arc<dyn ReadAt>| {
            f.as_local().and_then(|l| cached_fraction(l, 0..l.size_bytes())).is_none_or(|f| f >= HOT_FRACTION)
        };
        let near = model.files.iter().all(|f| !f.temper().network && cached(f));
        if near { machine::core_count() } else { machine::core_count().max(BLOCKING_READERS) }
    }

    /// Reads and hashes one piece; gives its size.
    fn hash(&self, model: &Model, piece: Piece, reader: &mut Reader, control: &Control) -> Result<u64> {
        let hashing = self
            .hashing
            .get(piece.hashing as usize)
            .ok_or_else(|| Error::bug("the hash's plan does not hold"))?;
        let tensor = model
            .table
            .tensors
            .get(hashing.tensor)
            .ok_or_else(|| Error::bug("the hash's plan does not hold"))?;
        let span = tensor.at.span;
        let place = |error: Error, offset: u64| {
            let error = match model.table.files.get(span.file.index()) {
                Some(file) => error.file(&file.name),
                None => error,
            };
            error.tensor(&tensor.name).at(offset)
        };
        let mut hasher = blake3::Hasher::new_keyed(&hashing.key);
        if !tensor.at.is_plain() {
            let hash = self.hash_planned(model, hashing.tensor, hasher, control);
            hashing.done(hash.map_err(|e| place(e, span.offset_bytes))?);
            return Ok(tensor.size_bytes());
        }
        let start = u64::from(piece.piece) * PIECE_BYTES;
        let size = PIECE_BYTES.min(span.size_bytes.saturating_sub(start));
        let offset = span.offset_bytes + start;
        let file =
            model.files.get(span.file.index()).ok_or_else(|| Error::bug("the hash's plan does not hold"))?;
        let bytes = reader.read(&**file, offset, size).map_err(|e| place(e, offset))?;
        if span.size_bytes <= PIECE_BYTES {
            hashing.done(hasher.update(bytes).finalize());
        } else {
            let value = hasher.set_input_offset(start).update(bytes).finalize_non_root();
            hashing.note(piece.piece as usize, value);
        }
        control.moved(size);
        Ok(size)
    }

    /// Hashes a tensor whose elements a plan has to bring into order, from the first to the last.
    fn hash_planned(
        &self,
        model: &Model,
        tensor: usize,
        mut hasher: blake3::Hasher,
        control: &Control,
    ) -> Result<blake3::Hash> {
        let target =
            Target { align_bytes: 1, padding_bytes_max: u64::MAX, chunk_bytes: PIECE_BYTES, cut: Cut::File };
        let plan = Plan::new(model, &[Item::whole(&model.table, tensor)], &target)?;
        let (mut source, mut fixed, mut at) = (Vec::new(), Vec::new(), 0);
        for unit in plan.units() {
            if control.is_stopped() {
                break;
            }
            let bytes = unit_bytes(model, &unit, &mut source, &mut fixed)?;
            for put in &unit.puts {
                // A digest of bytes in another order would be worse than none.
                if put.to.offset_bytes != at || (put.row_count > 1 && put.to.pitch_bytes != put.row_bytes) {
                    return Err(Error::bug("the hash's plan does not hold"));
                }
                at += put.output_bytes();
                for row in 0..put.row_count {
                    let from = put.from_bytes + row * put.pitch_bytes;
                    let range = crate::buf::usize_range(from..from + put.row_bytes);
                    hasher.update(
                        range
                            .and_then(|r| bytes.get(r))
                            .ok_or_else(|| Error::bug("the hash's plan does not hold"))?,
                    );
                }
            }
            control.moved(unit.puts.iter().map(|p| p.output_bytes()).sum());
        }
        if at != plan.output_bytes && !control.is_stopped() {
            return Err(Error::bug("the hash's plan does not hold"));
        }
        Ok(hasher.finalize())
    }

    /// All digests, by the tensor's place in the table.
    fn finish(self) -> Result<HashMap<usize, Digest>> {
        let digest = |h: Hashing| {
            let state = h.state.into_inner().unwrap_or_else(PoisonError::into_inner);
            Some((h.tensor, state.digest?))
        };
        self.hashing
            .into_iter()
            .map(digest)
            .collect::<Option<_>>()
            .ok_or_else(|| Error::bug("the hash's plan does not hold"))
    }
}

/// The bytes of a unit, put right.
fn unit_bytes<'a>(
    model: &Model,
    unit: &Unit,
    source: &'a mut Vec<u8>,
    fixed: &'a mut Vec<u8>,
) -> Result<&'a [u8]> {
    let file =
        model.files.get(unit.file.index()).ok_or_else(|| Error::bug("the hash's plan does not hold"))?;
    source.resize(
        usize::try_from(unit.read_bytes()).map_err(|_| Error::bug("the hash's plan does not hold"))?,
        0,
    );
    let mut rest = source.as_mut_slice();
    let mut pieces = Vec::with_capacity(unit.reads.len());
    for read in &unit.reads {
        let size =
            usize::try_from(read.size_bytes).map_err(|_| Error::bug("the hash's plan does not hold"))?;
        let (now, later) = std::mem::take(&mut rest)
            .split_at_mut_checked(size)
            .ok_or_else(|| Error::bug("the hash's plan does not hold"))?;
        pieces.push((read.offset_bytes, now));
        rest = later;
    }
    read_pieces(&**file, pieces)?;
    match &unit.fix {
        None => Ok(source),
        Some(fix) => {
            fixed.resize(
                usize::try_from(fix.size_bytes()).map_err(|_| Error::bug("the hash's plan does not hold"))?,
                0,
            );
            fix.apply(source, fixed);
            Ok(fixed)
        }
    }
}

/// Brings pieces, one at a time: through the page cache where it holds them, around it where it does not.
struct Reader {
    slot: Option<Slot>,
    queue: Queue<()>,
}

impl Reader {
    fn new() -> Result<Reader> {
        let (_, mut slots) = Ring::new(1, PIECE_BYTES as usize + 2 * PAGE_BYTES)?;
        Ok(Reader { slot: slots.pop(), queue: Queue::blocking() })
    }

    fn read(&mut self, file: &dyn ReadAt, offset_bytes: u64, size_bytes: u64) -> Result<&[u8]> {
        let (mut skip, size) =
            (0, usize::try_from(size_bytes).map_err(|_| Error::bug("the hash's plan does not hold"))?);
        let mut brought = 0;
        if let Some(direct) = cold(file, offset_bytes, size_bytes) {
            let page = PAGE_BYTES as u64;
            skip = (offset_bytes % page) as usize;
            let slot = self.slot.take().ok_or_else(|| Error::bug("the hash's plan does not hold"))?;
            let asked = (skip + size).next_multiple_of(PAGE_BYTES);
            self.queue.submit(direct, slot, offset_bytes - skip as u64, asked, ());
            let arrived = self.queue.complete().ok_or_else(|| Error::bug("the hash's plan does not hold"))?;
            self.slot = Some(arrived.slot);
            // What did not come is read through the page cache, which also finds the true error.
            brought = arrived.result.unwrap_or(0).saturating_sub(skip).min(size);
        }
        let slot = self.slot.as_mut().ok_or_else(|| Error::bug("the hash's plan does not hold"))?;
        let into =
            slot.get_mut(skip..skip + size).ok_or_else(|| Error::bug("the hash's plan does not hold"))?;
        if brought < size {
            file.read_exact_at(&mut into[brought..], offset_bytes + brought as u64)?;
        }
        Ok(into)
    }
}

/// The file for direct reads, where a range is better read so.
fn cold(file: &dyn ReadAt, offset_bytes: u64, size_bytes: u64) -> Option<&Arc<std::fs::File>> {
    let local = file.as_local()?;
    if size_bytes < DIRECT_BYTES_MIN || file.temper().network {
        return None;
    }
    if residency_ahead(local, offset_bytes..offset_bytes + size_bytes).found.is_hot() {
        return None;
    }
    local.direct().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces joined are BLAKE3 of the whole, for every number of pieces and any last one.
    #[test]
    fn pieces_join_to_the_tree() {
        let piece = 4096usize;
        let bytes: Vec<u8> =
            (0..40 * piece as u32 + 7).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let key = [7; 32];
        for count in 2..=40 {
            for last in [1, 1023, 1024, 1025, piece] {
                let whole = &bytes[..(count - 1) * piece + last];
                let state =
                    State { values: vec![ChainingValue::default(); count], left: count, digest: None };
                let hashing = Hashing { tensor: 0, key, state: Mutex::new(state) };
                for (n, part) in whole.chunks(piece).enumerate().rev() {
                    let mut hasher = blake3::Hasher::new_keyed(&key);
                    let value = hasher.set_input_offset((n * piece) as u64).update(part).finalize_non_root();
                    hashing.note(n, value);
                }
                let got = hashing.state.into_inner().unwrap().digest.unwrap();
                assert_eq!(got.0, *blake3::keyed_hash(&key, whole).as_bytes(), "{count} {last}");
            }
        }
    }
}
