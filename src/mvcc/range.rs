//! Ranges of keys, as etcd writes them (`KeyRange` in `api/etcdserverpb/rpc.proto`).

/// The end of a range that has none.
#[cfg(feature = "client")]
pub(crate) const NO_END: &[u8] = &[0];

/// The first key after all that begin with `prefix`; a zero byte, etcd's word for no end, when there is none.
pub(crate) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_prefixes() {
        for (prefix, end) in [
            (&b""[..], &b"\0"[..]),
            (b"a", b"b"),
            (b"/registry/", b"/registry0"),
            (b"a\xff", b"b"),
            (b"\xff\xff", b"\0"),
        ] {
            assert_eq!(prefix_end(prefix), end);
        }
    }
}
