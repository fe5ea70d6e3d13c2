//! The network interfaces of a namespace, asked and changed (rtnetlink(7)).

mod netlink;

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use self::netlink::{Channel, Request, attribute};
use crate::net::mac::MacAddress;

/// Attributes of links, addresses and routes (linux/if_link.h, linux/if_addr.h,
/// linux/rtnetlink.h).
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

/// Don't wait for others to object to an IPv6 address (linux/if_addr.h).
const IFA_F_NODAD: u8 = 2;

/// How an interface is set up. It is brought up in any case.
#[derive(Clone, Debug, Default)]
pub struct LinkConfig {
    /// Its address, if it is to have another than it has.
    pub mac: Option<MacAddress>,
    /// Its MTU, if it is to have another than it has.
    pub mtu: Option<u16>,
    /// Its IP addresses, each with the length of its network's prefix.
    pub addresses: Vec<(IpAddr, u8)>,
    /// The gateways of default routes, one for each family at most.
    pub gateways: Vec<IpAddr>,
}

/// An interface as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its Ethernet address, if it has one.
    pub mac: Option<MacAddress>,
    /// Its MTU, the most that an IPv4 packet can use if it is longer.
    pub mtu: Option<u16>,
    /// Whether it is up and frames pass: there is a carrier.
    pub running: bool,
}

/// A step of setting an interface up that the kernel refuses.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {source}")]
pub struct SetUpError {
    /// What was asked of it.
    pub what: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

/// struct ifinfomsg.
#[derive(Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct LinkMessage {
    family: u8,
    pad: u8,
    kind: u16,
    index: u32,
    flags: u32,
    change: u32,
}

/// struct ifaddrmsg.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct AddressMessage {
    family: u8,
    prefix: u8,
    flags: u8,
    scope: u8,
    index: u32,
}

/// struct rtmsg.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct RouteMessage {
    family: u8,
    destination: u8,
    source: u8,
    tos: u8,
    table: u8,
    protocol: u8,
    scope: u8,
    kind: u8,
    flags: u32,
}

/// Asks and changes the interfaces of one network namespace.
pub struct Routing(Channel);

impl Routing {
    /// Works in the caller's namespace.
    pub fn open() -> io::Result<Self> {
        // NETLINK_ROUTE is the protocol of number 0.
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        Ok(Self::new(socket))
    }

    /// Works through a socket of NETLINK_ROUTE, in the namespace where it was
    /// opened.
    pub fn new(socket: OwnedFd) -> Self {
        Self(Channel::new(socket))
    }

    /// The interface `name`.
    pub fn find(&mut self, name: &str) -> io::Result<Link> {
        let mut request = Request::new(libc::RTM_GETLINK, 0, &LinkMessage::default());
        request.attribute(IFLA_IFNAME, &c_string(name));
        let answer = self.0.ask(request)?;
        let (message, attributes) = LinkMessage::read_from_prefix(&answer)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let mac = attribute(attributes, IFLA_ADDRESS).and_then(|value| value.try_into().ok());
        let mtu = attribute(attributes, IFLA_MTU)
            .and_then(|value| value.try_into().ok())
            .map(u32::from_ne_bytes);
        Ok(Link {
            index: message.index,
            mac: mac.and_then(MacAddress::new),
            mtu: mtu.map(|mtu| u16::try_from(mtu).unwrap_or(u16::MAX)),
            running: message.flags & flag(libc::IFF_RUNNING) != 0,
        })
    }

    /// Sets the interface `index` up.
    pub fn set_up(&mut self, index: u32, config: &LinkConfig) -> Result<(), SetUpError> {
        let failed = |what| move |source| SetUpError { what, source };
        self.set(index, config.mac, config.mtu)
            .map_err(failed("set its MAC address and MTU"))?;
        for (address, prefix) in &config.addresses {
            self.add_address(index, *address, *prefix)
                .map_err(failed("give it its IP addresses"))?;
        }
        self.bring_up(index).map_err(failed("bring it up"))?;
        for gateway in &config.gateways {
            self.add_gateway(index, *gateway)
                .map_err(failed("make it the default route"))?;
        }
        Ok(())
    }

