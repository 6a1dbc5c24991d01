//! `hoist cache`: what the cache that Python shares holds; arguments and output.

use super::output::{Align, Out, table};
use super::progress::Watch;
use super::{Common, signals};
use hoist::fetch::inventory::{self, Checked, Held, Removal, Target};
use hoist::source::hub::cache::Cache;
use hoist::text::{Shown, bytes, grouped};
use hoist::{Error, ErrorKind, Result};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// The arguments of `hoist cache`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    /// The cache [default: as huggingface_hub finds it: HF_HUB_CACHE, HF_HOME, …]
    #[arg(long, global = true, value_name = "DIR", env = "HOIST_CACHE_DIR", hide_env_values = true)]
    cache_dir: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// What is in the cache: repos, their sizes, commits, when they were last used
    Ls,
    /// Reads what is in the cache again and compares it with the hashes that name it; exit code 7 where something differs
    Verify {
        /// Only these: `org/name`, `datasets/org/name` [default: everything]
        targets: Vec<String>,
    },
    /// Removes repos or commits, and the blobs that nothing else in their repo needs
    Rm {
        /// `org/name`, `org/name@revision`, or a commit
        #[arg(required = true)]
        targets: Vec<String>,
        /// Remove it; without this it is only shown
        #[arg(short, long, env = "HOIST_YES", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
        yes: bool,
    },
}

/// Runs the command.
pub(crate) fn run(args: Args, common: &Common) -> Result<()> {
    let cache = cache_at(args.cache_dir.as_ref())?;
    let parse = |targets: &[String]| targets.iter().map(|t| Target::parse(t)).collect::<Vec<_>>();
    match args.command {
        Command::Ls => ls(&cache, common),
        Command::Verify { targets } => verify(cache, parse(&targets), common),
        Command::Rm { targets, yes } => rm(&cache, &parse(&targets), yes, common),
    }
}

/// The cache that was named, else the one that the environment names.
pub(crate) fn cache_at(named: Option<&PathBuf>) -> Result<Cache> {
    let found = named.map(Cache::at).or_else(|| Cache::from_environment(|name| std::env::var_os(name)));
    found.ok_or_else(|| {
        Error::not_found("no cache: neither `HF_HOME` nor a home directory is set").hint("--cache-dir DIR")
    })
}

fn ls(cache: &Cache, common: &Common) -> Result<()> {
    let held = inventory::scan(cache)?;
    let mut out = Out::stdout();
    if common.json {
        let repos: Vec<Value> = held.iter().map(repo_json).collect();
        out.json("hoist.cache-ls/1", json!({ "cache": cache.root().display().to_string(), "repos": repos }))?;
        return out.finish();
    }
    let mut rows = Vec::new();
    for repo in &held {
        let partial = match repo.partial_bytes {
            0 => String::new(),
            n => format!("{} not whole", bytes(n)),
        };
        for (index, revision) in repo.revisions.iter().enumerate() {
            let commit = revision.commit.get(..12).unwrap_or(&revision.commit).to_owned();
            rows.push(vec![
                if index == 0 { Shown(&repo.id).to_string() } else { String::new() },
                bytes(revision.size_bytes),
                commit,
                Shown(&revision.names.join(" ")).to_string(),
                plural(revision.file_count, "file"),
                ago(revision.used),
                if index == 0 { partial.clone() } else { String::new() },
            ]);
        }
        if repo.revisions.is_empty() {
            rows.push(vec![
                Shown(&repo.id).to_string(),
                bytes(repo.size_bytes),
                String::new(),
                String::new(),
                plural(0, "file"),
                ago(repo.used),
                partial,
            ]);
        }
    }
    use Align::{Left, Right};
    for line in table(&[Left, Right, Left, Left, Right, Left, Left], &rows) {
        out.line(&line)?;
    }
    let total: u64 = held.iter().map(|r| r.size_bytes).sum();
    if !common.quiet {
        super::say(&format!(
            "{}   {} in {}",
            plural(held.len(), "repo"),
            bytes(total),
            Shown(&cache.root().display().to_string())
        ));
    }
    out.finish()
}

