//! The operations of KV and of its transactions: what etcd is asked in their place, and what its answers come to.

use super::rewrite::{Rewriter, Shape};
use super::scope::{Outside, Scope, Span};
use super::status::Failure;
use super::txn::Txn;
use crate::protobuf::fields::{delete_range_response, op, put, put_response, range};
use crate::protobuf::{Raw, Singles, put_bytes, put_message, put_number, without};

/// One operation: what is sent, which may be two requests on the two sides of the reserved prefix, and how the
/// answers become one.
pub(super) enum Op {
    Range {
        parts: Vec<Vec<u8>>,
        shape: Shape,
    },
    Put(Vec<u8>),
    Delete {
        parts: Vec<Vec<u8>>,
    },
    Txn(Box<Txn>),
    /// An empty `RequestOp`: etcd says what is wrong with it.
    Other(Vec<u8>),
}

impl Op {
    /// Of a `RangeRequest`.
    pub(super) fn range(rewriter: &Rewriter<'_>, request: &[u8]) -> Result<Self, Failure> {
        let shape = Shape::read(request)?;
        let mut parts = Vec::new();
        for part in rewriter.split(request, Inside::ReadsNothing)? {
            let mut asked = Vec::with_capacity(part.len());
            shape.request(&part, &mut asked)?;
            parts.push(asked);
        }
        Ok(Self::Range { parts, shape })
    }

    /// Of a `DeleteRangeRequest`.
    pub(super) fn delete(rewriter: &Rewriter<'_>, request: &[u8]) -> Result<Self, Failure> {
        Ok(Self::Delete { parts: rewriter.split(request, Inside::IsRefused)? })
    }

    /// Of a `RequestOp`.
    pub(super) fn read(rewriter: &Rewriter<'_>, op: &[u8]) -> Result<Self, Failure> {
        let fields = Singles::<4>::read(op)?;
        let Some(kind) = fields.first() else { return Ok(Self::Other(Vec::new())) };
        let request = fields.bytes(kind)?;
        match kind {
            op::RANGE => Self::range(rewriter, request),
            op::PUT => Ok(Self::Put(rewriter.put_request(request)?)),
            op::DELETE_RANGE => Self::delete(rewriter, request),
            _ => Ok(Self::Txn(Box::new(Txn::read(rewriter, request)?))),
        }
    }

    /// Whether it may change something.
    pub(super) fn writes(&self) -> bool {
        match self {
            Self::Range { .. } | Self::Other(_) => false,
            Self::Put(_) | Self::Delete { .. } => true,
            Self::Txn(txn) => txn.writes(),
        }
    }

    /// Whether it may store a value that is encrypted, or is to be.
    pub(super) fn stores(&self, scope: &Scope) -> bool {
        match self {
            Self::Range { .. } | Self::Other(_) | Self::Delete { .. } => false,
            Self::Put(request) => Singles::<1>::read(request)
                .and_then(|fields| fields.bytes(put::KEY))
                .map_or(true, |key| scope.encrypts(key)),
            Self::Txn(txn) => txn.stores(scope),
        }
    }

    /// Appends it as fields `number` of a `TxnRequest` that is never run.
    pub(super) fn put_unrun(&self, out: &mut Vec<u8>, number: u64) {
        match self {
            Self::Txn(txn) => {
                let mut message = Vec::new();
                put_message(&mut message, op::TXN, &txn.unrun());
                put_message(out, number, &message);
            }
            _ => self.put(out, number, &[], true),
        }
    }

    /// Appends what is sent as fields `number` of a `TxnRequest`. See [`Txn::encode`].
    pub(super) fn put(&self, out: &mut Vec<u8>, number: u64, never: &[u8], whole: bool) {
        let mut put = |kind: u64, request: &[u8]| {
            let mut message = Vec::with_capacity(request.len().saturating_add(6));
            put_message(&mut message, kind, request);
            put_message(out, number, &message);
        };
        match self {
            Self::Range { parts, .. } => parts.iter().for_each(|part| put(op::RANGE, part)),
            Self::Put(request) => put(op::PUT, request),
            Self::Delete { parts } => parts.iter().for_each(|part| put(op::DELETE_RANGE, part)),
            Self::Txn(txn) => put(op::TXN, &txn.encode(never, whole)),
            Self::Other(message) => put_message(out, number, message),
        }
    }

    /// How many of etcd's answers are this one's.
    fn answers(&self) -> usize {
        match self {
            Self::Range { parts, .. } | Self::Delete { parts } => parts.len(),
            _ => 1,
        }
    }

