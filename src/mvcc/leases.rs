//! Leases (etcd `server/lease/leasepb`).

use std::ops::ControlFlow;

use crate::bolt::{Db, ReadAt};
use crate::error::{Error, Result};
use crate::protobuf::{self, Fields, Malformed};

/// A lease as etcd keeps it on disk. When it expires is not recorded: the term starts anew with a new leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Its id.
    pub id: i64,
    /// The granted time to live in seconds.
    pub ttl: i64,
    /// Seconds left at the last checkpoint, 0 if there was none.
    pub remaining_ttl: i64,
}

/// All leases, by id in byte order. Memory: 24 bytes for each.
///
/// # Errors
/// [`Tampered`](crate::ErrorKind::Tampered) when the database breaks a rule of bolt's or etcd's, and those of
/// the source.
pub fn leases<R: ReadAt>(db: &Db<R>) -> Result<Vec<Lease>> {
    let mut leases = Vec::new();
    let Some(bucket) = db.bucket(b"lease")? else {
        return Ok(leases);
    };
    bucket.for_each(&[], |key, value| {
        let lease = parse(value).ok().filter(|lease| lease.id.to_be_bytes() == key);
        leases.push(lease.ok_or_else(|| {
            Error::tampered(format!("database: lease {} is malformed", leases.len()))
        })?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(leases)
}

fn parse(bytes: &[u8]) -> Result<Lease, Malformed> {
    let (mut fields, mut lease) = (Fields(bytes), Lease::default());
    while let Some((number, field)) = fields.next()? {
        match number {
            protobuf::fields::lease::ID => lease.id = field.int64()?,
            protobuf::fields::lease::TTL => lease.ttl = field.int64()?,
            protobuf::fields::lease::REMAINING_TTL => lease.remaining_ttl = field.int64()?,
            _ => {}
        }
    }
    Ok(lease)
}
