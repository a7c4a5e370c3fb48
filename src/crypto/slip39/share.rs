//! One share as words: 10 bits a word, with a checksum over GF(1024).

use zeroize::Zeroizing;

use super::gf256::Value;
use crate::error::{Error, ErrorKind, Result};
use crate::secret::SecretBytes;

/// SLIP-39's list: 1024 words, no two with the same four letters at the beginning.
const WORDS: &str = include_str!("words.txt");
/// Words of a share beside those of its value: 4 of parameters and 3 of the checksum.
const FRAME: usize = 7;
const CHECKSUM: usize = 3;
/// The fewest words a share has, and more than any secret needs.
const LENGTHS: std::ops::RangeInclusive<usize> = 20..=64;
const RADIX_BITS: usize = 10;

/// What all shares of one set have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetParameters {
    /// Random, to tell sets apart.
    pub identifier: u16,
    /// The identifier is not used in the encryption of the secret.
    pub extendable: bool,
    /// 10,000 · 2^exponent iterations encrypt the secret.
    pub exponent: u8,
    /// How many groups are needed.
    pub group_threshold: u8,
    /// How many groups there are.
    pub group_count: u8,
}

/// One share of a secret. There is neither `Debug` nor `Clone`.
pub struct Share {
    /// What it has in common with the others.
    pub set: SetParameters,
    /// Its group.
    pub group: u8,
    /// Its number within the group, from 0.
    pub member: u8,
    /// How many of its group are needed.
    pub threshold: u8,
    pub(super) value: Value,
}

/// The checksum RS1024 of `data`, with what tells SLIP-39's two kinds of sets apart.
fn polymod(extendable: bool, data: impl Iterator<Item = u16>) -> u32 {
    const GENERATOR: [u32; 10] = [
        0x00e0_e040,
        0x01c1_c080,
        0x0383_8100,
        0x0707_0200,
        0x0e0e_0009,
        0x1c0c_2412,
        0x3808_6c24,
        0x3090_fc48,
        0x21b1_f890,
        0x03f3_f120,
    ];
    let custom: &[u8] = if extendable { b"shamir_extendable" } else { b"shamir" };
    let values = custom.iter().map(|byte| u16::from(*byte)).chain(data);
    values.fold(1, |sum: u32, value| {
        let top = sum >> 20;
        let shifted = (sum & 0xf_ffff) << RADIX_BITS ^ u32::from(value);
        let add = |sum, (bit, generator)| {
            let is_set = 0_u32.wrapping_sub(top >> bit & 1);
            sum ^ (generator & is_set)
        };
        (0_u32..).zip(GENERATOR).fold(shifted, add)
    })
}

/// `bits` of `value` from the top, ten at a time.
fn digits(value: u64, count: u32) -> impl Iterator<Item = u16> {
    (0..count).rev().map(move |at| (value >> (RADIX_BITS as u32 * at) & 0x3ff) as u16)
}

impl Share {
    /// The share as words with one space between them.
    #[must_use]
    pub fn words(&self) -> SecretBytes {
        let set = &self.set;
        let head = u64::from(set.identifier) << 5
            | u64::from(set.extendable) << 4
            | u64::from(set.exponent);
        let fields = [
            self.group,
            set.group_threshold - 1,
            set.group_count - 1,
            self.member,
            self.threshold - 1,
        ];
        let fields = fields.iter().fold(0, |bits, field| bits << 4 | u64::from(*field));
        let mut data = Zeroizing::new(Vec::with_capacity(*LENGTHS.end()));
        data.extend(digits(head, 2).chain(digits(fields, 2)));
        data.extend(self.value_digits());
        let check = polymod(set.extendable, data.iter().copied().chain([0; CHECKSUM])) ^ 1;
        data.extend(digits(check.into(), CHECKSUM as u32));
        let list: Vec<&str> = WORDS.split_whitespace().collect();
        let word = |digit: &u16| list.get(usize::from(*digit)).copied().unwrap_or_default();
        let length = data.iter().map(|digit| word(digit).len() + 1).sum();
        let mut text = Vec::with_capacity(length);
        for digit in data.iter() {
            if !text.is_empty() {
                text.push(b' ');
            }
            text.extend_from_slice(word(digit).as_bytes());
        }
        SecretBytes::new(text)
    }

