//! Retention: which of a cluster's snapshots are kept, and why.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::period::Period;
use crate::format::{ClusterName, SnapshotId, Time};
#[cfg(feature = "cli")]
use crate::format::{parse_duration, parse_tag};

/// What to keep. A snapshot that any rule wants is kept; rules of 0 want none. Hours, days, weeks (from Monday on), months
/// and years are those of UTC; of each the newest snapshot counts, and those without one are not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[cfg_attr(feature = "cli", command(next_help_heading = "What to keep"))]
pub struct Retention {
    /// The newest N
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "prune.keep_last",
            long = "keep-last",
            value_name = "N",
            env = "STRONGROOM_KEEP_LAST",
            default_value_t = 0,
            hide_default_value = true
        )
    )]
    pub last: u32,
    /// The newest of each of the last N hours that have any
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "prune.keep_hourly",
            long = "keep-hourly",
            value_name = "N",
            env = "STRONGROOM_KEEP_HOURLY",
            default_value_t = 0,
            hide_default_value = true
        )
    )]
    pub hourly: u32,
    /// The newest of each of the last N days that have any
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "prune.keep_daily",
            long = "keep-daily",
            value_name = "N",
            env = "STRONGROOM_KEEP_DAILY",
            default_value_t = 0,
            hide_default_value = true
        )
    )]
    pub daily: u32,
    /// The newest of each of the last N weeks that have any
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "prune.keep_weekly",
            long = "keep-weekly",
            value_name = "N",
            env = "STRONGROOM_KEEP_WEEKLY",
            default_value_t = 0,
            hide_default_value = true
        )
    )]
    pub weekly: u32,
    /// The newest of each of the last N months that have any
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "prune.keep_monthly",
            long = "keep-monthly",
            value_name = "N",
            env = "STRONGROOM_KEEP_MONTHLY",
            default_value_t = 0,
            hide_default_value = true
        )
    )]
    pub monthly: u32,
    /// The newest of each of the last N years that have any
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "prune.keep_yearly",
            long = "keep-yearly",
            value_name = "N",
            env = "STRONGROOM_KEEP_YEARLY",
            default_value_t = 0,
            hide_default_value = true
        )
    )]
    pub yearly: u32,
    /// All of the last years (y), months (m), weeks (w), days (d) and hours (h), by the store's clock: 1y6m, 14d
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "prune.keep_within",
            long = "keep-within",
            value_name = "SPAN",
            env = "STRONGROOM_KEEP_WITHIN"
        )
    )]
    pub within: Option<Period>,
    /// Change journals of the last years (y), months (m), weeks (w), days (d) and hours (h), and the snapshots that a restore
    /// to any moment of this span begins with [default: journals are never removed; by an agent that records and prunes, after 7d]
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "prune.keep_continuous",
            long = "keep-continuous",
            value_name = "SPAN",
            env = "STRONGROOM_KEEP_CONTINUOUS"
        )
    )]
    pub continuous: Option<Period>,
    /// All with this tag. Repeat for several
    #[cfg_attr(
        feature = "cli",
        arg(id = "prune.keep_tag", long = "keep-tag", value_name = "TAG", value_parser = parse_tag)
    )]
    pub tags: Vec<String>,
    /// How long a removed snapshot can be brought back before its objects are deleted [default: 24h]
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "prune.grace",
            long = "grace",
            value_name = "TIME",
            env = "STRONGROOM_GRACE",
            value_parser = parse_duration
        )
    )]
    pub grace: Option<Duration>,
    /// Plan to remove every snapshot of a cluster if no rule keeps one. Otherwise its newest stays: backups that stopped
    /// must not become backups that are gone.
    #[cfg_attr(feature = "cli", arg(skip))]
    pub allow_empty: bool,
}

/// How far back the rule about a span reaches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Within {
    /// For this cluster.
    pub cluster: ClusterName,
    /// The span, before the store's clock.
    pub span: Period,
    /// When it begins.
    pub since: Time,
}

impl Within {
    pub(super) fn new(cluster: &ClusterName, span: Period, since_ms: u64) -> Self {
        let since = Time::from_unix(i64::try_from(since_ms / 1000).unwrap_or(i64::MAX));
        Self { cluster: cluster.clone(), span, since }
    }
}

/// Where a moment lies: snapshots of the same bucket stand for each other.
type Bucket = fn(u64) -> i64;

impl Retention {
    /// Whether it keeps no snapshot by a rule of its own.
    pub fn is_empty(&self) -> bool {
        let Self { grace, allow_empty, continuous, .. } = *self;
        *self == Self { grace, allow_empty, continuous, ..Self::default() }
    }

    /// Since when `within` keeps all of `ids`, in Unix milliseconds.
    pub(super) fn since_ms(
        &self,
        ids: &BTreeSet<SnapshotId>,
        clock: Option<SystemTime>,
    ) -> Option<u64> {
        let clock = clock.or(ids.last().map(|id| id.begun()))?;
        let clock = clock.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Some(self.within?.before(u64::try_from(clock.as_millis()).unwrap_or(u64::MAX)))
    }

