//! Files that change, end or fail under a load; limits that are too small: an error that says so, and nothing loaded.
#![cfg(target_os = "linux")]

use super::{clean, document, err, hoist, in_child, load_json, loaded, opened, synthetic, to_cpu};
use crate::naive::testdata;
use hoist::ErrorKind;
use hoist::buf::Ring;
use hoist::load::{Form, Options, load};
use hoist::open::Model;
use hoist::run::Io;
use hoist::source::local::LocalFile;
use hoist::source::local::direct::Queue;
use hoist::source::{ReadAt, Temper};
use std::io::{BufRead, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A copy of the small model that a test may damage.
fn copy() -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(testdata("rustdoc-llama-6m")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), place.path().join(entry.file_name())).unwrap();
    }
    let shard = place.path().join("model-00002-of-00003.safetensors");
    (place, shard)
}

/// Something that happens to a file, and its name.
type Change = (&'static str, fn(&Path));

const CHANGES: [Change; 4] = [
    ("truncated", |path| {
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    }),
    ("lengthened", |path| {
        std::fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"more").unwrap();
    }),
    ("edited", |path| {
        let mut file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.seek(SeekFrom::End(-9)).unwrap();
        file.write_all(b"x").unwrap();
    }),
    ("emptied", |path| drop(std::fs::File::create(path).unwrap())),
];

#[test]
fn a_change_between_open_and_load_is_refused() {
    for (what, change) in CHANGES {
        for form in [Form::Auto, Form::Owned] {
            let (place, shard) = copy();
            let model = opened(place.path());
            std::thread::sleep(std::time::Duration::from_millis(20)); // the clock of file times is coarse
            change(&shard);
            let error = load(model, Options { form, ..to_cpu() }).wait().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadInput, "{what} {form:?}: {error}");
            assert!(error.to_string().contains("changed while it was read"), "{what}: {error}");
            assert!(error.file_name().unwrap().ends_with("model-00002-of-00003.safetensors"), "{error}");
        }
    }
}

/// A local file that is changed when a certain read of it begins.
#[derive(Debug)]
struct Changing {
    file: LocalFile,
    when: usize,
    change: fn(&Path),
    reads: AtomicUsize,
}

impl ReadAt for Changing {
    fn size_bytes(&self) -> u64 {
        self.file.size_bytes()
    }

    fn read_at(&self, buf: &mut [u8], offset_bytes: u64) -> hoist::Result<usize> {
        if self.reads.fetch_add(1, Ordering::SeqCst) == self.when {
            std::thread::sleep(std::time::Duration::from_millis(20));
            (self.change)(self.file.path());
        }
        self.file.read_at(buf, offset_bytes)
    }

    fn temper(&self) -> Temper {
        self.file.temper()
    }

    fn as_local(&self) -> Option<&LocalFile> {
        Some(&self.file)
    }
}

#[test]
fn a_change_during_a_load_is_refused() {
    for (what, change) in CHANGES {
        for (check, when, threads) in [(true, 0, 1), (true, 1, 3), (false, 0, 1)] {
            let (place, shard) = copy();
            let mut model: Model = opened(place.path());
            let file = LocalFile::open(&shard).unwrap();
            model.files[1] = Arc::new(Changing { file, when, change, reads: AtomicUsize::new(0) });
            let options =
                Options { form: Form::Owned, io: Io::Buffered, threads: Some(threads), check, ..to_cpu() };
            let error = load(model, options).wait().expect_err(what);
            assert_eq!(error.kind(), ErrorKind::BadInput, "{what}: {error}");
            let said = error.to_string();
            assert!(said.contains("changed while it was read"), "{what}: {said}");
        }
    }
}

/// A mapped file that becomes shorter: an error if that is seen in time, else the message of the handler. Never the
/// signal itself.
#[test]
fn a_mapped_file_that_shrinks_ends_with_a_message() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("model.safetensors");
    let small = testdata("rustdoc-llama-6m/model-00001-of-00003.safetensors");
    let mut ends = std::collections::BTreeMap::new();
    for round in 0..12u64 {
        std::fs::copy(&small, &path).unwrap();
        let child = hoist()
            .args(["load", "--device", "cpu", "--check", "--threads", "1"])
            .arg(&path)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_micros(1500 * round));
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(5000).unwrap();
        let output = child.wait_with_output().unwrap();
        let code = output.status.code().unwrap_or_else(|| panic!("a raw signal: {:?}", output.status));
        assert!([0, 1, 5].contains(&code), "{code}: {}", err(&output));
        assert_eq!(code == 0, !err(&output).contains("error:"), "{}", err(&output));
        *ends.entry(code).or_insert(0) += 1;
    }
    eprintln!("ends: {ends:?}");
}

