//! One endpoint: what it says without TLS, without a certificate, without a login, and with each.

use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::fact::{Fact, Unknown};
use super::failed::Failed;
use super::health::{self, Health};
use super::hello::{self, Answer as Offered, Version, WEAK};
use super::http::{Answer, Session};
use super::refused::Refused;
use super::tls;
use super::{PROBE, certificate::Certificate};
use crate::error::Result;
use crate::etcd::EtcdSettings;
use crate::text::clean;

/// The key that is asked for; nothing of it is read but how often it is there.
pub(super) const PROBE_KEY: &str = "strongroom-audit-probe";
/// Connections that list the cipher suites of one endpoint.
const MAX_SUITES: usize = 10;
/// The gateway's request for how often the key is there.
const COUNT: &str = r#"{"key":"c3Ryb25ncm9vbS1hdWRpdC1wcm9iZQ==","count_only":true}"#;

/// How much of TLS is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Probe {
    /// Old versions, and all weak cipher suites: at most 12 connections to each endpoint, one after the other.
    #[default]
    Full,
    /// Old versions, and one weak cipher suite: at most three connections to each endpoint.
    Gentle,
    /// One handshake for the certificate only.
    None,
}

/// What answers on a port without TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plain {
    /// etcd, in this version.
    Etcd(String),
    /// Nothing that speaks HTTP without TLS.
    Closed(String),
}

/// What a handshake without a client certificate comes to.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    /// The certificates of the server, its own first.
    pub(crate) chain: Vec<Certificate>,
    pub(crate) asked: bool,
    pub(crate) access: Access,
}

/// What a client without a certificate gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// An answer, of this version of etcd.
    Open(String),
    /// No answer, in these words.
    Refused(String),
    /// The port does not use TLS.
    NoTls,
}

/// Old versions and weak suites that the server takes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Offers {
    /// Versions before TLS 1.2.
    pub(crate) old: Vec<Version>,
    /// OpenSSL's name, and what is wrong with it.
    pub(crate) weak: Vec<(&'static str, &'static str)>,
    /// There may be more of them.
    pub(crate) cut: bool,
}

/// What the paths beside etcd's own API answer.
#[derive(Clone, Debug)]
pub(crate) struct Pages {
    /// They answer a client that has no certificate.
    pub(crate) anonymous: bool,
    pub(crate) metrics: std::result::Result<bool, Unknown>,
    /// The limit of the database's size, if the metrics tell.
    pub(crate) quota: Option<u64>,
    pub(crate) pprof: Result<bool, Unknown>,
    /// `/debug/vars` shows the command line.
    pub(crate) command_line: std::result::Result<bool, Unknown>,
    /// The calls that were refused.
    pub(crate) refused: std::result::Result<Refused, Unknown>,
    /// The gateway of HTTP: its status, and its text if that is an error.
    pub(crate) gateway: (u16, String),
}

/// What was read of one endpoint, or of a member's peer URL.
pub(crate) struct Endpoint {
    /// As it was given; a member that is not among the endpoints has its name.
    pub(crate) name: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) member: Fact<u64>,
    pub(crate) health: Fact<Health>,
    pub(crate) version: Fact<String>,
    pub(crate) cluster_version: Fact<String>,
    pub(crate) plain: Fact<Plain>,
    pub(crate) tls: Fact<Tls>,
    pub(crate) offers: Fact<Offers>,
    pub(crate) pages: Fact<Pages>,
    /// Calls without a certificate and without a login.
    pub(crate) anonymous: Fact<Calls>,
    /// Calls without a login, with the certificate if one is given.
    pub(crate) without_login: Fact<Calls>,
}

/// What calls of etcd's API answered to somebody who did not log in.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    /// The calls that were answered, such as `MemberList`.
    pub(crate) answered: Vec<&'static str>,
    /// The call for a key was refused, or a login was asked for.
    pub(crate) login_wanted: bool,
}

impl Endpoint {
    /// A member of which nothing could be read.
    pub(crate) fn unknown(name: String, why: &str) -> Self {
        Self {
            name,
            host: String::new(),
            port: 0,
            member: Fact::unknown(why),
            health: Fact::unknown(why),
            version: Fact::unknown(why),
            cluster_version: Fact::unknown(why),
            plain: Fact::unknown(why),
            tls: Fact::unknown(why),
            offers: Fact::unknown(why),
            pages: Fact::unknown(why),
            anonymous: Fact::unknown(why),
            without_login: Fact::unknown(why),
        }
    }

