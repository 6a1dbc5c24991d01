"""Writes testdata/golden/forward.json: how models compute, as the modules of transformers say that they do.

    python testdata/make/forward.py

Each case is a config: that of a folder of testdata/families/, or one of CASES here, which have the numbers of published
models and every scaling of rotary frequencies. A model is made of it without weights, and asked: frequencies and scales
are attributes of its modules; what a layer sees of the past is the mask that the model hands to it (of the tiny models,
which are run for it). Nothing here repeats a rule of the library under test.
"""

import json
import pathlib
import sys
import warnings

# Scripts here are called as the packages they use: this folder must not come before those.
sys.path = [p for p in sys.path if pathlib.Path(p or ".").resolve() != pathlib.Path(__file__).resolve().parent]

import torch  # noqa: E402
import transformers as tf  # noqa: E402

warnings.filterwarnings("ignore")
tf.logging.set_verbosity_error()

# Longer than every window of the tiny models.
LENGTH = 96


def config(kind, cls, hidden, layers, heads, kv, **more):
    return dict(architectures=[cls], model_type=kind, hidden_size=hidden, intermediate_size=hidden * 2,
                num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv, vocab_size=256, **more)


def llama(**more):
    return config("llama", "LlamaForCausalLM", 512, 2, 4, 2, max_position_embeddings=4096, **more)


def rope(kind, **more):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 500000.0, **more}}


def long(factor):
    return [round(1 + factor * i / 48, 4) for i in range(48)]


YARN = dict(factor=32.0, beta_fast=32.0, beta_slow=1.0, original_max_position_embeddings=4096)

