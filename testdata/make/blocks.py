"""Writes testdata/golden/blocks.json. Run as `python testdata/make/blocks.py [LIBGGML-BASE.SO]` from the root of the
repository.

What the originals make of bytes and numbers that both sides can generate (splitmix64), as digests:

- decode: ggml's block types to f32, by gguf-py; by ggml itself where gguf-py lacks the type; and where both have it
  their agreement is checked here. Q8_1 has no reader anywhere: what its definition says.
- encode: f32 to block types, by gguf-py, agreement with ggml checked.
- mx: OCP microscaling as gpt-oss has it to f32 and to ggml's blocks, by transformers and by the layout's definition.
- casts: every pattern of f16 and bf16, and many of f32, to each float type, by torch.
- scaled: a matrix of e4m3 codes times block scales, by torch.

Without the library the script needs only Python packages and keeps the entries that ggml alone made.
"""

import ctypes
import hashlib
import importlib.metadata
import json
import pathlib
import sys

# Scripts here are called as the packages they use: this folder must not come before those.
sys.path = [p for p in sys.path if pathlib.Path(p or ".").resolve() != pathlib.Path(__file__).resolve().parent]

import gguf  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Type  # noqa: E402

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "blocks.json"

# hoist's name: ggml's id, elements and bytes of a block.
TYPES = {
    "q4_0": (2, 32, 18), "q4_1": (3, 32, 20), "q5_0": (6, 32, 22), "q5_1": (7, 32, 24), "q8_0": (8, 32, 34),
    "q8_1": (9, 32, 36), "q2_k": (10, 256, 84), "q3_k": (11, 256, 110), "q4_k": (12, 256, 144),
    "q5_k": (13, 256, 176), "q6_k": (14, 256, 210), "q8_k": (15, 256, 292), "iq2_xxs": (16, 256, 66),
    "iq2_xs": (17, 256, 74), "iq3_xxs": (18, 256, 98), "iq1_s": (19, 256, 50), "iq4_nl": (20, 32, 18),
    "iq3_s": (21, 256, 110), "iq2_s": (22, 256, 82), "iq4_xs": (23, 256, 136), "iq1_m": (29, 256, 56),
    "tq1_0": (34, 256, 54), "tq2_0": (35, 256, 66), "mxfp4": (39, 32, 17), "nvfp4": (40, 64, 36),
    "q1_0": (41, 128, 18), "q2_0": (42, 64, 18),
}
RANDOM_BLOCKS = 512
MASK = (1 << 64) - 1


def splitmix(seed, count):
    """`count` numbers of 64 bits."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15) * np.arange(1, count + 1, dtype=np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def random_bytes(seed, count):
    return splitmix(seed, (count + 7) // 8).view(np.uint8)[:count].copy()


def block_bytes(name):
    """256 blocks of one byte each, then random ones."""
    type_id, _, size = TYPES[name]
    fills = np.repeat(np.arange(256, dtype=np.uint8), size)
    return np.concatenate([fills, random_bytes(type_id, RANDOM_BLOCKS * size)])


def digest(values):
    """Of f32, every NaN alike."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).copy()
    bits[(bits & 0x7FFFFFFF) > 0x7F800000] = 0x7FC00000
    return hashlib.sha256(bits.tobytes()).hexdigest()


class Traits(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("block_elements", ctypes.c_int64), ("interleave", ctypes.c_int64),
                ("block_bytes", ctypes.c_size_t), ("quantized", ctypes.c_bool), ("to_float", ctypes.c_void_p),
                ("from_float", ctypes.c_void_p)]


