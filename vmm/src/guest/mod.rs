//! PID 1: what nestling is inside the image, at every level.
//!
//! Init itself does little, so that little can end it. It mounts, then forks a
//! child that loads modules, then one that follows the level's order. It reaps,
//! sends a sign of life, watches the power button, and at the end powers off.
//! Were a child to die, init says so on the channel and powers off all the same.
//!
//! Init and the child that follows the order write to one channel. Each event is
//! one write, and both drivers keep a write in one piece: a serial line by the
//! terminal's write lock, a virtio-console port because the line fits one buffer.

pub mod facts;
pub mod modinfo;
pub mod modules;
pub mod net;

pub(crate) mod bench;
mod cpu;
mod level;
mod network;
mod power;
pub(crate) mod report;
mod setup;
pub(crate) mod sys;
mod workload;

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::channel::{self, Fault, FaultKind, What};
use crate::nest::process;
use crate::order::{self, Order};
use crate::signals::Signals;
use power::Button;
use report::Reporter;
use sys::{Pid, Status};

/// Between two signs of life.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long the order may take to wind up once a stop is asked for.
const STOP: Duration = Duration::from_secs(90);
/// How long processes may take to end at the very end.
const LAST: Duration = Duration::from_secs(2);

/// Runs as init until the machine is powered off.
pub fn run() -> ! {
    let up = sys::uptime();
    setup::mounts();
    let signals = Signals::block(&[libc::SIGTERM, libc::SIGINT, libc::SIGCHLD]);
    let mut reporter = Reporter::new();
    let outcome = match &signals {
        Ok(signals) => serve(signals, &mut reporter, up),
        Err(error) => Err(format!("cannot take signals: {error}")),
    };
    if let Err(detail) = outcome {
        reporter.send(What::Fault(Fault {
            kind: FaultKind::InitDied,
            detail,
        }));
    }
    reporter.drain();
    if let Ok(signals) = &signals {
        end_processes(signals);
    }
    loop {
        let error = sys::reboot(sys::Reboot::PowerOff);
        report::say(&format!("cannot power off: {error}"));
        std::thread::sleep(HEARTBEAT);
    }
}

/// Prepares the system and follows the order; the error says what broke.
fn serve(signals: &Signals, reporter: &mut Reporter, up: Duration) -> Result<(), String> {
    let bytes = setup::read_order().map_err(|error| format!("{}: {error}", order::PATH))?;
    let order = Order::parse(&bytes).map_err(|error| error.to_string())?;
    reporter.set_level(order.level);
    let child = sys::fork(|| setup::run(&order)).map_err(|error| format!("fork: {error}"))?;
    attend("set-up", child, signals, &[], &mut Reporter::new())?;
    if let Err(error) = reporter.open_channel() {
        report::say(&format!("no channel: {error}"));
    }
    reporter.send(What::Hello {
        v: channel::VERSION,
    });
    let buttons = power::buttons();
    let child = sys::fork(|| level::follow(&order, reporter, up))
        .map_err(|error| format!("fork: {error}"))?;
    attend("order", child, signals, &buttons, reporter)
}

/// Does init's duties until `child` ends.
fn attend(
    what: &str,
    child: Pid,
    signals: &Signals,
    buttons: &[Button],
    reporter: &mut Reporter,
) -> Result<(), String> {
    let mut kill_at: Option<Instant> = None;
    loop {
        // Signals merge, so every ended child is reaped at each turn.
        while let Ok(Some((pid, status))) = sys::reap() {
            if pid == child {
                return match status {
                    Status::Exited(0) => Ok(()),
                    Status::Exited(code) => Err(format!("{what} exited with code {code}")),
                    Status::Killed(signal) => Err(format!("{what} was killed by signal {signal}")),
                };
            }
        }
        reporter.heartbeat(HEARTBEAT);
        if kill_at.is_some_and(|at| Instant::now() >= at) {
            child.signal(libc::SIGKILL);
        }
        let mut fds: Vec<BorrowedFd<'_>> = vec![signals.as_fd()];
        fds.extend(buttons.iter().map(AsFd::as_fd));
        let ready = process::poll(&fds, HEARTBEAT).map_err(|error| format!("poll: {error}"))?;
        let mut stop = false;
        while let Some(signal) = signals.take() {
            stop |= [libc::SIGTERM, libc::SIGINT]
                .map(libc::c_int::cast_unsigned)
                .contains(&signal);
        }
        let ready = ready.iter().skip(1);
        stop |= buttons
            .iter()
            .zip(ready)
            .any(|(button, &ready)| ready && button.pressed());
        if stop && kill_at.is_none() {
            report::say("power button: shutting down");
            child.signal(libc::SIGTERM);
            kill_at = Some(Instant::now() + STOP);
        }
    }
}

/// Ends what still runs, kindly at first.
fn end_processes(signals: &Signals) {
    let deadline = Instant::now() + LAST;
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        sys::signal_all(signal);
        loop {
            match sys::reap() {
                Ok(Some(_)) => continue,
                Ok(None) => {}
                // No child is left.
                Err(_) => return,
            }
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() || process::poll(&[signals.as_fd()], rest).is_err() {
                break;
            }
            while signals.take().is_some() {}
        }
    }
}
