//! Importance where matrices become codes: which of a file's entries is a matrix's.

use crate::error::{Error, Result};
use crate::text::{Shown, grouped};
use crate::transform::arch::families;
use crate::transform::arch::translate::Channels;
use crate::transform::importance::Importance;
use crate::transform::method::Method;
use crate::transform::scheme::{Settled, method_name};
use serde_json::Value as Json;
use std::sync::Arc;

/// Names of matrices in a note at most.
const NAMES_MAX: usize = 3;

/// A file of importance, and what was found in it so far.
pub(super) struct Weighing {
    importance: Importance,
    /// Of the model's family. Where it is none that is known, names are taken as they are.
    channels: Option<Channels>,
    found: usize,
    without: Vec<String>,
}

impl Weighing {
    /// For a model of this config.
    ///
    /// # Errors
    /// `Usage`: a method that weighs nothing. `BadInput`: entries that do not go together.
    pub(super) fn new(importance: &Importance, settled: &Settled, config: &Json) -> Result<Weighing> {
        if settled.method != Method::Search {
            let method = method_name(settled.method);
            return Err(Error::usage(format!(
                "--importance weighs errors, and the method `{method}` looks at none"
            ))
            .hint("--method search"));
        }
        let family = families::of_config(config).ok();
        Ok(Weighing {
            importance: match family {
                Some(family) => importance.in_gguf_names(family)?,
                None => importance.clone(),
            },
            channels: family.map(Channels::new),
            found: 0,
            without: Vec::new(),
        })
    }

    /// That of a matrix, by its checkpoint's name.
    ///
    /// # Errors
    /// `BadInput`: it is for another number of columns.
    pub(super) fn of(&mut self, name: &str, columns: u64) -> Result<Option<Arc<[f32]>>> {
        let weights = self.importance.of_matrix(name, columns, self.channels.as_ref())?;
        match weights {
            Some(_) => self.found += 1,
            None => self.without.push(name.to_owned()),
        }
        Ok(weights)
    }

    /// What a person should know of it.
    ///
    /// # Errors
    /// `BadInput`: no matrix was found in the file, which is another model's then.
    pub(super) fn finish(self) -> Result<String> {
        let all = grouped((self.found + self.without.len()) as u64);
        let file = Shown(&self.importance.file);
        if self.found == 0 {
            let name = self.importance.entries.keys().next().map_or("", String::as_str);
            let error = Error::bad_input(format!("has importance for none of the {all} matrices"))
                .file(&self.importance.file)
                .detail(format!("it speaks of `{}` and others", Shown(name)));
            return Err(error.hint(match self.channels {
                Some(_) => "it was measured on another model",
                None => "the model's family is not known, so that only tensors of the same names are found",
            }));
        }
        if self.without.is_empty() {
            return Ok(format!("errors are weighed by `{file}`"));
        }
        let named = self.without.iter().take(NAMES_MAX).map(|n| format!("`{}`", Shown(n)));
        let mut named = named.collect::<Vec<_>>().join(", ");
        let more = self.without.len().saturating_sub(NAMES_MAX);
        if more > 0 {
            named.push_str(&format!(" and {} more", grouped(more as u64)));
        }
        Ok(format!(
            "errors are weighed by `{file}` in {} of {all} matrices; it says nothing of {named}",
            grouped(self.found as u64)
        ))
    }
}
