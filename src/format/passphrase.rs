//! The passphrase object: a master key sealed by a passphrase (SPEC.md §2.4).

use data_encoding::BASE64_NOPAD;

use super::ids::KeyId;
use super::seal::SEALED_KEY_LEN;
use super::text::Lines;
use crate::error::{Error, Result};

/// The longest passphrase object that is read, in bytes.
pub const MAX_PASSPHRASE_OBJECT: usize = 4096;

const FAMILY: &str = "strongroom-key/";
const WHAT: &str = "sealed master key";

/// Parameters of Argon2id (RFC 9106), version 0x13.
///
/// How much memory a reader grants is the caller's decision, not this parser's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2Params {
    /// Memory in KiB; at least 8 for each lane.
    pub m_kib: u32,
    /// Passes, 1..16.
    pub t: u32,
    /// Lanes, 1..16.
    pub p: u32,
    /// Random, one for each sealing.
    pub salt: [u8; 16],
}

impl Argon2Params {
    fn check(&self) -> Result<(), &'static str> {
        let fits = (1..=16).contains(&self.t)
            && (1..=16).contains(&self.p)
            && self.p.checked_mul(8).is_some_and(|least| self.m_kib >= least);
        if fits { Ok(()) } else { Err("argon2id parameters are out of range") }
    }

    /// The next line of `lines`.
    pub(super) fn parse(lines: &mut Lines<'_>) -> Result<Self> {
        let mut line = lines.keyword("argon2id")?;
        let (m_kib, t, p) = (line.number()?, line.number()?, line.number()?);
        let params = Self { m_kib, t, p, salt: line.base64()? };
        params.check().map_err(|why| line.refuse(why))?;
        line.end()?;
        Ok(params)
    }

    /// The line with its LF; usage when a parameter is out of range.
    pub(super) fn print(&self) -> Result<String> {
        self.check().map_err(Error::usage)?;
        let salt = BASE64_NOPAD.encode(&self.salt);
        Ok(format!("argon2id {} {} {} {salt}\n", self.m_kib, self.t, self.p))
    }
}

/// A master key sealed by a passphrase: `keys/<key id>.<generation>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassphraseObject {
    /// The master key inside.
    pub key: KeyId,
    /// 1 or more; must equal the object name's.
    pub generation: u32,
    /// How the passphrase becomes a key.
    pub argon2: Argon2Params,
    /// C(T, … [`bound_bytes`](Self::bound_bytes), master key).
    pub sealed: [u8; SEALED_KEY_LEN],
}

impl PassphraseObject {
    /// Parses the object.
    ///
    /// # Errors
    /// Unsupported for another version; truncated when the last line is missing or unfinished;
    /// tampered otherwise.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut lines = Lines::open(WHAT, FAMILY, MAX_PASSPHRASE_OBJECT, bytes)?;
        let mut line = lines.keyword("key")?;
        let key = line.id()?;
        line.end()?;
        let mut line = lines.keyword("generation")?;
        let generation = line.number()?;
        if generation == 0 {
            return Err(line.refuse("generation 0"));
        }
        line.end()?;
        let argon2 = Argon2Params::parse(&mut lines)?;
        let mut line = lines.keyword("sealed")?;
        let sealed = line.base64()?;
        line.end()?;
        lines.finish()?;
        Ok(Self { key, generation, argon2, sealed })
    }

    /// Every byte before the line `sealed`, which the encryption's context covers.
    ///
    /// # Errors
    /// Usage when the generation is 0 or an Argon2id parameter out of range.
    pub fn bound_bytes(key: KeyId, generation: u32, argon2: &Argon2Params) -> Result<Vec<u8>> {
        if generation == 0 {
            return Err(Error::usage("generation 0"));
        }
        let argon2 = argon2.print()?;
        Ok(format!("{FAMILY}1\nkey {key}\ngeneration {generation}\n{argon2}").into_bytes())
    }

    /// The object's bytes.
    ///
    /// # Errors
    /// Those of [`bound_bytes`](Self::bound_bytes).
    pub fn print(&self) -> Result<Vec<u8>> {
        let mut bytes = Self::bound_bytes(self.key, self.generation, &self.argon2)?;
        bytes.extend_from_slice(
            format!("sealed {}\n", BASE64_NOPAD.encode(&self.sealed)).as_bytes(),
        );
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use proptest::prelude::*;

    #[test]
    fn each_rule_of_s2_4_is_enforced() {
        use ErrorKind::{Tampered, Truncated, Unsupported};
        let argon2 = Argon2Params { m_kib: 65_536, t: 3, p: 4, salt: [1; 16] };
        let object =
            PassphraseObject { key: KeyId([2; 16]), generation: 1, argon2, sealed: [3; 104] };
        let text = String::from_utf8(object.print().unwrap()).unwrap();
        let last = text.find("sealed").unwrap();
        for (text, want) in [
            (text.replace("key/1", "key/2"), Unsupported),
            (text[..last].to_owned(), Truncated),
            (text.trim_end().to_owned(), Truncated),
            (text.replace("generation 1", "generation 0"), Tampered),
            (text.replace("65536 3 4", "31 3 4"), Tampered),
            (text.replace("65536 3 4", "65536 0 4"), Tampered),
            (text.replace("65536 3 4", "65536 17 4"), Tampered),
            (text.replace("65536 3 4", "65536 3 17"), Tampered),
            (text.replace("65536 3 4", "4294967296 3 4"), Tampered),
            (text.replace("argon2id", "scrypt"), Tampered),
            (text.replace("sealed AwMD", "sealed "), Tampered),
        ] {
            assert_eq!(
                PassphraseObject::parse(text.as_bytes()).unwrap_err().kind(),
                want,
                "{text}"
            );
        }
        assert_eq!(PassphraseObject::parse(text.as_bytes()).unwrap(), object);
        assert!(PassphraseObject { generation: 0, ..object }.print().is_err());
    }

    proptest! {
        #[test]
        fn any_object_round_trips(key: [u8; 16], generation in 1u32.., m_kib in 128u32..,
            t in 1u32..=16, p in 1u32..=16, salt: [u8; 16], byte: u8) {
            let argon2 = Argon2Params { m_kib, t, p, salt };
            let object =
                PassphraseObject { key: KeyId(key), generation, argon2, sealed: [byte; 104] };
            let bytes = object.print().unwrap();
            prop_assert_eq!(&PassphraseObject::parse(&bytes).unwrap(), &object);
            let bound = PassphraseObject::bound_bytes(object.key, generation, &argon2).unwrap();
            prop_assert!(bytes.starts_with(&bound) && bytes[bound.len()..].starts_with(b"sealed "));
        }
    }
}
