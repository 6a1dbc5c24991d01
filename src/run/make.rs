//! One worker's hands: reads what a task needs, puts it in order, turns it into what is written. The pieces of memory are
//! kept from task to task, so that nothing is allocated where bytes move.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::plan::weave::{Decode, Make};
use crate::source::{ReadAt, read_pieces};
use crate::transform::block;
use crate::transform::cast;
use crate::transform::gather::{gather, gather_bytes};
use crate::transform::method::{self, Quantiser};
use crate::transform::packing::faces::round_to;
use crate::transform::packing::{Band, Packing};
use std::sync::Arc;

/// What happened to numbers on their way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Losses {
    /// Finite numbers that the target cannot hold.
    pub overflows: u64,
    /// Numbers that an addition could not be undone for: (x + a) − a is not x.
    pub inexact: u64,
}

impl Losses {
    /// Both together.
    pub fn and(self, other: Losses) -> Losses {
        Losses { overflows: self.overflows + other.overflows, inexact: self.inexact + other.inexact }
    }
}

/// What becomes of NaN and infinity where numbers become blocks or codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Odd {
    /// Blocks of nothing finite: nobody quantises by a scheme.
    #[default]
    Keep,
    /// An error.
    Refuse,
    /// They are taken for zeros.
    Zero,
}

impl Odd {
    /// What a scheme asks for.
    pub fn of_scheme(zero: bool) -> Odd {
        if zero { Odd::Zero } else { Odd::Refuse }
    }
}

/// A worker's memory.
#[derive(Debug, Default)]
pub struct Hands {
    read: Vec<u8>,
    fixed: Vec<u8>,
    blocks: Vec<u8>,
    numbers: Vec<f32>,
    picked: Vec<f32>,
    made: Vec<u8>,
    band: Band,
    rows: Vec<f32>,
}

/// Grown on demand and never cleared: every byte that is used was written before.
fn sized<T: Copy + Default>(memory: &mut Vec<T>, count: usize) -> &mut [T] {
    if memory.len() < count {
        memory.resize(count, T::default());
    }
    &mut memory[..count]
}

/// More than this is given back after the task that needed it.
const KEPT_BYTES: usize = 4 << 20;

