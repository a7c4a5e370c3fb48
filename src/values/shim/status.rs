//! Why a request is not answered, as a gRPC status.

use http::Response;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::error::{Error, ErrorKind};
use crate::mvcc::proto::Malformed;

/// Why a request is not answered.
#[derive(Debug)]
pub(super) enum Failure {
    /// A value cannot be opened for want of its key: perhaps the keyring is an old one.
    UnknownKey(Error),
    /// etcd's own refusal, as it came.
    Refused(Box<Response<Body>>),
    /// The client's to know.
    Status(Status),
}

impl Failure {
    pub(super) fn reserved() -> Self {
        Self::Status(Status::permission_denied(
            "strongroom: keys under its reserved prefix are not for clients",
        ))
    }

    pub(super) fn malformed() -> Self {
        Malformed.into()
    }

    /// What could carry values that are not encrypted.
    pub(super) fn unknown() -> Self {
        Self::Status(Status::unimplemented(
            "strongroom: a call or operation of a later etcd, which could carry values in clear",
        ))
    }

    pub(super) fn nested_too_deep() -> Self {
        Self::Status(Status::invalid_argument(
            "strongroom: transactions nested more than a hundred deep",
        ))
    }

    /// The answer to the client.
    pub(super) fn response(self) -> Response<Body> {
        match self {
            Self::Refused(response) => *response,
            failure => failure.status().into_http(),
        }
    }

    pub(super) fn status(self) -> Status {
        match self {
            Self::UnknownKey(error) => told(&error),
            Self::Refused(response) => Status::from_header_map(response.headers())
                .unwrap_or_else(|| Status::unknown("strongroom: etcd refused")),
            Self::Status(status) => status,
        }
    }
}

impl From<Malformed> for Failure {
    fn from(_: Malformed) -> Self {
        Self::Status(Status::internal(
            "strongroom: a message that is none of etcd's API, or repeats a field",
        ))
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
            _ => Self::Status(told(&error)),
        }
    }
}

fn told(error: &Error) -> Status {
    let code = match error.kind() {
        ErrorKind::Usage => Code::InvalidArgument,
        ErrorKind::Unreachable => Code::Unavailable,
        _ => Code::DataLoss,
    };
    Status::new(code, format!("strongroom: {error}"))
}
