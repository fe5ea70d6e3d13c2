//! What the host's error numbers mean.

use rustix::io::Errno;

use crate::net::nat::sockets::SocketError;

/// The longest packet of IP: the MTU of a datagram that is too long for any.
const MAX_PACKET: u32 = 65535;

/// What a call's error says.
pub(super) fn meaning(error: Errno) -> SocketError {
    match error {
        Errno::CONNREFUSED => SocketError::Refused,
        Errno::CONNRESET | Errno::PIPE => SocketError::Reset,
        Errno::TIMEDOUT => SocketError::TimedOut,
        Errno::HOSTUNREACH | Errno::HOSTDOWN => SocketError::HostUnreachable,
        Errno::NETUNREACH | Errno::NETDOWN | Errno::NONET => SocketError::NetUnreachable,
        Errno::NOPROTOOPT | Errno::PROTO => SocketError::ProtocolUnreachable,
        Errno::MSGSIZE => SocketError::TooBig(MAX_PACKET),
        Errno::AGAIN => SocketError::WouldBlock,
        Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::NOSPC => {
            SocketError::Exhausted
        }
        Errno::ADDRINUSE => SocketError::InUse,
        Errno::ADDRNOTAVAIL => SocketError::NoSuchAddress,
        Errno::ACCESS | Errno::PERM => SocketError::Prohibited,
        Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT | Errno::OPNOTSUPP => SocketError::Unsupported,
        other => SocketError::Other(other.raw_os_error()),
    }
}

/// Whether a call may fail so because of what was sent before.
pub(super) fn may_be_pending(error: Errno) -> bool {
    matches!(
        meaning(error),
        SocketError::Refused
            | SocketError::Reset
            | SocketError::TimedOut
            | SocketError::HostUnreachable
            | SocketError::NetUnreachable
            | SocketError::ProtocolUnreachable
            | SocketError::TooBig(_)
            | SocketError::Prohibited
            | SocketError::Unsupported
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_meanings() {
        for (number, expected) in [
            (libc::ECONNREFUSED, SocketError::Refused),
            (libc::EPIPE, SocketError::Reset),
            (libc::EMSGSIZE, SocketError::TooBig(65535)),
            (libc::EAGAIN, SocketError::WouldBlock),
            (libc::EMFILE, SocketError::Exhausted),
            (libc::EADDRINUSE, SocketError::InUse),
            (libc::EPERM, SocketError::Prohibited),
            (libc::EBADF, SocketError::Other(libc::EBADF)),
        ] {
            assert_eq!(meaning(Errno::from_raw_os_error(number)), expected);
        }
        assert!(may_be_pending(Errno::CONNREFUSED));
        assert!(!may_be_pending(Errno::AGAIN));
        assert!(!may_be_pending(Errno::BADF));
    }
}
