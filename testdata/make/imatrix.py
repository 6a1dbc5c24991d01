"""Importance matrices in their three forms, and what llama-quantize makes of them: testdata/golden/imatrix/.

Run from the repository's root, with a Python that has torch, transformers, safetensors, gguf and numpy, and LLAMACPP set to what
tests/clients/get_llamacpp.sh makes:

    python testdata/make/imatrix.py

For two models the squares of what reaches each matrix are summed over the tokens of a text: `rustdoc` (testdata/rustdoc-llama-6m
over the beginning of rustdoc-valid.txt) and `experts` (the tiny qwen3_moe of families.py over made-up tokens, too few for every
expert to be asked). Of each there is what llama-imatrix would write, `.gguf` and the legacy `.dat`, under GGUF's names as gguf-py
maps them, and `.safetensors` with the means under Hugging Face's names. Chunks are a power of two, so that all three hold the same
numbers to the last bit.

llama_quantize.json holds the versions, the keys that llama-quantize adds for each file, and for some types the SHA-256 of each tensor
that it makes with the matrix from the reference converter's f32 GGUF.
"""

import hashlib
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path = [p for p in sys.path if pathlib.Path(p or ".").resolve() != HERE]
sys.dont_write_bytecode = True

import numpy as np  # noqa: E402

OUT = ROOT / "testdata/golden/imatrix"
CHUNKS, CHUNK = 8, 128
TYPES = {"rustdoc": ["q4_k_m", "q5_k_m", "iq4_xs", "q4_0", "q2_k", "q3_k_m", "q6_k", "iq4_nl"], "experts": ["q4_0", "iq4_nl"]}


class Sums:
    """By Hugging Face's module: sums of squares `[matrices, columns]` and counts of tokens `[matrices]`."""

    def __init__(self):
        self.of = {}

    def add(self, name, x, matrix=0, matrices=1):
        """`x` is `[tokens, columns]`."""
        sums, counts = self.of.setdefault(name, (np.zeros((matrices, x.shape[-1])), np.zeros(matrices)))
        sums[matrix] += x.double().pow(2).sum(0).numpy()
        counts[matrix] += x.shape[0]


def collect(model, ids):
    import torch

    sums = Sums()

    def linear(name):
        return lambda module, args: sums.add(name, args[0].reshape(-1, args[0].shape[-1]))

    def experts(name):
        def hook(module, args):
            hidden, index, _ = args
            count = module.num_experts
            for e in range(count):
                x = hidden[(index == e).any(-1)]
                gate, up = torch.nn.functional.linear(x, module.gate_up_proj[e]).chunk(2, -1)
                for projection in ("gate_proj", "up_proj"):
                    sums.add(f"{name}.{projection}", x, e, count)
                sums.add(f"{name}.down_proj", module.act_fn(gate) * up, e, count)
        return hook

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            module.register_forward_pre_hook(linear(name))
        elif type(module).__name__.endswith("Experts"):
            module.register_forward_pre_hook(experts(name))
    with torch.no_grad():
        for chunk in ids.split(CHUNK):
            model(chunk[None])
    return sums.of


