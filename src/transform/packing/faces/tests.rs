use super::super::{Nested, layouts};
use super::*;
use crate::dtype::DType;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }
}

/// Layout, bits, rows, columns, rows and columns of a group, zero points.
fn cases() -> Vec<Packing> {
    let mut cases = Vec::new();
    let mut add =
        |layout: &'static Layout, bits: u32, sizes: &[(u64, u64)], group: (u64, u64), zeros: bool| {
            for &(rows, columns) in sizes {
                let (group_rows, group_columns) =
                    (if group.0 == 0 { rows } else { group.0 }, if group.1 == 0 { columns } else { group.1 });
                let dtype = DType::BF16;
                cases.push(Packing {
                    layout,
                    bits,
                    rows,
                    columns,
                    group_rows,
                    group_columns,
                    has_zeros: zeros,
                    dtype,
                });
            }
        };
    let odd = &[(24, 128), (17, 256), (1, 64), (9, 64)][..];
    let even = &[(24, 128), (72, 320), (8, 64)][..];
    for bits in [4, 8] {
        add(&layouts::COMPRESSED, bits, odd, (1, 32), true);
        add(&layouts::COMPRESSED, bits, odd, (1, 0), false);
        add(&layouts::COMPRESSED, bits, &[(9, 13), (5, 77)], (1, 0), true);
        add(&layouts::COMPRESSED_BYTES, bits, odd, (1, 0), true);
        add(&layouts::GPTQ, bits, even, (1, 32), true);
        add(&layouts::GPTQ_V2, bits, even, (1, 0), true);
        add(&layouts::TORCHAO_BYTES, bits, odd, (1, 32), true);
    }
    add(&layouts::AWQ, 4, even, (1, 32), true);
    add(&layouts::COMPRESSED_FLOATS, 8, odd, (1, 0), false);
    add(&layouts::COMPRESSED_FLOATS, 8, odd, (0, 0), false);
    add(&layouts::COMPRESSED_FLOATS, 8, &[(300, 256), (16, 130)], (128, 128), false);
    add(&layouts::COMPRESSED_MXFP4, 4, odd, (1, 32), false);
    add(&layouts::COMPRESSED_NVFP4, 4, odd, (1, 16), false);
    add(&layouts::NF4, 4, &[(24, 128), (17, 36), (3, 7), (1, 1), (64, 65)], (1, 64), false);
    add(&layouts::NF4_DOUBLE, 4, &[(300, 128), (17, 36)], (1, 64), false);
    add(&layouts::BNB_INT8, 8, odd, (1, 0), false);
    for bits in [2, 3, 4, 5, 6, 8] {
        add(&layouts::MLX, bits, odd, (1, 32), true);
    }
    add(&layouts::TORCHAO_INT4, 4, odd, (1, 32), true);
    cases
}

/// Some band of a packing: codes of its bits, scales and zero points that its types hold.
fn band(packing: &Packing) -> Band {
    let mut random = Random(7);
    let (rows, columns) = (packing.rows as usize, packing.columns as usize);
    let (scale_rows, width) = packing.scale_grid(rows);
    let groups = scale_rows * width;
    let top = 1u64 << packing.bits;
    let mut band = Band { rows, columns, ..Band::default() };
    band.codes = (0..rows * columns).map(|_| (random.next() % top) as u8).collect();
    if let super::super::Formula::Float(_) = packing.layout.formula {
        // Not the floats that are none.
        band.codes.iter_mut().filter(|c| **c & 0x7f == 0x7f).for_each(|c| *c = 0x7e);
    }
    let nested = packing.layout.is_nested();
    band.scales = (0..groups)
        .map(|_| {
            if nested {
                (random.next() % 256) as f32
            } else {
                f32::from_bits(((random.next() % 8) as u32 + 122) << 23)
            }
        })
        .collect();
    if packing.layout.find(Content::Zeros).or(packing.layout.find(Content::Biases)).is_some() {
        let zero = |random: &mut Random| (random.next() % top) as f32;
        band.zeros = (0..groups).map(|_| zero(&mut random)).collect();
    }
    if packing.layout.find(Content::Global).is_some() {
        band.global = 3.5;
        band.scales.iter_mut().for_each(|x| *x /= 3.5);
    }
    if nested {
        let scales = (0..groups.div_ceil(256)).map(|n| n as f32 + 0.5).collect();
        let table = (0..256).map(|n| n as f32 / 256.0 - 0.5).collect();
        band.nested = Some(Nested { table, scales, skip: 0, offset: 0.25 });
    }
    band
}

