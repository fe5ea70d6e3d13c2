//! Labs side by side, each with a nested machine behind its own machine's NAT,
//! all with the same addresses: the example of docs/network.md.

use nestling_tests::lab::{self, Lab, Namespace, Network};

use crate::sockets::{body, connect, get, page};

/// The inner network of each lab.
const INNER: [&str; 4] = ["--cidr", "192.168.101.0/24", "--cidr6", "off"];

/// The address of each lab's nested machine.
const NESTED: &str = "192.168.101.10";

/// A lab's machine and its nested one, with their networks.
struct Machines {
    nested: Namespace,
    /// The inner first: it uses the outer.
    _networks: [Network; 2],
}

impl Machines {
    /// A lab called `name`, whose networks have these mappings.
    fn start(lab: &Lab, name: &str, outer: &[&str], inner: &[&str]) -> Self {
        let [machine, nested] = [Namespace::new().unwrap(), Namespace::new().unwrap()];
        let outer = Network::between(lab, &format!("-{name}-outer"), &machine, outer);
        let inner = machine.enter(|| {
            let arguments = [&INNER, inner].concat();
            Network::between(lab, &format!("-{name}-inner"), &nested, &arguments)
        });
        Self {
            nested,
            _networks: [inner, outer],
        }
    }
}

#[test]
fn a_nested_machine_of_one_lab_reaches_one_of_another_with_the_same_addresses() {
    lab::run(&[], |lab| {
        let here = Machines::start(lab, "a", &[], &[]);
        let there = Machines::start(
            lab,
            "b",
            &["--forward", "tcp:0.0.0.0:2222:192.168.100.10:2222"],
            &["--forward", "tcp:0.0.0.0:2222:192.168.101.10:22"],
        );
        let _server = there
            .nested
            .enter(|| page(&format!("{NESTED}:22"), 1 << 20));
        let fetched = here
            .nested
            .enter(|| get(connect("192.0.2.1:2222".parse().unwrap()).unwrap()));
        assert!(fetched == body(1 << 20));
        // Its own lab has the same addresses, and nobody at that port.
        let own = here
            .nested
            .enter(|| connect(format!("{NESTED}:22").parse().unwrap()).is_err());
        assert!(own);
    });
}
