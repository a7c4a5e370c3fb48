//! `man`: what clap knows of each command, and the other sections that a manual page has.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use strongroom::{Error, Result};

use super::config::example;
use crate::args::Cli;
use crate::help;
use crate::output::{Output, write_stdout};

const SOURCE: &str = concat!("strongroom ", env!("CARGO_PKG_VERSION"));

pub(super) fn run(dir: Option<&Path>, output: Output) -> Result<ExitCode> {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let Some(dir) = dir else {
        let page = page(&program).map_err(|error| Error::io("manual page", error))?;
        write_stdout(String::from_utf8_lossy(&page).trim_end())?;
        return Ok(ExitCode::SUCCESS);
    };
    if !dir.is_dir() {
        let message = format!("{}: it is not a directory", dir.display());
        return Err(Error::usage(message).hint("make it first, or name another one"));
    }
    write_all(&program, dir).map_err(|error| Error::io(dir, error))?;
    output.note(&format!("manual pages written to man1 and man5 in {}", dir.display()));
    Ok(ExitCode::SUCCESS)
}

fn write_all(program: &Command, dir: &Path) -> io::Result<()> {
    for section in ["man1", "man5"] {
        std::fs::create_dir_all(dir.join(section))?;
    }
    std::fs::write(dir.join("man5/strongroom.toml.5"), settings()?)?;
    write_commands(program, &dir.join("man1"))
}

fn write_commands(command: &Command, dir: &Path) -> io::Result<()> {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        write_commands(inner, dir)?;
    }
    std::fs::write(dir.join(format!("{}.1", name(command))), page(command)?)
}

/// Such as `strongroom-key-list`.
fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

/// The manual page of a command.
fn page(command: &Command) -> io::Result<Vec<u8>> {
    let is_program = command.get_name() == "strongroom";
    let man = Man::new(command.clone()).source(SOURCE).manual("strongroom");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut roff = Roff::new();
    if let Some(more) = command.get_after_long_help() {
        examples_and_notes(&mut roff, &more.to_string());
    }
    roff.control("SH", ["ENVIRONMENT"]);
    for (variable, flag) in variables(command) {
        item(&mut roff, &variable, &format!("the same as {flag}"));
    }
    if is_program {
        items(&mut roff, help::ENVIRONMENT);
    } else {
        paragraph(&mut roff, "strongroom(1) lists the variables that all commands read.");
    }
    roff.control("SH", ["EXIT STATUS"]);
    items(&mut roff, help::EXIT_STATUS);
    roff.control("SH", ["FILES"]);
    let files = help::FILES.iter().take(if is_program { help::FILES.len() } else { 1 });
    for (path, what) in files {
        item(&mut roff, path, what);
    }
    roff.control("SH", ["SEE ALSO"]);
    let also = if is_program { "" } else { "strongroom(1), " };
    roff.text([roman(format!("{also}strongroom.toml(5)"))]);
    roff.to_writer(&mut page)?;
    Ok(page)
}

/// The page of the configuration file.
fn settings() -> io::Result<Vec<u8>> {
    let mut roff = Roff::new();
    roff.control("TH", ["strongroom.toml", "5", "", SOURCE, "strongroom"]);
    roff.control("SH", ["NAME"]);
    roff.text([roman("strongroom.toml - settings of strongroom")]);
    roff.control("SH", ["DESCRIPTION"]);
    for text in help::SETTINGS_FILE.lines() {
        paragraph(&mut roff, text);
    }
    roff.control("SH", ["SETTINGS"]);
    verbatim(&mut roff, example().lines());
    roff.control("SH", ["FILES"]);
    items(&mut roff, help::FILES);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman("strongroom(1), strongroom-config-check(1)")]);
    let mut page = Vec::new();
    roff.to_writer(&mut page)?;
    page.flush()?;
    Ok(page)
}

/// The text after a command's help: examples, if it begins with them, and what else there is to know.
fn examples_and_notes(roff: &mut Roff, more: &str) {
    let (examples, notes) = match more.strip_prefix("Examples:\n") {
        Some(rest) => rest.split_once("\n\n").unwrap_or((rest, "")),
        None => ("", more),
    };
    if !examples.is_empty() {
        roff.control("SH", ["EXAMPLES"]);
        verbatim(roff, examples.lines().map(|line| line.strip_prefix("  ").unwrap_or(line)));
    }
    // The section EXIT STATUS has it.
    let notes = notes.lines().filter(|line| !line.is_empty() && !line.starts_with("Exit status: "));
    for (at, note) in notes.enumerate() {
        if at == 0 {
            roff.control("SH", ["NOTES"]);
        }
        paragraph(roff, note);
    }
}

/// Each variable that a command reads, with the flag that does the same.
fn variables(command: &Command) -> Vec<(String, String)> {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set() && !arg.is_hide_env_set());
    let named = shown.filter_map(|arg| {
        let variable = arg.get_env()?.to_string_lossy().into_owned();
        Some((variable, format!("--{}", arg.get_long()?)))
    });
    named.collect()
}

fn verbatim<'a>(roff: &mut Roff, lines: impl Iterator<Item = &'a str>) {
    roff.control("nf", []);
    for line in lines {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
}

fn paragraph(roff: &mut Roff, text: &str) {
    roff.control("PP", []);
    roff.text([roman(text)]);
}

fn items(roff: &mut Roff, items: &[(&str, &str)]) {
    for (name, what) in items {
        item(roff, name, what);
    }
}

fn item(roff: &mut Roff, name: &str, what: &str) {
    roff.control("TP", []);
    roff.text([bold(name)]);
    roff.text([roman(what)]);
}
