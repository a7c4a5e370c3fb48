//! The store's secrets in a file: the same one for sudo, cron and systemd.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use zeroize::Zeroizing;

use crate::custody::open_private;
use crate::error::{Error, Result};

/// The longest file, in bytes.
const MOST: u64 = 64 << 10;
const PREFIXES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// The variables of this process and, for those that are not set, the lines of `file`.
///
/// # Errors
/// Those of reading the file: see [`parse`].
pub(super) fn environment(file: Option<&Path>) -> Result<BTreeMap<String, String>> {
    let mut all = file.map(read).transpose()?.unwrap_or_default();
    for (name, value) in std::env::vars_os() {
        if let (Ok(name), Ok(value)) = (name.into_string(), value.into_string())
            && (!value.is_empty() || !all.contains_key(&name))
        {
            all.insert(name, value);
        }
    }
    Ok(all)
}

fn read(path: &Path) -> Result<BTreeMap<String, String>> {
    let file = open_private(path).map_err(|error| error.context("credentials_file"))?;
    let mut text = Zeroizing::new(String::with_capacity(MOST as usize + 1));
    let read = file.take(MOST + 1).read_to_string(&mut text);
    read.map_err(|error| Error::io(path, error))?;
    if text.len() as u64 > MOST {
        return Err(Error::usage(format!("{} is longer than {MOST} bytes", path.display())));
    }
    parse(&text).map_err(|error| error.context(path.display().to_string()))
}

/// Reads `NAME=VALUE` lines, as systemd's `EnvironmentFile` and a shell do. Values are never repeated.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) that names the line.
fn parse(text: &str) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for (line, number) in text.lines().zip(1_usize..) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = |why: &str| {
            Error::usage(format!("line {number}: {why}"))
                .hint("write lines such as AWS_ACCESS_KEY_ID=…")
        };
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=').ok_or_else(|| bad("it has no NAME=VALUE"))?;
        let plain = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        if !name.chars().all(plain) || !PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            // What stands before a `=` may be a secret.
            return Err(bad("the name must begin with AWS_, GOOGLE_ or AZURE_"));
        }
        if all.insert(name.to_owned(), unquoted(value.trim()).to_owned()).is_some() {
            return Err(bad(&format!("{name} is there twice")));
        }
    }
    Ok(all)
}

fn unquoted(value: &str) -> &str {
    let inner = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_systemd_and_a_shell_read_them() {
        let text = "# the store\n\nAWS_ACCESS_KEY_ID=AKIA\nexport AWS_SECRET_ACCESS_KEY='a/b+c=='\n\
            AZURE_STORAGE_SAS_KEY=\"x=y&z\"\r\n";
        let found = parse(text).unwrap();
        let found: Vec<_> = found.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(
            found,
            [
                ("AWS_ACCESS_KEY_ID", "AKIA"),
                ("AWS_SECRET_ACCESS_KEY", "a/b+c=="),
                ("AZURE_STORAGE_SAS_KEY", "x=y&z"),
            ]
        );
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn a_mistake_names_its_line_and_repeats_no_secret() {
        for text in [
            "\nhunter2",
            "\nhunter2==",
            "\nLD_PRELOAD=hunter2",
            "\naws_secret=hunter2",
            "AWS_A=1\nAWS_A=hunter2",
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.to_string().starts_with("line 2: "), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
