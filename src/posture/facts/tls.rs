//! A handshake that accepts every certificate and remembers it: what the server shows and asks for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::ResolvesClientCert;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme,
};

use super::PROBE;
use super::failed::Failed;
use crate::etcd::{EtcdSettings, anyone};

/// The longest chain that is kept.
const MAX_CHAIN: usize = 16;

/// What a handshake showed, also one that failed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown {
    /// The server's certificates, its own first; empty if the server does not use TLS.
    pub(crate) chain: Vec<Vec<u8>>,
    /// Whether it asked for a certificate.
    pub(crate) asked: bool,
}

#[derive(Debug)]
struct Recorder {
    inner: Arc<dyn ServerCertVerifier>,
    chain: Mutex<Vec<Vec<u8>>>,
    asked: AtomicBool,
}

impl Recorder {
    fn shown(&self) -> Shown {
        let chain = self.chain.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Shown { chain, asked: self.asked.load(Ordering::Relaxed) }
    }
}

/// Connects to `address` by TLS, with the settings' client certificate if `identity`. What was shown is known also if
/// that fails.
pub(super) async fn connect(
    settings: &EtcdSettings,
    address: (&str, u16),
    identity: bool,
) -> (Shown, Result<TlsStream<TcpStream>, Failed>) {
    let recorder = Arc::new(Recorder {
        inner: anyone(),
        chain: Mutex::default(),
        asked: AtomicBool::new(false),
    });
    let handshake = async {
        let mut config: ClientConfig = settings
            .tls_with(Arc::<Recorder>::clone(&recorder))
            .map_err(|error| error.to_string())?;
        if !identity {
            config.client_auth_cert_resolver = Arc::<Recorder>::clone(&recorder);
        }
        let name = ServerName::try_from(address.0.to_owned()).map_err(|error| error.to_string())?;
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await.map_err(|error| Failed::before_answer(&error))
    };
    let done = timeout(PROBE, handshake).await;
    let done = done.unwrap_or_else(|_| Err(format!("no TLS handshake within {PROBE:?}").into()));
    (recorder.shown(), done)
}

impl ResolvesClientCert for Recorder {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let all = std::iter::once(certificate).chain(intermediates).take(MAX_CHAIN);
        let all = all.map(|one| one.to_vec()).collect();
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) = all;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
