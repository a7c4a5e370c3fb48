//! What a member was started with, from the static pod that kubeadm writes (`/etc/kubernetes/manifests/etcd.yaml`).

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};

/// The longest manifest that is read, in bytes.
pub const MAX_MANIFEST: usize = 1 << 20;

/// etcd's flags that a restore needs, and where the pod's data directory is on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Manifest {
    /// `--name`
    pub name: Option<String>,
    /// `--initial-cluster`. kubeadm writes there the members there were when this one joined: often not all.
    pub initial_cluster: Option<String>,
    /// `--initial-advertise-peer-urls`
    pub peer_urls: Vec<String>,
    /// `--data-dir`, as the host sees it.
    pub data_dir: Option<PathBuf>,
    /// `--wal-dir`, as the host sees it.
    pub wal_dir: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Pod {
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    containers: Vec<Container>,
    #[serde(default)]
    volumes: Vec<Volume>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    volume_mounts: Vec<Mount>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mount {
    name: String,
    mount_path: PathBuf,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Volume {
    name: String,
    host_path: Option<HostPath>,
}

#[derive(Deserialize)]
struct HostPath {
    path: PathBuf,
}

impl Manifest {
    /// Of a pod's YAML.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when it is no pod that runs etcd.
    pub fn parse(yaml: &str) -> Result<Self> {
        if yaml.len() > MAX_MANIFEST {
            return Err(Error::usage(format!("{} bytes are too many for a pod", yaml.len())));
        }
        let pod: Pod = serde_saphyr::from_str(yaml)
            .map_err(|error| Error::usage("it is no pod in YAML").because(error))?;
        let mut containers = pod.spec.containers.iter();
        let etcd = containers.find(|container| container.runs_etcd()).ok_or_else(|| {
            Error::usage("none of its containers runs etcd")
                .hint("kubeadm's is /etc/kubernetes/manifests/etcd.yaml")
        })?;
        let on_host = |path: String| etcd.on_host(Path::new(&path), &pod.spec.volumes);
        let peer_urls = etcd.flag("initial-advertise-peer-urls").unwrap_or_default();
        Ok(Self {
            name: etcd.flag("name"),
            initial_cluster: etcd.flag("initial-cluster"),
            peer_urls: peer_urls.split(',').filter(|url| !url.is_empty()).map(Into::into).collect(),
            data_dir: etcd.flag("data-dir").map(on_host),
            wal_dir: etcd.flag("wal-dir").map(on_host),
        })
    }
}

impl Container {
    fn words(&self) -> impl Iterator<Item = &str> {
        self.command.iter().chain(&self.args).map(String::as_str)
    }

    fn runs_etcd(&self) -> bool {
        self.words().any(|word| Path::new(word).file_name().is_some_and(|name| name == "etcd"))
    }

    /// The value of `--name=value` or `--name value`; the last counts, as for Go's flags.
    fn flag(&self, name: &str) -> Option<String> {
        let mut found = None;
        let mut words = self.words().peekable();
        while let Some(word) = words.next() {
            // Go takes one hyphen or two.
            let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
                continue;
            };
            match flag.split_once('=') {
                Some((flag, value)) if flag == name => found = Some(value.to_owned()),
                None if flag == name => found = words.peek().map(|value| (*value).to_owned()),
                _ => {}
            }
        }
        found
    }

    /// Where `path` of the container lies on the host.
    fn on_host(&self, path: &Path, volumes: &[Volume]) -> PathBuf {
        let mounted = self.volume_mounts.iter().filter_map(|mount| {
            let rest = path.strip_prefix(&mount.mount_path).ok()?;
            let volume = volumes.iter().find(|volume| volume.name == mount.name)?;
            let host = volume.host_path.as_ref()?;
            let whole =
                if rest == Path::new("") { host.path.clone() } else { host.path.join(rest) };
            Some((mount.mount_path.components().count(), whole))
        });
        // The innermost mount is the one that is seen.
        mounted.max_by_key(|(depth, _)| *depth).map_or_else(|| path.to_owned(), |(_, host)| host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use proptest::prelude::*;

    /// As kubeadm 1.31 writes it, shortened.
    const KUBEADM: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  annotations:
    kubeadm.kubernetes.io/etcd.advertise-client-urls: https://10.0.0.11:2379
  labels: {component: etcd, tier: control-plane}
  name: etcd
  namespace: kube-system
spec:
  containers:
  - command:
    - etcd
    - --advertise-client-urls=https://10.0.0.11:2379
    - --client-cert-auth=true
    - --data-dir=/var/lib/etcd
    - --experimental-initial-corrupt-check=true
    - --initial-advertise-peer-urls=https://10.0.0.11:2380
    - --initial-cluster=cp1=https://10.0.0.11:2380
    - --name=cp1
    - --peer-client-cert-auth=true
    image: registry.k8s.io/etcd:3.5.15-0
    livenessProbe:
      httpGet: {host: 127.0.0.1, path: /livez, port: 2381, scheme: HTTP}
    name: etcd
    volumeMounts:
    - mountPath: /var/lib/etcd
      name: etcd-data
    - mountPath: /etc/kubernetes/pki/etcd
      name: etcd-certs
  hostNetwork: true
  volumes:
  - hostPath:
      path: /etc/kubernetes/pki/etcd
      type: DirectoryOrCreate
    name: etcd-certs
  - hostPath:
      path: /data/etcd
      type: DirectoryOrCreate
    name: etcd-data
status: {}
"#;

    #[test]
    fn kubeadms() {
        let manifest = Manifest::parse(KUBEADM).unwrap();
        assert_eq!(manifest.name.as_deref(), Some("cp1"));
        assert_eq!(manifest.initial_cluster.as_deref(), Some("cp1=https://10.0.0.11:2380"));
        assert_eq!(manifest.peer_urls, ["https://10.0.0.11:2380"]);
        assert_eq!(manifest.data_dir, Some("/data/etcd".into()));
        assert_eq!(manifest.wal_dir, None);
    }

    #[test]
    fn flags_as_go_reads_them() {
        let yaml = KUBEADM
            .replace("- --name=cp1", "- --name\n    - cp2")
            .replace(
                "- --data-dir=/var/lib/etcd",
                "- -data-dir=/var/lib/etcd/inner\n    - --wal-dir=/wal",
            )
            .replace("- command:\n    - etcd", "- command: [/usr/local/bin/etcd]\n    args:");
        let manifest = Manifest::parse(&yaml).unwrap();
        assert_eq!(manifest.name.as_deref(), Some("cp2"));
        assert_eq!(manifest.data_dir, Some("/data/etcd/inner".into()));
        assert_eq!(manifest.wal_dir, Some("/wal".into()));
    }

    #[test]
    fn what_is_no_etcd() {
        for bad in ["", "{", "a: b", "spec: {containers: [{command: [kube-apiserver]}]}", "- 1"] {
            assert_eq!(Manifest::parse(bad).unwrap_err().kind(), ErrorKind::Usage, "{bad}");
        }
        let bomb = format!("a: &a [x]\n{}", "b: [*a,*a]\n".repeat(80_000));
        assert!(Manifest::parse(&bomb).is_err());
        assert!(Manifest::parse(&" ".repeat(MAX_MANIFEST + 1)).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_no_panic(text in "\\PC{0,200}", at in 0..KUBEADM.len(), junk in "[:\\-{}\\[\\]&*!|>'\"%@ \n]{0,4}") {
            let _ = Manifest::parse(&text);
            let mut yaml = KUBEADM.to_owned();
            yaml.insert_str(at, &junk);
            let _ = Manifest::parse(&yaml);
        }
    }
}
