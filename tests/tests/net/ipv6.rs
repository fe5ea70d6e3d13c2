//! IPv6 addresses: router advertisements, what the kernel makes of them, and
//! DHCPv6.

use std::fs::{self, File};
use std::net::{IpAddr, TcpStream};

use nestling_tests::lab::{
    self, Client, GATEWAY6, GUEST6, Lab, Network, TAP, command, dig, eventually, output,
};

use crate::sockets::{echoes, get, page};

/// The addresses of the tap that the kernel made itself, of one scope.
fn addresses(lab: &Lab, scope: &str) -> Vec<String> {
    let list = ["-6", "-o", "address", "show", "dev", TAP, "scope", scope];
    let text = lab.guest.enter(|| output("ip", &list));
    let ready = text.lines().filter(|line| !line.contains("tentative"));
    ready
        .filter_map(|line| {
            let (_, rest) = line.split_once("inet6 ")?;
            Some(rest.split('/').next()?.to_owned())
        })
        .collect()
}

/// What a program says, without its columns.
fn words_of(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Waits until the guest has a link-local address.
fn link_local(lab: &Lab) -> String {
    eventually("a link-local address", || addresses(lab, "link").pop())
}

#[test]
fn the_kernel_configures_itself_and_reaches_the_world() {
    lab::run(&["dig"], |lab| {
        let _network = Network::start(lab, &["--unconfigured", "--cidr", "off"]);
        let own = eventually("an address of the prefix", || {
            let found = addresses(lab, "global").pop()?;
            found.starts_with("fd6e:6573:746c:").then_some(found)
        });
        let routes = lab
            .guest
            .enter(|| output("ip", &["-6", "route", "show", "default"]));
        // The gateway's link-local address is made of its hardware address.
        assert!(routes.contains("via fe80::6e:65ff:fe73:7401"), "{routes}");
        assert!(routes.contains("proto ra"), "{routes}");
        let server = page("[2001:db8::1]:0", 100_000);
        let fetched = lab.guest.enter(|| {
            let stream = TcpStream::connect(server.address).unwrap();
            assert_eq!(
                stream.local_addr().unwrap().ip(),
                own.parse::<IpAddr>().unwrap()
            );
            get(stream)
        });
        assert_eq!(fetched.len(), 100_000);
        let gateway = format!("@{GATEWAY6}");
        let named = lab
            .guest
            .enter(|| dig(&[&gateway, "gateway.internal", "AAAA"]));
        assert_eq!(named.records, [GATEWAY6]);
    });
}

#[test]
fn dhclient_gets_an_ipv6_address_and_a_name() {
    lab::run(&["dhclient", "dig"], |lab| {
        let network = Network::start(lab, &["--unconfigured"]);
        link_local(lab);
        let mut client = Client::dhclient(lab, TAP, "-6");
        let bound = client.event("BOUND6");
        for (name, value) in [
            ("new_ip6_address", GUEST6),
            ("new_dhcp6_name_servers", GATEWAY6),
            ("new_dhcp6_domain_search", "internal."),
            ("new_preferred_life", "43200"),
        ] {
            assert_eq!(bound[name], value, "{name}: {bound:?}");
        }
        assert_eq!(network.leases(), [(GUEST6.into(), Some("lab".into()))]);
        let gateway = format!("@{GATEWAY6}");
        let ask = |arguments: &[&str]| {
            let all = [&[gateway.as_str()], arguments].concat();
            lab.guest.enter(|| dig(&all))
        };
        assert_eq!(ask(&["lab.internal", "AAAA"]).records, [GUEST6]);
        assert_eq!(ask(&["-x", GUEST6]).records, ["lab.internal."]);
        echoes(lab, "[2001:db8::1]:0");
        Client::release_dhclient(lab, TAP, "-6");
        client.wait();
        assert_eq!(network.leases(), []);
        assert_eq!(ask(&["lab.internal", "AAAA"]).status, "NXDOMAIN");
    });
}

#[test]
fn an_ipv6_address_can_be_reserved() {
    lab::run(&["dhclient"], |lab| {
        let station = "02:00:00:00:00:71";
        let reserved = format!("{station}=fd6e:6573:746c::77");
        let arguments = ["--unconfigured", "--spoofing", "on", "--reserve", &reserved];
        let network = Network::start(lab, &arguments);
        link_local(lab);
        lab.add_station("first", station);
        let mut client = Client::dhclient(lab, "first", "-6");
        let bound = client.event("BOUND6");
        assert_eq!(bound["new_ip6_address"], "fd6e:6573:746c::77");
        assert_eq!(network.leases().len(), 1);
    });
}

#[test]
fn rdisc6_sees_the_router_come_and_go() {
    lab::run(&["rdisc6", "stdbuf"], |lab| {
        let network = Network::start(lab, &["--unconfigured", "--mtu", "1400"]);
        link_local(lab);
        let once = lab.guest.enter(|| output("rdisc6", &["-1", TAP]));
        let words = words_of(&once);
        for part in [
            "Stateful address conf. : Yes",
            "Router lifetime : 1800",
            "Prefix : fd6e:6573:746c::/64",
            "On-link : Yes",
            "Autonomous address conf.: Yes",
            "MTU : 1400 bytes (valid)",
            "Recursive DNS server : fd6e:6573:746c::1",
            "DNS search list : internal",
            "Source link-layer address: 02:6E:65:73:74:01",
            "from fe80::6e:65ff:fe73:7401",
        ] {
            assert!(words.contains(part), "no {part:?} in: {once}");
        }
        // One that listens on hears the farewell.
        let heard = lab.path("heard");
        let to_file = File::create(&heard).unwrap();
        let mut listener = lab.guest.enter(|| {
            let arguments = ["-oL", "rdisc6", "-m", "-w", "20000", TAP];
            let mut listen = command("stdbuf", &arguments);
            listen.stdout(to_file).spawn().unwrap()
        });
        let hears = |part| {
            let words = words_of(&fs::read_to_string(&heard).unwrap());
            words.contains(part).then_some(())
        };
        eventually("the router is heard", || hears("Router lifetime : 1800"));
        network.stop();
        eventually("its farewell is heard", || hears("Router lifetime : 0 "));
        listener.kill().unwrap();
        listener.wait().unwrap();
    });
}
