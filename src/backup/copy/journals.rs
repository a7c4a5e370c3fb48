//! Journals replicated to a second repository, each object in the order in which it was written: whenever a copy ends, what
//! is there can be restored.

mod segments;

use bytes::Bytes;
use futures::{StreamExt, stream};
use sha2::{Digest, Sha256 as Hasher};

use super::compared::{self, Comparing};
use super::report::{CopyReport, JournalsCopied};
use crate::backup::Scope;
use crate::envelope::{Asked, judge_seal};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{
    EndBody, EndObjects, JournalEnd, JournalHead, JournalPart, MAX_END, MAX_HEAD, MAX_SEAL, Seal,
    SegmentEntry, Sha256, SnapshotId, Subject,
};
use crate::journal::bundle::is_object;
use crate::journal::fetch::PART;
use crate::journal::folder::{self, Folder};
use crate::journal::open::{self, digest};
use crate::keys::KeySet;
use crate::store::seals::lowest_and_highest;
use crate::store::{ObjectInfo, Repository};
use crate::task::Control;

/// Journals copied at once.
const AT_ONCE: usize = 4;
/// Ends and seals of one journal that are read: others can plant more.
const MOST: usize = 64;
/// What to do where the two places differ.
const WHICH: &str = "`strongroom journal verify` in both places shows which one is good";

/// Copies the journals of `scope`, but not with snapshots that are named, and says so in `report`. With `comparing`, what
/// the copy has of them is read there and compared, each journal once, some in each run.
///
/// # Errors
/// Those of the stores. What is wrong with one journal stands in the report.
pub(super) async fn copy_journals(
    source: &Repository,
    target: &Repository,
    keys: &KeySet,
    scope: Scope<'_>,
    comparing: Option<&Comparing>,
    control: &Control,
    report: &mut CopyReport,
) -> Result<()> {
    if matches!(scope, Scope::Ids(_)) {
        return Ok(());
    }
    let (from, _) = folder::list_all(source).await?;
    let (mut there, _) = folder::list_all(target).await?;
    let chosen = from.into_iter().filter(|(_, folder)| folder.head.is_some());
    let chosen: Vec<_> =
        chosen.map(|(id, from)| (id, from, there.remove(&id).unwrap_or_default())).collect();
    report.journals.not_compared = comparing.filter(|comparing| comparing.remembers()).map(|_| 0);
    let mut copied = stream::iter(chosen)
        .map(|(id, from, there)| async move {
            control.check()?;
            let mut one = One {
                source,
                target,
                keys,
                id,
                from,
                there,
                comparing,
                reads_there: false,
                passed_over: 0,
                done: Done::default(),
            };
            let outcome = one.copy(scope).await;
            Ok::<_, Error>((id, outcome, one.done))
        })
        .buffered(AT_ONCE);
    while let Some(one) = copied.next().await {
        let (id, outcome, mut done) = one?;
        report.written_bytes += done.written;
        report.differing.append(&mut done.differing);
        report.journals.note(id, outcome, done)?;
    }
    Ok(())
}

impl JournalsCopied {
    /// Takes note of what became of `id`.
    ///
    /// # Errors
    /// What is not about `id`, and ends the whole copy.
    fn note(&mut self, id: SnapshotId, outcome: Result<Outcome>, done: Done) -> Result<()> {
        if done.written > 0 {
            self.copied.push(id);
        }
        if let Some(left) = self.not_compared.as_mut().filter(|_| done.is_left) {
            *left += 1;
        }
        let outcome = match outcome {
            Err(error) if error.kind().is_general() => return Err(error),
            Err(error) => {
                self.failed.insert(id, error.to_string());
                return Ok(());
            }
            Ok(outcome) => outcome,
        };
        if done.is_compared {
            self.compared.push(id);
        }
        self.marks.extend(done.mark);
        match outcome {
            Outcome::Copied if done.written == 0 => self.present += 1,
            Outcome::Copied | Outcome::Outside => {}
            Outcome::LeftOut(why) => drop(self.left_out.insert(id, why)),
        }
        Ok(())
    }
}

