//! Synthetic checkpoints: real names, shapes and config, made-up weights. Benchmarks and tests need models of any size
//! at hand, without a network and the same everywhere.
//!
//! **The same arguments give the same bytes**, whatever the number of threads and the sharding of the work: a byte
//! depends on the seed, its tensor's name and its place in the tensor, and on nothing else.
//!
//! Weights are drawn once, into a tile of a few megabytes, and each tensor reads the tile round and round from a start
//! of its own; so writing costs a copy and no arithmetic. The tile has a prime number of elements: no power of two and
//! no matrix's row is a multiple of it, so that a block of data put in the wrong place, as a faulty loader would put it,
//! never looks right by chance.

pub mod shape;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::format::layout::{self, Entry, Laid};
use crate::format::safetensors::layout as safetensors;
use crate::run;
use crate::run::job::{Control, Job};
use crate::sink::file::{self, DirectorySink, Existing, FileSink};
use shape::Shape;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// How tensors are spread over files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharding {
    /// So many files of about one size.
    Count(usize),
    /// Files of at most this many bytes of data.
    SizeBytes(u64),
}

/// What to make.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory to make; it must not be there yet, or be empty.
    pub out: PathBuf,
    /// Bytes of weights in all. Without it a preset or a width has its own.
    pub size_bytes: Option<u64>,
    /// A row of [`shape::PRESETS`] by its name; without one, a Llama in the usual proportions.
    pub preset: Option<String>,
    /// Layers; not together with a size, which decides them.
    pub layers: Option<u64>,
    /// Width; not together with a preset.
    pub hidden: Option<u64>,
    /// So many small tensors instead of a model.
    pub tensors: Option<u64>,
    /// Element type: f32, f16 or bf16.
    pub dtype: DType,
    /// Files.
    pub sharding: Sharding,
    /// Another seed gives other weights.
    pub seed: u64,
    /// Threads that write.
    pub threads: usize,
    /// Take what was written out of the page cache, so that the next read is a cold one (Linux).
    pub cold: bool,
}

impl Options {
    /// bf16 in one file, on as many threads as pay off.
    pub fn new(out: impl Into<PathBuf>) -> Options {
        Options {
            out: out.into(),
            size_bytes: None,
            preset: None,
            layers: None,
            hidden: None,
            tensors: None,
            dtype: DType::BF16,
            sharding: Sharding::Count(1),
            seed: 0,
            // More writers than this wait for each other in the file system.
            threads: std::thread::available_parallelism().map_or(1, usize::from).min(8),
            cold: false,
        }
    }
}

/// What will be written: pure, and the same for the same options.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The tensors, in the model's order.
    pub entries: Vec<Entry>,
    /// The files: name, which of the tensors, how they lie in it.
    pub files: Vec<(String, Range<usize>, Laid)>,
    /// What stands beside them: the index where there are several files, config.json where it is a model.
    pub companions: Vec<(String, String)>,
    /// Elements of all tensors.
    pub elements: u64,
    /// Bytes of all tensors.
    pub size_bytes: u64,
    /// Bytes of all files.
    pub file_bytes: u64,
}

/// What was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// How many tensors.
    pub tensors: usize,
    /// How many files of tensors.
    pub files: usize,
    /// Elements of all tensors.
    pub elements: u64,
    /// Bytes of all tensors.
    pub size_bytes: u64,
    /// Wall-clock seconds, the sync to disk included.
    pub seconds: f64,
    /// Threads that wrote.
    pub threads: usize,
}

/// Decides everything that can be decided without writing.
pub fn plan(options: &Options) -> Result<Plan> {
    let dtype = options.dtype;
    if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
        return Err(Error::unsupported(format!("synthetic weights of type `{dtype}`"))
            .hint("f32, f16 and bf16 can be made"));
    }
    let (entries, config) = match options.tensors {
        Some(count) => {
            if options.preset.is_some() || options.layers.is_some() || options.hidden.is_some() {
                return Err(Error::usage("many small tensors have no preset, layers or width"));
            }
            let size_bytes = options.size_bytes.unwrap_or_else(|| count.saturating_mul(64 << 10));
            (shape::many(count, size_bytes, dtype)?, None)
        }
        None => {
            let shape = choose(options)?;
            (shape.entries(dtype), Some(shape.config(dtype)))
        }
    };

    let sizes = entries.iter().map(Entry::size_bytes).collect::<Result<Vec<u64>>>()?;
    let shards = match options.sharding {
        Sharding::Count(0) | Sharding::SizeBytes(0) => {
            return Err(Error::usage("zero files, or files of zero bytes, hold nothing"));
        }
        Sharding::Count(count) => layout::split_by_count(&sizes, count),
        Sharding::SizeBytes(limit) => layout::split_by_size(&sizes, limit),
    };
    let count = shards.len();
    let metadata = [("format".to_owned(), "pt".to_owned())];
    let mut files = Vec::with_capacity(count);
    for (index, shard) in shards.into_iter().enumerate() {
        let name = layout::shard_name("model", "safetensors", index, count);
        let laid =
            safetensors::lay_out(&entries[shard.clone()], &metadata, None).map_err(|e| e.file(&name))?;
        files.push((name, shard, laid));
    }

    let too_large = || Error::usage("more bytes than any disk has");
    let sum = |values: &[u64]| values.iter().try_fold(0u64, |sum, &v| sum.checked_add(v));
    let size_bytes = sum(&sizes).ok_or_else(too_large)?;
    let file_sizes: Vec<_> = files.iter().map(|(.., laid)| laid.file_size_bytes).collect();
    let elements = size_bytes / u64::from(dtype.facts().block_bytes);
    let mut companions = Vec::new();
    if count > 1 {
        let map = files.iter().flat_map(|(file, shard, _)| {
            entries[shard.clone()].iter().map(|e| (e.name.as_str(), file.as_str()))
        });
        companions.push((
            layout::index_name("model", "safetensors"),
            layout::index_json(elements, size_bytes, map),
        ));
    }
    if let Some(config) = config {
        companions.push(("config.json".to_owned(), format!("{config:#}\n")));
    }
    Ok(Plan {
        file_bytes: sum(&file_sizes).ok_or_else(too_large)?,
        entries,
        files,
        companions,
        elements,
        size_bytes,
    })
}

