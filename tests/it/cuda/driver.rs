//! The driver's room, call by call, and the device's choice, on the emulated driver.
// The calls under test are unsafe by nature: what they touch is in plain sight in each test.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

use super::{emulated, library, outside, with_libraries, with_library};
use hoist::ErrorKind;
use hoist::sink::cuda::driver::{Copy2d, Fault, From2d, Gpu, Presence, devices, presence};
use hoist::sink::device::{Device, DeviceSpec, detect};

/// Opens device 0 and makes sure that it is the double.
pub fn open() -> Gpu {
    let gpu = Gpu::open(0).unwrap();
    assert!(gpu.facts().emulated, "not the double: {:?}", gpu.facts());
    gpu
}

/// This machine's GPU, if it has one that works; in a child there is only the double.
pub fn real_gpu() -> Option<Gpu> {
    if super::inside() || !matches!(presence(), Presence::Present { .. }) {
        return None;
    }
    let gpu = Gpu::open(0).unwrap();
    assert!(!gpu.facts().emulated, "the double is where a driver should be");
    Some(gpu)
}

/// Page-aligned host memory.
fn pages(size_bytes: usize) -> memmap2::MmapMut {
    memmap2::MmapMut::map_anon(size_bytes).unwrap()
}

/// Bytes that differ from place to place and from seed to seed.
fn pattern(seed: u8, size_bytes: usize) -> Vec<u8> {
    (0..size_bytes).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] ^ seed).collect()
}

#[test]
fn facts_of_the_device() {
    let switches = [("FAKE_CUDA_DEVICES", "2"), ("FAKE_CUDA_CC", "8.6"), ("FAKE_CUDA_INTEGRATED", "1")];
    let check = |run: &super::Run| {
        run.passed();
    };
    if outside("cuda::driver::facts_of_the_device", &switches, check) {
        return;
    }
    assert_eq!(presence(), Presence::Present { cuda_version: 12080, device_count: 2 });
    let all = devices().unwrap();
    assert_eq!(all.len(), 2);
    let gpu = Gpu::open(1).unwrap();
    let facts = gpu.facts();
    assert_eq!(*facts, all[1]);
    assert_eq!(facts.name, "EMULATED H200-like (no GPU)");
    assert_eq!(facts.uuid, "GPU-e1e00000-face-4000-8000-0e0000000001");
    assert_eq!(facts.pci_id, "0000:3c:00.0");
    assert_eq!((facts.compute_capability, facts.integrated, facts.emulated), ((8, 6), true, true));
    assert_eq!(gpu.memory().unwrap().total_bytes, facts.memory_bytes);
    assert_eq!(Gpu::open(2).err().map(|f| f.code), Some(101));
}

