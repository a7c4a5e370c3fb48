//! Members of the cluster as clients of the proxy should see them.

use crate::protobuf::fields::{member, member_add_response, member_list_response};
use crate::protobuf::{Malformed, Raw, put_message, without};

/// Where members are in the answers: in that to an addition the added one is apart, where the others have them all.
const MEMBERS: [u64; 2] = [member_list_response::MEMBERS, member_add_response::MEMBERS];

/// The answer with `url` as the only client URL of each member that has one: a client that follows etcd's own would
/// leave the proxy, and write unencrypted values (etcd's gRPC proxy does the same, `server/proxy/grpcproxy/cluster.go`).
pub(crate) fn with_client_urls(answer: &[u8], url: &str) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::with_capacity(answer.len());
    let mut fields = Raw::new(answer);
    while let Some((number, field, raw)) = fields.next()? {
        if !MEMBERS.contains(&number) {
            out.extend_from_slice(raw);
            continue;
        }
        let (unchanged, mut changed) = (field.bytes()?, Vec::new());
        without(unchanged, &[member::CLIENT_URLS], &mut changed)?;
        // A member that has not started yet has none.
        if changed.len() < unchanged.len() {
            put_message(&mut changed, member::CLIENT_URLS, url.as_bytes());
        }
        put_message(&mut out, number, &changed);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::put_bytes;

    #[test]
    fn no_url_of_etcds_is_left() {
        let member = |urls: &[&str]| {
            let mut message = Vec::new();
            put_bytes(&mut message, 2, b"m0");
            put_bytes(&mut message, 3, b"http://peer:2380");
            urls.iter().for_each(|url| put_bytes(&mut message, 4, url.as_bytes()));
            message
        };
        let answer = |first: &[&str]| {
            let mut answer = Vec::new();
            put_message(&mut answer, 1, b"");
            put_message(&mut answer, 2, &member(first));
            put_message(&mut answer, 2, &member(&[]));
            answer
        };
        let rewritten =
            with_client_urls(&answer(&["http://a:2379", "http://b:2379"]), "http://p:1");
        assert_eq!(rewritten.unwrap(), answer(&["http://p:1"]));
    }
}
