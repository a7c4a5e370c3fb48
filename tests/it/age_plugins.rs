//! Keys of age's plugins: of age's own, and of one that misbehaves by script (`tests/clients/age_plugin.py`).

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::behind::{client, go};
use crate::blind::Blind;
use crate::place::{exits, write_secret};
use crate::support::{open_stanza, small_database};

/// A key of the scripted plugin.
pub const RECIPIENT: &str = "age1script1ppppppppmtlrcc";
const IDENTITY: &str = "AGE-PLUGIN-SCRIPT-1ZZZZZZZZSVAGCX";

/// A host and an owner, with the scripted plugin in their PATH.
pub struct Plugged(pub Blind);

impl Plugged {
    pub fn new() -> Self {
        let plugged = Self(Blind::new());
        let bin = plugged.0.place.path("bin");
        fs::create_dir(&bin).unwrap();
        let program = bin.join("age-plugin-script");
        fs::copy(client("age_plugin.py"), &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let file = format!("# created: today\n# public key: {RECIPIENT}\n{IDENTITY}\n");
        write_secret(&plugged.0.place.path("plugged"), &file);
        plugged
    }

    fn path(&self) -> String {
        let bin = self.0.place.path("bin");
        format!("relative:{}:{}", bin.display(), std::env::var("PATH").unwrap())
    }

    pub fn command(&self, key: &str, mode: &str, args: &[&str]) -> Command {
        let mut command = self.0.place.bare(&["-r", "repo", "-k", key]);
        command.args(args).env("PATH", self.path()).env("AGE_SCRIPT", mode);
        command.env("AWS_SECRET_ACCESS_KEY", "none of its business");
        command
    }

    /// On the host.
    pub fn backup(&self, key: &str, mode: &str) -> Command {
        let database = small_database();
        let file = database.to_str().unwrap();
        self.command(
            key,
            mode,
            &["--signing-key", "signing", "backup", "--cluster", "c", "--file", file],
        )
    }

    /// Where the identity is.
    fn restore(&self, identity: &str, mode: &str) -> Command {
        let key = format!("identity:{identity}");
        let _ = fs::remove_file(self.0.place.path("restored"));
        self.command(
            &key,
            mode,
            &["--signers", "signers", "restore", "latest", "--output", "restored"],
        )
    }

    pub fn is_restored(&self) {
        let restored = fs::read(self.0.place.path("restored")).unwrap();
        assert_eq!(restored, fs::read(small_database()).unwrap());
    }
}

pub fn recipient() -> String {
    format!("recipient:{RECIPIENT}")
}

#[test]
fn a_plugin_seals_and_opens() {
    let plugged = Plugged::new();
    exits(0, &mut plugged.backup(&recipient(), ""));
    exits(0, &mut plugged.restore("plugged", ""));
    plugged.is_restored();
    open_stanza(&plugged.0.place.path("repo"), RECIPIENT);
    let variables = fs::read_to_string(plugged.0.place.path("variables")).unwrap();
    assert!(variables.lines().any(|name| name == "AGE_SCRIPT"));
    let others = ["AWS_SECRET_ACCESS_KEY", "STRONGROOM_CONFIG"];
    assert!(!variables.lines().any(|name| others.contains(&name)), "{variables}");
    // Who has the identity seals to its recipient too, and a file may name recipients of plugins.
    exits(0, &mut plugged.backup("identity:plugged", ""));
    fs::write(plugged.0.place.path("recipients"), format!("# ours\n{RECIPIENT}\n")).unwrap();
    exits(0, &mut plugged.backup("recipient:@recipients", ""));
    // What is not known of a plugin's stanza is taken for weak.
    let both = format!("{},recipient:{}", recipient(), plugged.0.recipient);
    let said = exits(2, &mut plugged.backup(&both, ""));
    assert!(said.contains("--mix-quantum-weak"), "{said}");
    let list = exits(0, &mut plugged.command(&recipient(), "", &["key", "list"]));
    assert!(list.contains("recipient") && list.contains("configuration"), "{list}");
}

/// Exit status and a part of the text.
#[test]
fn a_plugin_that_misbehaves_is_told_of() {
    let plugged = Plugged::new();
    exits(0, &mut plugged.backup(&recipient(), ""));
    for (mode, code, text) in [
        ("error", 4, "the token ?[31mis not plugged in"),
        ("bad stanza", 12, "the stanza is too short"),
        ("garbage", 4, "does not speak age's protocol"),
        ("exit", 4, "it ended"),
        ("long", 4, "its line is too long"),
        ("endless", 4, "does not come to an end"),
        ("question", 4, "no PIN"),
        ("silent", 12, "does not open it"),
        ("short key", 4, "its file-key is malformed"),
        ("index", 4, "its file-key is malformed"),
        ("twice", 4, "its file-key is malformed"),
        ("other key", 13, ""),
    ] {
        let said = exits(code, &mut plugged.restore("plugged", mode));
        assert!(said.contains(text), "{mode}: {said}");
        assert_eq!(said.contains("run the command on a terminal"), mode == "question", "{said}");
        assert!(!plugged.0.place.path("restored").exists());
    }
    for (mode, text) in [
        ("error", "is not plugged in"),
        ("no stanza", "it made 0 stanzas"),
        ("many stanzas", "it made 17 stanzas"),
        ("much", "does not speak age's protocol"),
        ("more", "a seal has room for"),
    ] {
        let mut command = plugged.backup(&recipient(), mode);
        let out = command.output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(!out.status.success() && said.contains(text), "{mode}: {said}");
    }
    assert_eq!(plugged.0.place.objects().len(), 4, "one snapshot");
    let program = plugged.0.place.path("bin/age-plugin-script");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o777)).unwrap();
    let said = exits(1, &mut plugged.restore("plugged", ""));
    assert!(said.contains("others can change"), "{said}");
    fs::create_dir(plugged.0.place.path("relative")).unwrap();
    fs::rename(&program, plugged.0.place.path("relative/age-plugin-script")).unwrap();
    let said = exits(4, &mut plugged.restore("plugged", ""));
    assert!(said.contains("age-plugin-script is not in a directory of PATH"), "{said}");
}

