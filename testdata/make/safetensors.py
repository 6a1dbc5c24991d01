"""Writes testdata/safetensors, testdata/golden/safetensors.json and testdata/hostile/safetensors.

Run as `python testdata/make/safetensors.py` from the root of the repository. Valid files are written by safetensors
itself where it can, else byte by byte; either way the goldens are what the reference (safetensors.deserialize, and torch
where it has the dtype) reads from them. A hostile file is written byte by byte, with the expected exit code and a part
of the expected message beside it; the script also records what the reference does with it.
"""

import hashlib
import json
import pathlib
import shutil
import struct
import sys

# Scripts here are called as the packages they use: this folder must not come before those.
sys.path = [p for p in sys.path if pathlib.Path(p or ".").resolve() != pathlib.Path(__file__).resolve().parent]

import numpy  # noqa: E402
import safetensors  # noqa: E402
import safetensors.torch  # noqa: E402
import torch  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
VALID = ROOT / "safetensors"
HOSTILE = ROOT / "hostile" / "safetensors"

# The reference's names and ours.
NAMES = {
    "BOOL": "bool", "F4": "f4", "F6_E2M3": "f6_e2m3", "F6_E3M2": "f6_e3m2", "U8": "u8", "I8": "i8",
    "F8_E5M2": "f8_e5m2", "F8_E4M3": "f8_e4m3", "F8_E8M0": "f8_e8m0", "F8_E4M3FNUZ": "f8_e4m3fnuz",
    "F8_E5M2FNUZ": "f8_e5m2fnuz", "I16": "i16", "U16": "u16", "F16": "f16", "BF16": "bf16", "I32": "i32",
    "U32": "u32", "F32": "f32", "C64": "c64", "F64": "f64", "I64": "i64", "U64": "u64",
}
# What the reference's reader and Python's torch call the types (deserialize speaks header names).
PLAIN = [
    torch.bool, torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.uint64,
    torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
]


def noise(count, seed):
    return numpy.random.Generator(numpy.random.PCG64(seed)).integers(0, 256, count, dtype=numpy.uint8)


def raw(header, data=b"", pad=True):
    """A file from a header (text, bytes or an object) and data."""
    if isinstance(header, dict):
        header = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
    if isinstance(header, str):
        header = header.encode()
    if pad:
        header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data


def tensor(dtype, shape, begin, end, **more):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **more}


