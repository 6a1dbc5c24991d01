"""Golden hashes of testdata/golden/llama_quantize.json: what llama-quantize makes of a whole model, mixture included.

    hoist convert testdata/rustdoc-llama-6m -o from.gguf
    python llama_quantize.py LLAMA_QUANTIZE from.gguf IMATRIX.gguf OUT.json

Needs gguf (0.19). For each mixture the SHA-256 of all tensors in the file's order: of each its name, a zero byte, ggml's number of
its type (u32, little endian), and its bytes. Hashes rather than files, which would be 80 MB; keys are compared by their names.
"""

import hashlib
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

# This folder's gguf.py would shadow the package.
HERE = Path(__file__).resolve().parent
sys.path = [p for p in sys.path if Path(p or ".").resolve() != HERE]

import gguf  # noqa: E402

MIXTURES = """q4_0 q4_1 q5_0 q5_1 q8_0 q2_k q2_k_s q3_k_s q3_k_m q3_k_l q4_k_s q4_k_m q5_k_s q5_k_m q6_k iq4_nl iq4_xs tq1_0 tq2_0
mxfp4_moe""".split()


def main():
    binary, source, importance, out = sys.argv[1:]
    result, version = {}, None
    for mixture in MIXTURES:
        for name, extra in ((mixture, []), (mixture + " +importance", ["--imatrix", importance])):
            with tempfile.TemporaryDirectory() as temporary:
                path = Path(temporary, "out.gguf")
                run = subprocess.run([binary, *extra, source, str(path), mixture], capture_output=True, text=True)
                text = run.stdout + run.stderr
                version = version or next(line for line in text.splitlines() if line.startswith("version"))
                if run.returncode:
                    print(name, "refused")
                    continue
                reader = gguf.GGUFReader(path)
                digest = hashlib.sha256()
                for tensor in reader.tensors:
                    digest.update(tensor.name.encode() + b"\0" + struct.pack("<I", int(tensor.tensor_type)))
                    digest.update(tensor.data.tobytes())
                keys = [k for k in reader.fields if not k.startswith("GGUF.")]
                at = keys.index("general.quantization_version")
                said = {k: reader.fields[k].contents() for k in keys[at:]}
                said.pop("quantize.imatrix.file", None)
                result[name] = {"sha256": digest.hexdigest(), "keys": said}
    document = {"version": version, "mixtures": result}
    Path(out).write_text(json.dumps(document, indent=0) + "\n")


main()
