//! What etcd's API tells of the cluster: members, alarms, authentication, users and roles.

use std::time::Duration;

use etcd_client::{AlarmAction, AlarmType, Client, GetOptions};
use tokio::time::timeout;
use url::Url;

use super::super::fact::Fact;
use super::PROBE;
use super::certificate::Certificate;
use super::endpoint::{
    Access, Calls, Endpoint, PROBE_KEY, Plain, Probe, Tls, without_certificate, without_tls,
};
use super::health::Health;
use crate::error::{Error, ErrorKind, Result};
use crate::etcd::{EtcdSettings, from_client};
use crate::text::{clean, printable};

/// Members, URLs, users and roles that are looked at.
const MAX_MEMBERS: usize = 64;
const MAX_URLS: usize = 16;
const MAX_PEER_URLS: usize = 2;
pub(super) const MAX_USERS: usize = 512;

/// How long reading all users, or all roles, may take.
const MAX_READING: Duration = Duration::from_secs(30);

/// A member, as the member list has it.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) learner: bool,
    pub(crate) client_urls: Vec<String>,
    pub(crate) peer_urls: Vec<String>,
}

/// A user and its roles.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) roles: Vec<String>,
}

/// A role and what it may do.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    pub(crate) name: String,
    pub(crate) grants: Vec<Grant>,
}

/// A part of the key space that a role may read or write.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    /// 0 read, 1 write, 2 both.
    pub(crate) kind: i32,
    pub(crate) key: Vec<u8>,
    pub(crate) range_end: Vec<u8>,
}

impl Grant {
    /// All keys from one on, or all there are.
    pub(crate) fn is_open_ended(&self) -> bool {
        self.range_end == [0]
    }

    /// All of it begins with `prefix`.
    pub(crate) fn is_within(&self, prefix: &[u8]) -> bool {
        let end_within = match self.range_end.as_slice() {
            [] => true,
            end => end <= crate::mvcc::prefix_end(prefix).as_slice() && end != [0],
        };
        self.key.starts_with(prefix) && end_within
    }

    pub(crate) fn reads(&self) -> bool {
        matches!(self.kind, 0 | 2)
    }

    pub(crate) fn writes(&self) -> bool {
        matches!(self.kind, 1 | 2)
    }
}

impl std::fmt::Display for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            0 => "read",
            1 => "write",
            _ => "readwrite",
        };
        let key = printable(&self.key);
        match self.range_end.as_slice() {
            [] => write!(f, "{kind} {key:?}"),
            [0] => write!(f, "{kind} [{key:?}, end)"),
            end => write!(f, "{kind} [{key:?}, {:?})", printable(end)),
        }
    }
}

/// A member's peer URL.
pub(crate) struct Peer {
    pub(crate) member: String,
    pub(crate) url: String,
    pub(crate) plain: Fact<Plain>,
    pub(crate) tls: Fact<Tls>,
}

impl Peer {
    fn unknown(member: String, url: &str, why: &str) -> Self {
        Self { member, url: url.to_owned(), plain: Fact::unknown(why), tls: Fact::unknown(why) }
    }
}

/// What holds for all members.
pub(crate) struct Cluster {
    pub(crate) members: Fact<Vec<Listed>>,
    pub(crate) peers: Fact<Vec<Peer>>,
    /// The alarms that are raised, as etcd calls them, with the member.
    pub(crate) alarms: Fact<Vec<String>>,
    /// Authentication is on.
    pub(crate) auth: Fact<bool>,
    pub(crate) users: Fact<Vec<User>>,
    pub(crate) roles: Fact<Vec<Role>>,
}

impl Cluster {
    /// Nothing is known.
    pub(crate) fn unknown(why: &str) -> Self {
        Self {
            members: Fact::unknown(why),
            peers: Fact::unknown(why),
            alarms: Fact::unknown(why),
            auth: Fact::unknown(why),
            users: Fact::unknown(why),
            roles: Fact::unknown(why),
        }
    }
}

