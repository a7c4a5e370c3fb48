//! Values in messages: sealed on the way in, opened on the way out.

use std::sync::{Mutex, PoisonError};

use http::HeaderValue;

use super::scope::{Reserved, Scope};
use super::status::{Failure, status_of};
use crate::error::{Error, ErrorKind};
use crate::format::ValueHeader;
use crate::limit::limited;
use crate::mvcc::KeyValue;
use crate::protobuf::Field;
use crate::protobuf::fields::{
    campaign, event, key_value, put, range, range_response, watch_response,
};
use crate::protobuf::{Raw, Singles, put_bytes, put_message, put_number, without};
use crate::text::{clean, printable};
use crate::values::ValueCipher;

/// What one pass over a message works with.
pub(super) struct Rewriter<'a> {
    pub(super) cipher: &'a ValueCipher,
    pub(super) scope: &'a Scope,
    pub(super) reserved: &'a Reserved,
    /// Given when values that do not open are left out, instead of failing the whole message.
    pub(super) lenient: Option<&'a Lenient>,
    /// Which values that do not open are logged.
    pub(super) logs: Logs,
    /// Why no value may be sealed now.
    pub(super) trouble: Option<Error>,
}

/// Which values that do not open are logged.
#[derive(Clone, Copy)]
pub(super) enum Logs {
    /// None: they were left out of the message.
    None,
    /// Those whose key is known: for the others the keyring is read again first.
    NotUnknownKeys,
    /// All.
    All,
}

/// The keys whose values were left out.
#[derive(Default)]
pub(super) struct Lenient(Mutex<LeftOut>);

#[derive(Default)]
struct LeftOut {
    names: String,
    listed: u64,
    count: u64,
}

/// The most bytes of names that a response header holds.
const MAX_NAMES: usize = 4096;

impl Lenient {
    /// Counts a value whose key is not known.
    pub(super) fn unnamed(&self) {
        let mut out = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        out.count = out.count.saturating_add(1);
    }

    pub(super) fn add(&self, key: &[u8]) {
        let mut out = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        out.count = out.count.saturating_add(1);
        // In ASCII, as a header has to be; a comma within a key must not read as the end of it.
        let name = key.escape_ascii().to_string().replace(',', "\\x2c");
        if out.names.len().saturating_add(name.len()) < MAX_NAMES {
            if out.listed > 0 {
                out.names.push(',');
            }
            out.names.push_str(&name);
            out.listed = out.listed.saturating_add(1);
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).count
    }

    /// The keys, escaped as in Rust's byte strings, with commas between them; `...` when not all of them fit.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        let out = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let more = if out.listed < out.count { ",..." } else { "" };
        (out.count > 0)
            .then(|| HeaderValue::from_str(&format!("{}{more}", out.names)).ok())
            .flatten()
    }
}

