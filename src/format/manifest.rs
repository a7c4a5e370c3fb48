//! The manifest: what makes a snapshot exist (SPEC.md §6).
//!
//! Print and MAC are two steps: [`ManifestBody::signed_bytes`], then [`Manifest::finish`].

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::header::message_length;
use super::ids::{ClusterName, Sha256, SnapshotId, Uuid};
use super::json::{self, Base64, MAX_INTEGER, Object, Text};
use super::mac_text::{MacText, mac_text, signed_bytes};
use super::names::Part;
use super::text::{ascends, is_printable};
use crate::error::{Error, Result};

/// The longest manifest that is read or written, in bytes.
pub const MAX_MANIFEST: usize = 1 << 20;

const FAMILY: &str = "strongroom-manifest/";
const WHAT: &str = "manifest";
/// The only name that a manifest's `requires` may hold.
const SIGNED: &str = "signed";
const MAX_TAGS: usize = 32;
const MAX_TAG: usize = 64;
const MAX_INCLUDED: usize = 256;
const MAX_INCLUDED_LEN: usize = 1024;

/// One object of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectEntry {
    /// Payload, index, companions or one not known here; written as its role.
    pub part: Part,
    /// Length of the whole object in bytes.
    pub length: u64,
    /// Digest of the whole object.
    pub sha256: Sha256,
}

/// Another snapshot and its manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Previous {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Digest of its manifest object.
    pub sha256: Sha256,
}

/// What a manifest says. From a parsed one nothing but the names may be believed before its MAC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestBody {
    /// The repository it was made in.
    pub origin: Uuid,
    /// The snapshot; equal to the path's.
    pub snapshot: SnapshotId,
    /// The cluster it is of.
    pub cluster: ClusterName,
    /// What made it, for people: 1..128 printable ASCII characters.
    pub tool: String,
    /// etcd's revision, as inside the stored database.
    pub revision: u64,
    /// Size of the database in bytes, without etcd's trailer.
    pub database_bytes: u64,
    /// Payload, index, then others ascending by role.
    pub objects: Vec<ObjectEntry>,
    /// The snapshot of which this is a re-encryption.
    pub replaces: Option<SnapshotId>,
    /// The cluster's snapshot before this one.
    pub previous: Option<Previous>,
    /// Words by which its owner finds it again, ascending.
    pub tags: Vec<String>,
    /// What the companions were made of, for people.
    pub included: Vec<String>,
    /// Some seal of this manifest must carry a signature.
    pub signed: bool,
    /// The data-key commitment DC.
    pub commitment: [u8; 32],
    /// [`Facts`](super::Facts), encrypted.
    pub facts: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    origin: Text<Uuid>,
    snapshot: Text<SnapshotId>,
    cluster: Text<ClusterName>,
    tool: String,
    revision: u64,
    database_bytes: u64,
    objects: Vec<Object<WireObject>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces: Option<Text<SnapshotId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<Object<WirePrevious>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    included: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    requires: Vec<String>,
    commitment: Base64<[u8; 32]>,
    facts: Base64<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
struct WirePrevious {
    snapshot: Text<SnapshotId>,
    sha256: Text<Sha256>,
}

#[derive(Serialize, Deserialize)]
struct WireObject {
    role: Text<Part>,
    length: u64,
    sha256: Text<Sha256>,
}

impl ManifestBody {
    /// What the MAC covers: lines 1 and 2 with both LFs.
    ///
    /// # Errors
    /// Usage when the body breaks a rule of §6; refused when it is longer than a reader takes.
    pub fn signed_bytes(&self) -> Result<Vec<u8>> {
        self.check().map_err(|why| Error::usage(format!("{WHAT}: {why}")))?;
        signed_bytes(WHAT, FAMILY, MAX_MANIFEST, &self.wire())
    }

    /// The entry of a part.
    pub fn object(&self, part: &Part) -> Option<&ObjectEntry> {
        self.objects.iter().find(|object| object.part == *part)
    }

    fn wire(&self) -> Wire {
        let object = |object: &ObjectEntry| {
            Object(WireObject {
                role: Text(object.part.clone()),
                length: object.length,
                sha256: Text(object.sha256),
            })
        };
        Wire {
            origin: Text(self.origin),
            snapshot: Text(self.snapshot),
            cluster: Text(self.cluster.clone()),
            tool: self.tool.clone(),
            revision: self.revision,
            database_bytes: self.database_bytes,
            objects: self.objects.iter().map(object).collect(),
            replaces: self.replaces.map(Text),
            previous: self.previous.map(|Previous { snapshot, sha256 }| {
                Object(WirePrevious { snapshot: Text(snapshot), sha256: Text(sha256) })
            }),
            tags: self.tags.clone(),
            included: self.included.clone(),
            requires: if self.signed { vec![SIGNED.into()] } else { Vec::new() },
            commitment: Base64(self.commitment),
            facts: Base64(self.facts.clone()),
        }
    }

