//! The seal: one subject's data key under N master keys (SPEC.md §5).
//!
//! Print and MAC are two steps: [`SealBody::signed_bytes`], then [`SealBody::finish`].

use std::fmt::Write as _;

use data_encoding::BASE64_NOPAD;

use super::ids::{KeyId, Subject};
use super::text::{Line, Lines, ascends, decode_into, is_name};
use crate::error::{Error, Result};

/// The longest seal that is read, in bytes: every stanza at its limit, and the lines around them.
pub const MAX_SEAL: usize = MAX_STANZAS * MAX_LINE + 1024;
/// The most stanzas in a seal.
pub const MAX_STANZAS: usize = 64;
/// Length of a data key sealed by the chunked encryption: salt, commitment, key, tag.
pub const SEALED_KEY_LEN: usize = 24 + 32 + 32 + 16;

/// The longest stanza line, LF included.
const MAX_LINE: usize = 24 * 1024;
const FAMILY: &str = "strongroom-seal/";
const WHAT: &str = "seal";
/// The stanza type of a master key in a keyring or behind a passphrase.
const LOCAL: &str = "local";

/// One master key's wrapping of the data key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stanza {
    kind: String,
    key_id: KeyId,
    body: String,
}

impl Stanza {
    /// A `local` stanza around C(master, …, data key).
    pub fn local(key_id: KeyId, wrapped: &[u8; SEALED_KEY_LEN]) -> Self {
        Self { kind: LOCAL.into(), key_id, body: BASE64_NOPAD.encode(wrapped) }
    }

    /// The type: `local`, or one that this version keeps but cannot open.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The master key that opens it.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// The wrapped data key of a `local` stanza; `None` for any other type.
    pub fn wrapped(&self) -> Option<[u8; SEALED_KEY_LEN]> {
        let mut wrapped = [0; SEALED_KEY_LEN];
        if self.kind != LOCAL {
            return None;
        }
        decode_into(&self.body, &mut wrapped).map(|()| wrapped)
    }

    fn parse(mut line: Line<'_>) -> Result<Self> {
        let kind = line.token()?;
        if !is_name(kind) {
            return Err(line.refuse("a stanza type is malformed"));
        }
        let key_id = line.id()?;
        let malformed = line.refuse("a local stanza holds the base64 of 104 bytes");
        let stanza = Self { kind: kind.into(), key_id, body: line.tail()?.into() };
        if stanza.kind == LOCAL && stanza.wrapped().is_none() {
            return Err(malformed);
        }
        Ok(stanza)
    }
}

/// What a seal says, before its MAC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealBody {
    subject: Subject,
    generation: u32,
    commitment: [u8; 32],
    stanzas: Vec<Stanza>,
}

impl SealBody {
    /// A seal of `generation` (1 for the first); sorts `stanzas`.
    ///
    /// # Errors
    /// Usage when the generation is 0, there are not 1 to [`MAX_STANZAS`] stanzas, or two are for
    /// the same key.
    pub fn new(
        subject: Subject,
        generation: u32,
        commitment: [u8; 32],
        mut stanzas: Vec<Stanza>,
    ) -> Result<Self> {
        stanzas.sort_by(|a, b| order(a).cmp(&order(b)));
        let body = Self { subject, generation, commitment, stanzas };
        body.check().map_err(|why| Error::usage(format!("{WHAT}: {why}")))?;
        Ok(body)
    }

    /// What the data key belongs to.
    pub fn subject(&self) -> Subject {
        self.subject
    }

    /// The generation, 1 or more; must equal the object name's.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The data-key commitment DC.
    pub fn commitment(&self) -> &[u8; 32] {
        &self.commitment
    }

    /// The stanzas, ascending by type and key id.
    pub fn stanzas(&self) -> &[Stanza] {
        &self.stanzas
    }

