//! What a config says of quantised weights, scheme by scheme.

use super::{mlx, module};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::transform::packing::layouts;
use crate::transform::recipe::Packed;
use crate::transform::scheme::{CHANNEL, Codes, Config, Scales, Settled};
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeSet;

/// GPTQ's list of the modules that are quantised, where a block holds others; without it transformers cannot open that.
pub(super) const GPTQ_MODULES: &str = "modules_in_block_to_quantize";

/// The `quantization_config`. `ignored`: modules that are as they were; `packed`: the matrices that are quantised.
pub(super) fn of(settled: &Settled, ignored: &[String], packed: &[Packed]) -> Json {
    match settled.scheme.config {
        Config::Compressed(format) => compressed(settled, format, ignored),
        Config::Gptq => gptq(settled, ignored, packed),
        Config::Awq => json!({
            "quant_method": "awq",
            "bits": settled.scheme.bits,
            "group_size": settled.group,
            "zero_point": true,
            "version": "gemm",
            // Names are looked for inside names; the head is left alone without being named.
            "modules_to_not_convert": without_head(ignored),
        }),
        Config::Mlx => {
            let mut said = Map::new();
            said.insert("group_size".into(), settled.group.into());
            said.insert("bits".into(), settled.scheme.bits.into());
            said.insert("mode".into(), "affine".into());
            said.extend(ignored.iter().map(|name| (name.clone(), false.into())));
            // What differs from the rest.
            said.extend(packed.iter().filter(|p| p.packing.bits != settled.scheme.bits).map(|p| {
                let entry = mlx::entry(p.packing.bits, p.packing.group_columns);
                (module(&p.matrix.name).to_owned(), entry)
            }));
            Json::Object(said)
        }
        Config::TorchAo => json!({
            "quant_method": "torchao",
            "quant_type": { "default": torchao(settled) },
            "modules_to_not_convert": ignored,
            "include_input_output_embeddings": false,
            "untie_embedding_weights": false,
        }),
        Config::BitsAndBytes => json!({
            "quant_method": "bitsandbytes",
            "_load_in_4bit": true,
            "_load_in_8bit": false,
            "load_in_4bit": true,
            "load_in_8bit": false,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": false,
            "bnb_4bit_compute_dtype": settled.dtype.facts().torch.unwrap_or("bfloat16"),
            "bnb_4bit_quant_storage": "uint8",
            "llm_int8_enable_fp32_cpu_offload": false,
            "llm_int8_has_fp16_weight": false,
            "llm_int8_skip_modules": ignored,
            "llm_int8_threshold": 6.0,
        }),
    }
}

/// The ignored modules that readers do not leave alone by themselves; null where there are none.
fn without_head(ignored: &[String]) -> Json {
    let names: Vec<&str> = ignored.iter().map(String::as_str).filter(|n| *n != "lm_head").collect();
    if names.is_empty() { Json::Null } else { names.into() }
}

/// torchao's own name for the scheme, as it dumps it.
fn torchao(settled: &Settled) -> Json {
    if settled.layout == &layouts::TORCHAO_INT4 {
        return json!({
            "_type": "Int4WeightOnlyConfig",
            "_version": 2,
            "_data": {
                "group_size": settled.group,
                "set_inductor_config": true,
                "int4_packing_format": { "_type": "Int4PackingFormat", "_data": "PLAIN" },
                "int4_choose_qparams_algorithm": { "_type": "Int4ChooseQParamsAlgorithm", "_data": "TINYGEMM" },
            },
        });
    }
    let granularity = match settled.group {
        CHANNEL => json!({ "_type": "PerAxis", "_version": 1, "_data": { "axis": 0 } }),
        group => json!({ "_type": "PerGroup", "_version": 1, "_data": { "group_size": group } }),
    };
    json!({
        "_type": "IntxWeightOnlyConfig",
        "_version": 2,
        "_data": {
            "weight_dtype": { "_type": "torch.dtype", "_data": "int4" },
            "granularity": granularity,
            "mapping_type": {
                "_type": "MappingType",
                "_data": if settled.symmetric { "SYMMETRIC" } else { "ASYMMETRIC" },
            },
            "scale_dtype": null,
            "intx_packing_format": { "_type": "IntxPackingFormat", "_data": "UNPACKED_TO_INT8" },
            "intx_choose_qparams_algorithm": { "_type": "IntxChooseQParamsAlgorithm", "_data": "AFFINE" },
        },
    })
}

