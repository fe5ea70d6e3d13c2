//! The names that guests have on the virtual network.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use super::super::{PortNumber, is_label};
use crate::net::mac::MacAddress;
use crate::net::time::Time;

/// The most addresses of one family that a name has, so that an answer with
/// all of them fits in the smallest datagram.
const MOST_ADDRESSES: usize = 8;

/// Names that mean something to others, which no guest gets: its own machine
/// (RFC 6761, 6.3), where web proxies are set up, and a tunnel's other end
/// (RFC 5214, 8.3).
const SPECIAL: [&str; 3] = ["localhost", "wpad", "isatap"];

/// Whose a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// The network's.
    Network,
    /// The guest's with this hardware address behind this port.
    Guest(PortNumber, MacAddress),
}

#[derive(Debug)]
struct Host {
    owner: Owner,
    addresses: Vec<IpAddr>,
}

/// Which host has which addresses: the network's own, and guests by their
/// leases.
///
/// A name belongs to whom it was given first, until the last lease behind it
/// ends: no guest takes the name of another.
#[derive(Debug, Default)]
pub struct Names {
    hosts: HashMap<String, Host>,
    /// The name of each address, and when it ends.
    addresses: HashMap<IpAddr, (String, Time)>,
    ends: BTreeSet<(Time, IpAddr)>,
}

impl Names {
    /// No names.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the network's own host `name` its address for good. A name or an
    /// address that is taken stays whose it is.
    pub fn fix(&mut self, name: &str, address: IpAddr) {
        self.enter(Owner::Network, address, name, Time::NEVER);
    }

    /// Notes the lease of `address` to the guest `mac` behind `port`, which
    /// calls itself `name`. Of the address's former name nothing is left.
    pub fn lease(
        &mut self,
        now: Time,
        (port, mac): (PortNumber, MacAddress),
        address: IpAddr,
        name: Option<&str>,
        until: Time,
    ) {
        self.expire(now);
        if self.owner_of(address) == Some(Owner::Network) {
            return;
        }
        self.free(address);
        if let Some(name) = name.filter(|name| !SPECIAL.contains(name)) {
            self.enter(Owner::Guest(port, mac), address, name, until);
        }
    }

    /// Notes that the lease of `address` has ended.
    pub fn free(&mut self, address: IpAddr) {
        if self.owner_of(address) != Some(Owner::Network) {
            self.remove(address);
        }
    }

    /// Forgets the guests behind `port`, which is gone.
    pub fn forget_port(&mut self, port: PortNumber) {
        let gone: Vec<IpAddr> = self
            .hosts
            .values()
            .filter(|host| matches!(host.owner, Owner::Guest(of, _) if of == port))
            .flat_map(|host| host.addresses.iter().copied())
            .collect();
        for address in gone {
            self.remove(address);
        }
    }

    /// The addresses of the host `name`, in lower case.
    pub(super) fn addresses(&self, now: Time, name: &str) -> Option<Vec<IpAddr>> {
        let host = self.hosts.get(name)?;
        let live = |address: &&IpAddr| self.name_of(now, **address).is_some();
        let addresses: Vec<_> = host.addresses.iter().filter(live).copied().collect();
        (!addresses.is_empty()).then_some(addresses)
    }

    /// The name of the host at `address`.
    pub(super) fn name_of(&self, now: Time, address: IpAddr) -> Option<&str> {
        let (name, until) = self.addresses.get(&address)?;
        (*until > now).then_some(name)
    }

    fn owner_of(&self, address: IpAddr) -> Option<Owner> {
        let (name, _) = self.addresses.get(&address)?;
        self.hosts.get(name).map(|host| host.owner)
    }

    fn enter(&mut self, owner: Owner, address: IpAddr, name: &str, until: Time) {
        if !is_label(name) || self.addresses.contains_key(&address) {
            return;
        }
        let name = name.to_ascii_lowercase();
        let host = self.hosts.entry(name.clone()).or_insert_with(|| Host {
            owner,
            addresses: Vec::new(),
        });
        let of_family = host
            .addresses
            .iter()
            .filter(|other| other.is_ipv4() == address.is_ipv4());
        if host.owner != owner || of_family.count() >= MOST_ADDRESSES {
            return;
        }
        host.addresses.push(address);
        self.addresses.insert(address, (name, until));
        self.ends.insert((until, address));
    }

