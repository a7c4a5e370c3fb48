//! Times as people type them.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use strongroom::format::parse_duration;

/// Reads a time: RFC 3339, a date, `today` or `yesterday` (both from 00:00 UTC), or how long ago, such as 2h.
///
/// # Errors
/// What may be written instead.
pub(crate) fn moment(text: &str) -> Result<Timestamp, String> {
    moment_at(text, Timestamp::now())
}

/// Reads a time that may be to come: as [`moment`], without how long ago.
///
/// # Errors
/// What may be written instead.
pub(crate) fn appointed(text: &str) -> Result<Timestamp, String> {
    match parse_duration(text) {
        Ok(_) => Err("write a time such as 2026-11-23T09:00:00Z, or a date (UTC)".into()),
        Err(_) => moment(text),
    }
}

fn moment_at(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let midnight = |date: Date| TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0));
    let today = TimeZone::UTC.to_datetime(now).date();
    let parsed = match text {
        "now" => Ok(now),
        "today" => midnight(today),
        "yesterday" => today.checked_sub(1.day()).and_then(midnight),
        _ => match (text.parse::<Timestamp>(), text.parse::<Date>(), parse_duration(text)) {
            (Ok(time), ..) => Ok(time),
            // A time without a zone is ambiguous.
            (_, Ok(date), _) if !text.contains([':', 'T']) => midnight(date),
            (_, _, Ok(ago)) => now.checked_sub(ago),
            (Err(error), ..) => Err(error),
        },
    };
    parsed.map_err(|_| {
        "write a time such as 2026-11-23T09:00:00Z, a date (UTC), today, yesterday, or how long ago, such as 2h or 7d"
            .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_absolute_or_ago() {
        let now: Timestamp = "2026-03-01T12:30:00Z".parse().unwrap();
        for (text, expected) in [
            ("2026-02-03T09:00:00Z", "2026-02-03T09:00:00Z"),
            ("2026-02-03T09:00:00+02:00", "2026-02-03T07:00:00Z"),
            ("2026-02-03", "2026-02-03T00:00:00Z"),
            ("today", "2026-03-01T00:00:00Z"),
            ("yesterday", "2026-02-28T00:00:00Z"),
            ("now", "2026-03-01T12:30:00Z"),
            ("2h", "2026-03-01T10:30:00Z"),
            ("1d 30m", "2026-02-28T12:00:00Z"),
        ] {
            assert_eq!(moment_at(text, now).unwrap().to_string(), expected, "{text}");
        }
        for bad in ["", "noon", "5", "-2h", "2026-02-03T09:00:00", "2026-02-03 09:00", "2026-02-30"]
        {
            assert!(moment_at(bad, now).is_err(), "{bad}");
        }
        // What is to come is not some time ago.
        assert!(appointed("2h").is_err() && appointed("noon").is_err());
        assert_eq!(appointed("2026-11-23").unwrap().to_string(), "2026-11-23T00:00:00Z");
    }
}
