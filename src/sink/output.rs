//! A conversion's output: complete or absent, and taken up again where a run was cut off.
//!
//! **A file** is written under a temporary name beside its target and renamed ([`FileSink`]); a run that is cut off begins
//! again from zero.
//!
//! **A directory** is built beside its target, in `.OUT.hoist/`: `tree/` is what OUT will be, `journal` says which files
//! in it are finished, and of which run. When all are, `tree/` takes OUT's name by one rename, or trades names with the
//! old OUT, which is removed after that. So OUT is at every moment the old one or the new one, whole.
//!
//! A run that is cut off, by whatever, leaves `.OUT.hoist/` if any file of it was finished. The next run takes the lock
//! (so that nobody else is at work), and where the journal's [`Identity`] is its own it keeps the finished files after
//! checking each by size and hash; any other journal is stale and goes, with all that it describes.
//!
//! ```text
//! .OUT.hoist-lock       one run at a time; see output/lock.rs
//! .OUT.hoist/journal    see output/journal.rs
//! .OUT.hoist/tree/      becomes OUT; .hoist.json is written into it last
//! .OUT.hoist/old        the old OUT, for a moment, where names cannot be traded
//! .NAME.hoist-XXXX      a file being written
//! ```

pub mod hash;
pub mod journal;
mod lock;
mod place;

use crate::error::{Error, Result};
use crate::sink::file::{
    Existing, FileSink, directory_of, hidden_name, is_temporary_name, shown, sync_directory, write_file,
};
use crate::source::local::check_relative;
use crate::text::Shown;
use hash::Hash;
use journal::{FINISHED_NAME, Journal, Record, Records};
use lock::Lock;
use place::Standing;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A source as it was when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Its name in the model.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// Nanoseconds from 1970 to its last change.
    pub modified_ns: i128,
}

impl Stamp {
    /// The stamp of an open file; one that tells no time has time zero.
    ///
    /// # Errors
    /// What the system says.
    pub fn of(name: impl Into<String>, file: &File) -> Result<Stamp> {
        let name = name.into();
        let metadata = file.metadata().map_err(|e| Error::io("cannot be examined", e).file(name.as_str()))?;
        let modified_ns =
            metadata.modified().ok().map_or(0, |time| match time.duration_since(std::time::UNIX_EPOCH) {
                Ok(after) => i128::try_from(after.as_nanos()).unwrap_or(i128::MAX),
                Err(before) => i128::try_from(before.duration().as_nanos()).map_or(i128::MIN, |n| -n),
            });
        Ok(Stamp { name, size_bytes: metadata.len(), modified_ns })
    }
}

/// What a run would make. Two runs of one identity make the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// A hash of the plan and of all options that change the output, in hex; of no path, no time and nothing of this
    /// machine, because it is kept in the output.
    pub plan_hash: String,
    /// Every file that is read.
    pub sources: Vec<Stamp>,
}

impl Identity {
    /// All of it in one line of hex. Another version of hoist is another identity: it may write other bytes.
    fn digest(&self) -> String {
        let mut hash = blake3::Hasher::new();
        let mut text = |text: &str| {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        };
        text(env!("CARGO_PKG_VERSION"));
        text(&self.plan_hash);
        for source in &self.sources {
            text(&source.name);
            text(&source.size_bytes.to_string());
            text(&source.modified_ns.to_string());
        }
        hash.finalize().to_hex().to_string()
    }
}

/// What is to be begun.
#[derive(Debug, Clone, Copy)]
pub struct Begin<'a> {
    /// OUT, as the user named it.
    pub target: &'a Path,
    /// Replace what is there, whatever it is (within reason: never an input, a device, a mount point, the home folder).
    pub force: bool,
    /// Every file that is read, and the input directory.
    pub inputs: &'a [PathBuf],
    /// What the run makes.
    pub identity: &'a Identity,
    /// Whether OUT is a directory.
    pub directory: bool,
}

/// An output that has been begun; one run at a time has it.
#[derive(Debug)]
pub enum Out {
    /// One file.
    File(FileOut),
    /// A directory.
    Directory(DirectoryOut),
}

impl Out {
    /// What a person should know: no locks on this file system.
    pub fn notes(&self) -> &[String] {
        match self {
            Out::File(out) => &out.ground.notes,
            Out::Directory(out) => &out.ground.notes,
        }
    }
}

