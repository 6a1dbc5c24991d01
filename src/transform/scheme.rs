//! Schemes: what a person names when a model is to be quantised. A row joins a layout ([`super::packing`]) with the grids that
//! fit it, the methods that make sense on it, which tensors stay as they are and what the config says of it all.
//!
//! Where schemes differ only in facts they differ only here. [`Scheme::settle`] holds what was asked for against the row and
//! gives a [`Settled`]: every choice made, ready for each matrix of a model.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::text::Shown;
use crate::transform::method::{Grid, Kind, Method, Quantiser, Rule, ScaleType};
use crate::transform::mixture::{MIXTURES, Mixture};
use crate::transform::packing::{Layout, Packing, layouts};
use std::sync::Arc;

/// A scheme.
#[derive(Debug, PartialEq)]
pub struct Scheme {
    /// What it is called.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// How a matrix is held.
    pub layout: &'static Layout,
    /// The layout that `--gptq-v2` asks for.
    pub other_layout: Option<&'static Layout>,
    /// Bits of a code.
    pub bits: u32,
    /// Neighbours of a row that may share a scale, the first where nobody says otherwise; [`CHANNEL`] is the whole row.
    pub groups: &'static [u64],
    /// Rows that share a scale.
    pub group_rows: u64,
    /// Which zero points there can be.
    pub zeros: Zeros,
    /// What codes stand for.
    pub codes: Codes,
    /// What scales are stored in.
    pub scales: Scales,
    /// Whose round-to-nearest.
    pub rule: Rule,
    /// The methods that there are, the first where nobody says otherwise.
    pub methods: &'static [Method],
    /// What stays.
    pub stays: Stays,
    /// What the config says.
    pub config: Config,
    /// What rows (outputs) must be a multiple of, because neighbours share a word that no kernel takes half of.
    pub rows_multiple: u64,
    /// Whether mixtures of experts are written so.
    pub experts: bool,
}

/// A group that is a whole row.
pub const CHANNEL: u64 = 0;

/// Which zero points a scheme can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zeros {
    /// None: symmetric, or a kind of codes that needs none.
    Never,
    /// None but in the other layout.
    OtherLayout,
    /// Always.
    Always,
    /// Either way: where nobody says otherwise for dense models and not for mixtures of experts, whose engines took them later.
    Dense,
}

/// What codes stand for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Codes {
    /// Steps of a scale from an integer zero point.
    Integers,
    /// Steps of a scale from a float.
    Affine,
    /// Steps of a scale from a float that the middle code stands for.
    Centred,
    /// Numbers of a table.
    Table(&'static [f32; 16]),
    /// Floats of four bits.
    E2M1,
    /// Floats of eight bits.
    Float(DType),
}

/// What scales are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scales {
    /// The model's own float type.
    Model,
    /// f16, in a model of bf16 too.
    Half,
    /// f32.
    F32,
    /// Powers of two.
    Exponent,
    /// Eight-bit floats (E4M3), and an f32 for the whole matrix.
    Eighth,
}

/// What stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stays {
    /// All but the linear layers of the decoder: embeddings, head, norms, biases, routers, gates of shared experts,
    /// convolutions and state-space parameters, towers for images and sound, multi-token prediction.
    AllButLinears,
    /// As mlx-lm has it: what is neither a linear layer nor an embedding, and what its models keep.
    Mlx,
}

/// What the config says of a scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Config {
    /// compressed-tensors, in this format.
    Compressed(&'static str),
    /// GPTQ.
    Gptq,
    /// AWQ.
    Awq,
    /// MLX.
    Mlx,
    /// bitsandbytes.
    BitsAndBytes,
    /// torchao.
    TorchAo,
}

impl Config {
    /// Whether readers take the head as it is, whatever the config says.
    pub fn keeps_head(self) -> bool {
        matches!(self, Config::Awq | Config::BitsAndBytes)
    }
}

