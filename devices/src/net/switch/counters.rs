//! What a port counts.

/// Why the switch, or what works on its behalf, gave a frame to nobody or a
/// copy not to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// The port that it came from has no link, or is gone.
    LinkDown,
    /// The port sent more than its limits allow.
    IngressLimit,
    /// The port sent more to groups and to unknown stations than its limits
    /// allow.
    FloodLimit,
    /// The source is no station's address.
    InvalidSource,
    /// The source is the gateway's address.
    GatewayAddress,
    /// The source isn't the port's own, and MAC address spoofing is off.
    SpoofedSource,
    /// The source belongs to a station behind another port.
    StolenSource,
    /// As many stations as may be are behind the port already.
    TooManyStations,
    /// The frame has a tag of a VLAN that the port, or the one port that it is
    /// for, isn't a member of.
    Vlan,
    /// The destination is all zeroes, which is nobody's address.
    InvalidDestination,
    /// The destination is a group that bridges keep to their own link (IEEE
    /// 802.1Q, 8.6.3).
    ReservedDestination,
    /// The destination is behind the port that the frame came from.
    SamePort,
    /// Nobody is known to have the destination, and no port takes what is for
    /// unknown stations.
    UnknownDestination,
    /// No other port takes what is for the group.
    NoListener,
    /// Both the port and the destination's are isolated.
    Isolated,
    /// The destination's port has no link, or doesn't want frames for stations.
    DestinationDown,
    /// An ARP or NDP message claims an address of the gateway.
    GatewayClaim,
    /// A router advertisement or redirect from a port that may have no router.
    RouterMessage,
    /// A DHCP server's message from a port that may have no server.
    DhcpServerMessage,
    /// Counted at the port that the frame was for: it was sent more than its
    /// limits allow.
    EgressLimit,
    /// Counted at the port that the frame was for: it had no room.
    NoRoom,
    /// Counted at the port that the frame was for: nobody is plugged in, or
    /// the frame is longer than its link carries.
    NotTaken,
}

impl DropReason {
    /// All reasons, in the order of their declaration.
    pub const ALL: [Self; 22] = [
        Self::LinkDown,
        Self::IngressLimit,
        Self::FloodLimit,
        Self::InvalidSource,
        Self::GatewayAddress,
        Self::SpoofedSource,
        Self::StolenSource,
        Self::TooManyStations,
        Self::Vlan,
        Self::InvalidDestination,
        Self::ReservedDestination,
        Self::SamePort,
        Self::UnknownDestination,
        Self::NoListener,
        Self::Isolated,
        Self::DestinationDown,
        Self::GatewayClaim,
        Self::RouterMessage,
        Self::DhcpServerMessage,
        Self::EgressLimit,
        Self::NoRoom,
        Self::NotTaken,
    ];

    /// The reason in words joined by underscores, as metrics name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LinkDown => "link_down",
            Self::IngressLimit => "ingress_limit",
            Self::FloodLimit => "flood_limit",
            Self::InvalidSource => "invalid_source",
            Self::GatewayAddress => "gateway_address",
            Self::SpoofedSource => "spoofed_source",
            Self::StolenSource => "stolen_source",
            Self::TooManyStations => "too_many_stations",
            Self::Vlan => "vlan",
            Self::InvalidDestination => "invalid_destination",
            Self::ReservedDestination => "reserved_destination",
            Self::SamePort => "same_port",
            Self::UnknownDestination => "unknown_destination",
            Self::NoListener => "no_listener",
            Self::Isolated => "isolated",
            Self::DestinationDown => "destination_down",
            Self::GatewayClaim => "gateway_claim",
            Self::RouterMessage => "router_message",
            Self::DhcpServerMessage => "dhcp_server_message",
            Self::EgressLimit => "egress_limit",
            Self::NoRoom => "no_room",
            Self::NotTaken => "not_taken",
        }
    }
}

/// Frames and their bytes, Ethernet headers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Frames. One that its receiver is to segment counts once.
    pub frames: u64,
    /// Bytes of them.
    pub bytes: u64,
}

impl Traffic {
    pub(super) fn add(&mut self, len: usize) {
        self.frames = self.frames.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(octets(len));
    }

    pub(super) fn remove(&mut self, len: usize) {
        self.frames = self.frames.wrapping_sub(1);
        self.bytes = self.bytes.wrapping_sub(octets(len));
    }
}

fn octets(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// The counts of one port since it was added.
///
/// Of the frames that came from the port, each is either received or dropped
/// for one reason; [`DropReason::EgressLimit`] and [`DropReason::NoRoom`] count
/// copies that were for the port instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Taken from the port and forwarded.
    pub received: Traffic,
    /// Copies given to the port.
    pub sent: Traffic,
    drops: [u64; DropReason::ALL.len()],
}

impl Counters {
    /// How many were dropped for `reason`.
    pub const fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// All reasons and how many were dropped for each.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .into_iter()
            .map(|reason| (reason, self.dropped(reason)))
    }

    pub(super) fn drop_for(&mut self, reason: DropReason) {
        let count = &mut self.drops[reason as usize];
        *count = count.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_reason_has_its_own_count_and_name() {
        let mut counters = Counters::default();
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{reason:?}");
            for _ in 0..index {
                counters.drop_for(reason);
            }
        }
        for (index, (reason, count)) in (0u64..).zip(counters.drops()) {
            assert_eq!(count, index, "{reason:?}");
        }
        let names: HashSet<_> = DropReason::ALL.map(DropReason::name).into();
        assert_eq!(names.len(), DropReason::ALL.len());
    }
}
