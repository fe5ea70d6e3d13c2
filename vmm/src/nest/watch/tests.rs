use super::*;
use crate::channel::{Booted, WorkloadResult};
use crate::cpu::CpuView;
use proptest::prelude::*;
use std::os::unix::process::ExitStatusExt;

const LIMITS: Limits = Limits {
    boot_s: 60,
    silence_s: 30,
    total_s: 300,
};

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The end of a process that exits with code 1.
fn failure() -> ExitStatus {
    ExitStatus::from_raw(1 << 8)
}

fn own(what: What) -> Event {
    Event { level: 2, what }
}

#[test]
fn another_system_is_judged_by_its_end_alone() {
    let other = || Signs(Watch::other(2, "xen", None, 300));
    let result = |signs: Signs| {
        let status = ExitStatus::from_raw(0);
        let Verdict { fault, result, .. } = signs.0.verdict(status, "");
        (fault.map(|fault| fault.kind), result.expect("a result"))
    };
    let signs = other().started().console("one").console("two");
    let (fault, good) = result(signs.ended(How::PowerOff));
    assert_eq!((fault, good.ok, good.status), (None, true, Some(0)));
    assert_eq!((&*good.name, &*good.output), ("xen", "one\ntwo\n"));
    for (how, kind) in [
        (How::Reset, FaultKind::Reset),
        (How::TripleFault, FaultKind::TripleFault),
        (How::Error, FaultKind::MonitorDied),
    ] {
        let (fault, result) = result(other().started().ended(how));
        assert_eq!((fault, result.ok), (Some(kind), false));
    }
    let mut watch = other().started().0;
    assert!(!watch.overdue(at(299)));
    assert_eq!(watch.deadline(), at(300));
    assert!(watch.overdue(at(300)));
    let (fault, late) = result(Signs(watch));
    assert_eq!((fault, late.ok), (Some(FaultKind::Timeout), false));
}

#[test]
fn another_system_may_end_with_a_status() {
    for (how, code, wanted, ok, fault) in [
        (How::DebugExit, 33, 33, true, None),
        (How::DebugExit, 3, 33, false, None),
        (How::PowerOff, 0, 33, false, Some(FaultKind::PowerOff)),
        // The monitor's own failure isn't the guest's status.
        (How::Error, 1, 1, false, Some(FaultKind::MonitorDied)),
    ] {
        let watch = Watch::other(2, "test", Some(wanted), 300);
        let signs = Signs(watch).started().ended(how);
        let verdict = signs.0.verdict(ExitStatus::from_raw(code << 8), "");
        let result = verdict.result.expect("a result");
        assert_eq!((result.ok, result.status), (ok, Some(code)), "{how:?}");
        assert_eq!(verdict.fault.map(|fault| fault.kind), fault);
    }
}

#[test]
fn of_another_systems_console_the_start_is_kept() {
    let mut signs = Signs(Watch::other(2, "loud", None, 300));
    for _ in 0..1000 {
        signs = signs.console("a line of the console");
    }
    let result = signs.0.verdict(failure(), "").result.expect("a result");
    assert!((MAX_TEXT - 30..=MAX_TEXT).contains(&result.output.len()));
}

/// A watch over L2 that has shown these signs.
struct Signs(Watch);

impl Signs {
    fn new() -> Self {
        Self(Watch::new(2, LIMITS))
    }

    fn started(mut self) -> Self {
        assert_eq!(self.0.monitor(MonitorEvent::Started), None);
        self
    }

    fn event(mut self, what: What) -> Self {
        self.0.event(own(what), at(1));
        self
    }

    fn console(mut self, line: &str) -> Self {
        assert!(self.0.console(line.as_bytes(), at(1)).is_some());
        self
    }

    fn monitor(mut self, event: MonitorEvent) -> Self {
        assert_eq!(self.0.monitor(event), None);
        self
    }

    fn ended(self, how: How) -> Self {
        self.monitor(MonitorEvent::Ended {
            how,
            detail: String::new(),
        })
    }

    fn verdict(self) -> (How, Option<(FaultKind, String)>) {
        let Verdict { how, fault, .. } = self.0.verdict(failure(), "error: no room");
        (how, fault.map(|fault| (fault.kind, fault.detail)))
    }

    fn kind(self) -> Option<FaultKind> {
        self.verdict().1.map(|(kind, _)| kind)
    }
}

#[test]
fn a_level_that_is_done_and_powers_off_has_no_fault() {
    let signs = Signs::new()
        .started()
        .event(What::Done)
        .ended(How::PowerOff);
    assert_eq!(signs.verdict(), (How::PowerOff, None));
    // An emulator doesn't say how the machine ended; done is enough.
    assert_eq!(
        Signs::new().event(What::Done).verdict(),
        (How::Exited, None)
    );
}

