//! The DHCPv6 server.
#![no_main]

use std::net::Ipv6Addr;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use nestling_devices::net::services::dhcp6::{ALL_SERVERS, Server};
use nestling_devices::net::services::ndp::link_local;
use nestling_devices::net::time::Time;
use nestling_fuzz::network::{self, GATEWAY6, LEASES, mac};
use nestling_fuzz::records::records;

/// What the smallest packet has room for that each link takes (RFC 8200, 5).
const LONGEST: usize = 1280 - 48;

fuzz_target!(|data: &[u8]| {
    let mut server = Server::new(network::dhcp6()).expect("a good configuration");
    let mut now = Time(1);
    for (kind, body) in records(data) {
        let (port, client) = (u32::from(kind >> 6), mac(kind & 7 | 16));
        if kind & 0x20 != 0 {
            now = now + Duration::from_secs(1 << (kind & 15));
        }
        let source = match kind & 0x10 {
            0 => link_local(client),
            _ => Ipv6Addr::new(0xFD00, 0, 0, 0, 0, 0, 0, 0x1000),
        };
        let destination = match kind & 8 {
            0 => ALL_SERVERS,
            _ => GATEWAY6,
        };
        let outcome = server.receive(now, (port, client), source, destination, body);
        if let Ok(outcome) = outcome {
            assert!((4..=LONGEST).contains(&outcome.reply.len()));
            assert_eq!(outcome.reply[1..4], body[1..4], "another transaction");
        }
        assert!(server.leases().count() <= LEASES.total);
    }
});
