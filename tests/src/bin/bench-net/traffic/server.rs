//! All services, one thread each, in one process.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use super::{Service, bulk, exchange, idle, soak};
use crate::Failure;

/// Serves at an address, on the ports from `first` on. It says when it is ready, and doesn't end.
pub(super) fn run(address: Ipv4Addr, first: u16) -> Result<(), Failure> {
    let listen = |service: Service| TcpListener::bind((address, service.port(first)));
    let one_by_one = [
        (listen(Service::Sink)?, bulk::sink as fn(TcpStream) -> _),
        (listen(Service::Echo)?, exchange::echo),
        (listen(Service::OneEcho)?, exchange::echo_once),
    ];
    let datagrams = UdpSocket::bind((address, Service::UdpEcho.port(first)))?;
    let idle = listen(Service::Idle)?;
    let soaked = listen(Service::Soak)?;
    crate::print("ready\n")?;
    thread::scope(|scope| {
        for (listener, serve) in one_by_one {
            scope.spawn(move || one_after_another(&listener, serve));
        }
        scope.spawn(move || exchange::echo_datagrams(&datagrams));
        scope.spawn(move || idle::accept(&idle));
        side_by_side(&soaked)
    })?;
    Ok(())
}

/// Serves each flow to its end before the next: latency is measured without
/// another thread in the way.
fn one_after_another(
    listener: &TcpListener,
    serve: fn(TcpStream) -> io::Result<()>,
) -> io::Result<()> {
    loop {
        // A flow that breaks is its client's to report.
        let _ = listener.accept().and_then(|(flow, _)| serve(flow));
    }
}

/// Serves each flow in a thread of its own.
fn side_by_side(listener: &TcpListener) -> io::Result<()> {
    loop {
        let (flow, _) = listener.accept()?;
        thread::spawn(move || soak::serve(flow));
    }
}
