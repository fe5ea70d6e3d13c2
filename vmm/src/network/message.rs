//! What is said over a network's control socket: one JSON object a line.

use std::collections::BTreeMap;

use nestling_devices::net::network::{PortStatus, Status};
use nestling_devices::net::switch::Traffic;
use serde::{Deserialize, Serialize};

/// What is asked of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// What it is doing: [`Reply::Network`].
    List,
    /// One more static mapping: [`Reply::Forward`], with the outer port that
    /// was chosen where it is 0.
    Forward {
        /// As `tcp:0.0.0.0:2222:192.168.100.10:22`.
        mapping: String,
    },
    /// One static mapping less: [`Reply::Forward`]. Its connections live on.
    Unforward {
        /// Its first outer port, as `tcp:0.0.0.0:2222`.
        outer: String,
    },
    /// MAC address spoofing on or off at a port: [`Reply::Done`].
    Spoofing {
        /// The port's number, as in the list.
        port: u8,
        /// On or off.
        on: bool,
    },
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Reply {
    /// What it is doing.
    Network(Box<Report>),
    /// The mapping that was made or ended.
    Forward {
        /// As `tcp:0.0.0.0:2222:192.168.100.10:22`.
        mapping: String,
    },
    /// It is done.
    Done,
    /// It can't be.
    Error {
        /// Why, in one line.
        message: String,
    },
}

/// What a network is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The switch's ports, the gateway's first.
    pub ports: Vec<Port>,
    /// Static mappings.
    pub forwards: Vec<String>,
    /// Leases that haven't ended.
    pub leases: Vec<Lease>,
    /// Flows under way: connections of TCP, mappings of UDP and of ICMP.
    pub flows: Flows,
    /// Sockets of the host that are open for them.
    pub sockets: usize,
    /// What the translation dropped, by reason, where there is any.
    pub drops: BTreeMap<String, u64>,
}

/// A port of the switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its number.
    pub port: u8,
    /// Its name.
    pub name: String,
    /// Its own MAC addresses.
    pub macs: Vec<String>,
    /// Whether MAC address spoofing is on.
    pub spoofing: bool,
    /// Whether somebody is plugged in.
    pub plugged: bool,
    /// The nested stations that were learned behind it.
    pub stations: Vec<String>,
    /// Frames that came from it.
    pub received_frames: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames that were sent to it.
    pub sent_frames: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// What was dropped, by reason, where there is any.
    pub drops: BTreeMap<String, u64>,
}

/// A lease of an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The address.
    pub address: String,
    /// Whose it is.
    pub mac: String,
    /// What its client calls itself.
    pub name: Option<String>,
    /// For how many seconds it lasts.
    pub rest_s: u64,
}

/// How many flows there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// Connections of TCP.
    pub tcp: usize,
    /// Mappings of UDP.
    pub udp: usize,
    /// Mappings of ICMP queries.
    pub icmp: usize,
}

impl From<Status> for Report {
    fn from(status: Status) -> Self {
        Self {
            ports: status.ports.into_iter().map(Port::from).collect(),
            forwards: status.mappings.iter().map(ToString::to_string).collect(),
            leases: status
                .leases
                .into_iter()
                .map(|lease| Lease {
                    address: lease.address.to_string(),
                    mac: lease.mac.to_string(),
                    name: lease.name,
                    rest_s: lease.rest.as_secs(),
                })
                .collect(),
            flows: Flows {
                tcp: status.flows.tcp,
                udp: status.flows.udp,
                icmp: status.flows.icmp,
            },
            sockets: status.sockets,
            drops: counted(status.drops),
        }
    }
}

impl From<PortStatus> for Port {
    fn from(port: PortStatus) -> Self {
        let Traffic {
            frames: received_frames,
            bytes: received_bytes,
        } = port.received;
        let Traffic {
            frames: sent_frames,
            bytes: sent_bytes,
        } = port.sent;
        Self {
            port: port.number,
            name: port.name,
            macs: port.addresses.iter().map(ToString::to_string).collect(),
            spoofing: port.spoofing,
            plugged: port.plugged,
            stations: port.stations.iter().map(ToString::to_string).collect(),
            received_frames,
            received_bytes,
            sent_frames,
            sent_bytes,
            drops: counted(port.drops),
        }
    }
}

fn counted(drops: Vec<(&'static str, u64)>) -> BTreeMap<String, u64> {
    let counted = drops.into_iter().filter(|(_, count)| *count > 0);
    counted
        .map(|(name, count)| (name.to_owned(), count))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::line::Line;

    #[test]
    fn requests_read_as_documented() {
        for (text, request) in [
            (r#"{"version":1,"do":"list"}"#, Request::List),
            (
                r#"{"version":1,"do":"forward","mapping":"tcp:0.0.0.0:0:10.0.0.2:22"}"#,
                Request::Forward {
                    mapping: "tcp:0.0.0.0:0:10.0.0.2:22".into(),
                },
            ),
            (
                r#"{"version":1,"do":"unforward","outer":"udp:[::]:53"}"#,
                Request::Unforward {
                    outer: "udp:[::]:53".into(),
                },
            ),
            (
                r#"{"version":1,"do":"spoofing","port":1,"on":true}"#,
                Request::Spoofing { port: 1, on: true },
            ),
        ] {
            let line: Line<Request> = serde_json::from_str(text).expect(text);
            assert_eq!(line, Line::new(request));
            assert_eq!(serde_json::to_string(&line).expect(text), text);
        }
    }

    #[test]
    fn only_what_was_dropped_is_listed() {
        let drops = counted(vec![("no_room", 0), ("vlan", 3)]);
        assert_eq!(drops, BTreeMap::from([("vlan".to_owned(), 3)]));
    }
}
