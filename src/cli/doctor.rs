//! `hoist doctor`: arguments and output; the work is the library's.

use super::Common;
use hoist::{Error, Result};

/// The arguments of `hoist doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Runs the command.
pub(crate) fn run(_args: Args, _common: &Common) -> Result<()> {
    Err(Error::unsupported("`hoist doctor` is not in this build"))
}
