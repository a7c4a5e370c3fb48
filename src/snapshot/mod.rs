//! One snapshot, written or read: frames, payload, index, companions, seals and the manifest that makes it exist.

pub(crate) mod ahead;
pub(crate) mod companions;
pub(crate) mod facts;
pub(crate) mod folder;
pub(crate) mod frames;
pub(crate) mod grace;
pub(crate) mod input;
pub(crate) mod inside;
#[cfg_attr(not(feature = "agent"), allow(dead_code, reason = "only an agent waits for keys"))]
pub(crate) mod late;
pub(crate) mod open;
pub(crate) mod options;
pub(crate) mod read;
pub(crate) mod read_back;
pub(crate) mod reader;
pub(crate) mod seals;
pub(crate) mod stored;
pub(crate) mod write;
