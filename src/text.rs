//! Text from outside, made fit for people: keys and names of etcd's, other programs' messages.

use std::fmt::{self, Write};

/// `bytes` without anything that a terminal would act on, hide or reorder. Different bytes print differently.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\'' | '"' => text.push(c),
                _ => text.extend(c.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// `bytes` as they stand, if they are text without control characters.
#[must_use]
pub fn plain(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains(char::is_control))
}

/// How many there are, with the noun that fits: "1 snapshot", "2 snapshots".
#[must_use]
pub fn counted(count: impl fmt::Display, noun: &str) -> String {
    let count = count.to_string();
    let ending = if count == "1" { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

/// The longest text of another program's that a message repeats, in characters.
#[cfg(any(feature = "etcd", feature = "age-plugins", feature = "kms-v2"))]
const MAX_TEXT: usize = 200;

/// Another program's text made fit to print: no control characters, bounded.
#[cfg(any(feature = "etcd", feature = "age-plugins", feature = "kms-v2"))]
pub(crate) fn clean(text: &str) -> String {
    let mut clean: String = text
        .chars()
        .take(MAX_TEXT)
        .map(|c| if c.is_control() || is_hidden(c) { '?' } else { c })
        .collect();
    if text.chars().nth(MAX_TEXT).is_some() {
        clean.push('…');
    }
    clean
}

/// Text for HTML and XML, whose markup and what XML does not allow replaced.
#[cfg(feature = "posture")]
pub(crate) fn escape_markup(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' | '\t' => safe.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

/// Whether `c` reorders or hides text on a terminal.
#[must_use]
pub const fn is_hidden(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(any(feature = "cli", feature = "s3", feature = "gcs", feature = "azure"))]
/// Levenshtein's edit distance in bytes.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut left = i + 1;
        let mut next = vec![left];
        for (above, y) in row.windows(2).zip(b.bytes()) {
            if let [diagonal, up] = above {
                left = (diagonal + usize::from(x != y)).min(up + 1).min(left + 1);
                next.push(left);
            }
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn different_bytes_print_differently(
            a in prop::collection::vec(prop::sample::select(b"\\xf0ff\xff\x01n\n".to_vec()), 0..6),
            b in prop::collection::vec(prop::sample::select(b"\\xf0ff\xff\x01n\n".to_vec()), 0..6),
        ) {
            prop_assert_eq!(a == b, printable(&a) == printable(&b));
            prop_assert!(!printable(&a).contains(char::is_control));
        }
    }

    #[test]
    fn nouns_fit_their_numbers() {
        assert_eq!([0, 1, 2].map(|n| counted(n, "key")), ["0 keys", "1 key", "2 keys"]);
    }

    #[test]
    fn a_terminal_sees_text_only() {
        for (bytes, text) in [
            (&b"/registry/secrets/kube-system/a:b"[..], "/registry/secrets/kube-system/a:b"),
            ("ключ \"é\" '日本'".as_bytes(), "ключ \"é\" '日本'"),
            (b"\x1b[2J\r\n\t\0\x7f", "\\u{1b}[2J\\r\\n\\t\\0\\u{7f}"),
            ("\u{202e}\u{200b}\u{feff}\u{9b}".as_bytes(), "\\u{202e}\\u{200b}\\u{feff}\\u{9b}"),
            (b"a\xff\xc3b", "a\\xff\\xc3b"),
            (b"\\xff", "\\\\xff"),
        ] {
            assert_eq!(printable(bytes), text);
        }
    }

    #[cfg(any(feature = "cli", feature = "s3", feature = "gcs", feature = "azure"))]
    #[test]
    fn distance_counts_edits() {
        for (a, b, steps) in
            [("", "", 0), ("", "ab", 2), ("kitten", "sitting", 3), ("abc", "abc", 0), ("ab", "", 2)]
        {
            assert_eq!(distance(a, b), steps, "{a} {b}");
        }
    }
}
