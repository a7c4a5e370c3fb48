//! `snapshots` and `show`

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::Value;
use strongroom::Result;
use strongroom::backup::{Details, Summary, journals, judged, snapshots as snapshots_of};
use strongroom::custody::{self, MasterKeyUri};
use strongroom::format::{ClusterName, EtcdFacts, KeyId, Part, SnapshotId, Time, Uuid};
use strongroom::keys::KeySet;
use strongroom::keys::trust::Standing;
use strongroom::text::counted;

use super::Context;
use super::journal::coverage;
use crate::args::ShowArgs;
use crate::output::{Dated, age, bytes, created, short_ids, table};

pub(super) async fn snapshots(tags: &[String], context: &Context) -> Result<ExitCode> {
    let repository = context.repository().await?;
    // Passphrases are not asked for: a list is no reason to type one.
    let keys = context.settings.open_keys_unasked(&repository).await?;
    let cluster = context.settings.cluster.as_ref();
    let mut listing = match keys.can_vouch() || !keys.is_blind() {
        true => judged(&repository, &keys, cluster).await?,
        false => snapshots_of(&repository, cluster).await?,
    };
    let wanted = |one: &Summary| tags.is_empty() || one.tags.iter().any(|tag| tags.contains(tag));
    listing.snapshots.retain(wanted);
    listing.findings.iter().for_each(|finding| context.output.warn(finding));
    let documents = listing.snapshots.iter().map(|summary| Dated::new(summary, summary.id));
    context.output.result(documents.collect::<Vec<_>>(), || {
        let tagged = listing.snapshots.iter().any(|one| !one.tags.is_empty());
        let ids: Vec<_> = listing.snapshots.iter().map(|summary| summary.id).collect();
        let row = |(summary, id): (&Summary, String)| {
            let mut row = vec![
                id,
                summary.cluster.to_string(),
                created(summary.id),
                age(summary.id),
                summary.revision.to_string(),
                bytes(summary.database_bytes),
                bytes(summary.stored_bytes),
                summary.standing.to_string(),
            ];
            row.extend(tagged.then(|| summary.tags.join(", ")));
            row
        };
        let mut header =
            vec!["ID", "CLUSTER", "CREATED", "AGE", "REVISION", "DATABASE", "STORED", "TRUST"];
        header.extend(tagged.then_some("TAGS"));
        let rows = listing.snapshots.iter().zip(short_ids(&ids)).map(row);
        table(&header, &[3, 4, 5, 6], rows.collect())
    })?;
    context.output.note(&match listing.snapshots.len() {
        0 if !tags.is_empty() => "no snapshot has that tag".into(),
        0 => "no snapshots; take one with `strongroom backup`".into(),
        n => counted(n, "snapshot"),
    });
    // Without a key that opens, nothing is known of journals.
    if !keys.is_blind() {
        match journals(&repository, &keys, cluster).await {
            Ok(covered) => coverage(&covered).iter().for_each(|line| context.output.note(line)),
            Err(error) => context.output.warn(&format!("journals are not listed: {error}")),
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn show(args: ShowArgs, context: &Context) -> Result<ExitCode> {
    let repository = context.repository().await?;
    let mut keys = context.master_keys(&repository).await?;
    let id = context.find(&repository, &mut keys, &args.which).await?;
    let details = strongroom::backup::show(&repository, &keys, id).await?;
    details.findings.iter().for_each(|finding| context.output.warn(finding));
    if details.facts.is_none() && details.standing.counts() {
        context.output.note("a trusted signature vouches for it; no available key opens it");
    } else if details.facts.is_none() {
        context.output.warn("no available key opens it: the following is not authenticated");
    } else if details.standing != Standing::Counts {
        context.output.warn(&format!("the snapshot is {}", details.standing));
    }
    let names = key_names(context).await;
    let document = Document::new(&details, &names);
    context.output.result(&document, || {
        let fields = serde_json::to_value(&document).unwrap_or_default();
        table(&["", ""], &[], rows(&details, &fields, &names)).trim_start().to_owned()
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Where each master key is that the settings name. A keyring that cannot be read was reported before.
async fn key_names(context: &Context) -> BTreeMap<KeyId, String> {
    let mut names = BTreeMap::new();
    for uri in context.settings.master_keys() {
        match uri {
            MasterKeyUri::Passphrase(None) => {}
            MasterKeyUri::Passphrase(Some(named)) => drop(names.insert(named.id, uri.to_string())),
            _ => {
                let mut keys = KeySet::new();
                let opened = match uri.is_public() {
                    true => custody::open_public(uri, &mut keys),
                    false => {
                        let environment = context.settings.environment().unwrap_or_default();
                        let uris = std::slice::from_ref(uri);
                        let opened = custody::open_in(&environment, uris, None).await;
                        opened.map(|opened| keys = opened)
                    }
                };
                for id in opened.map(|()| keys.ids()).unwrap_or_default() {
                    names.entry(id).or_insert_with(|| uri.to_string());
                }
            }
        }
    }
    names
}

/// A document for people: a line for each of its fields that is known.
fn rows(details: &Details, document: &Value, names: &BTreeMap<KeyId, String>) -> Vec<Vec<String>> {
    let named = |id: &KeyId| match names.get(id) {
        Some(name) => format!("{id} ({name})"),
        None => format!("{id} (not given)"),
    };
    let text = |key: &str, value: &Value| match value {
        Value::String(text) if key == "created" => {
            format!("{text} ({} ago)", age(details.manifest.body().snapshot))
        }
        Value::String(text) => text.clone(),
        Value::Array(_) if key == "sealed_by" => {
            details.sealed_by.iter().map(named).collect::<Vec<_>>().join(", ")
        }
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
        }
        other => match other.as_u64().filter(|_| key.ends_with("_bytes")) {
            Some(count) => format!("{} ({count} bytes)", bytes(count)),
            None => other.to_string(),
        },
    };
    let fields = document.as_object().into_iter().flatten();
    let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    let known = fields.filter(|(key, value)| {
        !value.is_null() && !is_empty(value) && key.as_str() != "keys_given"
    });
    let name = |key: &str| key.trim_end_matches("_bytes").replace('_', " ");
    known.map(|(key, value)| vec![name(key), text(key, value)]).collect()
}

/// The JSON document of a snapshot.
#[derive(Serialize)]
struct Document<'a> {
    id: SnapshotId,
    cluster: &'a ClusterName,
    created: Time,
    revision: u64,
    database_bytes: u64,
    stored_bytes: u64,
    origin: Uuid,
    tool: &'a str,
    previous: Option<SnapshotId>,
    replaces: Option<SnapshotId>,
    tags: &'a [String],
    included: &'a [String],
    companions_bytes: Option<u64>,
    seal_generation: u32,
    sealed_by: &'a [KeyId],
    /// Those of `sealed_by` that the settings name.
    keys_given: Vec<KeyId>,
    opened_by: Option<KeyId>,
    trust: Standing,
    #[serde(flatten)]
    etcd: Etcd<'a>,
}

/// What only a key shows; null without one.
#[derive(Default, Serialize)]
struct Etcd<'a> {
    compact_revision: Option<u64>,
    raft_term: Option<u64>,
    raft_index: Option<u64>,
    etcd_version: Option<&'a str>,
    storage_version: Option<&'a str>,
    member_name: Option<&'a str>,
    member_id: Option<String>,
    etcd_cluster_id: Option<String>,
    hash_kv: Option<u32>,
    hash_kv_revision: Option<u64>,
    hash_kv_agreed_by: Option<Vec<String>>,
    hash_kv_differing: Option<Vec<String>>,
}

impl<'a> Document<'a> {
    fn new(details: &'a Details, names: &BTreeMap<KeyId, String>) -> Self {
        let given = details.sealed_by.iter().filter(|id| names.contains_key(id));
        let manifest = details.manifest.body();
        Self {
            id: manifest.snapshot,
            cluster: &manifest.cluster,
            created: manifest.snapshot.created(),
            revision: manifest.revision,
            database_bytes: manifest.database_bytes,
            stored_bytes: details.stored_bytes,
            origin: manifest.origin,
            tool: &manifest.tool,
            previous: manifest.previous.map(|one| one.snapshot),
            replaces: manifest.replaces,
            tags: &manifest.tags,
            included: &manifest.included,
            companions_bytes: manifest.object(&Part::Companions).map(|object| object.length),
            seal_generation: details.generation,
            sealed_by: &details.sealed_by,
            keys_given: given.copied().collect(),
            opened_by: details.opened_by,
            trust: details.standing,
            etcd: details.facts.as_ref().map(|facts| Etcd::new(&facts.etcd)).unwrap_or_default(),
        }
    }
}

impl<'a> Etcd<'a> {
    fn new(facts: &'a EtcdFacts) -> Self {
        let hex = |id: u64| format!("{id:016x}");
        let members = |ids: &[u64]| ids.iter().copied().map(hex).collect();
        let hash = facts.hash_kv.as_ref();
        Self {
            compact_revision: Some(facts.compact_revision),
            raft_term: Some(facts.raft_term),
            raft_index: Some(facts.raft_index),
            etcd_version: facts.version.as_deref(),
            storage_version: facts.storage_version.as_deref(),
            member_name: facts.member_name.as_deref(),
            member_id: facts.member_id.map(hex),
            etcd_cluster_id: facts.cluster_id.map(hex),
            hash_kv: hash.map(|hash| hash.hash),
            hash_kv_revision: hash.map(|hash| hash.revision),
            hash_kv_agreed_by: hash.map(|hash| members(&hash.agreed_by)),
            hash_kv_differing: hash.map(|hash| members(&hash.differing)),
        }
    }
}
