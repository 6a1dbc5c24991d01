"""Malformed and malicious PyTorch files, each beside the exit code and the words that hoist must answer with.

Run from the repository's root: python testdata/make/hostile_torch.py
Writes testdata/hostile/torch/NAME.bin and NAME.txt. Needs nothing but Python.
"""

import pathlib
import struct
import zlib

OUT = pathlib.Path("testdata/hostile/torch")
BAD, UNSUPPORTED = 1, 9


def u16(n):
    return struct.pack("<H", n)


def u32(n):
    return struct.pack("<I", n)


def u64(n):
    return struct.pack("<Q", n)


# --- zip, with every field open to lies ---

def zip_file(members, *, comment=b"", count=None, end64=None, tail=b"", offset=None, cut_directory=0):
    """`members`: dicts of name, data and whatever is to differ from the truth: in the directory (`central_*`), in the
    local header (`local_*`), or both."""
    body, directory = b"", b""
    for m in members:
        name, data = m["name"].encode(), m.get("data", b"")
        facts = {"flags": 0, "method": 0, "crc": zlib.crc32(data), "packed": len(data), "unpacked": len(data),
                 "name": name, "extra": b"", "offset": len(body), "disk": 0}
        facts.update({k: v for k, v in m.items() if k in facts and k != "name"})
        local = facts | {k[6:]: v for k, v in m.items() if k.startswith("local_")}
        central = facts | {k[8:]: v for k, v in m.items() if k.startswith("central_")}
        if not m.get("no_local"):
            body += (m.get("signature", b"PK\x03\x04") + u16(0) + u16(local["flags"]) + u16(local["method"]) + u32(0)
                     + u32(local["crc"]) + u32(local["packed"]) + u32(local["unpacked"])
                     + u16(m.get("local_name_size", len(local["name"]))) + u16(len(local["extra"]))
                     + local["name"] + local["extra"] + data)
        directory += (b"PK\x01\x02" + u16(0) + u16(0) + u16(central["flags"]) + u16(central["method"]) + u32(0)
                      + u32(central["crc"]) + u32(central["packed"]) + u32(central["unpacked"])
                      + u16(len(central["name"])) + u16(len(central["extra"])) + u16(0) + u16(central["disk"])
                      + bytes(6) + u32(central["offset"]) + central["name"] + central["extra"])
    start = len(body) if offset is None else offset
    count = len(members) if count is None else count
    directory = directory[:len(directory) - cut_directory]
    out = body + directory
    if end64 is not None:
        at = len(out)
        e = {"count": count, "size": len(directory), "offset": start, "record": 44, "at": at, "disks": 1,
             "signature": b"PK\x06\x06"} | end64
        out += (e["signature"] + u64(e["record"]) + bytes(4) + u32(0) + u32(0) + u64(e["count"]) + u64(e["count"])
                + u64(e["size"]) + u64(e["offset"]))
        out += b"PK\x06\x07" + u32(0) + u64(e["at"]) + u32(e["disks"])
    out += (b"PK\x05\x06" + u16(0) + u16(0) + u16(count) + u16(count) + u32(len(directory)) + u32(start)
            + u16(len(comment)) + comment)
    return out + tail


def torch_zip(pickled, storages=(("0", bytes(24)),), more=(), **how):
    members = [{"name": "m/data.pkl", "data": pickled}, {"name": "m/byteorder", "data": b"little"}]
    members += [{"name": f"m/data/{key}", "data": data} for key, data in storages]
    return zip_file(members + list(more), **how)


# --- pickle ---

def text(s):
    s = s.encode() if isinstance(s, str) else s
    return b"X" + u32(len(s)) + s


def integer(n):
    if 0 <= n < 256:
        return b"K" + bytes([n])
    size = (n.bit_length() + 8) // 8
    return b"\x8a" + bytes([size]) + n.to_bytes(size, "little", signed=True)


def name(module, attribute):
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def tuple_of(*items):
    return b"(" + b"".join(items) + b"t"


def storage(key="0", count=6, kind=name("torch", "FloatStorage"), location="cpu", more=()):
    return tuple_of(text("storage"), kind, text(key), text(location), integer(count), *more) + b"Q"


def tensor(shape=(2, 3), strides=(3, 1), offset=0, of=None, rebuild="_rebuild_tensor_v2", rest=None):
    rest = (b"\x89", name("collections", "OrderedDict") + b")R") if rest is None else rest
    return (name("torch._utils", rebuild)
            + tuple_of(storage() if of is None else of, integer(offset), tuple_of(*map(integer, shape)),
                       tuple_of(*map(integer, strides)), *rest) + b"R")


def dict_of(**items):
    return b"}(" + b"".join(text(k) + v for k, v in items.items()) + b"u"


