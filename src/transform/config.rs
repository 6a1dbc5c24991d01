//! What a model says of itself: `config.json` in both of its dialects, or a GGUF's keys, as one [`Description`].
//!
//! A key a row: the names that Hugging Face configs use for a thing, and the GGUF key. The rest is the few facts that
//! need a rule (a default, a nested object). Values come from strangers: one of the wrong type is left out and noted,
//! so that a damaged config never hides the tensors themselves.

use crate::checkpoint::{Meta, MetaArray, MetaKind, MetaValue};
use crate::dtype::DType;
use crate::text::Shown;
use serde_json::{Map, Value};

/// A model as its config or its GGUF keys describe it. What is not said is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Description {
    /// `model_type`, or `general.architecture`.
    pub family: Option<String>,
    /// The model's own name, where the file gives one (`general.name`).
    pub name: Option<String>,
    /// The classes in `architectures`.
    pub architectures: Vec<String>,
    /// What the first class is for.
    pub task: Option<&'static str>,
    /// Layers of the (text) decoder or encoder.
    pub layers: Option<u64>,
    /// Width of the residual stream.
    pub hidden: Option<u64>,
    /// Width of the dense MLP.
    pub intermediate: Option<u64>,
    /// Query heads; where layers differ, the most.
    pub heads: Option<u64>,
    /// Key/value heads; where layers differ, the most.
    pub kv_heads: Option<u64>,
    /// Elements of one head.
    pub head_dim: Option<u64>,
    /// Rows of the embedding.
    pub vocab: Option<u64>,
    /// Positions the model was made for.
    pub context: Option<u64>,
    /// Whether the config says that the head shares the embedding.
    pub tied: Option<bool>,
    /// Rotary embeddings: one, or one per type of layer.
    pub rope: Vec<Rope>,
    /// Mixture of experts.
    pub experts: Option<Experts>,
    /// Multi-head latent attention.
    pub mla: Option<Mla>,
    /// Positions a sliding-window layer looks back.
    pub sliding_window: Option<u64>,
    /// How many layers keep keys and values of the whole context, where the config tells.
    pub full_layers: Option<u64>,
    /// How many layers keep keys and values of the window only, where the config tells.
    pub sliding_layers: Option<u64>,
    /// The dtype the weights are meant to have.
    pub dtype: Option<DType>,
    /// How the weights are quantised.
    pub quantisation: Option<Quantisation>,
    /// Keys that were left out, and why.
    pub notes: Vec<String>,
}

/// One rotary embedding.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rope {
    /// The type of layer it is for (`full_attention`), where layers differ.
    pub layer_type: Option<String>,
    /// The base.
    pub theta: Option<f64>,
    /// `linear`, `yarn`, `llama3`, `longrope` …; `None` for the plain one.
    pub scaling: Option<String>,
    /// The scaling's numbers, by key, in the file's order.
    pub parameters: Vec<(String, f64)>,
}

/// A mixture of experts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Experts {
    /// Experts of a layer.
    pub count: u64,
    /// Those that work on a token.
    pub used: Option<u64>,
    /// Those that always work.
    pub shared: Option<u64>,
    /// Width of one expert.
    pub intermediate: Option<u64>,
}

/// Multi-head latent attention: what is cached is one compressed vector a token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mla {
    /// Width of the compressed keys and values.
    pub kv_rank: u64,
    /// Width of the rotary part that stands beside it.
    pub rope_dim: u64,
}

/// How weights are quantised, as the config says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quantisation {
    /// `gptq`, `awq`, `compressed-tensors`, `fp8`, `bitsandbytes`, `mxfp4` …
    pub method: String,
    /// Bits of a weight.
    pub bits: Option<u64>,
    /// Weights that share a scale along a row.
    pub group: Option<u64>,
}

impl Quantisation {
    /// `gptq 4 bits, group 128`.
    pub fn summary(&self) -> String {
        let mut text = self.method.clone();
        if let Some(bits) = self.bits {
            text.push_str(&format!(" {bits} bits"));
        }
        if let Some(group) = self.group {
            text.push_str(&format!(", group {group}"));
        }
        text
    }
}

