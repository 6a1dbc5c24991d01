//! candle-transformers' models behind one face: the same files, the same token ids, the logits of the last position.
//!
//! They read a `config.json` of their own dialect (no `rope_parameters`, every window a number), so [`dialect`] turns
//! transformers' into it. What they cannot say at all is no row here.

pub mod ours;

use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Whatever went wrong; nobody handles it.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A model that takes ids `[1, n]` behind `offset` ids it has seen, and gives the last one's logits.
type Forward = Box<dyn FnMut(&Tensor, usize) -> candle_core::Result<Tensor>>;

/// A model of candle-transformers.
pub struct Rival {
    forward: Forward,
    /// Rows of its embedding.
    pub vocabulary: u32,
}

/// A family: its `model_type` and how its model is made of a config and weights.
type Row = (&'static str, fn(&Value, VarBuilder<'static>) -> Result<Forward>);

/// A row whose model is made and asked as nearly all are.
macro_rules! usual {
    ($model:ty $(, $first:expr)?) => {
        |config, weights| {
            let mut model = <$model>::new($($first,)? &parse(config)?, weights)?;
            Ok(Box::new(move |ids, offset| {
                if offset == 0 {
                    model.clear_kv_cache();
                }
                model.forward(ids, offset)
            }))
        }
    };
}

/// The families that both know.
const ROWS: &[Row] = &[
    ("llama", |config, weights| {
        let config = parse::<models::llama::LlamaConfig>(config)?.into_config(false);
        let model = models::llama::Llama::load(weights.clone(), &config)?;
        let empty = models::llama::Cache::new(true, weights.dtype(), &config, weights.device())?;
        let mut cache = empty.clone();
        Ok(Box::new(move |ids, offset| {
            if offset == 0 {
                cache = empty.clone();
            }
            model.forward(ids, offset, &mut cache)
        }))
    }),
    // Its cache cannot be emptied: made anew for each sequence.
    ("mixtral", |config, weights| {
        let config = parse::<models::mixtral::Config>(config)?;
        let mut model = models::mixtral::Model::new(&config, weights.clone())?;
        Ok(Box::new(move |ids, offset| {
            if offset == 0 {
                model = models::mixtral::Model::new(&config, weights.clone())?;
            }
            model.forward(ids, offset)
        }))
    }),
    ("mistral", usual!(models::mistral::Model)),
    ("qwen2", usual!(models::qwen2::ModelForCausalLM)),
    ("qwen3", usual!(models::qwen3::ModelForCausalLM)),
    ("qwen3_moe", usual!(models::qwen3_moe::ModelForCausalLM)),
    ("gemma2", usual!(models::gemma2::Model, false)),
    ("phi3", usual!(models::phi3::Model)),
    ("starcoder2", usual!(models::starcoder2::Model)),
    ("olmo2", usual!(models::olmo2::Model)),
    ("smollm3", usual!(models::smol::smollm3::ModelForCausalLM)),
];

fn parse<T: DeserializeOwned>(config: &Value) -> Result<T> {
    Ok(serde_json::from_value(config.clone())?)
}

/// A `config.json` of transformers as candle's structs want it.
pub fn dialect(config: &Value) -> Value {
    let mut config = config.clone();
    let rope = config["rope_parameters"].take();
    let mut set = |key: &str, value: Value| config[key] = value;
    if let Some(theta) = rope.get("rope_theta") {
        set("rope_theta", theta.clone());
    }
    if rope.get("rope_type").is_some_and(|kind| kind != "default") {
        set("rope_scaling", rope.clone());
    }
    if let Some(partial) = rope.get("partial_rotary_factor") {
        set("partial_rotary_factor", partial.clone());
    }
    // Fields that are optional to transformers and not to candle.
    let wide = config["max_position_embeddings"].clone();
    let defaults = [
        ("use_flash_attn", json!(false)),
        ("use_sliding_window", json!(false)),
        ("max_window_layers", json!(0)),
        ("num_experts", config["num_local_experts"].clone()),
    ];
    for (key, value) in defaults {
        if config.get(key).is_none_or(Value::is_null) {
            config[key] = value;
        }
    }
    if config["sliding_window"].is_null() && ["qwen2", "mixtral"].iter().any(|m| config["model_type"] == *m) {
        config["sliding_window"] = wide;
    }
    // Without `pad_token_id: null` and its like, which some take for a number.
    if let Some(fields) = config.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    config
}

/// The safetensors files of a directory, in order.
fn weight_files(model: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(model)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

impl Rival {
    /// The model of a directory, by candle's own reader. `config` is in candle's dialect.
    pub fn load(model: &Path, config: &Value, dtype: DType) -> Result<Rival> {
        let kind = config["model_type"].as_str().unwrap_or("?");
        let (_, make) = ROWS.iter().find(|(name, _)| *name == kind).ok_or(format!("no row for `{kind}`"))?;
        // SAFETY: the files are the benchmark's own, and nobody writes to them while they are mapped.
        let weights =
            unsafe { VarBuilder::from_mmaped_safetensors(&weight_files(model)?, dtype, &Device::Cpu)? };
        let vocabulary = config["vocab_size"].as_u64().ok_or("no vocab_size")?;
        Ok(Rival { forward: make(config, weights)?, vocabulary: u32::try_from(vocabulary)? })
    }

    /// Logits of the last of `ids`, which stand behind `offset` that it has seen; 0 begins anew.
    pub fn last_logits(&mut self, ids: &[u32], offset: usize) -> Result<Vec<f32>> {
        let ids = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
        let logits = (self.forward)(&ids, offset)?.to_dtype(DType::F32)?;
        let size = logits.dim(D::Minus1)?;
        Ok(logits.flatten_all()?.narrow(0, 0, size)?.to_vec1()?)
    }
}

/// Token ids that are the same everywhere.
pub fn ids(count: usize, vocabulary: u32) -> Vec<u32> {
    (0..count as u64).map(|i| ((i * 7919 + 13) % u64::from(vocabulary.max(1))) as u32).collect()
}

/// The place of the largest.
pub fn greedy(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).reduce(|a, b| if logits[b] > logits[a] { b } else { a });
    best.unwrap_or(0) as u32
}
