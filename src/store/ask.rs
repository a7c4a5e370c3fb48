//! Calls of services beside stores, with the HTTP client that stores have: through proxies, with the same certificates.

#[cfg(feature = "vault")]
use std::collections::BTreeMap;
#[cfg(feature = "vault")]
use std::iter;
use std::time::Duration;

#[cfg(feature = "vault")]
use bytes::Bytes;
use futures::StreamExt;
#[cfg(feature = "vault")]
use http::Uri;
use http::header::LOCATION;
#[cfg(feature = "vault")]
use object_store::client::HttpRequestBody;
use object_store::client::{HttpClient, HttpError, HttpRequest};
use reqwest::Certificate;
use reqwest::redirect::Policy;
use zeroize::Zeroizing;

use super::http::Connector;
use crate::error::{Error, ErrorKind, Result, first_cause};
use crate::text::clean;

/// The longest answer.
const MAX_ANSWER: usize = 64 << 10;
/// As for stores.
const CONNECT: Duration = Duration::from_secs(10);
const CALL: Duration = Duration::from_secs(120);

/// What a service answered. The body is wiped, as far as it is kept here: it may hold a secret.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

/// A client for a service that also trusts `certificates`, and is reached without TLS if `plain`. It follows no redirect:
/// another host would get the token and the key that is to be sealed.
///
/// # Errors
/// [`Usage`](ErrorKind::Usage) for a proxy or a certificate that no client can be made with.
pub(super) fn client(
    connector: &Connector,
    certificates: &[Certificate],
    plain: bool,
) -> Result<HttpClient> {
    let client = connector.client(|proxy| {
        let builder = reqwest::Client::builder()
            .user_agent(concat!("strongroom/", env!("CARGO_PKG_VERSION")))
            .tls_certs_merge(certificates.iter().cloned())
            .redirect(Policy::none())
            .connect_timeout(CONNECT)
            .timeout(CALL)
            .https_only(!plain);
        let builder = match proxy {
            Some(proxy) => builder.proxy(proxy.for_all()?),
            None => builder.no_proxy(),
        };
        builder.build().map(HttpClient::new)
    });
    client.map_err(|error| Error::usage(format!("no HTTP client: {error}")))
}

/// Sends `request` once.
///
/// # Errors
/// [`Unreachable`](ErrorKind::Unreachable), also for an answer that sends to another place; what the service says of a
/// failure is an answer.
pub(super) async fn ask(client: &HttpClient, request: HttpRequest) -> Result<Answer> {
    let (parts, body) = client.execute(request).await.map_err(broken)?.into_parts();
    if parts.status.is_redirection() {
        let to = parts.headers.get(LOCATION).and_then(|to| to.to_str().ok());
        let text = format!("the service redirects to {}", to.map_or("nowhere".into(), clean));
        return Err(Error::new(ErrorKind::Unreachable, text)
            .hint("redirects are not followed: give the address of the service itself"));
    }
    let mut read = Zeroizing::new(Vec::with_capacity(MAX_ANSWER));
    let mut body = body.bytes_stream();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(broken)?;
        if read.len().saturating_add(piece.len()) > MAX_ANSWER {
            let text = format!("the answer is longer than {MAX_ANSWER} bytes");
            return Err(Error::new(ErrorKind::Protocol, text));
        }
        read.extend_from_slice(&piece);
    }
    Ok(Answer { status: parts.status.as_u16(), body: read })
}

fn broken(error: HttpError) -> Error {
    Error::new(ErrorKind::Unreachable, format!("cannot be reached ({})", first_cause(&error)))
}

/// Those in the file `path`.
#[cfg(feature = "vault")]
fn certificates(path: &str) -> Result<Vec<Certificate>> {
    let pem = std::fs::read(path)
        .map_err(|error| Error::io(path, error).context("the CA certificate"))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(bundle) if !bundle.is_empty() => Ok(bundle),
        _ => Err(Error::usage(format!("{path} holds no PEM certificate"))),
    }
}

/// A service that takes JSON.
#[cfg(feature = "vault")]
pub(crate) struct JsonService(HttpClient);

#[cfg(feature = "vault")]
impl JsonService {
    /// For URLs with the scheme of `url`; trusts the certificates in the file `ca`, too.
    ///
    /// # Errors
    /// Those of reading the file, and of the variables that name a proxy.
    pub(crate) fn new(
        url: &str,
        ca: Option<&str>,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let certificates = ca.map_or(Ok(Vec::new()), certificates)?;
        let proxies = super::proxy::Proxies::read(None, None, environment)?;
        let connector = Connector::new(proxies, iter::empty());
        client(&connector, &certificates, url.starts_with("http:")).map(Self)
    }

    /// Posts `body` to `url`.
    ///
    /// # Errors
    /// [`Usage`](ErrorKind::Usage) for what is no URL or header; those of [`ask`].
    pub(crate) async fn post(
        &self,
        url: &str,
        headers: &[(&str, &str)],
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Answer> {
        let url: Uri = url.parse().map_err(|_| Error::usage(format!("{url} is not a URL")))?;
        let mut request = http::Request::post(url).header("content-type", "application/json");
        for (name, value) in headers {
            let value = http::HeaderValue::from_str(value);
            let mut value =
                value.map_err(|_| Error::usage(format!("{name} cannot be a header")))?;
            value.set_sensitive(true);
            request = request.header(*name, value);
        }
        let body = HttpRequestBody::from(Bytes::from_owner(body));
        let request = request.body(body).map_err(|_| Error::usage("a header is malformed"))?;
        ask(&self.0, request).await
    }
}

#[cfg(all(test, feature = "vault"))]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// It would take the token and the body along.
    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1/transit", service.local_addr().unwrap());
        let location = format!("http://{}/v1/transit", other.local_addr().unwrap());
        let client = JsonService::new(&url, None, &BTreeMap::new()).unwrap();
        for status in ["301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent"] {
            let body = Zeroizing::new(b"{}".to_vec());
            let asked = client.post(&url, &[("x-vault-token", "secret")], body);
            let answered = async {
                let (mut stream, _) = service.accept().await.unwrap();
                assert_ne!(stream.read(&mut [0; 4096]).await.unwrap(), 0);
                let answer = format!(
                    "HTTP/1.1 {status}\r\nlocation: {location}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            };
            let outcome = tokio::select! {
                (outcome, ()) = async { tokio::join!(asked, answered) } => outcome,
                _ = other.accept() => panic!("{status}: the other host was asked"),
            };
            let error = outcome.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Unreachable);
            assert!(error.to_string().contains(&format!("redirects to {location}")), "{error}");
        }
    }
}
