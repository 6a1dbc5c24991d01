"""Writes testdata/golden/stack.json: what one layer of transformers' own models makes of made-up numbers.

    python testdata/make/stack.py

Each case is a layer of a real model class, in 32 bits with eager attention, its tensors filled by a formula that the tests
compute too (`values`), so that only shapes and outputs are kept. Tensors are named as a GGUF names them; how the class
spells and packs them is said in its case. Masks and rotary embeddings are the model's own: the whole model runs, and the
layer's input is put in on the way.
"""

import json
import math
import pathlib
import sys
import zlib

# Scripts here are called as the packages they use: this folder must not come before those.
sys.path = [p for p in sys.path if pathlib.Path(p or ".").resolve() != pathlib.Path(__file__).resolve().parent]

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers as tf  # noqa: E402

N, HIDDEN, FFN = 10, 16, 20
CASES = {}
COMMON = dict(
    vocab_size=32,
    hidden_size=HIDDEN,
    intermediate_size=FFN,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=64,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    attn_implementation="eager",
)


def values(name, shape, scale, shift):
    """A hash of place and name, as a number in [-1, 1), times scale, plus shift; each step rounded to 32 bits."""
    count = int(np.prod(shape))
    h = (np.arange(count, dtype=np.uint64) * 2654435761 + zlib.crc32(name.encode())) & 0xFFFFFFFF
    for shift_by, factor in ((15, 2246822519), (13, 3266489917)):
        h = ((h ^ (h >> np.uint64(shift_by))) * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
    h ^= h >> np.uint64(16)
    unit = ((h >> np.uint64(8)).astype(np.float32) / np.float32(1 << 23)) - np.float32(1)
    return torch.tensor((unit * np.float32(scale) + np.float32(shift)).reshape(shape))


class Tensors(dict):
    def __call__(self, name, *shape):
        if name.endswith("norm.weight") or name.endswith("norm_2.weight"):
            scale, shift = 0.5, 1.0
        elif len(shape) == 1:
            scale, shift = 0.5, 0.0
        else:
            scale, shift = float(np.float32(2.0 / math.sqrt(shape[-1]))), 0.0
        self[name] = dict(shape=list(shape), scale=scale, shift=shift)
        return values(name, shape, scale, shift)


def case(name, model, build, layer=0, mask=None, find=None, rope=None, batch=1):
    model = model.float().eval()
    tensors = Tensors()
    block = (find or (lambda m: m.layers[layer]))(model)
    state = {k: v.contiguous() for k, v in build(tensors).items()}
    missing, unexpected = block.load_state_dict(state, strict=False)
    missing = [m for m in missing if not m.endswith(("inv_freq", ".bias_mask"))]
    assert not missing and not unexpected, (name, missing, unexpected)
    x = values("x", (batch, N, HIDDEN), 1.75, 0.0)
    seen = {}

    def before(module, args, kwargs):
        if "hidden_states" in kwargs:
            return args, {**kwargs, "hidden_states": x}
        return (x, *args[1:]), kwargs

    def after(module, args, kwargs, output):
        seen["y"] = output[0] if isinstance(output, tuple) else output

    block.register_forward_pre_hook(before, with_kwargs=True)
    block.register_forward_hook(after, with_kwargs=True)
    extra = {} if mask is None else dict(attention_mask=torch.tensor(mask))
    with torch.no_grad():
        model(input_ids=torch.ones((batch, N), dtype=torch.long), **extra)
    y = seen["y"]
    if mask is not None:
        y = y * torch.tensor(mask)[..., None]
    assert y.shape == (batch, N, HIDDEN) and torch.isfinite(y).all(), (name, y.shape)
    out = dict(tensors=tensors, output=[float(f"{v:.8g}") for v in y.flatten().tolist()])
    if batch > 1:
        out["batch"] = batch
    if mask is not None:
        out["mask"] = mask
    if rope is None and hasattr(model, "rotary_emb"):
        rope = model.rotary_emb
    if rope is not None:
        kind = next((k for k in ("sliding_attention", "full_attention") if hasattr(rope, f"{k}_inv_freq")), None)
        if kind is not None:
            kind = model.config.layer_types[layer]
            inverse, factor = getattr(rope, f"{kind}_inv_freq"), getattr(rope, f"{kind}_attention_scaling")
        else:
            inverse, factor = rope.inv_freq, getattr(rope, "attention_scaling", 1.0)
        out["frequencies"] = [float(v) for v in inverse.tolist()]
        out["factor"] = float(factor)
    CASES[name] = out


def attention(t, heads=4, kv=2, dim=8, bias=False, out_bias=None, prefix="self_attn.", out="o_proj"):
    names = [("q_proj", "attn_q", heads), ("k_proj", "attn_k", kv), ("v_proj", "attn_v", kv)]
    state = {f"{prefix}{hf}.weight": t(f"{name}.weight", n * dim, HIDDEN) for hf, name, n in names}
    state[f"{prefix}{out}.weight"] = t("attn_output.weight", HIDDEN, heads * dim)
    if bias:
        state |= {f"{prefix}{hf}.bias": t(f"{name}.bias", n * dim) for hf, name, n in names}
    if bias if out_bias is None else out_bias:
        state[f"{prefix}{out}.bias"] = t("attn_output.bias", HIDDEN)
    return state


def gated(t, prefix="mlp.", suffix="", ffn=FFN):
    return {
        f"{prefix}gate_proj.weight": t(f"ffn_gate{suffix}.weight", ffn, HIDDEN),
        f"{prefix}up_proj.weight": t(f"ffn_up{suffix}.weight", ffn, HIDDEN),
        f"{prefix}down_proj.weight": t(f"ffn_down{suffix}.weight", HIDDEN, ffn),
    }


def norms(t, **names):
    return {f"{hf}.weight": t(f"{name}.weight", HIDDEN) for hf, name in names.items()}


PRE = dict(input_layernorm="attn_norm", post_attention_layernorm="ffn_norm")


def layer_norms(t, **names):
    return norms(t, **names) | {f"{hf}.bias": t(f"{name}.bias", HIDDEN) for hf, name in names.items()}


def stacked(t, prefix, count, ffn):
    """Experts as transformers 5 has them: gate and up in one, `[experts, out, in]`."""
    gate, up = t("ffn_gate_exps.weight", count, ffn, HIDDEN), t("ffn_up_exps.weight", count, ffn, HIDDEN)
    return {
        f"{prefix}gate_up_proj": torch.cat([gate, up], dim=1),
        f"{prefix}down_proj": t("ffn_down_exps.weight", count, HIDDEN, ffn),
    }


def dense_layers():
    def llama(t, **kw):
        return attention(t, **kw) | gated(t) | norms(t, **PRE)

    def head_norms(t, q=8, k=8):
        return {
            "self_attn.q_norm.weight": t("attn_q_norm.weight", q),
            "self_attn.k_norm.weight": t("attn_k_norm.weight", k),
        }

    case("llama", tf.LlamaModel(tf.LlamaConfig(**COMMON)), llama)
    scaled = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, rope_theta=1e4,
                  original_max_position_embeddings=16)
    case("llama3", tf.LlamaModel(tf.LlamaConfig(**COMMON, rope_parameters=scaled)), llama)
    yarn = dict(rope_type="yarn", factor=4.0, rope_theta=1e4, original_max_position_embeddings=16)
    case("yarn", tf.LlamaModel(tf.LlamaConfig(**COMMON, rope_parameters=yarn)), llama)
    case("qwen2", tf.Qwen2Model(tf.Qwen2Config(**COMMON)), lambda t: llama(t, bias=True, out_bias=False))
    case("qwen3", tf.Qwen3Model(tf.Qwen3Config(**COMMON)), lambda t: llama(t) | head_norms(t))
    case("mistral", tf.MistralModel(tf.MistralConfig(**COMMON, sliding_window=4)), llama)
    case(
        "olmo2",
        tf.Olmo2Model(tf.Olmo2Config(**COMMON)),
        lambda t: attention(t) | gated(t) | head_norms(t, 32, 16)
        | norms(t, post_attention_layernorm="post_attention_norm", post_feedforward_layernorm="post_ffw_norm"),
    )
    granite = tf.GraniteConfig(**COMMON, residual_multiplier=0.25, attention_multiplier=0.125)
    case("granite", tf.GraniteModel(granite), llama)

    # Gemma's norms multiply by 1 + weight; the tensor that is kept has the one in it.
    def gemma(t, extra):
        four = dict(
            input_layernorm="attn_norm",
            post_attention_layernorm="post_attention_norm",
            pre_feedforward_layernorm="ffn_norm",
            post_feedforward_layernorm="post_ffw_norm",
        )
        state = norms(t, **four) | extra(t)
        return attention(t) | gated(t) | {k: v - 1.0 for k, v in state.items()}

    gemma2 = tf.Gemma2Config(**COMMON, sliding_window=4, query_pre_attn_scalar=10, attn_logit_softcapping=2.0)
    case("gemma2", tf.Gemma2Model(gemma2), lambda t: gemma(t, lambda t: {}))
    case("gemma2 full", tf.Gemma2Model(gemma2), lambda t: gemma(t, lambda t: {}), layer=1)
    gemma3 = tf.Gemma3TextConfig(**COMMON, sliding_window=3, query_pre_attn_scalar=8)
    case("gemma3", tf.Gemma3TextModel(gemma3), lambda t: gemma(t, head_norms))

    def phi3(t):
        return norms(t, **PRE) | {
            "self_attn.qkv_proj.weight": t("attn_qkv.weight", 8 * 4, HIDDEN),
            "self_attn.o_proj.weight": t("attn_output.weight", HIDDEN, 16),
            "mlp.gate_up_proj.weight": t("ffn_up.weight", 2 * FFN, HIDDEN),
            "mlp.down_proj.weight": t("ffn_down.weight", HIDDEN, FFN),
        }

    for name, original in (("phi3 short", 32), ("phi3 long", 8)):
        rope = dict(rope_type="longrope", short_factor=[1.5], long_factor=[3.0], rope_theta=1e4,
                    partial_rotary_factor=0.5, original_max_position_embeddings=original)
        config = {**COMMON, "head_dim": 4}
        config = tf.Phi3Config(**config, rope_parameters=rope, original_max_position_embeddings=original)
        case(name, tf.Phi3Model(config), phi3)

    def starcoder2(t):
        mlp = {
            "mlp.c_fc.weight": t("ffn_up.weight", FFN, HIDDEN),
            "mlp.c_fc.bias": t("ffn_up.bias", FFN),
            "mlp.c_proj.weight": t("ffn_down.weight", HIDDEN, FFN),
            "mlp.c_proj.bias": t("ffn_down.bias", HIDDEN),
        }
        return attention(t, bias=True) | mlp | layer_norms(t, **PRE)

    case("starcoder2", tf.Starcoder2Model(tf.Starcoder2Config(**COMMON, sliding_window=4)), starcoder2)

    def gpt2(t):
        # Conv1D holds the transpose.
        state = layer_norms(t, ln_1="attn_norm", ln_2="ffn_norm")
        for hf, name, out, inputs in (
            ("attn.c_attn", "attn_qkv", 3 * HIDDEN, HIDDEN),
            ("attn.c_proj", "attn_output", HIDDEN, HIDDEN),
            ("mlp.c_fc", "ffn_up", FFN, HIDDEN),
            ("mlp.c_proj", "ffn_down", HIDDEN, FFN),
        ):
            state[f"{hf}.weight"] = t(f"{name}.weight", out, inputs).T
            state[f"{hf}.bias"] = t(f"{name}.bias", out)
        return state

    config = tf.GPT2Config(vocab_size=32, n_embd=HIDDEN, n_inner=FFN, n_layer=1, n_head=4, n_positions=64,
                           attn_implementation="eager")
    case("gpt2", tf.GPT2Model(config), gpt2, find=lambda m: m.h[0])

    def cohere(t):
        return attention(t) | gated(t) | norms(t, input_layernorm="attn_norm")

    case("cohere", tf.CohereModel(tf.CohereConfig(**COMMON)), cohere)


