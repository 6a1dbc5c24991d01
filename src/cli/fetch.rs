//! `hoist fetch`: arguments and output; the work is the library's. The path of what was fetched is all that goes to standard
//! output, so that `$(hoist fetch org/name)` is that path.

#[cfg(feature = "object")]
mod far;

use super::cache::cache_at;
use super::output::{Out, size_bytes};
use super::progress::Watch;
use super::{Common, Progress, model_text, say, signals};
use hoist::fetch::choose::{LeftOut, Wishes};
use hoist::fetch::origin::Origin;
use hoist::fetch::wish::Wish;
use hoist::fetch::{Fetched, How, Options, fetch, transfer};
use hoist::source::http::{self, Client};
use hoist::source::hub::api::{Hub, Settings};
use hoist::source::hub::cache::Cache;
use hoist::source::hub::token::{is_offline, is_truthy};
use hoist::text::{Shown, bytes, grouped, rate};
use hoist::{Error, ErrorKind, Result};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The arguments of `hoist fetch`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// `org/name[@revision]`, one quantisation of a GGUF repo `org/name:Q4_K_M`, with its vision projector
    /// `org/name:Q4_K_M+mmproj`, one file `hf://org/name/path`; with --local-dir also `s3://…`, `gs://…`, `az://…`, `https://…`
    model: OsString,
    /// Take what matches a pattern, whatever it is; a folder's name with `/` is all that is in it
    #[arg(long, value_name = "GLOB", env = "HOIST_INCLUDE", hide_env_values = true)]
    include: Vec<String>,
    /// Leave out what matches a pattern
    #[arg(long, value_name = "GLOB", env = "HOIST_EXCLUDE", hide_env_values = true)]
    exclude: Vec<String>,
    /// Take everything: other formats, variants and training state too
    #[arg(long, env = "HOIST_ALL", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    all: bool,
    /// The branch, tag or commit [default: main, or what follows `@`]
    #[arg(long, value_name = "REV", env = "HOIST_REVISION", hide_env_values = true)]
    revision: Option<String>,
    /// Put the files into this folder instead of the cache
    #[arg(long, value_name = "DIR", env = "HOIST_LOCAL_DIR", hide_env_values = true)]
    local_dir: Option<PathBuf>,
    /// The cache [default: as huggingface_hub finds it: HF_HUB_CACHE, HF_HOME, …]
    #[arg(long, value_name = "DIR", env = "HOIST_CACHE_DIR", hide_env_values = true)]
    cache_dir: Option<PathBuf>,
    /// Connections at a time, at most; as many are used as pay off
    #[arg(long, value_name = "N", default_value = "16", env = "HOIST_MAX_WORKERS", hide_env_values = true)]
    max_workers: NonZeroUsize,
    /// Bytes a second, at most: 20MB
    #[arg(long, value_name = "SIZE", value_parser = size_bytes, env = "HOIST_LIMIT_RATE", hide_env_values = true)]
    limit_rate: Option<u64>,
    /// Ask nothing of the network: what is not there is an error
    #[arg(long, env = "HOIST_OFFLINE", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    offline: bool,
    /// Ask the hub again for what is known of the commit
    #[arg(long, env = "HOIST_REFRESH", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    refresh: bool,
    /// Say what would be fetched, and fetch nothing
    #[arg(long, env = "HOIST_DRY_RUN", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    dry_run: bool,
    /// Read the token from this file [default: HF_TOKEN, else the file that `hf auth login` writes]
    #[arg(long, value_name = "FILE", env = "HOIST_TOKEN_FILE", hide_env_values = true)]
    token_file: Option<PathBuf>,
    /// Write commit, sizes and hashes into this file; with --locked, take them from it
    #[arg(long, value_name = "FILE", env = "HOIST_LOCK", hide_env_values = true)]
    lock: Option<PathBuf>,
    /// Fetch what the lock file says; any difference is an error
    #[arg(long, env = "HOIST_LOCKED", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    locked: bool,
    /// Refuse files whose hash no listing tells, and read again those that are there
    #[arg(long, env = "HOIST_REQUIRE_HASH", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    require_hash: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, common: &Common) -> Result<()> {
    let variable = |name: &str| std::env::var_os(name);
    // Not clap's business: a variable that says no would count as a flag that was given.
    for (is_wrong, message) in [
        (args.all && !args.include.is_empty(), "--all takes everything, --include only a part"),
        (args.include.iter().any(String::is_empty), "--include takes a pattern, not nothing"),
        (args.exclude.iter().any(String::is_empty), "--exclude takes a pattern, not nothing"),
        (args.offline && args.refresh, "--refresh asks the hub, --offline forbids it"),
        (args.locked && args.lock.is_none(), "--locked needs a lock file: --lock FILE"),
        (args.locked && args.refresh, "--refresh asks what is newest, --locked takes what is locked"),
    ] {
        if is_wrong {
            return Err(Error::usage(message));
        }
    }
    let model = model_text(&args.model)?;
    let is_offline = args.offline || (is_offline(variable) && !args.refresh);
    #[cfg(feature = "object")]
    if far::is_far(model) {
        return run_far(model, &args, is_offline, common);
    }
    let mut wish = Wish::parse(model)?;
    if let Some(revision) = &args.revision {
        let name = format!("{}@{revision}", wish.repo.id);
        let repo = hoist::source::hub::cache::Repo::parse(&name);
        wish.repo = repo.ok_or_else(|| Error::usage(format!("`{}` is no revision", Shown(revision))))?;
    }
    let cache = match (cache_at(args.cache_dir.as_ref()), &args.local_dir) {
        (Err(_), Some(_)) => None,
        (found, _) => Some(found?),
    };
    let hub = match is_offline {
        true => None,
        false => Some(hub(args.token_file.as_deref())?),
    };
    carry_out(hub, wish, options(&args, cache), common)
}

