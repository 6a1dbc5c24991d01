//! Experts: each token passes a few of many feed-forward parts, chosen by a router.
//!
//! Which go where is decided on the host, token by token. Then each expert that has tokens is brought by itself, they
//! are gathered, pass it together, and what it gives is added to their rows; an expert without tokens is never loaded.

use super::{Part, mlp};
use crate::error::{Error, Result};
use crate::transform::arch::forward::{Experts, Gate, Scoring};
use crate::verify::candle;
use crate::verify::weights::Weight;
use candle_core::{DType, Tensor};

/// What the layer's experts give for `x` `[b, n, hidden]`.
pub(super) fn experts(part: &Part<'_>, e: &Experts, x: &Tensor) -> Result<Tensor> {
    let (b, n, hidden) = x.dims3().map_err(candle)?;
    let shared = match e.shared {
        true => Some(mlp::dense(part, "_shexp", Gate::Separate, e.activation, x)?),
        false => None,
    };
    let run = || -> Result<Tensor> {
        let float = |t: &Tensor| t.to_dtype(DType::F32).and_then(|t| t.contiguous());
        let rows = x.reshape((b * n, hidden)).map_err(candle)?;
        let lists = assign(e, &routes(part, e, &rows)?)?;
        let mut sum = Tensor::zeros((b * n, hidden), DType::F32, x.device()).map_err(candle)?;
        for (expert, list) in lists.iter().enumerate().filter(|(_, list)| !list.0.is_empty()) {
            let (tokens, weights) = list;
            let tokens = Tensor::new(tokens.as_slice(), x.device()).map_err(candle)?;
            let weights =
                Tensor::new(weights.as_slice(), x.device()).and_then(|w| w.unsqueeze(1)).map_err(candle)?;
            let mut input = rows.index_select(&tokens, 0).map_err(candle)?;
            if e.scales_input {
                let scaled = float(&input).and_then(|t| t.broadcast_mul(&weights)).map_err(candle)?;
                input = scaled.to_dtype(x.dtype()).map_err(candle)?;
            }
            let up = product(part, e, "ffn_up_exps", expert, &input, None)?;
            let width = up.dim(1).map_err(candle)?;
            let gate = product(part, e, "ffn_gate_exps", expert, &input, Some(width))?;
            let y = mlp::gated(gate, &up, e.activation)?;
            let y = float(&product(part, e, "ffn_down_exps", expert, &y, Some(hidden))?).map_err(candle)?;
            let y = if e.scales_input { y } else { y.broadcast_mul(&weights).map_err(candle)? };
            sum = sum.index_add(&tokens, &y, 0).map_err(candle)?;
        }
        let sum = sum.reshape((b, n, hidden)).and_then(|t| t.to_dtype(x.dtype())).map_err(candle)?;
        match &shared {
            Some(shared) => (sum + shared).map_err(candle),
            None => Ok(sum),
        }
    };
    run()
}

/// One expert's matrix, and its bias where there is one.
fn product(
    part: &Part<'_>,
    e: &Experts,
    end: &str,
    expert: usize,
    x: &Tensor,
    out: Option<usize>,
) -> Result<Tensor> {
    let name = part.name(&format!("{end}.weight"));
    let shape = part.weights.shape(&name).unwrap_or_default();
    let inputs = x.dim(1).map_err(candle)?;
    let fits = match *shape {
        [count, rows, columns] => {
            count == e.count as u64 && columns == inputs as u64 && out.is_none_or(|out| rows == out as u64)
        }
        _ => false,
    };
    if !fits {
        let out = out.map_or("..".to_owned(), |out| out.to_string());
        return Err(Error::bad_input(format!(
            "has shape {shape:?}, where [{}, {out}, {inputs}] is needed",
            e.count
        ))
        .tensor(name));
    }
    let place = expert as u64..expert as u64 + 1;
    let y = part.weights.rows(&name, std::slice::from_ref(&place))?.linear(x)?;
    let bias = part.name(&format!("{end}.bias"));
    if !part.weights.has(&bias) {
        return Ok(y);
    }
    let bias_row = part.weights.rows(&bias, &[place])?.tensor()?;
    let width = y.dim(1).map_err(candle)?;
    if bias_row.dims() != [1, width] {
        let what = format!("has rows of shape {:?}, where [1, {width}] is needed", bias_row.dims());
        return Err(Error::bad_input(what).tensor(bias));
    }
    y.broadcast_add(&bias_row).map_err(candle)
}

