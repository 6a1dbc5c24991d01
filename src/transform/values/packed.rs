//! Which tensors are a matrix in one of the packings, and which sizes it has.
//!
//! A row names the ending of the codes, what they are written in, and a tensor that must stand beside them. What sizes the
//! matrix has is then told from the codes, the scales and the config together; every face of the layout must be there with
//! the type and the shape that follow from them ([`Packing::face_shape`]), so that nothing is read which does not fit.

use super::{Finder, Role};
use crate::checkpoint::{Container, Tensor};
use crate::dtype::{DType, element_count};
use crate::error::{Error, Result};
use crate::text::Shown;
use crate::transform::packing::faces::State;
use crate::transform::packing::{
    Axes, Content, Layout, NESTED_BLOCK, PackedTensors, Packing, Stored, layouts,
};
use crate::transform::recipe::{Source, Value};
use serde_json::Value as Json;
use std::sync::Arc;

/// How a matrix is held, and its value's shape.
type Told = (Packing, Vec<u64>);

/// How codes are found.
struct Row {
    /// How the name of the codes ends.
    codes: &'static str,
    /// What they are written in.
    dtypes: &'static [DType],
    /// What stands in place of the ending in the name of a tensor that must be there too.
    partner: &'static str,
    /// What the partner must be written in; empty for anything.
    partner_dtypes: &'static [DType],
    /// Tells the packing.
    tell: fn(&Finder<'_>, &Found<'_>) -> Result<Told>,
}

const WORDS: &[DType] = &[DType::I32, DType::U32];
const BYTES: &[DType] = &[DType::U8, DType::I8];
const SCALES: &[DType] = &[DType::F32, DType::BF16, DType::F16];

/// The first row that fits counts.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row { codes: ".qweight",       dtypes: WORDS,         partner: ".qzeros",              partner_dtypes: WORDS,         tell: gptq_or_awq },
    Row { codes: ".weight_packed", dtypes: &[DType::U8],  partner: ".weight_global_scale", partner_dtypes: &[DType::F32], tell: nvfp4 },
    Row { codes: ".weight_packed", dtypes: WORDS,         partner: ".weight_scale",        partner_dtypes: &[],           tell: compressed },
    Row { codes: ".weight",        dtypes: BYTES,         partner: ".weight.absmax",       partner_dtypes: &[],           tell: bitsandbytes },
    Row { codes: ".weight",        dtypes: &[DType::I8],  partner: ".SCB",                 partner_dtypes: &[DType::F32], tell: bitsandbytes_bytes },
    Row { codes: ".weight",        dtypes: &[DType::I8],  partner: ".weight_scale",        partner_dtypes: SCALES,        tell: compressed_bytes },
    Row { codes: ".weight",        dtypes: &[DType::U32], partner: ".scales",              partner_dtypes: SCALES,        tell: mlx },
    Row { codes: "._weight_qdata", dtypes: BYTES,         partner: "._weight_scale",       partner_dtypes: SCALES,        tell: torchao },
];

/// The end of the name of bitsandbytes' mark for the order of int8 codes.
const BNB_FORMAT: &str = ".weight_format";
/// How the name of the JSON ends that bitsandbytes writes for each matrix.
const BNB_STATES: &[(&str, bool)] =
    &[(".weight.quant_state.bitsandbytes__nf4", true), (".weight.quant_state.bitsandbytes__fp4", false)];

/// Codes that were found.
pub(super) struct Found<'a> {
    /// The codes.
    codes: &'a Tensor,
    /// Their name without the ending.
    base: &'a str,
    /// The tensor beside them that says what they are.
    partner: &'a Tensor,
}

/// What the config says of a scheme, as far as reading needs it.
#[derive(Debug, Clone, Default)]
pub(super) struct Scheme {
    /// `quantization_config`, or `quantization` (MLX).
    json: Option<Json>,
}

impl Scheme {
    pub(super) fn new(json: Option<&Json>) -> Scheme {
        Scheme { json: json.cloned() }
    }

    fn get(&self, key: &str) -> Option<&Json> {
        self.json.as_ref()?.get(key).filter(|v| !v.is_null())
    }

    fn text(&self, key: &str) -> Option<String> {
        Some(self.get(key)?.as_str()?.to_ascii_lowercase())
    }