#[test]
fn copies_in_and_out() {
    let check = |run: &super::Run| {
        let report = run.passed();
        assert_eq!(report.count("pageable_copies"), 0);
        assert!(report.count("peak_bytes") >= 3 << 20);
        assert_eq!(report.count("registered_peak_bytes"), 2 << 20);
    };
    if outside("cuda::driver::copies_in_and_out", &[("FAKE_CUDA_COPY_US", "10000")], check) {
        return;
    }
    let gpu = open();
    let size = 1 << 20;
    let free = gpu.memory().unwrap().free_bytes;
    let (a, b) = (gpu.alloc(size as u64).unwrap(), gpu.alloc(2 * size as u64).unwrap());
    assert_eq!(gpu.memory().unwrap().free_bytes, free - 3 * size as u64);
    assert!(a.address().is_multiple_of(256));

    let mut host = pages(2 * size);
    let registered = unsafe { gpu.register(host.as_mut_ptr(), 2 * size) }.unwrap();
    let twice = unsafe { gpu.register(host.as_mut_ptr(), 4096) };
    assert_eq!(twice.err().map(|f| f.code), Some(712));
    host[..size].copy_from_slice(&pattern(1, size));

    let (stream, other, event) = (gpu.stream().unwrap(), gpu.stream().unwrap(), gpu.event().unwrap());
    assert!(event.is_done().unwrap(), "never recorded counts as reached");
    unsafe {
        stream.host_to_device(a.address(), host.as_ptr(), size).unwrap();
        event.record(&stream).unwrap();
        // The second stream copies on only after the first has arrived.
        other.wait_for(&event).unwrap();
        other.device_to_device(b.address() + size as u64, a.address(), size).unwrap();
        other.fill_u8(b.address(), 7, 3).unwrap();
        other.fill_u32(b.address() + 4, 0x0403_0201, 1).unwrap();
        other.device_to_host(host.as_mut_ptr().add(size), b.address() + size as u64, size).unwrap();
    }
    assert!(!other.is_done().unwrap());
    event.synchronize().unwrap();
    assert!(event.is_done().unwrap());
    other.synchronize().unwrap();
    assert!(host[size..] == pattern(1, size), "what came back is not what was sent");
    unsafe { other.device_to_host(host.as_mut_ptr(), b.address(), 8).unwrap() };
    other.synchronize().unwrap();
    assert_eq!(host[..8], [7, 7, 7, 0xa5, 1, 2, 3, 4], "new device memory is garbage, and fills are exact");

    // A worker of another thread binds, or is told.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            gpu.bind().unwrap();
            gpu.memory().unwrap();
        });
    });
    let (start, end) = (gpu.timing_event().unwrap(), gpu.timing_event().unwrap());
    start.record(&stream).unwrap();
    unsafe { stream.host_to_device(a.address(), host.as_ptr(), size).unwrap() };
    end.record(&stream).unwrap();
    end.synchronize().unwrap();
    assert!(end.seconds_since(&start).unwrap() >= 0.009);
    drop(registered);
    a.free().unwrap();
    b.free().unwrap();
    assert_eq!(gpu.memory().unwrap().free_bytes, free);
}

#[test]
fn rows_are_placed() {
    let check = |run: &super::Run| {
        run.passed();
    };
    if !outside("cuda::driver::rows_are_placed", &[], check) {
        check_rows(&open());
    }
}

/// The same on a real GPU, where there is one.
#[test]
fn rows_are_placed_on_a_gpu() {
    match real_gpu() {
        Some(gpu) => check_rows(&gpu),
        None => eprintln!("skipped: no GPU"),
    }
}

fn check_rows(gpu: &Gpu) {
    let host = pattern(3, 7 * 10);
    let mut back = vec![0u8; 16 * 8];
    let stream = gpu.stream().unwrap();
    let (first, second) = (gpu.alloc(128).unwrap(), gpu.alloc(128).unwrap());
    unsafe {
        stream.fill_u8(first.address(), 0, 128).unwrap();
        stream.fill_u8(second.address(), 0, 128).unwrap();
    }
    // Seven rows of ten bytes, of which five from the third on, into rows of sixteen; then four of those into eights.
    let copies = [
        Copy2d {
            source: From2d::Host(host[2..].as_ptr()),
            source_pitch_bytes: 10,
            target: first.address() + 1,
            target_pitch_bytes: 16,
            row_bytes: 5,
            row_count: 7,
        },
        Copy2d {
            source: From2d::Device(first.address() + 1),
            source_pitch_bytes: 16,
            target: second.address(),
            target_pitch_bytes: 8,
            row_bytes: 4,
            row_count: 7,
        },
    ];
    let mut expected = vec![0u8; 128];
    for row in 0..7 {
        expected[row * 8..row * 8 + 4].copy_from_slice(&host[row * 10 + 2..row * 10 + 6]);
    }
    for copy in &copies {
        unsafe { stream.copy_2d(copy).unwrap() };
    }
    unsafe { stream.device_to_host(back.as_mut_ptr(), second.address(), 128).unwrap() };
    stream.synchronize().unwrap();
    assert_eq!(back, expected);
}

