//! Keys that sign what a seal vouches for, and the signers that a reader trusts (SPEC.md §5.1, §5.3).

use std::fmt;
use std::str::FromStr;

use super::text::{self, Prefix};
use crate::crypto::{self, CryptoRng, Label, signature};
use crate::error::{Error, Result};
use crate::format::{
    ClusterName, KeyId, Role, SealBody, Sha256, Signature, SnapshotId, Subject, Time,
};
use crate::secret::{SecretBytes, SecretKey};

/// The longest file of signers that is read, in bytes.
pub const MAX_SIGNERS: usize = 1 << 20;

/// A secret key that signs. As text `SRSIGN-SECRET-KEY-1…`.
pub struct SigningKey {
    public: PublicSigner,
    seed: SecretKey,
}

impl SigningKey {
    pub(super) fn new(seed: SecretKey) -> Self {
        Self { public: PublicSigner(signature::verifying_key(&seed)), seed }
    }

    /// A fresh key.
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        Self::new(SecretKey::random(rng))
    }

    /// Reads the one secret key in a file, in which lines that begin with `#` are comments.
    ///
    /// # Errors
    /// Usage when it holds none, or more than one. It does not repeat the text.
    pub fn parse(file: &str) -> Result<Self> {
        let mut lines = file.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        match (lines.next(), lines.next()) {
            (Some(line), None) => text::parse_secret(Prefix::SigningKey, line).map(Self::new),
            _ => Err(Error::usage("a file of a signing key holds one line SRSIGN-SECRET-KEY-1…")
                .hint("`strongroom key generate --signing -o FILE` makes one")),
        }
    }

    /// The secret key's line.
    ///
    /// # Errors
    /// None in practice.
    pub fn print(&self) -> Result<SecretBytes> {
        text::print_secret(Prefix::SigningKey, &self.seed)
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> PublicSigner {
        self.public
    }

    /// Vouches that `object` is `subject`'s.
    #[must_use]
    pub fn sign(&self, subject: Subject, object: Sha256) -> Signature {
        let bytes = signature::sign(&self.seed, &message(subject, object));
        Signature { key_id: self.public.id(), bytes }
    }

    /// Signs a body of journal `journal` (SPEC.md §13.3).
    #[must_use]
    pub fn sign_segment(&self, journal: SnapshotId, role: Role, body: Sha256) -> Signature {
        let bytes = signature::sign(&self.seed, &segment_message(journal, role, body));
        Signature { key_id: self.public.id(), bytes }
    }
}

/// What is signed of a body of journal `journal`: the SHA-256 of what stands before the signature.
fn segment_message(journal: SnapshotId, role: Role, body: Sha256) -> Vec<u8> {
    crypto::labelled(Label::Segment, &[&journal.to_bytes(), &[role.byte()], &body.0])
}

fn message(subject: Subject, object: Sha256) -> Vec<u8> {
    crypto::labelled(Label::Vouch, &[&subject.to_bytes(), &object.0])
}

/// The public half of a signing key. As text `srsign1…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicSigner([u8; 32]);

impl PublicSigner {
    /// Names this key in seals.
    #[must_use]
    pub fn id(&self) -> KeyId {
        super::key_id("ed25519", &[&self.0])
    }

    /// Whether `signature` is this key's, for `object` of `subject`.
    #[must_use]
    pub fn verifies(&self, subject: Subject, object: Sha256, signature: &Signature) -> bool {
        signature.key_id == self.id()
            && signature::verify(&self.0, &message(subject, object), &signature.bytes)
    }

    /// Whether `signature` is this key's, for a body of journal `journal`.
    #[must_use]
    pub fn verifies_segment(
        &self,
        journal: SnapshotId,
        role: Role,
        body: Sha256,
        signature: &Signature,
    ) -> bool {
        signature.key_id == self.id()
            && signature::verify(&self.0, &segment_message(journal, role, body), &signature.bytes)
    }
}

impl fmt::Display for PublicSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::print(Prefix::Signer, &self.0))
    }
}

impl FromStr for PublicSigner {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if Prefix::of(text, &[Prefix::SigningKey]).is_some() {
            return Err(Error::usage("this is a secret key where a public one is expected")
                .hint("give the srsign1… text; treat the secret key as leaked"));
        }
        let bytes = text::parse(Prefix::Signer, text)?;
        match <[u8; 32]>::try_from(bytes) {
            Ok(key) if signature::is_verifying_key(&key) => Ok(Self(key)),
            _ => Err(Error::usage("a signer is not a public key that can be verified with")),
        }
    }
}

