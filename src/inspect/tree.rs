//! Names as a tree, so that a model of ten thousand tensors fits on a screen: layers that are built alike are one line
//! (`layers.{0..35}`), and a path without branches is one line too.

use crate::checkpoint::Checkpoint;
use crate::dtype::DType;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Names are split at so many dots at most, which bounds the depth whatever a file holds.
const DEPTH_MAX: usize = 32;

/// A node: what its names have in common, and sums.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// This part of the name.
    pub label: String,
    /// Tensors at and below it.
    pub tensors: u64,
    /// Their bytes, aliases counted each.
    pub size_bytes: u64,
    /// Dtype and shape, where it is a tensor (or several alike).
    pub leaf: Option<(DType, Vec<u64>)>,
    /// What is below.
    pub children: Vec<Node>,
}

/// The tree of these tensors; its root has no label.
pub fn tree(table: &Checkpoint, picked: &[usize]) -> Node {
    let mut names: Vec<(Vec<&str>, usize)> =
        picked.iter().map(|&i| (table.tensors[i].name.splitn(DEPTH_MAX, '.').collect(), i)).collect();
    let mut root = Node::default();
    grow(&mut root, table, &mut names, 0);
    let mut root = fold(root).0;
    sum(&mut root);
    root
}

/// Adds `names`, which share their first `depth` segments, below `node`.
fn grow(node: &mut Node, table: &Checkpoint, names: &mut [(Vec<&str>, usize)], depth: usize) {
    // Siblings in the order of their first appearance; names of one sibling need not stand together in the file.
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut groups: Vec<Vec<(Vec<&str>, usize)>> = Vec::new();
    for (segments, i) in names.iter_mut() {
        let Some(&segment) = segments.get(depth) else { continue };
        let place = *places.entry(segment).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[place].push((std::mem::take(segments), *i));
    }
    for mut group in groups {
        let mut child =
            Node { label: group[0].0.get(depth).copied().unwrap_or_default().to_owned(), ..Node::default() };
        for (segments, i) in &group {
            if segments.len() == depth + 1 {
                let tensor = &table.tensors[*i];
                child.tensors += 1;
                child.size_bytes = child.size_bytes.saturating_add(tensor.size_bytes());
                child.leaf = Some((tensor.dtype, tensor.shape.clone()));
            }
        }
        grow(&mut child, table, &mut group, depth + 1);
        node.children.push(child);
    }
}

/// Makes siblings with numbers for names one, where what is below them is alike. Gives the node's likeness.
fn fold(mut node: Node) -> (Node, u64) {
    let mut folded: Vec<(Node, u64, Vec<u64>)> = Vec::new();
    let mut alike: HashMap<u64, usize> = HashMap::new();
    for child in node.children {
        // A leading zero is part of a name: `01` and `1` differ.
        let number = child.label.parse::<u64>().ok().filter(|n| n.to_string() == child.label);
        let (child, likeness) = fold(child);
        match (number, number.and_then(|_| alike.get(&likeness)).copied()) {
            (Some(n), Some(place)) => {
                let (first, _, numbers) = &mut folded[place];
                numbers.push(n);
                merge(first, child);
            }
            (Some(n), None) => {
                alike.insert(likeness, folded.len());
                folded.push((child, likeness, vec![n]));
            }
            (None, _) => folded.push((child, likeness, Vec::new())),
        }
    }
    let mut likenesses = Vec::with_capacity(folded.len());
    node.children = folded
        .into_iter()
        .map(|(mut child, likeness, mut numbers)| {
            if numbers.len() > 1 {
                numbers.sort_unstable();
                child.label = runs(&numbers);
            }
            likenesses.push(hash(&(child.label.as_str(), likeness, numbers)));
            child
        })
        .collect();
    // Two layers may be written in different orders and are alike all the same.
    likenesses.sort_unstable();
    let likeness = hash(&(&node.leaf, likenesses));
    if let [only] = node.children.as_mut_slice()
        && node.leaf.is_none()
        && !node.label.is_empty()
    {
        let only = std::mem::take(only);
        node = Node { label: format!("{}.{}", node.label, only.label), ..only };
    }
    (node, likeness)
}

