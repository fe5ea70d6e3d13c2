//! Tables.

use super::{Text, put};
use crate::bench::number;
use crate::bench::report::environment;
use crate::bench::report::{Report, RowReport};
use crate::bench::results::Configuration;

/// One line for each row and configuration, with what `cell` says for each level.
fn by_level(
    out: &mut String,
    report: &Report,
    heads: &[String],
    cell: impl Fn(&RowReport, &Configuration, usize) -> String,
) {
    let columns = report.columns();
    let several = columns.len() > 1;
    out.push_str("<div class=\"wide\"><table>\n<thead><tr><th scope=\"col\">row</th>");
    if several {
        out.push_str("<th class=\"name\" scope=\"col\">configuration</th>");
    }
    for head in heads {
        put!(out, "<th scope=\"col\">{head}</th>");
    }
    out.push_str("</tr></thead>\n");
    for row in &report.rows {
        out.push_str("<tbody>");
        for (index, (configuration, name)) in columns.iter().enumerate() {
            out.push_str("<tr>");
            if index == 0 {
                let rows = columns.len();
                put!(
                    out,
                    "<th scope=\"rowgroup\" rowspan=\"{rows}\">{}</th>",
                    row.row
                );
            }
            if several {
                put!(out, "<td class=\"name\">{}</td>", Text(name));
            }
            for head in 0..heads.len() {
                put!(out, "<td>{}</td>", cell(row, configuration, head));
            }
            out.push_str("</tr>");
        }
        out.push_str("</tbody>\n");
    }
    out.push_str("</table></div>\n");
}

/// The medians of all rows.
pub(super) fn medians(out: &mut String, report: &Report) {
    let levels = &report.plan.levels;
    out.push_str(
        "<section id=\"medians\">\n<h2>Medians</h2>\n<p>The median over boots of each boot's \
         median, with its 95 % interval in brackets, or in parentheses the range of too few \
         boots for one; below, cycles of the time-stamp counter.</p>\n",
    );
    let heads: Vec<String> = levels.iter().map(|level| format!("L{level}")).collect();
    by_level(out, report, &heads, |row, configuration, index| {
        let cell = row.cell(configuration, levels[index]);
        let Some(figures) = cell.and_then(|cell| cell.figures.as_ref()) else {
            return "–".to_owned();
        };
        let (value, bounds) = number::estimate(&figures.median, row.row.quantity());
        let cycles = figures.cycles.map_or_else(String::new, |cycles| {
            format!("<br><small>{cycles:.0} cycles</small>")
        });
        format!("<b>{value}</b> <small>{bounds}</small>{cycles}")
    });
    out.push_str("</section>\n");
}

/// The exits of all rows.
pub(super) fn exits(out: &mut String, report: &Report) {
    let places = report.exit_places();
    if places.is_empty() {
        return;
    }
    out.push_str(
        "<section id=\"exits\">\n<h2>Exits for one operation</h2>\n<p>The median over boots. \
         What L1 counts of an operation in L2 is what L0 has reflected to it.</p>\n",
    );
    let heads: Vec<String> = places
        .iter()
        .map(|(level, machine)| format!("in L{level}, counted at L{}", machine - 1))
        .collect();
    by_level(out, report, &heads, |row, configuration, index| {
        let (level, machine) = places[index];
        match row.exits(configuration, level, machine) {
            None => "–".to_owned(),
            Some(exits) => {
                let total = &exits.total;
                let bounds = number::bounds(total, number::plain);
                let value = number::plain(total.value);
                if number::plain(total.low) == number::plain(total.high) {
                    format!("<b>{value}</b>")
                } else {
                    format!("<b>{value}</b> <small>{bounds}</small>")
                }
            }
        }
    });
    out.push_str("</section>\n");
}

/// The quantiles of one row.
pub(super) fn quantiles(out: &mut String, report: &Report, row: &RowReport) {
    if row.cells.iter().all(|cell| cell.figures.is_none()) {
        return;
    }
    let quantity = row.row.quantity();
    out.push_str(
        "<div class=\"wide\"><table class=\"small\">\n<thead><tr><th scope=\"col\">level</th>\
         <th scope=\"col\">min</th><th scope=\"col\">p50</th><th scope=\"col\">p90</th>\
         <th scope=\"col\">p99</th><th scope=\"col\">p99.9</th><th scope=\"col\">max</th>\
         </tr></thead>\n<tbody>",
    );
    let (mut samples, mut discarded, mut unsettled) = (0, 0, 0);
    for level in &report.plan.levels {
        for (configuration, column) in report.columns() {
            let cell = row.cell(&configuration, *level);
            let Some(figures) = cell.and_then(|cell| cell.figures.as_ref()) else {
                continue;
            };
            put!(
                out,
                "<tr><th scope=\"row\">L{level} <small>{}</small></th>",
                Text(&column)
            );
            let q = &figures.quantiles;
            for value in [q.min, q.p50, q.p90, q.p99, q.p99_9, q.max] {
                put!(out, "<td>{}</td>", number::value(value, quantity));
            }
            out.push_str("</tr>\n");
            samples += figures.samples;
            discarded += figures.discarded;
            unsettled += figures.unsettled;
        }
    }
    put!(
        out,
        "</tbody></table></div>\n<p class=\"samples\">{samples} samples; {discarded} of warm-up \
         left out",
    );
    if unsettled > 0 {
        put!(out, "; {unsettled} series never settled");
    }
    out.push_str("</p>\n");
}

/// The A/A controls.
pub(super) fn controls(out: &mut String, report: &Report) {
    if report.controls.is_empty() {
        return;
    }
    out.push_str(
        "<section id=\"control\">\n<h2>A/A control</h2>\n<p>The same work twice in each boot: \
         it must come out the same.</p>\n<ul>\n",
    );
    let columns = report.columns();
    for cell in &report.controls {
        let mut columns = columns.iter();
        let column = columns.find(|(configuration, _)| *configuration == cell.configuration);
        put!(
            out,
            "<li><b>{} at L{}</b> {}: {} ({})</li>\n",
            cell.row,
            cell.level,
            Text(column.map_or("", |(_, name)| name)),
            Text(&cell.control.words),
            number::ratio(&cell.control.ratio)
        );
    }
    out.push_str("</ul>\n</section>\n");
}

/// What each level measured on.
pub(super) fn environments(out: &mut String, report: &Report) {
    let columns = report.columns();
    let environments = &report.environments;
    if environments.is_empty() {
        return;
    }
    out.push_str(
        "<section id=\"environment\">\n<h2>Environment</h2>\n<div class=\"wide\"><table \
         class=\"environment\">\n<thead><tr><th scope=\"col\">what</th>",
    );
    for found in environments {
        let mut columns = columns.iter();
        let column = columns.find(|(configuration, _)| *configuration == found.configuration);
        put!(
            out,
            "<th scope=\"col\">L{} <small>{}</small></th>",
            found.level,
            Text(column.map_or("", |(_, name)| name))
        );
    }
    out.push_str("</tr></thead>\n<tbody>");
    for (what, values) in environment::table(environments) {
        put!(out, "<tr><th scope=\"row\">{}</th>", Text(&what));
        for value in values {
            put!(out, "<td>{}</td>", Text(value.as_deref().unwrap_or("–")));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n</section>\n");
}