/// Brings a repo into the cache for a command that needs it.
pub(crate) fn bring(name: &str, open: &hoist::open::Options, common: &Common) -> Result<()> {
    let variable = |name: &str| std::env::var_os(name);
    let mut wish = Wish::parse(name)?;
    wish.repo.revision = open.commit.clone().unwrap_or(wish.repo.revision);
    let options = Options {
        links: !is_truthy("HF_HUB_DISABLE_SYMLINKS", variable),
        ..Options::new(Some(cache_at(None)?))
    };
    let fetched = fetched(Some(hub(open.token_file.as_deref())?), wish, options, common)?;
    if !common.quiet && common.progress() != Progress::Json {
        lines(&fetched, false).iter().for_each(|line| say(line));
    }
    Ok(())
}

/// Brings the rest of a repo of which a part came by being read.
pub(crate) fn complete(
    end: hoist::fetch::tee::End,
    open: &hoist::open::Options,
    common: &Common,
) -> Result<()> {
    let options = Options {
        links: !is_truthy("HF_HUB_DISABLE_SYMLINKS", |name| std::env::var_os(name)),
        wishes: end.wishes,
        at_hand: end.at_hand,
        ..Options::new(Some(cache_at(None)?))
    };
    let fetched = fetched(Some(hub(open.token_file.as_deref())?), end.wish, options, common)?;
    if !common.quiet && common.progress() != Progress::Json {
        say(&format!(
            "kept   {} in {} in the cache   verified   {} of it came while it was read   {} received",
            bytes(fetched.size_bytes()),
            plural(fetched.files.len(), "file"),
            bytes(fetched.resumed_bytes),
            bytes(end.received_bytes + fetched.received_bytes),
        ));
    }
    Ok(())
}

/// The hub that the environment names.
fn hub(token_file: Option<&Path>) -> Result<Arc<dyn Origin>> {
    let variable = |name: &str| std::env::var_os(name);
    let settings = Settings::from_environment(token_file, variable)?;
    let client = Client::with(&http::settings::Settings::from_environment(variable)?)?;
    Ok(Arc::new(Hub::new(client, settings)))
}

