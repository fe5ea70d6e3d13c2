//! A client's side of the protocol, written without the server's own parser.

use std::net::Ipv6Addr;

use super::super::Event;
use super::{SERVER, SOLICIT};

pub(super) fn option(code: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = code.to_be_bytes().to_vec();
    bytes.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
    bytes.extend(value);
    bytes
}

/// A client's message, option by option.
#[derive(Clone)]
pub(super) struct Message {
    pub(super) kind: u8,
    pub(super) client: u8,
    pub(super) options: Vec<u8>,
}

impl Message {
    /// One that names its client.
    pub(super) fn new(kind: u8, client: u8) -> Self {
        Self::nameless(kind, client).option(1, &[0, 3, 0, 1, 2, 0, 0, 0, 0, client])
    }

    pub(super) fn nameless(kind: u8, client: u8) -> Self {
        Self {
            kind,
            client,
            options: Vec::new(),
        }
    }

    pub(super) fn option(mut self, code: u16, value: &[u8]) -> Self {
        self.options.extend(option(code, value));
        self
    }

    pub(super) fn server(self) -> Self {
        self.option(2, &SERVER)
    }

    /// An IA_NA with addresses.
    pub(super) fn association(self, id: u8, addresses: &[Ipv6Addr]) -> Self {
        let mut value = vec![0, 0, 0, id, 0, 0, 0, 0, 0, 0, 0, 0];
        for address in addresses {
            let mut inner = address.octets().to_vec();
            inner.extend([0; 8]);
            value.extend(option(5, &inner));
        }
        self.option(3, &value)
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        [&[self.kind, 0xAA, 0xBB, self.client], &self.options[..]].concat()
    }
}

pub(super) fn solicit(client: u8) -> Message {
    Message::new(SOLICIT, client).association(1, &[])
}

pub(super) fn to_server(kind: u8, client: u8, addresses: &[Ipv6Addr]) -> Message {
    Message::new(kind, client)
        .server()
        .association(1, addresses)
}

/// Takes options apart without the server's own parser.
pub(super) fn options(mut rest: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut options = Vec::new();
    while !rest.is_empty() {
        let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        let code = u16::from_be_bytes([rest[0], rest[1]]);
        options.push((code, rest[4..4 + length].to_vec()));
        rest = &rest[4 + length..];
    }
    options
}

/// What an association got: addresses with both lifetimes, or a status.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) times: [u32; 2],
    pub(super) addresses: Vec<(Ipv6Addr, u32, u32)>,
    pub(super) status: Option<u8>,
}

/// A server's message.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) kind: u8,
    pub(super) options: Vec<(u16, Vec<u8>)>,
    pub(super) events: Vec<Event>,
}

pub(super) fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().unwrap())
}

impl Answer {
    pub(super) fn option(&self, code: u16) -> Option<&[u8]> {
        let found = self.options.iter().find(|(found, _)| *found == code);
        found.map(|(_, value)| &value[..])
    }

    pub(super) fn status(&self) -> Option<u8> {
        self.option(13).map(|status| status[1])
    }

    pub(super) fn given(&self) -> Vec<Given> {
        let associations = self.options.iter().filter(|(code, _)| *code == 3);
        associations
            .map(|(_, value)| {
                let inner = options(&value[12..]);
                let addresses = inner.iter().filter(|(code, _)| *code == 5);
                Given {
                    times: [number(&value[4..8]), number(&value[8..12])],
                    addresses: addresses
                        .map(|(_, value)| {
                            let octets: [u8; 16] = value[..16].try_into().unwrap();
                            (octets.into(), number(&value[16..20]), number(&value[20..]))
                        })
                        .collect(),
                    status: inner
                        .iter()
                        .find(|(code, _)| *code == 13)
                        .map(|(_, value)| value[1]),
                }
            })
            .collect()
    }

    pub(super) fn address(&self) -> Ipv6Addr {
        self.given()[0].addresses[0].0
    }
}
