//! Every label there is (SPEC.md §2): what keeps one use of a key apart from all others.

/// What a derivation, context or hash is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// Data key → key of the payload object.
    PayloadKey,
    /// Data key → key of the index object.
    IndexKey,
    /// Data key → key of the companions object.
    CompanionsKey,
    /// Data key → key of the facts in the manifest.
    FactsKey,
    /// Data key → key of a journal's segments and bundle.
    JournalKey,
    /// Data key → key of a report.
    ReportKey,
    /// Data key → key of the value keyring.
    ValueKeyringKey,
    /// Data key → key of an audit log's MACs.
    AuditKey,
    /// Data key → key of the manifest's MAC.
    ManifestMac,
    /// Data key → key of the seal's MAC.
    SealMac,
    /// Data key → its commitment.
    DataKeyCommitment,
    /// Master key → what its id is a hash of.
    KeyCheck,
    /// Context of the messages of payload, index and companions.
    Object,
    /// Context of a sealed data key.
    DataKey,
    /// Context of the sealed facts.
    Facts,
    /// Context of a report.
    Report,
    /// Context of a value keyring.
    ValueKeyring,
    /// Context of a master key sealed by a passphrase.
    Passphrase,
    /// Context of what a KMS plugin encrypts for Kubernetes.
    KmsPlugin,
    /// Associated data of a wrapping key that a token sealed.
    Kms,
    /// A file key of age → the key that seals a data key.
    AgeFileKey,
    /// Value key → key of one algorithm's cipher.
    ValueKey,
    /// Value key → its id.
    ValueKeyId,
    /// Associated data of an encrypted value.
    Value,
    /// Hash input of a key id.
    KeyId,
    /// What a signer signs.
    Vouch,
    /// Bytes that a signer signs of a journal's segment.
    Segment,
    /// HPKE's info of a data key sealed to a public key.
    Hpke,
}

impl Label {
    /// The label's bytes.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PayloadKey => "strongroom/v1/payload-key",
            Self::IndexKey => "strongroom/v1/index-key",
            Self::CompanionsKey => "strongroom/v1/companions-key",
            Self::FactsKey => "strongroom/v1/facts-key",
            Self::JournalKey => "strongroom/v1/journal-key",
            Self::ReportKey => "strongroom/v1/report-key",
            Self::ValueKeyringKey => "strongroom/v1/value-keyring-key",
            Self::AuditKey => "strongroom/v1/audit-key",
            Self::ManifestMac => "strongroom/v1/manifest-mac",
            Self::SealMac => "strongroom/v1/seal-mac",
            Self::DataKeyCommitment => "strongroom/v1/data-key-commitment",
            Self::KeyCheck => "strongroom/v1/key-check",
            Self::Object => "strongroom/v1/object",
            Self::DataKey => "strongroom/v1/data-key",
            Self::Facts => "strongroom/v1/facts",
            Self::Report => "strongroom/v1/report",
            Self::ValueKeyring => "strongroom/v1/value-keyring",
            Self::KmsPlugin => "strongroom/v1/kms-plugin",
            Self::Kms => "strongroom/v1/kms",
            Self::AgeFileKey => "strongroom/v1/age-file-key",
            Self::ValueKey => "strongroom/v1/value-key",
            Self::ValueKeyId => "strongroom/v1/value-key-id",
            Self::Value => "strongroom/v1/value",
            Self::Passphrase => "strongroom/v1/passphrase",
            Self::KeyId => "strongroom/v1/key-id",
            Self::Vouch => "strongroom/v1/vouch",
            Self::Segment => "strongroom/v1/segment",
            Self::Hpke => "strongroom/v1/hpke",
        }
    }
}

/// `label ‖ 00 ‖ data…`: no label holds a zero byte, so no two of these can be confused.
pub fn labelled(label: Label, data: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    bytes.extend_from_slice(label.as_str().as_bytes());
    bytes.push(0);
    data.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}
