//! The configuration file: TOML, flattened to settings by their path, such as `etcd.endpoints`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{Error, ErrorKind, Result};
use crate::text::distance;

/// Tables whose keys are a store's own options. They may hold secrets.
const FREE: [&str; 2] = ["repository.options", "copy.options"];
/// Settings that had another name.
const RENAMED: [(&str, &str); 1] = [("agent.etcd", "drill.etcd")];

/// What the file says. There is no `Debug`: a store's options may be secrets.
#[derive(Default)]
pub struct File {
    path: PathBuf,
    settings: BTreeMap<String, Entry>,
    free: BTreeMap<&'static str, BTreeMap<String, String>>,
}

/// One setting in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its value, or the values of a list.
    pub values: Vec<String>,
    /// How it is written.
    pub shape: Shape,
    /// The line that it is in.
    pub line: usize,
}

/// How a setting is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `[…]`
    List,
    /// `true` or `false`
    Bool,
    /// A string or an integer.
    Single,
}

impl File {
    /// Reads the file at `path`; one that does not have to exist is then empty.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when it cannot be read or is not TOML. Values are not repeated: they may be secrets.
    pub fn read(path: &Path, must_exist: bool) -> Result<Self> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(error) if !must_exist && error.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            Err(error) => Err(Error::new(ErrorKind::Usage, format!("{}: {error}", path.display()))),
        }
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let mut file = Self { path: path.to_owned(), ..Self::default() };
        let table = DeTable::parse(text).map_err(|error| {
            let line = line_of(text, error.span().map_or(0, |span| span.start));
            file.error(line, error.message())
        })?;
        file.table(text, "", table.into_inner())?;
        Ok(file)
    }

    fn table(&mut self, text: &str, path: &str, table: DeTable<'_>) -> Result<()> {
        for (key, value) in table {
            let dot = if path.is_empty() { "" } else { "." };
            let name = format!("{path}{dot}{}", key.get_ref());
            let line = line_of(text, key.span().start);
            if let Some(free) = FREE.into_iter().find(|free| *free == path) {
                let DeValue::String(option) = value.into_inner() else {
                    return Err(self.error(line, &format!("{name}: write a string in quotes")));
                };
                let options = self.free.entry(free).or_default();
                options.insert(key.get_ref().to_string(), option.into_owned());
                continue;
            }
            match value.into_inner() {
                DeValue::Table(inner) => {
                    if let Some(free) = FREE.into_iter().find(|free| *free == name) {
                        self.free.entry(free).or_default();
                    }
                    self.table(text, &name, inner)?;
                }
                value => {
                    let (shape, values) = plain(value).ok_or_else(|| {
                        self.error(line, &format!("{name}: write a string, an integer, true, false or a list of strings"))
                    })?;
                    let renamed = RENAMED.into_iter().find(|(old, _)| *old == name);
                    let id = renamed.map_or(name, |(_, new)| new.into());
                    let entry = Entry { values, shape, line };
                    if self.settings.insert(id.clone(), entry).is_some() {
                        return Err(self.error(line, &format!("{id} is there twice")));
                    }
                }
            }
        }
        Ok(())
    }

    /// Whatever in the file is none of the settings `known`, with the nearest known one.
    pub fn unknown(&self, known: &[String]) -> Vec<Error> {
        let unknown = self.settings.iter().filter(|(name, _)| !known.contains(name));
        unknown
            .map(|(name, entry)| {
                let error = self.error(entry.line, &format!("unknown setting {name}"));
                let nearest = known.iter().map(|known| (distance(name, known), known)).min();
                match nearest.filter(|(steps, known)| *steps <= known.len() / 3) {
                    Some((_, nearest)) => error.hint(format!("did you mean {nearest}?")),
                    None => error.hint("`strongroom config example` prints every setting"),
                }
            })
            .collect()
    }

    /// The setting `name`, if it is in the file.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.settings.get(name)
    }

    /// Whether a setting of the table `name` is in the file.
    #[must_use]
    pub fn has_table(&self, name: &str) -> bool {
        let of = |setting: &String| setting.split_once('.').is_some_and(|(table, _)| table == name);
        self.settings.keys().any(of)
    }

    /// A store's options: of the table `repository.options` or `copy.options`, if that is in the file.
    #[must_use]
    pub fn options(&self, table: &str) -> Option<&BTreeMap<String, String>> {
        self.free.get(table)
    }

    /// Where the file is; empty if there is none.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `what` is wrong in `line`.
    #[must_use]
    pub fn error(&self, line: usize, what: &str) -> Error {
        Error::usage(format!("{}, line {line}: {what}", self.path.display()))
    }
}

