//! What services and commands are set to do, whichever of flags, variables and the configuration file says so.

mod schedule;

pub use schedule::Schedule;
