//! The report of a run: what was lost, tensor by tensor, for a person (HTML), a program (JSON) or a table (CSV).
//!
//! It is written after the model, which it must never cost: what can be wrong with its place is found before the work begins
//! ([`Target::new`]), and what goes wrong later is an error of its own, when the model has its name already.
//!
//! The HTML stands alone: no script, no font, no picture from elsewhere, so that it reads the same in ten years and in a mail.
//! A model may have a hundred thousand matrices; what is drawn is of a size with its layers and projections, and every single
//! matrix is in the other two.

mod csv;
mod escape;
mod heat;
mod html;
mod json;
mod place;

use super::{Ends, Summary};
use crate::convert::{Chosen, Decided, Why};
use crate::error::{Error, Result};
use crate::open::Model;
use crate::sink::file::{Existing, FileSink, write_file};
use crate::source::ReadAt;
use crate::source::local::LocalFile;
use crate::text::{Shown, bytes};
use crate::transform::arch::{self, Group};
use crate::transform::mixture::Mixture;
use std::path::{Path, PathBuf};

/// What a report is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A page.
    Html,
    /// A document, schema `hoist.quantize.report/1`.
    Json,
    /// A table, a line for each matrix.
    Csv,
}

/// Extensions and what they stand for.
const FORMATS: &[(&str, Format)] =
    &[("html", Format::Html), ("htm", Format::Html), ("json", Format::Json), ("csv", Format::Csv)];

impl Format {
    /// By a file's extension.
    ///
    /// # Errors
    /// `Usage`: it has none of those.
    pub fn of(path: &Path) -> Result<Format> {
        let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        let found = FORMATS.iter().find(|(e, _)| Some(*e) == extension.as_deref());
        found.map(|&(_, format)| format).ok_or_else(|| {
            Error::usage(format!("`{}` is no name of a report", Shown(&path.display().to_string())))
                .hint("a report ends in .html, .json or .csv")
        })
    }
}

/// Whose report it is, as a person named them.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// The model.
    pub model: &'a str,
    /// The output.
    pub out: &'a str,
}

/// The text of a report.
pub fn text(format: Format, summary: &Summary, about: &About<'_>) -> String {
    match format {
        Format::Html => html::page(summary, about),
        Format::Json => json::document(summary, about),
        Format::Csv => csv::table(summary),
    }
}

/// What a person should know of embedding and head in an output of so many bytes: where they are much of it, how much, and what
/// quantising them would give. `None` where they are not.
pub fn ends_text(decided: &Decided, ends: &Ends, file_bytes: u64) -> Option<String> {
    if !ends.are_large(file_bytes) {
        return None;
    }
    let embeddings = ends.matrices - ends.heads.min(ends.matrices);
    let (what, they, them) = match (embeddings, ends.heads) {
        (1, 0) => ("the embedding is", "it is", "it"),
        (0, 1) => ("the head is", "it is", "it"),
        (_, 0) => ("embeddings are", "they are", "them"),
        _ => ("embedding and head are", "they are", "them"),
    };
    let share = format!(
        "{what} {} of {} ({:.0} %)",
        bytes(ends.size_bytes),
        bytes(file_bytes),
        ends.share(file_bytes) * 100.0
    );
    let narrow = bytes(ends.output_bytes(file_bytes));
    let is_end = |name: &str| matches!(arch::group(name), Group::Embedding | Group::Head);
    let kept = || decided.kept.iter().filter(|(name, _)| is_end(name)).map(|(_, why)| why);
    Some(match &decided.chosen {
        // Some types of a mixture are as small as it gets.
        Chosen::Blocks(mixture) if ends.output_bytes(file_bytes) > file_bytes / 100 * 97 => {
            format!("{share}, at {} as all others", mixture.name)
        }
        Chosen::Blocks(mixture) => {
            let dtype = ends.narrow_dtype.unwrap_or(mixture.dtype);
            let smaller = format!("all at {dtype} the file would be {narrow}");
            if kept().any(|why| *why == Why::Asked) {
                return Some(format!("{share}, kept as asked for; {smaller}"));
            }
            let flags = [("--embedding-type", embeddings), ("--output-type", ends.heads)];
            let flags = flags.iter().filter(|(_, count)| *count > 0);
            let flags: Vec<String> = flags.map(|(flag, _)| format!("{flag} {dtype}")).collect();
            format!("{share}; {smaller}: {}", flags.join(" "))
        }
        Chosen::Matrices(settled) => {
            let narrow =
                format!("with the same {:.2} bits the model would be {narrow}", decided.bits_per_weight());
            if kept().all(|why| *why == Why::Asked) {
                return Some(format!("{share}, kept as asked for; {narrow}"));
            }
            if !kept().any(|why| matches!(why, Why::Kind(_))) {
                return Some(format!("{share}, of sizes that do not fit the group; {narrow}"));
            }
            let other = Mixture::find(if settled.scheme.bits > 4 { "q8_0" } else { "q4_k_m" });
            let other = other.map(|m| format!("; --scheme {}, a GGUF, quantises {them}", m.name));
            format!(
                "{share}, which engines of this layout take as {they}; {narrow}{}",
                other.unwrap_or_default()
            )
        }
    })
}

