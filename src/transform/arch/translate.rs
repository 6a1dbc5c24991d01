//! From a checkpoint's tensors to a GGUF's and back, by the rows of a family.
//!
//! Both ways are one walk over the source's values: a value's name says in which rows it stands, each row's map says
//! which view of it belongs where, and what belongs to one tensor is gathered under that tensor's name. Then everything
//! is checked against what the family needs (nothing missing, nothing twice, every size the one that the config says)
//! and only then is there a recipe. Nothing is read: what can be refused is refused from names and shapes.

mod channels;
mod forward;
mod made;
mod maps;
mod names;
mod needs;
mod types;

use crate::checkpoint::Meta;
use crate::dtype::{Class, DType};
use crate::error::{Error, Result};
use crate::text::{Shown, grouped};
use crate::transform::arch::families::{
    Dim, Ends, Family, Head, Map, Need, Row, Sizes, generates, says_tied,
};
use crate::transform::recipe::{LeftOut, Output, Part, Recipe, Source, Value};
use crate::transform::view::View;
pub use channels::{Channels, Matrix};
pub use forward::{Origin, to_forward};
use maps::{PARTS_MAX, Task};
use names::{Hit, Index, Side, filled};
use std::collections::HashMap;
pub use types::{Want, stays_f32};

/// The embedding's row, by its GGUF name.
const EMBEDDING: &str = "token_embd";

/// A tensor of the target that is being gathered.
struct Draft {
    name: String,
    row: &'static Row,
    bias: bool,
    layer: Option<u64>,
    /// With the place of each among the parts.
    parts: Vec<(u64, Part)>,
    /// Whether each part is one of a stack.
    stacked: bool,
    /// The shape of the tensor; while it is being stacked that of one expert.
    shape: Vec<u64>,
    zero_rows: u64,
    order: Order,
}

/// The form of the tensor that a part belongs to.
struct Form {
    /// Of the whole; where the part is one of a stack, of the part.
    shape: Vec<u64>,
    zero_rows: u64,
    stacked: bool,
}

impl Form {
    fn whole(view: &View) -> Form {
        Form { shape: view.shape.clone(), zero_rows: 0, stacked: false }
    }
}

/// Where a tensor stands in the file. Derived order: the stage first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Order {
    /// What the reference writes before everything else is 0, the rest 1.
    stage: u8,
    /// The value that completed it.
    value: usize,
    expert: Option<u64>,
    row: usize,
}

/// Where a value belongs.
struct Place {
    hits: Vec<Hit>,
    layer: Option<u64>,
    expert: Option<u64>,
}

/// The walk of one way.
struct Walk<'a> {
    family: &'static Family,
    sizes: &'a Sizes,
    /// Whose names the values have.
    side: Side,
    /// Whose names and layout the tensors get that they become.
    target: Side,
    index: Index,
    /// Whether a head that is there is the embedding's copy.
    tied: bool,
    drafts: Vec<Draft>,
    by_name: HashMap<String, usize>,
    /// The last value of each layer that is one expert's: their stacks are complete only then.
    last_expert: HashMap<Option<u64>, usize>,
    head: Option<usize>,
    parts: u64,
    out: Recipe,
}

/// The recipe of a GGUF from a checkpoint's values. `config` is the whole `config.json`; `sizes` are its
/// [`Sizes::of_config`]. Outputs are in the reference converter's order for the order of `values`: tensors made from the
/// config first, experts where their last one is.
///
/// # Errors
/// Unsupported for a tensor that no row of the family knows, and for a type that is not converted; bad input for one
/// that is missing, there twice, or of another shape than the config says.
pub fn to_gguf(
    values: Vec<Value>,
    family: &'static Family,
    sizes: &Sizes,
    config: &serde_json::Value,
    want: Want,
) -> Result<Recipe> {
    let tied = family.is_tied(config);
    let mut walk = Walk::new(values, family, sizes, (Side::Hf, Side::Gguf), tied);
    walk.take_all(Walk::take_hf)?;
    walk.take_head_as_embedding()?;
    let head_needed =
        matches!(family.head, Head::Said { .. }) && !tied && says_tied(config, false) && generates(config);
    let drafts = walk.finish(head_needed)?;
    for value in made::made(family, sizes, config)? {
        let view = value.view()?;
        let part = Part::new(walk.out.values.len(), view);
        let (name, dtype, shape) = (value.name.clone(), value.dtype, value.shape.clone());
        walk.out.outputs.push(Output {
            name,
            dtype,
            shape,
            parts: vec![part],
            narrow: None,
            form: Default::default(),
        });
        walk.out.values.push(value);
    }
    types::of_gguf(&mut walk.out, drafts, want)?;
    walk.out.outputs.iter().try_for_each(Output::check)?;
    Ok(walk.out)
}

