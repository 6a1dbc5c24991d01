//! minijinja, set up as transformers sets up Jinja.
//!
//! Whitespace is trimmed after blocks and before them, nothing is escaped, nothing is loaded. The operations that
//! `rewrite` puts into the tree are filters here; so is text that is shown, which the formatter writes and counts.

use super::budget::{Budget, Cause, Mark, a, failed, raised, refused};
use super::calls;
use super::given::Given;
use super::objects::{Cycler, Joiner, Undefined, View};
use super::python;
use super::rewrite;
use super::time::Moment;
use minijinja::machinery::{CodeGenerator, ast::Stmt, eval, make_string_output, parse};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Serde, ValueKind, ValueOrKwargs};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, Value, functions};
use serde_json::{Map, Value as Json};
use std::sync::Arc;

type Result<T> = std::result::Result<T, Error>;

/// Instructions of one rendering.
const FUEL: u64 = 4_000_000;
/// Loops, macros and scopes inside one another; a macro counts four.
const RECURSION_MAX: usize = 200;
/// The longest `range`, as in Jinja's sandbox.
const RANGE_MAX: i128 = 100_000;

/// Why there is no text.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) cause: Cause,
    pub(super) message: String,
}

/// Renders a template.
///
/// # Errors
/// `Refused`: a construct that is not rendered here, or one that asks for too much. `Failed`: no template, or one that
/// fails on this context. `Raised`: it refuses the context itself.
pub(super) fn render(
    template: &str,
    context: &Map<String, Json>,
    input_bytes: usize,
    now: Moment,
) -> std::result::Result<String, Fault> {
    rendered(template, context, input_bytes, now).map_err(|error| fault(&error))
}

fn rendered(template: &str, context: &Map<String, Json>, input_bytes: usize, now: Moment) -> Result<String> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    let source = rewrite::prepared(template, &syntax)?;
    let tree: Stmt<'_> = parse(&source, "template", syntax)?;
    let budget = Arc::new(Budget::new(input_bytes));
    let environment = environment(&budget, now);
    let globals: Vec<&str> = environment.globals().map(|(name, _)| name).collect();
    let tree = rewrite::rewritten(&tree, &|name| context.contains_key(name) || globals.contains(&name))?;
    let mut generator = CodeGenerator::new("template", &source);
    generator.compile_stmt(&tree);
    let (instructions, blocks) = generator.finish();
    let mut text = String::new();
    let context = Value::from(Serde(context));
    eval(
        &environment,
        &instructions,
        context,
        &blocks,
        &mut make_string_output(&mut text),
        AutoEscape::None,
    )?;
    Ok(text)
}

fn environment<'e>(budget: &Arc<Budget>, now: Moment) -> Environment<'e> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION_MAX);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    for (name, operation) in OPERATIONS {
        let budget = budget.clone();
        environment.add_filter(
            *name,
            move |state: &mut State<'_, '_>, value: Value, args: Rest<Value>, named: Kwargs| {
                budget.steps(1)?;
                operation(&budget, state, &value, Given::of(args.0, &named)?)
            },
        );
    }
    let counted = budget.clone();
    environment.set_formatter(move |out: &mut Output<'_>, _: &mut State<'_, '_>, value: &Value| {
        let text = python::text(&counted, value)?;
        out.write_str(&text).map_err(Error::from)
    });
    environment.remove_global("debug");
    environment.add_function("raise_exception", |message: Value| -> Result<Value> {
        Err(raised(message.to_string()))
    });
    let counted = budget.clone();
    environment.add_function("strftime_now", move |format: &str| -> Result<Value> {
        counted.bytes(format.len().saturating_mul(16))?;
        now.format(format).map(Value::from).map_err(refused)
    });
    let counted = budget.clone();
    environment.add_function("range", move |bounds: Rest<Value>| range(&counted, &bounds.0));
    let counted = budget.clone();
    environment.add_function("namespace", move |of: Rest<Value>, named: Kwargs| -> Result<Value> {
        if !of.0.is_empty() {
            return Err(refused("`namespace` of a mapping"));
        }
        functions::namespace(Some(ValueOrKwargs::from(Value::from(held(&counted, named)?))))
    });
    let counted = budget.clone();
    environment.add_function("dict", move |of: Rest<Value>, named: Kwargs| -> Result<Value> {
        let of = match &of.0[..] {
            [] => None,
            [map] if map.kind() == ValueKind::Map => Some(map.clone()),
            [pairs] if pairs.kind() == ValueKind::Seq => {
                counted.plain(pairs)?;
                counted.entries(pairs.len().unwrap_or(0))?;
                let pair = |pair: Value| match (pair.kind(), pair.len()) {
                    (ValueKind::Seq, Some(2)) => {
                        Ok((as_key(&pair.get_item_by_index(0)?)?, pair.get_item_by_index(1)?))
                    }
                    _ => Err(refused("`dict` of what is no pair")),
                };
                Some(Value::from_pairs(pairs.try_iter()?.map(pair).collect::<Result<Vec<_>>>()?))
            }
            _ => return Err(refused("`dict` of what is no mapping")),
        };
        if let Some(map) = &of {
            counted.plain(map)?;
            counted.entries(map.len().unwrap_or(0))?;
        }
        functions::dict(of, held(&counted, named)?)
    });
    let counted = budget.clone();
    environment.add_function("cycler", move |values: Rest<Value>| -> Result<Value> {
        if values.0.is_empty() {
            return Err(failed("a cycler of nothing"));
        }
        counted.entries(values.0.len())?;
        values.0.iter().try_for_each(|value| counted.plain(value))?;
        Ok(Value::from_object(Cycler { values: values.0, at: 0.into() }))
    });
    environment.add_function("joiner", move |separator: Option<String>| {
        let separator = Value::from(separator.unwrap_or_else(|| ", ".into()));
        Value::from_object(Joiner { separator, calls: 0.into() })
    });
    environment
}

