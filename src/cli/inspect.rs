//! `hoist inspect`: arguments and output; the work is the library's.

use super::Common;
use hoist::{Error, Result};
use std::ffi::OsString;

/// The arguments of `hoist inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The model: a file, a directory, an index file, or a repo in the cache
    model: OsString,
}

/// Runs the command.
pub(crate) fn run(args: Args, _common: &Common) -> Result<()> {
    super::model_text(&args.model)?;
    Err(Error::unsupported("not yet"))
}
