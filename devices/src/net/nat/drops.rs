//! What is dropped on the way between guests and sockets, and why.

/// Why a packet isn't translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// No guest can have the address that it is from.
    MartianSource,
    /// Guests may not send to the destination.
    Destination,
    /// It took too many hops.
    HopLimit,
    /// The network has all the flows it may.
    TableFull,
    /// The guest has all the flows it may.
    GuestFull,
    /// The host can't open another socket, or not of this kind.
    NoSocket,
    /// The host refused to send it.
    NotSent,
    /// It belongs to no flow, or to none any more.
    NoFlow,
    /// The filter has the sender answer only, and it wasn't asked.
    Filtered,
    /// Guests couldn't answer the sender.
    Sender,
    /// It isn't what its socket carries.
    Malformed,
    /// A fragment that overlaps others, or belongs to such a packet.
    Overlap,
    /// A fragment that contradicts its own length or that of its packet.
    BadFragment,
    /// A fragment too many.
    FragmentsFull,
    /// A packet whose fragments didn't all come in time.
    FragmentsLate,
}

impl DropReason {
    /// All reasons, in the order of their declaration.
    pub const ALL: [Self; 15] = [
        Self::MartianSource,
        Self::Destination,
        Self::HopLimit,
        Self::TableFull,
        Self::GuestFull,
        Self::NoSocket,
        Self::NotSent,
        Self::NoFlow,
        Self::Filtered,
        Self::Sender,
        Self::Malformed,
        Self::Overlap,
        Self::BadFragment,
        Self::FragmentsFull,
        Self::FragmentsLate,
    ];

    /// The reason in words joined by underscores, as metrics name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MartianSource => "martian_source",
            Self::Destination => "prohibited_destination",
            Self::HopLimit => "hop_limit",
            Self::TableFull => "flow_table_full",
            Self::GuestFull => "guest_flow_limit",
            Self::NoSocket => "no_socket",
            Self::NotSent => "not_sent",
            Self::NoFlow => "no_flow",
            Self::Filtered => "filtered",
            Self::Sender => "unanswerable_sender",
            Self::Malformed => "malformed_reply",
            Self::Overlap => "reassembly_overlap",
            Self::BadFragment => "reassembly_mismatch",
            Self::FragmentsFull => "reassembly_limit",
            Self::FragmentsLate => "reassembly_timeout",
        }
    }
}

/// A counter for each reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Drops {
    /// Counts a packet.
    pub fn count(&mut self, reason: DropReason) {
        self.add(reason, 1);
    }

    /// Counts several packets.
    pub(super) fn add(&mut self, reason: DropReason, packets: usize) {
        let count = &mut self.0[reason as usize];
        *count = count.wrapping_add(u64::try_from(packets).unwrap_or(u64::MAX));
    }

    /// How many packets were dropped for a reason.
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// All counters.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.into_iter().zip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::net::switch;
    use crate::net::wire::packet::Drop;

    #[test]
    fn each_reason_has_a_counter_and_a_name() {
        let mut drops = Drops::default();
        for (i, reason) in (1..).zip(DropReason::ALL) {
            for _ in 0..i {
                drops.count(reason);
            }
        }
        for (i, (reason, count)) in (1..).zip(drops.iter()) {
            assert_eq!((count, drops.of(reason)), (i, i));
        }
    }

    #[test]
    fn no_reason_is_named_as_another_anywhere() {
        let names = DropReason::ALL.map(DropReason::name).into_iter();
        let names = names.chain(switch::DropReason::ALL.map(switch::DropReason::name));
        let names: Vec<_> = names.chain(Drop::ALL.map(Drop::name)).collect();
        let distinct: HashSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(names.iter().all(|name| name.chars().all(word)));
    }
}