/// Types what the lines of `typed` say at each prompt.
const TYPE: &str = "
import os, pty, sys, time
pid, fd = pty.fork()
if pid == 0: os.execv(sys.argv[1], sys.argv[1:])
said, typed = b'', [(b'PIN of the token', b'1234\\n'), (b'1: Yes, 2: No', b'1\\n')]
while True:
    try: new = os.read(fd, 65536)
    except OSError: break
    said += new
    while typed and typed[0][0] in said:
        # A person types after the terminal has stopped showing it.
        time.sleep(0.5)
        os.write(fd, typed.pop(0)[1])
sys.stdout.buffer.write(said)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))";

#[test]
fn a_person_answers_on_a_terminal() {
    let plugged = Plugged::new();
    exits(0, &mut plugged.backup(&recipient(), ""));
    let inner = plugged.restore("plugged", "question");
    let mut command = Command::new("python3");
    command.args(["-c", TYPE]).arg(inner.get_program()).args(inner.get_args());
    command.current_dir(plugged.0.place.dir.path()).stdin(Stdio::null());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let said = exits(0, &mut command);
    assert!(said.contains("touch it") && !said.contains("1234"), "{said}");
    plugged.is_restored();
}

/// age's own plugins of `tests/clients/age`, built once.
fn own_plugins() -> &'static Path {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let programs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("age-plugins");
        fs::create_dir_all(&programs).unwrap();
        let mut build = go("age");
        build.args(["build", "-o"]).arg(&programs);
        build.args([
            "filippo.io/age/cmd/age-plugin-batchpass",
            "filippo.io/age/extra/age-plugin-pq",
        ]);
        assert!(build.status().expect("go runs").success(), "tests/clients/age does not build");
        programs
    })
}

/// Both seal to an identity whose recipient nothing names.
#[test]
fn plugins_of_age_itself() {
    let plugged = Plugged::new();
    let place = &plugged.0.place;
    for name in ["age-plugin-pq", "age-plugin-batchpass"] {
        symlink(own_plugins().join(name), place.path("bin").join(name)).unwrap();
    }
    let native = fs::read_to_string(place.path("identity")).unwrap();
    fs::write(place.path("native"), native).unwrap();
    let mut convert = Command::new(place.path("bin/age-plugin-pq"));
    let convert = convert.args(["-identity", "native"]).current_dir(place.dir.path());
    let converted = exits(0, convert);
    assert!(converted.starts_with("AGE-PLUGIN-PQ-1"), "{converted}");
    write_secret(&place.path("pq"), &converted);
    write_secret(&place.path("batchpass"), "AGE-PLUGIN-BATCHPASS-1JCS0Q9\n");
    for name in ["pq", "batchpass"] {
        let word = |command: &mut Command, word: &str| {
            command.env("AGE_PASSPHRASE", word).env("AGE_PASSPHRASE_WORK_FACTOR", "8");
        };
        let mut backup = plugged.backup(&format!("identity:{name}"), "");
        word(&mut backup, "right");
        exits(0, &mut backup);
        let mut restore = plugged.restore(name, "");
        word(&mut restore, "right");
        exits(0, &mut restore);
        plugged.is_restored();
        if name == "batchpass" {
            let mut restore = plugged.restore(name, "");
            word(&mut restore, "wrong");
            let said = exits(12, &mut restore);
            assert!(said.contains("incorrect passphrase"), "{said}");
        }
    }
    // A post-quantum stanza is no weaker than our own.
    let both = format!("identity:pq,recipient:{}", plugged.0.recipient);
    exits(0, &mut plugged.backup(&both, ""));
}
