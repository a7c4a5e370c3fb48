//! Keys in tokens and hardware security modules, through PKCS#11 (provider `pkcs11`).

mod module;
mod uri;

use std::sync::Arc;

use cryptoki::error::Error as ModuleError;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::types::Ulong;

use self::module::{Module, call, failed};
use self::uri::TokenKey;
use super::KmsUri;
use super::service::{Call, Failure, Service};
use crate::crypto::{self, Label, system_rng};
use crate::error::{Error, ErrorKind, Result};
use crate::keys::kms_key_id;
use crate::secret::{SecretBytes, SecretKey};

/// CKM_AES_GCM, as blobs name it.
const AES_GCM: u32 = 0x1087;
const IV: usize = 12;
const TAG: usize = 16;
/// The length of such a key, as attributes tell it.
const AES_256: Ulong = Ulong::new(32);
const TAG_BITS: Ulong = Ulong::new(128);

/// Takes what follows `pkcs11:` apart: what names the key, and the way to it.
pub(super) fn parse(rest: &str) -> Result<(String, String)> {
    let key: TokenKey = rest.parse()?;
    Ok((key.identity(), key.way()))
}

/// Seals wrapping keys with a secret key of a token.
pub(super) struct Token {
    key: Arc<TokenKey>,
    /// `strongroom/v1/kms` ‖ 00 ‖ key id.
    context: Vec<u8>,
}

impl Token {
    pub(super) fn new(uri: &KmsUri) -> Result<Self> {
        let key = format!("{}?{}", uri.identity(), uri.way()).parse()?;
        let id = kms_key_id(uri.provider().scheme(), uri.identity());
        Ok(Self { key: Arc::new(key), context: crypto::labelled(Label::Kms, &[&id.0]) })
    }

    /// Runs `work` with the key in a session of the token.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Key<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let (key, context) = (self.key.clone(), self.context.clone());
        let found = move |module: &mut Module| {
            let (session, handle) = module.find(&key)?;
            work(&Key { session: &session, handle, context: &context })
        };
        call(&self.key.module, found).await.map_err(Failure::of)
    }

    async fn open(&self, blob: &[u8]) -> Result<SecretBytes, Failure> {
        let (iv, sealed) = parts(blob).map_err(Failure::of)?;
        self.with(move |key| key.open(iv, &sealed)).await
    }
}

impl Service for Token {
    fn status(&self) -> Call<'_, Option<String>> {
        Box::pin(self.with(|key| key.check_sealing().map(|()| None)))
    }

    fn wrap<'a>(&'a self, key: &'a SecretKey) -> Call<'a, Vec<u8>> {
        let wrapping_key = key.duplicate();
        Box::pin(self.with(move |key| key.seal(&wrapping_key)))
    }

    fn unwrap<'a>(&'a self, blob: &'a [u8]) -> Call<'a, SecretBytes> {
        Box::pin(self.open(blob))
    }

    fn version(&self, _: &[u8]) -> Option<String> {
        None
    }
}

/// IV and ciphertext of a blob: mechanism u32 ‖ IV[12] ‖ ciphertext[48].
fn parts(blob: &[u8]) -> Result<([u8; IV], Vec<u8>)> {
    let (mechanism, rest) = blob.split_first_chunk().ok_or_else(malformed)?;
    if u32::from_be_bytes(*mechanism) != AES_GCM {
        return Err(Error::unsupported(
            "it was sealed with a mechanism of PKCS#11 that this version does not know",
        ));
    }
    match rest.split_first_chunk() {
        Some((iv, sealed)) if sealed.len() == SecretKey::LEN + TAG => Ok((*iv, sealed.to_vec())),
        _ => Err(malformed()),
    }
}

fn malformed() -> Error {
    Error::tampered("what the token sealed is malformed")
}

/// A secret key in a session of its token.
struct Key<'a> {
    session: &'a Session,
    handle: ObjectHandle,
    context: &'a [u8],
}

impl Key<'_> {
    /// That it is a key of AES-256 that stays in the token.
    fn check_sealing(&self) -> Result<()> {
        let wanted = [AttributeType::KeyType, AttributeType::ValueLen, AttributeType::Extractable];
        let found = self.session.get_attributes(self.handle, &wanted).map_err(|e| failed(&e))?;
        let is_aes = found.contains(&Attribute::KeyType(KeyType::AES))
            && found.contains(&Attribute::ValueLen(AES_256));
        let stays = found.contains(&Attribute::Extractable(false));
        let text = match (is_aes, stays) {
            (true, true) => return Ok(()),
            (false, _) => "the token's key is not one of AES with 256 bits",
            (true, false) => "the token's key may leave the token (CKA_EXTRACTABLE is not false)",
        };
        Err(Error::new(ErrorKind::WrongKey, text).hint(
            "make one with `pkcs11-tool --login --keygen --key-type AES:32 --sensitive --label NAME`",
        ))
    }

    fn seal(&self, wrapping_key: &SecretKey) -> Result<Vec<u8>> {
        self.check_sealing()?;
        let (iv, sealed) = self.encrypt(wrapping_key).map_err(|error| failed(&error))?;
        if sealed.len() != SecretKey::LEN + TAG {
            let text = format!("the token's AES-GCM makes {} bytes of 32", sealed.len());
            return Err(Error::unsupported(text));
        }
        let opened = self.open(iv, &sealed)?;
        if opened.expose() != wrapping_key.expose() {
            return Err(Error::tampered("the token does not open what it sealed"));
        }
        Ok([&AES_GCM.to_be_bytes()[..], &iv, &sealed].concat())
    }

    fn open(&self, iv: [u8; IV], sealed: &[u8]) -> Result<SecretBytes> {
        self.decrypt(iv, sealed).map_err(|error| self.not_opened(&error))
    }

    /// Why something does not open. Modules tell a wrong tag and a broken token apart in ways of their own, or not at all:
    /// where the key opens other bytes, these are wrong.
    fn not_opened(&self, error: &ModuleError) -> Error {
        let test = SecretKey::new(|_| {});
        let works = self.encrypt(&test).and_then(|(iv, sealed)| self.decrypt(iv, &sealed));
        match works {
            Ok(opened) if opened.expose() == test.expose() => {
                Error::tampered("the token's key does not open it, and opens other bytes")
            }
            _ => failed(error),
        }
    }

    fn encrypt(&self, message: &SecretKey) -> Result<([u8; IV], Vec<u8>), ModuleError> {
        let mut iv = crypto::random(&mut system_rng());
        // Modules that insist on an IV of their own write it here.
        let parameters = GcmParams::new(&mut iv, self.context, TAG_BITS)?;
        let mechanism = Mechanism::AesGcm(parameters);
        let sealed = self.session.encrypt(&mechanism, self.handle, message.expose())?;
        drop(mechanism);
        Ok((iv, sealed))
    }

    fn decrypt(&self, mut iv: [u8; IV], sealed: &[u8]) -> Result<SecretBytes, ModuleError> {
        let parameters = GcmParams::new(&mut iv, self.context, TAG_BITS)?;
        let mechanism = Mechanism::AesGcm(parameters);
        self.session.decrypt(&mechanism, self.handle, sealed).map(SecretBytes::new)
    }
}