/// Whether it is one that etcd's lock made (`client/v3/concurrency/mutex.go`): `<prefix>/<lease in hex>`, empty. Its
/// lease of now says nothing: a client can change that and leave the value (`PutRequest.ignore_value`).
pub(in crate::values) fn is_lock(key: &[u8], value: &[u8]) -> bool {
    let name = key.iter().rposition(|byte| *byte == b'/').and_then(|slash| key.get(slash..));
    let lease = name.and_then(|name| name.strip_prefix(b"/")).unwrap_or_default();
    let digits = lease.strip_prefix(b"-").unwrap_or(lease);
    value.is_empty()
        && (1..=16).contains(&digits.len())
        && !digits.starts_with(b"0")
        && digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// A lease as it stands in the names of keys: Go prints a negative one with its sign.
pub(super) fn lease_name(lease: i64) -> String {
    let sign = if lease < 0 { "-" } else { "" };
    format!("{sign}{:x}", lease.unsigned_abs())
}

impl Rewriter<'_> {
    /// Logs that a value does not open: its key in etcd, and the value key it needs.
    fn log(&self, kv: &KeyValue<'_>, error: &Error) {
        match self.logs {
            Logs::None => return,
            Logs::NotUnknownKeys if error.kind() == ErrorKind::WrongKey => return,
            Logs::NotUnknownKeys | Logs::All => {}
        }
        let split = ValueHeader::split(kv.value);
        // Who wrote an unencrypted value is not known: whoever had the key before encryption, or somebody since.
        let kind = if let Ok(None) = split { "not-encrypted" } else { error.kind().name() };
        let needs = split.ok().flatten().map(|(header, _)| header.key);
        limited!(
            warn,
            event = "value_unreadable",
            key = %clean(&printable(kv.key)),
            value_key = needs.map(|id| id.to_string()),
            kind,
            error = %error,
            hint = error.hint_text()
        );
    }

    /// The value of `kv` as its writer gave it.
    pub(super) fn open(&self, kv: &KeyValue<'_>) -> Result<Vec<u8>, Failure> {
        if !self.scope.encrypts(kv.key) || is_lock(kv.key, kv.value) {
            return Ok(kv.value.to_vec());
        }
        match (self.cipher.open(kv.key, kv.value), self.lenient) {
            (Err(error), Some(lenient)) => {
                self.log(kv, &error);
                lenient.add(kv.key);
                Ok(Vec::new())
            }
            (Err(error), None) => {
                self.log(kv, &error);
                Err(error.into())
            }
            (Ok(value), _) => Ok(value),
        }
    }

    /// `value` as etcd is to hold it under `key`.
    pub(super) fn seal(&self, key: &[u8], value: &[u8]) -> Result<Vec<u8>, Failure> {
        if !self.scope.encrypts(key) {
            return Ok(value.to_vec());
        }
        if let Some(trouble) = &self.trouble {
            return Err(status_of(trouble).into());
        }
        Ok(self.cipher.store(key, value)?)
    }

    /// A `KeyValue` with its value opened.
    pub(super) fn key_value(&self, message: &[u8]) -> Result<Vec<u8>, Failure> {
        let kv = KeyValue::parse_strict(message)?;
        let value = self.open(&kv)?;
        let mut out = Vec::with_capacity(message.len());
        without(message, &[key_value::VALUE], &mut out)?;
        put_bytes(&mut out, key_value::VALUE, &value);
        Ok(out)
    }

    /// A `PutRequest` with its value sealed.
    pub(super) fn put_request(&self, message: &[u8]) -> Result<Vec<u8>, Failure> {
        let fields = Singles::<6>::read(message)?;
        let key = fields.bytes(put::KEY)?;
        self.allow(key)?;
        // With ignore_value etcd keeps the value it has, and refuses a request that brings one.
        if fields.flag(put::IGNORE_VALUE)? {
            return Ok(message.to_vec());
        }
        let value = self.seal(key, fields.bytes(put::VALUE)?)?;
        let mut out = Vec::with_capacity(message.len().saturating_add(64));
        without(message, &[put::VALUE], &mut out)?;
        put_bytes(&mut out, put::VALUE, &value);
        Ok(out)
    }

    /// Refuses a `LeaderRequest` or `LockRequest` whose keys, which are below its name, would be reserved.
    pub(super) fn allow_below(&self, request: &[u8]) -> Result<(), Failure> {
        self.allow(&[Singles::<1>::read(request)?.bytes(campaign::NAME)?, b"/"].concat())
    }

    /// Refuses a reserved key.
    pub(super) fn allow(&self, key: &[u8]) -> Result<(), Failure> {
        if self.reserved.holds(key) { Err(Failure::reserved()) } else { Ok(()) }
    }

    /// A message with the `KeyValue`s in the fields numbered `number` opened; those of reserved keys are left out.
    pub(super) fn with_key_values(&self, message: &[u8], number: u64) -> Result<Vec<u8>, Failure> {
        let mut out = Vec::with_capacity(message.len());
        let mut fields = Raw::new(message);
        while let Some((at, field, raw)) = fields.next()? {
            if at != number {
                out.extend_from_slice(raw);
                continue;
            }
            let kv = field.bytes()?;
            if !self.reserved.holds(KeyValue::parse_strict(kv)?.key) {
                put_message(&mut out, number, &self.key_value(kv)?);
            }
        }
        Ok(out)
    }

    /// A `WatchResponse` with its events' values opened, and none of reserved keys. `None` when nothing is left that
    /// the client is to see.
    pub(super) fn watch_response(&self, message: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        let mut out = Vec::with_capacity(message.len());
        let (mut events, mut kept) = (false, false);
        let mut fields = Raw::new(message);
        while let Some((number, field, raw)) = fields.next()? {
            if number != watch_response::EVENTS {
                // A fragment's end must arrive even when all its events are reserved ones.
                kept |= number == watch_response::FRAGMENT;
                out.extend_from_slice(raw);
                continue;
            }
            events = true;
            if let Some(event) = self.event(field)? {
                kept = true;
                put_message(&mut out, watch_response::EVENTS, &event);
            }
        }
        // A response without events would read as a report of progress.
        Ok((kept || !events).then_some(out))
    }

    /// An `Event` with its values opened; `None` for a reserved key.
    fn event(&self, field: Field<'_>) -> Result<Option<Vec<u8>>, Failure> {
        let message = field.bytes()?;
        let fields = Singles::<3>::read(message)?;
        let (kind, kv) = (fields.number(event::TYPE)?, fields.message(event::KV)?);
        let previous = fields.message(event::PREV_KV)?;
        let Some(kv) = kv else { return Ok(Some(message.to_vec())) };
        if self.reserved.holds(KeyValue::parse_strict(kv)?.key) {
            return Ok(None);
        }
        let mut out = Vec::with_capacity(message.len());
        without(message, &[event::KV, event::PREV_KV], &mut out)?;
        // A deletion's key has no value.
        let kv = if kind == 0 { self.key_value(kv)? } else { kv.to_vec() };
        put_message(&mut out, event::KV, &kv);
        if let Some(previous) = previous {
            put_message(&mut out, event::PREV_KV, &self.key_value(previous)?);
        }
        Ok(Some(out))
    }
}

