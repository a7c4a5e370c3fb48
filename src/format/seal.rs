//! The seal: one subject's data key under N master keys, and what it vouches for (SPEC.md §5).
//!
//! Print and MAC are two steps: [`SealBody::signed_bytes`], then [`SealBody::finish`].

use std::fmt::Write as _;

use data_encoding::BASE64_NOPAD;

use super::ids::{KeyId, Sha256, Subject};
use super::text::{Line, Lines, ascends, is_name};
use crate::error::{Error, Result};

/// The longest seal that is read, in bytes: every stanza at its limit, and the lines around them.
pub const MAX_SEAL: usize = MAX_STANZAS * MAX_LINE + 4096;
/// The most stanzas in a seal.
pub const MAX_STANZAS: usize = 64;
/// The most signatures in a seal.
pub const MAX_SIGNATURES: usize = 16;
/// Length of a data key sealed by the chunked encryption: salt, commitment, key, tag.
pub const SEALED_KEY_LEN: usize = 24 + 32 + 32 + 16;

/// The longest stanza line, LF included.
const MAX_LINE: usize = 24 * 1024;
/// What a seal's first line begins with.
pub(super) const FAMILY: &str = "strongroom-seal/";
const WHAT: &str = "seal";
/// The stanza kind of a master key in a keyring or behind a passphrase.
const LOCAL: &str = "local";
/// The only kind of signature line.
const ED25519: &str = "ed25519";

/// One master key's wrapping of the data key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stanza {
    kind: String,
    key_id: KeyId,
    /// The tokens between key id and body, with their spaces.
    args: String,
    body: Vec<u8>,
}

impl Stanza {
    /// A `local` stanza around C(master, …, data key).
    pub fn local(key_id: KeyId, wrapped: &[u8; SEALED_KEY_LEN]) -> Self {
        Self { kind: LOCAL.into(), key_id, args: String::new(), body: wrapped.to_vec() }
    }

    /// A stanza of any kind.
    ///
    /// # Errors
    /// Usage when it could not be read back: a malformed kind or argument, a `local` one that does not hold
    /// [`SEALED_KEY_LEN`] bytes, or a line longer than those of a seal.
    pub fn new(kind: &str, key_id: KeyId, args: &[&str], body: Vec<u8>) -> Result<Self> {
        let is_token = |arg: &&str| !arg.is_empty() && arg.bytes().all(|b| b.is_ascii_graphic());
        let stanza = Self { kind: kind.into(), key_id, args: args.join(" "), body };
        let fits = is_name(kind)
            && args.iter().all(is_token)
            && !stanza.is_malformed()
            && stanza.print().len() <= MAX_LINE;
        match fits {
            true => Ok(stanza),
            false => Err(Error::usage(format!("a stanza of the kind {kind:?} is malformed"))),
        }
    }

    /// The kind: `local`, or one that this version keeps but cannot open.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The master key that opens it.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// The tokens between key id and body; none for `local`.
    pub fn args(&self) -> impl Iterator<Item = &str> {
        self.args.split(' ').filter(|token| !token.is_empty())
    }

    /// The body, decoded.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Whether a `local` one is not as this version writes it.
    fn is_malformed(&self) -> bool {
        self.kind == LOCAL && (!self.args.is_empty() || self.body.len() != SEALED_KEY_LEN)
    }

    fn parse(mut line: Line<'_>) -> Result<Self> {
        let kind = line.token()?;
        if !is_name(kind) {
            return Err(line.refuse("a stanza kind is malformed"));
        }
        let key_id = line.id()?;
        let malformed = line.refuse("a stanza ends in base64; a local one holds 104 bytes only");
        let tail = line.tail()?;
        let (args, body) = tail.rsplit_once(' ').unwrap_or(("", tail));
        let Ok(body) = BASE64_NOPAD.decode(body.as_bytes()) else { return Err(malformed) };
        let stanza = Self { kind: kind.into(), key_id, args: args.into(), body };
        if stanza.is_malformed() {
            return Err(malformed);
        }
        Ok(stanza)
    }

    fn print(&self) -> String {
        let space = if self.args.is_empty() { "" } else { " " };
        let body = BASE64_NOPAD.encode(&self.body);
        format!("-> {} {} {}{space}{body}\n", self.kind, self.key_id, self.args)
    }
}

/// One signer's signature over subject and object. Not verified by parsing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The signer.
    pub key_id: KeyId,
    /// The Ed25519 signature.
    pub bytes: [u8; 64],
}

