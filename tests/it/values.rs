//! What tensors mean: which belong together, which are no value, which are refused and in what words.

use hoist::ErrorKind;
use hoist::checkpoint::{Checkpoint, Container, Extent, FileId, FileRef, Span, Tensor};
use hoist::dtype::DType;
use hoist::transform::recipe::{Source, Value};
use hoist::transform::values::{Values, raw, values};
use serde_json::json;

type Row<'a> = (&'a str, DType, &'a [u64]);

fn table(container: Container, rows: &[Row]) -> Checkpoint {
    let mut table = Checkpoint::default();
    let mut offset_bytes = 0;
    for &(name, dtype, shape) in rows {
        let size_bytes = dtype.size_bytes(shape.iter().product()).unwrap();
        let at = Extent::plain(Span { file: FileId(0), offset_bytes, size_bytes });
        offset_bytes += size_bytes;
        table.tensors.push(Tensor { name: name.into(), dtype, shape: shape.to_vec(), at });
    }
    table.files.push(FileRef { name: "model".into(), size_bytes: offset_bytes, container });
    table
}

fn of(rows: &[Row], config: Option<serde_json::Value>) -> hoist::Result<Values> {
    values(&table(Container::Safetensors, rows), config.as_ref())
}

/// `name dtype shape source`, one a line; what is left out last.
fn said(values: &Values) -> String {
    let mut lines: Vec<String> = values
        .values
        .iter()
        .map(|Value { name, dtype, shape, source }| {
            let source = match source {
                Source::Tensor(i) => format!("tensor {i}"),
                Source::Scaled { codes, scales, block_rows, block_columns } => {
                    format!("{codes} by {scales} in {block_rows}×{block_columns}")
                }
                Source::Mxfp4 { blocks, scales } => format!("mxfp4 {blocks} by {scales}"),
                Source::Joined(tensors) => format!("joined {tensors:?}"),
                Source::Packed(packed) => format!("packed {}", packed.packing.layout.name),
                Source::Made(_) => "made".into(),
            };
            format!("{name} {dtype} {shape:?} {source}")
        })
        .collect();
    lines.extend(values.left_out.iter().map(|l| format!("- {} ({})", l.name, l.why)));
    lines.join("\n")
}

const F8: DType = DType::F8E4M3;
const F32: DType = DType::F32;
const BF16: DType = DType::BF16;
const U8: DType = DType::U8;

