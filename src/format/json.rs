//! The strict JSON of SPEC.md §0.4: one pass that checks, then serde into types.

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::io;
use std::marker::PhantomData;
use std::str::FromStr;

use data_encoding::{BASE64_NOPAD, HEXLOWER};
use serde::de::value::MapAccessDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::text::decode_into;
use crate::error::{Error, Result};
use crate::secret::{SecretBytes, SecretKey};

/// How deep objects and arrays may nest; the outermost counts as 1.
const MAX_DEPTH: u32 = 8;
/// How many keys one object may have: bounds what the duplicate check remembers.
const MAX_KEYS: usize = 256;
/// Every integer is at most this, 2^63 − 1.
pub(crate) const MAX_INTEGER: u64 = i64::MAX as u64;

/// Parses `bytes`, whose length the caller has bounded; `what` names them in errors.
///
/// # Errors
/// Tampered when it breaks a rule or does not fit `T`; unsupported when `requires` names what is
/// not known here.
pub(crate) fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    parse_knowing(what, &[], bytes)
}

/// As [`parse`], where a `requires` list may hold the names in `known`.
pub(crate) fn parse_knowing<T: DeserializeOwned>(
    what: &str,
    known: &[&str],
    bytes: &[u8],
) -> Result<T> {
    read(bytes, |error| Error::tampered(format!("{what}: {error}")), what, known)
}

/// As [`parse`], for JSON that holds keys: an error tells the place and no content.
pub(crate) fn parse_secret<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    let hide = |error: serde_json::Error| {
        let (line, column) = (error.line(), error.column());
        Error::tampered(format!("{what}: not as specified at line {line}, column {column}"))
    };
    read(bytes, hide, what, &[])
}

fn read<T: DeserializeOwned>(
    bytes: &[u8],
    refuse: impl Fn(serde_json::Error) -> Error,
    what: &str,
    known: &[&str],
) -> Result<T> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    Strict { depth: 0 }.deserialize(&mut json).and_then(|()| json.end()).map_err(&refuse)?;
    // Before the types: what is required may change them.
    let Object(Features { requires }) = serde_json::from_slice(bytes).map_err(&refuse)?;
    if let Some(name) = requires.0.into_iter().find(|name| !known.contains(&name.as_str())) {
        let name: String = name.chars().take(64).collect();
        return Err(Error::unsupported(format!("{what}: requires {name:?}, not known here"))
            .hint("use a newer strongroom"));
    }
    serde_json::from_slice(bytes).map(|Object(value)| value).map_err(&refuse)
}

/// Prints without white space. `value` is one of ours, for which serialising cannot fail.
pub(crate) fn print(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::usage(format!("not printable: {error}")))
}

/// As [`print`], into a buffer of the exact size, so that no growth leaves a copy of a key.
pub(crate) fn print_secret(value: &impl Serialize) -> Result<SecretBytes> {
    let failed = |error: serde_json::Error| Error::usage(format!("not printable: {error}"));
    let mut count = Count(0);
    serde_json::to_writer(&mut count, value).map_err(failed)?;
    let mut out = Zeroizing::new(Vec::with_capacity(count.0));
    serde_json::to_writer(&mut *out, value).map_err(failed)?;
    Ok(SecretBytes::new(std::mem::take(&mut *out)))
}

struct Count(usize);

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Deserialize)]
struct Features {
    #[serde(default)]
    requires: Names,
}

/// The different names of a `requires` list; of many only the first few, which are enough to refuse it.
#[derive(Default)]
struct Names(BTreeSet<String>);

/// More than any version knows.
const MAX_FEATURES: usize = 64;

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(json: D) -> std::result::Result<Self, D::Error> {
        json.deserialize_seq(Self::default())
    }
}

impl<'de> Visitor<'de> for Names {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of names")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> std::result::Result<Self, A::Error> {
        while let Some(name) = seq.next_element::<String>()? {
            if self.0.len() < MAX_FEATURES {
                self.0.insert(name);
            }
        }
        Ok(self)
    }
}

