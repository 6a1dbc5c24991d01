//! From tokens to a tree, by Jinja's grammar.
//!
//! What it knows and what templates of models never need (other files, blocks to inherit, translation, escaping for HTML)
//! is refused by name.

mod expressions;

use super::ast::{Body, Expr, Filter, For, Kind, MacroBody, Name, Statement, Target};
use super::lexer::{self, Placed, Token};
use super::value::{Fault, Res};
use std::rc::Rc;

/// The most expressions or statements one in another.
const NESTING_MAX: u32 = 120;

/// Tags of Jinja that are not rendered.
const REFUSED: &[&str] =
    &["block", "extends", "include", "import", "from", "autoescape", "do", "trans", "debug"];

pub(super) struct Parser {
    tokens: Vec<Placed>,
    at: usize,
    nesting: u32,
    /// Operators, calls and subscripts since the statement began: each is a level of its tree.
    links: u32,
    /// Names read so far, by which a macro's use of `caller`, `kwargs`, `varargs` is told.
    reads: Vec<Name>,
}

/// The tree of a template.
pub(super) fn parse(source: &str) -> Res<Body> {
    let mut parser = Parser { tokens: lexer::cut(source)?, at: 0, nesting: 0, links: 0, reads: Vec::new() };
    let (body, end) = parser.body(&[])?;
    match end {
        None => Ok(body),
        Some(_) => parser.fail("an end without a beginning"),
    }
}

