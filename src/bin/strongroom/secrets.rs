//! Passphrases: from where the settings say, else from the terminal. Never arguments.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};

use strongroom::custody::PassphraseSettings;
use strongroom::secret::SecretBytes;
use strongroom::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

use crate::output::Output;

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

/// Gets a passphrase: from where `settings` say, else from the terminal.
///
/// # Errors
/// [`ErrorKind::Usage`] when there is no terminal, or the two entries differ.
pub(crate) fn passphrase(which: Passphrase, settings: &PassphraseSettings) -> Result<SecretBytes> {
    let (infix, prompt) = match which {
        Passphrase::Replacement => ("NEW_PASSPHRASE", "New passphrase: "),
        Passphrase::New => ("PASSPHRASE", "New passphrase: "),
        Passphrase::Present => ("PASSPHRASE", "Passphrase: "),
    };
    let found = match which {
        Passphrase::Replacement => replacement().read()?,
        Passphrase::New | Passphrase::Present => settings.read()?,
    };
    if let Some(word) = found {
        return Ok(word);
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

/// As [`passphrase`], of one that is to be set: warns of one that is easy to guess.
///
/// # Errors
/// As [`passphrase`].
pub(crate) fn new_passphrase(
    which: Passphrase,
    settings: &PassphraseSettings,
    output: Output,
) -> Result<SecretBytes> {
    let word = passphrase(which, settings)?;
    if let Some(why) = weakness(&word) {
        output.warn(&format!(
            "the passphrase is weak: {why}. Anyone who can read the repository can try passphrases: use six random words"
        ));
    }
    Ok(word)
}

/// Why a passphrase is easy to guess, if that shows.
fn weakness(word: &SecretBytes) -> Option<&'static str> {
    let word = word.expose();
    let distinct = word.iter().collect::<BTreeSet<_>>().len();
    match word.len() {
        0..12 => Some("it has fewer than 12 characters"),
        _ if distinct < 6 => Some("it repeats a few characters"),
        _ if word.iter().all(u8::is_ascii_digit) => Some("it has only digits"),
        _ => None,
    }
}

/// Asks a person to confirm with `yes`; without a terminal nothing is confirmed.
///
/// # Errors
/// [`ErrorKind::Io`] when the terminal breaks off.
pub(crate) fn confirm(prompt: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(false);
    }
    let failed = |error| Error::io("the terminal", error);
    std::io::stderr().write_all(prompt.as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(failed)?;
    Ok(answer.trim() == "yes")
}

/// Where the new passphrase comes from when one is changed.
fn replacement() -> PassphraseSettings {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    PassphraseSettings {
        passphrase_file: variable("STRONGROOM_NEW_PASSPHRASE_FILE").map(Into::into),
        passphrase_command: variable("STRONGROOM_NEW_PASSPHRASE_COMMAND")
            .map(|command| command.to_string_lossy().into_owned()),
    }
}

/// Why the terminal gave no passphrase.
fn not_asked(error: std::io::Error, infix: &str) -> Error {
    match error.kind() {
        // At the prompt the terminal sends no signal: Ctrl-C arrives as this error.
        std::io::ErrorKind::Interrupted => Error::new(ErrorKind::Interrupted, "interrupted"),
        std::io::ErrorKind::UnexpectedEof => Error::usage("no passphrase was entered"),
        _ => Error::usage("a passphrase is needed, and there is no terminal")
            .hint(format!("set STRONGROOM_{infix}_FILE or STRONGROOM_{infix}_COMMAND"))
            .because(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passphrases_that_are_easy_to_guess() {
        let weak = |word: &str| weakness(&SecretBytes::new(word.as_bytes().to_vec())).is_some();
        for word in ["", "hunter2", "elevenchars", "aaaaaaaaaaaaaaaaaaaa", "123456789012345678"] {
            assert!(weak(word), "{word}");
        }
        for word in ["correct horse battery", "J7#kd9Qw1zPm"] {
            assert!(!weak(word), "{word}");
        }
    }
}
