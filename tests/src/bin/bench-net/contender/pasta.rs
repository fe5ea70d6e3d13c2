//! pasta, of the package passt, on a tap.

use std::net::Ipv4Addr;
use std::process::Command;

use super::{INTERFACE, Joined, Settings, await_route};
use crate::Failure;
use crate::lab::{HOST, Lab, Namespace, Place, Process, find};
use crate::traffic::PORTS;

/// The guest's address: not the host's, as by default, so that there is something
/// to translate.
pub(super) const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 3, 15);
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 3, 2);

pub(super) fn join(
    lab: &Lab,
    guest: &Namespace,
    settings: Settings,
    first: u16,
) -> Result<Joined, Failure> {
    let mut command = Command::new(find("pasta")?);
    command
        .args(["--foreground", "--quiet", "--runas", "0"])
        .args(["--config-net", "--no-netns-quit", "--ns-ifname", INTERFACE])
        .args(network(settings.mtu, first))
        .args(["--tcp-ns", "none", "--udp-ns", "none"])
        .arg("--netns")
        .arg(guest.path());
    let place = Place {
        namespace: Some(&lab.host),
        cpu: settings.cpu,
    };
    let mut process = Process::start("pasta", command, &place)?;
    await_route(guest, &mut process)?;
    Ok(Joined {
        process: Some(process),
        address: HOST,
        inner: GUEST,
        control: None,
    })
}

/// The guest's network, and static mappings to it, as pasta and passt are told.
pub(super) fn network(mtu: u32, first: u16) -> Vec<String> {
    let ports = format!("{first}-{}", first + PORTS - 1);
    format!(
        "--ipv4-only --address {GUEST} --netmask 24 --gateway {GATEWAY} --mtu {mtu} \
         --tcp-ports {ports} --udp-ports {ports}"
    )
    .split(' ')
    .map(str::to_owned)
    .collect()
}
