//! The conversation with a front end.

use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recvmsg,
};
use zerocopy::IntoBytes;

use super::message::{
    self, Header, MAX_PAYLOAD, MAX_REGIONS, NEED_REPLY, ProtocolFeatures, Reply, Request,
};
use super::session::{self, Session};

/// What ends a conversation, apart from the front end itself.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It can't be heard or answered.
    #[error("its socket: {0}")]
    Socket(#[from] io::Error),
    /// It doesn't speak the protocol.
    #[error(transparent)]
    Message(#[from] message::Error),
    /// It wants what can't be.
    #[error(transparent)]
    Request(#[from] session::Error),
}

/// Serves a front end until it goes.
pub(super) fn serve(stream: &Arc<UnixStream>, mut session: Session) -> Result<(), Error> {
    while let Some((header, descriptors)) = receive_header(stream)? {
        let size = usize::try_from(header.size).unwrap_or(usize::MAX);
        let mut payload = [0; MAX_PAYLOAD];
        let Some(payload) = payload.get_mut(..size) else {
            let code = header.code;
            return Err(message::Error::Size { code, size }.into());
        };
        (&**stream).read_exact(payload)?;
        let request = Request::parse(&header, payload, descriptors)?;
        let handled = session.handle(request);
        // With the protocol's features known, a request that has no reply of
        // its own is answered if that is wanted.
        let acknowledge = header.flags & NEED_REPLY != 0
            && session.protocol().contains(ProtocolFeatures::REPLY_ACK);
        let reply = match &handled {
            Ok(Some(reply)) => Some(reply.bytes(&header)),
            Ok(None) if acknowledge => Some(Reply::Value(0).bytes(&header)),
            Err(_) if acknowledge => Some(Reply::Value(1).bytes(&header)),
            _ => None,
        };
        if let Some(reply) = reply {
            send(stream, &reply)?;
        }
        handled?;
    }
    Ok(())
}

/// The next message's header, and the descriptors that come with it; none when
/// the front end is gone.
fn receive_header(stream: &UnixStream) -> io::Result<Option<(Header, Vec<OwnedFd>)>> {
    let mut header = Header {
        code: 0,
        flags: 0,
        size: 0,
    };
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_REGIONS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut buffers = [IoSliceMut::new(header.as_mut_bytes())];
        match recvmsg(stream, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            result => break result?,
        }
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        let what = format!("more than {MAX_REGIONS} descriptors with one message");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    // Descriptors come with a message's first byte.
    let mut stream = stream;
    stream.read_exact(&mut header.as_mut_bytes()[received.bytes..])?;
    Ok(Some((header, descriptors)))
}

/// Sends a message. SIGPIPE is never raised.
fn send(stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::net::send(stream, bytes, SendFlags::NOSIGNAL) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
