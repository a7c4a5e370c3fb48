//! Keys of age's plugins: hardware and whatever else has a plugin (stanza kind `age`, SPEC.md §5.1).
//!
//! A fresh file key is sealed by the plugin, as in an age file. A wrapping key that is made of it seals the data key, so that
//! the stanza is bound to its seal as every other is.

#![cfg_attr(
    not(feature = "age-plugins"),
    allow(
        dead_code,
        unused_imports,
        reason = "without plugins keys are only read and stanzas judged"
    )
)]

use std::fmt;
use std::str::FromStr;

use zeroize::Zeroizing;

use super::age_stanza::AgeStanza;
use super::{Binding, Strength, text};
use crate::crypto::{self, CryptoRng, Label, Suite};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{KeyId, Stanza};
use crate::secret::{SecretBytes, SecretKey};

/// The kind of its stanzas.
pub(crate) const AGE: &str = "age";
/// The length of age's file keys.
#[cfg(feature = "age-plugins")]
pub(crate) const FILE_KEY: usize = 16;
/// C(wrapping key, A, data key).
const SEALED: usize = 104;
/// The longest text of age's stanzas: with it the line of ours stays below its limit.
const MAX_TEXT: usize = 14 << 10;
/// age's stanzas that a quantum computer does not open.
const POST_QUANTUM: [&str; 2] = ["mlkem768x25519", "mlkem768p256tag"];
/// The plugins of age itself that seal to hardware of any plugin.
const ANY_HARDWARE: [&str; 2] = ["tag", "tagpq"];
/// Age's stanza of a passphrase.
const SCRYPT: &str = "scrypt";

/// A public key of an age plugin, such as `age1yubikey1…`: what it means only the plugin knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginRecipient {
    name: String,
    text: String,
}

impl PluginRecipient {
    /// Whether `text` looks like one, and is not a key that is known here.
    #[must_use]
    pub fn looks_like(text: &str) -> bool {
        let before = text.rsplit_once('1').map(|(before, _)| before);
        before.is_some_and(|before| before.starts_with("age1") && before != "age1pq")
    }

    /// Names this key in seals.
    #[must_use]
    pub fn id(&self) -> KeyId {
        super::key_id(AGE, &[self.text.as_bytes()])
    }

    /// The plugin's name.
    #[must_use]
    pub fn plugin(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for PluginRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for PluginRecipient {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let malformed = || {
            Error::usage(
                "the text of a plugin's recipient is incomplete, or has a mistyped character",
            )
        };
        let is_lower = !text.contains(|c: char| c.is_ascii_uppercase());
        let prefix = text::prefix_of_any(text).filter(|_| is_lower).ok_or_else(malformed)?;
        let name =
            prefix.strip_prefix("age1").filter(|name| is_name(name)).ok_or_else(malformed)?;
        Ok(Self { name: name.to_owned(), text: text.to_owned() })
    }
}

/// A secret key, or the way to one, that an age plugin understands: `AGE-PLUGIN-…`.
pub struct PluginIdentity {
    name: String,
    line: SecretBytes,
    own: KeyId,
    /// The public half that the file names.
    recipient: Option<PluginRecipient>,
}

impl PluginIdentity {
    /// Whether a line of an identity file is one.
    pub(super) fn looks_like(line: &str) -> bool {
        line.starts_with("AGE-PLUGIN-")
    }

    /// Reads a line of an identity file. Comments before it named `recipients`: backups are sealed to such a one, so that it
    /// has to be clear which.
    ///
    /// # Errors
    /// Usage; it does not repeat the line.
    pub(super) fn parse(line: &str, recipients: Vec<PluginRecipient>) -> Result<Self> {
        let malformed = || {
            Error::usage(
                "the text of a plugin's identity is incomplete, or has a mistyped character",
            )
        };
        let is_upper = !line.contains(|c: char| c.is_ascii_lowercase());
        let prefix = text::prefix_of_any(line).filter(|_| is_upper).ok_or_else(malformed)?;
        let name = prefix.strip_prefix("age-plugin-").and_then(|name| name.strip_suffix('-'));
        let name = name.filter(|name| is_name(name)).ok_or_else(malformed)?;
        let recipient = recipients.first().cloned();
        if let Some(first) = &recipient {
            if recipients.iter().any(|one| one != first) {
                let text = "the comments before the identity name more than one recipient";
                return Err(Error::usage(text).hint("remove those of other identities"));
            }
            if first.name != name && !ANY_HARDWARE.contains(&first.name.as_str()) {
                return Err(Error::usage(format!(
                    "the identity is of the plugin {name:?}, and the recipient in the comments before it of {:?}",
                    first.name
                ))
                .hint("remove the comment if it is that of another identity"));
            }
        }
        let lower = Zeroizing::new(line.to_ascii_lowercase());
        Ok(Self {
            own: super::key_id(AGE, &[lower.as_bytes()]),
            line: SecretBytes::new(line.as_bytes().to_vec()),
            name: name.to_owned(),
            recipient,
        })
    }

