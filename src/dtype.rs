//! Element types. One row of facts each; a type read from a file is looked up here and nowhere else.
//!
//! Every type is a *block*: `block_elements` elements stored together in `block_bytes` bytes. A plain type is a block
//! of one. Sub-byte types are blocks of the least number of elements that fills whole bytes.

use std::fmt;

/// What kind of number a type holds; decides what may be cast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Floating point, one value an element; may be cast.
    Float,
    /// Integers; never cast.
    Integer,
    /// Truth values, one byte each; never cast.
    Bool,
    /// Pairs of floats; never cast.
    Complex,
    /// A quantised block of ggml: opaque until dequantised.
    Block,
}

/// One row: everything that is true of a type, whatever the container.
#[derive(Debug)]
pub struct Facts {
    /// hoist's own name, lower case: `bf16`, `f8_e4m3`, `q4_k`.
    pub name: &'static str,
    /// What kind of number it holds.
    pub class: Class,
    /// Elements stored together.
    pub block_elements: u32,
    /// Bytes they take.
    pub block_bytes: u32,
    /// The block's fields as (width in bytes, count), in order: what a change of byte order must swap.
    pub fields: &'static [(u8, u16)],
    /// The name in a safetensors header, where the format has the type.
    pub safetensors: Option<&'static str>,
    /// The name of the torch dtype (`bfloat16`), where torch has it.
    pub torch: Option<&'static str>,
    /// The id in a GGUF tensor info, where ggml has the type.
    pub ggml: Option<u32>,
}

macro_rules! dtypes {
    ($($variant:ident $name:literal $class:ident $elements:literal/$bytes:literal $fields:expr, $st:expr, $torch:expr, $ggml:expr;)*) => {
        /// An element type.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs, non_camel_case_types)] // each is explained by its row
        pub enum DType { $($variant),* }

        impl DType {
            /// Every type there is.
            pub const ALL: &'static [DType] = &[$(DType::$variant),*];

            /// The row of facts.
            pub fn facts(self) -> &'static Facts {
                match self {
                    $(DType::$variant => {
                        const FACTS: Facts = Facts {
                            name: $name, class: Class::$class, block_elements: $elements, block_bytes: $bytes,
                            fields: &$fields, safetensors: $st, torch: $torch, ggml: $ggml,
                        };
                        &FACTS
                    })*
                }
            }
        }
    };
}