def pickled(value):
    return b"\x80\x02" + value + b"."


def with_value(value):
    return torch_zip(pickled(dict_of(w=value)))


GOOD = pickled(dict_of(w=tensor()))
NEVER = "hoist never runs code from a file; a state dict needs only tensors, numbers and strings"

cases = {}


def case(name, data, code, words):
    assert name not in cases, name
    cases[name] = (data, code, words)


def code_cases():
    run = text("touch /tmp/hoist-canary")
    for module, attribute in [("posix", "system"), ("os", "system"), ("builtins", "eval"), ("builtins", "exec"),
                              ("builtins", "getattr"), ("__builtin__", "eval"), ("subprocess", "Popen"),
                              ("torch", "load"), ("torch.hub", "load"), ("numpy", "load"), ("torch.serialization", "load"),
                              ("operator", "attrgetter"), ("functools", "partial"), ("builtins", "str.join"),
                              ("numpy.testing._private.utils", "runstring"), ("transformers.training_args", "TrainingArguments")]:
        shown = f"{module}.{attribute}".replace("__builtin__", "__builtin__")
        slug = f"{module}-{attribute}".replace(".", "-").replace("_", "")
        case(f"global-{slug}", torch_zip(pickled(name(module, attribute) + run + b"\x85R")), BAD,
             f"refused at byte 2 of data.pkl: the pickle asks for `{shown}`\n  {NEVER}")
    case("global-unused", with_value(name("posix", "system")), BAD, "the pickle asks for `posix.system`")
    case("global-after-tensors", torch_zip(pickled(dict_of(w=tensor(), x=name("nt", "system") + run + b"\x85R"))), BAD,
         "the pickle asks for `nt.system`")
    case("global-strange-name", torch_zip(pickled(name("a\x1b[31m", "b\u202e"))), BAD, "`a\\u{1b}[31m.b\\u{202e}`")
    case("global-not-utf8", torch_zip(pickled(b"c\xff\xfe\nx\n")), BAD, "the pickle asks for `")
    case("global-whole-module", torch_zip(pickled(name("torch.nn.modules.linear", "Linear") + b")\x81")), BAD,
         "hint: save the state dict instead")
    case("stack-global", torch_zip(b"\x80\x04" + b"\x8c\x05posix\x8c\x06system\x93" + run + b"\x85R."), BAD,
         "the pickle asks for `posix.system`")
    case("stack-global-of-numbers", torch_zip(b"\x80\x04K\x01K\x02\x93."), BAD, "the name of a global is not a text")
    case("inst", torch_zip(pickled(b"(" + run + b"iposix\nsystem\n")), BAD, "the pickle uses the opcode `INST`")
    case("obj", torch_zip(pickled(b"(" + name("collections", "OrderedDict") + b"o")), BAD, "the opcode `OBJ`")
    case("newobj-ex", torch_zip(b"\x80\x04" + name("collections", "OrderedDict") + b")}\x92."), BAD, "the opcode `NEWOBJ_EX`")
    case("ext1", torch_zip(pickled(b"\x82\x01")), BAD, "the opcode `EXT1`")
    case("ext2", torch_zip(pickled(b"\x83\x01\x00")), BAD, "the opcode `EXT2`")
    case("ext4", torch_zip(pickled(b"\x84\x01\x00\x00\x00")), BAD, "the opcode `EXT4`")
    case("persid", torch_zip(pickled(b"Pstorage\n")), BAD, "the opcode `PERSID`")
    case("next-buffer", torch_zip(b"\x80\x05\x97."), BAD, "the opcode `NEXT_BUFFER`")
    case("readonly-buffer", torch_zip(b"\x80\x05N\x98."), BAD, "the opcode `READONLY_BUFFER`")
    case("protocol-0-string", torch_zip(pickled(b"S'x'\n")), BAD, "the opcode `STRING`")
    case("build-tensor", with_value(tensor() + dict_of(x=b"N") + b"b"), BAD, "the pickle gives a state to a tensor")
    case("build-dict", torch_zip(pickled(b"}" + dict_of(x=b"N") + b"b")), BAD, "the pickle gives a state to a dict")
    case("build-type", torch_zip(pickled(name("torch", "Tensor") + dict_of(x=b"N") + b"b")), BAD,
         "the pickle gives a state to a type or function")
    case("reduce-text", torch_zip(pickled(text("str.join") + text("x") + b"\x85R")), BAD, "calls what is not a known name")
    case("reduce-type", torch_zip(pickled(name("builtins", "int") + text("5") + b"\x85R")), BAD,
         "the pickle calls a type that is only to be named")
    case("reduce-storage", torch_zip(pickled(name("torch", "FloatStorage") + b"K\x05\x85R")), BAD,
         "the pickle calls a type that is only to be named")
    case("reduce-tensor", with_value(tensor() + b")R"), BAD, "calls what is not a known name")
    case("reduce-no-tuple", torch_zip(pickled(name("collections", "OrderedDict") + b"]R")), BAD, "arguments are not a tuple")
    case("reduce-too-many", torch_zip(pickled(name("collections", "OrderedDict") + b"NNN\x87R")), BAD, "3 arguments")
    case("rebuild-from-type-eval", torch_zip(pickled(
        name("torch._tensor", "_rebuild_from_type_v2")
        + tuple_of(name("collections", "OrderedDict"), name("torch", "Tensor"), b")", b"}") + b"R")), BAD,
        "restores a tensor by what is no tensor's function")
    for slug, module, attribute, words in [
            ("sparse", "torch._utils", "_rebuild_sparse_tensor", "holds a sparse tensor"),
            ("qtensor", "torch._utils", "_rebuild_qtensor", "holds a quantized tensor"),
            ("qint-storage", "torch", "QInt8Storage", "holds a quantized tensor"),
            ("wrapper", "torch._utils", "_rebuild_wrapper_subclass", "holds a tensor subclass"),
            ("meta-tensor", "torch._utils", "_rebuild_meta_tensor_no_storage", "on the `meta` device"),
            ("load-from-bytes", "torch.storage", "_load_from_bytes", "holds a torch file inside the pickle"),
            ("uint4", "torch", "uint4", "holds a type that hoist does not read (`torch.uint4` at byte 2)"),
            ("jit", "torch.jit._pickle", "build_intlist", "holds a TorchScript program")]:
        case(f"unsupported-{slug}", torch_zip(pickled(name(module, attribute))), UNSUPPORTED, words)


