//! Guarded changes of single keys.

use std::time::Duration;

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use tonic::{Code, Status};

use super::choose::Choice;
use super::failure;
use crate::error::{Error, ErrorKind, Result};
use crate::secret::SecretBytes;

/// etcd grants no longer lease, and none shorter than a second (`server/lease/lessor.go`, `MaxLeaseTTL`).
const MAX_LEASE_TTL: i64 = 9_000_000_000;

/// A change of one key.
pub(crate) enum Write {
    /// Its new value, and the lease to attach it to, 0 for none.
    Put(SecretBytes, i64),
    /// None any more.
    Delete,
}

/// What came of a change.
pub(crate) enum Outcome {
    /// It is made.
    Done,
    /// The key is no longer as it was seen: nothing was changed.
    Conflict,
    /// etcd does not take this change, such as too large a value; others it may.
    Refused(Error),
}

impl Choice {
    /// Changes `key` if its mod revision still is `seen`, 0 for a key that was not there.
    ///
    /// Not tried again when the answer is lost: the change may have been made, and would then conflict with itself.
    ///
    /// # Errors
    /// Those after which other changes would fail as well: [`Unreachable`](ErrorKind::Unreachable) when the member
    /// does not answer or cannot take changes.
    pub(crate) async fn write(&self, key: &[u8], seen: i64, write: Write) -> Result<Outcome> {
        let operation = match write {
            Write::Put(value, lease) => {
                let options = (lease != 0).then(|| PutOptions::new().with_lease(lease));
                TxnOp::put(key, value.expose(), options)
            }
            Write::Delete => TxnOp::delete(key, None),
        };
        let guard = Compare::mod_revision(key, CompareOp::Equal, seen);
        let txn = Txn::new().when([guard]).and_then([operation]);
        let mut client = self.client().kv_client();
        match self.within("write", client.txn(txn)).await? {
            Ok(answer) if answer.succeeded() => Ok(Outcome::Done),
            Ok(_) => Ok(Outcome::Conflict),
            Err(etcd_client::Error::GRpcStatus(status)) if concerns_this_change(&status) => {
                Ok(Outcome::Refused(explained(failure::from_status("write", &status), &status)))
            }
            Err(error) => Err(self.fatal("write", &error)),
        }
    }

    /// Grants a lease of about `ttl` seconds; its id.
    ///
    /// # Errors
    /// [`Unreachable`](ErrorKind::Unreachable) when the member does not answer or cannot grant,
    /// [`Denied`](ErrorKind::Denied) when the user may not.
    pub(crate) async fn grant(&self, ttl: i64) -> Result<i64> {
        let ttl = ttl.clamp(1, MAX_LEASE_TTL);
        let mut client = self.client().lease_client();
        match self.within("grant a lease", client.grant(ttl, None)).await? {
            Ok(answer) => Ok(answer.id()),
            Err(error) => Err(self.fatal("grant a lease", &error)),
        }
    }

    async fn within<T>(&self, what: &str, call: impl Future<Output = T>) -> Result<T> {
        let limit: Duration = self.timeout();
        tokio::time::timeout(limit, call)
            .await
            .map_err(|_| failure::timed_out(what, limit).context(self.member.endpoint.clone()))
    }

    fn fatal(&self, what: &str, error: &etcd_client::Error) -> Error {
        let failed = failure::from_client(what, error).context(self.member.endpoint.clone());
        if error.to_string().contains("space exceeded") {
            return failed.hint("etcd's database is full: compact, defragment and disarm the alarm, then run it again");
        }
        failed
    }
}

/// Whether the reason lies in this key, value or lease.
fn concerns_this_change(status: &Status) -> bool {
    match status.code() {
        Code::InvalidArgument | Code::NotFound | Code::PermissionDenied | Code::OutOfRange => true,
        // As gRPC refuses a message before etcd sees it; etcd's own "too many requests" and "space exceeded"
        // have the same code.
        Code::ResourceExhausted => status.message().contains("message larger"),
        _ => false,
    }
}

fn explained(error: Error, status: &Status) -> Error {
    let text = status.message();
    if text.contains("too large") || text.contains("larger") {
        error.hint("the limit is etcd's --max-request-bytes")
    } else if text.contains("lease not found") {
        error.hint("its lease is gone: --leases new or --leases drop restores the key without it")
    } else if error.kind() == ErrorKind::Denied {
        error.hint("the etcd user must be allowed to write this key")
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stops_everything_and_what_does_not() {
        for (code, text, this) in [
            (Code::InvalidArgument, "etcdserver: request is too large", true),
            (Code::NotFound, "etcdserver: requested lease not found", true),
            (Code::PermissionDenied, "etcdserver: permission denied", true),
            (Code::ResourceExhausted, "grpc: received message larger than max (9 vs. 8)", true),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", false),
            (Code::ResourceExhausted, "etcdserver: too many requests", false),
            (Code::Unavailable, "etcdserver: no leader", false),
            (Code::Unauthenticated, "etcdserver: invalid auth token", false),
        ] {
            assert_eq!(concerns_this_change(&Status::new(code, text)), this, "{text}");
        }
    }
}
