//! What a guest talks to, and what stands behind it.
//!
//! Devices know guest memory and event descriptors, never KVM: what they need
//! of the machine comes through [`host::Host`].

pub mod bus;
pub mod host;
pub mod legacy;
pub mod net;
pub mod pci;
pub mod ratelimit;
pub mod scatter;
#[cfg(test)]
mod testing;
pub mod virtio;

/// What a guest's access asks of the machine as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing: the access is complete.
    None,
    /// Reset the machine, as by its reset button.
    Reset,
    /// Power the machine off.
    Shutdown,
    /// End the run with this exit status.
    Exit(u8),
}

impl Action {
    /// This, or what a later access asks if this asks nothing.
    #[must_use]
    pub fn then(self, later: Self) -> Self {
        if self == Self::None { later } else { self }
    }
}
