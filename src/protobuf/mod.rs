//! The little of protobuf's wire format that etcd's records and messages need, over untrusted bytes.
//!
//! No crate for protobuf does: what reads etcd's databases must borrow and not copy, and the proxy must refuse what such
//! crates pass over, an unknown field or one that stands twice, because etcd's own parser and another could read two
//! meanings out of the same bytes. Generated types (`etcd_client`) serve where we are an ordinary client.

pub(crate) mod fields;
#[cfg(feature = "backup")]
mod gogo;
#[cfg(feature = "client")]
mod messages;

#[cfg(feature = "backup")]
pub(crate) use gogo::{Message, Reader};
#[cfg(feature = "client")]
pub(crate) use messages::{Raw, Singles, put_bytes, without};

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a fixed width, which no known field has.
    Other,
}

/// Reads a message field by field.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

/// The bytes are no protobuf message of the wanted type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl<'a> Fields<'a> {
    /// The next field and its number.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        // protobuf.dev, "Encoding": a tag is a varint of 32 bits. Go's generated parsers drop the bits above, so that
        // another field would be read.
        let tag = u32::try_from(self.varint()?).map_err(|_| Malformed)?;
        let field = match tag & 7 {
            0 => Field::Number(self.varint()?),
            1 => self.take(8).map(|_| Field::Other)?,
            2 => {
                let length = self.varint()?;
                Field::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Field::Other)?,
            _ => return Err(Malformed),
        };
        match tag >> 3 {
            0 => Err(Malformed),
            number => Ok(Some((number.into(), field))),
        }
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    /// A number in groups of seven bits.
    pub(crate) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(Malformed)?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for a single bit.
            if shift == 63 && bits > 1 {
                return Err(Malformed);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }
}

/// Appends a number in groups of seven bits.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(any(feature = "backup", feature = "client", feature = "kms-plugin", feature = "kms-v2"))]
/// Appends field `number` with a message, which is there even when it is empty.
pub(crate) fn put_message(out: &mut Vec<u8>, number: u64, message: &[u8]) {
    put_varint(out, number << 3 | 2);
    put_varint(out, message.len() as u64);
    out.extend_from_slice(message);
}

/// Appends field `number` with an `int64` or an enum; nothing when it is 0.
pub(crate) fn put_number(out: &mut Vec<u8>, number: u64, value: i64) {
    if value != 0 {
        put_varint(out, number << 3);
        put_varint(out, value.cast_unsigned());
    }
}

impl<'a> Field<'a> {
    /// An `int64`, which travels as its two's complement.
    pub(crate) fn int64(self) -> Result<i64, Malformed> {
        match self {
            Field::Number(number) => Ok(number.cast_signed()),
            _ => Err(Malformed),
        }
    }

    pub(crate) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Field::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(bytes: &[u8]) -> Result<Option<(u64, Field<'_>)>, Malformed> {
        Fields(bytes).next()
    }

    /// Values of protobuf.dev's "Encoding" page, and the edges.
    #[test]
    fn wire_format() {
        assert_eq!(one(&[0x08, 0x96, 0x01]), Ok(Some((1, Field::Number(150)))));
        assert_eq!(one(b"\x12\x07testing"), Ok(Some((2, Field::Bytes(b"testing")))));
        let minus_two = [0x08, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(one(&minus_two).unwrap().unwrap().1.int64(), Ok(-2));
        assert_eq!(one(&[0x0d, 1, 2, 3, 4]), Ok(Some((1, Field::Other))));
        assert_eq!(one(&[]), Ok(None));
        for bad in [
            &[0x08][..],
            &[0x08, 0x80],
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
            &[0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00],
            &[0x12, 2, b'a'],
            &[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            &[0x0b],
            &[0x0c],
            &[0x0f],
            &[0x00, 0x00],
            &[0x09, 1],
            // Field 2^32 + 1, which Go reads as field 1.
            &[0x8a, 0x80, 0x80, 0x80, 0x80, 0x01, 0],
        ] {
            assert_eq!(one(bad), Err(Malformed), "{bad:x?}");
        }
    }
}
