//! Names that stand for nothing until they are set.
//!
//! Jinja's compiler decides for each scope, before anything runs, where its names come from. A name that a scope sets on
//! its way, and that nothing in it or around it reads before, is the scope's own from its start: a loop or a macro in
//! front of the `set` finds it undefined, whatever a name of that kind means outside. Elsewhere asking at run time gives the
//! same answer, so that these names are all that must be known.

use super::ast::{Arguments, Body, Expr, Filter, Kind, MacroBody, Name, Target};
use hashbrown::{HashMap, HashSet};

/// The names that a scope begins without, by the address of its body.
pub(super) type Hidden = HashMap<usize, Vec<Name>>;

/// What a body is known by.
pub(super) fn address(body: &Body) -> usize {
    body.as_ptr() as usize
}

/// The names that each scope of a template begins without.
pub(super) fn hidden(body: &Body) -> Hidden {
    let mut hidden = Hidden::default();
    scope(body, &[], &[], None, &mut hidden);
    hidden
}

/// A scope while it is read.
struct Frame<'a> {
    around: Option<&'a Frame<'a>>,
    names: HashSet<Name>,
    hidden: Vec<Name>,
}

/// A scope in another: its body, the names it is given, and what is read in it before its body.
struct Inner<'a> {
    body: &'a Body,
    given: Vec<Name>,
    reads: Vec<&'a Expr>,
}

fn scope<'a>(
    body: &'a Body,
    given: &[Name],
    reads: &[&'a Expr],
    around: Option<&Frame<'_>>,
    hidden: &mut Hidden,
) {
    let mut frame = Frame { around, names: given.iter().cloned().collect(), hidden: Vec::new() };
    reads.iter().for_each(|expr| frame.reads(expr));
    let inner = frame.body(body);
    if !frame.hidden.is_empty() {
        hidden.insert(address(body), std::mem::take(&mut frame.hidden));
    }
    for one in inner {
        scope(one.body, &one.given, &one.reads, Some(&frame), hidden);
    }
}

