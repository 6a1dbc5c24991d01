//! The layouts there are: one row each.
//!
//! Sources: compressed-tensors' compressors, gptqmodel's and AutoAWQ's packers, bitsandbytes' `QuantState`, MLX's
//! `affine_quantize`, torchao's tensor classes. Each row is held against its client's own files in
//! `testdata/golden/packings`.

use super::{Along, Axes, Content, Face, Formula, Held, Layout, Pack, Stored};
use crate::dtype::DType;

/// Neighbours of a row one behind the other.
const IN_ROWS: Option<Pack> = Some(Pack { along: Along::Columns, order: &[] });
/// The first of two neighbours in the upper half of a byte.
const UPPER_FIRST: Option<Pack> = Some(Pack { along: Along::Columns, order: &[1, 0] });
/// Neighbours of a column one behind the other.
const IN_COLUMNS: Option<Pack> = Some(Pack { along: Along::Rows, order: &[] });
/// The order of AWQ's GEMM kernels: even neighbours, then odd ones.
const EVEN_FIRST: Option<Pack> = Some(Pack { along: Along::Rows, order: &[0, 2, 4, 6, 1, 3, 5, 7] });

const fn face(suffix: &'static str, content: Content, stored: Stored, axes: Axes) -> Face {
    Face { suffix, content, stored, axes, pack: None, held: Held::Plain }
}

const fn packed(mut face: Face, pack: Option<Pack>) -> Face {
    face.pack = pack;
    face
}

const fn held(mut face: Face, held: Held) -> Face {
    face.held = held;
    face
}

const fn layout(name: &'static str, faces: &'static [Face], formula: Formula) -> Layout {
    Layout { name, faces, formula, flat: false }
}

const WORDS: Stored = Stored::Is(DType::I32);
const FLOATS: Stored = Stored::Is(DType::F32);

/// compressed-tensors `pack-quantized`. Codes and zero points are signed there and stored with the middle added, which is
/// how they count here. `weight_g_idx` is in files from before 2026.
pub static COMPRESSED: Layout = layout(
    "compressed-tensors integers",
    &[
        packed(face(".weight_packed", Content::Codes, WORDS, Axes::Straight), IN_ROWS),
        face(".weight_scale", Content::Scales, Stored::Model, Axes::Straight),
        packed(face(".weight_zero_point", Content::Zeros, WORDS, Axes::Straight), IN_COLUMNS),
        face(".weight_shape", Content::Shape, Stored::Is(DType::I64), Axes::Fixed(2)),
        face(".weight_g_idx", Content::Groups, WORDS, Axes::Columns),
    ],
    Formula::Integer,
);

/// compressed-tensors `int-quantized` and `naive-quantized`: a signed byte for each code, whatever its bits.
pub static COMPRESSED_BYTES: Layout = layout(
    "compressed-tensors integers in bytes",
    &[
        held(face(".weight", Content::Codes, Stored::Is(DType::I8), Axes::Straight), Held::Signed),
        face(".weight_scale", Content::Scales, Stored::Model, Axes::Straight),
        held(face(".weight_zero_point", Content::Zeros, Stored::Is(DType::I8), Axes::Straight), Held::Signed),
        face(".weight_g_idx", Content::Groups, WORDS, Axes::Columns),
    ],
    Formula::Integer,
);

/// compressed-tensors `float-quantized`: eight-bit floats with a scale for each row, block or for all.
pub static COMPRESSED_FLOATS: Layout = layout(
    "compressed-tensors fp8",
    &[
        face(".weight", Content::Codes, Stored::Is(DType::F8E4M3), Axes::Straight),
        face(".weight_scale", Content::Scales, Stored::Model, Axes::Straight),
    ],
    Formula::Float(DType::F8E4M3),
);

/// What codes of four-bit floats (E2M1) stand for.
pub static E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// compressed-tensors `mxfp4-pack-quantized`.
pub static COMPRESSED_MXFP4: Layout = layout(
    "compressed-tensors MXFP4",
    &[
        packed(face(".weight_packed", Content::Codes, Stored::Is(DType::U8), Axes::Straight), IN_ROWS),
        face(".weight_scale", Content::Scales, Stored::Exponent, Axes::Straight),
    ],
    Formula::Table(&E2M1),
);

