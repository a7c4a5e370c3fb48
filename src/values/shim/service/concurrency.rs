//! Elections and locks, whose keys etcd's server writes itself (`server/etcdserver/api/v3election`, `v3lock`).

use http::HeaderMap;

use super::super::method::Method;
use super::super::rewrite::lease_name;
use super::super::status::Failure;
use super::super::upstream::{Answer, Parsed, Shim};
use crate::mvcc::KeyValue;
use crate::protobuf::fields::{
    campaign, leader_key, leader_response, lease_grant, lease_grant_response, proclaim, range,
    range_response, unlock,
};
use crate::protobuf::{Singles, put_bytes, put_number, without};

/// Seconds of the lease that etcd's server grants when a campaign brings none (`v3election/election.go`).
const DEFAULT_TTL: i64 = 60;

impl Shim {
    pub(super) async fn concurrency(
        &mut self,
        headers: &HeaderMap,
        request: &Parsed,
    ) -> Result<Answer, Failure> {
        let (shared, message) = (self.shared.clone(), &request.message[..]);
        let due = shared.namespace.lands_by();
        let sent = match request.method {
            Method::Campaign => self.campaign(headers, message).await?,
            Method::Proclaim => {
                let fields = Singles::<2>::read(message)?;
                let leader = fields.bytes(proclaim::LEADER)?;
                let key = Singles::<2>::read(leader)?.bytes(leader_key::KEY)?;
                let value = fields.bytes(proclaim::VALUE)?;
                self.with_value(message, proclaim::VALUE, key, value).await?
            }
            Method::Resign => {
                let leader = Singles::<1>::read(message)?.bytes(proclaim::LEADER)?;
                let key = Singles::<2>::read(leader)?.bytes(leader_key::KEY)?;
                shared.opened(|with| with.allow(key)).await?;
                message.to_vec()
            }
            Method::Unlock => {
                let key = Singles::<1>::read(message)?.bytes(unlock::KEY)?;
                shared.opened(|with| with.allow(key)).await?;
                message.to_vec()
            }
            _ => {
                shared.opened(|with| with.allow_below(message)).await?;
                message.to_vec()
            }
        };
        let answer = match request.method {
            Method::Proclaim => self.write(request.method, headers, &sent, Some(due)).await?,
            method => self.ask(method, headers, &sent).await?,
        };
        if request.method != Method::Leader {
            return Ok(answer);
        }
        let message = &answer.message.clone();
        self.rewritten(answer, false, |with| with.with_key_values(message, leader_response::KV))
            .await
    }

    /// A `CampaignRequest` with its value sealed for the key that the server will write, which is named for its lease.
    async fn campaign(&mut self, headers: &HeaderMap, message: &[u8]) -> Result<Vec<u8>, Failure> {
        let fields = Singles::<3>::read(message)?;
        let mut lease = fields.number(campaign::LEASE)?;
        let mut request = message.to_vec();
        if lease == 0 {
            let mut grant = Vec::new();
            put_number(&mut grant, lease_grant::TTL, DEFAULT_TTL);
            let answer = self.ask(Method::LeaseGrant, headers, &grant).await?;
            lease = Singles::<2>::read(&answer.message)?.number(lease_grant_response::ID)?;
            request.clear();
            without(message, &[campaign::LEASE], &mut request)?;
            put_number(&mut request, campaign::LEASE, lease);
        }
        let key = [fields.bytes(campaign::NAME)?, b"/", lease_name(lease).as_bytes()].concat();
        let value = fields.bytes(campaign::VALUE)?;
        let Some(stored) = self.stored(headers, &key, value).await? else {
            return self.with_value(&request, campaign::VALUE, &key, value).await;
        };
        let mut out = Vec::new();
        without(&request, &[campaign::VALUE], &mut out)?;
        put_bytes(&mut out, campaign::VALUE, &stored);
        Ok(out)
    }

    /// What etcd holds under `key`, if that is an encryption of `value`. To a candidate that campaigns again etcd's
    /// server writes its value again when it is another one, and two encryptions of a value are never equal.
    async fn stored(
        &mut self,
        headers: &HeaderMap,
        key: &[u8],
        value: &[u8],
    ) -> Result<Option<Vec<u8>>, Failure> {
        let shared = self.shared.clone();
        shared.opened(|with| with.allow(key)).await?;
        let mut request = Vec::new();
        put_bytes(&mut request, range::KEY, key);
        // A client that may not read campaigns all the same.
        let Ok(answer) = self.ask(Method::Range, headers, &request).await else {
            return Ok(None);
        };
        let kv = Singles::<2>::read(&answer.message)?.message(range_response::KVS)?;
        let Some(kv) = kv else { return Ok(None) };
        let kv = KeyValue::parse_strict(kv)?;
        let same = shared.opened(|with| with.open(&kv)).await.is_ok_and(|found| found == value);
        Ok(same.then(|| kv.value.to_vec()))
    }

    async fn with_value(
        &self,
        message: &[u8],
        number: u64,
        key: &[u8],
        value: &[u8],
    ) -> Result<Vec<u8>, Failure> {
        let seal =
            |with: &super::Rewriter<'_>| with.allow(key).and_then(|()| with.seal(key, value));
        let value = self.shared.opened(seal).await?;
        let mut out = Vec::new();
        without(message, &[number], &mut out)?;
        put_bytes(&mut out, number, &value);
        Ok(out)
    }
}
