//! Kubernetes-shaped data, the same for the same seed: a filled etcd (nine pods in ten, one secret in ten), and what
//! the API server writes to an etcd that has been in use for a while.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write;

/// A small generator (SplitMix64): reproducible, not secret.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn hex(&mut self, digits: usize) -> String {
        let mut text = String::new();
        while text.len() < digits {
            let _ = write!(text, "{:016x}", self.next());
        }
        text.truncate(digits);
        text
    }

    fn uid(&mut self) -> String {
        let hex = self.hex(32);
        let part = |from, to| hex.get(from..to).unwrap_or_default();
        format!(
            "{}-{}-4{}-a{}-{}",
            part(0, 8),
            part(8, 12),
            part(13, 16),
            part(17, 20),
            part(20, 32)
        )
    }

    fn ip(&mut self) -> String {
        format!("10.{}.{}.{}", self.below(256), self.below(256), self.below(256))
    }

    fn time(&mut self) -> String {
        let (day, hour) = (1 + self.below(28), self.below(24));
        format!("2026-10-{day:02}T{hour:02}:{:02}:{:02}Z", self.below(60), self.below(60))
    }

    fn base64(&mut self, bytes: usize) -> String {
        let raw: Vec<u8> = std::iter::repeat_with(|| self.next() as u8).take(bytes).collect();
        data_encoding::BASE64.encode(&raw)
    }
}

const NAMESPACES: [&str; 8] =
    ["default", "kube-system", "payments", "checkout", "search", "ingress", "monitoring", "batch"];
const APPS: [&str; 12] = [
    "api",
    "web",
    "worker",
    "cache",
    "gateway",
    "indexer",
    "billing",
    "auth",
    "mailer",
    "proxy",
    "scheduler",
    "reports",
];

/// The `n`-th key and value.
pub fn entry(n: u64, random: &mut Random) -> (String, String) {
    let namespace = pick(&NAMESPACES, random);
    let app = pick(&APPS, random);
    if n % 10 == 9 {
        let name = format!("{app}-token-{n:07}");
        let length = 150 + random.below(2850) as usize;
        let value = format!(
            "{{\"kind\":\"Secret\",\"apiVersion\":\"v1\",\"metadata\":{{\"name\":\"{name}\",\"namespace\":\"{namespace}\",\
             \"uid\":\"{}\",\"creationTimestamp\":\"{}\"}},\"data\":{{\"token\":\"{}\"}},\"type\":\"Opaque\"}}",
            random.uid(),
            random.time(),
            random.base64(length),
        );
        return (format!("/registry/secrets/{namespace}/{name}"), value);
    }
    let hash = random.hex(10);
    let name = format!("{app}-{hash}-{n:07}");
    (format!("/registry/pods/{namespace}/{name}"), pod(&name, namespace, app, &hash, random))
}

fn pick<'a>(from: &[&'a str], random: &mut Random) -> &'a str {
    from.get(random.below(from.len() as u64) as usize).copied().unwrap_or("default")
}

