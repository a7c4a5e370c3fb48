//! The master keys that a command was given, each with what it may do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[cfg(feature = "backup")]
use super::signing::{PublicSigner, trusted_for};
use super::signing::{SignedBy, Signer, SigningKey, signed_by, unsigned_refused, would_not_count};
use super::{DependsOn, Identity, Keyring, Recipient, Strength, check_strengths};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{ClusterName, KeyId, KeyState, Seal, Stanza, Time};

/// The keys that a command was given, those that seal and those that open, and the state of each.
#[derive(Default)]
pub struct KeySet {
    pub(super) recipients: Vec<Arc<dyn Recipient>>,
    identities: Vec<Arc<dyn Identity>>,
    states: BTreeMap<KeyId, KeyState>,
    sources: Vec<ReadStates>,
    accept_untrusted: bool,
    signers: Vec<Signer>,
    signing: Option<Arc<SigningKey>>,
    mix_quantum_weak: bool,
    passphrases: BTreeSet<KeyId>,
    asks_unsigned: bool,
    sparing: bool,
    pub(super) required: Vec<KeyId>,
    pub(super) min_sealers: usize,
}

/// Reads the present states of keys from where they are kept.
pub type ReadStates = Arc<dyn Fn() -> Result<Vec<(KeyId, KeyState)>> + Send + Sync>;

impl KeySet {
    /// No keys yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key that seals and opens, in `state`. Of a key that is given twice, as by an old copy of a keyring, the
    /// later state counts.
    pub fn add(&mut self, key: Arc<impl Recipient + Identity + 'static>, state: KeyState) {
        self.add_identity(Arc::clone(&key) as _, state);
        self.add_recipient(key, state);
    }

    /// Adds what seals to a key in `state`; of a key that is given twice the later state counts.
    pub fn add_recipient(&mut self, recipient: Arc<dyn Recipient>, state: KeyState) {
        let id = recipient.id();
        self.note(id, state);
        if self.recipients.iter().all(|known| known.id() != id) {
            self.recipients.push(recipient);
        }
    }

    /// Adds what opens with keys in `state`; of a key that is given twice the later state counts.
    pub fn add_identity(&mut self, identity: Arc<dyn Identity>, state: KeyState) {
        let ids = identity.ids();
        if !ids.iter().all(|id| self.holds(*id)) {
            self.identities.push(identity);
        }
        ids.into_iter().for_each(|id| self.note(id, state));
    }

    fn note(&mut self, id: KeyId, state: KeyState) {
        self.states.entry(id).and_modify(|known| *known = state.max(*known)).or_insert(state);
    }

    /// Adds the keys of `keyring`, each in its state at `now`.
    pub fn add_keyring(&mut self, keyring: &Keyring, now: Time) {
        for (key, state) in keyring.usable(now) {
            self.add(Arc::new(key), state);
        }
        // Also of destroyed keys: an old copy of the keyring may still hold them.
        keyring.list(now).for_each(|(id, state, _)| self.note(id, state));
    }

    /// Lets [`check_current`](Self::check_current) ask `states` what the keys may do by then.
    pub fn add_source(&mut self, states: ReadStates) {
        self.sources.push(states);
    }

    /// That no key which seals here has been retired since it was added. Whoever worked for hours asks before it seals.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] for a retired key; those of reading the states.
    pub fn check_current(&self) -> Result<()> {
        for source in &self.sources {
            for (id, state) in source()? {
                if state >= KeyState::Retired && self.state(id).is_some_and(KeyState::seals) {
                    let message = format!("master key {id} was {} during the run", state.name());
                    return Err(Error::new(ErrorKind::Refused, message)
                        .hint("run the command again: it then seals to the present key"));
                }
            }
        }
        Ok(())
    }

    /// What opens stanzas of the key of this id, if it was given.
    pub fn identity(&self, id: KeyId) -> Option<&dyn Identity> {
        self.identities.iter().find(|identity| identity.ids().contains(&id)).map(AsRef::as_ref)
    }

