//! The conversation with a plugin of age: a process, stanzas over its standard input and output.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::{env, fs};

use data_encoding::BASE64_NOPAD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use crate::custody::access::check_authentic;
use crate::error::{Error, ErrorKind, Result};
use crate::keys::{AgeReader, AgeStanza, MAX_LINE};
use crate::secret::SecretBytes;
use crate::text::clean;

/// Variables that plugins get, beside PATH; all others stay here. Plugins have settings of their own in AGE_….
const VARIABLES: [&str; 7] =
    ["HOME", "LANG", "TERM", "DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "GPG_TTY"];
const PREFIXES: [&str; 2] = ["AGE_", "LC_"];
/// How long a plugin may take where nobody is asked, and where a person is.
const ALONE: Duration = Duration::from_secs(30);
const WITH_A_PERSON: Duration = Duration::from_secs(300);
/// After this time without a line, a message says that the plugin is still working or waiting for a touch.
const STILL: Duration = Duration::from_secs(10);
/// More stanzas in one conversation are refused.
const MAX_STANZAS: usize = 1000;

/// A person who answers plugins. Its calls may block.
pub trait PluginUi: Send + Sync {
    /// Shows a message of `plugin`.
    fn tell(&self, plugin: &str, message: &str);

    /// Asks to choose one of two; none if there is no answer.
    fn choose(&self, plugin: &str, message: &str, yes: &str, no: Option<&str>) -> Option<bool>;

    /// Asks for a text, such as a PIN; none if there is no answer.
    fn ask(&self, plugin: &str, message: &str, is_secret: bool) -> Option<SecretBytes>;
}

static UI: OnceLock<Arc<dyn PluginUi>> = OnceLock::new();

/// Lets `ui` answer the plugins of this process. Without it, as in a service, every question is answered by a failure. The
/// first one counts.
pub fn set_plugin_ui(ui: Arc<dyn PluginUi>) {
    let _ = UI.set(ui);
}

/// A running plugin; it is killed when this is dropped.
pub(super) struct Conversation {
    plugin: String,
    _process: Child,
    to: ChildStdin,
    from: Lines,
    until: Instant,
    /// It wanted to ask a person, and there is none.
    asked_in_vain: bool,
}

impl Conversation {
    pub(super) async fn start(plugin: &str, machine: &str) -> Result<Self> {
        if Handle::try_current().is_err() {
            return Err(Error::unsupported("a key of an age plugin cannot be used here"));
        }
        let path = find(plugin)?;
        let variables = env::vars_os().filter(|(name, _)| is_passed(name));
        let errors = if UI.get().is_some() { Stdio::inherit() } else { Stdio::null() };
        let started = Command::new(&path)
            .arg(format!("--age-plugin={machine}"))
            .env_clear()
            .envs(variables)
            .env("PATH", search_path(&env::var_os("PATH").unwrap_or_default()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .kill_on_drop(true)
            .spawn();
        let mut process = started.map_err(|error| Error::io(&path, error))?;
        let (Some(to), Some(from)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(Error::new(ErrorKind::Internal, "a plugin without pipes"));
        };
        let limit = if UI.get().is_some() { WITH_A_PERSON } else { ALONE };
        Ok(Self {
            plugin: plugin.to_owned(),
            _process: process,
            to,
            from: Lines::new(from),
            until: Instant::now() + limit,
            asked_in_vain: false,
        })
    }

    /// Sends a command.
    pub(super) async fn send(&mut self, args: &[&str], body: &[u8]) -> Result<()> {
        let mut text = Zeroizing::new(Vec::with_capacity(32 << 10));
        AgeStanza::print(args, body, &mut text);
        match timeout_at(self.until, self.to.write_all(&text)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.broke("it ended")),
            Err(_) => Err(self.slow()),
        }
    }

    /// Answers the plugin's commands until it is done. `take` gives whether it took a command that is not for a person; of
    /// those that the protocol knows it has to take each.
    pub(super) async fn listen(
        &mut self,
        mut take: impl FnMut(&str, &AgeStanza) -> Result<bool>,
    ) -> Result<()> {
        for _ in 0..MAX_STANZAS {
            let stanza = self.next().await?;
            let command = stanza.args.first().map_or("", String::as_str);
            match command {
                "done" => return Ok(()),
                "error" => {
                    self.send(&["ok"], b"").await?;
                    return Err(self.failed(&stanza));
                }
                "msg" | "confirm" | "request-public" | "request-secret" => {
                    self.answer(&stanza).await?;
                }
                "recipient-stanza" | "labels" | "file-key" => match take(command, &stanza)? {
                    true => self.send(&["ok"], b"").await?,
                    false => return Err(self.broke(&format!("its {command} is malformed"))),
                },
                _ => self.send(&["unsupported"], b"").await?,
            }
        }
        Err(self.broke("it does not come to an end"))
    }

    async fn next(&mut self) -> Result<AgeStanza> {
        let mut reader = AgeReader::default();
        loop {
            let now = Instant::now();
            if now >= self.until {
                return Err(self.slow());
            }
            let line = match timeout_at(self.until.min(now + STILL), self.from.line()).await {
                Ok(line) => line,
                Err(_) => {
                    if let Some(ui) = UI.get() {
                        ui.tell(&self.plugin, "still waiting");
                    }
                    continue;
                }
            };
            let line = line.ok_or_else(|| self.broke("it ended, or its line is too long"))?;
            let stanza =
                reader.line(&line).map_err(|_| self.broke("it does not speak age's protocol"))?;
            if let Some(stanza) = stanza {
                return Ok(stanza);
            }
        }
    }

    /// Passes a question on to a person.
    async fn answer(&mut self, stanza: &AgeStanza) -> Result<()> {
        let Some(ui) = UI.get().cloned() else {
            self.asked_in_vain |= stanza.args.first().is_some_and(|command| command != "msg");
            return self.send(&["fail"], b"").await;
        };
        let plugin = self.plugin.clone();
        let message = clean(&String::from_utf8_lossy(&stanza.body));
        let args = stanza.args.clone();
        let args = args.iter().map(String::as_str).collect::<Vec<_>>();
        let word = |text: &str| {
            let decoded = BASE64_NOPAD.decode(text.as_bytes()).ok()?;
            Some(clean(&String::from_utf8_lossy(&decoded)))
        };
        match args.as_slice() {
            ["msg"] => {
                self.person(move || ui.tell(&plugin, &message)).await?;
                self.send(&["ok"], b"").await
            }
            ["confirm", choices @ ..] => {
                let words: Option<Vec<_>> = choices.iter().map(|text| word(text)).collect();
                let (yes, no) = match words.as_deref() {
                    Some([yes]) => (yes.clone(), None),
                    Some([yes, no]) => (yes.clone(), Some(no.clone())),
                    _ => return Err(self.broke("its confirm is malformed")),
                };
                let choose = move || ui.choose(&plugin, &message, &yes, no.as_deref());
                match self.person(choose).await? {
                    Some(true) => self.send(&["ok", "yes"], b"").await,
                    Some(false) => self.send(&["ok", "no"], b"").await,
                    None => self.send(&["fail"], b"").await,
                }
            }
            [command @ ("request-public" | "request-secret")] => {
                let is_secret = *command == "request-secret";
                match self.person(move || ui.ask(&plugin, &message, is_secret)).await? {
                    Some(text) => self.send(&["ok"], text.expose()).await,
                    None => self.send(&["fail"], b"").await,
                }
            }
            _ => Err(self.broke("its question is malformed")),
        }
    }

    /// The outcome of `work` with a person, whose time is not the plugin's.
    async fn person<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let since = Instant::now();
        let done = tokio::task::spawn_blocking(work).await;
        self.until += since.elapsed();
        done.map_err(|error| {
            Error::new(ErrorKind::Internal, "a question was not asked").because(error)
        })
    }

    /// What the plugin says went wrong.
    fn failed(&self, stanza: &AgeStanza) -> Error {
        let says = clean(&String::from_utf8_lossy(&stanza.body));
        // Many plugins say this of a wrong passphrase too.
        let kind = match stanza.args.get(1).map(String::as_str) {
            Some("stanza") => ErrorKind::WrongKey,
            _ => ErrorKind::Unreachable,
        };
        self.explain(Error::new(kind, format!("the age plugin {:?}: {says}", self.plugin)))
    }

    /// `error`, with what helps if the plugin wanted to ask somebody.
    pub(super) fn explain(&self, error: Error) -> Error {
        match self.asked_in_vain {
            true => error.hint(
                "the plugin asks a person, and nobody is there: run the command on a terminal",
            ),
            false => error,
        }
    }

    pub(super) fn broke(&self, how: &str) -> Error {
        let text = format!("the age plugin {:?} broke off: {how}", self.plugin);
        self.explain(Error::new(ErrorKind::Unreachable, text))
    }

    fn slow(&self) -> Error {
        self.broke("it does not answer")
    }
}

/// Whether plugins get the variable of this name.
fn is_passed(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    VARIABLES.contains(&&*name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The absolute directories of `path`, for the plugin's own programs: in a relative one anybody may have put one.
fn search_path(path: &OsStr) -> OsString {
    env::join_paths(env::split_paths(path).filter(|dir| dir.is_absolute())).unwrap_or_default()
}

/// The program of a plugin, in the absolute directories of PATH.
fn find(plugin: &str) -> Result<PathBuf> {
    let program = format!("age-plugin-{plugin}");
    let path = env::var_os("PATH").unwrap_or_default();
    let candidates =
        env::split_paths(&path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(&program));
    for path in candidates {
        if let Ok(meta) = fs::metadata(&path)
            && meta.is_file()
        {
            check_authentic(&path, &meta)?;
            return Ok(path);
        }
    }
    let text = format!("{program} is not in a directory of PATH");
    Err(Error::new(ErrorKind::Unreachable, text)
        .hint("install the plugin: it is a program of its own"))
}

/// Lines of a plugin, in a buffer that is wiped.
struct Lines {
    from: ChildStdout,
    buffer: Zeroizing<Vec<u8>>,
    /// How much of the buffer was read and is not given out yet.
    filled: usize,
}

impl Lines {
    fn new(from: ChildStdout) -> Self {
        Self { from, buffer: Zeroizing::new(vec![0; MAX_LINE]), filled: 0 }
    }

    /// The next line; none at the end, and for one that is too long. May be dropped and called again.
    async fn line(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        loop {
            let read = self.buffer.get(..self.filled)?;
            if let Some(at) = read.iter().position(|byte| *byte == b'\n') {
                let line = Zeroizing::new(read.get(..at)?.to_vec());
                self.buffer.copy_within(at + 1..self.filled, 0);
                self.filled -= at + 1;
                return Some(line);
            }
            let room = self.buffer.get_mut(self.filled..).filter(|room| !room.is_empty())?;
            match self.from.read(room).await {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.filled += count,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_get_their_own_variables_and_absolute_directories() {
        for passed in ["AGE_PASSPHRASE", "LC_ALL", "HOME"] {
            assert!(is_passed(passed.as_ref()), "{passed}");
        }
        for kept in ["AGENT_TOKEN", "AGE", "STRONGROOM_MASTER_KEY", "PATH"] {
            assert!(!is_passed(kept.as_ref()), "{kept}");
        }
        assert_eq!(search_path("relative:/bin::./x:/usr/bin".as_ref()), "/bin:/usr/bin");
        assert_eq!(search_path("relative".as_ref()), "");
    }

    /// Each line comes soon, and the end does not.
    #[tokio::test]
    async fn a_plugin_that_talks_on_is_limited() {
        let mut process = Command::new("/bin/sh")
            .args(["-c", "while :; do printf -- '-> msg\\n\\n'; sleep 0.05; done"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (to, from) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let mut plugin = Conversation {
            plugin: "slow".into(),
            _process: process,
            to,
            from: Lines::new(from),
            until: Instant::now() + Duration::from_millis(300),
            asked_in_vain: false,
        };
        let listened = plugin.listen(|_, _| Ok(false));
        let error = tokio::time::timeout(STILL, listened).await.unwrap().unwrap_err();
        assert!(error.to_string().contains("does not answer"), "{error}");
    }
}