/// In the process itself, where the moment can be chosen: truncated after it was opened, mapped, then touched.
#[test]
fn populating_a_shrunken_map_is_an_error() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("file");
    std::fs::write(&path, vec![1; 1 << 20]).unwrap();
    let file = LocalFile::open(&path).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(4096).unwrap();
    let map = hoist::source::local::mapped::Mapped::new(&file).unwrap();
    match map.populate(0..1 << 20) {
        Err(error) => assert_eq!(error.kind(), ErrorKind::Io, "{error}"),
        // Only where the kernel has no MADV_POPULATE_READ would this have been a signal.
        Ok(()) => panic!("pages that are not there were made present"),
    }
}

#[test]
fn memory_that_is_too_small_is_said_before_the_first_byte() {
    let path = testdata("rustdoc-llama-6m");
    let model = opened(&path);
    let options = Options { form: Form::Owned, memory_bytes: Some(1 << 20), ..to_cpu() };
    let job = load(model, options);
    let events: Vec<_> = job.events().iter().collect();
    let error = job.wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert!(events.is_empty(), "{events:?}");
    // A mapped load takes none of its own: it makes present what fits, and says so.
    let mapped = loaded(&path, Options { memory_bytes: Some(1 << 20), check: true, ..to_cpu() }).unwrap();
    assert!(mapped.report.notes.iter().any(|n| n.contains("do not fit")), "{:?}", mapped.report.notes);
}

/// Without descriptors there is an error with the system's reason, at every limit until one suffices.
#[test]
fn too_few_descriptors_are_an_error() {
    let mut codes = Vec::new();
    for limit in 3..12 {
        let mut command = Command::new("bash");
        command.args([
            "-c",
            &format!("ulimit -n {limit} && exec \"$@\""),
            "bash",
            env!("CARGO_BIN_EXE_hoist"),
        ]);
        clean(&mut command);
        command.args(["load", "--device", "cpu", "--copy", "--io", "direct", "--threads", "2", "--check"]);
        let output = command.arg(testdata("rustdoc-llama-6m")).output().unwrap();
        let code = output.status.code().unwrap_or_else(|| panic!("{:?}", output.status));
        let said = err(&output);
        if code == 127 || said.contains("loading shared libraries") {
            continue; // not even the program starts
        }
        assert!(code == 0 || code == 5, "limit {limit}: {code}\n{said}");
        assert_eq!(code == 5, said.contains("error: "), "{said}");
        codes.push(code);
    }
    assert!(codes.contains(&5) && codes.last() == Some(&0), "{codes:?}");
}

/// With next to no lockable memory the ring goes without registered buffers, and everything arrives.
#[test]
fn little_lockable_memory_is_enough() {
    if in_child("load::faults::little_lockable_memory_is_enough", "ulimit -l 0") {
        return;
    }
    let path = testdata("rustdoc-llama-6m");
    let options = Options { form: Form::Owned, io: Io::Direct, check: true, ..to_cpu() };
    let direct = loaded(&path, options).unwrap();
    let mapped = loaded(&path, Options { check: true, ..to_cpu() }).unwrap();
    assert_eq!(direct.report.check, mapped.report.check);
}

