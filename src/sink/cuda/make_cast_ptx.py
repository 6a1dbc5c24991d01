"""Writes cast.ptx, the kernels that cast floats on the GPU, beside this file. Run: python make_cast_ptx.py

PTX is written by a script because no CUDA compiler is needed this way, neither here nor where hoist is built, and
because 21 kernels differ in three lines each: how a value is widened to f32, how it is narrowed, and the sizes.
"""

import pathlib

HEAD = """\
// Casts between floating-point types. Made by make_cast_ptx.py; do not edit.
//
// cast_FROM_TO(u64 source, u64 target, u64 count, u64 overflow, u32 saturate)
//   source, target  device addresses, aligned to their element's size; must not overlap
//   count           elements
//   overflow        address of a u64 to which the number of overflows is added, or 0
//   saturate        not 0: what overflows becomes the largest finite value of its sign, instead of Inf
// Any one-dimensional grid will do: the threads stride over the elements.
//
// What a cast means, bit for bit. The CPU's kernels mean the same.
//   1. FROM f16, bf16 and the four f8 types widen to f32 without rounding; f64 narrows to f32 by rounding to nearest,
//      ties to even, or, on its way to f16 and bf16, to odd, so that the second rounding is the only one that counts.
//      f32 narrows to f16 and bf16 to nearest, ties to even. Subnormals are values like any other, on either side.
//   2. A finite value that rounds to Inf has overflowed: it is counted, and replaced if saturate is set. Inf is Inf.
//   3. NaN stays NaN. Sign kept; the mantissa's bits are aligned at the top, cut at the end or filled with zeros; the
//      quiet bit is set. Two exceptions: bf16 to f32 keeps every bit, so that a signalling NaN stays one; the one NaN
//      of the fnuz types (0x80) has neither sign nor mantissa and becomes the positive quiet NaN without payload.
//   4. f8_e4m3 has no Inf; 0x7f and 0xff are its NaNs.

.version 6.4
.target sm_50
.address_size 64
"""

# Loads the element at `a` into w (or d), as f32 bits in w. f8 and f16 are placed into an f32 as they are, with the
# exponent's bias of their own type, and then multiplied by the power of two between the biases, which is exact and
# makes subnormals normal. An Inf or NaN of f16 is put together by hand: cvt would give one NaN for all.
F16_TO_F32 = """\
    and.b32 s, w, 0x8000;
    shl.b32 s, s, 16;
    and.b32 m, w, 0x7fff;
    shl.b32 x, m, 13;
    mul.rn.f32 y, x, 0f77800000;            // 2^112 = 2^(127-15)
    or.b32 z, x, 0x7f800000;
    or.b32 t, z, 0x00400000;
    setp.gt.u32 p, m, 0x7c00;
    selp.b32 z, t, z, p;
    setp.ge.u32 p, m, 0x7c00;
    selp.b32 w, z, y, p;
    or.b32 w, w, s;
"""


def f8(shift, power, nan, bits):
    """The two-line core of an f8 type; `nan` computes p and the NaN's bits in z."""
    return f"""\
    ld.global.u8 w, [a];
    and.b32 s, w, 0x80;
    shl.b32 s, s, 24;
    and.b32 m, w, 0x7f;
    shl.b32 x, m, {shift};
    mul.rn.f32 y, x, 0f{bits:08X};            // 2^{power}
    or.b32 y, y, s;
{nan}    selp.b32 w, z, y, p;
"""


FNUZ_NAN = """\
    mov.b32 z, 0x7fc00000;
    setp.eq.u32 p, w, 0x80;
"""
E4M3_NAN = """\
    or.b32 z, s, 0x7ff00000;
    setp.eq.u32 p, m, 0x7f;
"""

# name: (bytes, load and widen)
SOURCES = {
    "f64": (8, None),
    "f32": (4, "    ld.global.u32 w, [a];\n"),
    "f16": (2, "    ld.global.u16 w, [a];\n" + F16_TO_F32),
    "bf16": (2, "    ld.global.u16 w, [a];\n    shl.b32 w, w, 16;\n"),
    "f8_e4m3": (1, f8(20, 120, E4M3_NAN, (127 + 120) << 23)),
    "f8_e5m2": (1, "    ld.global.u8 w, [a];\n    shl.b32 w, w, 8;                        // e5m2 is the upper half of f16\n" + F16_TO_F32),
    "f8_e4m3fnuz": (1, f8(20, 119, FNUZ_NAN, (127 + 119) << 23)),
    "f8_e5m2fnuz": (1, f8(21, 111, FNUZ_NAN, (127 + 111) << 23)),
}

# f64 to f32 bits in w, NaN included. To nearest for f32 itself; to odd (towards zero, then the last bit set when
# something was cut off) where a second rounding follows. Towards zero never reaches Inf: a finite value that is too
# large becomes the largest f32, which is odd and overflows in f16 and bf16 as the value itself would.
F64_NEAREST = """\
    cvt.rn.f32.f64 w, d;
"""
F64_ODD = """\
    cvt.rz.f32.f64 w, d;
    cvt.f64.f32 e, w;
    or.b32 x, w, 1;
    setp.neu.f64 p, e, d;
    selp.b32 w, x, w, p;
"""


