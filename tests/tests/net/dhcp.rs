//! Addresses by DHCP, from three clients.

use nestling_tests::lab::{self, Client, GATEWAY4, GUEST4, Network, TAP, eventually, output};

/// Two stations behind the tap.
const FIRST: &str = "02:00:00:00:00:71";
const SECOND: &str = "02:00:00:00:00:72";

fn lease(address: &str, name: Option<&str>) -> (String, Option<String>) {
    (address.into(), name.map(String::from))
}

#[test]
fn udhcpc_gets_a_lease_renews_it_and_gives_it_back() {
    lab::run(&["busybox"], |lab| {
        let network = Network::start(lab, &["--unconfigured", "--mtu", "1400"]);
        let options = ["-O", "mtu", "-x", "hostname:lab"];
        let mut client = Client::udhcpc(lab, TAP, &options);
        client.event("deconfig");
        let bound = client.event("bound");
        for (name, value) in [
            ("ip", GUEST4),
            ("mask", "24"),
            ("router", GATEWAY4),
            ("dns", GATEWAY4),
            ("domain", "internal"),
            ("mtu", "1400"),
            ("broadcast", "192.168.100.255"),
            ("serverid", GATEWAY4),
            ("lease", "43200"),
        ] {
            assert_eq!(bound[name], value, "{name}: {bound:?}");
        }
        assert_eq!(network.leases(), [lease(GUEST4, Some("lab"))]);
        client.signal(libc::SIGUSR1);
        assert_eq!(client.event("renew")["ip"], GUEST4);
        assert_eq!(network.leases(), [lease(GUEST4, Some("lab"))]);
        client.signal(libc::SIGUSR2);
        client.event("deconfig");
        eventually("the lease is free", || {
            network.leases().is_empty().then_some(())
        });
    });
}

#[test]
fn a_renewal_without_a_name_keeps_the_name() {
    lab::run(&["busybox"], |lab| {
        let network = Network::start(lab, &["--unconfigured"]);
        let mut named = Client::udhcpc(lab, TAP, &["-x", "hostname:lab"]);
        named.event("bound");
        drop(named);
        // The same client by its hardware address, with less to say.
        let mut nameless = Client::udhcpc(lab, TAP, &["-r", GUEST4]);
        assert_eq!(nameless.event("bound")["ip"], GUEST4);
        assert_eq!(network.leases(), [lease(GUEST4, Some("lab"))]);
    });
}

#[test]
fn dhclient_is_refused_an_address_from_elsewhere_and_gets_one_from_here() {
    lab::run(&["dhclient"], |lab| {
        let arguments = [
            "--unconfigured",
            "--cidr",
            "10.9.8.0/24",
            "--domain",
            "lab.test",
        ];
        let route = ["--route", "10.7.0.0/16=10.9.8.77"];
        let network = Network::start(lab, &[&arguments[..], &route].concat());
        let elsewhere = "lease { interface \"tap0\"; fixed-address 172.16.0.9; \
            option subnet-mask 255.255.255.0; renew never; rebind never; expire never; }\n";
        std::fs::write(lab.path("dhclient-4.leases"), elsewhere).unwrap();
        let mut client = Client::dhclient(lab, TAP, "-4");
        let bound = client.event("BOUND");
        let said = client.said();
        assert!(said.contains("DHCPREQUEST for 172.16.0.9"), "{said}");
        assert!(said.contains("DHCPNAK from 10.9.8.1"), "{said}");
        for (name, value) in [
            ("new_ip_address", "10.9.8.10"),
            ("new_subnet_mask", "255.255.255.0"),
            ("new_routers", "10.9.8.1"),
            ("new_domain_name_servers", "10.9.8.1"),
            ("new_domain_name", "lab.test"),
            ("new_interface_mtu", "65520"),
            // The default route, and the one to the network behind a guest.
            ("new_classless_routes", "0 10 9 8 1 16 10 7 10 9 8 77"),
        ] {
            assert_eq!(bound[name], value, "{name}: {bound:?}");
        }
        assert_eq!(network.leases(), [lease("10.9.8.10", Some("lab"))]);
        Client::release_dhclient(lab, TAP, "-4");
        client.wait();
        assert_eq!(network.leases(), []);
        // It comes back, and the address has waited for it.
        let mut client = Client::dhclient(lab, TAP, "-4");
        assert_eq!(client.event("BOUND")["new_ip_address"], "10.9.8.10");
    });
}

#[test]
fn dhcpcd_gets_leases_of_both_families() {
    lab::run_with_users(&["dhcpcd"], |lab| {
        let network = Network::start(lab, &["--unconfigured"]);
        let settings = "hostname lab\nnoarp\nia_na\n\
            option domain_name_servers, domain_name, interface_mtu\n";
        let mut client = Client::dhcpcd(lab, TAP, settings);
        let bound = client.event("BOUND");
        assert_eq!(bound["new_ip_address"], GUEST4);
        assert_eq!(bound["new_routers"], GATEWAY4);
        assert_eq!(bound["new_interface_mtu"], "65520");
        let bound = client.event("BOUND6");
        assert_eq!(bound["new_dhcp6_ia_na1_ia_addr1"], lab::GUEST6);
        assert_eq!(bound["new_dhcp6_name_servers"], lab::GATEWAY6);
        let leases = [lease(GUEST4, Some("lab")), lease(lab::GUEST6, Some("lab"))];
        assert_eq!(network.leases(), leases);
    });
}