enum Outcome {
    Copied,
    /// It is of another cluster.
    Outside,
    /// It does not count.
    LeftOut(String),
}

#[derive(Default)]
struct Done {
    written: u64,
    differing: Vec<String>,
    /// What later runs remember it by, if nothing of it is wrong.
    mark: Option<String>,
    /// What the copy had of it was read there.
    is_compared: bool,
    /// It is left to a later run.
    is_left: bool,
    /// What is wrong with an object that the copy had.
    rotten: Option<Error>,
}

struct One<'a> {
    source: &'a Repository,
    target: &'a Repository,
    keys: &'a KeySet,
    id: SnapshotId,
    from: Folder,
    there: Folder,
    comparing: Option<&'a Comparing>,
    /// Whether what the copy has of it is read.
    reads_there: bool,
    /// Bytes of objects beside its segments that are none of them.
    passed_over: u64,
    done: Done,
}

impl One<'_> {
    async fn copy(&mut self, scope: Scope<'_>) -> Result<Outcome> {
        let name = JournalPart::Head.of(self.id);
        let head = self.source.get(&name, MAX_HEAD as u64).await?;
        let parsed = JournalHead::parse(&head).context(name.clone())?;
        let body = parsed.body();
        if body.journal != self.id || body.origin != self.source.id() {
            return Err(Error::tampered(format!("{name} names another journal or repository")));
        }
        if matches!(scope, Scope::Cluster(cluster) if body.cluster != *cluster) {
            return Ok(Outcome::Outside);
        }
        let end = match self.counts(&parsed, &head).await {
            Ok(end) => end,
            Err(error) if error.kind().is_general() => return Err(error),
            Err(error) => return Ok(Outcome::LeftOut(error.to_string())),
        };
        // The copy's own retention removed it.
        if self.there.head.is_none() && self.there.tombstone.is_some() {
            return Ok(Outcome::Copied);
        }
        self.decide(end.is_some());
        let (first, later) = self.seal_numbers();
        if let Some(generation) = first {
            self.seal(generation).await?;
        }
        self.head(&name, head).await?;
        self.recorded(end.as_ref()).await?;
        for generation in lowest_and_highest(&self.from.ends, MOST) {
            self.end(generation, &parsed).await?;
        }
        for generation in later {
            self.seal(generation).await?;
        }
        match self.done.rotten.take() {
            Some(error) => Err(error.hint(WHICH)),
            None => Ok(Outcome::Copied),
        }
    }

    /// Whether what the copy has of it is read in this run. What this run writes is verified on the way.
    fn decide(&mut self, has_ended: bool) {
        let Some(comparing) = self.comparing else { return };
        let mark = compared::mark(self.id, has_ended, self.from.recorded().count());
        if self.there.recorded().next().is_some() {
            match comparing.begin(&mark) {
                Some(reads) => (self.reads_there, self.done.is_left) = (reads, !reads),
                None => return,
            }
        }
        self.done.is_compared = self.reads_there;
        self.done.mark = Some(mark).filter(|_| !self.done.is_left);
    }

    /// That an object which the copy has is the one that the end names, or without an end the source's: lengths alone do not
    /// tell. What is wrong is noted, and the rest is copied nevertheless.
    async fn compare(&mut self, name: &str, expected: Option<Sha256>, longest: u64) -> Result<()> {
        let there = match self.target.get(name, longest).await {
            Err(error) if error.kind().is_general() => return Err(error),
            there => there,
        };
        let outcome = match (there, expected) {
            (Err(error), _) => Err(error),
            (Ok(there), Some(expected)) => Ok(digest(&there) == expected),
            (Ok(there), None) => self.source.get(name, longest).await.map(|from| from == there),
        };
        let error = match outcome {
            Ok(true) => return Ok(()),
            Ok(false) => Error::tampered("it has other bytes in the copy"),
            Err(error) if error.kind().is_general() => return Err(error),
            Err(error) => error,
        };
        self.done.rotten.get_or_insert(error.context(name.to_owned()));
        Ok(())
    }

    /// The number of its end and what that says, if a seal vouches for one.
    ///
    /// # Errors
    /// Why it does not count. Without keys everything that parses does.
    async fn counts(&self, head: &JournalHead, bytes: &[u8]) -> Result<Option<(u32, EndBody)>> {
        if self.keys.is_empty() {
            return Ok(None);
        }
        if self.keys.is_blind() {
            return self.is_signed(head, bytes).await.map(|()| None);
        }
        let read = (self.id, bytes);
        let journal = open::open_read(self.source, read, &self.from, self.keys).await?;
        match journal.standing.counts() {
            true => Ok(journal.end.map(|end| (journal.end_number, end))),
            false => Err(Error::new(ErrorKind::Refused, journal.standing.to_string())),
        }
    }

    /// That a trusted signer vouches for its head: no key opens it here.
    async fn is_signed(&self, head: &JournalHead, bytes: &[u8]) -> Result<()> {
        let (object, mut why, mut asked) = (digest(bytes), None, Asked::default());
        for generation in lowest_and_highest(&self.from.seals, MOST) {
            let name = JournalPart::Seal(generation).of(self.id);
            let bytes = self.read(&name, MAX_SEAL).await?;
            let Some(Ok(seal)) = bytes.map(|bytes| Seal::parse(&bytes)) else { continue };
            let cluster = Some(&head.body().cluster);
            match judge_seal(&seal, object, cluster, self.keys, &mut asked).await {
                Ok(judged) if judged.standing.counts() => return Ok(()),
                Ok(judged) => why = Some(judged.standing.to_string()),
                Err(error) if error.kind().is_general() => return Err(error),
                Err(error) => why = Some(error.to_string()),
            }
        }
        let why = why.unwrap_or_else(|| "it has no seal that can be read".into());
        Err(Error::new(ErrorKind::Refused, why))
    }

    /// The numbers of its seals: those that are copied before its head, and those that follow an end.
    fn seal_numbers(&self) -> (Option<u32>, Vec<u32>) {
        let mut numbers = lowest_and_highest(&self.from.seals, MOST).into_iter();
        (numbers.next(), numbers.collect())
    }

    async fn seal(&mut self, generation: u32) -> Result<()> {
        let name = JournalPart::Seal(generation).of(self.id);
        let Some(bytes) = self.read(&name, MAX_SEAL).await? else { return Ok(()) };
        if self.there.seals.contains_key(&generation) {
            // Both repositories may have been sealed again, each on its own.
            if self.target.get(&name, MAX_SEAL as u64).await? != bytes {
                self.done.differing.push(name);
            }
            return Ok(());
        }
        let is_its = |seal: &Seal| {
            let body = seal.body();
            body.subject() == Subject::Journal(self.id) && body.generation() == generation
        };
        // What is planted beside a good one stays behind.
        match Seal::parse(&bytes) {
            Ok(seal) if is_its(&seal) => self.put(&name, bytes).await,
            _ => Ok(()),
        }
    }

    async fn head(&mut self, name: &str, bytes: Bytes) -> Result<()> {
        if self.there.head.is_none() {
            return self.put(name, bytes).await;
        }
        if self.target.get(name, MAX_HEAD as u64).await? == bytes {
            return Ok(());
        }
        Err(Error::tampered(format!("{name} is another one in the copy")).hint(WHICH))
    }

    /// Copies what was recorded, as far as it is in segments: a bundle is copied with the end that names it.
    async fn recorded(&mut self, end: Option<&(u32, EndBody)>) -> Result<()> {
        let named = match end.map(|(number, end)| (number, &end.objects)) {
            Some((_, EndObjects::Segments(segments))) => Some(segments.as_slice()),
            Some((number, EndObjects::Bundle { object, .. })) => {
                let info = self.from.bundles.get(number);
                if info.is_some_and(|info| info.len == object.length) {
                    return Ok(());
                }
                self.segments(None).await?;
                return Err(Error::truncated("the bundle that its end names is missing"));
            }
            None => None,
        };
        self.segments(named).await
    }

    async fn end(&mut self, generation: u32, head: &JournalHead) -> Result<()> {
        let name = JournalPart::End(generation).of(self.id);
        let Some(bytes) = self.read(&name, MAX_END).await? else { return Ok(()) };
        let is_its = |end: &JournalEnd| {
            let (end, head) = (end.body(), head.body());
            end.journal == head.journal && end.commitment == head.commitment
        };
        match JournalEnd::parse(&bytes) {
            Ok(end) if !is_its(&end) => Ok(()),
            Ok(end) => {
                if let EndObjects::Bundle { object, .. } = &end.body().objects
                    && !self.bundle(generation, object).await?
                {
                    return Ok(());
                }
                match self.there.ends.contains_key(&generation) {
                    true => self.compare(&name, Some(digest(&bytes)), MAX_END as u64).await,
                    false => self.put(&name, bytes).await,
                }
            }
            Err(_) => Ok(()),
        }
    }

    /// Copies the bundle of this number, which an end names. False if it is not there: a later one replaced it.
    async fn bundle(&mut self, number: u32, named: &SegmentEntry) -> Result<bool> {
        let Some(info) = self.from.bundles.get(&number) else { return Ok(false) };
        match self.there.bundles.get(&number) {
            Some(there) if there.len == named.length => {
                let name = there.name.clone();
                return self.compare_bundle(number, &name, named).await.map(|()| true);
            }
            Some(ObjectInfo { name, .. }) => {
                return Err(Error::tampered(format!("{name} has another length in the copy")));
            }
            None if info.len != named.length => return Ok(false),
            None => {}
        }
        let name = info.name.clone();
        let mut upload = self.target.upload(&name).await?;
        let mut hasher = Hasher::new();
        for at in (0..named.length).step_by(PART as usize) {
            let end = at.saturating_add(PART).min(named.length);
            let bytes = self.source.get_range(&name, at..end).await?;
            hasher.update(&bytes);
            upload.write(bytes).await?;
        }
        if Sha256(hasher.finalize().into()) != named.sha256 {
            // The first error says more.
            let _ = upload.abort().await;
            return Err(Error::tampered(format!("{name} is not the object that the end names")));
        }
        self.done.written = self.done.written.saturating_add(upload.finish().await?);
        Ok(true)
    }

    /// That the copy's bundle is the one that the end names: before the end is copied, and where what the copy has is read.
    async fn compare_bundle(
        &mut self,
        number: u32,
        name: &str,
        named: &SegmentEntry,
    ) -> Result<()> {
        let is_new = !self.there.ends.contains_key(&number);
        if !(is_new || self.reads_there) || is_object(self.target, name, *named).await? {
            return Ok(());
        }
        let error = Error::tampered("it has other bytes in the copy").context(name.to_owned());
        if is_new {
            return Err(error.hint("delete it there, and copy again: its end is not copied yet"));
        }
        self.done.rotten.get_or_insert(error);
        Ok(())
    }

    /// The object, unless it is such that nothing can be made of it: what is planted beside a good one stays behind.
    async fn read(&self, name: &str, longest: usize) -> Result<Option<Bytes>> {
        match self.source.get(name, longest as u64).await {
            Err(error) if error.kind().is_of_store() => Err(error),
            read => Ok(read.ok()),
        }
    }

    async fn put(&mut self, name: &str, bytes: Bytes) -> Result<()> {
        let length = bytes.len() as u64;
        self.target.put_once(name, bytes).await?;
        self.done.written += length;
        Ok(())
    }
}
