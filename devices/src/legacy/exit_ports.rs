//! The two ports by which test kernels end their machine: QEMU's debug exit and
//! Bochs's shutdown port.

use crate::Action;
use crate::bus::BusDevice;

/// Where kernels look for the debug exit; one access of four bytes.
pub const DEBUG_EXIT_PORT: u64 = 0xF4;
/// Its length in ports.
pub const DEBUG_EXIT_PORTS: u64 = 4;
/// Bochs's shutdown port.
pub const SHUTDOWN_PORT: u64 = 0x8900;

/// What the guest writes, byte by byte, to the shutdown port.
const SHUTDOWN: &[u8] = b"Shutdown";

/// The debug exit: a write ends the run with the status `(value << 1) | 1`, of
/// which a process's exit status keeps eight bits. It is never zero, so that no
/// kernel takes its own end for a power-off.
#[derive(Debug, Default)]
pub struct DebugExit;

impl BusDevice for DebugExit {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Action {
        match data {
            [low, ..] if offset == 0 => Action::Exit(low << 1 | 1),
            _ => Action::None,
        }
    }
}

/// Bochs's shutdown port: the word `Shutdown` powers the machine off.
#[derive(Debug, Default)]
pub struct ShutdownPort {
    /// How much of the word has come.
    matched: usize,
}

impl BusDevice for ShutdownPort {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) -> Action {
        let expected = [SHUTDOWN[self.matched]];
        self.matched = match data {
            byte if byte == expected => self.matched + 1,
            byte => usize::from(byte == &SHUTDOWN[..1]),
        };
        if self.matched == SHUTDOWN.len() {
            self.matched = 0;
            Action::Shutdown
        } else {
            Action::None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_ends_the_run_with_its_status() {
        for (value, status) in [(0u32, 1), (1, 3), (0x10, 33), (0x7f, 0xff), (0x1ff, 0xff)] {
            let action = DebugExit.write(0, &value.to_le_bytes());
            assert_eq!(action, Action::Exit(status), "{value:#x}");
        }
        assert_eq!(DebugExit.write(0, &[2]), Action::Exit(5));
        assert_eq!(DebugExit.write(1, &[2]), Action::None);
        let mut data = [0; 4];
        DebugExit.read(0, &mut data);
        assert_eq!(data, [0xff; 4]);
    }

    /// Whether writing `text` byte by byte powers off with its last byte alone.
    fn shuts_down(text: &str) -> bool {
        let mut port = ShutdownPort::default();
        let actions: Vec<Action> = text.bytes().map(|byte| port.write(0, &[byte])).collect();
        let (last, before) = actions.split_last().unwrap();
        assert!(
            before.iter().all(|action| *action == Action::None),
            "{text}"
        );
        *last == Action::Shutdown
    }

    #[test]
    fn only_the_whole_word_shuts_down() {
        for text in ["Shutdown", "SShutdown", "ShutShutdown", "xyzShutdown"] {
            assert!(shuts_down(text), "{text}");
        }
        for text in ["shutdown", "Shut down", "Shutters", "ShutShut"] {
            assert!(!shuts_down(text), "{text}");
        }
        let mut port = ShutdownPort::default();
        assert_eq!(port.write(0, b"Shut"), Action::None);
    }
}