#[test]
fn who_has_an_address_is_told_the_rest() {
    lab::run_with_users(&["dhcpcd"], |lab| {
        let network = Network::start(lab, &["--unconfigured"]);
        let settings = "inform 192.168.100.77/24\nnoipv6\noption domain_name_servers\n";
        let mut client = Client::dhcpcd(lab, TAP, settings);
        let informed = client.event("INFORM");
        assert_eq!(informed["new_ip_address"], "192.168.100.77");
        assert_eq!(informed["new_domain_name_servers"], GATEWAY4);
        assert_eq!(network.leases(), []);
    });
}

#[test]
fn an_address_that_a_stranger_has_is_declined() {
    lab::run(&["busybox"], |lab| {
        let network = Network::start(lab, &["--unconfigured", "--spoofing", "on"]);
        lab.add_station("first", FIRST);
        lab.add_station("second", SECOND);
        let stranger = lab::Namespace::new().unwrap();
        stranger.adopt(lab, "second");
        stranger.enter(|| {
            output(
                "ip",
                &["address", "add", "192.168.100.10/24", "dev", "second"],
            );
        });
        // It looks whether somebody has the address, and soon asks again.
        let mut client = Client::udhcpc(lab, "first", &["-a", "-A", "1"]);
        assert_eq!(client.event("bound")["ip"], "192.168.100.11");
        let said = client.said();
        assert!(said.contains("declining"), "{said}");
        assert_eq!(network.leases().len(), 1);
    });
}

#[test]
fn each_station_behind_a_tap_gets_a_lease_where_spoofing_is_on() {
    lab::run(&["busybox"], |lab| {
        let network = Network::start(lab, &["--unconfigured"]);
        lab.add_station("first", FIRST);
        lab.add_station("second", SECOND);
        // The policy drops what isn't the tap's own, and says so.
        let mut first = Client::udhcpc(lab, "first", &[]);
        eventually("the frames are dropped", || {
            let drops = network.list()["ports"][1]["drops"]["spoofed_source"].as_u64();
            drops.filter(|drops| *drops > 0)
        });
        assert_eq!(network.leases(), []);
        // The client asks on, and is heard once it may speak.
        network.set_spoofing(true);
        let mut second = Client::udhcpc(lab, "second", &[]);
        let mut own = Client::udhcpc(lab, TAP, &[]);
        let mut addresses =
            [&mut first, &mut second, &mut own].map(|client| client.event("bound")["ip"].clone());
        addresses.sort();
        let expected = ["192.168.100.10", "192.168.100.11", "192.168.100.12"];
        assert_eq!(addresses, expected);
        let report = network.list();
        let mut stations: Vec<_> = report["ports"][1]["stations"]
            .as_array()
            .unwrap()
            .iter()
            .map(|station| station.as_str().unwrap())
            .collect();
        stations.sort_unstable();
        assert_eq!(stations, [FIRST, SECOND]);
    });
}

#[test]
fn a_reserved_address_is_for_its_station_alone() {
    lab::run(&["busybox"], |lab| {
        let arguments = ["--unconfigured", "--spoofing", "on", "--reserve"];
        let reserved = format!("{FIRST}={GUEST4}");
        let network = Network::start(lab, &[&arguments[..], &[&reserved]].concat());
        lab.add_station("first", FIRST);
        let mut other = Client::udhcpc(lab, TAP, &["-r", GUEST4]);
        assert_eq!(other.event("bound")["ip"], "192.168.100.11");
        let mut client = Client::udhcpc(lab, "first", &[]);
        assert_eq!(client.event("bound")["ip"], GUEST4);
        assert_eq!(network.leases().len(), 2);
    });
}

#[test]
fn the_addresses_of_a_configured_tap_are_nobody_elses() {
    lab::run(&["busybox"], |lab| {
        let network = Network::start(lab, &["--spoofing", "on"]);
        lab.add_station("first", FIRST);
        let mut client = Client::udhcpc(lab, "first", &["-r", GUEST4]);
        assert_eq!(client.event("bound")["ip"], "192.168.100.11");
        assert_eq!(network.leases().len(), 1);
    });
}

#[test]
fn a_pool_that_is_used_up_gives_no_more() {
    lab::run(&["busybox"], |lab| {
        let pool = ["--unconfigured", "--spoofing", "on", "--pool"];
        let range = ["192.168.100.20-192.168.100.20"];
        let network = Network::start(lab, &[&pool[..], &range].concat());
        lab.add_station("first", FIRST);
        let mut client = Client::udhcpc(lab, TAP, &[]);
        assert_eq!(client.event("bound")["ip"], "192.168.100.20");
        let mut late = Client::udhcpc(lab, "first", &["-n", "-t", "2"]);
        late.wait();
        let list = network.list();
        let ignored = list["ports"][1]["drops"]["dhcp_ignored"].as_u64();
        assert!(ignored >= Some(2), "{list}");
        assert_eq!(network.leases().len(), 1);
    });
}
