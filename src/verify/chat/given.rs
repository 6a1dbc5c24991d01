//! The arguments of a call, as Python binds them to parameters.

use super::budget::failed;
use minijinja::value::Kwargs;
use minijinja::{Error, Value};

type Result<T> = std::result::Result<T, Error>;

/// The arguments of a call.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(String, Value)>,
}

impl Given {
    /// Of a call's arguments, those without a name and those with.
    pub(super) fn of(positional: Vec<Value>, kwargs: &Kwargs) -> Result<Given> {
        let named = kwargs.args().map(|name| Ok((name.to_string(), kwargs.peek::<Value>(name)?)));
        Ok(Given { positional, named: named.collect::<Result<_>>()? })
    }

    /// The arguments in the order of a function's parameters.
    pub(super) fn bind<const N: usize>(self, of: &str, parameters: [&str; N]) -> Result<[Option<Value>; N]> {
        let mut bound = [const { None }; N];
        if self.positional.len() > N {
            return Err(failed(format!("`{of}` takes at most {N} arguments")));
        }
        for (place, value) in bound.iter_mut().zip(self.positional) {
            *place = Some(value);
        }
        for (name, value) in self.named {
            match parameters.iter().position(|parameter| *parameter == name).and_then(|n| bound.get_mut(n)) {
                Some(place @ None) => *place = Some(value),
                Some(_) => return Err(failed(format!("`{of}` is given `{name}` twice"))),
                None => return Err(failed(format!("`{of}` has no parameter `{name}`"))),
            }
        }
        Ok(bound)
    }

    pub(super) fn none(self, of: &str) -> Result<()> {
        self.bind(of, []).map(|_: [_; 0]| ())
    }

    /// The first argument, and the others.
    pub(super) fn split(mut self) -> (Option<Value>, Given) {
        match self.positional.is_empty() {
            true => (None, self),
            false => (Some(self.positional.remove(0)), self),
        }
    }
}
