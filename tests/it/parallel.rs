//! The tensor-parallel cut, held against the real names of each family in `testdata/names/`.

use crate::naive::testdata;
use hoist::checkpoint::{Meta, MetaValue};
use hoist::dtype::DType;
use hoist::transform::arch::parallel::{Override, Rank, Slice, slice};
use hoist::transform::arch::{Cut, Group, find, group, rows};
use hoist::transform::config::Description;
use std::collections::BTreeMap;

/// One list of `testdata/names/`.
pub struct Family {
    pub file: String,
    pub hf: Vec<(String, DType, Vec<u64>)>,
    pub gguf: Vec<(String, DType, Vec<u64>)>,
    pub hf_description: Description,
    pub gguf_description: Description,
}

pub fn families() -> Vec<Family> {
    let mut paths: Vec<_> =
        std::fs::read_dir(testdata("names")).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths
        .iter()
        .map(|p| read(p.file_stem().unwrap().to_str().unwrap(), &std::fs::read_to_string(p).unwrap()))
        .collect()
}

fn read(file: &str, text: &str) -> Family {
    let mut sections: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut section = "";
    for line in text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        match line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            Some(name) => section = name,
            None => sections.entry(section).or_default().push(line),
        }
    }
    let tensors = |section: &str| {
        let lines = sections.get(section).into_iter().flatten();
        lines
            .map(|line| {
                let words: Vec<_> = line.split(' ').collect();
                let shape =
                    words[2].split('x').filter(|d| !d.is_empty()).map(|d| d.parse().unwrap()).collect();
                (words[0].to_owned(), DType::from_user(words[1]).unwrap(), shape)
            })
            .collect()
    };
    let (hf, gguf) = (tensors("hf"), tensors("gguf"));
    if let Some(config) = sections.get("config") {
        let d = Description::from_config(&serde_json::from_str(config[0]).unwrap());
        assert_eq!(d.notes, [""; 0], "{file}");
        return Family { file: file.into(), hf, gguf, hf_description: d.clone(), gguf_description: d };
    }
    let mut meta = Meta::default();
    for line in &sections["keys"] {
        let (key, value) = line.split_once(' ').unwrap();
        let value = value.parse().map_or_else(|_| MetaValue::Text(value.as_bytes().into()), MetaValue::U32);
        meta.entries.push((key.to_owned(), value, Default::default()));
    }
    let gguf_description = Description::from_gguf(&meta).unwrap();
    let family = Some(sections["family"][0].to_owned());
    let hf_description = Description { family, ..gguf_description.clone() };
    Family { file: file.into(), hf, gguf, hf_description, gguf_description }
}

/// The slow twin of `find`: every row is asked, segment by segment, at every place where a prefix could end.
fn rows_that_match(name: &str) -> usize {
    let fits = |pattern: &str, name: &str| {
        let (p, n): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), name.split('.').collect());
        p.len() == n.len()
            && p.iter().zip(&n).all(|(p, n)| {
                p.split('|').any(|choice| if choice == "#" { n.parse::<u32>().is_ok() } else { choice == *n })
            })
    };
    let mut short = name;
    for prefix in ["distilbert.", "nomic_bert.", "model.", "decoder.", "transformer.", "gpt_neox.", "bert."] {
        short = short.strip_prefix(prefix).unwrap_or(short);
    }
    let layer =
        short.rsplit_once('.').filter(|(_, part)| ["weight", "bias"].contains(part)).map_or("", |(l, _)| l);
    rows().filter(|r| fits(r.pattern, short) || fits(r.pattern, layer)).count()
}

#[test]
fn each_name_matches_exactly_one_row() {
    let families = families();
    assert_eq!(families.len(), 40);
    for family in &families {
        for (name, ..) in family.hf.iter().chain(&family.gguf) {
            assert!(find(name).is_some(), "{}: {name} is in no row", family.file);
            assert_eq!(rows_that_match(name), 1, "{}: {name}", family.file);
            assert_eq!(group(name) == Group::Other, name == "rope_freqs.weight", "{}: {name}", family.file);
        }
    }
}