fn pod(name: &str, namespace: &str, app: &str, hash: &str, random: &mut Random) -> String {
    let (node, host, ip) = (random.below(500), random.ip(), random.ip());
    let (uid, owner, image) = (random.uid(), random.uid(), random.hex(64));
    let (created, ready, volume) = (random.time(), random.time(), random.hex(5));
    let (container, sandbox, config) = (random.hex(64), random.hex(64), random.hex(64));
    let (before, ended) = (random.hex(64), random.time());
    let (image_id, version) = (random.hex(64), 1_000_000 + random.below(900_000_000));
    let mut condition = |kind: &str| {
        let since = random.time();
        format!(
            "{{\"type\":\"{kind}\",\"status\":\"True\",\"lastProbeTime\":null,\"lastTransitionTime\":\"{since}\"}}"
        )
    };
    let conditions =
        ["Initialized", "Ready", "ContainersReady", "PodScheduled"].map(&mut condition).join(",");
    format!(
        r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{"name":"{name}","generateName":"{app}-{hash}-","namespace":"{namespace}","uid":"{uid}","resourceVersion":"{version}","creationTimestamp":"{created}","labels":{{"app.kubernetes.io/name":"{app}","app.kubernetes.io/instance":"{app}-{namespace}","app.kubernetes.io/managed-by":"Helm","pod-template-hash":"{hash}"}},"annotations":{{"cni.projectcalico.org/containerID":"{sandbox}","cni.projectcalico.org/podIP":"{ip}/32","prometheus.io/scrape":"true","prometheus.io/port":"9090","checksum/config":"{config}"}},"ownerReferences":[{{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"{app}-{hash}","uid":"{owner}","controller":true,"blockOwnerDeletion":true}}],"managedFields":[{{"manager":"kube-controller-manager","operation":"Update","apiVersion":"v1","time":"{created}","fieldsType":"FieldsV1","fieldsV1":{{"f:metadata":{{"f:annotations":{{".":{{}},"f:prometheus.io/scrape":{{}}}},"f:generateName":{{}},"f:labels":{{".":{{}},"f:pod-template-hash":{{}}}},"f:ownerReferences":{{".":{{}},"k:{{\"uid\":\"{owner}\"}}":{{}}}}}},"f:spec":{{"f:containers":{{"k:{{\"name\":\"{app}\"}}":{{".":{{}},"f:image":{{}},"f:imagePullPolicy":{{}},"f:name":{{}},"f:ports":{{}},"f:resources":{{}}}}}},"f:dnsPolicy":{{}},"f:restartPolicy":{{}},"f:schedulerName":{{}}}}}}}}]}},"spec":{{"volumes":[{{"name":"kube-api-access-{volume}","projected":{{"sources":[{{"serviceAccountToken":{{"expirationSeconds":3607,"path":"token"}}}},{{"configMap":{{"name":"kube-root-ca.crt","items":[{{"key":"ca.crt","path":"ca.crt"}}]}}}}],"defaultMode":420}}}}],"containers":[{{"name":"{app}","image":"registry.example/{namespace}/{app}@sha256:{image}","ports":[{{"name":"http","containerPort":8080,"protocol":"TCP"}}],"resources":{{"limits":{{"cpu":"500m","memory":"512Mi"}},"requests":{{"cpu":"100m","memory":"128Mi"}}}},"volumeMounts":[{{"name":"kube-api-access-{volume}","readOnly":true,"mountPath":"/var/run/secrets/kubernetes.io/serviceaccount"}}],"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent"}}],"restartPolicy":"Always","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","serviceAccountName":"{app}","nodeName":"node-{node:03}","schedulerName":"default-scheduler"}},"status":{{"phase":"Running","conditions":[{conditions}],"hostIP":"{host}","podIP":"{ip}","podIPs":[{{"ip":"{ip}"}}],"startTime":"{created}","containerStatuses":[{{"name":"{app}","state":{{"running":{{"startedAt":"{ready}"}}}},"lastState":{{"terminated":{{"exitCode":0,"finishedAt":"{ended}","containerID":"containerd://{before}"}}}},"ready":true,"restartCount":1,"imageID":"registry.example/{namespace}/{app}@sha256:{image_id}","containerID":"containerd://{container}","started":true}}],"qosClass":"Burstable"}}}}"#
    )
}

/// Pods that the cluster runs.
const PODS: u64 = 40_000;
/// Nodes, each of which renews its lease.
const NODES: u64 = 300;
/// Writes in an hour.
pub const HOUR: usize = 20_000;
/// Events that etcd holds: the API server removes each after an hour.
const EVENTS: usize = HOUR * 15 / 100;
/// Operations in one transaction, of which etcd takes 128.
const BATCH: usize = 100;
/// Writes between two compactions, and writes whose history a compaction leaves.
const COMPACT: (usize, usize) = (2_000, 500);

