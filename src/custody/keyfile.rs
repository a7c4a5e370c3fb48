//! Keyring files on disk: read with their permissions checked, written atomically and for the owner only.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::access::check_private;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Time;
use crate::keys::{KeySet, Keyring};
use crate::secret::SecretBytes;

/// Room for thousands of keys; more is not a keyring.
const MAX_LEN: u64 = 1 << 20;

/// The time by this host's clock, by which a keyring's states are decided.
#[must_use]
pub fn now() -> Time {
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let now = SystemTime::now();
    Time::from_unix(match now.duration_since(UNIX_EPOCH) {
        Ok(after) => seconds(after),
        Err(before) => -seconds(before.duration()),
    })
}

/// Holds keyrings for the process that changes them, from reading to writing; others that would change them wait.
pub struct Lock(#[expect(dead_code, reason = "held, not used")] Vec<File>);

/// Locks the keyring files at `paths` against being changed by another process.
///
/// # Errors
/// [`ErrorKind::Io`] when a directory cannot be opened or locked.
pub fn lock<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<Lock> {
    // The directory: the file itself is another one after each change.
    let mut dirs = Vec::new();
    for path in paths {
        let real = fs::canonicalize(path).map_err(|error| Error::io(path, error))?;
        dirs.push(real.parent().unwrap_or(Path::new("/")).to_owned());
    }
    // In one order, so that no two wait for each other.
    dirs.sort();
    dirs.dedup();
    let lock = |dir: &std::path::PathBuf| {
        let opened = File::open(dir);
        opened.and_then(|file| file.lock().map(|()| file)).map_err(|error| Error::io(dir, error))
    };
    dirs.iter().map(lock).collect::<Result<_>>().map(Lock)
}

/// Reads the keyring file at `path`.
///
/// # Errors
/// [`ErrorKind::Denied`] when others may read it, change it or put another file in its place, [`ErrorKind::Io`] when it
/// cannot be read, and those of [`Keyring::parse`].
pub fn load(path: &Path) -> Result<Keyring> {
    let mut file = File::open(path).map_err(|error| {
        Error::io(path, error).hint("give the keyring with --master-key file:PATH")
    })?;
    let meta = file.metadata().map_err(|error| Error::io(path, error))?;
    if !meta.is_file() || meta.len() > MAX_LEN {
        return Err(Error::tampered(format!("{} is not a keyring file", path.display())));
    }
    check_private(path, &file, &meta)?;
    let mut text = Vec::with_capacity(meta.len() as usize + 1);
    (&mut file)
        .take(meta.len() + 1)
        .read_to_end(&mut text)
        .map_err(|error| Error::io(path, error))?;
    let text = SecretBytes::new(text);
    Keyring::parse(text.expose()).map_err(|error| error.context(path.display().to_string()))
}

/// Adds the keys of the keyring file at `path` to `keys`, which looks at the file again before it seals.
///
/// # Errors
/// Those of [`load`].
pub(super) fn add(path: &Path, keys: &mut KeySet) -> Result<()> {
    keys.add_keyring(&load(path)?, now());
    let path = path.to_owned();
    keys.add_source(Arc::new(move || {
        Ok(load(&path)?.list(now()).map(|(id, state, _)| (id, state)).collect())
    }));
    Ok(())
}

/// Writes a new keyring file with mode 0600; never overwrites one.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] or [`ErrorKind::Io`].
pub fn create(path: &Path, keyring: &Keyring) -> Result<()> {
    create_file(path, keyring.print().expose()).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => error.hint(
            "a keyring is never overwritten: choose another name, or `strongroom key rotate`",
        ),
        _ => error,
    })
}

/// Writes a new file with mode 0600, to disk; never overwrites one. After an error there is no file.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] or [`ErrorKind::Io`].
pub fn create_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let message = format!("{} exists", path.display());
            return Err(Error::new(ErrorKind::AlreadyExists, message));
        }
        Err(error) => return Err(Error::io(path, error)),
    };
    let written = write_and_sync(&mut file, bytes).and_then(|()| sync_directory(path));
    written.map_err(|error| {
        let _ = fs::remove_file(path);
        Error::io(path, error)
    })
}

/// Replaces the keyring file at `path` in one step, keeping its mode.
///
/// # Errors
/// [`ErrorKind::Io`]; the old file is then still there.
pub fn replace(path: &Path, keyring: &Keyring) -> Result<()> {
    let text = keyring.print();
    let io = |error| Error::io(path, error);
    // A symbolic link (as Kubernetes and configuration management make) stays one.
    let path = &fs::canonicalize(path).map_err(io)?;
    let meta = fs::metadata(path).map_err(io)?;
    let mode = meta.mode() & 0o7777;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let staged = path.with_file_name(name);
    let replaced = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
        write_and_sync(&mut file, text.expose())?;
        let made = file.metadata()?;
        // Who ran it as root must not take the keyring from the service that uses it.
        if (made.uid(), made.gid()) != (meta.uid(), meta.gid()) {
            fchown(&file, Some(meta.uid()), Some(meta.gid()))?;
        }
        file.set_permissions(Permissions::from_mode(mode))?;
        fs::rename(&staged, path)
    })();
    replaced.map_err(|error: std::io::Error| {
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            return Error::io(&staged, error)
                .hint("another process is changing this keyring, or was killed while doing so: if none runs, remove the file");
        }
        let _ = fs::remove_file(&staged);
        Error::io(path, error)
    })?;
    sync_directory(path).map_err(|error| {
        io(error).hint("the new keyring is in use, but may be lost if the machine crashes now")
    })
}

fn write_and_sync(file: &mut File, bytes: &[u8]) -> std::io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the entry of `path` in its directory durable.
fn sync_directory(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::system_rng;

    fn generated() -> Keyring {
        Keyring::generate(now(), &mut system_rng()).unwrap()
    }

    #[test]
    fn is_private_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keyring");
        create(&path, &generated()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(create(&path, &generated()).unwrap_err().kind(), ErrorKind::AlreadyExists);
        for (mode, good) in
            [(0o640, true), (0o400, true), (0o604, false), (0o660, false), (0o644, false)]
        {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(load(&path).is_ok(), good, "{mode:o}");
        }
    }

    /// A backup that began before a rotation was finished must not seal to the retired key.
    #[test]
    fn a_key_that_was_retired_meanwhile_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keyring");
        create(&path, &generated()).unwrap();
        let mut keys = KeySet::new();
        add(&path, &mut keys).unwrap();
        keys.check_current().unwrap();
        let rotate = |ring: Keyring| ring.rotate(now(), &mut system_rng());
        replace(&path, &rotate(load(&path).unwrap()).unwrap().0).unwrap();
        keys.check_current().unwrap();
        replace(&path, &load(&path).unwrap().retire(now()).unwrap().0).unwrap();
        assert_eq!(keys.check_current().unwrap_err().kind(), ErrorKind::Refused);
        fs::remove_file(&path).unwrap();
        assert!(keys.check_current().is_err(), "unknown is not good");
    }

    #[test]
    fn replacing_keeps_mode_and_link() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keyring");
        create(&path, &generated()).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let ring = load(&path).unwrap();
        let (ring, _) = ring.rotate(now(), &mut system_rng()).unwrap();
        replace(&link, &ring).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(load(&path).unwrap().list(now()).count(), 2);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
