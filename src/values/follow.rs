//! Follows the record in etcd, so that a process uses the value keys in it.
//!
//! Every few seconds the record is read linearizably; a watch only says when to read it sooner. Reading stays possible
//! with the last keyring whatever happens to the record. Writing needs a record that was confirmed a moment ago: so
//! [`SETTLE`] after a change of the record every process either follows it or does not write.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use etcd_client::Client;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::record::{self, Record};
use super::{ValueCipher, keyring};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{ValueKeyId, ValueKeyring};
use crate::keys::KeySet;
use crate::limit::limited;

/// How long after a change of the keyring every process follows it or does not write. A write begins at most 8 s after
/// the keyring was last confirmed, and is given up when that was this long ago.
pub const SETTLE: Duration = Duration::from_secs(10);
/// How long values are written after the record was last confirmed.
const FRESH: Duration = Duration::from_secs(8);
/// Between two looks at the record.
const CONFIRM: Duration = Duration::from_secs(3);
/// Between two looks while something is wrong.
const RETRY: Duration = Duration::from_millis(500);
/// How long one look may take.
const LOOK: Duration = Duration::from_secs(3);
/// How often usage counts are added to etcd's.
const USAGE_INTERVAL: Duration = Duration::from_secs(60);

/// What to do about a record under a retired master key.
pub(super) const UNTRUSTED: &str = "`strongroom value rotate` makes a new value key and seals the keyring to the present master key; anyone who has the retired one may have written this record";

/// What all clones of a namespace share.
pub(super) struct Shared {
    client: RwLock<Client>,
    pub(super) prefix: Vec<u8>,
    pub(super) masters: Arc<KeySet>,
    pub(super) state: watch::Sender<State>,
    /// Held while the record is read and taken into use, so that an older answer never comes after a newer one.
    pub(super) looking: tokio::sync::Mutex<Looked>,
    /// Asks for a look at once.
    look_now: Notify,
    /// Counts of ciphers that a newer keyring replaced.
    counted: Mutex<BTreeMap<ValueKeyId, u64>>,
}

/// The keys in use, and whether values may be written under them.
pub(super) struct State {
    pub(super) cipher: Arc<ValueCipher>,
    /// When the last look began that found the record in use.
    confirmed: Instant,
    /// Why the record in etcd is not the one in use, if it is not.
    refused: Option<String>,
    /// Why the last look failed.
    lost: Option<String>,
}

/// The last record that was taken into use.
pub(super) struct Looked {
    bytes: Vec<u8>,
    /// When the last look began.
    begun: Instant,
}

impl Looked {
    /// Whether `record` is the one in use.
    pub(super) fn is(&self, record: &[u8]) -> bool {
        self.bytes == record
    }
}

impl State {
    /// By when a write that begins now has to have happened.
    pub(super) fn lands_by(&self) -> Instant {
        self.confirmed.checked_add(SETTLE).unwrap_or(self.confirmed)
    }

    /// Why nothing may be written now.
    pub(super) fn trouble(&self) -> Option<String> {
        if let Some(why) = &self.refused {
            return Some(why.clone());
        }
        (self.confirmed.elapsed() > FRESH).then(|| {
            let why = self.lost.as_deref().unwrap_or("no answer");
            format!("the value keyring was not confirmed for {} s: {why}", FRESH.as_secs())
        })
    }
}

impl Shared {
    /// With the keys of `record`, which was read after `begun`.
    pub(super) async fn new(
        client: Client,
        prefix: &[u8],
        masters: Arc<KeySet>,
        record: Record,
        begun: Instant,
    ) -> Result<Self> {
        let cipher = Arc::new(ValueCipher::new(&open(&record.bytes, &masters).await?)?);
        let state = State { cipher, confirmed: begun, refused: None, lost: None };
        Ok(Self {
            client: RwLock::new(client),
            prefix: prefix.to_vec(),
            masters,
            state: watch::Sender::new(state),
            looking: tokio::sync::Mutex::new(Looked { bytes: record.bytes, begun }),
            look_now: Notify::new(),
            counted: Mutex::default(),
        })
    }

