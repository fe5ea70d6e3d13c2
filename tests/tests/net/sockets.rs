//! What the tests do with sockets.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use nestling_tests::lab::server::Server;
use nestling_tests::lab::{Lab, PATIENCE};
use nestling_tests::pattern;

/// What a page of so many bytes holds.
pub(crate) fn body(length: usize) -> Vec<u8> {
    pattern::bytes(7, length)
}

/// Serves a page of so many bytes by HTTP, to whoever asks.
pub(crate) fn page(address: &str, length: usize) -> Server {
    Server::tcp(address, move |mut stream| {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            request.extend(byte);
        }
        let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(&body(length))
    })
}

/// Fetches the page at the other end and returns its body.
pub(crate) fn get(mut stream: TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    let head = reply.windows(4).position(|end| end == b"\r\n\r\n").unwrap();
    reply.split_off(head + 4)
}

/// Connects, within bounds.
pub(crate) fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A socket of UDP that speaks to one address only.
pub(crate) fn udp(to: SocketAddr) -> UdpSocket {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Has a datagram echoed through the socket.
pub(crate) fn echoed(socket: &UdpSocket, datagram: &[u8]) {
    socket.send(datagram).unwrap();
    let mut reply = vec![0; 65536];
    let len = socket.recv(&mut reply).unwrap();
    assert!(
        reply[..len] == *datagram,
        "{len} of {} bytes",
        datagram.len()
    );
}

/// A server of UDP that sends back what it gets.
pub(crate) fn echo(address: &str) -> Server {
    Server::udp(address, |datagram| Some(datagram.to_vec()))
}

/// Has a server outside, at `address`, echo datagrams of the guest, the
/// longest of which travel in fragments.
pub(crate) fn echoes(lab: &Lab, address: &str) {
    let server = echo(address);
    lab.guest.enter(|| {
        let socket = udp(server.address);
        for length in [0, 1, 1400, 9000, 65_000] {
            echoed(&socket, &body(length));
        }
    });
}
