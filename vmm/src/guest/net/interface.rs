//! The level's network interfaces: brought up, bridged, given their addresses.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nestling_devices::net::link::{Link, LinkConfig, Routing};
use nestling_devices::net::mac::MacAddress;
use nestling_devices::net::ports::tap::{self, Tap};
use thiserror::Error;

use super::dhcp::Lease;

/// Where the kernel lists interfaces.
const CLASS: &str = "/sys/class/net";

/// The time between two looks at an interface whose carrier is awaited.
const LOOK: Duration = Duration::from_millis(10);

/// Why an interface can't be used.
#[derive(Debug, Error)]
pub enum Error {
    /// The system doesn't let its interfaces be changed, or listed.
    #[error("cannot {what}: {source}: run as root, in a system with /proc and /sys")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A change of an interface is refused.
    #[error("interface {name}: cannot {what}: {source}")]
    Interface {
        /// The interface.
        name: String,
        /// What was asked of it.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel knows no bridges.
    #[error("interface {name}: this kernel makes no bridges: load the module bridge")]
    NoBridges {
        /// The bridge that was to be made.
        name: String,
    },
    /// A NIC without an Ethernet address.
    #[error("interface {name} has no Ethernet address: name an Ethernet NIC")]
    NoAddress {
        /// The interface.
        name: String,
    },
    /// Nobody is at the other end.
    #[error(
        "interface {name} has no carrier within {} s: see that its NIC is plugged in",
        patience.as_secs()
    )]
    NoCarrier {
        /// The interface.
        name: String,
        /// How long was waited.
        patience: Duration,
    },
    /// A tap can't be made.
    #[error(transparent)]
    Tap(#[from] tap::Error),
}

/// The interfaces of the caller's network namespace.
pub struct Interfaces {
    routing: Routing,
}

/// The NICs: interfaces with a device behind them, by their names' order.
///
/// # Errors
/// [`Error::System`] if the system doesn't list its interfaces.
pub fn nics() -> Result<Vec<String>, Error> {
    nics_of(Path::new(CLASS)).map_err(|source| Error::System {
        what: "list the network interfaces",
        source,
    })
}