    /// What the key of this id may do, if it was given.
    pub fn state(&self, id: KeyId) -> Option<KeyState> {
        self.states.get(&id).copied()
    }

    /// What breaks the key of this id, if it was given and seals or sealed.
    pub fn strength(&self, id: KeyId) -> Option<Strength> {
        self.recipients.iter().find(|key| key.id() == id).map(|key| key.strength())
    }

    /// Whether a key of this id was given that opens.
    pub fn holds(&self, id: KeyId) -> bool {
        self.identity(id).is_some()
    }

    /// Takes note that the key of this id is in the repository, behind a passphrase.
    pub fn note_passphrase(&mut self, id: KeyId) {
        self.passphrases.insert(id);
    }

    /// What takes the key of this id away.
    #[must_use]
    pub fn depends_on(&self, id: KeyId) -> DependsOn {
        let recipient = self.recipients.iter().find(|key| key.id() == id);
        match recipient.and_then(|key| key.service()) {
            Some(service) => DependsOn::Service(service),
            None if self.passphrases.contains(&id) => DependsOn::Passphrase,
            None if self.holds(id) => DependsOn::Host,
            None => DependsOn::Elsewhere(id),
        }
    }

    /// The same, with a recovery key: its copy is elsewhere, the owner says so.
    #[cfg(feature = "backup")]
    pub(crate) fn depends_on_beside(&self, recovery: Option<KeyId>, id: KeyId) -> DependsOn {
        match recovery == Some(id) {
            true => DependsOn::Elsewhere(id),
            false => self.depends_on(id),
        }
    }

    /// The same, which open whatever they can: to find out whether something opens, not whether it counts.
    #[cfg(feature = "backup")]
    #[must_use]
    pub(crate) fn opening_all(&self) -> Self {
        let mut all = self.with(|_| true);
        all.accept_untrusted = true;
        all
    }

    /// The same, for a job that writes many seals: a service is asked once for many of them.
    #[cfg(feature = "backup")]
    #[must_use]
    pub(crate) fn sharing(&self) -> Self {
        let mut all = self.with(|_| true);
        for key in &mut all.recipients {
            if let Some(sharing) = key.sharing() {
                *key = sharing;
            }
        }
        all
    }

    /// The same, for whoever asks only what counts: no service is asked to open what a signature decides.
    #[cfg(feature = "backup")]
    #[must_use]
    pub(crate) fn sparing(&self) -> Self {
        let mut all = self.with(|_| true);
        all.sparing = true;
        all
    }

    /// Whether a signature is enough, and opening is left to others.
    #[cfg(feature = "backup")]
    pub(crate) fn is_sparing(&self) -> bool {
        self.sparing
    }

    /// Only these of them, none of them required, with the signers and what signs.
    #[cfg(feature = "backup")]
    #[must_use]
    pub(crate) fn only(&self, ids: &[KeyId]) -> Self {
        let mut some = self.with(|id| ids.contains(&id));
        // What a plugin's identity opens has an id for each recipient, and its own.
        let opens = |key: &&Arc<dyn Identity>| key.ids().iter().any(|id| ids.contains(id));
        some.identities = self.identities.iter().filter(opens).cloned().collect();
        (some.required, some.min_sealers) = (Vec::new(), 0);
        some
    }

    /// All but one of them, and but what opens with that one.
    #[must_use]
    pub fn without(&self, id: KeyId) -> Self {
        self.with(|key| key != id)
    }

