//! From results to a report: pure.

use std::collections::BTreeMap;

use super::{
    Cell, ControlCell, Ending, Exits, Figures, LevelEnvironment, Ratio, Repeated, Report,
    RowReport, VERSION,
};
use crate::bench::exits::{self, Share};
use crate::bench::results::{Boot, Clock, Configuration, Measured, Outcome, Plan, Results};
use crate::bench::row::{Family, Quantity, Row};
use crate::bench::statistics::{Bootstrap, Control, Series, Sorted};

/// How far counts may differ between boots before a run is called noisy.
const REPEATS: f64 = 0.02;
/// Differences below this many exits for one operation are a timer's tick or two.
const NEGLIGIBLE_EXITS: f64 = 0.02;

/// One row of one level in one configuration, from all boots.
struct Group<'a> {
    row: Row,
    level: u8,
    boots: Vec<(&'a Boot, &'a Measured)>,
    failed: Vec<String>,
    /// By the number of the boot; empty on an emulated processor.
    series: BTreeMap<usize, Series>,
}

impl<'a> Group<'a> {
    fn new(boots: &[&'a Boot], row: Row, level: u8, pass: u8, emulated: bool) -> Self {
        let mut group = Self {
            row,
            level,
            boots: Vec::new(),
            failed: Vec::new(),
            series: BTreeMap::new(),
        };
        for boot in boots {
            match boot.phase(row, level, pass).map(|phase| &phase.outcome) {
                Some(Outcome::Measured(measured)) => {
                    group.boots.push((boot, measured));
                    let values = || measured.values(row.quantity());
                    let series = if emulated {
                        None
                    } else {
                        Series::new(&values())
                    };
                    if let Some(series) = series {
                        group.series.insert(boot.number, series);
                    }
                }
                Some(Outcome::Failed(why)) if !group.failed.contains(why) => {
                    group.failed.push(why.clone());
                }
                Some(Outcome::Failed(_)) | None => {}
            }
        }
        group
    }

    /// How much longer this takes than `other`: pairs of over and under.
    fn paired<'b>(&'b self, other: &'b Self) -> Vec<(&'b Series, &'b Series)> {
        let series = self.series.iter();
        let pairs = series.filter_map(|(boot, ours)| Some((ours, other.series.get(boot)?)));
        match self.row.quantity() {
            Quantity::Time => pairs.collect(),
            Quantity::Throughput => pairs.map(|(ours, theirs)| (theirs, ours)).collect(),
        }
    }
}

impl Report {
    /// What follows from `results`, with intervals by `bootstrap`.
    pub fn new(results: &Results, bootstrap: Bootstrap) -> Self {
        let plan = &results.manifest.plan;
        let configurations: Vec<(Configuration, Vec<&Boot>)> = plan
            .configurations()
            .map(|configuration| {
                let boots = results.boots.iter();
                let own = boots.filter(|boot| boot.configuration == configuration);
                (configuration.clone(), own.collect())
            })
            .collect();
        let rows: Vec<RowReport> = plan
            .rows
            .iter()
            .map(|&row| RowReport {
                row,
                cells: configurations
                    .iter()
                    .flat_map(|(configuration, boots)| {
                        cells(bootstrap, plan, configuration, boots, row)
                    })
                    .collect(),
            })
            .collect();
        let controls = controls(bootstrap, plan, &configurations);
        let complaints = complaints(&controls, &rows);
        Self {
            version: VERSION,
            nestling: results.manifest.nestling.clone(),
            began_s: results.manifest.began_s,
            statement: statement(results, &complaints),
            noisy: !complaints.is_empty(),
            complaints,
            plan: plan.clone(),
            boots: results.boots.len(),
            missing: results.missing(),
            damaged: results.damaged.clone(),
            faults: faults(&results.boots),
            repeated: repeated(&results.boots),
            controls,
            environments: environments(plan, &configurations),
            rows,
        }
    }
}

