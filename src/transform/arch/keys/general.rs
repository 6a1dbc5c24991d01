//! What a GGUF says of a model as a thing in the world: its name, size, license, and how its makers sample from it.
//!
//! From the model card first, then the config, then the directory's name, as the reference converter has it.

use super::card::Card;
use super::model_name::{self, ModelName};
use super::{Keys, Parameters, Scope, float};
use crate::checkpoint::{MetaArray, MetaValue};
use crate::error::Result;
use serde_json::Value;

/// A sampling key: its name after `general.sampling.`, whether it is an i32 (else f32, or text), and what
/// `generation_config.json` calls it.
#[rustfmt::skip]
const SAMPLING: &[(&str, Kind, &[&str])] = &[
    ("sequence",        Kind::Text,  &["sequence"]),
    ("top_k",           Kind::Whole, &["top_k"]),
    ("top_p",           Kind::Float, &["top_p"]),
    ("min_p",           Kind::Float, &["min_p"]),
    ("xtc_probability", Kind::Float, &["xtc_probability"]),
    ("xtc_threshold",   Kind::Float, &["xtc_threshold"]),
    ("temp",            Kind::Float, &["temperature"]),
    ("penalty_last_n",  Kind::Whole, &["penalty_last_n"]),
    ("penalty_repeat",  Kind::Float, &["penalty_repeat", "repetition_penalty"]),
    ("mirostat",        Kind::Whole, &["mirostat"]),
    ("mirostat_tau",    Kind::Float, &["mirostat_tau"]),
    ("mirostat_eta",    Kind::Float, &["mirostat_eta"]),
];

#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Whole,
    Float,
}

/// A key, and what a model card may call its value; the first that is there counts.
#[rustfmt::skip]
const FROM_CARD: &[(&str, &[&str])] = &[
    ("general.name",            &["name", "model_name"]),
    ("general.author",          &["author", "model_author", "model_creator"]),
    ("general.version",         &["version", "model_version"]),
    ("general.organization",    &["organization", "model_organization"]),
    ("general.finetune",        &["finetune", "model_finetune"]),
    ("general.basename",        &["basename", "model_basename", "model_type"]),
    ("general.description",     &["description", "model_description"]),
    ("general.size_label",      &["size_label", "model_size_label"]),
    ("general.license",         &["license"]),
    ("general.license.name",    &["license_name"]),
    ("general.license.link",    &["license_link"]),
    ("general.source.url",      &["url", "model_url"]),
    ("general.source.doi",      &["doi", "model_doi"]),
    ("general.source.uuid",     &["uuid", "model_uuid"]),
    ("general.source.repo_url", &["repo_url", "model_repo_url"]),
];

/// Models and data that this one comes from: key, the names a card may use.
const PARENTS: &[(&str, &[&str])] = &[
    ("general.base_model", &["base_model", "base_models", "base_model_sources"]),
    ("general.dataset", &["datasets", "dataset", "dataset_sources"]),
];

/// The most of either that are named.
const PARENTS_MAX: usize = 64;

/// Lists: key, the names a card may use, all of which count.
const LISTS: &[(&str, &[&str])] =
    &[("general.tags", &["tags", "pipeline_tag"]), ("general.languages", &["languages", "language"])];

/// Where a repository of this name is found.
const HUB: &str = "https://huggingface.co/";

pub(super) fn write(scope: &Scope<'_>, keys: &mut Keys) -> Result<()> {
    let total = scope.extra.parameters.total;
    keys.put("general.type".to_owned(), "model".into());
    sampling(scope.extra.generation_config, keys);
    let card = scope.extra.model_card.map(Card::parse).unwrap_or_default();
    let mut names = Vec::new();
    // A path of somebody's machine is no name.
    if let Some(said) = scope.config.outer("_name_or_path").and_then(Value::as_str)
        && !said.is_empty()
        && said.matches('/').count() <= 1
    {
        names.push(model_name::parse(said, total));
    }
    names.push(model_name::parse(scope.extra.name, total));
    for (key, from) in FROM_CARD {
        let said = match *key {
            // Several licenses are one text.
            "general.license" => card.list("license").map(|list| list.join(",")),
            _ => from.iter().find_map(|name| card.text(name)).map(str::to_owned),
        };
        let value = said.or_else(|| names.iter().find_map(|name| of_name(name, key)));
        let value = match *key {
            "general.name" => Some(value.unwrap_or_else(|| scope.extra.name.to_owned())),
            "general.size_label" => {
                value.or_else(|| (total > 0).then(|| size_label(&scope.extra.parameters)))
            }
            _ => value,
        };
        if let Some(value) = value {
            keys.put((*key).to_owned(), value.as_str().into());
        }
    }
    for (key, from) in PARENTS {
        if let Some(list) = from.iter().find_map(|name| card.list(name)) {
            parents(key, &list, total, keys)?;
        }
    }
    for (key, from) in LISTS {
        let list: Vec<&str> = from.iter().filter_map(|name| card.list(name)).flatten().collect();
        if !list.is_empty() {
            keys.put((*key).to_owned(), MetaValue::Array(MetaArray::of_texts(list)));
        }
    }
    Ok(())
}