    /// The keys whose stanzas it opens: what is sealed to its recipient, or to itself.
    #[must_use]
    pub fn ids(&self) -> Vec<KeyId> {
        self.recipient.iter().map(PluginRecipient::id).chain([self.own]).collect()
    }

    /// The plugin's name.
    #[must_use]
    pub fn plugin(&self) -> &str {
        &self.name
    }

    /// The key that it seals to: the recipient that the file names, if it names one, else the identity itself.
    #[must_use]
    pub fn recipient(&self) -> Option<&PluginRecipient> {
        self.recipient.as_ref()
    }

    /// Names what it seals to itself.
    #[must_use]
    pub fn own_id(&self) -> KeyId {
        self.own
    }

    /// Its line.
    #[cfg(feature = "age-plugins")]
    pub(crate) fn line(&self) -> &SecretBytes {
        &self.line
    }
}

/// A plugin's name is a part of a file's name.
fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.+".contains(&b);
    (1..=64).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.')
}

#[cfg(feature = "age-plugins")]
/// A stanza with what a plugin made of `file_key`.
///
/// # Errors
/// [`Protocol`](ErrorKind::Protocol) when the plugin's text is longer than there is room for.
pub(crate) fn seal(
    key: KeyId,
    (file_key, text): (&[u8; FILE_KEY], &[u8]),
    data_key: &SecretKey,
    binding: &Binding,
    rng: &mut dyn CryptoRng,
) -> Result<Stanza> {
    let length = u16::try_from(text.len()).ok().filter(|length| usize::from(*length) <= MAX_TEXT);
    let length = length.ok_or_else(|| {
        let text = format!(
            "a plugin's stanzas have {} bytes, and a seal has room for {MAX_TEXT}",
            text.len()
        );
        Error::new(ErrorKind::Protocol, text)
    })?;
    let context = binding.context(key, AGE);
    let wrapping = wrapping_key(file_key, text);
    let sealed = crypto::seal(Suite::Aes256Gcm, &wrapping, &context, data_key.expose(), rng)?;
    let body = [&length.to_be_bytes()[..], text, &sealed].concat();
    Stanza::new(AGE, key, &[], body)
}

#[cfg(feature = "age-plugins")]
/// The data key of a stanza whose file key a plugin has opened.
///
/// # Errors
/// [`Tampered`](ErrorKind::Tampered) when it was not made with this `binding`.
pub(crate) fn open(
    stanza: &Stanza,
    file_key: &[u8; FILE_KEY],
    binding: &Binding,
) -> Result<SecretKey> {
    let (text, sealed) = parts(stanza)?;
    let context = binding.context(stanza.key_id(), AGE);
    let wrapping = wrapping_key(file_key, text);
    let opened = crypto::open(Suite::Aes256Gcm, &wrapping, &context, sealed)?;
    SecretKey::from_slice(&opened)
        .ok_or_else(|| Error::tampered("a sealed data key does not hold 32 bytes"))
}

/// age's stanzas in one of ours.
///
/// # Errors
/// [`Tampered`](ErrorKind::Tampered).
pub(crate) fn inner(stanza: &Stanza) -> Result<Vec<AgeStanza>> {
    AgeStanza::parse_all(parts(stanza)?.0)
}

/// The text of age's stanzas, and the data key under the wrapping key.
fn parts(stanza: &Stanza) -> Result<(&[u8], &[u8])> {
    let split = || {
        let (length, rest) = stanza.body().split_first_chunk()?;
        let (text, sealed) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        let fits =
            sealed.len() == SEALED && text.len() <= MAX_TEXT && stanza.args().next().is_none();
        fits.then_some((text, sealed))
    };
    split().ok_or_else(|| Error::tampered("a stanza of the kind age is malformed"))
}

