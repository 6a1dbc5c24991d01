//! Families that generate text.

use super::Dim::{
    Any, Experts, Head as OneHead, Heads, Hidden, Kv, Latent, LatentQ, LatentRope, LatentV, Q, Qkv,
};
use super::Map::{Fused, Keys, LatentKeys, LatentValues, Norm, Queries, Same, Stacked, Turned};
use super::{Ends, Family, Head, Made, Need, Row, Way, Which};

const fn r(gguf: &'static str, hf: &'static str, map: super::Map, dims: &'static [super::Dim]) -> Row {
    Row::new(gguf, hf, map, dims)
}

/// A dense feed-forward part, where other layers have experts.
const DENSE: Need = Need::OneOf { choice: 0, set: 0 };
/// Experts, where other layers have a dense feed-forward part.
const MOE: Need = Need::OneOf { choice: 0, set: 1 };

#[rustfmt::skip]
const EMBEDDING: &[Row] = &[
    r("token_embd", "model.embed_tokens", Same, &[Any, Hidden]),
    r("output_norm", "model.norm", Norm, &[Hidden]),
    Row { need: Need::Head, ..r("output", "lm_head", Same, &[Any, Hidden]) },
];

#[rustfmt::skip]
const BEFORE: &[Row] = &[
    r("blk.#.attn_norm", "model.layers.#.input_layernorm", Norm, &[Hidden]),
];

#[rustfmt::skip]
const BETWEEN: &[Row] = &[
    r("blk.#.ffn_norm", "model.layers.#.post_attention_layernorm", Norm, &[Hidden]),
];

#[rustfmt::skip]
const ATTENTION: &[Row] = &[
    Row { ends: Ends::MayBias, ..r("blk.#.attn_q", "model.layers.#.self_attn.q_proj", Queries, &[Q, Hidden]) },
    Row { ends: Ends::MayBias, ..r("blk.#.attn_k", "model.layers.#.self_attn.k_proj", Keys, &[Kv, Hidden]) },
    Row { ends: Ends::MayBias, ..r("blk.#.attn_v", "model.layers.#.self_attn.v_proj", Same, &[Kv, Hidden]) },
    Row { ends: Ends::MayBias, ..r("blk.#.attn_output", "model.layers.#.self_attn.o_proj", Same, &[Hidden, Q]) },
];

#[rustfmt::skip]
const BIASED_ATTENTION: &[Row] = &[
    Row { ends: Ends::Bias, ..r("blk.#.attn_q", "model.layers.#.self_attn.q_proj", Queries, &[Q, Hidden]) },
    Row { ends: Ends::Bias, ..r("blk.#.attn_k", "model.layers.#.self_attn.k_proj", Keys, &[Kv, Hidden]) },
    Row { ends: Ends::Bias, ..r("blk.#.attn_v", "model.layers.#.self_attn.v_proj", Same, &[Kv, Hidden]) },
    Row { ends: Ends::MayBias, ..r("blk.#.attn_output", "model.layers.#.self_attn.o_proj", Same, &[Hidden, Q]) },
];

#[rustfmt::skip]
const HEAD_NORMS: &[Row] = &[
    r("blk.#.attn_q_norm", "model.layers.#.self_attn.q_norm", Norm, &[OneHead]),
    r("blk.#.attn_k_norm", "model.layers.#.self_attn.k_norm", Norm, &[OneHead]),
];

#[rustfmt::skip]
const GATED: &[Row] = &[
    Row { ends: Ends::MayBias, ..r("blk.#.ffn_down", "model.layers.#.mlp.down_proj", Same, &[Hidden, Any]) },
    Row { ends: Ends::MayBias, ..r("blk.#.ffn_gate", "model.layers.#.mlp.gate_proj", Same, &[Any, Hidden]) },
    Row { ends: Ends::MayBias, ..r("blk.#.ffn_up", "model.layers.#.mlp.up_proj", Same, &[Any, Hidden]) },
];

#[rustfmt::skip]
const DENSE_LAYERS: &[Row] = &[
    Row { need: DENSE, ..r("blk.#.ffn_down", "model.layers.#.mlp.down_proj", Same, &[Hidden, Any]) },
    Row { need: DENSE, ..r("blk.#.ffn_gate", "model.layers.#.mlp.gate_proj", Same, &[Any, Hidden]) },
    Row { need: DENSE, ..r("blk.#.ffn_up", "model.layers.#.mlp.up_proj", Same, &[Any, Hidden]) },
];

