//! `key vouch`

use std::process::ExitCode;

use strongroom::backup::{Accept, vouch};
use strongroom::keys::KeySet;
use strongroom::{Error, Result};

use super::Context;
use super::key::resealed;
use super::rotate::system_time;
use crate::args::VouchArgs;

pub(super) async fn run(args: VouchArgs, context: &Context) -> Result<ExitCode> {
    let repository = context.repository().await?;
    let mut keys = context.needed_keys(&repository).await?;
    let ids = context.find_all(&repository, &keys, &args.chosen.ids).await?;
    if !ids.is_empty() {
        keys.ask_unsigned();
    }
    let accept = accept(&args, &mut keys)?;
    let (scope, control) = (context.scope(&ids), &context.control);
    let report = vouch(&repository, &keys, scope, accept, control).await?;
    let (json, text, code) = resealed(&report, ["signed"; 2], context);
    context.output.done(code, json, || text)
}

fn accept(args: &VouchArgs, keys: &mut KeySet) -> Result<Accept> {
    match (args.before, args.signer) {
        (Some(time), Some(id)) if keys.revoke(id) => Ok(Accept::Before(system_time(time))),
        (_, Some(id)) => Err(Error::usage(format!("key {id} is not a trusted signer"))
            .hint("keep its line in the --signers file until this is done")),
        _ if args.accept_untrusted => Ok(Accept::Untrusted),
        _ => Ok(Accept::Counting),
    }
}
