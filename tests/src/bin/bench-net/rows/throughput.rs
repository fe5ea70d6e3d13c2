//! One TCP flow, as fast as it goes.

use super::stage::{Direction, Stage};
use super::{TCP_1500_DOWN, TCP_1500_UP, TCP_65520_DOWN, TCP_65520_UP};
use crate::Failure;
use crate::contender::Settings;
use crate::plan::Bench;
use crate::table::Cell;
use crate::traffic::{Bulk, Test};

/// Contenders take turns within a round, so that what else the machine does
/// meets all of them.
pub(super) fn measure(bench: &mut Bench<'_>) -> Result<(), Failure> {
    for (mtu, up, down) in [
        (65520, TCP_65520_UP, TCP_65520_DOWN),
        (1500, TCP_1500_UP, TCP_1500_DOWN),
    ] {
        let settings = Settings {
            mtu,
            ..Settings::PLAIN
        };
        let Some(mut stage) = Stage::start(bench, &[up, down], settings)? else {
            continue;
        };
        let duration = bench.options.cell();
        for _ in 0..bench.options.rounds() {
            for contender in stage.contenders() {
                for (row, direction) in [(up, Direction::Up), (down, Direction::Down)] {
                    bench.cell(row, contender, || {
                        let bulk: Bulk = stage.run(contender, direction, Test::Bulk, duration)?;
                        Ok(Cell::Figures(vec![bulk.gigabits()]))
                    })?;
                }
            }
        }
    }
    Ok(())
}
