//! One agent at a time for a cluster: a key in its etcd that goes when its holder does.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::state::NOT_YET;
use super::{AgentSettings, Changes};
use crate::error::{Error, ErrorKind, Result};
use crate::etcd::from_client;

/// How long the key outlives its holder.
const TTL: Duration = Duration::from_secs(15);
/// How often it is renewed, and others look whether it is gone.
const BEAT: Duration = Duration::from_secs(4);
/// One request to etcd.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Becomes the leader whenever it can, until `end` turns true; `leading` tells. `trouble` says why etcd cannot be reached.
pub(super) async fn lead(
    options: Changes,
    leading: Arc<watch::Sender<bool>>,
    trouble: Arc<watch::Sender<Option<String>>>,
    mut end: watch::Receiver<bool>,
) {
    loop {
        let current = options.borrow().clone();
        let term = serve(&current, &leading, &trouble, &mut end).await;
        let led = leading.send_replace(false);
        if let Err(error) = term {
            // Once, not every four seconds.
            let before = trouble.send_replace(Some(error.to_string()));
            if led || before.is_none_or(|before| before != error.to_string()) {
                unreachable(&current, &error);
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
    options: &AgentSettings,
    leading: &watch::Sender<bool>,
    trouble: &watch::Sender<Option<String>>,
    end: &mut watch::Receiver<bool>,
) -> Result<()> {
    let client = within("connect", options.common.etcd()?.connect()).await?;
    let key = format!("/strongroom-agent/{}", options.cluster());
    let term = loop {
        let term = Term::begin(&client, &key, options.name()).await?;
        if trouble.send_replace(None).is_some_and(|before| before != NOT_YET) {
            info!(event = "etcd_reachable", cluster = options.cluster().as_str());
        }
        if let Some(term) = term {
            break term;
        }
        tokio::select! {
            () = sleep(BEAT) => {}
            () = turns_true(end) => return Ok(()),
        }
    };
    info!(event = "leader_elected", cluster = options.cluster().as_str(), agent = options.name());
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
    warn!(event = "leader_lost", cluster = options.cluster().as_str(), agent = options.name());
    kept
}

/// Logs why the agent cannot become or stay the leader.
fn unreachable(options: &AgentSettings, error: &Error) {
    warn!(
        event = "etcd_unreachable",
        cluster = options.cluster().as_str(),
        error = %error,
        kind = error.kind().name(),
        hint = error.hint_text(),
    );
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