/// The double notices what a loader can get most wrong: here a slot is written again while its copy is under way.
#[test]
fn a_slot_reused_too_early_is_noticed() {
    let switches = [("FAKE_CUDA_COPY_US", "2000")];
    if outside("cuda::driver::a_slot_reused_too_early_is_noticed", &switches, |run| {
        run.passed();
    }) {
        return;
    }
    let (size, chunks) = (4096, 16);
    let gpu = open();
    let wrong_chunks = |wait: bool| {
        let device = gpu.alloc((size * chunks) as u64).unwrap();
        let mut ring = pages(2 * size);
        let _registered = unsafe { gpu.register(ring.as_mut_ptr(), 2 * size) }.unwrap();
        let stream = gpu.stream().unwrap();
        let events = [gpu.event().unwrap(), gpu.event().unwrap()];
        for chunk in 0..chunks {
            let slot = chunk % 2;
            if wait {
                events[slot].synchronize().unwrap();
            }
            ring[slot * size..][..size].copy_from_slice(&pattern(chunk as u8, size));
            let target = device.address() + (chunk * size) as u64;
            unsafe { stream.host_to_device(target, ring[slot * size..].as_ptr(), size).unwrap() };
            events[slot].record(&stream).unwrap();
        }
        stream.synchronize().unwrap();
        let mut back = vec![0u8; size * chunks];
        unsafe { stream.device_to_host(back.as_mut_ptr(), device.address(), back.len()).unwrap() };
        stream.synchronize().unwrap();
        (0..chunks).filter(|&c| back[c * size..][..size] != pattern(c as u8, size)).count()
    };
    assert_eq!(wrong_chunks(true), 0);
    assert!(wrong_chunks(false) > 0, "a ring without waiting must give wrong bytes on the double");
}

/// A small load: what the injected failures strike.
fn small_load() -> Result<(), Fault> {
    let gpu = Gpu::open(0)?;
    let first = gpu.alloc(4096)?;
    let second = gpu.alloc(4096)?;
    let mut host = pages(8192);
    let registered = unsafe { gpu.register(host.as_mut_ptr(), 8192)? };
    let (stream, event) = (gpu.stream()?, gpu.event()?);
    unsafe {
        stream.host_to_device(first.address(), host.as_ptr(), 4096)?;
        stream.host_to_device(second.address(), host.as_ptr(), 4096)?;
        event.record(&stream)?;
    }
    event.synchronize()?;
    event.is_done()?;
    unsafe { stream.device_to_host(host.as_mut_ptr(), second.address(), 4096)? };
    stream.synchronize()?;
    drop(registered);
    first.free()?;
    second.free()
}

