//! The GPU's side, run against the emulated driver (`tests/fake_driver`), and the harness for that: [`emulated`] starts
//! `hoist`, or this test binary once more, as a child process that finds the double where the driver would be.
#![cfg(all(feature = "cuda", target_os = "linux"))]

use crate::signals::heeding_signals;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

mod casts;
mod driver;

/// Set in a child that is this test binary again.
const INSIDE: &str = "HOIST_TEST_INSIDE";

/// Builds the double, once, in a target folder of its own, and gives the library's path.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let output = Command::new(env!("CARGO"))
            .args(["build", "--offline", "--quiet", "-p", "hoist-fake-driver", "--message-format=json"])
            .arg("--manifest-path")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
            .arg("--target-dir")
            .arg(concat!(env!("CARGO_TARGET_TMPDIR"), "/fake-driver"))
            .output()
            .expect("cargo runs");
        assert!(
            output.status.success(),
            "the double does not build: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|m| m["target"]["name"] == "hoist_fake_driver")
            .find_map(|m| m["filenames"].as_array()?.iter().find_map(|f| f.as_str().map(PathBuf::from)))
            .expect("cargo names the library")
    })
}

/// A child process with the emulated driver, or with another library in its place.
pub struct Emulated {
    folder: tempfile::TempDir,
    env: Vec<(String, String)>,
}

/// The emulated driver, with no switch set.
pub fn emulated() -> Emulated {
    with_library(Some(library()))
}

/// A child that finds `library` under the driver's names, or nothing.
fn with_library(library: Option<&Path>) -> Emulated {
    with_libraries(library, library)
}

/// A child that finds these as `libcuda.so`, the name for linking, and as `libcuda.so.1`, the name for running.
fn with_libraries(linking: Option<&Path>, running: Option<&Path>) -> Emulated {
    let folder = tempfile::tempdir().unwrap();
    for (name, library) in [("libcuda.so", linking), ("libcuda.so.1", running)] {
        if let Some(library) = library {
            std::os::unix::fs::symlink(library, folder.path().join(name)).unwrap();
        }
    }
    // A test asks nobody beyond this machine.
    Emulated { folder, env: vec![("HF_HUB_OFFLINE".into(), "1".into())] }
}

impl Emulated {
    /// Sets a variable of the child: a switch of the double (`FAKE_CUDA_…`) or any other.
    pub fn env(mut self, name: &str, value: impl ToString) -> Emulated {
        self.env.push((name.into(), value.to_string()));
        self
    }

    /// Runs `hoist`.
    pub fn hoist<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Run {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hoist"));
        command.args(args);
        self.run(command)
    }

    /// Runs one test of this binary, in which [`inside`] says so.
    pub fn test(&self, name: &str) -> Run {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(INSIDE, name);
        let run = self.run(command);
        let said = String::from_utf8_lossy(&run.output.stdout);
        assert!(said.contains("running 1 test"), "there is no test `{name}`");
        run
    }

    /// Starts `hoist`, its output piped, for a test that meddles with it; then [`Emulated::end`].
    pub fn start<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> std::process::Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hoist"));
        command.args(args).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        self.prepare(&mut command);
        command.spawn().unwrap()
    }

    /// Waits for what [`Emulated::start`] started.
    pub fn end(&self, child: std::process::Child) -> Run {
        self.ended(child.wait_with_output().unwrap())
    }

    fn run(&self, mut command: Command) -> Run {
        self.prepare(&mut command);
        self.ended(command.output().unwrap())
    }

    fn report(&self) -> PathBuf {
        self.folder.path().join("report.json")
    }

    fn prepare(&self, command: &mut Command) {
        heeding_signals(command);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            let foreign =
                ["FAKE_CUDA_", "HOIST_DEVICE", "HOIST_FORCE_CPU"].iter().any(|p| name.starts_with(p));
            if foreign || name.ends_with("_VISIBLE_DEVICES") {
                command.env_remove(name);
            }
        }
        let _ = std::fs::remove_file(self.report()); // of an earlier child
        let before = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
        command
            .env("LD_LIBRARY_PATH", format!("{}:{before}", self.folder.path().display()))
            .env("FAKE_CUDA_REPORT", self.report())
            .envs(self.env.iter().map(|(k, v)| (k, v)));
    }

    fn ended(&self, output: Output) -> Run {
        let report =
            std::fs::read_to_string(self.report()).ok().map(|text| serde_json::from_str(&text).unwrap());
        Run { output, report: report.map(Report) }
    }
}

/// What became of a child.
pub struct Run {
    /// Exit status and what it said.
    pub output: Output,
    /// The double's report; absent when the double was never asked to start.
    pub report: Option<Report>,
}

impl Run {
    /// Its exit code.
    pub fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    /// The child succeeded, on the double and nothing else, used it rightly, and gave everything back.
    #[track_caller]
    pub fn passed(&self) -> &Report {
        self.showing(self.output.status.success(), "the child failed");
        let report = self.used();
        self.showing(report.misuse().is_none(), &format!("{:?}", report.misuse()));
        report
    }

    /// The double's report; the child must have asked it.
    #[track_caller]
    pub fn used(&self) -> &Report {
        self.showing(self.report.is_some(), "the emulated driver was not used");
        let report = self.report.as_ref().unwrap();
        assert_eq!(report.0["device"], "EMULATED");
        report
    }

    #[track_caller]
    fn showing(&self, right: bool, what: &str) {
        let (out, err) =
            (String::from_utf8_lossy(&self.output.stdout), String::from_utf8_lossy(&self.output.stderr));
        assert!(right, "{what}\nstatus {:?}\nstdout:\n{out}\nstderr:\n{err}", self.output.status);
    }
}

/// The double's account of a child: see `tests/fake_driver/src/state.rs`.
#[derive(Debug)]
pub struct Report(pub serde_json::Value);

impl Report {
    /// A counter by name.
    #[track_caller]
    pub fn count(&self, name: &str) -> u64 {
        self.0[name].as_u64().unwrap_or_else(|| panic!("the report has no `{name}`: {}", self.0))
    }

    /// How often a function was called.
    pub fn calls(&self, name: &str) -> u64 {
        self.0["calls"][name].as_u64().unwrap_or(0)
    }

    /// What a correct program leaves at zero, where it is not.
    pub fn misuse(&self) -> Option<String> {
        let zero = [
            "leaked",
            "allocations_live",
            "registered_live",
            "streams_live",
            "events_live",
            "modules_live",
            "contexts_retained",
            "unregistered_busy",
        ];
        let wrong: Vec<String> =
            zero.iter().filter(|n| self.count(n) != 0).map(|n| format!("{n} = {}", self.count(n))).collect();
        let violations = self.0["violations"].as_array().map_or(0, Vec::len);
        (!wrong.is_empty() || violations > 0).then(|| format!("{wrong:?} {}", self.0["violations"]))
    }
}

/// Whether this process is the child, so that the driver found is the double.
pub fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// For a test whose body runs in a child: in the parent, runs it there with the switches, lets `check` look at it, and
/// gives `true`; in the child gives `false`.
#[track_caller]
pub fn outside(name: &str, switches: &[(&str, &str)], check: impl FnOnce(&Run)) -> bool {
    if inside() {
        return false;
    }
    let child = switches.iter().fold(emulated(), |child, (name, value)| child.env(name, value));
    check(&child.test(name));
    true
}
