//! From figures and limits to checks.

use super::Check;
use super::numbers::{
    change, cosine, figure, percent, perplexity as shown_perplexity, share_limit, with_error,
};
use crate::text::{Shown, count, grouped};
use crate::verify::limits::{Limits, Step};
use crate::verify::metrics::{Comparison, NotFinite, Perplexity, Vectors};
use serde_json::{Value, json};

/// A figure and what it must keep.
struct Bound {
    /// What it is called in a message.
    name: &'static str,
    value: f64,
    /// The limit, and whether the figure must be at least that.
    limit: Option<(f64, bool)>,
    /// How it is shown.
    show: fn(f64) -> String,
    show_limit: fn(f64) -> String,
}

impl Bound {
    fn most(name: &'static str, value: f64, limit: Option<f64>) -> Bound {
        Bound { name, value, limit: limit.map(|l| (l, false)), show: figure, show_limit: |x| x.to_string() }
    }

    fn least(name: &'static str, value: f64, limit: Option<f64>) -> Bound {
        Bound { name, value, limit: limit.map(|l| (l, true)), show: percent, show_limit: share_limit }
    }

    /// What is wrong, if the limit is not kept. NaN keeps none.
    fn broken(&self) -> Option<String> {
        let (limit, at_least) = self.limit?;
        let kept = if at_least { self.value >= limit } else { self.value <= limit };
        if kept {
            return None;
        }
        let side = if at_least { "below" } else { "above" };
        let Bound { name, value, show, show_limit, .. } = self;
        Some(match value.is_nan() {
            true => format!("{name} is no number, where a limit of {} is set", show_limit(limit)),
            false => format!("{name} {} is {side} {}", show(*value), show_limit(limit)),
        })
    }
}

/// Passed, failed, or reported where nothing had a limit.
fn judged(name: &'static str, line: String, bounds: &[Bound], wrong: Vec<String>, limits: &Limits) -> Check {
    let mut why = wrong;
    // What made a figure no number has been said.
    let is_said = !why.is_empty();
    why.extend(bounds.iter().filter(|b| !(is_said && b.value.is_nan())).filter_map(Bound::broken));
    let is_bound = bounds.iter().any(|bound| bound.limit.is_some());
    let check = match (why.is_empty(), is_bound) {
        (false, _) => {
            let of = if limits.given { "" } else { &format!(" for {}", limits.name) };
            Check::failed(name, line, format!("{}{of}", why.join(", ")))
        }
        (true, true) => Check::passed(name, line),
        (true, false) => Check::reported(name, line),
    };
    check.figure("limits", limits_document(limits, bounds))
}

fn limits_document(limits: &Limits, bounds: &[Bound]) -> Value {
    let mut fields = serde_json::Map::new();
    fields.insert("for".into(), limits.name.as_str().into());
    fields.insert("given".into(), limits.given.into());
    for bound in bounds {
        if let Some((limit, at_least)) = bound.limit {
            let which = if at_least { "least" } else { "most" };
            fields.insert(bound.name.to_lowercase().replace([' ', '-'], "_"), json!({ which: limit }));
        }
    }
    Value::Object(fields)
}

/// `limits for 4-bit, group 128: 0.25, 80 %`; with the user's own among them, each by its name.
fn limits_text(limits: &Limits, bounds: &[Bound]) -> String {
    let set: Vec<&Bound> = bounds.iter().filter(|bound| bound.limit.is_some()).collect();
    if set.is_empty() {
        return format!("no limits for {}", limits.name);
    }
    let plain = !limits.given && set.iter().all(|bound| matches!(bound.name, "KL" | "top-1"));
    let shown: Vec<String> = set
        .iter()
        .filter_map(|bound| {
            let limit = (bound.show_limit)(bound.limit?.0);
            Some(if plain { limit } else { format!("{} {limit}", bound.name) })
        })
        .collect();
    let word = if set.len() == 1 { "limit" } else { "limits" };
    let of = if limits.given { String::new() } else { format!(" for {}", limits.name) };
    format!("{word}{of}: {}", shown.join(", "))
}

