//! The page. It is read without a script and without a network, in the light and in the dark; every name in it comes from a
//! file and is escaped.

use super::escape::{Text, short};
use super::heat::{self, Row};
use super::{About, change, percent, why_text};
use crate::quantize::{Measured, Summary, snr_db};
use crate::text::{bytes, grouped};
use std::fmt::Write;

/// Matrices that are listed one by one, at most.
const LISTED_MAX: usize = 400;
/// Tensors that stay, listed at most.
const KEPT_MAX: usize = 100;
/// Projections in the table, at most.
const ROWS_MAX: usize = 64;
/// Characters of a name.
const NAME_CHARS: usize = 90;

/// A name in the page.
fn name(text: &str) -> String {
    Text(&short(text.strip_suffix(".weight").unwrap_or(text), NAME_CHARS)).to_string()
}

const STYLE: &str = "\
:root{color-scheme:light dark;--bg:#fff;--fg:#1c1e21;--dim:#626870;--line:#dfe2e6;--card:#f6f7f9;--gap:#eceef1;\
--h0:#fdf0c4;--h1:#fbdc91;--h2:#f9c05f;--h3:#f59d40;--h4:#ea7430;--h5:#d44b28;--h6:#ae2725;--h7:#7a1021}\
@media(prefers-color-scheme:dark){:root{--bg:#15171a;--fg:#e6e8ea;--dim:#9aa1a9;--line:#2e3338;--card:#1d2024;--gap:#202327;\
--h0:#33204f;--h1:#54216a;--h2:#7b2670;--h3:#a4306a;--h4:#cc4258;--h5:#ea603e;--h6:#f88c2b;--h7:#fcc63f}}\
*{box-sizing:border-box}\
body{margin:0 auto;max-width:1180px;padding:32px 24px 64px;background:var(--bg);color:var(--fg);\
font:15px/1.5 system-ui,-apple-system,\"Segoe UI\",Roboto,\"Noto Sans\",sans-serif}\
h1{font-size:24px;line-height:1.25;margin:0 0 4px;overflow-wrap:anywhere}h2{font-size:17px;margin:40px 0 10px}\
p{margin:6px 0}.dim{color:var(--dim)}\
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:12px;margin:24px 0 0;padding:0}\
.tiles div{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px 14px}\
.tiles dt{color:var(--dim);font-size:13px}.tiles dd{margin:2px 0 0;font-size:19px;font-weight:600;white-space:nowrap}\
.tiles dd small{display:block;font-size:13px;font-weight:400;color:var(--dim);white-space:normal}\
.scroll{overflow-x:auto}\
table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}\
th{font-weight:500;color:var(--dim);text-align:left;border-bottom:1px solid var(--line)}\
th,td{padding:4px 18px 4px 0;vertical-align:baseline;white-space:nowrap}td{border-bottom:1px solid var(--gap)}\
td.n,th.n{text-align:right}td.t{white-space:normal;overflow-wrap:anywhere}\
td.bar{width:180px}td.bar i{display:block;height:9px;border-radius:2px;background:var(--h5)}\
code{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,\"DejaVu Sans Mono\",monospace}\
summary{cursor:pointer;color:var(--dim);margin:10px 0}\
svg.heat{display:block;font:12px system-ui,-apple-system,\"Segoe UI\",Roboto,\"Noto Sans\",sans-serif}\
svg text{fill:var(--dim)}svg text.label{fill:var(--fg)}\
.gap{fill:none}.kept{fill:var(--gap)}.none{fill:none;stroke:var(--line);stroke-dasharray:2}.w{pointer-events:none}\
.h0{fill:var(--h0)}.h1{fill:var(--h1)}.h2{fill:var(--h2)}.h3{fill:var(--h3)}.h4{fill:var(--h4)}.h5{fill:var(--h5)}\
.h6{fill:var(--h6)}.h7{fill:var(--h7)}\
footer{margin-top:48px;border-top:1px solid var(--line);padding-top:12px;color:var(--dim);font-size:13px}";

/// The page.
pub(super) fn page(summary: &Summary, about: &About<'_>) -> String {
    let decided = &summary.decided;
    let rows = heat::rows(summary);
    let mut out = String::with_capacity(64 << 10);
    let _ = writeln!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<meta name=\"generator\" content=\"hoist {}\">\n\
         <title>{} as {}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
        env!("CARGO_PKG_VERSION"),
        Text(about.model),
        Text(decided.scheme()),
    );
    let _ = writeln!(
        out,
        "<h1>{} as {}</h1>\n<p class=\"dim\">{}; method {}; {} of {} tensors; written to <code>{}</code></p>",
        Text(about.model),
        Text(decided.scheme()),
        Text(&decided.text()),
        decided.method(),
        grouped(summary.matrices.len() as u64),
        grouped(summary.tensors as u64),
        Text(about.out),
    );
    tiles(&mut out, summary);
    if summary.measured() < summary.matrices.len() {
        let _ = writeln!(
            out,
            "<p>Errors are those of {} of {} matrices: an earlier run had finished the files of the others.</p>",
            grouped(summary.measured() as u64),
            grouped(summary.matrices.len() as u64),
        );
    }
    if let Some((picture, left_out)) = heat::svg(&rows) {
        out.push_str("<h2>Error by layer and projection</h2>\n");
        if rows.iter().any(|r| r.layers.values().any(|c| c.measured > 1)) {
            out.push_str("<p class=\"dim\">A cell is all experts of a layer together; the strip below is the worst of them.</p>\n");
        }
        let _ = writeln!(out, "<div class=\"scroll\">\n{picture}</div>");
        if let Some(left_out) = left_out {
            let _ = writeln!(out, "<p class=\"dim\">{left_out}</p>");
        }
    }
    worst(&mut out, summary);
    projections(&mut out, &rows);
    kept(&mut out, summary);
    every(&mut out, summary);
    footer(&mut out, summary);
    out.push_str("</body>\n</html>\n");
    out
}