#[test]
fn codes_and_scales_are_one_value() {
    let fp8 = || {
        Some(
            json!({"torch_dtype": "bfloat16", "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}),
        )
    };
    let odd = || Some(json!({"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 32]}}));
    let nested = || {
        Some(
            json!({"text_config": {"dtype": "float16", "quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 32]}}}),
        )
    };
    let grouped = || {
        Some(
            json!({"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"group_size": 32}}}}}),
        )
    };
    let structured = || {
        Some(
            json!({"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"block_structure": [64, 32], "group_size": null}}}}}),
        )
    };
    let rows: Vec<(&str, Vec<Row>, Option<serde_json::Value>, &str)> = vec![
        (
            "plain tensors",
            vec![
                ("a.weight", BF16, &[2, 3]),
                ("logit_scale", F32, &[]),
                ("a.k_scale", F32, &[1]),
                ("n", DType::I64, &[]),
            ],
            None,
            "a.weight bf16 [2, 3] tensor 0\nlogit_scale f32 [] tensor 1\na.k_scale f32 [1] tensor 2\nn i64 [] tensor 3",
        ),
        (
            "blocks of 128",
            vec![("a.weight_scale_inv", F32, &[2, 3]), ("a.weight", F8, &[200, 300]), ("b", BF16, &[4])],
            fp8(),
            "a.weight bf16 [200, 300] 1 by 0 in 128×128\nb bf16 [4] tensor 2",
        ),
        (
            "blocks of 128 without a config",
            vec![("a.weight", F8, &[200, 300]), ("a.weight_scale_inv", F32, &[2, 3])],
            None,
            "a.weight bf16 [200, 300] 0 by 1 in 128×128",
        ),
        (
            "the config's blocks",
            vec![("a.weight", F8, &[128, 64]), ("a.weight_scale_inv", F32, &[2, 2])],
            odd(),
            "a.weight bf16 [128, 64] 0 by 1 in 64×32",
        ),
        (
            "a nested config",
            vec![("a.weight", F8, &[128, 64]), ("a.weight_scale_inv", F32, &[2, 2])],
            nested(),
            "a.weight f16 [128, 64] 0 by 1 in 64×32",
        ),
        (
            "groups of columns",
            vec![("a.weight", F8, &[4, 64]), ("a.weight_scale", BF16, &[4, 2])],
            grouped(),
            "a.weight bf16 [4, 64] 0 by 1 in 1×32",
        ),
        (
            "compressed-tensors' blocks",
            vec![("a.weight", F8, &[128, 64]), ("a.weight_scale", BF16, &[2, 2])],
            structured(),
            "a.weight bf16 [128, 64] 0 by 1 in 64×32",
        ),
        (
            "one scale for all",
            vec![
                ("a.weight", F8, &[4, 6]),
                ("a.weight_scale", F32, &[]),
                ("b.weight", F8, &[4, 6]),
                ("b.weight_scale", F32, &[1]),
                ("c.weight", F8, &[4, 6]),
                ("c.weight_scale", F32, &[1, 1]),
                ("a.input_scale", F32, &[]),
                ("attn.k_scale", F32, &[1]),
            ],
            None,
            "a.weight bf16 [4, 6] 0 by 1 in 4×6\nb.weight bf16 [4, 6] 2 by 3 in 4×6\nc.weight bf16 [4, 6] 4 by 5 in 4×6\n- a.input_scale (activation scale)\n- attn.k_scale (activation scale)",
        ),
        (
            "one scale a row",
            vec![
                ("a.weight", F8, &[4, 6]),
                ("a.weight_scale", DType::F16, &[4]),
                ("b.weight", DType::F8E5M2, &[4, 6]),
                ("b.weight_scale", F32, &[4, 1]),
            ],
            None,
            "a.weight f16 [4, 6] 0 by 1 in 1×6\nb.weight bf16 [4, 6] 2 by 3 in 1×6",
        ),
        (
            "stacked experts",
            vec![
                ("e.gate_up_proj", F8, &[3, 256, 128]),
                ("e.gate_up_proj_scale_inv", F32, &[3, 2, 1]),
                ("e.down_proj", F8, &[3, 4, 6]),
                ("e.down_proj_scale", BF16, &[3, 1, 6]),
                ("e.up.weight", F8, &[3, 4, 6]),
                ("e.up.weight_scale", BF16, &[3]),
            ],
            None,
            "e.gate_up_proj bf16 [3, 256, 128] 0 by 1 in 128×128\ne.down_proj bf16 [3, 4, 6] 2 by 3 in 4×1\ne.up.weight bf16 [3, 4, 6] 4 by 5 in 4×6",
        ),
        (
            "Mistral's and ComfyUI's names",
            vec![
                ("a.weight", F8, &[4, 6]),
                ("a.qscale_weight", BF16, &[]),
                ("a.qscale_act", BF16, &[]),
                ("b.weight", F8, &[4, 6]),
                ("b.scale_weight", F32, &[]),
                ("b.scale_input", F32, &[]),
                ("model.scaled_fp8", F8, &[0]),
            ],
            None,
            "a.weight bf16 [4, 6] 0 by 1 in 4×6\nb.weight bf16 [4, 6] 3 by 4 in 4×6\n- a.qscale_act (activation scale)\n- b.scale_input (activation scale)\n- model.scaled_fp8 (mark of a scheme)",
        ),
        (
            "gpt-oss",
            vec![
                ("m.experts.down_proj_bias", BF16, &[2, 64]),
                ("m.experts.down_proj_blocks", U8, &[2, 64, 3, 16]),
                ("m.experts.down_proj_scales", U8, &[2, 64, 3]),
            ],
            Some(json!({"quantization_config": {"quant_method": "mxfp4"}})),
            "m.experts.down_proj_bias bf16 [2, 64] tensor 0\nm.experts.down_proj bf16 [2, 64, 96] mxfp4 1 by 2",
        ),
        (
            "microscaling of compressed-tensors",
            vec![("a.weight_scale", U8, &[8, 2]), ("a.weight_packed", U8, &[8, 32])],
            None,
            "a.weight bf16 [8, 64] mxfp4 1 by 0",
        ),
        (
            "floats of eight bits that are numbers",
            vec![("a.weight", F8, &[4, 6]), ("x_scale", F32, &[])],
            Some(json!({"torch_dtype": "bfloat16"})),
            "a.weight f8_e4m3 [4, 6] tensor 0\nx_scale f32 [] tensor 1",
        ),
        (
            "no rows and no columns",
            vec![
                ("a.weight", F8, &[0, 6]),
                ("a.weight_scale", F32, &[0, 1]),
                ("b.weight", F8, &[6, 0]),
                ("b.weight_scale", F32, &[6, 0]),
            ],
            None,
            "a.weight bf16 [0, 6] 0 by 1 in 1×6\nb.weight bf16 [6, 0] 2 by 3 in 1×1",
        ),
    ];
    for (name, tensors, config, expected) in rows {
        let found = of(&tensors, config).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(said(&found), expected, "{name}");
        assert!(found.notes.is_empty(), "{name}: {:?}", found.notes);
        assert_eq!(raw(&table(Container::Torch, &tensors)).len(), tensors.len(), "{name}");
    }
}

#[test]
fn a_stale_config_is_noted() {
    let config = Some(json!({"quantization_config": {"quant_method": "gptq\u{1b}", "bits": 4}}));
    let found = of(&[("a.weight", BF16, &[2, 3])], config).unwrap();
    assert_eq!(said(&found), "a.weight bf16 [2, 3] tensor 0");
    assert!(found.notes[0].contains("`gptq\\u{1b}`"), "{:?}", found.notes);
}

#[test]
fn what_is_incomplete_or_unread_is_refused_by_name() {
    let bad = ErrorKind::BadInput;
    let unread = ErrorKind::Unsupported;
    let fp8 = json!({"quantization_config": {"quant_method": "fp8"}});
    let rows: Vec<(&str, Vec<Row>, Option<&serde_json::Value>, ErrorKind, &str)> = vec![
        (
            "no codes",
            vec![("a.weight_scale_inv", F32, &[1, 1])],
            None,
            bad,
            "tensor `a.weight_scale_inv` is the scale of `a.weight`, which is not there",
        ),
        (
            "no codes, per tensor",
            vec![("a.weight_scale", F32, &[])],
            None,
            bad,
            "tensor `a.weight_scale` is the scale of `a.weight`, which is not there",
        ),
        (
            "no scale beside others",
            vec![("a.weight", F8, &[2, 2]), ("b.weight", F8, &[2, 2]), ("b.weight_scale", F32, &[])],
            None,
            bad,
            "tensor `a.weight` holds codes of `f8_e4m3` and its scale is not there: `a.weight_scale_inv` or `a.weight_scale`",
        ),
        (
            "no scale at all",
            vec![("a.weight", F8, &[2, 2])],
            Some(&fp8),
            bad,
            "tensor `a.weight` holds codes",
        ),
        (
            "two scales",
            vec![("a.weight", F8, &[2, 2]), ("a.weight_scale", F32, &[]), ("a.weight_scale_inv", F32, &[])],
            None,
            bad,
            "tensor `a.weight` has more than one scale",
        ),
        (
            "a scale for a float",
            vec![("a.weight", BF16, &[2, 2]), ("a.weight_scale", F32, &[])],
            None,
            bad,
            "tensor `a.weight` is `bf16`, which needs no scale, and has one: `a.weight_scale`",
        ),
        (
            "shapes",
            vec![("a.weight", F8, &[200, 300]), ("a.weight_scale_inv", F32, &[3, 2])],
            None,
            bad,
            "tensor `a.weight` has shape [200, 300], to which its scale `a.weight_scale_inv` of shape [3, 2] does not fit",
        ),
        (
            "other experts",
            vec![("a.weight", F8, &[2, 4, 4]), ("a.weight_scale", F32, &[3, 1, 1])],
            None,
            bad,
            "does not fit",
        ),
        (
            "a vector of codes",
            vec![("a.weight", F8, &[4]), ("a.weight_scale", F32, &[])],
            None,
            bad,
            "does not fit",
        ),
        (
            "more dimensions",
            vec![("a.weight", F8, &[4, 4]), ("a.weight_scale", F32, &[1, 1, 1])],
            None,
            bad,
            "does not fit",
        ),
        (
            "scales of powers",
            vec![("a.weight", F8, &[4, 4]), ("a.weight_scale_inv", DType::F8E8M0, &[1, 1])],
            None,
            unread,
            "tensor `a.weight_scale_inv` holds scales of `f8_e8m0`",
        ),
        (
            "blocks alone",
            vec![("x_blocks", U8, &[2, 2, 16])],
            None,
            bad,
            "tensor `x_blocks` holds codes of `u8` and its scale is not there: `x_scales`",
        ),
        (
            "scales alone",
            vec![("x_scales", U8, &[2, 2])],
            None,
            bad,
            "tensor `x_scales` is the scale of `x_blocks`, which is not there",
        ),
        (
            "blocks' shapes",
            vec![("x_blocks", U8, &[2, 2, 16]), ("x_scales", U8, &[2, 3])],
            None,
            bad,
            "tensor `x_blocks` has shape [2, 2, 16] of `u8` and its scales `x_scales` have [2, 3] of `u8`",
        ),
        (
            "blocks of other sizes",
            vec![("x_blocks", U8, &[2, 2, 8]), ("x_scales", U8, &[2, 2])],
            None,
            bad,
            "[.., groups, 16]",
        ),
        ("one block", vec![("x_blocks", U8, &[16]), ("x_scales", U8, &[])], None, bad, "[.., groups, 16]"),
        (
            "NVFP4 of ModelOpt",
            vec![("a.weight_scale", F8, &[8, 1]), ("a.weight", U8, &[8, 8]), ("a.weight_scale_2", F32, &[])],
            None,
            unread,
            "tensor `a.weight` is quantised as NVFP4 of ModelOpt,",
        ),
        ("names are shown safely", vec![("a\u{1b}.weight_scale", F32, &[])], None, bad, "`a\\u{1b}.weight`"),
    ];
    for (name, tensors, config, kind, message) in rows {
        let error = match of(&tensors, config.cloned()) {
            Ok(found) => panic!("{name}: {}", said(&found)),
            Err(error) => error,
        };
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert!(error.to_string().contains(message), "{name}: {error}");
    }
}

#[test]
fn blocks_of_a_gguf_are_values() {
    let rows: &[Row] = &[
        ("blk.0.ffn_up.weight", DType::Q4K, &[2, 256]),
        ("blk.0.ffn_down.weight", DType::MXFP4, &[2, 64]),
        ("blk.0.ffn_gate.weight", F32, &[2, 64]),
        ("blk.0.ffn_gate.scale", F32, &[1]),
        ("a.weight_scale", F32, &[1]),
    ];
    let found = values(&table(Container::Gguf, rows), None).unwrap();
    assert_eq!(found.values.len(), rows.len());
    assert!(found.values.iter().enumerate().all(|(i, v)| v.source == Source::Tensor(i)));
    let scaled: &[Row] =
        &[("blk.0.ffn_up.weight", DType::NVFP4, &[2, 64]), ("blk.0.ffn_up.scale", F32, &[1])];
    let error = values(&table(Container::Gguf, scaled), None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("`blk.0.ffn_up.scale`"), "{error}");
}

#[test]
fn configs_of_strangers_do_no_harm() {
    let tensors: &[Row] = &[("a.weight", F8, &[200, 300]), ("a.weight_scale_inv", F32, &[2, 3])];
    for block in [
        json!([0, 0]),
        json!([0, 128]),
        json!([-1, 128]),
        json!([1.5, 128]),
        json!([128]),
        json!([128, 128, 128]),
        json!("128x128"),
        json!({"a": 1}),
        json!(null),
        json!([u64::MAX, u64::MAX]),
        json!(["128", "128"]),
    ] {
        for place in [
            json!({"quantization_config": {"quant_method": "fp8", "weight_block_size": block}}),
            json!({"quantization_config": {"config_groups": {"g": {"weights": {"block_structure": block, "group_size": block}}}}}),
            json!({"quantization_config": block}),
            json!({"text_config": block, "quantization_config": {"config_groups": block}}),
            block.clone(),
        ] {
            let found = of(tensors, Some(place)).unwrap();
            assert_eq!(said(&found), "a.weight bf16 [200, 300] 0 by 1 in 128×128");
        }
    }
}
