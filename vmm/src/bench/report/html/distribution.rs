//! Distributions of a row, by level: cumulative, with the upper tail stretched.

use super::scale::Scale;
use super::{Text, put, sign};
use crate::bench::number;
use crate::bench::report::{Cell, Figures, Report, RowReport};

/// The picture's size, and where in it the axes are.
const WIDTH: f64 = 340.0;
const HEIGHT: f64 = 186.0;
const LEFT: f64 = 44.0;
const RIGHT: f64 = 330.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 160.0;

/// The shares that the vertical axis names.
const SHARES: [(f64, &str); 5] = [
    (0.0, "0"),
    (0.5, "50 %"),
    (0.9, "90 %"),
    (0.99, "99 %"),
    (0.999, "99.9 %"),
];

/// Points of a curve.
const POINTS: u32 = 120;

/// What the curves of all figures mean.
pub(super) fn legend(report: &Report) -> String {
    if report.plan.emulated {
        return String::new();
    }
    let mut out = String::from(
        "<p>Curves say which share of the samples took no longer; above 90 % the scale is \
         stretched, as the quantiles are.</p>\n<ul class=\"legend\">",
    );
    for &level in &report.plan.levels {
        put!(
            out,
            "<li><svg width=\"14\" height=\"14\" viewBox=\"-7 -7 14 14\" aria-hidden=\"true\">\
             {}</svg> L{level}</li>",
            sign(level)
        );
    }
    let columns = report.columns();
    for (index, (_, name)) in columns.iter().enumerate().filter(|_| columns.len() > 1) {
        put!(
            out,
            "<li><svg width=\"34\" height=\"10\" aria-hidden=\"true\">\
             <path class=\"curve d{index}\" d=\"M1,5 H33\"/></svg> {}</li>",
            Text(name)
        );
    }
    out.push_str("</ul>\n");
    out
}

/// The distributions of one row at all levels, in all configurations.
pub(super) fn figure(out: &mut String, report: &Report, row: &RowReport) {
    let curves: Vec<(usize, &Cell, &Figures)> = report
        .columns()
        .iter()
        .enumerate()
        .flat_map(|(index, (configuration, _))| {
            let cells = row
                .cells
                .iter()
                .filter(move |c| c.configuration == *configuration);
            cells.filter_map(move |cell| Some((index, cell, cell.figures.as_ref()?)))
        })
        .collect::<Vec<_>>();
    let ends = curves
        .iter()
        .flat_map(|(_, _, figures)| [figures.pooled.quantile(0.0), figures.pooled.quantile(0.999)]);
    let Some(scale) = Scale::of(ends) else {
        return;
    };
    let quantity = row.row.quantity();
    put!(
        out,
        "<svg class=\"plot\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"Distribution of {} by level; the table below has its quantiles\">",
        row.row
    );
    axes(out, scale, |value| number::tick(value, quantity));
    for (index, cell, figures) in curves {
        curve(out, scale, index, cell.level, figures);
    }
    out.push_str("</svg>\n");
}

fn x(scale: Scale, value: f64) -> f64 {
    LEFT + (RIGHT - LEFT) * scale.place(value)
}

/// Linear up to 90 %; from there each nine takes as much again.
fn y(share: f64) -> f64 {
    let place = if share <= 0.9 {
        share / 0.9 * 0.5
    } else {
        0.5 + 0.25 * (-(1.0 - share).log10() - 1.0)
    };
    BOTTOM - (BOTTOM - TOP) * place.min(1.0)
}

fn axes(out: &mut String, scale: Scale, label: impl Fn(f64) -> String) {
    for (share, name) in SHARES {
        let y = y(share);
        put!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"end\" x=\"{}\" y=\"{:.1}\">{name}</text>",
            LEFT - 5.0,
            y + 3.5
        );
    }
    for tick in scale.ticks(5) {
        let x = x(scale, tick);
        put!(
            out,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{BOTTOM}\"/>\
             <text x=\"{x:.1}\" y=\"{}\">{}</text>",
            BOTTOM + 16.0,
            label(tick)
        );
    }
}

fn curve(out: &mut String, scale: Scale, index: usize, level: u8, figures: &Figures) {
    put!(out, "<path class=\"curve l{level} d{index}\" d=\"");
    for point in 0..=POINTS {
        // Evenly along the axis, so that the tail has its points.
        let place = f64::from(point) / f64::from(POINTS);
        let share = if place <= 0.5 {
            place * 1.8
        } else {
            1.0 - 10f64.powf(-1.0 - (place - 0.5) * 4.0)
        };
        let command = if point == 0 { 'M' } else { 'L' };
        let x = x(scale, figures.pooled.quantile(share));
        put!(out, "{command}{x:.1},{:.1}", y(share));
    }
    out.push_str("\"/>");
    // Signs are at another height for each level, so that they don't meet.
    let share = 0.25 + 0.2 * f64::from(level.min(3));
    put!(
        out,
        "<g transform=\"translate({:.1},{:.1})\">{}</g>",
        x(scale, figures.pooled.quantile(share)),
        y(share),
        sign(level)
    );
}