const ALL_METHODS: &[Method] = &[Method::Search, Method::Rtn];
const WITH_HQQ: &[Method] = &[Method::Search, Method::Rtn, Method::Hqq];

const INT4: Scheme = Scheme {
    name: "int4",
    about: "compressed-tensors pack-quantized W4A16",
    layout: &layouts::COMPRESSED,
    other_layout: None,
    bits: 4,
    groups: &[128, 32, 64, CHANNEL],
    group_rows: 1,
    zeros: Zeros::Dense,
    codes: Codes::Integers,
    scales: Scales::Model,
    rule: Rule::CompressedTensors,
    methods: ALL_METHODS,
    stays: Stays::AllButLinears,
    config: Config::Compressed("pack-quantized"),
    rows_multiple: 8,
    experts: true,
};

/// What mlx-lm keeps of some families in more bits; no scheme of its own.
static MLX_EIGHT: Scheme = Scheme {
    name: "mlx",
    about: "MLX affine",
    layout: &layouts::MLX,
    bits: 8,
    groups: &[64],
    zeros: Zeros::Always,
    codes: Codes::Affine,
    rule: Rule::Mlx,
    methods: WITH_HQQ,
    stays: Stays::Mlx,
    config: Config::Mlx,
    rows_multiple: 1,
    ..INT4
};

/// Every scheme of safetensors. GGUF's are block types of its own.
pub static SCHEMES: &[Scheme] = &[
    INT4,
    Scheme {
        name: "gptq",
        about: "GPTQ",
        layout: &layouts::GPTQ,
        other_layout: Some(&layouts::GPTQ_V2),
        zeros: Zeros::OtherLayout,
        scales: Scales::Half,
        rule: Rule::Gptq,
        config: Config::Gptq,
        ..INT4
    },
    Scheme {
        name: "awq",
        about: "AWQ, GEMM order",
        layout: &layouts::AWQ,
        groups: &[128, 32, 64],
        zeros: Zeros::Always,
        scales: Scales::Half,
        rule: Rule::Awq,
        config: Config::Awq,
        ..INT4
    },
    Scheme {
        name: "mlx",
        about: "MLX affine",
        layout: &layouts::MLX,
        groups: &[64, 32, 128],
        zeros: Zeros::Always,
        codes: Codes::Affine,
        rule: Rule::Mlx,
        methods: WITH_HQQ,
        stays: Stays::Mlx,
        config: Config::Mlx,
        rows_multiple: 1,
        ..INT4
    },
    Scheme {
        name: "torchao",
        about: "torchao Int4Tensor, weights only",
        layout: &layouts::TORCHAO_INT4,
        groups: &[128, 64, 32],
        zeros: Zeros::Always,
        codes: Codes::Centred,
        methods: WITH_HQQ,
        config: Config::TorchAo,
        rows_multiple: 1,
        experts: false,
        ..INT4
    },
    Scheme {
        name: "torchao-int8",
        about: "torchao int4 in bytes, which runs on a CPU",
        layout: &layouts::TORCHAO_BYTES,
        config: Config::TorchAo,
        rows_multiple: 1,
        experts: false,
        ..INT4
    },
    Scheme {
        name: "nf4",
        about: "bitsandbytes NF4",
        layout: &layouts::NF4,
        groups: &[64],
        zeros: Zeros::Never,
        codes: Codes::Table(&layouts::NF4_TABLE),
        scales: Scales::F32,
        config: Config::BitsAndBytes,
        rows_multiple: 1,
        ..INT4
    },
    Scheme {
        name: "mxfp4",
        about: "compressed-tensors MXFP4",
        layout: &layouts::COMPRESSED_MXFP4,
        groups: &[32],
        zeros: Zeros::Never,
        codes: Codes::E2M1,
        scales: Scales::Exponent,
        config: Config::Compressed("mxfp4-pack-quantized"),
        rows_multiple: 1,
        ..INT4
    },
    Scheme {
        name: "nvfp4a16",
        about: "compressed-tensors NVFP4, weights only",
        layout: &layouts::COMPRESSED_NVFP4,
        groups: &[16],
        zeros: Zeros::Never,
        codes: Codes::E2M1,
        scales: Scales::Eighth,
        config: Config::Compressed("nvfp4-pack-quantized"),
        rows_multiple: 1,
        ..INT4
    },
    Scheme {
        name: "fp8",
        about: "compressed-tensors float-quantized",
        layout: &layouts::COMPRESSED_FLOATS,
        bits: 8,
        groups: &[CHANNEL],
        zeros: Zeros::Never,
        codes: Codes::Float(DType::F8E4M3),
        config: Config::Compressed("float-quantized"),
        rows_multiple: 1,
        ..INT4
    },
    Scheme {
        name: "fp8-block",
        about: "compressed-tensors float-quantized",
        layout: &layouts::COMPRESSED_FLOATS,
        bits: 8,
        groups: &[128],
        group_rows: 128,
        zeros: Zeros::Never,
        codes: Codes::Float(DType::F8E4M3),
        config: Config::Compressed("float-quantized"),
        rows_multiple: 128,
        ..INT4
    },
];