/// File, part of the name, from how many ranks on → why that cannot be cut.
const REFUSED: &[(&str, &str, u64, &str)] = &[
    ("falcon", "query_key_value", 4, "2 groups of queries, key and value"),
    ("olmo2", "q_norm", 2, "it spans heads"),
    ("olmo2", "k_norm", 2, "it spans heads"),
    ("qwen3_next", "linear_attn", 2, "linear attention keeps"),
];

/// What the ranks hold together is the tensor, each index once; where key/value heads are shared, each index at least
/// once. Whatever is whole is meant to be.
#[test]
fn the_ranks_together_hold_everything() {
    for family in families() {
        let sides = [(&family.hf, &family.hf_description), (&family.gguf, &family.gguf_description)];
        for (tensors, description) in sides {
            let mut cut_bytes = 0;
            for (name, dtype, shape) in tensors {
                for world in [2, 4] {
                    let parts: Result<Vec<_>, _> = (0..world)
                        .map(|r| slice(name, shape, *dtype, description, Rank::new(r, world).unwrap(), &[]))
                        .collect();
                    let parts = match parts {
                        Ok(parts) => parts,
                        Err(e) => {
                            let said = e.to_string();
                            let expected = REFUSED.iter().any(|(file, which, ranks, why)| {
                                *file == family.file
                                    && world >= *ranks
                                    && name.contains(which)
                                    && said.contains(why)
                            });
                            assert!(expected, "{}: {said}", family.file);
                            continue;
                        }
                    };
                    let row = find(name).unwrap().0;
                    if parts[0].is_none() {
                        let bias_of_input = matches!(row.cut, Cut::In(_)) && name.ends_with("bias");
                        assert!(
                            matches!(row.cut, Cut::Whole | Cut::OneHead) || bias_of_input,
                            "{}: {name} is whole",
                            family.file
                        );
                        continue;
                    }
                    cut_bytes += dtype.size_bytes(shape.iter().product()).unwrap();
                    let parts: Vec<Slice> = parts.into_iter().map(Option::unwrap).collect();
                    let size = shape[parts[0].dim];
                    let mut seen = vec![0u32; size as usize];
                    for part in &parts {
                        assert_eq!((part.dim, part.len()), (parts[0].dim, parts[0].len()), "{name}");
                        part.ranges.iter().cloned().flatten().for_each(|i| seen[i as usize] += 1);
                    }
                    let shared = description.kv_heads.is_some_and(|kv| kv < world)
                        && ["k_proj", "v_proj", "qkv", "attn_k.", "attn_v.", "wk", "wv"]
                            .iter()
                            .any(|k| name.contains(k));
                    assert!(
                        seen.iter().all(|&n| n == 1 || (shared && n == 2)),
                        "{}: {name} {world}: {parts:?}",
                        family.file
                    );
                }
            }
            assert!(cut_bytes > 0 || tensors.is_empty(), "{}: nothing was cut", family.file);
        }
    }
}

