//! What the emulated driver knows: its switches, its handles, its counters, and the report.

use crate::kernels::Entry;
use crate::memory::{Allocation, Registered};
use crate::stream::{Event, Stream};
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

const DEVICES_MAX: usize = 16;

/// A `CUresult`.
pub(crate) type Code = i32;

/// What a function needs before it does anything.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Nothing,
    Init,
    Context,
    /// A context, and the work is done even when the context is lost, so that a leak is a leak of the caller.
    Release,
}

pub(crate) struct DeviceConfig {
    pub(crate) number: usize,
    pub(crate) uuid: [u8; 16],
}

/// One made-to-order failure.
struct Failure {
    call: String,
    /// Which call, from one; 0 for every.
    nth: u64,
    code: Code,
    /// In the stream instead of at the call.
    later: bool,
}

pub(crate) struct Config {
    pub(crate) devices: Vec<DeviceConfig>,
    pub(crate) init_code: Code,
    pub(crate) memory_bytes: u64,
    pub(crate) integrated: bool,
    pub(crate) register_refused: bool,
    pub(crate) capability: (i32, i32),
    pub(crate) copy_us: u64,
    pub(crate) free_copies: bool,
    failures: Vec<Failure>,
    report: Option<String>,
}

fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// A number of the environment; a wrong one ends the process rather than testing something else.
fn number<T: std::str::FromStr>(name: &str, default: T) -> T {
    match text(name) {
        None => default,
        Some(value) => value.parse().unwrap_or_else(|_| die(&format!("{name}={value} is not a number"))),
    }
}

fn die(message: &str) -> ! {
    eprintln!("EMULATED driver: {message}");
    std::process::exit(97)
}

fn failures() -> Vec<Failure> {
    let spec = text("FAKE_CUDA_FAIL").unwrap_or_default();
    let parse = |item: &str| -> Option<Failure> {
        let (call, rest) = item.trim().split_once(':')?;
        let (nth, code) = rest.split_once('=')?;
        let nth = if nth == "*" { 0 } else { nth.parse().ok().filter(|&n| n > 0)? };
        let later = code.starts_with('~');
        Some(Failure { call: call.into(), nth, code: code.trim_start_matches('~').parse().ok()?, later })
    };
    spec.split(',')
        .filter(|item| !item.trim().is_empty())
        .map(|item| {
            parse(item).unwrap_or_else(|| die(&format!("FAKE_CUDA_FAIL: `{item}` is not NAME:K=CODE")))
        })
        .collect()
}

/// The devices that CUDA_VISIBLE_DEVICES leaves, in its order; reading stops at the first entry that is unknown.
fn devices() -> Vec<DeviceConfig> {
    let none = text("FAKE_CUDA_NO_DEVICE").is_some_and(|v| v != "0");
    let count: usize = if none { 0 } else { number("FAKE_CUDA_DEVICES", 1) };
    if count > DEVICES_MAX {
        die("FAKE_CUDA_DEVICES is too many");
    }
    let device = |number: usize| DeviceConfig {
        number,
        uuid: [0xe0 + number as u8, 0xe0, 0, 0, 0xfa, 0xce, 0x40, 0, 0x80, 0, 0xe, 0, 0, 0, 0, number as u8],
    };
    let Ok(visible) = std::env::var("CUDA_VISIBLE_DEVICES") else { return (0..count).map(device).collect() };
    visible
        .split(',')
        .map_while(|entry| {
            let entry = entry.trim();
            if let Some(prefix) = entry.strip_prefix("GPU-") {
                let hex = prefix.replace('-', "");
                return (0..count).find(|&n| {
                    let all: String = device(n).uuid.iter().map(|b| format!("{b:02x}")).collect();
                    !hex.is_empty() && all.starts_with(&hex)
                });
            }
            entry.parse().ok().filter(|&n: &usize| n < count)
        })
        .map(device)
        .collect()
}

