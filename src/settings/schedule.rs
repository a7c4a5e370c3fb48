//! When something is due: crontab expressions in a time zone, or a plain interval.

use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions, parse_crontab_with};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{Span, Timestamp};

use crate::error::{Error, Result};
use crate::format::parse_duration;

/// Occurrences looked at for the longest gap between two.
const LOOK_AHEAD: usize = 50;

const LONGEST: Duration = Duration::from_secs(10 * 366 * 86_400);
/// No clock is set back further at the end of daylight saving time.
const LONGEST_REPEAT: i64 = 3;

/// What crontab(5) has names for.
const NAMES: [(&str, &str); 8] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    // Every program that reads crontabs knows it, and it has no next time.
    ("@reboot", ""),
];

/// A schedule.
///
/// Five crontab fields (minute, hour, day of month, month, day of week) or a name such as `@daily`, then optionally a time
/// zone's IANA name (`0 3 * * * Europe/Berlin`; `CRON_TZ=Europe/Berlin 0 3 * * *` says the same); UTC if there is none.
/// Or `@every 15m`, counted from the last run: from a millisecond to ten years.
///
/// When clocks change, times are treated as Vixie cron does (cron(8)): work at a fixed time that is skipped is done at
/// once after the change, and in an hour that comes twice it is done once; a schedule whose minutes or hours begin with
/// `*` follows the clock through both.
#[derive(Clone, Debug)]
pub struct Schedule {
    text: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Cron(Box<Cron>),
    Every(Duration),
}

impl Schedule {
    /// So many hours after the last run.
    pub fn every_hours(hours: u32) -> Self {
        let interval = Duration::from_secs(u64::from(hours) * 3600);
        Self { text: format!("@every {hours}h"), kind: Kind::Every(interval) }
    }

    /// The first time after `last`.
    pub fn next(&self, last: SystemTime) -> SystemTime {
        match &self.kind {
            Kind::Every(interval) => last + *interval,
            // A date that never comes is refused when the schedule is parsed.
            Kind::Cron(cron) => cron.next(last).unwrap_or(last + Duration::from_secs(86_400)),
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

/// Crontab fields in a time zone.
#[derive(Clone, Debug)]
struct Cron {
    /// The fields, evaluated as if clocks never changed.
    fields: Crontab,
    zone: TimeZone,
    /// Its minutes or hours begin with `*`.
    follows_the_clock: bool,
}

impl Cron {
    fn parse(text: &str, zone: TimeZone) -> std::result::Result<Self, String> {
        let mut options = ParseOptions::default();
        options.fallback_timezone_option = FallbackTimezoneOption::UTC;
        let fields = parse_crontab_with(text, options).map_err(|error| error.to_string())?;
        let follows_the_clock = text.split_whitespace().take(2).any(|field| field.starts_with('*'));
        let cron = Self { fields, zone, follows_the_clock };
        match cron.next(SystemTime::now()) {
            Some(_) => Ok(cron),
            None => Err("the date does not exist".into()),
        }
    }

    /// The earliest moment after `last` whose local time is an occurrence.
    fn next(&self, last: SystemTime) -> Option<SystemTime> {
        let last = Timestamp::try_from(last).ok()?;
        let repeat = Span::new().hours(LONGEST_REPEAT);
        let mut local = self.zone.to_datetime(last).checked_sub(repeat).ok()?;
        let mut best: Option<Timestamp> = None;
        loop {
            local = self.occurrence_after(local)?;
            let moments = self.moments(local)?;
            let later = moments.into_iter().flatten().filter(|moment| *moment > last).min();
            best = best.into_iter().chain(later).min();
            let [first, _] = moments;
            // Occurrences that follow are not earlier than this one's first moment.
            if let (Some(best), Some(first)) = (best, first)
                && first >= best
            {
                let since = Duration::from_secs(u64::try_from(best.as_second()).ok()?);
                return UNIX_EPOCH.checked_add(since);
            }
        }
    }

    /// The next occurrence in local time.
    fn occurrence_after(&self, local: DateTime) -> Option<DateTime> {
        let from = Offset::UTC.to_timestamp(local).ok()?.as_millisecond();
        let next = self.fields.find_next(MakeTimestamp::from_millisecond(from).ok()?).ok()?;
        let next = Timestamp::from_second(next.timestamp().as_second()).ok()?;
        Some(Offset::UTC.to_datetime(next))
    }

    /// The moments at which work that is due at `local` is done: none, one or two; the first comes first.
    fn moments(&self, local: DateTime) -> Option<[Option<Timestamp>; 2]> {
        let at = |offset: Offset| offset.to_timestamp(local).ok();
        Some(match self.zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } => [Some(at(offset)?), None],
            AmbiguousOffset::Gap { .. } if self.follows_the_clock => [None, None],
            AmbiguousOffset::Gap { after, .. } => {
                // As if clocks had been changed before: a moment before they were.
                let change = self.zone.following(at(after)?).next()?;
                [Some(change.timestamp()), None]
            }
            AmbiguousOffset::Fold { before, after } => {
                [Some(at(before)?), at(after).filter(|_| self.follows_the_clock)]
            }
        })
    }
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
        let mut words: Vec<&str> = text.split_whitespace().collect();
        let mut zone = None;
        if let Some(name) = words
            .first()
            .and_then(|word| word.strip_prefix("CRON_TZ=").or(word.strip_prefix("TZ=")))
        {
            zone = Some(name.trim_matches('"'));
            words.remove(0);
        }
        let fields = match words.first().filter(|word| word.starts_with('@')) {
            Some(word) => {
                let named = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
                let (_, fields) = named.ok_or_else(|| bad(&format!("{word:?} is unknown")))?;
                if fields.is_empty() {
                    return Err(bad("it has no next time"));
                }
                words.remove(0);
                (*fields).to_owned()
            }
            None if words.len() < 5 => {
                return Err(bad("five fields are needed, and optionally a time zone"));
            }
            None => words.drain(..5).collect::<Vec<_>>().join(" "),
        };
        zone = match (zone, &words[..]) {
            (zone, []) => zone,
            (None, [name]) => Some(name),
            _ => return Err(bad("five fields are needed, and optionally one time zone")),
        };
        let zone = match zone {
            None | Some("UTC") => TimeZone::UTC,
            Some(name) => TimeZone::get(name)
                .map_err(|_| bad(&format!("the time zone {name:?} is unknown")))?,
        };
        let cron = Cron::parse(&fields, zone).map_err(|why| bad(&why))?;
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
        let sundays: Schedule = "0 4 * * 7".parse().unwrap();
        assert_eq!(sundays.next(at("2026-11-25T10:00:00Z")), at("2026-11-29T04:00:00Z"));
    }

