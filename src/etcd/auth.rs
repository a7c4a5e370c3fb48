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
        self.steps().map(|step| self.command(step)).collect()
    }

    fn steps(&self) -> impl Iterator<Item = Step> + use<> {
        let grant = self.prefix.is_some().then_some(Step::GrantPermission);
        [Some(Step::AddRole), grant, Some(Step::AddUser), Some(Step::GrantRole)]
            .into_iter()
            .flatten()
    }

    /// In the words of etcdctl.
    fn command(&self, step: Step) -> Vec<String> {
        let (user, role) = (self.user.as_str(), self.role.as_str());
        let prefix = self.prefix.as_deref().unwrap_or_default();
        let words: &[&str] = match step {
            Step::AddRole => &["role", "add", role],
            Step::GrantPermission => {
                &["role", "grant-permission", "--prefix", role, "readwrite", prefix]
            }
            Step::AddUser => &["user", "add", user, "--no-password"],
            Step::GrantRole => &["user", "grant-role", user, role],
        };
        words.iter().map(|word| (*word).to_owned()).collect()
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
        for step in self.steps() {
            let command = self.command(step);
            let what = command.join(" ");
            let made = timeout(settings.command_timeout, self.take(&mut client, step)).await;
            match made.map_err(|_| super::failure::timed_out(&what, settings.command_timeout))? {
                Ok(()) => done.push(command),
                Err(error) if is_there(&error) => {}
                Err(error) => return Err(from_client(&what, &error)),
            }
        }
        Ok(done)
    }

    async fn take(
        &self,
        client: &mut Client,
        step: Step,
    ) -> std::result::Result<(), etcd_client::Error> {
        let (user, role) = (self.user.as_str(), self.role.as_str());
        match step {
            Step::AddRole => client.role_add(role).await.map(drop),
            Step::GrantPermission => {
                let prefix = self.prefix.as_deref().unwrap_or_default();
                let permission = Permission::read_write(prefix).with_prefix();
                client.role_grant_permission(role, permission).await.map(drop)
            }
            Step::AddUser => {
                let options = UserAddOptions::new().with_no_pwd();
                client.user_add(user, "", Some(options)).await.map(drop)
            }
            Step::GrantRole => client.user_grant_role(user, role).await.map(drop),
        }
    }
}

#[derive(Clone, Copy)]
enum Step {
    AddRole,
    GrantPermission,
    AddUser,
    GrantRole,
}

fn is_there(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status)
        if status.message().contains("already exists") || status.message().contains("already granted"))
}
