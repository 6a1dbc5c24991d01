"""Golden types of testdata/golden/mixtures.json: what llama-quantize would make of each tensor, by its own --dry-run.

    python mixtures.py LLAMA_QUANTIZE OUT.json

Needs gguf (0.19). The models have keys and names, and holes for data: nothing but their description is looked at. For each
model and mixture the file holds one letter a tensor, in the order in which llama-quantize walks them.
"""

import json
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

# This folder's gguf.py would shadow the package.
HERE = Path(__file__).resolve().parent
sys.path = [p for p in sys.path if Path(p or ".").resolve() != HERE]

import gguf  # noqa: E402
import numpy  # noqa: E402

MIXTURES = """q4_0 q4_1 q5_0 q5_1 q8_0 q2_k q2_k_s q3_k_s q3_k_m q3_k_l q4_k_s q4_k_m q5_k_s q5_k_m q6_k iq4_nl iq4_xs tq1_0 tq2_0
mxfp4_moe""".split()


def dense(layers, width, inner, kv, vocabulary=512, tied=False, fused=False, embedding="token_embd.weight"):
    """Tensors of a usual decoder, sizes innermost first."""
    yield embedding, [width, vocabulary]
    if not tied:
        yield "output.weight", [width, vocabulary]
    yield "output_norm.weight", [width]
    for n in range(layers):
        p = f"blk.{n}."
        yield p + "attn_norm.weight", [width]
        if fused:
            yield p + "attn_qkv.weight", [width, width + 2 * kv]
            yield p + "attn_qkv.bias", [width + 2 * kv]
        else:
            yield p + "attn_q.weight", [width, width]
            yield p + "attn_k.weight", [width, kv]
            yield p + "attn_v.weight", [width, kv]
        yield p + "attn_output.weight", [width, width]
        yield p + "ffn_norm.weight", [width]
        yield p + "ffn_gate.weight", [width, inner]
        yield p + "ffn_up.weight", [width, inner]
        yield p + "ffn_down.weight", [inner, width]


def experts(layers, width, inner, kv, count, shared=False, dense_layers=0):
    """Tensors of a mixture of experts; the first layers may be dense."""
    for name, shape in dense(layers, width, inner, kv):
        if ".ffn_" in name and not name.endswith("norm.weight") and int(name.split(".")[1]) >= dense_layers:
            yield name.replace(".weight", "_exps.weight"), shape + [count]
            if shared:
                yield name.replace(".weight", "_shexp.weight"), shape
        else:
            yield name, shape
    for n in range(dense_layers, layers):
        yield f"blk.{n}.ffn_gate_inp.weight", [width, count]


def latent(layers, width, inner, count):
    """DeepSeek's attention."""
    for name, shape in experts(layers, width, inner, width, count, shared=True, dense_layers=1):
        if ".attn_q." in name or ".attn_k." in name or ".attn_v." in name:
            continue
        yield name, shape
    for n in range(layers):
        p = f"blk.{n}."
        yield p + "attn_q_a.weight", [width, 128]
        yield p + "attn_q_a_norm.weight", [128]
        yield p + "attn_q_b.weight", [128, width]
        yield p + "attn_kv_a_mqa.weight", [width, 96]
        yield p + "attn_kv_b.weight", [512, width]
        yield p + "attn_k_b.weight", [64, 512, 4]
        yield p + "attn_v_b.weight", [512, 64, 4]


def keys(arch, layers, heads, kv_heads, **more):
    """What llama-quantize reads of a model before anything else."""
    said = {
        "block_count": layers, "context_length": 512, "embedding_length": 512, "feed_forward_length": 512,
        "attention.head_count": heads, "attention.head_count_kv": kv_heads, "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.layer_norm_epsilon": 1e-5, "rope.dimension_count": 512 // heads, "vocab_size": 512,
    }  # fmt: skip
    said.update({k.replace("__", "."): v for k, v in more.items()})
    return {f"{arch}.{k}": v for k, v in said.items()} | {"general.architecture": arch}


