//! One function for each parser: takes any bytes, must not panic. For fuzz targets and tests.

use super::{
    Body, BodyWriter, Facts, Index, JournalEnd, JournalFacts, JournalHead, Keyring, Manifest,
    ObjectHeader, ObjectName, PassphraseObject, ReportDetails, RepositoryInfo, Seal, SealedRecord,
    SealedReport, ValueHeader, ValueKeyring,
};

/// Takes any bytes.
pub type Parser = fn(&[u8]);

/// All of them, by name.
pub const ALL: &[(&str, Parser)] = &[
    ("facts", facts),
    ("header", header),
    ("index", index),
    ("keyring", keyring),
    ("manifest", manifest),
    ("names", names),
    ("passphrase", passphrase),
    ("record", record),
    ("report", report),
    ("repository", repository),
    ("seal", seal),
    ("journal", journal),
    ("segment", segment),
];

pub fn facts(data: &[u8]) {
    if let Ok(facts) = Facts::parse(data) {
        let again = facts.print().and_then(|bytes| Facts::parse(&bytes));
        assert!(again.is_ok_and(|again| again == facts));
    }
}

pub fn header(data: &[u8]) {
    if let Ok(header) = ObjectHeader::parse(data) {
        assert!(data.starts_with(&header.to_bytes()));
    }
}

pub fn index(data: &[u8]) {
    // Of the sample that the corpus begins with.
    let payload_length = 21_592;
    if let Ok(index) = Index::parse(data, payload_length) {
        let again = index.print().and_then(|json| Index::parse(&json, payload_length));
        assert!(again.is_ok_and(|again| again == index));
    }
}

pub fn keyring(data: &[u8]) {
    if let Ok(keyring) = Keyring::parse(data) {
        assert!(keyring.print().expose() == data);
    }
}

pub fn manifest(data: &[u8]) {
    if let Ok(manifest) = Manifest::parse(data) {
        assert!(manifest.print() == data);
    }
}

pub fn names(data: &[u8]) {
    let path = String::from_utf8_lossy(data);
    if let Some(name) = ObjectName::parse(&path) {
        assert!(name.to_string() == path);
    }
}

pub fn passphrase(data: &[u8]) {
    if let Ok(object) = PassphraseObject::parse(data) {
        assert!(object.print().is_ok_and(|bytes| bytes == data));
    }
}

pub fn report(data: &[u8]) {
    if let Ok(report) = SealedReport::parse(data) {
        assert!(SealedReport::print(report.signed_bytes(), report.seal()) == data);
    }
    if let Ok(details) = ReportDetails::parse(data) {
        let again = details.print().and_then(|bytes| ReportDetails::parse(&bytes));
        assert!(again.is_ok_and(|again| again == details));
    }
}

pub fn record(data: &[u8]) {
    if let Ok(record) = SealedRecord::parse(data) {
        assert!(record.print() == data);
    }
}

pub fn repository(data: &[u8]) {
    if let Ok(info) = RepositoryInfo::parse(data) {
        assert!(RepositoryInfo::parse(&info.print()).is_ok_and(|again| again == info));
    }
}

pub fn value(data: &[u8]) {
    if let Ok(Some((header, rest))) = ValueHeader::split(data) {
        assert!([&header.print()[..], rest].concat() == data);
    }
    if let Ok(keyring) = ValueKeyring::parse(crate::format::Uuid([0; 16]), 1, data) {
        assert!(keyring.print().is_ok_and(|text| {
            ValueKeyring::parse(keyring.namespace, 1, text.expose()).is_ok()
        }));
    }
}

pub fn seal(data: &[u8]) {
    if let Ok(seal) = Seal::parse(data) {
        assert!(seal.print() == data);
    }
}

pub fn journal(data: &[u8]) {
    if let Ok(head) = JournalHead::parse(data) {
        assert!(head.print() == data);
    }
    if let Ok(end) = JournalEnd::parse(data) {
        assert!(end.print() == data);
        assert!(JournalEnd::finish(end.body().clone(), *end.mac()).is_ok());
    }
    if let Ok(facts) = JournalFacts::parse(data) {
        let again = facts.print().and_then(|bytes| JournalFacts::parse(&bytes));
        assert!(again.is_ok_and(|again| again == facts));
    }
}

