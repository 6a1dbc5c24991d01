//! One stream of events, four readers: a bar, plain lines, JSON lines, a trace.

use super::{Common, Progress, no_color, say};
use crossbeam_channel::RecvTimeoutError;
use hoist::run::job::{Event, Job, Lane};
use hoist::text::{Shown, bytes, rate};
use hoist::{Error, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often a plain line is printed.
const PLAIN_EVERY: Duration = Duration::from_secs(10);
/// How often a signal is looked for.
const TICK: Duration = Duration::from_millis(50);

/// Shows what a job does.
pub(crate) struct Watch {
    progress: Progress,
    quiet: bool,
    verb: &'static str,
    bar: Option<ProgressBar>,
    told: Instant,
    moved_bytes: u64,
    /// The file of many that moved last, and how far it is.
    file: String,
}

impl Watch {
    /// A watch; `verb` begins each line.
    pub(crate) fn new(common: &Common, verb: &'static str) -> Watch {
        Watch {
            progress: common.progress(),
            quiet: common.quiet,
            verb,
            bar: None,
            told: Instant::now(),
            moved_bytes: 0,
            file: String::new(),
        }
    }

    /// Follows a job to its end, cancelling it when `cancel` is set. Gives the spans, where a trace is wanted.
    pub(crate) fn follow<T>(mut self, job: &Job<T>, cancel: &AtomicBool, keep_spans: bool) -> Vec<Event> {
        let mut spans = Vec::new();
        loop {
            let event = job.events().recv_timeout(TICK);
            if cancel.load(Ordering::Relaxed) {
                job.cancel();
            }
            match event {
                Ok(span @ Event::Span { .. }) if keep_spans => spans.push(span),
                Ok(event) => self.show(&event),
                Err(RecvTimeoutError::Timeout) if job.is_done() => break,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if job.is_done() && job.events().is_empty() {
                break;
            }
        }
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        if self.progress == Progress::Json {
            say(&json!({"event": "ended", "bytes": self.moved_bytes}).to_string());
        }
        spans
    }

    fn show(&mut self, event: &Event) {
        match event {
            Event::Planned { summary, total_bytes } => {
                match self.progress {
                    Progress::Json => {
                        say(&json!({"event": "planned", "summary": summary, "total_bytes": total_bytes})
                            .to_string());
                    }
                    _ if !self.quiet => say(&format!("→ {summary}")),
                    _ => {}
                }
                if self.progress == Progress::Bar {
                    self.bar = Some(bar(*total_bytes));
                }
            }
            Event::File { name, bytes, total_bytes } => self.file(name, *bytes, *total_bytes),
            Event::Step { label, done, total, seconds } => self.stepped(label, *done, *total, *seconds),
            Event::Moved { bytes: moved, total_bytes, seconds } => self.moved(*moved, *total_bytes, *seconds),
            _ => {}
        }
    }

    fn file(&mut self, name: &str, so_far: u64, total: u64) {
        match self.progress {
            Progress::Json => {
                let line = json!({"event": "file", "name": name, "bytes": so_far, "total_bytes": total});
                say(&line.to_string());
            }
            // Told with the next figure of the whole.
            Progress::Bar | Progress::Plain => {
                let percent = so_far as f64 / total.max(1) as f64 * 100.0;
                self.file = format!("   {} {percent:.0} %", Shown(name));
            }
            _ => {}
        }
    }

    fn stepped(&mut self, label: &str, done: u64, total: u64, seconds: f64) {
        match self.progress {
            Progress::Bar => {
                let bar = self.bar.get_or_insert_with(|| bar(total));
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(label.to_owned());
            }
            Progress::Plain if self.told.elapsed() >= PLAIN_EVERY => {
                self.told = Instant::now();
                let done = done.min(total).max(1) as f64;
                let percent = done / total.max(1) as f64 * 100.0;
                let left = seconds / done * (total as f64 - done).max(0.0);
                say(&format!("{} {label} {percent:.0} % eta {}", self.verb, clock(left)));
            }
            Progress::Json => {
                let line = json!({"event": "step", "label": label, "done": done, "total": total, "seconds": seconds});
                say(&line.to_string());
            }
            _ => {}
        }
    }

    fn moved(&mut self, moved: u64, total: u64, seconds: f64) {
        self.moved_bytes = moved;
        let speed = rate(moved, seconds);
        match self.progress {
            Progress::Bar => {
                if let Some(bar) = &self.bar {
                    bar.set_position(moved);
                    bar.set_message(format!("{} / {}   {speed}{}", bytes(moved), bytes(total), self.file));
                }
            }
            Progress::Plain if self.told.elapsed() >= PLAIN_EVERY => {
                self.told = Instant::now();
                let percent = moved as f64 / total.max(1) as f64 * 100.0;
                let left = (total.saturating_sub(moved)) as f64 / (moved as f64 / seconds.max(1e-9)).max(1.0);
                say(&format!(
                    "{} {}/{} {percent:.0} % {speed} eta {}{}",
                    self.verb,
                    bytes(moved),
                    bytes(total),
                    clock(left),
                    self.file
                ));
            }
            Progress::Json => {
                let line =
                    json!({"event": "moved", "bytes": moved, "total_bytes": total, "seconds": seconds});
                say(&line.to_string());
            }
            _ => {}
        }
    }
}

fn bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let template = if no_color() { "  {bar:30}  {msg}" } else { "  {bar:30.cyan}  {msg}" };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style.progress_chars("━╸ ")),
        Err(_) => bar,
    }
}