/// One count: its names in a config, the GGUF key after the architecture, and where it goes.
struct Count {
    config: &'static [&'static str],
    gguf: &'static str,
    put: fn(&mut Gathered, u64),
}

/// The description, and what its rules need.
#[derive(Default)]
struct Gathered {
    out: Description,
    experts: Experts,
    mla: Mla,
    nope_dim: Option<u64>,
    window_pattern: Option<u64>,
}

#[rustfmt::skip]
const COUNTS: &[Count] = &[
    Count { config: &["num_hidden_layers", "n_layer", "num_layers", "n_layers"], gguf: "block_count", put: |g, n| g.out.layers = Some(n) },
    Count { config: &["hidden_size", "n_embd", "d_model", "dim"], gguf: "embedding_length", put: |g, n| g.out.hidden = Some(n) },
    Count { config: &["intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim", "d_ff", "hidden_dim"], gguf: "feed_forward_length", put: |g, n| g.out.intermediate = Some(n) },
    Count { config: &["num_attention_heads", "n_head", "n_heads", "num_heads"], gguf: "attention.head_count", put: |g, n| g.out.heads = Some(n) },
    Count { config: &["num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"], gguf: "attention.head_count_kv", put: |g, n| g.out.kv_heads = Some(n) },
    Count { config: &["head_dim", "kv_channels"], gguf: "attention.key_length", put: |g, n| g.out.head_dim = Some(n) },
    Count { config: &["vocab_size", "padded_vocab_size"], gguf: "vocab_size", put: |g, n| g.out.vocab = Some(n) },
    Count { config: &["max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "seq_length", "max_seq_len"], gguf: "context_length", put: |g, n| g.out.context = Some(n) },
    Count { config: &["sliding_window"], gguf: "attention.sliding_window", put: |g, n| g.out.sliding_window = Some(n).filter(|&n| n > 0) },
    Count { config: &["sliding_window_pattern"], gguf: "attention.sliding_window_pattern", put: |g, n| g.window_pattern = Some(n) },
    Count { config: &["num_local_experts", "num_experts", "n_routed_experts"], gguf: "expert_count", put: |g, n| g.experts.count = n },
    Count { config: &["num_experts_per_tok", "num_experts_per_token", "moe_topk"], gguf: "expert_used_count", put: |g, n| g.experts.used = Some(n) },
    Count { config: &["n_shared_experts", "num_shared_experts"], gguf: "expert_shared_count", put: |g, n| g.experts.shared = Some(n) },
    Count { config: &["moe_intermediate_size"], gguf: "expert_feed_forward_length", put: |g, n| g.experts.intermediate = Some(n) },
    Count { config: &["kv_lora_rank"], gguf: "attention.kv_lora_rank", put: |g, n| g.mla.kv_rank = n },
    Count { config: &["qk_rope_head_dim"], gguf: "rope.dimension_count", put: |g, n| g.mla.rope_dim = n },
    Count { config: &["qk_nope_head_dim"], gguf: "", put: |g, n| g.nope_dim = Some(n) },
];

/// What the end of a class's name says the model is for.
const TASKS: &[(&str, &str)] = &[
    ("ForCausalLM", "text generation"),
    ("LMHeadModel", "text generation"),
    ("ForConditionalGeneration", "conditional generation"),
    ("ForMaskedLM", "masked language modelling"),
    ("ForSequenceClassification", "sequence classification"),
    ("ForTokenClassification", "token classification"),
    ("ForQuestionAnswering", "question answering"),
    ("Model", "embedding"),
];

/// Where a config of several parts keeps the language model's.
const TEXT_PARTS: &[&str] = &["text_config", "llm_config", "language_config"];

/// Families whose configs do not say which layers slide: every n-th layer sees everything.
const WINDOW_PATTERNS: &[(&str, u64)] =
    &[("gemma2", 2), ("gemma3", 6), ("gemma3text", 6), ("gptoss", 2), ("cohere2", 4)];

/// Families that only encode.
const ENCODERS: &[&str] = &[
    "bert",
    "nomic-bert",
    "nomic-bert-moe",
    "jina-bert-v2",
    "jina-bert-v3",
    "modern-bert",
    "neo-bert",
    "eurobert",
    "roberta",
    "xlm-roberta",
    "distilbert",
    "clip",
    "t5encoder",
];

/// `general.file_type` of a GGUF whose weights are quantised, by llama.cpp's names (`llama_ftype`).
#[rustfmt::skip]
const FILE_TYPES: &[(u64, &str)] = &[
    (2, "q4_0"), (3, "q4_1"), (7, "q8_0"), (8, "q5_0"), (9, "q5_1"), (10, "q2_k"), (11, "q3_k_s"), (12, "q3_k_m"),
    (13, "q3_k_l"), (14, "q4_k_s"), (15, "q4_k_m"), (16, "q5_k_s"), (17, "q5_k_m"), (18, "q6_k"), (19, "iq2_xxs"),
    (20, "iq2_xs"), (21, "q2_k_s"), (22, "iq3_xs"), (23, "iq3_xxs"), (24, "iq1_s"), (25, "iq4_nl"), (26, "iq3_s"),
    (27, "iq3_m"), (28, "iq2_s"), (29, "iq2_m"), (30, "iq4_xs"), (31, "iq1_m"), (36, "tq1_0"), (37, "tq2_0"),
    (38, "mxfp4"),
];

impl Description {
    /// From a `config.json`. Anything but an object gives an empty description with a note.
    pub fn from_config(config: &Value) -> Description {
        let Some(outer) = config.as_object() else {
            return Description {
                notes: vec!["the config is not a JSON object".into()],
                ..Description::default()
            };
        };
        let mut places: Vec<&Map<String, Value>> =
            TEXT_PARTS.iter().filter_map(|part| outer.get(*part)?.as_object()).take(1).collect();
        places.push(outer);
        let mut g = Gathered::default();
        for row in COUNTS {
            if let Some((key, value)) = find(&places, row.config) {
                match whole(value) {
                    Some(n) => (row.put)(&mut g, n),
                    // A list gives one number a layer (or, for some keys, a matrix): the largest stands for it.
                    None => match value.as_array().and_then(|a| a.iter().filter_map(whole).max()) {
                        Some(n) => (row.put)(&mut g, n),
                        None => g.out.notes.push(ignored(key, value, "a count")),
                    },
                }
            }
        }
        let mut out = g.out.clone();
        out.family = text(&mut out.notes, outer, "model_type");
        out.name = text(&mut out.notes, outer, "_name_or_path").filter(|n| !n.is_empty());
        let classes = outer.get("architectures").and_then(Value::as_array);
        out.architectures =
            classes.into_iter().flatten().filter_map(Value::as_str).take(16).map(str::to_owned).collect();
        out.tied = find(&places, &["tie_word_embeddings"]).and_then(|(_, v)| v.as_bool());
        if let Some((key, value)) = find(&places, &["dtype", "torch_dtype"]) {
            out.dtype = value.as_str().and_then(DType::from_user);
            if out.dtype.is_none() && value.as_str() != Some("auto") {
                out.notes.push(ignored(key, value, "a dtype"));
            }
        }
        out.rope = rope_of_config(&places);
        out.quantisation = find(&places, &["quantization_config", "compression_config"])
            .and_then(|(_, v)| v.as_object())
            .and_then(quantisation_of_config);
        let truth = |key| find(&places, &[key]).and_then(|(_, v)| v.as_bool());
        if truth("use_sliding_window") == Some(false) {
            out.sliding_window = None;
        }
        if let Some((_, Value::Array(types))) = find(&places, &["layer_types"]) {
            let count = |part: &str| {
                types.iter().filter(|t| t.as_str().is_some_and(|t| t.starts_with(part))).count() as u64
            };
            out.full_layers = Some(count("full"));
            out.sliding_layers = Some(count("sliding").saturating_add(count("chunked")));
        }
        // Falcon 7B: one key/value head for all, said by a truth value.
        if truth("multi_query") == Some(true) && truth("new_decoder_architecture") != Some(true) {
            out.kv_heads = Some(1);
        }
        if out.intermediate.is_none() && same_family(out.family.as_deref(), &["gpt2", "falcon"]) {
            out.intermediate = out.hidden.and_then(|h| h.checked_mul(4));
        }
        g.out = out;
        g.finish()
    }

    /// From a GGUF's keys; `None` where there is no `general.architecture`.
    pub fn from_gguf(meta: &Meta) -> Option<Description> {
        let family = meta.get("general.architecture")?.as_str()?;
        let mut g = Gathered::default();
        g.out.family = Some(family.to_owned());
        g.out.name = meta.get("general.name").and_then(MetaValue::as_str).map(str::to_owned);
        for row in COUNTS.iter().filter(|row| !row.gguf.is_empty()) {
            let key = format!("{family}.{}", row.gguf);
            let Some(value) = meta.get(&key) else { continue };
            let value = match value {
                MetaValue::Array(array) => largest(array),
                other => other.as_u64(),
            };
            match value {
                Some(n) => (row.put)(&mut g, n),
                None => g.out.notes.push(format!("`{}` is not a count and was left out", Shown(&key))),
            }
        }
        if g.out.vocab.is_none()
            && let Some(MetaValue::Array(tokens)) = meta.get("tokenizer.ggml.tokens")
        {
            g.out.vocab = Some(tokens.count);
        }
        let number = |key: &str| meta.get(&format!("{family}.{key}")).and_then(MetaValue::as_f64);
        let mut rope = Rope { theta: number("rope.freq_base"), ..Rope::default() };
        if let Some(kind) = meta.get(&format!("{family}.rope.scaling.type")).and_then(MetaValue::as_str) {
            rope.scaling = Some(kind.to_owned()).filter(|k| k != "none");
        }
        for (key, name) in [
            ("rope.scaling.factor", "factor"),
            ("rope.scaling.attn_factor", "attn_factor"),
            ("rope.scaling.original_context_length", "original_max_position_embeddings"),
        ] {
            rope.parameters.extend(number(key).map(|v| (name.to_owned(), v)));
        }
        if rope != Rope::default() {
            g.out.rope.push(rope);
        }
        if let Some(theta) = number("rope.freq_base_swa") {
            let layer_type = Some("sliding_attention".to_owned());
            g.out.rope.push(Rope { layer_type, theta: Some(theta), ..Rope::default() });
        }
        if let Some(file_type) = meta.get("general.file_type").and_then(MetaValue::as_u64) {
            let known = FILE_TYPES.iter().find(|(id, _)| *id == file_type);
            g.out.quantisation =
                known.map(|(_, name)| Quantisation { method: (*name).to_owned(), ..Quantisation::default() });
        }
        // For latent attention the keys give the cached form: one head, compressed.
        Some(g.finish())
    }

    /// Whether the model generates text, and so keeps keys and values.
    pub fn generates(&self) -> bool {
        match self.task {
            Some(task) => matches!(task, "text generation" | "conditional generation"),
            None => self.family.is_some() && !self.is_family(ENCODERS),
        }
    }

    /// Whether the family is one of `names`, however they are spelt (`gpt-oss`, `gpt_oss`).
    pub fn is_family(&self, names: &[&str]) -> bool {
        same_family(self.family.as_deref(), names)
    }
}

impl Gathered {
    /// The defaults that follow from what was found.
    fn finish(self) -> Description {
        let mut d = self.out;
        if self.experts.count > 0 {
            d.experts = Some(self.experts);
        }
        if self.mla.kv_rank > 0 {
            d.mla = Some(self.mla);
            if let (Some(nope), rope) = (self.nope_dim, self.mla.rope_dim) {
                d.head_dim = nope.checked_add(rope);
            }
        }
        d.kv_heads = d.kv_heads.or(d.heads);
        d.head_dim = d.head_dim.or_else(|| {
            let (hidden, heads) = (d.hidden?, d.heads?);
            (heads > 0 && hidden.is_multiple_of(heads)).then(|| hidden / heads)
        });
        let pattern = self.window_pattern.or_else(|| {
            WINDOW_PATTERNS
                .iter()
                .find(|(name, _)| same_family(d.family.as_deref(), &[name]))
                .map(|&(_, n)| n)
        });
        if let (Some(layers), Some(_), None) = (d.layers, d.sliding_window, d.full_layers) {
            // Without a pattern each layer slides; with one of n, every n-th does not.
            let full = pattern.filter(|&n| n > 0).map_or(0, |n| layers / n);
            d.full_layers = Some(full);
            d.sliding_layers = Some(layers - full);
        }
        if d.task.is_none() {
            let class = d.architectures.first().map(String::as_str).unwrap_or_default();
            d.task = TASKS.iter().find(|(end, _)| class.ends_with(end)).map(|&(_, task)| task);
        }
        d
    }
}

fn same_family(family: Option<&str>, names: &[&str]) -> bool {
    let plain = |s: &str| -> String { s.chars().filter(char::is_ascii_alphanumeric).collect() };
    family.is_some_and(|f| names.iter().any(|n| plain(f) == plain(n)))
}

/// The first of `keys` that is there and not null, in the first place that has it.
fn find<'a>(places: &[&'a Map<String, Value>], keys: &[&'static str]) -> Option<(&'static str, &'a Value)> {
    places.iter().find_map(|place| {
        keys.iter().find_map(|&key| place.get(key).filter(|v| !v.is_null()).map(|value| (key, value)))
    })
}

/// A count: an integer, or a float that is one.
fn whole(value: &Value) -> Option<u64> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0; // 2^53
    value.as_u64().or_else(|| {
        let f = value.as_f64()?;
        (f.fract() == 0.0 && (0.0..=EXACT_MAX).contains(&f)).then_some(f as u64)
    })
}