/// Reads every endpoint, one after the other, then the members' peer URLs.
///
/// # Errors
/// [`Usage`](ErrorKind::Usage) for settings that contradict each other.
pub(crate) async fn read(
    settings: &EtcdSettings,
    probe: Probe,
) -> Result<(Vec<Endpoint>, Cluster)> {
    let mut cluster = Cluster::unknown("no endpoint answered");
    let mut endpoints = Vec::new();
    for name in settings.endpoints.iter().filter(|name| !name.is_empty()) {
        let mut endpoint = Endpoint::read(settings, name, probe).await?;
        let one = EtcdSettings { endpoints: vec![name.clone()], ..settings.duplicate() };
        read_calls(&one, &mut endpoint).await;
        read_cluster(&one, &mut endpoint, &mut cluster).await;
        endpoints.push(endpoint);
    }
    if endpoints.is_empty() {
        return Err(Error::usage("no etcd endpoint is given"));
    }
    let missing = missing(settings, &endpoints, &cluster);
    endpoints.extend(missing);
    if let Fact::Known { value, source } = &cluster.members {
        let peers = peers(settings, value).await;
        cluster.peers = Fact::known(peers, source.clone());
    } else {
        cluster.peers = Fact::unknown(UNLISTED);
    }
    Ok((endpoints, cluster))
}

const UNLISTED: &str = "the member list could not be read";

/// The calls that somebody can make without a login.
async fn read_calls(settings: &EtcdSettings, endpoint: &mut Endpoint) {
    let nobody =
        || EtcdSettings { user: None, password_file: None, password: None, ..settings.duplicate() };
    let source = format!("gRPC calls to {} without login", endpoint.name);
    endpoint.without_login = Fact::read(calls(&nobody()).await, source);
    endpoint.anonymous = if settings.cert.is_none() {
        endpoint.without_login.clone()
    } else if matches!(
        &endpoint.tls,
        Fact::Known { value: Tls { access: Access::Open(_), .. }, .. }
    ) {
        let source = format!("gRPC calls to {} without certificate and login", endpoint.name);
        Fact::read(calls(&EtcdSettings { cert: None, key: None, ..nobody() }).await, source)
    } else {
        Fact::unknown("no connection without a client certificate")
    };
}