fn cut(bytes: &[u8], strip: Strip) -> Vec<u8> {
    (0..strip.run_count)
        .flat_map(|n| {
            let at = (strip.offset_bytes + n * strip.pitch_bytes) as usize;
            bytes[at..at + strip.run_bytes as usize].to_vec()
        })
        .collect()
}

fn size_bytes(packing: &Packing, face: usize) -> usize {
    (packing.face_shape(face).iter().product::<u64>() * packing.element_bytes(face)) as usize
}

fn faces(packing: &Packing, band: &Band) -> Vec<Vec<u8>> {
    (0..packing.layout.faces.len())
        .map(|face| {
            let size = match packing.layout.faces[face].content {
                Content::State => State::of(packing, band.nested.as_ref().map(|n| n.offset)).text().len(),
                _ => size_bytes(packing, face),
            };
            let mut bytes = vec![0xa5; size];
            packing.write(face, band, 0..packing.rows, &mut bytes);
            bytes
        })
        .collect()
}

#[test]
fn what_is_written_is_read() {
    for packing in cases() {
        let what = format!("{packing:?}");
        let whole = band(&packing);
        let written = faces(&packing, &whole);
        let mut again = Band::default();
        for (face, bytes) in written.iter().enumerate() {
            packing.read(face, bytes, 0..packing.rows, &mut again).unwrap();
        }
        assert!(again == whole, "{what}");
        let mut numbers = vec![f32::NAN; whole.codes.len()];
        packing.numbers(&whole, &mut numbers);
        assert!(numbers.iter().all(|x| x.is_finite()), "{what}");

        // In bands, as tasks read and write them.
        let together = packing.rows_together();
        let mut patched: Vec<Vec<u8>> = written.iter().map(|f| vec![0; f.len()]).collect();
        let mut pieces = Vec::new();
        for step in [together, 2 * together] {
            let mut start = 0;
            while start < packing.rows {
                let rows = start..(start + step).min(packing.rows);
                let mut part = Band::default();
                let is_fixed =
                    |face: usize| matches!(packing.layout.faces[face].axes, Axes::Fixed(_) | Axes::Columns);
                let piece = |face: usize, bytes: &Vec<u8>| {
                    if is_fixed(face) { bytes.clone() } else { cut(bytes, packing.strip(face, rows.clone())) }
                };
                for (face, bytes) in written.iter().enumerate() {
                    packing.read(face, &piece(face, bytes), rows.clone(), &mut part).unwrap();
                }
                for (face, bytes) in written.iter().enumerate() {
                    let (fixed, piece) = (is_fixed(face), piece(face, bytes));
                    let strip = packing.strip(face, rows.clone());
                    let mut back = vec![0x5a; piece.len()];
                    packing.write(face, &part, rows.clone(), &mut back);
                    assert!(back == piece, "{what} {rows:?} {face}");
                    if fixed {
                        patched[face].copy_from_slice(&back);
                        continue;
                    }
                    for n in 0..strip.run_count as usize {
                        let at = (strip.offset_bytes + n as u64 * strip.pitch_bytes) as usize;
                        let run = strip.run_bytes as usize;
                        patched[face][at..at + run].copy_from_slice(&back[n * run..(n + 1) * run]);
                    }
                }
                let mut some = vec![f32::NAN; part.codes.len()];
                packing.numbers(&part, &mut some);
                pieces.extend(some);
                start = rows.end;
            }
            assert!(pieces == numbers, "{what}");
            assert!(patched == written, "{what}");
            pieces.clear();
        }
    }
}

/// Where the specifications say that bits of a code or zero point are: the word in its face and the lowest bit.
type Place = fn(rows: u64, columns: u64, row: u64, column: u64, per: u64) -> (u64, u64);

