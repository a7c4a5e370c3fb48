use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A disk with so many bytes left.
#[derive(Clone)]
pub(super) struct Room(pub(super) Arc<AtomicUsize>);

impl Room {
    pub(super) fn take(&self, wanted: usize) -> usize {
        let left = self.0.load(Ordering::SeqCst);
        let taken = left.min(wanted);
        self.0.store(left - taken, Ordering::SeqCst);
        taken
    }
}
