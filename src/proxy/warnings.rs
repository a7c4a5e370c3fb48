//! Limits warnings about what may happen many times a second.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Warn;

/// The shortest time between two warnings.
const PAUSE: Duration = Duration::from_secs(10);

pub(super) struct Warnings {
    warn: Warn,
    last: Mutex<(Option<Instant>, u64)>,
}

impl Warnings {
    pub(super) fn new(warn: Warn) -> Self {
        Self { warn, last: Mutex::new((None, 0)) }
    }

    /// Gives out `warning`, unless another was given out a moment ago, and how many were left out.
    pub(super) fn say(&self, warning: &str) {
        let left_out = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let (said, left_out) = *last;
            if said.is_some_and(|said| said.elapsed() < PAUSE) {
                last.1 = left_out.saturating_add(1);
                return;
            }
            *last = (Some(Instant::now()), 0);
            left_out
        };
        match left_out {
            0 => (self.warn)(warning),
            _ => (self.warn)(&format!("{warning} (and {left_out} warnings before it)")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn not_every_one_is_said() {
        let said = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&said);
        let warnings =
            Warnings::new(Arc::new(move |text: &str| to.lock().unwrap().push(text.to_owned())));
        (0..1000).for_each(|at| warnings.say(&at.to_string()));
        assert_eq!(*said.lock().unwrap(), ["0"]);
        assert_eq!(warnings.last.lock().unwrap().1, 999);
    }
}
