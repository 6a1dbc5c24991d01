//! Expressions: names, attributes, items, slices and operators.

use super::super::ast::{Comparison, Expr, Name};
use super::super::value::{Dict, Fault, Meter, NESTING_MAX, Res, Value};
use super::super::{checks, filters, methods, operators};
use super::{Engine, Scope, function};
use std::rc::Rc;

impl Engine<'_> {
    pub(super) fn eval(&self, expr: &Expr, scope: &Rc<Scope>) -> Res<Value> {
        self.step()?;
        match expr {
            Expr::Const(value) => Ok(value.clone()),
            Expr::Name(name) => Ok(self.name(name, scope)),
            _ => self.deeper(|| self.eval_compound(expr, scope)),
        }
    }

    fn name(&self, name: &Name, scope: &Rc<Scope>) -> Value {
        let value = scope.get(name).or_else(|| function(name)).unwrap_or_else(|| Value::undefined(name));
        if let Value::Namespace(_) = value {
            self.namespace_read.set(true);
        }
        value
    }

    fn eval_compound(&self, expr: &Expr, scope: &Rc<Scope>) -> Res<Value> {
        match expr {
            Expr::Const(_) | Expr::Name(_) => self.eval(expr, scope),
            Expr::Attribute(value, name) => attribute(&self.eval(value, scope)?, name),
            Expr::Item(value, index) => {
                let value = self.eval(value, scope)?;
                item(&value, &self.eval(index, scope)?, &self.meter)
            }
            Expr::Slice(value, bounds) => self.slice(value, bounds, scope),
            Expr::Call(..) => bounded(self.call_with(expr, None, scope)?),
            Expr::Filter(value, filter) => {
                let value = self.eval(value, scope)?;
                let given = self.given(&filter.arguments, scope)?;
                bounded(filters::apply(self, &filter.name, value, given)?)
            }
            Expr::Test(value, test) => {
                let value = self.eval(value, scope)?;
                let given = self.given(&test.arguments, scope)?;
                Ok(Value::Bool(checks::apply(self, &test.name, &value, given)?))
            }
            Expr::Not(value) => Ok(Value::Bool(!self.eval(value, scope)?.truth())),
            Expr::Neg(value) => operators::sign(&self.eval(value, scope)?, true),
            Expr::Pos(value) => operators::sign(&self.eval(value, scope)?, false),
            Expr::Binary(operator, left, right) => {
                let left = self.eval(left, scope)?;
                let right = self.eval(right, scope)?;
                bounded(operators::binary(self, *operator, &left, &right)?)
            }
            Expr::Concat(parts) => {
                let mut out = String::new();
                for part in parts {
                    let text = self.text(&self.eval(part, scope)?)?;
                    self.bytes(text.len())?;
                    out.push_str(&text);
                }
                Ok(out.into())
            }
            Expr::And(left, right) => {
                let left = self.eval(left, scope)?;
                if left.truth() { self.eval(right, scope) } else { Ok(left) }
            }
            Expr::Or(left, right) => {
                let left = self.eval(left, scope)?;
                if left.truth() { Ok(left) } else { self.eval(right, scope) }
            }
            Expr::Compare(first, others) => {
                let mut left = self.eval(first, scope)?;
                for (comparison, right) in others {
                    let right = self.eval(right, scope)?;
                    if !self.holds(*comparison, &left, &right)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Ok(Value::Bool(true))
            }
            Expr::Cond { test, then, otherwise } => {
                if self.eval(test, scope)?.truth() {
                    return self.eval(then, scope);
                }
                match otherwise {
                    Some(otherwise) => self.eval(otherwise, scope),
                    None => Ok(Value::Undefined("an `if` without `else` has no value here".into())),
                }
            }
            Expr::List(items) => Ok(Value::list(self.all(items, scope)?)),
            Expr::Tuple(items) => Ok(Value::tuple(self.all(items, scope)?)),
            Expr::Dict(entries) => {
                let mut dict = Dict::default();
                for (key, value) in entries {
                    let key = self.eval(key, scope)?;
                    self.bytes(2 * size_of::<Value>())?;
                    dict.set(key, self.eval(value, scope)?.nested()?, &self.meter)?;
                }
                Ok(Value::Dict(Rc::new(dict)))
            }
        }
    }

    fn all(&self, exprs: &[Expr], scope: &Rc<Scope>) -> Res<Vec<Value>> {
        self.bytes(size_of_val(exprs))?;
        exprs.iter().map(|expr| self.eval(expr, scope)?.nested()).collect()
    }

    fn holds(&self, comparison: Comparison, left: &Value, right: &Value) -> Res<bool> {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let ordered = |of: &[std::cmp::Ordering]| -> Res<bool> {
            Ok(left.compare(right, &self.meter)?.is_some_and(|order| of.contains(&order)))
        };
        match comparison {
            Comparison::Eq => left.equals(right, &self.meter),
            Comparison::Ne => Ok(!left.equals(right, &self.meter)?),
            Comparison::Lt => ordered(&[Less]),
            Comparison::Le => ordered(&[Less, Equal]),
            Comparison::Gt => ordered(&[Greater]),
            Comparison::Ge => ordered(&[Greater, Equal]),
            Comparison::In => operators::contains(self, right, left),
            Comparison::NotIn => Ok(!operators::contains(self, right, left)?),
        }
    }

    fn slice(&self, value: &Expr, bounds: &[Option<Box<Expr>>; 3], scope: &Rc<Scope>) -> Res<Value> {
        let value = self.eval(value, scope)?;
        let mut numbers = [None; 3];
        let mut are_numbers = true;
        for (number, bound) in numbers.iter_mut().zip(bounds) {
            match bound.as_ref().map(|bound| self.eval(bound, scope)).transpose()? {
                None | Some(Value::None) => {}
                Some(given) => {
                    *number = given.as_int();
                    are_numbers &= number.is_some();
                }
            }
        }
        if let Value::Undefined(message) = &value {
            return Err(Fault::failed(&**message));
        }
        if let Value::Markup(_) = value {
            return Err(Fault::refused("a slice of text that `safe` marked"));
        }
        if !are_numbers {
            // Python raises an error, unless Jinja has found out while it compiled.
            return Err(Fault::refused("a slice whose bounds are no whole numbers"));
        }
        let sliced = matches!(value, Value::Text(_) | Value::List(_) | Value::Tuple(_) | Value::Range(..));
        if !sliced {
            return Err(Fault::failed(format!("a {} has no such slice", value.kind())));
        }
        let picked = picks(value.len().unwrap_or(0), numbers)?;
        let items = self.items(&value)?;
        let items: Vec<Value> = picked.filter_map(|at| items.get(at).cloned()).collect();
        Ok(match value {
            Value::List(_) => Value::list(items),
            Value::Tuple(_) => Value::tuple(items),
            Value::Range(..) => return Err(Fault::refused("a slice of a `range`")),
            _ => items.iter().filter_map(|c| c.as_text()).map(|c| &**c).collect::<String>().into(),
        })
    }
}

