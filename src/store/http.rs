//! The HTTP client under `object_store`: it goes through a proxy or past it, gives up on a metadata service that does not
//! answer, and looks at listings before they are parsed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::Method;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService, ReqwestConnector,
};

use super::fault::Fault;
use super::proxy::{self, Proxies, Proxy};
use super::xml;
use crate::error::first_cause;

/// How long a metadata service may take to give credentials, with all tries.
const METADATA: Duration = Duration::from_secs(10);
/// After how long a try of a metadata service belongs to another attempt: more than `object_store` waits between two.
const FORGOTTEN: Duration = Duration::from_secs(20);
/// The longest answer of a metadata service.
const MAX_CREDENTIALS: usize = 1 << 20;
/// The longest page of a listing: a thousand keys of 1 KiB with all that is said of them.
const MAX_PAGE: usize = 16 << 20;
/// Where clouds answer with credentials.
const METADATA_HOSTS: &[&str] = &[
    "169.254.169.254",
    "[fd00:ec2::254]",
    "169.254.170.2",
    "metadata.google.internal",
    "metadata",
];

/// Makes the clients of one store.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) proxies: Proxies,
    /// Metadata services, host or host and port: the clouds' own, and what the settings name.
    pub(super) metadata: Arc<BTreeSet<String>>,
}

impl Connector {
    pub(super) fn new(proxies: Proxies, metadata: impl Iterator<Item = String>) -> Self {
        let known = METADATA_HOSTS.iter().map(|host| (*host).to_owned());
        Self { proxies, metadata: Arc::new(known.chain(metadata).collect()) }
    }

    /// The client whose parts `connect` makes: one for each proxy, and one without.
    pub(super) fn client<E>(
        &self,
        connect: impl Fn(Option<&Proxy>) -> Result<HttpClient, E>,
    ) -> Result<HttpClient, E> {
        let proxied = self
            .proxies
            .all()
            .map(|proxy| connect(Some(proxy)).map(|client| (proxy.clone(), client)));
        Ok(HttpClient::new(Client {
            proxies: self.proxies.clone(),
            proxied: proxied.collect::<Result<_, E>>()?,
            direct: connect(None)?,
            metadata: Arc::clone(&self.metadata),
            asking: Mutex::default(),
        }))
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        self.client(|proxy| {
            let options = options.clone();
            ReqwestConnector::default().connect(&match proxy {
                Some(proxy) => proxy.set(options),
                None => proxy::without(options),
            })
        })
    }
}

#[derive(Debug)]
struct Client {
    proxies: Proxies,
    proxied: Vec<(Proxy, HttpClient)>,
    direct: HttpClient,
    metadata: Arc<BTreeSet<String>>,
    asking: Mutex<Option<Asking>>,
}

/// A metadata service has been asked in vain.
#[derive(Clone, Copy, Debug)]
struct Asking {
    since: Instant,
    last: Instant,
}

#[async_trait::async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let uri = request.uri();
        let authority = uri.authority().map_or("", http::uri::Authority::as_str);
        if self.metadata.contains(authority) {
            let authority = authority.to_owned();
            return self.ask_metadata(request, &authority).await;
        }
        let host = uri.host().unwrap_or_default().to_owned();
        let scheme = uri.scheme_str().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        let proxy = self.proxies.of(scheme, &host, port);
        let listing = xml::Listing::asked_for(request.method() == Method::GET, uri.query());
        let client = self.proxied.iter().find(|(one, _)| Some(one) == proxy);
        let answer = match client {
            Some((proxy, client)) => {
                client.execute(request).await.map_err(|error| through(proxy, error))?
            }
            None => self.direct.execute(request).await?,
        };
        match listing {
            Some(listing) if answer.status().is_success() => looked_at(listing, answer).await,
            _ => Ok(answer),
        }
    }
}

