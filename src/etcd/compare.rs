//! Whether the members of a cluster have the same data: their HashKV at one revision, compared.

use std::time::Duration;

use etcd_client::Client;
use tokio::time::{sleep, timeout};

use super::choose::Choice;
use super::failure;
use super::probe::{Listed, probe};
use super::settings::EtcdSettings;
use serde::{Serialize, Serializer};

use crate::error::{Error, ErrorKind, Result};
use crate::format::serial;

/// How often members are asked again that are behind, or between two compactions.
const ROUNDS: usize = 5;
const PAUSE: Duration = Duration::from_millis(300);
/// A member reads all of its data before it answers: 8 GiB in less than this.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the members answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Main revision they were asked at.
    pub revision: i64,
    /// One for each member that answered, that of the chosen one first.
    pub answers: Vec<MemberHash>,
    /// Why a member was not asked, or its answer does not count.
    pub left_out: Vec<String>,
}

/// One member's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemberHash {
    /// Member id.
    #[serde(serialize_with = "serial::hex")]
    pub id: u64,
    /// Member name; empty when the member list could not be read.
    pub name: String,
    /// crc32c over its records.
    pub hash: u32,
    /// The compact revision it was computed from.
    pub compact_revision: i64,
}

impl Serialize for Comparison {
    fn serialize<S: Serializer>(&self, out: S) -> std::result::Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Answer<'a> {
            #[serde(flatten)]
            answer: &'a MemberHash,
            agrees: bool,
        }
        #[derive(Serialize)]
        struct Text<'a> {
            revision: i64,
            hashes: Vec<Answer<'a>>,
            left_out: &'a [String],
        }
        let differing: Vec<u64> = self.differing().map(|member| member.id).collect();
        let answer = |answer| Answer { answer, agrees: !differing.contains(&answer.id) };
        let hashes = self.answers.iter().map(answer).collect();
        Text { revision: self.revision, hashes, left_out: &self.left_out }.serialize(out)
    }
}

impl Comparison {
    /// Those whose data is not that of the chosen member.
    pub fn differing(&self) -> impl Iterator<Item = &MemberHash> {
        let first = self.answers.first();
        self.answers.iter().filter(move |other| {
            first.is_some_and(|first| {
                other.compact_revision == first.compact_revision && other.hash != first.hash
            })
        })
    }

    /// Why it is not known of some member whether its data is the same: it gave no hash, or one that does not compare.
    #[must_use]
    pub fn doubt(&self) -> Option<String> {
        let first = self.answers.first();
        let unlike = |other: &&MemberHash| {
            first.is_some_and(|first| other.compact_revision != first.compact_revision)
        };
        if !self.left_out.is_empty() {
            Some(self.left_out.join("; "))
        } else if first.is_none() {
            Some("no member answered".into())
        } else {
            self.answers.iter().find(unlike).map(|other| {
                let (name, at) = (&other.name, other.compact_revision);
                format!("{name} was compacted at revision {at}, and others elsewhere: their hashes do not compare")
            })
        }
    }
}

impl Choice {
    /// Asks every member for its HashKV at main revision `revision`, the chosen one first, one after the other:
    /// a member takes no writes to disk while it hashes (`server/storage/mvcc/hash.go`).
    ///
    /// Members that no endpoint names are sought at the client URLs that etcd lists for them, with the same
    /// certificates and user. None of this fails: who does not answer is left out, and that is said.
    pub async fn compare(&self, settings: &EtcdSettings, revision: i64) -> Comparison {
        let mut comparison = Comparison { revision, ..Comparison::default() };
        let mut clients = vec![(self.listed(self.member.id), self.client())];
        for (member, client) in &self.others {
            if clients.iter().all(|(known, _)| known.id != member.id) {
                clients.push((self.listed(member.id), client.clone()));
            }
        }
        for member in &self.members {
            if clients.iter().all(|(known, _)| known.id != member.id) {
                match self.seek(settings, member).await {
                    Ok(client) => clients.push((member.clone(), client)),
                    Err(error) => comparison.left_out.push(format!("{member}: {error}")),
                }
            }
        }
        for (member, client) in &mut clients {
            if member.learner {
                comparison.left_out.push(format!("{member}: a learner gives no hash"));
                continue;
            }
            match ask(member, client, settings, revision).await {
                Ok(answer) => comparison.answers.push(answer),
                Err(error) => comparison.left_out.push(format!("{member}: {error}")),
            }
        }
        self.settle(&mut comparison, &mut clients, settings).await;
        comparison
    }

