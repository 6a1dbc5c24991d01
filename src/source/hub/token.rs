//! The token that opens private and gated repos: where it comes from, by huggingface_hub's rules. Tokens that are traded for
//! an identity of a CI service (`HF_OIDC_RESOURCE`) are not: such a job sets `HF_TOKEN` itself.

use super::super::http::Secret;
use super::cache::expand;
use crate::error::{Error, ErrorKind, Result};
use crate::text::Shown;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The most that is read of a file that should hold a token.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Whether a variable says yes: `1`, `ON`, `YES`, `TRUE`, in any case.
pub fn is_truthy(name: &str, variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let value = variable(name).map(|v| v.to_string_lossy().trim().to_ascii_uppercase());
    value.is_some_and(|v| matches!(v.as_str(), "1" | "ON" | "YES" | "TRUE"))
}

/// Whether the environment says to use no network: `HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE`.
pub fn is_offline(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    is_truthy("HF_HUB_OFFLINE", &variable) || is_truthy("TRANSFORMERS_OFFLINE", &variable)
}

/// The token: of the file that the user names; else `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN`, the file `HF_TOKEN_PATH`, the
/// file `token` in `HF_HOME` (else in `huggingface` in `XDG_CACHE_HOME` or `~/.cache`). `HF_HUB_DISABLE_IMPLICIT_TOKEN`
/// leaves only the first. `None` where there is none, or an empty one.
///
/// # Errors
/// `NotFound`, `NotAllowed`, `Io`: the named file, or one that is there, cannot be read. `NotAllowed`: what was found
/// cannot be a token.
pub fn find(file: Option<&Path>, variable: impl Fn(&str) -> Option<OsString>) -> Result<Option<Secret>> {
    Ok(find_with_place(file, variable)?.map(|(token, _)| token))
}

/// The token, and the variable or the file that it is from.
///
/// # Errors
/// As [`find`].
pub fn find_with_place(
    file: Option<&Path>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<(Secret, String)>> {
    let from = |token: &str, place: String| Ok(Some((checked(token, &place)?, place)));
    if let Some(file) = file {
        let token = read(file)?.ok_or_else(|| {
            Error::not_found("is not there or holds no token").file(file.display().to_string())
        })?;
        return from(&token, file.display().to_string());
    }
    if is_truthy("HF_HUB_DISABLE_IMPLICIT_TOKEN", &variable) {
        return Ok(None);
    }
    let set = |name: &str| variable(name).filter(|v| !v.is_empty());
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        let Some(value) = set(name) else { continue };
        // An empty one after cleaning lets the file speak, as in Python.
        match clean(&value.to_string_lossy()) {
            Some(token) => return from(&token, name.to_owned()),
            None => break,
        }
    }
    let Some(path) = path(&set) else { return Ok(None) };
    match read(&path)? {
        Some(token) => from(&token, path.display().to_string()),
        None => Ok(None),
    }
}

/// The file that `hf auth login` writes.
fn path(set: &impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let home = set("HOME").or_else(|| set("USERPROFILE"));
    let named = |name: &str| set(name).map(|v| expand(v, home.as_ref(), set));
    let in_home = || {
        let cache = named("XDG_CACHE_HOME").or_else(|| home.as_ref().map(|h| Path::new(h).join(".cache")));
        named("HF_HOME").or_else(|| cache.map(|c| c.join("huggingface"))).map(|h| h.join("token"))
    };
    named("HF_TOKEN_PATH").or_else(in_home)
}

/// The token in a file; `None` where the file or the token is not there.
fn read(path: &Path) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    match std::fs::File::open(path).and_then(|f| f.take(FILE_BYTES_MAX).read_to_end(&mut bytes)) {
        Ok(_) => Ok(clean(&String::from_utf8_lossy(&bytes))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("the token cannot be read", e)
            .file(path.display().to_string())
            .hint("HF_HUB_DISABLE_IMPLICIT_TOKEN=1 does without")),
    }
}

/// Without line ends, and without spaces around it.
fn clean(text: &str) -> Option<String> {
    let text = text.replace(['\r', '\n'], "");
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// What may stand in a header.
fn checked(token: &str, from: &str) -> Result<Secret> {
    match token.chars().position(|c| !c.is_ascii_graphic()) {
        None => Ok(Secret::new(token)),
        Some(index) => {
            let message = format!(
                "the token from `{}` cannot be one: its character {} is not a plain letter, digit or sign",
                Shown(from),
                index + 1
            );
            Err(Error::new(ErrorKind::NotAllowed, message).hint("it is one word, as hf_ and 34 letters"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_the_token() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let at = path("");
        std::fs::create_dir_all(path(".cache/huggingface")).unwrap();
        std::fs::write(path(".cache/huggingface/token"), "of-home\r\n").unwrap();
        std::fs::write(path("named"), "  of-\nfile \n").unwrap();
        std::fs::write(path("empty"), " \n").unwrap();
        std::fs::write(path("token"), "of-hf-home").unwrap();
        std::fs::write(path("binary"), [0xff, 0xfe, 0]).unwrap();
        let (named, empty, binary) = (path("named"), path("empty"), path("binary"));
        type Row<'a> = (Option<&'a str>, &'a [(&'a str, &'a str)], Option<Option<&'a str>>);
        let rows: &[Row<'_>] = &[
            (None, &[], Some(None)),
            (None, &[("HOME", &at)], Some(Some("of-home"))),
            (None, &[("HOME", &at), ("HF_HOME", &at)], Some(Some("of-hf-home"))),
            (None, &[("HOME", &at), ("HF_HOME", "~/none")], Some(None)),
            (None, &[("HOME", &at), ("HF_TOKEN_PATH", "~/named")], Some(Some("of-file"))),
            (None, &[("HF_TOKEN", " a\n"), ("HUGGING_FACE_HUB_TOKEN", "b")], Some(Some("a"))),
            (None, &[("HF_TOKEN", ""), ("HUGGING_FACE_HUB_TOKEN", "b")], Some(Some("b"))),
            (None, &[("HF_TOKEN", "a"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "yes")], Some(None)),
            (
                Some(&named),
                &[("HF_TOKEN", "a"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")],
                Some(Some("of-file")),
            ),
            (Some("/nowhere/token"), &[("HF_TOKEN", "a")], None),
            (Some(&empty), &[], None),
            (Some(&binary), &[], None),
            (None, &[("HF_TOKEN", "hunter 2")], None),
            (None, &[("HF_TOKEN", "hunter2é")], None),
            (None, &[("HF_TOKEN_PATH", &at)], None),
        ];
        for (file, environment, expected) in rows {
            let get = |name: &str| environment.iter().find(|(k, _)| *k == name).map(|(_, v)| v.into());
            let got = find(file.map(Path::new), get);
            if let Err(e) = &got {
                assert!(!e.to_string().contains("hunter"), "{e}");
            }
            let got = got.ok().map(|t| t.map(|t| t.reveal().to_owned()));
            assert_eq!(got.as_ref().map(|t| t.as_deref()), *expected, "{file:?} {environment:?}");
        }
    }

    #[test]
    fn yes_and_no() {
        for (value, expected) in
            [("1", true), ("on", true), ("True", true), ("YES", true), ("0", false), ("", false)]
        {
            assert_eq!(
                is_offline(|n| (n == "TRANSFORMERS_OFFLINE").then(|| value.into())),
                expected,
                "{value}"
            );
        }
        assert!(!is_offline(|_| None));
    }
}