CASES = {
    # the scalings, in both dialects
    "linear": llama(**rope("linear", factor=4.0)),
    "linear, old": llama(rope_theta=10000.0, rope_scaling={"type": "linear", "factor": 2.5}),
    "dynamic": llama(**rope("dynamic", factor=4.0)),
    "llama3": llama(**rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                           original_max_position_embeddings=1024)),
    "llama3, old": llama(rope_theta=500000.0, rope_scaling={"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 2048}),
    "llama3, original at the top": llama(original_max_position_embeddings=512, **rope(
        "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=1024)),
    "yarn": llama(**rope("yarn", factor=4.0, original_max_position_embeddings=1024)),
    "yarn, its original not said": llama(**rope("yarn", factor=4.0)),
    "yarn, not truncated": llama(**rope("yarn", truncate=False, **YARN)),
    "yarn, attention factor": llama(**rope("yarn", attention_factor=1.25, **YARN)),
    "yarn, mscale": llama(**rope("yarn", mscale=1.2, mscale_all_dim=0.8, **YARN)),
    "yarn, mscale alone": llama(**rope("yarn", mscale=1.2, **YARN)),
    "yarn, betas": llama(**rope("yarn", factor=8.0, beta_fast=16, beta_slow=2, original_max_position_embeddings=512)),
    "longrope": llama(head_dim=96, **rope("longrope", short_factor=long(1), long_factor=long(40), factor=4.0,
                                         original_max_position_embeddings=1024)),
    "head dim": llama(head_dim=80, **rope("default")),
    "biases": llama(attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    # families with the numbers of published models, fewer and narrower layers
    "Mistral 7B v0.1": config("mistral", "MistralForCausalLM", 512, 3, 4, 1, sliding_window=4096, rope_theta=10000.0),
    "Mistral, said nothing": config("mistral", "MistralForCausalLM", 512, 1, 16, 8),
    "Qwen2, no groups": config("qwen2", "Qwen2ForCausalLM", 512, 1, 4, None),
    "Mixtral 8x7B": config("mixtral", "MixtralForCausalLM", 512, 1, 4, 1, num_local_experts=8, num_experts_per_tok=2,
                           sliding_window=None, rope_theta=1000000.0, rms_norm_eps=1e-05),
    "Qwen2 with a window": config("qwen2", "Qwen2ForCausalLM", 512, 4, 4, 1, use_sliding_window=True, sliding_window=1024,
                                  max_window_layers=2, rope_theta=1000000.0),
    "Qwen3 types": config("qwen3", "Qwen3ForCausalLM", 512, 2, 4, 1, head_dim=128, use_sliding_window=True,
                          sliding_window=64, layer_types=["sliding_attention", "full_attention"]),
    "Qwen3 MoE": config("qwen3_moe", "Qwen3MoeForCausalLM", 512, 2, 4, 1, head_dim=128, num_experts=16,
                        num_experts_per_tok=4, norm_topk_prob=True, moe_intermediate_size=64, use_sliding_window=True,
                        sliding_window=128),
    "Gemma 2 27B": config("gemma2", "Gemma2ForCausalLM", 4608, 3, 32, 16, head_dim=128, query_pre_attn_scalar=144,
                          hidden_activation="gelu_pytorch_tanh", sliding_window=4096),
    "Gemma 2, no caps": config("gemma2", "Gemma2ForCausalLM", 512, 2, 4, 2, head_dim=64, attn_logit_softcapping=None,
                               final_logit_softcapping=None),
    "Gemma 3 4B": {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": {
        "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 64, "num_hidden_layers": 7,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256, "sliding_window": 1024,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}},
    "Gemma 3 1B": config("gemma3_text", "Gemma3ForCausalLM", 1152, 8, 4, 1, head_dim=256, query_pre_attn_scalar=256,
                         rope_local_base_freq=20000, rope_theta=2000000.0, sliding_window=512, sliding_window_pattern=3),
    "Phi 4 mini": config("phi3", "Phi3ForCausalLM", 512, 2, 4, 2, partial_rotary_factor=0.75, max_position_embeddings=131072,
                         original_max_position_embeddings=4096, sliding_window=262144, pad_token_id=0, eos_token_id=1,
                         rope_scaling={"type": "longrope", "short_factor": long(1), "long_factor": long(30)}),
    "Phi 3, su": config("phi3", "Phi3ForCausalLM", 384, 2, 4, 4, max_position_embeddings=8192, pad_token_id=0,
                        original_max_position_embeddings=2048,
                        rope_scaling={"type": "su", "original_max_position_embeddings": 2048,
                        "short_factor": long(1), "long_factor": long(30)}),
    "GPT-2, scaled by depth": dict(architectures=["GPT2LMHeadModel"], model_type="gpt2", n_embd=128, n_layer=3, n_head=4,
                                   vocab_size=256, scale_attn_by_inverse_layer_idx=True, n_positions=64),
    "GPT-2, unscaled": dict(architectures=["GPT2LMHeadModel"], model_type="gpt2", n_embd=128, n_layer=2, n_head=4,
                            vocab_size=256, scale_attn_weights=False, layer_norm_epsilon=1e-6),
    "StarCoder2 3B": config("starcoder2", "Starcoder2ForCausalLM", 384, 2, 6, 2, sliding_window=4096,
                            rope_theta=999999.4420358813, norm_epsilon=1e-05),
    "OLMo 3 7B": config("olmo3", "Olmo3ForCausalLM", 512, 5, 4, 4, sliding_window=4096, rope_theta=500000, rms_norm_eps=1e-06,
                        max_position_embeddings=65536, rope_scaling={"attention_factor": 1.2079441541679836,
                        "beta_fast": 32.0, "beta_slow": 1.0, "factor": 8.0, "original_max_position_embeddings": 8192,
                        "rope_type": "yarn"}),
    "OLMo 3, by types": config("olmo3", "Olmo3ForCausalLM", 512, 4, 4, 4, sliding_window=128, rope_parameters={
        "full_attention": {"rope_type": "yarn", "rope_theta": 500000.0, "factor": 8.0, "original_max_position_embeddings": 8192},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}),
    "Granite 3.1": config("granite", "GraniteForCausalLM", 512, 2, 4, 2, attention_multiplier=0.015625,
                          embedding_multiplier=12.0, residual_multiplier=0.22, logits_scaling=8.0, rope_theta=5000000.0,
                          tie_word_embeddings=True),
    "SmolLM3, window": config("smollm3", "SmolLM3ForCausalLM", 512, 6, 4, 2, no_rope_layer_interval=3, use_sliding_window=True,
                              sliding_window=32, rope_theta=5000000.0, pad_token_id=0),
    "DeepSeek V2": config("deepseek_v2", "DeepseekV2ForCausalLM", 512, 3, 4, 4, q_lora_rank=96, kv_lora_rank=64,
                          qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, n_routed_experts=16, n_group=4,
                          topk_group=2, topk_method="group_limited_greedy", num_experts_per_tok=6, n_shared_experts=2,
                          routed_scaling_factor=16.0, norm_topk_prob=False, first_k_dense_replace=1,
                          moe_intermediate_size=64, max_position_embeddings=163840, rope_theta=10000, rope_scaling={
                          "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707,
                          "original_max_position_embeddings": 4096, "type": "yarn"}),
    "DeepSeek V3": config("deepseek_v3", "DeepseekV3ForCausalLM", 512, 3, 4, 4, q_lora_rank=None, kv_lora_rank=64,
                          qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, n_routed_experts=16, n_group=8,
                          topk_group=4, num_experts_per_tok=8, n_shared_experts=1, routed_scaling_factor=2.5,
                          norm_topk_prob=True, first_k_dense_replace=2, moe_intermediate_size=64, scoring_func="sigmoid",
                          topk_method="noaux_tc", max_position_embeddings=163840, rope_theta=10000, rope_scaling={
                          "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
                          "original_max_position_embeddings": 4096, "type": "yarn"}),
    "gpt-oss": config("gpt_oss", "GptOssForCausalLM", 512, 4, 8, 2, head_dim=64, num_local_experts=8, num_experts_per_tok=4,
                      sliding_window=128, rope_theta=150000, rope_scaling={**YARN, "rope_type": "yarn", "truncate": False}),
    "GLM 4.5": config("glm4_moe", "Glm4MoeForCausalLM", 512, 3, 4, 2, head_dim=128, use_qk_norm=True, n_routed_experts=8,
                      num_experts_per_tok=4, first_k_dense_replace=1, moe_intermediate_size=64, rope_theta=1000000,
                      partial_rotary_factor=0.5, routed_scaling_factor=2.5, norm_topk_prob=True, rope_scaling=None),
    "Llama 4 Scout": {"architectures": ["Llama4ForConditionalGeneration"], "model_type": "llama4", "text_config": {
        **config("llama4_text", "Llama4ForCausalLM", 512, 8, 4, 2), "head_dim": 128, "intermediate_size_mlp": 1024,
        "num_local_experts": 4, "interleave_moe_layer_step": 2, "rope_theta": 500000.0, "rope_scaling": {"factor": 16.0,
        "high_freq_factor": 1.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"}}},
    "Llama 4, not tuned": {**config("llama4_text", "Llama4ForCausalLM", 512, 4, 4, 2), "head_dim": 128, "use_qk_norm": False,
                           "attn_temperature_tuning": False, "num_local_experts": 2, "moe_layers": [2],
                           "intermediate_size_mlp": 1024, "no_rope_layers": [1, 0, 0, 1]},
}


def body(model):
    """The module with the layers, and them."""
    for name, module in model.named_modules():
        for key in ("layers", "h"):
            inner = getattr(module, key, None)
            if isinstance(inner, torch.nn.ModuleList) and "vision" not in name:
                return module, inner
    raise SystemExit("no layers")


def masks(cls, conf):
    """For each layer the first position that some positions see."""
    torch.manual_seed(0)
    model = cls._from_config(conf, attn_implementation="eager").eval()
    seen = {}
    _, layers = body(model)
    for index, layer in enumerate(layers):
        attention = getattr(layer, "self_attn", None) or layer.attn

        def hook(module, args, kwargs, index=index):
            mask = kwargs["attention_mask"]
            seen[index] = [int((mask[0, 0, i] == 0).nonzero()[0]) for i in (0, 20, 70, length - 1)]

        attention.register_forward_pre_hook(hook, with_kwargs=True)
    length = min(LENGTH, conf.get_text_config().max_position_embeddings)
    if length < LENGTH:
        return None
    with torch.no_grad():
        model(input_ids=torch.arange(length)[None] % 200)
    return [seen[i] for i in range(len(layers))]


def expert_facts(mlp):
    router = getattr(mlp, "gate", None) or getattr(mlp, "router", None)
    experts = getattr(mlp, "experts", None)
    if experts is None or router is None:
        return None
    facts = {"count": router.num_experts, "used": router.top_k}
    for key, ours in (("num_group", "groups"), ("topk_group", "groups_used"), ("routed_scaling_factor", "scale"),
                      ("norm_topk_prob", "normalise"), ("topk_method", "method")):
        if getattr(router, key, None) is not None:
            facts[ours] = getattr(router, key)
    facts["shared"] = any(hasattr(mlp, key) for key in ("shared_expert", "shared_experts"))
    facts["correction"] = hasattr(router, "e_score_correction_bias")
    for key in ("alpha", "limit"):
        if hasattr(experts, key):
            facts[key] = getattr(experts, key)
    return facts


def eps(module):
    for key in ("variance_epsilon", "eps"):
        if hasattr(module, key):
            return getattr(module, key)


def facts(conf):
    cls = getattr(tf, conf.architectures[0])
    text = conf.get_text_config()
    if "ConditionalGeneration" in conf.architectures[0]:
        cls = {"gemma3": tf.Gemma3ForCausalLM, "llama4": tf.Llama4ForCausalLM}[conf.model_type]
    with torch.device("meta"):
        model = cls._from_config(text, attn_implementation="eager")
    inner, layers = body(model)
    out = {"hidden": text.hidden_size, "kv_heads": getattr(text, "num_key_value_heads", text.num_attention_heads),
           "layers": []}
    rotary = getattr(inner, "rotary_emb", None)
    if rotary is not None:
        rotary = type(rotary)(text)
        names = [n for n, _ in rotary.named_buffers() if n.endswith("inv_freq") and "original" not in n]
        out["ropes"] = {}
        for name in names:
            kind = name.removesuffix("inv_freq").rstrip("_")
            scaling = getattr(rotary, f"{kind}_attention_scaling" if kind else "attention_scaling")
            found = {"frequencies": getattr(rotary, name).tolist(), "scale": scaling}
            if "longrope" in str(rotary.rope_type):
                original = text.rope_parameters["original_max_position_embeddings"]
                rotary(torch.zeros(1), torch.tensor([[original]]))
                found["long"] = {"above": original, "frequencies": rotary.inv_freq.tolist()}
            out["ropes"][kind or "full_attention"] = found
    embedding = getattr(inner, "embed_tokens", None)
    scale = getattr(embedding, "scalar_embed_scale", None)
    out["embedding_scale"] = scale if scale is not None else getattr(inner, "embedding_multiplier", 1.0)
    out["final_eps"] = eps(getattr(inner, "norm", None) or inner.ln_f)
    out["logit_divisor"] = getattr(text, "logits_scaling", 1.0)
    out["logit_cap"] = getattr(text, "final_logit_softcapping", None)
    out["tied"] = bool(conf.tie_word_embeddings)
    types = getattr(text, "layer_types", None)
    seen = masks(cls, text) if text.hidden_size <= 128 else None
    for index, layer in enumerate(layers):
        attention = getattr(layer, "self_attn", None) or layer.attn
        mlp = getattr(layer, "mlp", None) or layer.feed_forward
        row = {"scale": attention.scaling, "head_dim": getattr(attention, "qk_head_dim", None) or attention.head_dim}
        row["eps"] = sorted({eps(m) for n, m in layer.named_children() if eps(m) is not None})
        row["rotates"] = rotary is not None and bool(getattr(attention, "use_rope", True))
        norm = getattr(attention, "q_norm", None) or getattr(attention, "qk_norm", None)
        if norm is not None:
            row["head_norm"] = [type(norm).__name__.endswith("L2Norm"), eps(norm)]
        latent = getattr(attention, "kv_a_layernorm", None)
        if latent is not None:
            row["latent_eps"] = eps(latent)
        if getattr(attention, "sliding_window", None) is not None and types is not None:
            row["window"] = attention.sliding_window
        if types is not None and types[index] != "full_attention":
            row["type"] = types[index]
        row["cap"] = getattr(attention, "attn_logit_softcapping", None) if "Gemma2" in type(attention).__name__ else None
        row["sinks"] = hasattr(attention, "sinks")
        row["residual_scale"] = getattr(layer, "residual_multiplier", 1.0)
        experts = expert_facts(mlp)
        if experts is not None:
            row["experts"] = experts
        if getattr(attention, "attn_temperature_tuning", False) and not row["rotates"]:
            row["temperature"] = [attention.floor_scale, attention.attn_scale]
        if seen is not None:
            row["first_seen"] = seen[index]
        out["layers"].append(row)
    if types is None:
        out["window"] = getattr(text, "sliding_window", None)
    return out


def read(config):
    return tf.AutoConfig.for_model(**json.loads(json.dumps(config)))


def main():
    cases = {}
    for folder in sorted(pathlib.Path("testdata/families").iterdir()):
        config = json.loads((folder / "config.json").read_text())
        if "bert" not in folder.name:
            cases["families/" + folder.name] = (config, None)
    for name, config in CASES.items():
        cases[name] = (config, config)
    out = []
    for name, (config, kept) in cases.items():
        print(name)
        out.append({"name": name, **({"config": kept} if kept else {}), **facts(read(config))})
    golden = {"versions": {"torch": torch.__version__, "transformers": tf.__version__}, "cases": out}
    rows = ",\n".join(json.dumps(case, separators=(",", ":")) for case in golden.pop("cases"))
    head = json.dumps(golden)[:-1]
    pathlib.Path("testdata/golden/forward.json").write_text(f'{head}, "cases": [\n{rows}\n]}}\n')


main()