/// What is done next.
pub enum Step {
    /// One transaction: keys with their new values; those without a value are deleted. No key is in it twice.
    Write(Vec<(String, Option<String>)>),
    /// A compaction that leaves so many transactions.
    Compact(u64),
}

/// A cluster in a steady state: 70 % of its writes renew leases, 15 % are events, 15 % update pods.
pub struct Churn {
    random: Random,
    pods: Vec<String>,
    node: u64,
    events: VecDeque<String>,
    event: u64,
}

impl Churn {
    pub fn new(seed: u64) -> Self {
        let random = Random::new(seed);
        Self { random, pods: Vec::new(), node: 0, events: VecDeque::new(), event: 0 }
    }

    /// The transactions that create the pods.
    pub fn fill(&mut self) -> Vec<Step> {
        let writes: Vec<_> = (0..PODS)
            .map(|n| {
                let namespace = pick(&NAMESPACES, &mut self.random);
                let key = format!("/registry/pods/{namespace}/{}-{n:05}", self.random.hex(10));
                self.pods.push(key.clone());
                let value = self.pod(&key);
                (key, Some(value))
            })
            .collect();
        writes.chunks(BATCH).map(|batch| Step::Write(batch.to_vec())).collect()
    }

    /// The writes of an hour, in transactions, with the compactions between them.
    pub fn hour(&mut self) -> Vec<Step> {
        let (mut steps, mut batch, mut keys) = (Vec::new(), Vec::new(), BTreeSet::new());
        for write in 1..=HOUR {
            let now = self.write();
            if batch.len() + now.len() > BATCH || now.iter().any(|(key, _)| keys.contains(key)) {
                steps.push(Step::Write(std::mem::take(&mut batch)));
                keys.clear();
            }
            keys.extend(now.iter().map(|(key, _)| key.clone()));
            batch.extend(now);
            if write % COMPACT.0 == 0 {
                steps.push(Step::Write(std::mem::take(&mut batch)));
                keys.clear();
                steps.push(Step::Compact(left(&steps, COMPACT.1)));
            }
        }
        steps
    }

    /// One write; an event takes the place of one that is an hour old.
    pub fn write(&mut self) -> Vec<(String, Option<String>)> {
        match self.random.below(100) {
            0..70 => {
                self.node = (self.node + 1) % NODES;
                let (node, time) = (self.node, self.random.time());
                vec![(
                    format!("/registry/leases/kube-node-lease/node-{node:03}"),
                    Some(lease(node, &time)),
                )]
            }
            70..85 => {
                self.event += 1;
                let (namespace, hash) = (pick(&NAMESPACES, &mut self.random), self.random.hex(16));
                let key = format!("/registry/events/{namespace}/pod-{:07}.{hash}", self.event);
                let value = event(&key, namespace, &mut self.random);
                let mut writes = vec![(key.clone(), Some(value))];
                self.events.push_back(key);
                if self.events.len() > EVENTS {
                    writes.extend(self.events.pop_front().map(|old| (old, None)));
                }
                writes
            }
            _ => {
                let key = self.pods[self.random.below(PODS) as usize].clone();
                let value = self.pod(&key);
                vec![(key, Some(value))]
            }
        }
    }