/// Checks what can be checked of an output without touching anything: for a plan that is only printed, and before the
/// work begins.
///
/// # Errors
/// As [`begin`], but for the lock.
pub fn check(b: &Begin<'_>) -> Result<()> {
    let place = place::resolve(b.target, b.directory)?;
    check_at(b, &place).map(drop).map_err(|e| e.file(shown(b.target)))
}

/// Bytes that an earlier run of the same identity has finished and a next run will find on the disk already: it needs no
/// room for them. Files are not read.
///
/// # Errors
/// As [`check`].
pub fn kept_bytes(b: &Begin<'_>) -> Result<u64> {
    let place = place::resolve(b.target, b.directory)?;
    let work = beside(&place, ".hoist");
    if !b.directory || !is_work(&work)? {
        return Ok(0);
    }
    let records = Journal::look(&work.join(JOURNAL), &b.identity.digest())?;
    let there = |name: &str, size_bytes| {
        fs::symlink_metadata(work.join(TREE).join(name)).is_ok_and(|m| m.is_file() && m.len() == size_bytes)
    };
    let whole = records.iter().filter(|(name, r)| there(name, r.size_bytes));
    Ok(whole.fold(0, |sum, (_, r)| sum.saturating_add(r.size_bytes)))
}

/// Begins an output: checks it, takes its lock, removes what dead runs left, finds what can be kept.
///
/// # Errors
/// `BadInput`: OUT exists and is not to be replaced, is or holds an input, lies inside an input directory, cannot be
/// replaced at all. `NotFound`: its folder is not there. `Usage`: its path has no name. `Io`: another run is writing it.
/// What the system says.
pub fn begin(b: &Begin<'_>) -> Result<Out> {
    let place = place::resolve(b.target, b.directory)?;
    let shown = shown(b.target);
    begin_at(b, place, &shown).map_err(|e| e.file(shown))
}

fn begin_at(b: &Begin<'_>, place: PathBuf, shown: &str) -> Result<Out> {
    check_at(b, &place)?;
    let lock = Lock::take(beside(&place, ".hoist-lock"), shown)?;
    let notes = lock.missing.iter().cloned().collect();
    let work = beside(&place, ".hoist");
    remove_temporaries(&place)?;
    let resumable = is_work(&work)?;
    if resumable {
        restore_old(&work, &place)?;
    }
    // Again, now that nobody else changes it.
    let standing = check_at(b, &place)?;
    let ground = Ground { place, shown: shown.to_owned(), force: b.force, notes, _lock: lock };
    if !b.directory {
        remove_work(&work)?;
        return Ok(Out::File(FileOut { ground }));
    }
    let tree = work.join(TREE);
    let path = work.join(JOURNAL);
    let identity = b.identity.digest();
    let resumed = if resumable { Journal::resume(&path, &identity)? } else { None };
    let (journal, kept) = match resumed {
        Some((journal, mut kept)) => {
            make_directory(&tree)?;
            prune(&tree, &mut kept)?;
            (journal, kept)
        }
        None => {
            remove_work(&work)?;
            make_directory(&work)?;
            make_directory(&tree)?;
            let journal = Journal::create(&path, &identity)?;
            sync_directory(&work)?;
            sync_directory(directory_of(&work))?;
            (journal, Records::new())
        }
    };
    let state = Mutex::new(State { journal, kept, done: Records::new(), unsynced: BTreeSet::new() });
    let replaces = !matches!(standing, Standing::Absent);
    Ok(Out::Directory(DirectoryOut {
        ground,
        work,
        tree,
        plan_hash: b.identity.plan_hash.clone(),
        replaces,
        state,
    }))
}

/// What stands at the output's place, if it may be replaced.
fn check_at(b: &Begin<'_>, place: &Path) -> Result<Standing> {
    place::check_inputs(place, &beside(place, ".hoist"), b.inputs, b.directory)?;
    let standing = place::standing(place, b.directory)?;
    if let Standing::Other(what) = &standing {
        if !b.force {
            return Err(may_not(what));
        }
        if b.directory {
            place::check_lived_in(place)?;
        }
    }
    Ok(standing)
}

fn may_not(what: &str) -> Error {
    Error::bad_input(what).hint("--force replaces it; or choose another name")
}

/// What both kinds of output stand on.
#[derive(Debug)]
struct Ground {
    /// Where it is made, links resolved.
    place: PathBuf,
    /// OUT as the user named it.
    shown: String,
    force: bool,
    notes: Vec<String>,
    _lock: Lock,
}

