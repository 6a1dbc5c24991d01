"""Writes testdata/golden/hash.json: the digests of `hoist inspect --hash`, from their definition, with other programs.

Run as `python testdata/make/hash.py` from the root of the repository. Tensors are read by safetensors, hashed by the
reference implementation's Python binding (package blake3).
"""

import json
import pathlib
import sys

# A file beside this one has the name of a package that is imported.
sys.path.pop(0)

import blake3
import safetensors

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAMES = {"BF16": "bf16", "F32": "f32", "F16": "f16", "I64": "i64", "U8": "u8"}


def digests(directory):
    tensors = {}
    for path in sorted(directory.glob("*.safetensors")):
        for name, facts in safetensors.deserialize(path.read_bytes()):
            kind = f"{NAMES[facts['dtype']]} {','.join(map(str, facts['shape']))}"
            key = blake3.blake3(kind.encode()).digest()
            tensors[name] = (kind, blake3.blake3(bytes(facts["data"]), key=key).hexdigest())
    lines = "".join(
        f"{digest} {kind} {len(name.encode())} {name}\n"
        for name, (kind, digest) in sorted(tensors.items(), key=lambda item: item[0].encode())
    )
    model = blake3.blake3(lines.encode()).hexdigest()
    return {"digest": model, "tensors": {name: digest for name, (_, digest) in sorted(tensors.items())}}


def main():
    model = "rustdoc-llama-6m"
    golden = {
        "versions": {"blake3": blake3.__version__, "safetensors": safetensors.__version__},
        "files": {model: digests(ROOT / model)},
    }
    text = json.dumps(golden, indent=1) + "\n"
    (ROOT / "golden" / "hash.json").write_text(text)


main()
