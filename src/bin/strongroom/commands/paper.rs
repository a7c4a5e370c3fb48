//! `key split` and `key combine`: a key as shares on paper.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;
use strongroom::crypto::slip39::{Share, missing};
use strongroom::crypto::system_rng;
use strongroom::custody::{MasterKeyUri, keyfile, read_identities, read_pages};
use strongroom::format::KeyId;
use strongroom::keys::{Keyring, PaperKey};
use strongroom::secret::SecretBytes;
use strongroom::text::counted;
use strongroom::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

use super::Context;
use super::generate::create;
use crate::args::SplitArgs;
use crate::output;

/// Before the id, on a page.
const ID: &str = "# key id";
/// Between two pages.
const FORM_FEED: char = '\x0c';
/// Words in a line of a page.
const COLUMNS: usize = 4;
/// A share of a key has as many words.
const WORDS: usize = Share::word_count(32);

pub(super) fn split(args: &SplitArgs, context: &Context) -> Result<ExitCode> {
    context.output.refuse_json("key split prints pages")?;
    if !args.force && std::io::stdout().is_terminal() {
        return Err(Error::usage("shares are not written to a terminal: it may remember them")
            .hint("pipe them to a printer, such as lpr, or give --force"));
    }
    let (id, shares, others) = made(args, context)?;
    output::stream(|out| {
        for (number, share) in (1..).zip(&shares) {
            if number > 1 {
                write!(out, "{FORM_FEED}")?;
            }
            out.write_all(page(share, number, id, args, context).as_bytes())?;
        }
        Ok(())
    })?;
    if others > 0 {
        context
            .output
            .note(&format!("not in these shares: {} of the file", counted(others, "other key")));
    }
    context
        .output
        .note("next: type some of the pages into `strongroom key combine`, to verify them");
    Ok(ExitCode::SUCCESS)
}

/// The key that is split, its shares, and how many keys its file has beside it.
fn made(args: &SplitArgs, context: &Context) -> Result<(KeyId, Vec<Share>, usize)> {
    let SplitArgs { shares, threshold, key_id: key, .. } = *args;
    let rng = &mut system_rng();
    let mut uris = context.settings.master_keys();
    let path = match (uris.next(), uris.next()) {
        (Some(MasterKeyUri::Identity(path, _)), None) => path,
        (Some(_), Some(_)) => {
            return Err(Error::usage("shares hold one key, and several master keys are given")
                .hint("give one, with --master-key file:PATH or identity:FILE"));
        }
        _ => {
            let path = context.settings.keyring_path()?;
            let (keyring, now) = (keyfile::load(path)?, keyfile::now());
            let primary = keyring.primary(now).map(|(id, _)| id);
            let id = key.or(primary);
            let id = id.ok_or_else(|| Error::usage("no key of the keyring is primary"))?;
            let made = keyring.split(id, threshold, shares, rng)?;
            return Ok((id, made, keyring.list(now).count().saturating_sub(1)));
        }
    };
    let identities = read_identities(path)?.identities;
    let others = identities.len().saturating_sub(1);
    if key.is_none() && others > 0 {
        return Err(
            Error::usage("the file has several keys").hint("name one of them with --key-id")
        );
    }
    let wanted = identities.iter().find(|one| key.is_none_or(|id| id == one.recipient().id()));
    let wanted = wanted.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("{}: no such key", path.display()))
    })?;
    Ok((wanted.recipient().id(), wanted.split(threshold, shares, rng)?, others))
}

/// One page. What is not a share's words begins with #, so that the page can be read as it is.
fn page(
    share: &Share,
    number: usize,
    id: KeyId,
    args: &SplitArgs,
    context: &Context,
) -> Zeroizing<String> {
    let SplitArgs { shares, threshold, .. } = args;
    let repository = &context.settings.repository;
    let url = repository.url.as_ref().map(ToString::to_string);
    let unknown = || "________________".to_owned();
    let mut page = Zeroizing::new(String::with_capacity(4096));
    page.push_str(&format!(
        "# strongroom: share {number} of {shares}. Any {threshold} of them bring the key back.\n\
         #\n\
         {ID}         {id}\n\
         # set            {} (shares of one set belong together)\n\
         # made           {}\n\
         # repository     {}\n\
         # repository id  {}\n\
         #\n",
        share.set.identifier,
        keyfile::now(),
        url.unwrap_or_else(unknown),
        repository.id.map_or_else(unknown, |id| id.to_string()),
    ));
    let words = share.words();
    let words: Vec<&str> =
        std::str::from_utf8(words.expose()).unwrap_or_default().split(' ').collect();
    for (line, words) in words.chunks(COLUMNS).enumerate() {
        for (column, word) in words.iter().enumerate() {
            // Into the page itself: a string of its own would leave the word in memory. Writing to a String cannot fail.
            let _ = write!(page, "{:4} {word:<10}", line * COLUMNS + column + 1);
        }
        page.push('\n');
    }
    page.push_str(&format!(
        "#\n\
         # To bring the key back, on a machine that you trust:\n\
         #   strongroom key combine -o keyring --expect {id}\n\
         # It asks for the words of any {threshold} shares. Any other program for SLIP-39 reads them too; the secret is the\n\
         # 32 bytes of the key, without a passphrase.\n\
         # Anyone who has {threshold} of the {shares} shares has the key. Keep each of them at another place.\n"
    ));
    page
}

