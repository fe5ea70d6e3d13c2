//! A serial port's way out, which never keeps a machine from ending.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::console::streams;

/// A pipe that is ready takes so much without waiting (PIPE_BUF).
const PIECE: usize = 4096;

/// How often a writer that waits looks whether the machine is ending.
const PATIENCE: Duration = Duration::from_millis(200);

/// Writes to a descriptor, and waits while nobody reads there: the guest's
/// output is held up rather than lost. Once the machine ends it is dropped.
#[derive(Debug)]
pub struct Output {
    file: File,
    ending: Arc<AtomicBool>,
}

impl Output {
    /// A way out to `file` until `ending` is set.
    pub fn new(file: File, ending: Arc<AtomicBool>) -> Self {
        Self { file, ending }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        while !self.ending.load(Ordering::Acquire) {
            if streams::wait_writable(self.file.as_fd(), PATIENCE)? {
                match self.file.write(&bytes[..bytes.len().min(PIECE)]) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    result => return result,
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::thread;

    use super::*;

    fn output() -> (Output, io::PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        (Output::new(file, Arc::default()), reader)
    }

    #[test]
    fn what_is_written_arrives_in_order() {
        let (mut output, mut reader) = output();
        let sent: Vec<u8> = (0..200_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let expected = sent.clone();
        let writer = thread::spawn(move || output.write_all(&sent).unwrap());
        let mut received = Vec::new();
        reader.read_to_end(&mut received).unwrap();
        writer.join().unwrap();
        assert!(received == expected);
    }

    #[test]
    fn a_reader_that_is_stuck_holds_the_machine_only_until_it_ends() {
        let (mut output, _reader) = output();
        let ending = Arc::clone(&output.ending);
        let writer = thread::spawn(move || output.write_all(&vec![0; 1 << 20]));
        ending.store(true, Ordering::Release);
        writer.join().unwrap().unwrap();
    }
}
