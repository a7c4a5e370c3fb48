//! A namespace's value keys in etcd: created once, followed, changed under contention.

use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::Client;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::follow::{self, Shared};
use super::record::{self, Record};
use super::{ValueCipher, keyring, pages};
use crate::crypto::system_rng;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Migration, Time, ValueKeyId, ValueKeyring};
use crate::keys::KeySet;
use crate::keys::trust::Standing;
use crate::text::printable;

/// The default prefix of the keyring.
pub const DEFAULT_PREFIX: &str = "/strongroom/";
/// How many keys with encrypted values an error names.
pub(super) const EXAMPLES: usize = 3;
/// How long [`Namespace::open`] looks for encrypted values when there is no keyring.
const SEARCH: Duration = Duration::from_secs(5);

/// The value keys of one namespace, kept up to date: a change of them anywhere arrives here through a watch.
///
/// Clones share the same keys. Following ends with the last of them.
#[derive(Clone)]
pub struct Namespace {
    shared: Arc<Shared>,
    _tasks: Arc<Tasks>,
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
    pub created: Time,
    /// How many values it has sealed, as far as it was counted: advice.
    pub used: u64,
}

impl Namespace {
    /// Opens the namespace under `prefix`, and follows it. Never creates a keyring.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) when there is none, naming a few keys whose values need one;
    /// [`WrongKey`](ErrorKind::WrongKey) when no master key that was given opens its keyring;
    /// [`Unreachable`](ErrorKind::Unreachable) and [`Denied`](ErrorKind::Denied) from etcd.
    pub async fn open(client: Client, prefix: &[u8], masters: Arc<KeySet>) -> Result<Self> {
        record::check_prefix(prefix)?;
        let begun = Instant::now();
        match record::read(&client, prefix).await? {
            Some(record) => Self::follow(client, prefix, masters, record, begun).await,
            None => Err(missing(&client, prefix).await),
        }
    }

    /// As [`open`](Self::open); creates the keyring first, with a first key made at `now`, if
    /// there is none. Of several processes that try at once one creates it, and all use it.
    ///
    /// # Errors
    /// As [`open`](Self::open), and those of [`keyring::seal`]. [`Refused`](ErrorKind::Refused) when there is no
    /// keyring and there are encrypted values: a new keyring would not open them.
    pub async fn init(
        client: Client,
        prefix: &[u8],
        masters: Arc<KeySet>,
        now: Time,
    ) -> Result<Self> {
        record::check_prefix(prefix)?;
        if record::read(&client, prefix).await?.is_none() {
            let found = pages::encrypted_keys(&client, prefix, EXAMPLES, None).await;
            let found = found.map_err(|error| match error.kind() {
                ErrorKind::Denied => error
                    .context("whether etcd holds encrypted values is unknown")
                    .hint("run the command as a user who may read all keys, or with --force"),
                _ => error,
            })?;
            if !found.is_empty() {
                let text = format!(
                    "etcd holds no value keyring under {}, but encrypted values, such as those of {}",
                    printable(prefix),
                    names(&found)
                );
                return Err(Error::new(ErrorKind::Refused, text).hint(PUT_BACK));
            }
        }
        Self::init_beside_values(client, prefix, masters, now).await
    }

    /// As [`init`](Self::init), even when there are encrypted values: those of another namespace in the same etcd, or
    /// values that are given up.
    ///
    /// # Errors
    /// As [`open`](Self::open), and those of [`keyring::seal`].
    pub async fn init_beside_values(
        client: Client,
        prefix: &[u8],
        masters: Arc<KeySet>,
        now: Time,
    ) -> Result<Self> {
        record::check_prefix(prefix)?;
        if record::read(&client, prefix).await?.is_none() {
            let keyring = keyring::generate(now, &mut system_rng());
            let record = keyring::seal(&keyring, &masters, &mut system_rng()).await?;
            // Of several processes that try, the first one's keyring stays; all use it.
            record::put_if_unchanged(&client, &record::key(prefix), 0, record).await?;
        }
        Self::open(client, prefix, masters).await
    }

