//! Model families as rows: what a tensor is, by its name, and how it is cut among ranks.
//!
//! Families differ in names far more than in kinds of layers, so a row is one *layer's* name ([`Row::pattern`]), with the
//! group it belongs to and its cut; what stands after the layer (`weight`, `bias`, a scale) is a [`Part`]. Hugging Face's
//! names are in `hf.rs`, GGUF's in `gguf.rs`. A new family is new rows and its list of real names in `testdata/names/`.
//!
//! A pattern's segments are separated by dots: `#` is a number, `a|b` either of two. A prefix that only says where the
//! language model sits (`model.`, `transformer.`) is dropped before the rows are asked. All rows are expanded once into
//! a map, so that a name costs one look-up, whatever the number of rows.
//!
//! Those rows say how a tensor is cut. What a tensor of one side is on the other is said family by family in
//! `families.rs`, and carried out by `translate.rs`.

pub mod families;
pub mod forward;
mod gguf;
mod hf;
pub mod keys;
pub mod model_config;
pub mod parallel;
pub mod translate;

use std::collections::HashMap;
use std::sync::LazyLock;

/// What a tensor is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// Token, position and type embeddings.
    Embedding,
    /// Attention.
    Attention,
    /// The dense feed-forward part.
    Mlp,
    /// Experts, shared experts and routers.
    Experts,
    /// Normalisation.
    Norms,
    /// From the residual stream to the vocabulary, or to classes.
    Head,
    /// What no row knows.
    Other,
}

impl Group {
    /// Every group, in the order of a model.
    pub const ALL: [Group; 7] = [
        Group::Embedding,
        Group::Attention,
        Group::Mlp,
        Group::Experts,
        Group::Norms,
        Group::Head,
        Group::Other,
    ];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Group::Embedding => "embedding",
            Group::Attention => "attention",
            Group::Mlp => "mlp",
            Group::Experts => "experts",
            Group::Norms => "norms",
            Group::Head => "head",
            Group::Other => "other",
        }
    }
}

/// What a cut must keep together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Units {
    /// Nothing: equal pieces.
    Even,
    /// Neighbours in twos: gate and up rows that alternate.
    Pairs,
    /// Query heads.
    Q,
    /// Key/value heads; with fewer heads than ranks, several ranks get the same one.
    Kv,
    /// All queries, then all keys, then all values.
    Qkv,
    /// For each key/value head its queries, its key, its value.
    QkvByGroup,
    /// Gate, then up.
    Halves,
    /// GGUF's `ffn_up`: in some families gate, then up.
    Up,
}

/// How a layer's weight is cut among the ranks of a tensor-parallel group, after Megatron: a layer that is cut by its
/// outputs needs no exchange before the next one, which is cut by its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Every rank has all of it.
    Whole,
    /// Each rank computes part of the outputs; the bias is cut too.
    Out(Units),
    /// Each rank sees part of the inputs; the bias is whole on every rank, and is to be added by one of them.
    In(Units),
    /// No cut is known that computes the same; the reason.
    Refused(&'static str),
    /// One head's size is whole; anything longer spans heads and is refused.
    OneHead,
}

/// Which dimension is which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `[out, in]`.
    Linear,
    /// `[in, out]`, as GPT-2 and `Conv1D` have it.
    Conv,
    /// `[experts, out, in]`.
    Stacked,
    /// `[experts, in, out]`.
    StackedConv,
    /// `[heads, …]`: cut along the first dimension.
    PerHead,
}

/// What a name says after its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The matrix, or quantised values and scales laid out like it.
    Weight,
    /// One value an output.
    Bias,
    /// A scalar or a note that every rank needs.
    Whole,
    /// A packing whose dimensions are not the layer's.
    Packed,
}

/// The last segment of a name, and what it is.
const PARTS: &[(&str, Part)] = &[
    ("weight", Part::Weight),
    ("weight_packed", Part::Weight),
    ("weight_scale", Part::Weight),
    ("weight_scale_inv", Part::Weight),
    ("weight_zero_point", Part::Packed),
    ("bias", Part::Bias),
    ("gamma", Part::Weight),
    ("beta", Part::Weight),
    ("weight_shape", Part::Whole),
    ("weight_scale_2", Part::Whole),
    ("weight_global_scale", Part::Whole),
    ("input_scale", Part::Whole),
    ("input_global_scale", Part::Whole),
    ("k_scale", Part::Whole),
    ("v_scale", Part::Whole),
    ("scale", Part::Whole),
    ("qweight", Part::Packed),
    ("qzeros", Part::Packed),
    ("scales", Part::Packed),
    ("biases", Part::Packed),
    ("_weight_qdata", Part::Packed),
    ("_weight_scale", Part::Packed),
    ("_weight_zero_point", Part::Packed),
    ("g_idx", Part::Packed),
];

