//! What the program does on a terminal: a pseudo-terminal of Python's.

use std::process::{Command, Output, Stdio};

use crate::place::{Place, text};
use crate::support::small_database;

/// Runs `args` on a terminal, with its width; both of its outputs, and the exit status in it.
fn on_a_terminal(place: &Place, args: &[&str]) -> (i32, String) {
    const RUN: &str =
        "import os, pty, sys\nsys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    let inner = place.command(args);
    let mut command = Command::new("python3");
    command.args(["-c", RUN]).arg(inner.get_program()).args(inner.get_args());
    command.current_dir(place.dir.path()).stdin(Stdio::null());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let Output { status, stdout, stderr } = command.env_remove("NO_COLOR").output().unwrap();
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (status.code().unwrap(), lossy(&stdout) + &lossy(&stderr))
}

/// What stays on the screen of `said`: each line after the last thing that cleared it.
fn screen(said: &str) -> Vec<String> {
    let left = |line: &str| {
        let line = line.trim_end_matches('\r');
        let line = line.rsplit(['\r', '\u{7}']).next().unwrap();
        line.rsplit("\u{1b}[2K").next().unwrap().to_owned()
    };
    said.split('\n').map(left).filter(|line| !line.is_empty()).collect()
}

#[test]
fn secrets_are_not_written_to_a_terminal() {
    let place = Place::new();
    place.backup();
    let key = String::from_utf8(place.succeed(&["ls", "latest", "--keys-only"]).stdout).unwrap();
    let key = key.lines().next().unwrap();
    for args in
        [&["restore", "latest", "--output", "-"][..], &["get", "latest", key, "--show-value"]]
    {
        let (status, said) = on_a_terminal(&place, args);
        assert!(status == 2 && said.contains("terminal") && said.contains("--force"), "{said}");
        let forced = [args, &["--force"]].concat();
        let (_, said) = on_a_terminal(&place, &forced);
        assert!(!said.contains("--force"), "{said}");
        // A pipe is no terminal.
        place.succeed(args);
    }
}

#[test]
fn errors_are_red_unless_that_is_not_wanted() {
    let place = Place::new();
    let (status, said) = on_a_terminal(&place, &["show", "latest"]);
    assert!(status == 1 && said.contains("\u{1b}[1;31mstrongroom: "), "{said:?}");
    let out = place.run(&["show", "latest"]);
    assert!(!text(&out.stderr).contains('\u{1b}'));
}

#[test]
fn bars_leave_nothing_behind() {
    let place = Place::new();
    let database = small_database();
    let database = database.to_str().unwrap();
    for args in [&["backup", "--file", database][..], &["verify", "latest"], &["ls", "latest"]] {
        let (status, said) = on_a_terminal(&place, args);
        assert_eq!(status, 0, "{said}");
        let left = screen(&said);
        let bars = ["backing up", "finishing", "reading", "verifying 0", "writing"];
        assert!(!left.iter().any(|line| bars.iter().any(|bar| line.starts_with(bar))), "{left:#?}");
    }
}