    pub(super) fn client(&self) -> Client {
        self.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn use_client(&self, client: Client) {
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
        self.look_now.notify_one();
    }

    pub(super) fn cipher(&self) -> Arc<ValueCipher> {
        Arc::clone(&self.state.borrow().cipher)
    }

    /// Reads the record and takes it into use, unless another task does so meanwhile.
    ///
    /// # Errors
    /// Those of etcd and of the record.
    pub(super) async fn look(&self) -> Result<()> {
        let called = Instant::now();
        let mut looked = self.looking.lock().await;
        if looked.begun > called {
            let state = self.state.borrow();
            return match (&state.lost, &state.refused) {
                (Some(why), _) => Err(Error::new(ErrorKind::Unreachable, why.clone())),
                (None, Some(why)) => Err(Error::new(ErrorKind::Refused, why.clone())),
                (None, None) => Ok(()),
            };
        }
        let begun = Instant::now();
        let client = self.client();
        let read = tokio::time::timeout(LOOK, record::read(&client, &self.prefix)).await;
        let read = read.unwrap_or_else(|_| {
            let text = format!("read the value keyring: no answer in {LOOK:?}");
            Err(Error::new(ErrorKind::Unreachable, text))
        });
        looked.begun = begun;
        let adopted = match read {
            Err(error) => {
                self.state.send_modify(|state| state.lost = Some(error.to_string()));
                return Err(error);
            }
            Ok(None) => Err(record::deleted(&self.prefix)),
            Ok(Some(record)) if looked.is(&record.bytes) => Ok(()),
            Ok(Some(record)) => open(&record.bytes, &self.masters)
                .await
                .and_then(|keyring| self.adopt(&keyring, record.bytes, &mut looked)),
        };
        self.state.send_modify(|state| {
            state.lost = None;
            state.refused = adopted.as_ref().err().map(ToString::to_string);
            if adopted.is_ok() {
                state.confirmed = begun;
            }
        });
        adopted
    }

    /// Takes a record's keys into use, unless it is an older one or another namespace's.
    pub(super) fn adopt(
        &self,
        keyring: &ValueKeyring,
        bytes: Vec<u8>,
        looked: &mut Looked,
    ) -> Result<()> {
        let current = self.cipher();
        if keyring.namespace != current.namespace() {
            return Err(Error::new(
                ErrorKind::Refused,
                format!(
                    "the value keyring in etcd belongs to namespace {}, not to {}",
                    keyring.namespace,
                    current.namespace()
                ),
            ));
        }
        if keyring.serial <= current.serial() {
            return Err(Error::new(
                ErrorKind::Refused,
                format!(
                    "the value keyring in etcd is older than the one in use: serial {} after {}",
                    keyring.serial,
                    current.serial()
                ),
            )
            .hint("if etcd was restored on purpose, restart this program"));
        }
        let next = Arc::new(ValueCipher::new(keyring)?);
        self.state.send_modify(|state| state.cipher = next);
        looked.bytes = bytes;
        self.retire(&current);
        Ok(())
    }

    fn retire(&self, cipher: &ValueCipher) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counted.entry(cipher.primary()).or_default();
        *count = count.saturating_add(cipher.take_sealed());
    }

    pub(super) fn usage_key(&self, id: ValueKeyId) -> Vec<u8> {
        [&self.prefix[..], b"usage/", id.to_string().as_bytes()].concat()
    }

    /// Adds this process's counts to etcd's.
    pub(super) async fn flush(&self) -> Result<()> {
        self.retire(&self.cipher());
        let counted =
            std::mem::take(&mut *self.counted.lock().unwrap_or_else(PoisonError::into_inner));
        for (id, count) in counted.into_iter().filter(|(_, count)| *count > 0) {
            if let Err(error) = record::add_usage(&self.client(), &self.usage_key(id), count).await
            {
                let mut kept = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
                let kept = kept.entry(id).or_default();
                *kept = kept.saturating_add(count);
                return Err(error);
            }
        }
        Ok(())
    }
}

/// Opens the record that etcd holds.
pub(super) async fn open(record: &[u8], masters: &KeySet) -> Result<ValueKeyring> {
    let opened = keyring::open_judged(record, masters).await;
    let (keyring, standing) = opened.map_err(|error| error.context("the value keyring in etcd"))?;
    if !standing.counts() {
        // Refusing it would stop every program when a master key is retired before the record is sealed again.
        limited!(warn, event = "value_keyring_untrusted", error = %standing, hint = UNTRUSTED);
    }
    Ok(keyring)
}

/// Looks at the record again and again.
pub(super) async fn follow(shared: Arc<Shared>) {
    loop {
        let pause = if shared.look().await.is_ok() { CONFIRM } else { RETRY };
        tokio::select! {
            () = sleep(pause) => {}
            () = shared.look_now.notified() => {}
        }
    }
}

/// Asks for a look whenever the record changes. A change that the watch misses is found a moment later.
pub(super) async fn watch_record(shared: Arc<Shared>) {
    loop {
        let mut client = shared.client().watch_client();
        if let Ok(mut stream) = client.watch(record::key(&shared.prefix), None).await {
            while let Ok(Some(message)) = stream.message().await {
                shared.look_now.notify_one();
                if message.canceled() {
                    break;
                }
            }
        }
        sleep(RETRY).await;
    }
}

/// Adds usage counts to etcd's every minute.
pub(super) async fn count(shared: Arc<Shared>) {
    loop {
        sleep(USAGE_INTERVAL).await;
        // Kept and tried again in a minute when it fails.
        let _ = shared.flush().await;
    }
}
