//! The keyring in use: it follows its file, and is never worse than what was in use before.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::custody::keyfile;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{KeyId, KeyState, Time};
use crate::keys::Keyring;

/// How long a call waits for the file. A file system that hangs must not keep the API server from its data.
const BUDGET: Duration = Duration::from_secs(1);
/// How long the plugin is not ready after it was asked for a key that it does not have.
const MISSING_FOR: Duration = Duration::from_secs(300);

/// What shows that a file is another one, or was changed.
type Stamp = (u64, u64, i64, i64, u64);

/// A keyring file, and the keyring of it that is in use.
pub(super) struct Followed {
    path: PathBuf,
    state: Mutex<State>,
    /// Held by the one who reads the file.
    reading: Arc<tokio::sync::Mutex<()>>,
}

struct State {
    keyring: Arc<Keyring>,
    /// The file when it was read last, whatever came of it.
    stamp: Option<Stamp>,
    /// Why the file as it is now is not in use.
    refused: Option<String>,
    /// The primary keys that were in use, the present one included.
    primaries: BTreeSet<KeyId>,
    primary: Option<KeyId>,
    /// The latest time that was seen: by a clock that is set back no old key becomes primary again.
    now: Time,
    missing: Option<(KeyId, Instant)>,
}

/// The keyring at one moment.
pub(super) struct Now {
    pub(super) keyring: Arc<Keyring>,
    pub(super) time: Time,
}

