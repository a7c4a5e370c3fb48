//! Failures below `object_store` that say themselves what went wrong.

use std::fmt;

/// What went wrong below `object_store`, in words fit to show.
#[cfg_attr(
    not(any(feature = "s3", feature = "gcs", feature = "azure")),
    expect(dead_code, reason = "only a store that is reached by HTTP fails so")
)]
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// The proxy could not be reached, or did not let the request through.
    Proxy(String),
    /// The metadata service that was to give credentials did not answer.
    Metadata(String),
    /// A listing that cannot be believed.
    Listing(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proxy(text) => f.write_str(text),
            Self::Metadata(host) => write!(f, "the metadata service at {host} does not answer"),
            Self::Listing(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Fault {}
