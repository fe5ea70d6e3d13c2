//! Programs that run in the lab and end with it.

#![allow(unsafe_code)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::mem;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{Namespace, namespace};
use crate::{Failure, signals};

/// How long a program may take until it is ready.
pub(super) const START: Duration = Duration::from_secs(10);
/// How often someone who waits looks whether a signal has come.
const LOOK: Duration = Duration::from_millis(50);
/// How long a program that is asked to end may take.
const END: Duration = Duration::from_secs(3);
/// How many descriptors a program may have: some peers take several for a flow.
const FILES: libc::rlim_t = 1 << 17;
/// How much of what a program says is kept for a message.
const KEPT: usize = 4096;
/// How many lines of that are shown.
const SHOWN: usize = 3;

/// Where a program runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// In which namespace; where this program is, if none is named.
    pub(crate) namespace: Option<&'a Namespace>,
    /// On which processor; any, if none is named.
    pub(crate) cpu: Option<usize>,
}

/// A program that runs. Dropped, it ends.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    complaints: Arc<Mutex<Vec<u8>>>,
}

impl Process {
    /// Starts a program at a place.
    pub(crate) fn start(
        name: &str,
        mut command: Command,
        place: &Place<'_>,
    ) -> Result<Self, Failure> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let (namespace, cpu) = (place.namespace.map(Namespace::descriptor), place.cpu);
        // SAFETY: the closure makes system calls only and allocates nothing; the
        // namespace's descriptor is open, for `place` borrows its owner.
        unsafe { command.pre_exec(move || settle(namespace, cpu)) };
        let mut child = command
            .spawn()
            .map_err(|error| format!("{name}: {}: {error}", command.get_program().display()))?;
        let stdin = child.stdin.take();
        let (sender, lines) = mpsc::channel();
        if let Some(output) = child.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        let complaints = Arc::new(Mutex::new(Vec::new()));
        if let Some(errors) = child.stderr.take() {
            let kept = Arc::clone(&complaints);
            thread::spawn(move || keep(errors, &kept));
        }
        Ok(Self {
            name: name.to_owned(),
            child,
            stdin,
            lines,
            complaints,
        })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its next line on standard output.
    pub(crate) fn line(&mut self, within: Duration) -> Result<String, Failure> {
        let deadline = Instant::now() + within;
        loop {
            signals::check()?;
            match self.lines.recv_timeout(LOOK) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.failure(&format!("said nothing for {} s", within.as_secs())));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.wait(END)?;
                    return Err(self.failure(&format!("ended ({status})")));
                }
            }
        }
    }

    /// Gives it a line on standard input.
    pub(crate) fn tell(&mut self, line: &str) -> Result<(), Failure> {
        let Some(stdin) = &mut self.stdin else {
            return Err(self.failure("hears nothing"));
        };
        writeln!(stdin, "{line}").map_err(|error| self.failure(&error.to_string()))
    }

    /// Closes its standard input, and waits until it has done its work.
    pub(crate) fn finish(mut self, within: Duration) -> Result<String, Failure> {
        self.stdin = None;
        let status = self.wait(within)?;
        let said: Vec<String> = self.lines.iter().collect();
        if status.success() {
            Ok(said.join("\n"))
        } else {
            let last = said.iter().rev().find(|line| !line.trim().is_empty());
            let last = last.map_or(String::new(), |line| format!(", with {line:?}"));
            Err(self.failure(&format!("failed ({status}){last}")))
        }
    }

    /// Fails if it has ended, although nobody asked it to.
    pub(crate) fn check(&mut self) -> Result<(), Failure> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(self.failure(&format!("ended ({status})"))),
        }
    }

    fn wait(&mut self, within: Duration) -> Result<ExitStatus, Failure> {
        let deadline = Instant::now() + within;
        loop {
            signals::check()?;
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(self.failure(&format!("still runs after {} s", within.as_secs())));
            }
            thread::sleep(LOOK / 5);
        }
    }

    fn failure(&self, what: &str) -> Failure {
        let complaints = self
            .complaints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let complaints = String::from_utf8_lossy(&complaints);
        let lines = complaints.lines().map(str::trim);
        let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(SHOWN)..];
        if last.is_empty() {
            return format!("{} {what}", self.name).into();
        }
        format!("{} {what}: {}", self.name, last.join("; ")).into()
    }

    /// Asks it to end, and makes it end.
    fn stop(&mut self) -> io::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        if let Ok(id) = libc::pid_t::try_from(self.child.id()) {
            // SAFETY: the call takes no pointers; the child hasn't been waited for,
            // so the number is still its own.
            unsafe { libc::kill(id, libc::SIGTERM) };
        }
        let deadline = Instant::now() + END;
        while Instant::now() < deadline {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            thread::sleep(LOOK / 5);
        }
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stdin = None;
        // A child that can't be waited for is gone already.
        let _ = self.stop();
    }
}

/// Runs in the child before its program does.
fn settle(namespace: Option<RawFd>, cpu: Option<usize>) -> io::Result<()> {
    let check = |result: libc::c_int| match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: the call takes no pointers. The program dies with the one that measures.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    if let Some(namespace) = namespace {
        namespace::enter(namespace)?;
    }
    if let Some(cpu) = cpu {
        // SAFETY: all zeroes is an empty set; CPU_SET checks the number against its
        // size, and the call gets that size.
        check(unsafe {
            let mut set: libc::cpu_set_t = mem::zeroed();
            libc::CPU_SET(cpu, &mut set);
            libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
        })?;
    }
    let mut files = libc::rlimit {
        rlim_cur: FILES,
        rlim_max: FILES,
    };
    // SAFETY: the calls get a structure of their own type that outlives them.
    unsafe {
        // Only root may have more than the limit that it found.
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const files)).or_else(|_| {
            check(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut files))?;
            files.rlim_cur = files.rlim_max;
            check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const files))
        })
    }
}

/// The last of the processors that this program may run on: the first one is
/// where machines do their other work.
pub(crate) fn last_processor() -> io::Result<usize> {
    // SAFETY: all zeroes is an empty set, and the call gets its size.
    let (result, set) = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        let result = libc::sched_getaffinity(0, size_of_val(&set), &raw mut set);
        (result, set)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let size = usize::try_from(libc::CPU_SETSIZE).map_err(io::Error::other)?;
    (0..size)
        // SAFETY: the number is below the set's size.
        .rfind(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
        .ok_or_else(|| io::Error::other("there is no processor to run on"))
}

/// Reads all of a stream and keeps its end.
fn keep(mut stream: impl Read, kept: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&buffer[..count]);
        let excess = kept.len().saturating_sub(KEPT);
        kept.drain(..excess);
    }
}

/// Where a program is, if it is installed. Those for root are outside of some
/// users' path.
pub(crate) fn find(program: &str) -> Result<PathBuf, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
        .ok_or_else(|| format!("no {program}: resources/setup bench installs it").into())
}
