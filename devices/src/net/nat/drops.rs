//! What is dropped on the way between guests and sockets, and why.

/// Why a packet isn't translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Guests may not send to the destination.
    Unreachable,
    /// The network has all the flows it may.
    TableFull,
    /// The guest has all the flows it may.
    GuestFull,
    /// The host can't open another socket, or not of this kind.
    NoSocket,
    /// The host refused to send it.
    NotSent,
    /// The socket belongs to no flow any more.
    NoFlow,
    /// The filter has the sender answer only, and it wasn't asked.
    Filtered,
    /// Guests couldn't answer the sender.
    Sender,
    /// It took too many hops.
    HopLimit,
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
    pub const ALL: [Self; 14] = [
        Self::Unreachable,
        Self::TableFull,
        Self::GuestFull,
        Self::NoSocket,
        Self::NotSent,
        Self::NoFlow,
        Self::Filtered,
        Self::Sender,
        Self::HopLimit,
        Self::Malformed,
        Self::Overlap,
        Self::BadFragment,
        Self::FragmentsFull,
        Self::FragmentsLate,
    ];

    /// The reason's name in counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::TableFull => "table_full",
            Self::GuestFull => "guest_full",
            Self::NoSocket => "no_socket",
            Self::NotSent => "not_sent",
            Self::NoFlow => "no_flow",
            Self::Filtered => "filtered",
            Self::Sender => "sender",
            Self::HopLimit => "hop_limit",
            Self::Malformed => "malformed",
            Self::Overlap => "overlap",
            Self::BadFragment => "bad_fragment",
            Self::FragmentsFull => "fragments_full",
            Self::FragmentsLate => "fragments_late",
        }
    }
}

/// A counter for each reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Drops {
    /// Counts a packet.
    pub fn count(&mut self, reason: DropReason) {
        self.0[reason as usize] += 1;
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
        let names: HashSet<_> = DropReason::ALL.map(DropReason::name).into();
        assert_eq!(names.len(), DropReason::ALL.len());
    }
}
