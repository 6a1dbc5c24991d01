//! What a synthetic checkpoint looks like: the sizes of known models as rows, and from such a row the tensors that
//! Hugging Face's own files of it hold, and the config.json beside them.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::format::layout::Entry;
use crate::text::bytes;
use serde_json::{Value, json};

/// The sizes of a decoder-only model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// What `--preset` calls it.
    pub name: &'static str,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Width between the MLP's matrices; of one expert where there are experts.
    pub intermediate: u64,
    /// Number of layers.
    pub layers: u64,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads.
    pub key_value_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// Rows of the embedding.
    pub vocabulary: u64,
    /// Whether the head is the embedding, and so not stored.
    pub tied: bool,
    /// Experts of a layer and how many a token sees; none for a dense model. With them the family is Qwen3-MoE, which
    /// also normalises queries and keys; without, Llama.
    pub experts: Option<(u64, u64)>,
    /// Base of the rotary embedding.
    pub rope_theta: u64,
    /// Longest context.
    pub context: u64,
}

/// Known models: Llama 3.2 1B, Llama 3.1 8B and 70B, Qwen3-30B-A3B, from their config.json.
#[rustfmt::skip]
pub const PRESETS: [Shape; 4] = [
    Shape { name: "llama-1b", hidden: 2048, intermediate: 8192, layers: 16, heads: 32, key_value_heads: 8, head_dim: 64,
            vocabulary: 128_256, tied: true, experts: None, rope_theta: 500_000, context: 131_072 },
    Shape { name: "llama-8b", hidden: 4096, intermediate: 14336, layers: 32, heads: 32, key_value_heads: 8, head_dim: 128,
            vocabulary: 128_256, tied: false, experts: None, rope_theta: 500_000, context: 131_072 },
    Shape { name: "llama-70b", hidden: 8192, intermediate: 28672, layers: 80, heads: 64, key_value_heads: 8, head_dim: 128,
            vocabulary: 128_256, tied: false, experts: None, rope_theta: 500_000, context: 131_072 },
    Shape { name: "moe", hidden: 2048, intermediate: 768, layers: 48, heads: 32, key_value_heads: 4, head_dim: 128,
            vocabulary: 151_936, tied: false, experts: Some((128, 8)), rope_theta: 1_000_000, context: 40_960 },
];

/// The widths tried, widest first, where only a size is asked for.
const WIDTHS: [u64; 8] = [8192, 4096, 2048, 1024, 512, 256, 128, 64];

/// Fewer layers than this and a narrower model is taken.
const LAYERS_WANTED: u64 = 8;

impl Shape {
    /// The preset of this name.
    pub fn preset(name: &str) -> Result<Shape> {
        PRESETS.into_iter().find(|s| s.name == name).ok_or_else(|| {
            let names: Vec<_> = PRESETS.iter().map(|s| s.name).collect();
            Error::usage(format!("there is no preset `{}`", crate::text::Shown(name)))
                .hint(format!("there are {}", names.join(", ")))
        })
    }

    /// A Llama of this width, its other sizes in the usual proportion.
    pub fn of_width(hidden: u64) -> Result<Shape> {
        if hidden == 0 || !hidden.is_multiple_of(64) || hidden > 1 << 20 {
            return Err(Error::usage(format!("`{hidden}` is no width: a multiple of 64 up to 1,048,576 is")));
        }
        let head_dim = match hidden {
            4096.. => 128,
            512.. => 64,
            _ => 32,
        };
        let head_dim = if hidden.is_multiple_of(head_dim) { head_dim } else { 64 };
        let heads = hidden / head_dim;
        let key_value_heads = if heads.is_multiple_of(4) { heads / 4 } else { heads };
        Ok(Shape {
            name: "llama",
            hidden,
            intermediate: hidden * 7 / 2,
            layers: 16,
            heads,
            key_value_heads,
            head_dim,
            vocabulary: 32_000.min(hidden * 16),
            tied: false,
            experts: None,
            rope_theta: 10_000,
            context: 4096,
        })
    }

