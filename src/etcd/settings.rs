//! How to reach etcd: endpoints, TLS, user, timeouts; checked before anything connects.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Identity, TlsOptions};
#[cfg(any(feature = "posture", feature = "proxy"))]
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
#[cfg(any(feature = "posture", feature = "proxy"))]
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tonic::transport::Endpoint;
use url::Url;
use zeroize::Zeroizing;

use super::{failure, trust};
use crate::error::{Error, Result};
#[cfg(feature = "cli")]
use crate::format::{parse_duration, print_duration};
use crate::secret::SecretBytes;

/// A certificate or key file is never larger; the reader of a mistaken path stops here.
const MAX_PEM: u64 = 1 << 20;
/// Pings while a stream is open, so that a dead peer shows. etcd's server refuses more than one in 5 s.
pub(super) const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
pub(super) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How to reach an etcd cluster. The names are those of etcdctl's flags.
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[cfg_attr(feature = "cli", command(next_help_heading = "Connection to etcd"))]
pub struct EtcdSettings {
    /// etcd endpoints, HOST:PORT or a URL each; backups read from one healthy member
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "etcd.endpoints",
            long = "endpoints",
            value_name = "URL,…",
            env = "STRONGROOM_ENDPOINTS",
            value_delimiter = ',',
            value_parser = trimmed,
            default_values_t = EtcdSettings::default().endpoints
        )
    )]
    pub endpoints: Vec<String>,
    /// CA that signed etcd's server certificates, a PEM file [default: the system's]
    #[cfg_attr(
        feature = "cli",
        arg(id = "etcd.cacert", long = "cacert", value_name = "FILE", env = "STRONGROOM_CACERT")
    )]
    pub cacert: Option<PathBuf>,
    /// Client certificate, a PEM file
    #[cfg_attr(
        feature = "cli",
        arg(id = "etcd.cert", long = "cert", value_name = "FILE", env = "STRONGROOM_CERT")
    )]
    pub cert: Option<PathBuf>,
    /// Key of the client certificate
    #[cfg_attr(
        feature = "cli",
        arg(id = "etcd.key", long = "key", value_name = "FILE", env = "STRONGROOM_KEY")
    )]
    pub key: Option<PathBuf>,
    /// Accept any server certificate: anyone on the way can then pose as etcd
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "etcd.insecure_skip_tls_verify",
            long = "insecure-skip-tls-verify",
            env = "STRONGROOM_INSECURE_SKIP_TLS_VERIFY",
            value_parser = clap::builder::BoolishValueParser::new()
        )
    )]
    pub insecure_skip_tls_verify: bool,
    /// etcd user; needs the role root for snapshots
    #[cfg_attr(
        feature = "cli",
        arg(id = "etcd.user", long = "user", value_name = "NAME", env = "STRONGROOM_USER")
    )]
    pub user: Option<String>,
    /// File with the user's password
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "etcd.password_file",
            long = "password-file",
            value_name = "FILE",
            env = "STRONGROOM_PASSWORD_FILE"
        )
    )]
    pub password_file: Option<PathBuf>,
    /// The user's password. Whoever opens the settings reads it from `password_file`, if that is set.
    #[cfg_attr(feature = "cli", arg(skip))]
    pub password: Option<SecretBytes>,
    /// How long to wait for a connection
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "etcd.dial_timeout",
            long = "dial-timeout",
            value_name = "TIME",
            env = "STRONGROOM_DIAL_TIMEOUT",
            value_parser = parse_duration,
            default_value = print_duration(EtcdSettings::default().dial_timeout)
        )
    )]
    pub dial_timeout: Duration,
    /// How long to wait for an answer; for the stream, the longest pause
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "etcd.command_timeout",
            long = "command-timeout",
            value_name = "TIME",
            env = "STRONGROOM_COMMAND_TIMEOUT",
            value_parser = parse_duration,
            default_value = print_duration(EtcdSettings::default().command_timeout)
        )
    )]
    pub command_timeout: Duration,
    /// Continue with an etcd later than 3.7, the last version tested
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "etcd.allow_untested",
            long = "allow-untested-etcd",
            env = "STRONGROOM_ALLOW_UNTESTED_ETCD",
            value_parser = clap::builder::BoolishValueParser::new()
        )
    )]
    pub allow_untested: bool,
}

