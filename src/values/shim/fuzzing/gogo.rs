//! A decoder that reads messages as the Go code does that gogo-protobuf generates, which is etcd's up to 3.7
//! (`api/etcdserverpb/rpc.pb.go`, `Unmarshal`). It is lenient where this crate is strict: that is what it is for.

use std::collections::BTreeMap;

use super::super::schema::{Count, Kind, Schema, Spec};

/// What Go's struct holds: the fields that are not at their default.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decoded(BTreeMap<u64, Vec<Value>>);

#[derive(Debug, PartialEq, Eq)]
enum Value {
    Number(i64),
    Bytes(Vec<u8>),
    Message(Decoded),
}

/// Go's `Unmarshal` of `data`; `None` for its errors.
pub(super) fn decode(schema: &Schema, data: &[u8]) -> Option<Decoded> {
    let mut decoded = Decoded::default();
    merge(schema, data, &mut decoded, 0)?;
    Some(decoded)
}

fn merge(schema: &Schema, mut data: &[u8], into: &mut Decoded, depth: usize) -> Option<()> {
    // Go's stack is larger; what is deeper is not compared.
    if depth > 400 {
        return None;
    }
    while !data.is_empty() {
        let wire = varint(&mut data)?;
        // `fieldNum := int32(wire >> 3)`
        let number = (wire >> 3) as i32;
        let kind = wire & 7;
        if kind == 4 || number <= 0 {
            return None;
        }
        let number = u64::from(number.unsigned_abs());
        let Some(spec) = schema.fields.iter().find(|spec| spec.number == number) else {
            skip(&mut data, kind)?;
            continue;
        };
        let many = spec.count == Count::Many;
        let one = match (&spec.kind, kind) {
            (Kind::Int64 | Kind::Uint64, 0) => Value::Number(varint(&mut data)?.cast_signed()),
            // `m.Target |= Compare_CompareTarget(b&0x7F) << shift`, an `int32`.
            (Kind::Enum(_), 0) => Value::Number((varint(&mut data)? as i32).into()),
            (Kind::Bool, 0) => Value::Number(i64::from(varint(&mut data)? != 0)),
            (Kind::Enum(_), 2) if many => {
                let mut packed = bytes(&mut data)?;
                while !packed.is_empty() {
                    let value = Value::Number((varint(&mut packed)? as i32).into());
                    into.0.entry(number).or_default().push(value);
                }
                continue;
            }
            (Kind::Bytes | Kind::Text, 2) => Value::Bytes(bytes(&mut data)?.to_vec()),
            (Kind::Message(inner), 2) => {
                let bytes = bytes(&mut data)?;
                // A second message is merged into the first, but for those of a `oneof` and repeated ones.
                let before = (spec.count == Count::One)
                    .then(|| into.0.remove(&number).and_then(|mut values| values.pop()))
                    .flatten();
                let mut message = match before {
                    Some(Value::Message(message)) => message,
                    _ => Decoded::default(),
                };
                merge(inner, bytes, &mut message, depth + 1)?;
                Value::Message(message)
            }
            _ => return None,
        };
        into.set(schema, spec, one);
    }
    Some(())
}

impl Decoded {
    /// Takes note of a value that is no part of a packed field.
    fn set(&mut self, schema: &Schema, spec: &Spec, one: Value) {
        if spec.count == Count::OneOf {
            let stays = |number: &u64| {
                let chosen = |spec: &Spec| spec.number == *number && spec.count == Count::OneOf;
                !schema.fields.iter().any(chosen)
            };
            self.0.retain(|number, _| stays(number));
        }
        let values = self.0.entry(spec.number).or_default();
        if spec.count != Count::Many {
            values.clear();
        }
        values.push(one);
        let is_default = match values.as_slice() {
            [Value::Number(0)] => true,
            [Value::Bytes(bytes)] => bytes.is_empty(),
            _ => false,
        };
        if is_default && matches!(spec.count, Count::One | Count::Key) {
            self.0.remove(&spec.number);
        }
    }
}

/// `for shift := uint(0); ; shift += 7 { if shift >= 64 { return ErrIntOverflow } … }`
fn varint(data: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = data.split_first()?;
        *data = rest;
        number |= u64::from(byte & 0x7f).wrapping_shl(shift);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn bytes<'a>(data: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(varint(data)?.cast_signed()).ok()?;
    let (taken, rest) = data.split_at_checked(length)?;
    *data = rest;
    Some(taken)
}

/// `skipRpc`, which skips groups too.
fn skip(data: &mut &[u8], kind: u64) -> Option<()> {
    let mut depth = 0_u32;
    let mut kind = kind;
    loop {
        match kind {
            0 => drop(varint(data)?),
            1 => *data = data.get(8..)?,
            2 => drop(bytes(data)?),
            3 => depth += 1,
            4 => depth = depth.checked_sub(1)?,
            5 => *data = data.get(4..)?,
            _ => return None,
        }
        if depth == 0 {
            return Some(());
        }
        kind = varint(data)? & 7;
    }
}
