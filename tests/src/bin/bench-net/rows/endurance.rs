//! What shows only in time: retransmission time-outs, and what is left behind.

use std::time::{Duration, Instant};

use super::stage::{Direction, Stage, collect};
use super::{OURS, SOAK_DESCRIPTORS, SOAK_FLOWS, SOAK_PROBLEMS, TIMEOUTS};
use crate::Failure;
use crate::contender::{Contender, Settings};
use crate::plan::{self, Bench};
use crate::table::Cell;
use crate::traffic::{Bulk, Soaked, Test, approximate};

/// How long flows may stay after the last packet: an idle UDP mapping lives 300 s
/// (RFC 4787, REQ-5), a reset TCP connection 4 min (RFC 7857, section 2.1).
const DRAIN: Duration = Duration::from_secs(330);

/// One flow in each direction, after the other, in which no retransmission times out.
pub(super) fn sustained(bench: &mut Bench<'_>) -> Result<(), Failure> {
    let Some(mut stage) = Stage::start(bench, &[TIMEOUTS], Settings::PLAIN)? else {
        return Ok(());
    };
    let duration = bench.options.sustained();
    for contender in stage.contenders() {
        bench.cell(TIMEOUTS, contender, || {
            let before = stage.timeouts(contender)?;
            for direction in [Direction::Up, Direction::Down] {
                let _: Bulk = stage.run(contender, direction, Test::Bulk, duration)?;
            }
            let count = stage.timeouts(contender)?.saturating_sub(before);
            Ok(Cell::Figures(vec![approximate(count)]))
        })?;
    }
    Ok(())
}

/// Flows of all kinds from both sides, and what is left of them.
pub(super) fn soak(bench: &mut Bench<'_>) -> Result<(), Failure> {
    let rows = [SOAK_PROBLEMS, SOAK_FLOWS, SOAK_DESCRIPTORS];
    let Some(mut stage) = Stage::start(bench, &rows, Settings::PLAIN)? else {
        return Ok(());
    };
    for contender in OURS {
        let seconds = bench.options.soak().as_secs();
        bench.step(&format!("soak of {seconds} s: {contender}"));
        if let Err(error) = soak_one(bench, &mut stage, contender) {
            bench.give_up(&rows, contender, &error)?;
        }
    }
    Ok(())
}

fn soak_one(
    bench: &mut Bench<'_>,
    stage: &mut Stage<'_>,
    contender: Contender,
) -> Result<(), Failure> {
    let duration = bench.options.soak();
    // Static mappings may count as flows.
    let fixed = stage.site(contender)?.flows()?;
    let before = settled_descriptors(stage, contender)?;
    let mut clients = Vec::new();
    for direction in [Direction::Up, Direction::Down] {
        let mut client = stage.client(contender, direction, Test::Soak, duration)?;
        client.seed = bench.options.seed;
        clients.push(stage.spawn(contender, direction, &client)?);
    }
    let mut sum = Soaked::default();
    for client in clients {
        sum = sum.and(collect(client, duration)?);
    }
    stage.site(contender)?.check()?;
    let outcome = match sum.first_problem {
        None => Ok(Cell::Figures(vec![approximate(sum.lost)])),
        Some(first) => {
            let (problems, flows) = (sum.problems, sum.flows);
            Err(format!("{problems} of {flows} flows, the first: {first}").into())
        }
    };
    bench.record(SOAK_PROBLEMS, contender, outcome)?;

    let deadline = Instant::now() + DRAIN;
    let left = loop {
        let left = stage.site(contender)?.flows()?.saturating_sub(fixed);
        if left == 0 || Instant::now() >= deadline {
            break left;
        }
        bench.say(&format!(
            "{contender} forgets the soak's flows: {left} left"
        ));
        plan::pause(Duration::from_secs(2))?;
    };
    let outcome = Ok(Cell::Figures(vec![approximate(left)]));
    bench.record(SOAK_FLOWS, contender, outcome)?;

    let after = settled_descriptors(stage, contender)?;
    let left = u64::try_from(after.saturating_sub(before))?;
    bench.record(
        SOAK_DESCRIPTORS,
        contender,
        Ok(Cell::Figures(vec![approximate(left)])),
    )
}

/// The contender's descriptors, once it has closed the one by which it was asked
/// for its flows.
fn settled_descriptors(stage: &mut Stage<'_>, contender: Contender) -> Result<usize, Failure> {
    plan::pause(Duration::from_millis(200))?;
    stage.site(contender)?.descriptors()
}
