//! Files that come in ranges: every byte right or no file, taken up again after any end, whatever the source does.

mod http;
mod killed;
mod source;

use hoist::fetch::transfer::{CONNECTIONS_MAX, Digest, Item, Options, Totals, transfer};
use hoist::run::job::{Event, Job};
use hoist::source::ranged::{Body, Policy, Ranged, Stop};
use hoist::{Error, ErrorKind, Result};
use sha2::Digest as _;
use source::{Fault, Script, Source};
use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const UNIT: u64 = 256 << 10;
const MIB: u64 = 1 << 20;

/// Numbers, the same in each run of a test.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 16
}

fn content(size: u64, seed: u64) -> Arc<[u8]> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(size as usize + 8);
    while (bytes.len() as u64) < size {
        bytes.extend_from_slice(&next(&mut state).to_le_bytes()[..6]);
    }
    bytes.truncate(size as usize);
    bytes.into()
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest::Sha256(sha2::Sha256::digest(bytes).into())
}

fn git_sha1(bytes: &[u8]) -> Digest {
    let mut hash = sha1::Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    Digest::GitSha1(hash.finalize().into())
}

/// Retries at once, nearly.
fn quick() -> Options {
    let pause = Duration::from_millis(2);
    Options {
        policy: Policy { pause, pause_max: Duration::from_millis(20), ..Policy::default() },
        ..Options::default()
    }
}

fn item(source: &Arc<Source>, to: PathBuf, expected: Option<Digest>) -> Item {
    Item { from: Arc::clone(source) as Arc<dyn Ranged>, to, size_bytes: source.size_bytes(), expected }
}

/// Runs a transfer; what was done, in order, and the last progress that was told.
fn run(items: Vec<Item>, options: Options) -> (Result<Totals>, Vec<(usize, Digest)>) {
    let finished: Arc<Mutex<Vec<(usize, Digest)>>> = Arc::default();
    let log = Arc::clone(&finished);
    let total: u64 = items.iter().map(|item| item.size_bytes).sum();
    let job = Job::start("test", true, move |control| {
        control.plan("test".into(), total);
        transfer(&items, &options, control, &|index, digest| {
            log.lock().unwrap().push((index, digest));
            Ok(())
        })
    });
    let mut told = 0;
    let mut files = 0;
    for event in job.events() {
        match event {
            Event::Moved { bytes, total_bytes, .. } => {
                assert!(bytes <= total_bytes, "{bytes} of {total_bytes} bytes");
                told = told.max(bytes);
            }
            Event::File { bytes, total_bytes, .. } => {
                assert!(bytes <= total_bytes, "{bytes} of {total_bytes} bytes of a file");
                files += usize::from(bytes == total_bytes);
            }
            _ => {}
        }
    }
    let result = job.wait();
    let finished = finished.lock().unwrap().clone();
    let indices: BTreeSet<usize> = finished.iter().map(|(index, _)| *index).collect();
    assert_eq!(indices.len(), finished.len(), "something was done twice");
    assert!(files >= finished.len(), "{files} of {} files were told", finished.len());
    assert!(told <= total);
    (result, finished)
}

fn map_of(partial: &Path) -> PathBuf {
    PathBuf::from(format!("{}.map", partial.display()))
}

/// Nothing came twice, but for what was on its way when a segment was split.
fn check_sum(totals: &Totals) {
    let sum = totals.resumed_bytes + totals.received_bytes;
    assert!(sum >= totals.size_bytes && sum <= totals.size_bytes + MIB, "{totals:?}");
}

/// The file at `to` is whole and its map is gone.
fn check_whole(to: &Path, bytes: &[u8]) {
    assert!(fs::read(to).unwrap() == bytes, "{}: other bytes", to.display());
    assert!(!map_of(to).exists(), "{}: its map is left", to.display());
}

/// Fetches one file with a good source and looks at it.
fn check_fetch(source: Source, to: &Path, expected: Option<Digest>) -> Totals {
    let source = Arc::new(source);
    let (result, finished) = run(vec![item(&source, to.to_owned(), expected)], quick());
    let totals = result.unwrap();
    check_whole(to, &source.bytes);
    assert_eq!(finished, [(0, expected.unwrap_or_else(|| sha256(&source.bytes)))]);
    totals
}

