#!/usr/bin/env python3
"""golden/keys.json: what llama.cpp's converter writes as keys for configs like those of published models.

usage: LLAMACPP=DIR keys.py     (DIR/convert holds convert_hf_to_gguf.py, its modules and gguf-py)

Each case is a config.json (both dialects, wrappers, every rotary scaling), sometimes a generation_config.json and a
model card, under a directory name that says things or does not. The converter's own class reads it from a directory
with one tensor of no meaning, and its key-value store is kept: key, type, value, in order. The counts of parameters
are made up and given to both sides. Transformers and gguf-py come with their versions in the file.
"""
import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

# Scripts here are called as the packages they use: this folder must not come before those.
sys.path = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]
ROOT = Path(os.environ["LLAMACPP"]) / "convert"
sys.path[:0] = [str(ROOT), str(ROOT / "gguf-py")]
import gguf  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from conversion import ModelBase, ModelType, get_model_architecture, get_model_class  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

# total, shared, one expert, experts
PARAMETERS = (7_241_732_096, 7_241_732_096, 0, 0)
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"}


def decoder(kind, model_type, hidden, inner, layers, heads, kv, context, eps, vocab, **more):
    """A config with what nearly every decoder says."""
    return {"architectures": [kind], "model_type": model_type, "hidden_size": hidden, "intermediate_size": inner,
            "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv,
            "max_position_embeddings": context, "rms_norm_eps": eps, "vocab_size": vocab, "hidden_act": "silu", **more}


DEEPSEEK = dict(kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, ep_size=1, moe_layer_freq=1, aux_loss_alpha=0.001,
                seq_aux=True)
YARN = {"beta_fast": 32, "beta_slow": 1, "factor": 40, "original_max_position_embeddings": 4096, "type": "yarn"}
FACTORS = dict(long_factor=[1.0 + i / 4 for i in range(48)], short_factor=[1.0 + i / 64 for i in range(48)])
MOE = (30_532_122_624, 1_543_714_816, 226_492_416, 128)
CARD = """---
license: llama3.1
license_name: "Some License: 2"
license_link: https://example.org/LICENSE
language:
- en
- 'no'
- de # comment
pipeline_tag: text-generation
tags: [facebook, "llama-3"]
base_model: meta-llama/Meta-Llama-3.1-8B
datasets:
  - org/some-data-v2
  - plain
extra_gated_fields:
  First Name: text
widget:
- text: "hello"
---
# Title
license: not this
"""

