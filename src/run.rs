//! Carries a plan out: threads, queues, back-pressure, events, cancellation.
//!
//! Each worker takes the next unit when it is ready for one, so no file's end and no slow disk stalls another. How a
//! unit is read is decided when its turn comes: straight into its final place where the sink has one that the CPU can
//! address; else into a slot, through the page cache where it holds the bytes and around it where it does not.

mod budget;
pub mod examine;
pub mod fill;
pub mod globals;
pub mod job;
pub mod make;
mod pack;
mod threads;
pub mod weave;
mod worker;

pub use threads::parallel;

use crate::buf::Slot;
use crate::error::Result;
use crate::open::Model;
use crate::plan::Plan;
use crate::sink::Sink;
use job::Control;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Threads that pay off where a GPU takes bytes as fast as eight cores bring them.
pub const GPU_THREADS_MAX: usize = 12;
/// Readers of cold or distant files where the kernel's ring is missing: each has one read in flight.
pub const BLOCKING_READERS: usize = 16;

/// How files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Io {
    /// Through the page cache where it holds the bytes, around it where it does not.
    #[default]
    Auto,
    /// Around the page cache.
    Direct,
    /// Through the page cache.
    Buffered,
}

/// What is run, and with what.
pub struct Run<'a> {
    /// The model that the plan is of.
    pub model: &'a Model,
    /// The plan.
    pub plan: &'a Plan,
    /// Where bytes go.
    pub sink: &'a dyn Sink,
    /// How files are read.
    pub io: Io,
    /// How many workers.
    pub threads: usize,
    /// Whether direct reads are likely: then each worker has its slots registered for them beforehand.
    pub expects_direct: bool,
    /// Whether pages are dropped from the page cache once they were read (on a device that shares the host's memory).
    pub drop_cache: bool,
}

/// Which ways the bytes took.
#[derive(Debug, Default)]
pub struct Traffic {
    cached: AtomicU64,
    buffered: AtomicU64,
    direct: AtomicU64,
    ring: AtomicU64,
    fallbacks: Mutex<BTreeSet<String>>,
}

impl Traffic {
    fn add(counter: &AtomicU64, bytes: u64) {
        counter.fetch_add(bytes, Ordering::Relaxed);
    }

    fn fall_back(&self, reason: String) {
        self.fallbacks.lock().unwrap_or_else(PoisonError::into_inner).insert(reason);
    }

    /// Bytes that the page cache held.
    pub fn cached_bytes(&self) -> u64 {
        self.cached.load(Ordering::Relaxed)
    }

    /// Bytes read through the page cache, which did not hold them or could not be asked.
    pub fn buffered_bytes(&self) -> u64 {
        self.buffered.load(Ordering::Relaxed)
    }

    /// Bytes read around the page cache.
    pub fn direct_bytes(&self) -> u64 {
        self.direct.load(Ordering::Relaxed)
    }

    /// Workers whose direct reads went through the kernel's ring.
    pub fn ring_count(&self) -> u64 {
        self.ring.load(Ordering::Relaxed)
    }

    /// What was tried and refused, with reasons.
    pub fn fallbacks(&self) -> Vec<String> {
        self.fallbacks.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// Runs the plan; `slots` are shared out among the workers and come back.
pub fn run(run: &Run<'_>, slots: Vec<Slot>, control: &Control) -> Result<(Traffic, Vec<Slot>)> {
    let traffic = Traffic::default();
    let units = Mutex::new(run.plan.units());
    let mut shares: Vec<Vec<Slot>> = (0..run.threads).map(|_| Vec::new()).collect();
    // Neighbouring slots stay together, so that a worker's share is one run of memory; none is left without.
    let total = slots.len().max(1);
    for (index, slot) in slots.into_iter().enumerate() {
        if let Some(share) = shares.get_mut(index * run.threads / total) {
            share.push(slot);
        }
    }
    let shares: Vec<Mutex<Vec<Slot>>> = shares.into_iter().map(Mutex::new).collect();
    let returned = Mutex::new(Vec::new());
    // For each file the last range that was found wholly in the page cache.
    let hot: Vec<Mutex<Range<u64>>> = run.model.files.iter().map(|_| Mutex::new(0..0)).collect();
    parallel("read", run.threads, control, |index| {
        let share =
            shares.get(index).map(|s| std::mem::take(&mut *s.lock().unwrap_or_else(PoisonError::into_inner)));
        let next = || units.lock().unwrap_or_else(PoisonError::into_inner).next();
        let slots = worker::work(run, index, share.unwrap_or_default(), &next, &traffic, &hot, control)?;
        returned.lock().unwrap_or_else(PoisonError::into_inner).extend(slots);
        Ok(())
    })?;
    Ok((traffic, returned.into_inner().unwrap_or_else(PoisonError::into_inner)))
}
