//! Both ends of the traffic. One end is started inside the lab, or inside a
//! guest, as a process of its own, and prints what it measured as a line of JSON.

mod bulk;
mod exchange;
mod guest;
mod idle;
mod level;
mod server;
mod soak;
mod socket;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use crate::Failure;

pub(crate) use bulk::{Bulk, approximate};
pub(crate) use exchange::Exchanges;
pub(crate) use guest::{READY, Request, answer};
pub(crate) use idle::Held;
pub(crate) use level::{Exits, INITRD, result};
pub(crate) use soak::Soaked;

/// How long one end waits for the other before it gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What a process of this program does for the one that measures.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum Role {
    /// Serve all kinds of traffic, until killed
    #[command(hide = true)]
    Serve {
        /// At which address
        address: Ipv4Addr,
        /// The first port; each service adds its number
        first: u16,
    },
    /// Be the client of one kind of traffic
    #[command(hide = true)]
    Client(Client),
    /// Do what the machine's second serial port says
    #[command(hide = true)]
    Guest,
    /// In L0: count the exits of an L1 that sends
    #[command(hide = true)]
    CountExits,
    /// In L1: send to L0
    #[command(hide = true)]
    Send,
}

/// A client's task.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(crate) struct Client {
    /// What it does
    pub(crate) test: Test,
    /// Where the server is
    pub(crate) address: Ipv4Addr,
    /// The first of the server's ports
    pub(crate) first: u16,
    /// For how long
    #[arg(long, default_value_t = 1000)]
    pub(crate) milliseconds: u64,
    /// How many flows it holds
    #[arg(long, default_value_t = 1)]
    pub(crate) count: u32,
    /// What its choices are drawn from
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// Kinds of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Test {
    /// One TCP flow that sends as fast as it can.
    Bulk,
    /// One byte there and back on one TCP flow, again and again.
    Request,
    /// The same, on a new TCP flow each time.
    Connect,
    /// One byte there and back by UDP.
    Datagram,
    /// TCP flows that are opened and held.
    Hold,
    /// TCP and UDP in all the ways in which flows begin and end.
    Soak,
}

/// What listens, by its distance from the first port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Sink,
    Echo,
    OneEcho,
    UdpEcho,
    Idle,
    Soak,
    /// Nothing does, and no static mapping leads there.
    Refused,
}

/// How many ports the services take.
pub(crate) const PORTS: u16 = 6;

impl Service {
    fn port(self, first: u16) -> u16 {
        let distance = match self {
            Self::Sink => 0,
            Self::Echo => 1,
            Self::OneEcho => 2,
            Self::UdpEcho => 3,
            Self::Idle => 4,
            Self::Soak => 5,
            Self::Refused => PORTS,
        };
        first + distance
    }
}

impl Client {
    /// A client of one kind that runs for a while.
    pub(crate) fn new(test: Test, address: Ipv4Addr, first: u16, duration: Duration) -> Self {
        Self {
            test,
            address,
            first,
            milliseconds: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            count: 1,
            seed: 1,
        }
    }

    /// For how long it runs.
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_millis(self.milliseconds)
    }

    fn server(&self, service: Service) -> SocketAddr {
        (self.address, service.port(self.first)).into()
    }
}

impl Role {
    /// The arguments that start this program in this role.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let line = match self {
            Self::Serve { address, first } => format!("serve {address} {first}"),
            Self::Client(client) => {
                let test = client.test.to_possible_value();
                let test = test.as_ref().map_or("", |value| value.get_name());
                format!(
                    "client {test} {} {} --milliseconds {} --count {} --seed {}",
                    client.address, client.first, client.milliseconds, client.count, client.seed
                )
            }
            Self::Guest => "guest".into(),
            Self::CountExits => "count-exits".into(),
            Self::Send => "send".into(),
        };
        line.split(' ').map(str::to_owned).collect()
    }
}

/// Plays a role to its end.
pub(crate) fn play(role: &Role) -> Result<(), Failure> {
    match role {
        Role::Serve { address, first } => server::run(*address, *first),
        Role::Guest => guest::run(),
        Role::CountExits => level::count(),
        Role::Send => level::send(),
        Role::Client(client) => match client.test {
            Test::Bulk => tell(&bulk::send(client)?),
            Test::Request => tell(&exchange::requests(client)?),
            Test::Connect => tell(&exchange::connections(client)?),
            Test::Datagram => tell(&exchange::datagrams(client)?),
            Test::Hold => idle::hold(client),
            Test::Soak => tell(&soak::run(client)),
        },
    }
}

/// Prints what was measured as one line.
fn tell(outcome: &impl Serialize) -> Result<(), Failure> {
    crate::print(&(serde_json::to_string(outcome)? + "\n"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::options::Options;

    #[test]
    fn a_role_is_told_by_its_arguments() {
        let mut client = Client::new(
            Test::Datagram,
            Ipv4Addr::new(192, 0, 2, 1),
            5200,
            Duration::from_millis(1500),
        );
        client.count = 10_000;
        client.seed = 42;
        let server = Role::Serve {
            address: Ipv4Addr::LOCALHOST,
            first: 5000,
        };
        let client = Role::Client(client);
        for role in [server, client, Role::Guest, Role::CountExits, Role::Send] {
            let words = [vec!["bench-net".to_owned()], role.arguments()].concat();
            assert_eq!(Options::parse_from(words).role, Some(role));
        }
    }

    #[test]
    fn every_service_has_a_port_of_its_own() {
        use Service::{Echo, Idle, OneEcho, Refused, Sink, Soak, UdpEcho};
        let services = [Sink, Echo, OneEcho, UdpEcho, Idle, Soak, Refused];
        let ports: Vec<u16> = services.map(|service| service.port(100)).to_vec();
        assert_eq!(ports, (100..=100 + PORTS).collect::<Vec<_>>());
    }
}
