//! Finding what is there, and bringing the rest.

use super::{Part, Work, differs};
use crate::error::{Error, Result};
use crate::fetch::hash::{self, Kind};
use crate::fetch::store::{self, Found, Store, held};
use crate::fetch::transfer::{Digest, Item, Totals, transfer};
use crate::run::parallel;
use crate::source::hub::api::TreeFile;
use crate::text::Shown;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

fn lock_mutex<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What was brought.
#[derive(Default)]
pub(super) struct Brought {
    /// The hashes that were found, by the files' paths.
    pub(super) digests: BTreeMap<String, Digest>,
    /// Bytes that an earlier run had left.
    pub(super) resumed_bytes: u64,
    /// Bytes that the network brought.
    pub(super) received_bytes: u64,
}

/// Compares with the listing what was so far compared with a lock file: the blob gets the name that the listing says.
fn as_listed(part: &Part<'_>, hash_of: impl FnOnce(Kind) -> Result<Digest>) -> Result<()> {
    let Some(listed) = store::expected(part.file).filter(|listed| Some(*listed) != part.expected) else {
        return Ok(());
    };
    let found = hash_of(hash::kind(&listed))?;
    match found == listed {
        true => Ok(()),
        false => Err(differs(&listed, &found).file(part.file.path.clone())),
    }
}

