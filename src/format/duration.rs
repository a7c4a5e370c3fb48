//! Durations as people write them: `5s`, `1m30s`, `500ms`, `7d`.

use std::time::Duration;

use crate::error::{Error, Result};

/// A hundred years: no time reckoned from now overflows.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);

/// Units, largest first, in milliseconds.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads a duration of milliseconds (`ms`), seconds (`s`), minutes (`m`), hours (`h`) and days (`d`); blanks between the
/// parts are allowed.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) for any other text, for zero and for more than a hundred years.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let bad = |why: &str| Error::usage(format!("invalid duration {text:?}: {why}"));
    let mut milliseconds = 0_u64;
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (number, unit, after) = part(rest);
        let Some(&(_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(bad(
                "write one such as 5s, 1m30s, 500ms or 7d (units: ms, s, m for minutes, h, d)",
            ));
        };
        let number: u64 =
            number.parse().map_err(|_| bad("write one such as 5s, 1m30s, 500ms or 7d"))?;
        milliseconds = number
            .checked_mul(scale)
            .and_then(|part| milliseconds.checked_add(part))
            .ok_or_else(|| bad("it is too long"))?;
        rest = after.trim_start();
    }
    let duration = Duration::from_millis(milliseconds);
    if duration.is_zero() {
        return Err(bad(
            "it must be longer than 0, such as 5s, 1m30s, 500ms or 7d; for none leave the setting out",
        ));
    }
    if duration > LONGEST {
        return Err(bad("it is longer than a hundred years"));
    }
    Ok(duration)
}

/// A number, its unit, and what follows.
fn part(text: &str) -> (&str, &str, &str) {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    let rest = rest.trim_start();
    let unit = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
    let (unit, after) = rest.split_at(unit);
    (number, unit, after)
}

/// Writes a duration as [`parse_duration`] reads it, to the millisecond.
#[must_use]
pub fn print_duration(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, scale) in UNITS {
        let count = left / scale;
        left %= scale;
        if count > 0 {
            text += &format!("{count}{unit}");
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms, printed) in [
            ("5s", 5000, "5s"),
            ("1m30s", 90_000, "1m30s"),
            ("500ms", 500, "500ms"),
            ("1m 30s", 90_000, "1m30s"),
            (" 90 s ", 90_000, "1m30s"),
            ("7d", 604_800_000, "7d"),
            ("1h1ms", 3_600_001, "1h1ms"),
        ] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration.as_millis(), ms, "{text}");
            assert_eq!(print_duration(duration), printed);
        }
        for text in [
            "",
            " ",
            "0s",
            "5",
            "s",
            "5x",
            "-5s",
            "1.5h",
            "5M",
            "2w",
            "1y",
            "5sec",
            "ms5",
            "5s,6s",
            "99999999999s",
            "99999999999999999999s",
            "18446744073709551615d",
            "37000d",
            "5µs",
            "٥s",
        ] {
            let error = parse_duration(text).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Usage, "{text:?}");
        }
        assert_eq!(print_duration(Duration::ZERO), "0s");
    }
}
