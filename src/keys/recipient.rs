//! Public keys that seal and their private halves that open (stanza kind `hpke`, SPEC.md §5.1).

use std::fmt;
use std::future::ready;
use std::str::FromStr;

use super::age::{self, PluginRecipient};
use super::text::{self, Prefix};
use super::{Binding, Identity, KeyFuture, Recipient, Strength};
use crate::crypto::{CryptoRng, HpkePrivateKey, HpkePublicKey, Kem, Label};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{KeyId, Stanza};
use crate::secret::{SecretBytes, SecretKey};

/// The kind of its stanzas.
pub(crate) const HPKE: &str = "hpke";

const RECIPIENTS: [Prefix; 2] = [Prefix::Recipient(Kem::XWing), Prefix::Recipient(Kem::X25519)];
const IDENTITIES: [Prefix; 2] = [Prefix::Identity(Kem::XWing), Prefix::Identity(Kem::X25519)];

/// A public key: it seals and does not open. As text in age's form, `age1pq1…` or `age1…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HpkeRecipient {
    id: KeyId,
    key: HpkePublicKey,
}

impl HpkeRecipient {
    fn new(key: HpkePublicKey) -> Self {
        let kem = key.kem().id().to_be_bytes();
        Self { id: super::key_id(HPKE, &[&kem, key.bytes()]), key }
    }

    /// Names this key in seals.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// What breaks it.
    #[must_use]
    pub fn strength(&self) -> Strength {
        match self.key.kem() {
            Kem::XWing => Strength::PostQuantum,
            Kem::X25519 => Strength::QuantumWeak,
        }
    }
}

impl fmt::Display for HpkeRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::print(Prefix::Recipient(self.key.kem()), self.key.bytes()))
    }
}

impl FromStr for HpkeRecipient {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match Prefix::of(text, &RECIPIENTS) {
            Some(prefix @ Prefix::Recipient(kem)) => {
                HpkePublicKey::new(kem, text::parse(prefix, text)?).map(Self::new)
            }
            _ if Prefix::of(text, &IDENTITIES).is_some() => {
                Err(Error::usage("this is a secret key, which never stands in a command")
                    .hint("put it into a file of mode 0600 and give --master-key identity:FILE; treat it as leaked"))
            }
            _ if PluginRecipient::looks_like(text) => {
                Err(Error::unsupported("a recipient of an age plugin is not known here")
                    .hint("use an age1pq1… or age1… recipient"))
            }
            _ => Err(Error::usage("a recipient begins with age1pq1 or age1").hint(
                "`strongroom key generate --recipient -o FILE` makes a key and prints its recipient",
            )),
        }
    }
}

impl Recipient for HpkeRecipient {
    fn id(&self) -> KeyId {
        self.id
    }

    fn wrap<'a>(
        &'a self,
        data_key: &'a SecretKey,
        binding: &'a Binding,
        rng: &'a mut (dyn CryptoRng + Send),
    ) -> KeyFuture<'a, Stanza> {
        let context = binding.context(self.id, HPKE);
        let sealed = self.key.seal(info(), &context, data_key.expose(), rng);
        Box::pin(ready(sealed.and_then(|body| Stanza::new(HPKE, self.id, &[], body))))
    }

    fn is_public(&self) -> bool {
        true
    }

    fn strength(&self) -> Strength {
        Self::strength(self)
    }
}

/// A private key: it opens, and its public half seals. As text in age's form, `AGE-SECRET-KEY-PQ-1…` or
/// `AGE-SECRET-KEY-1…`.
pub struct HpkeIdentity {
    recipient: HpkeRecipient,
    key: HpkePrivateKey,
}

impl HpkeIdentity {
    pub(super) fn new(kem: Kem, seed: SecretKey) -> Result<Self> {
        let key = HpkePrivateKey::new(kem, seed);
        Ok(Self { recipient: HpkeRecipient::new(key.public()?), key })
    }

    /// A fresh key.
    ///
    /// # Errors
    /// None in practice.
    pub fn generate(kem: Kem, rng: &mut dyn CryptoRng) -> Result<Self> {
        Self::new(kem, SecretKey::random(rng))
    }

    /// Reads one secret key's line.
    ///
    /// # Errors
    /// Usage or unsupported; neither repeats the line.
    pub fn parse(line: &str) -> Result<Self> {
        match Prefix::of(line, &IDENTITIES) {
            Some(prefix @ Prefix::Identity(kem)) => {
                Self::new(kem, text::parse_secret(prefix, line)?)
            }
            _ if line.starts_with("AGE-PLUGIN-") => {
                Err(Error::unsupported("an identity of an age plugin is not known here"))
            }
            _ => Err(Error::usage("a line is neither a comment nor an age secret key")),
        }
    }

    /// The secret key's line.
    ///
    /// # Errors
    /// None in practice.
    pub fn print(&self) -> Result<SecretBytes> {
        text::print_secret(Prefix::Identity(self.recipient.key.kem()), self.key.seed())
    }

    #[cfg(feature = "backup")]
    pub(super) fn seed(&self) -> &SecretKey {
        self.key.seed()
    }

    /// Its public half.
    #[must_use]
    pub fn recipient(&self) -> &HpkeRecipient {
        &self.recipient
    }

    fn open(&self, stanza: &Stanza, binding: &Binding) -> Result<SecretKey> {
        let context = binding.context(self.recipient.id, HPKE);
        let opened = self.key.open(info(), &context, stanza.body(), SecretKey::LEN)?;
        match SecretKey::from_slice(opened.expose()) {
            Some(key) if stanza.args().next().is_none() => Ok(key),
            _ => Err(Error::tampered("a stanza of the kind hpke is malformed")),
        }
    }
}