    /// The `ResponseOp` the client gets for those that etcd gave.
    fn answer(&self, given: &[&[u8]], rewriter: &Rewriter<'_>) -> Result<Vec<u8>, Failure> {
        let mut responses = Vec::with_capacity(given.len());
        let kind = match self {
            Self::Range { .. } => op::RANGE,
            Self::Put(_) => op::PUT,
            Self::Delete { .. } => op::DELETE_RANGE,
            Self::Txn(_) => op::TXN,
            Self::Other(_) => return Ok(given.concat()),
        };
        for one in given {
            let response = Singles::<4>::read(one)?.message(kind)?;
            responses.push(response.ok_or_else(Failure::malformed)?);
        }
        let mut out = Vec::new();
        put_message(&mut out, kind, &self.response(&responses, rewriter)?);
        Ok(out)
    }

    /// The response message the client gets for those that etcd gave.
    pub(super) fn response(
        &self,
        given: &[&[u8]],
        rewriter: &Rewriter<'_>,
    ) -> Result<Vec<u8>, Failure> {
        match (self, given) {
            (Self::Range { shape, .. }, _) => shape.answer(given, rewriter),
            (Self::Put(_), [response]) => rewriter.with_key_values(response, put_response::PREV_KV),
            (Self::Delete { .. }, _) => deleted(given, rewriter),
            (Self::Txn(txn), [response]) => txn.answer(response, rewriter),
            _ => Err(Failure::malformed()),
        }
    }
}

/// The answers, each a `ResponseOp`, to `ops` as the client gets them: appended as fields `number`.
pub(super) fn put_answers(
    ops: &[Op],
    mut given: &[&[u8]],
    rewriter: &Rewriter<'_>,
    out: &mut Vec<u8>,
    number: u64,
) -> Result<(), Failure> {
    for op in ops {
        let (own, rest) = given.split_at_checked(op.answers()).ok_or_else(Failure::malformed)?;
        given = rest;
        put_message(out, number, &op.answer(own, rewriter)?);
    }
    if given.is_empty() { Ok(()) } else { Err(Failure::malformed()) }
}

/// One `DeleteRangeResponse` of those that etcd gave.
fn deleted(given: &[&[u8]], rewriter: &Rewriter<'_>) -> Result<Vec<u8>, Failure> {
    let (mut out, mut count) = (Vec::new(), 0_i64);
    // The header of the last one: the first deletion may have found nothing, and then tells the revision before.
    let rewritten = [delete_range_response::DELETED, delete_range_response::PREV_KVS];
    without(given.last().copied().unwrap_or_default(), &rewritten, &mut out)?;
    for response in given {
        let mut fields = Raw::new(response);
        while let Some((number, field, _)) = fields.next()? {
            match number {
                delete_range_response::DELETED => count = count.saturating_add(field.int64()?),
                delete_range_response::PREV_KVS => {
                    put_message(&mut out, number, &rewriter.key_value(field.bytes()?)?);
                }
                _ => {}
            }
        }
    }
    put_number(&mut out, delete_range_response::DELETED, count);
    Ok(out)
}

/// What becomes of a request for nothing but reserved keys.
#[derive(Clone, Copy)]
enum Inside {
    ReadsNothing,
    IsRefused,
}

impl Rewriter<'_> {
    /// The requests that are sent in place of a `RangeRequest` whose answer streams.
    pub(super) fn stream_parts(&self, request: &[u8]) -> Result<Vec<Vec<u8>>, Failure> {
        self.split(request, Inside::ReadsNothing)
    }

    /// A `RangeRequest` or `DeleteRangeRequest` without the reserved keys.
    fn split(&self, request: &[u8], inside: Inside) -> Result<Vec<Vec<u8>>, Failure> {
        let fields = Singles::<2>::read(request)?;
        let asked = Span {
            key: fields.bytes(range::KEY)?.into(),
            end: fields.bytes(range::RANGE_END)?.into(),
        };
        let with = |span: &Span<'_>| -> Result<Vec<u8>, Failure> {
            let mut out = Vec::with_capacity(request.len().saturating_add(span.end.len()));
            without(request, &[range::KEY, range::RANGE_END], &mut out)?;
            put_bytes(&mut out, range::KEY, &span.key);
            put_bytes(&mut out, range::RANGE_END, &span.end);
            Ok(out)
        };
        match self.reserved.outside(&asked) {
            Outside::All => Ok(vec![request.to_vec()]),
            Outside::One(part) => Ok(vec![with(&part)?]),
            Outside::Two(before, after) => Ok(vec![with(&before)?, with(&after)?]),
            // No key is the prefix itself: etcd answers what it answers when there is nothing.
            Outside::Nothing => match inside {
                Inside::ReadsNothing => Ok(vec![with(&Span {
                    key: self.reserved.prefix().into(),
                    end: (&[][..]).into(),
                })?]),
                Inside::IsRefused => Err(Failure::reserved()),
            },
        }
    }
}
