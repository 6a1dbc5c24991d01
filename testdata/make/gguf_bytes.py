"""GGUF by hand, byte for byte, for files that the gguf package cannot or will not write.

Layout: "GGUF", u32 version, counts of tensors and keys, keys, tensor infos, padding, data. In version 1 counts, lengths
and dimensions are u32, later u64.
"""

import struct

SCALARS = {"u8": (0, "B"), "i8": (1, "b"), "u16": (2, "H"), "i16": (3, "h"), "u32": (4, "I"), "i32": (5, "i"),
           "f32": (6, "f"), "bool": (7, "B"), "u64": (10, "Q"), "i64": (11, "q"), "f64": (12, "d")}
STRING, ARRAY = 8, 9


class Layout:
    def __init__(self, version=3, order="<"):
        self.version, self.order = version, order
        self.size_format = "I" if version == 1 else "Q"

    def pack(self, form, *values):
        return struct.pack(self.order + form, *values)

    def size(self, n):
        return self.pack(self.size_format, n)

    def text(self, value):
        value = value.encode() if isinstance(value, str) else value
        return self.size(len(value)) + value

    def kind(self, kind):
        return {"string": STRING, "array": ARRAY}.get(kind) if kind in ("string", "array") else SCALARS[kind][0]

    def value(self, kind, value):
        """The bytes of a value; an array is a tuple (item kind, list)."""
        if kind == "string":
            return self.text(value)
        if kind == "array":
            item, items = value
            return self.pack("I", self.kind(item)) + self.size(len(items)) + b"".join(self.value(item, v) for v in items)
        return self.pack(SCALARS[kind][1], value)

    def key(self, key, kind, value):
        return self.text(key) + self.pack("I", self.kind(kind)) + self.value(kind, value)

    def info(self, name, dims, type_id, offset):
        """`dims` as the file has them: the contiguous one first."""
        return (self.text(name) + self.pack("I", len(dims)) + b"".join(self.size(d) for d in dims)
                + self.pack("I", type_id) + self.pack("Q", offset))

    def head(self, tensor_count, key_count):
        return b"GGUF" + self.pack("I", self.version) + self.size(tensor_count) + self.size(key_count)


def pad(data, alignment=32):
    return data + bytes(-len(data) % alignment)


def canonical(kind, value):
    """A value as hoist keeps it: little endian, lengths and counts of 8 bytes."""
    return Layout().value(kind, value)
