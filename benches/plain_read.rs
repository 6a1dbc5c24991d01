//! The plain rival: what anyone could write in an afternoon, with no format, no check and no plan, so that hoist's own
//! overhead shows. It prints one JSON line with the fields of `hoist load --json`.
//!
//! ```text
//! plain_read [--threads N] [--chunk BYTES] [--reps N] FILE…      read all payload into fresh memory
//! plain_read --populate … FILE…                                  map the files, make every page present
//! plain_read --h2d-free … FILE…                                  read all payload into one reused chunk a thread
//! plain_read --resident FILE…                                    only say how much the page cache holds
//! plain_read --exec REPORT COMMAND…                              run a command, write its time and memory to REPORT
//! ```
//!
//! Payload is all that follows the header of a safetensors file; other files are read whole. Timed is the call as a
//! loader's is: making room, then reading; not the start of the process, not giving the memory back. The memory is as
//! fresh as a loader's must be: mapped within the timed region, huge pages advised, never touched before.
//!
//! `--h2d-free` is the rival of a load to a device whose copies cost nothing (the emulated driver with
//! `FAKE_CUDA_FREE_COPIES=1`): the bytes only have to pass through host memory.
#![allow(
    unsafe_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit
)]

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("plain_read measures Linux only");
    std::process::exit(9);
}

