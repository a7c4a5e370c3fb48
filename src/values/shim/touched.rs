//! Which keys a request is about, for those who decide on it or note it down.

use super::wire::{Raw, Singles};
use crate::mvcc::proto::Malformed;

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

/// What the message of a request to `path` is about; nothing for those that are about no keys.
///
/// # Errors
/// When it is no such message.
pub(crate) fn touched(path: &str, message: &[u8]) -> Result<Vec<Touched>, Malformed> {
    let mut found = Vec::new();
    match path {
        "/etcdserverpb.KV/Range" | "/etcdserverpb.KV/RangeStream" => range(message, 4, &mut found)?,
        "/etcdserverpb.KV/DeleteRange" => range(message, 0, &mut found)?,
        "/etcdserverpb.KV/Put" | "/v3lockpb.Lock/Unlock" => key(message, &mut found)?,
        "/etcdserverpb.KV/Txn" => txn(message, &mut found, 0)?,
        "/etcdserverpb.Watch/Watch" => {
            if let Some(create) = Singles::<1>::read(message)?.message(1)? {
                range(create, 3, &mut found)?;
            }
        }
        "/v3electionpb.Election/Campaign"
        | "/v3electionpb.Election/Leader"
        | "/v3electionpb.Election/Observe"
        | "/v3lockpb.Lock/Lock" => {
            found.push(Touched::below(Singles::<1>::read(message)?.bytes(1)?));
        }
        "/v3electionpb.Election/Proclaim" | "/v3electionpb.Election/Resign" => {
            let leader = Singles::<1>::read(message)?.message(1)?.unwrap_or_default();
            found.push(Touched::new(Singles::<2>::read(leader)?.bytes(2)?, &[], 0));
        }
        _ => {}
    }
    Ok(found)
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

fn txn(message: &[u8], found: &mut Vec<Touched>, depth: usize) -> Result<(), Malformed> {
    if depth > super::txn::MAX_DEPTH {
        return Err(Malformed);
    }
    let mut fields = Raw::new(message);
    while let Some((number, field, _)) = fields.next()? {
        match number {
            1 => {
                let fields = Singles::<64>::read(field.bytes()?)?;
                found.push(Touched::new(fields.bytes(3)?, fields.bytes(64)?, 0));
            }
            2 | 3 => {
                let op = Singles::<4>::read(field.bytes()?)?;
                for kind in 1..=4 {
                    match (kind, op.message(kind)?) {
                        (1, Some(op)) => range(op, 4, found)?,
                        (2, Some(op)) => key(op, found)?,
                        (3, Some(op)) => range(op, 0, found)?,
                        (_, Some(op)) => txn(op, found, depth + 1)?,
                        (_, None) => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The revision in an answer's header.
pub(crate) fn revision_of(answer: &[u8]) -> Option<i64> {
    let header = Singles::<1>::read(answer).ok()?.message(1).ok()??;
    Singles::<3>::read(header).ok()?.number(3).ok().filter(|revision| *revision > 0)
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
        use super::super::wire::{put_bytes, put_message};
        let nested = |kind: u64, inner: &[u8]| {
            let (mut op, mut txn) = (Vec::new(), Vec::new());
            put_message(&mut op, kind, inner);
            put_message(&mut txn, 3, &op);
            txn
        };
        let mut put = Vec::new();
        put_bytes(&mut put, 1, b"k");
        let message = nested(4, &nested(2, &put));
        let found = touched("/etcdserverpb.KV/Txn", &message).unwrap();
        assert_eq!(found, [Touched::new(b"k", b"", 0)]);
        let deep = (0..200).fold(put, |inner, _| nested(4, &inner));
        assert!(touched("/etcdserverpb.KV/Txn", &deep).is_err());
    }
}
