//! What becomes of each architecture: the class in transformers, how it spells the rows' names, and what the engine does
//! without a key.

use super::super::rules;
use super::Back;
use crate::checkpoint::{MetaArray, MetaValue};
use crate::error::{Error, Result};
use crate::text::Shown;
use serde_json::{Map, Value, json};

type Config = Map<String, Value>;

/// One class that keys can become.
pub(super) struct Target {
    arch: &'static str,
    /// Whether this GGUF is one, where an architecture has several. The first that says yes is taken.
    when: fn(&Back<'_>) -> Result<bool>,
    pub(super) model_type: &'static str,
    pub(super) class: &'static str,
    /// Whether it has rotary embeddings.
    pub(super) rope: bool,
    /// Whether it has a head of its own that may be the embedding.
    pub(super) head: bool,
    /// Names of rows, and this class's.
    pub(super) spelling: &'static [(&'static str, &'static str)],
    pub(super) fixed: &'static [(&'static str, Said)],
    pub(super) more: fn(&Back<'_>, &mut Config) -> Result<()>,
}

/// A value known beforehand.
pub(super) enum Said {
    Flag(bool),
    Count(u64),
    Text(&'static str),
    Empty,
    Null,
}

impl Said {
    pub(super) fn json(&self) -> Value {
        match self {
            Said::Flag(flag) => json!(flag),
            Said::Count(n) => json!(n),
            Said::Text(text) => json!(text),
            Said::Empty => json!([]),
            Said::Null => Value::Null,
        }
    }
}

const SILU: (&str, Said) = ("hidden_act", Said::Text("silu"));
const GELU: (&str, Said) = ("hidden_act", Said::Text("gelu"));
const GEMMA_ACT: (&str, Said) = ("hidden_activation", Said::Text("gelu_pytorch_tanh"));
const NO_WINDOW: (&str, Said) = ("sliding_window", Said::Null);
const WINDOW_OFF: (&str, Said) = ("use_sliding_window", Said::Flag(false));
const ROUTED: (&str, &str) = ("num_local_experts", "n_routed_experts");

const fn target(arch: &'static str, model_type: &'static str, class: &'static str) -> Target {
    Target {
        arch,
        when: |_| Ok(true),
        model_type,
        class,
        rope: true,
        head: true,
        spelling: &[],
        fixed: &[SILU],
        more: |_, _| Ok(()),
    }
}

const fn encoder(model_type: &'static str, class: &'static str) -> Target {
    Target { rope: false, head: false, fixed: &[GELU], ..target("bert", model_type, class) }
}

#[rustfmt::skip]
const TARGETS: &[Target] = &[
    Target { when: has_experts, fixed: &[SILU, NO_WINDOW], ..target("llama", "mixtral", "MixtralForCausalLM") },
    Target { more: llama, ..target("llama", "llama", "LlamaForCausalLM") },
    Target { more: smollm3, fixed: &[SILU, NO_WINDOW, WINDOW_OFF, ("no_rope_layer_interval", Said::Count(4))], ..target("smollm3", "smollm3", "SmolLM3ForCausalLM") },
    Target { more: granite, ..target("granite", "granite", "GraniteForCausalLM") },
    Target { fixed: &[SILU, NO_WINDOW, WINDOW_OFF], ..target("qwen2", "qwen2", "Qwen2ForCausalLM") },
    Target { more: qwen3, fixed: &[SILU, NO_WINDOW, WINDOW_OFF], ..target("qwen3", "qwen3", "Qwen3ForCausalLM") },
    Target { more: qwen3, fixed: &[SILU, NO_WINDOW, WINDOW_OFF, ("norm_topk_prob", Said::Flag(true)), ("decoder_sparse_step", Said::Count(1)), ("mlp_only_layers", Said::Empty)],
        ..target("qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM") },
    Target { more: gemma2, fixed: &[GEMMA_ACT], ..target("gemma2", "gemma2", "Gemma2ForCausalLM") },
    Target { more: gemma3, fixed: &[GEMMA_ACT, ("attn_logit_softcapping", Said::Null), ("use_bidirectional_attention", Said::Flag(false))],
        ..target("gemma3", "gemma3_text", "Gemma3ForCausalLM") },
    Target { more: phi3, ..target("phi3", "phi3", "Phi3ForCausalLM") },
    Target { more: gpt2, rope: false, fixed: &[("activation_function", Said::Text("gelu_new"))], ..target("gpt2", "gpt2", "GPT2LMHeadModel") },
    Target { more: starcoder2, spelling: &[("layer_norm_eps", "norm_epsilon")], fixed: &[("hidden_act", Said::Text("gelu_pytorch_tanh")), NO_WINDOW],
        ..target("starcoder2", "starcoder2", "Starcoder2ForCausalLM") },
    Target { more: olmo2, ..target("olmo2", "olmo2", "Olmo2ForCausalLM") },
    Target { when: by_sigmoid, more: deepseek_v3, spelling: &[ROUTED], ..target("deepseek2", "deepseek_v3", "DeepseekV3ForCausalLM") },
    Target { more: deepseek_v2, spelling: &[ROUTED], ..target("deepseek2", "deepseek_v2", "DeepseekV2ForCausalLM") },
    Target { when: |back| Ok(tokenizer(back) == Some("t5")), more: roberta, ..encoder("xlm-roberta", "XLMRobertaModel") },
    Target { when: |back| Ok(tokenizer(back) == Some("gpt2")), more: roberta, ..encoder("roberta", "RobertaModel") },
    Target { more: bert, ..encoder("bert", "BertModel") },
    Target { more: gpt_oss, ..target("gpt-oss", "gpt_oss", "GptOssForCausalLM") },
    Target { more: glm4_moe, spelling: &[ROUTED], ..target("glm4moe", "glm4_moe", "Glm4MoeForCausalLM") },
    Target { more: llama4, fixed: &[SILU, ("no_rope_layer_interval", Said::Count(4)), ("attention_chunk_size", Said::Count(8192)), ("attn_temperature_tuning", Said::Flag(true))],
        ..target("llama4", "llama4_text", "Llama4ForCausalLM") },
];

/// The target of a GGUF; `None` for an architecture that has none.
pub(super) fn find(back: &Back<'_>) -> Result<Option<&'static Target>> {
    for target in TARGETS.iter().filter(|target| target.arch == back.arch) {
        if (target.when)(back)? {
            return Ok(Some(target));
        }
    }
    Ok(None)
}

fn has_experts(back: &Back<'_>) -> Result<bool> {
    Ok(back.count("expert_count")?.is_some_and(|n| n > 0))
}

fn by_sigmoid(back: &Back<'_>) -> Result<bool> {
    // Files from before the key was written have a bias for the choice of experts, which only this class has.
    let first = back.count("leading_dense_block_count")?.unwrap_or(0);
    let biased = back.has(&format!("blk.{first}.exp_probs_b.bias"));
    Ok(biased || back.count("expert_gating_func")? == Some(rules::SIGMOID.into()))
}

fn tokenizer<'b>(back: &Back<'b>) -> Option<&'b str> {
    back.meta.get("tokenizer.ggml.model").and_then(MetaValue::as_str)
}

