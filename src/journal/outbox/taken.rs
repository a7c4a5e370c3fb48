//! What a recorder does where somebody else has put an object under the name of one of its own.

use std::sync::Arc;

use bytes::Bytes;

use super::{Kind, Outbox, Waiting};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{JournalPart, ObjectName};
use crate::journal::spool::is_beginning;
use crate::task::run_blocking;

impl Outbox<'_> {
    /// What to do where somebody else has put an object under the name of the first one, of `bytes`, which is no segment.
    /// Without an end the journal counts as far as the next one names it.
    ///
    /// # Errors
    /// `error`, where nothing more of the journal can be stored: another journal follows what is. Those of the spool.
    pub(super) async fn is_taken(&self, bytes: &Bytes, error: Error) -> Result<()> {
        let first = self.inner().waiting.front().map(|one| (one.name.clone(), one.kind.clone()));
        match first {
            Some((name, Kind::Left)) => self.cannot_send_left(&name, bytes, &error).await,
            // The seal of an end follows it.
            Some((_, kind @ (Kind::End | Kind::Last(_)))) => {
                let count = if matches!(kind, Kind::End) { 2 } else { 1 };
                let given_up = self.give_up(count).await?;
                self.note(format!(
                    "the journal has no end yet, and nothing of it is lost: {error}"
                ));
                if let Some(Waiting { kind: Kind::Last(ended), .. }) =
                    given_up.into_iter().next_back()
                {
                    self.hand_over(ended);
                }
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// Gives up the first `count` objects, in memory or in the spool. They are not stored.
    async fn give_up(&self, count: usize) -> Result<Vec<Waiting>> {
        let given_up: Vec<_> = {
            let mut inner = self.inner();
            let count = count.min(inner.waiting.len());
            let given_up: Vec<_> = inner.waiting.drain(..count).collect();
            let in_memory = given_up.iter().filter(|one| one.bytes.is_some());
            let length = in_memory.map(|one| one.length).fold(0, u64::saturating_add);
            inner.memory = inner.memory.saturating_sub(length);
            given_up
        };
        if let Some(spool) = &self.spool {
            let spooled = given_up.iter().filter(|one| one.bytes.is_none());
            let names: Vec<_> = spooled.map(|one| one.name.clone()).collect();
            let spool = Arc::clone(spool);
            let remove = move || names.iter().try_for_each(|name| spool.remove(name));
            run_blocking(remove).await.context("spool")?;
        }
        self.tell_waiting();
        if self.inner().waiting.is_empty() {
            self.emptied.notify_waiters();
        }
        Ok(given_up)
    }

    /// Lets go of the journal that an earlier recorder left, because its object `name` cannot be stored. Without its beginning
    /// nothing of it can count, and it is removed from the spool. It stays where it is unknown whose object is there.
    async fn cannot_send_left(&self, name: &str, bytes: &Bytes, error: &Error) -> Result<()> {
        let is_of_others = self.is_of_others(name, bytes).await?;
        if is_of_others && let Some(seal) = seal_of_end(name) {
            // Somebody else has ended the journal since.
            let is_next = self.inner().waiting.get(1).is_some_and(|next| next.name == seal);
            self.give_up(if is_next { 2 } else { 1 }).await?;
            self.note(format!("the end that an earlier recorder left is not stored: {error}"));
            return Ok(());
        }
        let is_lost = is_beginning(name) && is_of_others;
        let folder = name.rsplit_once('/').map_or(name, |(folder, _)| folder).to_owned() + "/";
        let mut left = Vec::new();
        self.inner().waiting.retain(|one| {
            let is_left = one.name.starts_with(&folder) && matches!(one.kind, Kind::Left);
            left.extend(is_left.then(|| one.name.clone()));
            !is_left
        });
        let Some(spool) = self.spool.as_ref().filter(|_| is_lost) else {
            self.note(format!("the rest of this journal stays in the spool: {error}"));
            return Ok(());
        };
        let spool = Arc::clone(spool);
        self.note(format!("{folder} cannot count, and is removed from the spool: {error}"));
        // What is in the way of the others goes last: who is killed meanwhile finds it again.
        let remove = move || left.iter().rev().try_for_each(|name| spool.remove(name));
        run_blocking(remove).await.context("spool")?;
        self.tell_waiting();
        Ok(())
    }

    /// Whether other bytes than `bytes`, or more, are stored under `name`. False where they cannot be read.
    async fn is_of_others(&self, name: &str, bytes: &Bytes) -> Result<bool> {
        match self.repository.get(name, bytes.len() as u64).await {
            Ok(there) => Ok(there != *bytes),
            Err(error) if error.kind() == ErrorKind::Tampered => Ok(true),
            Err(error) if error.kind() == ErrorKind::Unreachable => Err(error),
            Err(_) => Ok(false),
        }
    }
}

/// The name of the seal that vouches for the end `name`, or `name` itself if it is one.
fn seal_of_end(name: &str) -> Option<String> {
    let ObjectName::Journal { id, part } = ObjectName::parse(name)? else { return None };
    match part {
        JournalPart::End(number) | JournalPart::Seal(number @ 2..) => {
            Some(JournalPart::Seal(number).of(id))
        }
        _ => None,
    }
}
