//! Loading into host memory: mapped, or read into arenas.

use super::tensors::{Loaded, Memory, Report};
use super::{Form, Loader, check, summary};
use crate::buf::Ring;
use crate::dtype::DType;
use crate::error::{Error, ErrorKind, Result};
use crate::machine;
use crate::plan::{Cut, Output, Plan, Target};
use crate::run::job::Control;
use crate::run::{self, BLOCKING_READERS, Io, Run};
use crate::sink::SLOT_MARGIN_BYTES;
use crate::sink::host::HostSink;
use crate::source::local::mapped::Mapped;
use crate::text::bytes as bytes_text;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Bytes a unit reads at most into host memory: a huge page, so that two workers do not fault in the same one.
pub(super) const HOST_CHUNK_BYTES: u64 = 2 << 20;
/// The same where each unit is a request to a server: two huge pages.
const FAR_CHUNK_BYTES: u64 = 2 * HOST_CHUNK_BYTES;
/// Bytes one thread makes present at a go.
const POPULATE_BYTES: u64 = 16 << 20;

/// What has arrived in a sink, as tensors; compared with what was sent where that is asked for.
pub(super) fn arrived(
    sink: HostSink,
    plan: &Plan,
    report: Report,
    is_checked: bool,
    control: &Control,
) -> Result<Loaded> {
    let arrivals = sink.record.take();
    let arenas: Vec<_> = sink.finish().into_iter().map(Arc::new).collect();
    let memory_of =
        |output: &Output| (Memory::Host(Arc::clone(&arenas[output.arena.index()])), output.offset_bytes);
    let threads = report.threads;
    let mut loaded = Loaded::new(plan, memory_of, report);
    if is_checked {
        check::host(&mut loaded, plan, &arenas, &arrivals, threads, control)?;
    }
    Ok(loaded)
}

