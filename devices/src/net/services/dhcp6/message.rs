//! The format of DHCPv6 messages (RFC 8415, 8 and 21; RFC 3646; RFC 4704).
//!
//! As with DHCPv4, only what a server needs is read, and a message that
//! breaks the format is dropped as a whole.

use std::net::Ipv6Addr;

/// Bytes before the options: the type and the transaction.
const HEADER: usize = 4;

/// The length of a DUID (RFC 8415, 11.1: a type, and up to 128 bytes).
const DUID: std::ops::RangeInclusive<usize> = 3..=130;

/// The most identity associations in a message, and the most addresses in all
/// of them. Clients send one of each; with these limits and
/// the most name servers of a configuration, every reply fits in a packet of 1280
/// bytes.
const MOST_ASSOCIATIONS: usize = 6;
const MOST_ADDRESSES: usize = 8;

/// Codes of options (IANA, DHCPv6 parameters).
pub(super) mod code {
    pub(crate) const CLIENT: u16 = 1;
    pub(crate) const SERVER: u16 = 2;
    pub(crate) const IA_NA: u16 = 3;
    pub(crate) const IA_TA: u16 = 4;
    pub(crate) const IA_ADDRESS: u16 = 5;
    pub(crate) const REQUESTED_OPTIONS: u16 = 6;
    pub(crate) const PREFERENCE: u16 = 7;
    pub(crate) const STATUS: u16 = 13;
    pub(crate) const RAPID_COMMIT: u16 = 14;
    pub(crate) const DNS: u16 = 23;
    pub(crate) const DOMAINS: u16 = 24;
    pub(crate) const IA_PD: u16 = 25;
    pub(crate) const FQDN: u16 = 39;
}

/// The kind of a message (RFC 8415, 7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageType {
    /// A client looks for servers.
    Solicit,
    /// A server offers addresses.
    Advertise,
    /// A client takes an offer.
    Request,
    /// A client asks whether its addresses fit the link.
    Confirm,
    /// A client extends its lease with its server.
    Renew,
    /// A client extends its lease with any server.
    Rebind,
    /// A server answers.
    Reply,
    /// A client gives addresses back.
    Release,
    /// A client found addresses in use.
    Decline,
    /// A server has news.
    Reconfigure,
    /// A client asks for all but addresses.
    InformationRequest,
    /// A relay forwards a client's message.
    RelayForward,
    /// A server answers a relay.
    RelayReply,
}

impl MessageType {
    const ALL: [Self; 13] = [
        Self::Solicit,
        Self::Advertise,
        Self::Request,
        Self::Confirm,
        Self::Renew,
        Self::Rebind,
        Self::Reply,
        Self::Release,
        Self::Decline,
        Self::Reconfigure,
        Self::InformationRequest,
        Self::RelayForward,
        Self::RelayReply,
    ];

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }
}

/// What became of a message or of an association (RFC 8415, 21.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Success,
    NoAddresses,
    NoBinding,
    NotOnLink,
    UseMulticast,
    NoPrefixes,
}

impl Status {
    const fn code(self) -> u16 {
        match self {
            Self::Success => 0,
            Self::NoAddresses => 2,
            Self::NoBinding => 3,
            Self::NotOnLink => 4,
            Self::UseMulticast => 5,
            Self::NoPrefixes => 6,
        }
    }
}

/// What an identity association is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Addresses (IA_NA; RFC 8415, 21.4).
    Addresses,
    /// Temporary addresses (IA_TA; 21.5).
    Temporary,
    /// Prefixes to hand on (IA_PD; 21.21).
    Prefixes,
}

/// The client's number of an association.
pub type AssociationId = [u8; 4];

/// An identity association: what a client asks for or has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Association {
    /// What it is for.
    pub purpose: Purpose,
    /// Its number.
    pub id: AssociationId,
    /// The addresses in it.
    pub addresses: Vec<Ipv6Addr>,
}

impl Association {
    fn parse(purpose: Purpose, value: &[u8]) -> Option<Self> {
        let (id, rest) = value.split_first_chunk()?;
        // All but IA_TA have two times behind the number.
        let options = match purpose {
            Purpose::Temporary => rest,
            Purpose::Addresses | Purpose::Prefixes => rest.get(8..)?,
        };
        let mut addresses = Vec::new();
        for option in Options::new(options)? {
            if option.0 == code::IA_ADDRESS {
                // Two lifetimes follow, and options.
                let (address, rest) = option.1.split_first_chunk::<16>()?;
                Options::new(rest.get(8..)?)?;
                addresses.push((*address).into());
            }
        }
        Some(Self {
            purpose,
            id: *id,
            addresses,
        })
    }
}

/// A client's message, as far as a server reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The kind.
    pub kind: MessageType,
    /// The client's number of this exchange.
    pub transaction: [u8; 3],
    /// The client's DUID.
    pub client: Option<Vec<u8>>,
    /// The server's DUID.
    pub server: Option<Vec<u8>>,
    /// What the client asks for or has.
    pub associations: Vec<Association>,
    /// The codes of options that the client asks for.
    pub requested_options: Option<Vec<u16>>,
    /// Whether the client wants addresses without asking twice.
    pub rapid_commit: bool,
    /// The first label of the client's name, as it came.
    pub host_name: Option<Vec<u8>>,
}

