//! What is known of an output's files, in two forms.
//!
//! **The journal of a run** (`journal` in `.OUT.hoist/`) grows as files are finished, so that a run that was cut off is
//! taken up again: lines of JSON, first `{"schema": "hoist.journal/1", "identity": HEX}`, then for each finished file
//! `{"name": …, "size": …, "xxh3": HEX}`. Each line is on the disk before the next file counts as finished. A crash can
//! cut the last line short; it is dropped then, and the file is made again.
//!
//! **The journal of an output** (`.hoist.json` in OUT) says of a finished directory what hoist put there. It depends on
//! the conversion alone: no time, no path, no inode, so that the same input and options give the same bytes.
//!
//! Hashes are those of `output/hash.rs`.

use super::hash::Hash;
use crate::error::{Error, Result};
use crate::sink::file::shown;
use crate::source::local::check_relative;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

/// The name of a finished directory's journal.
pub const FINISHED_NAME: &str = ".hoist.json";

/// Its form.
const FINISHED_SCHEMA: &str = "hoist.output/1";

/// The form of a run's journal.
const RUN_SCHEMA: &str = "hoist.journal/1";

/// More than the journal of any output has: a hundred thousand files.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;

/// A finished file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) size_bytes: u64,
    pub(super) hash: Hash,
}

/// Finished files by name.
pub(super) type Records = BTreeMap<String, Record>;

/// The folders that hold them, each once, without a slash at the end.
pub(super) fn folders_of(records: &Records) -> BTreeSet<&str> {
    let above = |name: &'_ str| name.match_indices('/').map(|(at, _)| at).collect::<Vec<_>>();
    records.keys().flat_map(|name| above(name).into_iter().filter_map(|at| name.get(..at))).collect()
}

/// The journal of a run.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    /// Where the next line goes.
    end_bytes: u64,
}

impl Journal {
    /// Begins a journal at `path`.
    pub(super) fn create(path: &Path, identity: &str) -> Result<Journal> {
        let fail = |e| Error::io("cannot be created", e).file(shown(path));
        let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(fail)?;
        let mut journal = Journal { file, end_bytes: 0 };
        journal
            .append(&json!({"schema": RUN_SCHEMA, "identity": identity}))
            .map_err(|e| e.file(shown(path)))?;
        Ok(journal)
    }

    /// Takes up the journal at `path`, with what it says is finished; `None` where it is another run's, or is damaged, or
    /// is not there.
    pub(super) fn resume(path: &Path, identity: &str) -> Result<Option<(Journal, Records)>> {
        let Some((records, end_bytes)) = parse(path, identity)? else { return Ok(None) };
        let fail = |e| Error::io("cannot be written", e).file(shown(path));
        let file = OpenOptions::new().write(true).open(path).map_err(fail)?;
        file.set_len(end_bytes).map_err(fail)?;
        Ok(Some((Journal { file, end_bytes }, records)))
    }

    /// What the journal at `path` says is finished, nothing where it is another run's.
    pub(super) fn look(path: &Path, identity: &str) -> Result<Records> {
        Ok(parse(path, identity)?.map(|(records, _)| records).unwrap_or_default())
    }

    /// Notes a finished file, which is on the disk already; comes back when the note is there too.
    pub(super) fn add(&mut self, name: &str, record: Record) -> Result<()> {
        self.append(&file_json(name, record))
    }

    fn append(&mut self, value: &Value) -> Result<()> {
        use std::io::{Seek, SeekFrom};
        let line = format!("{value}\n");
        let mut write = || -> io::Result<()> {
            self.file.seek(SeekFrom::Start(self.end_bytes))?;
            self.file.write_all(line.as_bytes())?;
            self.file.sync_data()
        };
        if let Err(e) = write() {
            // What there is of the line must not outlast the next one, which may be shorter.
            let _ = self.file.set_len(self.end_bytes);
            return Err(Error::io("cannot be noted in the journal", e));
        }
        self.end_bytes += line.len() as u64;
        Ok(())
    }
}

/// The records of a run's journal of this identity, and how many bytes of it are whole lines.
fn parse(path: &Path, identity: &str) -> Result<Option<(Records, u64)>> {
    let Some(text) = read(path)? else { return Ok(None) };
    let mut records = Records::new();
    let mut lines = text.split_inclusive(|&b| b == b'\n');
    // A line without its end was cut short.
    let whole = |line: &[u8]| line.strip_suffix(b"\n").and_then(|l| serde_json::from_slice::<Value>(l).ok());
    let Some(first) = lines.next() else { return Ok(None) };
    let Some(head) = whole(first) else { return Ok(None) };
    if head["schema"] != RUN_SCHEMA || head["identity"] != identity {
        return Ok(None);
    }
    let mut end_bytes = first.len() as u64;
    for line in lines {
        let Some((name, record)) = whole(line).as_ref().and_then(parse_record) else { break };
        records.insert(name, record);
        end_bytes += line.len() as u64;
    }
    Ok(Some((records, end_bytes)))
}

/// The bytes of `.hoist.json`.
pub(super) fn finished_json(plan_hash: &str, records: &Records) -> String {
    let files: Vec<Value> = records.iter().map(|(name, record)| file_json(name, *record)).collect();
    format!("{:#}\n", json!({"schema": FINISHED_SCHEMA, "plan": plan_hash, "files": files}))
}

/// What hoist put into the finished directory; `None` where it holds no journal of ours.
pub(super) fn finished(directory: &Path) -> Result<Option<Records>> {
    let path = directory.join(FINISHED_NAME);
    if !fs::symlink_metadata(&path).is_ok_and(|m| m.is_file()) {
        return Ok(None);
    }
    let Some(text) = read(&path)? else { return Ok(None) };
    let Ok(value) = serde_json::from_slice::<Value>(&text) else { return Ok(None) };
    if value["schema"] != FINISHED_SCHEMA {
        return Ok(None);
    }
    Ok(value["files"].as_array().and_then(|files| files.iter().map(parse_record).collect()))
}

fn file_json(name: &str, record: Record) -> Value {
    json!({"name": name, "size": record.size_bytes, "xxh3": record.hash.to_string()})
}

fn parse_record(value: &Value) -> Option<(String, Record)> {
    let name = value["name"].as_str().filter(|name| check_relative(name).is_ok())?;
    let (size_bytes, hash) = (value["size"].as_u64()?, Hash::parse(value["xxh3"].as_str()?)?);
    Some((name.to_owned(), Record { size_bytes, hash }))
}

/// A small file; `None` where there is none, or where it is too large to be a journal.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let fail = |e| Error::io("cannot be read", e).file(shown(path));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fail(e)),
    };
    let mut text = Vec::new();
    file.take(JOURNAL_BYTES_MAX + 1).read_to_end(&mut text).map_err(fail)?;
    Ok((text.len() as u64 <= JOURNAL_BYTES_MAX).then_some(text))
}
