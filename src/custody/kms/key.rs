//! A master key of any service: wrapping keys, limits of time, tries and what is remembered.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use super::service::{Call, Failure, Service};
use super::{KmsRole, KmsUri};
use crate::crypto::{self, CryptoRng, Suite};
use crate::error::{Error, ErrorKind, Result};
#[cfg(feature = "kms-plugin")]
use crate::format::MAX_KMS_BLOB;
use crate::format::{KeyId, KeyState, KmsBody, Stanza};
use crate::keys::{Binding, Effort, Identity, KeyFuture, KeySet, Recipient, kms_key_id};
use crate::secret::SecretKey;

/// The kind of its stanzas.
const KIND: &str = "kms";
/// How long a call may take.
const CALL: Duration = Duration::from_secs(10);
/// How often a call is tried that is not answered. With the pauses no stanza takes longer than 30 seconds.
const TRIES: u32 = 2;
/// For how long a service that did not answer is not asked again: each of many seals would wait for it.
const DOWN: Duration = Duration::from_secs(10);
/// One that has just sealed is not asked for as long whether it does.
const SEEN: Duration = Duration::from_secs(10);
/// Opened wrapping keys that are remembered, a snapshot each.
const MAX_OPENED: usize = 1 << 14;
/// Seals that share a wrapping key, in a job that writes many.
const SHARED: u32 = 1000;

/// A key that a service keeps.
pub(super) struct KmsKey {
    id: KeyId,
    provider: u8,
    scheme: &'static str,
    /// As in messages.
    name: String,
    service: Arc<dyn Service>,
    known: Arc<Known>,
    /// What [`check`](Recipient::check) had sealed, and when, where only that shows whether the service seals: the next seal
    /// takes it.
    ready: Mutex<Option<(Instant, SecretKey, Vec<u8>)>>,
    /// In a job that writes many seals: the wrapping key, what the service made of it, and for how many more.
    shared: Option<tokio::sync::Mutex<Option<Shared>>>,
}

struct Shared {
    key: SecretKey,
    blob: Vec<u8>,
    left: u32,
}

/// What a service has answered. An agent opens its keys again for each piece of work, and does not ask again.
#[derive(Default)]
struct Known {
    /// Wrapping keys, by SHA-256 of what they were opened from.
    opened: Mutex<HashMap<[u8; 32], SecretKey>>,
    down: Mutex<Option<(Instant, String)>>,
    /// The service's own name of the key that seals now.
    version: Mutex<Option<String>>,
}

impl KmsKey {
    pub(super) fn new(uri: &KmsUri, service: Arc<dyn Service>) -> Self {
        static KNOWN: Mutex<BTreeMap<KeyId, Arc<Known>>> = Mutex::new(BTreeMap::new());
        let id = kms_key_id(uri.provider().scheme(), uri.identity());
        let known = Arc::clone(lock(&KNOWN).entry(id).or_default());
        let (provider, scheme) = (uri.provider().byte(), uri.provider().scheme());
        Self {
            id,
            provider,
            scheme,
            name: uri.name(),
            service,
            known,
            ready: Mutex::default(),
            shared: None,
        }
    }

    /// Adds it to `keys` as what `role` says.
    pub(super) fn add_to(self, role: KmsRole, keys: &mut KeySet) {
        match role {
            KmsRole::Both(state) => keys.add(Arc::new(self), state),
            KmsRole::SealOnly => keys.add_recipient(Arc::new(self), KeyState::Sealing),
        }
    }

    /// The outcome of a call, which may be made twice.
    async fn call<'a, T>(
        &'a self,
        once: impl Fn(&'a dyn Service) -> Call<'a, T> + Send + Sync,
    ) -> Result<T, Failure> {
        if Handle::try_current().is_err() {
            return Err(Failure::Down("this part of the program cannot wait for a service".into()));
        }
        if let Some((since, why)) = &*lock(&self.known.down)
            && since.elapsed() < DOWN
        {
            return Err(Failure::Down(why.clone()));
        }
        let mut last = String::new();
        for attempt in 0..TRIES {
            if attempt > 0 {
                sleep(pause()).await;
            }
            match timeout(CALL, once(self.service.as_ref())).await {
                Ok(Err(Failure::Down(why))) => last = why,
                Ok(answered) => return answered,
                Err(_) => last = format!("no answer within {} s", CALL.as_secs()),
            }
        }
        *lock(&self.known.down) = Some((Instant::now(), last.clone()));
        Err(Failure::Down(last))
    }

