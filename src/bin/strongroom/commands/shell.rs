//! `completions`

use std::process::ExitCode;

use clap_complete::Shell;
use strongroom::Result;

use crate::complete;
use crate::output::write_stdout;

pub(super) fn completions(shell: Shell) -> Result<ExitCode> {
    let script = complete::script(&shell.to_string())?;
    write_stdout(String::from_utf8_lossy(&script).trim_end())?;
    Ok(ExitCode::SUCCESS)
}
