//! Work beside the async threads: computing, blocking I/O, tasks that end with their owner.

use tokio::task::{JoinError, JoinHandle};

use crate::error::{Error, ErrorKind, Result};

/// Runs `work`, which computes or blocks, off the async threads.
pub(crate) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(task_died(error)))
}

pub(crate) fn task_died(error: JoinError) -> Error {
    task_panicked().because(error)
}

pub(crate) fn task_panicked() -> Error {
    Error::new(ErrorKind::Internal, "a worker of this program failed")
        .hint("Please report it, with the line before.")
}

/// A task that ends when this is dropped.
pub(crate) struct AbortOnDrop<T>(pub(crate) JoinHandle<T>);

impl<T> AbortOnDrop<Result<T>> {
    /// Waits for the task's own end.
    pub(crate) async fn join(mut self) -> Result<T> {
        (&mut self.0).await.unwrap_or_else(|error| Err(task_died(error)))
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
