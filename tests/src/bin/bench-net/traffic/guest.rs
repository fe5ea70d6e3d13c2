//! This program inside a machine's guest: its servers, and an agent that does what
//! the machine's second serial port says, a line at a time.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::mem;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use super::{Client, Role};
use crate::Failure;

/// The port to the one who measures.
const PORT: &str = "/dev/ttyS1";
const INTERFACE: &str = "eth0";
/// What the agent says first.
pub(crate) const READY: &str = "ready";
/// What an answer begins with, if it worked and if not.
const DONE: &str = "done ";
const FAILED: &str = "failed ";

/// What the agent is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Set the network up and start the servers.
    Configure {
        /// The guest's address, of a prefix of 24 bits.
        address: Ipv4Addr,
        gateway: Ipv4Addr,
        mtu: u32,
        /// The first of the servers' ports.
        first: u16,
    },
    /// Be a client.
    Client(Client),
}

impl Request {
    /// The request as a line.
    pub(crate) fn line(&self) -> String {
        match self {
            Self::Configure {
                address,
                gateway,
                mtu,
                first,
            } => format!("configure {address} {gateway} {mtu} {first}"),
            Self::Client(client) => Role::Client(client.clone()).arguments().join(" "),
        }
    }
}

/// What an answer says.
pub(crate) fn answer(line: &str) -> Result<&str, Failure> {
    match (line.strip_prefix(DONE), line.strip_prefix(FAILED)) {
        (Some(said), _) => Ok(said),
        (None, Some(why)) => Err(format!("in the guest: {why}").into()),
        (None, None) => Err(format!("the guest says {line:?}").into()),
    }
}

/// Does what it is asked, until the machine ends.
pub(super) fn run() -> Result<(), Failure> {
    let mut port = File::options().read(true).write(true).open(PORT)?;
    make_raw(&port)?;
    writeln!(port, "{READY}")?;
    for line in BufReader::new(port.try_clone()?).lines() {
        match serve(&line?) {
            Ok(said) => writeln!(port, "{DONE}{said}")?,
            Err(error) => writeln!(port, "{FAILED}{}", error.to_string().replace('\n', " "))?,
        }
    }
    Ok(())
}

fn serve(line: &str) -> Result<String, Failure> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    match words[..] {
        ["configure", address, gateway, mtu, first] => {
            configure(address.parse()?, gateway.parse()?, mtu.parse()?)?;
            start_servers(address.parse()?, first.parse()?)?;
            Ok(String::new())
        }
        ["client", ..] => {
            let own = std::env::current_exe()?;
            output(own.to_str().ok_or("a path that is no text")?, line)
        }
        _ => Err(format!("no such request: {line}").into()),
    }
}

/// Sets the interface up.
pub(super) fn configure(address: Ipv4Addr, gateway: Ipv4Addr, mtu: u32) -> Result<(), Failure> {
    for command in [
        format!("address add {address}/24 dev {INTERFACE}"),
        format!("link set {INTERFACE} mtu {mtu} up"),
        format!("route add default via {gateway}"),
    ] {
        output("/bin/busybox", &format!("ip {command}"))?;
    }
    Ok(())
}

/// Starts this program's servers, which end with the machine.
pub(super) fn start_servers(address: Ipv4Addr, first: u16) -> Result<(), Failure> {
    let mut servers = Command::new(std::env::current_exe()?)
        .args(Role::Serve { address, first }.arguments())
        .stdout(Stdio::piped())
        .spawn()?;
    let said = servers.stdout.take().ok_or("the servers have no output")?;
    let mut ready = String::new();
    BufReader::new(said).read_line(&mut ready)?;
    match ready.trim_end() {
        READY => Ok(()),
        _ => Err("the servers do not start".into()),
    }
}

/// Runs a program and takes what it prints.
pub(super) fn output(program: &str, arguments: &str) -> Result<String, Failure> {
    let output = Command::new(program)
        .args(arguments.split_ascii_whitespace())
        .output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().into());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {arguments}: {}", said.trim()).into())
}

/// Lets bytes pass as they are, without an echo.
fn make_raw(port: &File) -> io::Result<()> {
    let check = |result: libc::c_int| match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: the structure is of integers only, so that all zeroes is a value; the
    // calls get a structure of their own type that outlives them.
    unsafe {
        let mut mode: libc::termios = mem::zeroed();
        check(libc::tcgetattr(port.as_raw_fd(), &raw mut mode))?;
        libc::cfmakeraw(&raw mut mode);
        check(libc::tcsetattr(
            port.as_raw_fd(),
            libc::TCSANOW,
            &raw const mode,
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::traffic::Test;

    #[test]
    fn requests_are_lines_of_words() {
        let configure = Request::Configure {
            address: Ipv4Addr::new(10, 0, 2, 15),
            gateway: Ipv4Addr::new(10, 0, 2, 2),
            mtu: 1500,
            first: 5300,
        };
        assert_eq!(configure.line(), "configure 10.0.2.15 10.0.2.2 1500 5300");
        let address = Ipv4Addr::new(198, 51, 100, 1);
        let client = Client::new(Test::Bulk, address, 5000, Duration::from_secs(2));
        assert!(
            Request::Client(client)
                .line()
                .starts_with("client bulk 198.51.100.1 5000 ")
        );
    }

    #[test]
    fn answers_are_told_apart() {
        assert_eq!(answer("done {\"bytes\":1}").ok(), Some("{\"bytes\":1}"));
        let failed = answer("failed no route").expect_err("it failed");
        assert_eq!(failed.to_string(), "in the guest: no route");
        assert!(answer("noise").is_err());
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert!(serve("").is_err());
        assert!(serve("configure 10.0.2.15").is_err());
        assert!(serve("reboot").is_err());
    }
}
