//! The manifests in scripts/deploy/kubernetes, as kustomize renders them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::agent::Agent;
use crate::deploy::deploy;
use crate::end_to_end::run;
use crate::etcd_server::{Etcd, Version};
use crate::place::{Place, text};
use crate::proxy_apiservers::{ApiServer, TOKEN, make_accounts};
use crate::support::python;

/// Kubernetes' releases that have schemas, and are maintained.
const RELEASES: [&str; 3] = ["1.35.0", "1.36.0", "1.37.0"];

fn tools(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools").join(name);
    assert!(path.exists(), "{} is missing: run scripts/get-tools", path.display());
    path
}

fn piped(command: &mut Command, input: &[u8]) -> Output {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// The documents in YAML.
fn documents(yaml: &str) -> Vec<Value> {
    let script = "import json, sys, yaml; json.dump([d for d in yaml.safe_load_all(sys.stdin) if d], sys.stdout)";
    let out = piped(python().args(["-c", script]), yaml.as_bytes());
    assert!(out.status.success(), "{}", text(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// A copy of the directory with every component, as an operator edits it.
struct Copy(tempfile::TempDir);

impl Copy {
    fn new() -> Self {
        let copy = Self(tempfile::tempdir().unwrap());
        run(Command::new("cp").arg("-r").arg(deploy("kubernetes/.")).arg(copy.0.path()));
        copy.edit("kustomization.yaml", "  #- components/", "  - components/");
        copy
    }

    fn edit(&self, name: &str, from: &str, to: &str) {
        let path = self.0.path().join(name);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "no {from} in {name}");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    fn render(&self) -> String {
        run(Command::new(tools("kustomize/kustomize")).arg("build").arg(self.0.path()))
    }
}

fn one<'a>(documents: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let fits = |document: &&Value| {
        document["kind"] == kind && document["metadata"]["name"].as_str().unwrap().starts_with(name)
    };
    documents.iter().find(fits).unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// What Kubernetes starts, each with its kind: the template of its pods.
fn templates(documents: &[Value]) -> Vec<(&str, &Value)> {
    let mut found = Vec::new();
    for document in documents {
        let kind = document["kind"].as_str().unwrap();
        let at = match kind {
            "Deployment" | "DaemonSet" | "Job" => "/spec/template",
            "CronJob" => "/spec/jobTemplate/spec/template",
            "Pod" => "",
            _ => continue,
        };
        found.push((kind, document.pointer(at).unwrap()));
    }
    found
}

fn validate(yaml: &str, release: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("manifests.yaml");
    fs::write(&path, yaml).unwrap();
    let tool = PathBuf::from(python().get_program()).with_file_name("kubernetes-validate");
    Command::new(tool).args(["--strict", "-k", release]).arg(path).output().unwrap()
}

#[test]
fn the_manifests_fit_the_schemas_of_three_releases() {
    let rendered = Copy::new().render();
    let core: Vec<_> =
        rendered.split("---\n").filter(|text| !text.contains("monitoring.coreos.com")).collect();
    let mut core = core.join("---\n");
    for name in ["kms-plugin.yaml", "secrets.example.yaml"] {
        core += &format!("---\n{}", fs::read_to_string(deploy("kubernetes").join(name)).unwrap());
    }
    for release in RELEASES {
        let out = validate(&core, release);
        assert!(out.status.success(), "{release}: {}{}", text(&out.stdout), text(&out.stderr));
    }
    let out = validate(&core.replace("containerPort", "containerPrt"), RELEASES[0]);
    assert!(!out.status.success(), "a wrong name of a field passes");

    let documents = documents(&rendered);
    let check = |documents: &[Value]| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/operator.mjs");
        let mut node = Command::new("node");
        node.arg(script).arg(tools("node/node_modules"));
        piped(&mut node, &serde_json::to_vec(documents).unwrap())
    };
    let out = check(&documents);
    assert_eq!(text(&out.stdout), "PodMonitor\nPrometheusRule\n", "{}", text(&out.stderr));
    let monitor = one(&documents, "PodMonitor", "strongroom").clone();
    let wrong =
        monitor.to_string().replace("[\"__meta", "\"__meta").replace("component\"]", "component\"");
    assert!(!check(&[serde_json::from_str(&wrong).unwrap()]).status.success());
}

#[test]
fn parameters_reach_the_manifests() {
    let copy = Copy::new();
    copy.edit("base/parameters.env", "store_port=443", "store_port=9000");
    copy.edit("base/parameters.env", "etcd_port=2379", "etcd_port=12379");
    copy.edit("base/parameters.env", "=monitoring", "=observability");
    copy.edit("kustomization.yaml", "namespace: strongroom", "namespace: vault");
    copy.edit("kustomization.yaml", "newName: localhost/strongroom", "newName: images.test/sr");
    let rendered = documents(&copy.render());
    let policy = one(&rendered, "NetworkPolicy", "strongroom");
    let ports = &policy["spec"]["egress"][0]["ports"];
    assert_eq!([&ports[0]["port"], &ports[1]["port"]], [12_379, 9000]);
    let from = &policy["spec"]["ingress"][0]["from"][0]["namespaceSelector"]["matchLabels"];
    assert_eq!(from["kubernetes.io/metadata.name"], "observability");
    let namespace = one(&rendered, "Namespace", "vault");
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "privileged");
    let others = rendered.iter().filter(|document| document["kind"] != "Namespace");
    assert!(others.clone().all(|document| document["metadata"]["namespace"] == "vault"));
    assert_eq!(templates(&rendered).len(), 5);
    for (_, template) in templates(&rendered) {
        assert_eq!(template["spec"]["containers"][0]["image"], "images.test/sr:0.1.0");
    }
    // A change of the settings changes the name that the pods ask for, so they start again.
    let mounted = |rendered: &[Value]| {
        let agent = one(rendered, "Deployment", "strongroom-agent");
        let volume = &agent["spec"]["template"]["spec"]["volumes"][0];
        volume["configMap"]["name"].as_str().unwrap().to_owned()
    };
    copy.edit("base/strongroom.toml", "keep_daily = 14", "keep_daily = 15");
    let changed = documents(&copy.render());
    assert_ne!(mounted(&rendered), mounted(&changed));
    assert!(one(&changed, "ConfigMap", &mounted(&changed)).is_object());
    // Without the components there is nothing to run.
    copy.edit("kustomization.yaml", "  - components/", "  #- components/");
    copy.edit("kustomization.yaml", "\ncomponents:\n", "\n");
    assert!(templates(&documents(&copy.render())).is_empty());
}

#[test]
fn the_pods_are_hardened_and_told_apart() {
    let yaml = Copy::new().render()
        + "---\n"
        + &fs::read_to_string(deploy("kubernetes/kms-plugin.yaml")).unwrap();
    let rendered = documents(&yaml);
    let example = fs::read_to_string(deploy("kubernetes/secrets.example.yaml")).unwrap();
    let mut labels = Vec::new();
    for (kind, template) in templates(&rendered) {
        let (spec, container) = (&template["spec"], &template["spec"]["containers"][0]);
        assert_eq!(spec["automountServiceAccountToken"], false, "{template}");
        assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        let context = &container["securityContext"];
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["capabilities"]["drop"][0], "ALL");
        assert!(container["resources"]["limits"]["memory"].is_string());
        assert!(spec["priorityClassName"].as_str().unwrap().starts_with("system-"));
        labels.push(template["metadata"]["labels"].to_string());
        // Its root is read-only, and these write temporary files.
        let verifies =
            ["backup", "agent", "verify"].contains(&container["args"][0].as_str().unwrap());
        let mounts = container["volumeMounts"].as_array().unwrap();
        let tmp =
            mounts.iter().any(|mount| mount["mountPath"] == "/tmp" && mount["readOnly"].is_null());
        assert!(tmp || !verifies, "{kind} has no /tmp");
        for volume in spec["volumes"].as_array().unwrap() {
            if let Some(secret) = volume["secret"]["secretName"].as_str() {
                assert!(example.contains(&format!(" {secret}")), "{secret} is not in the example");
                assert_eq!(volume["secret"]["defaultMode"], 0o400);
            }
        }
    }
    labels.sort();
    labels.dedup();
    assert_eq!(labels.len(), 6, "two kinds of pods have the same labels: {labels:?}");
    // Each Service and Deployment selects its own pods alone; the policy selects all.
    let selects = |selector: &Value, labels: &str| {
        let labels: Value = serde_json::from_str(labels).unwrap();
        selector.as_object().unwrap().iter().all(|(name, value)| labels[name] == *value)
    };
    for document in &rendered {
        let (selector, count) = match document["kind"].as_str().unwrap() {
            "Service" => (&document["spec"]["selector"], 1),
            "Deployment" | "DaemonSet" => (&document["spec"]["selector"]["matchLabels"], 1),
            "PodMonitor" => (&document["spec"]["selector"]["matchLabels"], 5),
            "NetworkPolicy" => {
                let all = document["metadata"]["name"] == "strongroom";
                (&document["spec"]["podSelector"]["matchLabels"], if all { 5 } else { 1 })
            }
            _ => continue,
        };
        let found = labels.iter().filter(|labels| selects(selector, labels)).count();
        assert_eq!(found, count, "{document}");
    }
}

