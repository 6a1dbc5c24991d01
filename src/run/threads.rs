//! Where data-plane threads start, and nowhere else.

use super::job::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::source::stop;
use std::sync::{Mutex, PoisonError};

/// Runs `work` in `count` named threads and waits for all of them. The first error stops the others and is returned; a
/// cancelled job is an error too. The only place where data-plane threads start.
pub fn parallel(
    name: &str,
    count: usize,
    control: &Control,
    work: impl Fn(usize) -> Result<()> + Sync,
) -> Result<()> {
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    let fail = |error: Error| {
        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        control.stop();
    };
    let (work, fail) = (&work, &fail);
    std::thread::scope(|scope| {
        for index in 0..count.max(1) {
            let body = move || {
                let _working = stop::work_for(Some(control.stop_flag()));
                // A panic is a bug; it must still end as an error with the other workers stopped.
                let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(index)));
                match outcome {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => fail(error),
                    Err(_) => fail(Error::bug("a worker panicked")),
                }
            };
            let started =
                std::thread::Builder::new().name(format!("{name}-{index}")).spawn_scoped(scope, body);
            if let Err(e) = started {
                // With fewer threads the work still gets done; with none it does not.
                if index == 0 {
                    fail(Error::io("no thread can be started", e));
                }
                break;
            }
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None if control.is_cancelled() => Err(Error::new(ErrorKind::Signal(2), "cancelled")),
        None => Ok(()),
    }
}
