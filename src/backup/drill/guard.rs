//! What etcd is started through, so that it ends with the drill.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::OnceLock;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::error::{Error, ErrorKind, Result};

/// The argument that makes the program a guard: `PROGRAM exec-guarded PARENT ETCD ARGUMENT…`.
pub(super) const GUARD: &str = "exec-guarded";

/// Set once [`exec_guarded`] was called: this process's program is a guard.
static IS_GUARD: OnceLock<()> = OnceLock::new();

/// The program to start etcd through, if it can be.
pub(super) fn guard() -> Option<&'static str> {
    IS_GUARD.get().map(|()| "/proc/self/exe")
}

/// Becomes the etcd of a drill if `arguments`, those of this process, say so. Called first of all in `main`, it lets
/// drills start etcd through this program, so that the kernel ends etcd with the drill, however that ends.
///
/// The kernel sends SIGKILL to etcd when the thread that started it ends (prctl(2), `PR_SET_PDEATHSIG`). Without this
/// call an etcd outlives a drill whose process is killed. Returns at once in a process that is no etcd of a drill.
///
/// # Errors
/// [`ErrorKind::Usage`] when the arguments are incomplete or the parent is not the one that they name: it has ended
/// already. [`ErrorKind::Io`] when the kernel refuses, or the program cannot be started.
pub fn exec_guarded(arguments: impl IntoIterator<Item = OsString>) -> Result<()> {
    let mut arguments = arguments.into_iter().skip(1);
    if arguments.next().is_none_or(|first| first != GUARD) {
        let _ = IS_GUARD.set(());
        return Ok(());
    }
    let parent = arguments.next().and_then(|pid| pid.to_str()?.parse::<i32>().ok());
    let (Some(parent), Some(program)) = (parent.and_then(Pid::from_raw), arguments.next()) else {
        return Err(Error::usage("only a drill starts this"));
    };
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| {
        Error::new(ErrorKind::Io, "the kernel does not tie etcd to the drill").because(error)
    })?;
    // If the parent ended before the call above, no signal comes.
    if getppid() != Some(parent) {
        return Err(Error::usage("the drill that started this has ended"));
    }
    let error = Command::new(&program).args(arguments).exec();
    Err(Error::io(program, error))
}
