"""Writes testdata/golden/ggml.json. Run as `python testdata/make/ggml_blocks.py LIBGGML-BASE.SO [VECTORS]` from the root
of the repository.

What ggml's reference quantisers, in a build for baseline x86-64 (without contraction of multiplications and additions),
make of numbers that both sides can generate (splitmix64), with and without an importance of the columns: digests by type
and case. Numbers beyond what any weight holds are among them, for the reference's own nonsense is to be met too.

VECTORS is a folder of `input.f32` and `TYPE.bin`, made by llama.cpp elsewhere: an eighth of each is taken into
testdata/golden/ggml/ after comparing it with the library's bytes.
"""

import ctypes
import hashlib
import json
import pathlib
import sys

sys.path = [p for p in sys.path if pathlib.Path(p or ".").resolve() != pathlib.Path(__file__).resolve().parent]

import numpy as np  # noqa: E402

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"

# hoist's name: ggml's id, elements and bytes of a block.
TYPES = {
    "q4_0": (2, 32, 18), "q4_1": (3, 32, 20), "q5_0": (6, 32, 22), "q5_1": (7, 32, 24), "q8_0": (8, 32, 34),
    "q2_k": (10, 256, 84), "q3_k": (11, 256, 110), "q4_k": (12, 256, 144), "q5_k": (13, 256, 176),
    "q6_k": (14, 256, 210), "iq4_nl": (20, 32, 18), "iq4_xs": (23, 256, 136), "mxfp4": (39, 32, 17),
    "tq1_0": (34, 256, 54), "tq2_0": (35, 256, 66),
}
WEIGHED = ["q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs"]
COUNT = 1 << 16
COLUMNS = 512
SHARE = 8


def splitmix(seed, count):
    """`count` numbers of 64 bits."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15) * np.arange(1, count + 1, dtype=np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def centred(random):
    """Of 24 bits, from −2^23 on."""
    return (random >> np.uint64(40)).astype(np.int64).astype(np.float64) - (1 << 23)


def inputs():
    """Name: numbers."""
    random = splitmix(21, COUNT)
    # What weights are like: sums of four uniform numbers, a scale for each 128.
    sums = sum(centred(splitmix(22 + i, COUNT)) for i in range(4))
    power = np.repeat((splitmix(26, COUNT // 128) % np.uint64(6)).astype(np.int64) - 32, 128)
    weights = np.ldexp(sums, power).astype(np.float32)
    # The same in bf16, so that equal numbers and ties are many.
    bf16 = (weights.view(np.uint32) & 0xFFFF0000).view(np.float32)
    # From subnormal numbers to the largest, a power of two for each 32.
    power = np.repeat((splitmix(27, COUNT // 32) % np.uint64(250)).astype(np.int64) - 149, 32)
    with np.errstate(over="ignore"):
        powers = np.clip(np.ldexp(centred(random), power), -3.4e38, 3.4e38).astype(np.float32)
    bits = (random & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    bits[(bits & 0x7F800000) == 0x7F800000] ^= 0x40000000
    sparse = np.where(random % np.uint64(7) == 0, weights, np.float32(0)).astype(np.float32)
    sparse[::2][random[::2] % np.uint64(3) == 0] *= -0.0
    # Two of 256 far from the rest, which gets the least scales.
    outliers = bf16.copy()
    outliers[17::256] *= 1000
    outliers[200::256] *= -30
    # Of one sign, and constant runs.
    positive = np.abs(weights)
    negative = -np.abs(bf16)
    constant = np.repeat(weights[::64], 64)
    zero = np.zeros(COUNT, np.float32)
    zero[COUNT // 2:] = -0.0
    return {"weights": weights, "bf16": bf16, "powers": powers, "patterns": bits.view(np.float32), "sparse": sparse,
            "outliers": outliers, "positive": positive, "negative": negative, "constant": constant, "zero": zero}


def importance():
    """Of each column; some are zero."""
    random = splitmix(31, COLUMNS)
    values = (random >> np.uint64(40)).astype(np.float64) / (1 << 24)
    return np.where(random % np.uint64(16) == 0, 0, values * values * 8).astype(np.float32)


class Ggml:
    def __init__(self, path):
        self.lib = ctypes.CDLL(path)
        # It builds the table that f16 scales are looked up in.
        self.lib.ggml_init.restype = ctypes.c_void_p
        self.lib.ggml_init.argtypes = [ctypes.c_size_t, ctypes.c_void_p, ctypes.c_bool]
        self.lib.ggml_init(1 << 20, None, True)
        self.lib.ggml_version.restype = ctypes.c_char_p
        self.chunk = self.lib.ggml_quantize_chunk
        self.chunk.restype = ctypes.c_size_t
        self.chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
                               ctypes.c_int64, ctypes.c_void_p]

    def encode(self, name, numbers, weights=None):
        type_id, elements, size = TYPES[name]
        numbers = np.ascontiguousarray(numbers)
        out = np.zeros(len(numbers) // elements * size, np.uint8)
        self.chunk(type_id, numbers.ctypes.data, out.ctypes.data, 0, len(numbers) // COLUMNS, COLUMNS,
                   None if weights is None else weights.ctypes.data)
        return out


def main():
    ggml = Ggml(sys.argv[1])
    goldens = {"by": f"ggml {ggml.lib.ggml_version().decode()}", "plain": {}, "weighed": {}}
    cases, weights = inputs(), importance()
    for name in TYPES:
        goldens["plain"][name] = {case: hashlib.sha256(ggml.encode(name, x).tobytes()).hexdigest()
                                  for case, x in cases.items()}
    for name in WEIGHED:
        goldens["weighed"][name] = {case: hashlib.sha256(ggml.encode(name, x, weights).tobytes()).hexdigest()
                                    for case, x in cases.items()}
    (GOLDEN / "ggml.json").write_text(json.dumps(goldens, indent=1) + "\n")
    if len(sys.argv) > 2:
        vectors = pathlib.Path(sys.argv[2])
        (GOLDEN / "ggml").mkdir(exist_ok=True)
        numbers = np.fromfile(vectors / "input.f32", np.float32)
        numbers = numbers[: len(numbers) // SHARE]
        numbers.tofile(GOLDEN / "ggml" / "input.f32")
        for name, (_, elements, size) in TYPES.items():
            if not (vectors / f"{name}.bin").exists():
                continue
            data = np.fromfile(vectors / f"{name}.bin", np.uint8)[: len(numbers) // elements * size]
            differ = int((data != ggml.encode(name, numbers)).sum())
            assert differ == 0, f"{name}: the library and the vectors differ in {differ} bytes"
            data.tofile(GOLDEN / "ggml" / f"{name}.bin")


if __name__ == "__main__":
    main()