/// One tensor an expert, as published; two tensors for all, as `transformers` 5 holds them; and three, as mlx-lm does.
#[rustfmt::skip]
const EXPERTS: &[Row] = &[
    Row { need: MOE, ..r("blk.#.ffn_down_exps", "model.layers.#.mlp.experts.@.down_proj", Stacked, &[Experts, Hidden, Any]) },
    Row { need: MOE, ..r("blk.#.ffn_gate_exps", "model.layers.#.mlp.experts.@.gate_proj", Stacked, &[Experts, Any, Hidden]) },
    Row { need: MOE, ..r("blk.#.ffn_up_exps", "model.layers.#.mlp.experts.@.up_proj", Stacked, &[Experts, Any, Hidden]) },
    Row { need: MOE, ..r("blk.#.ffn_gate_inp", "model.layers.#.mlp.gate", Same, &[Experts, Hidden]) },
    weight_in("blk.#.ffn_down_exps", "model.layers.#.mlp.switch_mlp.down_proj", Same, &[Experts, Hidden, Any]),
    weight_in("blk.#.ffn_gate_exps", "model.layers.#.mlp.switch_mlp.gate_proj", Same, &[Experts, Any, Hidden]),
    weight_in("blk.#.ffn_up_exps", "model.layers.#.mlp.switch_mlp.up_proj", Same, &[Experts, Any, Hidden]),
    bare_in("blk.#.ffn_down_exps.weight", "model.layers.#.mlp.experts.down_proj", Same, &[Experts, Hidden, Any]),
    bare_in("blk.#.ffn_gate_exps.weight", "model.layers.#.mlp.experts.gate_up_proj", HALF_GATE, &[Experts, Any, Hidden]),
    bare_in("blk.#.ffn_up_exps.weight", "model.layers.#.mlp.experts.gate_up_proj", HALF_UP, &[Experts, Any, Hidden]),
];

const HALF_GATE: super::Map = Fused { which: Which::Gate, turned: false, paired: false };
const HALF_UP: super::Map = Fused { which: Which::Up, turned: false, paired: false };
const HALF_GATE_TURNED: super::Map = Fused { which: Which::Gate, turned: true, paired: false };
const HALF_UP_TURNED: super::Map = Fused { which: Which::Up, turned: true, paired: false };
const PAIR_GATE: super::Map = Fused { which: Which::Gate, turned: false, paired: true };
const PAIR_UP: super::Map = Fused { which: Which::Up, turned: false, paired: true };
const PAIR_GATE_TURNED: super::Map = Fused { which: Which::Gate, turned: true, paired: true };
const PAIR_UP_TURNED: super::Map = Fused { which: Which::Up, turned: true, paired: true };

const fn bare(gguf: &'static str, hf: &'static str, map: super::Map, dims: &'static [super::Dim]) -> Row {
    Row { ends: Ends::Bare, ..r(gguf, hf, map, dims) }
}

/// Another form of experts that are needed.
const fn bare_in(gguf: &'static str, hf: &'static str, map: super::Map, dims: &'static [super::Dim]) -> Row {
    Row { need: MOE, way: Way::In, ..bare(gguf, hf, map, dims) }
}

/// Experts as mlx-lm holds them: a tensor for each projection, `[experts, out, in]`.
const fn weight_in(
    gguf: &'static str,
    hf: &'static str,
    map: super::Map,
    dims: &'static [super::Dim],
) -> Row {
    Row { need: MOE, way: Way::In, ..r(gguf, hf, map, dims) }
}

