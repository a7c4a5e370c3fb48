//! How reports are written for programs: ids, names and times as their text, durations in seconds, etcd's ids in hex.

#[cfg(feature = "backup")]
use std::collections::BTreeMap;
#[cfg(feature = "backup")]
use std::time::Duration;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

use super::{ClusterName, KeyId, Sha256, SnapshotId, Time, Uuid, ValueKeyId};

macro_rules! as_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                out.collect_str(self)
            }
        }
    )*};
}

as_text!(ClusterName, KeyId, Sha256, SnapshotId, Time, Uuid, ValueKeyId);

#[cfg(feature = "backup")]
pub(crate) fn seconds<S: Serializer>(duration: &Duration, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_f64(duration.as_secs_f64())
}

/// One of etcd's 64-bit ids: 16 lower-case hex digits.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
#[cfg(feature = "etcd")]
pub(crate) fn hex<S: Serializer>(id: &u64, out: S) -> Result<S::Ok, S::Error> {
    out.collect_str(&format_args!("{id:016x}"))
}

#[cfg(feature = "backup")]
pub(crate) fn time<S: Serializer>(time: &Option<SystemTime>, out: S) -> Result<S::Ok, S::Error> {
    time.map(Time::from).serialize(out)
}

/// Snapshots, each with what is wrong with it: `[{"id": …, "detail": …}]`.
#[cfg(feature = "backup")]
pub(crate) fn details<S: Serializer>(
    of: &BTreeMap<SnapshotId, String>,
    out: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Of<'a> {
        id: &'a SnapshotId,
        detail: &'a str,
    }
    out.collect_seq(of.iter().map(|(id, detail)| Of { id, detail }))
}

impl From<SystemTime> for Time {
    /// The second that `time` is in; what lies before 1970 is its beginning.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_unix(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
    }
}
