//! The format of DHCP messages (RFC 2131, 2; RFC 2132).
//!
//! The kept crate for this, dhcproto, panics on a hardware address length
//! above 16, and stops at the first option that it can't decode: a guest may
//! send both.

use std::net::Ipv4Addr;

mod answer;

use crate::net::mac::MacAddress;

pub use answer::Answer;

/// Bytes before the options, the magic cookie included.
const FIXED: usize = 240;
/// What marks the options as DHCP's (RFC 2131, 3).
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// The fields that option overload lends to options (RFC 2132, 9.3).
const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;

/// The shortest message that old clients take (RFC 951: a BOOTP message).
const SHORTEST: usize = 300;
/// What every client takes: a datagram of 576 bytes, without its headers of
/// IP and UDP (RFC 2131, 2).
const COMMON: usize = 576 - 28;

/// Codes of options (RFC 2132, unless said otherwise).
pub(super) mod code {
    pub(crate) const PAD: u8 = 0;
    pub(crate) const SUBNET_MASK: u8 = 1;
    pub(crate) const ROUTER: u8 = 3;
    pub(crate) const DNS: u8 = 6;
    pub(crate) const HOST_NAME: u8 = 12;
    pub(crate) const DOMAIN: u8 = 15;
    pub(crate) const MTU: u8 = 26;
    pub(crate) const BROADCAST: u8 = 28;
    pub(crate) const REQUESTED_ADDRESS: u8 = 50;
    pub(crate) const LEASE_TIME: u8 = 51;
    pub(crate) const OVERLOAD: u8 = 52;
    pub(crate) const MESSAGE_TYPE: u8 = 53;
    pub(crate) const SERVER: u8 = 54;
    pub(crate) const REQUESTED_OPTIONS: u8 = 55;
    pub(crate) const MESSAGE: u8 = 56;
    pub(crate) const MAX_SIZE: u8 = 57;
    pub(crate) const RENEWAL: u8 = 58;
    pub(crate) const REBINDING: u8 = 59;
    pub(crate) const CLIENT_ID: u8 = 61;
    /// RFC 3442.
    pub(crate) const CLASSLESS_ROUTES: u8 = 121;
    pub(crate) const END: u8 = 255;
}

/// The kind of a message (RFC 2132, 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageType {
    /// A client looks for servers.
    Discover,
    /// A server offers an address.
    Offer,
    /// A client takes an offer, or confirms or extends its lease.
    Request,
    /// A client found its address in use.
    Decline,
    /// A server grants a lease.
    Ack,
    /// A server refuses one.
    Nak,
    /// A client gives its address back.
    Release,
    /// A client that has an address asks for the rest.
    Inform,
}

impl MessageType {
    const ALL: [Self; 8] = [
        Self::Discover,
        Self::Offer,
        Self::Request,
        Self::Decline,
        Self::Ack,
        Self::Nak,
        Self::Release,
        Self::Inform,
    ];

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }

    fn code(self) -> u8 {
        match self {
            Self::Discover => 1,
            Self::Offer => 2,
            Self::Request => 3,
            Self::Decline => 4,
            Self::Ack => 5,
            Self::Nak => 6,
            Self::Release => 7,
            Self::Inform => 8,
        }
    }
}

/// A client's message, as far as a server reads it or a client writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The kind.
    pub kind: MessageType,
    /// The client's number of this exchange.
    pub transaction: u32,
    /// Whether the client can't take unicasts before it is configured.
    pub broadcast: bool,
    /// The address that the client uses, or zero.
    pub client_address: Ipv4Addr,
    /// The relay that the message came through, or zero.
    pub relay: Ipv4Addr,
    /// The client's hardware address.
    pub hardware: MacAddress,
    /// Option 61, which names the client.
    pub client_id: Option<Vec<u8>>,
    /// Option 50.
    pub requested: Option<Ipv4Addr>,
    /// Option 54.
    pub server: Option<Ipv4Addr>,
    /// Option 51, in seconds.
    pub lease_time: Option<u32>,
    /// Option 12, as it came.
    pub host_name: Option<Vec<u8>>,
    /// Option 55, in the client's order.
    pub requested_options: Option<Vec<u8>>,
    /// The longest reply that the client takes, in bytes of the message.
    pub max_reply: usize,
}

