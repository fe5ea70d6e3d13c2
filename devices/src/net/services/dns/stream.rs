//! Messages in a TCP connection: each has its length before it (RFC 1035,
//! 4.2.2; RFC 7766, 8).

/// The bytes of a length.
const PREFIX: usize = 2;

/// A message that is longer than its receiver takes. The connection is of no
/// use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of {0} bytes is longer than is taken")]
pub struct TooLong(pub usize);

/// Cuts a connection's bytes into messages. It never holds more than one.
#[derive(Clone, Debug)]
pub struct Messages {
    longest: usize,
    /// The length and the message, as far as they have come.
    partial: Vec<u8>,
}

impl Messages {
    /// Takes messages of up to `longest` bytes.
    pub fn new(longest: usize) -> Self {
        Self {
            longest,
            partial: Vec::new(),
        }
    }

    /// The next message, once it is whole; what was used is cut from the front
    /// of `bytes`. To be called until it says `None`.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<Vec<u8>>, TooLong> {
        if !self.fill(bytes, PREFIX) {
            return Ok(None);
        }
        let length = u16::from_be_bytes([self.partial[0], self.partial[1]]).into();
        if length > self.longest {
            return Err(TooLong(length));
        }
        if !self.fill(bytes, PREFIX + length) {
            return Ok(None);
        }
        let message = self.partial.split_off(PREFIX);
        self.partial = Vec::new();
        Ok(Some(message))
    }

    /// Takes from `bytes` until `count` are there.
    fn fill(&mut self, bytes: &mut &[u8], count: usize) -> bool {
        let missing = count.saturating_sub(self.partial.len());
        let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
        self.partial.extend_from_slice(taken);
        *bytes = rest;
        self.partial.len() >= count
    }
}

/// The message as it stands in a connection. Both parts go out in one write
/// (RFC 7766, 8). One of more than 65535 bytes doesn't exist.
pub fn framed(message: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(message.len()).ok()?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    Some(framed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_long_message_is_refused_before_it_has_come() {
        let mut messages = Messages::new(300);
        assert_eq!(messages.next(&mut &[1, 44][..]), Ok(None));
        let mut messages = Messages::new(299);
        assert_eq!(messages.next(&mut &[1, 44][..]), Err(TooLong(300)));
        assert_eq!(framed(&[0; 65536]), None);
    }

    proptest! {
        #[test]
        fn messages_come_whole_however_they_are_cut(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..6),
            cut in 1usize..50,
        ) {
            let bytes: Vec<u8> = messages.iter().flat_map(|message| framed(message).unwrap()).collect();
            let mut reader = Messages::new(39);
            let mut found = Vec::new();
            for mut part in bytes.chunks(cut) {
                while let Some(message) = reader.next(&mut part).unwrap() {
                    found.push(message);
                }
                prop_assert!(part.is_empty());
            }
            prop_assert_eq!(found, messages);
        }
    }
}
