//! KVM's own counts, read through the binary statistics descriptor
//! (KVM API, 4.133). No privilege is needed on one's own machine.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use kvm_bindings::{
    KVM_STATS_TYPE_CUMULATIVE, KVM_STATS_TYPE_INSTANT, KVM_STATS_TYPE_MASK, KVM_STATS_TYPE_PEAK,
    kvm_stats_desc, kvm_stats_header,
};
use vmm_sys_util::ioctl::ioctl;

/// _IO(KVMIO, 0xce).
const KVM_GET_STATS_FD: libc::c_ulong = 0xAECE;

/// Counts by the name KVM gives them.
pub type Counts = BTreeMap<String, u64>;

/// More than any kernel has; a descriptor block past it is taken as broken.
const MAX_STATISTICS: u32 = 4096;
const MAX_NAME: u32 = 256;
const MAX_DATA: u64 = 1 << 20;

/// What a VM or vCPU has counted at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// Counts that only grow, and peaks.
    pub counts: Counts,
    /// Values of the moment, such as `guest_mode`: whether the vCPU is in a guest
    /// of its guest.
    pub instants: Counts,
}

/// The statistics of one VM or vCPU. Reading them takes no lock of KVM's and
/// doesn't disturb a vCPU that runs.
#[derive(Debug)]
pub struct Statistics {
    file: File,
    scalars: Vec<Scalar>,
    /// Where the first scalar is in the file, and how far it is from there to
    /// the end of the last.
    start: u64,
    length: usize,
}

#[derive(Debug, PartialEq, Eq)]
struct Scalar {
    name: String,
    offset: u64,
    instant: bool,
}

impl Statistics {
    /// Asks for the statistics of `fd`, a VM's or vCPU's descriptor (Linux 5.14).
    pub fn open(fd: &impl AsRawFd) -> io::Result<Self> {
        // SAFETY: the ioctl takes no argument and returns a new descriptor.
        let stats = unsafe { ioctl(fd, KVM_GET_STATS_FD) };
        if stats < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel returned this descriptor just now, and nothing else owns it.
        let file = unsafe { File::from_raw_fd(stats) };
        let mut header = [0; size_of::<kvm_stats_header>()];
        file.read_exact_at(&mut header, 0)?;
        let layout = Layout::parse(&header)?;
        let mut descriptors = vec![0; layout.descriptor_bytes()];
        file.read_exact_at(&mut descriptors, layout.descriptors)?;
        let scalars = layout.scalars(&descriptors);
        let offsets = || scalars.iter().map(|scalar| scalar.offset);
        let start = offsets().min().unwrap_or(0);
        let length = offsets().max().map_or(0, |last| last - start + 8);
        if length > MAX_DATA {
            return Err(io::Error::other(format!(
                "KVM's statistics are {length} bytes apart"
            )));
        }
        Ok(Self {
            file,
            start,
            length: usize::try_from(length).map_err(io::Error::other)?,
            scalars,
        })
    }

    /// Reads all scalars at once; histograms are left out.
    pub fn read(&self) -> io::Result<Reading> {
        let mut data = vec![0; self.length];
        self.file.read_exact_at(&mut data, self.start)?;
        let mut reading = Reading::default();
        for scalar in &self.scalars {
            let at = usize::try_from(scalar.offset - self.start).map_err(io::Error::other)?;
            let value = data[at..]
                .first_chunk()
                .map(|bytes| u64::from_ne_bytes(*bytes));
            let kind = if scalar.instant {
                &mut reading.instants
            } else {
                &mut reading.counts
            };
            kind.insert(scalar.name.clone(), value.unwrap_or(0));
        }
        Ok(reading)
    }
}

/// The sum of the counts whose names begin with `prefix`, if there are any.
#[must_use]
pub fn sum_of(counts: &Counts, prefix: &str) -> Option<u64> {
    let named = counts.range(prefix.to_owned()..);
    let named = named.take_while(|(name, _)| name.starts_with(prefix));
    named.map(|(_, count)| *count).reduce(u64::saturating_add)
}

/// Adds `other` to `sum`, count by count.
pub fn add(sum: &mut Counts, other: &Counts) {
    for (name, count) in other {
        let total = sum.entry(name.clone()).or_default();
        *total = total.saturating_add(*count);
    }
}

