//! The same as with namespaces, for a guest of QEMU that is emulated. Each
//! contender has its largest MTU there.

use super::stage::{collect, serve};
use super::{GUEST_REQUEST, GUEST_TCP_DOWN, GUEST_TCP_UP};
use crate::Failure;
use crate::contender::{Contender, Image, Machine};
use crate::lab::{HOST, Place, SERVICE, SERVICE_PORTS, traffic_process};
use crate::plan::Bench;
use crate::table::Cell;
use crate::traffic::{Bulk, Client, Exchanges, Role, Test};

const ROWS: [&str; 3] = [GUEST_TCP_UP, GUEST_TCP_DOWN, GUEST_REQUEST];

pub(super) fn measure(bench: &mut Bench<'_>) -> Result<(), Failure> {
    let wanted = bench.wanted(&ROWS);
    if wanted.is_empty() {
        return Ok(());
    }
    bench.say("the guests' image is built");
    let image = match Image::build(bench.lab.folder(), "guest") {
        Ok(image) => image,
        Err(error) => {
            for contender in wanted {
                bench.give_up(&ROWS, contender, &error)?;
            }
            return Ok(());
        }
    };
    let _servers = serve(bench.lab, None)?;
    let mut machines = Vec::new();
    for contender in wanted {
        bench.say(&format!("a guest boots: {contender}"));
        match Machine::boot(contender, bench.lab, &image) {
            Ok(machine) => machines.push((contender, machine)),
            Err(error) => bench.give_up(&ROWS, contender, &error)?,
        }
    }
    for _ in 0..bench.options.rounds() {
        for (contender, machine) in &mut machines {
            round(bench, *contender, machine)?;
        }
    }
    Ok(())
}

fn round(
    bench: &mut Bench<'_>,
    contender: Contender,
    machine: &mut Machine,
) -> Result<(), Failure> {
    let (lab, duration) = (bench.lab, bench.options.cell());
    let upward = |test| Client::new(test, SERVICE, SERVICE_PORTS, duration);
    bench.cell(GUEST_TCP_UP, contender, || {
        machine.check()?;
        let bulk: Bulk = machine.run(upward(Test::Bulk))?;
        Ok(Cell::Figures(vec![bulk.gigabits()]))
    })?;
    bench.cell(GUEST_TCP_DOWN, contender, || {
        machine.check()?;
        let place = Place {
            namespace: Some(&lab.host),
            cpu: None,
        };
        let client = Client::new(Test::Bulk, HOST, machine.first, duration);
        let running = traffic_process("client", &place, &Role::Client(client))?;
        let bulk: Bulk = collect(running, duration)?;
        Ok(Cell::Figures(vec![bulk.gigabits()]))
    })?;
    bench.cell(GUEST_REQUEST, contender, || {
        machine.check()?;
        let run: Exchanges = machine.run(upward(Test::Request))?;
        Ok(Cell::Figures(vec![run.median_us()]))
    })
}
