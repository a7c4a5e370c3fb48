//! Seals and opens single values.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::SmallVec;

use crate::crypto::{self, Extended, ExtendedCipher, Label, TAG_LEN};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    Migration, MigrationPhase, Uuid, VALUE_HEADER_LEN, VALUE_OVERHEAD, ValueHeader, ValueKeyId,
    ValueKeyState, ValueKeyring,
};
use crate::secret::SecretKey;
use crate::text::printable;

/// The value keys of one namespace, ready for use: seals under the primary key, opens what any of them sealed.
///
/// Every value is bound to its etcd key and its namespace, and opens with no other. Values that are not encrypted
/// pass only where a [migration](MigrationPhase) lets them: [`store`](Self::store) and [`open`](Self::open) follow it.
pub struct ValueCipher {
    namespace: Uuid,
    serial: u32,
    algorithm: Extended,
    primary: ValueKeyId,
    keys: Vec<Key>,
    migrate: Vec<Migration>,
    sealed: AtomicU64,
}

struct Key {
    id: ValueKeyId,
    state: ValueKeyState,
    secret: Option<SecretKey>,
    xaes: OnceLock<ExtendedCipher>,
    xchacha: OnceLock<ExtendedCipher>,
}

impl Key {
    fn cipher(&self, algorithm: Extended) -> Result<&ExtendedCipher> {
        let Some(secret) = self.secret.as_ref().filter(|_| self.state != ValueKeyState::Disabled)
        else {
            let state = self.state.name();
            return Err(Error::new(
                ErrorKind::WrongKey,
                format!("value key {} is {state}", self.id),
            ));
        };
        let slot = match algorithm {
            Extended::Xaes256Gcm => &self.xaes,
            Extended::XChaCha20Poly1305 => &self.xchacha,
        };
        Ok(slot.get_or_init(|| {
            let key = crypto::expand(secret, Label::ValueKey, &[algorithm.byte()]);
            ExtendedCipher::new(algorithm, &key)
        }))
    }
}

impl ValueCipher {
    /// A cipher with the keys of `keyring`, which seals by the AEAD that is fastest on this CPU.
    ///
    /// # Errors
    /// Usage when the keyring has no primary key.
    pub fn new(keyring: &ValueKeyring) -> Result<Self> {
        Self::with_algorithm(keyring, Extended::preferred())
    }

