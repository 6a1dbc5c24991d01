//! `--lock` and `--locked` of the commands that write models: what of a command line decides the output's bytes.

use super::model::Reach;
use hoist::convert::Locking;
use hoist::lock::Lock;
use hoist::open::{Model, Options};
use hoist::source::without_secrets;
use hoist::text::{Shown, bytes};
use hoist::{Error, Result};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The lock file's flags.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct LockArgs {
    /// Write source, recipe and the output's hashes into this file; the output is read once more for that
    #[arg(long, value_name = "FILE", env = "HOIST_LOCK", hide_env_values = true)]
    lock: Option<PathBuf>,
    /// Make what the lock file says; any difference is an error, and the output does not get its name
    #[arg(long, env = "HOIST_LOCKED", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    locked: bool,
}

impl LockArgs {
    /// How the model is opened: at the locked commit, where the lock file binds.
    pub(crate) fn open_options(&self, reach: &Reach, out: &Path) -> Result<Options> {
        let mut options = reach.options();
        match &self.lock {
            None if self.locked => return Err(Error::usage("--locked needs a lock file: --lock FILE")),
            Some(file) if self.locked => {
                let locked = Lock::read(file)?;
                let output = out.to_str().and_then(|name| locked.find_output(name));
                options.commit = output.and_then(|output| output.commit.clone());
            }
            _ => {}
        }
        Ok(options)
    }

    /// What the library is told. `recipe` is the command with what was asked for that decides the output's bytes.
    pub(crate) fn locking(&self, name: &str, model: &Model, recipe: String) -> Option<Locking> {
        let name = without_secrets(name);
        // A repo by its short name and by its URI is one source.
        let source = match model.commit.is_some() && !name.contains("://") {
            true => format!("hf://{name}"),
            false => name,
        };
        self.lock.clone().map(|file| Locking { file, locked: self.locked, source, recipe })
    }
}

/// The plan's line about the lock file.
pub(crate) fn plan_line(lock: Option<&Locking>, read_again_bytes: u64) -> Option<String> {
    lock.map(|lock| {
        let what = if lock.locked { "compared with" } else { "written to" };
        format!(
            "lock   {} read once more and hashed, {what} {}",
            bytes(read_again_bytes),
            Shown(&lock.file.display().to_string())
        )
    })
}

/// The same for a program.
pub(crate) fn plan_json(lock: Option<&Locking>, read_again_bytes: u64) -> Value {
    lock.map_or(Value::Null, |lock| {
        json!({
            "file": lock.file.display().to_string(), "locked": lock.locked, "source": lock.source,
            "recipe": lock.recipe, "read_again_bytes": read_again_bytes,
        })
    })
}

/// A command line of what was asked for, in the order of the table: a flag and its values; without any it was not given.
pub(crate) fn recipe(command: &str, asked: &[(&str, Vec<String>)]) -> String {
    let mut words = vec![command.to_owned()];
    for (flag, values) in asked {
        words.extend(values.iter().flat_map(|value| [(*flag).to_owned(), quoted(value)]));
    }
    words.retain(|word| !word.is_empty());
    words.join(" ")
}

/// The value of a flag that has none.
pub(crate) fn given(is: bool) -> Vec<String> {
    if is { vec![String::new()] } else { Vec::new() }
}

/// A value that may be there.
pub(crate) fn one(value: Option<impl ToString>) -> Vec<String> {
    value.iter().map(ToString::to_string).collect()
}

/// A word as a shell takes it.
fn quoted(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./=:,+@%".contains(&b);
    match value.bytes().all(plain) {
        true => value.to_owned(),
        false => format!("'{}'", value.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_is_a_command_line() {
        type Asked<'a> = &'a [(&'a str, Vec<String>)];
        let rows: &[(Asked<'_>, &str)] = &[
            (&[("--raw", given(false)), ("--to", one(None::<&str>))], "convert"),
            (&[("--raw", given(true)), ("--alignment", one(Some(64)))], "convert --raw --alignment 64"),
            (
                &[("--include", vec!["*.a".into(), "it's".into()])],
                r"convert --include '*.a' --include 'it'\''s'",
            ),
        ];
        for (asked, expected) in rows {
            assert_eq!(recipe("convert", asked), *expected);
        }
    }
}
