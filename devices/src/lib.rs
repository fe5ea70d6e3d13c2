//! Devices and buses.
