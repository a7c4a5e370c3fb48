//! Primitives: suites, the chunked encryption, key derivation, Argon2id, HPKE, signatures (SPEC.md §1 and §2).
//!
//! Nothing here does I/O; randomness comes in as an argument.

mod argon2;
pub mod chunked;
mod extended;
mod hpke;
mod kdf;
mod labels;
mod residue;
pub mod signature;
#[cfg(feature = "backup")]
pub mod slip39;
mod suite;

pub use self::argon2::{Argon2Cost, derive};
pub use chunked::{
    CHUNK_LEN, Opener, PREFIX_LEN, SEALED_CHUNK_LEN, Sealer, TAG_LEN, open, plain_len, seal,
    sealed_len,
};
pub use extended::{Extended, ExtendedCipher, NONCE_LEN};
pub use hpke::{HpkePrivateKey, HpkePublicKey, Kem};
#[cfg(feature = "age-plugins")]
pub use kdf::extract;
pub use kdf::{constant_time_eq, expand, hmac_sha256, sha256};
pub use labels::{Label, labelled};
pub use rand_core::CryptoRng;
pub use suite::Suite;

/// The operating system's generator. Panics if the system has none, for nothing can be done without.
pub fn system_rng() -> impl CryptoRng {
    rand_core::UnwrapErr(getrandom::SysRng)
}

/// `N` random bytes, for ids, salts and nonces.
pub fn random<const N: usize>(rng: &mut dyn CryptoRng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}
