//! Each row of the table: versions that it is of and is not of, and what its condition changes.

use super::*;
use crate::posture::advisories::{Advisory, Condition, Release};

fn release(text: &str) -> Release {
    Release::parse(text).unwrap()
}

fn rows() -> Vec<Advisory> {
    Advisories::built_in().unwrap().rows().to_vec()
}

#[test]
fn each_range_begins_and_ends() {
    for row in rows() {
        for (from, fixed) in row.bounds() {
            let (from, fixed) = (release(from), release(fixed));
            assert!(row.affects(&from) && !row.affects(&fixed), "{}: {from} to {fixed}", row.id);
        }
        for line in &row.unfixed_lines {
            assert!(row.affects(&release(&format!("{line}.99"))), "{}: {line}", row.id);
        }
        for newer in ["3.7.3", "3.8.0", "4.0.0"] {
            assert!(!row.affects(&release(newer)), "{}: {newer}", row.id);
        }
    }
}

/// Facts with which the condition holds, and with which it does not. None for what is not measured.
fn changes(condition: Condition) -> Option<(Change, Change)> {
    fn leave(_: &mut Facts) {}
    fn only_root(facts: &mut Facts) {
        change(&mut facts.cluster.users, |users| users.truncate(1));
    }
    Some(match condition {
        Condition::Always => return Some((leave, leave)),
        Condition::AuthOn => (leave, |facts| facts.cluster.auth = known(false)),
        Condition::NonrootUser => (leave, only_root),
        Condition::NonrootRead | Condition::NonrootWrite => {
            (leave, |facts| facts.cluster.roles = known(Vec::new()))
        }
        Condition::TlsOffLoopback => (leave, |facts| {
            first(facts).host = "127.0.0.1".into();
            change(&mut facts.cluster.members, |members| {
                members[0].client_urls = vec!["https://127.0.0.1:2379".into()];
                members[0].peer_urls = vec!["https://127.0.0.1:2380".into()];
            });
        }),
        Condition::PlainHttp => {
            (|facts| first(facts).plain = known(Plain::Etcd("3.4.0".into())), leave)
        }
        Condition::PprofOn => {
            (|facts| change(&mut first(facts).pages, |pages| pages.pprof = Ok(true)), leave)
        }
        Condition::WeakSuites => (
            |facts| change(&mut first(facts).offers, |offers| offers.weak.push(("RC4-SHA", "RC4"))),
            leave,
        ),
        Condition::HttpUrlsAndCrl | Condition::GatewayProcess | Condition::Unstated => return None,
    })
}

/// The severity of a row, in the first version of its range.
fn severity(row: &Advisory, changes: &[Change]) -> Severity {
    let mut facts = good();
    let from = row.bounds().next().unwrap().0.to_owned();
    first(&mut facts).version = known(from);
    changes.iter().for_each(|change| change(&mut facts));
    let report = judged(&facts);
    let title = format!("{}: ", row.id);
    let found = report.checks.iter().find(|one| one.title.starts_with(&title));
    found.unwrap_or_else(|| panic!("{}", row.id)).severity
}

#[test]
fn each_condition_counts() {
    for row in rows() {
        let conditions: Vec<_> = row.conditions().collect();
        let holding: Vec<_> =
            conditions.iter().filter_map(|one| changes(*one)).map(|(holds, _)| holds).collect();
        assert_eq!(severity(&row, &holding), row.severity, "{}", row.id);
        for condition in conditions.iter().filter(|one| **one != Condition::Always) {
            let Some((_, fails)) = changes(*condition) else { continue };
            let mut with: Vec<_> = conditions
                .iter()
                .filter(|one| *one != condition)
                .filter_map(|one| changes(*one))
                .map(|(holds, _)| holds)
                .collect();
            with.push(fails);
            assert_eq!(severity(&row, &with), Severity::Low, "{} {condition:?}", row.id);
        }
    }
}