/// An output that is one file.
#[derive(Debug)]
pub struct FileOut {
    ground: Ground,
}

impl FileOut {
    /// Begins the file; it gets its name by [`FileSink::finish`], replacing what was there where that was allowed. Keep
    /// `self` until then: it holds the lock.
    ///
    /// # Errors
    /// As [`FileSink::create`].
    pub fn create(&self, size_bytes: u64) -> Result<FileSink> {
        let existing = if self.ground.force { Existing::Replace } else { Existing::Keep };
        FileSink::create(&self.ground.place, size_bytes, existing)
    }

    /// Where it will be, links resolved.
    pub fn path(&self) -> &Path {
        &self.ground.place
    }
}

const TREE: &str = "tree";
const JOURNAL: &str = "journal";
const OLD: &str = "old";

/// An output that is a directory. Dropped before [`DirectoryOut::finish`], it leaves its finished files for the next run,
/// or nothing where there are none.
#[derive(Debug)]
pub struct DirectoryOut {
    ground: Ground,
    work: PathBuf,
    tree: PathBuf,
    plan_hash: String,
    /// Something stands at the place, and was found to be replaceable.
    replaces: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    journal: Journal,
    /// Finished by an earlier run and not yet asked for.
    kept: Records,
    /// Finished files of this output.
    done: Records,
    /// Those of them that are not on the disk yet, nor in the journal.
    unsynced: BTreeSet<String>,
}

/// A file that an earlier run finished, to be checked before it is kept.
#[derive(Debug)]
pub struct Kept {
    /// The file, open for reading.
    pub file: File,
    /// The hash it must have.
    pub hash: Hash,
}

impl DirectoryOut {
    /// Where it will be, links resolved.
    pub fn path(&self) -> &Path {
        &self.ground.place
    }

    /// Whether a file was kept from an earlier run: it is there with this size and its hash is the journal's. Reads all
    /// of it, on this thread; [`DirectoryOut::earlier`] and [`DirectoryOut::keep`] are the same in two steps.
    ///
    /// # Errors
    /// What reading gives.
    pub fn finished(&self, name: &str, size_bytes: u64) -> Result<bool> {
        let Some(Kept { file, hash }) = self.earlier(name, size_bytes)? else { return Ok(false) };
        let found = hash::hash_file(&file, size_bytes).map_err(|e| e.file(name))?;
        if found != hash {
            return Ok(false);
        }
        self.keep(name, size_bytes, hash)?;
        Ok(true)
    }

    /// A file that an earlier run of the same identity finished with this size, still to be checked by its hash.
    ///
    /// # Errors
    /// What opening gives.
    pub fn earlier(&self, name: &str, size_bytes: u64) -> Result<Option<Kept>> {
        let Some(record) = self.state().kept.get(name).copied().filter(|r| r.size_bytes == size_bytes) else {
            return Ok(None);
        };
        let fail = |e| Error::io("cannot be read back", e).file(name);
        let file = File::open(self.tree.join(name)).map_err(fail)?;
        let is_whole = file.metadata().map_err(fail)?.len() == size_bytes;
        Ok(is_whole.then_some(Kept { file, hash: record.hash }))
    }

    /// Keeps a file of [`DirectoryOut::earlier`] whose content has been found to have `hash`.
    ///
    /// # Errors
    /// The journal knows no such file: a bug of hoist.
    pub fn keep(&self, name: &str, size_bytes: u64, hash: Hash) -> Result<()> {
        let mut state = self.state();
        let record = Record { size_bytes, hash };
        if state.kept.get(name) != Some(&record) {
            return Err(Error::bug("a file was kept that the journal does not know").file(name));
        }
        state.kept.remove(name);
        state.done.insert(name.to_owned(), record);
        Ok(())
    }

    /// Begins a file by its name relative to OUT, with `/`; folders are made as needed. After [`FileSink::finish`] it is
    /// to be noted with [`DirectoryOut::record`].
    ///
    /// # Errors
    /// A name that leads outside or is hoist's own; as [`FileSink::create`].
    pub fn create(&self, name: &str, size_bytes: u64) -> Result<FileSink> {
        let path = self.path_for(name)?;
        FileSink::create(&path, size_bytes, Existing::Replace)
    }