    /// A whole number under a key; refused where it is something else.
    fn count(&self, key: &str) -> Result<Option<i64>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value.as_i64().map(Some).ok_or_else(|| {
                Error::bad_input(format!(
                    "has `{key}` = `{}` in its quantisation config, where a whole number is needed",
                    Shown(&value.to_string())
                ))
                .file("config.json")
            }),
        }
    }

    /// The weights of each of compressed-tensors' groups.
    fn groups(&self) -> Vec<&Json> {
        let groups = self.get("config_groups").and_then(Json::as_object);
        groups.into_iter().flat_map(|g| g.values()).filter_map(|g| g.get("weights")).collect()
    }
}

impl Finder<'_> {
    /// Gives the tensors of a packed matrix their roles, where `index` is its codes.
    pub(super) fn look_for_packed(&mut self, index: usize) -> Result<()> {
        let table = self.table;
        let tensor = &table.tensors[index];
        let file = table.files.get(tensor.at.span.file.index());
        if file.is_some_and(|file| file.container == Container::Gguf) {
            return Ok(());
        }
        let partner = |row: &Row| {
            let base = tensor.name.strip_suffix(row.codes).filter(|_| row.dtypes.contains(&tensor.dtype))?;
            let partner = self.get(&format!("{base}{}", row.partner))?;
            let partner = &table.tensors[partner];
            let fits = row.partner_dtypes.is_empty() || row.partner_dtypes.contains(&partner.dtype);
            fits.then_some(Found { codes: tensor, base, partner })
        };
        let Some((row, found)) = ROWS.iter().find_map(|row| Some((row, partner(row)?))) else {
            return Ok(());
        };
        let told = (row.tell)(self, &found).map_err(|e| match e.tensor_name().or(e.file_name()) {
            Some(_) => e,
            None => e.tensor(&tensor.name),
        })?;
        let (packing, shape) = told;
        let base = found.base.to_owned();
        self.take(index, &base, packing, shape)
    }

    /// Checks every face and takes them.
    fn take(&mut self, codes: usize, base: &str, packing: Packing, shape: Vec<u64>) -> Result<()> {
        let table = self.table;
        let wanted = element_count(&shape).zip(packing.rows.checked_mul(packing.columns));
        if wanted.is_none_or(|(a, b)| a != b) || packing.rows == 0 || packing.columns == 0 {
            return Err(Error::bad_input(format!("would be a matrix of shape {shape:?}"))
                .tensor(&table.tensors[codes].name));
        }
        let mut tensors = Vec::with_capacity(packing.layout.faces.len());
        for (number, face) in packing.layout.faces.iter().enumerate() {
            let name = format!("{base}{}", face.suffix);
            let needed = match face.content {
                Content::Zeros => packing.has_zeros,
                Content::Groups => false,
                _ => packing.layout.needs(number),
            };
            let found = match face.content {
                Content::Codes => Some(codes),
                _ => self.get(&name),
            };
            let Some(found) = found else {
                if needed {
                    return Err(Error::bad_input(format!(
                        "is quantised as {} and needs `{}`, which is not there",
                        packing.layout.name,
                        Shown(&name)
                    ))
                    .tensor(&table.tensors[codes].name)
                    .hint("the model is perhaps incomplete; or include that tensor too"));
                }
                tensors.push(None);
                continue;
            };
            if face.content == Content::Zeros && !packing.has_zeros {
                return Err(Error::bad_input(format!(
                    "is symmetric by its config, and has zero points: `{}`",
                    Shown(&name)
                ))
                .tensor(&table.tensors[codes].name));
            }
            self.check_face(&packing, number, &table.tensors[found], &table.tensors[codes], &shape)?;
            tensors.push(Some(found));
        }
        let name = format!("{base}.weight");
        if let Some(plain) = self.get(&name).filter(|&plain| plain != codes) {
            return Err(Error::bad_input(format!(
                "are the codes of a matrix that is here as plain numbers too: `{}`",
                Shown(&table.tensors[plain].name)
            ))
            .tensor(&table.tensors[codes].name)
            .hint("one of them is left over; --exclude takes it away"));
        }
        for &tensor in tensors.iter().flatten() {
            if !matches!(self.roles[tensor], Role::Plain) {
                return Err(Error::bad_input(format!(
                    "belongs to two matrices; one is `{}`",
                    Shown(&table.tensors[codes].name)
                ))
                .tensor(&table.tensors[tensor].name));
            }
            self.roles[tensor] = Role::Scales;
        }
        if let Some(mark) = self.get(&format!("{base}{BNB_FORMAT}")) {
            self.roles[mark] = Role::Scales;
        }
        let dtype = packing.dtype;
        let source = Source::Packed(Arc::new(PackedTensors { packing, tensors }));
        self.roles[codes] = Role::Codes(Value { name, dtype, shape, source });
        Ok(())
    }

    /// Whether a face has the type and the shape that its matrix asks for.
    fn check_face(
        &self,
        packing: &Packing,
        face: usize,
        tensor: &Tensor,
        codes: &Tensor,
        shape: &[u64],
    ) -> Result<()> {
        let facts = &packing.layout.faces[face];
        let dtype = packing.face_dtype(face);
        let alike = |a: DType, b: DType| {
            a == b || [WORDS, BYTES].iter().any(|group| group.contains(&a) && group.contains(&b))
        };
        let types_fit = match facts.stored {
            Stored::Exponent => matches!(tensor.dtype, DType::U8 | DType::F8E8M0),
            _ => alike(dtype, tensor.dtype),
        };
        let wanted = packing.face_shape(face);
        // A stack has its outer dimensions in each face.
        let outer = shape.len().saturating_sub(2);
        let mut found = tensor.shape.clone();
        if outer > 0 && found.len() == outer + 2 && found[..outer] == shape[..outer] {
            let rows = found[..=outer].iter().try_fold(1u64, |n, &d| n.checked_mul(d));
            found = vec![rows.unwrap_or(u64::MAX), found[outer + 1]];
        }
        let count = element_count(&found);
        let shapes_fit = match facts.content {
            // How much JSON there is depends on what it says; it is read by itself.
            Content::State => true,
            // A scale for a row, or for all, is written with and without a dimension of one.
            Content::Scales | Content::Global if packing.groups() == 1 => {
                count == element_count(&wanted) && found.iter().filter(|&&n| n != 1).count() <= 1
            }
            // A row or a column of bytes.
            Content::Codes if facts.axes == Axes::Single => count == element_count(&wanted),
            _ => found == wanted,
        };
        if types_fit && shapes_fit {
            return Ok(());
        }
        let names = (&*tensor.name, &*codes.name);
        let message = match names.0 == names.1 {
            true => format!(
                "is `{}` of shape {:?}, where {} of a matrix {shape:?} is `{dtype}` of shape {wanted:?}",
                tensor.dtype, tensor.shape, packing.layout.name
            ),
            false => format!(
                "is `{}` of shape {:?} and its codes `{}` have shape {:?}; {} of a matrix {shape:?} needs `{dtype}` of shape {wanted:?} here",
                tensor.dtype,
                tensor.shape,
                Shown(names.1),
                codes.shape,
                packing.layout.name
            ),
        };
        Err(Error::bad_input(message).tensor(&tensor.name))
    }

    fn beside(&self, found: &Found<'_>, suffix: &str) -> Option<&Tensor> {
        self.get(&format!("{}{suffix}", found.base)).map(|i| &self.table.tensors[i])
    }

    /// The type of the model's other weights.
    fn model_dtype(&self) -> DType {
        self.said.dtype.unwrap_or(DType::BF16)
    }

    /// The bytes of a small tensor, which say what others are.
    fn bytes(&self, tensor: &Tensor) -> Result<Vec<u8>> {
        (self.peek)(tensor).map_err(|e| if e.tensor_name().is_some() { e } else { e.tensor(&tensor.name) })
    }
}