/// The queue that reads at once: reads in order, short at the file's end, errors as they are; then its twin on the ring.
#[test]
fn queues_read_alike() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = place.path().join("file");
    let data = crate::plan::noise(10_000, 3);
    std::fs::write(&path, &data).unwrap();
    let mut queues = vec![Queue::<u64>::blocking()];
    match Queue::uring(4, &[]) {
        Ok(ring) => queues.push(ring),
        Err(e) => eprintln!("SKIPPED: no io_uring here ({e})"),
    }
    let direct = LocalFile::open(&path).unwrap();
    let direct = match direct.direct() {
        Ok(file) => Arc::clone(file),
        Err(e) => {
            eprintln!("SKIPPED: no direct reads here ({e}); through the page cache");
            Arc::new(std::fs::File::open(&path).unwrap())
        }
    };
    let no_reading = Arc::new(std::fs::OpenOptions::new().write(true).custom_flags(0).open(&path).unwrap());
    for mut queue in queues {
        assert!(queue.complete().is_none());
        let (_ring, slots) = Ring::new(5, 8192).unwrap();
        let jobs = [
            (&direct, 0, 8192, Ok(8192)),
            (&direct, 4096, 4096, Ok(4096)),
            (&direct, 8192, 8192, Ok(10_000 - 8192)),
            (&direct, 12_288, 4096, Ok(0)),
        ];
        for ((file, offset, size, _), (tag, slot)) in jobs.iter().zip((0u64..).zip(slots)) {
            queue.submit(file, slot, *offset, *size, tag);
        }
        assert_eq!(queue.in_flight(), 4);
        let mut seen = 0;
        while let Some(arrived) = queue.complete() {
            let (_, offset, _, expected): (_, u64, usize, Result<usize, ()>) = jobs[arrived.tag as usize];
            let count = arrived.result.unwrap();
            assert_eq!(Ok(count), expected, "read {}", arrived.tag);
            let right = data.get(offset as usize..offset as usize + count).unwrap_or(&[]);
            assert_eq!(&arrived.slot[..count], right, "read {}", arrived.tag);
            seen += 1;
        }
        assert_eq!((seen, queue.in_flight()), (4, 0));
        let (_ring, mut slots) = Ring::new(1, 8192).unwrap();
        queue.submit(&no_reading, slots.remove(0), 0, 4096, 9);
        let arrived = queue.complete().unwrap();
        assert_eq!((arrived.tag, arrived.result.unwrap_err().raw_os_error()), (9, Some(libc::EBADF)));
    }
    assert_eq!(std::fs::File::open(&path).unwrap().read_at(&mut [0; 1], 0).unwrap(), 1);
}

/// Several buffers at once, each of them filled; what the file does not hold is an error.
#[test]
fn vectored_reads_fill_every_buffer() {
    use std::io::IoSliceMut;
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("file");
    let data = crate::plan::noise(10_000, 4);
    std::fs::write(&path, &data).unwrap();
    let file = LocalFile::open(&path).unwrap();
    for (sizes, offset, fits) in [
        (&[10usize, 0, 4000, 1][..], 7u64, true),
        (&[10_000], 0, true),
        (&[5000, 4000, 1000], 0, true),
        (&[5000, 4000, 1001], 0, false),
        (&[1], 10_000, false),
        (&[], 0, true),
    ] {
        let mut buffers: Vec<Vec<u8>> = sizes.iter().map(|&n| vec![0; n]).collect();
        let mut slices: Vec<IoSliceMut<'_>> = buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();
        let result = file.read_vectored_at(&mut slices, offset);
        drop(slices);
        match result {
            Ok(()) => {
                assert!(fits, "{sizes:?}");
                assert_eq!(buffers.concat(), data[offset as usize..][..sizes.iter().sum()], "{sizes:?}");
            }
            Err(error) => {
                assert!(!fits, "{sizes:?}: {error}");
                assert_eq!(error.kind(), ErrorKind::BadInput, "{error}");
            }
        }
    }
}

/// `hoist load` under strace with system calls that fail to order; `None` where there is no strace, said aloud.
fn injected(inject: &[&str], arguments: &[&str]) -> Option<std::process::Output> {
    static WORKS: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    let works = WORKS.get_or_init(|| {
        Command::new("strace")
            .args(["-qq", "-o", "/dev/null", "true"])
            .output()
            .is_ok_and(|o| o.status.success())
    });
    if !works {
        eprintln!("SKIPPED: no strace here, so no system call can be made to fail");
        return None;
    }
    let mut command = Command::new("timeout");
    clean(&mut command);
    command.args(["--kill-after=1", "20", "strace", "-f", "-qq", "-o", "/dev/null"]);
    command.args([
        "-e",
        "trace=pread64,preadv,preadv2,io_uring_setup,io_uring_register,io_uring_enter,madvise,statx",
    ]);
    for spec in inject {
        command.args(["-e", &format!("inject={spec}")]);
    }
    command.args([env!("CARGO_BIN_EXE_hoist"), "load", "--device", "cpu", "--json"]).args(arguments);
    Some(command.arg(testdata("rustdoc-llama-6m")).output().unwrap())
}

