//! What a store's failure means, and what of it may be said.

use std::error::Error as StdError;
use std::io;

use object_store::client::{HttpError, HttpErrorKind};

use super::fault::Fault;
use crate::error::{Error, ErrorKind};
use crate::text::clean;

/// How `object_store` words a failed answer; its type is private, so its text must do.
const STATUS: &str = "Server returned non-2xx status code: ";
const ANSWER: &str = "Server returned error response: ";

/// Translates the failure of an operation on `what` into our error.
///
/// A server's answer is not passed on word for word (S3 repeats the signed headers, session token
/// included, and a URL may be signed), and so the original is not kept as the source either.
pub(super) fn failed(what: &str, error: &object_store::Error) -> Error {
    use object_store::Error as E;
    let cause = Cause::of(error);
    let text = &cause.text;
    let says = |kind, claim: &str| Error::new(kind, format!("{what}: {claim} ({text})"));
    match error {
        E::NotFound { .. } if cause.code_is(&["NoSuchBucket", "ContainerNotFound"]) => {
            says(ErrorKind::NoRepository, "the bucket does not exist")
                .hint("Create the bucket first, or correct the repository URL.")
        }
        E::NotFound { .. } => {
            Error::new(ErrorKind::NotFound, format!("{what}: not in the repository"))
        }
        E::AlreadyExists { .. } if cause.status == Some(409) => {
            says(ErrorKind::AlreadyExists, "the store reports a conflict with another request")
        }
        E::AlreadyExists { .. } | E::Precondition { .. } | E::NotModified { .. } => Error::new(
            ErrorKind::AlreadyExists,
            format!("{what}: exists already and is not overwritten"),
        ),
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => denied(&cause, says),
        E::NotSupported { .. } | E::NotImplemented { .. } => {
            says(ErrorKind::Unsupported, "the store cannot do this")
        }
        E::UnknownConfigurationKey { .. } => says(ErrorKind::Usage, "an option is unknown"),
        E::InvalidPath { .. } => says(ErrorKind::Protocol, "a name that no object can have"),
        _ => other(&cause, says),
    }
}

fn denied(cause: &Cause, says: impl Fn(ErrorKind, &str) -> Error) -> Error {
    let code = cause.code.as_deref().unwrap_or_default();
    says(ErrorKind::Denied, "the store refuses").hint(match code {
        "RequestTimeTooSkewed" => "This host's clock and the store's differ too much: set the clock.",
        _ if code.contains("Expired") || code == "TokenRefreshRequired" => {
            "The credentials have expired: get new ones."
        }
        "InvalidAccessKeyId" | "InvalidToken" | "InvalidSecurity" => {
            "The store does not know this access key or token: check the credentials and the endpoint."
        }
        "SignatureDoesNotMatch" => "The secret key is not the one that belongs to the access key.",
        _ if code.starts_with("KMS") => {
            "The store may not use the KMS key: check its policy, and the option aws_sse_kms_key_id."
        }
        _ => {
            "Check the credentials and what they may do: get, put, list, and for prune delete. \
             Without the right to list, S3 says this of an object that does not exist. If only writing is refused, \
             the bucket may demand encryption: see aws_server_side_encryption and aws_sse_kms_key_id."
        }
    })
}

fn faulty(fault: &Fault, says: impl Fn(ErrorKind, &str) -> Error) -> Error {
    match fault {
        Fault::Proxy(text) if text.contains("certificate") => says(
            ErrorKind::Unreachable,
            "the certificate is not trusted",
        )
        .hint(
            "For a private certificate authority set the option ca_certificate to its PEM file. \
                 A proxy may show its own certificate in place of the store's.",
        ),
        Fault::Proxy(_) => says(ErrorKind::Unreachable, "the store cannot be reached")
            .hint("Check the proxy, or name the store's host in NO_PROXY."),
        Fault::Metadata(_) => no_credentials(says),
        Fault::Listing(_) => says(ErrorKind::Protocol, "the store's listing cannot be used"),
    }
}

fn no_credentials(says: impl Fn(ErrorKind, &str) -> Error) -> Error {
    says(ErrorKind::Denied, "no credentials: none are set, and no metadata service gives any").hint(
        "Set the cloud's variables, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, \
         GOOGLE_SERVICE_ACCOUNT or AZURE_STORAGE_ACCOUNT_KEY, or [repository.options].",
    )
}

