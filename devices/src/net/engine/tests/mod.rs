//! The engine as a whole: guests with a TCP/IP stack of their own on its
//! ports, and models of the host's sockets.

mod rig;
mod station;
mod wires;

mod gateway;
mod hostile;
mod hour;
mod limits;
mod mappings;
mod outside;
mod services;
mod switching;