/// A list may have blanks after its commas.
#[cfg(feature = "cli")]
fn trimmed(text: &str) -> std::result::Result<String, std::convert::Infallible> {
    Ok(text.trim().to_owned())
}

impl Default for EtcdSettings {
    /// etcdctl's defaults, but for a command's time: 30 s, which is also how long a stream may be silent, and etcd is
    /// silent while it prepares one.
    fn default() -> Self {
        Self {
            endpoints: vec!["http://127.0.0.1:2379".into()],
            cacert: None,
            cert: None,
            key: None,
            insecure_skip_tls_verify: false,
            user: None,
            password_file: None,
            password: None,
            dial_timeout: Duration::from_secs(2),
            command_timeout: Duration::from_secs(30),
            allow_untested: false,
        }
    }
}

impl EtcdSettings {
    /// A second copy, with the password. There is no `Clone`, so that each shows in a review.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        let password = self.password.as_ref();
        Self {
            endpoints: self.endpoints.clone(),
            cacert: self.cacert.clone(),
            cert: self.cert.clone(),
            key: self.key.clone(),
            user: self.user.clone(),
            password_file: self.password_file.clone(),
            password: password.map(|password| SecretBytes::new(password.expose().to_vec())),
            ..*self
        }
    }
}

/// What the settings come to: one target per endpoint, the user, and warnings.
pub(super) struct Plan {
    pub(super) targets: Vec<Target>,
    pub(super) warnings: Vec<String>,
}

/// One endpoint, ready to connect to.
pub(super) struct Target {
    /// The endpoint as it was given.
    pub(super) name: String,
    pub(super) channel: Endpoint,
}

impl EtcdSettings {
    /// Checks the settings and reads the TLS files.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when the settings contradict each other,
    /// [`Io`](crate::ErrorKind::Io) when a file cannot be read.
    pub(super) fn plan(&self) -> Result<Plan> {
        if self.endpoints.iter().all(String::is_empty) {
            return Err(Error::usage("no etcd endpoint is given"));
        }
        if self.user.is_some() != self.password.is_some() {
            return Err(Error::usage(
                "an etcd user and its password go together: one of them is missing",
            ));
        }
        let mut plan = Plan { targets: Vec::new(), warnings: Vec::new() };
        for name in self.endpoints.iter().filter(|name| !name.is_empty()) {
            let target = self.target(name)?;
            if target.channel.uri().scheme_str() == Some("http") && self.password.is_some() {
                plan.warnings
                    .push(format!("{name}: the password is sent over a connection without TLS"));
            }
            if self.insecure_skip_tls_verify && target.channel.uri().scheme_str() == Some("https") {
                plan.warnings.push(format!(
                    "{name}: the server's certificate is not verified (insecure_skip_tls_verify): \
                     anyone on the way can pose as etcd and read or change everything"
                ));
            }
            plan.targets.push(target);
        }
        Ok(plan)
    }

