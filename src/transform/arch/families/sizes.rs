//! The sizes that say how a family's tensors lie, from either side.
//!
//! Apart from `transform::config`, which describes a model to a person and forgives what it cannot read: here a size
//! decides where bytes go, so one that is missing, zero or of the wrong type is refused by name.

use super::{Dim, Family, of_config, of_gguf, places};
use crate::checkpoint::{Meta, MetaValue};
use crate::error::{Error, Result};
use crate::text::Shown;
use serde_json::Value;

/// Sizes of a model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sizes {
    /// Layers, without those that only predict further tokens.
    pub layers: u64,
    /// Layers after those, which predict further tokens.
    pub mtp_layers: u64,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Query heads.
    pub heads: u64,
    /// Key/value heads.
    pub kv_heads: u64,
    /// Elements of a head.
    pub head_dim: u64,
    /// Experts of a layer.
    pub experts: Option<u64>,
    /// Width of the compressed keys and values.
    pub kv_lora_rank: Option<u64>,
    /// Elements of a head's keys that have no position.
    pub qk_nope_head_dim: Option<u64>,
    /// Elements of a head's keys that have one.
    pub qk_rope_head_dim: Option<u64>,
    /// Elements of a head's values, where keys and values are compressed.
    pub v_head_dim: Option<u64>,
    /// The padding token.
    pub pad_id: Option<u64>,
}

impl Sizes {
    /// From a `config.json` of a known family; of a wrapper from its text part.
    ///
    /// # Errors
    /// Unsupported where the family is unknown; bad input where a size is missing or is none.
    pub fn of_config(config: &Value) -> Result<Sizes> {
        let family = of_config(config)?;
        let find = |keys: &[&str]| -> Result<Option<u64>> {
            for place in places(config) {
                for key in keys {
                    match place.get(*key) {
                        None | Some(Value::Null) => {}
                        Some(value) => return whole(value).map(Some).ok_or_else(|| not_a_size(key)),
                    }
                }
            }
            let given = |key: &&str| family.defaults.iter().find(|(name, _)| name == key);
            Ok(keys.iter().find_map(given).map(|(_, n)| *n))
        };
        let need = |keys: &[&'static str]| -> Result<u64> {
            find(keys)?.ok_or_else(|| missing(&format!("config.json has no `{}`", keys[0])))
        };
        let heads = need(&["num_attention_heads", "n_head", "n_heads"])?;
        // Written as null, there are as many as query heads, whatever the class has where nothing is written.
        let null_kv = places(config).find_map(|p| p.get("num_key_value_heads")).is_some_and(Value::is_null);
        let sizes = Sizes {
            layers: need(&["num_hidden_layers", "n_layer", "n_layers", "num_layers"])?,
            mtp_layers: find(&["num_nextn_predict_layers"])?.unwrap_or(0),
            hidden: need(&["hidden_size", "n_embd", "d_model", "dim"])?,
            heads,
            kv_heads: match find(&["num_key_value_heads", "num_kv_heads"])? {
                Some(kv) if !null_kv => kv,
                _ => heads,
            },
            head_dim: find(&["head_dim"])?.unwrap_or(0),
            experts: find(&["num_local_experts", "num_experts", "n_routed_experts"])?,
            kv_lora_rank: find(&["kv_lora_rank"])?,
            qk_nope_head_dim: find(&["qk_nope_head_dim"])?,
            qk_rope_head_dim: find(&["qk_rope_head_dim"])?,
            v_head_dim: find(&["v_head_dim"])?,
            pad_id: match places(config).find_map(|p| p.get("pad_token_id")) {
                // Written as null, a model has none; -1 is another way to say so.
                Some(value) => whole(value),
                None => find(&["pad_token_id"])?,
            },
        };
        sizes.checked(family)
    }

