//! Keys as text: recipients and identities in age's form, signing keys in one of the same kind (SPEC.md §2.6).

use bech32::primitives::decode::CheckedHrpstring;
use bech32::primitives::gf32_ext::Fe32Ext;
use bech32::{Checksum, Fe32, Hrp};

use crate::crypto::Kem;
use crate::error::{Error, Result};
use crate::secret::{SecretBytes, SecretKey};

/// Bech32 without its bound of 90 characters, as age uses it: a hybrid key has 1,959.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Long {}

impl Checksum for Long {
    type MidstateRepr = u32;
    type CorrectionField = Fe32Ext<2>;
    const ROOT_GENERATOR: Self::CorrectionField = bech32::Fe1024::new([Fe32::P, Fe32::X]);
    const ROOT_EXPONENTS: core::ops::RangeInclusive<usize> = 24..=26;
    const CODE_LENGTH: usize = 4096;
    const CHECKSUM_LENGTH: usize = 6;
    const GENERATOR_SH: [u32; 5] =
        [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
    const TARGET_RESIDUE: u32 = 1;
}

/// What a text begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prefix {
    Recipient(Kem),
    Identity(Kem),
    Signer,
    SigningKey,
}

impl Prefix {
    const fn text(self) -> &'static str {
        match self {
            Self::Recipient(Kem::XWing) => "age1pq",
            Self::Recipient(Kem::X25519) => "age",
            Self::Identity(Kem::XWing) => "AGE-SECRET-KEY-PQ-",
            Self::Identity(Kem::X25519) => "AGE-SECRET-KEY-",
            Self::Signer => "srsign",
            Self::SigningKey => "SRSIGN-SECRET-KEY-",
        }
    }

    const fn is_secret(self) -> bool {
        matches!(self, Self::Identity(_) | Self::SigningKey)
    }

    /// Which of `all` the text begins with.
    pub(super) fn of(text: &str, all: &[Self]) -> Option<Self> {
        let before = text.rsplit_once('1').map(|(before, _)| before)?;
        all.iter().copied().find(|prefix| prefix.text() == before)
    }
}

/// The text of a public key.
pub(super) fn print(prefix: Prefix, bytes: &[u8]) -> String {
    let hrp = Hrp::parse_unchecked(prefix.text());
    // No key is as long as the bound.
    bech32::encode_lower::<Long>(hrp, bytes).unwrap_or_default()
}

/// The text of any key, in lower case.
#[cfg(test)]
pub(super) fn print_any(prefix: &str, bytes: &[u8]) -> String {
    bech32::encode_lower::<Long>(Hrp::parse(prefix).unwrap(), bytes).unwrap()
}

/// The line of a secret key.
pub(super) fn print_secret(prefix: Prefix, seed: &SecretKey) -> Result<SecretBytes> {
    let hrp = Hrp::parse_unchecked(prefix.text());
    let mut line = String::with_capacity(128);
    bech32::encode_upper_to_fmt::<Long, _>(&mut line, hrp, seed.expose())
        .map_err(|_| Error::usage("a secret key is too long"))?;
    Ok(SecretBytes::new(line.into_bytes()))
}

/// The bytes in `text`, which begins with `prefix`.
///
/// # Errors
/// Usage; it does not repeat the text, which may be secret.
pub(super) fn parse(prefix: Prefix, text: &str) -> Result<Vec<u8>> {
    let parsed = checked(prefix, text)?;
    Ok(parsed.byte_iter().collect())
}

/// As [`parse`], of a secret: straight into its final place.
pub(super) fn parse_secret(prefix: Prefix, text: &str) -> Result<SecretKey> {
    let parsed = checked(prefix, text)?;
    if parsed.byte_iter().count() != SecretKey::LEN {
        return Err(malformed(prefix));
    }
    Ok(SecretKey::new(|seed| {
        seed.iter_mut().zip(parsed.byte_iter()).for_each(|(to, from)| *to = from)
    }))
}

/// What a text of any key of age's begins with, in lower case; none if a character is mistyped or missing.
pub(super) fn prefix_of_any(text: &str) -> Option<String> {
    let parsed = CheckedHrpstring::new::<Long>(text).ok()?;
    Some(parsed.hrp().to_lowercase())
}

fn checked(prefix: Prefix, text: &str) -> Result<CheckedHrpstring<'_>> {
    // One form only: a public key in lower case, a secret in upper case.
    let is_other = |c: char| match prefix.is_secret() {
        true => c.is_ascii_lowercase(),
        false => c.is_ascii_uppercase(),
    };
    if text.contains(is_other) {
        return Err(malformed(prefix));
    }
    let parsed = CheckedHrpstring::new::<Long>(text).map_err(|_| malformed(prefix))?;
    if parsed.hrp() != Hrp::parse_unchecked(prefix.text())
        || parsed.validate_segwit_padding().is_err()
    {
        return Err(malformed(prefix));
    }
    Ok(parsed)
}

fn malformed(prefix: Prefix) -> Error {
    let what = match prefix {
        Prefix::Recipient(_) => "recipient",
        Prefix::Identity(_) => "identity",
        Prefix::Signer => "signer",
        Prefix::SigningKey => "signing key",
    };
    Error::usage(format!("the text of a {what} is incomplete, or has a mistyped character"))
}