    /// As cron(8) of Vixie cron says.
    #[test]
    fn when_clocks_change() {
        let next =
            |schedule: &str, after: &str| schedule.parse::<Schedule>().unwrap().next(at(after));
        // Berlin, 2026-03-29: 01:59:59 is followed by 03:00:00. What was skipped is done at once, and once.
        let fixed = "30 2 * * * Europe/Berlin";
        assert_eq!(next(fixed, "2026-03-28T12:00:00Z"), at("2026-03-29T01:00:00Z"));
        assert_eq!(next(fixed, "2026-03-29T01:00:00Z"), at("2026-03-30T00:30:00Z"));
        let twice = "15,45 2 * * * Europe/Berlin";
        assert_eq!(next(twice, "2026-03-29T01:00:00Z"), at("2026-03-30T00:15:00Z"));
        let hourly = "30 * * * * Europe/Berlin";
        assert_eq!(next(hourly, "2026-03-29T00:30:00Z"), at("2026-03-29T01:30:00Z"));
        // 2026-10-25: 02:59:59 is followed by 02:00:00. Fixed times come once, in the first of the two hours.
        assert_eq!(next(fixed, "2026-10-24T12:00:00Z"), at("2026-10-25T00:30:00Z"));
        assert_eq!(next(fixed, "2026-10-25T00:30:00Z"), at("2026-10-26T01:30:00Z"));
        assert_eq!(next(fixed, "2026-10-25T01:10:00Z"), at("2026-10-26T01:30:00Z"));
        for (after, then) in [("00:30", "01:30"), ("01:30", "02:30")] {
            let day = |time: &str| format!("2026-10-25T{time}:00Z");
            assert_eq!(next(hourly, &day(after)), at(&day(then)));
        }
        let quarters = "*/15 * * * * Europe/Berlin";
        let mut moment = at("2026-10-25T00:00:00Z");
        for _ in 0..12 {
            let then = next(quarters, &Timestamp::try_from(moment).unwrap().to_string());
            assert_eq!(then, moment + Duration::from_secs(900));
            moment = then;
        }
        // Lord Howe Island changes by half an hour.
        let howe = "15 2 * * * Australia/Lord_Howe";
        assert_eq!(next(howe, "2026-10-03T12:00:00Z"), at("2026-10-03T15:30:00Z"));
    }

    #[test]
    fn zones_and_names() {
        let next =
            |schedule: &str| schedule.parse::<Schedule>().unwrap().next(at("2026-11-25T10:00:00Z"));
        assert_eq!(next("@hourly"), at("2026-11-25T11:00:00Z"));
        assert_eq!(next("@daily"), at("2026-11-26T00:00:00Z"));
        assert_eq!(next("@Weekly Europe/Berlin"), at("2026-11-28T23:00:00Z"));
        assert_eq!(next("@yearly"), at("2027-01-01T00:00:00Z"));
        assert_eq!(next("CRON_TZ=Europe/Berlin 0 3 * * *"), next("0 3 * * * Europe/Berlin"));
        assert_eq!(next("TZ=UTC @daily"), next("0 0 * * * UTC"));
        for bad in [
            "@reboot",
            "@fortnightly",
            "CRON_TZ=UTC 0 3 * * * UTC",
            "0 3 * * * UTC UTC",
            "TZ= @daily",
        ] {
            let error = bad.parse::<Schedule>().unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Usage, "{bad}");
        }
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
