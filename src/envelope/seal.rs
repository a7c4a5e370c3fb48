//! Sealing a data key to master keys, and opening it again (SPEC.md §5).

use std::collections::BTreeMap;

use super::DataKey;
use crate::crypto::CryptoRng;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{ClusterName, KeyId, KeyState, Seal, SealBody, Sha256, Signature, Stanza};
use crate::keys::trust::{Distrust, Evidence, Standing, StanzaKind, standing};
use crate::keys::{Binding, Identity, KeySet, Missing, strength_of};

/// A seal that opened.
pub struct Opened {
    /// The data key.
    pub data_key: DataKey,
    /// The master key that opened it.
    pub opened_by: KeyId,
    /// What that key may do.
    pub state: KeyState,
    /// What the stanza that opened shows about its maker.
    pub kind: StanzaKind,
}

impl Opened {
    /// What opening has shown, for [`standing`](crate::keys::trust::standing).
    #[must_use]
    pub fn evidence(&self) -> Evidence {
        Evidence { opened: Some((self.kind, self.state)), ..Evidence::default() }
    }
}

/// A seal that vouches for the right object, whether it opened or not.
pub struct Judged {
    /// What opened, if something did and was tried.
    pub opened: Option<Opened>,
    /// What it is worth.
    pub standing: Standing,
    /// Why what a trusted signer signed did not open. It is genuine all the same.
    pub unopened: Option<Error>,
}

impl Judged {
    /// Whether a key or a trusted signature shows that the object is the one that was sealed.
    #[must_use]
    pub fn is_authentic(&self) -> bool {
        self.opened.is_some() || self.standing.counts()
    }
}

/// How many stanzas of each key a service or a person is asked to open, of all seals of one object together. Signatures do not
/// cover stanzas: who writes to the repository may put a genuine one beside stanzas of his own, in as many seals as he likes.
const MAX_ASKED: u8 = 3;

/// What services and persons were asked to open of one object's seals.
#[derive(Default)]
pub struct Asked {
    of: BTreeMap<KeyId, u8>,
    /// No further seal follows: it may be the first that was ever written, and nobody can plant one below that.
    is_last: bool,
    too_many: bool,
}

impl Asked {
    /// Takes note that the next seal is the last: one more stanza of each key is asked for.
    pub fn at_last(&mut self) {
        self.is_last = true;
    }

    /// Whether a stanza was left out because enough others had been asked for.
    #[must_use]
    pub fn is_too_many(&self) -> bool {
        self.too_many
    }

    /// Whether one more stanza of `key` may be asked for, which is counted.
    fn allows(&mut self, key: KeyId) -> bool {
        let most = MAX_ASKED + u8::from(self.is_last);
        let asked = self.of.entry(key).or_default();
        let allows = *asked < most;
        *asked += u8::from(allows);
        self.too_many |= !allows;
        allows
    }
}

/// What `seal` is worth, which must vouch for `object` of `cluster`. Its signatures come first: with signers configured no
/// stanza of a seal is tried that none of them signed. They do not cover the stanzas, so that of signed seals no more than a
/// few are asked for either: `asked` is that of all seals of the object.
///
/// # Errors
/// Those of [`open_seal`], but that a signed one does not have to open; [`ErrorKind::Tampered`] when a trusted signer's
/// signature does not verify.
pub async fn judge_seal(
    seal: &Seal,
    object: Sha256,
    cluster: Option<&ClusterName>,
    keys: &KeySet,
    asked: &mut Asked,
) -> Result<Judged> {
    check_object(seal, object)?;
    let signed = keys.signed_by(seal, cluster)?;
    let signers: Vec<KeyId> = keys.signers().iter().map(|signer| signer.key.id()).collect();
    let is_signed = !signed.trusted.is_empty();
    let (opened, unopened) = match signers.is_empty() || is_signed || keys.accepts_untrusted() {
        false => (None, None),
        true => match open_by(seal, object, keys, Some(asked).filter(|_| keys.may_ask(is_signed)))
            .await
        {
            // A service that is down takes nothing away from a signature.
            Err(error) if is_signed && may_open_elsewhere(&error) => (None, Some(error)),
            opened => (Some(opened?), None),
        },
    };
    let evidence = Evidence {
        opened: opened.as_ref().map(|opened| (opened.kind, opened.state)),
        signed_by: signed.trusted,
        revoked: signed.revoked,
    };
    Ok(Judged { opened, standing: standing(&signers, [evidence]), unopened })
}

