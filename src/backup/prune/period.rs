//! Spans of the calendar, as retention counts them: `1y6m`, `14d`.

use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

use crate::error::{Error, Result};

/// Years, months, weeks, days and hours of the calendar in UTC, as restic writes them: `1y6m`, `14d`, `2w12h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Period {
    /// Years.
    pub years: u16,
    /// Months.
    pub months: u16,
    /// Weeks.
    pub weeks: u16,
    /// Days.
    pub days: u16,
    /// Hours.
    pub hours: u16,
}

impl Period {
    /// The moment so long before `ms`, both in Unix milliseconds; 0 for what is before 1970.
    #[must_use]
    pub fn before(self, ms: u64) -> u64 {
        let utc = TimeZone::UTC;
        let back = || {
            let at = Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
            let back = utc.to_datetime(at).checked_sub(self.span()?).ok()?;
            u64::try_from(utc.to_timestamp(back).ok()?.as_millisecond()).ok()
        };
        back().unwrap_or(0)
    }

    fn span(self) -> Option<Span> {
        let span = Span::new().try_years(self.years).ok()?.try_months(self.months).ok()?;
        let span = span.try_weeks(self.weeks).ok()?.try_days(self.days).ok()?;
        span.try_hours(self.hours).ok()
    }

    fn parts(&mut self) -> [(&'static str, &'static str, &mut u16); 5] {
        [
            ("y", "year", &mut self.years),
            ("m", "month", &mut self.months),
            ("w", "week", &mut self.weeks),
            ("d", "day", &mut self.days),
            ("h", "hour", &mut self.hours),
        ]
    }
}

impl FromStr for Period {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        const UNITS: &str =
            "write years, months, weeks, days and hours: y, m, w, d, h, such as 1y6m or 14d";
        let bad = |why: &str| Error::usage(format!("invalid span {text:?}: {why}")).hint(UNITS);
        let (mut period, mut rest) = (Self::default(), text.trim());
        if rest.is_empty() {
            return Err(bad("it is empty"));
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (number, after) = rest.split_at(digits);
            let end = after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len());
            let (unit, after) = after.split_at(end);
            let number: u16 = match number.parse() {
                Ok(number) => number,
                Err(_) if number.is_empty() => return Err(bad("a number is missing")),
                Err(_) => return Err(bad("it is too long")),
            };
            let mut parts = period.parts();
            let Some((_, _, part)) = parts.iter_mut().find(|(name, ..)| *name == unit) else {
                return Err(bad(&wrong_unit(unit)));
            };
            **part = part.checked_add(number).ok_or_else(|| bad("it is too long"))?;
            rest = after.trim_start();
        }
        if period == Self::default() {
            return Err(bad("it is 0"));
        }
        // No calendar has more than ten thousand years.
        period
            .span()
            .filter(|_| period.years < 10_000)
            .map(|_| period)
            .ok_or_else(|| bad("it is too long"))
    }
}

/// What to write instead of a unit that another program may take, or that would be read for another.
fn wrong_unit(unit: &str) -> String {
    match unit {
        "" => "a unit is missing".into(),
        "M" | "mo" | "month" | "months" => format!("{unit:?} is not a unit: m is months"),
        "min" | "mins" | "minute" | "minutes" | "s" | "sec" | "ms" => {
            format!("{unit:?} is not a unit here: h, hours, is the smallest, and m is months")
        }
        _ => format!("{unit:?} is not a unit"),
    }
}

impl serde::Serialize for Period {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl fmt::Display for Period {
    /// In words: `1 year, 6 months`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut copy = *self;
        let parts = copy.parts().map(|(_, name, count)| (name, *count));
        let words = parts
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| format!("{count} {name}{}", if count == 1 { "" } else { "s" }));
        f.write_str(&words.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(time: &str) -> u64 {
        time.parse::<Timestamp>().unwrap().as_millisecond() as u64
    }

    #[test]
    fn spans_of_the_calendar() {
        for (span, words, back) in [
            ("6m", "6 months", "2025-11-30T12:00:00Z"),
            ("1y6m", "1 year, 6 months", "2024-11-30T12:00:00Z"),
            ("3m", "3 months", "2026-02-28T12:00:00Z"),
            ("2w1d", "2 weeks, 1 day", "2026-05-16T12:00:00Z"),
            ("36h", "36 hours", "2026-05-30T00:00:00Z"),
            ("1d 12h", "1 day, 12 hours", "2026-05-30T00:00:00Z"),
        ] {
            let period: Period = span.parse().unwrap();
            assert_eq!(period.to_string(), words);
            assert_eq!(period.before(ms("2026-05-31T12:00:00Z")), ms(back), "{span}");
        }
        assert_eq!("9000y".parse::<Period>().unwrap().before(ms("2026-05-31T12:00:00Z")), 0);
    }

    #[test]
    fn other_units_are_refused_by_name() {
        for (span, why) in [
            ("6M", "m is months"),
            ("90min", "h, hours, is the smallest"),
            ("30s", "h, hours, is the smallest"),
            ("500ms", "h, hours, is the smallest"),
            ("6", "a unit is missing"),
            ("d", "a number is missing"),
            ("-1d", "a number is missing"),
            ("0d", "it is 0"),
            ("", "it is empty"),
            ("99999d", "too long"),
            ("20000y", "too long"),
            ("6x", "\"x\" is not a unit"),
        ] {
            let error = span.parse::<Period>().unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Usage);
            assert!(error.to_string().contains(why), "{span}: {error}");
        }
    }
}