/// What a person asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// The method.
    pub method: Option<Method>,
    /// Neighbours that share a scale; [`CHANNEL`] for whole rows.
    pub group: Option<u64>,
    /// Symmetric, or not.
    pub symmetric: Option<bool>,
    /// Scales of either sign.
    pub signed_scales: bool,
    /// The scheme's other layout.
    pub gptq_v2: bool,
}

/// A scheme with every choice made.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    /// The scheme.
    pub scheme: &'static Scheme,
    /// How a matrix is held.
    pub layout: &'static Layout,
    /// How scale, zero point and codes are chosen.
    pub method: Method,
    /// Neighbours that share a scale; [`CHANNEL`] for whole rows.
    pub group: u64,
    /// Whether there are no zero points.
    pub symmetric: bool,
    /// Whether scales may be negative.
    pub signed_scales: bool,
    /// What weights that are kept are in, and scales where the scheme leaves it to the model.
    pub dtype: DType,
}

/// A method's name.
pub fn method_name(method: Method) -> &'static str {
    match method {
        Method::Rtn => "rtn",
        Method::Search => "search",
        Method::Hqq => "hqq",
    }
}

/// What a model can be quantised into.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Named {
    /// Matrices as codes and scales, in safetensors.
    Matrices(&'static Scheme),
    /// ggml's blocks, in a GGUF.
    Blocks(&'static Mixture),
}

impl Named {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Named::Matrices(scheme) => scheme.name,
            Named::Blocks(mixture) => mixture.name,
        }
    }
}

/// All names, those of safetensors first.
pub fn names() -> impl Iterator<Item = &'static str> {
    SCHEMES.iter().map(|s| s.name).chain(MIXTURES.iter().map(|m| m.name))
}

/// What a name stands for, in letters of either case.
///
/// # Errors
/// Usage, which lists the names there are.
pub fn find(name: &str) -> Result<Named> {
    let lower = name.to_ascii_lowercase();
    let scheme = SCHEMES.iter().find(|s| s.name == lower).map(Named::Matrices);
    scheme.or_else(|| Mixture::find(&lower).map(Named::Blocks)).ok_or_else(|| {
        let names: Vec<&str> = names().collect();
        Error::usage(format!("there is no scheme `{}`", Shown(name)))
            .hint(format!("the schemes are {}", names.join(", ")))
    })
}

