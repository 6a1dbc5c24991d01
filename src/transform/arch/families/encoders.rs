//! Families that only encode.

use super::Dim::{Any, Hidden, Q};
use super::Map::{Positions, Same};
use super::{Ends, Family, Head, Made, Need, Row};

const fn b(gguf: &'static str, hf: &'static str, dims: &'static [super::Dim]) -> Row {
    Row { ends: Ends::Bias, ..Row::new(gguf, hf, Same, dims) }
}

/// BERT. Norms come after each part.
#[rustfmt::skip]
const BERT: &[Row] = &[
    b("token_embd_norm", "embeddings.LayerNorm", &[Hidden]),
    Row::new("position_embd", "embeddings.position_embeddings", Positions, &[Any, Hidden]),
    Row::new("token_types", "embeddings.token_type_embeddings", Same, &[Any, Hidden]),
    Row::new("token_embd", "embeddings.word_embeddings", Same, &[Any, Hidden]),
    b("blk.#.attn_output_norm", "encoder.layer.#.attention.output.LayerNorm", &[Hidden]),
    b("blk.#.attn_output", "encoder.layer.#.attention.output.dense", &[Hidden, Q]),
    b("blk.#.attn_k", "encoder.layer.#.attention.self.key", &[Q, Hidden]),
    b("blk.#.attn_q", "encoder.layer.#.attention.self.query", &[Q, Hidden]),
    b("blk.#.attn_v", "encoder.layer.#.attention.self.value", &[Q, Hidden]),
    b("blk.#.ffn_up", "encoder.layer.#.intermediate.dense", &[Any, Hidden]),
    b("blk.#.layer_output_norm", "encoder.layer.#.output.LayerNorm", &[Hidden]),
    b("blk.#.ffn_down", "encoder.layer.#.output.dense", &[Hidden, Any]),
];

/// A classifier on top, of two layers.
#[rustfmt::skip]
const CLASSIFIER: &[Row] = &[
    Row { need: Need::Some, ..b("cls", "classifier.dense", &[Hidden, Hidden]) },
    Row { need: Need::Some, ..b("cls.output", "classifier.out_proj", &[Any, Hidden]) },
];

const BASE: Family = Family {
    gguf: "bert",
    model_types: &["bert"],
    architectures: &["BertModel", "BertForMaskedLM", "BertForPreTraining"],
    tensors: &[BERT],
    heads: &[],
    paired_heads: false,
    norm_offset: 0.0,
    padded_positions: false,
    head: Head::None,
    made: Made::Nothing,
    defaults: &[
        ("num_attention_heads", 12),
        ("hidden_size", 768),
        ("num_hidden_layers", 12),
        ("pad_token_id", 0),
    ],
};

/// The sizes of [`BASE`], with another padding token.
const ROBERTA_SIZES: &[(&str, u64)] =
    &[("num_attention_heads", 12), ("hidden_size", 768), ("num_hidden_layers", 12), ("pad_token_id", 1)];

pub(super) const FAMILIES: &[Family] = &[
    BASE,
    Family {
        model_types: &["roberta"],
        architectures: &["RobertaModel", "RobertaForMaskedLM", "RobertaForSequenceClassification"],
        tensors: &[BERT, CLASSIFIER],
        padded_positions: true,
        defaults: ROBERTA_SIZES,
        ..BASE
    },
    Family {
        model_types: &["xlm-roberta"],
        architectures: &["XLMRobertaModel", "XLMRobertaForMaskedLM", "XLMRobertaForSequenceClassification"],
        tensors: &[BERT, CLASSIFIER],
        padded_positions: true,
        defaults: ROBERTA_SIZES,
        ..BASE
    },
];