#[test]
fn every_size_and_digest() {
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("file");
    for size in [0, 1, UNIT - 1, UNIT, UNIT + 1, 5 * UNIT, 9 * MIB + 17] {
        let bytes = content(size, size);
        for expected in [None, Some(sha256(&bytes)), Some(git_sha1(&bytes))] {
            let totals = check_fetch(Source::good(Arc::clone(&bytes)), &to, expected);
            assert_eq!((totals.file_count, totals.size_bytes, totals.received_bytes), (1, size, size));
        }
    }
    // Pieces of a byte, of a unit, of more than a segment.
    let bytes = content(3 * UNIT + 5, 1);
    for piece in [1, UNIT as usize, UNIT as usize + 1, 64 << 20] {
        let source = Source { piece, ..Source::good(Arc::clone(&bytes)) };
        check_fetch(source, &to, Some(sha256(&bytes)));
    }
}

#[test]
fn thousands_of_files() {
    let place = tempfile::tempdir().unwrap();
    let sources: Vec<Arc<Source>> =
        (0..3000).map(|n| Arc::new(Source::good(content(n % 700 * (n % 3), n)))).collect();
    let path = |n: usize| place.path().join(format!("{n}"));
    let items = (0..sources.len()).map(|n| item(&sources[n], path(n), Some(git_sha1(&sources[n].bytes))));
    let (result, finished) = run(items.collect(), quick());
    result.unwrap();
    assert_eq!(finished.len(), sources.len());
    for (n, source) in sources.iter().enumerate() {
        check_whole(&path(n), &source.bytes);
        assert_eq!(source.asked().len(), usize::from(!source.bytes.is_empty()), "one request each");
    }
}

/// An error that is final ends the run at many points; the next takes it up, and little comes twice.
#[test]
fn taken_up_again_at_many_points() {
    let bytes = content(40 * MIB + 1234, 7);
    let expected = Some(sha256(&bytes));
    let (mut state, mut twice_most) = (3, 0);
    'rounds: for round in 0..12 {
        let place = tempfile::tempdir().unwrap();
        let to = place.path().join("file");
        let mut given = 0;
        let mut runs = 0;
        while runs < 3 {
            let end = next(&mut state) % (bytes.len() as u64).saturating_sub(given).max(1);
            let source = Arc::new(Source::new(Arc::clone(&bytes), move |_| Fault {
                end: Some((end, ErrorKind::NotFound)),
                pause: Duration::from_micros(if round % 3 == 0 { 100 } else { 0 }),
                ..Fault::default()
            }));
            let (result, finished) = run(vec![item(&source, to.clone(), expected)], quick());
            given += source.given();
            match result {
                Err(error) => assert_eq!((error.kind(), finished.len()), (ErrorKind::NotFound, 0)),
                // It was done before the error came.
                Ok(_) => continue 'rounds,
            }
            runs += 1;
        }
        let source = Source::good(Arc::clone(&bytes));
        let totals = check_fetch(source, &to, expected);
        let twice = (given + totals.received_bytes).saturating_sub(bytes.len() as u64);
        twice_most = twice_most.max(twice / (runs + 1));
        assert!(twice <= runs * 8 * MIB + MIB, "round {round}: {twice} bytes came twice in {runs} runs");
        check_sum(&totals);
    }
    eprintln!("at most {twice_most} bytes came twice");
}

