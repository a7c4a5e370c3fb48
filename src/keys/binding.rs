//! What a stanza is bound to.

use crate::crypto::{self, Label};
use crate::format::{KeyId, Sha256, Subject};

/// What a stanza is bound to beside its master key: its subject, its data key and what its seal vouches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// What the data key belongs to.
    pub subject: Subject,
    /// DC, the commitment to the data key.
    pub commitment: [u8; 32],
    /// Digest of what the seal vouches for.
    pub object: Sha256,
}

impl Binding {
    /// A of SPEC.md §5, for a stanza of `kind` by the master key `key`.
    #[must_use]
    pub fn context(&self, key: KeyId, kind: &str) -> Vec<u8> {
        let subject = self.subject.to_bytes();
        let data = [&subject[..], &self.commitment, &self.object.0, &key.0, kind.as_bytes()];
        crypto::labelled(Label::DataKey, &data)
    }
}