/// Objects of a store, files of a web server.
#[cfg(feature = "object")]
fn run_far(model: &str, args: &Args, is_offline: bool, common: &Common) -> Result<()> {
    let name = hoist::source::without_secrets(model);
    if args.local_dir.is_none() {
        let message = format!("`{}` is of no hub, whose repos alone the cache holds", Shown(&name));
        let hint = match page_of(&name) {
            Some(repo) => format!("hoist fetch {repo}"),
            None => "--local-dir DIR says where to".to_owned(),
        };
        return Err(Error::usage(message).hint(hint));
    }
    if args.revision.is_some() {
        return Err(Error::usage(format!("`{}` has no revisions", Shown(&name))));
    }
    if is_offline {
        return Err(Error::not_found("lies beyond the network, which may not be used (--offline)").file(name));
    }
    let (wish, origin) = far::find(model)?;
    carry_out(Some(origin), wish, options(args, None), common)
}

/// The repo whose page on the hub a URL is.
#[cfg(feature = "object")]
fn page_of(url: &str) -> Option<String> {
    let path = url.strip_prefix("https://huggingface.co/").or_else(|| url.strip_prefix("https://hf.co/"))?;
    let mut parts = path.trim_end_matches('/').split('/');
    let (owner, name) = (parts.next()?, parts.next()?);
    let is_repo = !matches!(owner, "api" | "collections" | "datasets" | "docs" | "spaces" | "");
    is_repo.then(|| Shown(&format!("{owner}/{name}")).to_string())
}

fn options(args: &Args, cache: Option<Cache>) -> Options {
    let links = !is_truthy("HF_HUB_DISABLE_SYMLINKS", |name| std::env::var_os(name));
    Options {
        local_dir: args.local_dir.clone(),
        wishes: Wishes {
            include: args.include.clone(),
            exclude: args.exclude.clone(),
            all: args.all,
            ..Wishes::default()
        },
        transfer: transfer::Options {
            connections_max: args.max_workers.get(),
            limit_bytes_per_second: args.limit_rate,
            ..transfer::Options::default()
        },
        refresh: args.refresh,
        dry_run: args.dry_run,
        links,
        require_hash: args.require_hash,
        lock: args.lock.clone(),
        locked: args.locked,
        ..Options::new(cache)
    }
}

/// Fetches, with a bar, and what is to be noted said.
fn fetched(
    origin: Option<Arc<dyn Origin>>,
    wish: Wish,
    options: Options,
    common: &Common,
) -> Result<Fetched> {
    // From here on a signal has something to keep: what has come is taken up by the next run.
    let cancel = signals::cancelled();
    let job = fetch(origin, wish, options);
    Watch::new(common, "fetch").follow(&job, cancel, false);
    let fetched = job.wait().map_err(|e| match signals::received() {
        Some(_) => signals::stopped().hint("the same command goes on where this one stopped"),
        None if e.kind() == ErrorKind::Io => e.hint("the same command goes on where this one stopped"),
        None if e.kind() == ErrorKind::NotAllowed => {
            e.hint("--cache-dir or HF_HUB_CACHE names another cache, --local-dir a folder")
        }
        None => e,
    })?;
    fetched.notes.iter().for_each(|note| common.note(note));
    Ok(fetched)
}

fn carry_out(origin: Option<Arc<dyn Origin>>, wish: Wish, options: Options, common: &Common) -> Result<()> {
    let fetched = fetched(origin, wish, options, common)?;
    let summary = lines(&fetched, common.verbose > 0);
    let mut out = Out::stdout();
    if fetched.is_dry_run && !common.json {
        // The plan is what was asked for.
        summary.iter().try_for_each(|line| out.line(line))?;
        return out.finish();
    }
    if !common.quiet && common.progress() != Progress::Json {
        summary.iter().for_each(|line| say(line));
    }
    match common.json {
        true => out.json("hoist.fetch/1", document(&fetched))?,
        false => out.line(&path_text(&fetched)?)?,
    }
    out.finish()
}

/// The path, for a shell: one line.
fn path_text(fetched: &Fetched) -> Result<String> {
    let text = fetched.path.to_str().filter(|text| !text.contains('\n'));
    let message = || {
        Error::usage("the path of the files cannot be printed: it is not UTF-8, or has a line's end in it")
    };
    text.map(str::to_owned).ok_or_else(message)
}

fn plural(n: usize, word: &str) -> String {
    format!("{} {word}{}", grouped(n as u64), if n == 1 { "" } else { "s" })
}

