//! What of an etcd is encrypted under which key, and its values encrypted (again) where they stand.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, KeyValue, PutOptions, Txn, TxnOp};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use super::namespace::{EXAMPLES, Namespace, names};
use super::pages::{Values, find, is_encrypted};
use super::record::within;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Migration, MigrationPhase, ValueHeader, ValueKeyId};
use crate::text::printable;

/// How many values are under each value key, and how many are unencrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// By value key.
    pub keys: BTreeMap<ValueKeyId, u64>,
    /// Not encrypted. Those of etcd's locks, which are empty, do not count.
    pub unencrypted: u64,
    /// Values with the magic bytes that are not valid encrypted values.
    pub malformed: u64,
}

/// What [`Namespace::migrate`] did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Migrated {
    /// Values that were not encrypted, and are now.
    pub sealed: u64,
    /// Values that were under another key than the primary.
    pub resealed: u64,
    /// Values that were encrypted, and are no longer.
    pub opened: u64,
    /// Values that were as they should be.
    pub unchanged: u64,
    /// Keys whose values do not open: they were left as they are.
    pub failed: Vec<(Vec<u8>, String)>,
}

/// How one value is converted.
enum Conversion {
    Seal,
    Reseal,
    Open,
    Nothing,
}

impl Namespace {
    /// Counts the values of the keys that begin with `prefix`.
    ///
    /// # Errors
    /// Those of etcd.
    pub async fn survey(&self, prefix: &[u8]) -> Result<Survey> {
        let (mut values, mut survey) =
            (Values::new(&self.client(), self.prefix(), prefix), Survey::default());
        while let Some(page) = values.next().await? {
            for kv in &page {
                match ValueHeader::split(kv.value()) {
                    Ok(Some((header, _))) => {
                        let count = survey.keys.entry(header.key).or_default();
                        *count = count.saturating_add(1);
                    }
                    Ok(None) => survey.unencrypted = survey.unencrypted.saturating_add(1),
                    Err(_) => survey.malformed = survey.malformed.saturating_add(1),
                }
            }
        }
        Ok(survey)
    }

    /// Moves the keys with `prefix` to `phase`, which must be next to the phase they are in. Every program that reads or
    /// writes them follows within a second, or refuses to write. Nothing is converted: [`migrate`](Self::migrate) does.
    ///
    /// Before the change this waits `settle` (see [`SETTLE`](super::SETTLE)), so that every program has seen the phase
    /// before.
    ///
    /// # Errors
    /// Those of [`change`](Self::change). [`Refused`](ErrorKind::Refused) when a phase would be skipped, when the prefix
    /// is part of another one under migration, and when there are values that `done` or `off` does not read.
    pub async fn set_phase(
        &self,
        prefix: &[u8],
        phase: MigrationPhase,
        settle: Duration,
    ) -> Result<()> {
        self.set_phase_after(prefix, phase, sleep(settle)).await
    }

    /// As [`set_phase`](Self::set_phase), but waits for `settled`: only if the step is not refused at once, and
    /// not if the keys are in that phase already.
    ///
    /// # Errors
    /// As [`set_phase`](Self::set_phase).
    pub async fn set_phase_after(
        &self,
        prefix: &[u8],
        phase: MigrationPhase,
        settled: impl Future<Output = ()>,
    ) -> Result<()> {
        use MigrationPhase::{Admit, AdmitBack, Done, Off};
        let (keyring, _) = self.read().await?;
        let mut from = keyring.phase(prefix);
        if from == phase {
            return Ok(());
        }
        if (from, phase) == (Done, Admit) {
            // The first step of an etcd that was never encrypted: with no encrypted value it skips nothing.
            self.check_none_left(prefix, Off, phase).await?;
            self.put_phase(prefix, from, AdmitBack).await?;
            from = AdmitBack;
        }
        check_step(prefix, from, phase)?;
        let ends = matches!(phase, Done | Off);
        if ends {
            self.check_none_left(prefix, phase, phase).await?;
        }
        settled.await;
        if ends {
            // A program may have written meanwhile.
            self.check_none_left(prefix, phase, phase).await?;
        }
        self.put_phase(prefix, from, phase).await
    }