    /// `wrong` is the class of what a service must not answer.
    fn error(&self, failure: Failure, wrong: ErrorKind) -> Error {
        let (kind, message) = match failure {
            Failure::Down(why) => (ErrorKind::Unreachable, format!("not available: {why}")),
            Failure::Refused(why) => {
                (ErrorKind::WrongKey, format!("refused by the service: {why}"))
            }
            Failure::Wrong(why) => (wrong, why),
            Failure::Here(error) => return error.context(self.name.clone()),
        };
        Error::new(kind, format!("{}: {message}", self.name))
    }

    async fn fresh(&self, rng: &mut (dyn CryptoRng + Send)) -> Result<(SecretKey, Vec<u8>)> {
        let key = SecretKey::random(rng);
        let blob = self.call(|service| service.wrap(&key)).await;
        let blob = blob.map_err(|failure| self.error(failure, ErrorKind::Protocol))?;
        *lock(&self.known.version) = self.service.version(&blob);
        Ok((key, blob))
    }

    /// Sees whether the service seals.
    async fn see(&self) -> Result<()> {
        if self.service.shows_by_sealing() {
            if lock(&self.ready).as_ref().is_some_and(|(at, ..)| at.elapsed() < SEEN) {
                return Ok(());
            }
            let (key, blob) = self.fresh(&mut crypto::system_rng()).await?;
            *lock(&self.ready) = Some((Instant::now(), key, blob));
            return Ok(());
        }
        let version = self.call(|service| service.status()).await;
        let version = version.map_err(|failure| self.error(failure, ErrorKind::Protocol))?;
        *lock(&self.known.version) = version;
        Ok(())
    }

    fn stanza(
        &self,
        (key, blob): (&SecretKey, &[u8]),
        data_key: &SecretKey,
        binding: &Binding,
        rng: &mut dyn CryptoRng,
    ) -> Result<Stanza> {
        let context = binding.context(self.id, KIND);
        let sealed = crypto::seal(Suite::Aes256Gcm, key, &context, data_key.expose(), rng)?;
        let body = KmsBody { provider: self.provider, blob, sealed: &sealed };
        let body = body.print().map_err(|error| error.context(self.name.clone()))?;
        Stanza::new(KIND, self.id, &[], body)
    }

    async fn seal(
        &self,
        data_key: &SecretKey,
        binding: &Binding,
        rng: &mut (dyn CryptoRng + Send),
    ) -> Result<Stanza> {
        let Some(shared) = &self.shared else {
            let ready = lock(&self.ready).take();
            let (key, blob) = match ready {
                Some((_, key, blob)) => (key, blob),
                None => self.fresh(rng).await?,
            };
            return self.stanza((&key, &blob), data_key, binding, rng);
        };
        let mut shared = shared.lock().await;
        let mut present = match shared.take().filter(|present| present.left > 0) {
            Some(present) => present,
            None => {
                let (key, blob) = self.fresh(rng).await?;
                Shared { key, blob, left: SHARED }
            }
        };
        let stanza = self.stanza((&present.key, &present.blob), data_key, binding, rng);
        present.left = present.left.saturating_sub(1);
        *shared = Some(present);
        stanza
    }

    async fn open(&self, stanza: &Stanza, binding: &Binding) -> Result<SecretKey> {
        let body = KmsBody::parse(stanza.body())?;
        if body.provider != self.provider || stanza.args().next().is_some() {
            return Err(Error::tampered("a stanza of the kind kms is malformed"));
        }
        let digest = crypto::sha256(&[body.blob]);
        let known = lock(&self.known.opened).get(&digest).map(SecretKey::duplicate);
        let key = match known {
            Some(key) => key,
            None => self.answered(body.blob).await?,
        };
        let context = binding.context(self.id, KIND);
        let opened = crypto::open(Suite::Aes256Gcm, &key, &context, body.sealed);
        let opened = opened.ok().and_then(|opened| SecretKey::from_slice(&opened));
        let opened = opened.ok_or_else(|| {
            self.wrong(
                "the stanza was altered, or the service answered with another key's plaintext",
            )
        })?;
        // What does not open is not remembered: anyone can make such.
        let mut known = lock(&self.known.opened);
        if known.len() >= MAX_OPENED {
            known.clear();
        }
        known.insert(digest, key);
        Ok(opened)
    }

