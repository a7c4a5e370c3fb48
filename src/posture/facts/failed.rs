//! Why a server gave no answer, and whether that is a refusal.

use std::error::Error as StdError;
use std::io::{Error as IoError, ErrorKind};

use tokio_rustls::rustls::Error as TlsError;

use crate::etcd::chain;

/// Alerts that refuse a client without a certificate: handshake_failure, bad_certificate, certificate_unknown, unknown_ca,
/// access_denied, certificate_required.
const REFUSALS: [u8; 6] = [40, 42, 46, 48, 49, 116];

/// No answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) why: String,
    /// The server refused the client, by an alert or by closing before it answered.
    pub(crate) refused: bool,
}

impl Failed {
    /// Before an answer began.
    pub(crate) fn before_answer(error: &(dyn StdError + 'static)) -> Self {
        Self { why: chain(error), refused: is_refusal(error) }
    }

    /// The server closed the connection, and said nothing.
    pub(crate) fn closed() -> Self {
        Self { why: "the server closed the connection".into(), refused: true }
    }
}

impl From<String> for Failed {
    fn from(why: String) -> Self {
        Self { why, refused: false }
    }
}

impl From<Failed> for String {
    fn from(failed: Failed) -> Self {
        failed.why
    }
}

fn is_refusal(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(TlsError::AlertReceived(alert)) = error.downcast_ref() {
            return REFUSALS.contains(&u8::from(*alert));
        }
        if let Some(error) = error.downcast_ref::<IoError>() {
            // The source of such an error is that of the one in it.
            return match error.get_ref() {
                Some(inner) if inner.is::<TlsError>() => is_refusal(inner),
                _ => matches!(
                    error.kind(),
                    ErrorKind::ConnectionReset
                        | ErrorKind::ConnectionAborted
                        | ErrorKind::BrokenPipe
                        | ErrorKind::UnexpectedEof
                ),
            };
        }
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message) {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use tokio_rustls::rustls::AlertDescription;

    use super::*;

    #[test]
    fn what_refuses_a_client() {
        let alert = |code| {
            let alert = TlsError::AlertReceived(AlertDescription::from(code));
            Failed::before_answer(&IoError::new(ErrorKind::InvalidData, alert)).refused
        };
        for code in [40, 42, 46, 48, 49, 116] {
            assert!(alert(code), "{code}");
        }
        for code in [10, 70, 80, 112] {
            assert!(!alert(code), "{code}");
        }
        let refused = |kind| Failed::before_answer(&IoError::from(kind)).refused;
        assert!(refused(ErrorKind::ConnectionReset) && refused(ErrorKind::UnexpectedEof));
        assert!(!refused(ErrorKind::InvalidData) && !refused(ErrorKind::TimedOut));
        assert!(!Failed::before_answer(&TlsError::DecryptError).refused);
    }
}