/// Which trusted signers signed something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignedBy {
    /// Those who may: their signatures make it count.
    pub trusted: Vec<KeyId>,
    /// Somebody signed who was revoked since.
    pub revoked: bool,
}

/// Whether the signer `id` signs for `cluster`, and whether it was revoked. One that is given twice must be allowed by each.
fn rights(signers: &[Signer], id: KeyId, cluster: Option<&ClusterName>) -> (bool, bool) {
    let given = || signers.iter().filter(|signer| signer.key.id() == id);
    let is_for = given().all(|signer| signer.is_for(cluster));
    (is_for, given().any(|signer| signer.revoked.is_some()))
}

/// Those of `signers` whose signatures make what is about `cluster` count.
#[cfg(feature = "backup")]
pub(super) fn trusted_for(signers: &[Signer], cluster: Option<&ClusterName>) -> Vec<PublicSigner> {
    let may = |signer: &&Signer| rights(signers, signer.key.id(), cluster) == (true, false);
    signers.iter().filter(may).map(|signer| signer.key).collect()
}

/// Which of `signers` signed what `seal` vouches for, which is about `cluster`. Lines of others are passed over.
///
/// # Errors
/// Tampered for a line by one of them that does not verify.
pub(super) fn signed_by(
    signers: &[Signer],
    seal: &SealBody,
    cluster: Option<&ClusterName>,
) -> Result<SignedBy> {
    let mut found = SignedBy::default();
    for signature in seal.signatures() {
        let key = signature.key_id;
        let Some(signer) = signers.iter().find(|signer| signer.key.id() == key) else { continue };
        if !signer.key.verifies(seal.subject(), seal.object(), signature) {
            return Err(Error::tampered(format!("the signature of signer {key} does not verify")));
        }
        let (is_for, revoked) = rights(signers, key, cluster);
        found.revoked |= revoked;
        if is_for && !revoked {
            found.trusted.push(key);
        }
    }
    Ok(found)
}

/// A signer that is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// Its key.
    pub key: PublicSigner,
    /// What its owner calls it.
    pub name: Option<String>,
    /// The clusters that it signs for; none means all.
    pub clusters: Vec<ClusterName>,
    /// Nothing that it alone signed counts any more, whatever its time.
    pub revoked: Option<Time>,
}

impl Signer {
    /// One that signs for all clusters.
    #[must_use]
    pub fn new(key: PublicSigner) -> Self {
        Self { key, name: None, clusters: Vec::new(), revoked: None }
    }

    /// Whether it may sign what is about `cluster`.
    #[must_use]
    pub fn is_for(&self, cluster: Option<&ClusterName>) -> bool {
        self.clusters.is_empty() || cluster.is_some_and(|cluster| self.clusters.contains(cluster))
    }

    /// Reads a file of trusted signers: one a line, `srsign1… [name=…] [clusters=a,b] [revoked=TIME]`; lines that begin
    /// with `#` are comments.
    ///
    /// # Errors
    /// Usage, with the line's number; it holds none, or one twice.
    pub fn parse_file(text: &str) -> Result<Vec<Self>> {
        let mut signers: Vec<Self> = Vec::new();
        for (number, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line.trim())) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let signer =
                line.parse::<Self>().map_err(|error| error.context(format!("line {number}")))?;
            if signers.iter().any(|known| known.key == signer.key) {
                return Err(Error::usage(format!("line {number}: this signer is there twice")));
            }
            signers.push(signer);
        }
        match signers.is_empty() {
            true => Err(Error::usage("the file holds no signer")
                .hint("one a line: srsign1… [name=…] [clusters=a,b] [revoked=TIME]")),
            false => Ok(signers),
        }
    }
}

/// Its line in a file of trusted signers.
impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key)?;
        if let Some(name) = &self.name {
            write!(f, " name={name}")?;
        }
        let clusters: Vec<_> = self.clusters.iter().map(ClusterName::as_str).collect();
        if !clusters.is_empty() {
            write!(f, " clusters={}", clusters.join(","))?;
        }
        match self.revoked {
            Some(time) => write!(f, " revoked={time}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Signer {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        let mut words = line.split_ascii_whitespace();
        let mut signer = Self::new(words.next().unwrap_or_default().parse()?);
        for word in words {
            match word.split_once('=') {
                Some(("name", name)) if !name.is_empty() && signer.name.is_none() => {
                    signer.name = Some(name.to_owned());
                }
                Some(("clusters", names)) if signer.clusters.is_empty() => {
                    signer.clusters = names.split(',').map(str::parse).collect::<Result<_>>()?;
                }
                Some(("revoked", time)) if signer.revoked.is_none() => {
                    signer.revoked = Some(revoked_at(time)?);
                }
                // An unknown word may restrict the signer: it must not be passed over.
                _ => {
                    return Err(Error::usage("a word after a signer is not known").hint(
                        "name=…, clusters=a,b and revoked=TIME may follow the key, each once",
                    ));
                }
            }
        }
        Ok(signer)
    }
}