impl Hands {
    /// Makes a task's bytes. Files in the order of the table.
    pub fn make<'a>(
        &'a mut self,
        make: &'a Make,
        files: &[Arc<dyn ReadAt>],
        saturate: bool,
    ) -> Result<(&'a [u8], Losses)> {
        let bytes = bytes_of(make, files, &mut self.read, &mut self.fixed)?;
        let to_bytes = make.to.size_bytes(make.count).unwrap_or(0) as usize;
        // As it is, or one cast.
        if let Decode::As(from) = make.decode
            && make.add == 0.0
        {
            if from == make.to {
                let Some(pick) = &make.pick else { return Ok((bytes, Losses::default())) };
                let made = sized(&mut self.made, to_bytes);
                gather_bytes(bytes, pick, from.facts().block_bytes as usize, made);
                return Ok((made, Losses::default()));
            }
            if make.pick.is_none() && cast::can_cast(from, make.to) {
                let made = sized(&mut self.made, to_bytes);
                let overflows = cast::cast(from, make.to, bytes, made, saturate);
                return Ok((made, Losses { overflows, inexact: 0 }));
            }
        }
        if let Decode::Mx { nibbles_bytes } = make.decode
            && make.to == DType::MXFP4
        {
            let (nibbles, scales) = bytes.split_at_checked(nibbles_bytes).ok_or_else(short)?;
            return match &make.pick {
                None => {
                    let made = sized(&mut self.made, to_bytes);
                    block::repack_mx(nibbles, scales, made);
                    Ok((made, Losses::default()))
                }
                Some(pick) => {
                    let blocks = sized(&mut self.blocks, scales.len() * 17);
                    block::repack_mx(nibbles, scales, blocks);
                    let made = sized(&mut self.made, to_bytes);
                    gather_bytes(blocks, pick, 17, made);
                    Ok((made, Losses::default()))
                }
            };
        }
        let (numbers, mut losses) =
            numbers_of(make, bytes, &mut self.numbers, &mut self.picked, &mut self.band)?;
        let made = sized(&mut self.made, to_bytes);
        let bytes: &[u8] = bytemuck::cast_slice(numbers);
        if make.to == DType::F32 {
            made.copy_from_slice(bytes);
        } else if block::can_encode(make.to) {
            losses.overflows = block::encode(make.to, numbers, made);
        } else {
            losses.overflows = cast::cast(DType::F32, make.to, bytes, made, saturate);
        }
        Ok((made, losses))
    }

    /// Makes a task's blocks, with how far they are from the numbers. `zero_odd`: what is NaN or infinite becomes zero,
    /// instead of an error. `weigh`: how much the error of each column counts.
    ///
    /// # Errors
    /// As [`Hands::make`]. `BadInput`: NaN or infinity.
    pub fn encode<'a>(
        &'a mut self,
        make: &'a Make,
        files: &[Arc<dyn ReadAt>],
        weigh: Option<Weigh<'_>>,
        zero_odd: bool,
    ) -> Result<(&'a [u8], Losses, method::Error)> {
        let bytes = bytes_of(make, files, &mut self.read, &mut self.fixed)?;
        let (numbers, mut losses) =
            numbers_of(make, bytes, &mut self.numbers, &mut self.picked, &mut self.band)?;
        let odd = put_right(numbers, zero_odd)?;
        let made = sized(&mut self.made, make.to.size_bytes(make.count).unwrap_or(0) as usize);
        losses.overflows = match weigh {
            None => block::encode(make.to, numbers, made),
            Some(weigh) => weigh.encode(make.to, numbers, made),
        };
        let read_back = sized(&mut self.rows, numbers.len());
        block::decode(make.to, made, read_back);
        let mut error = method::error(numbers, read_back);
        error.odd = odd;
        Ok((made, losses, error))
    }

    /// Makes the numbers of some rows, one piece after the other, and quantises them. The band, and how far it is from the
    /// numbers as a reader will see it. `zero_odd`: what is NaN or infinite becomes zero, instead of an error.
    ///
    /// # Errors
    /// As [`Hands::make`]. `BadInput`: NaN or infinity.
    pub fn quantise(
        &mut self,
        makes: &[Make],
        files: &[Arc<dyn ReadAt>],
        quantiser: &Quantiser,
        packing: &Packing,
        zero_odd: bool,
    ) -> Result<(&Band, method::Error)> {
        let mut rows = std::mem::take(&mut self.rows);
        let count: u64 = makes.iter().map(|make| make.count).sum();
        rows.resize(count as usize, 0.0);
        let mut rest = &mut rows[..];
        for make in makes {
            let (place, behind) = rest.split_at_mut(make.count as usize);
            self.numbers(make, files, place)?;
            rest = behind;
        }
        self.rows = rows;
        let mut error = self.fit(quantiser, packing)?;
        // They show in the error's sums: hardly any matrix has some, and none is looked through for them before.
        if error.odd > 0 {
            let odd = put_right(&mut self.rows, zero_odd)?;
            error = method::Error { odd, ..self.fit(quantiser, packing)? };
        }
        Ok((&self.band, error))
    }

    /// Quantises the rows, and says how far off they are.
    fn fit(&mut self, quantiser: &Quantiser, packing: &Packing) -> Result<method::Error> {
        quantiser.quantise(&self.rows, packing.columns as usize, &mut self.band);
        if packing.has_zeros && self.band.zeros.is_empty() {
            // A symmetric grid in a layout whose readers want zero points all the same.
            let middle = (1u32 << (packing.bits.clamp(1, 8) - 1)) as f32;
            self.band.zeros.resize(self.band.scales.len(), middle);
        }
        let error = method::band_error(&self.rows, packing, &self.band);
        // Scales that a reader computes in a narrow type may be beyond it though the weights are not.
        if error.odd == 0 && !error.squares.is_finite() {
            let numbers = sized(&mut self.numbers, self.rows.len());
            packing.numbers(&self.band, numbers);
            round_to(packing.dtype, numbers);
            return Err(beyond(method::odd(numbers), packing.dtype));
        }
        Ok(error)
    }

    /// Makes the numbers of a task that ends in f32, as many as `place` has.
    fn numbers(&mut self, make: &Make, files: &[Arc<dyn ReadAt>], place: &mut [f32]) -> Result<()> {
        // Nearly all are numbers as they lie in the file: those are widened once, to where they stay.
        if let (Decode::As(from), None, true) = (&make.decode, &make.pick, make.add == 0.0) {
            let bytes = bytes_of(make, files, &mut self.read, &mut self.fixed)?;
            let size = from.size_bytes(place.len() as u64).ok_or_else(short)?;
            return widen(*from, bytes.get(..size as usize).ok_or_else(short)?, place);
        }
        let (bytes, _) = self.make(make, files, false)?;
        for (x, b) in place.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *x = f32::from_le_bytes(*b);
        }
        Ok(())
    }

    /// Gives back what only a large matrix needed. To be called when a task's bytes are written, before its memory counts
    /// as free.
    pub fn forget(&mut self) {
        for memory in [&mut self.read, &mut self.fixed, &mut self.blocks, &mut self.made] {
            if memory.len() > KEPT_BYTES {
                *memory = Vec::new();
            }
        }
        for memory in [&mut self.numbers, &mut self.picked, &mut self.rows] {
            if memory.len() * 4 > KEPT_BYTES {
                *memory = Vec::new();
            }
        }
        if self.band.codes.len() > KEPT_BYTES {
            self.band = Band::default();
        }
    }
}

