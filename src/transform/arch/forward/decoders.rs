//! How decoders compute: a row for each, over facts that a row names and a config fills in.
//!
//! A new family is a row; `resolve.rs` makes numbers of it. A rule that a function must say (which layers slide, which have experts) is one in
//! `layers.rs`, and a way of choosing experts one of `experts.rs`.
//!
//! Source: the modelling files of `transformers` 5.23, line by line.

mod resolve;

use super::experts::{self, Grouped, Normalise, Routing, Shared};
use super::layers::{self, Windows};
use super::{Activation, Gate, NormKind, Norms, Pairs, Scope, Scoring};

/// What a family says of how it computes.
pub(super) struct Decoder {
    /// The family's name, or that of one of its `model_type`s that computes otherwise.
    name: &'static str,
    norm: NormKind,
    /// Where the config has the norms' epsilon.
    eps: &'static [&'static str],
    norms: Norms,
    embedding_scale: Number,
    /// Whether positions are learned and added to the embedding.
    positions: bool,
    residual_scale: Number,
    logit_divisor: Number,
    /// Where the config has what logits are capped at.
    logit_cap: Option<&'static str>,
    score_cap: Option<&'static str>,
    projections: Projected,
    score_scale: Scale,
    windows: Windows,
    rotation: Rotation,
    /// Of the checkpoint's rows; a family whose heads GGUF has in pairs computes on pairs.
    pairs: Pairs,
    head_norm: Normed,
    sinks: bool,
    /// Whether queries of layers without rotary embeddings grow with the position.
    temperature: bool,
    gate: Gate,
    /// Where the config has the activation, and what it is else.
    activation: (&'static [&'static str], Activation),
    experts: Option<Routing>,
    /// Keys that must be absent, `null`, or say this.
    fixed: &'static [(&'static str, Fixed)],
}

