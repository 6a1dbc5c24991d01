//! Memory that many threads fill: the arena, whose disjoint ranges are handed out once each, and the ring of slots
//! through which bytes pass on their way.
//!
//! Both are plain anonymous memory asked for in huge pages. Neither is touched before its first use: fresh memory is
//! the dearest part of a load, so it is paid for once, by the thread that fills it.
#![allow(unsafe_code)]

use crate::error::{Error, ErrorKind, Result};
use crate::text::bytes as bytes_text;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

/// Memory and direct reads are aligned to this, whatever a device would accept.
pub const PAGE_BYTES: usize = 4096;

/// Where the first tensor of a large arena lies: at the start of a huge page.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// What glibc may take from a heap of its own rather than from the system, and keep when it is freed: it learns from what
/// is freed, up to 32 MiB. An arena of this size asks for more, so that its memory goes back at once; what lies beyond its
/// bytes is never touched and costs addresses only.
const HEAP_BYTES_MIN: usize = 128 << 10;
const HEAP_BYTES_MAX: usize = (32 << 20) + PAGE_BYTES;

/// The words an arena is made of: a `Vec` whose element has the width of the dtype, so that it can be given away as a
/// `Vec` of that type without a copy.
#[derive(Debug)]
enum Words {
    W1(Vec<u8>),
    W2(Vec<u16>),
    W4(Vec<u32>),
    W8(Vec<u64>),
}

/// Zeroed memory for the tensors of one dtype, owned.
///
/// The memory comes zeroed from the system and lazily, so making an arena touches nothing.
#[derive(Debug)]
pub struct Arena {
    words: Words,
    lead_bytes: usize,
    size_bytes: usize,
}

/// Reads as bytes; the width is that of the vector's element.
macro_rules! each_width {
    ($words:expr, $v:ident => $body:expr) => {
        match $words {
            Words::W1($v) => $body,
            Words::W2($v) => $body,
            Words::W4($v) => $body,
            Words::W8($v) => $body,
        }
    };
}

impl Arena {
    /// An arena of `size_bytes` for elements of `element_bytes` (1, 2, 4 or 8; anything else is kept as bytes). The
    /// first byte is aligned to 4 KiB, in an arena of several huge pages to a huge page.
    pub fn new(size_bytes: u64, element_bytes: u32) -> Result<Arena> {
        let no_memory =
            || Error::new(ErrorKind::NoSpace, format!("no memory for {} of tensors", bytes_text(size_bytes)));
        let size_bytes = usize::try_from(size_bytes).map_err(|_| no_memory())?;
        let align = if size_bytes >= 2 * HUGE_PAGE_BYTES { HUGE_PAGE_BYTES } else { PAGE_BYTES };
        let total = size_bytes.checked_add(align).ok_or_else(no_memory)?;
        let total = if (HEAP_BYTES_MIN..HEAP_BYTES_MAX).contains(&total) { HEAP_BYTES_MAX } else { total };
        let words = match element_bytes {
            2 => Words::W2(zeroed(total).ok_or_else(no_memory)?),
            4 => Words::W4(zeroed(total).ok_or_else(no_memory)?),
            8 => Words::W8(zeroed(total).ok_or_else(no_memory)?),
            _ => Words::W1(zeroed(total).ok_or_else(no_memory)?),
        };
        let address = each_width!(&words, v => v.as_ptr() as usize);
        let arena = Arena { words, lead_bytes: address.next_multiple_of(align) - address, size_bytes };
        advise_huge_pages(address + arena.lead_bytes, size_bytes);
        Ok(arena)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        let all = each_width!(&self.words, v => bytes_of(v));
        all.get(self.lead_bytes..self.lead_bytes + self.size_bytes).unwrap_or(&[])
    }

    /// How many bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes as u64
    }

    /// Gives the memory away as the vector it is, with the index of the element at the arena's first byte. `None` where
    /// `T` does not have the width the arena was made for.
    pub fn into_vec<T: Element>(self) -> Option<(Vec<T>, usize)> {
        let lead = self.lead_bytes / size_of::<T>();
        T::from_words(WordVec(self.words)).map(|v| (v, lead))
    }
}

/// An arena's memory on its way to a typed vector.
#[derive(Debug)]
pub struct WordVec(Words);

/// Types whose vectors an arena can become.
pub trait Element: Sized {
    /// The vector, if the width fits.
    fn from_words(words: WordVec) -> Option<Vec<Self>>;
}

macro_rules! elements {
    ($($variant:ident: $($t:ty)*;)*) => {$($(
        impl Element for $t {
            fn from_words(words: WordVec) -> Option<Vec<Self>> {
                match words.0 {
                    Words::$variant(v) => {
                        let mut v = std::mem::ManuallyDrop::new(v);
                        // SAFETY: the element types of one row have equal size and alignment and any bit pattern is
                        // valid; length and capacity are unchanged and the old vector is not dropped.
                        Some(unsafe { Vec::from_raw_parts(v.as_mut_ptr().cast::<$t>(), v.len(), v.capacity()) })
                    }
                    _ => None,
                }
            }
        }
    )*)*};
}

