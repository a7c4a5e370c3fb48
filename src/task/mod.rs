//! What long work needs: progress and cancellation, a pool for what blocks, buffers, a sealed scratch file.

mod blocking;
mod buffers;
mod control;
mod files;
mod scratch;

pub(crate) use blocking::{AbortOnDrop, run_blocking, task_died, task_panicked};
pub(crate) use buffers::{Buffer, Buffers};
pub(crate) use control::interrupted;
pub use control::{Control, Step, Unit};
pub(crate) use files::parent;
pub(crate) use scratch::Scratch;
