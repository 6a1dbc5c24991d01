//! The listing of a commit as it is kept on disk, in huggingface_hub's form: what a commit holds never changes.
//!
//! Python takes a snapshot as incomplete when it lacks a file of `trees/COMMIT.json`. So that listing is written there only
//! when all of it was fetched; of a part, hoist keeps it in a place of its own.

use super::write;
use crate::error::Result;
use crate::source::hub::api::TreeFile;
use crate::source::hub::cache::is_etag;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

const FORMAT_VERSION: u64 = 1;

/// The longest listing that is read.
const LISTING_BYTES_MAX: u64 = 256 << 20;

#[derive(Serialize, Deserialize)]
struct Document {
    format_version: u64,
    files: BTreeMap<String, Row>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    size: u64,
    blob_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lfs_sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lfs_size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    xet_hash: Option<String>,
}

/// Reads a listing. `None` where there is none, or none that can be trusted to be one.
pub(in crate::fetch) fn read(path: &Path) -> Option<Vec<TreeFile>> {
    let mut json = Vec::new();
    std::fs::File::open(path).ok()?.take(LISTING_BYTES_MAX).read_to_end(&mut json).ok()?;
    let document: Document = serde_json::from_slice(&json).ok()?;
    let is_sound = |row: &Row| {
        let hex = |text: &String| is_etag(text);
        hex(&row.blob_id) && row.lfs_sha256.iter().chain(&row.xet_hash).all(hex)
    };
    if document.format_version != FORMAT_VERSION || !document.files.values().all(is_sound) {
        return None;
    }
    let file = |(path, row): (String, Row)| TreeFile {
        path,
        size_bytes: row.lfs_size.unwrap_or(row.size),
        blob_id: Some(row.blob_id),
        sha256: row.lfs_sha256,
        xet_hash: row.xet_hash,
    };
    Some(document.files.into_iter().map(file).collect())
}

/// Writes a listing, unless a file of it has no id.
pub(super) fn write(path: &Path, files: &[TreeFile]) -> Result<()> {
    let row = |file: &TreeFile| {
        let row = Row {
            size: file.size_bytes,
            blob_id: file.blob_id.clone()?,
            lfs_sha256: file.sha256.clone(),
            lfs_size: file.sha256.as_ref().map(|_| file.size_bytes),
            xet_hash: file.xet_hash.clone(),
        };
        Some((file.path.clone(), row))
    };
    let Some(files) = files.iter().map(row).collect() else { return Ok(()) };
    let document = Document { format_version: FORMAT_VERSION, files };
    let mut json = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut json, formatter);
    document
        .serialize(&mut serializer)
        .map_err(|e| crate::error::Error::bug(format!("a listing cannot be written: {e}")))?;
    write::write_whole(path, &json)
}