/// EIO from the n-th read of each thread, n = 1, 2, 3 … until a load passes: the system's error, or the right bytes by
/// another way. A refused ring is done without.
#[test]
fn failing_system_calls_are_errors_or_done_without() {
    let right = load_json(&testdata("rustdoc-llama-6m"), &["--check"])["digest"].clone();
    let check = |output: &std::process::Output, what: &str| -> bool {
        if output.status.code() == Some(127) {
            return false; // the dynamic loader's own reads come first
        }
        let code = output.status.code().unwrap_or_else(|| panic!("{what}: {:?}", output.status));
        match code {
            0 => {
                assert_eq!(document(output)["digest"], right, "{what}");
                true
            }
            5 => {
                assert!(err(output).contains("error: "), "{what}: {}", err(output));
                assert!(output.stdout.is_empty(), "{what}");
                false
            }
            _ => panic!("{what}: {code}\n{}", err(output)),
        }
    };
    for (ways, always, must_fail) in [
        (&["pread64"][..], &[][..], true),
        (&["pread64"], &["io_uring_setup:error=EPERM"], false),
        (&["io_uring_enter"], &[], false),
        (&["pread64"], &["io_uring_register:error=ENOMEM"], false),
    ] {
        let io = if always.is_empty() && ways[0] == "pread64" { "buffered" } else { "direct" };
        let mut failed = 0;
        for n in (1..).take(if must_fail { 40 } else { 6 }) {
            let specs: Vec<String> = ways
                .iter()
                .map(|w| format!("{w}:error=EIO:when={n}"))
                .chain(always.iter().map(|s| s.to_string()))
                .collect();
            let specs: Vec<&str> = specs.iter().map(String::as_str).collect();
            let Some(output) = injected(&specs, &["--copy", "--check", "--threads", "1", "--io", io]) else {
                return;
            };
            let passed = check(&output, &format!("{specs:?}"));
            failed += usize::from(!passed);
            if passed && must_fail {
                break;
            }
        }
        assert!(!must_fail || failed > 2, "{ways:?}: only {failed} failed");
    }
    // Without registered buffers the ring still reads.
    let Some(output) =
        injected(&["io_uring_register:error=ENOMEM"], &["--copy", "--check", "--io", "direct"])
    else {
        return;
    };
    assert!(check(&output, "unregistered buffers"));
    let path = &document(&output)["path"];
    if path["direct_bytes"].as_u64().unwrap() > 0 && Queue::<()>::uring(1, &[]).is_ok() {
        assert_eq!(path["io_uring"], true, "{path}");
    }
    // A map that cannot be made present.
    let Some(output) = injected(&["madvise:error=EIO:when=2+"], &["--check"]) else { return };
    check(&output, "madvise");
}

/// SIGINT while reads are slow: the host's load ends within a second too.
#[test]
fn a_signal_ends_slow_reads() {
    if injected(&[], &["--dry-run"]).is_none() {
        return;
    }
    let mut command = Command::new("strace");
    clean(&mut command);
    command.args([
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=pread64",
        "-e",
        "inject=pread64:delay_enter=150000",
    ]);
    command.args([
        env!("CARGO_BIN_EXE_hoist"),
        "load",
        "--device",
        "cpu",
        "--copy",
        "--check",
        "--threads",
        "1",
    ]);
    command.args(["--io", "buffered"]).arg(testdata("rustdoc-llama-6m"));
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut strace = command.spawn().unwrap();
    // Until the load itself begins; then it has eight slow reads before it.
    let mut said = std::io::BufReader::new(strace.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with('→') {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "it ended before");
    }
    let children = format!("/proc/{0}/task/{0}/children", strace.id());
    let hoist = std::fs::read_to_string(children).unwrap().trim().to_string();
    let begun = std::time::Instant::now();
    assert!(Command::new("kill").args(["-INT", &hoist]).status().unwrap().success(), "it ended before");
    line.clear();
    said.read_to_string(&mut line).unwrap();
    let status = strace.wait().unwrap();
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(status.code(), Some(130), "{line}");
    assert!(line.contains("error: stopped by SIGINT"), "{line}");
}

/// A large model in memory that is only just enough for its descriptors: the limit of address space ends in words.
#[test]
fn no_address_space_is_no_memory() {
    let path = synthetic(320);
    let mut command = Command::new("bash");
    command.args(["-c", "ulimit -v 250000 && exec \"$@\"", "bash", env!("CARGO_BIN_EXE_hoist")]);
    clean(&mut command);
    let output =
        command.args(["load", "--device", "cpu", "--copy", "--threads", "2"]).arg(path).output().unwrap();
    assert_eq!(output.status.code(), Some(8), "{}", err(&output));
    assert!(err(&output).contains("error: "), "{}", err(&output));
}
