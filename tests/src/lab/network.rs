//! `nestling net tap` at work in a lab.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use serde_json::Value;

use super::{Lab, Namespace, PATIENCE, TAP, eventually, namespace};
use crate::binary;

/// A network whose one port is the guest's tap. Dropping it ends it.
pub struct Network {
    child: Child,
    control: PathBuf,
    log: PathBuf,
}

impl Network {
    /// Starts `nestling net tap` with further arguments, and waits until the
    /// tap is there.
    ///
    /// # Panics
    /// If it ends instead, with what it said.
    #[must_use]
    pub fn start(lab: &Lab, arguments: &[&str]) -> Self {
        Self::between(lab, "", &lab.guest, arguments)
    }

    /// As [`start`](Self::start), with a namespace other than the lab's guest
    /// on the tap, and the calling thread's for a host. Files of the lab that
    /// are called `name` are its own.
    ///
    /// # Panics
    /// If it ends instead, with what it said.
    #[must_use]
    pub fn between(lab: &Lab, name: &str, guest: &Namespace, arguments: &[&str]) -> Self {
        let control = lab.path(&format!("control{name}"));
        let log = lab.path(&format!("log{name}"));
        let said = File::create(&log).expect("the lab's folder is writable");
        let child = tap(guest, &control, arguments)
            .stderr(said)
            .spawn()
            .expect("the binary can be run");
        let mut network = Self {
            child,
            control,
            log,
        };
        eventually("the tap is up", || {
            if let Ok(Some(status)) = network.child.try_wait() {
                panic!("nestling net tap: {status}: {}", network.said());
            }
            let output = network.ask(&["list"]);
            let report = output.status.success().then(|| json(&output))?;
            let mut ports = report["ports"].as_array()?.iter();
            ports
                .any(|port| port["name"] == TAP && port["plugged"] == true)
                .then_some(())
        });
        network
    }

    /// Starts one that must not come to be, and returns what it said.
    ///
    /// # Panics
    /// If it is no refusal.
    #[must_use]
    pub fn refusal(lab: &Lab, arguments: &[&str]) -> binary::Refusal {
        let output = tap(&lab.guest, &lab.path("refused"), arguments).output();
        binary::refused(&output.expect("the binary can be run"))
    }

    /// What it has said so far.
    #[must_use]
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Runs `nestling net` with `arguments` at its control socket.
    ///
    /// # Panics
    /// If the binary can't be run.
    #[must_use]
    pub fn ask(&self, arguments: &[&str]) -> Output {
        let [command, rest @ ..] = arguments else {
            panic!("nothing is asked");
        };
        let control = self.control.to_str().expect("a path of the lab");
        binary::command()
            .args(["--format", "json", "net", command, "--control", control])
            .args(rest)
            .output()
            .expect("the binary can be run")
    }

    /// The same, where it must do as it is asked.
    ///
    /// # Panics
    /// If it refuses.
    pub fn told(&self, arguments: &[&str]) -> Value {
        let output = self.ask(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        json(&output)
    }

    /// What it is doing.
    #[must_use]
    pub fn list(&self) -> Value {
        self.told(&["list"])
    }

    /// The leases: each address with its client's name.
    ///
    /// # Panics
    /// If the list has none.
    #[must_use]
    pub fn leases(&self) -> Vec<(String, Option<String>)> {
        let report = self.list();
        let leases = report["leases"].as_array().expect("a list of leases");
        let text = |value: &Value| value.as_str().map(str::to_owned);
        leases
            .iter()
            .map(|lease| (text(&lease["address"]).expect("one"), text(&lease["name"])))
            .collect()
    }

    /// Turns MAC address spoofing on or off at the tap's port.
    pub fn set_spoofing(&self, on: bool) {
        self.told(&["spoofing", "1", if on { "on" } else { "off" }]);
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Panics
    /// If it doesn't, or says that something failed.
    pub fn stop(mut self) {
        self.end();
        let status = self.child.wait().expect("it was started");
        assert!(status.success(), "{status}: {}", self.said());
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _ = namespace::signal(self.child.id(), libc::SIGTERM);
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && start.elapsed() < PATIENCE / 4 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.end();
            // Neither fails for one that ended meanwhile.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            // libtest shows this with the test that failed.
            #[allow(clippy::print_stderr)]
            {
                eprintln!("nestling said: {}", self.said());
            }
        }
    }
}

fn tap(guest: &Namespace, control: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary::path());
    command
        .args(["net", "tap", "--netns", &guest.path(), "--control"])
        .arg(control)
        .args(arguments)
        .env_remove("NESTLING_LOG")
        .stdin(Stdio::null());
    command
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("JSON was asked for")
}
