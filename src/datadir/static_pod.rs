//! What a member was started with, from the static pod that kubeadm writes (`/etc/kubernetes/manifests/etcd.yaml`).

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};

/// The longest manifest that is read, in bytes.
pub const MAX_STATIC_POD: usize = 1 << 20;

/// etcd's flags that a restore needs, and where the pod's data directory is on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StaticPod {
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
    name: String,
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
    #[serde(default)]
    sub_path: PathBuf,
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

/// The words of the command line of `program` in a pod's YAML, the program first.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) when it is no pod that runs it.
#[cfg(feature = "posture")]
pub(crate) fn command_line(yaml: &str, program: &str) -> Result<Vec<String>> {
    let pod = Pod::parse(yaml)?;
    let mut containers = pod.spec.containers.iter();
    let found = containers
        .find(|container| container.runs(program))
        .ok_or_else(|| Error::usage(format!("none of its containers runs {program}")))?;
    Ok(found.words().map(str::to_owned).collect())
}

impl Pod {
    fn parse(yaml: &str) -> Result<Self> {
        if yaml.len() > MAX_STATIC_POD {
            return Err(Error::usage(format!(
                "{} bytes are too many for a pod manifest",
                yaml.len()
            )));
        }
        serde_saphyr::from_str(yaml)
            .map_err(|error| Error::usage("it is not a pod in YAML").because(error))
    }
}

impl StaticPod {
    /// Of a pod's YAML.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when it is no pod that runs etcd, or when what it would read from a directory
    /// does not come from the host.
    pub fn parse(yaml: &str) -> Result<Self> {
        let pod = Pod::parse(yaml)?;
        let mut containers = pod.spec.containers.iter();
        let etcd = containers.find(|container| container.runs("etcd")).ok_or_else(|| {
            Error::usage("none of its containers runs etcd")
                .hint("kubeadm's is /etc/kubernetes/manifests/etcd.yaml")
        })?;
        let on_host = |flag: &str| {
            let inner = etcd.flag(flag).map(PathBuf::from);
            inner.map(|path| etcd.on_host(flag, &path, &pod.spec.volumes)).transpose()
        };
        let peer_urls = etcd.flag("initial-advertise-peer-urls").unwrap_or_default();
        Ok(Self {
            name: etcd.flag("name"),
            initial_cluster: etcd.flag("initial-cluster"),
            peer_urls: peer_urls.split(',').filter(|url| !url.is_empty()).map(Into::into).collect(),
            data_dir: on_host("data-dir")?,
            wal_dir: on_host("wal-dir")?,
        })
    }
}

impl Container {
    fn words(&self) -> impl Iterator<Item = &str> {
        self.command.iter().chain(&self.args).map(String::as_str)
    }

    /// By the program it starts, or by its name where a shell or the image starts it.
    fn runs(&self, wanted: &str) -> bool {
        let program = self.words().next().and_then(|word| Path::new(word).file_name());
        program.is_some_and(|name| name == wanted) || self.name == wanted
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
    fn on_host(&self, flag: &str, path: &Path, volumes: &[Volume]) -> Result<PathBuf> {
        let error = |why: &str| {
            Error::usage(format!("its --{flag}={}: {why}", path.display()))
                .hint("a restored directory would not be the one that this pod sees: mount it by hostPath, or give etcd's flags instead of the manifest")
        };
        let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
        if !path.components().all(plain) {
            return Err(error("not a plain absolute path"));
        }
        let mounts = self.volume_mounts.iter();
        let mounted = mounts.filter(|mount| path.starts_with(&mount.mount_path));
        // The innermost mount is the one that is seen.
        let host = mounted.max_by_key(|mount| mount.mount_path.components().count());
        let host = host.and_then(|mount| {
            let volume = volumes.iter().find(|volume| volume.name == mount.name)?;
            let host = volume.host_path.as_ref()?.path.join(&mount.sub_path);
            // Joined part by part: an empty rest would leave a slash at the end.
            path.strip_prefix(&mount.mount_path)
                .ok()
                .map(|rest| host.components().chain(rest.components()).collect())
        });
        host.ok_or_else(|| error("no hostPath volume of the pod holds it"))
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
        let manifest = StaticPod::parse(KUBEADM).unwrap();
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
                "- -data-dir=/var/lib/etcd/inner\n    - --wal-dir=/var/lib/etcd/log/",
            )
            .replace("- command:\n    - etcd", "- command: [/usr/local/bin/etcd]\n    args:");
        let manifest = StaticPod::parse(&yaml).unwrap();
        assert_eq!(manifest.name.as_deref(), Some("cp2"));
        assert_eq!(manifest.data_dir, Some("/data/etcd/inner".into()));
        assert_eq!(manifest.wal_dir, Some("/data/etcd/log".into()));
    }