fn tiles(out: &mut String, summary: &Summary) {
    let (decided, written) = (&summary.decided, &summary.written);
    let sizes =
        |before: u64, after: u64| (format!("{} → {}", bytes(before), bytes(after)), change(before, after));
    let (model, model_change) = sizes(written.source_bytes, written.file_bytes);
    let (weights, weights_change) = sizes(decided.before_bytes(), decided.after_bytes());
    let mut all = vec![
        ("Whole model", model, model_change),
        ("Quantised weights", weights, weights_change),
        (
            "Bits a weight",
            format!("{:.2}", summary.bits_per_weight()),
            format!("{} numbers", grouped(decided.numbers())),
        ),
    ];
    if summary.measured() > 0 {
        let error = summary.error;
        let snr = snr_db(error.relative());
        let snr = if snr.is_finite() {
            format!("{snr:.1} dB signal to noise")
        } else {
            "nothing is lost".to_owned()
        };
        all.push(("Relative error", percent(error.relative()), snr));
    }
    if let Some(floor) = &summary.floor {
        all.push((
            "Over the floor",
            format!("{:.3} ×", floor.ratio),
            format!("on {} groups, {:.2} s", grouped(floor.groups), floor.seconds),
        ));
    }
    out.push_str("<dl class=\"tiles\">\n");
    for (name, value, about) in all {
        let _ = writeln!(out, "<div><dt>{name}</dt><dd>{value}<small>{about}</small></dd></div>");
    }
    out.push_str("</dl>\n");
}

fn matrix_row(out: &mut String, matrix: &Measured, most: Option<f64>) {
    let shape: Vec<String> = matrix.quantised.shape.iter().map(u64::to_string).collect();
    let relative = matrix.relative();
    let known = |x: Option<String>| x.unwrap_or_else(|| "–".to_owned());
    let _ = write!(
        out,
        "<tr><td class=\"t\"><code>{}</code></td><td class=\"n\">{}</td><td>{}</td><td class=\"n\">{:.2}</td>\
         <td class=\"n\">{}</td>",
        name(&matrix.quantised.name),
        shape.join(" × "),
        Text(&matrix.quantised.form),
        matrix.bits_per_weight(),
        known(relative.map(percent)),
    );
    if let (Some(most), Some(relative)) = (most, relative) {
        let width = (relative / most.max(f64::MIN_POSITIVE) * 100.0).clamp(0.0, 100.0);
        let _ = write!(out, "<td class=\"bar\"><i style=\"width:{width:.0}%\"></i></td>");
    }
    let snr = relative.map(snr_db).filter(|x| x.is_finite()).map(|x| format!("{x:.1}"));
    let _ = writeln!(
        out,
        "<td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
        known(matrix.error.map(|e| format!("{:.3e}", e.largest))),
        known(snr),
    );
}

fn worst(out: &mut String, summary: &Summary) {
    let mut all: Vec<(&Measured, f64)> =
        summary.matrices.iter().filter_map(|m| Some((m, m.relative()?))).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.quantised.name.cmp(&b.0.quantised.name)));
    all.truncate(10);
    let Some(&(_, most)) = all.first() else { return };
    out.push_str(
        "<h2>The worst</h2>\n<div class=\"scroll\"><table class=\"worst\">\n<tr><th>matrix</th><th class=\"n\">shape</th>\
         <th>form</th><th class=\"n\">bits</th><th class=\"n\">error</th><th></th><th class=\"n\">largest</th>\
         <th class=\"n\">SNR dB</th></tr>\n",
    );
    for (matrix, _) in all {
        matrix_row(out, matrix, Some(most));
    }
    out.push_str("</table></div>\n");
}

