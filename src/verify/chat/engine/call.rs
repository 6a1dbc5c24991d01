//! Calls: of macros, methods, and the functions that every template has.

use super::super::ast::{Arguments, Expr};
use super::super::methods;
use super::super::value::{Dict, Fault, Res, Value};
use super::{Engine, Given, Macro, Scope, no_loop, set_attribute};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// The longest `range`, as the sandbox has it.
const RANGE_MAX: usize = 100_000;

impl Engine<'_> {
    /// Arguments, evaluated from the left.
    pub(super) fn given(&self, arguments: &Arguments, scope: &Rc<Scope>) -> Res<Given> {
        let mut given = Given::default();
        for expr in &arguments.positional {
            given.positional.push(self.eval(expr, scope)?);
        }
        for (name, expr) in &arguments.named {
            given.named.push((name.clone(), self.eval(expr, scope)?));
        }
        if let Some(expr) = &arguments.spread {
            let value = self.eval(expr, scope)?;
            given.positional.extend(self.items(&value)?);
        }
        if let Some(expr) = &arguments.spread_named {
            let Value::Dict(dict) = self.eval(expr, scope)? else {
                return Err(Fault::failed("what stands behind `**` must be a mapping"));
            };
            for (key, value) in dict.entries() {
                let Some(name) = key.as_text() else {
                    return Err(Fault::failed("names of arguments are texts"));
                };
                if given.named.iter().any(|(known, _)| known == name) {
                    return Err(Fault::failed(format!("the argument `{name}` is given twice")));
                }
                given.named.push((name.clone(), value.clone()));
            }
        }
        Ok(given)
    }

    /// Evaluates a call; `caller` is what a `call` block hands over.
    pub(super) fn call_with(&self, call: &Expr, caller: Option<Value>, scope: &Rc<Scope>) -> Res<Value> {
        let Expr::Call(function, arguments) = call else {
            return Err(Fault::failed("only a call can be called"));
        };
        let function = self.eval(function, scope)?;
        let mut given = self.given(arguments, scope)?;
        given.named.extend(caller.map(|caller| ("caller".into(), caller)));
        match &function {
            Value::Macro(called) => self.deeper(|| self.call_macro(called, given)),
            Value::Method(receiver, name) => methods::call(self, receiver, name, given),
            Value::Function(name) => self.call_function(name, given),
            Value::Joiner(joiner) => {
                given.none("joiner")?;
                let text = if joiner.1.replace(true) { joiner.0.clone() } else { "".into() };
                Ok(Value::Text(text))
            }
            Value::Loop(state) => {
                let [items] = given.bind("loop", ["iterable"])?;
                let (Some((node, around)), Some(items)) = (&state.again, items) else {
                    return Err(Fault::failed(
                        "only a loop marked `recursive` can be called, with what to walk through",
                    ));
                };
                let mut out = String::new();
                let flow = self.deeper(|| {
                    self.for_loop(node, &items, around, &mut out, state.depth.saturating_add(1))
                })?;
                no_loop(flow)?;
                Ok(out.into())
            }
            Value::Undefined(message) => Err(Fault::failed(&**message)),
            other => Err(Fault::failed(format!("a {} cannot be called", other.kind()))),
        }
    }

    fn call_macro(&self, called: &Macro, mut given: Given) -> Res<Value> {
        let body = &called.body;
        let name = &body.name;
        let mut out = String::new();
        let flow = self.scoped(&called.scope, |scope| {
            let mut positional = std::mem::take(&mut given.positional).into_iter();
            let mut missing = Vec::new();
            for (argument, default) in &body.arguments {
                let by_name = given.named.iter().position(|(known, _)| known == argument);
                let value = match (positional.next(), by_name) {
                    (Some(value), _) => Some(value),
                    (None, Some(at)) => Some(given.named.remove(at).1),
                    (None, None) => None,
                };
                match value {
                    Some(value) => scope.set(argument, value),
                    // A default that reads an argument behind it finds nothing, whatever that name means outside.
                    None => {
                        let message = format!("the argument `{argument}` of `{name}` was not given");
                        scope.set(argument, Value::Undefined(message.into()));
                        missing.extend(default.as_ref().map(|default| (argument, default)));
                    }
                }
            }
            for (argument, default) in missing {
                let value = self.eval(default, scope)?;
                scope.set(argument, value);
            }
            if body.reads_caller {
                let at = given.named.iter().position(|(name, _)| &**name == "caller");
                let caller = at.map(|at| given.named.remove(at).1);
                let caller = caller.unwrap_or_else(|| Value::Undefined("there is no `caller`".into()));
                scope.set(&"caller".into(), caller);
            }
            if body.reads_kwargs {
                let mut kwargs = Dict::default();
                for (name, value) in given.named.drain(..) {
                    kwargs.set(Value::Text(name), value, &self.meter)?;
                }
                scope.set(&"kwargs".into(), Value::Dict(Rc::new(kwargs)));
            }
            if let Some((unknown, _)) = given.named.first() {
                return Err(Fault::failed(format!("the macro `{name}` has no argument `{unknown}`")));
            }
            let rest: Vec<Value> = positional.collect();
            if body.reads_varargs {
                scope.set(&"varargs".into(), Value::tuple(rest));
            } else if !rest.is_empty() {
                let most = body.arguments.len();
                return Err(Fault::failed(format!("the macro `{name}` takes at most {most} arguments")));
            }
            self.opening(&body.body, scope, &mut out)
        })?;
        no_loop(flow)?;
        Ok(out.into())
    }

    fn call_function(&self, name: &str, given: Given) -> Res<Value> {
        match name {
            "range" => self.range(given),
            "raise_exception" => {
                let [message] = given.bind(name, ["message"])?;
                let message = message.unwrap_or(Value::None);
                Err(Fault::raised(&*self.text(&message)?))
            }
            "strftime_now" => match given.bind(name, ["format"])? {
                [Some(Value::Text(format))] => {
                    self.bytes(format.len().saturating_mul(16))?;
                    Ok((self.now)().format(&format)?.into())
                }
                _ => Err(Fault::failed("`strftime_now` needs a format")),
            },
            "namespace" => {
                let mut namespace = Dict::default();
                for (key, value) in self.pairs(name, given)? {
                    let Some(key) = key.as_text() else { return Err(Fault::failed("attributes have names")) };
                    set_attribute(&mut namespace, key, value, &self.meter)?;
                }
                Ok(Value::Namespace(Rc::new(RefCell::new(namespace))))
            }
            "dict" => {
                let mut dict = Dict::default();
                for (key, value) in self.pairs(name, given)? {
                    dict.set(key, value.nested()?, &self.meter)?;
                }
                Ok(Value::Dict(Rc::new(dict)))
            }
            "cycler" => {
                let items = given.positional.into_iter().map(Value::nested).collect::<Res<Vec<_>>>()?;
                match items.is_empty() || !given.named.is_empty() {
                    true => Err(Fault::failed("`cycler` needs items")),
                    false => Ok(Value::Cycler(Rc::new((items, Cell::new(0))))),
                }
            }
            "joiner" => {
                let [separator] = given.bind(name, ["sep"])?;
                let separator = self.text(&separator.unwrap_or_else(|| ", ".into()))?;
                Ok(Value::Joiner(Rc::new((separator, Cell::new(false)))))
            }
            other => Err(Fault::refused(format!("`{other}()`"))),
        }
    }

    /// What `dict(…)` takes: a mapping or pairs, then names.
    fn pairs(&self, what: &str, given: Given) -> Res<Vec<(Value, Value)>> {
        let mut pairs = Vec::new();
        match given.positional.as_slice() {
            [] => {}
            [Value::Dict(dict)] => pairs.extend(dict.entries().iter().cloned()),
            [other] => {
                for pair in self.items(other)? {
                    let [key, value] = <[Value; 2]>::try_from(self.items(&pair)?)
                        .map_err(|_| Fault::failed(format!("`{what}` needs pairs")))?;
                    pairs.push((key, value));
                }
            }
            _ => return Err(Fault::failed(format!("`{what}` takes one mapping"))),
        }
        self.bytes(pairs.len().saturating_mul(2 * size_of::<Value>()))?;
        pairs.extend(given.named.into_iter().map(|(name, value)| (Value::Text(name), value)));
        Ok(pairs)
    }

    fn range(&self, given: Given) -> Res<Value> {
        if !given.named.is_empty() {
            return Err(Fault::failed("`range` takes no named arguments"));
        }
        let numbers: Option<Vec<i128>> = given.positional.iter().map(Value::as_int).collect();
        let (start, stop, step) = match numbers.as_deref() {
            Some([stop]) => (0, *stop, 1),
            Some([start, stop]) => (*start, *stop, 1),
            Some([start, stop, step]) if *step != 0 => (*start, *stop, *step),
            _ => return Err(Fault::failed("`range` needs one to three integers, the last not zero")),
        };
        let bounds = -(1 << 62)..(1 << 62);
        if ![start, stop, step].iter().all(|n| bounds.contains(n)) {
            return Err(Fault::limit("a `range` of numbers beyond 62 bits"));
        }
        let range = Value::Range(start, stop, step);
        match range.len().is_some_and(|count| count <= RANGE_MAX) {
            true => Ok(range),
            false => Err(Fault::failed(format!("a `range` has more than {RANGE_MAX} numbers"))),
        }
    }
}