/// Mixtral: w1 is the gate, w2 goes down, w3 goes up. GGUFs of early 2024 have a tensor an expert.
#[rustfmt::skip]
const MIXTRAL: &[Row] = &[
    Row { need: MOE, ..r("blk.#.ffn_gate_exps", "model.layers.#.block_sparse_moe.experts.@.w1", Stacked, &[Experts, Any, Hidden]) },
    Row { need: MOE, ..r("blk.#.ffn_down_exps", "model.layers.#.block_sparse_moe.experts.@.w2", Stacked, &[Experts, Hidden, Any]) },
    Row { need: MOE, ..r("blk.#.ffn_up_exps", "model.layers.#.block_sparse_moe.experts.@.w3", Stacked, &[Experts, Any, Hidden]) },
    Row { need: MOE, ..r("blk.#.ffn_gate_inp", "model.layers.#.block_sparse_moe.gate", Same, &[Experts, Hidden]) },
    Row { need: MOE, way: Way::Back, ..r("blk.#.ffn_gate.@", "model.layers.#.block_sparse_moe.experts.@.w1", Same, &[Any, Hidden]) },
    Row { need: MOE, way: Way::Back, ..r("blk.#.ffn_down.@", "model.layers.#.block_sparse_moe.experts.@.w2", Same, &[Hidden, Any]) },
    Row { need: MOE, way: Way::Back, ..r("blk.#.ffn_up.@", "model.layers.#.block_sparse_moe.experts.@.w3", Same, &[Any, Hidden]) },
    Row { need: MOE, way: Way::In, ..r("blk.#.ffn_gate_exps", "model.layers.#.mlp.experts.@.w1", Stacked, &[Experts, Any, Hidden]) },
    Row { need: MOE, way: Way::In, ..r("blk.#.ffn_down_exps", "model.layers.#.mlp.experts.@.w2", Stacked, &[Experts, Hidden, Any]) },
    Row { need: MOE, way: Way::In, ..r("blk.#.ffn_up_exps", "model.layers.#.mlp.experts.@.w3", Stacked, &[Experts, Any, Hidden]) },
    Row { need: MOE, way: Way::In, ..r("blk.#.ffn_down_exps", "model.layers.#.mlp.experts.@.down_proj", Stacked, &[Experts, Hidden, Any]) },
    Row { need: MOE, way: Way::In, ..r("blk.#.ffn_gate_exps", "model.layers.#.mlp.experts.@.gate_proj", Stacked, &[Experts, Any, Hidden]) },
    Row { need: MOE, way: Way::In, ..r("blk.#.ffn_up_exps", "model.layers.#.mlp.experts.@.up_proj", Stacked, &[Experts, Any, Hidden]) },
    Row { need: MOE, way: Way::In, ..r("blk.#.ffn_gate_inp", "model.layers.#.mlp.gate", Same, &[Experts, Hidden]) },
    weight_in("blk.#.ffn_down_exps", "model.layers.#.block_sparse_moe.switch_mlp.down_proj", Same, &[Experts, Hidden, Any]),
    weight_in("blk.#.ffn_gate_exps", "model.layers.#.block_sparse_moe.switch_mlp.gate_proj", Same, &[Experts, Any, Hidden]),
    weight_in("blk.#.ffn_up_exps", "model.layers.#.block_sparse_moe.switch_mlp.up_proj", Same, &[Experts, Any, Hidden]),
    bare_in("blk.#.ffn_down_exps.weight", "model.layers.#.mlp.experts.down_proj", Same, &[Experts, Hidden, Any]),
    bare_in("blk.#.ffn_gate_exps.weight", "model.layers.#.mlp.experts.gate_up_proj", HALF_GATE, &[Experts, Any, Hidden]),
    bare_in("blk.#.ffn_up_exps.weight", "model.layers.#.mlp.experts.gate_up_proj", HALF_UP, &[Experts, Any, Hidden]),
];

#[rustfmt::skip]
const SHARED_EXPERTS: &[Row] = &[
    Row { need: MOE, ..r("blk.#.ffn_down_shexp", "model.layers.#.mlp.shared_experts.down_proj", Same, &[Hidden, Any]) },
    Row { need: MOE, ..r("blk.#.ffn_gate_shexp", "model.layers.#.mlp.shared_experts.gate_proj", Same, &[Any, Hidden]) },
    Row { need: MOE, ..r("blk.#.ffn_up_shexp", "model.layers.#.mlp.shared_experts.up_proj", Same, &[Any, Hidden]) },
];

/// What balances the experts' load. Its name ends like a bias and is a whole name.
#[rustfmt::skip]
const CORRECTION: &[Row] = &[
    Row { need: MOE, ..bare("blk.#.exp_probs_b.bias", "model.layers.#.mlp.gate.e_score_correction_bias", Same, &[Experts]) },
];

