//! The messages of vhost-user (QEMU's docs/interop/vhost-user.rst, "Message
//! Specification"): numbers in the machine's own byte order.

use std::os::fd::OwnedFd;

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The most regions of memory, and descriptors of one message.
pub(super) const MAX_REGIONS: usize = 32;

/// The longest payload: a table of so many regions.
pub(super) const MAX_PAYLOAD: usize = 8 + MAX_REGIONS * size_of::<Region>();

/// The longest part of a configuration space that is asked for
/// (VHOST_USER_MAX_CONFIG_SIZE).
const MAX_CONFIG: u32 = 256;

/// What stands before each payload.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Header {
    pub(super) code: u32,
    pub(super) flags: u32,
    /// The payload's length in bytes.
    pub(super) size: u32,
}

/// Header flags: the version, in the lowest two bits, then that it is a reply,
/// and that one is wanted.
const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
pub(super) const NEED_REPLY: u32 = 1 << 3;

bitflags! {
    /// Parts of the protocol that are negotiated (VHOST_USER_PROTOCOL_F_*).
    ///
    /// Not among them is that regions of memory come and go one by one: QEMU 7.2
    /// then adds the same once for each queue pair.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(super) struct ProtocolFeatures: u64 {
        /// Several queue pairs.
        const MQ = 1 << 0;
        /// Each request is answered if that is wanted.
        const REPLY_ACK = 1 << 3;
        /// The configuration space can be read.
        const CONFIG = 1 << 9;
    }
}

/// A message that isn't one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    #[error("message {code}: flags {flags:#x} aren't a request's of version 1")]
    Flags { code: u32, flags: u32 },
    #[error("message {code}: {size} bytes are not its length")]
    Size { code: u32, size: usize },
    #[error("message {code}: {found} descriptors come with it, not {expected}")]
    Descriptors {
        code: u32,
        found: usize,
        expected: usize,
    },
    #[error("message {code}: {value:#x} makes no sense there")]
    Value { code: u32, value: u64 },
    #[error("message {code} is unknown, or not among what was offered")]
    Unknown { code: u32 },
}

/// A region of the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Region {
    /// Where it is in the guest's physical memory.
    pub(super) guest: u64,
    pub(super) size: u64,
    /// Where the front end has it.
    pub(super) user: u64,
    /// Where it starts in its file.
    pub(super) offset: u64,
}

/// Where a ring's parts are in the front end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
}

/// What a front end asks for.
#[derive(Debug)]
pub(super) enum Request {
    GetFeatures,
    SetFeatures(u64),
    SetOwner,
    ResetOwner,
    SetMemory(Vec<(Region, OwnedFd)>),
    SetSize { ring: u32, size: u32 },
    SetAddresses { ring: u32, addresses: Addresses },
    SetBase { ring: u32, base: u32 },
    GetBase { ring: u32 },
    SetKick { ring: u32, kick: Option<OwnedFd> },
    SetCall { ring: u32, call: Option<OwnedFd> },
    SetError { ring: u32, error: Option<OwnedFd> },
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    GetQueueNum,
    Enable { ring: u32, enable: bool },
    GetConfig { offset: u32, size: u32, flags: u32 },
    SetConfig,
}

