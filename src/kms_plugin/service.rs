//! A master key that a service keeps: the service seals a key encryption key (KEK) of this process, and that encrypts what the
//! API server wants encrypted. The sealed KEK travels with each ciphertext, as an annotation.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use tokio::time::timeout;
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::crypto::{constant_time_eq, sha256, system_rng};
use crate::custody::{KmsUri, WrappingKey, wrapping_key};
use crate::error::{Error, ErrorKind, Result};
use crate::format::KeyId;
use crate::keys::{decrypt_under, encrypt_under};
use crate::secret::SecretKey;

/// The name of the annotation with the sealed KEK.
pub(super) const ANNOTATION: &str = "kek.strongroom.dev";

/// How long the service may take when the API server asks for the status: it waits for three seconds itself.
const BUDGET: Duration = Duration::from_secs(2);
/// For how long a KEK encrypts after the service last opened it. The API server's own limit is the same.
const CONFIRMED_FOR: Duration = Duration::from_secs(180);
/// KEKs that are remembered: one of each start of a plugin, and of each key of the service.
const MAX_OPENED: usize = 1024;
const NOT_ASKED: &str = "the service was not asked yet";
/// A longer name of a key at the service is hashed. Kubernetes allows 1,024 bytes in all.
const MAX_VERSION: usize = 200;

/// What `Encrypt` answers.
pub(super) struct Encrypted {
    pub(super) ciphertext: Vec<u8>,
    pub(super) key_id: String,
    /// The value of the annotation, where a service keeps the key.
    pub(super) kek: Option<Vec<u8>>,
}

/// The key of a service, and what this process has of it.
pub(super) struct Service {
    key: Arc<dyn WrappingKey>,
    state: Mutex<State>,
    /// Held by the one who asks for the state of the service.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// What encrypts now.
    kek: Option<Arc<Kek>>,
    /// The key id that was reported last, and all that ever were.
    reported: Option<String>,
    all: BTreeSet<String>,
    /// Why the service cannot be used now.
    trouble: Option<String>,
    /// When it was asked last, and when it last opened what it had sealed.
    asked: Option<Instant>,
    confirmed: Option<Instant>,
    /// Opened KEKs, by SHA-256 of the sealed ones.
    opened: HashMap<[u8; 32], Arc<SecretKey>>,
}

struct Kek {
    /// The key id for Kubernetes.
    id: String,
    key: Arc<SecretKey>,
    sealed: Vec<u8>,
}