    fn remove(&mut self, address: IpAddr) {
        let Some((name, until)) = self.addresses.remove(&address) else {
            return;
        };
        self.ends.remove(&(until, address));
        if let Some(host) = self.hosts.get_mut(&name) {
            host.addresses.retain(|other| *other != address);
            if host.addresses.is_empty() {
                self.hosts.remove(&name);
            }
        }
    }

    /// Forgets names that have ended. There are never more than leases that
    /// last.
    fn expire(&mut self, now: Time) {
        while let Some(&(until, address)) = self.ends.first()
            && until <= now
        {
            self.remove(address);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn mac(last: u8) -> MacAddress {
        MacAddress::new([2, 0, 0, 0, 0, last]).unwrap()
    }

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    fn leased(names: &mut Names, guest: u8, last: u8, name: &str) {
        let guest = (guest.into(), mac(guest));
        names.lease(at(0), guest, address(last), Some(name), at(100));
    }

    #[test]
    fn a_name_lives_as_long_as_its_lease() {
        let mut names = Names::new();
        leased(&mut names, 1, 10, "lab");
        leased(&mut names, 1, 11, "lab");
        let both = Some(vec![address(10), address(11)]);
        assert_eq!(names.addresses(at(99), "lab"), both);
        assert_eq!(names.name_of(at(99), address(11)), Some("lab"));
        assert_eq!(names.addresses(at(100), "lab"), None);
        assert_eq!(names.name_of(at(100), address(11)), None);
        names.free(address(10));
        assert_eq!(names.addresses(at(99), "lab"), Some(vec![address(11)]));
        leased(&mut names, 1, 11, "nest");
        assert_eq!(names.addresses(at(99), "lab"), None);
        assert_eq!(names.name_of(at(99), address(11)), Some("nest"));
    }

    #[test]
    fn no_guest_takes_a_name() {
        let mut names = Names::new();
        names.fix("gateway", address(1));
        leased(&mut names, 1, 10, "lab");
        leased(&mut names, 2, 11, "lab");
        leased(&mut names, 2, 12, "gateway");
        leased(&mut names, 2, 13, "wpad");
        leased(&mut names, 2, 1, "mine");
        names.free(address(1));
        assert_eq!(names.addresses(at(1), "lab"), Some(vec![address(10)]));
        assert_eq!(names.addresses(at(1), "gateway"), Some(vec![address(1)]));
        for name in ["wpad", "mine"] {
            assert_eq!(names.addresses(at(1), name), None);
        }
        names.forget_port(1);
        leased(&mut names, 2, 11, "lab");
        assert_eq!(names.addresses(at(1), "lab"), Some(vec![address(11)]));
    }

    #[test]
    fn a_name_has_few_addresses() {
        let mut names = Names::new();
        for last in 1..20 {
            leased(&mut names, 1, last, "lab");
        }
        assert_eq!(names.addresses(at(1), "lab").unwrap().len(), MOST_ADDRESSES);
    }

    proptest! {
        #[test]
        fn both_directions_agree(
            steps in proptest::collection::vec((0u8..4, 0u8..12, 0u8..4, 0u64..30, 0u8..6), 1..100),
        ) {
            let mut names = Names::new();
            names.fix("gateway", address(11));
            let mut now = at(0);
            for (guest, last, name, wait, what) in steps {
                now = now + Duration::from_secs(wait);
                match what {
                    0 => names.free(address(last)),
                    1 => names.forget_port(guest.into()),
                    _ => {
                        let name = ["lab", "nest", "gateway", "wpad"][usize::from(name)];
                        let until = now + Duration::from_secs(60);
                        let guest = (guest.into(), mac(guest));
                        names.lease(now, guest, address(last), Some(name), until);
                    }
                }
                prop_assert_eq!(names.addresses.len(), names.ends.len());
                let of_hosts: usize = names.hosts.values().map(|host| host.addresses.len()).sum();
                prop_assert_eq!(names.addresses.len(), of_hosts);
                for (name, host) in &names.hosts {
                    prop_assert!(!host.addresses.is_empty());
                    for address in &host.addresses {
                        prop_assert_eq!(&names.addresses[address].0, name);
                    }
                }
                prop_assert_eq!(names.addresses(now, "gateway"), Some(vec![address(11)]));
            }
        }
    }
}