#[test]
fn every_other_end_is_named() {
    let up = || Signs::new().started().event(What::Hello { v: 1 });
    for (signs, kind) in [
        (up().ended(How::PowerOff), FaultKind::PowerOff),
        (up().ended(How::Reset), FaultKind::Reset),
        (up().ended(How::TripleFault), FaultKind::TripleFault),
        (up().ended(How::Error), FaultKind::MonitorDied),
        (up(), FaultKind::MonitorDied),
        (up().event(What::Done), FaultKind::MonitorDied),
        (
            up().monitor(MonitorEvent::Panicked).ended(How::Reset),
            FaultKind::Panic,
        ),
        (Signs::new(), FaultKind::NotStarted),
        (Signs::new().ended(How::Error), FaultKind::NotStarted),
        (Signs::new().event(What::Heartbeat), FaultKind::MonitorDied),
    ] {
        assert_eq!(signs.kind(), Some(kind));
    }
}

#[test]
fn an_emulator_that_ends_well_too_early_was_reset() {
    let mut watch = Watch::new(0, LIMITS);
    let hello = What::Hello { v: 1 };
    watch.event(
        Event {
            level: 0,
            what: hello,
        },
        at(1),
    );
    let fault = watch.verdict(ExitStatus::from_raw(0), "").fault;
    assert_eq!(fault.unwrap().kind, FaultKind::Reset);
}

#[test]
fn a_monitor_that_could_not_start_says_why() {
    let (how, fault) = Signs::new().verdict();
    assert_eq!(how, How::Exited);
    assert_eq!(
        fault,
        Some((FaultKind::NotStarted, "error: no room".into()))
    );
}

#[test]
fn a_panic_on_the_console_explains_a_reset() {
    let line = "[    1.0] Kernel panic - not syncing: sysrq triggered crash";
    let signs = Signs::new().started().console(line).ended(How::Reset);
    let expected = (FaultKind::Panic, "sysrq triggered crash".to_owned());
    assert_eq!(signs.verdict(), (How::Reset, Some(expected)));
}

#[test]
fn a_panic_for_want_of_memory_is_out_of_memory() {
    let line = "Kernel panic - not syncing: System is deadlocked on memory";
    let signs = Signs::new().started().console(line).ended(How::Reset);
    assert_eq!(signs.kind(), Some(FaultKind::OutOfMemory));
}

#[test]
fn words_on_the_console_prove_nothing_once_the_level_ended_in_order() {
    let signs = Signs::new()
        .started()
        .console("Kernel panic - not syncing: just kidding")
        .event(What::Done)
        .ended(How::PowerOff);
    assert_eq!(signs.kind(), None);
}

#[test]
fn what_the_level_itself_reports_comes_before_what_follows_from_it() {
    let fault = Fault {
        kind: FaultKind::InitDied,
        detail: "signal 11".into(),
    };
    let signs = Signs::new()
        .started()
        .event(What::Fault(fault))
        .ended(How::PowerOff);
    assert_eq!(signs.kind(), Some(FaultKind::InitDied));
}

#[test]
fn silence_is_a_hang_and_signs_of_life_put_it_off() {
    let mut watch = Watch::new(2, LIMITS);
    assert_eq!(
        watch.event(own(What::Hello { v: 1 }), at(10)),
        Some(own(What::Hello { v: 1 }))
    );
    assert_eq!(watch.event(own(What::Heartbeat), at(30)), None);
    assert_eq!(watch.deadline(), at(60));
    assert!(!watch.overdue(at(59)));
    assert!(watch.overdue(at(60)));
    assert_eq!(
        watch.verdict(failure(), "").fault.unwrap().kind,
        FaultKind::Hang
    );
}

#[test]
fn a_guests_guest_is_no_sign_of_its_own_life() {
    let mut watch = Watch::new(2, LIMITS);
    watch.event(own(What::Heartbeat), at(10));
    watch.event(
        Event {
            level: 3,
            what: What::Heartbeat,
        },
        at(39),
    );
    assert!(watch.overdue(at(40)));
}

#[test]
fn quiet_is_a_hang_where_it_may_not_be_although_init_lives() {
    let mut watch = Watch::new(2, LIMITS).never_quiet_for(at(100));
    assert_eq!(watch.deadline(), at(60));
    watch.event(own(What::Hello { v: 1 }), at(10));
    let beats = |watch: &mut Watch, now: &[u64]| {
        for &now in now {
            watch.event(own(What::Heartbeat), at(now));
            assert!(!watch.overdue(at(now)));
        }
    };
    beats(&mut watch, &[30, 50]);
    // A level above tells something.
    let text = "measures nop".to_owned();
    let what = What::Progress { text };
    watch.event(Event { level: 4, what }, at(70));
    beats(&mut watch, &[75, 100, 125, 150]);
    assert_eq!(watch.deadline(), at(170));
    assert!(watch.overdue(at(170)));
    let fault = watch.verdict(failure(), "").fault.unwrap();
    let expected = "no level has told anything for 100 s";
    assert_eq!((fault.kind, &*fault.detail), (FaultKind::Hang, expected));
}

