//! The 16550 serial port, for early messages and a console of last resort.

use std::convert::Infallible;
use std::io::{self, Write};
use std::time::Duration;

use vm_superio::Trigger;
use vm_superio::serial::{Error as UartError, NoEvents, Serial as Uart};
use vmm_sys_util::eventfd::EventFd;

use crate::Action;
use crate::bus::BusDevice;
use crate::ratelimit::{RateLimit, warn_limited};

const INTERRUPT_ENABLE: u8 = 1;
const INTERRUPT_ENABLE_TRANSMITTER: u8 = 0x02;
const INTERRUPT_IDENTIFICATION: u8 = 2;
/// What the interrupt identification says: that the transmitter is empty, or nothing.
const INTERRUPT_MASK: u8 = 0x0F;
const INTERRUPT_TRANSMITTER: u8 = 0x02;
const INTERRUPT_NONE: u8 = 0x01;
const LINE_CONTROL: u8 = 3;
const LINE_CONTROL_DLAB: u8 = 0x80;
const MODEM_CONTROL: u8 = 4;
const LINE_STATUS: u8 = 5;
const MODEM_CONTROL_LOOPBACK: u8 = 0x10;

/// Output held back for want of a line's end, at most.
const MAX_HELD_OUTPUT: usize = 4096;

/// A 16550 UART whose line leads to a writer.
///
/// Every byte costs the guest an exit; it need not cost the host a system call
/// as well. Output goes to the writer at the end of a line, and so that a prompt
/// appears at once, when the driver writes the interrupt enable register, as
/// Linux does at the end of each burst, or reads the line status twice, as one
/// does that polls for input. [`Serial::flush`] does so explicitly.
pub struct Serial {
    uart: Uart<Line, NoEvents, HeldOutput>,
    fifo_size: usize,
    /// Called when the guest has made room for input that was refused.
    on_room: Box<dyn Fn() + Send>,
    input_refused: bool,
    /// Whether the last access read the line status.
    polled: bool,
    lost_output: RateLimit,
}

impl Serial {
    /// A serial port that signals `interrupt`, an edge-triggered line, and
    /// writes to `output`. `on_room` is called once after
    /// [`Serial::enqueue`] took less than it was given, when the guest is ready
    /// to take more; it runs under the port's lock, so it wakes someone rather
    /// than enqueues.
    ///
    /// `output` may block the vCPU that writes; what it refuses is lost.
    pub fn new(
        interrupt: EventFd,
        output: Box<dyn Write + Send>,
        on_room: Box<dyn Fn() + Send>,
    ) -> Self {
        let uart = Uart::new(
            Line(interrupt),
            HeldOutput {
                held: Vec::new(),
                output,
            },
        );
        let fifo_size = uart.fifo_capacity();
        let lost_output = RateLimit::new(3, Duration::from_secs(60));
        Self {
            uart,
            fifo_size,
            on_room,
            input_refused: false,
            polled: false,
            lost_output,
        }
    }

    /// Offers input to the guest, and returns how many bytes of it were taken:
    /// as many as the receive FIFO has room for, none in loopback mode.
    pub fn enqueue(&mut self, input: &[u8]) -> usize {
        // What the guest has written so far is what the input answers.
        self.flush();
        let taken = match self.uart.enqueue_raw_bytes(input) {
            Ok(taken) => taken,
            Err(UartError::FullFifo) => 0,
            // Neither happens: triggers are infallible, and input isn't output.
            Err(UartError::Trigger(_) | UartError::IOError(_)) => 0,
        };
        self.input_refused |= taken < input.len();
        taken
    }

    /// Hands all output so far to the writer.
    pub fn flush(&mut self) {
        if let Err(error) = self.uart.writer_mut().write_held() {
            warn_limited!(self.lost_output, "serial output is lost: {error}");
        }
    }

    fn write_register(&mut self, register: u8, value: u8) {
        if register == INTERRUPT_ENABLE && self.turns_transmitter_on(value) {
            // The transmitter is empty, so this raises its interrupt; the UART does so
            // only if the last one was acknowledged, as here.
            self.uart.read(INTERRUPT_IDENTIFICATION);
        }
        match self.uart.write(register, value) {
            Ok(()) | Err(UartError::FullFifo) => {}
            Err(UartError::IOError(error)) => {
                warn_limited!(self.lost_output, "serial output is lost: {error}");
            }
            Err(UartError::Trigger(never)) => match never {},
        }
        if register == INTERRUPT_ENABLE {
            self.flush();
        }
    }

