//! Outputs: complete or absent, taken up again, never an input; copies inside the kernel.

use hoist::Error;
use hoist::sink::output::hash::{BLOCK_BYTES, Hash, block_hash, combine};
use hoist::sink::output::{Begin, DirectoryOut, FileOut, Identity, Out, Stamp, begin};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

mod copy;
mod faults;
mod replace;
mod resume;

fn identity(plan: &str) -> Identity {
    let sources = vec![Stamp { name: "model.safetensors".into(), size_bytes: 7, modified_ns: -3 }];
    Identity { plan_hash: plan.into(), sources }
}

/// What is begun by `flags`: `d` a directory, `f` by force.
fn begun(target: &Path, flags: &str, plan: &str, inputs: &[PathBuf]) -> Result<Out, Error> {
    let identity = identity(plan);
    begin(&Begin {
        target,
        force: flags.contains('f'),
        inputs,
        identity: &identity,
        directory: flags.contains('d'),
    })
}

fn directory(target: &Path, flags: &str, plan: &str) -> DirectoryOut {
    match begun(target, &format!("d{flags}"), plan, &[]).unwrap() {
        Out::Directory(out) => out,
        Out::File(_) => panic!("a file"),
    }
}

fn file(target: &Path, flags: &str) -> FileOut {
    match begun(target, flags, "p", &[]).unwrap() {
        Out::File(out) => out,
        Out::Directory(_) => panic!("a directory"),
    }
}

fn hash_of(bytes: &[u8]) -> Hash {
    combine(&bytes.chunks(BLOCK_BYTES as usize).map(block_hash).collect::<Vec<_>>())
}

fn put(out: &DirectoryOut, name: &str, bytes: &[u8]) -> Result<(), Error> {
    let sink = out.create(name, bytes.len() as u64)?;
    sink.write_all_at(bytes, 0)?;
    sink.finish()?;
    out.record(name, bytes.len() as u64, hash_of(bytes))
}

/// Everything below a directory: names, and bytes of files; links as what they say.
fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    fn inside(at: &Path, under: &str, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(at).unwrap().map(Result::unwrap) {
            let name = format!("{under}{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                found.insert(format!("{name}/"), vec![]);
                inside(&entry.path(), &format!("{name}/"), found);
            } else if kind.is_symlink() {
                found.insert(format!("{name}@"), vec![]);
            } else if !kind.is_file() {
                found.insert(format!("{name}="), vec![]);
            } else {
                found.insert(name, fs::read(entry.path()).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    inside(root, "", &mut found);
    found
}

fn names(root: &Path) -> Vec<String> {
    tree(root).into_keys().collect()
}
