//! How many calls and logins etcd refused, as its metrics count them.

use std::collections::BTreeMap;

use crate::format::Time;

/// The codes of calls without the right.
const CODES: [&str; 2] = ["Unauthenticated", "PermissionDenied"];
/// What a report says of the count, by which the next audit finds it.
const WORDS: &str = " refused calls since ";

/// The refused calls of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) count: u64,
    /// When its process began.
    pub(crate) since: Time,
}

/// What an earlier audit saw.
#[derive(Clone, Debug)]
pub(crate) struct Earlier {
    pub(crate) at: Time,
    /// By endpoint.
    pub(crate) refused: BTreeMap<String, Refused>,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{WORDS}{}", self.count, self.since)
    }
}

impl Refused {
    /// From etcd's metrics. A login with a wrong password has another code than the calls.
    pub(crate) fn of_metrics(text: &str) -> Option<Self> {
        let value = |line: &str| line.rsplit_once(' ')?.1.parse::<f64>().ok();
        let start = text.lines().find(|line| line.starts_with("process_start_time_seconds "))?;
        let (mut count, mut counted) = (0.0, false);
        for line in text.lines().filter(|line| line.starts_with("grpc_server_handled_total{")) {
            counted = true;
            let code = line.split_once("grpc_code=\"")?.1.split('"').next()?;
            let is_login = line.contains("grpc_method=\"Authenticate\"") && code != "OK";
            // 3.4 and 3.5 refuse calls of Maintenance so (server/etcdserver/api/v3rpc/maintenance.go).
            let is_maintenance =
                code == "Unknown" && line.contains("grpc_service=\"etcdserverpb.Maintenance\"");
            if is_login || is_maintenance || CODES.contains(&code) {
                count += value(line)?;
            }
        }
        let since = Time::from_unix(value(start)? as i64);
        counted.then_some(Self { count: count as u64, since })
    }

    /// From what [`Display`](std::fmt::Display) wrote somewhere in `text`.
    pub(crate) fn of_report(text: &str) -> Option<Self> {
        let (before, after) = text.split_once(WORDS)?;
        let count = before.rsplit(|one: char| !one.is_ascii_digit()).next()?.parse().ok()?;
        // Always as long, in seconds.
        let since = after.get(.."2026-11-27T08:00:00Z".len())?;
        Some(Self { count, since: since.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "# HELP x y\nprocess_start_time_seconds 1.7957639e+09\n\
        grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 90\n\
        grpc_server_handled_total{grpc_code=\"PermissionDenied\",grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 3\n\
        grpc_server_handled_total{grpc_code=\"InvalidArgument\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 4\n\
        grpc_server_handled_total{grpc_code=\"InvalidArgument\",grpc_method=\"Authenticate\",grpc_service=\"etcdserverpb.Auth\",grpc_type=\"unary\"} 5\n\
        grpc_server_handled_total{grpc_code=\"Unknown\",grpc_method=\"Snapshot\",grpc_service=\"etcdserverpb.Maintenance\",grpc_type=\"server_stream\"} 1\n\
        grpc_server_handled_total{grpc_code=\"Unknown\",grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 6\n";

    #[test]
    fn what_metrics_count() {
        let found = Refused::of_metrics(METRICS).unwrap();
        assert_eq!((found.count, found.since.unix()), (9, 1_795_763_900));
        let line = format!("unknown: {found}: no earlier audit");
        assert_eq!(Refused::of_report(&line), Some(found));
        for text in [found.to_string(), format!("+3 (5; {found}; x)")] {
            assert_eq!(Refused::of_report(&text), Some(found), "{text}");
        }
        for bad in ["", "etcd_server_id 1", "process_start_time_seconds 1\n"] {
            assert_eq!(Refused::of_metrics(bad), None, "{bad}");
        }
        for bad in
            ["", WORDS, "a refused calls since 2026-11-27T08:00:00Z", "1 refused calls since x"]
        {
            assert_eq!(Refused::of_report(bad), None, "{bad}");
        }
    }
}
