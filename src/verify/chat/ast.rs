//! A template as a tree.

use super::value::Value;
use std::rc::Rc;

/// A name.
pub(super) type Name = Rc<str>;

/// A statement and its line.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) line: u32,
    pub(super) kind: Kind,
}

/// Statements one behind the other.
pub(super) type Body = Vec<Statement>;

#[derive(Debug)]
pub(super) enum Kind {
    /// Text as it stands.
    Data(Rc<str>),
    /// `{{ … }}`
    Print(Expr),
    If {
        /// Conditions and what follows from them, in order.
        branches: Vec<(Expr, Body)>,
        otherwise: Body,
    },
    For(Rc<For>),
    Set {
        target: Target,
        value: Expr,
    },
    /// `{% set x %}…{% endset %}`
    SetBlock {
        target: Target,
        filters: Vec<Filter>,
        body: Body,
    },
    With {
        values: Vec<(Target, Expr)>,
        body: Body,
    },
    Macro(Rc<MacroBody>),
    /// `{% call(args) macro(…) %}…{% endcall %}`
    Call {
        call: Expr,
        caller: Rc<MacroBody>,
    },
    /// `{% filter f %}…{% endfilter %}`
    Filtered {
        filters: Vec<Filter>,
        body: Body,
    },
    /// `{% generation %}…{% endgeneration %}`: marks text, and is a scope.
    Generation(Body),
    Break,
    Continue,
}

#[derive(Debug)]
pub(super) struct For {
    pub(super) target: Target,
    pub(super) items: Expr,
    pub(super) test: Option<Expr>,
    pub(super) recursive: bool,
    pub(super) body: Body,
    pub(super) otherwise: Body,
}

/// A macro, or the body that a `call` block hands over.
#[derive(Debug)]
pub(super) struct MacroBody {
    pub(super) name: Name,
    /// Arguments, some with a default.
    pub(super) arguments: Vec<(Name, Option<Expr>)>,
    pub(super) body: Body,
    /// Whether the body reads `caller`, `kwargs`, `varargs`.
    pub(super) reads_caller: bool,
    pub(super) reads_kwargs: bool,
    pub(super) reads_varargs: bool,
}

/// What is assigned to.
#[derive(Debug)]
pub(super) enum Target {
    Name(Name),
    /// `namespace.attribute`
    Attribute(Name, Name),
    Tuple(Vec<Target>),
}

/// A filter and its arguments.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) name: Name,
    pub(super) arguments: Arguments,
}

/// Arguments of a call.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub(super) positional: Vec<Expr>,
    pub(super) named: Vec<(Name, Expr)>,
    /// `*expression`
    pub(super) spread: Option<Box<Expr>>,
    /// `**expression`
    pub(super) spread_named: Option<Box<Expr>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    NotIn,
}

#[derive(Debug)]
pub(super) enum Expr {
    Const(Value),
    Name(Name),
    Attribute(Box<Expr>, Name),
    Item(Box<Expr>, Box<Expr>),
    /// `value[start:stop:step]`
    Slice(Box<Expr>, [Option<Box<Expr>>; 3]),
    Call(Box<Expr>, Box<Arguments>),
    Filter(Box<Expr>, Box<Filter>),
    Test(Box<Expr>, Box<Filter>),
    Not(Box<Expr>),
    Neg(Box<Expr>),
    Pos(Box<Expr>),
    Binary(Binary, Box<Expr>, Box<Expr>),
    /// `a ~ b ~ c`
    Concat(Vec<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    /// `then if test else otherwise`
    Cond {
        test: Box<Expr>,
        then: Box<Expr>,
        otherwise: Option<Box<Expr>>,
    },
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
}
