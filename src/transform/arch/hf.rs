//! Hugging Face's names: a row is a layer, the prefix and what follows left out.
//!
//! Source: `transformers` 5 modelling files and their checkpoints; cuts as vLLM 0.33 makes them.

use super::Cut::{In, OneHead, Out, Refused, Whole};
use super::Form::{Conv, Linear, PerHead, Stacked, StackedConv};
use super::Group::{Attention, Embedding, Experts, Head, Mlp, Norms, Other};
use super::Units::{Even, Halves, Kv, Pairs, Q, Qkv, QkvByGroup};
use super::{Part, Row, row};

const GPT_OSS: &[&str] = &["gpt_oss"];

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    // llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3, phi3, starcoder2, and what is like them
    row("embed_tokens", Embedding, Out(Even), Linear),
    row("norm", Norms, Whole, Linear),
    row("lm_head", Head, Out(Even), Linear),
    row("layers.#.input_layernorm|post_attention_layernorm|pre_feedforward_layernorm|post_feedforward_layernorm", Norms, Whole, Linear),
    row("layers.#.self_attn.q_proj", Attention, Out(Q), Linear),
    row("layers.#.self_attn.k_proj|v_proj", Attention, Out(Kv), Linear),
    row("layers.#.self_attn.o_proj", Attention, In(Q), Linear),
    row("layers.#.self_attn.qkv_proj", Attention, Out(Qkv), Linear),
    row("layers.#.self_attn.q_norm|k_norm", Norms, OneHead, Linear),
    row("layers.#.self_attn.rotary_emb.inv_freq", Other, Whole, Linear),
    row("layers.#.mlp.gate_proj|up_proj", Mlp, Out(Even), Linear),
    row("layers.#.mlp.gate_up_proj", Mlp, Out(Halves), Linear),
    row("layers.#.mlp.down_proj", Mlp, In(Even), Linear),
    // starcoder2
    row("layers.#.mlp.c_fc", Mlp, Out(Even), Linear),
    row("layers.#.mlp.c_proj", Mlp, In(Even), Linear),
    // deepseek: latent attention; what is compressed is whole on every rank
    row("layers.#.self_attn.q_a_proj|kv_a_proj_with_mqa", Attention, Whole, Linear),
    row("layers.#.self_attn.q_a_layernorm|kv_a_layernorm", Norms, Whole, Linear),
    row("layers.#.self_attn.q_b_proj|kv_b_proj", Attention, Out(Q), Linear),
    // experts: mixtral, qwen3moe, deepseek, one tensor an expert
    row("layers.#.block_sparse_moe.gate", Experts, Whole, Linear),
    row("layers.#.block_sparse_moe.experts.#.w1|w3", Experts, Out(Even), Linear),
    row("layers.#.block_sparse_moe.experts.#.w2", Experts, In(Even), Linear),
    row("layers.#.mlp.gate|router|shared_expert_gate", Experts, Whole, Linear),
    row("layers.#.mlp.gate.e_score_correction_bias", Experts, Whole, Linear),
    row("layers.#.mlp.experts.#.gate_proj|up_proj", Experts, Out(Even), Linear),
    row("layers.#.mlp.experts.#.down_proj", Experts, In(Even), Linear),
    row("layers.#.mlp.shared_expert|shared_experts.gate_proj|up_proj", Experts, Out(Even), Linear),
    row("layers.#.mlp.shared_expert|shared_experts.down_proj", Experts, In(Even), Linear),
    // mlx-lm: a tensor for each projection of all experts
    row("layers.#.mlp|block_sparse_moe.switch_mlp.gate_proj|up_proj", Experts, Out(Even), Stacked),
    row("layers.#.mlp|block_sparse_moe.switch_mlp.down_proj", Experts, In(Even), Stacked),
    // experts in one tensor: transformers 5 has [experts, gate ‖ up, in]; gpt-oss [experts, in, gate and up in turn]
    Row { except: Some((GPT_OSS, Out(Pairs), StackedConv)), ..row("layers.#.mlp.experts.gate_up_proj", Experts, Out(Halves), Stacked) },
    Row { except: Some((GPT_OSS, In(Even), StackedConv)), ..row("layers.#.mlp.experts.down_proj", Experts, In(Even), Stacked) },
    Row { bare: Part::Bias, ..row("layers.#.mlp.experts.gate_up_proj_bias", Experts, Out(Pairs), Stacked) },
    Row { bare: Part::Bias, ..row("layers.#.mlp.experts.down_proj_bias", Experts, In(Even), Stacked) },
    row("layers.#.mlp.experts.gate_up_proj_blocks|gate_up_proj_scales", Experts, Out(Pairs), Stacked),
    row("layers.#.mlp.experts.down_proj_blocks|down_proj_scales", Experts, In(Even), Stacked),
    row("layers.#.self_attn.sinks", Attention, Out(Q), PerHead),
    // phi
    row("final_layernorm", Norms, Whole, Linear),
    row("layers.#.self_attn.dense", Attention, In(Q), Linear),
    row("layers.#.mlp.fc1", Mlp, Out(Even), Linear),
    row("layers.#.mlp.fc2", Mlp, In(Even), Linear),
    // glm4
    row("layers.#.post_self_attn_layernorm|post_mlp_layernorm", Norms, Whole, Linear),
    // opt
    row("embed_positions", Embedding, Whole, Linear),
    row("layers.#.self_attn.out_proj", Attention, In(Q), Linear),
    row("layers.#.self_attn_layer_norm|final_layer_norm", Norms, Whole, Linear),
    row("layers.#.fc1", Mlp, Out(Even), Linear),
    row("layers.#.fc2", Mlp, In(Even), Linear),
    row("project_in|project_out", Embedding, Whole, Linear),
    // llama4: experts in one tensor, [experts, in, gate ‖ up]
    row("layers.#.feed_forward.router", Experts, Whole, Linear),
    row("layers.#.feed_forward.experts.gate_up_proj", Experts, Out(Halves), StackedConv),
    row("layers.#.feed_forward.experts.down_proj", Experts, In(Even), StackedConv),
    // and one tensor an expert, as engines read quantised ones
    row("layers.#.feed_forward.experts.#.gate_proj|up_proj", Experts, Out(Even), Linear),
    row("layers.#.feed_forward.experts.#.down_proj", Experts, In(Even), Linear),
    row("layers.#.feed_forward.shared_expert.gate_proj|up_proj", Experts, Out(Even), Linear),
    row("layers.#.feed_forward.shared_expert.down_proj", Experts, In(Even), Linear),
    row("layers.#.feed_forward.gate_proj|up_proj", Mlp, Out(Even), Linear),
    row("layers.#.feed_forward.down_proj", Mlp, In(Even), Linear),
    // qwen3-next
    row("layers.#.linear_attn.in_proj_qkvz|in_proj_ba|conv1d|out_proj|A_log|dt_bias", Attention, Refused("linear attention keeps its heads' parts interleaved"), Linear),
    row("layers.#.linear_attn.norm", Norms, Whole, Linear),
    // Meta's and Mistral's own names; `norm` and `output` are the others'
    row("tok_embeddings", Embedding, Out(Even), Linear),
    row("layers.#.attention_norm|ffn_norm", Norms, Whole, Linear),
    row("layers.#.attention.wq", Attention, Out(Q), Linear),
    row("layers.#.attention.wk|wv", Attention, Out(Kv), Linear),
    row("layers.#.attention.wo", Attention, In(Q), Linear),
    row("layers.#.feed_forward.w1|w3", Mlp, Out(Even), Linear),
    row("layers.#.feed_forward.w2", Mlp, In(Even), Linear),
    // gpt2
    row("wte", Embedding, Out(Even), Linear),
    row("wpe", Embedding, Whole, Linear),
    row("ln_f", Norms, Whole, Linear),
    row("h.#.ln_1|ln_2", Norms, Whole, Linear),
    row("h.#.attn.c_attn", Attention, Out(Qkv), Conv),
    row("h.#.attn.c_proj", Attention, In(Q), Conv),
    row("h.#.attn.bias|masked_bias", Other, Whole, Linear),
    row("h.#.mlp.c_fc", Mlp, Out(Even), Conv),
    row("h.#.mlp.c_proj", Mlp, In(Even), Conv),
    // gpt-neox, pythia
    row("embed_in", Embedding, Out(Even), Linear),
    row("embed_out", Head, Out(Even), Linear),
    row("final_layer_norm", Norms, Whole, Linear),
    row("layers.#.attention.query_key_value", Attention, Out(Q), Linear),
    row("layers.#.attention.dense", Attention, In(Q), Linear),
    row("layers.#.attention.bias|masked_bias", Other, Whole, Linear),
    row("layers.#.attention.rotary_emb.inv_freq", Other, Whole, Linear),
    row("layers.#.mlp.dense_h_to_4h", Mlp, Out(Even), Linear),
    row("layers.#.mlp.dense_4h_to_h", Mlp, In(Even), Linear),
    // falcon, bloom
    row("word_embeddings", Embedding, Out(Even), Linear),
    row("word_embeddings_layernorm", Norms, Whole, Linear),
    row("h.#.ln_attn|ln_mlp|input_layernorm|post_attention_layernorm", Norms, Whole, Linear),
    row("h.#.self_attention.query_key_value", Attention, Out(QkvByGroup), Linear),
    row("h.#.self_attention.dense", Attention, In(Q), Linear),
    row("h.#.mlp.dense_h_to_4h", Mlp, Out(Even), Linear),
    row("h.#.mlp.dense_4h_to_h", Mlp, In(Even), Linear),
    // bert, roberta
    row("embeddings.word_embeddings", Embedding, Out(Even), Linear),
    row("embeddings.position_embeddings|token_type_embeddings", Embedding, Whole, Linear),
    row("embeddings.position_ids|token_type_ids", Other, Whole, Linear),
    row("embeddings.LayerNorm", Norms, Whole, Linear),
    row("encoder.layer.#.attention.self.query|key|value", Attention, Out(Q), Linear),
    row("encoder.layer.#.attention.output.dense", Attention, In(Q), Linear),
    row("encoder.layer.#.attention.output.LayerNorm", Norms, Whole, Linear),
    row("encoder.layer.#.intermediate.dense", Mlp, Out(Even), Linear),
    row("encoder.layer.#.output.dense", Mlp, In(Even), Linear),
    row("encoder.layer.#.output.LayerNorm", Norms, Whole, Linear),
    row("pooler.dense", Head, Whole, Linear),
    row("classifier|score", Head, Whole, Linear),
    row("classifier.dense|out_proj", Head, Whole, Linear),
    row("cls.predictions.bias", Head, Whole, Linear),
    row("cls.predictions.decoder|transform", Head, Whole, Linear),
    row("cls.predictions.transform.dense", Head, Whole, Linear),
    row("cls.predictions.transform.LayerNorm", Norms, Whole, Linear),
    row("cls.seq_relationship", Head, Whole, Linear),
    // distilbert
    row("layer.#.attention.q_lin|k_lin|v_lin", Attention, Out(Q), Linear),
    row("layer.#.attention.out_lin", Attention, In(Q), Linear),
    row("layer.#.sa_layer_norm|output_layer_norm", Norms, Whole, Linear),
    row("layer.#.ffn.lin1", Mlp, Out(Even), Linear),
    row("layer.#.ffn.lin2", Mlp, In(Even), Linear),
    row("pre_classifier|vocab_transform|vocab_projector", Head, Whole, Linear),
    row("vocab_layer_norm", Norms, Whole, Linear),
    // modernbert: what is activated, then what it gates
    row("embeddings.tok_embeddings", Embedding, Out(Even), Linear),
    row("embeddings|head.norm", Norms, Whole, Linear),
    row("final_norm", Norms, Whole, Linear),
    row("layers.#.attn_norm|mlp_norm", Norms, Whole, Linear),
    row("layers.#.attn.Wqkv", Attention, Out(Qkv), Linear),
    row("layers.#.attn.Wo", Attention, In(Q), Linear),
    row("layers.#.mlp.Wi", Mlp, Out(Halves), Linear),
    row("layers.#.mlp.Wo", Mlp, In(Even), Linear),
    row("head.dense", Head, Whole, Linear),
    // nomic's bert
    row("emb_ln", Norms, Whole, Linear),
    row("encoder.layers.#.norm1|norm2", Norms, Whole, Linear),
    row("encoder.layers.#.attn.Wqkv", Attention, Out(Qkv), Linear),
    row("encoder.layers.#.attn.out_proj", Attention, In(Q), Linear),
    row("encoder.layers.#.mlp.fc11|fc12", Mlp, Out(Even), Linear),
    row("encoder.layers.#.mlp.fc2", Mlp, In(Even), Linear),
];
