//! A resolver of DNS: just enough of RFC 1035 to tell what became of a query.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use super::server::Server;

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// In a connection.
    Tcp,
}

/// What was asked, in the order in which it came.
type Asked = Arc<Mutex<Vec<(Transport, String)>>>;

/// A resolver at work. By the first label of a name it answers:
/// - `who` with its own address,
/// - `missing` with NXDOMAIN and a record in the authority section,
/// - `broken` with SERVFAIL, and why, to who knows EDNS (RFC 8914),
/// - `long` with many texts, in a connection only,
/// - `silent` never.
pub struct Resolver {
    asked: Asked,
    _servers: [Server; 2],
}

/// The texts of a long answer: more than fits in a datagram anywhere.
const TEXTS: u8 = 200;

mod flag {
    /// A response, recursion desired and available.
    pub(super) const ANSWER: u16 = 0x8180;
    pub(super) const TRUNCATED: u16 = 0x0200;
    pub(super) const SERVFAIL: u16 = 2;
    pub(super) const NXDOMAIN: u16 = 3;
}

mod kind {
    pub(super) const A: u16 = 1;
    pub(super) const SOA: u16 = 6;
    pub(super) const TXT: u16 = 16;
    pub(super) const AAAA: u16 = 28;
    pub(super) const OPT: u16 = 41;
}

impl Resolver {
    /// A resolver at an address and port, by UDP and TCP.
    #[must_use]
    pub fn start(address: &str) -> Self {
        let own: SocketAddr = address.parse().expect("an address and a port");
        let asked = Asked::default();
        let by_udp = asked.clone();
        let by_tcp = asked.clone();
        let datagrams = Server::udp(address, move |query| {
            answer(Transport::Udp, own.ip(), query, &by_udp)
        });
        let connections = Server::tcp(address, move |mut stream| {
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut query = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut query)?;
            let reply = answer(Transport::Tcp, own.ip(), &query, &by_tcp).unwrap_or_default();
            let length = u16::try_from(reply.len()).expect("replies are short");
            stream.write_all(&[&length.to_be_bytes(), &reply[..]].concat())
        });
        Self {
            asked,
            _servers: [datagrams, connections],
        }
    }

    /// What it was asked so far.
    ///
    /// # Panics
    /// If it panicked.
    #[must_use]
    pub fn asked(&self) -> Vec<(Transport, String)> {
        self.asked.lock().expect("nobody panics with it").clone()
    }
}

/// A query, taken apart.
struct Query<'a> {
    bytes: &'a [u8],
    name: String,
    kind: u16,
    /// Where its question ends.
    end: usize,
    /// The flags of EDNS, if it knows that.
    edns: Option<u16>,
}

impl<'a> Query<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut labels = Vec::new();
        let mut at = 12;
        loop {
            let length = usize::from(*bytes.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            let label = bytes.get(at..at + length)?;
            labels.push(String::from_utf8_lossy(label).to_lowercase());
            at += length;
        }
        let number = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
        let (wanted, end) = (number(at)?, at + 4);
        // An OPT record: no name, its type, a size, a code and version, flags.
        let edns = number(end + 1).filter(|found| *found == kind::OPT);
        Some(Self {
            bytes,
            name: labels.join("."),
            kind: wanted,
            end,
            edns: edns.and_then(|_| number(end + 7)),
        })
    }

    /// The answer with these flags and sections.
    fn answer(
        &self,
        flags: u16,
        answers: &[Vec<u8>],
        authority: &[Vec<u8>],
        options: &[u8],
    ) -> Vec<u8> {
        let mut bytes = self.bytes[..2].to_vec();
        let additional = u16::from(self.edns.is_some());
        let count = |records: &[Vec<u8>]| u16::try_from(records.len()).expect("a few");
        let head = [
            flag::ANSWER | flags,
            1,
            count(answers),
            count(authority),
            additional,
        ];
        bytes.extend(head.iter().flat_map(|field| field.to_be_bytes()));
        bytes.extend(&self.bytes[12..self.end]);
        bytes.extend(answers.iter().chain(authority).flatten());
        if let Some(flags) = self.edns {
            bytes.extend([0, 0, 41, 0x04, 0xD0, 0, 0]);
            bytes.extend(flags.to_be_bytes());
            bytes.extend(u16::try_from(options.len()).expect("short").to_be_bytes());
            bytes.extend(options);
        }
        bytes
    }
}

/// A record about the name that was asked for, for an hour.
fn record(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xC0, 12];
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1, 0, 0, 0x0E, 0x10]);
    bytes.extend(u16::try_from(value.len()).expect("short").to_be_bytes());
    bytes.extend(value);
    bytes
}

fn answer(transport: Transport, own: IpAddr, query: &[u8], asked: &Asked) -> Option<Vec<u8>> {
    let query = Query::parse(query)?;
    let name = query.name.clone();
    asked
        .lock()
        .expect("nobody panics with it")
        .push((transport, name));
    let found = match query.name.split('.').next()? {
        "silent" => return None,
        "missing" => {
            // Names of one byte, and five times of zero.
            let authority = record(kind::SOA, &[0; 22]);
            query.answer(flag::NXDOMAIN, &[], &[authority], &[])
        }
        "broken" => {
            // Extended error 18: prohibited.
            let why = [&[0, 15, 0, 8, 0, 18][..], b"closed"].concat();
            query.answer(flag::SERVFAIL, &[], &[], &why)
        }
        "long" if transport == Transport::Udp => query.answer(flag::TRUNCATED, &[], &[], &[]),
        "long" => {
            let text = |number: u8| [&[101, number][..], &[b'x'; 100]].concat();
            let texts: Vec<_> = (0..TEXTS)
                .map(|at| record(kind::TXT, &text(b'0' + at % 10)))
                .collect();
            query.answer(0, &texts, &[], &[])
        }
        _ => {
            let records = match (own, query.kind) {
                (IpAddr::V4(own), kind::A) => vec![record(kind::A, &own.octets())],
                (IpAddr::V6(own), kind::AAAA) => vec![record(kind::AAAA, &own.octets())],
                _ => Vec::new(),
            };
            query.answer(0, &records, &[], &[])
        }
    };
    Some(found)
}
