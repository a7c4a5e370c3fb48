//! A process that ends with this one.

use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// How often the child is looked at.
const PAUSE: Duration = Duration::from_millis(50);

/// A running child. It is killed, and has ended, when this is dropped.
pub(super) struct Child {
    /// Dropped to end the child.
    keep: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    ended: Arc<OnceLock<ExitStatus>>,
}

impl Child {
    /// Starts `command` from a thread that lives as long as the child: Linux sends the parent-death signal when the
    /// thread that forked ends, not when its process does (prctl(2), `PR_SET_PDEATHSIG`).
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the program or a thread does not start.
    pub(super) fn spawn(mut command: Command) -> Result<Self> {
        let (keep, kept) = mpsc::channel::<()>();
        let (started, start) = mpsc::channel();
        let ended = Arc::new(OnceLock::new());
        let status = Arc::clone(&ended);
        let program = PathBuf::from(command.get_program());
        let run = move || {
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
            let _ = started.send(Ok(()));
            loop {
                if let Ok(Some(exit)) = child.try_wait() {
                    let _ = status.set(exit);
                    return;
                }
                if kept.recv_timeout(PAUSE) == Err(RecvTimeoutError::Disconnected) {
                    let _ = child.kill();
                    let _ = child.wait();
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("drill".into()).spawn(run);
        let failed = |error| Error::new(ErrorKind::Io, "cannot start a thread").because(error);
        let child = Self { keep: Some(keep), thread: Some(thread.map_err(failed)?), ended };
        match start.recv() {
            Ok(Ok(())) => Ok(child),
            Ok(Err(error)) => Err(Error::io(program, error)),
            Err(_) => Err(Error::new(ErrorKind::Io, "the thread that starts etcd died")),
        }
    }

    /// How the child ended, if it did.
    pub(super) fn ended(&self) -> Option<ExitStatus> {
        self.ended.get().copied()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.keep.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_child_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg("echo $$ > \"$1.new\"; mv \"$1.new\" \"$1\"; exec sleep 600");
        command.arg("sh").arg(&pid);
        let child = Child::spawn(command).unwrap();
        while !pid.exists() {
            thread::sleep(PAUSE);
        }
        assert!(child.ended().is_none());
        let process = PathBuf::from("/proc").join(std::fs::read_to_string(&pid).unwrap().trim());
        assert!(process.exists());
        drop(child);
        assert!(!process.exists());
    }

    #[test]
    fn how_it_ended_is_known() {
        let child = Child::spawn(Command::new("/bin/false")).unwrap();
        while child.ended().is_none() {
            thread::sleep(PAUSE);
        }
        assert_eq!(child.ended().unwrap().code(), Some(1));
        assert_eq!(Child::spawn(Command::new("/no/such")).err().unwrap().kind(), ErrorKind::Io);
    }
}
