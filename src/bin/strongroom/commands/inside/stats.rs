//! `stats`

use std::process::ExitCode;

use strongroom::Result;
use strongroom::contents::{Group, Groups, KUBERNETES_ROOTS, KeyInUse, Stats, stats as read_stats};
use strongroom::text::printable;

use super::{Context, raw};
use crate::args::StatsArgs;
use crate::output::{bytes, table};

/// So many prefixes are shown to a person.
const SHOWN: usize = 40;

pub(in crate::commands) async fn stats(args: StatsArgs, context: &Context) -> Result<ExitCode> {
    let depth = args.depth.into();
    let groups = if args.kubernetes_prefix.is_empty() {
        Groups::new(KUBERNETES_ROOTS, depth)
    } else {
        Groups::new(args.kubernetes_prefix.iter().map(|root| raw(root)), depth)
    };
    let looked = context.look(&args.which, move |inside| read_stats(&inside.db, &groups)).await?;
    let stats = &looked.answer;
    warnings(stats).iter().for_each(|warning| context.output.warn(warning));
    context.output.result(&looked, || text(stats))?;
    if !stats.keys_in_use.is_empty() {
        context.output.note(
            "next: keep every key of the last table where a restore finds it; without it these values cannot be read",
        );
    }
    context.output.note(&looked.cost());
    Ok(ExitCode::SUCCESS)
}

fn is_secrets(group: &&Group) -> bool {
    group.resource.as_deref() == Some(b"secrets")
}

fn warnings(stats: &Stats) -> Vec<String> {
    let secrets = || stats.groups.iter().filter(is_secrets);
    let unencrypted: u64 = secrets().map(|group| group.unencrypted).sum();
    let before: u64 = secrets().map(|group| group.unencrypted_before).sum();
    let unknown: u64 = stats.groups.iter().map(|group| group.unknown).sum();
    let mut warnings = Vec::new();
    if unencrypted > 0 {
        warnings.push(format!(
            "Kubernetes stores {unencrypted} Secrets unencrypted: anyone who can read etcd or its files can read them; configure encryption at rest and write them again"
        ));
    } else if before > 0 {
        warnings.push(format!(
            "{before} Secrets are unencrypted in earlier revisions: compact and defragment etcd"
        ));
    }
    if unknown > 0 {
        warnings.push(format!(
            "{unknown} values start with k8s:enc: but are not in a format of any known version of Kubernetes"
        ));
    }
    if stats.kubernetes_elsewhere > 0 {
        warnings.push(format!(
            "{} values are Kubernetes', in keys outside its prefix: give it with --kubernetes-prefix",
            stats.kubernetes_elsewhere
        ));
    }
    warnings
}

fn text(stats: &Stats) -> String {
    let size = |pages: u64| bytes(pages.saturating_mul(stats.page_size.into()));
    let summary = [
        ("revisions", format!("{} to {}", stats.compact_revision.max(1), stats.revision)),
        (
            "keys",
            format!(
                "{} in {}, {} attached to a lease",
                stats.keys,
                bytes(stats.bytes),
                stats.leased_keys
            ),
        ),
        ("changes", format!("{}, {} of them deletions", stats.records, stats.deletions)),
        ("leases", stats.leases.to_string()),
        (
            "database",
            format!(
                "{}, {} ({} %) in free pages",
                size(stats.pages),
                size(stats.free_pages),
                stats.free_pages.saturating_mul(100) / stats.pages.max(1)
            ),
        ),
    ];
    let summary = summary.map(|(name, value)| vec![name.to_owned(), value]);
    let mut text = table(&["", ""], &[], summary.into()).trim_start().to_owned();
    text.push('\n');
    text.push_str(&groups_text(stats));
    if !stats.largest.is_empty() {
        let row = |large: &strongroom::contents::Large| {
            vec![bytes(large.value_bytes), large.revision.to_string(), printable(&large.key)]
        };
        text.push('\n');
        let rows = stats.largest.iter().map(row).collect();
        text.push_str(&table(&["LARGEST", "REVISION", "KEY"], &[0, 1], rows));
    }
    if !stats.keys_in_use.is_empty() {
        let row = |(key, now, all): &(KeyInUse, u64, u64)| {
            let id = key.key_id.clone().unwrap_or("-".into());
            let provider = format!("{} {}", key.provider, key.version);
            vec![provider, key.name.clone(), id, now.to_string(), all.to_string()]
        };
        text.push('\n');
        let rows = stats.keys_in_use.iter().map(row).collect();
        let header = ["PROVIDER", "KEY NAME", "KEY ID", "VALUES", "OF ALL CHANGES"];
        text.push_str(&table(&header, &[3, 4], rows));
    }
    text
}

fn groups_text(stats: &Stats) -> String {
    let kubernetes = stats.groups.iter().any(|group| group.resource.is_some());
    let row = |group: &Group| {
        let name = if group.prefix.is_empty() { "(no /)".into() } else { printable(&group.prefix) };
        let mut row = vec![
            name,
            group.keys.to_string(),
            bytes(group.bytes),
            group.records.to_string(),
            bytes(group.record_bytes),
        ];
        let protection = [group.unencrypted, group.encrypted, group.unencrypted_before];
        if kubernetes && group.resource.is_some() {
            row.extend(protection.map(|count| count.to_string()));
        } else if kubernetes {
            row.extend(protection.map(|_| "-".to_owned()));
        }
        row
    };
    let header = [
        "PREFIX",
        "KEYS",
        "BYTES",
        "CHANGES",
        "CHANGE BYTES",
        "UNENCRYPTED",
        "ENCRYPTED",
        "UNENCRYPTED BEFORE",
    ];
    let columns = if kubernetes { header.len() } else { 5 };
    let header = header.get(..columns).unwrap_or_default();
    let rows = stats.groups.iter().take(SHOWN).map(row).collect();
    let mut text = table(header, &[1, 2, 3, 4, 5, 6, 7], rows);
    let more = stats.groups.len().saturating_sub(SHOWN);
    if more > 0 {
        text.push_str(&format!("and {more} more: -w json lists them\n"));
    }
    text
}
