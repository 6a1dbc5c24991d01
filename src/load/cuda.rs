//! Loading into GPU memory.

use super::tensors::{Loaded, Memory, Report};
use super::{Loader, check, summary};
use crate::buf::Slot;
use crate::dtype::DType;
use crate::error::Result;
use crate::machine;
use crate::plan::{Cut, Output, Plan, Target};
use crate::run::job::Control;
use crate::run::{self, Run};
use crate::sink::cuda::{CudaSink, Pinned};
use crate::sink::{GPU_CHUNK_BYTES, SLOT_MARGIN_BYTES};
use std::sync::Arc;
use std::time::Instant;

/// Tensors begin at multiples of this.
pub(super) const ALIGN_BYTES: u64 = 256;
/// Between them, with the staging for casts, a ring's size, less than 64 MiB.
pub(super) const PADDING_BYTES_MAX: u64 = 15 << 20;

impl Loader<'_> {
    pub(super) fn load_cuda(self, mut pinned: Pinned) -> Result<Loaded> {
        let facts = pinned.gpu().facts().clone();
        pinned.gpu().bind()?;
        let wide = facts.compute_capability.0 >= 8;
        let items = self.items(if wide { DType::BF16 } else { DType::F16 })?;
        let target = Target {
            align_bytes: ALIGN_BYTES,
            padding_bytes_max: PADDING_BYTES_MAX,
            chunk_bytes: GPU_CHUNK_BYTES,
            cut: Cut::File,
        };
        let plan = Plan::new(&self.model, &items, &target)?;
        let mut report = self.report(&format!("cuda:{}", facts.ordinal), &plan);
        let free_bytes = describe(&pinned, &mut report)?;
        let threads = self.threads(&plan, machine::core_count().clamp(2, run::GPU_THREADS_MAX), &mut report);
        let mut casts: Vec<(DType, DType)> = items
            .iter()
            .map(|i| (self.model.table.tensors[i.tensor].dtype, i.dtype))
            .filter(|(from, to)| from != to)
            .collect();
        casts.sort_unstable();
        casts.dedup();
        let slot_bytes = GPU_CHUNK_BYTES as usize + SLOT_MARGIN_BYTES;
        let staging_bytes = CudaSink::staging_bytes(!casts.is_empty(), pinned.slot_count(), slot_bytes);
        report.needed_bytes = plan.arena_bytes().saturating_add(staging_bytes);
        self.control.plan(summary(&report), plan.output_bytes);
        let slots = (pinned.slot_count(), slot_bytes);
        CudaSink::check_room(&pinned, &plan, !casts.is_empty(), slots, free_bytes)?;
        if self.options.dry_run {
            return Ok(Loaded::nothing(report));
        }
        if self.options.measure {
            report.limit_bytes_per_second = pinned.measure().ok();
        }
        let slots = pinned.take_slots();
        let before = pinned.gpu().memory()?.free_bytes;
        let started = Instant::now();
        let cpu = machine::cpu_time();
        let sink = CudaSink::new(
            pinned,
            &plan,
            &casts,
            (slots.len(), slot_bytes),
            (self.options.saturate, self.options.check, self.options.trace),
        )?;
        let job = Run {
            model: &self.model,
            plan: &plan,
            sink: &sink,
            io: self.options.io,
            threads,
            expects_direct: report.cold,
            drop_cache: facts.integrated && !self.options.keep_cache,
        };
        let (traffic, mut slots) = run::run(&job, slots, self.control)?;
        report.took(started, cpu);
        measured(&sink, &plan, before, &mut report, self.control)?;
        self.settle(&mut report, &traffic, sink.overflow_count(&mut slots)?)?;
        arrived(sink, &plan, report, self.options.check.then_some(slots), self.control)
    }
}

/// Says of a GPU what is known before anything moves. Returns how much of its memory is free.
pub(super) fn describe(pinned: &Pinned, report: &mut Report) -> Result<u64> {
    let facts = pinned.gpu().facts();
    let free_bytes = pinned.gpu().memory()?.free_bytes;
    let free_bytes = match facts.integrated {
        true => machine::available_memory_bytes().unwrap_or(free_bytes),
        false => free_bytes,
    };
    report.form = "device";
    report.gpu = Some(facts.clone());
    report.pinned_bytes = pinned.pinned_bytes();
    report.notes.extend(pinned.refused().map(str::to_string));
    report.free_bytes = Some(free_bytes);
    Ok(free_bytes)
}

/// What the device did meanwhile, and what it took of the memory that was free before.
pub(super) fn measured(
    sink: &CudaSink,
    plan: &Plan,
    free_bytes: u64,
    report: &mut Report,
    control: &Control,
) -> Result<()> {
    if let Some((origin, copies)) = sink.copies() {
        for c in copies {
            control.copy_span(c.stream, c.bytes, origin, c.after_seconds, c.seconds);
        }
    }
    let taken = free_bytes.saturating_sub(sink.pinned().gpu().memory()?.free_bytes);
    report.device_extra_bytes = Some(taken.saturating_sub(plan.output_bytes));
    Ok(())
}

/// What has arrived in a sink, as tensors; compared with what was sent where there are slots for it to come back through.
pub(super) fn arrived(
    sink: CudaSink,
    plan: &Plan,
    mut report: Report,
    check_through: Option<Vec<Slot>>,
    control: &Control,
) -> Result<Loaded> {
    report.check = check_through.map(|slots| check::device(plan, &sink, slots, control)).transpose()?;
    let arenas: Vec<_> = sink.finish()?.into_iter().map(Arc::new).collect();
    let memory_of =
        |output: &Output| (Memory::Device(Arc::clone(&arenas[output.arena.index()])), output.offset_bytes);
    Ok(Loaded::new(plan, memory_of, report))
}