fn choose(options: &Options) -> Result<Shape> {
    let base = match (&options.preset, options.hidden) {
        (Some(_), Some(_)) => return Err(Error::usage("a preset has its own width; give one or the other")),
        (Some(name), None) => Some(Shape::preset(name)?),
        (None, Some(hidden)) => Some(Shape::of_width(hidden)?),
        (None, None) => None,
    };
    match (base, options.size_bytes, options.layers) {
        (_, Some(_), Some(_)) => Err(Error::usage("a size decides the layers; give one or the other")),
        (_, None, Some(0)) => Err(Error::usage("a model has at least one layer")),
        (_, None, Some(layers)) if layers > 1 << 20 => Err(Error::usage("more than a million layers")),
        (Some(shape), Some(size), None) => shape.sized(size, options.dtype),
        (Some(shape), None, layers) => Ok(Shape { layers: layers.unwrap_or(shape.layers), ..shape }),
        (None, Some(size), None) => Shape::of_size(size, options.dtype),
        (None, None, Some(layers)) => Ok(Shape { layers, ..Shape::of_width(2048)? }),
        (None, None, None) => {
            Err(Error::usage("how large?")
                .hint("a size, a preset, a width, or a number of layers or tensors"))
        }
    }
}

/// Makes the checkpoint. The directory appears when it is complete, or not at all.
pub fn synth(options: Options) -> Job<Summary> {
    Job::start("synth", false, move |control| make(&options, control))
}

fn make(options: &Options, control: &Control) -> Result<Summary> {
    let started = Instant::now();
    let plan = plan(options)?;
    control.plan(format!("{} tensors", plan.entries.len()), plan.size_bytes);
    let out = DirectorySink::create(&options.out)?;
    file::check_space(out.path(), plan.file_bytes)?;
    let tile = Tile::new(options.dtype, options.seed);
    let threads = options.threads.clamp(1, 256);
    for (name, shard, laid) in &plan.files {
        let path = out.path().join(name);
        safetensors::check(laid, &plan.entries[shard.clone()]).map_err(|e| e.file(name))?;
        let sink = FileSink::create(&path, laid.file_size_bytes, Existing::Keep)?;
        for (offset_bytes, bytes) in &laid.fixed {
            sink.write_all_at(bytes, *offset_bytes)?;
        }
        let data = Data::new(&tile, options.seed, &plan.entries[shard.clone()], laid)?;
        write(&sink, &data, threads, control)?;
        sink.finish()?;
        if options.cold {
            file::drop_cached(&path)?;
        }
    }
    for (name, text) in &plan.companions {
        file::write_file(&out.path().join(name), text.as_bytes(), Existing::Keep)?;
    }
    out.finish()?;
    Ok(Summary {
        tensors: plan.entries.len(),
        files: plan.files.len(),
        elements: plan.elements,
        size_bytes: plan.size_bytes,
        seconds: started.elapsed().as_secs_f64(),
        threads,
    })
}

/// What a thread fills and writes at once: large enough for the file system, small enough for the cache.
const BLOCK_BYTES: u64 = 1 << 20;

/// Fills the file behind its header: each thread takes the next block until there is none.
fn write(sink: &FileSink, data: &Data<'_>, threads: usize, control: &Control) -> Result<()> {
    let next = AtomicU64::new(data.start_bytes);
    run::parallel("synth", threads, control, |_| {
        let mut block = Vec::with_capacity(BLOCK_BYTES as usize);
        while !control.is_stopped() {
            let start = next.fetch_add(BLOCK_BYTES, Ordering::Relaxed);
            if start >= data.end_bytes {
                break;
            }
            data.fill(&mut block, start..(start + BLOCK_BYTES).min(data.end_bytes));
            sink.write_all_at(&block, start)?;
            control.moved(block.len() as u64);
        }
        Ok(())
    })
}