fn rules(args: &[&str]) -> String {
    run(Command::new(deploy("prometheus/rules")).args(args))
}

#[test]
fn the_alerts_link_to_runbooks_where_there_are_some() {
    let committed = deploy("kubernetes/components/prometheus-rule/prometheus-rule.yaml");
    let made = rules(&["--kubernetes"]);
    assert!(
        fs::read_to_string(&committed).unwrap() == made,
        "run scripts/deploy/prometheus/rules --kubernetes >{}",
        committed.display()
    );
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &["--kubernetes"][..],
        &["--kubernetes", "https://wiki.test/a?b=c"],
        &["https://wiki.test/d"],
    ] {
        let all = documents(&rules(args));
        let groups = if args[0] == "--kubernetes" { &all[0]["spec"] } else { &all[0] };
        // Prometheus takes them as they are in the manifest.
        let path = dir.path().join("rules.yml");
        fs::write(&path, groups.to_string()).unwrap();
        run(crate::deploy::tool("promtool").args(["check", "rules"]).arg(path));
        let alerts = groups["groups"].as_array().unwrap().iter();
        let alerts: Vec<_> = alerts.flat_map(|group| group["rules"].as_array().unwrap()).collect();
        assert!(alerts.len() >= 31);
        for alert in alerts {
            assert!(
                ["critical", "warning"].contains(&alert["labels"]["severity"].as_str().unwrap())
            );
            let link = &alert["annotations"]["runbook_url"];
            match args.iter().find(|arg| arg.starts_with("https")) {
                Some(url) => {
                    assert!(link.as_str().unwrap().starts_with(&format!("{url}#")), "{alert}")
                }
                None => {
                    assert!(link.is_null() && alert["annotations"]["runbook"].is_null(), "{alert}")
                }
            }
        }
    }
    let refused = Command::new(deploy("prometheus/rules")).arg("a|b").output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn the_proxys_settings_are_settings_of_the_proxy() {
    let dir = tempfile::tempdir().unwrap();
    let rendered = documents(&Copy::new().render());
    let settings =
        one(&rendered, "ConfigMap", "strongroom-proxy")["data"]["strongroom.toml"].as_str();
    fs::write(dir.path().join("strongroom.toml"), settings.unwrap()).unwrap();
    let mut check = Command::new(env!("CARGO_BIN_EXE_strongroom"));
    check.env_clear().env("STRONGROOM_CONFIG", dir.path().join("strongroom.toml"));
    let out = run(check.args(["config", "check", "--for", "proxy"]));
    assert!(out.contains("/tls/tls.key"), "{out}");
}

