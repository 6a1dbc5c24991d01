//! Carries a template out, as Jinja in Python's sandbox would.
//!
//! A tree walker, since templates are short and what matters is that each operation means what it means in Python, and
//! that no template can take more than it is given: every step, and every byte of text or list that is made, is
//! counted against a budget, and so is how deep calls and blocks lie in one another.
//!
//! Scopes are those that Jinja's compiler makes: a loop's turn, a macro, `with`, and the bodies of `set`, `filter`,
//! `call` and `generation` have one of their own; `if` has none. What is set in a scope is gone behind it, which is why
//! templates have namespaces.

mod call;
mod expressions;

use super::ast::{Body, Filter, For, Kind, MacroBody, Name, Statement, Target};
use super::filters;
use super::frames::{self, Hidden};
use super::loops::Loop;
use super::time::Moment;
use super::value::{Dict, Fault, Meter, Res, Value};
pub(super) use expressions::{attribute, item};
use hashbrown::HashMap;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// The most calls, blocks and expressions one in another; each takes some of the stack.
const DEPTH_MAX: u32 = 400;

/// Functions that every template has.
const FUNCTIONS: &[&str] =
    &["range", "dict", "namespace", "cycler", "joiner", "raise_exception", "strftime_now", "lipsum"];

/// A macro and the scope that it was defined in.
#[derive(Debug)]
pub(super) struct Macro {
    pub(super) body: Rc<MacroBody>,
    scope: Rc<Scope>,
}

/// Names and values, and the scope around.
pub(super) struct Scope {
    values: RefCell<HashMap<Name, Value>>,
    around: Option<Rc<Scope>>,
}

impl std::fmt::Debug for Scope {
    /// Without the values: a macro in a scope holds the scope.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scope")
    }
}

impl Scope {
    fn within(around: &Rc<Scope>) -> Rc<Scope> {
        Rc::new(Scope { values: RefCell::default(), around: Some(around.clone()) })
    }

    fn set(&self, name: &Name, value: Value) {
        self.values.borrow_mut().insert(name.clone(), value);
    }

    fn get(&self, name: &str) -> Option<Value> {
        let mut scope = Some(self);
        while let Some(here) = scope {
            if let Some(value) = here.values.borrow().get(name) {
                return Some(value.clone());
            }
            scope = here.around.as_deref();
        }
        None
    }
}

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Flow {
    Next,
    Break,
    Continue,
}

/// Arguments of a call, evaluated.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(Name, Value)>,
}

impl Given {
    /// By name: `names` are those of the parameters of `what` in order.
    pub(super) fn bind<const N: usize>(self, what: &str, names: [&str; N]) -> Res<[Option<Value>; N]> {
        let mut bound: [Option<Value>; N] = std::array::from_fn(|_| None);
        let given = self.positional.len();
        if given > N {
            return Err(Fault::failed(format!(
                "`{what}` takes at most {N} arguments, and was given {given}"
            )));
        }
        for (slot, value) in bound.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, value) in self.named {
            let slot = names.iter().position(|known| **known == *name).and_then(|at| bound.get_mut(at));
            match slot {
                Some(slot @ None) => *slot = Some(value),
                Some(_) => return Err(Fault::failed(format!("`{what}` was given `{name}` twice"))),
                None => return Err(Fault::failed(format!("`{what}` has no argument `{name}`"))),
            }
        }
        Ok(bound)
    }

    /// That there are none.
    pub(super) fn none(self, what: &str) -> Res<()> {
        self.bind::<0>(what, []).map(|_| ())
    }
}

pub(super) struct Engine<'a> {
    now: &'a dyn Fn() -> Moment,
    pub(super) meter: Meter,
    depth: Cell<u32>,
    hidden: Hidden,
    /// Whether a namespace was read.
    namespace_read: Cell<bool>,
}

/// Renders a parsed template.
pub(super) fn render(
    body: &Body,
    context: Vec<(Name, Value)>,
    input_bytes: usize,
    now: &dyn Fn() -> Moment,
) -> Res<String> {
    let engine = Engine {
        now,
        meter: Meter::new(input_bytes),
        depth: Cell::new(0),
        hidden: frames::hidden(body),
        namespace_read: Cell::new(false),
    };
    let base = Rc::new(Scope { values: RefCell::new(context.into_iter().collect()), around: None });
    let mut out = String::new();
    let flow = engine.scoped(&base, |scope| engine.opening(body, scope, &mut out))?;
    no_loop(flow)?;
    Ok(out)
}

