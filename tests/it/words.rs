//! scripts/check-words finds what it should, and nothing in what it should not read.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::place::{Place, text};

#[test]
fn planted_words_are_found_where_people_read() {
    let (place, scripts) = (Place::new(), Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts"));
    let write = |name: &str, content: &str| {
        fs::create_dir_all(place.path(name).parent().unwrap()).unwrap();
        fs::write(place.path(name), content).unwrap();
    };
    for script in ["check-words", "check-layers"] {
        write(&format!("scripts/{script}"), &fs::read_to_string(scripts.join(script)).unwrap());
    }
    let check = || {
        let out = Command::new("python3").arg(place.path("scripts/check-words")).output().unwrap();
        (out.status.code(), text(&out.stdout))
    };
    write(
        "README.md",
        "improve, approve, wholesale, `key prove`, there is no such key, it is no longer here\n",
    );
    write(
        "src/a.rs",
        "// It is proved.\n/// The whole.\nfn a() { b(\"good\") }\n#[cfg(test)]\nmod tests { const A: &str = \"anew\"; }\n",
    );
    assert_eq!(check(), (Some(0), String::new()));

    write("README.md", "good\nkeys that are at\nhand\n");
    write("src/guide/a.md", "It is proved.\n");
    write("src/a.rs", "fn a() { b(\"a value in \\\n  clear\", \"begins so\") }\n");
    write(
        "src/bin/strongroom/args.rs",
        "struct A {\n    /// The key, whole\n    key: String,\n    /// It is no key\n    b: u8,\n}\n",
    );
    let (code, said) = check();
    let found: Vec<_> = said.lines().map(|line| line.rsplit_once(": write").unwrap().0).collect();
    let wanted = [
        "README.md:2: \"at hand\"",
        "src/guide/a.md:1: \"proved\"",
        "src/a.rs:1: \"in clear\"",
        "src/a.rs:2: \"begins so\"",
        "src/bin/strongroom/args.rs:2: \"whole\"",
        "src/bin/strongroom/args.rs:4: \"is no key\"",
    ];
    assert_eq!((code, found), (Some(1), wanted.to_vec()), "{said}");
}