#[test]
fn each_failure_is_an_error_and_nothing_leaks() {
    const NAME: &str = "cuda::driver::each_failure_is_an_error_and_nothing_leaks";
    const WANTED: &str = "HOIST_TEST_WANTED";
    if super::inside() {
        let wanted = std::env::var(WANTED).unwrap();
        let got = match small_load() {
            Ok(()) => "ok".to_owned(),
            Err(fault) => {
                format!("{}={} {}", fault.call, fault.code, hoist::Error::from(fault).kind().exit_code())
            }
        };
        let right = if wanted.starts_with('=') { got.ends_with(&wanted) } else { got == wanted };
        assert!(right, "expected {wanted}, got {got}");
        return;
    }
    #[rustfmt::skip]
    let rows = [
        ("", "ok"),
        ("FAKE_CUDA_FAIL=cuDevicePrimaryCtxRetain:1=2", "cuDevicePrimaryCtxRetain=2 8"),
        ("FAKE_CUDA_FAIL=cuMemAlloc_v2:1=2", "cuMemAlloc_v2=2 8"),
        ("FAKE_CUDA_FAIL=cuMemAlloc_v2:2=2", "cuMemAlloc_v2=2 8"),
        ("FAKE_CUDA_MEM=4096", "cuMemAlloc_v2=2 8"),
        ("FAKE_CUDA_REGISTER=refuse", "cuMemHostRegister_v2=801 10"),
        ("FAKE_CUDA_FAIL=cuStreamCreate:1=2", "cuStreamCreate=2 8"),
        ("FAKE_CUDA_FAIL=cuEventCreate:1=999", "cuEventCreate=999 10"),
        ("FAKE_CUDA_FAIL=cuMemcpyHtoDAsync_v2:2=700", "cuMemcpyHtoDAsync_v2=700 10"),
        // The work fails, not the call: whoever asks next is told, so the call does not count.
        ("FAKE_CUDA_FAIL=cuMemcpyHtoDAsync_v2:2=~719", "=719 10"),
        ("FAKE_CUDA_FAIL=cuMemcpyDtoHAsync_v2:1=~714", "=714 10"),
        ("FAKE_CUDA_FAIL=cuEventQuery:1=700", "cuEventQuery=700 10"),
        ("FAKE_CUDA_FAIL=cuStreamSynchronize:1=46", "cuStreamSynchronize=46 10"),
        ("FAKE_CUDA_INIT=802", "cuInit=802 10"),
        ("FAKE_CUDA_FAIL=cuDeviceGetCount:1=999", "cuDeviceGetCount=999 10"),
    ];
    for (switch, wanted) in rows {
        let (name, value) = switch.split_once('=').unwrap_or(("FAKE_CUDA_FAIL", ""));
        // Slow copies, so that work is under way when a failure strikes.
        let run = emulated().env(name, value).env(WANTED, wanted).env("FAKE_CUDA_COPY_US", 500).test(NAME);
        println!("{switch}");
        run.passed();
    }
}

/// Fails the first, second, third … call of every function that a small load uses: each run ends with an error or
/// well, never with a panic, and gives everything back.
#[test]
fn any_call_may_fail() {
    const NAME: &str = "cuda::driver::any_call_may_fail";
    if super::inside() {
        if let Err(fault) = small_load() {
            eprintln!("{fault}");
        }
        return;
    }
    let clean = emulated().test(NAME);
    let calls = clean.passed().0["calls"].as_object().unwrap().clone();
    assert!(calls.len() > 20, "{calls:?}");
    for (name, count) in &calls {
        // What gives back and fails leaves a leak by definition.
        if ["Free", "Unregister", "Destroy", "Release"].iter().any(|part| name.contains(part)) {
            continue;
        }
        for nth in 1..=count.as_u64().unwrap() {
            let failure = format!("{name}:{nth}=999");
            let run = emulated().env("FAKE_CUDA_FAIL", &failure).test(NAME);
            println!("{failure}");
            run.passed();
            let harmless =
                ["cuDeviceGetUuid_v2", "cuCtxGetCurrent", "cuCtxSetCurrent"].contains(&name.as_str());
            let said =
                String::from_utf8_lossy(&run.output.stderr).contains(&format!("`{name}` failed with 999"));
            assert!(said || harmless, "{failure} was not told");
        }
    }
}

#[test]
fn a_thread_that_forgot_to_bind_is_told() {
    let check = |run: &super::Run| {
        assert!(run.output.status.success(), "{:?}", run.output);
        assert!(run.used().misuse().unwrap().contains("no context is bound"));
    };
    if outside("cuda::driver::a_thread_that_forgot_to_bind_is_told", &[], check) {
        return;
    }
    let gpu = open();
    let answer = std::thread::scope(|scope| scope.spawn(|| gpu.memory()).join().unwrap());
    assert_eq!(answer.err().map(|f| f.code), Some(201));
}

