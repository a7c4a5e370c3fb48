//! scripts/check-layers finds each breach that it is there for.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::place::{Place, text};

/// What it says of a tree of these files.
fn said(files: &[(&str, &str)]) -> String {
    let place = Place::new();
    for (name, content) in files.iter().chain(&[("lib.rs", "")]) {
        let path = place.path("src").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/check-layers");
    let out = Command::new("python3").arg(script).arg(place.path("src")).output().unwrap();
    let said = text(&out.stdout);
    assert_eq!(out.status.success(), said.is_empty(), "{}", text(&out.stderr));
    said
}

#[test]
fn a_tree_that_keeps_the_rules_is_silent() {
    let files = [
        ("backup/mod.rs", "mod one;\nmod two;\n"),
        ("backup/one.rs", "use super::two::b;\nuse crate::snapshot::c;\nfn a() {}\n"),
        ("backup/two.rs", "use crate::store::{Repository, connect};\npub(super) fn b() {}\n"),
        (
            "format/a.rs",
            "// tokio\nfn a() { b(\"std::fs\") }\n#[cfg(test)]\nmod tests { use std::fs; }\n",
        ),
        ("bin/strongroom/commands/a.rs", "use crate::output::b;\n"),
    ];
    assert_eq!(said(&files), "");
}

#[test]
fn each_planted_breach_is_named() {
    let long = "\n".repeat(501);
    let body = format!("fn a() {{{}}}\n", "\n".repeat(61));
    let one = |name, content, wanted| (vec![(name, content)], wanted);
    for (files, wanted) in [
        one("format/a.rs", "use crate::keys::b;\n", "imports keys from above"),
        one(
            "snapshot/a.rs",
            "use crate::{error::Error, backup::b};\n",
            "imports backup from above",
        ),
        one("store/a.rs", "use crate::etcd::b;\n", "imports etcd, its sibling"),
        one("cellar/a.rs", "", "module cellar is on no floor"),
        one("keys/a.rs", "use tokio::sync::mpsc;\n", "keys is pure, and names tokio"),
        one("bolt/a.rs", "use std::{fmt, fs};\n", "bolt is pure, and names std::{fmt, fs"),
        one("mvcc/a.rs", "fn a() { std::time::Instant::now(); }\n", "names Instant"),
        one("crypto/a.rs", "fn a() { std::env::var(\"A\"); }\n", "names std::env"),
        one("backup/a.rs", "use crate as strongroom;\n", "name things where they are"),
        one("backup/a.rs", "extern crate self as strongroom;\n", "name things where they are"),
        one("backup/a.rs", "use crate::*;\n", "name things where they are"),
        one("backup/a.rs", &long, "501 lines without tests"),
        one("backup/a.rs", &body, "function a has 62 lines"),
        one("bin/strongroom/args.rs", "use crate::commands::b;\n", "args imports commands"),
        one("bin/strongroom/output.rs", "use crate::commands::b;\n", "output imports commands"),
        (
            vec![
                ("backup/a.rs", "use super::b::{self, c};\n"),
                ("backup/b.rs", "fn a() { super::c::d() }\n"),
                ("backup/c.rs", "use crate::backup::a::d;\n"),
            ],
            "files import each other: backup: a b c",
        ),
    ] {
        let said = said(&files);
        assert!(said.contains(wanted) && said.lines().count() == 1, "{files:?}: {said}");
    }
}
