//! The plan against its slow, obvious twin: random checkpoints of every kind of tensor, planned with tiny chunks, carried
//! out byte by byte in memory, and compared with [`naive::materialise`]. What a plan promises is checked on the way: each
//! byte of each output written once, no unit larger than a slot, no read outside its file or over a large gap.

use crate::hostile::Seeded;
use crate::naive;
use hoist::checkpoint::{
    ByteOrder, Checkpoint, Container, Extent, FileId, FileRef, Span, Tensor, row_major_strides,
    strided_size_bytes,
};
use hoist::dtype::{Class, DType};
use hoist::error::{Error, ErrorKind};
use hoist::open::Model;
use hoist::plan::{Cut, Item, Kernel, Plan, Target, Unit};
use hoist::source::local::{LocalFile, LocalPlace};
use hoist::source::{ReadAt, Temper};
use hoist::transform::cast;
use std::ops::Range;
use std::sync::Arc;

/// A file in memory.
#[derive(Debug)]
pub struct Bytes {
    pub data: Vec<u8>,
    pub gap_bytes_max: u64,
}

impl ReadAt for Bytes {
    fn size_bytes(&self) -> u64 {
        self.data.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset_bytes: u64) -> hoist::Result<usize> {
        let rest = self.data.get(offset_bytes as usize..).unwrap_or(&[]);
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn temper(&self) -> Temper {
        Temper { gap_bytes_max: self.gap_bytes_max, depth: 4, network: false }
    }

    fn as_local(&self) -> Option<&LocalFile> {
        None
    }
}

/// A model of these tensors and files, as `open` would make it.
pub fn model(tensors: Vec<Tensor>, files: Vec<Arc<dyn ReadAt>>) -> Model {
    let mut table = Checkpoint { tensors, ..Checkpoint::default() };
    for (number, file) in files.iter().enumerate() {
        table.files.push(FileRef {
            name: format!("file-{number}"),
            size_bytes: file.size_bytes(),
            container: Container::Safetensors,
        });
    }
    for tensor in &table.tensors {
        tensor.check(table.files[tensor.at.span.file.index()].size_bytes).unwrap();
    }
    let place = Arc::new(LocalPlace::new("/nonexistent"));
    Model {
        name: "made by hand".into(),
        table,
        files,
        place,
        entries: Vec::new(),
        commit: None,
        is_file: false,
    }
}

/// A row-major tensor.
pub fn plain(name: &str, dtype: DType, shape: &[u64], file: u32, offset_bytes: u64) -> Tensor {
    let size_bytes = dtype.size_bytes(shape.iter().product()).unwrap();
    let span = Span { file: FileId(file), offset_bytes, size_bytes };
    Tensor { name: name.into(), dtype, shape: shape.into(), at: Extent::plain(span) }
}

/// Pseudo-random bytes, cheap.
pub fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut random = Seeded::new(seed);
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        bytes.extend(random.next().to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

fn random_shape(random: &mut Seeded, dtype: DType) -> Vec<u64> {
    let block = u64::from(dtype.facts().block_elements);
    let mut shape: Vec<u64> = (0..random.below(5))
        .map(|_| if random.below(25) == 0 { 0 } else { 1 + random.below(6) as u64 })
        .collect();
    if block == 1 {
        return shape;
    }
    // Blocks of ggml follow rows; those of sub-byte types may cross them.
    if dtype.facts().class != Class::Block && random.below(3) == 0 && !shape.is_empty() {
        shape.insert(random.below(shape.len()), block);
        if shape.last() == Some(&block) {
            shape.push(3);
        }
    } else {
        shape.push(block * (1 + random.below(3) as u64));
    }
    shape
}

/// Strides of a kind that torch makes: permuted, expanded, stepped, padded, or anything.
fn random_strides(random: &mut Seeded, shape: &[u64]) -> Box<[u64]> {
    let mut order: Vec<usize> = (0..shape.len()).collect();
    if random.below(2) == 0 {
        for i in (1..order.len()).rev() {
            order.swap(i, random.below(i + 1));
        }
    }
    let mut strides = vec![1; shape.len()];
    let mut next = [1, 1, 1, 2, 9][random.below(5)];
    let expand = random.below(3) == 0;
    for &d in order.iter().rev() {
        strides[d] = if expand && random.below(2) == 0 { 0 } else { next };
        next *= shape[d].max(1);
        match random.below(12) {
            0 => next += 1 + random.below(20) as u64,
            1 => next *= 2,
            2 if random.below(4) == 0 => next += 70_000,
            _ => {}
        }
    }
    if random.below(10) == 0 {
        strides.iter_mut().for_each(|s| *s = random.below(20) as u64);
    }
    strides.into()
}

/// A checkpoint of one to three files, everything in it drawn from the seed.
fn random_model(random: &mut Seeded) -> (Model, Vec<Vec<u8>>) {
    let gap_bytes_max = *random.pick(&[0, 8, 64 << 10]);
    let file_count = 1 + random.below(3);
    let mut ends = vec![random.below(70) as u64; file_count];
    let mut tensors: Vec<Tensor> = Vec::new();
    for number in 0..random.below(14) {
        let name = format!("t{number}");
        if !tensors.is_empty() && random.below(8) == 0 {
            let alias = random.pick(&tensors).clone();
            tensors.push(Tensor { name, ..alias });
            continue;
        }
        // Floats often, so that casts are.
        let dtype = match random.below(2) {
            0 => *random.pick(&[DType::F32, DType::BF16, DType::F16, DType::F64, DType::F8E4M3]),
            _ => *random.pick(DType::ALL),
        };
        let shape = random_shape(random, dtype);
        let file = random.below(file_count);
        let strides = (dtype.is_plain() && random.below(3) == 0).then(|| random_strides(random, &shape));
        let size_bytes = match &strides {
            Some(strides) => strided_size_bytes(dtype, &shape, strides).unwrap(),
            None => dtype.size_bytes(shape.iter().product()).unwrap(),
        };
        if size_bytes > 600_000 {
            continue;
        }
        let offset_bytes = match random.below(6) {
            0 => random.below(ends[file] as usize + 1) as u64,
            1 => ends[file] + [1, 3, 8, 9, 100, 65_536, 65_540][random.below(7)],
            _ => ends[file],
        };
        ends[file] = ends[file].max(offset_bytes + size_bytes);
        let class = dtype.facts().class;
        let mut at = Extent::plain(Span { file: FileId(file as u32), offset_bytes, size_bytes });
        at.strides = strides;
        if random.below(6) == 0 {
            at.order = ByteOrder::Big;
        }
        at.conj = class == Class::Complex && random.below(3) == 0;
        at.neg = dtype.is_plain() && class != Class::Bool && random.below(12) == 0;
        tensors.push(Tensor { name, dtype, shape, at });
    }
    let files: Vec<Vec<u8>> =
        ends.iter().map(|&end| noise(end as usize + random.below(9), random.next())).collect();
    let sources = files
        .iter()
        .map(|data| Arc::new(Bytes { data: data.clone(), gap_bytes_max }) as Arc<dyn ReadAt>)
        .collect();
    (model(tensors, sources), files)
}

/// What of a tensor is wanted: cast or not, cut or not.
fn random_item(random: &mut Seeded, table: &Checkpoint, index: usize) -> Item {
    let tensor = &table.tensors[index];
    let mut item = Item::whole(table, index);
    let target = *random.pick(cast::TARGETS);
    if random.below(3) == 0 && cast::is_supported(tensor.dtype, target) {
        item.dtype = target;
    }
    let block = u64::from(tensor.dtype.facts().block_elements);
    let shares_blocks = block > 1 && !tensor.shape.last().is_some_and(|n| n.is_multiple_of(block));
    if random.below(2) == 0 && !tensor.shape.is_empty() && !shares_blocks {
        let dim = random.below(tensor.shape.len());
        let grain = if dim + 1 == tensor.shape.len() { block } else { 1 };
        let size = tensor.shape[dim] / grain;
        let ranges = (0..1 + random.below(3)).map(|_| {
            let (a, b) = (random.below(size as usize + 1) as u64, random.below(size as usize + 1) as u64);
            a.min(b) * grain..a.max(b) * grain
        });
        item.slice = Some((dim, ranges.collect()));
    }
    item
}

/// The bytes of an item, one block at a time.
fn expected(file: &[u8], tensor: &Tensor, item: &Item) -> Vec<u8> {
    let facts = tensor.dtype.facts();
    let (width, block) = (facts.block_bytes as usize, u64::from(facts.block_elements));
    let whole = naive::materialise(file, tensor);
    let mut bytes = Vec::new();
    match &item.slice {
        None => bytes = whole,
        Some((dim, ranges)) => {
            let mut shape = tensor.shape.clone();
            let last = shape.len() - 1;
            shape[last] /= block;
            let grain = if *dim == last { block } else { 1 };
            let outer: u64 = shape[..*dim].iter().product();
            let inner: u64 = shape[dim + 1..].iter().product();
            for o in 0..outer {
                for range in ranges {
                    for n in range.start / grain..range.end / grain {
                        for i in 0..inner {
                            let at = ((o * shape[*dim] + n) * inner + i) as usize * width;
                            bytes.extend(&whole[at..at + width]);
                        }
                    }
                }
            }
        }
    }
    if item.dtype == tensor.dtype {
        return bytes;
    }
    let mut out = Vec::new();
    for element in bytes.chunks(width) {
        let mut one = vec![0; item.dtype.facts().block_bytes as usize];
        cast::cast(tensor.dtype, item.dtype, element, &mut one, false);
        out.extend(one);
    }
    out
}

/// Carries a plan out, byte by byte; an arena's bytes and how often each was written. What a unit may be is checked.
fn execute(plan: &Plan, files: &[Vec<u8>], gap_bytes_max: u64, chunk_bytes: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut arenas: Vec<_> = plan
        .arenas
        .iter()
        .map(|a| (vec![0xee; a.size_bytes as usize], vec![0u8; a.size_bytes as usize]))
        .collect();
    for unit in plan.units() {
        let file = &files[unit.file.index()];
        let mut bytes = Vec::new();
        for read in &unit.reads {
            assert!(read.size_bytes > 0, "an empty read: {unit:?}");
            let range = read.offset_bytes as usize..(read.offset_bytes + read.size_bytes) as usize;
            bytes.extend(file.get(range).unwrap_or_else(|| panic!("a read outside the file: {unit:?}")));
        }
        match &unit.fix {
            None => check_single(&unit, gap_bytes_max, chunk_bytes),
            Some(fix) => {
                let yielded: u64 = unit.puts.iter().map(|p| p.output_bytes()).sum();
                let one_block = u64::from(fix.dtype.facts().block_bytes);
                assert!(fix.size_bytes().max(yielded) <= chunk_bytes.max(one_block), "{unit:?}");
                let mut fixed = vec![0x77; fix.size_bytes() as usize];
                fix.apply(&bytes, &mut fixed);
                bytes = fixed;
            }
        }
        for put in &unit.puts {
            assert!(put.row_count > 0 && put.row_bytes > 0, "an empty put: {unit:?}");
            assert!(matches!(put.kernel, Kernel::Copy) || put.row_count == 1, "a cast of rows: {unit:?}");
            for row in 0..put.row_count {
                let from = (put.from_bytes + row * put.pitch_bytes) as usize;
                let source = &bytes[from..from + put.row_bytes as usize];
                let mut out = vec![0; put.kernel.output_bytes(put.row_bytes) as usize];
                match put.kernel {
                    Kernel::Copy => out.copy_from_slice(source),
                    Kernel::Cast { from, to } => drop(cast::cast(from, to, source, &mut out, false)),
                }
                let at = (put.to.offset_bytes + row * put.to.pitch_bytes) as usize;
                let (arena, written) = &mut arenas[put.to.arena.index()];
                arena[at..at + out.len()].copy_from_slice(&out);
                written[at..at + out.len()].iter_mut().for_each(|w| *w += 1);
            }
        }
    }
    arenas
}

/// A unit without a fix: one read that fits a slot, begins and ends with wanted bytes, and reads over no large gap.
fn check_single(unit: &Unit, gap_bytes_max: u64, chunk_bytes: u64) {
    assert_eq!(unit.reads.len(), 1, "{unit:?}");
    let read = unit.reads[0];
    assert!(read.size_bytes <= chunk_bytes + 16, "larger than a slot: {unit:?}");
    let mut rows: Vec<Range<u64>> = unit
        .puts
        .iter()
        .flat_map(|p| (0..p.row_count).map(|n| p.from_bytes + n * p.pitch_bytes).map(|a| a..a + p.row_bytes))
        .collect();
    rows.sort_by_key(|r| r.start);
    let mut end = 0;
    for row in rows {
        assert!(row.start <= end + gap_bytes_max, "a gap of {} is read: {unit:?}", row.start - end);
        end = end.max(row.end);
    }
    assert_eq!(end, read.size_bytes, "bytes are read that nobody wants: {unit:?}");
}

/// Where outputs lie: aligned, packed only where that was asked for, apart unless they are aliases.
fn check_layout(plan: &Plan, target: &Target) {
    let firsts: Vec<_> =
        plan.outputs.iter().enumerate().filter(|(i, o)| o.first == *i).map(|(_, o)| o).collect();
    let padding: u64 =
        firsts.iter().map(|o| o.size_bytes.next_multiple_of(target.align_bytes) - o.size_bytes).sum();
    let packs = padding > target.padding_bytes_max;
    let mut places: Vec<_> = Vec::new();
    for output in &firsts {
        let align = if packs && output.size_bytes < 4096 { 16 } else { target.align_bytes };
        assert!(output.offset_bytes.is_multiple_of(align), "{output:?}");
        assert_eq!(plan.arenas[output.arena.index()].dtype, output.dtype);
        places.push((output.arena, output.offset_bytes, output.offset_bytes + output.size_bytes));
    }
    places.sort();
    for pair in places.windows(2) {
        assert!(pair[0].0 != pair[1].0 || pair[0].2 <= pair[1].1, "outputs overlap: {pair:?}");
    }
    for output in &plan.outputs {
        let first = &plan.outputs[output.first];
        assert_eq!(
            (first.arena, first.offset_bytes, first.size_bytes),
            (output.arena, output.offset_bytes, output.size_bytes)
        );
        assert!(output.offset_bytes + output.size_bytes <= plan.arenas[output.arena.index()].size_bytes);
    }
    assert_eq!(plan.output_bytes, firsts.iter().map(|o| o.size_bytes).sum::<u64>());
}

fn check_seed(seed: u64) {
    let mut random = Seeded::new(seed);
    let (model, files) = random_model(&mut random);
    let items: Vec<Item> = (0..model.table.tensors.len())
        .filter(|_| random.below(6) > 0)
        .collect::<Vec<_>>()
        .into_iter()
        .map(|index| random_item(&mut random, &model.table, index))
        .collect();
    let target = Target {
        align_bytes: *random.pick(&[16, 64, 256]),
        padding_bytes_max: *random.pick(&[0, 500, u64::MAX]),
        chunk_bytes: *random.pick(&[16, 64, 100, 4096]),
        cut: *random.pick(&[Cut::File, Cut::Arena]),
    };
    let gap_bytes_max = model.files[0].temper().gap_bytes_max;
    let plan = Plan::new(&model, &items, &target).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    assert_eq!(plan.outputs.len(), items.len());
    check_layout(&plan, &target);
    let arenas = execute(&plan, &files, gap_bytes_max, target.chunk_bytes);
    let mut wanted: Vec<Vec<u8>> = arenas.iter().map(|(_, w)| vec![0; w.len()]).collect();
    for (item, output) in items.iter().zip(&plan.outputs) {
        let tensor = &model.table.tensors[item.tensor];
        let right = expected(&files[tensor.at.span.file.index()], tensor, item);
        let range = output.offset_bytes as usize..(output.offset_bytes + output.size_bytes) as usize;
        assert!(
            arenas[output.arena.index()].0[range.clone()] == right,
            "seed {seed}: {item:?} of {tensor:?}"
        );
        wanted[output.arena.index()][range].fill(1);
    }
    for ((_, written), wanted) in arenas.iter().zip(&wanted) {
        assert!(
            written == wanted,
            "seed {seed}: a byte is written twice, not at all, or outside the outputs"
        );
    }
}

#[test]
fn random_checkpoints_arrive_whole() {
    for seed in 0..4000 {
        if let Err(panic) = std::panic::catch_unwind(|| check_seed(seed)) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// Strided rows of a large matrix, as a rank takes them: read over where the gap is small, one by one where it is not.
#[test]
fn far_rows_are_read_one_by_one() {
    for (gap_bytes_max, reads, read_bytes) in [(0, 8, 8 * 10), (89, 8, 80), (90, 1, 7 * 100 + 10)] {
        let data = noise(800, 1);
        let model = model(
            vec![plain("m", DType::U8, &[8, 100], 0, 0)],
            vec![Arc::new(Bytes { data: data.clone(), gap_bytes_max })],
        );
        let item = Item { slice: Some((1, vec![20..30])), ..Item::whole(&model.table, 0) };
        let target =
            Target { align_bytes: 64, padding_bytes_max: u64::MAX, chunk_bytes: 4096, cut: Cut::File };
        let plan = Plan::new(&model, &[item], &target).unwrap();
        let read_count: usize = plan.units().map(|u| u.reads.len()).sum();
        assert_eq!((read_count, plan.read_bytes), (reads, read_bytes), "gap {gap_bytes_max}");
    }
}

/// Sizes that no file has but that a header can claim: an expanded view takes no bytes. Refused or planned, at once.
#[test]
fn huge_views_are_planned_or_refused_without_overflow() {
    let huge = |name: &str, dtype: DType, count: u64| {
        let mut tensor = plain(name, dtype, &[1], 0, 0);
        tensor.shape = vec![count];
        tensor.at.strides = Some([0].into());
        tensor
    };
    let kind = |tensors: Vec<Tensor>, cast: Option<DType>| {
        let model = model(tensors, vec![Arc::new(Bytes { data: vec![1; 64], gap_bytes_max: 8 })]);
        let items: Vec<Item> = (0..model.table.tensors.len())
            .map(|i| Item {
                dtype: cast.unwrap_or(model.table.tensors[i].dtype),
                ..Item::whole(&model.table, i)
            })
            .collect();
        let target =
            Target { align_bytes: 256, padding_bytes_max: 16 << 20, chunk_bytes: 1 << 20, cut: Cut::File };
        let plan = Plan::new(&model, &items, &target).map_err(|e: Error| e.kind())?;
        assert!(plan.units().take(3).all(|u| u.read_bytes() <= 1 << 20));
        Ok(plan.arena_bytes())
    };
    let (u8, i8) = (DType::U8, DType::I8);
    for (tensors, cast, right) in [
        (vec![huge("a", u8, 1 << 40)], None, Ok(1 << 40)),
        (vec![huge("a", u8, u64::MAX)], None, Ok(u64::MAX)),
        (vec![huge("a", u8, 1 << 63), huge("b", i8, 1 << 63)], None, Ok(u64::MAX)),
        (vec![huge("a", u8, 1 << 63), huge("b", u8, (1 << 63) + 1)], None, Err(ErrorKind::BadInput)),
        (vec![huge("a", DType::F8E4M3, 1 << 63)], Some(DType::F32), Err(ErrorKind::BadInput)),
        (vec![huge("a", DType::F64, 1 << 60), huge("b", DType::F16, 1 << 60)], None, Ok(10 << 60)),
    ] {
        let names: Vec<_> = tensors.iter().map(|t| (t.dtype, t.shape[0])).collect();
        assert_eq!(kind(tensors, cast), right, "{names:?}");
    }
}

/// A cut that makes no sense is refused by name.
#[test]
fn wrong_slices_are_refused() {
    let data = vec![0; 4096];
    let model = model(
        vec![
            plain("m", DType::F32, &[4, 6], 0, 0),
            plain("q", DType::Q8_0, &[2, 64], 0, 0),
            plain("rows", DType::F4, &[2, 3], 0, 0),
        ],
        vec![Arc::new(Bytes { data, gap_bytes_max: 0 })],
    );
    for (tensor, dim, range, says) in [
        (0, 2, 0..1, "has 2 dimensions, so it cannot be cut along dimension 2"),
        (0, 1, 0..7, "has 6 along dimension 1, so 0..7 cannot be kept"),
        #[allow(clippy::reversed_empty_ranges)]
        (0, 1, 3..2, "has 6 along dimension 1, so 3..2 cannot be kept"),
        (1, 1, 0..16, "would be cut inside a block of 32 elements of `q8_0`"),
        (2, 0, 0..1, "has rows that share blocks of `f4` and cannot be cut"),
    ] {
        let item = Item { slice: Some((dim, vec![range])), ..Item::whole(&model.table, tensor) };
        let target = Target { align_bytes: 64, padding_bytes_max: 0, chunk_bytes: 64, cut: Cut::File };
        let error = Plan::new(&model, &[item], &target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

/// Row-major strides said outright plan as no strides do.
#[test]
fn strides_that_say_nothing_change_nothing() {
    let target = Target { align_bytes: 64, padding_bytes_max: 0, chunk_bytes: 100, cut: Cut::File };
    let units = |strided: bool| {
        let mut tensor = plain("m", DType::F32, &[5, 1, 7], 0, 3);
        if strided {
            tensor.at.strides = row_major_strides(&tensor.shape);
        }
        let model = model(vec![tensor], vec![Arc::new(Bytes { data: vec![0; 300], gap_bytes_max: 0 })]);
        let plan = Plan::new(&model, &[Item::whole(&model.table, 0)], &target).unwrap();
        plan.units().collect::<Vec<_>>()
    };
    assert_eq!(units(true), units(false));
}
