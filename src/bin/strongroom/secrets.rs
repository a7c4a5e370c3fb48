//! Where secrets come from: files, commands, the terminal. Never arguments.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use strongroom::custody::keyfile;
use strongroom::secret::SecretBytes;
use strongroom::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

/// Longer than any passphrase; a buffer that never grows leaves no copies behind.
const MAX_LEN: usize = 4096;

/// Reads a secret from a file; one final line break is not part of it.
///
/// # Errors
/// [`ErrorKind::Io`]; [`ErrorKind::Usage`] when it is empty or too long.
pub(crate) fn read_file(path: &Path) -> Result<SecretBytes> {
    let file = File::open(path).map_err(|error| Error::io(path, error))?;
    let meta = file.metadata().map_err(|error| Error::io(path, error))?;
    // A pipe, as `<(pass show …)` makes, is nobody's to look into.
    if meta.is_file() {
        keyfile::check_mode(path, meta.mode())?;
    }
    read(file, &path.display().to_string())
}

fn read(from: impl Read, what: &str) -> Result<SecretBytes> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_LEN + 2));
    from.take(MAX_LEN as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io(what, error))?;
    let secret = bytes.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let secret = secret.unwrap_or(&bytes);
    if secret.is_empty() || secret.len() > MAX_LEN {
        return Err(Error::usage(format!(
            "{what}: the secret is empty, or longer than {MAX_LEN} bytes"
        )));
    }
    Ok(SecretBytes::new(secret.to_vec()))
}

/// Which passphrase is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passphrase {
    /// One that exists.
    Present,
    /// One that is to be set: on a terminal it is asked twice.
    New,
    /// The one that replaces it, from variables of its own.
    Replacement,
}

/// Gets a passphrase: from the file or the command that a variable names, else from the terminal.
///
/// # Errors
/// [`ErrorKind::Usage`] when there is no terminal, or the two entries differ.
pub(crate) fn passphrase(which: Passphrase) -> Result<SecretBytes> {
    let (infix, prompt) = match which {
        Passphrase::Replacement => ("NEW_PASSPHRASE", "New passphrase: "),
        Passphrase::New => ("PASSPHRASE", "New passphrase: "),
        Passphrase::Present => ("PASSPHRASE", "Passphrase: "),
    };
    let variable = |suffix| std::env::var_os(format!("STRONGROOM_{infix}_{suffix}"));
    if let Some(path) = variable("FILE") {
        return read_file(Path::new(&path));
    }
    if let Some(command) = variable("COMMAND") {
        return from_command(&command.to_string_lossy());
    }
    let ask = |prompt: &str| {
        let word = rpassword::prompt_password(prompt).map_err(|error| not_asked(error, infix))?;
        Ok::<_, Error>(Zeroizing::new(word))
    };
    let word = ask(prompt)?;
    if word.is_empty() {
        return Err(Error::usage("the passphrase is empty"));
    }
    if which != Passphrase::Present && ask("Once more: ")? != word {
        return Err(Error::usage("the two passphrases differ"));
    }
    Ok(SecretBytes::new(word.as_bytes().to_vec()))
}

/// Why the terminal gave no passphrase.
fn not_asked(error: std::io::Error, infix: &str) -> Error {
    match error.kind() {
        // At the prompt the terminal sends no signal: Ctrl-C arrives as this error.
        std::io::ErrorKind::Interrupted => Error::new(ErrorKind::Interrupted, "interrupted"),
        std::io::ErrorKind::UnexpectedEof => Error::usage("no passphrase was entered"),
        _ => Error::usage("a passphrase is needed, and there is no terminal to ask on")
            .hint(format!("set STRONGROOM_{infix}_FILE or STRONGROOM_{infix}_COMMAND"))
            .because(error),
    }
}

fn from_command(command: &str) -> Result<SecretBytes> {
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
    let secret = child.stdout.take().map(|out| read(out, "the passphrase command"));
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
            assert_eq!(read(bytes, "test").unwrap().expose(), expected);
        }
        assert!(read(&b"\n"[..], "test").is_err());
        assert!(read(&b""[..], "test").is_err());
        assert!(read(&[b'x'; MAX_LEN + 1][..], "test").is_err());
    }

    #[test]
    fn a_command_must_succeed() {
        assert_eq!(from_command("echo secret").unwrap().expose(), b"secret");
        assert!(from_command("echo secret; exit 1").is_err());
        assert!(from_command("true").is_err());
    }
}
