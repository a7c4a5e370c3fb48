//! What `audit` writes for other programs: they read it, and no secret is in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::audit::{as_root, audit, fake_host};
use crate::etcd_server::{Etcd, ROOT_PASSWORD, Version};
use crate::place::text;
use crate::support::python;

/// Validates a file with a schema.
const VALIDATE: &str = "
import json, sys, jsonschema
schema, document = (json.load(open(name)) for name in sys.argv[1:])
jsonschema.Draft7Validator.check_schema(schema)
errors = [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(document)]
sys.exit('\\n'.join(errors) or 0)
";

/// Prints (id, outcome) of each case; the numbers that suites give are those of their cases.
const CASES: &str = "
import sys, xml.etree.ElementTree as tree
root = tree.parse(sys.argv[1]).getroot()
assert root.tag == 'testsuites'
for suite in root:
    kinds = [[child.tag for child in case][0] for case in suite]
    for name, kind in ('failures', 'failure'), ('errors', 'error'), ('skipped', 'skipped'):
        assert int(suite.get(name)) == kinds.count(kind), (suite.attrib, kinds)
    assert int(suite.get('tests')) == len(kinds)
    for case in suite:
        print(case.get('classname'), case[0].tag)
";

fn schema() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/sarif/sarif.json");
    assert!(path.exists(), "{} is missing: run scripts/get-tools", path.display());
    path
}

fn run(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
    text(&out.stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn other_programs_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let etcd = Etcd::builder(Version::OLDEST).with_server_tls().with_auth().start().await;
    let root = fake_host("--log-level=<&\"debug\"> --cert-file=/a", "PASSWORD=hunter2");
    fs::write(
        path("waivers"),
        "[[waiver]]\nid = \"TLS-6\"\nreason = \"a <b> & 'c'\"\nby = \"ops\"\nuntil = \"DAY\"\n"
            .replace("DAY", &jiff::Timestamp::now().strftime("%Y-12-31").to_string()),
    )
    .unwrap();
    let mut args = as_root(dir.path());
    args.extend(["--scope", "live,host", "--host"].map(str::to_owned));
    args.push(root.path().to_str().unwrap().to_owned());
    for name in ["sarif", "junit", "markdown", "waivers"] {
        args.extend([format!("--{name}"), path(name)]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let out = audit(etcd.endpoint(), Some(&etcd), &[&args[..], &["-w", "json"]].concat());
    let document: Value = serde_json::from_slice(&out.stdout).unwrap();
    let checks = document["checks"].as_array().unwrap();
    run(python().args(["-c", VALIDATE]).arg(schema()).arg(path("sarif")));
    // The schema refuses what is not SARIF.
    let wrong = fs::read_to_string(path("sarif")).unwrap().replace("\"notApplicable\"", "\"no\"");
    fs::write(path("wrong"), wrong).unwrap();
    let refused = python().args(["-c", VALIDATE]).arg(schema()).arg(path("wrong")).output();
    assert!(!refused.unwrap().status.success());
    let wanted = |one: &Value| match (&one["waiver"], one["status"].as_str().unwrap()) {
        (Value::Null, "pass") => "system-out",
        (Value::Null, "fail") => "failure",
        (Value::Null, "unknown") => "error",
        _ => "skipped",
    };
    let wanted =
        checks.iter().map(|one| format!("{} {}", one["id"].as_str().unwrap(), wanted(one)));
    let cases = run(python().args(["-c", CASES]).arg(path("junit")));
    assert_eq!(cases.lines().collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
    let markdown = fs::read_to_string(path("markdown")).unwrap();
    for one in checks {
        assert!(markdown.contains(&format!("\n### {}: ", one["id"].as_str().unwrap())));
    }
    assert!(markdown.contains("a \\<b\\> \\& 'c'") && markdown.contains("\n## Encryption\n"));
    // Canaries: a password of the login, and a variable of the process.
    let table = audit(etcd.endpoint(), Some(&etcd), &args);
    let files = ["sarif", "junit", "markdown"].map(|name| fs::read_to_string(path(name)).unwrap());
    let all = [text(&out.stdout), text(&out.stderr), text(&table.stdout), text(&table.stderr)];
    for said in all.iter().chain(&files) {
        assert!(!said.contains(ROOT_PASSWORD) && !said.contains("hunter2"), "{said}");
    }
}