/// The agent with the manifest's settings, where the first of the members is down: that of its own node, perhaps.
#[tokio::test(flavor = "multi_thread")]
async fn the_agent_uses_the_other_members() {
    let mut etcd = Etcd::builder(Version::NEWEST).members(3).with_tls().start().await;
    etcd.put("/registry/configmaps/prod/settings", "1").await;
    let place = Place::new();
    let rendered = documents(&Copy::new().render());
    let settings = one(&rendered, "ConfigMap", "strongroom-")["data"]["strongroom.toml"].as_str();
    let mut settings = settings.unwrap().to_owned();
    let tls = etcd.settings();
    for (at, endpoint) in etcd.endpoints().iter().enumerate() {
        let named = format!("https://10.0.0.{}:2379", at + 1);
        assert!(settings.contains(&named));
        settings = settings.replace(&named, endpoint);
    }
    for (from, to) in [
        ("/keys/keyring", "keyring".to_owned()),
        ("s3://bucket/prefix", "repo".to_owned()),
        ("/pki/ca.crt", tls.cacert.unwrap().display().to_string()),
        ("/pki/healthcheck-client.crt", tls.cert.unwrap().display().to_string()),
        ("/pki/healthcheck-client.key", tls.key.unwrap().display().to_string()),
        ("0.0.0.0:9481", "LISTEN".to_owned()),
        ("jitter = \"5m\"\n", String::new()),
        ("backup = \"0 2 * * *\"", "backup = \"@every 1s\"".to_owned()),
    ] {
        assert!(settings.contains(from), "no {from}");
        settings = settings.replace(from, &to);
    }
    etcd.kill(0);
    tokio::task::spawn_blocking(move || {
        let agent = Agent::start(&place, &settings);
        agent.wait("backup_finished", 1);
        agent.end();
        assert!(!place.snapshots().is_empty());
    })
    .await
    .unwrap();
}

