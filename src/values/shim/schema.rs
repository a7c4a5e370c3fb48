//! Requests of etcd's API: decoded into the fields listed here, and encoded again from nothing else.
//!
//! Two parsers can read two meanings out of the same bytes. etcd's generated parser keeps the low 32 bits of a field
//! number, the low 32 bits of an enum, and the last of several values of a field. So a client's bytes never reach etcd:
//! a message is decoded with protobuf's own limits, whatever is unknown or ambiguous is refused, and etcd receives the
//! canonical encoding of what was decoded. The tables follow `rpc.proto`, `v3lock.proto`, `v3election.proto` and
//! `auth.proto` of etcd 3.7.

use smallvec::SmallVec;
use tonic::Status;

use super::status::ours;
use crate::error::ErrorKind;
use crate::protobuf::put_message;
use crate::protobuf::{Field, Fields, Malformed, put_varint};

/// Messages within messages, at most: a transaction within a transaction takes two.
const MAX_NESTING: usize = 2 * super::txn::MAX_DEPTH + 4;

/// A message type: its name and all fields that it may have, ordered by number.
pub(super) struct Schema {
    name: &'static str,
    pub(super) fields: &'static [Spec],
}

/// One field of a message.
pub(super) struct Spec {
    pub(super) number: u64,
    pub(super) kind: Kind,
    pub(super) count: Count,
}

pub(super) enum Kind {
    Int64,
    Uint64,
    Bool,
    /// An enum whose values are 0 to the given one.
    Enum(u64),
    Bytes,
    /// A `string`, which is UTF-8.
    Text,
    Message(&'static Schema),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    One,
    /// Once, and not empty: a key.
    Key,
    Many,
    /// One of the fields of the message's `oneof`. No message has two of those.
    OneOf,
}

const fn one(number: u64, kind: Kind) -> Spec {
    Spec { number, kind, count: Count::One }
}

const fn key(number: u64) -> Spec {
    Spec { number, kind: Kind::Bytes, count: Count::Key }
}

const fn many(number: u64, kind: Kind) -> Spec {
    Spec { number, kind, count: Count::Many }
}

const fn one_of(number: u64, kind: Kind) -> Spec {
    Spec { number, kind, count: Count::OneOf }
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is not a message of the type, or says something twice.
    Invalid { message: &'static str, field: Option<u64>, reason: &'static str },
    /// It has no key.
    EmptyKey,
}

impl Refused {
    pub(super) fn status(&self) -> Status {
        match self {
            // The words of etcd's `rpctypes.ErrGRPCEmptyKey`.
            Self::EmptyKey => Status::invalid_argument("etcdserver: key is not provided"),
            Self::Invalid { message, field: Some(field), reason } => {
                let text = format!("strongroom: {message}: field {field} {reason}");
                ours(Status::invalid_argument(text), ErrorKind::Usage)
            }
            Self::Invalid { message, field: None, reason } => {
                let text = format!("strongroom: {message}: {reason}");
                ours(Status::invalid_argument(text), ErrorKind::Usage)
            }
        }
    }
}

impl Schema {
    /// The canonical encoding of `message`: known fields in order, each in its shortest form, defaults left out.
    ///
    /// # Errors
    /// When the message holds anything that is unknown, out of range or ambiguous.
    pub(super) fn canonical(&self, message: &[u8]) -> Result<Vec<u8>, Refused> {
        let mut out = Vec::with_capacity(message.len());
        self.encode(message, 0, &mut out)?;
        Ok(out)
    }