/// How much the error of the columns of some numbers counts.
#[derive(Debug, Clone, Copy)]
pub struct Weigh<'a> {
    /// Of each column of each matrix: `[matrices, columns]`.
    pub weights: &'a [f32],
    /// Elements of a row.
    pub columns: u64,
    /// Elements of a matrix.
    pub matrix: u64,
    /// The first number's place among the elements of all matrices.
    pub first: u64,
}

impl Weigh<'_> {
    /// [`block::encode_weighed`], matrix by matrix.
    fn encode(self, to: DType, numbers: &[f32], out: &mut [u8]) -> u64 {
        let Weigh { weights, columns, matrix, first } = self;
        let (columns, matrix) = (columns.max(1) as usize, matrix.max(1));
        let facts = to.facts();
        let (mut done, mut lost) = (0usize, 0);
        while done < numbers.len() {
            let at = first + done as u64;
            let count = (matrix - at % matrix).min((numbers.len() - done) as u64) as usize;
            let start = (at / matrix) as usize * columns;
            let of = weights.get(start..start + columns).unwrap_or_default();
            let bytes =
                |elements: usize| elements / facts.block_elements as usize * facts.block_bytes as usize;
            let into = &mut out[bytes(done)..bytes(done + count)];
            lost += block::encode_weighed(to, &numbers[done..done + count], columns, at % matrix, of, into);
            done += count;
        }
        lost
    }
}

/// Refuses what is NaN or infinite, or makes it zero. How many there were.
fn put_right(numbers: &mut [f32], zero_odd: bool) -> Result<u64> {
    let odd = method::odd(numbers);
    if odd > 0 && !zero_odd {
        return Err(no_scale_fits(odd));
    }
    if odd > 0 {
        numbers.iter_mut().filter(|x| !x.is_finite()).for_each(|x| *x = 0.0);
    }
    Ok(odd)
}

/// What a task reads, put right.
fn bytes_of<'a>(
    make: &'a Make,
    files: &[Arc<dyn ReadAt>],
    read: &'a mut Vec<u8>,
    fixed: &'a mut Vec<u8>,
) -> Result<&'a [u8]> {
    let size: u64 = make.reads.iter().map(|r| r.size_bytes).sum();
    let read = sized(read, size as usize);
    let mut rest = &mut *read;
    for group in make.reads.chunk_by(|a, b| a.file == b.file) {
        let Some(first) = group.first() else { continue };
        let file = files.get(first.file.index()).ok_or_else(|| Error::bug("a task reads no file"))?;
        let mut pieces = Vec::with_capacity(group.len());
        for one in group {
            let (piece, after) = std::mem::take(&mut rest).split_at_mut(one.size_bytes as usize);
            pieces.push((one.offset_bytes, piece));
            rest = after;
        }
        read_pieces(&**file, pieces)
            .map_err(|e| if e.offset_bytes().is_some() { e } else { e.at(first.offset_bytes) })?;
    }
    let mut bytes: &[u8] = &read[..];
    if let Some((made, range)) = &make.made {
        bytes = made.get(range.clone()).ok_or_else(|| Error::bug("a made value ends early"))?;
    }
    if let Some(fix) = &make.fix {
        let into = sized(fixed, fix.size_bytes() as usize);
        fix.apply(bytes, into);
        bytes = into;
    }
    Ok(bytes)
}

/// The numbers that a task's bytes mean, in order, with what is added to them.
fn numbers_of<'a>(
    make: &Make,
    bytes: &[u8],
    numbers: &'a mut Vec<f32>,
    picked: &'a mut Vec<f32>,
    band: &mut Band,
) -> Result<(&'a mut [f32], Losses)> {
    decode(&make.decode, bytes, numbers, band)?;
    let count = make.count as usize;
    let numbers = match &make.pick {
        None => numbers.get_mut(..count).ok_or_else(short)?,
        Some(pick) => {
            let picked = sized(picked, count);
            gather(numbers, pick, picked);
            picked
        }
    };
    let mut losses = Losses::default();
    if make.add != 0.0 {
        for x in numbers.iter_mut() {
            let sum = *x + make.add;
            losses.inexact += u64::from(sum - make.add != *x && !x.is_nan());
            *x = sum;
        }
    }
    Ok((numbers, losses))
}

