//! The choice of codes by itself, in CPU seconds of one thread, as `rivals/quantize.py` times a package's: what a scheme
//! quantises of a model is read into memory, and then, timed, widened to f32 and given its scales, zero points and codes by
//! the same function that `hoist quantize` calls, in bands of the same length. Nothing is read, packed or written in that time.
//!
//! ```text
//! choose_codes MODEL [SCHEME] [--symmetric|--asymmetric]      e.g. choose_codes model int4
//! ```
//!
//! Prints one JSON line with the fields of the package's.
#![allow(missing_docs, clippy::print_stdout)]

use hoist::dtype::DType;
use hoist::error::{Error, Result};
use hoist::plan::weave::Limits;
use hoist::transform::cast::cast;
use hoist::transform::packing::Band;
use hoist::{open, quantize};
use rustix::time::{ClockId, clock_gettime};
use std::hint::black_box;
use std::time::Instant;

fn cpu_seconds() -> f64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_symmetric = arguments.iter().any(|a| a == "--symmetric");
    arguments.retain(|a| !a.starts_with('-'));
    let path = arguments
        .first()
        .ok_or_else(|| Error::bug("usage: choose_codes MODEL [SCHEME] [--symmetric|--asymmetric]"))?;
    let model = open::open(path, &open::Options::default())?;
    let mut options = quantize::Options::new("unwritten", arguments.get(1).map_or("int4", String::as_str))?;
    options.quantize.asked.symmetric = Some(is_symmetric);
    let plan = quantize::Plan::new(&model, &options)?;
    let mut matrices = Vec::new();
    for packed in &plan.conversion.recipe.packed {
        let tensor = model.table.tensors.iter().find(|t| t.name == packed.matrix.name);
        let tensor = tensor.ok_or_else(|| Error::bug("a matrix that is no tensor of the model"))?;
        let file =
            model.files.get(tensor.at.span.file.index()).ok_or_else(|| Error::bug("a tensor of no file"))?;
        let mut bytes = vec![0; tensor.size_bytes() as usize];
        file.read_exact_at(&mut bytes, tensor.at.span.offset_bytes)?;
        matrices.push((tensor.dtype, bytes, packed));
    }
    let (mut band, mut numbers) = (Band::default(), Vec::new());
    let mut pass = |count: usize| {
        for (dtype, bytes, packed) in matrices.iter().take(count) {
            let columns = packed.packing.columns as usize;
            let rows = (Limits::within(512 << 20).band_numbers as usize / columns).max(1);
            for bytes in bytes.chunks(rows * columns * dtype.facts().block_bytes as usize) {
                numbers.resize(bytes.len() / dtype.facts().block_bytes as usize, 0f32);
                cast(*dtype, DType::F32, bytes, bytemuck::cast_slice_mut(&mut numbers), false);
                packed.quantiser.quantise(&numbers, columns, &mut band);
                black_box(&band);
            }
        }
    };
    pass(1);
    let (wall, cpu) = (Instant::now(), cpu_seconds());
    pass(usize::MAX);
    let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let weights: u64 = plan.conversion.recipe.packed.iter().map(|p| p.packing.rows * p.packing.columns).sum();
    println!(
        "{}",
        serde_json::json!({
            "seconds": wall, "cpu_seconds": cpu, "weights": weights, "bytes": 2 * weights,
        })
    );
    Ok(())
}