#[test]
fn a_stop_is_heard_within_a_second() {
    let bytes = content(20 * MIB, 9);
    for (name, fault) in [
        ("slow", Fault { pause: Duration::from_millis(20), ..Fault::default() }),
        ("silent", Fault { silent: Some(MIB), ..Fault::default() }),
        ("failing", Fault { error: Some((0, ErrorKind::Io, None)), ..Fault::default() }),
        (
            "rate limited",
            Fault {
                error: Some((0, ErrorKind::RateLimited, Some(Duration::from_secs(60)))),
                ..Fault::default()
            },
        ),
    ] {
        let place = tempfile::tempdir().unwrap();
        let to = place.path().join("file");
        let source = Arc::new(Source::new(Arc::clone(&bytes), move |_| fault.clone()));
        let items = vec![item(&source, to.clone(), Some(sha256(&bytes)))];
        let options = Options {
            policy: Policy { failures_max: 1000, pause: Duration::from_secs(30), ..Policy::default() },
            ..Options::default()
        };
        let job = Job::start("test", false, move |control| {
            transfer(&items, &options, control, &|_, _| panic!("it was done"))
        });
        std::thread::sleep(Duration::from_millis(300));
        let asked = Instant::now();
        job.cancel();
        let error = job.wait().unwrap_err();
        assert!(asked.elapsed() < Duration::from_secs(1), "{name}: {:?}", asked.elapsed());
        assert_eq!(error.kind(), ErrorKind::Signal(2), "{name}: {error}");
        let given = source.given();
        let totals = check_fetch(Source::good(Arc::clone(&bytes)), &to, Some(sha256(&bytes)));
        assert!(given + totals.received_bytes <= bytes.len() as u64 + 8 * MIB, "{name}");
    }
}

/// Faults that pass: everything comes in the end, and no more of it than was lost.
#[test]
fn faults_that_pass() {
    let bytes = content(24 * MIB + 99, 21);
    let wish = Duration::from_millis(30);
    let scripts: Vec<(&str, Script)> = vec![
        (
            "every other request fails",
            Box::new(|asked| Fault {
                error: (asked.index % 2 == 0).then_some((0, ErrorKind::Io, None)),
                ..Fault::default()
            }),
        ),
        (
            "each breaks behind 700 kB",
            Box::new(|_| Fault { error: Some((700_000, ErrorKind::Io, None)), ..Fault::default() }),
        ),
        ("each ends early", Box::new(|_| Fault { short: Some(1_000_000), ..Fault::default() })),
        (
            "rate limited at first",
            Box::new(move |asked| Fault {
                error: (asked.index < 3).then_some((0, ErrorKind::RateLimited, Some(wish))),
                ..Fault::default()
            }),
        ),
        (
            "one of the connections hears nothing",
            Box::new(|asked| Fault { silent: (asked.index == 0).then_some(100_000), ..Fault::default() }),
        ),
    ];
    for (name, script) in scripts {
        let place = tempfile::tempdir().unwrap();
        let to = place.path().join("file");
        let totals = check_fetch(Source::new(Arc::clone(&bytes), script), &to, Some(sha256(&bytes)));
        let most = bytes.len() as u64 + 8 * MIB;
        assert!(totals.received_bytes <= most, "{name}: {} bytes came", totals.received_bytes);
    }
}

/// A server that takes four connections and refuses the fifth.
#[test]
fn connections_that_are_refused_are_given_up() {
    let place = tempfile::tempdir().unwrap();
    let bytes = content(60 * MIB, 4);
    let open: Arc<AtomicUsize> = Arc::default();
    let counted = Arc::clone(&open);
    let mut source = Source::new(Arc::clone(&bytes), move |_| Fault {
        error: (counted.load(Ordering::Relaxed) >= 3).then_some((0, ErrorKind::Io, None)),
        pause: Duration::from_millis(2),
        ..Fault::default()
    });
    source.open = open;
    let totals = check_fetch(source, &place.path().join("file"), Some(sha256(&bytes)));
    check_sum(&totals);
}

