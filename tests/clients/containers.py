#!/usr/bin/env python3
"""What hoist writes is read by torch and by Python's safetensors, and holds the same values; exit 7 if not.

usage: containers.py [FAMILY…] [--work DIR]

Per family of testdata/families: safetensors → .bin (one file and shards), which torch must load with weights_only=True and
mmap=True; .bin → safetensors (from hoist's own, and from torch's, zip and legacy), which safetensors must load with a `format` of
`pt`; shards → other shards. Every tensor equal bit for bit in name, dtype, shape and values, and every index complete.

environment: HOIST (the binary)
"""
import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True
maker = importlib.util.spec_from_file_location("families_maker", HERE.parent.parent / "testdata/make/families.py")
models = importlib.util.module_from_spec(maker)
maker.loader.exec_module(models)

import torch  # noqa: E402
from safetensors import safe_open  # noqa: E402


def read_safetensors(path):
    out = {}
    for f in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        with safe_open(f, "pt") as s:
            if (s.metadata() or {}).get("format") != "pt":
                raise ValueError(f"{f.name} has no `format` of `pt`")
            out |= {k: s.get_tensor(k) for k in s.keys()}
    return out


def read_bin(path):
    out = {}
    for f in sorted(path.glob("*.bin")) if path.is_dir() else [path]:
        out |= torch.load(f, map_location="cpu", weights_only=True, mmap=True)
    return out


def bits(t):
    t = t.contiguous()
    return t.view(torch.uint8) if t.ndim else t.reshape(1).view(torch.uint8)


def differences(a, b):
    lines = [f"{k}: only on one side" for k in sorted(a.keys() ^ b.keys())]
    for k in sorted(a.keys() & b.keys()):
        x, y = a[k], b[k]
        if x.dtype != y.dtype or x.shape != y.shape:
            lines.append(f"{k}: {x.dtype} {list(x.shape)} against {y.dtype} {list(y.shape)}")
        elif not torch.equal(bits(x), bits(y)):
            lines.append(f"{k}: other values")
    return lines


def index_complete(directory, state):
    """Each tensor in the index and in the file that it names."""
    for index in directory.glob("*.index.json"):
        where = json.loads(index.read_text())["weight_map"]
        lines = [f"{k}: only on one side of {index.name}" for k in sorted(where.keys() ^ state.keys())]
        return lines + [f"{index.name} names {f}, which is not there" for f in sorted(set(where.values())) if not (directory / f).exists()]
    return []


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("families", nargs="*")
    ap.add_argument("--work", type=Path)
    args = ap.parse_args()
    if not os.environ.get("HOIST"):
        sys.exit("HOIST names no binary")
    torch.set_num_threads(1)
    failed = False
    with tempfile.TemporaryDirectory() as tmp:
        root = args.work or Path(tmp)
        for name in args.families or ["llama", "starcoder2", "gpt2", "gpt_oss", "deepseek_v3-fp8", "gemma3-vision-v5"]:
            source = models.write(name, root)
            state = read_safetensors(source)
            torchs = root / f"{name}.torch"
            for kind, zipped in (("zip", True), ("legacy", False)):
                (torchs / kind).mkdir(parents=True, exist_ok=True)
                torch.save(state, torchs / kind / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
                (torchs / kind / "config.json").write_bytes((source / "config.json").read_bytes())
            rows = [("one .bin", source, "a.bin", [], read_bin), ("sharded .bin", source, "b", ["--to", "bin", "--shard-size", "300KB"], read_bin),
                    ("back from its own .bin", root / f"{name}.a.bin", "c.safetensors", [], read_safetensors),
                    ("from torch's .bin", torchs / "zip", "d", [], read_safetensors),
                    ("from torch's legacy .bin", torchs / "legacy", "e", [], read_safetensors),
                    ("other shards", source, "f", ["--shard-size", "200KB"], read_safetensors)]
            for what, given, target, flags, read in rows:
                out = root / f"{name}.{target}"
                r = subprocess.run([os.environ["HOIST"], "convert", str(given), "-o", str(out), "--force", *flags], capture_output=True, text=True,
                                   errors="replace", env={**os.environ, "HOIST_PROGRESS": "none"})
                try:
                    if r.returncode:
                        lines = [f"ended with {r.returncode}: {' | '.join(r.stderr.splitlines())[:300]}"]
                    else:
                        got = read(out)
                        lines = differences(state, got) + (index_complete(out, got) if out.is_dir() else [])
                except Exception as e:
                    lines = [f"{type(e).__name__}: {e}"]
                failed |= bool(lines)
                print(f"{name:18} {what:26} {'MISS' if lines else 'ok'}", flush=True)
                for line in lines[:6]:
                    print(f"    {line}", flush=True)
    sys.exit(7 if failed else 0)


if __name__ == "__main__":
    main()