    fn parse(json: &[u8]) -> Result<Self> {
        let wire: Wire = json::parse_knowing(WHAT, &[SIGNED], json)?;
        let object = |Object(object): Object<WireObject>| ObjectEntry {
            part: object.role.0,
            length: object.length,
            sha256: object.sha256.0,
        };
        let body = Self {
            origin: wire.origin.0,
            snapshot: wire.snapshot.0,
            cluster: wire.cluster.0,
            tool: wire.tool,
            revision: wire.revision,
            database_bytes: wire.database_bytes,
            objects: wire.objects.into_iter().map(object).collect(),
            replaces: wire.replaces.map(|id| id.0),
            previous: wire.previous.map(|Object(WirePrevious { snapshot, sha256 })| Previous {
                snapshot: snapshot.0,
                sha256: sha256.0,
            }),
            tags: wire.tags,
            included: wire.included,
            signed: wire.requires.iter().any(|name| name == SIGNED),
            commitment: wire.commitment.0,
            facts: wire.facts.0,
        };
        body.check().map_err(|why| Error::tampered(format!("{WHAT}: {why}")))?;
        Ok(body)
    }

    fn check(&self) -> Result<(), String> {
        if !is_printable(&self.tool, 128) {
            return Err("tool is not 1 to 128 printable characters".into());
        }
        if self.revision > MAX_INTEGER || self.database_bytes > MAX_INTEGER {
            return Err("a number above 2^63-1".into());
        }
        let [payload, index, others @ ..] = self.objects.as_slice() else {
            return Err("fewer than two objects".into());
        };
        if payload.part != Part::Payload || index.part != Part::Index {
            return Err("the first objects are not payload and index".into());
        }
        if !ascends(others.iter().map(|object| object.part.to_string())) {
            return Err("objects do not ascend by role".into());
        }
        if !others.iter().all(|other| matches!(other.part, Part::Companions | Part::Other(_))) {
            return Err("an unknown role of an object".into());
        }
        for ObjectEntry { part, length, .. } in &self.objects {
            let possible = matches!(part, Part::Other(_)) || message_length(*length).is_some();
            if !possible || *length > MAX_INTEGER {
                return Err(format!("{part}: no object has this length"));
            }
        }
        if self.replaces == Some(self.snapshot) {
            return Err("it names itself as the one it replaces".into());
        }
        if self.previous.is_some_and(|previous| previous.snapshot == self.snapshot) {
            return Err("it names itself as the one before it".into());
        }
        if self.tags.len() > MAX_TAGS
            || !self.tags.iter().all(|tag| is_printable(tag, MAX_TAG))
            || !ascends(&self.tags)
        {
            return Err("too many or malformed tags, or they do not ascend".into());
        }
        if self.included.len() > MAX_INCLUDED
            || !self.included.iter().all(|path| is_printable(path, MAX_INCLUDED_LEN))
        {
            return Err("too many or malformed paths in included".into());
        }
        Ok(())
    }
}

/// `tags` as a manifest holds them: in order, each once ([S6.4.2]).
///
/// # Errors
/// Usage for one that a manifest cannot hold, or too many.
pub fn tags(tags: &[String]) -> Result<Vec<String>> {
    let tags: BTreeSet<_> = tags.iter().map(|tag| parse_tag(tag)).collect::<Result<_>>()?;
    match tags.len() <= MAX_TAGS {
        true => Ok(tags.into_iter().collect()),
        false => Err(Error::usage(format!("more than {MAX_TAGS} tags"))),
    }
}

/// One tag, as it is typed.
///
/// # Errors
/// Usage for one that a manifest cannot hold.
pub fn parse_tag(tag: &str) -> Result<String> {
    match is_printable(tag, MAX_TAG) {
        true => Ok(tag.to_owned()),
        false => Err(Error::usage(format!("a tag has 1 to {MAX_TAG} printable ASCII characters"))),
    }
}

/// `paths` as a manifest holds them, for people: what is not printable is escaped ([S6.4.3]).
#[must_use]
pub fn included(paths: &[PathBuf]) -> Vec<String> {
    let text = |path: &PathBuf| {
        let mut text: String = path.as_os_str().as_encoded_bytes().escape_ascii().to_string();
        text.truncate(MAX_INCLUDED_LEN);
        text
    };
    paths.iter().take(MAX_INCLUDED).map(text).filter(|text| !text.is_empty()).collect()
}