/// A time in UTC, or a date, which means its beginning.
fn revoked_at(text: &str) -> Result<Time> {
    let time = text.parse().or_else(|_| format!("{text}T00:00:00Z").parse());
    time.map_err(|_| {
        Error::usage("revoked= is not followed by a time")
            .hint("write it as 2026-11-23T09:00:00Z or as a date, 2026-11-23 (UTC)")
    })
}

/// Why nothing is written unsigned where signers are configured.
pub fn would_not_count() -> Error {
    Error::usage(
        "signers are configured but this host has no signing key, so its snapshots would not count",
    )
    .hint("give --signing-key FILE, whose signer is trusted then, or insist with --unsigned")
}

/// Why nothing is sealed to public keys alone without a signature.
pub fn unsigned_refused() -> Error {
    Error::usage(
        "only public keys seal, and no signing key is configured: anyone could make snapshots that open, and nothing would \
         show that these are genuine",
    )
    .hint("`strongroom key generate --signing -o FILE` makes a signing key; give it with --signing-key FILE, or insist with --unsigned")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::system_rng;
    use crate::format::SnapshotId;

    const SUBJECT: Subject = Subject::Snapshot(SnapshotId(7));
    const OBJECT: Sha256 = Sha256([3; 32]);

    #[test]
    fn a_signature_is_for_one_subject_and_one_object() {
        let key = SigningKey::generate(&mut system_rng());
        let public: PublicSigner = key.public().to_string().parse().unwrap();
        let line = key.print().unwrap();
        let again = SigningKey::parse(std::str::from_utf8(line.expose()).unwrap()).unwrap();
        assert_eq!(again.public(), public);
        let signature = again.sign(SUBJECT, OBJECT);
        assert!(public.verifies(SUBJECT, OBJECT, &signature));
        assert!(!public.verifies(Subject::Snapshot(SnapshotId(8)), OBJECT, &signature));
        assert!(!public.verifies(Subject::Report(SnapshotId(7)), OBJECT, &signature));
        assert!(!public.verifies(SUBJECT, Sha256([4; 32]), &signature));
        let other = SigningKey::generate(&mut system_rng());
        assert!(!other.public().verifies(SUBJECT, OBJECT, &signature));
        let renamed = Signature { key_id: other.public().id(), ..signature };
        assert!(!other.public().verifies(SUBJECT, OBJECT, &renamed));
    }

    #[test]
    fn a_file_of_signers() {
        let keys: Vec<_> =
            (0..3).map(|_| SigningKey::generate(&mut system_rng()).public().to_string()).collect();
        let [a, b, c] = keys.as_slice() else { panic!() };
        let text = format!(
            "# trusted\n\n{a}\n{b} name=host-2 clusters=prod,test\n  {c} revoked=2026-01-31T12:00:00Z\n"
        );
        let signers = Signer::parse_file(&text).unwrap();
        assert_eq!(signers.len(), 3);
        let cluster = |name: &str| name.parse::<ClusterName>().unwrap();
        assert!(signers[0].is_for(None) && signers[0].is_for(Some(&cluster("any"))));
        assert!(signers[1].is_for(Some(&cluster("prod"))));
        assert!(!signers[1].is_for(Some(&cluster("other"))) && !signers[1].is_for(None));
        assert!(signers[2].revoked.is_some());
        for signer in &signers {
            assert_eq!(signer.to_string().parse::<Signer>().unwrap(), *signer);
        }
        let date = format!("{a} revoked=2026-11-27").parse::<Signer>().unwrap();
        assert_eq!(date.revoked.unwrap().to_string(), "2026-11-27T00:00:00Z");
        for bad in [
            String::new(),
            "# nothing\n".into(),
            format!("{a}\n{a}\n"),
            format!("{a} until=2027\n"),
            format!("{a} clusters=\n"),
            format!("{a} clusters=a clusters=b\n"),
            format!("{a} revoked=yesterday\n"),
            format!("{a} name=\n"),
            format!("{}\n", &a[..a.len() - 1]),
            "srsign1\n".into(),
        ] {
            let error = Signer::parse_file(&bad).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Usage, "{bad}");
        }
    }
}
