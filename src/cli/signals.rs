//! Signals: how a person or a scheduler stops hoist, and what the kernel says when a mapped file breaks.
//!
//! A command that has something to clean up asks for [`cancelled`] before it starts: from then on the first SIGINT,
//! SIGTERM or SIGHUP only sets that flag, and a second one ends the process at once. A command that never asks has
//! nothing to clean up, so the first signal ends it. Signals that were ignored when hoist started (`nohup`, a shell's
//! background job) stay ignored.
//!
//! SIGBUS and SIGABRT arrive where nothing but a message and an exit is possible; the handlers call `write` and `_exit`
//! only, which POSIX lists as safe there.
#![allow(unsafe_code)]

use hoist::source::stop;
use hoist::{Error, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Set by the first signal.
static CANCELLED: AtomicBool = AtomicBool::new(false);
/// While set, a signal ends the process at once: before a command has asked for the flag, and after the first signal.
static AT_ONCE: AtomicBool = AtomicBool::new(true);
/// The first signal's number; zero before.
static SIGNAL: AtomicUsize = AtomicUsize::new(0);
/// Whether a panic was reported, so that an abort after it is that bug and not the end of memory.
static PANICKED: AtomicBool = AtomicBool::new(false);

/// The flag that the first signal sets. Whoever asks for it promises to look at it, and to return [`stopped`] within
/// a second of its being set.
#[allow(dead_code)] // for the commands that move data
pub(crate) fn cancelled() -> &'static AtomicBool {
    AT_ONCE.store(false, Ordering::SeqCst);
    if CANCELLED.load(Ordering::SeqCst) {
        AT_ONCE.store(true, Ordering::SeqCst);
    }
    // Also what this thread reads from afar, before there is a job.
    std::mem::forget(stop::work_for(Some(stop::Flag::Static(&CANCELLED))));
    &CANCELLED
}

/// The signal that asked us to stop.
pub(crate) fn received() -> Option<u8> {
    u8::try_from(SIGNAL.load(Ordering::SeqCst)).ok().filter(|&n| n > 0)
}

/// The error of a command that a signal stopped; its exit code is 128 + the signal.
#[allow(dead_code)] // for the commands that move data
pub(crate) fn stopped() -> Error {
    let signal = received().unwrap_or(2);
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        15 => "SIGTERM",
        _ => "a signal",
    };
    Error::new(ErrorKind::Signal(signal), format!("stopped by {name}"))
}

/// Remembers that a panic was reported.
pub(crate) fn note_panic() {
    PANICKED.store(true, Ordering::SeqCst);
}

/// Installs the handlers. Where the system refuses one, its default stays: the signal still ends the process.
#[cfg(unix)]
pub(crate) fn install() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        if is_ignored(signal) {
            continue;
        }
        // Actions run in the order in which they were registered: end at once if that is due, else note the signal
        // and make the next one end at once.
        let _ = signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, &AT_ONCE)
            .and_then(|_| signal_hook::flag::register_usize(signal, &SIGNAL, signal as usize))
            .and_then(|_| signal_hook::flag::register(signal, &CANCELLED))
            .and_then(|_| signal_hook::flag::register(signal, &AT_ONCE));
    }
    // A file size limit shall be an error of the write (EFBIG), not the end of the process.
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    on_fault(libc::SIGBUS, on_bus_error);
    on_fault(libc::SIGABRT, on_abort);
}

/// Installs the handlers: none where there are no signals.
#[cfg(not(unix))]
pub(crate) fn install() {}

#[cfg(unix)]
fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: a zeroed sigaction is a valid one, and with a null new action the call only reads the old one into it.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut old) == 0 && old.sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(unix)]
fn on_fault(signal: libc::c_int, handler: extern "C" fn(libc::c_int)) {
    // SAFETY: the action is zeroed and then given a handler of the plain (not SA_SIGINFO) form, on the alternate stack
    // that Rust's runtime has set up where there is one; the handlers use async-signal-safe calls only.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_ONSTACK | libc::SA_RESETHAND;
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(signal, &action, std::ptr::null_mut());
    }
}

#[cfg(unix)]
fn write_and_exit(message: &str, code: libc::c_int) -> ! {
    // SAFETY: `write` reads the message, which lives; both calls are async-signal-safe.
    unsafe {
        let _ = libc::write(2, message.as_ptr().cast(), message.len());
        libc::_exit(code)
    }
}

