//! Models that predict tokens, measured: one by itself, or against another that is known to be right.
//!
//! Two models pass each layer one after the other, all tokens of a group of windows at a time, so that where they part is
//! known for nothing and no more than a layer of each must be in memory. Behind the last layer logits are made in tiles of
//! positions × tokens of the vocabulary, of which every figure is taken at once: the matrix of all of them is never there.

use crate::error::{Error, ErrorKind, Result};
use crate::run::job::Control;
use crate::transform::arch::forward::Mlp;
use crate::verify::candle;
use crate::verify::decoder::Decoder;
use crate::verify::metrics::{Compare, Comparison, Means, Score, Scored, Vectors};
use crate::verify::reference::{Answer, Extent, Quantity, Reference};
use crate::verify::report::Layer;
use crate::verify::stack::Pass;
use crate::verify::subject::{Subject, other_fault};
use crate::verify::weights::{Stage, Weights};
use crate::verify::windows::Window;
use candle_core::{DType, Tensor};
use std::ops::Range;
use std::time::Instant;

/// Positions of a tile of logits.
const TILE_POSITIONS: usize = 512;
/// Of the tokens whose states fit into memory, one in so many passes a layer of experts at once.
const BATCH_SHARE: usize = 16;
/// Tokens of the vocabulary of a tile.
const TILE_TOKENS: u64 = 8192;

/// What the model is compared with.
#[derive(Clone, Copy)]
pub(super) enum Other<'a> {
    /// Nothing.
    Nothing,
    /// Another model.
    Model(&'a Subject, &'a Weights),
    /// A file of logits. The windows are its rows.
    File(&'a Reference, &'a Answer),
}

/// Who is told of logits as they come.
pub(super) trait Sink {
    /// Logits of the `positions` of a window for a band of the vocabulary, row-major.
    fn logits(
        &mut self,
        window: usize,
        positions: Range<usize>,
        band: Range<u64>,
        logits: &[f32],
    ) -> Result<()>;
}

/// What was measured.
pub(super) struct Measured {
    /// The first place behind which a number was not finite (`None`: the embedding; else the layer), and how many.
    pub(super) broken: Option<(Option<usize>, u64)>,
    /// How far apart the two are behind each layer.
    pub(super) layers: Vec<Layer>,
    /// Of the logits, where there is something to compare with.
    pub(super) comparison: Option<Comparison>,
    /// Cosine of the mean last hidden states.
    pub(super) hidden_cosine: Option<f64>,
    /// Scored tokens of the model, and of the other.
    pub(super) scored: Scored,
    pub(super) other_scored: Option<Scored>,
    /// Tokens of the vocabulary that both have.
    pub(super) vocabulary_common: u64,
    /// Tokens of the vocabulary that only one of the two has.
    pub(super) vocabulary_left_out: u64,
    /// Tokens that passed.
    pub(super) tokens: u64,
    /// Seconds of the forward passes.
    pub(super) seconds: f64,
}

/// How to measure.
pub(super) struct Measure<'a> {
    pub(super) subject: &'a Subject,
    pub(super) weights: &'a Weights,
    pub(super) other: Other<'a>,
    pub(super) windows: &'a [Window],
    /// Whether tokens are scored too.
    pub(super) score: bool,
    /// Only these layers, and no logits.
    pub(super) layers_only: Option<Range<usize>>,
    /// Tokens whose states are in memory at once.
    pub(super) tokens_at_once: usize,
    pub(super) control: &'a Control,
}

/// One of the two models on its way through a group of windows.
struct Side<'a> {
    decoder: Decoder<'a>,
    /// The name of the model that it is compared with, of that one.
    other: Option<&'a str>,
    weights: &'a Weights,
    /// The same for all windows and layers, but not for two models: it holds the tables of this one's rotary embeddings.
    pass: Pass<'static>,
    /// The stream of each window, `[1, n, hidden]`.
    states: Vec<Tensor>,
    /// How many tokens pass a layer of experts as one batch.
    together: usize,
}