/// What is read of a body is written again: all of it, but for entries that a reader skips.
pub fn segment(data: &[u8]) {
    let Ok(body) = Body::parse(data) else { return };
    let Ok(entries) = body.entries().collect::<crate::Result<Vec<_>>>() else { return };
    let mut writer = BodyWriter::default();
    assert!(entries.iter().all(|entry| writer.push(entry).is_ok()));
    let written = writer.finish(body.head());
    assert!(written.len() <= data.len());
    assert!(written.len() < data.len() || written.as_slice() == data);
}

#[cfg(test)]
mod tests {
    use super::super::{
        Argon2Params, EtcdFacts, KeyId, KeyState, KeyringEntry, Role, SealBody, Sha256, Signature,
        SnapshotId, Stanza, Subject, Time, Uuid,
    };
    use super::*;
    use crate::secret::SecretKey;
    use proptest::prelude::*;
    use proptest::sample::Index as At;

    fn samples() -> Vec<Vec<u8>> {
        let argon2 = Argon2Params { m_kib: 65_536, t: 3, p: 4, salt: [1; 16] };
        let snapshot = SnapshotId(1 << 100);
        let stanza = Stanza::local(KeyId([1; 16]), &[1; 104]);
        let signature = Signature { key_id: KeyId([4; 16]), bytes: [4; 64] };
        let (subject, object) = (Subject::Snapshot(snapshot), Sha256([3; 32]));
        let seal =
            SealBody::new(subject, 1, object, [2; 32], vec![stanza], vec![signature]).unwrap();
        let entry = KeyringEntry {
            id: KeyId([1; 16]),
            state: KeyState::Primary,
            since: Time::from_unix(0),
            master: Some(SecretKey::new(|key| key.fill(5))),
        };
        let object =
            PassphraseObject { key: KeyId([1; 16]), generation: 1, argon2, sealed: [1; 104] };
        vec![
            Facts { etcd: EtcdFacts::default(), database_size: 1, journal: None }.print().unwrap(),
            ObjectHeader { suite: 1, role: Role::Payload, snapshot }.to_bytes().to_vec(),
            super::super::index::tests::sample().print().unwrap(),
            Keyring::new(vec![entry]).unwrap().print().expose().to_vec(),
            Manifest::finish(super::super::manifest::tests::body(), [1; 32]).unwrap().print(),
            b"snapshots/01ARZ3NDEKTSV4RRFFQ69G5FAV/seal.1".to_vec(),
            object.print().unwrap(),
            RepositoryInfo { id: Uuid([1; 16]) }.print(),
            super::super::report::tests::sample(),
            SealedRecord { seal: seal.clone().finish([3; 32]), message: vec![1; 99] }.print(),
            seal.finish([3; 32]).print(),
            super::super::journal::tests::head(),
            super::super::journal_end::tests::end(super::super::journal_end::tests::segments())
                .print(),
            super::super::segment::tests::sample(),
        ]
    }

    fn all(data: &[u8]) {
        for (_, parser) in ALL {
            parser(data);
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(data: Vec<u8>) {
            all(&data);
        }

        #[test]
        fn mutated_samples_never_panic(which in 0..14usize, edits in proptest::collection::vec(
            (any::<At>(), 0..3, proptest::sample::select(b"\n -\"{}[],:0129Az=\\\x00\xff".to_vec())), 1..6)) {
            let mut data = samples().swap_remove(which);
            for (at, edit, byte) in edits {
                if data.is_empty() { break; }
                let at = at.index(data.len());
                match edit {
                    0 => data[at] = byte,
                    1 => data.insert(at, byte),
                    _ => { data.remove(at); }
                }
            }
            all(&data);
        }

        #[test]
        fn cut_samples_never_panic(which in 0..14usize, at: At) {
            let data = samples().swap_remove(which);
            all(&data[..at.index(data.len())]);
        }
    }
}
