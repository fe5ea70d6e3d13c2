//! Messages of rtnetlink(7) and their answers.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{RecvFlags, SendFlags, recv, send};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Room for the description of one link.
const ANSWER: usize = 16 << 10;

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

/// A socket of NETLINK_ROUTE.
pub(super) struct Channel {
    socket: OwnedFd,
    seq: u32,
}

impl Channel {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, seq: 0 }
    }

    /// Has `request` carried out.
    pub(super) fn command(&mut self, mut request: Request) -> io::Result<()> {
        request.header.flags |= flags(libc::NLM_F_ACK);
        self.ask(request).map(drop)
    }

    /// Sends `request` and returns the body of its answer.
    pub(super) fn ask(&mut self, request: Request) -> io::Result<Vec<u8>> {
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
pub(super) struct Request {
    header: Header,
    body: Vec<u8>,
}

impl Request {
    /// A message of a kind, with flags besides that of all requests.
    pub(super) fn new(
        kind: u16,
        more: libc::c_int,
        message: &(impl IntoBytes + Immutable),
    ) -> Self {
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

    /// Appends an attribute.
    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) {
        append(&mut self.body, kind, value);
    }

    /// Appends an attribute whose value are attributes.
    pub(super) fn nested(&mut self, kind: u16, values: &[(u16, &[u8])]) {
        let mut nested = Vec::new();
        for (kind, value) in values {
            append(&mut nested, *kind, value);
        }
        self.attribute(kind, &nested);
    }

    fn finish(mut self, seq: u32) -> io::Result<Vec<u8>> {
        let len = size_of::<Header>() + self.body.len();
        self.header.len = u32::try_from(len).map_err(io::Error::other)?;
        self.header.seq = seq;
        Ok([self.header.as_bytes(), &self.body].concat())
    }
}

/// Appends struct rtattr with its value, padded to four bytes.
fn append(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(4 + value.len()).expect("a name, an address or a number");
    bytes.extend(len.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// The value of the first attribute of a kind.
pub(super) fn attribute(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
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

fn flags(flags: libc::c_int) -> u16 {
    u16::try_from(flags).expect("flags of netlink have 16 bits")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn attributes_are_found_again(
            values in proptest::collection::vec((1u16..9, proptest::collection::vec(any::<u8>(), 0..9)), 0..9),
        ) {
            let mut bytes = Vec::new();
            for (kind, value) in &values {
                append(&mut bytes, *kind, value);
            }
            for kind in 1..10 {
                let first = values.iter().find(|(of, _)| *of == kind);
                let first = first.map(|(_, value)| value.as_slice());
                prop_assert_eq!(attribute(&bytes, kind), first);
            }
        }

        #[test]
        fn attributes_that_lie_are_survived(
            bytes in proptest::collection::vec(any::<u8>(), 0..64),
            kind: u16,
        ) {
            let found = attribute(&bytes, kind);
            prop_assert!(found.is_none_or(|value| value.len() < bytes.len()));
        }
    }
}
