//! GGUF repos: one quantisation of many, all its splits, and the projector where it is wanted.

use super::{Fate, file_of, is_gguf};
use crate::error::{Error, ErrorKind, Result};
use crate::format::gguf::names::{is_side_file, quant_equals, quant_of_name};
use crate::open::choose::{self, Weights};
use crate::source::Entry;
use std::collections::BTreeSet;

/// Encodings in which a projector is taken where there are several: what every engine reads first.
const PROJECTORS: &[&str] = &["F16", "BF16", "F32"];

/// Leaves the files of one GGUF model, and of one projector. Leaves nothing and says nothing where there is no GGUF and none
/// was asked for.
///
/// # Errors
/// `Usage`: several and no choice. `NotFound`: no such quantisation, no projector, a split that is not there.
pub(super) fn take(
    files: &[Entry],
    fates: &mut [Fate],
    wanted: Option<&str>,
    projector: bool,
    notes: &mut Vec<String>,
) -> Result<()> {
    let open: Vec<Entry> = files
        .iter()
        .zip(fates.iter())
        .filter(|(f, fate)| fate.is_none() && is_gguf(&f.name))
        .map(|(f, _)| f.clone())
        .collect();
    let projectors: Vec<&Entry> = open.iter().filter(|f| is_projector(&f.name)).collect();
    let chosen = choose::choose(&open, wanted).map_err(|e| match (e.kind(), wanted, projectors.len()) {
        (ErrorKind::Usage, None, 0) => e.hint_instead("add the quantisation to the name: `NAME:Q4_K_M`"),
        (ErrorKind::Usage, None, _) => e.hint_instead(
            "add the quantisation to the name: `NAME:Q4_K_M`, and with the vision projector `NAME:Q4_K_M+mmproj`",
        ),
        (ErrorKind::Usage, Some(_), _) => {
            e.hint_instead("--include takes the files that you name: --include 'FOLDER/*'")
        }
        _ => e,
    })?;
    let mut keep: BTreeSet<String> = match chosen {
        Some(Weights::Gguf(names) | Weights::Files(names)) => names.into_iter().collect(),
        _ => BTreeSet::new(),
    };
    if projector {
        let of = |wanted: &str| {
            projectors.iter().find(|f| quant_of_name(&f.name).is_some_and(|q| quant_equals(q, wanted)))
        };
        let best = PROJECTORS.iter().find_map(|wanted| of(wanted)).or(projectors.first());
        let best = best.ok_or_else(|| {
            Error::not_found("holds no vision projector (`mmproj-….gguf`)").hint("leave out `+mmproj`")
        })?;
        if projectors.len() > 1 {
            notes.push(format!("{} projectors; `{}` is fetched", projectors.len(), best.name));
        }
        keep.insert(best.name.clone());
    }
    for (file, fate) in files.iter().zip(fates).filter(|(f, _)| is_gguf(&f.name)) {
        if !keep.contains(&file.name) {
            let why = match (is_projector(&file.name), projector) {
                (true, false) => "vision projectors; `+mmproj` takes one",
                (true, true) => "other projectors",
                _ => "other quantisations",
            };
            fate.get_or_insert_with(|| why.to_owned());
        }
    }
    Ok(())
}

fn is_projector(name: &str) -> bool {
    is_side_file(name) && file_of(name).to_ascii_lowercase().contains("mmproj")
}
