//! What sending costs L1 in exits to user space: counted in a nest on emulated
//! AMD-V, so that it can be had on any host.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::{EXITS, OURS};
use crate::Failure;
use crate::contender::{Image, binary};
use crate::lab::{Place, Process, find};
use crate::plan::Bench;
use crate::table::Cell;
use crate::traffic::{Exits, INITRD, result};

/// How long the nest may take, on the host's clock.
const LIMIT: Duration = Duration::from_secs(600);

pub(super) fn measure(bench: &mut Bench<'_>) -> Result<(), Failure> {
    for contender in OURS {
        let lab = bench.lab;
        bench.cell(EXITS, contender, || {
            let image = Image::build(lab.folder(), "send")?;
            let plan = lab.folder().join("plan.json");
            fs::write(&plan, self::plan().to_string())?;
            let own = std::env::current_exe()?;
            let mut command = Command::new(binary()?);
            command
                .args(["nest", "--metal", "svm", "--plan"])
                .arg(plan)
                .arg("--add")
                .arg(format!("{}:/bin/busybox", find("busybox")?.display()))
                .arg("--add")
                .arg(format!("{}:/bench/bench-net", own.display()))
                .arg("--add")
                .arg(format!("{}:{INITRD}", image.initrd.display()));
            let place = Place {
                namespace: None,
                cpu: None,
            };
            let said = Process::start("nestling nest", command, &place)?.finish(LIMIT)?;
            let exits: Exits = result(&said)?;
            Ok(Cell::Figures(vec![exits.each]))
        })?;
    }
    Ok(())
}

/// The plan: an L0 that runs this program.
fn plan() -> Value {
    let argv = ["/bench/bench-net", "count-exits"];
    json!({
        "machine": {
            "cpus": 1, "memory_mib": 3072, "nested": "on",
            "cmdline": "console=ttyS0 quiet panic=-1", "disks": [],
        },
        "limits": {"boot_s": 120, "silence_s": 300, "total_s": LIMIT.as_secs()},
        "order": {
            "version": 1, "level": 0, "modules": ["virtio_console"], "kvm": {},
            "steps": [{"step": "workload", "kind": "program", "argv": argv}],
        },
    })
}