impl Scheme {
    /// Every choice, from what was asked for, the model's float type and whether it has experts.
    ///
    /// # Errors
    /// Usage: a group size, zero points, a method or a layout that the scheme does not have.
    pub fn settle(&'static self, asked: &Asked, dtype: DType, experts: bool) -> Result<Settled> {
        let name = self.name;
        let group = match asked.group {
            None => self.groups.first().copied().unwrap_or(CHANNEL),
            Some(group) if self.groups.contains(&group) => group,
            Some(group) => {
                let sizes: Vec<String> = self
                    .groups
                    .iter()
                    .map(|&g| if g == CHANNEL { "channel".to_owned() } else { g.to_string() })
                    .collect();
                let asked = if group == CHANNEL { "channel".to_owned() } else { group.to_string() };
                return Err(Error::usage(format!("`{name}` has no group size {asked}"))
                    .hint(format!("it has {}", sizes.join(", "))));
            }
        };
        let layout = match (asked.gptq_v2, self.other_layout) {
            (false, _) => self.layout,
            (true, Some(other)) => other,
            (true, None) => {
                return Err(Error::usage(format!("`{name}` has no second version"))
                    .hint("--gptq-v2 is for --scheme gptq"));
            }
        };
        let symmetric = match (self.zeros, asked.symmetric) {
            (Zeros::Never, Some(false)) => {
                return Err(Error::usage(format!("`{name}` has no zero points: it is never asymmetric")));
            }
            (Zeros::Always, Some(true)) => {
                return Err(Error::usage(format!("`{name}` always has zero points: it is never symmetric"))
                    .hint("--scheme int4 --symmetric, or --scheme gptq"));
            }
            (Zeros::OtherLayout, Some(false)) if !asked.gptq_v2 => {
                return Err(Error::usage(format!(
                    "`{name}` version 1 stores zero points less one and cannot hold a zero"
                ))
                .hint("--gptq-v2 holds them all; newer vLLM takes neither version asymmetric"));
            }
            (Zeros::Never, _) => true,
            (Zeros::Always, _) => false,
            (Zeros::OtherLayout, asked) => asked.unwrap_or(true),
            (Zeros::Dense, asked) => asked.unwrap_or(experts),
        };
        if asked.signed_scales && (self.codes != Codes::Integers || asked.symmetric == Some(false)) {
            return Err(Error::usage("signed scales are for symmetric integers")
                .hint("--scheme int4 --symmetric --signed-scales"));
        }
        if asked.signed_scales && self.zeros == Zeros::Always {
            return Err(Error::usage(format!("`{name}` is never symmetric, which signed scales are for")));
        }
        let symmetric = symmetric || asked.signed_scales;
        let method = match asked.method {
            None => self.methods.first().copied().unwrap_or(Method::Rtn),
            Some(method) if self.methods.contains(&method) => method,
            Some(method) => {
                let names: Vec<&str> = self.methods.iter().map(|&m| method_name(m)).collect();
                let error = Error::usage(format!("`{name}` has no method `{}`", method_name(method)));
                let why = if method == Method::Hqq { "; hqq needs a zero point that is a float" } else { "" };
                return Err(error.hint(format!("it has {}{why}", names.join(", "))));
            }
        };
        if experts && !self.experts {
            return Err(Error::unsupported(format!("mixtures of experts are not written as `{name}`"))
                .hint("--scheme int4, or --scheme awq"));
        }
        let signed_scales = asked.signed_scales;
        Ok(Settled { scheme: self, layout, method, group, symmetric, signed_scales, dtype })
    }
}

impl Settled {
    /// Neighbours that share a scale in a matrix of so many columns.
    fn group_columns(&self, columns: u64) -> u64 {
        if self.group == CHANNEL { columns.max(1) } else { self.group }
    }

    /// Why a matrix of these sizes cannot be held so; `None` where it can.
    pub fn misfit(&self, rows: u64, columns: u64) -> Option<String> {
        let group = self.group_columns(columns);
        if self.layout.flat {
            let size = rows.saturating_mul(columns);
            return (!size.is_multiple_of(group))
                .then(|| format!("its {size} numbers are no multiple of {group}"));
        }
        if !columns.is_multiple_of(group) {
            return Some(format!("rows of {columns} are no multiple of the group of {group}"));
        }
        let shared = 32 / u64::from(self.scheme.bits.max(1));
        if self.scheme.bits < 8 && !columns.is_multiple_of(shared) {
            return Some(format!("rows of {columns} do not fill words of {shared}"));
        }
        let multiple = self.scheme.rows_multiple;
        (!rows.is_multiple_of(multiple)).then(|| format!("{rows} rows are no multiple of {multiple}"))
    }

