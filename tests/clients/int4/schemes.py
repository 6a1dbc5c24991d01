#!/usr/bin/env python3
"""Every scheme of `hoist quantize`, opened by its own client on a CPU: a row a case, exit 7 if one misses.

usage: schemes.py [HOIST] [--only WORD…] [--work DIR]

Per row a model is quantised, its client loads it and says what each weight is, `hoist convert --dtype` of the same output says it
too, and the two are compared bit for bit; then the client's logits with those that the same client (or transformers) computes of
hoist's dequantised model. Columns: weights compared, numbers that differ (must be 0), relative error of the logits, how the client
calls its layers. A limit stands where a client computes with other roundings than those of its own dequantised weights.

What no client here runs is listed at the end, with what it said. --only takes rows whose label holds one of the words; --work keeps
the files. HOIST or the environment's HOIST is the binary. Python: setup.sh. GPUs are hidden; a missing package costs its rows, aloud.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent.parent
sys.dont_write_bytecode = True
os.environ.update(CUDA_VISIBLE_DEVICES="", TORCHDYNAMO_DISABLE="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

DENSE = ROOT / "testdata/rustdoc-llama-6m"

# label, client, model, flags of quantize, limit of the logits' error (None: weights only).
# The limits: 0 where the client dequantises before it computes; else what its kernels round off in bf16 (MLX: in float32).
ROWS = [
    ("int4", "compressed", "dense", ["int4"], 0),
    ("int4 rtn", "compressed", "dense", ["int4", "--method", "rtn"], 0),
    ("int4 symmetric", "compressed", "dense", ["int4", "--symmetric"], 0),
    ("int4 signed", "compressed", "dense", ["int4", "--signed-scales"], 0),
    ("int4 group 32", "compressed", "dense", ["int4", "--group-size", "32"], 0),
    ("int4 group 64", "compressed", "dense", ["int4", "--group-size", "64"], 0),
    ("int4 channel", "compressed", "dense", ["int4", "--group-size", "channel"], 0),
    ("mxfp4", "compressed", "dense", ["mxfp4"], 0),
    ("nvfp4a16", "compressed", "dense", ["nvfp4a16"], 0),
    ("fp8", "compressed", "dense", ["fp8"], 0),
    ("fp8-block", "compressed", "dense", ["fp8-block"], 0),
    ("int4 experts", "compressed", "moe", ["int4"], 0),
    ("mxfp4 experts", "compressed", "moe", ["mxfp4"], 0),
    ("int4 experts asymmetric", "compressors", "moe", ["int4", "--asymmetric"], None),
    ("nvfp4a16 experts", "compressors", "moe", ["nvfp4a16"], None),
    ("gptq", "gptq", "dense", ["gptq"], 0.02),
    ("gptq group 32", "gptq", "dense", ["gptq", "--group-size", "32"], 0.02),
    ("gptq channel", "gptq", "dense", ["gptq", "--group-size", "channel"], None),
    ("gptq v2", "gptq", "dense", ["gptq", "--gptq-v2", "--asymmetric"], 0.02),
    ("awq", "gptq", "dense", ["awq"], 0.02),
    ("nf4", "bitsandbytes", "dense", ["nf4"], 0.02),
    ("torchao-int8", "torchao", "dense", ["torchao-int8"], 0.02),
    ("torchao-int8 symmetric", "torchao", "dense", ["torchao-int8", "--symmetric"], 0.02),
    ("torchao-int8 shards", "torchao", "dense", ["torchao-int8", "--shard-size", "1MB"], 0.02),
    ("torchao", "torchao_unpack", "dense", ["torchao"], None),
    ("mlx", "mlx", "dense", ["mlx"], 1e-5),
    ("mlx hqq group 32", "mlx", "dense", ["mlx", "--method", "hqq", "--group-size", "32"], 1e-5),
    ("mlx tied", "mlx", "tied", ["mlx"], 1e-5),
    ("mlx experts", "mlx", "moe", ["mlx"], 1e-5),
    ("mlx mixtral", "mlx", "mixtral", ["mlx"], 1e-5),
    ("q4_0", "gguf", "dense", ["q4_0"], None),
    ("q4_k_m", "gguf", "dense", ["q4_k_m"], None),
]
# Rows that are only listed: label, client, model, flags. What the client says is printed as it is.
NOT_RUN = [
    ("int4 experts asymmetric, in transformers", "compressed", "moe", ["int4", "--asymmetric"]),
    ("nvfp4a16 experts, in transformers", "compressed", "moe", ["nvfp4a16"]),
    ("nf4 experts", "bitsandbytes", "moe", ["nf4"]),
    ("gptq experts", "gptq", "moe", ["gptq"]),
    ("awq experts", "gptq", "moe", ["awq"]),
    ("torchao, as transformers loads it", "torchao", "dense", ["torchao"]),
]


# ------------------------------------------------------------------------------------------------- what a client does
# Each takes a folder and gives the weights by name ([out, in]) and a function that computes logits, or None.

IDS = list(range(1, 17))


def transformers_model(path, **options):
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        path, device_map="cpu", dtype=torch.bfloat16, output_loading_info=True, **options
    )
    odd = {k: sorted(map(str, v))[:3] for k, v in info.items() if v and k != "error_msgs"}
    if odd:
        raise RuntimeError(f"loading left {odd}")

    def logits():
        with torch.inference_mode():
            return model(torch.tensor([IDS])).logits.float()

    return model.eval(), logits


def plain(path):
    _, logits = transformers_model(path)
    return {}, logits, "dense"


def compressed(path):
    """transformers with compressed-tensors, which dequantises as it loads. Experts are compared in the form that it holds them."""
    import torch
    from transformers import CompressedTensorsConfig

    model, logits = transformers_model(path, quantization_config=CompressedTensorsConfig(dequantize=True))
    keep = lambda n: n.endswith("weight") or "experts" in n
    return {n: x.detach() for n, x in model.named_parameters() if keep(n)}, logits, "dequantised"


def compressors(path):
    """compressed-tensors without a model: each module of the file by itself."""
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    config = QuantizationConfig.model_validate(json.loads((Path(path) / "config.json").read_text())["quantization_config"])
    (scheme,) = config.config_groups.values()
    compressor = BaseCompressor.get_value_from_registry(scheme.format or config.format)
    tensors = read(path)
    weights = {}
    for key in tensors:
        module, _, end = key.rpartition(".")
        if end == "weight_scale":
            state = {k.rpartition(".")[2]: v for k, v in tensors.items() if k.rpartition(".")[0] == module}
            weights[module + ".weight"] = compressor.decompress(state, scheme)["weight"].to(torch.bfloat16)
    return weights, None, type(compressor).__name__ if not isinstance(compressor, type) else compressor.__name__


def gptq(path):
    """gptqmodel's layers for the CPU. Its kernels repack when they first run: weights are read before."""
    import gptqmodel  # noqa: F401: before any layer is built
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

    model, logits = transformers_model(path)
    weights, kind = {}, None
    for name, layer in model.named_modules():
        if not hasattr(layer, "qweight"):
            continue
        kind = type(layer).__name__
        if hasattr(layer, "dequantize_weight"):
            w = layer.dequantize_weight().T
        else:
            w = dequantize_gemm(layer.qweight, layer.qzeros, layer.scales, layer.bits, layer.group_size).T
        weights[name + ".weight"] = w.detach().clone()
    return weights, logits, kind