impl Recipient for HpkeIdentity {
    fn id(&self) -> KeyId {
        self.recipient.id
    }

    fn wrap<'a>(
        &'a self,
        data_key: &'a SecretKey,
        binding: &'a Binding,
        rng: &'a mut (dyn CryptoRng + Send),
    ) -> KeyFuture<'a, Stanza> {
        self.recipient.wrap(data_key, binding, rng)
    }

    fn is_public(&self) -> bool {
        true
    }

    fn strength(&self) -> Strength {
        self.recipient.strength()
    }
}

impl Identity for HpkeIdentity {
    fn ids(&self) -> Vec<KeyId> {
        vec![self.recipient.id]
    }

    fn unwrap<'a>(
        &'a self,
        stanza: &'a Stanza,
        binding: &'a Binding,
    ) -> KeyFuture<'a, Option<SecretKey>> {
        let mine = stanza.kind() == HPKE && stanza.key_id() == self.recipient.id;
        Box::pin(ready(mine.then(|| self.open(stanza, binding)).transpose()))
    }
}

fn info() -> &'static [u8] {
    Label::Hpke.as_str().as_bytes()
}

/// Refuses to seal to a key that a quantum computer breaks beside one that it does not break: whoever has such a computer
/// takes the weaker way in.
///
/// # Errors
/// [`ErrorKind::Usage`].
pub fn check_strengths(strengths: impl IntoIterator<Item = Strength>) -> Result<()> {
    let (mut strong, mut weak) = (false, false);
    for strength in strengths {
        strong |= strength == Strength::PostQuantum;
        weak |= strength == Strength::QuantumWeak;
    }
    match strong && weak {
        true => Err(Error::new(
            ErrorKind::Usage,
            "an X25519 recipient (age1…) beside an X-Wing recipient (age1pq1…) makes the seal as weak as X25519: a quantum \
             computer breaks it",
        )
        .hint("leave one of them out, or give --mix-quantum-weak")),
        false => Ok(()),
    }
}

/// What breaks the key of `stanza`, as far as its bytes tell.
#[must_use]
pub fn strength_of(stanza: &Stanza) -> Strength {
    match (stanza.kind(), Kem::of(stanza.body())) {
        (HPKE, Some(Kem::XWing)) => Strength::PostQuantum,
        (HPKE, Some(Kem::X25519)) => Strength::QuantumWeak,
        (age::AGE, _) => age::strength(stanza),
        _ => Strength::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::system_rng;
    use crate::format::{Sha256, SnapshotId, Subject};
    use crate::keys::at_once;

    fn binding(id: u128) -> Binding {
        let subject = Subject::Snapshot(SnapshotId(id));
        Binding { subject, commitment: [1; 32], object: Sha256([2; 32]) }
    }

    #[test]
    fn a_recipient_seals_what_its_identity_opens() {
        for kem in [Kem::XWing, Kem::X25519] {
            let identity = HpkeIdentity::generate(kem, &mut system_rng()).unwrap();
            let text = identity.recipient().to_string();
            let recipient: HpkeRecipient = text.parse().unwrap();
            assert_eq!((recipient.to_string(), recipient.id()), (text, identity.recipient().id()));
            let line = identity.print().unwrap();
            let again = HpkeIdentity::parse(std::str::from_utf8(line.expose()).unwrap()).unwrap();
            let key = SecretKey::new(|key| key.fill(5));
            let stanza = at_once(recipient.wrap(&key, &binding(1), &mut system_rng())).unwrap();
            assert_eq!((stanza.kind(), stanza.key_id()), ("hpke", recipient.id()));
            let opened = at_once(again.unwrap(&stanza, &binding(1))).unwrap().unwrap();
            assert_eq!(opened.expose(), key.expose());
            let error = at_once(again.unwrap(&stanza, &binding(2))).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Tampered);
            let other = HpkeIdentity::generate(kem, &mut system_rng()).unwrap();
            assert!(at_once(other.unwrap(&stanza, &binding(1))).unwrap().is_none());
            let args = Stanza::new("hpke", recipient.id(), &["x"], stanza.body().to_vec()).unwrap();
            assert!(at_once(again.unwrap(&args, &binding(1))).is_err());
        }
    }

    #[test]
    fn mistyped_keys_are_refused() {
        let identity = HpkeIdentity::generate(Kem::X25519, &mut system_rng()).unwrap();
        let good = identity.recipient().to_string();
        for at in 5..good.len() {
            let mut bad = good.clone().into_bytes();
            bad[at] = if bad[at] == b'q' { b'p' } else { b'q' };
            assert!(String::from_utf8(bad).unwrap().parse::<HpkeRecipient>().is_err(), "{at}");
        }
        let secret = identity.print().unwrap();
        let secret = std::str::from_utf8(secret.expose()).unwrap();
        for bad in
            [&good.to_uppercase(), &good[..good.len() - 1], "age1", "", "age1tag1qqq", secret]
        {
            let error = bad.parse::<HpkeRecipient>().err().unwrap();
            assert!(!error.to_string().contains(secret), "{bad}");
        }
        assert!(HpkeIdentity::parse(&secret.to_lowercase()).is_err());
        assert!(HpkeIdentity::parse(&good).is_err());
    }

    #[test]
    fn quantum_weak_keys_are_not_mixed_with_others() {
        use Strength::{Other, PostQuantum, QuantumWeak};
        assert!(check_strengths([Other, PostQuantum, PostQuantum]).is_ok());
        assert!(check_strengths([Other, QuantumWeak]).is_ok());
        assert!(check_strengths([QuantumWeak, Other, PostQuantum]).is_err());
    }
}
