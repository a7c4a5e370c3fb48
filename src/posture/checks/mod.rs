//! The checks, by subject. Each takes facts and gives a verdict with evidence, or says what is not known.

pub(crate) mod access;
pub(crate) mod advisory;
pub(crate) mod backups;
pub(crate) mod host;
pub(crate) mod kube;
pub(crate) mod network;
pub(crate) mod rbac;
pub(crate) mod rest;
pub(crate) mod tls;

use std::net::IpAddr;

/// Whether only this machine reaches it: an address, or a name of the loopback interface.
fn is_loopback(host: &str) -> bool {
    host.parse::<IpAddr>().map_or(host == "localhost", |address| address.is_loopback())
}