    fn encode(&self, message: &[u8], depth: usize, out: &mut Vec<u8>) -> Result<(), Refused> {
        if depth > MAX_NESTING {
            return Err(self.refuse(None, "transactions are nested more than 100 deep"));
        }
        let mut found: SmallVec<[(&Spec, Field<'_>); 16]> = SmallVec::new();
        let mut fields = Fields(message);
        loop {
            let next =
                fields.next().map_err(|Malformed| self.refuse(None, "not a valid message"))?;
            let Some((number, field)) = next else { break };
            let spec = self.fields.iter().find(|spec| spec.number == number);
            found.push((spec.ok_or_else(|| self.refuse(Some(number), "is unknown"))?, field));
        }
        found.sort_by_key(|(spec, _)| spec.number);
        let mut before = None;
        let mut chosen = false;
        for (spec, field) in &found {
            let twice = before.replace(spec.number) == Some(spec.number);
            if twice && spec.count != Count::Many || spec.count == Count::OneOf && chosen {
                return Err(self.refuse(Some(spec.number), "is one of two that exclude each other"));
            }
            chosen |= spec.count == Count::OneOf;
            self.put(spec, *field, depth, out)?;
        }
        let missing = |spec: &Spec| {
            spec.count == Count::Key
                && !found
                    .iter()
                    .any(|(one, field)| one.number == spec.number && *field != Field::Bytes(&[]))
        };
        if self.fields.iter().any(missing) { Err(Refused::EmptyKey) } else { Ok(()) }
    }

    fn put(
        &self,
        spec: &Spec,
        field: Field<'_>,
        depth: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        let wrong = |reason| self.refuse(Some(spec.number), reason);
        let keeps_default = matches!(spec.count, Count::OneOf | Count::Many);
        let mut number = |number: u64| {
            if number != 0 || keeps_default {
                put_varint(out, spec.number << 3);
                put_varint(out, number);
            }
        };
        match (&spec.kind, field) {
            (Kind::Int64 | Kind::Uint64, Field::Number(value)) => number(value),
            (Kind::Bool, Field::Number(value)) if value <= 1 => number(value),
            (Kind::Enum(last), Field::Number(value)) if value <= *last => number(value),
            (Kind::Bool | Kind::Enum(_), Field::Number(_)) => return Err(wrong("is out of range")),
            // Repeated enums come packed or one by one; both are written one by one.
            (Kind::Enum(last), Field::Bytes(packed)) if spec.count == Count::Many => {
                let mut rest = Fields(packed);
                while !rest.0.is_empty() {
                    let value = rest.varint().map_err(|Malformed| wrong("is malformed"))?;
                    if value > *last {
                        return Err(wrong("is out of range"));
                    }
                    number(value);
                }
            }
            (Kind::Bytes, Field::Bytes(bytes)) => put_present(out, spec, bytes, keeps_default),
            (Kind::Text, Field::Bytes(bytes)) if std::str::from_utf8(bytes).is_ok() => {
                put_present(out, spec, bytes, keeps_default);
            }
            (Kind::Text, Field::Bytes(_)) => return Err(wrong("is not UTF-8")),
            (Kind::Message(schema), Field::Bytes(bytes)) => {
                let mut inner = Vec::with_capacity(bytes.len());
                schema.encode(bytes, depth.saturating_add(1), &mut inner)?;
                put_message(out, spec.number, &inner);
            }
            _ => return Err(wrong("is of the wrong type")),
        }
        Ok(())
    }

    fn refuse(&self, field: Option<u64>, reason: &'static str) -> Refused {
        Refused::Invalid { message: self.name, field, reason }
    }
}

fn put_present(out: &mut Vec<u8>, spec: &Spec, bytes: &[u8], keeps_default: bool) {
    if keeps_default || !bytes.is_empty() {
        put_message(out, spec.number, bytes);
    }
}

macro_rules! schemas {
    ($($(#[$doc:meta])* $id:ident $name:literal [$($field:expr),* $(,)?];)*) => {
        $($(#[$doc])* pub(super) static $id: Schema = Schema { name: $name, fields: &[$($field),*] };)*
    };
}

use Kind::{Bool, Bytes, Enum, Int64, Message, Text, Uint64};

schemas! {
    /// A request without fields.
    EMPTY "empty request" [];
    RANGE "RangeRequest" [
        key(1), one(2, Bytes), one(3, Int64), one(4, Int64), one(5, Enum(2)), one(6, Enum(4)), one(7, Bool),
        one(8, Bool), one(9, Bool), one(10, Int64), one(11, Int64), one(12, Int64), one(13, Int64),
    ];
    PUT "PutRequest" [
        key(1), one(2, Bytes), one(3, Int64), one(4, Bool), one(5, Bool), one(6, Bool),
    ];
    DELETE_RANGE "DeleteRangeRequest" [key(1), one(2, Bytes), one(3, Bool)];
    COMPARE "Compare" [
        one(1, Enum(3)), one(2, Enum(4)), key(3), one_of(4, Int64), one_of(5, Int64), one_of(6, Int64),
        one_of(7, Bytes), one_of(8, Int64), one(64, Bytes),
    ];
    REQUEST_OP "RequestOp" [
        one_of(1, Message(&RANGE)), one_of(2, Message(&PUT)), one_of(3, Message(&DELETE_RANGE)),
        one_of(4, Message(&TXN)),
    ];
    TXN "TxnRequest" [
        many(1, Message(&COMPARE)), many(2, Message(&REQUEST_OP)), many(3, Message(&REQUEST_OP)),
    ];
    COMPACTION "CompactionRequest" [one(1, Int64), one(2, Bool)];

    WATCH_CREATE "WatchCreateRequest" [
        one(1, Bytes), one(2, Bytes), one(3, Int64), one(4, Bool), many(5, Enum(1)), one(6, Bool), one(7, Int64),
        one(8, Bool),
    ];
    WATCH_CANCEL "WatchCancelRequest" [one(1, Int64)];
    WATCH "WatchRequest" [
        one_of(1, Message(&WATCH_CREATE)), one_of(2, Message(&WATCH_CANCEL)), one_of(3, Message(&EMPTY)),
    ];

    LEASE_GRANT "LeaseGrantRequest" [one(1, Int64), one(2, Int64)];
    LEASE_ID "request for one lease" [one(1, Int64)];
    LEASE_TIME_TO_LIVE "LeaseTimeToLiveRequest" [one(1, Int64), one(2, Bool)];

    LOCK "LockRequest" [one(1, Bytes), one(2, Int64)];
    UNLOCK "UnlockRequest" [key(1)];
    LEADER_KEY "LeaderKey" [one(1, Bytes), one(2, Bytes), one(3, Int64), one(4, Int64)];
    CAMPAIGN "CampaignRequest" [one(1, Bytes), one(2, Int64), one(3, Bytes)];
    PROCLAIM "ProclaimRequest" [one(1, Message(&LEADER_KEY)), one(2, Bytes)];
    LEADER "LeaderRequest" [one(1, Bytes)];
    RESIGN "ResignRequest" [one(1, Message(&LEADER_KEY))];

    MEMBER_ADD "MemberAddRequest" [many(1, Text), one(2, Bool)];
    MEMBER_ID "request for one member" [one(1, Uint64)];
    MEMBER_UPDATE "MemberUpdateRequest" [one(1, Uint64), many(2, Text)];
    MEMBER_LIST "MemberListRequest" [one(1, Bool)];

    ALARM "AlarmRequest" [one(1, Enum(2)), one(2, Uint64), one(3, Enum(2))];
    HASH_KV "HashKVRequest" [one(1, Int64)];
    DOWNGRADE "DowngradeRequest" [one(1, Enum(2)), one(2, Text)];

    /// A request for one user or role: its name is the first field.
    NAME "request for one name" [one(1, Text)];
    /// A request with two names: of a user and a role, or a name and a password.
    TWO_NAMES "request for two names" [one(1, Text), one(2, Text)];
    USER_ADD_OPTIONS "UserAddOptions" [one(1, Bool)];
    USER_ADD "AuthUserAddRequest" [
        one(1, Text), one(2, Text), one(3, Message(&USER_ADD_OPTIONS)), one(4, Text),
    ];
    CHANGE_PASSWORD "AuthUserChangePasswordRequest" [one(1, Text), one(2, Text), one(3, Text)];
    PERMISSION "Permission" [one(1, Enum(2)), one(2, Bytes), one(3, Bytes)];
    GRANT_PERMISSION "AuthRoleGrantPermissionRequest" [one(1, Text), one(2, Message(&PERMISSION))];
    REVOKE_PERMISSION "AuthRoleRevokePermissionRequest" [one(1, Text), one(2, Bytes), one(3, Bytes)];
}