def valid():
    """name → bytes of a file that must be read."""
    everything = {}
    for n, dtype in enumerate(PLAIN):
        size = torch.empty(0, dtype=dtype).element_size()
        bits = noise(6 * size, n)
        if dtype == torch.bool:
            bits &= 1
        # Random bits hold NaN payloads, infinities, negative zeros and subnormals, which must come through unchanged.
        everything[str(dtype)] = torch.from_numpy(bits).view(dtype).reshape(2, 3)
    yield "all_dtypes", safetensors.torch.save(everything, {"format": "pt"})

    sub_byte = {
        "four": tensor("F4", [3, 4], 0, 6),
        "six_a": tensor("F6_E2M3", [4], 6, 9),
        "six_b": tensor("F6_E3M2", [2, 4], 9, 15),
        "after": tensor("F32", [1], 15, 19),
    }
    yield "sub_byte", raw(sub_byte, noise(19, 100).tobytes())
    yield "empty", raw("{}")
    yield "metadata_only", raw({"__metadata__": {"format": "pt", "a": "1", "z": "ü\n", "": "empty key"}})
    yield "metadata_null", raw('{"__metadata__":null}')
    yield "shapes", raw({
        "scalar": tensor("F32", [], 0, 4),
        "zero": tensor("F32", [0], 4, 4),
        "zero_inner": tensor("BF16", [3, 0, 2], 4, 4),
        "one": tensor("U8", [1, 1, 1, 1, 1, 1, 1, 1], 4, 5),
        "unaligned": tensor("F64", [2], 5, 21),
        "zero_at_the_end": tensor("I64", [5, 0], 21, 21),
    }, noise(21, 101).tobytes())
    yield "order", raw({
        "third": tensor("U8", [3], 5, 8),
        "first": tensor("I16", [2], 0, 4),
        "nothing": tensor("F32", [0], 5, 5),
        "second": tensor("BOOL", [1], 4, 5),
    }, b"\x01\x02\x03\x04\x02\x05\x06\x07")
    yield "names", raw({
        "": tensor("U8", [1], 0, 1),
        "ünïcödé/名前/🦀": tensor("U8", [1], 1, 2),
        'quote " backslash \\ slash /': tensor("U8", [1], 2, 3),
        "control \x01\x1b[31m\n": tensor("U8", [1], 3, 4),
        "a" * 1000: tensor("U8", [1], 4, 5),
        "__metadata": tensor("U8", [1], 5, 6),
    }, noise(6, 102).tobytes())
    yield "escaped_names", raw(
        '{"\\u0061\\ud83e\\udd80\\/":{"\\u0064type":"\\u0055\\u0038","shape":[1],"data_offsets":[0,1]}}', b"\x7f")
    yield "spaces", raw('{ "a" :\t{\n"dtype" : "U8" , "shape" : [ 1 ] ,\r\n "data_offsets" : [ 0 , 1 ] } } \n\t\r ', b"\x01")
    yield "not_padded", raw({"a": tensor("U8", [1], 0, 1)}, b"\x01", pad=False)
    yield "leading_space", raw(' \n{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"\x01")
    yield "unknown_fields", raw({
        "a": tensor("U8", [1], 0, 1, strides=[1], more={"x": [None, True, -1, 1.5, "s"]}),
        "b": tensor("U8", [1], 1, 2, strides=[1]),
    }, b"\x01\x02")


def hostile():
    """name → (bytes, exit code, part of the message)."""
    one = {"w": tensor("F32", [2], 0, 8)}
    data = b"\0" * 8
    entry = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
    yield from [
        ("short", b"\x08\0\0", 1, "has 3 bytes; a safetensors file begins with 8"),
        ("length_zero", struct.pack("<Q", 0) + b"{}", 1, "gives its header a length of 0 bytes"),
        ("length_only_seven", b"\x02\0\0\0\0\0\0", 1, "has 7 bytes; a safetensors file begins with 8"),
        ("length_beyond", struct.pack("<Q", 100) + b"{}", 1, "has a header that ends at byte 108 but the file has 10"),
        ("length_huge", struct.pack("<Q", 2**63) + b"{}", 1, "gives its header a length of 9,223,372,036,854,775,808 bytes; the format allows 100,000,000"),
        ("length_over", struct.pack("<Q", 100_000_001) + b"{}", 1, "a length of 100,000,001 bytes"),
        ("length_max", struct.pack("<Q", 100_000_000) + b"{}", 1, "ends at byte 100,000,008 but the file has 10"),
        ("bom", raw(b"\xef\xbb\xbf{}"), 1, "has a damaged header"),
        ("nul_padding", raw(b"{}\0\0\0\0\0\0"), 1, "has a damaged header: trailing characters (at byte 10)"),
        ("not_utf8", raw(b'{"\xff":' + entry.encode() + b"}", data), 1, "has a header that is not UTF-8 (at byte 10)"),
        ("lone_surrogate", raw('{"\\ud800":' + entry + "}", data), 1, "has a damaged header: unexpected end of hex escape (at byte 16)"),
        ("surrogate_in_unknown", raw('{"w":{"x":"\\ud800","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', data), 1, "tensor `w` has a damaged entry in the header"),
        ("not_json", raw("{nonsense}"), 1, "has a damaged header: key must be a string"),
        ("array", raw("[1,2,3]"), 1, "has a damaged header: invalid type"),
        ("null_entry", raw('{"w":null}'), 1, "tensor `w` has a damaged entry in the header: invalid type: null"),
        ("array_entry", raw('{"w":["F32",[2],[0,8]]}', data), 1, "tensor `w` has a damaged entry in the header"),
        ("unclosed", raw('{"w":' + entry, data), 1, "has a damaged header: EOF"),
        ("two_objects", raw("{}{}"), 1, "trailing characters"),
        ("duplicate_tensor", raw('{"w":%s,"w":%s}' % (entry, entry), data), 1, "tensor `w` is there twice in the header"),
        ("duplicate_escaped", raw('{"w":%s,"\\u0077":%s}' % (entry, entry), data), 1, "tensor `w` is there twice in the header"),
        ("duplicate_metadata", raw('{"__metadata__":{},"__metadata__":{}}'), 1, "has `__metadata__` twice"),
        ("duplicate_metadata_key", raw('{"__metadata__":{"a":"1","a":"2"}}'), 1, "has the key `a` twice in `__metadata__`"),
        ("duplicate_field", raw('{"w":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}}', data), 1, "tensor `w` has the field `dtype` twice"),
        ("metadata_number", raw('{"__metadata__":{"a":1}}'), 1, "has a damaged header: invalid type: integer `1`"),
        ("metadata_nested", raw('{"__metadata__":{"a":{}}}'), 1, "has a damaged header: invalid type: map"),
        ("metadata_text", raw('{"__metadata__":"pt"}'), 1, "expected `__metadata__` to be an object of strings"),
        ("no_dtype", raw('{"w":{"shape":[2],"data_offsets":[0,8]}}', data), 1, "tensor `w` has no `dtype`"),
        ("no_shape", raw('{"w":{"dtype":"F32","data_offsets":[0,8]}}', data), 1, "tensor `w` has no `shape`"),
        ("no_offsets", raw('{"w":{"dtype":"F32","shape":[2]}}', data), 1, "tensor `w` has no `data_offsets`"),
        ("dtype_unknown", raw({"w": tensor("F12", [2], 0, 8)}, data), 1, "tensor `w` has the dtype `F12`, which safetensors does not have"),
        ("dtype_lower", raw({"w": tensor("bf16", [4], 0, 8)}, data), 1, "the format spells it `BF16`"),
        ("dtype_control", raw({"w": tensor("\x1b[31m", [4], 0, 8)}, data), 1, "has the dtype `\\u{1b}[31m`"),
        ("dtype_number", raw({"w": tensor(1, [4], 0, 8)}, data), 1, "tensor `w` has a damaged entry in the header"),
        ("shape_negative", raw({"w": tensor("F32", [-2], 0, 8)}, data), 1, "invalid value: integer `-2`"),
        ("shape_float", raw({"w": tensor("F32", [2.0], 0, 8)}, data), 1, "invalid type: floating point `2.0`"),
        ("shape_text", raw({"w": tensor("F32", ["2"], 0, 8)}, data), 1, "invalid type: string"),
        ("shape_null", raw({"w": tensor("F32", None, 0, 8)}, data), 1, "tensor `w` has a damaged entry"),
        ("shape_over_u64", raw('{"w":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,8]}}', data), 1, "tensor `w` has a damaged entry"),
        ("shape_overflow", raw({"w": tensor("U8", [2**33, 2**33], 0, 8)}, data), 1, "has shape [8589934592, 8589934592], whose product overflows"),
        ("shape_overflow_then_zero", raw({"w": tensor("U8", [2**33, 2**33, 0], 0, 0)}), 1, "whose product overflows"),
        ("size_overflow", raw({"w": tensor("F64", [2**62], 0, 8)}, data), 1, "whose size overflows"),
        ("many_dimensions", raw({"w": tensor("F32", [1] * 5000 + [3], 0, 8)}, data), 1, "1, 1] and 4989 more dimensions of `f32` needs 12"),
        ("offsets_one", raw({"w": {"dtype": "F32", "shape": [2], "data_offsets": [8]}}, data), 1, "has 1 numbers in `data_offsets` where two are needed"),
        ("offsets_three", raw({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 8]}}, data), 1, "has 3 numbers in `data_offsets`"),
        ("offsets_backwards", raw({"w": tensor("F32", [0], 8, 0)}, data), 1, "it ends before it begins"),
        ("offsets_huge", raw({"w": tensor("U8", [2**64 - 1], 0, 2**64 - 1)}, data), 1, "tensor `w` ends at byte 18,446,744,073,709,551,615 but the file has"),
        ("size_mismatch", raw({"w": tensor("F32", [3], 0, 8)}, data), 1, "tensor `w` has 8 bytes of data where shape [3] of `f32` needs 12"),
        ("f4_odd", raw({"w": tensor("F4", [3], 0, 2)}, b"\0\0"), 1, "has shape [3], which does not fill whole bytes of `f4`"),
        ("f6_two", raw({"w": tensor("F6_E2M3", [2], 0, 2)}, b"\0\0"), 1, "does not fill whole bytes of `f6_e2m3`"),
        ("hole_start", raw({"w": tensor("F32", [2], 4, 12)}, data + b"\0" * 4), 1, "tensor `w` begins at offset 4 but the data begins at 0: the format allows no holes"),
        ("hole_middle", raw({"a": tensor("U8", [1], 0, 1), "b": tensor("U8", [1], 2, 3)}, b"\0" * 3), 1, "tensor `b` begins at offset 2 but tensor `a` ends at 1: the format allows no holes"),
        ("overlap", raw({"a": tensor("U8", [2], 0, 2), "b": tensor("U8", [2], 1, 3)}, b"\0" * 3), 1, "tensor `b` begins at offset 1 but tensor `a` ends at 2: the format allows no overlap"),
        ("same_offsets", raw({"a": tensor("U8", [2], 0, 2), "b": tensor("U8", [2], 0, 2)}, b"\0" * 2), 1, "tensor `b` begins at offset 0 but tensor `a` ends at 2"),
        ("zero_out_of_place", raw({"a": tensor("U8", [2], 0, 2), "z": tensor("U8", [0], 1, 1)}, b"\0" * 2), 1, "tensor `z` begins at offset 1"),
        ("zero_beyond", raw({"a": tensor("U8", [2], 0, 2), "z": tensor("U8", [0], 9, 9)}, b"\0" * 2), 1, "tensor `z` begins at offset 9"),
        ("trailing", raw(one, data + b"\0"), 1, "has 1 byte after its last tensor; the format allows none"),
        ("trailing_empty", raw("{}", b"\0"), 1, "has 1 byte after its last tensor"),
        ("truncated", raw(one, data[:5]), 1, "tensor `w` ends at byte 72 but the file has 69\n  the file was probably cut short"),
        ("truncated_header", raw(one, data)[:30], 1, "has a header that ends at byte 64 but the file has 30\n  the file was probably cut short"),
        ("name_control", raw({"a\x1b[2J\u202e": tensor("F32", [3], 0, 8)}, data), 1, "tensor `a\\u{1b}[2J\\u{202e}` has 8 bytes"),
        ("deep", raw('{"w":{"x":' + "[" * 65 + "]" * 65 + ',"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', data), 1, "values nest more than 64 deep"),
        ("very_deep", raw('{"w":{"x":' + "[" * 30000), 1, "tensor `w` has a damaged entry in the header"),
    ]


