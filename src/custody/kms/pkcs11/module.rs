//! A PKCS#11 module: C code that is loaded into this process, and the one thread that calls it.
//!
//! A call may hang for as long as the module likes. Who waits for it gives up after a while, and calls that nobody waits for
//! any more are not begun: none pile up behind one that hangs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, PoisonError};
use std::{fs, thread};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error as ModuleError, RvError};
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::RawAuthPin;
use subtle::ConstantTimeEq;
use tokio::sync::oneshot;

use super::uri::TokenKey;
use crate::custody::access::check_authentic;
use crate::custody::read_secret;
use crate::error::{Error, ErrorKind, Result};
use crate::secret::SecretBytes;

type Call = Box<dyn FnOnce(&mut Module) + Send>;

/// The threads of the modules that were called, by the modules' paths.
static THREADS: Mutex<BTreeMap<PathBuf, Sender<Call>>> = Mutex::new(BTreeMap::new());

/// What `work` makes of the module at `path`, on the module's thread.
///
/// # Errors
/// Those of `work`.
pub(super) async fn call<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce(&mut Module) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (reply, answer) = oneshot::channel();
    let call = move |module: &mut Module| {
        if !reply.is_closed() {
            let _ = reply.send(work(module));
        }
    };
    send(path, Box::new(call))?;
    answer.await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Internal, "the thread of the PKCS#11 module died"))
    })
}

fn send(path: &Path, call: Call) -> Result<()> {
    let mut threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
    let call = match threads.get(path) {
        Some(thread) => match thread.send(call) {
            Ok(()) => return Ok(()),
            // Its thread has died.
            Err(mpsc::SendError(call)) => call,
        },
        None => call,
    };
    start(&mut threads, path, call)
}

/// A module, and what was learned from it.
pub(super) struct Module {
    path: PathBuf,
    /// Never unloaded: another part of the process may use it too, and a call that hangs is still inside.
    loaded: Option<Pkcs11>,
    /// PINs that a token refused, by its serial number. Each further try of one brings the token closer to locking.
    refused: Vec<(String, SecretBytes)>,
}

impl Module {
    /// The secret key that `key` names, in a session that ends when it is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::Unreachable`] when module or token are not available; [`ErrorKind::WrongKey`] when the PIN is refused or
    /// there is no such key; [`ErrorKind::Denied`] when others can change the module.
    pub(super) fn find(&mut self, key: &TokenKey) -> Result<(Session, ObjectHandle)> {
        let loaded = self.load()?;
        let (slot, token) = find_token(&loaded, key)?;
        let session = loaded.open_ro_session(slot).map_err(|error| failed(&error))?;
        if token.login_required() {
            self.log_in(&session, &token, key)?;
        }
        let mut template = vec![Attribute::Class(ObjectClass::SECRET_KEY)];
        template.extend(key.attribute("object").map(|label| Attribute::Label(label.to_vec())));
        template.extend(key.attribute("id").map(|id| Attribute::Id(id.to_vec())));
        let found = session.find_objects(&template).map_err(|error| failed(&error))?;
        match found.as_slice() {
            [found] => Ok((session, *found)),
            [] => Err(Error::new(
                ErrorKind::WrongKey,
                format!("the token {:?} has no secret key with this name", token.label()),
            )
            .hint("`pkcs11-tool --list-objects --login` shows its keys")),
            several => {
                Err(Error::usage(format!("{} keys of the token have this name", several.len()))
                    .hint("name one by its id: pkcs11:token=…;id=%01…"))
            }
        }
    }

    fn load(&mut self) -> Result<Pkcs11> {
        if let Some(loaded) = &self.loaded {
            return Ok(loaded.clone());
        }
        let meta = fs::metadata(&self.path).map_err(|error| {
            Error::new(ErrorKind::Unreachable, format!("the PKCS#11 module is missing: {error}"))
                .hint("install it, or correct module-path in the key's URI")
        })?;
        // Whoever can change it runs code here.
        check_authentic(&self.path, &meta)?;
        let loaded = Pkcs11::new(&self.path).map_err(|error| not_loaded(&error))?;
        match loaded.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(ModuleError::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(failed(&error)),
        }
        Ok(self.loaded.insert(loaded).clone())
    }

    /// Logs in with the PIN of the key's file, once: a token locks itself after a few wrong PINs.
    fn log_in(&mut self, session: &Session, token: &TokenInfo, key: &TokenKey) -> Result<()> {
        check_tries(token.label(), token.user_pin_locked(), token.user_pin_final_try())?;
        let Some(path) = &key.pin else {
            if token.protected_authentication_path() {
                return logged_in(session.login(UserType::User, None), token);
            }
            return Err(Error::usage(format!("the token {:?} wants a PIN", token.label()))
                .hint("put it into a file of mode 0600 and add pin-source=FILE to the key's URI"));
        };
        let pin = read_secret(path)?;
        let same = |(serial, refused): &(String, SecretBytes)| {
            serial == token.serial_number() && bool::from(refused.expose().ct_eq(pin.expose()))
        };
        if self.refused.iter().any(same) {
            return Err(pin_refused(token, "it was refused before and is not tried again"));
        }
        // Wiped by the crate.
        let given = RawAuthPin::new(Box::new(pin.expose().to_vec()));
        let answer = session.login_with_raw(UserType::User, &given);
        let outcome = logged_in(answer, token);
        if outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::WrongKey) {
            self.refused.push((token.serial_number().to_owned(), pin));
        }
        outcome
    }
}

