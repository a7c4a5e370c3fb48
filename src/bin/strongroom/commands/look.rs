//! `snapshots` and `show`

use std::process::ExitCode;

use serde_json::{Value, json};
use strongroom::Result;
use strongroom::backup::{Details, Summary, judge, snapshots as snapshots_of};
use strongroom::format::{EtcdFacts, KeyId};
use strongroom::keys::trust::Standing;

use super::Context;
use crate::args::ShowArgs;
use crate::output::{bytes, created, table};

pub(super) async fn snapshots(context: &Context) -> Result<ExitCode> {
    let repository = context.repository().await?;
    // Passphrases are not asked for: a list is no reason to type one.
    let keys = context.keyrings().await?;
    let mut listing = snapshots_of(&repository, context.settings.cluster.as_ref()).await?;
    if !keys.is_empty() {
        judge(&repository, &keys, &mut listing).await?;
    }
    listing.findings.iter().for_each(|finding| context.output.warn(finding));
    let json = |summary: &Summary| {
        json!({
            "id": summary.id.to_string(),
            "cluster": summary.cluster.as_str(),
            "created": created(summary.id),
            "revision": summary.revision,
            "database_bytes": summary.database_bytes,
            "stored_bytes": summary.stored_bytes,
            "trust": summary.standing.to_string(),
        })
    };
    context.output.result(listing.snapshots.iter().map(json).collect(), || {
        let row = |summary: &Summary| {
            vec![
                summary.id.to_string(),
                summary.cluster.to_string(),
                created(summary.id),
                summary.revision.to_string(),
                bytes(summary.database_bytes),
                bytes(summary.stored_bytes),
                summary.standing.to_string(),
            ]
        };
        let header = ["ID", "CLUSTER", "CREATED", "REVISION", "DATABASE", "STORED", "TRUST"];
        table(&header, &[3, 4, 5], listing.snapshots.iter().map(row).collect())
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
    if details.facts.is_none() {
        context.output.warn("no key that is available opens it: what follows is not authenticated");
    } else if details.standing != Standing::Counts {
        context.output.warn(&format!("the snapshot is {}", details.standing));
    }
    let json = json(&details);
    let rows = |json: &Value| {
        let Some(map) = json.as_object() else { return Vec::new() };
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Array(items) if items.iter().all(Value::is_string) => {
                items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
            }
            other => other.to_string(),
        };
        map.iter().map(|(key, value)| vec![key.replace('_', " "), text(value)]).collect()
    };
    let text = table(&["", ""], &[], rows(&json));
    context.output.result(json, || text.trim_start().to_owned())?;
    Ok(ExitCode::SUCCESS)
}

fn json(details: &Details) -> Value {
    let manifest = details.manifest.body();
    let ids = |ids: &[KeyId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut json = json!({
        "id": manifest.snapshot.to_string(),
        "cluster": manifest.cluster.as_str(),
        "created": created(manifest.snapshot),
        "revision": manifest.revision,
        "database_bytes": manifest.database_bytes,
        "stored_bytes": details.stored_bytes,
        "origin": manifest.origin.to_string(),
        "tool": manifest.tool,
        "seal_generation": details.generation,
        "sealed_by": ids(&details.sealed_by),
        "opened_by": details.opened_by.map(|id| id.to_string()),
        "trust": details.standing.to_string(),
    });
    if let (Some(facts), Some(map)) = (&details.facts, json.as_object_mut()) {
        etcd(&facts.etcd, map);
    }
    json
}

fn etcd(facts: &EtcdFacts, map: &mut serde_json::Map<String, Value>) {
    let hex = |id: u64| Value::from(format!("{id:016x}"));
    let known = [
        ("compact_revision", Some(facts.compact_revision.into())),
        ("raft_term", Some(facts.raft_term.into())),
        ("raft_index", Some(facts.raft_index.into())),
        ("etcd_version", facts.version.clone().map(Value::from)),
        ("storage_version", facts.storage_version.clone().map(Value::from)),
        ("member_name", facts.member_name.clone().map(Value::from)),
        ("member_id", facts.member_id.map(hex)),
        ("etcd_cluster_id", facts.cluster_id.map(hex)),
    ];
    map.extend(known.into_iter().filter_map(|(key, value)| Some((key.into(), value?))));
    if let Some(hash) = &facts.hash_kv {
        let members = |ids: &[u64]| ids.iter().copied().map(hex).collect::<Vec<_>>();
        map.insert("hash_kv".into(), hash.hash.into());
        map.insert("hash_kv_revision".into(), hash.revision.into());
        map.insert("hash_kv_agreed_by".into(), members(&hash.agreed_by).into());
        map.insert("hash_kv_differing".into(), members(&hash.differing).into());
    }
}