/// Both shapes, where they do not fit.
fn misfit(found: &Found<'_>, other: &Tensor, why: &str) -> Error {
    Error::bad_input(format!(
        "has shape {:?} and `{}` has {:?}: {why}",
        found.codes.shape,
        Shown(&other.name),
        other.shape
    ))
    .tensor(&found.codes.name)
}

fn unsupported_bits(bits: u64, scheme: &str, read: &str) -> Error {
    Error::unsupported(format!("is {scheme} with codes of {bits} bits, where hoist reads {read}"))
}

/// The last two dimensions.
fn matrix<'a>(found: &Found<'a>) -> Result<(&'a [u64], u64, u64)> {
    match &found.codes.shape[..] {
        [outer @ .., rows, columns] => Ok((outer, *rows, *columns)),
        _ => Err(misfit(found, found.partner, "codes have two dimensions or more")),
    }
}

fn only_two<'a>(found: &Found<'a>) -> Result<(u64, u64)> {
    match matrix(found)? {
        ([], rows, columns) => Ok((rows, columns)),
        _ => Err(misfit(found, found.partner, "codes have two dimensions")),
    }
}

/// Rows of the scales that share one, and columns, from a shape that counts rows first.
fn grouped(found: &Found<'_>, rows: u64, columns: u64) -> Result<(u64, u64)> {
    let scales = found.partner;
    match scales.shape[..] {
        [] | [1] | [1, 1] => Ok((rows, columns)),
        [n] if n == rows => Ok((1, columns)),
        [n, groups] if n == rows && groups > 0 && columns.is_multiple_of(groups) => Ok((1, columns / groups)),
        _ => {
            Err(misfit(found, scales, &format!("scales of {rows} × {columns} numbers are [{rows}, groups]")))
        }
    }
}