#[cfg(target_os = "linux")]
fn main() {
    linux::main();
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, exit};
    use std::ptr::null_mut;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Instant;

    const HUGE_PAGE_BYTES: usize = 2 << 20;

    #[derive(Clone, Copy, PartialEq)]
    enum Mode {
        Read,
        Populate,
        H2dFree,
        Resident,
    }

    pub(crate) fn main() {
        let mut arguments: Vec<String> = std::env::args().skip(1).collect();
        if arguments.first().is_some_and(|a| a == "--exec") {
            arguments.remove(0);
            execute(&arguments);
        }
        let mut mode = Mode::Read;
        let mut threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut chunk_bytes = 2 << 20;
        let mut reps = 1;
        let mut files = Vec::new();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut number = || -> usize {
                let value = arguments.next().and_then(|v| v.parse().ok()).filter(|&v| v > 0);
                value.unwrap_or_else(|| usage(&format!("{argument} needs a number above zero")))
            };
            match argument.as_str() {
                "--threads" => threads = number(),
                "--chunk" => chunk_bytes = number(),
                "--reps" => reps = number(),
                "--populate" => mode = Mode::Populate,
                "--h2d-free" => mode = Mode::H2dFree,
                "--resident" => mode = Mode::Resident,
                flag if flag.starts_with('-') => usage(&format!("no flag {flag}")),
                _ => files.push(argument),
            }
        }
        if files.is_empty() {
            usage("no files");
        }
        let files: Vec<Input> = files.iter().map(|path| Input::open(path)).collect();
        if mode == Mode::Resident {
            println!("{}", resident(&files));
            return;
        }
        for _ in 0..reps {
            measure(mode, &files, threads, chunk_bytes);
        }
    }

    fn usage(what: &str) -> ! {
        eprintln!(
            "plain_read: {what}\nusage: plain_read [--populate|--h2d-free|--resident] [--threads N] [--chunk BYTES] [--reps N] FILE…\n       plain_read --exec REPORT COMMAND…"
        );
        exit(2);
    }

    fn fail(what: &str) -> ! {
        eprintln!("plain_read: {what}: {}", std::io::Error::last_os_error());
        exit(5);
    }

    struct Input {
        file: File,
        path: String,
        start: usize,
        size: usize,
    }

    impl Input {
        fn open(path: &str) -> Input {
            let file = File::open(path).unwrap_or_else(|e| {
                eprintln!("plain_read: {path}: {e}");
                exit(3);
            });
            let size = file.metadata().expect("metadata").len() as usize;
            let mut length = [0; 8];
            let start = match path.ends_with(".safetensors") && file.read_exact_at(&mut length, 0).is_ok() {
                true => 8usize.saturating_add(u64::from_le_bytes(length) as usize),
                false => 0,
            };
            if start > size {
                eprintln!("plain_read: {path}: its header is longer than the file");
                exit(1);
            }
            Input { file, path: path.to_owned(), start, size }
        }
    }

    /// A piece of work: which file, where in it, how many bytes, where in the buffer.
    struct Chunk {
        file: usize,
        offset: usize,
        size: usize,
        to: usize,
    }

    fn chunks(files: &[Input], chunk_bytes: usize, whole: bool) -> (Vec<Chunk>, usize) {
        let (mut chunks, mut to) = (Vec::new(), 0);
        for (file, input) in files.iter().enumerate() {
            let mut offset = if whole { 0 } else { input.start };
            while offset < input.size {
                let size = chunk_bytes.min(input.size - offset);
                chunks.push(Chunk { file, offset, size, to });
                offset += size;
                to += size;
            }
        }
        (chunks, to)
    }

    /// Memory that nobody touched yet, given back when dropped.
    struct Fresh {
        base: *mut u8,
        map: *mut libc::c_void,
        map_bytes: usize,
    }

    impl Fresh {
        fn new(size: usize) -> Fresh {
            let map_bytes = size + HUGE_PAGE_BYTES;
            // SAFETY: a new anonymous mapping overlaps nothing; its result is checked before use.
            let map = unsafe {
                let (protection, flags) = (
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                );
                libc::mmap(null_mut(), map_bytes, protection, flags, -1, 0)
            };
            if map == libc::MAP_FAILED {
                fail("mmap");
            }
            let skip = (map as usize).next_multiple_of(HUGE_PAGE_BYTES) - map as usize;
            // SAFETY: skip < HUGE_PAGE_BYTES, so base..base+size lies in the mapping. The advice changes no content.
            let base = unsafe {
                libc::madvise(map, map_bytes, libc::MADV_HUGEPAGE);
                map.cast::<u8>().add(skip)
            };
            Fresh { base, map, map_bytes }
        }
    }

    impl Drop for Fresh {
        fn drop(&mut self) {
            // SAFETY: the mapping was made by `new` and nobody holds a pointer into it any more.
            unsafe { libc::munmap(self.map, self.map_bytes) };
        }
    }

    /// A file mapped for reading, unmapped when dropped.
    struct Mapped {
        base: *mut libc::c_void,
        size: usize,
    }

    impl Mapped {
        fn new(input: &Input) -> Mapped {
            if input.size == 0 {
                return Mapped { base: null_mut(), size: 0 };
            }
            // SAFETY: a new mapping of an open file overlaps nothing; its result is checked before use.
            let base = unsafe {
                libc::mmap(
                    null_mut(),
                    input.size,
                    libc::PROT_READ,
                    libc::MAP_SHARED,
                    input.file.as_raw_fd(),
                    0,
                )
            };
            if base == libc::MAP_FAILED {
                fail("mmap");
            }
            Mapped { base, size: input.size }
        }
    }

    impl Drop for Mapped {
        fn drop(&mut self) {
            if self.size > 0 {
                // SAFETY: as in `Fresh`.
                unsafe { libc::munmap(self.base, self.size) };
            }
        }
    }

    #[derive(Clone, Copy)]
    struct Address(*mut u8);
    // SAFETY: the threads that share it write disjoint chunks, and it outlives them.
    unsafe impl Send for Address {}
    // SAFETY: as above.
    unsafe impl Sync for Address {}

    impl Address {
        fn at(self, offset: usize) -> *mut u8 {
            self.0.wrapping_add(offset)
        }
    }

    fn measure(mode: Mode, files: &[Input], threads: usize, chunk_bytes: usize) {
        let (work, total) = chunks(files, chunk_bytes, mode == Mode::Populate);
        let next = AtomicUsize::new(0);
        let take = || work.get(next.fetch_add(1, Ordering::Relaxed));
        let touched = AtomicBool::new(false);

        let (cpu, clock) = (cpu_seconds(libc::RUSAGE_SELF), Instant::now());
        let fresh = (mode == Mode::Read).then(|| Fresh::new(total));
        let maps: Vec<Mapped> =
            if mode == Mode::Populate { files.iter().map(Mapped::new).collect() } else { Vec::new() };
        let to = Address(fresh.as_ref().map_or(null_mut(), |f| f.base));
        let bases: Vec<Address> = maps.iter().map(|m| Address(m.base.cast())).collect();
        let one = || {
            let mut slot = match mode {
                Mode::H2dFree => vec![0u8; chunk_bytes],
                _ => Vec::new(),
            };
            while let Some(chunk) = take() {
                match mode {
                    Mode::Read => {
                        // SAFETY: to..to+total is mapped and writable; chunks are disjoint, so nobody else has this
                        // slice; anonymous memory reads as zeros, so it is initialised.
                        let slice = unsafe { std::slice::from_raw_parts_mut(to.at(chunk.to), chunk.size) };
                        read(&files[chunk.file], slice, chunk.offset);
                    }
                    Mode::H2dFree => read(&files[chunk.file], &mut slot[..chunk.size], chunk.offset),
                    _ => populate(bases[chunk.file].at(chunk.offset), chunk.size, &touched),
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(one);
            }
            one();
        });
        let (seconds, cpu) = (clock.elapsed().as_secs_f64(), cpu_seconds(libc::RUSAGE_SELF) - cpu);

        let path = match mode {
            Mode::Read => "pread into fresh memory",
            Mode::H2dFree => "pread into one chunk a thread",
            _ if touched.load(Ordering::Relaxed) => "mmap, touched",
            _ => "mmap, MADV_POPULATE_READ",
        };
        println!(
            r#"{{"tool":"plain_read","path":"{path}","bytes":{total},"seconds":{seconds:.6},"bytes_per_second":{:.0},"cpu_seconds":{cpu:.6},"peak_rss_bytes":{},"threads":{threads},"chunk_bytes":{chunk_bytes}}}"#,
            total as f64 / seconds.max(1e-9),
            peak_rss_bytes(libc::RUSAGE_SELF),
        );
        let _ = std::io::stdout().flush();
    }

    fn read(input: &Input, slice: &mut [u8], offset: usize) {
        if let Err(e) = input.file.read_exact_at(slice, offset as u64) {
            eprintln!("plain_read: {}: {e}", input.path);
            exit(5);
        }
    }

    fn populate(base: *mut u8, size: usize, touched: &AtomicBool) {
        const MADV_POPULATE_READ: i32 = 22;
        let page = page_bytes();
        let start = base as usize / page * page;
        let length = base as usize + size - start;
        if !touched.load(Ordering::Relaxed) {
            // SAFETY: the range lies in a mapping that outlives the call; populating changes no content.
            let done = unsafe { libc::madvise(start as *mut libc::c_void, length, MADV_POPULATE_READ) };
            if done == 0 {
                return;
            }
            // Before Linux 5.14 there is no such advice.
            if std::io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL) {
                fail("MADV_POPULATE_READ");
            }
            touched.store(true, Ordering::Relaxed);
        }
        for address in (start..start + length).step_by(page) {
            // SAFETY: the address lies in a readable mapping.
            unsafe { (address as *const u8).read_volatile() };
        }
    }

    /// The share of the files' pages that the page cache holds, by mincore.
    fn resident(files: &[Input]) -> f64 {
        let page = page_bytes();
        let (mut held, mut all) = (0usize, 0usize);
        for input in files.iter().filter(|f| f.size > 0) {
            let map = Mapped::new(input);
            let mut pages = vec![0u8; input.size.div_ceil(page)];
            // SAFETY: the vector has a byte for each page of the mapping.
            if unsafe { libc::mincore(map.base, map.size, pages.as_mut_ptr()) } != 0 {
                fail("mincore");
            }
            held += pages.iter().filter(|&&p| p & 1 == 1).count();
            all += pages.len();
        }
        held as f64 / all.max(1) as f64
    }

    fn page_bytes() -> usize {
        // SAFETY: asks for a constant of the system.
        unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
    }

    fn usage_of(who: i32) -> libc::rusage {
        // SAFETY: rusage is plain numbers, for which zeros are valid; getrusage fills it.
        unsafe {
            let mut usage = std::mem::zeroed();
            if libc::getrusage(who, &mut usage) != 0 {
                fail("getrusage");
            }
            usage
        }
    }

    fn cpu_seconds(who: i32) -> f64 {
        let usage = usage_of(who);
        let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
        seconds(usage.ru_utime) + seconds(usage.ru_stime)
    }

    fn peak_rss_bytes(who: i32) -> i64 {
        usage_of(who).ru_maxrss * 1024
    }

    /// Runs a command with our own standard streams and exits as it did. The report has what only the parent sees: the
    /// whole process's time, from before its start to after its end, and its peak of memory.
    fn execute(arguments: &[String]) -> ! {
        let [report, program, rest @ ..] = arguments else { usage("--exec needs a report and a command") };
        let clock = Instant::now();
        let mut child = Command::new(program).args(rest).spawn().unwrap_or_else(|e| {
            eprintln!("plain_read: {program}: {e}");
            exit(3);
        });
        let status = child.wait().expect("a child of ours can be waited for");
        let seconds = clock.elapsed().as_secs_f64();
        // The only children are the command and what it waited for.
        let line = format!(
            "{{\"tool\":\"exec\",\"seconds\":{seconds:.6},\"cpu_seconds\":{:.6},\"peak_rss_bytes\":{},\"exit_code\":{}}}\n",
            cpu_seconds(libc::RUSAGE_CHILDREN),
            peak_rss_bytes(libc::RUSAGE_CHILDREN),
            status.code().unwrap_or(-1),
        );
        if let Err(e) = std::fs::write(report, line) {
            eprintln!("plain_read: {report}: {e}");
            exit(5);
        }
        exit(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
    }
}
