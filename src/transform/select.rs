//! Which tensors a person means: globs over names, the same everywhere.
//!
//! `*` and `?` match any character, dots and slashes too, since a tensor's name is one word to whoever types it. A pattern
//! that matches nothing is an error: it is a typing mistake more often than a wish.

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::text::Shown;
use globset::{GlobBuilder, GlobMatcher};

/// Patterns to take and to leave.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    include: Vec<GlobMatcher>,
    exclude: Vec<GlobMatcher>,
}

impl Selection {
    /// From patterns; no `include` takes everything, `exclude` wins.
    ///
    /// # Errors
    /// Usage, where one is no pattern.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Selection> {
        let compile = |patterns: &[String]| {
            patterns
                .iter()
                .map(|p| match GlobBuilder::new(p).build() {
                    Ok(glob) => Ok(glob.compile_matcher()),
                    Err(e) => Err(Error::usage(format!("`{}` is not a pattern: {}", Shown(p), e.kind()))),
                })
                .collect::<Result<Vec<_>>>()
        };
        Ok(Selection { include: compile(include)?, exclude: compile(exclude)? })
    }

    /// Whether it takes everything.
    pub fn is_all(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// The indices of the tensors it takes, in the table's order.
    ///
    /// # Errors
    /// Not found, where one of the patterns matches no tensor or nothing is left.
    pub fn pick(&self, table: &Checkpoint) -> Result<Vec<usize>> {
        self.pick_names(table.tensors.iter().map(|t| t.name.as_str()))
    }

    /// Whether one of the patterns to leave matches.
    pub fn excludes(&self, name: &str) -> bool {
        self.exclude.iter().any(|pattern| pattern.is_match(name))
    }

    /// The same of any list of names.
    ///
    /// # Errors
    /// As [`Selection::pick`].
    pub fn pick_names<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Vec<usize>> {
        let mut used = vec![false; self.include.len() + self.exclude.len()];
        let mut picked = Vec::new();
        let mut total = 0;
        for (i, name) in names.into_iter().enumerate() {
            let mut any = |patterns: &[GlobMatcher], first: usize| {
                let mut any = false;
                for (n, pattern) in patterns.iter().enumerate() {
                    if pattern.is_match(name) {
                        used[first + n] = true;
                        any = true;
                    }
                }
                any
            };
            let left = any(&self.exclude, self.include.len());
            let taken = any(&self.include, 0) || self.include.is_empty();
            if taken && !left {
                picked.push(i);
            }
            total = i + 1;
        }
        let patterns = self.include.iter().chain(&self.exclude);
        if let Some((pattern, _)) = patterns.zip(&used).find(|(_, used)| !**used) {
            return Err(Error::not_found(format!(
                "the pattern `{}` matches none of the {total} tensors",
                Shown(pattern.glob().glob())
            ))
            .hint("hoist inspect MODEL --tree shows the names"));
        }
        if picked.is_empty() && !self.is_all() {
            return Err(Error::not_found("the patterns leave no tensor"));
        }
        Ok(picked)
    }
}
