//! The snapshot stream's protocol, without I/O: messages go in, verdicts come out.
//!
//! etcd (`server/etcdserver/api/v3rpc/maintenance.go`, the same in 3.4 to 3.7) sends the database in
//! blobs, each with the count of database bytes still to come; then one message holding the SHA-256 of
//! them all; then the end of the stream. Its sending loop ignores read errors, so a server whose disk
//! fails never stops sending empty blobs: those, and whatever else departs from the protocol, are errors here.

use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};

/// No bolt database is smaller: two pages of 1 KiB, the smallest page size bolt accepts.
const MIN_TOTAL: u64 = 2 * 1024;
/// No etcd database is larger: 1 TiB, over a hundred times the most that etcd recommends.
const MAX_TOTAL: u64 = 1 << 40;
/// Every bolt page size is a multiple of this; `etcdctl snapshot save` checks the same.
const SECTOR: u64 = 512;
const DIGEST_LEN: usize = 32;

/// What a message of the stream was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Bytes of the database.
    Data,
    /// The digest, and it agrees with the bytes. Only the end of the stream may follow.
    Digest,
}

enum State {
    Start,
    Data { total: u64, received: u64, hasher: Box<Sha256> },
    Done { total: u64, digest: [u8; DIGEST_LEN] },
}

/// Checks a snapshot stream message by message.
pub struct Checker(State);

impl Default for Checker {
    fn default() -> Self {
        Self::new()
    }
}

impl Checker {
    /// A checker that expects the first message.
    pub fn new() -> Self {
        Self(State::Start)
    }

    /// Takes the next message: its blob and its count of remaining bytes.
    ///
    /// # Errors
    /// [`Protocol`](ErrorKind::Protocol) when the message departs from the protocol,
    /// [`Tampered`](ErrorKind::Tampered) when the digest does not agree with the bytes. The checker is of
    /// no more use after an error.
    pub fn message(&mut self, blob: &[u8], remaining: u64) -> Result<Received> {
        if matches!(self.0, State::Start) {
            let total = total(blob, remaining)?;
            self.0 = State::Data { total, received: 0, hasher: Box::new(Sha256::new()) };
        }
        match &mut self.0 {
            State::Data { total, received, hasher } if *received < *total => {
                data(*total, received, blob, remaining)?;
                hasher.update(blob);
                Ok(Received::Data)
            }
            State::Data { total, hasher, .. } => {
                let digest = digest(hasher, blob, remaining)?;
                self.0 = State::Done { total: *total, digest };
                Ok(Received::Digest)
            }
            State::Start | State::Done { .. } => {
                Err(broken("a message follows the digest, which must be the last"))
            }
        }
    }

    /// Takes the end of the stream and returns the database's SHA-256.
    ///
    /// # Errors
    /// [`Protocol`](ErrorKind::Protocol) when something is still missing.
    pub fn end(&self) -> Result<[u8; 32]> {
        match &self.0 {
            State::Start => Err(broken("the stream is empty")),
            State::Data { total, received, .. } if *received < *total => {
                Err(broken(format!("the stream ends after {received} of {total} bytes")))
            }
            State::Data { .. } => Err(broken("the stream ends without the digest")),
            State::Done { digest, .. } => Ok(*digest),
        }
    }

    /// The database's length in bytes as the first message told it, 0 before that.
    pub fn total(&self) -> u64 {
        match self.0 {
            State::Start => 0,
            State::Data { total, .. } | State::Done { total, .. } => total,
        }
    }

    /// Bytes of the database received so far.
    pub fn received(&self) -> u64 {
        match self.0 {
            State::Start => 0,
            State::Data { received, .. } => received,
            State::Done { total, .. } => total,
        }
    }
}

/// The database's length, from the first message.
fn total(blob: &[u8], remaining: u64) -> Result<u64> {
    let total = remaining
        .checked_add(blob.len() as u64)
        .filter(|total| *total <= MAX_TOTAL)
        .ok_or_else(|| {
            broken(format!(
                "the first message announces {remaining} more bytes, over the limit of 1 TiB"
            ))
        })?;
    if total < MIN_TOTAL || total % SECTOR != 0 {
        return Err(broken(format!(
            "{total} bytes are announced, and no bolt database has that length"
        )));
    }
    Ok(total)
}

fn data(total: u64, received: &mut u64, blob: &[u8], remaining: u64) -> Result<()> {
    if blob.is_empty() {
        return Err(broken(format!("an empty message after {received} of {total} bytes"))
            .hint("etcd could not read its own database: look at that member's log and disk"));
    }
    let sum =
        received.checked_add(blob.len() as u64).filter(|sum| *sum <= total).ok_or_else(|| {
            broken(format!(
                "{} bytes come after {received} of {total}: more than announced",
                blob.len()
            ))
        })?;
    if total.checked_sub(sum) != Some(remaining) {
        return Err(broken(format!("{remaining} bytes are said to remain after {sum} of {total}")));
    }
    *received = sum;
    Ok(())
}