fn other(cause: &Cause, says: impl Fn(ErrorKind, &str) -> Error) -> Error {
    if let Some(fault) = &cause.fault {
        return faulty(fault, says);
    }
    if cause.metadata_service {
        return no_credentials(says);
    }
    match (cause.status, cause.transport, cause.io) {
        (Some(401 | 403), _, _) => denied(cause, says),
        (Some(405 | 501), _, _) => says(ErrorKind::Unsupported, "the store cannot do this").hint(
            "strongroom creates objects with If-None-Match and reads ranges of them: use a store that supports both.",
        ),
        (Some(408 | 429 | 500..), _, _) => says(ErrorKind::Unreachable, "the store fails"),
        (Some(_), _, _) if cause.code.as_deref().is_some_and(about_credentials) => {
            denied(cause, says)
        }
        (Some(_), _, _) => says(ErrorKind::Protocol, "the store refuses the request"),
        (_, Some(HttpErrorKind::Decode), _) => {
            says(ErrorKind::Unreachable, "the store's answer broke off")
        }
        (_, Some(_), _) if cause.text.contains("certificate") => says(
            ErrorKind::Unreachable,
            "the store's certificate is not trusted",
        )
        .hint("For a private certificate authority set the option ca_certificate to its PEM file."),
        (_, Some(_), _) => says(ErrorKind::Unreachable, "the store cannot be reached"),
        (_, _, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) => {
            says(ErrorKind::Io, "the disk is full")
                .hint("Free some space, or prune older snapshots.")
        }
        (_, _, Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)) => {
            says(ErrorKind::Denied, "the file system refuses")
        }
        (_, _, Some(io::ErrorKind::InvalidData)) => says(
            ErrorKind::Tampered,
            "not a plain file or folder of the repository",
        )
        .hint(
            "Find out who put it there. Links are not followed, and an object has one hard link.",
        ),
        (_, _, Some(io::ErrorKind::Unsupported)) => {
            says(ErrorKind::Unsupported, "the file system cannot do this")
                .hint("Use another file system for the repository, or an object store.")
        }
        (_, _, Some(_)) => says(ErrorKind::Io, "the file system fails"),
        _ if cause.text.contains("region") => {
            says(ErrorKind::Denied, "the bucket is in another region")
                .hint("Set AWS_REGION or the option aws_region.")
        }
        _ => says(ErrorKind::Protocol, "the store fails"),
    }
}

/// Codes about credentials and keys that S3 sends with status 400.
fn about_credentials(code: &str) -> bool {
    ["Token", "AccessKey", "Signature", "Credential", "Authorization", "KMS"]
        .iter()
        .any(|part| code.contains(part))
}

/// The part of an error chain that decides, in words fit to show.
struct Cause {
    text: String,
    status: Option<u16>,
    code: Option<String>,
    transport: Option<HttpErrorKind>,
    io: Option<io::ErrorKind>,
    metadata_service: bool,
    fault: Option<Fault>,
}