def bitsandbytes(path):
    import bitsandbytes as bnb

    model, logits = transformers_model(path)
    layers = {n: x for n, x in model.named_modules() if isinstance(x, bnb.nn.Linear4bit)}
    back = lambda w: bnb.functional.dequantize_4bit(w.data, w.quant_state).detach()
    return {n + ".weight": back(x.weight) for n, x in layers.items()}, logits, "Linear4bit"


def torchao(path):
    import torch

    model, logits = transformers_model(path)
    weights, kind = {}, None
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and hasattr(layer.weight, "qdata"):
            kind = type(layer.weight).__name__
            weights[name + ".weight"] = layer.weight.dequantize().detach()
    if kind is None:
        raise RuntimeError("no layer is torchao's")
    return weights, logits, kind


def torchao_unpack(path):
    """`Int4Tensor` as torchao's own loader makes it, and by its own functions to numbers: its kernels need a GPU."""
    import torch
    from safetensors import safe_open
    from torchao.prototype.mx_formats.kernels import unpack_uint4
    from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict
    from torchao.quantization.quant_primitives import _dequantize_affine_tinygemm

    tensors, metadata = {}, {}
    for file in sorted(Path(path).glob("*.safetensors")):
        with safe_open(file, "pt") as f:
            metadata.update(f.metadata())
            tensors.update({k: f.get_tensor(k) for k in f.keys()})
    state, left = unflatten_tensor_state_dict(tensors, metadata)
    if left:
        raise RuntimeError(f"torchao leaves {sorted(left)[:3]}")
    weights = {}
    for name, x in state.items():
        if type(x).__name__ != "Int4Tensor":
            continue
        # Its nibbles are signed; the function's codes count from zero, with eight in the middle.
        codes = unpack_uint4(x.qdata.view(torch.uint8)) ^ 8
        scale, zero = (t.T.contiguous().float() for t in (x.scale, x.zero_point))
        w = _dequantize_affine_tinygemm(codes, x.block_size, scale, zero, torch.uint8, 0, 15)
        weights[name] = w.to(x.scale.dtype)
    return weights, None, "Int4Tensor"


