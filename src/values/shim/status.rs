//! Why a request is not answered, as a gRPC status.

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
        Self::Status(Status::permission_denied(
            "strongroom: clients may not use keys under the reserved prefix",
        ))
    }

    /// An answer of etcd's that is not what its API says.
    pub(super) fn malformed() -> Self {
        Malformed.into()
    }

    /// A method that is not served.
    pub(super) fn unknown() -> Self {
        Self::Status(Status::unimplemented("strongroom: unknown method"))
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

fn status_of(error: &Error) -> Status {
    let code = match error.kind() {
        ErrorKind::Usage => Code::InvalidArgument,
        ErrorKind::Unreachable => Code::Unavailable,
        _ => Code::DataLoss,
    };
    Status::new(code, format!("strongroom: {error}"))
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