/// The scheme's own group size, where it says one: it must be the one that shapes show.
fn check_group(scheme: &Scheme, found: &Found<'_>, columns: u64, group: u64) -> Result<()> {
    let Some(said) = scheme.count("group_size")? else { return Ok(()) };
    let wanted = u64::try_from(said).ok().filter(|&n| n > 0 && n < columns).unwrap_or(columns);
    if wanted != group {
        return Err(misfit(
            found,
            found.partner,
            &format!("that is groups of {group}, where the config has `group_size` = {said}"),
        ));
    }
    Ok(())
}

fn gptq_or_awq(finder: &Finder<'_>, found: &Found<'_>) -> Result<Told> {
    let scheme = &finder.said.scheme;
    let (first, second) = only_two(found)?;
    let scales = finder.beside(found, ".scales").ok_or_else(|| {
        Error::bad_input(format!("needs `{}.scales`, which is not there", Shown(found.base)))
    })?;
    let not_both = || misfit(found, scales, "neither GPTQ nor AWQ has such");
    let [groups, rows] = scales.shape[..] else { return Err(not_both()) };
    let zeros = match found.partner.shape[..] {
        [n, words] if n == groups => words,
        _ => return Err(misfit(found, found.partner, &format!("zero points of {groups} groups are needed"))),
    };
    if rows == 0 || groups == 0 || zeros == 0 || first == 0 || second == 0 {
        return Err(not_both());
    }
    // Both write the zero points of all rows in as many words; codes lie along the columns or along the rows.
    let bits = |words: u64| words.checked_mul(32).filter(|n| n.is_multiple_of(rows)).map(|n| n / rows);
    let bits = bits(zeros)
        .ok_or_else(|| misfit(found, found.partner, &format!("zero points of {rows} rows are needed")))?;
    let is_gptq = second == rows;
    let name = if is_gptq { "GPTQ" } else { "AWQ" };
    if !(matches!(bits, 4 | 8) && is_gptq || bits == 4) {
        return Err(unsupported_bits(bits, name, if is_gptq { "4 and 8" } else { "4" }));
    }
    if !is_gptq && second != zeros {
        return Err(not_both());
    }
    let method = scheme.text("quant_method");
    let fits = match method.as_deref() {
        None => true,
        Some("gptq" | "auto_gptq") => is_gptq,
        Some("awq") => !is_gptq,
        Some(other) => {
            return Err(Error::unsupported(format!(
                "has the tensors of {name} and is `{}` by its config, which hoist does not know",
                Shown(other)
            )));
        }
    };
    if !fits {
        return Err(misfit(found, scales, &format!("that is {name}, and the config says otherwise")));
    }
    if let Some(said) = scheme.count("bits")?
        && said as u64 != bits
        && scheme.get("dynamic").is_none()
    {
        return Err(misfit(
            found,
            found.partner,
            &format!("that is codes of {bits} bits, where the config has `bits` = {said}"),
        ));
    }
    let (layout, columns): (&'static Layout, u64) = if is_gptq {
        let format = scheme.text("checkpoint_format").or_else(|| scheme.text("format"));
        let layout = match format.as_deref() {
            None | Some("gptq") => &layouts::GPTQ,
            Some("gptq_v2") => &layouts::GPTQ_V2,
            Some(other) => {
                return Err(Error::unsupported(format!(
                    "is GPTQ in the format `{}`, where hoist reads `gptq` and `gptq_v2`",
                    Shown(other)
                )));
            }
        };
        (layout, first.checked_mul(32 / bits).ok_or_else(not_both)?)
    } else {
        if let Some(other) = scheme.text("version").filter(|v| v != "gemm") {
            return Err(Error::unsupported(format!(
                "is AWQ in the version `{}`, where hoist reads `gemm`",
                Shown(&other)
            )));
        }
        (&layouts::AWQ, first)
    };
    // A last group may be shorter where the config says how long groups are.
    let said = scheme.count("group_size")?.and_then(|n| u64::try_from(n).ok()).filter(|&n| n > 0);
    let said = said.filter(|&n| columns.div_ceil(n) == groups);
    let group = match said {
        Some(group) => group.min(columns),
        None if columns.is_multiple_of(groups) => columns / groups,
        None => return Err(misfit(found, scales, &format!("{columns} columns make no {groups} groups"))),
    };
    if scheme.get("dynamic").is_none() && said.is_none() {
        check_group(scheme, found, columns, group)?;
    }
    if let Some(of) = finder.beside(found, ".g_idx").filter(|of| is_gptq && of.shape != [columns]) {
        return Err(misfit(found, of, &format!("a group for each of {columns} columns is needed")));
    }
    let dtype = match scales.dtype {
        DType::BF16 => DType::BF16,
        _ => DType::F16,
    };
    let packing = Packing {
        layout,
        bits: bits as u32,
        rows,
        columns,
        group_rows: 1,
        group_columns: group,
        has_zeros: true,
        dtype,
    };
    Ok((packing, vec![rows, columns]))
}

