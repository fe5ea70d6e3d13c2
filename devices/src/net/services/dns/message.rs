//! The format of DNS messages (RFC 1035, 4; RFC 6891), as far as a forwarder
//! and a client need it: what passes through is never taken apart further than its
//! question, so that it stays as it is.

use std::net::IpAddr;

/// The header's length.
pub(super) const HEADER: usize = 12;

/// The longest name with the lengths of its labels (RFC 1035, 2.3.4).
pub(super) const LONGEST_NAME: usize = 255;

/// The most that a datagram without EDNS carries (RFC 1035, 4.2.1).
pub(super) const SHORTEST_DATAGRAM: u16 = 512;

/// The UDP payload that our own EDNS options name: what goes through every
/// link (RFC 9715, 3.1).
const OUR_DATAGRAM: u16 = 1232;

/// Types of records (IANA, DNS parameters).
pub(super) mod kind {
    pub(crate) const A: u16 = 1;
    pub(crate) const CNAME: u16 = 5;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const OPT: u16 = 41;
    pub(crate) const IXFR: u16 = 251;
    pub(crate) const AXFR: u16 = 252;
    pub(crate) const ANY: u16 = 255;
}

/// The class of the Internet.
pub(super) const CLASS_IN: u16 = 1;

/// Bits of the header's second word (RFC 1035, 4.1.1; RFC 4035, 3).
mod flag {
    pub(super) const RESPONSE: u16 = 0x8000;
    pub(super) const OPCODE: u16 = 0x7800;
    pub(super) const AUTHORITATIVE: u16 = 0x0400;
    pub(super) const TRUNCATED: u16 = 0x0200;
    pub(super) const RECURSION_DESIRED: u16 = 0x0100;
    pub(super) const RECURSION_AVAILABLE: u16 = 0x0080;
    pub(super) const CHECKING_DISABLED: u16 = 0x0010;
    pub(super) const RCODE: u16 = 0x000F;
}

/// The OPT record's bit for DNSSEC (RFC 3225, 3).
const DNSSEC_OK: u16 = 0x8000;

/// What became of a query (RFC 1035, 4.1.1; RFC 6891, 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rcode {
    NoError,
    FormatError,
    ServerFailure,
    NameError,
    NotImplemented,
    Refused,
    BadVersion,
}

impl Rcode {
    pub(super) const fn code(self) -> u16 {
        match self {
            Self::NoError => 0,
            Self::FormatError => 1,
            Self::ServerFailure => 2,
            Self::NameError => 3,
            Self::NotImplemented => 4,
            Self::Refused => 5,
            Self::BadVersion => 16,
        }
    }
}

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    id: u16,
    flags: u16,
    /// Questions, answers, authorities, additional records.
    counts: [u16; 4],
}

impl Header {
    fn parse(message: &[u8]) -> Option<Self> {
        let words = message.first_chunk::<HEADER>()?.as_chunks::<2>().0;
        let word = |at: usize| u16::from_be_bytes(words[at]);
        Some(Self {
            id: word(0),
            flags: word(1),
            counts: [word(2), word(3), word(4), word(5)],
        })
    }

    fn bytes(&self) -> [u8; HEADER] {
        let [a, b, c, d] = self.counts;
        let mut bytes = [0; HEADER];
        for (at, word) in [self.id, self.flags, a, b, c, d].into_iter().enumerate() {
            bytes[2 * at..][..2].copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}

/// What a query's OPT record says (RFC 6891, 6.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edns {
    version: u8,
    dnssec_ok: bool,
}

/// A query that asks one question.
#[derive(Clone, Debug)]
pub(super) struct Query<'a> {
    header: Header,
    /// The name asked for, label by label.
    pub(super) labels: Vec<&'a [u8]>,
    /// The type asked for.
    pub(super) kind: u16,
    /// The class asked for.
    pub(super) class: u16,
    question: &'a [u8],
    edns: Option<Edns>,
}

/// Why a message is no query that can be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Not a query: answering it could go round in circles.
    NotAQuery,
    /// A query that is to be answered with this code.
    Answer(Rcode),
}