/// The double refuses what would be a fault on a device: this is what the other tests rely on.
#[test]
fn the_double_checks_addresses() {
    let check = |run: &super::Run| {
        assert!(run.output.status.success(), "{:?}", run.output);
        let misuse = run.used().misuse().unwrap();
        assert!(misuse.contains("do not lie in one allocation"), "{misuse}");
        assert_eq!(run.used().count("pageable_copies"), 1);
    };
    if outside("cuda::driver::the_double_checks_addresses", &[], check) {
        return;
    }
    let gpu = open();
    let (memory, stream) = (gpu.alloc(100).unwrap(), gpu.stream().unwrap());
    let host = [0u8; 200];
    for (offset, size, code) in [(0, 101, 1), (1, 100, 1), (200, 1, 1), (0, 100, 0)] {
        let answer = unsafe { stream.host_to_device(memory.address() + offset, host.as_ptr(), size) };
        assert_eq!(answer.err().map_or(0, |f| f.code), code, "{size} bytes at {offset}");
    }
    assert_eq!(gpu.module("not PTX").err().map(|f| f.code), Some(218));
    assert!(gpu.alloc(0).is_err());
}

/// Where a load goes: the real library look-up and the real environment.
#[test]
fn the_device_is_chosen() {
    const NAME: &str = "cuda::driver::the_device_is_chosen";
    const REQUEST: &str = "HOIST_TEST_REQUEST";
    const WANTED: &str = "HOIST_TEST_WANTED";
    if super::inside() {
        let request = std::env::var(REQUEST).unwrap();
        let spec: Option<DeviceSpec> = (!request.is_empty()).then(|| request.parse().unwrap());
        let got = match detect(spec.as_ref()) {
            Ok(choice) => match (choice.device, choice.reason) {
                (Device::Cpu, Some(reason)) => format!("cpu, {reason}"),
                (device, _) => device.to_string(),
            },
            Err(error) => format!("{} {error}", error.kind().exit_code()),
        };
        let wanted = std::env::var(WANTED).unwrap();
        assert!(got.starts_with(&wanted), "expected {wanted}\ngot      {got}");
        return;
    }
    let nodes = std::fs::read_dir("/dev")
        .unwrap()
        .flatten()
        .any(|e| e.file_name().to_string_lossy().starts_with("nvidia"));
    let none = if nodes { "10 `cuInit` failed with 100" } else { "cpu, no GPU: the driver sees none" };
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("", &[], "cuda:0"),
        ("", &[("FAKE_CUDA_NO_DEVICE", "1")], none),
        ("cuda", &[("FAKE_CUDA_NO_DEVICE", "1")], "10 --device asks for `cuda`: `cuInit` failed with 100 (CUDA_ERROR_NO_DEVICE)"),
        ("", &[("FAKE_CUDA_INIT", "34")], "cpu, no GPU: the libcuda found is a toolkit's stub"),
        ("", &[("FAKE_CUDA_INIT", "802")], "10 `cuInit` failed with 802 (CUDA_ERROR_SYSTEM_NOT_READY)\n  the GPUs are not ready"),
        ("", &[("FAKE_CUDA_INIT", "803")], "10 `cuInit` failed with 803 (CUDA_ERROR_SYSTEM_DRIVER_MISMATCH)"),
        ("cpu", &[("FAKE_CUDA_INIT", "802")], "cpu"),
        ("", &[("CUDA_VISIBLE_DEVICES", "")], "cpu, CUDA_VISIBLE_DEVICES"),
        ("", &[("HOIST_FORCE_CPU", "1")], "cpu, HOIST_FORCE_CPU"),
        ("cuda:1", &[("HOIST_FORCE_CPU", "1")], "2 --device"),
        ("cuda:1", &[], "10 cuda:1 is not there: CUDA shows 1 GPU"),
        ("cuda:1", &[("FAKE_CUDA_DEVICES", "2")], "cuda:1"),
        ("cuda:GPU-e1e0", &[("FAKE_CUDA_DEVICES", "2")], "cuda:1"),
        ("cuda:GPU-e1e0", &[("FAKE_CUDA_DEVICES", "2"), ("CUDA_VISIBLE_DEVICES", "1")], "cuda:0"),
        ("", &[("HOIST_DEVICE", "cuda:GPU-e1"), ("FAKE_CUDA_DEVICES", "2")], "cuda:1"),
        ("", &[("CUDA_VISIBLE_DEVICES", "7")], if nodes { "10 CUDA_VISIBLE_DEVICES=`7`" } else { "10 CUDA_VISIBLE_DEVICES=`7` asks for a GPU: `cuInit` failed with 100" }),
    ];
    for (request, switches, wanted) in rows {
        let child = switches.iter().fold(emulated(), |child, (name, value)| child.env(name, value));
        let run = child.env(REQUEST, request).env(WANTED, wanted).test(NAME);
        assert!(run.output.status.success(), "{request} {switches:?}: {:?}", run.output);
        // For the CPU the driver stays closed; else it was the double that answered.
        assert_eq!(
            run.report.is_none(),
            wanted.starts_with("cpu, CUDA")
                || wanted.starts_with("cpu, HOIST")
                || *wanted == "cpu"
                || wanted.starts_with("2 "),
            "{request} {switches:?}"
        );
    }
}