/// One layer's name and what is known of it.
#[derive(Debug)]
pub struct Row {
    /// The name without its prefix and part.
    pub pattern: &'static str,
    /// What it belongs to.
    pub group: Group,
    /// How it is cut.
    pub cut: Cut,
    /// How its weight is laid out.
    pub form: Form,
    /// What the name is when nothing follows it.
    pub bare: Part,
    /// The families that lay it out otherwise, and how.
    pub except: Option<(&'static [&'static str], Cut, Form)>,
}

const fn row(pattern: &'static str, group: Group, cut: Cut, form: Form) -> Row {
    Row { pattern, group, cut, form, bare: Part::Weight, except: None }
}

/// Where a language model may sit in its checkpoint; the longest that fits is dropped.
const PREFIXES: &[&str] = &[
    "model.language_model.model.",
    "language_model.model.",
    "model.language_model.",
    "model.decoder.",
    "language_model.",
    "model.",
    "decoder.",
    "transformer.",
    "gpt_neox.",
    "bert.",
    "roberta.",
    "distilbert.transformer.",
    "distilbert.",
    "nomic_bert.",
];

static INDEX: LazyLock<HashMap<String, &'static Row>> = LazyLock::new(|| {
    let mut index = HashMap::new();
    for row in rows() {
        for name in expand(row.pattern) {
            index.insert(name, row);
        }
    }
    index
});

/// Every row.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    hf::ROWS.iter().chain(gguf::ROWS)
}

/// The names that a pattern stands for, `#` left in place.
fn expand(pattern: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    for segment in pattern.split('.') {
        names = names
            .iter()
            .flat_map(|name| {
                let dot = if name.is_empty() { "" } else { "." };
                segment.split('|').map(move |choice| format!("{name}{dot}{choice}"))
            })
            .collect();
    }
    names
}

/// The row of a tensor's name and the part it is, if any row knows it.
pub fn find(name: &str) -> Option<(&'static Row, Part)> {
    // A model of several components names them before a slash; the transformer inside is named as ever.
    let name = name.rsplit('/').next().unwrap_or(name);
    let whole = canonical(name);
    let short = PREFIXES.iter().find_map(|p| whole.strip_prefix(p)).unwrap_or(&whole);
    if let Some(row) = INDEX.get(short) {
        return Some((row, row.bare));
    }
    let (layer, last) = short.rsplit_once('.')?;
    let &(_, part) = PARTS.iter().find(|(word, _)| *word == last)?;
    INDEX.get(layer).map(|row| (*row, part))
}

/// What a tensor is part of, by its name.
pub fn group(name: &str) -> Group {
    find(name).map_or(Group::Other, |(row, _)| row.group)
}

/// The name with each number that is a whole segment as `#`.
fn canonical(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for (i, segment) in name.split('.').enumerate() {
        if i > 0 {
            out.push('.');
        }
        let number = !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_digit());
        out.push_str(if number { "#" } else { segment });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_rows_share_a_name() {
        let expanded: usize = rows().map(|r| expand(r.pattern).len()).sum();
        assert_eq!(expanded, INDEX.len());
        for (i, (word, _)) in PARTS.iter().enumerate() {
            assert!(PARTS[..i].iter().all(|(w, _)| w != word), "{word}");
        }
    }

    #[test]
    fn names_are_found() {
        for (name, expected) in [
            ("model.layers.31.self_attn.q_proj.weight", Group::Attention),
            ("language_model.model.layers.0.mlp.up_proj.weight_scale_inv", Group::Mlp),
            ("h.0.attn.c_attn.bias", Group::Attention),
            ("text_encoder/model.layers.0.mlp.up_proj.weight", Group::Mlp),
            ("blk.3.ffn_down_exps.weight", Group::Experts),
            ("lm_head.weight", Group::Head),
            ("vision_tower.encoder.layers.0.self_attn.q_proj.weight", Group::Other),
            ("model.layers.x.self_attn.q_proj.weight", Group::Other),
            ("", Group::Other),
            ("...", Group::Other),
        ] {
            assert_eq!(group(name), expected, "{name}");
        }
    }
}
