//! Where a frame goes.

use super::config::PortId;

const WORD: usize = 64;

/// A set of a switch's ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortSet([u64; PortId::COUNT / WORD]);

impl PortSet {
    /// Whether the port is in the set.
    pub fn contains(&self, port: PortId) -> bool {
        self.0[port.index() / WORD] >> (port.index() % WORD) & 1 != 0
    }

    /// Whether no port is in the set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The ports in the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = PortId> + use<> {
        let mut words = self.0;
        let mut at = 0;
        std::iter::from_fn(move || {
            while *words.get(at)? == 0 {
                at += 1;
            }
            let bit = words[at].trailing_zeros() as usize;
            words[at] &= words[at] - 1;
            u8::try_from(at * WORD + bit).ok().map(PortId)
        })
    }

    pub(super) fn insert(&mut self, port: PortId) {
        self.0[port.index() / WORD] |= 1 << (port.index() % WORD);
    }

    pub(super) fn remove(&mut self, port: PortId) {
        self.0[port.index() / WORD] &= !(1 << (port.index() % WORD));
    }
}

/// The ports that a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// One port.
    One(PortId),
    /// A group's members, or whoever may have an unknown station; at least one
    /// port.
    Many(PortSet),
}

impl Egress {
    /// The ports, in order.
    pub fn ports(&self) -> impl Iterator<Item = PortId> + use<> {
        let (one, many) = match *self {
            Self::One(port) => (Some(port), None),
            Self::Many(ports) => (None, Some(ports)),
        };
        let many = many.into_iter().flat_map(|ports| ports.iter());
        one.into_iter().chain(many)
    }

    /// Whether the port is among them.
    pub fn contains(&self, port: PortId) -> bool {
        match self {
            Self::One(one) => *one == port,
            Self::Many(ports) => ports.contains(port),
        }
    }

    /// Whether the gateway's port is among them.
    pub fn gateway(&self) -> bool {
        self.contains(PortId::GATEWAY)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_is_a_set(
            inserted in prop::collection::btree_set(any::<u8>(), 0..40),
            removed in prop::collection::btree_set(any::<u8>(), 0..200),
        ) {
            let mut set = PortSet::default();
            inserted.iter().for_each(|&port| set.insert(PortId(port)));
            removed.iter().for_each(|&port| set.remove(PortId(port)));
            let expected: BTreeSet<_> = inserted.difference(&removed).map(|&port| PortId(port)).collect();
            prop_assert_eq!(set.is_empty(), expected.is_empty());
            prop_assert_eq!(set.iter().collect::<BTreeSet<_>>(), expected.clone());
            prop_assert!(set.iter().is_sorted());
            for port in (0..=u8::MAX).map(PortId) {
                prop_assert_eq!(set.contains(port), expected.contains(&port));
            }
            let many = Egress::Many(set);
            prop_assert!(many.ports().eq(set.iter()));
            prop_assert_eq!(many.gateway(), expected.contains(&PortId::GATEWAY));
        }
    }

    #[test]
    fn one_port_is_itself() {
        let one = Egress::One(PortId(9));
        assert!(one.ports().eq([PortId(9)]));
        assert!(one.contains(PortId(9)) && !one.contains(PortId(8)) && !one.gateway());
        assert!(Egress::One(PortId::GATEWAY).gateway());
    }
}