/// The norms around both parts that gemma 2 brought; `ffn_norm` comes before the feed-forward part, whatever its name.
#[rustfmt::skip]
const SANDWICH: &[Row] = &[
    r("blk.#.post_attention_norm", "model.layers.#.post_attention_layernorm", Norm, &[Hidden]),
    r("blk.#.post_ffw_norm", "model.layers.#.post_feedforward_layernorm", Norm, &[Hidden]),
    r("blk.#.ffn_norm", "model.layers.#.pre_feedforward_layernorm", Norm, &[Hidden]),
];

/// olmo2 normalises after each part, and queries and keys over all heads at once.
#[rustfmt::skip]
const OLMO2: &[Row] = &[
    r("blk.#.post_attention_norm", "model.layers.#.post_attention_layernorm", Norm, &[Hidden]),
    r("blk.#.post_ffw_norm", "model.layers.#.post_feedforward_layernorm", Norm, &[Hidden]),
    r("blk.#.attn_q_norm", "model.layers.#.self_attn.q_norm", Norm, &[Q]),
    r("blk.#.attn_k_norm", "model.layers.#.self_attn.k_norm", Norm, &[Kv]),
];

/// phi3: GGUF keeps what is fused as it is.
#[rustfmt::skip]
const PHI3: &[Row] = &[
    r("blk.#.attn_qkv", "model.layers.#.self_attn.qkv_proj", Same, &[Qkv, Hidden]),
    r("blk.#.attn_output", "model.layers.#.self_attn.o_proj", Same, &[Hidden, Q]),
    r("blk.#.ffn_down", "model.layers.#.mlp.down_proj", Same, &[Hidden, Any]),
    r("blk.#.ffn_up", "model.layers.#.mlp.gate_up_proj", Same, &[Any, Hidden]),
];

/// gpt2 multiplies from the left: its weights are `[in, out]`.
#[rustfmt::skip]
const GPT2: &[Row] = &[
    r("token_embd", "transformer.wte", Same, &[Any, Hidden]),
    r("position_embd", "transformer.wpe", Same, &[Any, Hidden]),
    Row { ends: Ends::Bias, ..r("output_norm", "transformer.ln_f", Norm, &[Hidden]) },
    Row { need: Need::Head, ..r("output", "lm_head", Same, &[Any, Hidden]) },
    Row { ends: Ends::Bias, ..r("blk.#.attn_qkv", "transformer.h.#.attn.c_attn", Turned, &[Qkv, Hidden]) },
    Row { ends: Ends::Bias, ..r("blk.#.attn_output", "transformer.h.#.attn.c_proj", Turned, &[Hidden, Q]) },
    Row { ends: Ends::Bias, ..r("blk.#.attn_norm", "transformer.h.#.ln_1", Norm, &[Hidden]) },
    Row { ends: Ends::Bias, ..r("blk.#.ffn_norm", "transformer.h.#.ln_2", Norm, &[Hidden]) },
    Row { ends: Ends::Bias, ..r("blk.#.ffn_up", "transformer.h.#.mlp.c_fc", Turned, &[Any, Hidden]) },
    Row { ends: Ends::Bias, ..r("blk.#.ffn_down", "transformer.h.#.mlp.c_proj", Turned, &[Hidden, Any]) },
];

#[rustfmt::skip]
const STARCODER2: &[Row] = &[
    r("token_embd", "model.embed_tokens", Same, &[Any, Hidden]),
    Row { ends: Ends::Bias, ..r("output_norm", "model.norm", Norm, &[Hidden]) },
    Row { need: Need::Head, ..r("output", "lm_head", Same, &[Any, Hidden]) },
    Row { ends: Ends::Bias, ..r("blk.#.attn_norm", "model.layers.#.input_layernorm", Norm, &[Hidden]) },
    Row { ends: Ends::Bias, ..r("blk.#.ffn_norm", "model.layers.#.post_attention_layernorm", Norm, &[Hidden]) },
    Row { ends: Ends::MayBias, ..r("blk.#.ffn_up", "model.layers.#.mlp.c_fc", Same, &[Any, Hidden]) },
    Row { ends: Ends::MayBias, ..r("blk.#.ffn_down", "model.layers.#.mlp.c_proj", Same, &[Hidden, Any]) },
];

