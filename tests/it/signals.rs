//! Children that heed signals, whatever the tests themselves were started with: a job in the background of a shell, or one
//! under `nohup`, has some of them ignored, and what it starts inherits that.

use std::process::Command;

/// The child starts with every signal's default.
#[allow(unsafe_code)]
pub fn heeding_signals(command: &mut Command) -> &mut Command {
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        let reset = || {
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
                // SAFETY: may be called between fork and exec, and installs no code.
                unsafe { libc::signal(signal, libc::SIG_DFL) };
            }
            Ok(())
        };
        // SAFETY: the closure only makes calls that are allowed between fork and exec.
        unsafe { command.pre_exec(reset) };
    }
    command
}
