//! What a port's NIC wants to receive (virtio 1.3, 5.1.6.5.1 and 5.1.6.5.2).

use bitflags::bitflags;

use crate::net::mac::Mac;

/// The most addresses of each kind in a filter; with more, all are wanted.
pub const MAX_FILTER_ADDRESSES: usize = 64;

bitflags! {
    /// Receive modes, as a NIC's driver sets them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ReceiveModes: u8 {
        /// All frames, whatever the other modes say.
        const PROMISCUOUS = 1 << 0;
        /// All frames for groups.
        const ALL_MULTICAST = 1 << 1;
        /// All frames for stations.
        const ALL_UNICAST = 1 << 2;
        /// No frames for groups other than broadcast.
        const NO_MULTICAST = 1 << 3;
        /// No frames for stations.
        const NO_UNICAST = 1 << 4;
        /// No broadcasts.
        const NO_BROADCAST = 1 << 5;
    }
}

/// What a NIC wants of the frames that its port may receive.
///
/// It never widens what policy allows: without spoofing, a promiscuous NIC
/// still gets frames for its port's own addresses and for groups only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiveFilter {
    modes: ReceiveModes,
    unicast: Vec<Mac>,
    multicast: Vec<Mac>,
}

impl Default for ReceiveFilter {
    /// All frames, as before a driver has set modes.
    fn default() -> Self {
        Self::new(ReceiveModes::PROMISCUOUS, &[], &[])
    }
}

impl ReceiveFilter {
    /// A filter of modes and of the stations and groups wanted besides.
    pub fn new(mut modes: ReceiveModes, unicast: &[Mac], multicast: &[Mac]) -> Self {
        let mut table = |addresses: &[Mac], all| {
            if addresses.len() > MAX_FILTER_ADDRESSES {
                modes |= all;
                return Vec::new();
            }
            let mut table = addresses.to_vec();
            table.sort_unstable();
            table
        };
        let unicast = table(unicast, ReceiveModes::ALL_UNICAST);
        let multicast = table(multicast, ReceiveModes::ALL_MULTICAST);
        Self {
            modes,
            unicast,
            multicast,
        }
    }

    /// Whether frames for the station behind this port are wanted at all.
    pub(super) fn wants_own(&self) -> bool {
        self.has(ReceiveModes::PROMISCUOUS) || !self.has(ReceiveModes::NO_UNICAST)
    }

    /// Whether frames for a station that isn't known to be anywhere are wanted.
    pub(super) fn wants_unknown(&self, station: Mac) -> bool {
        self.has(ReceiveModes::PROMISCUOUS)
            || !self.has(ReceiveModes::NO_UNICAST)
                && (self.has(ReceiveModes::ALL_UNICAST)
                    || self.unicast.binary_search(&station).is_ok())
    }

    /// Whether frames for `group` are wanted.
    pub(super) fn wants_group(&self, group: Mac) -> bool {
        if self.has(ReceiveModes::PROMISCUOUS) {
            return true;
        }
        if group == Mac::BROADCAST {
            return !self.has(ReceiveModes::NO_BROADCAST);
        }
        !self.has(ReceiveModes::NO_MULTICAST)
            && (self.has(ReceiveModes::ALL_MULTICAST)
                || self.multicast.binary_search(&group).is_ok())
    }

    fn has(&self, mode: ReceiveModes) -> bool {
        self.modes.contains(mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATION: Mac = Mac([2, 0, 0, 0, 0, 9]);
    const GROUP: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);

    fn wants(filter: &ReceiveFilter) -> [bool; 4] {
        [
            filter.wants_own(),
            filter.wants_unknown(STATION),
            filter.wants_group(GROUP),
            filter.wants_group(Mac::BROADCAST),
        ]
    }

    #[test]
    fn modes_say_what_is_wanted() {
        use ReceiveModes as M;
        for (modes, expected) in [
            (M::empty(), [true, false, false, true]),
            (M::PROMISCUOUS, [true; 4]),
            (M::all(), [true; 4]),
            (M::ALL_MULTICAST, [true, false, true, true]),
            (M::ALL_UNICAST, [true, true, false, true]),
            (M::NO_BROADCAST, [true, false, false, false]),
            (M::NO_UNICAST | M::ALL_UNICAST, [false, false, false, true]),
            (
                M::NO_MULTICAST | M::ALL_MULTICAST,
                [true, false, false, true],
            ),
        ] {
            assert_eq!(
                wants(&ReceiveFilter::new(modes, &[], &[])),
                expected,
                "{modes:?}"
            );
        }
    }

    #[test]
    fn tables_name_what_is_wanted() {
        let other = Mac([2, 0, 0, 0, 0, 8]);
        let filter = ReceiveFilter::new(ReceiveModes::empty(), &[STATION, other], &[GROUP]);
        assert_eq!(wants(&filter), [true; 4]);
        let filter = ReceiveFilter::new(ReceiveModes::empty(), &[other], &[]);
        assert_eq!(wants(&filter), [true, false, false, true]);
        let filter = ReceiveFilter::new(
            ReceiveModes::NO_UNICAST | ReceiveModes::NO_MULTICAST,
            &[STATION],
            &[GROUP],
        );
        assert_eq!(wants(&filter), [false, false, false, true]);
    }

    #[test]
    fn a_table_too_long_wants_all() {
        let others = [Mac([2, 1, 1, 1, 1, 1]); MAX_FILTER_ADDRESSES + 1];
        let filter =
            |count| ReceiveFilter::new(ReceiveModes::empty(), &others[..count], &others[..count]);
        let [full, over] = [MAX_FILTER_ADDRESSES, MAX_FILTER_ADDRESSES + 1].map(filter);
        assert_eq!(wants(&full), [true, false, false, true]);
        assert_eq!(wants(&over), [true; 4]);
    }
}
