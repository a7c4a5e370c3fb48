//! SLIP-39: a secret as shares of English words, as many as the threshold bring it back, fewer tell nothing
//! (<https://github.com/satoshilabs/slips/blob/master/slip-0039.md>). Any other implementation reads them.

mod cipher;
mod gf256;
mod share;

pub use share::{SetParameters, Share};

use std::collections::BTreeMap;

use cipher::Parameters;
use zeroize::Zeroizing;

use super::{CryptoRng, random};
use crate::error::{Error, ErrorKind, Result};

/// The most shares of one secret.
pub const MAX_SHARES: u8 = 16;
/// Iterations for a passphrase, as an exponent: what other implementations take.
const EXPONENT: u8 = 1;
/// A set asks for at most this much work: 640,000 iterations, a second.
const MAX_EXPONENT: u8 = 6;

impl SetParameters {
    fn cipher(&self) -> Parameters {
        let salt = match self.extendable {
            true => Vec::new(),
            false => [&b"shamir"[..], &self.identifier.to_be_bytes()].concat(),
        };
        Parameters { exponent: self.exponent, salt }
    }
}

/// Splits `secret` into `count` shares, of which any `threshold` bring it back.
///
/// # Errors
/// [`ErrorKind::Usage`] unless 2 ≤ threshold ≤ count ≤ [`MAX_SHARES`], or for a secret that does not have 16, 18, … 32
/// bytes.
pub fn split(
    secret: &[u8],
    threshold: u8,
    count: u8,
    passphrase: &[u8],
    rng: &mut dyn CryptoRng,
) -> Result<Vec<Share>> {
    if threshold < 2 || count < threshold || count > MAX_SHARES {
        let message = format!("{threshold} of {count} shares cannot be made");
        return Err(Error::usage(message).hint(format!(
            "at least 2 shares are needed to bring the key back, and there are at most {MAX_SHARES}"
        )));
    }
    if !(16..=32).contains(&secret.len()) || !secret.len().is_multiple_of(2) {
        return Err(Error::usage("a secret of this length cannot be split"));
    }
    let set = SetParameters {
        identifier: u16::from_be_bytes(random(rng)) & 0x7fff,
        extendable: true,
        exponent: EXPONENT,
        group_threshold: 1,
        group_count: 1,
    };
    let encrypted = set.cipher().encrypt(secret, passphrase);
    let values = gf256::share(&encrypted, threshold, count, rng);
    let share = |(member, value)| Share { set, group: 0, member, threshold, value };
    Ok((0..).zip(values).map(share).collect())
}

/// How many more shares of the only group are needed beside `shares`; `None` for sets of several groups.
#[must_use]
pub fn missing(shares: &[Share]) -> Option<usize> {
    let first = shares.first().filter(|share| share.set.group_count == 1)?;
    let members: BTreeMap<u8, ()> = shares.iter().map(|share| (share.member, ())).collect();
    Some(usize::from(first.threshold).saturating_sub(members.len()))
}

/// The secret that `shares` were split from. More shares than are needed must agree with the others.
///
/// # Errors
/// [`ErrorKind::Usage`] for shares that do not belong together, or too few of them, with how many are missing;
/// [`ErrorKind::Tampered`] when they do not lead to one secret; [`ErrorKind::Unsupported`] for too many iterations.
pub fn combine(shares: &[Share], passphrase: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let Some(first) = shares.first() else {
        return Err(Error::usage("there are no shares to combine"));
    };
    let mut groups: BTreeMap<u8, Vec<&Share>> = BTreeMap::new();
    for (number, share) in (1..).zip(shares) {
        if share.set != first.set {
            return Err(Error::usage(format!(
                "share {number} belongs to another set than share 1"
            ))
            .hint("each page names its set: combine pages of one set"));
        }
        add(groups.entry(share.group).or_default(), share, number)?;
    }
    if first.set.exponent > MAX_EXPONENT {
        return Err(Error::unsupported("the shares ask for more iterations than are done here"));
    }
    let mut points = Vec::new();
    for (group, members) in &groups {
        points.push((*group, recover(members)?));
    }
    let points: Vec<_> = points.iter().map(|(at, value)| (*at, value.as_slice())).collect();
    let needed = usize::from(first.set.group_threshold);
    if points.len() < needed {
        return Err(too_few(points.len(), needed, "groups of shares"));
    }
    let encrypted = gf256::recover(first.set.group_threshold, &points).ok_or_else(inconsistent)?;
    Ok(first.set.cipher().decrypt(&encrypted, passphrase))
}

