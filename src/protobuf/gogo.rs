//! Messages as gogoproto writes them to a member's files: in the order of their fields' numbers, zeros included.

use super::{Field, Fields, put_message, put_varint};

/// A message being written.
#[derive(Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    pub(crate) fn number(mut self, field: u64, number: u64) -> Self {
        put_varint(&mut self.0, field << 3);
        put_varint(&mut self.0, number);
        self
    }

    pub(crate) fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        put_message(&mut self.0, field, bytes);
        self
    }

    pub(crate) fn message(self, field: u64, message: Self) -> Self {
        self.bytes(field, &message.0)
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Reads a message written like that, from untrusted bytes.
pub(crate) struct Reader<'a>(Fields<'a>);

impl<'a> Reader<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self(Fields(message))
    }

    /// The next field if it is the number `field`.
    pub(crate) fn number(&mut self, field: u64) -> Option<u64> {
        match self.next_if(field)? {
            Field::Number(number) => Some(number),
            _ => None,
        }
    }

    /// The next field if it is `field`, of bytes.
    pub(crate) fn bytes(&mut self, field: u64) -> Option<&'a [u8]> {
        self.next_if(field)?.bytes().ok()
    }

    fn next_if(&mut self, field: u64) -> Option<Field<'a>> {
        let before = self.0.0;
        match self.0.next() {
            Ok(Some((number, found))) if number == field => Some(found),
            _ => {
                self.0 = Fields(before);
                None
            }
        }
    }

    /// Nothing is left.
    pub(crate) fn end(&self) -> Option<()> {
        self.0.0.is_empty().then_some(())
    }
}