def pickle_cases():
    def p(slug, data, words, code=BAD):
        case(f"pickle-{slug}", torch_zip(data), code, words)

    p("empty", b"", "it ends at byte 0 without its STOP")
    p("no-stop", GOOD[:-1], "without its STOP")
    p("cut-in-text", b"\x80\x02X\x10\x00\x00\x00abc", "without its STOP")
    p("cut-in-line", b"\x80\x02ctorch", "without its STOP")
    p("after-stop", GOOD + b"N.", "data.pkl has 2 bytes after its STOP")
    p("left-over", b"\x80\x02NN.", "values are left over at its STOP")
    p("open-mark", b"\x80\x02(N.", "values are left over at its STOP")
    p("protocol-0", b"(dp0\n.", "does not begin with a protocol of 2 to 5")
    p("protocol-1", b"\x80\x01}.", "protocol 1; hoist reads 2 to 5")
    p("protocol-9", b"\x80\x09}.", "protocol 9; hoist reads 2 to 5")
    p("underflow", b"\x80\x02\x86.", "it takes a value from an empty stack")
    p("underflow-stop", b"\x80\x02.", "it takes a value from an empty stack")
    p("underflow-at-mark", b"\x80\x02NN(\x86.", "it takes a value from an empty stack")
    p("no-mark", b"\x80\x02t.", "it looks for a mark where none is")
    p("dup-empty", b"\x80\x022.", "it looks for a value on an empty stack")
    p("unknown-opcode", b"\x80\x02\xff.", "unknown opcode 0xff")
    p("memo-missing", b"\x80\x02h\x07.", "it recalls value 7, which was never kept")
    p("append-to-dict", b"\x80\x02}Na.", "it appends to what is not a list")
    p("setitem-on-list", b"\x80\x02]NNs.", "it sets an item of what is not a dict")
    p("odd-setitems", b"\x80\x02}(Nu.", "a key has no value")
    p("huge-text", b"\x80\x02X\xff\xff\xff\xffab.", "a value of 4,294,967,295 bytes")
    p("huge-text8", b"\x80\x04\x8d" + b"\xff" * 8 + b".", "a value of 18,446,744,073,709,551,615 bytes")
    p("huge-long", b"\x80\x02\x8b\xff\xff\xff\x7f\x01.", "a value of 2,147,483,647 bytes")
    p("long-cut", b"\x80\x02\x8b\x00\x10\x00\x00\x01.", "without its STOP")
    p("bad-int", b"\x80\x02Itwelve\n.", "a number is not one")
    p("deep-marks", b"\x80\x02" + b"(" * 200 + b".", "nested deeper than 64 levels")
    p("deep-tuples", b"\x80\x02N" + b"\x85" * 200 + b".", "nested deeper than 64 levels")
    p("deep-lists", b"\x80\x02" + b"]" * 200 + b"a" * 199 + b".", "nested deeper than 64 levels")
    p("deep-dicts", b"\x80\x02}q\x00h\x00"
      + b"".join(b"X\x01\x00\x00\x00a}" for _ in range(100)) + b"s" * 100 + b"0.", "nested deeper than 64 levels")
    p("root-number", pickled(b"K\x05"), "the file holds an integer and no state dict", UNSUPPORTED)
    p("root-list", pickled(b"]"), "the file holds a list and no state dict", UNSUPPORTED)
    p("duplicate-key", pickled(b"}(" + text("w") + tensor() + text("w") + tensor() + b"u"), "the key `w` is there twice")
    p("duplicate-key-int", pickled(b"}(" + text("1") + tensor() + b"K\x01" + tensor() + b"u"), "the key `1` is there twice")
    p("duplicate-dict", pickled(b"}(" + text("model") + dict_of(w=tensor()) + text("model") + dict_of(w=tensor()) + b"u"),
      "the key `model` is there twice")
    p("key-not-utf8", pickled(b"}(" + text(b"\xff\xfe") + tensor() + b"u"), "is not UTF-8")
    p("two-dicts", pickled(dict_of(left=dict_of(w=tensor()), right=dict_of(w=tensor()))),
      "the file holds 2 dicts of tensors, and none is called as a model's usually is: `left`, `right`", UNSUPPORTED)

    p("beside-a-dict", pickled(dict_of(rng=tensor(), encoder=dict_of(w=tensor()))),
      "the file holds tensors beside a dict of tensors, `encoder`, which is not called as a model's usually is", UNSUPPORTED)
    p("only-optimizer", pickled(dict_of(optimizer=dict_of(w=tensor()))),
      "the file holds tensors and no state dict, but `optimizer` (a dict that holds tensors)", UNSUPPORTED)
    p("optimizer-itself", pickled(dict_of(state=b"}(K\x00" + dict_of(exp_avg=tensor()) + b"u", param_groups=b"]")),
      "the file holds tensors and no state dict, but `state` (a dict that holds tensors), `param_groups` (a list)", UNSUPPORTED)
    p("tensors-in-lists", pickled(dict_of(layers=b"]" + tensor() + b"a")),
      "the file holds tensors and no state dict, but `layers` (a list that holds tensors)", UNSUPPORTED)

    for slug, id, words in [
            ("text", text("0"), "a persistent id is a text, not a tuple"),
            ("empty", b")", "a persistent id is not a storage of 5 items"),
            ("short", tuple_of(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu")),
             "a persistent id is not a storage of 5 items"),
            ("six", tuple_of(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), b"K\x06", b"N"),
             "a persistent id is not a storage of 5 items"),
            ("kind", tuple_of(text("file"), name("torch", "FloatStorage"), text("/etc/passwd"), text("cpu"), b"K\x06"),
             "a persistent id is not a storage of 5 items"),
            ("class", tuple_of(text("storage"), text("FloatStorage"), text("0"), text("cpu"), b"K\x06"),
             "a storage's class is none"),
            ("key", tuple_of(text("storage"), name("torch", "FloatStorage"), b"K\x00", text("cpu"), b"K\x06"),
             "a storage's key is no text, or its count no integer"),
            ("long-key", tuple_of(text("storage"), name("torch", "FloatStorage"), text("0" * 257), text("cpu"), b"K\x06"),
             "a storage's key is longer than any"),
            ("negative", tuple_of(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), integer(-6)),
             "a storage of -6 elements"),
            ("overflow", tuple_of(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), integer(2**62)),
             "whose size overflows")]:
        p(f"persistent-{slug}", pickled(id + b"Q"), words)
    p("persistent-module", pickled(tuple_of(text("module"), b"N", text("x.py"), text("import os")) + b"Q"),
      "holds a whole module and its source", UNSUPPORTED)
    p("storage-two-types", pickled(dict_of(a=tensor(), b=tensor(of=storage(kind=name("torch", "IntStorage"))))),
      "storage `0` has two types or sizes")