    /// As [`new`](Self::new), sealing by `algorithm`. Opening knows both.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_algorithm(keyring: &ValueKeyring, algorithm: Extended) -> Result<Self> {
        let mut primary = None;
        let mut keys = Vec::with_capacity(keyring.keys.len());
        for entry in &keyring.keys {
            if entry.state == ValueKeyState::Primary {
                primary = Some(entry.id);
            }
            keys.push(Key {
                id: entry.id,
                state: entry.state,
                secret: entry.key.as_ref().and_then(|key| SecretKey::from_slice(key.expose())),
                xaes: OnceLock::new(),
                xchacha: OnceLock::new(),
            });
        }
        Ok(Self {
            namespace: keyring.namespace,
            serial: keyring.serial,
            algorithm,
            primary: primary
                .ok_or_else(|| Error::usage("a value keyring without a primary key"))?,
            keys,
            migrate: keyring.migrate.clone(),
            sealed: AtomicU64::new(0),
        })
    }

    /// The namespace that values are bound to.
    #[must_use]
    pub fn namespace(&self) -> Uuid {
        self.namespace
    }

    /// The serial of the keyring it was made of.
    #[must_use]
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// The key that seals.
    #[must_use]
    pub fn primary(&self) -> ValueKeyId {
        self.primary
    }

    /// Values sealed by this cipher since it was made, or since the count was last taken.
    pub fn take_sealed(&self) -> u64 {
        self.sealed.swap(0, Ordering::Relaxed)
    }

    /// The phase of `key` on the way to encryption, or back.
    #[must_use]
    pub fn phase(&self, key: &[u8]) -> MigrationPhase {
        let entry = self.migrate.iter().find(|entry| key.starts_with(&entry.prefix));
        entry.map_or(MigrationPhase::Done, |entry| entry.phase)
    }

    /// Whether a value of `key` is written encrypted.
    #[must_use]
    pub fn encrypts(&self, key: &[u8]) -> bool {
        self.phase(key).encrypts()
    }

    /// Whether an unencrypted value of `key` is read.
    #[must_use]
    pub fn accepts_unencrypted(&self, key: &[u8]) -> bool {
        self.phase(key).accepts_unencrypted()
    }

    /// Whether an encrypted value of `key` is read.
    #[must_use]
    pub fn accepts_encrypted(&self, key: &[u8]) -> bool {
        self.phase(key).accepts_encrypted()
    }

    /// `value` as etcd is to hold it under `key`: encrypted, or unchanged where its phase says so.
    ///
    /// # Errors
    /// Usage for a value of gigabytes, and for one that would be stored unencrypted and starts like an encrypted one.
    pub fn store(&self, key: &[u8], value: &[u8]) -> Result<Vec<u8>> {
        if self.encrypts(key) {
            return self.seal(key, value);
        }
        if matches!(ValueHeader::split(value), Ok(None)) {
            return Ok(value.to_vec());
        }
        let text = "it starts like an encrypted value, and would be written unencrypted";
        Err(Error::usage(text).context(named(key)))
    }

    /// Encrypts `value` for the etcd key `key`: [`VALUE_OVERHEAD`] bytes longer.
    ///
    /// # Errors
    /// Usage for a value of gigabytes.
    pub fn seal(&self, key: &[u8], value: &[u8]) -> Result<Vec<u8>> {
        let mut buffer = Vec::with_capacity(value.len().saturating_add(VALUE_OVERHEAD));
        buffer.extend_from_slice(&[0; VALUE_HEADER_LEN]);
        buffer.extend_from_slice(value);
        buffer.extend_from_slice(&[0; TAG_LEN]);
        self.seal_in_place(key, &mut buffer)?;
        Ok(buffer)
    }

    /// Encrypts in place, without allocation for keys of ordinary length: the value stands in `buffer` between
    /// [`VALUE_HEADER_LEN`] bytes and [`TAG_LEN`] bytes that this fills.
    ///
    /// # Errors
    /// Usage for a buffer shorter than [`VALUE_OVERHEAD`], or of gigabytes.
    pub fn seal_in_place(&self, key: &[u8], buffer: &mut [u8]) -> Result<()> {
        let header = ValueHeader {
            algorithm: self.algorithm.byte(),
            key: self.primary,
            nonce: crypto::random(&mut crypto::system_rng()),
        };
        let parts = buffer
            .split_first_chunk_mut::<VALUE_HEADER_LEN>()
            .and_then(|(head, rest)| Some((head, rest.split_last_chunk_mut::<TAG_LEN>()?)));
        let Some((head, (body, tag))) = parts else {
            return Err(Error::usage("a buffer too short for header and tag"));
        };
        *head = header.print();
        let cipher = self.key(self.primary)?.cipher(self.algorithm)?;
        *tag = cipher
            .seal(&header.nonce, &self.associated(&header, key), body)
            .ok_or_else(|| Error::usage("a value too long to encrypt"))?;
        self.sealed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Decrypts what [`seal`](Self::seal) made for the same `key`.
    ///
    /// # Errors
    /// [`WrongKey`](ErrorKind::WrongKey) when its value key is unknown, disabled or destroyed;
    /// [`Tampered`](ErrorKind::Tampered) when it was changed or belongs to another key or namespace, and when it is not
    /// encrypted and no migration lets it pass; truncated and unsupported as their names say. Each names the key.
    pub fn open(&self, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
        let Some((header, rest)) = self.header(key, sealed)? else {
            return Ok(sealed.to_vec());
        };
        let short = || Error::truncated("an encrypted value without a tag");
        let (body, tag) = rest.split_last_chunk::<TAG_LEN>().ok_or_else(short)?;
        let mut body = body.to_vec();
        self.decrypt(&header, key, &mut body, tag)?;
        Ok(body)
    }

    /// As [`open`](Self::open), in place and without allocation for keys of ordinary length: the value is the part
    /// of `sealed` that is returned. When it fails, `sealed` is as it was.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_in_place<'a>(&self, key: &[u8], sealed: &'a mut [u8]) -> Result<&'a mut [u8]> {
        let Some((header, _)) = self.header(key, sealed)? else {
            return Ok(sealed);
        };
        let short = || Error::truncated("an encrypted value without a tag");
        let (_, rest) = sealed.split_at_mut_checked(VALUE_HEADER_LEN).ok_or_else(short)?;
        let (body, tag) = rest.split_last_chunk_mut::<TAG_LEN>().ok_or_else(short)?;
        self.decrypt(&header, key, body, tag)?;
        Ok(body)
    }

    fn header<'a>(&self, key: &[u8], sealed: &'a [u8]) -> Result<Option<(ValueHeader, &'a [u8])>> {
        let split = ValueHeader::split(sealed).map_err(|error| error.context(named(key)))?;
        let phase = self.phase(key);
        let refused =
            |text: &str, hint: &str| Err(Error::tampered(text).context(named(key)).hint(hint));
        match split {
            None if !phase.accepts_unencrypted() => refused(
                "it is not encrypted: it was written before its prefix was encrypted, or to etcd without the proxy",
                "to read such values run `strongroom value migrate --prefix … --phase admit`, to encrypt them \
                 `--phase encrypt`",
            ),
            Some(_) if !phase.accepts_encrypted() => refused(
                "it is encrypted, and its key is in phase off",
                "to read encrypted values run `strongroom value migrate --prefix … --phase admit`",
            ),
            split => Ok(split),
        }
    }

    fn decrypt(
        &self,
        header: &ValueHeader,
        key: &[u8],
        body: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<()> {
        let cipher = Extended::from_byte(header.algorithm)
            .ok_or_else(|| Error::unsupported(format!("algorithm {}", header.algorithm)))
            .and_then(|algorithm| self.key(header.key)?.cipher(algorithm));
        let cipher = cipher.map_err(|error| error.context(named(key)))?;
        cipher.open(&header.nonce, &self.associated(header, key), body, tag).ok_or_else(|| {
            Error::tampered(
                "it does not verify: it was changed, or belongs to another key or namespace",
            )
            .context(named(key))
        })
    }

    fn key(&self, id: ValueKeyId) -> Result<&Key> {
        self.keys.iter().find(|key| key.id == id).ok_or_else(|| {
            Error::new(ErrorKind::WrongKey, format!("value key {id} is not in the keyring"))
                .hint("the value belongs to another namespace, or this keyring is an older one")
        })
    }

    /// label ‖ 00 ‖ bytes[0..8] ‖ namespace ‖ etcd key.
    fn associated(&self, header: &ValueHeader, key: &[u8]) -> SmallVec<[u8; 256]> {
        let mut data = SmallVec::new();
        data.extend_from_slice(Label::Value.as_str().as_bytes());
        data.push(0);
        data.extend_from_slice(&header.prefix());
        data.extend_from_slice(&self.namespace.0);
        data.extend_from_slice(key);
        data
    }
}