impl Request {
    /// Reads a message. `None` stands for one that no client may send: cut
    /// short, not a request, not from Ethernet, without a type, or with an
    /// option that has the wrong length.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let fixed: &[u8; FIXED] = bytes.first_chunk()?;
        // BOOTREQUEST, and an Ethernet address of six bytes.
        if fixed[..3] != [1, 1, 6] || fixed[236..] != COOKIE {
            return None;
        }
        let address =
            |at: usize| Ipv4Addr::new(fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]);
        let options = Options::new(bytes)?;
        let kind = match options.get(code::MESSAGE_TYPE)?[..] {
            [kind] => MessageType::from_code(kind)?,
            _ => return None,
        };
        let max_size = options.number(code::MAX_SIZE)?.map(u16::from_be_bytes);
        Some(Self {
            kind,
            transaction: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            broadcast: fixed[10] & 0x80 != 0,
            client_address: address(12),
            relay: address(24),
            hardware: MacAddress::new([
                fixed[28], fixed[29], fixed[30], fixed[31], fixed[32], fixed[33],
            ])?,
            client_id: options.get(code::CLIENT_ID),
            requested: options.number(code::REQUESTED_ADDRESS)?.map(Ipv4Addr::from),
            server: options.number(code::SERVER)?.map(Ipv4Addr::from),
            lease_time: options.number(code::LEASE_TIME)?.map(u32::from_be_bytes),
            host_name: options.get(code::HOST_NAME),
            requested_options: options.get(code::REQUESTED_OPTIONS),
            // RFC 2132, 9.10: the size is of the whole datagram.
            max_reply: max_size.map_or(COMMON, |size| {
                usize::from(size).saturating_sub(28).clamp(COMMON, 1472)
            }),
        })
    }
}

impl Request {
    /// The message as a client sends it: all fields but the relay, and options
    /// that are there, as far as they fit what every server takes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut message = Composer::new(1, self.transaction, self.hardware, COMMON);
        if self.broadcast {
            message.bytes[10] = 0x80;
        }
        message.bytes[12..16].copy_from_slice(&self.client_address.octets());
        message.option(code::MESSAGE_TYPE, &[self.kind.code()]);
        let addresses = [
            (code::REQUESTED_ADDRESS, self.requested),
            (code::SERVER, self.server),
        ];
        for (code, address) in addresses {
            if let Some(address) = address {
                message.option(code, &address.octets());
            }
        }
        if let Some(seconds) = self.lease_time {
            message.option(code::LEASE_TIME, &seconds.to_be_bytes());
        }
        let size = u16::try_from(self.max_reply + 28).unwrap_or(u16::MAX);
        message.option(code::MAX_SIZE, &size.to_be_bytes());
        let texts = [
            (code::CLIENT_ID, &self.client_id),
            (code::HOST_NAME, &self.host_name),
            (code::REQUESTED_OPTIONS, &self.requested_options),
        ];
        for (code, value) in texts {
            if let Some(value) = value {
                message.option(code, value);
            }
        }
        message.finish()
    }
}

/// The options of a message, in the up to three places that may hold them.
struct Options<'a> {
    areas: [&'a [u8]; 3],
}

impl<'a> Options<'a> {
    /// Finds the areas of options; `None` if one is cut short.
    fn new(message: &'a [u8]) -> Option<Self> {
        let mut options = Self {
            areas: [message.get(FIXED..)?, &[], &[]],
        };
        if !options.is_whole() {
            return None;
        }
        // RFC 2132, 9.3; the file field is read first (RFC 2131, 4.1).
        let overload = options.get(code::OVERLOAD);
        if let Some([flags]) = overload.as_deref() {
            if flags & 1 != 0 {
                options.areas[1] = message.get(FILE)?;
            }
            if flags & 2 != 0 {
                options.areas[2] = message.get(SNAME)?;
            }
        }
        options.is_whole().then_some(options)
    }

    /// Whether each area is a row of whole options.
    fn is_whole(&self) -> bool {
        self.areas.iter().all(|area| {
            let mut walk = Walk(area);
            walk.by_ref().for_each(drop);
            walk.0.is_empty()
        })
    }