    /// One endpoint with the settings' TLS and timeouts.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub(super) fn target(&self, name: &str) -> Result<Target> {
        let tls = self.tls()?;
        let channel = self.channel(&self.url(name)?, tls)?;
        Ok(Target { name: name.to_owned(), channel })
    }

    /// User and password as the client library wants them, which keeps its own copies.
    pub(super) fn credentials(&self) -> Result<Option<(String, Zeroizing<String>)>> {
        let (Some(user), Some(password)) = (&self.user, &self.password) else {
            return Ok(None);
        };
        let password = std::str::from_utf8(password.expose())
            .map_err(|_| Error::usage("the etcd password is not UTF-8"))?;
        Ok(Some((user.clone(), Zeroizing::new(password.to_owned()))))
    }

    fn wants_tls(&self) -> bool {
        let files = [&self.cacert, &self.cert, &self.key];
        self.insecure_skip_tls_verify || files.into_iter().any(Option::is_some)
    }

    /// The URL of an endpoint; without a scheme, `https` where TLS settings are given.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage).
    pub(crate) fn url(&self, name: &str) -> Result<Url> {
        let text = match name.split_once("://") {
            Some(("http" | "https", _)) => name.to_owned(),
            Some(("srv", domain)) => {
                return Err(Error::usage(format!(
                    "etcd's endpoints are not looked up in DNS, and ETCDCTL_DISCOVERY_SRV is {domain:?}"
                ))
                .hint("give the endpoints themselves with --endpoints"));
            }
            Some(("unix" | "unixs", _)) => {
                return Err(Error::usage(format!("etcd endpoint {name:?}: unix sockets are not supported"))
                    .hint("give etcd a client URL of TCP, such as --listen-client-urls http://127.0.0.1:2379"));
            }
            Some((scheme, _)) => {
                return Err(Error::usage(format!(
                    "etcd endpoint of the scheme {scheme:?}: only http and https are known"
                )));
            }
            None if self.wants_tls() => format!("https://{name}"),
            None => format!("http://{name}"),
        };
        let url = Url::parse(&text)
            .map_err(|error| Error::usage(format!("an etcd endpoint is not a URL: {error}")))?;
        // The text may hold a password, so it is not repeated.
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Error::usage(
                "an etcd endpoint holds a user name: use the user and password settings",
            ));
        }
        // A URL's default port, 80 or 443, is never meant, and parsing drops it where it is written.
        let authority = text
            .split_once("://")
            .map_or("", |(_, rest)| rest.split('/').next().unwrap_or_default());
        let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
        if port.is_empty() || !port.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(Error::usage(format!("etcd endpoint {name:?} has no port"))
                .hint(format!("etcd's own port is 2379: {name}:2379")));
        }
        if url.host_str().is_none_or(str::is_empty)
            || url.path() != "/"
            || url.query().is_some()
            || url.fragment().is_some()
        {
            return Err(Error::usage(format!(
                "etcd endpoint {name:?}: a scheme, a host and a port make an endpoint"
            )));
        }
        if url.scheme() == "http" && self.wants_tls() {
            return Err(Error::usage(format!(
                "etcd endpoint {name}: TLS settings are given, and http:// would not use them"
            ))
            .hint("write https:// or leave the certificates out"));
        }
        Ok(url)
    }

    fn channel(&self, url: &Url, tls: Tls) -> Result<Endpoint> {
        let endpoint = Endpoint::from_shared(url.to_string())
            .map_err(|error| Error::usage(format!("etcd endpoint {url}: {error}")))?
            .connect_timeout(self.dial_timeout)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        if url.scheme() == "http" {
            return Ok(endpoint);
        }
        let endpoint = match tls.verifier {
            Some(verifier) => endpoint.tls_config_with_verifier(tls.options, verifier),
            None => endpoint.tls_config(tls.options),
        };
        endpoint.map_err(|error| {
            let files = self.cert.as_ref().zip(self.key.as_ref());
            let mismatch = files.and_then(|(cert, key)| failure::key_mismatch(&error, cert, key));
            mismatch.unwrap_or_else(|| {
                let why = failure::chain(&error);
                Error::usage(format!("the TLS files do not fit together: {why}"))
            })
        })
    }

    /// TLS towards etcd for connections that are not tonic's, in HTTP/2.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    #[cfg(feature = "proxy")]
    pub(super) fn tls_config(&self) -> Result<Arc<ClientConfig>> {
        let verifier = match self.tls()?.verifier {
            Some(verifier) => verifier,
            None => trust::system()?,
        };
        let mut config = self.tls_with(verifier)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    /// TLS with this verifier, and with the client certificate if one is set.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    #[cfg(any(feature = "posture", feature = "proxy"))]
    pub(crate) fn tls_with(&self, verifier: Arc<dyn ServerCertVerifier>) -> Result<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(trust::provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::usage(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        Ok(match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let wrong = |path: &Path| {
                    let path = path.display().to_string();
                    move |error: &dyn std::fmt::Display| Error::usage(format!("{path}: {error}"))
                };
                let chain = CertificateDer::pem_slice_iter(&read_pem(cert)?)
                    .collect::<std::result::Result<_, _>>()
                    .map_err(|error| wrong(cert)(&error))?;
                let secret = PrivateKeyDer::from_pem_slice(&read_pem(key)?)
                    .map_err(|error| wrong(key)(&error))?;
                builder.with_client_auth_cert(chain, secret).map_err(|error| {
                    failure::key_mismatch(&error, cert, key).unwrap_or_else(|| wrong(cert)(&error))
                })?
            }
            _ => builder.with_no_client_auth(),
        })
    }

    fn tls(&self) -> Result<Tls> {
        let (options, verifier) = match &self.cacert {
            _ if self.insecure_skip_tls_verify => (TlsOptions::new(), Some(trust::anyone())),
            Some(path) => {
                let named = |error: Error| error.context(path.display().to_string());
                let verifier = trust::verifier(&read_ca(path)?).map_err(named)?;
                (TlsOptions::new(), Some(verifier))
            }
            None => (TlsOptions::new().with_enabled_roots(), None),
        };
        let options = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                options.identity(Identity::from_pem(&*read_pem(cert)?, &*read_pem(key)?))
            }
            (None, None) => options,
            _ => {
                return Err(Error::usage(
                    "a client certificate and its key go together: one of them is missing",
                ));
            }
        };
        Ok(Tls { options, verifier })
    }
}

