"""Small PyTorch files of every kind that torch writes, and what torch reads from them.

Run from the repository's root: python testdata/make/torch.py
Writes testdata/torch/*.pt and testdata/golden/torch.json. Two runs give the same bytes.
"""

import argparse
import collections
import hashlib
import io
import json
import pathlib
import pickle
import pickletools
import random
import struct
import sys
import zipfile

# Scripts here are called as the packages they use: this folder must not come before those.
sys.path = [p for p in sys.path if pathlib.Path(p or ".").resolve() != pathlib.Path(__file__).resolve().parent]

import numpy  # noqa: E402
import torch  # noqa: E402

OUT = pathlib.Path("testdata/torch")
GOLDEN = pathlib.Path("testdata/golden/torch.json")

# torch's names of dtypes → hoist's.
NAMES = {
    "bool": "bool", "uint8": "u8", "int8": "i8", "uint16": "u16", "int16": "i16", "uint32": "u32", "int32": "i32",
    "uint64": "u64", "int64": "i64", "float16": "f16", "bfloat16": "bf16", "float32": "f32", "float64": "f64",
    "float8_e4m3fn": "f8_e4m3", "float8_e5m2": "f8_e5m2", "float8_e4m3fnuz": "f8_e4m3fnuz",
    "float8_e5m2fnuz": "f8_e5m2fnuz", "float8_e8m0fnu": "f8_e8m0", "float4_e2m1fn_x2": "f4",
    "complex32": "c32", "complex64": "c64", "complex128": "c128",
}

files = {}


def raw(tensor):
    """The bytes of a tensor: contiguous, little endian, with lazy conjugation and negation carried out."""
    tensor = tensor.detach().resolve_conj().resolve_neg()
    # `contiguous` first: `flatten` of a 0-d or expanded tensor may be a view.
    return bytes(tensor.contiguous().clone().untyped_storage().tolist())


def golden(tensor):
    shape = list(tensor.shape)
    if tensor.dtype == torch.float4_e2m1fn_x2:
        shape[-1] *= 2  # torch counts bytes of two numbers
    name = NAMES[str(tensor.dtype).removeprefix("torch.")]
    return {"dtype": name, "shape": shape, "sha256": hashlib.sha256(raw(tensor)).hexdigest()}


def record(name, pick=lambda o: o, meta=None, notes=(), loaded=None):
    """Reads a file back with torch and keeps what it says. `pick` finds the tensors in what was loaded."""
    if loaded is None:
        loaded = torch.load(OUT / name, weights_only=False)  # our own files
    tensors = {k: golden(t) for k, t in pick(loaded).items()}
    files[f"torch/{name}"] = {"tensors": tensors, "meta": meta or {}, "notes": list(notes)}


