//! Families that only encode.
//!
//! Their heads have no common names in GGUF, so the names are ours: `cls` is the dense layer behind the pooled vector (or
//! behind each token), `cls.norm` its norm, `cls.output` the last layer, which gives a score for each class. RoBERTa's
//! are llama.cpp's too, and stand among the tensors that a GGUF has.

use super::Dim::{Any, Hidden, Q, Qkv};
use super::Map::{Positions, Same};
use super::{Ends, Family, Head, Made, Need, Row, Way};

const fn b(gguf: &'static str, hf: &'static str, dims: &'static [super::Dim]) -> Row {
    Row { ends: Ends::Bias, ..Row::new(gguf, hf, Same, dims) }
}

/// A weight that has a bias in some models.
const fn m(gguf: &'static str, hf: &'static str, dims: &'static [super::Dim]) -> Row {
    Row { ends: Ends::MayBias, ..Row::new(gguf, hf, Same, dims) }
}

/// A head's tensor: which of them there must be, the task says.
const fn h(gguf: &'static str, hf: &'static str, dims: &'static [super::Dim]) -> Row {
    Row { need: Need::Some, ..m(gguf, hf, dims) }
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

/// The pooler that BERT was trained with, and one layer for the classes.
#[rustfmt::skip]
const POOLER: &[Row] = &[
    h("cls", "pooler.dense", &[Hidden, Hidden]),
    h("cls.output", "classifier", &[Any, Hidden]),
];

/// One layer for the classes: of each token, where texts have [`CLASSIFIER`].
#[rustfmt::skip]
const TOKEN_CLASSIFIER: &[Row] = &[
    Row { way: Way::In, ..h("cls.output", "classifier", &[Any, Hidden]) },
];

/// DistilBERT: BERT without types.
#[rustfmt::skip]
const DISTILBERT: &[Row] = &[
    b("token_embd_norm", "embeddings.LayerNorm", &[Hidden]),
    Row::new("position_embd", "embeddings.position_embeddings", Same, &[Any, Hidden]),
    Row::new("token_embd", "embeddings.word_embeddings", Same, &[Any, Hidden]),
    b("blk.#.attn_output_norm", "transformer.layer.#.sa_layer_norm", &[Hidden]),
    b("blk.#.attn_output", "transformer.layer.#.attention.out_lin", &[Hidden, Q]),
    b("blk.#.attn_k", "transformer.layer.#.attention.k_lin", &[Q, Hidden]),
    b("blk.#.attn_q", "transformer.layer.#.attention.q_lin", &[Q, Hidden]),
    b("blk.#.attn_v", "transformer.layer.#.attention.v_lin", &[Q, Hidden]),
    b("blk.#.ffn_up", "transformer.layer.#.ffn.lin1", &[Any, Hidden]),
    b("blk.#.layer_output_norm", "transformer.layer.#.output_layer_norm", &[Hidden]),
    b("blk.#.ffn_down", "transformer.layer.#.ffn.lin2", &[Hidden, Any]),
];

#[rustfmt::skip]
const DISTILBERT_HEAD: &[Row] = &[
    h("cls", "pre_classifier", &[Hidden, Hidden]),
    h("cls.output", "classifier", &[Any, Hidden]),
];

/// ModernBERT. Norms come before each part; the first layer reads what the embedding's norm gave, and has none.
#[rustfmt::skip]
const MODERNBERT: &[Row] = &[
    m("token_embd_norm", "embeddings.norm", &[Hidden]),
    Row::new("token_embd", "embeddings.tok_embeddings", Same, &[Any, Hidden]),
    m("output_norm", "final_norm", &[Hidden]),
    Row { need: Need::Some, ..m("blk.#.attn_norm", "layers.#.attn_norm", &[Hidden]) },
    m("blk.#.attn_output", "layers.#.attn.Wo", &[Hidden, Q]),
    m("blk.#.attn_qkv", "layers.#.attn.Wqkv", &[Qkv, Hidden]),
    m("blk.#.ffn_norm", "layers.#.mlp_norm", &[Hidden]),
    m("blk.#.ffn_up", "layers.#.mlp.Wi", &[Any, Hidden]),
    m("blk.#.ffn_down", "layers.#.mlp.Wo", &[Hidden, Any]),
];

#[rustfmt::skip]
const MODERNBERT_HEAD: &[Row] = &[
    h("cls", "head.dense", &[Hidden, Hidden]),
    h("cls.norm", "head.norm", &[Hidden]),
    h("cls.output", "classifier", &[Any, Hidden]),
];

/// nomic's BERT: rotated positions, a gate, no biases but the norms'. `fc12` is what is activated.
#[rustfmt::skip]
const NOMIC_BERT: &[Row] = &[
    b("token_embd_norm", "emb_ln", &[Hidden]),
    Row::new("token_types", "embeddings.token_type_embeddings", Same, &[Any, Hidden]),
    Row::new("token_embd", "embeddings.word_embeddings", Same, &[Any, Hidden]),
    b("blk.#.attn_output_norm", "encoder.layers.#.norm1", &[Hidden]),
    m("blk.#.attn_output", "encoder.layers.#.attn.out_proj", &[Hidden, Q]),
    m("blk.#.attn_qkv", "encoder.layers.#.attn.Wqkv", &[Qkv, Hidden]),
    m("blk.#.ffn_up", "encoder.layers.#.mlp.fc11", &[Any, Hidden]),
    m("blk.#.ffn_gate", "encoder.layers.#.mlp.fc12", &[Any, Hidden]),
    m("blk.#.ffn_down", "encoder.layers.#.mlp.fc2", &[Hidden, Any]),
    b("blk.#.layer_output_norm", "encoder.layers.#.norm2", &[Hidden]),
];

const BASE: Family = Family {
    gguf: "bert",
    converts: true,
    model_types: &["bert"],
    architectures: &["BertModel", "BertForMaskedLM", "BertForPreTraining"],
    tensors: &[BERT],
    heads: &[POOLER],
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

const ROBERTA: Family = Family {
    model_types: &["roberta"],
    architectures: &["RobertaModel", "RobertaForMaskedLM", "RobertaForSequenceClassification"],
    tensors: &[BERT, CLASSIFIER],
    heads: &[TOKEN_CLASSIFIER],
    padded_positions: true,
    defaults: ROBERTA_SIZES,
    ..BASE
};

pub(super) const FAMILIES: &[Family] = &[
    BASE,
    ROBERTA,
    Family {
        model_types: &["xlm-roberta"],
        architectures: &["XLMRobertaModel", "XLMRobertaForMaskedLM", "XLMRobertaForSequenceClassification"],
        ..ROBERTA
    },
    Family {
        // The reference converter takes its positions for BERT's, which begin two rows earlier.
        converts: false,
        model_types: &["camembert"],
        architectures: &["CamembertModel", "CamembertForMaskedLM", "CamembertForSequenceClassification"],
        ..ROBERTA
    },
    Family {
        converts: false,
        model_types: &["distilbert"],
        architectures: &["DistilBertModel", "DistilBertForMaskedLM"],
        tensors: &[DISTILBERT],
        heads: &[DISTILBERT_HEAD],
        defaults: &[("n_heads", 12), ("dim", 768), ("n_layers", 6), ("pad_token_id", 0)],
        ..BASE
    },
    Family {
        gguf: "modern-bert",
        converts: false,
        model_types: &["modernbert"],
        architectures: &["ModernBertModel", "ModernBertForMaskedLM"],
        tensors: &[MODERNBERT],
        heads: &[MODERNBERT_HEAD],
        defaults: &[("num_attention_heads", 12), ("hidden_size", 768), ("num_hidden_layers", 22)],
        ..BASE
    },
    Family {
        gguf: "nomic-bert",
        converts: false,
        model_types: &["nomic_bert"],
        architectures: &["NomicBertModel", "NomicBertForPreTraining", "NomicBertForMaskedLM"],
        tensors: &[NOMIC_BERT],
        heads: &[POOLER],
        ..BASE
    },
];
