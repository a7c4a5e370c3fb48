//! `key list`, and what it and `key custody` know of the keys

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use serde_json::{Value, json};
use strongroom::Result;
use strongroom::backup::{KeyUsage, Proof, Proofs, key_usage, proofs};
use strongroom::custody::keyfile;
use strongroom::custody::{self, MasterKeyUri, open_public, passphrase_keys};
use strongroom::format::{KeyId, KeyState, Time};
use strongroom::keys::{DependsOn, KeySet, SigningKey, Strength};
use strongroom::store::Repository;
use strongroom::text::counted;

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
    /// What takes it away; none for a signer.
    depends_on: Option<DependsOn>,
}

impl Row {
    /// A key that the repository's seals name, and that is not given.
    fn elsewhere(id: KeyId) -> Self {
        Self {
            kind: None,
            state: "elsewhere",
            since: None,
            place: None,
            can_open: Some(false),
            quantum_weak: false,
            depends_on: Some(DependsOn::Elsewhere(id)),
        }
    }

    fn signer(state: &'static str, place: String) -> Self {
        Self {
            kind: Some("signer"),
            state,
            since: None,
            place: Some(place),
            can_open: Some(false),
            quantum_weak: false,
            depends_on: None,
        }
    }

    /// A key that is given, and what it may do.
    fn given(keys: &KeySet, id: KeyId, kind: &'static str, place: String) -> Self {
        Self {
            kind: Some(kind),
            state: keys.state(id).map_or("", KeyState::name),
            since: None,
            place: Some(place),
            can_open: Some(keys.holds(id)),
            quantum_weak: keys.strength(id) == Some(Strength::QuantumWeak),
            depends_on: Some(keys.depends_on(id)),
        }
    }
}

/// What is known of the keys.
#[derive(Default)]
pub(super) struct Known {
    rows: BTreeMap<KeyId, Row>,
    /// Those that no person has to be asked for; none without a repository.
    pub(super) keys: KeySet,
    pub(super) usage: KeyUsage,
    pub(super) proofs: Proofs,
}

impl Known {
    pub(super) async fn read(context: &Context, repository: Option<&Repository>) -> Result<Self> {
        let mut known = Self::default();
        for path in context.settings.keyring_paths() {
            known.add_keyring(path)?;
        }
        known.add_public(context)?;
        known.add_others(context).await?;
        if let Some(repository) = repository {
            known.read_repository(context, repository).await?;
        }
        // Its copy is elsewhere: the owner says so.
        let recovery = context.settings.recovery;
        if let Some(row) = recovery.and_then(|id| known.rows.get_mut(&id)) {
            row.depends_on = recovery.map(DependsOn::Elsewhere);
        }
        Ok(known)
    }

    fn add_keyring(&mut self, path: &std::path::Path) -> Result<()> {
        let mut keys = KeySet::new();
        let (keyring, now) = (keyfile::load(path)?, keyfile::now());
        keys.add_keyring(&keyring, now);
        for (id, state, since) in keyring.list(now) {
            let row = Row::given(&keys, id, "local", path.display().to_string());
            let can_open = Some(state != KeyState::Destroyed);
            let (state, depends_on) = (state.name(), Some(DependsOn::Host));
            self.rows.insert(id, Row { since: Some(since), can_open, state, depends_on, ..row });
        }
        Ok(())
    }

