use super::*;
use crate::bench::results::Outcome;
use crate::bench::results::{Boot, Damage};
use crate::bench::statistics::{Bootstrap, Spread};
use crate::bench::synthetic::{ROWS, Synthetic};

/// Enough for tests.
const QUICK: Bootstrap = Bootstrap {
    replicates: 100,
    seed: 0,
};

fn report(synthetic: &Synthetic) -> Report {
    Report::new(&synthetic.results(), QUICK)
}

fn near(estimate: &Estimate, expected: f64) {
    let Estimate {
        value, low, high, ..
    } = estimate;
    assert!(
        (value / expected - 1.0).abs() < 0.02,
        "{value} for {expected}"
    );
    assert!(
        low <= value && value <= high && high / low < 1.1,
        "{estimate:?}"
    );
}

#[test]
fn levels_are_measured_and_compared() {
    let report = report(&Synthetic::default());
    let configuration = report.plan.configurations().next().unwrap();
    let row = &report.rows[2];
    assert_eq!(row.row, Row::Cpuid);
    let cell = |level| row.cell(&configuration, level).unwrap();
    let figures = cell(2).figures.as_ref().unwrap();
    near(&figures.median, 37_000.0);
    assert_eq!(figures.median.spread, Spread::Interval95);
    assert!((figures.cycles.unwrap() / 74_000.0 - 1.0).abs() < 0.02);
    assert!(figures.samples + figures.discarded == 2000);
    near(cell(2).ratio(1).unwrap(), 37_000.0 / 1600.0);
    near(cell(2).ratio(0).unwrap(), 370.0);
    near(cell(1).ratio(0).unwrap(), 16.0);
    assert!(cell(0).figures.as_ref().unwrap().ratios.is_empty());
    // A throughput's ratio says how much longer a byte takes.
    let memory = report.rows[3].cell(&configuration, 2).unwrap();
    near(memory.ratio(0).unwrap(), 1.2);
    near(
        &memory.figures.as_ref().unwrap().median,
        4096.0 * 1e9 / 1200.0,
    );
}

#[test]
fn exits_are_counted_at_every_level_below() {
    let report = report(&Synthetic::default());
    let configuration = report.plan.configurations().next().unwrap();
    let exits = |row: usize, level, machine| {
        let exits = report.rows[row].exits(&configuration, level, machine);
        exits.map(|exits| exits.total.value)
    };
    assert_eq!(exits(2, 0, 0), None);
    assert_eq!(exits(2, 1, 1), Some(1.0));
    assert_eq!((exits(2, 2, 1), exits(2, 2, 2)), (Some(21.0), Some(1.0)));
    assert_eq!(exits(0, 1, 1), Some(0.0));
    assert_eq!(report.exit_places(), [(1, 1), (2, 1), (2, 2)]);
    let hypercall = report.rows[1].exits(&configuration, 2, 2).unwrap();
    let kinds: Vec<&str> = hypercall
        .kinds
        .iter()
        .map(|share| share.kind.title())
        .collect();
    assert_eq!(kinds, ["hypercall"]);
}

#[test]
fn levels_are_compared_with_their_neighbours_and_with_the_lowest() {
    let mut report = report(&Synthetic::default());
    assert_eq!(report.level_pairs(), [(1, 0), (2, 1), (2, 0)]);
    report.plan.levels = vec![1];
    assert_eq!(report.level_pairs(), []);
}

#[test]
fn an_emulated_metal_gives_counts_and_nothing_else() {
    let report = report(&Synthetic {
        metal: "svm",
        boots: 3,
        ..Synthetic::default()
    });
    assert!(
        report
            .rows
            .iter()
            .flat_map(|row| &row.cells)
            .all(|cell| cell.figures.is_none())
    );
    assert!(report.controls.is_empty() && !report.noisy);
    let first = "L0 ran on an emulated processor (svm), where no time and no cycle means \
                 anything: this report has none, only counts, from 3 boots.";
    assert_eq!(report.statement, first);
    let markdown = markdown::text(&report);
    assert_eq!(markdown.lines().next(), Some(first));
    assert!(!markdown.contains(" ns") && !markdown.contains("Ratios"));
    let csv = csv::text(&report);
    assert!(csv.contains("cpuid,2,svm,nestling,exits-at-L0,exits/operation,21,21,21,range,3\n"));
    assert!(
        csv.lines().skip(1).all(|line| line.contains(",exits-at-L")),
        "{csv}"
    );
    let html = html::text(&report);
    assert!(html.contains(first));
    let json = report.json().unwrap();
    for text in [&html, &json] {
        assert!(!text.contains("\"p50\"") && !text.contains("µs") && !text.contains("p99"));
    }
}

#[test]
fn a_run_whose_control_differs_is_called_noisy_in_words() {
    assert!(!report(&Synthetic::default()).noisy);
    let report = report(&Synthetic {
        drift: 1.1,
        ..Synthetic::default()
    });
    assert!(report.noisy);
    assert_eq!(report.complaints.len(), 3);
    assert!(report.complaints[0].contains("syscall at L0: noisy: the same work took "));
    assert!(report.statement.contains("The run is noisy"));
    assert!(html::text(&report).contains(&report.complaints[0]));
}

