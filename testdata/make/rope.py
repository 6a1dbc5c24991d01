"""Writes testdata/golden/rope.json: factors of rotary frequencies under the `llama3` scaling, as torch computes them.

    python testdata/make/rope.py

Each case has the config's numbers and the bits of the f32 factors. The formula is the one that Llama 3.1 published; it is
computed here as llama.cpp's convert_hf_to_gguf.py does: frequencies as a torch f32 tensor, the rest element by element.
"""

import json
import math
import pathlib
import struct
import sys

# Scripts here are called as the packages they use: this folder must not come before those.
sys.path = [p for p in sys.path if pathlib.Path(p or ".").resolve() != pathlib.Path(__file__).resolve().parent]

import torch  # noqa: E402

CASES = {
    "llama 3.1": dict(head_dim=128, rope_theta=500000.0, factor=8.0, low=1.0, high=4.0, context=8192),
    "llama 3.2": dict(head_dim=64, rope_theta=500000.0, factor=32.0, low=1.0, high=4.0, context=8192),
    "llama 4": dict(head_dim=128, rope_theta=500000.0, factor=16.0, low=1.0, high=1.5, context=8192),
    "short": dict(head_dim=32, rope_theta=10000.0, factor=4.0, low=1.0, high=4.0, context=64),
}


def factors(head_dim, rope_theta, factor, low, high, context):
    frequencies = 1.0 / (rope_theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim))
    out = []
    for frequency in frequencies:
        wave = 2 * math.pi / frequency
        if wave < context / high:
            out.append(1.0)
        elif wave > context / low:
            out.append(factor)
        else:
            smooth = (context / wave - low) / (high - low)
            out.append(1 / ((1 - smooth) / factor + smooth))
    return torch.tensor(out, dtype=torch.float32).tolist()


golden = {
    "versions": {"torch": torch.__version__},
    "cases": [
        {"name": name, **case, "bits": [struct.unpack("<I", struct.pack("<f", x))[0] for x in factors(**case)]}
        for name, case in CASES.items()
    ],
}
pathlib.Path("testdata/golden/rope.json").write_text(json.dumps(golden, indent=1) + "\n")
