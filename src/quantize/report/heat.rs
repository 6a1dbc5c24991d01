//! The heat map: a cell for each layer and projection, its colour the error. Experts of one layer and projection share a cell,
//! which shows all of them together and, below, the worst of them.

use super::escape::{Text, short};
use super::percent;
use super::place::{Place, place};
use crate::quantize::Summary;
use crate::text::grouped;
use crate::transform::method;
use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;

/// Projections that are drawn, at most.
const ROWS_MAX: usize = 48;
/// Layers that are drawn, at most.
const LAYERS_MAX: usize = 256;
/// Colours.
pub(super) const SHADES: usize = 8;

/// What is known of the matrices of one layer and projection, or of a projection in all layers.
#[derive(Debug, Clone, Default)]
pub(super) struct Cell {
    /// Matrices.
    pub matrices: usize,
    /// Those that stayed as they are.
    pub kept: usize,
    /// Those whose error is known.
    pub measured: usize,
    /// The error of all of those.
    pub error: method::Error,
    /// The largest relative error, and whose it is.
    pub worst: f64,
    /// The expert that has it.
    pub worst_expert: Option<u64>,
    /// Numbers.
    pub numbers: u64,
    /// Bytes of what holds them.
    pub size_bytes: u64,
    /// Sizes, where all have the same.
    pub shape: Option<Vec<u64>>,
}

impl Cell {
    fn relative(&self) -> Option<f64> {
        (self.measured > 0).then(|| self.error.relative())
    }
}

/// A projection.
#[derive(Debug, Clone, Default)]
pub(super) struct Row {
    /// What it is called.
    pub label: String,
    /// By layer; a matrix of none has none.
    pub layers: HashMap<u64, Cell>,
    /// All of them.
    pub all: Cell,
}

/// All projections, in the model's order.
pub(super) fn rows(summary: &Summary) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut index: HashMap<(String, String), usize> = HashMap::new();
    let stacks: BTreeSet<String> = summary.matrices.iter().map(|m| place(&m.quantised.name).stack).collect();
    let has_stacks = stacks.iter().filter(|s| !s.is_empty()).count() > 1;
    for matrix in &summary.matrices {
        let Place { stack, layer, projection, expert } = place(&matrix.quantised.name);
        let label = if has_stacks && !stack.is_empty() {
            format!("{stack} {projection}")
        } else {
            projection.clone()
        };
        let at = *index.entry((stack, projection)).or_insert_with(|| {
            rows.push(Row { label, ..Row::default() });
            rows.len() - 1
        });
        let Some(row) = rows.get_mut(at) else { continue };
        let cell = layer.map(|layer| row.layers.entry(layer).or_default());
        for cell in cell.into_iter().chain([&mut row.all]) {
            if cell.matrices == 0 {
                cell.shape = Some(matrix.quantised.shape.clone());
            } else if cell.shape.as_ref().is_some_and(|s| *s != matrix.quantised.shape) {
                cell.shape = None;
            }
            cell.matrices += 1;
            cell.numbers = cell.numbers.saturating_add(matrix.numbers());
            cell.size_bytes = cell.size_bytes.saturating_add(matrix.quantised.after_bytes);
            let Some(error) = matrix.error else { continue };
            cell.measured += 1;
            cell.error = cell.error.and(error);
            if error.relative() > cell.worst {
                (cell.worst, cell.worst_expert) = (error.relative(), expert);
            }
        }
    }
    // What stays among layers that are quantised leaves a gap that has a reason.
    for kept in &summary.kept {
        let Place { stack, layer, projection, .. } = place(&kept.name);
        let row = index.get(&(stack, projection)).and_then(|&at| rows.get_mut(at));
        if let (Some(row), Some(layer)) = (row, layer) {
            row.layers.entry(layer).or_default().kept += 1;
        }
    }
    rows
}

/// Errors and the colours they get, in equal steps.
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    fn of(rows: &[Row]) -> Option<Scale> {
        let cells = || rows.iter().flat_map(|r| r.layers.values()).filter(|c| c.measured > 0);
        let low = cells().map(|c| c.error.relative()).reduce(f64::min)?;
        let high = cells().map(|c| c.worst.max(c.error.relative())).reduce(f64::max)?;
        // What hardly differs is not to look as if it did.
        Some(Scale { low, high: high.max(low * 1.2) })
    }

    fn shade(&self, x: f64) -> usize {
        let step = (x - self.low) / (self.high - self.low).max(f64::MIN_POSITIVE) * SHADES as f64;
        (step.clamp(0.0, SHADES as f64 - 1.0)) as usize
    }

    fn bound(&self, shade: usize) -> f64 {
        self.low + (self.high - self.low) * shade as f64 / SHADES as f64
    }
}

const CELL_HEIGHT: usize = 24;
const GAP: usize = 2;
const AXIS_HEIGHT: usize = 40;
const LEGEND_HEIGHT: usize = 52;

