//! `agent`

use std::process::ExitCode;
use std::sync::Arc;

use strongroom::agent::{self, AgentSettings, listen};
use strongroom::{Error, Result};
use tokio::sync::watch;

use super::Context;
use crate::args::Command;
use crate::{log, service};

pub(super) async fn run(context: &Context) -> Result<ExitCode> {
    let first = read().await?;
    let listener = match &first.listen {
        None => None,
        Some(address) => Some(listen(address).await?),
    };
    log::begin(first.log)?;
    let (sender, changes) = watch::channel(Arc::new(first));
    let reload = async || {
        let again = read().await?;
        if again.cluster() != sender.borrow().cluster() {
            return Err(
                Error::usage("the name of the cluster has changed").hint("restart the agent")
            );
        }
        sender.send_replace(Arc::new(again));
        Ok(())
    };
    service::ready();
    let work = agent::run(changes, listener, context.stop.clone());
    service::serve(context.stop.clone(), reload, work).await?;
    Ok(ExitCode::SUCCESS)
}

/// The settings as they are now, checked.
async fn read() -> Result<AgentSettings> {
    let parsed = service::read()?;
    let Command::Agent(settings) = parsed.cli.command else {
        return Err(Error::usage("this is not the agent"));
    };
    let settings = settings.with_common(parsed.cli.global.common);
    settings.check().await?;
    Ok(settings)
}
