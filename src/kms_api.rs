//! Kubernetes' API of KMS plugins, version 2 (`k8s.io/kms`, `apis/v2/api.proto`): its methods, and how tonic carries its
//! messages.

use bytes::{Buf, BufMut};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use zeroize::Zeroizing;

use crate::protobuf::put_message;
#[cfg(any(test, feature = "kms-plugin"))]
use crate::protobuf::{Fields, Malformed};

/// The version that a plugin reports.
#[cfg(feature = "kms-plugin")]
pub(crate) const VERSION: &str = "v2";
/// What a healthy plugin reports.
pub(crate) const HEALTHY: &str = "ok";

/// The methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Status,
    Encrypt,
    Decrypt,
}

impl Method {
    #[cfg(feature = "kms-plugin")]
    const ALL: [Self; 3] = [Self::Status, Self::Encrypt, Self::Decrypt];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Status => "Status",
            Self::Encrypt => "Encrypt",
            Self::Decrypt => "Decrypt",
        }
    }

    /// The path of its requests.
    pub(crate) fn path(self) -> String {
        format!("/v2.KeyManagementService/{}", self.name())
    }

    #[cfg(feature = "kms-plugin")]
    pub(crate) fn of(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.path() == path)
    }
}

/// Fields 1 to `N` of a message, each of bytes and there once at most; one that is absent is empty, as in proto3. Any other
/// field is refused.
#[cfg(any(test, feature = "kms-plugin"))]
pub(crate) fn exactly<const N: usize>(message: &[u8]) -> Result<[&[u8]; N], Malformed> {
    let (mut found, mut fields) = ([None; N], Fields(message));
    while let Some((number, field)) = fields.next()? {
        let at = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        let slot = at.and_then(|at| found.get_mut(at)).ok_or(Malformed)?;
        if slot.replace(field.bytes()?).is_some() {
            return Err(Malformed);
        }
    }
    Ok(found.map(Option::unwrap_or_default))
}

/// A message of these fields, numbered from 1.
pub(crate) fn message(fields: &[&[u8]]) -> Message {
    // Exact enough never to grow, which would leave copies behind.
    let length = fields.iter().map(|field| field.len().saturating_add(12)).sum();
    let mut message = Zeroizing::new(Vec::with_capacity(length));
    for (number, field) in (1..).zip(fields) {
        put_message(&mut message, number, field);
    }
    message
}

/// Messages as the bytes they are. They hold key material: what is ours of it is zeroized, the buffers of HTTP/2 are not.
#[derive(Clone, Copy, Default)]
pub(crate) struct Raw;

/// One message.
pub(crate) type Message = Zeroizing<Vec<u8>>;

impl Codec for Raw {
    type Encode = Message;
    type Decode = Message;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Message;
    type Error = Status;

    fn encode(&mut self, message: Message, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Message;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Message>, Status> {
        let mut message = Zeroizing::new(vec![0; from.remaining()]);
        from.copy_to_slice(&mut message);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_is_not_known_or_there_twice_is_refused() {
        assert_eq!(exactly::<2>(b"\x12\x01b\x0a\x01a"), Ok([&b"a"[..], b"b"]));
        assert_eq!(exactly::<2>(b""), Ok([&b""[..]; 2]));
        for bad in [&b"\x1a\x01c"[..], b"\x0a\x01a\x0a\x01a", b"\x08\x01", b"\x0a\x02a", b"\x0a"] {
            assert_eq!(exactly::<2>(bad), Err(Malformed), "{bad:x?}");
        }
    }

    #[test]
    fn methods_are_known_by_their_exact_path() {
        for method in Method::ALL {
            assert_eq!(Method::of(&method.path()), Some(method));
        }
        for path in ["/v1beta1.KeyManagementService/Encrypt", "/v2.KeyManagementService/", "/"] {
            assert_eq!(Method::of(path), None);
        }
    }
}