/// Queries whole, or compressed first.
const WHOLE_QUERIES: Need = Need::OneOf { choice: 1, set: 0 };
const LATENT_QUERIES: Need = Need::OneOf { choice: 1, set: 1 };

/// Latent attention. `kv_b_proj` becomes two tensors, with which the engine computes on the cached latents; older GGUFs
/// have it whole.
#[rustfmt::skip]
const LATENT: &[Row] = &[
    r("blk.#.attn_kv_a_norm", "model.layers.#.self_attn.kv_a_layernorm", Norm, &[Latent]),
    Row { ends: Ends::MayBias, ..r("blk.#.attn_kv_a_mqa", "model.layers.#.self_attn.kv_a_proj_with_mqa", Same, &[LatentRope, Hidden]) },
    r("blk.#.attn_k_b", "model.layers.#.self_attn.kv_b_proj", LatentKeys, &[Heads, Latent, Any]),
    r("blk.#.attn_v_b", "model.layers.#.self_attn.kv_b_proj", LatentValues, &[Heads, Any, Latent]),
    Row { way: Way::Back, ..r("blk.#.attn_kv_b", "model.layers.#.self_attn.kv_b_proj", Same, &[Any, Latent]) },
    Row { ends: Ends::MayBias, ..r("blk.#.attn_output", "model.layers.#.self_attn.o_proj", Same, &[Hidden, LatentV]) },
    Row { need: LATENT_QUERIES, ..r("blk.#.attn_q_a_norm", "model.layers.#.self_attn.q_a_layernorm", Norm, &[Any]) },
    Row { need: LATENT_QUERIES, ends: Ends::MayBias, ..r("blk.#.attn_q_a", "model.layers.#.self_attn.q_a_proj", Same, &[Any, Hidden]) },
    Row { need: LATENT_QUERIES, ..r("blk.#.attn_q_b", "model.layers.#.self_attn.q_b_proj", Same, &[LatentQ, Any]) },
    Row { need: WHOLE_QUERIES, ..r("blk.#.attn_q", "model.layers.#.self_attn.q_proj", Same, &[LatentQ, Hidden]) },
];

/// gpt-oss: gate and up alternate along the experts' outputs. As bf16 the experts are `[experts, in, out]`; as MXFP4
/// (`*_blocks` with `*_scales`) `[experts, out, in]`.
#[rustfmt::skip]
const GPT_OSS: &[Row] = &[
    r("blk.#.post_attention_norm", "model.layers.#.post_attention_layernorm", Norm, &[Hidden]),
    bare("blk.#.attn_sinks.weight", "model.layers.#.self_attn.sinks", Same, &[Heads]),
    Row { ends: Ends::Bias, ..r("blk.#.ffn_gate_inp", "model.layers.#.mlp.router", Same, &[Experts, Hidden]) },
    bare("blk.#.ffn_down_exps.weight", "model.layers.#.mlp.experts.down_proj", Turned, &[Experts, Hidden, Any]),
    bare("blk.#.ffn_gate_exps.weight", "model.layers.#.mlp.experts.gate_up_proj", PAIR_GATE_TURNED, &[Experts, Any, Hidden]),
    bare("blk.#.ffn_up_exps.weight", "model.layers.#.mlp.experts.gate_up_proj", PAIR_UP_TURNED, &[Experts, Any, Hidden]),
    bare("blk.#.ffn_down_exps.bias", "model.layers.#.mlp.experts.down_proj_bias", Same, &[Experts, Hidden]),
    bare("blk.#.ffn_gate_exps.bias", "model.layers.#.mlp.experts.gate_up_proj_bias", PAIR_GATE, &[Experts, Any]),
    bare("blk.#.ffn_up_exps.bias", "model.layers.#.mlp.experts.gate_up_proj_bias", PAIR_UP, &[Experts, Any]),
    Row { way: Way::In, ..bare("blk.#.ffn_down_exps.weight", "model.layers.#.mlp.experts.down_proj_blocks", Same, &[Experts, Hidden, Any]) },
    Row { way: Way::In, ..bare("blk.#.ffn_gate_exps.weight", "model.layers.#.mlp.experts.gate_up_proj_blocks", PAIR_GATE, &[Experts, Any, Hidden]) },
    Row { way: Way::In, ..bare("blk.#.ffn_up_exps.weight", "model.layers.#.mlp.experts.gate_up_proj_blocks", PAIR_UP, &[Experts, Any, Hidden]) },
];

