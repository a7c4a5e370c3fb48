//! Why a request is not answered, as a gRPC status.

use tonic::metadata::MetadataValue;
use tonic::{Code, Status, TimeoutExpired};
use tower::BoxError;

use crate::error::{Error, ErrorKind};
use crate::protobuf::Malformed;

/// Why a request is not answered.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A value's key is not in the keyring, which may be an old one.
    UnknownKey(Error),
    /// A refusal, by etcd or by this shim.
    Status(Status),
}

impl Failure {
    pub(super) fn reserved() -> Self {
        let text = "strongroom: clients may not use keys under the reserved prefix";
        Self::Status(ours(Status::permission_denied(text), ErrorKind::Refused))
    }

    /// An answer of etcd's that is not what its API says.
    pub(super) fn malformed() -> Self {
        Malformed.into()
    }

    /// A method that is not served.
    pub(super) fn unknown() -> Self {
        let text = "strongroom: unknown method";
        Self::Status(ours(Status::unimplemented(text), ErrorKind::Unsupported))
    }

    pub(crate) fn status(self) -> Status {
        match self {
            Self::UnknownKey(error) => status_of(&error),
            Self::Status(status) => status,
        }
    }
}

impl From<Malformed> for Failure {
    fn from(_: Malformed) -> Self {
        Self::Status(Status::internal("strongroom: a message that does not follow etcd's API"))
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::WrongKey => Self::UnknownKey(error),
            _ => Self::Status(status_of(&error)),
        }
    }
}

pub(super) fn status_of(error: &Error) -> Status {
    let code = match error.kind() {
        ErrorKind::Usage => Code::InvalidArgument,
        ErrorKind::Unreachable => Code::Unavailable,
        _ => Code::DataLoss,
    };
    ours(Status::new(code, format!("strongroom: {error}")), error.kind())
}

/// `status` marked as an error of strongroom's.
pub(super) fn ours(mut status: Status, kind: ErrorKind) -> Status {
    status.metadata_mut().insert(KIND, MetadataValue::from_static(kind.name()));
    status
}

/// The trailer that says which kind of error of strongroom's a status is.
const KIND: &str = "strongroom-error";

/// The kind of an error of the encrypting client's ([`Shim::client`](super::Shim::client)) that came from strongroom;
/// `None` for one of etcd's own or of the connection.
///
/// ```
/// use strongroom::ErrorKind;
/// use strongroom::values::error_kind;
///
/// # fn example(result: Result<etcd_client::GetResponse, etcd_client::Error>) {
/// match result {
///     Ok(found) => println!("{} keys", found.count()),
///     Err(error) => match error_kind(&error) {
///         Some(ErrorKind::WrongKey) => eprintln!("a value key is missing: {error}"),
///         Some(ErrorKind::Tampered) => eprintln!("a value was changed in etcd: {error}"),
///         Some(_) => eprintln!("strongroom: {error}"),
///         None => eprintln!("etcd: {error}"),
///     },
/// }
/// # }
/// ```
#[must_use]
pub fn error_kind(error: &etcd_client::Error) -> Option<ErrorKind> {
    let etcd_client::Error::GRpcStatus(status) = error else { return None };
    ErrorKind::of_name(status.metadata().get(KIND)?.to_str().ok()?)
}

/// A connection to etcd failed, before or while it answered. Clients try again on `UNAVAILABLE` alone: Go's watchers
/// end for good on any other code (`client/v3/watch.go`, `isHaltErr`).
pub(super) fn lost(error: BoxError) -> Status {
    let mut source = Some(&*error as &(dyn std::error::Error + 'static));
    while let Some(error) = source {
        if error.is::<TimeoutExpired>() {
            return Status::deadline_exceeded("context deadline exceeded");
        }
        if let Some(status) = error.downcast_ref::<Status>()
            && status.code() == Code::Unavailable
        {
            return status.clone();
        }
        source = error.source();
    }
    let cause = crate::etcd::chain(&*error);
    Status::unavailable(format!("strongroom: no answer from etcd: {cause}"))
}

/// Etcd was lost while it answered.
pub(crate) fn broke_off() -> Status {
    Status::unavailable("strongroom: the connection to etcd was lost")
}

/// The name that Go's `codes.Code` prints.
pub(super) fn go_name(code: Code) -> String {
    match code {
        Code::Ok => "OK".into(),
        Code::Cancelled => "Canceled".into(),
        other => format!("{other:?}"),
    }
}