/// Arguments that a value is to hold.
fn held(budget: &Budget, named: Kwargs) -> Result<Kwargs> {
    for name in named.args() {
        budget.entries(1)?;
        budget.plain(&named.peek::<Value>(name)?)?;
    }
    Ok(named)
}

/// `range(stop)`, `range(start, stop, step)`
fn range(budget: &Budget, bounds: &[Value]) -> Result<Value> {
    let bound =
        |value: &Value| python::whole(value).ok_or_else(|| failed(format!("`range` with {}", a(value))));
    let numbers = bounds.iter().map(bound).collect::<Result<Vec<i128>>>()?;
    let (start, stop, step) = match numbers[..] {
        [stop] => (0, stop, 1),
        [start, stop] => (start, stop, 1),
        [start, stop, step] => (start, stop, step),
        _ => return Err(failed("`range` takes one to three numbers")),
    };
    if step == 0 {
        return Err(failed("`range` in steps of 0"));
    }
    let far = |n: i128| n.unsigned_abs() > 1 << 62;
    if far(start) || far(stop) || far(step) {
        return Err(refused("a `range` of so large numbers"));
    }
    let distance = if step > 0 { stop - start } else { start - stop };
    let count = if distance <= 0 { 0 } else { (distance - 1) / step.abs() + 1 };
    if count > RANGE_MAX {
        return Err(failed(format!("a `range` of more than {RANGE_MAX} numbers")));
    }
    let count = usize::try_from(count).unwrap_or(0);
    budget.entries(count)?;
    let numbers = (0..count).map(|n| python::int(start + step * n as i128)).collect();
    let text = match step {
        1 => format!("range({start}, {stop})"),
        _ => format!("range({start}, {stop}, {step})"),
    };
    Ok(Value::from_object(View { text, is_listed: false, values: numbers }))
}

type Operation = fn(&Budget, &mut State<'_, '_>, &Value, Given) -> Result<Value>;

fn other(args: &Given) -> Result<&Value> {
    args.positional.first().ok_or_else(|| failed("an operation with nothing"))
}

fn ordered(budget: &Budget, value: &Value, args: &Given, of: &[std::cmp::Ordering]) -> Result<Value> {
    let order = python::order(budget, value, other(args)?)?;
    Ok(Value::from(order.is_some_and(|order| of.contains(&order))))
}

/// A value that is a key here as in Python, where `1`, `1.0` and `True` are the same.
fn as_key(value: &Value) -> Result<Value> {
    match value.kind() {
        ValueKind::String | ValueKind::None => Ok(value.clone()),
        ValueKind::Number if value.is_integer() => Ok(value.clone()),
        _ => Err(refused(format!("{} as a key", a(value)))),
    }
}

/// The name of what is called, and its arguments.
fn named(args: Given) -> Result<(String, Given)> {
    let (name, args) = args.split();
    let name = name.as_ref().and_then(Value::as_str).ok_or_else(|| failed("a call of nothing"))?;
    Ok((name.to_string(), args))
}

