//! Master keys in a token: SoftHSM, as its own tools set it up.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki::session::UserType;

use crate::end_to_end::{program, run};
use crate::place::write_secret;
use crate::support::{open_stanza, small_database};

const PIN: &str = "1234";

/// A token in a directory of its own, and a repository.
pub struct Token {
    dir: tempfile::TempDir,
}

impl Token {
    /// Without any token yet.
    fn none() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tokens = dir.path().join("tokens");
        fs::create_dir(&tokens).unwrap();
        let text = format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display());
        fs::write(dir.path().join("softhsm2.conf"), text).unwrap();
        write_secret(&dir.path().join("pin"), PIN);
        Self { dir }
    }

    /// With a token and nothing in it.
    fn new() -> Self {
        let token = Self::none();
        let init = ["--init-token", "--free", "--label", "vault", "--so-pin", "5678"];
        token.util(&[&init[..], &["--pin", PIN]].concat());
        token
    }

    /// With a key `backups` of such bytes.
    pub fn with_key(fill: u8) -> Self {
        let token = Self::new();
        let key = token.path("imported");
        fs::write(&key, [fill; 32]).unwrap();
        let import = ["--import", &key, "--aes", "--token", "vault", "--label", "backups"];
        token.util(&[&import[..], &["--id", "01", "--pin", PIN]].concat());
        token
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn with_configuration(&self, mut command: Command) -> Command {
        command.env("SOFTHSM2_CONF", self.path("softhsm2.conf"));
        command
    }

    fn util(&self, args: &[&str]) {
        let mut util = self.with_configuration(Command::new("softhsm2-util"));
        let output = util.args(args).output().expect("softhsm2-util: run scripts/get-tools");
        assert!(output.status.success(), "{output:?}");
    }

    pub fn uri(&self, object: &str) -> String {
        self.uri_with(object, module().to_str().unwrap(), &self.path("pin"))
    }

    fn uri_with(&self, object: &str, module: &str, pin: &str) -> String {
        format!("pkcs11:token=vault;object={object}?module-path={module}&pin-source={pin}")
    }

    /// What the program does with `args` and the key `uri`: exit status, output, errors.
    pub fn on(&self, repository: &str, uri: &str, args: &[&str]) -> (i32, String) {
        let mut command = self.with_configuration(program());
        let output = command.args(["-r", repository, "-k", uri]).args(args).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    }

    fn backup(&self, repository: &str, uri: &str) -> (i32, String) {
        let database = small_database();
        self.on(
            repository,
            uri,
            &["backup", "--cluster", "c", "--file", database.to_str().unwrap()],
        )
    }

    /// A repository with a snapshot that this token's key has sealed.
    pub fn repository(&self) -> String {
        let repository = self.path("repository");
        run(program().args(["init", "-r", &repository]));
        let (code, text) = self.backup(&repository, &self.uri("backups"));
        assert_eq!(code, 0, "{text}");
        repository
    }
}

/// SoftHSM's module, where distributions install it.
fn module() -> PathBuf {
    let places = [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib64/pkcs11/libsofthsm2.so",
        "/usr/lib64/softhsm/libsofthsm2.so",
        "/usr/lib/pkcs11/libsofthsm2.so",
    ];
    let found = places.into_iter().map(PathBuf::from).find(|path| path.exists());
    found.expect("SoftHSM: run scripts/get-tools")
}