// Sources: safetensors 0.8 `Dtype`; torch 2.15 dtypes; ggml.h and ggml-common.h (block structs) of ggml 0.25.
#[rustfmt::skip]
dtypes! {
//  variant      name           class   elements/bytes [(width, count)…]          safetensors             torch                     ggml
    Bool         "bool"         Bool    1/1    [(1, 1)],                          Some("BOOL"),           Some("bool"),             None;
    U8           "u8"           Integer 1/1    [(1, 1)],                          Some("U8"),             Some("uint8"),            None;
    I8           "i8"           Integer 1/1    [(1, 1)],                          Some("I8"),             Some("int8"),             Some(24);
    U16          "u16"          Integer 1/2    [(2, 1)],                          Some("U16"),            Some("uint16"),           None;
    I16          "i16"          Integer 1/2    [(2, 1)],                          Some("I16"),            Some("int16"),            Some(25);
    U32          "u32"          Integer 1/4    [(4, 1)],                          Some("U32"),            Some("uint32"),           None;
    I32          "i32"          Integer 1/4    [(4, 1)],                          Some("I32"),            Some("int32"),            Some(26);
    U64          "u64"          Integer 1/8    [(8, 1)],                          Some("U64"),            Some("uint64"),           None;
    I64          "i64"          Integer 1/8    [(8, 1)],                          Some("I64"),            Some("int64"),            Some(27);
    F16          "f16"          Float   1/2    [(2, 1)],                          Some("F16"),            Some("float16"),          Some(1);
    BF16         "bf16"         Float   1/2    [(2, 1)],                          Some("BF16"),           Some("bfloat16"),         Some(30);
    F32          "f32"          Float   1/4    [(4, 1)],                          Some("F32"),            Some("float32"),          Some(0);
    F64          "f64"          Float   1/8    [(8, 1)],                          Some("F64"),            Some("float64"),          Some(28);
    F8E4M3       "f8_e4m3"      Float   1/1    [(1, 1)],                          Some("F8_E4M3"),        Some("float8_e4m3fn"),    None;
    F8E5M2       "f8_e5m2"      Float   1/1    [(1, 1)],                          Some("F8_E5M2"),        Some("float8_e5m2"),      None;
    F8E4M3FNUZ   "f8_e4m3fnuz"  Float   1/1    [(1, 1)],                          Some("F8_E4M3FNUZ"),    Some("float8_e4m3fnuz"),  None;
    F8E5M2FNUZ   "f8_e5m2fnuz"  Float   1/1    [(1, 1)],                          Some("F8_E5M2FNUZ"),    Some("float8_e5m2fnuz"),  None;
    F8E8M0       "f8_e8m0"      Float   1/1    [(1, 1)],                          Some("F8_E8M0"),        Some("float8_e8m0fnu"),   None;
    F6E2M3       "f6_e2m3"      Float   4/3    [(1, 3)],                          Some("F6_E2M3"),        None,                     None;
    F6E3M2       "f6_e3m2"      Float   4/3    [(1, 3)],                          Some("F6_E3M2"),        None,                     None;
    F4           "f4"           Float   2/1    [(1, 1)],                          Some("F4"),             Some("float4_e2m1fn_x2"), None;
    C32          "c32"          Complex 1/4    [(2, 2)],                          None,                   Some("complex32"),        None;
    C64          "c64"          Complex 1/8    [(4, 2)],                          Some("C64"),            Some("complex64"),        None;
    C128         "c128"         Complex 1/16   [(8, 2)],                          None,                   Some("complex128"),       None;
    Q4_0         "q4_0"         Block   32/18  [(2, 1), (1, 16)],                 None, None, Some(2);
    Q4_1         "q4_1"         Block   32/20  [(2, 2), (1, 16)],                 None, None, Some(3);
    Q5_0         "q5_0"         Block   32/22  [(2, 1), (4, 1), (1, 16)],         None, None, Some(6);
    Q5_1         "q5_1"         Block   32/24  [(2, 2), (4, 1), (1, 16)],         None, None, Some(7);
    Q8_0         "q8_0"         Block   32/34  [(2, 1), (1, 32)],                 None, None, Some(8);
    Q8_1         "q8_1"         Block   32/36  [(2, 2), (1, 32)],                 None, None, Some(9);
    Q2K          "q2_k"         Block   256/84  [(1, 80), (2, 2)],                None, None, Some(10);
    Q3K          "q3_k"         Block   256/110 [(1, 108), (2, 1)],               None, None, Some(11);
    Q4K          "q4_k"         Block   256/144 [(2, 2), (1, 140)],               None, None, Some(12);
    Q5K          "q5_k"         Block   256/176 [(2, 2), (1, 172)],               None, None, Some(13);
    Q6K          "q6_k"         Block   256/210 [(1, 208), (2, 1)],               None, None, Some(14);
    Q8K          "q8_k"         Block   256/292 [(4, 1), (1, 256), (2, 16)],      None, None, Some(15);
    IQ2XXS       "iq2_xxs"      Block   256/66  [(2, 33)],                        None, None, Some(16);
    IQ2XS        "iq2_xs"       Block   256/74  [(2, 33), (1, 8)],                None, None, Some(17);
    IQ3XXS       "iq3_xxs"      Block   256/98  [(2, 1), (1, 96)],                None, None, Some(18);
    IQ1S         "iq1_s"        Block   256/50  [(2, 1), (1, 32), (2, 8)],        None, None, Some(19);
    IQ4NL        "iq4_nl"       Block   32/18   [(2, 1), (1, 16)],                None, None, Some(20);
    IQ3S         "iq3_s"        Block   256/110 [(2, 1), (1, 108)],               None, None, Some(21);
    IQ2S         "iq2_s"        Block   256/82  [(2, 1), (1, 80)],                None, None, Some(22);
    IQ4XS        "iq4_xs"       Block   256/136 [(2, 2), (1, 132)],               None, None, Some(23);
    IQ1M         "iq1_m"        Block   256/56  [(1, 56)],                        None, None, Some(29);
    TQ1_0        "tq1_0"        Block   256/54  [(1, 52), (2, 1)],                None, None, Some(34);
    TQ2_0        "tq2_0"        Block   256/66  [(1, 64), (2, 1)],                None, None, Some(35);
    MXFP4        "mxfp4"        Block   32/17   [(1, 17)],                        None, None, Some(39);
    NVFP4        "nvfp4"        Block   64/36   [(1, 36)],                        None, None, Some(40);
    Q1_0         "q1_0"         Block   128/18  [(2, 1), (1, 16)],                None, None, Some(41);
    Q2_0         "q2_0"         Block   64/18   [(2, 1), (1, 16)],                None, None, Some(42);
}

