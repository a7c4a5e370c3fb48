//! `setup-auth`

use std::process::ExitCode;

use serde_json::json;
use strongroom::Result;
use strongroom::etcd::{AuthFor, AuthPlan};

use super::Context;
use crate::args::SetupAuthArgs;
use crate::output::shell_word;

pub(super) async fn run(args: SetupAuthArgs, context: &Context) -> Result<ExitCode> {
    let values = AuthFor::Values { prefix: args.reserved_prefix };
    let plans =
        [AuthPlan::new(args.backup_user, AuthFor::Backup), AuthPlan::new(args.proxy_user, values)];
    let mut commands = Vec::new();
    for plan in &plans {
        commands.extend(match args.apply {
            true => plan.apply(&context.settings.etcd()?).await?,
            false => plan.commands(),
        });
    }
    let line = |words: &Vec<String>| {
        let words: Vec<_> = words.iter().map(|word| shell_word(word)).collect();
        format!("etcdctl {}", words.join(" "))
    };
    let lines: Vec<_> = commands.iter().map(line).collect();
    let may = |plan: &AuthPlan| match &plan.prefix {
        None => "everything: etcd streams its database to the role root only".to_owned(),
        Some(prefix) => format!("read and write the keys under {prefix}, and nothing else"),
    };
    let users =
        plans.iter().map(|plan| json!({"user": plan.user, "role": plan.role, "may": may(plan)}));
    let users = users.collect::<Vec<_>>();
    let json = json!({"applied": args.apply, "commands": commands, "users": users});
    let text = || {
        let mut text = lines.join("\n");
        if args.apply && lines.is_empty() {
            text += "everything existed already";
        }
        for plan in &plans {
            text += &format!("\n# {} may {}", plan.user, may(plan));
        }
        text
    };
    let status = context.output.done_if(args.apply, ExitCode::SUCCESS, json, text)?;
    context.output.note(match args.apply {
        true => "next: sign client certificates with these common names; `etcdctl auth enable` when all users are there",
        false => "nothing was changed; --apply does it",
    });
    Ok(status)
}
