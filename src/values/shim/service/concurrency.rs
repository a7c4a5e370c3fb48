//! Elections and locks, whose keys etcd's server writes itself (`server/etcdserver/api/v3election`, `v3lock`).

use http::{Request, Response, request};
use tonic::body::Body;

use super::super::frames::single;
use super::super::status::Failure;
use super::super::wire::{Singles, put_bytes, put_message, put_number, without};
use super::Shim;

/// Seconds of the lease that etcd's server grants when a campaign brings none (`v3election/election.go`).
const DEFAULT_TTL: i64 = 60;

impl Shim {
    pub(super) async fn concurrency(
        &mut self,
        path: &str,
        head: &request::Parts,
        message: &[u8],
    ) -> Result<Response<Body>, Failure> {
        let service = path.rsplit('/').next().unwrap_or_default();
        let sent = match service {
            "Campaign" => self.campaign(head, message).await?,
            "Proclaim" => {
                let fields = Singles::<2>::read(message)?;
                let leader = fields.message(1)?.unwrap_or_default();
                let key = Singles::<2>::read(leader)?.bytes(2)?;
                self.with_value(message, 2, key, fields.bytes(2)?).await?
            }
            "Resign" => {
                let leader = Singles::<1>::read(message)?.message(1)?.unwrap_or_default();
                self.allow(Singles::<2>::read(leader)?.bytes(2)?)?;
                message.to_vec()
            }
            "Unlock" => {
                self.allow(Singles::<1>::read(message)?.bytes(1)?)?;
                message.to_vec()
            }
            // Leader and Lock have a name, and keys below it.
            _ => {
                self.allow(&[Singles::<1>::read(message)?.bytes(1)?, b"/"].concat())?;
                message.to_vec()
            }
        };
        if service != "Leader" {
            let mut head = head.clone();
            head.headers.remove(http::header::CONTENT_LENGTH);
            return self.send(Request::from_parts(head, single(&sent))).await;
        }
        let answer = self.ask(path, head, &sent).await?;
        let opened = self.shared.opened(|with| with.with_key_values(&answer.message, 2)).await?;
        Ok(answer.with(&opened))
    }

    /// A `CampaignRequest` with its value sealed for the key that the server will write, which is named for its lease.
    async fn campaign(
        &mut self,
        head: &request::Parts,
        message: &[u8],
    ) -> Result<Vec<u8>, Failure> {
        let fields = Singles::<3>::read(message)?;
        let mut lease = fields.number(2)?;
        let mut request = message.to_vec();
        if lease == 0 {
            let mut grant = Vec::new();
            put_number(&mut grant, 1, DEFAULT_TTL);
            let answer = self.ask("/etcdserverpb.Lease/LeaseGrant", head, &grant).await?;
            lease = Singles::<2>::read(&answer.message)?.number(2)?;
            request.clear();
            without(message, &[2], &mut request)?;
            put_number(&mut request, 2, lease);
        }
        let key = [fields.bytes(1)?, format!("/{lease:x}").as_bytes()].concat();
        self.with_value(&request, 3, &key, fields.bytes(3)?).await
    }

    async fn with_value(
        &self,
        message: &[u8],
        number: u64,
        key: &[u8],
        value: &[u8],
    ) -> Result<Vec<u8>, Failure> {
        self.allow(key)?;
        let value = self.shared.opened(|with| with.seal(key, value)).await?;
        let mut out = Vec::new();
        without(message, &[number], &mut out)?;
        if number == 3 {
            put_bytes(&mut out, number, &value);
        } else {
            put_message(&mut out, number, &value);
        }
        Ok(out)
    }

    fn allow(&self, key: &[u8]) -> Result<(), Failure> {
        if self.shared.reserved.holds(key) { Err(Failure::reserved()) } else { Ok(()) }
    }
}