    async fn put_phase(
        &self,
        prefix: &[u8],
        from: MigrationPhase,
        to: MigrationPhase,
    ) -> Result<()> {
        self.change(|keyring| {
            if keyring.phase(prefix) != from {
                return Err(Error::new(
                    ErrorKind::Refused,
                    "another process changed the phase: run the command again",
                ));
            }
            let migrate = &mut keyring.migrate;
            migrate.retain(|entry| entry.prefix != prefix);
            let overlaps = |entry: &&Migration| {
                prefix.starts_with(&entry.prefix) || entry.prefix.starts_with(prefix)
            };
            if let Some(other) = migrate.iter().find(overlaps) {
                let other = printable(&other.prefix);
                let text = format!(
                    "keys with this prefix are already under migration, with the prefix \"{other}\""
                );
                return Err(Error::new(ErrorKind::Refused, text)
                    .hint("use that prefix, or bring it to phase done first"));
            }
            if to != MigrationPhase::Done {
                migrate.push(Migration { prefix: prefix.to_vec(), phase: to });
            }
            Ok(())
        })
        .await
    }

    /// Checks that no value is left that a program in the phase `reader` does not read, on the way to `phase`.
    async fn check_none_left(
        &self,
        prefix: &[u8],
        reader: MigrationPhase,
        phase: MigrationPhase,
    ) -> Result<()> {
        let values = Values::new(&self.client(), self.prefix(), prefix);
        let unread = |kv: &KeyValue| match is_encrypted(kv) {
            true => !reader.accepts_encrypted(),
            false => !reader.accepts_unencrypted(),
        };
        let found = find(values, unread, EXAMPLES, None).await?;
        if found.is_empty() {
            return Ok(());
        }
        let (are, hint) = match phase {
            MigrationPhase::Done => (
                "not encrypted",
                "run --phase encrypt again; a program may still write to etcd directly",
            ),
            MigrationPhase::Off => ("encrypted", "run --phase decrypt again"),
            _ => ("encrypted", "to decrypt them start with --phase admit-back"),
        };
        let text = format!("values are {are}, such as those of {}", names(&found));
        Err(Error::new(ErrorKind::Refused, text)
            .context(format!("phase {}", phase.name()))
            .hint(hint))
    }

    /// Brings all values of keys with `prefix` to what their phase writes: encrypted under the primary key, or
    /// unencrypted. Each is written only if nobody changed it in between; leases stay. Can be interrupted and run again at
    /// any time. At most `rate` values a second are written.
    ///
    /// # Errors
    /// Those of etcd. A value that does not open is not an error: it is listed.
    pub async fn migrate(&self, prefix: &[u8], rate: Option<NonZeroU32>) -> Result<Migrated> {
        let mut pace = rate.map(pace);
        let (mut values, mut done) =
            (Values::new(&self.client(), self.prefix(), prefix), Migrated::default());
        while let Some(page) = values.next().await? {
            for kv in page {
                self.convert(kv, pace.as_mut(), &mut done).await?;
            }
        }
        Ok(done)
    }

    /// What [`migrate`](Self::migrate) would do in `phase`, or in the phase of now. Nothing is written.
    ///
    /// # Errors
    /// As [`migrate`](Self::migrate).
    pub async fn plan(&self, prefix: &[u8], phase: Option<MigrationPhase>) -> Result<Migrated> {
        let (mut values, mut done) =
            (Values::new(&self.client(), self.prefix(), prefix), Migrated::default());
        while let Some(page) = values.next().await? {
            for kv in page {
                let planned = self.conversion(&kv, phase).await;
                done.note(&kv, planned.map(|(conversion, _)| conversion))?;
            }
        }
        Ok(done)
    }

