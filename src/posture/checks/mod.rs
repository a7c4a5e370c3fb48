//! The checks, by subject. Each takes facts and gives a verdict with evidence, or says what is not known.

pub(crate) mod access;
pub(crate) mod advisory;
pub(crate) mod backups;
pub(crate) mod host;
pub(crate) mod kube;
pub(crate) mod monitoring;
pub(crate) mod network;
pub(crate) mod rbac;
pub(crate) mod rest;
pub(crate) mod tls;

use std::fmt::Display;
use std::net::IpAddr;

use url::Url;

use super::fact::Unknown;
use crate::format::Time;

/// How far the clock of a snapshot or report may be ahead of this host's.
const MAX_AHEAD: i64 = 300;

/// How many seconds old `what` is.
///
/// # Errors
/// That a clock is wrong: how old it is, is not known.
pub(crate) fn age_of(what: impl Display, created: Time, now: Time) -> Result<i64, Unknown> {
    let age = now.unix().saturating_sub(created.unix());
    match age < -MAX_AHEAD {
        true => Err(Unknown(format!("{what} is dated {created}, after this host's clock"))),
        false => Ok(age.max(0)),
    }
}

/// Whether only this machine reaches it: an address, or a name of the loopback interface.
fn is_loopback(host: &str) -> bool {
    host.parse::<IpAddr>().map_or(host == "localhost", |address| address.is_loopback())
}

/// Whether a URL is of more than the loopback interface; also one that cannot be read.
fn is_far(url: &str) -> bool {
    let parsed = Url::parse(url).ok();
    let host = parsed.as_ref().and_then(Url::host_str);
    host.is_none_or(|host| !is_loopback(host.trim_matches(['[', ']'])))
}

fn is_http(url: &str) -> bool {
    url.split_once(':').is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("http"))
}
