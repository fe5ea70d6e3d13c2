//! `nestling net switch`.

use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use nestling_devices::net::mac::MacAddress;
use nestling_devices::net::ports::vhost_user::{VhostUser, VhostUserConfig};
use nestling_devices::net::switch::PortConfig;

use super::recordings::Recordings;
use super::{ENDING, NetworkArgs};
use crate::api::socket::{SocketFile, listen};
use crate::cli::{Failure, Verdict};
use crate::config::{OptionError, Options};
use crate::network::{VirtualNetwork, limits};
use crate::signals::Signals;
use crate::size::Size;

/// The MTU of the switch unless another is given: that of guests which nobody
/// tells another.
const MTU: u16 = 1500;

/// The flags of `nestling net switch`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Switch {
    /// A socket where a front end of vhost-user joins a port of the switch; may be repeated:
    /// PATH,mac=ADDRESS[,spoofing=on][,name=NAME][,pcap=FILE][,rate=BYTES][,frame_rate=N]
    /// (a second). The address is that of the guest's NIC; with spoofing on, the guest may
    /// use others, and it may be left out
    #[arg(long, value_name = "SOCKET", required = true)]
    socket: Vec<Port>,

    #[command(flatten)]
    network: NetworkArgs,
}

/// A port that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Port {
    socket: PathBuf,
    mac: Option<MacAddress>,
    spoofing: bool,
    name: String,
    pcap: Option<PathBuf>,
    rate: Option<Size>,
    frame_rate: Option<u64>,
}

impl FromStr for Port {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let keys = [
            "path",
            "mac",
            "spoofing",
            "name",
            "pcap",
            "rate",
            "frame_rate",
        ];
        let mut options = Options::parse(text, &keys)?;
        let socket: PathBuf = options.require("path")?;
        let name = options.take("name")?.unwrap_or_else(|| {
            let stem = socket.file_stem().unwrap_or_default();
            stem.to_string_lossy().into_owned()
        });
        let port = Self {
            socket,
            mac: options.take("mac")?,
            spoofing: options.switch("spoofing")?,
            name,
            pcap: options.take("pcap")?,
            rate: options.take("rate")?,
            frame_rate: options.take("frame_rate")?,
        };
        if port.mac.is_none() && !port.spoofing {
            return Err(OptionError::Missing("spoofing=on or mac"));
        }
        Ok(port)
    }
}

/// A socket can't be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen at {path}: {source}")]
struct ListenError {
    path: PathBuf,
    source: io::Error,
}

impl Switch {
    /// Serves front ends until a signal comes.
    pub(super) fn execute(self) -> Result<Verdict, Failure> {
        let signals = Signals::block(&ENDING).map_err(Failure::failed)?;
        let config = self.network.config(MTU)?;
        let network = VirtualNetwork::start(&config).map_err(Failure::failed)?;
        let mut recordings = Recordings::default();
        let ports = self.socket.iter();
        let ports = ports
            .map(|port| port.start(&network, config.mtu, &mut recordings))
            .collect::<Result<Vec<_>, _>>()?;
        signals.wait().map_err(Failure::failed)?;
        drop(ports);
        drop(network);
        recordings.finish()?;
        Ok(Verdict::Done)
    }
}

impl Port {
    /// Adds the port to the network's switch, and lets a front end join.
    fn start(
        &self,
        network: &VirtualNetwork,
        mtu: u16,
        recordings: &mut Recordings,
    ) -> Result<(VhostUser, SocketFile), Failure> {
        let mac = self.mac.unwrap_or_else(MacAddress::random);
        let limits = limits(self.rate, self.frame_rate);
        let config = PortConfig {
            addresses: vec![mac],
            spoofing: self.spoofing,
            ingress: limits,
            egress: limits,
            ..PortConfig::default()
        };
        let handle = network.handle();
        let port = handle
            .add_port(&self.name, config)
            .map_err(Failure::failed)?;
        let recording = self.pcap.as_deref();
        let config = VhostUserConfig {
            name: format!("port {}", self.name),
            network: handle.clone(),
            port,
            mac,
            mtu,
            recording: recording
                .map(|file| recordings.add(file, &self.name))
                .transpose()?,
        };
        let failed = |source| {
            let path = self.socket.clone();
            Failure::failed(ListenError { path, source })
        };
        let (listener, file) = listen(&self.socket).map_err(failed)?;
        let served = VhostUser::start(listener, config).map_err(failed)?;
        tracing::info!("port {}: {mac} at {}", self.name, self.socket.display());
        Ok((served, file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_a_socket_and_an_address() {
        let port: Port = "/run/a.sock,mac=02:00:00:00:00:0a".parse().unwrap();
        assert_eq!(port.socket, PathBuf::from("/run/a.sock"));
        assert_eq!((port.name.as_str(), port.spoofing), ("a", false));
        assert_eq!(port.mac, MacAddress::new([2, 0, 0, 0, 0, 10]));
        assert_eq!((port.rate, port.frame_rate), (None, None));
        let port: Port = "b,spoofing=on,name=lab,pcap=b.pcapng,rate=1M,frame_rate=900"
            .parse()
            .unwrap();
        assert_eq!(
            (port.rate, port.frame_rate),
            (Some(Size::mib(1)), Some(900))
        );
        assert_eq!((port.name.as_str(), port.mac), ("lab", None));
        assert_eq!(port.pcap, Some("b.pcapng".into()));
    }

    #[test]
    fn says_what_is_missing() {
        for (text, message) in [
            ("mac=02:00:00:00:00:0a", "path"),
            ("a", "`spoofing=on or mac=` is missing"),
            ("a,mac=ff:ff:ff:ff:ff:ff", "mac"),
            ("a,mac=02:00:00:00:00:0a,queues=2", "queues"),
        ] {
            let error = text.parse::<Port>().unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