    /// The value, with zero bits before it that make it a multiple of ten.
    fn value_digits(&self) -> impl Iterator<Item = u16> {
        let bits = self.value.len() * 8;
        let padding = bits.div_ceil(RADIX_BITS) * RADIX_BITS - bits;
        let bit = move |at: usize| {
            let at = at.checked_sub(padding)?;
            Some(self.value.get(at / 8)? >> (7 - at % 8) & 1)
        };
        (0..(bits + padding) / RADIX_BITS).map(move |digit| {
            let bits = digit * RADIX_BITS..(digit + 1) * RADIX_BITS;
            bits.fold(0, |digit, at| digit << 1 | u16::from(bit(at).unwrap_or_default()))
        })
    }

    /// Reads a share's words, in any case and with any white space between them.
    ///
    /// # Errors
    /// [`ErrorKind::Tampered`] when a word or the checksum is wrong, [`ErrorKind::Truncated`] when words are missing. None
    /// shows a word.
    pub fn parse(text: &str) -> Result<Self> {
        let data = indices(text)?;
        if !LENGTHS.contains(&data.len()) {
            let message =
                format!("a share has 20 or more words, most often 33, and not {}", data.len());
            return Err(
                Error::new(ErrorKind::Truncated, message).hint("copy all words of the share")
            );
        }
        let mut digits = data.iter().copied();
        let mut take = |count: u32| {
            (0..count).fold(0_u64, |bits, _| {
                bits << RADIX_BITS | u64::from(digits.next().unwrap_or_default())
            })
        };
        let (head, fields) = (take(2), take(2));
        let field = |at: u32| (fields >> (4 * at) & 0xf) as u8;
        let set = SetParameters {
            identifier: (head >> 5) as u16,
            extendable: head >> 4 & 1 == 1,
            exponent: (head & 0xf) as u8,
            group_threshold: field(3) + 1,
            group_count: field(2) + 1,
        };
        if polymod(set.extendable, data.iter().copied()) != 1 {
            return Err(Error::tampered("the share's checksum does not match")
                .hint("compare each word, and their order, with the page"));
        }
        if set.group_count < set.group_threshold {
            return Err(Error::tampered("the share asks for more groups than there are"));
        }
        let body = data.get(4..data.len() - CHECKSUM).unwrap_or_default();
        let value = value_of(body).ok_or_else(|| Error::tampered("no share has this length"))?;
        Ok(Self { set, group: field(4), member: field(1), threshold: field(0) + 1, value })
    }

    /// How many words a share of a secret of `bytes` bytes has.
    #[must_use]
    pub const fn word_count(bytes: usize) -> usize {
        FRAME + (bytes * 8).div_ceil(RADIX_BITS)
    }
}

/// The bytes in a share's digits, after zero bits that make them a multiple of sixteen bits.
fn value_of(digits: &[u16]) -> Option<Value> {
    let bits = digits.len() * RADIX_BITS;
    let padding = bits % 16;
    let bit =
        |at: usize| digits.get(at / RADIX_BITS).map(|digit| digit >> (9 - at % RADIX_BITS) & 1);
    if padding > 8 || (0..padding).any(|at| bit(at) != Some(0)) {
        return None;
    }
    let mut value = Zeroizing::new(Vec::with_capacity(bits / 8));
    for byte in (padding..bits).step_by(8) {
        let bits = (byte..byte + 8).map(|at| bit(at).unwrap_or_default());
        value.push(bits.fold(0, |byte, bit| byte << 1 | bit as u8));
    }
    Some(value)
}

/// The place of each word in the list.
fn indices(text: &str) -> Result<Zeroizing<Vec<u16>>> {
    let list: Vec<&str> = WORDS.split_whitespace().collect();
    let mut found = Zeroizing::new(Vec::with_capacity(*LENGTHS.end()));
    for (number, word) in (1..).zip(text.split_whitespace()) {
        if found.len() >= *LENGTHS.end() {
            return Err(Error::tampered("more words than a share has"));
        }
        let word = Zeroizing::new(word.to_ascii_lowercase());
        let at = list.binary_search(&word.as_str()).ok();
        let at = at.and_then(|at| u16::try_from(at).ok()).ok_or_else(|| {
            Error::tampered(format!("word {number} of the share is not in SLIP-39's list of words"))
                .hint(
                    "compare it with the page: four letters are enough to tell it from all others",
                )
        })?;
        found.push(at);
    }
    Ok(found)
}
