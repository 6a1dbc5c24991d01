//! What a person sees of the command: standard output, standard error, exit code.

use crate::naive::testdata;
use std::ffi::{OsStr, OsString};
use std::process::{Command, Output, Stdio};

/// `hoist` with these arguments, and nothing of this machine's environment that could change it.
pub fn hoist<S: AsRef<OsStr>>(arguments: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hoist"));
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy();
        if name.starts_with("HOIST_") || name.starts_with("HF_") {
            command.env_remove(&key);
        }
    }
    command.env_remove("RUST_BACKTRACE").env("HF_HUB_CACHE", testdata("no-such-cache"));
    command.args(arguments).stdin(Stdio::null());
    command
}

pub fn code(output: &Output) -> i32 {
    output.status.code().expect("ended by a signal")
}

pub fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

fn model() -> String {
    testdata("rustdoc-llama-6m").to_str().unwrap().to_owned()
}

/// Arguments, variables → exit code, a part of standard output, a part of standard error (empty: none of it).
#[test]
fn answers_and_refusals() {
    let model = model();
    let model = model.as_str();
    type Row<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], i32, &'a str, &'a str);
    #[rustfmt::skip]
    let rows: &[Row] = &[
        (&["--version"], &[], 0, "hoist 0.", ""),
        (&["--help"], &[], 0, "Usage: hoist", ""),
        (&["help", "inspect"], &[], 0, "--fit", ""),
        (&["inspect", "-h"], &[], 0, "--include", ""),
        (&[], &[], 2, "", "Usage: hoist"),
        (&["--nope"], &[], 2, "", "error: unexpected argument '--nope' found"),
        (&["nope"], &[], 2, "", "error: unrecognized subcommand 'nope'"),
        (&["inspect"], &[], 2, "", "error: the following required arguments"),
        (&["inspect", model, "--threads", "0"], &[], 2, "", "--threads"),
        (&["inspect", model], &[("HOIST_THREADS", "many")], 2, "", "--threads"),
        (&["inspect", model, "--progress", "loud"], &[], 2, "", "possible values: auto, bar, plain, json, none"),
        (&["inspect", model, "-q", "-v"], &[], 2, "", "cannot be used with"),
        (&["inspect", model, "--ctx", "5"], &[], 2, "", "--fit"),
        (&["inspect", model, "--fit", "80GBs"], &[], 2, "", "a size is a number and a unit"),
        (&["inspect", model, "--fit", "cuda:x"], &[], 2, "", "a device is `cuda:N`"),
        (&["inspect", model, "--include", "["], &[], 2, "", "error: `[` is not a pattern: "),
        (&["inspect", model, "--include", "x*"], &[], 3, "", "error: the pattern `x*` matches none of the 48 tensors\n  hint: "),
        (&["inspect", model, "--exclude", "nope"], &[], 3, "", "the pattern `nope` matches none"),
        (&["inspect", model, "--exclude", "*"], &[], 3, "", "the patterns leave no tensor"),
        (&["inspect", model], &[("HOIST_INCLUDE", "nope")], 3, "", "the pattern `nope` matches none"),
        (&["inspect", "/no/such/model"], &[], 3, "", "error: "),
        (&["inspect", ""], &[], 2, "", "error: the name of the model is empty"),
        (&["inspect", model], &[], 0, "6.03 M parameters", ""),
        (&["inspect", "--json", model], &[], 0, "{\n  \"schema\": \"hoist.inspect/1\",\n", ""),
        (&["inspect", model], &[("HOIST_JSON", "1")], 0, "\"schema\": \"hoist.inspect/1\"", ""),
        (&["inspect", model], &[("HOIST_JSON", "0")], 0, "6.03 M parameters", ""),
        (&["inspect", model, "-v", "--progress=none"], &[("NO_COLOR", "1")], 0, "architectures LlamaForCausalLM", ""),
    ];
    let mut wrong = Vec::new();
    for (arguments, variables, expected, out, err) in rows {
        let mut command = hoist(arguments);
        command.envs(variables.iter().copied());
        let got = command.output().unwrap();
        let (stdout, stderr) = (text(&got.stdout), text(&got.stderr));
        let silent = |said: &str, expected: &str| expected.is_empty() && !said.is_empty();
        if code(&got) != *expected
            || !stdout.contains(out)
            || !stderr.contains(err)
            || silent(stdout, out)
            || silent(stderr, err)
            || stdout.contains('\u{1b}')
        {
            wrong.push(format!("{arguments:?} {variables:?}: {}\n{stdout}\n{stderr}", code(&got)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[cfg(unix)]
#[test]
fn a_name_that_is_not_utf8() {
    use std::os::unix::ffi::OsStringExt;
    let strange = OsString::from_vec(b"/tmp/\xff\x1b[31m".to_vec());
    let got = hoist(&[OsString::from("inspect"), strange.clone()]).output().unwrap();
    assert_eq!(code(&got), 2);
    let said = text(&got.stderr);
    assert!(said.starts_with("error: the model's name is not UTF-8") && !said.contains('\u{1b}'), "{said}");
    let got = hoist(&[OsString::from("inspect"), "x".into(), "--include".into(), strange]).output().unwrap();
    assert_eq!(code(&got), 2);
}

#[test]
fn a_closed_pipe_is_quiet() {
    for arguments in [&["--help"][..], &["inspect", "--tensors", &model()], &["inspect", "--json", &model()]]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let got = hoist(arguments)
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
            .wait_with_output()
            .unwrap();
        assert_eq!((code(&got), text(&got.stderr)), (141, ""), "{arguments:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for arguments in
        [&["--help"][..], &["--version"], &["inspect", &model()], &["inspect", "--json", &model()]]
    {
        let got = hoist(arguments)
            .stdout(full())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
            .wait_with_output()
            .unwrap();
        let said = text(&got.stderr);
        assert_eq!(code(&got), 8, "{arguments:?}: {said}");
        assert!(said.starts_with("error: standard output cannot be written: No space left"), "{said}");
    }
    // Nobody can be told, and the code is what it would have been.
    for (arguments, expected) in [(&["--nope"][..], 2), (&["inspect", "/no/such/model"], 3), (&[], 2)] {
        let mut command = hoist(arguments);
        assert_eq!(command.stderr(full()).stdout(Stdio::null()).status().unwrap().code(), Some(expected));
    }
}