fn compressed(finder: &Finder<'_>, found: &Found<'_>) -> Result<Told> {
    let scheme = &finder.said.scheme;
    let (rows, words) = only_two(found)?;
    let of_type = |w: &&&Json| w.get("type").and_then(Json::as_str).is_none_or(|t| t == "int");
    let groups: Vec<&Json> = scheme.groups();
    let groups: Vec<&&Json> = groups.iter().filter(of_type).collect();
    let mut widths: Vec<u64> = groups.iter().filter_map(|w| w.get("num_bits")?.as_u64()).collect();
    widths.sort_unstable();
    widths.dedup();
    if widths.is_empty() {
        widths = vec![4, 8];
    }
    if let Some(&bits) = widths.iter().find(|bits| !matches!(bits, 4 | 8)) {
        return Err(unsupported_bits(bits, layouts::COMPRESSED.name, "4 and 8"));
    }
    let fits = |bits: u64, columns: u64| columns.checked_mul(bits).map(|n| n.div_ceil(32)) == Some(words);
    let answer = match finder.beside(found, ".weight_shape") {
        Some(tensor) => {
            let no = || misfit(found, tensor, "the sizes of a matrix as two `i64` are needed");
            if tensor.dtype != DType::I64 || tensor.shape != [2] {
                return Err(no());
            }
            let bytes = finder.bytes(tensor)?;
            let [Ok(said_rows), Ok(columns)] = [0, 8].map(|at| {
                let number = bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(i64::from_le_bytes);
                u64::try_from(number.unwrap_or(-1))
            }) else {
                return Err(no());
            };
            let bits = widths.iter().copied().find(|&bits| said_rows == rows && fits(bits, columns));
            let bits = bits.ok_or_else(|| {
                misfit(found, tensor, &format!("it says that the matrix is [{said_rows}, {columns}]"))
            })?;
            (bits, columns)
        }
        None => match widths[..] {
            [bits] => (bits, words.checked_mul(32 / bits).unwrap_or(0)),
            _ => {
                return Err(Error::bad_input(format!(
                    "needs `{}.weight_shape` or a config that says how many bits codes have",
                    Shown(found.base)
                )));
            }
        },
    };
    let (bits, columns) = answer;
    let (group_rows, group_columns) = grouped(found, rows, columns)?;
    let sizes: Vec<u64> =
        groups.iter().filter_map(|w| w.get("group_size")?.as_u64()).filter(|&n| n > 0).collect();
    if !sizes.is_empty() && group_columns != columns && !sizes.contains(&group_columns) {
        return Err(misfit(
            found,
            found.partner,
            &format!("that is groups of {group_columns}, where the config has {sizes:?}"),
        ));
    }
    let symmetric = |w: &&&Json| w.get("symmetric").and_then(Json::as_bool);
    let has_zeros = match finder.beside(found, ".weight_zero_point") {
        Some(_) => groups.is_empty() || groups.iter().any(|w| symmetric(w) != Some(true)),
        None => !groups.is_empty() && groups.iter().all(|w| symmetric(w) == Some(false)),
    };
    let packing = Packing {
        layout: &layouts::COMPRESSED,
        bits: bits as u32,
        rows,
        columns,
        group_rows,
        group_columns,
        has_zeros,
        dtype: found.partner.dtype,
    };
    Ok((packing, vec![rows, columns]))
}

