//! Kubernetes-shaped data: nine pods in ten, one secret in ten; the same for the same seed.

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