impl Service {
    /// Asks the service. One that does not answer is asked again later.
    ///
    /// # Errors
    /// What somebody has to put right: a key that is refused, another answer than Kubernetes' code would accept.
    pub(super) async fn open(uri: &KmsUri) -> Result<Self> {
        let (state, asking) = (Mutex::default(), tokio::sync::Mutex::default());
        let this = Self { key: wrapping_key(uri)?, state, asking };
        let (asked, outcome) = this.ask().await;
        match outcome {
            Err(error) if error.kind() != ErrorKind::Unreachable => return Err(error),
            outcome => this.note(asked, outcome),
        }
        Ok(this)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the service, unless it was asked `within` this time.
    pub(super) async fn look(&self, within: Duration) {
        let now = Instant::now();
        let since = now.checked_sub(within).unwrap_or(now);
        let _turn = self.asking.lock().await;
        if self.state().asked.is_some_and(|asked| asked >= since) {
            return;
        }
        let (asked, outcome) = self.ask().await;
        self.note(asked, outcome);
    }

    /// When the service was asked, and for what it can be used.
    async fn ask(&self) -> (Instant, Result<Arc<Kek>>) {
        let asked = Instant::now();
        let outcome = timeout(BUDGET, self.usable()).await.unwrap_or_else(|_| {
            let message = format!("no answer within {} s", BUDGET.as_secs());
            Err(Error::new(ErrorKind::Unreachable, message))
        });
        (asked, outcome)
    }

    /// The KEK in use, if it is of the key with which the service seals now, or else a new one. The service has just opened it:
    /// what it does not open must not encrypt anything.
    async fn usable(&self) -> Result<Arc<Kek>> {
        let (key, sealed) = self.key.fresh().await?;
        let id = self.name(&sealed);
        let in_use = self.state().kek.clone().filter(|kek| kek.id == id);
        let is_new = in_use.is_none();
        let kek = in_use.unwrap_or_else(|| Arc::new(Kek { id, key: Arc::new(key), sealed }));
        // This process may have the only copy of a KEK that the service has lost, so that is not taken for a refusal.
        let lost = |why: &str| {
            let message = format!("the service does not open what it has sealed{why}");
            Error::tampered(message).hint(
                "rotate the key at the service, and write each Secret again before this plugin ends",
            )
        };
        match self.key.open(&kek.sealed).await {
            Ok(opened) if constant_time_eq(opened.expose(), kek.key.expose()) => Ok(kek),
            Ok(_) => Err(lost("")),
            Err(error) if is_new || error.kind() == ErrorKind::Unreachable => Err(error),
            Err(error) => Err(lost(&format!(": {error}"))),
        }
    }

    /// The key id for Kubernetes of what is encrypted under `sealed`: it changes when the service rotates its key.
    fn name(&self, sealed: &[u8]) -> String {
        let id = self.key.id();
        match self.key.version(sealed) {
            None => id.to_string(),
            Some(version) => format!("{id}:{}", readable(version)),
        }
    }

    fn note(&self, asked: Instant, outcome: Result<Arc<Kek>>) {
        let mut state = self.state();
        state.asked = Some(asked);
        match outcome.and_then(|kek| state.adopt(kek)) {
            Ok(()) => {
                state.confirmed = Some(asked);
                if state.trouble.take().is_some() {
                    info!(event = "kms_service_available", key = state.reported);
                }
            }
            Err(error) => {
                // Whoever disables the key wants nothing decrypted with it any more.
                if error.kind() == ErrorKind::WrongKey {
                    (state.kek, state.opened) = (None, HashMap::new());
                }
                let why = error.to_string();
                if state.trouble.as_ref() != Some(&why) {
                    warn!(
                        event = "kms_service_unavailable",
                        error = why,
                        kind = error.kind().name(),
                        hint = error.hint_text(),
                    );
                }
                state.trouble = Some(why);
            }
        }
    }

    /// The key id that the status reports. None while the service cannot be used: with one the API server would go on writing,
    /// however unhealthy the plugin says that it is.
    ///
    /// # Errors
    /// Why the service cannot be used, as of the last time it was asked.
    pub(super) fn reported(&self) -> Result<String, String> {
        let state = self.state();
        match (&state.trouble, &state.reported) {
            (Some(why), _) => Err(why.clone()),
            (None, Some(id)) => Ok(id.clone()),
            (None, None) => Err(NOT_ASKED.into()),
        }
    }

    /// Encrypts with what the service has confirmed a short time ago.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a text of the wrong length; [`ErrorKind::Unreachable`] when the service cannot be used.
    pub(super) async fn encrypt(&self, text: &[u8]) -> Result<Encrypted> {
        let is_confirmed = |state: &State| {
            state.confirmed.is_some_and(|confirmed| confirmed.elapsed() < CONFIRMED_FOR)
        };
        if !is_confirmed(&self.state()) {
            self.look(Duration::ZERO).await;
        }
        let kek = {
            let state = self.state();
            state.kek.clone().filter(|_| is_confirmed(&state)).ok_or_else(|| {
                let why = state.trouble.as_deref().unwrap_or(NOT_ASKED);
                Error::new(ErrorKind::Unreachable, why)
            })?
        };
        let ciphertext = encrypt_under(&kek.key, self.key.id(), text, &mut system_rng())?;
        Ok(Encrypted { ciphertext, key_id: kek.id.clone(), kek: Some(kek.sealed.clone()) })
    }

    /// Decrypts what any plugin with this key encrypted; `key_id` and `sealed` are what it answered.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for another key's; those of the service, and of [`decrypt_under`].
    pub(super) async fn decrypt(
        &self,
        key_id: (KeyId, &str),
        sealed: &[u8],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>> {
        let (id, whole) = key_id;
        if id != self.key.id() {
            let message = format!("key {id} is not the one that this plugin uses");
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        if whole != self.name(sealed) {
            return Err(Error::usage("the key id is not that of the annotation"));
        }
        let digest = sha256(&[sealed]);
        let known = self.state().known(&digest, sealed);
        if let Some(key) = known {
            return decrypt_under(&key, id, ciphertext);
        }
        let key = Arc::new(self.key.open(sealed).await?);
        let text = decrypt_under(&key, id, ciphertext)?;
        // What does not decrypt is not remembered: anyone who writes to etcd can make such.
        self.state().remember(digest, key);
        Ok(text)
    }
}

impl State {
    fn remember(&mut self, digest: [u8; 32], key: Arc<SecretKey>) {
        if self.opened.len() >= MAX_OPENED {
            self.opened.clear();
        }
        self.opened.insert(digest, key);
    }

    /// The KEK that was sealed to `sealed`, which has this digest.
    fn known(&self, digest: &[u8; 32], sealed: &[u8]) -> Option<Arc<SecretKey>> {
        let in_use = self.kek.as_ref().filter(|kek| kek.sealed == sealed);
        in_use.map(|kek| &kek.key).or_else(|| self.opened.get(digest)).cloned()
    }

    /// Puts `kek` to use.
    fn adopt(&mut self, kek: Arc<Kek>) -> Result<()> {
        let is_same = self.reported.as_ref() == Some(&kek.id);
        if !is_same && self.all.contains(&kek.id) {
            let message = format!("the service went back to its key {}", kek.id);
            return Err(Error::new(ErrorKind::Refused, message)
                .hint("Kubernetes does not allow it: rotate the key at the service"));
        }
        if !is_same && self.all.len() >= MAX_OPENED {
            let message =
                format!("the service has named {MAX_OPENED} keys since this plugin started");
            return Err(Error::new(ErrorKind::Refused, message).hint(
                "a key that seals must keep its name: look at the service, then restart the plugin",
            ));
        }
        if let Some(old) = self.reported.as_ref().filter(|_| !is_same) {
            info!(event = "kms_key_changed", key = kek.id, previous = old);
        }
        self.all.insert(kek.id.clone());
        self.reported = Some(kek.id.clone());
        // It stays readable when another one is in use.
        if self.kek.as_ref().is_none_or(|old| old.sealed != kek.sealed) {
            self.remember(sha256(&[&kek.sealed]), Arc::clone(&kek.key));
        }
        self.kek = Some(kek);
        Ok(())
    }
}

/// The service's name of its key as a part of a key id: as it is, if it is short and plain.
fn readable(version: String) -> String {
    let is_plain = version.bytes().all(|b| b.is_ascii_graphic());
    match is_plain && (1..=MAX_VERSION).contains(&version.len()) {
        true => version,
        false => HEXLOWER.encode(&sha256(&[version.as_bytes()])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kek(id: &str) -> Arc<Kek> {
        let key = Arc::new(SecretKey::random(&mut system_rng()));
        Arc::new(Kek { id: id.into(), key, sealed: id.as_bytes().to_vec() })
    }

    #[test]
    fn a_key_of_the_service_never_returns() {
        let mut state = State::default();
        for id in ["k:v1", "k:v1", "k:v2"] {
            state.adopt(kek(id)).unwrap();
        }
        assert_eq!(state.opened.len(), 2, "one KEK for each key of the service");
        assert_eq!(state.adopt(kek("k:v1")).unwrap_err().kind(), ErrorKind::Refused);
        assert_eq!(state.reported.as_deref(), Some("k:v2"));
        // After the service refused it for a while, the same one is used again.
        state.kek = None;
        state.adopt(kek("k:v2")).unwrap();
        assert!(state.kek.is_some());
        // Names without end do not fill the memory.
        let more = (0..).find(|n| state.adopt(kek(&format!("k:n{n}"))).is_err());
        assert_eq!((more, state.all.len()), (Some(MAX_OPENED - 2), MAX_OPENED));
    }

    #[test]
    fn a_long_or_strange_name_is_hashed() {
        assert_eq!(readable("v12".into()), "v12");
        for strange in ["", "a b", "\u{e9}", &"x".repeat(MAX_VERSION + 1)] {
            assert_eq!(readable(strange.into()).len(), 64, "{strange}");
        }
    }
}