    pub(super) fn with(&self, wanted: impl Fn(KeyId) -> bool) -> Self {
        let mut states = self.states.clone();
        states.retain(|id, _| wanted(*id));
        let opens = |identity: &&Arc<dyn Identity>| identity.ids().into_iter().all(&wanted);
        Self {
            recipients: self.recipients.iter().filter(|key| wanted(key.id())).cloned().collect(),
            identities: self.identities.iter().filter(opens).cloned().collect(),
            states,
            sources: self.sources.clone(),
            accept_untrusted: self.accept_untrusted,
            signers: self.signers.clone(),
            signing: self.signing.clone(),
            mix_quantum_weak: self.mix_quantum_weak,
            passphrases: self.passphrases.clone(),
            asks_unsigned: self.asks_unsigned,
            sparing: self.sparing,
            required: self.required.clone(),
            min_sealers: self.min_sealers,
        }
    }

    /// Refuses to seal anything to fewer than `min_sealers` keys, or without one of `required`: a service may be down.
    pub fn require(&mut self, required: Vec<KeyId>, min_sealers: usize) {
        (self.required, self.min_sealers) = (required, min_sealers);
    }

    /// Whether a service would seal with another key of its own by now than the one that sealed `stanza`, as far as is known
    /// since [`Recipient::check`].
    #[must_use]
    pub fn is_older(&self, stanza: &Stanza) -> bool {
        let key = self.recipients.iter().find(|key| key.id() == stanza.key_id());
        key.is_some_and(|key| key.is_older(stanza))
    }

    /// Lets services and persons be asked to open what no trusted signer signed. Without it they are not, where signers are
    /// trusted: a planted snapshot would have them open what its maker chose.
    pub fn ask_unsigned(&mut self) {
        self.asks_unsigned = true;
    }

    /// Whether services and persons are asked whatever signed it.
    pub(crate) fn asks_unsigned(&self) -> bool {
        self.asks_unsigned
    }

    /// Whether a service or a person may be asked to open a seal, which a trusted signer signed or not.
    pub(crate) fn may_ask(&self, signed: bool) -> bool {
        match signed {
            true => !self.sparing,
            false => self.signers.is_empty() || self.asks_unsigned,
        }
    }

    /// Whether a service or a person would have to be asked to open `stanza`.
    #[cfg(feature = "backup")]
    pub(crate) fn would_ask(&self, stanza: &Stanza) -> bool {
        self.identity(stanza.key_id()).is_some_and(|key| key.effort(stanza).is_felt())
    }

    /// Trusts `signer`: from now on what no trusted signer signed does not count.
    pub fn trust(&mut self, signer: Signer) {
        self.signers.push(signer);
    }

    /// Signs what is written with `key`, which is also trusted.
    pub fn sign_with(&mut self, key: SigningKey) {
        if self.signers.iter().all(|known| known.key != key.public()) {
            self.trust(Signer::new(key.public()));
        }
        self.signing = Some(Arc::new(key));
    }

    /// What signs.
    #[must_use]
    pub fn signing(&self) -> Option<&SigningKey> {
        self.signing.as_deref()
    }

    /// The signers that are trusted, or were until they were revoked.
    #[must_use]
    pub fn signers(&self) -> &[Signer] {
        &self.signers
    }

    /// The signers whose signatures make what is about `cluster` count.
    #[cfg(feature = "backup")]
    pub(crate) fn trusted_for(&self, cluster: Option<&ClusterName>) -> Vec<PublicSigner> {
        trusted_for(&self.signers, cluster)
    }

    /// Treats the signer of this id as revoked; false if there is none.
    pub fn revoke(&mut self, id: KeyId) -> bool {
        let now = Time::from_unix(0);
        let mut found = false;
        for signer in self.signers.iter_mut().filter(|signer| signer.key.id() == id) {
            signer.revoked.get_or_insert(now);
            found = true;
        }
        found
    }

    /// Which trusted signers signed what `seal` vouches for.
    ///
    /// # Errors
    /// [`ErrorKind::Tampered`] for a signature of a trusted signer that does not verify.
    pub(crate) fn signed_by(&self, seal: &Seal, cluster: Option<&ClusterName>) -> Result<SignedBy> {
        signed_by(&self.signers, seal.body(), cluster)
    }