/// A struct written as an object. Serde's derive alone would take an array for it, too.
#[derive(Serialize)]
#[serde(transparent)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> std::result::Result<Self, D::Error> {
        struct Map<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Map<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                map: A,
            ) -> std::result::Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        json.deserialize_map(Map(PhantomData))
    }
}

/// Walks any JSON value and keeps nothing of it.
struct Strict {
    depth: u32,
}

impl Strict {
    fn deeper<E: de::Error>(&self) -> std::result::Result<u32, E> {
        let depth = self.depth + 1;
        if depth > MAX_DEPTH { Err(E::custom("nested too deeply")) } else { Ok(depth) }
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> std::result::Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object, array, string, boolean or integer of 0..2^63-1")
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, n: u64) -> std::result::Result<(), E> {
        if n <= MAX_INTEGER { Ok(()) } else { Err(E::custom("an integer above 2^63-1")) }
    }

    fn visit_str<E: de::Error>(self, _: &str) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<(), A::Error> {
        let depth = self.deeper()?;
        while seq.next_element_seed(Strict { depth })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let depth = self.deeper()?;
        let mut seen = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if !seen.insert(key) {
                return Err(A::Error::custom("a key occurs twice in one object"));
            }
            if seen.len() > MAX_KEYS {
                return Err(A::Error::custom("an object has too many keys"));
            }
            map.next_value_seed(Strict { depth })?;
        }
        Ok(())
    }
}

/// A string in JSON that is read by `FromStr` and written by `Display`.
pub(crate) struct Text<T>(pub(crate) T);

impl<T: Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, out: S) -> std::result::Result<S::Ok, S::Error> {
        out.collect_str(&self.0)
    }
}

impl<'de, T: FromStr<Err = Error>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> std::result::Result<Self, D::Error> {
        json.deserialize_str(Read("an identifier", |text: &str| {
            text.parse().map(Self).map_err(|error| error.to_string())
        }))
    }
}

/// Base64 of bytes that are not secret.
pub(crate) struct Base64<T>(pub(crate) T);

impl<T: AsRef<[u8]>> Serialize for Base64<T> {
    fn serialize<S: Serializer>(&self, out: S) -> std::result::Result<S::Ok, S::Error> {
        out.serialize_str(&BASE64_NOPAD.encode(self.0.as_ref()))
    }
}

impl<'de> Deserialize<'de> for Base64<Vec<u8>> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> std::result::Result<Self, D::Error> {
        json.deserialize_str(Read("unpadded base64", |text: &str| {
            BASE64_NOPAD
                .decode(text.as_bytes())
                .map(Self)
                .map_err(|_| "not unpadded base64".to_owned())
        }))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Base64<[u8; N]> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> std::result::Result<Self, D::Error> {
        json.deserialize_str(Read("unpadded base64", |text: &str| {
            let mut bytes = [0; N];
            decode_into(text, &mut bytes)
                .map(|()| Self(bytes))
                .ok_or_else(|| format!("not the base64 of {N} bytes"))
        }))
    }
}

/// A key in base64, decoded and encoded in place. `T` is a [`SecretKey`] or a reference to one.
pub(crate) struct Key<T>(pub(crate) T);

