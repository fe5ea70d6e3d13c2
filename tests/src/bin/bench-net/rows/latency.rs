//! One byte there and back. All that takes part is on one processor, so that it
//! is work that is measured, and not how fast processors wake each other.

use super::stage::{Direction, Stage};
use super::{CONNECT, DATAGRAM, REQUEST};
use crate::Failure;
use crate::contender::Settings;
use crate::plan::Bench;
use crate::table::Cell;
use crate::traffic::{Exchanges, Test};

/// What may be lost of datagrams, one at a time on an idle link: one in so many.
const LOSS: u64 = 1000;

pub(super) fn measure(bench: &mut Bench<'_>) -> Result<(), Failure> {
    let rows = [
        (REQUEST, Test::Request),
        (DATAGRAM, Test::Datagram),
        (CONNECT, Test::Connect),
    ];
    let settings = Settings {
        cpu: Some(bench.cpu),
        ..Settings::PLAIN
    };
    let Some(mut stage) = Stage::start(bench, &rows.map(|(row, _)| row), settings)? else {
        return Ok(());
    };
    let duration = bench.options.cell();
    for _ in 0..bench.options.rounds() {
        for contender in stage.contenders() {
            for (row, test) in rows {
                bench.cell(row, contender, || {
                    let run: Exchanges = stage.run(contender, Direction::Up, test, duration)?;
                    if run.lost > run.count / LOSS {
                        return Err(format!("{} of {} lost", run.lost, run.count).into());
                    }
                    Ok(Cell::Figures(vec![run.median_us()]))
                })?;
            }
        }
    }
    Ok(())
}
