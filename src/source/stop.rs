//! Whether the work that a thread is at was told to end.
//!
//! A read that crosses a network may wait for seconds, and nothing between a worker and the source that it reads from
//! carries the news that a job was cancelled. So the thread itself knows what it works for: whoever starts work says it
//! once, and a source that waits looks at it several times a second.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set when work shall end.
#[derive(Debug, Clone)]
pub enum Flag {
    /// A job's.
    Shared(Arc<AtomicBool>),
    /// The process's.
    Static(&'static AtomicBool),
}

impl Flag {
    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        match self {
            Flag::Shared(flag) => flag.load(Ordering::Relaxed),
            Flag::Static(flag) => flag.load(Ordering::Relaxed),
        }
    }
}

thread_local! {
    static FLAG: RefCell<Option<Flag>> = const { RefCell::new(None) };
}

/// While it lives, this thread works for a flag; then for the one before.
#[derive(Debug)]
#[must_use]
pub struct Working {
    before: Option<Flag>,
}

impl Drop for Working {
    fn drop(&mut self) {
        let before = self.before.take();
        // Not in a thread that is ending.
        let _ = FLAG.try_with(|flag| flag.replace(before));
    }
}

/// From now on this thread works for `flag`; for nothing that could end where there is none.
pub fn work_for(flag: Option<Flag>) -> Working {
    Working { before: FLAG.with(|current| current.replace(flag)) }
}

/// What this thread works for: to be handed to threads that help it.
pub fn current() -> Option<Flag> {
    FLAG.with(|flag| flag.borrow().clone())
}

/// Whether this thread's work was told to end.
pub fn is_set() -> bool {
    FLAG.with(|flag| flag.borrow().as_ref().is_some_and(Flag::is_set))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_works_for_the_innermost_flag() {
        static PROCESS: AtomicBool = AtomicBool::new(false);
        let job = Arc::new(AtomicBool::new(false));
        assert!(!is_set());
        let outer = work_for(Some(Flag::Static(&PROCESS)));
        PROCESS.store(true, Ordering::Relaxed);
        assert!(is_set());
        let inner = work_for(Some(Flag::Shared(Arc::clone(&job))));
        assert!(!is_set());
        job.store(true, Ordering::Relaxed);
        assert!(is_set() && std::thread::spawn(|| !is_set()).join().unwrap());
        let helper = current();
        assert!(
            std::thread::spawn(|| {
                let _working = work_for(helper);
                is_set()
            })
            .join()
            .unwrap()
        );
        drop(inner);
        PROCESS.store(false, Ordering::Relaxed);
        assert!(!is_set());
        drop(outer);
        assert!(current().is_none());
    }
}
