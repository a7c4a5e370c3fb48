//! `completions` and `man`

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;
use strongroom::{Error, Result};

use crate::args::Cli;
use crate::complete;
use crate::output::Output;

pub(super) fn completions(shell: Shell) -> Result<ExitCode> {
    to_stdout(&complete::script(&shell.to_string())?)
}

pub(super) fn man(dir: Option<&Path>, output: Output) -> Result<ExitCode> {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command())
            .render(&mut page)
            .map_err(|error| Error::io("manual page", error))?;
        return to_stdout(&page);
    };
    if !dir.is_dir() {
        let message = format!("{}: it is not a directory", dir.display());
        return Err(Error::usage(message).hint("make it first, or name another one"));
    }
    clap_mangen::generate_to(Cli::command(), dir).map_err(|error| Error::io(dir, error))?;
    output.note(&format!("manual pages written to {}", dir.display()));
    Ok(ExitCode::SUCCESS)
}

fn to_stdout(bytes: &[u8]) -> Result<ExitCode> {
    match std::io::stdout().lock().write_all(bytes) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::io("standard output", error))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
