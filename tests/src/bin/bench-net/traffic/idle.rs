//! Flows that are opened and held, without traffic.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::{Client, PATIENCE, Service, tell};
use crate::Failure;

/// Flows that were opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    /// How many.
    pub(crate) open: u32,
    /// What opening them took.
    pub(crate) nanoseconds: u64,
}

/// Opens flows, says so, and holds them until standard input ends.
pub(super) fn hold(client: &Client) -> Result<(), Failure> {
    let start = Instant::now();
    let mut flows = Vec::new();
    for number in 1..=client.count {
        let flow = open(client).map_err(|error| format!("flow {number}: {error}"))?;
        flows.push(flow);
    }
    tell(&Held {
        open: client.count,
        nanoseconds: u64::try_from(start.elapsed().as_nanos())?,
    })?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

/// Opens a flow and waits until the server has it: else its queue would overflow.
fn open(client: &Client) -> io::Result<TcpStream> {
    let mut flow = TcpStream::connect_timeout(&client.server(Service::Idle), PATIENCE)?;
    flow.set_read_timeout(Some(PATIENCE))?;
    flow.read_exact(&mut [0])?;
    Ok(flow)
}

/// Accepts flows and holds each until its client closes it.
pub(super) fn accept(listener: &TcpListener) -> io::Result<()> {
    let epoll = Epoll::new()?;
    let watch = |operation, fd, token| {
        let wanted = EventSet::IN | EventSet::READ_HANG_UP;
        epoll.ctl(operation, fd, EpollEvent::new(wanted, token))
    };
    let listening = u64::MAX;
    watch(ControlOperation::Add, listener.as_raw_fd(), listening)?;
    // Flows, and the places of those that are gone.
    let (mut flows, mut free): (Vec<Option<TcpStream>>, Vec<usize>) = <_>::default();
    let mut events = vec![EpollEvent::default(); 256];
    loop {
        let count = match epoll.wait(-1, &mut events) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count?,
        };
        for event in &events[..count] {
            if event.data() == listening {
                let (mut flow, _) = listener.accept()?;
                if flow.write_all(b"!").is_err() {
                    continue;
                }
                let place = free.pop().unwrap_or_else(|| {
                    flows.push(None);
                    flows.len() - 1
                });
                let token = u64::try_from(place).map_err(io::Error::other)?;
                watch(ControlOperation::Add, flow.as_raw_fd(), token)?;
                flows[place] = Some(flow);
            } else if let Ok(place) = usize::try_from(event.data()) {
                // The client sends nothing: what is readable is the end. Closing the
                // descriptor takes it out of the set.
                flows[place] = None;
                free.push(place);
            }
        }
    }
}