/// Adds a share to those of its group; one that is there already counts once.
fn add<'a>(group: &mut Vec<&'a Share>, share: &'a Share, number: usize) -> Result<()> {
    let differs = |other: &&Share| {
        other.threshold != share.threshold || other.value.len() != share.value.len()
    };
    if group.first().is_some_and(differs) {
        let message = format!("share {number} does not belong to the same group as the others");
        return Err(Error::usage(message));
    }
    match group.iter().find(|other| other.member == share.member) {
        Some(other) if *other.value == *share.value => Ok(()),
        Some(_) => Err(Error::tampered(format!(
            "share {number} has the number of another share, and other words"
        ))),
        None => {
            group.push(share);
            Ok(())
        }
    }
}

/// The secret of one group.
fn recover(members: &[&Share]) -> Result<gf256::Value> {
    let threshold = members.first().map_or(1, |share| share.threshold);
    if members.len() < usize::from(threshold) {
        return Err(too_few(members.len(), threshold.into(), "shares"));
    }
    let points: Vec<_> =
        members.iter().map(|share| (share.member, share.value.as_slice())).collect();
    gf256::recover(threshold, &points).ok_or_else(inconsistent)
}

fn too_few(given: usize, needed: usize, what: &str) -> Error {
    let message = format!("{given} of {needed} {what} that are needed: {} missing", needed - given);
    Error::usage(message)
}

