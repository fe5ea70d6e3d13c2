use std::thread;

use super::*;
use crate::bench::row::Quantity;

/// As many as the row with the fewest may take.
const SAMPLES: usize = 16;

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

#[test]
fn every_row_is_measured_or_says_why_not() {
    // A thread of its own: pinning it concerns nobody else.
    let checked = thread::spawn(|| {
        let mut measured = Vec::new();
        for row in rows() {
            let mut told = Told::default();
            let mut session = Session {
                level: 0,
                samples: SAMPLES,
                resources: &Resources::default(),
                observer: &mut told,
            };
            match measure(row, &mut session) {
                Ok(found) => {
                    assert_eq!(told.0, ["begins", "ends"], "{row}");
                    check(row, &found);
                    measured.push(row);
                }
                Err(error) => {
                    // What this machine lacks, and nothing else.
                    let expected = matches!(
                        error,
                        Error::NoHypervisor
                            | Error::OneProcessor(_)
                            | Error::Missing { .. }
                            | Error::NoDevice
                            | Error::Exclusive { .. }
                    );
                    assert!(expected && told.0.is_empty(), "{row}: {error}");
                }
            }
        }
        measured
    });
    let measured = checked.join().unwrap();
    let everywhere = [
        Row::Nop,
        Row::Syscall,
        Row::Cpuid,
        Row::ProgramTimer,
        Row::PageTouch4k,
        Row::PageTouch2m,
        Row::PointerChase,
        Row::ContextSwitch,
    ];
    assert!(
        everywhere.iter().all(|row| measured.contains(row)),
        "{measured:?}"
    );
}

fn check(row: Row, measured: &Measured) {
    assert_eq!(measured.samples.len(), SAMPLES, "{row}");
    assert_eq!(measured.operations, SAMPLES as u64 * measured.work, "{row}");
    let values = measured.values(Quantity::Time);
    assert!(values.iter().all(|ns| ns.is_finite()), "{row}");
    // Something was done between the readings.
    if row != Row::Nop {
        assert!(measured.samples.iter().all(|&ticks| ticks > 0), "{row}");
    }
}

#[test]
fn macro_rows_are_not_measured_here() {
    let mut session = Session {
        level: 0,
        samples: 1,
        resources: &Resources::default(),
        observer: &mut (),
    };
    let error = measure(Row::Memory, &mut session).unwrap_err();
    assert_eq!(error.to_string(), "memory is no micro row");
    assert_eq!(rows().count(), 16);
}