impl Work<'_> {
    /// Finds what is there. Where hashes are required, what is there is read.
    pub(super) fn find(&self, store: &Store, parts: &mut [Part<'_>], notes: &mut Vec<String>) -> Result<()> {
        let strict = self.options.require_hash || self.options.locked;
        let next = AtomicUsize::new(0);
        let results = Mutex::new(Vec::new());
        let count = if strict || self.options.local_dir.is_some() { 4.min(parts.len()) } else { 1 };
        let parts_now: &[Part<'_>] = parts;
        parallel("find", count, self.control, |_| {
            while let Some(index) =
                Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&i| i < parts_now.len())
            {
                let Some(part) = parts_now.get(index) else { break };
                if self.stop() {
                    break;
                }
                let mut found = store.find(part.file, self.control)?;
                let at = match &found {
                    Found::Here | Found::Unnoted => Some(store.place(part.file)),
                    Found::At(path) => Some(path.clone()),
                    Found::Absent => None,
                };
                let mut note = None;
                if let (true, Some(path), Some(expected)) = (strict, at, part.expected) {
                    let is = hash::of_file(&path, hash::kind(&expected), self.control)?;
                    if is != expected {
                        if self.hub.is_none() {
                            return Err(differs(&expected, &is).file(path.display().to_string()));
                        }
                        note =
                            Some(format!("{}: its bytes are not what its name says", Shown(&part.file.path)));
                        found = Found::Absent;
                    }
                }
                lock_mutex(&results).push((index, found, note));
            }
            Ok(())
        })?;
        for (index, found, note) in results.into_inner().unwrap_or_else(PoisonError::into_inner) {
            if let Some(part) = parts.get_mut(index) {
                part.found = found;
            }
            notes.extend(note);
        }
        Ok(())
    }

    /// Brings what is absent and names what is there. Gives the hashes that were found.
    pub(super) fn carry_out(
        &self,
        store: &Store,
        commit: &str,
        parts: &mut [Part<'_>],
        fresh: &mut BTreeMap<String, Vec<u8>>,
    ) -> Result<Brought> {
        if parts.iter().all(|p| p.found == Found::Here) {
            // Nothing to write: the place may be one that cannot be written.
            self.control.plan(self.summary(commit, parts), 0);
            return Ok(Brought::default());
        }
        store.prepare()?;
        let mut missing: Vec<&TreeFile> =
            parts.iter().filter(|p| p.found == Found::Absent).map(|p| p.file).collect();
        missing.sort_by_key(|f| std::cmp::Reverse(f.size_bytes));
        let paths = held::order(missing.iter().filter_map(|f| store.lock(f)).collect());
        let mut locks = HashMap::new();
        for path in paths {
            let what = &self.wish.repo.id;
            let held = held::hold(&path, what, &store.workshop(), self.options.lock_patience, self.control)?;
            locks.insert(path, held);
        }
        // Somebody else may have brought some of it meanwhile.
        for part in parts.iter_mut().filter(|p| p.found == Found::Absent) {
            if !(self.options.require_hash || self.options.locked) {
                part.found = store.find(part.file, self.control)?;
            }
        }
        let left = |part: &&Part<'_>| part.found == Found::Absent;
        let to_fetch: u64 = parts.iter().filter(left).map(|p| p.file.size_bytes).sum();
        self.control.plan(self.summary(commit, parts), to_fetch);
        for part in parts.iter() {
            store.adopt(part.file, &part.found)?;
        }
        let locks = Mutex::new(locks);
        let brought = self.bring(store, commit, parts, fresh, &locks)?;
        store.sync(parts.iter().map(|p| p.file));
        Ok(brought)
    }

    pub(super) fn bring(
        &self,
        store: &Store,
        commit: &str,
        parts: &[Part<'_>],
        fresh: &mut BTreeMap<String, Vec<u8>>,
        locks: &Mutex<HashMap<PathBuf, held::Held>>,
    ) -> Result<Brought> {
        let digests = Mutex::new(BTreeMap::new());
        // One item for each content; the other names of it are given afterwards.
        let mut items: Vec<Item> = Vec::new();
        let mut groups: Vec<Vec<&Part<'_>>> = Vec::new();
        let mut by_etag: HashMap<&str, usize> = HashMap::new();
        let settle =
            |group: &[&Part<'_>], place: &mut dyn FnMut(&TreeFile) -> Result<()>, digest: &Digest| {
                let Some(first) = group.first() else { return Ok(()) };
                place(first.file)?;
                for twin in group.iter().skip(1) {
                    let found = match store.find(twin.file, self.control)? {
                        Found::Absent => Found::At(store.place(first.file)),
                        found => found,
                    };
                    store.adopt(twin.file, &found)?;
                }
                for part in group {
                    lock_mutex(&digests).insert(part.file.path.clone(), *digest);
                }
                if let Some(path) = store.lock(first.file) {
                    lock_mutex(locks).remove(&path);
                }
                Ok(())
            };
        let Some(hub) = self.hub else { return Ok(Brought::default()) };
        let mut at_hand: Vec<(&Part<'_>, Vec<u8>)> = Vec::new();
        for part in parts.iter().filter(|p| p.found == Found::Absent) {
            let known = fresh.remove(&part.file.path);
            if let Some(bytes) = known.or_else(|| (part.file.size_bytes == 0).then(Vec::new)) {
                at_hand.push((part, bytes));
                continue;
            }
            if let Some(group) = store::etag(part.file).and_then(|e| groups.get_mut(*by_etag.get(e)?)) {
                group.push(part);
                continue;
            }
            if let Some(etag) = store::etag(part.file) {
                by_etag.insert(etag, groups.len());
            }
            groups.push(vec![part]);
            let is_held = store.lock(part.file).is_some_and(|path| lock_mutex(locks).contains_key(&path));
            items.push(Item {
                from: hub.file(&self.wish.repo, commit, part.file)?,
                // Without the lock another writer could have the same name.
                to: store.partial(part.file, !is_held),
                size_bytes: part.file.size_bytes,
                expected: part.expected,
            });
        }
        // They came before, over the same network.
        let before_bytes: u64 = at_hand.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        for (part, bytes) in at_hand {
            let kind = part.expected.as_ref().map_or(Kind::Sha256, hash::kind);
            let digest = hash::of_bytes(&bytes, kind);
            if let Some(expected) = part.expected.filter(|e| *e != digest) {
                return Err(differs(&expected, &digest).file(part.file.path.clone()));
            }
            as_listed(part, |kind| Ok(hash::of_bytes(&bytes, kind)))?;
            settle(&[part], &mut |file| store.put(file, &bytes, &digest), &digest)?;
            self.control.moved(bytes.len() as u64);
        }
        let mut totals = Totals::default();
        if !items.is_empty() {
            totals = transfer(&items, &self.options.transfer, self.control, &|index, digest| {
                let (Some(group), Some(item)) = (groups.get(index), items.get(index)) else {
                    return Err(Error::bug("a file was moved that was not asked for"));
                };
                let first = group.first().ok_or_else(|| Error::bug("a file without a name was moved"))?;
                as_listed(first, |kind| hash::of_file(&item.to, kind, self.control))?;
                settle(group, &mut |file| store.settle(file, &item.to, &digest), &digest)
            })?;
        }
        let digests = digests.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Totals { resumed_bytes, received_bytes, .. } = totals;
        Ok(Brought { digests, resumed_bytes, received_bytes: received_bytes + before_bytes })
    }
}
