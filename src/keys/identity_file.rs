//! An identity file in age's form: comments, and secret keys one a line (SPEC.md §2.6).

use super::age::{PluginIdentity, PluginRecipient};
use super::recipient::HpkeIdentity;
use super::signing::Signer;
use crate::error::{Error, Result};

/// The longest identity file that is read, in bytes.
pub const MAX_IDENTITY_FILE: usize = 1 << 20;

/// A comment whose words are trusted signers, so that the file carries what vouches for the snapshots that it opens.
const SIGNERS: &str = "# signers:";

/// The keys of an identity file, and the signers that it trusts.
pub struct IdentityFile {
    /// The keys: at least one of these, or of a plugin's.
    pub identities: Vec<HpkeIdentity>,
    /// Those that a plugin understands.
    pub plugins: Vec<PluginIdentity>,
    /// The signers.
    pub signers: Vec<Signer>,
}

impl IdentityFile {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// Usage or unsupported, with the line's number; neither repeats the line.
    pub fn parse(text: &str) -> Result<Self> {
        if text.starts_with("age-encryption.org/") || text.starts_with("-----BEGIN AGE") {
            return Err(Error::unsupported("the identity file is encrypted")
                .hint("age -d FILE | strongroom … --master-key identity:-"));
        }
        let mut file = Self { identities: Vec::new(), plugins: Vec::new(), signers: Vec::new() };
        let (mut recipients, mut after_blank) = (Vec::new(), false);
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_end();
            let read = match line.strip_prefix(SIGNERS) {
                Some(signers) => file.add_signers(signers),
                None if line.is_empty() => Ok(()),
                None if line.starts_with('#') => {
                    // What stood before belongs to an identity that is not here. A plugin may write an empty line between
                    // its comments and its identity, but not within the comments.
                    if after_blank || is_disabled_key(line) {
                        recipients.clear();
                    }
                    recipients.extend(recipient_of(line));
                    Ok(())
                }
                None if PluginIdentity::looks_like(line) => {
                    let plugin = PluginIdentity::parse(line, std::mem::take(&mut recipients));
                    plugin.map(|plugin| file.plugins.push(plugin))
                }
                None => {
                    recipients.clear();
                    HpkeIdentity::parse(line).map(|identity| file.identities.push(identity))
                }
            };
            after_blank = line.is_empty();
            read.map_err(|error| error.context(format!("line {}", number + 1)))?;
        }
        match file.identities.is_empty() && file.plugins.is_empty() {
            true => Err(Error::usage("the file holds no secret key")
                .hint("`strongroom key generate --recipient -o FILE` makes one, and so does age-keygen -pq")),
            false => Ok(file),
        }
    }

    fn add_signers(&mut self, words: &str) -> Result<()> {
        let mut lines: Vec<String> = Vec::new();
        for word in words.split_whitespace() {
            match lines.last_mut().filter(|_| word.contains('=')) {
                // A word of the signer before it, as in a file of signers.
                Some(line) => {
                    line.push(' ');
                    line.push_str(word.trim_end_matches(','));
                }
                None => {
                    let words = word.split(',').filter(|word| !word.is_empty());
                    lines.extend(words.map(str::to_owned));
                }
            }
        }
        for line in lines {
            self.signers.push(line.parse()?);
        }
        Ok(())
    }
}

/// Whether a comment is a key that somebody took out of use.
fn is_disabled_key(comment: &str) -> bool {
    let text = comment.trim_start_matches('#').trim_start();
    text.starts_with("AGE-PLUGIN-") || text.starts_with("AGE-SECRET-KEY-")
}