/// Check `logits`. `hidden` is the cosine of the two models' mean last hidden states, where there are any; `token` gives the
/// text of an id.
pub fn logits(
    found: &Comparison,
    hidden: Option<f64>,
    limits: &Limits,
    token: &dyn Fn(u32) -> Option<String>,
) -> Check {
    let gate = &limits.gate;
    let bounds = [
        Bound::most("max rel", found.max_relative, gate.max_relative),
        Bound::most("KL", found.kl.mean, gate.max_kl),
        Bound::least("top-1", found.top1, gate.min_top1),
        Bound::least("top-5", found.top5, gate.min_top5),
        of_cosine(found.cosine, of_logits(limits)),
    ];
    let mut wrong = Vec::new();
    let odd = found.not_finite;
    if odd.either > 0 {
        wrong.push(format!("logits are {} at {} positions", whose(odd), grouped(odd.either)));
    }
    if found.positions == 0 && wrong.is_empty() {
        wrong.push("nothing was compared".to_owned());
    }
    let kl = &found.kl;
    let mut parts = vec![format!(
        "KL {} (median {}, 99 % {}, max {})",
        with_error(kl.mean, kl.error),
        figure(kl.median),
        figure(kl.p99),
        figure(kl.max)
    )];
    // What the same numbers are judged by comes first.
    let relative = format!("max rel {}", figure(found.max_relative));
    if gate.max_relative.is_some() || limits.step == Step::Same {
        parts.insert(0, relative);
    }
    parts.push(format!("cosine {}", cosine(found.cosine)));
    parts.push(format!("top-1 {}", percent(found.top1)));
    parts.push(format!("top-5 {}", percent(found.top5)));
    parts.push(limits_text(limits, &bounds));
    let mut check = judged("logits", parts.join("   "), &bounds, wrong, limits)
        .figure("positions", found.positions)
        .figure("vocabulary", found.vocabulary)
        .figure("max_abs", found.max_abs)
        .figure("max_relative", found.max_relative)
        .figure("cosine", found.cosine)
        .figure("cosine_min", found.cosine_min)
        .figure(
            "kl",
            json!({
                "mean": kl.mean, "standard_error": kl.error, "median": kl.median,
                "p99": kl.p99, "p99_9": kl.p999, "max": kl.max,
            }),
        )
        .figure("top1", found.top1)
        .figure("top5", found.top5)
        .figure("mean_hidden_cosine", hidden)
        .figure(
            "not_finite",
            json!({ "reference": odd.reference, "candidate": odd.candidate, "positions": odd.either }),
        )
        .figure(
            "first_greedy_difference",
            found.differs.map(
                |d| json!({ "position": d.position, "reference": d.reference, "candidate": d.candidate }),
            ),
        );
    if let Some(d) = found.differs {
        let shown = |id: u64| match u32::try_from(id).ok().and_then(token) {
            Some(text) => format!("{id} `{}`", Shown(&text)),
            None => id.to_string(),
        };
        check = check.detail(format!(
            "the likeliest token differs first behind token {} of the text: {}, the reference has {}",
            grouped(d.position),
            shown(d.candidate),
            shown(d.reference)
        ));
    }
    with_note(check, limits)
}

/// Whose numbers are not finite.
fn whose(odd: NotFinite) -> &'static str {
    match (odd.reference, odd.candidate) {
        (0, _) => "not finite",
        (_, 0) => "not finite in the reference",
        _ => "not finite in both",
    }
}

fn not_finite(what: &str, odd: NotFinite) -> Option<String> {
    (odd.either > 0).then(|| format!("{} {what} are {}", grouped(odd.either), whose(odd)))
}

/// With what a person should know of the limits.
fn with_note(mut check: Check, limits: &Limits) -> Check {
    check.details.extend(limits.note.clone());
    check
}

fn of_cosine(value: f64, limit: Option<f64>) -> Bound {
    Bound { show: cosine, show_limit: |x| x.to_string(), ..Bound::least("cosine", value, limit) }
}

/// The default cosine is for embeddings; of logits it binds only where the user gave one.
fn of_logits(limits: &Limits) -> Option<f64> {
    limits.gate.min_cosine.filter(|_| limits.cosine_given)
}

