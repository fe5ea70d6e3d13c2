//! The places of a machine's NICs on its virtual network. They outlast the
//! machine's resets: the guest finds its network as it left it.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use nestling_devices::net::attachment::{Attachment, Plug};
use nestling_devices::net::mac::MacAddress;
use nestling_devices::net::network::{self, Handle};
use nestling_devices::net::port::Offloads;
use nestling_devices::net::ports::pcap::{InterfaceId, Recorded, Recording};
use nestling_devices::net::switch::{Limits, PortConfig, PortId, Rate};

use super::{Error, VirtualNetwork};
use crate::config::{NetConfig, Reservation, VmConfig, Wire};
use crate::size::Size;

/// One frame of the longest is let through by any limit.
const LEAST_BURST: u64 = 1 << 16;

/// Why a machine can't have its places.
#[derive(Debug, thiserror::Error)]
pub enum PlacesError {
    /// The network can't be started.
    #[error(transparent)]
    Start(#[from] Error),
    /// A NIC's place can't be had.
    #[error("network interface {number}: {source}")]
    Port {
        /// The NIC's number.
        number: usize,
        /// Why.
        source: network::Error,
    },
    /// A file for frames can't be written.
    #[error("--net user,pcap={path}: {source}")]
    Pcap {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A NIC's place.
#[derive(Clone)]
pub struct Place {
    handle: Handle,
    port: PortId,
    mtu: u16,
    recording: Option<(Recording, InterfaceId)>,
}

impl Plug for Place {
    fn offloads(&self) -> Offloads {
        Offloads::all()
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn plug(&mut self, attachment: Box<dyn Attachment>) -> io::Result<()> {
        let attachment: Box<dyn Attachment> = match &self.recording {
            Some((recording, id)) => Box::new(Recorded::new(attachment, recording.clone(), *id)),
            None => attachment,
        };
        let plugged = self.handle.plug(self.port, attachment);
        plugged.map_err(io::Error::other)
    }

    fn unplug(&mut self) {
        // A network that has stopped has nobody plugged in.
        let _ = self.handle.unplug(self.port);
    }
}

/// The places of a machine's NICs.
#[derive(Default)]
pub struct Places {
    /// One for each NIC of the machine, where it is on the network, with its
    /// address.
    places: Vec<Option<(Place, MacAddress)>>,
    recordings: Vec<Recording>,
    /// After the places, which lead to it.
    network: Option<VirtualNetwork>,
}

impl Places {
    /// Starts the network that `config` describes, if any NIC is on it, and
    /// gives each its place.
    pub fn open(config: &VmConfig) -> Result<Self, PlacesError> {
        let is_user = |net: &NetConfig| matches!(net.wire, Wire::User { .. });
        if !config.nets.iter().any(is_user) {
            return Ok(Self::default());
        }
        let macs: Vec<_> = config
            .nets
            .iter()
            .map(|net| net.mac.unwrap_or_else(MacAddress::random))
            .collect();
        let mut network = config.network.clone();
        for (net, &mac) in config.nets.iter().zip(&macs) {
            if let Wire::User {
                ip: Some(address), ..
            } = net.wire
            {
                let address = address.into();
                network.reservations.push(Reservation { mac, address });
            }
        }
        let network = VirtualNetwork::start(&network)?;
        let mut places = Self::default();
        for (number, (net, mac)) in config.nets.iter().zip(macs).enumerate() {
            let place = places.add(&network, (number, net, mac), config.network.mtu)?;
            places.places.push(place.map(|place| (place, mac)));
        }
        places.network = Some(network);
        Ok(places)
    }

    fn add(
        &mut self,
        network: &VirtualNetwork,
        (number, net, mac): (usize, &NetConfig, MacAddress),
        mtu: u16,
    ) -> Result<Option<Place>, PlacesError> {
        let Wire::User {
            spoofing,
            pcap,
            rate,
            frame_rate,
            ..
        } = &net.wire
        else {
            return Ok(None);
        };
        let limits = limits(*rate, *frame_rate);
        let recording = pcap.as_ref().map(record).transpose()?;
        self.recordings.extend(recording.clone());
        let port = PortConfig {
            addresses: vec![mac],
            spoofing: *spoofing,
            ingress: limits,
            egress: limits,
            ..PortConfig::default()
        };
        let name = format!("nic{number}");
        let handle = network.handle().clone();
        let port = handle
            .add_port(&name, port)
            .map_err(|source| PlacesError::Port { number, source })?;
        Ok(Some(Place {
            handle,
            port,
            mtu,
            recording: recording.map(|recording| {
                let id = recording.add(&name);
                (recording, id)
            }),
        }))
    }

    /// The place and the address of the NIC of this number, if it is on the
    /// network.
    pub fn of(&self, number: usize) -> Option<(Place, MacAddress)> {
        self.places.get(number)?.clone()
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        // Frames come no more once nobody is plugged in.
        self.network = None;
        for recording in &self.recordings {
            if let Err(error) = recording.finish() {
                tracing::warn!(%error, "the record of a network interface is not complete");
            }
        }
    }
}

/// A port's bounds in each direction: bytes and frames a second.
pub fn limits(rate: Option<Size>, frame_rate: Option<u64>) -> Limits {
    Limits {
        bytes: rate.map(|rate| evenly(rate.bytes(), LEAST_BURST)),
        frames: frame_rate.map(|rate| evenly(rate, 1)),
    }
}

/// So much a second, of which a tenth may come at once.
fn evenly(per_second: u64, least: u64) -> Rate {
    Rate {
        per_second,
        burst: (per_second / 10).max(least),
    }
}

fn record(path: &PathBuf) -> Result<Recording, PlacesError> {
    let failed = |source| PlacesError::Pcap {
        path: path.clone(),
        source,
    };
    let file = File::create(path).map_err(failed)?;
    Recording::start(file).map_err(failed)
}
