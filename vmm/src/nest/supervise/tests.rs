//! Supervision of real processes: shell scripts that play a monitor.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use crate::channel::{Edge, FaultKind, How};
use crate::monitor::Monitor;
use crate::nest::machine::{self, MonitorSpec, Other, Sight};
use crate::order::{self, Limits};

const LIMITS: Limits = Limits {
    boot_s: 60,
    silence_s: 60,
    total_s: 60,
};

/// A machine whose monitor is `script`, with its channel as descriptor `$channel`
/// and its events as `$events`.
fn machine(script: &str) -> Machine {
    let (channel, channel_end) = UnixStream::pair().unwrap();
    let (events, events_end) = io::pipe().unwrap();
    let mut command = Command::new("/bin/bash");
    command
        .args(["-c", script])
        .env("channel", channel_end.as_raw_fd().to_string())
        .env("events", events_end.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    process::prepare(
        &mut command,
        &[channel_end.as_fd(), events_end.as_fd()],
        true,
    );
    let mut child = command.spawn().unwrap();
    Machine {
        console: child.stdout.take().map(OwnedFd::from),
        messages: child.stderr.take().map(OwnedFd::from),
        child,
        group: true,
        channel: Some(channel.into()),
        listener: None,
        events: Some(events.into()),
        sight: Sight::default(),
        power_button: true,
        keep: Vec::new(),
    }
}

fn watch_over(script: &str, limits: Limits) -> (Verdict, Vec<Event>) {
    let mut seen = Vec::new();
    let mut observer = |event: Event| seen.push(event);
    let watch = Watch::new(1, limits);
    let verdict = supervise(machine(script), watch, None, None, &mut observer).unwrap();
    (verdict, seen)
}

#[test]
fn a_good_life_is_reported_in_full() {
    let (verdict, seen) = watch_over(
        r#"
        echo '{"event":"started"}' >&$events
        echo '{"level":1,"event":"hello","v":1}' >&$channel
        printf 'from the console\r\nwithout an end'
        echo 'not json' >&$channel
        echo '{"level":0,"event":"done"}' >&$channel
        echo '{"level":2,"event":"console","line":"from above"}' >&$channel
        echo '{"level":1,"event":"done"}' >&$channel
        echo '{"event":"exits","vm":{},"vcpus":[{"exits":2},{"exits":3}]}' >&$events
        echo '{"event":"ended","how":"power-off"}' >&$events
        "#,
        LIMITS,
    );
    assert_eq!(
        verdict,
        Verdict {
            how: How::PowerOff,
            fault: None,
            result: None,
        }
    );
    let at = |level, what| Event { level, what };
    for expected in [
        at(1, What::Hello { v: 1 }),
        at(
            1,
            What::Console {
                line: "from the console".into(),
            },
        ),
        at(
            1,
            What::Console {
                line: "without an end".into(),
            },
        ),
        at(
            2,
            What::Console {
                line: "from above".into(),
            },
        ),
        at(1, What::Done),
        at(
            1,
            What::Exits {
                counts: [("exits".into(), 5)].into(),
                at: None,
                hypervisor: None,
            },
        ),
        at(
            1,
            What::Progress {
                text: "0 events came too fast, 2 lines were malformed".into(),
            },
        ),
    ] {
        assert!(seen.contains(&expected), "{expected:?} in {seen:#?}");
    }
    assert!(seen.iter().all(|event| event.level != 0));
    assert_eq!(
        seen.last(),
        Some(&at(1, What::Ended { how: How::PowerOff }))
    );
}

#[test]
fn a_monitor_that_refuses_is_quoted() {
    let (verdict, seen) = watch_over("echo 'error: no /dev/kvm' >&2; exit 1", LIMITS);
    let fault = verdict.fault.unwrap();
    assert_eq!(
        (fault.kind, fault.detail.as_str()),
        (FaultKind::NotStarted, "error: no /dev/kvm")
    );
    assert!(seen.contains(&Event {
        level: 1,
        what: What::Fault(fault)
    }));
}

#[test]
fn a_monitor_that_is_killed_has_died() {
    let (verdict, _) = watch_over(
        r#"echo '{"event":"started"}' >&$events; kill -9 $$"#,
        LIMITS,
    );
    assert_eq!(verdict.how, How::Killed);
    let fault = verdict.fault.unwrap();
    assert_eq!(fault.kind, FaultKind::MonitorDied);
    assert!(fault.detail.contains("signal: 9"), "{}", fault.detail);
}

#[test]
fn a_silent_machine_is_killed_with_its_descendants() {
    let limits = Limits {
        boot_s: 60,
        silence_s: 1,
        total_s: 60,
    };
    let script = r#"
        sleep 1000 & echo $!
        echo '{"level":1,"event":"hello","v":1}' >&$channel
        wait
    "#;
    let (verdict, seen) = watch_over(script, limits);
    assert_eq!(verdict.fault.unwrap().kind, FaultKind::Hang);
    let pid = seen.iter().find_map(|event| match &event.what {
        What::Console { line } => Some(line.clone()),
        _ => None,
    });
    // Gone, or a zombie that its new parent hasn't reaped yet: soon, for a signal
    // is sent before it is acted on.
    let status = format!("/proc/{}/status", pid.unwrap());
    let start = Instant::now();
    while std::fs::read_to_string(&status).is_ok_and(|text| !text.contains("State:\tZ")) {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{status} is alive"
        );
        std::thread::yield_now();
    }
}