    async fn follow(
        client: Client,
        prefix: &[u8],
        masters: Arc<KeySet>,
        record: Record,
        begun: Instant,
    ) -> Result<Self> {
        let shared = Arc::new(Shared::new(client, prefix, masters, record, begun).await?);
        let tasks = vec![
            tokio::spawn(follow::follow(Arc::clone(&shared))),
            tokio::spawn(follow::watch_record(Arc::clone(&shared))),
            tokio::spawn(follow::count(Arc::clone(&shared))),
        ];
        Ok(Self { shared, _tasks: Arc::new(Tasks(tasks)) })
    }

    /// The cipher with the keys of this moment, for reading. Ask again for each request.
    #[must_use]
    pub fn cipher(&self) -> Arc<ValueCipher> {
        self.shared.cipher()
    }

    /// The cipher with the keys of this moment, for writing. Ask again for each request.
    ///
    /// # Errors
    /// [`Unreachable`](ErrorKind::Unreachable) while the record in etcd is not the one in use, because it was deleted,
    /// cannot be taken into use or was not confirmed for some seconds: what would be written now might not be
    /// readable by others.
    pub fn writable(&self) -> Result<Arc<ValueCipher>> {
        let state = self.shared.state.borrow();
        match state.trouble() {
            None => Ok(Arc::clone(&state.cipher)),
            Some(why) => {
                Err(Error::new(ErrorKind::Unreachable, format!("no values are written: {why}")))
            }
        }
    }

    /// By when a write with the keys of this moment has to have happened: [`SETTLE`](super::SETTLE) after a change of
    /// the keyring others rely on it that nothing is written any more as before the change.
    pub(super) fn lands_by(&self) -> Instant {
        self.shared.state.borrow().lands_by()
    }

    /// Why nothing may be written now, if that is so: see [`writable`](Self::writable).
    #[must_use]
    pub fn refused(&self) -> Option<String> {
        self.shared.state.borrow().trouble()
    }

    /// Calls `tell` with the reason when writing becomes impossible, and with `None` when it is possible again. Runs
    /// until it is dropped.
    pub async fn report(&self, tell: impl Fn(Option<&str>)) {
        let mut state = self.shared.state.subscribe();
        let mut troubled = false;
        loop {
            let trouble = state.borrow_and_update().trouble();
            if trouble.is_some() != troubled {
                troubled = trouble.is_some();
                tell(trouble.as_deref());
            }
            if state.changed().await.is_err() {
                return;
            }
        }
    }

    /// The prefix that strongroom keeps for itself.
    #[must_use]
    pub fn prefix(&self) -> &[u8] {
        &self.shared.prefix
    }

    pub(super) fn client(&self) -> Client {
        self.shared.client()
    }

    /// Goes on with another client of the same etcd, such as one with newer certificates.
    pub fn use_client(&self, client: Client) {
        self.shared.use_client(client);
    }

    /// Reads the record again, linearizably: for a value whose key is not known (yet). The cipher after it.
    ///
    /// # Errors
    /// Those of etcd and of the record.
    pub async fn refresh(&self) -> Result<Arc<ValueCipher>> {
        self.shared.look().await?;
        Ok(self.cipher())
    }

    /// Changes the keyring by `change`, which is called again when another process was faster.
    ///
    /// # Errors
    /// Those of `change`, of etcd and of the record. When etcd's answer is lost the change may have been made.
    pub async fn change<T>(&self, change: impl Fn(&mut ValueKeyring) -> Result<T>) -> Result<T> {
        let shared = &self.shared;
        loop {
            // No look may come between.
            let mut looked = shared.looking.lock().await;
            let (mut keyring, record) = self.read().await?;
            if !looked.is(&record.bytes) {
                shared.adopt(&keyring, record.bytes, &mut looked)?;
            }
            let revision = record.revision;
            let done = change(&mut keyring)?;
            keyring.serial = keyring
                .serial
                .checked_add(1)
                .ok_or_else(|| Error::new(ErrorKind::Refused, "the keyring's serial is used up"))?;
            let record = keyring::seal(&keyring, &shared.masters, &mut system_rng()).await?;
            let key = record::key(&shared.prefix);
            if record::put_if_unchanged(&shared.client(), &key, revision, record.clone()).await? {
                shared.adopt(&keyring, record, &mut looked)?;
                return Ok(done);
            }
        }
    }

