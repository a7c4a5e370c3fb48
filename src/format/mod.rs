//! Our own bytes, as SPEC.md says: parse and print, no I/O and no decryption.
//!
//! A parsed type is a checked type as far as its bytes alone allow. MACs, commitments and what
//! objects say of each other are checked above.

mod facts;
#[doc(hidden)]
pub mod fuzzing;
mod header;
mod ids;
mod index;
mod json;
mod keyring;
mod manifest;
pub mod names;
mod passphrase;
mod repository;
mod seal;
mod text;

pub use facts::{EtcdFacts, Facts, HashKvFacts, MAX_FACTS};
pub use header::{
    CHUNKS_OFFSET, COMMITMENT_OFFSET, HEADER_LEN, ObjectHeader, Role, message_length, object_length,
};
pub use ids::{ClusterName, KeyId, Sha256, SnapshotId, Subject, Uuid};
pub use index::{
    Database, FrameRef, Index, MAX_FRAME_SIZE, MAX_INDEX, MAX_SOURCES, MIN_FRAME_SIZE, Source,
    compress_bound,
};
pub use keyring::{KeyState, Keyring, KeyringEntry, MAX_KEYRING, SealedKeyring};
pub use manifest::{MAX_MANIFEST, MAX_SIGNATURES, Manifest, ManifestBody, ObjectEntry, Signature};
pub use names::{ObjectName, Part};
pub use passphrase::{Argon2Params, MAX_PASSPHRASE_OBJECT, PassphraseObject};
pub use repository::{MAX_REPOSITORY, RepositoryInfo};
pub use seal::{MAX_SEAL, MAX_STANZAS, SEALED_KEY_LEN, Seal, SealBody, Stanza};
