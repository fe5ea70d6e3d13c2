//! The work of the rows: the same code at every level, one file a family.
//!
//! A workload makes everything ready first. Then its observer is told that what is
//! counted begins, samples are taken, each between two readings of the time-stamp
//! counter, and the observer is told that it is over. So the levels below can read
//! KVM's counts around the samples and nothing else.

mod console;
mod device;
mod disk;
mod instructions;
mod memory;
mod network;
mod processor;
mod processors;
mod programs;
mod registers;
mod timer;
mod tsc;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

use super::results::{Clock, Measured};
use super::row::{Family, Quantity, Row};
use crate::guest::facts::Processor;
use crate::guest::sys;

pub use programs::EXIT;

/// Why a row can't be measured here.
#[derive(Debug, Error)]
pub enum Error {
    /// It happens before anything runs that could measure it.
    #[error("{0} can't be measured by the level itself")]
    Outside(Row),
    /// Transparent huge pages are off, or no memory is left in one piece.
    #[error(
        "the kernel gives no page of 2 MiB: \
         see /sys/kernel/mm/transparent_hugepage/enabled, and free memory"
    )]
    NoLargePages,
    /// The level wasn't given a disk that may be overwritten.
    #[error("no scratch disk is here")]
    NoDisk,
    /// The level wasn't told of a server.
    #[error("no benchmark server is here")]
    NoServer,
    /// The server can't be reached, or doesn't answer.
    #[error("the benchmark server at {address}: {source}")]
    Server {
        /// Where it was said to be.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// L0 is nobody's guest.
    #[error("L0 has no hypervisor to call")]
    NoHypervisor,
    /// It takes two processors.
    #[error("{0} takes two processors, and there is one")]
    OneProcessor(Row),
    /// A file or device of the kernel's isn't there.
    #[error("{path}: {source}")]
    Missing {
        /// Which.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// There is no device whose queue may be notified for nothing.
    #[error("no virtio entropy device is on the PCI bus")]
    NoDevice,
    /// The kernel keeps the registers of devices that have a driver for itself
    /// (CONFIG_IO_STRICT_DEVMEM).
    #[error("{path} is the kernel's alone: boot it with iomem=relaxed")]
    Exclusive {
        /// Which registers.
        path: String,
    },
    /// The system refuses something that every row of this kind takes.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// A row of which samples are dear takes no more after this time, if it has a few.
const BUDGET_MS: u64 = 250;
const FEW: usize = 20;
/// How many times as many samples there are of a control row.
const CONTROLS: usize = 10;

/// Told when what is counted begins and when it is over.
pub trait Observer {
    /// The next instruction belongs to the samples.
    fn begins(&mut self);
    /// The last sample is taken.
    fn ends(&mut self);
}

/// Nobody counts.
impl Observer for () {
    fn begins(&mut self) {}
    fn ends(&mut self) {}
}

/// What a level has for rows that take more than processors and memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// A disk, or a file, whose content doesn't matter and is overwritten.
    pub disk: Option<PathBuf>,
    /// Where L0 serves the rows of the network.
    pub server: Option<SocketAddr>,
    /// The processors that measure, in order; the first ones, where none are named.
    pub processors: Vec<u32>,
}

impl Resources {
    /// Pins the calling thread to the `nth` of the processors that measure.
    fn move_to(&self, nth: usize) -> io::Result<()> {
        let named = self
            .processors
            .get(nth)
            .map(|&number| usize::try_from(number));
        sys::move_to(named.unwrap_or(Ok(nth)).map_err(io::Error::other)?)
    }
}

/// Where and how a row is measured.
pub struct Session<'a> {
    /// At which level.
    pub level: u8,
    /// How many samples to take; a row that needs memory for each may take fewer.
    pub samples: usize,
    /// What there is besides processors and memory.
    pub resources: &'a Resources,
    /// Who counts meanwhile.
    pub observer: &'a mut dyn Observer,
}

/// Measures any row but [`Row::Boot`]. The calling thread is pinned to the first processor that
/// measures from then on; where a second thread takes part, it is on the second.
///
/// # Errors
/// Why the row can't be measured here.
pub fn measure(row: Row, session: &mut Session<'_>) -> Result<Measured, Error> {
    session.resources.move_to(0)?;
    if row.family() == Family::Control {
        // They are quick, and with many of them an interrupt weighs little.
        session.samples = session.samples.saturating_mul(CONTROLS);
    }
    let mut measured = work(row, session)?;
    if row.quantity() == Quantity::Throughput {
        // What exits are counted for isn't a byte, but what is asked for at once.
        measured.operations /= measured.work.max(1);
    }
    Ok(measured)
}