/// The plugin's recipient in a comment such as `# public key: age1…` or `#    Recipient: age1…`.
fn recipient_of(comment: &str) -> Option<PluginRecipient> {
    let (name, text) = comment.trim_start_matches('#').split_once(':')?;
    let names = ["public key", "recipient"];
    let is_named = names.iter().any(|known| name.trim().eq_ignore_ascii_case(known));
    let text = Some(text.trim()).filter(|text| is_named && PluginRecipient::looks_like(text))?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Kem, system_rng};
    use crate::keys::SigningKey;
    use crate::keys::text::print_any;

    #[test]
    fn comments_keys_and_signers() {
        let key = HpkeIdentity::generate(Kem::XWing, &mut system_rng()).unwrap();
        let line = String::from_utf8(key.print().unwrap().expose().to_vec()).unwrap();
        let signer = SigningKey::generate(&mut system_rng()).public();
        let text = format!("# created: now\n# public key: x\n# signers: {signer}\n\n{line}\n");
        let file = IdentityFile::parse(&text).unwrap();
        assert_eq!(file.identities[0].recipient(), key.recipient());
        assert_eq!(file.signers, [Signer::new(signer)]);
        let second = SigningKey::generate(&mut system_rng()).public();
        let words = format!("name=cp-1 clusters=a,b, {second} revoked=2026-11-27");
        let file = IdentityFile::parse(&format!("# signers: {signer} {words}\n{line}\n")).unwrap();
        assert_eq!(file.signers[0].clusters.len(), 2);
        assert_eq!(file.signers[0].name.as_deref(), Some("cp-1"));
        assert_eq!(file.signers[1].key, second);
        assert!(file.signers[1].revoked.is_some());
        let yubikey = "age1yubikey1q2w7u3vpya839jxxuq8g0sedh3d740d4xvn639sqhr95ejj8vu3hyfumptt";
        let own = "AGE-PLUGIN-BATCHPASS-1JCS0Q9";
        let text = format!("# Recipient: {yubikey}\n{line}\n{own}\n# public key: age1pq1\n{own}\n");
        let file = IdentityFile::parse(&text).unwrap();
        assert_eq!((file.plugins[0].ids().len(), file.plugins[0].plugin()), (1, "batchpass"));
        assert_eq!(file.plugins[1].ids(), [file.plugins[0].own_id()]);
        for bad in [
            &format!("# Recipient: {yubikey}\n{own}\n"),
            "",
            "# only comments\n",
            "age-encryption.org/v1\n-> scrypt\n",
            "AGE-PLUGIN-YUBIKEY-1QQQ\n",
            "age-plugin-batchpass-1jcs0q9\n",
            "# signers: srsign1x\n",
            &format!("{line}\nrubbish\n"),
        ] {
            let error = IdentityFile::parse(bad).err().unwrap();
            assert!(!error.to_string().contains(&line));
        }
    }

    /// Backups are sealed to it: it must not be that of a key which is out of use.
    #[test]
    fn a_recipient_belongs_to_the_identity_after_it() {
        let recipient = |byte| print_any("age1x", &[byte]);
        let (old, new) = (recipient(1), recipient(2));
        let identity = |byte| print_any("age-plugin-x-", &[byte]).to_ascii_uppercase();
        let (first, second) = (identity(1), identity(2));
        let plugins = |text: String| IdentityFile::parse(&text).map(|file| file.plugins);
        let sealed_to = |text: String| {
            let last = plugins(text).unwrap().pop().unwrap();
            (last.ids().len(), last.recipient().map(ToString::to_string))
        };
        let of_new = (2, Some(new.clone()));
        for text in [
            format!("# Recipient: {old}\n#{first}\n\n# Recipient: {new}\n{second}\n"),
            format!("# Recipient: {old}\n# {first}\n# Recipient: {new}\n{second}\n"),
            format!("# Recipient: {old}\n\n# Serial: 1\n# Recipient: {new}\n{second}\n"),
            format!("# Recipient: {old}\n{first}\n# Recipient: {new}\n{second}\n"),
            // As age-plugin-tpm writes it.
            format!("# Created: now\n# Recipient: {new}\n\n{second}\n"),
            format!("# public key: {new}\n# Recipient: {new}\n{second}\n"),
        ] {
            assert_eq!(sealed_to(text.clone()), of_new, "{text}");
        }
        assert_eq!(sealed_to(format!("# Recipient: {old}\n#{first}\n{second}\n")), (1, None));
        let error = plugins(format!("# Recipient: {old}\n# Recipient: {new}\n{second}\n"));
        assert!(error.err().unwrap().to_string().contains("more than one recipient"));
        let tag = print_any("age1tag", &[1]);
        assert_eq!(sealed_to(format!("# Recipient: {tag}\n{second}\n")), (2, Some(tag)));
    }
}
