//! Families as rows of keys.
//!
//! Most are the same few pieces in the same order, with a family's own rows behind; those whose keys stand in another
//! order in the reference converter's files have a list of their own.
//!
//! Source: llama.cpp's `convert_hf_to_gguf.py` (0c1e5709) for the rows, its `src/models/*.cpp` for what an engine does
//! without being told.

use super::super::model_config::{ModelConfig, shown};
use super::rules::{self, rope};
use super::{Constant, Row, Rule};
use crate::error::{Error, Result};
use serde_json::{Value, json};

/// A family of GGUFs.
pub(super) struct Family {
    /// `general.architecture`.
    pub(super) arch: &'static str,
    /// Rows before those that all families have.
    pub(super) early: &'static [Row],
    /// The rest, in order.
    pub(super) rows: &'static [&'static [Row]],
    /// The activations that the engine computes for this family.
    activations: &'static [&'static str],
    /// Keys that must say what the engine does without being asked, or be absent.
    fixed: &'static [(&'static str, Fixed)],
}

/// What a key must say.
enum Fixed {
    Is(bool),
    One,
    Text(&'static str),
    Empty,
    /// Absent or `null`.
    Absent,
}

const fn row(key: &'static str, rule: Rule) -> Row {
    Row { key, rule }
}

const fn several(rule: fn(&super::Scope<'_>, &mut super::Keys) -> Result<()>) -> Row {
    Row { key: "", rule: Rule::Several(rule) }
}

// The names that a config may use; the first is what is written back, before a family's spelling changes it.
const LAYERS: &[&str] = &["num_hidden_layers", "n_layers", "n_layer", "num_layers"];
const CONTEXT: &[&str] = &[
    "max_position_embeddings",
    "n_ctx",
    "n_positions",
    "max_length",
    "max_sequence_length",
    "model_max_length",
];
const HIDDEN: &[&str] = &["hidden_size", "n_embd", "dim"];
const FEED_FORWARD: &[&str] = &["intermediate_size", "n_inner", "hidden_dim"];
const HEADS: &[&str] = &["num_attention_heads", "n_head", "n_heads"];
const KV_HEADS: &[&str] = &["num_key_value_heads", "n_kv_heads"];
const RMS: &[&str] = &["rms_norm_eps", "norm_eps"];
const LAYER_NORM: &[&str] = &["layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"];
const HEAD_DIM: &[&str] = &["head_dim"];
const EXPERTS: &[&str] = &["num_local_experts", "num_experts", "n_routed_experts"];
const EXPERTS_USED: &[&str] = &["num_experts_per_tok", "num_experts_per_token", "top_k_experts"];
const WINDOW: &[&str] = &["sliding_window"];

const FILE: Row = row("general.file_type", Rule::With(rules::file_type));
const RMS_ROW: Row = row("attention.layer_norm_rms_epsilon", Rule::Float(RMS));

/// Blocks, context, widths, heads.
const SIZES: &[Row] = &[
    row("block_count", Rule::With(rules::block_count)),
    row("context_length", Rule::Count(CONTEXT)),
    row("embedding_length", Rule::Need(HIDDEN)),
    row("feed_forward_length", Rule::Counts(FEED_FORWARD)),
    row("attention.head_count", Rule::Counts(HEADS)),
];
const KV: &[Row] = &[row("attention.head_count_kv", Rule::Counts(KV_HEADS))];
/// Whether a token sees only those before it; rotary embeddings; norms; experts.
const MIDDLE: &[Row] = &[
    row("attention.causal", Rule::With(rules::not_causal)),
    several(rope::rope),
    RMS_ROW,
    row("attention.layer_norm_epsilon", Rule::Float(LAYER_NORM)),
    row("expert_count", Rule::Count(EXPERTS)),
    row("expert_used_count", Rule::Count(EXPERTS_USED)),
    row("expert_group_count", Rule::Count(&["n_group"])),
    row("expert_group_used_count", Rule::Count(&["topk_group"])),
    row("expert_gating_func", Rule::With(rules::gating)),
];
const HEAD: &[Row] = &[
    row("attention.key_length", Rule::Count(HEAD_DIM)),
    row("attention.value_length", Rule::Count(HEAD_DIM)),
];
const END: &[Row] = &[FILE];

/// What the families of `LlamaModel` have behind the common rows.
const LLAMA: &[Row] = &[
    row("vocab_size", Rule::With(rules::vocab_size)),
    row("rope.dimension_count", Rule::With(rules::head_dim)),
    several(rules::note_window),
];

const GEMMA: &[Row] = &[
    row("context_length", Rule::Need(CONTEXT)),
    row("embedding_length", Rule::Need(HIDDEN)),
    row("block_count", Rule::Need(LAYERS)),
    row("feed_forward_length", Rule::Need(&["intermediate_size"])),
    row("attention.head_count", Rule::Need(HEADS)),
    row("attention.head_count_kv", Rule::Need(KV_HEADS)),
    RMS_ROW,
    row("attention.key_length", Rule::Need(HEAD_DIM)),
    row("attention.value_length", Rule::Need(HEAD_DIM)),
    FILE,
];

const GLU: &[&str] = &["silu", "swish"];
const GELU: &[&str] = &["gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"];

#[rustfmt::skip]
const FAMILIES: &[Family] = &[
    // llama, mistral, mixtral
    Family { arch: "llama", early: &[], rows: &[SIZES, KV, MIDDLE, HEAD, END, LLAMA], activations: GLU, fixed: &[] },
    Family { arch: "smollm3", early: &[], rows: &[SIZES, KV, MIDDLE, HEAD, END, LLAMA, &[several(rules::every_fourth_without_rope)]], activations: GLU, fixed: &[] },
    Family { arch: "granite", early: &[], rows: &[SIZES, KV, MIDDLE, END, &[
        row("vocab_size", Rule::With(rules::vocab_size)),
        row("rope.dimension_count", Rule::With(rules::hidden_per_head)),
        row("attention.scale", Rule::NonZero(&["attention_multiplier"])),
        row("embedding_scale", Rule::NonZero(&["embedding_multiplier"])),
        row("residual_scale", Rule::NonZero(&["residual_multiplier"])),
        row("logit_scale", Rule::NonZero(&["logits_scaling"])),
    ]], activations: GLU, fixed: &[] },
    Family { arch: "qwen2", early: &[], rows: &[SIZES, KV, MIDDLE, HEAD, END, &[POOLING, several(rules::note_window)]], activations: GLU, fixed: &[] },
    Family { arch: "qwen3", early: &[], rows: &[SIZES, KV, MIDDLE, HEAD, END, &[POOLING, several(rules::note_window)]], activations: GLU, fixed: &[] },
    Family { arch: "qwen3moe", early: &[], rows: &[SIZES, KV, MIDDLE, HEAD, END, &[
        row("expert_feed_forward_length", Rule::Need(&["moe_intermediate_size"])),
        several(rules::note_window),
        several(rules::note_top_k),
    ]], activations: GLU, fixed: &[("decoder_sparse_step", Fixed::One), ("mlp_only_layers", Fixed::Empty)] },
    Family { arch: "gemma2", early: &[], rows: &[GEMMA, &[
        row("attn_logit_softcapping", Rule::With(rules::gemma2_attention_cap)),
        row("final_logit_softcapping", Rule::With(rules::gemma2_final_cap)),
        row("attention.sliding_window", Rule::Need(WINDOW)),
        several(rope::unscaled_rope),
        several(rules::note_query_scale),
        several(rules::note_layer_types),
    ]], activations: GELU, fixed: &[("use_bidirectional_attention", Fixed::Is(false))] },
    Family { arch: "gemma3", early: &[], rows: &[SIZES, KV, MIDDLE, HEAD, END, &[
        row("final_logit_softcapping", Rule::NonZero(&["final_logit_softcapping"])),
        row("attention.sliding_window", Rule::With(rules::gemma3_window)),
        several(rules::note_query_scale),
        several(rules::note_layer_types),
    ]], activations: GELU, fixed: &[("attn_logit_softcapping", Fixed::Absent), ("use_bidirectional_attention", Fixed::Is(false))] },
    Family { arch: "phi3", early: &[row("rope.scaling.attn_factor", Rule::With(rope::phi3_attention_factor))], rows: &[&[
        row("context_length", Rule::Need(&["max_position_embeddings", "n_positions"])),
        row("rope.scaling.original_context_length", Rule::With(rope::phi3_original_context)),
        row("embedding_length", Rule::Need(HIDDEN)),
        row("feed_forward_length", Rule::Need(&["intermediate_size"])),
        row("block_count", Rule::Need(LAYERS)),
        row("attention.head_count", Rule::Need(HEADS)),
        row("attention.head_count_kv", Rule::Need(&["num_key_value_heads", "n_head_kv"])),
        RMS_ROW,
        row("rope.dimension_count", Rule::With(rope::phi3_rotated)),
        row("rope.freq_base", Rule::With(rope::theta)),
        FILE,
        row("attention.sliding_window", Rule::With(rope::phi3_window)),
    ]], activations: GLU, fixed: &[] },
    Family { arch: "gpt2", early: &[], rows: &[&[
        row("block_count", Rule::Need(&["n_layer", "num_hidden_layers"])),
        // The reference reads `n_ctx`, which transformers 5 does not write; both mean the rows of the position embedding.
        row("context_length", Rule::Need(&["n_positions", "n_ctx", "max_position_embeddings"])),
        row("embedding_length", Rule::Need(&["n_embd", "hidden_size"])),
        row("feed_forward_length", Rule::With(rules::gpt2_feed_forward)),
        row("attention.head_count", Rule::Need(&["n_head", "num_attention_heads"])),
        row("attention.layer_norm_epsilon", Rule::Float(&["layer_norm_epsilon"])),
        FILE,
    ]], activations: GELU, fixed: &[("scale_attn_weights", Fixed::Is(true)), ("scale_attn_by_inverse_layer_idx", Fixed::Is(false)), ("add_cross_attention", Fixed::Is(false))] },
    Family { arch: "starcoder2", early: &[], rows: &[SIZES, KV, MIDDLE, HEAD, END, &[several(rules::note_window)]], activations: GELU, fixed: &[] },
    Family { arch: "olmo2", early: &[], rows: &[SIZES, KV, MIDDLE, HEAD, END, &[several(rules::olmo_window)]], activations: GLU, fixed: &[] },
    Family { arch: "deepseek2", early: &[], rows: &[SIZES, &[
        // Latent attention is computed as one key/value head that all queries share.
        row("attention.head_count_kv", Rule::Always(Constant::U32(1))),
    ], MIDDLE, &[
        row("attention.key_length", Rule::With(rules::latent_key)),
        row("attention.value_length", Rule::With(rules::latent_value)),
    ], END, &[
        row("leading_dense_block_count", Rule::With(rules::leading_dense)),
        row("vocab_size", Rule::With(rules::vocab_size)),
        row("attention.q_lora_rank", Rule::Count(&["q_lora_rank"])),
        row("attention.kv_lora_rank", Rule::Need(&["kv_lora_rank"])),
        row("attention.key_length_mla", Rule::With(rules::latent_head)),
        row("attention.value_length_mla", Rule::Need(&["v_head_dim"])),
        row("expert_feed_forward_length", Rule::Need(&["moe_intermediate_size", "intermediate_size"])),
        row("expert_shared_count", Rule::With(rules::shared_experts)),
        row("expert_weights_scale", Rule::Float(&["routed_scaling_factor"])),
        row("expert_weights_norm", Rule::With(rules::norm_if_true)),
        row("rope.dimension_count", Rule::Need(&["qk_rope_head_dim"])),
        row("rope.scaling.yarn_log_multiplier", Rule::With(rope::log_multiplier)),
        several(rules::rope_interleave),
    ]], activations: GLU, fixed: &[("moe_layer_freq", Fixed::One)] },
    Family { arch: "bert", early: &[], rows: &[&[
        row("block_count", Rule::Need(LAYERS)),
        row("context_length", Rule::With(rules::bert_context)),
        row("embedding_length", Rule::Need(HIDDEN)),
        row("feed_forward_length", Rule::Need(&["intermediate_size"])),
        row("attention.head_count", Rule::Need(HEADS)),
        row("attention.layer_norm_epsilon", Rule::Float(LAYER_NORM)),
        FILE,
        row("attention.causal", Rule::Always(Constant::Bool(false))),
        POOLING,
        row("classifier.output_labels", Rule::With(rules::labels)),
    ]], activations: GELU, fixed: &[("position_embedding_type", Fixed::Text("absolute")), ("is_decoder", Fixed::Is(false)), ("add_cross_attention", Fixed::Is(false))] },
    Family { arch: "gpt-oss", early: &[], rows: &[SIZES, KV, MIDDLE, HEAD, END, &[
        row("attention.sliding_window", Rule::Need(WINDOW)),
        row("expert_feed_forward_length", Rule::Need(&["intermediate_size"])),
        several(rules::note_layer_types),
        several(rules::gpt_oss_fixed),
    ]], activations: GLU, fixed: &[] },
    Family { arch: "glm4moe", early: &[], rows: &[SIZES, KV, MIDDLE, HEAD, END, &[
        row("rope.dimension_count", Rule::With(rope::glm_rotated)),
        row("expert_feed_forward_length", Rule::Need(&["moe_intermediate_size"])),
        row("expert_shared_count", Rule::Count(&["n_shared_experts"])),
        row("leading_dense_block_count", Rule::Count(&["first_k_dense_replace"])),
        row("expert_gating_func", Rule::Always(Constant::U32(rules::SIGMOID))),
        row("expert_weights_scale", Rule::Float(&["routed_scaling_factor"])),
        row("expert_weights_norm", Rule::Flag(&["norm_topk_prob"])),
        row("nextn_predict_layers", Rule::With(rules::prediction_layers)),
    ]], activations: GLU, fixed: &[] },
    Family { arch: "llama4", early: &[], rows: &[&[
        row("block_count", Rule::Need(LAYERS)),
        row("context_length", Rule::Count(CONTEXT)),
        row("embedding_length", Rule::Need(HIDDEN)),
        // Llama 4 calls the width of an expert `intermediate_size`, and the dense one otherwise.
        row("feed_forward_length", Rule::Need(&["intermediate_size_mlp"])),
        row("attention.head_count", Rule::Need(HEADS)),
    ], KV, MIDDLE, HEAD, END, &[
        row("vocab_size", Rule::With(rules::vocab_size)),
        row("rope.dimension_count", Rule::With(rules::head_dim)),
        row("interleave_moe_layer_step", Rule::Need(&["interleave_moe_layer_step"])),
        row("expert_feed_forward_length", Rule::Need(&["intermediate_size"])),
        row("attention.sliding_window", Rule::With(rules::llama4_window)),
        several(rules::every_fourth_without_rope),
        several(rules::note_llama4),
    ]], activations: GLU, fixed: &[] },
];

const POOLING: Row = row("pooling_type", Rule::With(rules::pooling));

/// The names under which configs say their activation.
const ACTIVATION: &[&str] = &["hidden_activation", "hidden_act", "activation_function"];

/// The family of an architecture.
pub(super) fn find(arch: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.arch == arch)
}

/// Every family.
pub(super) fn all() -> impl Iterator<Item = &'static Family> {
    FAMILIES.iter()
}

impl Family {
    /// `Unsupported` where the config asks for what the engine does not do for this family.
    pub(super) fn demand(&self, config: &ModelConfig<'_>) -> Result<()> {
        if let Some(activation) = config.text(ACTIVATION)?
            && !self.activations.contains(&activation)
        {
            return Err(Error::unsupported(format!(
                "the activation `{}` is not what an engine computes for `{}`, which is `{}`",
                crate::text::Shown(activation),
                self.arch,
                self.activations.first().unwrap_or(&"")
            ))
            .file("config.json"));
        }
        for (key, fixed) in self.fixed {
            let Some(value) = config.raw(&[key]) else { continue };
            let expected = match fixed {
                Fixed::Is(flag) => json!(flag),
                Fixed::One => json!(1),
                Fixed::Text(text) => json!(text),
                Fixed::Empty => json!([]),
                Fixed::Absent => Value::Null,
            };
            if *value != expected {
                return Err(Error::unsupported(format!(
                    "`{key}` is {}, and an engine computes `{}` as if it were `{expected}`",
                    shown(value),
                    self.arch
                ))
                .file("config.json"));
            }
        }
        Ok(())
    }
}