    /// The keyring in etcd and its record.
    pub(super) async fn read(&self) -> Result<(ValueKeyring, Record)> {
        let shared = &self.shared;
        let record = record::read(&shared.client(), &shared.prefix)
            .await?
            .ok_or_else(|| record::deleted(&shared.prefix))?;
        Ok((follow::open(&record.bytes, &shared.masters).await?, record))
    }

    /// Adds a value key made at `now`, waits `settle` until every process has it (see [`SETTLE`](super::SETTLE)), and
    /// makes it primary; the id. The key before it goes on opening what it sealed.
    ///
    /// A key that an interrupted rotation left staged is taken instead of another.
    ///
    /// # Errors
    /// As [`change`](Self::change).
    pub async fn rotate(&self, now: Time, settle: Duration) -> Result<ValueKeyId> {
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

    /// The value keys, oldest first, and the prefixes under migration.
    ///
    /// # Errors
    /// Those of etcd and of the record.
    pub async fn describe(&self) -> Result<(Vec<ValueKeyInfo>, Vec<Migration>)> {
        let shared = &self.shared;
        shared.flush().await?;
        let (keyring, _) = self.read().await?;
        let mut keys = Vec::new();
        for key in keyring.keys {
            let used = record::usage(&shared.client(), &shared.usage_key(key.id)).await?.0;
            let (id, state, created) = (key.id, key.state.name(), key.created);
            keys.push(ValueKeyInfo { id, state, created, used });
        }
        Ok((keys, keyring.migrate))
    }

    /// Whether the master key that sealed the keyring in etcd is in use. One that a retired key sealed opens, and anyone who
    /// has that key may have written it: [`rotate`](Self::rotate) seals it again.
    ///
    /// # Errors
    /// Those of etcd and of the record.
    pub async fn standing(&self) -> Result<Standing> {
        let shared = &self.shared;
        let record = record::read(&shared.client(), &shared.prefix).await?;
        let record = record.ok_or_else(|| record::deleted(&shared.prefix))?;
        Ok(keyring::open_judged(&record.bytes, &shared.masters).await?.1)
    }

    /// Adds this process's counts to etcd's. Done by itself every minute; call it before the end.
    ///
    /// # Errors
    /// Those of etcd: the counts are kept for the next time.
    pub async fn flush_usage(&self) -> Result<()> {
        self.shared.flush().await
    }
}

const PUT_BACK: &str = "a new keyring would not open them: put the old one back with \
    `strongroom value keyring import` or, from a backup, `strongroom restore --to-cluster`; \
    if it is under another prefix give --reserved-prefix";

/// There is no keyring. Says whether there are values that need one.
async fn missing(client: &Client, prefix: &[u8]) -> Error {
    let text = format!("etcd holds no value keyring under {}", printable(prefix));
    let error = |text| Error::new(ErrorKind::NotFound, text);
    match pages::encrypted_keys(client, prefix, EXAMPLES, Some(SEARCH)).await {
        Ok(found) if found.is_empty() => {
            error(text).hint("run `strongroom value init` once to create it")
        }
        Ok(found) => {
            error(format!("{text}, but encrypted values, such as those of {}", names(&found)))
                .hint(PUT_BACK)
        }
        Err(why) => {
            error(format!("{text} (and whether it holds encrypted values is unknown: {why})"))
                .hint("if there never was a keyring, run `strongroom value init` once to create it")
        }
    }
}

/// Keys as an error names them.
pub(super) fn names(keys: &[Vec<u8>]) -> String {
    let names: Vec<_> = keys.iter().map(|key| crate::text::clean(&printable(key))).collect();
    names.join(", ")
}
