//! Where each element of a tensor goes, there and back.

use super::{back, family, gguf_of, hf_of, plain_config, small, sorted, tensors, values};
use hoist::dtype::DType;
use hoist::transform::arch::families::all;
use hoist::transform::arch::translate::{Want, to_gguf};
use hoist::transform::recipe::{Output, Part, Recipe, Source};
use hoist::transform::view::View;

/// The elements of a view, in its order.
fn elements(view: &View) -> Vec<u64> {
    let mut out = vec![view.offset];
    for (&n, &s) in view.shape.iter().zip(&view.strides) {
        out = out.iter().flat_map(|&at| (0..n).map(move |i| at + i * s)).collect();
    }
    out
}

/// Which value and element each element of an output is, and what is added.
fn origins(recipe: &Recipe, output: &Output) -> Vec<(usize, u64, f32)> {
    let part = |p: &Part| {
        let (index, add) = (p.value, p.add);
        let value = &recipe.values[index];
        elements(&p.view).into_iter().map(move |e| match &value.source {
            Source::Joined(tensors) => {
                let each = value.shape.iter().product::<u64>() / tensors.len() as u64;
                (tensors[(e / each) as usize], e % each, add)
            }
            _ => (index, e, add),
        })
    };
    output.parts.iter().flat_map(part).collect()
}

