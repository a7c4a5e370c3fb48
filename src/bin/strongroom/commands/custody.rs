//! `key custody`

use std::collections::BTreeSet;
use std::process::ExitCode;

use serde_json::{Value, json};
use strongroom::Result;
use strongroom::backup::{Newest, Proof};
use strongroom::custody::keyfile;
use strongroom::format::{ClusterName, KeyId, SnapshotId};
use strongroom::keys::Recipient;

use super::list::Known;
use super::{Context, FINDINGS};
use crate::output::table;

/// One cluster in the report on custody.
struct OfCluster<'a> {
    cluster: &'a ClusterName,
    newest: &'a Newest,
    independent: Option<usize>,
    /// The recovery key, if it is declared and does not open the newest snapshot.
    declared_recovery: Option<KeyId>,
    /// The keys that were proven with a snapshot of it.
    proven: Vec<(KeyId, SnapshotId)>,
}

impl<'a> OfCluster<'a> {
    fn new(
        known: &Known,
        cluster: &'a ClusterName,
        newest: &'a Newest,
        recovery: Option<KeyId>,
    ) -> Self {
        let opens = |key: KeyId| newest.keys.as_ref().is_none_or(|keys| keys.contains(&key));
        let of_it = |proof: &&Proof| {
            proof.is_proven && proof.cluster.as_ref() == Some(cluster) && opens(proof.key)
        };
        let proven = known.proofs.all.iter().filter(of_it);
        let keys = newest.keys.as_ref();
        Self {
            cluster,
            newest,
            independent: keys.map(|keys| known.independent(keys.iter())),
            declared_recovery: recovery.filter(|id| keys.is_some_and(|keys| !keys.contains(id))),
            proven: proven.map(|proof| (proof.key, proof.report)).collect(),
        }
    }

    fn json(&self) -> Value {
        let proven = |(key, report): &(KeyId, SnapshotId)| json!({"key": key, "at": report.created(), "report": report});
        json!({
            "cluster": self.cluster.as_str(), "snapshot": self.newest.id, "keys": self.newest.keys,
            "independent": self.independent, "declared_recovery": self.declared_recovery, "tested": self.proven.iter().map(proven).collect::<Vec<_>>(),
        })
    }

    fn row(&self) -> Vec<String> {
        let keys = self.newest.keys.as_ref().map(BTreeSet::len);
        let number = |count: Option<usize>| count.map_or("?".into(), |count| count.to_string());
        vec![
            self.cluster.to_string(),
            self.newest.id.to_string(),
            number(keys),
            number(self.independent),
            self.proven.len().to_string(),
        ]
    }

    fn findings(&self) -> Vec<String> {
        let Self { cluster, newest, .. } = self;
        let mut findings = Vec::new();
        match self.independent {
            None => findings.push(format!(
                "cluster {cluster}: which keys open {} is unknown here: run this where a key is that opens it",
                newest.id
            )),
            Some(ways) if ways < 2 => findings.push(format!(
                "cluster {cluster}: one loss takes every key that opens {}: seal to a key that depends on another place, passphrase or service",
                newest.id
            )),
            Some(_) => {}
        }
        if let Some(key) = self.declared_recovery {
            findings.push(format!(
                "cluster {cluster}: the recovery key {key} does not open {}, so it is not counted: `strongroom key reseal {}` with it or its recipient adds it",
                newest.id, newest.id
            ));
        }
        if self.proven.is_empty() {
            findings.push(format!(
                "cluster {cluster}: no key was tested with a snapshot of it (`strongroom key prove`)"
            ));
        }
        findings
    }
}

/// The report on custody, for auditors.
pub(super) async fn run(context: &Context) -> Result<ExitCode> {
    let repository = context.repository().await?;
    let known = Known::read(context, Some(&repository)).await?;
    let recovery = context.settings.recovery;
    let named = context.settings.passphrases().flatten().filter(|named| !named.retiring);
    let seals_to: BTreeSet<KeyId> =
        known.keys.sealing().map(Recipient::id).chain(named.map(|named| named.id)).collect();
    let of = |(cluster, newest)| OfCluster::new(&known, cluster, newest, recovery);
    let clusters: Vec<_> = known.usage.newest.iter().map(of).collect();
    let mut findings = known.findings();
    findings.extend(clusters.iter().flat_map(OfCluster::findings));
    if !known.proofs.complete {
        findings.push("only the newest 1000 reports that count were looked at".into());
    }
    let json = json!({
        "repository": repository.id().to_string(), "made": keyfile::now(),
        "seals_to": seals_to, "independent": known.independent(seals_to.iter()),
        "blind": context.settings.is_blind(), "keys": known.json(),
        "clusters": clusters.iter().map(OfCluster::json).collect::<Vec<_>>(),
        "unknown": known.usage.unknown, "untrusted": known.usage.untrusted, "findings": findings,
    });
    context.output.result(json, || {
        let header = ["CLUSTER", "NEWEST", "KEYS", "INDEPENDENT", "TESTED"];
        let rows = clusters.iter().map(OfCluster::row).collect();
        format!("{}\n{}", known.table(), table(&header, &[2, 3, 4], rows))
    })?;
    findings.iter().for_each(|finding| context.output.warn(finding));
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FINDINGS) })
}