/// The floor for a program, as the report has it.
pub fn floor_json(floor: &super::Floor) -> serde_json::Value {
    json::floor(floor)
}

/// Embedding and head in an output of so many bytes for a program, as the report has them.
pub fn ends_json(ends: &Ends, file_bytes: u64) -> serde_json::Value {
    json::ends(ends, file_bytes)
}

/// Where a report goes.
#[derive(Debug, Clone)]
pub struct Target {
    path: PathBuf,
    format: Format,
    force: bool,
}

impl Target {
    /// Looks at the place before any work is done: `out` is where the model goes.
    ///
    /// # Errors
    /// `Usage`: an extension that says nothing; a place inside `out`, or `out` itself. `NotFound`: no such folder. `BadInput`: a
    /// file that is there and is to be kept, a directory, a file of the model. `NotAllowed`, `Io`: the system's.
    pub fn new(path: &Path, force: bool, model: &Model, out: &Path) -> Result<Target> {
        let format = Format::of(path)?;
        let shown = || path.display().to_string();
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let folder = folder.canonicalize().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                Error::not_found("has no folder to be written into").file(shown()).hint("make it first")
            }
            _ => Error::io("cannot be written there", e).file(shown()),
        })?;
        let name = path.file_name().ok_or_else(|| Error::usage("a report needs a name").file(shown()))?;
        let place = folder.join(name);
        let out = whole(out);
        if place.starts_with(&out) {
            return Err(Error::usage("lies in the place that the model is written to")
                .file(shown())
                .hint("name a place beside OUT"));
        }
        let of_model = model.place.directory().and_then(|d| d.canonicalize().ok());
        let is_of_model = of_model.is_some_and(|directory| place.starts_with(directory));
        match std::fs::symlink_metadata(&place) {
            Ok(found) if found.is_dir() => return Err(Error::bad_input("is a directory").file(shown())),
            Ok(_) if !force => {
                return Err(Error::bad_input("exists already")
                    .file(shown())
                    .hint("--force replaces it; or choose another name"));
            }
            Ok(_) if is_of_model => {
                return Err(Error::bad_input("is a file of the model, and would be lost")
                    .file(shown())
                    .hint("name a place outside the model"));
            }
            Ok(_) if !is_report(&place)? => {
                return Err(Error::bad_input("is there, and is no report of hoist's: it is not replaced")
                    .file(shown())
                    .hint("choose another name"));
            }
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("cannot be examined", e).file(shown())),
        }
        // Whether the folder takes files at all: a run of an hour is not to end with that.
        drop(FileSink::create(&place, 0, Existing::Replace)?);
        Ok(Target { path: path.to_owned(), format, force })
    }

    /// Where it goes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes it: complete or absent.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, summary: &Summary, about: &About<'_>) -> Result<()> {
        let existing = if self.force { Existing::Replace } else { Existing::Keep };
        write_file(&self.path, text(self.format, summary, about).as_bytes(), existing)
    }
}

/// Whether a file begins as reports do, or is empty: with --force too nothing else is replaced.
fn is_report(path: &Path) -> Result<bool> {
    let file = LocalFile::open(path)?;
    let mut begin = vec![0; usize::try_from(file.size_bytes().min(512)).unwrap_or(0)];
    file.read_exact_at(&mut begin, 0)?;
    let marks: [&[u8]; 3] =
        [b"content=\"hoist ", b"\"hoist.quantize.report/", b"name,layer,projection,expert,"];
    let has = |mark: &&[u8]| begin.windows(mark.len()).any(|w| w == *mark);
    Ok(begin.is_empty() || marks.iter().any(has))
}

/// A path with every link resolved as far as it is there.
fn whole(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    let name = path.file_name().unwrap_or_default();
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => whole(parent).join(name),
        _ => Path::new(".").canonicalize().unwrap_or_default().join(name),
    }
}

/// Why a matrix stays, in words.
pub fn why_text(why: &Why) -> String {
    match why {
        Why::Kind(kind) => (*kind).to_owned(),
        Why::Asked => "asked for".to_owned(),
        Why::Misfit(why) => why.clone(),
        Why::Fused(with) => format!("fused with {}", Shown(with)),
    }
}

/// A share in per cent with three digits: `9.53 %`, `12.1 %`, `0.021 %`.
pub fn percent(share: f64) -> String {
    let value = share * 100.0;
    let decimals = match value.abs() {
        a if a >= 99.95 => 0,
        a if a >= 9.995 => 1,
        a if a >= 0.0995 || a == 0.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$} %")
}

/// From so many bytes to so many, as a change: `−63 %`.
pub fn change(before: u64, after: u64) -> String {
    let share = after as f64 / (before as f64).max(1.0);
    format!("{}{:.0} %", if share > 1.0 { '+' } else { '−' }, (share - 1.0).abs() * 100.0)
}
