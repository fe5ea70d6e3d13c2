//! A pair of the kernel's virtual Ethernet interfaces.

use std::net::Ipv4Addr;

use super::{Joined, Settings};
use crate::Failure;
use crate::lab::{Lab, Namespace};

const NEAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

pub(super) fn join(lab: &Lab, guest: &Namespace, settings: Settings) -> Result<Joined, Failure> {
    let (mtu, path) = (settings.mtu, guest.path().display());
    // An earlier guest's end goes when the kernel gets to it.
    let _ = lab.host.ip("link delete v0");
    lab.host.ip(&format!(
        "link add name v0 mtu {mtu} type veth peer name v1 mtu {mtu} netns {path}"
    ))?;
    lab.host.ip(&format!("address add {NEAR}/24 dev v0"))?;
    lab.host.ip("link set v0 up")?;
    guest.ip(&format!("address add {FAR}/24 dev v1"))?;
    guest.ip("link set v1 up")?;
    guest.ip(&format!("route add default via {NEAR}"))?;
    Ok(Joined {
        process: None,
        address: FAR,
        inner: FAR,
        control: None,
    })
}
