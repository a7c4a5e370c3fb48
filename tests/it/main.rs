//! The integration tests.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![allow(dead_code, reason = "the servers offer what any test may need")]

mod bolt;
mod etcd;
mod etcd_server;
mod fake_etcd;