/// A real API server takes every field, and its admission every pod.
#[test]
#[ignore = "long: an API server, which scripts/get-tools --long builds"]
fn long_an_api_server_takes_the_manifests() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = crate::behind::blocking(Etcd::start(Version::V3_6));
    make_accounts(dir.path());
    let server = ApiServer::start(dir.path(), "server", etcd.endpoint());
    let mut rendered = documents(&Copy::new().render());
    rendered.retain(|document| !document["apiVersion"].as_str().unwrap().contains("coreos"));
    rendered
        .extend(documents(&fs::read_to_string(deploy("kubernetes/secrets.example.yaml")).unwrap()));
    let namespace = |name: &str, level: &str| {
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": level}},
        })
    };
    let pod = |template: &Value, namespace: &str| {
        let labels = &template["metadata"]["labels"];
        let name = labels["app.kubernetes.io/component"].as_str().unwrap();
        json!({
            "apiVersion": "v1", "kind": "Pod", "spec": template["spec"],
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
        })
    };
    let mut documents = vec![namespace("restricted", "restricted")];
    documents.extend(rendered.iter().cloned());
    for (_, template) in templates(&rendered) {
        documents.push(pod(template, "strongroom"));
        documents.push(pod(template, "restricted"));
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/apply.py");
    let mut apply = python();
    apply.arg(script).args([server.url().as_str(), TOKEN]);
    let out = piped(&mut apply, &serde_json::to_vec(&documents).unwrap());
    let said = text(&out.stdout);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(said.lines().count(), documents.len());
    let (taken, refused): (Vec<_>, Vec<_>) =
        said.lines().partition(|line| line.starts_with("201 "));
    // Where pods are restricted, those that mount the node's files are refused; the proxy is not.
    assert_eq!(refused.len(), 4, "{said}");
    for name in ["agent", "audit", "backup", "by-hand"] {
        let line = refused.iter().find(|line| line.starts_with(&format!("403 Pod {name} ")));
        assert!(line.is_some_and(|line| line.contains("violates PodSecurity")), "{said}");
    }
    assert_eq!(taken.iter().filter(|line| line.starts_with("201 Pod proxy ")).count(), 2, "{said}");
}