fn repo_json(repo: &Held) -> Value {
    let revisions: Vec<Value> = repo
        .revisions
        .iter()
        .map(|r| {
            json!({
                "commit": r.commit, "names": r.names, "files": r.file_count, "bytes": r.size_bytes,
                "used_seconds": seconds(r.used),
            })
        })
        .collect();
    json!({
        "id": repo.id,
        "path": repo.path.display().to_string(),
        "bytes": repo.size_bytes,
        "partial_bytes": repo.partial_bytes,
        "used_seconds": seconds(repo.used),
        "revisions": revisions,
    })
}

/// Seconds since 1970.
fn seconds(time: Option<SystemTime>) -> Option<u64> {
    time?.duration_since(UNIX_EPOCH).ok().map(|d| d.as_secs())
}

/// How long ago, in the largest unit that fits; nothing where it is not known.
fn ago(time: Option<SystemTime>) -> String {
    let Some(time) = time else { return String::new() };
    // A clock that was set back.
    let age = time.elapsed().unwrap_or_default();
    let units = [("day", 86_400), ("hour", 3600), ("minute", 60)];
    let unit = units.iter().find(|(_, n)| age.as_secs() >= *n);
    match unit {
        Some((unit, n)) => format!("{} ago", plural((age.as_secs() / n) as usize, unit)),
        None => "now".into(),
    }
}

fn plural(n: usize, word: &str) -> String {
    format!("{} {word}{}", grouped(n as u64), if n == 1 { "" } else { "s" })
}

fn verify(cache: Cache, targets: Vec<Target>, common: &Common) -> Result<()> {
    let cancel = signals::cancelled();
    let job = inventory::verify(cache, targets);
    Watch::new(common, "verify").follow(&job, cancel, false);
    let checked =
        job.wait().map_err(|e| if signals::received().is_some() { signals::stopped() } else { e })?;
    let Checked { file_count, size_bytes, damages, unknown } = &checked;
    let mut out = Out::stdout();
    if common.json {
        let damages: Vec<Value> = damages
            .iter()
            .map(|d| json!({ "repo": d.id, "file": d.name, "path": d.path.display().to_string(), "what": d.what }))
            .collect();
        let facts = json!({
            "files": file_count, "bytes": size_bytes, "damaged": damages, "unknown": unknown,
        });
        out.json("hoist.cache-verify/1", facts)?;
    } else {
        for damage in damages {
            out.line(&format!("damaged  {}/{}  {}", Shown(&damage.id), Shown(&damage.name), damage.what))?;
        }
        out.line(&format!(
            "{}   {}   {}",
            plural(*file_count, "file"),
            bytes(*size_bytes),
            if damages.is_empty() {
                "all are what their names say".into()
            } else {
                format!("{} damaged", grouped(damages.len() as u64))
            }
        ))?;
        if !unknown.is_empty() {
            common.note(&format!("{} of which nothing tells a hash", plural(unknown.len(), "file")));
        }
    }
    out.finish()?;
    match damages.first() {
        None => Ok(()),
        Some(first) => {
            Err(Error::new(ErrorKind::Integrity, format!("{} damaged", plural(damages.len(), "file")))
                .file(first.id.clone())
                .hint(format!("hoist fetch {} --require-hash fetches again what is damaged", first.id)))
        }
    }
}

fn rm(cache: &Cache, targets: &[Target], yes: bool, common: &Common) -> Result<()> {
    let removals = inventory::plan_removal(cache, targets)?;
    let mut out = Out::stdout();
    let line = |removal: &Removal| {
        let what = match &removal.commits {
            None => Shown(&removal.id).to_string(),
            Some(commits) => format!("{}@{}", Shown(&removal.id), commits.join(",")),
        };
        format!("{what}  {}", bytes(removal.size_bytes))
    };
    if !yes {
        for removal in &removals {
            super::say(&format!("would remove  {}", line(removal)));
        }
        return Err(Error::usage("nothing is removed without --yes"));
    }
    for removal in &removals {
        inventory::remove(removal)?;
        if !common.json {
            out.line(&format!("removed  {}", line(removal)))?;
        }
    }
    if common.json {
        let removed: Vec<Value> = removals
            .iter()
            .map(|r| json!({ "repo": r.id, "commits": r.commits, "bytes": r.size_bytes }))
            .collect();
        out.json("hoist.cache-rm/1", json!({ "removed": removed }))?;
    }
    out.finish()
}
