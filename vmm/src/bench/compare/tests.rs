use super::*;
use crate::bench::results::Outcome;
use crate::bench::synthetic::Synthetic;

const QUICK: Bootstrap = Bootstrap {
    replicates: 100,
    seed: 0,
};

fn compare(a: &Results, b: &Results) -> Comparison {
    Comparison::new([a, b], &[], 0.05, QUICK)
}

fn slow(slowness: f64, seed: u64) -> Results {
    let synthetic = Synthetic {
        slowness,
        seed,
        ..Synthetic::default()
    };
    synthetic.results()
}

/// Adds exits to those of a row, at the highest level.
fn more_exits(results: &mut Results, row: Row, more: u64) {
    for boot in &mut results.boots {
        let phases = boot.levels[2].phases.iter_mut();
        for phase in phases.filter(|phase| phase.row == row) {
            if let Outcome::Measured(measured) = &mut phase.outcome {
                *measured
                    .counts
                    .get_mut(&1)
                    .unwrap()
                    .get_mut("exits")
                    .unwrap() += more;
            }
        }
    }
}

fn verdicts(comparison: &Comparison, verdict: Verdict) -> Vec<&Place> {
    let found = comparison.differences.iter();
    let found = found.filter(|difference| difference.verdict == verdict);
    found.map(|difference| &difference.place).collect()
}

#[test]
fn two_runs_of_the_same_are_the_same() {
    let comparison = compare(&slow(1.0, 1), &slow(1.0, 2));
    assert!(comparison.ok && comparison.notes.is_empty() && comparison.lost.is_empty());
    let same = verdicts(&comparison, Verdict::Same).len();
    assert_eq!(same, comparison.differences.len());
    // Eleven figures, hypercall having none at L0, and exits at three places a row.
    assert_eq!(same, 11 + 12);
}

#[test]
fn what_costs_more_than_the_threshold_is_a_regression() {
    let comparison = compare(&slow(1.0, 1), &slow(1.2, 2));
    assert!(!comparison.ok);
    let regressed = verdicts(&comparison, Verdict::Regression);
    assert_eq!(regressed.len(), 8);
    assert_eq!(verdicts(&comparison, Verdict::ControlDiffers).len(), 3);
    assert!(regressed.iter().all(|place| place.metric == Metric::Figure));
    // Throughputs as well, which fall.
    let memory = comparison
        .differences
        .iter()
        .find(|d| d.place.row == Row::Memory)
        .unwrap();
    assert!(memory.medians[0] > memory.medians[1]);
    assert!((memory.ratio.unwrap().value - 1.2).abs() < 0.03);
    let back = compare(&slow(1.2, 2), &slow(1.0, 1));
    assert!(back.ok);
    assert_eq!(verdicts(&back, Verdict::Improvement).len(), 8);
}

#[test]
fn what_is_within_the_threshold_is_not() {
    let (a, b) = (slow(1.0, 1), slow(1.03, 2));
    assert!(compare(&a, &b).ok);
    assert!(!Comparison::new([&a, &b], &[], 0.005, QUICK).ok);
}

#[test]
fn counts_are_compared_on_every_metal_and_by_one_boot() {
    let run = || {
        let synthetic = Synthetic {
            metal: "svm",
            boots: 1,
            ..Synthetic::default()
        };
        synthetic.results()
    };
    let (a, mut b) = (run(), run());
    more_exits(&mut b, Row::Cpuid, 2000);
    more_exits(&mut b, Row::Memory, 1);
    let comparison = compare(&a, &b);
    assert_eq!(
        comparison.notes,
        ["on an emulated processor times mean nothing: only counts are compared"]
    );
    let regressed = verdicts(&comparison, Verdict::Regression);
    assert_eq!(regressed.len(), 1);
    assert_eq!(
        (regressed[0].row, regressed[0].metric),
        (Row::Cpuid, Metric::ExitsAt(0))
    );
    // Exits where there were none.
    more_exits(&mut b, Row::Syscall, 500);
    let regressed = compare(&a, &b);
    assert_eq!(
        verdicts(&regressed, Verdict::Regression)[0].row,
        Row::Syscall
    );
}

#[test]
fn one_boot_decides_nothing_about_times() {
    let one = |slowness| {
        let synthetic = Synthetic {
            boots: 1,
            slowness,
            ..Synthetic::default()
        };
        synthetic.results()
    };
    let comparison = compare(&one(1.0), &one(2.0));
    assert!(comparison.ok);
    assert_eq!(verdicts(&comparison, Verdict::Undecided).len(), 11);
}

#[test]
fn what_was_lost_fails_the_gate() {
    let (a, mut b) = (slow(1.0, 1), slow(1.0, 2));
    for boot in &mut b.boots {
        boot.levels.truncate(2);
    }
    let comparison = compare(&a, &b);
    assert!(!comparison.ok);
    assert!(comparison.lost.iter().all(|place| place.level == 2));
    assert_eq!(comparison.lost.len(), 4 + 8);
    // What is new is no loss.
    assert!(compare(&b, &a).ok);
}

#[test]
fn only_the_rows_that_are_asked_for_are_compared() {
    let (a, b) = (slow(1.0, 1), slow(1.2, 2));
    let comparison = Comparison::new([&a, &b], &[Row::Cpuid], 0.05, QUICK);
    assert!(
        comparison
            .differences
            .iter()
            .all(|d| d.place.row == Row::Cpuid)
    );
    assert_eq!(comparison.differences.len(), 6);
}

#[test]
fn what_differs_between_the_machines_is_noted() {
    let (a, mut b) = (slow(1.0, 1), slow(1.0, 2));
    b.manifest.plan.metal = "svm".into();
    b.boots[0].levels[1].environment.kernel = "6.1.0".into();
    b.boots.pop();
    assert_eq!(
        compare(&a, &b).notes,
        [
            "the metals differ: host and svm",
            "L1 differs in kernel",
            "boots of its plan that the second lacks: 1",
        ]
    );
}

#[test]
fn the_text_has_one_line_a_figure_and_a_sum() {
    let text = compare(&slow(1.0, 1), &slow(1.2, 2)).text();
    assert_eq!(text.lines().count(), 24);
    let line = text
        .lines()
        .find(|line| line.starts_with("cpuid in L2 (nestling, svm): time"));
    assert!(line.unwrap().contains("REGRESSION       1."), "{text}");
    assert!(text.ends_with(
        "23 figures compared, threshold 5 %: 8 regressed, 0 improved, 0 undecided, \
         3 controls differ, 0 lost\n"
    ));
}
