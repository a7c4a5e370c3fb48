//! What etcd and the network answer when it goes wrong, in our words.

use std::error::Error as StdError;
use std::iter::successors;
use std::path::Path;
use std::time::Duration;

use tokio_rustls::rustls::{Error as TlsError, InconsistentKeys};
use tonic::{Code, Status};

use super::trust::CA_AS_SERVER;
use crate::error::{Error, ErrorKind};
pub(super) use crate::text::clean;

/// An error and its sources, each said once.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut parts = vec![error.to_string()];
    let mut next = error.source();
    while let Some(source) = next {
        parts.push(source.to_string());
        next = source.source();
    }
    let mut text = String::new();
    for (at, part) in parts.iter().enumerate() {
        // tonic wraps its errors in these words, which tell nothing that the causes do not.
        let empty = part == "transport error" && at.saturating_add(1) < parts.len();
        if !empty && !text.contains(part) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(part);
        }
    }
    clean(&text)
}

/// The error for a certificate and a key that do not fit together, if that is what rustls found.
pub(crate) fn key_mismatch(
    error: &(dyn StdError + 'static),
    cert: &Path,
    key: &Path,
) -> Option<Error> {
    let is_mismatch = |error: &(dyn StdError + 'static)| {
        let error = error.downcast_ref::<TlsError>();
        matches!(error, Some(TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch)))
    };
    successors(Some(error), |error| (*error).source()).any(is_mismatch).then(|| {
        let (cert, key) = (cert.display(), key.display());
        Error::usage(format!("{key}: this key does not belong to the certificate in {cert}"))
            .hint("give the private key that the certificate was made for")
    })
}

/// The connection did not come up.
pub(super) fn not_connected(error: &(dyn StdError + 'static)) -> Error {
    Error::new(ErrorKind::Unreachable, chain(error))
}

/// `error` with what may help against it, if a connection failed and its words tell why.
///
/// A server that speaks TLS, or misses the client's certificate, may break off only after the
/// connection seemed up, so this looks at errors of every request.
pub(super) fn hinted(error: Error, tls: bool) -> Error {
    let text = error.to_string();
    // After the handshake: TLS was spoken.
    let closed = ["connection closed", "stream closed because of a broken pipe"];
    if tls && closed.iter().any(|end| text.contains(end)) && certificate_hint(&text).is_none() {
        return error.hint(
            "etcd closed the connection: it may want a client certificate that its --trusted-ca-file signed, \
             or not accept the one given; its log says which",
        );
    }
    if error.kind() != ErrorKind::Unreachable || error.hint_text().is_some() {
        return error;
    }
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    // The last is what a request meets on a connection that the server closed before it was sent.
    let broke_off = has(&["broken pipe", "reset", "closed", "connection was not ready"]);
    if let Some(hint) = certificate_hint(&text) {
        error.hint(hint)
    } else if has(&["Connection refused"]) {
        error.hint("nothing listens there: check the endpoint and that etcd runs")
    } else if tls && has(&["InvalidContentType", "corrupt message"]) {
        error.hint("the server does not use TLS: write http:// if that is meant")
    } else if tls && has(&["alert"]) {
        error.hint("the server refuses the TLS connection: see etcd's log for the reason")
    } else if tls && (broke_off || has(&["handshake"])) {
        error.hint("the server may not use TLS (write http://), or it asks for a client certificate that it trusts")
    } else if broke_off || has(&["frame"]) {
        error.hint("the server may use TLS: write https:// and give its CA")
    } else {
        error
    }
}

/// What helps against a refused certificate, if that is what `text` tells of. The words are rustls'.
fn certificate_hint(text: &str) -> Option<&'static str> {
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    Some(if has(&["alert: CertificateRequired"]) {
        "the server asks for a client certificate: give one, and its key, signed by the CA it trusts"
    } else if has(&["alert: CertificateExpired"]) {
        "etcd says that the client certificate has expired: renew the one given as --cert; if it has not, etcd's clock is wrong"
    } else if has(&[
        "alert: UnknownCA",
        "alert: BadCertificate",
        "alert: CertificateUnknown",
        "alert: DecryptError",
    ]) {
        "etcd does not accept the client certificate: give one, and its key, that the CA in etcd's --trusted-ca-file signed"
    } else if !has(&["certificate"]) {
        return None;
    } else if has(&[CA_AS_SERVER]) {
        "the server's own certificate is a CA certificate (CA:TRUE), as `openssl req -x509` makes them: \
         give exactly that certificate as --cacert, or let the server use one that a CA signed"
    } else if has(&["certificate expired", "certificate: Expired"]) {
        "the server's certificate has expired: renew it; if it has not, this machine's clock is wrong"
    } else if has(&["not valid yet", "NotValidYet"]) {
        "the server's certificate is not valid yet: check this machine's clock and the server's"
    } else if has(&["not valid for name", "NotValidForName"]) {
        "the endpoint's name is not in the server's certificate: write the endpoint with a name that is in it"
    } else if has(&["InvalidPurpose", "purpose"]) {
        "the server's certificate is not made for servers: it needs the extended key usage serverAuth"
    } else if has(&["UnknownIssuer", "BadSignature"]) {
        "the server's certificate is not signed by a trusted CA: give the CA that signed it as --cacert"
    } else {
        "give the CA that signed the server's certificate, and the endpoint by a name that is in it"
    })
}

