use std::io;
use std::os::fd::AsFd;
use std::thread;

use super::*;
use crate::bench::row::Quantity;
use crate::bench::server::Server;

/// As many as the row with the fewest may take.
const SAMPLES: usize = 40;

/// Counts how often it is told what.
#[derive(Default)]
struct Told(Vec<&'static str>);

impl Observer for Told {
    fn begins(&mut self) {
        self.0.push("begins");
    }
    fn ends(&mut self) {
        self.0.push("ends");
    }
}

fn told(row: Row, resources: &Resources) -> (Result<Measured, Error>, Vec<&'static str>) {
    let mut told = Told::default();
    let mut session = Session {
        level: 0,
        samples: SAMPLES,
        resources,
        observer: &mut told,
    };
    (measure(row, &mut session), told.0)
}

#[test]
fn every_row_is_measured_or_says_why_not() {
    let disk = tempfile::NamedTempFile::new().unwrap();
    // Not a multiple of what is read at once.
    disk.as_file().set_len((1 << 20) + 4096).unwrap();
    let server = Server::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let resources = Resources {
        disk: Some(disk.path().to_owned()),
        server: Some(server.address()),
        processors: Vec::new(),
    };
    let (until, end) = io::pipe().unwrap();
    let measured = thread::scope(|scope| {
        scope.spawn(|| server.serve(until.as_fd()).unwrap());
        // So is this one: pinning it concerns nobody else.
        let measured = scope.spawn(|| rows().filter(|&row| is_measured(row, &resources)).collect());
        let measured: Vec<Row> = measured.join().unwrap();
        drop(end);
        measured
    });
    let everywhere = [
        Row::Nop,
        Row::Syscall,
        Row::Cpuid,
        Row::ProgramTimer,
        Row::PageTouch4k,
        Row::PointerChase,
        Row::ContextSwitch,
        Row::Cpu,
        Row::Memory,
        Row::ForkExec,
        Row::NetStreamUp,
        Row::NetStreamDown,
        Row::NetRequestResponse,
        Row::NetConnect,
    ];
    for row in everywhere {
        assert!(measured.contains(&row), "{row}: {measured:?}");
    }
}

#[allow(clippy::print_stderr)] // What is skipped says why.
fn is_measured(row: Row, resources: &Resources) -> bool {
    let (measured, told) = told(row, resources);
    match measured {
        Ok(measured) => {
            assert_eq!(told, ["begins", "ends"], "{row}");
            check(row, &measured);
            true
        }
        Err(error) => {
            // What this machine lacks, and nothing else.
            let expected = matches!(
                error,
                Error::NoHypervisor
                    | Error::OneProcessor(_)
                    | Error::Missing { .. }
                    | Error::NoDevice
                    | Error::NoLargePages
                    | Error::Exclusive { .. }
            );
            assert!(expected && told.is_empty(), "{row}: {error}");
            eprintln!("skipped: {row}: {error}");
            false
        }
    }
}

fn check(row: Row, measured: &Measured) {
    let taken = measured.samples.len();
    let all = match row.family() {
        Family::Control => SAMPLES * CONTROLS,
        _ => SAMPLES,
    };
    // Fewer of those that take memory, or long.
    assert!((1..=all).contains(&taken), "{row}: {taken}");
    let ahead = match row {
        Row::NetStreamUp | Row::NetStreamDown => 4,
        _ => 0,
    };
    let each = match row.quantity() {
        Quantity::Time => measured.work,
        Quantity::Throughput => 1,
    };
    let operations = (taken as u64 + ahead) * each;
    assert_eq!(measured.operations, operations, "{row}");
    let values = measured.values(Quantity::Time);
    assert!(values.iter().all(|ns| ns.is_finite()), "{row}");
    // Something was done between the readings.
    if row != Row::Nop {
        assert!(measured.samples.iter().all(|&ticks| ticks > 0), "{row}");
    }
}

#[test]
fn what_a_level_was_not_given_is_named() {
    let of = |row, resources: &Resources| {
        // A thread of its own: pinning it concerns nobody else.
        let (measured, told) =
            thread::scope(|scope| scope.spawn(|| told(row, resources)).join().unwrap());
        assert!(told.is_empty());
        measured.unwrap_err().to_string()
    };
    let mut resources = Resources::default();
    for (row, expected) in [
        (Row::BlockRandRead, "no scratch disk is here"),
        (Row::NetConnect, "no benchmark server is here"),
        (Row::Boot, "boot can't be measured by the level itself"),
    ] {
        assert_eq!(of(row, &resources), expected);
    }
    let small = tempfile::NamedTempFile::new().unwrap();
    // Nobody listens at a port that was free a moment ago.
    let server = Server::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    resources.disk = Some(small.path().to_owned());
    resources.server = Some(server.address());
    drop(server);
    let disk = of(Row::BlockSeqWrite, &resources);
    assert!(
        disk.starts_with(&small.path().display().to_string()),
        "{disk}"
    );
    let server = of(Row::NetStreamUp, &resources);
    assert!(
        server.starts_with("the benchmark server at 127.0.0.1:"),
        "{server}"
    );
}
