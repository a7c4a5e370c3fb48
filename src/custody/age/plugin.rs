//! Sealing and opening by a plugin: its state machines `recipient-v1` and `identity-v1`.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::talk::Conversation;
use crate::crypto::{self, CryptoRng};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{KeyId, Stanza};
use crate::keys::{
    AGE, AgeStanza, Binding, Effort, FILE_KEY, Identity, KeyFuture, PluginIdentity,
    PluginRecipient, Recipient, inner, open_age, seal_age,
};
use crate::secret::SecretKey;

/// More of them for one key are refused.
const MAX_STANZAS: usize = 16;

/// What a plugin seals to.
pub(super) struct Public(Half);

enum Half {
    Recipient(PluginRecipient),
    /// An identity whose public half is not known: the plugin finds it.
    Identity(Arc<PluginIdentity>),
}

impl Public {
    pub(super) fn of(recipient: PluginRecipient) -> Self {
        Self(Half::Recipient(recipient))
    }

    pub(super) fn half_of(identity: &Arc<PluginIdentity>) -> Self {
        match identity.recipient() {
            Some(recipient) => Self::of(recipient.clone()),
            None => Self(Half::Identity(Arc::clone(identity))),
        }
    }

    fn plugin(&self) -> &str {
        match &self.0 {
            Half::Recipient(recipient) => recipient.plugin(),
            Half::Identity(identity) => identity.plugin(),
        }
    }

    /// age's stanzas that hold `file_key`, as text.
    async fn wrap_file_key(&self, file_key: &[u8; FILE_KEY]) -> Result<Vec<u8>> {
        let mut plugin = Conversation::start(self.plugin(), "recipient-v1").await?;
        match &self.0 {
            Half::Recipient(recipient) => {
                plugin.send(&["add-recipient", &recipient.to_string()], b"").await?;
            }
            Half::Identity(identity) => {
                plugin.send(&["add-identity", line(identity)?], b"").await?
            }
        }
        plugin.send(&["wrap-file-key"], file_key).await?;
        // Some plugins insist on it. What the labels say is seen in the stanzas' types too.
        plugin.send(&["extension-labels"], b"").await?;
        plugin.send(&["done"], b"").await?;
        let (mut text, mut count) = (Vec::new(), 0);
        plugin
            .listen(|command, stanza| match (command, stanza.args.as_slice()) {
                ("labels", _) => Ok(true),
                ("recipient-stanza", [_, index, rest @ ..]) if index == "0" && !rest.is_empty() => {
                    count += 1;
                    let rest: Vec<_> = rest.iter().map(String::as_str).collect();
                    AgeStanza::print(&rest, &stanza.body, &mut text);
                    Ok(true)
                }
                _ => Ok(false),
            })
            .await?;
        match count {
            1..=MAX_STANZAS => Ok(text),
            _ => Err(plugin.broke(&format!("it made {count} stanzas"))),
        }
    }

    async fn seal(
        &self,
        data_key: &SecretKey,
        binding: &Binding,
        rng: &mut (dyn CryptoRng + Send),
    ) -> Result<Stanza> {
        let file_key = Zeroizing::new(crypto::random::<FILE_KEY>(rng));
        let text = self.wrap_file_key(&file_key).await?;
        seal_age(self.id(), (&file_key, &text), data_key, binding, rng)
    }
}

impl Recipient for Public {
    fn id(&self) -> KeyId {
        match &self.0 {
            Half::Recipient(recipient) => recipient.id(),
            Half::Identity(identity) => identity.own_id(),
        }
    }

    fn is_public(&self) -> bool {
        true
    }

    fn wrap<'a>(
        &'a self,
        data_key: &'a SecretKey,
        binding: &'a Binding,
        rng: &'a mut (dyn CryptoRng + Send),
    ) -> KeyFuture<'a, Stanza> {
        Box::pin(self.seal(data_key, binding, rng))
    }
}

/// What a plugin opens with.
pub(super) struct Private(Arc<PluginIdentity>);

impl Private {
    pub(super) fn new(identity: Arc<PluginIdentity>) -> Self {
        Self(identity)
    }

    async fn open(&self, stanza: &Stanza, binding: &Binding) -> Result<Option<SecretKey>> {
        if stanza.kind() != AGE || !self.0.ids().contains(&stanza.key_id()) {
            return Ok(None);
        }
        let inner = inner(stanza)?;
        let mut plugin = Conversation::start(self.0.plugin(), "identity-v1").await?;
        plugin.send(&["add-identity", line(&self.0)?], b"").await?;
        for one in &inner {
            let args: Vec<_> = ["recipient-stanza", "0"]
                .into_iter()
                .chain(one.args.iter().map(String::as_str))
                .collect();
            plugin.send(&args, &one.body).await?;
        }
        plugin.send(&["done"], b"").await?;
        let mut found: Option<Zeroizing<[u8; FILE_KEY]>> = None;
        plugin
            .listen(|command, stanza| match (command, stanza.args.as_slice()) {
                ("file-key", [_, index]) if index == "0" && found.is_none() => {
                    let key = stanza.body.as_slice().try_into();
                    found = key.ok().map(Zeroizing::new);
                    Ok(found.is_some())
                }
                _ => Ok(false),
            })
            .await?;
        match found {
            Some(file_key) => open_age(stanza, &file_key, binding).map(Some),
            None => {
                let text = format!("the age plugin {:?} does not open it", self.0.plugin());
                Err(plugin.explain(Error::new(ErrorKind::WrongKey, text)))
            }
        }
    }
}

impl Identity for Private {
    fn ids(&self) -> Vec<KeyId> {
        self.0.ids()
    }

    fn unwrap<'a>(
        &'a self,
        stanza: &'a Stanza,
        binding: &'a Binding,
    ) -> KeyFuture<'a, Option<SecretKey>> {
        Box::pin(self.open(stanza, binding))
    }

    fn effort(&self, _: &Stanza) -> Effort {
        Effort::Person
    }
}

fn line(identity: &PluginIdentity) -> Result<&str> {
    std::str::from_utf8(identity.line().expose())
        .map_err(|_| Error::usage("a plugin's identity is not text"))
}