/// What `rewrite` puts in the place of operators, by name. No template can write these names.
const OPERATIONS: &[(&str, Operation)] = {
    use std::cmp::Ordering::{Equal, Greater, Less};
    &[
        ("@add", |budget, _, x, args| python::arithmetic(budget, "+", x, other(&args)?)),
        ("@sub", |budget, _, x, args| python::arithmetic(budget, "-", x, other(&args)?)),
        ("@mul", |budget, _, x, args| python::arithmetic(budget, "*", x, other(&args)?)),
        ("@div", |budget, _, x, args| python::arithmetic(budget, "/", x, other(&args)?)),
        ("@floordiv", |budget, _, x, args| python::arithmetic(budget, "//", x, other(&args)?)),
        ("@rem", |budget, _, x, args| python::arithmetic(budget, "%", x, other(&args)?)),
        ("@pow", |budget, _, x, args| python::arithmetic(budget, "**", x, other(&args)?)),
        ("@neg", |_, _, x, _| python::negated(x)),
        ("@concat", |budget, _, x, args| python::concatenated(budget, x, other(&args)?)),
        ("@eq", |budget, _, x, args| python::equal(budget, x, other(&args)?).map(Value::from)),
        ("@ne", |budget, _, x, args| python::equal(budget, x, other(&args)?).map(|is| Value::from(!is))),
        ("@lt", |budget, _, x, args| ordered(budget, x, &args, &[Less])),
        ("@le", |budget, _, x, args| ordered(budget, x, &args, &[Less, Equal])),
        ("@gt", |budget, _, x, args| ordered(budget, x, &args, &[Greater])),
        ("@ge", |budget, _, x, args| ordered(budget, x, &args, &[Greater, Equal])),
        ("@in", |budget, _, x, args| python::contains(budget, other(&args)?, x).map(Value::from)),
        ("@notin", |budget, _, x, args| {
            python::contains(budget, other(&args)?, x).map(|is| Value::from(!is))
        }),
        ("@slice", |budget, _, x, args| match &args.positional[..] {
            [start, stop, step] => python::sliced(budget, x, [start, stop, step]),
            _ => Err(failed("a part without bounds")),
        }),
        ("@attribute", |_, _, x, args| python::attribute(x, other(&args)?.as_str().unwrap_or_default())),
        ("@item", |budget, _, x, args| python::item(budget, x, other(&args)?)),
        ("@iter", |budget, _, x, _| match x.kind() {
            ValueKind::Seq => Ok(x.clone()),
            _ => python::items(budget, x).map(python::list),
        }),
        ("@plain", |budget, _, x, _| {
            budget.entries(x.len().filter(|_| x.as_object().is_some()).unwrap_or(0))?;
            budget.plain(x).map(|()| x.clone())
        }),
        ("@key", |_, _, x, _| as_key(x)),
        ("@given", |_, _, x, _| match x.is_undefined() {
            true => Ok(Value::from_object(Undefined)),
            false => Ok(x.clone()),
        }),
        ("@taken", |_, _, x, _| match x.downcast_object_ref::<Undefined>() {
            Some(_) => Ok(Value::UNDEFINED),
            None => Ok(x.clone()),
        }),
        ("@escape", |budget, _, x, _| {
            let text = python::text(budget, x)?;
            budget.bytes(text.len().saturating_mul(5))?;
            let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            Ok(Value::from(escaped.replace('\'', "&#39;").replace('"', "&#34;")))
        }),
        ("@filter", |budget, state, x, args| {
            let (name, args) = named(args)?;
            calls::filter(budget, state, &name, x, args)
        }),
        ("@test", |budget, _, x, args| {
            let (name, args) = named(args)?;
            calls::test(budget, &name, x, args).map(Value::from)
        }),
        ("@method", |budget, state, x, args| {
            let (name, args) = named(args)?;
            calls::method(budget, state, &name, x, args)
        }),
    ]
};

/// What an error of minijinja's means here.
fn fault(error: &Error) -> Fault {
    let mut cause = None;
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(one) = source {
        if let Some(Mark(found)) = one.downcast_ref() {
            cause = Some(*found);
        }
        source = one.source();
    }
    let detail = error.detail().map_or_else(|| error.kind().to_string(), String::from);
    let cause = cause.unwrap_or(match error.kind() {
        ErrorKind::OutOfFuel
        | ErrorKind::UnknownFunction
        | ErrorKind::UnknownFilter
        | ErrorKind::UnknownTest => Cause::Refused,
        // Its grammar is a part of Jinja's: what it cannot read, Jinja may.
        ErrorKind::SyntaxError | ErrorKind::BadEscape | ErrorKind::CannotUnpack => Cause::Refused,
        ErrorKind::InvalidOperation if detail.contains("recursion limit") => Cause::Refused,
        _ => Cause::Failed,
    });
    let message = match (cause, error.line()) {
        (Cause::Raised, _) | (_, None) => detail,
        (_, Some(line)) => format!("line {line}: {detail}"),
    };
    Fault { cause, message }
}
