//! What CPUID and the MSRs tell on each processor of a level.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;

use nestling_arch::cpuid::{Cpuid, Registers};
use nestling_arch::msr::{self, MsrSet};

use super::facts::Processor;
use super::modules::Tree;
use super::report::Reporter;
use super::sys;
use crate::channel::What;
use crate::cpu::CpuView;

/// Where ranges of leaves begin; the first leaf of each tells its last (SDM
/// vol. 2A, CPUID). Those of hypervisors are at 0x100 from each other.
const RANGES: [u32; 5] = [0, 0x4000_0000, 0x4000_0100, 0x8000_0000, 0xC000_0000];
/// The most leaves in one range.
const MAX_LEAVES: u32 = 0x100;
/// How many subleaves are looked at: as many as XSAVE has components.
const SUBLEAVES: u32 = 64;

/// Reports an event for each processor.
pub(super) fn dump(reporter: &mut Reporter) -> io::Result<String> {
    let tree = Tree::open(&Path::new("/lib/modules").join(sys::kernel_release()));
    tree.load("msr", "").map_err(io::Error::other)?;
    let count = Processor::current().count;
    for index in 0..count {
        // A thread of its own, so that this one stays where it may run.
        let view = thread::scope(|scope| scope.spawn(|| view(index)).join())
            .map_err(|_| io::Error::other("the thread that looks at a processor panicked"))??;
        reporter.send(What::Cpu(view));
    }
    Ok(format!("{count} processors"))
}

/// What processor `index` tells.
fn view(index: u32) -> io::Result<CpuView> {
    sys::move_to(usize::try_from(index).map_err(io::Error::other)?)?;
    Ok(CpuView {
        index,
        cpuid: cpuid(ask),
        msrs: msrs(index)?,
        xcr0: sys::xcr0(),
    })
}

/// What the processor that this runs on answers.
fn ask(leaf: u32, subleaf: u32) -> Registers {
    let raw = std::arch::x86_64::__cpuid_count(leaf, subleaf);
    Registers {
        eax: raw.eax,
        ebx: raw.ebx,
        ecx: raw.ecx,
        edx: raw.edx,
    }
}

/// The MSRs that can be read. One that faults isn't there.
fn msrs(index: u32) -> io::Result<MsrSet> {
    let device = File::open(format!("/dev/cpu/{index}/msr"))?;
    let read = |msr: u32| {
        let mut value = [0; 8];
        match device.read_exact_at(&mut value, msr.into()) {
            Ok(()) => Some(Ok((msr, u64::from_le_bytes(value)))),
            Err(error) if error.raw_os_error() == Some(libc::EIO) => None,
            Err(error) => Some(Err(error)),
        }
    };
    msr::told_to_guests().into_iter().filter_map(read).collect()
}

/// All answers but those of zeros.
fn cpuid(read: impl Fn(u32, u32) -> Registers) -> Cpuid {
    let mut cpuid = Cpuid::default();
    for first in RANGES {
        let last = read(first, 0).eax;
        // A range that isn't there is answered by another's leaf, or by zeros.
        if !(first..first + MAX_LEAVES).contains(&last) {
            continue;
        }
        for leaf in first..=last {
            let answers: Vec<Registers> = (0..SUBLEAVES)
                .map(|subleaf| read(leaf, subleaf))
                .take_while(|answer| !ends_topology(leaf, answer))
                .collect();
            insert(&mut cpuid, leaf, &answers);
        }
    }
    cpuid.remove_zeros();
    cpuid
}

/// Whether a subleaf of the topology leaves is behind their last level, where
/// its number still comes back (SDM vol. 2A, CPUID, leaves 0BH and 1FH).
fn ends_topology(leaf: u32, answer: &Registers) -> bool {
    matches!(leaf, 0xB | 0x1F) && answer.ecx & 0xFF00 == 0
}

/// A leaf that answers every subleaf alike has none.
fn insert(cpuid: &mut Cpuid, leaf: u32, answers: &[Registers]) {
    let [first, rest @ ..] = answers else { return };
    if !rest.is_empty() && rest.iter().all(|answer| answer == first) {
        cpuid.insert(leaf, None, *first);
        return;
    }
    for (subleaf, answer) in (0..).zip(answers) {
        cpuid.insert(leaf, Some(subleaf), *answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a processor with these answers says to any question.
    fn answer(leaf: u32, subleaf: u32) -> Registers {
        let registers = |eax, ebx, ecx, edx| Registers { eax, ebx, ecx, edx };
        match (leaf, subleaf) {
            (0x0, _) => registers(0xB, 0x756E_6547, 0x6C65_746E, 0x4965_6E69),
            (0x1, _) => registers(1, 2, 3, 4),
            (0x4, 0) => registers(0x121, 0, 0, 0),
            (0x4, 2) => registers(0x143, 0, 0, 0),
            (0xB, 0) => registers(0, 1, 0x100, 7),
            (0xB, subleaf) => registers(0, 0, subleaf, 7),
            (0x8000_0000, _) => registers(0x8000_0001, 0, 0, 0),
            (0x8000_0001, _) => registers(0, 0, 0, 9),
            // Out of range: what the last leaf of the first range says.
            (leaf, _) if leaf > 0x8000_0001 => registers(0, 1, 0x100, 7),
            _ => Registers::ZERO,
        }
    }

    #[test]
    fn every_leaf_of_every_range_is_asked() {
        let read = cpuid(answer);
        let places: Vec<_> = read.iter().map(|(place, _)| place).collect();
        assert_eq!(
            places,
            [
                (0x0, None),
                (0x1, None),
                (0x4, Some(0)),
                (0x4, Some(2)),
                (0xB, Some(0)),
                (0x8000_0000, None),
                (0x8000_0001, None),
            ]
        );
        for ((leaf, subleaf), registers) in read.iter() {
            assert_eq!(registers, answer(leaf, subleaf.unwrap_or(0)));
        }
    }

    #[test]
    fn this_processor_can_be_asked() {
        let view = cpuid(ask);
        assert!(view.has_leaf(0) && view.has_leaf(1));
    }
}
