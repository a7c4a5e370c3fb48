//! `key list`

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::json;
use strongroom::Result;
use strongroom::backup::{KeyUsage, key_usage};
use strongroom::custody::keyfile;
use strongroom::custody::{MasterKeyUri, open_public, passphrase_keys};
use strongroom::format::{KeyId, KeyState, Time};
use strongroom::keys::{KeySet, SigningKey, Strength};

use super::Context;
use crate::output::table;

/// One line of `key list`.
struct Row {
    kind: Option<&'static str>,
    state: &'static str,
    since: Option<Time>,
    place: Option<String>,
    /// Whether it opens here; unknown for a key behind a passphrase, which is not asked for.
    can_open: Option<bool>,
    quantum_weak: bool,
}

impl Row {
    /// A key that the repository's seals name, and that is not given.
    const ELSEWHERE: Self = Self {
        kind: None,
        state: "elsewhere",
        since: None,
        place: None,
        can_open: Some(false),
        quantum_weak: false,
    };

    fn new(kind: &'static str, state: &'static str, place: String) -> Self {
        Self { kind: Some(kind), state, place: Some(place), can_open: None, ..Self::ELSEWHERE }
    }
}

/// The public keys that are configured, and the signers.
fn add_public(rows: &mut BTreeMap<KeyId, Row>, context: &Context) -> Result<()> {
    let mut all = KeySet::new();
    for uri in context.settings.master_keys().filter(|uri| uri.is_public()) {
        let mut keys = KeySet::new();
        open_public(uri, &mut keys)?;
        let place = match uri {
            MasterKeyUri::Recipient(_) => "configuration".into(),
            other => other.to_string(),
        };
        for id in keys.ids() {
            let holds = keys.holds(id);
            let kind = if holds { "identity" } else { "recipient" };
            let state = keys.state(id).map_or("", KeyState::name);
            let row = Row {
                can_open: Some(holds),
                quantum_weak: keys.strength(id) == Some(Strength::QuantumWeak),
                ..Row::new(kind, state, place.clone())
            };
            // One that is given as both opens.
            if holds || !rows.contains_key(&id) {
                rows.insert(id, row);
            }
        }
        keys.signers().iter().for_each(|signer| all.trust(signer.clone()));
    }
    context.settings.trust.add_to(&mut all)?;
    let own = all.signing().map(SigningKey::public);
    for signer in all.signers() {
        let state = match signer.revoked {
            Some(_) => "revoked",
            None if own == Some(signer.key) => "signing",
            None => "trusted",
        };
        let place = signer.name.clone().unwrap_or_default();
        let row = Row { can_open: Some(false), ..Row::new("signer", state, place) };
        // Of one that is given twice, that it is revoked counts.
        if state == "revoked" || !rows.contains_key(&signer.key.id()) {
            rows.insert(signer.key.id(), row);
        }
    }
    Ok(())
}

pub(super) async fn list(context: &Context) -> Result<ExitCode> {
    let mut rows = BTreeMap::new();
    for path in context.settings.keyring_paths() {
        let keyring = keyfile::load(path)?;
        for (id, state, since) in keyring.list(keyfile::now()) {
            let row = Row::new("local", state.name(), path.display().to_string());
            let can_open = Some(state != KeyState::Destroyed);
            rows.insert(id, Row { since: Some(since), can_open, ..row });
        }
    }
    add_public(&mut rows, context)?;
    let mut usage = KeyUsage::default();
    if context.settings.repository.url.is_some() {
        let repository = context.repository().await?;
        for id in passphrase_keys(&repository).await?.into_keys() {
            let named = context.settings.passphrases().flatten().find(|named| named.id == id);
            // Its state is what the configuration says.
            let state = named.map_or(KeyState::Retired, |named| match named.retiring {
                true => KeyState::Retiring,
                false => KeyState::Sealing,
            });
            rows.insert(id, Row::new("passphrase", state.name(), "repository".into()));
        }
        usage = key_usage(&repository).await?;
        for id in usage.named.keys() {
            rows.entry(*id).or_insert(Row::ELSEWHERE);
        }
        usage.unreadable.iter().for_each(|what| context.output.warn(what));
    }
    print_list(&rows, &usage, context)?;
    Ok(ExitCode::SUCCESS)
}

fn print_list(rows: &BTreeMap<KeyId, Row>, usage: &KeyUsage, context: &Context) -> Result<()> {
    let opens = |id: &KeyId| usage.opens.get(id).copied().unwrap_or(0);
    let only = |id: &KeyId| usage.only.get(id).map_or(0, Vec::len);
    let json = rows.iter().map(|(id, row)| {
        json!({
            "id": id, "type": row.kind, "state": row.state, "since": row.since,
            "place": row.place, "opens": opens(id), "only_key_of": only(id),
            "can_open": row.can_open, "quantum_weak": row.quantum_weak,
        })
    });
    context.output.result(json.collect::<Vec<_>>(), || {
        let row = |(id, row): (&KeyId, &Row)| {
            let counts = [opens(id), only(id)].map(|count| count.to_string());
            let [opens, only] = counts;
            vec![
                id.to_string(),
                row.kind.unwrap_or("-").into(),
                row.state.into(),
                row.since.map(|since| since.to_string()).unwrap_or_default(),
                opens,
                only,
                row.place.clone().unwrap_or_default(),
            ]
        };
        let header = ["KEY", "TYPE", "STATE", "SINCE", "OPENS", "ALONE", "WHERE"];
        table(&header, &[4, 5], rows.iter().map(row).collect())
    })?;
    for (id, _) in rows.iter().filter(|(_, row)| row.quantum_weak) {
        context
            .output
            .warn(&format!("key {id} is X25519: a quantum computer opens what is sealed to it"));
    }
    let given = rows.values().any(|row| row.kind.is_some_and(|kind| kind != "signer"));
    if given && rows.values().all(|row| row.can_open == Some(false)) {
        context.output.note("this host is blind: no key that is given opens");
    }
    let alone: usize = usage.only.values().map(Vec::len).sum();
    if alone > 0 {
        context.output.warn(&format!("{alone} snapshot(s) open with only one key"));
    }
    Ok(())
}
