//! TLS towards clients, from files that may change at any time.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::error::{Error, Result};
use crate::etcd::{Gathered, key_mismatch};
use crate::settings::ProxySettings;

/// PEM files.
pub(super) struct ServerTls {
    /// The server's certificate and those between it and its authority.
    pub(super) cert: PathBuf,
    /// Its key.
    pub(super) key: PathBuf,
    /// The authorities of clients' certificates; when given, a client without one is refused.
    pub(super) trusted_ca: Option<PathBuf>,
}

impl ServerTls {
    /// Without a certificate there is none.
    pub(super) fn of(settings: &ProxySettings) -> Option<Self> {
        let (cert, key) = settings.listen_cert.clone().zip(settings.listen_key.clone())?;
        Some(Self { cert, key, trusted_ca: settings.listen_trusted_ca.clone() })
    }
}

/// Takes connections with the files as they are at that moment.
pub(super) struct Acceptor {
    files: ServerTls,
    current: Mutex<(Vec<Option<SystemTime>>, Arc<ServerConfig>)>,
}

impl Acceptor {
    pub(super) fn new(files: ServerTls) -> Result<Self> {
        let current = Mutex::new((changed(&files), config(&files)?));
        Ok(Self { files, current })
    }

    /// Whether a client without a certificate is refused.
    pub(super) fn asks_for_certificates(&self) -> bool {
        self.files.trusted_ca.is_some()
    }

    /// The connection, and the common name in the client's certificate.
    ///
    /// # Errors
    /// Those of the handshake.
    pub(super) async fn accept(
        &self,
        stream: Gathered,
    ) -> std::io::Result<(TlsStream<Gathered>, Option<Arc<str>>)> {
        let stream = TlsAcceptor::from(self.current()).accept(stream).await?;
        let (_, session) = stream.get_ref();
        let name =
            session.peer_certificates().and_then(|chain| chain.first()).and_then(common_name);
        Ok((stream, name))
    }

    /// The newest files' configuration; that of the last good ones while they do not fit together, as in the moment
    /// when one of two has been replaced.
    fn current(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = changed(&self.files);
        if changed != current.0
            && let Ok(config) = config(&self.files)
        {
            *current = (changed, config);
        }
        Arc::clone(&current.1)
    }
}

/// The subject's common name, as etcd takes it for a user's (`server/auth/store.go`). One of several would be a guess.
fn common_name(certificate: &CertificateDer<'_>) -> Option<Arc<str>> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let mut names = certificate.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?;
    names.next().is_none().then(|| name.into())
}

fn changed(files: &ServerTls) -> Vec<Option<SystemTime>> {
    let modified = |path: &PathBuf| fs::metadata(path).and_then(|file| file.modified()).ok();
    [Some(&files.cert), Some(&files.key), files.trusted_ca.as_ref()]
        .into_iter()
        .flatten()
        .map(modified)
        .collect()
}

fn config(files: &ServerTls) -> Result<Arc<ServerConfig>> {
    let wrong = |path: &Path, error: &dyn std::fmt::Display| {
        Error::usage(format!("{}: {error}", path.display()))
    };
    let certificates = |path: &Path| {
        let read =
            CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match read {
            Ok(none) if none.is_empty() => Err(wrong(path, &"no PEM certificate in it")),
            read => read.map_err(|error| wrong(path, &error)),
        }
    };
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong(&files.key, &error))?;
    let builder = ServerConfig::builder();
    let builder = match &files.trusted_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| wrong(path, &error))?;
            }
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| wrong(path, &error))?)
        }
    };
    let mut config =
        builder.with_single_cert(certificates(&files.cert)?, key).map_err(|error| {
            key_mismatch(&error, &files.cert, &files.key)
                .unwrap_or_else(|| wrong(&files.cert, &error))
        })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
