//! Flows of the guest to the host and the world.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;

use nestling_tests::lab::server::Server;
use nestling_tests::lab::{self, GATEWAY4, GATEWAY6, Lab, Network, command};

use crate::sockets::{body, connect, echo, echoed, echoes, get, page, udp};

/// A port where nobody listens.
const CLOSED: u16 = 9;

#[test]
fn pages_are_fetched_over_both_families() {
    lab::run(&[], |lab| {
        for mtu in ["1500", "65520"] {
            let network = Network::start(lab, &["--mtu", mtu]);
            for address in ["192.0.2.1:0", "[2001:db8::1]:0"] {
                let server = page(address, 3 << 20);
                let fetched = lab.guest.enter(|| get(connect(server.address).unwrap()));
                assert!(fetched == body(3 << 20), "{address} at {mtu}");
            }
            network.stop();
        }
    });
}

#[test]
fn uploads_arrive_whole_and_connections_close_half_by_half() {
    lab::run(&[], |lab| {
        let _network = Network::start(lab, &[]);
        for address in ["192.0.2.1:0", "[2001:db8::1]:0"] {
            // It answers only when all has come, which ends with a FIN.
            let server = Server::tcp(address, |mut stream| {
                let mut all = Vec::new();
                stream.read_to_end(&mut all)?;
                stream.write_all(&all[all.len() - 1000..])
            });
            let upload = body(3 << 20);
            let answer = lab.guest.enter(|| {
                let mut stream = connect(server.address).unwrap();
                stream.write_all(&upload).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).unwrap();
                answer
            });
            assert!(answer == upload[upload.len() - 1000..], "{address}");
        }
    });
}

#[test]
fn datagrams_come_back_over_both_families() {
    lab::run(&[], |lab| {
        let network = Network::start(lab, &["--mtu", "1500"]);
        for address in ["192.0.2.1:0", "[2001:db8::1]:0"] {
            echoes(lab, address);
        }
        assert_eq!(network.list()["flows"]["udp"], 2);
    });
}

#[test]
fn one_socket_is_one_port_to_all_others() {
    lab::run(&[], |lab| {
        let _network = Network::start(lab, &[]);
        // Both servers tell as whom they see the guest (RFC 4787, REQ-1).
        let (heard, seen) = std::sync::mpsc::channel();
        let servers = ["192.0.2.1:7000", "192.0.2.2:7000"].map(|address| {
            let socket = std::net::UdpSocket::bind(address).unwrap();
            socket.set_read_timeout(Some(lab::PATIENCE)).unwrap();
            let heard = heard.clone();
            std::thread::spawn(move || heard.send(socket.recv_from(&mut [0; 10]).unwrap().1))
        });
        lab.guest.enter(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:40123").unwrap();
            for server in ["192.0.2.1:7000", "192.0.2.2:7000"] {
                socket.send_to(b"hello", server).unwrap();
            }
        });
        for server in servers {
            server.join().unwrap().unwrap();
        }
        let ports: Vec<_> = seen.try_iter().map(|from| from.port()).collect();
        assert_eq!(ports, [40123, 40123], "the guest's own, where it is free");
    });
}

#[test]
fn pings_are_answered() {
    lab::run(&["ping"], |lab| {
        let _network = Network::start(lab, &[]);
        for address in [GATEWAY4, GATEWAY6, "192.0.2.1", "2001:db8::1"] {
            let arguments = ["-c", "2", "-i", "0.2", "-W", "5", "-s", "1000", address];
            let text = lab.guest.enter(|| lab::output("ping", &arguments));
            assert!(
                text.contains("2 packets transmitted, 2 received, 0% packet loss"),
                "{text}"
            );
        }
    });
}

#[test]
fn refusals_reach_the_guest() {
    lab::run(&["ping"], |lab| {
        let _network = Network::start(lab, &[]);
        for address in ["192.0.2.1", "2001:db8::1"] {
            let closed = (address.parse::<std::net::IpAddr>().unwrap(), CLOSED).into();
            lab.guest.enter(|| {
                let refused = connect(closed).unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{address}");
                let socket = udp(closed);
                socket.send(b"hello").unwrap();
                let refused = socket.recv(&mut [0; 10]).unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{address}");
            });
        }
        // The host has no way there. To sockets of UDP that is no error (ip(7)).
        for address in ["198.51.100.1", "2001:db8:ffff::1"] {
            let nowhere = (address.parse::<std::net::IpAddr>().unwrap(), CLOSED).into();
            lab.guest.enter(|| {
                let expected = [ErrorKind::NetworkUnreachable, ErrorKind::HostUnreachable];
                let refused = connect(nowhere).unwrap_err();
                assert!(expected.contains(&refused.kind()), "{address}: {refused}");
                let ping = command("ping", &["-c", "1", "-W", "5", address])
                    .output()
                    .unwrap();
                let text = String::from_utf8_lossy(&ping.stdout).to_lowercase();
                assert!(
                    text.contains("unreachable") || text.contains("no route"),
                    "{text}"
                );
            });
        }
    });
}

