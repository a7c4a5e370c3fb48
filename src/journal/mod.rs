//! Change journals: recorded, stored and read. Whether a gap asks for a snapshot is decided above: a recording only tells
//! why it ended.

pub(crate) mod bundle;
mod connected;
mod cut;
mod end;
pub(crate) mod fetch;
pub(crate) mod filling;
pub(crate) mod folder;
#[cfg(feature = "internals")]
pub(crate) mod generated;
pub(crate) mod open;
pub(crate) mod options;
pub(crate) mod outbox;
pub(crate) mod read;
pub(crate) mod record;
pub(crate) mod sealed;
mod spool;
mod take;
pub(crate) mod vouched;
mod write;
