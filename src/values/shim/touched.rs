//! What a request is about, for those who decide on it or write it to a log.

use super::method::Method;
use super::service::Parsed;
use crate::protobuf::Malformed;
use crate::protobuf::{Raw, Singles, put_number};

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
        let keys = &mut about.keys;
        match request.method {
            Method::Range | Method::RangeStream => range(message, 4, keys)?,
            Method::DeleteRange => range(message, 0, keys)?,
            Method::Put => put(message, keys, &mut about.leases)?,
            Method::Unlock => key(message, keys)?,
            Method::Txn => txn(message, keys, &mut about.leases)?,
            Method::Watch => {
                let fields = Singles::<3>::read(message)?;
                if let Some(create) = fields.message(1)? {
                    range(create, 3, keys)?;
                    for one in keys.iter_mut().filter(|one| one.key.is_empty()) {
                        // As etcd reads it (`server/etcdserver/api/v3rpc/watch.go`).
                        one.key = vec![0];
                    }
                }
            }
            Method::Campaign | Method::Lock => {
                let fields = Singles::<2>::read(message)?;
                keys.push(Touched::below(fields.bytes(1)?));
                about.leases.extend(Some(fields.number(2)?).filter(|lease| *lease != 0));
            }
            Method::Leader | Method::Observe => {
                keys.push(Touched::below(Singles::<1>::read(message)?.bytes(1)?));
            }
            Method::Proclaim | Method::Resign => {
                let leader = Singles::<1>::read(message)?.message(1)?.unwrap_or_default();
                let fields = Singles::<4>::read(leader)?;
                keys.push(Touched::new(fields.bytes(2)?, &[], 0));
                // etcd keeps this lease alive, and attaches the key to it (`v3election/election.go`).
                about.leases.extend(Some(fields.number(4)?).filter(|lease| *lease != 0));
            }
            Method::LeaseRevoke | Method::LeaseKeepAlive | Method::LeaseTimeToLive => {
                let lease = Singles::<1>::read(message)?.number(1)?;
                about.leases.push(lease);
                about.subject = Some(format!("lease {lease:x}"));
            }
            Method::LeaseGrant => {
                let lease = Singles::<2>::read(message)?.number(2)?;
                about.subject = (lease != 0).then(|| format!("lease {lease:x}"));
            }
            Method::RoleGrantPermission | Method::RoleRevokePermission => {
                let fields = Singles::<3>::read(message)?;
                let granted = match request.method {
                    Method::RoleGrantPermission => {
                        Singles::<3>::read(fields.message(2)?.unwrap_or_default())?
                    }
                    _ => fields,
                };
                keys.push(Touched::new(granted.bytes(2)?, granted.bytes(3)?, 0));
                about.subject = subject(request.method, message)?;
            }
            Method::Compact | Method::HashKv => {
                about.revision = Some(Singles::<1>::read(message)?.number(1)?);
            }
            method => about.subject = subject(method, message)?,
        }
        if about.subject.is_none() {
            about.subject = attached(&about.leases);
        }
        Ok(about)
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
    let fields = Singles::<2>::read(message)?;
    let text =
        |number| fields.bytes(number).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let member = |number| fields.number(number).map(|id| format!("member {id:x}"));
    Ok(Some(match method {
        Method::Authenticate
        | Method::UserAdd
        | Method::UserGet
        | Method::UserDelete
        | Method::UserChangePassword => format!("user {}", text(1)?),
        Method::UserGrantRole | Method::UserRevokeRole => {
            format!("user {} role {}", text(1)?, text(2)?)
        }
        Method::RoleAdd | Method::RoleGet | Method::RoleDelete | Method::RoleRevokePermission => {
            format!("role {}", text(1)?)
        }
        Method::RoleGrantPermission => format!("role {}", text(1)?),
        Method::MemberRemove
        | Method::MemberUpdate
        | Method::MemberPromote
        | Method::MoveLeader => member(1)?,
        Method::MemberAdd => format!("member at {}", text(1)?),
        Method::Alarm => {
            let action = ["get", "activate", "deactivate"];
            let action = usize::try_from(fields.number(1)?).ok().and_then(|at| action.get(at));
            format!("alarm {}", action.unwrap_or(&"?"))
        }
        Method::Downgrade => format!("version {}", text(2)?),
        _ => return Ok(None),
    }))
}

