//! The rows of [`super`]: mixtures with their rules, what tensors are called, which are never quantised.

use super::{Mixture, Part, Rule, When};
use crate::dtype::DType;
use How::{Has, Is};
use When::{Falcon, First, FirstOf, Grouped, Importance, More, NoImportance, NotEight, NotFalcon};

/// How a name is recognised.
#[derive(Debug, Clone, Copy)]
pub(super) enum How {
    /// It is this.
    Is(&'static str),
    /// It holds this.
    Has(&'static str),
}

impl How {
    pub(super) fn holds(self, name: &str) -> bool {
        match self {
            Is(text) => name == text,
            Has(text) => name.contains(text),
        }
    }
}

/// What a name says of a tensor; the first that holds counts.
pub(super) const PARTS: &[(How, Part)] = &[
    (Is("output.weight"), Part::Output),
    (Is("token_embd.weight"), Part::Embedding),
    (Is("per_layer_token_embd.weight"), Part::Embedding),
    (Has("attn_qkv.weight"), Part::Value),
    (Has("attn_kv_b.weight"), Part::Value),
    (Has("attn_v.weight"), Part::Value),
    (Has("attn_k.weight"), Part::Key),
    (Has("attn_q.weight"), Part::Query),
    (Has("attn_output.weight"), Part::AttentionOutput),
    (Has("ffn_up"), Part::Up),
    (Has("ffn_gate"), Part::Gate),
    (Has("ffn_down"), Part::Down),
];

/// What is never quantised, and in which architecture only.
#[rustfmt::skip]
pub(super) const KEPT: &[(Option<&str>, How)] = &[
    (None, Has("_norm.weight")),
    // Routers, and what chooses experts by the token.
    (None, Has("ffn_gate_inp.weight")), (None, Has("ffn_gate_tid2eid.weight")),
    // Gemma 3n's small ones.
    (None, Has("altup")), (None, Has("laurel")), (None, Has("per_layer_model_proj")),
    // Positions and token types.
    (None, Is("position_embd.weight")), (None, Is("token_types.weight")), (None, Has("attn_rel_b.weight")),
    // Convolutions of state-space models.
    (None, Has("ssm_conv1d")), (None, Has("shortconv.conv.weight")),
    // Indexers.
    (None, Has("indexer.k_proj.weight")), (None, Has("indexer.q_proj.weight")),
    // RWKV.
    (None, Has("time_mix_first.weight")), (None, Has("time_mix_w0.weight")), (None, Has("time_mix_w1.weight")),
    (None, Has("time_mix_w2.weight")), (None, Has("time_mix_v0.weight")), (None, Has("time_mix_v1.weight")),
    (None, Has("time_mix_v2.weight")), (None, Has("time_mix_a0.weight")), (None, Has("time_mix_a1.weight")),
    (None, Has("time_mix_a2.weight")), (None, Has("time_mix_g1.weight")), (None, Has("time_mix_g2.weight")),
    (None, Has("time_mix_decay_w1.weight")), (None, Has("time_mix_decay_w2.weight")),
    (None, Has("time_mix_lerp_fused.weight")),
    // Pictures and sound.
    (None, Has(".position_embd")), (None, Has("sam.pos_embd")), (None, Has("sam.neck.")), (None, Has("sam.net_")),
    (None, Has(".rel_pos")), (None, Has(".patch_embd")), (None, Has(".patch_merger")), (None, Has("a.rvq.codebook")),
    (None, Has("mm.a.code_embd")),
    (Some(GLM), Has("hc_")), (Some(GLM), Has("indexer.attn_q_b")), (Some(GLM), Has("indexer.attn_k")),
    (Some(GLM), Has("indexer.proj")), (Some(GLM), Has("indexer_compressor_gate")),
    (Some(GLM), Has("indexer_compressor_ape")), (Some(GLM), Has("ssm_f_a.weight")), (Some(GLM), Has("ssm_f_b.weight")),
    (Some(GLM), Has("ssm_g_a.weight")), (Some(GLM), Has("ssm_g_b.weight")), (Some(GLM), Has("ssm_beta.weight")),
    (Some(GLM), Has("attn_kv_a_mqa.weight")), (Some(GLM), Has("attn_k_b.weight")), (Some(GLM), Has("attn_v_b.weight")),
];

const GLM: &str = "glm5-next";

/// What gets q8_0 at least.
pub(super) const AT_LEAST_Q8: &[(&str, How)] =
    &[(GLM, Has("attn_q_a")), (GLM, Has("attn_q_b")), (GLM, Has("nextn.eh_proj"))];

/// Architectures and their layers whose models count as of 70 billion parameters.
pub(super) const SEVENTY: &[(&str, u64)] =
    &[("llama", 80), ("qwen2", 80), ("olmo", 80), ("deci", 80), ("jais2", 68)];

/// What parts get in models of eight experts, whatever the mixture.
pub(super) const BY_EIGHT: &[(Part, DType)] = &[(Part::Value, DType::Q8_0), (Part::Key, DType::Q8_0)];

/// Types whose blocks are too large for a row, and the next smaller ones.
pub(super) const FALLBACKS: &[(DType, DType)] = &[
    (DType::IQ4XS, DType::IQ4NL),
    (DType::IQ3S, DType::IQ4NL),
    (DType::Q2K, DType::Q4_0),
    (DType::Q3K, DType::Q4_0),
    (DType::TQ1_0, DType::Q4_0),
    (DType::TQ2_0, DType::Q4_0),
    (DType::Q4K, DType::Q5_0),
    (DType::Q5K, DType::Q5_1),
    (DType::Q6K, DType::Q8_0),
];

const fn rule(part: Part, when: &'static [When], dtype: DType) -> Rule {
    Rule { part, when, dtype }
}

/// A mixture that is one type.
const fn plain(name: &'static str, file_type: u32, dtype: DType) -> Mixture {
    Mixture {
        name,
        alias: None,
        file_type,
        dtype,
        rules: &[],
        eight_experts: false,
        experts_only: false,
        needs_importance: false,
    }
}

const fn mix(
    name: &'static str,
    alias: Option<&'static str>,
    file_type: u32,
    dtype: DType,
    eight_experts: bool,
    rules: &'static [Rule],
) -> Mixture {
    Mixture { alias, rules, eight_experts, ..plain(name, file_type, dtype) }
}

const IQ4: &[Rule] =
    &[rule(Part::Value, &[Grouped], DType::Q5K), rule(Part::Down, &[FirstOf(8), NoImportance], DType::Q5K)];

const TERNARY: &[Rule] = &[rule(Part::Embedding, &[], DType::Q4K)];

/// Every mixture that is written, in the order of their bits.
pub static MIXTURES: &[Mixture] = &[
    mix("tq1_0", None, 36, DType::TQ1_0, false, TERNARY),
    mix("tq2_0", None, 37, DType::TQ2_0, false, TERNARY),
    Mixture {
        needs_importance: true,
        ..mix(
            "q2_k_s",
            None,
            21,
            DType::Q2K,
            false,
            &[rule(Part::Value, &[Grouped], DType::Q4K), rule(Part::Down, &[FirstOf(8)], DType::Q4K)],
        )
    },
    mix(
        "q2_k",
        None,
        10,
        DType::Q2K,
        true,
        &[
            rule(Part::Value, &[Grouped], DType::Q4K),
            rule(Part::Value, &[], DType::Q3K),
            rule(Part::Down, &[], DType::Q3K),
            rule(Part::AttentionOutput, &[NotFalcon, NotEight], DType::Q3K),
        ],
    ),
    mix("q3_k_s", None, 11, DType::Q3K, true, &[]),
    mix(
        "q3_k_m",
        Some("q3_k"),
        12,
        DType::Q3K,
        true,
        &[
            rule(Part::Value, &[First(2)], DType::Q5K),
            rule(Part::Value, &[], DType::Q4K),
            rule(Part::Down, &[FirstOf(16)], DType::Q5K),
            rule(Part::Down, &[NotFalcon], DType::Q4K),
            rule(Part::Down, &[More], DType::Q4K),
            rule(Part::AttentionOutput, &[NotFalcon, NotEight], DType::Q4K),
        ],
    ),
    mix(
        "q3_k_l",
        None,
        13,
        DType::Q3K,
        false,
        &[
            rule(Part::Value, &[], DType::Q5K),
            rule(Part::Down, &[Falcon], DType::Q4K),
            rule(Part::Down, &[], DType::Q5K),
            rule(Part::AttentionOutput, &[Falcon], DType::Q4K),
            rule(Part::AttentionOutput, &[NotEight], DType::Q5K),
        ],
    ),
    mix("iq4_xs", None, 30, DType::IQ4XS, true, IQ4),
    mix("iq4_nl", None, 25, DType::IQ4NL, true, IQ4),
    mix("q4_0", None, 2, DType::Q4_0, false, &[rule(Part::Down, &[Importance, FirstOf(8)], DType::Q4_1)]),
    plain("q4_1", 3, DType::Q4_1),
    mix(
        "q4_k_s",
        None,
        14,
        DType::Q4K,
        true,
        &[rule(Part::Value, &[First(4)], DType::Q5K), rule(Part::Down, &[NotFalcon, FirstOf(8)], DType::Q5K)],
    ),
    mix(
        "q4_k_m",
        Some("q4_k"),
        15,
        DType::Q4K,
        true,
        &[
            rule(Part::Value, &[More], DType::Q6K),
            rule(Part::Down, &[Falcon, FirstOf(16)], DType::Q6K),
            rule(Part::Down, &[Falcon, More], DType::Q5K),
            rule(Part::Down, &[NotFalcon, More], DType::Q6K),
        ],
    ),
    Mixture { alias: Some("mxfp4"), experts_only: true, ..plain("mxfp4_moe", 38, DType::MXFP4) },
    mix("q5_0", None, 8, DType::Q5_0, false, &[rule(Part::Down, &[Importance, FirstOf(8)], DType::Q5_1)]),
    plain("q5_1", 9, DType::Q5_1),
    plain("q5_k_s", 16, DType::Q5K),
    mix(
        "q5_k_m",
        Some("q5_k"),
        17,
        DType::Q5K,
        false,
        &[rule(Part::Value, &[More], DType::Q6K), rule(Part::Down, &[More], DType::Q6K)],
    ),
    plain("q6_k", 18, DType::Q6K),
    plain("q8_0", 7, DType::Q8_0),
];
