//! The control socket of a network: live mappings and what it is doing.

use std::io;
use std::path::{Path, PathBuf};

use nestling_devices::net::nat::flows::Endpoint;
use nestling_devices::net::nat::mappings::{Mapping, Transport};
use nestling_devices::net::network::Handle;
use nestling_devices::net::switch::PortId;

use super::message::{Reply, Report, Request};
use crate::api::line;
use crate::api::socket::{SocketFile, listen};

/// The thread's name.
const THREAD: &str = "nestling-netctl";

/// Why a control socket can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket can't be made.
    #[error("cannot listen at the control socket {path}: {source}")]
    Listen {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody is there.
    #[error("no network at the control socket {path}: {source}; is it running with --control?")]
    Connect {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("the network at {path} doesn't answer: {source}")]
    Talk {
        /// Where.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The network refuses.
    #[error("{0}")]
    Refused(String),
}

/// A control socket at work. Dropping it removes it.
pub struct Control {
    _file: SocketFile,
}

impl Control {
    /// Listens at `path` on behalf of a network. A socket that a network left
    /// there when it died is replaced.
    pub fn listen(path: &Path, network: Handle) -> Result<Self, ControlError> {
        let failed = |source| ControlError::Listen {
            path: path.into(),
            source,
        };
        let (listener, file) = listen(path).map_err(failed)?;
        line::serve(listener, THREAD, move |line| {
            answer(line, &network).unwrap_or_else(|message| Reply::Error { message })
        })
        .map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn answer(line: &str, network: &Handle) -> Result<Reply, String> {
    let text = |error: &dyn ToString| error.to_string();
    match line::request(line)? {
        Request::List => {
            let status = network.status().map_err(|error| text(&error))?;
            Ok(Reply::Network(Box::new(Report::from(status))))
        }
        Request::Forward { mapping } => {
            let mapping: Mapping = mapping.parse().map_err(|error| text(&error))?;
            let made = network.map(mapping).map_err(|error| text(&error))?;
            Ok(Reply::Forward {
                mapping: made.to_string(),
            })
        }
        Request::Unforward { outer } => {
            let (transport, outer) = outer_of(&outer)?;
            let ended = network
                .unmap(transport, outer)
                .map_err(|error| text(&error))?;
            Ok(Reply::Forward {
                mapping: ended.to_string(),
            })
        }
        Request::Spoofing { port, on } => {
            let port = PortId::new(port);
            network
                .set_spoofing(port, on)
                .map_err(|error| text(&error))?;
            Ok(Reply::Done)
        }
    }
}

/// The outer end of a mapping, as `tcp:0.0.0.0:2222`; a whole mapping will do
/// too, since it begins so.
fn outer_of(text: &str) -> Result<(Transport, Endpoint), String> {
    if let Ok(mapping) = text.parse::<Mapping>() {
        return Ok((mapping.transport, mapping.outer));
    }
    let form = || format!("{text:?} names no mapping: write it like tcp:0.0.0.0:2222");
    let (transport, outer) = text.split_once(':').ok_or_else(form)?;
    let transport = match transport {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        _ => return Err(form()),
    };
    let outer: std::net::SocketAddr = outer.parse().map_err(|_| form())?;
    Ok((transport, outer.into()))
}

/// Asks the network at a control socket for something.
pub fn ask(path: &Path, request: Request) -> Result<Reply, ControlError> {
    let reply = line::ask(path, request).map_err(|error| match error {
        line::Error::Connect(source) => ControlError::Connect {
            path: path.into(),
            source,
        },
        line::Error::Talk(source) => ControlError::Talk {
            path: path.into(),
            source,
        },
    })?;
    match reply {
        Reply::Error { message } => Err(ControlError::Refused(message)),
        reply => Ok(reply),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_named_by_their_outer_ends() {
        for (text, outer) in [
            ("tcp:0.0.0.0:2222", "0.0.0.0:2222"),
            ("udp:[::]:53", "[::]:53"),
            ("tcp:0.0.0.0:2222:192.168.100.10:22", "0.0.0.0:2222"),
        ] {
            let (_, found) = outer_of(text).expect(text);
            assert_eq!(found.to_string(), outer);
        }
        for text in ["", "tcp", "sctp:0.0.0.0:1", "tcp:0.0.0.0", "tcp:host:1"] {
            let error = outer_of(text).expect_err(text);
            assert!(error.contains("write it like tcp:0.0.0.0:2222"), "{error}");
        }
    }
}
