//! What a request is about, for those who decide on it or write it to a log.

use super::method::Method;
use super::upstream::Parsed;
use crate::protobuf::fields::{
    HEADER, alarm, campaign, compaction, compare, downgrade, grant_permission, header, leader_key,
    lease_grant, lease_grant_response, lease_time_to_live, lease_time_to_live_response, member_add,
    member_update, named, op, permission, proclaim, put, range, txn, unlock, watch, watch_create,
};
use crate::protobuf::{Malformed, Raw, Singles, put_number};

/// A key, or a range of keys, that a request reads or writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Touched {
    pub(crate) key: Vec<u8>,
    /// As in `RangeRequest.range_end`: empty for the one key, a zero byte for no end.
    pub(crate) end: Vec<u8>,
    /// The revision that is asked for, 0 for none.
    pub(crate) revision: i64,
}

impl Touched {
    fn new(key: &[u8], end: &[u8], revision: i64) -> Self {
        Self { key: key.to_vec(), end: end.to_vec(), revision }
    }

    /// All keys below `name`, as elections and locks have them.
    fn below(name: &[u8]) -> Self {
        Self::new(&[name, b"/"].concat(), &[name, b"0"].concat(), 0)
    }

    /// Whether all of it begins with `prefix`.
    pub(crate) fn is_within(&self, prefix: &[u8]) -> bool {
        if !self.key.starts_with(prefix) {
            return false;
        }
        let limit = crate::mvcc::prefix_end(prefix);
        match &*self.end {
            [] => true,
            [0] => prefix.is_empty(),
            end => limit == [0] || *end <= *limit,
        }
    }
}

/// What a request is about, for those who decide on it or write it to a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) keys: Vec<Touched>,
    /// Leases that it reads, ends, keeps alive, or attaches a key to.
    pub(crate) leases: Vec<i64>,
    /// Its subject besides keys: a lease, a user, a role, a member.
    pub(crate) subject: Option<String>,
    /// The revision that it names, if it is about no keys.
    pub(crate) revision: Option<i64>,
}

impl About {
    /// What `request` is about.
    ///
    /// # Errors
    /// When a message is malformed; a message that was parsed is not.
    pub(crate) fn of(request: &Parsed) -> Result<Self, Malformed> {
        let (mut about, message) = (Self::default(), &request.message[..]);
        match request.method {
            Method::Txn => about.txn(message)?,
            Method::Put => about.put(message)?,
            Method::Range | Method::RangeStream => about.range(message, Some(range::REVISION))?,
            Method::DeleteRange => about.range(message, None)?,
            Method::Unlock => about.key(Singles::<1>::read(message)?.bytes(unlock::KEY)?),
            Method::Watch => about.watch(message)?,
            Method::Campaign | Method::Lock => {
                let fields = Singles::<2>::read(message)?;
                about.keys.push(Touched::below(fields.bytes(campaign::NAME)?));
                about.attach(fields.number(campaign::LEASE)?);
            }
            Method::Leader | Method::Observe => {
                let name = Singles::<1>::read(message)?.bytes(campaign::NAME)?;
                about.keys.push(Touched::below(name));
            }
            Method::Proclaim | Method::Resign => {
                let leader = Singles::<1>::read(message)?.bytes(proclaim::LEADER)?;
                let fields = Singles::<4>::read(leader)?;
                about.key(fields.bytes(leader_key::KEY)?);
                // etcd keeps this lease alive, and attaches the key to it (`v3election/election.go`).
                about.attach(fields.number(leader_key::LEASE)?);
            }
            Method::LeaseRevoke | Method::LeaseKeepAlive | Method::LeaseTimeToLive => {
                let lease = Singles::<1>::read(message)?.number(lease_time_to_live::ID)?;
                about.leases.push(lease);
                about.subject = Some(format!("lease {lease:x}"));
            }
            Method::LeaseGrant => {
                let lease = Singles::<2>::read(message)?.number(lease_grant::ID)?;
                about.subject = (lease != 0).then(|| format!("lease {lease:x}"));
            }
            Method::RoleGrantPermission | Method::RoleRevokePermission => {
                about.permission(request.method, message)?;
            }
            Method::Compact | Method::HashKv => {
                about.revision = Some(Singles::<1>::read(message)?.number(compaction::REVISION)?);
            }
            method => about.subject = subject(method, message)?,
        }
        if about.subject.is_none() {
            about.subject = attached(&about.leases);
        }
        Ok(about)
    }

    fn key(&mut self, key: &[u8]) {
        self.keys.push(Touched::new(key, &[], 0));
    }

    fn attach(&mut self, lease: i64) {
        self.leases.extend((lease != 0).then_some(lease));
    }

    fn put(&mut self, message: &[u8]) -> Result<(), Malformed> {
        let fields = Singles::<3>::read(message)?;
        self.key(fields.bytes(put::KEY)?);
        self.attach(fields.number(put::LEASE)?);
        Ok(())
    }