/// A server that ignores ranges: the file comes as a whole, again from its beginning where that breaks.
#[test]
fn a_server_that_ignores_ranges() {
    let bytes = content(30 * MIB + 5, 14);
    for breaks in [0, 1, 3] {
        let place = tempfile::tempdir().unwrap();
        let to = place.path().join("file");
        let broken = AtomicUsize::new(0);
        let mut source = Source::new(Arc::clone(&bytes), move |asked| {
            let is_long = asked.range.end - asked.range.start > 20 * MIB;
            let breaks = is_long && broken.fetch_add(1, Ordering::Relaxed) < breaks;
            Fault {
                error: breaks.then_some((12 * MIB, ErrorKind::Io, None)),
                pause: Duration::from_micros(300),
                ..Fault::default()
            }
        });
        source.ignores_ranges = true;
        check_fetch(source, &to, Some(sha256(&bytes)));
        // Taken up by a server that ignores them.
        fs::remove_file(&to).unwrap();
        leave_partial(&bytes, &to, 0.8, Some(sha256(&bytes)), None);
        let source = Source { ignores_ranges: true, ..Source::good(Arc::clone(&bytes)) };
        assert!(check_fetch(source, &to, Some(sha256(&bytes))).resumed_bytes > 0);
    }
}

/// Errors that do not pass, each with its kind, in bounded time; another file of the same run keeps what it has.
#[test]
fn faults_that_stay() {
    let bytes = content(3 * MIB, 2);
    let always = |kind, wish| Fault { error: Some((0, kind, wish)), ..Fault::default() };
    let minute = Some(Duration::from_secs(200));
    let rows = [
        (always(ErrorKind::Io, None), ErrorKind::Io),
        (always(ErrorKind::NotFound, None), ErrorKind::NotFound),
        (always(ErrorKind::NotAllowed, None), ErrorKind::NotAllowed),
        (always(ErrorKind::RateLimited, None), ErrorKind::RateLimited),
        (always(ErrorKind::Integrity, None), ErrorKind::Integrity),
        (Fault { short: Some(0), ..Fault::default() }, ErrorKind::Io),
        // One byte with each connection: progress, and all the same it ends.
        (Fault { error: Some((1, ErrorKind::Io, None)), ..Fault::default() }, ErrorKind::Io),
        (always(ErrorKind::RateLimited, minute), ErrorKind::RateLimited),
    ];
    for (fault, kind) in rows {
        let place = tempfile::tempdir().unwrap();
        let good = Arc::new(Source::good(content(9 * MIB, 5)));
        let shown = format!("{fault:?}");
        let bad = Arc::new(Source::new(Arc::clone(&bytes), move |_| fault.clone()));
        let items = vec![
            item(&good, place.path().join("good"), Some(sha256(&good.bytes))),
            item(&bad, place.path().join("bad"), Some(sha256(&bytes))),
        ];
        let mut options = quick();
        options.policy.pause = Duration::from_micros(100);
        options.policy.granted_max = Duration::from_secs(100);
        let (result, finished) = run(items, options);
        let error = result.unwrap_err();
        assert_eq!(error.kind(), kind, "{shown}: {error}");
        assert_eq!(error.file_name(), Some("model.safetensors"), "{shown}: {error}");
        assert!(finished.iter().all(|(index, _)| *index == 0), "{shown}: the bad one was done");
    }
}

/// A wish beyond what is granted ends the run, though others had progress when it was heard; nobody waits for it.
#[test]
fn wishes_beyond_all_patience() {
    let wish = Duration::from_secs(20);
    let pause = Duration::from_millis(1);
    let error = Some((0, ErrorKind::RateLimited, Some(wish)));
    for round in 0..5 {
        let place = tempfile::tempdir().unwrap();
        let good = |n: u64| Source::new(content(4 * MIB, n), move |_| Fault { pause, ..Fault::default() });
        // The smallest is asked for last: the connections of the others are at work.
        let bad = Source::new(content(MIB, 6), move |_| Fault { error, ..Fault::default() });
        let sources = (0..3).map(good).chain([bad]).enumerate();
        let items =
            sources.map(|(n, source)| item(&Arc::new(source), place.path().join(n.to_string()), None));
        let mut options = quick();
        options.policy.granted_max = wish / 2;
        let started = Instant::now();
        let (result, _) = run(items.collect(), options);
        assert_eq!(result.unwrap_err().kind(), ErrorKind::RateLimited);
        assert!(started.elapsed() < wish, "round {round}: {:?}", started.elapsed());
    }
}

