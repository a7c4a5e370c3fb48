//! Limits log lines about what others can cause many times a second.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The shortest time between two lines.
const PAUSE: Duration = Duration::from_secs(10);

/// Lets the first line pass, then one in ten seconds, and counts the others.
pub(crate) struct Limit(Mutex<(Option<Instant>, u64)>);

impl Limit {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new((None, 0)))
    }

    /// Whether a line may be written now; with the number of lines left out before it, if there are any.
    pub(crate) fn pass(&self) -> Option<Option<u64>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, left_out) = *state;
        if last.is_some_and(|last| last.elapsed() < PAUSE) {
            state.1 = left_out.saturating_add(1);
            return None;
        }
        *state = (Some(Instant::now()), 0);
        Some((left_out > 0).then_some(left_out))
    }
}

/// A `tracing` event at a level (`warn`, `error`), limited: see [`Limit`]. Each place in the code has its own limit.
macro_rules! limited {
    ($level:ident, $($fields:tt)+) => {{
        static LIMIT: $crate::limit::Limit = $crate::limit::Limit::new();
        if let Some(left_out) = LIMIT.pass() {
            tracing::$level!($($fields)+, left_out = left_out);
        }
    }};
}
pub(crate) use limited;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_lines_are_counted_only() {
        let limit = Limit::new();
        let passed: Vec<_> = (0..1000).filter_map(|_| limit.pass()).collect();
        assert_eq!(passed, [None]);
        limit.0.lock().unwrap().0 = Instant::now().checked_sub(PAUSE);
        assert_eq!(limit.pass(), Some(Some(999)));
        assert_eq!(limit.pass(), None);
    }
}
