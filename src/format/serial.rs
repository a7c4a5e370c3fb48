//! How reports are written for programs: ids, names and times as their text, durations in seconds, etcd's ids in hex.

#[cfg(feature = "backup")]
use std::collections::BTreeMap;
#[cfg(feature = "backup")]
use std::time::Duration;
use std::time::{SystemTime, UNIX_EPOCH};

#[cfg(feature = "backup")]
use data_encoding::BASE64;
#[cfg(feature = "backup")]
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::{ClusterName, KeyId, Sha256, SnapshotId, Time, Uuid, ValueKeyId};
#[cfg(feature = "backup")]
use crate::text::plain;

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

/// A name of etcd's: `names[0]` if it is plain text, else `names[1]` in base64; the other is null.
#[cfg(feature = "backup")]
fn named<S: Serializer>(
    names: [&'static str; 2],
    bytes: Option<&[u8]>,
    out: S,
) -> Result<S::Ok, S::Error> {
    let text = bytes.and_then(plain);
    let base64 = bytes.filter(|_| text.is_none()).map(|bytes| BASE64.encode(bytes));
    let mut map = out.serialize_map(Some(names.len()))?;
    map.serialize_entry(names[0], &text)?;
    map.serialize_entry(names[1], &base64)?;
    map.end()
}

/// A key of etcd's, flattened into its report.
#[cfg(feature = "backup")]
pub(crate) fn key<S: Serializer>(key: &impl AsRef<[u8]>, out: S) -> Result<S::Ok, S::Error> {
    named(["key", "key_base64"], Some(key.as_ref()), out)
}

/// A prefix of keys, flattened into its report.
#[cfg(feature = "backup")]
pub(crate) fn prefix<S: Serializer>(prefix: &impl AsRef<[u8]>, out: S) -> Result<S::Ok, S::Error> {
    named(["prefix", "prefix_base64"], Some(prefix.as_ref()), out)
}

/// A resource of Kubernetes', flattened into its report.
#[cfg(feature = "backup")]
pub(crate) fn resource<S: Serializer>(of: &Option<Vec<u8>>, out: S) -> Result<S::Ok, S::Error> {
    named(["resource", "resource_base64"], of.as_deref(), out)
}

/// The id of a lease as etcdctl writes it, null for none.
#[cfg(feature = "backup")]
pub(crate) fn lease<S: Serializer>(id: &i64, out: S) -> Result<S::Ok, S::Error> {
    match id {
        0 => out.serialize_none(),
        id => out.collect_str(&format_args!("{id:016x}")),
    }
}

impl From<SystemTime> for Time {
    /// The second that `time` is in; what lies before 1970 is its beginning.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_unix(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
    }
}
