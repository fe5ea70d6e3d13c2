//! The ACPI fixed hardware: power button, sleep control and timer (ACPI 6.5,
//! 4.8.3).

use std::time::{Duration, Instant};

use nestling_arch::layout;
use vmm_sys_util::eventfd::EventFd;

use crate::Action;
use crate::bus::BusDevice;

/// The PM1a control block from the first port: 2 bytes. Before it is the event
/// block, 2 bytes of status and 2 of enable.
const PM1A_CONTROL_OFFSET: u64 = layout::PM1A_CONTROL_PORT as u64 - layout::PM1A_EVENT_PORT as u64;

/// The timer's frequency in hertz (ACPI 6.5, 4.8.3.3).
const PM_TIMER_HZ: u128 = 3_579_545;

/// Timer, global lock, power button, sleep button, clock (ACPI 6.5, 4.8.4.1.2).
/// All can be enabled, as a driver checks; the power button alone ever happens.
const ENABLE_MASK: u16 = 0x0721;
const POWER_BUTTON: u16 = 1 << 8;

const CONTROL_SCI_ENABLE: u16 = 1;
const CONTROL_SLEEP_TYPE_SHIFT: u16 = 10;
const CONTROL_SLEEP_TYPE_MASK: u16 = 7 << CONTROL_SLEEP_TYPE_SHIFT;
const CONTROL_SLEEP_ENABLE: u16 = 1 << 13;
/// Bus master reload and the sleep type stay as written.
const CONTROL_KEPT: u16 = CONTROL_SLEEP_TYPE_MASK | 2;

/// The PM1a event and control blocks and the PM timer.
///
/// The machine is in ACPI mode from the start: SCI_EN is always set, and the
/// FADT names no SMI command port. The interrupt is pulsed when an enabled
/// event happens, and again when the guest has acknowledged or enabled something
/// while an enabled event is pending. On a level-triggered line a press while
/// the guest still serves the one before becomes part of it.
pub struct AcpiPm {
    sci: EventFd,
    status: u16,
    enable: u16,
    control: u16,
    start: Instant,
}

impl AcpiPm {
    /// The registers of a machine just powered on, which signals `sci`.
    pub fn new(sci: EventFd) -> Self {
        Self {
            sci,
            status: 0,
            enable: 0,
            control: 0,
            start: Instant::now(),
        }
    }

    /// Presses the power button: the guest shuts down, if it listens.
    pub fn press_power_button(&mut self) {
        self.status |= POWER_BUTTON;
        self.signal_pending();
    }

    fn signal_pending(&self) {
        if self.status & self.enable != 0 {
            // It fails only if the counter is at its end, with a pulse pending.
            let _ = self.sci.write(1);
        }
    }

    /// All registers as they read, in the order of their ports.
    fn registers(&self) -> [u8; 12] {
        let mut image = [0; 12];
        image[0..2].copy_from_slice(&self.status.to_le_bytes());
        image[2..4].copy_from_slice(&self.enable.to_le_bytes());
        image[4..6].copy_from_slice(&(self.control | CONTROL_SCI_ENABLE).to_le_bytes());
        image[8..12].copy_from_slice(&timer_at(self.start.elapsed()).to_le_bytes());
        image
    }

    fn write_control(&mut self, value: u16) -> Action {
        self.control = value & CONTROL_KEPT;
        let sleep_type = (value & CONTROL_SLEEP_TYPE_MASK) >> CONTROL_SLEEP_TYPE_SHIFT;
        if value & CONTROL_SLEEP_ENABLE != 0 && sleep_type == u16::from(layout::SLEEP_TYPE_S5) {
            return Action::Shutdown;
        }
        Action::None
    }
}