    /// An interrupt that the driver has just turned off isn't pending any more, as in a
    /// 16550: at the end of a burst Linux would handle one more, by three reads.
    fn read_register(&mut self, register: u8) -> u8 {
        let value = self.uart.read(register);
        if register != INTERRUPT_IDENTIFICATION || value & INTERRUPT_MASK != INTERRUPT_TRANSMITTER {
            return value;
        }
        match self.transmitter_enabled() {
            Some(false) => value & !INTERRUPT_MASK | INTERRUPT_NONE,
            Some(true) | None => value,
        }
    }

    /// Whether the driver has turned the transmitter's interrupt on; `None` where
    /// the divisor latch is accessed, and the register isn't there.
    fn transmitter_enabled(&mut self) -> Option<bool> {
        let latched = self.uart.read(LINE_CONTROL) & LINE_CONTROL_DLAB != 0;
        let enabled = self.uart.read(INTERRUPT_ENABLE) & INTERRUPT_ENABLE_TRANSMITTER != 0;
        (!latched).then_some(enabled)
    }

    /// Whether the interrupt enable register turns it on with `value`.
    fn turns_transmitter_on(&mut self, value: u8) -> bool {
        value & INTERRUPT_ENABLE_TRANSMITTER != 0 && self.transmitter_enabled() == Some(false)
    }

    fn tell_of_room(&mut self) {
        if self.input_refused
            && self.uart.fifo_capacity() == self.fifo_size
            && self.uart.read(MODEM_CONTROL) & MODEM_CONTROL_LOOPBACK == 0
        {
            self.input_refused = false;
            (self.on_room)();
        }
    }
}

impl BusDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (register, byte) in registers(offset).zip(data) {
            *byte = self.read_register(register);
            let polls = register == LINE_STATUS;
            if polls && self.polled {
                self.flush();
            }
            self.polled = polls;
        }
        self.tell_of_room();
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Action {
        self.polled = false;
        for (register, &byte) in registers(offset).zip(data) {
            self.write_register(register, byte);
        }
        self.tell_of_room();
        Action::None
    }
}

/// The registers from `offset` on: a wide access is one to each in turn.
fn registers(offset: u64) -> impl Iterator<Item = u8> {
    u8::try_from(offset).unwrap_or(u8::MAX)..=u8::MAX
}

struct Line(EventFd);

impl Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        // It fails only if the counter is at its end, with an edge pending.
        let _ = self.0.write(1);
        Ok(())
    }
}

/// A writer that holds output back until a line is complete.
struct HeldOutput {
    held: Vec<u8>,
    output: Box<dyn Write + Send>,
}

impl HeldOutput {
    fn write_held(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let result = self
            .output
            .write_all(&self.held)
            .and_then(|()| self.output.flush());
        // Kept after a failure, it would grow and come out late and twice.
        self.held.clear();
        result
    }
}

