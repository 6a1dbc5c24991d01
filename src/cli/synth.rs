//! `hoist synth`: arguments and output; the work is the library's.

use super::Common;
use hoist::{Error, Result};

/// The arguments of `hoist synth`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Runs the command.
pub(crate) fn run(_args: Args, _common: &Common) -> Result<()> {
    Err(Error::unsupported("`hoist synth` is not in this build"))
}