class Ggml:
    def __init__(self, path):
        self.lib = ctypes.CDLL(path)
        # It builds the table that f16 scales are looked up in.
        self.lib.ggml_init.restype = ctypes.c_void_p
        self.lib.ggml_init.argtypes = [ctypes.c_size_t, ctypes.c_void_p, ctypes.c_bool]
        self.lib.ggml_init(1 << 20, None, True)
        self.lib.ggml_get_type_traits.restype = ctypes.POINTER(Traits)
        self.lib.ggml_version.restype = ctypes.c_char_p

    def traits(self, name):
        traits = self.lib.ggml_get_type_traits(TYPES[name][0]).contents
        assert (traits.block_elements, traits.block_bytes) == TYPES[name][1:], name
        return traits

    def decode(self, name, data):
        symbol = {"q8_k": "dequantize_row_q8_K"}.get(name)
        address = ctypes.cast(getattr(self.lib, symbol), ctypes.c_void_p).value if symbol else \
            self.traits(name).to_float
        if not address:
            return None
        out = np.zeros(len(data) // TYPES[name][2] * TYPES[name][1], np.float32)
        ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(address)(
            data.ctypes.data, out.ctypes.data, len(out))
        return out

    def encode(self, name, numbers):
        out = np.zeros(len(numbers) // TYPES[name][1] * TYPES[name][2], np.uint8)
        ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(self.traits(name).from_float)(
            numbers.ctypes.data, out.ctypes.data, len(numbers))
        return out


def by_definition(name, data):
    assert name == "q8_1"
    blocks = data.reshape(-1, 36)
    return (blocks[:, 4:].view(np.int8).astype(np.float32) * blocks[:, :2].copy().view(np.float16).astype(np.float32)).ravel()


def decode_goldens(ggml, old):
    goldens = {}
    for name in TYPES:
        data = block_bytes(name)
        readers, numbers = [], None
        size = GGML_QUANT_SIZES.get(Type(TYPES[name][0])) if TYPES[name][0] in Type._value2member_map_ else None
        if size == TYPES[name][1:]:
            try:
                numbers = gguf.quants.dequantize(data.reshape(-1, TYPES[name][2]), Type(TYPES[name][0])).ravel()
                readers.append("gguf")
            except NotImplementedError:
                pass
        theirs = ggml and ggml.decode(name, data)
        if theirs is not None:
            if numbers is not None and digest(numbers) != digest(theirs):
                where = np.flatnonzero((numbers.view(np.uint32) != theirs.view(np.uint32))
                                       & ~(np.isnan(numbers) & np.isnan(theirs)))
                raise SystemExit(f"{name}: gguf-py and ggml differ in {len(where)} numbers, first {where[:4]}: "
                                 f"{numbers[where[:4]]} {theirs[where[:4]]}")
            numbers = theirs
            readers.append("ggml")
        if numbers is None and name == "q8_1":
            numbers = by_definition(name, data)
            readers.append("definition")
        if numbers is None:
            goldens[name] = old["decode"][name]
        else:
            goldens[name] = {"by": " and ".join(readers), "sha256": digest(numbers)}
            if ggml is None and old and old["decode"][name]["sha256"] == goldens[name]["sha256"]:
                goldens[name] = old["decode"][name]
    return goldens


def encode_inputs():
    """Name: numbers, whole blocks of 256."""
    count = 256 * 256
    random = splitmix(7, count)
    # 24 bits times a power of two for each 32, from subnormal numbers to beyond an f16's scale.
    power = np.repeat((splitmix(8, count // 32) % np.uint64(160)).astype(np.int64) - 145, 32)
    uniform = np.ldexp((random >> np.uint64(40)).astype(np.int64).astype(np.float64) - (1 << 23), power).astype(np.float32)
    # Halves beside a maximum of 127: ties for a scale of one.
    halves = ((random % np.uint64(509)).astype(np.int64) - 254).astype(np.float32) / np.float32(2)
    halves[::32] = 127
    # Any finite pattern.
    bits = (random & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    bits[(bits & 0x7F800000) == 0x7F800000] ^= 0x40000000
    # Small whole numbers times the scale that they lead to: many codes near a tie.
    near = ((random % np.uint64(2001)).astype(np.int64) - 1000).astype(np.float32) * np.float32(0.1)
    sparse = np.where(random % np.uint64(5) == 0, uniform, np.float32(0)).astype(np.float32)
    sparse[: 32 * 16] = 0
    sparse[32 * 16: 32 * 32] = -0.0
    return {"uniform": uniform, "halves": halves, "patterns": bits.view(np.float32), "near": near, "sparse": sparse}


def encode_goldens(ggml):
    goldens = {}
    for name in ["q8_0"]:
        for case, numbers in encode_inputs().items():
            data = gguf.quants.quantize(numbers.reshape(-1, 256), Type(TYPES[name][0])).ravel()
            if ggml:
                theirs = ggml.encode(name, numbers)
                where = np.flatnonzero(data != theirs)
                if len(where):
                    block = where[0] // TYPES[name][2]
                    raise SystemExit(f"{name} {case}: gguf-py and ggml differ in {len(where)} bytes, first in block {block}: "
                                     f"{numbers.reshape(-1, TYPES[name][1])[block]}")
            goldens.setdefault(name, {})[case] = hashlib.sha256(data.tobytes()).hexdigest()
    return goldens


def mx_goldens():
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    # Two experts, 60 rows of 64 numbers; the scale 255 is a NaN in the format and not in every reader.
    shape = (2, 60, 2)
    blocks = torch.from_numpy(random_bytes(41, 2 * 60 * 2 * 16)).view(*shape, 16)
    scales = torch.from_numpy((np.arange(240) % 255).astype(np.uint8)).view(shape)
    # Its result is transposed for its own use.
    numbers = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).transpose(1, 2).contiguous()
    packed = torch.stack([blocks & 15, blocks >> 4], -1).view(*shape, 32)
    repacked = torch.cat([scales.unsqueeze(-1), packed[..., :16] | packed[..., 16:] << 4], -1)
    # ggml's own reading of the repacked blocks must be the same numbers (it has no negative zero).
    theirs = gguf.quants.dequantize(repacked.view(-1, 17).numpy(), Type.MXFP4).ravel()
    assert np.array_equal(theirs, numbers.numpy().ravel())
    return {"f32": digest(numbers.numpy()), "blocks": hashlib.sha256(repacked.numpy().tobytes()).hexdigest()}


FLOATS = {
    "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "f8_e4m3": torch.float8_e4m3fn,
    "f8_e5m2": torch.float8_e5m2, "f8_e4m3fnuz": torch.float8_e4m3fnuz, "f8_e5m2fnuz": torch.float8_e5m2fnuz,
}


def cast_goldens():
    patterns = np.arange(1 << 16, dtype=np.uint16)
    # Each f16 and bf16 pattern and what lies half-way to the next, each also one step up and one down.
    halves = torch.from_numpy(patterns.view(np.int16)).view(torch.float16).to(torch.float32).numpy().view(np.uint32)
    brains = patterns.astype(np.uint32) << 16
    near = np.concatenate([halves, halves + np.uint32(0x1000), brains, brains + np.uint32(0x8000)])
    wide = np.concatenate([near, near + np.uint32(1), near - np.uint32(1),
                           splitmix(9, 1 << 17).astype(np.uint32)])
    sources = {
        "f16": torch.from_numpy(patterns.view(np.int16)).view(torch.float16),
        "bf16": torch.from_numpy(patterns.view(np.int16)).view(torch.bfloat16),
        "f32": torch.from_numpy(wide.view(np.int32)).view(torch.float32),
    }
    for name in ["f8_e4m3", "f8_e5m2", "f8_e4m3fnuz", "f8_e5m2fnuz"]:
        sources[name] = torch.from_numpy(patterns[:256].astype(np.uint8)).view(FLOATS[name])
    goldens = {}
    for source, numbers in sources.items():
        for target, dtype in FLOATS.items():
            if source == target:
                continue
            # A NaN of eight bits is compared as it is, others by what they are worth.
            made = numbers.to(torch.float32).to(dtype)
            if made.element_size() == 1:
                sha = hashlib.sha256(made.view(torch.uint8).numpy().tobytes()).hexdigest()
            else:
                sha = digest(made.to(torch.float32).numpy())
            # How many values are lost to an infinity or a NaN. Into e4m3 torch 2.15 saturates; there it is what is
            # above the middle between 448 and 480, where the next number would be.
            wide, result = numbers.to(torch.float32), made.to(torch.float32)
            saturates = target == "f8_e4m3"
            lost = wide.abs() > 464 if saturates else torch.isfinite(wide) & ~torch.isfinite(result)
            if "fnuz" in target:
                lost |= torch.isinf(wide)
            goldens.setdefault(source, {})[target] = {
                "sha256": sha, "saturates": saturates, "overflows": int(lost.sum())}
    return goldens


def scaled_goldens():
    goldens = {}
    for name, (rows, columns, block_rows, block_columns) in {
        "blocks": (300, 260, 128, 128), "rows": (37, 129, 1, 129), "tensor": (37, 129, 37, 129),
        "groups": (20, 96, 1, 32),
    }.items():
        codes = torch.from_numpy(random_bytes(51, rows * columns)).view(torch.float8_e4m3fn).view(rows, columns)
        shape = (-(-rows // block_rows), -(-columns // block_columns))
        scales = (splitmix(52, shape[0] * shape[1]) >> np.uint64(40)).astype(np.float32) / np.float32(1 << 30)
        full = torch.from_numpy(scales).view(shape).repeat_interleave(block_rows, 0).repeat_interleave(block_columns, 1)
        numbers = codes.to(torch.float32) * full[:rows, :columns]
        goldens[name] = {"shape": [rows, columns, block_rows, block_columns], "sha256": digest(numbers.numpy())}
    return goldens


def main():
    # Random scales are sometimes infinite.
    np.seterr(all="ignore")
    old = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    ggml = Ggml(sys.argv[1]) if len(sys.argv) > 1 else None
    versions = {name: importlib.metadata.version(name) for name in ["gguf", "numpy", "torch", "transformers"]}
    versions["ggml"] = ggml.lib.ggml_version().decode() if ggml else old["versions"]["ggml"]
    goldens = {"versions": versions, "decode": decode_goldens(ggml, old), "encode": encode_goldens(ggml),
               "mx": mx_goldens(), "casts": cast_goldens(), "scaled": scaled_goldens()}
    GOLDEN.write_text(json.dumps(goldens, indent=1) + "\n")


if __name__ == "__main__":
    main()
