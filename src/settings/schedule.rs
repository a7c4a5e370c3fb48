//! When something is due: crontab expressions in a time zone, or a plain interval.

use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cronexpr::{Crontab, MakeTimestamp, parse_crontab};

use crate::error::{Error, Result};
use crate::format::parse_duration;

/// Occurrences looked at for the longest gap between two.
const LOOK_AHEAD: usize = 50;

const LONGEST: Duration = Duration::from_secs(10 * 366 * 86_400);

/// A schedule.
///
/// Five crontab fields (minute, hour, day of month, month, day of week) and a time zone's IANA name, UTC if there is none:
/// `0 3 * * * Europe/Berlin`. Or `@every 15m`, counted from the last run: from a millisecond to ten years.
#[derive(Clone, Debug)]
pub struct Schedule {
    text: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Cron(Box<Crontab>),
    Every(Duration),
}

impl Schedule {
    /// The first time after `last`.
    pub fn next(&self, last: SystemTime) -> SystemTime {
        match &self.kind {
            Kind::Every(interval) => last + *interval,
            // A date that never comes is refused when the schedule is parsed.
            Kind::Cron(cron) => next(cron, last).unwrap_or(last + Duration::from_secs(86_400)),
        }
    }

    /// The longest time between two runs, among the next after `now`.
    pub fn longest_interval(&self, now: SystemTime) -> Duration {
        let mut longest = Duration::ZERO;
        let mut at = self.next(now);
        for _ in 0..LOOK_AHEAD {
            let next = self.next(at);
            longest = longest.max(next.duration_since(at).unwrap_or_default());
            at = next;
        }
        longest
    }
}

fn next(cron: &Crontab, last: SystemTime) -> Option<SystemTime> {
    let last = last.duration_since(UNIX_EPOCH).ok()?;
    let from = MakeTimestamp::from_millisecond(i64::try_from(last.as_millis()).ok()?).ok()?;
    let next = cron.find_next(from).ok()?.timestamp().as_second();
    Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(next).ok()?))
}

impl std::fmt::Display for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Schedule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Error::usage(format!("invalid schedule {text:?}: {why}"))
                .hint("write \"0 3 * * * Europe/Berlin\" or \"@every 15m\"")
        };
        if let Some(interval) = text.strip_prefix("@every ") {
            let interval = parse_duration(interval).map_err(|error| bad(&error.to_string()))?;
            if interval > LONGEST {
                return Err(bad("the interval is longer than ten years"));
            }
            return Ok(Self { text: text.to_owned(), kind: Kind::Every(interval) });
        }
        let fields: Vec<_> = text.split_whitespace().collect();
        let whole = match fields.len() {
            5 => format!("{} UTC", fields.join(" ")),
            6 => fields.join(" "),
            _ => return Err(bad("five fields are needed, and optionally a time zone")),
        };
        let cron = parse_crontab(&whole).map_err(|error| bad(&error.to_string()))?;
        if next(&cron, SystemTime::now()).is_none() {
            return Err(bad("the date does not exist"));
        }
        Ok(Self { text: text.to_owned(), kind: Kind::Cron(Box::new(cron)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: &str) -> SystemTime {
        let ms = time.parse::<jiff::Timestamp>().unwrap().as_millisecond();
        UNIX_EPOCH + Duration::from_millis(ms as u64)
    }

    #[test]
    fn hours_and_zones() {
        let hourly: Schedule = "0 * * * *".parse().unwrap();
        assert_eq!(hourly.next(at("2026-11-25T10:00:00Z")), at("2026-11-25T11:00:00Z"));
        assert_eq!(hourly.longest_interval(at("2026-11-25T10:30:00Z")).as_secs(), 3600);
        let berlin: Schedule = "0 3 * * * Europe/Berlin".parse().unwrap();
        assert_eq!(berlin.next(at("2026-11-25T10:00:00Z")), at("2026-11-26T02:00:00Z"));
        assert_eq!(berlin.next(at("2026-07-01T10:00:00Z")), at("2026-07-02T01:00:00Z"));
        // The night without half past two.
        let gap: Schedule = "30 2 * * * Europe/Berlin".parse().unwrap();
        assert!(gap.next(at("2026-03-28T12:00:00Z")) <= at("2026-03-30T00:30:00Z"));
        let sundays: Schedule = "0 4 * * 7".parse().unwrap();
        assert_eq!(sundays.next(at("2026-11-25T10:00:00Z")), at("2026-11-29T04:00:00Z"));
    }

    #[test]
    fn intervals() {
        let now = at("2026-11-25T10:00:00Z");
        for (text, seconds) in [("@every 15m", 900), ("@every 1h30m", 5400), ("@every 1d", 86_400)]
        {
            let schedule: Schedule = text.parse().unwrap();
            assert_eq!(schedule.next(now), now + Duration::from_secs(seconds));
            assert_eq!(schedule.to_string(), text);
        }
    }

    #[test]
    fn what_is_none() {
        for text in [
            "",
            "* * * *",
            "61 * * * *",
            "0 0 31 2 *",
            "0 3 * * * Mars/Olympus",
            "@daily",
            "@every",
            "@every 0s",
            "@every -5m",
            "@every 18446744073709551615s",
        ] {
            let error = text.parse::<Schedule>().unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Usage, "{text}");
        }
    }
}
