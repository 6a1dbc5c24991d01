//! Expressions: the grammar's levels, from conditions down to names and literals.

use super::super::ast::{Arguments, Binary, Comparison, Expr, Filter};
use super::super::lexer::Token;
use super::super::value::{Fault, Res, Value};
use super::Parser;

/// The most operators, calls and subscripts in a statement: evaluation and drop go down to the left by recursion.
const LINKS_MAX: u32 = 1000;

impl Parser {
    /// An expression, or several with commas, which are a tuple. `ends` are names behind which nothing of it can stand.
    pub(super) fn tuple(&mut self, conditions: bool, ends: &[&str]) -> Res<Expr> {
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            let at_end = matches!(self.token(), Token::VariableEnd | Token::BlockEnd)
                || self.is_operator(")")
                || ends.iter().any(|end| self.is_name(end));
            if at_end {
                break;
            }
            items.push(match conditions {
                true => self.expression()?,
                false => self.nested(Parser::or)?,
            });
            if !self.skip_operator(",") {
                break;
            }
            is_tuple = true;
        }
        match items.pop() {
            Some(only) if !is_tuple => Ok(only),
            Some(last) => {
                items.push(last);
                Ok(Expr::Tuple(items))
            }
            None => self.unexpected("an expression"),
        }
    }

    /// `a if test else b`, or what stands lower.
    pub(super) fn expression(&mut self) -> Res<Expr> {
        self.nested(|parser| {
            let mut expr = parser.or()?;
            while parser.skip_name("if") {
                let test = Box::new(parser.or()?);
                let otherwise = match parser.skip_name("else") {
                    true => Some(Box::new(parser.expression()?)),
                    false => None,
                };
                expr = Expr::Cond { test, then: Box::new(expr), otherwise };
            }
            Ok(expr)
        })
    }

    fn or(&mut self) -> Res<Expr> {
        let first = self.and()?;
        self.chain(first, |parser, left| {
            if !parser.skip_name("or") {
                return Ok(Err(left));
            }
            Ok(Ok(Expr::Or(Box::new(left), Box::new(parser.and()?))))
        })
    }

    fn and(&mut self) -> Res<Expr> {
        let first = self.not()?;
        self.chain(first, |parser, left| {
            if !parser.skip_name("and") {
                return Ok(Err(left));
            }
            Ok(Ok(Expr::And(Box::new(left), Box::new(parser.not()?))))
        })
    }

    /// Applies `step` while it takes what it is given.
    fn chain(
        &mut self,
        first: Expr,
        mut step: impl FnMut(&mut Parser, Expr) -> Res<Result<Expr, Expr>>,
    ) -> Res<Expr> {
        let mut expr = first;
        loop {
            match step(self, expr)? {
                Ok(longer) => expr = longer,
                Err(whole) => return Ok(whole),
            }
            self.links += 1;
            if self.links > LINKS_MAX {
                let message = format!("more than {LINKS_MAX} operators and calls in a statement");
                return Err(Fault::limit(message).at(self.line()));
            }
        }
    }

    fn not(&mut self) -> Res<Expr> {
        match self.skip_name("not") {
            true => Ok(Expr::Not(Box::new(self.nested(Parser::not)?))),
            false => self.compare(),
        }
    }

    fn compare(&mut self) -> Res<Expr> {
        const COMPARISONS: &[(&str, Comparison)] = &[
            ("==", Comparison::Eq),
            ("!=", Comparison::Ne),
            ("<", Comparison::Lt),
            ("<=", Comparison::Le),
            (">", Comparison::Gt),
            (">=", Comparison::Ge),
        ];
        let first = self.sum()?;
        let mut others = Vec::new();
        loop {
            let found = COMPARISONS.iter().find(|(operator, _)| self.is_operator(operator));
            let comparison = if let Some((_, comparison)) = found {
                self.advance();
                *comparison
            } else if self.skip_name("in") {
                Comparison::In
            } else if self.is_name("not") && matches!(self.next_token(), Token::Name(n) if &**n == "in") {
                self.advance();
                self.advance();
                Comparison::NotIn
            } else {
                break;
            };
            others.push((comparison, self.sum()?));
        }
        Ok(if others.is_empty() { first } else { Expr::Compare(Box::new(first), others) })
    }

    /// Operators of one level, taken from the left.
    fn binary(
        &mut self,
        operators: &'static [(&'static str, Binary)],
        lower: fn(&mut Parser) -> Res<Expr>,
    ) -> Res<Expr> {
        let first = lower(self)?;
        self.chain(first, |parser, left| {
            let Some((_, operator)) = operators.iter().find(|(text, _)| parser.is_operator(text)) else {
                return Ok(Err(left));
            };
            parser.advance();
            Ok(Ok(Expr::Binary(*operator, Box::new(left), Box::new(lower(parser)?))))
        })
    }

    fn sum(&mut self) -> Res<Expr> {
        self.binary(&[("+", Binary::Add), ("-", Binary::Sub)], Parser::concat)
    }

    fn concat(&mut self) -> Res<Expr> {
        let first = self.product()?;
        if !self.is_operator("~") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.skip_operator("~") {
            parts.push(self.product()?);
        }
        Ok(Expr::Concat(parts))
    }

    fn product(&mut self) -> Res<Expr> {
        const OPERATORS: &[(&str, Binary)] =
            &[("*", Binary::Mul), ("/", Binary::Div), ("//", Binary::FloorDiv), ("%", Binary::Mod)];
        self.binary(OPERATORS, Parser::power)
    }

    fn power(&mut self) -> Res<Expr> {
        self.binary(&[("**", Binary::Pow)], |parser| parser.unary(true))
    }

    fn unary(&mut self, with_filters: bool) -> Res<Expr> {
        let expr = if self.skip_operator("-") {
            Expr::Neg(Box::new(self.nested(|parser| parser.unary(false))?))
        } else if self.skip_operator("+") {
            Expr::Pos(Box::new(self.nested(|parser| parser.unary(false))?))
        } else {
            self.primary()?
        };
        let expr = self.chain(expr, |parser, expr| {
            Ok(match parser.token() {
                Token::Operator("." | "[") => Ok(parser.subscript(expr)?),
                Token::Operator("(") => Ok(parser.call(expr)?),
                _ => Err(expr),
            })
        })?;
        if !with_filters {
            return Ok(expr);
        }
        self.chain(expr, |parser, expr| {
            if parser.skip_operator("|") {
                let filter = parser.filter()?;
                return Ok(Ok(Expr::Filter(Box::new(expr), Box::new(filter))));
            }
            if parser.skip_name("is") {
                return Ok(Ok(parser.test(expr)?));
            }
            match parser.is_operator("(") {
                true => Ok(Ok(parser.call(expr)?)),
                false => Ok(Err(expr)),
            }
        })
    }

    fn primary(&mut self) -> Res<Expr> {
        let token = self.token().clone();
        match token {
            Token::Name(name) => {
                self.advance();
                Ok(match &*name {
                    "true" | "True" => Expr::Const(Value::Bool(true)),
                    "false" | "False" => Expr::Const(Value::Bool(false)),
                    "none" | "None" => Expr::Const(Value::None),
                    _ => {
                        self.reads.push(name.clone());
                        Expr::Name(name)
                    }
                })
            }
            Token::Text(first) => {
                self.advance();
                let mut text = first.to_string();
                while let Token::Text(more) = self.token() {
                    text.push_str(more);
                    self.at += 1;
                }
                Ok(Expr::Const(text.into()))
            }
            Token::Integer(n) => {
                self.advance();
                Ok(Expr::Const(Value::Int(n)))
            }
            Token::Float(n) => {
                self.advance();
                Ok(Expr::Const(Value::Float(n)))
            }
            Token::Operator("(") => {
                self.advance();
                if self.skip_operator(")") {
                    return Ok(Expr::Tuple(Vec::new()));
                }
                let inner = self.tuple(true, &[])?;
                self.expect_operator(")")?;
                Ok(inner)
            }
            Token::Operator("[") => {
                self.advance();
                let mut items = Vec::new();
                while !self.is_operator("]") {
                    items.push(self.expression()?);
                    if !self.skip_operator(",") {
                        break;
                    }
                }
                self.expect_operator("]")?;
                Ok(Expr::List(items))
            }
            Token::Operator("{") => {
                self.advance();
                let mut entries = Vec::new();
                while !self.is_operator("}") {
                    let key = self.expression()?;
                    self.expect_operator(":")?;
                    entries.push((key, self.expression()?));
                    if !self.skip_operator(",") {
                        break;
                    }
                }
                self.expect_operator("}")?;
                Ok(Expr::Dict(entries))
            }
            _ => self.unexpected("an expression"),
        }
    }

    /// `.name`, `.0`, `[…]`
    fn subscript(&mut self, value: Expr) -> Res<Expr> {
        let value = Box::new(value);
        if self.skip_operator(".") {
            let token = self.token().clone();
            self.advance();
            return match token {
                Token::Name(name) => Ok(Expr::Attribute(value, name)),
                Token::Integer(n) => Ok(Expr::Item(value, Box::new(Expr::Const(Value::Int(n))))),
                _ => self.fail("expected a name or a number behind `.`"),
            };
        }
        self.expect_operator("[")?;
        let mut items = Vec::new();
        let mut slice = None;
        while !self.is_operator("]") {
            if !items.is_empty() || slice.is_some() {
                self.expect_operator(",")?;
                if slice.is_some() {
                    return Err(Fault::refused("a slice among several indexes").at(self.line()));
                }
            }
            let first = match self.is_operator(":") {
                true => None,
                false => Some(self.expression()?),
            };
            if !self.skip_operator(":") {
                items.extend(first);
                continue;
            }
            if !items.is_empty() {
                return Err(Fault::refused("a slice among several indexes").at(self.line()));
            }
            let mut bounds = [first.map(Box::new), None, None];
            for bound in 1..=2 {
                if !matches!(self.token(), Token::Operator(":" | "]" | ",")) {
                    bounds[bound] = Some(Box::new(self.expression()?));
                }
                if bound == 1 && !self.skip_operator(":") {
                    break;
                }
            }
            slice = Some(bounds);
        }
        self.expect_operator("]")?;
        match (slice, items.pop()) {
            (Some(bounds), _) => Ok(Expr::Slice(value, bounds)),
            (None, Some(only)) if items.is_empty() => Ok(Expr::Item(value, Box::new(only))),
            (None, last) => {
                items.extend(last);
                Ok(Expr::Item(value, Box::new(Expr::Tuple(items))))
            }
        }
    }

    fn call(&mut self, function: Expr) -> Res<Expr> {
        Ok(Expr::Call(Box::new(function), Box::new(self.arguments()?)))
    }

    /// `(a, *b, c=d, **e)`
    fn arguments(&mut self) -> Res<Arguments> {
        self.expect_operator("(")?;
        let mut all = Arguments::default();
        while !self.is_operator(")") {
            let ordered = match (self.token().clone(), self.next_token()) {
                (Token::Operator("*"), _) => {
                    let free = all.spread.is_none() && all.spread_named.is_none();
                    self.advance();
                    all.spread = Some(Box::new(self.expression()?));
                    free
                }
                (Token::Operator("**"), _) => {
                    let free = all.spread_named.is_none();
                    self.advance();
                    all.spread_named = Some(Box::new(self.expression()?));
                    free
                }
                (Token::Name(name), Token::Operator("=")) => {
                    self.advance();
                    self.advance();
                    let fresh = !all.named.iter().any(|(known, _)| *known == name);
                    all.named.push((name, self.expression()?));
                    all.spread_named.is_none() && fresh
                }
                _ => {
                    all.positional.push(self.expression()?);
                    all.named.is_empty() && all.spread.is_none() && all.spread_named.is_none()
                }
            };
            if !ordered {
                return self.fail("arguments in an order that a call cannot have");
            }
            if !self.skip_operator(",") {
                break;
            }
        }
        self.expect_operator(")")?;
        Ok(all)
    }

    /// A filter's or a test's name, dots included.
    fn dotted(&mut self) -> Res<String> {
        let mut name = self.name()?.to_string();
        while self.skip_operator(".") {
            name.push('.');
            name.push_str(&self.name()?);
        }
        Ok(name)
    }

    pub(super) fn filter(&mut self) -> Res<Filter> {
        let name = self.dotted()?.into();
        let arguments = match self.is_operator("(") {
            true => self.arguments()?,
            false => Arguments::default(),
        };
        Ok(Filter { name, arguments })
    }

    /// Behind `is`.
    fn test(&mut self, value: Expr) -> Res<Expr> {
        let negated = self.skip_name("not");
        let name = self.dotted()?.into();
        let arguments = match self.token() {
            Token::Operator("(") => self.arguments()?,
            Token::Name(name) if matches!(&**name, "else" | "or" | "and") => Arguments::default(),
            Token::Name(name) if &**name == "is" => return self.fail("tests cannot be chained with `is`"),
            Token::Name(_)
            | Token::Text(_)
            | Token::Integer(_)
            | Token::Float(_)
            | Token::Operator("[" | "{") => {
                let argument = self.primary()?;
                let argument = self.chain(argument, |parser, expr| {
                    Ok(match parser.token() {
                        Token::Operator("." | "[") => Ok(parser.subscript(expr)?),
                        Token::Operator("(") => Ok(parser.call(expr)?),
                        _ => Err(expr),
                    })
                })?;
                Arguments { positional: vec![argument], ..Arguments::default() }
            }
            _ => Arguments::default(),
        };
        let test = Expr::Test(Box::new(value), Box::new(Filter { name, arguments }));
        Ok(if negated { Expr::Not(Box::new(test)) } else { test })
    }
}
