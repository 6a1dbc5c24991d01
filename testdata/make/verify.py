"""What transformers computes: goldens for the forward pass, one file a case, in testdata/golden/verify/.

Run from the repository's root, with a Python that has torch, transformers, safetensors and numpy:

    python testdata/make/verify.py [CASE…]              the families of testdata/families that have a vocabulary, and VARIANTS
    python testdata/make/verify.py reference OUT [CASE…]  the same answers whole, as `hoist verify --reference` reads them: OUT/CASE.safetensors
    python testdata/make/verify.py trained              rustdoc.json, rustdoc.safetensors: the trained model on the beginning of its text

A case is a model of testdata/families, made from its spec by families.py, as it is or with other values in its config (a
*variant*: what no published tiny config asks for, a window in Mistral, a base in yarn, a router that does not normalise). One
sequence of ids, longer than every window, chunk, step of temperature and original length that the config names, goes
through the model with eager attention on the CPU. A file holds

    input_ids  [1, n] i64
    sample     [n, 32] f32: of each position p the logits of the tokens (29 p + k ⌊V / 32⌋) mod V, k = 0…31
    last       [V] f32: the last position's logits

and in its metadata the versions, the config's edit, max|logit| over all positions (`scale`: errors are relative to it), whether a
GGUF of it is the `same` model (`GGUF` says why not), and as fractions of it what other arithmetic gives, over all positions: `f64` (how far float32 is from float64 in transformers itself)
and `bf16_max`, `bf16_rms`, `bf16_median` (how far its bf16 is from its f32, the last a position's root mean square, half of
them being further; this is the limit for ours). A sample of each position is kept
and not some positions whole, because what goes wrong goes wrong at a position: at a window's edge, after a chunk.

Ids are drawn again (another salt) where much hangs on rounding, as a router's choice may: where f32 and f64 differ by more
than 5e-6; the best of ten is kept.
"""

import importlib.util
import json
import math
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path = [p for p in sys.path if pathlib.Path(p or ".").resolve() != HERE]
sys.dont_write_bytecode = True
ROOT = HERE.parent.parent
GOLDEN = ROOT / "testdata/golden/verify"

import numpy as np  # noqa: E402

spec = importlib.util.spec_from_file_location("families_maker", HERE / "families.py")
models = importlib.util.module_from_spec(spec)
spec.loader.exec_module(models)

COLUMNS, LENGTH = 32, 160
# Where another length is needed: gpt2 has 64 positions; longrope changes over beyond 256.
LENGTHS = {"gpt2": 64, "gpt2-files": 64, "phi3-longrope": 288}

ROPE = "rope_parameters"
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
# case → (family, values put into config.json; a dict is merged, None removes)
VARIANTS = {
    "phi3-longrope.short": ("phi3-longrope", {}),
    "mistral.window": ("mistral", {"sliding_window": 24}),
    "mixtral.window": ("mixtral", {"sliding_window": 24}),
    "starcoder2.window": ("starcoder2", {"sliding_window": 24}),
    "phi3.window": ("phi3", {"sliding_window": 24}),
    "phi3.partial": ("phi3", {"partial_rotary_factor": 0.5, ROPE: {"partial_rotary_factor": 0.5}}),
    "qwen2.window": ("qwen2", {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1,
                               "layer_types": ["full_attention", "sliding_attention"]}),
    "qwen3.yarn": ("qwen3", {ROPE: {**YARN, "attention_factor": 1.3, "beta_fast": 16.0, "beta_slow": 2.0}}),
    "llama.gelu": ("llama", {"hidden_act": "gelu"}),
    "llama.gelu-tanh": ("llama", {"hidden_act": "gelu_pytorch_tanh"}),
    "qwen3_moe.plain": ("qwen3_moe", {"norm_topk_prob": False}),
    "deepseek_v2.groups": ("deepseek_v2", {"topk_method": "group_limited_greedy", "n_group": 2, "topk_group": 1}),
    "deepseek_v3.plain": ("deepseek_v3", {"norm_topk_prob": False}),
    "deepseek_v3.mscale": ("deepseek_v3", {ROPE: {"mscale": 0.707, "mscale_all_dim": 0.5, "factor": 16.0}}),
    "glm4_moe.groups": ("glm4_moe", {"n_group": 2, "topk_group": 1, "norm_topk_prob": False}),
    "gemma2.caps": ("gemma2", {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 10.0}),
    "gemma3.linear": ("gemma3", {ROPE: {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0}}}),
    "llama4.even": ("llama4", {"attn_temperature_tuning": False, "use_qk_norm": False}),
    "llama4.published": ("llama4", {"attention_chunk_size": 8192, "floor_scale": 8192}),
    "gpt_oss.truncate": ("gpt_oss", {ROPE: {"rope_theta": 10000.0, "truncate": True}}),
    "smollm3.every-other": ("smollm3", {"no_rope_layers": [1, 0, 1, 0]}),
    "gpt2.scaled": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "qwen2.untied-theta": ("qwen2", {ROPE: {"rope_theta": 1000000.0}}),
}
LENGTHS["phi3-longrope.short"] = 160

