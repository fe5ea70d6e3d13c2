//! Exits for one operation as stacked bars.

use super::{Text, put};
use crate::bench::exits::Kind;
use crate::bench::number;
use crate::bench::report::{Exits, Report, RowReport};

/// What the bars of all figures mean.
pub(super) fn legend(report: &Report) -> String {
    let kinds: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|kind| {
            let cells = report.rows.iter().flat_map(|row| &row.cells);
            let mut shares = cells
                .flat_map(|cell| &cell.exits)
                .flat_map(|exits| &exits.kinds);
            shares.any(|share| share.kind == *kind)
        })
        .collect();
    let mut out = String::new();
    if kinds.is_empty() {
        return out;
    }
    out.push_str("<ul class=\"legend\" aria-label=\"Kinds of exits\">");
    for kind in kinds {
        put!(
            out,
            "<li><svg width=\"18\" height=\"12\" aria-hidden=\"true\">\
             <rect class=\"bar k{}\" width=\"18\" height=\"12\"/></svg> {}</li>",
            index(kind),
            kind.title()
        );
    }
    out.push_str("</ul>\n");
    out
}

fn index(kind: Kind) -> usize {
    Kind::ALL
        .iter()
        .position(|other| *other == kind)
        .unwrap_or(0)
}

/// The exits of one row at all levels, in all configurations, on one scale.
pub(super) fn figure(out: &mut String, report: &Report, row: &RowReport) {
    let columns = report.columns();
    let exits = || row.cells.iter().flat_map(|cell| &cell.exits);
    let largest = exits().map(|exits| exits.total.value).fold(0.0, f64::max);
    if exits().next().is_none() {
        return;
    }
    out.push_str("<figure class=\"bars\">\n<figcaption>Exits for one operation</figcaption>\n");
    for (level, machine) in report.exit_places() {
        for (configuration, column) in &columns {
            if let Some(exits) = row.exits(configuration, level, machine) {
                let name = format!("L{level}, at L{}", machine - 1);
                bar(out, &name, column, exits, largest);
            }
        }
    }
    out.push_str("</figure>\n");
}

fn bar(out: &mut String, name: &str, column: &str, exits: &Exits, largest: f64) {
    let total = number::plain(exits.total.value);
    let words: Vec<String> = exits
        .kinds
        .iter()
        .map(|share| format!("{} {}", share.kind.title(), number::plain(share.exits)))
        .collect();
    put!(
        out,
        "<div class=\"line\"><span>{name} <small>{}</small></span>\
         <svg width=\"100%\" height=\"14\" aria-hidden=\"true\">",
        Text(column),
    );
    // Shares are means over boots and the total is a median: the bar is the median.
    let sum: f64 = exits.kinds.iter().map(|share| share.exits).sum();
    let mut start = 0.0;
    for share in &exits.kinds {
        let width = 100.0 * share.exits / sum * exits.total.value / largest;
        if width.is_finite() && width > 0.0 {
            put!(
                out,
                "<rect class=\"bar k{}\" x=\"{start:.2}%\" width=\"{width:.2}%\" height=\"14\"/>",
                index(share.kind)
            );
            start += width;
        }
    }
    put!(
        out,
        "</svg><span>{total}</span><small>{}</small></div>\n",
        words.join(", ")
    );
}
