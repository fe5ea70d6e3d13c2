//! The forwarder of DNS: guests' queries, what resolvers answer, and the list
//! of these.
#![no_main]

use std::hash::RandomState;
use std::net::SocketAddr;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use nestling_devices::net::services::dns::question::{Family, Question};
use nestling_devices::net::services::dns::{Action, Client, Dns, Exchange, Timeout, resolv};
use nestling_devices::net::time::Time;
use nestling_fuzz::network::{self, GATEWAY4, mac};
use nestling_fuzz::records::records;

/// A query that the resolvers were asked.
struct Asked {
    exchange: Exchange,
    server: SocketAddr,
    message: Vec<u8>,
    /// The number that the guest gave it.
    id: [u8; 2],
}

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = resolv::nameservers(text);
    }
    if let Some(question) = Question::new(0x4142, "www.example.org", Family::V4) {
        let _ = question.answer(data);
    }
    let config = network::dns();
    let (most, longest) = (config.limits.total, config.longest_datagram);
    let mut dns = Dns::new(config, RandomState::new()).expect("a good configuration");
    dns.names.fix("gateway", GATEWAY4.into());
    let servers = ["198.51.100.53:53", "[2001:db8::53]:53"].map(|s| s.parse().expect("one"));
    dns.set_servers(&servers);
    let mut now = Time(1);
    let mut asked: Vec<Asked> = Vec::new();
    for (kind, body) in records(data) {
        let which = usize::from(kind >> 2);
        match kind & 3 {
            0 => {
                let client = Client {
                    port: u32::from(kind >> 6),
                    mac: mac(16),
                    source: SocketAddr::from(([192, 168, 100, 16], u16::from(kind))),
                    asked: GATEWAY4.into(),
                };
                match dns.query(now, client, body) {
                    Ok(Action::Reply(reply)) => {
                        assert_eq!(reply[..2], body[..2], "another query's");
                        assert!(reply[2] & 0x80 != 0 && reply.len() <= longest);
                    }
                    Ok(Action::Send(upstream)) => asked.push(Asked {
                        exchange: upstream.exchange,
                        server: upstream.server,
                        message: upstream.message.to_vec(),
                        id: [body[0], body[1]],
                    }),
                    Ok(Action::Wait) | Err(_) => {}
                }
            }
            // An answer, as it came or to what was asked.
            1 | 2 if !asked.is_empty() => {
                let at = which % asked.len();
                let Asked {
                    exchange,
                    server,
                    ref message,
                    id,
                } = asked[at];
                let mut answer = body.to_vec();
                if kind & 3 == 2 {
                    answer = [&message[..], body].concat();
                    answer[2] |= 0x80;
                }
                if let Some((_, reply)) = dns.answer(exchange, server, &answer) {
                    assert_eq!(reply[..2], id, "another query's");
                    assert!(reply.len() <= longest);
                    asked.swap_remove(at);
                }
            }
            _ => {
                now = now + Duration::from_millis(100 * u64::from(kind));
                while let Some(timeout) = dns.timeout(now) {
                    if let Timeout::GiveUp(exchange, _, reply) = timeout {
                        assert!(reply.len() <= longest);
                        asked.retain(|asked| asked.exchange != exchange);
                    }
                }
            }
        }
        assert!(dns.len() <= most && dns.len() == asked.len());
    }
});