    /// The wrapping key that the service opens `blob` to.
    async fn answered(&self, blob: &[u8]) -> Result<SecretKey> {
        let answer = self.call(|service| service.unwrap(blob)).await;
        let answer = answer.map_err(|failure| self.error(failure, ErrorKind::Tampered))?;
        SecretKey::from_slice(answer.expose()).ok_or_else(|| {
            let length = answer.expose().len();
            self.wrong(&format!("the service answered with {length} bytes, not with 32"))
        })
    }

    fn wrong(&self, why: &str) -> Error {
        Error::tampered(format!("{}: {why}", self.name))
    }
}

#[cfg(feature = "kms-plugin")]
impl super::WrappingKey for KmsKey {
    fn id(&self) -> KeyId {
        self.id
    }

    fn fresh(&self) -> KeyFuture<'_, (SecretKey, Vec<u8>)> {
        Box::pin(async move {
            let (key, blob) = Self::fresh(self, &mut crypto::system_rng()).await?;
            if blob.len() > MAX_KMS_BLOB {
                let message = format!("{}: the service's answer is too long", self.name);
                return Err(Error::new(ErrorKind::Protocol, message));
            }
            Ok((key, [&[self.provider][..], &blob].concat()))
        })
    }

    fn open<'a>(&'a self, sealed: &'a [u8]) -> KeyFuture<'a, SecretKey> {
        Box::pin(async move {
            match sealed.split_first() {
                Some((provider, blob))
                    if *provider == self.provider && blob.len() <= MAX_KMS_BLOB =>
                {
                    self.answered(blob).await
                }
                _ => Err(self.wrong("the sealed wrapping key is malformed")),
            }
        })
    }

    fn version(&self, sealed: &[u8]) -> Option<String> {
        sealed.split_first().and_then(|(_, blob)| self.service.version(blob))
    }
}

impl Recipient for KmsKey {
    fn id(&self) -> KeyId {
        self.id
    }

    /// Two keys of one kind of service may be of one account, server or token: whether they are is unknown here.
    fn service(&self) -> Option<String> {
        Some(format!("a {} service", self.scheme))
    }

    fn wrap<'a>(
        &'a self,
        data_key: &'a SecretKey,
        binding: &'a Binding,
        rng: &'a mut (dyn CryptoRng + Send),
    ) -> KeyFuture<'a, Stanza> {
        Box::pin(self.seal(data_key, binding, rng))
    }

    fn check(&self) -> KeyFuture<'_, ()> {
        Box::pin(self.see())
    }

    fn sharing(&self) -> Option<Arc<dyn Recipient>> {
        Some(Arc::new(Self {
            id: self.id,
            provider: self.provider,
            scheme: self.scheme,
            name: self.name.clone(),
            service: Arc::clone(&self.service),
            known: Arc::clone(&self.known),
            ready: Mutex::default(),
            shared: Some(tokio::sync::Mutex::default()),
        }))
    }

    fn is_older(&self, stanza: &Stanza) -> bool {
        let sealed = KmsBody::parse(stanza.body()).ok();
        let sealed = sealed.and_then(|body| self.service.version(body.blob));
        let present = lock(&self.known.version);
        matches!((sealed, &*present), (Some(sealed), Some(present)) if sealed != *present)
    }
}

impl Identity for KmsKey {
    fn ids(&self) -> Vec<KeyId> {
        vec![self.id]
    }

    fn unwrap<'a>(
        &'a self,
        stanza: &'a Stanza,
        binding: &'a Binding,
    ) -> KeyFuture<'a, Option<SecretKey>> {
        Box::pin(async move {
            match stanza.kind() == KIND && stanza.key_id() == self.id {
                true => self.open(stanza, binding).await.map(Some),
                false => Ok(None),
            }
        })
    }

    fn effort(&self, stanza: &Stanza) -> Effort {
        let digest = KmsBody::parse(stanza.body()).map(|body| crypto::sha256(&[body.blob]));
        match digest {
            Ok(digest) if lock(&self.known.opened).contains_key(&digest) => Effort::Remembered,
            _ => Effort::Service,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Between 0.2 and 1.2 seconds, so that hosts which failed together do not come again together.
fn pause() -> Duration {
    let [random] = crypto::random::<1>(&mut crypto::system_rng());
    Duration::from_millis(200 + u64::from(random) * 4)
}
