//! Attention. Queries that share keys are rows of one matrix, so that no head is repeated in memory; they pass in blocks,
//! and each block meets only the keys that one of its queries sees, so that memory does not grow with the square of the
//! length and most of what a mask would throw away is never computed. Scores and weights are in 32 bits.

use super::cache::LayerCache;
use super::rope::{Heads, lay_out};
use super::scores::{Scores, View};
use super::{Part, Pass, Projected, latent, norm};
use crate::error::{Error, Result};
use crate::transform::arch::forward::{Attention, HeadNorm, Norm, NormKind, Projections};
use crate::verify::candle;
use candle_core::{DType, Tensor};

/// Memory that one block's scores may take.
const SCORES_BYTES_MAX: usize = 64 << 20;

/// Queries of a block where a mask hides part of the keys: the fewer, the less is computed in vain.
const BLOCK_MAX: usize = 128;

/// What attention of the layer gives for `x` `[b, n, hidden]`, behind its output projection.
pub(super) fn attention(
    part: &Part<'_>,
    a: &Attention,
    x: &Tensor,
    pass: &Pass<'_>,
    cache: Option<&mut LayerCache>,
) -> Result<Tensor> {
    let (b, n, hidden) = x.dims3().map_err(candle)?;
    if a.kv_heads == 0 || !a.heads.is_multiple_of(a.kv_heads) {
        return Err(Error::bad_input(format!(
            "{} query heads cannot share {} key/value heads evenly",
            a.heads, a.kv_heads
        )));
    }
    let Projected { q, k, v } = match a.projections {
        Projections::Separate | Projections::Fused => project(part, a, x, pass)?,
        Projections::Latent { .. } => latent::project(part, a, x, pass)?,
    };
    let kv = k.dim(0).map_err(candle)? / b.max(1);
    let group = a.heads / kv.max(1);
    let (k, v, first) = match cache {
        None => (k, v, pass.positions),
        Some(cache) => {
            if cache.end() != pass.positions {
                return Err(Error::bug(format!(
                    "a token at {} came to a cache that ends at {}",
                    pass.positions,
                    cache.end()
                )));
            }
            cache.append(&k, &v, a.window).map_err(candle)?
        }
    };
    let keys = k.dim(1).map_err(candle)?;
    if let Some(padding) = pass.padding
        && padding.dims() != [b, keys]
    {
        return Err(Error::bug(format!("a mask of {:?} for {b} × {keys} keys", padding.dims())));
    }
    let sinks = if a.sinks {
        Some(part.tensor("attn_sinks.weight", &[a.heads])?.to_dtype(DType::F32).map_err(candle)?)
    } else {
        None
    };
    let view = View { causal: part.causal, window: a.window, query: pass.positions, key: first, keys };
    let run = || -> candle_core::Result<Tensor> {
        let wide = (b * kv * group).saturating_mul(keys).saturating_mul(size_of::<f32>());
        let fit = (SCORES_BYTES_MAX / wide.max(1)).max(1);
        let block = if part.causal || a.window.is_some() { fit.min(BLOCK_MAX) } else { fit };
        let mut blocks = Vec::with_capacity(n.div_ceil(block));
        for from in (0..n).step_by(block) {
            let count = block.min(n - from);
            let scores = Scores {
                attention: a,
                view: View { query: view.query + from, ..view },
                kv,
                group,
                sinks: sinks.as_ref(),
                padding: pass.padding,
            };
            let y = attend(&q.narrow(1, from * group, count * group)?, &k, &v, count, scores)?;
            // Each token's heads side by side again.
            let y = y.reshape((b, kv, count, ()))?.transpose(1, 2)?;
            blocks.push(y.reshape((b, count, ()))?);
        }
        let y = match blocks.len() {
            1 => blocks.swap_remove(0),
            _ => Tensor::cat(&blocks, 1)?,
        };
        y.to_dtype(x.dtype())
    };
    let y = run().map_err(candle)?;
    part.linear("attn_output", &y, Some(hidden))
}

/// One block: `q` `[b · kv, count · group, key_dim]` against all keys that one of its queries sees.
fn attend(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    count: usize,
    scores: Scores<'_>,
) -> candle_core::Result<Tensor> {
    let view = scores.view;
    let seen = view.seen(view.query).start..view.seen(view.query + count.saturating_sub(1)).end;
    // A block that sees nothing keeps one key, so that the shapes stay what they are; its weights are zeros.
    let from = seen.start.min(view.keys.saturating_sub(1));
    let keys = seen.end.saturating_sub(from).max(1);
    let padding = scores.padding.map(|p| p.narrow(1, from, keys)?.contiguous()).transpose()?;
    let view = View { key: view.key + from, keys, ..view };
    let scores = Scores { padding: padding.as_ref(), view, ..scores };
    let weights = scores.softmax(q.matmul(&k.narrow(1, from, keys)?.transpose(1, 2)?)?)?;
    weights.matmul(&v.narrow(1, from, keys)?)
}

/// Queries, keys and values from one matrix each, or from one in all.
fn project(part: &Part<'_>, a: &Attention, x: &Tensor, pass: &Pass<'_>) -> Result<Projected> {
    let kv = a.kv_heads;
    let sizes = [(a.heads, a.key_dim), (kv, a.key_dim), (kv, a.value_dim)];
    let widths = sizes.map(|(heads, dim)| heads.saturating_mul(dim));
    let [q, k, v] = if a.projections == Projections::Fused {
        let all = widths.iter().fold(0usize, |sum, &w| sum.saturating_add(w));
        let fused = part.linear("attn_qkv", x, Some(all))?;
        let cut = |from, width| fused.narrow(2, from, width).map_err(candle);
        [cut(0, widths[0])?, cut(widths[0], widths[1])?, cut(widths[0] + widths[1], widths[2])?]
    } else {
        let one = |end, width| part.linear(end, x, Some(width));
        [one("attn_q", widths[0])?, one("attn_k", widths[1])?, one("attn_v", widths[2])?]
    };
    let q = head_norm(part, a, "attn_q_norm", &q)?;
    let k = head_norm(part, a, "attn_k_norm", &k)?;
    let table = part.table(a, pass, x)?;
    let heads = |group, dim| Heads { kv, group, dim, first: 0 };
    let q = lay_out(&q, heads(a.heads / kv, a.key_dim), table.as_deref())?;
    let k = lay_out(&k, heads(1, a.key_dim), table.as_deref())?;
    let v = lay_out(&v, heads(1, a.value_dim), None)?;
    Ok(match a.head_norm {
        HeadNorm::BareAfterRope(eps) => {
            let bare = Norm { kind: NormKind::Rms, eps };
            Projected { q: norm::apply(&q, None, None, &bare)?, k: norm::apply(&k, None, None, &bare)?, v }
        }
        _ => Projected { q, k, v },
    })
}

/// Norms that stand before the rotation.
fn head_norm(part: &Part<'_>, a: &Attention, end: &str, x: &Tensor) -> Result<Tensor> {
    match &a.head_norm {
        HeadNorm::None | HeadNorm::BareAfterRope(_) => Ok(x.clone()),
        HeadNorm::AllHeads(norm) => norm::by_name(part, end, norm, x),
        HeadNorm::EachHead(norm) => {
            let (b, n, width) = x.dims3().map_err(candle)?;
            let heads = x.reshape((b, n, width / a.key_dim.max(1), a.key_dim)).map_err(candle)?;
            norm::by_name(part, end, norm, &heads)?.reshape((b, n, width)).map_err(candle)
        }
    }
}
