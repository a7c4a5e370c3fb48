//! What a writer may rely on beside a prune: nothing that it saw, or wrote, goes within the grace period.

use std::time::{Duration, Instant, SystemTime};

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{Error, ErrorKind, Result};
use crate::store::Repository;

/// Longer than any backup takes: a folder older than this should have its manifest.
pub const LONGEST_BACKUP: Duration = Duration::from_secs(24 * 3600);
/// How long a removed snapshot can be brought back, and what has no manifest yet is left alone (SPEC.md §3.3).
pub const GRACE: Duration = LONGEST_BACKUP;
/// Lengths asked for at once.
const READS: usize = 64;

/// By both clocks: one stands still while the machine sleeps, the other may be set back.
pub(crate) struct Since(Instant, SystemTime);

impl Since {
    pub(crate) fn now() -> Self {
        Self(Instant::now(), SystemTime::now())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed().max(self.1.elapsed().unwrap_or_default())
    }

    /// # Errors
    /// [`Refused`](ErrorKind::Refused) when a prune may have begun to remove what was there then.
    pub(crate) fn check(&self, what: impl FnOnce() -> String) -> Result<()> {
        if self.elapsed() > GRACE / 2 {
            let message = format!("this took so long that {} may have been deleted", what());
            return Err(Error::new(ErrorKind::Refused, message).hint("run it again"));
        }
        Ok(())
    }
}

/// Makes sure that these objects are there, as long as they are said to be.
pub(crate) async fn still_there(repository: &Repository, wanted: Vec<(String, u64)>) -> Result<()> {
    stream::iter(wanted)
        .map(|(name, length)| async move {
            if repository.len(&name).await? == length {
                Ok(())
            } else {
                Err(Error::tampered(format!("{name}: its length has changed")))
            }
        })
        .buffer_unordered(READS)
        .try_collect()
        .await
}
