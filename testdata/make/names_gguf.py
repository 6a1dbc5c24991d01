"""Writes testdata/names/LIST.txt from a checkpoint and the GGUF that llama.cpp's convert_hf_to_gguf.py made of it.

    python testdata/make/names_gguf.py LIST CHECKPOINT_DIR FILE.gguf

A list has the family, the tensors of both sides with types and shapes (torch's order) in the file's order, and the GGUF's
whole-number keys. Layers like an earlier one are left out, and so is each expert but the first.
"""

import json
import pathlib
import re
import struct
import sys

# Scripts here are called as the packages they use: this folder must not come before those.
sys.path = [p for p in sys.path if pathlib.Path(p or ".").resolve() != pathlib.Path(__file__).resolve().parent]

from gguf import GGUFReader, GGUFValueType  # noqa: E402

LAYER = re.compile(r"(?:layers?|blk|h)\.(\d+)\.")
EXPERT = re.compile(r"experts\.(\d+)\.")


def headers(directory):
    for file in sorted(directory.glob("model*.safetensors")):
        with open(file, "rb") as f:
            (size,) = struct.unpack("<Q", f.read(8))
            header = json.loads(f.read(size))
        header.pop("__metadata__", None)
        yield from sorted(header.items())


def first_of_each_kind(tensors):
    """Tensors of the layers that have names which no layer before them has; of experts the first."""
    layers = {}
    for name, *_ in tensors:
        if m := LAYER.search(name):
            layers.setdefault(int(m[1]), set()).add(name[m.end():])
    kept, seen = set(), set()
    for layer in sorted(layers):
        if not layers[layer] <= seen:
            kept.add(layer)
            seen |= layers[layer]
    for name, dtype, shape in tensors:
        layer, expert = LAYER.search(name), EXPERT.search(name)
        if (layer is None or int(layer[1]) in kept) and (expert is None or expert[1] == "0"):
            yield f"{name} {dtype.lower()} {'x'.join(map(str, shape))}"


def keys(reader):
    arch = reader.fields["general.architecture"].contents()
    yield f"general.architecture {arch}"
    for key, field in reader.fields.items():
        numbers = (GGUFValueType.UINT32, GGUFValueType.INT32, GGUFValueType.UINT64)
        wanted = key.startswith(arch + ".") or key == "tokenizer.ggml.padding_token_id"
        if wanted and field.types[0] in numbers:
            yield f"{key} {field.contents()}"
    yield f"tokenizer.ggml.model {reader.fields['tokenizer.ggml.model'].contents()}"


(name, directory, gguf) = sys.argv[1:]
directory = pathlib.Path(directory)
config = json.loads((directory / "config.json").read_text())
reader = GGUFReader(gguf)
# Layers that only predict further tokens are in checkpoints alone.
blocks = reader.fields[reader.fields["general.architecture"].contents() + ".block_count"].contents()
further = lambda n: (m := LAYER.search(n)) is not None and int(m[1]) >= blocks  # noqa: E731
hf = [(n, t["dtype"], t["shape"]) for n, t in headers(directory) if not further(n)]
theirs = [(t.name, t.tensor_type.name, [int(n) for n in reversed(t.shape)]) for t in reader.tensors]
lines = [
    f"# Tensors of a small {name} model: name, dtype, shape (torch's order). Written by transformers' save_pretrained,",
    "# then by llama.cpp's convert_hf_to_gguf.py; made by testdata/make/names_gguf.py. Repeated layers left out.",
    "[family]",
    config["model_type"],
    "[hf]",
    *first_of_each_kind(hf),
    "[gguf]",
    *first_of_each_kind(theirs),
    "[keys]",
    *keys(reader),
]
pathlib.Path(f"testdata/names/{name}.txt").write_text("\n".join(lines) + "\n")
