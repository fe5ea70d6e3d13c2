//! A lab of network namespaces for the virtual network.
//!
//! A test's own thread is in a namespace that plays the host, outside of the
//! network; its servers and `nestling` itself run there. A second namespace
//! plays the guest: the tap is put into it. Both go with the test, however it
//! ends, and nothing outside of them is touched.

mod client;
mod dig;
mod namespace;
mod network;
mod resolver;
pub mod server;

use std::fs;
use std::io;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

pub use client::{Client, Event};
pub use dig::{Answer, dig};
pub use namespace::Namespace;
pub use network::Network;
pub use resolver::{Resolver, Transport};
use tempfile::TempDir;

use crate::{or_skip, skip};

/// The host's addresses outside. They are the loopback interface's, but not
/// loopback addresses.
pub const OUTSIDE: [&str; 4] = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"];

/// The gateway's IPv4 address.
pub const GATEWAY4: &str = "192.168.100.1";
/// The gateway's IPv6 address.
pub const GATEWAY6: &str = "fd6e:6573:746c::1";

/// The IPv4 address of a guest whose tap is configured, and of the first that
/// asks for one.
pub const GUEST4: &str = "192.168.100.10";
/// The same of IPv6.
pub const GUEST6: &str = "fd6e:6573:746c::10";

/// The tap's name in the guest.
pub const TAP: &str = "tap0";

/// What the host's resolvers are read from.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// How long anything may take that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The namespaces of a test.
pub struct Lab {
    /// The guest's.
    pub guest: Namespace,
    folder: TempDir,
}

/// Runs `test` in a lab of its own, in which `programs` are used. A user who
/// isn't root gets one in a user namespace. Where there can't be any, the test
/// is skipped.
///
/// # Panics
/// If `test` does.
pub fn run(programs: &[&str], test: impl FnOnce(&Lab) + Send) {
    for program in ["ip"].iter().chain(programs) {
        or_skip!(self::program(program));
    }
    if !is_root() {
        or_skip!(run_as_root());
        return;
    }
    let task = || {
        let lab = or_skip!(Lab::new());
        test(&lab);
    };
    // The thread is the lab's, and its name is the test's.
    let name = test_name();
    let ended = thread::scope(|scope| {
        let thread = thread::Builder::new().name(name).spawn_scoped(scope, task);
        thread.expect("a thread").join()
    });
    if let Err(payload) = ended {
        panic::resume_unwind(payload);
    }
}

/// Runs `test` as [`run`] does, with a program that gives up root's rights for
/// another user's, whom a user namespace lacks.
///
/// # Panics
/// If `test` does.
pub fn run_with_users(programs: &[&str], test: impl FnOnce(&Lab) + Send) {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let users: u64 = map
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok())
        .sum();
    if users < 1000 || !is_root() {
        skip::skip(&format!("{} needs root's rights", programs.join(", ")));
        return;
    }
    run(programs, test);
}

fn test_name() -> String {
    thread::current().name().unwrap_or("test").to_owned()
}

fn is_root() -> bool {
    namespace::user() == 0
}

/// Runs the calling test again, by itself, as the root of a user namespace.
fn run_as_root() -> Result<(), String> {
    let test = std::env::current_exe().map_err(|error| error.to_string())?;
    let unshare = ["--user", "--map-root-user"];
    let allowed = Command::new("unshare").args(unshare).arg("true").output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        return Err("neither root nor a user namespace".into());
    }
    let output = Command::new("unshare")
        .args(unshare)
        .arg(test)
        .args(["--exact", &test_name(), "--nocapture"])
        .output()
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}{said}",
        String::from_utf8_lossy(&output.stdout)
    );
    // It names the test, as its caller will.
    let mark = format!("skipped: {}: ", test_name());
    match said.lines().find_map(|line| line.strip_prefix(&mark)) {
        Some(why) => Err(why.to_owned()),
        None => Ok(()),
    }
}

/// The path of a program, those of root among them.
///
/// # Errors
/// The reason for a skip.
pub fn program(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("{name} is not installed"))
}

/// A command of a program that was asked for, to be run by the calling thread,
/// whose namespaces it gets.
///
/// # Panics
/// If it isn't installed.
pub fn command(name: &str, arguments: &[&str]) -> Command {
    let path = program(name).unwrap_or_else(|why| panic!("{why}"));
    let mut command = Command::new(path);
    command.args(arguments);
    command
}

/// Runs a program to its end and returns what it printed.
///
/// # Panics
/// If it fails, with what it said.
pub fn output(name: &str, arguments: &[&str]) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command(name, arguments)
        .output()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    assert!(
        status.success(),
        "{name} {arguments:?}: {status}: {stdout}{}",
        String::from_utf8_lossy(&stderr)
    );
    stdout
}

/// What `probe` finds, once it does.
///
/// # Panics
/// If it doesn't for as long as anything may take.
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: not in {PATIENCE:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

impl Lab {
    /// Makes the namespaces. The calling thread moves into the host's.
    fn new() -> Result<Self, String> {
        let why = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .map_err(why("/dev/net/tun"))?;
        namespace::leave_network().map_err(why("no network namespace"))?;
        namespace::leave_mounts().map_err(why("no mount namespace"))?;
        let guest = Namespace::new().map_err(why("no network namespace"))?;
        let folder = tempfile::tempdir().map_err(why("no temporary folder"))?;
        set_up_host().map_err(why("the namespace's settings"))?;
        guest.enter(set_up_guest);
        Ok(Self { guest, folder })
    }

    /// The path of a file of the lab.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Has `text` stand in the host's resolv.conf.
    ///
    /// # Panics
    /// If it can't be put there.
    pub fn set_resolvers(&self, text: &str) {
        let mounted = self.path("resolv.conf");
        if !mounted.exists() {
            fs::write(&mounted, text).expect("the lab's folder is writable");
            let at = Path::new(RESOLV_CONF);
            namespace::mount_over(&mounted, at).expect("a file can be mounted over another");
        }
        fs::write(RESOLV_CONF, text).expect("the lab's own file");
    }

    /// Gives the guest one more interface, with a hardware address of its own
    /// behind the tap's, as a machine has that is bridged to it.
    pub fn add_station(&self, name: &str, mac: &str) {
        self.guest.enter(|| {
            let add = [
                "link", "add", "link", TAP, name, "address", mac, "type", "macvlan",
            ];
            output("ip", &[&add[..], &["mode", "bridge"]].concat());
            output("ip", &["link", "set", name, "up"]);
        });
    }
}

/// The host's namespace: addresses, and ping sockets for all.
fn set_up_host() -> io::Result<()> {
    output("ip", &["link", "set", "lo", "up"]);
    for address in OUTSIDE {
        let add = ["address", "add", address, "dev", "lo"];
        // Nobody else is there to object to one of IPv6.
        let rest: &[_] = if address.contains(':') {
            &["nodad"]
        } else {
            &[]
        };
        output("ip", &[&add[..], rest].concat());
    }
    fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0")
}

/// The guest's namespace: it neither waits before it asks for a router nor for
/// others to object to its addresses.
fn set_up_guest() {
    for (setting, value) in [("accept_dad", "0"), ("router_solicitation_delay", "0")] {
        for interfaces in ["all", "default"] {
            let path = format!("/proc/sys/net/ipv6/conf/{interfaces}/{setting}");
            // Then it only takes longer.
            let _ = fs::write(path, value);
        }
    }
    output("ip", &["link", "set", "lo", "up"]);
}