    /// What the MAC covers: every byte before it, the three hyphens included.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut text = format!("{FAMILY}1\n");
        let commitment = BASE64_NOPAD.encode(&self.commitment);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "subject {}", subject_text(self.subject));
        let _ = writeln!(text, "generation {}", self.generation);
        let _ = writeln!(text, "commitment {commitment}");
        for stanza in &self.stanzas {
            let _ = writeln!(text, "-> {} {} {}", stanza.kind, stanza.key_id, stanza.body);
        }
        text.push_str("---");
        text.into_bytes()
    }

    /// The seal with its MAC over [`signed_bytes`](Self::signed_bytes).
    pub fn finish(self, mac: [u8; 32]) -> Seal {
        Seal { body: self, mac }
    }

    fn check(&self) -> Result<(), String> {
        if self.generation == 0 {
            return Err("generation 0".into());
        }
        if !(1..=MAX_STANZAS).contains(&self.stanzas.len()) {
            return Err(format!("not 1 to {MAX_STANZAS} stanzas"));
        }
        if !ascends(self.stanzas.iter().map(order)) {
            return Err("stanzas do not ascend by type and key id".into());
        }
        Ok(())
    }
}

fn order(stanza: &Stanza) -> (&str, KeyId) {
    (&stanza.kind, stanza.key_id)
}

fn subject_text(subject: Subject) -> String {
    match subject {
        Subject::Snapshot(id) => format!("snapshot {id}"),
        Subject::Values(uuid) => format!("values {uuid}"),
        Subject::Report(id) => format!("report {id}"),
        Subject::Audit(id) => format!("audit {id}"),
    }
}

/// A seal as it stands in a repository. Its MAC is not yet checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    body: SealBody,
    mac: [u8; 32],
}

impl Seal {
    /// Parses a seal.
    ///
    /// # Errors
    /// Unsupported for another version or kind of subject; truncated when the MAC line is missing
    /// or unfinished; tampered otherwise.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut lines = Lines::open(WHAT, FAMILY, MAX_SEAL, bytes)?;
        let subject = parse_subject(lines.keyword("subject")?)?;
        let mut line = lines.keyword("generation")?;
        let generation = line.number()?;
        line.end()?;
        let mut line = lines.keyword("commitment")?;
        let commitment = line.base64()?;
        line.end()?;
        let mut stanzas = Vec::new();
        while lines.next_is("->") {
            let before = lines.left();
            let line = lines.keyword("->")?;
            if stanzas.len() >= MAX_STANZAS || before - lines.left() > MAX_LINE {
                return Err(line.refuse("too many stanzas, or too long a line"));
            }
            stanzas.push(Stanza::parse(line)?);
        }
        let mut line = lines.keyword("---")?;
        let mac = line.base64()?;
        line.end()?;
        lines.finish()?;
        let body = SealBody { subject, generation, commitment, stanzas };
        body.check().map_err(|why| Error::tampered(format!("{WHAT}: {why}")))?;
        Ok(Self { body, mac })
    }

    /// What it says.
    pub fn body(&self) -> &SealBody {
        &self.body
    }

    /// The MAC, over [`signed_bytes`](SealBody::signed_bytes).
    pub fn mac(&self) -> &[u8; 32] {
        &self.mac
    }

    /// What the MAC covers. Equal to the bytes that were parsed: the text has one form only.
    pub fn signed_bytes(&self) -> Vec<u8> {
        self.body.signed_bytes()
    }

    /// The object's bytes.
    pub fn print(&self) -> Vec<u8> {
        let mut bytes = self.body.signed_bytes();
        bytes.extend_from_slice(format!(" {}\n", BASE64_NOPAD.encode(&self.mac)).as_bytes());
        bytes
    }
}