def tricky_cases():
    """Valid, and rare: what old writers wrote."""
    def ok(slug, data, words):
        case(f"ok-{slug}", torch_zip(data), 0, words)

    ok("text-numbers", pickled(dict_of(w=tensor(), a=b"I4294967296\n", b=b"L-7L\n", c=b"F0.5\n", d=b"I01\n")),
       '("a", I64(4294967296)), ("b", I64(-7)), ("c", F64(0.5)), ("d", Bool(true))')
    ok("long-numbers", pickled(dict_of(w=tensor(), a=b"\x8a\x00", b=b"\x8a\x01\x80", c=b"\x8b\x02\x00\x00\x00\x00\x80", d=b"J\xff\xff\xff\xff")),
       '("a", I64(0)), ("b", I64(-128)), ("c", I64(-32768)), ("d", I64(-1))')
    ok("far-memo", pickled(text("w") + b"r\x00\x00\x00\xf00}j\x00\x00\x00\xf0" + tensor() + b"s"), '"w"')
    ok("memoize-after-put", b"\x80\x04" + text("w") + b"q\x020" + text("x") + b"\x940}h\x02" + tensor() + b"s.", '"w"')
    pair = lambda k, v: b"](" + text(k) + v + b"e"
    ok("dict-of-pairs", pickled(name("collections", "OrderedDict") + b"](" + pair("a", tensor()) + pair("b", tensor()) + b"e\x85R"), '"b"')
    ok("dict-opcode", pickled(b"(" + text("w") + tensor() + b"d"), '"w"')
    ok("pop-mark", pickled(dict_of(w=tensor()) + b"(NN1"), '"w"')
    ok("pop-of-mark", pickled(dict_of(w=tensor()) + b"(0"), '"w"')
    ok("oldest-tensor", pickled(dict_of(w=tensor(rebuild="_rebuild_tensor", rest=()))), '"w"')
    ok("cuda-storage", pickled(dict_of(w=tensor(of=storage(kind=name("torch.cuda", "FloatStorage"), location="cuda:0")))), '"w"')
    ok("storage-larger", pickled(dict_of(w=tensor(of=storage(count=5), shape=(5,), strides=(1,)))), '"w"')
    ok("empty-beyond", pickled(dict_of(w=tensor((0, 3), offset=99))), "size_bytes: 0")
    ok("holds-itself", pickled(b"}q\x00(" + text("w") + tensor() + text("self") + b"]h\x00au"), "`self` (a list that holds tensors)")
    ok("lists-in-themselves", pickled(dict_of(w=tensor(), x=b"]q\x00h\x00a")), "`x` (a list)")
    ok("sets", b"\x80\x04" + dict_of(w=tensor(), x=b"\x8f(K\x01K\x02\x90", y=b"(K\x01\x91") + b".", "`x` (a set), `y` (a set)")
    ok("bytes", b"\x80\x05" + dict_of(w=tensor(), x=b"C\x02ab", y=b"\x96" + u64(2) + b"ab") + b".", "`x` (bytes), `y` (bytes)")


