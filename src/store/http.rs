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

/// How long a metadata service may take to give credentials, with all tries.
const METADATA: Duration = Duration::from_secs(10);
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
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let connect = |options: ClientOptions| ReqwestConnector::default().connect(&options);
        let proxied = self
            .proxies
            .all()
            .map(|proxy| connect(proxy.set(options.clone())).map(|client| (proxy.clone(), client)));
        Ok(HttpClient::new(Client {
            proxies: self.proxies.clone(),
            proxied: proxied.collect::<object_store::Result<_>>()?,
            direct: connect(proxy::without(options.clone()))?,
            metadata: Arc::clone(&self.metadata),
            asking_since: Mutex::default(),
        }))
    }
}

#[derive(Debug)]
struct Client {
    proxies: Proxies,
    proxied: Vec<(Proxy, HttpClient)>,
    direct: HttpClient,
    metadata: Arc<BTreeSet<String>>,
    /// Since when the metadata service has been asked in vain.
    asking_since: Mutex<Option<Instant>>,
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
        let since = self.asking_since.lock().ok();
        let since =
            since.map_or_else(Instant::now, |mut since| *since.get_or_insert_with(Instant::now));
        let left = METADATA.saturating_sub(since.elapsed());
        let asked = tokio::time::timeout(left, self.direct.execute(request)).await;
        let gave_up = !matches!(&asked, Ok(Ok(_))) && since.elapsed() >= METADATA;
        // What is asked later is another attempt.
        if (gave_up || matches!(&asked, Ok(Ok(_))))
            && let Ok(mut since) = self.asking_since.lock()
        {
            *since = None;
        }
        let fault = || Fault::Metadata(host.to_owned());
        match asked {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) if !gave_up => Err(HttpError::new(error.kind(), fault())),
            Ok(Err(_)) | Err(_) => Err(HttpError::new(HttpErrorKind::Unknown, fault())),
        }
    }
}

/// A failure on the way to or in a proxy, which names it.
fn through(proxy: &Proxy, error: HttpError) -> HttpError {
    let kind = error.kind();
    let mut last: &dyn std::error::Error = &error;
    while let Some(source) = last.source() {
        last = source;
    }
    HttpError::new(kind, Fault::Proxy(format!("through the proxy {proxy}: {last}")))
}

async fn looked_at(listing: xml::Listing, answer: HttpResponse) -> Result<HttpResponse, HttpError> {
    let listed = |text| HttpError::new(HttpErrorKind::Unknown, Fault::Listing(text));
    let (parts, body) = answer.into_parts();
    let mut page = BytesMut::new();
    let mut body = body.bytes_stream();
    while let Some(piece) = body.next().await {
        page.extend_from_slice(&piece?);
        if page.len() > MAX_PAGE {
            return Err(listed("a page of the listing is longer than 16 MiB"));
        }
    }
    let page: Bytes = listing.rewrite(page.freeze()).map_err(listed)?;
    Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(page)))
}