    /// A Llama of about this size, of a width that suits it.
    pub fn of_size(size_bytes: u64, dtype: DType) -> Result<Shape> {
        let fits =
            |shape: &Shape| shape.fixed_bytes(dtype) + LAYERS_WANTED * shape.layer_bytes(dtype) <= size_bytes;
        for width in WIDTHS {
            let shape = Shape::of_width(width)?;
            if fits(&shape) || width == WIDTHS[WIDTHS.len() - 1] {
                return shape.sized(size_bytes, dtype);
            }
        }
        Err(Error::usage("no width was tried"))
    }

    /// The same model with as many layers as come nearest to `size_bytes` without passing it, and as many more rows in
    /// the vocabulary as then fit: less than one row is missing.
    pub fn sized(self, size_bytes: u64, dtype: DType) -> Result<Shape> {
        let (fixed, layer) = (self.fixed_bytes(dtype), self.layer_bytes(dtype));
        let layers = size_bytes.saturating_sub(fixed) / layer;
        if layers == 0 {
            let error = Error::usage(format!(
                "a `{}` of width {} takes at least {}, and {} was asked for",
                self.name,
                self.hidden,
                bytes(fixed + layer),
                bytes(size_bytes)
            ));
            return Err(match self.hidden {
                0..=64 => error,
                _ => error.hint("a narrower one is smaller: `--hidden`, or no preset"),
            });
        }
        if layers > 1 << 20 {
            return Err(Error::usage(format!("{} takes more than a million layers", bytes(size_bytes)))
                .hint("a wider one has fewer: `--hidden`"));
        }
        let rest = size_bytes - fixed - layers * layer;
        let row = self.hidden * item_bytes(dtype) * if self.tied { 1 } else { 2 };
        Ok(Shape { layers, vocabulary: self.vocabulary + rest / row, ..self })
    }

    /// Bytes of what is there once.
    fn fixed_bytes(&self, dtype: DType) -> u64 {
        let copies = if self.tied { 1 } else { 2 };
        (self.vocabulary * self.hidden * copies + self.hidden) * item_bytes(dtype)
    }

    /// Bytes of a layer.
    fn layer_bytes(&self, dtype: DType) -> u64 {
        let mut elements = 0;
        self.each_of_layer(0, &mut |_, shape: &[u64]| elements += shape.iter().product::<u64>());
        elements * item_bytes(dtype)
    }

    /// The tensors, in the order a model of this family keeps them.
    pub fn entries(&self, dtype: DType) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut add =
            |name: String, shape: &[u64]| entries.push(Entry { name, dtype, shape: shape.to_vec() });
        add("model.embed_tokens.weight".into(), &[self.vocabulary, self.hidden]);
        for layer in 0..self.layers {
            self.each_of_layer(layer, &mut add);
        }
        add("model.norm.weight".into(), &[self.hidden]);
        if !self.tied {
            add("lm_head.weight".into(), &[self.vocabulary, self.hidden]);
        }
        entries
    }

    fn each_of_layer(&self, layer: u64, add: &mut impl FnMut(String, &[u64])) {
        let (h, f) = (self.hidden, self.intermediate);
        let (q, kv) = (self.heads * self.head_dim, self.key_value_heads * self.head_dim);
        let prefix = format!("model.layers.{layer}");
        let mut add = |part: &str, shape: &[u64]| add(format!("{prefix}.{part}.weight"), shape);
        add("self_attn.q_proj", &[q, h]);
        add("self_attn.k_proj", &[kv, h]);
        add("self_attn.v_proj", &[kv, h]);
        add("self_attn.o_proj", &[h, q]);
        match self.experts {
            None => {
                add("mlp.gate_proj", &[f, h]);
                add("mlp.up_proj", &[f, h]);
                add("mlp.down_proj", &[h, f]);
            }
            Some((experts, _)) => {
                add("self_attn.q_norm", &[self.head_dim]);
                add("self_attn.k_norm", &[self.head_dim]);
                add("mlp.gate", &[experts, h]);
                for expert in 0..experts {
                    add(&format!("mlp.experts.{expert}.gate_proj"), &[f, h]);
                    add(&format!("mlp.experts.{expert}.up_proj"), &[f, h]);
                    add(&format!("mlp.experts.{expert}.down_proj"), &[h, f]);
                }
            }
        }
        add("input_layernorm", &[h]);
        add("post_attention_layernorm", &[h]);
    }

    /// The config.json of such a model, in the dialect of transformers 4 and 5 both.
    pub fn config(&self, dtype: DType) -> Value {
        let mut config = json!({
            "architectures": [if self.experts.is_some() { "Qwen3MoeForCausalLM" } else { "LlamaForCausalLM" }],
            "attention_bias": false,
            "bos_token_id": self.vocabulary - 2,
            "dtype": dtype.facts().torch,
            "eos_token_id": self.vocabulary - 1,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": self.context,
            "model_type": if self.experts.is_some() { "qwen3_moe" } else { "llama" },
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.key_value_heads,
            "rms_norm_eps": if self.experts.is_some() { 1e-6 } else { 1e-5 },
            "rope_theta": self.rope_theta as f64,
            "tie_word_embeddings": self.tied,
            "torch_dtype": dtype.facts().torch,
            "vocab_size": self.vocabulary,
        });
        if let Some((experts, per_token)) = self.experts {
            config["decoder_sparse_step"] = 1.into();
            config["mlp_only_layers"] = json!([]);
            config["moe_intermediate_size"] = self.intermediate.into();
            config["norm_topk_prob"] = true.into();
            config["num_experts"] = experts.into();
            config["num_experts_per_tok"] = per_token.into();
        }
        config
    }
}

