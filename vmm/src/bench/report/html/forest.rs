//! Ratios with their intervals, one panel a pair of levels.

use super::scale::Scale;
use super::{Text, put, sign};
use crate::bench::number;
use crate::bench::report::Report;
use crate::bench::statistics::{Estimate, Spread};

/// One line of a panel.
struct Line {
    row: &'static str,
    column: String,
    estimate: Estimate,
}

/// The ratios of all rows.
pub(super) fn section(out: &mut String, report: &Report) {
    let panels: Vec<(u8, u8, Vec<Line>)> = report
        .level_pairs()
        .into_iter()
        .map(|(over, under)| (over, under, lines(report, over, under)))
        .filter(|(_, _, lines)| !lines.is_empty())
        .collect();
    if panels.is_empty() {
        return;
    }
    out.push_str(
        "<section id=\"ratios\">\n<h2>Ratios</h2>\n<p>How many times as long an operation, or \
         a byte, takes at one level as at another. 1 is no cost. Bars are 95 % intervals; \
         dashed ones are the range of too few boots for an interval.</p>\n",
    );
    for (over, under, lines) in panels {
        panel(out, over, under, &lines);
    }
    out.push_str("</section>\n");
}

fn lines(report: &Report, over: u8, under: u8) -> Vec<Line> {
    let columns = report.columns();
    let mut lines = Vec::new();
    for row in &report.rows {
        for (configuration, column) in &columns {
            let estimate = row
                .cell(configuration, over)
                .and_then(|cell| cell.ratio(under));
            if let Some(estimate) = estimate {
                lines.push(Line {
                    row: row.row.name(),
                    column: column.clone(),
                    estimate: *estimate,
                });
            }
        }
    }
    lines
}

fn panel(out: &mut String, over: u8, under: u8, lines: &[Line]) {
    let values = lines
        .iter()
        .flat_map(|line| [line.estimate.low, line.estimate.high]);
    let Some(scale) = Scale::of(values.chain([1.0])) else {
        return;
    };
    let x = |value: f64| 2.0 + 96.0 * scale.place(value);
    let ticks = scale.ticks(6);
    put!(
        out,
        "<figure class=\"forest\">\n<figcaption>L{over} / L{under}</figcaption>\n\
         <div class=\"line axis\" aria-hidden=\"true\"><span></span>\
         <svg width=\"100%\" height=\"18\">"
    );
    for &tick in &ticks {
        put!(
            out,
            "<text x=\"{:.2}%\" y=\"13\">{}×</text>",
            x(tick),
            number::plain(tick)
        );
    }
    out.push_str("</svg><span></span></div>\n");
    for line in lines {
        let Line {
            row,
            column,
            estimate,
        } = line;
        let text = number::ratio(estimate);
        put!(
            out,
            "<div class=\"line\"><span>{row} <small>{}</small></span>\
             <svg width=\"100%\" height=\"20\" role=\"img\" aria-label=\"{row} {} L{over} / \
             L{under}: {text}\">",
            Text(column),
            Text(column),
        );
        for &tick in &ticks {
            let x = x(tick);
            put!(
                out,
                "<line class=\"grid\" x1=\"{x:.2}%\" x2=\"{x:.2}%\" y1=\"0\" y2=\"20\"/>"
            );
        }
        let one = x(1.0);
        put!(
            out,
            "<line class=\"one\" x1=\"{one:.2}%\" x2=\"{one:.2}%\" y1=\"0\" y2=\"20\"/>\
             <line class=\"whisker l{over}{}\" x1=\"{:.2}%\" x2=\"{:.2}%\" y1=\"10\" \
             y2=\"10\"/><svg x=\"{:.2}%\" y=\"10\" overflow=\"visible\">{}</svg></svg>\
             <span>{text}</span></div>\n",
            if estimate.spread == Spread::Range {
                " range"
            } else {
                ""
            },
            x(estimate.low),
            x(estimate.high),
            x(estimate.value),
            sign(over),
        );
    }
    out.push_str("</figure>\n");
}