/// Signed bytes, whatever the bits of codes: those of four are the same numbers as those of eight.
fn compressed_bytes(finder: &Finder<'_>, found: &Found<'_>) -> Result<Told> {
    let (rows, columns) = only_two(found)?;
    let (group_rows, group_columns) = grouped(found, rows, columns)?;
    let has_zeros = finder.beside(found, ".weight_zero_point").is_some();
    let packing = Packing {
        layout: &layouts::COMPRESSED_BYTES,
        bits: 8,
        rows,
        columns,
        group_rows,
        group_columns,
        has_zeros,
        dtype: found.partner.dtype,
    };
    Ok((packing, vec![rows, columns]))
}

fn nvfp4(finder: &Finder<'_>, found: &Found<'_>) -> Result<Told> {
    let (rows, bytes) = only_two(found)?;
    let columns = bytes.checked_mul(2).ok_or_else(|| Error::bad_input("has a shape that overflows"))?;
    let packing = Packing {
        layout: &layouts::COMPRESSED_NVFP4,
        bits: 4,
        rows,
        columns,
        group_rows: 1,
        group_columns: 16,
        has_zeros: false,
        dtype: finder.model_dtype(),
    };
    if !columns.is_multiple_of(16) {
        return Err(misfit(found, found.partner, "NVFP4 has groups of 16"));
    }
    Ok((packing, vec![rows, columns]))
}

fn bitsandbytes(finder: &Finder<'_>, found: &Found<'_>) -> Result<Told> {
    let state = BNB_STATES.iter().find_map(|&(end, nf4)| Some((finder.beside(found, end)?, nf4)));
    let Some((tensor, nf4)) = state else {
        return Err(Error::bad_input(format!(
            "needs `{}.weight.quant_state.bitsandbytes__nf4` (or `__fp4`), which is not there",
            Shown(found.base)
        )));
    };
    let state = State::parse(&finder.bytes(tensor)?).map_err(|e| e.tensor(&tensor.name))?;
    if state.quant_type != if nf4 { "nf4" } else { "fp4" } {
        return Err(Error::bad_input(format!("says that its codes are `{}`", Shown(&state.quant_type)))
            .tensor(&tensor.name));
    }
    if state.nested_block.is_some_and(|n| n != NESTED_BLOCK) {
        return Err(Error::unsupported(format!("has `nested_blocksize` other than {NESTED_BLOCK}"))
            .tensor(&tensor.name));
    }
    let layout: &'static Layout = match (nf4, state.nested_block) {
        (true, None) => &layouts::NF4,
        (true, Some(_)) => &layouts::NF4_DOUBLE,
        (false, None) => &layouts::FP4,
        (false, Some(_)) => &layouts::FP4_DOUBLE,
    };
    let sizes = state.shape.clone();
    let rows = sizes.split_last().and_then(|(_, outer)| element_count(outer));
    let (Some(rows), Some(&columns)) = (rows, sizes.last()) else {
        return Err(Error::bad_input("says nothing of its matrix's shape").tensor(&tensor.name));
    };
    if element_count(&sizes).is_none_or(|n| n == 0) {
        return Err(
            Error::bad_input(format!("says that its matrix has shape {sizes:?}")).tensor(&tensor.name)
        );
    }
    let packing = Packing {
        layout,
        bits: 4,
        rows,
        columns,
        group_rows: 1,
        group_columns: state.block,
        has_zeros: false,
        dtype: state.dtype,
    };
    Ok((packing, sizes))
}