impl Client {
    /// Asks a service that is near or nowhere: never through a proxy, and not for long.
    async fn ask_metadata(
        &self,
        request: HttpRequest,
        host: &str,
    ) -> Result<HttpResponse, HttpError> {
        let fault = || Fault::Metadata(host.to_owned());
        let since = self.begin_asking();
        let left = METADATA.saturating_sub(since.elapsed());
        let ask = async {
            let answer = self.direct.execute(request).await?;
            let (parts, body) = whole(answer, MAX_CREDENTIALS, fault()).await?;
            Ok::<_, HttpError>(HttpResponse::from_parts(parts, HttpResponseBody::from(body)))
        };
        let asked = tokio::time::timeout(left, ask).await;
        let (is_answer, gave_up) = match &asked {
            // What fails is asked again, within the same time.
            Ok(Ok(answer)) => (!answer.status().is_server_error(), false),
            Ok(Err(_)) => (false, since.elapsed() >= METADATA),
            Err(_) => (false, true),
        };
        self.end_asking(since, is_answer || gave_up);
        match asked {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) if !gave_up => Err(HttpError::new(error.kind(), fault())),
            Ok(Err(_)) | Err(_) => Err(HttpError::new(HttpErrorKind::Unknown, fault())),
        }
    }

    /// Since when this attempt has been going on, of which a try begins.
    fn begin_asking(&self) -> Instant {
        let now = Instant::now();
        let Ok(mut asking) = self.asking.lock() else {
            return now;
        };
        let before: Option<Asking> = *asking;
        let since = before
            .filter(|before| now.saturating_duration_since(before.last) <= FORGOTTEN)
            .map_or(now, |before| before.since);
        *asking = Some(Asking { since, last: now });
        since
    }

    /// Ends a try; if the attempt is over, what is asked later is another.
    fn end_asking(&self, since: Instant, is_over: bool) {
        if let Ok(mut asking) = self.asking.lock() {
            *asking = (!is_over).then(|| Asking { since, last: Instant::now() });
        }
    }
}

/// A failure on the way to or in a proxy, which names it.
fn through(proxy: &Proxy, error: HttpError) -> HttpError {
    let kind = error.kind();
    let cause = first_cause(&error);
    HttpError::new(kind, Fault::Proxy(format!("through the proxy {proxy}: {cause}")))
}

async fn looked_at(listing: xml::Listing, answer: HttpResponse) -> Result<HttpResponse, HttpError> {
    let too_long = Fault::Listing("a page of the listing is longer than 16 MiB");
    let (parts, page) = whole(answer, MAX_PAGE, too_long).await?;
    let listed = |text| HttpError::new(HttpErrorKind::Unknown, Fault::Listing(text));
    let page: Bytes = listing.rewrite(page).map_err(listed)?;
    Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(page)))
}

/// The answer with its body read to the end; a body longer than `most` is the fault `too_long`.
async fn whole(
    answer: HttpResponse,
    most: usize,
    too_long: Fault,
) -> Result<(http::response::Parts, Bytes), HttpError> {
    let (parts, body) = answer.into_parts();
    let mut read = BytesMut::new();
    let mut body = body.bytes_stream();
    while let Some(piece) = body.next().await {
        let piece = piece?;
        if read.len().saturating_add(piece.len()) > most {
            return Err(HttpError::new(HttpErrorKind::Unknown, too_long));
        }
        read.extend_from_slice(&piece);
    }
    Ok((parts, read.freeze()))
}

#[cfg(test)]
mod tests {
    use object_store::client::HttpRequestBody;

    use super::*;

    /// Answers with this status and a body of this length.
    #[derive(Debug)]
    struct Fake(u16, usize);

    #[async_trait::async_trait]
    impl HttpService for Fake {
        async fn call(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
            let body = HttpResponseBody::from(vec![b'x'; self.1]);
            Ok(http::Response::builder().status(self.0).body(body).unwrap())
        }
    }

    fn client(fake: Fake) -> Client {
        Client {
            proxies: Proxies::default(),
            proxied: Vec::new(),
            direct: HttpClient::new(fake),
            metadata: Arc::default(),
            asking: Mutex::default(),
        }
    }

    async fn ask(client: &Client) -> Result<Bytes, HttpError> {
        let request = http::Request::get("http://m/").body(HttpRequestBody::empty()).unwrap();
        client.ask_metadata(request, "m").await?.into_body().bytes().await
    }

    #[tokio::test]
    async fn a_metadata_service_that_fails_is_still_being_asked() {
        for (status, is_over) in [(200, true), (404, true), (503, false)] {
            let client = client(Fake(status, 3));
            assert_eq!(ask(&client).await.unwrap(), "xxx");
            assert_eq!(client.asking.lock().unwrap().is_none(), is_over, "{status}");
        }
    }

    #[tokio::test]
    async fn the_answer_of_a_metadata_service_is_bounded() {
        assert_eq!(ask(&client(Fake(200, 1 << 20))).await.unwrap().len(), 1 << 20);
        let error = ask(&client(Fake(200, (1 << 20) + 1))).await.unwrap_err();
        assert_eq!(error.kind(), HttpErrorKind::Unknown);
    }

    #[test]
    fn an_attempt_that_ended_early_is_forgotten() {
        let client = client(Fake(200, 0));
        let first = client.begin_asking();
        assert_eq!(client.begin_asking(), first);
        let ago = |seconds| first.checked_sub(Duration::from_secs(seconds)).unwrap();
        *client.asking.lock().unwrap() = Some(Asking { since: ago(30), last: ago(25) });
        assert!(client.begin_asking() >= first);
    }
}