impl<'a> Side<'a> {
    fn new(subject: &'a Subject, weights: &'a Weights, tokens_at_once: usize, is_other: bool) -> Side<'a> {
        let decoder = Decoder { forward: &subject.forward, weights };
        // An expert that is not in memory is loaded once for each batch. What passes it is many times wider than the stream.
        let together = if weights.is_resident() { 0 } else { tokens_at_once / BATCH_SHARE };
        let other = is_other.then_some(subject.name.as_str());
        Side { decoder, other, weights, pass: Pass::new(0, None), states: Vec::new(), together }
    }

    /// An error, as this side's: tensors that do not fit are what is looked for in the one model, and a broken reference in
    /// the other.
    fn fault(&self, error: Error) -> Error {
        match (self.other, error.kind()) {
            (Some(name), _) => other_fault(error, name),
            (None, ErrorKind::BadInput) if error.tensor_name().is_some() => {
                error.kind_instead(ErrorKind::CheckFailed)
            }
            (None, _) => error,
        }
    }

    fn embed(&mut self, windows: &[Window]) -> Result<()> {
        let states = windows.iter().map(|w| self.decoder.embed(&w.ids, 0)).collect::<Result<_>>();
        self.states = states.map_err(|e| self.fault(e))?;
        Ok(())
    }

    fn vocabulary(&self) -> Result<u64> {
        self.decoder.vocabulary().map_err(|e| self.fault(e))
    }

    fn layer(&mut self, index: usize, control: &Control) -> Result<()> {
        self.pass_layer(index, control).map_err(|e| self.fault(e))
    }

    fn finish(&mut self) -> Result<()> {
        self.pass_back().map_err(|e| self.fault(e))
    }

    fn pass_layer(&mut self, index: usize, control: &Control) -> Result<()> {
        let tensors = self.weights.stage(Stage::Layer(index))?;
        let has_experts =
            self.decoder.forward.layers.get(index).is_some_and(|layer| matches!(layer.mlp, Mlp::Experts(_)));
        let together = if has_experts { self.together } else { 0 };
        for batch in batches(&mut self.states, together) {
            check(control)?;
            if let [state] = batch {
                *state = self.decoder.layer(index, &tensors, state, &self.pass, None)?;
                continue;
            }
            let x = Tensor::cat(batch, 0).map_err(candle)?;
            let x = self.decoder.layer(index, &tensors, &x, &self.pass, None)?;
            for (at, state) in batch.iter_mut().enumerate() {
                *state = x.narrow(0, at, 1).map_err(candle)?;
            }
        }
        Ok(())
    }

    /// From streams `[1, n, hidden]` to last hidden states `[n, hidden]`.
    fn pass_back(&mut self) -> Result<()> {
        let back = self.weights.stage(Stage::Back)?;
        for state in &mut self.states {
            *state = self.decoder.finish(&back, state)?.squeeze(0).map_err(candle)?;
        }
        Ok(())
    }
}

/// Streams that pass together: neighbours of one length, of so many tokens at most, or one.
fn batches(states: &mut [Tensor], together: usize) -> impl Iterator<Item = &mut [Tensor]> {
    let mut count = 1;
    states.chunk_by_mut(move |a, b| {
        let same = a.dims() == b.dims() && (count + 1) * a.dims().get(1).unwrap_or(&0) <= together;
        count = if same { count + 1 } else { 1 };
        same
    })
}

/// An error where the job was cancelled. What is returned then is never shown.
fn check(control: &Control) -> Result<()> {
    if control.is_stopped() { Err(Error::bug("stopped")) } else { Ok(()) }
}

fn numbers(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.to_dtype(DType::F32).and_then(|t| t.flatten_all()?.to_vec1::<f32>()).map_err(candle)
}

