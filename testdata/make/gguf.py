"""Makes testdata/gguf/*.gguf and testdata/golden/gguf.json. Run from the repository's root.

What a golden says comes from the gguf package's own reader, wherever that can read the file ("by": "gguf"); for version
1, nested arrays, Q8_1 and Q2_0, which it cannot, from what was written ("by": "spec").
"""

import hashlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

# This file's own name would shadow the package.
HERE = Path(__file__).resolve().parent
sys.path = [p for p in sys.path if Path(p or ".").resolve() != HERE] + [str(HERE)]

import importlib.metadata  # noqa: E402

import gguf as G  # noqa: E402
import numpy as np  # noqa: E402
from gguf.scripts import gguf_convert_endian  # noqa: E402
from gguf_bytes import Layout, canonical, pad  # noqa: E402

OUT = HERE.parent / "gguf"
QT, VT = G.GGMLQuantizationType, G.GGUFValueType
rng = np.random.default_rng(20261121)

NAMES = {VT.UINT8: "u8", VT.INT8: "i8", VT.UINT16: "u16", VT.INT16: "i16", VT.UINT32: "u32", VT.INT32: "i32",
         VT.FLOAT32: "f32", VT.BOOL: "bool", VT.STRING: "string", VT.ARRAY: "array", VT.UINT64: "u64",
         VT.INT64: "i64", VT.FLOAT64: "f64"}

# The fields of ggml's blocks as (width, count), from ggml-common.h: what changes with the byte order.
FIELDS = {"F32": [(4, 1)], "F16": [(2, 1)], "BF16": [(2, 1)], "F64": [(8, 1)], "I8": [(1, 1)], "I16": [(2, 1)],
          "I32": [(4, 1)], "I64": [(8, 1)], "Q4_0": [(2, 1), (1, 16)], "Q4_1": [(2, 2), (1, 16)],
          "Q5_0": [(2, 1), (4, 1), (1, 16)], "Q5_1": [(2, 2), (4, 1), (1, 16)], "Q8_0": [(2, 1), (1, 32)],
          "Q2_K": [(1, 80), (2, 2)], "Q3_K": [(1, 108), (2, 1)], "Q4_K": [(2, 2), (1, 140)],
          "Q5_K": [(2, 2), (1, 172)], "Q6_K": [(1, 208), (2, 1)], "MXFP4": [(1, 17)], "NVFP4": [(1, 36)],
          "IQ4_NL": [(2, 1), (1, 16)], "IQ4_XS": [(2, 2), (1, 132)]}
# gguf 0.19 gives Q8_1 40 bytes; ggml's block_q8_1 has two f16 and 32 i8. It does not know Q2_0 (id 42) yet.
SPEC_TYPES = {"Q8_1": (9, 32, 36), "Q2_0": (42, 64, 18)}

golden = {}


def sha(data):
    return hashlib.sha256(bytes(data)).hexdigest()


def swapped(name, data):
    """The bytes of whole blocks with each field's bytes reversed."""
    fields, out, at = FIELDS[name], bytearray(data), 0
    while at < len(out):
        for width, count in fields:
            for _ in range(count):
                out[at:at + width] = out[at:at + width][::-1]
                at += width
    ours = bytes(out)
    theirs = gguf_convert_endian.byteswap_tensors.get(QT[name])
    if theirs:
        holder = SimpleNamespace(data=np.frombuffer(data, np.uint8).copy())
        size = G.GGML_QUANT_SIZES[QT[name]][1]
        for block in range(0, len(data), size):
            theirs(holder, block)
        assert holder.data.tobytes() == ours, name
    return ours


def entry(kind, value):
    if kind == "array":
        item, items = value
        head = canonical("array", (item, []))
        body = canonical("array", (item, items))[len(head):]
        return {"kind": "array", "item": item, "count": len(items), "sha256": sha(body)}
    return {"kind": kind, "hex": canonical(kind, value).hex()}


def note(path, tensors, meta, data_offset, by):
    golden[f"gguf/{path.name}"] = {"by": by, "data_offset": int(data_offset), "tensors": tensors, "meta": meta}


