//! A namespace's value keys as they stand in etcd: created once, followed, changed under contention.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, EventType, Txn, TxnOp, WatchOptions};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::{ValueCipher, keyring};
use crate::crypto::system_rng;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{ValueKeyId, ValueKeyring};
use crate::keys::MasterKeys;

/// Where the keyring stands unless configured otherwise.
pub const DEFAULT_PREFIX: &str = "/strongroom/";
/// How long after a key is staged every follower has it: longer than a follower's watch takes to come back.
pub const SETTLE: Duration = Duration::from_secs(10);
/// How often usage counts are added to etcd's.
const USAGE_INTERVAL: Duration = Duration::from_secs(60);
/// Between attempts to follow.
const RETRY: Duration = Duration::from_millis(500);
/// A request of ours that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The value keys of one namespace, kept up to date: a change of them anywhere arrives here through a watch.
///
/// Clones share the same keys. Following ends with the last of them.
#[derive(Clone)]
pub struct Namespace {
    shared: Arc<Shared>,
    _tasks: Arc<Tasks>,
}

struct Shared {
    client: Client,
    prefix: Vec<u8>,
    masters: Arc<MasterKeys>,
    current: RwLock<Arc<ValueCipher>>,
    /// Why the last record seen was not adopted.
    refused: RwLock<Option<String>>,
    /// Counts of ciphers that a newer keyring replaced.
    counted: std::sync::Mutex<BTreeMap<ValueKeyId, u64>>,
}

struct Tasks(Vec<JoinHandle<()>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// One value key, without the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueKeyInfo {
    /// Its id.
    pub id: ValueKeyId,
    /// Its state: `staged`, `primary`, `enabled`, `disabled` or `destroyed`.
    pub state: &'static str,
    /// When it was made.
    pub created: String,
    /// How many values it has sealed, as far as it was counted: advice.
    pub used: u64,
}

