//! Keys of the transit engine of Vault and OpenBao: `transit:NAME@https://HOST:PORT/MOUNT/KEY`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use data_encoding::BASE64;
use serde::Deserialize;
use url::{Host, Url};
use zeroize::Zeroizing;

use super::KmsUri;
use super::service::{Call, Failure, Service, decoded, parsed};
use crate::custody::read_secret;
use crate::error::{Error, Result};
use crate::secret::{SecretBytes, SecretKey};
use crate::store::{Answer, JsonService};
use crate::text::clean;

/// Variables, as Vault's own client reads them.
const TOKEN: &str = "VAULT_TOKEN";
const NAMESPACE: &str = "VAULT_NAMESPACE";
const CACERT: &str = "VAULT_CACERT";
/// The longest ciphertext: of 32 bytes they have about a hundred.
const MAX_CIPHERTEXT: usize = 1024;

/// Checks the way to a key.
pub(super) fn check_way(way: &str) -> Result<()> {
    Place::parse(way).map(drop)
}

/// A key in an engine.
struct Place {
    /// With the mount's path, without the last slash.
    engine: String,
    key: String,
    token_file: Option<PathBuf>,
}

impl Place {
    fn parse(way: &str) -> Result<Self> {
        let form = || {
            Error::usage("write it transit:NAME@https://HOST:PORT/MOUNT/KEY").hint(
                "MOUNT is the path of the transit engine, often transit; ?token-file=FILE names a file with the token",
            )
        };
        let url = Url::parse(way).map_err(|_| form())?;
        let is_plain =
            url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        if !is_plain {
            return Err(Error::usage("neither a user nor a password nor a fragment belongs here")
                .hint("the token comes from a file or from VAULT_TOKEN"));
        }
        match url.scheme() {
            "https" => {}
            "http" if is_loopback(&url) => {}
            "http" => {
                return Err(Error::usage(
                    "over http:// everybody on the way could read the wrapping keys",
                )
                .hint("use https://; http:// is for an agent or a proxy on this host"));
            }
            _ => return Err(form()),
        }
        let names: Vec<&str> = url.path_segments().map(Iterator::collect).unwrap_or_default();
        let is_name = |name: &&str| {
            let is_inner = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            !name.is_empty() && !name.starts_with('.') && name.bytes().all(is_inner)
        };
        let (Some((key, mount)), true) = (names.split_last(), names.iter().all(is_name)) else {
            return Err(form());
        };
        if mount.is_empty() {
            return Err(form());
        }
        let mut token_file = None;
        for (name, value) in url.query_pairs() {
            match &*name {
                "token-file" if token_file.is_none() && !value.is_empty() => {
                    token_file = Some(PathBuf::from(value.into_owned()));
                }
                _ => return Err(form()),
            }
        }
        let origin = url.origin().ascii_serialization();
        let engine = format!("{origin}/v1/{}", mount.join("/"));
        Ok(Self { engine, key: (*key).to_owned(), token_file })
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::from(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::from(address).is_loopback(),
        None => false,
    }
}

/// Seals wrapping keys with a key of a transit engine.
pub(super) struct Transit {
    place: Place,
    service: JsonService,
    token: Option<SecretBytes>,
    namespace: Option<String>,
}

impl Transit {
    /// Asks nothing of the service yet.
    pub(super) fn new(uri: &KmsUri, environment: &BTreeMap<String, String>) -> Result<Self> {
        let set = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        let place = Place::parse(uri.way())?;
        let service =
            JsonService::new(&place.engine, set(CACERT).map(String::as_str), environment)?;
        let token = set(TOKEN).map(|token| SecretBytes::new(token.clone().into_bytes()));
        if token.is_none() && place.token_file.is_none() {
            return Err(Error::usage(format!("{}: no token", uri.name())).hint(
                "set VAULT_TOKEN, or name the file of a Vault agent's sink: …/MOUNT/KEY?token-file=FILE",
            ));
        }
        Ok(Self { place, service, token, namespace: set(NAMESPACE).cloned() })
    }

    /// Read again for each call: an agent renews it.
    fn token(&self) -> Result<Zeroizing<String>, Failure> {
        let read;
        let token = match (&self.place.token_file, &self.token) {
            (Some(path), _) => {
                read = read_secret(path).map_err(Failure::Here)?;
                read.expose()
            }
            (None, Some(token)) => token.expose(),
            (None, None) => &[],
        };
        let token = std::str::from_utf8(token);
        let token = token.map_err(|_| Failure::Here(Error::usage("the token is not text")))?;
        Ok(Zeroizing::new(token.trim().to_owned()))
    }

    /// Calls `operation` with one field. Neither it nor the value has a character that JSON escapes.
    async fn call(&self, operation: &str, field: &str, value: &str) -> Result<Answer, Failure> {
        let Place { engine, key, .. } = &self.place;
        let url = format!("{engine}/{operation}/{key}");
        // Room for all of it: growing would leave copies behind.
        let mut body = Zeroizing::new(Vec::with_capacity(value.len().saturating_add(64)));
        for part in ["{\"", field, "\":\"", value, "\"}"] {
            body.extend_from_slice(part.as_bytes());
        }
        let token = self.token()?;
        let mut headers = vec![("x-vault-request", "true"), ("x-vault-token", token.as_str())];
        headers.extend(self.namespace.as_deref().map(|name| ("x-vault-namespace", name)));
        let answer = self.service.post(&url, &headers, body).await.map_err(Failure::of)?;
        match answer.status {
            200 => Ok(answer),
            status => Err(refused(status, &answer.body)),
        }
    }