def write(name, sums, arch, layers, dataset):
    import gguf
    from safetensors.numpy import save_file

    names = gguf.get_tensor_name_map(arch, layers)
    writer = gguf.GGUFWriter(OUT / f"{name}.gguf", "")
    writer.kv_data[0].clear()
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", [dataset])
    writer.add_uint32("imatrix.chunk_count", CHUNKS)
    writer.add_uint32("imatrix.chunk_size", CHUNK)
    legacy, plain = [], {}
    for module, (sum2, counts) in sorted(sums.items()):
        to = names.get_name(module) + ".weight"
        sum2, counts = sum2.astype(np.float32), counts.astype(np.float32)
        writer.add_tensor(f"{to}.in_sum2", sum2)
        writer.add_tensor(f"{to}.counts", counts[:, None])
        mean = np.where(counts[:, None] > 0, sum2 / np.maximum(counts, 1)[:, None], np.float32(1)).astype(np.float32)
        call_count = int(-(-counts.max() // CHUNK))
        assert call_count & (call_count - 1) == 0, (module, call_count)
        values = (mean * np.float32(call_count)).tobytes()
        text = to.encode()
        legacy.append(struct.pack("<i", len(text)) + text + struct.pack("<ii", call_count, mean.size) + values)
        if len(counts) == 1:
            plain[f"{module}.weight"] = mean[0]
        else:
            head, last = module.rsplit(".", 1)
            # As a model's maker would: nothing of experts that no token went to.
            plain.update({f"{head}.{e}.{last}.weight": mean[e] for e in range(len(counts)) if counts[e]})
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    text = dataset.encode()
    tail = struct.pack("<ii", CHUNKS, len(text)) + text
    (OUT / f"{name}.dat").write_bytes(struct.pack("<i", len(legacy)) + b"".join(sorted(legacy)) + tail)
    save_file({k: np.ascontiguousarray(v) for k, v in plain.items()}, OUT / f"{name}.safetensors")
    return {module: [int(n) for n in counts] for module, (_, counts) in sorted(sums.items()) if len(counts) > 1}


def quantized(model_dir, name, folder):
    """Keys and tensors of what llama-quantize makes."""
    import gguf

    llamacpp = pathlib.Path(os.environ["LLAMACPP"])
    source = folder / f"{name}-f32.gguf"
    subprocess.run(
        [sys.executable, ROOT / "tests/clients/convert_reference.py", "--pre", "gpt-2", "--", model_dir, "--outfile", source, "--outtype", "f32"],
        check=True, capture_output=True)
    out = {"keys": {}, "tensors": {}}
    for form in ("gguf", "dat"):
        for kind in TYPES[name] if form == "gguf" else TYPES[name][:1]:
            made = folder / f"{name}-{kind}-{form}.gguf"
            subprocess.run([llamacpp / "bin/llama-quantize", "--imatrix", f"{name}.{form}", source, made, kind], check=True, capture_output=True, cwd=OUT)
            reader = gguf.GGUFReader(made)
            keys = [(k, f) for k, f in reader.fields.items() if k.startswith("quantize.imatrix.")]
            out["keys"][form] = [[k, f.types[0].name, f.contents()] for k, f in keys]
            tensors = {t.name: [t.tensor_type.name, hashlib.sha256(t.data.tobytes()).hexdigest()[:16]] for t in reader.tensors if len(t.shape) > 1}
            if form == "gguf":
                out["tensors"][kind] = tensors
            else:
                assert out["tensors"][kind] == tensors
    return out


def main():
    import gguf
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    OUT.mkdir(parents=True, exist_ok=True)
    ready = next(pathlib.Path(os.environ["LLAMACPP"]).glob(".ready-*")).name.removeprefix(".ready-")
    out = {"versions": {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__,
                        "llama-cpp-python": ready}}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        load = dict(dtype=torch.float32, attn_implementation="eager")

        path = ROOT / "testdata/rustdoc-llama-6m"
        text = (ROOT / "testdata/rustdoc-valid.txt").read_text()[:16384]
        ids = AutoTokenizer.from_pretrained(path)(text, return_tensors="pt").input_ids[0][:CHUNKS * CHUNK]
        assert len(ids) == CHUNKS * CHUNK
        model = AutoModelForCausalLM.from_pretrained(path, **load).eval()
        write("rustdoc", collect(model, ids), gguf.MODEL_ARCH.LLAMA, 5, "rustdoc-valid.txt, from its beginning")
        out["rustdoc"] = quantized(path, "rustdoc", folder)

        subprocess.run([sys.executable, HERE / "families.py", "write", folder, "qwen3_moe"], check=True, cwd=ROOT)
        path = folder / "qwen3_moe"
        model = AutoModelForCausalLM.from_pretrained(path, experts_implementation="eager", **load).eval()
        ids = torch.tensor([3, 3, 7, 7, 3, 7, 3, 3])
        counts = write("experts", collect(model, ids), gguf.MODEL_ARCH.QWEN3MOE, 1, "eight tokens")
        assert any(0 in c for c in counts.values()) and any(any(c) for c in counts.values()), counts
        out["experts"] = {"counts": counts, **quantized(path, "experts", folder)}
    # A line for each list of a name's facts.
    text = json.dumps(out, indent=1)
    text = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda m: "[" + re.sub(r"\s*\n\s*", " ", m[1]) + "]", text)
    (OUT / "llama_quantize.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