    #[test]
    fn the_program_is_etcd() {
        let sidecar =
            "containers:\n  - name: logs\n    command: [tail, -f, /var/lib/etcd, /etcd]\n";
        let manifest = StaticPod::parse(&KUBEADM.replace("containers:\n", sidecar)).unwrap();
        assert_eq!(manifest.name.as_deref(), Some("cp1"));
        let by_image = KUBEADM.replace("- command:\n    - etcd\n", "- args:\n");
        assert_eq!(StaticPod::parse(&by_image).unwrap(), manifest);
        let other = by_image
            .replace("    name: etcd\n    volumeMounts", "    name: other\n    volumeMounts");
        assert_eq!(StaticPod::parse(&other).unwrap_err().kind(), ErrorKind::Usage);
    }

    #[test]
    fn what_the_host_holds() {
        let data_dir = |from: &str, to: &str| {
            assert!(KUBEADM.contains(from));
            StaticPod::parse(&KUBEADM.replace(from, to)).map(|manifest| manifest.data_dir.unwrap())
        };
        let mount = "- mountPath: /var/lib/etcd\n";
        let sub_path = data_dir(mount, "- mountPath: /var/lib/etcd\n      subPath: sub\n").unwrap();
        assert_eq!(sub_path, Path::new("/data/etcd/sub"));
        let outer = "- mountPath: /var\n      name: etcd-certs\n    - mountPath: /var/lib/etcd/\n";
        assert_eq!(data_dir(mount, outer).unwrap(), Path::new("/data/etcd"));
        let volume = "- hostPath:\n      path: /data/etcd\n      type: DirectoryOrCreate\n";
        for (from, to) in [
            (mount, "- mountPath: /var/lib/etc\n"),
            (volume, "- emptyDir: {}\n"),
            ("=/var/lib/etcd\n", "=/var/lib/etcd/../../etc\n"),
            ("=/var/lib/etcd\n", "=default.etcd\n"),
            ("=/var/lib/etcd\n", "=/var/lib/etcd\n    - --wal-dir=/wal\n"),
        ] {
            let error = data_dir(from, to).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.hint_text().is_some(), "{error}");
        }
    }

    #[test]
    fn what_is_no_etcd() {
        for bad in ["", "{", "a: b", "spec: {containers: [{command: [kube-apiserver]}]}", "- 1"] {
            assert_eq!(StaticPod::parse(bad).unwrap_err().kind(), ErrorKind::Usage, "{bad}");
        }
        let bomb = format!("a: &a [x]\n{}", "b: [*a,*a]\n".repeat(80_000));
        assert!(StaticPod::parse(&bomb).is_err());
        assert!(StaticPod::parse(&" ".repeat(MAX_STATIC_POD + 1)).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_no_panic(text in "\\PC{0,200}", at in 0..KUBEADM.len(), junk in "[:\\-{}\\[\\]&*!|>'\"%@ \n]{0,4}") {
            let _ = StaticPod::parse(&text);
            let mut yaml = KUBEADM.to_owned();
            yaml.insert_str(at, &junk);
            let _ = StaticPod::parse(&yaml);
        }
    }
}
