//! Loads, end to end: on host memory, on the emulated driver, through the library and through the command, when all is
//! well and when it is not.

use crate::naive::testdata;
use crate::signals::heeding_signals;
use hoist::dtype::DType;
use hoist::load::{Loaded, Options, load};
use hoist::open::{self, Model};
use hoist::sink::device::DeviceSpec;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

mod command;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod emulated;
mod faults;
mod host;
mod job;
#[cfg(target_os = "linux")]
mod memory;

/// Opens a model.
pub fn opened(path: &Path) -> Model {
    open::open(path.to_str().unwrap(), &open::Options::default())
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// To host memory, with nothing else said.
pub fn to_cpu() -> Options {
    Options { device: Some(DeviceSpec::Cpu), ..Options::default() }
}

/// Loads a model at a path.
pub fn loaded(path: &Path, options: Options) -> hoist::Result<Loaded> {
    load(opened(path), options).wait()
}

/// The files that have goldens, by the goldens' names; a format whose goldens are not here is left out aloud.
pub fn fixtures() -> Vec<(&'static str, String)> {
    let mut files = Vec::new();
    for format in ["safetensors", "gguf", "torch"] {
        if !testdata(&format!("golden/{format}.json")).exists() {
            eprintln!("SKIPPED: there are no goldens of {format}");
            continue;
        }
        files.extend(crate::naive::goldens(format).into_keys().map(|file| (format, file)));
    }
    files
}

/// A synthetic Llama of about so many megabytes, made once and kept between runs in the target folder.
pub fn synthetic(megabytes: u64) -> PathBuf {
    static MAKING: OnceLock<std::sync::Mutex<()>> = OnceLock::new();
    let _one_at_a_time = MAKING.get_or_init(Default::default).lock().unwrap_or_else(|e| e.into_inner());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("load-synthetic-{megabytes}mb"));
    if !path.exists() {
        // Two runs at once each make their own; the second to end finds the first's in its place.
        let mine = path.with_extension(std::process::id().to_string());
        hoist::synth::synth(hoist::synth::Options {
            size_bytes: Some(megabytes * 1_000_000),
            sharding: hoist::synth::Sharding::Count(3),
            ..hoist::synth::Options::new(&mine)
        })
        .wait()
        .unwrap();
        if std::fs::rename(&mine, &path).is_err() {
            std::fs::remove_dir_all(&mine).unwrap();
        }
    }
    path
}

/// Writes a safetensors file of these tensors.
pub fn write_safetensors(path: &Path, tensors: &[(&str, DType, Vec<u64>, Vec<u8>)]) {
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let place = [data.len(), data.len() + bytes.len()];
        data.extend(bytes);
        let entry =
            serde_json::json!({"dtype": dtype.facts().safetensors, "shape": shape, "data_offsets": place});
        header.insert((*name).into(), entry);
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.extend(data);
    std::fs::write(path, file).unwrap();
}

/// `hoist` with no variable of hoist or CUDA set, so that nothing outside decides what a test sees.
pub fn hoist() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hoist"));
    clean(&mut command);
    command
}

/// Takes away what of the environment would change a load.
pub fn clean(command: &mut Command) {
    heeding_signals(command);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().into_owned();
        if text.starts_with("HOIST_") || text.ends_with("_VISIBLE_DEVICES") || text.starts_with("FAKE_CUDA") {
            command.env_remove(name);
        }
    }
}

/// `hoist load … --device cpu --json`, which must succeed: its document.
#[track_caller]
pub fn load_json(path: &Path, arguments: &[&str]) -> Value {
    let mut command = hoist();
    command.args(["load", "--device", "cpu", "--json"]).arg(path).args(arguments);
    document(&command.output().unwrap())
}

/// What a run that must have succeeded printed.
#[track_caller]
pub fn document(output: &Output) -> Value {
    assert!(output.status.success(), "{:?}\n{}", output.status, err(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Its standard error.
pub fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Says which child this is, in a test that runs once more in a process of its own.
const CHILD: &str = "HOIST_LOAD_TEST_CHILD";

/// Runs this test again in a process of its own, set up by a line of `bash` (`ulimit …`, `:`), and gives `true`; gives
/// `false` in that process. The test's body follows where it is `false`.
#[track_caller]
pub fn in_child(name: &str, setup: &str) -> bool {
    if std::env::var(CHILD).is_ok_and(|n| n == name) {
        return false;
    }
    let mut command = Command::new("bash");
    command.args(["-c", &format!("{setup} && exec \"$@\""), "bash"]).arg(std::env::current_exe().unwrap());
    clean(&mut command);
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(CHILD, name);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &err(&output);
    assert!(said.contains("running 1 test"), "there is no test `{name}`: {said}");
    assert!(output.status.success(), "{:?}\n{said}", output.status);
    eprint!(
        "{}",
        said.lines().filter(|l| l.contains("SKIPPED")).map(|l| format!("{l}\n")).collect::<String>()
    );
    true
}