    /// Asks an endpoint, one connection after the other.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when it is not an endpoint.
    pub(super) async fn read(settings: &EtcdSettings, name: &str, probe: Probe) -> Result<Self> {
        let url = settings.url(name)?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let port = url.port_or_known_default().unwrap_or(2379);
        let mut endpoint = Self::unknown(name.to_owned(), "it was not asked");
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let address = (bare.as_str(), port);
        let authority = format!("{host}:{port}");
        let (plain, mut session) = without_tls(address, &authority).await;
        let is_plain = matches!(&plain, Fact::Known { value: Plain::Etcd(_), .. });
        endpoint.plain = plain;
        let (tls, open) = without_certificate(settings, address, &authority, is_plain).await;
        endpoint.tls = tls;
        let anonymous = session.is_some() || open.is_some();
        session = session.or(open);
        if session.is_none() && settings.cert.is_some() {
            session = with_certificate(settings, address, &authority).await;
        }
        endpoint.host = bare.clone();
        endpoint.port = port;
        endpoint.read_pages(session, anonymous, &authority).await;
        let uses_tls =
            matches!(&endpoint.tls, Fact::Known { value, .. } if value.access != Access::NoTls);
        endpoint.offers = match uses_tls {
            true => offers(address, probe).await,
            false => Fact::unknown("the endpoint was not found to use TLS"),
        };
        Ok(endpoint)
    }

    async fn read_pages(&mut self, session: Option<Session>, anonymous: bool, authority: &str) {
        let source = format!("HTTP on {authority}");
        let Some(mut session) = session else {
            let why =
                "no HTTP answer: needs a client certificate that etcd accepts (--cert, --key)";
            self.pages = Fact::unknown(why);
            return;
        };
        match session.get("/version").await {
            Ok(answer) => {
                let read = versions(&answer);
                self.version = Fact::read(
                    read.as_ref().map(|read| read.0.clone()).map_err(Clone::clone),
                    &source,
                );
                self.cluster_version = Fact::read(read.map(|read| read.1), &source);
            }
            Err(failed) => self.version = Fact::unknown(failed.why),
        }
        self.pages = Fact::read(pages(&mut session, anonymous).await, source);
    }
}

async fn pages(session: &mut Session, anonymous: bool) -> std::result::Result<Pages, String> {
    let counts = session.get("/metrics").await?;
    let quota = health::gauge(&counts.text(), "etcd_server_quota_backend_bytes");
    let metrics = said(&counts, "/metrics", "etcd_server_");
    let refused = match metrics {
        Ok(true) => Refused::of_metrics(&counts.text())
            .ok_or_else(|| Unknown("/metrics does not count calls".into())),
        Ok(false) => Err(Unknown("GET /metrics has no metrics of etcd".into())),
        Err(ref unknown) => Err(unknown.clone()),
    };
    let command_line = shows(session, "/debug/vars", "\"cmdline\"").await?;
    let pprof = shows(session, "/debug/pprof/", "goroutine").await?;
    let gateway = session.post("/v3/kv/range", COUNT).await?;
    Ok(Pages {
        anonymous,
        metrics,
        quota,
        pprof,
        command_line,
        refused,
        gateway: (gateway.status, clean(&gateway.text())),
    })
}

async fn shows(
    session: &mut Session,
    path: &str,
    word: &str,
) -> std::result::Result<std::result::Result<bool, Unknown>, Failed> {
    Ok(said(&session.get(path).await?, path, word))
}

fn said(answer: &Answer, path: &str, word: &str) -> std::result::Result<bool, Unknown> {
    has(answer, word).ok_or_else(|| Unknown(format!("GET {path}: HTTP {}", answer.status)))
}

/// Whether the answer has `word`; `None` if it does not say what the page has for another client or at another time.
fn has(answer: &Answer, word: &str) -> Option<bool> {
    match answer.status {
        200 => Some(answer.text().contains(word)),
        401 | 403 | 404 => Some(false),
        _ => None,
    }
}

/// What etcd says of its version.
#[derive(Deserialize)]
struct Versions {
    etcdserver: String,
    etcdcluster: String,
}

/// The server's version and the cluster's: an answer that has not both is not etcd's.
fn versions(answer: &Answer) -> std::result::Result<(String, String), String> {
    let read = serde_json::from_slice::<Versions>(&answer.body).ok().filter(|_| answer.is_ok());
    let read = read.ok_or_else(|| format!("HTTP {}, and not the answer of etcd", answer.status))?;
    Ok((clean(&read.etcdserver), clean(&read.etcdcluster)))
}

/// Asks without TLS; the connection, if etcd answers on it.
pub(super) async fn without_tls(
    address: (&str, u16),
    authority: &str,
) -> (Fact<Plain>, Option<Session>) {
    let source = format!("GET http://{authority}/version");
    let connected = timeout(PROBE, TcpStream::connect(address)).await;
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return (Fact::unknown(format!("{authority}: {error}")), None),
        Err(_) => {
            return (Fact::unknown(format!("{authority}: no connection within {PROBE:?}")), None);
        }
    };
    let mut session = match Session::new(stream, authority.to_owned()).await {
        Ok(session) => session,
        Err(failed) => return (Fact::unknown(failed.why), None),
    };
    match session.get("/version").await {
        Ok(answer) => match versions(&answer) {
            Ok((version, _)) => (Fact::known(Plain::Etcd(version), source), Some(session)),
            // What Go's server answers on a port with TLS.
            Err(_) if answer.status == 400 && answer.text().contains("HTTPS server") => {
                (Fact::known(Plain::Closed("HTTP 400: the port is for TLS".into()), source), None)
            }
            Err(why) => (Fact::unknown(format!("{source}: {why}")), None),
        },
        // A server that says nothing may still do so; one that closes does not speak HTTP.
        Err(Failed { why, .. }) if why.contains("no answer within") => {
            (Fact::unknown(format!("{source}: {why}")), None)
        }
        Err(failed) => (Fact::known(Plain::Closed(failed.why), source), None),
    }
}