/// Numbers that are NaN or infinite.
pub(super) fn no_scale_fits(odd: u64) -> Error {
    Error::bad_input(format!(
        "has {} NaN or infinite, which no scale fits",
        match odd {
            1 => "a number that is".to_owned(),
            n => format!("{} numbers that are", crate::text::grouped(n)),
        }
    ))
    .hint("--nan zero takes them for zeros")
}

/// Numbers that a reader would find infinite.
fn beyond(count: u64, dtype: DType) -> Error {
    let many =
        if count == 1 { "a number".to_owned() } else { format!("{} numbers", crate::text::grouped(count)) };
    Error::bad_input(format!("has {many} too large for the scheme, whose readers compute in `{dtype}`"))
        .hint("--scheme int4 of a bf16 model holds them; --keep 'GLOB' leaves the tensor as it is")
}

/// Blocks whose scales do not fit.
pub(super) fn too_large_for_blocks(count: u64, make: &Make, weighed: bool) -> Error {
    let many =
        if count == 1 { "a value".to_owned() } else { format!("{} values", crate::text::grouped(count)) };
    let error = Error::bad_input(format!("has {many} that no scale of `{}` fits", make.to));
    match weighed {
        true => error.hint("weights or importance are too large; --keep 'GLOB' leaves the tensor as it is"),
        false => error.hint("--keep 'GLOB' leaves the tensor as it is"),
    }
}

/// What does not fit its type.
pub(super) fn too_large(count: u64, make: &Make) -> Error {
    let many =
        if count == 1 { "a value".to_owned() } else { format!("{} values", crate::text::grouped(count)) };
    Error::bad_input(format!("has {many} too large for `{}`", make.to))
        .hint("bf16 holds the same range as f32; --saturate takes the largest value there is")
}

fn short() -> Error {
    Error::bug("a task read less than it decodes")
}

/// Fills `numbers` from the front.
fn decode(how: &Decode, bytes: &[u8], numbers: &mut Vec<f32>, band: &mut Band) -> Result<()> {
    match *how {
        Decode::As(from) => {
            let facts = from.facts();
            let count = bytes.len() / facts.block_bytes as usize * facts.block_elements as usize;
            widen(from, bytes, sized(numbers, count))
        }
        Decode::Mx { nibbles_bytes } => {
            let (nibbles, scales) = bytes.split_at_checked(nibbles_bytes).ok_or_else(short)?;
            block::decode_mx(nibbles, scales, sized(numbers, nibbles_bytes * 2));
            Ok(())
        }
        Decode::Scaled { codes, scales: of, codes_bytes, first, columns, block_rows, block_columns } => {
            let (codes_at, scales_at) = bytes.split_at_checked(codes_bytes).ok_or_else(short)?;
            let count = codes_bytes / codes.facts().block_bytes as usize;
            let mut scales = vec![0.0; scales_at.len() / of.facts().block_bytes as usize];
            widen(of, scales_at, &mut scales)?;
            let numbers = sized(numbers, count);
            widen(codes, codes_at, numbers)?;
            block::scale(numbers, first, columns, block_rows, block_columns, &scales);
            Ok(())
        }
        Decode::Packed(ref rows) => {
            let packing = &rows.of.packing;
            let mut rest = bytes;
            for &(face, size) in &rows.faces {
                let (strip, behind) = rest.split_at_checked(size).ok_or_else(short)?;
                packing.read(face, strip, rows.rows.clone(), band)?;
                rest = behind;
            }
            let numbers = sized(numbers, rows.count() as usize);
            packing.numbers(band, numbers);
            // What a client reads: the numbers are of the packing's own type, whatever they are made into.
            round_to(packing.dtype, numbers);
            Ok(())
        }
    }
}

/// Any type that has numbers to f32.
fn widen(from: DType, bytes: &[u8], numbers: &mut [f32]) -> Result<()> {
    if block::can_decode(from) {
        block::decode(from, bytes, numbers);
    } else if from == DType::F32 {
        bytemuck::cast_slice_mut(numbers).copy_from_slice(bytes);
    } else if cast::can_cast(from, DType::F32) {
        cast::cast(from, DType::F32, bytes, bytemuck::cast_slice_mut(numbers), false);
    } else {
        return Err(Error::bug(format!("no numbers in `{from}`")));
    }
    Ok(())
}