    async fn encrypt(&self, key: &SecretKey) -> Result<String, Failure> {
        let text = Zeroizing::new(BASE64.encode(key.expose()));
        let answer = self.call("encrypt", "plaintext", &text).await?;
        let answer: Data<Encrypted<'_>> = parsed(&answer.body)?;
        match version(answer.data.ciphertext.as_bytes()) {
            Some(_) => Ok(answer.data.ciphertext.to_owned()),
            None => Err(Failure::Wrong("its answer is not a ciphertext vault:vN:…".into())),
        }
    }

    async fn decrypt(&self, blob: &[u8]) -> Result<SecretBytes, Failure> {
        let text = std::str::from_utf8(blob).ok().filter(|_| version(blob).is_some());
        let text =
            text.ok_or_else(|| Failure::Wrong("the sealed wrapping key is malformed".into()))?;
        let answer = self.call("decrypt", "ciphertext", text).await?;
        let answer: Data<Decrypted<'_>> = parsed(&answer.body)?;
        decoded(answer.data.plaintext).map(SecretBytes::new)
    }
}

impl Service for Transit {
    fn shows_by_sealing(&self) -> bool {
        true
    }

    fn wrap<'a>(&'a self, key: &'a SecretKey) -> Call<'a, Vec<u8>> {
        Box::pin(async move { self.encrypt(key).await.map(String::into_bytes) })
    }

    fn unwrap<'a>(&'a self, blob: &'a [u8]) -> Call<'a, SecretBytes> {
        Box::pin(self.decrypt(blob))
    }

    fn version(&self, blob: &[u8]) -> Option<String> {
        version(blob)
    }
}

/// The version of the key that a ciphertext `vault:vN:BASE64` names; none for other text.
fn version(ciphertext: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(ciphertext).ok().filter(|text| text.len() <= MAX_CIPHERTEXT)?;
    let (version, body) = text.strip_prefix("vault:")?.split_once(':')?;
    let number = version.strip_prefix('v')?;
    let is_number = (1..=10).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
    let is_base64 = !body.is_empty() && BASE64.decode(body.as_bytes()).is_ok();
    (is_number && is_base64).then(|| version.to_owned())
}

#[derive(Deserialize)]
struct Data<T> {
    data: T,
}

#[derive(Deserialize)]
struct Encrypted<'a> {
    ciphertext: &'a str,
}

/// Borrowed, so that no copy of a secret is left behind.
#[derive(Deserialize)]
struct Decrypted<'a> {
    plaintext: &'a str,
}

#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    errors: Vec<String>,
}

/// What an answer means that is no success. With the service's own words.
fn refused(status: u16, body: &[u8]) -> Failure {
    let Refusal { errors } = serde_json::from_slice(body).unwrap_or_default();
    let said = clean(&errors.join("; "));
    let text = format!("status {status}: {said}");
    // A key that is not there, or whose old versions are given up: 400, as for a ciphertext that was altered.
    let is_gone = ["not found", "disallowed by policy"].iter().any(|word| said.contains(word));
    match status {
        400 if !is_gone => Failure::Wrong(text),
        // Not ready, a standby that cannot forward, too many requests, sealed.
        408 | 412 | 429 | 472 | 473 | 500..=599 => Failure::Down(text),
        _ => Failure::Refused(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_a_key() {
        let place =
            Place::parse("https://vault:8200/ns/transit/key?token-file=/run/token").unwrap();
        assert_eq!((&*place.engine, &*place.key), ("https://vault:8200/v1/ns/transit", "key"));
        assert_eq!(place.token_file, Some("/run/token".into()));
        for good in ["http://127.0.0.1:8200/transit/k", "http://[::1]/t/k", "http://localhost/t/k"]
        {
            assert!(Place::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "http://vault:8200/transit/key",
            "https://vault/key",
            "https://vault/transit/",
            "https://vault//key",
            "https://vault/transit/../key/",
            "https://vault/transit/key?token=x",
            "https://user:word@vault/transit/key",
            "https://vault/transit/a%2fb",
            "vault/transit/key",
        ] {
            assert!(Place::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_ciphertext_names_its_version() {
        assert_eq!(version(b"vault:v12:AAAA").as_deref(), Some("v12"));
        for bad in
            ["vault:v:AAAA", "vault:12:AAAA", "vault:v1:", "vault:v1:A\"A", "v1:AAAA", "vault:v1"]
        {
            assert_eq!(version(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn what_a_status_means() {
        let said = |text: &str| format!("{{\"errors\":[\"{text}\"]}}").into_bytes();
        assert!(matches!(refused(403, &said("permission denied")), Failure::Refused(_)));
        assert!(matches!(refused(404, b"not json"), Failure::Refused(_)));
        assert!(matches!(refused(400, &said("encryption key not found")), Failure::Refused(_)));
        assert!(matches!(refused(400, &said("message authentication failed")), Failure::Wrong(_)));
        for status in [429, 473, 500, 503] {
            assert!(matches!(refused(status, &said("Vault is sealed")), Failure::Down(_)));
        }
    }
}
