//! Messages of etcd's API on the wire: what must be known of them is read, the rest is copied as it came.
//!
//! A request that repeats a field which may stand once is refused: two readers of it could take two meanings.

use super::{Field, Fields, Malformed, put_message};

/// The fields of a message by number. Each of `N` is kept once; others stay unread.
pub(crate) struct Singles<'a, const N: usize>([Option<Field<'a>>; N]);

impl<'a, const N: usize> Singles<'a, N> {
    /// Reads fields 1..N of `message`.
    pub(crate) fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut singles = [None; N];
        let mut fields = Fields(message);
        while let Some((number, field)) = fields.next()? {
            if let Some(slot) = slot(&mut singles, number)
                && slot.replace(field).is_some()
            {
                return Err(Malformed);
            }
        }
        Ok(Self(singles))
    }

    fn get(&self, number: u64) -> Option<Field<'a>> {
        self.0.get(usize::try_from(number).ok()?.checked_sub(1)?).copied().flatten()
    }

    /// The bytes of a field, empty when it is absent, as in proto3.
    pub(crate) fn bytes(&self, number: u64) -> Result<&'a [u8], Malformed> {
        self.get(number).map_or(Ok(&[]), Field::bytes)
    }

    /// The bytes of a field, if it is there.
    pub(crate) fn message(&self, number: u64) -> Result<Option<&'a [u8]>, Malformed> {
        self.get(number).map(Field::bytes).transpose()
    }

    /// The lowest number of a field that is there.
    pub(crate) fn first(&self) -> Option<u64> {
        (1..).zip(&self.0).find(|(_, field)| field.is_some()).map(|(number, _)| number)
    }

    /// The number in a field, 0 when it is absent, as in proto3.
    pub(crate) fn number(&self, number: u64) -> Result<i64, Malformed> {
        self.get(number).map_or(Ok(0), Field::int64)
    }

    /// Whether a field is true.
    pub(crate) fn flag(&self, number: u64) -> Result<bool, Malformed> {
        Ok(self.number(number)? != 0)
    }
}

fn slot<T>(slots: &mut [T], number: u64) -> Option<&mut T> {
    slots.get_mut(usize::try_from(number).ok()?.checked_sub(1)?)
}

/// A field's number, what it holds, and all its bytes, tag included.
type RawField<'a> = (u64, Field<'a>, &'a [u8]);

/// A reader of a message's fields that also tells how each stood on the wire.
pub(crate) struct Raw<'a>(Fields<'a>);

impl<'a> Raw<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self(Fields(message))
    }

    /// The next field.
    pub(crate) fn next(&mut self) -> Result<Option<RawField<'a>>, Malformed> {
        let before = self.0.0;
        let Some((number, field)) = self.0.next()? else { return Ok(None) };
        let length = before.len().saturating_sub(self.0.0.len());
        Ok(Some((number, field, before.get(..length).unwrap_or_default())))
    }
}

/// `message` without the fields numbered in `left_out`.
pub(crate) fn without(
    message: &[u8],
    left_out: &[u64],
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let mut fields = Raw::new(message);
    while let Some((number, _, raw)) = fields.next()? {
        if !left_out.contains(&number) {
            out.extend_from_slice(raw);
        }
    }
    Ok(())
}

/// Appends field `number` with `bytes`; nothing when they are empty, as proto3 has it.
pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_message(out, number, bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protobuf::put_number;

    #[test]
    fn a_field_stands_once() {
        let mut message = Vec::new();
        put_bytes(&mut message, 1, b"key");
        put_number(&mut message, 3, -1);
        put_bytes(&mut message, 64, b"end");
        let read = Singles::<3>::read(&message).unwrap();
        assert_eq!(read.bytes(1), Ok(&b"key"[..]));
        assert_eq!((read.bytes(2), read.number(3)), (Ok(&b""[..]), Ok(-1)));
        assert_eq!((read.bytes(3), read.number(1)), (Err(Malformed), Err(Malformed)));
        put_bytes(&mut message, 64, b"again");
        assert!(Singles::<3>::read(&message).is_ok() && Singles::<64>::read(&message).is_err());
    }

    proptest! {
        #[test]
        fn what_is_left_is_as_it_was(fields in prop::collection::vec((1_u64..9, prop::collection::vec(any::<u8>(), 1..200)), 0..20)) {
            let (mut all, mut odd, mut copied) = (Vec::new(), Vec::new(), Vec::new());
            for (number, bytes) in &fields {
                put_bytes(&mut all, *number, bytes);
                if number % 2 == 1 {
                    put_bytes(&mut odd, *number, bytes);
                }
            }
            without(&all, &[2, 4, 6, 8], &mut copied).unwrap();
            prop_assert_eq!(copied, odd);
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Singles::<8>::read(&bytes);
            let _ = without(&bytes, &[1], &mut Vec::new());
        }
    }
}