/// Asks by TLS without a client certificate; the connection, if etcd answers on it.
pub(super) async fn without_certificate(
    settings: &EtcdSettings,
    address: (&str, u16),
    authority: &str,
    is_plain: bool,
) -> (Fact<Tls>, Option<Session>) {
    let source = format!("TLS handshake with {authority} without a client certificate");
    let (shown, done) = tls::connect(settings, address, false).await;
    let answered = match done {
        Ok(stream) => ask_version(stream, authority).await,
        Err(failed) => Err(failed),
    };
    let chain: std::result::Result<Vec<_>, _> =
        shown.chain.iter().map(|one| Certificate::parse(one)).collect();
    let chain = match chain {
        Ok(chain) => chain,
        Err(why) => return (Fact::unknown(format!("{authority}: {why}")), None),
    };
    let tls = |access| {
        Fact::known(Tls { chain: chain.clone(), asked: shown.asked, access }, source.clone())
    };
    match answered {
        Ok((version, session)) => (tls(Access::Open(version)), Some(session)),
        Err(_) if chain.is_empty() && is_plain => (tls(Access::NoTls), None),
        // Who has no certificate is refused in the handshake, or after it (TLS 1.3).
        Err(failed) if failed.refused && shown.asked && !chain.is_empty() => {
            (tls(Access::Refused(failed.why)), None)
        }
        Err(Failed { why, .. }) => (Fact::unknown(format!("{source}: {why}")), None),
    }
}

async fn ask_version(
    stream: tokio_rustls::client::TlsStream<TcpStream>,
    authority: &str,
) -> std::result::Result<(String, Session), Failed> {
    let mut session = Session::new(stream, authority.to_owned()).await?;
    let answer = session.get("/version").await?;
    let (version, _) = versions(&answer)?;
    Ok((version, session))
}

async fn with_certificate(
    settings: &EtcdSettings,
    address: (&str, u16),
    authority: &str,
) -> Option<Session> {
    let stream = tls::connect(settings, address, true).await.1.ok()?;
    Session::new(stream, authority.to_owned()).await.ok()
}

/// Offers old versions and weak suites, one connection each.
async fn offers(address: (&str, u16), probe: Probe) -> Fact<Offers> {
    if probe == Probe::None {
        return Fact::unknown("versions and cipher suites were not asked for (--probe none)");
    }
    let source = format!("ClientHello to {}:{}", address.0, address.1);
    Fact::read(offer_all(address, probe).await, source)
}

async fn offer_all(address: (&str, u16), probe: Probe) -> std::result::Result<Offers, String> {
    let name = Some(address.0).filter(|host| host.parse::<std::net::IpAddr>().is_err());
    let mut found = Offers::default();
    let all: Vec<u16> = WEAK.iter().map(|(suite, ..)| *suite).collect();
    for version in [Version::TLS_1_0, Version::TLS_1_1] {
        if let Offered::Accepted(chosen, _) =
            hello::offer(address, name, version, &all, PROBE).await?
        {
            found.old.push(chosen);
        }
    }
    let most = if probe == Probe::Full { MAX_SUITES } else { 1 };
    let mut left = all;
    for _ in 0..most {
        match hello::offer(address, name, Version::TLS_1_2, &left, PROBE).await? {
            Offered::Refused(_) => return Ok(found),
            Offered::Accepted(_, suite) => {
                let Some((_, name, why)) = WEAK.iter().find(|(known, ..)| *known == suite) else {
                    return Err(format!(
                        "the server chose the suite 0x{suite:04x}, which was not offered"
                    ));
                };
                found.weak.push((name, why));
                left.retain(|one| *one != suite);
            }
        }
    }
    found.cut = true;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_fails_says_nothing_of_a_page() {
        let answer = |status, body: &str| Answer { status, body: body.into() };
        for (status, body, wanted) in [
            (200, "etcd_server_id", Some(true)),
            (200, "go_info", Some(false)),
            (403, "etcd_server_id", Some(false)),
            (404, "", Some(false)),
            (500, "", None),
            (503, "etcd_server_id", None),
            (302, "", None),
        ] {
            assert_eq!(has(&answer(status, body), "etcd_server_"), wanted, "{status} {body}");
        }
    }

    #[test]
    fn only_etcds_answer_has_a_version() {
        let answer = |status, body: &str| Answer { status, body: body.into() };
        let good = r#"{"etcdserver":"3.5.16","etcdcluster":"3.5.0"}"#;
        assert_eq!(versions(&answer(200, good)).unwrap().0, "3.5.16");
        for (status, body) in
            [(500, good), (200, "ok"), (200, "{}"), (200, "<html>etcdserver</html>")]
        {
            assert!(versions(&answer(status, body)).is_err(), "{body}");
        }
    }
}