#[test]
fn codes_lie_where_the_specifications_say() {
    let rows: &[(&Layout, Content, Place)] = &[
        (&layouts::COMPRESSED, Content::Codes, |_, c, o, i, per| (o * c.div_ceil(per) + i / per, i % per)),
        (&layouts::COMPRESSED, Content::Zeros, |_, g, o, n, per| (o / per * g + n, o % per)),
        (&layouts::GPTQ_V2, Content::Codes, |r, _, o, i, per| (i / per * r + o, i % per)),
        (&layouts::GPTQ_V2, Content::Zeros, |r, _, o, n, per| (n * (r / per) + o / per, o % per)),
        (&layouts::AWQ, Content::Codes, |r, _, o, i, _| {
            (i * (r / 8) + o / 8, [0, 4, 1, 5, 2, 6, 3, 7][o as usize % 8])
        }),
        (&layouts::AWQ, Content::Zeros, |r, _, o, n, _| {
            (n * (r / 8) + o / 8, [0, 4, 1, 5, 2, 6, 3, 7][o as usize % 8])
        }),
        (&layouts::MLX, Content::Codes, |_, c, o, i, per| (o * (c / per) + i / per, i % per)),
    ];
    for packing in cases() {
        for (layout, content, place) in rows.iter().filter(|row| std::ptr::eq(row.0, packing.layout)) {
            if 32 % packing.bits > 0 {
                continue;
            }
            let band = band(&packing);
            let face = layout.find(*content).unwrap();
            let bytes = &faces(&packing, &band)[face];
            let per = 32 / u64::from(packing.bits);
            let width = if *content == Content::Codes { packing.columns } else { packing.groups() };
            for row in 0..packing.rows {
                for column in 0..width {
                    let (word, nth) = place(packing.rows, width, row, column, per);
                    let word = u32::from_le_bytes(bytes[word as usize * 4..][..4].try_into().unwrap());
                    let found =
                        u64::from(word) >> (nth * u64::from(packing.bits)) & ((1 << packing.bits) - 1);
                    let at = (row * width + column) as usize;
                    let wanted = match content {
                        Content::Codes => u64::from(band.codes[at]),
                        _ => band.zeros[at] as u64,
                    };
                    assert_eq!(found, wanted, "{packing:?} {content:?} {row} {column}");
                }
            }
        }
    }
}

#[test]
fn zero_points_of_the_first_gptq_carry() {
    let packing = Packing {
        layout: &layouts::GPTQ,
        bits: 4,
        rows: 8,
        columns: 32,
        group_rows: 1,
        group_columns: 32,
        has_zeros: true,
        dtype: DType::F16,
    };
    let mut band = Band::default();
    packing.read(1, &[0xff; 4], 0..8, &mut band).unwrap();
    assert_eq!(band.zeros, [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
    band.rows = 8;
    let mut back = [0; 4];
    packing.write(1, &band, 0..8, &mut back);
    assert_eq!(back, [0xff; 4]);
}

#[test]
fn no_bytes_make_a_reader_panic() {
    let mut random = Random(3);
    for mut packing in cases() {
        for wild in 0..4 {
            if wild == 3 {
                packing.group_columns = 0;
                packing.group_rows = 0;
            }
            let whole = band(&cases()[0]);
            let mut band = Band::default();
            for face in 0..packing.layout.faces.len() {
                let size = packing.strip(face, 0..packing.rows).size_bytes() as usize;
                let mut bytes: Vec<u8> =
                    (0..size).map(|_| if wild == 0 { 0xff } else { random.next() as u8 }).collect();
                if wild == 2 {
                    bytes.truncate(size / 2);
                }
                let _ = packing.read(face, &bytes, 0..packing.rows, &mut band);
                packing.write(face, &whole, 0..packing.rows, &mut bytes);
            }
            let mut numbers = vec![0.0; band.codes.len()];
            packing.numbers(&band, &mut numbers);
            packing.numbers(&whole, &mut numbers);
        }
    }
}

#[test]
fn groups_that_are_not_there_are_refused() {
    let packing = Packing {
        layout: &layouts::GPTQ,
        bits: 4,
        rows: 8,
        columns: 8,
        group_rows: 1,
        group_columns: 4,
        has_zeros: true,
        dtype: DType::F16,
    };
    let read = |groups: [i32; 8]| {
        let bytes: Vec<u8> = groups.iter().flat_map(|n| n.to_le_bytes()).collect();
        let mut band = Band::default();
        packing.read(3, &bytes, 0..8, &mut band).map(|()| band.groups).map_err(|e| e.to_string())
    };
    assert_eq!(read([0, 0, 0, 0, 1, 1, 1, 1]), Ok(None));
    assert_eq!(read([-1; 8]), Ok(None));
    assert_eq!(read([1, 0, 0, 1, 1, 0, 0, 1]), Ok(Some(vec![1, 0, 0, 1, 1, 0, 0, 1])));
    assert!(read([0, 0, 0, 2, 1, 1, 1, 1]).unwrap_err().contains("column 3 in group 2"));
    assert!(read([0, 0, 0, 0, 1, 1, 1, -1]).unwrap_err().contains("group -1"));
}

#[test]
fn python_spells_floats() {
    for (x, text) in [
        (0.0235, "0.0235"),
        (1e-5, "1e-05"),
        (1.5e-7, "1.5e-07"),
        (0.0001, "0.0001"),
        (1e16, "1e+16"),
        (1e15, "1000000000000000.0"),
        (2.0, "2.0"),
        (-3.25e-10, "-3.25e-10"),
    ] {
        assert_eq!(state::python_float(x), text);
    }
}