    /// Whether zero points are written: GPTQ's and torchao's readers want them, though they be all the same.
    fn has_zeros(&self) -> bool {
        !self.symmetric || matches!(self.scheme.config, Config::Gptq | Config::TorchAo)
    }

    /// What mlx-lm gives eight bits.
    pub fn in_eight_bits(&self) -> Settled {
        let group = MLX_EIGHT.groups.first().copied().unwrap_or(CHANNEL);
        Settled { scheme: &MLX_EIGHT, group, ..self.clone() }
    }

    /// How a matrix is held.
    pub fn packing(&self, rows: u64, columns: u64) -> Packing {
        Packing {
            layout: self.layout,
            bits: self.scheme.bits,
            rows,
            columns,
            group_rows: self.scheme.group_rows,
            group_columns: self.group_columns(columns),
            has_zeros: self.has_zeros(),
            dtype: match self.scheme.scales {
                Scales::Half => DType::F16,
                _ => self.dtype,
            },
        }
    }

    /// How a matrix is quantised. `importance`: how much the error of each column counts.
    pub fn quantiser(&self, columns: u64, importance: Option<Arc<[f32]>>) -> Quantiser {
        let bits = self.scheme.bits;
        let kind = match self.scheme.codes {
            Codes::Integers if self.symmetric => Kind::Symmetric { bits, signed_scales: self.signed_scales },
            Codes::Integers => Kind::Asymmetric { bits },
            Codes::Affine => Kind::Affine { bits },
            Codes::Centred => Kind::Centred { bits },
            Codes::Table(table) => Kind::Table(table),
            Codes::E2M1 => Kind::E2M1,
            Codes::Float(dtype) => Kind::Float(dtype),
        };
        let scale = match self.scheme.scales {
            Scales::Model => ScaleType::Float(self.dtype),
            Scales::Half => ScaleType::Float(DType::F16),
            Scales::F32 => ScaleType::Float(DType::F32),
            Scales::Exponent => ScaleType::E8M0,
            // What it is follows from the numbers of all matrices that share it, and is set when they have been seen.
            Scales::Eighth => ScaleType::E4M3 { global: 1.0 },
        };
        Quantiser {
            grid: Grid { kind, scale },
            method: self.method,
            rule: self.scheme.rule,
            group_rows: self.scheme.group_rows as usize,
            group_columns: usize::try_from(self.group_columns(columns)).unwrap_or(usize::MAX),
            importance,
        }
    }

    /// Which of the layout's faces are written.
    pub fn writes(&self, face: usize) -> bool {
        use crate::transform::packing::Content;
        match self.layout.faces.get(face).map(|f| f.content) {
            // GPTQ's readers want the column's groups, whatever they are.
            Some(Content::Groups) => self.scheme.config == Config::Gptq,
            Some(Content::Zeros) => self.has_zeros(),
            Some(_) => true,
            None => false,
        }
    }

    /// What shares a scale, in words.
    pub fn group_text(&self) -> String {
        match (self.group, self.scheme.group_rows) {
            (CHANNEL, _) => "per channel".to_owned(),
            (columns, 1) => format!("group {columns}"),
            (columns, rows) => format!("blocks of {rows} × {columns}"),
        }
    }

    /// What it is, in a few words.
    pub fn text(&self) -> String {
        let mut words = vec![self.scheme.about.to_owned(), self.group_text()];
        if self.scheme.codes == Codes::Integers {
            words.push(match (self.symmetric, self.signed_scales) {
                (true, true) => "symmetric, signed scales".to_owned(),
                (true, false) => "symmetric".to_owned(),
                (false, _) => "asymmetric".to_owned(),
            });
        }
        if self.scheme.other_layout == Some(self.layout) {
            words.push("version 2".to_owned());
        }
        words.join(", ")
    }
}
