use std::net::UdpSocket;

use super::*;
use crate::net::ports::tap::Tap;
use crate::net::ports::tap::in_namespace;

const NAME: &str = "nestling-test";

/// The address that packets to the outside would come from.
fn source() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("198.51.100.1:9").ok()?;
    Some(socket.local_addr().unwrap().ip())
}

#[test]
#[allow(clippy::print_stderr)] // A skipped test says why.
fn a_bridge_keeps_its_address() {
    in_namespace(|| {
        let _tap = Tap::open(NAME, 1).unwrap();
        let mut routing = Routing::open().unwrap();
        let tap = routing.find(NAME).unwrap();
        let mac = MacAddress::new([2, 0, 0, 0, 0, 9]).unwrap();
        match routing.create_bridge("br0", mac) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                eprintln!("skipped: no bridges: {error}");
                return;
            }
            created => created.unwrap(),
        }
        let error = routing.create_bridge("br0", mac).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
        let bridge = routing.find("br0").unwrap();
        assert!(!bridge.running);
        routing.enslave(tap.index, bridge.index).unwrap();
        routing.bring_up(tap.index).unwrap();
        routing.bring_up(bridge.index).unwrap();
        assert_eq!(routing.find("br0").unwrap().mac, Some(mac));
        routing.delete(bridge.index).unwrap();
        assert!(routing.find("br0").is_err());
    });
}

#[test]
fn addresses_and_routes_come_and_go() {
    in_namespace(|| {
        let _tap = Tap::open(NAME, 1).unwrap();
        let mut routing = Routing::open().unwrap();
        let index = routing.find(NAME).unwrap().index;
        let (own, gateway): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mac = MacAddress::new([2, 0, 0, 0, 0, 9]);
        routing.set(index, mac, Some(1400)).unwrap();
        let link = routing.find(NAME).unwrap();
        assert_eq!((link.mac, link.mtu), (mac, Some(1400)));
        routing.bring_up(index).unwrap();
        for _ in 0..2 {
            routing.add_address(index, own, 24).unwrap();
            routing.add_gateway(index, gateway).unwrap();
            assert_eq!(source(), Some(own));
        }
        routing.remove_address(index, own, 24).unwrap();
        assert_eq!(source(), None);
        assert!(routing.remove_address(index, own, 24).is_err());
        routing.take_down(index).unwrap();
        assert!(!routing.find(NAME).unwrap().running);
        assert!(routing.add_gateway(index, gateway).is_err());
    });
}