pub(crate) static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let capability = text("FAKE_CUDA_CC").unwrap_or_else(|| "9.0".into());
    let (major, minor) = capability
        .split_once('.')
        .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)))
        .unwrap_or_else(|| die("FAKE_CUDA_CC is not MAJOR.MINOR"));
    Config {
        devices: devices(),
        init_code: number("FAKE_CUDA_INIT", 0),
        memory_bytes: number("FAKE_CUDA_MEM", 4 << 30),
        integrated: number("FAKE_CUDA_INTEGRATED", 0u8) != 0,
        register_refused: text("FAKE_CUDA_REGISTER").is_some_and(|v| v == "refuse"),
        capability: (major, minor),
        copy_us: number("FAKE_CUDA_COPY_US", 0),
        free_copies: number("FAKE_CUDA_FREE_COPIES", 0u8) != 0,
        failures: failures(),
        report: text("FAKE_CUDA_REPORT"),
    }
});

#[derive(Default)]
pub(crate) struct Counters {
    /// Host to device, device to host, within the device.
    copies: [u64; 3],
    copied_bytes: [u64; 3],
    pub(crate) pageable_copies: u64,
    pub(crate) launches: u64,
    pub(crate) unregistered_busy: u64,
    pub(crate) peak_bytes: u64,
    pub(crate) registered_peak_bytes: u64,
    leaked: u64,
}

impl Counters {
    pub(crate) fn copied(&mut self, direction: usize, size_bytes: usize) {
        self.copies[direction] += 1;
        self.copied_bytes[direction] += size_bytes as u64;
    }
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) initialised: bool,
    next_handle: usize,
    pub(crate) retained: [u32; DEVICES_MAX],
    pub(crate) used_bytes: [u64; DEVICES_MAX],
    pub(crate) allocations: BTreeMap<u64, Allocation>,
    pub(crate) registered: BTreeMap<usize, Registered>,
    pub(crate) streams: HashMap<usize, Arc<Stream>>,
    pub(crate) events: HashMap<usize, Arc<Event>>,
    pub(crate) modules: HashMap<usize, (usize, Vec<Entry>)>,
    pub(crate) functions: HashMap<usize, (usize, Entry)>,
    pub(crate) counters: Counters,
    calls: BTreeMap<&'static str, u64>,
    violations: Vec<String>,
}

impl State {
    /// A new handle: never reused, so that a stale one is noticed.
    pub(crate) fn handle(&mut self) -> usize {
        self.next_handle += 16;
        0x7000_0000 + self.next_handle
    }
}

pub(crate) static STATE: LazyLock<Mutex<State>> = LazyLock::new(|| Mutex::new(State::default()));
/// The code of a lost context; 0 while all is well.
pub(crate) static LOST: AtomicI32 = AtomicI32::new(0);

thread_local! {
    /// The bound context: device + 1, or 0.
    pub(crate) static CURRENT: Cell<usize> = const { Cell::new(0) };
    /// The code with which the work of the call under way is to fail.
    pub(crate) static LATER: Cell<Code> = const { Cell::new(0) };
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A use that no correct program makes: remembered for the report, and refused.
pub(crate) fn violation<T>(text: String) -> Result<T, Code> {
    let mut state = lock(&STATE);
    if state.violations.len() < 100 {
        state.violations.push(text);
    }
    Err(1)
}

/// Codes after which the context is lost.
fn is_sticky(code: Code) -> bool {
    matches!(code, 214 | 220 | 700 | 702 | 709 | 710 | 714..=719)
}

/// Runs an exported function: counts it, lets it fail to order, checks what it needs.
pub(crate) fn answer(name: &'static str, need: Need, body: impl FnOnce() -> Result<(), Code>) -> Code {
    static REPORT: std::sync::Once = std::sync::Once::new();
    REPORT.call_once(|| {
        extern "C" fn at_exit() {
            write_report();
        }
        unsafe { libc::atexit(at_exit) };
    });
    let nth = {
        let mut state = lock(&STATE);
        let count = state.calls.entry(name).or_default();
        *count += 1;
        *count
    };
    LATER.set(0);
    if let Some(failure) = CONFIG.failures.iter().find(|f| f.call == name && (f.nth == 0 || f.nth == nth)) {
        if !failure.later {
            if is_sticky(failure.code) {
                crate::lose(failure.code);
            }
            return failure.code;
        }
        LATER.set(failure.code);
    }
    if need != Need::Nothing && !lock(&STATE).initialised {
        return 3;
    }
    if matches!(need, Need::Context | Need::Release) && CURRENT.get() == 0 {
        let _ = violation::<()>(format!("{name}: no context is bound to the thread"));
        return 201;
    }
    let lost = LOST.load(Ordering::SeqCst);
    if lost != 0 && need == Need::Context {
        return lost;
    }
    let code = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(code)) => code,
        Err(_) => 999,
    };
    // Work that failed while this call waited for it is this call's answer.
    let lost = LOST.load(Ordering::SeqCst);
    let told = matches!(need, Need::Context | Need::Release);
    if lost != 0 && told && (code == 0 || code == 600) { lost } else { code }
}