impl Write for HeldOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.held.extend_from_slice(bytes);
        if bytes.contains(&b'\n') || self.held.len() >= MAX_HELD_OUTPUT {
            self.write_held()?;
        }
        Ok(bytes.len())
    }

    /// The UART flushes after each byte: that is what isn't wanted.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::bus::lock;

    const DATA: u64 = 0;
    const ENABLE: u64 = 1;
    const IDENTIFICATION: u64 = 2;

    /// Keeps each write apart.
    #[derive(Clone, Default)]
    struct Writes(Arc<Mutex<Vec<Vec<u8>>>>);

    impl Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            lock(&self.0).push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Fixture {
        serial: Serial,
        interrupt: EventFd,
        writes: Writes,
        wakes: Arc<AtomicUsize>,
    }

    fn fixture() -> Fixture {
        let interrupt = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let writes = Writes::default();
        let wakes = Arc::new(AtomicUsize::new(0));
        let counter = wakes.clone();
        let serial = Serial::new(
            interrupt.try_clone().unwrap(),
            Box::new(writes.clone()),
            Box::new(move || {
                counter.fetch_add(1, Ordering::Relaxed);
            }),
        );
        Fixture {
            serial,
            interrupt,
            writes,
            wakes,
        }
    }

    fn read(serial: &mut Serial, offset: u64) -> u8 {
        let mut data = [0];
        serial.read(offset, &mut data);
        data[0]
    }

    #[test]
    fn an_interrupt_that_is_turned_off_is_not_pending() {
        let mut f = fixture();
        f.serial.write(ENABLE, &[0x02]);
        f.serial.write(DATA, b"x");
        assert_eq!(read(&mut f.serial, IDENTIFICATION) & 0x0F, 0x02);
        f.serial.write(DATA, b"y");
        f.serial.write(ENABLE, &[0]);
        assert_eq!(read(&mut f.serial, IDENTIFICATION) & 0x0F, 0x01);
        // It comes again with its being turned on.
        f.serial.write(ENABLE, &[0x02]);
        assert_eq!(read(&mut f.serial, IDENTIFICATION) & 0x0F, 0x02);
    }

    #[test]
    fn turning_the_interrupt_on_raises_it_each_time() {
        let mut f = fixture();
        for _ in 0..2 {
            f.serial.write(ENABLE, &[0x02]);
            assert_eq!(f.interrupt.read().unwrap(), 1);
            f.serial.write(ENABLE, &[0x02]);
            assert!(f.interrupt.read().is_err(), "it was on already");
            f.serial.write(ENABLE, &[0]);
        }
    }

    #[test]
    fn the_divisor_turns_no_interrupt_on() {
        let mut f = fixture();
        f.serial.write(LINE_CONTROL.into(), &[LINE_CONTROL_DLAB]);
        f.serial.write(ENABLE, &[0x02]);
        f.serial.write(LINE_CONTROL.into(), &[3]);
        assert!(f.interrupt.read().is_err());
        f.serial.write(ENABLE, &[0x02]);
        assert_eq!(f.interrupt.read().unwrap(), 1);
    }

    #[test]
    fn a_line_is_one_write() {
        let mut f = fixture();
        for byte in b"hello\nwor" {
            f.serial.write(DATA, &[*byte]);
        }
        assert_eq!(*lock(&f.writes.0), [b"hello\n".to_vec()]);
    }

    #[test]
    fn a_prompt_appears_when_the_driver_ends_its_burst() {
        let mut f = fixture();
        for byte in b"login: " {
            f.serial.write(DATA, &[*byte]);
        }
        assert!(lock(&f.writes.0).is_empty());
        f.serial.write(ENABLE, &[5]);
        assert_eq!(*lock(&f.writes.0), [b"login: ".to_vec()]);
        f.serial.flush();
        assert_eq!(lock(&f.writes.0).len(), 1);
    }

    #[test]
    fn a_prompt_appears_when_the_driver_polls_for_input() {
        let mut f = fixture();
        for byte in b"boot: " {
            f.serial.read(LINE_STATUS.into(), &mut [0]);
            f.serial.write(DATA, &[*byte]);
        }
        f.serial.read(LINE_STATUS.into(), &mut [0]);
        assert!(lock(&f.writes.0).is_empty());
        f.serial.read(LINE_STATUS.into(), &mut [0]);
        assert_eq!(*lock(&f.writes.0), [b"boot: ".to_vec()]);
    }

    #[test]
    fn endless_lines_are_bounded() {
        let mut f = fixture();
        for _ in 0..MAX_HELD_OUTPUT {
            f.serial.write(DATA, b"x");
        }
        assert_eq!(*lock(&f.writes.0), [vec![b'x'; MAX_HELD_OUTPUT]]);
    }

    #[test]
    fn input_interrupts_and_reads_back() {
        let mut f = fixture();
        f.serial.write(ENABLE, &[1]);
        assert_eq!(f.serial.enqueue(b"ab"), 2);
        assert_eq!(f.interrupt.read().unwrap(), 1);
        assert_eq!(read(&mut f.serial, LINE_STATUS.into()) & 1, 1);
        assert_eq!(
            [DATA, DATA].map(|offset| read(&mut f.serial, offset)),
            *b"ab"
        );
        assert_eq!(read(&mut f.serial, LINE_STATUS.into()) & 1, 0);
        assert_eq!(f.wakes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn refused_input_is_asked_for_once_there_is_room() {
        let mut f = fixture();
        let taken = f.serial.enqueue(&[b'x'; 1000]);
        assert!(0 < taken && taken < 1000);
        assert_eq!(f.serial.enqueue(b"y"), 0);
        for _ in 1..taken {
            read(&mut f.serial, DATA);
        }
        assert_eq!(f.wakes.load(Ordering::Relaxed), 0);
        read(&mut f.serial, DATA);
        assert_eq!(f.wakes.load(Ordering::Relaxed), 1);
        read(&mut f.serial, DATA);
        assert_eq!(f.wakes.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn input_refused_in_loopback_is_asked_for_afterwards() {
        let mut f = fixture();
        let modem_control = u64::from(MODEM_CONTROL);
        f.serial.write(modem_control, &[MODEM_CONTROL_LOOPBACK]);
        assert_eq!(f.serial.enqueue(b"x"), 0);
        assert_eq!(f.wakes.load(Ordering::Relaxed), 0);
        f.serial.write(modem_control, &[0]);
        assert_eq!(f.wakes.load(Ordering::Relaxed), 1);
        assert_eq!(f.serial.enqueue(b"x"), 1);
    }

    #[test]
    fn a_wide_access_is_one_to_each_register() {
        let mut f = fixture();
        f.serial.write(6, &[0, 0x5a]);
        let mut data = [0; 2];
        f.serial.read(6, &mut data);
        assert_eq!(data[1], 0x5a);
    }
}