/// The recipe of a checkpoint from a GGUF's values. `meta` are the file's keys; `sizes` are its [`Sizes::of_gguf`].
/// Outputs are in the order of `values`, experts one after the other.
///
/// # Errors
/// As [`to_gguf`].
pub fn to_hf(
    values: Vec<Value>,
    family: &'static Family,
    sizes: &Sizes,
    _meta: &Meta,
    want: Want,
) -> Result<Recipe> {
    let mut walk = Walk::new(values, family, sizes, (Side::Gguf, Side::Hf), family.head == Head::Tied);
    walk.take_all(Walk::take_gguf)?;
    let mut drafts = walk.finish(false)?;
    for draft in &mut drafts {
        walk.add_zero_rows(draft)?;
        walk.join(draft).map_err(|e| e.tensor(&draft.name))?;
    }
    types::of_hf(&mut walk.out, drafts, want)?;
    walk.out.outputs.iter().try_for_each(Output::check)?;
    Ok(walk.out)
}

impl Walk<'_> {
    fn new<'a>(
        values: Vec<Value>,
        family: &'static Family,
        sizes: &'a Sizes,
        (side, target): (Side, Side),
        tied: bool,
    ) -> Walk<'a> {
        Walk {
            family,
            sizes,
            side,
            target,
            index: Index::new(family.rows(), side),
            tied,
            drafts: Vec::new(),
            by_name: HashMap::new(),
            last_expert: HashMap::new(),
            head: None,
            parts: 0,
            out: Recipe { values, ..Recipe::default() },
        }
    }

    fn task(&self, hit: &Hit) -> Task<'_> {
        Task { family: self.family, sizes: self.sizes, map: hit.row.map, bias: hit.bias }
    }

    /// The rows of a value, or nothing where it is left out.
    fn look_up(&mut self, at: usize) -> Result<Option<Place>> {
        let value = &self.out.values[at];
        // A value is named after its weights; what it looks like on disk decides the row.
        let packed = match &value.source {
            Source::Mxfp4 { .. } if !value.name.ends_with("_blocks") => {
                Some(format!("{}_blocks", value.name))
            }
            _ => None,
        };
        let found = packed
            .as_deref()
            .and_then(|name| self.index.find(name))
            .or_else(|| self.index.find(&value.name))
            .map(|f| Place { hits: f.hits.to_vec(), layer: f.layer, expert: f.expert });
        if let Some(place) = found
            && place.layer.is_none_or(|n| n < self.sizes.layers)
        {
            if place.hits.iter().any(|hit| hit.row.need == Need::Head) && self.tied {
                if let Some(first) = self.head.replace(at) {
                    let first = Shown(&self.out.values[first].name).to_string();
                    return Err(Error::bad_input(format!("is a second head, beside `{first}`")));
                }
                self.leave_out(at, names::TIED);
                return Ok(None);
            }
            return Ok(Some(place));
        }
        if let Some(why) = names::left_out(&value.name, self.family, self.side) {
            self.leave_out(at, why);
            return Ok(None);
        }
        let layer = names::layer_of(&value.name);
        let all = self.sizes.layers.saturating_add(self.sizes.mtp_layers);
        if layer.is_some_and(|n| (self.sizes.layers..all).contains(&n)) {
            self.leave_out(at, names::MTP);
            return Ok(None);
        }
        if let Some(layer) = layer.filter(|&n| n >= self.sizes.layers) {
            return Err(Error::bad_input(format!(
                "is of layer {layer}, and the model has {} layers, counted from 0",
                self.sizes.layers
            )));
        }
        Err(Error::unsupported(format!("is no tensor of family `{}`", self.family.name()))
            .hint("`--exclude` leaves a tensor out"))
    }

    fn leave_out(&mut self, at: usize, why: &'static str) {
        self.out.left_out.push(LeftOut { name: self.out.values[at].name.clone(), why });
    }

    /// Every value, by one of the ways to take it.
    fn take_all(&mut self, take: impl Fn(&mut Self, usize) -> Result<()>) -> Result<()> {
        for at in 0..self.out.values.len() {
            take(self, at).map_err(|e| e.tensor(&self.out.values[at].name))?;
        }
        Ok(())
    }

    /// A checkpoint's tensor.
    fn take_hf(&mut self, at: usize) -> Result<()> {
        let Some(Place { hits, layer, expert }) = self.look_up(at)? else { return Ok(()) };
        let mxfp4 = matches!(self.out.values[at].source, Source::Mxfp4 { .. });
        for hit in hits {
            let view = self.out.values[at].view()?;
            let task = self.task(&hit);
            let (view, shape) = task.to_gguf(view)?;
            let part = Part { add: task.offset(), ..Part::new(at, view) };
            let stacked = hit.row.map == Map::Stacked;
            let place = if stacked { expert.unwrap_or(0) } else { 0 };
            if stacked {
                self.last_expert.insert(layer, at);
            }
            let order = Order { stage: u8::from(!mxfp4), value: at, expert: None, row: hit.number };
            let name = filled(hit.row, Side::Gguf, hit.bias, layer, None);
            self.put(name, &hit, layer, Form { shape, zero_rows: 0, stacked }, order, (place, part))?;
        }
        Ok(())
    }

    /// Some writers keep of two tensors that are one only the head: it is the embedding then.
    fn take_head_as_embedding(&mut self) -> Result<()> {
        let Some(head) = self.head else { return Ok(()) };
        let Some((number, row)) = self.family.rows().enumerate().find(|(_, row)| row.gguf == EMBEDDING)
        else {
            return Ok(());
        };
        let name = filled(row, Side::Gguf, false, None, None);
        if self.by_name.contains_key(&name) {
            return Ok(());
        }
        self.head = None;
        let value = &self.out.values[head];
        self.out.left_out.retain(|left| left.name != value.name);
        let view = value.view()?;
        let form = Form::whole(&view);
        let order = Order { stage: 1, value: head, expert: None, row: number };
        let hit = Hit { row, number, bias: false };
        self.put(name, &hit, None, form, order, (0, Part::new(head, view)))
    }

    /// A GGUF's tensor with all the dimensions of its row.
    fn view_of_gguf(&self, at: usize, hit: &Hit) -> Result<View> {
        let mut view = self.out.values[at].view()?;
        let dims = dims(hit.row, hit.bias);
        // GGUF's writers drop outer dimensions of one.
        while view.shape.len() < dims.len() {
            view.shape.insert(0, 1);
            view.strides.insert(0, 0);
        }
        check_dims(self.sizes, dims, &view.shape, None)?;
        Ok(view)
    }

    /// A GGUF's tensor.
    fn take_gguf(&mut self, at: usize) -> Result<()> {
        let Some(Place { hits, layer, expert }) = self.look_up(at)? else { return Ok(()) };
        for hit in hits {
            let view = self.view_of_gguf(at, &hit)?;
            let task = self.task(&hit);
            let add = -task.offset();
            let back = task.to_hf(view)?;
            for piece in back.pieces {
                let expert = piece.expert.or(expert);
                let part = Part { add: if add == 0.0 { 0.0 } else { add }, ..Part::new(at, piece.view) };
                let order = Order { stage: 1, value: at, expert, row: hit.number };
                let name = filled(hit.row, Side::Hf, hit.bias, layer, expert);
                let form = Form { shape: back.shape.clone(), zero_rows: back.zero_rows, stacked: false };
                self.put(name, &hit, layer, form, order, (piece.place, part))?;
            }
        }
        Ok(())
    }

    /// Adds a part to the tensor `name`, which begins to be gathered with its first.
    fn put(
        &mut self,
        name: String,
        hit: &Hit,
        layer: Option<u64>,
        Form { shape, zero_rows, stacked }: Form,
        order: Order,
        part: (u64, Part),
    ) -> Result<()> {
        self.parts += 1;
        if self.parts > PARTS_MAX + self.out.values.len() as u64 {
            return Err(maps::too_many_parts(self.parts));
        }
        let Some(&at) = self.by_name.get(&name) else {
            self.by_name.insert(name.clone(), self.drafts.len());
            let (row, bias) = (hit.row, hit.bias);
            let parts = vec![part];
            self.drafts.push(Draft { name, row, bias, layer, parts, stacked, shape, zero_rows, order });
            return Ok(());
        };
        let draft = &mut self.drafts[at];
        let first = draft.parts.first().map_or(0, |(_, p)| p.value);
        let other = |what: &str| {
            Err(Error::bad_input(format!(
                "{what} `{}`: both make `{}`",
                Shown(&self.out.values[first].name),
                Shown(&name)
            )))
        };
        if draft.shape != shape || draft.stacked != stacked {
            return other(&format!("has shape {shape:?}, which does not fit that of"));
        }
        if self.target == Side::Gguf && !std::ptr::eq(draft.row, hit.row) {
            return other("is the same as");
        }
        draft.order.value = match self.side {
            Side::Hf => draft.order.value.max(order.value),
            Side::Gguf => draft.order.value.min(order.value),
        };
        draft.parts.push(part);
        Ok(())
    }

    /// All tensors, whole and checked, in the file's order.
    fn finish(&mut self, head_needed: bool) -> Result<Vec<Draft>> {
        let mut drafts = std::mem::take(&mut self.drafts);
        for draft in &mut drafts {
            self.complete(draft).map_err(|e| e.tensor(&draft.name))?;
        }
        let sides = (self.side, self.target);
        needs::check(self.family, self.sizes, sides, &self.by_name, head_needed)?;
        if let Some(head) = self.head {
            let embedding = self.embedding(&drafts)?;
            let (a, b) = (&self.out.values[head], &self.out.values[embedding]);
            if a.shape != b.shape {
                return Err(Error::bad_input(format!(
                    "has shape {:?}, and the embedding that it shall share has {:?}",
                    a.shape, b.shape
                ))
                .tensor(&a.name));
            }
            self.out.equal.push((head, embedding));
        }
        drafts.sort_by_key(|d| d.order);
        Ok(drafts)
    }

    fn embedding(&self, drafts: &[Draft]) -> Result<usize> {
        let row = self.family.rows().find(|row| row.gguf == EMBEDDING);
        let name = row.map(|row| filled(row, self.target, false, None, None));
        let at = name.and_then(|name| self.by_name.get(&name));
        at.and_then(|&at| Some(drafts.get(at)?.parts.first()?.1.value))
            .ok_or_else(|| Error::bug("a family with a tied head has no embedding"))
    }

    /// Puts the parts in their order, each place once, and checks the shape.
    fn complete(&self, draft: &mut Draft) -> Result<()> {
        draft.parts.sort_by_key(|(place, _)| *place);
        let name = |value: usize| Shown(&self.out.values[value].name).to_string();
        for (i, (place, part)) in draft.parts.iter().enumerate() {
            let i = i as u64;
            let before = usize::try_from(i).ok().and_then(|i| draft.parts.get(i.checked_sub(1)?));
            match before {
                Some((p, other)) if p == place => {
                    return Err(Error::bad_input(format!(
                        "is made by both `{}` and `{}`",
                        name(other.value),
                        name(part.value)
                    )));
                }
                _ if i != *place => return Err(self.lacks(draft, i)),
                _ => {}
            }
        }
        if draft.stacked {
            let count = draft.parts.len() as u64;
            match self.sizes.experts {
                Some(n) if count < n => return Err(self.lacks(draft, count)),
                Some(n) if count > n => {
                    return Err(Error::bad_input(format!("has {count} experts, where the config says {n}")));
                }
                _ => {}
            }
            draft.shape.insert(0, count);
            if let Some(&last) = self.last_expert.get(&draft.layer) {
                draft.order.value = last;
            }
        }
        if self.target == Side::Gguf {
            let from = draft.parts.first().map_or("", |(_, p)| &self.out.values[p.value].name);
            check_dims(self.sizes, dims(draft.row, draft.bias), &draft.shape, Some(from))?;
        }
        Ok(())
    }

    /// The part at `place` is not there.
    fn lacks(&self, draft: &Draft, place: u64) -> Error {
        if self.side == Side::Hf {
            let name = filled(draft.row, Side::Hf, draft.bias, draft.layer, Some(place));
            return Error::bad_input(format!("is not whole: the model has no `{name}`"));
        }
        Error::bad_input("is not whole: the file has only some of the tensors that it is made of")
    }

    /// Gate and up of a tensor that holds both, as one value and one view of it: where they take turns element by element,
    /// a part for each would be as many as the model has weights.
    fn join(&mut self, draft: &mut Draft) -> Result<()> {
        let Map::Fused { turned, paired, .. } = draft.row.map else { return Ok(()) };
        let [(_, gate), (_, up)] = draft.parts.as_slice() else {
            return Err(Error::bad_input("is not whole: the file has gate or up of it, not both"));
        };
        let (Some(a), Some(b)) = (self.out.values.get(gate.value), self.out.values.get(up.value)) else {
            return Err(Error::bug("a part without a value"));
        };
        let (Source::Tensor(first), Source::Tensor(second)) = (&a.source, &b.source) else {
            return Err(Error::bug("a GGUF's tensor that is not one"));
        };
        if gate.view.shape != up.view.shape || a.dtype != b.dtype {
            return Err(Error::unsupported(format!(
                "is made of `{}` and `{}`, which differ in type or shape: {} {:?} and {} {:?}",
                Shown(&a.name),
                Shown(&b.name),
                a.dtype,
                gate.view.shape,
                b.dtype,
                up.view.shape
            )));
        }
        let (shape, view) = maps::joined(&gate.view.shape, turned, paired)?;
        let source = Source::Joined(vec![*first, *second]);
        let value = Value { name: a.name.clone(), dtype: a.dtype, shape, source };
        draft.parts = vec![(0, Part::new(self.out.values.len(), view))];
        self.out.values.push(value);
        Ok(())
    }

    /// Rows that GGUF leaves out because no token uses them come back as zeros.
    fn add_zero_rows(&mut self, draft: &mut Draft) -> Result<()> {
        let width = draft.shape.get(1..).and_then(crate::dtype::element_count).unwrap_or(0);
        if draft.zero_rows == 0 {
            return Ok(());
        }
        /// A padding token's rows are few; what is made up stays small whatever a file says.
        const ZEROS_MAX: u64 = 1 << 24;
        let count = draft.zero_rows.checked_mul(width).filter(|&n| n <= ZEROS_MAX);
        let Some(count) = count.and_then(|n| usize::try_from(n).ok()) else {
            return Err(Error::bad_input(format!(
                "needs {} rows for positions before the padding token's, which cannot be",
                grouped(draft.zero_rows)
            ))
            .tensor(&draft.name));
        };
        let zeros = Value::made(&draft.name, &[draft.zero_rows, width], &vec![0.0; count]);
        let view = zeros.view()?;
        draft.parts.insert(0, (0, Part::new(self.out.values.len(), view)));
        self.out.values.push(zeros);
        self.out.notes.push(format!(
            "`{}` begins with {} rows of zeros: GGUF leaves out the positions that no token has",
            draft.name, draft.zero_rows
        ));
        Ok(())
    }
}

