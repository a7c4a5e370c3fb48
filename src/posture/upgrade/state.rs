//! The cluster at one moment, kept in a file: what an upgrade must not change.

use etcd_client::GetOptions;
use serde::{Deserialize, Serialize};

use super::super::fact::Fact;
use super::super::facts::{Cluster, Endpoint, hashes};
use crate::error::{Error, Result};
use crate::etcd::{Choice, Comparison, EtcdSettings, choose_member, from_client};

const FORMAT: u32 = 1;
/// The longest file that is read.
const MAX_FILE: usize = 1 << 20;

/// The cluster as it was before an upgrade.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ClusterState {
    format: u32,
    /// What the upgrade leads to, such as `3.6.16`.
    pub target: String,
    /// The members; nothing if they are not known.
    pub members: Option<Vec<MemberState>>,
    /// The revision that hash and keys are of.
    pub revision: i64,
    /// The revision up to which it was compacted.
    pub compact_revision: i64,
    /// HashKV at that revision, if all members agreed.
    pub hash: Option<u32>,
    /// How many keys there were.
    pub keys: Option<i64>,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct MemberState {
    /// Its id, in hexadecimal.
    pub id: String,
    /// Its name.
    pub name: String,
    /// It does not vote.
    pub learner: bool,
    /// The version that it runs, if that is known.
    pub version: Option<String>,
}

impl ClusterState {
    /// Reads what an earlier run wrote.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: String| {
            Error::usage(format!("not the state of a cluster: {why}"))
                .hint("`strongroom upgrade-check --save FILE` writes one before an upgrade")
        };
        if text.len() > MAX_FILE {
            return Err(wrong("it is longer than 1 MiB".into()));
        }
        let state: Self = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        match state.format {
            FORMAT => Ok(state),
            other => Err(wrong(format!("format {other}: this version reads {FORMAT}"))),
        }
    }
}

/// What the members' data is: read by one client, from all of them.
pub(super) struct Data {
    pub(super) cluster_id: Fact<u64>,
    pub(super) hashes: Fact<Comparison>,
    pub(super) keys: Fact<i64>,
}

/// Asks for HashKV and the number of keys at `revision`, or at the one that the cluster is at.
pub(super) async fn data(etcd: &EtcdSettings, revision: Option<i64>) -> Data {
    match choose_member(etcd).await {
        Ok(choice) => {
            let revision = revision.unwrap_or(choice.member.revision);
            Data {
                cluster_id: Fact::known(choice.member.cluster_id, "Status"),
                hashes: hashes::at(&choice, etcd, revision).await,
                keys: Fact::read(
                    count(&choice, revision).await,
                    format!("Range at revision {revision}"),
                ),
            }
        }
        Err(error) => {
            let why = error.to_string();
            Data {
                cluster_id: Fact::unknown(&*why),
                hashes: Fact::unknown(&*why),
                keys: Fact::unknown(why),
            }
        }
    }
}

async fn count(choice: &Choice, revision: i64) -> Result<i64> {
    let options = GetOptions::new().with_all_keys().with_count_only().with_revision(revision);
    let answer = choice.client().get("", Some(options)).await;
    Ok(answer.map_err(|error| from_client("Range", &error))?.count())
}

/// What is kept of all this.
pub(super) fn state(
    target: String,
    endpoints: &[Endpoint],
    cluster: &Cluster,
    data: &Data,
) -> ClusterState {
    let version = |id: u64| {
        let of = endpoints.iter().find(|one| one.member.need().is_ok_and(|seen| *seen == id));
        of.and_then(|one| one.version.need().ok().map(|seen| seen.get().clone()))
    };
    let members = cluster.members.need().ok().map(|members| {
        let mut members: Vec<_> = members
            .iter()
            .map(|member| MemberState {
                id: format!("{:x}", member.id),
                name: member.name.clone(),
                learner: member.learner,
                version: version(member.id),
            })
            .collect();
        members.sort_by(|a, b| a.id.cmp(&b.id));
        members
    });
    let hashes = data.hashes.need().ok();
    let first = hashes.and_then(|hashes| hashes.get().answers.first());
    ClusterState {
        format: FORMAT,
        target,
        members,
        revision: hashes.map_or(0, |hashes| hashes.revision),
        compact_revision: first.map_or(0, |first| first.compact_revision),
        hash: first.filter(|_| hashes.is_some_and(|all| agree(all.get()))).map(|one| one.hash),
        keys: data.keys.need().ok().map(|keys| *keys.get()),
    }
}

/// Every member answered, and the same.
fn agree(hashes: &Comparison) -> bool {
    hashes.doubt().is_none() && hashes.differing().next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let state =
            ClusterState { format: FORMAT, target: "3.6.16".into(), ..ClusterState::default() };
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(ClusterState::parse(&text).unwrap(), state);
        for bad in ["", "{}", "[]", &text.replace("\"format\":1", "\"format\":2")] {
            assert_eq!(ClusterState::parse(bad).unwrap_err().kind(), crate::ErrorKind::Usage);
        }
    }
}
