//! Opening what a MODEL names. A repo of the hub that is not in the cache, or not whole, is fetched into it first, as `hoist fetch`
//! does; a command that looks at headers only reads them where they are.

use super::Common;
use hoist::Result;
use hoist::open::{self, Model, Options};
use std::path::PathBuf;

/// How a MODEL is reached: the same for each command that takes one.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Reach {
    /// Follow links that lead out of the model's directory
    #[arg(long, env = "HOIST_FOLLOW_LINKS", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) follow_links: bool,
    /// Use no network: what is not on this machine is not found
    #[arg(long, env = "HOIST_OFFLINE", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) offline: bool,
    /// Read the hub's token from this file [default: HF_TOKEN, else the file that `hf auth login` writes]
    #[arg(long, value_name = "FILE", env = "HOIST_TOKEN_FILE", hide_env_values = true)]
    pub(crate) token_file: Option<PathBuf>,
}

impl Reach {
    /// The library's options.
    pub(crate) fn options(&self) -> Options {
        Options {
            follow_links: self.follow_links,
            offline: self.offline,
            token_file: self.token_file.clone(),
            ..Options::default()
        }
    }
}

/// `--tee`.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct TeeArgs {
    /// Write what streams from the hub into the cache too; at the end the rest is fetched, and all of it verified
    #[cfg(feature = "hub")]
    #[arg(long, env = "HOIST_TEE", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    tee: bool,
}

/// What a command will read of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reads {
    /// Headers and configs.
    Headers,
    /// Tensors too.
    All,
}

impl Reads {
    /// What a command reads that may only plan.
    pub(crate) fn of(only_headers: bool) -> Reads {
        if only_headers { Reads::Headers } else { Reads::All }
    }
}

/// Opens a model by its name.
pub(crate) fn open(name: &str, reach: &Reach, reads: Reads, common: &Common) -> Result<Model> {
    open_with(name, &reach.options(), reads, common)
}

/// Opens a model by its name, reached as these options say.
pub(crate) fn open_with(name: &str, options: &Options, reads: Reads, common: &Common) -> Result<Model> {
    match open::open(name, options) {
        #[cfg(feature = "hub")]
        Err(absent) if is_fetched(name, options, &absent) => match reads {
            Reads::Headers => open::open(&format!("hf://{name}"), options).map_err(|e| nor_here(e, name)),
            Reads::All => {
                super::fetch::bring(name, options, common).map_err(|e| nor_here(e, name))?;
                open::open(name, options)
            }
        },
        opened => {
            let _ = (reads, common);
            opened
        }
    }
}

/// A model of which what streams is kept.
#[derive(Default)]
pub(crate) struct Kept {
    #[cfg(feature = "hub")]
    tees: Vec<(std::sync::Arc<hoist::fetch::tee::Tee>, hoist::fetch::wish::Wish, Options)>,
}

/// Opens a model whose tensors are read; with `--tee`, so that what streams from the hub is kept.
pub(crate) fn open_kept(
    name: &str,
    options: &Options,
    tee: &TeeArgs,
    reads: Reads,
    common: &Common,
) -> Result<(Model, Kept)> {
    #[cfg(feature = "hub")]
    if tee.tee && reads == Reads::All {
        use hoist::fetch::{tee::Tee, wish::Wish};
        let is_short = !name.starts_with("hf://");
        if is_short {
            match open::open(name, options) {
                Err(absent) if is_fetched(name, options, &absent) => {}
                opened => {
                    if name.contains("://") {
                        common.note("--tee keeps nothing of this: the cache holds repos of the hub alone");
                    }
                    return Ok((opened?, Kept::default()));
                }
            }
        }
        let uri = if is_short { format!("hf://{name}") } else { name.to_owned() };
        let mut wish = Wish::parse(&uri)?;
        wish.repo.revision = options.commit.clone().unwrap_or(wish.repo.revision);
        let tee = std::sync::Arc::new(Tee::new(super::cache::cache_at(None)?));
        let keeping = Options { through: Some(tee.clone()), ..options.clone() };
        let model = open::open(&uri, &keeping);
        let model = model.map_err(|e| if is_short { nor_here(e, name) } else { e })?;
        return Ok((model, Kept { tees: vec![(tee, wish, options.clone())] }));
    }
    let _ = tee;
    Ok((open_with(name, options, reads, common)?, Kept::default()))
}

impl Kept {
    /// Together with what is kept of another model.
    #[cfg_attr(not(feature = "verify"), allow(dead_code))]
    pub(crate) fn and(&mut self, other: Kept) {
        #[cfg(feature = "hub")]
        self.tees.extend(other.tees);
        #[cfg(not(feature = "hub"))]
        let _ = other;
    }

    /// Brings what was not read, and names all of it; the work has gone well. Readers that are still there go on without.
    pub(crate) fn finish(self, common: &Common) -> Result<()> {
        #[cfg(feature = "hub")]
        {
            // All of them first: they hold locks that fetching waits for.
            let ends: Vec<_> = self
                .tees
                .into_iter()
                .filter_map(|(tee, wish, options)| Some((tee.end(wish)?, options)))
                .collect();
            for (end, options) in ends {
                end.notes.iter().for_each(|note| common.note(note));
                super::fetch::complete(end, &options, common)?;
            }
        }
        let _ = common;
        Ok(())
    }
}

/// Whether the hub is to be asked for what was not found.
#[cfg(feature = "hub")]
fn is_fetched(name: &str, options: &Options, absent: &hoist::Error) -> bool {
    use hoist::source::hub::token::is_offline;
    let is_repo = !name.contains("://")
        && !name.starts_with('.')
        && hoist::fetch::wish::Wish::parse(name).is_ok_and(|wish| wish.repo.id.contains('/'));
    let path = name.rsplit_once(':').map_or(name, |(path, _)| path);
    let is_path = std::path::Path::new(name).exists() || std::path::Path::new(path).exists();
    absent.kind() == hoist::ErrorKind::NotFound
        && is_repo
        && !is_path
        && !options.offline
        && !is_offline(|name| std::env::var_os(name))
}

/// A name that is no repo may have been meant as a path.
#[cfg(feature = "hub")]
fn nor_here(error: hoist::Error, name: &str) -> hoist::Error {
    use hoist::ErrorKind::{Io, NotAllowed, NotFound};
    match error.kind() {
        NotFound | NotAllowed | Io => error.detail(format!(
            "no file or folder `{}` is here, so it was taken for a repo of the hub",
            hoist::text::Shown(name)
        )),
        _ => error,
    }
}