/// Check `perplexity`: of the candidate, and of the reference where there is one, with their ratio and its standard error.
pub fn perplexity(
    candidate: &Perplexity,
    reference: Option<(&Perplexity, Option<(f64, f64)>)>,
    recipe: &str,
    limits: Option<&Limits>,
) -> Check {
    let scored = format!("{recipe}, {} tokens", count(candidate.tokens));
    let wrong = if candidate.value.is_finite() {
        None
    } else {
        Some(format!("{} of {} tokens", candidate.value, grouped(candidate.tokens)))
    };
    let figures = |check: Check| {
        check
            .figure("perplexity", candidate.value)
            .figure("standard_error", candidate.error)
            .figure("tokens", candidate.tokens)
            .figure("recipe", recipe)
    };
    let Some((other, ratio)) = reference else {
        let line = format!("{} ± {}   {scored}", shown_perplexity(candidate.value), figure(candidate.error));
        return figures(match wrong {
            Some(why) => Check::failed("perplexity", line, why),
            None => Check::reported("perplexity", line),
        });
    };
    let (ratio, error) = ratio.unwrap_or((candidate.value / other.value, f64::NAN));
    let line = format!(
        "{} against {} ({})   {scored}",
        shown_perplexity(candidate.value),
        shown_perplexity(other.value),
        change(ratio)
    );
    let most = limits.and_then(|l| l.gate.max_perplexity_increase);
    let show = |x: f64| format!("{} %", figure(x * 100.0));
    let bound = Bound { show, show_limit: share_limit, ..Bound::most("increase", ratio - 1.0, most) };
    let check = match (wrong.or_else(|| bound.broken()), most) {
        (Some(why), _) => Check::failed("perplexity", line, why),
        (None, Some(_)) => Check::passed("perplexity", line),
        (None, None) => Check::reported("perplexity", line),
    };
    figures(check)
        .figure("reference_perplexity", other.value)
        .figure("reference_standard_error", other.error)
        .figure("ratio", ratio)
        .figure("ratio_standard_error", error)
        .figure("max_increase", most)
}

/// Check `embeddings`: one for each text. The least cosine decides, and the largest relative error of any.
pub fn embeddings(texts: &[Vectors], limits: &Limits) -> Check {
    let worst = |of: fn(&Vectors) -> f64, pick: fn(f64, f64) -> f64| {
        let figures = texts.iter().map(of);
        // A NaN is passed over by the extremes, and must not be.
        let is_known = !texts.is_empty() && !figures.clone().any(f64::is_nan);
        figures.reduce(pick).filter(|_| is_known).unwrap_or(f64::NAN)
    };
    let least = worst(Vectors::cosine, f64::min);
    let mean = texts.iter().map(Vectors::cosine).sum::<f64>() / texts.len() as f64;
    let (max_abs, relative) = (worst(Vectors::max_abs, f64::max), worst(Vectors::max_relative, f64::max));
    let bounds = [of_cosine(least, limits.gate.min_cosine), Bound::most("max rel", relative, limits.vectors)];
    let line = format!(
        "cosine {} at least, {} in the mean of {} texts   max rel {}, max abs {}   {}",
        cosine(least),
        cosine(mean),
        grouped(texts.len() as u64),
        figure(relative),
        figure(max_abs),
        limits_text(limits, &bounds)
    );
    let mut all = Vectors::default();
    texts.iter().for_each(|text| all.merge(text));
    let wrong = not_finite("numbers", all.not_finite_of()).into_iter().collect();
    with_note(judged("embeddings", line, &bounds, wrong, limits), limits)
        .figure("texts", texts.len())
        .figure("cosine_min", least)
        .figure("cosine_mean", mean)
        .figure("max_abs", max_abs)
        .figure("max_relative", relative)
}

/// What a head made of texts, or of tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Labels {
    /// `texts`, or `tokens`.
    pub what: &'static str,
    /// Whether there is one score of each, so that it is no label that is asked for.
    pub is_score: bool,
    /// How many have the same label.
    pub same: u64,
    /// How many there are.
    pub of: u64,
    /// The first that differs: its place, the candidate's label, the reference's.
    pub first: Option<(u64, String, String)>,
    /// The scores of all of them.
    pub scores: Vectors,
}