/// TLS towards etcd.
struct Tls {
    options: TlsOptions,
    /// Decides about the server's certificate; without it the system's authorities do.
    verifier: Option<Arc<dyn ServerCertVerifier>>,
}

/// A file without any certificate would read as trust in nobody, and fail with other words.
fn read_ca(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let pem = read_pem(path)?;
    let mark = b"-----BEGIN CERTIFICATE-----";
    if !pem.windows(mark.len()).any(|part| part == mark) {
        return Err(Error::usage(format!("{}: no PEM certificate in it", path.display())));
    }
    Ok(pem)
}

pub(super) fn read_pem(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let length = std::fs::metadata(path).map_err(|error| Error::io(path, error))?.len();
    if length > MAX_PEM {
        return Err(Error::usage(format!(
            "{}: {length} bytes are too many for a PEM file",
            path.display()
        )));
    }
    let pem = std::fs::read(path).map(Zeroizing::new).map_err(|error| Error::io(path, error))?;
    if ["-----BEGIN ENCRYPTED PRIVATE KEY-----", "Proc-Type: 4,ENCRYPTED"]
        .iter()
        .any(|mark| pem.windows(mark.len()).any(|part| part == mark.as_bytes()))
    {
        return Err(Error::usage(format!(
            "{}: the key is encrypted with a passphrase",
            path.display()
        ))
        .hint("decrypt it into a file that only you can read: openssl pkey -in KEY -out NEW"));
    }
    // Editors of Windows begin a text with a byte order mark.
    Ok(match pem.strip_prefix(b"\xef\xbb\xbf") {
        Some(bare) => Zeroizing::new(bare.to_vec()),
        None => pem,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn settings(endpoint: &str) -> EtcdSettings {
        EtcdSettings { endpoints: vec![endpoint.into()], ..EtcdSettings::default() }
    }

    #[test]
    fn endpoints() {
        for good in
            ["127.0.0.1:2379", "http://etcd-0:2379", "https://[::1]:2379", "https://etcd-0:2379/"]
        {
            assert!(settings(good).url(good).is_ok(), "{good}");
        }
        for bad in
            ["", "unix:///run/etcd", "https://etcd:1/v3", "https://etcd:1?x=y", "http://etcd:port"]
        {
            assert_eq!(settings(bad).url(bad).unwrap_err().kind(), ErrorKind::Usage, "{bad}");
        }
        let error = settings("").url("https://root:hunter2@etcd:2379").unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
    }

    #[test]
    fn contradictions() {
        let kind = |settings: EtcdSettings| settings.plan().err().map(|error| error.kind());
        let base = || settings("http://etcd:2379");
        assert_eq!(kind(EtcdSettings { cert: Some("c".into()), ..base() }), Some(ErrorKind::Usage));
        assert_eq!(
            kind(EtcdSettings { user: Some("root".into()), ..base() }),
            Some(ErrorKind::Usage)
        );
        assert_eq!(kind(EtcdSettings { endpoints: vec![], ..base() }), Some(ErrorKind::Usage));
        assert_eq!(
            kind(EtcdSettings { cacert: Some("/nonexistent/ca".into()), ..base() }),
            Some(ErrorKind::Io)
        );
        let tls = EtcdSettings { cacert: Some("ca".into()), ..base() };
        assert_eq!(tls.url("http://etcd:2379").unwrap_err().kind(), ErrorKind::Usage);
    }

    #[test]
    fn a_password_without_tls_is_warned_of() {
        let settings = EtcdSettings {
            user: Some("root".into()),
            password: Some(SecretBytes::new(b"hunter2".to_vec())),
            ..settings("http://etcd:2379")
        };
        let plan = settings.plan().unwrap();
        assert!(plan.warnings[0].contains("without TLS") && !plan.warnings[0].contains("hunter2"));
    }
}