impl Frame<'_> {
    fn knows(&self, name: &Name) -> bool {
        self.names.contains(name) || self.around.is_some_and(|around| around.knows(name))
    }

    fn load(&mut self, name: &Name) {
        if !self.knows(name) {
            self.names.insert(name.clone());
        }
    }

    fn store(&mut self, name: &Name, sometimes: bool) {
        if self.names.contains(name) {
            return;
        }
        if !self.knows(name) && !sometimes {
            self.hidden.push(name.clone());
        }
        self.names.insert(name.clone());
    }

    fn target(&mut self, target: &Target, sometimes: bool) {
        match target {
            Target::Name(name) => self.store(name, sometimes),
            Target::Attribute(name, _) => self.load(name),
            Target::Tuple(targets) => targets.iter().for_each(|target| self.target(target, sometimes)),
        }
    }

    /// Reads a body; gives the scopes in it.
    fn body<'a>(&mut self, body: &'a Body) -> Vec<Inner<'a>> {
        let mut inner = Vec::new();
        self.statements(body, false, &mut inner);
        inner
    }

    fn statements<'a>(&mut self, body: &'a Body, sometimes: bool, inner: &mut Vec<Inner<'a>>) {
        for statement in body {
            match &statement.kind {
                Kind::Data(_) | Kind::Break | Kind::Continue => {}
                Kind::Print(expr) => self.reads(expr),
                Kind::If { branches, otherwise } => {
                    for (test, body) in branches {
                        self.reads(test);
                        self.statements(body, true, inner);
                    }
                    self.statements(otherwise, true, inner);
                }
                Kind::For(node) => {
                    self.reads(&node.items);
                    let mut given = vec!["loop".into()];
                    names(&node.target, &mut given);
                    inner.push(Inner { body: &node.body, given, reads: Vec::new() });
                    inner.push(Inner { body: &node.otherwise, given: Vec::new(), reads: Vec::new() });
                }
                Kind::Set { target, value } => {
                    self.reads(value);
                    self.target(target, sometimes);
                }
                Kind::SetBlock { target, filters, body } => {
                    self.target(target, sometimes);
                    self.filters(filters);
                    inner.push(Inner { body, given: Vec::new(), reads: Vec::new() });
                }
                Kind::With { values, body } => {
                    let mut given = Vec::new();
                    for (target, value) in values {
                        self.reads(value);
                        names(target, &mut given);
                    }
                    inner.push(Inner { body, given, reads: Vec::new() });
                }
                Kind::Macro(node) => {
                    self.store(&node.name, sometimes);
                    inner.push(of_macro(node));
                }
                Kind::Call { call, caller } => {
                    self.reads(call);
                    inner.push(of_macro(caller));
                }
                Kind::Filtered { filters, body } => {
                    self.filters(filters);
                    inner.push(Inner { body, given: Vec::new(), reads: Vec::new() });
                }
                Kind::Generation(body) => inner.push(Inner { body, given: Vec::new(), reads: Vec::new() }),
            }
        }
    }

    fn filters(&mut self, filters: &[Filter]) {
        filters.iter().for_each(|filter| self.arguments(&filter.arguments));
    }

    fn arguments(&mut self, arguments: &Arguments) {
        arguments.positional.iter().for_each(|expr| self.reads(expr));
        arguments.named.iter().for_each(|(_, expr)| self.reads(expr));
        arguments.spread.iter().chain(&arguments.spread_named).for_each(|expr| self.reads(expr));
    }

    /// Reads an expression.
    fn reads(&mut self, expr: &Expr) {
        match expr {
            Expr::Const(_) => {}
            Expr::Name(name) => self.load(name),
            Expr::Attribute(value, _) | Expr::Not(value) | Expr::Neg(value) | Expr::Pos(value) => {
                self.reads(value);
            }
            Expr::Item(a, b) | Expr::Binary(_, a, b) | Expr::And(a, b) | Expr::Or(a, b) => {
                self.reads(a);
                self.reads(b);
            }
            Expr::Slice(value, bounds) => {
                self.reads(value);
                bounds.iter().flatten().for_each(|bound| self.reads(bound));
            }
            Expr::Call(value, arguments) => {
                self.reads(value);
                self.arguments(arguments);
            }
            Expr::Filter(value, filter) | Expr::Test(value, filter) => {
                self.reads(value);
                self.arguments(&filter.arguments);
            }
            Expr::Concat(items) | Expr::List(items) | Expr::Tuple(items) => {
                items.iter().for_each(|item| self.reads(item));
            }
            Expr::Compare(first, others) => {
                self.reads(first);
                others.iter().for_each(|(_, other)| self.reads(other));
            }
            Expr::Cond { test, then, otherwise } => {
                self.reads(test);
                self.reads(then);
                otherwise.iter().for_each(|otherwise| self.reads(otherwise));
            }
            Expr::Dict(entries) => entries.iter().for_each(|(key, value)| {
                self.reads(key);
                self.reads(value);
            }),
        }
    }
}

/// A macro as a scope.
fn of_macro(node: &MacroBody) -> Inner<'_> {
    let mut given: Vec<Name> = node.arguments.iter().map(|(name, _)| name.clone()).collect();
    let special =
        [(node.reads_caller, "caller"), (node.reads_kwargs, "kwargs"), (node.reads_varargs, "varargs")];
    given.extend(special.into_iter().filter(|(reads, _)| *reads).map(|(_, name)| name.into()));
    Inner {
        body: &node.body,
        given,
        reads: node.arguments.iter().filter_map(|(_, default)| default.as_ref()).collect(),
    }
}

/// The names of a target.
fn names(target: &Target, found: &mut Vec<Name>) {
    match target {
        Target::Name(name) => found.push(name.clone()),
        Target::Attribute(..) => {}
        Target::Tuple(targets) => targets.iter().for_each(|target| names(target, found)),
    }
}
