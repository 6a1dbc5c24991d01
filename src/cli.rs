//! The command line: arguments in, one library call, results out. Only here is anything printed.

mod doctor;
mod inspect;
mod load;
mod synth;

/// Runs the command and gives its exit code.
pub(crate) fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
