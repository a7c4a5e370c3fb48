//! Bytes of etcd's for a terminal.

use std::fmt::Write;

/// `bytes` without anything that a terminal would act on, hide or reorder. Different bytes print differently.
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
}
