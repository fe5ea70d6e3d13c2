//! The control socket of a network: live mappings and what it is doing.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nestling_devices::net::nat::flows::Endpoint;
use nestling_devices::net::nat::mappings::{Mapping, Transport};
use nestling_devices::net::network::Handle;
use nestling_devices::net::switch::PortId;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::message::{Line, MAX_LINE, Reply, Report, Request, VERSION};
use super::socket::{SocketFile, listen};

/// The thread's name.
const THREAD: &str = "nestling-netctl";

/// Who says nothing for so long has to call again: one is served at a time.
const PATIENCE: Duration = Duration::from_secs(5);

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
        // It ends with the process; the socket's file goes before.
        thread::Builder::new()
            .name(THREAD.into())
            .spawn(move || {
                for stream in listener.incoming().flatten() {
                    // Who breaks off has no answer to miss.
                    let _ = serve(&stream, &network);
                }
            })
            .map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn serve(stream: &UnixStream, network: &Handle) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if (&mut reader).take(MAX_LINE).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let reply = answer(&line, network).unwrap_or_else(|message| Reply::Error { message });
        write_line(stream, reply)?;
    }
}

fn answer(line: &str, network: &Handle) -> Result<Reply, String> {
    let Line { version, said } = serde_json::from_str::<Line<Request>>(line)
        .map_err(|error| format!("no request: {error}"))?;
    if version != VERSION {
        return Err(format!(
            "version {version} isn't known; this nestling reads {VERSION}"
        ));
    }
    let text = |error: &dyn ToString| error.to_string();
    match said {
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

fn write_line<T: Serialize>(mut stream: &UnixStream, said: T) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Line::new(said))?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Asks the network at a control socket for something.
pub fn ask(path: &Path, request: Request) -> Result<Reply, ControlError> {
    let stream = UnixStream::connect(path).map_err(|source| ControlError::Connect {
        path: path.into(),
        source,
    })?;
    let reply = exchange(&stream, request).map_err(|source| ControlError::Talk {
        path: path.into(),
        source,
    })?;
    match reply.said {
        Reply::Error { message } => Err(ControlError::Refused(message)),
        reply => Ok(reply),
    }
}

fn exchange<T: DeserializeOwned>(stream: &UnixStream, request: Request) -> io::Result<Line<T>> {
    stream.set_read_timeout(Some(2 * PATIENCE))?;
    write_line(stream, request)?;
    let mut line = String::new();
    if BufReader::new(stream).read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&line)?)
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