/// Whether it says nothing of the seal: other keys would open it, or the same at another time.
fn may_open_elsewhere(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::WrongKey | ErrorKind::Unreachable)
}

/// As [`judge_seal`], for somebody who vouches for what opens: that it is not signed yet is why. A key that seals makes it
/// count although signers are configured.
///
/// # Errors
/// Those of [`judge_seal`] and [`open_seal`].
pub async fn judge_to_vouch(
    seal: &Seal,
    object: Sha256,
    cluster: Option<&ClusterName>,
    keys: &KeySet,
    asked: &mut Asked,
) -> Result<Judged> {
    let judged = judge_seal(seal, object, cluster, keys, asked).await?;
    if judged.standing.counts() {
        return Ok(judged);
    }
    let is_revoked = judged.standing == Standing::NotTrusted(Distrust::Revoked);
    let asks = is_revoked || keys.may_ask(false);
    let opened = open_by(seal, object, keys, Some(asked).filter(|_| asks)).await?;
    // By what it is when there are no signers; that a revoked one signed it is for the caller to judge.
    let standing = match judged.standing {
        revoked @ Standing::NotTrusted(Distrust::Revoked) => revoked,
        _ => standing(&[], [opened.evidence()]),
    };
    Ok(Judged { opened: Some(opened), standing, unopened: None })
}

fn check_object(seal: &Seal, object: Sha256) -> Result<()> {
    match seal.body().object() == object {
        true => Ok(()),
        false => Err(Error::tampered("it vouches for other bytes than these")),
    }
}

/// What a new seal says beside its fresh stanzas.
pub struct NewSeal {
    /// Its generation, 1 for the first.
    pub generation: u32,
    /// Digest of what it vouches for.
    pub object: Sha256,
    /// Stanzas of an earlier generation, kept byte for byte.
    pub kept: Vec<Stanza>,
    /// Signatures of earlier generations over the same object.
    pub signatures: Vec<Signature>,
    /// Whether the signing key signs it, if there is one.
    pub sign: bool,
}

impl NewSeal {
    /// A subject's first seal.
    #[must_use]
    pub fn first(object: Sha256) -> Self {
        Self { generation: 1, object, kept: Vec::new(), signatures: Vec::new(), sign: true }
    }
}

/// The stanzas of `seal` that a new generation keeps byte for byte: all but those to `drop`, those of retired keys,
/// and those that are replaced because their key seals.
pub fn kept_stanzas(seal: &Seal, keys: &KeySet, drop: &[KeyId]) -> Vec<Stanza> {
    let goes = |state: KeyState| state.seals() || state == KeyState::Retired;
    let kept = |stanza: &&Stanza| {
        !keys.state(stanza.key_id()).is_some_and(goes) && !drop.contains(&stanza.key_id())
    };
    seal.body().stanzas().iter().filter(kept).cloned().collect()
}

/// Seals `data_key` as `new` says: a stanza for each of `keys`' sealing keys, and the kept ones as they are.
///
/// # Errors
/// [`ErrorKind::Refused`] when nothing would open it; those of a remote master key.
pub async fn seal_data_key(
    data_key: &DataKey,
    new: NewSeal,
    keys: &KeySet,
    rng: &mut (dyn CryptoRng + Send),
) -> Result<Seal> {
    let (seal, missing) = seal_to_most(data_key, new, keys, rng).await?;
    match missing.into_iter().next() {
        Some(missing) => Err(missing.error),
        None => Ok(seal),
    }
}