    /// Whether a line of `seal` is the signature of the signer that it names; none if that signer is not known here.
    #[cfg(feature = "backup")]
    pub(crate) fn verifies(&self, seal: &Seal, line: &crate::format::Signature) -> Option<bool> {
        let body = seal.body();
        let signer = self.signers.iter().find(|signer| signer.key.id() == line.key_id)?;
        Some(signer.key.verifies(body.subject(), body.object(), line))
    }

    /// Checks that what seals and signs may be used together, for `cluster`, before any work is done. `unsigned` accepts
    /// that nothing will show who made what is sealed.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] and [`ErrorKind::Refused`].
    pub fn check_sealing(&self, cluster: Option<&ClusterName>, unsigned: bool) -> Result<()> {
        self.check_strengths(std::iter::empty())?;
        let mut sealing = self.sealing().peekable();
        let only_public = sealing.peek().is_some() && sealing.all(Recipient::is_public);
        match &self.signing {
            None if only_public && !unsigned => Err(unsigned_refused()),
            None if !self.signers.is_empty() && !unsigned => Err(would_not_count()),
            None => Ok(()),
            Some(key) => {
                let mut own = self.signers.iter().filter(|signer| signer.key == key.public());
                match own.all(|signer| {
                    signer.revoked.is_none() && (cluster.is_none() || signer.is_for(cluster))
                }) {
                    true => Ok(()),
                    false => Err(Error::new(
                        ErrorKind::Refused,
                        format!(
                            "the signing key of this host, {}, is revoked or not for this cluster",
                            key.public()
                        ),
                    )
                    .hint("what it signs would not count: see the file of trusted signers")),
                }
            }
        }
    }

    /// Refuses a seal with `kept` stanzas of these strengths beside those of the keys that seal.
    ///
    /// # Errors
    /// Those of [`check_strengths`].
    pub(crate) fn check_strengths(&self, kept: impl Iterator<Item = Strength>) -> Result<()> {
        match self.mix_quantum_weak {
            true => Ok(()),
            false => check_strengths(self.sealing().map(Recipient::strength).chain(kept)),
        }
    }

    /// Lets keys that a quantum computer breaks seal beside those that it does not.
    pub fn mix_quantum_weak(&mut self) {
        self.mix_quantum_weak = true;
    }

    /// Whether no key opens: such a host writes snapshots and decides about them by their signatures.
    #[must_use]
    pub fn is_blind(&self) -> bool {
        self.identities.is_empty()
    }

    /// What new data keys are sealed to.
    pub fn sealing(&self) -> impl Iterator<Item = &dyn Recipient> + Send {
        let seals = |key: &&Arc<dyn Recipient>| self.state(key.id()).is_some_and(KeyState::seals);
        self.recipients.iter().filter(seals).map(AsRef::as_ref)
    }

    /// Lets single snapshots be opened that do not count ([`trust`](super::trust)). Nothing else changes: they are still
    /// not the latest, push nothing out and are not sealed again.
    pub fn accept_untrusted(&mut self) {
        self.accept_untrusted = true;
        self.ask_unsigned();
    }

    /// Whether single snapshots that do not count are opened.
    pub fn accepts_untrusted(&self) -> bool {
        self.accept_untrusted
    }

    /// Whether any signer, or any key that opens, can make a snapshot count ([`trust`](super::trust)): the others only open.
    pub fn can_vouch(&self) -> bool {
        let vouches = |key: &Arc<dyn Recipient>| {
            let state = self.state(key.id());
            !key.is_public()
                && self.holds(key.id())
                && state.is_some_and(|state| state.seals() || state == KeyState::Retiring)
        };
        !self.signers.is_empty() || self.recipients.iter().any(vouches)
    }

    /// The keys in `state`.
    pub fn in_state(&self, state: KeyState) -> impl Iterator<Item = KeyId> {
        let given = move |id: &KeyId| self.is_given(*id);
        self.states
            .iter()
            .filter(move |(_, found)| **found == state)
            .map(|(id, _)| *id)
            .filter(given)
    }

