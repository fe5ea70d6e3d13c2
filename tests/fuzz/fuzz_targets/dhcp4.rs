//! The DHCPv4 server, and how its answers are read.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use nestling_devices::net::services::dhcp4::Server;
use nestling_devices::net::services::dhcp4::message::Answer;
use nestling_devices::net::time::Time;
use nestling_fuzz::network::{self, LEASES, mac};
use nestling_fuzz::records::records;

/// The longest message: the IPv4 packet that each client takes (RFC 2131, 2)
/// has more room for a longer one that a client says it takes.
const LONGEST: usize = 1472;

fuzz_target!(|data: &[u8]| {
    // What a server says to a client of ours.
    let _ = Answer::parse(data);
    let mut server = Server::new(network::dhcp4()).expect("a good configuration");
    let mut now = Time(1);
    for (kind, body) in records(data) {
        let (port, client) = (u32::from(kind >> 6), mac(kind & 15 | 16));
        if kind & 0x20 != 0 {
            now = now + Duration::from_secs(1 << (kind & 15));
        }
        let mut message = body.to_vec();
        // From whom it says that it is.
        if kind & 0x10 != 0 && message.len() >= 34 {
            message[28..34].copy_from_slice(&client.bytes());
        }
        let Ok(outcome) = server.receive(now, port, client, &message) else {
            continue;
        };
        if let Some((_, reply)) = &outcome.reply {
            assert!((300..=LONGEST).contains(&reply.len()), "{}", reply.len());
            assert_eq!(reply[4..8], message[4..8], "another transaction");
            assert!(Answer::parse(reply).is_some());
        }
        assert!(server.leases().count() <= LEASES.total);
    }
});
