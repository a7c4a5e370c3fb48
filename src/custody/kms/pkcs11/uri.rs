//! A key of a token by its URI (RFC 7512): `pkcs11:token=…;object=…?module-path=…&pin-source=…`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use crate::error::{Error, Result};

/// What stands in a URI as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same for paths of files.
const ENCODED_IN_PATHS: &AsciiSet = &ENCODED.remove(b'/');

/// The attributes that name a key.
const NAMING: [&str; 4] = ["id", "object", "serial", "token"];

/// A secret key of a token, and the module through which the token is reached.
///
/// Only what stands before the question mark names the key: another host may reach the same key through another module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TokenKey {
    /// Decoded values by attribute, of those that name the key.
    naming: BTreeMap<&'static str, Vec<u8>>,
    /// The module, a library that is loaded into this process.
    pub(super) module: PathBuf,
    /// The file with the user's PIN.
    pub(super) pin: Option<PathBuf>,
}

impl TokenKey {
    /// The part that names the key, with its attributes in one order and spelling.
    pub(super) fn identity(&self) -> String {
        let attribute =
            |(name, value): (&&str, &Vec<u8>)| format!("{name}={}", percent_encode(value, ENCODED));
        self.naming.iter().map(attribute).collect::<Vec<_>>().join(";")
    }

    /// The way to it, in the same manner.
    pub(super) fn way(&self) -> String {
        let path = |path: &Path| {
            percent_encode(path.as_os_str().as_encoded_bytes(), ENCODED_IN_PATHS).to_string()
        };
        let pin = self.pin.iter().map(|pin| format!("&pin-source={}", path(pin)));
        format!("module-path={}", path(&self.module)) + &pin.collect::<String>()
    }

    /// The value of an attribute that names the key.
    pub(super) fn attribute(&self, name: &str) -> Option<&[u8]> {
        self.naming.get(name).map(Vec::as_slice)
    }

    fn read_naming(path: &str) -> Result<BTreeMap<&'static str, Vec<u8>>> {
        let mut naming = BTreeMap::new();
        for attribute in path.split(';').filter(|attribute| !attribute.is_empty()) {
            let (name, value) = pair(attribute)?;
            match NAMING.into_iter().find(|known| *known == name) {
                Some(known) if !value.is_empty() => {
                    if naming.insert(known, value).is_some() {
                        return Err(Error::usage(format!("a pkcs11: URI names {known} twice")));
                    }
                }
                Some(known) => {
                    return Err(Error::usage(format!("{known} of a pkcs11: URI is empty")));
                }
                // All keys that seal are of this type.
                None if name == "type" && value == b"secret-key" => {}
                None => {
                    return Err(Error::usage(format!(
                        "{name:?} does not name a key in a pkcs11: URI"
                    ))
                    .hint("use token, object, serial and id"));
                }
            }
        }
        let has = |name| naming.contains_key(name);
        match (has("token") || has("serial")) && (has("object") || has("id")) {
            true => Ok(naming),
            false => Err(Error::usage("a pkcs11: URI must name a token and a key")
                .hint("use pkcs11:token=TOKEN;object=KEY?module-path=FILE&pin-source=FILE")),
        }
    }
}

impl FromStr for TokenKey {
    type Err = Error;

    /// Reads what follows `pkcs11:`.
    fn from_str(text: &str) -> Result<Self> {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let (mut module, mut pin) = (None, None);
        for attribute in query.split('&').filter(|attribute| !attribute.is_empty()) {
            let (name, value) = pair(attribute)?;
            let file = match name {
                "module-path" => &mut module,
                "pin-source" => &mut pin,
                "pin-value" => {
                    return Err(Error::usage("a PIN never stands in a command or a setting")
                        .hint("put it into a file of mode 0600 and name that with pin-source=FILE; treat the PIN as leaked"));
                }
                _ => {
                    return Err(Error::usage(format!(
                        "{name:?} is not known after the ? of a pkcs11: URI"
                    ))
                    .hint("use module-path and pin-source"));
                }
            };
            if file.replace(absolute(name, value)?).is_some() {
                return Err(Error::usage(format!("a pkcs11: URI has {name} twice")));
            }
        }
        let naming = Self::read_naming(path)?;
        let module = module.ok_or_else(|| {
            Error::usage("a pkcs11: URI must say which module reaches the token")
                .hint("add ?module-path=FILE, for example /usr/lib/softhsm/libsofthsm2.so")
        })?;
        Ok(Self { naming, module, pin })
    }
}