/// Nothing came within `limit`.
pub(super) fn timed_out(what: &str, limit: Duration) -> Error {
    Error::new(ErrorKind::Unreachable, format!("{what}: no answer within {limit:?}"))
}

/// The client library's error during `what`.
pub(crate) fn from_client(what: &str, error: &etcd_client::Error) -> Error {
    match error {
        etcd_client::Error::GRpcStatus(status) => from_status(what, status),
        other => with_certificate_hint(Error::new(
            ErrorKind::Unreachable,
            format!("{what}: {}", chain(other)),
        )),
    }
}

fn with_certificate_hint(error: Error) -> Error {
    let text = error.to_string();
    match certificate_hint(&text) {
        Some(hint) => error.hint(hint),
        // With TLS 1.3 a server refuses the client's certificate, or that there is none, after the handshake.
        None if text.contains("connection closed") || text.contains("broken pipe") => error.hint(
            "the server may ask for a client certificate that it trusts: give --cert and --key; \
             if the endpoint is http:// it may use TLS: write https:// and give its CA",
        ),
        None => error,
    }
}

/// etcd's answer to `what`.
pub(super) fn from_status(what: &str, status: &Status) -> Error {
    let mut text = clean(status.message());
    if let Some(source) = status.source() {
        text = chain(source);
    }
    let text = if text.is_empty() { format!("gRPC {:?}", status.code()) } else { text };
    let failed = Error::new(kind(status), format!("{what}: {text}"));
    if failed.kind() == ErrorKind::Unreachable {
        with_certificate_hint(failed)
    } else if failed.kind() != ErrorKind::Denied {
        failed
    } else if status.message().contains("user ID or password") {
        failed.hint("check the etcd user and its password")
    } else {
        failed.hint("etcd gives its database only to a user with the role root: log in as one, or `etcdctl user grant-role USER root`")
    }
}

/// 3.4 and 3.5 answer a refused Snapshot or Status with code Unknown and `auth:` in the text.
fn kind(status: &Status) -> ErrorKind {
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => ErrorKind::Denied,
        Code::InvalidArgument if status.message().contains("authentication failed") => {
            ErrorKind::Denied
        }
        Code::InvalidArgument if status.message().contains("user name is empty") => {
            ErrorKind::Denied
        }
        Code::Unknown if status.message().contains("auth: ") => ErrorKind::Denied,
        Code::OutOfRange
        | Code::Unimplemented
        | Code::InvalidArgument
        | Code::FailedPrecondition => ErrorKind::Protocol,
        _ => ErrorKind::Unreachable,
    }
}

/// Whether etcd knows a login no longer: it lasts for `--auth-token-ttl`.
pub(super) fn is_logged_out(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status)
        if status.message().contains("invalid auth token"))
}

/// Whether etcd says that it has no users: then a login is not needed, as etcdctl also takes it.
pub(super) fn auth_is_off(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status)
        if status.code() == Code::FailedPrecondition && status.message().contains("authentication is not enabled"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcds_text_is_tamed() {
        assert_eq!(clean("a\x1b[2Jb\u{202e}c\n"), "a?[2Jb?c?");
        assert_eq!(clean(&"x".repeat(5000)).chars().count(), 201);
    }

    #[test]
    fn kinds_of_etcds_answers() {
        for (code, text, expected) in [
            (Code::Unknown, "auth: permission denied", ErrorKind::Denied),
            (Code::Unknown, "auth: user name is empty", ErrorKind::Denied),
            (Code::PermissionDenied, "etcdserver: permission denied", ErrorKind::Denied),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                ErrorKind::Denied,
            ),
            (Code::InvalidArgument, "etcdserver: user name is empty", ErrorKind::Denied),
            (Code::Unavailable, "etcdserver: leader changed", ErrorKind::Unreachable),
            (Code::DeadlineExceeded, "", ErrorKind::Unreachable),
            (Code::OutOfRange, "message too large", ErrorKind::Protocol),
        ] {
            let error = from_status("snapshot", &Status::new(code, text));
            assert_eq!(error.kind(), expected, "{text}");
            assert_eq!(error.hint_text().is_some(), expected == ErrorKind::Denied);
        }
    }
}
