//! `key generate`

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use strongroom::Result;
use strongroom::crypto::{Kem, system_rng};
use strongroom::custody::keyfile;
use strongroom::keys::{HpkeIdentity, Keyring, SigningKey};
use strongroom::secret::SecretBytes;

use super::Context;
use crate::args::GenerateArgs;

pub(super) fn run(args: &GenerateArgs, context: &Context) -> Result<ExitCode> {
    match args {
        GenerateArgs { recipient: true, .. } => recipient(args, context),
        GenerateArgs { signing: true, .. } => signing(&args.output, context),
        _ => keyring(&args.output, context),
    }
}

fn keyring(path: &Path, context: &Context) -> Result<ExitCode> {
    let keyring = Keyring::generate(keyfile::now(), &mut system_rng())?;
    let id = keyring.list(keyfile::now()).next().map(|(id, ..)| id.to_string());
    keyfile::create(path, &keyring)?;
    let id = id.unwrap_or_default();
    let json = json!({"id": id, "path": path.display().to_string()});
    let text = || format!("{}: master key {id}", path.display());
    let status = context.output.done(ExitCode::SUCCESS, json, text)?;
    context.output.note("next: copy it off this host now; without it there is no restore");
    Ok(status)
}

/// An identity file in age's form.
fn recipient(args: &GenerateArgs, context: &Context) -> Result<ExitCode> {
    let kem = if args.x25519 { Kem::X25519 } else { Kem::XWing };
    let identity = HpkeIdentity::generate(kem, &mut system_rng())?;
    let public = identity.recipient();
    create(&args.output, "public key", &public.to_string(), &identity.print()?)?;
    let (id, path) = (public.id().to_string(), args.output.display().to_string());
    let json = json!({"id": id, "path": path, "recipient": public.to_string()});
    let text = || format!("{path}: identity of key {id}\n{public}");
    let status = context.output.done(ExitCode::SUCCESS, json, text)?;
    context.output.note(
        "next: keep the file off the hosts that back up; there give --master-key recipient:… and --signing-key FILE",
    );
    Ok(status)
}

fn signing(path: &Path, context: &Context) -> Result<ExitCode> {
    let key = SigningKey::generate(&mut system_rng());
    let public = key.public();
    create(path, "public key", &public.to_string(), &key.print()?)?;
    let (id, path) = (public.id().to_string(), path.display().to_string());
    let json = json!({"id": id, "path": path, "signer": public.to_string()});
    let text = || format!("{path}: signing key {id}\n{public}");
    let status = context.output.done(ExitCode::SUCCESS, json, text)?;
    context.output.note(
        "next: give --signing-key on the host that backs up, and put the line srsign1… into the file of trusted signers \
         (--signers) of the hosts that read",
    );
    Ok(status)
}

/// Writes comments and a secret key's line.
pub(super) fn create(path: &Path, what: &str, public: &str, secret: &SecretBytes) -> Result<()> {
    let head = format!("# created: {}\n# {what}: {public}\n", keyfile::now());
    let mut text = Vec::with_capacity(head.len() + secret.expose().len() + 1);
    text.extend_from_slice(head.as_bytes());
    text.extend_from_slice(secret.expose());
    text.push(b'\n');
    keyfile::create_file(path, SecretBytes::new(text).expose())
}