#[test]
fn counts_that_differ_between_boots_are_called_noisy() {
    let mut results = Synthetic::default().results();
    for level in &mut results.boots[3].levels {
        for phase in level
            .phases
            .iter_mut()
            .filter(|phase| phase.row == Row::Cpuid)
        {
            if let Outcome::Measured(measured) = &mut phase.outcome {
                for counts in measured.counts.values_mut() {
                    *counts.get_mut("exits").unwrap() += 100;
                }
            }
        }
    }
    let complaints = Report::new(&results, QUICK).complaints;
    assert_eq!(
        complaints,
        [
            "cpuid at L1: noisy: exits counted at L0 differ by 10.0 % between boots",
            "cpuid at L2: noisy: exits counted at L1 differ by 10.0 % between boots",
        ]
    );
}

#[test]
fn a_level_that_died_leaves_the_others_and_a_note() {
    let mut results = Synthetic {
        boots: 2,
        ..Synthetic::default()
    }
    .results();
    for boot in &mut results.boots {
        boot.levels[2].phases.clear();
        boot.levels[2].fault = Some("panic".into());
        boot.lost = vec!["L1: hang".into()];
    }
    results.boots.remove(1);
    results.damaged.push(Damage {
        file: "boot-0001.json".into(),
        reason: "it ends too early, after 7 bytes".into(),
    });
    let report = Report::new(&results, QUICK);
    assert_eq!(
        report.notes(),
        [
            "boot 0: L2: panic",
            "boot 0 again, after L1: hang",
            "boot-0001.json wasn't used: it ends too early, after 7 bytes",
            "1 boot of the plan is missing",
        ]
    );
    let configuration = report.plan.configurations().next().unwrap();
    assert!(
        report.rows[2]
            .cell(&configuration, 2)
            .unwrap()
            .figures
            .is_none()
    );
    assert!(
        report.rows[2]
            .cell(&configuration, 1)
            .unwrap()
            .figures
            .is_some()
    );
    assert!(html::text(&report).contains("L2: panic"));
}

#[test]
fn nothing_measured_is_a_report_all_the_same() {
    let mut results = Synthetic::default().results();
    results.boots.clear();
    let report = Report::new(&results, QUICK);
    assert_eq!(
        report.statement,
        "Measured on an unknown processor, 0 boots."
    );
    assert!(html::text(&report).ends_with("</html>\n"));
    assert!(csv::text(&report).lines().count() == 1);
}

#[test]
fn a_level_that_died_before_it_told_its_environment_has_none() {
    let mut results = Synthetic::default().results();
    let silence = |boots: &mut [Boot]| {
        for level in boots.iter_mut().flat_map(|boot| &mut boot.levels) {
            level.environment = Environment::default();
        }
    };
    silence(&mut results.boots[..1]);
    let report = Report::new(&results, QUICK);
    assert_eq!(report.statement, "Measured on EPYC <&>, 10 boots.");
    for found in &report.environments {
        assert_eq!(
            (found.environment.kernel.as_str(), found.others),
            ("6.12.0", 0)
        );
    }
    silence(&mut results.boots);
    let report = Report::new(&results, QUICK);
    assert_eq!(
        report.statement,
        "Measured on an unknown processor, 10 boots."
    );
    assert!(report.environments.is_empty());
    assert!(html::text(&report).ends_with("</html>\n"));
}

#[test]
fn several_configurations_are_columns() {
    let report = report(&Synthetic {
        exposures: &["svm", "svm,-npt"],
        monitors: &["nestling", "qemu-q35"],
        boots: 2,
        ..Synthetic::default()
    });
    let names: Vec<String> = report.columns().into_iter().map(|(_, name)| name).collect();
    assert_eq!(
        names,
        [
            "nestling svm",
            "qemu-q35 svm",
            "nestling svm,-npt",
            "qemu-q35 svm,-npt"
        ]
    );
    let csv = csv::text(&report);
    assert!(
        csv.contains("cpuid,1,\"svm,-npt\",qemu-q35,ratio-to-L0,,"),
        "{csv}"
    );
    assert!(html::text(&report).contains("qemu-q35 svm,-npt"));
}

#[test]
fn every_form_is_whole() {
    let report = report(&Synthetic::default());
    let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
    assert_eq!(json["version"], 1);
    assert_eq!(json["rows"][2]["row"], "cpuid");
    assert_eq!(json["rows"][2]["cells"][2]["exposure"], "svm");
    assert_eq!(
        json["rows"][2]["cells"][2]["figures"]["median"]["spread"],
        "interval95"
    );
    let csv = csv::text(&report);
    let fields = |line: &str| line.split(',').count();
    assert!(
        csv.lines()
            .all(|line| fields(line) == fields(csv.lines().next().unwrap()))
    );
    let html = html::text(&report);
    assert!(html.contains("EPYC &lt;&amp;&gt;") && !html.contains("EPYC <"));
    // Nothing is fetched, and nothing runs.
    for word in [
        "<script", "http://", "https://", "<link", "@import", "url(http", "src=",
    ] {
        assert!(!html.contains(word), "{word}");
    }
    for element in [
        "svg", "section", "table", "div", "figure", "article", "p", "ul", "li",
    ] {
        let open = html.matches(&format!("<{element}>")).count()
            + html.matches(&format!("<{element} ")).count();
        assert_eq!(
            open,
            html.matches(&format!("</{element}>")).count(),
            "{element}"
        );
    }
    assert!(
        ROWS.iter()
            .all(|row| html.contains(&format!("<dt>{row}</dt>")))
    );
}
