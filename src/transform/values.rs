//! What the tensors of a table mean. A plain tensor is a value; codes and scales that belong together are one; scales of
//! activations are none. Codes are never passed on as if they were numbers: those whose scale is missing, and those of a
//! scheme that hoist cannot read yet, are refused by name.
//!
//! Who belongs to whom is said by names, in rows. Which elements share a scale is said by the shapes of both and, where
//! those allow more than one answer, by the config. Whether there are codes at all is said by the tensors: a config that
//! speaks of a scheme which the tensors do not show is stale, and noted.

mod packed;

use crate::checkpoint::{Checkpoint, Container, Tensor};
use crate::dtype::{Class, DType, element_count};
use crate::error::{Error, Result};
use crate::text::Shown;
use crate::transform::config::Description;
use crate::transform::recipe::{LeftOut, Source, Value};
use crate::transform::view::View;
use hashbrown::HashMap;
use packed::Scheme;
use serde_json::Value as Json;

/// What the tensors of a table mean.
#[derive(Debug, Clone, Default)]
pub struct Values {
    /// The values, in the table's order (that of the codes, where scales belong to them).
    pub values: Vec<Value>,
    /// Tensors that are no value.
    pub left_out: Vec<LeftOut>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Float codes of eight bits.
const F8: &[DType] = &[DType::F8E4M3, DType::F8E5M2, DType::F8E4M3FNUZ, DType::F8E5M2FNUZ];

/// What scales of float codes may be written in.
const SCALES: &[DType] = &[DType::F32, DType::BF16, DType::F16];

/// Names of float codes and their scales: how the scale's name ends, how the codes' name ends in its place, and whether
/// the name can be nothing but a scale, so that one without codes is an error. The longest ending that fits counts.
#[rustfmt::skip]
const PAIRS: &[(&str, &str, bool)] = &[
    ("_scale_inv",     "",        true),  // DeepSeek and transformers' fp8; stacked experts too
    (".weight_scale",  ".weight", true),  // compressed-tensors, ModelOpt, fbgemm
    (".qscale_weight", ".weight", true),  // Mistral's own layout
    (".scale_weight",  ".weight", true),  // ComfyUI
    ("_scale",         "",        false), // stacked experts of Llama 4
];

/// Ends of the names of scales for activations and caches, which float weights do not need; and a mark that says no more.
const ACTIVATION_SCALES: &[&str] = &[
    ".input_scale",
    ".input_scale_ub",
    ".input_global_scale",
    ".input_zero_point",
    ".output_scale",
    ".q_scale",
    ".k_scale",
    ".v_scale",
    ".kv_scale",
    ".prob_scale",
    ".activation_scale",
    "_activation_scale",
    ".qscale_act",
    ".scale_input",
];

/// Ends of the names of tensors that only say how others are to be read: ComfyUI's mark.
const MARKS: &[&str] = &["scaled_fp8"];

/// Schemes that are recognised and not read.
struct Unread {
    /// How the name of the codes ends.
    codes: &'static str,
    /// What the codes are written in; empty for anything.
    dtypes: &'static [DType],
    /// What stands in place of the ending in the name of a tensor that must be there too; empty for none.
    partner: &'static str,
    /// What people call it.
    scheme: &'static str,
}

const BYTES: &[DType] = &[DType::U8, DType::I8];
const WORDS: &[DType] = &[DType::I32, DType::U32];
const INTEGERS: &[DType] = &[DType::U8, DType::I8, DType::I32, DType::U32];

/// Looked at where no packing fits ([`packed`]); the first row that fits counts.
#[rustfmt::skip]
const UNREAD: &[Unread] = &[
    Unread { codes: ".qweight",       dtypes: &[],           partner: ".scales",              scheme: "packed integers without zero points" },
    Unread { codes: ".weight_packed", dtypes: WORDS,         partner: "",                     scheme: "packed integers without scales" },
    Unread { codes: ".weight",        dtypes: BYTES,         partner: ".SCB",                 scheme: "bitsandbytes of another form" },
    Unread { codes: ".weight",        dtypes: BYTES,         partner: ".weight_scale_2",      scheme: "NVFP4 of ModelOpt" },
    Unread { codes: ".weight",        dtypes: &[DType::U32], partner: ".scales",              scheme: "MLX with scales of another type" },
    Unread { codes: ".weight",        dtypes: &[DType::I8],  partner: ".weight_scale",        scheme: "integers of 8 bits with scales of another type" },
    Unread { codes: ".weight",        dtypes: &[DType::U8],  partner: ".weight_scale",        scheme: "packed codes" },
    Unread { codes: ".weight",        dtypes: BYTES,         partner: ".weight_scales",       scheme: "EETQ" },
    Unread { codes: "._weight_qdata", dtypes: &[],           partner: "",                     scheme: "torchao in another form than int4 and int8" },
    Unread { codes: ".W_q",           dtypes: INTEGERS,      partner: "",                     scheme: "HQQ" },
    Unread { codes: ".Qidxs",         dtypes: &[],           partner: "",                     scheme: "QuIP#" },
    Unread { codes: ".codes",         dtypes: &[],           partner: ".codebooks",           scheme: "AQLM" },
    Unread { codes: ".q_weight",      dtypes: &[],           partner: ".q_scale",             scheme: "EXL2" },
    Unread { codes: ".trellis",       dtypes: &[],           partner: "",                     scheme: "EXL3" },
];

/// Names of OCP microscaling codes and their scales: the codes' ending, the scales' ending, what stands in their place
/// in the value's name, and bytes of codes in the last dimension of a tensor that has one for each 32 numbers.
#[rustfmt::skip]
const MICROSCALED: &[(&str, &str, &str, bool)] = &[
    ("_blocks",        "_scales",       "",        true),  // gpt-oss: [.., rows, groups, 16] and [.., rows, groups]
    (".weight_packed", ".weight_scale", ".weight", false), // compressed-tensors: [.., rows, columns / 2], [.., rows, groups]
];

/// Bytes of codes that share an MX scale.
const MX_BYTES: u64 = 16;
/// Numbers that share an MX scale.
const MX_ELEMENTS: u64 = 32;

/// Block sizes that files have where nothing says otherwise.
const DEFAULT_BLOCK: (u64, u64) = (128, 128);

/// A value in the order in which a checkpoint without its packing holds it. gpt-oss packs its experts `[experts, out, in]`
/// and has them `[experts, in, out]` as plain tensors.
pub fn unpacked(table: &Checkpoint, value: &Value) -> Result<View> {
    let view = value.view()?;
    match value.source {
        Source::Mxfp4 { blocks, .. }
            if view.shape.len() == 3
                && table.tensors.get(blocks).is_some_and(|t| t.name.ends_with(TURNED_BLOCKS)) =>
        {
            view.swap(1, 2).map_err(|e| e.tensor(&value.name))
        }
        _ => Ok(view),
    }
}

/// The end of the names of blocks that are packed in another order than plain weights have.
const TURNED_BLOCKS: &str = "_blocks";

/// Each tensor as it is: what a conversion that changes only the container works on.
pub fn raw(table: &Checkpoint) -> Vec<Value> {
    (0..table.tensors.len()).map(|i| Value::of(table, i)).collect()
}

/// The bytes of a tensor: a table holds none, and some packings say in a small tensor what the others are.
pub type Peek<'a> = &'a dyn Fn(&Tensor) -> Result<Vec<u8>>;

/// [`values_with`], where no bytes are at hand.
///
/// # Errors
/// As there; Unsupported too where bytes are needed.
pub fn values(table: &Checkpoint, config: Option<&Json>) -> Result<Values> {
    values_with(table, config, &|_| Err(Error::unsupported("would have to be read, to know what others are")))
}

/// What the tensors of a table mean: each plain tensor is a value; codes and scales that belong together are one.
/// `config` is the model's `config.json`.
///
/// # Errors
/// BadInput, which names both: codes without their scale, a scale without its codes, shapes that do not fit each other.
/// Unsupported: codes of a scheme that hoist cannot read.
pub fn values_with(table: &Checkpoint, config: Option<&Json>, peek: Peek<'_>) -> Result<Values> {
    let names: HashMap<&str, usize> =
        table.tensors.iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
    let said = Said::new(config);
    let mut finder = Finder { table, names, said, peek, roles: vec![Role::Plain; table.tensors.len()] };
    // Schemes first, so that what belongs to one of them is not taken for a scale that lost its codes.
    for index in 0..table.tensors.len() {
        finder.look_for_packed(index)?;
    }
    for (tensor, role) in table.tensors.iter().zip(&finder.roles) {
        if let Role::Plain = role {
            finder.refuse_unread(tensor)?;
        }
    }
    for index in 0..table.tensors.len() {
        finder.look_at(index)?;
    }
    finder.finish()
}

/// What the config says of codes and scales.
#[derive(Default)]
struct Said {
    /// The scheme.
    method: Option<String>,
    /// Rows and columns that share a scale.
    block: Option<(u64, u64)>,
    /// The type that the model's other weights have.
    dtype: Option<DType>,
    /// What else is said of the scheme.
    scheme: Scheme,
}

impl Said {
    fn new(config: Option<&Json>) -> Said {
        let Some(config) = config else { return Said::default() };
        let description = Description::from_config(config);
        let places = [Some(config), config.get("text_config"), config.get("llm_config")];
        let keys = ["quantization_config", "compression_config", "quantization"];
        let scheme =
            places.into_iter().flatten().find_map(|place| keys.iter().find_map(|key| place.get(key)));
        Said {
            method: description.quantisation.map(|q| q.method),
            block: scheme.and_then(block_of),
            dtype: description.dtype.filter(|dtype| matches!(dtype, DType::F32 | DType::F16 | DType::BF16)),
            scheme: Scheme::new(scheme),
        }
    }
}

/// `weight_block_size`, or what compressed-tensors says of its first group's weights.
fn block_of(scheme: &Json) -> Option<(u64, u64)> {
    let pair = |value: &Json| {
        let sizes: Vec<u64> = value.as_array()?.iter().map_while(Json::as_u64).collect();
        match sizes[..] {
            [rows, columns] if rows > 0 && columns > 0 => Some((rows, columns)),
            _ => None,
        }
    };
    let weights = || scheme.get("config_groups")?.as_object()?.values().next()?.get("weights");
    scheme
        .get("weight_block_size")
        .and_then(pair)
        .or_else(|| weights()?.get("block_structure").and_then(pair))
        .or_else(|| Some((1, weights()?.get("group_size")?.as_u64().filter(|&n| n > 0)?)))
}

/// What a tensor is for.
#[derive(Debug, Clone)]
enum Role {
    /// A value by itself.
    Plain,
    /// Codes, which are this value with their scales.
    Codes(Value),
    /// The scales of codes.
    Scales,
}

struct Finder<'a> {
    table: &'a Checkpoint,
    names: HashMap<&'a str, usize>,
    said: Said,
    peek: Peek<'a>,
    roles: Vec<Role>,
}