fn compressed(settled: &Settled, format: &str, ignored: &[String]) -> Json {
    let block = settled.scheme.group_rows > 1;
    let is_grouped = !block && settled.group != CHANNEL;
    let strategy = match settled.group {
        _ if settled.scheme.scales == Scales::Eighth => "tensor_group",
        _ if block => "block",
        CHANNEL => "channel",
        _ => "group",
    };
    let is_float = matches!(settled.scheme.codes, Codes::Float(_) | Codes::E2M1);
    let mut weights = json!({
        "num_bits": settled.scheme.bits,
        "type": if is_float { "float" } else { "int" },
        "symmetric": settled.symmetric,
        "strategy": strategy,
        "group_size": if is_grouped { Json::from(settled.group) } else { Json::Null },
        "dynamic": false,
        "actorder": null,
        "block_structure": if block { json!([settled.scheme.group_rows, settled.group]) } else { Json::Null },
        "observer": "minmax",
        "observer_kwargs": {},
    });
    let scale_dtype = match settled.scheme.scales {
        Scales::Exponent => Some("torch.uint8"),
        Scales::Eighth => Some("torch.float8_e4m3fn"),
        _ => None,
    };
    if let (Some(dtype), Some(weights)) = (scale_dtype, weights.as_object_mut()) {
        weights.insert("scale_dtype".into(), dtype.into());
    }
    // Engines compute in the same eight bits: activations are quantised as they come.
    let activations = match settled.scheme.codes {
        Codes::Float(DType::F8E4M3) => json!({
            "num_bits": 8,
            "type": "float",
            "symmetric": true,
            "strategy": if block { "group" } else { "token" },
            "group_size": if block { Json::from(settled.group) } else { Json::Null },
            "dynamic": true,
            "actorder": null,
            "block_structure": null,
            "observer": null,
            "observer_kwargs": {},
        }),
        _ => Json::Null,
    };
    json!({
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "global_compression_ratio": null,
        "kv_cache_scheme": null,
        "ignore": ignored,
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "format": format,
                "weights": weights,
                "input_activations": activations,
                "output_activations": null,
            },
        },
    })
}

fn gptq(settled: &Settled, ignored: &[String], packed: &[Packed]) -> Json {
    let version = if settled.layout == &layouts::GPTQ_V2 { "gptq_v2" } else { "gptq" };
    let mut said = json!({
        "quant_method": "gptq",
        "bits": settled.scheme.bits,
        "group_size": if settled.group == CHANNEL { Json::from(-1) } else { Json::from(settled.group) },
        "sym": settled.symmetric,
        "desc_act": false,
        "damp_percent": 0.01,
        "true_sequential": true,
        "lm_head": !ignored.iter().any(|m| m == "lm_head"),
        "checkpoint_format": version,
        "format": version,
        "pack_dtype": "int32",
        "static_groups": false,
    });
    // What stays inside a block must be said; whatever lies outside is left alone.
    let inside = ignored.iter().filter(|m| m.split('.').any(|s| s.bytes().all(|b| b.is_ascii_digit())));
    let dynamic: Map<String, Json> = inside
        .map(|module| {
            let pattern = match module.strip_prefix("re:") {
                Some(pattern) => format!("-:{pattern}"),
                None => format!("-:^{}$", module.replace('.', "\\.")),
            };
            (pattern, json!({}))
        })
        .collect();
    if !dynamic.is_empty()
        && let Some(said) = said.as_object_mut()
    {
        said.insert("dynamic".into(), Json::Object(dynamic));
        let modules = gptq_modules(packed, ignored);
        said.extend(modules.map(|modules| (GPTQ_MODULES.to_owned(), modules)));
    }
    said
}

/// A module's name within its block.
fn within_block(module: &str) -> Option<&str> {
    let (at, _) = module.match_indices('.').find(|&(at, _)| {
        let rest = &module[at + 1..];
        let number = rest.split('.').next().unwrap_or_default();
        !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
    })?;
    module[at + 1..].split_once('.').map(|(_, rest)| rest)
}

/// GPTQ's modules that are quantised, as transformers wants them listed: by their names within a block. `None` where that cannot
/// be said, because layers differ.
fn gptq_modules(packed: &[Packed], ignored: &[String]) -> Option<Json> {
    let names = packed.iter().map(|p| module(&p.matrix.name));
    let modules: BTreeSet<&str> = names.filter_map(within_block).collect();
    let differ = ignored.iter().filter_map(|m| within_block(m)).any(|m| modules.contains(m));
    (!differ).then(|| modules.into_iter().map(|m| json!([m])).collect())
}

/// Puts it into a config, in place of what was there.
pub(in crate::convert) fn insert(config: &mut Json, said: &Json) {
    let Some(config) = config.as_object_mut() else { return };
    for key in ["compression_config", "quantization"] {
        config.shift_remove(key);
    }
    // MLX's own readers look under another name.
    if said.get("mode").is_some() {
        config.insert("quantization".into(), said.clone());
    }
    config.insert("quantization_config".into(), said.clone());
    if let Some(text) = config.get_mut("text_config").and_then(Json::as_object_mut) {
        text.shift_remove("quantization_config");
    }
}

/// As a file.
pub(super) fn text(config: &Json) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(config)
        .map_err(|e| Error::bug(format!("a config cannot be written: {e}")))?;
    text.push(b'\n');
    Ok(text)
}
