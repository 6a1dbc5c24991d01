//! sentence-transformers' `modules.json`: a list of modules, each with a folder of its own.
//!
//! Read are the modules of text models in the one order in which models have them: transformer, pooling, dense layers,
//! normalisation. Anything else is refused, because a module that is skipped gives other vectors.

use super::{Dense, Embedding, Pooling, Task};
use crate::error::{Error, Result};
use crate::text::Shown;
use serde_json::{Map, Value};

const FILE: &str = "modules.json";

/// The most modules of a model.
const MODULES_MAX: usize = 64;

/// Poolings by their names in both dialects: the flag of the older, the value of the newer. Behind it what it is here.
const POOLINGS: &[(&str, &str, Option<Pooling>)] = &[
    ("pooling_mode_cls_token", "cls", Some(Pooling::Cls)),
    ("pooling_mode_mean_tokens", "mean", Some(Pooling::Mean)),
    ("pooling_mode_max_tokens", "max", Some(Pooling::Max)),
    ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", Some(Pooling::MeanSqrt)),
    ("pooling_mode_lasttoken", "lasttoken", Some(Pooling::Last)),
    ("pooling_mode_weightedmean_tokens", "weightedmean", None),
];

/// Keys of a dense layer's config that are read, or say nothing about what it computes.
const DENSE_KEYS: &[&str] = &[
    "in_features",
    "out_features",
    "bias",
    "activation_function",
    "module_input_name",
    "module_output_name",
];

/// The task that the modules make; `None` where there is no such file, or only the transformer in it.
pub(super) fn of(file: &dyn Fn(&str) -> Result<Option<Value>>) -> Result<Option<Task>> {
    let Some(modules) = file(FILE)? else { return Ok(None) };
    let list = modules.as_array().ok_or_else(|| bad("is not a list of modules"))?;
    if list.len() > MODULES_MAX {
        return Err(bad(format!("lists {} modules, more than {MODULES_MAX}", list.len())));
    }
    let (mut pooling, mut dense, mut normalise) = (None, Vec::new(), false);
    for (index, module) in list.iter().enumerate() {
        let text = |key: &str| module.get(key).and_then(Value::as_str);
        let class = text("type").ok_or_else(|| bad(format!("module {index} has no `type`")))?;
        let folder = text("path").unwrap_or("");
        let out_of_order = || unsupported(class, "stands where it is not known what it would compute");
        if normalise {
            return Err(out_of_order());
        }
        match class.rsplit('.').next().unwrap_or(class) {
            "Transformer" if index == 0 && folder.is_empty() => {}
            "Transformer" if index == 0 => {
                return Err(unsupported(
                    class,
                    &format!("has its weights in the folder `{}`", Shown(folder)),
                )
                .hint("name that folder as the model"));
            }
            "Pooling" if index > 0 && pooling.is_none() => pooling = Some(pooling_of(file, folder)?),
            "Dense" if pooling.is_some() => dense.push(dense_of(file, folder)?),
            "Normalize" if pooling.is_some() => normalise = true,
            // Nothing is dropped where nothing is trained.
            "Dropout" => {}
            "Transformer" | "Pooling" | "Dense" | "Normalize" => return Err(out_of_order()),
            _ => return Err(unsupported(class, "is not known here")),
        }
    }
    let mut width = None;
    for one in &dense {
        let Dense { folder, inputs, outputs, .. } = one;
        if width.is_some_and(|width| width != *inputs) {
            return Err(bad(format!(
                "`{folder}` takes {inputs} numbers, and the layer before it gives another count"
            )));
        }
        width = Some(*outputs);
    }
    Ok(pooling.map(|pooling| Task::Embedding(Embedding { pooling, dense, normalise })))
}

fn bad(message: impl Into<String>) -> Error {
    Error::bad_input(message).file(FILE)
}

fn unsupported(class: &str, what: &str) -> Error {
    Error::unsupported(format!("the module `{}` {what}", Shown(class)))
        .file(FILE)
        .detail("known are Transformer, Pooling, Dense and Normalize, in this order")
}