def facts(name, shape, data):
    return {"dtype": name.lower(), "shape": [int(d) for d in shape], "sha256": sha(data)}


def read(path):
    """What the package's reader says of the file."""
    reader = G.GGUFReader(path)
    meta = {}
    for key, field in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        kind = NAMES[field.types[0]]
        le = lambda part: part.astype(part.dtype.newbyteorder("<"))  # noqa: E731
        if kind == "array":
            item = NAMES[VT(int(field.parts[4][0]))] if len(field.types) < 2 else NAMES[field.types[1]]
            if item == "string":
                items = [bytes(field.parts[i]) for i in field.data]
            else:
                items = [le(field.parts[i])[0].item() for i in field.data]
            meta[key] = entry("array", (item, items))
        elif kind == "string":
            meta[key] = entry("string", bytes(field.parts[-1]))
        else:
            # From the array's bytes, so that a NaN keeps its payload.
            meta[key] = {"kind": kind, "hex": le(field.parts[-1]).tobytes().hex()}
    tensors = {}
    big = reader.byte_order == "S"
    for t in reader.tensors:
        data = bytes(np.ascontiguousarray(t.data).view(np.uint8).reshape(-1))
        name = t.tensor_type.name
        if big:
            data = swapped(name, data)
        tensors[t.name] = facts(name, reversed(t.shape.tolist()), data)
    note(path, tensors, meta, reader.data_offset, "gguf")


def writer(name, **kwargs):
    return G.GGUFWriter(OUT / name, "test", **kwargs)


def close(w, names):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    for name in names:
        read(OUT / name)


def by_hand(name, layout, meta, tensors, alignment=32, infos=None, tail=True, by="spec"):
    """Writes keys [(key, kind, value)] and tensors [(name, shape, type, id, little-endian bytes)]."""
    head = layout.head(len(tensors), len(meta)) + b"".join(layout.key(*m) for m in meta)
    data, described = b"", {}
    for tensor, shape, type_name, type_id, content in tensors:
        data = pad(data, alignment)
        described[tensor] = layout.info(tensor, shape[::-1], type_id, len(data))
        data += swapped(type_name, content) if layout.order == ">" else content
    head = pad(head + b"".join(described[t] for t in infos or described), alignment)
    (OUT / name).write_bytes(head + (pad(data, alignment) if tail else data))
    if by == "gguf":
        read(OUT / name)
    else:
        note(OUT / name, {t[0]: facts(t[2], t[1], t[4]) for t in tensors}, {m[0]: entry(*m[1:]) for m in meta},
             len(head), by)


def every_kind(w):
    for kind, name, values in [
        (VT.UINT8, "u8", [0, 255, 7]), (VT.INT8, "i8", [-128, 127, 0]), (VT.UINT16, "u16", [0, 65535, 258]),
        (VT.INT16, "i16", [-32768, 32767, 258]), (VT.UINT32, "u32", [0, 2**32 - 1, 16909060]),
        (VT.INT32, "i32", [-2**31, 2**31 - 1, 16909060]), (VT.FLOAT32, "f32", [1.5, -0.0, float("inf")]),
        (VT.BOOL, "bool", [True, False, True]), (VT.UINT64, "u64", [0, 2**64 - 1, 2**53 + 1]),
        (VT.INT64, "i64", [-2**63, 2**63 - 1, -1]), (VT.FLOAT64, "f64", [5e-324, -1e308, 0.1]),
        (VT.STRING, "string", ["plain", "", "naïve 日本語 🤗\n\t\"\\"]),
    ]:
        for index, value in enumerate(values):
            w.add_key_value(f"scalar.{name}.{index}", value, kind)
        w.add_key_value(f"array.{name}", values, VT.ARRAY, sub_type=kind)