    /// Puts the key of this id, if it was given, into another state.
    pub fn set_state(&mut self, id: KeyId, state: KeyState) {
        self.states.entry(id).and_modify(|known| *known = state);
    }

    /// The ids of every key.
    pub fn ids(&self) -> Vec<KeyId> {
        self.states.keys().copied().filter(|id| self.is_given(*id)).collect()
    }

    /// True when there is no key and no signer at all.
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty() && self.recipients.is_empty() && self.signers.is_empty()
    }

    fn is_given(&self, id: KeyId) -> bool {
        self.holds(id) || self.recipients.iter().any(|key| key.id() == id)
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;
    use crate::crypto::{CryptoRng, system_rng};
    use crate::keys::{Binding, KeyFuture};
    use crate::secret::SecretKey;

    const RECIPIENT: KeyId = KeyId([1; 16]);
    const OWN: KeyId = KeyId([2; 16]);

    /// As a plugin's key is: what breaks it is not known, and its identity has two ids.
    struct OfPlugin;

    impl Recipient for OfPlugin {
        fn id(&self) -> KeyId {
            RECIPIENT
        }

        fn is_public(&self) -> bool {
            true
        }

        fn wrap<'a>(
            &'a self,
            _: &'a SecretKey,
            _: &'a Binding,
            _: &'a mut (dyn CryptoRng + Send),
        ) -> KeyFuture<'a, Stanza> {
            Box::pin(ready(Err(Error::unsupported("it does not seal"))))
        }
    }

    impl Identity for OfPlugin {
        fn ids(&self) -> Vec<KeyId> {
            vec![RECIPIENT, OWN]
        }

        fn unwrap<'a>(&'a self, _: &'a Stanza, _: &'a Binding) -> KeyFuture<'a, Option<SecretKey>> {
            Box::pin(ready(Ok(None)))
        }
    }

    #[test]
    fn a_public_key_vouches_for_nothing_whatever_breaks_it() {
        let mut keys = KeySet::new();
        keys.add(Arc::new(OfPlugin), KeyState::Sealing);
        assert!(!keys.can_vouch());
        assert_eq!(keys.check_sealing(None, false).unwrap_err().kind(), ErrorKind::Usage);
        keys.check_sealing(None, true).unwrap();
    }

    #[test]
    #[cfg(feature = "backup")]
    fn an_identity_with_more_ids_is_kept_for_one_of_them() {
        let mut keys = KeySet::new();
        keys.add(Arc::new(OfPlugin), KeyState::Sealing);
        for (id, other) in [(RECIPIENT, OWN), (OWN, RECIPIENT)] {
            let some = keys.only(&[id]);
            assert!(some.holds(id) && some.state(other).is_none());
            assert!(!keys.without(id).holds(other));
        }
        assert!(keys.only(&[KeyId([3; 16])]).is_blind());
    }

    #[test]
    fn what_a_keyring_destroyed_an_old_copy_does_not_bring_back() {
        let (then, now) = (Time::from_unix(1_800_000_000), Time::from_unix(1_800_000_100));
        let old = Keyring::generate(then, &mut system_rng()).unwrap();
        let copy = Keyring::parse(old.print().expose()).unwrap();
        let id = old.list(then).next().unwrap().0;
        let (new, primary) = old.rotate(now, &mut system_rng()).unwrap();
        let new = new.retire(now).unwrap().0.destroy(id, now).unwrap();
        for order in [[&new, &copy], [&copy, &new]] {
            let mut keys = KeySet::new();
            order.into_iter().for_each(|keyring| keys.add_keyring(keyring, now));
            assert_eq!(keys.state(id), Some(KeyState::Destroyed));
            assert!(keys.sealing().all(|key| key.id() == primary));
        }
        let mut keys = KeySet::new();
        keys.add_keyring(&new, now);
        assert_eq!(keys.ids(), [primary]);
    }
}