/// The key as a message may repeat it.
fn named(key: &[u8]) -> String {
    let (shown, more) = key.split_at_checked(128).map_or((key, ""), |(shown, _)| (shown, "…"));
    format!("value of {}{more}", printable(shown))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::system_rng;
    use crate::format::Time;
    use crate::values::keyring;

    const NOW: Time = Time::from_unix(1_769_860_800);

    #[test]
    fn what_is_not_as_sealed_does_not_open() {
        let keys = keyring::generate(NOW, &mut system_rng());
        let cipher = ValueCipher::new(&keys).unwrap();
        let other = ValueCipher::new(&keyring::generate(NOW, &mut system_rng())).unwrap();
        let sealed = cipher.seal(b"a", b"secret").unwrap();
        assert_eq!(sealed.len(), 6 + VALUE_OVERHEAD);
        let kind = |cipher: &ValueCipher, key: &[u8], sealed: &[u8]| {
            let error = cipher.open(key, sealed).unwrap_err();
            assert!(!error.to_string().contains("secret"));
            error.kind()
        };
        assert_eq!(kind(&cipher, b"b", &sealed), ErrorKind::Tampered);
        assert_eq!(kind(&other, b"a", &sealed), ErrorKind::WrongKey);
        assert_eq!(kind(&cipher, b"a", b"clear"), ErrorKind::Tampered);
        // Another namespace that knows the same key.
        let mut moved = keys;
        moved.namespace = Uuid([9; 16]);
        let moved = ValueCipher::new(&moved).unwrap();
        assert_eq!(kind(&moved, b"a", &sealed), ErrorKind::Tampered);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            let before = changed.clone();
            assert!(cipher.open_in_place(b"a", &mut changed).is_err(), "{at}");
            assert_eq!(changed, before, "a failed opening changes nothing");
        }
        assert!(cipher.seal_in_place(b"a", &mut [0; VALUE_OVERHEAD - 1]).is_err());
        assert_eq!(cipher.take_sealed(), 1);
    }

    #[test]
    fn keys_follow_their_states() {
        let mut keys = keyring::generate(NOW, &mut system_rng());
        let old = ValueCipher::new(&keys).unwrap();
        let sealed = old.seal(b"a", b"1").unwrap();
        let next = keyring::stage(&mut keys, NOW, &mut system_rng());
        assert_eq!(ValueCipher::new(&keys).unwrap().primary(), old.primary());
        keyring::promote(&mut keys, next).unwrap();
        let new = ValueCipher::new(&keys).unwrap();
        assert_eq!((new.primary(), new.open(b"a", &sealed).unwrap()), (next, b"1".to_vec()));
        keyring::disable(&mut keys, old.primary()).unwrap();
        let error = ValueCipher::new(&keys).unwrap().open(b"a", &sealed).unwrap_err();
        assert!(error.kind() == ErrorKind::WrongKey && error.to_string().contains("disabled"));
    }

    #[test]
    fn values_follow_their_phase() {
        let mut keys = keyring::generate(NOW, &mut system_rng());
        let sealed = ValueCipher::new(&keys).unwrap().seal(b"/old/a", b"v").unwrap();
        for phase in MigrationPhase::ALL {
            keys.migrate = vec![Migration { prefix: b"/old/".to_vec(), phase }];
            let cipher = ValueCipher::new(&keys).unwrap();
            let kind = |value: &[u8]| cipher.open(b"/old/a", value).map_err(|error| error.kind());
            let passes = |passes: bool, value: &[u8]| match passes {
                true => Ok(value.to_vec()),
                false => Err(ErrorKind::Tampered),
            };
            assert_eq!(kind(b"text"), passes(phase != MigrationPhase::Done, b"text"), "{phase:?}");
            assert_eq!(kind(&sealed), passes(phase != MigrationPhase::Off, b"v"), "{phase:?}");
            assert!(cipher.open(b"/old/a", b"\0SR but not").is_err());
            // Other keys are under no migration.
            assert!(cipher.open(b"/new/a", b"text").is_err());
            assert!(cipher.encrypts(b"/new/a"));
            let stored = cipher.store(b"/old/a", b"w").unwrap();
            assert_eq!(stored == b"w", !phase.encrypts());
            assert_eq!(cipher.open(b"/old/a", &stored).unwrap(), b"w");
            assert_eq!(cipher.store(b"/old/a", b"\0SR").is_ok(), phase.encrypts());
        }
    }

    proptest! {
        #[test]
        fn any_value_round_trips(key: Vec<u8>, value: Vec<u8>, xaes: bool) {
            let algorithm = if xaes { Extended::Xaes256Gcm } else { Extended::XChaCha20Poly1305 };
            let keys = keyring::generate(NOW, &mut system_rng());
            let cipher = ValueCipher::with_algorithm(&keys, algorithm).unwrap();
            let mut sealed = cipher.seal(&key, &value).unwrap();
            prop_assert_eq!(&cipher.open(&key, &sealed).unwrap(), &value);
            prop_assert_eq!(cipher.open_in_place(&key, &mut sealed).unwrap(), &value[..]);
        }
    }
}