    /// Writes a small file whole: one sync at the end in place of four now. The next run would make it again.
    ///
    /// # Errors
    /// As [`DirectoryOut::create`].
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path_for(name)?;
        let fail = |e| Error::io("cannot be written", e).file(shown(&path));
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail(e)),
            _ => {}
        }
        let mut file = File::create_new(&path).map_err(fail)?;
        io::Write::write_all(&mut file, bytes).map_err(fail)?;
        let blocks: Vec<u64> = bytes.chunks(hash::BLOCK_BYTES as usize).map(hash::block_hash).collect();
        let mut state = self.state();
        state
            .done
            .insert(name.to_owned(), Record { size_bytes: bytes.len() as u64, hash: hash::combine(&blocks) });
        state.unsynced.insert(name.to_owned());
        Ok(())
    }

    /// Where a file of the output is built, its folders made; whatever was known of it is no longer so.
    fn path_for(&self, name: &str) -> Result<PathBuf> {
        check_relative(name)?;
        let odd = |part: &str| part.is_empty() || part == "." || part == "..";
        if name == FINISHED_NAME || name.split('/').any(odd) {
            return Err(Error::bad_input(format!("the file name `{}` is not for an output", Shown(name))));
        }
        let mut folder = self.tree.clone();
        if let Some((folders, _)) = name.rsplit_once('/') {
            for part in folders.split('/') {
                folder.push(part);
                make_directory(&folder).map_err(|e| e.file(name))?;
            }
        }
        let mut state = self.state();
        state.kept.remove(name);
        state.done.remove(name);
        state.unsynced.remove(name);
        Ok(self.tree.join(name))
    }

    /// A finished file of this output, open for reading.
    ///
    /// # Errors
    /// What opening gives; a file that is not finished (a bug of hoist).
    pub fn open(&self, name: &str) -> Result<File> {
        if !self.state().done.contains_key(name) {
            return Err(Error::bug("a file was asked for that is not finished").file(name));
        }
        File::open(self.tree.join(name)).map_err(|e| Error::io("cannot be read back", e).file(name))
    }

    /// Notes a finished file in the journal. When this comes back, the next run will find it, whatever happens.
    ///
    /// # Errors
    /// What writing gives.
    pub fn record(&self, name: &str, size_bytes: u64, hash: Hash) -> Result<()> {
        let mut state = self.state();
        let record = Record { size_bytes, hash };
        state.journal.add(name, record).map_err(|e| e.file(self.ground.shown.as_str()))?;
        state.done.insert(name.to_owned(), record);
        Ok(())
    }

    /// How many files a next run could keep.
    pub fn finished_count(&self) -> usize {
        let state = self.state();
        state.kept.len() + state.done.len().saturating_sub(state.unsynced.len())
    }

    /// Bytes of an earlier run's files that have not been asked for yet: the disk holds them already.
    pub fn kept_bytes(&self) -> u64 {
        self.state().kept.values().fold(0, |sum, r| sum.saturating_add(r.size_bytes))
    }

    /// Writes `.hoist.json`, brings everything to the disk, and gives the directory its name; what was there is removed
    /// afterwards. Returns what a person should know.
    ///
    /// # Errors
    /// A file that was begun and not recorded (a bug of hoist); something that appeared at OUT meanwhile; what the system
    /// says. The finished files stay for the next run.
    pub fn finish(self) -> Result<Vec<String>> {
        let shown = self.ground.shown.clone();
        self.publish(exchange).map_err(|e| e.file(shown))
    }

    fn publish(self, exchange: Exchange) -> Result<Vec<String>> {
        let DirectoryOut { ground, work, tree, plan_hash, replaces, .. } = &self;
        let place = &ground.place;
        // Whatever this run did not ask for or did not finish is no part of the output.
        let mut done = self.state().done.clone();
        let asked = done.len();
        prune(tree, &mut done)?;
        if done.len() != asked {
            return Err(Error::bad_input("lost files while it was written: something else removed them")
                .hint("the next run makes them again"));
        }
        let json = journal::finished_json(plan_hash, &done);
        write_file(&tree.join(FINISHED_NAME), json.as_bytes(), Existing::Replace)?;
        for name in &self.state().unsynced {
            let sync = || File::open(tree.join(name))?.sync_all();
            sync().map_err(|e| Error::io("cannot be brought to the disk", e).file(name.as_str()))?;
        }
        for folder in journal::folders_of(&done) {
            sync_directory(&tree.join(folder))?;
        }
        sync_directory(tree)?;

        let mut notes = ground.notes.clone();
        let old = work.join(OLD);
        if *replaces {
            // An hour may have passed: look again at what is about to go.
            if let Standing::Other(what) = place::standing(place, true)?
                && !ground.force
            {
                return Err(may_not(&what));
            }
        }
        if *replaces && fs::symlink_metadata(place).is_ok() {
            match exchange(tree, place) {
                Ok(()) => {}
                Err(e) if cannot_exchange(&e) => {
                    replace_in_two_steps(tree, place, &old)?;
                    notes.push(format!(
                        "the file system cannot trade two names ({e}): the old output was moved away before the new one took its name"
                    ));
                }
                Err(e) => return Err(Error::io("cannot be replaced", e)),
            }
        } else {
            rename_new(tree, place)?;
        }
        sync_directory(directory_of(place))?;
        sync_directory(work)?;
        // From here on the output is there, so nothing is an error any more.
        if let Err(e) = fs::remove_dir_all(work) {
            notes.push(format!("{}: is left over and cannot be removed: {e}", shown(work)));
        }
        Ok(notes)
    }

    /// Removes everything that was made, finished files too.
    ///
    /// # Errors
    /// What removing gives.
    pub fn abandon(self) -> Result<()> {
        remove_work(&self.work)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for DirectoryOut {
    fn drop(&mut self) {
        // After `finish` and `abandon` there is nothing left to remove.
        if self.finished_count() == 0 {
            let _ = remove_work(&self.work);
        }
    }
}

/// A hidden neighbour of the output.
fn beside(place: &Path, mark: &str) -> PathBuf {
    directory_of(place).join(hidden_name(place.file_name().unwrap_or_default(), mark))
}

fn make_directory(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Ok(()) => sync_directory(directory_of(path)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() && !path.is_symlink() => Ok(()),
        Err(e) => Err(Error::io("cannot be created", e).file(shown(path))),
    }
}

/// Removes the temporaries that runs of this output left when they were killed; the lock says that they are dead.
fn remove_temporaries(place: &Path) -> Result<()> {
    let name = place.file_name().unwrap_or_default();
    let folder = directory_of(place);
    let fail = |e| Error::io("cannot be listed", e).file(shown(folder));
    for entry in fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if is_temporary_name(&entry.file_name(), name) && entry.file_type().is_ok_and(|t| t.is_file()) {
            let path = entry.path();
            fs::remove_file(&path).map_err(|e| {
                Error::io("is left from a run that was cut off, and cannot be removed", e).file(shown(&path))
            })?;
        }
    }
    Ok(())
}