fn ignored(key: &str, value: &Value, expected: &str) -> String {
    let found = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => format!("`{b}`"),
        Value::Number(n) => format!("`{n}`"),
        Value::String(s) => format!("`{}`", Shown(s)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    };
    format!("`{key}` is {found} where {expected} is expected; it was left out")
}

fn text(notes: &mut Vec<String>, place: &Map<String, Value>, key: &str) -> Option<String> {
    match place.get(key)? {
        Value::String(s) => Some(s.clone()),
        Value::Null => None,
        other => {
            notes.push(ignored(key, other, "text"));
            None
        }
    }
}

fn rope_of_config(places: &[&Map<String, Value>]) -> Vec<Rope> {
    if let Some((_, Value::Object(parameters))) = find(places, &["rope_parameters"]) {
        let flat = parameters.contains_key("rope_theta") || parameters.contains_key("rope_type");
        if flat {
            return vec![one_rope(parameters, None)];
        }
        let nested = parameters.iter().filter_map(|(layer, v)| Some((layer, v.as_object()?)));
        return nested.take(16).map(|(layer, v)| one_rope(v, Some(layer.clone()))).collect();
    }
    let number = |key| find(places, &[key]).and_then(|(_, v)| v.as_f64());
    let theta = number("rope_theta").or_else(|| number("rotary_emb_base"));
    let mut rope = match find(places, &["rope_scaling"]) {
        Some((_, Value::Object(scaling))) => one_rope(scaling, None),
        _ => Rope::default(),
    };
    rope.theta = rope.theta.or(theta);
    let mut all = Vec::new();
    if rope != Rope::default() {
        all.push(rope);
    }
    if let Some(local) = number("rope_local_base_freq") {
        let layer_type = Some("sliding_attention".to_owned());
        all.push(Rope { layer_type, theta: Some(local), ..Rope::default() });
    }
    all
}