#[cfg(feature = "age-plugins")]
fn wrapping_key(file_key: &[u8; FILE_KEY], text: &[u8]) -> SecretKey {
    crypto::extract(file_key, Label::AgeFileKey, &crypto::sha256(&[text]))
}

/// What breaks a stanza, as far as its bytes tell: what is not known is weak.
pub(super) fn strength(stanza: &Stanza) -> Strength {
    let Ok(inner) = inner(stanza) else { return Strength::QuantumWeak };
    let is = |kinds: &[&str]| {
        let one = |stanza: &AgeStanza| {
            stanza.args.first().is_some_and(|kind| kinds.contains(&kind.as_str()))
        };
        inner.iter().all(one)
    };
    match (is(&POST_QUANTUM), is(&[SCRYPT])) {
        (true, _) => Strength::PostQuantum,
        (false, true) => Strength::Other,
        (false, false) => Strength::QuantumWeak,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::system_rng;
    use crate::format::{Sha256, SnapshotId, Subject};

    fn text(args: &[&str]) -> Vec<u8> {
        let mut text = Vec::new();
        AgeStanza::print(args, b"body", &mut text);
        text
    }

    #[test]
    #[cfg(feature = "age-plugins")]
    fn a_stanza_is_bound_to_all_of_its_text() {
        let id = SnapshotId(1);
        let binding = Binding {
            subject: Subject::Snapshot(id),
            commitment: [1; 32],
            object: Sha256([2; 32]),
        };
        let key = SecretKey::new(|bytes| bytes.fill(5));
        let (file_key, text) = ([3; FILE_KEY], text(&["X25519", "a"]));
        let sealed = seal(KeyId([4; 16]), (&file_key, &text), &key, &binding, &mut system_rng());
        let stanza = sealed.unwrap();
        assert_eq!(stanza.body().len(), 2 + text.len() + SEALED);
        assert_eq!(open(&stanza, &file_key, &binding).unwrap().expose(), key.expose());
        let moved = Binding { commitment: [2; 32], ..binding };
        for at in 0..stanza.body().len() {
            let mut body = stanza.body().to_vec();
            body[at] ^= 1;
            let changed = Stanza::new(AGE, stanza.key_id(), &[], body).unwrap();
            assert!(open(&changed, &file_key, &binding).is_err(), "{at}");
        }
        assert!(open(&stanza, &file_key, &moved).is_err());
        assert!(open(&stanza, &[0; FILE_KEY], &binding).is_err());
        let long = vec![b'a'; MAX_TEXT + 1];
        let refused = seal(KeyId([4; 16]), (&file_key, &long), &key, &binding, &mut system_rng());
        assert_eq!(refused.err().unwrap().kind(), ErrorKind::Protocol);
    }

    #[test]
    fn what_a_quantum_computer_breaks_shows_in_the_types() {
        let of = |kinds: &[&str]| {
            let text: Vec<u8> = kinds.iter().flat_map(|kind| text(&[kind])).collect();
            let body = [&(text.len() as u16).to_be_bytes()[..], &text, &[0; SEALED]].concat();
            strength(&Stanza::new(AGE, KeyId([0; 16]), &[], body).unwrap())
        };
        assert_eq!(of(&["mlkem768x25519"]), Strength::PostQuantum);
        assert_eq!(of(&["scrypt"]), Strength::Other);
        for weak in [&["p256tag"][..], &["piv-p256"], &["mlkem768x25519", "X25519"], &["unknown"]] {
            assert_eq!(of(weak), Strength::QuantumWeak, "{weak:?}");
        }
    }

    #[test]
    fn recipients_and_identities_name_their_plugin() {
        // Of age-plugin-yubikey's and age-plugin-batchpass' documentation.
        let good = "age1yubikey1q2w7u3vpya839jxxuq8g0sedh3d740d4xvn639sqhr95ejj8vu3hyfumptt";
        let recipient: PluginRecipient = good.parse().unwrap();
        assert_eq!((recipient.plugin(), recipient.to_string()), ("yubikey", good.to_owned()));
        assert!(PluginRecipient::looks_like(good) && !PluginRecipient::looks_like("age1pq1qqq"));
        for bad in
            [&good.to_uppercase(), &good[..good.len() - 1], &good.replace("u3", "uu"), "age1x"]
        {
            assert!(bad.parse::<PluginRecipient>().is_err(), "{bad}");
        }
    }
}
