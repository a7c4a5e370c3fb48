//! Points in time as text objects write them: `YYYY-MM-DDTHH:MM:SSZ` (SPEC.md §0.3).

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

const DAY: i64 = 86_400;

/// A second of the Gregorian calendar in UTC, of the years 0000 to 9999; no leap second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(i64);

impl Time {
    /// The first and the last that can be written.
    const FIRST: i64 = -62_167_219_200;
    const LAST: i64 = 253_402_300_799;

    /// The time so many seconds after 1970-01-01T00:00:00Z, or the nearest that can be written.
    #[must_use]
    pub const fn from_unix(seconds: i64) -> Self {
        match seconds {
            ..Self::FIRST => Self(Self::FIRST),
            Self::FIRST..=Self::LAST => Self(seconds),
            _ => Self(Self::LAST),
        }
    }

    /// Seconds after 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn unix(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = date(self.0.div_euclid(DAY));
        let second = self.0.rem_euclid(DAY);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

impl FromStr for Time {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let at = |from: usize, to: usize| {
            let digits = text.get(from..to)?;
            digits.bytes().all(|c| c.is_ascii_digit()).then(|| digits.parse::<i64>().ok())?
        };
        let read = || {
            let day = days(at(0, 4)?, at(5, 7)?, at(8, 10)?);
            Some(Self(day * DAY + at(11, 13)? * 3600 + at(14, 16)? * 60 + at(17, 19)?))
        };
        // One form only: a 30th of February or an hour 24 does not print as it was read.
        read().filter(|time| time.to_string() == text).ok_or_else(|| {
            Error::tampered("a time has the form YYYY-MM-DDTHH:MM:SSZ and is a real date in UTC")
        })
    }
}

/// Days from 1970-01-01 to a date, by Howard Hinnant's `days_from_civil`: years begin in March, eras have 400.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year.div_euclid(400) * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The inverse of [`days`].
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = (from_march + 2) % 12 + 1;
    let year = days.div_euclid(146_097) * 400 + year + i64::from(month <= 2);
    (year, month, of_year - (153 * from_march + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn calendar() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2001-09-09T01:46:40Z", 1_000_000_000),
            ("2024-02-29T00:00:00Z", 1_709_164_800),
            ("0000-01-01T00:00:00Z", Time::FIRST),
            ("9999-12-31T23:59:59Z", Time::LAST),
        ] {
            assert_eq!(text.parse::<Time>().unwrap().unix(), seconds, "{text}");
            assert_eq!(Time::from_unix(seconds).to_string(), text);
        }
        assert_eq!(Time::from_unix(i64::MAX).unix(), Time::LAST);
        for bad in [
            "",
            "2100-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-04-30T24:00:00Z",
            "2026-04-30T00:60:00Z",
            "2026-04-30T00:00:60Z",
            "2026-04-30 00:00:00Z",
            "2026-04-30T00:00:00",
            "2026-04-30T00:00:00ZZ",
            "+026-04-30T00:00:00Z",
            "2026-04-30T00:00:00z",
            "2026-04-3éT00:00:00Z",
        ] {
            assert!(bad.parse::<Time>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_time_round_trips_and_orders_as_its_text(a in Time::FIRST..=Time::LAST, b in Time::FIRST..=Time::LAST) {
            let (a, b) = (Time(a), Time(b));
            prop_assert_eq!(a.to_string().parse::<Time>().unwrap(), a);
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "[0-9TZ:-]{0,24}") {
            let _ = text.parse::<Time>();
        }
    }
}