fn work(row: Row, session: &mut Session<'_>) -> Result<Measured, Error> {
    match row {
        Row::Nop => instructions::nop(session),
        Row::Syscall => instructions::syscall(session),
        Row::Hypercall => instructions::hypercall(session),
        Row::Cpuid => instructions::cpuid(session),
        Row::DeviceNotify => device::notify(session),
        Row::ProgramTimer => timer::program(session),
        Row::RdmsrIntercepted => registers::rdmsr_intercepted(session),
        Row::RdmsrPassthrough => registers::rdmsr_passthrough(session),
        Row::PortKernel => registers::port_kernel(session),
        Row::PortUser => registers::port_user(session),
        Row::PageTouch4k => memory::touch_4k(session),
        Row::PageTouch2m => memory::touch_2m(session),
        Row::PointerChase => memory::pointer_chase(session),
        Row::ContextSwitch => processors::context_switch(session),
        Row::SendIpi | Row::FutexWake if Processor::current().count < 2 => {
            Err(Error::OneProcessor(row))
        }
        Row::SendIpi => processors::send_ipi(session),
        Row::FutexWake => processors::futex_wake(session),
        Row::ConsoleWrite => console::write(session),
        Row::Cpu => processor::hash(session),
        Row::Memory => memory::copy(session),
        Row::ForkExec => programs::fork_exec(session),
        Row::Container => programs::container(session),
        Row::BlockSeqRead => disk::read_in_order(session),
        Row::BlockSeqWrite => disk::write_in_order(session),
        Row::BlockRandRead => disk::read_here_and_there(session),
        Row::NetStreamUp => network::send(session),
        Row::NetStreamDown => network::receive(session),
        Row::NetRequestResponse => network::request(session),
        Row::NetConnect => network::connect(session),
        Row::Boot => Err(Error::Outside(row)),
    }
}

/// The rows that [`measure`] can measure.
pub fn rows() -> impl Iterator<Item = Row> {
    let rows = Row::ALL.iter().copied();
    rows.filter(|&row| row != Row::Boot)
}

impl Session<'_> {
    /// Takes up to `most` samples of `operation`, which does `work` operations; fewer if
    /// they take long.
    fn take(
        &mut self,
        most: usize,
        work: u64,
        operation: impl FnMut() -> io::Result<()>,
    ) -> Result<Measured, Error> {
        self.take_ahead(most, work, 0, || Ok(()), operation)
    }

    /// As [`take`](Self::take), one operation a sample, each at least `pace_us`
    /// microseconds after the one before: where it is the time at which it is done that
    /// decides what it costs, quick ones don't count for more than slow ones.
    fn take_paced(
        &mut self,
        pace_us: u64,
        operation: impl FnMut() -> io::Result<()>,
    ) -> Result<Measured, Error> {
        self.sample(usize::MAX, 1, 0, pace_us, || Ok(()), operation)
    }

    /// As [`take`](Self::take), of work that is begun `ahead` samples before it is
    /// waited for, by `finish`. So much of it goes before the first sample and after the
    /// last, and is counted too.
    fn take_ahead(
        &mut self,
        most: usize,
        work: u64,
        ahead: u64,
        begin: impl FnMut() -> io::Result<()>,
        finish: impl FnMut() -> io::Result<()>,
    ) -> Result<Measured, Error> {
        self.sample(most, work, ahead, 0, begin, finish)
    }

    fn sample(
        &mut self,
        most: usize,
        work: u64,
        ahead: u64,
        pace_us: u64,
        mut begin: impl FnMut() -> io::Result<()>,
        mut finish: impl FnMut() -> io::Result<()>,
    ) -> Result<Measured, Error> {
        let timer_cost = tsc::cost();
        let khz = tsc::khz();
        let budget = khz.saturating_mul(BUDGET_MS);
        let pace = khz.saturating_mul(pace_us) / 1000;
        // Written to here, so that no sample pays for the first touch of its place.
        let mut samples = vec![u64::MAX; self.samples.min(most)];
        let mut all = || {
            (0..ahead).try_for_each(|_| begin())?;
            let first = tsc::read();
            let mut taken = 0;
            for sample in &mut samples {
                let start = tsc::read();
                let done = begin().and_then(|()| finish());
                let end = tsc::read();
                *sample = end.wrapping_sub(start);
                done?;
                taken += 1;
                if taken >= FEW && end.wrapping_sub(first) > budget {
                    break;
                }
                while tsc::read().wrapping_sub(start) < pace {}
            }
            (0..ahead).try_for_each(|_| finish())?;
            Ok(taken)
        };
        self.observer.begins();
        let taken: io::Result<usize> = all();
        self.observer.ends();
        samples.truncate(taken?);
        Ok(Measured {
            clock: Clock::Tsc { khz },
            timer_cost,
            work,
            operations: work * (samples.len() as u64 + ahead),
            samples,
            counts: BTreeMap::new(),
            baseline: BTreeMap::new(),
        })
    }
}

#[cfg(test)]
mod tests;