impl<'a> Query<'a> {
    /// Reads a query.
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, Fault> {
        let header = Header::parse(message).ok_or(Fault::NotAQuery)?;
        if header.flags & flag::RESPONSE != 0 {
            return Err(Fault::NotAQuery);
        }
        if header.flags & flag::OPCODE != 0 {
            return Err(Fault::Answer(Rcode::NotImplemented));
        }
        Self::parse_body(header, message).ok_or(Fault::Answer(Rcode::FormatError))
    }

    fn parse_body(header: Header, message: &'a [u8]) -> Option<Self> {
        // One question, no more and no less (RFC 9619, 4).
        if header.counts[0] != 1 {
            return None;
        }
        let mut reader = Reader(message.get(HEADER..)?);
        let whole = reader.0;
        let labels = reader.labels()?;
        let (kind, class) = (reader.word()?, reader.word()?);
        let question = &whole[..whole.len() - reader.0.len()];
        let records: u32 = header.counts[1..]
            .iter()
            .map(|count| u32::from(*count))
            .sum();
        let mut edns = None;
        for _ in 0..records {
            let record = reader.record()?;
            if record.kind == kind::OPT {
                // More than one is an error (RFC 6891, 6.1.1).
                if edns.is_some() {
                    return None;
                }
                edns = Some(Edns {
                    version: record.ttl.to_be_bytes()[1],
                    dnssec_ok: record.ttl & u32::from(DNSSEC_OK) != 0,
                });
            }
        }
        Some(Self {
            header,
            labels,
            kind,
            class,
            question,
            edns,
        })
    }

    /// The client's number of the query.
    pub(super) fn id(&self) -> u16 {
        self.header.id
    }

    /// The question as it stands in the message.
    pub(super) fn question(&self) -> &'a [u8] {
        self.question
    }

    /// Whether the query is of a version of EDNS that nobody knows yet.
    pub(super) fn is_of_unknown_version(&self) -> bool {
        self.edns.is_some_and(|edns| edns.version != 0)
    }

    /// Composes an answer of our own.
    pub(super) fn reply(&self, rcode: Rcode, answers: &[Record]) -> Vec<u8> {
        self.compose(rcode, answers, flag::AUTHORITATIVE)
    }

    /// Composes a failure, which says nothing about the name.
    pub(super) fn failure(&self, rcode: Rcode) -> Vec<u8> {
        self.compose(rcode, &[], 0)
    }

    /// Composes the answer that sends the client to TCP (RFC 2181, 9).
    pub(super) fn truncated(&self) -> Vec<u8> {
        self.compose(Rcode::NoError, &[], flag::TRUNCATED)
    }

    fn compose(&self, rcode: Rcode, answers: &[Record], flags: u16) -> Vec<u8> {
        let code = rcode.code();
        let kept = flag::RECURSION_DESIRED | flag::CHECKING_DISABLED;
        let header = Header {
            id: self.header.id,
            flags: flag::RESPONSE
                | flag::RECURSION_AVAILABLE
                | flags
                | self.header.flags & kept
                | code & flag::RCODE,
            counts: [
                1,
                u16::try_from(answers.len()).expect("answers are counted in tens"),
                0,
                u16::from(self.edns.is_some()),
            ],
        };
        let mut reply = header.bytes().to_vec();
        reply.extend_from_slice(self.question);
        for record in answers {
            record.write(&mut reply);
        }
        if let Some(edns) = self.edns {
            // The root's name; the time to live is the upper part of the
            // code, the version 0, and flags (RFC 6891, 6.1.3).
            reply.push(0);
            reply.extend(kind::OPT.to_be_bytes());
            reply.extend(OUR_DATAGRAM.to_be_bytes());
            reply.extend([u8::try_from(code >> 4).unwrap_or(0), 0]);
            let flags = if edns.dnssec_ok { DNSSEC_OK } else { 0 };
            reply.extend(flags.to_be_bytes());
            reply.extend([0, 0]);
        }
        reply
    }
}

/// The answer to a query that isn't understood: as much of its header as is
/// needed to know it again.
pub(super) fn rejection(message: &[u8], rcode: Rcode) -> Option<Vec<u8>> {
    let header = Header::parse(message)?;
    let kept = flag::OPCODE | flag::RECURSION_DESIRED;
    let reply = Header {
        id: header.id,
        flags: flag::RESPONSE | header.flags & kept | rcode.code() & flag::RCODE,
        counts: [0; 4],
    };
    Some(reply.bytes().to_vec())
}