elements! {
    W1: u8 i8;
    W2: u16 i16 half::f16 half::bf16;
    W4: u32 i32 f32;
    W8: u64 i64 f64;
}

/// A zeroed vector of at least `size_bytes`, or `None` where there is no memory. Never touches what it gets.
fn zeroed<T: Copy>(size_bytes: usize) -> Option<Vec<T>> {
    let count = size_bytes.div_ceil(size_of::<T>()).max(1);
    let layout = std::alloc::Layout::array::<T>(count).ok()?;
    // SAFETY: the layout is not empty; all-zero bytes are valid for the unsigned integers this is used with; the vector
    // takes memory of exactly the layout that it will give back.
    unsafe {
        let start = NonNull::new(std::alloc::alloc_zeroed(layout).cast::<T>())?;
        Some(Vec::from_raw_parts(start.as_ptr(), count, count))
    }
}

fn bytes_of<T: Copy>(v: &[T]) -> &[u8] {
    // SAFETY: only called with unsigned integers, which have no padding; the length is that of the slice.
    unsafe { std::slice::from_raw_parts(v.as_ptr().cast::<u8>(), size_of_val(v)) }
}

/// Asks for huge pages on the whole pages inside a range; a refusal changes nothing.
fn advise_huge_pages(address: usize, size_bytes: usize) {
    #[cfg(target_os = "linux")]
    {
        let start = address.next_multiple_of(PAGE_BYTES);
        let end = (address + size_bytes) & !(PAGE_BYTES - 1);
        if end > start && end - start >= HUGE_PAGE_BYTES {
            // SAFETY: the range lies inside memory we own; MADV_HUGEPAGE changes no contents.
            unsafe {
                libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE);
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (address, size_bytes);
}

/// An arena while it is filled: each byte is handed out at most once, so any number of threads may write.
///
/// Invariants:
/// 1. `start` points to `size_bytes` bytes of `arena`, which is neither moved nor read until [`Filling::finish`].
/// 2. `taken` holds disjoint ranges, and every slice ever handed out lies in one of them.
#[derive(Debug)]
pub struct Filling {
    arena: Arena,
    start: NonNull<u8>,
    taken: Mutex<BTreeMap<usize, usize>>,
}

// SAFETY: shared access only hands out disjoint slices (invariant 2), guarded by the mutex.
unsafe impl Sync for Filling {}
// SAFETY: the pointer is to memory that the value owns (invariant 1).
unsafe impl Send for Filling {}

impl Filling {
    /// Starts filling an arena.
    pub fn new(mut arena: Arena) -> Filling {
        let first = each_width!(&mut arena.words, v => v.as_mut_ptr().cast::<u8>());
        // SAFETY: lead + size lie within the vector, by construction.
        let start = unsafe { first.add(arena.lead_bytes) };
        let start = NonNull::new(start).unwrap_or(NonNull::dangling());
        Filling { arena, start, taken: Mutex::new(BTreeMap::new()) }
    }

    /// A range nobody has been given yet; `None` if any byte of it was, or it reaches outside.
    #[allow(clippy::mut_from_ref)] // that is its purpose: invariant 2
    pub fn take(&self, offset_bytes: u64, size_bytes: u64) -> Option<&mut [u8]> {
        let start = usize::try_from(offset_bytes).ok()?;
        let size = usize::try_from(size_bytes).ok()?;
        let end = start.checked_add(size).filter(|&e| e <= self.arena.size_bytes)?;
        if size == 0 {
            return Some(&mut []);
        }
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let before = taken.range(..end).next_back().map(|(&s, &e)| (s, e));
        let joins_before = match before {
            Some((_, e)) if e > start => return None,
            Some((s, e)) if e == start => Some(s),
            _ => None,
        };
        // Neighbours are joined, so that the map stays as small as the number of holes.
        let new_end = taken.remove(&end).unwrap_or(end);
        taken.insert(joins_before.unwrap_or(start), new_end);
        drop(taken);
        // SAFETY: inside the arena (invariant 1) and disjoint from every other slice (invariant 2).
        Some(unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(start), size) })
    }

    /// The arena, filled. The borrow checker has seen every slice go.
    pub fn finish(self) -> Arena {
        self.arena
    }
}

/// An anonymous mapping, aligned to 2 MiB.
#[derive(Debug)]
pub struct Mapping {
    map: memmap2::MmapMut,
    lead_bytes: usize,
    size_bytes: usize,
}

/// A ring: one mapping cut into equal slots. Slots are owned, pass from hand to hand, and keep the mapping alive.
#[derive(Debug, Clone)]
pub struct Ring {
    mapping: Arc<Mapping>,
}

