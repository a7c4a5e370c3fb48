//! Who is in the cluster: names, peer URLs, and the ids that etcd makes of them
//! (`client/pkg/types/urls.go`, `urlsmap.go`, `server/etcdserver/api/membership/member.go`, `cluster.go`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use serde::Serialize;
use sha1::{Digest, Sha1};

use crate::error::{Error, Result};
use crate::protobuf::Message;
use crate::protobuf::fields::conf_state;

/// The raft term of everything that a restore writes.
pub(super) const TERM: u64 = 1;
/// More members than any cluster has.
const MAX_MEMBERS: usize = 64;

/// A cluster to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its id, which etcd derives from the members'.
    pub id: u64,
    /// The token that makes the ids its own (`--initial-cluster-token`).
    pub token: String,
    /// The members, ascending by id.
    pub members: Vec<Member>,
}

/// A member to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id, which etcd derives from its peer URLs and the token.
    pub id: u64,
    /// Its name (`--name`).
    pub name: String,
    /// Where its peers reach it, in order.
    pub peer_urls: Vec<String>,
}

/// etcd's JSON of a member.
#[derive(Serialize)]
struct MemberJson<'a> {
    id: u64,
    #[serde(rename = "peerURLs")]
    peer_urls: &'a [String],
    name: &'a str,
}

impl Cluster {
    /// Of `--initial-cluster`, such as `a=https://10.0.0.1:2380,b=https://10.0.0.2:2380`; a name that comes again
    /// has another URL. Stricter than etcd: host names are ASCII, and a peer is no UNIX socket.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) naming what etcd would not take.
    pub fn parse(initial_cluster: &str, token: &str) -> Result<Self> {
        let mut urls: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for pair in initial_cluster.split(',').filter(|pair| !pair.trim().is_empty()) {
            let (name, url) = pair.split_once('=').ok_or_else(|| not_a_member(pair))?;
            let name = name.trim();
            // etcd would take control characters; a terminal, and whoever reads a log, should not.
            if name.is_empty() || name.chars().any(char::is_control) {
                return Err(not_a_member(pair));
            }
            let url = peer_url(url)?;
            if !seen.insert(url.clone()) {
                let message = format!("initial cluster: peer URL {url} is there twice");
                return Err(Error::usage(message).hint("each member needs its own URLs"));
            }
            urls.entry(name).or_default().push(url);
        }
        if urls.is_empty() || urls.len() > MAX_MEMBERS {
            let message = format!("the initial cluster has {} members", urls.len());
            return Err(Error::usage(message).hint("such as m1=https://10.0.0.1:2380"));
        }
        if token.is_empty() {
            return Err(Error::usage("the cluster token is empty"));
        }
        let mut members: Vec<_> =
            urls.into_iter().map(|(name, urls)| Member::new(name, urls, token)).collect();
        members.sort_by_key(|member| member.id);
        let mut hash = Sha1::new();
        members.iter().for_each(|member| hash.update(member.id.to_be_bytes()));
        Ok(Self { id: first_eight(hash), token: token.to_owned(), members })
    }

    /// The member `name`, whose peer URLs must be `peer_urls` if these are given, in any order. Where etcd would
    /// resolve host names to see whether URLs that differ mean the same, they must be spelled the same.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when it is not in the cluster, or has other URLs.
    pub fn member(&self, name: &str, peer_urls: &[String]) -> Result<&Member> {
        let member = self.members.iter().find(|member| member.name == name).ok_or_else(|| {
            let names: Vec<_> = self.members.iter().map(|member| member.name.as_str()).collect();
            Error::usage(format!("the initial cluster has no member {name:?}"))
                .hint(format!("--name is one of {}", names.join(", ")))
        })?;
        let mut given = peer_urls.iter().map(|url| peer_url(url)).collect::<Result<Vec<_>>>()?;
        given.sort();
        if !given.is_empty() && given != member.peer_urls {
            return Err(Error::usage(format!(
                "the initial cluster gives {name} the peer URLs {}, and --initial-advertise-peer-urls {}",
                member.peer_urls.join(","),
                given.join(",")
            ))
            .hint("give both the same, or leave --initial-advertise-peer-urls out"));
        }
        Ok(member)
    }

