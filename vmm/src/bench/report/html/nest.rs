//! The nest: which level runs what, and in whom.

use super::{Text, put};
use crate::bench::report::Report;

/// The nest as boxes in boxes.
pub(super) fn section(out: &mut String, report: &Report) {
    out.push_str("<section id=\"nest\">\n<h2>The nest</h2>\n<div class=\"nest\">\n");
    let first = report.plan.levels.iter().min().copied().unwrap_or(0);
    let last = report.plan.levels.iter().max().copied().unwrap_or(0);
    for level in 0..=last {
        put!(out, "<div class=\"box l{level}\">\n<p><b>L{level}</b> ");
        let found = report.environments.iter().find(|e| e.level == level);
        match found.map(|found| &found.environment) {
            Some(environment) => {
                put!(
                    out,
                    "Linux {} · {} × {} · {} MiB",
                    Text(&environment.kernel),
                    environment.cpus,
                    Text(&environment.processor),
                    environment.memory_mib
                );
            }
            None if level < first => out.push_str("not measured"),
            None => out.push_str("never came so far"),
        }
        if level == 0 {
            let metal = Text(&report.plan.metal);
            let emulated = if report.plan.emulated {
                ", emulated"
            } else {
                ""
            };
            put!(out, " <span class=\"by\">on {metal}{emulated}</span>");
        } else {
            let names = |names: Vec<&str>| names.join(" or ");
            let plan = &report.plan;
            let monitors = names(plan.monitors.iter().map(|m| m.name.as_str()).collect());
            put!(out, " <span class=\"by\">in {}", Text(&monitors));
            if level < last {
                let exposures = names(plan.exposures.iter().map(String::as_str).collect());
                put!(out, ", shown {}", Text(&exposures));
            }
            out.push_str("</span>");
        }
        out.push_str("</p>\n");
    }
    for _ in 0..=last {
        out.push_str("</div>\n");
    }
    out.push_str("</div>\n</section>\n");
}
