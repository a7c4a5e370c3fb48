//! Our own bytes, as SPEC.md says: parse and print, no I/O and no decryption.
//!
//! A parsed type is a checked type as far as its bytes alone allow. MACs, commitments and what
//! objects say of each other are checked above.

mod duration;
mod facts;
#[cfg(any(test, feature = "internals"))]
#[doc(hidden)]
pub mod fuzzing;
mod header;
mod ids;
mod index;
mod journal;
mod journal_end;
mod json;
mod keyring;
mod kms;
mod mac_text;
mod manifest;
pub mod names;
mod padding;
mod passphrase;
mod report;
mod repository;
mod seal;
mod sealed_record;
mod segment;
pub(crate) mod serial;
mod text;
mod time;
mod value;
mod value_keyring;

pub use duration::{parse_duration, print_duration};
pub use facts::{EtcdFacts, Facts, HashKvFacts, MAX_FACTS, RecordedFacts};
pub use header::{
    CHUNKS_OFFSET, COMMITMENT_OFFSET, HEADER_LEN, ObjectHeader, Role, message_length, object_length,
};
pub use ids::{ClusterName, KeyId, Sha256, SnapshotId, Subject, Uuid, ValueKeyId};
pub use index::{
    Database, FrameRef, Index, MAX_DATABASE, MAX_FRAME_SIZE, MAX_INDEX, MIN_FRAME_SIZE,
    compress_bound,
};
pub use journal::{Continues, HeadBody, JournalFacts, JournalHead, MAX_HEAD, MAX_JOURNAL_FACTS};
pub use journal_end::{
    EndBody, EndObjects, EndReason, JournalEnd, MAX_END, MAX_SEGMENTS, SegmentEntry,
};
pub use keyring::{KeyState, Keyring, KeyringEntry, MAX_KEYRING};
pub use kms::{KmsBody, KmsV2Blob, MAX_KMS_BLOB, put_field, take_field};
pub use manifest::{
    MAX_MANIFEST, Manifest, ManifestBody, ObjectEntry, Previous, included, parse_tag, tags,
};
pub use names::{JournalPart, ObjectName, Part};
pub use padding::{INDEX_BLOCK, padme};
pub use passphrase::{Argon2Params, MAX_PASSPHRASE_OBJECT, PassphraseObject};
pub use report::{
    CheckOutcome, MAX_DETAILS, MAX_REPORT, Report, ReportCheck, ReportDetails, ReportHead,
    ReportOutcome, ReportScope, ReportStep, SealedReport,
};
pub use repository::{MAX_REPOSITORY, RepositoryInfo};
pub use seal::{
    MAX_SEAL, MAX_SIGNATURES, MAX_STANZAS, SEALED_KEY_LEN, Seal, SealBody, Signature, Stanza,
};
pub use sealed_record::{MAX_SEALED_RECORD, SealedRecord};
pub use segment::{BODY_HEAD, Body, BodyHead, BodyWriter, Entries, Entry, MAX_BODY};
pub use time::Time;
pub use value::{VALUE_HEADER_LEN, VALUE_OVERHEAD, ValueHeader};
pub use value_keyring::{
    MAX_MIGRATE, MAX_VALUE_KEYS, Migration, MigrationPhase, ValueKeyEntry, ValueKeyState,
    ValueKeyring,
};

#[cfg(test)]
mod tests {
    use super::*;

    /// The content of SPEC.md's fenced blocks that begin with `start`, one expected.
    fn example(start: &str) -> Vec<u8> {
        let blocks: Vec<&str> = include_str!("SPEC.md")
            .split("```")
            .skip(1)
            .step_by(2)
            .filter_map(|block| block.split_once('\n').map(|(_, text)| text))
            .filter(|text| text.starts_with(start))
            .collect();
        assert_eq!(blocks.len(), 1, "{start}");
        blocks[0].as_bytes().to_vec()
    }

    fn object(tag: &str) -> Vec<u8> {
        let text = include_str!("SPEC.md").split(&format!("```{tag}\n")).nth(1).unwrap();
        let hex = text.split("```").next().unwrap().replace('\n', "");
        data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap()
    }

    /// SPEC.md's example is what this code reads and prints. [S9]
    #[test]
    fn the_specification_is_of_these_bytes() {
        let text = example("strongroom-manifest/");
        let manifest = Manifest::parse(&text).unwrap();
        assert_eq!(
            Manifest::finish(manifest.body().clone(), *manifest.mac()).unwrap().print(),
            text
        );
        let text = example("strongroom-seal/");
        let seal = Seal::parse(&text).unwrap();
        assert_eq!(seal.print(), text);
        assert_eq!(seal.body().commitment(), &manifest.body().commitment);
        let digest = <sha2::Sha256 as sha2::Digest>::digest(manifest.print());
        assert_eq!(seal.body().object().0, *digest);
        let text = example("strongroom-key/");
        assert_eq!(PassphraseObject::parse(&text).unwrap().print().unwrap(), text);
        let text = example("strongroom-keyring/");
        assert_eq!(Keyring::parse(&text).unwrap().print().expose(), text);
        let text = example("{\"format\"");
        assert_eq!(RepositoryInfo::parse(&text).unwrap().print(), text);

        for (tag, role) in [("payload", Role::Payload), ("index", Role::Index)] {
            let bytes = object(tag);
            let header = ObjectHeader::parse(&bytes).unwrap();
            assert_eq!((header.role, header.snapshot), (role, manifest.body().snapshot));
            let entry = manifest.body().object(&role.part().unwrap()).unwrap();
            assert_eq!(entry.length, bytes.len() as u64);
            assert_eq!(entry.sha256.0, *<sha2::Sha256 as sha2::Digest>::digest(&bytes));
        }
        let json = example("{\"database\"");
        let payload = manifest.body().object(&Part::Payload).unwrap().length;
        let json = json.trim_ascii_end();
        assert_eq!(Index::parse(json, payload).unwrap().print().unwrap(), json);
        let mut facts = example("{\"etcd\"").trim_ascii_end().to_vec();
        facts.resize(facts.len().next_multiple_of(256), b' ');
        assert_eq!(Facts::parse(&facts).unwrap().print().unwrap(), facts);
    }
}
