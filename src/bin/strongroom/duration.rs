//! Durations as etcdctl writes them: `5s`, `1m30s`, `500ms`.

use std::str::FromStr;
use std::time::Duration;

use strongroom::{Error, Result};

/// A hundred years: no time reckoned from now runs over.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);

/// A parsed duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl FromStr for Span {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let span = humantime::parse_duration(text).ok();
        let span = span.filter(|span| !span.is_zero() && *span <= LONGEST);
        span.map(Self).ok_or_else(|| {
            Error::usage(format!("{text:?} is not a duration such as 5s, 1m30s, 500ms or 7d"))
        })
    }
}

impl<'de> serde::Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_etcdctl_reads() {
        for (text, ms) in [("5s", 5000), ("1m30s", 90_000), ("500ms", 500), ("1m 30s", 90_000)] {
            assert_eq!(text.parse::<Span>().unwrap().0.as_millis(), ms);
        }
        for text in ["", "0s", "5", "s", "5x", "-5s", "99999999999s", "99999999999999999999s"] {
            assert!(text.parse::<Span>().is_err(), "{text:?}");
        }
    }
}