/// The result for a person.
fn lines(fetched: &Fetched, verbose: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let count = |how: How| fetched.files.iter().filter(|f| f.how == how).count();
    let there = match count(How::Reused) + count(How::Copied) {
        0 => String::new(),
        n => format!("   {} there already ({})", plural(n, "file"), bytes(fetched.reused_bytes)),
    };
    let unverified = fetched.files.iter().filter(|f| !f.is_verified).count();
    let verified = if unverified == 0 { "   verified" } else { "" };
    let short = fetched.commit.get(..12).unwrap_or(&fetched.commit);
    if fetched.is_dry_run {
        lines.push(format!(
            "would fetch  {} in {}{there}   {}@{}   {short}",
            bytes(fetched.fetched_bytes),
            plural(count(How::Fetched), "file"),
            fetched.repo,
            Shown(&fetched.revision),
        ));
    } else if count(How::Fetched) == 0 {
        lines.push(format!(
            "there  {} in {}   {short}",
            bytes(fetched.size_bytes()),
            plural(fetched.files.len(), "file")
        ));
    } else {
        let new_bytes = fetched.fetched_bytes.saturating_sub(fetched.resumed_bytes);
        let resumed = match fetched.resumed_bytes {
            0 => String::new(),
            n => format!("   {} left by an earlier run", bytes(n)),
        };
        lines.push(format!(
            "fetched  {} in {} in {:.2} s   {}{verified}{resumed}{there}",
            bytes(fetched.fetched_bytes),
            plural(count(How::Fetched), "file"),
            fetched.seconds,
            rate(new_bytes, fetched.seconds),
        ));
    }
    if verbose || fetched.is_dry_run {
        for file in &fetched.files {
            let how = match file.how {
                How::Fetched if fetched.is_dry_run => "fetch",
                How::Fetched => "fetched",
                How::Reused => "there",
                How::Copied => "elsewhere",
            };
            lines.push(format!("  {how:<9}  {:>9}  {}", bytes(file.size_bytes), Shown(&file.path)));
        }
    }
    for LeftOut { why, names, size_bytes } in &fetched.left_out {
        let shown = names.iter().take(if verbose { usize::MAX } else { 3 });
        let shown: Vec<String> = shown.map(|n| Shown(n).to_string()).collect();
        let more = if shown.len() < names.len() { ", …" } else { "" };
        lines.push(format!(
            "left out  {} in {} ({why}): {}{more}",
            bytes(*size_bytes),
            plural(names.len(), "file"),
            shown.join(", ")
        ));
    }
    let out_bytes: u64 = fetched.left_out.iter().map(|l| l.size_bytes).sum();
    if fetched.left_out.iter().any(|l| l.why != "excluded" && l.why != "not included") {
        lines.push(format!("          {} in all; --all takes everything", bytes(out_bytes)));
    }
    lines
}

/// The result for a program.
fn document(fetched: &Fetched) -> Value {
    let files: Vec<Value> = fetched
        .files
        .iter()
        .map(|f| {
            let from = match f.how {
                How::Fetched => "network",
                How::Reused => "there",
                How::Copied => "elsewhere",
            };
            json!({
                "path": f.path, "bytes": f.size_bytes, "sha256": f.sha256, "blob_id": f.blob_id,
                "from": from, "verified": f.is_verified,
            })
        })
        .collect();
    let left_out: Vec<Value> = fetched
        .left_out
        .iter()
        .map(|l| json!({ "why": l.why, "files": l.names, "bytes": l.size_bytes }))
        .collect();
    json!({
        "repo": fetched.repo,
        "revision": fetched.revision,
        "commit": fetched.commit,
        "path": fetched.path.display().to_string(),
        "dry_run": fetched.is_dry_run,
        "bytes": fetched.size_bytes(),
        "fetched_bytes": fetched.fetched_bytes,
        "resumed_bytes": fetched.resumed_bytes,
        "received_bytes": fetched.received_bytes,
        "reused_bytes": fetched.reused_bytes,
        "seconds": fetched.seconds,
        "bytes_per_second": fetched.fetched_bytes.saturating_sub(fetched.resumed_bytes) as f64 / fetched.seconds.max(1e-9),
        "files": files,
        "left_out": left_out,
        "left_out_bytes": fetched.left_out.iter().map(|l| l.size_bytes).sum::<u64>(),
        "notes": fetched.notes,
    })
}
