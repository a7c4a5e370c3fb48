//! The one error type: what went wrong, where, and what to do next.

use std::fmt;

/// Result of every fallible operation in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What class of failure an [`Error`] is. Decides the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller asked for something that makes no sense (flags, settings, arguments).
    Usage,
    /// etcd or the store cannot be reached, timed out or broke off: worth retrying.
    Unreachable,
    /// No repository at the given place.
    NoRepository,
    /// No such snapshot, object or key.
    NotFound,
    /// It is there already and must not be overwritten.
    AlreadyExists,
    /// No master key that is available opens it.
    WrongKey,
    /// Bytes are not what their author wrote.
    Tampered,
    /// An object is absent or shorter than its snapshot says.
    Truncated,
    /// Made by a newer version, or asks for a feature this one does not have.
    Unsupported,
    /// The other side refuses: credentials, roles, permissions.
    Denied,
    /// The request would leave a snapshot that nobody can open, or lose something.
    Refused,
    /// Stopped by a signal.
    Interrupted,
    /// A local file could not be read or written.
    Io,
    /// etcd or the store answered something it must not.
    Protocol,
    /// A fault of this program: a worker of it panicked.
    Internal,
}

impl ErrorKind {
    /// The one table of kinds: (name in JSON and metrics, exit status).
    const fn row(self) -> (&'static str, u8) {
        match self {
            Self::Usage => ("usage", 2),
            Self::Unreachable => ("unreachable", 4),
            Self::NoRepository => ("no-repository", 10),
            Self::NotFound => ("not-found", 1),
            Self::AlreadyExists => ("already-exists", 1),
            Self::WrongKey => ("wrong-key", 12),
            Self::Tampered => ("tampered", 13),
            Self::Truncated => ("truncated", 13),
            Self::Unsupported => ("unsupported", 1),
            Self::Denied => ("denied", 1),
            Self::Refused => ("refused", 1),
            Self::Interrupted => ("interrupted", 130),
            Self::Io => ("io", 1),
            Self::Protocol => ("protocol", 1),
            Self::Internal => ("internal", 70),
        }
    }

    const ALL: [Self; 14] = [
        Self::Usage,
        Self::Unreachable,
        Self::NoRepository,
        Self::NotFound,
        Self::AlreadyExists,
        Self::WrongKey,
        Self::Tampered,
        Self::Truncated,
        Self::Unsupported,
        Self::Denied,
        Self::Refused,
        Self::Interrupted,
        Self::Io,
        Self::Protocol,
    ];

    /// The kind of this [`name`](Self::name).
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether it is about what all of a job depends on, a place or the run itself, and not about one object.
    pub const fn is_general(self) -> bool {
        matches!(
            self,
            Self::Unreachable | Self::Denied | Self::Io | Self::Interrupted | Self::Internal
        )
    }

    /// Whether reading failed, so that nothing is known of the object: it may be the one that counts.
    #[cfg(feature = "backup")]
    pub(crate) const fn is_of_store(self) -> bool {
        self.is_general() || matches!(self, Self::Protocol)
    }

    /// Whether a listed object that could not be read may be readable later. Somebody who can only create objects cannot cause
    /// such an error.
    #[cfg(feature = "backup")]
    pub(crate) const fn is_away(self) -> bool {
        self.is_of_store() || matches!(self, Self::NotFound)
    }

    /// Stable lower-case name, as in `-w json` output.
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// Exit status of the program when a command ends with this kind.
    pub const fn exit_code(self) -> u8 {
        self.row().1
    }
}

/// An error: its kind, what was being done, what went wrong and what to do about it.
///
/// Displays as `context: message`; the [hint](Error::hint) stands apart. Debug adds the kind and the hint, so that what
/// `unwrap` prints can be read. Never holds a secret.
pub struct Error(Box<Inner>);

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.kind().name())?;
        match &self.0.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

struct Inner {
    kind: ErrorKind,
    message: String,
    context: Vec<String>,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            context: Vec::new(),
            hint: None,
            source: None,
        }))
    }

    /// Shorthand for [`ErrorKind::Usage`].
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// Shorthand for [`ErrorKind::Tampered`].
    pub fn tampered(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Tampered, message)
    }

    /// Shorthand for [`ErrorKind::Truncated`].
    pub fn truncated(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Truncated, message)
    }

    /// Shorthand for [`ErrorKind::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// A file-system error at `path`.
    pub fn io(path: impl AsRef<std::path::Path>, source: std::io::Error) -> Self {
        let message = format!("{}: {source}", path.as_ref().display());
        Self::new(ErrorKind::Io, message).because(source)
    }

    /// Says what was being done, outermost last added: `restore 01J…: index: …`.
    #[must_use]
    pub fn context(mut self, what: impl Into<String>) -> Self {
        self.0.context.push(what.into());
        self
    }

    /// Says what the reader can do next.
    #[must_use]
    pub fn hint(mut self, what: impl Into<String>) -> Self {
        self.0.hint = Some(what.into());
        self
    }

    /// Keeps the underlying error for [`source`](std::error::Error::source).
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same once more, for a second reader; without the underlying error.
    #[must_use]
    pub fn repeated(&self) -> Self {
        let error = Self::new(self.kind(), self.to_string());
        match self.hint_text() {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    /// The class of failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What the reader can do next, if anything is known to help.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for what in self.0.context.iter().rev() {
            write!(f, "{what}: ")?;
        }
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// The first cause of `error`, which is what helps: a name that is not known, a certificate that is not trusted.
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure", feature = "kms-v2"))]
pub(crate) fn first_cause<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> &'a (dyn std::error::Error + 'static) {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause
}

/// Adds context to the error of a result, as [`Error::context`].
pub trait Context<T> {
    /// Says what was being done when it failed.
    ///
    /// # Errors
    /// Those of the result itself.
    fn context(self, what: impl Into<String>) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|error| error.context(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_kinds() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::of_name(kind.name()), Some(kind));
        }
        assert_eq!(ErrorKind::of_name("other"), None);
    }

    #[test]
    fn displays_outermost_context_first() {
        let error = Error::tampered("bad magic").context("index").context("restore X");
        assert_eq!(error.to_string(), "restore X: index: bad magic");
        let debug = format!("{:?}", error.hint("restore Y"));
        assert_eq!(debug, "tampered: restore X: index: bad magic (restore Y)");
        let error = Error::tampered("bad magic");
        assert_eq!(error.kind().exit_code(), 13);
    }
}
