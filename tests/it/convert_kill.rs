//! A conversion that is killed, stopped or betrayed at any moment: the old output or the new one, whole, and a rerun that
//! ends where an undisturbed run does.

use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Files below a path by name, or the path itself if it is a file.
fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    fn inside(at: &Path, name: &str, found: &mut BTreeMap<String, Vec<u8>>) {
        if !at.is_dir() {
            found.extend(fs::read(at).ok().map(|bytes| (name.to_string(), bytes)));
            return;
        }
        for entry in fs::read_dir(at).unwrap().map(Result::unwrap) {
            inside(&entry.path(), &format!("{name}/{}", entry.file_name().to_string_lossy()), found);
        }
    }
    let mut found = BTreeMap::new();
    inside(root, "", &mut found);
    found
}

fn remove(path: &Path) {
    match path.is_dir() {
        true => fs::remove_dir_all(path).unwrap(),
        false => drop(fs::remove_file(path)),
    }
}

fn restore(path: &Path, to: &BTreeMap<String, Vec<u8>>) {
    remove(path);
    for (name, bytes) in to {
        let file = PathBuf::from(format!("{}{name}", path.display()));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }
}

/// Says two trees apart without printing megabytes.
fn differs(a: &BTreeMap<String, Vec<u8>>, b: &BTreeMap<String, Vec<u8>>) -> Option<String> {
    let names = |t: &BTreeMap<String, Vec<u8>>| t.keys().cloned().collect::<Vec<_>>();
    if names(a) != names(b) {
        return Some(format!("{:?} and {:?}", names(a), names(b)));
    }
    a.iter().find(|(name, bytes)| b[*name] != **bytes).map(|(name, _)| name.clone())
}

fn hoist(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hoist"));
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// A place with a model in it and an old output at `out`, and the conversion that is to replace it.
struct Case {
    place: tempfile::TempDir,
    out: PathBuf,
    arguments: Vec<String>,
    old: BTreeMap<String, Vec<u8>>,
    new: BTreeMap<String, Vec<u8>>,
    /// How long an undisturbed run takes.
    whole: Duration,
}

impl Case {
    /// A conversion to `name` with `options`, whose old output is of `old_options`.
    fn new(name: &str, old_options: &[&str], options: &[&str]) -> Case {
        let place = tempfile::tempdir().unwrap();
        let (model, out) = (place.path().join("model"), place.path().join(name));
        let (model, out_text) = (model.to_str().unwrap(), out.to_str().unwrap());
        let size = ["--size", "24MB", "--shards", "3", "-q"];
        assert!(hoist(&["synth", model]).args(size).status().unwrap().success());
        fs::write(place.path().join("model/tokenizer.json"), "{}").unwrap();
        fs::create_dir(place.path().join("model/1_Pooling")).unwrap();
        fs::write(place.path().join("model/1_Pooling/config.json"), "{}").unwrap();
        let arguments = |options: &[&str], out: &str| {
            let all = ["convert", model, "-o", out, "-q", "--force"];
            all.iter().chain(options).map(|a| a.to_string()).collect::<Vec<_>>()
        };
        let run = |arguments: &[String]| {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let done = hoist(&arguments).stderr(Stdio::piped()).output().unwrap();
            assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        };
        let elsewhere = place.path().join("elsewhere").join(name);
        fs::create_dir(elsewhere.parent().unwrap()).unwrap();
        let arguments_there = arguments(options, elsewhere.to_str().unwrap());
        run(&arguments_there);
        let started = Instant::now();
        run(&arguments_there);
        let whole = started.elapsed();
        let new = tree(&elsewhere);
        run(&arguments(old_options, out_text));
        let old = tree(&out);
        assert!(differs(&old, &new).is_some(), "nothing would show which of the two is there");
        Case { arguments: arguments(options, out_text), out, old, new, whole, place }
    }

    fn start(&self) -> Child {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        hoist(&arguments).spawn().unwrap()
    }

    /// Whether the new output is there; anything but the old one or the new one, whole, fails.
    fn is_new(&self, when: &str) -> bool {
        let now = tree(&self.out);
        let (from_old, from_new) = (differs(&now, &self.old), differs(&now, &self.new));
        assert!(from_old.is_none() || from_new.is_none(), "{when}: {from_old:?} {from_new:?}");
        from_new.is_none()
    }

    /// What lies beside the output, hidden.
    fn beside(&self) -> Vec<String> {
        let names = fs::read_dir(self.place.path()).unwrap();
        let names = names.map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|n| n.starts_with('.')).collect()
    }

    /// A rerun finishes, equals the undisturbed run, and leaves nothing beside it.
    fn finishes(&self) {
        assert!(self.start().wait().unwrap().success());
        assert!(self.is_new("at the end"));
        assert_eq!(self.beside(), [""; 0]);
    }
}