/// A name and its decoded value. Errors repeat no value: it may be a PIN.
fn pair(attribute: &str) -> Result<(&str, Vec<u8>)> {
    let malformed = || Error::usage("an attribute of a pkcs11: URI is not written NAME=VALUE");
    let (name, value) = attribute.split_once('=').ok_or_else(malformed)?;
    let mut codes = value.split('%').skip(1);
    let is_code = |code: &str| {
        code.as_bytes().get(..2).is_some_and(|code| code.iter().all(u8::is_ascii_hexdigit))
    };
    if !codes.all(is_code) {
        return Err(Error::usage(format!(
            "{name} of a pkcs11: URI has a % without two hexadecimal digits"
        ))
        .hint("write %25 for a percent sign"));
    }
    Ok((name, percent_decode_str(value).collect()))
}

/// The path of a file, written as such or as a `file:` URI.
fn absolute(name: &str, value: Vec<u8>) -> Result<PathBuf> {
    let text = String::from_utf8(value)
        .map_err(|_| Error::usage(format!("{name} of a pkcs11: URI is not UTF-8")))?;
    let path = text.strip_prefix("file://").or_else(|| text.strip_prefix("file:"));
    let path = path.unwrap_or(&text);
    match path.starts_with('/') {
        true => Ok(path.into()),
        false => {
            Err(Error::usage(format!("{name} of a pkcs11: URI is not the absolute path of a file")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_name_whatever_way_leads_to_it() {
        let one: TokenKey =
            "token=My%20HSM;object=a%3bb;type=secret-key?module-path=/m.so&pin-source=file:/run/pin"
                .parse()
                .unwrap();
        assert_eq!(one.identity(), "object=a%3Bb;token=My%20HSM");
        assert_eq!(one.way(), "module-path=/m.so&pin-source=/run/pin");
        let again: TokenKey = format!("{}?{}", one.identity(), one.way()).parse().unwrap();
        assert_eq!(again, one);
        let other: TokenKey = "object=a%3Bb;token=My HSM?module-path=/other.so".parse().unwrap();
        assert_eq!(other.identity(), one.identity());
        let by_id: TokenKey = "serial=1;id=%00%ff?module-path=/m.so".parse().unwrap();
        assert_eq!(by_id.identity(), "id=%00%FF;serial=1");
        assert_eq!(by_id.attribute("id"), Some(&[0, 255][..]));
    }

    #[test]
    fn what_names_no_key_is_refused() {
        for bad in [
            "",
            "token=t",
            "object=o?module-path=/m",
            "token=t;object=o",
            "token=t;object=?module-path=/m",
            "token=t;token=u;object=o?module-path=/m",
            "token=t;object=o;slot-id=1?module-path=/m",
            "token=t;object=o;type=private?module-path=/m",
            "token=t;object=o?module-path=m.so",
            "token=t;object=o?module-path=/m&module-path=/n",
            "token=t;object=o?module-path=/m&x-y=1",
            "token=t;object=o?module-path=/m&pin-source=|cmd",
            "token=t;object=%2?module-path=/m",
            "token=t;object=%zz?module-path=/m",
            "token=t;object=o?module-path=/%ff",
            "token;object=o?module-path=/m",
        ] {
            let error = bad.parse::<TokenKey>().unwrap_err();
            assert_eq!(error.kind().exit_code(), 2, "{bad}");
        }
        let error =
            "token=t;object=o?module-path=/m&pin-value=1234".parse::<TokenKey>().unwrap_err();
        assert!(!format!("{error:?}").contains("1234"), "{error:?}");
    }
}