/// Wrong bytes once are fetched again; wrong bytes always are an error, and nothing of them is left.
#[test]
fn wrong_bytes() {
    let bytes = content(5 * MIB + 3, 33);
    for at in [0, UNIT, 3 * MIB, 5 * MIB + 2] {
        for expected in [sha256(&bytes), git_sha1(&bytes)] {
            let place = tempfile::tempdir().unwrap();
            let to = place.path().join("file");
            let once = AtomicBool::new(true);
            let source = Source::new(Arc::clone(&bytes), move |asked| Fault {
                flip: (asked.range.contains(&at) && once.swap(false, Ordering::Relaxed)).then_some(at),
                ..Fault::default()
            });
            let totals = check_fetch(source, &to, Some(expected));
            assert_eq!(totals.received_bytes, 2 * bytes.len() as u64);
            fs::remove_file(&to).unwrap();

            let flip = Fault { flip: Some(at), ..Fault::default() };
            let source = Arc::new(Source::new(Arc::clone(&bytes), move |_| flip.clone()));
            let (result, finished) = run(vec![item(&source, to.clone(), Some(expected))], quick());
            let error = result.unwrap_err();
            let text = error.to_string();
            assert_eq!((error.kind(), finished.len()), (ErrorKind::Integrity, 0), "{text}");
            assert!(text.contains(&expected.to_string()) && text.contains("model.safetensors"), "{text}");
            assert!(!to.exists() && !map_of(&to).exists(), "something is left");
        }
    }
    // An empty file has one right hash. Whoever waits meanwhile never speaks first, however the threads are scheduled.
    let place = tempfile::tempdir().unwrap();
    let source = Arc::new(Source::good(content(0, 0)));
    for _ in 0..300 {
        let options = Options { connections_max: CONNECTIONS_MAX, ..quick() };
        let (result, _) = run(vec![item(&source, place.path().join("file"), Some(sha256(b"x")))], options);
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
    }
}