    /// The value of an option, its parts put together (RFC 3396, 7).
    fn get(&self, code: u8) -> Option<Vec<u8>> {
        let mut parts = self
            .areas
            .iter()
            .flat_map(|area| Walk(area))
            .filter(|(found, _)| *found == code)
            .map(|(_, value)| value);
        let mut value = parts.next()?.to_vec();
        for part in parts {
            value.extend_from_slice(part);
        }
        Some(value)
    }

    /// The value of an option of `N` bytes: `None` if its length is wrong,
    /// `Some(None)` if it isn't there.
    fn number<const N: usize>(&self, code: u8) -> Option<Option<[u8; N]>> {
        match self.get(code) {
            Some(value) => Some(Some(value.try_into().ok()?)),
            None => Some(None),
        }
    }
}

/// Walks over the options of an area; what is left is what can't be read.
struct Walk<'a>(&'a [u8]);

impl<'a> Iterator for Walk<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match *self.0 {
                [code::PAD, ref rest @ ..] => self.0 = rest,
                [] | [code::END, ..] => {
                    self.0 = &[];
                    return None;
                }
                [code, length, ref rest @ ..] => {
                    let (value, rest) = rest.split_at_checked(length.into())?;
                    self.0 = rest;
                    return Some((code, value));
                }
                [_] => return None,
            }
        }
    }
}

/// A message in the making.
struct Composer {
    bytes: Vec<u8>,
    longest: usize,
}

impl Composer {
    fn new(operation: u8, transaction: u32, hardware: MacAddress, longest: usize) -> Self {
        let mut bytes = vec![0; FIXED];
        // An Ethernet address of six bytes.
        bytes[..3].copy_from_slice(&[operation, 1, 6]);
        bytes[4..8].copy_from_slice(&transaction.to_be_bytes());
        bytes[28..34].copy_from_slice(&hardware.bytes());
        bytes[236..].copy_from_slice(&COOKIE);
        Self { bytes, longest }
    }

    /// Appends an option, in parts if it is long (RFC 3396, 6), unless the
    /// receiver couldn't take a message of that length.
    fn option(&mut self, code: u8, value: &[u8]) {
        let parts = value.chunks(usize::from(u8::MAX));
        // Two bytes before each part, and one behind all for the end.
        if self.bytes.len() + value.len() + 2 * parts.len() + 1 > self.longest {
            return;
        }
        for part in parts {
            let length = u8::try_from(part.len()).expect("a part is at most 255 bytes");
            self.bytes.extend_from_slice(&[code, length]);
            self.bytes.extend_from_slice(part);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.bytes.push(code::END);
        if self.bytes.len() < SHORTEST {
            self.bytes.resize(SHORTEST, code::PAD);
        }
        self.bytes
    }
}

/// A server's message, composed.
pub(super) struct Reply(Composer);

impl Reply {
    /// Starts the reply to `request` (RFC 2131, table 3).
    pub(super) fn new(request: &Request, kind: MessageType, server: Ipv4Addr) -> Self {
        let mut message =
            Composer::new(2, request.transaction, request.hardware, request.max_reply);
        if request.broadcast {
            message.bytes[10] = 0x80;
        }
        message.bytes[24..28].copy_from_slice(&request.relay.octets());
        message.option(code::MESSAGE_TYPE, &[kind.code()]);
        message.option(code::SERVER, &server.octets());
        Self(message)
    }

    /// Sets the address that the client says it uses (ciaddr).
    pub(super) fn client_address(&mut self, address: Ipv4Addr) {
        self.0.bytes[12..16].copy_from_slice(&address.octets());
    }

    /// Sets the address that the client is given (yiaddr).
    pub(super) fn your_address(&mut self, address: Ipv4Addr) {
        self.0.bytes[16..20].copy_from_slice(&address.octets());
    }

    /// Appends an option, unless the client couldn't take it.
    pub(super) fn option(&mut self, code: u8, value: &[u8]) {
        self.0.option(code, value);
    }

    /// The message.
    pub(super) fn finish(self) -> Vec<u8> {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests;