impl Signature {
    fn parse(mut line: Line<'_>) -> Result<Self> {
        let (key_id, bytes) = (line.id()?, line.base64()?);
        line.end()?;
        Ok(Self { key_id, bytes })
    }

    fn print(&self) -> String {
        format!("{ED25519} {} {}\n", self.key_id, BASE64_NOPAD.encode(&self.bytes))
    }
}

/// What a seal says, before its MAC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealBody {
    subject: Subject,
    generation: u32,
    object: Sha256,
    commitment: [u8; 32],
    stanzas: Vec<Stanza>,
    signatures: Vec<Signature>,
}

impl SealBody {
    /// A seal of `generation` (1 for the first) that vouches for `object`; sorts `stanzas` and `signatures`.
    ///
    /// # Errors
    /// Usage when the generation is 0, there are not 1 to [`MAX_STANZAS`] stanzas or more than
    /// [`MAX_SIGNATURES`] signatures, or two are by the same key.
    pub fn new(
        subject: Subject,
        generation: u32,
        object: Sha256,
        commitment: [u8; 32],
        mut stanzas: Vec<Stanza>,
        mut signatures: Vec<Signature>,
    ) -> Result<Self> {
        stanzas.sort_by(|a, b| order(a).cmp(&order(b)));
        signatures.sort_by_key(|signature| signature.key_id);
        let body = Self { subject, generation, object, commitment, stanzas, signatures };
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

    /// Digest of what the seal vouches for; of a snapshot, its manifest.
    pub fn object(&self) -> Sha256 {
        self.object
    }

    /// The data-key commitment DC.
    pub fn commitment(&self) -> &[u8; 32] {
        &self.commitment
    }

    /// The stanzas, ascending by kind and key id.
    pub fn stanzas(&self) -> &[Stanza] {
        &self.stanzas
    }

    /// The signatures, ascending by key id.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// What the MAC covers: every byte before it, the three hyphens included.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut text = format!("{FAMILY}1\n");
        let commitment = BASE64_NOPAD.encode(&self.commitment);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "subject {}", subject_text(self.subject));
        let _ = writeln!(text, "generation {}", self.generation);
        let _ = writeln!(text, "object {}", self.object);
        let _ = writeln!(text, "commitment {commitment}");
        self.stanzas.iter().for_each(|stanza| text.push_str(&stanza.print()));
        self.signatures.iter().for_each(|signature| text.push_str(&signature.print()));
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
            return Err("stanzas do not ascend by kind and key id".into());
        }
        if self.signatures.len() > MAX_SIGNATURES
            || !ascends(self.signatures.iter().map(|signature| signature.key_id))
        {
            return Err("too many signatures, or they do not ascend by key id".into());
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
        Subject::Journal(id) => format!("journal {id}"),
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
    /// Unsupported for another version, subject or kind of signature; truncated when the MAC line is missing
    /// or unfinished; tampered otherwise.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut lines = Lines::open(WHAT, FAMILY, MAX_SEAL, bytes)?;
        let subject = parse_subject(lines.keyword("subject")?)?;
        let mut line = lines.keyword("generation")?;
        let generation = line.number()?;
        line.end()?;
        let mut line = lines.keyword("object")?;
        let object = line.id()?;
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
        let signatures = parse_signatures(&mut lines)?;
        let mut line = lines.keyword("---")?;
        let mac = line.base64()?;
        line.end()?;
        lines.finish()?;
        let body = SealBody { subject, generation, object, commitment, stanzas, signatures };
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
        "journal" => Subject::Journal(line.id()?),
        other if is_name(other) => {
            return Err(line.unsupported(format!("subject {other} is not known here")));
        }
        _ => return Err(line.refuse("malformed subject")),
    };
    line.end()?;
    Ok(subject)
}

