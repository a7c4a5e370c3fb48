//! An etcd that misbehaves by script: `fake_etcd::start(script).await` gives its endpoint.

use std::pin::Pin;
use std::time::Duration;

use etcd_client::proto::*;
use futures::{Stream, StreamExt, stream};
use sha2::{Digest, Sha256};
use tonic::{Request, Response, Status};

/// One step of the snapshot stream.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A message of these bytes that says so many remain.
    Send(Vec<u8>, u64),
    /// The same message for ever.
    Forever(Vec<u8>, u64),
    /// Silence for ever.
    Stall,
    /// The server fails with this message.
    Fail(&'static str),
}

/// What to play.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
    pub(crate) learner: bool,
    pub(crate) version: String,
    pub(crate) errors: Vec<String>,
    /// Member id and alarm (1 NOSPACE, 2 CORRUPT).
    pub(crate) alarms: Vec<(u64, i32)>,
    pub(crate) raft_index: u64,
    pub(crate) raft_applied: u64,
    /// Status never answers.
    pub(crate) silent: bool,
    pub(crate) steps: Vec<Step>,
    /// Hash and compact revision that HashKV answers.
    pub(crate) hash: Option<(u32, i64)>,
}

impl Default for Script {
    /// A sound leader that sends the steps of [`good_steps`] for 100 KiB.
    fn default() -> Self {
        Self {
            cluster_id: 0xc1,
            member_id: 1,
            learner: false,
            version: "3.5.16".into(),
            errors: Vec::new(),
            alarms: Vec::new(),
            raft_index: 100,
            raft_applied: 100,
            silent: false,
            steps: good_steps(&vec![7; 100 * 1024]),
            hash: None,
        }
    }
}

/// What a sound etcd sends for `database`.
pub(crate) fn good_steps(database: &[u8]) -> Vec<Step> {
    let mut remaining = database.len() as u64;
    let mut steps = Vec::new();
    for blob in database.chunks(32 * 1024) {
        remaining -= blob.len() as u64;
        steps.push(Step::Send(blob.to_vec(), remaining));
    }
    steps.push(Step::Send(Sha256::digest(database).to_vec(), 0));
    steps
}

/// Plays `script` on a free port until the test ends.
pub(crate) async fn start(script: Script) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let incoming = stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(connection, _)| connection);
        Some((accepted, listener))
    });
    let server = tonic::transport::Server::builder()
        .add_service(PbMaintenanceServer::new(Fake(script)))
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    endpoint
}

struct Fake(Script);

impl Fake {
    fn header(&self) -> Option<PbResponseHeader> {
        Some(PbResponseHeader {
            cluster_id: self.0.cluster_id,
            member_id: self.0.member_id,
            revision: 42,
            raft_term: 3,
        })
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<PbSnapshotResponse, Status>> + Send>>;

fn message(blob: Vec<u8>, remaining_bytes: u64) -> Result<PbSnapshotResponse, Status> {
    Ok(PbSnapshotResponse { blob, remaining_bytes, ..PbSnapshotResponse::default() })
}

fn play(step: Step) -> Messages {
    match step {
        Step::Send(blob, remaining) => stream::iter([message(blob, remaining)]).boxed(),
        Step::Forever(blob, remaining) => {
            stream::repeat_with(move || message(blob.clone(), remaining)).boxed()
        }
        Step::Stall => stream::pending().boxed(),
        Step::Fail(text) => stream::iter([Err(Status::unavailable(text))]).boxed(),
    }
}

#[tonic::async_trait]
impl PbMaintenanceService for Fake {
    type SnapshotStream = Messages;

    async fn snapshot(&self, _: Request<PbSnapshotRequest>) -> Result<Response<Messages>, Status> {
        Ok(Response::new(stream::iter(self.0.steps.clone()).flat_map(play).boxed()))
    }

    async fn status(
        &self,
        _: Request<PbStatusRequest>,
    ) -> Result<Response<PbStatusResponse>, Status> {
        if self.0.silent {
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
        Ok(Response::new(PbStatusResponse {
            header: self.header(),
            version: self.0.version.clone(),
            leader: 1,
            raft_index: self.0.raft_index,
            raft_applied_index: self.0.raft_applied,
            raft_term: 3,
            errors: self.0.errors.clone(),
            is_learner: self.0.learner,
            db_size: 100 * 1024,
            ..PbStatusResponse::default()
        }))
    }

    async fn alarm(&self, _: Request<PbAlarmRequest>) -> Result<Response<PbAlarmResponse>, Status> {
        let alarms = self
            .0
            .alarms
            .iter()
            .map(|(member_id, alarm)| PbAlarmMember { member_id: *member_id, alarm: *alarm });
        Ok(Response::new(PbAlarmResponse { header: self.header(), alarms: alarms.collect() }))
    }

    async fn defragment(
        &self,
        _: Request<PbDefragmentRequest>,
    ) -> Result<Response<PbDefragmentResponse>, Status> {
        Err(Status::unimplemented("not played"))
    }

    async fn hash(&self, _: Request<PbHashRequest>) -> Result<Response<PbHashResponse>, Status> {
        Err(Status::unimplemented("not played"))
    }

    async fn hash_kv(
        &self,
        _: Request<PbHashKvRequest>,
    ) -> Result<Response<PbHashKvResponse>, Status> {
        let (hash, compact_revision) =
            self.0.hash.ok_or_else(|| Status::unimplemented("not played"))?;
        let header = self.header();
        Ok(Response::new(PbHashKvResponse {
            header,
            hash,
            compact_revision,
            ..PbHashKvResponse::default()
        }))
    }

    async fn move_leader(
        &self,
        _: Request<PbMoveLeaderRequest>,
    ) -> Result<Response<PbMoveLeaderResponse>, Status> {
        Err(Status::unimplemented("not played"))
    }

    async fn downgrade(
        &self,
        _: Request<PbDowngradeRequest>,
    ) -> Result<Response<PbDowngradeResponse>, Status> {
        Err(Status::unimplemented("not played"))
    }
}
