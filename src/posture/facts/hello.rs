//! Our own ClientHello: asks a server for versions and cipher suites that a TLS library does not offer any more.

use std::time::Duration;

use rand_core::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::crypto::system_rng;

/// The longest first answer that is read: a ServerHello is shorter than 200 bytes.
const MAX_ANSWER: usize = 4096;
/// Alerts that say no to what was offered: handshake_failure, protocol_version, insufficient_security.
const REFUSALS: [u8; 3] = [40, 70, 71];

/// A version of TLS on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version(pub(crate) u16);

impl Version {
    pub(crate) const TLS_1_0: Self = Self(0x0301);
    pub(crate) const TLS_1_1: Self = Self(0x0302);
    pub(crate) const TLS_1_2: Self = Self(0x0303);

    pub(crate) fn name(self) -> String {
        match self.0 {
            0x0300 => "SSL 3.0".into(),
            0x0301 => "TLS 1.0".into(),
            0x0302 => "TLS 1.1".into(),
            0x0303 => "TLS 1.2".into(),
            0x0304 => "TLS 1.3".into(),
            other => format!("version 0x{other:04x}"),
        }
    }
}

/// The cipher suites that a server of TLS 1.2 should refuse: IANA's number, OpenSSL's name, what is wrong.
pub(crate) const WEAK: [(u16, &str, &str); 28] = [
    (0x000a, "DES-CBC3-SHA", "3DES"),
    (0xc008, "ECDHE-ECDSA-DES-CBC3-SHA", "3DES"),
    (0xc012, "ECDHE-RSA-DES-CBC3-SHA", "3DES"),
    (0x0016, "DHE-RSA-DES-CBC3-SHA", "3DES"),
    (0x0004, "RC4-MD5", "RC4"),
    (0x0005, "RC4-SHA", "RC4"),
    (0xc007, "ECDHE-ECDSA-RC4-SHA", "RC4"),
    (0xc011, "ECDHE-RSA-RC4-SHA", "RC4"),
    (0x009c, "AES128-GCM-SHA256", "no forward secrecy"),
    (0x009d, "AES256-GCM-SHA384", "no forward secrecy"),
    (0x002f, "AES128-SHA", "no forward secrecy"),
    (0x0035, "AES256-SHA", "no forward secrecy"),
    (0x003c, "AES128-SHA256", "no forward secrecy"),
    (0x003d, "AES256-SHA256", "no forward secrecy"),
    (0xc013, "ECDHE-RSA-AES128-SHA", "CBC"),
    (0xc014, "ECDHE-RSA-AES256-SHA", "CBC"),
    (0xc027, "ECDHE-RSA-AES128-SHA256", "CBC"),
    (0xc028, "ECDHE-RSA-AES256-SHA384", "CBC"),
    (0xc009, "ECDHE-ECDSA-AES128-SHA", "CBC"),
    (0xc00a, "ECDHE-ECDSA-AES256-SHA", "CBC"),
    (0xc023, "ECDHE-ECDSA-AES128-SHA256", "CBC"),
    (0xc024, "ECDHE-ECDSA-AES256-SHA384", "CBC"),
    (0x0033, "DHE-RSA-AES128-SHA", "CBC"),
    (0x0039, "DHE-RSA-AES256-SHA", "CBC"),
    (0x0067, "DHE-RSA-AES128-SHA256", "CBC"),
    (0x006b, "DHE-RSA-AES256-SHA256", "CBC"),
    (0x003b, "NULL-SHA256", "no encryption"),
    (0x0002, "NULL-SHA", "no encryption"),
];

/// What a server answers to a ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It would go on with this version and suite.
    Accepted(Version, u16),
    /// It refuses what was offered, with this alert.
    Refused(u8),
}

/// Offers `version` with `suites` to the server at `address`, reads its first answer, and closes.
///
/// # Errors
/// Why nothing is known: no connection, no answer in time, or an answer that is not TLS.
pub(crate) async fn offer(
    address: (&str, u16),
    name: Option<&str>,
    version: Version,
    suites: &[u16],
    limit: Duration,
) -> Result<Answer, String> {
    let hello = client_hello(name, version, suites);
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        stream.write_all(&hello).await.map_err(|error| error.to_string())?;
        let mut answer = Vec::new();
        loop {
            if let Some(parsed) = parse(&answer)? {
                return Ok(parsed);
            }
            let mut part = [0; 1024];
            match stream.read(&mut part).await {
                Ok(0) => return Err("the server closed the connection without a TLS alert".into()),
                Ok(length) => answer.extend(part.iter().take(length)),
                Err(error) => return Err(error.to_string()),
            }
        }
    };
    timeout(limit, exchange).await.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
}