async fn calls(settings: &EtcdSettings) -> std::result::Result<Calls, String> {
    let mut client = settings.connect().await.map_err(|error| error.to_string())?;
    let mut calls = Calls { answered: Vec::new(), login_wanted: false };
    let count = Some(GetOptions::new().with_count_only());
    match within("Range", client.get(PROBE_KEY, count)).await {
        Ok(_) => calls.answered.push("Range"),
        Err(error) if error.kind() == ErrorKind::Denied => calls.login_wanted = true,
        Err(error) => return Err(error.to_string()),
    }
    let list = within("MemberList", client.member_list()).await.map(drop);
    let alarm = client.alarm(AlarmAction::Get, AlarmType::None, None);
    let alarm = within("Alarm", alarm).await.map(drop);
    let leases = within("LeaseLeases", client.leases()).await.map(drop);
    for (name, outcome) in [("MemberList", list), ("Alarm", alarm), ("LeaseLeases", leases)] {
        match outcome {
            Ok(()) => calls.answered.push(name),
            Err(error) if error.kind() == ErrorKind::Denied => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(calls)
}

async fn within<T>(
    what: &str,
    call: impl Future<Output = std::result::Result<T, etcd_client::Error>>,
) -> Result<T> {
    let late = || Error::new(ErrorKind::Unreachable, format!("{what}: no answer within {PROBE:?}"));
    timeout(PROBE, call).await.map_err(|_| late())?.map_err(|error| from_client(what, &error))
}

/// What the settings' user may read.
async fn read_cluster(settings: &EtcdSettings, endpoint: &mut Endpoint, cluster: &mut Cluster) {
    let source = |call: &str| format!("{call} of {}", endpoint.name);
    let mut client = match settings.connect().await {
        Ok(client) => client,
        Err(error) => {
            endpoint.member = Fact::unknown(error.to_string());
            endpoint.health = Fact::unknown(error.to_string());
            return;
        }
    };
    match within("Status", client.status()).await {
        Ok(status) => {
            let member = status.header().map_or(0, |header| header.member_id());
            endpoint.member = Fact::known(member, source("Status"));
            endpoint.health = Fact::known(Health::of(&status), source("Status"));
            if let Fact::Unknown(_) = endpoint.version {
                endpoint.version = Fact::known(clean(status.version()), source("Status"));
            }
        }
        Err(error) => {
            endpoint.member = Fact::unknown(error.to_string());
            endpoint.health = Fact::unknown(error.to_string());
        }
    }
    if !matches!(cluster.members, Fact::Known { .. }) {
        let list = within("MemberList", client.member_list()).await;
        let members = list.map_err(|error| error.to_string()).and_then(|list| {
            let urls = |urls: &[String]| urls.iter().map(|url| clean(url)).collect();
            let members = list.members().iter().map(|member| Listed {
                id: member.id(),
                name: clean(member.name()),
                learner: member.is_learner(),
                client_urls: urls(member.client_urls()),
                peer_urls: urls(member.peer_urls()),
            });
            bounded(members.collect())
        });
        cluster.members = Fact::read(members, source("MemberList"));
    }
    if !matches!(cluster.alarms, Fact::Known { .. }) {
        let alarms = within("Alarm", client.alarm(AlarmAction::Get, AlarmType::None, None)).await;
        cluster.alarms = Fact::read(alarms.map(|list| raised(&list)), source("Alarm"));
    }
    if !matches!(cluster.auth, Fact::Known { .. }) {
        cluster.auth = auth(settings, endpoint);
    }
    if !matches!(cluster.users, Fact::Known { .. }) {
        let read = limited(MAX_READING, users(&mut client)).await;
        cluster.users = Fact::read(rooted(read), source("UserList, UserGet"));
        let read = limited(MAX_READING, roles(&mut client)).await;
        cluster.roles = Fact::read(rooted(read), source("RoleList, RoleGet"));
    }
}

/// Many calls, with one limit for all.
async fn limited<T>(limit: Duration, calls: impl Future<Output = Result<T>>) -> Result<T> {
    let late = || Error::new(ErrorKind::Unreachable, format!("not all was read within {limit:?}"));
    timeout(limit, calls).await.unwrap_or_else(|_| Err(late()))
}

/// Says what a refused call needs.
fn rooted<T>(read: Result<T>) -> std::result::Result<T, String> {
    read.map_err(|error| match error.kind() {
        ErrorKind::Denied => {
            format!(
                "{error}: needs a login with the role root, or --scope repository and a snapshot"
            )
        }
        _ => error.to_string(),
    })
}

/// A member list that is looked at as a whole.
fn bounded(members: Vec<Listed>) -> std::result::Result<Vec<Listed>, String> {
    if members.len() > MAX_MEMBERS {
        return Err(format!("more than {MAX_MEMBERS} members"));
    }
    let most = |member: &Listed| member.client_urls.len().max(member.peer_urls.len());
    match members.iter().find(|member| most(member) > MAX_URLS) {
        Some(member) => Err(format!("member {} has more than {MAX_URLS} URLs", member.name)),
        None => Ok(members),
    }
}

fn raised(list: &etcd_client::AlarmResponse) -> Vec<String> {
    let alarms = list.alarms().iter().take(MAX_MEMBERS).map(|alarm| {
        let name = match alarm.alarm() {
            AlarmType::None => "NONE",
            AlarmType::Nospace => "NOSPACE",
            AlarmType::Corrupt => "CORRUPT",
        };
        format!("{name} by member {:x}", alarm.member_id())
    });
    alarms.collect()
}

async fn users(client: &mut Client) -> Result<Vec<User>> {
    let mut users = Vec::new();
    for name in within("UserList", client.user_list()).await?.users() {
        if users.len() >= MAX_USERS {
            return Err(Error::new(ErrorKind::Protocol, format!("more than {MAX_USERS} users")));
        }
        let roles = within("UserGet", client.user_get(name.clone())).await?.roles().to_vec();
        users.push(User {
            name: clean(name),
            roles: roles.iter().map(|role| clean(role)).collect(),
        });
    }
    Ok(users)
}

async fn roles(client: &mut Client) -> Result<Vec<Role>> {
    let mut roles = Vec::new();
    for name in within("RoleList", client.role_list()).await?.roles() {
        if roles.len() >= MAX_USERS {
            return Err(Error::new(ErrorKind::Protocol, format!("more than {MAX_USERS} roles")));
        }
        let got = within("RoleGet", client.role_get(name.clone())).await?;
        let grants = got.permissions();
        let grants = grants.iter().map(|grant| Grant {
            kind: grant.get_type(),
            key: grant.key().to_vec(),
            range_end: grant.range_end().to_vec(),
        });
        roles.push(Role { name: clean(name), grants: grants.collect() });
    }
    Ok(roles)
}

/// Whether authentication is on, from what a call without a login came to. A certificate with a common name is a login:
/// then the gateway decides, which ignores it.
fn auth(settings: &EtcdSettings, endpoint: &Endpoint) -> Fact<bool> {
    let (calls, source) = match &endpoint.without_login {
        Fact::Known { value, source } => (value, source),
        Fact::Unknown(why) => return Fact::unknown(why.clone()),
    };
    if calls.login_wanted {
        return Fact::known(true, source.clone());
    }
    if settings.cert.is_none() || !shows_a_name(settings) {
        return Fact::known(false, source.clone());
    }
    match &endpoint.pages {
        Fact::Known { value, source } => match value.gateway {
            (200, _) => Fact::known(false, source.clone()),
            (_, ref text)
                if text.contains("user name is empty") || text.contains("against gateway") =>
            {
                Fact::known(true, source.clone())
            }
            _ => Fact::unknown("the client certificate has a common name, which may be a login"),
        },
        Fact::Unknown(why) => Fact::unknown(why.clone()),
    }
}

fn shows_a_name(settings: &EtcdSettings) -> bool {
    own_certificate(settings).is_none_or(|first| first.common_name.is_some())
}

/// The certificate that the settings name, if it can be read.
fn own_certificate(settings: &EtcdSettings) -> Option<Certificate> {
    let read = settings.cert.as_ref().and_then(|path| std::fs::read(path).ok());
    let parsed = read.and_then(|pem| Certificate::of_pem(&pem).ok());
    parsed.and_then(|all| all.into_iter().next())
}

/// The user that the settings log in as: by name, else by the common name of their certificate.
pub(crate) fn own(settings: &EtcdSettings) -> Fact<Option<String>> {
    if let Some(user) = &settings.user {
        let name = user.split(':').next().unwrap_or_default();
        return Fact::known(Some(clean(name)), "the login of this audit");
    }
    let Some(path) = &settings.cert else { return Fact::known(None, "the login of this audit") };
    match own_certificate(settings) {
        Some(certificate) => Fact::known(certificate.common_name, path.display().to_string()),
        None => Fact::unknown(format!("{}: not a certificate that can be read", path.display())),
    }
}

/// Members that no endpoint is: nothing is known of them.
fn missing(settings: &EtcdSettings, asked: &[Endpoint], cluster: &Cluster) -> Vec<Endpoint> {
    let Fact::Known { value: members, .. } = &cluster.members else { return Vec::new() };
    let ids = asked.iter().filter_map(|endpoint| match &endpoint.member {
        Fact::Known { value, .. } => Some(*value),
        Fact::Unknown(_) => None,
    });
    let ids: Vec<u64> = ids.collect();
    // An endpoint that did not say which member it is stands for one that has its address, and is unknown itself.
    let silent = asked.iter().filter(|endpoint| matches!(endpoint.member, Fact::Unknown(_)));
    let mut silent: Vec<_> = silent.filter_map(|one| settings.url(&one.name).ok()).collect();
    let mut stands_for = |member: &Listed| {
        let urls: Vec<_> =
            member.client_urls.iter().filter_map(|other| Url::parse(other).ok()).collect();
        let is_its = |url: &Url| {
            urls.iter()
                .any(|other| other.host_str() == url.host_str() && other.port() == url.port())
        };
        silent.iter().position(is_its).map(|at| silent.swap_remove(at)).is_some()
    };
    let mut missing: Vec<_> = members.iter().filter(|member| !ids.contains(&member.id)).collect();
    missing.retain(|member| !stands_for(member));
    missing
        .into_iter()
        .map(|member| {
            let name = if member.name.is_empty() {
                format!("{:x}", member.id)
            } else {
                member.name.clone()
            };
            let urls = member.client_urls.join(",");
            let why = format!("member {name} is not among the endpoints: add --endpoints {urls}");
            Endpoint::unknown(name, &why)
        })
        .collect()
}

async fn peers(settings: &EtcdSettings, members: &[Listed]) -> Vec<Peer> {
    let mut peers = Vec::new();
    for member in members {
        for (at, url) in member.peer_urls.iter().enumerate() {
            let name = if member.name.is_empty() {
                format!("{:x}", member.id)
            } else {
                member.name.clone()
            };
            peers.push(match at < MAX_PEER_URLS {
                true => peer(settings, name, url).await,
                false => {
                    let why = format!("only the first {MAX_PEER_URLS} peer URLs are asked");
                    Peer::unknown(name, url, &why)
                }
            });
        }
    }
    peers
}

async fn peer(settings: &EtcdSettings, member: String, url: &str) -> Peer {
    let parsed = Url::parse(url).ok();
    let Some((host, port)) = parsed.as_ref().and_then(|url| url.host_str().zip(url.port())) else {
        return Peer::unknown(member, url, "its peer URL has no host and port");
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let authority = format!("{host}:{port}");
    let (plain, _) = without_tls((bare, port), &authority).await;
    let is_plain = matches!(&plain, Fact::Known { value: Plain::Etcd(_), .. });
    let (tls, _) = without_certificate(settings, (bare, port), &authority, is_plain).await;
    Peer { member, url: url.to_owned(), plain, tls }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(urls: usize) -> Listed {
        // Nothing listens on port 1.
        let peer_urls = vec!["http://127.0.0.1:1".to_owned(); urls];
        Listed { id: 1, name: "m0".into(), learner: false, client_urls: Vec::new(), peer_urls }
    }

    /// An endpoint stands for one member at most: all of them may have the same URL.
    #[test]
    fn members_that_nobody_asked_are_unknown() {
        let urls = vec!["http://localhost:2379".to_owned()];
        let members = (1..=3).map(|id| Listed {
            id,
            name: format!("m{id}"),
            client_urls: urls.clone(),
            ..member(0)
        });
        let mut cluster = Cluster::unknown("x");
        cluster.members = Fact::known(members.collect(), "x");
        let settings = EtcdSettings { endpoints: urls.clone(), ..EtcdSettings::default() };
        let mut asked = vec![Endpoint::unknown(urls[0].clone(), "x")];
        let names = |asked: &[Endpoint]| -> Vec<String> {
            missing(&settings, asked, &cluster).into_iter().map(|one| one.name).collect()
        };
        assert_eq!(names(&asked), ["m2", "m3"]);
        asked[0].member = Fact::known(2, "x");
        assert_eq!(names(&asked), ["m1", "m3"]);
    }

    #[tokio::test]
    async fn peer_urls_that_are_not_asked_are_unknown() {
        let found = peers(&EtcdSettings::default(), &[member(3)]).await;
        let why = |peer: &Peer| match (&peer.plain, &peer.tls) {
            (Fact::Unknown(why), Fact::Unknown(_)) => why.clone(),
            _ => String::new(),
        };
        assert_eq!(found.len(), 3);
        assert_eq!(why(&found[2]), "only the first 2 peer URLs are asked");
    }

    #[test]
    fn a_list_that_is_too_long_is_not_cut() {
        assert_eq!(bounded(vec![member(16); 64]).unwrap().len(), 64);
        assert!(bounded(vec![member(17)]).is_err());
        assert!(bounded(vec![member(1); 65]).is_err());
    }

    #[tokio::test]
    async fn many_calls_have_one_limit() {
        let never = limited::<()>(Duration::from_millis(1), std::future::pending()).await;
        assert_eq!(never.unwrap_err().kind(), ErrorKind::Unreachable);
        assert_eq!(limited(MAX_READING, async { Ok(1) }).await.unwrap(), 1);
    }
}
