//! Durations as etcdctl writes them: `5s`, `1m30s`, `500ms`.

use std::str::FromStr;
use std::time::Duration;

use strongroom::{Error, Result};

/// A parsed duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl FromStr for Span {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::usage(format!("{text:?} is not a duration such as 5s, 1m30s or 500ms"));
        let mut total = Duration::ZERO;
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, after) = rest.split_at(digits);
            let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, after) = after.split_at(letters);
            let number: u32 = number.parse().map_err(|_| bad())?;
            let unit = match unit {
                "ms" => Duration::from_millis(1),
                "s" => Duration::from_secs(1),
                "m" => Duration::from_secs(60),
                "h" => Duration::from_secs(3600),
                "d" => Duration::from_secs(86_400),
                _ => return Err(bad()),
            };
            total = unit
                .checked_mul(number)
                .and_then(|part| total.checked_add(part))
                .ok_or_else(bad)?;
            rest = after;
        }
        if total.is_zero() { Err(bad()) } else { Ok(Self(total)) }
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
        for (text, ms) in [("5s", 5000), ("1m30s", 90_000), ("500ms", 500), ("2h", 7_200_000)] {
            assert_eq!(text.parse::<Span>().unwrap().0.as_millis(), ms);
        }
        for text in ["", "0s", "5", "s", "5x", "-5s", "1m 30s", "99999999999s"] {
            assert!(text.parse::<Span>().is_err(), "{text:?}");
        }
    }
}
