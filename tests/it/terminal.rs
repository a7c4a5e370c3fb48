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
    for args in [
        &["restore", "latest", "--output", "-"][..],
        &["get", "latest", key, "--show-value"],
        &["key", "split", "--shares", "2", "--threshold", "2"],
    ] {
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

/// Shares are asked for one by one; what was typed wrong is asked for again.
#[test]
fn shares_are_typed_on_a_terminal() {
    const TYPE: &str = "import os, pty, sys, time\n\
        pid, fd = pty.fork()\n\
        if pid == 0: os.execv(sys.argv[1], sys.argv[1:])\n\
        lines = open('typed').read().splitlines()\n\
        said = b''\n\
        def more():\n\
        \x20   global said\n\
        \x20   try: new = os.read(fd, 65536)\n\
        \x20   except OSError: new = b''\n\
        \x20   said += new\n\
        \x20   return new\n\
        while lines and more():\n\
        \x20   while lines and said.count(b'Words of share') > said.count(b'\\0'):\n\
        \x20       said += b'\\0'\n\
        \x20       for part in lines.pop(0).split('/'): os.write(fd, part.encode() + b'\\n')\n\
        while more(): pass\n\
        sys.stdout.buffer.write(said)\n\
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))";
    let place = Place::new();
    let split = place.succeed(&["key", "split", "--shares", "3", "--threshold", "2"]);
    let pages = text(&split.stdout);
    let shares: Vec<String> = pages
        .split('\x0c')
        .map(|page| {
            let lines = page.lines().filter(|line| !line.starts_with('#'));
            let words = lines.flat_map(str::split_whitespace);
            let words = words.filter(|word| word.parse::<u8>().is_err());
            words.collect::<Vec<_>>().join(" ")
        })
        .collect();
    let wrong = shares[0].replacen(shares[0].split(' ').next().unwrap(), "zzzz", 1);
    // The second one over two lines, the same one again, and the third in capitals.
    let halves = shares[1].split_at(shares[1].find(' ').unwrap());
    let second = format!("{}/{}", halves.0, halves.1);
    let typed = [wrong, second, shares[1].clone(), shares[2].to_uppercase()].join("\n");
    std::fs::write(place.path("typed"), typed).unwrap();
    let mut command = Command::new("python3");
    command.args(["-c", TYPE, env!("CARGO_BIN_EXE_strongroom"), "key", "combine", "-o", "back"]);
    command.current_dir(place.dir.path()).env("STRONGROOM_CONFIG", "/dev/null");
    let out = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    for part in ["word 1 of the share is not", "Words of share 2 (1 to go)", "entered already"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let keys = |name: &str| std::fs::read_to_string(place.path(name)).unwrap();
    let master = |text: String| text.trim().rsplit_once(' ').unwrap().1.to_owned();
    assert_eq!(master(keys("back")), master(keys("keyring")));
}