def tensor_cases():
    def t(slug, data, words, code=BAD, storages=(("0", bytes(24)),)):
        case(f"tensor-{slug}", torch_zip(pickled(dict_of(w=data)), storages), code, words)

    t("negative-size", tensor((-2, 3)), "tensor `w` has shape [-2, 3], strides [3, 1] and offset 0, which must not be negative")
    t("negative-stride", tensor(strides=(-3, 1)), "which must not be negative")
    t("negative-offset", tensor(offset=-1), "which must not be negative")
    t("too-large", tensor((3, 3)), "tensor `w` has shape [3, 3], strides [3, 1] and offset 0 of `f32`, which end at byte 36 of a storage of 24")
    t("offset-too-large", tensor(offset=1), "which end at byte 28 of a storage of 24")
    t("offset-overflow", tensor(offset=2**62), "whose bytes overflow")
    t("stride-too-large", tensor(strides=(4, 1)), "which end at byte 28 of a storage of 24")
    t("stride-overflow", tensor(strides=(2**62, 2**62)), "whose bytes overflow")
    t("shape-overflow", tensor((2**62, 2**62)), "whose product overflows")
    t("shape-overflow-zero", tensor((2**62, 2**62, 0), (0, 0, 0)), "whose product overflows")
    t("lengths", tensor((2, 3), (1,)), "tensor `w` has 2 sizes and 1 strides")
    t("size-float", name("torch._utils", "_rebuild_tensor_v2")
      + tuple_of(storage(), b"K\x00", tuple_of(b"G" + bytes(8)), tuple_of(b"K\x01"), b"\x89", b"}") + b"R",
      "a tensor's size or stride is no integer")
    t("size-huge-long", name("torch._utils", "_rebuild_tensor_v2")
      + tuple_of(storage(), b"K\x00", tuple_of(integer(2**80)), tuple_of(b"K\x01"), b"\x89", b"}") + b"R",
      "a tensor's size or stride is no integer")
    t("many-dimensions", tensor((1,) * 65, (1,) * 65), "a tensor of 65 dimensions; torch has at most 64")
    t("no-storage", name("torch._utils", "_rebuild_tensor_v2")
      + tuple_of(text("0"), b"K\x00", b")", b")", b"\x89", b"}") + b"R", "a tensor is made of a text, not of a storage")
    t("few-arguments", name("torch._utils", "_rebuild_tensor_v2") + tuple_of(storage(), b"K\x00") + b"R", "2 arguments")
    t("v3-no-dtype", tensor(rebuild="_rebuild_tensor_v3", rest=(b"\x89", b"}", b"N")), "a tensor's dtype is none")
    t("flag-unknown", tensor(rest=(b"\x89", b"}", dict_of(secret=b"\x88"))), "has the flag `secret`", UNSUPPORTED)
    t("flag-conj-real", tensor(rest=(b"\x89", b"}", dict_of(conj=b"\x88"))), "of `f32` is marked as conjugated")
    t("f4-strided", tensor((3, 2), (1, 3), of=storage(kind=name("torch.storage", "UntypedStorage"), count=24),
                           rebuild="_rebuild_tensor_v3", rest=(b"\x89", b"}", name("torch", "float4_e2m1fn_x2"))),
      "is a scalar or not contiguous", UNSUPPORTED)
    t("parameter-of-number", name("torch._utils", "_rebuild_parameter") + tuple_of(b"K\x01", b"\x89", b"}") + b"R",
      "a parameter is made of what is no tensor")
    t("meta-device", tensor(of=storage(location="meta")), "tensor `w` is on the `meta` device", UNSUPPORTED)
    t("storage-missing", tensor(of=storage("7")), "tensor `w` needs the zip's member `data/7`, which is not there")
    t("storage-outside", tensor(of=storage("../data.pkl")), "needs the zip's member `data/../data.pkl`, which is not there")
    t("storage-too-small", tensor(), "tensor `w` needs a storage of 24 bytes and the file has 20 for it",
      storages=(("0", bytes(20)),))
    t("storage-lies", tensor(of=storage(count=2**40)), "tensor `w` needs a storage of 4,398,046,511,104 bytes and the file has 24")