/// glm4_moe calls the norm before the feed-forward part `post_attention_norm`, and so does GGUF.
#[rustfmt::skip]
const GLM4_MOE: &[Row] = &[
    r("blk.#.post_attention_norm", "model.layers.#.post_attention_layernorm", Norm, &[Hidden]),
    Row { need: Need::May, ..r("blk.#.attn_q_norm", "model.layers.#.self_attn.q_norm", Norm, &[OneHead]) },
    Row { need: Need::May, ..r("blk.#.attn_k_norm", "model.layers.#.self_attn.k_norm", Norm, &[OneHead]) },
];

/// llama4: experts are `[experts, in, gate and then up]`.
#[rustfmt::skip]
const LLAMA4: &[Row] = &[
    Row { need: DENSE, ..r("blk.#.ffn_down", "model.layers.#.feed_forward.down_proj", Same, &[Hidden, Any]) },
    Row { need: DENSE, ..r("blk.#.ffn_gate", "model.layers.#.feed_forward.gate_proj", Same, &[Any, Hidden]) },
    Row { need: DENSE, ..r("blk.#.ffn_up", "model.layers.#.feed_forward.up_proj", Same, &[Any, Hidden]) },
    Row { need: MOE, ..bare("blk.#.ffn_down_exps.weight", "model.layers.#.feed_forward.experts.down_proj", Turned, &[Experts, Hidden, Any]) },
    Row { need: MOE, ..bare("blk.#.ffn_gate_exps.weight", "model.layers.#.feed_forward.experts.gate_up_proj", HALF_GATE_TURNED, &[Experts, Any, Hidden]) },
    Row { need: MOE, ..bare("blk.#.ffn_up_exps.weight", "model.layers.#.feed_forward.experts.gate_up_proj", HALF_UP_TURNED, &[Experts, Any, Hidden]) },
    Row { need: MOE, ..r("blk.#.ffn_gate_inp", "model.layers.#.feed_forward.router", Same, &[Experts, Hidden]) },
    Row { need: MOE, ..r("blk.#.ffn_down_shexp", "model.layers.#.feed_forward.shared_expert.down_proj", Same, &[Hidden, Any]) },
    Row { need: MOE, ..r("blk.#.ffn_gate_shexp", "model.layers.#.feed_forward.shared_expert.gate_proj", Same, &[Any, Hidden]) },
    Row { need: MOE, ..r("blk.#.ffn_up_shexp", "model.layers.#.feed_forward.shared_expert.up_proj", Same, &[Any, Hidden]) },
];

/// What most families are: the rest is said where it differs.
/// A classifier on the last token, or on each; GPT-2 calls the second one otherwise.
#[rustfmt::skip]
const SCORE: &[Row] = &[
    Row { need: Need::Some, ends: Ends::MayBias, ..r("cls.output", "score", Same, &[Any, Hidden]) },
    Row { need: Need::Some, ends: Ends::MayBias, way: Way::In, ..r("cls.output", "classifier", Same, &[Any, Hidden]) },
];

const LLAMA: Family = Family {
    gguf: "llama",
    converts: true,
    model_types: &["llama"],
    architectures: &["LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel", "IQuestCoderForCausalLM"],
    tensors: &[EMBEDDING, BEFORE, BETWEEN, ATTENTION, GATED],
    heads: &[SCORE],
    paired_heads: true,
    norm_offset: 0.0,
    padded_positions: false,
    head: Head::Said { tied: false },
    made: Made::RopeFreqs,
    defaults: &[("num_attention_heads", 32), ("hidden_size", 4096), ("num_hidden_layers", 32)],
};

const PLAIN: Family = Family { paired_heads: false, made: Made::Nothing, ..LLAMA };