fn hash(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// Adds the sums of a node built alike.
fn merge(into: &mut Node, from: Node) {
    into.tensors += from.tensors;
    into.size_bytes = into.size_bytes.saturating_add(from.size_bytes);
    let places: HashMap<String, usize> =
        into.children.iter().enumerate().map(|(place, child)| (child.label.clone(), place)).collect();
    for child in from.children {
        match places.get(&child.label) {
            Some(&place) => merge(&mut into.children[place], child),
            None => into.children.push(child),
        }
    }
}

/// Adds the sums from below.
fn sum(node: &mut Node) {
    for child in &mut node.children {
        sum(child);
        node.tensors += child.tensors;
        node.size_bytes = node.size_bytes.saturating_add(child.size_bytes);
    }
}

/// `{0..35}`, `{0,2..4}`; many runs are shortened.
fn runs(sorted: &[u64]) -> String {
    const RUNS_MAX: usize = 6;
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for &n in sorted {
        match runs.last_mut() {
            Some((_, end)) if end.checked_add(1) == Some(n) => *end = n,
            _ => runs.push((n, n)),
        }
    }
    let shown = |&(a, b): &(u64, u64)| if a == b { a.to_string() } else { format!("{a}..{b}") };
    let mut parts: Vec<String> = runs.iter().take(RUNS_MAX).map(shown).collect();
    if let (Some(last), true) = (runs.last(), runs.len() > RUNS_MAX) {
        parts.pop();
        parts.extend(["…".to_owned(), shown(last)]);
    }
    format!("{{{}}}", parts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Extent, Span, Tensor};

    fn lines(node: &Node, depth: usize, out: &mut Vec<String>) {
        out.push(format!("{}{} {} {}", " ".repeat(depth), node.label, node.tensors, node.size_bytes));
        node.children.iter().for_each(|c| lines(c, depth + 1, out));
    }

    fn tree_of(names: &[(&str, u64)]) -> Vec<String> {
        let tensors = names.iter().map(|&(name, size)| Tensor {
            name: name.into(),
            dtype: DType::U8,
            shape: vec![size],
            at: Extent::plain(Span { file: Default::default(), offset_bytes: 0, size_bytes: size }),
        });
        let table = Checkpoint { tensors: tensors.collect(), ..Checkpoint::default() };
        let picked: Vec<_> = (0..names.len()).collect();
        let mut out = Vec::new();
        lines(&tree(&table, &picked), 0, &mut out);
        out
    }

    #[test]
    fn layers_fold() {
        let names = [
            ("e.weight", 1),
            ("m.layers.0.a.w", 2),
            ("m.layers.1.a.w", 2),
            ("m.layers.10.a.w", 2),
            ("m.layers.0.b", 3),
            ("m.layers.1.b", 3),
            ("m.layers.3.b", 3),
            ("m.layers.3.a.w", 2),
            ("m.layers.10.b", 3),
            ("m.layers.2.a.w", 5),
            ("m.norm", 1),
        ];
        let expected = [
            " 11 27",
            " e.weight 1 1",
            " m 10 26",
            "  layers 9 25",
            "   {0..1,3,10} 8 20",
            "    a.w 4 8",
            "    b 4 12",
            "   2.a.w 1 5",
            "  norm 1 1",
        ];
        assert_eq!(tree_of(&names), expected);
    }

    #[test]
    fn strange_names() {
        assert_eq!(tree_of(&[]), [" 0 0"]);
        assert_eq!(tree_of(&[("", 1)]), [" 1 1", "  1 1"]);
        assert_eq!(
            tree_of(&[("a", 1), ("a.b", 2), ("01", 1), ("1", 1)]),
            [" 4 5", " a 2 3", "  b 1 2", " 01 1 1", " 1 1 1"]
        );
        let deep = ".x".repeat(100_000);
        assert_eq!(tree_of(&[(&deep, 1)]).len(), 3);
        assert_eq!(runs(&[0, 2, 4, 6, 8, 10, 12, 13]), "{0,2,4,6,8,…,12..13}");
    }
}
