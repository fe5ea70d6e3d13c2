//! The program under test.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::OnceLock;
use std::time::Duration;

use assert_cmd::Command;

/// The environment variable that names the binary.
const VARIABLE: &str = "NESTLING_BIN";
/// How long a command that boots no nest may take.
const QUICK: Duration = Duration::from_secs(60);

/// Where the binary is: what `NESTLING_BIN` names, else what cargo built beside
/// the tests, the release first.
///
/// # Panics
/// If there is none, with the command that builds it.
#[must_use]
pub fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(named) = std::env::var_os(VARIABLE) {
            let named = PathBuf::from(named);
            assert!(named.is_file(), "{VARIABLE}={named:?} is no file");
            return named;
        }
        // <target>/x86_64-unknown-linux-gnu/<profile>/deps/<test>
        let test = std::env::current_exe().expect("a test knows its own path");
        let built = test.ancestors().nth(3).expect("cargo's layout");
        ["release", "debug"]
            .map(|profile| built.join(profile).join("nestling"))
            .into_iter()
            .find(|path| path.is_file())
            .unwrap_or_else(|| {
                panic!(
                    "no nestling in {}/{{release,debug}}: run `cargo build --release -p nestling`, \
                     or set {VARIABLE}",
                    built.display()
                )
            })
    })
}

/// A command of the binary that is killed if it takes more than a minute.
#[must_use]
pub fn command() -> Command {
    let mut command = Command::new(path());
    command.timeout(QUICK).env_remove("NESTLING_LOG");
    command
}

/// What a command that can't be carried out printed.
#[derive(Debug)]
pub struct Refusal {
    /// Its exit code.
    pub code: i32,
    /// Its one line on standard error.
    pub line: String,
}

/// Runs nestling with arguments it must refuse: by exit code 1 or 2 and one line
/// on standard error that starts with its name, and with nothing on standard output.
///
/// # Panics
/// If it does anything else.
pub fn refusal<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Refusal {
    let output = command()
        .args(arguments)
        .output()
        .expect("the binary can be run");
    refused(&output)
}

/// Checks that `output` is a refusal, see [`refusal`].
///
/// # Panics
/// If it isn't.
#[must_use]
pub fn refused(output: &Output) -> Refusal {
    let text = String::from_utf8(output.stderr.clone()).expect("messages are UTF-8");
    let code = output
        .status
        .code()
        .unwrap_or_else(|| panic!("{}: {text}", output.status));
    assert!([1, 2].contains(&code), "exit code {code}: {text}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "",
        "standard output of a refusal"
    );
    let line = text.strip_suffix('\n').unwrap_or(&text).to_owned();
    assert!(!line.contains('\n'), "more than one line: {text}");
    assert!(line.starts_with("nestling: "), "{text}");
    Refusal { code, line }
}