fn put(config: &mut Config, key: &str, value: impl Into<Value>) {
    config.insert(key.to_owned(), value.into());
}

fn head_dim(back: &Back<'_>, config: &mut Config) -> Result<()> {
    put(config, "head_dim", back.head_dim()?);
    Ok(())
}

/// Whether queries, keys and values have biases. `output_too`: the class has one switch for these and for the output's,
/// and cannot have only some.
fn attention_bias(back: &Back<'_>, config: &mut Config, output_too: bool) -> Result<()> {
    let (queries, output) = (back.has("blk.0.attn_q.bias"), back.has("blk.0.attn_output.bias"));
    if output_too && queries != output {
        return Err(Error::unsupported(format!(
            "has biases in {} only, and the class of `{}` in transformers has them in all of its attention or in none",
            if queries { "queries, keys and values" } else { "the output of attention" },
            Shown(back.arch)
        )));
    }
    put(config, "attention_bias", queries);
    Ok(())
}

fn biases(back: &Back<'_>, config: &mut Config) -> Result<()> {
    put(config, "mlp_bias", back.has("blk.0.ffn_up.bias"));
    attention_bias(back, config, true)
}

fn llama(back: &Back<'_>, config: &mut Config) -> Result<()> {
    let head = back.head_dim()?;
    if let Some(rotated) = back.count("rope.dimension_count")?.filter(|&n| n != head) {
        return Err(Error::unsupported(format!(
            "rotates {rotated} elements of a head of {head}, and the class of `{}` in transformers rotates all",
            Shown(back.arch)
        )));
    }
    put(config, "head_dim", head);
    biases(back, config)
}

