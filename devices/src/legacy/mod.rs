//! The devices of a PC that no bus announces: serial port, clock, reset and
//! power registers, and those that emulators added.

pub mod acpi_pm;
pub mod exit_ports;
pub mod reset;
pub mod rtc;
pub mod serial;
