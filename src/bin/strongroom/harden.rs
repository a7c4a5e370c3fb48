//! The process's limits: keys stay out of core dumps and away from debuggers, and servers get all the files they may.

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

/// Forbids core dumps, and ptrace by other processes of the same user.
///
/// A kernel that refuses either is no reason to take no backup.
pub(crate) fn process() {
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

/// Raises the number of files and connections to what the administrator allows at most.
pub(crate) fn all_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