impl Finder<'_> {
    fn get(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }

    /// Refuses codes of a scheme that is not read yet, and blocks that are not all of their numbers.
    fn refuse_unread(&self, tensor: &Tensor) -> Result<()> {
        if self.is_gguf(tensor) {
            // Blocks hold their scales; but a whole tensor may have another, with which engines multiply.
            let scale = tensor.name.strip_suffix(".weight").map(|base| format!("{base}.scale"));
            let is_block = tensor.dtype.facts().class == Class::Block;
            return match scale.filter(|_| is_block).and_then(|name| self.get(&name)) {
                Some(scale) => Err(Error::unsupported(format!(
                    "has a scale for the whole tensor, `{}`, with which hoist cannot dequantise it yet",
                    Shown(&self.table.tensors[scale].name)
                ))
                .tensor(&tensor.name)),
                None => Ok(()),
            };
        }
        let fits = |row: &&Unread| {
            let Some(base) = tensor.name.strip_suffix(row.codes) else { return false };
            (row.dtypes.is_empty() || row.dtypes.contains(&tensor.dtype))
                && (row.partner.is_empty() || self.get(&format!("{base}{}", row.partner)).is_some())
        };
        let Some(row) = UNREAD.iter().find(fits) else { return Ok(()) };
        Err(Error::unsupported(format!("is quantised as {}, which hoist cannot dequantise", row.scheme))
            .tensor(&tensor.name)
            .hint("convert the model's unquantised original"))
    }

    fn is_gguf(&self, tensor: &Tensor) -> bool {
        let file = self.table.files.get(tensor.at.span.file.index());
        file.is_some_and(|file| file.container == Container::Gguf)
    }

    /// Gives one tensor, and its partner, a role. Float codes are found from their scale.
    fn look_at(&mut self, index: usize) -> Result<()> {
        let table = self.table;
        let tensor = &table.tensors[index];
        if self.is_gguf(tensor) || !matches!(self.roles[index], Role::Plain) {
            return Ok(());
        }
        for &(codes_end, scales_end, value_end, grouped) in MICROSCALED {
            if let Some(base) = tensor.name.strip_suffix(codes_end).filter(|_| tensor.dtype == DType::U8) {
                let scales = format!("{base}{scales_end}");
                let Some(scales) = self.get(&scales) else { return Err(no_scale(tensor, &[scales])) };
                let value = microscaled(table, index, scales, format!("{base}{value_end}"), grouped)?;
                return self.pair(
                    index,
                    scales,
                    Value { dtype: self.said.dtype.unwrap_or(DType::BF16), ..value },
                );
            }
            if let Some(base) = tensor.name.strip_suffix(scales_end).filter(|_| is_e8m0(tensor)) {
                let codes = format!("{base}{codes_end}");
                match self.get(&codes) {
                    Some(_) => return Ok(()),
                    None if grouped => return Err(no_codes(tensor, &codes)),
                    None => {}
                }
            }
        }
        for &(scale_end, codes_end, only_scale) in PAIRS {
            let Some(base) = tensor.name.strip_suffix(scale_end) else { continue };
            let codes = format!("{base}{codes_end}");
            let found = self.get(&codes);
            match found {
                Some(codes) if F8.contains(&table.tensors[codes].dtype) => {
                    let value = self.scaled(codes, index)?;
                    return self.pair(codes, index, value);
                }
                Some(codes) if only_scale => {
                    let codes = &table.tensors[codes];
                    return Err(Error::bad_input(format!(
                        "is `{}`, which needs no scale, and has one: `{}`",
                        codes.dtype,
                        Shown(&tensor.name)
                    ))
                    .tensor(&codes.name));
                }
                None if only_scale => return Err(no_codes(tensor, &codes)),
                _ => {}
            }
        }
        Ok(())
    }

    fn pair(&mut self, codes: usize, scales: usize, value: Value) -> Result<()> {
        if !matches!(self.roles[codes], Role::Plain) {
            return Err(Error::bad_input(format!(
                "has more than one scale; one is `{}`",
                Shown(&self.table.tensors[scales].name)
            ))
            .tensor(&self.table.tensors[codes].name));
        }
        self.roles[codes] = Role::Codes(value);
        self.roles[scales] = Role::Scales;
        Ok(())
    }

    /// Float codes and their scale as one value.
    fn scaled(&self, codes: usize, scales: usize) -> Result<Value> {
        let (codes_index, scales_index) = (codes, scales);
        let (codes, scales) = (&self.table.tensors[codes], &self.table.tensors[scales]);
        if !SCALES.contains(&scales.dtype) {
            return Err(Error::unsupported(format!(
                "holds scales of `{}`, where hoist reads `f32`, `bf16` and `f16`",
                scales.dtype
            ))
            .tensor(&scales.name));
        }
        let misfit = || {
            Error::bad_input(format!(
                "has shape {:?}, to which its scale `{}` of shape {:?} does not fit",
                codes.shape,
                Shown(&scales.name),
                scales.shape
            ))
            .tensor(&codes.name)
        };
        let [.., rows, columns] = codes.shape[..] else { return Err(misfit()) };
        // Scales with fewer dimensions belong to the outer ones.
        let mut shape = scales.shape.clone();
        shape.resize(shape.len().max(codes.shape.len()), 1);
        let (whole_rows, whole_columns) = (rows.max(1), columns.max(1));
        let answers = [
            self.said.block,
            Some((whole_rows, whole_columns)),
            Some((1, whole_columns)),
            Some((whole_rows, 1)),
            Some(DEFAULT_BLOCK),
        ];
        let fits = |&(block_rows, block_columns): &(u64, u64)| {
            let mut wanted = codes.shape.clone();
            if let [.., r, c] = &mut wanted[..] {
                (*r, *c) = (rows.div_ceil(block_rows), columns.div_ceil(block_columns));
            }
            wanted == shape
        };
        let (block_rows, block_columns) = answers.into_iter().flatten().find(fits).ok_or_else(misfit)?;
        let widened =
            self.said.dtype.or(Some(scales.dtype).filter(|&d| d != DType::F32)).unwrap_or(DType::BF16);
        Ok(Value {
            name: codes.name.clone(),
            dtype: widened,
            shape: codes.shape.clone(),
            source: Source::Scaled { codes: codes_index, scales: scales_index, block_rows, block_columns },
        })
    }

    /// The values, when every tensor has its role.
    fn finish(self) -> Result<Values> {
        let mut out = Values::default();
        let paired = self.roles.iter().any(|role| matches!(role, Role::Codes(_)));
        let quantised = paired || self.said.method.is_some();
        for (index, (role, tensor)) in self.roles.into_iter().zip(&self.table.tensors).enumerate() {
            match role {
                Role::Codes(value) => out.values.push(value),
                Role::Scales => {}
                Role::Plain
                    if quantised && ACTIVATION_SCALES.iter().any(|end| tensor.name.ends_with(end)) =>
                {
                    out.left_out.push(LeftOut { name: tensor.name.clone(), why: "activation scale" });
                }
                Role::Plain if F8.contains(&tensor.dtype) && is_mark(&tensor.name) => {
                    out.left_out.push(LeftOut { name: tensor.name.clone(), why: "mark of a scheme" });
                }
                // Where nothing is quantised these are plain numbers, that were made small by a cast.
                Role::Plain if F8.contains(&tensor.dtype) && quantised => {
                    let base = tensor.name.as_str();
                    return Err(no_scale(tensor, &[format!("{base}_scale_inv"), format!("{base}_scale")]));
                }
                Role::Plain => out.values.push(Value::of(self.table, index)),
            }
        }
        if let (Some(method), false) = (&self.said.method, paired) {
            out.notes.push(format!(
                "the config speaks of `{}`, and no tensor is quantised so: each is taken as it is",
                Shown(method)
            ));
        }
        Ok(out)
    }
}