/// As [`seal_data_key`], but that keys of services which cannot seal now may be left out, and are given back: as long as
/// enough are left ([`KeySet::require`]).
///
/// # Errors
/// Those of [`seal_data_key`], when not enough keys seal.
pub async fn seal_to_most(
    data_key: &DataKey,
    new: NewSeal,
    keys: &KeySet,
    rng: &mut (dyn CryptoRng + Send),
) -> Result<(Seal, Vec<Missing>)> {
    let (subject, commitment) = (data_key.subject(), data_key.commitment());
    let binding = Binding { subject, commitment, object: new.object };
    let (mut stanzas, mut missing) = (new.kept, Vec::new());
    keys.check_strengths(stanzas.iter().map(strength_of))?;
    for key in keys.sealing() {
        match key.wrap(data_key.key(), &binding, rng).await {
            Ok(stanza) if stanza.key_id() == key.id() => stanzas.push(stanza),
            Ok(stanza) => {
                return Err(Error::usage(format!(
                    "master key {} sealed as key {}",
                    key.id(),
                    stanza.key_id()
                )));
            }
            Err(error) => missing.push(Missing { key: key.id(), error }),
        }
    }
    // What a plugin made shows its strength now.
    keys.check_strengths(stanzas.iter().map(strength_of))?;
    keys.check_enough(&missing)?;
    if stanzas.is_empty() {
        return Err(Error::new(ErrorKind::Refused, "no master key to seal to")
            .hint("give one with --master-key, for example file:/etc/strongroom/keyring"));
    }
    let mut signatures = new.signatures;
    if let Some(key) = keys.signing().filter(|_| new.sign) {
        signatures.retain(|signature| signature.key_id != key.public().id());
        signatures.push(key.sign(subject, new.object));
    }
    let body = SealBody::new(subject, new.generation, new.object, commitment, stanzas, signatures)?;
    let mac = data_key.seal_mac(&body.signed_bytes());
    Ok((body.finish(mac), missing))
}

/// Looks, before any work is done, whether enough of `keys` can seal; those that cannot now.
///
/// # Errors
/// Those of [`KeySet::require`].
pub async fn check_sealers(keys: &KeySet) -> Result<Vec<Missing>> {
    let mut missing = Vec::new();
    for key in keys.sealing() {
        if let Err(error) = key.check().await {
            missing.push(Missing { key: key.id(), error });
        }
    }
    keys.check_enough(&missing)?;
    Ok(missing)
}

/// Opens `seal`, which must vouch for `object`, with one of `keys`: with one that vouches, if any opens.
///
/// # Errors
/// [`ErrorKind::Tampered`] when it vouches for something else, or names one of the keys and does not open with it;
/// [`ErrorKind::WrongKey`] when it names none of them, listing the key ids that would open it;
/// [`ErrorKind::Unreachable`] when a service would have to open it and does not answer.
pub async fn open_seal(seal: &Seal, object: Sha256, keys: &KeySet) -> Result<Opened> {
    open_by(seal, object, keys, Some(&mut Asked::default())).await
}

/// As [`open_seal`]; a service or a person is only asked if `asked` is given, and as it allows.
async fn open_by(
    seal: &Seal,
    object: Sha256,
    keys: &KeySet,
    mut asked: Option<&mut Asked>,
) -> Result<Opened> {
    check_object(seal, object)?;
    let held = |stanza| -> Option<(KeyState, &Stanza, &dyn Identity)> {
        let stanza: &Stanza = stanza;
        Some((keys.state(stanza.key_id())?, stanza, keys.identity(stanza.key_id())?))
    };
    let mut held: Vec<_> = seal.body().stanzas().iter().filter_map(held).collect();
    // Where signatures decide what counts, any key is as good as another, and those cost least that are here.
    let signed = !keys.signers().is_empty();
    // Cached: what another task learns meanwhile changes the effort.
    held.sort_by_cached_key(|(state, stanza, key)| {
        let vouches = match StanzaKind::of(stanza.kind()) {
            StanzaKind::Public => (true, true, true),
            StanzaKind::Secret => (!state.seals(), *state != KeyState::Retiring, false),
        };
        let effort = key.effort(stanza);
        (signed.then_some(effort), vouches, effort)
    });
    let mut failures = Vec::new();
    for (state, stanza, key) in held {
        let named = |error: Error| error.context(format!("the stanza of key {}", stanza.key_id()));
        if key.effort(stanza).is_felt() {
            let refused = match &mut asked {
                None => Some(not_asked()),
                Some(_) if keys.asks_unsigned() => None,
                Some(asked) => (!asked.allows(stanza.key_id())).then(asked_enough),
            };
            if let Some(error) = refused {
                failures.push(named(error));
                continue;
            }
        }
        match open_stanza(seal, stanza, key).await {
            Ok(None) => {}
            Ok(Some(data_key)) => {
                let (opened_by, kind) = (stanza.key_id(), StanzaKind::of(stanza.kind()));
                return Ok(Opened { data_key, opened_by, state, kind });
            }
            Err(error) => failures.push(named(error)),
        }
    }
    Err(unopened(seal, keys, failures))
}

