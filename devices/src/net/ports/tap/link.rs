//! Setting an interface up (rtnetlink(7)).

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::net::{RecvFlags, SendFlags, recv, send};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Error;
use crate::net::mac::MacAddress;

/// Attributes of links, addresses and routes (linux/if_link.h, linux/if_addr.h,
/// linux/rtnetlink.h).
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

/// Don't wait for others to object to an IPv6 address (linux/if_addr.h).
const IFA_F_NODAD: u8 = 2;

/// Room for the description of one link.
const ANSWER: usize = 16 << 10;

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
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) mtu: Option<u16>,
}

/// struct nlmsghdr (netlink(7)).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Header {
    len: u32,
    kind: u16,
    flags: u16,
    seq: u32,
    port: u32,
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
pub(super) struct Routing {
    socket: OwnedFd,
    seq: u32,
}

impl Routing {
    /// Works through a socket of NETLINK_ROUTE.
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, seq: 0 }
    }

    /// The interface `name`.
    pub(super) fn find(&mut self, name: &str) -> io::Result<Link> {
        let mut request = Request::new(libc::RTM_GETLINK, 0, &LinkMessage::default());
        request.attribute(IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
        let answer = self.ask(request)?;
        let (message, attributes) = LinkMessage::read_from_prefix(&answer)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let mtu = attribute(attributes, IFLA_MTU)
            .and_then(|value| value.try_into().ok())
            .map(u32::from_ne_bytes);
        Ok(Link {
            index: message.index,
            mtu: mtu.map(|mtu| u16::try_from(mtu).unwrap_or(u16::MAX)),
        })
    }

    /// Sets the interface `index` up; `failed` makes the error of a step.
    pub(super) fn set_up<F: FnOnce(io::Error) -> Error>(
        &mut self,
        index: u32,
        config: &LinkConfig,
        failed: impl Fn(&'static str) -> F,
    ) -> Result<(), Error> {
        let mut request = Request::new(libc::RTM_NEWLINK, 0, &link(index));
        if let Some(mac) = config.mac {
            request.attribute(IFLA_ADDRESS, &mac.bytes());
        }
        if let Some(mtu) = config.mtu {
            request.attribute(IFLA_MTU, &u32::from(mtu).to_ne_bytes());
        }
        self.command(request)
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

    /// Brings the interface `index` up.
    pub(super) fn bring_up(&mut self, index: u32) -> io::Result<()> {
        let up = u32::try_from(libc::IFF_UP).expect("a flag");
        let message = LinkMessage {
            flags: up,
            change: up,
            ..link(index)
        };
        self.command(Request::new(libc::RTM_NEWLINK, 0, &message))
    }

    fn add_address(&mut self, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        let message = AddressMessage {
            family: family(address),
            prefix,
            flags: if address.is_ipv6() { IFA_F_NODAD } else { 0 },
            scope: libc::RT_SCOPE_UNIVERSE,
            index,
        };
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let mut request = Request::new(libc::RTM_NEWADDR, flags, &message);
        let bytes = octets(address);
        request.attribute(IFA_LOCAL, &bytes);
        request.attribute(IFA_ADDRESS, &bytes);
        self.command(request)
    }

    fn add_gateway(&mut self, index: u32, gateway: IpAddr) -> io::Result<()> {
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
        self.command(request)
    }

    /// Deletes the interface `index`.
    #[cfg(test)]
    pub(super) fn delete(&mut self, index: u32) -> io::Result<()> {
        self.command(Request::new(libc::RTM_DELLINK, 0, &link(index)))
    }

    /// Has `request` carried out.
    fn command(&mut self, mut request: Request) -> io::Result<()> {
        request.header.flags |= flags(libc::NLM_F_ACK);
        self.ask(request).map(drop)
    }

    /// Sends `request` and returns the body of its answer.
    fn ask(&mut self, request: Request) -> io::Result<Vec<u8>> {
        self.seq += 1;
        send(&self.socket, &request.finish(self.seq)?, SendFlags::empty())?;
        let mut answer = vec![0; ANSWER];
        loop {
            let (len, _) = match recv(&self.socket, &mut *answer, RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => continue,
                received => received?,
            };
            let invalid = || io::Error::from(io::ErrorKind::InvalidData);
            let (header, body) = Header::read_from_prefix(&answer[..len]).map_err(|_| invalid())?;
            if header.seq != self.seq {
                continue;
            }
            if i32::from(header.kind) != libc::NLMSG_ERROR {
                return Ok(body.to_vec());
            }
            let (errno, _) = i32::read_from_prefix(body).map_err(|_| invalid())?;
            return match errno {
                0 => Ok(Vec::new()),
                errno => Err(io::Error::from_raw_os_error(errno.wrapping_neg())),
            };
        }
    }
}

/// A message to the kernel.
struct Request {
    header: Header,
    body: Vec<u8>,
}

impl Request {
    fn new(kind: u16, more: libc::c_int, message: &(impl IntoBytes + Immutable)) -> Self {
        let header = Header {
            len: 0,
            kind,
            flags: flags(libc::NLM_F_REQUEST | more),
            seq: 0,
            port: 0,
        };
        Self {
            header,
            body: message.as_bytes().to_vec(),
        }
    }

    /// Appends struct rtattr with its value, padded to four bytes.
    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(4 + value.len()).expect("a name, an address or a number");
        self.body.extend(len.to_ne_bytes());
        self.body.extend(kind.to_ne_bytes());
        self.body.extend(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
    }

    fn finish(mut self, seq: u32) -> io::Result<Vec<u8>> {
        let len = size_of::<Header>() + self.body.len();
        self.header.len = u32::try_from(len).map_err(io::Error::other)?;
        self.header.seq = seq;
        Ok([self.header.as_bytes(), &self.body].concat())
    }
}

/// The value of the first attribute of a kind.
fn attribute(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let (len, rest) = attributes.split_first_chunk::<2>()?;
        let (this, _) = rest.split_first_chunk::<2>()?;
        let len = usize::from(u16::from_ne_bytes(*len));
        if u16::from_ne_bytes(*this) == kind {
            return attributes.get(4..len);
        }
        attributes = attributes.get(len.max(4).next_multiple_of(4)..)?;
    }
}

fn link(index: u32) -> LinkMessage {
    LinkMessage {
        index,
        ..LinkMessage::default()
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

fn flags(flags: libc::c_int) -> u16 {
    u16::try_from(flags).expect("flags of netlink have 16 bits")
}