    /// Of a request for a range, with the field that holds the revision it asks for.
    fn range(&mut self, message: &[u8], revision: Option<u64>) -> Result<(), Malformed> {
        let fields = Singles::<4>::read(message)?;
        let (key, end) = (fields.bytes(range::KEY)?, fields.bytes(range::RANGE_END)?);
        let revision = revision.map_or(Ok(0), |number| fields.number(number))?;
        self.keys.push(Touched::new(key, end, revision));
        Ok(())
    }

    fn txn(&mut self, message: &[u8]) -> Result<(), Malformed> {
        let mut fields = Raw::new(message);
        while let Some((number, field, _)) = fields.next()? {
            if number == txn::COMPARE {
                let fields = Singles::<64>::read(field.bytes()?)?;
                let (key, end) = (fields.bytes(compare::KEY)?, fields.bytes(compare::RANGE_END)?);
                self.keys.push(Touched::new(key, end, 0));
                continue;
            }
            let fields = Singles::<4>::read(field.bytes()?)?;
            for kind in op::RANGE..=op::TXN {
                match (kind, fields.message(kind)?) {
                    (op::RANGE, Some(op)) => self.range(op, Some(range::REVISION))?,
                    (op::PUT, Some(op)) => self.put(op)?,
                    (op::DELETE_RANGE, Some(op)) => self.range(op, None)?,
                    (_, Some(op)) => self.txn(op)?,
                    (_, None) => {}
                }
            }
        }
        Ok(())
    }

    fn watch(&mut self, message: &[u8]) -> Result<(), Malformed> {
        let Some(create) = Singles::<3>::read(message)?.message(watch::CREATE)? else {
            return Ok(());
        };
        self.range(create, Some(watch_create::START_REVISION))?;
        for one in self.keys.iter_mut().filter(|one| one.key.is_empty()) {
            // As etcd reads it (`server/etcdserver/api/v3rpc/watch.go`).
            one.key = vec![0];
        }
        Ok(())
    }

    fn permission(&mut self, method: Method, message: &[u8]) -> Result<(), Malformed> {
        let fields = Singles::<3>::read(message)?;
        let permission = match method {
            Method::RoleGrantPermission => {
                Singles::<3>::read(fields.bytes(grant_permission::PERMISSION)?)?
            }
            _ => fields,
        };
        let key = permission.bytes(permission::KEY)?;
        self.keys.push(Touched::new(key, permission.bytes(permission::RANGE_END)?, 0));
        self.subject = subject(method, message)?;
        Ok(())
    }
}

/// The subject of a request that attaches keys to leases.
fn attached(leases: &[i64]) -> Option<String> {
    let mut names = Vec::new();
    for lease in leases {
        let name = format!("lease {lease:x}");
        if !names.contains(&name) {
            names.push(name);
        }
        if names.len() > MAX_LEASES {
            names.pop();
            names.push("...".to_owned());
            break;
        }
    }
    (!names.is_empty()).then(|| names.join(", "))
}

/// Leases that a subject names.
const MAX_LEASES: usize = 8;

/// The subject of a request about members, alarms, users and roles. Never a password.
fn subject(method: Method, message: &[u8]) -> Result<Option<String>, Malformed> {
    match method {
        // Peer URLs repeat, which `Singles::<2>` refuses.
        Method::MemberAdd => return member_at(message).map(Some),
        Method::MemberUpdate => {
            let id = Singles::<1>::read(message)?.number(member_update::ID)?;
            return Ok(Some(format!("member {id:x}")));
        }
        _ => {}
    }
    let fields = Singles::<2>::read(message)?;
    let text =
        |number| fields.bytes(number).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let member = |number| fields.number(number).map(|id| format!("member {id:x}"));
    Ok(Some(match method {
        Method::Authenticate
        | Method::UserAdd
        | Method::UserGet
        | Method::UserDelete
        | Method::UserChangePassword => format!("user {}", text(named::NAME)?),
        Method::UserGrantRole | Method::UserRevokeRole => {
            format!("user {} role {}", text(named::NAME)?, text(named::ROLE)?)
        }
        Method::RoleAdd | Method::RoleGet | Method::RoleDelete | Method::RoleRevokePermission => {
            format!("role {}", text(named::NAME)?)
        }
        Method::RoleGrantPermission => format!("role {}", text(named::NAME)?),
        Method::MemberRemove | Method::MemberPromote | Method::MoveLeader => {
            member(member_update::ID)?
        }
        Method::Alarm => {
            let action = ["get", "activate", "deactivate"];
            let action =
                usize::try_from(fields.number(alarm::ACTION)?).ok().and_then(|at| action.get(at));
            format!("alarm {}", action.unwrap_or(&"?"))
        }
        Method::Downgrade => format!("version {}", text(downgrade::VERSION)?),
        _ => return Ok(None),
    }))
}

