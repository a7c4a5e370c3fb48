//! What plugins of age want to know of the person at the terminal.

use std::io::{BufRead, IsTerminal, Write};
use std::sync::Arc;

use strongroom::custody::{PluginUi, set_plugin_ui};
use strongroom::secret::SecretBytes;
use zeroize::Zeroizing;

use crate::args::Command;
use crate::output::Output;

/// The longest answer.
const MAX_ANSWER: usize = 4096;

/// Lets the terminal answer plugins, where there is one. A service has nobody, and plugins are told so.
pub(crate) fn answer(command: &Command, output: Output) {
    let is_there = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if is_there && !command.reloads() {
        set_plugin_ui(Arc::new(Terminal(output)));
    }
}

struct Terminal(Output);

impl PluginUi for Terminal {
    fn tell(&self, plugin: &str, message: &str) {
        self.0.note(&format!("age-plugin-{plugin}: {message}"));
    }

    fn choose(&self, plugin: &str, message: &str, yes: &str, no: Option<&str>) -> Option<bool> {
        let choices = match no {
            Some(no) => format!("1: {yes}, 2: {no}"),
            None => format!("1: {yes}"),
        };
        let answer = self.read(&format!("age-plugin-{plugin}: {message} [{choices}] "))?;
        match (answer.trim(), no) {
            ("1", _) => Some(true),
            ("2", Some(_)) => Some(false),
            _ => None,
        }
    }

    fn ask(&self, plugin: &str, message: &str, is_secret: bool) -> Option<SecretBytes> {
        let prompt = format!("age-plugin-{plugin}: {message}: ");
        let answer = match is_secret {
            true => Zeroizing::new(rpassword::prompt_password(prompt).ok()?),
            false => Zeroizing::new(self.read(&prompt)?.trim_end().to_owned()),
        };
        Some(SecretBytes::new(answer.as_bytes().to_vec()))
    }
}

impl Terminal {
    fn read(&self, prompt: &str) -> Option<String> {
        std::io::stderr().write_all(prompt.as_bytes()).ok()?;
        let mut answer = String::with_capacity(MAX_ANSWER);
        std::io::stdin().lock().read_line(&mut answer).ok()?;
        Some(answer)
    }
}
