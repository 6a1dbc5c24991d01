//! Where a matrix stands in its model, by its name alone: layer, projection, expert.

/// Segments before a layer's number.
const LAYERS: &[&str] = &["layers", "layer", "h", "blk", "blocks", "block"];
/// Segments that only say which half of a layer it is; names are shorter without.
const HALVES: &[&str] = &["self_attn", "mlp", "block_sparse_moe", "feed_forward", "attention", "ffn"];

/// A place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// What comes before the layers: which of a model's stacks.
    pub stack: String,
    /// The layer, counted from zero.
    pub layer: Option<u64>,
    /// Which matrix of the layer, numbers left out.
    pub projection: String,
    /// The expert, counted from zero.
    pub expert: Option<u64>,
}

/// The place of a name.
pub(super) fn place(name: &str) -> Place {
    let name = name.strip_suffix(".weight").unwrap_or(name);
    let segments: Vec<&str> = name.split('.').collect();
    let number = |s: &str| -> Option<u64> {
        // As every file writes it, so that two names are never one place.
        let n: u64 = s.parse().ok()?;
        (n.to_string() == s).then_some(n)
    };
    let at = segments.windows(2).position(|w| LAYERS.contains(&w[0]) && number(w[1]).is_some());
    let Some(at) = at else { return Place { projection: name.to_owned(), ..Place::default() } };
    let mut place = Place {
        stack: segments[..at].join("."),
        layer: segments.get(at + 1).and_then(|s| number(s)),
        ..Place::default()
    };
    let rest = segments.get(at + 2..).unwrap_or(&[]);
    let mut kept: Vec<&str> = Vec::with_capacity(rest.len());
    for (i, segment) in rest.iter().enumerate() {
        let is_expert = i > 0 && rest[i - 1] == "experts";
        match number(segment) {
            Some(expert) if is_expert => place.expert = Some(expert),
            _ if HALVES.contains(segment) && i + 1 < rest.len() => {}
            _ => kept.push(segment),
        }
    }
    place.projection = kept.join(".");
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        for (name, layer, projection, expert) in [
            ("model.layers.3.self_attn.q_proj.weight", Some(3), "q_proj", None),
            ("model.layers.12.mlp.experts.127.gate_proj.weight", Some(12), "experts.gate_proj", Some(127)),
            ("model.layers.0.mlp.shared_expert.up_proj.weight", Some(0), "shared_expert.up_proj", None),
            ("blk.7.attn_q.weight", Some(7), "attn_q", None),
            ("h.1.mlp.c_fc.weight", Some(1), "c_fc", None),
            ("lm_head.weight", None, "lm_head", None),
            ("model.layers.03.q_proj.weight", None, "model.layers.03.q_proj", None),
            ("layers.99999999999999999999.x", None, "layers.99999999999999999999.x", None),
            ("layers", None, "layers", None),
            ("", None, "", None),
        ] {
            let found = place(name);
            assert_eq!(
                (found.layer, found.projection.as_str(), found.expert),
                (layer, projection, expert),
                "{name}"
            );
        }
    }
}
