"""Checks src/sink/cuda/cast.ptx without a GPU: runs every kernel in an interpreter of the few PTX instructions it uses
and compares each result, bit for bit, with the cast's definition in exact arithmetic.

Run: python testdata/make/check_cast_ptx.py   (needs numpy; takes ten seconds; exits with 1 where anything differs)

The interpreter runs all elements at once, one numpy lane a thread, follows the branches (lanes that are done are masked
out), checks types as ptxas does not (a value read before it was written is an error), and emulates the grid: the same
kernel is run with few threads, so that each strides over many elements, and with more threads than elements.
The definition is written with Python's integers and knows nothing of f32: value = mantissa × 2^exponent, rounded once.
The inputs are all values of the small types, and for f32 and f64 every exponent with ties, their neighbours, and
random mantissas.
"""

import pathlib
import re
import runpy
import sys

import numpy as np

PTX = pathlib.Path(__file__).resolve().parents[2] / "src/sink/cuda/cast.ptx"
U64 = np.uint64
np.seterr(all="ignore")


# ---- the interpreter -------------------------------------------------------------------------------------------------

MASK = {8: 0xFF, 16: 0xFFFF, 32: 0xFFFFFFFF, 64: 0xFFFFFFFFFFFFFFFF}


class Kernel:
    def __init__(self, name, params, body):
        self.name, self.params, self.code, self.labels, self.regs = name, params, [], {}, {}
        for line in body.splitlines():
            line = line.split("//")[0].strip()
            if not line:
                continue
            if m := re.fullmatch(r"\.reg\s+\.(\w+)\s+(.*);", line):
                for reg in m[2].split(","):
                    assert reg.strip() not in self.regs, f"{name}: {reg} twice"
                    self.regs[reg.strip()] = m[1]
            elif m := re.fullmatch(r"(\w+):", line):
                self.labels[m[1]] = len(self.code)
            else:
                m = re.fullmatch(r"(?:@(!?)(\w+)\s+)?([\w.]+)\s*(.*);", line)
                assert m, line
                args = [a.strip() for a in m[4].split(",")] if m[4] else []
                self.code.append((m[2], bool(m[1]), m[3], args))


def kernels(text):
    head = re.search(r"\.version (\S+)\s+\.target (\S+)\s+\.address_size (\d+)", text)
    assert head and head.groups() == ("6.4", "sm_50", "64"), head
    found = {}
    for m in re.finditer(r"\.visible \.entry (\w+)\((.*?)\)\s*\{(.*?)\n\}", text, re.S):
        params = dict((n, int(w)) for w, n in re.findall(r"\.param \.u(\d+) (\w+)", m[2]))
        found[m[1]] = Kernel(m[1], params, m[3])
    return found


def as_f32(bits):
    return bits.astype(np.uint32).view(np.float32)


def f32_bits(values):
    return values.astype(np.float32).view(np.uint32).astype(U64)


def f64_to_f32_toward_zero(values):
    """cvt.rz: the nearest, one step back where that went away from zero; never Inf from a finite value."""
    near = values.astype(np.float32)
    back = near.astype(np.float64)
    too_far = np.abs(back) > np.abs(values)
    bits = near.view(np.uint32)
    return np.where(too_far, bits - 1, bits).astype(U64)