    /// Asks again those that had not seen the latest compaction: hashes of two compactions do not compare.
    async fn settle(
        &self,
        comparison: &mut Comparison,
        clients: &mut [(Listed, Client)],
        settings: &EtcdSettings,
    ) {
        for _ in 0..ROUNDS {
            let newest = comparison.answers.iter().map(|answer| answer.compact_revision).max();
            let fresh = |answer: &MemberHash| Some(answer.compact_revision) == newest;
            if comparison.answers.iter().all(fresh) {
                return;
            }
            sleep(PAUSE).await;
            for answer in &mut comparison.answers {
                let asked = clients.iter_mut().find(|(member, _)| member.id == answer.id);
                if Some(answer.compact_revision) != newest
                    && let Some((member, client)) = asked
                    && let Ok(again) = ask(member, client, settings, comparison.revision).await
                {
                    *answer = again;
                }
            }
        }
        let first = comparison.answers.first().map(|first| first.compact_revision);
        comparison.answers.retain(|answer| {
            let same = Some(answer.compact_revision) == first;
            if !same {
                let name = self.listed(answer.id);
                comparison.left_out.push(format!("{name}: it is compacted at another revision"));
            }
            same
        });
    }

    fn listed(&self, id: u64) -> Listed {
        let known = self.members.iter().find(|member| member.id == id);
        known.cloned().unwrap_or(Listed { id, ..Listed::default() })
    }

    /// Connects to a member at one of the client URLs that etcd tells.
    async fn seek(&self, settings: &EtcdSettings, member: &Listed) -> Result<Client> {
        if self.alone {
            return Err(Error::usage("not asked: the backup was given a client of its own"));
        }
        let mut failed = Error::new(ErrorKind::Unreachable, "etcd lists no client URL for it");
        for url in member.client_urls.iter().take(4) {
            // Never without TLS where the endpoints that were given have it.
            if self.member.endpoint.starts_with("https:") && !url.starts_with("https:") {
                failed = Error::new(ErrorKind::Refused, format!("{url} is without TLS"));
                continue;
            }
            let found = async { probe(settings, &settings.target(url)?).await };
            match found.await {
                Ok(probe) if probe.member.id == member.id => return Ok(probe.client),
                Ok(_) => {
                    let message = format!("another member answers at {url}");
                    failed = Error::new(ErrorKind::Unreachable, message);
                }
                Err(error) => failed = error.context(url.clone()),
            }
        }
        Err(failed)
    }
}

async fn ask(
    member: &Listed,
    client: &mut Client,
    settings: &EtcdSettings,
    revision: i64,
) -> Result<MemberHash> {
    let limit = settings.command_timeout.max(PATIENCE);
    let (mut round, mut logged_in) = (1, false);
    loop {
        let answered = timeout(limit, client.hash_kv(revision)).await;
        match answered.map_err(|_| failure::timed_out("HashKV", limit))? {
            Ok(answer) => {
                return Ok(MemberHash {
                    id: member.id,
                    name: member.name.clone(),
                    hash: answer.hash(),
                    compact_revision: answer.compact_version(),
                });
            }
            Err(error) if round < ROUNDS && error.to_string().contains("future revision") => {
                round += 1;
                sleep(PAUSE).await;
            }
            // The backup took longer than etcd lets a login last.
            Err(error) if !logged_in && failure::is_logged_out(&error) => {
                logged_in = true;
                let login = timeout(settings.command_timeout, client.refresh_token()).await;
                let login =
                    login.map_err(|_| failure::timed_out("log in", settings.command_timeout));
                login?.map_err(|error| failure::from_client("log in", &error))?;
            }
            Err(error) => return Err(failure::from_client("HashKV", &error)),
        }
    }
}