/// A number of the config.
#[derive(Clone, Copy)]
enum Number {
    One,
    RootOfWidth,
    Key(&'static str),
}

/// How queries, keys and values are made.
#[derive(Clone, Copy, PartialEq)]
enum Projected {
    Separate,
    Fused,
    Latent,
}

/// What scores are multiplied by.
#[derive(Clone, Copy)]
enum Scale {
    /// One over the root of a key's width.
    Key,
    /// The same, if the config does not say one or a share that falls with the depth (gpt2).
    KeyOrDepth,
    /// The config says it.
    Said(&'static str),
    /// One over the root of what the config says.
    RootOf(&'static str),
    /// As [`Scale::Key`], times the square of the rotary scaling's magnitude (latent attention).
    Latent,
}

/// Which rotary embedding a layer has, and of how much of a head.
#[derive(Clone, Copy)]
enum Rotation {
    None,
    /// One for all.
    All,
    /// One for all that the config must say: the class has a scaling of its own where nothing is said.
    Said,
    /// One for all, of a part of each head.
    Partly,
    /// One for the layers that rotate.
    Listed,
    /// One for layers that see everything and one for those that do not, with this base where the config has none.
    ByWindow(Option<f64>),
}

/// Norms of queries and keys.
#[derive(Clone, Copy)]
enum Normed {
    Never,
    EachHead,
    AllHeads,
    /// Each head by itself where the config says so.
    EachHeadIf(&'static str),
    /// Without a weight, in layers that rotate, where the config says so.
    BareIf(&'static str),
}

/// What a key must say.
#[derive(Clone, Copy)]
enum Fixed {
    Is(bool),
    One,
    Text(&'static str),
    Empty,
    Absent,
}

const RMS: &[&str] = &["rms_norm_eps"];

const BEFORE: Norms = Norms {
    attention_in: Some("attn_norm"),
    attention_out: None,
    attention_sum: None,
    mlp_in: Some("ffn_norm"),
    mlp_out: None,
    mlp_sum: None,
};
/// Before the feed-forward part stands what is called after attention.
const BEFORE_BY_HF: Norms = Norms { mlp_in: Some("post_attention_norm"), ..BEFORE };
const BEHIND: Norms = Norms {
    attention_in: None,
    attention_out: Some("post_attention_norm"),
    mlp_in: None,
    mlp_out: Some("post_ffw_norm"),
    ..BEFORE
};
const AROUND: Norms =
    Norms { attention_out: Some("post_attention_norm"), mlp_out: Some("post_ffw_norm"), ..BEFORE };

const HIDDEN_ACT: &[&str] = &["hidden_act"];

const LLAMA: Decoder = Decoder {
    name: "llama",
    norm: NormKind::Rms,
    eps: RMS,
    norms: BEFORE,
    embedding_scale: Number::One,
    positions: false,
    residual_scale: Number::One,
    logit_divisor: Number::One,
    logit_cap: None,
    score_cap: None,
    projections: Projected::Separate,
    score_scale: Scale::Key,
    windows: layers::all_full,
    rotation: Rotation::All,
    pairs: Pairs::Halves,
    head_norm: Normed::Never,
    sinks: false,
    temperature: false,
    gate: Gate::Separate,
    activation: (HIDDEN_ACT, Activation::Silu),
    experts: None,
    fixed: &[],
};

const MISTRAL: Decoder = Decoder { name: "mistral", windows: layers::all_sliding, ..LLAMA };

const GEMMA2: Decoder = Decoder {
    name: "gemma2",
    norms: AROUND,
    embedding_scale: Number::RootOfWidth,
    score_scale: Scale::RootOf("query_pre_attn_scalar"),
    score_cap: Some("attn_logit_softcapping"),
    logit_cap: Some("final_logit_softcapping"),
    windows: layers::every_second_full,
    activation: (&["hidden_activation"], Activation::GeluTanh),
    ..LLAMA
};

const OLMO2: Decoder = Decoder { name: "olmo2", norms: BEHIND, head_norm: Normed::AllHeads, ..LLAMA };

const DEEPSEEK_V2: Decoder = Decoder {
    name: "deepseek_v2",
    projections: Projected::Latent,
    score_scale: Scale::Latent,
    pairs: Pairs::Neighbours,
    experts: Some(Routing {
        layers: layers::routed_after_first,
        groups: Grouped::ByMethod,
        scale: Some("routed_scaling_factor"),
        shared: Shared::Said,
        ..experts::PLAIN
    }),
    // DeepSeek's own code divides by the sum where this says so, and transformers never does.
    fixed: &[("norm_topk_prob", Fixed::Is(false)), ("scoring_func", Fixed::Text("softmax"))],
    ..LLAMA
};

const DEEPSEEK_V3_ROUTING: Routing = Routing {
    layers: layers::routed_after_first,
    scoring: Scoring::Sigmoid,
    correction: true,
    groups: Grouped::TwoBest,
    normalise: Normalise::Said(1e-20),
    scale: Some("routed_scaling_factor"),
    shared: Shared::Said,
    ..experts::PLAIN
};

const BY_SIGMOID: &[(&str, Fixed)] =
    &[("scoring_func", Fixed::Text("sigmoid")), ("topk_method", Fixed::Text("noaux_tc"))];

const DECODERS: &[Decoder] = &[
    LLAMA,
    MISTRAL,
    Decoder {
        name: "mixtral",
        experts: Some(Routing { normalise: Normalise::Always, ..experts::PLAIN }),
        ..MISTRAL
    },
    Decoder { name: "qwen2", windows: layers::from_max_window_layers, ..LLAMA },
    Decoder { name: "qwen3", windows: layers::from_max_window_layers, head_norm: Normed::EachHead, ..LLAMA },
    Decoder {
        name: "qwen3_moe",
        windows: layers::all_sliding_if_used,
        head_norm: Normed::EachHead,
        experts: Some(Routing { normalise: Normalise::Said(0.0), ..experts::PLAIN }),
        ..LLAMA
    },
    GEMMA2,
    Decoder {
        name: "gemma3_text",
        score_cap: None,
        windows: layers::by_pattern,
        rotation: Rotation::ByWindow(None),
        head_norm: Normed::EachHead,
        ..GEMMA2
    },
    Decoder {
        name: "phi3",
        projections: Projected::Fused,
        rotation: Rotation::Partly,
        gate: Gate::FirstHalf,
        ..MISTRAL
    },
    Decoder {
        name: "gpt2",
        norm: NormKind::Layer,
        eps: &["layer_norm_epsilon"],
        positions: true,
        projections: Projected::Fused,
        score_scale: Scale::KeyOrDepth,
        rotation: Rotation::None,
        gate: Gate::None,
        activation: (&["activation_function"], Activation::GeluTanh),
        ..LLAMA
    },
    Decoder {
        name: "starcoder2",
        norm: NormKind::Layer,
        eps: &["norm_epsilon"],
        gate: Gate::None,
        activation: (HIDDEN_ACT, Activation::GeluTanh),
        ..MISTRAL
    },
    OLMO2,
    // Layers that look through a window have no part in the scaling of the others.
    Decoder {
        name: "olmo3",
        windows: layers::every_fourth_full,
        rotation: Rotation::ByWindow(Some(500_000.0)),
        ..OLMO2
    },
    Decoder {
        name: "granite",
        embedding_scale: Number::Key("embedding_multiplier"),
        residual_scale: Number::Key("residual_multiplier"),
        logit_divisor: Number::Key("logits_scaling"),
        score_scale: Scale::Said("attention_multiplier"),
        ..LLAMA
    },
    Decoder { name: "smollm3", windows: layers::without_rope_sliding, rotation: Rotation::Listed, ..LLAMA },
    DEEPSEEK_V2,
    Decoder { name: "deepseek_v3", experts: Some(DEEPSEEK_V3_ROUTING), fixed: BY_SIGMOID, ..DEEPSEEK_V2 },
    Decoder {
        name: "gpt_oss",
        norms: BEFORE_BY_HF,
        windows: layers::every_second_full,
        rotation: Rotation::Said,
        sinks: true,
        experts: Some(Routing { scoring: Scoring::SoftmaxOfChosen, bounded: true, ..experts::PLAIN }),
        ..LLAMA
    },
    Decoder {
        name: "glm4_moe",
        norms: BEFORE_BY_HF,
        rotation: Rotation::Partly,
        head_norm: Normed::EachHeadIf("use_qk_norm"),
        experts: Some(DEEPSEEK_V3_ROUTING),
        fixed: BY_SIGMOID,
        ..LLAMA
    },
    Decoder {
        name: "llama4_text",
        windows: layers::with_rope_chunked,
        rotation: Rotation::Listed,
        pairs: Pairs::Neighbours,
        head_norm: Normed::BareIf("use_qk_norm"),
        temperature: true,
        experts: Some(Routing {
            layers: layers::routed_as_listed,
            scoring: Scoring::Sigmoid,
            scales_input: true,
            shared: Shared::Always,
            ..experts::PLAIN
        }),
        ..LLAMA
    },
];

/// Keys by which some model computes otherwise than others, what they say where they change nothing, and whose row asks
/// for them. A config of another family that says something else means a computation that nobody here knows.
#[rustfmt::skip]
const TELLING: &[(&str, Fixed, &[&str])] = &[
    ("use_bidirectional_attention", Fixed::Is(false), &[]),
    ("add_cross_attention", Fixed::Is(false), &[]),
    ("is_encoder_decoder", Fixed::Is(false), &[]),
    ("use_parallel_residual", Fixed::Is(false), &[]),
    ("parallel_attn", Fixed::Is(false), &[]),
    ("alibi", Fixed::Is(false), &[]),
    ("qk_layernorm", Fixed::Is(false), &[]),
    ("use_qk_norm", Fixed::Is(false), &["glm4_moe", "llama4_text"]),
    ("clip_qkv", Fixed::Absent, &[]),
    ("moe_layer_freq", Fixed::One, &[]),
    ("decoder_sparse_step", Fixed::One, &[]),
    ("mlp_only_layers", Fixed::Empty, &[]),
    ("attn_logit_softcapping", Fixed::Absent, &["gemma2"]),
    ("final_logit_softcapping", Fixed::Absent, &["gemma2", "gemma3_text"]),
    ("query_pre_attn_scalar", Fixed::Absent, &["gemma2", "gemma3_text"]),
    ("embedding_multiplier", Fixed::One, &["granite"]),
    ("residual_multiplier", Fixed::One, &["granite"]),
    ("attention_multiplier", Fixed::Absent, &["granite"]),
    ("logits_scaling", Fixed::One, &["granite"]),
    ("logit_scale", Fixed::One, &[]),
    ("scale_emb", Fixed::One, &[]),
    ("scale_depth", Fixed::Absent, &[]),
    ("attention_chunk_size", Fixed::Absent, &["llama4_text"]),
    ("attn_temperature_tuning", Fixed::Is(false), &["llama4_text"]),
];

/// The row of a config's family, where it is a decoder.
pub(super) fn find(scope: &Scope<'_>) -> Option<&'static Decoder> {
    let by_name = |name: &str| DECODERS.iter().find(|row| row.name == name);
    let kind = scope.config.model_type();
    scope
        .family
        .model_types
        .contains(&kind)
        .then(|| by_name(kind))
        .flatten()
        .or_else(|| by_name(scope.family.name()))
}