/// The data of one file, as a function of the place.
struct Data<'a> {
    tile: &'a Tile,
    /// By offset, without gaps.
    runs: Vec<Run>,
    start_bytes: u64,
    end_bytes: u64,
}

/// A tensor's bytes in the file.
struct Run {
    offset_bytes: u64,
    size_bytes: u64,
    /// Where in the tile it begins.
    phase_bytes: u64,
    /// A vector: weights of a norm, near one.
    near_one: bool,
}

impl<'a> Data<'a> {
    fn new(tile: &'a Tile, seed: u64, entries: &[Entry], laid: &Laid) -> Result<Data<'a>> {
        let mut runs = Vec::with_capacity(entries.len());
        for (entry, &offset_bytes) in entries.iter().zip(&laid.offsets_bytes) {
            let near_one = entry.shape.len() == 1;
            let element = xxh3_64_with_seed(entry.name.as_bytes(), seed) % tile.side(near_one).1;
            let phase_bytes = element * tile.item_bytes;
            runs.push(Run { offset_bytes, size_bytes: entry.size_bytes()?, phase_bytes, near_one });
        }
        runs.sort_by_key(|r| r.offset_bytes);
        let start_bytes = runs.first().map_or(laid.file_size_bytes, |r| r.offset_bytes);
        Ok(Data { tile, runs, start_bytes, end_bytes: laid.file_size_bytes })
    }

    /// Makes `block` the file's bytes of `range`.
    fn fill(&self, block: &mut Vec<u8>, range: Range<u64>) {
        block.clear();
        let first = self.runs.partition_point(|r| r.offset_bytes + r.size_bytes <= range.start);
        for run in &self.runs[first..] {
            let (from, to) =
                (run.offset_bytes.max(range.start), (run.offset_bytes + run.size_bytes).min(range.end));
            if run.offset_bytes >= range.end {
                break;
            }
            let bytes = self.tile.side(run.near_one).0;
            let mut left = to.saturating_sub(from) as usize;
            let mut at = ((run.phase_bytes + (from - run.offset_bytes)) % bytes.len() as u64) as usize;
            while left > 0 {
                let n = left.min(bytes.len() - at);
                block.extend_from_slice(&bytes[at..at + n]);
                left -= n;
                at = 0;
            }
        }
    }
}

/// Weights drawn once.
struct Tile {
    item_bytes: u64,
    matrix: Vec<u8>,
    vector: Vec<u8>,
}

/// Elements of the tile for matrices: the largest prime below 2^21.
const MATRIX_ELEMENTS: u64 = 2_097_143;

/// Elements of the tile for vectors: the largest prime below 2^16.
const VECTOR_ELEMENTS: u64 = 65_521;

impl Tile {
    fn new(dtype: DType, seed: u64) -> Tile {
        let item_bytes = u64::from(dtype.facts().block_bytes);
        let draw = |count: u64, stream: u64, centre: f32, deviation: f32| {
            let mut bytes = Vec::with_capacity((count * item_bytes) as usize);
            for i in 0..count {
                let value = centre + deviation * normal(seed, stream, i);
                match dtype {
                    DType::F32 => bytes.extend(value.to_le_bytes()),
                    DType::F16 => bytes.extend(half::f16::from_f32(value).to_le_bytes()),
                    _ => bytes.extend(half::bf16::from_f32(value).to_le_bytes()),
                }
            }
            bytes
        };
        Tile {
            item_bytes,
            matrix: draw(MATRIX_ELEMENTS, 0, 0.0, 0.02),
            vector: draw(VECTOR_ELEMENTS, 1, 1.0, 0.05),
        }
    }

    /// The bytes for vectors or matrices, and how many elements they are.
    fn side(&self, near_one: bool) -> (&[u8], u64) {
        if near_one { (&self.vector, VECTOR_ELEMENTS) } else { (&self.matrix, MATRIX_ELEMENTS) }
    }
}

/// The i-th number of a stream that is nearly normal, mean 0 and deviation 1, never beyond 3.5: the sum of four uniform
/// numbers of 16 bits, which needs no function that two machines could round differently.
fn normal(seed: u64, stream: u64, index: u64) -> f32 {
    const MEAN: f32 = 131_070.0;
    const DEVIATION: f32 = 37_837.227;
    let bits = mix(mix(seed ^ stream.rotate_left(32)).wrapping_add(index));
    let sum: u32 = (0..4).map(|lane| (bits >> (16 * lane)) as u32 & 0xffff).sum();
    (sum as f32 - MEAN) / DEVIATION
}

/// SplitMix64's output function: any two counters give unrelated bits.
fn mix(counter: u64) -> u64 {
    let mut z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
