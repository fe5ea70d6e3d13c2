//! A comparison for people.

use std::fmt::Write as _;

use super::{Comparison, Configuration, Difference, Metric, Place, Verdict};
use crate::bench::number;

impl Comparison {
    /// Notes, one line for each figure, and what it comes to.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for note in &self.notes {
            writeln!(out, "note: {note}").expect("a string takes all");
        }
        let lines: Vec<[String; 4]> = self.differences.iter().map(line).collect();
        let width = |column: usize| {
            let widths = lines.iter().map(|line| line[column].chars().count());
            widths.max().unwrap_or(0)
        };
        let widths = [0, 1, 2].map(width);
        for [place, verdict, ratio, values] in &lines {
            let [first, second, third] = widths;
            writeln!(
                out,
                "{place:first$}  {verdict:second$}  {ratio:third$}  {values}"
            )
            .expect("a string takes all");
        }
        for place in &self.lost {
            writeln!(out, "{}  lost: only the first run has it", name(place))
                .expect("a string takes all");
        }
        out.push_str(&self.summary());
        out
    }

    fn summary(&self) -> String {
        let count = |verdict| {
            self.differences
                .iter()
                .filter(|d| d.verdict == verdict)
                .count()
        };
        format!(
            "{} figures compared, threshold {} %: {} regressed, {} improved, {} undecided, \
             {} controls differ, {} lost\n",
            self.differences.len(),
            number::plain(self.threshold * 100.0),
            count(Verdict::Regression),
            count(Verdict::Improvement),
            count(Verdict::Undecided),
            count(Verdict::ControlDiffers),
            self.lost.len()
        )
    }
}

fn line(difference: &Difference) -> [String; 4] {
    let place = &difference.place;
    let [a, b] = difference.medians.map(|median| match place.metric {
        Metric::Figure => number::value(median, place.row.quantity()),
        Metric::ExitsAt(_) => number::plain(median),
    });
    let verdict = match difference.verdict {
        Verdict::Regression => "REGRESSION",
        Verdict::Improvement => "improvement",
        Verdict::Same => "same",
        Verdict::Undecided => "undecided",
        Verdict::ControlDiffers => "control differs",
    };
    let ratio = difference
        .ratio
        .as_ref()
        .map_or_else(|| "-".to_owned(), number::ratio);
    [
        name(place),
        verdict.to_owned(),
        ratio,
        format!("{a} -> {b}"),
    ]
}

fn name(place: &Place) -> String {
    let Configuration { exposure, monitor } = &place.configuration;
    let metric = match (place.metric, place.row.quantity()) {
        (Metric::Figure, quantity) => quantity.word().to_owned(),
        (Metric::ExitsAt(level), _) => format!("exits at L{level}"),
    };
    format!(
        "{} in L{} ({monitor}, {exposure}): {metric}",
        place.row, place.level
    )
}