def encoders():
    mask = [[1] * N, [1] * 7 + [0] * (N - 7), [0] * N]

    def bert(t):
        state = layer_norms(
            t, **{"attention.output.LayerNorm": "attn_output_norm", "output.LayerNorm": "layer_output_norm"}
        )
        for hf, name, out, inputs in (
            ("attention.self.query", "attn_q", HIDDEN, HIDDEN),
            ("attention.self.key", "attn_k", HIDDEN, HIDDEN),
            ("attention.self.value", "attn_v", HIDDEN, HIDDEN),
            ("attention.output.dense", "attn_output", HIDDEN, HIDDEN),
            ("intermediate.dense", "ffn_up", FFN, HIDDEN),
            ("output.dense", "ffn_down", HIDDEN, FFN),
        ):
            state[f"{hf}.weight"] = t(f"{name}.weight", out, inputs)
            state[f"{hf}.bias"] = t(f"{name}.bias", out)
        return state

    config = dict(vocab_size=32, hidden_size=HIDDEN, intermediate_size=FFN, num_hidden_layers=2,
                  num_attention_heads=4, max_position_embeddings=64, attn_implementation="eager")
    case("bert", tf.BertModel(tf.BertConfig(**config)), bert, mask=mask, batch=3,
         find=lambda m: m.encoder.layer[0])

    def modernbert(t):
        return norms(t, attn_norm="attn_norm", mlp_norm="ffn_norm") | {
            "attn.Wqkv.weight": t("attn_qkv.weight", 3 * HIDDEN, HIDDEN),
            "attn.Wo.weight": t("attn_output.weight", HIDDEN, HIDDEN),
            "mlp.Wi.weight": t("ffn_up.weight", 2 * FFN, HIDDEN),
            "mlp.Wo.weight": t("ffn_down.weight", HIDDEN, FFN),
        }

    modern = tf.ModernBertConfig(**config, local_attention=6, global_attn_every_n_layers=2, pad_token_id=0)
    case("modernbert", tf.ModernBertModel(modern), modernbert, layer=1, mask=mask[:2], batch=2)