/// (family, name, world, rank) → the slice as `dim: ranges`, or what the refusal says.
#[test]
fn cuts_by_hand() {
    let families: BTreeMap<_, _> = families().into_iter().map(|f| (f.file.clone(), f)).collect();
    #[rustfmt::skip]
    let rows: &[(&str, &str, u64, u64, &str)] = &[
        ("llama", "model.layers.0.self_attn.q_proj.weight", 2, 1, "0: 128..256"),
        ("llama", "model.layers.0.self_attn.o_proj.weight", 2, 1, "1: 128..256"),
        ("llama", "model.layers.0.self_attn.k_proj.weight", 2, 0, "0: 0..64"),
        ("llama", "model.layers.0.self_attn.k_proj.weight", 4, 1, "0: 0..64"),
        ("llama", "model.layers.0.self_attn.k_proj.weight", 4, 2, "0: 64..128"),
        ("llama", "model.layers.0.self_attn.k_proj.weight", 3, 0, "2 key/value heads, which 3 ranks cannot share"),
        ("llama", "model.layers.0.self_attn.q_proj.weight", 8, 0, "4 heads, which 8 ranks cannot share"),
        ("llama", "model.layers.0.mlp.down_proj.weight", 4, 3, "1: 384..512"),
        ("llama", "model.layers.0.input_layernorm.weight", 4, 3, "whole"),
        ("llama", "blk.0.ffn_up.weight", 2, 1, "0: 256..512"),
        ("llama", "lm_head.weight", 3, 0, "a dimension of 1024 to cut, which 3 ranks cannot share evenly"),
        ("qwen2", "model.layers.0.self_attn.q_proj.bias", 2, 1, "0: 128..256"),
        ("qwen3", "model.layers.0.self_attn.q_norm.weight", 2, 1, "whole"),
        ("starcoder2", "model.layers.0.mlp.c_fc.weight", 2, 1, "0: 256..512"),
        ("starcoder2", "model.layers.0.mlp.c_proj.weight", 2, 1, "1: 256..512"),
        ("starcoder2", "model.layers.0.mlp.c_proj.bias", 2, 1, "whole"),
        // [in, out] and three parts: 256 queries, 256 keys, 256 values
        ("gpt2", "transformer.h.0.attn.c_attn.weight", 2, 1, "1: 128..256 384..512 640..768"),
        ("gpt2", "transformer.h.0.attn.c_attn.bias", 2, 0, "0: 0..128 256..384 512..640"),
        ("gpt2", "transformer.h.0.attn.c_proj.weight", 2, 1, "0: 128..256"),
        ("gpt2", "transformer.h.0.mlp.c_proj.weight", 2, 1, "0: 512..1024"),
        ("gpt2", "blk.0.attn_qkv.weight", 2, 1, "0: 128..256 384..512 640..768"),
        // 4 heads of queries, 2 of keys, 2 of values, 64 each; then gate and up
        ("phi3", "model.layers.0.self_attn.qkv_proj.weight", 2, 1, "0: 128..256 320..384 448..512"),
        ("phi3", "model.layers.0.self_attn.qkv_proj.weight", 4, 1, "0: 64..128 256..320 384..448"),
        ("phi3", "model.layers.0.mlp.gate_up_proj.weight", 2, 0, "0: 0..256 512..768"),
        ("phi3", "blk.0.ffn_up.weight", 2, 0, "0: 0..256 512..768"),
        // per head its query, key and value
        ("gptneox", "gpt_neox.layers.0.attention.query_key_value.weight", 2, 1, "0: 384..768"),
        ("gptneox", "blk.0.attn_qkv.weight", 2, 1, "0: 128..256 384..512 640..768"),
        ("falcon", "transformer.h.0.self_attention.query_key_value.weight", 2, 1, "0: 256..512"),
        ("falcon", "transformer.h.0.self_attention.query_key_value.weight", 4, 1, "2 groups of queries, key and value, which 4"),
        ("falcon", "blk.0.attn_qkv.weight", 2, 1, "0: 128..256 320..384 448..512"),
        ("bloom", "transformer.h.0.self_attention.query_key_value.bias", 4, 3, "0: 576..768"),
        ("opt", "model.decoder.layers.0.fc2.weight", 2, 1, "1: 256..512"),
        ("llama4_text", "model.layers.0.feed_forward.experts.gate_up_proj", 2, 1, "2: 256..512 768..1024"),
        ("llama4_text", "model.layers.0.feed_forward.experts.down_proj", 2, 1, "1: 256..512"),
        ("glm4", "model.layers.0.mlp.gate_up_proj.weight", 2, 1, "0: 256..512 768..1024"),
        ("consolidated", "layers.0.attention.wv.weight", 4, 3, "0: 64..128"),
        ("consolidated", "output.weight", 4, 3, "0: 768..1024"),
        ("mixtral", "model.layers.0.block_sparse_moe.experts.0.w2.weight", 2, 1, "1: 256..512"),
        ("mixtral", "model.layers.0.block_sparse_moe.experts.0.w3.weight", 2, 1, "0: 256..512"),
        ("mixtral", "model.layers.0.block_sparse_moe.gate.weight", 2, 1, "whole"),
        ("mixtral", "blk.0.ffn_gate_exps.weight", 2, 1, "1: 256..512"),
        ("mixtral", "blk.0.ffn_down_exps.weight", 2, 1, "2: 256..512"),
        ("gptoss", "model.layers.0.mlp.experts.gate_up_proj", 2, 1, "2: 512..1024"),
        ("gptoss", "model.layers.0.mlp.experts.gate_up_proj_bias", 2, 1, "1: 512..1024"),
        ("gptoss", "model.layers.0.mlp.experts.down_proj", 2, 1, "1: 256..512"),
        ("gptoss", "model.layers.0.mlp.experts.down_proj_bias", 2, 1, "whole"),
        ("gptoss", "model.layers.0.self_attn.sinks", 2, 1, "0: 2..4"),
        ("gptoss", "blk.0.ffn_down_exps.bias", 2, 1, "whole"),
        ("gptoss", "blk.0.ffn_up_exps.bias", 2, 1, "1: 256..512"),
        ("deepseek3", "model.layers.0.self_attn.kv_b_proj.weight", 2, 1, "0: 256..512"),
        ("deepseek3", "model.layers.0.self_attn.kv_a_proj_with_mqa.weight", 2, 1, "whole"),
        ("deepseek3", "model.layers.1.mlp.shared_experts.down_proj.weight", 2, 1, "1: 128..256"),
        ("deepseek3", "model.layers.1.mlp.gate.e_score_correction_bias", 2, 1, "whole"),
        ("deepseek3", "blk.0.attn_k_b.weight", 2, 1, "0: 2..4"),
        ("bert", "encoder.layer.0.attention.self.key.bias", 2, 1, "0: 128..256"),
        ("bert", "encoder.layer.0.attention.output.dense.weight", 2, 1, "1: 128..256"),
        ("bert", "encoder.layer.0.output.dense.bias", 2, 1, "whole"),
    ];
    let mut wrong = Vec::new();
    for &(family, name, world, rank, expected) in rows {
        let f = &families[family];
        let (tensor, description) = match f.hf.iter().find(|t| t.0 == name) {
            Some(t) => (t, &f.hf_description),
            None => (f.gguf.iter().find(|t| t.0 == name).expect(name), &f.gguf_description),
        };
        let got = slice(name, &tensor.2, tensor.1, description, Rank::new(rank, world).unwrap(), &[]);
        let got = shown(&got);
        if !(got == expected || (got.contains(name) && got.contains(expected))) {
            wrong.push(format!("{family} {name} {rank}/{world}: {got}; expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn shown(slice: &hoist::Result<Option<Slice>>) -> String {
    match slice {
        Ok(None) => "whole".into(),
        Ok(Some(s)) => {
            let ranges: Vec<_> = s.ranges.iter().map(|r| format!("{r:?}")).collect();
            format!("{}: {}", s.dim, ranges.join(" "))
        }
        Err(e) => e.to_string(),
    }
}

/// Names, dtypes and shapes outside the lists: what is cut, what a person may override, what is refused and how.
#[test]
fn overrides_quantised_and_refusals() {
    let d = Description {
        family: Some("llama".into()),
        heads: Some(4),
        kv_heads: Some(2),
        head_dim: Some(64),
        intermediate: Some(512),
        ..Description::default()
    };
    let none = Description::default();
    let (q, down) = ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj");
    type Row<'a> = (&'a str, &'a [u64], DType, &'a Description, &'a [&'a str], &'a str);
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("model.strange", &[8, 4], DType::F32, &d, &[], "tensor `model.strange` is in no row of the tensor-parallel table (family `llama`)\n  hint: --slice 'model.strange=DIM'"),
        ("model.strange", &[8, 4], DType::F32, &d, &["*strange=1"], "1: 2..4"),
        ("model.strange", &[8, 4], DType::F32, &d, &["*strange=all"], "whole"),
        ("model.strange", &[8, 4], DType::F32, &d, &["*strange=all", "*=0"], "whole"),
        ("model.strange", &[8, 4], DType::F32, &d, &["*=2"], "has no dimension 2"),
        ("model.strange", &[8, 5], DType::F32, &d, &["*=1"], "a dimension of 5"),
        ("model.strange", &[], DType::F32, &d, &["*=0"], "has no dimension 0"),
        (&format!("{q}.weight"), &[], DType::F32, &d, &[], "which is not that of its layer"),
        (&format!("{q}.weight"), &[256, 256], DType::F32, &none, &[], "does not say how many it has"),
        (&format!("{q}.weight_scale_inv"), &[2, 2], DType::F32, &d, &[], "0: 1..2"),
        (&format!("{q}.weight_scale_inv"), &[1, 2], DType::F32, &d, &[], "whole"),
        (&format!("{down}.weight_scale"), &[256, 1], DType::F32, &d, &[], "whole"),
        (&format!("{down}.weight_scale"), &[256, 8], DType::F32, &d, &[], "1: 4..8"),
        (&format!("{down}.weight_scale"), &[], DType::F32, &d, &[], "whole"),
        (&format!("{down}.qweight"), &[64, 256], DType::I32, &d, &[], "is packed in a layout"),
        ("blk.0.ffn_down.weight", &[256, 512], DType::Q8_0, &d, &[], "1: 256..512"),
        ("blk.0.ffn_down.weight", &[256, 512], DType::Q4K, &d, &[], "1: 256..512"),
        ("blk.0.ffn_down.weight", &[256, 768], DType::Q4K, &d, &[], "would part a block"),
        ("blk.0.attn_q.weight", &[256, 256], DType::Q4K, &d, &[], "0: 128..256"),
        ("blk.0.ffn_up.weight", &[512, 64], DType::F32, &none, &[], "may hold gate and up together"),
        ("model.layers.0.mlp.experts.gate_up_proj", &[4, 64, 64], DType::F32, &none, &[], "the family is not known"),
        ("model.layers.0.mlp.experts.gate_up_proj", &[4, 64, 32], DType::F32, &d, &[], "1: 16..32 48..64"),
        ("model.layers.0.self_attn.q_norm.weight", &[256], DType::F32, &d, &[], "it spans heads"),
        ("model.layers.0.self_attn.qkv_proj.weight", &[9, 4], DType::F32, &d, &[], "is not parts of [4, 2, 2]"),
        ("model.layers.0.mlp.up_proj.weight", &[0, 4], DType::F32, &d, &[], "whole"),
        ("model.layers.0.mlp.up_proj.weight", &[u64::MAX - 1, 1], DType::F32, &d, &[], "0: 9223372036854775807..18446744073709551614"),
    ];
    let rank = Rank::parse("1/2").unwrap();
    let mut wrong = Vec::new();
    for (name, shape, dtype, description, overrides, expected) in rows {
        let overrides: Vec<_> = overrides.iter().map(|o| Override::parse(o).unwrap()).collect();
        let got = shown(&slice(name, shape, *dtype, description, rank, &overrides));
        if !(got == *expected || got.starts_with("tensor `") && got.contains(expected)) {
            wrong.push(format!("{name} {shape:?}: {got}; expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(slice("any", &[3], DType::F32, &none, Rank::new(0, 1).unwrap(), &[]).unwrap(), None);
    for text in ["", "2/2", "1", "-1/2", "0/0", "a/b", "1/2/3"] {
        assert_eq!(Rank::parse(text).unwrap_err().kind().exit_code(), 2, "{text}");
    }
    for text in ["", "x", "x=", "x=y", "x=-1", "[=0"] {
        assert_eq!(Override::parse(text).unwrap_err().kind().exit_code(), 2, "{text}");
    }
}