/// One for each layer with rotary embeddings, zero for every fourth, which goes without.
fn without_every_fourth(back: &Back<'_>) -> Result<Value> {
    Ok((1..=back.layers()?).map(|n| u64::from(!n.is_multiple_of(4))).collect())
}

fn smollm3(back: &Back<'_>, config: &mut Config) -> Result<()> {
    put(config, "no_rope_layers", without_every_fourth(back)?);
    put(config, "layer_types", back.layer_types(|_| false)?);
    biases(back, config)
}

fn granite(back: &Back<'_>, config: &mut Config) -> Result<()> {
    if !config.contains_key("attention_multiplier") {
        // The engine's scale where none is said; transformers would take one.
        put(config, "attention_multiplier", 1.0 / (back.hidden_per_head()?.max(1) as f64).sqrt());
    }
    biases(back, config)
}

fn qwen3(back: &Back<'_>, config: &mut Config) -> Result<()> {
    head_dim(back, config)?;
    attention_bias(back, config, false)
}

/// One layer in how many sees everything.
fn period(back: &Back<'_>, usual: u64) -> Result<u64> {
    Ok(back.count("attention.sliding_window_pattern")?.filter(|&n| n > 0).unwrap_or(usual))
}

fn query_scale(back: &Back<'_>, config: &mut Config) -> Result<()> {
    let scale = rules::query_scale(back.arch, back.layers()?, back.hidden_per_head().ok(), back.head_dim()?);
    put(config, "query_pre_attn_scalar", scale);
    head_dim(back, config)?;
    attention_bias(back, config, false)
}