/// What the last release of a context takes with it; everything that was still there had leaked.
pub(crate) fn release_device(device: usize) {
    let (streams, allocations) = {
        let mut state = lock(&STATE);
        let of = |d: usize| d == device;
        let streams: Vec<usize> =
            state.streams.iter().filter(|(_, s)| of(s.device)).map(|(&h, _)| h).collect();
        let streams: Vec<_> = streams.iter().filter_map(|h| state.streams.remove(h)).collect();
        let allocations: Vec<u64> =
            state.allocations.iter().filter(|(_, a)| of(a.device)).map(|(&address, _)| address).collect();
        let before = state.events.len() + state.modules.len();
        state.events.retain(|_, e| !of(e.device));
        state.modules.retain(|_, (d, _)| !of(*d));
        let gone = before - state.events.len() - state.modules.len() + streams.len() + allocations.len();
        let registered = if state.retained.iter().all(|&r| r == 0) { state.registered.len() } else { 0 };
        state.counters.leaked += (gone + registered) as u64;
        (streams, allocations)
    };
    for stream in streams {
        stream.finish();
    }
    for address in allocations {
        let _ = crate::memory::free(address);
    }
}

/// The report's numbers.
pub(crate) fn facts() -> Vec<(&'static str, u64)> {
    let state = lock(&STATE);
    let c = &state.counters;
    let registered: usize = state.registered.values().map(|r| r.size_bytes).sum();
    vec![
        ("allocations_live", state.allocations.len() as u64),
        ("used_bytes", state.used_bytes.iter().sum()),
        ("peak_bytes", c.peak_bytes),
        ("registered_live", state.registered.len() as u64),
        ("registered_bytes", registered as u64),
        ("registered_peak_bytes", c.registered_peak_bytes),
        ("unregistered_busy", c.unregistered_busy),
        ("pageable_copies", c.pageable_copies),
        ("copies", c.copies.iter().sum()),
        ("host_to_device_copies", c.copies[0]),
        ("host_to_device_bytes", c.copied_bytes[0]),
        ("device_to_host_bytes", c.copied_bytes[1]),
        ("device_to_device_bytes", c.copied_bytes[2]),
        ("launches", c.launches),
        ("streams_live", state.streams.len() as u64),
        ("events_live", state.events.len() as u64),
        ("modules_live", state.modules.len() as u64),
        ("contexts_retained", state.retained.iter().map(|&r| u64::from(r)).sum()),
        ("leaked", c.leaked),
        ("lost", LOST.load(Ordering::SeqCst) as u64),
    ]
}

/// Writes the report, whole or not at all.
pub(crate) fn write_report() {
    let Some(path) = &CONFIG.report else { return };
    let mut json = String::from("{\n  \"device\": \"EMULATED\"");
    for (key, value) in facts() {
        let _ = write!(json, ",\n  \"{key}\": {value}");
    }
    let state = lock(&STATE);
    let calls: Vec<String> = state.calls.iter().map(|(name, count)| format!("\"{name}\": {count}")).collect();
    let _ = write!(json, ",\n  \"calls\": {{{}}}", calls.join(", "));
    let violations: Vec<String> = state.violations.iter().map(|v| format!("{v:?}")).collect();
    let _ = write!(json, ",\n  \"violations\": [{}]\n}}\n", violations.join(", "));
    drop(state);
    let temporary = format!("{path}.{}", std::process::id());
    if std::fs::write(&temporary, json).and_then(|()| std::fs::rename(&temporary, path)).is_err() {
        eprintln!("EMULATED driver: the report {path} cannot be written");
    }
}