def zip_cases():
    pkl = {"name": "m/data.pkl", "data": GOOD}
    data = {"name": "m/data/0", "data": bytes(24)}

    def z(slug, file, words, code=BAD):
        case(f"zip-{slug}", file, code, words)

    good = zip_file([pkl, data])
    case("ok-good", good, 0, '"w"')
    z("no-end", good[:-22], "it has no end record")
    z("cut-end", good[:-1], "it has no end record")
    z("trailing", good + b"x", "it has no end record")
    case("ok-comment", zip_file([pkl, data], comment=b"made by hand"), 0, '"w"')
    z("comment-second-end", zip_file([pkl, data], comment=zip_file([pkl])), "it has two end records")
    z("comment-end-only", zip_file([pkl, data], comment=b"PK\x05\x06" + bytes(18)), "it has two end records")
    z("comment-cut-end", zip_file([pkl, data], comment=b"...PK\x05\x06"), "it has two end records")
    z("prepended", b"PK\x03\x04junk" + good, "its directory of")
    z("count-less", zip_file([pkl, data], count=1), "its end record counts 1 members, its directory has 2")
    z("count-more", zip_file([pkl, data], count=3), "its end record counts 3 members, its directory has 2")
    z("directory-offset", zip_file([pkl, data], offset=0xfffffff0), "its directory of")
    z("directory-cut", zip_file([pkl, data], cut_directory=5), "is cut short")
    z("no-pickle", zip_file([{"name": "m/x.txt", "data": b"hi"}]), "is a zip without `data.pkl`")
    z("pickle-at-top", zip_file([{"name": "data.pkl", "data": GOOD}]), "is a zip without `data.pkl`")
    z("two-pickles", zip_file([pkl, {"name": "n/data.pkl", "data": GOOD}]), "has two pickles, `m/data.pkl` and `n/data.pkl`")
    z("duplicate", zip_file([pkl, data, data]), "it has two members called `m/data/0`")
    z("duplicate-pickle", zip_file([pkl, pkl, data]), "it has two members called `m/data.pkl`")
    z("overlap", zip_file([pkl, data, {"name": "m/data/1", "no_local": True, "offset": 0, "data": b""}]), "reaches beyond byte")
    z("overlap-data", zip_file([pkl, data | {"packed": 60, "unpacked": 60}, {"name": "m/x", "data": b""}]), "reaches beyond byte")
    z("beyond-directory", zip_file([pkl, data | {"packed": 2**31, "unpacked": 2**31}]), "reaches beyond byte")
    z("offset-beyond", zip_file([pkl, data | {"offset": 2**32 - 2}]), "reaches beyond byte")
    z("local-extra-beyond", zip_file([pkl, data | {"local_name_size": 0x4000}]), "disagree on its name")
    z("local-signature", zip_file([pkl, data | {"signature": b"PK\x03\x05"}]), "member `m/data/0` has no local header")
    z("local-name", zip_file([pkl, data | {"local_name": b"m/data/9"}]), "disagree on its name")
    z("local-size", zip_file([pkl, data | {"local_packed": 20, "local_unpacked": 20}]), "disagree on its size")
    z("local-unpacked", zip_file([pkl, data | {"local_unpacked": 99}]), "disagree on its size")
    z("local-method", zip_file([pkl, data | {"local_method": 8}]), "disagree on its way of storing")
    z("local-flags", zip_file([pkl, data | {"local_flags": 8}]), "disagree on its way of storing")
    z("local-encrypted", zip_file([pkl, data | {"local_flags": 1}]), "disagree on its way of storing")
    z("local-crc", zip_file([pkl | {"local_crc": 5}, data]), "disagree on its CRC-32")
    z("stored-sizes", zip_file([pkl, data | {"central_unpacked": 48}]), "has 24 bytes and is said to hold 48")
    z("deflate-pickle", zip_file([pkl | {"method": 8, "data": b"\x03\x00"}, data]),
      "the zip's member `m/data.pkl` is compressed (deflate)", UNSUPPORTED)
    z("deflate-storage", zip_file([pkl, data | {"method": 8}]),
      "the zip's member `m/data/0` is compressed (deflate)", UNSUPPORTED)
    z("zstd-storage", zip_file([pkl, data | {"method": 93}]), "is compressed (zstd)", UNSUPPORTED)
    z("encrypted", zip_file([pkl, data | {"flags": 1}]), "the zip's member `m/data/0` is encrypted", UNSUPPORTED)
    z("strongly-encrypted", zip_file([pkl, data | {"flags": 0x41}]), "is encrypted", UNSUPPORTED)
    z("split", zip_file([pkl, data | {"disk": 3}]), "the zip is split over several files", UNSUPPORTED)
    z("crc", zip_file([pkl | {"crc": 0x12345678}, data]), "data.pkl is damaged: its CRC-32 is ")
    case("ok-crc-zero", zip_file([pkl | {"crc": 0}, data]), 0, '"w"')
    z("byteorder", zip_file([pkl, {"name": "m/byteorder", "data": b"middle"}, data]), "`byteorder` says `middle`")
    z("byteorder-long", zip_file([pkl, {"name": "m/byteorder", "data": b"l" * 1000}, data]), "`byteorder` says")
    z("torchscript", zip_file([pkl, {"name": "m/constants.pkl", "data": b""}]), "is a TorchScript program", UNSUPPORTED)
    z("torchscript-code", zip_file([pkl, {"name": "m/code/__torch__.py", "data": b""}]), "is a TorchScript program", UNSUPPORTED)
    case("ok-zip64", zip_file([pkl, data], end64={}), 0, '"w"')
    z("zip64-count", zip_file([pkl, data], end64={"count": 5}), "its two end records disagree")
    z("zip64-size", zip_file([pkl, data], end64={"size": 7}), "its two end records disagree")
    z("zip64-offset", zip_file([pkl, data], end64={"offset": 2**63}), "its two end records disagree")
    z("zip64-at", zip_file([pkl, data], end64={"at": 4}), "its 64-bit end record is said to be at byte 4 and must be at")
    z("zip64-at-overflow", zip_file([pkl, data], end64={"at": 2**64 - 1}), "its 64-bit end record is said to be at byte")
    z("zip64-record", zip_file([pkl, data], end64={"record": 2**64 - 1}), "its 64-bit end record is not one")
    z("zip64-signature", zip_file([pkl, data], end64={"signature": b"PK\x06\x09"}), "its 64-bit end record is not one")
    z("zip64-disks", zip_file([pkl, data], end64={"disks": 2}), "split over several files", UNSUPPORTED)
    wide = {"central_packed": 0xffffffff, "central_unpacked": 0xffffffff}
    case("ok-zip64-extra", zip_file([pkl, data | wide | {"central_extra": u16(1) + u16(16) + u64(24) + u64(24)}]), 0, '"w"')
    z("zip64-extra-missing", zip_file([pkl, data | wide]), "the 64-bit sizes of `m/data/0` are missing")
    z("zip64-extra-short", zip_file([pkl, data | wide | {"central_extra": u16(1) + u16(8) + u64(24)}]), "the 64-bit sizes of `m/data/0` are missing")
    z("zip64-extra-twice", zip_file([pkl, data | wide | {"central_extra": (u16(1) + u16(16) + u64(24) + u64(24)) * 2}]), "there twice")
    z("zip64-extra-lies", zip_file([pkl, data | wide | {"central_extra": u16(1) + u16(16) + u64(2**64 - 1) * 2}]), "reaches beyond byte")
    z("zip64-local-lies", zip_file([pkl, data | {"local_packed": 0xffffffff, "local_unpacked": 0xffffffff,
                                                "local_extra": u16(1) + u16(16) + u64(9) + u64(9)}]), "disagree on its size")