/// VHOST_USER_* requests.
mod code {
    pub(super) const GET_FEATURES: u32 = 1;
    pub(super) const SET_FEATURES: u32 = 2;
    pub(super) const SET_OWNER: u32 = 3;
    pub(super) const RESET_OWNER: u32 = 4;
    pub(super) const SET_MEM_TABLE: u32 = 5;
    pub(super) const SET_VRING_NUM: u32 = 8;
    pub(super) const SET_VRING_ADDR: u32 = 9;
    pub(super) const SET_VRING_BASE: u32 = 10;
    pub(super) const GET_VRING_BASE: u32 = 11;
    pub(super) const SET_VRING_KICK: u32 = 12;
    pub(super) const SET_VRING_CALL: u32 = 13;
    pub(super) const SET_VRING_ERR: u32 = 14;
    pub(super) const GET_PROTOCOL_FEATURES: u32 = 15;
    pub(super) const SET_PROTOCOL_FEATURES: u32 = 16;
    pub(super) const GET_QUEUE_NUM: u32 = 17;
    pub(super) const SET_VRING_ENABLE: u32 = 18;
    pub(super) const GET_CONFIG: u32 = 24;
    pub(super) const SET_CONFIG: u32 = 25;
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct VringState {
    ring: u32,
    value: u32,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct VringAddress {
    ring: u32,
    flags: u32,
    descriptors: u64,
    used: u64,
    available: u64,
    _log: u64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ConfigHead {
    offset: u32,
    size: u32,
    flags: u32,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct MemoryHead {
    count: u32,
    _padding: u32,
}

/// Of a ring's descriptor message: the ring, and that no descriptor is there.
const RING_MASK: u64 = 0xFF;
const NO_DESCRIPTOR: u64 = 1 << 8;

/// A received message: its number, its payload and its descriptors.
struct Message<'a> {
    code: u32,
    payload: &'a [u8],
    descriptors: Vec<OwnedFd>,
}

impl Request {
    /// The request of a message.
    pub(super) fn parse(
        header: &Header,
        payload: &[u8],
        descriptors: Vec<OwnedFd>,
    ) -> Result<Self, Error> {
        let &Header { code, flags, .. } = header;
        if flags & !NEED_REPLY != VERSION {
            return Err(Error::Flags { code, flags });
        }
        let message = Message {
            code,
            payload,
            descriptors,
        };
        Ok(match code {
            code::GET_FEATURES => message.empty(Self::GetFeatures)?,
            code::SET_FEATURES => Self::SetFeatures(message.body()?),
            code::SET_OWNER => message.empty(Self::SetOwner)?,
            code::RESET_OWNER => message.empty(Self::ResetOwner)?,
            code::SET_MEM_TABLE => Self::SetMemory(message.regions()?),
            code::SET_VRING_NUM => {
                let VringState { ring, value: size } = message.body()?;
                Self::SetSize { ring, size }
            }
            code::SET_VRING_ADDR => message.addresses()?,
            code::SET_VRING_BASE => {
                let VringState { ring, value: base } = message.body()?;
                Self::SetBase { ring, base }
            }
            code::GET_VRING_BASE => {
                let VringState { ring, .. } = message.body()?;
                Self::GetBase { ring }
            }
            code::SET_VRING_KICK => {
                let (ring, kick) = message.descriptor()?;
                Self::SetKick { ring, kick }
            }
            code::SET_VRING_CALL => {
                let (ring, call) = message.descriptor()?;
                Self::SetCall { ring, call }
            }
            code::SET_VRING_ERR => {
                let (ring, error) = message.descriptor()?;
                Self::SetError { ring, error }
            }
            code::GET_PROTOCOL_FEATURES => message.empty(Self::GetProtocolFeatures)?,
            code::SET_PROTOCOL_FEATURES => Self::SetProtocolFeatures(message.body()?),
            code::GET_QUEUE_NUM => message.empty(Self::GetQueueNum)?,
            code::SET_VRING_ENABLE => {
                let VringState { ring, value } = message.body()?;
                let enable = match value {
                    0 => false,
                    1 => true,
                    value => return Err(message.nonsense(value.into())),
                };
                Self::Enable { ring, enable }
            }
            code::GET_CONFIG => message.config()?,
            // Nothing in it can be written with the features that are offered.
            code::SET_CONFIG => Self::SetConfig,
            code => return Err(Error::Unknown { code }),
        })
    }
}

impl Message<'_> {
    fn bad_size(&self) -> Error {
        Error::Size {
            code: self.code,
            size: self.payload.len(),
        }
    }

    fn nonsense(&self, value: u64) -> Error {
        Error::Value {
            code: self.code,
            value,
        }
    }

    fn body<T: FromBytes>(&self) -> Result<T, Error> {
        T::read_from_bytes(self.payload).map_err(|_| self.bad_size())
    }

    fn empty(&self, request: Request) -> Result<Request, Error> {
        if self.payload.is_empty() {
            Ok(request)
        } else {
            Err(self.bad_size())
        }
    }

    /// Its descriptors, which must be so many.
    fn take<const N: usize>(self) -> Result<[OwnedFd; N], Error> {
        self.descriptors
            .try_into()
            .map_err(|found: Vec<_>| Error::Descriptors {
                code: self.code,
                found: found.len(),
                expected: N,
            })
    }

    /// A ring, and the descriptor for it, if there is to be one.
    fn descriptor(self) -> Result<(u32, Option<OwnedFd>), Error> {
        let value: u64 = self.body()?;
        if value & !(RING_MASK | NO_DESCRIPTOR) != 0 {
            return Err(self.nonsense(value));
        }
        let ring = u32::try_from(value & RING_MASK).expect("eight bits");
        if value & NO_DESCRIPTOR != 0 {
            let [] = self.take()?;
            return Ok((ring, None));
        }
        let [descriptor] = self.take()?;
        Ok((ring, Some(descriptor)))
    }

    fn regions(self) -> Result<Vec<(Region, OwnedFd)>, Error> {
        let (head, rest) =
            MemoryHead::read_from_prefix(self.payload).map_err(|_| self.bad_size())?;
        let regions = rest.chunks_exact(size_of::<Region>());
        let count = regions.len();
        let told = usize::try_from(head.count).unwrap_or(usize::MAX);
        if !regions.remainder().is_empty() || told != count || count > MAX_REGIONS {
            return Err(self.bad_size());
        }
        if self.descriptors.len() != count {
            return Err(Error::Descriptors {
                code: self.code,
                found: self.descriptors.len(),
                expected: count,
            });
        }
        let regions = regions.filter_map(|bytes| Region::read_from_bytes(bytes).ok());
        Ok(regions.zip(self.descriptors).collect())
    }

    fn addresses(&self) -> Result<Request, Error> {
        let address: VringAddress = self.body()?;
        // The only flag is for a log of writes, which isn't offered.
        if address.flags != 0 {
            return Err(self.nonsense(address.flags.into()));
        }
        Ok(Request::SetAddresses {
            ring: address.ring,
            addresses: Addresses {
                descriptors: address.descriptors,
                available: address.available,
                used: address.used,
            },
        })
    }

    fn config(&self) -> Result<Request, Error> {
        let (head, rest) =
            ConfigHead::read_from_prefix(self.payload).map_err(|_| self.bad_size())?;
        let ConfigHead {
            offset,
            size,
            flags,
        } = head;
        if size > MAX_CONFIG {
            return Err(self.nonsense(size.into()));
        }
        if usize::try_from(size) != Ok(rest.len()) {
            return Err(self.bad_size());
        }
        Ok(Request::GetConfig {
            offset,
            size,
            flags,
        })
    }
}

/// The payload of a reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Value(u64),
    Base {
        ring: u32,
        base: u16,
    },
    Config {
        offset: u32,
        flags: u32,
        data: Vec<u8>,
    },
}

impl Reply {
    /// The whole message that answers `request`.
    pub(super) fn bytes(&self, request: &Header) -> Vec<u8> {
        let mut payload = Vec::new();
        match self {
            Self::Value(value) => payload.extend(value.as_bytes()),
            Self::Base { ring, base } => {
                let state = VringState {
                    ring: *ring,
                    value: (*base).into(),
                };
                payload.extend(state.as_bytes());
            }
            Self::Config {
                offset,
                flags,
                data,
            } => {
                let head = ConfigHead {
                    offset: *offset,
                    size: length(data),
                    flags: *flags,
                };
                payload.extend(head.as_bytes());
                payload.extend(data);
            }
        }
        let header = Header {
            code: request.code,
            flags: VERSION | REPLY,
            size: length(&payload),
        };
        [header.as_bytes(), &payload].concat()
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("replies are short")
}
