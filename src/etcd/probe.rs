//! One endpoint asked how it is.

use etcd_client::{AlarmAction, AlarmType, Channel, Client};
use tokio::time::timeout;

use super::connect::{answer, login};
use super::failure;
use super::settings::{EtcdSettings, Target};
use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::format::serial;
#[cfg(feature = "proxy")]
use crate::mvcc::EtcdVersion;

/// A member as its Status told it. Texts are cleaned of control characters and bounded.
#[derive(Clone, Debug, Serialize)]
pub struct Member {
    /// The endpoint as it was given in the settings.
    pub endpoint: String,
    /// Member id.
    #[serde(serialize_with = "serial::hex")]
    pub id: u64,
    /// Cluster id.
    #[serde(serialize_with = "serial::hex")]
    pub cluster_id: u64,
    /// Member name; empty when the member list could not be read.
    pub name: String,
    /// The server's version, such as `3.5.16`.
    pub version: String,
    /// The database schema's version, such as `3.6.0`; etcd 3.6 and later.
    pub storage_version: Option<String>,
    /// Whether it leads.
    pub leader: bool,
    /// Whether it is a learner: it receives the log and does not vote.
    pub learner: bool,
    /// Key-value store revision.
    pub revision: i64,
    /// Raft term.
    pub raft_term: u64,
    /// Raft index the member knows to be committed.
    pub raft_index: u64,
    /// Raft index the member has applied.
    pub raft_applied: u64,
    /// Length of the database file in bytes, free pages included.
    pub db_size: u64,
}

/// A member as the member list tells of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Listed {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) client_urls: Vec<String>,
    pub(super) learner: bool,
}

impl std::fmt::Display for Listed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name.as_str() {
            "" => write!(f, "member {:x}", self.id),
            name => write!(f, "member {name} ({:x})", self.id),
        }
    }
}

/// What one endpoint answered.
pub(super) struct Probe {
    pub(super) member: Member,
    /// The cluster has a leader, says this member.
    pub(super) has_leader: bool,
    /// What Status lists as wrong.
    pub(super) errors: Vec<String>,
    /// Alarms of the whole cluster: member id (0 for no one in particular), [`AlarmType`].
    pub(super) alarms: Vec<(u64, i32)>,
    /// All members; empty when etcd does not tell them.
    pub(super) members: Vec<Listed>,
    pub(super) warnings: Vec<String>,
    pub(super) client: Client,
}

/// Refuses an etcd later than the last one tested, unless the settings allow it.
///
/// etcd 3.5 tells its version only to the role root, later ones to every user that is logged in: one that does not
/// tell it is not later.
///
/// # Errors
/// [`Unsupported`](ErrorKind::Unsupported); [`Unreachable`](ErrorKind::Unreachable) when etcd does not answer.
#[cfg(feature = "proxy")]
pub(crate) async fn check_version(client: &Client, settings: &EtcdSettings) -> Result<()> {
    let mut client = client.maintenance_client();
    match answer("read etcd's version", settings.command_timeout, client.status()).await {
        Ok(status) => {
            let version = failure::clean(status.version());
            EtcdVersion::check_tested("etcd", &version, settings.allow_untested)
        }
        Err(error) if error.kind() == ErrorKind::Denied => Ok(()),
        Err(error) => Err(error),
    }
}

/// Connects to `target` and asks for its status, alarms and member list.
pub(super) async fn probe(settings: &EtcdSettings, target: &Target) -> Result<Probe> {
    let tls = target.channel.uri().scheme_str() == Some("https");
    let asked = async {
        let mut warnings = Vec::new();
        let client = connect(settings, target, &mut warnings).await?;
        ask(settings, &target.name, client, warnings).await
    };
    asked.await.map_err(|error| {
        let unreachable = tls && error.kind() == ErrorKind::Unreachable;
        match settings.outdated_certificate().filter(|_| unreachable) {
            Some(why) => error.hint(why),
            None => failure::hinted(error, tls),
        }
    })
}

/// Asks the member that `client` reaches for its status, alarms and member list; `name` is what it is called.
pub(super) async fn ask(
    settings: &EtcdSettings,
    name: &str,
    mut client: Client,
    warnings: Vec<String>,
) -> Result<Probe> {
    let limit = settings.command_timeout;
    let status = answer("status", limit, client.status()).await?;
    let header = status
        .header()
        .ok_or_else(|| Error::new(ErrorKind::Protocol, "status: the answer has no header"))?;
    let mut member = Member {
        endpoint: name.to_owned(),
        id: header.member_id(),
        cluster_id: header.cluster_id(),
        name: String::new(),
        version: failure::clean(status.version()),
        storage_version: Some(failure::clean(status.storage_version()))
            .filter(|version| !version.is_empty()),
        leader: status.leader() != 0 && status.leader() == header.member_id(),
        learner: status.is_learner(),
        revision: header.revision(),
        raft_term: status.raft_term(),
        raft_index: status.raft_index(),
        raft_applied: status.raft_applied_index(),
        db_size: u64::try_from(status.db_size()).unwrap_or(0),
    };
    // A learner answers neither of these two, nor does etcd to a user without the right: Status's own
    // errors then tell of alarms, without the member.
    let alarms =
        answer("alarms", limit, client.alarm(AlarmAction::Get, AlarmType::None, None)).await;
    let alarms = alarms.map(|list| {
        list.0.alarms.iter().map(|alarm| (alarm.member_id, alarm.alarm)).collect::<Vec<_>>()
    });
    let members = answer("member list", limit, client.member_list()).await;
    let listed = |m: &etcd_client::Member| Listed {
        id: m.id(),
        name: failure::clean(m.name()),
        client_urls: m.client_urls().iter().take(16).map(|url| failure::clean(url)).collect(),
        learner: m.is_learner(),
    };
    let members: Vec<_> = members
        .map(|list| list.members().iter().take(64).map(listed).collect())
        .unwrap_or_default();
    if let Some(listed) = members.iter().find(|listed| listed.id == member.id) {
        member.name.clone_from(&listed.name);
    }
    Ok(Probe {
        member,
        has_leader: status.leader() != 0,
        errors: status.errors().iter().take(16).map(|text| failure::clean(text.trim())).collect(),
        alarms: alarms.unwrap_or_default(),
        members,
        warnings,
        client,
    })
}

async fn connect(
    settings: &EtcdSettings,
    target: &Target,
    warnings: &mut Vec<String>,
) -> Result<Client> {
    // The channel's own timeout covers TCP only, not the TLS handshake.
    let channel = timeout(settings.dial_timeout, target.channel.connect())
        .await
        .map_err(|_| failure::timed_out("connect", settings.dial_timeout))?
        .map_err(|error| failure::not_connected(&error))?;
    login(settings, Channel::Tonic(channel), warnings).await
}
