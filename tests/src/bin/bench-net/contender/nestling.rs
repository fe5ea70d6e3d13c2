//! nestling's own engine, on a tap.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{Filtering, INTERFACE, Joined, Settings, await_route};
use crate::Failure;
use crate::lab::{HOST, Lab, Namespace, Place, Process};
use crate::traffic::PORTS;

/// The gateway's address, in a prefix of 24 bits.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 1);
/// The address of the one guest there.
pub(crate) const GUEST: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 10);

pub(super) fn join(
    lab: &Lab,
    guest: &Namespace,
    settings: Settings,
    first: u16,
) -> Result<Joined, Failure> {
    let control = lab.folder().join("nestling.sock");
    let mut command = Command::new(binary()?);
    command
        .args(["net", "tap", "--name", INTERFACE])
        .args(network(settings.mtu, first))
        .args(match settings.filtering {
            Filtering::Default => [].as_slice(),
            Filtering::ByPort => &["--filtering", "address-and-port-dependent"],
        })
        .arg("--control")
        .arg(&control)
        .arg("--netns")
        .arg(guest.path());
    let place = Place {
        namespace: Some(&lab.host),
        cpu: settings.cpu,
    };
    let mut process = Process::start("nestling", command, &place)?;
    await_route(guest, &mut process)?;
    Ok(Joined {
        process: Some(process),
        address: HOST,
        inner: GUEST,
        control: Some(control),
    })
}

/// The guests' network, and static mappings to the one guest.
pub(super) fn network(mtu: u32, first: u16) -> Vec<String> {
    let last = first + PORTS - 1;
    format!(
        "--cidr {GATEWAY}/24 --pool {GUEST}-{GUEST} --mtu {mtu} \
         --forward tcp:{HOST}:{first}-{last}:{GUEST}:{first} \
         --forward udp:{HOST}:{first}-{last}:{GUEST}:{first}"
    )
    .split(' ')
    .map(str::to_owned)
    .collect()
}

/// The binary: what `NESTLING_BIN` names, else what was built beside this program.
pub(crate) fn binary() -> Result<PathBuf, Failure> {
    let path = match std::env::var_os("NESTLING_BIN") {
        Some(named) => named.into(),
        None => std::env::current_exe()?.with_file_name("nestling"),
    };
    if path.is_file() {
        return Ok(path);
    }
    let path = path.display();
    Err(format!("no {path}: build it (make build), or set NESTLING_BIN").into())
}

/// How many flows a network has, as its control socket tells.
pub(super) fn flows(control: &Path) -> Result<u64, Failure> {
    let output = Command::new(binary()?)
        .args(["--format", "json", "net", "list", "--control"])
        .arg(control)
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().into());
    }
    count(&serde_json::from_slice(&output.stdout)?)
        .ok_or_else(|| "nestling net list names no flows".into())
}

/// The flows of all protocols in a network's report.
fn count(report: &Value) -> Option<u64> {
    let flows = report.get("flows")?.as_object()?;
    flows.values().map(Value::as_u64).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn flows_of_all_protocols_count() {
        let report = json!({"version": 1, "flows": {"tcp": 2, "udp": 3, "icmp": 1}});
        assert_eq!(count(&report), Some(6));
        assert_eq!(count(&json!({"version": 1})), None);
        assert_eq!(count(&json!({"flows": {"tcp": "two"}})), None);
    }
}