/// A body that no loop is around has ended.
fn no_loop(flow: Flow) -> Res<()> {
    match flow {
        Flow::Next => Ok(()),
        _ => Err(Fault::failed("`break` or `continue` outside a loop")),
    }
}

impl Engine<'_> {
    /// Counts a step.
    pub(super) fn step(&self) -> Res<()> {
        self.meter.work(0)
    }

    /// Counts bytes that are about to be made.
    pub(super) fn bytes(&self, count: usize) -> Res<()> {
        self.meter.bytes(count)
    }

    /// Runs one level further in.
    pub(super) fn deeper<T>(&self, inner: impl FnOnce() -> Res<T>) -> Res<T> {
        self.depth.set(self.depth.get() + 1);
        if self.depth.get() > DEPTH_MAX {
            return Err(Fault::limit(format!("more than {DEPTH_MAX} calls and blocks one in another")));
        }
        let result = inner();
        self.depth.set(self.depth.get() - 1);
        result
    }

    /// Python's `str`.
    pub(super) fn text(&self, value: &Value) -> Res<Rc<str>> {
        value.text(&self.meter)
    }

    /// All that is in a value.
    pub(super) fn items(&self, value: &Value) -> Res<Vec<Value>> {
        let size = size_of::<Value>() + if value.as_text().is_some() { 24 } else { 0 };
        self.bytes(value.len().unwrap_or(0).saturating_mul(size))?;
        value.items().ok_or_else(|| Fault::failed(format!("a {} cannot be walked through", value.kind())))
    }

    /// Runs in a scope of its own. Behind it nothing can reach its macros, which hold it: without this it would stay.
    fn scoped<T>(&self, around: &Rc<Scope>, inner: impl FnOnce(&Rc<Scope>) -> Res<T>) -> Res<T> {
        let scope = Scope::within(around);
        let result = inner(&scope);
        scope.values.borrow_mut().clear();
        result
    }

    /// A body at whose start its scope begins.
    fn opening(&self, body: &Body, scope: &Rc<Scope>, out: &mut String) -> Res<Flow> {
        for name in self.hidden.get(&frames::address(body)).into_iter().flatten() {
            scope.set(name, Value::undefined(name));
        }
        self.body(body, scope, out)
    }

    fn body(&self, body: &Body, scope: &Rc<Scope>, out: &mut String) -> Res<Flow> {
        for statement in body {
            self.step()?;
            let done = self.deeper(|| self.statement(statement, scope, out));
            match done.map_err(|fault| fault.at(statement.line))? {
                Flow::Next => {}
                other => return Ok(other),
            }
        }
        Ok(Flow::Next)
    }

    fn write(&self, text: &str, out: &mut String) -> Res<()> {
        self.bytes(text.len())?;
        out.push_str(text);
        Ok(())
    }

    fn statement(&self, statement: &Statement, scope: &Rc<Scope>, out: &mut String) -> Res<Flow> {
        match &statement.kind {
            Kind::Data(text) => self.write(text, out)?,
            Kind::Print(expr) => {
                let value = self.eval(expr, scope)?;
                let text = self.text(&value)?;
                self.write(&text, out)?;
            }
            Kind::If { branches, otherwise } => {
                for (test, body) in branches {
                    if self.eval(test, scope)?.truth() {
                        return self.body(body, scope, out);
                    }
                }
                return self.body(otherwise, scope, out);
            }
            Kind::For(node) => {
                let items = self.eval(&node.items, scope)?;
                return self.for_loop(node, &items, scope, out, 0);
            }
            Kind::Set { target, value } => {
                let value = self.eval(value, scope)?;
                self.assign(target, value, scope)?;
            }
            Kind::SetBlock { target, filters, body } => {
                let (text, flow) = self.captured(body, scope)?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
                let value = self.filtered(text.into(), filters, scope)?;
                self.assign(target, value, scope)?;
            }
            Kind::With { values, body } => {
                let mut evaluated = Vec::with_capacity(values.len());
                for (target, expr) in values {
                    evaluated.push((target, self.eval(expr, scope)?));
                }
                return self.scoped(scope, |inner| {
                    for (target, value) in evaluated {
                        self.assign(target, value, inner)?;
                    }
                    self.opening(body, inner, out)
                });
            }
            Kind::Macro(body) => {
                let value = Macro { body: body.clone(), scope: scope.clone() };
                scope.set(&body.name, Value::Macro(Rc::new(value)));
            }
            Kind::Call { call, caller } => {
                let caller = Value::Macro(Rc::new(Macro { body: caller.clone(), scope: scope.clone() }));
                let value = self.call_with(call, Some(caller), scope)?;
                let text = self.text(&value)?;
                self.write(&text, out)?;
            }
            Kind::Filtered { filters, body } => {
                let (text, flow) = self.captured(body, scope)?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
                let value = self.filtered(text.into(), filters, scope)?;
                let text = self.text(&value)?;
                self.write(&text, out)?;
            }
            Kind::Generation(body) => {
                let (text, flow) = self.captured(body, scope)?;
                no_loop(flow)?;
                self.write(&text, out)?;
            }
            Kind::Break => return Ok(Flow::Break),
            Kind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    /// The text that a body writes, in a scope of its own.
    fn captured(&self, body: &Body, scope: &Rc<Scope>) -> Res<(String, Flow)> {
        let mut text = String::new();
        let flow = self.scoped(scope, |inner| self.opening(body, inner, &mut text))?;
        Ok((text, flow))
    }

    fn filtered(&self, mut value: Value, filters: &[Filter], scope: &Rc<Scope>) -> Res<Value> {
        for filter in filters {
            let given = self.given(&filter.arguments, scope)?;
            value = filters::apply(self, &filter.name, value, given)?;
        }
        Ok(value)
    }

    fn assign(&self, target: &Target, value: Value, scope: &Rc<Scope>) -> Res<()> {
        match target {
            Target::Name(name) => scope.set(name, value),
            Target::Attribute(name, attribute) => {
                let Some(Value::Namespace(namespace)) = scope.get(name) else {
                    return Err(Fault::failed(format!(
                        "`{name}` is no namespace: its attributes cannot be set"
                    )));
                };
                set_attribute(&mut namespace.borrow_mut(), attribute, value, &self.meter)?;
            }
            Target::Tuple(targets) => {
                let items = self.items(&value)?;
                if items.len() != targets.len() {
                    let (found, wanted) = (items.len(), targets.len());
                    return Err(Fault::failed(format!("{found} values for {wanted} names")));
                }
                for (target, item) in targets.iter().zip(items) {
                    self.assign(target, item, scope)?;
                }
            }
        }
        Ok(())
    }

    /// Runs a loop over `items`; `depth` is how many loops of the same statement are around.
    fn for_loop(
        &self,
        node: &Rc<For>,
        items: &Value,
        scope: &Rc<Scope>,
        out: &mut String,
        depth: u32,
    ) -> Res<Flow> {
        let mut items = self.items(items)?;
        if let Some(test) = &node.test {
            // Python asks when the next item is needed, this asks for all at once: the same, unless the body changes
            // what the test reads.
            let before = self.namespace_read.replace(false);
            let mut kept = Vec::new();
            for item in items {
                let take = self.scoped(scope, |inner| {
                    self.step()?;
                    self.assign(&node.target, item.clone(), inner)?;
                    Ok(self.eval(test, inner)?.truth())
                })?;
                if take {
                    kept.push(item);
                }
            }
            if self.namespace_read.get() {
                return Err(Fault::refused("a loop's `if` that reads a namespace"));
            }
            self.namespace_read.set(before);
            items = kept;
        }
        let again = node.recursive.then(|| (node.clone(), scope.clone()));
        let state = Rc::new(Loop::new(items, depth, again));
        let name: Name = "loop".into();
        // As Jinja's code has it, what stands in `else` also follows when each turn was cut short.
        let mut completed = false;
        for index in 0..state.count() {
            let Some(item) = state.step(index) else { break };
            let flow = self.scoped(scope, |inner| {
                self.step()?;
                inner.set(&name, Value::Loop(state.clone()));
                self.assign(&node.target, item, inner)?;
                self.opening(&node.body, inner, out)
            })?;
            completed |= flow == Flow::Next;
            if flow == Flow::Break {
                break;
            }
        }
        if !completed {
            return self.scoped(scope, |inner| self.opening(&node.otherwise, inner, out));
        }
        Ok(Flow::Next)
    }
}

/// Sets an attribute of a namespace.
pub(super) fn set_attribute(namespace: &mut Dict, name: &str, value: Value, meter: &Meter) -> Res<()> {
    if name.starts_with('_') {
        return Err(Fault::failed(format!("a namespace cannot hold `{name}`: it begins with an underscore")));
    }
    namespace.set(name.into(), value.nested()?, meter)
}

/// Whether every template has a function of this name.
fn function(name: &str) -> Option<Value> {
    FUNCTIONS.iter().find(|known| **known == name).map(|name| Value::Function(name))
}
