//! Classifiers: what stands on top of a family's layers, and what its scores are called.
//!
//! Source: the classes `…ForSequenceClassification` and `…ForTokenClassification` of transformers 5.23, its
//! text-classification pipeline for what makes a probability of scores, and sentence-transformers' cross-encoders, which
//! name a function of their own in the config.

use super::{Classes, Family, Pooling, Probability, TopActivation, is_encoder, labels_of};
use crate::checkpoint::Meta;
use crate::error::{Error, Result};
use crate::text::Shown;
use serde_json::Value;

/// The most classes of a classifier.
pub(super) const LABELS_MAX: usize = 65_536;

/// A family's head.
struct Top {
    /// Families by their names; none stands for those that generate text.
    families: &'static [&'static str],
    /// How tokens become one vector.
    pooling: Pooling,
    /// Behind the dense layer in front of the classes of a text.
    dense: Option<TopActivation>,
    /// Whether the config may say otherwise about both, and a norm follows, for the classes of tokens too.
    said: bool,
}

const TOPS: &[Top] = &[
    Top {
        families: &["bert", "roberta", "xlm-roberta", "camembert", "nomic_bert"],
        pooling: Pooling::Cls,
        dense: Some(TopActivation::Tanh),
        said: false,
    },
    Top { families: &["distilbert"], pooling: Pooling::Cls, dense: Some(TopActivation::Relu), said: false },
    Top { families: &["modernbert"], pooling: Pooling::Cls, dense: Some(TopActivation::Gelu), said: true },
    Top { families: &[], pooling: Pooling::Last, dense: None, said: false },
];

/// Activations of a head by their names.
const ACTIVATIONS: &[(&str, TopActivation)] = &[
    ("gelu", TopActivation::Gelu),
    ("silu", TopActivation::Silu),
    ("swish", TopActivation::Silu),
    ("tanh", TopActivation::Tanh),
    ("relu", TopActivation::Relu),
];

fn top(family: &Family) -> Result<&'static Top> {
    let names = |top: &&Top| match is_encoder(family) {
        true => top.families.contains(&family.name()),
        false => top.families.is_empty(),
    };
    TOPS.iter().find(names).ok_or_else(|| {
        Error::unsupported(format!("the heads of the family `{}` are not known here", family.name()))
    })
}

/// Of texts.
pub(super) fn of_sequences(family: &Family, config: &Value) -> Result<Classes> {
    let top = top(family)?;
    let labels = labels(config)?;
    let probability = probability(config, labels.len())?;
    let mut classes =
        Classes { pooling: Some(top.pooling), dense: top.dense, norm: None, labels, probability };
    if top.said {
        said(config, &mut classes)?;
    }
    Ok(classes)
}

/// Of tokens.
pub(super) fn of_tokens(family: &Family, config: &Value) -> Result<Classes> {
    let top = top(family)?;
    let labels = labels(config)?;
    let mut classes =
        Classes { pooling: None, dense: None, norm: None, labels, probability: Probability::Softmax };
    if top.said {
        said(config, &mut classes)?;
    }
    Ok(classes)
}

/// Of a GGUF's texts. What its tensors tell, [`super::settle`] adds.
pub(super) fn of_gguf(family: &Family, meta: &Meta) -> Result<Classes> {
    let top = top(family)?;
    let labels = labels_of(meta, family);
    let probability = if labels.len() > 1 { Probability::Softmax } else { Probability::Sigmoid };
    Ok(Classes { pooling: Some(top.pooling), dense: top.dense, norm: None, labels, probability })
}

/// ModernBERT's head, as the config says it.
fn said(config: &Value, classes: &mut Classes) -> Result<()> {
    let text = |key: &str, usual: &'static str| match config.get(key) {
        None | Some(Value::Null) => Ok(usual),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(bad(format!("`{key}` is not text"))),
    };
    if classes.pooling.is_some() {
        classes.pooling = match text("classifier_pooling", "cls")? {
            "cls" => Some(Pooling::Cls),
            "mean" => Some(Pooling::Mean),
            other => return Err(unsupported(format!("`classifier_pooling` is `{}`", Shown(other)))),
        };
    }
    let activation = text("classifier_activation", "gelu")?;
    let known = ACTIVATIONS.iter().find(|(name, _)| *name == activation);
    classes.dense = Some(
        known
            .map(|(_, a)| *a)
            .ok_or_else(|| unsupported(format!("`classifier_activation` is `{}`", Shown(activation))))?,
    );
    let eps = match config.get("norm_eps") {
        None | Some(Value::Null) => 1e-5,
        Some(value) => {
            value.as_f64().filter(|x| x.is_finite()).ok_or_else(|| bad("`norm_eps` is not a number"))?
        }
    };
    classes.norm = Some(eps as f32);
    Ok(())
}

fn bad(message: impl Into<String>) -> Error {
    Error::bad_input(message).file("config.json")
}

fn unsupported(message: String) -> Error {
    Error::unsupported(format!("{message}, which is not known here")).file("config.json")
}

/// Labels in the order of their numbers. Without `id2label` there are `num_labels`, or two, which transformers leaves out.
fn labels(config: &Value) -> Result<Vec<String>> {
    let count = match config.get("id2label") {
        Some(Value::Object(names)) => names.len(),
        None | Some(Value::Null) => match config.get("num_labels") {
            None | Some(Value::Null) => 2,
            Some(n) => n
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .ok_or_else(|| bad("`num_labels` is not a count"))?,
        },
        Some(_) => return Err(bad("`id2label` is not an object")),
    };
    if count == 0 || count > LABELS_MAX {
        return Err(bad(format!("names {count} labels, and a classifier has from 1 to {LABELS_MAX}")));
    }
    let mut labels: Vec<String> = (0..count).map(|n| format!("LABEL_{n}")).collect();
    if let Some(Value::Object(names)) = config.get("id2label") {
        for (number, name) in names {
            let place = number.parse::<usize>().ok().and_then(|n| labels.get_mut(n));
            match (place, name.as_str()) {
                (Some(place), Some(name)) => *place = name.to_owned(),
                _ => {
                    return Err(bad(format!(
                        "`id2label` has `{}`, where numbers from 0 to {} and names are needed",
                        Shown(number),
                        count - 1
                    )));
                }
            }
        }
    }
    Ok(labels)
}

/// The functions that sentence-transformers names, by their class.
const FUNCTIONS: &[(&str, Probability)] = &[
    ("Identity", Probability::Identity),
    ("Sigmoid", Probability::Sigmoid),
    ("Softmax", Probability::Softmax),
];

fn probability(config: &Value, labels: usize) -> Result<Probability> {
    let cross_encoder = config.get("sentence_transformers").and_then(|c| c.get("activation_fn"));
    let function = cross_encoder.or_else(|| config.get("sbert_ce_default_activation_function"));
    if let Some(name) = function.filter(|f| !f.is_null()) {
        let class = name.as_str().and_then(|name| name.rsplit('.').next());
        let class = class.ok_or_else(|| bad("the activation of the cross-encoder is not text"))?;
        let known = FUNCTIONS.iter().find(|(name, _)| *name == class);
        return known.map(|(_, probability)| *probability).ok_or_else(|| {
            unsupported(format!("the activation of the cross-encoder is `{}`", Shown(class)))
        });
    }
    Ok(match config.get("problem_type").and_then(Value::as_str) {
        Some("regression") => Probability::Identity,
        Some("multi_label_classification") => Probability::Sigmoid,
        _ if labels == 1 => Probability::Sigmoid,
        _ => Probability::Softmax,
    })
}
