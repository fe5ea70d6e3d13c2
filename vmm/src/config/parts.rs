//! The parts of a configuration, each readable from an option string and from
//! a TOML table.

use std::fmt;
use std::net::Ipv4Addr;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer};

use nestling_devices::net::mac::MacAddress;

use super::options::{OptionError, Options};
use crate::size::Size;

/// Reads a part either from a string, as on the command line, or from a table.
macro_rules! string_or_table {
    ($part:ident from $table:ident, $what:literal) => {
        impl<'de> Deserialize<'de> for $part {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Either;
                impl<'de> Visitor<'de> for Either {
                    type Value = $part;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($what)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$part, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<$part, M::Error> {
                        $table::deserialize(MapAccessDeserializer::new(map)).map(Into::into)
                    }
                }
                deserializer.deserialize_any(Either)
            }
        }
    };
}

/// How guest memory is had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryConfig {
    /// How much.
    pub size: Size,
    /// Shared with other processes by a memfd, instead of private.
    pub shared: bool,
    /// Explicit huge pages, which the host must have reserved.
    pub hugepages: HugePages,
    /// All of it before the guest starts, instead of at first touch.
    pub prefault: bool,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            size: Size::mib(512),
            shared: false,
            hugepages: HugePages::Off,
            prefault: false,
        }
    }
}

impl FromStr for MemoryConfig {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let mut options = Options::parse(text, &["size", "shared", "hugepages", "prefault"])?;
        Ok(Self {
            size: options.require("size")?,
            shared: options.switch("shared")?,
            hugepages: options.take("hugepages")?.unwrap_or(HugePages::Off),
            prefault: options.switch("prefault")?,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemoryTable {
    size: Size,
    #[serde(default)]
    shared: bool,
    #[serde(default)]
    hugepages: HugePages,
    #[serde(default)]
    prefault: bool,
}

impl From<MemoryTable> for MemoryConfig {
    fn from(table: MemoryTable) -> Self {
        let MemoryTable {
            size,
            shared,
            hugepages,
            prefault,
        } = table;
        Self {
            size,
            shared,
            hugepages,
            prefault,
        }
    }
}

string_or_table!(MemoryConfig from MemoryTable, "a size such as \"512M\", or a table");

/// The size of explicit huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum HugePages {
    /// None: transparent huge pages where the host has them.
    #[default]
    #[serde(rename = "off")]
    Off,
    /// 2 MiB each.
    #[serde(rename = "2M")]
    Size2M,
    /// 1 GiB each.
    #[serde(rename = "1G")]
    Size1G,
}

impl FromStr for HugePages {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "on" | "2M" => Ok(Self::Size2M),
            "1G" => Ok(Self::Size1G),
            _ => Err("write off, 2M or 1G".into()),
        }
    }
}

/// A block device over a raw file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskConfig {
    /// The file, or a block device of the host.
    pub path: PathBuf,
    /// Refuse writes.
    pub readonly: bool,
    /// Request queues; one per vCPU where not given.
    pub queues: Option<u16>,
}

