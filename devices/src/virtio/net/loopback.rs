//! A network for tests that sends each NIC its own frames.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::net::attachment::{Attachment, Content, Plug, Watch};
use crate::net::payload::{Part, Payload};
use crate::net::port::{FRAME_HEADER, Offloads};

/// A place on it.
#[derive(Default)]
pub(crate) struct Loopback {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Plug for Loopback {
    fn offloads(&self) -> Offloads {
        Offloads::all()
    }

    fn mtu(&self) -> u16 {
        1500
    }

    fn plug(&mut self, mut attachment: Box<dyn Attachment>) -> io::Result<()> {
        self.stop.store(false, Ordering::SeqCst);
        let stop = self.stop.clone();
        self.thread = Some(thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                turn(&mut *attachment);
                thread::sleep(Duration::from_micros(20));
            }
        }));
        Ok(())
    }

    fn unplug(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let thread = self.thread.take().expect("the place is taken");
        thread.join().unwrap();
    }
}

/// One round in which all that is watched is taken to be ready.
fn turn(attachment: &mut dyn Attachment) {
    for token in 0..=u8::MAX {
        attachment.ready(token, &mut Nothing);
    }
    // Two at a time, so that some are released out of order.
    while let Some(first) = attachment.receive() {
        let second = attachment.receive();
        for frame in second.into_iter().chain([first]) {
            let mut header = [0; FRAME_HEADER];
            frame.read_at(0, &mut header);
            let rest = Part::new(&frame, FRAME_HEADER..frame.len());
            // What finds no room is lost.
            let _ = attachment.send(&header, Content::Payload(&rest));
            attachment.release(frame);
        }
    }
    attachment.flush();
}

/// Watches nothing.
struct Nothing;

impl Watch for Nothing {
    fn add(&mut self, _fd: BorrowedFd<'_>, _token: u8, _writable: bool) -> io::Result<()> {
        Ok(())
    }

    fn remove(&mut self, _fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }
}
