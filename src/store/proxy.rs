//! Which requests go through an HTTP proxy: the variables as curl and Go's programs read them.
//!
//! This is not hyper-util's `proxy::matcher`, which reqwest uses: it ignores ports, `*.` and lists with blanks in
//! `NO_PROXY`, and does not say which variable names a proxy.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use object_store::{ClientConfigKey, ClientOptions};
use url::Url;

use crate::error::{Error, Result};

/// Variables that name a proxy, for `https` and for `http`: the first that is set counts.
const HTTPS: &[&str] = &["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
const HTTP: &[&str] = &["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
const NO_PROXY: &[&str] = &["NO_PROXY", "no_proxy"];

/// A proxy, and what named it. Displays without user and password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    url: Url,
    named_by: &'static str,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.url.host_str().unwrap_or_default();
        write!(f, "{}://{host}", self.url.scheme())?;
        if let Some(port) = self.url.port_or_known_default() {
            write!(f, ":{port}")?;
        }
        write!(f, " ({})", self.named_by)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The proxies in force, and the hosts that are reached without.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies {
    https: Option<Proxy>,
    http: Option<Proxy>,
    excluded: Vec<Excluded>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Excluded {
    All,
    /// Addresses of which so many first bits are the same.
    Network(IpAddr, u32, Option<u16>),
    /// A domain and all below it.
    Domain(String, Option<u16>),
}

impl Proxies {
    /// Those of the option `proxy_url`, else of the environment.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) for one that is no HTTP proxy.
    pub(super) fn read(
        option: Option<&str>,
        excludes: Option<&str>,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let first = |names: &[&'static str]| {
            names.iter().find_map(|name| {
                let value = environment.get(*name)?.trim();
                (!value.is_empty()).then_some((*name, value))
            })
        };
        let proxy = |found: Option<(&'static str, &str)>| {
            found.map(|(name, value)| parse(name, value)).transpose()
        };
        let excluded = excludes.or_else(|| first(NO_PROXY).map(|(_, value)| value));
        let (https, http) = match option {
            Some(url) => (Some(("proxy_url", url)), Some(("proxy_url", url))),
            // A CGI program gets a request's header `Proxy` as this variable.
            None if environment.contains_key("REQUEST_METHOD") => (first(HTTPS), None),
            None => (first(HTTPS), first(HTTP)),
        };
        Ok(Self {
            https: proxy(https)?,
            http: proxy(http)?,
            excluded: excluded.unwrap_or_default().split([',', ' ']).filter_map(exclude).collect(),
        })
    }

    /// The proxy for a request to `host`.
    pub(super) fn of(&self, scheme: &str, host: &str, port: u16) -> Option<&Proxy> {
        let proxy = if scheme == "https" { &self.https } else { &self.http };
        proxy.as_ref().filter(|_| !self.excluded.iter().any(|one| one.covers(host, port)))
    }

    /// All proxies there are.
    pub(super) fn all(&self) -> impl Iterator<Item = &Proxy> {
        self.https.iter().chain(self.http.iter().filter(|http| self.https.as_ref() != Some(*http)))
    }
}

impl Proxy {
    /// As a client of its own takes it, for every request.
    ///
    /// # Errors
    /// Those of `reqwest` for a URL that it does not take.
    #[cfg(any(feature = "aws-kms", feature = "vault"))]
    pub(super) fn for_all(&self) -> reqwest::Result<reqwest::Proxy> {
        reqwest::Proxy::all(self.url.as_str())
    }

    /// `options` with this proxy for every request.
    pub(super) fn set(&self, options: ClientOptions) -> ClientOptions {
        options
            .with_config(ClientConfigKey::ProxyExcludes, "")
            .with_config(ClientConfigKey::ProxyUrl, self.url.as_str())
    }
}

/// `options` with no proxy, whatever the environment says: only a proxy that is set keeps `reqwest` from reading that.
pub(super) fn without(options: ClientOptions) -> ClientOptions {
    options
        .with_config(ClientConfigKey::ProxyUrl, "http://127.0.0.1:9")
        .with_config(ClientConfigKey::ProxyExcludes, "*,0.0.0.0/0,::/0")
}

fn parse(name: &'static str, value: &str) -> Result<Proxy> {
    let text = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    let url = Url::parse(&text).ok().filter(|url| url.has_host());
    let url = url.ok_or_else(|| Error::usage(format!("{name} is not a proxy's URL")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Error::usage(format!(
            "{name} names a {} proxy, and only HTTP proxies are supported",
            url.scheme()
        ))
        .hint(format!("Unset {name}, or name the store's host in NO_PROXY.")));
    }
    Ok(Proxy { url, named_by: name })
}

fn exclude(text: &str) -> Option<Excluded> {
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    if text == "*" {
        return Some(Excluded::All);
    }
    if let Some((address, bits)) = text.split_once('/') {
        return Some(Excluded::Network(address.parse().ok()?, bits.parse().ok()?, None));
    }
    let (host, port) = match text.rsplit_once(':') {
        // More than one colon without brackets: an IPv6 address.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, Some(port.parse().ok()?))
        }
        _ => (text, None),
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    Some(match bare.parse::<IpAddr>() {
        Ok(address) => Excluded::Network(address, u32::MAX, port),
        Err(_) => {
            let domain = host.trim_start_matches('*').trim_matches('.');
            Excluded::Domain(domain.to_ascii_lowercase(), port)
        }
    })
}

impl Excluded {
    fn covers(&self, host: &str, port: u16) -> bool {
        let is_port = |wanted: &Option<u16>| wanted.is_none_or(|wanted| wanted == port);
        match self {
            Self::All => true,
            Self::Network(network, bits, wanted) => {
                let host = host.trim_start_matches('[').trim_end_matches(']');
                is_port(wanted)
                    && host.parse().is_ok_and(|address| shares(*network, address, *bits))
            }
            Self::Domain(domain, wanted) => {
                let host = host.trim_end_matches('.').to_ascii_lowercase();
                let below = host.strip_suffix(domain.as_str());
                is_port(wanted) && below.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
        }
    }
}

fn shares(a: IpAddr, b: IpAddr, bits: u32) -> bool {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            (a.to_bits() ^ b.to_bits()).leading_zeros() >= bits.min(32)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            (a.to_bits() ^ b.to_bits()).leading_zeros() >= bits.min(128)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Proxies> {
        let map = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Proxies::read(None, None, &map)
    }

    #[test]
    fn the_variables_are_read_as_curl_reads_them() {
        let proxies = read(&[("HTTPS_PROXY", "p:3128"), ("http_proxy", "http://u:pw@q")]).unwrap();
        assert_eq!(
            proxies.of("https", "h", 443).unwrap().to_string(),
            "http://p:3128 (HTTPS_PROXY)"
        );
        assert_eq!(proxies.of("http", "h", 80).unwrap().to_string(), "http://q:80 (http_proxy)");
        assert!(!format!("{proxies:?}").contains("pw"));
        assert!(read(&[("HTTPS_PROXY", " "), ("ALL_PROXY", "")]).unwrap().all().next().is_none());
        let error = read(&[("ALL_PROXY", "socks5://h:1")]).unwrap_err();
        assert!(error.to_string().contains("ALL_PROXY names a socks5 proxy"), "{error}");
    }

    #[test]
    fn no_proxy_takes_ports_blanks_networks_and_stars() {
        for (list, host, port, direct) in [
            ("*", "10.0.0.1", 443, true),
            ("127.0.0.1:9000", "127.0.0.1", 9000, true),
            ("127.0.0.1:9000", "127.0.0.1", 9001, false),
            ("a.example, b.example", "x.b.example", 443, true),
            ("a.example b.example", "b.example", 443, true),
            (".b.example", "x.b.example", 443, true),
            ("*.b.example", "x.b.example", 443, true),
            ("b.example", "xb.example", 443, false),
            ("B.example:443", "b.EXAMPLE.", 443, true),
            ("10.0.0.0/8", "10.9.9.9", 443, true),
            ("10.0.0.0/8", "11.9.9.9", 443, false),
            ("fd00::/8", "[fd12::1]", 443, true),
            ("[::1]:9000,::2", "::2", 443, true),
            ("[::1]:9000", "[::1]", 9001, false),
            ("", "h", 443, false),
        ] {
            let proxies = read(&[("ALL_PROXY", "p"), ("NO_PROXY", list)]).unwrap();
            assert_eq!(proxies.of("https", host, port).is_none(), direct, "{list} {host}");
        }
    }
}