/// A folder beside the weights: one name, which leads nowhere else.
fn checked(folder: &str) -> Result<&str> {
    let plain = !folder.is_empty() && !folder.starts_with('.') && !folder.contains(['/', '\\', ':', '\0']);
    if plain { Ok(folder) } else { Err(bad(format!("`{}` is not the name of a folder", Shown(folder)))) }
}

/// A module's config, and where it is.
fn config_of(
    file: &dyn Fn(&str) -> Result<Option<Value>>,
    folder: &str,
) -> Result<(Map<String, Value>, String)> {
    let path = format!("{}/config.json", checked(folder)?);
    match file(&path)? {
        Some(Value::Object(config)) => Ok((config, path)),
        Some(_) => Err(Error::bad_input("is not a JSON object").file(path)),
        None => Err(Error::not_found("is named by modules.json and is not there").file(path)),
    }
}

fn pooling_of(file: &dyn Fn(&str) -> Result<Option<Value>>, folder: &str) -> Result<Pooling> {
    let (config, path) = config_of(file, folder)?;
    let mut names: Vec<&str> = Vec::new();
    match config.get("pooling_mode") {
        Some(Value::String(mode)) => names.extend(mode.split('+')),
        Some(Value::Array(list)) => names.extend(list.iter().filter_map(Value::as_str)),
        None | Some(Value::Null) => {
            for (flag, name, _) in POOLINGS {
                let on = match config.get(*flag) {
                    Some(Value::Bool(on)) => *on,
                    // The mean is what is taken where nothing is said about it.
                    None | Some(Value::Null) => *name == "mean",
                    Some(_) => {
                        return Err(
                            Error::bad_input(format!("`{flag}` is neither true nor false")).file(path)
                        );
                    }
                };
                names.extend(on.then_some(*name));
            }
        }
        Some(_) => return Err(Error::bad_input("`pooling_mode` is not text").file(path)),
    }
    let known =
        |name: &str| POOLINGS.iter().find(|(_, known, _)| *known == name).and_then(|(.., pooling)| *pooling);
    let refused = |what: String| {
        Err(Error::unsupported(what)
            .file(path.clone())
            .detail("known are cls, mean, mean_sqrt_len_tokens, max and lasttoken, one of them"))
    };
    match names[..] {
        [name] => match known(name) {
            Some(pooling) => Ok(pooling),
            None => refused(format!("the pooling `{}` is not known here", Shown(name))),
        },
        [] => Err(Error::bad_input("names no pooling").file(path.clone())),
        _ => refused(format!("{} poolings are put side by side", names.len())),
    }
}

fn dense_of(file: &dyn Fn(&str) -> Result<Option<Value>>, folder: &str) -> Result<Dense> {
    let (config, path) = config_of(file, folder)?;
    let size = |key: &str| {
        let count = config.get(key).and_then(Value::as_u64).filter(|n| (1..=u64::from(u32::MAX)).contains(n));
        let count = count.and_then(|n| usize::try_from(n).ok());
        count.ok_or_else(|| Error::bad_input(format!("has no count `{key}`")).file(path.as_str()))
    };
    let bias = match config.get("bias") {
        None | Some(Value::Null) => true,
        Some(Value::Bool(bias)) => *bias,
        Some(_) => return Err(Error::bad_input("`bias` is neither true nor false").file(path.as_str())),
    };
    let activation = config.get("activation_function").and_then(Value::as_str).unwrap_or("torch.nn.Tanh");
    let tanh = match activation.rsplit('.').next() {
        Some("Tanh") => true,
        Some("Identity") => false,
        _ => {
            return Err(Error::unsupported(format!(
                "the activation `{}` is not known here",
                Shown(activation)
            ))
            .file(path.as_str())
            .detail("known are Tanh and Identity"));
        }
    };
    let named = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or("sentence_embedding");
    let elsewhere =
        ["module_input_name", "module_output_name"].into_iter().find(|k| named(k) != "sentence_embedding");
    let other = config.keys().map(String::as_str).find(|key| !DENSE_KEYS.contains(key));
    if let Some(key) = elsewhere.or(other) {
        return Err(Error::unsupported(format!("what `{}` would change is not known here", Shown(key)))
            .file(path.as_str()));
    }
    let (inputs, outputs) = (size("in_features")?, size("out_features")?);
    Ok(Dense { folder: folder.to_owned(), inputs, outputs, bias, tanh })
}