def legacy_cases():
    magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
    version = pickled(b"M\xe9\x03")
    system = pickled(dict_of(protocol_version=b"M\xe9\x03", little_endian=b"\x88"))

    def view(**how):  # a persistent id of the old stream: without a view, but with its place
        return storage(more=(b"N",), **how)

    def legacy(value=None, keys=("0",), numel=6, data=bytes(24), head=magic + version + system):
        value = tensor(of=view()) if value is None else value
        listed = pickled(b"](" + b"".join(map(text, keys)) + b"e")
        return head + pickled(dict_of(w=value)) + listed + struct.pack("<q", numel) + data

    def l(slug, data, words, code=BAD):
        case(f"legacy-{slug}", data, code, words)

    good = legacy()
    case("ok-legacy", good, 0, '"w"')
    l("global", legacy(name("posix", "system") + text("true") + b"\x85R"), "the pickle asks for `posix.system`")
    l("global-offset", head_global := magic + version + pickled(name("posix", "system")),
      f"refused at byte {len(head_global) - 15}: the pickle asks for `posix.system`")
    l("version", legacy(head=magic + pickled(b"M\xea\x03") + system), "the stream has version 1002", UNSUPPORTED)
    l("no-order", legacy(head=magic + version + pickled(b"}")), "does not say the order of bytes")
    l("order-twice", legacy(head=magic + version + pickled(b"}(" + (text("little_endian") + b"\x88") * 2 + b"u")),
      "`little_endian` is there twice")
    l("numel", legacy(numel=7), "storage `0` has 7 elements here and 6 in the pickle")
    l("numel-negative", legacy(numel=-1), "storage `0` has 18,446,744,073,709,551,615 elements here")
    l("cut-data", good[:-1], "storage `0` ends at byte")
    l("cut-numel", good[:-28], "the count of storage `0` ends at byte")
    l("cut-keys", good[:-36], "without its STOP")
    l("cut-object", good[:150], "without its STOP")
    l("cut-system", good[:30], "without its STOP")
    l("cut-magic", good[:10], "without its STOP")
    l("huge", legacy(tensor(of=view(count=2**60)), numel=2**60), "ends at byte 4,611,686,018,427,388,144")
    l("not-listed", legacy(keys=()), "tensor `w` needs storage `0`, which the file does not have")
    l("listed-twice", legacy(keys=("0", "0"), data=bytes(24) + struct.pack("<q", 6) + bytes(24)), "storage `0` is listed twice")
    l("unknown-key", legacy(keys=("0", "1")), "the file lists storage `1`, which no tensor has")
    l("keys-no-list", legacy()[:0] + magic + version + system + pickled(dict_of(w=tensor(of=view()))) + pickled(b"}"),
      "the fifth pickle is not a list")
    l("five-items", legacy(tensor()), "a persistent id is not a storage of 6 items")
    big = magic + version + pickled(dict_of(protocol_version=b"M\xe9\x03", little_endian=b"\x89"))
    # Storages are little endian whatever the machine; counts of old writers are not.
    case("ok-legacy-big-endian", legacy(head=big), 0, "order: Little")
    case("ok-legacy-big-endian-count", legacy(head=big, numel=6 << 56), 0, "order: Little")
    l("big-endian-complex", legacy(tensor((3,), (1,), of=view(count=3, kind=name("torch", "ComplexFloatStorage"))), head=big, numel=3),
      "tensor `w` was written on a big-endian machine into the old stream", UNSUPPORTED)
    l("view-beyond", legacy(tensor(of=storage(more=(tuple_of(text("9"), integer(4), integer(3)),)))),
      "a part of a storage reaches beyond it")
    l("view-negative", legacy(tensor(of=storage(more=(tuple_of(text("9"), integer(-1), integer(3)),)))),
      "a part of a storage reaches beyond it")
    l("view-too-small", legacy(tensor(of=storage(more=(tuple_of(text("9"), integer(2), integer(4)),)))),
      "which end at byte 24 of a storage of 16")
    case("ok-legacy-view", legacy(tensor((2, 2), (2, 1), of=storage(more=(tuple_of(text("9"), integer(2), integer(4)),)))), 0, '"w"')


def main():
    for part in (code_cases, pickle_cases, tricky_cases, tensor_cases, zip_cases, legacy_cases):
        part()
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.iterdir():
        old.unlink()
    for slug, (data, code, words) in cases.items():
        (OUT / f"{slug}.bin").write_bytes(data)
        (OUT / f"{slug}.txt").write_text(f"{code}\n{words}\n")


main()