impl Followed {
    /// # Errors
    /// Those of [`keyfile::load`].
    pub(super) fn open(path: &Path) -> Result<Self> {
        // Before the file is read: a change in between shows the next time.
        let stamp = stamp(path).ok();
        let keyring = Arc::new(keyfile::load(path)?);
        let now = keyfile::now();
        let primary = keyring.primary(now).map(|(id, _)| id);
        let primaries = primary.into_iter().collect();
        let (refused, missing) = (None, None);
        let state = State { keyring, stamp, refused, primaries, primary, now, missing };
        let (path, reading) = (path.to_owned(), Arc::default());
        Ok(Self { path, state: Mutex::new(state), reading })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keyring in use, and the time that its states are to be looked at for.
    pub(super) fn now(&self) -> Now {
        let mut state = self.state();
        state.now = state.now.max(keyfile::now());
        let (keyring, time) = (Arc::clone(&state.keyring), state.now);
        let primary = keyring.primary(time).map(|(id, _)| id);
        if primary != state.primary {
            if let (Some(new), Some(old)) = (primary, state.primary) {
                info!(event = "kms_key_changed", key = %new, previous = %old);
            }
            state.primaries.extend(primary);
            state.primary = primary;
        }
        Now { keyring, time }
    }

    /// Why this plugin is not healthy, as far as its keyring tells.
    pub(super) fn trouble(&self) -> Option<String> {
        self.state().refused.clone()
    }

    /// That somebody asked for a key that is not here. It is no reason to be unhealthy: the API server would stop all
    /// writes for one object, which anyone who writes to etcd can make.
    pub(super) fn missing(&self) -> Option<String> {
        let missing = self.state().missing.filter(|(_, at)| at.elapsed() < MISSING_FOR);
        missing.map(|(id, _)| format!("key {id} is not on this node"))
    }

    /// Notes that somebody asked for a key that is not here. It may have arrived since.
    pub(super) fn missed(&self, id: KeyId) {
        let mut state = self.state();
        if !state.keyring.list(state.now).any(|(known, ..)| known == id) {
            state.missing = Some((id, Instant::now()));
        }
    }

    /// Looks whether the file has changed, and reads it then. Waits for that no longer than a second.
    pub(super) async fn look(self: &Arc<Self>) {
        // If another call is reading it, use what is loaded.
        let Ok(turn) = Arc::clone(&self.reading).try_lock_owned() else { return };
        let this = Arc::clone(self);
        let read = spawn_blocking(move || {
            this.read();
            drop(turn);
        });
        if timeout(BUDGET, read).await.is_err() {
            let why = format!("{}: cannot be read within a second", self.path.display());
            self.refuse(None, &Error::new(ErrorKind::Io, why));
        }
    }

    fn read(&self) {
        let stamp = match stamp(&self.path) {
            Ok(stamp) => stamp,
            Err(error) => return self.refuse(None, &Error::io(&self.path, error)),
        };
        if self.state().stamp == Some(stamp) {
            return;
        }
        match keyfile::load(&self.path).and_then(|keyring| self.accept(keyring)) {
            Ok(()) => self.state().stamp = Some(stamp),
            Err(error) => self.refuse(Some(stamp), &error),
        }
    }

    /// Puts `keyring` to use.
    fn accept(&self, keyring: Keyring) -> Result<()> {
        let mut state = self.state();
        let place = self.path.display();
        let known: BTreeSet<KeyId> = keyring.list(state.now).map(|(id, ..)| id).collect();
        if let Some((lost, ..)) = state.keyring.list(state.now).find(|(id, ..)| !known.contains(id))
        {
            let message = format!("{place}: key {lost}, which is in use, is not in the new file");
            return Err(Error::new(ErrorKind::Refused, message).hint(
                "copy the newest keyring to this node; a key is removed by `strongroom key remove`",
            ));
        }
        let returns = |(id, now, _): &(KeyId, KeyState, Time)| {
            let again = match now {
                KeyState::Primary => state.primary != Some(*id),
                // It could become primary later, or is already planned to.
                now => *now == KeyState::Staged,
            };
            again && state.primaries.contains(id)
        };
        if let Some((id, ..)) = keyring.list(state.now.max(keyfile::now())).find(returns) {
            let message = format!("{place}: key {id} was the primary key before");
            return Err(Error::new(ErrorKind::Refused, message)
                .hint("Kubernetes does not allow it: make a new key with `strongroom key rotate --staged`"));
        }
        let missing = state.missing.filter(|(id, _)| !known.contains(id));
        (state.keyring, state.refused, state.missing) = (Arc::new(keyring), None, missing);
        info!(event = "kms_keyring_read", path = %place, keys = known.len());
        Ok(())
    }

    /// Keeps what is in use. The reason is logged once.
    fn refuse(&self, stamp: Option<Stamp>, error: &Error) {
        let mut state = self.state();
        let why = error.to_string();
        state.stamp = stamp;
        if state.refused.as_ref() != Some(&why) {
            warn!(
                event = "kms_keyring_rejected",
                error = %error,
                kind = error.kind().name(),
                hint = error.hint_text(),
            );
        }
        state.refused = Some(why);
    }
}

/// Of the file behind symbolic links: what Kubernetes and configuration management change is the link.
fn stamp(path: &Path) -> std::io::Result<Stamp> {
    let meta = fs::metadata(path)?;
    Ok((meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec(), meta.size()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::crypto::system_rng;

    fn followed(dir: &Path) -> (PathBuf, Followed, KeyId) {
        let path = dir.join("keyring");
        let ring = Keyring::generate(keyfile::now(), &mut system_rng()).unwrap();
        keyfile::create(&path, &ring).unwrap();
        let followed = Followed::open(&path).unwrap();
        let first = followed.now().keyring.primary(keyfile::now()).unwrap().0;
        (path, followed, first)
    }

    fn primary(followed: &Followed) -> KeyId {
        followed.read();
        let Now { keyring, time } = followed.now();
        keyring.primary(time).unwrap().0
    }

    fn rotate(path: &Path) -> KeyId {
        let ring = keyfile::load(path).unwrap();
        let (ring, id) = ring.rotate(keyfile::now(), &mut system_rng()).unwrap();
        keyfile::replace(path, &ring).unwrap();
        id
    }

    #[test]
    fn a_changed_file_is_used_and_a_bad_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (path, followed, first) = followed(dir.path());
        assert_eq!((primary(&followed), followed.trouble()), (first, None));
        let old = fs::read(&path).unwrap();
        let second = rotate(&path);
        assert_eq!((primary(&followed), followed.trouble()), (second, None));
        let good = fs::read(&path).unwrap();

        let refused = |part: &str| {
            assert_eq!(primary(&followed), second);
            let trouble = followed.trouble().unwrap();
            assert!(trouble.contains(part), "{part}: {trouble}");
        };
        fs::write(&path, b"strongroom-keyring/1\n").unwrap();
        refused("no key is primary");
        fs::write(&path, &good[..good.len() - 1]).unwrap();
        refused("keyring");
        fs::remove_file(&path).unwrap();
        refused("No such file");
        // An old copy: it lacks a key that is in use.
        fs::write(&path, &old).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        refused("is not in the new file");
        fs::write(&path, &good).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        refused("open to others");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!((primary(&followed), followed.trouble()), (second, None));
    }

    #[test]
    fn a_key_that_was_primary_does_not_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let (path, followed, first) = followed(dir.path());
        let second = rotate(&path);
        assert_eq!(primary(&followed), second);
        let good = dir.path().join("good");
        fs::copy(&path, &good).unwrap();
        // Edited by hand: the states are exchanged.
        let text = String::from_utf8(fs::read(&path).unwrap()).unwrap();
        let text = text.replace("primary", "x").replace("retiring", "primary");
        fs::write(&path, text.replace(" x ", " retired ")).unwrap();
        assert_eq!(primary(&followed), second);
        let trouble = followed.trouble().unwrap();
        assert!(trouble.contains(&format!("key {first} was the primary key before")), "{trouble}");
        // A key that was never primary, and after it the first one again.
        let ring = Keyring::generate(keyfile::now(), &mut system_rng()).unwrap();
        let other = dir.path().join("other");
        keyfile::create(&other, &ring).unwrap();
        let (good, fresh) =
            (fs::read_to_string(&good).unwrap(), fs::read_to_string(other).unwrap());
        let mut lines: Vec<String> = good.lines().map(str::to_owned).collect();
        for line in &mut lines {
            *line = line.replace("primary", "retiring");
            if line.starts_with(&first.to_string()) {
                let mut words: Vec<_> = line.split(' ').collect();
                (words[2], words[3]) = ("primary", "2999-01-01T00:00:00Z");
                *line = words.join(" ");
            }
        }
        lines.push(fresh.lines().nth(1).unwrap().to_owned());
        lines[1..].sort();
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        assert_eq!(primary(&followed), second);
        let trouble = followed.trouble().unwrap();
        assert!(trouble.contains(&format!("key {first} was the primary key before")), "{trouble}");
    }

    #[test]
    fn a_clock_that_is_set_back_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (path, followed, first) = followed(dir.path());
        let ring = keyfile::load(&path).unwrap();
        let (ring, second) = ring.stage(keyfile::now(), &mut system_rng()).unwrap();
        let later = Time::from_unix(keyfile::now().unix() + 3600);
        keyfile::replace(&path, &ring.promote(second, later, keyfile::now()).unwrap()).unwrap();
        assert_eq!(primary(&followed), first);
        // An hour later, and the real clock after it.
        followed.state().now = later;
        assert_eq!((primary(&followed), primary(&followed)), (second, second));
    }

    #[test]
    fn a_key_of_another_node_shows_until_it_is_here() {
        let dir = tempfile::tempdir().unwrap();
        let (path, followed, _) = followed(dir.path());
        let ring = keyfile::load(&path).unwrap();
        let (ring, id) = ring.stage(keyfile::now(), &mut system_rng()).unwrap();
        followed.missed(id);
        assert_eq!(followed.missing().unwrap(), format!("key {id} is not on this node"));
        assert_eq!(followed.trouble(), None);
        keyfile::replace(&path, &ring).unwrap();
        followed.read();
        assert_eq!(followed.missing(), None);
        // It was asked for before the file was read.
        followed.missed(id);
        assert_eq!(followed.missing(), None);
    }
}