EXPERTS = {"expert_used_count": 2, "expert_feed_forward_length": 512}
MODELS = {
    "llama, 32 layers": (keys("llama", 32, 8, 8), dense(32, 512, 1024, 512)),
    "llama, 32 layers, four heads a key, tied": (keys("llama", 32, 8, 2), dense(32, 512, 1024, 128, tied=True)),
    "llama, 5 layers": (keys("llama", 5, 4, 2), dense(5, 256, 768, 128)),
    "llama, 16 layers, rows of 288 and 800": (keys("llama", 16, 4, 4), dense(16, 288, 800, 288)),
    "llama, 9 layers, rows of 40": (keys("llama", 9, 4, 4), dense(9, 40, 72, 40)),
    "llama, 80 layers, shared keys": (keys("llama", 80, 64, 8), dense(80, 512, 1024, 64)),
    "llama, 80 layers, own keys": (keys("llama", 80, 64, 64), dense(80, 512, 1024, 512)),
    "llama, eight experts": (keys("llama", 32, 8, 2, expert_count=8, **EXPERTS), experts(32, 512, 1024, 128, 8)),
    "llama, four experts": (keys("llama", 10, 8, 2, expert_count=4, **EXPERTS), experts(10, 512, 1024, 128, 4)),
    "qwen2, 80 layers": (keys("qwen2", 80, 64, 8), dense(80, 512, 1024, 64)),
    "qwen3moe, 24 layers": (
        keys("qwen3moe", 24, 8, 1, expert_count=16, **EXPERTS),
        experts(24, 512, 768, 64, 16),
    ),
    "falcon, 32 layers": (keys("falcon", 32, 8, 1), dense(32, 512, 2048, 64, fused=True)),
    "phi3, 32 layers": (keys("phi3", 32, 8, 8, rope__scaling__attn_factor=1.0), dense(32, 512, 2048, 512, fused=True)),
    "gemma2, 26 layers, tied": (
        keys("gemma2", 26, 8, 4, attention__sliding_window=4096, attention__key_length=256),
        dense(26, 512, 2048, 256, tied=True),
    ),
    "deepseek2, 27 layers": (
        keys(
            "deepseek2", 27, 4, 1, expert_count=16, expert_shared_count=2, expert_weights_scale=1.0,
            leading_dense_block_count=1, attention__q_lora_rank=128, attention__kv_lora_rank=512,
            attention__key_length=576, attention__value_length=512, attention__key_length_mla=192,
            attention__value_length_mla=128, **EXPERTS,
        ),
        latent(27, 512, 768, 16),
    ),  # fmt: skip
}  # fmt: skip


def write(path, said, tensors):
    """A GGUF of holes."""
    writer = gguf.GGUFWriter(path, said["general.architecture"])
    for key, value in said.items():
        if key == "general.architecture":
            continue
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(key, value)
    size = 0
    for name, shape in tensors:
        kind = gguf.GGMLQuantizationType.F32 if len(shape) < 2 or "gate_inp" in name else gguf.GGMLQuantizationType.BF16
        count = 1
        for n in shape:
            count *= n
        size_bytes = count * (4 if kind == gguf.GGMLQuantizationType.F32 else 2)
        writer.add_tensor_info(name, list(reversed(shape)), numpy.dtype("float32"), size_bytes, kind)
        size += -(-size_bytes // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with open(path, "r+b") as file:
        at = file.seek(0, 2)
        file.truncate(-(-at // 32) * 32 + size)


def legacy_importance(path, tensors):
    """An importance of ones for every matrix."""
    matrices = [(n, s) for n, s in tensors if len(s) >= 2]
    with open(path, "wb") as file:
        file.write(struct.pack("<i", len(matrices)))
        for name, shape in matrices:
            count = shape[0] * (shape[2] if len(shape) > 2 else 1)
            file.write(struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 1, count))
            file.write(struct.pack("<f", 1.0) * count)


LINE = re.compile(r"^\[ *\d+/ *\d+\] +(\S+) +- \[.*?\], type = +(\S+), size = .*? MiB(?: -> .*? MiB \((\S+)\))?", re.M)


def main():
    binary, out = sys.argv[1:]
    letters, result, version = {}, {}, None
    for title, (said, tensors) in MODELS.items():
        tensors = list(tensors)
        with tempfile.TemporaryDirectory() as temporary:
            path, importance = Path(temporary, "m.gguf"), Path(temporary, "m.dat")
            write(path, said, tensors)
            legacy_importance(importance, tensors)
            shapes = {n: list(reversed(s)) for n, s in tensors}
            runs, order = {}, None
            for mixture in MIXTURES:
                for name, extra in ((mixture, []), (mixture + " +importance", ["--imatrix", str(importance)])):
                    run = subprocess.run(
                        [binary, *extra, "--dry-run", str(path), mixture], capture_output=True, text=True
                    )
                    text = run.stdout + run.stderr
                    version = version or next((l for l in text.splitlines() if "version" in l or "build" in l), None)
                    found = [(m[1], m[3] or m[2]) for m in LINE.finditer(text)]
                    if run.returncode or len(found) != len(tensors):
                        sys.exit(f"{title}, {name}: {len(found)} of {len(tensors)}\n{text[-2000:]}")
                    names = [n for n, _ in found]
                    order = order or names
                    assert order == names
                    row = ""
                    for _, kind in found:
                        letters.setdefault(kind, chr(ord("a") + len(letters)))
                        row += letters[kind]
                    # Only where an importance changes something.
                    if row != runs.get(mixture):
                        runs[name] = row
            result[title] = {"keys": said, "tensors": [[n, shapes[n]] for n in order], "types": runs}
            print(title, len(tensors))
    document = {"version": version, "letters": {v: k for k, v in letters.items()}, "models": result}
    Path(out).write_text(json.dumps(document, separators=(",", ":")) + "\n")


main()