/// Measures. `sink` is told of the model's own logits.
pub(super) fn measure(of: &Measure<'_>, mut sink: Option<&mut dyn Sink>) -> Result<Measured> {
    let mut a = Side::new(of.subject, of.weights, of.tokens_at_once, false);
    let mut b = match of.other {
        Other::Model(subject, weights) => Some(Side::new(subject, weights, of.tokens_at_once, true)),
        _ => None,
    };
    let layer_count = of.subject.forward.layers.len();
    if let Other::Model(other, _) = of.other {
        comparable(of.subject, other)?;
    }
    let layers = of.layers_only.clone().unwrap_or(0..layer_count);
    let vocabulary = a.vocabulary()?;
    let other_vocabulary = match (of.other, &b) {
        (_, Some(b)) => b.vocabulary()?,
        (Other::File(_, answer), _) => answer.width,
        _ => vocabulary,
    };
    let mut found = Found {
        apart: layers.clone().map(|index| Layer { index, states: Vectors::default() }).collect(),
        broken: None,
        compare: Compare::new(0),
        scored: Scored::default(),
        other_scored: Scored::default(),
        means: [Means::new(of.subject.forward.hidden), Means::new(of.subject.forward.hidden)],
        common: vocabulary.min(other_vocabulary),
    };
    let all_tokens: u64 = of.windows.iter().map(|w| w.ids.len() as u64).sum();
    let mut tokens = 0u64;
    let started = Instant::now();
    let groups = groups(of.windows, of.tokens_at_once);
    let batch_count = groups.len();
    for (batch, range) in groups.into_iter().enumerate() {
        let (first, group) = (range.start, &of.windows[range]);
        let count: usize = group.iter().map(|w| w.ids.len()).sum();
        tokens += count as u64;
        a.embed(group)?;
        found.look(None, &a.states)?;
        if let Some(b) = &mut b {
            b.embed(group)?;
            if let Some(odd) = not_finite(&b.states)? {
                return Err(odd_reference(b, &format!("{odd} numbers of the embedding")));
            }
        }
        for (at, index) in layers.clone().enumerate() {
            a.layer(index, of.control)?;
            if let Some(b) = &mut b {
                b.layer(index, of.control)?;
                if let Some(odd) = not_finite(&b.states)? {
                    return Err(odd_reference(b, &format!("{odd} numbers behind layer {index}")));
                }
                let apart = &mut found.apart[at].states;
                for (a, b) in a.states.iter().zip(&b.states) {
                    apart.add(&numbers(b)?, &numbers(a)?);
                }
            }
            found.look(Some(index), &a.states)?;
            let done = (tokens - count as u64) * (layers.len() as u64 + 1) + count as u64 * (at as u64 + 1);
            of.control.step(
                || label(index, layer_count, batch, batch_count),
                done,
                all_tokens * (layers.len() as u64 + 1),
            );
        }
        if of.layers_only.is_none() {
            a.finish()?;
            if let Some(b) = &mut b {
                b.finish()?;
            }
            let sink = sink.as_mut().map(|sink| &mut **sink as &mut dyn Sink);
            head(of, group, first, &a, b.as_ref(), &mut found, sink)?;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let is_compared = of.layers_only.is_none() && !matches!(of.other, Other::Nothing);
    let [mean, other_mean] = &found.means;
    Ok(Measured {
        broken: found.broken,
        layers: if b.is_some() { found.apart } else { Vec::new() },
        comparison: is_compared.then(|| found.compare.finish()),
        hidden_cosine: b.as_ref().filter(|_| is_compared).map(|_| other_mean.cosine(mean)),
        scored: found.scored,
        other_scored: b.is_some().then_some(found.other_scored),
        vocabulary_common: vocabulary.min(other_vocabulary),
        vocabulary_left_out: vocabulary.abs_diff(other_vocabulary),
        tokens,
        seconds,
    })
}

/// Windows that pass together, one after the other: as many as tokens fit, one at least.
fn groups(windows: &[Window], tokens_at_once: usize) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut count = 0;
    for (at, window) in windows.iter().enumerate() {
        match groups.last_mut() {
            Some(group) if count + window.ids.len() <= tokens_at_once => {
                group.end = at + 1;
                count += window.ids.len();
            }
            _ => {
                groups.push(at..at + 1);
                count = window.ids.len();
            }
        }
    }
    groups
}

/// Where a pass is: a layer, and which batch of windows.
fn label(index: usize, layer_count: usize, batch: usize, batch_count: usize) -> String {
    let layer = format!("layer {}/{layer_count}", index + 1);
    if batch_count == 1 { layer } else { format!("{layer}, batch {}/{batch_count}", batch + 1) }
}

/// Two models that have nothing in common layer by layer cannot be compared so.
pub(super) fn comparable(a: &Subject, b: &Subject) -> Result<()> {
    let of = |s: &Subject| (s.forward.layers.len(), s.forward.hidden);
    if of(a) == of(b) {
        return Ok(());
    }
    let say = |s: &Subject| format!("{} layers of width {}", s.forward.layers.len(), s.forward.hidden);
    Err(Error::bad_input(format!(
        "`{}` has {} and `{}` has {}: they are not the same model",
        crate::text::Shown(&a.name),
        say(a),
        crate::text::Shown(&b.name),
        say(b)
    )))
}

/// How many numbers of some streams are not finite, where any are.
fn not_finite(states: &[Tensor]) -> Result<Option<u64>> {
    let mut odd = 0u64;
    for state in states {
        odd += numbers(state)?.iter().filter(|x| !x.is_finite()).count() as u64;
    }
    Ok((odd > 0).then_some(odd))
}

/// A reference that computes nothing says nothing of the model.
fn odd_reference(side: &Side<'_>, what: &str) -> Error {
    let error = Error::bad_input(format!("is the reference, and {what} are not finite"));
    other_fault(error, side.other.unwrap_or_default())
        .hint("hoist verify of it by itself says which tensors are broken")
}

/// What is gathered over groups.
struct Found {
    apart: Vec<Layer>,
    broken: Option<(Option<usize>, u64)>,
    compare: Compare,
    scored: Scored,
    other_scored: Scored,
    means: [Means; 2],
    /// Tokens that both have.
    common: u64,
}

impl Found {
    /// Notes the first place behind which something is not finite.
    fn look(&mut self, place: Option<usize>, states: &[Tensor]) -> Result<()> {
        if self.broken.is_none() {
            self.broken = not_finite(states)?.map(|odd| (place, odd));
        }
        Ok(())
    }
}

/// Positions of one window that are measured together.
struct Tile {
    /// The window, in the group.
    window: usize,
    positions: Range<usize>,
    compare: Option<(Range<usize>, Compare)>,
    score: Option<(Range<usize>, Score, Score)>,
}

fn intersection(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}

/// Logits of a group and their figures.
fn head(
    of: &Measure<'_>,
    group: &[Window],
    first_window: usize,
    a: &Side<'_>,
    b: Option<&Side<'_>>,
    found: &mut Found,
    mut sink: Option<&mut dyn Sink>,
) -> Result<()> {
    for (side, mean) in [Some(a), b].into_iter().zip(&mut found.means) {
        for state in side.iter().flat_map(|side| &side.states) {
            mean.add(&numbers(state)?);
        }
    }
    let is_compared = !matches!(of.other, Other::Nothing);
    let mut tiles = Vec::new();
    for (window, w) in group.iter().enumerate() {
        let compared = match of.other {
            Other::File(_, Answer { extent: Extent::One, .. }) => w.ids.len().saturating_sub(1)..w.ids.len(),
            _ => w.compared.clone(),
        };
        let scoring = if of.score { w.scoring() } else { 0..0 };
        let all = match (sink.is_some(), is_compared, of.score) {
            (true, ..) => 0..w.ids.len(),
            (_, true, true) => compared.start.min(scoring.start)..compared.end.max(scoring.end),
            (_, true, false) => compared.clone(),
            (_, false, true) => scoring.clone(),
            // Whether logits are finite is asked even where nothing is compared with them.
            (_, false, false) => 0..w.ids.len(),
        };
        let mut start = all.start;
        while start < all.end {
            let positions = start..all.end.min(start + TILE_POSITIONS);
            let part = intersection(&positions, &compared);
            let compare = (is_compared && !part.is_empty()).then(|| (part.clone(), Compare::new(part.len())));
            let part = intersection(&positions, &scoring);
            let score = (!part.is_empty()).then(|| {
                // The token behind each position.
                let targets = w.ids.get(part.start + 1..part.end + 1).unwrap_or_default();
                (part.clone(), Score::new(targets), Score::new(targets))
            });
            tiles.push(Tile { window, positions: positions.clone(), compare, score });
            start = positions.end;
        }
    }
    let vocabulary = a.vocabulary()?;
    let other_vocabulary = b.map(Side::vocabulary).transpose()?.unwrap_or(0);
    let name = |side: &Side<'_>| {
        if side.weights.has("output.weight") { "output.weight" } else { "token_embd.weight" }
    };
    let step = [Some(a), b]
        .into_iter()
        .flatten()
        .map(|side| side.weights.rows_at_once(name(side)))
        .fold(TILE_TOKENS, u64::min)
        .max(1);
    let mut start = 0;
    let mut odd = 0u64;
    while start < vocabulary.max(other_vocabulary) {
        check(of.control)?;
        let band = |v: u64| start.min(v)..(start + step).min(v);
        let (mine, others) = (band(vocabulary), band(other_vocabulary));
        for tile in &mut tiles {
            check(of.control)?;
            let row = tile.positions.clone();
            let logits = |side: &Side<'_>, band: &Range<u64>| -> Result<Vec<f32>> {
                if band.is_empty() {
                    return Ok(Vec::new());
                }
                let hidden = side.states[tile.window].narrow(0, row.start, row.len()).map_err(candle)?;
                numbers(&side.decoder.logits(&hidden, band.clone()).map_err(|e| side.fault(e))?)
            };
            let x = logits(a, &mine)?;
            let y = b.map(|b| logits(b, &others)).transpose()?;
            let width = |band: &Range<u64>| (band.end - band.start) as usize;
            odd += x.iter().filter(|x| !x.is_finite()).count() as u64;
            if let Some(sink) = &mut sink {
                sink.logits(first_window + tile.window, row.clone(), mine.clone(), &x)?;
            }
            if let Some((part, score, other)) = &mut tile.score {
                score.band(start, rows_of(&x, &row, part, width(&mine)))?;
                if let Some(y) = &y {
                    other.band(start, rows_of(y, &row, part, width(&others)))?;
                }
            }
            if let Some((part, compare)) = &mut tile.compare {
                // What only one of the two has is left out, and said.
                let common = start.min(found.common)..(start + step).min(found.common);
                let x = columns(rows_of(&x, &row, part, width(&mine)), width(&mine), width(&common));
                match (of.other, &y) {
                    (_, Some(y)) => {
                        let y =
                            columns(rows_of(y, &row, part, width(&others)), width(&others), width(&common));
                        compare.band(start, &y, &x)?;
                    }
                    (Other::File(file, answer), _) => {
                        let positions = if answer.extent == Extent::One { 0..1 } else { part.clone() };
                        let y = file.numbers(answer, first_window + tile.window, positions, common);
                        let y = y.map_err(|e| other_fault(e, &file.name))?;
                        compare.band(start, &y, &x)?;
                    }
                    _ => {}
                }
            }
        }
        start += step;
    }
    if odd > 0 && found.broken.is_none() {
        found.broken = Some((Some(of.subject.forward.layers.len()), odd));
    }
    for tile in tiles {
        if let Some((_, compare)) = tile.compare {
            found.compare.merge(compare);
        }
        if let Some((_, score, other)) = tile.score {
            found.scored.merge(score.finish()?);
            if b.is_some() {
                found.other_scored.merge(other.finish()?);
            }
        }
    }
    Ok(())
}

/// The rows of a tile that belong to some of its positions.
fn rows_of<'x>(x: &'x [f32], tile: &Range<usize>, part: &Range<usize>, width: usize) -> &'x [f32] {
    let at = |position: usize| (position - tile.start) * width;
    x.get(at(part.start)..at(part.end)).unwrap_or_default()
}

/// The first columns of each row.
fn columns(x: &[f32], width: usize, wanted: usize) -> std::borrow::Cow<'_, [f32]> {
    if width == wanted {
        return x.into();
    }
    x.chunks(width.max(1)).flat_map(|row| &row[..wanted.min(row.len())]).copied().collect::<Vec<f32>>().into()
}

/// The answer of a file that logits are compared with.
pub(super) fn answer(reference: &Reference) -> Result<Answer> {
    reference.find(Quantity::Logits)?.ok_or_else(|| {
        Error::bad_input("has no `logits`, with which they could be compared").file(reference.name.clone())
    })
}