/// Puts `id` into `message`.
pub(super) fn set_id(message: &mut [u8], id: u16) {
    if let Some(field) = message.first_chunk_mut() {
        *field = id.to_be_bytes();
    }
}

/// Whether `message` answers the query with this id and question (RFC 5452,
/// 9.1). Servers may change the case of letters.
pub(super) fn is_answer(message: &[u8], id: u16, question: &[u8]) -> bool {
    let Some(header) = Header::parse(message) else {
        return false;
    };
    if header.id != id || header.flags & (flag::RESPONSE | flag::OPCODE) != flag::RESPONSE {
        return false;
    }
    match header.counts[0] {
        // A server that fails may leave the question out, or not have read it.
        0 => {
            let code = header.flags & flag::RCODE;
            code != Rcode::NoError.code() && code != Rcode::NameError.code()
        }
        1 => message
            .get(HEADER..HEADER + question.len())
            .is_some_and(|answered| answered.eq_ignore_ascii_case(question)),
        _ => false,
    }
}

/// The code of an answer, whether it is truncated, and how many records answer
/// the question.
pub(super) fn summary(message: &[u8]) -> Option<(u16, bool, u16)> {
    let header = Header::parse(message)?;
    let truncated = header.flags & flag::TRUNCATED != 0;
    Some((header.flags & flag::RCODE, truncated, header.counts[1]))
}

/// A record about the name that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    kind: u16,
    ttl: u32,
    data: Vec<u8>,
}

impl Record {
    /// An address of the name.
    pub(super) fn address(address: IpAddr, ttl: u32) -> Self {
        let (kind, data) = match address {
            IpAddr::V4(address) => (kind::A, address.octets().to_vec()),
            IpAddr::V6(address) => (kind::AAAA, address.octets().to_vec()),
        };
        Self { kind, ttl, data }
    }

    /// The name of the address, in wire form.
    pub(super) fn pointer(name: Vec<u8>, ttl: u32) -> Self {
        Self {
            kind: kind::PTR,
            ttl,
            data: name,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        // The name in the question (RFC 1035, 4.1.4).
        let name = 0xC000 | 12u16;
        let length = u16::try_from(self.data.len()).expect("an address or a name is short");
        for word in [name, self.kind, CLASS_IN] {
            out.extend(word.to_be_bytes());
        }
        out.extend(self.ttl.to_be_bytes());
        out.extend(length.to_be_bytes());
        out.extend_from_slice(&self.data);
    }
}

/// What is left of a message to read.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

/// A record, but for its name.
pub(super) struct Raw<'a> {
    pub(super) kind: u16,
    ttl: u32,
    pub(super) data: &'a [u8],
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn word(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// A name that isn't compressed: nothing stands before the question that
    /// it could point to.
    fn labels(&mut self) -> Option<Vec<&'a [u8]>> {
        let mut labels = Vec::new();
        let mut length = 1;
        loop {
            let [count] = self.array()?;
            match usize::from(count) {
                0 => return Some(labels),
                count @ 1..=63 => {
                    length += count + 1;
                    if length > LONGEST_NAME {
                        return None;
                    }
                    labels.push(self.bytes(count)?);
                }
                _ => return None,
            }
        }
    }

    /// Skips a name that may be compressed.
    fn skip_name(&mut self) -> Option<()> {
        loop {
            let [count] = self.array()?;
            match count {
                0 => return Some(()),
                1..=63 => _ = self.bytes(count.into())?,
                // A pointer ends the name.
                0xC0..=0xFF => return self.bytes(1).map(|_| ()),
                _ => return None,
            }
        }
    }

    pub(super) fn record(&mut self) -> Option<Raw<'a>> {
        self.skip_name()?;
        let kind = self.word()?;
        self.word()?;
        let ttl = u32::from_be_bytes(self.array()?);
        let length = self.word()?;
        let data = self.bytes(length.into())?;
        Some(Raw { kind, ttl, data })
    }
}
