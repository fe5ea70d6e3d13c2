//! What flows that are open, and carry nothing, cost the others, and in memory.

use std::time::Duration;

use super::stage::{Direction, Stage};
use super::{IDLE_MEMORY, IDLE_REQUEST};
use crate::Failure;
use crate::contender::{Contender, Settings};
use crate::lab::Process;
use crate::plan::{self, Bench};
use crate::table::{Cell, median};
use crate::traffic::{Exchanges, Held, Test, approximate};

/// How long opening the flows may take, and ending them.
const OPENING: Duration = Duration::from_secs(120);

/// One at a time, since ten thousand flows are descriptors enough.
pub(super) fn measure(bench: &mut Bench<'_>) -> Result<(), Failure> {
    let rows = [IDLE_REQUEST, IDLE_MEMORY];
    let settings = Settings {
        cpu: Some(bench.cpu),
        ..Settings::PLAIN
    };
    for contender in bench.wanted(&rows) {
        bench.step(&format!("{} idle flows: {contender}", bench.options.flows));
        let Some(mut stage) = Stage::start_some(bench, &rows, &[contender], settings)? else {
            continue;
        };
        match compare(bench, &mut stage, contender) {
            Ok(found) => {
                let slowdown = found.loaded / found.unloaded;
                bench.record(IDLE_REQUEST, contender, Ok(Cell::Figures(vec![slowdown])))?;
                let bytes = found.bytes.map(|bytes| Cell::Figures(vec![bytes]));
                bench.record(IDLE_MEMORY, contender, bytes)?;
            }
            Err(error) => bench.give_up(&rows, contender, &error)?,
        }
    }
    Ok(())
}

/// What was found.
struct Found {
    /// What a request took before the flows were opened, and beside them.
    unloaded: f64,
    loaded: f64,
    /// The contender's own memory for each of them.
    bytes: Result<f64, Failure>,
}

fn compare(
    bench: &Bench<'_>,
    stage: &mut Stage<'_>,
    contender: Contender,
) -> Result<Found, Failure> {
    let count = bench.options.flows;
    let unloaded = requests(bench, stage, contender)?;
    let before = stage.site(contender)?.memory();
    let holder = open(stage, contender, count)?;
    let after = stage.site(contender)?.memory();
    let loaded = requests(bench, stage, contender)?;
    holder.finish(OPENING)?;
    let bytes = before.and_then(|before| {
        let grown = approximate(after?.saturating_sub(before));
        Ok(grown / f64::from(count))
    });
    Ok(Found {
        unloaded,
        loaded,
        bytes,
    })
}

/// Opens flows; who holds them is returned.
fn open(stage: &mut Stage<'_>, contender: Contender, count: u32) -> Result<Process, Failure> {
    let mut client = stage.client(contender, Direction::Up, Test::Hold, Duration::ZERO)?;
    client.count = count;
    let mut holder = stage.spawn(contender, Direction::Up, &client)?;
    let held: Held = serde_json::from_str(&holder.line(OPENING)?)?;
    if held.open != count {
        return Err(format!("{} of {count} flows could be opened", held.open).into());
    }
    // What opening them has left to do is no part of holding them.
    plan::pause(Duration::from_secs(1))?;
    Ok(holder)
}

/// What a request takes: the median of all rounds.
fn requests(
    bench: &Bench<'_>,
    stage: &mut Stage<'_>,
    contender: Contender,
) -> Result<f64, Failure> {
    let mut figures = Vec::new();
    for _ in 0..bench.options.rounds() {
        let run: Exchanges = stage.run(
            contender,
            Direction::Up,
            Test::Request,
            bench.options.cell(),
        )?;
        figures.push(run.median_us());
    }
    median(&figures).ok_or_else(|| "nothing was measured".into())
}
