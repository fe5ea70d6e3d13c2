//! The report as one page that needs nothing else: no script, no font, no network. It
//! reads on a phone, on paper, and by those who see no colours or no page at all.

mod bars;
mod distribution;
mod forest;
mod nest;
mod scale;
mod tables;

use std::fmt::{self, Write as _};

use super::Report;
use crate::bench::number;

const STYLE: &str = include_str!("style.css");

/// Writes markup; a string takes all.
macro_rules! put {
    ($out:expr, $($part:tt)+) => {{
        use std::fmt::Write as _;
        write!($out, $($part)+).expect("a string takes all")
    }};
}
use put;

/// Text, with what markup would take for its own written otherwise.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// The whole page.
pub(super) fn text(report: &Report) -> String {
    let mut out = String::new();
    put!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>What a level costs</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
    );
    header(&mut out, report);
    out.push_str("<main>\n");
    notes(&mut out, report);
    nest::section(&mut out, report);
    if !report.plan.emulated {
        tables::medians(&mut out, report);
        forest::section(&mut out, report);
    }
    tables::exits(&mut out, report);
    rows(&mut out, report);
    tables::controls(&mut out, report);
    tables::environments(&mut out, report);
    meanings(&mut out, report);
    out.push_str("</main>\n</body>\n</html>\n");
    out
}

fn header(out: &mut String, report: &Report) {
    let plan = &report.plan;
    put!(
        out,
        "<header>\n<p class=\"statement\">{}</p>\n<h1>What a level costs</h1>\n\
         <p class=\"facts\">{} · nestling {} · metal {} · {} rows · {} of {} boots</p>\n",
        Text(&report.statement),
        number::date(report.began_s),
        Text(&report.nestling),
        Text(&plan.metal),
        plan.rows.len(),
        report.boots,
        plan.total_boots(),
    );
    let sections: [(&str, &str, bool); 7] = [
        ("nest", "Nest", true),
        ("medians", "Medians", !plan.emulated),
        ("ratios", "Ratios", !plan.emulated),
        ("exits", "Exits", true),
        ("rows", "Row by row", true),
        ("environment", "Environment", true),
        ("meaning", "What rows mean", true),
    ];
    out.push_str("<nav aria-label=\"Sections\">");
    for (id, title, _) in sections.iter().filter(|(_, _, there)| *there) {
        put!(out, "<a href=\"#{id}\">{title}</a> ");
    }
    out.push_str("</nav>\n</header>\n");
}

/// What went wrong, if anything did.
fn notes(out: &mut String, report: &Report) {
    let notes = report.notes();
    if notes.is_empty() {
        return;
    }
    out.push_str("<section class=\"notes\" aria-label=\"Notes\">\n<ul>\n");
    for note in notes {
        put!(out, "<li>{}</li>\n", Text(&note));
    }
    out.push_str("</ul>\n</section>\n");
}

fn rows(out: &mut String, report: &Report) {
    put!(
        out,
        "<section id=\"rows\">\n<h2>Row by row</h2>\n{}{}",
        distribution::legend(report),
        bars::legend(report)
    );
    out.push_str("<div class=\"cards\">\n");
    for row in &report.rows {
        put!(
            out,
            "<article>\n<h3>{}</h3>\n<p>{}</p>\n",
            row.row,
            Text(&row.row.measures())
        );
        distribution::figure(out, report, row);
        tables::quantiles(out, report, row);
        bars::figure(out, report, row);
        for (level, why) in row.failures() {
            put!(out, "<p class=\"failed\">L{level}: {}</p>\n", Text(why));
        }
        out.push_str("</article>\n");
    }
    out.push_str("</div>\n</section>\n");
}

/// What every row measures, how, and what it can't.
fn meanings(out: &mut String, report: &Report) {
    out.push_str("<section id=\"meaning\">\n<h2>What rows mean</h2>\n<dl class=\"meaning\">\n");
    for row in &report.plan.rows {
        put!(
            out,
            "<div><dt>{row}</dt><dd>{} {} <em>{}</em></dd></div>\n",
            Text(&row.measures()),
            Text(&row.how()),
            Text(&row.limits())
        );
    }
    out.push_str("</dl>\n");
    if report
        .rows
        .iter()
        .flat_map(|row| &row.cells)
        .any(|cell| !cell.exits.is_empty())
    {
        out.push_str(
            "<p>Exits are KVM's counts (KVM_GET_STATS_FD) of each level's machine, taken by \
             the level below around the phase, for one operation. An exit of L2 is one of \
             L1's machine as well when L0 counts it. <q>Other</q> is what no counter names: \
             CPUID, MSRs, instructions of VMX or SVM, and all that L2 does.</p>\n",
        );
    }
    out.push_str("</section>\n");
}

/// The sign of a level, around the origin: told apart by form as well.
fn sign(level: u8) -> String {
    let form = match level {
        0 => "<circle r=\"4\"/>",
        1 => "<rect x=\"-3.6\" y=\"-3.6\" width=\"7.2\" height=\"7.2\"/>",
        2 => "<path d=\"M0,-4.8 L4.6,3.6 L-4.6,3.6 Z\"/>",
        _ => "<path d=\"M0,-5 L5,0 L0,5 L-5,0 Z\"/>",
    };
    format!("<g class=\"l{level}\">{form}</g>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_never_taken_for_markup() {
        let text = Text("<a href=\"x\">&amp;").to_string();
        assert_eq!(text, "&lt;a href=&quot;x&quot;&gt;&amp;amp;");
    }
}
