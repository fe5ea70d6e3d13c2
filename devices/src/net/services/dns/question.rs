//! The client's side of DNS: a question about a name's addresses, and what an
//! answer says (RFC 1035, 4; RFC 3596).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::{encode_name, is_domain};
use super::message::{CLASS_IN, HEADER, LONGEST_NAME, Rcode, Reader, is_answer, kind, summary};

/// Asks for recursion (RFC 1035, 4.1.1: RD), with one question.
const FLAGS_AND_COUNTS: [u8; HEADER - 2] = [1, 0, 0, 1, 0, 0, 0, 0, 0, 0];

/// The most aliases that lead from a name to its addresses.
const LONGEST_CHAIN: usize = 8;

/// The most addresses that are kept.
const MOST_ADDRESSES: usize = 32;

/// Addresses of which family are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4: records of type A.
    V4,
    /// IPv6: records of type AAAA.
    V6,
}

/// A question about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    id: u16,
    family: Family,
    message: Vec<u8>,
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The name's addresses of the family that was asked for; none if it has
    /// others only.
    Addresses(Vec<IpAddr>),
    /// There is no such name.
    NoSuchName,
    /// The server failed, or refused, with this code (RFC 1035, 4.1.1).
    Failed(u8),
    /// The answer didn't fit its datagram.
    Truncated,
    /// The answer makes no sense.
    Malformed,
}

impl Question {
    /// Asks for the addresses of `name`, with an id that should be hard to
    /// guess (RFC 5452, 9.2). None if `name` isn't a host's: a dot at its end
    /// may be there or not.
    pub fn new(id: u16, name: &str, family: Family) -> Option<Self> {
        let name = name.strip_suffix('.').unwrap_or(name);
        if !is_domain(name) {
            return None;
        }
        let kind = match family {
            Family::V4 => kind::A,
            Family::V6 => kind::AAAA,
        };
        let mut message = id.to_be_bytes().to_vec();
        message.extend(FLAGS_AND_COUNTS);
        message.extend(encode_name(name));
        message.extend(kind.to_be_bytes());
        message.extend(CLASS_IN.to_be_bytes());
        Some(Self {
            id,
            family,
            message,
        })
    }

    /// The message that asks it.
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// What `message` answers; `None` if it answers something else.
    pub fn answer(&self, message: &[u8]) -> Option<Answer> {
        if !is_answer(message, self.id, &self.message[HEADER..]) {
            return None;
        }
        let (code, truncated, answers) = summary(message)?;
        if code == Rcode::NameError.code() {
            return Some(Answer::NoSuchName);
        }
        if code != Rcode::NoError.code() {
            return Some(Answer::Failed(code.to_be_bytes()[1]));
        }
        if truncated {
            return Some(Answer::Truncated);
        }
        let records = self.records(message, answers);
        Some(records.map_or(Answer::Malformed, |records| {
            Answer::Addresses(self.addresses(&records))
        }))
    }

    /// The records of an answer that lead to addresses.
    fn records(&self, message: &[u8], count: u16) -> Option<Vec<Found>> {
        let mut reader = Reader(message.get(self.message.len()..)?);
        let mut records = Vec::new();
        for _ in 0..count {
            let owner = name_at(message, message.len() - reader.0.len())?;
            let record = reader.record()?;
            let value = match record.kind {
                kind::CNAME => {
                    let at = message.len() - reader.0.len() - record.data.len();
                    Value::Alias(name_at(message, at)?)
                }
                kind::A => {
                    let octets: [u8; 4] = record.data.try_into().ok()?;
                    Value::Address(Ipv4Addr::from(octets).into())
                }
                kind::AAAA => {
                    let octets: [u8; 16] = record.data.try_into().ok()?;
                    Value::Address(Ipv6Addr::from(octets).into())
                }
                _ => continue,
            };
            records.push(Found { owner, value });
        }
        Some(records)
    }

    /// Follows the aliases of the name that was asked for.
    fn addresses(&self, records: &[Found]) -> Vec<IpAddr> {
        let mut name = name_at(&self.message, HEADER).unwrap_or_default();
        for _ in 0..LONGEST_CHAIN {
            let alias = records.iter().find_map(|record| match &record.value {
                Value::Alias(target) if record.owner == name => Some(target),
                _ => None,
            });
            match alias {
                Some(target) => name.clone_from(target),
                None => break,
            }
        }
        let own = records.iter().filter(|record| record.owner == name);
        let addresses = own.filter_map(|record| match record.value {
            Value::Address(address) => Some(address),
            Value::Alias(_) => None,
        });
        addresses
            .filter(|address| address.is_ipv4() == (self.family == Family::V4))
            .take(MOST_ADDRESSES)
            .collect()
    }
}

/// A record that was found in an answer.
struct Found {
    /// Whose it is.
    owner: Vec<u8>,
    value: Value,
}

enum Value {
    Alias(Vec<u8>),
    Address(IpAddr),
}

/// The name that starts at `at`, which may be compressed (RFC 1035, 4.1.4), in
/// lower case and wire form.
fn name_at(message: &[u8], mut at: usize) -> Option<Vec<u8>> {
    let mut name = Vec::new();
    loop {
        let count = *message.get(at)?;
        match count {
            0 => {
                name.push(0);
                return Some(name);
            }
            1..=63 => {
                let end = at + 1 + usize::from(count);
                name.extend_from_slice(message.get(at..end)?);
                // The root's label is still to come.
                if name.len() >= LONGEST_NAME {
                    return None;
                }
                name.make_ascii_lowercase();
                at = end;
            }
            0xC0..=0xFF => {
                let target = u16::from_be_bytes([count & 0x3F, *message.get(at + 1)?]);
                // What was said before, so that it can't go round in circles.
                if usize::from(target) >= at {
                    return None;
                }
                at = target.into();
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests;
