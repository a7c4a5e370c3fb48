//! Keys that plugins of age understand (SPEC.md §5.1, stanza kind `age`).

#[cfg(feature = "age-plugins")]
mod plugin;
#[cfg(feature = "age-plugins")]
mod talk;

#[cfg(feature = "age-plugins")]
pub use talk::{PluginUi, set_plugin_ui};

use crate::error::Result;
use crate::format::KeyState;
use crate::keys::{KeySet, PluginIdentity, PluginRecipient};

/// Adds a recipient, which seals. Its plugin is not started yet.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) when this build has no plugins.
#[cfg(feature = "age-plugins")]
pub(super) fn add_recipient(recipient: PluginRecipient, keys: &mut KeySet) -> Result<()> {
    keys.add_recipient(std::sync::Arc::new(plugin::Public::of(recipient)), KeyState::Sealing);
    Ok(())
}

/// Adds an identity, which opens, and what it seals to.
///
/// # Errors
/// As [`add_recipient`].
#[cfg(feature = "age-plugins")]
pub(super) fn add_identity(
    identity: PluginIdentity,
    state: KeyState,
    keys: &mut KeySet,
) -> Result<()> {
    let identity = std::sync::Arc::new(identity);
    keys.add_recipient(std::sync::Arc::new(plugin::Public::half_of(&identity)), state);
    keys.add_identity(std::sync::Arc::new(plugin::Private::new(identity)), state);
    Ok(())
}

#[cfg(not(feature = "age-plugins"))]
pub(super) fn add_recipient(recipient: PluginRecipient, _: &mut KeySet) -> Result<()> {
    Err(not_built(recipient.plugin()))
}

#[cfg(not(feature = "age-plugins"))]
pub(super) fn add_identity(identity: PluginIdentity, _: KeyState, _: &mut KeySet) -> Result<()> {
    Err(not_built(identity.plugin()))
}

#[cfg(not(feature = "age-plugins"))]
fn not_built(plugin: &str) -> crate::Error {
    let text = format!("a key of the age plugin {plugin:?}: this build has no plugins");
    crate::Error::unsupported(text).hint("build it with --features age-plugins")
}
