//! Values with a behaviour of their own: ranges and views of mappings, which print as themselves and are walked like
//! lists, and the two helpers of Jinja's that keep count.

use super::budget::{failed, refused};
use minijinja::value::{Enumerator, Object, ObjectRepr};
use minijinja::{Error, State, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What can be walked as often as one likes, has a length, and is no list.
#[derive(Debug)]
pub(super) struct View {
    /// `range(0, 3)`, or what stands before the list of a mapping's view.
    pub(super) text: String,
    /// Whether the text is followed by the values.
    pub(super) is_listed: bool,
    pub(super) values: Vec<Value>,
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let view = self.clone();
        Enumerator::Iter(Box::new((0..view.values.len()).filter_map(move |n| view.values.get(n).cloned())))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.values.len())
    }
}

/// A method that is not called. Templates come upon it by mistake, where they ask for an entry `items` or `values` that is
/// not there, and go on to find that it has none of what they look for.
#[derive(Debug)]
pub(super) struct Method;

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, _: &[Value]) -> Result<Value, Error> {
        Err(refused("a call of a method that was kept"))
    }
}

/// An undefined value on its way into a macro.
#[derive(Debug)]
pub(super) struct Undefined;

impl Object for Undefined {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

/// `cycler(…)`
#[derive(Debug)]
pub(super) struct Cycler {
    pub(super) values: Vec<Value>,
    pub(super) at: AtomicUsize,
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str() {
            Some("current") => self.values.get(self.at.load(Relaxed)).cloned(),
            _ => None,
        }
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        name: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        let at = self.at.load(Relaxed);
        match (name, args) {
            ("next", []) => {
                self.at.store((at + 1) % self.values.len().max(1), Relaxed);
                Ok(self.values.get(at).cloned().unwrap_or_default())
            }
            ("reset", []) => {
                self.at.store(0, Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(failed(format!("a cycler has no `{name}`"))),
        }
    }
}

/// `joiner(…)`: nothing at first, the separator from then on.
#[derive(Debug)]
pub(super) struct Joiner {
    pub(super) separator: Value,
    pub(super) calls: AtomicUsize,
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        match (args, self.calls.swap(1, Relaxed)) {
            ([], 0) => Ok(Value::from("")),
            ([], _) => Ok(self.separator.clone()),
            _ => Err(failed("a joiner takes no arguments")),
        }
    }
}
