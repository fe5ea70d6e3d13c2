use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Command;
use std::sync::mpsc;

use super::*;
use crate::net::attachment::testing::Standing;
use crate::net::attachment::{Attachment, Content, Frame, News, Sent, Settings, Watch};
use crate::net::mac::MacAddress;
use crate::net::port::FRAME_HEADER;

/// A file of which the test holds another end.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A frame as it was recorded.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    port: String,
    direction: u32,
    lost: u64,
    bytes: Vec<u8>,
}

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// The options from `at` on, by their codes.
fn options(body: &[u8], mut at: usize) -> HashMap<u16, Vec<u8>> {
    let mut options = HashMap::new();
    loop {
        let half = |at: usize| u16::from_ne_bytes(body[at..at + 2].try_into().unwrap());
        let (code, length) = (half(at), usize::from(half(at + 2)));
        if code == 0 {
            assert_eq!(at + 4, body.len(), "the end of options ends a block");
            return options;
        }
        options.insert(code, body[at + 4..at + 4 + length].to_vec());
        at += 4 + length.next_multiple_of(4);
    }
}

/// Reads a recording as the specification says it is to be read.
fn read(mut file: &[u8]) -> Vec<Seen> {
    let mut ports = Vec::new();
    let mut frames = Vec::new();
    let mut last = 0;
    while !file.is_empty() {
        let (kind, length) = (word(file, 0), word(file, 4));
        assert_eq!(length % 4, 0);
        let (block, rest) = file.split_at(length);
        assert_eq!(word(block, length - 4), length, "both lengths agree");
        let body = &block[8..length - 4];
        match kind {
            0x0A0D_0D0A => {
                assert!(ports.is_empty(), "first of all");
                assert_eq!(word(body, 0), 0x1A2B_3C4D);
                assert_eq!(options(body, 16)[&4], b"nestling");
            }
            1 => {
                assert_eq!(body[..2], 1u16.to_ne_bytes(), "Ethernet");
                let options = options(body, 8);
                assert_eq!(options[&9], [9], "nanoseconds");
                ports.push(String::from_utf8(options[&2].clone()).unwrap());
            }
            6 => {
                let time = (word(body, 4) as u64) << 32 | word(body, 8) as u64;
                assert!(time >= last, "time goes on");
                last = time;
                let length = word(body, 12);
                assert_eq!(word(body, 16), length, "nothing is cut off");
                let options = options(body, 20 + length.next_multiple_of(4));
                let lost = options.get(&4).map(|lost| lost[..].try_into().unwrap());
                frames.push(Seen {
                    port: ports[word(body, 0)].clone(),
                    direction: u32::from_ne_bytes(options[&2][..].try_into().unwrap()),
                    lost: lost.map_or(0, u64::from_ne_bytes),
                    bytes: body[20..20 + length].to_vec(),
                });
            }
            _ => panic!("an unknown block"),
        }
        file = rest;
    }
    frames
}

fn seen(port: &str, direction: u32, bytes: &[u8]) -> Seen {
    Seen {
        port: port.to_owned(),
        direction,
        lost: 0,
        bytes: bytes.to_vec(),
    }
}

#[test]
fn frames_are_read_back() {
    let file = Shared::default();
    let recording = Recording::start(file.clone()).unwrap();
    let nic = recording.add("nic 0");
    recording.record(nic, Direction::Inbound, &[b"a frame"]);
    let long = "ä".repeat(200);
    let tap = recording.add(&long);
    let big: Vec<u8> = (0..=255).cycle().take(65_549).collect();
    recording.record(tap, Direction::Outbound, &[b"head", &big, b"end"]);
    recording.flush();
    for length in 0..5 {
        recording.record(nic, Direction::Outbound, &[&&big[..length]]);
    }
    recording.finish().unwrap();
    recording.finish().unwrap();
    let whole = [&b"head"[..], &big, b"end"].concat();
    let mut expected = vec![
        seen("nic 0", 1, b"a frame"),
        seen(&"ä".repeat(127), 2, &whole),
    ];
    expected.extend((0..5).map(|length| seen("nic 0", 2, &big[..length])));
    assert_eq!(read(&file.0.lock().unwrap()), expected);
    assert_eq!(recording.dropped(), 0);
    recording.record(nic, Direction::Inbound, &[b"too late"]);
    assert_eq!(recording.dropped(), 1);
}

/// A file that writes when it is told to.
struct Slow(Shared, Receiver<()>);

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Once nobody tells any more, it goes as fast as it can.
        let _ = self.1.recv();
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_comes_too_fast_is_dropped_and_counted() {
    let file = Shared::default();
    let (go, wait) = mpsc::channel();
    let recording = Recording::start(Slow(file.clone(), wait)).unwrap();
    let port = recording.add("tap");
    let frame = [7; 60_000];
    let total = 8 * WAITING as u64;
    for _ in 0..total {
        recording.record(port, Direction::Inbound, &[&frame]);
    }
    let dropped = recording.dropped();
    assert!(dropped > 0);
    drop(go);
    // Until the writer has made room, this one is dropped too.
    let mut late = 1;
    while {
        recording.record(port, Direction::Inbound, &[b"late"]);
        recording.dropped() > dropped + late - 1
    } {
        late += 1;
        thread::yield_now();
    }
    recording.finish().unwrap();
    let frames = read(&file.0.lock().unwrap());
    assert_eq!(frames.len() as u64 + recording.dropped(), total + late);
    let lost = frames.iter().map(|frame| frame.lost).sum::<u64>();
    assert_eq!(lost, recording.dropped());
}

