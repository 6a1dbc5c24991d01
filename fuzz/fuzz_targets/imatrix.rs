#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    match hoist::format::imatrix::parse(data) {
        Err(e) => assert!(!e.to_string().is_empty()),
        Ok(file) => {
            let held: usize = file.entries.iter().map(|e| e.name.len() + 4 * e.means().len()).sum();
            assert!(!file.entries.is_empty() && held <= data.len(), "{held} bytes out of {}", data.len());
        }
    }
});