/// Reads the first record of an answer that is not a warning; nothing if more bytes are needed.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Answer>, String> {
    let odd = || "the answer is not TLS".to_owned();
    let is_long = bytes.len() > MAX_ANSWER;
    let mut bytes = bytes;
    while let [21, 3, _, 0, 2, 1, _, rest @ ..] = bytes {
        bytes = rest;
    }
    let [kind, major, _, high, low, rest @ ..] = bytes else {
        return match bytes.first() {
            Some(kind) if !matches!(kind, 21 | 22) => Err(odd()),
            _ if is_long => Err(odd()),
            _ => Ok(None),
        };
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if *major != 3 || !matches!(kind, 21 | 22) || length == 0 {
        return Err(odd());
    }
    match (kind, rest) {
        (21, [2, code, ..]) if REFUSALS.contains(code) => Ok(Some(Answer::Refused(*code))),
        (21, [_, code, ..]) => Err(format!("the server sent the TLS alert {code}")),
        (21, _) if length < 2 => Err(odd()),
        // A handshake message: its type, three bytes of length, version, 32 random bytes, session id, suite.
        (22, [2, _, _, _, version @ ..]) if version.len() >= 35 => server_hello(version),
        (22, [first, ..]) if *first != 2 => Err(odd()),
        _ if is_long => Err(odd()),
        _ => Ok(None),
    }
}

fn server_hello(body: &[u8]) -> Result<Option<Answer>, String> {
    let session = body.get(34).copied().map(usize::from).unwrap_or_default();
    if session > 32 {
        return Err("a ServerHello with a session id of more than 32 bytes".into());
    }
    let at = 35_usize.saturating_add(session);
    let two = |at: usize| match body.get(at..at.saturating_add(2)) {
        Some([high, low]) => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    };
    Ok(two(0).zip(two(at)).map(|(version, suite)| Answer::Accepted(Version(version), suite)))
}

/// A ClientHello of TLS 1.0 to 1.2, in one record.
fn client_hello(name: Option<&str>, version: Version, suites: &[u16]) -> Vec<u8> {
    let mut random = [0; 32];
    system_rng().fill_bytes(&mut random);
    let mut body = version.0.to_be_bytes().to_vec();
    body.extend(random);
    body.push(0);
    put(&mut body, &suites.iter().flat_map(|suite| suite.to_be_bytes()).collect::<Vec<_>>());
    body.extend([1, 0]);
    let mut extensions = Vec::new();
    if let Some(name) = name {
        let mut entry = vec![0];
        put(&mut entry, name.as_bytes());
        let mut list = Vec::new();
        put(&mut list, &entry);
        extension(&mut extensions, 0, &list);
    }
    // x25519, P-256, P-384, P-521; uncompressed points; every usual signature, SHA-1 too; secure renegotiation.
    extension(&mut extensions, 10, &[0, 8, 0, 29, 0, 23, 0, 24, 0, 25]);
    extension(&mut extensions, 11, &[1, 0]);
    let signatures = [
        0x0403_u16, 0x0503, 0x0603, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601, 0x0807, 0x0203,
        0x0201,
    ];
    let mut list = Vec::new();
    put(&mut list, &signatures.iter().flat_map(|one| one.to_be_bytes()).collect::<Vec<_>>());
    extension(&mut extensions, 13, &list);
    extension(&mut extensions, 0xff01, &[0]);
    put(&mut body, &extensions);
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut message = vec![1];
    message.extend(length.iter().skip(1));
    message.extend(body);
    // Records of a first message have the version of TLS 1.0, whatever is offered.
    let mut record = vec![22, 3, 1];
    put(&mut record, &message);
    record
}

/// `bytes` behind their length in two bytes. What is put here is far shorter than 64 KiB.
fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend(length.to_be_bytes());
    out.extend(bytes.iter().take(usize::from(length)));
}

fn extension(out: &mut Vec<u8>, kind: u16, bytes: &[u8]) {
    out.extend(kind.to_be_bytes());
    put(out, bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn answers() {
        let mut hello = vec![22, 3, 3, 0, 42, 2, 0, 0, 38, 3, 3];
        hello.extend([7; 32]);
        hello.extend([0, 0xc0, 0x13, 0]);
        let accepted = Answer::Accepted(Version::TLS_1_2, 0xc013);
        assert_eq!(parse(&hello), Ok(Some(accepted)));
        assert_eq!(parse(&[21, 3, 1, 0, 2, 2, 70]), Ok(Some(Answer::Refused(70))));
        let warned = [&[21, 3, 3, 0, 2, 1, 112][..], &hello].concat();
        assert_eq!(parse(&warned), Ok(Some(accepted)));
        for other in [80, 10, 112] {
            assert!(parse(&[21, 3, 1, 0, 2, 2, other]).is_err(), "{other}");
        }
        assert!(parse(&[21, 3, 3, 0, 2, 1, 112].repeat(600)).is_err());
        for cut in 0..45 {
            assert_eq!(parse(&hello[..cut]), Ok(None), "{cut}");
        }
        for bad in
            [&b"HTTP/1.0 400 Bad Request"[..], &[22, 3, 3, 0, 4, 1, 0, 0, 0], &[23, 3, 3, 0, 9]]
        {
            assert!(parse(bad).is_err());
        }
        let mut long = hello.clone();
        long[43] = 33;
        assert!(parse(&long).is_err());
    }

    proptest! {
        #[test]
        fn any_answer_is_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&bytes);
            let record = [&[22, 3, 3, 0, 90, 2, 0, 0, 80][..], &bytes].concat();
            let _ = parse(&record);
        }
    }
}
