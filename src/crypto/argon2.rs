//! Argon2id (RFC 9106): a passphrase into a key, at a price.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use zeroize::Zeroize;

use crate::error::{Error, ErrorKind, Result};
use crate::secret::{SecretBytes, SecretKey};

/// What one derivation costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2Cost {
    /// Memory in KiB.
    pub m_kib: u32,
    /// Passes over it.
    pub t: u32,
    /// Lanes.
    pub p: u32,
}

impl Default for Argon2Cost {
    /// RFC 9106's second recommendation: 64 MiB, 3 passes, 4 lanes.
    fn default() -> Self {
        Self { m_kib: 64 << 10, t: 3, p: 4 }
    }
}

impl Argon2Cost {
    /// Refuses costs that are malformed, or that an attacker chose to exhaust this machine.
    ///
    /// # Errors
    /// [`ErrorKind::Tampered`].
    pub fn check(self, max_m_kib: u32) -> Result<()> {
        let Self { m_kib, t, p } = self;
        let fits = (1..=16).contains(&t) && (1..=16).contains(&p) && m_kib >= 8 * p;
        if !fits {
            return Err(Error::tampered(format!(
                "Argon2id costs m={m_kib} KiB t={t} p={p} are outside what any writer uses"
            )));
        }
        if m_kib > max_m_kib {
            return Err(Error::tampered(format!(
                "Argon2id asks for {m_kib} KiB of memory, more than the {max_m_kib} allowed"
            )));
        }
        Ok(())
    }
}

/// The key that `passphrase` and `salt` make. Its memory is wiped afterwards.
///
/// # Errors
/// As [`Argon2Cost::check`] at 4 GiB; [`ErrorKind::Io`] when there is not enough memory.
pub fn derive(passphrase: &SecretBytes, salt: &[u8; 16], params: Argon2Cost) -> Result<SecretKey> {
    params.check(4 << 20)?;
    let bad = |error| Error::tampered(format!("Argon2id: {error}"));
    let costs = Params::new(params.m_kib, params.t, params.p, Some(SecretKey::LEN)).map_err(bad)?;
    let blocks = costs.block_count();
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, costs);
    let mut memory = Wiped(Vec::new());
    memory.0.try_reserve_exact(blocks).map_err(|error| {
        Error::new(ErrorKind::Io, format!("Argon2id needs {} KiB of memory", params.m_kib))
            .because(error)
    })?;
    memory.0.resize(blocks, Block::default());
    SecretKey::try_new(|out| {
        argon2
            .hash_password_into_with_memory(passphrase.expose(), salt, out, &mut memory.0)
            .map_err(bad)
    })
}

/// Argon2's working memory, from which the key could be computed again.
struct Wiped(Vec<Block>);

impl Drop for Wiped {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(Zeroize::zeroize);
    }
}

#[cfg(test)]
mod tests {
    use argon2::{AssociatedData, ParamsBuilder};

    use super::*;

    /// RFC 9106 §5.3, with its secret and associated data.
    #[test]
    fn rfc_9106_argon2id_vector() {
        let params = ParamsBuilder::new()
            .m_cost(32)
            .t_cost(3)
            .p_cost(4)
            .output_len(32)
            .data(AssociatedData::new(&[4; 12]).unwrap())
            .build()
            .unwrap();
        let argon2 =
            Argon2::new_with_secret(&[3; 8], Algorithm::Argon2id, Version::V0x13, params).unwrap();
        let mut tag = [0; 32];
        argon2.hash_password_into(&[1; 32], &[2; 16], &mut tag).unwrap();
        let expected = "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659";
        assert_eq!(data_encoding::HEXLOWER.encode(&tag), expected);
    }

    /// The reference implementation's answer, through Python's argon2-cffi 25.1:
    /// `hash_secret_raw(b"correct horse", b"0123456789abcdef", 3, 64, 4, 32, Type.ID, 19)`.
    #[test]
    fn agrees_with_the_reference_implementation() {
        let passphrase = SecretBytes::new(b"correct horse".to_vec());
        let params = Argon2Cost { m_kib: 64, t: 3, p: 4 };
        let key = derive(&passphrase, b"0123456789abcdef", params).unwrap();
        assert_eq!(
            data_encoding::HEXLOWER.encode(key.expose()),
            "d0266a319d5004c687423de9f9af630e2c0d70ba0b1eee8de6383bdeae80fcce"
        );
    }

    #[test]
    fn hostile_costs_are_refused_before_they_are_paid() {
        let good = Argon2Cost::default();
        assert!(good.check(1 << 20).is_ok());
        for bad in [
            Argon2Cost { m_kib: u32::MAX, ..good },
            Argon2Cost { m_kib: (1 << 20) + 1, ..good },
            Argon2Cost { t: u32::MAX, ..good },
            Argon2Cost { t: 0, ..good },
            Argon2Cost { p: 17, ..good },
            Argon2Cost { p: 0, ..good },
            Argon2Cost { m_kib: 31, p: 4, t: 1 },
        ] {
            assert!(bad.check(1 << 20).is_err(), "{bad:?}");
        }
    }
}