/// Leaves a partial file of `bytes` of which about `part` has come.
fn leave_partial(bytes: &Arc<[u8]>, to: &Path, part: f64, expected: Option<Digest>, version: Option<&str>) {
    let end = (bytes.len() as f64 * part) as u64;
    let source = Arc::new(Source {
        version: version.map(str::to_owned),
        ..Source::new(Arc::clone(bytes), move |_| Fault {
            end: Some((end, ErrorKind::NotFound)),
            pause: Duration::from_micros(50),
            ..Fault::default()
        })
    });
    let (result, _) = run(vec![item(&source, to.to_owned(), expected)], quick());
    assert_eq!(result.unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn what_is_taken_up_is_of_the_same_content() {
    let bytes = content(6 * MIB, 41);
    let other = content(6 * MIB, 42);
    let sha = |bytes: &[u8]| Some(sha256(bytes));
    let rows = [
        ("the same hash", sha(&bytes), None, &bytes, sha(&bytes), None, true),
        ("another hash", sha(&other), None, &other, sha(&bytes), None, false),
        ("the same version", None, Some("a"), &bytes, None, Some("a"), true),
        ("another version", None, Some("b"), &other, None, Some("a"), false),
        ("no version", None, None, &other, None, None, false),
        ("a hash where there was none", sha(&other), None, &other, None, Some("a"), false),
    ];
    for (name, expected, version, now, expected_before, version_before, is_taken_up) in rows {
        let place = tempfile::tempdir().unwrap();
        let to = place.path().join("file");
        leave_partial(&bytes, &to, 0.6, expected_before, version_before);
        let source = Source { version: version.map(str::to_owned), ..Source::good(Arc::clone(now)) };
        let totals = check_fetch(source, &to, expected);
        assert_eq!(totals.resumed_bytes > 0, is_taken_up, "{name}");
    }
}

/// A map or a partial file that was damaged between two runs never makes wrong bytes.
#[test]
fn damage_between_two_runs() {
    let bytes = content(8 * MIB + 77, 51);
    type Damage = fn(&Path, u64);
    let rows: &[(&str, bool, Damage)] = &[
        ("nothing", true, |_, _| {}),
        ("no map", false, |to, _| fs::remove_file(map_of(to)).unwrap()),
        ("an empty map", false, |to, _| fs::write(map_of(to), "").unwrap()),
        ("a map that is cut short", false, |to, _| edit(&map_of(to), |map| map.truncate(map.len() - 1))),
        ("a map that is too long", false, |to, _| edit(&map_of(to), |map| map.push(1))),
        ("another magic", false, |to, _| edit(&map_of(to), |map| map[0] ^= 1)),
        ("another size in the head", false, |to, _| edit(&map_of(to), |map| map[17] ^= 1)),
        ("another key in the head", false, |to, _| edit(&map_of(to), |map| map[30] ^= 1)),
        ("all claims set", true, |to, _| edit(&map_of(to), |map| map[64..].fill(7))),
        ("a claim changed", true, |to, n| {
            edit(&map_of(to), |map| {
                let units = (map.len() as u64 - 64) / 8;
                map[(64 + n % units * 8) as usize] ^= 0x55;
            });
        }),
        ("a byte of the file changed", true, |to, n| {
            edit(to, |file| {
                let at = n as usize % file.len();
                file[at] ^= 1;
            });
        }),
        ("zeros, as after a power loss", true, |to, _| {
            edit(to, |file| {
                let half = file.len() / 2;
                file[..half].fill(0);
            });
        }),
        ("a file that is cut short", false, |to, _| edit(to, |file| file.truncate(MIB as usize))),
        ("a file that is too long", false, |to, _| edit(to, |file| file.push(0))),
        ("no file", false, |to, _| fs::remove_file(to).unwrap()),
        ("a link in place of the file", false, |to, _| {
            fs::rename(to, to.with_extension("other")).unwrap();
            std::os::unix::fs::symlink(to.with_extension("other"), to).unwrap();
        }),
        ("a link in place of the map", false, |to, _| {
            fs::rename(map_of(to), to.with_extension("other")).unwrap();
            std::os::unix::fs::symlink(to.with_extension("other"), map_of(to)).unwrap();
        }),
    ];
    let mut state = 8;
    for (name, is_taken_up, damage) in rows {
        for (expected, version) in [(Some(sha256(&bytes)), None), (None, Some("v"))] {
            let place = tempfile::tempdir().unwrap();
            let to = place.path().join("file");
            leave_partial(&bytes, &to, 0.7, expected, version);
            damage(&to, next(&mut state));
            let source = Source { version: version.map(str::to_owned), ..Source::good(Arc::clone(&bytes)) };
            let totals = check_fetch(source, &to, expected);
            assert_eq!(totals.resumed_bytes > 0, *is_taken_up, "{name}");
            if *name == "nothing" {
                check_sum(&totals);
            }
            let metadata = fs::symlink_metadata(&to).unwrap();
            assert!(metadata.is_file(), "{name}: a link was followed");
        }
    }
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// The slowest segment is split, so that its end does not wait for one slow connection.
#[test]
fn a_straggler_is_split() {
    let place = tempfile::tempdir().unwrap();
    let bytes = content(24 * MIB, 61);
    // The first request is slow for as long as it lives: 20 s for its 8 MiB.
    let source = Arc::new(Source::new(Arc::clone(&bytes), |asked| Fault {
        pause: Duration::from_millis(if asked.range.start == 0 { 170 } else { 0 }),
        ..Fault::default()
    }));
    let started = Instant::now();
    let to = place.path().join("file");
    let (result, _) = run(vec![item(&source, to.clone(), Some(sha256(&bytes)))], quick());
    result.unwrap();
    check_whole(&to, &bytes);
    let first = source.asked()[0].range.end;
    let inside = source.asked().iter().filter(|asked| (1..first).contains(&asked.range.start)).count();
    assert!(inside > 0, "nothing was split: {:?}", source.asked());
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
}

/// Segments are given out from the front, so that the hash follows closely; and a file alone uses several connections.
#[test]
fn segments_come_from_the_front() {
    let place = tempfile::tempdir().unwrap();
    let bytes = content(100 * MIB, 71);
    let source = Arc::new(Source::new(Arc::clone(&bytes), |_| Fault {
        pause: Duration::from_millis(1),
        ..Fault::default()
    }));
    let to = place.path().join("file");
    let (result, _) = run(vec![item(&source, to.clone(), Some(sha256(&bytes)))], quick());
    result.unwrap();
    check_whole(&to, &bytes);
    let most = source.open_most.load(Ordering::Relaxed);
    assert!((4..=16).contains(&most), "{most} connections");
    for asked in source.asked() {
        let ahead = asked.range.start.saturating_sub(asked.given);
        assert!(ahead <= 16 * 64 * MIB, "{asked:?} is far ahead");
    }
    let first: Vec<u64> = source.asked().iter().take(4).map(|asked| asked.range.start / MIB).collect();
    assert_eq!(first.iter().collect::<BTreeSet<_>>(), [0, 8, 16, 24].iter().collect());
}

#[test]
fn a_limit_holds() {
    let place = tempfile::tempdir().unwrap();
    let bytes = content(2 * MIB, 81);
    let source = Arc::new(Source::good(Arc::clone(&bytes)));
    let options = Options { limit_bytes_per_second: Some(2 * MIB), ..quick() };
    let to = place.path().join("file");
    let started = Instant::now();
    let (result, _) = run(vec![item(&source, to.clone(), Some(sha256(&bytes)))], options.clone());
    result.unwrap();
    check_whole(&to, &bytes);
    assert!(started.elapsed() >= Duration::from_millis(850), "{:?}", started.elapsed());
    let none = Options { limit_bytes_per_second: Some(0), ..options };
    let (result, _) = run(vec![item(&source, place.path().join("other"), None)], none);
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Usage);
}

#[test]
fn what_cannot_be_is_said_first() {
    let place = tempfile::tempdir().unwrap();
    #[derive(Debug)]
    struct Huge;
    impl Ranged for Huge {
        fn name(&self) -> &str {
            "huge.safetensors"
        }
        fn size_bytes(&self) -> u64 {
            u64::MAX
        }
        fn open(&self, _: Range<u64>, _: Stop<'_>) -> Result<Box<dyn Body>> {
            panic!("it was asked")
        }
    }
    let huge = |name: &str| Item {
        from: Arc::new(Huge),
        to: place.path().join(name),
        size_bytes: u64::MAX,
        expected: None,
    };
    for items in [vec![huge("a")], vec![huge("a"), huge("b")]] {
        let error = run_plain(items).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(error.to_string().contains("free, this needs"), "{error}");
    }
    let source = Arc::new(Source::good(content(10, 0)));
    let to = place.path().join("missing/file");
    assert_eq!(run_plain(vec![item(&source, to, None)]).unwrap_err().kind(), ErrorKind::NotFound);
    let twice = || item(&source, place.path().join("a"), None);
    assert!(run_plain(vec![twice(), twice()]).is_err());
    assert_eq!(run_plain(Vec::new()).unwrap().file_count, 0);
}

fn run_plain(items: Vec<Item>) -> Result<Totals> {
    Job::start("test", false, move |control| transfer(&items, &Options::default(), control, &|_, _| Ok(())))
        .wait()
}

/// An error of `done` ends the run; the file stays for the next one, whole.
#[test]
fn done_may_fail() {
    let place = tempfile::tempdir().unwrap();
    let bytes = content(4 * MIB, 91);
    let to = place.path().join("file");
    let source = Arc::new(Source::good(Arc::clone(&bytes)));
    let items = vec![item(&source, to.clone(), Some(sha256(&bytes)))];
    let job = Job::start("test", false, move |control| {
        transfer(&items, &Options::default(), control, &|_, _| Err(Error::bad_input("no")))
    });
    assert_eq!(job.wait().unwrap_err().kind(), ErrorKind::BadInput);
    let again = Source::good(Arc::clone(&bytes));
    assert_eq!(check_fetch(again, &to, Some(sha256(&bytes))).received_bytes, 0);
}
