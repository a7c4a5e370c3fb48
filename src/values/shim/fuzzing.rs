//! Functions that take any bytes and must not panic. For fuzz targets and tests.

mod gogo;

use super::method::Method;
use super::op::Op;
use super::rewrite::{Logs, Rewriter};
use super::scope::{Reserved, Scope};
use super::txn::{Txn, responses};
use super::upstream::Parsed;
use crate::crypto::system_rng;
use crate::format::Time;
use crate::values::{ValueCipher, keyring};

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const ALL: &[(&str, Target)] =
    &[("requests", requests), ("answers", answers), ("two_parsers", two_parsers)];

fn with(work: impl FnOnce(&Rewriter<'_>)) {
    let keys = keyring::generate(Time::from_unix(1_769_860_800), &mut system_rng());
    if let Ok(cipher) = ValueCipher::new(&keys) {
        let (scope, reserved) = (Scope::default(), Reserved::new(b"/strongroom/"));
        let (scope, reserved) = (&scope, &reserved);
        let logs = Logs::None;
        work(&Rewriter { cipher: &cipher, scope, reserved, lenient: None, logs, trouble: None });
    }
}

/// What a client may send.
pub fn requests(data: &[u8]) {
    with(|rewriter| {
        for method in Method::ALL {
            let Ok(parsed) = Parsed::parse(*method, data) else { continue };
            let message = &parsed.message[..];
            // The canonical encoding has no other.
            assert_eq!(
                Parsed::parse(*method, message).ok().map(|one| one.message),
                Some(parsed.message.clone())
            );
            #[cfg(feature = "proxy")]
            assert!(super::touched::About::of(&parsed).is_ok());
            match method {
                Method::Range => drop(Op::range(rewriter, message)),
                Method::DeleteRange => drop(Op::delete(rewriter, message)),
                Method::Put => drop(rewriter.put_request(message)),
                Method::Txn => {
                    if let Ok(txn) = Txn::read(rewriter, message) {
                        let mut compares = Vec::new();
                        txn.compares(&mut compares);
                        compares.iter().for_each(|compare| drop(compare.requests(rewriter)));
                        let _ = (txn.is_ours_to_decide(rewriter), txn.encode(&[], true));
                    }
                }
                _ => {}
            }
        }
    });
}

/// What is let through means the same to etcd's own parser, as it came and as it is sent on.
pub fn two_parsers(data: &[u8]) {
    for method in Method::ALL {
        let Ok(parsed) = Parsed::parse(*method, data) else { continue };
        let as_it_came = gogo::decode(method.schema(), data);
        assert!(as_it_came.is_some(), "{method:?}: etcd refuses what is let through");
        let as_it_is_sent = gogo::decode(method.schema(), &parsed.message);
        assert_eq!(as_it_came, as_it_is_sent, "{method:?}");
    }
}

/// What a server may answer; the first byte says how long the request before it is.
pub fn answers(data: &[u8]) {
    with(|rewriter| {
        let _ = (rewriter.key_value(data), rewriter.watch_response(data), responses(data));
        let _ = rewriter.with_key_values(data, 2);
        let Some((length, rest)) = data.split_first() else { return };
        let Some((request, answer)) = rest.split_at_checked(usize::from(*length)) else { return };
        for op in [Op::range(rewriter, request), Op::read(rewriter, request)] {
            let _ = op.map(|op| op.response(&[answer], rewriter).is_ok());
        }
        let _ = Txn::read(rewriter, request)
            .map(|txn| Op::Txn(Box::new(txn)).response(&[answer], rewriter).is_ok());
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::schema::{Count, Kind, Schema};
    use super::*;
    use crate::protobuf::{put_bytes, put_message, put_number};

    /// Messages as they might be: fields of etcd's numbers, with messages in them.
    fn message() -> impl Strategy<Value = Vec<u8>> {
        let leaf = prop::collection::vec(any::<u8>(), 0..12);
        leaf.prop_recursive(4, 32, 4, |inner| {
            let number = prop_oneof![6 => 1_u64..9, 1 => Just(64), 1 => (1_u64..9).prop_map(|at| at + (1 << 32)),
                1 => (1_u64..9).prop_map(|at| at + (1 << 29))];
            let value = prop_oneof![4 => 0_i64..5, 1 => any::<i64>(), 1 => (0_i64..5).prop_map(|at| at + (1 << 32))];
            prop::collection::vec((number, inner, value, 0..3), 0..4).prop_map(|fields| {
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

    /// The messages that passed by encryption when each parser had its own limits.
    #[test]
    fn what_two_parsers_read_in_two_ways() {
        let (mut hidden, mut twice, mut wide) = (Vec::new(), Vec::new(), Vec::new());
        put_bytes(&mut hidden, 1, b"k");
        put_bytes(&mut hidden, (1 << 32) + 2, b"unencrypted");
        put_bytes(&mut twice, 1, b"/app/k");
        put_bytes(&mut twice, 1, b"/strongroom/keyring");
        put_bytes(&mut wide, 1, b"k");
        put_number(&mut wide, 5, 1 << 32);
        for message in [&hidden, &twice, &wide] {
            let refused = Parsed::parse(Method::Put, message).err().unwrap();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{message:?}");
            let etcd = gogo::decode(Method::Put.schema(), message);
            assert!(etcd.is_some(), "etcd takes it: {message:?}");
        }
        assert!(Parsed::parse(Method::Put, b"").err().unwrap().message().contains("key is not"));
    }

    #[test]
    fn transactions_have_a_depth() {
        let nested = |depth| {
            (0..depth).fold(Vec::new(), |inner: Vec<u8>, _| {
                let (mut txn, mut op) = (Vec::new(), Vec::new());
                put_message(&mut op, 4, &inner);
                put_message(&mut txn, 2, &op);
                txn
            })
        };
        assert!(Parsed::parse(Method::Txn, &nested(100)).is_ok());
        let refused = Parsed::parse(Method::Txn, &nested(5000)).err().unwrap();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }

    /// A message of `schema` with every field: repeated ones three times, and of each `oneof` the one that `chosen` selects.
    fn full(schema: &Schema, chosen: usize, depth: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let one_of = schema.fields.iter().filter(|spec| spec.count == Count::OneOf);
        let chosen_number =
            one_of.clone().nth(chosen % one_of.count().max(1)).map(|one| one.number);
        for spec in schema.fields {
            let times = match spec.count {
                Count::Many if depth > 5 => 0,
                Count::Many => 3,
                Count::OneOf => usize::from(chosen_number == Some(spec.number)),
                Count::One | Count::Key => 1,
            };
            for _ in 0..times {
                match &spec.kind {
                    Kind::Bytes | Kind::Text => put_bytes(&mut out, spec.number, b"/a"),
                    Kind::Message(inner) => {
                        put_message(&mut out, spec.number, &full(inner, chosen, depth + 1));
                    }
                    _ => put_number(&mut out, spec.number, 1),
                }
            }
        }
        out
    }

    /// Random messages rarely repeat a repeated field.
    #[test]
    fn messages_with_all_fields() {
        for method in Method::ALL {
            for chosen in 0..5 {
                let message = full(method.schema(), chosen, 0);
                assert!(Parsed::parse(*method, &message).is_ok(), "{method:?} {chosen}");
                requests(&message);
                two_parsers(&message);
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes(data in prop::collection::vec(any::<u8>(), 0..300)) {
            ALL.iter().for_each(|(_, target)| target(&data));
        }

        #[test]
        fn any_messages(request in message(), answer in message()) {
            requests(&request);
            two_parsers(&request);
            answers(&answer);
            let length = request.len().min(255) as u8;
            answers(&[&[length], &request[..usize::from(length)], &answer].concat());
        }
    }
}
