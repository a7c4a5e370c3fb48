//! A plugin of Kubernetes' KMS v2 API, asked as an API server asks it: `kmsv2:NAME@unix:///PATH`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use data_encoding::HEXLOWER;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::service_fn;

use super::KmsUri;
use super::service::{Call, Failure, Service};
use crate::crypto::{self, system_rng};
use crate::custody::access::{check_socket, may_own_socket};
use crate::error::{Error, Result, first_cause};
use crate::format::KmsV2Blob;
use crate::kms_api::{HEALTHY, Message, Method, Raw, message};
use crate::protobuf::{Fields, Malformed};
use crate::secret::{SecretBytes, SecretKey};
use crate::text::clean;

/// What an API server calls a plugin; some servers refuse another name.
const AUTHORITY: &str = "http://localhost";
/// Versions of the API, which are the same to us.
const VERSIONS: [&[u8]; 2] = [b"v2", b"v2beta1"];
/// The longest answer that is read.
const MAX_ANSWER: usize = 64 << 10;
/// The longest ciphertext and key id, as API servers limit them.
const MAX_PART: usize = 1024;

/// A plugin at its socket.
pub(super) struct KmsV2 {
    socket: PathBuf,
    /// The user that may own the socket, beside root and this process's.
    owner: Option<u32>,
    channel: OnceLock<Channel>,
}

impl KmsV2 {
    pub(super) fn new(uri: &KmsUri) -> Result<Self> {
        let (path, owner) = match uri.way().split_once("?owner=") {
            None => (uri.way(), None),
            Some((path, owner)) => {
                let owner = owner
                    .parse()
                    .map_err(|_| Error::usage(format!("{uri}: owner is the number of a user")))?;
                (path, Some(owner))
            }
        };
        Ok(Self { socket: path.into(), owner, channel: OnceLock::new() })
    }

    /// The answer to a request of these fields.
    async fn ask(&self, method: Method, request: Message) -> Result<Message, Status> {
        let channel = self.channel.get_or_init(|| connect(self.socket.clone(), self.owner)).clone();
        let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_ANSWER);
        grpc.ready().await.map_err(|error| Status::unavailable(first_cause(&error).to_string()))?;
        let path = PathAndQuery::try_from(method.path());
        let path = path.map_err(|error| Status::internal(error.to_string()))?;
        let answer = grpc.unary(tonic::Request::new(request), path, Raw).await?;
        Ok(answer.into_inner())
    }

    async fn call(&self, method: Method, request: Message) -> Result<Message, Failure> {
        check(&self.socket, self.owner)?;
        match self.ask(method, request).await {
            Ok(answer) => Ok(answer),
            Err(status) => Err(self.failure(method, &status).await),
        }
    }

    /// What an error of the plugin means.
    async fn failure(&self, method: Method, status: &Status) -> Failure {
        let said = format!("{} ({:?}): {}", method.name(), status.code(), clean(status.message()));
        match status.code() {
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Cancelled => Failure::Down(said),
            Code::InvalidArgument | Code::OutOfRange | Code::DataLoss => Failure::Wrong(said),
            // Plugins in Go answer so to every error of the service behind them: it may be away, or refuse.
            Code::Unknown | Code::Internal if method != Method::Status => match self.status().await
            {
                Ok(_) => Failure::Refused(said),
                Err(_) => Failure::Down(said),
            },
            Code::Unknown | Code::Internal => Failure::Down(said),
            _ => Failure::Refused(said),
        }
    }

    fn status(&self) -> Call<'_, Option<String>> {
        Box::pin(async move {
            let answer = self.call(Method::Status, Message::default()).await?;
            let [version, health, key_id] = fields(&answer).map_err(malformed)?;
            if !VERSIONS.contains(&version) {
                return Err(Failure::Wrong(format!(
                    "the plugin's version is {:?}, not v2",
                    clean(&text(version))
                )));
            }
            if health != HEALTHY.as_bytes() {
                return Err(Failure::Down(format!(
                    "the plugin is not healthy: {}",
                    clean(&text(health))
                )));
            }
            if !(1..=MAX_PART).contains(&key_id.len()) {
                return Err(Failure::Wrong("the plugin names no key".into()));
            }
            Ok(Some(text(key_id)))
        })
    }
}

impl Service for KmsV2 {
    fn status(&self) -> Call<'_, Option<String>> {
        Self::status(self)
    }

    fn wrap<'a>(&'a self, key: &'a SecretKey) -> Call<'a, Vec<u8>> {
        Box::pin(async move {
            let answer = self.call(Method::Encrypt, message(&[key.expose(), &uid()])).await?;
            let blob = encrypted(&answer).map_err(malformed)?;
            check_answer(&blob, key)?;
            blob.print().ok_or_else(|| Failure::Wrong("the plugin's answer is too long".into()))
        })
    }

    fn unwrap<'a>(&'a self, blob: &'a [u8]) -> Call<'a, SecretBytes> {
        Box::pin(async move {
            let blob = KmsV2Blob::parse(blob).map_err(|error| Failure::Wrong(error.to_string()))?;
            let uid = uid();
            let mut request = message(&[&blob.ciphertext, &uid, &blob.key_id]);
            for (key, value) in &blob.annotations {
                crate::protobuf::put_message(&mut request, 4, &message(&[key, value]));
            }
            let answer = self.call(Method::Decrypt, request).await?;
            let [plaintext] = fields(&answer).map_err(malformed)?;
            Ok(SecretBytes::new(plaintext.to_vec()))
        })
    }

    fn version(&self, blob: &[u8]) -> Option<String> {
        KmsV2Blob::parse(blob).ok().map(|blob| text(&blob.key_id))
    }
}

