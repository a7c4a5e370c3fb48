//! What functions leave on the stack when they return.

use std::hint::black_box;

use zeroize::Zeroize;

/// Words of the stack that are overwritten: more than what an encapsulation of ML-KEM uses.
const WORDS: usize = 8 << 10;

/// Runs `work`, and then overwrites the stack that it used: ciphers and signatures wipe their state where it is in the end,
/// but not where it was moved from.
pub(super) fn leaving_nothing<T>(work: impl FnOnce() -> T) -> T {
    let done = apart(work);
    overwrite();
    done
}

#[inline(never)]
fn apart<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[inline(never)]
fn overwrite() {
    let mut words = [0_u64; WORDS];
    words.zeroize();
    black_box(&words);
}