/// A file that is on a full disk.
struct Full;

impl Write for Full {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_ends_the_recording() {
    let recording = Recording::start(Full).unwrap();
    let port = recording.add("tap");
    let total = 40 * WAITING as u64;
    for _ in 0..total {
        recording.record(port, Direction::Inbound, &[&[0; 60_000]]);
        recording.flush();
    }
    assert!(recording.dropped() > 0);
    let error = recording.finish().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}

/// An attachment with one frame, which takes all that is sent to it.
struct One(Option<Frame>);

impl Attachment for One {
    fn mac(&self) -> Option<MacAddress> {
        None
    }

    fn mtu(&self) -> u16 {
        1500
    }

    fn settings(&self) -> Settings {
        Settings::default()
    }

    fn watch(&mut self, watch: &mut dyn Watch) -> io::Result<()> {
        watch.add(io::stdin().as_fd(), 5, true)
    }

    fn ready(&mut self, _token: u8, _watch: &mut dyn Watch) -> News {
        News::ROOM
    }

    fn receive(&mut self) -> Option<Frame> {
        self.0.take()
    }

    fn release(&mut self, frame: Frame) {
        self.0 = Some(frame);
    }

    fn send(&mut self, headers: &[u8], _content: Content<'_>) -> Sent {
        if headers.len() > FRAME_HEADER {
            Sent::Yes
        } else {
            Sent::Full
        }
    }

    fn flush(&mut self) -> News {
        News::GONE
    }
}

#[derive(Default)]
struct Tokens(Vec<u8>);

impl Watch for Tokens {
    fn add(&mut self, _fd: BorrowedFd<'_>, token: u8, _writable: bool) -> io::Result<()> {
        self.0.push(token);
        Ok(())
    }

    fn remove(&mut self, _fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_attachment_is_recorded_and_notices_nothing() {
    let file = Shared::default();
    let recording = Recording::start(file.clone()).unwrap();
    let bytes = [&[0; FRAME_HEADER][..], b"from the guest"].concat();
    let frame = Frame::owned(bytes.into(), FRAME_HEADER + 14, 3);
    let id = recording.add("one");
    let mut port = Recorded::new(Box::new(One(Some(frame))), recording.clone(), id);
    let mut tokens = Tokens::default();
    port.watch(&mut tokens).unwrap();
    assert_eq!(tokens.0, [5]);
    assert_eq!(port.ready(5, &mut tokens), News::ROOM);
    assert_eq!((port.mac(), port.mtu()), (None, 1500));
    assert_eq!(port.settings(), Settings::default());

    let frame = port.receive().unwrap();
    assert_eq!(frame.token(), 3);
    port.release(frame);
    let headers = [&[0; FRAME_HEADER][..], b"to "].concat();
    let sent = port.send(&headers, Content::Payload(b"the guest"));
    assert_eq!(sent, Sent::Yes);
    let mut streams = Standing(b"the guest's stream".to_vec());
    let source = streams.source();
    let waiting = Content::Waiting(&mut streams, source);
    assert_eq!(port.send(&headers, waiting), Sent::Yes);
    let refused = port.send(&headers[..FRAME_HEADER], Content::Payload(b"no"));
    assert_eq!(refused, Sent::Full);
    assert_eq!(port.flush(), News::GONE);
    assert!(port.into_inner().receive().is_some());

    recording.finish().unwrap();
    let expected = [
        seen("one", 1, b"from the guest"),
        seen("one", 2, b"to the guest"),
        seen("one", 2, b"to the guest's stream"),
    ];
    assert_eq!(read(&file.0.lock().unwrap()), expected);
}

#[test]
#[allow(clippy::print_stderr)] // A skipped test says why.
fn others_read_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let recording = Recording::start(File::create(file.path()).unwrap()).unwrap();
    let port = recording.add("nic 0");
    // Who has 10.0.0.1, asks 10.0.0.2 (RFC 826).
    let mut frame = vec![0xFF; 6];
    frame.extend([2, 0, 0, 0, 0, 2, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend([2, 0, 0, 0, 0, 2, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0]);
    frame.extend([10, 0, 0, 1]);
    recording.record(port, Direction::Inbound, &[&frame]);
    recording.finish().unwrap();
    let mut readers = 0;
    for program in ["tcpdump", "tshark"] {
        // By standard input, which a program that gives its rights up can read.
        let mut command = Command::new(program);
        command.args(["-n", "-r", "-"]);
        match command.stdin(File::open(file.path()).unwrap()).output() {
            Err(error) => eprintln!("{program} skipped: {error}"),
            Ok(output) => {
                readers += 1;
                let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
                assert!(
                    text.contains("who has") || text.contains("who-has"),
                    "{text}"
                );
                assert!(text.contains("10.0.0.1 tell 10.0.0.2"), "{text}");
            }
        }
    }
    if readers == 0 {
        eprintln!("skipped: neither tcpdump nor tshark is here");
    }
}