#[test]
fn each_phase_has_its_limit() {
    let kind = |mut watch: Watch, now| {
        assert!(!watch.overdue(at(now - 1)));
        assert_eq!(watch.deadline(), at(now));
        assert!(watch.overdue(at(now)));
        watch.verdict(failure(), "").fault.unwrap().kind
    };
    assert_eq!(kind(Watch::new(2, LIMITS), 60), FaultKind::BootTimeout);
    let mut done = Watch::new(2, LIMITS);
    done.event(own(What::Done), at(5));
    assert_eq!(kind(done, 125), FaultKind::Hang);
    let mut busy = Watch::new(2, LIMITS);
    busy.event(own(What::Heartbeat), at(290));
    assert_eq!(kind(busy, 300), FaultKind::Timeout);
}

#[test]
fn a_guest_cannot_report_what_its_monitor_must() {
    let mut watch = Watch::new(2, LIMITS);
    for what in [
        What::Starts {
            name: "forged".into(),
            kernel: String::new(),
        },
        What::Ended { how: How::PowerOff },
        What::Exits {
            counts: Counts::new(),
            at: None,
            hypervisor: None,
        },
        What::Console {
            line: "forged".into(),
        },
    ] {
        assert_eq!(watch.event(own(what.clone()), at(1)), None);
        // Of its own guest it must.
        let event = Event { level: 3, what };
        assert_eq!(watch.event(event.clone(), at(1)), Some(event));
    }
}

#[test]
fn what_a_vcpu_was_given_is_for_its_monitor_to_say() {
    let mut watch = Watch::new(2, LIMITS);
    let view = CpuView::default();
    assert_eq!(watch.event(own(What::Vcpu(view.clone())), at(1)), None);
    let read = own(What::Cpu(view.clone()));
    assert_eq!(watch.event(read.clone(), at(1)), Some(read));
    let given = watch.monitor(MonitorEvent::Vcpu(view.clone()));
    assert_eq!(given, Some(own(What::Vcpu(view))));
}

#[test]
fn counts_are_summed_over_vcpus_and_zeroes_left_out() {
    let map = |pairs: &[(&str, u64)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
    let event = Watch::new(2, LIMITS).monitor(MonitorEvent::Exits {
        vm: map(&[("pages_4k", 3), ("idle", 0)]),
        vcpus: vec![map(&[("exits", 1)]), map(&[("exits", u64::MAX)])],
    });
    let counts = map(&[("pages_4k", 3), ("exits", u64::MAX)]);
    assert_eq!(
        event,
        Some(own(What::Exits {
            counts,
            at: None,
            hypervisor: None
        }))
    );
}

#[test]
fn a_monitors_words_are_bounded_and_printable() {
    let detail = format!("\x1b[2Jgone{}", "x".repeat(5000));
    let (_, fault) = Signs::new()
        .started()
        .monitor(MonitorEvent::Ended {
            how: How::Error,
            detail,
        })
        .verdict();
    let (kind, detail) = fault.unwrap();
    assert_eq!(kind, FaultKind::MonitorDied);
    assert!(detail.starts_with("gonex") && detail.len() == MAX_DETAIL);
    let vm = (0..1000).map(|n| (format!("\x07{n}"), 1)).collect();
    let vcpus = Vec::new();
    let event = Watch::new(2, LIMITS).monitor(MonitorEvent::Exits { vm, vcpus });
    let Some(What::Exits { counts, .. }) = event.map(|event| event.what) else {
        panic!("counts are passed on");
    };
    assert_eq!(counts.len(), MAX_COUNTS);
    assert!(counts.keys().all(|name| !name.contains('\x07')));
}

#[test]
fn a_flood_of_text_leaves_room_for_results() {
    let mut watch = Watch::new(2, LIMITS);
    let passed = (0..100_000)
        .filter(|_| watch.console(b"spam", at(1)).is_some())
        .count();
    assert_eq!(passed, usize::try_from(BURST - RESERVE).unwrap());
    assert_eq!(watch.dropped(), 100_000 - u64::from(BURST - RESERVE));
    let result = What::Workload(WorkloadResult {
        name: "w".into(),
        ok: true,
        status: None,
        output: String::new(),
    });
    assert!(watch.event(own(result), at(1)).is_some());
    assert!(
        watch
            .event(own(What::Booted(Booted::default())), at(1))
            .is_some()
    );
    assert!(watch.console(b"later", at(10)).is_some());
}

proptest! {
    #[test]
    fn a_verdict_without_fault_needs_done(
        started: bool,
        panicked: bool,
        how in prop::option::of(prop_oneof![
            Just(How::PowerOff), Just(How::Reset), Just(How::TripleFault), Just(How::Error),
        ]),
        text in "(Kernel panic - not syncing: )?.*",
    ) {
        let mut watch = Watch::new(2, LIMITS);
        if started {
            watch.monitor(MonitorEvent::Started);
        }
        if panicked {
            watch.monitor(MonitorEvent::Panicked);
        }
        watch.console(text.as_bytes(), at(0));
        if let Some(how) = how {
            watch.monitor(MonitorEvent::Ended { how, detail: text });
        }
        prop_assert!(watch.verdict(failure(), "").fault.is_some());
    }
}
