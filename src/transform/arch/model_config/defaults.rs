//! What transformers' config classes put where a config says nothing. Only the keys that a GGUF carries and those that a
//! forward pass needs are here, and only those that have a default at all.
//!
//! Source: `configuration_*.py` of transformers 5.23.

/// The value of a key that is not there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Missing {
    Count(u64),
    /// A count that only the language model's part of a larger config may leave out.
    InPart(u64),
    Float(f64),
    Flag(bool),
    Text(&'static str),
    /// This many where the key is absent, and as many as there are query heads where it is `null`.
    KvHeads(u64),
    /// The value of another key.
    SameAs(&'static str),
    /// `hidden_size / num_attention_heads`.
    HeadDim,
}

impl Missing {
    /// Whether the value comes from the rest of the config, so that it also stands in for `null`.
    pub(super) fn computes(self) -> bool {
        matches!(self, SameAs(_) | HeadDim | KvHeads(_))
    }
}

/// The base of a family's frequencies where the config gives none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Theta {
    pub(super) full: Option<f64>,
    pub(super) sliding: Option<f64>,
}

use Missing::{Count, Flag, Float, HeadDim, InPart, KvHeads, SameAs, Text};

type Row = (&'static str, Missing);

const KV: Row = ("num_key_value_heads", SameAs("num_attention_heads"));
const HEAD: Row = ("head_dim", HeadDim);
const EPS_5: Row = ("rms_norm_eps", Float(1e-5));
const EPS_6: Row = ("rms_norm_eps", Float(1e-6));
const WINDOW: Row = ("sliding_window", Count(4096));
const LAYERS_WITHOUT_WINDOW: Row = ("max_window_layers", Count(28));
const CONTEXT: &str = "max_position_embeddings";

const BERT: &[Row] = &[
    (CONTEXT, Count(512)),
    ("hidden_size", Count(768)),
    ("intermediate_size", Count(3072)),
    ("num_attention_heads", Count(12)),
    ("num_hidden_layers", Count(12)),
    ("layer_norm_eps", Float(1e-12)),
    ("type_vocab_size", Count(2)),
];

const ROBERTA: &[Row] = &[
    (CONTEXT, Count(512)),
    ("hidden_size", Count(768)),
    ("intermediate_size", Count(3072)),
    ("num_attention_heads", Count(12)),
    ("num_hidden_layers", Count(12)),
    ("layer_norm_eps", Float(1e-12)),
    ("type_vocab_size", Count(2)),
    ("pad_token_id", Count(1)),
];

const GEMMA3: &[Row] = &[
    (CONTEXT, Count(131_072)),
    ("hidden_size", Count(2304)),
    ("intermediate_size", Count(9216)),
    ("num_attention_heads", Count(8)),
    ("num_hidden_layers", Count(26)),
    ("num_key_value_heads", KvHeads(4)),
    ("head_dim", Count(256)),
    ("sliding_window", Count(4096)),
    ("query_pre_attn_scalar", Float(256.0)),
    EPS_6,
];

/// Model type, what its keys are when they are not said. (deepseek_v3's way of choosing experts is no key of its class,
/// which knows only one; an engine that is not told takes another.)
#[rustfmt::skip]
const ROWS: &[(&str, &[Row])] = &[
    ("llama", &[KV, HEAD, EPS_6, (CONTEXT, Count(2048)), ("hidden_size", InPart(4096)), ("intermediate_size", InPart(11_008)),
        ("num_hidden_layers", InPart(32)), ("num_attention_heads", InPart(32)), ("vocab_size", InPart(32_000))]),
    ("mistral", &[("num_key_value_heads", KvHeads(8)), HEAD, EPS_6, (CONTEXT, Count(131_072)), ("sliding_window", Count(4096)),
        ("hidden_size", InPart(4096)), ("intermediate_size", InPart(14_336)), ("num_hidden_layers", InPart(32)), ("num_attention_heads", InPart(32)),
        ("vocab_size", InPart(32_000))]),
    ("mixtral", &[("num_key_value_heads", KvHeads(8)), EPS_5, (CONTEXT, Count(131_072)), ("num_local_experts", Count(8)), ("num_experts_per_tok", Count(2))]),
    ("qwen2", &[("num_key_value_heads", KvHeads(32)), EPS_6, (CONTEXT, Count(32_768)), ("use_sliding_window", Flag(false)), WINDOW, LAYERS_WITHOUT_WINDOW,
        ("hidden_size", InPart(4096)), ("intermediate_size", InPart(22_016)), ("num_hidden_layers", InPart(32)), ("num_attention_heads", InPart(32)),
        ("vocab_size", InPart(151_936))]),
    ("qwen3", &[("num_key_value_heads", KvHeads(32)), ("head_dim", Count(128)), EPS_6, (CONTEXT, Count(32_768)), ("use_sliding_window", Flag(false)), WINDOW,
        LAYERS_WITHOUT_WINDOW]),
    ("qwen3_moe", &[("num_key_value_heads", KvHeads(4)), EPS_6, (CONTEXT, Count(32_768)), ("use_sliding_window", Flag(false)), WINDOW,
        ("moe_intermediate_size", Count(768)), ("num_local_experts", Count(128)), ("num_experts_per_tok", Count(8)), ("norm_topk_prob", Flag(false))]),
    ("gemma2", &[("num_key_value_heads", KvHeads(4)), ("head_dim", Count(256)), EPS_6, (CONTEXT, Count(8192)), ("sliding_window", Count(4096)),
        ("attn_logit_softcapping", Float(50.0)), ("final_logit_softcapping", Float(30.0)), ("query_pre_attn_scalar", Float(256.0))]),
    ("gemma3", GEMMA3),
    ("gemma3_text", GEMMA3),
    ("phi3", &[KV, EPS_5, (CONTEXT, Count(4096)), ("original_max_position_embeddings", Count(4096))]),
    ("gpt2", &[("n_positions", Count(1024)), ("layer_norm_epsilon", Float(1e-5)), ("scale_attn_weights", Flag(true))]),
    ("starcoder2", &[("num_key_value_heads", KvHeads(2)), ("norm_epsilon", Float(1e-5)), (CONTEXT, Count(4096))]),
    ("olmo2", &[KV, EPS_5, (CONTEXT, Count(2048))]),
    ("olmo3", &[KV, EPS_5, (CONTEXT, Count(2048)), WINDOW]),
    ("granite", &[KV, EPS_6, (CONTEXT, Count(2048)), ("embedding_multiplier", Float(1.0)), ("logits_scaling", Float(1.0)),
        ("residual_multiplier", Float(1.0)), ("attention_multiplier", Float(1.0))]),
    ("smollm3", &[("num_key_value_heads", KvHeads(4)), EPS_6, (CONTEXT, Count(32_768)), ("use_sliding_window", Flag(false))]),
    ("deepseek_v2", &[KV, EPS_6, (CONTEXT, Count(2048)), ("first_k_dense_replace", Count(0)), ("kv_lora_rank", Count(512)), ("q_lora_rank", Count(1536)),
        ("n_routed_experts", Count(64)), ("n_shared_experts", Count(2)), ("qk_nope_head_dim", Count(128)), ("qk_rope_head_dim", Count(64)),
        ("v_head_dim", Count(128)), ("routed_scaling_factor", Float(1.0)), ("norm_topk_prob", Flag(false)), ("moe_intermediate_size", Count(1407)), ("topk_method", Text("greedy"))]),
    ("deepseek_v3", &[KV, EPS_6, (CONTEXT, Count(4096)), ("first_k_dense_replace", Count(3)), ("kv_lora_rank", Count(512)), ("q_lora_rank", Count(1536)),
        ("n_routed_experts", Count(256)), ("n_shared_experts", Count(1)), ("qk_nope_head_dim", Count(128)), ("qk_rope_head_dim", Count(64)),
        ("v_head_dim", Count(128)), ("n_group", Count(8)), ("topk_group", Count(4)), ("num_experts_per_tok", Count(8)), ("routed_scaling_factor", Float(2.5)),
        ("norm_topk_prob", Flag(true)), ("moe_intermediate_size", Count(2048)), ("scoring_func", Text("sigmoid"))]),
    ("gpt_oss", &[KV, HEAD, EPS_5, (CONTEXT, Count(131_072)), ("sliding_window", Count(128)), ("num_local_experts", Count(128)), ("num_experts_per_tok", Count(4)),
        ("swiglu_alpha", Float(1.702)), ("swiglu_limit", Float(7.0))]),
    ("glm4_moe", &[("num_key_value_heads", KvHeads(8)), EPS_5, (CONTEXT, Count(131_072)), ("moe_intermediate_size", Count(1408)), ("num_experts_per_tok", Count(8)),
        ("n_shared_experts", Count(1)), ("n_routed_experts", Count(128)), ("routed_scaling_factor", Float(1.0)), ("n_group", Count(1)), ("topk_group", Count(1)),
        ("first_k_dense_replace", Count(1)), ("norm_topk_prob", Flag(true)), ("partial_rotary_factor", Float(0.5)), ("use_qk_norm", Flag(false))]),
    ("llama4_text", &[KV, HEAD, EPS_5, (CONTEXT, Count(131_072)), ("intermediate_size", Count(8192)), ("intermediate_size_mlp", Count(16_384)),
        ("num_local_experts", Count(16)), ("num_experts_per_tok", Count(1)), ("interleave_moe_layer_step", Count(1)), ("attention_chunk_size", Count(8192)),
        ("use_qk_norm", Flag(true)), ("floor_scale", Count(8192)), ("attn_scale", Float(0.1))]),
    ("bert", BERT),
    ("roberta", ROBERTA),
    ("xlm-roberta", ROBERTA),
    ("camembert", ROBERTA),
    ("distilbert", &[(CONTEXT, Count(512)), ("dim", Count(768)), ("hidden_dim", Count(3072)), ("n_heads", Count(12)), ("n_layers", Count(6)),
        ("activation", Text("gelu")), ("pad_token_id", Count(0))]),
    ("modernbert", &[(CONTEXT, Count(8192)), ("hidden_size", Count(768)), ("intermediate_size", Count(1152)), ("num_attention_heads", Count(12)),
        ("num_hidden_layers", Count(22)), ("norm_eps", Float(1e-5)), ("hidden_activation", Text("gelu")), ("local_attention", Count(128)),
        ("global_attn_every_n_layers", Count(3)), ("classifier_pooling", Text("cls")), ("classifier_activation", Text("gelu"))]),
    ("nomic_bert", &[(CONTEXT, Count(2048)), ("hidden_size", Count(768)), ("intermediate_size", Count(3072)), ("num_attention_heads", Count(12)),
        ("num_hidden_layers", Count(12)), ("layer_norm_eps", Float(1e-12)), ("hidden_act", Text("silu")), ("type_vocab_size", Count(2))]),
];

/// The families whose base is not 10,000.
const THETAS: &[(&str, Theta)] = &[
    ("mixtral", Theta { full: Some(1e6), sliding: None }),
    ("smollm3", Theta { full: Some(2e6), sliding: None }),
    ("olmo3", Theta { full: Some(5e5), sliding: None }),
    ("gpt_oss", Theta { full: Some(150_000.0), sliding: None }),
    ("llama4_text", Theta { full: Some(500_000.0), sliding: None }),
    ("gemma3", Theta { full: Some(1e6), sliding: Some(1e4) }),
    ("gemma3_text", Theta { full: Some(1e6), sliding: Some(1e4) }),
    ("gpt2", NO_ROPE),
    ("bert", NO_ROPE),
    ("roberta", NO_ROPE),
    ("xlm-roberta", NO_ROPE),
    ("camembert", NO_ROPE),
    ("distilbert", NO_ROPE),
    ("modernbert", Theta { full: Some(160_000.0), sliding: Some(1e4) }),
    ("nomic_bert", Theta { full: Some(1000.0), sliding: None }),
];

const NO_ROPE: Theta = Theta { full: None, sliding: None };

/// The rows of a model type; none for one that is not here.
pub(super) fn of(model_type: &str) -> &'static [Row] {
    // The same class under another name.
    let model_type = if model_type == "kimi_k2" { "deepseek_v3" } else { model_type };
    ROWS.iter().find(|(name, _)| *name == model_type).map_or(&[], |(_, rows)| rows)
}

/// The base of a model type.
pub(super) fn theta(model_type: &str) -> Theta {
    let known = THETAS.iter().find(|(name, _)| *name == model_type);
    known.map_or(Theta { full: Some(1e4), sliding: None }, |(_, theta)| *theta)
}