/// Whether there is a folder of ours; an error if something else has its name.
fn is_work(work: &Path) -> Result<bool> {
    let in_the_way = |what: &str| {
        Error::bad_input(format!("is in the way: hoist builds the output there, and {what}"))
            .file(shown(work))
            .hint("move it away")
    };
    match fs::symlink_metadata(work) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::io("cannot be examined", e).file(shown(work))),
        Ok(found) if !found.is_dir() => return Err(in_the_way("it is not a folder")),
        Ok(_) => {}
    }
    let fail = |e| Error::io("cannot be listed", e).file(shown(work));
    for entry in fs::read_dir(work).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        if ![TREE, JOURNAL, OLD].iter().any(|ours| name == *ours) {
            return Err(in_the_way(&format!("`{}` in it is not hoist's", Shown(&name.to_string_lossy()))));
        }
    }
    Ok(true)
}

fn remove_work(work: &Path) -> Result<()> {
    if !is_work(work)? {
        return Ok(());
    }
    fs::remove_dir_all(work).map_err(|e| Error::io("cannot be removed", e).file(shown(work)))
}

/// Gives the old output its name back, where a run was killed between its two renames.
fn restore_old(work: &Path, place: &Path) -> Result<()> {
    let old = work.join(OLD);
    if fs::symlink_metadata(&old).is_err() || fs::symlink_metadata(place).is_ok() {
        return Ok(());
    }
    rename_new(&old, place)?;
    sync_directory(directory_of(place))
}

/// Removes from the tree what is not in `records`, and from `records` what is not in the tree.
fn prune(tree: &Path, records: &mut Records) -> Result<()> {
    let fail = |e| Error::io("cannot be cleaned of what an earlier run left", e).file(shown(tree));
    place::strangers(tree, records, &mut |_, stranger| match stranger.is_directory {
        true => fs::remove_dir_all(&stranger.path),
        false => fs::remove_file(&stranger.path),
    })
    .map_err(fail)?;
    records.retain(|name, _| fs::symlink_metadata(tree.join(name)).is_ok());
    Ok(())
}

