//! The devices of a PC that no bus announces: serial port, clock, reset and
//! power registers.

pub mod acpi_pm;
pub mod reset;
pub mod rtc;
pub mod serial;