fn put(message: &[u8], found: &mut Vec<Touched>, leases: &mut Vec<i64>) -> Result<(), Malformed> {
    let fields = Singles::<3>::read(message)?;
    found.push(Touched::new(fields.bytes(1)?, &[], 0));
    leases.extend(Some(fields.number(3)?).filter(|lease| *lease != 0));
    Ok(())
}

fn key(message: &[u8], found: &mut Vec<Touched>) -> Result<(), Malformed> {
    found.push(Touched::new(Singles::<1>::read(message)?.bytes(1)?, &[], 0));
    Ok(())
}

fn range(message: &[u8], revision: usize, found: &mut Vec<Touched>) -> Result<(), Malformed> {
    let fields = Singles::<4>::read(message)?;
    let revision = if revision == 0 { 0 } else { fields.number(revision)? };
    found.push(Touched::new(fields.bytes(1)?, fields.bytes(2)?, revision));
    Ok(())
}

fn txn(message: &[u8], found: &mut Vec<Touched>, leases: &mut Vec<i64>) -> Result<(), Malformed> {
    let mut fields = Raw::new(message);
    while let Some((number, field, _)) = fields.next()? {
        if number == 1 {
            let fields = Singles::<64>::read(field.bytes()?)?;
            found.push(Touched::new(fields.bytes(3)?, fields.bytes(64)?, 0));
            continue;
        }
        let op = Singles::<4>::read(field.bytes()?)?;
        for kind in 1..=4 {
            match (kind, op.message(kind)?) {
                (1, Some(op)) => range(op, 4, found)?,
                (2, Some(op)) => put(op, found, leases)?,
                (3, Some(op)) => range(op, 0, found)?,
                (_, Some(op)) => txn(op, found, leases)?,
                (_, None) => {}
            }
        }
    }
    Ok(())
}

/// The keys of a lease, and whether it is there, in a `LeaseTimeToLiveResponse`.
pub(crate) fn lease_keys(answer: &[u8]) -> Result<Vec<Touched>, Malformed> {
    let (mut keys, mut fields) = (Vec::new(), Raw::new(answer));
    while let Some((number, field, _)) = fields.next()? {
        if number == 5 {
            keys.push(Touched::new(field.bytes()?, &[], 0));
        }
    }
    Ok(keys)
}

/// A `LeaseTimeToLiveRequest` for a lease and its keys.
pub(crate) fn time_to_live(lease: i64) -> Vec<u8> {
    let mut request = Vec::new();
    put_number(&mut request, 1, lease);
    put_number(&mut request, 2, 1);
    request
}

/// The revision in an answer's header.
pub(crate) fn revision_of(answer: &[u8]) -> Option<i64> {
    let header = Singles::<1>::read(answer).ok()?.message(1).ok()??;
    Singles::<3>::read(header).ok()?.number(3).ok().filter(|revision| *revision > 0)
}

/// What the log calls the lease that a `LeaseGrantResponse` grants.
pub(crate) fn granted(answer: &[u8]) -> Option<String> {
    let lease = Singles::<2>::read(answer).ok()?.number(2).ok()?;
    Some(format!("lease {lease:x}"))
}

/// The name in an `AuthenticateRequest`, or with `field` 2 the token in the answer to it.
pub(crate) fn text_of(message: &[u8], field: usize) -> Option<String> {
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
    fn a_password_is_no_subject() {
        use crate::protobuf::put_bytes;
        let mut message = Vec::new();
        put_bytes(&mut message, 1, b"root");
        put_bytes(&mut message, 2, b"hunter2");
        let request = Parsed::parse(Method::Authenticate, &message).unwrap();
        assert_eq!(About::of(&request).unwrap().subject.as_deref(), Some("user root"));
    }
}