fn one_rope(object: &Map<String, Value>, layer_type: Option<String>) -> Rope {
    let kind = object.get("rope_type").or_else(|| object.get("type")).and_then(Value::as_str);
    let numbers = object.iter().filter(|(key, _)| *key != "rope_theta");
    Rope {
        layer_type,
        theta: object.get("rope_theta").and_then(Value::as_f64),
        scaling: kind.filter(|&k| k != "default").map(str::to_owned),
        parameters: numbers.filter_map(|(k, v)| Some((k.clone(), v.as_f64()?))).take(32).collect(),
    }
}

fn quantisation_of_config(config: &Map<String, Value>) -> Option<Quantisation> {
    let method = config.get("quant_method").and_then(Value::as_str).map(str::to_owned).or_else(|| {
        // Older bitsandbytes configs have no method.
        config.contains_key("load_in_4bit").then(|| "bitsandbytes".to_owned())
    })?;
    let mut q = Quantisation { method, ..Quantisation::default() };
    // compressed-tensors keeps the numbers of each group of layers apart; the first group speaks for the model.
    let groups = config.get("config_groups").and_then(Value::as_object);
    let weights =
        groups.and_then(|g| g.values().next()).and_then(|g| g.get("weights")).and_then(Value::as_object);
    let number = |keys: &[&str]| {
        let mut places = vec![config];
        places.extend(weights);
        places.iter().find_map(|p| keys.iter().find_map(|&k| p.get(k).and_then(whole)))
    };
    let truth = |key: &str| config.get(key).and_then(Value::as_bool) == Some(true);
    q.bits = number(&["bits", "num_bits", "w_bit"]);
    q.group = number(&["group_size", "q_group_size"]);
    if q.bits.is_none() {
        q.bits = match q.method.as_str() {
            "fp8" | "fbgemm_fp8" => Some(8),
            "mxfp4" => Some(4),
            _ if truth("load_in_4bit") => Some(4),
            _ if truth("load_in_8bit") => Some(8),
            _ => None,
        };
    }
    Some(q)
}