#[test]
fn there_and_back_is_where_it_was() {
    for family in all() {
        let (sizes, name) = (small(), family.name());
        let gguf = gguf_of(family, &sizes);
        let there = back(&gguf, family, &sizes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let hf = tensors(&there);
        let again = to_gguf(values(&hf), family, &sizes, &plain_config(family), Want::Own)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(sorted(tensors(&again)), sorted(gguf.clone()), "{name}");
        let theirs: Vec<_> = there.outputs.iter().map(|o| origins(&there, o)).collect();
        for output in &again.outputs {
            let at = gguf.iter().position(|t| t.0 == output.name).unwrap();
            for (n, (value, element, add)) in origins(&again, output).into_iter().enumerate() {
                let (first, place, less) = theirs[value][element as usize];
                assert_eq!((first, place, add + less), (at, n as u64, 0.0), "{name}: {}", output.name);
            }
        }
        let offset: Vec<&str> =
            again.outputs.iter().filter(|o| o.parts[0].add != 0.0).map(|o| o.name.as_str()).collect();
        assert_eq!(!offset.is_empty(), name.starts_with("gemma"), "{name}");
        assert!(offset.iter().all(|n| n.ends_with("_norm.weight")), "{name}: {offset:?}");
    }
}

/// A family, a tensor of it in a checkpoint, its shape, those that it stands for where it is another form of them, one
/// tensor in a GGUF, and which element of the former the n-th of the latter is. Sizes are those of [`small`]: 10 wide,
/// 4 heads of 4 with 2 key/value heads, 3 experts, 7 latents, all others 6.
type Layout =
    (&'static str, &'static str, &'static [u64], &'static [&'static str], &'static str, fn(u64) -> u64);

#[rustfmt::skip]
const LAYOUTS: &[Layout] = &[
    // Row (head, pair, half) of a GGUF is row (head, half, pair) of a checkpoint.
    ("llama", "model.layers.0.self_attn.q_proj.weight", &[16, 10], &[], "blk.0.attn_q.weight",
        |n| (n / 40 * 4 + n / 10 % 2 * 2 + n / 20 % 2) * 10 + n % 10),
    ("smollm3", "model.layers.0.self_attn.k_proj.bias", &[8], &[], "blk.0.attn_k.bias", |n| n / 4 * 4 + n % 2 * 2 + n % 4 / 2),
    ("llama4_text", "model.layers.0.self_attn.q_proj.weight", &[16, 10], &[], "blk.0.attn_q.weight", |n| n),
    ("qwen2", "model.layers.0.self_attn.q_proj.weight", &[16, 10], &[], "blk.0.attn_q.weight", |n| n),
    ("gpt2", "transformer.h.0.mlp.c_fc.weight", &[10, 6], &[], "blk.0.ffn_up.weight", |n| n % 10 * 6 + n / 10),
    // [heads × (keys and values), latents] → keys [heads, latents, keys], values [heads, values, latents].
    ("deepseek_v2", "model.layers.0.self_attn.kv_b_proj.weight", &[48, 7], &[], "blk.0.attn_k_b.weight",
        |n| (n / 42 * 12 + n % 6) * 7 + n % 42 / 6),
    ("deepseek_v2", "model.layers.0.self_attn.kv_b_proj.weight", &[48, 7], &[], "blk.0.attn_v_b.weight",
        |n| (n / 42 * 12 + 6 + n % 42 / 7) * 7 + n % 7),
    // [experts, gate and then up, in]
    ("qwen3_moe", "model.layers.0.mlp.experts.gate_up_proj", &[3, 12, 10],
        &["layers.0.mlp.experts.*.gate_proj", "layers.0.mlp.experts.*.up_proj"], "blk.0.ffn_up_exps.weight",
        |n| (n / 60 * 12 + 6 + n % 60 / 10) * 10 + n % 10),
    ("qwen3_moe", "model.layers.0.mlp.experts.down_proj", &[3, 10, 6], &["layers.0.mlp.experts.*.down_proj"],
        "blk.0.ffn_down_exps.weight", |n| n),
    ("mixtral", "model.layers.1.mlp.experts.gate_up_proj", &[3, 12, 10],
        &["layers.1.block_sparse_moe.experts.*.w1", "layers.1.block_sparse_moe.experts.*.w3"],
        "blk.1.ffn_gate_exps.weight", |n| (n / 60 * 12 + n % 60 / 10) * 10 + n % 10),
    // [experts, in, gate and then up]
    ("llama4_text", "model.layers.1.feed_forward.experts.gate_up_proj", &[3, 10, 12], &[], "blk.1.ffn_up_exps.weight",
        |n| (n / 60 * 10 + n % 10) * 12 + 6 + n % 60 / 10),
    // [experts, in, gate and up in turn]
    ("gpt_oss", "model.layers.0.mlp.experts.gate_up_proj", &[3, 10, 12], &[], "blk.0.ffn_gate_exps.weight",
        |n| (n / 60 * 10 + n % 10) * 12 + n % 60 / 10 * 2),
    ("gpt_oss", "model.layers.0.mlp.experts.gate_up_proj_bias", &[3, 12], &[], "blk.0.ffn_up_exps.bias", |n| n * 2 + 1),
    // [experts, gate and up in turn, in]
    ("gpt_oss", "model.layers.0.mlp.experts.gate_up_proj_blocks", &[3, 12, 10],
        &["layers.0.mlp.experts.gate_up_proj"], "blk.0.ffn_up_exps.weight", |n| (n / 10 * 2 + 1) * 10 + n % 10),
    // Positions begin behind the padding token's, which is 1.
    ("roberta", "embeddings.position_embeddings.weight", &[8, 10], &[], "position_embd.weight", |n| n + 20),
    ("bert", "embeddings.position_embeddings.weight", &[6, 10], &[], "position_embd.weight", |n| n),
];

#[test]
fn elements_lie_as_each_side_has_them() {
    for (kind, from, shape, instead_of, to, origin) in LAYOUTS {
        let family = family(kind);
        let sizes = small();
        // The tensor in question comes last, and in place of other forms of it.
        let mut hf = hf_of(family, &sizes);
        hf.retain(|(name, ..)| {
            let other = instead_of.iter().any(|pattern| {
                (0..3).any(|e| {
                    let whole = format!("model.{}", pattern.replace('*', &e.to_string()));
                    *name == whole || *name == format!("{whole}.weight")
                })
            });
            name != from && !other
        });
        hf.push(((*from).to_owned(), DType::F32, shape.to_vec()));
        let recipe = to_gguf(values(&hf), family, &sizes, &plain_config(family), Want::Own)
            .unwrap_or_else(|e| panic!("{kind}: {from}: {e}"));
        let output = recipe.outputs.iter().find(|o| o.name == *to).unwrap();
        for (n, (value, element, _)) in origins(&recipe, output).into_iter().enumerate() {
            assert_eq!((value, element), (hf.len() - 1, origin(n as u64)), "{kind}: {to}, element {n}");
        }
    }
}