    /// A pod of 1.5 to 4 kB.
    fn pod(&mut self, key: &str) -> String {
        let mut parts = key.rsplit('/');
        let (name, namespace) = (parts.next().unwrap(), parts.next().unwrap());
        let random = &mut self.random;
        let (app, length) = (pick(&APPS, random), 1_500 + random.below(2_500) as usize);
        let (uid, node, host, ip) = (random.uid(), random.below(NODES), random.ip(), random.ip());
        let (created, started, image) = (random.time(), random.time(), random.hex(64));
        let (sandbox, container) = (random.hex(64), random.hex(64));
        let mut value = format!(
            r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"{namespace}","uid":"{uid}","creationTimestamp":"{created}","labels":{{"app.kubernetes.io/name":"{app}","app.kubernetes.io/managed-by":"Helm"}},"annotations":{{"cni.projectcalico.org/containerID":"{sandbox}","cni.projectcalico.org/podIP":"{ip}/32"}}}},"status":{{"phase":"Running","hostIP":"{host}","podIP":"{ip}","startTime":"{created}","containerStatuses":[{{"name":"{app}","state":{{"running":{{"startedAt":"{started}"}}}},"ready":true,"restartCount":{},"imageID":"registry.example/{namespace}/{app}@sha256:{image}","containerID":"containerd://{container}","started":true}}],"qosClass":"Burstable"}},"spec":{{"nodeName":"node-{node:03}","serviceAccountName":"{app}","restartPolicy":"Always","containers":[{{"name":"{app}","image":"registry.example/{namespace}/{app}@sha256:{image}","resources":{{"limits":{{"cpu":"500m","memory":"512Mi"}},"requests":{{"cpu":"100m","memory":"128Mi"}}}},"env":["#,
            random.below(4),
        );
        for n in 0.. {
            let setting = random.hex(12);
            let comma = if n == 0 { "" } else { "," };
            let _ = write!(
                value,
                r#"{comma}{{"name":"{}_SETTING_{n}","value":"http://{}.{namespace}.svc:8080/{setting}"}}"#,
                app.to_uppercase(),
                pick(&APPS, random),
            );
            if value.len() >= length {
                break;
            }
        }
        value.push_str("]}]}}");
        value
    }
}

/// How many transactions at the end of `steps` hold so many writes.
fn left(steps: &[Step], writes: usize) -> u64 {
    let mut counted = 0;
    let sizes = steps.iter().rev().filter_map(|step| match step {
        Step::Write(batch) => Some(batch.len()),
        Step::Compact(_) => None,
    });
    let transactions = sizes.take_while(|size| {
        let enough = counted >= writes;
        counted += size;
        !enough
    });
    transactions.count() as u64
}

/// About 300 bytes.
fn lease(node: u64, time: &str) -> String {
    format!(
        r#"{{"kind":"Lease","apiVersion":"coordination.k8s.io/v1","metadata":{{"name":"node-{node:03}","namespace":"kube-node-lease","uid":"7d2c5f0e-5b1d-4a7e-a5ab-1f2e3d4c{node:04}","creationTimestamp":"2026-09-01T08:00:00Z"}},"spec":{{"holderIdentity":"node-{node:03}","leaseDurationSeconds":40,"renewTime":"{time}"}}}}"#
    )
}

/// About 900 bytes.
fn event(key: &str, namespace: &str, random: &mut Random) -> String {
    let name = key.rsplit('/').next().unwrap_or_default();
    let (app, time, node) = (pick(&APPS, random), random.time(), random.below(NODES));
    let (uid, pod, image, took) = (random.uid(), random.uid(), random.hex(64), random.below(9000));
    format!(
        r#"{{"kind":"Event","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"{namespace}","uid":"{uid}","creationTimestamp":"{time}","managedFields":[{{"manager":"kubelet","operation":"Update","apiVersion":"v1","time":"{time}"}}]}},"involvedObject":{{"kind":"Pod","namespace":"{namespace}","name":"{app}","uid":"{pod}","apiVersion":"v1","fieldPath":"spec.containers{{{app}}}"}},"reason":"Pulled","message":"Successfully pulled image \"registry.example/{namespace}/{app}@sha256:{image}\" in {took}ms ({took}ms including waiting). Image size: 48211337 bytes.","source":{{"component":"kubelet","host":"node-{node:03}"}},"firstTimestamp":"{time}","lastTimestamp":"{time}","count":1,"type":"Normal","eventTime":null,"reportingComponent":"kubelet","reportingInstance":"node-{node:03}"}}"#
    )
}
