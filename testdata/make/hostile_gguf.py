"""Makes testdata/hostile/gguf/NAME.gguf, each beside NAME.txt: the exit code, then a part of the message expected.
Run from the repository's root. Needs nothing but Python."""

import shutil
import struct
from pathlib import Path

from gguf_bytes import Layout, pad

OUT = Path(__file__).resolve().parent.parent / "hostile" / "gguf"
MAX = 2**64 - 1
L = Layout()
KEY = L.key("general.architecture", "string", "test")
F32 = struct.pack("<6f", *range(6))


def made(tensors=(), keys=(KEY,), counts=None, data=None, alignment=32, layout=L):
    """A file of given keys and infos (name, dims, type, offset), with data for six f32 each unless told."""
    counts = counts or (len(tensors), len(keys))
    head = layout.head(*counts) + b"".join(keys) + b"".join(layout.info(*t) for t in tensors)
    if data is None:
        data = b"".join(pad(F32, alignment) for _ in tensors)
    return pad(head, alignment) + data


A, B = ("a", [3, 2], 0, 0), ("b", [3, 2], 0, 32)
GOOD = made([A, B])


def raw_key(key, kind, value):
    return L.text(key) + struct.pack("<I", kind) + value


def array(item, count, items=b""):
    return struct.pack("<IQ", item, count) + items


def bomb(depth):
    """Arrays of one array each, `depth` of them, around an empty array of bytes."""
    return array(9, 1) * (depth - 1) + array(0, 0)


