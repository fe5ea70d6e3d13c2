//! A processor as software sees it: what CPUID and the MSRs tell.

use nestling_arch::cpuid::Cpuid;
use nestling_arch::msr::MsrSet;
use serde::{Deserialize, Serialize};

/// What one processor tells of itself: as its monitor has set it, or as it was
/// read on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuView {
    /// Its number, from 0.
    pub index: u32,
    /// What CPUID answers, without answers of zeros.
    pub cpuid: Cpuid,
    /// MSRs, those that the monitor sets and those that follow from them.
    pub msrs: MsrSet,
    /// XCR0, where the system has enabled XSAVE; it decides on sizes that CPUID
    /// tells. Not the monitor's to set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xcr0: Option<u64>,
}

#[cfg(test)]
mod tests {
    use nestling_arch::cpuid::Registers;

    use super::*;
    use crate::channel::{Error, Event, MAX_MSRS, What};

    fn view(msrs: u32) -> CpuView {
        let mut cpuid = Cpuid::default();
        let svm = Registers {
            edx: 0x1001_0061,
            ..Registers::ZERO
        };
        cpuid.insert(0x8000_000A, None, svm);
        CpuView {
            index: 1,
            cpuid,
            msrs: (0..msrs).map(|msr| (msr, u64::from(msr))).collect(),
            xcr0: None,
        }
    }

    #[test]
    fn an_event_has_the_documented_shape() {
        let event = Event {
            level: 1,
            what: What::Vcpu(view(1)),
        };
        let line = event.clone().line();
        assert_eq!(
            std::str::from_utf8(&line).unwrap().trim_end(),
            r#"{"level":1,"event":"vcpu","index":1,"#.to_owned()
                + r#""cpuid":{"0x8000000a":"00000000 00000000 00000000 10010061"},"#
                + r#""msrs":{"0x0":"0x0000000000000000"}}"#
        );
        assert_eq!(Event::parse(&line, 1).unwrap(), event);
    }

    #[test]
    fn a_guest_tells_of_so_many_msrs_and_no_more() {
        for (count, taken) in [(MAX_MSRS, true), (MAX_MSRS + 1, false)] {
            let view = view(u32::try_from(count).unwrap());
            let event = Event {
                level: 1,
                what: What::Cpu(view),
            };
            match Event::parse(&event.line(), 1) {
                Ok(_) => assert!(taken),
                Err(Error::Msrs(msrs)) => assert_eq!((taken, msrs), (false, count)),
                Err(error) => panic!("{error}"),
            }
        }
    }
}
