//! Static mappings: from the outside to the guest.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;

use nestling_tests::lab::server::Server;
use nestling_tests::lab::{self, GUEST4, GUEST6, Network, TAP, eventually, output};
use serde_json::json;

use crate::sockets::{body, connect, echo, echoed, get, page, udp};

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Whether nobody listens at an address of TCP.
fn is_closed(at: &str) -> bool {
    connect(address(at)).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

#[test]
fn a_server_in_the_guest_is_reached_by_its_mappings() {
    lab::run(&[], |lab| {
        let network = Network::start(
            lab,
            &[
                "--forward",
                "tcp:192.0.2.1:2222:192.168.100.10:80",
                "--forward",
                "tcp:[2001:db8::1]:2222:[fd6e:6573:746c::10]:80",
                "--forward",
                "udp:192.0.2.1:2222:192.168.100.10:7",
                "--forward",
                "udp:[2001:db8::1]:2222:[fd6e:6573:746c::10]:7",
            ],
        );
        let _servers = lab.guest.enter(|| {
            [
                page(&format!("{GUEST4}:80"), 1 << 20),
                page(&format!("[{GUEST6}]:80"), 1 << 20),
                echo(&format!("{GUEST4}:7")),
                echo(&format!("[{GUEST6}]:7")),
            ]
        });
        for outer in ["192.0.2.1:2222", "[2001:db8::1]:2222"].map(address) {
            let fetched = get(connect(outer).unwrap());
            assert!(fetched == body(1 << 20), "{outer}");
            // A connected socket takes answers from where it sent to only.
            let socket = udp(outer);
            for length in [1, 1400, 9000] {
                echoed(&socket, &body(length));
            }
        }
        assert!(is_closed("192.0.2.2:2222"));
        let forwards = network.list()["forwards"].clone();
        assert_eq!(
            forwards,
            json!([
                "tcp:192.0.2.1:2222:192.168.100.10:80",
                "tcp:[2001:db8::1]:2222:[fd6e:6573:746c::10]:80",
                "udp:192.0.2.1:2222:192.168.100.10:7",
                "udp:[2001:db8::1]:2222:[fd6e:6573:746c::10]:7",
            ])
        );
    });
}

#[test]
fn mappings_come_and_go_while_flows_live() {
    lab::run(&[], |lab| {
        let network = Network::start(lab, &[]);
        let _server = lab.guest.enter(|| {
            Server::tcp(&format!("{GUEST4}:22"), |mut stream| {
                let mut byte = [0];
                while stream.read(&mut byte)? > 0 {
                    stream.write_all(&byte)?;
                }
                Ok(())
            })
        });
        let outer = "192.0.2.1:2222";
        let mapping = "tcp:192.0.2.1:2222:192.168.100.10:22";
        assert!(is_closed(outer));
        let made = network.told(&["forward", "add", mapping]);
        assert_eq!(made["mapping"], mapping);
        assert_eq!(network.list()["forwards"], json!([mapping]));

        let mut stream = connect(address(outer)).unwrap();
        let mut answered = |byte: u8| {
            stream.write_all(&[byte]).unwrap();
            let mut answer = [0];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(answer, [byte]);
        };
        answered(1);
        let more = network.told(&["forward", "add", "udp:192.0.2.1:2222:192.168.100.10:53"]);
        assert_eq!(more["mapping"], "udp:192.0.2.1:2222:192.168.100.10:53");
        answered(2);
        let ended = network.told(&["forward", "remove", "tcp:192.0.2.1:2222"]);
        assert_eq!(ended["mapping"], mapping);
        assert!(is_closed(outer));
        answered(3);
        let list = network.list();
        assert_eq!(
            list["forwards"],
            json!(["udp:192.0.2.1:2222:192.168.100.10:53"])
        );
        assert_eq!(list["flows"]["tcp"], 1);
    });
}

#[test]
fn ports_are_chosen_and_mapped_in_ranges() {
    lab::run(&[], |lab| {
        let network = Network::start(lab, &["--forward", "tcp:192.0.2.1:0:192.168.100.10:80"]);
        let said = network.said();
        assert!(said.contains("the outer port was chosen"), "{said}");
        let _servers = lab
            .guest
            .enter(|| [80, 81, 82].map(|port| page(&format!("{GUEST4}:{port}"), port)));
        let reached = |at: &str| get(connect(address(at)).unwrap()).len();
        let at_start = network.list()["forwards"][0].as_str().unwrap().to_owned();
        let live = network.told(&["forward", "add", "tcp:192.0.2.2:0:192.168.100.10:81"]);
        for (mapping, outer, inner) in [
            (at_start.as_str(), "192.0.2.1", 80),
            (live["mapping"].as_str().unwrap(), "192.0.2.2", 81),
        ] {
            let port = mapping.split(':').nth(2).unwrap();
            assert_ne!(port, "0", "{mapping}");
            assert_eq!(reached(&format!("{outer}:{port}")), inner);
        }
        network.told(&[
            "forward",
            "add",
            "tcp:192.0.2.1:8000-8002:192.168.100.10:80",
        ]);
        for (outer, inner) in [(8000, 80), (8001, 81), (8002, 82)] {
            assert_eq!(reached(&format!("192.0.2.1:{outer}")), inner);
        }
        network.told(&["forward", "remove", "tcp:192.0.2.1:8000"]);
        for outer in 8000..8003 {
            assert!(is_closed(&format!("192.0.2.1:{outer}")), "{outer}");
        }
    });
}

#[test]
fn a_port_in_use_is_a_clear_error() {
    lab::run(&[], |lab| {
        let _other = page("192.0.2.1:8001", 10);
        let taken = "tcp:192.0.2.1:8000-8002:192.168.100.10:80";
        let refusal = Network::refusal(lab, &["--forward", taken]);
        assert_eq!(refusal.code, 1);
        for part in [taken, "tcp port 192.0.2.1:8001", "in use"] {
            assert!(refusal.line.contains(part), "{}", refusal.line);
        }
        let first = "tcp:192.0.2.1:2222:192.168.100.10:22";
        let network = Network::start(lab, &["--forward", first]);
        for (arguments, parts) in [
            // All ports of a range or none.
            (["add", taken], ["192.0.2.1:8001", "in use"]),
            // Another mapping's, also where the host would not object.
            (
                ["add", "tcp:0.0.0.0:2222:192.168.100.11:22"],
                [first, "tcp:0.0.0.0:2222:192.168.100.11:22"],
            ),
            (
                ["remove", "udp:192.0.2.1:2222"],
                ["no mapping of udp", "192.0.2.1:2222"],
            ),
            (
                ["remove", "sctp:192.0.2.1:2222"],
                ["sctp:192.0.2.1:2222", "write it like"],
            ),
        ] {
            let output = network.ask(&[&["forward"], &arguments[..]].concat());
            let refusal = nestling_tests::binary::refused(&output);
            for part in parts {
                assert!(
                    refusal.line.contains(part),
                    "{arguments:?}: {}",
                    refusal.line
                );
            }
        }
        assert_eq!(network.list()["forwards"], json!([first]));
        assert!(is_closed("192.0.2.1:8000"));
    });
}

#[test]
fn a_guest_reaches_another_by_the_others_mapping() {
    lab::run(&[], |lab| {
        let _network = Network::start(
            lab,
            &[
                "--spoofing",
                "on",
                "--forward",
                "tcp:192.0.2.1:2222:192.168.100.10:80",
                "--forward",
                "udp:192.0.2.1:2222:192.168.100.10:7",
            ],
        );
        let _servers = lab.guest.enter(|| {
            [
                page(&format!("{GUEST4}:80"), 100_000),
                echo(&format!("{GUEST4}:7")),
            ]
        });
        // One more guest, whose interface is behind the same tap.
        let other = lab::Namespace::new().unwrap();
        lab.add_station("station", "02:00:00:00:00:71");
        other.adopt(lab, "station");
        let outer = address("192.0.2.1:2222");
        other.enter(|| {
            output(
                "ip",
                &["address", "add", "192.168.100.20/24", "dev", "station"],
            );
            output("ip", &["route", "add", "default", "via", lab::GATEWAY4]);
            assert_eq!(get(connect(outer).unwrap()), body(100_000));
            echoed(&udp(outer), &body(1000));
        });
        // And itself.
        lab.guest.enter(|| {
            assert_eq!(get(connect(outer).unwrap()), body(100_000));
            echoed(&udp(outer), &body(1000));
        });
        assert!(eventually("the tap is still there", || {
            let shown = lab.guest.enter(|| output("ip", &["link", "show", TAP]));
            shown.contains("UP").then_some(true)
        }));
    });
}
