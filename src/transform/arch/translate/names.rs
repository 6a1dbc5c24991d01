//! Which rows a name stands in, and the names that rows stand for.
//!
//! A family's rows are put into a map once, so that a name costs one look-up. Checkpoints differ in what they write
//! before a name (`model.`, `language_model.model.`, nothing), so a name is also looked up without each known prefix.

use crate::transform::arch::families::{Ends, Family, Head, Row, Way};
use std::collections::HashMap;

/// Which names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Hf,
    Gguf,
}

/// A row that a name stands in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hit {
    pub row: &'static Row,
    /// Its place among the family's rows.
    pub number: usize,
    /// Whether the name is that of the bias beside the row's weight.
    pub bias: bool,
}

/// Where a name belongs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found<'a> {
    pub hits: &'a [Hit],
    pub layer: Option<u64>,
    pub expert: Option<u64>,
}

/// A family's rows by one side's names.
pub(super) struct Index {
    side: Side,
    by_name: HashMap<String, Vec<Hit>>,
}

/// What may stand before a language model's names.
const PREFIXES: &[&str] = &[
    "model.language_model.model.",
    "language_model.model.",
    "model.language_model.",
    "model.text_model.",
    "text_model.",
    "language_model.",
    "model.",
    "transformer.",
    "bert.",
    "roberta.",
    "distilbert.transformer.",
    "distilbert.",
    "nomic_bert.",
];

/// Ends of names of older checkpoints, and what they are now.
const OLD_ENDS: &[(&str, &str)] = &[(".gamma", ".weight"), (".beta", ".bias")];

impl Index {
    pub(super) fn new(rows: impl Iterator<Item = &'static Row>, side: Side) -> Index {
        let other = if side == Side::Hf { Way::Back } else { Way::In };
        Index::of(rows.enumerate().filter(|(_, row)| row.way != other), side)
    }

    /// With the rows that are only read the other way.
    pub(super) fn both_ways(rows: impl Iterator<Item = &'static Row>, side: Side) -> Index {
        Index::of(rows.enumerate(), side)
    }

    fn of(rows: impl Iterator<Item = (usize, &'static Row)>, side: Side) -> Index {
        let mut by_name: HashMap<String, Vec<Hit>> = HashMap::new();
        for (number, row) in rows {
            for bias in biases(row.ends) {
                let mut name = format!("{}{}", pattern(row, side), end(row.ends, bias));
                if side == Side::Hf {
                    name = bare(&name).to_owned();
                }
                let hit = Hit { row, number, bias };
                // `transformers` writes fused experts without an end, and others with one.
                if side == Side::Hf && row.ends == Ends::Bare && row.gguf.ends_with(".weight") {
                    by_name.entry(format!("{name}.weight")).or_default().push(hit);
                }
                by_name.entry(name).or_default().push(hit);
            }
        }
        Index { side, by_name }
    }

    /// One more name of a checkpoint's tensor for a row.
    pub(super) fn add(&mut self, name: &str, hit: Hit) {
        self.by_name.entry(bare(name).to_owned()).or_default().push(hit);
    }

    /// The rows that `name` stands in; all of them have its layer and expert in common.
    pub(super) fn find(&self, name: &str) -> Option<Found<'_>> {
        let (canonical, layer, expert) = canonical(name)?;
        let look = |name: &str| self.by_name.get(name).map(|hits| Found { hits, layer, expert });
        if self.side == Side::Gguf {
            return look(&canonical);
        }
        let stem =
            OLD_ENDS.iter().find_map(|(old, new)| Some(format!("{}{new}", canonical.strip_suffix(old)?)));
        let canonical = stem.unwrap_or(canonical);
        look(&canonical)
            .or_else(|| PREFIXES.iter().find_map(|prefix| canonical.strip_prefix(prefix).and_then(look)))
    }

    #[cfg(test)]
    pub(super) fn names(&self) -> impl Iterator<Item = (&String, &Vec<Hit>)> {
        self.by_name.iter()
    }
}

/// Whether a row has a tensor, a bias, or both.
pub(super) fn biases(ends: Ends) -> impl Iterator<Item = bool> {
    let also = matches!(ends, Ends::MayBias | Ends::Bias);
    [Some(false), also.then_some(true)].into_iter().flatten()
}

fn end(ends: Ends, bias: bool) -> &'static str {
    match (ends, bias) {
        (Ends::Bare, _) => "",
        (_, false) => ".weight",
        (_, true) => ".bias",
    }
}

fn pattern(row: &Row, side: Side) -> &'static str {
    match side {
        Side::Hf => row.hf,
        Side::Gguf => row.gguf,
    }
}

/// A name without the prefix that says where the language model sits.
pub(super) fn bare(name: &str) -> &str {
    PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
}

/// One side's name of a row's tensor.
pub(super) fn filled(row: &Row, side: Side, bias: bool, layer: Option<u64>, expert: Option<u64>) -> String {
    let mut name = String::with_capacity(64);
    for c in pattern(row, side).chars() {
        match (c, layer, expert) {
            ('#', Some(n), _) | ('@', _, Some(n)) => name.push_str(&n.to_string()),
            _ => name.push(c),
        }
    }
    name.push_str(end(row.ends, bias));
    name
}