/// Where things are, by the header.
struct Layout {
    name_size: usize,
    count: usize,
    descriptors: u64,
    data: u64,
}

impl Layout {
    fn parse(header: &[u8; size_of::<kvm_stats_header>()]) -> io::Result<Self> {
        let word = |index: usize| {
            let at = index * 4;
            u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let (name_size, count) = (word(1), word(2));
        if name_size > MAX_NAME || count > MAX_STATISTICS {
            return Err(io::Error::other(format!(
                "KVM announces {count} statistics with names of {name_size} bytes"
            )));
        }
        Ok(Self {
            name_size: name_size as usize,
            count: count as usize,
            descriptors: word(4).into(),
            data: word(5).into(),
        })
    }

    fn descriptor_bytes(&self) -> usize {
        self.count * (size_of::<kvm_stats_desc>() + self.name_size)
    }

    fn scalars(&self, descriptors: &[u8]) -> Vec<Scalar> {
        descriptors
            .chunks_exact(size_of::<kvm_stats_desc>() + self.name_size)
            .filter_map(|descriptor| {
                let word = |at: usize| -> Option<u32> {
                    Some(u32::from_ne_bytes(
                        descriptor.get(at..at + 4)?.try_into().ok()?,
                    ))
                };
                let kind = word(0)? & KVM_STATS_TYPE_MASK;
                let items = u16::from_ne_bytes(descriptor.get(6..8)?.try_into().ok()?);
                let instant = kind == KVM_STATS_TYPE_INSTANT;
                let scalar =
                    instant || kind == KVM_STATS_TYPE_CUMULATIVE || kind == KVM_STATS_TYPE_PEAK;
                let name = descriptor.get(size_of::<kvm_stats_desc>()..)?;
                let name = name.split(|byte| *byte == 0).next()?;
                (scalar && items == 1).then(|| Scalar {
                    name: String::from_utf8_lossy(name).into_owned(),
                    offset: self.data + u64::from(word(8).unwrap_or(0)),
                    instant,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(kind: u32, items: u16, offset: u32, name: &str) -> Vec<u8> {
        let mut bytes = kind.to_ne_bytes().to_vec();
        bytes.extend(0i16.to_ne_bytes());
        bytes.extend(items.to_ne_bytes());
        bytes.extend(offset.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        let mut field = [0; 16];
        field[..name.len()].copy_from_slice(name.as_bytes());
        bytes.extend(field);
        bytes
    }

    fn header(name_size: u32, count: u32) -> [u8; 24] {
        let mut bytes = [0; 24];
        for (slot, word) in bytes
            .chunks_exact_mut(4)
            .zip([0, name_size, count, 24, 72, 400])
        {
            slot.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn finds_scalars_and_leaves_out_histograms() {
        let layout = Layout::parse(&header(16, 4)).expect("sane");
        let histogram = kvm_bindings::KVM_STATS_TYPE_LOG_HIST;
        let descriptors = [
            descriptor(KVM_STATS_TYPE_CUMULATIVE, 1, 8, "exits"),
            descriptor(KVM_STATS_TYPE_INSTANT, 1, 16, "guest_mode"),
            descriptor(histogram, 32, 24, "halt_poll_hist"),
            descriptor(KVM_STATS_TYPE_PEAK, 1, 280, "peak"),
        ]
        .concat();
        assert_eq!(layout.descriptor_bytes(), descriptors.len());
        assert_eq!(
            layout.scalars(&descriptors),
            [
                Scalar {
                    name: "exits".into(),
                    offset: 408,
                    instant: false
                },
                Scalar {
                    name: "guest_mode".into(),
                    offset: 416,
                    instant: true
                },
                Scalar {
                    name: "peak".into(),
                    offset: 680,
                    instant: false
                },
            ]
        );
    }

    #[test]
    fn a_broken_header_is_refused() {
        assert!(Layout::parse(&header(16, 1_000_000)).is_err());
        assert!(Layout::parse(&header(70_000, 1)).is_err());
    }

    #[test]
    fn counts_add_up() {
        let mut sum = Counts::from([("exits".into(), 1)]);
        add(
            &mut sum,
            &Counts::from([("exits".into(), 2), ("hypercalls".into(), 5)]),
        );
        assert_eq!(
            sum,
            Counts::from([("exits".into(), 3), ("hypercalls".into(), 5)])
        );
    }
}
