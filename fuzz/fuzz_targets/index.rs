#![no_main]

use hoist::format::shards::Index;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(index) = Index::parse(data) {
        // Each file is named once, and each by some tensor.
        let files = index.files();
        assert!(files.len() <= index.weight_map.len() && files.is_sorted());
    }
});
