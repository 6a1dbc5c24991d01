//! Multi-head latent attention: keys and values of all heads come out of one short vector for each token.
//!
//! They are written out for each head here, which costs memory in a cache and nothing else; the other way, with the
//! matrices of keys multiplied into the queries, computes more as soon as there is more than one token.
//!
//! Source: DeepSeek-V2, arXiv 2405.04434, section 2.1.

use super::rope::{Heads, lay_out};
use super::{Part, Pass, Projected, norm};
use crate::error::{Error, Result};
use crate::transform::arch::forward::{Attention, Norm, NormKind, Projections};
use crate::verify::candle;
use candle_core::{DType, Tensor};

/// Queries, keys and values of each head.
pub(super) fn project(part: &Part<'_>, a: &Attention, x: &Tensor, pass: &Pass<'_>) -> Result<Projected> {
    let Projections::Latent { queries, rank, nope, rope, eps } = a.projections else {
        return Err(Error::bug("latent attention without its sizes"));
    };
    let (heads, rms) = (a.heads, Norm { kind: NormKind::Rms, eps });
    let width = nope.saturating_add(rope);
    let all = heads.saturating_mul(width);
    let q = if queries {
        let short = norm::by_name(part, "attn_q_a_norm", &rms, &part.linear("attn_q_a", x, None)?)?;
        part.linear("attn_q_b", &short, Some(all))?
    } else {
        part.linear("attn_q", x, Some(all))?
    };
    let short = part.linear("attn_kv_a_mqa", x, Some(rank.saturating_add(rope)))?;
    let cut = |from, width| short.narrow(2, from, width).map_err(candle);
    let latent = norm::by_name(part, "attn_kv_a_norm", &rms, &cut(0, rank)?)?;
    let k_b = part.tensor("attn_k_b.weight", &[heads, rank, nope])?;
    let v_b = part.tensor("attn_v_b.weight", &[heads, a.value_dim, rank])?;
    let table = part.table(a, pass, x)?;
    let q = lay_out(&q, Heads { kv: heads, group: 1, dim: width, first: nope }, table.as_deref())?;
    let shared =
        lay_out(&cut(rank, rope)?, Heads { kv: 1, group: 1, dim: rope, first: 0 }, table.as_deref())?;
    let run = || -> candle_core::Result<Projected> {
        let (b, n, _) = x.dims3()?;
        let float = |t: &Tensor| t.to_dtype(DType::F32)?.contiguous();
        // As the product with one head's matrix for each head: all heads at once, [heads, b · n, ..].
        let latent = float(&latent)?.reshape((1, b * n, rank))?.broadcast_as((heads, b * n, rank))?;
        let each = |y: Tensor| y.reshape((heads, b, n, ()))?.transpose(0, 1)?.contiguous();
        let k = each(latent.matmul(&float(&k_b)?)?)?;
        let v = each(latent.matmul(&float(&v_b)?.transpose(1, 2)?)?)?;
        let shared = shared.reshape((b, 1, n, rope))?.broadcast_as((b, heads, n, rope))?;
        let k = Tensor::cat(&[&k, &shared.contiguous()?], 3)?.reshape((b * heads, n, width))?;
        Ok(Projected { q, k, v: v.reshape((b * heads, n, a.value_dim))? })
    };
    run().map_err(candle)
}
