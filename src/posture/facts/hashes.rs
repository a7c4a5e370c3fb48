//! What the members' data hashes to. A member takes no writes to disk while it hashes.

use super::super::fact::Fact;
use crate::etcd::{Choice, Comparison, EtcdSettings, choose_member};

/// Asks every member, at the revision that one of them is at.
pub(crate) async fn read(etcd: &EtcdSettings) -> Fact<Comparison> {
    match choose_member(etcd).await {
        Ok(choice) => at(&choice, etcd, choice.member.revision).await,
        Err(error) => Fact::unknown(error.to_string()),
    }
}

/// Asks every member, at this revision.
pub(crate) async fn at(choice: &Choice, etcd: &EtcdSettings, revision: i64) -> Fact<Comparison> {
    Fact::known(choice.compare(etcd, revision).await, format!("HashKV at revision {revision}"))
}
