//! The user's keys on their way to the guest, and the few meant for the
//! monitor: Ctrl-A X and its kin, as QEMU users know them.

/// Ctrl-A, which announces a key for the monitor.
const ESCAPE: u8 = 0x01;

/// What the user asks of the monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Ctrl-A X: end the machine at once.
    Quit,
    /// Ctrl-A P: press the power button.
    PowerButton,
    /// Ctrl-A H, or any other key: say what there is.
    Help,
}

/// What [`Request::Help`] prints.
pub const HELP: &str = "\r\nCtrl-A X  end the machine now\r\nCtrl-A P  press the power button\r\n\
                        Ctrl-A Ctrl-A  send Ctrl-A to the guest\r\n";

/// Takes the monitor's keys out of the stream.
#[derive(Debug, Default)]
pub struct Keyboard {
    escaped: bool,
}

impl Keyboard {
    /// Appends to `guest` what is for the guest. Returns the first request met.
    pub fn feed(&mut self, input: &[u8], guest: &mut Vec<u8>) -> Option<Request> {
        let mut request = None;
        for &byte in input {
            match (self.escaped, byte) {
                (false, ESCAPE) => {
                    self.escaped = true;
                    continue;
                }
                (false, byte) | (true, byte @ ESCAPE) => guest.push(byte),
                (true, b'x' | b'X') => request = request.or(Some(Request::Quit)),
                (true, b'p' | b'P') => request = request.or(Some(Request::PowerButton)),
                (true, _) => request = request.or(Some(Request::Help)),
            }
            self.escaped = false;
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_for_the_monitor_never_reach_the_guest() {
        for (input, guest, request) in [
            (&b"ls\n"[..], &b"ls\n"[..], None),
            (b"a\x01xb", b"ab", Some(Request::Quit)),
            (b"\x01X", b"", Some(Request::Quit)),
            (b"\x01p", b"", Some(Request::PowerButton)),
            (b"\x01?", b"", Some(Request::Help)),
            (b"\x01\x01", b"\x01", None),
            (b"\x01\x01x", b"\x01x", None),
        ] {
            let mut out = Vec::new();
            assert_eq!(
                Keyboard::default().feed(input, &mut out),
                request,
                "{input:?}"
            );
            assert_eq!(out, guest, "{input:?}");
        }
    }

    #[test]
    fn the_escape_is_remembered_between_reads() {
        let (mut keyboard, mut out) = (Keyboard::default(), Vec::new());
        assert_eq!(keyboard.feed(b"\x01", &mut out), None);
        assert_eq!(keyboard.feed(b"x", &mut out), Some(Request::Quit));
        assert!(out.is_empty());
    }
}