# What a GGUF of a case is, where it is not the same model: "refused" by the converter, or one that "differs", and why.
WINDOW = "the engine has no window in this family, and no key says one"
CHUNKS = "the engine's chunks and steps of temperature are 8192 long, and no key says others"
GGUF = {
    "mistral.window": ("differs", WINDOW), "mixtral.window": ("differs", WINDOW), "starcoder2.window": ("differs", WINDOW),
    "qwen2.window": ("differs", WINDOW), "llama4": ("differs", CHUNKS), "llama4-vision": ("differs", CHUNKS), "llama4.even": ("differs", CHUNKS),
    "qwen3_moe.plain": ("differs", "the engine normalises in this family"),
    "llama.gelu": ("refused", "one activation a family"), "llama.gelu-tanh": ("refused", "one activation a family"),
    "deepseek_v3.mscale": ("refused", "one factor for both"), "smollm3.every-other": ("refused", "every fourth layer"),
    "gpt2.scaled": ("refused", "no such scale"),
    "gpt_oss.truncate": ("differs", "no key says `truncate`, and a GGUF is read as the published models have it"),
}


def cases():
    """Families whose answer is logits, then the variants."""
    plain = [n for n, f in models.table().items() if "BertModel" not in f.model and "RobertaModel" not in f.model]
    return {n: (n, {}) for n in plain} | VARIANTS


def merged(config, edit):
    for key, value in edit.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            merged(config[key], value)
        elif value is None:
            config.pop(key, None)
        else:
            config[key] = value
    return config


def input_ids(case, salt, length):
    import torch

    r = models.random64(f"{case}: verify {salt}", length)
    return torch.from_numpy((8 + (r >> np.uint64(40)).astype(np.int64) % (models.VOCAB - 16)).reshape(1, length))


def logits_of(model, ids):
    import torch

    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits[0].double()


def loaded(name, edit, tmp):
    """The case's model in float32; its directory."""
    family = models.table()[name]
    tmp = pathlib.Path(tmp)
    tmp.mkdir(exist_ok=True)
    directory = models.write(name, tmp / "model")
    path = directory / "config.json"
    path.write_text(json.dumps(merged(json.loads(path.read_text()), edit), indent=1))
    return eager(models.load_model(family, directory, tmp)), family, directory


def eager(model):
    """Attention is eager already; experts must be too: their grouped kernel knows no float64."""
    model.set_experts_implementation("eager")
    return model


def in_bf16(family, directory, tmp):
    """The same weights loaded as bf16, as a user loads them: what the modelling file keeps in float32 stays so."""
    import torch
    import transformers as tf

    path = pathlib.Path(tmp, "plain") if family.load else directory
    return eager(getattr(tf, family.model).from_pretrained(path, dtype=torch.bfloat16, attn_implementation="eager").eval())


def versions():
    return {k: v for k, v in models.versions().items() if k in ("torch", "transformers", "safetensors")}


def answers(case):
    """(ids, logits [n, V] float64, facts)."""
    name, edit = cases()[case]
    length = LENGTHS.get(case, LENGTHS.get(name, LENGTH))
    with tempfile.TemporaryDirectory() as tmp:
        model, family, directory = loaded(name, edit, tmp)
        tried = []
        while len(tried) < 10 and not (tried and tried[-1][0] < 5e-6):
            ids = input_ids(case, len(tried), length)
            single = logits_of(model, ids)
            scale = single.abs().max().item()
            double = logits_of(model.double(), ids)
            model.float()
            tried.append((((single - double).abs().max() / scale).item(), len(tried), ids, single, scale))
        rounding, salt, ids, single, scale = min(tried, key=lambda t: t[0])
        assert rounding < 1e-5, f"{case}: float32 and float64 differ by {rounding:.1e}"
        if edit:
            plain = logits_of(loaded(name, {}, pathlib.Path(tmp, "unedited"))[0], ids)
            change = ((plain - single).abs().max() / scale).item()
            assert change > 1e-2, f"{case}: the edit changes the answer by {change:.1e} only"
        half = logits_of(in_bf16(family, directory, tmp), ids)
        off = (half - single).abs() / scale
        facts = {"family": name, "edit": edit, "salt": salt, "scale": scale, "f64": rounding, "bf16_max": off.max().item(),
                 "bf16_rms": math.sqrt((off**2).mean().item()),
                 "bf16_median": (off**2).mean(-1).sqrt().median().item()}
        assert single.isfinite().all() and half.isfinite().all() and 1 < scale < 200, (case, scale)
    facts["gguf"], _ = GGUF.get(case, ("same", ""))
    return ids, single, facts