#[test]
fn a_token_seals_what_only_it_opens() {
    let token = Token::with_key(7);
    let repository = token.repository();
    let restored = token.path("restored");
    let (code, text) =
        token.on(&repository, &token.uri("backups"), &["restore", "latest", "--output", &restored]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(fs::read(restored).unwrap(), fs::read(small_database()).unwrap());
    open_stanza(repository.as_ref(), "object=backups;token=vault");
    // Its id in the token names the same key, and is another name in seals.
    let by_id = token.uri("backups").replace("object=backups", "id=%01");
    assert_eq!(token.on(&repository, &by_id, &["verify", "latest"]).0, 12);
    assert_eq!(token.backup(&repository, &by_id).0, 0);
}

#[test]
fn a_wrong_pin_is_tried_once() {
    let token = Token::with_key(7);
    let repository = token.repository();
    assert_eq!(token.backup(&repository, &token.uri("backups")).0, 0);
    write_secret(&token.dir.path().join("wrong"), "43218765");
    let module = module();
    let uri = token.uri_with("backups", module.to_str().unwrap(), &token.path("wrong"));
    let (code, text) = token.on(&repository, &uri, &["verify", "--all"]);
    assert_eq!(code, 12, "{text}");
    assert_eq!(text.matches("refuses the PIN: PinIncorrect").count(), 1, "{text}");
    assert_eq!(text.matches("is not tried again").count(), 1, "{text}");
    let (code, text) = token.backup(&repository, &uri);
    assert!(code == 12 && !text.contains("4321"), "{code} {text}");
    let uri = uri.split("&pin-source").next().unwrap();
    let (code, text) = token.on(&repository, uri, &["verify", "latest"]);
    assert!(code == 2 && text.contains("wants a PIN"), "{code} {text}");
    let (code, text) =
        token.on(&repository, &format!("{uri}&pin-value=43218765"), &["verify", "latest"]);
    assert!(code == 2 && !text.contains("4321"), "{code} {text}");
}

/// Exit status, and a part of the text, by what is wrong with the token or its module.
#[test]
fn what_is_missing_or_wrong_is_told_apart() {
    let token = Token::with_key(7);
    let repository = token.repository();
    let uri = token.uri("backups");
    for (other, code, text) in [
        (Token::none(), 4, "the token is not there: the module shows no token"),
        (Token::new(), 12, "has no secret key with this name"),
        (Token::with_key(8), 13, "does not open it, and opens other bytes"),
    ] {
        let (found, output) = other.on(&repository, &uri, &["restore", "latest", "--output", "x"]);
        assert!(found == code && output.contains(text), "{text}: {found} {output}");
    }
    let copy = token.path("module.so");
    fs::copy(module(), &copy).unwrap();
    fs::set_permissions(&copy, Permissions::from_mode(0o666)).unwrap();
    let text = token.path("text.so");
    fs::write(&text, "no module").unwrap();
    for (module, code, text) in [
        (copy.as_str(), 1, "others can change"),
        (text.as_str(), 4, "cannot be loaded"),
        ("/nonexistent/module.so", 4, "the PKCS#11 module is missing"),
    ] {
        let uri = token.uri_with("backups", module, &token.path("pin"));
        let (found, output) = token.on(&repository, &uri, &["restore", "latest", "--output", "x"]);
        assert!(found == code && output.contains(text), "{text}: {found} {output}");
    }
}

/// Such keys are no safer than a file.
#[test]
fn keys_that_may_leave_the_token_or_are_short_do_not_seal() {
    let token = Token::with_key(7);
    let repository = token.repository();
    let mut maker = token.with_configuration(Command::new(std::env::current_exe().unwrap()));
    run(maker.args(["--exact", "pkcs11::make_weak_keys", "--ignored"]));
    for (name, text) in [("leaves", "may leave the token"), ("short", "AES with 256 bits")] {
        let (code, output) = token.backup(&repository, &token.uri(name));
        assert!(code == 12 && output.contains(text), "{name}: {code} {output}");
    }
    assert_eq!(fs::read_dir(Path::new(&repository).join("snapshots")).unwrap().count(), 1);
}

/// Not a test: what the one above runs, since a module reads the environment of its process.
#[test]
#[ignore]
fn make_weak_keys() {
    let module = Pkcs11::new(module()).unwrap();
    module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let slot = module.get_slots_with_initialized_token().unwrap()[0];
    let session = module.open_rw_session(slot).unwrap();
    session.login(UserType::User, Some(&PIN.to_owned().into())).unwrap();
    for (name, leaves, length) in [("leaves", true, 32), ("short", false, 16)] {
        let template = [
            Attribute::Token(true),
            Attribute::Label(name.into()),
            Attribute::ValueLen(length.into()),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::Extractable(leaves),
        ];
        session.generate_key(&Mechanism::AesKeyGen, &template).unwrap();
    }
}

/// A module whose first call never returns: `C_Initialize` is the first of the list.
const HANGS: &str = "
#include <unistd.h>
static unsigned long hang(void *arguments) { for (;;) sleep(3600); }
static struct { unsigned char version[2]; void *functions[68]; } list = {{2, 40}, {(void *)hang}};
unsigned long C_GetFunctionList(void **out) { *out = &list; return 0; }
";

#[test]
#[ignore]
fn long_a_module_that_hangs_is_given_up() {
    let token = Token::with_key(7);
    let repository = token.repository();
    fs::write(token.path("hangs.c"), HANGS).unwrap();
    let (source, module) = (token.path("hangs.c"), token.path("hangs.so"));
    run(Command::new("cc").args(["-shared", "-fPIC", "-o", &module, &source]));
    let uri = token.uri_with("backups", &module, &token.path("pin"));
    let (code, text) = token.on(&repository, &uri, &["restore", "latest", "--output", "x"]);
    assert!(code == 4 && text.contains("no answer within 10 s"), "{code} {text}");
}