/// The name with its first number as `#` and its second as `@`, and both numbers. `None` for a name that cannot be one
/// of ours: a number with zeros before it would make two names of one tensor.
fn canonical(name: &str) -> Option<(String, Option<u64>, Option<u64>)> {
    let mut out = String::with_capacity(name.len());
    let mut numbers = [None, None];
    for (i, segment) in name.split('.').enumerate() {
        if i > 0 {
            out.push('.');
        }
        if segment.contains(['#', '@']) {
            return None;
        }
        let number = !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_digit());
        let free = numbers.iter().position(Option::is_none);
        match (number, free) {
            (true, Some(free)) => {
                if segment.len() > 1 && segment.starts_with('0') {
                    return None;
                }
                *numbers.get_mut(free)? = Some(segment.parse().ok()?);
                out.push(if free == 0 { '#' } else { '@' });
            }
            _ => out.push_str(segment),
        }
    }
    let [layer, expert] = numbers;
    Some((out, layer, expert))
}

/// The layer in a name whose rest no row knows.
pub(super) fn layer_of(name: &str) -> Option<u64> {
    let mut segments = name.split('.');
    segments.by_ref().find(|s| matches!(*s, "layers" | "layer" | "h" | "blk"))?;
    segments.next()?.parse().ok()
}

pub(super) const MTP: &str = "multi-token prediction";
pub(super) const TIED: &str = "tied to the embedding";
const VISION: &str = "vision tower";
const PROJECTOR: &str = "projector";
const AUDIO: &str = "audio";
const MASK: &str = "attention mask";
const ROTARY: &str = "made from the config";
const HEAD: &str = "pre-training head";

/// Segments of names that tell what is not the language model.
#[rustfmt::skip]
const PARTS: &[(&str, &[&str])] = &[
    (VISION, &["visual", "vision_tower", "vision_model", "vision_encoder", "vision_embed_tokens", "vit", "vpm", "siglip2",
        "image_newline", "view_seperator", "patch_embed"]),
    (PROJECTOR, &["multi_modal_projector", "multimodal_projector", "mm_projector", "projector", "vision_projection",
        "vision_adapter", "embed_vision", "resampler", "merger", "connector", "mlp1", "pre_mm_projector_norm"]),
    (AUDIO, &["audio_tower", "audio_encoder", "audio_model", "audio_projector", "embed_audio", "conformer",
        "speech_embeddings", "sound_encoder", "sound_projection", "talker", "token2wav", "code2wav"]),
    (MTP, &["mtp", "nextn"]),
];

/// Last segments that tell what no engine reads.
#[rustfmt::skip]
const LASTS: &[(&str, &[&str])] = &[
    (ROTARY, &["inv_freq", "position_ids", "token_type_ids"]),
    (MASK, &["masked_bias"]),
    ("activation scale", &["input_scale", "input_global_scale", "k_scale", "v_scale", "q_scale", "output_scale"]),
];

/// Beginnings of the names of the heads that encoders are trained with: BERT's, RoBERTa's, ModernBERT's, DistilBERT's.
const PRE_TRAINING: &[&str] = &[
    "cls.predictions.",
    "cls.seq_relationship.",
    "lm_head.",
    "decoder.",
    "vocab_transform.",
    "vocab_layer_norm.",
    "vocab_projector.",
];

/// Why a tensor that no row knows is left out; `None` where nobody knows it.
pub(super) fn left_out(name: &str, family: &Family, side: Side) -> Option<&'static str> {
    if side == Side::Gguf {
        let made = ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];
        return (made.contains(&name) || name.ends_with(".attn_rot_embd.weight")).then_some(ROTARY);
    }
    let named = |table: &[(&'static str, &[&str])], segment: &str| {
        table.iter().find(|(_, words)| words.contains(&segment)).map(|(why, _)| *why)
    };
    if let Some(why) = name.split('.').find_map(|segment| named(PARTS, segment)) {
        return Some(why);
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    if let Some(why) = named(LASTS, last) {
        return Some(why);
    }
    // gpt2's and its relatives' causal masks; `attn.bias` is nobody's bias.
    if name.ends_with(".attn.bias") || name.ends_with(".attention.bias") {
        return Some(MASK);
    }
    if family.head == Head::None {
        let name = bare(name);
        if name.starts_with("pooler.") {
            return Some("pooler");
        }
        if PRE_TRAINING.iter().any(|part| name.starts_with(part)) {
            return Some(HEAD);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::arch::families;

    #[test]
    fn no_two_rows_share_a_name_unless_they_share_its_tensor() {
        for family in families::all() {
            for side in [Side::Hf, Side::Gguf] {
                for (name, hits) in Index::new(family.rows().chain(family.head_rows()), side).names() {
                    let mut others: Vec<String> = hits
                        .iter()
                        .map(|h| {
                            filled(
                                h.row,
                                if side == Side::Hf { Side::Gguf } else { Side::Hf },
                                h.bias,
                                None,
                                None,
                            )
                        })
                        .collect();
                    others.sort();
                    others.dedup();
                    assert_eq!(others.len(), hits.len(), "{}: {name}", family.name());
                }
            }
        }
    }

    #[test]
    fn numbers_are_read_in_one_way_only() {
        for (name, expected) in [
            ("layers.3.x.12.w", Some(("layers.#.x.@.w", Some(3), Some(12)))),
            ("layers.0.w", Some(("layers.#.w", Some(0), None))),
            ("layers.03.w", None),
            ("layers.#.w", None),
            ("layers.99999999999999999999.w", None),
            ("a.1.2.3", Some(("a.#.@.3", Some(1), Some(2)))),
            ("", Some(("", None, None))),
        ] {
            let found = canonical(name);
            let found = found.as_ref().map(|(n, l, e)| (n.as_str(), *l, *e));
            assert_eq!(found, expected, "{name}");
        }
    }
}
