//! Units, made one at a time: a window over a run's pieces, or a block of a gather.

use super::{Cut, Dest, Kernel, Piece, Plan, Put, Read, Run, Unit};

/// Makes units one at a time.
#[derive(Debug)]
pub struct Units<'a> {
    plan: &'a Plan,
    run: usize,
    at_bytes: Option<u64>,
    next_piece: usize,
    active: Vec<usize>,
    gather: usize,
    block: u64,
}

impl<'a> Units<'a> {
    pub(super) fn new(plan: &'a Plan) -> Units<'a> {
        Units { plan, run: 0, at_bytes: None, next_piece: 0, active: Vec::new(), gather: 0, block: 0 }
    }
}

impl Iterator for Units<'_> {
    type Item = Unit;

    fn next(&mut self) -> Option<Unit> {
        loop {
            if let Some(run) = self.plan.runs.get(self.run) {
                match self.next_of_run(run) {
                    Some(unit) => return Some(unit),
                    None => {
                        self.run += 1;
                        self.at_bytes = None;
                        continue;
                    }
                }
            }
            let gather = self.plan.gathers.get(self.gather)?;
            match gather.unit(self.block) {
                Some(unit) => {
                    self.block += 1;
                    return Some(unit);
                }
                None => {
                    self.gather += 1;
                    self.block = 0;
                }
            }
        }
    }
}

impl Units<'_> {
    fn next_of_run(&mut self, run: &Run) -> Option<Unit> {
        let chunk = self.plan.chunk_bytes;
        loop {
            let start = match self.at_bytes {
                Some(at) => at,
                None => {
                    self.active.clear();
                    self.next_piece = run.pieces.start;
                    run.start_bytes
                }
            };
            if start >= run.end_bytes {
                return None;
            }
            let pieces = &self.plan.pieces;
            while self.next_piece < run.pieces.end && pieces[self.next_piece].offset_bytes <= start {
                self.active.push(self.next_piece);
                self.next_piece += 1;
            }
            let phase = match (self.plan.cut, self.active.first().map(|&index| &pieces[index])) {
                (Cut::Arena, Some(p)) if p.kernel == Kernel::Copy && start >= p.offset_bytes => {
                    p.to.offset_bytes + (start - p.offset_bytes)
                }
                _ => start,
            };
            let end = run.end_bytes.min(start + chunk - phase % chunk);
            self.at_bytes = Some(end);
            while self.next_piece < run.pieces.end && pieces[self.next_piece].offset_bytes < end {
                self.active.push(self.next_piece);
                self.next_piece += 1;
            }
            let mut parts = Vec::with_capacity(self.active.len());
            for &index in &self.active {
                let piece = &pieces[index];
                // At the end of a piece nothing is left over; elsewhere an element that is cut goes to the next unit.
                let to = if end >= piece.end_bytes() { piece.end_bytes() } else { piece.cut(end) };
                rows_within(piece, piece.cut(start), to, &mut parts);
            }
            self.active.retain(|&index| pieces[index].end_bytes() > end);
            let Some(first) = parts.iter().map(|&(at, _)| at).min() else { continue };
            let last =
                parts.iter().map(|(at, p)| at + (p.row_count - 1) * p.pitch_bytes + p.row_bytes).max()?;
            let mut puts: Vec<Put> = Vec::with_capacity(parts.len());
            for (at, mut put) in parts {
                put.from_bytes = at - first;
                if !puts.last_mut().is_some_and(|last| join_puts(last, &put)) {
                    puts.push(put);
                }
            }
            let reads = vec![Read { offset_bytes: first, size_bytes: last - first }];
            return Some(Unit { file: run.file, reads, fix: None, puts });
        }
    }
}

/// Appends what of a piece lies in `start..end` (both legal cuts) as (file offset, put with no offset yet): at most a
/// part of a row, whole rows, and a part of a row.
fn rows_within(piece: &Piece, start: u64, end: u64, parts: &mut Vec<(u64, Put)>) {
    if start >= end {
        return;
    }
    let Piece { offset_bytes, row_bytes, pitch_bytes, row_count, kernel, to, .. } = *piece;
    let mut push = |row: u64, skip: u64, size: u64, count: u64| {
        if size == 0 || count == 0 {
            return;
        }
        let to = Dest {
            offset_bytes: to.offset_bytes + row * to.pitch_bytes + kernel.output_bytes(skip),
            pitch_bytes: if count == 1 { kernel.output_bytes(size) } else { to.pitch_bytes },
            ..to
        };
        let pitch = if count == 1 { size } else { pitch_bytes };
        let at = offset_bytes + row * pitch_bytes + skip;
        let put = Put { from_bytes: 0, row_bytes: size, pitch_bytes: pitch, row_count: count, kernel, to };
        parts.push((at, put));
    };
    if row_count == 1 {
        push(0, start - offset_bytes, end - start, 1);
        return;
    }
    let (from, until) = (start - offset_bytes, end - offset_bytes);
    let (mut row, skip) = (from / pitch_bytes, from % pitch_bytes);
    let (last_row, last_part) = (until / pitch_bytes, (until % pitch_bytes).min(row_bytes));
    if row == last_row {
        push(row, skip.min(row_bytes), last_part.saturating_sub(skip), 1);
        return;
    }
    if skip > 0 {
        push(row, skip.min(row_bytes), row_bytes.saturating_sub(skip), 1);
        row += 1;
    }
    let (whole_until, last_part) =
        if last_part == row_bytes { (last_row + 1, 0) } else { (last_row, last_part) };
    push(row, 0, row_bytes, whole_until - row);
    push(last_row, 0, last_part, 1);
}

/// Joins a put to the one before it where both sides go on without a break.
fn join_puts(last: &mut Put, next: &Put) -> bool {
    let joins = last.is_contiguous()
        && next.is_contiguous()
        && last.kernel == next.kernel
        && last.to.arena == next.to.arena
        && last.from_bytes + last.row_bytes == next.from_bytes
        && last.to.offset_bytes + last.output_bytes() == next.to.offset_bytes;
    if joins {
        last.row_bytes += next.row_bytes;
        last.pitch_bytes = last.row_bytes;
        last.to.pitch_bytes = last.kernel.output_bytes(last.row_bytes);
    }
    joins
}
