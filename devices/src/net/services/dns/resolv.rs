//! The host's resolvers, as its resolv.conf names them (resolv.conf(5)).

use std::net::{IpAddr, Ipv4Addr};

/// The most name servers that count (MAXNS of resolv.h).
const MOST: usize = 3;

/// A name server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nameserver {
    /// Its address, which may be the host's loopback: a resolver of the host
    /// is the host's to ask, not its guests'.
    pub address: IpAddr,
    /// The interface that a link-local address is reached by, by name or by
    /// number (RFC 4007, 11).
    pub zone: Option<String>,
}

/// The name servers in a file, in order; the host itself if there are none.
/// Lines that can't be read are passed over, as the C library does.
pub fn nameservers(text: &str) -> Vec<Nameserver> {
    let mut servers: Vec<_> = text.lines().filter_map(nameserver).take(MOST).collect();
    if servers.is_empty() {
        servers.push(Nameserver {
            address: Ipv4Addr::LOCALHOST.into(),
            zone: None,
        });
    }
    servers
}

fn nameserver(line: &str) -> Option<Nameserver> {
    let line = line.split(['#', ';']).next()?;
    let mut words = line.split_ascii_whitespace();
    // A keyword starts its line.
    if !line.starts_with("nameserver") || words.next()? != "nameserver" {
        return None;
    }
    let word = words.next()?;
    let (address, zone) = match word.split_once('%') {
        Some((_, "")) => return None,
        Some((address, zone)) => (address, Some(zone.to_owned())),
        None => (word, None),
    };
    let address: IpAddr = address.parse().ok()?;
    if zone.is_some() && address.is_ipv4() {
        return None;
    }
    Some(Nameserver { address, zone })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(text: &str) -> Vec<String> {
        let show = |server: Nameserver| match server.zone {
            Some(zone) => format!("{}%{zone}", server.address),
            None => server.address.to_string(),
        };
        nameservers(text).into_iter().map(show).collect()
    }

    #[test]
    fn files_are_read_as_the_c_library_does() {
        for (text, servers) in [
            ("nameserver 192.0.2.1\n", vec!["192.0.2.1"]),
            (
                "# by a tool\nsearch lab.example\nnameserver 127.0.0.53\noptions edns0 trust-ad\n",
                vec!["127.0.0.53"],
            ),
            (
                "nameserver\tfe80::1%eth0 # the router\r\nnameserver 2001:db8::1;x\n",
                vec!["fe80::1%eth0", "2001:db8::1"],
            ),
            ("nameserver fe80::1%2", vec!["fe80::1%2"]),
            (
                "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4",
                vec!["192.0.2.1", "192.0.2.2", "192.0.2.3"],
            ),
            (
                "nameserver\nnameserver lab\nnameservers 192.0.2.1\n nameserver 192.0.2.2\n;nameserver 192.0.2.3\nnameserver 192.0.2.4%eth0\nnameserver fe80::1%\nnameserver ::1",
                vec!["::1"],
            ),
            ("", vec!["127.0.0.1"]),
        ] {
            assert_eq!(found(text), servers, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_names_one_to_three_servers(text in "((nameserver|#|;|%|[0-9a-f.:]{1,9}| |\n){0,30})|\\PC{0,200}") {
            prop_assert!((1..=MOST).contains(&nameservers(&text).len()));
        }
    }
}
