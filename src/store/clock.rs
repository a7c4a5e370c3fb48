//! The store's clock beside this host's.

use std::fmt;
use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;

use super::repository::{PROBE_PREFIX, Repository};
use crate::crypto;
use crate::error::Result;

/// Clocks differ; further apart than this is worth a word.
const APART: Duration = Duration::from_secs(5 * 60);

/// How far this host's clock and the store's are apart, if that is more than 5 minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Skew {
    by: Duration,
    host_is_ahead: bool,
}

impl fmt::Display for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.host_is_ahead { "ahead of" } else { "behind" };
        write!(f, "this host's clock is {} s {side} the store's", self.by.as_secs())
    }
}

impl Skew {
    /// Of an object that was written between `before` and `after`, and `written` by the store's clock.
    fn of(before: SystemTime, written: SystemTime, after: SystemTime) -> Option<Self> {
        let ahead = before.duration_since(written).ok();
        let behind = written.duration_since(after).ok();
        let skew = |by, host_is_ahead| Self { by, host_is_ahead };
        ahead.map(|by| skew(by, true)).or(behind.map(|by| skew(by, false))).filter(|s| s.by > APART)
    }
}

impl Repository {
    /// Compares the clocks by the object `name`, whose writing began at `before` and has just ended.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn skew_by(&self, name: &str, before: SystemTime) -> Result<Option<Skew>> {
        let after = SystemTime::now();
        Ok(Skew::of(before, self.info(name).await?.modified, after))
    }

    /// Compares the clocks by an object that is written for that and removed.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn skew(&self) -> Result<Option<Skew>> {
        let random = crypto::random::<16>(&mut crypto::system_rng());
        let name = format!("{PROBE_PREFIX}{}/clock", HEXLOWER.encode(&random));
        let before = SystemTime::now();
        self.put_once(&name, "clock".into()).await?;
        let skew = self.skew_by(&name, before).await;
        // One that stays is harmless.
        let _ = self.delete(&name).await;
        skew
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_minutes_either_way() {
        let at = |s| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
        for (written, says) in [
            (10_000, None),
            (9_700, None),
            (10_360, None),
            (9_699, Some("this host's clock is 301 s ahead of the store's")),
            (10_361, Some("this host's clock is 301 s behind the store's")),
        ] {
            let skew = Skew::of(at(10_000), at(written), at(10_060));
            assert_eq!(skew.map(|skew| skew.to_string()).as_deref(), says);
        }
    }
}
