//! Members of the cluster as clients of the proxy should see them.

use crate::protobuf::Malformed;
use crate::protobuf::{Raw, put_message, without};

/// Field of `MemberListResponse` and of the answers to changes that holds members.
const MEMBERS: u64 = 2;
/// The same of `MemberAddResponse`, whose field 2 is the added one.
const ADDED_AMONG: u64 = 3;
/// `Member.clientURLs`.
const CLIENT_URLS: u64 = 4;

/// The answer with `url` as the only client URL of each member that has one: a client that follows etcd's own would
/// leave the proxy, and write unencrypted values (etcd's gRPC proxy does the same, `server/proxy/grpcproxy/cluster.go`).
pub(crate) fn with_client_urls(answer: &[u8], url: &str) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::with_capacity(answer.len());
    let mut fields = Raw::new(answer);
    while let Some((number, field, raw)) = fields.next()? {
        if number != MEMBERS && number != ADDED_AMONG {
            out.extend_from_slice(raw);
            continue;
        }
        let (member, mut changed) = (field.bytes()?, Vec::new());
        without(member, &[CLIENT_URLS], &mut changed)?;
        // A member that has not started yet has none.
        if changed.len() < member.len() {
            put_message(&mut changed, CLIENT_URLS, url.as_bytes());
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
            let mut member = Vec::new();
            put_bytes(&mut member, 2, b"m0");
            put_bytes(&mut member, 3, b"http://peer:2380");
            urls.iter().for_each(|url| put_bytes(&mut member, 4, url.as_bytes()));
            member
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
