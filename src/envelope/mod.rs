//! The envelope: one data key per subject, sealed to any number of master keys (SPEC.md §2, §4, §5).

mod data_key;
mod object;
mod seal;

pub use data_key::DataKey;
pub use object::{ObjectOpener, ObjectSealer, SealedObject};
pub use seal::{
    Asked, Judged, NewSeal, Opened, asked_enough, check_sealers, is_genuine, judge_seal,
    judge_to_vouch, kept_stanzas, key_ids, open_seal, seal_data_key, seal_to_most, stanza_opens,
    wrong_key,
};