def main():
    torch.manual_seed(0)
    for folder in (VALID, HOSTILE):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    files = {}
    for name, content in valid():
        (VALID / f"{name}.safetensors").write_bytes(content)
        tensors = {}
        for key, facts in safetensors.deserialize(content):
            data = bytes(facts["data"])
            tensors[key] = {
                "dtype": NAMES[facts["dtype"]],
                "shape": list(facts["shape"]),
                "sha256": hashlib.sha256(data).hexdigest(),
            }
        if name == "all_dtypes":
            # torch and the reference's bytes agree.
            for key, value in safetensors.torch.load_file(VALID / f"{name}.safetensors").items():
                data = value.contiguous().view(torch.uint8).numpy().tobytes()
                assert hashlib.sha256(data).hexdigest() == tensors[key]["sha256"], key
        files[f"safetensors/{name}.safetensors"] = {"tensors": dict(sorted(tensors.items()))}

    accepted = []
    for name, content, code, message in hostile():
        (HOSTILE / f"{name}.safetensors").write_bytes(content)
        (HOSTILE / f"{name}.safetensors.txt").write_text(f"{code}\n{message}\n")
        try:
            safetensors.deserialize(content)
            accepted.append(name)
        except safetensors.SafetensorError:
            pass

    golden = {
        "versions": {
            "python": sys.version.split()[0],
            "safetensors": safetensors.__version__,
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        },
        "files": files,
        # Where we are stricter than the reference.
        "hostile_accepted_by_reference": sorted(accepted),
    }
    path = ROOT / "golden" / "safetensors.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(golden, indent=1, ensure_ascii=True, sort_keys=True) + "\n")


main()
