#![no_main]

use hoist_fuzz::torch_zip_around;

libfuzzer_sys::fuzz_target!(|pickle: &[u8]| {
    hoist_fuzz::whole(&torch_zip_around(pickle), hoist::format::torch::parse_zip);
});