fn start(threads: &mut BTreeMap<PathBuf, Sender<Call>>, path: &Path, call: Call) -> Result<()> {
    let (calls, received) = mpsc::channel::<Call>();
    let mut module = Module { path: path.to_owned(), loaded: None, refused: Vec::new() };
    let work = move || received.into_iter().for_each(|call| call(&mut module));
    let started = thread::Builder::new().name("pkcs11".into()).spawn(work);
    started.map_err(|error| Error::io("a thread for the PKCS#11 module", error))?;
    // The thread has only begun.
    let _ = calls.send(call);
    threads.insert(path.to_owned(), calls);
    Ok(())
}

/// The one token that `key` names.
fn find_token(module: &Pkcs11, key: &TokenKey) -> Result<(Slot, TokenInfo)> {
    let slots = module.get_slots_with_initialized_token().map_err(|error| failed(&error))?;
    let token = |slot: Slot| Some((slot, module.get_token_info(slot).ok()?));
    let matches = |name: &str, value: &str| {
        key.attribute(name).is_none_or(|wanted| wanted == value.as_bytes())
    };
    let tokens: Vec<_> = slots.into_iter().filter_map(token).collect();
    let labels: Vec<_> = tokens.iter().map(|(_, info)| format!("{:?}", info.label())).collect();
    let is_named = |(_, info): &(Slot, TokenInfo)| {
        matches("token", info.label()) && matches("serial", info.serial_number())
    };
    let mut named = tokens.into_iter().filter(is_named);
    match (named.next(), named.next()) {
        (Some(token), None) => Ok(token),
        (Some(_), Some(_)) => {
            Err(Error::usage("more than one token has this name")
                .hint("add serial=… to the key's URI"))
        }
        (None, _) => {
            let present = match labels.is_empty() {
                true => "the module shows no token".to_owned(),
                false => format!("the module shows {}", labels.join(", ")),
            };
            Err(Error::new(ErrorKind::Unreachable, format!("the token is not there: {present}")))
        }
    }
}

/// That a wrong PIN would not lock the token.
fn check_tries(label: &str, is_locked: bool, is_last: bool) -> Result<()> {
    let text = match (is_locked, is_last) {
        (true, _) => "is locked after wrong PINs",
        (false, true) => "locks itself after one more wrong PIN, so that none is tried",
        (false, false) => return Ok(()),
    };
    Err(Error::new(ErrorKind::WrongKey, format!("the token {label:?} {text}")).hint(
        "log in with the token's own tool, for example `pkcs11-tool --login --test`, and correct the file of the PIN",
    ))
}

fn logged_in(answer: Result<(), ModuleError>, token: &TokenInfo) -> Result<()> {
    use RvError as Rv;
    match answer {
        Ok(()) | Err(ModuleError::Pkcs11(Rv::UserAlreadyLoggedIn, _)) => Ok(()),
        Err(ModuleError::Pkcs11(rv, _))
            if matches!(
                rv,
                Rv::PinIncorrect
                    | Rv::PinInvalid
                    | Rv::PinLenRange
                    | Rv::PinExpired
                    | Rv::PinLocked
                    | Rv::UserPinNotInitialized
            ) =>
        {
            Err(pin_refused(token, &format!("{rv:?}")))
        }
        Err(error) => Err(failed(&error)),
    }
}

fn pin_refused(token: &TokenInfo, why: &str) -> Error {
    let text = format!("the token {:?} refuses the PIN: {why}", token.label());
    Error::new(ErrorKind::WrongKey, text)
        .hint("correct the file that pin-source names; a wrong PIN is tried once only, since tokens lock themselves")
}

fn not_loaded(error: &ModuleError) -> Error {
    let text = match error {
        ModuleError::MissingSymbol(symbol) => {
            format!("the file is not a PKCS#11 module: it has no {symbol}")
        }
        other => format!("the PKCS#11 module cannot be loaded: {other}"),
    };
    Error::new(ErrorKind::Unreachable, text)
}

/// What a module's error means: that it or its token is down, that it refuses, or that it does not know how.
pub(super) fn failed(error: &ModuleError) -> Error {
    use RvError as Rv;
    let ModuleError::Pkcs11(rv, function) = error else {
        return Error::new(ErrorKind::Protocol, format!("the PKCS#11 module: {error}"));
    };
    let kind = match rv {
        Rv::KeyFunctionNotPermitted | Rv::ActionProhibited | Rv::UserNotLoggedIn => {
            ErrorKind::WrongKey
        }
        Rv::MechanismInvalid | Rv::MechanismParamInvalid | Rv::FunctionNotSupported => {
            ErrorKind::Unsupported
        }
        // Many modules have one answer for all troubles.
        _ => ErrorKind::Unreachable,
    };
    Error::new(kind, format!("the PKCS#11 module answers {rv:?} to {function:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_try_is_left_to_a_person() {
        assert!(check_tries("t", false, false).is_ok());
        for (is_locked, is_last) in [(true, false), (true, true), (false, true)] {
            let error = check_tries("t", is_locked, is_last).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WrongKey);
        }
    }
}
