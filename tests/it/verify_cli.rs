//! `hoist verify` as a person or a program sees it: answers, refusals, exit codes, the document, pipes and signals.

use crate::cli::{code, hoist, text};
use crate::naive::testdata;
use crate::signals::heeding_signals;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

fn model() -> String {
    testdata("rustdoc-llama-6m").to_str().unwrap().to_owned()
}

/// `hoist verify` with these arguments.
fn verify(arguments: &[&str]) -> Output {
    let all: Vec<&str> = ["verify"].iter().chain(arguments).copied().collect();
    hoist(&all).output().unwrap()
}

fn json(arguments: &[&str]) -> Value {
    let all: Vec<&str> = ["verify", "--json", "--quiet"].iter().chain(arguments).copied().collect();
    let got = hoist(&all).output().unwrap();
    assert!(matches!(code(&got), 0 | 11), "{}", text(&got.stderr));
    serde_json::from_slice(&got.stdout).unwrap()
}

/// A copy of the model in which one file says something else.
fn edited(place: &Path, file: &str, edit: impl Fn(&mut Vec<u8>)) -> PathBuf {
    let copy = place.join("copy");
    std::fs::create_dir_all(&copy).unwrap();
    for entry in std::fs::read_dir(testdata("rustdoc-llama-6m")).unwrap() {
        let entry = entry.unwrap();
        let mut bytes = std::fs::read(entry.path()).unwrap();
        if entry.file_name() == file {
            edit(&mut bytes);
        }
        std::fs::write(copy.join(entry.file_name()), bytes).unwrap();
    }
    copy
}

