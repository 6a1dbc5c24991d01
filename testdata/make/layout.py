"""What the original writers make of tables of tensors: testdata/golden/layout.json. Run from the repository's root.

    python testdata/make/layout.py              makes the golden: cases, and digests of the files of torch and gguf
    python testdata/make/layout.py --verify DIR reads files that hoist wrote (see tests/it/layout.rs) with the originals

A case is the table; its tensors' bytes follow a rule that both sides know, so that nothing but digests has to be kept.
Of a PyTorch file the 40 digits of `.data/serialization_id` and their CRC-32 are set to zeros first: torch makes them of
the data, which hoist does not know when it needs them. Of the large case only what is no tensor's is hashed.
"""

import argparse
import hashlib
import importlib.metadata
import json
import struct
import sys
import tempfile
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

# This folder has scripts called like the packages they use.
HERE = Path(__file__).resolve().parent
sys.path = [p for p in sys.path if Path(p or ".").resolve() != HERE]

import gguf as G  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

GOLDEN = HERE.parent / "golden" / "layout.json"
QT, VT = G.GGMLQuantizationType, G.GGUFValueType

TORCH = {
    "bool": "bool", "u8": "uint8", "i8": "int8", "u16": "uint16", "i16": "int16", "u32": "uint32", "i32": "int32",
    "u64": "uint64", "i64": "int64", "f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64",
    "f8_e4m3": "float8_e4m3fn", "f8_e5m2": "float8_e5m2", "f8_e4m3fnuz": "float8_e4m3fnuz",
    "f8_e5m2fnuz": "float8_e5m2fnuz", "f8_e8m0": "float8_e8m0fnu", "f4": "float4_e2m1fn_x2", "c32": "complex32",
    "c64": "complex64", "c128": "complex128",
}
KINDS = {"u8": VT.UINT8, "i8": VT.INT8, "u16": VT.UINT16, "i16": VT.INT16, "u32": VT.UINT32, "i32": VT.INT32,
         "f32": VT.FLOAT32, "bool": VT.BOOL, "string": VT.STRING, "u64": VT.UINT64, "i64": VT.INT64, "f64": VT.FLOAT64}
# Tensors from here on have no data in a golden: they are zeros that no one writes.
LARGE_BYTES = 1 << 20


def count(shape):
    n = 1
    for d in shape:
        n *= d
    return n


def data(index, dtype, size):
    """The bytes of the tensor at a place in its table."""
    i = np.arange(size, dtype=np.uint64)
    out = ((i * 31 + (i >> 8) * 7 + index * 17) & 0xFF).astype(np.uint8)
    return (out & 1 if dtype == "bool" else out).tobytes()


def torch_size(dtype, shape):
    if dtype == "f4":
        return count(shape) // 2
    return count(shape) * getattr(torch, TORCH[dtype]).itemsize