/// Whether the name's last part is a mark.
fn is_mark(name: &str) -> bool {
    name.rsplit(['.', '/']).next().is_some_and(|last| MARKS.contains(&last))
}

fn is_e8m0(tensor: &Tensor) -> bool {
    matches!(tensor.dtype, DType::U8 | DType::F8E8M0)
}

/// Microscaling codes and scales as one value. `grouped`: the codes have a dimension of 16 bytes for each scale.
fn microscaled(
    table: &Checkpoint,
    codes: usize,
    scales: usize,
    name: String,
    grouped: bool,
) -> Result<Value> {
    let (c, s) = (&table.tensors[codes], &table.tensors[scales]);
    let misfit = || {
        let last = if grouped { "[.., groups, 16]" } else { "[.., 16 × groups]" };
        Error::bad_input(format!(
            "has shape {:?} of `{}` and its scales `{}` have {:?} of `{}`, where {last} and [.., groups] of `u8` are needed",
            c.shape,
            c.dtype,
            Shown(&s.name),
            s.shape,
            s.dtype
        ))
        .tensor(&c.name)
    };
    let outer = match (&c.shape[..], grouped) {
        ([outer @ .., bytes], true) if *bytes == MX_BYTES => outer.to_vec(),
        ([outer @ .., bytes], false) if bytes.is_multiple_of(MX_BYTES) => {
            outer.iter().copied().chain([bytes / MX_BYTES]).collect()
        }
        _ => return Err(misfit()),
    };
    if outer != s.shape || !is_e8m0(s) {
        return Err(misfit());
    }
    let mut shape = outer;
    let groups = shape.pop().ok_or_else(misfit)?;
    shape.push(groups.checked_mul(MX_ELEMENTS).ok_or_else(misfit)?);
    element_count(&shape).ok_or_else(misfit)?;
    Ok(Value { name, dtype: DType::BF16, shape, source: Source::Mxfp4 { blocks: codes, scales } })
}

fn no_scale(codes: &Tensor, names: &[String]) -> Error {
    let names: Vec<String> = names.iter().map(|name| format!("`{}`", Shown(name))).collect();
    Error::bad_input(format!(
        "holds codes of `{}` and its scale is not there: {}",
        codes.dtype,
        names.join(" or ")
    ))
    .tensor(&codes.name)
    .hint("the model is perhaps incomplete; or include the scale too")
}

fn no_codes(scale: &Tensor, codes: &str) -> Error {
    Error::bad_input(format!("is the scale of `{}`, which is not there", Shown(codes)))
        .tensor(&scale.name)
        .hint("the model is perhaps incomplete; or include the weight too")
}