impl Ring {
    /// Maps `slot_count` slots of `slot_bytes` (a multiple of 4 KiB) and gives out all of them. Nothing is touched
    /// yet: see [`Ring::prefault`].
    pub fn new(slot_count: usize, slot_bytes: usize) -> Result<(Ring, Vec<Slot>)> {
        debug_assert!(slot_bytes.is_multiple_of(PAGE_BYTES));
        let size_bytes = slot_count * slot_bytes;
        let map = memmap2::MmapMut::map_anon(size_bytes + HUGE_PAGE_BYTES)
            .map_err(|e| Error::io(format!("no memory for {size_bytes} bytes of buffers"), e))?;
        let address = map.as_ptr() as usize;
        let lead_bytes = address.next_multiple_of(HUGE_PAGE_BYTES) - address;
        advise_huge_pages(address + lead_bytes, size_bytes);
        let mapping = Arc::new(Mapping { map, lead_bytes, size_bytes });
        let slots = (0..slot_count)
            .map(|index| {
                // SAFETY: lead + size lie within the mapping; slots are disjoint.
                let start = unsafe { mapping.map.as_ptr().add(lead_bytes + index * slot_bytes).cast_mut() };
                Slot {
                    start: NonNull::new(start).unwrap_or(NonNull::dangling()),
                    size_bytes: slot_bytes,
                    index,
                    _mapping: Arc::clone(&mapping),
                }
            })
            .collect();
        Ok((Ring { mapping }, slots))
    }

    /// The first address of the slots.
    pub fn start(&self) -> *const u8 {
        // SAFETY: lead lies within the mapping.
        unsafe { self.mapping.map.as_ptr().add(self.mapping.lead_bytes) }
    }

    /// Bytes of all slots.
    pub fn size_bytes(&self) -> usize {
        self.mapping.size_bytes
    }

    /// Makes every page present, so that registering the memory with a driver only pins it.
    pub fn prefault(slots: &mut [Slot]) {
        for slot in slots {
            for page in slot.chunks_mut(PAGE_BYTES) {
                page[0] = 0;
            }
        }
    }
}

/// One slot of a ring: bytes that are owned by whoever holds the value.
///
/// Invariant: `start..start + size_bytes` lies inside the mapping, which lives as long as the slot, and belongs to this
/// slot alone.
#[derive(Debug)]
pub struct Slot {
    start: NonNull<u8>,
    size_bytes: usize,
    index: usize,
    _mapping: Arc<Mapping>,
}

// SAFETY: the bytes belong to this slot alone (invariant).
unsafe impl Send for Slot {}
// SAFETY: shared access only reads.
unsafe impl Sync for Slot {}

impl Slot {
    /// Its place in the ring.
    pub fn index(&self) -> usize {
        self.index
    }
}

impl Deref for Slot {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the invariant.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.size_bytes) }
    }
}

impl DerefMut for Slot {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the invariant, and `&mut self`.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.size_bytes) }
    }
}

/// A range as `usize`, where it fits.
pub fn usize_range(range: Range<u64>) -> Option<Range<usize>> {
    Some(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_handed_out_once() {
        let filling = Filling::new(Arena::new(100, 4).unwrap());
        filling.take(10, 10).unwrap().fill(1);
        filling.take(20, 10).unwrap().fill(2);
        filling.take(0, 10).unwrap().fill(3);
        for (offset, size) in [(0, 1), (29, 1), (5, 50), (29, 71), (100, 1), (99, 2), (u64::MAX, 2)] {
            assert!(filling.take(offset, size).is_none(), "{offset}+{size}");
        }
        filling.take(30, 70).unwrap().fill(4);
        assert_eq!(filling.taken.lock().unwrap().len(), 1);
        let arena = filling.finish();
        let sums = [(0, 3u32), (10, 1), (20, 2), (30, 4)].map(|(at, n)| (u32::from(arena.as_bytes()[at]), n));
        assert!(sums.iter().all(|(a, b)| a == b));
        let (v, lead) = arena.into_vec::<f32>().unwrap();
        assert_eq!(v[lead].to_bits(), 0x0303_0303);
        assert_eq!(v[lead..].as_ptr() as usize % 4096, 0);
    }

    #[test]
    fn an_arena_becomes_only_its_own_width() {
        assert!(Arena::new(8, 2).unwrap().into_vec::<f32>().is_none());
        assert!(Arena::new(8, 2).unwrap().into_vec::<half::bf16>().is_some());
        assert!(Arena::new(0, 16).unwrap().as_bytes().is_empty());
    }

    #[test]
    fn slots_are_apart() {
        let (ring, mut slots) = Ring::new(3, 8192).unwrap();
        Ring::prefault(&mut slots);
        for (i, slot) in slots.iter_mut().enumerate() {
            slot.fill(i as u8 + 1);
        }
        assert_eq!(ring.size_bytes(), 3 * 8192);
        assert_eq!(ring.start() as usize % (2 << 20), 0);
        assert!(slots.iter().enumerate().all(|(i, s)| s.iter().all(|&b| b == i as u8 + 1)));
    }
}
