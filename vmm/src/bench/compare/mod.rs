//! What differs between two runs.

mod text;

use std::collections::BTreeMap;

use serde::Serialize;

use super::exits;
use super::report::environment;
use super::results::{Configuration, Measured, Results};
use super::row::{Family, Quantity, Row};
use super::statistics::{Bootstrap, Estimate, Series, Sorted};

/// The version of the JSON form; docs/json.md describes it.
const VERSION: u32 = 1;

/// The fewest boots on either side from which anything follows about times.
const MIN_BOOTS: usize = 2;

/// What a phase counts by a timer's tick or two, for one operation.
const NEGLIGIBLE_EXITS: f64 = 0.02;

/// What differs between a reference, A, and another run, B.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    version: u32,
    /// By how much B may cost more, as a share of what A costs.
    pub threshold: f64,
    /// Whether nothing regressed, and nothing was lost.
    pub ok: bool,
    /// What makes the two hard to compare, in words.
    pub notes: Vec<String>,
    /// Every figure that both have.
    pub differences: Vec<Difference>,
    /// What A has measured and B hasn't.
    pub lost: Vec<Place>,
}

/// Where a figure belongs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// To which row.
    pub row: Row,
    /// To which level.
    pub level: u8,
    /// To which configuration.
    #[serde(flatten)]
    pub configuration: Configuration,
    /// What it is.
    pub metric: Metric,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// A time or a throughput, in the row's unit.
    Figure,
    /// Exits for one operation, counted at a level.
    ExitsAt(u8),
}

/// A figure of both runs.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// The median of A and that of B.
    pub medians: [f64; 2],
    /// How many times as much B costs; `None` where A costs nothing.
    pub ratio: Option<Estimate>,
    /// What follows.
    pub verdict: Verdict,
}

/// What follows from a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// B costs more: the whole interval is past the threshold.
    Regression,
    /// B costs less: the whole interval is past the threshold.
    Improvement,
    /// Neither.
    Same,
    /// Too few boots, or times too close to zero.
    Undecided,
    /// A control, which should cost the same in both runs, and doesn't: the machines
    /// differ, or what else they did, and the other rows can't be trusted.
    ControlDiffers,
}

impl Comparison {
    /// Compares `b` with `a`; of `rows`, or of all if there are none. `threshold` is a
    /// share: 0.05 for 5 %.
    pub fn new([a, b]: [&Results; 2], rows: &[Row], threshold: f64, bootstrap: Bootstrap) -> Self {
        let times = [a, b].iter().all(|results| !results.manifest.plan.emulated);
        let [before, mut after] = [a, b].map(|results| figures(results, rows, times));
        let mut lost = Vec::new();
        let mut differences = Vec::new();
        for (place, before) in before {
            match after.remove(&place) {
                Some(after) => {
                    let difference =
                        Difference::new(place, [&before, &after], threshold, bootstrap);
                    differences.extend(difference);
                }
                None => lost.push(place),
            }
        }
        let regressed = |difference: &Difference| difference.verdict == Verdict::Regression;
        Self {
            version: VERSION,
            threshold,
            ok: !differences.iter().any(regressed) && lost.is_empty(),
            notes: notes(a, b),
            differences,
            lost,
        }
    }
}

