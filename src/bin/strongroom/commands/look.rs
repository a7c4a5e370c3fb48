//! `snapshots` and `show`

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::{Map, Value};
use strongroom::Result;
use strongroom::backup::{Details, Summary, judged, snapshots as snapshots_of};
use strongroom::custody::{self, MasterKeyUri};
use strongroom::format::{EtcdFacts, KeyId, Part};
use strongroom::keys::trust::Standing;

use super::Context;
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
        0 => "no snapshots; take one with `strongroom backup`".into(),
        1 => "1 snapshot".into(),
        n => format!("{n} snapshots"),
    });
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
    let document = document(&details, &names);
    let text = table(&["", ""], &[], rows(&details, &document, &names));
    context.output.result(document, || text.trim_start().to_owned())?;
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
                let keys = custody::open(std::slice::from_ref(uri), None).await;
                for id in keys.map(|keys| keys.ids()).unwrap_or_default() {
                    names.entry(id).or_insert_with(|| uri.to_string());
                }
            }
        }
    }
    names
}

/// A document for people: a line for each of its fields that is known.
fn rows(
    details: &Details,
    document: &Map<String, Value>,
    names: &BTreeMap<KeyId, String>,
) -> Vec<Vec<String>> {
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
    let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    let known = document.iter().filter(|(key, value)| {
        !value.is_null() && !is_empty(value) && !matches!(key.as_str(), "keys_given")
    });
    let name = |key: &str| key.trim_end_matches("_bytes").replace('_', " ");
    known.map(|(key, value)| vec![name(key), text(key, value)]).collect()
}

fn document(details: &Details, names: &BTreeMap<KeyId, String>) -> Map<String, Value> {
    let manifest = details.manifest.body();
    let given = details.sealed_by.iter().filter(|id| names.contains_key(id));
    let given = given.map(ToString::to_string).collect::<Vec<_>>();
    let companions = manifest.object(&Part::Companions).map(|object| object.length);
    let ids = |ids: &[KeyId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
    let fields = [
        ("id", Value::from(manifest.snapshot.to_string())),
        ("cluster", manifest.cluster.as_str().into()),
        ("created", created(manifest.snapshot).into()),
        ("revision", manifest.revision.into()),
        ("database_bytes", manifest.database_bytes.into()),
        ("stored_bytes", details.stored_bytes.into()),
        ("origin", manifest.origin.to_string().into()),
        ("tool", manifest.tool.clone().into()),
        ("previous", manifest.previous.map(|one| one.snapshot.to_string()).into()),
        ("tags", manifest.tags.clone().into()),
        ("seal_generation", details.generation.into()),
        ("sealed_by", ids(&details.sealed_by).into()),
        ("keys_given", given.into()),
        ("companions_bytes", companions.into()),
        ("included", manifest.included.clone().into()),
        ("opened_by", details.opened_by.map(|id| id.to_string()).into()),
        ("trust", details.standing.to_string().into()),
    ];
    let facts = etcd(details.facts.as_ref().map(|facts| &facts.etcd));
    fields.into_iter().chain(facts).map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What only a key shows; null without one.
fn etcd(facts: Option<&EtcdFacts>) -> [(&'static str, Value); 12] {
    let hex = |id: u64| Value::from(format!("{id:016x}"));
    let members = |ids: &[u64]| ids.iter().copied().map(hex).collect::<Vec<_>>();
    let hash = facts.and_then(|facts| facts.hash_kv.as_ref());
    [
        ("compact_revision", facts.map(|facts| facts.compact_revision).into()),
        ("raft_term", facts.map(|facts| facts.raft_term).into()),
        ("raft_index", facts.map(|facts| facts.raft_index).into()),
        ("etcd_version", facts.and_then(|facts| facts.version.clone()).into()),
        ("storage_version", facts.and_then(|facts| facts.storage_version.clone()).into()),
        ("member_name", facts.and_then(|facts| facts.member_name.clone()).into()),
        ("member_id", facts.and_then(|facts| facts.member_id).map(hex).into()),
        ("etcd_cluster_id", facts.and_then(|facts| facts.cluster_id).map(hex).into()),
        ("hash_kv", hash.map(|hash| hash.hash).into()),
        ("hash_kv_revision", hash.map(|hash| hash.revision).into()),
        ("hash_kv_agreed_by", hash.map(|hash| members(&hash.agreed_by)).into()),
        ("hash_kv_differing", hash.map(|hash| members(&hash.differing)).into()),
    ]
}
