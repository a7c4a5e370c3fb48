//! Calls of a service of AWS that takes JSON, with the credentials that a repository in S3 would have.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::StreamExt;
use http::Uri;
use http::header::CONTENT_TYPE;
use object_store::aws::{AwsAuthorizer, AwsCredential, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpError, HttpRequestBody};
use zeroize::Zeroizing;

use super::clouds;
use super::failure::failed;
use super::gate;
use crate::error::{Error, ErrorKind, Result};

/// The longest answer.
const MAX_ANSWER: usize = 64 << 10;

/// A service of AWS, in one region.
pub(crate) struct AwsService {
    /// Its name in signatures, such as `kms`.
    name: &'static str,
    region: String,
    endpoint: Uri,
    client: HttpClient,
    credentials: AwsCredentialProvider,
}

/// What a service answered. The body is wiped, as far as it is kept here: it may hold a secret.
pub(crate) struct AwsAnswer {
    pub(crate) status: u16,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

impl AwsService {
    /// The service `name` at `host`, or where the variable AWS_ENDPOINT_URL_… says; asks nothing of it yet.
    ///
    /// # Errors
    /// [`Usage`](ErrorKind::Usage) for a variable that makes no sense, [`Denied`](ErrorKind::Denied) without credentials.
    pub(crate) fn new(
        name: &'static str,
        region: &str,
        host: &str,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let variable = format!("AWS_ENDPOINT_URL_{}", name.to_ascii_uppercase());
        let given = environment.get(&variable).map_or("", String::as_str);
        let endpoint = match gate::value(&variable, given)? {
            Some(url) => format!("{}/", url.trim_end_matches('/')),
            None => format!("https://{host}/"),
        };
        let uri = endpoint.parse().map_err(|_| Error::usage(format!("{variable} is not a URL")))?;
        let (client, credentials) = clouds::service(&endpoint, environment)?;
        Ok(Self { name, region: region.to_owned(), endpoint: uri, client, credentials })
    }

    /// Calls the operation `target` with `body`.
    ///
    /// # Errors
    /// [`Unreachable`](ErrorKind::Unreachable) and [`Denied`](ErrorKind::Denied); what the service says of a failure is an
    /// answer.
    pub(crate) async fn call(&self, target: &str, body: Zeroizing<Vec<u8>>) -> Result<AwsAnswer> {
        let credential = self.credentials.get_credential().await;
        let credential = credential.map_err(|error| failed("the credentials", &error))?;
        check(&credential)?;
        let body = HttpRequestBody::from(Bytes::from_owner(body));
        let built = http::Request::post(self.endpoint.clone())
            .header(CONTENT_TYPE, "application/x-amz-json-1.1")
            .header("x-amz-target", target)
            .body(body);
        let mut request = built.map_err(|_| Error::usage("a name of a call is no header"))?;
        AwsAuthorizer::new(&credential, self.name, &self.region)
            .try_authorize(&mut request, None)
            .map_err(|error| failed("the signature", &error))?;
        let (parts, body) = self.client.execute(request).await.map_err(broken)?.into_parts();
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
        Ok(AwsAnswer { status: parts.status.as_u16(), body: read })
    }
}

/// That `credential` can stand in headers: the signature is made by code that takes it for granted.
fn check(credential: &AwsCredential) -> Result<()> {
    let fits = |text: &str| text.bytes().all(|byte| matches!(byte, 0x20..=0x7e));
    match fits(&credential.key_id) && credential.token.as_deref().is_none_or(fits) {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::Denied,
            "the credentials hold a character that no header may have",
        )),
    }
}

/// With its first cause, which is what helps: a name that is not known, a certificate that is not trusted.
fn broken(error: HttpError) -> Error {
    let mut cause: &dyn std::error::Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    Error::new(ErrorKind::Unreachable, format!("cannot be reached ({cause})"))
}