    /// As `--initial-cluster` has it, in order of the names: the same however it was typed.
    #[must_use]
    pub fn initial_cluster(&self) -> String {
        let mut pairs: Vec<String> = self
            .members
            .iter()
            .flat_map(|member| {
                member.peer_urls.iter().map(move |url| format!("{}={url}", member.name))
            })
            .collect();
        pairs.sort();
        pairs.join(",")
    }

    /// Raft index of the last entry, which adds the last member.
    pub(super) fn index(&self) -> u64 {
        self.members.len() as u64
    }

    /// Records of the buckets that say who the members are: those of `members`, and none in `members_removed` and
    /// `alarm`, since those of before are none of this cluster's.
    #[must_use]
    pub fn buckets(&self) -> BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>> {
        let records = self.members.iter().map(|member| (member.hex().into_bytes(), member.json()));
        [
            (b"members".to_vec(), records.collect()),
            (b"members_removed".to_vec(), BTreeMap::new()),
            (b"alarm".to_vec(), BTreeMap::new()),
        ]
        .into()
    }

    /// Records of the bucket `meta` that say how much of the log the database has, and who votes.
    #[must_use]
    pub fn meta(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let voters: Vec<String> = self.members.iter().map(|member| member.id.to_string()).collect();
        let conf_state = format!(r#"{{"voters":[{}],"auto_leave":false}}"#, voters.join(","));
        [
            (b"consistent_index".to_vec(), self.index().to_be_bytes().to_vec()),
            (b"term".to_vec(), TERM.to_be_bytes().to_vec()),
            (b"confState".to_vec(), conf_state.into_bytes()),
        ]
        .into()
    }

    /// `raftpb.ConfState`: everyone votes.
    pub(super) fn conf_state(&self) -> Message {
        let voters = self.members.iter();
        voters
            .fold(Message::default(), |all, member| all.number(conf_state::VOTERS, member.id))
            .number(conf_state::AUTO_LEAVE, 0)
    }
}

impl Member {
    fn new(name: &str, mut peer_urls: Vec<String>, token: &str) -> Self {
        peer_urls.sort();
        let mut hash = Sha1::new();
        peer_urls.iter().for_each(|url| hash.update(url));
        hash.update(token);
        Self { id: first_eight(hash), name: name.to_owned(), peer_urls }
    }

    /// The id as etcd spells it.
    pub(super) fn hex(&self) -> String {
        format!("{:x}", self.id)
    }

    /// etcd's JSON of it.
    pub(super) fn json(&self) -> Vec<u8> {
        let Self { id, name, peer_urls } = self;
        go_json(&MemberJson { id: *id, peer_urls, name }).into_bytes()
    }
}

/// JSON as Go's `encoding/json` writes it, which escapes what HTML would take for its own.
pub(super) fn go_json(value: &impl Serialize) -> String {
    let mut go = String::new();
    // Strings, numbers, lists and maps of them: this cannot fail.
    for char in serde_json::to_string(value).unwrap_or_default().chars() {
        match char {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                go.push_str(&format!("\\u{:04x}", u32::from(char)));
            }
            _ => go.push(char),
        }
    }
    go
}

fn not_a_member(pair: &str) -> Error {
    Error::usage(format!("initial cluster: {pair:?} is not NAME=URL"))
        .hint("such as m1=https://10.0.0.1:2380")
}

