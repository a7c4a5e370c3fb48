//! Which server certificates are trusted when a CA file is given.
//!
//! rustls refuses a CA's certificate as a server's own, and that is what `openssl req -x509` makes. Go accepts it when
//! it is one of the trusted certificates itself, and so does this.

use std::sync::Arc;

use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::{
    CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
};

use crate::error::{Error, Result};

/// What webpki calls a CA's certificate that a server shows as its own. rustls passes it on as text only.
pub(super) const CA_AS_SERVER: &str = "CaUsedAsEndEntity";

/// The verifier for the certificates in a PEM file.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) when there is none that can be used.
pub(super) fn verifier(pem: &[u8]) -> Result<Arc<dyn ServerCertVerifier>> {
    let given: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| Error::usage(format!("not a PEM file of certificates: {error}")))?;
    let mut roots = RootCertStore::empty();
    if roots.add_parsable_certificates(given.iter().cloned()).0 == 0 {
        return Err(Error::usage("no certificate in it that can be used"));
    }
    let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| Error::usage(error.to_string()))?;
    Ok(Arc::new(Verifier { webpki, given }))
}

/// The verifier for the system's authorities.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) when the system has none.
#[cfg(feature = "proxy")]
pub(super) fn system() -> Result<Arc<dyn ServerCertVerifier>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    Ok(verifier.map_err(|error| {
        Error::usage(format!("the system's certificate authorities cannot be used: {error}"))
            .hint("give the CA that signed etcd's certificate as --cacert")
    })?)
}

/// The cryptography of TLS.
pub(super) fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default()
        .map_or_else(|| Arc::new(aws_lc_rs::default_provider()), Arc::clone)
}

/// The verifier that takes every certificate, as `etcdctl --insecure-skip-tls-verify` does. Whether the server has its
/// key is still verified.
pub(crate) fn anyone() -> Arc<dyn ServerCertVerifier> {
    Arc::new(Anyone(provider()))
}

#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[derive(Debug)]
struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, TlsError> {
        let verified =
            self.webpki.verify_server_cert(certificate, intermediates, name, ocsp_response, now);
        match verified {
            Err(error) if is_ca_as_server(&error) && self.given.contains(certificate) => {
                verify_given(certificate, name, now)
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        self.webpki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        self.webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

fn is_ca_as_server(error: &TlsError) -> bool {
    matches!(error, TlsError::InvalidCertificate(CertificateError::Other(why))
        if why.to_string() == CA_AS_SERVER)
}

/// Checks what else makes a trusted certificate good for this server, as Go does: dates, purpose and name. The
/// handshake verifies that the server has its key.
fn verify_given(
    certificate: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> std::result::Result<ServerCertVerified, TlsError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|_| CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).map_err(|_| CertificateError::Expired)?;
    if now < parsed.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > parsed.validity().not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    let purposes = parsed.extended_key_usage().map_err(|_| CertificateError::BadEncoding)?;
    if purposes.is_some_and(|purposes| !purposes.value.server_auth && !purposes.value.any) {
        return Err(CertificateError::InvalidPurpose.into());
    }
    verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
    Ok(ServerCertVerified::assertion())
}