impl Namespace {
    /// Opens the namespace under `prefix`, and follows it.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) when there is none; [`WrongKey`](ErrorKind::WrongKey) when no master key at
    /// hand opens its keyring; [`Unreachable`](ErrorKind::Unreachable) and [`Denied`](ErrorKind::Denied) from etcd.
    pub async fn open(client: Client, prefix: &[u8], masters: Arc<MasterKeys>) -> Result<Self> {
        check_prefix(prefix)?;
        let Some((keyring, revision)) = read(&client, prefix, &masters).await? else {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("etcd holds no value keyring under {}", prefix.escape_ascii()),
            )
            .hint(
                "`strongroom value init` makes one, and so does the proxy when it first starts",
            ));
        };
        Self::follow(client, prefix, masters, &keyring, revision)
    }

    /// As [`open`](Self::open), creating the keyring, with a first key made at `now` (`YYYY-MM-DDTHH:MM:SSZ`), if
    /// there is none. Of any number that try at once one creates it, and all use the same.
    ///
    /// # Errors
    /// As [`open`](Self::open), and those of [`keyring::seal`].
    pub async fn open_or_create(
        client: Client,
        prefix: &[u8],
        masters: Arc<MasterKeys>,
        now: &str,
    ) -> Result<Self> {
        check_prefix(prefix)?;
        if read(&client, prefix, &masters).await?.is_none() {
            let keyring = keyring::generate(now, &mut system_rng());
            let record = keyring::seal(&keyring, &masters, &mut system_rng())?;
            // Who loses uses the winner's: which of the two this was does not matter.
            put_if_unchanged(&client, &record_key(prefix), 0, record).await?;
        }
        Self::open(client, prefix, masters).await
    }

    fn follow(
        client: Client,
        prefix: &[u8],
        masters: Arc<MasterKeys>,
        keyring: &ValueKeyring,
        revision: i64,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            client,
            prefix: prefix.to_vec(),
            masters,
            current: RwLock::new(Arc::new(ValueCipher::new(keyring)?)),
            refused: RwLock::new(None),
            counted: std::sync::Mutex::default(),
        });
        let tasks = vec![
            tokio::spawn(follow(Arc::clone(&shared), revision)),
            tokio::spawn(count(Arc::clone(&shared))),
        ];
        Ok(Self { shared, _tasks: Arc::new(Tasks(tasks)) })
    }

    /// The cipher with the keys of this moment. Take it for each request anew.
    #[must_use]
    pub fn cipher(&self) -> Arc<ValueCipher> {
        self.shared.cipher()
    }

    /// The prefix that strongroom keeps for itself.
    #[must_use]
    pub fn prefix(&self) -> &[u8] {
        &self.shared.prefix
    }

    pub(super) fn client(&self) -> &Client {
        &self.shared.client
    }

    /// Why the newest record in etcd is not the one in use, if it is not.
    #[must_use]
    pub fn refused(&self) -> Option<String> {
        self.shared.refused.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the record anew, linearizably: for a value whose key is not known (yet). The cipher after it.
    ///
    /// # Errors
    /// Those of etcd and of the record.
    pub async fn refresh(&self) -> Result<Arc<ValueCipher>> {
        let shared = &self.shared;
        match read(&shared.client, &shared.prefix, &shared.masters).await? {
            Some((keyring, _)) => shared.adopt(&keyring)?,
            None => return Err(gone(&shared.prefix)),
        }
        Ok(self.cipher())
    }

    /// Changes the keyring by `change`, which is called again when another process was faster.
    ///
    /// # Errors
    /// Those of `change`, of etcd and of the record. When etcd's answer is lost the change may have been made.
    pub async fn change<T>(&self, change: impl Fn(&mut ValueKeyring) -> Result<T>) -> Result<T> {
        let shared = &self.shared;
        loop {
            let read = read(&shared.client, &shared.prefix, &shared.masters).await?;
            let (mut keyring, revision) = read.ok_or_else(|| gone(&shared.prefix))?;
            shared.adopt(&keyring)?;
            let done = change(&mut keyring)?;
            keyring.serial = keyring
                .serial
                .checked_add(1)
                .ok_or_else(|| Error::new(ErrorKind::Refused, "the keyring's serial is used up"))?;
            let record = keyring::seal(&keyring, &shared.masters, &mut system_rng())?;
            let key = record_key(&shared.prefix);
            if put_if_unchanged(&shared.client, &key, revision, record).await? {
                shared.adopt(&keyring)?;
                return Ok(done);
            }
        }
    }

    /// Adds a value key made at `now`, waits `settle` until every process has it (see [`SETTLE`]), and makes it
    /// primary; the id. The key before it goes on opening what it sealed.
    ///
    /// A key that an interrupted rotation left staged is taken instead of another.
    ///
    /// # Errors
    /// As [`change`](Self::change).
    pub async fn rotate(&self, now: &str, settle: Duration) -> Result<ValueKeyId> {
        let staged = self
            .change(|keyring| {
                let staged = keyring.keys.iter().find(|key| key.state.name() == "staged");
                Ok(match staged.map(|key| key.id) {
                    Some(id) => id,
                    None => keyring::stage(keyring, now, &mut system_rng()),
                })
            })
            .await?;
        sleep(settle).await;
        self.change(|keyring| keyring::promote(keyring, staged)).await?;
        Ok(staged)
    }

    /// The value keys, oldest first, and the prefixes under which clear values pass.
    ///
    /// # Errors
    /// Those of etcd and of the record.
    pub async fn describe(&self) -> Result<(Vec<ValueKeyInfo>, Vec<Vec<u8>>)> {
        let shared = &self.shared;
        shared.flush().await?;
        let read = read(&shared.client, &shared.prefix, &shared.masters).await?;
        let (keyring, _) = read.ok_or_else(|| gone(&shared.prefix))?;
        let mut keys = Vec::new();
        for key in keyring.keys {
            let used = usage(&shared.client, &shared.usage_key(key.id)).await?.0;
            let (id, state, created) = (key.id, key.state.name(), key.created);
            keys.push(ValueKeyInfo { id, state, created, used });
        }
        Ok((keys, keyring.migrate))
    }

    /// Adds this process's counts to etcd's. Done by itself every minute; call it before the end.
    ///
    /// # Errors
    /// Those of etcd: the counts are kept for the next time.
    pub async fn flush_usage(&self) -> Result<()> {
        self.shared.flush().await
    }
}

impl Shared {
    fn cipher(&self) -> Arc<ValueCipher> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a record's keys into use, unless it is an older one or another namespace's.
    fn adopt(&self, keyring: &ValueKeyring) -> Result<()> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if keyring.namespace != current.namespace() {
            return Err(Error::new(
                ErrorKind::Refused,
                format!(
                    "the value keyring is of namespace {}, and this process began with {}",
                    keyring.namespace,
                    current.namespace()
                ),
            ));
        }
        if keyring.serial < current.serial() {
            return Err(Error::new(
                ErrorKind::Refused,
                format!(
                    "the value keyring was put back: serial {} after {}",
                    keyring.serial,
                    current.serial()
                ),
            )
            .hint("somebody wrote an old record; if etcd was restored on purpose, start the program again"));
        }
        if keyring.serial > current.serial() {
            let next = Arc::new(ValueCipher::new(keyring)?);
            self.retire(&current);
            *current = next;
        }
        *self.refused.write().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    fn retire(&self, cipher: &ValueCipher) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counted.entry(cipher.primary()).or_default();
        *count = count.saturating_add(cipher.take_sealed());
    }

    fn usage_key(&self, id: ValueKeyId) -> Vec<u8> {
        [&self.prefix[..], b"usage/", id.to_string().as_bytes()].concat()
    }

    async fn flush(&self) -> Result<()> {
        self.retire(&self.cipher());
        let counted =
            std::mem::take(&mut *self.counted.lock().unwrap_or_else(PoisonError::into_inner));
        for (id, count) in counted.into_iter().filter(|(_, count)| *count > 0) {
            if let Err(error) = add_usage(&self.client, &self.usage_key(id), count).await {
                let mut kept = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
                let kept = kept.entry(id).or_default();
                *kept = kept.saturating_add(count);
                return Err(error);
            }
        }
        Ok(())
    }
}