/// What the router gives for each token: `[tokens, experts]`. In 32 bits whatever is computed in: a rounding here sends a
/// token to another expert.
fn routes(part: &Part<'_>, e: &Experts, x: &Tensor) -> Result<Routes> {
    let hidden = x.dim(1).map_err(candle)?;
    let router = part.tensor("ffn_gate_inp.weight", &[e.count, hidden])?;
    let bias = part.find("ffn_gate_inp.bias", &[e.count])?;
    let correction = match e.correction {
        true => Some(part.tensor("exp_probs_b.bias", &[e.count])?),
        false => None,
    };
    let host = |t: &Tensor| t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    let x = x.to_dtype(DType::F32).map_err(candle)?;
    let mut logits = Weight::Plain(router.to_dtype(DType::F32).map_err(candle)?).linear(&x)?;
    if let Some(bias) = bias {
        logits = bias.to_dtype(DType::F32).and_then(|b| logits.broadcast_add(&b)).map_err(candle)?;
    }
    let correction = correction.map(|t| host(&t)).transpose().map_err(candle)?;
    Ok(Routes { logits: host(&logits).map_err(candle)?, correction })
}

/// The router's outputs, `experts` for each token, and what is added to scores for choosing.
#[derive(Debug)]
pub(crate) struct Routes {
    pub(crate) logits: Vec<f32>,
    pub(crate) correction: Option<Vec<f32>>,
}

/// For each expert: the tokens that go to it, and their weights.
fn assign(e: &Experts, routes: &Routes) -> Result<Vec<(Vec<u32>, Vec<f32>)>> {
    let mut lists = vec![(Vec::new(), Vec::new()); e.count];
    for (token, logits) in routes.logits.chunks_exact(e.count.max(1)).enumerate() {
        let token = u32::try_from(token).map_err(|_| Error::usage("too many tokens at once"))?;
        for (expert, weight) in route(e, logits, routes.correction.as_deref())? {
            if let Some((tokens, weights)) = lists.get_mut(expert) {
                tokens.push(token);
                weights.push(weight);
            }
        }
    }
    Ok(lists)
}

/// The places of the `count` largest, the lower place first where two are equal.
fn largest(values: &[f32], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..values.len()).collect();
    places.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
    places.truncate(count);
    places
}

/// The experts that one token goes to and with what weights.
fn route(e: &Experts, logits: &[f32], correction: Option<&[f32]>) -> Result<Vec<(usize, f32)>> {
    let scores: Vec<f32> = match e.scoring {
        Scoring::Softmax => softmax(logits),
        Scoring::SoftmaxOfChosen => logits.to_vec(),
        Scoring::Sigmoid => logits.iter().map(|&x| 1.0 / (1.0 + (-x).exp())).collect(),
    };
    let mut choice = scores.clone();
    for (choice, &add) in choice.iter_mut().zip(correction.unwrap_or_default()) {
        *choice += add;
    }
    if let Some(groups) = e.groups {
        let size = e.count / groups.count.max(1);
        if size == 0 || size * groups.count != e.count {
            return Err(Error::bad_input(format!(
                "{} experts cannot be in {} groups of one size",
                e.count, groups.count
            )));
        }
        let best: Vec<f32> = choice
            .chunks_exact(size)
            .map(|group| {
                let two = largest(group, if groups.two_best { 2 } else { 1 });
                two.iter().map(|&at| group[at]).sum()
            })
            .collect();
        let open = largest(&best, groups.used);
        for (at, group) in choice.chunks_exact_mut(size).enumerate() {
            if !open.contains(&at) {
                group.fill(f32::NEG_INFINITY);
            }
        }
    }
    let chosen = largest(&choice, e.used);
    let mut weights: Vec<f32> = chosen.iter().map(|&at| scores[at]).collect();
    if e.scoring == Scoring::SoftmaxOfChosen {
        weights = softmax(&weights);
    }
    if let Some(add) = e.normalise {
        let sum = weights.iter().sum::<f32>() + add;
        weights.iter_mut().for_each(|w| *w /= sum);
    }
    Ok(chosen.into_iter().zip(weights.into_iter().map(|w| w * e.scale)).collect())
}

fn softmax(x: &[f32]) -> Vec<f32> {
    let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut y: Vec<f32> = x.iter().map(|&x| (x - largest).exp()).collect();
    let sum: f32 = y.iter().sum();
    y.iter_mut().for_each(|y| *y /= sum);
    y
}