mac_text!(
    /// A manifest, or a tombstone, which has the same bytes, as it stands in a repository. Its MAC is not yet checked.
    Manifest, ManifestBody, WHAT, FAMILY, MAX_MANIFEST
);

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use proptest::prelude::*;

    pub(in super::super) fn body() -> ManifestBody {
        let object = |role: &str, length| ObjectEntry {
            part: role.parse().unwrap(),
            length,
            sha256: Sha256([length as u8; 32]),
        };
        ManifestBody {
            origin: "f81d4fae-7dec-41d0-a765-00a0c91e6bf6".parse().unwrap(),
            snapshot: "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(),
            cluster: ClusterName::default(),
            tool: "strongroom \"test\"".into(),
            revision: 42,
            database_bytes: 1 << 20,
            objects: vec![
                object("payload", 5000),
                object("index", 300),
                object("companions", 104),
                object("parity", 3),
            ],
            replaces: Some(SnapshotId(3)),
            previous: Some(Previous { snapshot: SnapshotId(4), sha256: Sha256([5; 32]) }),
            tags: vec!["before upgrade".into(), "weekly".into()],
            included: vec!["/etc/kubernetes/pki".into()],
            signed: true,
            commitment: [6; 32],
            facts: vec![7; 328],
        }
    }

    fn text() -> String {
        String::from_utf8(Manifest::finish(body(), [9; 32]).unwrap().print()).unwrap()
    }

    #[test]
    fn round_trip_keeps_unknown_keys_and_spaces() {
        // [S6.4]
        let text = text().replacen("{\"origin\"", "{ \"new\":[1], \"origin\"", 1);
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        assert_eq!(manifest.body(), &body());
        assert_eq!(manifest.print(), text.as_bytes());
        let signed = manifest.signed_bytes();
        assert!(text.as_bytes().starts_with(signed) && signed.ends_with(b"}\n"));
        assert!(String::from_utf8(signed.to_vec()).unwrap().contains("new"));
    }

    #[test]
    fn each_rule_of_s6_is_enforced() {
        use ErrorKind::{Tampered, Truncated, Unsupported};
        let text = text();
        let mac = text.find("hmac").unwrap();
        for (text, want) in [
            (text.replace("manifest/1", "manifest/2"), Unsupported),
            (text[..mac].to_owned(), Truncated),
            (text.trim_end().to_owned(), Truncated),
            (text.replace("hmac-sha256", "hmac"), Tampered),
            (text.clone() + "ed25519 x y\n", Tampered), // [S6.2]
            (text.replace("{\"origin", "{\"revision\":1,\"origin"), Tampered),
            (text.replace(",\"revision\":42", ""), Tampered),
            (text.replace("\"default\"", "\"Default\""), Tampered),
            (text.replace("\\\"test\\\"", "\\u001b[2J"), Tampered),
            (text.replace("\"length\":5000", "\"length\":103"), Tampered),
            (text.replace("\"index\"", "\"indes\""), Tampered),
            (text.replace("\"parity\"", "\"par.ity\""), Tampered),
            (text.replace("\"parity\"", "\"manifest\""), Tampered),
            (text.replace("\"parity\"", "\"aaa\""), Tampered),
            (text.replace("\"parity\"", "\"payload\""), Tampered),
            (text.replace("00000000000000000000000003", "01ARZ3NDEKTSV4RRFFQ69G5FAV"), Tampered),
            (
                text.replace("\"replaces\":\"00000000000000000000000003\"", "\"replaces\":null"),
                Tampered,
            ),
            (text.replace("\"signed\"", "\"signed\",\"later\""), Unsupported), // [S0.4.6]
            (text.replace("00000000000000000000000004", "01ARZ3NDEKTSV4RRFFQ69G5FAV"), Tampered),
            (text.replace("\"weekly\"", "\"a\""), Tampered), // [S6.4.2]
            (text.replace("\"weekly\"", "\"before upgrade\""), Tampered),
            (text.replace("\"weekly\"", "\"\""), Tampered),
            (text.replace("\"/etc/kubernetes/pki\"", "\"\\u001b\""), Tampered), // [S6.4.3]
            (text.replace(":\"BwcH", ":\"BwcH="), Tampered),
        ] {
            let got = Manifest::parse(text.as_bytes());
            assert_eq!(got.unwrap_err().kind(), want, "{text}");
        }
        let long = text.replace("{\"origin", &format!("{}{{\"origin", " ".repeat(MAX_MANIFEST)));
        assert!(Manifest::parse(long.as_bytes()).is_err());
    }

    #[test]
    fn refuses_to_print_what_it_would_not_read() {
        let mut wrong = body();
        wrong.objects.reverse();
        assert_eq!(wrong.signed_bytes().unwrap_err().kind(), ErrorKind::Usage);
        let mut long = body();
        long.facts = vec![0; MAX_MANIFEST];
        assert_eq!(long.signed_bytes().unwrap_err().kind(), ErrorKind::Refused);
    }

    proptest! {
        #[test]
        fn any_manifest_round_trips(origin: [u8; 16], snapshot in 1u128 << 64.., tool in "[ -~]{1,128}",
            cluster in "[a-z0-9][a-z0-9._-]{0,63}", revision in 0..=MAX_INTEGER, size in 0..=MAX_INTEGER,
            facts: Vec<u8>, dc: [u8; 32], mac: [u8; 32]) {
            let body = ManifestBody {
                origin: Uuid(origin), snapshot: SnapshotId(snapshot), tool, revision, facts,
                cluster: cluster.parse().unwrap(), database_bytes: size, commitment: dc,
                replaces: None, ..body()
            };
            let manifest = Manifest::finish(body, mac).unwrap();
            prop_assert_eq!(&Manifest::parse(&manifest.print()).unwrap(), &manifest);
        }
    }
}
