//! Functions that take any bytes and must not panic. For fuzz targets and tests.

use super::op::Op;
use super::rewrite::Rewriter;
use super::scope::{Reserved, Scope};
use super::txn::{Txn, responses};
use crate::crypto::system_rng;
use crate::values::{ValueCipher, keyring};

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const ALL: &[(&str, Target)] = &[("requests", requests), ("answers", answers)];

fn with(work: impl FnOnce(&Rewriter<'_>)) {
    let keys = keyring::generate("2026-01-31T12:00:00Z", &mut system_rng());
    if let Ok(cipher) = ValueCipher::new(&keys) {
        let (scope, reserved) = (Scope::default(), Reserved::new(b"/strongroom/"));
        work(&Rewriter { cipher: &cipher, scope: &scope, reserved: &reserved, trouble: None });
    }
}

/// What a client may send.
pub fn requests(data: &[u8]) {
    with(|rewriter| {
        let _ = (Op::range(rewriter, data), Op::delete(rewriter, data), rewriter.put_request(data));
        let _ = Op::read(rewriter, data, 0);
        if let Ok(txn) = Txn::read(rewriter, data) {
            let mut compares = Vec::new();
            txn.compares(&mut compares);
            compares.iter().for_each(|compare| drop(compare.requests(rewriter)));
            let _ = (txn.is_ours_to_decide(rewriter), txn.encode(&[]));
        }
    });
}

/// What a server may answer; the first byte says how long the request before it is.
pub fn answers(data: &[u8]) {
    with(|rewriter| {
        let _ = (rewriter.key_value(data), rewriter.watch_response(data), responses(data));
        let _ = rewriter.with_key_values(data, 2);
        let Some((length, rest)) = data.split_first() else { return };
        let Some((request, answer)) = rest.split_at_checked(usize::from(*length)) else { return };
        for op in [Op::range(rewriter, request), Op::read(rewriter, request, 0)] {
            let _ = op.map(|op| op.response(&[answer], rewriter).is_ok());
        }
        let _ = Txn::read(rewriter, request)
            .map(|txn| Op::Txn(Box::new(txn)).response(&[answer], rewriter).is_ok());
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::wire::{put_bytes, put_message, put_number};
    use super::*;

    /// Messages as they might be: fields of etcd's numbers, with messages in them.
    fn message() -> impl Strategy<Value = Vec<u8>> {
        let leaf = prop::collection::vec(any::<u8>(), 0..12);
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop::collection::vec((1_u64..9, inner, any::<i64>(), 0..3), 0..4).prop_map(|fields| {
                let mut out = Vec::new();
                for (number, bytes, value, kind) in fields {
                    match kind {
                        0 => put_bytes(&mut out, number, &bytes),
                        1 => put_message(&mut out, number, &bytes),
                        _ => put_number(&mut out, number, value),
                    }
                }
                out
            })
        })
    }

    proptest! {
        #[test]
        fn any_bytes(data in prop::collection::vec(any::<u8>(), 0..300)) {
            ALL.iter().for_each(|(_, target)| target(&data));
        }

        #[test]
        fn any_messages(request in message(), answer in message()) {
            requests(&request);
            answers(&answer);
            let length = request.len().min(255) as u8;
            answers(&[&[length], &request[..usize::from(length)], &answer].concat());
        }
    }
}