/// The signature lines, up to the MAC's.
fn parse_signatures(lines: &mut Lines<'_>) -> Result<Vec<Signature>> {
    let mut signatures = Vec::new();
    while !lines.is_done() && !lines.next_is("---") {
        let mut line = lines.line()?;
        match line.token()? {
            ED25519 if signatures.len() < MAX_SIGNATURES => {
                signatures.push(Signature::parse(line)?);
            }
            ED25519 => return Err(line.refuse("too many signatures")),
            other if is_name(other) => {
                return Err(line.unsupported(format!("signature {other} is not known here")));
            }
            _ => return Err(line.refuse("expected a stanza, a signature or the MAC")),
        }
    }
    Ok(signatures)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::format::{SnapshotId, Uuid};
    use proptest::prelude::*;

    const OBJECT: Sha256 = Sha256([8; 32]);

    fn signature(n: u8) -> Signature {
        Signature { key_id: KeyId([n; 16]), bytes: [n; 64] }
    }

    fn sample() -> String {
        let stanza = |byte, n| Stanza::local(KeyId([n; 16]), &[byte; SEALED_KEY_LEN]);
        let subject = Subject::Snapshot("01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap());
        let stanzas = vec![stanza(1, 9), stanza(2, 4)];
        let signatures = vec![signature(2), signature(1)];
        let body = SealBody::new(subject, 3, OBJECT, [7; 32], stanzas, signatures).unwrap();
        String::from_utf8(body.finish([5; 32]).print()).unwrap()
    }

    fn kind(text: &str) -> ErrorKind {
        Seal::parse(text.as_bytes()).unwrap_err().kind()
    }

    #[test]
    fn prints_as_specified_and_keeps_unknown_stanzas() {
        // [S5.1], [S5.4]
        let text = sample();
        let unknown = format!("-> zkms {} awskms://key x AAAA\ned25519", KeyId([0; 16]));
        let text = text.replacen("ed25519", &unknown, 1);
        let seal = Seal::parse(text.as_bytes()).unwrap();
        assert_eq!(seal.print(), text.as_bytes());
        let stanzas = seal.body().stanzas();
        let kinds: Vec<_> = stanzas.iter().map(Stanza::kind).collect();
        assert_eq!(kinds, ["local", "local", "zkms"]);
        assert_eq!(stanzas[2].args().collect::<Vec<_>>(), ["awskms://key", "x"]);
        assert_eq!(stanzas[2].body(), [0; 3]);
        assert_eq!(seal.body().object(), OBJECT);
        assert_eq!(seal.body().signatures(), [signature(1), signature(2)]);
        let signed = String::from_utf8(seal.signed_bytes()).unwrap();
        assert!(text.starts_with(&signed) && signed.ends_with("\n---"));
    }

    #[test]
    fn each_rule_of_s5_is_enforced() {
        use ErrorKind::{Tampered, Truncated, Unsupported};
        let text = sample();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        // The sample's lines: first, subject, generation, object, commitment, 2 stanzas, 2 signatures, MAC.
        let of = |order: &[usize]| order.iter().map(|at| lines[*at]).collect::<String>();
        let before_mac =
            |line: &str| [of(&[0, 1, 2, 3, 4, 5, 6, 7, 8]).as_str(), line, lines[9]].concat();
        let id = KeyId([0; 16]);
        let long = format!("-> zzz {id} {}\ned25519", "A".repeat(MAX_LINE));
        let many: String =
            (0..65).map(|n| format!("-> zz {} AA\n", KeyId([n; 16]))).collect::<String>()
                + "ed25519";
        let signatures: String = (3..=17).map(|n| signature(n).print()).collect();
        for (text, want) in [
            (of(&[0, 1, 2, 3, 4, 5, 6, 7, 8]), Truncated), // [S8.3]
            (of(&[0, 1, 2, 3]), Truncated),
            (text.trim_end().to_owned(), Truncated),
            (text.replace("seal/1", "seal/2"), Unsupported), // [S8.2]
            (text.replace("subject snapshot", "subject disk"), Unsupported),
            (before_mac("mldsa65-ed25519 x y\n"), Unsupported), // [S5.9]
            (text.replace("generation 3", "generation 0"), Tampered), // [S5.2]
            (text.replace("generation 3", "generation 4294967296"), Tampered),
            (text.replace("object 08", "object 8"), Tampered),
            (of(&[0, 1, 2, 4, 5, 6, 7, 8, 9]), Tampered), // no object
            (of(&[0, 1, 3, 4, 5, 6, 7, 8, 9]), Tampered), // no generation
            (of(&[0, 1, 2, 3, 4, 6, 5, 7, 8, 9]), Tampered), // [S5.3] order
            (of(&[0, 1, 2, 3, 4, 5, 5, 7, 8, 9]), Tampered),
            (of(&[0, 1, 2, 3, 4, 9]), Tampered), // no stanza
            (of(&[0, 1, 2, 3, 4, 7, 5, 6, 8, 9]), Tampered), // a signature first
            (of(&[0, 1, 2, 3, 4, 5, 6, 8, 7, 9]), Tampered), // [S5.9] order
            (of(&[0, 1, 2, 3, 4, 5, 6, 7, 7, 9]), Tampered),
            (before_mac(&signatures), Tampered), // 17 of them
            (before_mac("Ed25519 x y\n"), Tampered),
            (text.replacen("ed25519", &many, 1), Tampered), // 67 stanzas
            (text.replacen("ed25519", &long, 1), Tampered), // line too long
            (text.replacen("ed25519", &format!("-> zz {id} a*\ned25519"), 1), Tampered),
            (text.replacen("ed25519", &format!("-> zz {id}\ned25519"), 1), Tampered),
            (text.replace("-> local", "-> Local"), Tampered),
            (
                text.replacen(
                    "-> local 04040404040404040404040404040404",
                    "-> local 04040404040404040404040404040404 x",
                    1,
                ),
                Tampered,
            ),
            (text.replace("---", "--"), Tampered),
            (text.clone() + "more\n", Tampered),
            (text.replacen("AQEB", "AQ", 1), Tampered), // stanza of other length
            (text.replacen("ed25519 01", "ed25519 1", 1), Tampered),
        ] {
            assert_eq!(kind(&text), want, "{text}");
        }
    }

    #[test]
    fn refuses_to_build_what_it_would_not_read() {
        let subject = Subject::Values(Uuid([1; 16]));
        let stanza = Stanza::local(KeyId([1; 16]), &[0; SEALED_KEY_LEN]);
        let build = |generation, stanzas: &[Stanza], signatures: &[Signature]| {
            let (stanzas, signatures) = (stanzas.to_vec(), signatures.to_vec());
            SealBody::new(subject, generation, OBJECT, [0; 32], stanzas, signatures)
        };
        let one = std::slice::from_ref(&stanza);
        assert!(build(1, one, &[signature(1)]).is_ok());
        assert!(build(0, one, &[]).is_err());
        assert!(build(1, &[], &[]).is_err());
        assert!(build(1, &[stanza.clone(), stanza.clone()], &[]).is_err());
        assert!(build(1, one, &[signature(1), signature(1)]).is_err());
        assert!(build(1, one, &(0..17).map(signature).collect::<Vec<_>>()).is_err());
    }

    #[test]
    fn the_longest_seal_fits() {
        let stanzas: Vec<Stanza> = (0..MAX_STANZAS as u8)
            .map(|n| Stanza {
                kind: "z".repeat(32),
                key_id: KeyId([n; 16]),
                args: "a".repeat(MAX_LINE - 3 - 33 - 33 - 1 - 1 - 2),
                body: vec![0],
            })
            .collect();
        assert_eq!(stanzas[0].print().len(), MAX_LINE);
        let subject = Subject::Values(Uuid([1; 16]));
        let signatures = (0..16).map(signature).collect();
        let seal = SealBody::new(subject, u32::MAX, OBJECT, [0; 32], stanzas, signatures).unwrap();
        let bytes = seal.finish([0; 32]).print();
        assert!(bytes.len() <= MAX_SEAL);
        assert_eq!(Seal::parse(&bytes).unwrap().print(), bytes);
    }

    proptest! {
        #[test]
        fn any_seal_round_trips(id: [u8; 16], which in 0..5, generation in 1u32.., dc: [u8; 32], object: [u8; 32],
            keys in proptest::collection::btree_set(any::<[u8; 16]>(), 1..8), signers in 0u8..4, mac: [u8; 32]) {
            let ulid = SnapshotId(u128::from_be_bytes(id));
            let subject = match which {
                0 => Subject::Snapshot(ulid),
                1 => Subject::Values(Uuid(id)),
                2 => Subject::Report(ulid),
                3 => Subject::Audit(ulid),
                _ => Subject::Journal(ulid),
            };
            let stanzas =
                keys.into_iter().map(|k| Stanza::local(KeyId(k), &[k[0]; SEALED_KEY_LEN])).collect();
            let signatures = (0..signers).map(signature).collect();
            let seal = SealBody::new(subject, generation, Sha256(object), dc, stanzas, signatures)
                .unwrap()
                .finish(mac);
            let bytes = seal.print();
            prop_assert_eq!(Seal::parse(&bytes).unwrap(), seal);
        }
    }
}