def stored_zip(path, members):
    """A zip as other tools than torch write it: no padding, sizes in the local headers."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as out:
        for name, data in members:
            out.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)


def members(path):
    with zipfile.ZipFile(path) as file:
        return [(i.filename, file.read(i)) for i in file.infolist()]


def save(name, obj, protocol=2, **how):
    torch.save(obj, OUT / name, pickle_protocol=protocol)
    record(name, **how)


def save_legacy(name, obj, protocol=2, **how):
    buffer = io.BytesIO()
    torch.save(obj, buffer, _use_new_zipfile_serialization=False, pickle_protocol=protocol)
    (OUT / name).write_bytes(settle(buffer.getvalue()))
    record(name, **how)


def settle(data):
    """Gives the storages of an old stream names that do not change from run to run: torch uses addresses, and orders by
    them. New names are as long as the old ones."""
    ends = []
    stream = io.BytesIO(data)
    for _ in range(5):
        for _ in pickletools.genops(stream):
            pass
        ends.append(stream.tell())
    widths = {}

    class Reader(pickle.Unpickler):
        def persistent_load(self, saved):
            _, kind, key, _, count, _ = saved
            width = torch.tensor([], dtype=kind.dtype).element_size() if hasattr(kind, "dtype") else 1
            dtype = getattr(kind, "dtype", torch.uint8)
            widths.setdefault(key, width)
            return torch.storage.TypedStorage(
                wrap_storage=torch.UntypedStorage(count * width), dtype=dtype, _internal=True)

    Reader(io.BytesIO(data[ends[2]:ends[3]])).load()
    keys = pickle.loads(data[ends[3]:ends[4]])
    bodies, at = {}, ends[4]
    for key in keys:
        count = struct.unpack_from("<q", data, at)[0]
        end = at + 8 + count * widths[key]
        bodies[key] = data[at:end]
        at = end
    assert at == len(data)
    names = {key: str(10 ** (len(key) - 1) + i) for i, key in enumerate(widths)}
    head = data[:ends[3]]
    for key, new in names.items():
        head = head.replace(key.encode(), new.encode())
    old_of = {new: key for key, new in names.items()}
    order = sorted(old_of)
    return head + pickle.dumps(order, protocol=2) + b"".join(bodies[old_of[new]] for new in order)


def assemble(ops):
    """Pickle opcodes and arguments as bytes: enough for the few that are rewritten."""
    return b"".join(ops)


def as_python2(data):
    """The same pickle with the strings that Python 2 wrote (SHORT_BINSTRING)."""
    out, positions = [], list(pickletools.genops(data))
    for (op, arg, at), following in zip(positions, positions[1:] + [None]):
        end = following[2] if following else len(data)
        if op.name == "BINUNICODE" and len(arg) < 256 and arg.isascii():
            out.append(b"U" + bytes([len(arg)]) + arg.encode())
        else:
            out.append(data[at:end])
    return assemble(out)


def byteswapped(path, widths):
    """The same file as a big-endian machine writes it."""
    out = []
    for name, data in members(path):
        top, _, rest = name.partition("/")
        if rest == "byteorder":
            data = b"big"
        elif rest.startswith("data/"):
            width = widths[int(rest.removeprefix("data/"))]
            data = numpy.frombuffer(data, f"V{width}").view(f"u{width}").byteswap().tobytes() if width > 1 else data
        out.append((name, data))
    stored_zip(path, out)


def main():
    torch.manual_seed(20)
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.glob("*.pt"):
        old.unlink()

    g = torch.Generator().manual_seed(1)

    def normal(*shape, dtype=torch.float32):
        return torch.randn(*shape, generator=g).to(dtype)

    # Each dtype; values that a cast would lose: NaN with a payload, −0.0, infinities.
    odd = torch.tensor([float("nan"), -0.0, float("inf"), -float("inf"), 1.5, -2.25]).reshape(2, 3)
    odd.view(torch.int32)[0, 0] = 0x7fc12345
    plain = {
        "f64": odd.double(), "f32": odd, "f16": odd.half(), "bf16": odd.bfloat16(),
        "i64": torch.tensor([-2**63, 2**63 - 1, 0]), "i32": torch.tensor([-2**31, 2**31 - 1], dtype=torch.int32),
        "i16": torch.tensor([[-32768], [32767]], dtype=torch.int16), "i8": torch.tensor([-128, 127], dtype=torch.int8),
        "u8": torch.arange(5, dtype=torch.uint8), "bool": torch.tensor([True, False, True]),
        "c64": torch.complex(odd, -odd), "c128": torch.complex(odd.double(), -odd.double()),
    }
    newer = {
        "u16": torch.tensor([0, 65535, 258], dtype=torch.uint16),
        "u32": torch.tensor([0, 2**32 - 1, 16909060], dtype=torch.uint32),
        "u64": torch.tensor([0, 2**63, 72623859790382856], dtype=torch.uint64),
        "c32": torch.complex(normal(2, 3), normal(2, 3)).to(torch.complex32),
        "f4": torch.arange(6, dtype=torch.uint8).reshape(2, 3).view(torch.float4_e2m1fn_x2),
        "f8_e8m0": torch.arange(4, dtype=torch.uint8).view(torch.float8_e8m0fnu),
        **{f"f8_{k}": normal(2, 4).to(getattr(torch, f"float8_{k}"))
           for k in ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz")},
    }
    base = normal(4, 6)
    # One storage has one type: a complex one and one that is seen as floats.
    y, z = (torch.complex(normal(3, 4), normal(3, 4)) for _ in range(2))
    views = {
        "base": base, "same": base, "transposed": base.t(), "columns": base[:, 1:3], "rows": base[1:3],
        "every_other": base[::2, ::3], "expanded": normal(1, 3).expand(5, 3), "scalar_expanded": torch.tensor(7.0).expand(2, 2),
        "permuted": normal(2, 3, 4).permute(2, 0, 1), "element": base[2, 3], "of_one": base[1:2, :].t(),
        "odd_strides_of_ones": torch.as_strided(normal(4), (1, 4, 1), (99, 1, 55)),
        "qkv_q": base[:2], "empty_slice": base[4:],
        "conj": y.conj(), "conj_t": y.mH, "neg": z.conj().imag, "neg_t": z.conj().imag.t(), "real": z.real,
    }
    shapes = {
        "scalar": torch.tensor(3.5), "one": torch.tensor([3.5]), "empty": torch.zeros(0), "empty_2d": torch.zeros(3, 0, 2),
        "deep": torch.arange(2.0).reshape(*[1] * 20, 2),
    }
    named = {
        "ünïcode.wéight": normal(2), "日本語": normal(3), "with space": normal(1), "": normal(1), "a\nb": normal(1),
        "x" * 300: normal(1),
    }

    for protocol in (2, 3, 4, 5):
        save(f"plain-p{protocol}.pt", {"f32": odd, "bf16": odd.bfloat16()} if protocol == 3 else plain, protocol)
    save("newer.pt", newer)
    save("newer-p4.pt", newer, 4)
    save("views.pt", views)
    save("views-p5.pt", views, 5)
    save("shapes.pt", shapes)
    save("names.pt", named)
    save("names-p4.pt", named, 4)
    save("empty.pt", {}, notes=[])
    save_legacy("plain-legacy.pt", plain)
    save_legacy("plain-legacy-p4.pt", plain, 4)
    # torch 2.15 writes this file and cannot read it: `UntypedStorage` has no dtype. What was saved is what it holds.
    save_legacy("newer-legacy.pt", newer, loaded=newer)
    save_legacy("views-legacy.pt", views)
    save_legacy("shapes-legacy.pt", shapes)

    # Views at random: any offset, sizes and strides that fit the storage.
    pick = random.Random(7)
    pool = {d: normal(60).to(d) for d in (torch.float32, torch.bfloat16)}
    pool[torch.complex64] = torch.complex(normal(30), normal(30))
    random_views = {}
    while len(random_views) < 36:
        storage = pick.choice(list(pool.values()))
        shape = [pick.choice((0, 1, 1, 2, 2, 3, 4, 5)) for _ in range(pick.randrange(5))]
        strides = [pick.choice((0, 1, 1, 2, 3, 4, 6, 12)) for _ in shape]
        if pick.random() < 0.3:
            strides = list(torch.empty(shape).stride())
        offset = pick.randrange(20)
        if offset + sum((n - 1) * s for n, s in zip(shape, strides) if n > 0) < storage.numel():
            view = torch.as_strided(storage, shape, strides, offset)
            random_views[f"v{len(random_views)}"] = view.conj() if pick.random() < 0.3 else view
    save("random-views.pt", random_views)
    save_legacy("random-views-legacy.pt", random_views)

    # A module's own state dict: OrderedDict with `_metadata`, parameters, tied weights, a buffer of integers.
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(5, 4)
            self.norm = torch.nn.BatchNorm1d(4)
            self.head = torch.nn.Linear(4, 5, bias=False)
            self.head.weight = self.embed.weight

    net = Net()
    save("module.pt", net.state_dict())
    save_legacy("module-legacy.pt", net.state_dict())
    save("parameters.pt", dict(net.named_parameters(remove_duplicate=False)))
    annotated = torch.nn.Parameter(normal(2, 2))
    annotated.note = "kept by a state"
    save("parameter-with-state.pt", {"w": annotated, "b": torch.nn.Buffer(normal(2))})
    ddp = {f"module.{k}": v for k, v in net.state_dict().items()}
    strip = lambda o: {k.removeprefix("module."): v for k, v in o.items()}
    save("ddp.pt", ddp, pick=strip, notes=["every name began with `module.` (DistributedDataParallel), which is removed"])
    save("ddp-partly.pt", {**ddp, "other": normal(1)})
    save("compiled.pt", {f"_orig_mod.module.{k}": v for k, v in net.state_dict().items()},
         pick=lambda o: {k.removeprefix("_orig_mod.module."): v for k, v in o.items()},
         notes=["every name began with `_orig_mod.` (torch.compile), which is removed",
                "every name began with `module.` (DistributedDataParallel), which is removed"])

    # Checkpoints of trainers.
    optimizer = torch.optim.Adam(net.parameters())
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    trainer = {
        "epoch": 3, "best": 0.125, "done": False, "nothing": None, "name": "run é", "huge": 2**63, "neg": -5,
        "big": 2**40, "args": argparse.Namespace(lr=0.1), "history": [1, 2, 3], "model": net.state_dict(),
        "optimizer": optimizer.state_dict(), "rng_state": torch.arange(4, dtype=torch.uint8),
    }
    meta = {"epoch": 3, "best": 0.125, "done": False, "nothing": None, "name": "run é", "huge": 2**63, "neg": -5, "big": 2**40}
    notes = ["4 values skipped: `args` (an object), `history` (a list), `optimizer` (a dict that holds tensors), "
             "`rng_state` (a tensor)",
             "tensors are those of `model`"]
    save("trainer.pt", trainer, pick=lambda o: o["model"], meta=meta, notes=notes)
    save("trainer-p4.pt", trainer, 4, pick=lambda o: o["model"], meta=meta, notes=notes)
    save_legacy("trainer-legacy.pt", trainer, pick=lambda o: o["model"], meta=meta, notes=notes)
    save("nested.pt", {"outer": {"step": 7, "state_dict": {"w": normal(2)}, "ema": {"w": normal(2)}}},
         pick=lambda o: o["outer"]["state_dict"], meta={"step": 7},
         notes=["1 value skipped: `ema` (a dict that holds tensors)", "tensors are those of `outer.state_dict`"])
    save("only-ema.pt", {"ema": {"w": normal(2)}, "step": 1}, pick=lambda o: o["ema"], meta={"step": 1})
    save("mixed.pt", {"w": normal(2), "scale": 0.5, 7: normal(1), ("a", 1): normal(1), "sub": {"x": 1}, "list": [normal(1)],
                      "size": torch.Size([1, 2]), "device": torch.device("cpu"), "dtype": torch.bfloat16,
                      "counts": collections.Counter("aab"), "set": {1, 2}},
         pick=lambda o: {"w": o["w"], "7": o[7]}, meta={"scale": 0.5},
         notes=["8 values skipped: `a key that is no text` (a tensor), `sub` (a dict), `list` (a list that holds tensors), "
                "`size` (a tuple), `device` (an object), …"])
    save("defaultdict.pt", collections.defaultdict(int, {"w": normal(2)}))
    save("tensor.pt", normal(2, 2), pick=lambda o: {"0": o})
    save("list.pt", [normal(2), "x", normal(3)], pick=lambda o: {"0": o[0], "2": o[2]})

    # numpy numbers, as protocol 2 (text through latin1) and 4 (bytes) write them.
    scalars = {"w": normal(1), "f64": numpy.float64(-1.5), "f32": numpy.float32(0.25), "f16": numpy.float16(2.5),
               "i64": numpy.int64(-3), "i8": numpy.int8(-128), "u8": numpy.uint8(200), "b": numpy.bool_(True),
               "be": numpy.array([258], ">i2")[0], "array": numpy.arange(3)}
    only = lambda o: {"w": o["w"]}
    meta = {"f64": -1.5, "f32": 0.25, "f16": 2.5, "i64": -3, "i8": -128, "u8": 200, "b": True, "be": 258}
    for protocol in (2, 4):
        save(f"numpy-p{protocol}.pt", scalars, protocol, pick=only, meta=meta,
             notes=["1 value skipped: `array` (an object)"])

    # Python 2's strings; a zip that another tool wrote; no `byteorder`; a folder of another name.
    torch.save(trainer, OUT / "python2.pt")
    stored_zip(OUT / "python2.pt", [
        (f"archive/{name.partition('/')[2]}", as_python2(data) if name.endswith("data.pkl") else data)
        for name, data in members(OUT / "python2.pt") if not name.endswith(("byteorder", "/.format_version"))])
    record("python2.pt", pick=lambda o: o["model"], meta={
        "epoch": 3, "best": 0.125, "done": False, "nothing": None, "name": "run é", "huge": 2**63, "neg": -5, "big": 2**40})

    # No CRC-32: zero means that none was computed.
    torch.serialization.set_crc32_options(False)
    save("no-crc.pt", {"w": normal(3)})
    torch.serialization.set_crc32_options(True)

    # Big endian.
    torch.save(plain, OUT / "big-endian.pt")
    byteswapped(OUT / "big-endian.pt", [8, 4, 2, 2, 8, 4, 2, 1, 1, 1, 4, 8])
    record("big-endian.pt")

    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    versions = {"python": sys.version.split()[0], "torch": torch.__version__, "numpy": numpy.__version__}
    rows = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in files.items())
    GOLDEN.write_text(f'{{"versions": {json.dumps(versions)}, "files": {{\n{rows}\n}}}}\n')


main()