/// Numbers for the moments, the same in each run of the test.
fn random(state: &mut u64) -> f64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as f64 / f64::from(1u32 << 31)
}

const CASES: &[(&str, &[&str], &[&str])] = &[
    // Casts, in many files: the kernels' way, and runs that are taken up again.
    ("out", &["--shard-size", "9MB"], &["--shard-size", "3MB", "--dtype", "f16"]),
    // Copies in one file, in other containers than the source's.
    ("out.bin", &["--dtype", "f32"], &[]),
];

#[test]
fn killed_at_fifty_moments() {
    for (name, old, new) in CASES {
        let case = Case::new(name, old, new);
        let (mut killed, mut renewed, mut resumed, mut round, mut state) = (0, 0, 0, 0, 11);
        while killed < 25 {
            round += 1;
            assert!(round < 200, "{name}: only {killed} of {round} were killed");
            resumed += usize::from(case.place.path().join(".out.hoist/journal").exists());
            let mut child = case.start();
            // Past the end of a run too, so that the last moments are met.
            std::thread::sleep(case.whole.mul_f64(random(&mut state) * 1.1));
            kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
            killed += usize::from(!child.wait().unwrap().success());
            if case.is_new(&format!("{name}, round {round}")) {
                renewed += 1;
                restore(&case.out, &case.old);
            }
        }
        eprintln!(
            "{name}: {killed} of {round} killed, {renewed} with the new output, {resumed} taken up again"
        );
        case.finishes();
    }
}

#[test]
fn stopped_by_a_signal_it_leaves_only_what_can_be_resumed() {
    for (name, old, new) in CASES {
        let case = Case::new(name, old, new);
        let mut state = 5;
        for (signal, code) in
            [(Signal::TERM, 143), (Signal::INT, 130), (Signal::TERM, 143), (Signal::INT, 130)]
        {
            let mut child = case.start();
            std::thread::sleep(case.whole.mul_f64(random(&mut state)));
            kill_process(Pid::from_child(&child), signal).unwrap();
            let asked = Instant::now();
            let code_found = child.wait().unwrap().code();
            assert!(asked.elapsed() < Duration::from_secs(30), "{name}: it did not stop");
            // None: the signal came before anybody listened to it.
            assert!([Some(code), Some(0), None].contains(&code_found), "{name}: {code_found:?}");
            if case.is_new(name) {
                restore(&case.out, &case.old);
            }
            if code_found == Some(code) {
                let beside = case.beside();
                assert!(beside.is_empty() || beside == [".out.hoist"], "{name}: {beside:?}");
                let half = tree(&case.place.path().join(".out.hoist"));
                let half = half.keys().find(|n| n.contains(".hoist-"));
                assert_eq!(half, None, "{name}: a half-written file is left");
            }
        }
        case.finishes();
    }
}

/// A source that changes while it is read: an error, and the old output stays.
#[test]
fn a_source_that_changes_is_an_error_and_no_output() {
    let mut caught = 0;
    for (name, old, new) in CASES {
        let case = Case::new(name, old, new);
        let shard = fs::read_dir(case.place.path().join("model"))
            .unwrap()
            .map(|e| e.unwrap().path())
            .find(|p| p.to_string_lossy().contains("-00003-of-"))
            .unwrap();
        let bytes = fs::read(&shard).unwrap();
        let mut state = 3;
        for round in 0..8 {
            let mut child = case.start();
            std::thread::sleep(case.whole.mul_f64(0.2 + 0.7 * random(&mut state)));
            kill_process(Pid::from_child(&child), Signal::STOP).unwrap();
            // Another byte of the weights in place, or the file cut short.
            match round % 2 {
                0 => {
                    let mut other = bytes.clone();
                    *other.last_mut().unwrap() ^= 1;
                    fs::write(&shard, &other).unwrap();
                }
                _ => fs::File::options()
                    .write(true)
                    .open(&shard)
                    .unwrap()
                    .set_len(bytes.len() as u64 / 2)
                    .unwrap(),
            }
            kill_process(Pid::from_child(&child), Signal::CONT).unwrap();
            let code = child.wait().unwrap().code();
            let now = tree(&case.out);
            let is_old = differs(&now, &case.old).is_none();
            match code {
                Some(1) => {
                    caught += 1;
                    assert!(is_old, "{name}, round {round}: an error, and another output");
                }
                // It was done before, or had not begun: then it read the file as it is now.
                Some(0) if round % 2 == 0 || differs(&now, &case.new).is_none() => {}
                _ => panic!("{name}, round {round}: exit {code:?}"),
            }
            fs::write(&shard, &bytes).unwrap();
            restore(&case.out, &case.old);
        }
        case.finishes();
    }
    assert!(caught > 0, "no change was ever met");
}