impl Cause {
    fn of(error: &object_store::Error) -> Self {
        let whole = error.to_string();
        let mut cause = Self {
            text: without_urls(whole.split(STATUS).next().unwrap_or_default()),
            status: None,
            code: None,
            transport: None,
            io: None,
            metadata_service: ["169.254.169.254", "169.254.170.2", "metadata.google.internal"]
                .iter()
                .any(|host| whole.contains(host)),
            fault: None,
        };
        let mut next: Option<&(dyn StdError + 'static)> = Some(error);
        while let Some(current) = next {
            let text = current.to_string();
            // How Azure's batch words the refusal of a single delete.
            if let Some((_, code)) = text.split_once("(code: ") {
                cause.status = code.get(..3).and_then(|digits| digits.parse().ok());
            }
            if let Some(answer) = text.strip_prefix(STATUS) {
                cause.answered(answer.get(..3).and_then(|digits| digits.parse().ok()), answer);
                return cause;
            } else if let Some(answer) = text.strip_prefix(ANSWER) {
                // S3 reports a failure inside an answer that began well: worth retrying.
                cause.answered(Some(500), answer);
                return cause;
            } else if let Some(fault) = current.downcast_ref::<Fault>() {
                cause.fault = Some(fault.clone());
                cause.text = without_urls(&text);
                return cause;
            } else if let Some(http) = current.downcast_ref::<HttpError>() {
                cause.transport = Some(http.kind());
            } else if let Some(io) = current.downcast_ref::<io::Error>() {
                cause.io = Some(io.kind());
            }
            next = current.source();
            if next.is_none() && (cause.transport.is_some() || cause.io.is_some()) {
                cause.text = without_urls(&text);
            }
        }
        cause
    }

    fn answered(&mut self, status: Option<u16>, answer: &str) {
        self.status = status;
        self.code = between(answer, "<Code>", "</Code>").map(excerpt);
        let message = between(answer, "<Message>", "</Message>").map(excerpt);
        let line = excerpt(answer.split([':', '<']).next().unwrap_or_default());
        let parts = [Some(line), self.code.clone(), message];
        self.text = parts
            .into_iter()
            .flatten()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(": ");
    }

    fn code_is(&self, codes: &[&str]) -> bool {
        self.code.as_deref().is_some_and(|code| codes.contains(&code))
    }
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    text.split_once(start)?.1.split_once(end).map(|(inner, _)| inner)
}

/// One line of bounded length without control characters or URLs' secrets.
fn excerpt(text: &str) -> String {
    without_urls(clean(text.trim()).trim())
}

/// The text with the query and user of every URL in it removed.
fn without_urls(text: &str) -> String {
    let word = |word: &str| match word.split_once("://") {
        Some((scheme, rest)) => {
            let bare = rest.split(['?', '#']).next().unwrap_or_default();
            let (host, path) =
                bare.split_once('/').map_or((bare, None), |(host, path)| (host, Some(path)));
            let host = host.rsplit('@').next().unwrap_or_default();
            path.map_or_else(
                || format!("{scheme}://{host}"),
                |path| format!("{scheme}://{host}/{path}"),
            )
        }
        None => word.to_owned(),
    };
    text.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(source: impl StdError + Send + Sync + 'static) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: Box::new(source) }
    }

    fn answer(text: &str) -> object_store::Error {
        generic(io::Error::other(format!("{STATUS}{text}")))
    }

    #[test]
    fn kinds_follow_the_status() {
        for (text, kind) in [
            ("503 Service Unavailable: ", ErrorKind::Unreachable),
            ("429 Too Many Requests: ", ErrorKind::Unreachable),
            ("501 Not Implemented: <Code>NotImplemented</Code>", ErrorKind::Unsupported),
            ("400 Bad Request: <Code>ExpiredToken</Code>", ErrorKind::Denied),
            ("400 Bad Request: <Code>InvalidRequest</Code>", ErrorKind::Protocol),
            ("403 Forbidden: ", ErrorKind::Denied),
        ] {
            assert_eq!(failed("x", &answer(text)).kind(), kind, "{text}");
        }
    }

    #[test]
    fn a_certificate_seen_through_a_proxy_is_told_of() {
        let text =
            "through the proxy http://p:1 (HTTPS_PROXY): invalid peer certificate: UnknownIssuer";
        let error = failed("x", &generic(Fault::Proxy(text.to_owned())));
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(error.to_string().contains("the certificate is not trusted"), "{error}");
        let error = failed("x", &generic(Fault::Proxy("through the proxy: refused".to_owned())));
        assert!(error.to_string().contains("cannot be reached"), "{error}");
    }

    #[test]
    fn kinds_follow_the_file_system() {
        for (io, kind) in [
            (io::ErrorKind::StorageFull, ErrorKind::Io),
            (io::ErrorKind::PermissionDenied, ErrorKind::Denied),
            (io::ErrorKind::Other, ErrorKind::Io),
        ] {
            assert_eq!(failed("x", &generic(io::Error::from(io))).kind(), kind);
        }
        let full = failed("x", &generic(io::Error::from(io::ErrorKind::StorageFull)));
        assert!(full.to_string().contains("disk is full"), "{full}");
    }

    #[test]
    fn answers_are_not_repeated_word_for_word() {
        let error = failed(
            "snapshots/x",
            &answer(
                "403 Forbidden: <Error><Code>SignatureDoesNotMatch</Code><Message>no</Message>\
             <CanonicalRequest>x-amz-security-token:hunter2</CanonicalRequest></Error>",
            ),
        );
        assert_eq!(
            error.to_string(),
            "snapshots/x: the store refuses (403 Forbidden: SignatureDoesNotMatch: no)"
        );
        let error =
            failed("x", &generic(io::Error::other("GET https://a:hunter2@h/b?sig=hunter2 in 3s")));
        assert!(!format!("{error}{error:?}").contains("hunter2"), "{error}");
        assert!(error.to_string().contains("https://h/b in 3s"), "{error}");
    }
}
