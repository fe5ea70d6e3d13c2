//! A guest's side of the network against the virtual network itself: a tap in
//! a namespace stands for the NIC.
#![allow(unsafe_code)]

use std::io::{self, PipeReader, PipeWriter};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use nestling_devices::net::attachment::Attachment;
use nestling_devices::net::network::Handle;
use nestling_devices::net::ports::tap::{TapAttachment, TapConfig};
use nestling_devices::net::switch::PortConfig;

use super::dhcp::{Client, Lease};
use super::fetch::{Limits, fetch};
use super::interface::Interfaces;
use super::page;
use super::ping::{Options, ping};
use super::resolve::{self, Resolver};
use crate::config::NetworkConfig;
use crate::network::VirtualNetwork;

const NIC: &str = "eth0";
const MTU: u16 = 1400;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 1);
const GUEST: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 10);
/// What the host's resolver answers for any name.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
const LONG: Duration = Duration::from_secs(120);
const LIMITS: Limits = Limits {
    timeout: LONG,
    bytes: 1 << 22,
};

/// What a test has of its host and its network.
struct Lab {
    handle: Handle,
    /// A page of the host, at its loopback.
    page: SocketAddr,
    /// Never readable.
    never: PipeReader,
    _end: PipeWriter,
}

/// Runs `test` in a namespace that has [`NIC`], which is plugged into a
/// virtual network of another namespace, where this host allows it.
#[allow(clippy::print_stderr)] // A skipped test says why.
fn in_guest(test: impl FnOnce(&Lab) + Send + 'static) {
    let host = thread::spawn(move || {
        if let Err(error) = leave_namespace() {
            eprintln!("skipped: no network namespace: {error}");
            return;
        }
        Interfaces::open().unwrap().bring_up("lo").unwrap();
        let resolver = host_resolver();
        let config = NetworkConfig {
            v6: None,
            mtu: MTU,
            dns: vec![resolver],
            host_loopback: true,
            ..NetworkConfig::default()
        };
        let network = VirtualNetwork::start(&config).unwrap();
        let server = page::Server::listen(([127, 0, 0, 1], 0).into(), body()).unwrap();
        let (never, end) = io::pipe().unwrap();
        let lab = Lab {
            handle: network.handle().clone(),
            page: server.address(),
            never: never.try_clone().unwrap(),
            _end: end,
        };
        let guest = thread::spawn(move || {
            leave_namespace().unwrap();
            let tap = TapConfig {
                name: NIC.to_owned(),
                namespace: None,
                link: None,
            };
            match TapAttachment::open(&tap) {
                Ok(tap) => {
                    plug(&lab.handle, tap);
                    test(&lab);
                }
                Err(error) => eprintln!("skipped: {error}"),
            }
        });
        // The guest's end of the pipe closes with the lab.
        server.serve(u32::MAX, LONG, never.as_fd()).unwrap();
        if let Err(panic) = guest.join() {
            std::panic::resume_unwind(panic);
        }
    });
    if let Err(panic) = host.join() {
        std::panic::resume_unwind(panic);
    }
}

fn leave_namespace() -> io::Result<()> {
    // SAFETY: unshare changes only the calling thread, which ends with the test.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn body() -> Vec<u8> {
    (0..=255).cycle().take(1 << 20).collect()
}

fn plug(handle: &Handle, tap: TapAttachment) {
    let config = PortConfig {
        addresses: tap.mac().into_iter().collect(),
        ..PortConfig::default()
    };
    let port = handle.add_port(NIC, config).unwrap();
    handle.plug(port, Box::new(tap)).unwrap();
}

/// A resolver at the host's loopback, which knows one address for all names,
/// until the process ends.
fn host_resolver() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut query) {
            let mut answer = query[..length].to_vec();
            answer[2..4].copy_from_slice(&[0x81, 0x80]);
            // Before the class of the question stands its type.
            if answer[length - 4..] == [0, 1, 0, 1] {
                answer[7] = 1;
                answer.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend(OUTSIDE.octets());
            }
            let _ = socket.send_to(&answer, client);
        }
    });
    address
}

/// Gets a lease for `name`, and uses it.
fn lease(interfaces: &mut Interfaces, name: &str) -> (Client, Lease) {
    interfaces.wait_for_carrier(name, LONG).unwrap();
    let mac = interfaces.mac(name).unwrap();
    let mut client = Client::open(name, mac, "lab").unwrap();
    let lease = client.acquire(LONG).unwrap();
    interfaces.configure(name, &lease).unwrap();
    (client, lease)
}

/// Everything that a level shows of its network.
fn reaches_all(lab: &Lab, lease: &Lease) {
    let options = Options {
        count: 3,
        interval: Duration::from_millis(1),
        timeout: LONG,
    };
    let pings = ping(GATEWAY.into(), &options).unwrap();
    assert_eq!((pings.sent, pings.times.len()), (3, 3));

    let resolver = Resolver::of(lease);
    for (name, address) in [
        ("gateway.internal", GATEWAY),
        ("lab", GUEST),
        ("lab.internal", GUEST),
        ("www.example.org", OUTSIDE),
    ] {
        assert_eq!(
            resolver.resolve(name).unwrap(),
            [IpAddr::from(address)],
            "{name}"
        );
    }
    let error = resolver.resolve("nobody").unwrap_err();
    assert!(
        matches!(error, resolve::Error::NoSuchName { .. }),
        "{error}"
    );

    let url = format!("http://{GATEWAY}:{}/", lab.page.port())
        .parse()
        .unwrap();
    let page = fetch(&url, &resolver, &LIMITS).unwrap();
    let expected = "fbbab289f7f94b25736c58be46a994c441fd02552cc6022352e3d86d2fab7c83";
    let found = (page.status, page.length, page.sha256.as_str());
    assert_eq!(found, (200, 1 << 20, expected));
}