def mlx(path):
    import mlx.core as mx
    import numpy as np
    import torch
    from mlx_lm.utils import dequantize_model, load_model

    config = json.loads((Path(path) / "config.json").read_text())
    said = config.get("quantization", {})
    tensors = {}
    for file in sorted(Path(path).glob("*.safetensors")):
        tensors.update(mx.load(str(file)))
    weights = {}
    for key in tensors:
        module, end = key.rsplit(".", 1)
        if end == "scales":
            own = said.get(module, said)
            w = mx.dequantize(
                tensors[module + ".weight"], tensors[key], tensors[module + ".biases"],
                group_size=own["group_size"], bits=own["bits"],
            )
            x = torch.from_numpy(np.array(w.astype(mx.float32)))
            weights[module + ".weight"] = x.to(torch.bfloat16 if w.dtype == mx.bfloat16 else torch.float16)
    model, _ = load_model(Path(path))
    kinds = sorted({type(m).__name__ for _, m in model.named_modules() if "Quantized" in type(m).__name__})

    def run(model):
        # Kernels for experts that are not quantised know float32 alone on a CPU.
        model.set_dtype(mx.float32)
        y = model(mx.array([IDS]))
        mx.eval(y)
        return torch.from_numpy(np.array(y))

    def logits():
        if not kinds:
            return run(model)
        # Quantised layers as they are against their own numbers; then with the numbers as the file's type rounds them.
        quantised = run(model)
        exact = run(dequantize_model(model))
        off = float((quantised - exact).norm() / exact.norm())
        if not off < 1e-4:
            raise RuntimeError(f"quantised layers and their own numbers give logits that are {off:.1e} apart")
        return run(dequantize_model(load_model(Path(path))[0]))

    return weights, logits, " ".join(kinds) or "dense"


def gguf(path):
    import torch
    from gguf import GGUFReader
    from gguf.quants import dequantize

    weights = {}
    for t in GGUFReader(str(path)).tensors:
        if t.tensor_type.name not in ("F32", "F16", "BF16"):
            shape = [int(n) for n in reversed(t.shape)]
            weights[t.name] = torch.from_numpy(dequantize(t.data, t.tensor_type).copy()).reshape(shape)
    return weights, None, "gguf.quants"


CLIENTS = dict(
    plain=plain, compressed=compressed, compressors=compressors, gptq=gptq, bitsandbytes=bitsandbytes, torchao=torchao,
    torchao_unpack=torchao_unpack, mlx=mlx, gguf=gguf,
)
# Who computes the logits of hoist's dequantised model.
REFERENCE = dict(mlx="mlx")


def shortened(error):
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def work(client, jobs):
    """In a process of its own, because clients change each other's modules: a line of JSON for each job on descriptor 3."""
    report = os.fdopen(3, "w")
    for path, out in jobs:
        try:
            weights, logits, kind = CLIENTS[client](path)
            from safetensors.torch import save_file

            tensors = {k: v.contiguous().clone() for k, v in weights.items()}
            said = dict(path=path, kind=kind)
            try:
                if logits is not None:
                    tensors["logits"] = logits().contiguous()
            except Exception as e:
                said["stopped"] = shortened(e)
            save_file(tensors, out)
        except Exception as e:  # what a client says is a result
            if os.environ.get("TRACE"):
                traceback.print_exc()
            said = dict(path=path, error=shortened(e))
        report.write(json.dumps(said) + "\n")
        report.flush()


def run_client(client, jobs):
    """{folder: what was said}"""
    read, write = os.pipe()
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); sys.dont_write_bytecode = True; import schemes; "
        "schemes.work(sys.argv[2], json.load(sys.stdin))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(HERE), client], stdin=subprocess.PIPE, text=True,
        stdout=subprocess.DEVNULL, stderr=None if os.environ.get("TRACE") else subprocess.DEVNULL,
        preexec_fn=lambda: os.dup2(write, 3), pass_fds=(3, write),
    )
    os.close(write)
    process.stdin.write(json.dumps(jobs))
    process.stdin.close()
    with os.fdopen(read) as lines:
        said = {s["path"]: s for s in map(json.loads, lines)}
    process.wait()
    missing = dict(error=f"the client's process ended with {process.returncode}")
    return {path: said.get(path, missing) for path, _ in jobs}


