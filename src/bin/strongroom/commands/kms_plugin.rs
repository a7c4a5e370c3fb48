//! `kms-plugin`

use std::process::ExitCode;

use strongroom::Result;
use strongroom::custody::MasterKeyUris;
use strongroom::kms_plugin::{KmsPlugin, Socket, listen};
use strongroom::settings::{CommonSettings, KmsPluginSettings};

use super::Context;
use crate::args::Command;
use crate::{log, service};

/// The settings, with the master keys that are for this command instead of those of the configuration file.
pub(super) fn given(
    mut settings: KmsPluginSettings,
    explicit_keys: bool,
    common: &CommonSettings,
) -> KmsPluginSettings {
    if explicit_keys {
        settings.master_keys = vec![MasterKeyUris(common.master_keys().cloned().collect())];
    }
    settings
}

pub(super) async fn run(settings: KmsPluginSettings, context: &Context) -> Result<ExitCode> {
    let settings = given(settings, context.explicit_keys, &context.settings);
    settings.check()?;
    log::begin(settings.log)?;
    let began_with = service::rows()?;
    let plugin = KmsPlugin::new(&settings).await?;
    let metrics = match &settings.metrics_listen {
        None => None,
        Some(address) => Some(listen(address).await?),
    };
    let socket = Socket::bind(settings.socket()?).await?;
    let reload = async || reload(&plugin, &began_with).await;
    service::ready();
    let work = plugin.clone().serve(socket, metrics, context.stop.clone());
    service::serve(context.stop.clone(), reload, work).await?;
    Ok(ExitCode::SUCCESS)
}

/// Reads the keyring again if it has changed, and checks the settings as they are now.
async fn reload(plugin: &KmsPlugin, began_with: &[crate::settings::Row]) -> Result<()> {
    plugin.look().await;
    let parsed = service::read()?;
    if let Command::KmsPlugin(settings) = parsed.cli.command {
        given(settings, parsed.explicit_keys, &parsed.cli.global.common).check()?;
    }
    service::report_changes(began_with, &["kms_plugin."])
}
