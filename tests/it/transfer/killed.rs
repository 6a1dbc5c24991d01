//! A process that transfers is killed, again and again: what had come is not asked for twice, and the end is whole.

use super::source::{Fault, Source};
use super::{MIB, content, item, map_of, next, sha256};
use hoist::Error;
use hoist::fetch::transfer::{CONNECTIONS_MAX, Item, Options, transfer};
use hoist::run::job::Job;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const CHILD: &str = "HOIST_TEST_TRANSFER_CHILD";
const SIZES: [u64; 4] = [30 * MIB + 11, 9 * MIB, 700_000, 100_000];

/// What the killed one does: fetches the files of [`SIZES`] into a folder, and counts in a file there what it was given.
#[test]
#[ignore = "started by the test below"]
fn child() {
    let Some(place) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let counter = fs::OpenOptions::new().write(true).read(true).open(place.join("given")).unwrap();
    let mut before = [0; 8];
    counter.read_exact_at(&mut before, 0).unwrap();
    let given = Arc::new(AtomicU64::new(u64::from_le_bytes(before)));
    let items: Vec<Item> = (0..SIZES.len())
        .filter(|n| !place.join(format!("{n}.done")).exists())
        .map(|n| {
            let mut source = Source::new(content(SIZES[n], n as u64), |_| Fault {
                pause: Duration::from_micros(200),
                ..Fault::default()
            });
            source.given = Arc::clone(&given);
            let expected = Some(sha256(&source.bytes));
            item(&Arc::new(source), place.join(format!("{n}")), expected)
        })
        .collect();
    let watch = Arc::clone(&given);
    let ended = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&ended);
    let writer = std::thread::spawn(move || {
        while !end.load(Ordering::Relaxed) {
            counter.write_all_at(&watch.load(Ordering::Relaxed).to_le_bytes(), 0).unwrap();
        }
        counter.write_all_at(&watch.load(Ordering::Relaxed).to_le_bytes(), 0).unwrap();
    });
    let options = Options { connections_max: CONNECTIONS_MAX, ..Options::default() };
    let job = Job::start("test", false, move |control| {
        transfer(&items, &options, control, &|n, _| {
            let to = &items[n].to;
            fs::rename(to, to.with_extension("done")).map_err(|e| Error::io("cannot be renamed", e))
        })
    });
    job.wait().unwrap();
    ended.store(true, Ordering::Relaxed);
    writer.join().unwrap();
}

#[test]
fn killed_at_random_moments() {
    let total: u64 = SIZES.iter().sum();
    let contents: Vec<_> = (0..SIZES.len()).map(|n| content(SIZES[n], n as u64)).collect();
    let name = format!("{}::child", module_path!().split_once("::").unwrap().1);
    let start = |place: &Path| {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &name, "--ignored", "--nocapture"])
            .env(CHILD, place)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let (mut killed, mut state, mut most) = (0, 17, 0);
    for round in 0..12 {
        let place = tempfile::tempdir().unwrap();
        let given = || {
            let bytes = fs::read(place.path().join("given")).unwrap();
            u64::from_le_bytes(bytes.try_into().unwrap())
        };
        fs::write(place.path().join("given"), [0; 8]).unwrap();
        let mut kills = 0;
        while kills < 2 {
            // By what has come and not by the clock, so that a busy machine is killed at the same moments.
            let moment = given() + next(&mut state) % (total / 2);
            let mut child = start(place.path());
            while given() < moment && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_micros(300));
            }
            let _ = child.kill();
            if child.wait().unwrap().success() {
                break;
            }
            kills += 1;
        }
        let last = start(place.path()).wait().unwrap();
        assert!(last.success(), "round {round}");
        for (n, bytes) in contents.iter().enumerate() {
            assert!(fs::read(place.path().join(format!("{n}.done"))).unwrap() == **bytes, "round {round}");
            assert!(!map_of(&place.path().join(format!("{n}"))).exists(), "round {round}: a map is left");
        }
        let twice = given().saturating_sub(total);
        killed += kills;
        most = most.max(twice / kills.max(1));
        assert!(
            twice <= kills * 8 * MIB + MIB,
            "round {round}: {twice} bytes came twice after {kills} kills"
        );
    }
    assert!(killed >= 10, "only {killed} were killed");
    eprintln!("{killed} killed, at most {most} bytes came twice for each");
}
