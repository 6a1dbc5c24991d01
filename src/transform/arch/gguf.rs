//! GGUF's names: one vocabulary for all families. Shapes are in torch's order here, as the table has them.
//!
//! Source: `gguf` 0.19, `constants.py`; fused attention is always queries, keys, values, whatever the source had.

use super::Cut::{In, OneHead, Out, Whole};
use super::Form::{Linear, PerHead, Stacked};
use super::Group::{Attention, Embedding, Experts, Head, Mlp, Norms, Other};
use super::Units::{Even, Kv, Q, Qkv, Up};
use super::{Row, row};

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("token_embd", Embedding, Out(Even), Linear),
    row("position_embd|token_types", Embedding, Whole, Linear),
    row("token_embd_norm|output_norm", Norms, Whole, Linear),
    row("output", Head, Out(Even), Linear),
    row("cls", Head, Whole, Linear),
    row("cls.output", Head, Whole, Linear),
    row("rope_freqs|rope_factors_long|rope_factors_short", Other, Whole, Linear),
    row("blk.#.attn_norm|attn_norm_2|attn_output_norm|post_attention_norm|ffn_norm|post_ffw_norm|layer_output_norm", Norms, Whole, Linear),
    row("blk.#.attn_q", Attention, Out(Q), Linear),
    row("blk.#.attn_k|attn_v", Attention, Out(Kv), Linear),
    row("blk.#.attn_qkv", Attention, Out(Qkv), Linear),
    row("blk.#.attn_output", Attention, In(Q), Linear),
    row("blk.#.attn_q_norm|attn_k_norm", Norms, OneHead, Linear),
    row("blk.#.attn_sinks", Attention, Out(Q), PerHead),
    row("blk.#.attn_q_a|attn_kv_a_mqa", Attention, Whole, Linear),
    row("blk.#.attn_q_a_norm|attn_kv_a_norm", Norms, Whole, Linear),
    row("blk.#.attn_q_b|attn_kv_b", Attention, Out(Q), Linear),
    row("blk.#.attn_k_b|attn_v_b", Attention, Out(Q), PerHead),
    row("blk.#.ffn_gate", Mlp, Out(Even), Linear),
    row("blk.#.ffn_up", Mlp, Out(Up), Linear),
    row("blk.#.ffn_down", Mlp, In(Even), Linear),
    row("blk.#.ffn_gate_inp|ffn_gate_inp_shexp|exp_probs_b", Experts, Whole, Linear),
    row("blk.#.ffn_gate_exps|ffn_up_exps", Experts, Out(Even), Stacked),
    row("blk.#.ffn_down_exps", Experts, In(Even), Stacked),
    row("blk.#.ffn_gate_shexp|ffn_up_shexp", Experts, Out(Even), Linear),
    row("blk.#.ffn_down_shexp", Experts, In(Even), Linear),
];