#[test]
fn a_stop_presses_the_power_button() {
    let script = r#"
        trap 'echo "{\"event\":\"ended\",\"how\":\"power-off\"}" >&$events; exit 0' TERM
        echo '{"event":"started"}' >&$events
        echo ready
        while :; do read -t 0.1 <&$channel; done
    "#;
    // The signal is this thread's alone: other tests in this process don't see it.
    let stop = Signals::block(&[libc::SIGUSR1]).unwrap();
    let mut seen = Vec::new();
    let mut observer = |event: Event| {
        if matches!(event.what, What::Console { .. }) {
            process::raise(libc::SIGUSR1);
        }
        seen.push(event);
    };
    let watch = Watch::new(1, LIMITS);
    let verdict = supervise(machine(script), watch, Some(&stop), None, &mut observer).unwrap();
    assert_eq!(verdict.how, How::PowerOff);
    assert_eq!(verdict.fault.unwrap().kind, FaultKind::Stopped);
    assert_eq!(stop.take(), Some(libc::SIGUSR1.cast_unsigned()));
}

#[test]
fn a_person_at_the_console_talks_to_the_guest_and_can_leave() {
    let (person, input) = UnixStream::pair().unwrap();
    let (mut shown, output) = io::pipe().unwrap();
    Write::write_all(&mut &person, b"hello\n\x01x").unwrap();
    let relay = Relay::new(input.into(), output.into());
    let (console, console_end) = UnixStream::pair().unwrap();
    let mut machine = machine(r#"echo "prompt" >&$channel; sleep 1000"#);
    machine.console = Some(console.into());
    let mut seen = Vec::new();
    Write::write_all(&mut &console_end, b"prompt\n").unwrap();
    let mut observer = |event: Event| seen.push(event);
    let watch = Watch::new(1, LIMITS);
    let verdict = supervise(machine, watch, None, Some(relay), &mut observer).unwrap();
    assert_eq!(verdict.fault.unwrap().kind, FaultKind::Stopped);
    let mut text = String::new();
    shown.read_to_string(&mut text).unwrap();
    assert_eq!(text, "prompt\n");
    let mut typed = String::new();
    (&console_end).read_to_string(&mut typed).unwrap();
    assert_eq!(typed, "hello\n");
    assert!(
        !seen
            .iter()
            .any(|event| matches!(event.what, What::Console { .. }))
    );
}

#[test]
fn a_mark_is_answered_once_it_was_handed_on() {
    let (verdict, seen) = watch_over(
        r#"
        echo '{"level":1,"event":"hello","v":1}' >&$channel
        echo '{"level":2,"event":"mark","phase":"work","edge":"begin"}' >&$channel
        read answer <&$channel
        echo "$answer"
        echo '{"level":1,"event":"done"}' >&$channel
        echo '{"event":"ended","how":"power-off"}' >&$events
        "#,
        LIMITS,
    );
    assert_eq!(verdict.fault, None);
    let mark = Event {
        level: 2,
        what: What::Mark {
            phase: "work".into(),
            edge: Edge::Begin,
        },
    };
    let line = r#"{"answer":"counted"}"#.to_owned();
    let answer = Event {
        level: 1,
        what: What::Console { line },
    };
    let place = |event| seen.iter().position(|other| other == event);
    assert!(place(&mark) < place(&answer), "{seen:#?}");
    assert!(place(&mark).is_some());
}

/// A monitor that prints what it was given, and runs until its socket is gone.
const OTHER: &str = r#"bash -c 'echo "$*"; while [ -e "$4" ]; do sleep 0.01; done' vmm
    {kernel} {initrd} {cmdline} {channel} [ {disk} ]"#;

#[test]
fn another_monitor_connects_and_its_end_is_judged_by_the_channel() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("channel");
    let monitor: Monitor = OTHER.parse().unwrap();
    let command = monitor.command.as_ref().unwrap();
    let nested = nestling_arch::nested::Request::default();
    let machine = machine::spawn_monitor(&MonitorSpec {
        program: Path::new("/nonexistent"),
        kernel: Path::new("/k"),
        initrd: Some(Path::new("/i")),
        modules: &[],
        level: 1,
        sample_s: None,
        trace: false,
        machine: &order::Machine {
            cpus: 1,
            cpu_affinity: Vec::new(),
            memory_mib: 64,
            nested,
            cpu_template: None,
            hyperv: nestling_arch::hyperv::Request::Off,
            cmdline: "quiet x=1".into(),
            disks: Vec::new(),
            nets: Vec::new(),
            network: String::new(),
            forwards: Vec::new(),
        },
        raw_console: false,
        debug_exit: false,
        channel: true,
        kernel_cache: false,
        other: Some(Other {
            monitor: &monitor,
            command,
            socket: &socket,
        }),
    })
    .unwrap();
    let guest = std::thread::spawn({
        let socket = socket.clone();
        move || {
            let mut channel = UnixStream::connect(&socket).unwrap();
            let mark = r#"{"level":1,"event":"mark","phase":"x","edge":"begin"}"#;
            writeln!(
                channel,
                r#"{{"level":1,"event":"hello","v":1}}{}{mark}"#,
                '\n'
            )
            .unwrap();
            let mut answer = [0; 64];
            let length = channel.read(&mut answer).unwrap();
            writeln!(channel, r#"{{"level":1,"event":"done"}}"#).unwrap();
            std::fs::remove_file(&socket).unwrap();
            answer[..length].to_vec()
        }
    });
    let mut seen = Vec::new();
    let mut observer = |event: Event| seen.push(event.what);
    let watch = Watch::new(1, LIMITS);
    let verdict = supervise(machine, watch, None, None, &mut observer).unwrap();
    assert_eq!(guest.join().unwrap(), Answer::Counted.line());
    assert_eq!((verdict.how, verdict.fault), (How::Exited, None));
    let line = format!("/k /i quiet x=1 {}", socket.display());
    assert!(seen.contains(&What::Console { line }), "{seen:?}");
    assert!(seen.contains(&What::Done));
    // The script has no machine of KVM's, nor need debugfs be there.
    let warnings = seen.iter().filter(
        |what| matches!(what, What::Warning { text } if text.starts_with("no counts of a machine")),
    );
    assert_eq!(warnings.count(), 1, "{seen:?}");
}