/// Trades two names in one step.
type Exchange = fn(&Path, &Path) -> io::Result<()>;

fn exchange(new: &Path, old: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags};
        rustix::fs::renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE).map_err(Into::into)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (new, old);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// NFS, 9p, many FUSE and old kernels know no flags of renameat2(2).
fn cannot_exchange(e: &io::Error) -> bool {
    #[cfg(target_os = "linux")]
    {
        use rustix::io::Errno;
        let unknown = [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP].map(|e| Some(e.raw_os_error()));
        unknown.contains(&e.raw_os_error())
    }
    #[cfg(not(target_os = "linux"))]
    {
        e.kind() == io::ErrorKind::Unsupported
    }
}

/// The two renames in place of one. A run killed between them leaves the old output whole as `old`, and the next run gives
/// it its name back first of all.
fn replace_in_two_steps(tree: &Path, place: &Path, old: &Path) -> Result<()> {
    let fail = |e| Error::io("cannot be replaced", e);
    fs::rename(place, old).map_err(fail)?;
    fs::rename(tree, place).map_err(|e| match fs::rename(old, place) {
        Ok(()) => fail(e),
        Err(again) => {
            fail(e).detail(format!("the old output is in {}, and stays there: {again}", shown(old)))
        }
    })
}

/// Renames to a name that nothing has.
fn rename_new(from: &Path, to: &Path) -> Result<()> {
    let appeared = || {
        Error::bad_input("appeared while the output was written")
            .hint("move it away and run again, or add --force: what is finished is kept")
    };
    let done = |e: io::Error| match e.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory => {
            appeared()
        }
        _ => Error::io("cannot be given its name", e),
    };
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags};
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(()),
            Err(e) if cannot_exchange(&e.into()) => {}
            Err(e) => return Err(done(e.into())),
        }
    }
    if fs::symlink_metadata(to).is_ok() {
        return Err(appeared());
    }
    fs::rename(from, to).map_err(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_exchange(_: &Path, _: &Path) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::EINVAL))
    }

    fn begun(target: &Path, plan: &str) -> DirectoryOut {
        let identity = Identity { plan_hash: plan.into(), sources: vec![] };
        let b = Begin { target, force: false, inputs: &[], identity: &identity, directory: true };
        match begin(&b).unwrap() {
            Out::Directory(out) => out,
            Out::File(_) => unreachable!(),
        }
    }

    fn filled(target: &Path, plan: &str) -> DirectoryOut {
        let out = begun(target, plan);
        let sink = out.create("a", plan.len() as u64).unwrap();
        sink.write_all_at(plan.as_bytes(), 0).unwrap();
        sink.finish().unwrap();
        out.record("a", plan.len() as u64, hash::combine(&[hash::block_hash(plan.as_bytes())])).unwrap();
        out
    }

    #[test]
    fn where_names_cannot_be_traded_two_renames_do() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("out");
        assert_eq!(filled(&target, "one").publish(no_exchange).unwrap(), [""; 0]);
        let notes = filled(&target, "two").publish(no_exchange).unwrap();
        assert!(notes.len() == 1 && notes[0].contains("cannot trade two names"), "{notes:?}");
        assert_eq!(fs::read(target.join("a")).unwrap(), b"two");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_run_killed_between_the_two_renames_is_put_right_by_the_next() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("out");
        filled(&target, "one").finish().unwrap();
        let out = filled(&target, "two");
        fs::rename(&target, out.work.join(OLD)).unwrap();
        drop(out);
        assert!(!target.exists());
        // Begun and left again: the old one is back, the new one's file is kept.
        let out = begun(&target, "two");
        assert_eq!(fs::read(target.join("a")).unwrap(), b"one");
        assert!(out.finished("a", 3).unwrap());
        out.finish().unwrap();
        assert_eq!(fs::read(target.join("a")).unwrap(), b"two");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_second_rename_gives_the_old_one_its_name_back() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("out");
        fs::create_dir(&target).unwrap();
        let error =
            replace_in_two_steps(&place.path().join("no"), &target, &place.path().join("old")).unwrap_err();
        assert!(error.to_string().starts_with("cannot be replaced"), "{error}");
        assert!(target.is_dir());
    }
}
