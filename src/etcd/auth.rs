//! etcd's users and roles for strongroom (`server/auth/store.go`): the least that each job needs.

use etcd_client::{Client, Permission, UserAddOptions};
use tokio::time::timeout;

use super::failure::from_client;
use super::settings::EtcdSettings;
use crate::error::Result;

/// What a user is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthFor {
    /// Backups: etcd gives its database only to a user with the role `root`.
    Backup,
    /// The proxy, or a program that encrypts by itself: its value keys, under this prefix.
    Values {
        /// The reserved prefix.
        prefix: String,
    },
}

/// One user without a password, which only a client certificate of that common name can be, and its role.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuthPlan {
    /// The user: the certificate's common name.
    pub user: String,
    /// The role it gets.
    pub role: String,
    /// What the role may read and write, all keys below a prefix; nothing for `root`, which may do everything.
    pub prefix: Option<String>,
}

impl AuthPlan {
    /// What `user` needs.
    pub fn new(user: String, purpose: AuthFor) -> Self {
        match purpose {
            AuthFor::Backup => Self { user, role: "root".into(), prefix: None },
            AuthFor::Values { prefix } => Self { role: user.clone(), user, prefix: Some(prefix) },
        }
    }

    /// The commands of etcdctl that come to the same, in order.
    pub fn commands(&self) -> Vec<Vec<String>> {
        let line = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let Self { user, role, prefix } = self;
        let mut lines = vec![line(&["role", "add", role])];
        if let Some(prefix) = prefix {
            let grant = ["role", "grant-permission", "--prefix", role, "readwrite", prefix];
            lines.push(line(&grant));
        }
        lines.push(line(&["user", "add", user, "--no-password"]));
        lines.push(line(&["user", "grant-role", user, role]));
        lines
    }

    /// Makes user and role in etcd, or what is missing of them; what etcd took, in the words of etcdctl. It takes a
    /// grant that it has already.
    ///
    /// # Errors
    /// [`Denied`](crate::ErrorKind::Denied) unless the settings' user has the role `root`;
    /// [`Unreachable`](crate::ErrorKind::Unreachable).
    pub async fn apply(&self, settings: &EtcdSettings) -> Result<Vec<Vec<String>>> {
        let mut client = settings.connect().await?;
        let mut done = Vec::new();
        for command in self.commands() {
            let what = command.join(" ");
            let made = timeout(settings.command_timeout, self.step(&mut client, &command)).await;
            match made.map_err(|_| super::failure::timed_out(&what, settings.command_timeout))? {
                Ok(()) => done.push(command),
                Err(error) if is_there(&error) => {}
                Err(error) => return Err(from_client(&what, &error)),
            }
        }
        Ok(done)
    }

    async fn step(
        &self,
        client: &mut Client,
        command: &[String],
    ) -> std::result::Result<(), etcd_client::Error> {
        let Self { user, role, prefix } = self;
        match command.get(1).map(String::as_str) {
            Some("grant-permission") => {
                let prefix = prefix.as_deref().unwrap_or_default();
                let permission = Permission::read_write(prefix).with_prefix();
                client.role_grant_permission(role.as_str(), permission).await.map(drop)
            }
            Some("grant-role") => {
                client.user_grant_role(user.as_str(), role.as_str()).await.map(drop)
            }
            _ if command.first().is_some_and(|kind| kind == "role") => {
                client.role_add(role.as_str()).await.map(drop)
            }
            _ => {
                let options = UserAddOptions::new().with_no_pwd();
                client.user_add(user.as_str(), "", Some(options)).await.map(drop)
            }
        }
    }
}

fn is_there(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status)
        if status.message().contains("already exists") || status.message().contains("already granted"))
}