fn not_asked() -> Error {
    Error::new(ErrorKind::WrongKey, "no trusted signer signed it, so no service is asked to open it").hint(
        "if you know that it is genuine, name it by its full id: `strongroom key vouch ID` signs it, --accept-untrusted opens it",
    )
}

/// That somebody put so many seals there that no more are asked for.
pub fn asked_enough() -> Error {
    let message = format!(
        "{MAX_ASKED} other stanzas of this key were tried, so neither a service nor a person is asked to open one more"
    );
    Error::new(ErrorKind::WrongKey, message).hint(
        "somebody may have added seals: remove those that do not belong there, or name it by its full id with --accept-untrusted",
    )
}

/// Why none of the keys opened `seal`: what each of them met. The class is of one that is worth another try, if there is
/// one, else of one that shows damage.
fn unopened(seal: &Seal, keys: &KeySet, mut failures: Vec<Error>) -> Error {
    let rank = |error: &Error| match error.kind() {
        ErrorKind::Unreachable => 0,
        ErrorKind::WrongKey => 2,
        _ => 1,
    };
    failures.sort_by_key(rank);
    let Some(first) = failures.first() else { return wrong_key(seal) };
    let mut reasons: Vec<String> = failures.iter().map(ToString::to_string).collect();
    let elsewhere = key_ids(seal).into_iter().filter(|id| !keys.holds(*id));
    let elsewhere: Vec<String> = elsewhere.map(|id| id.to_string()).collect();
    if !elsewhere.is_empty() {
        reasons.push(format!("not given: {}", elsewhere.join(", ")));
    }
    let error = Error::new(first.kind(), reasons.join("; "));
    match first.hint_text() {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Whether one of `keys` opens `stanza`, and what it holds proves the whole of `seal`.
pub async fn stanza_opens(seal: &Seal, stanza: &Stanza, keys: &KeySet) -> bool {
    match keys.identity(stanza.key_id()) {
        Some(key) => matches!(open_stanza(seal, stanza, key).await, Ok(Some(_))),
        None => false,
    }
}

async fn open_stanza(seal: &Seal, stanza: &Stanza, key: &dyn Identity) -> Result<Option<DataKey>> {
    let body = seal.body();
    let (subject, commitment) = (body.subject(), *body.commitment());
    let binding = Binding { subject, commitment, object: body.object() };
    let Some(opened) = key.unwrap(stanza, &binding).await? else { return Ok(None) };
    let data_key = DataKey::new(opened, subject);
    DataKey::check("the data-key commitment", &data_key.commitment(), body.commitment())?;
    DataKey::check("the seal's MAC", &data_key.seal_mac(&seal.signed_bytes()), seal.mac())?;
    Ok(Some(data_key))
}

/// Whether `seal` was made by somebody who had `data_key`: its MAC is verified.
pub fn is_genuine(seal: &Seal, data_key: &DataKey) -> bool {
    let mac = data_key.seal_mac(&seal.signed_bytes());
    DataKey::check("the seal's MAC", &mac, seal.mac()).is_ok()
}

/// The master keys that a seal names.
pub fn key_ids(seal: &Seal) -> Vec<KeyId> {
    seal.body().stanzas().iter().map(Stanza::key_id).collect()
}

/// That no available key opens `seal`, and which would.
pub fn wrong_key(seal: &Seal) -> Error {
    let ids: Vec<String> = key_ids(seal).iter().map(ToString::to_string).collect();
    Error::new(
        ErrorKind::WrongKey,
        format!("no available master key opens it; these would: {}", ids.join(", ")),
    )
    .hint("give the keyring, passphrase or identity that holds one of them with --master-key")
}

#[cfg(test)]
mod tests;
