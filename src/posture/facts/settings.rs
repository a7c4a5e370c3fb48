//! The settings that etcd runs with, as it reads them: flags, then `ETCD_*` variables; or a configuration file alone.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::super::fact::Unknown;

/// One setting, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) value: String,
    pub(crate) source: &'static str,
}

/// All settings of one etcd.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    set: BTreeMap<String, Setting>,
    /// Why some may be missing.
    incomplete: Option<String>,
    /// The flags on the command line, empty ones too; nothing if that was not read.
    flags: Option<BTreeSet<String>>,
}

/// The source of what a configuration file sets.
const FILE: &str = "configuration file";
/// Tables of a configuration file, and what etcd puts before the names in them.
const TABLES: [(&str, &str); 2] =
    [("client-transport-security", ""), ("peer-transport-security", "peer-")];

/// Flags of Kubernetes' API server that add to what they were given before.
const LISTS: [&str; 2] = ["etcd-servers", "etcd-servers-overrides"];

impl Settings {
    /// From the words of a command line, its program first, and the variables, if they could be read.
    pub(crate) fn of_process(
        words: &[String],
        environ: Result<Vec<(String, String)>, String>,
    ) -> Self {
        let mut settings = Self { flags: Some(BTreeSet::new()), ..Self::default() };
        match environ {
            Ok(environ) => {
                for (name, value) in environ {
                    if let Some(name) = name.strip_prefix("ETCD_").filter(|_| !value.is_empty()) {
                        settings.put(
                            &name.to_ascii_lowercase().replace('_', "-"),
                            value,
                            "variable",
                        );
                    }
                }
            }
            Err(why) => settings.incomplete = Some(why),
        }
        let mut words = words.iter().skip(1).peekable();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
                continue;
            };
            if let Some((name, value)) = flag.split_once('=') {
                settings.put_flag(name, value);
                continue;
            }
            // A flag without a value is a switch, unless a value follows.
            let value = words.next_if(|next| !next.starts_with('-'));
            settings.put_flag(flag, value.map_or("true", String::as_str));
        }
        settings
    }

    /// From a configuration file: then etcd looks at nothing else.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn of_file(yaml: &str) -> Result<Self, String> {
        let document: Value = serde_saphyr::from_str(yaml)
            .map_err(|_| "the configuration file is not YAML".to_owned())?;
        let Some(fields) = document.as_object() else {
            return Err("the configuration file is not a table".into());
        };
        let mut settings = Self::default();
        for (name, value) in fields {
            match TABLES.iter().find(|(table, _)| table == name) {
                Some((_, prefix)) => {
                    for (name, value) in value.as_object().into_iter().flatten() {
                        settings.put_value(&format!("{prefix}{name}"), value);
                    }
                }
                None => settings.put_value(name, value),
            }
        }
        Ok(settings)
    }

    fn put_value(&mut self, name: &str, value: &Value) {
        let text = match value {
            Value::Null => return,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        if !text.is_empty() {
            self.put(name, text, FILE);
        }
    }

    /// An empty flag undoes what a variable sets.
    fn put_flag(&mut self, name: &str, value: &str) {
        if let Some(flags) = &mut self.flags {
            flags.insert(name.to_owned());
        }
        let before = self.set.get(name).filter(|_| LISTS.contains(&name));
        let value = match before {
            Some(before) => format!("{},{value}", before.value),
            None => value.to_owned(),
        };
        match value.is_empty() {
            true => drop(self.set.remove(name)),
            false => self.put(name, value, "flag"),
        }
    }

    fn put(&mut self, name: &str, value: String, source: &'static str) {
        self.set.insert(name.to_owned(), Setting { value, source });
    }

    /// With the flags of `other`, beside which a configuration file counts.
    pub(crate) fn beside(self, other: Self) -> Self {
        Self { flags: other.flags, ..self }
    }

    /// Whether a flag is on the command line, also where it has no effect.
    ///
    /// # Errors
    /// [`Unknown`] if that could not be read.
    pub(crate) fn has_flag(&self, name: &str) -> Result<bool, Unknown> {
        let flags = self.flags.as_ref();
        let flags = flags.ok_or_else(|| Unknown("the command line was not read".into()))?;
        Ok(flags.contains(name))
    }

    /// The setting, if it is set.
    ///
    /// # Errors
    /// [`Unknown`] if it may be set where nothing could be read.
    pub(crate) fn get(&self, name: &str) -> Result<Option<&Setting>, Unknown> {
        match (self.set.get(name), &self.incomplete) {
            (Some(setting), _) => Ok(Some(setting)),
            (None, Some(why)) => Err(Unknown(format!("{name} may be set by a variable: {why}"))),
            (None, None) => Ok(None),
        }
    }

    /// As [`get`](Self::get), the value alone.
    pub(crate) fn value(&self, name: &str) -> Result<Option<&str>, Unknown> {
        Ok(self.get(name)?.map(|setting| setting.value.as_str()))
    }

    /// A switch, off unless it is set. A configuration file is YAML 1.1, and has more words for on and off.
    ///
    /// # Errors
    /// [`Unknown`] also if the value is neither.
    pub(crate) fn is_on(&self, name: &str) -> Result<bool, Unknown> {
        let Some(setting) = self.get(name)? else { return Ok(false) };
        let lower = setting.value.to_ascii_lowercase();
        match (lower.as_str(), setting.source) {
            ("true" | "1" | "t", _) | ("on" | "yes" | "y", FILE) => Ok(true),
            ("false" | "0" | "f", _) | ("off" | "no" | "n", FILE) => Ok(false),
            _ => Err(Unknown(format!("{name} is neither on nor off"))),
        }
    }

    /// `name=value (flag)`, or that it is not set. For settings that hold no secret.
    pub(crate) fn said(&self, name: &str) -> String {
        match self.set.get(name) {
            Some(setting) => {
                format!("{name}={} ({})", crate::text::clean(&setting.value), setting.source)
            }
            None => format!("{name} is not set"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn flags_win_over_variables() {
        let environ = vec![
            ("ETCD_CLIENT_CERT_AUTH".to_owned(), "false".to_owned()),
            ("ETCD_DATA_DIR".to_owned(), "/data".to_owned()),
            ("PATH".to_owned(), "/bin".to_owned()),
        ];
        let line = words("etcd --client-cert-auth -name=m0 --cert-file /a.crt --auto-tls");
        let settings = Settings::of_process(&line, Ok(environ));
        assert!(settings.is_on("client-cert-auth").unwrap() && settings.is_on("auto-tls").unwrap());
        assert_eq!(settings.value("cert-file").unwrap(), Some("/a.crt"));
        assert_eq!(settings.value("name").unwrap(), Some("m0"));
        assert_eq!(settings.said("data-dir"), "data-dir=/data (variable)");
        assert_eq!(settings.value("key-file").unwrap(), None);
        let emptied = [line.clone(), words("--data-dir= --cert-file=")].concat();
        let emptied = Settings::of_process(
            &emptied,
            Ok(vec![("ETCD_DATA_DIR".to_owned(), "/data".to_owned())]),
        );
        for name in ["data-dir", "cert-file"] {
            assert_eq!(emptied.value(name).unwrap(), None, "{name}");
        }
        assert!(emptied.has_flag("data-dir").unwrap() && !emptied.has_flag("key-file").unwrap());
        let file = Settings::of_file("name: a").unwrap();
        assert!(file.has_flag("name").is_err());
        assert!(file.beside(emptied).has_flag("data-dir").unwrap());
        let unread = Settings::of_process(&line, Err("permission denied".into()));
        assert!(unread.get("key-file").is_err() && unread.get("cert-file").unwrap().is_some());
    }

    #[test]
    fn a_configuration_file() {
        let yaml = "name: m0\ndata-dir: /data\nclient-transport-security:\n  cert-file: /a.crt\n  client-cert-auth: true\npeer-transport-security:\n  auto-tls: true\nlog-level: ''\n";
        let settings = Settings::of_file(yaml).unwrap();
        assert!(
            settings.is_on("client-cert-auth").unwrap() && settings.is_on("peer-auto-tls").unwrap()
        );
        assert_eq!(settings.value("cert-file").unwrap(), Some("/a.crt"));
        assert_eq!(settings.value("log-level").unwrap(), None);
        let yaml = "client-transport-security:\n  client-cert-auth: yes\n  auto-tls: Off\nenable-v2: maybe\n";
        let settings = Settings::of_file(yaml).unwrap();
        assert!(settings.is_on("client-cert-auth").unwrap());
        assert!(!settings.is_on("auto-tls").unwrap());
        assert!(settings.is_on("enable-v2").is_err());
        for bad in ["- a", "a: [", ""] {
            assert!(Settings::of_file(bad).is_err(), "{bad}");
        }
    }
}
