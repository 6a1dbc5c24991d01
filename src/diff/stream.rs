//! A tensor as a stream of bytes, made piece by piece as a conversion would make them.

use crate::error::{Error, Result};
use crate::open::Model;
use crate::plan::weave::{Limits, Make, Task, Work, tasks};
use crate::run::make::Hands;
use crate::transform::recipe::{Output, Recipe};

/// One side of a comparison of two tensors.
pub(super) struct Stream<'a> {
    model: &'a Model,
    output: &'a Output,
    tasks: Box<dyn Iterator<Item = Task> + 'a>,
    hands: Hands,
    /// Bytes at hand; those before `from` are used up.
    bytes: Vec<u8>,
    from: usize,
    /// Where the bytes wanted next begin, counted in the output.
    at_bytes: u64,
}

impl<'a> Stream<'a> {
    /// The output's bytes from `at_bytes` on.
    pub(super) fn new(
        model: &'a Model,
        recipe: &'a Recipe,
        output: &'a Output,
        limits: &Limits,
        at_bytes: u64,
    ) -> Result<Stream<'a>> {
        let tasks = tasks(&model.table, recipe, output, limits)?;
        // Those before are made by nobody: a task is nothing until it is carried out.
        let tasks = Box::new(tasks.skip_while(move |t| t.offset_bytes + t.size_bytes <= at_bytes));
        Ok(Stream { model, output, tasks, hands: Hands::default(), bytes: Vec::new(), from: 0, at_bytes })
    }

    /// The bytes at hand, at least one where the output has more: where there are none the next task is carried out,
    /// `before` having been told of it.
    pub(super) fn held(&mut self, before: &mut dyn FnMut(&Make)) -> Result<&[u8]> {
        while self.from == self.bytes.len() {
            let Some(task) = self.tasks.next() else { break };
            self.make(&task, before).map_err(|e| self.explain(e, &task))?;
            let skip = self.at_bytes.saturating_sub(task.offset_bytes);
            self.from = usize::try_from(skip).unwrap_or(usize::MAX).min(self.bytes.len());
        }
        Ok(&self.bytes[self.from..])
    }

    /// Uses bytes up.
    pub(super) fn take(&mut self, size_bytes: usize) {
        self.from = self.from.saturating_add(size_bytes).min(self.bytes.len());
        self.at_bytes += size_bytes as u64;
    }

    fn make(&mut self, task: &Task, before: &mut dyn FnMut(&Make)) -> Result<()> {
        match &task.work {
            Work::Copy { file, offset_bytes } => {
                let file =
                    self.model.files.get(file.index()).ok_or_else(|| Error::bug("a copy of no file"))?;
                self.bytes.resize(task.size_bytes as usize, 0);
                file.read_exact_at(&mut self.bytes, *offset_bytes)
                    .map_err(|e| if e.offset_bytes().is_some() { e } else { e.at(*offset_bytes) })
            }
            Work::Make(make) => {
                before(make);
                let (made, _) = self.hands.make(make, &self.model.files, true)?;
                self.bytes.clear();
                self.bytes.extend_from_slice(made);
                Ok(())
            }
            Work::Pack(_) => Err(Error::bug("codes are compared")),
        }
    }

    fn explain(&self, error: Error, task: &Task) -> Error {
        let file = match &task.work {
            Work::Copy { file, .. } => Some(*file),
            Work::Make(make) => make.reads.first().map(|r| r.file),
            Work::Pack(_) => None,
        };
        let error = error.tensor(&self.output.name);
        match file.and_then(|f| self.model.table.files.get(f.index())) {
            Some(file) => error.file(&file.name),
            None => error,
        }
    }
}