fn projections(out: &mut String, rows: &[Row]) {
    out.push_str(
        "<h2>By projection</h2>\n<div class=\"scroll\"><table>\n<tr><th>projection</th><th class=\"n\">matrices</th>\
         <th class=\"n\">shape</th><th class=\"n\">numbers</th><th class=\"n\">bytes</th><th class=\"n\">bits</th>\
         <th class=\"n\">error</th><th class=\"n\">worst</th><th class=\"n\">SNR dB</th></tr>\n",
    );
    for row in rows.iter().take(ROWS_MAX) {
        let all = &row.all;
        let shape = all.shape.as_ref().map_or_else(
            || "several".to_owned(),
            |s| s.iter().map(u64::to_string).collect::<Vec<_>>().join(" × "),
        );
        let known = |x: String| if all.measured > 0 { x } else { "–".to_owned() };
        let snr = snr_db(all.error.relative());
        let _ = writeln!(
            out,
            "<tr><td><code>{}</code></td><td class=\"n\">{}</td><td class=\"n\">{shape}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{:.2}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td></tr>",
            Text(&short(&row.label, NAME_CHARS)),
            grouped(all.matrices as u64),
            grouped(all.numbers),
            bytes(all.size_bytes),
            all.size_bytes as f64 * 8.0 / (all.numbers as f64).max(1.0),
            known(percent(all.error.relative())),
            known(percent(all.worst)),
            known(if snr.is_finite() { format!("{snr:.1}") } else { "–".to_owned() }),
        );
    }
    out.push_str("</table></div>\n");
    if rows.len() > ROWS_MAX {
        let _ = writeln!(
            out,
            "<p class=\"dim\">{} more are in the CSV and JSON reports.</p>",
            grouped((rows.len() - ROWS_MAX) as u64)
        );
    }
}

fn kept(out: &mut String, summary: &Summary) {
    if summary.kept.is_empty() {
        return;
    }
    // By reason, in order of bytes.
    let mut reasons: Vec<(String, usize, u64)> = Vec::new();
    for kept in &summary.kept {
        let why = match &kept.why {
            crate::convert::Why::Fused(_) => "engines fuse it with one that stays".to_owned(),
            why => why_text(why),
        };
        match reasons.iter_mut().find(|(w, ..)| *w == why) {
            Some((_, count, size)) => {
                *count += 1;
                *size = size.saturating_add(kept.size_bytes);
            }
            None => reasons.push((why, 1, kept.size_bytes)),
        }
    }
    reasons.sort_by(|a, b| b.2.cmp(&a.2).then(a.0.cmp(&b.0)));
    let file_bytes = summary.written.file_bytes;
    out.push_str(
        "<h2>What stays</h2>\n<div class=\"scroll\"><table>\n<tr><th>why</th><th class=\"n\">matrices</th>\
         <th class=\"n\">bytes</th><th class=\"n\">of the output</th></tr>\n",
    );
    for (why, count, size) in reasons.iter().take(ROWS_MAX) {
        let _ = writeln!(
            out,
            "<tr><td class=\"t\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            Text(why),
            grouped(*count as u64),
            bytes(*size),
            percent(*size as f64 / (file_bytes as f64).max(1.0)),
        );
    }
    out.push_str("</table></div>\n");
    if let Some(line) = super::ends_text(&summary.decided, &summary.ends, file_bytes) {
        let _ = writeln!(out, "<p>{}</p>", Text(&line));
    }
    let _ = writeln!(out, "<details><summary>Every matrix that stays</summary>\n<table>");
    for kept in summary.kept.iter().take(KEPT_MAX) {
        let _ = writeln!(
            out,
            "<tr><td class=\"t\"><code>{}</code></td><td>{}</td><td class=\"n\">{}</td><td class=\"t\">{}</td></tr>",
            name(&kept.name),
            kept.dtype,
            bytes(kept.size_bytes),
            Text(&short(&why_text(&kept.why), NAME_CHARS)),
        );
    }
    out.push_str("</table>\n");
    if summary.kept.len() > KEPT_MAX {
        let _ = writeln!(
            out,
            "<p class=\"dim\">{} more are in the CSV and JSON reports.</p>",
            grouped((summary.kept.len() - KEPT_MAX) as u64)
        );
    }
    out.push_str("</details>\n");
}

fn every(out: &mut String, summary: &Summary) {
    if summary.matrices.len() > LISTED_MAX {
        let _ = writeln!(
            out,
            "<p class=\"dim\">All {} matrices one by one are in the CSV and JSON reports.</p>",
            grouped(summary.matrices.len() as u64)
        );
        return;
    }
    out.push_str(
        "<details><summary>Every matrix</summary>\n<div class=\"scroll\"><table>\n<tr><th>matrix</th>\
         <th class=\"n\">shape</th><th>form</th><th class=\"n\">bits</th><th class=\"n\">error</th>\
         <th class=\"n\">largest</th><th class=\"n\">SNR dB</th></tr>\n",
    );
    for matrix in &summary.matrices {
        matrix_row(out, matrix, None);
    }
    out.push_str("</table></div></details>\n");
}

fn footer(out: &mut String, summary: &Summary) {
    let _ = writeln!(
        out,
        "<footer>The error is the length of the difference over the length of the weights (relative Frobenius error), the \
         difference being to the numbers that a reader of the files computes; <i>largest</i> is the largest difference of one \
         number.{} hoist {}</footer>",
        match summary.floor {
            Some(_) =>
                " The floor is the least error that the grid can have, whatever the method, found on groups spread evenly \
                 over the model.",
            None => "",
        },
        env!("CARGO_PKG_VERSION"),
    );
}