    /// Gives the interface `index` another MAC address and MTU.
    pub fn set(&mut self, index: u32, mac: Option<MacAddress>, mtu: Option<u16>) -> io::Result<()> {
        let mut request = Request::new(libc::RTM_NEWLINK, 0, &link(index));
        if let Some(mac) = mac {
            request.attribute(IFLA_ADDRESS, &mac.bytes());
        }
        if let Some(mtu) = mtu {
            request.attribute(IFLA_MTU, &u32::from(mtu).to_ne_bytes());
        }
        self.0.command(request)
    }

    /// Brings the interface `index` up.
    pub fn bring_up(&mut self, index: u32) -> io::Result<()> {
        self.switch(index, flag(libc::IFF_UP))
    }

    /// Takes the interface `index` down, and with it its routes, and the IPv6
    /// addresses that it gave itself.
    pub fn take_down(&mut self, index: u32) -> io::Result<()> {
        self.switch(index, 0)
    }

    fn switch(&mut self, index: u32, flags: u32) -> io::Result<()> {
        let message = LinkMessage {
            flags,
            change: flag(libc::IFF_UP),
            ..link(index)
        };
        self.0.command(Request::new(libc::RTM_NEWLINK, 0, &message))
    }

    /// Creates the bridge `name`. It keeps the address `mac`, whoever joins it.
    pub fn create_bridge(&mut self, name: &str, mac: MacAddress) -> io::Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let mut request = Request::new(libc::RTM_NEWLINK, flags, &LinkMessage::default());
        request.attribute(IFLA_IFNAME, &c_string(name));
        request.attribute(IFLA_ADDRESS, &mac.bytes());
        request.nested(IFLA_LINKINFO, &[(IFLA_INFO_KIND, b"bridge\0")]);
        self.0.command(request)
    }

    /// Makes the interface `index` a port of the bridge `master`.
    pub fn enslave(&mut self, index: u32, master: u32) -> io::Result<()> {
        let mut request = Request::new(libc::RTM_NEWLINK, 0, &link(index));
        request.attribute(IFLA_MASTER, &master.to_ne_bytes());
        self.0.command(request)
    }

    /// Deletes the interface `index`, if it is one that can be.
    pub fn delete(&mut self, index: u32) -> io::Result<()> {
        self.0
            .command(Request::new(libc::RTM_DELLINK, 0, &link(index)))
    }

    /// Gives the interface `index` an address; again is no error.
    pub fn add_address(&mut self, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let request = Request::new(libc::RTM_NEWADDR, flags, &message(index, address, prefix));
        self.change_address(request, address)
    }

    /// Takes an address from the interface `index`. With the last of a family
    /// its routes go.
    pub fn remove_address(&mut self, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        let request = Request::new(libc::RTM_DELADDR, 0, &message(index, address, prefix));
        self.change_address(request, address)
    }

    fn change_address(&mut self, mut request: Request, address: IpAddr) -> io::Result<()> {
        let bytes = octets(address);
        request.attribute(IFA_LOCAL, &bytes);
        request.attribute(IFA_ADDRESS, &bytes);
        self.0.command(request)
    }

    /// Makes `gateway`, behind the interface `index`, the default route of its
    /// family.
    pub fn add_gateway(&mut self, index: u32, gateway: IpAddr) -> io::Result<()> {
        let message = RouteMessage {
            family: family(gateway),
            table: libc::RT_TABLE_MAIN,
            protocol: libc::RTPROT_STATIC,
            scope: libc::RT_SCOPE_UNIVERSE,
            kind: libc::RTN_UNICAST,
            ..RouteMessage::default()
        };
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let mut request = Request::new(libc::RTM_NEWROUTE, flags, &message);
        request.attribute(RTA_GATEWAY, &octets(gateway));
        request.attribute(RTA_OIF, &index.to_ne_bytes());
        self.0.command(request)
    }
}

fn link(index: u32) -> LinkMessage {
    LinkMessage {
        index,
        ..LinkMessage::default()
    }
}

fn message(index: u32, address: IpAddr, prefix: u8) -> AddressMessage {
    AddressMessage {
        family: family(address),
        prefix,
        flags: if address.is_ipv6() { IFA_F_NODAD } else { 0 },
        scope: libc::RT_SCOPE_UNIVERSE,
        index,
    }
}

fn family(address: IpAddr) -> u8 {
    let family = match address {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    };
    u8::try_from(family).expect("a small number")
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn c_string(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

fn flag(flag: libc::c_int) -> u32 {
    u32::try_from(flag).expect("a flag")
}

#[cfg(test)]
mod tests;