/// The picture; `None` where there is nothing to draw. With it what had no room.
pub(super) fn svg(rows: &[Row]) -> Option<(String, Option<String>)> {
    let with_layers: Vec<&Row> = rows.iter().filter(|r| !r.layers.is_empty()).collect();
    let mut layers: Vec<u64> = with_layers.iter().flat_map(|r| r.layers.keys().copied()).collect();
    layers.sort_unstable();
    layers.dedup();
    if layers.is_empty() {
        return None;
    }
    let scale = Scale::of(rows);
    let left_out = (with_layers.len() > ROWS_MAX || layers.len() > LAYERS_MAX).then(|| {
        format!(
            "Drawn are {} of {} layers and {} of {} projections; the CSV and JSON reports have all.",
            layers.len().min(LAYERS_MAX),
            grouped(layers.len() as u64),
            with_layers.len().min(ROWS_MAX),
            grouped(with_layers.len() as u64),
        )
    });
    let with_layers = with_layers.get(..ROWS_MAX).unwrap_or(&with_layers);
    layers.truncate(LAYERS_MAX);
    let labels: Vec<String> = with_layers.iter().map(|r| short(&r.label, 30)).collect();
    let left = labels.iter().map(|l| l.chars().count()).max().unwrap_or(0) * 7 + 14;
    let step = (900 / layers.len()).clamp(7, 44);
    let width = (left + step * layers.len() + 12).max(left + 360);
    let grid = with_layers.len() * (CELL_HEIGHT + GAP);
    let height = grid + AXIS_HEIGHT + LEGEND_HEIGHT;
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg class=\"heat\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\" \
         xmlns=\"http://www.w3.org/2000/svg\"><title>Relative error by layer and projection</title>"
    );
    for (y, (row, label)) in with_layers.iter().zip(&labels).enumerate() {
        let y = y * (CELL_HEIGHT + GAP);
        let _ = writeln!(
            out,
            "<text class=\"label\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            left - 8,
            y + CELL_HEIGHT / 2 + 4,
            Text(label)
        );
        for (x, layer) in layers.iter().enumerate() {
            cell(
                &mut out,
                (left + x * step, y, step - GAP.min(step / 4)),
                *layer,
                label,
                row,
                scale.as_ref(),
            );
        }
    }
    axis(&mut out, &layers, left, step, grid);
    legend(&mut out, scale.as_ref(), left, grid + AXIS_HEIGHT);
    out.push_str("</svg>\n");
    Some((out, left_out))
}

/// One cell: its place and width, what it is, and its colours.
fn cell(
    out: &mut String,
    (x, y, width): (usize, usize, usize),
    layer: u64,
    label: &str,
    row: &Row,
    scale: Option<&Scale>,
) {
    let found = row.layers.get(&layer);
    let relative = found.and_then(Cell::relative);
    let class = match (found, relative, scale) {
        (_, Some(relative), Some(scale)) => format!("c h{}", scale.shade(relative)),
        (None, ..) => "c gap".to_owned(),
        (Some(c), ..) if c.matrices == 0 => "c kept".to_owned(),
        _ => "c none".to_owned(),
    };
    let _ = write!(
        out,
        "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{CELL_HEIGHT}\"><title>layer {layer} {}: ",
        Text(label)
    );
    let said = match (found, relative) {
        (None, _) => "has none".to_owned(),
        (Some(c), None) if c.matrices == 0 => "kept as it is".to_owned(),
        (Some(_), None) => "not measured in this run".to_owned(),
        (Some(c), Some(relative)) if c.matrices == 1 => percent(relative),
        (Some(c), Some(relative)) => {
            let which = c.worst_expert.map(|e| format!(" (expert {e})")).unwrap_or_default();
            format!("{} together, worst {}{which}", percent(relative), percent(c.worst))
        }
    };
    let _ = writeln!(out, "{said}</title></rect>");
    if let (Some(c), Some(scale)) = (found, scale)
        && c.measured > 1
    {
        let strip = CELL_HEIGHT / 3;
        let _ = writeln!(
            out,
            "<rect class=\"w h{}\" x=\"{x}\" y=\"{}\" width=\"{width}\" height=\"{strip}\"/>",
            scale.shade(c.worst),
            y + CELL_HEIGHT - strip
        );
    }
}

/// Numbers of layers below the grid, as many as have room.
fn axis(out: &mut String, layers: &[u64], left: usize, step: usize, top: usize) {
    let digits = layers.last().map_or(1, |l| l.to_string().len());
    let room = (digits * 7 + 8).div_ceil(step);
    let every = [1, 2, 4, 5, 8, 10, 16, 20, 32, 64, 128].into_iter().find(|&n| n >= room).unwrap_or(256);
    for (i, layer) in layers.iter().enumerate().filter(|(i, _)| i % every == 0) {
        let x = left + i * step + step / 2;
        let _ = writeln!(
            out,
            "<text class=\"tick\" x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{layer}</text>",
            top + 14
        );
    }
    let _ = writeln!(out, "<text class=\"tick\" x=\"{left}\" y=\"{}\">layer</text>", top + 31);
}

/// What colours mean.
fn legend(out: &mut String, scale: Option<&Scale>, left: usize, top: usize) {
    let Some(scale) = scale else { return };
    let width = 34;
    for shade in 0..SHADES {
        let _ = writeln!(
            out,
            "<rect class=\"k h{shade}\" x=\"{}\" y=\"{top}\" width=\"{width}\" height=\"12\"/>",
            left + shade * width
        );
    }
    for shade in [0, SHADES / 2, SHADES] {
        let anchor = match shade {
            0 => "start",
            SHADES => "end",
            _ => "middle",
        };
        let _ = writeln!(
            out,
            "<text class=\"tick\" x=\"{}\" y=\"{}\" text-anchor=\"{anchor}\">{}</text>",
            left + shade * width,
            top + 27,
            percent(scale.bound(shade))
        );
    }
    let _ = writeln!(
        out,
        "<text class=\"tick\" x=\"{}\" y=\"{}\">relative error</text>",
        left + SHADES * width + 10,
        top + 11
    );
}
