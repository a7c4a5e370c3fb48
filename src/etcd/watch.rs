//! A watch of all keys, and what is asked beside it: etcd's revision, leases, how far it is compacted, users and roles.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use etcd_client::{Channel, Client, GetOptions, LeaseTimeToLiveOptions};
use futures::{StreamExt, stream};
use http::uri::PathAndQuery;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Status, Streaming};

use super::choose::Choice;
use super::connect::answer;
use super::failure;
use super::keys::is_compacted;
use super::probe::Member;
use super::settings::EtcdSettings;
use crate::error::{Error, ErrorKind, Result};
use crate::protobuf::fields::{auth_status_response, watch, watch_create};
use crate::protobuf::{Fields, put_message, put_number};

/// The longest answer. etcd cuts them at its own limit for requests, 2 MiB, but for those that come before the watch is
/// created.
const MAX_ANSWER: usize = 64 << 20;
/// As key and as end of a range: all keys.
const ALL: &[u8] = &[0];
/// A single key, asked for where only the header or the error of the answer counts.
const ONE: &[u8] = &[0];

/// An open watch of all keys from a revision on.
pub(crate) struct Watch {
    /// Who answers.
    pub(crate) member: Member,
    answers: Streaming<Bytes>,
}

/// Asks one member. Each question has the settings' limit.
#[derive(Clone)]
pub(crate) struct Questions {
    client: Client,
    channel: Channel,
    token: Option<Token>,
    timeout: Duration,
}

type Token = MetadataValue<Ascii>;

impl Choice {
    /// A way to watch the chosen member, and to ask it.
    ///
    /// # Errors
    /// As [`choose_member`](super::choose_member), when the member is gone or refuses the user.
    pub(crate) async fn questions(&self, settings: &EtcdSettings) -> Result<Questions> {
        let target = settings.target(&self.member.endpoint)?;
        let channel = Channel::Tonic(target.channel.connect_lazy());
        let token = token(settings, channel.clone()).await?;
        Ok(Questions { client: self.client(), channel, token, timeout: settings.command_timeout })
    }
}

/// What a login gives, if the settings name a user and etcd asks for one.
async fn token(settings: &EtcdSettings, channel: Channel) -> Result<Option<Token>> {
    let Some((user, password)) = settings.credentials()? else { return Ok(None) };
    let login = async {
        let client = Client::from_channel(channel, None).await?;
        // The library keeps its own copy.
        client.auth_client().authenticate(user, password.as_str().to_owned()).await
    };
    match timeout(settings.command_timeout, login).await {
        Err(_) => Err(failure::timed_out("log in", settings.command_timeout)),
        Ok(Err(error)) if failure::auth_is_off(&error) => Ok(None),
        Ok(Err(error)) => Err(failure::from_client("log in", &error)),
        Ok(Ok(answer)) => {
            let mut token: Token = answer.token().parse().map_err(|_| {
                Error::new(ErrorKind::Protocol, "log in: the token cannot be sent as a header")
            })?;
            token.set_sensitive(true);
            Ok(Some(token))
        }
    }
}

impl Questions {
    /// Watches all keys from main revision `from` on. The watch ends when this member has no leader.
    ///
    /// # Errors
    /// [`Unreachable`](ErrorKind::Unreachable) and [`Denied`](ErrorKind::Denied).
    pub(crate) async fn watch(&self, member: Member, from: i64) -> Result<Watch> {
        let mut create = Vec::new();
        put_message(&mut create, watch_create::KEY, ALL);
        put_message(&mut create, watch_create::RANGE_END, ALL);
        put_number(&mut create, watch_create::START_REVISION, from);
        put_number(&mut create, watch_create::PROGRESS_NOTIFY, 1);
        put_number(&mut create, watch_create::FRAGMENT, 1);
        let mut request = Vec::new();
        put_message(&mut request, watch::CREATE, &create);
        // The stream of requests stays open as long as the answers are wanted.
        let requests = stream::iter([Bytes::from(request)]).chain(stream::pending());
        let mut request = self.request(requests);
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        let mut grpc = self.grpc();
        let opened = async {
            grpc.ready().await.map_err(|error| Status::unavailable(failure::chain(&*error)))?;
            let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
            grpc.streaming(request, path, Raw).await
        };
        let opened = timeout(self.timeout, opened).await;
        let opened = opened.map_err(|_| failure::timed_out("watch", self.timeout))?;
        let answers = opened.map_err(|status| failed("watch", status))?.into_inner();
        Ok(Watch { member, answers })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }

    fn grpc(&self) -> Grpc<Channel> {
        Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// etcd's revision, as all members have agreed on it.
    ///
    /// # Errors
    /// Those of etcd.
    pub(crate) async fn revision(&self) -> Result<i64> {
        // One key that nobody has: a range makes etcd walk the index of its keys.
        let options = GetOptions::new().with_keys_only();
        let mut client = self.client.kv_client();
        let found = answer("revision", self.timeout, client.get(ONE, Some(options))).await?;
        found
            .header()
            .map(etcd_client::ResponseHeader::revision)
            .ok_or_else(|| Error::new(ErrorKind::Protocol, "revision: the answer has no header"))
    }

    /// The seconds for which the lease `id` was granted; `None` if it is gone.
    ///
    /// # Errors
    /// Those of etcd.
    pub(crate) async fn granted_ttl(&self, id: i64) -> Result<Option<i64>> {
        let options = Some(LeaseTimeToLiveOptions::new());
        let mut client = self.client.lease_client();
        let found = answer("lease", self.timeout, client.time_to_live(id, options)).await?;
        Ok((found.ttl() >= 0 && found.granted_ttl() > 0).then(|| found.granted_ttl()))
    }

    /// The main revision up to which the member is compacted, at least `known` and at most `most`: that is what etcd knows,
    /// and not what it has deleted. A watch at a compacted revision would make it read.
    ///
    /// # Errors
    /// Those of etcd.
    pub(crate) async fn compacted(&self, known: i64, most: i64) -> Result<i64> {
        // Most times nothing has changed.
        if self.is_there(known.max(1)).await? {
            return Ok(known);
        }
        let (mut first, mut last) = (known.saturating_add(1), most);
        while first < last {
            let middle = first.saturating_add(last.saturating_sub(first) / 2);
            match self.is_there(middle).await? {
                true => last = middle,
                false => first = middle.saturating_add(1),
            }
        }
        Ok(first)
    }

    /// Whether the keys at main revision `at` can still be read.
    async fn is_there(&self, at: i64) -> Result<bool> {
        let options = GetOptions::new().with_revision(at).with_serializable().with_keys_only();
        let mut client = self.client.kv_client();
        let asked = timeout(self.timeout, client.get(ONE, Some(options))).await;
        match asked.map_err(|_| failure::timed_out("range", self.timeout))? {
            Ok(_) => Ok(true),
            Err(error) if is_compacted(&error) => Ok(false),
            Err(error) => Err(failure::from_client("range", &error)),
        }
    }

    /// Whether authentication is on, and how often users and roles were changed; `None` where etcd does not tell it.
    pub(crate) async fn auth_status(&self) -> Option<(bool, u64)> {
        let mut grpc = self.grpc();
        let asked = async {
            grpc.ready().await.ok()?;
            let path = PathAndQuery::from_static("/etcdserverpb.Auth/AuthStatus");
            let found = grpc.unary(self.request(Bytes::new()), path, Raw).await.ok()?.into_inner();
            let (mut enabled, mut revision) = (false, 0);
            let mut fields = Fields(&found);
            while let Some((number, field)) = fields.next().ok()? {
                match number {
                    auth_status_response::ENABLED => enabled = field.int64().ok()? != 0,
                    auth_status_response::AUTH_REVISION => {
                        revision = field.int64().ok()?.cast_unsigned();
                    }
                    _ => {}
                }
            }
            Some((enabled, revision))
        };
        timeout(self.timeout, asked).await.ok().flatten()
    }
}

impl Watch {
    /// The next answer; `None` when etcd has ended the stream.
    ///
    /// # Errors
    /// [`Unreachable`](ErrorKind::Unreachable) when the connection breaks or the cluster has no leader.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        self.answers.message().await.map_err(|status| failed("watch", status))
    }
}

fn failed(what: &str, status: Status) -> Error {
    if matches!(status.code(), Code::Cancelled | Code::Internal) {
        return Error::new(ErrorKind::Unreachable, format!("{what}: {}", failure::chain(&status)));
    }
    failure::from_client(what, &etcd_client::Error::GRpcStatus(status))
}

/// Whether a watch of this version of etcd can leave deletions out that a compaction overtakes (etcd's #18089, #19179).
pub(crate) fn loses_deletions(version: &str) -> bool {
    let numbers = version.split(['.', '-']).map(|part| part.parse::<u32>().ok());
    match numbers.collect::<Vec<_>>().as_slice() {
        [Some(3), Some(4), Some(patch), ..] => *patch < 36,
        [Some(3), Some(5), Some(patch), ..] => *patch < 18,
        [Some(3), Some(minor), ..] => *minor < 4,
        _ => false,
    }
}

/// Messages as their bytes: what etcd sends is stored as it came.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_lose_deletions() {
        for old in ["3.3.27", "3.4.23", "3.4.35", "3.5.0", "3.5.17", "3.5.17-rc.0"] {
            assert!(loses_deletions(old), "{old}");
        }
        for new in ["3.4.36", "3.5.18", "3.5.30", "3.6.0", "3.7.0-alpha.0", "4.0.0", "", "x"] {
            assert!(!loses_deletions(new), "{new}");
        }
    }
}