def short(x):
    return json.dumps(float(f"{x:.4g}")) if isinstance(x, float) else json.dumps(x) if not isinstance(x, str) else x


def make(case):
    import torch
    from safetensors.torch import save_file

    ids, logits, facts = answers(case)
    positions, vocabulary = logits.shape
    columns = (29 * torch.arange(positions)[:, None] + torch.arange(COLUMNS)[None, :] * (vocabulary // COLUMNS)) % vocabulary
    out = {"input_ids": ids, "sample": logits.gather(1, columns).float().contiguous(), "last": logits[-1].float().contiguous()}
    meta = {k: short(v) for k, v in facts.items()} | {"versions": json.dumps(versions())}
    GOLDEN.mkdir(parents=True, exist_ok=True)
    save_file(out, GOLDEN / f"{case}.safetensors", meta)
    print(f"{case:22} {positions:3} × {vocabulary}  scale {facts['scale']:6.2f}  f64 {facts['f64']:.1e}  "
          f"bf16 max {facts['bf16_max']:.1e} rms {facts['bf16_rms']:.1e}  salt {facts['salt']}", flush=True)


def whole(case, out):
    from safetensors.torch import save_file

    ids, logits, _ = answers(case)
    out.mkdir(parents=True, exist_ok=True)
    save_file({"input_ids": ids, "logits": logits.float()[None].contiguous()}, out / f"{case}.safetensors")


def perplexity(model, ids, width, stride):
    """(tokens scored, exp of their mean negative log-likelihood): windows of at most `width` tokens start at 0, stride, 2·stride, …; in
    each the tokens that were not scored before are scored, except a window's first."""
    import torch

    done, total, count, start = 0, 0.0, 0, 0
    while done < len(ids):
        window = torch.tensor([ids[start:start + width]])
        scores = logits_of(model, window).log_softmax(-1)
        first = max(done - start, 1)
        total -= scores[first - 1:-1].gather(1, window[0, first:, None]).sum().item()
        count += window.shape[1] - first
        done = start + window.shape[1]
        start += stride
    return count, math.exp(total / count)


def trained(kept=16, characters=8000):
    """The trained model: perplexity of the beginning of its text, and the logits of the first tokens as a reference file."""
    import torch
    import transformers as tf
    from safetensors.torch import save_file

    directory, text = ROOT / "testdata/rustdoc-llama-6m", ROOT / "testdata/rustdoc-valid.txt"
    tf.logging.set_verbosity_error()
    tf.logging.disable_progress_bar()
    model = tf.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    tokens = lambda text: tf.AutoTokenizer.from_pretrained(directory)(text, add_special_tokens=False).input_ids
    whole = text.read_bytes().decode("utf-8")
    text = whole[:whole.index("\n\n", characters)]
    ids = tokens(text)
    first = torch.tensor([ids[:kept]])
    save_file({"input_ids": first, "logits": logits_of(model, first)[None].float().contiguous()}, GOLDEN / "rustdoc.safetensors",
              {"versions": json.dumps(versions())})
    rows = [dict(zip(("window", "stride", "scored", "perplexity"), (w, s, *perplexity(model, ids, w, s)))) for w, s in ((256, 256), (256, 128), (512, 256))]
    golden = {"versions": versions(), "bytes": len(text.encode()), "tokens": len(ids), "perplexity": rows,
              "whole": {"tokens": len(tokens(whole)), "bytes": len(whole.encode())}}
    (GOLDEN / "rustdoc.json").write_text(json.dumps(golden, indent=1) + "\n")
    print(golden)


def main():
    import torch

    torch.set_num_threads(1)
    args = sys.argv[1:]
    if args and args[0] == "trained":
        return trained()
    out = None
    if args and args[0] == "reference":
        out, args = pathlib.Path(args[1]), args[2:]
    failed = []
    for case in args or cases():
        try:
            whole(case, out) if out else make(case)
        except Exception as e:
            failed.append(case)
            print(f"{case}: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
    if failed:
        sys.exit(f"failed: {' '.join(failed)}")


if __name__ == "__main__":
    main()
