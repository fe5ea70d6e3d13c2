use super::*;
use crate::bench::results::{Clock, Measured, Outcome};
use crate::bench::row::Row;
use proptest::prelude::*;

const TURN: Turn = Turn {
    row: Row::Cpuid,
    pass: 1,
};

fn measured() -> Measured {
    Measured {
        clock: Clock::Tsc { khz: 2000 },
        timer_cost: 3,
        work: 1,
        samples: Vec::new(),
        operations: 100,
        counts: BTreeMap::new(),
        baseline: BTreeMap::new(),
    }
}

fn phase(outcome: Outcome) -> What {
    let Turn { row, pass } = TURN;
    What::Measured(Box::new(Phase { row, pass, outcome }))
}

#[test]
fn events_have_the_documented_shape() {
    let cases = [
        (What::Hello { v: 1 }, r#"{"level":2,"event":"hello","v":1}"#),
        (What::Heartbeat, r#"{"level":2,"event":"heartbeat"}"#),
        (
            What::Console { line: "hi".into() },
            r#"{"level":2,"event":"console","line":"hi"}"#,
        ),
        (
            What::Fault(Fault {
                kind: FaultKind::OutOfMemory,
                detail: "x".into(),
            }),
            r#"{"level":2,"event":"fault","kind":"out-of-memory","detail":"x"}"#,
        ),
        (
            What::Ended { how: How::PowerOff },
            r#"{"level":2,"event":"ended","how":"power-off"}"#,
        ),
        (
            What::Exits {
                counts: BTreeMap::from([("exits".into(), 7)]),
                at: None,
                hypervisor: None,
            },
            r#"{"level":2,"event":"exits","counts":{"exits":7}}"#,
        ),
        (
            What::Mark {
                phase: "hello".into(),
                edge: Edge::Begin,
            },
            r#"{"level":2,"event":"mark","phase":"hello","edge":"begin"}"#,
        ),
        (
            What::Samples {
                turn: TURN,
                samples: vec![7, 5],
            },
            r#"{"level":2,"event":"samples","turn":{"row":"cpuid","pass":1},"samples":[7,5]}"#,
        ),
        (
            phase(Outcome::Failed("no".into())),
            r#"{"level":2,"event":"measured","row":"cpuid","pass":1,"outcome":{"failed":"no"}}"#,
        ),
        (
            phase(Outcome::Measured(measured())),
            concat!(
                r#"{"level":2,"event":"measured","row":"cpuid","pass":1,"outcome":"#,
                r#"{"measured":{"clock":{"kind":"tsc","khz":2000},"timer_cost":3,"work":1,"#,
                r#""samples":[],"operations":100,"counts":{},"baseline":{}}}}"#
            ),
        ),
    ];
    for (what, text) in cases {
        let event = Event { level: 2, what };
        assert_eq!(event.clone().line(), format!("{text}\n").into_bytes());
        assert_eq!(Event::parse(text.as_bytes(), 1).unwrap(), event);
    }
}

#[test]
fn an_environment_survives_its_line() {
    let environment = Environment {
        kernel: "6.12.0".into(),
        cmdline: "console=ttyS0".into(),
        parameters: [("kvm_amd.npt".to_owned(), "Y".to_owned())].into(),
        cpus: 2,
        ..Environment::default()
    };
    let what = What::Environment(Box::new(environment));
    let event = Event { level: 1, what };
    let line = event.clone().line();
    assert_eq!(Event::parse(&line, 1).unwrap(), event);
}

#[test]
fn more_samples_than_a_line_has_room_for_are_refused() {
    let event = |count| Event {
        level: 1,
        what: What::Samples {
            turn: TURN,
            samples: vec![u64::MAX; count],
        },
    };
    let line = event(MAX_SAMPLES).line();
    assert!(line.len() < 32 * 1024, "{} bytes", line.len());
    assert_eq!(Event::parse(&line, 1).unwrap(), event(MAX_SAMPLES));
    let error = Event::parse(&event(MAX_SAMPLES + 1).line(), 1).unwrap_err();
    assert!(matches!(error, Error::Samples(count) if count == MAX_SAMPLES + 1));
}

#[test]
fn what_a_level_measures_is_cleaned() {
    let parsed = |what| {
        let line = serde_json::to_vec(&Event { level: 1, what }).unwrap();
        Event::parse(&line, 1).unwrap().what
    };
    let hostile = format!("\x1b[31m{}\r\n", "x".repeat(5000));
    let What::Measured(failed) = parsed(phase(Outcome::Failed(hostile.clone()))) else {
        unreachable!()
    };
    assert_eq!(failed.outcome, Outcome::Failed("x".repeat(1024)));
    // Samples come by themselves.
    let lying = Measured {
        samples: vec![1; 5],
        ..measured()
    };
    let expected = phase(Outcome::Measured(measured()));
    assert_eq!(parsed(phase(Outcome::Measured(lying))), expected);
    let environment = Environment {
        kernel: hostile.clone(),
        governor: Some(hostile),
        ..Environment::default()
    };
    let What::Environment(bounded) = parsed(What::Environment(Box::new(environment))) else {
        unreachable!()
    };
    assert!(bounded.kernel.starts_with("xxx") && bounded.kernel.len() < 100);
    assert!(
        bounded
            .governor
            .is_some_and(|text| !text.contains('\x1b') && text.len() < 100)
    );
}

#[test]
fn what_nobody_can_measure_is_malformed() {
    for line in [
        r#"{"level":1,"event":"samples","turn":{"row":"frob"},"samples":[]}"#,
        r#"{"level":1,"event":"samples","turn":{"row":"nop","pass":256},"samples":[]}"#,
        r#"{"level":1,"event":"samples","turn":{"row":"nop"},"samples":[-1]}"#,
        r#"{"level":1,"event":"measured","row":"nop","outcome":{"guessed":1}}"#,
        r#"{"level":1,"event":"environment","cpus":-1}"#,
    ] {
        let error = Event::parse(line.as_bytes(), 1).unwrap_err();
        assert!(matches!(error, Error::Malformed(_)), "{line}: {error}");
    }
}

#[test]
fn counts_are_taken_at_marks_of_levels_that_can_be() {
    let event = |mark| Event {
        level: 2,
        what: What::Exits {
            counts: BTreeMap::new(),
            at: Some(Mark {
                level: mark,
                phase: "baseline".into(),
                edge: Edge::End,
            }),
            hypervisor: None,
        },
    };
    for mark in 2..=MAX_LEVEL {
        assert!(Event::parse(&event(mark).line(), 2).is_ok(), "{mark}");
    }
    for mark in [0, 1, MAX_LEVEL + 1, u8::MAX] {
        let error = Event::parse(&event(mark).line(), 1).unwrap_err();
        assert!(matches!(error, Error::Level { found, .. } if found == mark));
    }
}

#[test]
fn a_level_is_told_that_it_was_counted() {
    assert_eq!(Answer::Counted.line(), b"{\"answer\":\"counted\"}\n");
}

#[test]
fn fault_kinds_are_named_as_in_events() {
    use FaultKind::*;
    for kind in [
        Panic,
        OutOfMemory,
        Hang,
        BootTimeout,
        Timeout,
        Reset,
        TripleFault,
        PowerOff,
        InitDied,
        NotStarted,
        MonitorDied,
        Stopped,
    ] {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
    }
}

#[test]
fn a_guest_may_not_speak_of_the_levels_below_it() {
    let line = br#"{"level":1,"event":"done"}"#;
    assert!(Event::parse(line, 1).is_ok());
    let error = Event::parse(line, 2).unwrap_err();
    assert!(matches!(
        error,
        Error::Level {
            found: 1,
            lowest: 2
        }
    ));
    assert!(Event::parse(br#"{"level":200,"event":"done"}"#, 2).is_err());
}

#[test]
fn another_version_is_refused() {
    let error = Event::parse(br#"{"level":1,"event":"hello","v":9}"#, 1).unwrap_err();
    assert!(matches!(error, Error::Version(9)));
}

#[test]
fn text_from_a_guest_cannot_drive_a_terminal() {
    assert_eq!(
        printable("a\x1b[31;1mred\x1b[0m\x07\r\tb\u{9b}2J", 99),
        "ared b2J"
    );
    assert_eq!(printable("a\nb", 99), "ab");
    assert_eq!(printable_lines("a\nb", 99), "a\nb");
    assert_eq!(printable("grün", 3), "gr");
}

#[test]
fn overlong_lines_are_dropped_or_split() {
    let mut seen = Vec::new();
    let mut drop = Lines::new(4, Overlong::Drop);
    drop.push(b"abcd\r\nabcde\nxy\r\n", |line| seen.push(line.to_vec()));
    assert_eq!(seen, [b"xy".to_vec()]);
    assert_eq!(drop.dropped(), 2);

    let mut seen = Vec::new();
    let mut split = Lines::new(4, Overlong::Split);
    split.push(b"abcdefghi\njk", |line| seen.push(line.to_vec()));
    split.finish(|line| seen.push(line.to_vec()));
    assert_eq!(
        seen,
        [
            b"abcd".to_vec(),
            b"efgh".to_vec(),
            b"i".to_vec(),
            b"jk".to_vec()
        ]
    );
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Event::parse(&bytes, 0).is_err());
    }

    #[test]
    fn text_survives_a_line_once_it_is_printable(
        text in ".*",
        level in 0..=MAX_LEVEL,
    ) {
        let event = Event { level, what: What::Console { line: printable(&text, MAX_TEXT) } };
        let line = event.clone().line();
        prop_assert!(line.len() < 32 * 1024);
        prop_assert_eq!(Event::parse(&line, level).unwrap(), event);
    }

    #[test]
    fn lines_do_not_depend_on_how_the_stream_is_cut(
        bytes in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200),
        cut in 0usize..200,
    ) {
        let cut = cut.min(bytes.len());
        let gather = |parts: &[&[u8]]| {
            let mut seen = Vec::new();
            let mut lines = Lines::new(8, Overlong::Drop);
            for part in parts {
                lines.push(part, |line| seen.push(line.to_vec()));
            }
            (seen, lines.dropped())
        };
        prop_assert_eq!(gather(&[&bytes]), gather(&[&bytes[..cut], &bytes[cut..]]));
    }
}
