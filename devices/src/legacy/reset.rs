//! The two ways a PC's software resets it: the reset control register and the
//! keyboard controller.

use crate::Action;
use crate::bus::BusDevice;

/// The keyboard controller's command and status port.
pub const KEYBOARD_COMMAND_PORT: u64 = 0x64;

const SYSTEM_RESET: u8 = 1 << 1;
const RESET_CPU: u8 = 1 << 2;

const PULSE_RESET_LINE: u8 = 0xfe;
const OUTPUT_BUFFER_FULL: u8 = 1;

/// The reset control register of Intel chipsets (ICH and later, 0xCF9): the
/// CPU's reset bit resets the machine, whatever the kind of reset.
///
/// It lies among the PCI configuration ports, whose device answers for it.
#[derive(Debug, Default)]
pub struct ResetControl {
    kind: u8,
}

impl ResetControl {
    /// Reads the register.
    pub fn read(&self) -> u8 {
        self.kind
    }

    /// Writes the register.
    pub fn write(&mut self, value: u8) -> Action {
        self.kind = value & SYSTEM_RESET;
        if value & RESET_CPU != 0 {
            Action::Reset
        } else {
            Action::None
        }
    }
}

/// What is left of the keyboard controller: its reset line.
///
/// The status is "output buffer full" for ever, with the input buffer empty.
/// So Linux, where it looks for a controller at all, gives up after sixteen
/// reads instead of a time-out of half a second; and where it resets through
/// the controller it does so at once instead of waiting for the input buffer.
#[derive(Debug, Default)]
pub struct KeyboardReset;

impl BusDevice for KeyboardReset {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(OUTPUT_BUFFER_FULL);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) -> Action {
        if data == [PULSE_RESET_LINE] {
            Action::Reset
        } else {
            Action::None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_cpu_reset_bit_resets() {
        for value in 0..=u8::MAX {
            let mut control = ResetControl::default();
            let expected = if value & 4 != 0 {
                Action::Reset
            } else {
                Action::None
            };
            assert_eq!(control.write(value), expected, "{value:#x}");
            assert_eq!(control.read(), value & 2);
        }
    }

    #[test]
    fn only_the_pulse_command_resets() {
        let mut keyboard = KeyboardReset;
        assert_eq!(keyboard.write(0, &[0xfe]), Action::Reset);
        assert_eq!(keyboard.write(0, &[0xff]), Action::None);
        assert_eq!(keyboard.write(0, &[0xfe, 0]), Action::None);
        let mut status = [0];
        keyboard.read(0, &mut status);
        assert_eq!(status, [1]);
    }
}