    /// The public keys that are configured, and the signers.
    fn add_public(&mut self, context: &Context) -> Result<()> {
        let mut all = KeySet::new();
        for uri in context.settings.master_keys().filter(|uri| uri.is_public()) {
            let mut keys = KeySet::new();
            open_public(uri, &mut keys)?;
            let place = match uri {
                MasterKeyUri::Recipient(_) | MasterKeyUri::Plugin(_) => "configuration".into(),
                other => other.to_string(),
            };
            for id in keys.ids() {
                let holds = keys.holds(id);
                let kind = if holds { "identity" } else { "recipient" };
                // One that is given as both opens.
                if holds || !self.rows.contains_key(&id) {
                    self.rows.insert(id, Row::given(&keys, id, kind, place.clone()));
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
            let row = Row::signer(state, signer.name.clone().unwrap_or_default());
            // Of one that is given twice, that it is revoked counts.
            if state == "revoked" || !self.rows.contains_key(&signer.key.id()) {
                self.rows.insert(signer.key.id(), row);
            }
        }
        Ok(())
    }

    /// Keys of services.
    async fn add_others(&mut self, context: &Context) -> Result<()> {
        let is_file_or_word =
            |uri: &MasterKeyUri| matches!(uri, MasterKeyUri::File(_) | MasterKeyUri::Passphrase(_));
        let others = context.settings.master_keys();
        for uri in others.filter(|uri| !uri.is_public() && !is_file_or_word(uri)) {
            let environment = context.settings.environment()?;
            let keys = custody::open_in(&environment, std::slice::from_ref(uri), None).await?;
            for id in keys.ids() {
                self.rows.insert(id, Row::given(&keys, id, "service", uri.to_string()));
            }
        }
        Ok(())
    }

    async fn read_repository(&mut self, context: &Context, repository: &Repository) -> Result<()> {
        for id in passphrase_keys(repository).await?.into_keys() {
            let named = context.settings.passphrases().flatten().find(|named| named.id == id);
            // Its state is what the configuration says.
            let state = named.map_or(KeyState::Retired, |named| match named.retiring {
                true => KeyState::Retiring,
                false => KeyState::Sealing,
            });
            let row = Row {
                kind: Some("passphrase"),
                state: state.name(),
                place: Some("repository".into()),
                can_open: None,
                depends_on: Some(DependsOn::Passphrase),
                ..Row::elsewhere(id)
            };
            self.rows.insert(id, row);
        }
        self.keys = context.settings.open_keys_unasked(repository).await?;
        self.usage = key_usage(repository, &self.keys).await?;
        self.proofs = proofs(repository, &self.keys, &[]).await?;
        let named = self.usage.named.keys().filter(|_| self.usage.unknown > 0);
        for id in self.usage.opens.keys().chain(named) {
            self.rows.entry(*id).or_insert_with(|| Row::elsewhere(*id));
        }
        Ok(())
    }

    /// What of `keys` no single loss takes together.
    pub(super) fn independent<'a>(&self, keys: impl Iterator<Item = &'a KeyId>) -> usize {
        let of = |id: &KeyId| match self.rows.get(id) {
            Some(row) => row.depends_on.clone(),
            None => Some(DependsOn::Elsewhere(*id)),
        };
        keys.filter_map(of).collect::<BTreeSet<_>>().len()
    }

    /// A count of what a key opens; none if its seals are not verified here.
    fn opens(&self, id: &KeyId) -> Option<usize> {
        match self.usage.opens.get(id) {
            None if self.usage.unknown > 0 && self.usage.named.contains_key(id) => None,
            count => Some(count.copied().unwrap_or(0)),
        }
    }

    fn alone(&self, id: &KeyId) -> usize {
        self.usage.only.get(id).map_or(0, Vec::len)
    }

    pub(super) fn json(&self) -> Vec<Value> {
        let at = |proof: Option<&Proof>| proof.map(|proof| proof.report.created());
        let json = |(id, row): (&KeyId, &Row)| {
            let opens = self.opens(id);
            json!({
                "id": id, "type": row.kind, "state": row.state, "since": row.since,
                "place": row.place, "opens": opens, "only_key_of": opens.map(|_| self.alone(id)),
                "by_older_key": self.usage.older.get(id).copied().unwrap_or(0),
                "named": self.usage.named.get(id).copied().unwrap_or(0),
                "can_open": row.can_open, "quantum_weak": row.quantum_weak,
                "depends_on": row.depends_on.as_ref().map(ToString::to_string),
                "verified": at(self.proofs.verified(*id)), "tested": at(self.proofs.proven(*id)),
            })
        };
        self.rows.iter().map(json).collect()
    }

    pub(super) fn table(&self) -> String {
        let day = |proof: Option<&Proof>| {
            let day = proof.map(|proof| proof.report.created().to_string());
            day.unwrap_or_default().chars().take(10).collect::<String>()
        };
        let row = |(id, row): (&KeyId, &Row)| {
            let number = |count: Option<usize>| count.map_or("?".into(), |count| count.to_string());
            let opens = self.opens(id);
            vec![
                id.to_string(),
                row.kind.unwrap_or("-").into(),
                row.state.into(),
                row.since.map(|since| since.to_string()).unwrap_or_default(),
                number(opens),
                number(opens.map(|_| self.alone(id))),
                day(self.proofs.verified(*id)),
                day(self.proofs.proven(*id)),
                row.place.clone().unwrap_or_default(),
            ]
        };
        let header =
            ["KEY", "TYPE", "STATE", "SINCE", "OPENS", "ALONE", "VERIFIED", "TESTED", "WHERE"];
        table(&header, &[4, 5], self.rows.iter().map(row).collect())
    }

    /// What the operator should look at.
    pub(super) fn findings(&self) -> Vec<String> {
        let mut findings = self.usage.unreadable.clone();
        for (id, _) in self.rows.iter().filter(|(_, row)| row.quantum_weak) {
            findings
                .push(format!("key {id} is X25519: a quantum computer opens what is sealed to it"));
        }
        let alone: usize = self.usage.only.values().map(Vec::len).sum();
        if alone > 0 {
            findings.push(format!("only one key opens {}", counted(alone, "snapshot")));
        }
        for (id, count) in &self.usage.older {
            findings.push(format!(
                "an older key at the service of key {id} seals {}: `strongroom key reseal --all` seals them by the present \
                 one, as long as the service still opens them",
                counted(count, "snapshot")
            ));
        }
        if self.usage.unknown > 0 {
            findings.push(format!(
                "no key here opens {}: which keys do is not verified, their seals may name others",
                counted(self.usage.unknown, "snapshot")
            ));
        }
        if self.usage.untrusted > 0 {
            findings.push(format!(
                "not counted, because not trusted: {}",
                counted(self.usage.untrusted, "snapshot")
            ));
        }
        findings
    }
}

pub(super) async fn run(context: &Context) -> Result<ExitCode> {
    let repository = match context.settings.repository.url {
        Some(_) => Some(context.repository().await?),
        None => None,
    };
    let known = Known::read(context, repository.as_ref()).await?;
    context.output.result(known.json(), || known.table())?;
    known.findings().iter().for_each(|finding| context.output.warn(finding));
    let given = |row: &Row| row.kind.is_some_and(|kind| kind != "signer");
    if known.rows.values().any(given) && known.rows.values().all(|row| row.can_open == Some(false))
    {
        context.output.note("this host is blind: no key that is given opens");
    }
    Ok(ExitCode::SUCCESS)
}