pub(super) const FAMILIES: &[Family] = &[
    LLAMA,
    Family {
        model_types: &["mistral"],
        architectures: &["MistralForCausalLM", "MistralModel"],
        defaults: &[
            ("num_attention_heads", 32),
            ("num_key_value_heads", 8),
            ("hidden_size", 4096),
            ("num_hidden_layers", 32),
        ],
        ..LLAMA
    },
    Family {
        model_types: &["mixtral"],
        architectures: &["MixtralForCausalLM"],
        tensors: &[EMBEDDING, BEFORE, BETWEEN, ATTENTION, MIXTRAL],
        defaults: &[
            ("num_attention_heads", 32),
            ("num_key_value_heads", 8),
            ("hidden_size", 4096),
            ("num_hidden_layers", 32),
            ("num_local_experts", 8),
        ],
        ..LLAMA
    },
    Family {
        gguf: "qwen2",
        model_types: &["qwen2"],
        architectures: &["Qwen2ForCausalLM", "Qwen2Model", "KORMoForCausalLM"],
        tensors: &[EMBEDDING, BEFORE, BETWEEN, BIASED_ATTENTION, GATED],
        defaults: &[
            ("num_attention_heads", 32),
            ("num_key_value_heads", 32),
            ("hidden_size", 4096),
            ("num_hidden_layers", 32),
        ],
        ..PLAIN
    },
    Family {
        gguf: "qwen3",
        model_types: &["qwen3"],
        architectures: &["Qwen3ForCausalLM", "Qwen3Model"],
        tensors: &[EMBEDDING, BEFORE, BETWEEN, ATTENTION, HEAD_NORMS, GATED],
        defaults: &[
            ("num_attention_heads", 32),
            ("num_key_value_heads", 32),
            ("head_dim", 128),
            ("hidden_size", 4096),
            ("num_hidden_layers", 32),
        ],
        ..PLAIN
    },
    Family {
        gguf: "qwen3moe",
        model_types: &["qwen3_moe"],
        architectures: &["Qwen3MoeForCausalLM"],
        tensors: &[EMBEDDING, BEFORE, BETWEEN, ATTENTION, HEAD_NORMS, EXPERTS],
        defaults: &[
            ("num_attention_heads", 32),
            ("num_key_value_heads", 4),
            ("hidden_size", 2048),
            ("num_hidden_layers", 24),
            ("num_experts", 128),
        ],
        ..PLAIN
    },
    Family {
        gguf: "gemma2",
        model_types: &["gemma2"],
        architectures: &["Gemma2ForCausalLM"],
        tensors: &[EMBEDDING, BEFORE, SANDWICH, ATTENTION, GATED],
        norm_offset: 1.0,
        head: Head::Tied,
        defaults: &[
            ("num_attention_heads", 8),
            ("num_key_value_heads", 4),
            ("head_dim", 256),
            ("hidden_size", 2304),
            ("num_hidden_layers", 26),
        ],
        ..PLAIN
    },
    Family {
        gguf: "gemma3",
        model_types: &["gemma3_text", "gemma3"],
        architectures: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
        tensors: &[EMBEDDING, BEFORE, SANDWICH, ATTENTION, HEAD_NORMS, GATED],
        norm_offset: 1.0,
        head: Head::Tied,
        defaults: &[
            ("num_attention_heads", 8),
            ("num_key_value_heads", 4),
            ("head_dim", 256),
            ("hidden_size", 2304),
            ("num_hidden_layers", 26),
        ],
        ..PLAIN
    },
    Family {
        gguf: "phi3",
        model_types: &["phi3"],
        architectures: &["Phi3ForCausalLM"],
        tensors: &[EMBEDDING, BEFORE, BETWEEN, PHI3],
        made: Made::RopeFactors,
        defaults: &[("num_attention_heads", 32), ("hidden_size", 3072), ("num_hidden_layers", 32)],
        ..PLAIN
    },
    Family {
        gguf: "gpt2",
        model_types: &["gpt2"],
        architectures: &["GPT2LMHeadModel", "GPT2Model"],
        tensors: &[GPT2],
        head: Head::Said { tied: true },
        defaults: &[("n_head", 12), ("n_embd", 768), ("n_layer", 12)],
        ..PLAIN
    },
    Family {
        gguf: "starcoder2",
        model_types: &["starcoder2"],
        architectures: &["Starcoder2ForCausalLM"],
        tensors: &[STARCODER2, ATTENTION],
        head: Head::Said { tied: true },
        defaults: &[
            ("num_attention_heads", 24),
            ("num_key_value_heads", 2),
            ("hidden_size", 3072),
            ("num_hidden_layers", 30),
        ],
        ..PLAIN
    },
    Family {
        gguf: "olmo2",
        model_types: &["olmo2", "olmo3"],
        architectures: &["Olmo2ForCausalLM", "Olmo3ForCausalLM"],
        tensors: &[EMBEDDING, OLMO2, ATTENTION, GATED],
        ..PLAIN
    },
    Family {
        gguf: "granite",
        model_types: &["granite"],
        architectures: &["GraniteForCausalLM"],
        made: Made::Nothing,
        ..LLAMA
    },
    Family {
        gguf: "smollm3",
        model_types: &["smollm3"],
        architectures: &["SmolLM3ForCausalLM"],
        head: Head::Said { tied: true },
        defaults: &[
            ("num_attention_heads", 16),
            ("num_key_value_heads", 4),
            ("hidden_size", 2048),
            ("num_hidden_layers", 36),
        ],
        ..LLAMA
    },
    Family {
        gguf: "deepseek2",
        model_types: &["deepseek_v2"],
        architectures: &["DeepseekV2ForCausalLM"],
        tensors: &[EMBEDDING, BEFORE, BETWEEN, LATENT, DENSE_LAYERS, EXPERTS, SHARED_EXPERTS],
        defaults: &[
            ("num_attention_heads", 32),
            ("hidden_size", 4096),
            ("num_hidden_layers", 32),
            ("kv_lora_rank", 512),
            ("qk_nope_head_dim", 128),
            ("qk_rope_head_dim", 64),
            ("v_head_dim", 128),
            ("n_routed_experts", 64),
        ],
        ..PLAIN
    },
    Family {
        gguf: "deepseek2",
        model_types: &["deepseek_v3", "kimi_k2"],
        architectures: &["DeepseekV3ForCausalLM"],
        tensors: &[EMBEDDING, BEFORE, BETWEEN, LATENT, DENSE_LAYERS, EXPERTS, SHARED_EXPERTS, CORRECTION],
        defaults: &[
            ("num_attention_heads", 128),
            ("hidden_size", 7168),
            ("num_hidden_layers", 61),
            ("kv_lora_rank", 512),
            ("qk_nope_head_dim", 128),
            ("qk_rope_head_dim", 64),
            ("v_head_dim", 128),
            ("n_routed_experts", 256),
            ("num_nextn_predict_layers", 1),
        ],
        ..PLAIN
    },
    Family {
        gguf: "gpt-oss",
        model_types: &["gpt_oss"],
        architectures: &["GptOssForCausalLM"],
        tensors: &[EMBEDDING, BEFORE, BIASED_ATTENTION, GPT_OSS],
        defaults: &[
            ("num_attention_heads", 64),
            ("num_key_value_heads", 8),
            ("head_dim", 64),
            ("hidden_size", 2880),
            ("num_hidden_layers", 36),
            ("num_local_experts", 128),
        ],
        ..PLAIN
    },
    Family {
        gguf: "glm4moe",
        model_types: &["glm4_moe"],
        architectures: &["Glm4MoeForCausalLM"],
        tensors: &[EMBEDDING, BEFORE, GLM4_MOE, ATTENTION, DENSE_LAYERS, EXPERTS, SHARED_EXPERTS, CORRECTION],
        defaults: &[
            ("num_attention_heads", 96),
            ("num_key_value_heads", 8),
            ("hidden_size", 4096),
            ("num_hidden_layers", 46),
            ("n_routed_experts", 128),
            ("num_nextn_predict_layers", 1),
        ],
        ..PLAIN
    },
    Family {
        gguf: "llama4",
        model_types: &["llama4_text", "llama4"],
        architectures: &["Llama4ForCausalLM", "Llama4ForConditionalGeneration"],
        tensors: &[EMBEDDING, BEFORE, BETWEEN, ATTENTION, LLAMA4],
        made: Made::RopeFreqs,
        defaults: &[
            ("num_attention_heads", 40),
            ("num_key_value_heads", 8),
            ("head_dim", 128),
            ("hidden_size", 5120),
            ("num_hidden_layers", 48),
            ("num_local_experts", 16),
        ],
        ..PLAIN
    },
];