impl Loader<'_> {
    pub(super) fn load_host(self, reason: Option<String>) -> Result<Loaded> {
        let items = self.items(DType::F32)?;
        let whole = items.iter().all(|item| {
            let tensor = &self.model.table.tensors[item.tensor];
            item.slice.is_none() && item.dtype == tensor.dtype && tensor.at.is_plain()
        });
        let is_local = self.model.files.iter().all(|f| f.as_local().is_some());
        let near = is_local && !self.model.crosses_network();
        // Around the page cache means into memory of one's own.
        let mapped = whole && near && self.options.form == Form::Auto && self.options.io != Io::Direct;
        let target = Target {
            align_bytes: 64,
            padding_bytes_max: u64::MAX,
            chunk_bytes: if is_local { HOST_CHUNK_BYTES } else { FAR_CHUNK_BYTES },
            cut: Cut::Arena,
        };
        let plan = Plan::new(&self.model, &items, &target)?;
        let mut report = self.report("cpu", &plan);
        report.fallback_reason = reason;
        report.form = if mapped { "mapped" } else { "owned" };
        if mapped { self.load_mapped(plan, report) } else { self.load_owned(plan, report) }
    }

    fn load_mapped(self, plan: Plan, mut report: Report) -> Result<Loaded> {
        let limit = self.options.memory_bytes.or_else(machine::available_memory_bytes).unwrap_or(u64::MAX);
        let mut fits = limit;
        if plan.read_bytes > limit {
            report.notes.push(format!(
                "{} do not fit into {} of memory: the rest is read when it is used",
                bytes_text(plan.read_bytes),
                bytes_text(limit)
            ));
        }
        self.control.plan(summary(&report), plan.read_bytes);
        if self.options.dry_run {
            return Ok(Loaded::nothing(report));
        }
        let started = Instant::now();
        let cpu = machine::cpu_time();
        let mut maps: Vec<Option<Arc<Mapped>>> = vec![None; self.model.files.len()];
        let mut windows: Vec<(usize, Range<u64>)> = Vec::new();
        // A window is not given up half-way: where a disk must bring it, it is small enough to be cancelled in time.
        let hot = report.cached_fraction.is_none_or(|f| f >= 0.9);
        let window_bytes = if hot { POPULATE_BYTES } else { POPULATE_BYTES / 8 };
        for (file, range) in plan.ranges() {
            let slot = &mut maps[file.index()];
            if slot.is_none()
                && let Some(local) = self.model.files[file.index()].as_local()
            {
                *slot = Some(Arc::new(Mapped::new(local).map_err(|e| self.name(e, file.index()))?));
            }
            let end = range.end.min(range.start.saturating_add(fits));
            fits -= end - range.start;
            report.present_bytes += end - range.start;
            let mut at = range.start;
            while at < end {
                let next = end.min(at - at % window_bytes + window_bytes);
                windows.push((file.index(), at..next));
                at = next;
            }
        }
        let next = AtomicUsize::new(0);
        let threads = self.options.threads.unwrap_or_else(machine::core_count).min(windows.len()).max(1);
        report.threads = threads;
        run::parallel("map", threads, self.control, |lane| {
            while !self.control.is_stopped() {
                let Some((file, window)) = windows.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                let begun = Instant::now();
                if let Some(map) = &maps[*file] {
                    map.populate(window.clone()).map_err(|e| self.name(e, *file))?;
                }
                let size = window.end - window.start;
                self.control.span(lane, "populate", *file as u32, window.start, size, begun);
                self.control.moved(size);
            }
            Ok(())
        })?;
        report.took(started, cpu);
        report.bytes_moved = 0;
        self.finish_files()?;
        let memories: Vec<Memory> =
            maps.into_iter().map(|m| m.map_or(Memory::Nothing, Memory::Mapped)).collect();
        let memory_of = |output: &Output| {
            let span = self.model.table.tensors[output.tensor].at.span;
            (memories[span.file.index()].clone(), span.offset_bytes)
        };
        let mut loaded = Loaded::new(&plan, memory_of, report);
        if self.options.check {
            check::mapped(&mut loaded, &plan, &self.model, threads, self.control)?;
        }
        self.measure(&mut loaded.report);
        Ok(loaded)
    }

    fn load_owned(self, plan: Plan, mut report: Report) -> Result<Loaded> {
        let threads = self.threads(&plan, machine::core_count().clamp(1, BLOCKING_READERS), &mut report);
        // Slots are only touched where bytes cannot go straight to their place.
        let slot_count = threads * if report.cold { 24usize.div_ceil(threads).clamp(2, 8) } else { 2 };
        let slot_bytes = plan.chunk_bytes() as usize + SLOT_MARGIN_BYTES;
        let limit = self.options.memory_bytes.or_else(machine::available_memory_bytes);
        if let Some(limit) = limit.filter(|&l| plan.arena_bytes() > l) {
            let whose = if self.options.memory_bytes.is_some() { "allowed" } else { "available" };
            let message = format!(
                "{} of memory are {whose}, this load needs {}",
                bytes_text(limit),
                bytes_text(plan.arena_bytes())
            );
            return Err(Error::new(ErrorKind::NoSpace, message)
                .hint("--include loads a part; without --copy and --dtype files are mapped, which takes no memory of its own"));
        }
        self.control.plan(summary(&report), plan.output_bytes);
        if self.options.dry_run {
            return Ok(Loaded::nothing(report));
        }
        let started = Instant::now();
        let cpu = machine::cpu_time();
        let (ring, slots) = Ring::new(slot_count, slot_bytes)?;
        let sink = HostSink::new(&plan, self.options.saturate, self.options.check)?;
        let job = Run {
            model: &self.model,
            plan: &plan,
            sink: &sink,
            io: self.options.io,
            threads,
            expects_direct: report.cold,
            drop_cache: false,
        };
        let (traffic, slots) = run::run(&job, slots, self.control)?;
        report.took(started, cpu);
        drop((ring, slots));
        self.settle(&mut report, &traffic, sink.overflow_count())?;
        let mut loaded = arrived(sink, &plan, report, self.options.check, self.control)?;
        self.measure(&mut loaded.report);
        Ok(loaded)
    }

    /// Adds what this machine can do to the report. To be called last: a sample that fails stops whoever looks at the
    /// control.
    fn measure(&self, report: &mut Report) {
        // What was read around the page cache is not in it, and a sample would say how slow a cold read is.
        let cached = report.direct_bytes <= report.read_bytes / 2;
        // A sample from a server would say what its way bears, and cost it once more.
        let is_local = self.model.files.iter().all(|f| f.as_local().is_some());
        if self.options.measure && cached && is_local {
            report.limit_bytes_per_second = self.measure_reads(report.threads);
        }
    }

    /// What a bare loop of reads into fresh memory reaches on this machine, in bytes a second: a sample from the
    /// largest file, which is hot by now.
    fn measure_reads(&self, threads: usize) -> Option<f64> {
        const SAMPLE_BYTES: u64 = 32 << 20;
        let file = self.model.files.iter().max_by_key(|f| f.size_bytes())?;
        let each = (SAMPLE_BYTES / threads as u64).min(file.size_bytes() / threads as u64) & !0xfff;
        if each == 0 {
            return None;
        }
        let started = Instant::now();
        run::parallel("sample", threads, self.control, |n| {
            let (_ring, mut slots) = Ring::new(1, each as usize)?;
            let at = n as u64 * each;
            for slot in &mut slots {
                for (i, chunk) in slot.chunks_mut(HOST_CHUNK_BYTES as usize).enumerate() {
                    file.read_exact_at(chunk, at + i as u64 * HOST_CHUNK_BYTES)?;
                }
            }
            Ok(())
        })
        .ok()?;
        Some((each * threads as u64) as f64 / started.elapsed().as_secs_f64())
    }
}