def block_bytes(type_name, elements):
    """Quantised by the package where it can, else random bytes of the right size."""
    qtype = QT[type_name]
    per, size = G.GGML_QUANT_SIZES[qtype]
    if type_name.startswith("I") and type_name[1:].isdigit():
        return rng.integers(0, 256, elements * size, dtype=np.uint8).tobytes()
    values = rng.standard_normal(elements).astype(np.float32).reshape(1, -1)
    if type_name == "F64":
        return values.astype(np.float64).tobytes()
    try:
        return G.quants.quantize(values, qtype).tobytes()
    except NotImplementedError:
        return rng.integers(0, 256, elements // per * size, dtype=np.uint8).tobytes()


def main():
    OUT.mkdir(exist_ok=True)
    for old in OUT.glob("*.gguf"):
        old.unlink()
    f32 = np.arange(6, dtype=np.float32).reshape(2, 3)

    # Every kind of value, in both byte orders; numbers of the tensors that the package swaps itself.
    for name, order in [("kinds.gguf", G.GGUFEndian.LITTLE), ("kinds-be.gguf", G.GGUFEndian.BIG)]:
        w = writer(name, endianess=order)
        every_kind(w)
        w.add_tensor("w", f32)
        w.add_tensor("h", f32.astype(np.float16) - 0.5)
        w.add_tensor("n", np.arange(-3, 4, dtype=np.int64))
        w.add_tensor("s", np.arange(-3, 4, dtype=np.int16))
        w.add_tensor("b", np.arange(-3, 4, dtype=np.int8))
        close(w, [name])

    # Text that is not UTF-8, trailing NULs.
    w = writer("bytes.gguf")
    w.add_key_value("tokenizer.ggml.tokens", [b"ok", b"\xff\xfe\x80", b"", b"\xe2\x96", b"nul\0\0"], VT.ARRAY,
                    sub_type=VT.STRING)
    w.add_key_value("general.name", b"caf\xe9\0", VT.STRING)
    close(w, ["bytes.gguf"])

    # A vocabulary.
    w = writer("vocab.gguf")
    tokens = [f"▁t{i}" if i % 3 else "".join(chr(0x3041 + (i * k) % 80) for k in range(1, 4)) for i in range(1200)]
    w.add_key_value("tokenizer.ggml.model", "llama", VT.STRING)
    w.add_key_value("tokenizer.ggml.tokens", tokens, VT.ARRAY, sub_type=VT.STRING)
    w.add_key_value("tokenizer.ggml.scores", [-float(i) for i in range(1200)], VT.ARRAY, sub_type=VT.FLOAT32)
    w.add_key_value("tokenizer.ggml.token_type", [1 + i % 6 for i in range(1200)], VT.ARRAY, sub_type=VT.INT32)
    close(w, ["vocab.gguf"])

    # Every type of ggml, and the blocks of known fields big endian.
    types = [t.name for t in QT if t.name not in SPEC_TYPES]
    content = {}
    for t in types:
        per = G.GGML_QUANT_SIZES[QT[t]][0]
        content[t] = ([2, 2 * per], block_bytes(t, 4 * per))
    tensors = [(f"t.{t}", shape, t, int(QT[t]), data) for t, (shape, data) in content.items()]
    by_hand("types.gguf", Layout(), [("general.architecture", "string", "test")], tensors, by="gguf")
    by_hand("types-be.gguf", Layout(order=">"), [("general.architecture", "string", "test")],
            [t for t in tensors if t[2] in FIELDS], by="gguf")
    # The same through the package's writer: it must not differ from ours by a byte.
    w = G.GGUFWriter(OUT / "check.gguf", "test")
    for name, shape, t, _, data in tensors:
        per, size = G.GGML_QUANT_SIZES[QT[t]]
        raw = np.frombuffer(data, np.uint8).reshape(2, -1)
        w.add_tensor(name, raw, raw_dtype=QT[t])
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()
    assert (OUT / "check.gguf").read_bytes() == (OUT / "types.gguf").read_bytes()
    (OUT / "check.gguf").unlink()
    by_hand("types-new.gguf", Layout(), [],
            [(f"t.{t}", [3, per], t, i, rng.integers(0, 256, 3 * size, dtype=np.uint8).tobytes())
             for t, (i, per, size) in SPEC_TYPES.items()])

    # Shapes, names, alignment.
    w = writer("align64.gguf")
    w.add_custom_alignment(64)
    w.add_tensor("vector", np.arange(5, dtype=np.float32))
    w.add_tensor("scalar", np.array(2.5, dtype=np.float32))
    w.add_tensor("four", np.arange(2 * 3 * 1 * 5, dtype=np.float16).reshape(2, 3, 1, 5))
    w.add_tensor("ones", np.ones((1, 1, 1), dtype=np.float32))
    w.add_tensor("名前.weight", f32)
    close(w, ["align64.gguf"])
    w = writer("empty.gguf")
    close(w, ["empty.gguf"])
    (OUT / "bare.gguf").write_bytes(Layout().head(0, 0))
    read(OUT / "bare.gguf")
    f = f32.tobytes()
    by_hand("zero-size.gguf", Layout(), [], [("a", [2, 3], "F32", 0, f), ("none", [0, 3], "F32", 0, b""),
                                             ("none.q", [0, 32], "Q4_0", 2, b""), ("b", [2, 3], "F32", 0, f)])

    # Versions, nested arrays: by hand.
    meta = [("general.architecture", "string", "test"), ("n", "u32", 7), ("names", "array", ("string", ["a", "", "é"])),
            ("numbers", "array", ("u16", [1, 2, 65535])), ("flags", "array", ("bool", [1, 0])),
            ("empty.string", "array", ("string", [])), ("empty.f32", "array", ("f32", []))]
    two = [("a", [2, 3], "F32", 0, f), ("b", [2, 32], "Q8_0", 8, block_bytes("Q8_0", 64))]
    for version in (1, 2, 3):
        for order, suffix in (("<", ""), (">", "-be")):
            name = f"v{version}{suffix}.gguf"
            by_hand(name, Layout(version, order), meta[:5] if version > 1 else meta, two, by="gguf" if version > 1 else "spec")
    by_hand("empty-arrays.gguf", Layout(), meta, two)
    deep = ("u8", [1])
    for _ in range(63):
        deep = ("array", [deep])
    nested = [("rows", "array", ("array", [("i32", [1, -2]), ("string", ["x", "yz"]), ("f64", [])])),
              ("inner", "array", ("array", [("array", [("string", ["deep"]), ("bool", [1])])])), ("deep", "array", deep)]
    by_hand("nested.gguf", Layout(), nested, [])
    by_hand("nested-be.gguf", Layout(order=">"), nested, [])
    by_hand("nested-v1.gguf", Layout(1), nested, [])

    # Accepted, with a note: another order than the infos', no padding at the end, long names.
    by_hand("unordered.gguf", Layout(), meta[:1], two, infos=["b", "a"], by="gguf")
    by_hand("no-padding.gguf", Layout(), meta[:1], two[::-1], tail=False, by="gguf")
    head = Layout().head(1, 1) + Layout().key("general.name\0", "string", "kept\0") + Layout().info("a\0\0", [3, 2], 0, 0)
    (OUT / "nul-names.gguf").write_bytes(pad(head) + pad(f))
    note(OUT / "nul-names.gguf", {"a": facts("F32", [2, 3], f)}, {"general.name": entry("string", "kept\0")},
         len(pad(head)), "spec")
    by_hand("long-name.gguf", Layout(), meta[:1], [("long." + "x" * 100, [2, 3], "F32", 0, f)], by="gguf")

    # Split files: three parts, the first without tensors.
    w = writer("split.gguf", split_max_tensors=2, small_first_shard=True)
    w.add_key_value("general.name", "split", VT.STRING)
    for i in range(4):
        w.add_tensor(f"blk.{i}.w", f32 + i)
    close(w, [f"split-{i:05}-of-00003.gguf" for i in (1, 2, 3)])

    versions = {"python": sys.version.split()[0], "gguf": importlib.metadata.version("gguf"), "numpy": np.__version__}
    document = {"versions": versions, "files": dict(sorted(golden.items()))}
    (HERE.parent / "golden").mkdir(exist_ok=True)
    (HERE.parent / "golden" / "gguf.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


main()