class Machine:
    """Runs one kernel on all threads of a grid."""

    def __init__(self, kernel, args, source, target, grid, block):
        self.k, self.args = kernel, args
        self.n = grid * block
        self.source, self.target = source, target
        self.regs = {}
        self.special = {
            "%ctaid.x": np.repeat(np.arange(grid, dtype=U64), block),
            "%tid.x": np.tile(np.arange(block, dtype=U64), grid),
            "%ntid.x": np.full(self.n, block, U64),
            "%nctaid.x": np.full(self.n, grid, U64),
        }
        self.added = 0

    def read(self, name):
        if name in self.special:
            return self.special[name]
        if m := re.fullmatch(r"0f([0-9A-Fa-f]{8})", name):
            return np.full(self.n, int(m[1], 16), U64)
        if re.fullmatch(r"0x[0-9a-fA-F]+|\d+", name):
            return np.full(self.n, int(name, 0), U64)
        values, written = self.regs[name]
        assert written[self.active].all(), f"{self.k.name}: {name} is read before it is written"
        return values

    def write(self, name, values, mask):
        kind = self.k.regs[name]
        if kind != "pred":
            values = values & U64(MASK[int(kind[1:])])
        old, written = self.regs.get(name, (np.zeros(self.n, values.dtype), np.zeros(self.n, bool)))
        self.regs[name] = (np.where(mask, values, old), written | mask)

    def width(self, name, bits):
        """Operands have the instruction's width."""
        if name in self.k.regs:
            assert self.k.regs[name] == f"b{bits}", f"{self.k.name}: {name} is {self.k.regs[name]}, needs {bits} bits"

    def run(self):
        pc = np.zeros(self.n, np.int64)
        end = len(self.k.code)
        # The lane that is furthest behind goes first; the others at the same place go with it.
        while (at := int(pc.min())) < end:
            self.active = pc == at
            pred, negated, op, args = self.k.code[at]
            mask = self.active
            if pred:
                value = self.read(pred)
                mask = mask & (~value if negated else value)
            pc[self.active] += 1
            if op == "bra":
                pc[mask] = self.k.labels[args[0]]
            elif op == "ret":
                pc[mask] = end
            else:
                self.step(op, args, mask)

    def step(self, op, args, mask):
        parts = op.split(".")
        name, r = parts[0], self.read
        bits = int(parts[-1][1:]) if re.fullmatch(r"[bufs]\d+", parts[-1]) else 0
        if op.startswith("ld.param"):
            param = args[1].strip("[]")
            assert self.k.params[param] == bits
            self.width(args[0], bits)
            return self.write(args[0], np.full(self.n, self.args[param], U64), mask)
        if op.startswith("ld.global"):
            base, data = self.source
            address = r(args[1].strip("[]"))
            offset = (address - U64(base)).astype(np.int64)
            size = bits // 8
            assert (address[mask] % U64(size) == 0).all(), "misaligned"
            assert ((offset[mask] >= 0) & (offset[mask] + size <= data.nbytes)).all(), "out of range"
            assert int(self.k.regs[args[0]][1:]) >= bits
            view = data.view(f"u{size}")
            got = np.zeros(self.n, U64)
            got[mask] = view[offset[mask] // size]
            return self.write(args[0], got, mask)
        if op.startswith("st.global"):
            base, data = self.target
            address = r(args[0].strip("[]"))
            offset = (address - U64(base)).astype(np.int64)
            size = bits // 8
            assert (address[mask] % U64(size) == 0).all(), "misaligned"
            assert ((offset[mask] >= 0) & (offset[mask] + size <= data.nbytes)).all(), "out of range"
            values = r(args[1])[mask]
            assert len(np.unique(offset[mask])) == mask.sum(), "two threads write one element"
            data.view(f"u{size}")[offset[mask] // size] = values & U64(MASK[bits])
            self.written = getattr(self, "written", 0) + int(mask.sum())
            return None
        if op == "red.global.add.u64":
            assert (r(args[0].strip("[]"))[mask] == U64(self.args["p_overflow"])).all()
            self.added += int(r(args[1])[mask].sum())
            return None
        if op == "cvta.to.global.u64":
            return self.write(args[0], r(args[1]), mask)
        if name == "setp":
            compare, chained, kind = parts[1], parts[2] == "and", parts[-1]
            a, b = r(args[1]), r(args[2])
            for arg in args[1:3]:
                self.width(arg, bits)
            if kind == "f64":
                a, b = a.view(np.float64), b.view(np.float64)
            else:
                assert kind in ("u32", "u64")
            result = {
                "eq": a == b, "ne": a != b, "lt": a < b, "gt": a > b, "ge": a >= b, "le": a <= b,
                "neu": (a != b) | np.isnan(a.astype(np.float64)) | np.isnan(b.astype(np.float64)),
            }[compare]
            if chained:
                result = result & r(args[3])
            return self.write(args[0], result, mask)
        if op == "and.pred":
            return self.write(args[0], r(args[1]) & r(args[2]), mask)
        if name == "selp":
            for arg in args[:3]:
                self.width(arg, bits)
            return self.write(args[0], np.where(r(args[3]), r(args[1]), r(args[2])), mask)
        if name == "cvt":
            a = r(args[1])
            done = {
                "cvt.u32.u16": lambda: a, "cvt.u32.u64": lambda: a, "cvt.u64.u32": lambda: a,
                "cvt.rn.f16.f32": lambda: as_f32(a).astype(np.float16).view(np.uint16).astype(U64),
                "cvt.rn.f32.f64": lambda: f32_bits(a.view(np.float64)),
                "cvt.rz.f32.f64": lambda: f64_to_f32_toward_zero(a.view(np.float64)),
                "cvt.f64.f32": lambda: as_f32(a).astype(np.float64).view(U64),
            }[op]()
            self.width(args[0], int(parts[-2][1:]))
            self.width(args[1], int(parts[-1][1:]))
            return self.write(args[0], done, mask)
        if op == "mul.rn.f32":
            return self.write(args[0], f32_bits(as_f32(r(args[1])) * as_f32(r(args[2]))), mask)
        if op == "mul.wide.u32":
            self.width(args[0], 64)
            return self.write(args[0], (r(args[1]) & U64(MASK[32])) * (r(args[2]) & U64(MASK[32])), mask)
        if op == "mad.lo.u64":
            return self.write(args[0], r(args[1]) * r(args[2]) + r(args[3]), mask)
        values = [r(a) for a in args[1:]]
        for arg in [args[0], args[1]]:
            self.width(arg, bits)
        # 64-bit lanes; `write` cuts to the register's width.
        result = {
            "mov": lambda a: a,
            "and": lambda a, b: a & b,
            "or": lambda a, b: a | b,
            "add": lambda a, b: a + b,
            "sub": lambda a, b: a - b,
            "shl": lambda a, b: a << b,
            "shr": lambda a, b: a >> b,
        }[name](*values)
        return self.write(args[0], result, mask)


# ---- the definition --------------------------------------------------------------------------------------------------

# name: exponent bits, mantissa bits, bias, what is special
FORMATS = {
    "f64": (11, 52, 1023, "ieee"), "f32": (8, 23, 127, "ieee"), "f16": (5, 10, 15, "ieee"),
    "bf16": (8, 7, 127, "ieee"), "f8_e4m3": (4, 3, 7, "fn"), "f8_e5m2": (5, 2, 15, "ieee"),
    "f8_e4m3fnuz": (4, 3, 8, "fnuz"), "f8_e5m2fnuz": (5, 2, 16, "fnuz"),
}


def define(source, target, bits, saturate):
    """The cast of one value: (bits, overflowed)."""
    e, m, bias, special = FORMATS[source]
    te, tm, tbias, _ = FORMATS[target]
    infinity = ((1 << te) - 1) << tm
    sign, magnitude = bits >> (e + m), bits & ((1 << (e + m)) - 1)
    exponent, mantissa = magnitude >> m, magnitude & ((1 << m) - 1)
    top = (1 << e) - 1
    nan = {"ieee": exponent == top and mantissa, "fn": magnitude == (1 << (e + m)) - 1, "fnuz": bits == 1 << (e + m)}[special]
    if nan:
        if (source, target) == ("bf16", "f32"):
            return bits << 16, False
        if special == "fnuz":
            sign, mantissa = 0, 0
        mantissa = mantissa << (tm - m) if tm >= m else mantissa >> (m - tm)
        return sign << (te + tm) | infinity | mantissa | 1 << (tm - 1), False
    sign <<= te + tm
    if special == "ieee" and exponent == top:
        return sign | infinity, False
    if exponent:
        mantissa |= 1 << m
    else:
        exponent = 1
    # value = mantissa × 2^power
    power = exponent - bias - m
    if mantissa == 0:
        return sign, False
    # The target's last place at this size, and how many of them the value is, rounded to nearest, ties to even.
    place = max(power + mantissa.bit_length() - 1 - tm, 1 - tbias - tm)
    cut = place - power
    if cut <= 0:
        steps = mantissa << -cut
    else:
        steps, rest, half = mantissa >> cut, mantissa & ((1 << cut) - 1), 1 << (cut - 1)
        if rest > half or (rest == half and steps & 1):
            steps += 1
    # `steps` has the leading one in it, except for subnormals: one less in the exponent's field makes up for both.
    out = ((place + tbias + tm - 1) << tm) + steps
    if out >= infinity:
        return (sign | infinity) - saturate, True
    return sign | out, False


def inputs(source, rng):
    e, m, _, _ = FORMATS[source]
    width = 1 + e + m
    if width <= 16:
        return np.arange(1 << width, dtype=U64)
    found = set()
    exponents = range(256) if source == "f32" else [0, 1, 2, 2045, 2046, 2047, *range(1023 - 155, 1023 + 132)]
    for exponent in exponents:
        for kept in (23, 10, 7, 3, 0):
            if kept >= m:
                continue
            tie = 1 << (m - 1 - kept)
            for mantissa in (0, tie, 3 * tie, (1 << m) - tie, 1 << (m - 1), (1 << m) - 1):
                for step in (-1, 0, 1):
                    found.add((exponent << m) + (mantissa & ((1 << m) - 1)) + step)
        for random in rng.integers(0, 1 << m, 12):
            found.add((exponent << m) | int(random))
            # Bits only far below the place that decides: what a second rounding would lose.
            found.add((exponent << m) | (int(random) >> (m - 12) << (m - 12)) | 1)
    found = {v for v in found if 0 <= v < 1 << (e + m)}
    return np.array(sorted(found | {v | 1 << (e + m) for v in found}), dtype=U64)


def main():
    text = PTX.read_text()
    assert text == runpy.run_path(str(PTX.with_name("make_cast_ptx.py")))["text"](), "cast.ptx is not what the script writes"
    found = kernels(text)
    pairs = [(s, t) for s in FORMATS for t in ("f32", "f16", "bf16") if s != t]
    assert sorted(found) == sorted(f"cast_{s}_{t}" for s, t in pairs), "kernels and pairs differ"
    rng = np.random.default_rng(1)
    bad = 0
    for source, target in pairs:
        values = inputs(source, rng)
        source_bytes, target_bytes = (1 + sum(FORMATS[n][:2]) >> 3 for n in (source, target))
        data = values.astype(f"u{source_bytes}")
        overflows = 0
        for saturate in (0, 1):
            expected = [define(source, target, int(v), saturate) for v in values]
            wanted = np.array([b for b, _ in expected], dtype=f"u{target_bytes}")
            # Few threads that stride far, as many as elements, and more.
            for grid, block in ((3, 96), (-(-len(values) // 256) + 2, 256)):
                out = np.full(len(values), MASK[8], f"u{target_bytes}")
                args = {"p_source": 1 << 40, "p_target": 1 << 41, "p_count": len(values), "p_overflow": 1 << 42, "p_saturate": saturate}
                machine = Machine(found[f"cast_{source}_{target}"], args, (1 << 40, data), (1 << 41, out), grid, block)
                machine.run()
                assert machine.written == len(values), "an element was written twice or not at all"
                overflows = sum(o for _, o in expected)
                wrong = np.flatnonzero(out != wanted)
                for i in wrong[:5]:
                    print(f"{source} {int(values[i]):#x} -> {target}: expected {int(wanted[i]):#x}, got {int(out[i]):#x}")
                if machine.added != overflows:
                    print(f"{source} -> {target}: {overflows} overflows, counted {machine.added}")
                bad += len(wrong) + (machine.added != overflows)
        # Without a counter nothing is added.
        machine = Machine(found[f"cast_{source}_{target}"], {**args, "p_overflow": 0}, (1 << 40, data), (1 << 41, out), 3, 96)
        machine.run()
        bad += machine.added != 0
        print(f"cast_{source}_{target}: {len(values)} values, {overflows} overflows", flush=True)
    print(f"numpy {np.__version__}: {len(pairs)} kernels, " + ("all equal" if not bad else f"{bad} DIFFERENCES"))
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