#[test]
fn a_nic_gets_its_lease_and_reaches_all() {
    in_guest(|lab| {
        let mut interfaces = Interfaces::open().unwrap();
        interfaces.bring_up("lo").unwrap();
        interfaces.bring_up(NIC).unwrap();
        let (mut client, lease) = lease(&mut interfaces, NIC);
        let expected = Lease {
            address: GUEST,
            prefix: 24,
            router: Some(GATEWAY),
            dns: vec![GATEWAY],
            domain: Some("internal".into()),
            mtu: Some(MTU),
            server: GATEWAY,
            ..lease.clone()
        };
        assert_eq!(lease, expected);
        reaches_all(lab, &lease);
        assert_eq!(client.renew(LONG).unwrap(), lease);
        // Once it is stopped, it has nothing more to tell.
        let (stop, end) = io::pipe().unwrap();
        drop(end);
        client
            .keep(stop.as_fd(), |change| panic!("{change:?}"))
            .unwrap();
        let names = |lab: &Lab| lab.handle.status().unwrap().leases;
        assert_eq!(names(lab)[0].name.as_deref(), Some("lab"));
        client.release().unwrap();
        // The ping's answer comes after what was sent before it.
        ping(
            GATEWAY.into(),
            &Options {
                count: 1,
                interval: LONG,
                timeout: LONG,
            },
        )
        .unwrap();
        assert!(names(lab).is_empty());
        interfaces.unconfigure(NIC, &lease).unwrap();
        assert!(
            ping(
                GATEWAY.into(),
                &Options {
                    count: 1,
                    interval: LONG,
                    timeout: LONG
                }
            )
            .is_err()
        );
    });
}

#[test]
#[allow(clippy::print_stderr)] // A skipped test says why.
fn a_bridge_takes_the_place_of_its_nic() {
    in_guest(|lab| {
        let mut interfaces = Interfaces::open().unwrap();
        interfaces.bring_up(NIC).unwrap();
        if let Err(error) = interfaces.bridge("br0", NIC) {
            eprintln!("skipped: {error}");
            return;
        }
        interfaces.bridge_tap("tap0", "br0").unwrap();
        assert_eq!(interfaces.mac("br0").unwrap(), interfaces.mac(NIC).unwrap());
        let (_client, lease) = lease(&mut interfaces, "br0");
        reaches_all(lab, &lease);
    });
}

#[test]
fn a_static_mapping_leads_to_a_guest_s_page() {
    in_guest(|lab| {
        let mut interfaces = Interfaces::open().unwrap();
        interfaces.bring_up(NIC).unwrap();
        let (_client, lease) = lease(&mut interfaces, NIC);
        let server = page::Server::listen((lease.address, 0).into(), body()).unwrap();
        let port = server.address().port();
        let mapping = format!("tcp:127.0.0.1:0:{}:{port}", lease.address);
        let made = lab.handle.map(mapping.parse().unwrap()).unwrap();
        // The gateway's address leads back to the host's loopback.
        let url = format!("http://{GATEWAY}:{}/", made.outer.port)
            .parse()
            .unwrap();
        let resolver = Resolver::of(&lease);
        thread::scope(|scope| {
            let served = scope.spawn(|| server.serve(1, LONG, lab.never.as_fd()));
            let page = fetch(&url, &resolver, &LIMITS).unwrap();
            assert_eq!((page.status, page.length), (200, 1 << 20));
            assert_eq!(served.join().unwrap().unwrap(), 1);
        });
    });
}

#[test]
fn nobody_s_network_is_said_to_be_so() {
    in_guest(|_| {
        let mut interfaces = Interfaces::open().unwrap();
        let error = interfaces
            .wait_for_carrier(NIC, Duration::ZERO)
            .unwrap_err();
        let text = "interface eth0 has no carrier within 0 s: see that its NIC is plugged in";
        assert_eq!(error.to_string(), text);
        let mac = interfaces.mac(NIC).unwrap();
        let mut client = Client::open(NIC, mac, "").unwrap();
        let error = client.acquire(LONG).unwrap_err().to_string();
        assert!(error.ends_with(": bring the interface up"), "{error}");
        let again = Client::open(NIC, mac, "").unwrap_err().to_string();
        assert!(
            again.starts_with("cannot use UDP port 68 of eth0: "),
            "{again}"
        );
        interfaces.bring_up(NIC).unwrap();
        let error = client.acquire(Duration::ZERO).unwrap_err().to_string();
        let text = "no DHCP lease on eth0 within 0 s: see that a server is on its network";
        assert_eq!(error, text);
    });
}