/// Whether the guest reaches servers of TCP and UDP on the host's loopback by
/// the gateway's addresses.
fn reaches_loopback(lab: &Lab) -> Vec<bool> {
    let mut reached = Vec::new();
    for (loopback, gateway) in [("127.0.0.1", GATEWAY4), ("[::1]", GATEWAY6)] {
        let connections = page(&format!("{loopback}:0"), 10);
        let datagrams = echo(&format!("{loopback}:0"));
        let gateway: std::net::IpAddr = gateway.parse().unwrap();
        let (tcp, udp_port) = (connections.address.port(), datagrams.address.port());
        lab.guest.enter(|| {
            reached
                .push(connect((gateway, tcp).into()).is_ok_and(|stream| get(stream) == body(10)));
            let socket = udp((gateway, udp_port).into());
            socket.send(b"hello").unwrap();
            reached.push(socket.recv(&mut [0; 10]).is_ok());
        });
    }
    reached
}

#[test]
fn the_hosts_loopback_is_out_of_reach_unless_it_is_allowed() {
    lab::run(&[], |lab| {
        let network = Network::start(lab, &[]);
        assert_eq!(reaches_loopback(lab), [false; 4]);
        network.stop();
        let _network = Network::start(lab, &["--host-loopback", "on"]);
        assert_eq!(reaches_loopback(lab), [true; 4]);
    });
}

#[test]
fn a_filter_by_address_and_port_lets_nobody_else_in() {
    lab::run(&[], |lab| {
        for (filtering, others) in [
            ("endpoint-independent", true),
            ("address-and-port-dependent", false),
        ] {
            let network = Network::start(lab, &["--filtering", filtering]);
            let server = std::net::UdpSocket::bind("192.0.2.1:0").unwrap();
            server.set_read_timeout(Some(lab::PATIENCE)).unwrap();
            let other = std::net::UdpSocket::bind("192.0.2.2:0").unwrap();
            let from_guest = server.local_addr().unwrap();
            let guest = lab.guest.enter(|| {
                let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.set_read_timeout(Some(lab::PATIENCE)).unwrap();
                socket.send_to(b"hello", from_guest).unwrap();
                socket
            });
            let (_, seen) = server.recv_from(&mut [0; 10]).unwrap();
            other.send_to(b"other", seen).unwrap();
            server.send_to(b"asked", seen).unwrap();
            let expected: &[&[u8]] = if others {
                &[b"other", b"asked"]
            } else {
                &[b"asked"]
            };
            for text in expected {
                let mut datagram = [0; 10];
                let len = guest.recv(&mut datagram).unwrap();
                assert_eq!(&datagram[..len], *text, "{filtering}");
            }
            echoed_once_more(&server, &guest);
            network.stop();
        }
    });
}

/// Nothing else has come to the guest before what is sent last.
fn echoed_once_more(server: &std::net::UdpSocket, guest: &std::net::UdpSocket) {
    guest
        .send_to(b"last", server.local_addr().unwrap())
        .unwrap();
    let mut datagram = [0; 10];
    let (len, seen) = server.recv_from(&mut datagram).unwrap();
    server.send_to(&datagram[..len], seen).unwrap();
    let len = guest.recv(&mut datagram).unwrap();
    assert_eq!(&datagram[..len], b"last");
}

#[test]
fn flows_last_while_others_come() {
    lab::run(&[], |lab| {
        let network = Network::start(lab, &[]);
        let server = echo("192.0.2.1:0");
        let idle = page("192.0.2.2:0", 10);
        lab.guest.enter(|| {
            let waiting = connect(idle.address).unwrap();
            let sockets: Vec<_> = (0..200).map(|_| udp(server.address)).collect();
            for socket in sockets.iter().chain(&sockets[..1]) {
                echoed(socket, b"hello");
            }
            assert_eq!(get(waiting), body(10));
        });
        let list = network.list();
        assert_eq!(list["flows"]["udp"], 200, "{list}");
    });
}