fn record_key(prefix: &[u8]) -> Vec<u8> {
    [prefix, b"keyring"].concat()
}

fn gone(prefix: &[u8]) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("the value keyring under {} was deleted", prefix.escape_ascii()),
    )
    .hint("restore it with `strongroom restore --to-cluster`: without it no value opens once this process ends")
}

/// The keyring and its record's mod revision.
async fn read(
    client: &Client,
    prefix: &[u8],
    masters: &MasterKeys,
) -> Result<Option<(ValueKeyring, i64)>> {
    let mut kv = client.kv_client();
    let answer = within("read the value keyring", kv.get(record_key(prefix), None)).await?;
    let Some(record) = answer.kvs().first() else {
        return Ok(None);
    };
    let keyring = keyring::open(record.value(), masters)
        .map_err(|error| error.context("the value keyring in etcd"))?;
    Ok(Some((keyring, record.mod_revision())))
}

/// Whether `key`, last changed at `revision`, was put.
async fn put_if_unchanged(
    client: &Client,
    key: &[u8],
    revision: i64,
    value: Vec<u8>,
) -> Result<bool> {
    let guard = Compare::mod_revision(key, CompareOp::Equal, revision);
    let txn = Txn::new().when([guard]).and_then([TxnOp::put(key, value, None)]);
    let mut kv = client.kv_client();
    Ok(within("write the value keyring", kv.txn(txn)).await?.succeeded())
}

/// A usage count and its mod revision.
async fn usage(client: &Client, key: &[u8]) -> Result<(u64, i64)> {
    let mut kv = client.kv_client();
    let answer = within("read a value key's usage", kv.get(key, None)).await?;
    Ok(answer.kvs().first().map_or((0, 0), |record| {
        let count = record.value_str().ok().and_then(|text| text.parse().ok());
        (count.unwrap_or(0), record.mod_revision())
    }))
}

async fn add_usage(client: &Client, key: &[u8], count: u64) -> Result<()> {
    loop {
        let (before, revision) = usage(client, key).await?;
        let sum = before.saturating_add(count).to_string().into_bytes();
        if put_if_unchanged(client, key, revision, sum).await? {
            return Ok(());
        }
    }
}

async fn count(shared: Arc<Shared>) {
    loop {
        sleep(USAGE_INTERVAL).await;
        // Kept and tried again in a minute when it fails.
        let _ = shared.flush().await;
    }
}

async fn follow(shared: Arc<Shared>, mut revision: i64) {
    loop {
        let followed = watch(&shared, &mut revision).await;
        if let Err(error) = followed {
            shared.refuse(&error);
        }
        sleep(RETRY).await;
        // A watch that broke off may have missed a compacted change.
        match read(&shared.client, &shared.prefix, &shared.masters).await {
            Ok(Some((keyring, at))) => {
                revision = at;
                if let Err(error) = shared.adopt(&keyring) {
                    shared.refuse(&error);
                }
            }
            Ok(None) => shared.refuse(&gone(&shared.prefix)),
            Err(error) => shared.refuse(&error),
        }
    }
}

async fn watch(shared: &Shared, revision: &mut i64) -> Result<()> {
    let key = record_key(&shared.prefix);
    let options = WatchOptions::new().with_start_revision(revision.saturating_add(1));
    let mut client = shared.client.watch_client();
    let mut stream = within("follow the value keyring", client.watch(key, Some(options))).await?;
    while let Some(message) =
        stream.message().await.map_err(|error| failed("follow the value keyring", &error))?
    {
        if message.canceled() {
            return Err(Error::new(ErrorKind::Unreachable, message.cancel_reason()));
        }
        for event in message.events() {
            let Some(record) = event.kv() else { continue };
            *revision = record.mod_revision();
            if event.event_type() == EventType::Delete {
                shared.refuse(&gone(&shared.prefix));
            } else if let Err(error) = keyring::open(record.value(), &shared.masters)
                .and_then(|keyring| shared.adopt(&keyring))
            {
                shared.refuse(&error);
            }
        }
    }
    Ok(())
}

impl Shared {
    fn refuse(&self, error: &Error) {
        *self.refused.write().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
    }
}

pub(super) async fn within<T>(
    what: &str,
    call: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(answer) => answer.map_err(|error| failed(what, &error)),
        Err(_) => {
            Err(Error::new(ErrorKind::Unreachable, format!("{what}: no answer in {TIMEOUT:?}")))
        }
    }
}

fn failed(what: &str, error: &etcd_client::Error) -> Error {
    crate::etcd::from_client(what, error)
}

/// Refuses a prefix of keys that strongroom keeps for itself.
fn check_prefix(prefix: &[u8]) -> Result<()> {
    if prefix.len() < 2 || !prefix.ends_with(b"/") {
        return Err(Error::usage("the reserved prefix is a name that ends with a slash")
            .hint("such as /strongroom/"));
    }
    Ok(())
}
