//! slirp4netns on a tap.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::{INTERFACE, Joined, Settings, await_route, await_that};
use crate::Failure;
use crate::lab::{HOST, Lab, Namespace, Place, Process, find};
use crate::traffic::{PATIENCE, PORTS};

/// The address that it gives the guest.
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);

pub(super) fn join(
    lab: &Lab,
    guest: &Namespace,
    settings: Settings,
    first: u16,
) -> Result<Joined, Failure> {
    let socket = lab.folder().join("slirp.sock");
    let _ = std::fs::remove_file(&socket);
    let mut command = Command::new(find("slirp4netns")?);
    command
        .args(["--configure", "--netns-type=path"])
        .arg(format!("--mtu={}", settings.mtu))
        .arg("--api-socket")
        .arg(&socket)
        .arg(guest.path())
        .arg(INTERFACE);
    let place = Place {
        namespace: Some(&lab.host),
        cpu: settings.cpu,
    };
    let mut process = Process::start("slirp4netns", command, &place)?;
    await_route(guest, &mut process)?;
    // It listens for requests only after that.
    await_that("slirp4netns makes its socket", &mut process, || {
        Ok(socket.exists())
    })?;
    for port in first..first + PORTS {
        for protocol in ["tcp", "udp"] {
            forward(&socket, protocol, port)?;
        }
    }
    Ok(Joined {
        process: Some(process),
        address: HOST,
        inner: GUEST,
        control: None,
    })
}

/// Adds a static mapping by the control socket.
fn forward(socket: &Path, protocol: &str, port: u16) -> Result<(), Failure> {
    let request = json!({"execute": "add_hostfwd", "arguments": {
        "proto": protocol, "host_addr": HOST.to_string(), "host_port": port,
        "guest_addr": GUEST.to_string(), "guest_port": port,
    }});
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.to_string().as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match serde_json::from_str::<Value>(&answer)?.get("error") {
        None => Ok(()),
        Some(error) => Err(format!("slirp4netns: {protocol} port {port}: {error}").into()),
    }
}