/// The peer URLs of a `MemberAddRequest`.
fn member_at(message: &[u8]) -> Result<String, Malformed> {
    let (mut urls, mut fields) = (Vec::new(), Raw::new(message));
    while let Some((number, field, _)) = fields.next()? {
        if number == member_add::PEER_URLS {
            urls.push(String::from_utf8_lossy(field.bytes()?));
        }
    }
    Ok(format!("member at {}", urls.join(", ")))
}

/// The keys of a lease, and whether it is there, in a `LeaseTimeToLiveResponse`.
pub(crate) fn lease_keys(answer: &[u8]) -> Result<Vec<Touched>, Malformed> {
    let (mut keys, mut fields) = (Vec::new(), Raw::new(answer));
    while let Some((number, field, _)) = fields.next()? {
        if number == lease_time_to_live_response::KEYS {
            keys.push(Touched::new(field.bytes()?, &[], 0));
        }
    }
    Ok(keys)
}

/// A `LeaseTimeToLiveRequest` for a lease and its keys.
pub(crate) fn time_to_live(lease: i64) -> Vec<u8> {
    let mut request = Vec::new();
    put_number(&mut request, lease_time_to_live::ID, lease);
    put_number(&mut request, lease_time_to_live::KEYS, 1);
    request
}

/// The revision in an answer's header.
pub(crate) fn revision_of(answer: &[u8]) -> Option<i64> {
    let header = Singles::<1>::read(answer).ok()?.message(HEADER).ok()??;
    let revision = Singles::<3>::read(header).ok()?.number(header::REVISION).ok();
    revision.filter(|revision| *revision > 0)
}

/// What the log calls the lease that a `LeaseGrantResponse` grants.
pub(crate) fn granted(answer: &[u8]) -> Option<String> {
    let lease = Singles::<2>::read(answer).ok()?.number(lease_grant_response::ID).ok()?;
    Some(format!("lease {lease:x}"))
}

/// The text in one of the first two fields of a message, such as a user's name.
pub(crate) fn text_of(message: &[u8], field: u64) -> Option<String> {
    let bytes = Singles::<2>::read(message).ok()?.bytes(field).ok()?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_a_prefix() {
        let touched = |key: &str, end: &str| Touched::new(key.as_bytes(), end.as_bytes(), 0);
        assert!(touched("/a/x", "").is_within(b"/a/") && touched("/a/", "/a0").is_within(b"/a/"));
        assert!(!touched("/a", "").is_within(b"/a/") && !touched("/a/", "/b").is_within(b"/a/"));
        assert!(!touched("/a/x", "\0").is_within(b"/a/") && touched("\0", "\0").is_within(b""));
        assert!(Touched::below(b"/a/e").is_within(b"/a/e/"));
    }

    #[test]
    fn of_a_transaction_within_another() {
        use crate::protobuf::{put_bytes, put_message};
        let nested = |kind: u64, inner: &[u8]| {
            let (mut op, mut txn) = (Vec::new(), Vec::new());
            put_message(&mut op, kind, inner);
            put_message(&mut txn, 3, &op);
            txn
        };
        let mut put = Vec::new();
        put_bytes(&mut put, 1, b"k");
        put_number(&mut put, 3, 7);
        let request = Parsed::parse(Method::Txn, &nested(4, &nested(2, &put))).unwrap();
        let about = About::of(&request).unwrap();
        assert_eq!((about.keys, about.leases), (vec![Touched::new(b"k", b"", 0)], vec![7]));
        assert_eq!(about.subject.as_deref(), Some("lease 7"));
        let many: Vec<i64> = (1..20).chain(1..20).collect();
        let named = attached(&many).unwrap();
        assert!(named.starts_with("lease 1, lease 2") && named.ends_with("lease 8, ..."));
    }

    #[test]
    fn a_member_has_several_urls() {
        use crate::protobuf::put_bytes;
        let (mut add, mut update) = (Vec::new(), Vec::new());
        put_number(&mut update, 1, 0x2a);
        for url in ["http://10.0.0.1:2380", "http://[fd00::1]:2380"] {
            put_bytes(&mut add, 1, url.as_bytes());
            put_bytes(&mut update, 2, url.as_bytes());
        }
        for (method, message, subject) in [
            (Method::MemberAdd, add, "member at http://10.0.0.1:2380, http://[fd00::1]:2380"),
            (Method::MemberUpdate, update, "member 2a"),
        ] {
            let request = Parsed::parse(method, &message).unwrap();
            assert_eq!(About::of(&request).unwrap().subject.as_deref(), Some(subject));
        }
    }

    #[test]
    fn a_password_is_no_subject() {
        use crate::protobuf::put_bytes;
        let mut message = Vec::new();
        put_bytes(&mut message, 1, b"root");
        put_bytes(&mut message, 2, b"hunter2");
        let request = Parsed::parse(Method::Authenticate, &message).unwrap();
        assert_eq!(About::of(&request).unwrap().subject.as_deref(), Some("user root"));
    }
}