/// How many `KeyValue`s a `RangeResponse` holds.
pub(super) fn kvs(message: &[u8]) -> Result<i64, Failure> {
    let (mut count, mut fields) = (0_i64, Raw::new(message));
    while let Some((number, _, _)) = fields.next()? {
        count = count.saturating_add(i64::from(number == range_response::KVS));
    }
    Ok(count)
}

/// How a range's answer is made of what etcd answered to its parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    limit: i64,
    order: i64,
    target: i64,
    filtered: bool,
    keys_only: bool,
}

/// `RangeRequest.SortTarget`.
pub(super) const BY_VALUE: i64 = 4;

impl Shape {
    pub(super) fn read(request: &[u8]) -> Result<Self, Failure> {
        let fields = Singles::<13>::read(request)?;
        let mut filtered = false;
        for bound in range::MIN_MOD_REVISION..=range::MAX_CREATE_REVISION {
            filtered |= fields.number(bound)? != 0;
        }
        Ok(Self {
            limit: fields.number(range::LIMIT)?,
            order: fields.number(range::SORT_ORDER)?,
            target: fields.number(range::SORT_TARGET)?,
            filtered,
            keys_only: fields.flag(range::KEYS_ONLY)?,
        })
    }

    /// Whether etcd takes one key more than the limit and sorts only those: it does so when a request names no order
    /// (`server/etcdserver/apply.go`, `Range`).
    fn cuts_first(self) -> bool {
        self.target != 0 && self.order == 0 && !self.filtered && self.limit > 0
    }

    /// Whether etcd's own answer has the right order and length once its values are opened.
    pub(super) fn is_etcds(self) -> bool {
        self.target != BY_VALUE && !self.cuts_first()
    }

    /// What etcd is asked for in place of `request`: the answer is sorted here when it is not etcd's.
    pub(super) fn request(self, request: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        if self.is_etcds() {
            out.extend_from_slice(request);
            return Ok(());
        }
        // Values to sort by must be there even if the client wants keys only.
        let mut left_out = vec![range::LIMIT, range::SORT_ORDER, range::SORT_TARGET];
        left_out.extend((self.target == BY_VALUE).then_some(range::KEYS_ONLY));
        without(request, &left_out, out)?;
        if self.cuts_first() {
            put_number(out, range::LIMIT, self.limit.saturating_add(1));
        }
        Ok(())
    }

    /// One answer of `parts`, each a `RangeResponse`, with the header and unknown fields of the first.
    pub(super) fn answer(
        self,
        parts: &[&[u8]],
        rewriter: &Rewriter<'_>,
    ) -> Result<Vec<u8>, Failure> {
        if let [only] = parts
            && self.is_etcds()
        {
            // A value that is not asked for is not there to be opened.
            return if self.keys_only {
                Ok(only.to_vec())
            } else {
                rewriter.with_key_values(only, range_response::KVS)
            };
        }
        let (mut found, mut more, mut count) = (Vec::new(), false, 0_i64);
        let mut out = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            let mut fields = Raw::new(part);
            while let Some((number, field, raw)) = fields.next()? {
                match number {
                    range_response::KVS => found.push(self.entry(field.bytes()?, rewriter)?),
                    range_response::MORE => more |= field.int64()? != 0,
                    range_response::COUNT => count = count.saturating_add(field.int64()?),
                    _ if at == 0 => out.extend_from_slice(raw),
                    _ => {}
                }
            }
        }
        let limit = usize::try_from(self.limit).unwrap_or(0);
        if self.cuts_first() {
            // The parts are in the order of their keys.
            found.truncate(limit.saturating_add(1));
        }
        self.sort(&mut found);
        if limit > 0 && found.len() > limit {
            found.truncate(limit);
            more = true;
        }
        for entry in &found {
            put_message(&mut out, range_response::KVS, &entry.message);
        }
        put_number(&mut out, range_response::MORE, i64::from(more));
        put_number(&mut out, range_response::COUNT, count);
        Ok(out)
    }

    fn entry(self, message: &[u8], rewriter: &Rewriter<'_>) -> Result<Entry, Failure> {
        let kv = KeyValue::parse_strict(message)?;
        let value = if self.keys_only && self.target != BY_VALUE {
            Vec::new()
        } else {
            rewriter.open(&kv)?
        };
        let number = match self.target {
            1 => kv.version,
            2 => kv.create_revision,
            3 => kv.mod_revision,
            _ => 0,
        };
        let mut out = Vec::with_capacity(message.len());
        without(message, &[key_value::VALUE], &mut out)?;
        if !self.keys_only {
            put_bytes(&mut out, key_value::VALUE, &value);
        }
        Ok(Entry { number, value, key: kv.key.to_vec(), message: out })
    }

    /// As etcd sorts, equals by key.
    fn sort(self, found: &mut [Entry]) {
        const DESCENDING: i64 = 2;
        found.sort_by(|a, b| {
            let by = match self.target {
                BY_VALUE => a.value.cmp(&b.value),
                1..=3 => a.number.cmp(&b.number),
                _ => a.key.cmp(&b.key),
            };
            if self.order == DESCENDING { by.reverse() } else { by }
        });
    }
}

struct Entry {
    key: Vec<u8>,
    number: i64,
    value: Vec<u8>,
    message: Vec<u8>,
}
