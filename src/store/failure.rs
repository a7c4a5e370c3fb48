//! The store's errors in our words.

use object_store::Error as StoreError;

use crate::error::{Error, ErrorKind};

/// Says what `error` means for the object `name`.
pub(super) fn explain(name: &str, error: StoreError) -> Error {
    let kind = match &error {
        StoreError::NotFound { .. } => ErrorKind::NotFound,
        StoreError::AlreadyExists { .. } | StoreError::Precondition { .. } => {
            ErrorKind::AlreadyExists
        }
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
            ErrorKind::Denied
        }
        _ => ErrorKind::Unreachable,
    };
    Error::new(kind, format!("{name}: {error}")).because(error)
}
