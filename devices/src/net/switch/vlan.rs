//! Membership in VLANs.

use crate::net::wire::ether::{EtherHeader, ethertype};

/// The tags that may stand behind another: of customers, of service providers
/// (IEEE 802.1Q, 9.5), and what these used before.
const STACKED: [u16; 3] = [ethertype::VLAN, 0x88A8, 0x9100];

/// Identifiers of VLANs (IEEE 802.1Q, 9.6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VlanSet(Vec<u16>);

/// A number that names no VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no VLAN: give numbers from 1 to 4094")]
pub struct NotAVlan(pub u16);

impl VlanSet {
    /// The set of the given VLANs, each from 1 to 4094.
    pub fn new(vlans: impl IntoIterator<Item = u16>) -> Result<Self, NotAVlan> {
        let check = |vlan| match vlan {
            1..=4094 => Ok(vlan),
            _ => Err(NotAVlan(vlan)),
        };
        let mut vlans = vlans
            .into_iter()
            .map(check)
            .collect::<Result<Vec<_>, _>>()?;
        vlans.sort_unstable();
        vlans.dedup();
        Ok(Self(vlans))
    }

    /// Whether the VLAN is in the set.
    pub fn contains(&self, vlan: u16) -> bool {
        self.0.binary_search(&vlan).is_ok()
    }

    /// Whether a member of the set's VLANs, and of the network without tags,
    /// may have the frame.
    pub(super) fn admits(&self, network: Network) -> bool {
        match network {
            Network::Untagged => true,
            Network::Vlan(vlan) => self.contains(vlan),
        }
    }
}

/// Which of the networks on a switch a frame is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Network {
    Untagged,
    Vlan(u16),
}

impl Network {
    /// The network of a frame; `None` if its tags are none that any port may
    /// use.
    ///
    /// A frame with only a priority is untagged (IEEE 802.1Q, 6.9). It may not
    /// hide a tag behind it: receivers would take that off as well, and find
    /// themselves in another VLAN.
    #[inline]
    pub(super) fn of(ether: &EtherHeader) -> Option<Self> {
        match ether.vlan {
            Some(vlan @ 1..) => Some(Self::Vlan(vlan)),
            _ if STACKED.contains(&ether.ethertype) => None,
            _ => Some(Self::Untagged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_vlans_only() {
        assert_eq!(VlanSet::new([5, 0]), Err(NotAVlan(0)));
        assert_eq!(VlanSet::new([4095]), Err(NotAVlan(4095)));
        let set = VlanSet::new([4094, 7, 1, 7]).unwrap();
        assert!([1, 7, 4094].into_iter().all(|vlan| set.contains(vlan)));
        assert!([0, 2, 4095].into_iter().all(|vlan| !set.contains(vlan)));
    }

    #[test]
    fn no_tag_hides_behind_a_priority() {
        let network = |vlan, ethertype| {
            Network::of(&EtherHeader {
                vlan,
                ethertype,
                ..EtherHeader::default()
            })
        };
        assert_eq!(network(None, ethertype::IPV4), Some(Network::Untagged));
        assert_eq!(network(Some(0), ethertype::ARP), Some(Network::Untagged));
        assert_eq!(network(Some(9), ethertype::ARP), Some(Network::Vlan(9)));
        assert_eq!(network(Some(9), ethertype::VLAN), Some(Network::Vlan(9)));
        for stacked in STACKED {
            assert_eq!(network(None, stacked), None);
            assert_eq!(network(Some(0), stacked), None);
        }
    }
}
