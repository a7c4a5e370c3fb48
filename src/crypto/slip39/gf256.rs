//! Shamir's secret sharing over GF(256), the field of AES. No branch and no table depends on a secret.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::crypto::{CryptoRng, constant_time_eq};

/// Where a polynomial holds the secret, and where the digest of it.
const SECRET_AT: u8 = 255;
const DIGEST_AT: u8 = 254;
const DIGEST_LEN: usize = 4;

/// A secret, or a point of the polynomials that share one.
pub(super) type Value = Zeroizing<Vec<u8>>;

/// The product, modulo x^8 + x^4 + x^3 + x + 1.
fn multiply(mut a: u8, b: u8) -> u8 {
    let mut product = 0;
    for bit in 0..8 {
        product ^= a & mask(b >> bit & 1);
        let carry = mask(a >> 7);
        a = (a << 1) ^ (carry & 0x1b);
    }
    product
}

/// All ones for 1, zero for 0.
fn mask(bit: u8) -> u8 {
    0_u8.wrapping_sub(bit)
}

/// a^254, which is 1/a, and 0 for 0.
fn invert(a: u8) -> u8 {
    let mut power = a;
    // 254 is binary 11111110.
    for _ in 0..6 {
        power = multiply(multiply(power, power), a);
    }
    multiply(power, power)
}

/// The value at `x` of the polynomials through `points`, whose places are all different. Those are not secret.
fn interpolate(points: &[(u8, &[u8])], x: u8) -> Value {
    let length = points.first().map_or(0, |(_, value)| value.len());
    let mut result = Zeroizing::new(vec![0; length]);
    for (at, value) in points {
        let others = points.iter().map(|(other, _)| *other).filter(|other| other != at);
        // The Lagrange basis: 1 at this point's place, 0 at the others'.
        let basis =
            others.fold(1, |basis, other| multiply(basis, multiply(x ^ other, invert(at ^ other))));
        result.iter_mut().zip(*value).for_each(|(sum, value)| *sum ^= multiply(basis, *value));
    }
    result
}

fn digest(random: &[u8], secret: &[u8]) -> [u8; DIGEST_LEN] {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(random).expect("any length will do");
    mac.update(secret);
    let mut bytes = mac.finalize().into_bytes().into_iter();
    std::array::from_fn(|_| bytes.next().unwrap_or_default())
}

/// Shares `secret`: the values at 0, 1, … `count`, of which any `threshold` bring it back.
pub(super) fn share(
    secret: &[u8],
    threshold: u8,
    count: u8,
    rng: &mut dyn CryptoRng,
) -> Vec<Value> {
    if threshold < 2 {
        return (0..count).map(|_| Zeroizing::new(secret.to_vec())).collect();
    }
    let random = |rng: &mut dyn CryptoRng| {
        let mut value = Zeroizing::new(vec![0; secret.len()]);
        rng.fill_bytes(&mut value);
        value
    };
    let mut shares: Vec<Value> = (0..threshold - 2).map(|_| random(rng)).collect();
    // The digest, then random bytes.
    let mut check = random(rng);
    let (head, tail) = check.split_at_mut(DIGEST_LEN.min(secret.len()));
    head.copy_from_slice(digest(tail, secret).get(..head.len()).unwrap_or_default());
    for at in threshold - 2..count {
        let base = (0..threshold - 2).zip(shares.iter().map(|share| share.as_slice()));
        let ends = [(DIGEST_AT, check.as_slice()), (SECRET_AT, secret)];
        let points: Vec<_> = base.chain(ends).collect();
        shares.push(interpolate(&points, at));
    }
    shares
}

/// The secret that `points` share, of which there are as many as the threshold or more; `None` when they do not belong
/// together. All have the same length and different places.
pub(super) fn recover(threshold: u8, points: &[(u8, &[u8])]) -> Option<Value> {
    let (enough, more) = points.split_at_checked(usize::from(threshold))?;
    if threshold < 2 {
        let (_, value) = enough.first()?;
        return more.is_empty().then(|| Zeroizing::new(value.to_vec()));
    }
    let secret = interpolate(enough, SECRET_AT);
    let check = interpolate(enough, DIGEST_AT);
    let (head, tail) = check.split_at_checked(DIGEST_LEN)?;
    let good = constant_time_eq(&digest(tail, &secret), head);
    let agree = |(at, value): &(u8, &[u8])| constant_time_eq(&interpolate(enough, *at), value);
    (good && more.iter().all(agree)).then_some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the definition, and by another way of multiplying: powers of the generator x + 1.
    #[test]
    fn multiplication_is_that_of_the_field() {
        let mut powers = vec![1_u8];
        for _ in 1..255 {
            let last = *powers.last().unwrap();
            let doubled = u16::from(last) << 1;
            let reduced = if doubled & 0x100 == 0 { doubled } else { doubled ^ 0x11b };
            powers.push(reduced as u8 ^ last);
        }
        for (i, a) in powers.iter().enumerate() {
            for (j, b) in powers.iter().enumerate() {
                assert_eq!(multiply(*a, *b), powers[(i + j) % 255]);
            }
            assert_eq!((multiply(*a, 0), multiply(0, *a), multiply(*a, invert(*a))), (0, 0, 1));
        }
        assert_eq!(invert(0), 0);
    }
}