fn bitsandbytes_bytes(finder: &Finder<'_>, found: &Found<'_>) -> Result<Told> {
    let (rows, columns) = only_two(found)?;
    if let Some(mark) = finder.beside(found, BNB_FORMAT) {
        // Zero: rows as they are. Other orders are those of old GPU kernels.
        let bytes = if mark.size_bytes() <= 8 { finder.bytes(mark)? } else { vec![1] };
        if bytes.iter().any(|&b| b != 0) {
            return Err(Error::unsupported("holds int8 codes in another order than rows").tensor(&mark.name));
        }
    }
    let packing = Packing {
        layout: &layouts::BNB_INT8,
        bits: 8,
        rows,
        columns,
        group_rows: 1,
        group_columns: columns,
        has_zeros: false,
        dtype: finder.said.dtype.unwrap_or(DType::F16),
    };
    Ok((packing, vec![rows, columns]))
}

fn mlx(finder: &Finder<'_>, found: &Found<'_>) -> Result<Told> {
    let scheme = &finder.said.scheme;
    let (outer, rows, words) = matrix(found)?;
    // A module's own entry stands before what holds for all.
    let own = scheme.get(found.base).filter(|v| v.is_object());
    let own = own.map(|v| Scheme::new(Some(v)));
    let scheme = own.as_ref().unwrap_or(scheme);
    if let Some(mode) = scheme.text("mode").filter(|m| m != "affine") {
        return Err(Error::unsupported(format!(
            "is MLX in the mode `{}`, where hoist reads `affine`",
            Shown(&mode)
        )));
    }
    let bits = scheme.count("bits")?.ok_or_else(|| {
        Error::bad_input("looks like MLX, and no config says how many bits its codes have")
            .hint("config.json should have `quantization`")
    })?;
    let bits = u64::try_from(bits).unwrap_or(0);
    if !matches!(bits, 2..=6 | 8) {
        return Err(unsupported_bits(bits, "MLX", "2, 3, 4, 5, 6 and 8"));
    }
    let numbers = words.checked_mul(32).filter(|n| n.is_multiple_of(bits)).map(|n| n / bits);
    let groups = found.partner.shape.last().copied().unwrap_or(0);
    let columns = numbers.filter(|n| groups > 0 && n.is_multiple_of(groups)).ok_or_else(|| {
        misfit(found, found.partner, &format!("{words} words of {bits}-bit codes make no {groups} groups"))
    })?;
    let group = columns / groups;
    check_group(scheme, found, columns, group)?;
    let all = element_count(outer).and_then(|n| n.checked_mul(rows));
    let packing = Packing {
        layout: &layouts::MLX,
        bits: bits as u32,
        rows: all.ok_or_else(|| Error::bad_input("has a shape that overflows"))?,
        columns,
        group_rows: 1,
        group_columns: group,
        has_zeros: true,
        dtype: found.partner.dtype,
    };
    Ok((packing, outer.iter().copied().chain([rows, columns]).collect()))
}

fn torchao(finder: &Finder<'_>, found: &Found<'_>) -> Result<Told> {
    if let Some(tensor) = finder.beside(found, "._weight_act_pre_scale") {
        return Err(Error::unsupported(format!(
            "has `{}`, by which activations are multiplied first; hoist does not",
            Shown(&tensor.name)
        )));
    }
    let (rows, width) = only_two(found)?;
    let zeros = finder.beside(found, "._weight_zero_point");
    let scales = found.partner;
    // `Int4Tensor` has its scales turned and float zero points.
    let is_int4 = zeros.is_some_and(|z| SCALES.contains(&z.dtype));
    let (layout, columns, group): (&'static Layout, _, _) = if is_int4 {
        let columns = width.checked_mul(2).unwrap_or(0);
        match scales.shape[..] {
            [groups, n] if n == rows && groups > 0 && columns.is_multiple_of(groups) => {
                (&layouts::TORCHAO_INT4, columns, (1, columns / groups))
            }
            _ => return Err(misfit(found, scales, "scales of an `Int4Tensor` are [groups, rows]")),
        }
    } else {
        (&layouts::TORCHAO_BYTES, width, grouped(found, rows, width)?)
    };
    let packing = Packing {
        layout,
        bits: if is_int4 { 4 } else { 8 },
        rows,
        columns,
        group_rows: group.0,
        group_columns: group.1,
        has_zeros: zeros.is_some(),
        dtype: scales.dtype,
    };
    Ok((packing, vec![rows, columns]))
}