# ------------------------------------------------------------------------------------------------------------- models


def models(folder):
    """Small models that no one publishes, heavy-tailed, deterministic: tied, and two mixtures of experts."""
    import torch
    import transformers as hf

    common = dict(
        vocab_size=512, hidden_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=32, max_position_embeddings=128,
    )
    kinds = {
        "tied": (hf.Qwen3Config, hf.Qwen3ForCausalLM, dict(intermediate_size=256, tie_word_embeddings=True)),
        "moe": (
            hf.Qwen3MoeConfig, hf.Qwen3MoeForCausalLM,
            dict(intermediate_size=256, moe_intermediate_size=128, num_experts=12, num_experts_per_tok=2, tie_word_embeddings=False),
        ),
        "mixtral": (hf.MixtralConfig, hf.MixtralForCausalLM, dict(intermediate_size=256, num_local_experts=4)),
    }
    for name, (config, model, sizes) in kinds.items():
        torch.manual_seed(7)
        made = model(config(**{**common, **sizes})).to(torch.bfloat16)
        random = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.dim() > 1:
                    x = torch.randn(parameter.shape, generator=random)
                    x /= torch.rand(parameter.shape, generator=random).clamp(min=0.1)
                    parameter.copy_(x * 0.02)
        made.save_pretrained(folder / name)
        # As configs are published: mlx-lm asks for fields that newer transformers write under other names.
        path = folder / name / "config.json"
        config = json.loads(path.read_text())
        config.setdefault("rope_theta", 10000.0)
        config.update({k: v for k, v in sizes.items() if k.startswith("num_")})
        path.write_text(json.dumps(config, indent=2))
    return {"dense": DENSE, **{name: folder / name for name in kinds}}


def hoist(*arguments):
    """None, or why it failed."""
    r = subprocess.run(
        [os.environ["HOIST"], *map(str, arguments)], capture_output=True, text=True, errors="replace",
        env={**os.environ, "HOIST_PROGRESS": "none"},
    )
    if r.returncode == 0:
        return None
    said = [line for line in r.stderr.splitlines() if line.strip()] or ["nothing"]
    return f"hoist ended with {r.returncode}: {' | '.join(said)[:300]}"


# ---------------------------------------------------------------------------------------------------------- comparing


def read(path):
    from safetensors.torch import load_file

    out = {}
    for file in sorted(Path(path).glob("*.safetensors")) if Path(path).is_dir() else [path]:
        out.update(load_file(file))
    return out


def ours_of(tensors, name):
    """hoist's numbers for a client's name; experts that the client holds in one tensor are joined as it joins them."""
    import torch

    if name in tensors:
        return tensors[name]
    for kind, parts in (("gate_up_proj", ("gate_proj", "up_proj")), ("down_proj", ("down_proj",))):
        if not name.endswith(f"experts.{kind}"):
            continue
        base = name[: -len(kind)]
        if f"{base}0.{parts[0]}.weight" not in tensors:
            return None
        count = next(n for n in range(10**6) if f"{base}{n}.{parts[0]}.weight" not in tensors)
        expert = lambda n: torch.cat([tensors[f"{base}{n}.{part}.weight"] for part in parts])
        return torch.stack([expert(n) for n in range(count)])
    return None


def compare(client, ours):
    """(weights compared, numbers that differ in their bits, names that hoist lacks)"""
    import torch

    count = differ = 0
    lacking = []
    for name, theirs in client.items():
        if name == "logits":
            continue
        own = ours_of(ours, name)
        if own is None:
            lacking.append(name)
            continue
        if own.shape != theirs.shape or own.dtype != theirs.dtype:
            raise RuntimeError(f"{name}: {tuple(theirs.shape)} {theirs.dtype}, hoist {tuple(own.shape)} {own.dtype}")
        bits = torch.int16 if own.element_size() == 2 else torch.int32
        differ += int((own.contiguous().view(bits) != theirs.contiguous().view(bits)).sum())
        count += 1
    return count, differ, lacking