/// Connects when it is first used, and again when the plugin has restarted.
fn connect(socket: PathBuf, owner: Option<u32>) -> Channel {
    let endpoint = Endpoint::from_static(AUTHORITY);
    endpoint.connect_with_connector_lazy(service_fn(move |_| {
        let socket = socket.clone();
        async move {
            let stream = UnixStream::connect(&socket).await?;
            // Whoever listens, not only whoever owns the file.
            let user = stream.peer_cred()?.uid();
            match may_own_socket(user, owner) {
                true => Ok(TokioIo::new(stream)),
                false => Err(io::Error::other(format!("user {user} listens at the socket"))),
            }
        }
    }))
}

/// That nobody else can listen at the socket.
fn check(socket: &Path, owner: Option<u32>) -> Result<(), Failure> {
    match check_socket(socket, owner) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::Down(format!("no plugin listens at {}", socket.display()))),
        Err(error) => Err(Failure::Here(error)),
    }
}

/// What a plugin may answer to `Encrypt` (k8s.io/apiserver, `kmsv2/envelope.go`).
fn check_answer(blob: &KmsV2Blob, key: &SecretKey) -> Result<(), Failure> {
    let wrong = |why: String| Err(Failure::Wrong(format!("the plugin's answer to Encrypt: {why}")));
    for (what, part) in [("ciphertext", &blob.ciphertext), ("key id", &blob.key_id)] {
        if !(1..=MAX_PART).contains(&part.len()) {
            let length = part.len();
            return wrong(format!("the {what} has {length} bytes, not 1 to {MAX_PART}"));
        }
    }
    // It is a string in the protocol; and two that differ must not become one.
    if std::str::from_utf8(&blob.key_id).is_err() {
        return wrong("the key id is not UTF-8".into());
    }
    if let Some(bad) = blob.annotations.keys().find(|key| !is_domain(key)) {
        return wrong(format!(
            "the annotation {:?} is not named as a domain is",
            clean(&text(bad))
        ));
    }
    if blob
        .ciphertext
        .windows(SecretKey::LEN)
        .any(|part| crypto::constant_time_eq(part, key.expose()))
    {
        return wrong("the ciphertext holds the plaintext".into());
    }
    Ok(())
}

/// Whether it is a fully qualified domain name.
fn is_domain(name: &[u8]) -> bool {
    let is_label = |label: &[u8]| {
        let is_inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
        (1..=63).contains(&label.len())
            && label.iter().all(is_inner)
            && !label.starts_with(b"-")
            && !label.ends_with(b"-")
    };
    name.len() <= 253 && name.contains(&b'.') && name.split(|b| *b == b'.').all(is_label)
}

/// An `EncryptResponse`.
fn encrypted(answer: &[u8]) -> Result<KmsV2Blob, Malformed> {
    let (mut blob, mut rest) = (KmsV2Blob::default(), Fields(answer));
    while let Some((number, field)) = rest.next()? {
        match number {
            1 => blob.ciphertext = field.bytes()?.to_vec(),
            2 => blob.key_id = field.bytes()?.to_vec(),
            3 => {
                let [key, value] = fields(field.bytes()?)?;
                blob.annotations.insert(key.to_vec(), value.to_vec());
            }
            _ => {}
        }
    }
    Ok(blob)
}

/// Fields 1 to `N` of a message, each of bytes. Others are passed over: a newer plugin may write them.
fn fields<const N: usize>(message: &[u8]) -> Result<[&[u8]; N], Malformed> {
    let (mut found, mut rest) = ([&[][..]; N], Fields(message));
    while let Some((number, field)) = rest.next()? {
        let at = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        if let Some(slot) = at.and_then(|at| found.get_mut(at)) {
            *slot = field.bytes()?;
        }
    }
    Ok(found)
}

fn malformed(_: Malformed) -> Failure {
    Failure::Wrong("the plugin's answer is not a message of KMS v2".into())
}

/// Names a call in the plugin's log.
fn uid() -> Vec<u8> {
    HEXLOWER.encode(&crypto::random::<16>(&mut system_rng())).into_bytes()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn annotations_are_named_as_domains() {
        for good in ["kms.example", "a.b-c.d9"] {
            assert!(is_domain(good.as_bytes()), "{good}");
        }
        for bad in ["", "kms", ".a", "a.", "a..b", "-a.b", "a-.b", "A.b", "a.b_c"] {
            assert!(!is_domain(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn what_a_plugin_must_not_answer() {
        let key = SecretKey::new(|bytes| bytes.fill(9));
        let good = KmsV2Blob {
            ciphertext: vec![1; MAX_PART],
            key_id: vec![2; MAX_PART],
            annotations: BTreeMap::from([(b"a.b".to_vec(), b"1".to_vec())]),
        };
        assert!(check_answer(&good, &key).is_ok());
        for bad in [
            KmsV2Blob { ciphertext: vec![1; MAX_PART + 1], ..good.clone() },
            KmsV2Blob { ciphertext: Vec::new(), ..good.clone() },
            KmsV2Blob { ciphertext: vec![9; 40], ..good.clone() },
            KmsV2Blob { key_id: Vec::new(), ..good.clone() },
            KmsV2Blob { key_id: vec![2; MAX_PART + 1], ..good.clone() },
            KmsV2Blob {
                annotations: BTreeMap::from([(b"a".to_vec(), Vec::new())]),
                ..good.clone()
            },
        ] {
            assert!(matches!(check_answer(&bad, &key), Err(Failure::Wrong(_))), "{bad:?}");
        }
    }
}