/// The largest of an array of integers: layers that differ are described by the widest.
fn largest(array: &MetaArray) -> Option<u64> {
    let width = match array.kind {
        MetaKind::U8 | MetaKind::I8 | MetaKind::Bool => 1,
        MetaKind::U16 | MetaKind::I16 => 2,
        MetaKind::U32 | MetaKind::I32 => 4,
        MetaKind::U64 | MetaKind::I64 => 8,
        MetaKind::F32 | MetaKind::F64 | MetaKind::Text | MetaKind::Array => return None,
    };
    let signed = matches!(array.kind, MetaKind::I8 | MetaKind::I16 | MetaKind::I32 | MetaKind::I64);
    let number = |item: &[u8]| {
        let mut wide = [0u8; 8];
        wide.iter_mut().zip(item).for_each(|(to, from)| *to = *from);
        let negative = signed && item.last().is_some_and(|b| b & 0x80 != 0);
        if negative { 0 } else { u64::from_le_bytes(wide) }
    };
    array.bytes.chunks_exact(width).map(number).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rope(theta: f64) -> Rope {
        Rope { theta: Some(theta), ..Rope::default() }
    }

    #[test]
    fn both_dialects_say_the_same() {
        let old = json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 32,
            "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8, "torch_dtype": "bfloat16",
            "rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}});
        let new = json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 32,
            "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8, "dtype": "bfloat16",
            "rope_parameters": {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0}});
        let (old, new) = (Description::from_config(&old), Description::from_config(&new));
        assert_eq!(old, new);
        assert_eq!((new.head_dim, new.kv_heads, new.dtype), (Some(128), Some(8), Some(DType::BF16)));
        assert_eq!(new.task, Some("text generation"));
        assert_eq!(new.rope[0].scaling.as_deref(), Some("llama3"));
        assert_eq!(new.rope[0].parameters, [("factor".to_owned(), 8.0)]);
        assert!(new.notes.is_empty());
    }

    #[test]
    fn nested_and_per_layer() {
        let d = Description::from_config(&json!({"model_type": "gemma3", "hidden_size": 1, "text_config": {
            "hidden_size": 2560, "num_hidden_layers": 34, "sliding_window": 1024, "rope_theta": 1e6,
            "rope_local_base_freq": 10000.0}}));
        assert_eq!((d.hidden, d.full_layers, d.sliding_layers), (Some(2560), Some(5), Some(29)));
        assert_eq!(
            d.rope,
            [rope(1e6), Rope { layer_type: Some("sliding_attention".into()), ..rope(10000.0) }]
        );
        let d = Description::from_config(&json!({"rope_parameters": {
            "full_attention": {"rope_theta": 1e6, "rope_type": "default"},
            "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"}}}));
        assert_eq!(d.rope.len(), 2);
        assert_eq!(d.rope[1].layer_type.as_deref(), Some("sliding_attention"));
    }

    #[test]
    fn defaults_by_rule() {
        let d = Description::from_config(
            &json!({"model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_inner": null}),
        );
        assert_eq!((d.intermediate, d.kv_heads, d.head_dim), (Some(3072), Some(12), Some(64)));
        let d = Description::from_config(
            &json!({"model_type": "falcon", "num_attention_heads": 71, "multi_query": true}),
        );
        assert_eq!(d.kv_heads, Some(1));
        let d = Description::from_config(
            &json!({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": false, "num_hidden_layers": 4}),
        );
        assert_eq!((d.sliding_window, d.full_layers), (None, None));
        let d = Description::from_config(
            &json!({"model_type": "deepseek_v3", "kv_lora_rank": 512, "qk_rope_head_dim": 64,
            "qk_nope_head_dim": 128, "n_routed_experts": 256, "num_experts_per_tok": 8, "n_shared_experts": 1}),
        );
        assert_eq!(d.mla, Some(Mla { kv_rank: 512, rope_dim: 64 }));
        assert_eq!(d.head_dim, Some(192));
        assert_eq!(d.experts.map(|e| (e.count, e.used, e.shared)), Some((256, Some(8), Some(1))));
    }

    #[test]
    fn quantisation() {
        for (config, expected) in [
            (json!({"quant_method": "gptq", "bits": 4, "group_size": 128}), "gptq 4 bits, group 128"),
            (json!({"quant_method": "gptq", "bits": 4, "group_size": -1}), "gptq 4 bits"),
            (json!({"quant_method": "fp8", "weight_block_size": [128, 128]}), "fp8 8 bits"),
            (json!({"load_in_4bit": true}), "bitsandbytes 4 bits"),
            (
                json!({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 32}}}}),
                "compressed-tensors 4 bits, group 32",
            ),
        ] {
            let d = Description::from_config(&json!({"quantization_config": config}));
            assert_eq!(d.quantisation.map(|q| q.summary()).as_deref(), Some(expected));
        }
    }

    #[test]
    fn hostile_values_are_left_out_and_named() {
        let d = Description::from_config(
            &json!({"model_type": 7, "num_hidden_layers": "many", "hidden_size": -1,
            "num_attention_heads": 0, "head_dim": 1.5, "vocab_size": 1e300, "max_position_embeddings": {},
            "n_embd": 12, "architectures": "x", "rope_scaling": 3, "quantization_config": [], "dtype": "\u{1b}[31m",
            "layer_types": {}, "num_key_value_heads": [], "moe_intermediate_size": 18446744073709551615u64}),
        );
        assert_eq!((d.layers, d.hidden, d.head_dim, d.vocab, d.context), (None, None, None, None, None));
        for key in ["model_type", "num_hidden_layers", "hidden_size", "head_dim", "vocab_size", "dtype"] {
            assert!(d.notes.iter().any(|n| n.contains(&format!("`{key}`"))), "{key}: {:?}", d.notes);
        }
        assert!(d.notes.iter().all(|n| !n.contains('\u{1b}')));
        for not_an_object in [json!(null), json!([]), json!("x"), json!(1)] {
            assert_eq!(Description::from_config(&not_an_object).notes.len(), 1);
        }
    }

    #[test]
    fn gguf_keys() {
        let entry = |k: &str, v| (k.to_owned(), v, Default::default());
        let text = |s: &str| MetaValue::Text(s.as_bytes().into());
        let array =
            MetaArray { kind: MetaKind::I32, count: 2, bytes: [8, 0, 0, 0, 255, 255, 255, 255].into() };
        let meta = Meta {
            entries: vec![
                entry("general.architecture", text("llama")),
                entry("general.name", text("Tiny")),
                entry("llama.block_count", MetaValue::U32(5)),
                entry("llama.embedding_length", MetaValue::U32(256)),
                entry("llama.attention.head_count", MetaValue::U32(4)),
                entry("llama.attention.head_count_kv", MetaValue::Array(array.clone())),
                entry("llama.context_length", text("long")),
                entry("llama.rope.freq_base", MetaValue::F32(1e4)),
                entry("tokenizer.ggml.tokens", MetaValue::Array(MetaArray { count: 4096, ..array })),
            ],
        };
        let d = Description::from_gguf(&meta).unwrap();
        assert_eq!((d.layers, d.heads, d.kv_heads, d.head_dim), (Some(5), Some(4), Some(8), Some(64)));
        assert_eq!((d.vocab, d.context), (Some(4096), None));
        assert_eq!(d.rope, [rope(1e4)]);
        assert!(d.notes[0].contains("`llama.context_length`"));
        assert_eq!(Description::from_gguf(&Meta::default()), None);
    }
}