/// The sizes of a row's tensor in a GGUF.
fn dims(row: &Row, bias: bool) -> &'static [Dim] {
    if bias && row.ends != Ends::Bare { row.dims.get(..1).unwrap_or_default() } else { row.dims }
}

/// Whether a shape is what the row and the model's sizes say.
fn check_dims(sizes: &Sizes, dims: &[Dim], shape: &[u64], from: Option<&str>) -> Result<()> {
    let wanted = dims.iter().map(|&d| sizes.dim(d)).collect::<Result<Vec<_>>>()?;
    // A dimension of zero fits nothing: no weight is empty, and what is made of one would cost memory and no bytes.
    let fits = wanted.len() == shape.len()
        && wanted.iter().zip(shape).all(|(wanted, &found)| wanted.map_or(found > 0, |n| n == found && n > 0));
    if fits {
        return Ok(());
    }
    let needed: Vec<String> = wanted.iter().map(|n| n.map_or("any".to_owned(), |n| n.to_string())).collect();
    let needed = needed.join(", ");
    Err(match from {
        None => Error::bad_input(format!("has shape {shape:?}, where [{needed}] is needed")),
        Some(from) => Error::bad_input(format!(
            "would have shape {shape:?} by `{}`, where [{needed}] is needed",
            Shown(from)
        )),
    }
    .detail("the tensors and the sizes that the model says it has do not fit together"))
}

/// Whether numbers of this type may be converted.
fn check_class(value: &Value) -> Result<()> {
    match value.dtype.facts().class {
        Class::Float | Class::Block => Ok(()),
        _ => Err(Error::unsupported(format!("has type `{}`, where weights are floats", value.dtype))
            .tensor(&value.name)
            .detail("codes of a quantisation are no numbers without their scales")),
    }
}

/// The type that all parts of a tensor have; the widest plain one where they differ.
fn common(values: &[Value], draft: &Draft) -> DType {
    let mut types = draft.parts.iter().filter_map(|(_, p)| values.get(p.value)).map(|v| v.dtype);
    let first = types.next().unwrap_or(DType::F32);
    if types.all(|t| t == first) { first } else { DType::F32 }
}
