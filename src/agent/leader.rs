//! One agent at a time for a cluster: a key in its etcd that goes when its holder does.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::log::Log;
use super::{AgentOptions, Changes};
use crate::error::{Error, ErrorKind, Result};
use crate::etcd::from_client;

/// How long the key outlives its holder.
const TTL: Duration = Duration::from_secs(15);
/// How often it is renewed, and others look whether it is gone.
const BEAT: Duration = Duration::from_secs(4);
/// One request to etcd.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Becomes the leader whenever it can, until `end` turns true; `leading` tells.
pub(super) async fn lead(
    options: Changes,
    leading: Arc<watch::Sender<bool>>,
    log: Log,
    mut end: watch::Receiver<bool>,
) {
    let mut told = String::new();
    loop {
        let current = options.borrow().clone();
        let term = serve(&current, &leading, &log, &mut end).await;
        if leading.send_replace(false) {
            told.clear();
        }
        if let Err(error) = term {
            // Once, not every four seconds.
            if told != error.to_string() {
                told = error.to_string();
                log.warn("cannot lead", &[("error", told.clone().into())]);
            }
        }
        tokio::select! {
            () = sleep(BEAT) => {}
            () = turns_true(&mut end) => break,
        }
    }
}

/// Waits for the lead, takes it and keeps it until it is lost.
async fn serve(
    options: &AgentOptions,
    leading: &watch::Sender<bool>,
    log: &Log,
    end: &mut watch::Receiver<bool>,
) -> Result<()> {
    let client = within("connect", (options.etcd)()?.connect()).await?;
    let key = format!("/strongroom-agent/{}", options.cluster);
    let term = loop {
        if let Some(term) = Term::begin(&client, &key, &options.name).await? {
            break term;
        }
        tokio::select! {
            () = sleep(BEAT) => {}
            () = turns_true(end) => return Ok(()),
        }
    };
    log.info("leads", &[("cluster", options.cluster.as_str().into())]);
    leading.send_replace(true);
    let kept = tokio::select! {
        kept = term.keep() => kept,
        () = turns_true(end) => {
            // So that the next need not wait until it runs out.
            let _ = timeout(TIMEOUT, client.lease_client().revoke(term.lease)).await;
            return Ok(());
        }
    };
    leading.send_replace(false);
    log.warn("no longer leads", &[("cluster", options.cluster.as_str().into())]);
    kept
}

struct Term {
    client: Client,
    lease: i64,
    /// When the lease was last known to be renewed.
    begun: Instant,
}

impl Term {
    /// Takes the lead, unless somebody has it.
    async fn begin(client: &Client, key: &str, name: &str) -> Result<Option<Self>> {
        let held = within("look for another agent", async {
            client.kv_client().get(key, None).await.map_err(|error| from_client("get", &error))
        });
        if !held.await?.kvs().is_empty() {
            return Ok(None);
        }
        let begun = Instant::now();
        let granted = within("ask for a lease", async {
            let granted = client.lease_client().grant(TTL.as_secs() as i64, None).await;
            granted.map_err(|error| from_client("ask for a lease", &error))
        });
        let lease = granted.await?.id();
        let put = TxnOp::put(key, name, Some(PutOptions::new().with_lease(lease)));
        let txn =
            Txn::new().when([Compare::create_revision(key, CompareOp::Equal, 0)]).and_then([put]);
        let won = within("take the lead", async {
            client.kv_client().txn(txn).await.map_err(|error| from_client("take the lead", &error))
        });
        let won = won.await?.succeeded();
        Ok(won.then(|| Self { client: client.clone(), lease, begun }))
    }

    /// Renews the lease until that fails for so long that another agent may take over soon.
    async fn keep(&self) -> Result<()> {
        let mut renewed = self.begun;
        loop {
            sleep(BEAT).await;
            let asked = Instant::now();
            match within("renew the lease", self.renew()).await {
                Ok(()) => renewed = asked,
                Err(error) if error.kind() == ErrorKind::NotFound => return Err(error),
                // Nothing of ours may run when the next begins.
                Err(error) if renewed.elapsed() + BEAT + TIMEOUT > TTL => return Err(error),
                Err(_) => {}
            }
        }
    }

    async fn renew(&self) -> Result<()> {
        let failed = |error: etcd_client::Error| from_client("renew the lease", &error);
        let mut lease = self.client.lease_client();
        let (mut keeper, mut answers) = lease.keep_alive(self.lease).await.map_err(failed)?;
        keeper.keep_alive().await.map_err(failed)?;
        match answers.message().await.map_err(failed)? {
            Some(answer) if answer.ttl() > 0 => Ok(()),
            _ => Err(Error::new(ErrorKind::NotFound, "the agent's lease has run out")),
        }
    }
}

async fn turns_true(end: &mut watch::Receiver<bool>) {
    let _ = end.wait_for(|end| *end).await;
}

async fn within<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(TIMEOUT, work).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Unreachable, format!("{what}: no answer in {TIMEOUT:?}")))
    })
}
