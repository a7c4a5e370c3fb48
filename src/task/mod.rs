//! What long work needs: progress and cancellation, a pool for what blocks, buffers, a sealed scratch file.

mod blocking;
mod buffers;
mod control;
mod files;
mod journal_step;
mod scratch;

pub(crate) use blocking::{AbortOnDrop, run_blocking, task_died, task_panicked};
pub(crate) use buffers::{Buffer, Buffers};
pub(crate) use control::interrupted;
pub use control::{Control, Step, Unit};
pub(crate) use files::{cannot_create_in, check_room, parent, private_dir_in};
pub use journal_step::JournalStep;
pub(crate) use scratch::Scratch;