fn first_eight(hash: Sha1) -> u64 {
    hash.finalize().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// A peer URL as etcd takes it. Its bytes are hashed, so they stay as they are.
fn peer_url(url: &str) -> Result<String> {
    let url = url.trim();
    let wrong = |why: &str| {
        Error::usage(format!("peer URL {url:?}: {why}")).hint("such as https://10.0.0.1:2380")
    };
    let address = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let address = address.ok_or_else(|| wrong("it begins with neither http:// nor https://"))?;
    // Of these etcd changes none when it prints the URL, which is what it hashes.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:[]".contains(&byte);
    if !address.bytes().all(plain) {
        return Err(wrong("only a host and a port may follow"));
    }
    let (host, port) = address.rsplit_once(':').ok_or_else(|| wrong("it has no port"))?;
    if !port.bytes().all(|byte| byte.is_ascii_digit()) || port.parse::<u16>().is_err() {
        return Err(wrong("its port is not a number up to 65535"));
    }
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if bracketed.is_some_and(|host| host.parse::<Ipv6Addr>().is_err()) {
        return Err(wrong("what is in brackets is not an IPv6 address"));
    }
    if bracketed.is_none() && (host.is_empty() || host.contains([':', '[', ']'])) {
        return Err(wrong("it has no host, or an IPv6 address without brackets"));
    }
    Ok(url.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn ids_are_etcds() {
        // What etcdutl 3.5 gives a member of these URLs and token (its documentation's example).
        let cluster = Cluster::parse("default=http://localhost:2380", "etcd-cluster").unwrap();
        assert_eq!(cluster.members[0].hex(), "8e9e05c52164694d");
        assert_eq!(format!("{:x}", cluster.id), "cdf818194e3a8c32");
        let json =
            r#"{"id":10276657743932975437,"peerURLs":["http://localhost:2380"],"name":"default"}"#;
        assert_eq!(cluster.members[0].json(), json.as_bytes());
    }

    #[test]
    fn one_cluster_however_it_is_typed() {
        let one = Cluster::parse("b=http://b:1,a=http://a:2,a=http://a:1", "t").unwrap();
        let other = Cluster::parse("a=http://a:1,a=http://a:2,,b=http://b:1", "t").unwrap();
        assert_eq!(one, other);
        assert_eq!(one.initial_cluster(), "a=http://a:1,a=http://a:2,b=http://b:1");
        assert!(one.members.is_sorted_by_key(|member| member.id));
        assert_ne!(one.id, Cluster::parse(&one.initial_cluster(), "u").unwrap().id);
        let member = one.member("a", &["http://a:2".into(), "http://a:1".into()]).unwrap();
        assert_eq!(member.peer_urls, ["http://a:1", "http://a:2"]);
    }

    #[test]
    fn what_etcd_would_not_take() {
        for bad in [
            "",
            ",",
            "a",
            "a=",
            "a=ftp://a:1",
            "a=http://a",
            "a=http://a:1/",
            "a=http://:1",
            "a=http://a:port",
            "a=http://a:99999",
            "a=http://::1:2380",
            "a=http://u@a:1",
            "a=http://a:1,b=http://a:1",
            "a=http://a b:1",
            "a=http://a:1,a=http://a:1",
            "a=http://a:1,a=http://c:1,b=http://b:1,b=http://c:1",
            "=http://a:1",
            " =http://a:1",
            "a\u{1b}[2J=http://a:1",
            "a=http://a:+1",
            "a=http://a:",
            "a=http://a^b:1",
            "a=http://a&b:1",
            "a=http://[a]:1",
            "a=http://[::1:1",
            "a=http://a]:1",
            "a=http://[fe80::1%25eth0]:1",
        ] {
            assert_eq!(Cluster::parse(bad, "t").unwrap_err().kind(), ErrorKind::Usage, "{bad}");
        }
        assert!(Cluster::parse("a=https://[::1]:2380", "t").is_ok());
        assert!(Cluster::parse("a=http://a:1", "").is_err());
        let cluster = Cluster::parse("a=http://a:1,b=http://b:1", "t").unwrap();
        let error = cluster.member("c", &[]).unwrap_err();
        assert!(error.hint_text().unwrap().contains("a, b"), "{error}");
        assert!(cluster.member("a", &["http://b:1".into()]).is_err());
    }
}
