//! `nestling net tap`.

use std::net::IpAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::Args;
use nestling_devices::net::attachment::Attachment;
use nestling_devices::net::ports;
use nestling_devices::net::ports::pcap::Recorded;
use nestling_devices::net::ports::tap::{LinkConfig, TapAttachment, TapConfig};
use nestling_devices::net::switch::PortConfig;

use super::recordings::Recordings;
use super::{ENDING, NetworkArgs, on_or_off};
use crate::cli::{Failure, Verdict};
use crate::config::{NetworkConfig, Reservation};
use crate::console::streams::adopt;
use crate::network::VirtualNetwork;
use crate::signals::Signals;

/// The flags of `nestling net tap`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Tap {
    /// The namespace's file, as /proc/PID/ns/net or /run/netns/NAME; its user namespace is
    /// entered too
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,

    /// The tap's name
    #[arg(long, value_name = "NAME", default_value = "tap0")]
    name: String,

    /// Use this inherited descriptor of a tap, which somebody else has made and set up, instead
    /// of making one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(3..),
          conflicts_with_all = ["netns", "name", "unconfigured"])]
    fd: Option<RawFd>,

    /// Make the tap, but leave it without addresses: a DHCP client is to ask for them
    #[arg(long)]
    unconfigured: bool,

    /// Let frames come from other addresses than the tap's own, as those of machines bridged
    /// to it do (MAC address spoofing): on or off [default: off]
    #[arg(long, value_name = "WHEN", value_parser = on_or_off)]
    spoofing: Option<bool>,

    /// Record the tap's frames to this file, which Wireshark reads
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,

    #[command(flatten)]
    network: NetworkArgs,
}

/// The MTU of taps unless another is given: the kernel behind one and the host
/// both take whole packets.
const TAP_MTU: u16 = 65520;

impl Tap {
    /// Serves the tap until a signal comes.
    pub(super) fn execute(self) -> Result<Verdict, Failure> {
        let signals = Signals::block(&ENDING).map_err(Failure::failed)?;
        let mut config = self.network.config(TAP_MTU)?;
        let (addresses, gateways) = if self.unconfigured || self.fd.is_some() {
            Default::default()
        } else {
            namespace_addresses(&config)
        };
        let attachment = self.open(config.mtu, addresses.clone(), gateways)?;
        let mac = attachment.mac();
        // Nobody else behind the tap is to get them by DHCP.
        let taken = addresses.iter().zip(mac.iter().cycle());
        config
            .reservations
            .extend(taken.map(|(&(address, _), &mac)| Reservation { mac, address }));
        let network = VirtualNetwork::start(&config).map_err(Failure::failed)?;
        let handle = network.handle();
        let port = PortConfig {
            addresses: mac.into_iter().collect(),
            spoofing: self.spoofing.unwrap_or(false),
            ..PortConfig::default()
        };
        let port = handle.add_port(&self.name, port).map_err(Failure::failed)?;
        let mut recordings = Recordings::default();
        let mut attachment: Box<dyn Attachment> = Box::new(attachment);
        if let Some(file) = &self.pcap {
            let (recording, id) = recordings.add(file, &self.name)?;
            attachment = Box::new(Recorded::new(attachment, recording, id));
        }
        handle.plug(port, attachment).map_err(Failure::failed)?;
        let addresses = addresses.iter();
        let addresses = addresses.map(|(address, length)| format!(" {address}/{length}"));
        tracing::info!("{} is up{}", self.name, addresses.collect::<String>());
        signals.wait().map_err(Failure::failed)?;
        drop(network);
        recordings.finish()?;
        Ok(Verdict::Done)
    }
}

impl Tap {
    /// The tap, made and set up here or handed in.
    fn open(
        &self,
        mtu: u16,
        addresses: Vec<(IpAddr, u8)>,
        gateways: Vec<IpAddr>,
    ) -> Result<TapAttachment, Failure> {
        if let Some(fd) = self.fd {
            let fd = adopt("fd", fd).map_err(|_| {
                Failure::usage(format!(
                    "--fd {fd}: the descriptor isn't open; hand it in on exec"
                ))
            })?;
            let tap = ports::tap::Tap::from_fd(fd).map_err(Failure::failed)?;
            let attachment = TapAttachment::new(tap).map_err(Failure::failed)?;
            return Ok(attachment.with_mtu(mtu));
        }
        let tap = TapConfig {
            name: self.name.clone(),
            namespace: self.netns.clone(),
            link: Some(LinkConfig {
                mac: None,
                mtu: Some(mtu),
                addresses,
                gateways,
            }),
        };
        TapAttachment::open(&tap).map_err(Failure::failed)
    }
}

/// The addresses of the one behind a tap: those that the first guest would
/// get, each with its prefix's length; and the gateways.
fn namespace_addresses(config: &NetworkConfig) -> (Vec<(IpAddr, u8)>, Vec<IpAddr>) {
    let mut addresses = Vec::new();
    let mut gateways = Vec::new();
    if let (Some((gateway, prefix)), Some(pool)) = (config.v4, &config.pool) {
        addresses.push(((*pool.start()).into(), prefix.length()));
        gateways.push(gateway.into());
    }
    if let (Some((gateway, prefix)), Some(pool)) = (config.v6, &config.pool6) {
        addresses.push(((*pool.start()).into(), prefix.length()));
        gateways.push(gateway.into());
    }
    (addresses, gateways)
}