fn inconsistent() -> Error {
    Error::new(ErrorKind::Tampered, "the shares do not lead to one secret")
        .hint("one of them was made wrong or belongs to another set: try without each of them, if there are more than needed")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::system_rng;

    fn text(share: &Share) -> String {
        String::from_utf8(share.words().expose().to_vec()).unwrap()
    }

    /// The vectors of SLIP-39's reference implementation, all of them.
    #[test]
    fn official_vectors() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/vectors/slip39.json")).unwrap();
        let vectors = vectors["vectors"].as_array().unwrap();
        assert_eq!(vectors.len(), 45);
        let (mut good, mut bad) = (0, 0);
        for vector in vectors {
            let name = vector[0].as_str().unwrap();
            let words = vector[1].as_array().unwrap().iter().map(|words| words.as_str().unwrap());
            let shares: Result<Vec<_>> = words.map(Share::parse).collect();
            let combined = shares.and_then(|shares| combine(&shares, b"TREZOR"));
            match vector[2].as_str().unwrap() {
                "" => {
                    assert!(combined.is_err(), "{name}");
                    bad += 1;
                }
                secret => {
                    let secret = data_encoding::HEXLOWER.decode(secret.as_bytes()).unwrap();
                    assert_eq!(combined.unwrap()[..], secret, "{name}");
                    good += 1;
                }
            }
        }
        assert_eq!((good, bad), (15, 30));
    }

    #[test]
    fn the_list_of_words_is_sorted_and_four_letters_tell_them_apart() {
        let words: Vec<&str> = include_str!("words.txt").split_whitespace().collect();
        assert_eq!(words.len(), 1024);
        assert!(words.windows(2).all(|pair| pair[0][..4.min(pair[0].len())] < *pair[1]));
        let short: std::collections::BTreeSet<_> =
            words.iter().map(|word| &word[..4.min(word.len())]).collect();
        assert_eq!(short.len(), 1024);
    }

    #[test]
    fn any_three_of_five_and_no_two() {
        let secret = [7; 32];
        let shares = split(&secret, 3, 5, b"", &mut system_rng()).unwrap();
        assert!(shares.iter().all(|share| text(share).split(' ').count() == 33));
        assert_eq!(Share::word_count(32), 33);
        let read = |at: usize| Share::parse(&text(&shares[at])).unwrap();
        for (a, b) in (0..5).flat_map(|a| (0..5).map(move |b| (a, b))) {
            let pair = [read(a), read(b)];
            let error = combine(&pair, b"").unwrap_err();
            let want = if a == b { "1 of 3" } else { "2 of 3" };
            assert!(error.to_string().starts_with(want), "{error}");
            assert_eq!(missing(&pair), Some(if a == b { 2 } else { 1 }));
            // In any order, and one of them twice.
            for c in 0..b.min(a) {
                let three = [read(b), read(a), read(a), read(c)];
                assert_eq!(combine(&three, b"").is_ok_and(|found| found[..] == secret), a != b);
            }
        }
        assert_eq!(combine(&[0, 1, 2, 3, 4].map(read), b"").unwrap()[..], secret);
        assert_ne!(combine(&[0, 1, 2].map(read), b"x").unwrap()[..], secret);
    }

    #[test]
    fn shares_of_two_sets_are_not_mixed() {
        let one = split(&[7; 32], 2, 2, b"", &mut system_rng()).unwrap();
        let two = split(&[7; 32], 2, 2, b"", &mut system_rng()).unwrap();
        let mixed: Vec<_> = one.into_iter().take(1).chain(two.into_iter().skip(1)).collect();
        let error = combine(&mixed, b"").unwrap_err();
        assert!(error.to_string().contains("share 2 belongs to another set"), "{error}");
    }

    /// The shares that are not needed are compared with the others.
    #[test]
    fn a_share_that_is_wrong_is_noticed() {
        let mut shares = split(&[7; 32], 2, 4, b"", &mut system_rng()).unwrap();
        shares[3].value[5] ^= 1;
        assert_eq!(combine(&shares, b"").unwrap_err().kind(), ErrorKind::Tampered);
        shares.swap(0, 3);
        assert_eq!(combine(&shares[..2], b"").unwrap_err().kind(), ErrorKind::Tampered);
    }

    #[test]
    fn counts_that_cannot_be_are_refused() {
        for (threshold, count) in [(0, 0), (1, 1), (1, 3), (3, 2), (2, 17)] {
            let error = split(&[7; 32], threshold, count, b"", &mut system_rng()).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Usage);
        }
        assert_eq!(split(&[7; 32], 16, 16, b"", &mut system_rng()).unwrap().len(), 16);
    }

    /// A share as good as any, without the time that encryption takes.
    fn a_share(value: [u8; 32], bits: [u8; 3]) -> Share {
        let [identifier, member, threshold] = bits;
        let set = SetParameters {
            identifier: u16::from(identifier) << 7,
            extendable: identifier % 2 == 0,
            exponent: threshold % 16,
            group_threshold: 1 + member % 3,
            group_count: 3 + member % 3,
        };
        let value = Zeroizing::new(value.to_vec());
        Share { set, group: member % 3, member: member % 16, threshold: 1 + threshold % 16, value }
    }

    proptest! {
        #[test]
        fn a_word_that_is_exchanged_is_noticed(
            value in any::<[u8; 32]>(), bits in any::<[u8; 3]>(),
            at in 0_usize..33, with in 0_usize..1024, swap in 0_usize..32,
        ) {
            let good = text(&a_share(value, bits));
            let mut words: Vec<&str> = good.split(' ').collect();
            let list: Vec<&str> = include_str!("words.txt").split_whitespace().collect();
            words[at] = list[with];
            words.swap(swap, swap + 1);
            let changed = words.join(" ");
            prop_assert_eq!(Share::parse(&changed).is_ok(), changed == good);
        }

        #[test]
        fn what_parses_prints_the_same(value in any::<[u8; 32]>(), bits in any::<[u8; 3]>()) {
            let printed = text(&a_share(value, bits));
            let typed = format!("  {}\n", printed.to_uppercase().replace(' ', "\r\n\t"));
            let parsed = Share::parse(&typed).unwrap();
            prop_assert_eq!(text(&parsed), printed);
            prop_assert_eq!(&parsed.value[..], value);
        }

        #[test]
        fn any_text(text in "\\PC*") {
            let _ = Share::parse(&text);
        }

        #[test]
        fn any_words(words in prop::collection::vec(0_usize..1024, 0..70)) {
            let list: Vec<&str> = include_str!("words.txt").split_whitespace().collect();
            let words: Vec<_> = words.into_iter().map(|word| list[word]).collect();
            let _ = Share::parse(&words.join(" "));
        }
    }
}