impl Request {
    /// Reads a message. `None` stands for one that no client may send: cut
    /// short, without a known type, with an option of the wrong length, or
    /// with more associations than any client has.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let ([kind, transaction @ ..], rest) = bytes.split_first_chunk::<HEADER>()?;
        let mut request = Self {
            kind: MessageType::from_code(*kind)?,
            transaction: *transaction,
            client: None,
            server: None,
            associations: Vec::new(),
            requested_options: None,
            rapid_commit: false,
            host_name: None,
        };
        // A relay's message has another form, and goes no further than this.
        if matches!(
            request.kind,
            MessageType::RelayForward | MessageType::RelayReply
        ) {
            return Some(request);
        }
        for (code, value) in Options::new(rest)? {
            request.take(code, value)?;
        }
        let addresses: usize = request
            .associations
            .iter()
            .map(|association| association.addresses.len())
            .sum();
        let few = request.associations.len() <= MOST_ASSOCIATIONS && addresses <= MOST_ADDRESSES;
        few.then_some(request)
    }

    fn take(&mut self, code: u16, value: &[u8]) -> Option<()> {
        let purpose = match code {
            code::CLIENT => return set_once(&mut self.client, duid(value)?),
            code::SERVER => return set_once(&mut self.server, duid(value)?),
            code::REQUESTED_OPTIONS => {
                let (codes, rest) = value.as_chunks();
                let codes = codes.iter().copied().map(u16::from_be_bytes);
                return rest
                    .is_empty()
                    .then(|| set_once(&mut self.requested_options, codes.collect()))?;
            }
            code::RAPID_COMMIT => {
                self.rapid_commit = true;
                return Some(());
            }
            code::FQDN => {
                // Flags, then the name in DNS form, whole or its first label
                // (RFC 4704, 4).
                let (_, name) = value.split_first()?;
                self.host_name = match name.split_first() {
                    Some((&length, rest)) => rest.get(..length.into()).map(<[u8]>::to_vec),
                    None => None,
                };
                return Some(());
            }
            code::IA_NA => Purpose::Addresses,
            code::IA_TA => Purpose::Temporary,
            code::IA_PD => Purpose::Prefixes,
            _ => return Some(()),
        };
        self.associations.push(Association::parse(purpose, value)?);
        Some(())
    }
}

/// Sets what a message may say once only.
fn set_once<T>(field: &mut Option<T>, value: T) -> Option<()> {
    field.is_none().then(|| *field = Some(value))
}

fn duid(value: &[u8]) -> Option<Vec<u8>> {
    DUID.contains(&value.len()).then(|| value.to_vec())
}

/// A row of whole options.
struct Options<'a>(&'a [u8]);

impl<'a> Options<'a> {
    /// The options that fill `bytes`; `None` if one is cut short.
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let mut walk = Self(bytes);
        walk.by_ref().for_each(drop);
        walk.0.is_empty().then_some(Self(bytes))
    }
}

impl<'a> Iterator for Options<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&[a, b, c, d], rest) = self.0.split_first_chunk()?;
        let length = u16::from_be_bytes([c, d]);
        let (value, rest) = rest.split_at_checked(length.into())?;
        self.0 = rest;
        Some((u16::from_be_bytes([a, b]), value))
    }
}

/// Options, composed one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// Starts the advertisement or reply to `request`.
    pub(super) fn message(request: &Request, advertise: bool) -> Self {
        let kind = if advertise { 2 } else { 7 };
        let [a, b, c] = request.transaction;
        Self(vec![kind, a, b, c])
    }

    /// Appends an option.
    pub(super) fn option(&mut self, code: u16, value: &[u8]) {
        let length = u16::try_from(value.len()).expect("options are a few hundred bytes long");
        self.0.extend(code.to_be_bytes());
        self.0.extend(length.to_be_bytes());
        self.0.extend_from_slice(value);
    }

    /// Appends a status, whose code says enough.
    pub(super) fn status(&mut self, status: Status) {
        self.option(code::STATUS, &status.code().to_be_bytes());
    }

    /// Appends an address with the seconds for which it is preferred and
    /// valid (RFC 8415, 21.6).
    pub(super) fn address(&mut self, address: Ipv6Addr, preferred: u32, valid: u32) {
        let mut value = address.octets().to_vec();
        value.extend(preferred.to_be_bytes());
        value.extend(valid.to_be_bytes());
        self.option(code::IA_ADDRESS, &value);
    }

    /// Appends an association with `options`, and the seconds after which the
    /// client is to renew and to rebind it.
    pub(super) fn association(&mut self, of: &Association, times: [u32; 2], options: &Self) {
        let (code, has_times) = match of.purpose {
            Purpose::Addresses => (code::IA_NA, true),
            Purpose::Temporary => (code::IA_TA, false),
            Purpose::Prefixes => (code::IA_PD, true),
        };
        let mut value = of.id.to_vec();
        if has_times {
            value.extend(times.into_iter().flat_map(u32::to_be_bytes));
        }
        value.extend_from_slice(&options.0);
        self.option(code, &value);
    }

    /// The bytes.
    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}
