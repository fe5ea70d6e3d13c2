//! The configuration as a TOML file, in which everything may be left out.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nestling_arch::hyperv;
use nestling_arch::nested::Request;
use serde::Deserialize;

use super::network::NetworkOptions;
use super::parts::{
    ApiSocket, ConsoleMode, DiskConfig, Endpoint, MemoryConfig, ModuleConfig, NetConfig,
};
use super::template::TemplateSource;
use crate::channel::{MAX_TEXT, printable};

/// The schema this version reads.
pub(super) const VERSION: u32 = 1;

/// A machine as far as a file, or the flags, describe it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "each field is the one of VmConfig with the same name"
)]
pub struct ConfigFile {
    pub version: Option<u32>,
    pub name: Option<String>,
    pub kernel: Option<PathBuf>,
    pub initrd: Option<PathBuf>,
    pub module: Option<Vec<ModuleConfig>>,
    pub cmdline: Option<String>,
    pub cpus: Option<u32>,
    pub cpu_affinity: Option<Vec<u32>>,
    pub memory: Option<MemoryConfig>,
    pub nested: Option<Request>,
    pub cpu_template: Option<TemplateSource>,
    pub hyperv: Option<hyperv::Request>,
    pub disk: Option<Vec<DiskConfig>>,
    pub net: Option<Vec<NetConfig>>,
    pub network: Option<NetworkOptions>,
    pub serial: Option<ConsoleMode>,
    pub console: Option<ConsoleMode>,
    pub channel: Option<Endpoint>,
    pub events: Option<Endpoint>,
    pub api_socket: Option<ApiSocket>,
    pub debug_exit: Option<bool>,
    pub no_reboot: Option<bool>,
    pub stats: Option<bool>,
    pub kernel_cache: Option<bool>,
}

/// Why a configuration file can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It can't be read.
    #[error("can't read the configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It isn't TOML, or not of this schema.
    #[error("{path}:{line}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there, in one line.
        message: String,
    },
    /// It is of another schema.
    #[error("{path}: schema version {found} isn't known; this nestling reads version {VERSION}")]
    Version {
        /// The file.
        path: PathBuf,
        /// The version it names.
        found: u32,
    },
}

/// The line, from 1, that an error is about, and what is wrong there.
pub(super) fn one_line(error: &toml::de::Error, text: &str) -> (usize, String) {
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    let breaks = text.as_bytes()[..start].iter().filter(|b| **b == b'\n');
    // It quotes the file, which may be anybody's.
    let message = error.message().lines().collect::<Vec<_>>().join("; ");
    (breaks.count() + 1, printable(&message, MAX_TEXT))
}

impl ConfigFile {
    /// Reads the file at `path`. Relative paths in it start at its folder.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let text = fs::read_to_string(path).map_err(|source| FileError::Read {
            path: path.into(),
            source,
        })?;
        let mut file = Self::parse(&text, path)?;
        if let Some(folder) = path.parent() {
            file.start_paths_at(folder);
        }
        Ok(file)
    }

    /// Parses `text`; `path` only names it in errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self, FileError> {
        let file: Self = toml::from_str(text).map_err(|error| {
            let (line, message) = one_line(&error, text);
            FileError::Parse {
                path: path.into(),
                line,
                message,
            }
        })?;
        match file.version {
            None | Some(VERSION) => Ok(file),
            Some(found) => Err(FileError::Version {
                path: path.into(),
                found,
            }),
        }
    }

    /// Lays `flags` over this file: what they give wins.
    pub fn overlaid(self, flags: Self) -> Self {
        Self {
            version: flags.version.or(self.version),
            name: flags.name.or(self.name),
            kernel: flags.kernel.or(self.kernel),
            initrd: flags.initrd.or(self.initrd),
            module: flags.module.or(self.module),
            cmdline: flags.cmdline.or(self.cmdline),
            cpus: flags.cpus.or(self.cpus),
            cpu_affinity: flags.cpu_affinity.or(self.cpu_affinity),
            memory: flags.memory.or(self.memory),
            nested: flags.nested.or(self.nested),
            cpu_template: flags.cpu_template.or(self.cpu_template),
            hyperv: flags.hyperv.or(self.hyperv),
            disk: flags.disk.or(self.disk),
            net: flags.net.or(self.net),
            network: match (self.network, flags.network) {
                (Some(file), Some(flags)) => Some(file.overlaid(flags)),
                (file, flags) => flags.or(file),
            },
            serial: flags.serial.or(self.serial),
            console: flags.console.or(self.console),
            channel: flags.channel.or(self.channel),
            events: flags.events.or(self.events),
            api_socket: flags.api_socket.or(self.api_socket),
            debug_exit: flags.debug_exit.or(self.debug_exit),
            no_reboot: flags.no_reboot.or(self.no_reboot),
            stats: flags.stats.or(self.stats),
            kernel_cache: flags.kernel_cache.or(self.kernel_cache),
        }
    }

    fn start_paths_at(&mut self, folder: &Path) {
        let consoles = [&mut self.serial, &mut self.console].into_iter().flatten();
        let console_files = consoles.filter_map(|mode| match mode {
            ConsoleMode::File(path) => Some(path),
            ConsoleMode::Off | ConsoleMode::Tty => None,
        });
        let streams = [&mut self.channel, &mut self.events].into_iter().flatten();
        let sockets = streams.filter_map(|endpoint| match endpoint {
            Endpoint::Socket(path) => Some(path),
            Endpoint::Descriptor(_) => None,
        });
        let template = self.cpu_template.as_mut().and_then(TemplateSource::file);
        let files = [&mut self.kernel, &mut self.initrd].into_iter().flatten();
        let modules = self
            .module
            .iter_mut()
            .flatten()
            .map(|module| &mut module.path);
        let disks = self.disk.iter_mut().flatten().map(|disk| &mut disk.path);
        let api = self
            .api_socket
            .iter_mut()
            .filter_map(|socket| match socket {
                ApiSocket::Path(path) => Some(path),
                ApiSocket::Default | ApiSocket::Off => None,
            });
        let sockets = sockets.chain(api);
        let files = files.chain(template).chain(modules).chain(disks);
        for path in files.chain(console_files).chain(sockets) {
            *path = folder.join(&*path);
        }
    }
}
