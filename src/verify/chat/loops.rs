//! `loop`: where a loop stands.

use super::ast::For;
use super::engine::Scope;
use super::value::{Fault, Meter, Res, Value};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// The state of a loop.
#[derive(Debug)]
pub(super) struct Loop {
    items: Vec<Value>,
    index: Cell<usize>,
    /// How many loops of the same statement it runs in.
    pub(super) depth: u32,
    /// A recursive loop's statement, and the scope that it stands in.
    pub(super) again: Option<(Rc<For>, Rc<Scope>)>,
    /// What `changed` was asked last.
    changed: RefCell<Option<Vec<Value>>>,
}

impl Loop {
    /// Before its first item.
    pub(super) fn new(items: Vec<Value>, depth: u32, again: Option<(Rc<For>, Rc<Scope>)>) -> Loop {
        Loop { items, index: Cell::new(0), depth, again, changed: RefCell::new(None) }
    }

    /// How many items it walks through.
    pub(super) fn count(&self) -> usize {
        self.items.len()
    }

    /// Moves to an item.
    pub(super) fn step(&self, index: usize) -> Option<Value> {
        self.index.set(index);
        self.items.get(index).cloned()
    }

    /// `loop.name`; `None` where there is no such.
    pub(super) fn attribute(&self, name: &str) -> Option<Value> {
        let (index, count) = (self.index.get(), self.items.len());
        let item = |at: Option<usize>, which: &str| {
            let found = at.and_then(|at| self.items.get(at)).cloned();
            found.unwrap_or_else(|| Value::Undefined(format!("there is no {which} item").into()))
        };
        Some(match name {
            "index" => Value::count(index + 1),
            "index0" => Value::count(index),
            "revindex" => Value::count(count.saturating_sub(index)),
            "revindex0" => Value::count(count.saturating_sub(index + 1)),
            "first" => Value::Bool(index == 0),
            "last" => Value::Bool(index + 1 == count),
            "length" => Value::count(count),
            "depth" => Value::Int(i128::from(self.depth) + 1),
            "depth0" => Value::Int(self.depth.into()),
            "previtem" => item(index.checked_sub(1), "previous"),
            "nextitem" => item(index.checked_add(1), "next"),
            _ => return None,
        })
    }

    /// `loop.cycle(…)`
    pub(super) fn cycle(&self, values: &[Value]) -> Res<Value> {
        let at = self.index.get().checked_rem(values.len());
        let value = at.and_then(|at| values.get(at));
        value.cloned().ok_or_else(|| Fault::failed("no items for cycling given"))
    }

    /// `loop.changed(…)`
    pub(super) fn changed(&self, values: &[Value], meter: &Meter) -> Res<Value> {
        let mut last = self.changed.borrow_mut();
        let mut same = last.as_ref().is_some_and(|last| last.len() == values.len());
        for (a, b) in last.iter().flatten().zip(values) {
            same = same && a.equals(b, meter)?;
        }
        if !same {
            *last = Some(values.to_vec());
        }
        Ok(Value::Bool(!same))
    }
}
