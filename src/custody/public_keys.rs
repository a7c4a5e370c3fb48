//! Files of recipients, identities, signers and signing keys.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::access::check_authentic;
use super::age;
use super::secrets::{read, read_secret, read_secret_of};
use crate::error::{Error, Result};
use crate::format::KeyState;
use crate::keys::{
    HpkeRecipient, IdentityFile, KeySet, MAX_IDENTITY_FILE, MAX_SIGNERS, PluginRecipient, Signer,
    SigningKey,
};
use crate::secret::SecretBytes;

/// Room for five hundred of the longest recipients.
const MAX_RECIPIENTS: usize = 1 << 20;

/// Adds the recipients in the file at `path`, one a line; lines that begin with `#` are comments.
///
/// # Errors
/// Those of reading it; [`Usage`](crate::ErrorKind::Usage) when it holds none.
pub(super) fn add_recipients(path: &Path, keys: &mut KeySet) -> Result<()> {
    let named = |error: Error| error.context(path.display().to_string());
    let text = read_public(path, MAX_RECIPIENTS)?;
    let lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut count = 0;
    for line in lines {
        add_recipient(line, keys).map_err(named)?;
        count += 1;
    }
    match count {
        0 => Err(named(Error::usage("the file holds no recipient"))),
        _ => Ok(()),
    }
}

fn add_recipient(text: &str, keys: &mut KeySet) -> Result<()> {
    if PluginRecipient::looks_like(text) {
        return age::add_recipient(text.parse()?, keys);
    }
    keys.add_recipient(Arc::new(text.parse::<HpkeRecipient>()?), KeyState::Sealing);
    Ok(())
}

/// Adds the secret keys in the identity file at `path`, and the signers that it names.
///
/// # Errors
/// Those of [`read_secret`] and of [`IdentityFile::parse`].
pub(super) fn add_identities(path: &Path, state: KeyState, keys: &mut KeySet) -> Result<()> {
    let file = read_identities(path)?;
    file.identities.into_iter().for_each(|key| keys.add(Arc::new(key), state));
    for plugin in file.plugins {
        age::add_identity(plugin, state, keys)?;
    }
    file.signers.into_iter().for_each(|signer| keys.trust(signer));
    Ok(())
}

/// Reads the identity file at `path`; `-` is standard input.
///
/// # Errors
/// Those of [`read_secret`] and of [`IdentityFile::parse`].
pub fn read_identities(path: &Path) -> Result<IdentityFile> {
    let (name, text) = match path.as_os_str() == "-" {
        true => (
            "standard input".into(),
            read(std::io::stdin().lock(), "standard input", MAX_IDENTITY_FILE)?,
        ),
        false => (path.display().to_string(), read_secret_of(path, MAX_IDENTITY_FILE)?),
    };
    IdentityFile::parse(utf8(&name, &text)?).map_err(|error| error.context(name))
}

/// Reads a file of trusted signers.
///
/// # Errors
/// [`Denied`](crate::ErrorKind::Denied) when others than its owner can change it; those of [`Signer::parse_file`].
pub fn read_signers(path: &Path) -> Result<Vec<Signer>> {
    let text = read_public(path, MAX_SIGNERS)?;
    Signer::parse_file(&text).map_err(|error| error.context(path.display().to_string()))
}

/// Reads the file of a signing key.
///
/// # Errors
/// Those of [`read_secret`] and of [`SigningKey::parse`].
pub fn read_signing_key(path: &Path) -> Result<SigningKey> {
    let (name, text) = (path.display().to_string(), read_secret(path)?);
    SigningKey::parse(utf8(&name, &text)?).map_err(|error| error.context(name))
}

fn utf8<'a>(name: &str, text: &'a SecretBytes) -> Result<&'a str> {
    std::str::from_utf8(text.expose()).map_err(|_| Error::usage(format!("{name}: it is not text")))
}

/// Reads a file that decides what is believed and holds no secret.
fn read_public(path: &Path, most: usize) -> Result<String> {
    let file = File::open(path).map_err(|error| Error::io(path, error))?;
    let meta = file.metadata().map_err(|error| Error::io(path, error))?;
    if meta.is_file() {
        check_authentic(path, &meta)?;
    }
    let mut text = String::new();
    let read = file.take(most as u64 + 1).read_to_string(&mut text);
    read.map_err(|error| Error::io(path, error))?;
    match text.len() > most {
        true => Err(Error::usage(format!("{}: longer than {most} bytes", path.display()))),
        false => Ok(text),
    }
}