/// `count` small tensors of `size_bytes` in all (a little less, so that all are alike), named as experts are: for the
/// cost of a tensor rather than of a byte. No model has just these, so no config belongs to them.
pub fn many(count: u64, size_bytes: u64, dtype: DType) -> Result<Vec<Entry>> {
    if count == 0 || count > 10_000_000 {
        return Err(Error::usage(format!("`{count}` tensors: between 1 and 10,000,000 can be made")));
    }
    let elements = size_bytes / count / item_bytes(dtype);
    if elements == 0 {
        return Err(Error::usage(format!(
            "{} is less than an element for each of {count} tensors",
            bytes(size_bytes)
        )));
    }
    let columns = if elements >= 64 { 64 } else { 1 };
    let matrix = ["gate_proj", "up_proj", "down_proj"];
    Ok((0..count)
        .map(|i| {
            let (layer, expert, part) = (i / 384, i / 3 % 128, matrix[(i % 3) as usize]);
            let name = format!("model.layers.{layer}.mlp.experts.{expert}.{part}.weight");
            Entry { name, dtype, shape: vec![elements / columns, columns] }
        })
        .collect())
}

fn item_bytes(dtype: DType) -> u64 {
    u64::from(dtype.facts().block_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameters as the models' own cards count them.
    #[test]
    fn presets_have_their_models_size() {
        for (name, tensors, parameters) in [
            ("llama-1b", 146, 1_235_814_400),
            ("llama-8b", 291, 8_030_261_248),
            ("llama-70b", 723, 70_553_706_496),
            ("moe", 18_867, 30_532_122_624),
        ] {
            let entries = Shape::preset(name).unwrap().entries(DType::BF16);
            let bytes: u64 = entries.iter().map(|e| e.size_bytes().unwrap()).sum();
            assert_eq!((entries.len(), bytes), (tensors, 2 * parameters), "{name}");
        }
    }

    #[test]
    fn sizes_are_met_within_a_row() {
        for size in [1_000_000, 12_000_000, 100_000_000, 1_000_000_000, 4_000_000_000, 16_000_000_000] {
            for dtype in [DType::BF16, DType::F32] {
                let shape = Shape::of_size(size, dtype).unwrap();
                let bytes: u64 = shape.entries(dtype).iter().map(|e| e.size_bytes().unwrap()).sum();
                assert!(bytes <= size && size - bytes < 2 * shape.hidden * 4, "{size}: {bytes} {shape:?}");
            }
        }
        for (shape, said) in [
            (Shape::of_size(1000, DType::BF16), "takes at least"),
            (Shape::preset("llama-8b").unwrap().sized(1_000_000, DType::BF16), "takes at least"),
            (Shape::of_width(100), "`100` is no width"),
            (Shape::preset("gpt"), "there is no preset `gpt`"),
        ] {
            let error = shape.unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
