//! Where secrets come from that are not keys: files and commands. Never arguments.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use zeroize::Zeroizing;

use super::access::check_private;
use crate::error::{Error, ErrorKind, Result};
use crate::secret::SecretBytes;

/// Longer than any passphrase; a buffer that never grows leaves no copies behind.
const MAX_LEN: usize = 4096;

/// Where the passphrase of keys in the repository comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[cfg_attr(feature = "cli", command(next_help_heading = "Passphrase of keys in the repository"))]
pub struct PassphraseSettings {
    /// File with the passphrase of keys in the repository
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "keys.passphrase_file",
            long = "passphrase-file",
            value_name = "FILE",
            env = "STRONGROOM_PASSPHRASE_FILE"
        )
    )]
    pub passphrase_file: Option<PathBuf>,
    /// Command that prints the passphrase
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "keys.passphrase_command",
            long = "passphrase-command",
            value_name = "COMMAND",
            env = "STRONGROOM_PASSPHRASE_COMMAND"
        )
    )]
    pub passphrase_command: Option<String>,
}

impl PassphraseSettings {
    /// The passphrase, of the file if there is one, else of the command; `None` where neither is set.
    ///
    /// # Errors
    /// Those of [`read_secret`] and [`secret_of_command`].
    pub fn read(&self) -> Result<Option<SecretBytes>> {
        match (&self.passphrase_file, &self.passphrase_command) {
            (Some(path), _) => read_secret(path).map(Some),
            (None, Some(command)) => secret_of_command(command).map(Some),
            (None, None) => Ok(None),
        }
    }
}

/// Reads a secret from a file; one final line break is not part of it.
///
/// # Errors
/// [`ErrorKind::Denied`] when others may read it, change it or put another file in its place; [`ErrorKind::Io`];
/// [`ErrorKind::Usage`] when it is empty or too long.
pub fn read_secret(path: &Path) -> Result<SecretBytes> {
    read_secret_of(path, MAX_LEN)
}

/// As [`read_secret`], of at most `most` bytes.
pub(super) fn read_secret_of(path: &Path, most: usize) -> Result<SecretBytes> {
    read(open_private(path)?, &path.display().to_string(), most)
}

/// Opens a file of secrets.
///
/// # Errors
/// [`ErrorKind::Denied`] when others may read it, change it or put another file in its place; [`ErrorKind::Io`].
pub fn open_private(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(|error| Error::io(path, error))?;
    let meta = file.metadata().map_err(|error| Error::io(path, error))?;
    // A pipe, as `<(pass show …)` makes, is nobody's to look into.
    if meta.is_file() {
        check_private(path, &file, &meta)?;
    }
    Ok(file)
}

pub(super) fn read(from: impl Read, what: &str, most: usize) -> Result<SecretBytes> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(most + 2));
    from.take(most as u64 + 1).read_to_end(&mut bytes).map_err(|error| Error::io(what, error))?;
    let secret = bytes.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let secret = secret.unwrap_or(&bytes);
    if secret.is_empty() || secret.len() > most {
        return Err(Error::usage(format!(
            "{what}: the secret is empty, or longer than {most} bytes"
        )));
    }
    Ok(SecretBytes::new(secret.to_vec()))
}

/// Runs a shell command and takes what it prints for a secret; one final line break is not part of it.
///
/// # Errors
/// [`ErrorKind::Io`] when it cannot be started or fails; [`ErrorKind::Usage`] when it prints nothing or too much.
pub fn secret_of_command(command: &str) -> Result<SecretBytes> {
    let failed = |why: String| {
        Error::new(ErrorKind::Io, format!("the passphrase command {why}"))
            .hint("it must print the passphrase on its standard output and exit 0")
    };
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed("cannot be started".into()).because(error))?;
    let secret = child.stdout.take().map(|out| read(out, "the passphrase command", MAX_LEN));
    let status =
        child.wait().map_err(|error| failed("cannot be waited for".into()).because(error))?;
    match secret {
        Some(secret) if status.success() => secret,
        _ => Err(failed(format!("failed: {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_break_is_removed_and_nothing_else() {
        for (bytes, expected) in [
            (&b"a b \n"[..], &b"a b "[..]),
            (b"a\r\n", b"a"),
            (b"a\n\n", b"a\n"),
            (b"a", b"a"),
            (b" a\t", b" a\t"),
        ] {
            assert_eq!(read(bytes, "test", MAX_LEN).unwrap().expose(), expected);
        }
        assert!(read(&b"\n"[..], "test", MAX_LEN).is_err());
        assert!(read(&b""[..], "test", MAX_LEN).is_err());
        assert!(read(&[b'x'; MAX_LEN + 1][..], "test", MAX_LEN).is_err());
    }

    #[test]
    fn a_command_must_succeed() {
        assert_eq!(secret_of_command("echo secret").unwrap().expose(), b"secret");
        assert!(secret_of_command("echo secret; exit 1").is_err());
        assert!(secret_of_command("true").is_err());
    }
}