fn digest(hasher: &mut Sha256, blob: &[u8], remaining: u64) -> Result<[u8; DIGEST_LEN]> {
    let Ok(announced) = <[u8; DIGEST_LEN]>::try_from(blob) else {
        return Err(broken(format!(
            "{} bytes where the digest of {DIGEST_LEN} bytes must be",
            blob.len()
        )));
    };
    if remaining != 0 {
        return Err(broken(format!("{remaining} bytes are said to remain after the digest")));
    }
    let computed: [u8; DIGEST_LEN] = hasher.finalize_reset().into();
    if computed != announced {
        return Err(Error::tampered("snapshot stream: the SHA-256 that etcd sent is not that of the bytes it sent")
            .hint("the stream was damaged on its way or by the member: run it again, and against another member"));
    }
    Ok(computed)
}

fn broken(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Protocol, format!("snapshot stream: {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Messages = Vec<(Vec<u8>, u64)>;

    /// What etcd sends for `database` in blobs of `size`.
    fn messages(database: &[u8], size: usize) -> Messages {
        let mut left = database.len() as u64;
        let mut all = Vec::new();
        for blob in database.chunks(size) {
            left -= blob.len() as u64;
            all.push((blob.to_vec(), left));
        }
        all.push((Sha256::digest(database).to_vec(), 0));
        all
    }

    fn run(messages: &[(Vec<u8>, u64)]) -> Result<[u8; 32]> {
        let mut checker = Checker::new();
        for (blob, remaining) in messages {
            checker.message(blob, *remaining)?;
        }
        checker.end()
    }

    fn database() -> Vec<u8> {
        (0..65536u32).map(|at| (at % 251) as u8).collect()
    }

    #[test]
    fn accepts_what_etcd_sends() {
        let database = database();
        // 32 KiB divides the length: a data message itself says that nothing remains.
        for size in [32768, 30000, 1 << 20] {
            assert_eq!(
                run(&messages(&database, size)).unwrap(),
                <[u8; 32]>::from(Sha256::digest(&database))
            );
        }
    }

    #[test]
    fn refuses_each_departure() {
        let good = messages(&database(), 32768);
        let change = |edit: &dyn Fn(&mut Messages)| {
            let mut messages = good.clone();
            edit(&mut messages);
            let error = run(&messages).unwrap_err();
            (error.kind(), error.to_string())
        };
        let protocol = |edit: &dyn Fn(&mut Messages), words: &str| {
            let (kind, text) = change(edit);
            assert_eq!(kind, ErrorKind::Protocol, "{text}");
            assert!(text.contains(words), "{text}");
        };
        protocol(&|all| all.clear(), "empty");
        protocol(&|all| all.truncate(1), "ends after 32768 of 65536");
        protocol(&|all| all.truncate(2), "without the digest");
        protocol(&|all| all.push((vec![0; 32], 0)), "follows the digest");
        protocol(&|all| all.push((vec![], 0)), "follows the digest");
        protocol(&|all| all[1].0.clear(), "an empty message");
        protocol(&|all| all[1].1 = 32768, "remain after");
        protocol(&|all| all[1].0.push(0), "more than announced");
        protocol(&|all| all[2].0.push(0), "33 bytes where the digest");
        protocol(&|all| all[2].1 = 1, "after the digest");
        protocol(&|all| all[0].1 = 1 << 60, "1 TiB");
        protocol(&|all| all[0].1 = u64::MAX, "1 TiB");
        protocol(&|all| all[0] = (vec![0; 512], 0), "no bolt database");
        protocol(&|all| all[0].1 += 1, "no bolt database");
        protocol(&|all| all[0] = (vec![], 65536), "an empty message");
        assert_eq!(change(&|all| all[1].0[7] ^= 1).0, ErrorKind::Tampered);
        assert_eq!(change(&|all| all[2].0[7] ^= 1).0, ErrorKind::Tampered);
    }

    proptest! {
        #[test]
        fn any_messages_end_in_a_verdict(
            messages in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..600), any::<u64>()), 0..8),
        ) {
            // A random stream holds no valid digest.
            prop_assert!(run(&messages).is_err());
        }

        #[test]
        fn one_wrong_bit_is_seen(at in 0usize..65536 + 32, bit in 0u8..8, size in 1000usize..70000) {
            let mut messages = messages(&database(), size);
            let mut place = at;
            for (blob, _) in &mut messages {
                if let Some(byte) = blob.get_mut(place) {
                    *byte ^= 1 << bit;
                    break;
                }
                place -= blob.len();
            }
            prop_assert_eq!(run(&messages).unwrap_err().kind(), ErrorKind::Tampered);
        }
    }
}