fn parse_subject(mut line: Line<'_>) -> Result<Subject> {
    let subject = match line.token()? {
        "snapshot" => Subject::Snapshot(line.id()?),
        "values" => Subject::Values(line.id()?),
        "report" => Subject::Report(line.id()?),
        "audit" => Subject::Audit(line.id()?),
        other if is_name(other) => {
            return Err(line.unsupported(format!("subject {other} is not known here")));
        }
        _ => return Err(line.refuse("malformed subject")),
    };
    line.end()?;
    Ok(subject)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::format::{SnapshotId, Uuid};
    use proptest::prelude::*;

    fn sample() -> String {
        let stanza = |byte, n| Stanza::local(KeyId([n; 16]), &[byte; SEALED_KEY_LEN]);
        let subject = Subject::Snapshot("01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap());
        let body = SealBody::new(subject, 3, [7; 32], vec![stanza(1, 9), stanza(2, 4)]).unwrap();
        String::from_utf8(body.finish([5; 32]).print()).unwrap()
    }

    fn kind(text: &str) -> ErrorKind {
        Seal::parse(text.as_bytes()).unwrap_err().kind()
    }

    #[test]
    fn prints_as_specified_and_keeps_unknown_stanzas() {
        // [S5.1], [S5.4]
        let text = sample();
        let unknown = format!("-> zkms {} awskms://key AAAA\n---", KeyId([0; 16]));
        let text = text.replacen("---", &unknown, 1);
        let seal = Seal::parse(text.as_bytes()).unwrap();
        assert_eq!(seal.print(), text.as_bytes());
        let kinds: Vec<_> = seal.body().stanzas().iter().map(Stanza::kind).collect();
        assert_eq!(kinds, ["local", "local", "zkms"]);
        let signed = String::from_utf8(seal.signed_bytes()).unwrap();
        assert!(text.starts_with(&signed) && signed.ends_with("\n---"));
    }

    #[test]
    fn each_rule_of_s5_is_enforced() {
        use ErrorKind::{Tampered, Truncated, Unsupported};
        let text = sample();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let without = |n: usize| {
            let mut lines = lines.clone();
            lines.remove(n);
            lines.concat()
        };
        let swapped = [lines[0], lines[1], lines[2], lines[3], lines[5], lines[4], lines[6]];
        let doubled = [lines[0], lines[1], lines[2], lines[3], lines[4], lines[4], lines[6]];
        let long = format!("-> zzz {} {}\n---", KeyId([0; 16]), "A".repeat(MAX_LINE));
        let many: String =
            (0..65).map(|n| format!("-> zz {} A\n", KeyId([n; 16]))).collect::<String>() + "---";
        for (text, want) in [
            (without(6), Truncated), // [S8.3]
            (text.trim_end().to_owned(), Truncated),
            (text.replace("seal/1", "seal/2"), Unsupported), // [S8.2]
            (text.replace("subject snapshot", "subject disk"), Unsupported),
            (text.replace("generation 3", "generation 0"), Tampered), // [S5.2]
            (text.replace("generation 3", "generation 4294967296"), Tampered),
            (swapped.concat(), Tampered), // [S5.3] order
            (doubled.concat(), Tampered),
            (lines[..4].concat() + lines[6], Tampered), // no stanza
            (text.replacen("---", &many, 1), Tampered), // 67 of them
            (text.replacen("---", &long, 1), Tampered), // line too long
            (text.replace("-> local", "-> Local"), Tampered),
            (text.replace("---", "--"), Tampered),
            (text.clone() + "more\n", Tampered),
            (without(2), Tampered),
            (text.replacen("AQEB", "AQ", 1), Tampered), // stanza of other length
        ] {
            assert_eq!(kind(&text), want, "{text}");
        }
    }

    #[test]
    fn refuses_to_build_what_it_would_not_read() {
        let subject = Subject::Values(Uuid([1; 16]));
        let stanza = Stanza::local(KeyId([1; 16]), &[0; SEALED_KEY_LEN]);
        assert!(SealBody::new(subject, 0, [0; 32], vec![stanza.clone()]).is_err());
        assert!(SealBody::new(subject, 1, [0; 32], vec![]).is_err());
        assert!(SealBody::new(subject, 1, [0; 32], vec![stanza.clone(), stanza]).is_err());
    }

    proptest! {
        #[test]
        fn any_seal_round_trips(id: [u8; 16], which in 0..4, generation in 1u32.., dc: [u8; 32],
            keys in proptest::collection::btree_set(any::<[u8; 16]>(), 1..8), mac: [u8; 32]) {
            let subject = match which {
                0 => Subject::Snapshot(SnapshotId(u128::from_be_bytes(id))),
                1 => Subject::Values(Uuid(id)),
                2 => Subject::Report(SnapshotId(u128::from_be_bytes(id))),
                _ => Subject::Audit(SnapshotId(u128::from_be_bytes(id))),
            };
            let stanzas =
                keys.into_iter().map(|k| Stanza::local(KeyId(k), &[k[0]; SEALED_KEY_LEN])).collect();
            let seal = SealBody::new(subject, generation, dc, stanzas).unwrap().finish(mac);
            let bytes = seal.print();
            prop_assert_eq!(Seal::parse(&bytes).unwrap(), seal);
        }
    }
}