def torch_tensor(index, dtype, shape):
    kind = getattr(torch, TORCH[dtype])
    shape = shape[:-1] + [shape[-1] // 2] if dtype == "f4" else shape
    if count(shape) == 0:
        return torch.empty(shape, dtype=kind)
    size = count(shape) * kind.itemsize
    if size >= LARGE_BYTES:
        zeros = tempfile.NamedTemporaryFile()
        zeros.truncate(size)
        return torch.from_file(zeros.name, size=size, dtype=torch.uint8).view(kind).reshape(shape)
    return torch.frombuffer(bytearray(data(index, dtype, size)), dtype=torch.uint8).view(kind).reshape(shape)


class Pieces:
    """A file that forgets what is large."""

    def __init__(self):
        self.at, self.kept = 0, []

    def write(self, piece):
        if len(piece) < 65536:
            self.kept.append((self.at, bytes(piece)))
        self.at += len(piece)
        return len(piece)

    def flush(self):
        pass


def sha(parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def without_id(piece, at=0):
    """The last piece of a PyTorch file, which begins at `at`, without what torch makes of the data."""
    piece = bytearray(piece)
    directory = struct.unpack_from("<Q", piece, len(piece) - 98 + 48)[0] - at
    descriptor = directory - (24 if directory + at >= 0xFFFFFFFF else 16)
    entry = piece.rindex(b"PK\1\2")
    assert piece[descriptor:descriptor + 4] == b"PK\7\x08" and piece[entry + 16:entry + 20] == piece[descriptor + 4:descriptor + 8]
    for start, size in [(descriptor - 40, 40), (descriptor + 4, 4), (entry + 16, 4)]:
        piece[start:start + size] = bytes(size)
    return bytes(piece)


def torch_case(stem, tensors, firsts=None, **more):
    """`firsts`: for each tensor the one whose storage it shares; a view of its own, as `state_dict()` makes it."""
    firsts = firsts or list(range(len(tensors)))
    made, state = [], OrderedDict()
    for i, (name, dtype, shape) in enumerate(tensors):
        made.append(made[firsts[i]].view(shape) if firsts[i] != i else torch_tensor(i, dtype, shape))
        state[name] = made[i]
    large = any(torch_size(d, s) >= LARGE_BYTES for _, d, s in tensors)
    case = {"stem": stem, "tensors": tensors, "firsts": firsts, **more}
    if large:
        assert stem == "archive"  # what torch calls it where there is no name
        file = Pieces()
        torch.save(state, file)
        joined = []
        for at, piece in file.kept:
            if joined and joined[-1][0] + len(joined[-1][1]) == at:
                joined[-1][1].extend(piece)
            else:
                joined.append((at, bytearray(piece)))
        joined[-1] = (joined[-1][0], without_id(joined[-1][1], joined[-1][0]))
        crcs = {}
        for name, dtype, shape in tensors:
            size, crc, zeros = torch_size(dtype, shape), 0, bytes(1 << 24)
            if size >= LARGE_BYTES:
                for start in range(0, size, len(zeros)):
                    crc = zlib.crc32(zeros[:min(len(zeros), size - start)], crc)
                crcs[name] = crc
        case["crc32_of_zeros"] = crcs
        case["sha256"] = sha(struct.pack("<QQ", at, len(p)) + p for at, p in joined)
        case["size"] = file.at
    else:
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / f"{stem}.bin"
            torch.save(state, path)
            file = path.read_bytes()
        case["sha256"] = sha([without_id(file)])
        case["size"] = len(file)
    return case


def torch_cases():
    every = [[f"of.{name}", name, [3, 4]] for name in TORCH]
    llama = [["model.embed_tokens.weight", "bf16", [40, 16]]]
    for layer in range(3):
        for part, shape in [("self_attn.q_proj.weight", [16, 16]), ("self_attn.k_proj.weight", [8, 16]),
                            ("mlp.up_proj.weight", [24, 16]), ("input_layernorm.weight", [16])]:
            llama.append([f"model.layers.{layer}.{part}", "bf16", shape])
    tied = llama + [["model.norm.weight", "f32", [16]], ["lm_head.weight", "bf16", [40, 16]]]
    big = 1 << 32
    return {
        "nothing": torch_case("archive", []),
        "one": torch_case("pytorch_model-00001-of-00004", [["w", "f32", [2, 3]]]),
        "every type": torch_case("every", every),
        "shapes": torch_case("shapes", [
            ["scalar", "f32", []], ["none", "f32", [0, 4]], ["none inside", "i64", [2, 0, 3]], ["four", "f16", [2, 1, 3, 2]],
            ["five", "u8", [1, 2, 1, 2, 1]], ["long", "u8", [70_000]], ["wide", "u8", [255, 257]], ["packed", "f4", [2, 3, 8]],
        ]),
        "names": torch_case("names", [
            ["", "u8", [1]], ["Gewicht für ß", "u8", [2]], ["層.0.重み", "u8", [3]], ["a\"b\\c\n\0d", "u8", [4]],
            ["x" * 300, "u8", [5]],
        ]),
        "tied": torch_case("tied", tied, list(range(len(tied) - 1)) + [0]),
        "1000 tensors": torch_case("t", [[f"t{i:04}", "u8", [1]] for i in range(1000)]),
        "1001 tensors": torch_case("t", [[f"t{i:04}", "u8", [1]] for i in range(1001)]),
        "70,000 tensors": torch_case("many", [[f"t.{i:05}", "u8", [i % 3]] for i in range(70_000)]),
        "beyond 32 bits": torch_case("archive", [
            ["a", "f32", [5]], ["large", "u8", [big + 100]], ["b", "f16", [3]], ["none", "f32", [0]],
            ["large too", "bf16", [2, big // 2]],
        ]),
        "up to 32 bits": torch_case("archive", [["a", "u8", [big - 2 - 1408]], ["b", "u8", [5]]]),
        "one less than wide": torch_case("archive", [["a", "u8", [big - 2]]]),
        "just wide": torch_case("archive", [["a", "u8", [big - 1]]]),
    }


def gguf_size(dtype, shape):
    block, size = G.GGML_QUANT_SIZES[QT[dtype.upper()]]
    return count(shape) // block * size


def gguf_case(meta, tensors, alignment=32, **split):
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "m.gguf"
        writer = G.GGUFWriter(path, meta[0][2], **split)
        assert meta[0][0] == "general.architecture"
        for key, kind, value in meta[1:]:
            if kind.startswith("["):
                writer.add_key_value(key, value, VT.ARRAY, KINDS[kind.strip("[]")])
            else:
                writer.add_key_value(key, value, KINDS[kind])
        if alignment != 32:
            writer.add_custom_alignment(alignment)
        for i, (name, dtype, shape) in enumerate(tensors):
            raw = np.frombuffer(data(i, dtype, gguf_size(dtype, shape)), np.uint8)
            native = {"f32": "<f4", "f16": "<f2", "f64": "<f8", "i8": "i1", "i16": "<i2", "i32": "<i4", "i64": "<i8"}
            if dtype in native:
                writer.add_tensor(name, raw.view(native[dtype]).reshape(shape))
            else:
                block, size = G.GGML_QUANT_SIZES[QT[dtype.upper()]]
                bytes_shape = shape[:-1] + [shape[-1] // block * size]
                writer.add_tensor(name, raw.reshape(bytes_shape), raw_dtype=QT[dtype.upper()])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        files = {p.name: {"sha256": sha([p.read_bytes()]), "size": p.stat().st_size} for p in sorted(Path(place).iterdir())}
    return {"meta": meta, "tensors": tensors, "alignment": alignment, "files": files, **split}


def gguf_cases():
    arch = ["general.architecture", "string", "llama"]
    kinds = [arch, ["general.name", "string", "Ein Modell für ß \u0001 層"], ["k.u8", "u8", 255], ["k.i8", "i8", -128],
             ["k.u16", "u16", 65535], ["k.i16", "i16", -32768], ["k.u32", "u32", 4294967295], ["k.i32", "i32", -2147483648],
             ["k.u64", "u64", 18446744073709551615], ["k.i64", "i64", -9223372036854775808], ["k.f32", "f32", 0.5],
             ["k.f64", "f64", -1e300], ["k.yes", "bool", True], ["k.no", "bool", False],
             ["tokenizer.ggml.tokens", "[string]", ["<s>", "", "▁the", "層"]], ["tokenizer.ggml.scores", "[f32]", [0.0, -1.5]],
             ["tokenizer.ggml.token_type", "[i32]", [1, 2, 3]], ["k.bools", "[bool]", [True, False]],
             ["k.bytes", "[u8]", [0, 255]], ["k.words", "[u32]", [7]]]
    types = [[f"blk.{i}.{name}.weight", name, [2, 3, 512]] for i, name in enumerate(
        ["f32", "f16", "bf16", "f64", "i8", "i16", "i32", "i64", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k",
         "q4_k", "q5_k", "q6_k", "q8_k", "iq2_xxs", "iq2_xs", "iq3_xxs", "iq1_s", "iq4_nl", "iq3_s", "iq2_s", "iq4_xs",
         "iq1_m", "tq1_0", "tq2_0", "mxfp4", "nvfp4"])]
    small = [[f"blk.{i}.attn_norm.weight", "f32", [i % 5 + 1]] for i in range(11)]
    return {
        "keys only": gguf_case([arch], []),
        "every kind of key": gguf_case(kinds, [["w", "f32", [3]]]),
        "every type": gguf_case([arch], types),
        "shapes": gguf_case([arch], [["scalar", "f32", []], ["one", "f32", [1]], ["flat", "f32", [1, 1, 1, 7]],
                                     ["four", "i8", [2, 3, 4, 5]], ["none", "f16", [0]], ["n" * 63, "i8", [1]]]),
        "aligned to 64": gguf_case([arch], small, 64),
        "aligned to 8": gguf_case([arch], small, 8),
        "aligned to 4096": gguf_case([arch], small, 4096),
        "split by tensors": gguf_case(kinds, small, split_max_tensors=4),
        "split by size": gguf_case(kinds, small, split_max_size=24),
        "split, aligned": gguf_case([arch], small, split_max_tensors=10),
        "not split after all": gguf_case([arch], small, split_max_tensors=11),
    }


def safetensors_cases():
    """The header without its padding: the reference pads to 8, hoist to 64."""
    tensors = [[f"of.{name}", name, [3, 4]] for name in TORCH if name not in ("c32", "c128")]
    tensors += [["none", "f32", [0, 2]], ["scalar", "f64", []], ["b", "bf16", [2, 3]], ["a", "bf16", [5]], ["層 \"ß\"", "u8", [3]]]
    state = {name: torch_tensor(i, dtype, shape) for i, (name, dtype, shape) in enumerate(tensors)}
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "m.safetensors"
        save_file(state, path, metadata={"format": "pt"})
        file = path.read_bytes()
    size = struct.unpack("<Q", file[:8])[0]
    header = file[8:8 + size].rstrip(b" ")
    return {"every type": {"tensors": tensors, "header": sha([header]), "data": sha([file[8 + size:]])}}


def rows(case):
    """Tables of thousands of rows are kept as how they are made."""
    if len(case["tensors"]) > 900:
        n = len(case["tensors"])
        name = case["tensors"][0][0]
        case = {**case, "tensors": {"count": n, "name": name.rstrip("0"), "digits": len(name) - len(name.rstrip("0")),
                                    "sizes": [t[2][0] for t in case["tensors"][:3]]}}
        del case["firsts"]
    return case


def make():
    versions = {p: importlib.metadata.version(p) for p in ("gguf", "numpy", "safetensors", "torch")}
    golden = {
        "versions": versions,
        "gguf": gguf_cases(),
        "safetensors": safetensors_cases(),
        "torch": {name: rows(case) for name, case in torch_cases().items()},
    }
    lines = ["{", f'"versions": {json.dumps(versions)}']
    for kind in ("gguf", "safetensors", "torch"):
        cases = ",\n".join(f" {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in golden[kind].items())
        lines[-1] += ","
        lines.append(f'"{kind}": {{\n{cases}\n}}')
    GOLDEN.write_text("\n".join(lines) + "\n}\n")
    print(GOLDEN, GOLDEN.stat().st_size, "bytes")


def verify(place):
    """Reads what hoist wrote with the originals, and compares every byte."""
    golden = json.loads(GOLDEN.read_text())
    seen = 0
    for name, case in golden["torch"].items():
        path = place / f"{name}.bin"
        tensors = case["tensors"]
        if isinstance(tensors, dict):
            tensors = [[f"{tensors['name']}{i:0{tensors['digits']}}", "u8", [tensors["sizes"][i % len(tensors["sizes"])]]]
                       for i in range(tensors["count"])]
        firsts = case.get("firsts") or list(range(len(tensors)))
        if not path.exists():
            print(f"no `{path}`")
            continue
        with zipfile.ZipFile(path) as zip_file:
            assert zip_file.testzip() is None, name
        for mmap in (True, False):
            state = torch.load(path, weights_only=True, mmap=mmap)
            assert list(state) == [t[0] for t in tensors], name
            for i, (tensor, dtype, shape) in enumerate(tensors):
                found = state[tensor]
                assert found.dtype == getattr(torch, TORCH[dtype]) and found.is_contiguous(), (name, tensor)
                wanted_shape = shape[:-1] + [shape[-1] // 2] if dtype == "f4" else shape
                assert list(found.shape) == wanted_shape, (name, tensor, found.shape)
                size = torch_size(dtype, shape)
                if size >= LARGE_BYTES:
                    assert not found.view(torch.uint8).any(), (name, tensor)
                elif size:
                    raw = bytes(found.untyped_storage())
                    assert raw == data(firsts[i], dtype, size), (name, tensor)
                if mmap and size:
                    assert found.data_ptr() % 64 == 0 or i != firsts[i], (name, tensor)
                if firsts[i] != i:
                    assert found.data_ptr() == state[tensors[firsts[i]][0]].data_ptr(), (name, tensor)
        seen += 1
    for name, case in golden["gguf"].items():
        for file in case["files"]:
            path = place / f"{name}.{file}"
            if not path.exists():
                print(f"no `{path}`")
                continue
            assert hashlib.sha256(path.read_bytes()).hexdigest() == case["files"][file]["sha256"], (name, file)
            if name != "shapes":  # gguf's reader takes no tensor without dimensions or elements
                G.GGUFReader(path)
            seen += 1
    print(f"{seen} files are as they should be")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--verify", type=Path)
    arguments = arguments.parse_args()
    if arguments.verify:
        verify(arguments.verify)
    else:
        make()
