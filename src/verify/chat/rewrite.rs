//! The template as minijinja reads it, with every operation replaced by a call of ours.
//!
//! minijinja has no bound on memory: `{% set ns.a = ns.a ~ ns.a %}` doubles a text with one instruction, and neither its
//! fuel nor a formatter sees it. Nor do its operators check what Python's check: `'a' < 1` is false there, and an error
//! in Python. Both are decided by what an operation is given. So the tree is walked once between parser and code
//! generator, and each operator, subscript, attribute, filter, test, method and literal becomes a filter of ours
//! (`OPERATIONS` in `engine`), whose names no template can write. What is left to minijinja is the language: scopes,
//! loops, macros, blocks, short circuits. Constructs for which it has no counterpart to Python's are refused here.
//!
//! The tree is minijinja's own, which it keeps the right to change: hence the exact version in `Cargo.toml`.

use super::budget::{failed, refused};
use minijinja::machinery::ast::{
    BinOp, BinOpKind, Call, CallArg, CallBlock, CompareOpKind, Const, EmitExpr, Expr, Filter, FilterBlock,
    ForLoop, GetAttr, IfCond, IfExpr, List, Macro, Map, Set, SetBlock, Spanned, Stmt, Template, UnaryOp,
    UnaryOpKind, Var, WithBlock,
};
use minijinja::machinery::{Span, Token, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Tuple;
use minijinja::{Error, Value};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

/// Tokens of one statement: a chain of operators becomes a tree as deep as it is long.
const TOKENS_MAX: usize = 2000;
/// `elif`s: each stands inside the one before.
const ELIFS_MAX: usize = 300;
/// Expressions and statements inside one another.
const DEPTH_MAX: usize = 160;
/// Arguments of a call, and entries of a literal.
const ARGUMENTS_MAX: usize = 500;

type Result<T> = std::result::Result<T, Error>;

/// The template's text, small enough to be parsed, with `generation` blocks, which transformers adds to Jinja, as
/// `with` blocks: they mark the answer's text for training and are a scope.
pub(super) fn prepared(template: &str, syntax: &SyntaxConfig) -> Result<String> {
    let template = template.replace("\r\n", "\n").replace('\r', "\n");
    let mut text = template.clone();
    let (mut in_statement, mut elifs, mut shift) = (0_usize, 0, 0_usize);
    let mut at_start = false;
    for token in tokenize(&template, false, syntax.clone()) {
        let (token, span) = token?;
        match token {
            Token::BlockStart | Token::VariableStart | Token::TemplateData(_) => in_statement = 0,
            _ => in_statement += 1,
        }
        if in_statement > TOKENS_MAX {
            return Err(refused(format!(
                "line {}: more than {TOKENS_MAX} names and operators in a statement",
                span.start_line
            )));
        }
        let written = template.get(span.start_offset as usize..span.end_offset as usize).unwrap_or_default();
        let unlike_python = match token {
            Token::Str(_) | Token::String(_) => !is_text_of_python(written),
            Token::Int(_) | Token::Int128(_) | Token::Float(_) => !is_number_of_python(written),
            _ => false,
        };
        if unlike_python {
            return Err(refused(format!("line {}: a literal written like this", span.start_line)));
        }
        if at_start {
            let replaced = match token {
                Token::Ident("generation") => Some("with"),
                Token::Ident("endgeneration") => Some("endwith"),
                Token::Ident("elif") => {
                    elifs += 1;
                    None
                }
                _ => None,
            };
            if let Some(replaced) = replaced {
                let (start, end) = (span.start_offset as usize - shift, span.end_offset as usize - shift);
                if text.get(start..end).is_none() {
                    return Err(refused("the block `generation`"));
                }
                text.replace_range(start..end, replaced);
                shift += (end - start) - replaced.len();
            }
        }
        if elifs > ELIFS_MAX {
            return Err(refused(format!("more than {ELIFS_MAX} `elif` one in another")));
        }
        at_start = matches!(token, Token::BlockStart);
    }
    Ok(text)
}

/// Whether the escapes of a text mean in Python what they mean to minijinja.
fn is_text_of_python(written: &str) -> bool {
    let mut chars = written.chars();
    while let Some(c) = chars.next() {
        if c == '\\'
            && !chars
                .next()
                .is_some_and(|c| matches!(c, '"' | '\\' | '\'' | 'b' | 'f' | 'n' | 'r' | 't' | 'u' | 'x'))
        {
            return false;
        }
    }
    true
}

/// Whether a number is one in Python too: no zeros before it, one underscore between digits, no point at its end.
fn is_number_of_python(written: &str) -> bool {
    let zeros = written.len() > 1
        && written.starts_with('0')
        && written[1..].starts_with(|c: char| c.is_ascii_digit() || c == '_');
    !(zeros && written.trim_start_matches(['0', '_']) != ""
        || written.contains("__")
        || written.ends_with(['.', '_']))
        && !written.contains("._")
        && !written.contains("_.")
}

/// Names in one of Jinja's scopes. It decides once for a scope where a name comes from, minijinja at each use; the two
/// differ where a name that the context knows is read inside an inner scope, and then set in the outer.
#[derive(Debug, Default)]
struct Scope<'a> {
    stored: HashSet<&'a str>,
    read: HashSet<&'a str>,
    read_inside: HashSet<&'a str>,
}