#[test]
fn no_library_or_a_wrong_one() {
    const NAME: &str = "cuda::driver::no_library_or_a_wrong_one";
    const WHICH: &str = "HOIST_TEST_WHICH";
    if super::inside() {
        let asked = detect(Some(&DeviceSpec::Cuda));
        match std::env::var(WHICH).unwrap().as_str() {
            "none" => {
                if presence() != Presence::NoLibrary {
                    eprintln!("skipped: this machine has a driver library of its own");
                    return;
                }
                let choice = detect(None).unwrap();
                assert_eq!(choice.reason.as_deref(), Some("no GPU: libcuda.so.1 not found"));
                assert!(
                    asked
                        .unwrap_err()
                        .to_string()
                        .starts_with("--device asks for `cuda`: libcuda.so.1 not found")
                );
                assert_eq!(Gpu::open(0).err().unwrap().to_string(), "libcuda.so.1 not found");
                assert!(devices().is_err());
            }
            // The driver is found although something else, a stub say, has the name for linking.
            "stub" => assert!(open().facts().emulated),
            // A library without the driver's functions is an error of the driver, not a panic.
            _ => {
                let error = detect(None).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Driver);
                assert!(error.to_string().starts_with("the driver's library has no `cuInit`"), "{error}");
            }
        }
        return;
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let other = maps.split_whitespace().find(|word| word.starts_with('/') && word.contains("libgcc_s"));
    let other = other.map(std::path::Path::new);
    for (which, library) in [("none", None), ("wrong", other)] {
        if which == "wrong" && other.is_none() {
            eprintln!("skipped: no other library to take");
            continue;
        }
        let run = with_library(library).env(WHICH, which).test(NAME);
        assert!(run.output.status.success(), "{which}: {:?}", run.output);
        assert!(run.report.is_none());
    }
    if other.is_some() {
        with_libraries(other, Some(library())).env(WHICH, "stub").test(NAME).passed();
    }
}

/// Device memory of the double is counted apart from the process's own, so that a test can say what a load takes.
#[test]
fn device_memory_is_not_host_memory() {
    let check = |run: &super::Run| {
        run.passed();
    };
    if outside("cuda::driver::device_memory_is_not_host_memory", &[], check) {
        return;
    }
    let resident = |which: &str| -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with(which)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    };
    let gpu = open();
    let (anonymous, shared) = (resident("RssAnon:"), resident("RssShmem:"));
    let memory = gpu.alloc(64 << 20).unwrap();
    assert!(resident("RssShmem:") >= shared + (64 << 20));
    assert!(resident("RssAnon:") < anonymous + (8 << 20));
    memory.free().unwrap();
    assert!(resident("RssShmem:") < shared + (8 << 20));
}
