//! What of an etcd is encrypted under which key, and its values encrypted (again) where they stand.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, KeyValue, PutOptions, Txn, TxnOp};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::namespace::Namespace;
use super::pages::Values;
use super::record::within;
use crate::error::{ErrorKind, Result};
use crate::format::{ValueHeader, ValueKeyId};

/// How many values there are under each value key, and in clear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// By value key.
    pub keys: BTreeMap<ValueKeyId, u64>,
    /// Not encrypted. Those of etcd's locks, which are empty, do not count.
    pub clear: u64,
    /// With our magic, and yet none of ours.
    pub malformed: u64,
}

/// What [`Namespace::migrate`] did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Migrated {
    /// Values that were clear.
    pub sealed: u64,
    /// Values that were under another key than the primary.
    pub resealed: u64,
    /// Values that were as they should be.
    pub unchanged: u64,
    /// Keys whose values do not open: they were left as they are.
    pub failed: Vec<(Vec<u8>, String)>,
}

impl Namespace {
    /// Counts the values of the keys that begin with `prefix`.
    ///
    /// # Errors
    /// Those of etcd.
    pub async fn survey(&self, prefix: &[u8]) -> Result<Survey> {
        let (mut values, mut survey) =
            (Values::new(self.client(), self.prefix(), prefix), Survey::default());
        while let Some(page) = values.next().await? {
            for kv in &page {
                match ValueHeader::split(kv.value()) {
                    Ok(Some((header, _))) => {
                        let count = survey.keys.entry(header.key).or_default();
                        *count = count.saturating_add(1);
                    }
                    Ok(None) => survey.clear = survey.clear.saturating_add(1),
                    Err(_) => survey.malformed = survey.malformed.saturating_add(1),
                }
            }
        }
        Ok(survey)
    }

    /// Lets clear values of keys that begin with `prefix` pass, or no longer.
    ///
    /// # Errors
    /// Those of [`change`](Self::change).
    pub async fn admit_clear(&self, prefix: &[u8], admit: bool) -> Result<()> {
        self.change(|keyring| {
            keyring.migrate.retain(|known| known != prefix);
            if admit {
                keyring.migrate.push(prefix.to_vec());
            }
            Ok(())
        })
        .await
    }

    /// Encrypts all values of keys that begin with `prefix` under the primary key, each only if nobody changed it in
    /// between; leases stay. May be stopped and begun again at any time. With `dry_run` nothing is written.
    ///
    /// At most `rate` values a second are written.
    ///
    /// # Errors
    /// Those of etcd. A value that does not open is none: it is listed.
    pub async fn migrate(
        &self,
        prefix: &[u8],
        dry_run: bool,
        rate: Option<NonZeroU32>,
    ) -> Result<Migrated> {
        let mut pace = rate.map(pace);
        let (mut values, mut done) =
            (Values::new(self.client(), self.prefix(), prefix), Migrated::default());
        while let Some(page) = values.next().await? {
            for kv in page {
                self.convert(kv, dry_run, pace.as_mut(), &mut done).await?;
            }
        }
        Ok(done)
    }

    async fn convert(
        &self,
        mut kv: KeyValue,
        dry_run: bool,
        mut pace: Option<&mut Interval>,
        done: &mut Migrated,
    ) -> Result<()> {
        loop {
            let (value, was_clear) = match self.clear_value(&kv).await {
                Ok(Some(found)) => found,
                Ok(None) => {
                    done.unchanged = done.unchanged.saturating_add(1);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
                Err(error) => {
                    done.failed.push((kv.key().to_vec(), error.to_string()));
                    return Ok(());
                }
            };
            if let (Some(pace), false) = (pace.as_mut(), dry_run) {
                pace.tick().await;
            }
            if dry_run || self.replace(&kv, &value).await? {
                let count = if was_clear { &mut done.sealed } else { &mut done.resealed };
                *count = count.saturating_add(1);
                return Ok(());
            }
            // Somebody was faster: what stands there now is looked at anew.
            let mut client = self.client().kv_client();
            let answer = within("read a value", client.get(kv.key(), None)).await?;
            match answer.kvs().first() {
                Some(now) => kv = now.clone(),
                None => return Ok(()),
            }
        }
    }

    /// The value in clear and whether it was so in etcd; `None` when it is under the primary key.
    async fn clear_value(&self, kv: &KeyValue) -> Result<Option<(Vec<u8>, bool)>> {
        let cipher = self.cipher();
        match ValueHeader::split(kv.value())? {
            None => Ok(Some((kv.value().to_vec(), true))),
            Some((header, _)) if header.key == cipher.primary() => {
                // It is to be known now if it does not open.
                cipher.open(kv.key(), kv.value()).map(|_| None)
            }
            Some(_) => match cipher.open(kv.key(), kv.value()) {
                Err(error) if error.kind() == ErrorKind::WrongKey => {
                    let cipher = self.refresh().await?;
                    Ok(Some((cipher.open(kv.key(), kv.value())?, false)))
                }
                opened => Ok(Some((opened?, false))),
            },
        }
    }

    async fn replace(&self, kv: &KeyValue, value: &[u8]) -> Result<bool> {
        let sealed = self.cipher().seal(kv.key(), value)?;
        let guard = Compare::mod_revision(kv.key(), CompareOp::Equal, kv.mod_revision());
        let options = PutOptions::new().with_ignore_lease();
        let txn = Txn::new().when([guard]).and_then([TxnOp::put(kv.key(), sealed, Some(options))]);
        let mut client = self.client().kv_client();
        Ok(within("write a value", client.txn(txn)).await?.succeeded())
    }
}

fn pace(rate: NonZeroU32) -> Interval {
    let mut pace = interval(Duration::from_secs(1) / rate.get());
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}