impl DType {
    /// hoist's own name, lower case.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// Whether a value is a floating-point number of its own, so that a cast means something.
    pub fn is_float(self) -> bool {
        self.facts().class == Class::Float
    }

    /// Whether each element has an address of its own (a block of one).
    pub fn is_plain(self) -> bool {
        self.facts().block_elements == 1
    }

    /// Bytes that `elements` take, or `None` where they do not fill whole blocks or the product overflows.
    pub fn size_bytes(self, elements: u64) -> Option<u64> {
        let facts = self.facts();
        let blocks = elements / u64::from(facts.block_elements);
        if !elements.is_multiple_of(u64::from(facts.block_elements)) {
            return None;
        }
        blocks.checked_mul(u64::from(facts.block_bytes))
    }

    /// The type that a safetensors header calls `name`.
    pub fn from_safetensors(name: &str) -> Option<DType> {
        DType::ALL.iter().copied().find(|d| d.facts().safetensors == Some(name))
    }

    /// The type that torch calls `name` (without `torch.`), aliases included.
    pub fn from_torch(name: &str) -> Option<DType> {
        let name = match name {
            "float" => "float32",
            "double" => "float64",
            "half" => "float16",
            "short" => "int16",
            "int" => "int32",
            "long" => "int64",
            "cfloat" => "complex64",
            "cdouble" => "complex128",
            "chalf" => "complex32",
            other => other,
        };
        DType::ALL.iter().copied().find(|d| d.facts().torch == Some(name))
    }

    /// The type with this ggml id.
    pub fn from_ggml(id: u32) -> Option<DType> {
        DType::ALL.iter().copied().find(|d| d.facts().ggml == Some(id))
    }

    /// The type a person means by `name`, in any of the spellings: `bf16`, `BF16`, `bfloat16`, `f8_e4m3fn`, `Q4_K`.
    pub fn from_user(name: &str) -> Option<DType> {
        let lower = name.to_ascii_lowercase();
        let lower = lower.strip_prefix("torch.").unwrap_or(&lower);
        let lower = match lower {
            "fp32" => "f32",
            "fp16" => "f16",
            "fp64" => "f64",
            "fp8" | "f8" | "f8_e4m3fn" => "f8_e4m3",
            other => other,
        };
        DType::ALL.iter().copied().find(|d| d.name() == lower).or_else(|| DType::from_torch(lower))
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The number of elements of a shape, or `None` where the product overflows. A later dimension of zero does not
/// excuse an earlier overflow.
pub fn element_count(shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_whole() {
        for &d in DType::ALL {
            let f = d.facts();
            let field_bytes: u32 = f.fields.iter().map(|&(w, n)| u32::from(w) * u32::from(n)).sum();
            assert_eq!(field_bytes, f.block_bytes, "{d}: fields do not add up");
            assert_eq!(DType::from_user(f.name), Some(d));
            assert_eq!(f.class == Class::Block, f.block_elements > 4, "{d}");
        }
    }

    #[test]
    fn lookups_find_their_row() {
        for &d in DType::ALL {
            let f = d.facts();
            assert!(f.safetensors.is_none_or(|n| DType::from_safetensors(n) == Some(d)));
            assert!(f.torch.is_none_or(|n| DType::from_torch(n) == Some(d)));
            assert!(f.ggml.is_none_or(|n| DType::from_ggml(n) == Some(d)));
        }
        assert_eq!(DType::from_ggml(4), None);
        assert_eq!(DType::from_safetensors("bf16"), None);
    }

    #[test]
    fn sizes() {
        for (d, n, bytes) in [
            (DType::F32, 3, Some(12)),
            (DType::F4, 3, None),
            (DType::F4, 4, Some(2)),
            (DType::F6E2M3, 8, Some(6)),
            (DType::F6E2M3, 2, None),
            (DType::Q4K, 512, Some(288)),
            (DType::Q4K, 255, None),
            (DType::F64, u64::MAX, None),
            (DType::BF16, 0, Some(0)),
        ] {
            assert_eq!(d.size_bytes(n), bytes, "{d} × {n}");
        }
        assert_eq!(element_count(&[]), Some(1));
        assert_eq!(element_count(&[u64::MAX, 2, 0]), None);
        assert_eq!(element_count(&[0, u64::MAX, 2]), Some(0));
    }
}