def f64(to_f32):
    return f"""\
    ld.global.b64 d, [a];
    and.b64 ad, d, 0x7fffffffffffffff;
{to_f32}    shr.u64 td, d, 32;
    cvt.u32.u64 s, td;
    and.b32 s, s, 0x80000000;
    shr.u64 td, d, 29;
    cvt.u32.u64 z, td;
    and.b32 z, z, 0x007fffff;
    or.b32 z, z, 0x7fc00000;
    or.b32 z, z, s;
    setp.gt.u64 p, ad, 0x7ff0000000000000;
    selp.b32 w, z, w, p;
"""


# From f32 bits in w to the target's bits in o. `finite` says whether the value was finite before.
FINITE_F32 = """\
    and.b32 m, w, 0x7fffffff;
    setp.lt.u32 finite, m, 0x7f800000;
    setp.gt.u32 p, m, 0x7f800000;
"""
TO_BF16 = FINITE_F32 + """\
    shr.u32 x, w, 16;
    or.b32 z, x, 0x0040;                    // a NaN
    and.b32 t, x, 1;                        // to nearest, ties to even: add half, less one where the result is even
    add.u32 y, w, 0x7fff;
    add.u32 y, y, t;
    shr.u32 y, y, 16;
    selp.b32 o, z, y, p;
"""
TO_F16 = FINITE_F32 + """\
    cvt.rn.f16.f32 h, w;
    cvt.u32.u16 y, h;
    shr.u32 z, w, 16;
    and.b32 z, z, 0x8000;
    shr.u32 t, w, 13;
    and.b32 t, t, 0x03ff;
    or.b32 z, z, t;
    or.b32 z, z, 0x7e00;                    // a NaN
    selp.b32 o, z, y, p;
"""
F64_TO_F32 = """\
    setp.lt.u64 finite, ad, 0x7ff0000000000000;
    mov.b32 o, w;
"""

# Targets: bytes, narrow, bits of Inf, bits without the sign, store.
TARGETS = {
    "f32": (4, "", 0x7F800000, 0x7FFFFFFF, "u32"),
    "f16": (2, TO_F16, 0x7C00, 0x7FFF, "u16"),
    "bf16": (2, TO_BF16, 0x7F80, 0x7FFF, "u16"),
}


def overflow(inf, magnitude):
    """Counts a finite value that became Inf. One less than Inf's bits is the largest finite value."""
    return f"""\
    and.b32 t, o, 0x{magnitude:x};
    setp.eq.and.u32 over, t, 0x{inf:x}, finite;
    @over add.u64 overs, overs, 1;
    and.pred over, over, saturating;
    @over sub.u32 o, o, 1;
"""


def kernel(source, target):
    source_bytes, widen = SOURCES[source]
    target_bytes, narrow, inf, magnitude, store = TARGETS[target]
    if source == "f64":
        widen = f64(F64_NEAREST if target == "f32" else F64_ODD)
        narrow = narrow or F64_TO_F32
    # Only these can overflow: the others' largest value has room in the target.
    check = overflow(inf, magnitude) if (source, target) in OVERFLOWING else ""
    body = widen + (narrow or "    mov.b32 o, w;\n") + check
    return f"""
.visible .entry cast_{source}_{target}(
    .param .u64 p_source,
    .param .u64 p_target,
    .param .u64 p_count,
    .param .u64 p_overflow,
    .param .u32 p_saturate
)
{{
    .reg .pred p, finite, over, saturating, more;
    .reg .b16 h;
    .reg .b32 w, s, m, x, y, z, t, o, saturate, block, threads, thread, blocks;
    .reg .b64 d, ad, td, e, a, source, target, count, i, stride, wide, overs, place;

    ld.param.u64 source, [p_source];
    ld.param.u64 target, [p_target];
    ld.param.u64 count, [p_count];
    ld.param.u64 place, [p_overflow];
    ld.param.u32 saturate, [p_saturate];
    cvta.to.global.u64 source, source;
    cvta.to.global.u64 target, target;
    setp.ne.u32 saturating, saturate, 0;
    mov.u64 overs, 0;

    mov.u32 block, %ctaid.x;
    mov.u32 threads, %ntid.x;
    mov.u32 thread, %tid.x;
    mov.u32 blocks, %nctaid.x;
    mul.wide.u32 i, block, threads;
    cvt.u64.u32 wide, thread;
    add.u64 i, i, wide;
    mul.wide.u32 stride, blocks, threads;
    setp.ge.u64 p, i, count;
    @p bra DONE;

NEXT:
    mad.lo.u64 a, i, {source_bytes}, source;
{body}    mad.lo.u64 a, i, {target_bytes}, target;
    st.global.{store} [a], o;
    add.u64 i, i, stride;
    setp.lt.u64 more, i, count;
    @more bra NEXT;

    setp.eq.u64 p, overs, 0;
    @p bra DONE;
    setp.eq.u64 p, place, 0;
    @p bra DONE;
    cvta.to.global.u64 place, place;
    red.global.add.u64 [place], overs;

DONE:
    ret;
}}
"""


OVERFLOWING = {("f64", "f32"), ("f64", "f16"), ("f64", "bf16"), ("f32", "f16"), ("f32", "bf16"), ("bf16", "f16")}


def text():
    pairs = [(s, t) for s in SOURCES for t in TARGETS if s != t]
    return HEAD + "".join(kernel(s, t) for s, t in pairs)


if __name__ == "__main__":
    pathlib.Path(__file__).with_name("cast.ptx").write_text(text())