def main():
    arguments = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1].split("\n")[0])
    arguments.add_argument("hoist", nargs="?", default=os.environ.get("HOIST"))
    arguments.add_argument("--only", nargs="*", default=[])
    arguments.add_argument("--work")
    chosen = arguments.parse_args()
    if not chosen.hoist:
        arguments.error("which hoist? as the first argument, or HOIST in the environment")
    os.environ["HOIST"] = str(Path(chosen.hoist).resolve())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(chosen.work or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        return table(folder, chosen.only)


def table(folder, only):
    started = time.time()
    wanted = lambda row: not only or any(word in row[0] for word in only)
    rows = [row for row in ROWS if wanted(row)]
    listed = [(*row, None) for row in NOT_RUN if wanted(row)]
    sources = models(folder)
    failed, jobs, places = {}, {}, {}
    for label, client, model, flags, _ in rows + listed:
        place = folder / "out" / label.replace(" ", "-").replace(",", "")
        place.mkdir(parents=True, exist_ok=True)
        quantised = place / ("q.gguf" if client == "gguf" else "q")
        plain_form = place / "d"
        dtype = {"gptq": "f16", "gguf": "f32"}.get(client, "bf16")
        to = ["--to", "safetensors", "--raw"] if client == "gguf" else []
        error = hoist("quantize", sources[model], "-o", quantised, "--force", "--scheme", *flags) or hoist(
            "convert", quantised, "-o", plain_form, "--force", "--dtype", dtype, *to
        )
        if error:
            failed[label] = error
            continue
        places[label] = (quantised, plain_form)
        jobs.setdefault(client, []).append((str(quantised), str(place / "client.safetensors")))
        if client in ("gguf", "torchao_unpack", "compressors"):
            continue
        jobs.setdefault(REFERENCE.get(client, "plain"), []).append((str(plain_form), str(place / "ours.safetensors")))
    said = {}
    for client, list_ in jobs.items():
        print(f"{time.time() - started:5.0f} s   {client}: {len(list_)} files", file=sys.stderr)
        said.update(run_client(client, list_))
    from importlib.metadata import PackageNotFoundError, version

    packages = []
    for name in ("torch", "transformers", "compressed-tensors", "gptqmodel", "bitsandbytes", "torchao", "mlx", "mlx-lm", "gguf"):
        try:
            packages.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            packages.append(f"no {name}")
    print(", ".join(packages))
    print(f"{'scheme':<26}{'weights':>8}{'differ':>8}{'logits':>10}   by")
    misses = 0
    for label, client, _, _, limit in rows:
        if label in failed:
            misses += 1
            print(f"{label:<26}{'':>26}   MISS {failed[label]}")
            continue
        quantised, plain_form = places[label]
        place = plain_form.parent
        heard = said[str(quantised)]
        try:
            if "error" in heard:
                raise RuntimeError(heard["error"])
            theirs = read(place / "client.safetensors")
            count, differ, lacking = compare(theirs, read(plain_form))
            if lacking or not count:
                raise RuntimeError(f"hoist has no {lacking[:3]}")
            off = None
            if limit is not None:
                if "stopped" in heard:
                    raise RuntimeError(f"{count} weights, {differ} differ; {heard['stopped']}")
                if "error" in said[str(plain_form)]:
                    raise RuntimeError("of hoist's dequantised model: " + said[str(plain_form)]["error"])
                own = read(place / "ours.safetensors")["logits"]
                off = float((theirs["logits"] - own).norm() / own.norm())
            miss = differ > 0 or (off is not None and not off <= limit)
            misses += miss
            shown = "–" if off is None else f"{off:.1e}" if off else "0"
            stopped = f"; not run: {heard['stopped']}" if "stopped" in heard else ""
            print(f"{label:<26}{count:>8}{differ:>8}{shown:>10}   {heard['kind']}{stopped}{'   MISS' if miss else ''}")
        except Exception as e:
            misses += 1
            print(f"{label:<26}{'':>26}   MISS {e}")
    if listed:
        print("\nnot run by a client here, and what it says:")
    for label, _, _, _, _ in listed:
        if label in failed:
            print(f"  {label}: {failed[label]}")
            continue
        quantised, plain_form = places[label]
        heard = said[str(quantised)]
        if "error" in heard:
            print(f"  {label}: {heard['error']}")
            continue
        place = plain_form.parent
        theirs = read(place / "client.safetensors")
        count, differ, lacking = compare(theirs, read(plain_form))
        print(f"  {label}: loads; {count} weights, {differ} numbers differ from the file's, {len(lacking)} unknown to hoist")
    print(f"\n{len(rows) - misses} of {len(rows)} rows, {time.time() - started:.0f} s")
    return 7 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