impl Serialize for Key<&SecretKey> {
    fn serialize<S: Serializer>(&self, out: S) -> std::result::Result<S::Ok, S::Error> {
        let text = Zeroizing::new(key_text(self.0));
        out.serialize_str(std::str::from_utf8(&*text).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Key<SecretKey> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> std::result::Result<Self, D::Error> {
        json.deserialize_str(Read("a key in base64", |text: &str| {
            SecretKey::try_new(|key| decode_into(text, key).ok_or(()))
                .map(Self)
                .map_err(|()| "not a key in base64".to_owned())
        }))
    }
}

/// The 43 characters of a key's unpadded base64.
pub(crate) fn key_text(key: &SecretKey) -> [u8; 43] {
    let mut text = [0; 43];
    BASE64_NOPAD.encode_mut(key.expose(), &mut text);
    text
}

/// One of etcd's 64-bit ids: 16 lower-case hex digits.
pub(crate) struct Hex64(pub(crate) u64);

impl Serialize for Hex64 {
    fn serialize<S: Serializer>(&self, out: S) -> std::result::Result<S::Ok, S::Error> {
        out.collect_str(&format_args!("{:016x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Hex64 {
    fn deserialize<D: Deserializer<'de>>(json: D) -> std::result::Result<Self, D::Error> {
        json.deserialize_str(Read("16 hex digits", |text: &str| {
            HEXLOWER
                .decode(text.as_bytes())
                .ok()
                .and_then(|bytes| bytes.try_into().ok())
                .map(|bytes| Self(u64::from_be_bytes(bytes)))
                .ok_or_else(|| "not 16 lower-case hex digits".to_owned())
        }))
    }
}

/// Visits a string and hands it to a function; borrows, so that nothing is copied on the way.
struct Read<F>(&'static str, F);

impl<T, F: Fn(&str) -> std::result::Result<T, String>> Visitor<'_> for Read<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<T, E> {
        (self.1)(text).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[derive(Deserialize)]
    struct Any {}

    fn check(text: &str) -> Result<()> {
        parse::<Any>("json", text.as_bytes()).map(|Any {}| ())
    }

    #[test]
    fn each_rule_of_s0_4_is_enforced() {
        for good in [
            r#"{}"#,
            r#" {"a":9223372036854775807,"b":[true,"x\u00e9"]} "#,
            r#"{"a":{"a":0},"b":{"a":0}}"#,
            r#"{"a":[[[[[[[0]]]]]]]}"#,
            r#"{"requires":[]}"#,
        ] {
            check(good).unwrap();
        }
        for bad in [
            r#"{"a":1,"a":1}"#,              // [S0.4.2] duplicate key
            r#"{"b":[{"a":1,"\u0061":1}]}"#, // duplicate, deeper and escaped
            r#"{"a":null}"#,                 // [S0.4.3] null
            r#"{"a":1.0}"#,                  // [S0.4.1] float
            r#"{"a":1e3}"#,
            r#"{"a":-1}"#,
            r#"{"a":-0}"#,
            r#"{"a":01}"#,
            r#"{"a":9223372036854775808}"#,
            r#"{"a":99999999999999999999}"#,
            r#"{"a":[[[[[[[[0]]]]]]]]}"#, // [S0.4.4] depth 9
            r#"{"a":"\ud800"}"#,          // lone surrogate
            r#"{"a":1,}"#,
            r#"{} {}"#,
            r#"{"a":1"#,
            "\u{feff}{}",
            "",
            "null",
            r#"{"requires":1}"#,
            "[]",
        ] {
            assert_eq!(check(bad).unwrap_err().kind(), ErrorKind::Tampered, "{bad}");
        }
        assert!(parse::<Any>("json", b"{\"a\":\"\xff\"}").is_err());
        let many: Vec<String> = (0..257).map(|n| format!("\"{n}\":0")).collect();
        assert!(check(&format!("{{{}}}", many.join(","))).is_err());
    }

    #[test]
    fn unknown_requirement_is_unsupported_and_named() {
        // [S0.4.6]
        let error = check(r#"{"requires":["dedup2"],"a":1}"#).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("dedup2"), "{error}");
    }

    #[test]
    fn secret_errors_and_buffers_keep_the_content_to_themselves() {
        #[derive(Debug, Deserialize)]
        struct Wrong {
            #[expect(dead_code, reason = "only its absence is looked at")]
            key: u64,
        }
        let error = parse_secret::<Wrong>("index", br#"{"key":"hunter2"}"#).unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        let printed = print_secret(&["abc", "d\""]).unwrap();
        assert_eq!(printed.expose(), br#"["abc","d\""]"#);
    }
}