/// Seconds as hours, minutes and seconds.
fn clock(seconds: f64) -> String {
    let seconds = seconds as u64;
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// A trace that Chrome and Perfetto open: one lane a worker and a stream. Its file is made before anything moves, so
/// that a path that cannot be written costs nothing.
pub(crate) struct Trace {
    path: PathBuf,
    file: File,
}

impl Trace {
    /// Makes the file.
    pub(crate) fn create(path: &Path) -> Result<Trace> {
        let file = File::create(path)
            .map_err(|e| Error::io("the trace cannot be written", e).file(path.display().to_string()))?;
        Ok(Trace { path: path.to_owned(), file })
    }

    /// Writes what was done.
    pub(crate) fn write(self, spans: &[Event]) -> Result<()> {
        let failed = |e| Error::io("the trace cannot be written", e).file(self.path.display().to_string());
        write_spans(BufWriter::new(self.file), spans).map_err(failed)
    }
}

fn write_spans(mut out: impl Write, spans: &[Event]) -> std::io::Result<()> {
    // A lane's number and its name, as the viewers want them: streams stand below the workers.
    let number = |lane: &Lane| match *lane {
        Lane::Worker(n) => n,
        Lane::Stream(n) => 10_000 + n,
    };
    let lanes: BTreeSet<Lane> = spans
        .iter()
        .filter_map(|event| match event {
            Event::Span { lane, .. } => Some(*lane),
            _ => None,
        })
        .collect();
    let names = lanes.iter().map(|lane| {
        let name = match lane {
            Lane::Worker(n) => format!("worker {n}"),
            Lane::Stream(n) => format!("stream {n}"),
        };
        json!({"ph": "M", "pid": 1, "tid": number(lane), "name": "thread_name", "args": {"name": name}})
    });
    let work = spans.iter().filter_map(|event| match event {
        Event::Span { lane, name, file, offset_bytes, bytes, start_us, duration_us } => Some(json!({
            "ph": "X", "pid": 1, "tid": number(lane), "name": name, "ts": start_us, "dur": duration_us,
            "args": {"file": file, "offset_bytes": offset_bytes, "bytes": bytes},
        })),
        _ => None,
    });
    let mut events = names.chain(work).peekable();
    out.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n")?;
    while let Some(event) = events.next() {
        serde_json::to_writer(&mut out, &event)?;
        out.write_all(if events.peek().is_some() { b",\n" } else { b"\n" })?;
    }
    out.write_all(b"]}\n")?;
    out.flush()
}