/// Check `labels`: how many texts or tokens have the same one, where the first differs, and how far apart their scores are.
/// Where there is one score of each, that decides alone.
pub fn labels(found: &Labels, limits: &Limits) -> Check {
    let Labels { what, is_score, same, of, first, scores } = found;
    let (relative, turned) = (scores.max_relative(), scores.cosine());
    let must_agree = limits.labels && !is_score;
    let differ = of - same.min(of);
    let bounds = [
        // What breaks it is said by counts, below.
        Bound::least("labels", 1.0, must_agree.then_some(1.0)),
        Bound::most("max rel", relative, if *is_score { limits.score } else { limits.vectors }),
        // One score has no direction, and those of several texts are no vector.
        of_cosine(turned, if *is_score { of_logits(limits) } else { limits.gate.min_cosine }),
    ];
    let figures = format!(
        "max rel {}, cosine {}, max abs {}",
        figure(relative),
        cosine(turned),
        figure(scores.max_abs())
    );
    let limits_said = limits_text(limits, &bounds);
    let line = match is_score {
        true => format!("scores of {} {what}: {figures}   {limits_said}", grouped(*of)),
        false => format!(
            "the same for {} of {} {what}   scores: {figures}   {limits_said}",
            grouped(*same),
            grouped(*of)
        ),
    };
    let mut wrong: Vec<String> = not_finite("scores", scores.not_finite_of()).into_iter().collect();
    if *of == 0 {
        wrong.push("nothing was compared".to_owned());
    }
    if must_agree && differ > 0 {
        wrong.push(format!("{} of {} {what} have another label", grouped(differ), grouped(*of)));
    }
    let mut check = judged("labels", line, &bounds, wrong, limits);
    let first = first.as_ref().filter(|_| !is_score);
    if let Some((at, candidate, reference)) = first {
        check = check.detail(format!(
            "the first that differs is {}: `{}`, the reference has `{}`",
            grouped(*at),
            Shown(candidate),
            Shown(reference)
        ));
    }
    with_note(check, limits)
        .figure("same", (!is_score).then_some(*same))
        .figure("of", *of)
        .figure("scores_cosine", turned)
        .figure("scores_max_abs", scores.max_abs())
        .figure("scores_max_relative", relative)
        .figure(
            "first_difference",
            first.map(|(at, candidate, reference)| json!({ "place": at, "candidate": candidate, "reference": reference })),
        )
}

/// How far two models are apart behind a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Layer {
    /// The layer, from 0.
    pub index: usize,
    /// Hidden states behind it, of all tokens.
    pub states: Vectors,
}

/// Check `layers`: how far apart hidden states are behind each layer, and the layer where they first part. That is the first
/// one behind which they are further apart, relative to their length, than the limits' `hidden`; it fails nothing, since
/// logits decide, but where states are no numbers. With `each` there is a line for each layer.
pub fn layers(layers: &[Layer], each: bool, limits: &Limits) -> Check {
    let parts = |apart: f64| apart.is_nan() || apart > limits.hidden;
    let first = layers.iter().find(|layer| parts(layer.states.relative()));
    let odd = layers.iter().find(|layer| layer.states.not_finite() > 0);
    let last = layers.last().map_or(f64::NAN, |layer| layer.states.relative());
    let line = match first {
        Some(layer) => format!(
            "first part in layer {}: {} apart, where {} is usual for {}",
            layer.index,
            figure(layer.states.relative()),
            limits.hidden,
            limits.name
        ),
        None => format!(
            "{} layers, {} apart behind the last, relative to their length",
            layers.len(),
            figure(last)
        ),
    };
    let mut check = match odd {
        Some(layer) => Check::failed(
            "layers",
            line,
            format!(
                "{} hidden states behind layer {} are {}",
                grouped(layer.states.not_finite()),
                layer.index,
                whose(layer.states.not_finite_of())
            ),
        ),
        None => Check::reported("layers", line),
    };
    for layer in layers.iter().filter(|_| each) {
        check = check.detail(format!(
            "layer {:>3}  relative {}   cosine {}   max abs {}",
            layer.index,
            figure(layer.states.relative()),
            cosine(layer.states.cosine()),
            figure(layer.states.max_abs())
        ));
    }
    let figures: Vec<Value> = layers
        .iter()
        .map(|layer| {
            json!({
                "layer": layer.index,
                "relative": layer.states.relative(),
                "cosine": layer.states.cosine(),
                "max_abs": layer.states.max_abs(),
            })
        })
        .collect();
    check
        .figure("first_parting", first.map(|layer| layer.index))
        .figure("limit", limits.hidden)
        .figure("layers", figures)
}