/// compressed-tensors `nvfp4-pack-quantized`. Its global scale is what scales were multiplied by: a reader divides.
pub static COMPRESSED_NVFP4: Layout = layout(
    "compressed-tensors NVFP4",
    &[
        packed(face(".weight_packed", Content::Codes, Stored::Is(DType::U8), Axes::Straight), IN_ROWS),
        face(".weight_scale", Content::Scales, Stored::Is(DType::F8E4M3), Axes::Straight),
        face(".weight_global_scale", Content::Global, FLOATS, Axes::Fixed(1)),
    ],
    Formula::Table(&E2M1),
);

/// GPTQ as it began: zero points are stored less one.
pub static GPTQ: Layout = layout(
    "GPTQ",
    &[
        packed(face(".qweight", Content::Codes, WORDS, Axes::Turned), IN_ROWS),
        held(packed(face(".qzeros", Content::Zeros, WORDS, Axes::Turned), IN_COLUMNS), Held::LessOne),
        face(".scales", Content::Scales, Stored::Half, Axes::Turned),
        face(".g_idx", Content::Groups, WORDS, Axes::Columns),
    ],
    Formula::Integer,
);

/// GPTQ with zero points as they are.
pub static GPTQ_V2: Layout = layout(
    "GPTQ v2",
    &[
        packed(face(".qweight", Content::Codes, WORDS, Axes::Turned), IN_ROWS),
        packed(face(".qzeros", Content::Zeros, WORDS, Axes::Turned), IN_COLUMNS),
        face(".scales", Content::Scales, Stored::Half, Axes::Turned),
        face(".g_idx", Content::Groups, WORDS, Axes::Columns),
    ],
    Formula::Integer,
);

/// AWQ in the order of its GEMM kernels.
pub static AWQ: Layout = layout(
    "AWQ",
    &[
        packed(face(".qweight", Content::Codes, WORDS, Axes::Turned), EVEN_FIRST),
        packed(face(".qzeros", Content::Zeros, WORDS, Axes::Turned), EVEN_FIRST),
        face(".scales", Content::Scales, Stored::Half, Axes::Turned),
    ],
    Formula::Integer,
);

/// What codes of bitsandbytes' NF4 stand for: quantiles of the normal distribution, as the package spells them.
#[allow(clippy::excessive_precision)]
pub static NF4_TABLE: [f32; 16] = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
];

const BNB_CODES: Face =
    packed(face(".weight", Content::Codes, Stored::Is(DType::U8), Axes::Single), UPPER_FIRST);
const BNB_TABLE: Face = face(".weight.quant_map", Content::Table, FLOATS, Axes::Fixed(16));
const BNB_SCALES: Face = face(".weight.absmax", Content::Scales, FLOATS, Axes::Flat);
const BNB_SCALE_CODES: Face = face(".weight.absmax", Content::Scales, Stored::Is(DType::U8), Axes::Flat);
const BNB_NESTED: Face = face(".weight.nested_absmax", Content::NestedScales, FLOATS, Axes::Flat);
const BNB_NESTED_TABLE: Face =
    face(".weight.nested_quant_map", Content::NestedTable, FLOATS, Axes::Fixed(256));
const NF4_STATE: Face =
    face(".weight.quant_state.bitsandbytes__nf4", Content::State, Stored::Is(DType::U8), Axes::Fixed(0));

const fn flat(name: &'static str, faces: &'static [Face], formula: Formula) -> Layout {
    Layout { name, faces, formula, flat: true }
}

/// bitsandbytes NF4.
pub static NF4: Layout =
    flat("bitsandbytes NF4", &[BNB_CODES, BNB_SCALES, BNB_TABLE, NF4_STATE], Formula::Table(&NF4_TABLE));

