//! The one integration binary.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    dead_code,
    missing_docs,
    unreachable_pub
)]

#[cfg(feature = "age-plugins")]
mod age_plugins;
mod agent;
mod agent_journal;
mod agent_soak;
mod audit;
mod audit_hosts;
mod audit_log;
mod audit_outputs;
mod audit_tls;
#[cfg(feature = "aws-kms")]
mod aws_kms;
mod blind;
mod bolt;
mod broken_etcd;
mod certificates;
mod cli;
mod companions;
mod contents;
mod copy;
mod custody;
mod datadir;
mod deploy;
mod drill;
mod end_to_end;
mod etcd;
mod faulty;
mod frozen_vectors;
mod full_disk;
mod histories;
mod hostile;
mod journal;
mod journal_base;
mod journal_bundle;
mod journal_clock;
mod journal_copy;
mod journal_disagrees;
mod journal_faults;
mod journal_kills;
mod journal_prune;
mod journal_reading;
mod journal_soak;
mod journal_stall;
mod journal_store;
mod journal_vectors;
mod json_shapes;
mod key_kinds;
mod key_runbooks;
mod keys;
mod kill;
mod kms_faults;
mod kms_kubernetes;
mod kms_plugin;
#[cfg(all(feature = "aws-kms", feature = "pkcs11", feature = "vault"))]
mod kms_plugin_service;
mod kms_stanza_vectors;
mod kms_values;
mod kms_vectors;
mod layers;
mod manifests;
mod many_snapshots;
mod member;
mod members;
mod memory_image;
mod mvcc;
mod operators;
mod packages;
mod paper;
#[cfg(feature = "pkcs11")]
mod pkcs11;
mod planted_files;
mod planted_journals;
mod planted_objects;
mod planted_seals;
mod program;
mod program_on_azure;
mod program_on_s3;
mod program_on_stores;
mod program_to_cluster;
mod program_value;
mod proxy_answers;
mod proxy_apiservers;
mod proxy_audit;
mod proxy_bounds;
mod proxy_chaos;
mod proxy_clients;
mod proxy_conformance;
mod proxy_effects;
mod proxy_gate;
mod proxy_go;
mod proxy_health;
mod proxy_histories;
mod proxy_hostile;
mod proxy_identity;
mod proxy_kubernetes;
mod proxy_languages;
mod proxy_messages;
mod proxy_not_etcd;
mod proxy_pages;
mod proxy_range_stream;
mod proxy_raw;
mod proxy_service;
mod proxy_start;
mod proxy_tenants;
mod prune;
mod random_history;
mod roles;
mod runbooks;
mod s3_gateway;
mod service_log;
mod settings;
mod setup_auth;
mod slow_store;
mod support;
mod targets;
mod terminal;
mod to_cluster;
mod transit;
mod trust;
mod units;
mod untested_etcd;
mod upgrade;
mod value_keys;
mod value_languages;
mod value_phases;
mod value_vectors;
mod vectors;
mod walks;
mod words;

use support::{
    behind, etcd_server, fake_etcd, kms, kms_fault, place, proxied, raw, s3_server, transit_double,
};