/// The scopes around a statement, and the names that the context and the functions have.
struct Names<'a, 'n> {
    scopes: RefCell<Vec<Scope<'a>>>,
    known: &'n dyn Fn(&str) -> bool,
    /// Macros that read `varargs` or `kwargs`, and the parameters of all; a name that two have has none.
    more: RefCell<HashSet<&'a str>>,
    parameters: RefCell<HashMap<&'a str, Option<Vec<&'a str>>>>,
}

impl<'a> Names<'a, '_> {
    fn read(&self, name: &'a str) {
        if let Some(scope) = self.scopes.borrow_mut().last_mut() {
            scope.read.insert(name);
        }
    }

    fn store(&self, name: &'a str) -> Result<()> {
        if let Some(scope) = self.scopes.borrow_mut().last_mut() {
            if scope.read_inside.contains(name) && !scope.stored.contains(name) && (self.known)(name) {
                return Err(refused(format!("`{name}` set behind a block that reads it")));
            }
            scope.stored.insert(name);
        }
        Ok(())
    }

    fn defined(&self, of: &Macro<'a>) {
        let parameters =
            of.args.iter().filter_map(|arg| if let Expr::Var(var) = arg { Some(var.id) } else { None });
        let parameters: Vec<&str> = parameters.collect();
        let mut known = self.parameters.borrow_mut();
        match known.get(of.name) {
            Some(Some(others)) if *others == parameters => {}
            Some(_) => drop(known.insert(of.name, None)),
            None => drop(known.insert(of.name, Some(parameters))),
        }
    }

    /// The parameters of a macro that takes more arguments than those.
    fn takes_more(&self, name: &str) -> Option<Option<Vec<&'a str>>> {
        let takes = self.more.borrow().contains(name);
        takes.then(|| self.parameters.borrow().get(name).cloned().flatten())
    }

    /// Whether a name was read in the innermost scope.
    fn reads(&self, name: &str) -> bool {
        self.scopes.borrow().last().is_some_and(|scope| scope.read.contains(name))
    }

    fn open(&self) {
        self.scopes.borrow_mut().push(Scope::default());
    }

    fn close(&self) {
        let mut scopes = self.scopes.borrow_mut();
        let Some(inner) = scopes.pop() else { return };
        if let Some(outer) = scopes.last_mut() {
            for name in inner.read.difference(&inner.stored) {
                outer.read.insert(name);
                outer.read_inside.insert(name);
            }
        }
    }
}

/// The walk.
#[derive(Clone, Copy)]
struct Walk<'w, 'a> {
    names: &'w Names<'a, 'w>,
    /// Whether this is the second walk.
    is_last: bool,
    depth: usize,
    /// The macro around, where Python knows `varargs` and `kwargs`.
    in_macro: Option<&'a str>,
    /// Inside a loop, and whether something stands between here and it that `break` would have to close.
    in_loop: bool,
    cut_off: bool,
}