/// What a name says for a key.
fn of_name(name: &ModelName, key: &str) -> Option<String> {
    match key {
        "general.name" => name.full.as_deref().map(model_name::title).filter(|title| !title.is_empty()),
        "general.organization" => name.organization.as_deref().map(model_name::title),
        "general.basename" => name.basename.clone(),
        "general.finetune" => name.finetune.clone(),
        "general.version" => name.version.clone(),
        "general.size_label" => name.size_label.clone(),
        _ => None,
    }
}

fn sampling(config: Option<&Value>, keys: &mut Keys) {
    for (key, kind, names) in SAMPLING {
        let Some(value) = names.iter().find_map(|name| config?.get(name)).filter(|value| !value.is_null())
        else {
            continue;
        };
        let number = value.as_f64().filter(|x| (*x as f32).is_finite());
        let whole = || {
            let n = value.as_i64().or_else(|| number.filter(|x| x.fract() == 0.0).map(|x| x as i64))?;
            i32::try_from(n).ok()
        };
        let converted = match kind {
            Kind::Text => value.as_str().map(MetaValue::from),
            Kind::Whole => whole().map(MetaValue::I32),
            Kind::Float => number.map(float),
        };
        match converted {
            Some(value) => keys.put(format!("general.sampling.{key}"), value),
            // Nobody samples by it, and a model is no worse without it.
            None => keys.notes.push(format!(
                "`{}` of generation_config.json is {} and was left out",
                names.first().unwrap_or(key),
                super::shown(value)
            )),
        }
    }
}

fn parents(key: &str, ids: &[&str], total: u64, keys: &mut Keys) -> Result<()> {
    let ids = ids.get(..PARENTS_MAX).unwrap_or(ids);
    keys.put(format!("{key}.count"), super::count(ids.len() as u64)?);
    for (n, id) in ids.iter().enumerate() {
        let address = ["http://", "https://", "ssh://"].iter().any(|scheme| id.starts_with(scheme));
        let repository = |id: &&str| {
            let parts: Vec<&str> = id.split('/').collect();
            parts.len() == 2 && parts.iter().all(|part| !part.is_empty())
        };
        let known = match (address, id.strip_prefix(HUB)) {
            (true, on_hub) => on_hub.filter(repository),
            (false, _) => Some(*id),
        };
        let name = known.map(|id| model_name::parse(id, total)).unwrap_or_default();
        let mut put = |what: &str, value: Option<String>| {
            if let Some(value) = value {
                keys.put(format!("{key}.{n}.{what}"), value.as_str().into());
            }
        };
        put("name", name.full.as_deref().map(model_name::title));
        put("version", name.version.clone());
        put("organization", name.organization.as_deref().map(model_name::title));
        let repo_url = match (address, &name.organization, &name.full) {
            (true, ..) => Some((*id).to_owned()),
            (false, Some(organization), Some(full)) => Some(format!("{HUB}{organization}/{full}")),
            _ => None,
        };
        put("repo_url", repo_url);
    }
    Ok(())
}

/// The size as models are called by: `7.2B`, `8x7B`.
fn size_label(parameters: &Parameters) -> String {
    match parameters.expert_count {
        0 => rounded(parameters.total),
        experts => format!("{experts}x{}", rounded(parameters.shared.saturating_add(parameters.expert))),
    }
}

/// At least two digits, and the unit.
fn rounded(parameters: u64) -> String {
    let scales = [
        (1_000_000_000_000u64, 1e-12, "T"),
        (1_000_000_000, 1e-9, "B"),
        (1_000_000, 1e-6, "M"),
        (0, 1e-3, "K"),
    ];
    let (_, scale, unit) = scales.iter().find(|(above, ..)| parameters > *above).unwrap_or(&scales[3]);
    let scaled = parameters as f64 * scale;
    // Python's round and format agree with Rust's on ties (both to even, on the same double).
    let whole = format!("{:.0}", scaled.round_ties_even());
    let digits = whole.trim_start_matches('0').len();
    format!("{scaled:.*}{unit}", 2usize.saturating_sub(digits))
}