pub(super) fn combine(
    files: &[PathBuf],
    path: &Path,
    expect: Option<KeyId>,
    context: &Context,
) -> Result<ExitCode> {
    let mut given = Given { shares: Vec::new(), ids: expect.into_iter().collect() };
    if files.is_empty() && std::io::stdin().is_terminal() {
        given.ask(context)?;
    } else if files.is_empty() {
        given.read(read_pages(None)?, "standard input")?;
    }
    for file in files {
        given.read(read_pages(Some(file))?, &file.display().to_string())?;
    }
    let key = PaperKey::of_shares(&given.shares, &given.ids)?;
    let id = key.id();
    if let Some(other) = given.ids.iter().find(|other| **other != id) {
        let message = format!("the shares are of key {id}, not of key {other}");
        return Err(Error::tampered(message).hint("compare the ids on the pages"));
    }
    let what = match key {
        PaperKey::Local(key) => {
            keyfile::create(path, &Keyring::of_key(key, keyfile::now())?)?;
            "master key"
        }
        PaperKey::Identity(key) => {
            create(path, "public key", &key.recipient().to_string(), &key.print()?)?;
            "identity of key"
        }
    };
    let json = json!({
        "id": id.to_string(), "path": path.display().to_string(), "shares": given.shares.len(),
    });
    let text = || format!("{}: {what} {id}", path.display());
    let status = context.output.done(ExitCode::SUCCESS, json, text)?;
    context.output.note(match given.ids.is_empty() {
        true => "next: compare that id with the pages; if it is another one, the key may be of an identity file: give --expect",
        false => "next: `strongroom verify latest` shows what the key opens",
    });
    Ok(status)
}

/// The shares so far, and the keys that they are said to be of.
struct Given {
    shares: Vec<Share>,
    ids: BTreeSet<KeyId>,
}

impl Given {
    /// Reads all pages of `text`.
    fn read(&mut self, text: SecretBytes, place: &str) -> Result<()> {
        let text = std::str::from_utf8(text.expose())
            .map_err(|_| Error::tampered(format!("{place} is not text")))?;
        for (number, page) in (1..).zip(text.split(FORM_FEED)) {
            let read =
                self.page(page).map_err(|error| error.context(format!("{place}: page {number}")));
            read?;
        }
        Ok(())
    }

    fn page(&mut self, page: &str) -> Result<()> {
        let mut words = Zeroizing::new(String::with_capacity(page.len() + 1));
        for line in page.lines() {
            if let Some(id) = line.strip_prefix(ID) {
                self.ids.insert(id.trim().parse()?);
            }
            add_words(line, &mut words);
        }
        let share = Share::parse(&words)?;
        let which = |share: &Share| (share.group, share.member);
        let mut others = self.shares.iter().filter(|other| other.set == share.set);
        if others.any(|other| which(other) == which(&share)) {
            return Err(Error::usage("this share was given before").hint("give each page once"));
        }
        self.shares.push(share);
        Ok(())
    }

    /// Asks for shares until there are enough. What was typed wrong is asked for again.
    fn ask(&mut self, context: &Context) -> Result<()> {
        loop {
            let number = self.shares.len() + 1;
            let more =
                missing(&self.shares).map(|more| format!(" ({more} to go)")).unwrap_or_default();
            output::write_stderr(&format!("Words of share {number}{more}:"));
            let share = Share::parse(&typed()?);
            match share.and_then(|share| self.add(share)) {
                Ok(()) if missing(&self.shares) == Some(0) => return Ok(()),
                Ok(()) => {}
                Err(error) => context.output.warn(&match error.hint_text() {
                    Some(hint) => format!("{error}; {hint}"),
                    None => error.to_string(),
                }),
            }
        }
    }

    /// Adds a share that goes with the others.
    fn add(&mut self, share: Share) -> Result<()> {
        if let Some(first) = self.shares.first() {
            if first.set != share.set {
                let message = format!(
                    "this share is of set {}, not of {}",
                    share.set.identifier, first.set.identifier
                );
                return Err(Error::usage(message));
            }
            if self.shares.iter().any(|other| other.member == share.member) {
                return Err(Error::usage("this share was entered already"));
            }
        }
        self.shares.push(share);
        Ok(())
    }
}

/// Adds the words of a line, without the numbers before them.
fn add_words(line: &str, words: &mut Zeroizing<String>) {
    if line.starts_with('#') {
        return;
    }
    let is_number =
        |word: &&str| word.trim_end_matches(['.', ':']).bytes().all(|c| c.is_ascii_digit());
    for word in line.split_whitespace().filter(|word| !is_number(word)) {
        words.push_str(word);
        words.push(' ');
    }
}

/// The words of one share, from the terminal.
fn typed() -> Result<Zeroizing<String>> {
    let mut words = Zeroizing::new(String::with_capacity(1024));
    while words.split_whitespace().count() < WORDS {
        let mut line = Zeroizing::new(String::with_capacity(1024));
        let read = std::io::stdin().read_line(&mut line);
        if read.map_err(|error| Error::io("the terminal", error))? == 0 {
            return Err(Error::new(ErrorKind::Interrupted, "no more shares were entered"));
        }
        // An empty line ends a share that is too short.
        if line.trim().is_empty() && !words.is_empty() {
            break;
        }
        add_words(&line, &mut words);
    }
    Ok(words)
}