fn cells(
    bootstrap: Bootstrap,
    plan: &Plan,
    configuration: &Configuration,
    boots: &[&Boot],
    row: Row,
) -> Vec<Cell> {
    let groups: Vec<Group> = plan
        .levels
        .iter()
        .map(|&level| Group::new(boots, row, level, 0, plan.emulated))
        .collect();
    groups
        .iter()
        .map(|group| Cell {
            configuration: configuration.clone(),
            level: group.level,
            boots: group.boots.len(),
            figures: figures(bootstrap, group, &groups),
            exits: exits(bootstrap, group),
            failed: group.failed.clone(),
        })
        .collect()
}

fn figures(bootstrap: Bootstrap, group: &Group, all: &[Group]) -> Option<Figures> {
    let series: Vec<Series> = group.series.values().cloned().collect();
    let pooled = Sorted::new(
        series
            .iter()
            .flat_map(|s| s.values().values().iter().copied()),
    )?;
    let median = bootstrap.median(&series)?;
    let ratios = all
        .iter()
        .filter(|other| other.level < group.level)
        .filter_map(|other| {
            Some(Ratio {
                to: other.level,
                estimate: bootstrap.paired_ratio(&group.paired(other))?,
            })
        })
        .collect();
    Some(Figures {
        samples: pooled.values().len(),
        discarded: series.iter().map(Series::discarded).sum(),
        unsettled: series.iter().filter(|series| !series.settled()).count(),
        quantiles: pooled.quantiles(),
        cycles: cycles(group, median.value),
        median,
        ratios,
        pooled,
    })
}

/// The time of a small thing in cycles of the time-stamp counter, if all boots were
/// timed by it at one frequency.
fn cycles(group: &Group, ns: f64) -> Option<f64> {
    if group.row.family() == Family::Macro {
        return None;
    }
    let mut clocks = group.boots.iter().map(|(_, measured)| measured.clock);
    let first = clocks.next()?;
    match first {
        Clock::Tsc { khz } if clocks.all(|clock| clock == first) => Some(ns * khz as f64 / 1e6),
        _ => None,
    }
}

fn exits(bootstrap: Bootstrap, group: &Group) -> Vec<Exits> {
    let machines = (1..=group.level).rev();
    machines
        .filter_map(|machine| {
            let boots = group.boots.iter();
            let totals: Vec<f64> = boots
                .filter_map(|(_, measured)| exits::total(measured, machine))
                .collect();
            let series: Vec<Series> = totals.iter().filter_map(|&n| Series::new(&[n])).collect();
            let sorted = Sorted::new(totals)?;
            let (lowest, highest) = (sorted.min(), sorted.max());
            Some(Exits {
                machine,
                total: bootstrap.median(&series)?,
                kinds: kinds(group, machine),
                differs: if highest - lowest <= NEGLIGIBLE_EXITS {
                    0.0
                } else {
                    (highest - lowest) / sorted.median().max(NEGLIGIBLE_EXITS)
                },
            })
        })
        .collect()
}

/// The mean over boots of each kind, for kinds that there are.
fn kinds(group: &Group, machine: u8) -> Vec<Share> {
    let boots: Vec<Vec<Share>> = group
        .boots
        .iter()
        .filter_map(|(_, measured)| exits::by_kind(measured, machine))
        .collect();
    exits::Kind::ALL
        .into_iter()
        .map(|kind| {
            let of_kind = boots.iter().flatten().filter(|share| share.kind == kind);
            let sum: f64 = of_kind.map(|share| share.exits).sum();
            Share {
                kind,
                exits: sum / boots.len().max(1) as f64,
            }
        })
        .filter(|share| share.exits > 0.0)
        .collect()
}