/// The tree with each operation replaced.
///
/// # Errors
/// What is refused, by name.
pub(super) fn rewritten<'a>(tree: &Stmt<'a>, known: &dyn Fn(&str) -> bool) -> Result<Stmt<'a>> {
    match tree {
        Stmt::Template(template) => {
            let names = Names {
                scopes: RefCell::default(),
                known,
                more: RefCell::default(),
                parameters: RefCell::default(),
            };
            let walk = |is_last| Walk {
                names: &names,
                is_last,
                depth: 0,
                in_macro: None,
                in_loop: false,
                cut_off: false,
            };
            let body = |is_last: bool| {
                names.scopes.replace(vec![Scope::default()]);
                walk(is_last).body(&template.children)
            };
            // Which names are macros, and which of them take more arguments than they name, is known behind the first walk.
            body(false)?;
            let children = body(true)?;
            Ok(Stmt::Template(Spanned::new(Template { children }, template.span())))
        }
        _ => Err(refused("a template that is none")),
    }
}

impl<'a> Walk<'_, 'a> {
    fn deeper(self) -> Result<Self> {
        match self.depth < DEPTH_MAX {
            true => Ok(Walk { depth: self.depth + 1, ..self }),
            false => Err(refused(format!("more than {DEPTH_MAX} expressions and statements one in another"))),
        }
    }

    /// A block that `break` does not leave.
    fn closed(self) -> Self {
        Walk { cut_off: true, ..self }
    }

    fn body(self, body: &[Stmt<'a>]) -> Result<Vec<Stmt<'a>>> {
        let inner = self.deeper()?;
        body.iter().map(|stmt| inner.stmt(stmt)).collect()
    }

    /// A body with a scope of its own, which minijinja has only for some.
    fn scope(self, body: &[Stmt<'a>], span: Span) -> Result<Vec<Stmt<'a>>> {
        if body.is_empty() {
            return Ok(Vec::new());
        }
        self.names.open();
        let body = self.closed().body(body)?;
        self.names.close();
        Ok(vec![Stmt::WithBlock(Spanned::new(WithBlock { assignments: Vec::new(), body }, span))])
    }

    fn stmt(self, stmt: &Stmt<'a>) -> Result<Stmt<'a>> {
        let unknown = |name: &str| Err(refused(format!("the block `{name}`")));
        Ok(match stmt {
            Stmt::Template(_) => return unknown("template"),
            Stmt::EmitExpr(emit) => {
                // Marked as safe, or escaped and so marked, a text prints as it is; anywhere else the mark would matter.
                let marks = match &emit.expr {
                    Expr::Filter(filter) if filter.args.is_empty() => {
                        filter.expr.as_ref().map(|of| (filter.name, of))
                    }
                    _ => None,
                };
                let expr = match marks {
                    Some(("safe", of)) => self.expr(of)?,
                    Some(("e" | "escape" | "forceescape", of)) if !is_marked(of) => {
                        operation("@escape", self.expr(of)?, vec![], emit.span())
                    }
                    _ => self.expr(&emit.expr)?,
                };
                Stmt::EmitExpr(Spanned::new(EmitExpr { expr }, emit.span()))
            }
            // Text passes the formatter as well, where it is counted.
            Stmt::EmitRaw(raw) => {
                let expr = constant(Value::from(raw.raw), raw.span());
                Stmt::EmitExpr(Spanned::new(EmitExpr { expr }, raw.span()))
            }
            Stmt::ForLoop(of) => {
                let inner = Walk { in_loop: true, cut_off: false, ..self };
                if !of.else_body.is_empty() && leaves_early(&of.body) {
                    return Err(refused("a loop with both `else` and `break` or `continue`"));
                }
                let iter = operation("@iter", self.expr(&of.iter)?, vec![], of.span());
                self.names.open();
                let target = self.target(&of.target)?;
                let filter_expr = self.optional(of.filter_expr.as_ref())?;
                let body = inner.body(&of.body)?;
                self.names.close();
                let else_body = self.scope(&of.else_body, of.span())?;
                let made = ForLoop { target, iter, filter_expr, recursive: of.recursive, body, else_body };
                Stmt::ForLoop(Spanned::new(made, of.span()))
            }
            Stmt::IfCond(of) => {
                let made = IfCond {
                    expr: self.expr(&of.expr)?,
                    true_body: self.body(&of.true_body)?,
                    false_body: self.body(&of.false_body)?,
                };
                Stmt::IfCond(Spanned::new(made, of.span()))
            }
            Stmt::WithBlock(of) => {
                let mut values = Vec::new();
                for (n, (_, value)) in of.assignments.iter().enumerate() {
                    // Python's values see the names outside only, minijinja's those before them as well.
                    self.names.open();
                    values.push(self.expr(value)?);
                    let earlier = of.assignments.iter().take(n).map(|(target, _)| target);
                    if earlier
                        .into_iter()
                        .any(|target| !matches!(target, Expr::Var(var) if !self.names.reads(var.id)))
                    {
                        return Err(refused("a `with` block whose values read its names"));
                    }
                    self.names.close();
                }
                self.names.open();
                let targets = of
                    .assignments
                    .iter()
                    .map(|(target, _)| self.target(target))
                    .collect::<Result<Vec<_>>>()?;
                let assignments = targets.into_iter().zip(values).collect();
                let made = WithBlock { assignments, body: self.closed().body(&of.body)? };
                self.names.close();
                Stmt::WithBlock(Spanned::new(made, of.span()))
            }
            Stmt::Set(of) => {
                let value = self.expr(&of.expr)?;
                let value = match &of.target {
                    // A macro encloses only names that it reads: so this reads the namespace.
                    Expr::GetAttr(attr) => {
                        let namespace = vec![CallArg::Pos(self.expr(&attr.expr)?)];
                        operation("@plain", value, namespace, of.span())
                    }
                    Expr::List(_) => operation("@iter", value, vec![], of.span()),
                    _ => value,
                };
                Stmt::Set(Spanned::new(Set { target: self.target(&of.target)?, expr: value }, of.span()))
            }
            Stmt::SetBlock(of) => {
                let body = self.scope(&of.body, of.span())?;
                let filter = self.optional(of.filter.as_ref())?;
                let made = SetBlock { target: self.target(&of.target)?, filter, body };
                Stmt::SetBlock(Spanned::new(made, of.span()))
            }
            Stmt::FilterBlock(of) => {
                let made =
                    FilterBlock { filter: self.expr(&of.filter)?, body: self.scope(&of.body, of.span())? };
                Stmt::FilterBlock(Spanned::new(made, of.span()))
            }
            Stmt::Macro(of) => {
                self.names.store(of.name)?;
                Stmt::Macro(self.function(of)?)
            }
            Stmt::CallBlock(of) => {
                let call = Spanned::new(self.call(&of.call)?, of.call.span());
                let macro_decl = self.function(&of.macro_decl)?;
                Stmt::CallBlock(Spanned::new(CallBlock { call, macro_decl }, of.span()))
            }
            Stmt::Continue(of) => {
                self.leaves("continue")?;
                Stmt::Continue(Spanned::new(minijinja::machinery::ast::Continue, of.span()))
            }
            Stmt::Break(of) => {
                self.leaves("break")?;
                Stmt::Break(Spanned::new(minijinja::machinery::ast::Break, of.span()))
            }
            Stmt::AutoEscape(_) => return unknown("autoescape"),
            Stmt::Block(_) => return unknown("block"),
            Stmt::Import(_) | Stmt::FromImport(_) => return unknown("import"),
            Stmt::Extends(_) => return unknown("extends"),
            Stmt::Include(_) => return unknown("include"),
            Stmt::Do(_) => return unknown("do"),
        })
    }

    fn leaves(self, name: &str) -> Result<()> {
        match (self.in_loop, self.cut_off) {
            (true, false) => Ok(()),
            (true, true) => Err(refused(format!("`{name}` out of a block inside the loop"))),
            (false, _) => Err(failed(format!("`{name}` outside of a loop"))),
        }
    }

    fn function(self, of: &Spanned<Macro<'a>>) -> Result<Spanned<Macro<'a>>> {
        let inner = Walk { in_macro: Some(of.name), in_loop: false, ..self };
        if of.args.len() > ARGUMENTS_MAX {
            return Err(refused(format!("more than {ARGUMENTS_MAX} arguments")));
        }
        let open_ended = self.names.takes_more(of.name).is_some();
        self.names.defined(of);
        let fresh = |id: &'a str| Expr::Var(Spanned::new(Var { id }, of.span()));
        self.names.open();
        let mut args = of.args.iter().map(|arg| self.target(arg)).collect::<Result<Vec<_>>>()?;
        let (mut defaults, mut begins) = (Vec::new(), Vec::new());
        for (value, arg) in
            of.defaults.iter().zip(&of.args[of.args.len().saturating_sub(of.defaults.len())..])
        {
            let Expr::Var(name) = arg else { return Err(failed("an argument without a name")) };
            if value.as_const().is_some() {
                defaults.push(inner.expr(value)?);
                continue;
            }
            // minijinja computes defaults before it knows the other arguments: these are computed in the body.
            defaults.push(constant(Value::UNDEFINED, of.span()));
            let is = vec![CallArg::Pos(constant(Value::from("undefined"), of.span()))];
            let chosen = IfExpr {
                test_expr: operation("@test", fresh(name.id), is, of.span()),
                true_expr: inner.expr(value)?,
                false_expr: Some(fresh(name.id)),
            };
            let set = Set { target: fresh(name.id), expr: Expr::IfExpr(Spanned::new(chosen, of.span())) };
            begins.push(Stmt::Set(Spanned::new(set, of.span())));
        }
        if open_ended {
            for (id, empty) in [
                ("varargs", Value::from(Tuple::default())),
                ("kwargs", Value::from_pairs::<_, &str, Value>([])),
            ] {
                self.names.store(id)?;
                args.push(fresh(id));
                defaults.push(constant(empty, of.span()));
            }
        }
        // Those that were given undefined are so again.
        for arg in &of.args {
            let Expr::Var(name) = arg else { return Err(failed("an argument without a name")) };
            let taken = operation("@taken", fresh(name.id), vec![], of.span());
            begins.push(Stmt::Set(Spanned::new(Set { target: fresh(name.id), expr: taken }, of.span())));
        }
        begins.extend(inner.body(&of.body)?);
        let made = Macro { name: of.name, args, defaults, body: begins };
        self.names.close();
        Ok(Spanned::new(made, of.span()))
    }

    /// What is assigned to.
    fn target(self, target: &Expr<'a>) -> Result<Expr<'a>> {
        let inner = self.deeper()?;
        Ok(match target {
            Expr::Var(var) => {
                self.names.store(var.id)?;
                Expr::Var(Spanned::new(Var { id: var.id }, var.span()))
            }
            Expr::List(list) if list.items.len() < 2 => {
                return Err(refused("a list of one name to assign to"));
            }
            Expr::List(list) => {
                let items = list.items.iter().map(|item| inner.target(item)).collect::<Result<_>>()?;
                Expr::List(Spanned::new(List { items }, list.span()))
            }
            Expr::GetAttr(attr) => {
                let Expr::Var(var) = &attr.expr else {
                    return Err(failed("what is assigned to is no namespace's attribute"));
                };
                if attr.name.starts_with('_') {
                    return Err(refused("an attribute that begins with `_`"));
                }
                self.names.read(var.id);
                let expr = Expr::Var(Spanned::new(Var { id: var.id }, var.span()));
                Expr::GetAttr(Spanned::new(GetAttr { expr, name: attr.name }, attr.span()))
            }
            _ => return Err(failed("what is assigned to is no name")),
        })
    }

    fn optional(self, expr: Option<&Expr<'a>>) -> Result<Option<Expr<'a>>> {
        expr.map(|expr| self.expr(expr)).transpose()
    }

    fn all(self, exprs: &[Expr<'a>]) -> Result<Vec<Expr<'a>>> {
        if exprs.len() > ARGUMENTS_MAX {
            return Err(refused(format!("more than {ARGUMENTS_MAX} values in a literal")));
        }
        exprs.iter().map(|expr| self.expr(expr)).collect()
    }

    fn expr(self, expr: &Expr<'a>) -> Result<Expr<'a>> {
        let inner = self.deeper()?;
        let span = expr.span();
        Ok(match expr {
            Expr::Var(var) => {
                if let (Some(name), "varargs" | "kwargs") = (self.in_macro, var.id) {
                    self.names.more.borrow_mut().insert(name);
                }
                // A loop around a macro is known in it to Python, and not to minijinja.
                let of_loop = self.in_macro.is_some() && !self.in_loop && var.id == "loop";
                if of_loop || matches!(var.id, "self" | "super") {
                    return Err(refused(format!("`{}`", var.id)));
                }
                self.names.read(var.id);
                Expr::Var(Spanned::new(Var { id: var.id }, span))
            }
            Expr::Const(of) => constant(of.value.clone(), span),
            Expr::Slice(of) => {
                let bound = |bound: Option<&Expr<'a>>| match bound {
                    Some(bound) => inner.expr(bound),
                    None => Ok(constant(Value::from(()), span)),
                };
                let bounds = [bound(of.start.as_ref())?, bound(of.stop.as_ref())?, bound(of.step.as_ref())?];
                operation("@slice", inner.expr(&of.expr)?, bounds.map(CallArg::Pos).into(), span)
            }
            Expr::UnaryOp(of) => match of.op {
                UnaryOpKind::Not => {
                    let made = UnaryOp { op: UnaryOpKind::Not, expr: inner.expr(&of.expr)? };
                    Expr::UnaryOp(Spanned::new(made, span))
                }
                UnaryOpKind::Neg => operation("@neg", inner.expr(&of.expr)?, vec![], span),
            },
            Expr::BinOp(of) => inner.binary(of, span)?,
            Expr::Compare(of) => {
                // `a < b < c`: the middle is computed twice, so it must be a name, a constant or an attribute.
                if of.ops.len() > DEPTH_MAX {
                    return Err(refused(format!("more than {DEPTH_MAX} comparisons in a chain")));
                }
                let mut chained: Option<Expr<'a>> = None;
                let mut left = &of.expr;
                for (n, op) in of.ops.iter().enumerate() {
                    if n > 0 && !is_simple(left) {
                        return Err(refused("a chain of comparisons"));
                    }
                    let right = CallArg::Pos(inner.expr(&op.expr)?);
                    let one = operation(comparison(op.op), inner.expr(left)?, vec![right], span);
                    chained = Some(match chained {
                        None => one,
                        Some(before) => {
                            let both = BinOp { op: BinOpKind::ScAnd, left: before, right: one };
                            Expr::BinOp(Spanned::new(both, span))
                        }
                    });
                    left = &op.expr;
                }
                chained.ok_or_else(|| failed("a comparison with nothing"))?
            }
            Expr::IfExpr(of) => {
                let made = IfExpr {
                    test_expr: inner.expr(&of.test_expr)?,
                    true_expr: inner.expr(&of.true_expr)?,
                    false_expr: inner.optional(of.false_expr.as_ref())?,
                };
                Expr::IfExpr(Spanned::new(made, span))
            }
            Expr::Filter(of) => {
                let mut args = inner.arguments(&of.args)?;
                args.insert(0, CallArg::Pos(constant(Value::from(of.name), span)));
                let expr = inner.optional(of.expr.as_ref())?;
                Expr::Filter(Spanned::new(Filter { name: "@filter", expr, args }, span))
            }
            Expr::Test(of) => {
                let mut args = inner.arguments(&of.args)?;
                args.insert(0, CallArg::Pos(constant(Value::from(of.name), span)));
                operation("@test", inner.expr(&of.expr)?, args, span)
            }
            Expr::GetAttr(of) => {
                let name = CallArg::Pos(constant(Value::from(of.name), span));
                operation("@attribute", inner.expr(&of.expr)?, vec![name], span)
            }
            Expr::GetItem(of) => {
                let key = CallArg::Pos(inner.expr(&of.subscript_expr)?);
                operation("@item", inner.expr(&of.expr)?, vec![key], span)
            }
            Expr::Call(of) => match &of.expr {
                Expr::GetAttr(method) => {
                    let mut args = inner.arguments(&of.args)?;
                    args.insert(0, CallArg::Pos(constant(Value::from(method.name), span)));
                    operation("@method", inner.deeper()?.expr(&method.expr)?, args, span)
                }
                _ => Expr::Call(Spanned::new(inner.call(of)?, span)),
            },
            Expr::List(of) => {
                let items = inner.all(&of.items)?;
                operation("@plain", Expr::List(Spanned::new(List { items }, span)), vec![], span)
            }
            Expr::Tuple(of) => {
                let items = inner.all(&of.items)?;
                let tuple = minijinja::machinery::ast::Tuple { items };
                operation("@plain", Expr::Tuple(Spanned::new(tuple, span)), vec![], span)
            }
            Expr::Map(of) => {
                let keys = inner.all(&of.keys)?.into_iter();
                let keys = keys.map(|key| operation("@key", key, vec![], span)).collect();
                let made = Map { keys, values: inner.all(&of.values)? };
                operation("@plain", Expr::Map(Spanned::new(made, span)), vec![], span)
            }
        })
    }

    fn binary(self, of: &BinOp<'a>, span: Span) -> Result<Expr<'a>> {
        let name = match of.op {
            BinOpKind::ScAnd | BinOpKind::ScOr => {
                let made = BinOp { op: of.op, left: self.expr(&of.left)?, right: self.expr(&of.right)? };
                return Ok(Expr::BinOp(Spanned::new(made, span)));
            }
            BinOpKind::Eq => "@eq",
            BinOpKind::Ne => "@ne",
            BinOpKind::Lt => "@lt",
            BinOpKind::Lte => "@le",
            BinOpKind::Gt => "@gt",
            BinOpKind::Gte => "@ge",
            BinOpKind::Add => "@add",
            BinOpKind::Sub => "@sub",
            BinOpKind::Mul => "@mul",
            BinOpKind::Div => "@div",
            BinOpKind::FloorDiv => "@floordiv",
            BinOpKind::Rem => "@rem",
            BinOpKind::Pow => {
                // `-3 ** 2` is -9 in Python and 9 here, and the tree does not tell where parentheses stood.
                let negative = |value: &Value| f64::try_from(value.clone()).is_ok_and(|n| n < 0.0);
                match &of.left {
                    Expr::UnaryOp(_) => return Err(refused("`**` behind a sign")),
                    Expr::Const(of) if negative(&of.value) => return Err(refused("`**` behind a sign")),
                    _ => "@pow",
                }
            }
            BinOpKind::Concat => "@concat",
            BinOpKind::In => "@in",
        };
        Ok(operation(name, self.expr(&of.left)?, vec![CallArg::Pos(self.expr(&of.right)?)], span))
    }

    /// A call of a function by its name: of ours, of a macro, `caller()`, or a recursive loop's `loop()`.
    fn call(self, of: &Call<'a>) -> Result<Call<'a>> {
        let Expr::Var(name) = &of.expr else {
            return Err(refused("a call of what is not named"));
        };
        if matches!(name.id, "super" | "self")
            || name.id == "loop" && self.in_macro.is_some() && !self.in_loop
        {
            return Err(refused(format!("`{}`", name.id)));
        }
        self.names.read(name.id);
        let expr = Expr::Var(Spanned::new(Var { id: name.id }, name.span()));
        let mut args = self.arguments(&of.args)?;
        if name.id == "loop" {
            let listed = |arg| match arg {
                CallArg::Pos(value) => CallArg::Pos(operation("@iter", value, vec![], of.expr.span())),
                other => other,
            };
            args = args.into_iter().map(listed).collect();
        }
        let is_macro = self.names.parameters.borrow().contains_key(name.id) || name.id == "caller";
        if is_macro {
            args = args.into_iter().map(|arg| given(arg, name.span())).collect();
        } else if !args.is_empty() && name.id != "loop" && !(self.names.known)(name.id) && self.is_last {
            return Err(refused(format!("a call of `{}`, which is no macro", name.id)));
        }
        if let Some(parameters) = self.names.takes_more(name.id) {
            let parameters =
                parameters.ok_or_else(|| refused("`varargs` or `kwargs` in two macros of a name"))?;
            args = packed(args, &parameters, name.span())?;
        }
        Ok(Call { expr, args })
    }

    fn arguments(self, args: &[CallArg<'a>]) -> Result<Vec<CallArg<'a>>> {
        if args.len() > ARGUMENTS_MAX {
            return Err(refused(format!("more than {ARGUMENTS_MAX} arguments")));
        }
        let argument = |arg: &CallArg<'a>| {
            Ok(match arg {
                CallArg::Pos(value) => CallArg::Pos(self.expr(value)?),
                CallArg::Kwarg(name, value) => CallArg::Kwarg(name, self.expr(value)?),
                CallArg::PosSplat(values) => {
                    CallArg::PosSplat(operation("@iter", self.expr(values)?, vec![], values.span()))
                }
                CallArg::KwargSplat(values) => CallArg::KwargSplat(self.expr(values)?),
            })
        };
        args.iter().map(argument).collect()
    }
}

/// An argument of a macro. minijinja takes an undefined one for one that is not given, and puts the default there.
fn given<'a>(arg: CallArg<'a>, span: Span) -> CallArg<'a> {
    match arg {
        CallArg::Pos(value) => CallArg::Pos(operation("@given", value, vec![], span)),
        CallArg::Kwarg(name, value) => CallArg::Kwarg(name, operation("@given", value, vec![], span)),
        other => other,
    }
}

/// The arguments of a macro that takes more than it names: the others become the values of two arguments that it is given.
fn packed<'a>(args: Vec<CallArg<'a>>, parameters: &[&str], span: Span) -> Result<Vec<CallArg<'a>>> {
    let (mut kept, mut others) = (Vec::new(), Vec::new());
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for arg in args {
        match arg {
            CallArg::Pos(value) if kept.len() < parameters.len() => kept.push(CallArg::Pos(value)),
            CallArg::Pos(value) => others.push(value),
            CallArg::Kwarg(name, value) if parameters.contains(&name) => {
                kept.push(CallArg::Kwarg(name, value))
            }
            CallArg::Kwarg(name, value) => {
                keys.push(constant(Value::from(name), span));
                values.push(value);
            }
            _ => return Err(refused("`*` before an argument of a macro with `varargs` or `kwargs`")),
        }
    }
    let plain = |value| operation("@plain", value, vec![], span);
    let others = Expr::Tuple(Spanned::new(minijinja::machinery::ast::Tuple { items: others }, span));
    let named = Expr::Map(Spanned::new(Map { keys, values }, span));
    kept.extend([CallArg::Kwarg("varargs", plain(others)), CallArg::Kwarg("kwargs", plain(named))]);
    Ok(kept)
}

/// Whether a value may be marked as safe.
fn is_marked(expr: &Expr<'_>) -> bool {
    matches!(expr, Expr::Filter(filter) if matches!(filter.name, "safe" | "e" | "escape" | "forceescape"))
}

fn constant<'a>(value: Value, span: Span) -> Expr<'a> {
    Expr::Const(Spanned::new(Const { value }, span))
}

/// One of `OPERATIONS` on a value.
fn operation<'a>(name: &'static str, value: Expr<'a>, args: Vec<CallArg<'a>>, span: Span) -> Expr<'a> {
    Expr::Filter(Spanned::new(Filter { name, expr: Some(value), args }, span))
}

fn comparison(op: CompareOpKind) -> &'static str {
    match op {
        CompareOpKind::Eq => "@eq",
        CompareOpKind::Ne => "@ne",
        CompareOpKind::Lt => "@lt",
        CompareOpKind::Lte => "@le",
        CompareOpKind::Gt => "@gt",
        CompareOpKind::Gte => "@ge",
        CompareOpKind::In => "@in",
        CompareOpKind::NotIn => "@notin",
    }
}

/// Whether computing an expression twice computes the same, and nothing else.
fn is_simple(expr: &Expr<'_>) -> bool {
    match expr {
        Expr::Var(_) | Expr::Const(_) => true,
        Expr::GetAttr(attr) => matches!(attr.expr, Expr::Var(_)),
        Expr::Filter(filter) => filter.name == "length" && filter.expr.as_ref().is_some_and(is_simple),
        _ => false,
    }
}

/// Whether a loop's body has a `break` or a `continue` of that loop.
fn leaves_early(body: &[Stmt<'_>]) -> bool {
    body.iter().any(|stmt| match stmt {
        Stmt::Break(_) | Stmt::Continue(_) => true,
        // As deep as the parser lets blocks stand in one another.
        Stmt::IfCond(of) => leaves_early(&of.true_body) || leaves_early(&of.false_body),
        _ => false,
    })
}