impl Parser {
    fn token(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |(token, _)| token)
    }

    fn next_token(&self) -> &Token {
        self.tokens.get(self.at + 1).map_or(&Token::End, |(token, _)| token)
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |(_, line)| *line)
    }

    fn advance(&mut self) {
        self.at += 1;
    }

    fn fail<T>(&self, message: impl Into<String>) -> Res<T> {
        Err(Fault::syntax(message).at(self.line()))
    }

    /// Fails at a token that does not fit.
    fn unexpected<T>(&self, wanted: &str) -> Res<T> {
        let found = match self.token() {
            Token::Data(_) => "text".to_string(),
            Token::VariableBegin => "`{{`".into(),
            Token::VariableEnd => "`}}`".into(),
            Token::BlockBegin => "`{%`".into(),
            Token::BlockEnd => "`%}`".into(),
            Token::Name(name) => format!("`{name}`"),
            Token::Text(_) => "a text".into(),
            Token::Integer(_) | Token::Float(_) => "a number".into(),
            Token::Operator(operator) => format!("`{operator}`"),
            Token::End => "the end".into(),
        };
        self.fail(format!("expected {wanted}, found {found}"))
    }

    /// Runs one level further in.
    fn nested<T>(&mut self, inner: impl FnOnce(&mut Parser) -> Res<T>) -> Res<T> {
        self.nesting += 1;
        if self.nesting > NESTING_MAX {
            return Err(Fault::limit(format!(
                "more than {NESTING_MAX} expressions or blocks one in another"
            ))
            .at(self.line()));
        }
        let result = inner(self);
        self.nesting -= 1;
        result
    }

    fn is_operator(&self, operator: &str) -> bool {
        matches!(self.token(), Token::Operator(found) if *found == operator)
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.token(), Token::Name(found) if **found == *name)
    }

    fn skip_operator(&mut self, operator: &str) -> bool {
        let is = self.is_operator(operator);
        self.at += usize::from(is);
        is
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let is = self.is_name(name);
        self.at += usize::from(is);
        is
    }

    fn expect_operator(&mut self, operator: &str) -> Res<()> {
        match self.skip_operator(operator) {
            true => Ok(()),
            false => self.unexpected(&format!("`{operator}`")),
        }
    }

    fn expect_name(&mut self, name: &str) -> Res<()> {
        match self.skip_name(name) {
            true => Ok(()),
            false => self.unexpected(&format!("`{name}`")),
        }
    }

    fn name(&mut self) -> Res<Name> {
        let Token::Name(name) = self.token() else { return self.unexpected("a name") };
        let name = name.clone();
        self.advance();
        Ok(name)
    }

    fn block_end(&mut self) -> Res<()> {
        if *self.token() != Token::BlockEnd {
            return self.unexpected("`%}`");
        }
        self.advance();
        Ok(())
    }

    /// Statements up to one of the tags `ends`, whose name is passed over and given back; `None` at the template's end.
    fn body(&mut self, ends: &[&'static str]) -> Res<(Body, Option<&'static str>)> {
        let mut body = Body::new();
        loop {
            let line = self.line();
            self.links = 0;
            match self.token() {
                Token::End => return Ok((body, None)),
                Token::Data(text) => {
                    let text = text.clone();
                    self.advance();
                    body.push(Statement { line, kind: Kind::Data(text) });
                }
                Token::VariableBegin => {
                    self.advance();
                    let value = self.tuple(true, &[])?;
                    if *self.token() != Token::VariableEnd {
                        return self.unexpected("`}}`");
                    }
                    self.advance();
                    body.push(Statement { line, kind: Kind::Print(value) });
                }
                Token::BlockBegin => {
                    self.advance();
                    if let Some(end) = ends.iter().find(|end| self.is_name(end)) {
                        self.advance();
                        return Ok((body, Some(end)));
                    }
                    let kinds = self.nested(Parser::statement)?;
                    self.block_end()?;
                    body.extend(kinds.into_iter().map(|kind| Statement { line, kind }));
                }
                _ => return self.unexpected("text or a tag"),
            }
        }
    }

    /// The body of a block: behind its first tag, up to one of `ends`.
    fn block(&mut self, ends: &[&'static str]) -> Res<(Body, &'static str)> {
        self.skip_operator(":");
        self.block_end()?;
        match self.body(ends)? {
            (body, Some(end)) => Ok((body, end)),
            (_, None) => self.fail(format!("`{}` is missing", ends.last().unwrap_or(&"an end"))),
        }
    }

    /// A statement, from the name of its tag up to its last `%}`, which stays.
    fn statement(&mut self) -> Res<Vec<Kind>> {
        let tag = self.name()?;
        Ok(vec![match &*tag {
            "if" => self.if_statement()?,
            "for" => self.for_statement()?,
            "set" => self.set_statement()?,
            "with" => self.with_statement()?,
            "macro" => {
                let name = self.name()?;
                let arguments = self.signature()?;
                Kind::Macro(Rc::new(self.macro_body(name, arguments, "endmacro")?))
            }
            "call" => self.call_statement()?,
            "filter" => {
                let filters = self.filters(true)?;
                Kind::Filtered { filters, body: self.block(&["endfilter"])?.0 }
            }
            "generation" => Kind::Generation(self.block(&["endgeneration"])?.0),
            "break" => Kind::Break,
            "continue" => Kind::Continue,
            "print" => {
                let mut values = Vec::new();
                while *self.token() != Token::BlockEnd {
                    if !values.is_empty() {
                        self.expect_operator(",")?;
                    }
                    values.push(Kind::Print(self.expression()?));
                }
                return Ok(values);
            }
            tag if REFUSED.contains(&tag) => {
                return Err(Fault::refused(format!("`{{% {tag} %}}`")).at(self.line()));
            }
            tag if tag.starts_with("end") || matches!(tag, "else" | "elif") => {
                return self.fail(format!("`{tag}` ends nothing that is open"));
            }
            tag => return Err(Fault::refused(format!("the unknown tag `{tag}`")).at(self.line())),
        }])
    }

    fn if_statement(&mut self) -> Res<Kind> {
        let mut branches = Vec::new();
        loop {
            let test = self.tuple(false, &[])?;
            let (body, end) = self.block(&["elif", "else", "endif"])?;
            branches.push((test, body));
            match end {
                "elif" => {}
                "else" => {
                    let (otherwise, _) = self.block(&["endif"])?;
                    return Ok(Kind::If { branches, otherwise });
                }
                _ => return Ok(Kind::If { branches, otherwise: Body::new() }),
            }
        }
    }

    fn for_statement(&mut self) -> Res<Kind> {
        let target = self.target(&["in"], false)?;
        self.expect_name("in")?;
        let items = self.tuple(false, &["recursive"])?;
        let test = match self.skip_name("if") {
            true => Some(self.expression()?),
            false => None,
        };
        let recursive = self.skip_name("recursive");
        let (body, end) = self.block(&["endfor", "else"])?;
        let otherwise = match end {
            "else" => self.block(&["endfor"])?.0,
            _ => Body::new(),
        };
        Ok(Kind::For(Rc::new(For { target, items, test, recursive, body, otherwise })))
    }

    fn set_statement(&mut self) -> Res<Kind> {
        let target = self.target(&[], true)?;
        if self.skip_operator("=") {
            return Ok(Kind::Set { target, value: self.tuple(true, &[])? });
        }
        let filters = self.filters(false)?;
        let (body, _) = self.block(&["endset"])?;
        Ok(Kind::SetBlock { target, filters, body })
    }

    fn with_statement(&mut self) -> Res<Kind> {
        let mut values = Vec::new();
        while *self.token() != Token::BlockEnd {
            if !values.is_empty() {
                self.expect_operator(",")?;
            }
            // Without parentheses a comma begins the next assignment.
            let target = match self.next_token() {
                Token::Operator("=") => Target::Name(self.name()?),
                _ => self.target(&[], false)?,
            };
            self.expect_operator("=")?;
            values.push((target, self.expression()?));
        }
        Ok(Kind::With { values, body: self.block(&["endwith"])?.0 })
    }

    fn call_statement(&mut self) -> Res<Kind> {
        let line = self.line();
        let arguments = match self.is_operator("(") {
            true => self.signature()?,
            false => Vec::new(),
        };
        let call = self.expression()?;
        if !matches!(call, Expr::Call(..)) {
            return Err(Fault::syntax("`call` needs a call").at(line));
        }
        let caller = self.macro_body("caller".into(), arguments, "endcall")?;
        Ok(Kind::Call { call, caller: Rc::new(caller) })
    }

    /// The body of a macro up to `end`.
    fn macro_body(
        &mut self,
        name: Name,
        arguments: Vec<(Name, Option<Expr>)>,
        end: &'static str,
    ) -> Res<MacroBody> {
        let before = std::mem::take(&mut self.reads);
        let body = self.block(&[end])?.0;
        let read = std::mem::replace(&mut self.reads, before);
        let reads = |what: &str| {
            read.iter().any(|name| **name == *what) && !arguments.iter().any(|(name, _)| **name == *what)
        };
        let (reads_caller, reads_kwargs, reads_varargs) =
            (reads("caller"), reads("kwargs"), reads("varargs"));
        // A macro in this one reads from here too.
        self.reads.extend(read);
        Ok(MacroBody { name, arguments, body, reads_caller, reads_kwargs, reads_varargs })
    }

    /// `(a, b=1)`
    fn signature(&mut self) -> Res<Vec<(Name, Option<Expr>)>> {
        self.expect_operator("(")?;
        let mut arguments: Vec<(Name, Option<Expr>)> = Vec::new();
        while !self.is_operator(")") {
            if !arguments.is_empty() {
                self.expect_operator(",")?;
            }
            let name = self.name()?;
            let default = match self.skip_operator("=") {
                true => Some(self.expression()?),
                false => None,
            };
            if default.is_none() && arguments.last().is_some_and(|(_, default)| default.is_some()) {
                return self.fail("an argument without a default behind one with a default");
            }
            arguments.push((name, default));
        }
        self.expect_operator(")")?;
        Ok(arguments)
    }

    /// What is assigned to, up to one of the names `ends`.
    fn target(&mut self, ends: &[&str], with_namespace: bool) -> Res<Target> {
        let mut targets = Vec::new();
        let mut is_tuple = false;
        loop {
            let at_end = matches!(self.token(), Token::VariableEnd | Token::BlockEnd)
                || self.is_operator(")")
                || ends.iter().any(|end| self.is_name(end));
            if at_end {
                break;
            }
            targets.push(self.nested(|parser| parser.single_target(with_namespace))?);
            if !self.skip_operator(",") {
                break;
            }
            is_tuple = true;
        }
        match targets.pop() {
            Some(only) if !is_tuple => Ok(only),
            Some(_) if targets.is_empty() => self.fail("a single name and a comma cannot be assigned to"),
            Some(last) => {
                targets.push(last);
                Ok(Target::Tuple(targets))
            }
            None => self.unexpected("a name to assign to"),
        }
    }

    fn single_target(&mut self, with_namespace: bool) -> Res<Target> {
        if self.skip_operator("(") {
            let inner = self.target(&[], false)?;
            self.expect_operator(")")?;
            return Ok(inner);
        }
        let name = self.name()?;
        if matches!(&*name, "true" | "false" | "none" | "True" | "False" | "None") {
            return self.fail(format!("`{name}` cannot be assigned to"));
        }
        if &*name == "loop" {
            return Err(Fault::refused("`loop` as a name of its own").at(self.line()));
        }
        if with_namespace && self.skip_operator(".") {
            let attribute = self.name()?;
            self.reads.push(name.clone());
            return Ok(Target::Attribute(name, attribute));
        }
        Ok(Target::Name(name))
    }

    /// Filters with their bars; the first without one where `inline`.
    fn filters(&mut self, inline: bool) -> Res<Vec<Filter>> {
        let mut filters = Vec::new();
        if inline {
            filters.push(self.filter()?);
        }
        while self.skip_operator("|") {
            filters.push(self.filter()?);
        }
        Ok(filters)
    }
}
