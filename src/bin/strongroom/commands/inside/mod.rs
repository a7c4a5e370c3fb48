//! The commands that look inside a snapshot.

mod diff;
mod get;
mod ls;
mod stats;
mod values;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use data_encoding::BASE64;
use serde::Serialize;
use serde_json::{Map, Value};
use strongroom::Result;
use strongroom::backup::{Inside, Moment, look_inside};
use strongroom::format::SnapshotId;
use strongroom::keys::KeySet;
use strongroom::text::plain;

use super::Context;
use super::recorded::Seen;
use crate::args::Which;
use crate::output::bytes;
use crate::progress::busy;

pub(super) use diff::diff;
pub(super) use get::{get, history};
pub(super) use ls::ls;
pub(super) use stats::stats;
pub(super) use values::cipher_of;

/// An answer from inside a snapshot.
#[derive(Serialize)]
struct Looked<T> {
    id: SnapshotId,
    /// The journals that were read behind the snapshot; `None` for a command that reads none.
    #[serde(skip_serializing_if = "Option::is_none")]
    journals: Option<Vec<String>>,
    #[serde(flatten)]
    answer: T,
    /// Stored bytes of the payload that were fetched for it.
    #[serde(rename = "fetched_bytes")]
    fetched: u64,
    /// All there are.
    #[serde(rename = "payload_bytes")]
    stored: u64,
}

impl<T> Looked<T> {
    /// How much was fetched, for a person.
    fn cost(&self) -> String {
        format!("fetched {} of {} stored", bytes(self.fetched), bytes(self.stored))
    }

    /// What every answer begins with in JSON.
    fn head(&self, revision: i64) -> Map<String, Value> {
        let head = [
            ("id", Value::from(self.id.to_string())),
            ("journals", self.journals.clone().into()),
            ("revision", revision.into()),
            ("fetched_bytes", self.fetched.into()),
            ("payload_bytes", self.stored.into()),
        ];
        head.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

impl Context {
    /// Opens the snapshot and asks `look`.
    async fn look<T: Send + 'static>(
        &self,
        which: &Which,
        look: impl FnOnce(&Inside) -> Result<T> + Send + 'static,
    ) -> Result<Looked<T>> {
        let looked = self.look_with_keys(which, None, move |inside, _, _| look(inside)).await?;
        Ok(Looked { journals: None, ..looked })
    }

    /// As [`look`](Self::look) at a recorded moment, also with its revision, `None` for the last, and the master keys.
    async fn look_with_keys<T: Send + 'static>(
        &self,
        which: &Which,
        moment: Option<Moment>,
        look: impl FnOnce(&Inside, Option<i64>, &KeySet) -> Result<T> + Send + 'static,
    ) -> Result<Looked<T>> {
        let repository = self.repository().await?;
        let mut keys = self.needed_keys(&repository).await?;
        let Seen { view, revision, journals } =
            self.view((&repository, &mut keys), which, moment).await?;
        let keys = Arc::new(keys);
        let given = Arc::clone(&keys);
        let look = move |inside: &Inside| {
            let answer = look(inside, revision, &given)?;
            let journals = Some(journals);
            let (fetched, stored) = inside.db.source().fetched();
            Ok(Looked { id: inside.id, journals, answer, fetched, stored })
        };
        let _busy = busy(self.progress, self.output, &format!("reading {}", view.id));
        look_inside(&repository, &keys, view, look).await
    }
}

pub(super) fn raw(text: &OsStr) -> Vec<u8> {
    text.as_bytes().to_vec()
}

/// A name of etcd's in JSON: `name` if it is plain text, else `name_base64`; the other is null.
pub(super) fn put_bytes(map: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    let text = bytes.and_then(plain);
    let base64 = bytes.filter(|_| text.is_none()).map(|bytes| BASE64.encode(bytes));
    map.insert(name.into(), text.into());
    map.insert(format!("{name}_base64"), base64.into());
}

/// A lease as etcdctl writes it; `None` for none.
pub(super) fn lease(id: i64) -> Option<String> {
    (id != 0).then(|| format!("{id:016x}"))
}
