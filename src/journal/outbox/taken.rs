//! What a recorder does where somebody else has put an object under the name of one of its own.

use std::sync::Arc;

use bytes::Bytes;

use super::{Kind, Outbox, Waiting};
use crate::error::{Context, Error, ErrorKind, Result};
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
            Some((_, Kind::End)) => {
                let mut inner = self.inner();
                let end = inner.waiting.pop_front();
                let seal = inner.waiting.pop_front();
                let both = end.iter().chain(&seal).filter(|one| one.bytes.is_some());
                let length = both.map(|one| one.length).fold(0, u64::saturating_add);
                inner.memory = inner.memory.saturating_sub(length);
                drop(inner);
                self.note(format!("the journal has no end yet: {error}"));
                if let Some(Waiting { kind: Kind::Last(ended), .. }) = seal {
                    self.hand_over(ended);
                }
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// Lets go of the journal that an earlier recorder left, because its object `name` cannot be stored. Without its beginning
    /// nothing of it can count, and it is removed from the spool. It stays where it is unknown whose object is there.
    async fn cannot_send_left(&self, name: &str, bytes: &Bytes, error: &Error) -> Result<()> {
        let is_lost = is_beginning(name) && self.is_of_others(name, bytes).await?;
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