/// The places that a slice takes of `count` items, in order.
fn picks(count: usize, [start, stop, step]: [Option<i128>; 3]) -> Res<impl Iterator<Item = usize>> {
    let count = count as i128;
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(Fault::failed("a slice has a step of zero"));
    }
    // Steps beyond the end are all alike.
    let step = step.clamp(-count - 1, count + 1);
    let (low, high) = if step > 0 { (0, count) } else { (-1, count - 1) };
    let bound = |given: Option<i128>, otherwise: i128| match given {
        None => otherwise,
        Some(n) if n < 0 => n.saturating_add(count).max(low),
        Some(n) => n.min(high),
    };
    let (first, end) = match step > 0 {
        true => (bound(start, low), bound(stop, high)),
        false => (bound(start, high), bound(stop, low)),
    };
    let mut at = first;
    Ok(std::iter::from_fn(move || {
        let inside = if step > 0 { at < end } else { at > end };
        let here = usize::try_from(at).ok().filter(|_| inside)?;
        at += step;
        Some(here)
    }))
}

/// A result, if it is not nested too deep.
fn bounded(value: Value) -> Res<Value> {
    match value {
        Value::Namespace(_) | Value::Macro(_) | Value::Loop(_) | Value::Method(..) | Value::Cycler(_) => {
            Ok(value)
        }
        // A filter may put one container around what it was given.
        _ if value.depth() <= NESTING_MAX => Ok(value),
        _ => value.nested(),
    }
}

/// `value.name`
pub(in super::super) fn attribute(value: &Value, name: &str) -> Res<Value> {
    if name.starts_with("__") && !matches!(value, Value::Dict(_)) {
        return Err(Fault::refused(format!("Python's internals, `{name}`")));
    }
    let missing = || Value::Undefined(format!("a {} has no attribute `{name}`", value.kind()).into());
    match value {
        Value::Undefined(message) => return Err(Fault::failed(&**message)),
        Value::Namespace(namespace) => {
            return Ok(namespace.borrow().text(name).cloned().unwrap_or_else(missing));
        }
        Value::Loop(state) => {
            if let Some(found) = state.attribute(name) {
                return Ok(found);
            }
        }
        _ => {}
    }
    if methods::has(value, name)? {
        return Ok(Value::Method(Rc::new(value.clone()), name.into()));
    }
    match value {
        Value::Dict(dict) => Ok(dict.text(name).cloned().unwrap_or_else(missing)),
        Value::Macro(_) | Value::Function(_) => {
            Err(Fault::refused(format!("the attribute `{name}` of a function")))
        }
        _ => Ok(missing()),
    }
}

/// `value[index]`
pub(in super::super) fn item(value: &Value, index: &Value, meter: &Meter) -> Res<Value> {
    let missing = || {
        let index = index.as_int().map(|n| format!(" {n}")).unwrap_or_default();
        Value::Undefined(format!("a {} has no element{index}", value.kind()).into())
    };
    match value {
        Value::Undefined(message) => return Err(Fault::failed(&**message)),
        Value::Dict(dict) => {
            if let Some(found) = index.key(meter).ok().and_then(|key| dict.get(&key)) {
                return Ok(found.clone());
            }
        }
        _ => {}
    }
    if let Some(name) = index.as_text() {
        return attribute(value, name);
    }
    let Some(at) = index.as_int() else { return Ok(missing()) };
    meter.work(value.as_text().map_or(0, |text| text.len()))?;
    let count = value.len().unwrap_or(0) as i128;
    let at = if at < 0 { at.saturating_add(count) } else { at };
    let Some(at) = usize::try_from(at).ok().filter(|&at| (at as i128) < count) else { return Ok(missing()) };
    Ok(match value {
        Value::Text(text) => text.chars().nth(at).map(|c| c.to_string().into()),
        Value::Markup(_) => return Err(Fault::refused("a character of text that `safe` marked")),
        Value::List(items) | Value::Tuple(items) => items.get(at).cloned(),
        Value::Range(start, _, step) => Some(Value::Int(start + at as i128 * step)),
        _ => None,
    }
    .unwrap_or_else(missing))
}
