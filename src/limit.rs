//! Limits log lines: about what others can cause many times a second, and about what lasts.

#[cfg(feature = "agent")]
use std::collections::HashMap;
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
            tracing::$level!($($fields)+, lines_left_out = left_out);
        }
    }};
}
pub(crate) use limited;

#[cfg(feature = "agent")]
/// How often a warning with the same text is written.
const SAME_WARNING: Duration = Duration::from_secs(24 * 3600);
#[cfg(feature = "agent")]
/// Texts of warnings that are remembered.
const MAX_WARNINGS: usize = 1000;

#[cfg(feature = "agent")]
/// Whether the warning was not written in the last 24 hours.
pub(crate) fn is_new(warning: &str) -> bool {
    static WRITTEN: Mutex<Option<HashMap<String, Instant>>> = Mutex::new(None);
    let mut written = WRITTEN.lock().unwrap_or_else(PoisonError::into_inner);
    let written = written.get_or_insert_default();
    written.retain(|_, at| at.elapsed() < SAME_WARNING);
    if written.len() >= MAX_WARNINGS {
        written.clear();
    }
    let is_new = !written.contains_key(warning);
    if is_new {
        written.insert(warning.to_owned(), Instant::now());
    }
    is_new
}

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

    #[cfg(feature = "agent")]
    #[test]
    fn a_warning_is_written_once_a_day() {
        assert!(is_new("a"));
        assert!(!is_new("a"));
        (0..2 * MAX_WARNINGS).for_each(|at| assert!(is_new(&at.to_string())));
    }
}