fn gemma2(back: &Back<'_>, config: &mut Config) -> Result<()> {
    let period = period(back, 2)?;
    put(config, "layer_types", back.layer_types(|n| !n.is_multiple_of(period))?);
    // What the engine takes where nothing is said.
    for (key, usual) in [("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0)] {
        put(config, key, back.float(key)?.unwrap_or(usual));
    }
    if !config.contains_key("sliding_window") {
        put(config, "sliding_window", 4096);
    }
    query_scale(back, config)
}

fn gemma3(back: &Back<'_>, config: &mut Config) -> Result<()> {
    let window = back.count("attention.sliding_window")?.filter(|&n| n > 0);
    let period = if window.is_some() { period(back, 6)? } else { 1 };
    put(config, "layer_types", back.layer_types(|n| !n.is_multiple_of(period))?);
    if let Some(window) = window {
        put(config, "sliding_window", window);
    }
    if !config.contains_key("final_logit_softcapping") {
        put(config, "final_logit_softcapping", Value::Null);
    }
    query_scale(back, config)
}

fn phi3(back: &Back<'_>, config: &mut Config) -> Result<()> {
    let original = match back.count("rope.scaling.original_context_length")? {
        Some(n) => n,
        None => back.need("context_length")?,
    };
    put(config, "original_max_position_embeddings", original);
    let window = back.count("attention.sliding_window")?.filter(|&n| n > 0);
    put(config, "sliding_window", window.map_or(Value::Null, Value::from));
    partial(back, config)
}

/// The share of a head that is rotated.
fn partial(back: &Back<'_>, config: &mut Config) -> Result<()> {
    let head = back.head_dim()?;
    let rotated = back.count("rope.dimension_count")?.unwrap_or(head);
    if rotated > head {
        return Err(back.wrong("rope.dimension_count", "part of a head"));
    }
    if let Some(Value::Object(rope)) = config.get_mut("rope_parameters") {
        put(rope, "partial_rotary_factor", rotated as f64 / head.max(1) as f64);
    }
    Ok(())
}

fn gpt2(back: &Back<'_>, config: &mut Config) -> Result<()> {
    let hidden = back.need("embedding_length")?;
    let inner = back.count("feed_forward_length")?.filter(|&n| Some(n) != hidden.checked_mul(4));
    put(config, "n_inner", inner.map_or(Value::Null, Value::from));
    Ok(())
}

fn starcoder2(back: &Back<'_>, config: &mut Config) -> Result<()> {
    put(config, "use_bias", back.has("blk.0.attn_q.bias"));
    Ok(())
}

fn olmo2(back: &Back<'_>, config: &mut Config) -> Result<()> {
    attention_bias(back, config, true)?;
    let Some(window) = back.count("attention.sliding_window")?.filter(|&n| n > 0) else { return Ok(()) };
    // Olmo 3 shares the architecture, and looks through windows.
    put(config, "architectures", json!(["Olmo3ForCausalLM"]));
    put(config, "model_type", "olmo3");
    put(config, "sliding_window", window);
    let pattern = back.get("attention.sliding_window_pattern").and_then(MetaValue::as_array);
    let slides: Vec<bool> = match pattern.map(MetaArray::items) {
        Some(items) => items.filter_map(|item| item.as_bool()).collect(),
        None => (1..=back.layers()?).map(|n| !n.is_multiple_of(4)).collect(),
    };
    if slides.len() as u64 != back.layers()? {
        return Err(back.wrong("attention.sliding_window_pattern", "one truth value for each layer"));
    }
    let kinds = slides.iter().map(|&slides| if slides { "sliding_attention" } else { "full_attention" });
    put(config, "layer_types", kinds.collect::<Value>());
    Ok(())
}

fn deepseek_v2(back: &Back<'_>, config: &mut Config) -> Result<()> {
    let grouped = back.count("expert_group_count")?.is_some_and(|n| n > 1);
    put(config, "topk_method", if grouped { "group_limited_greedy" } else { "greedy" });
    deepseek(back, config)
}

fn deepseek_v3(back: &Back<'_>, config: &mut Config) -> Result<()> {
    put(config, "rope_interleave", true);
    put(config, "scoring_func", "sigmoid");
    put(config, "topk_method", "noaux_tc");
    put(config, "num_nextn_predict_layers", 0);
    deepseek(back, config)
}

fn deepseek(back: &Back<'_>, config: &mut Config) -> Result<()> {
    let rope = back.need("rope.dimension_count")?;
    // What is cached follows from the rest.
    back.get("attention.key_length");
    back.get("attention.value_length");
    let (key, value) =
        match (back.count("attention.key_length_mla")?, back.count("attention.value_length_mla")?) {
            (Some(key), Some(value)) => (key, value),
            // Files from before the compressed form was cached say a head's sizes here.
            _ => (back.need("attention.key_length")?, back.need("attention.value_length")?),
        };
    let nope = key.checked_sub(rope).ok_or_else(|| back.wrong("rope.dimension_count", "part of a head"))?;
    if back.count("expert_gating_func")? == Some(rules::SOFTMAX.into()) {
        put(config, "scoring_func", "softmax");
    }
    put(config, "qk_rope_head_dim", rope);
    put(config, "qk_nope_head_dim", nope);
    put(config, "v_head_dim", value);
    put(config, "kv_lora_rank", back.need("attention.kv_lora_rank")?);
    put(config, "q_lora_rank", back.count("attention.q_lora_rank")?.map_or(Value::Null, Value::from));
    // The GGUF has one head for all queries; in the checkpoint the compressed vector opens into as many as there are.
    put(config, "num_key_value_heads", back.need("attention.head_count")?);
    put(config, "first_k_dense_replace", back.count("leading_dense_block_count")?.unwrap_or(0));
    put(config, "moe_intermediate_size", back.need("expert_feed_forward_length")?);
    put(config, "n_shared_experts", back.count("expert_shared_count")?.unwrap_or(0));
    put(config, "routed_scaling_factor", back.float("expert_weights_scale")?.unwrap_or(1.0));
    put(config, "norm_topk_prob", back.flag("expert_weights_norm")?.unwrap_or(false));
    attention_bias(back, config, false)
}

fn bert(back: &Back<'_>, config: &mut Config) -> Result<()> {
    positions_and_types(back, config, 0)
}

fn roberta(back: &Back<'_>, config: &mut Config) -> Result<()> {
    let padding = config.get("pad_token_id").and_then(Value::as_u64).unwrap_or(1);
    put(config, "pad_token_id", padding);
    positions_and_types(back, config, padding.saturating_add(1))
}

/// `unused`: rows of the position table before the first that is used, which a GGUF does not have.
fn positions_and_types(back: &Back<'_>, config: &mut Config, unused: u64) -> Result<()> {
    put(config, "max_position_embeddings", back.need("context_length")?.saturating_add(unused));
    let types = (back.weights.shape)("token_types.weight").and_then(|shape| match shape[..] {
        // A single type may be written without its dimension.
        [_] => Some(1),
        [rows, _] => Some(rows),
        _ => None,
    });
    put(config, "type_vocab_size", types.unwrap_or(1));
    back.count("pooling_type")?;
    let labels =
        back.get("classifier.output_labels").and_then(MetaValue::as_array).and_then(MetaArray::texts);
    if let Some(labels) = labels {
        let labels = labels.take(LABELS_MAX).map(|label| String::from_utf8_lossy(label).into_owned());
        let names: Config = labels.enumerate().map(|(n, label)| (n.to_string(), json!(label))).collect();
        put(config, "id2label", names);
    }
    if back.has("cls.output.weight") {
        let class = config.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
        let class = class.unwrap_or_default().trim_end_matches("Model").to_owned();
        put(config, "architectures", json!([class + "ForSequenceClassification"]));
    }
    Ok(())
}

/// The most classes of a classifier that are named.
const LABELS_MAX: usize = 65_536;

fn gpt_oss(back: &Back<'_>, config: &mut Config) -> Result<()> {
    let period = period(back, 2)?;
    put(config, "layer_types", back.layer_types(|n| !n.is_multiple_of(period))?);
    back.count("expert_feed_forward_length")?;
    // The models that were published do not round the scaling's bounds, and the key for it is not kept.
    if let Some(Value::Object(rope)) = config.get_mut("rope_parameters")
        && rope.get("rope_type").and_then(Value::as_str) == Some("yarn")
    {
        put(rope, "truncate", false);
    }
    head_dim(back, config)?;
    attention_bias(back, config, true)
}

fn glm4_moe(back: &Back<'_>, config: &mut Config) -> Result<()> {
    put(config, "use_qk_norm", back.has("blk.0.attn_q_norm.weight"));
    put(config, "num_nextn_predict_layers", back.count("nextn_predict_layers")?.unwrap_or(0));
    head_dim(back, config)?;
    attention_bias(back, config, false)?;
    partial(back, config)
}

fn llama4(back: &Back<'_>, config: &mut Config) -> Result<()> {
    // The engine leaves the norm of queries and keys out for the model of 128 experts.
    put(config, "use_qk_norm", back.need("expert_count")? != 128);
    let full = back.count("attention.sliding_window")? == Some(0);
    let kind = |n: u64| if full || n.is_multiple_of(4) { "full_attention" } else { "chunked_attention" };
    put(config, "layer_types", (1..=back.layers()?).map(kind).collect::<Value>());
    put(config, "no_rope_layers", without_every_fourth(back)?);
    head_dim(back, config)?;
    attention_bias(back, config, true)
}