/// The A/A controls: every row that was measured a second time.
fn controls(
    bootstrap: Bootstrap,
    plan: &Plan,
    configurations: &[(Configuration, Vec<&Boot>)],
) -> Vec<ControlCell> {
    let mut controls = Vec::new();
    for (configuration, boots) in configurations {
        for &level in &plan.levels {
            for &row in &plan.rows {
                let [first, again] =
                    [0, 1].map(|pass| Group::new(boots, row, level, pass, plan.emulated));
                // `paired` has the second time over the first.
                let pairs = again.paired(&first);
                let pairs: Vec<_> = pairs
                    .into_iter()
                    .map(|(over, under)| (under, over))
                    .collect();
                if let Some(control) = Control::new(&bootstrap, &pairs) {
                    controls.push(ControlCell {
                        configuration: configuration.clone(),
                        level,
                        row,
                        control,
                    });
                }
            }
        }
    }
    controls
}

/// What makes the run noisy, in words.
fn complaints(controls: &[ControlCell], rows: &[RowReport]) -> Vec<String> {
    let controls = controls
        .iter()
        .filter(|cell| cell.control.noisy)
        .map(|cell| format!("{} at L{}: {}", cell.row, cell.level, cell.control.words));
    let counts = rows.iter().flat_map(|row| {
        let cells = row.cells.iter();
        cells.flat_map(move |cell| {
            let noisy = cell.exits.iter().filter(|exits| exits.differs > REPEATS);
            noisy.map(move |exits| {
                format!(
                    "{} at L{}: noisy: exits counted at L{} differ by {:.1} % between boots",
                    row.row,
                    cell.level,
                    exits.machine - 1,
                    exits.differs * 100.0
                )
            })
        })
    });
    controls.chain(counts).collect()
}

/// The report's first line.
fn statement(results: &Results, complaints: &[String]) -> String {
    let plan = &results.manifest.plan;
    let boots = match results.boots.len() {
        1 => "1 boot".to_owned(),
        boots => format!("{boots} boots"),
    };
    let noise = match complaints.len() {
        0 => "",
        1 => " The run is noisy: its control found one thing that should be the same and isn't.",
        _ => " The run is noisy: its controls found things that should be the same and aren't.",
    };
    if plan.emulated {
        format!(
            "L0 ran on an emulated processor ({}), where no time and no cycle means anything: \
             this report has none, only counts, from {boots}.{noise}",
            plan.metal
        )
    } else {
        let processor = results
            .boots
            .iter()
            .flat_map(|boot| &boot.levels)
            // One that died first hasn't told.
            .filter(|level| !level.environment.processor.is_empty())
            .min_by_key(|level| level.level)
            .map_or("an unknown processor", |level| &level.environment.processor);
        format!("Measured on {processor}, {boots}.{noise}")
    }
}

fn repeated(boots: &[Boot]) -> Vec<Repeated> {
    let times = boots.iter().flat_map(|boot| {
        boot.lost.iter().map(|lost| Repeated {
            boot: boot.number,
            lost: lost.clone(),
        })
    });
    times.collect()
}

fn faults(boots: &[Boot]) -> Vec<Ending> {
    let endings = boots.iter().flat_map(|boot| {
        boot.levels.iter().filter_map(|level| {
            Some(Ending {
                boot: boot.number,
                level: level.level,
                fault: level.fault.clone()?,
            })
        })
    });
    endings.collect()
}

/// Each level's environment, from the first boot that has it, and how many boots had
/// another one.
fn environments(
    plan: &Plan,
    configurations: &[(Configuration, Vec<&Boot>)],
) -> Vec<LevelEnvironment> {
    let mut all: Vec<LevelEnvironment> = Vec::new();
    for (configuration, boots) in configurations {
        for &level in &plan.levels {
            let mut found = boots
                .iter()
                .flat_map(|boot| boot.levels.iter().filter(|found| found.level == level))
                .map(|level| &level.environment)
                // One that died first hasn't told.
                .filter(|environment| !environment.kernel.is_empty());
            let Some(environment) = found.next() else {
                continue;
            };
            let others = found.filter(|other| *other != environment).count();
            all.push(LevelEnvironment {
                configuration: configuration.clone(),
                level,
                environment: environment.clone(),
                others,
            });
        }
    }
    all
}