/// Arguments, variables → exit code, a part of standard error.
#[test]
fn refusals() {
    let place = tempfile::tempdir().unwrap();
    let model = model();
    let model = model.as_str();
    let text_file = place.path().join("text");
    std::fs::write(&text_file, "some text\n").unwrap();
    let text_file = text_file.to_str().unwrap();
    let not_text = place.path().join("not-text");
    std::fs::write(&not_text, b"good \xff").unwrap();
    let not_text = not_text.to_str().unwrap();
    let strange = edited(place.path(), "config.json", |bytes| {
        let config = String::from_utf8(bytes.clone()).unwrap();
        *bytes = config.replace("\"llama\"", "\"lama\"").replace("LlamaFor", "LamaFor").into_bytes();
    });
    let strange = strange.to_str().unwrap();
    // A copy: if it were replaced, others would miss it.
    let own = edited(&place.path().join("own"), "", |_| ());
    let own_tokenizer = own.join("tokenizer.json");
    let (own, own_tokenizer) = (own.to_str().unwrap(), own_tokenizer.to_str().unwrap());
    let encoder = crate::verify_encoder::write(&crate::verify_encoder::spec("bert"), place.path());
    let encoder = encoder.to_str().unwrap();
    type Row<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], i32, &'a str);
    #[rustfmt::skip]
    let rows: &[Row] = &[
        (&[], &[], 2, "<MODEL>"),
        (&["/no/such"], &[], 3, "error: "),
        (&[strange], &[], 9, "lama"),
        (&[model, "--against", "/no/such"], &[], 3, "/no/such"),
        (&[model, "--against", model, "--reference", "x"], &[], 2, "cannot be used with"),
        (&[model, "--text", "x", "--reference", "x"], &[], 2, "cannot be used with"),
        (&[model, "--text", "/no/such"], &[], 3, "/no/such: the text cannot be read"),
        (&[model, "--text", not_text], &[], 1, "is no text in UTF-8 (at byte 5)"),
        (&[model, "--text", text_file, "--prompt", "x"], &[], 2, "cannot be used with"),
        (&[model, "--recipe", "llama.cpp"], &[], 2, "--text"),
        (&[model, "--recipe", "wiki", "--text", text_file], &[], 2, "possible values: windows, llama.cpp"),
        (&[model, "--text", text_file, "--recipe", "llama.cpp", "--stride", "9"], &[], 2, "has no stride"),
        (&[model, "--text", text_file, "--window", "8", "--stride", "9"], &[], 2, "hint: a stride is at most a window"),
        (&[model, "--text", text_file, "--window", "0"], &[], 2, "a whole number above 0"),
        (&[model, "--layers-only", "4"], &[], 2, "as in 0..4"),
        (&[model, "--layers-only", "4..2"], &[], 2, "as in 0..4"),
        (&[model, "--layers-only", "0..1", "--prompt", "x"], &[], 2, "cannot be used with"),
        (&[model, "--force"], &[], 2, "--logits"),
        (&[model, "--max-kl=-1"], &[], 2, "it cannot be negative"),
        (&[model, "--min-top1", "97"], &[], 2, "a share is from 0 to 1"),
        (&[model, "--min-cosine", "1.5"], &[], 2, "a cosine is from -1 to 1"),
        (&[model, "--max-ppl-increase", "1%"], &[], 2, "needs something to compare with"),
        (&[model, "--max-ppl-increase", "1%", "--against", model], &[], 2, "--text FILE"),
        (&[model, "--max-ppl-increase", "-1", "--against", model], &[], 2, "it cannot be negative"),
        // What nothing would be held to is no limit.
        (&[model, "--max-kl", "0.1"], &[], 2, "--against MODEL, or --reference FILE"),
        (&[model, "--min-cosine", "-1"], &[], 2, "needs something to compare with"),
        (&[model, "--layers"], &[], 2, "needs something to compare with"),
        (&[model, "--against", model, "--layers-only", "0..1", "--max-kl", "0.1"], &[], 2, "there are no logits"),
        (&[model, "--prompt", "x", "--max-kl", "0.1"], &[], 2, "nothing is compared"),
        (&[model, "--prompt", "x", "--against", model, "--temperature", "0.5"], &[], 2, "nothing is made"),
        // What is read is never replaced.
        (&[own, "--prompt", "x", "--force", "--logits", own_tokenizer], &[], 1, "is one of the inputs"),
        (&[model, "--text", text_file, "--force", "--logits", text_file], &[], 2, "would replace the text"),
        (&[model, "--chat"], &[], 2, "--prompt"),
        (&[model, "--prompt", "x", "--system", "y"], &[], 2, "--chat"),
        (&[model, "--prompt", "x", "--seed", "1"], &[], 2, "--temperature"),
        (&[model, "--prompt", "x", "--temperature", "1", "--top-p", "0"], &[], 2, "a probability above 0"),
        (&[model, "--prompt", "x", "--max-tokens", "0"], &[], 2, "a whole number above 0"),
        (&[model, "--prompt", "x", "--chat", "--against", model], &[], 2, "hint: leave out --chat"),
        (&[model, "--prompt", "x", "--chat", "--chat-template", "no/such.jinja"], &[], 3, "there is no such chat template"),
        (&[model, "--prompt", "x", "--embed", "y"], &[], 2, "cannot be used with"),
        (&[model, "--pair", "x"], &[], 2, "2 values"),
        (&[model, "--embed", "x", "--against", model], &[], 2, "cannot be used with"),
        (&[model, "--dtype", "q8_0"], &[], 2, "possible values: f32, bf16, f16"),
        (&[model, "--device", "gpu"], &[], 2, "gpu"),
        (&[model, "--memory", "1MB"], &[], 8, "--memory 64MiB is the least"),
        // An encoder has no perplexity, and nothing that is taken of next tokens.
        (&[encoder, "--text", text_file], &[], 2, "an encoder predicts no next token, so it has no perplexity"),
        (&[encoder, "--text", text_file, "--recipe", "llama.cpp"], &[], 2, "hint: --prompt gives a text"),
        (&[encoder, "--against", encoder, "--max-kl", "1"], &[], 2, "so it has no KL divergence"),
        // A decoder is not for these.
        (&[model, "--embed", "x"], &[], 2, ""),
        (&[model, "--classify", "x"], &[], 2, ""),
        (&[model, "--ner", "x"], &[], 2, ""),
        (&[model, "--pair", "x", "y"], &[], 2, ""),
    ];
    let mut wrong = Vec::new();
    for (arguments, variables, expected, said) in rows {
        let all: Vec<&str> = ["verify"].iter().chain(*arguments).copied().collect();
        let got = hoist(&all).envs(variables.iter().copied()).output().unwrap();
        let stderr = text(&got.stderr);
        let errors = stderr.lines().filter(|line| line.starts_with("error: ")).count();
        if code(&got) != *expected || !stderr.contains(said) || errors != 1 || !got.stdout.is_empty() {
            wrong.push(format!(
                "{arguments:?} {variables:?}: {}, not {expected} with `{said}`\n{stderr}",
                code(&got)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn help_has_examples() {
    let got = verify(&["--help"]);
    let said = text(&got.stdout);
    assert!(
        code(&got) == 0 && said.contains("--reference logits.safetensors") && said.contains("Exit code 0")
    );
    assert!(!text(&verify(&["-h"]).stdout).contains("Examples:"));
}

/// The checks by name and outcome.
fn outcomes(document: &Value) -> Vec<(&str, &str)> {
    let checks = document["checks"].as_array().unwrap();
    checks.iter().map(|c| (c["name"].as_str().unwrap(), c["outcome"].as_str().unwrap())).collect()
}

#[test]
fn a_model_alone() {
    let model = model();
    let got = verify(&[&model]);
    let (out, err) = (text(&got.stdout), text(&got.stderr));
    assert_eq!(code(&got), 0, "{out}{err}");
    assert!(out.starts_with("tensors") && out.ends_with("ok\n") && out.contains("\nforward"), "{out}");
    let document = json(&[&model]);
    assert_eq!((&document["schema"], &document["ok"]), (&"hoist.verify/1".into(), &true.into()));
    assert!(outcomes(&document).contains(&("tensors", "passed")), "{document:#}");
    assert!(outcomes(&document).contains(&("forward", "passed")), "{document:#}");
    for field in
        ["model", "against", "failed", "not_run", "tokens", "seconds", "notes", "warnings", "peak_rss_bytes"]
    {
        assert!(document.get(field).is_some(), "{field}: {document:#}");
    }
}

/// A fault ends with 11, is named on standard error, and its figures stand on standard output.
#[test]
fn a_check_that_fails() {
    let place = tempfile::tempdir().unwrap();
    let model = model();
    let faulty = edited(place.path(), "config.json", |bytes| {
        let mut config: Value = serde_json::from_slice(bytes).unwrap();
        let theta = ["/rope_parameters/rope_theta", "/rope_theta"];
        let at = theta.into_iter().find(|at| config.pointer(at).is_some()).unwrap();
        *config.pointer_mut(at).unwrap() = 1e6.into();
        *bytes = config.to_string().into_bytes();
    });
    let faulty = faulty.to_str().unwrap();
    let got = verify(&[faulty, "--against", &model]);
    let (out, err) = (text(&got.stdout), text(&got.stderr));
    assert_eq!(code(&got), 11, "{out}{err}");
    assert!(out.contains("\nlogits ") && out.contains("failed"), "{out}");
    assert!(err.lines().any(|line| line.starts_with("error: ") && line.contains("`logits`")), "{err}");
    let document = json(&[faulty, "--against", &model]);
    assert!(document["ok"] == false && outcomes(&document).contains(&("logits", "failed")), "{document:#}");
    // With a gate that lets everything through, it passes: the limit that counts is the user's.
    let got =
        verify(&[faulty, "--against", &model, "--max-kl", "100", "--max-rel", "100", "--min-top1", "0"]);
    assert_eq!(code(&got), 0, "{}{}", text(&got.stdout), text(&got.stderr));
    // And one that nothing meets fails what is the same.
    let q8 = place.path().join("q8.gguf");
    let q8 = q8.to_str().unwrap();
    assert_eq!(code(&hoist(&["convert", &model, "-o", q8, "--dtype", "q8_0"]).output().unwrap()), 0);
    assert_eq!(code(&verify(&[q8, "--against", &model])), 0);
    assert_eq!(code(&verify(&[q8, "--against", &model, "--max-kl", "0"])), 11);
}

#[test]
fn logits_there_and_back() {
    let place = tempfile::tempdir().unwrap();
    let model = model();
    let out = place.path().join("logits.safetensors");
    let out = out.to_str().unwrap();
    let make = |more: &[&str]| {
        verify(&[&[model.as_str(), "--prompt", "The `Vec` type is", "--logits", out], more].concat())
    };
    let got = make(&[]);
    assert_eq!(code(&got), 0, "{}", text(&got.stderr));
    assert_eq!(code(&verify(&[&model, "--reference", out])), 0);
    let got = make(&[]);
    assert!(code(&got) == 1 && text(&got.stderr).contains("--force"), "{}", text(&got.stderr));
    assert_eq!(code(&make(&["--force"])), 0);
}

/// What transformers says greedily behind this prompt (`testdata/README.md`).
#[test]
fn a_prompt() {
    let model = model();
    let prompt = "The `Vec` type is";
    let document = json(&[&model, "--prompt", prompt, "--max-tokens", "13"]);
    let said = &document["answer"]["text"];
    let ids: Vec<u64> = said["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    assert_eq!(ids, [504, 53, 65, 200, 353, 504, 53, 65, 338, 504, 53, 65, 200], "{document:#}");
    assert_eq!((&document["schema"], &said["prompt_tokens"]), (&"hoist.verify/1".into(), &6.into()));
    // Streamed, it is the same text, alone on standard output.
    let got = verify(&[&model, "--prompt", prompt, "--max-tokens", "13"]);
    let whole = said["text"].as_str().unwrap().trim_end_matches('\n');
    assert_eq!((code(&got), text(&got.stdout).trim_end_matches('\n')), (0, whole));
    assert!(text(&got.stderr).contains("tokens/s"), "{}", text(&got.stderr));
    assert_eq!(text(&verify(&[&model, "--prompt", prompt, "-q"]).stderr), "");
    // From standard input.
    let mut child = hoist(&["verify", &model, "--prompt", "-", "--max-tokens", "13"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), prompt.as_bytes()).unwrap();
    assert_eq!(text(&child.wait_with_output().unwrap().stdout).trim_end_matches('\n'), whole);
    // A seed is a text.
    let drawn = |seed: &str| {
        let got =
            verify(&[&model, "--prompt", prompt, "--temperature", "1", "--seed", seed, "--max-tokens", "24"]);
        text(&got.stdout).to_owned()
    };
    assert_eq!(drawn("1"), drawn("1"));
    assert_ne!(drawn("1"), drawn("2"));
}

#[test]
fn closed_pipes_and_full_disks() {
    let model = model();
    for arguments in [
        &[model.as_str()][..],
        &[&model, "--json"],
        &[&model, "--prompt", "x"],
        &[&model, "--prompt", "x", "--json"],
    ] {
        let all: Vec<&str> = ["verify", "--quiet"].iter().chain(arguments).copied().collect();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let run = |out: Stdio| {
            hoist(&all).stdout(out).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap()
        };
        let got = run(writer.into());
        assert_eq!((code(&got), text(&got.stderr)), (141, ""), "{arguments:?}");
        if cfg!(target_os = "linux") {
            let got = run(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into());
            assert_eq!(code(&got), 8, "{arguments:?}: {}", text(&got.stderr));
        }
    }
}

/// A signal ends it within a second, whatever it computes, and leaves no file behind.
#[cfg(unix)]
#[test]
fn a_signal_ends_it() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("logits.safetensors");
    let long = place.path().join("long.txt");
    std::fs::write(
        &long,
        "Some words of a text that is long enough to be computed for a while. ".repeat(20_000),
    )
    .unwrap();
    let (model, out, long) = (model(), out.to_str().unwrap(), long.to_str().unwrap());
    for (arguments, after_ms) in [
        (&["--text", long][..], 1500),
        (&["--text", long, "--logits", out], 1500),
        (&["--prompt", "x", "--max-tokens", "400"], 300),
    ] {
        let all: Vec<&str> = ["verify", &model].iter().chain(arguments).copied().collect();
        let mut command = hoist(&all);
        let command = heeding_signals(command.stdout(Stdio::null()).stderr(Stdio::null()));
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(after_ms));
        if let Some(status) = child.try_wait().unwrap() {
            panic!("{arguments:?} was over before the signal came: {status}");
        }
        // SAFETY: sends a signal to the child that was just started and not yet waited for.
        #[allow(unsafe_code)]
        unsafe {
            libc::kill(child.id() as libc::pid_t, libc::SIGINT)
        };
        let sent = Instant::now();
        // A machine that is busy with other tests is given more than the second that is promised.
        while child.try_wait().unwrap().is_none() && sent.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{arguments:?}");
    }
    let left: Vec<_> = std::fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["long.txt"]);
}
