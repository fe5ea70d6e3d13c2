//! The head of an answer of HTTP (RFC 1945, 6; RFC 9112, 4).

use thiserror::Error;

/// What is wrong with a head.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HeadError {
    /// The connection ended before the head did.
    #[error("the answer ends within its head")]
    Ended,
    /// No end of it came.
    #[error("the answer's head does not end")]
    TooLong,
    /// The first line isn't HTTP's.
    #[error("the answer does not start with HTTP/1 and a status")]
    Status,
    /// The body's length isn't a number, or is two.
    #[error("the answer's Content-Length is not one number")]
    Length,
    /// The body is encoded in a way that wasn't asked for.
    #[error("the answer has a Transfer-Encoding, which HTTP/1.0 does not know")]
    Encoding,
}

/// An answer's head, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// The status.
    pub(super) status: u16,
    /// The body's length in bytes, if it is told; else the connection's end
    /// is the body's.
    pub(super) length: Option<u64>,
}

/// Where the head in `bytes` ends, if it does: behind the first empty line.
pub(super) fn end(bytes: &[u8]) -> Option<usize> {
    let after = |pattern: &[u8]| {
        let at = bytes.windows(pattern.len()).position(|at| at == pattern);
        at.map(|at| at + pattern.len())
    };
    // Some servers end lines without a carriage return (RFC 9112, 2.2).
    match (after(b"\r\n\r\n"), after(b"\n\n")) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

impl Head {
    /// Reads a whole head.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, HeadError> {
        let mut lines = bytes.split(|byte| *byte == b'\n');
        let status = status(lines.next().unwrap_or_default()).ok_or(HeadError::Status)?;
        let mut length = None;
        for line in lines {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                continue;
            };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"Transfer-Encoding") {
                return Err(HeadError::Encoding);
            }
            if name.eq_ignore_ascii_case(b"Content-Length") {
                let number = number(value).ok_or(HeadError::Length)?;
                if length.is_some_and(|other| other != number) {
                    return Err(HeadError::Length);
                }
                length = Some(number);
            }
        }
        Ok(Self { status, length })
    }
}

/// The status in a line like `HTTP/1.0 200 OK`.
fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let (minor, rest) = rest.split_first()?;
    let digits = rest.strip_prefix(b" ")?.first_chunk::<3>()?;
    let next = rest.get(4).is_none_or(u8::is_ascii_whitespace);
    let status = number(digits).filter(|_| minor.is_ascii_digit() && next)?;
    u16::try_from(status).ok().filter(|status| *status >= 100)
}

fn number(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    let digits = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn heads_are_read() {
        let head = |status, length| Ok(Head { status, length });
        for (text, expected) in [
            ("HTTP/1.0 200 OK\r\n\r\n", head(200, None)),
            ("HTTP/1.1 404\r\n\r\n", head(404, None)),
            (
                "HTTP/1.1 200 OK\r\nServer: x\r\ncontent-LENGTH:  12 \r\n\r\n",
                head(200, Some(12)),
            ),
            ("HTTP/1.0 200 OK\nContent-Length: 0\n\n", head(200, Some(0))),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
                head(200, Some(1)),
            ),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                Err(HeadError::Length),
            ),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: -1\r\n\r\n",
                Err(HeadError::Length),
            ),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: \r\n\r\n",
                Err(HeadError::Length),
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                Err(HeadError::Encoding),
            ),
            ("HTTP/2 200\r\n\r\n", Err(HeadError::Status)),
            ("HTTP/1.0 20\r\n\r\n", Err(HeadError::Status)),
            ("HTTP/1.0 2000\r\n\r\n", Err(HeadError::Status)),
            ("HTTP/1.0 099 No\r\n\r\n", Err(HeadError::Status)),
            ("SSH-2.0-OpenSSH\r\n\r\n", Err(HeadError::Status)),
        ] {
            assert_eq!(end(text.as_bytes()), Some(text.len()), "{text:?}");
            assert_eq!(Head::parse(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn a_head_ends_with_its_first_empty_line() {
        assert_eq!(end(b"HTTP/1.0 200 OK\r\n\r\nbody\n\n"), Some(19));
        assert_eq!(end(b"a\n\nb\r\n\r\n"), Some(3));
        assert_eq!(end(b"HTTP/1.0 200 OK\r\n\r"), None);
    }

    proptest! {
        #[test]
        fn hostile_heads_are_survived(text in "(HTTP/1.[01]|[0-9: \r\n]|Content-Length|[a-z]){0,40}") {
            if let Ok(head) = Head::parse(text.as_bytes()) {
                prop_assert!((100..1000).contains(&head.status));
            }
            if let Some(end) = end(text.as_bytes()) {
                prop_assert!(end <= text.len());
            }
        }
    }
}