/// bitsandbytes NF4 whose scales are quantised too.
pub static NF4_DOUBLE: Layout = flat(
    "bitsandbytes NF4, double-quantised",
    &[BNB_CODES, BNB_SCALE_CODES, BNB_NESTED, BNB_NESTED_TABLE, BNB_TABLE, NF4_STATE],
    Formula::Table(&NF4_TABLE),
);

/// What codes of bitsandbytes' FP4 stand for: two bits of exponent and one of mantissa, as shares of the largest.
pub static FP4_TABLE: [f32; 16] = [
    0.0,
    0.0625 / 12.0,
    8.0 / 12.0,
    1.0,
    4.0 / 12.0,
    0.5,
    2.0 / 12.0,
    0.25,
    0.0,
    -0.0625 / 12.0,
    -8.0 / 12.0,
    -1.0,
    -4.0 / 12.0,
    -0.5,
    -2.0 / 12.0,
    -0.25,
];

const FP4_STATE: Face =
    face(".weight.quant_state.bitsandbytes__fp4", Content::State, Stored::Is(DType::U8), Axes::Fixed(0));

/// bitsandbytes FP4.
pub static FP4: Layout =
    flat("bitsandbytes FP4", &[BNB_CODES, BNB_SCALES, BNB_TABLE, FP4_STATE], Formula::Table(&FP4_TABLE));

/// bitsandbytes FP4 whose scales are quantised too.
pub static FP4_DOUBLE: Layout = flat(
    "bitsandbytes FP4, double-quantised",
    &[BNB_CODES, BNB_SCALE_CODES, BNB_NESTED, BNB_NESTED_TABLE, BNB_TABLE, FP4_STATE],
    Formula::Table(&FP4_TABLE),
);

/// bitsandbytes LLM.int8().
pub static BNB_INT8: Layout = layout(
    "bitsandbytes int8",
    &[
        held(face(".weight", Content::Codes, Stored::Is(DType::I8), Axes::Straight), Held::Signed),
        face(".SCB", Content::Scales, FLOATS, Axes::Rows),
    ],
    Formula::Extreme,
);

/// MLX affine.
pub static MLX: Layout = layout(
    "MLX affine",
    &[
        packed(face(".weight", Content::Codes, Stored::Is(DType::U32), Axes::Straight), IN_ROWS),
        face(".scales", Content::Scales, Stored::Model, Axes::Straight),
        face(".biases", Content::Biases, Stored::Model, Axes::Straight),
    ],
    Formula::Affine,
);

/// torchao's `Int4Tensor`: signed codes, and for each group the number that code zero stands for.
pub static TORCHAO_INT4: Layout = layout(
    "torchao int4",
    &[
        held(
            packed(face("._weight_qdata", Content::Codes, Stored::Is(DType::I8), Axes::Straight), IN_ROWS),
            Held::Signed,
        ),
        face("._weight_scale", Content::Scales, Stored::Model, Axes::Turned),
        face("._weight_zero_point", Content::Biases, Stored::Model, Axes::Turned),
    ],
    Formula::Centred,
);

/// torchao's `IntxUnpackedToInt8Tensor`: a signed byte for each code.
pub static TORCHAO_BYTES: Layout = layout(
    "torchao integers in bytes",
    &[
        held(face("._weight_qdata", Content::Codes, Stored::Is(DType::I8), Axes::Straight), Held::Signed),
        face("._weight_scale", Content::Scales, Stored::Model, Axes::Straight),
        held(
            face("._weight_zero_point", Content::Zeros, Stored::Is(DType::I8), Axes::Straight),
            Held::Signed,
        ),
    ],
    Formula::Integer,
);

/// All of them.
pub static ALL: &[&Layout] = &[
    &COMPRESSED,
    &COMPRESSED_BYTES,
    &COMPRESSED_FLOATS,
    &COMPRESSED_MXFP4,
    &COMPRESSED_NVFP4,
    &GPTQ,
    &GPTQ_V2,
    &AWQ,
    &NF4,
    &NF4_DOUBLE,
    &FP4,
    &FP4_DOUBLE,
    &BNB_INT8,
    &MLX,
    &TORCHAO_INT4,
    &TORCHAO_BYTES,
];