CASES = {
    # Cut short, at each part of the file.
    "cut-magic": (b"GGUF"[:3], 1, "the magic number ends at byte 4 but the file has 3"),
    "cut-version": (GOOD[:6], 1, "the version ends at byte 8 but the file has 6"),
    "cut-counts": (GOOD[:20], 1, "the count of keys ends at byte 24 but the file has 20"),
    "cut-key": (made()[:40], 1, "the name of key 0 ends at byte 52 but the file has 40"),
    "cut-value": (made()[:66], 1, "the value of the key `general.architecture` ends at byte 68 but the file has 66"),
    "cut-header": (GOOD[:66], 1, "the header says 2 tensors, which need 48 bytes or more, but the file has 42 after that"),
    "cut-info": (made([A, B])[:100], 1, "tensor `a` has a description that ends at byte 101 but the file has 100"),
    "cut-data": (GOOD[:-30], 1, "tensor `b` ends at byte 216 but the file has 194"),
    "cut-all-data": (GOOD[:-64], 1, "tensor `a` ends at byte 184 but the file has 160"),
    "no-magic": (b"GGUX" + GOOD[4:], 1, "does not begin with `GGUF`"),
    # Versions.
    "version-0": (b"GGUF" + struct.pack("<I", 0) + GOOD[8:], 1, "has version 0"),
    "version-4": (b"GGUF" + struct.pack("<I", 4) + GOOD[8:], 9, "has version 4 of GGUF; hoist reads 1 to 3"),
    "version-99-be": (b"GGUF" + struct.pack(">I", 99) + GOOD[8:], 9, "has version 99 of GGUF"),
    "version-max": (b"GGUF" + b"\xff" * 4 + GOOD[8:], 9, "has version 4294967295"),
    # Counts that lie.
    "keys-max": (made(counts=(0, MAX)), 1, "the header says 18,446,744,073,709,551,615 keys"),
    "keys-many": (made([A], counts=(1, 1000)), 1, "the header says 1,000 keys, which need 14,000 bytes or more, but the file has"),
    "keys-one-more": (made([A], counts=(1, 2)), 1, "the name of a tensor is 562,949,953,421,312 bytes long"),
    "tensors-max": (made(counts=(MAX, 1)), 1, "the header says 18,446,744,073,709,551,615 tensors"),
    "tensors-many": (made([A], counts=(1000, 1)), 1, "the header says 1,000 tensors, which need 24,000 bytes or more"),
    "tensors-one-more": (made([A], counts=(2, 1)), 1, "tensor"),
    "tensors-one-less": (made([A, B], counts=(1, 1)), 1, "what follows belongs to nothing"),
    "keys-v1-max": (made(layout=Layout(1), keys=[], counts=(0, 2**32 - 1)), 1, "says 4,294,967,295 keys, which need 42,949,672,950 bytes"),
    "string-max": (made(keys=[raw_key("k", 8, struct.pack("<Q", MAX))]), 1,
                   "the value of the key `k` ends at byte 18446744073709551660 but the file has 64"),
    "string-one-more": (made(keys=[raw_key("k", 8, struct.pack("<Q", 21) + b"x")]), 1, "ends at byte 66 but"),
    "key-max": (made(keys=[struct.pack("<QQ", MAX, 0)]), 1, "the name of key 0 is 18,446,744,073,709,551,615 bytes long"),
    "key-65536": (made(keys=[struct.pack("<QQ", 65536, 0)]), 1, "the name of key 0 is 65,536 bytes long"),
    "name-max": (L.head(1, 1) + KEY + struct.pack("<Q", MAX) + bytes(64), 1, "bytes long; names in GGUF have at most"),
    "array-2-60": (made(keys=[raw_key("k", 9, array(0, 2**60))]), 1,
                   "the value of the key `k` says 1,152,921,504,606,846,976 items, which need 1,152,921,504,606,846,976 bytes or more"),
    "array-max-f64": (made(keys=[raw_key("k", 9, array(12, MAX))]), 1, "says 18,446,744,073,709,551,615 items"),
    "array-2-61-u64": (made(keys=[raw_key("k", 9, array(10, 2**61))]), 1, "items, which need 18446744073709551616 bytes"),
    "array-strings-max": (made(keys=[raw_key("k", 9, array(8, MAX))]), 1, "says 18,446,744,073,709,551,615 items"),
    "array-strings-lie": (made(keys=[raw_key("k", 9, array(8, 2, struct.pack("<QQ", 0, 1 << 40)))]), 1,
                          "the value of the key `k` ends at byte 1,099,511,627,841"),
    "array-one-more": (made(keys=[raw_key("k", 9, array(4, 6, bytes(20)))])[:69], 1, "says 6 items, which need 24 bytes or more, but the file has 20 after that"),
    "array-arrays-max": (made(keys=[raw_key("k", 9, array(9, MAX))]), 1, "says 18,446,744,073,709,551,615 items"),
    # Keys and values.
    "key-twice": (made(keys=[KEY, KEY]), 1, "the key `general.architecture` is there twice"),
    "key-empty": (made(keys=[raw_key("", 0, b"x")]), 1, "key 0 has an empty name"),
    "key-not-utf8": (made(keys=[raw_key(b"\xff\x1b[31m", 0, b"x")]), 1, "is not UTF-8"),
    "key-nul": (made(keys=[raw_key("a\0b", 0, b"x")]), 1, "the name of key 0 `a\\u{0}b` has a NUL inside"),
    "key-only-nul": (made(keys=[raw_key("\0", 0, b"x")]), 1, "key 0 has an empty name"),
    "key-twice-nul": (made(keys=[KEY, raw_key("general.architecture\0", 0, b"x")]), 1, "is there twice"),
    "kind-13": (made(keys=[raw_key("k", 13, bytes(8))]), 1, "the value of the key `k` has type 13; GGUF defines 0 to 12"),
    "kind-max": (made(keys=[raw_key("a\nb", 2**32 - 1, bytes(8))]), 1, "the value of the key `a\\u{a}b` has type 4294967295"),
    "array-kind-13": (made(keys=[raw_key("k", 9, array(13, 0))]), 1, "has type 13; GGUF"),
    "array-kind-13-empty-inside": (made(keys=[raw_key("k", 9, array(9, 1, array(77, 0)))]), 1, "has type 77; GGUF"),
    "bool-2": (made(keys=[raw_key("k", 7, b"\x02")]), 1, "the value of the key `k` is the truth value 2"),
    "array-bool-255": (made(keys=[raw_key("k", 9, array(7, 3, b"\x00\x01\xff"))]), 1, "the truth value 255"),
    "nested-65": (made(keys=[raw_key("k", 9, bomb(65))]), 1, "more than 64 deep"),
    "nested-bomb": (made(keys=[raw_key("k", 9, bomb(300))]), 1, "more than 64 deep"),
    # Alignment.
    "alignment-0": (made([A], keys=[L.key("general.alignment", "u32", 0)]), 1, "the key `general.alignment` is 0"),
    "alignment-24": (made([A], keys=[L.key("general.alignment", "u32", 24)]), 1, "`general.alignment` is 24; it must be"),
    "alignment-u64": (made([A], keys=[L.key("general.alignment", "u64", 32)]), 1, "`general.alignment` is no u32"),
    "alignment-text": (made([A], keys=[L.key("general.alignment", "string", "32")]), 1, "`general.alignment` is no u32"),
    "alignment-2-31": (made([A], keys=[L.key("general.alignment", "u32", 2**31)]), 1, "tensor `a` ends at byte 2,147,483,672"),
    # Tensor infos.
    "tensor-twice": (made([A, ("a", [3, 2], 0, 32)]), 1, "tensor `a` is there twice"),
    "tensor-twice-nul": (made([A, ("a\0", [3, 2], 0, 32)]), 1, "tensor `a` is there twice"),
    "tensor-nul": (made([("a\0b", [3, 2], 0, 0)]), 1, "has a NUL inside"),
    "name-not-utf8": (made([(b"\xc3(", [3, 2], 0, 0)]), 1, "is not UTF-8"),
    "dimensions-5": (made([("a", [3, 2, 1, 1, 1], 0, 0)]), 1, "tensor `a` has 5 dimensions; GGUF has at most 4"),
    "dimensions-max": (L.head(1, 1) + KEY + L.text("a") + b"\xff" * 60, 1, "has 4294967295 dimensions"),
    "dimensions-overflow": (made([("a", [2**32, 2**32, 2], 0, 0)]), 1, "shape [2, 4294967296, 4294967296], whose size overflows"),
    "dimensions-i64": (made([("a", [2**63], 24, 0)]), 1, "whose size overflows"),
    "dimensions-bytes": (made([("a", [2**61], 28, 0)]), 1, "whose size overflows"),
    "dimensions-zero-last": (made([("a", [2**40, 2**40, 0], 0, 0)]), 1, "whose size overflows"),
    "type-43": (made([("a", [3, 2], 43, 0)]), 9, "has type 43, which is no type of ggml that hoist knows"),
    "type-max": (made([("a", [3, 2], 2**32 - 1, 0)]), 9, "has type 4294967295"),
    "type-q4-2": (made([("a", [32, 2], 4, 0)]), 9, "has type 4 (`Q4_2`), which ggml gave up"),
    "type-q4-3": (made([("a", [32, 2], 5, 0)]), 9, "hint: an experiment of 2023"),
    "type-q4-0-4-4": (made([("a", [32, 2], 31, 0)]), 9, "hint: a file repacked for one kind of CPU; download the `Q4_0`"),
    "type-q4-0-4-8": (made([("a", [32, 2], 32, 0)]), 9, "(`Q4_0_4_8`)"),
    "type-q4-0-8-8": (made([("a", [32, 2], 33, 0)]), 9, "(`Q4_0_8_8`)"),
    "type-iq4-nl-4-4": (made([("a", [32, 2], 36, 0)]), 9, "download the `IQ4_NL`"),
    "type-iq4-nl-4-8": (made([("a", [32, 2], 37, 0)]), 9, "(`IQ4_NL_4_8`)"),
    "type-iq4-nl-8-8": (made([("a", [32, 2], 38, 0)]), 9, "(`IQ4_NL_8_8`)"),
    "type-unsettled-be": (made([("a", [256], 16, 0)], keys=[], layout=Layout(order=">")), 9,
                          "tensor `a` has type `iq2_xxs` in a big-endian file"),
    "block-partial": (made([("a", [48, 2], 8, 0)]), 1, "rows of 48 elements, no multiple of the 32 in a block of `q8_0`"),
    "block-partial-row": (made([("a", [128, 2], 12, 0)]), 1, "rows of 128 elements, no multiple of the 256"),
    "block-scalar": (made([("a", [], 8, 0)]), 1, "rows of 1 elements"),
    # Data.
    "offset-beyond": (made([A, ("b", [3, 2], 0, 4096)]), 1, "tensor `b` ends at byte 4,280 but the file has 224"),
    "offset-max": (made([("a", [3, 2], 0, MAX - 31)]), 1, "tensor `a` ends at byte 18446744073709551736 but the file has"),
    "offset-misaligned": (made([A, ("b", [3, 2], 0, 28)]), 1, "tensor `b` begins at 28 of the data, no multiple of the alignment 32"),
    "overlap": (made([("a", [3, 4], 0, 0), B], data=bytes(64)), 1, "tensor `b` begins at byte 192 and overlaps"),
    "overlap-same": (made([A, ("b", [3, 2], 0, 0)], data=pad(F32)), 1, "tensor `b` begins at byte 160 and overlaps"),
    "overlap-order": (made([("b", [3, 4], 0, 32), ("a", [3, 4], 0, 0)], data=bytes(96)), 1, "tensor `b` begins at byte 192 and overlaps"),
    "gap": (made([A, ("b", [3, 2], 0, 64)], data=bytes(96)), 1, "tensor `b` begins at byte 224 and leaves a gap"),
    "gap-first": (made([("a", [3, 2], 0, 32)], data=bytes(64)), 1, "tensor `a` begins at byte 160 and leaves a gap"),
    "trailing-1": (GOOD + b"x", 1, "has 225 bytes but the data ends at byte 224, padding included; what follows belongs to nothing"),
    "trailing": (GOOD + bytes(4096), 1, "has 4,320 bytes but the data ends at byte 224"),
    "trailing-no-tensors": (made() + bytes(32), 1, "bytes but the data ends at byte 96"),
}
shutil.rmtree(OUT, ignore_errors=True)
OUT.mkdir(parents=True)
for name, (content, code, message) in CASES.items():
    (OUT / f"{name}.gguf").write_bytes(content)
    (OUT / f"{name}.txt").write_text(f"{code}\n{message}\n")