    async fn convert(
        &self,
        mut kv: KeyValue,
        mut pace: Option<&mut Interval>,
        done: &mut Migrated,
    ) -> Result<()> {
        loop {
            let (conversion, value) = match self.conversion(&kv, None).await {
                Ok((Conversion::Nothing, _)) => return done.note(&kv, Ok(Conversion::Nothing)),
                Ok(found) => found,
                Err(error) => return done.note(&kv, Err(error)),
            };
            if let Some(pace) = pace.as_mut() {
                pace.tick().await;
            }
            match self.replace(&kv, &value).await {
                Ok(true) => return done.note(&kv, Ok(conversion)),
                Ok(false) => {}
                Err(error) => return done.note(&kv, Err(error)),
            }
            // Another client was faster: look at the value that it wrote.
            let mut client = self.client().kv_client();
            let answer = within("read a value", client.get(kv.key(), None)).await?;
            match answer.kvs().first() {
                Some(now) => kv = now.clone(),
                None => return Ok(()),
            }
        }
    }

    /// How a value is converted in `phase`, or in its own, and the value decrypted.
    async fn conversion(
        &self,
        kv: &KeyValue,
        phase: Option<MigrationPhase>,
    ) -> Result<(Conversion, Vec<u8>)> {
        let header = ValueHeader::split(kv.value())?.map(|(header, _)| header);
        let mut cipher = self.cipher();
        let value = match cipher.open(kv.key(), kv.value()) {
            // The phase that is asked about lets it pass.
            Err(_)
                if header.is_none() && phase.is_some_and(MigrationPhase::accepts_unencrypted) =>
            {
                kv.value().to_vec()
            }
            Err(error) if error.kind() == ErrorKind::WrongKey => {
                cipher = self.refresh().await?;
                cipher.open(kv.key(), kv.value())?
            }
            opened => opened?,
        };
        let encrypts = phase.map_or_else(|| cipher.encrypts(kv.key()), MigrationPhase::encrypts);
        let conversion = match header {
            None if encrypts => Conversion::Seal,
            Some(header) if encrypts && header.key != cipher.primary() => Conversion::Reseal,
            Some(_) if !encrypts => Conversion::Open,
            _ => Conversion::Nothing,
        };
        Ok((conversion, value))
    }

    async fn replace(&self, kv: &KeyValue, value: &[u8]) -> Result<bool> {
        let stored = self.writable()?.store(kv.key(), value)?;
        let guard = Compare::mod_revision(kv.key(), CompareOp::Equal, kv.mod_revision());
        let options = PutOptions::new().with_ignore_lease();
        let txn = Txn::new().when([guard]).and_then([TxnOp::put(kv.key(), stored, Some(options))]);
        let mut client = self.client().kv_client();
        Ok(within("write a value", client.txn(txn)).await?.succeeded())
    }
}

impl Migrated {
    /// Counts one value. An error that is not the value's own is returned.
    fn note(&mut self, kv: &KeyValue, conversion: Result<Conversion>) -> Result<()> {
        let count = match conversion {
            Ok(Conversion::Seal) => &mut self.sealed,
            Ok(Conversion::Reseal) => &mut self.resealed,
            Ok(Conversion::Open) => &mut self.opened,
            Ok(Conversion::Nothing) => &mut self.unchanged,
            Err(error) if error.kind().is_general() => return Err(error),
            Err(error) => {
                self.failed.push((kv.key().to_vec(), error.to_string()));
                return Ok(());
            }
        };
        *count = count.saturating_add(1);
        Ok(())
    }
}

/// Refuses a step that skips a phase.
fn check_step(prefix: &[u8], from: MigrationPhase, to: MigrationPhase) -> Result<()> {
    if from.leads_to(to) {
        return Ok(());
    }
    let next = MigrationPhase::ALL.into_iter().filter(|next| *next != from && from.leads_to(*next));
    let next: Vec<_> = next.map(MigrationPhase::name).collect();
    let text = format!(
        "keys with the prefix \"{}\" are in phase {}: phase {} cannot follow it",
        printable(prefix),
        from.name(),
        to.name()
    );
    Err(Error::new(ErrorKind::Refused, text)
        .hint(format!("phases that can follow: {}", next.join(", "))))
}

fn pace(rate: NonZeroU32) -> Interval {
    let mut pace = interval(Duration::from_secs(1) / rate.get());
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}
