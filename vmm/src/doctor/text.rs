//! The diagnosis for people: an aligned table, and the verdict below it.

use std::fmt::Write as _;

use super::{Diagnosis, Row, Status};

/// The diagnosis as a table, with ANSI colours where `colour` says so.
pub fn text(diagnosis: &Diagnosis, colour: bool) -> String {
    let width = diagnosis
        .rows
        .iter()
        .map(|row| row.check.len())
        .max()
        .unwrap_or(0);
    let mut out = String::new();
    for row in &diagnosis.rows {
        let Row { check, found, .. } = row;
        let status = status(row.status, colour);
        writeln!(out, "{check:width$}  {status}  {found}").expect("a string takes all");
        if let Some(remedy) = &row.remedy {
            writeln!(out, "{:width$}        -> {remedy}", "").expect("a string takes all");
        }
    }
    out.push('\n');
    out.push_str(&verdict(diagnosis));
    out
}

/// Four columns, and no more on a terminal.
fn status(status: Status, colour: bool) -> String {
    let (word, code) = match status {
        Status::Ok => ("ok  ", 32),
        Status::Warn => ("warn", 33),
        Status::Fail => ("fail", 31),
    };
    if colour {
        format!("\x1b[{code}m{word}\x1b[0m")
    } else {
        word.to_owned()
    }
}

fn verdict(diagnosis: &Diagnosis) -> String {
    let (usable, others): (Vec<_>, Vec<_>) =
        diagnosis.metals.iter().partition(|metal| metal.usable);
    let mut out = if usable.is_empty() {
        "No metal can nest here".to_owned()
    } else {
        let names: Vec<&str> = usable.iter().map(|metal| metal.metal.as_str()).collect();
        format!("nestling nest can use --metal {}", names.join(", "))
    };
    let obstacles: Vec<String> = others
        .iter()
        .filter_map(|metal| Some(format!("{}: {}", metal.metal, metal.obstacle.as_ref()?)))
        .collect();
    if !obstacles.is_empty() {
        write!(out, " ({})", obstacles.join("; ")).expect("a string takes all");
    }
    out.push('\n');
    out
}