    /// From a GGUF's keys.
    ///
    /// # Errors
    /// Unsupported where the family is unknown, or layers differ in a size; bad input where a size is missing or is none.
    pub fn of_gguf(meta: &Meta) -> Result<Sizes> {
        let family = of_gguf(meta)?;
        let full = |key: &str| format!("{}.{key}", family.gguf);
        let find = |key: &str| -> Result<Option<u64>> {
            let key = full(key);
            match meta.get(&key) {
                None => Ok(None),
                Some(MetaValue::Array(array)) => {
                    let mut items = array.items().map(|item| item.as_u64());
                    let Some(first) = items.next() else { return Ok(None) };
                    match first {
                        Some(n) if items.all(|item| item == Some(n)) => Ok(Some(n)),
                        Some(_) => Err(Error::unsupported(format!("`{key}` differs between layers"))),
                        None => Err(not_a_size(&key)),
                    }
                }
                Some(value) => value.as_u64().map(Some).ok_or_else(|| not_a_size(&key)),
            }
        };
        let need = |key: &str| -> Result<u64> {
            find(key)?.ok_or_else(|| missing(&format!("the file has no key `{}`", full(key))))
        };
        let heads = need("attention.head_count")?;
        let latent = find("attention.kv_lora_rank")?;
        let rope = find("rope.dimension_count")?;
        // Of compressed keys and values the plain keys are the cached form; older files have only those, uncompressed.
        let key = match find("attention.key_length_mla")? {
            Some(n) => Some(n),
            None => find("attention.key_length")?,
        };
        let value = match find("attention.value_length_mla")? {
            Some(n) => Some(n),
            None => find("attention.value_length")?,
        };
        let mtp_layers = find("nextn_predict_layers")?.unwrap_or(0);
        let blocks = need("block_count")?;
        let layers = blocks.checked_sub(mtp_layers).ok_or_else(|| {
            Error::bad_input(format!(
                "`{}` is {mtp_layers}, more than the {blocks} blocks there are",
                full("nextn_predict_layers")
            ))
        })?;
        let sizes = Sizes {
            layers,
            mtp_layers,
            hidden: need("embedding_length")?,
            heads,
            kv_heads: find("attention.head_count_kv")?.unwrap_or(heads),
            head_dim: key.unwrap_or(0),
            experts: find("expert_count")?.filter(|&n| n > 0),
            kv_lora_rank: latent,
            qk_nope_head_dim: latent.and(key).and_then(|k| k.checked_sub(rope?)),
            qk_rope_head_dim: latent.and(rope),
            v_head_dim: latent.and(value),
            pad_id: meta.get("tokenizer.ggml.padding_token_id").and_then(MetaValue::as_u64),
        };
        sizes.checked(family)
    }

    fn checked(mut self, family: &Family) -> Result<Sizes> {
        for (name, n) in [
            ("layers", self.layers),
            ("width", self.hidden),
            ("heads", self.heads),
            ("key/value heads", self.kv_heads),
        ] {
            if n == 0 {
                return Err(Error::bad_input(format!("the model has no {name}: the number is zero")));
            }
        }
        let uses_heads = family
            .rows()
            .any(|row| row.dims.iter().any(|d| matches!(d, Dim::Q | Dim::Kv | Dim::Qkv | Dim::Head)));
        if self.head_dim == 0 {
            if uses_heads && !self.hidden.is_multiple_of(self.heads) {
                return Err(Error::bad_input(format!(
                    "the model is {} wide, which {} heads do not divide, and no `head_dim` is given",
                    self.hidden, self.heads
                )));
            }
            self.head_dim = self.hidden / self.heads;
        }
        Ok(self)
    }

    /// The number that `dim` stands for: `None` for any, and where the model has no such size.
    ///
    /// # Errors
    /// Bad input where a product overflows.
    pub fn dim(&self, dim: Dim) -> Result<Option<u64>> {
        let times = |a: u64, b: Option<u64>| -> Result<Option<u64>> {
            let Some(b) = b else { return Ok(None) };
            a.checked_mul(b).map(Some).ok_or_else(|| Error::bad_input(format!("{a} heads of {b} overflow")))
        };
        let plus = |a: Option<u64>, b: Option<u64>| a.zip(b).and_then(|(a, b)| a.checked_add(b));
        let head = Some(self.head_dim);
        Ok(match dim {
            Dim::Any => None,
            Dim::Hidden => Some(self.hidden),
            Dim::Q => times(self.heads, head)?,
            Dim::Kv => times(self.kv_heads, head)?,
            Dim::Qkv => {
                let heads = self.kv_heads.checked_mul(2).and_then(|n| n.checked_add(self.heads));
                times(heads.unwrap_or(u64::MAX), head)?
            }
            Dim::Head => head,
            Dim::Heads => Some(self.heads),
            Dim::Experts => self.experts,
            Dim::Latent => self.kv_lora_rank,
            Dim::LatentRope => plus(self.kv_lora_rank, self.qk_rope_head_dim),
            Dim::LatentQ => times(self.heads, plus(self.qk_nope_head_dim, self.qk_rope_head_dim))?,
            Dim::LatentV => times(self.heads, self.v_head_dim)?,
        })
    }
}

fn missing(what: &str) -> Error {
    Error::bad_input(what.to_owned()).hint("without it nobody can say how the tensors lie")
}

fn not_a_size(key: &str) -> Error {
    Error::bad_input(format!("`{}` is not a count", Shown(key)))
}

/// A count: an integer, or a float that is one.
fn whole(value: &Value) -> Option<u64> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0; // 2^53
    value.as_u64().or_else(|| {
        let f = value.as_f64()?;
        (f.fract() == 0.0 && (0.0..=EXACT_MAX).contains(&f)).then_some(f as u64)
    })
}