#[cfg(unix)]
extern "C" fn on_bus_error(_: libc::c_int) {
    write_and_exit(
        "error: a mapped file changed or a read failed under us\n  hint: load with --copy, which reads instead of mapping\n",
        5,
    )
}

#[cfg(unix)]
extern "C" fn on_abort(_: libc::c_int) {
    if PANICKED.load(Ordering::SeqCst) {
        write_and_exit("error: the bug above ended hoist\n", 1)
    }
    write_and_exit("error: no memory left, or a library gave up (see above)\n", 8)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read};
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    const MODE: &str = "HOIST_TEST_SIGNALS_MODE";

    /// Not a test by itself: what the child of the test below does.
    #[test]
    fn child() {
        let Ok(mode) = std::env::var(MODE) else { return };
        install();
        let patience = Instant::now() + Duration::from_secs(20);
        let wait = |until: &dyn Fn() -> bool| {
            println!("ready");
            while !until() && Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let code = match mode.as_str() {
            "asks" => {
                let flag = cancelled();
                wait(&|| flag.load(Ordering::SeqCst));
                crate::cli::guarded(|| Err(stopped()))
            }
            "asks and does not look" => {
                cancelled();
                wait(&|| false);
                99
            }
            "never asks" => {
                wait(&|| false);
                99
            }
            "is ignored" => {
                // The parent ignores SIGHUP for us; nothing may come of it.
                wait(&|| received().is_some());
                99
            }
            "bus" => {
                signal_hook::low_level::raise(libc::SIGBUS).unwrap();
                99
            }
            "abort" => std::process::abort(),
            "panic" => crate::cli::guarded(|| panic!("two\nlines")),
            other => panic!("{other}"),
        };
        signal_hook::low_level::exit(code.into());
    }

    /// Mode, signals sent one after the other, exit code, what standard error says.
    #[test]
    fn signals_end_as_promised() {
        let (int, term, hup) = (libc::SIGINT, libc::SIGTERM, libc::SIGHUP);
        let rows: &[(&str, &[libc::c_int], i32, &str)] = &[
            ("asks", &[int], 130, "error: stopped by SIGINT"),
            ("asks", &[term], 143, "error: stopped by SIGTERM"),
            ("asks", &[hup], 129, "error: stopped by SIGHUP"),
            ("asks and does not look", &[int, int], 130, ""),
            ("asks and does not look", &[int, term], 143, ""),
            ("never asks", &[term], 143, ""),
            ("is ignored", &[hup, term], 143, ""),
            ("bus", &[], 5, "error: a mapped file changed"),
            ("abort", &[], 8, "error: no memory left"),
            ("panic", &[], 1, "error: this is a bug in hoist"),
        ];
        let mut wrong = Vec::new();
        for &(mode, signals, code, said) in rows {
            let exe = std::env::current_exe().unwrap();
            let ignore = if mode == "is ignored" { "trap '' HUP; " } else { "" };
            let mut command = Command::new("sh");
            let heed = || {
                for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
                    // SAFETY: may be called between fork and exec, and installs no code.
                    unsafe { libc::signal(signal, libc::SIG_DFL) };
                }
                Ok(())
            };
            // Tests that run in the background may have signals ignored, and what they start inherits that.
            // SAFETY: the closure only makes calls that are allowed between fork and exec.
            unsafe { command.pre_exec(heed) };
            let mut child = command
                .arg("-c")
                .arg(format!("{ignore}exec \"$0\" --exact cli::signals::tests::child --nocapture"))
                .arg(exe)
                .env(MODE, mode)
                .env("RUST_BACKTRACE", "0")
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            if !signals.is_empty() {
                assert!(lines.any(|line| line.unwrap().contains("ready")), "{mode}");
            }
            for signal in signals {
                // SAFETY: sends a signal to the child that was just started and not yet waited for.
                unsafe { libc::kill(child.id() as libc::pid_t, *signal) };
                std::thread::sleep(Duration::from_millis(100));
            }
            lines.for_each(drop);
            let mut errors = String::new();
            child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
            let got = child.wait().unwrap().code();
            if got != Some(code) || !errors.contains(said) {
                wrong.push(format!("{mode} {signals:?}: {got:?}, expected {code}: {errors}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