impl FromStr for DiskConfig {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let mut options = Options::parse(text, &["path", "readonly", "queues"])?;
        Ok(Self {
            path: options.require("path")?,
            readonly: options.switch("readonly")?,
            queues: options.take("queues")?,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DiskTable {
    path: PathBuf,
    #[serde(default)]
    readonly: bool,
    queues: Option<u16>,
}

impl From<DiskTable> for DiskConfig {
    fn from(table: DiskTable) -> Self {
        let DiskTable {
            path,
            readonly,
            queues,
        } = table;
        Self {
            path,
            readonly,
            queues,
        }
    }
}

string_or_table!(DiskConfig from DiskTable, "a string such as \"path=disk.img\", or a table");

/// A file that the kernel finds in memory besides itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleConfig {
    /// The file.
    pub path: PathBuf,
    /// Its command line.
    pub cmdline: String,
}

impl FromStr for ModuleConfig {
    type Err = OptionError;

    /// Reads `FILE[,CMDLINE]`; all after the first comma is the command line.
    fn from_str(text: &str) -> Result<Self, OptionError> {
        let (path, cmdline) = text.split_once(',').unwrap_or((text, ""));
        if path.is_empty() {
            return Err(OptionError::Missing("path"));
        }
        Ok(Self {
            path: path.into(),
            cmdline: cmdline.into(),
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModuleTable {
    path: PathBuf,
    #[serde(default)]
    cmdline: String,
}

impl From<ModuleTable> for ModuleConfig {
    fn from(table: ModuleTable) -> Self {
        let ModuleTable { path, cmdline } = table;
        Self { path, cmdline }
    }
}

string_or_table!(ModuleConfig from ModuleTable, "a string such as \"vmlinuz,quiet\", or a table");

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetConfig {
    /// Where it leads.
    pub wire: Wire,
    /// The guest's address; chosen at random where not given.
    pub mac: Option<MacAddress>,
    /// Pairs of queues; one where not given.
    pub queues: Option<u16>,
}

/// Where a network interface leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wire {
    /// To the tap of this name.
    Tap(String),
    /// To an open tap, handed in.
    Fd(RawFd),
    /// To this process's virtual network.
    User {
        /// The IPv4 address that is kept for it, if any is.
        ip: Option<Ipv4Addr>,
        /// Whether its guest may use other MAC addresses than its own, as a
        /// bridge of nested guests does.
        spoofing: bool,
        /// A file for its frames, which Wireshark reads.
        pcap: Option<PathBuf>,
        /// Bytes a second in each direction, if they are limited.
        rate: Option<Size>,
        /// Frames a second in each direction, if they are limited.
        frame_rate: Option<u64>,
    },
}

const TAP_KEYS: &[&str] = &["tap", "fd", "mac", "queues"];
const USER_KEYS: &[&str] = &[
    "user",
    "mac",
    "queues",
    "ip",
    "spoofing",
    "pcap",
    "rate",
    "frame_rate",
];

impl FromStr for NetConfig {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let kind = text.split(',').next().unwrap_or_default();
        if kind == "user" {
            return Self::user(text);
        }
        let mut options = Options::parse(text, TAP_KEYS)?;
        let fd = options.take("fd")?;
        if let Some(fd @ ..3) = fd {
            return Err(OptionError::Value {
                key: "fd",
                value: RawFd::to_string(&fd),
                reason: "hand the tap in as descriptor 3 or more".into(),
            });
        }
        let wire = match (options.take("tap")?, fd) {
            (Some(tap), None) => Wire::Tap(tap),
            (None, Some(fd)) => Wire::Fd(fd),
            _ => return Err(OptionError::Missing("user, tap=NAME or fd")),
        };
        Ok(Self {
            wire,
            mac: options.take("mac")?,
            queues: options.take("queues")?,
        })
    }
}

impl NetConfig {
    fn user(text: &str) -> Result<Self, OptionError> {
        let mut options = Options::parse(text, USER_KEYS)?;
        Ok(Self {
            wire: Wire::User {
                ip: options.take("ip")?,
                spoofing: options.switch("spoofing")?,
                pcap: options.take("pcap")?,
                rate: options.take("rate")?,
                frame_rate: options.take("frame_rate")?,
            },
            mac: options.take("mac")?,
            queues: options.take("queues")?,
        })
    }

    /// The descriptor that it was handed in as, if it was.
    pub fn fd(&self) -> Option<RawFd> {
        match self.wire {
            Wire::Fd(fd) => Some(fd),
            Wire::Tap(_) | Wire::User { .. } => None,
        }
    }
}

/// A network interface of a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetKeys {
    tap: Option<String>,
    user: Option<bool>,
    #[serde(default, deserialize_with = "station")]
    mac: Option<MacAddress>,
    queues: Option<u16>,
    ip: Option<Ipv4Addr>,
    spoofing: Option<bool>,
    pcap: Option<PathBuf>,
    rate: Option<Size>,
    frame_rate: Option<u64>,
}

#[derive(Deserialize)]
#[serde(try_from = "NetKeys")]
struct NetTable(NetConfig);

fn station<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<MacAddress>, D::Error> {
    String::deserialize(deserializer)?
        .parse()
        .map(Some)
        .map_err(de::Error::custom)
}

impl TryFrom<NetKeys> for NetTable {
    type Error = &'static str;

    fn try_from(keys: NetKeys) -> Result<Self, Self::Error> {
        let of_network = keys.ip.is_some()
            || keys.spoofing.is_some()
            || keys.pcap.is_some()
            || keys.rate.is_some()
            || keys.frame_rate.is_some();
        let wire = match (keys.tap, keys.user) {
            (Some(tap), None) if !of_network => Wire::Tap(tap),
            (Some(_), None) => {
                return Err("`ip`, `spoofing`, `pcap`, `rate` and `frame_rate` go with `user`");
            }
            (None, Some(true)) => Wire::User {
                ip: keys.ip,
                spoofing: keys.spoofing.unwrap_or(false),
                pcap: keys.pcap,
                rate: keys.rate,
                frame_rate: keys.frame_rate,
            },
            _ => return Err("a network interface has either `user = true` or `tap = \"NAME\"`"),
        };
        Ok(Self(NetConfig {
            wire,
            mac: keys.mac,
            queues: keys.queues,
        }))
    }
}

impl From<NetTable> for NetConfig {
    fn from(NetTable(config): NetTable) -> Self {
        config
    }
}

string_or_table!(NetConfig from NetTable, "a string such as \"user\" or \"tap=tap0\", or a table");

/// Where a console leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsoleMode {
    /// Nowhere: what the guest writes is dropped.
    Off,
    /// The monitor's standard input and output.
    Tty,
    /// Into a file, with no input.
    File(PathBuf),
}

impl FromStr for ConsoleMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "off" => Ok(Self::Off),
            None if text == "tty" => Ok(Self::Tty),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err("write off, tty or file=PATH".into()),
        }
    }
}

impl<'de> Deserialize<'de> for ConsoleMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// Where a machine's control socket is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ApiSocket {
    /// In the user's folder for them, under the process's number.
    #[default]
    Default,
    /// At this path.
    Path(PathBuf),
    /// Nowhere.
    Off,
}

impl FromStr for ApiSocket {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("write a path, or off".into()),
            "off" => Ok(Self::Off),
            path => Ok(Self::Path(path.into())),
        }
    }
}

impl<'de> Deserialize<'de> for ApiSocket {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// A stream's other end: an inherited descriptor, or a Unix socket to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A descriptor that the monitor inherits and owns from then on.
    Descriptor(RawFd),
    /// A listening Unix socket.
    Socket(PathBuf),
}

impl Endpoint {
    /// The inherited descriptor, if it is one.
    pub fn descriptor(&self) -> Option<RawFd> {
        match self {
            Self::Descriptor(fd) => Some(*fd),
            Self::Socket(_) => None,
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = "write fd=N (3 or more) or unix=PATH";
        match text.split_once('=') {
            Some(("fd", fd)) => match fd.parse() {
                Ok(fd) if fd > 2 => Ok(Self::Descriptor(fd)),
                _ => Err(wrong.into()),
            },
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Socket(path.into())),
            _ => Err(wrong.into()),
        }
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}
