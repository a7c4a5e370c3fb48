//! A data key and everything derived from it.

use crate::crypto::{self, CryptoRng, Label};
use crate::error::{Error, Result};
use crate::format::Subject;
use crate::secret::SecretKey;

/// 32 random bytes that belong to one subject and are used for nothing else.
pub struct DataKey {
    key: SecretKey,
    subject: Subject,
}

impl DataKey {
    /// A fresh data key for `subject`.
    pub fn generate(subject: Subject, rng: &mut dyn CryptoRng) -> Self {
        Self { key: SecretKey::random(rng), subject }
    }

    pub(super) fn new(key: SecretKey, subject: Subject) -> Self {
        Self { key, subject }
    }

    pub(super) fn key(&self) -> &SecretKey {
        &self.key
    }

    /// What this key belongs to.
    pub fn subject(&self) -> Subject {
        self.subject
    }

    /// DC: what commits seal and manifest to this very key.
    pub fn commitment(&self) -> [u8; 32] {
        let subject = self.subject.to_bytes();
        *crypto::expand(&self.key, Label::DataKeyCommitment, &subject).expose()
    }

    /// Encrypts this snapshot's payload object.
    pub fn payload_key(&self) -> SecretKey {
        crypto::expand(&self.key, Label::PayloadKey, b"")
    }

    /// Encrypts this snapshot's index object.
    pub fn index_key(&self) -> SecretKey {
        crypto::expand(&self.key, Label::IndexKey, b"")
    }

    /// Encrypts this snapshot's companions object.
    pub fn companions_key(&self) -> SecretKey {
        crypto::expand(&self.key, Label::CompanionsKey, b"")
    }

    /// Encrypts the facts in the manifest.
    pub fn facts_key(&self) -> SecretKey {
        crypto::expand(&self.key, Label::FactsKey, b"")
    }

    /// Encrypts a journal's segments and bundle.
    pub fn journal_key(&self) -> SecretKey {
        crypto::expand(&self.key, Label::JournalKey, b"")
    }

    /// Encrypts a report.
    pub fn report_key(&self) -> SecretKey {
        crypto::expand(&self.key, Label::ReportKey, b"")
    }

    /// Encrypts a value keyring.
    pub fn value_keyring_key(&self) -> SecretKey {
        crypto::expand(&self.key, Label::ValueKeyringKey, b"")
    }

    /// The MAC of a manifest, or of a journal's head or end, over `signed`, its first two lines.
    pub fn manifest_mac(&self, signed: &[u8]) -> [u8; 32] {
        crypto::hmac_sha256(&crypto::expand(&self.key, Label::ManifestMac, b""), &[signed])
    }

    /// An audit log's MAC over the chain value of the line `seq`.
    pub fn audit_mac(&self, chain: &[u8; 32], seq: u64) -> [u8; 32] {
        let key = crypto::expand(&self.key, Label::AuditKey, b"");
        crypto::hmac_sha256(&key, &[chain, &seq.to_be_bytes()])
    }

    /// The seal's MAC over `signed`, every byte before it.
    pub fn seal_mac(&self, signed: &[u8]) -> [u8; 32] {
        crypto::hmac_sha256(&crypto::expand(&self.key, Label::SealMac, b""), &[signed])
    }

    /// Checks a MAC in constant time.
    ///
    /// # Errors
    /// [`ErrorKind::Tampered`](crate::ErrorKind::Tampered), naming `what`.
    pub(super) fn check(what: &str, expected: &[u8], found: &[u8]) -> Result<()> {
        if crypto::constant_time_eq(expected, found) {
            Ok(())
        } else {
            Err(Error::tampered(format!("{what} does not verify")))
        }
    }

    /// Checks commitment and MAC of a manifest, or of a journal's head or end, against this key.
    ///
    /// # Errors
    /// [`ErrorKind::Tampered`](crate::ErrorKind::Tampered).
    pub fn authenticate_manifest(
        &self,
        commitment: &[u8; 32],
        signed: &[u8],
        mac: &[u8; 32],
    ) -> Result<()> {
        Self::check("its data-key commitment", &self.commitment(), commitment)?;
        Self::check("its MAC", &self.manifest_mac(signed), mac)
    }
}
