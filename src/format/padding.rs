//! Lengths of messages, padded so that a listing tells less of what they hold (SPEC.md §4.5).

/// The index's message is a multiple of this many bytes.
pub const INDEX_BLOCK: u64 = 4096;

/// The padded length of a message of `length` bytes (PADMÉ; Nikitin et al., PETS 2019): at most 12 % longer, and about
/// 3 % from 1 MiB up. `None` on overflow.
pub fn padme(length: u64) -> Option<u64> {
    if length < 2 {
        return Some(length);
    }
    let exponent = length.ilog2();
    let significant = exponent.ilog2() + 1;
    let mask = (1u64 << exponent.saturating_sub(significant)) - 1;
    Some(length.checked_add(mask)? & !mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_lengths() {
        // [S4.5.1]; computed by hand from the formula.
        for (length, padded) in [
            (0, 0),
            (1, 1),
            (2, 2),
            (8, 8),
            (9, 10),
            (100, 104),
            (1000, 1024),
            (4097, 4352),
            (1_000_000, 1_015_808),
            (1 << 40, 1 << 40),
            ((1 << 40) + 1, (1 << 40) + (1 << 34)),
        ] {
            assert_eq!(padme(length), Some(padded), "{length}");
        }
        assert_eq!(padme(u64::MAX), None);
    }

    proptest! {
        #[test]
        fn never_shorter_and_at_most_12_percent_longer(length in 0..1u64 << 60) {
            let padded = padme(length).unwrap();
            prop_assert!(padded >= length);
            prop_assert!((padded - length) as f64 <= length as f64 * 0.12);
            prop_assert_eq!(padme(padded), Some(padded), "idempotent");
        }
    }
}