def mixtures():
    count, ffn = 8, 12

    def router(t, prefix="mlp.gate."):
        return {f"{prefix}weight": t("ffn_gate_inp.weight", count, HIDDEN)}

    base = {**COMMON, "num_local_experts": count, "num_experts_per_tok": 3}
    mixtral = tf.MixtralConfig(**{**base, "intermediate_size": ffn})
    case("mixtral", tf.MixtralModel(mixtral),
         lambda t: attention(t) | norms(t, **PRE) | router(t) | stacked(t, "mlp.experts.", count, ffn))

    for norm in (False, True):
        config = tf.Qwen3MoeConfig(**COMMON, num_experts=count, num_experts_per_tok=3, moe_intermediate_size=ffn,
                                   norm_topk_prob=norm)
        case(
            "qwen3moe normalised" if norm else "qwen3moe",
            tf.Qwen3MoeModel(config),
            lambda t: attention(t) | norms(t, **PRE) | router(t) | stacked(t, "mlp.experts.", count, ffn)
            | {f"self_attn.{k}_norm.weight": t(f"attn_{k}_norm.weight", 8) for k in "qk"},
        )

    def gpt_oss(t):
        gate, up = (t(f"ffn_{k}_exps.weight", count, FFN, HIDDEN) for k in ("gate", "up"))
        gate_bias, up_bias = (t(f"ffn_{k}_exps.bias", count, FFN) for k in ("gate", "up"))
        return attention(t, bias=True) | norms(t, input_layernorm="attn_norm", post_attention_layernorm="ffn_norm") | {
            "self_attn.sinks": t("attn_sinks.weight", 4),
            "mlp.router.weight": t("ffn_gate_inp.weight", count, HIDDEN),
            "mlp.router.bias": t("ffn_gate_inp.bias", count),
            "mlp.experts.gate_up_proj": torch.stack([gate, up], dim=2).reshape(count, 2 * FFN, HIDDEN).transpose(1, 2),
            "mlp.experts.gate_up_proj_bias": torch.stack([gate_bias, up_bias], dim=2).reshape(count, 2 * FFN),
            "mlp.experts.down_proj": t("ffn_down_exps.weight", count, HIDDEN, FFN).transpose(1, 2),
            "mlp.experts.down_proj_bias": t("ffn_down_exps.bias", count, HIDDEN),
        }

    oss = tf.GptOssConfig(**base, sliding_window=4, swiglu_limit=1.25)
    case("gpt-oss", tf.GptOssModel(oss), gpt_oss)

    def llama4(t):
        gate, up = (t(f"ffn_{k}_exps.weight", count, FFN, HIDDEN) for k in ("gate", "up"))
        return attention(t) | norms(t, **PRE) | gated(t, "feed_forward.shared_expert.", "_shexp") | {
            "feed_forward.router.weight": t("ffn_gate_inp.weight", count, HIDDEN),
            "feed_forward.experts.gate_up_proj": torch.cat([gate, up], dim=1).transpose(1, 2),
            "feed_forward.experts.down_proj": t("ffn_down_exps.weight", count, HIDDEN, FFN).transpose(1, 2),
        }

    four = dict(num_local_experts=count, num_experts_per_tok=1, moe_layers=[0, 1], no_rope_layers=[1, 0],
                attention_chunk_size=4, floor_scale=3, attn_scale=0.5, intermediate_size_mlp=FFN, use_qk_norm=True)
    for layer, name in ((0, "llama4 chunked"), (1, "llama4 without positions")):
        model = tf.Llama4TextModel(tf.Llama4TextConfig(**COMMON, **four))
        inverse = model.rotary_emb.inv_freq
        case(name, model, llama4, layer=layer)
        CASES[name]["frequencies"] = [float(v) for v in inverse.tolist()]

    # Multi-head latent attention. The matrix that makes keys and values of the latent is kept in two.
    heads, rank, nope, rope, value, short = 4, 12, 6, 4, 5, 10

    def latent(t, compressed):
        k_b = t("attn_k_b.weight", heads, rank, nope)
        v_b = t("attn_v_b.weight", heads, value, rank)
        state = {
            "self_attn.kv_a_proj_with_mqa.weight": t("attn_kv_a_mqa.weight", rank + rope, HIDDEN),
            "self_attn.kv_a_layernorm.weight": t("attn_kv_a_norm.weight", rank),
            "self_attn.kv_b_proj.weight": torch.cat([k_b.transpose(1, 2), v_b], dim=1).reshape(-1, rank),
            "self_attn.o_proj.weight": t("attn_output.weight", HIDDEN, heads * value),
        }
        if not compressed:
            return state | {"self_attn.q_proj.weight": t("attn_q.weight", heads * (nope + rope), HIDDEN)}
        return state | {
            "self_attn.q_a_proj.weight": t("attn_q_a.weight", short, HIDDEN),
            "self_attn.q_a_layernorm.weight": t("attn_q_a_norm.weight", short),
            "self_attn.q_b_proj.weight": t("attn_q_b.weight", heads * (nope + rope), short),
        }

    sizes = dict(kv_lora_rank=rank, qk_nope_head_dim=nope, qk_rope_head_dim=rope, v_head_dim=value,
                 moe_intermediate_size=ffn, n_shared_experts=1, first_k_dense_replace=0, routed_scaling_factor=1.5)
    multi = {**COMMON, "num_key_value_heads": heads}
    del multi["head_dim"]

    def moe(t, compressed, correction):
        state = latent(t, compressed) | norms(t, **PRE) | router(t) | stacked(t, "mlp.experts.", count, ffn)
        state |= gated(t, "mlp.shared_experts.", "_shexp", ffn)
        return state | ({"mlp.gate.e_score_correction_bias": t("exp_probs_b.bias", count)} if correction else {})

    third = tf.DeepseekV3Config(**multi, **sizes, q_lora_rank=short, n_routed_experts=count, num_experts_per_tok=3,
                                n_group=4, topk_group=2, norm_topk_prob=True)
    case("deepseek3", tf.DeepseekV3Model(third), lambda t: moe(t, True, True))
    for method, name in (("greedy", "deepseek2 lite"), ("group_limited_greedy", "deepseek2")):
        second = tf.DeepseekV2Config(**multi, **sizes, q_lora_rank=None, n_routed_experts=count,
                                     num_experts_per_tok=3, topk_method=method, n_group=4, topk_group=2,
                                     norm_topk_prob=False)
        case(name, tf.DeepseekV2Model(second), lambda t: moe(t, False, False))

    glm = {**COMMON, "num_local_experts": count}
    glm = tf.Glm4MoeConfig(**COMMON, n_routed_experts=count, num_experts_per_tok=3, moe_intermediate_size=ffn,
                           n_shared_experts=1, first_k_dense_replace=0, n_group=1, topk_group=1, norm_topk_prob=True,
                           routed_scaling_factor=2.0, use_qk_norm=True, attention_bias=True,
                           rope_parameters=dict(rope_type="default", rope_theta=1e4, partial_rotary_factor=0.5))

    def glm4(t):
        state = attention(t, bias=True, out_bias=False) | norms(t, **PRE) | router(t)
        state |= stacked(t, "mlp.experts.", count, ffn) | gated(t, "mlp.shared_experts.", "_shexp", ffn)
        state |= {f"self_attn.{k}_norm.weight": t(f"attn_{k}_norm.weight", 8) for k in "qk"}
        return state | {"mlp.gate.e_score_correction_bias": t("exp_probs_b.bias", count)}

    case("glm4moe", tf.Glm4MoeModel(glm), glm4)


torch.manual_seed(0)
dense_layers()
encoders()
mixtures()
golden = dict(
    versions=dict(torch=torch.__version__.split("+")[0], transformers=tf.__version__),
    tokens=N,
    hidden=HIDDEN,
    cases=CASES,
)
path = pathlib.Path(__file__).resolve().parent.parent / "golden" / "stack.json"
path.write_text(json.dumps(golden, separators=(",", ":")).replace('},"', '},\n"') + "\n")
print(f"{path.name}: {len(CASES)} cases, {path.stat().st_size} bytes")