impl Difference {
    /// `None` if one side has nothing.
    fn new(
        place: Place,
        [before, after]: [&[Series]; 2],
        threshold: f64,
        bootstrap: Bootstrap,
    ) -> Option<Self> {
        let [a, b] = [before, after].map(|boots| Sorted::new(boots.iter().map(Series::median)));
        let (a, b) = (a?, b?);
        let ratio = match (place.metric, place.row.quantity()) {
            (Metric::Figure, Quantity::Throughput) => bootstrap.ratio(before, after),
            _ => bootstrap.ratio(after, before),
        };
        let verdict = match (place.metric, &ratio) {
            (Metric::Figure, Some(ratio)) if ratio.boots >= MIN_BOOTS => {
                match (judged(ratio, threshold), place.row.family()) {
                    (Verdict::Same, _) => Verdict::Same,
                    (_, Family::Control) => Verdict::ControlDiffers,
                    (differs, _) => differs,
                }
            }
            (Metric::Figure, _) => Verdict::Undecided,
            (Metric::ExitsAt(_), _) if (b.median() - a.median()).abs() <= NEGLIGIBLE_EXITS => {
                Verdict::Same
            }
            (Metric::ExitsAt(_), Some(ratio)) => judged(ratio, threshold),
            // Something where there was nothing.
            (Metric::ExitsAt(_), None) if b.min() > a.max() => Verdict::Regression,
            (Metric::ExitsAt(_), None) => Verdict::Same,
        };
        Some(Self {
            place,
            medians: [a.median(), b.median()],
            ratio,
            verdict,
        })
    }
}

fn judged(ratio: &Estimate, threshold: f64) -> Verdict {
    let bound = 1.0 + threshold;
    if ratio.low > bound {
        Verdict::Regression
    } else if ratio.high < 1.0 / bound {
        Verdict::Improvement
    } else {
        Verdict::Same
    }
}

/// All that a run has measured of `rows`: a series for each boot.
fn figures(results: &Results, rows: &[Row], times: bool) -> BTreeMap<Place, Vec<Series>> {
    let mut figures: BTreeMap<Place, Vec<Series>> = BTreeMap::new();
    for boot in &results.boots {
        for level in &boot.levels {
            let wanted = |row: &&Row| rows.is_empty() || rows.contains(row);
            for &row in results.manifest.plan.rows.iter().filter(wanted) {
                let Some(measured) = boot.measured(row, level.level, 0) else {
                    continue;
                };
                for (metric, series) in series(row, level.level, measured, times) {
                    let place = Place {
                        row,
                        level: level.level,
                        configuration: boot.configuration.clone(),
                        metric,
                    };
                    figures.entry(place).or_default().push(series);
                }
            }
        }
    }
    figures
}

fn series(row: Row, level: u8, measured: &Measured, times: bool) -> Vec<(Metric, Series)> {
    let figure = times
        .then(|| Series::new(&measured.values(row.quantity())))
        .flatten();
    let figure = figure.map(|series| (Metric::Figure, series));
    let exits = (1..=level).filter_map(|machine| {
        let series = Series::new(&[exits::total(measured, machine)?])?;
        Some((Metric::ExitsAt(machine - 1), series))
    });
    figure.into_iter().chain(exits).collect()
}

/// What makes two runs hard to compare.
fn notes(a: &Results, b: &Results) -> Vec<String> {
    let mut notes = Vec::new();
    let plans = [a, b].map(|results| &results.manifest.plan);
    if plans[0].metal != plans[1].metal {
        notes.push(format!(
            "the metals differ: {} and {}",
            plans[0].metal, plans[1].metal
        ));
    }
    if plans.iter().any(|plan| plan.emulated) {
        notes.push("on an emulated processor times mean nothing: only counts are compared".into());
    }
    for &level in &plans[0].levels {
        let facts = [a, b].map(|results| {
            let mut levels = results.boots.iter().flat_map(|boot| &boot.levels);
            let found = levels.find(|found| found.level == level)?;
            Some(environment::facts(&found.environment))
        });
        let [Some(before), Some(after)] = facts else {
            continue;
        };
        let after: BTreeMap<String, String> = after.into_iter().collect();
        let differ: Vec<String> = before
            .into_iter()
            .filter(|(name, value)| after.get(name) != Some(value))
            .map(|(name, _)| name)
            .collect();
        if !differ.is_empty() {
            notes.push(format!("L{level} differs in {}", differ.join(", ")));
        }
    }
    for (name, results) in [("first", a), ("second", b)] {
        let missing = results.missing().len();
        if missing > 0 {
            notes.push(format!(
                "boots of its plan that the {name} lacks: {missing}"
            ));
        }
    }
    notes
}

#[cfg(test)]
mod tests;
