//! The table as text and as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use super::bound::Judgement;
use super::{Better, Cell, Contender, Table};
use crate::contender::ALL;

/// The version of the JSON; raised when a field goes away or changes its meaning.
const VERSION: u32 = 1;
const TITLE: usize = 42;
const UNIT: usize = 6;
const FIGURE: usize = 11;

impl Table {
    /// The table for people: a line for each row, with a further one for each
    /// further bound, and the reasons of what failed below.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{:TITLE$} {:UNIT$}", "", "");
        for contender in ALL {
            let _ = write!(text, " {contender:>FIGURE$}");
        }
        text.push_str("  ratio  bound\n");
        let mut notes = Notes::default();
        for row in self.measured() {
            let _ = write!(text, "{:TITLE$} {:UNIT$}", row.title, row.unit);
            for contender in ALL {
                let shown = match self.cell(row, contender) {
                    None => "-".into(),
                    Some(Cell::Words(words)) => words.clone(),
                    Some(Cell::Failed(why)) => {
                        notes.add(why, format!("{}/{contender}", row.id));
                        "failed".into()
                    }
                    Some(cell) => cell.figure().map_or("-".into(), figure),
                };
                let _ = write!(text, " {shown:>FIGURE$}");
            }
            let judged = row
                .bounds
                .iter()
                .filter_map(|bound| Some((bound, self.judge(row, bound)?)));
            for (number, (bound, judgement)) in judged.enumerate() {
                if number > 0 {
                    let width = TITLE + 1 + UNIT + ALL.len() * (FIGURE + 1);
                    let _ = write!(text, "\n{:width$}", "");
                }
                let ratio = judgement
                    .ratio
                    .map_or(String::new(), |ratio| format!("{ratio:.2}"));
                let verdict = if judgement.met { "met" } else { "MISSED" };
                let _ = write!(text, "  {ratio:>5}  {}: {verdict}", bound.words());
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text + &notes.text()
    }

    /// The table for programs.
    pub(crate) fn json(&self) -> Value {
        let rows = self.measured().map(|row| {
            let cells = row.contenders.iter().filter_map(|contender| {
                let cell = match self.cell(row, *contender)? {
                    Cell::Figures(figures) => {
                        json!({"median": super::median(figures), "figures": figures})
                    }
                    Cell::Words(words) => json!({ "words": words }),
                    Cell::Failed(why) => json!({ "failed": why }),
                };
                Some((contender.name().to_owned(), cell))
            });
            let bounds: Vec<Value> = row
                .bounds
                .iter()
                .filter_map(|bound| {
                    let Judgement {
                        ratio,
                        reference,
                        met,
                    } = self.judge(row, bound)?;
                    Some(json!({
                        "bound": bound.words(),
                        "ratio": ratio,
                        "reference": reference.map(Contender::name),
                        "met": met,
                    }))
                })
                .collect();
            json!({
                "id": row.id,
                "title": row.title,
                "unit": row.unit,
                "better": match row.better { Better::More => "more", Better::Less => "less" },
                "cells": cells.collect::<serde_json::Map<_, _>>(),
                "bounds": bounds,
            })
        });
        json!({ "version": VERSION, "met": self.met(), "rows": rows.collect::<Vec<_>>() })
    }
}

/// Why cells failed: each reason once, with all the cells.
#[derive(Debug, Default)]
struct Notes(Vec<(String, Vec<String>)>);

impl Notes {
    fn add(&mut self, why: &str, cell: String) {
        match self.0.iter_mut().find(|(known, _)| known == why) {
            Some((_, cells)) => cells.push(cell),
            None => self.0.push((why.to_owned(), vec![cell])),
        }
    }

    fn text(&self) -> String {
        let lines = self
            .0
            .iter()
            .map(|(why, cells)| format!("\nfailed: {why}\n  {}\n", cells.join(" ")));
        lines.collect()
    }
}

/// A figure with about three digits.
fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Bound, Row};
    use super::*;

    static ROWS: [Row; 2] = [
        Row {
            id: "speed",
            title: "TCP, guest to host",
            unit: "Gbit/s",
            better: Better::More,
            contenders: &ALL,
            bounds: &[Bound::OfVeth(0.4), Bound::AheadOfPeers],
            every_round: true,
        },
        Row {
            id: "unmeasured",
            title: "nobody asked",
            unit: "",
            better: Better::Less,
            contenders: &ALL,
            bounds: &[],
            every_round: true,
        },
    ];

    fn table() -> Table {
        let mut table = Table::new(&ROWS);
        let figures = [
            (Contender::Veth, 40.0),
            (Contender::Slirp, 10.0),
            (Contender::Nestling, 20.0),
        ];
        for (contender, figure) in figures {
            table.record("speed", contender, Ok(Cell::Figures(vec![figure])));
        }
        table.record("speed", Contender::Passt, Err("pasta stalls".into()));
        table
    }

    #[test]
    fn a_row_has_its_figures_its_ratios_and_its_verdicts() {
        let text = table().text();
        let lines: Vec<&str> = text.lines().collect();
        let words = |line: &str| line.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(lines[0]), "veth passt slirp nestling ratio bound");
        assert_eq!(
            words(lines[1]),
            "TCP, guest to host Gbit/s 40.0 failed 10.0 20.0 0.50 >= 0.40 of veth: met"
        );
        assert_eq!(words(lines[2]), "2.00 > 1.00 of the better peer: MISSED");
        assert_eq!(lines[4..], ["failed: pasta stalls", "  speed/passt"]);
    }

    #[test]
    fn the_json_has_a_version_and_the_verdict() {
        let json = table().json();
        assert_eq!(json["version"], 1);
        assert_eq!(json["met"], false);
        assert_eq!(json["rows"].as_array().map(Vec::len), Some(1));
        let row = &json["rows"][0];
        assert_eq!(row["cells"]["veth"]["median"], 40.0);
        assert_eq!(row["cells"]["passt"]["failed"], "pasta stalls");
        assert_eq!(row["bounds"][0]["met"], true);
        assert_eq!(row["bounds"][0]["reference"], "veth");
    }

    #[test]
    fn figures_have_about_three_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.126, "0.13"),
            (9.5, "9.50"),
            (42.04, "42.0"),
            (1234.5, "1234"),
        ] {
            assert_eq!(figure(value), text);
        }
    }
}
