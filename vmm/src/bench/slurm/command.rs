//! Slurm's commands.

use std::ffi::OsString;
use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::thread;

use super::Error;
use crate::channel::printable;
use crate::nest::process;

/// The most that a command may answer, in bytes: a hundred thousand tasks take less.
const MAX_ANSWER: u64 = 16 << 20;
/// The most of its errors that is read.
const MAX_ERRORS: u64 = 64 << 10;
/// The longest line of them that is passed on.
const MAX_LINE: usize = 256;

/// What commands say where there is no cluster to ask.
const NO_CONTROLLER: [&str; 3] = [
    "Unable to contact slurm controller",
    "Could not establish a configuration source",
    "Unable to process configuration file",
];

/// What a signal from the terminal does to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signalled {
    /// Ends it: it only asks.
    Ends,
    /// Nothing: who gives a task, or takes it back, has to know how that came out.
    GoesOn,
}

/// Runs a command of Slurm's and answers what it printed.
pub(super) fn ask(
    program: &'static str,
    arguments: &[OsString],
    signalled: Signalled,
) -> Result<String, Error> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    process::prepare(&mut command, &[], signalled == Signalled::GoesOn);
    let run = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => Error::NotInstalled(program),
        _ => Error::Run { program, source },
    };
    let mut child = command.spawn().map_err(run)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let errors =
        thread::spawn(move || stderr.map_or_else(String::new, |pipe| read(pipe, MAX_ERRORS)));
    let answer = stdout.map_or_else(String::new, |pipe| read(pipe, MAX_ANSWER));
    let errors = errors.join().unwrap_or_default();
    let status = child.wait().map_err(run)?;
    if status.success() {
        return Ok(answer);
    }
    let said = match reason(&errors) {
        "" => format!("{program}: {status}"),
        reason => printable(reason, MAX_LINE),
    };
    if NO_CONTROLLER.iter().any(|sign| errors.contains(sign)) {
        Err(Error::NoController(said))
    } else {
        Err(Error::Refused(said))
    }
}

/// The start of what comes out of a pipe. Who writes more finds it closed.
fn read(pipe: impl Read, limit: u64) -> String {
    let mut bytes = Vec::new();
    // What was read until an error is what there is.
    let _ = pipe.take(limit).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The line that says why: the last one, but for advice.
fn reason(errors: &str) -> &str {
    errors
        .lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty() && !line.starts_with("Try "))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Result<String, Error> {
        ask("/bin/sh", &["-c".into(), script.into()], Signalled::GoesOn)
    }

    #[test]
    fn an_answer_is_what_was_printed() {
        assert_eq!(sh("echo 12; echo careful >&2").unwrap(), "12\n");
    }

    #[test]
    fn what_went_wrong_is_the_last_line_that_is_no_advice() {
        let said = |script| sh(script).unwrap_err().to_string();
        let refused = said("echo 'x: error: a' >&2; echo 'Try x --help' >&2; exit 1");
        assert_eq!(refused, "Slurm refuses: x: error: a");
        assert!(said("exit 3").contains("/bin/sh: exit status: 3"));
        let unable = "x error: Unable to contact slurm controller (connect failure)";
        let nobody = said(&format!("echo '{unable}' >&2; exit 1"));
        assert!(
            nobody.contains(unable) && nobody.contains("slurmctld"),
            "{nobody}"
        );
    }

    #[test]
    fn a_command_that_is_not_there_is_named() {
        let error = ask("slurm-of-nobody", &[], Signalled::Ends).unwrap_err();
        assert!(matches!(error, Error::NotInstalled("slurm-of-nobody")));
    }

    #[test]
    fn who_says_too_much_is_cut_off() {
        let error = sh("yes 12345678 >&2").unwrap_err();
        assert!(error.to_string().contains("1234567"), "{error}");
    }
}
