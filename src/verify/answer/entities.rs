//! From the scores of tokens to what a text names: neighbouring tokens of one kind are one thing.
//!
//! As transformers' pipeline does with `aggregation_strategy="simple"`: each token has its likeliest class; `B-` begins a new
//! thing, `I-` and no prefix go on with one of the same kind; `O` is nothing. Tokens that stand for no text (`[CLS]`) end
//! nothing and belong to nothing.

use super::Entity;
use crate::transform::task::Classes;
use std::ops::Range;

/// The class of tokens that name nothing.
const NOTHING: &str = "O";

/// One thing on its way.
struct Group {
    label: String,
    characters: Range<usize>,
    probabilities: Vec<f32>,
}

/// What the tokens of `text` name. `scores` and `places` (characters; `None` for tokens that stand for no text) go token for
/// token.
pub(super) fn entities(
    text: &str,
    classes: &Classes,
    scores: &[Vec<f32>],
    places: &[Option<Range<usize>>],
) -> Vec<Entity> {
    let mut groups: Vec<Group> = Vec::new();
    for (scores, place) in scores.iter().zip(places) {
        let Some(place) = place else { continue };
        let probabilities = classes.probability.of(scores);
        let best = probabilities.iter().copied().enumerate().reduce(|a, b| if b.1 > a.1 { b } else { a });
        let Some((class, probability)) = best else { continue };
        let name = classes.labels.get(class).map_or(NOTHING, String::as_str);
        let (begins, label) = match (name.strip_prefix("B-"), name.strip_prefix("I-")) {
            (Some(kind), _) => (true, kind),
            (None, Some(kind)) => (false, kind),
            (None, None) => (false, name),
        };
        match groups.last_mut() {
            Some(group) if !begins && group.label == label => {
                group.characters.end = group.characters.end.max(place.end);
                group.probabilities.push(probability);
            }
            _ => groups.push(Group {
                label: label.to_owned(),
                characters: place.clone(),
                probabilities: vec![probability],
            }),
        }
    }
    let entity = |group: Group| {
        let Range { start, end } = group.characters;
        let sum: f32 = group.probabilities.iter().sum();
        Entity {
            label: group.label,
            text: text.chars().skip(start).take(end.saturating_sub(start)).collect(),
            characters: start..end,
            probability: sum / group.probabilities.len() as f32,
        }
    };
    groups.into_iter().filter(|group| group.label != NOTHING).map(entity).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::task::Probability;

    #[test]
    fn tokens_become_things() {
        let labels = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC"];
        let classes = Classes {
            pooling: None,
            dense: None,
            norm: None,
            labels: labels.map(str::to_owned).to_vec(),
            probability: Probability::Softmax,
        };
        // The likeliest class of each token, and its characters.
        type Row<'a> =
            (&'a str, &'a [(&'a str, Option<Range<usize>>)], &'a [(&'a str, Range<usize>, &'a str)]);
        let rows: &[Row<'_>] = &[
            (
                "Ada Lovelace in Zürich",
                &[
                    ("O", None),
                    ("B-PER", Some(0..3)),
                    ("I-PER", Some(4..8)),
                    ("I-PER", Some(8..12)),
                    ("O", Some(13..15)),
                    ("B-LOC", Some(16..22)),
                    ("B-LOC", None),
                ],
                &[("PER", 0..12, "Ada Lovelace"), ("LOC", 16..22, "Zürich")],
            ),
            // A second beginning is a second thing; an inside without a beginning is one too.
            (
                "Ann Bob Rome",
                &[("B-PER", Some(0..3)), ("B-PER", Some(4..7)), ("I-LOC", Some(8..12))],
                &[("PER", 0..3, "Ann"), ("PER", 4..7, "Bob"), ("LOC", 8..12, "Rome")],
            ),
            // Without prefixes, neighbours of one kind are one; what stands for no text is passed over.
            ("a b", &[("MISC", Some(0..1)), ("O", None), ("MISC", Some(2..3))], &[("MISC", 0..3, "a b")]),
            (
                "a b c",
                &[("MISC", Some(0..1)), ("O", Some(2..3)), ("MISC", Some(4..5))],
                &[("MISC", 0..1, "a"), ("MISC", 4..5, "c")],
            ),
            ("", &[], &[]),
        ];
        for (text, tokens, expected) in rows {
            let score = |label: &str| labels.map(|l| if l == label { 4.0 } else { 0.0 }).to_vec();
            let scores: Vec<Vec<f32>> = tokens.iter().map(|(label, _)| score(label)).collect();
            let places: Vec<Option<Range<usize>>> = tokens.iter().map(|(_, place)| place.clone()).collect();
            let found = entities(text, &classes, &scores, &places);
            let shown: Vec<_> =
                found.iter().map(|e| (e.label.as_str(), e.characters.clone(), e.text.as_str())).collect();
            assert_eq!(shown, *expected, "{text}");
            let probability = 4f32.exp() / (4f32.exp() + 5.0);
            assert!(found.iter().all(|e| (e.probability - probability).abs() < 1e-6), "{found:?}");
        }
    }
}