# name, config, and what else there is
CASES = [
    ("Llama-2-7b-hf", {"_name_or_path": "meta-llama/Llama-2-7b-hf", **decoder("LlamaForCausalLM", "llama", 4096, 11008, 32, 32, 32, 4096, 1e-05, 32000,
     pretraining_tp=1, rope_scaling=None, torch_dtype="float16", tie_word_embeddings=False)}, {}),
    ("llama-1", {k: v for k, v in decoder("LLaMAForCausalLM", "llama", 4096, 11008, 32, 32, 32, 2048, 1e-06, 32000).items()
                 if k not in ("num_key_value_heads", "max_position_embeddings")}, {}),
    ("Meta-Llama-3.1-8B-Instruct", decoder("LlamaForCausalLM", "llama", 4096, 14336, 32, 32, 8, 131072, 1e-05, 128256, rope_theta=500000.0,
     rope_scaling=LLAMA3, attention_bias=False, mlp_bias=False, torch_dtype="bfloat16"),
     dict(card=CARD, generation={"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.05, "eos_token_id": [1, 2]})),
    ("linear", decoder("LlamaForCausalLM", "llama", 4096, 11008, 32, 32, 32, 16384, 1e-05, 32016, rope_scaling={"type": "linear", "factor": 4.0}), {}),
    ("dynamic-v1.5", decoder("LlamaForCausalLM", "llama", 4096, 11008, 32, 32, 32, 4096, 1e-05, 32016, rope_scaling={"type": "dynamic", "factor": 2.0}), {}),
    ("Yarn-Llama-2-7b-64k", decoder("LlamaForCausalLM", "llama", 4096, 11008, 32, 32, 32, 65536, 1e-05, 32000,
     rope_scaling={"factor": 16.0, "original_max_position_embeddings": 4096, "type": "yarn", "finetuned": True}), {}),
    ("Mistral-7B-Instruct-v0.3", decoder("MistralForCausalLM", "mistral", 4096, 14336, 32, 32, 8, 32768, 1e-05, 32768, rope_theta=1000000.0, sliding_window=None), {}),
    ("Mistral-Nemo-Base-2407", decoder("MistralForCausalLM", "mistral", 5120, 14336, 40, 32, 8, 131072, 1e-05, 131072, head_dim=128,
     rope_parameters={"rope_theta": 1000000.0, "rope_type": "default"}, sliding_window=None), {}),
    ("Mixtral-8x7B-v0.1", decoder("MixtralForCausalLM", "mixtral", 4096, 14336, 32, 32, 8, 32768, 1e-05, 32000, rope_theta=1000000.0, num_local_experts=8,
     num_experts_per_tok=2, sliding_window=None, router_aux_loss_coef=0.02), dict(parameters=(46_702_792_704, 1_604_923_392, 5_637_144_576, 8))),
    ("Qwen2.5-7B-Instruct", decoder("Qwen2ForCausalLM", "qwen2", 3584, 18944, 28, 28, 4, 32768, 1e-06, 152064, rope_theta=1000000.0, sliding_window=131072,
     use_sliding_window=False, max_window_layers=28), dict(generation={"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05})),
    ("Qwen3-8B", decoder("Qwen3ForCausalLM", "qwen3", 4096, 12288, 36, 32, 8, 131072, 1e-06, 151936, head_dim=128, rope_theta=1000000,
     rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, sliding_window=None, use_sliding_window=False), {}),
    ("qwen3-attention-factor", decoder("Qwen3ForCausalLM", "qwen3", 4096, 12288, 36, 32, 8, 131072, 1e-06, 151936, head_dim=128,
     rope_parameters={"rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5, "beta_fast": 16, "beta_slow": 2.0}), {}),
    ("Qwen3-30B-A3B", decoder("Qwen3MoeForCausalLM", "qwen3_moe", 2048, 6144, 48, 32, 4, 40960, 1e-06, 151936, head_dim=128, rope_theta=1000000.0,
     num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768, norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[]), dict(parameters=MOE)),
    ("gemma-2-9b-it", decoder("Gemma2ForCausalLM", "gemma2", 3584, 14336, 42, 16, 8, 8192, 1e-06, 256000, head_dim=256, hidden_activation="gelu_pytorch_tanh",
     query_pre_attn_scalar=256, rope_theta=10000.0, sliding_window=4096, cache_implementation="hybrid", attn_logit_softcapping=50.0, final_logit_softcapping=30.0)
     | {"hidden_act": "gelu_pytorch_tanh"}, {}),
    ("gemma-3-4b-it", {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "mm_tokens_per_image": 256, "torch_dtype": "bfloat16",
     "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
                     "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},
     "vision_config": {"hidden_size": 1152, "image_size": 896, "intermediate_size": 4304, "model_type": "siglip_vision_model", "num_attention_heads": 16,
                       "num_hidden_layers": 27, "patch_size": 14}}, {}),
    ("gemma-3-1b-it", decoder("Gemma3ForCausalLM", "gemma3_text", 1152, 6912, 26, 4, 1, 32768, 1e-06, 262144, head_dim=256, rope_theta=1000000,
     rope_local_base_freq=10000, rope_scaling=None, sliding_window=512, sliding_window_pattern=6, query_pre_attn_scalar=256, attn_logit_softcapping=None,
     final_logit_softcapping=None, hidden_activation="gelu_pytorch_tanh") | {"hidden_act": "gelu_pytorch_tanh"}, {}),
    ("Phi-3-mini-128k-instruct", decoder("Phi3ForCausalLM", "phi3", 3072, 8192, 32, 32, 32, 131072, 1e-05, 32064, original_max_position_embeddings=4096,
     rope_theta=10000.0, rope_scaling={"type": "longrope", **FACTORS}, sliding_window=262144), {}),
    ("Phi-4-mini-instruct", decoder("Phi3ForCausalLM", "phi3", 3072, 8192, 32, 24, 8, 131072, 1e-05, 200064, original_max_position_embeddings=4096,
     partial_rotary_factor=0.75, rope_theta=10000.0, rope_scaling={"type": "su", **FACTORS}, sliding_window=262144), {}),
    ("phi-4", decoder("Phi3ForCausalLM", "phi3", 5120, 17920, 40, 40, 10, 16384, 1e-05, 100352, original_max_position_embeddings=16384, rope_theta=250000,
     rope_scaling=None, sliding_window=None), {}),
    ("gpt2", {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new", "n_ctx": 1024, "n_embd": 768, "n_head": 12,
              "n_layer": 12, "n_positions": 1024, "layer_norm_epsilon": 1e-05, "vocab_size": 50257}, dict(parameters=(124_439_808, 124_439_808, 0, 0))),
    ("starcoder2-3b", {**decoder("Starcoder2ForCausalLM", "starcoder2", 3072, 12288, 30, 24, 2, 16384, None, 49152, norm_epsilon=1e-05, rope_theta=999999.4420358813,
     use_bias=True, sliding_window=4096), "hidden_act": "gelu_pytorch_tanh"}, {}),
    ("OLMo-2-1124-7B", decoder("Olmo2ForCausalLM", "olmo2", 4096, 11008, 32, 32, 32, 4096, 1e-06, 100352, rope_theta=500000, rope_scaling=None, attention_bias=False), {}),
    ("granite-3.3-2b-instruct", decoder("GraniteForCausalLM", "granite", 2048, 8192, 40, 32, 8, 131072, 1e-05, 49159, rope_theta=10000000.0, attention_multiplier=0.015625,
     embedding_multiplier=12.0, logits_scaling=8.0, residual_multiplier=0.22, attention_bias=False, mlp_bias=False, rope_scaling=None), {}),
    ("SmolLM3-3B", decoder("SmolLM3ForCausalLM", "smollm3", 2048, 11008, 36, 16, 4, 65536, 1e-06, 128256, rope_theta=5000000.0, rope_scaling=None, no_rope_layer_interval=4,
     no_rope_layers=[1, 1, 1, 0] * 9, layer_types=["full_attention"] * 36, use_sliding_window=False, sliding_window=None, attention_bias=False, mlp_bias=False), {}),
    ("DeepSeek-V2-Lite-Chat", decoder("DeepseekV2ForCausalLM", "deepseek_v2", 2048, 10944, 27, 16, 16, 163840, 1e-06, 102400, **DEEPSEEK, q_lora_rank=None,
     first_k_dense_replace=1, moe_intermediate_size=1408, n_routed_experts=64, n_shared_experts=2, num_experts_per_tok=6, n_group=1, topk_group=1,
     topk_method="greedy", routed_scaling_factor=1.0, norm_topk_prob=False, scoring_func="softmax", rope_theta=10000,
     rope_scaling={**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}), dict(parameters=(15_706_484_224, 1_000_000_000, 226_492_416, 64))),
    ("DeepSeek-V3", decoder("DeepseekV3ForCausalLM", "deepseek_v3", 7168, 18432, 61, 128, 128, 163840, 1e-06, 129280, **DEEPSEEK, q_lora_rank=1536,
     first_k_dense_replace=3, moe_intermediate_size=2048, n_routed_experts=256, n_shared_experts=1, num_experts_per_tok=8, n_group=8, topk_group=4,
     topk_method="noaux_tc", routed_scaling_factor=2.5, norm_topk_prob=True, scoring_func="sigmoid", num_nextn_predict_layers=1, rope_theta=10000,
     rope_scaling={**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}), dict(parameters=(671_026_419_200, 17_000_000_000, 2_554_000_000, 256))),
    ("bge-small-en-v1.5", {"_name_or_path": "/root/.cache/torch/x", "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "hidden_size": 384,
     "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "intermediate_size": 1536, "layer_norm_eps": 1e-12, "max_position_embeddings": 512,
     "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 0, "position_embedding_type": "absolute", "type_vocab_size": 2, "vocab_size": 30522},
     dict(parameters=(33_360_000, 33_360_000, 0, 0), pooling={"word_embedding_dimension": 384, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})),
    ("bge-m3", {"architectures": ["XLMRobertaModel"], "model_type": "xlm-roberta", "hidden_act": "gelu", "hidden_size": 1024, "intermediate_size": 4096,
     "layer_norm_eps": 1e-05, "max_position_embeddings": 8194, "num_attention_heads": 16, "num_hidden_layers": 24, "output_past": True, "pad_token_id": 1,
     "position_embedding_type": "absolute", "type_vocab_size": 1, "vocab_size": 250002}, dict(parameters=(566_702_080, 566_702_080, 0, 0))),
    ("stsb-roberta-base", {"architectures": ["RobertaModel"], "model_type": "roberta", "hidden_act": "gelu", "hidden_size": 768, "intermediate_size": 3072,
     "layer_norm_eps": 1e-05, "max_position_embeddings": 514, "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1, "type_vocab_size": 1,
     "vocab_size": 50265}, dict(parameters=(999_000, 999_000, 0, 0), pooling={"pooling_mode": "mean"})),
    ("gpt-oss-20b", decoder("GptOssForCausalLM", "gpt_oss", 2880, 2880, 24, 64, 8, 131072, 1e-05, 201088, head_dim=64, num_local_experts=32, num_experts_per_tok=4,
     experts_per_token=4, sliding_window=128, attention_bias=True, swiglu_limit=7.0, initial_context_length=4096, rope_theta=150000, layer_types=["sliding_attention", "full_attention"] * 12,
     rope_scaling={"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096, "rope_type": "yarn", "truncate": False}),
     dict(parameters=(20_914_757_184, 1_804_459_584, 597_196_800, 32))),
    ("GLM-4.5-Air", decoder("Glm4MoeForCausalLM", "glm4_moe", 4096, 10944, 46, 96, 8, 131072, 1e-05, 151552, head_dim=128, partial_rotary_factor=0.5, rope_theta=1000000,
     moe_intermediate_size=1408, n_routed_experts=128, n_shared_experts=1, num_experts_per_tok=8, first_k_dense_replace=1, n_group=1, topk_group=1, norm_topk_prob=True,
     routed_scaling_factor=1.0, use_qk_norm=False, attention_bias=True, num_nextn_predict_layers=1, rope_scaling=None), dict(parameters=MOE, no_mtp=True)),
    ("Llama-4-Scout-17B-16E-Instruct", {"architectures": ["Llama4ForConditionalGeneration"], "model_type": "llama4", "torch_dtype": "bfloat16", "text_config": {
        k: v for k, v in decoder(None, "llama4_text", 5120, 8192, 48, 40, 8, 10485760, 1e-05, 202048, head_dim=128, intermediate_size_mlp=16384, num_local_experts=16,
                                 num_experts_per_tok=1, interleave_moe_layer_step=1, rope_theta=500000.0, attention_chunk_size=8192, no_rope_layers=[], use_qk_norm=True,
                                 rope_scaling={**LLAMA3, "factor": 16.0, "high_freq_factor": 1.0}).items() if k != "architectures"},
        "vision_config": {"model_type": "llama4_vision_model", "hidden_size": 1408}}, dict(parameters=MOE)),
    # parts of larger models, what converters and trainers leave behind, the newer dialect
    ("llava-1.5-7b-hf", {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "image_token_index": 32000, "text_config": {
        "_name_or_path": "lmsys/vicuna-7b-v1.5", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096, "model_type": "llama", "rms_norm_eps": 1e-05,
        "torch_dtype": "float16", "vocab_size": 32064}, "vision_config": {"model_type": "clip_vision_model", "hidden_size": 1024, "num_attention_heads": 16}}, {}),
    ("DeepSeek-R1-Distill-Qwen-7B", decoder("Qwen2ForCausalLM", "qwen2", 3584, 18944, 28, 28, 4, 131072, 1e-06, 152064, rope_theta=10000, sliding_window=4096,
     use_mrope=False, use_sliding_window=False, max_window_layers=28), {}),
    ("bge-reranker-v2-m3", {"_name_or_path": "BAAI/bge-m3", "architectures": ["XLMRobertaForSequenceClassification"], "model_type": "xlm-roberta", "hidden_act": "gelu",
     "hidden_size": 1024, "id2label": {"0": "no", "1": "yes", "10": "never", "2": "maybe"}, "intermediate_size": 4096, "layer_norm_eps": 1e-05, "max_position_embeddings": 8194,
     "num_attention_heads": 16, "num_hidden_layers": 24, "pad_token_id": 1, "type_vocab_size": 1, "vocab_size": 250002}, {}),
    ("gemma-3-12b", decoder("Gemma3ForCausalLM", "gemma3_text", 3840, 15360, 48, 16, 8, 131072, 1e-06, 262208, head_dim=256, query_pre_attn_scalar=256, sliding_window=1024,
     layer_types=(["sliding_attention"] * 5 + ["full_attention"]) * 8, final_logit_softcapping=30.0, rope_parameters={
         "full_attention": {"factor": 8.0, "rope_theta": 1000000.0, "rope_type": "linear"}, "sliding_attention": {"rope_theta": 20000.0, "rope_type": "default"}})
     | {"hidden_act": "gelu_pytorch_tanh"}, {}),
    ("embedding-qwen", decoder("Qwen3ForCausalLM", "qwen3", 1024, 3072, 28, 16, 8, 32768, 1e-06, 151669, head_dim=128, is_causal=False,
     rope_parameters={"rope_theta": 1000000, "rope_type": "default"}, use_sliding_window=False), dict(pooling={"pooling_mode_lasttoken": True})),
    ("null-heads", decoder("LlamaForCausalLM", "llama", 4096, 14336, 32, 32, None, 32768, 1e-05, 32768, head_dim=None), {}),
    # names that say nothing, or too much
    ("a sentence with spaces", decoder("LlamaForCausalLM", "llama", 64, 128, 2, 4, 2, 128, 1e-05, 512), dict(parameters=(123_456, 123_456, 0, 0))),
    ("bloom-7b1-v2-chat-GGUF-f16-v0.2", decoder("LlamaForCausalLM", "llama", 64, 128, 2, 4, 2, 128, 1e-05, 512), {}),
    ("Some.Model-128k-8x7B-large-Q4_K_M--lora", decoder("LlamaForCausalLM", "llama", 64, 128, 2, 4, 2, 128, 1e-05, 512), {}),
    ("v3-llama3rope_x-iter12-A22B-1_5B", decoder("LlamaForCausalLM", "llama", 64, 128, 2, 4, 2, 128, 1e-05, 512), dict(parameters=(999_999_999_999, 1, 1, 0))),
    ("card", decoder("LlamaForCausalLM", "llama", 64, 128, 2, 4, 2, 128, 1e-05, 512),
     dict(card="---\nlicense: [mit, apache-2.0]\nmodel_name: Named By The Card\nmodel_creator: Someone\nmodel_type: llama\nbase_model:\n- https://huggingface.co/org/Base-7B-v2\n"
               "- https://example.org/other\n- bare-13B\nlanguages: en\nlanguage: fr\ndescription: >\n  folded\n  text\n---\n")),
]


def key_values(writer):
    """The store as [key, type, value]; numbers of 32 bits as the doubles that they are."""
    out = []
    for key, kv in writer.kv_data[0].items():
        kind, value = kv.type.name.lower(), kv.value
        if kind == "float32":
            value = float(np.float32(value))
        elif kind == "array":
            kind = f"array {type(value[0]).__name__}"
            value = list(value)
        out.append([key, kind, value])
    return out


def case(name, config, extra):
    with tempfile.TemporaryDirectory() as tmp:
        directory = Path(tmp, name)
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(config))
        for key, file in (("card", "README.md"), ("generation", "generation_config.json")):
            if key in extra:
                (directory / file).write_text(extra[key] if key == "card" else json.dumps(extra[key]))
        if "pooling" in extra:
            (directory / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]))
            (directory / "1_Pooling").mkdir()
            (directory / "1_Pooling/config.json").write_text(json.dumps(extra["pooling"]))
        save_file({"none": torch.zeros(1)}, directory / "model.safetensors")
        hparams = ModelBase.load_hparams(directory, False)
        cls = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
        cls.no_mtp = extra.get("no_mtp", False)
        model = cls(directory, gguf.LlamaFileType.MOSTLY_F16, Path(tmp, "out.gguf"))
        parameters = extra.get("parameters", PARAMETERS)
        model.gguf_writer.get_total_parameter_count = lambda: parameters
        list(model.generate_extra_tensors())
        ModelBase.prepare_metadata(model, vocab_only=False)
        kept = {k: extra[k] for k in ("card", "generation", "pooling") if k in extra}
        rows = config.get("text_config", config).get("vocab_size", 0)
        return {"name": name, "config": config, **kept, "parameters": list(parameters), "vocab_rows": rows, "file_type": 1,
                "arch": model.gguf_writer.arch, "expected": key_values(model.gguf_writer)}


def main():
    cases = [case(*c) for c in CASES]
    versions = {p: version(p) for p in ("gguf", "transformers")} | {"llama.cpp": "0c1e5709"}
    out = Path(__file__).resolve().parent.parent / "golden/keys.json"
    lines = ",\n".join(json.dumps(c, separators=(",", ":"), sort_keys=False) for c in cases)
    out.write_text(f'{{"versions":{json.dumps(versions)},"cases":[\n{lines}\n]}}\n')
    print(f"{len(cases)} cases, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