    /// For each of `ids`, which are of one cluster, why it is kept; no reason: it is not. `within` counts back from
    /// `clock`, without one from the newest.
    pub fn keep(
        &self,
        ids: &BTreeSet<SnapshotId>,
        clock: Option<SystemTime>,
    ) -> Vec<(SnapshotId, Vec<&'static str>)> {
        let rules: [(&'static str, u32, Option<Bucket>); 6] = [
            ("last", self.last, None),
            ("hourly", self.hourly, Some(|ms| ms.cast_signed() / 3_600_000)),
            ("daily", self.daily, Some(day)),
            // The first of January 1970 was a Thursday.
            ("weekly", self.weekly, Some(|ms| (day(ms) + 3).div_euclid(7))),
            (
                "monthly",
                self.monthly,
                Some(|ms| i64::from(date(ms).year()) * 12 + i64::from(date(ms).month())),
            ),
            ("yearly", self.yearly, Some(|ms| i64::from(date(ms).year()))),
        ];
        let mut left = rules.map(|(_, count, _)| (count, None));
        let since = self.since_ms(ids, clock);
        let mut kept: Vec<_> = ids
            .iter()
            .rev()
            .map(|id| {
                let mut reasons = Vec::new();
                for ((name, _, bucket), (count, before)) in rules.iter().zip(&mut left) {
                    let now = bucket.map(|bucket| bucket(id.unix_ms()));
                    if *count > 0 && (now.is_none() || now != *before) {
                        *count -= 1;
                        *before = now;
                        reasons.push(*name);
                    }
                }
                if since.is_some_and(|since| id.unix_ms() >= since) {
                    reasons.push("within");
                }
                (*id, reasons)
            })
            .collect();
        kept.reverse();
        kept
    }
}

fn day(ms: u64) -> i64 {
    ms.cast_signed() / 86_400_000
}

fn date(ms: u64) -> Date {
    let moment = Timestamp::from_millisecond(ms.cast_signed()).unwrap_or(Timestamp::MAX);
    TimeZone::UTC.to_datetime(moment).date()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(time: &str) -> SnapshotId {
        SnapshotId::new(time.parse::<Timestamp>().unwrap().as_millisecond() as u64, [7; 10])
    }

    fn kept(retention: &Retention, times: &[&str]) -> Vec<String> {
        let ids = times.iter().map(|time| at(time)).collect();
        let kept =
            retention.keep(&ids, None).into_iter().filter(|(_, reasons)| !reasons.is_empty());
        let time =
            |id: SnapshotId| Timestamp::from_millisecond(id.unix_ms() as i64).unwrap().to_string();
        kept.map(|(id, _)| time(id)).collect()
    }

    #[test]
    fn the_newest_of_each_bucket() {
        let times = [
            "2024-02-29T23:00:00Z",
            "2025-12-28T10:00:00Z", // a Sunday
            "2025-12-29T00:00:00Z", // Monday: the week of New Year
            "2026-01-01T00:00:00Z",
            "2026-01-04T23:59:59Z", // Sunday
            "2026-01-05T00:00:00Z",
            "2026-01-05T00:30:00Z",
            "2026-01-05T01:00:00Z",
        ];
        let pick = |at: &[usize]| at.iter().map(|at| times[*at].to_owned()).collect::<Vec<_>>();
        let of = |change: fn(&mut Retention)| {
            let mut retention = Retention::default();
            change(&mut retention);
            kept(&retention, &times)
        };
        assert_eq!(of(|keep| keep.last = 2), pick(&[6, 7]));
        assert_eq!(of(|keep| keep.hourly = 2), pick(&[6, 7]));
        assert_eq!(of(|keep| keep.daily = 3), pick(&[3, 4, 7]));
        assert_eq!(of(|keep| keep.weekly = 3), pick(&[1, 4, 7]));
        assert_eq!(of(|keep| keep.monthly = 3), pick(&[0, 2, 7]));
        assert_eq!(of(|keep| keep.yearly = 9), pick(&[0, 2, 7]));
        assert_eq!(of(|keep| keep.within = Some("1d1h".parse().unwrap())), pick(&[4, 5, 6, 7]));
        assert!(of(|_| ()).is_empty());
    }

    proptest! {
        #[test]
        fn rules_only_add(times in prop::collection::btree_set(0_u64..200_000_000_000, 0..60), last in 0_u32..9, daily in 0_u32..9) {
            let ids: BTreeSet<_> = times.iter().map(|ms| SnapshotId::new(*ms, [1; 10])).collect();
            let count = |retention: &Retention| {
                retention.keep(&ids, None).into_iter().filter(|(_, reasons)| !reasons.is_empty()).map(|(id, _)| id).collect::<BTreeSet<_>>()
            };
            let a = count(&Retention { last, ..Retention::default() });
            let b = count(&Retention { daily, ..Retention::default() });
            let both = count(&Retention { last, daily, ..Retention::default() });
            prop_assert_eq!(a.len(), ids.len().min(last as usize));
            prop_assert_eq!(&a | &b, both);
            // Whoever keeps anything keeps the newest.
            for some in [a, b] {
                prop_assert!(some.is_empty() || some.last() == ids.last());
            }
        }
    }
}