fn plain(value: DeValue<'_>) -> Option<(Shape, Vec<String>)> {
    Some(match value {
        DeValue::String(text) => (Shape::Single, vec![text.into_owned()]),
        DeValue::Integer(number) => {
            (Shape::Single, vec![integer(number.radix(), number.as_str())?])
        }
        DeValue::Boolean(is) => (Shape::Bool, vec![is.to_string()]),
        DeValue::Array(items) => {
            let text = |item: Spanned<DeValue<'_>>| match item.into_inner() {
                DeValue::String(text) => Some(text.into_owned()),
                _ => None,
            };
            (Shape::List, items.into_iter().map(text).collect::<Option<_>>()?)
        }
        _ => return None,
    })
}

fn integer(radix: u32, digits: &str) -> Option<String> {
    i64::from_str_radix(digits, radix).ok().map(|number| number.to_string())
}

fn line_of(text: &str, at: usize) -> usize {
    text.get(..at).unwrap_or(text).matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<File> {
        File::parse(Path::new("test.toml"), text)
    }

    #[test]
    fn settings_have_paths_and_lines() {
        let file = parse(
            "cluster = \"a\"\n\n[etcd]\nendpoints = [\"x\", \"y,z\"]\nallow_untested = true\n\
             [agent]\netcd = \"/etcd\"\n[backup]\nlevel = -0x2\n",
        );
        let Err(error) = file else { panic!("TOML has no negative hexadecimal numbers") };
        assert!(error.to_string().contains("line 9"), "{error}");
        let file = parse(
            "cluster = \"a\"\n\n[etcd]\nendpoints = [\"x\", \"y,z\"]\nallow_untested = true\n\
             [agent]\netcd = \"/etcd\"\n[backup]\nlevel = -1_0\n",
        )
        .unwrap();
        let get = |name: &str| {
            let entry = file.get(name).unwrap();
            (entry.values.join(" "), entry.shape, entry.line)
        };
        assert_eq!(get("cluster"), ("a".into(), Shape::Single, 1));
        assert_eq!(get("etcd.endpoints"), ("x y,z".into(), Shape::List, 4));
        assert_eq!(get("etcd.allow_untested"), ("true".into(), Shape::Bool, 5));
        assert_eq!(get("drill.etcd"), ("/etcd".into(), Shape::Single, 7));
        assert_eq!(get("backup.level"), ("-10".into(), Shape::Single, 9));
        assert!(file.has_table("backup") && !file.has_table("proxy"));
    }

    #[test]
    fn an_unknown_setting_is_named_with_the_nearest() {
        let file = parse("[etcd]\nendpionts = [\"x\"]\npassword = \"hunter2\"\n").unwrap();
        let known = ["etcd.endpoints".to_owned(), "etcd.user".to_owned()];
        let errors = file.unknown(&known);
        assert_eq!(errors.len(), 2);
        assert_eq!(errors[0].to_string(), "test.toml, line 2: unknown setting etcd.endpionts");
        assert_eq!(errors[0].hint_text(), Some("did you mean etcd.endpoints?"));
        assert!(!format!("{:?}", errors[1]).contains("hunter2"));
    }

    #[test]
    fn options_are_free_and_never_repeated() {
        let file = parse("[repository.options]\na = \"b\"\n[copy]\noptions = {}\n").unwrap();
        assert_eq!(file.options("repository.options").unwrap()["a"], "b");
        assert!(file.options("copy.options").unwrap().is_empty());
        for text in
            ["[copy.options]\nkey = 424242", "[copy.options]\nkey = \"424242", "[a]\nb = 4.24242"]
        {
            let error = parse(text).err().unwrap();
            assert!(error.to_string().contains("line 2"), "{error}");
            assert!(!format!("{error}{error:?}").contains("4242"), "{error:?}");
        }
    }
}
