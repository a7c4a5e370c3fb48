//! Calls of services beside stores, with the HTTP client that stores have: through proxies, with the same certificates.

#[cfg(feature = "vault")]
use std::collections::BTreeMap;
#[cfg(feature = "vault")]
use std::iter;

#[cfg(feature = "vault")]
use bytes::Bytes;
use futures::StreamExt;
#[cfg(feature = "vault")]
use http::Uri;
use object_store::client::{HttpClient, HttpError, HttpRequest};
#[cfg(feature = "vault")]
use object_store::client::{HttpConnector, HttpRequestBody};
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Result};

/// The longest answer.
const MAX_ANSWER: usize = 64 << 10;

/// What a service answered. The body is wiped, as far as it is kept here: it may hold a secret.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

/// Sends `request` once.
///
/// # Errors
/// [`Unreachable`](ErrorKind::Unreachable); what the service says of a failure is an answer.
pub(super) async fn ask(client: &HttpClient, request: HttpRequest) -> Result<Answer> {
    let (parts, body) = client.execute(request).await.map_err(broken)?.into_parts();
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

/// With its first cause, which is what helps: a name that is not known, a certificate that is not trusted.
fn broken(error: HttpError) -> Error {
    let mut cause: &dyn std::error::Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    Error::new(ErrorKind::Unreachable, format!("cannot be reached ({cause})"))
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
        use super::{clouds, http::Connector, options::CA_CERTIFICATE, proxy::Proxies};
        let options = ca.map(|path| (CA_CERTIFICATE.to_owned(), path.to_owned()));
        let client = clouds::client(&options.into_iter().collect())?;
        let client = client.with_allow_http(url.starts_with("http:"));
        let connector = Connector::new(Proxies::read(None, None, environment)?, iter::empty());
        let client = connector.connect(&client);
        client.map(Self).map_err(|error| Error::usage(format!("no HTTP client: {error}")))
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
