//! The plan and the hands of a conversion against the definition, element by element: seeded tables, views and types.

use hoist::checkpoint::{Checkpoint, Container, Extent, FileId, FileRef, Span, Tensor};
use hoist::dtype::DType;
use hoist::plan::weave::{Limits, Work, tasks};
use hoist::run::make::Hands;
use hoist::source::local::LocalFile;
use hoist::source::{ReadAt, Temper};
use hoist::transform::recipe::{Output, Part, Recipe, Source, Value};
use hoist::transform::view::View;
use std::sync::Arc;

/// A file in memory.
#[derive(Debug)]
struct Bytes(Vec<u8>);

impl ReadAt for Bytes {
    fn size_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset_bytes: u64) -> hoist::Result<usize> {
        let from = self.0.get(offset_bytes as usize..).unwrap_or(&[]);
        let n = from.len().min(buf.len());
        buf[..n].copy_from_slice(&from[..n]);
        Ok(n)
    }

    fn temper(&self) -> Temper {
        Temper { depth: 1, gap_bytes_max: 0, network: false }
    }

    fn as_local(&self) -> Option<&LocalFile> {
        None
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// One tensor of random values that every float type here holds, at an odd offset; `strides` as a torch view would.
fn table(random: &mut Random, dtype: DType, shape: &[u64], strides: Option<Vec<u64>>) -> (Checkpoint, Bytes) {
    let width = u64::from(dtype.facts().block_bytes);
    let blocks = shape.iter().product::<u64>() / u64::from(dtype.facts().block_elements);
    let storage = strides
        .as_ref()
        .map_or(blocks, |strides| shape.iter().zip(strides).map(|(n, s)| (n - 1) * s).sum::<u64>() + 1);
    let offset_bytes = 3 + random.below(50);
    let mut bytes = vec![0xaa; offset_bytes as usize];
    for _ in 0..storage {
        let value = random.below(255) as f32 - 127.0;
        match dtype {
            DType::F32 => bytes.extend(value.to_le_bytes()),
            DType::BF16 => bytes.extend(half::bf16::from_f32(value).to_le_bytes()),
            DType::F16 => bytes.extend(half::f16::from_f32(value).to_le_bytes()),
            DType::Q8_0 => {
                bytes.extend(half::f16::from_f32(0.5).to_le_bytes());
                bytes.extend((0..32).map(|_| random.below(255) as u8));
            }
            other => panic!("{other}"),
        }
    }
    let span = Span { file: FileId(0), offset_bytes, size_bytes: storage * width };
    let at = Extent { strides: strides.map(Into::into), ..Extent::plain(span) };
    let tensor = Tensor { name: "t".into(), dtype, shape: shape.to_vec(), at };
    let file = FileRef { name: "f".into(), size_bytes: bytes.len() as u64, container: Container::Torch };
    (Checkpoint { files: vec![file], tensors: vec![tensor], ..Checkpoint::default() }, Bytes(bytes))
}

/// The value of each element of the tensor, row-major.
fn numbers(table: &Checkpoint, bytes: &Bytes) -> Vec<f32> {
    let Tensor { dtype, shape, at, .. } = &table.tensors[0];
    let base = at.span.offset_bytes as usize;
    let count: u64 = shape.iter().product();
    (0..count)
        .map(|i| {
            let mut place = i;
            if let Some(strides) = &at.strides {
                let mut rest = i;
                place = 0;
                for (n, s) in shape.iter().zip(strides).rev() {
                    place += rest % n * s;
                    rest /= n;
                }
            }
            let i = place as usize;
            match dtype {
                DType::F32 => f32::from_le_bytes(bytes.0[base + 4 * i..][..4].try_into().unwrap()),
                DType::BF16 => {
                    half::bf16::from_le_bytes(bytes.0[base + 2 * i..][..2].try_into().unwrap()).to_f32()
                }
                DType::F16 => {
                    half::f16::from_le_bytes(bytes.0[base + 2 * i..][..2].try_into().unwrap()).to_f32()
                }
                _ => f32::from(bytes.0[base + 34 * (i / 32) + 2 + i % 32] as i8) * 0.5,
            }
        })
        .collect()
}

fn random_view(random: &mut Random, shape: &[u64]) -> View {
    let mut view = View::whole(shape).unwrap();
    for _ in 0..random.below(5) {
        let dim = random.below(view.shape.len() as u64) as usize;
        let size = view.shape[dim];
        view = match random.below(3) {
            0 if view.shape.len() < 6 => {
                let by: Vec<u64> = (1..=size).filter(|d| size.is_multiple_of(*d)).collect();
                let d = by[random.below(by.len() as u64) as usize];
                view.split(dim, &[d, size / d]).unwrap()
            }
            1 => {
                let other = random.below(view.shape.len() as u64) as usize;
                view.swap(dim, other).unwrap()
            }
            _ => {
                let start = random.below(size);
                let end = start + 1 + random.below(size - start);
                view.slice(dim, start..end).unwrap()
            }
        };
    }
    view
}

fn elements(view: &View) -> Vec<usize> {
    let mut out = vec![view.offset as usize];
    for (&n, &s) in view.shape.iter().zip(&view.strides) {
        out = out.iter().flat_map(|&at| (0..n as usize).map(move |i| at + i * s as usize)).collect();
    }
    out
}

/// Carries an output out and checks that its tasks cover it once, in order.
fn carried_out(table: &Checkpoint, bytes: Bytes, recipe: &Recipe, limits: &Limits) -> hoist::Result<Vec<u8>> {
    let files: Vec<Arc<dyn ReadAt>> = vec![Arc::new(bytes)];
    let mut out = Vec::new();
    let mut hands = Hands::default();
    for task in tasks(table, recipe, &recipe.outputs[0], limits)? {
        assert_eq!(task.offset_bytes, out.len() as u64, "tasks follow each other");
        match &task.work {
            Work::Copy { offset_bytes, .. } => {
                let mut piece = vec![0; task.size_bytes as usize];
                files[0].read_exact_at(&mut piece, *offset_bytes)?;
                out.extend(piece);
            }
            Work::Make(make) => out.extend(hands.make(make, &files, false)?.0),
            Work::Pack(_) => panic!("no output here is packed"),
        }
        assert_eq!(task.offset_bytes + task.size_bytes, out.len() as u64);
    }
    Ok(out)
}

#[test]
fn seeded_views_and_types_agree_with_the_definition() {
    let mut random = Random(7);
    for round in 0..3000 {
        let dtype = [DType::F32, DType::BF16, DType::F16, DType::Q8_0][random.below(4) as usize];
        let dims = 1 + random.below(4) as usize;
        let mut shape: Vec<u64> = (0..dims).map(|_| 1 + random.below(7)).collect();
        if dtype == DType::Q8_0 {
            *shape.last_mut().unwrap() = 32 * (1 + random.below(3));
        }
        let strided = dtype != DType::Q8_0 && random.below(3) == 0;
        let strides = strided.then(|| {
            // A transposed, padded storage.
            let mut order: Vec<usize> = (0..dims).collect();
            for i in (1..dims).rev() {
                order.swap(i, random.below(i as u64 + 1) as usize);
            }
            let mut strides = vec![0; dims];
            let mut step = 1 + random.below(2);
            for d in order {
                strides[d] = step;
                step *= shape[d] + random.below(2);
            }
            strides
        });
        let (table, bytes) = table(&mut random, dtype, &shape, strides);
        let view = random_view(&mut random, &shape);
        let to = match random.below(3) {
            0 => dtype,
            1 => DType::F32,
            _ => DType::BF16,
        };
        let picked = elements(&view);
        if to == DType::Q8_0
            && (!picked.len().is_multiple_of(32)
                || picked.chunks(32).any(|c| c.windows(2).any(|w| w[1] != w[0] + 1) || c[0] % 32 != 0))
        {
            continue;
        }
        let add = if to != DType::Q8_0 && random.below(4) == 0 { 1.0 } else { 0.0 };
        let part = Part { add, ..Part::new(0, view.clone()) };
        let output = Output { shape: view.shape.clone(), parts: vec![part], ..output("o", to) };
        let recipe =
            Recipe { values: vec![Value::of(&table, 0)], outputs: vec![output], ..Recipe::default() };
        let chunk_bytes = [64, 256, 4096][random.below(3) as usize];
        let limits = Limits {
            chunk_bytes,
            band_numbers: chunk_bytes / 4,
            stretch_numbers: chunk_bytes,
            copy_bytes: 100,
            matrix_bytes: [1 << 10, 1 << 20][random.below(2) as usize],
        };
        let all = numbers(&table, &bytes);
        let made = match carried_out(&table, bytes, &recipe, &limits) {
            Ok(made) => made,
            // A matrix that must be decoded whole and may not be.
            Err(e) if dtype == DType::Q8_0 && limits.matrix_bytes == 1 << 10 => {
                assert!(e.to_string().contains("decoded whole"), "{e}");
                continue;
            }
            Err(e) => panic!("round {round}: {e}"),
        };
        let context = format!("round {round}: {dtype} → {to} {shape:?} {view:?}");
        if to == DType::Q8_0 {
            continue;
        }
        let expected: Vec<u8> = picked
            .iter()
            .flat_map(|&i| {
                let x = all[i] + add;
                match to {
                    DType::F32 => x.to_le_bytes().to_vec(),
                    DType::F16 => half::f16::from_f32(x).to_le_bytes().to_vec(),
                    _ => half::bf16::from_f32(x).to_le_bytes().to_vec(),
                }
            })
            .collect();
        assert_eq!(made, expected, "{context}");
    }
}

fn output(name: &str, dtype: DType) -> Output {
    Output {
        name: name.into(),
        dtype,
        shape: Vec::new(),
        parts: Vec::new(),
        narrow: None,
        form: Default::default(),
    }
}

#[test]
fn parts_follow_each_other_and_made_values_stand_among_them() {
    let mut random = Random(11);
    let (table, bytes) = table(&mut random, DType::BF16, &[6, 8], None);
    let all = numbers(&table, &bytes);
    let zeros = Value::made("zeros", &[2, 8], &[0.0; 16]);
    let values = vec![Value::of(&table, 0), zeros];
    let whole = values[0].view().unwrap();
    let parts = vec![
        Part::new(0, whole.clone().slice(0, 4..6).unwrap()),
        Part::new(1, values[1].view().unwrap()),
        Part::new(0, whole.slice(0, 0..4).unwrap()),
    ];
    let output = Output { shape: vec![8, 8], parts, ..output("o", DType::F32) };
    let recipe = Recipe { values, outputs: vec![output], ..Recipe::default() };
    let limits = Limits {
        chunk_bytes: 64,
        band_numbers: 16,
        stretch_numbers: 32,
        copy_bytes: 64,
        matrix_bytes: 1 << 20,
    };
    let made = carried_out(&table, bytes, &recipe, &limits).unwrap();
    let expected: Vec<f32> =
        all[32..].iter().copied().chain([0.0; 16]).chain(all[..32].iter().copied()).collect();
    let expected: Vec<u8> = expected.iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(made, expected);
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut random = Random(13);
    let (table, _) = table(&mut random, DType::BF16, &[6, 8], None);
    let values = vec![Value::of(&table, 0), Value { source: Source::Tensor(9), ..Value::of(&table, 0) }];
    let view = || View::whole(&[6, 8]).unwrap();
    let limits = Limits::within(512 << 20);
    for (name, output, message) in [
        (
            "too few elements",
            Output { shape: vec![7, 8], parts: vec![Part::new(0, view())], ..output("o", DType::BF16) },
            "`o` needs 56 elements for shape [7, 8], and its sources have 48",
        ),
        (
            "a view beyond the value",
            Output {
                shape: vec![48],
                parts: vec![Part::new(0, View { offset: 1, shape: vec![48], strides: vec![1] })],
                ..output("o", DType::BF16)
            },
            "has 48 elements, and one beyond is asked for (element 48)",
        ),
        (
            "an integer that is no number",
            Output { shape: vec![6, 8], parts: vec![Part::new(0, view())], ..output("o", DType::I32) },
            "is `bf16`, which hoist does not turn into `i32`",
        ),
        (
            "a part that is not there",
            Output { shape: vec![6, 8], parts: vec![Part::new(5, view())], ..output("o", DType::BF16) },
            "a part without a value",
        ),
        (
            "a tensor that is not there",
            Output { shape: vec![6, 8], parts: vec![Part::new(1, view())], ..output("o", DType::BF16) },
            "a value of no tensor",
        ),
    ] {
        let recipe = Recipe { values: values.clone(), outputs: vec![output], ..Recipe::default() };
        let error = tasks(&table, &recipe, &recipe.outputs[0], &limits).err().expect(name).to_string();
        assert!(error.contains(message), "{name}: {error}");
    }
}

/// Tensors that take turns in the output, element by element or row by row, plain and in blocks.
#[test]
fn joined_tensors_take_turns() {
    let mut random = Random(17);
    let kinds = [DType::BF16, DType::F32, DType::Q8_0];
    for (dtype, experts) in kinds.into_iter().flat_map(|d| [(d, 3), (d, 1)]) {
        let (mut table, bytes) = table(&mut random, dtype, &[2 * experts, 4, 32], None);
        let all = numbers(&table, &bytes);
        let tensor = table.tensors.remove(0);
        let half = tensor.at.span.size_bytes / 2;
        for n in 0..2 {
            let mut part = tensor.clone();
            part.name = format!("half {n}");
            part.shape = vec![experts, 4, 32];
            // The second lies before the first, so that no read that goes on is right by chance.
            part.at.span.offset_bytes += (1 - n) * half;
            part.at.span.size_bytes = half;
            table.tensors.push(part);
        }
        let shape = vec![2, experts, 4, 32];
        let each = (experts * 128) as usize;
        let value =
            Value { name: "both".into(), dtype, shape: shape.clone(), source: Source::Joined(vec![0, 1]) };
        let whole = || View::whole(&shape).unwrap();
        for order in [[1, 2, 0, 3], [1, 3, 2, 0], [1, 3, 0, 2], [1, 0, 2, 3], [0, 1, 2, 3]] {
            let view = whole().permuted(&order).unwrap();
            for (chunk_bytes, matrix_bytes) in [(256, 1 << 20), (1 << 20, 1 << 20)] {
                let output = Output {
                    shape: view.shape.clone(),
                    parts: vec![Part::new(0, view.clone())],
                    ..output("o", DType::F32)
                };
                let recipe =
                    Recipe { values: vec![value.clone()], outputs: vec![output], ..Recipe::default() };
                let limits = Limits {
                    chunk_bytes,
                    band_numbers: chunk_bytes / 4,
                    stretch_numbers: chunk_bytes,
                    copy_bytes: 100,
                    matrix_bytes,
                };
                let made = carried_out(&table, Bytes(bytes.0.clone()), &recipe, &limits).unwrap();
                let expected: Vec<u8> = elements(&view)
                    .iter()
                    .flat_map(|&i| all[(i + each) % (2 * each)].to_le_bytes())
                    .collect();
                assert_eq!(made, expected, "{dtype} {experts} {order:?} in {chunk_bytes}");
            }
        }
    }
}