impl BusDevice for AcpiPm {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        let registers = self.registers();
        let from_offset = usize::try_from(offset)
            .ok()
            .and_then(|offset| registers.get(offset..));
        for (byte, register) in data.iter_mut().zip(from_offset.unwrap_or_default()) {
            *byte = *register;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Action {
        let mut action = Action::None;
        // Each byte of a 16-bit register can be written on its own.
        for (port, &byte) in (offset..).zip(data) {
            let high = port % 2 == 1;
            let value = u16::from(byte) << if high { 8 } else { 0 };
            let other_half = if high { 0x00ff } else { 0xff00 };
            match port & !1 {
                0 => self.status &= !value,
                2 => self.enable = (self.enable & other_half) | (value & ENABLE_MASK),
                4 => {
                    let result = self.write_control((self.control & other_half) | value);
                    if result != Action::None {
                        action = result;
                    }
                }
                _ => {}
            }
        }
        if offset < PM1A_CONTROL_OFFSET {
            self.signal_pending();
        }
        action
    }
}

/// The timer's count once `elapsed` has passed since it was zero.
fn timer_at(elapsed: Duration) -> u32 {
    let ticks = elapsed.as_nanos().wrapping_mul(PM_TIMER_HZ) / 1_000_000_000;
    let wrapped = ticks & u128::from(u32::MAX);
    u32::try_from(wrapped).expect("masked to 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture() -> (AcpiPm, EventFd) {
        let sci = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        (AcpiPm::new(sci.try_clone().unwrap()), sci)
    }

    fn read16(pm: &mut AcpiPm, offset: u64) -> u16 {
        let mut data = [0; 2];
        pm.read(offset, &mut data);
        u16::from_le_bytes(data)
    }

    #[test]
    fn the_power_button_raises_an_enabled_event() {
        let (mut pm, sci) = fixture();
        pm.press_power_button();
        assert!(sci.read().is_err(), "not enabled yet");
        pm.write(2, &POWER_BUTTON.to_le_bytes());
        assert_eq!(sci.read().unwrap(), 1, "pending when enabled");
        assert_eq!(read16(&mut pm, 0), POWER_BUTTON);
        pm.write(0, &[0xff, 0xff]);
        assert_eq!(read16(&mut pm, 0), 0);
        assert!(sci.read().is_err(), "acknowledged");
        pm.press_power_button();
        assert_eq!(sci.read().unwrap(), 1);
    }

    #[test]
    fn acknowledging_another_event_leaves_the_button_pending() {
        let (mut pm, sci) = fixture();
        pm.write(2, &POWER_BUTTON.to_le_bytes());
        pm.press_power_button();
        sci.read().unwrap();
        pm.write(0, &(!POWER_BUTTON).to_le_bytes());
        assert_eq!(read16(&mut pm, 0), POWER_BUTTON);
        assert_eq!(sci.read().unwrap(), 1, "signalled again");
    }

    #[test]
    fn enable_bits_read_back_and_reserved_ones_do_not() {
        let (mut pm, _sci) = fixture();
        pm.write(2, &[0xff, 0xff]);
        assert_eq!(read16(&mut pm, 2), ENABLE_MASK);
        pm.write(3, &[0]);
        assert_eq!(read16(&mut pm, 2), ENABLE_MASK & 0xff);
    }

    #[test]
    fn only_sleep_enable_with_type_five_shuts_down() {
        for sleep_type in 0..8u16 {
            let (mut pm, _sci) = fixture();
            let value = sleep_type << 10;
            assert_eq!(pm.write(4, &value.to_le_bytes()), Action::None);
            assert_eq!(read16(&mut pm, 4), value | 1, "SCI_EN is always set");
            let expected = if sleep_type == 5 {
                Action::Shutdown
            } else {
                Action::None
            };
            assert_eq!(pm.write(4, &(value | 1 << 13).to_le_bytes()), expected);
        }
    }

    #[test]
    fn the_timer_counts_and_wraps() {
        assert_eq!(timer_at(Duration::ZERO), 0);
        assert_eq!(timer_at(Duration::from_secs(1)), 3_579_545);
        assert_eq!(timer_at(Duration::from_secs(1200)), 486_704, "modulo 2^32");
        let (mut pm, _sci) = fixture();
        let mut data = [0; 4];
        let offset = u64::from(layout::PM_TIMER_PORT - layout::PM1A_EVENT_PORT);
        pm.read(offset, &mut data);
        let first = u32::from_le_bytes(data);
        pm.read(offset, &mut data);
        assert!(u32::from_le_bytes(data) >= first);
    }
}