fn nics_of(class: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(class)? {
        let entry = entry?;
        if entry.path().join("device").exists()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    // eth2 comes before eth10.
    names.sort_by_key(|name| (name.len(), name.clone()));
    Ok(names)
}

impl Interfaces {
    /// The caller's interfaces.
    ///
    /// # Errors
    /// [`Error::System`] if the system has no rtnetlink.
    pub fn open() -> Result<Self, Error> {
        let routing = Routing::open().map_err(|source| Error::System {
            what: "open a netlink socket",
            source,
        })?;
        Ok(Self { routing })
    }

    fn find(&mut self, name: &str) -> Result<Link, Error> {
        self.routing.find(name).map_err(failed(name, "find it"))
    }

    /// The Ethernet address of `name`.
    ///
    /// # Errors
    /// [`Error::Interface`], or [`Error::NoAddress`] if it has none.
    pub fn mac(&mut self, name: &str) -> Result<MacAddress, Error> {
        self.find(name)?.mac.ok_or_else(|| Error::NoAddress {
            name: name.to_owned(),
        })
    }

    /// Brings `name` up.
    ///
    /// # Errors
    /// [`Error::Interface`].
    pub fn bring_up(&mut self, name: &str) -> Result<(), Error> {
        let index = self.find(name)?.index;
        let up = self.routing.bring_up(index);
        up.map_err(failed(name, "bring it up"))
    }

    /// Waits until frames pass `name`, which is up: those sent before are lost.
    ///
    /// # Errors
    /// [`Error::Interface`], or [`Error::NoCarrier`] when `patience` ends.
    pub fn wait_for_carrier(&mut self, name: &str, patience: Duration) -> Result<(), Error> {
        let start = Instant::now();
        while !self.find(name)?.running {
            if start.elapsed() >= patience {
                return Err(Error::NoCarrier {
                    name: name.to_owned(),
                    patience,
                });
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Gives `name` another MTU, in bytes of an IP packet.
    ///
    /// # Errors
    /// [`Error::Interface`], if its NIC can't carry such packets, too.
    pub fn set_mtu(&mut self, name: &str, mtu: u16) -> Result<(), Error> {
        let index = self.find(name)?.index;
        let set = self.routing.set(index, None, Some(mtu));
        set.map_err(failed(name, "set its MTU"))
    }

    /// Makes the bridge `name` with `nic` as its first port, both up. The
    /// bridge takes the place of the NIC: it has the NIC's address, so that
    /// the switch behind the NIC knows its frames, and its MTU.
    ///
    /// # Errors
    /// [`Error::NoBridges`], [`Error::NoAddress`], [`Error::Interface`].
    pub fn bridge(&mut self, name: &str, nic: &str) -> Result<(), Error> {
        let mac = self.mac(nic)?;
        let port = self.find(nic)?.index;
        // What the kernel configured by itself (RFC 4862) goes with its routes:
        // it is the bridge's to have now.
        let down = self.routing.take_down(port);
        down.map_err(failed(nic, "take it down"))?;
        self.routing.create_bridge(name, mac).map_err(|source| {
            if source.raw_os_error() == Some(libc::EOPNOTSUPP) {
                return Error::NoBridges {
                    name: name.to_owned(),
                };
            }
            failed(name, "make a bridge of this name")(source)
        })?;
        self.join(nic, name)?;
        self.bring_up(name)
    }

    /// Makes `port` one of the bridge `bridge`, and brings it up.
    ///
    /// # Errors
    /// [`Error::Interface`].
    pub fn join(&mut self, port: &str, bridge: &str) -> Result<(), Error> {
        let (index, master) = (self.find(port)?.index, self.find(bridge)?.index);
        let joined = self.routing.enslave(index, master);
        joined.map_err(failed(port, "make it a port of the bridge"))?;
        self.bring_up(port)
    }

    /// Makes a tap for the next level's NIC on the bridge `bridge`, with the
    /// bridge's MTU. It stays, for the monitor to open by its name.
    ///
    /// # Errors
    /// [`Error::Tap`], [`Error::Interface`].
    pub fn bridge_tap(&mut self, tap: &str, bridge: &str) -> Result<(), Error> {
        let mtu = self.find(bridge)?.mtu;
        for queue in Tap::open(tap, 1)? {
            queue.persist().map_err(failed(tap, "let it persist"))?;
        }
        if let Some(mtu) = mtu {
            self.set_mtu(tap, mtu)?;
        }
        self.join(tap, bridge)
    }

    /// Gives `name` one more address, whose network's prefix has so many bits.
    ///
    /// # Errors
    /// [`Error::Interface`].
    pub fn add_address(&mut self, name: &str, address: IpAddr, prefix: u8) -> Result<(), Error> {
        let link = self.find(name)?;
        let config = LinkConfig {
            addresses: vec![(address, prefix)],
            ..LinkConfig::default()
        };
        let set = self.routing.set_up(link.index, &config);
        set.map_err(|error| failed(name, error.what)(error.source))
    }

    /// Gives `name` the address of a lease, its default route and its MTU. A
    /// NIC that can't have the network's MTU keeps its own.
    ///
    /// # Errors
    /// [`Error::Interface`].
    pub fn configure(&mut self, name: &str, lease: &Lease) -> Result<(), Error> {
        let link = self.find(name)?;
        if let Some(mtu) = lease.mtu.filter(|mtu| Some(*mtu) != link.mtu)
            && let Err(error) = self.set_mtu(name, mtu)
        {
            tracing::debug!(%error, "the network's MTU is not used");
        }
        let config = LinkConfig {
            addresses: vec![(lease.address.into(), lease.prefix)],
            gateways: lease.router.iter().map(|router| (*router).into()).collect(),
            ..LinkConfig::default()
        };
        let set = self.routing.set_up(link.index, &config);
        set.map_err(|error| failed(name, error.what)(error.source))
    }

    /// Takes the address of a lease from `name`, and with it its routes.
    ///
    /// # Errors
    /// [`Error::Interface`].
    pub fn unconfigure(&mut self, name: &str, lease: &Lease) -> Result<(), Error> {
        let index = self.find(name)?.index;
        let address = lease.address.into();
        let removed = self.routing.remove_address(index, address, lease.prefix);
        removed.map_err(failed(name, "take its address"))
    }
}

fn failed(name: &str, what: &'static str) -> impl FnOnce(io::Error) -> Error {
    let name = name.to_owned();
    move |source| Error::Interface { name, what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nics_have_a_device() {
        let class = tempfile::tempdir().unwrap();
        for (name, device) in [
            ("eth10", true),
            ("eth2", true),
            ("lo", false),
            ("br0", false),
        ] {
            let folder = class.path().join(name);
            fs::create_dir(&folder).unwrap();
            if device {
                fs::create_dir(folder.join("device")).unwrap();
            }
        }
        // bonding_masters is a file among the interfaces.
        fs::write(class.path().join("bonding_masters"), "").unwrap();
        assert_eq!(nics_of(class.path()).unwrap(), ["eth2", "eth10"]);
        assert!(nics_of(&class.path().join("absent")).is_err());
    }

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        let error = Interfaces::open()
            .unwrap()
            .mac("nestling-none")
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("interface nestling-none: cannot find it: "),
            "{text}"
        );
    }
}
