//! Keys of objects as they are, beside the paths that `object_store` knows.
//!
//! Anybody who may write to a bucket or directory may choose a key that is no [`Path`]: with an empty part, a `..`, control
//! characters, a slash at its end. Such a key is listed by a stand-in, a path from which the key can be read again.

use data_encoding::HEXLOWER;
use object_store::path::{Path, PathPart};

/// A private character that begins the last part of a stand-in. A key that holds it itself is stood in for, too.
const MARK: char = '\u{f8ff}';

/// The path that is `key`, or stands for it.
pub(super) fn path_of(key: &[u8]) -> Path {
    match std::str::from_utf8(key) {
        Ok(text) if is_path(text) => Path::parse(text).unwrap_or_else(|_| stand_in(key)),
        _ => stand_in(key),
    }
}

/// Whether `key` is the one and only spelling of a path.
pub(super) fn is_path(key: &str) -> bool {
    !key.contains(MARK)
        && key.trim() == key
        && Path::parse(key).is_ok_and(|path| path.as_ref() == key)
}

/// A path that stands for `key`: its folders as far as they are paths, then the rest in hexadecimal.
pub(super) fn stand_in(key: &[u8]) -> Path {
    let mut path = Path::default();
    let mut rest = key;
    while let Some(slash) = rest.iter().position(|byte| *byte == b'/') {
        let (part, after) = rest.split_at(slash);
        let good = std::str::from_utf8(part).ok().filter(|part| !part.contains(MARK));
        let Some(part) = good.and_then(|part| PathPart::parse(part).ok()) else { break };
        if part.as_ref().is_empty() {
            break;
        }
        path = path.join(part);
        rest = after.get(1..).unwrap_or_default();
    }
    let last = format!("{MARK}{}", HEXLOWER.encode(rest));
    match PathPart::parse(&last) {
        Ok(last) => path.join(last),
        Err(_) => path,
    }
}

/// The key that `path` is or stands for.
pub(super) fn key_of(path: &str) -> Vec<u8> {
    let (folders, last) =
        path.rsplit_once('/').map_or(("", path), |(folders, last)| (folders, last));
    let stood_for = last.strip_prefix(MARK).and_then(|hex| HEXLOWER.decode(hex.as_bytes()).ok());
    match stood_for {
        Some(rest) if folders.is_empty() => rest,
        Some(rest) => [folders.as_bytes(), b"/", &rest].concat(),
        None => path.into(),
    }
}

/// The name of the object at `path`, fit to print: of a key that is no path, one that no object of ours has.
pub(super) fn name_of(path: &str) -> String {
    if !path.contains(MARK) {
        return path.to_owned();
    }
    let mut name = String::new();
    for chunk in key_of(path).utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => name.push_str("\\\\"),
                c if c.is_control() => name.extend(c.escape_default()),
                c => name.push(c),
            }
        }
        chunk.invalid().iter().for_each(|byte| name.push_str(&format!("\\x{byte:02x}")));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_no_path_can_be_read_again() {
        for key in [
            &b"snapshots//x"[..],
            b"/x",
            b"//",
            b"snapshots/../x",
            b"snapshots/x/",
            b"a/\x01/b",
            b"a/b\xff/c",
            b"a\x7f",
            "a/\u{f8ff}00".as_bytes(),
            "\u{f8ff}/b".as_bytes(),
        ] {
            let path = path_of(key);
            assert!(path.as_ref().contains(MARK), "{path}");
            assert_eq!(Path::parse(path.as_ref()).unwrap(), path);
            assert_eq!(key_of(path.as_ref()), key);
        }
        assert_eq!(path_of(b"a/b#1"), Path::parse("a/b#1").unwrap());
        assert_eq!(path_of(b"snapshots//x").parts().next().unwrap().as_ref(), "snapshots");
    }

    #[test]
    fn names_can_be_printed() {
        assert_eq!(name_of(path_of(b"a/b").as_ref()), "a/b");
        assert_eq!(name_of(path_of(b"a//b\n\xff").as_ref()), "a//b\\n\\xff");
    }
}
