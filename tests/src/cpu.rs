//! What processors tell of themselves, in the events `vcpu` and `cpu`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde_json::Value;

use crate::nest::Life;

/// CPUID answers by leaf and subleaf, which plain leaves don't have: EAX, EBX,
/// ECX, EDX.
pub type Cpuid = BTreeMap<(u32, Option<u32>), [u32; 4]>;
/// MSRs by number.
pub type Msrs = BTreeMap<u32, u64>;

/// What one processor tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// What CPUID answers.
    pub cpuid: Cpuid,
    /// What its MSRs hold.
    pub msrs: Msrs,
    /// XCR0, where the system has enabled XSAVE.
    pub xcr0: Option<u64>,
}

/// The VMX capability MSRs (SDM vol. 3D, appendix A).
pub const VMX_MSRS: RangeInclusive<u32> = 0x480..=0x491;
/// The leaf of SVM's features (APM vol. 3, appendix E).
pub const SVM_LEAF: (u32, Option<u32>) = (0x8000_000A, None);
/// The MSR that allows VMXON, and its lock.
const IA32_FEATURE_CONTROL: u32 = 0x3A;
const FEATURE_CONTROL_LOCK: u64 = 1 << 0;
/// Components that XSAVE always has room for: x87 and SSE (SDM vol. 1, 13.4.1).
const LEGACY_COMPONENTS: u32 = 2;
/// The legacy region with the XSAVE header (SDM vol. 1, 13.4).
const LEGACY_SIZE: u32 = 576;

impl View {
    /// The view that an event holds.
    ///
    /// # Panics
    /// If it holds none.
    #[must_use]
    pub fn of(event: &Value) -> Self {
        let texts = |field: &str| -> BTreeMap<String, String> {
            serde_json::from_value(event[field].clone())
                .unwrap_or_else(|error| panic!("{field}: {error}: {event}"))
        };
        let cpuid = texts("cpuid")
            .iter()
            .map(|(place, registers)| (key(place), four(registers)))
            .collect();
        let msrs = texts("msrs")
            .iter()
            .map(|(msr, value)| (number(msr), hex(value)))
            .collect();
        Self {
            cpuid,
            msrs,
            xcr0: event["xcr0"].as_u64(),
        }
    }

    /// What software that runs under `xcr0` reads of CPUID where a vCPU was set to
    /// this: some bits mirror control registers.
    #[must_use]
    pub fn read_under(&self, xcr0: Option<u64>) -> Cpuid {
        const PKU: u32 = 1 << 3;
        const OSPKE: u32 = 1 << 4;
        const OSXSAVE: u32 = 1 << 27;
        const XSAVEC_XSAVES: u32 = 1 << 1 | 1 << 3;
        let mut read = self.cpuid.clone();
        // Behind the last level of the topology only the subleaf's number comes back.
        read.retain(|(leaf, _), [_, _, ecx, _]| !matches!(leaf, 0xB | 0x1F) || *ecx & 0xFF00 != 0);
        if let Some([_, _, ecx, _]) = read.get_mut(&(0x1, None)) {
            *ecx = *ecx & !OSXSAVE | if xcr0.is_some() { OSXSAVE } else { 0 };
        }
        if let Some([_, _, ecx, _]) = read.get_mut(&(0x7, Some(0))) {
            // Linux sets CR4.PKE wherever it can.
            *ecx = *ecx & !OSPKE | if *ecx & PKU != 0 { OSPKE } else { 0 };
        }
        let enabled = xcr0.unwrap_or(1);
        let (standard, compacted) = (
            self.xsave_size(enabled, false),
            self.xsave_size(enabled, true),
        );
        if let Some([_, ebx, _, _]) = read.get_mut(&(0xD, Some(0))) {
            *ebx = standard;
        }
        if let Some([eax, ebx, _, _]) = read.get_mut(&(0xD, Some(1)))
            && *eax & XSAVEC_XSAVES != 0
        {
            *ebx = compacted;
        }
        read
    }

    /// The size of the XSAVE area with these components (SDM vol. 1, 13.4.3).
    fn xsave_size(&self, components: u64, compacted: bool) -> u32 {
        let mut size = LEGACY_SIZE;
        for component in (LEGACY_COMPONENTS..64).filter(|bit| components >> bit & 1 != 0) {
            let Some([length, offset, flags, _]) = self.cpuid.get(&(0xD, Some(component))) else {
                continue;
            };
            let aligned = if flags & 2 != 0 {
                size.next_multiple_of(64)
            } else {
                size
            };
            size = if compacted {
                aligned + length
            } else {
                size.max(offset + length)
            };
        }
        size
    }
}

/// What each processor of a machine that ran `cpu-dump` read, each CPUID bit and
/// each MSR as its monitor had set it.
///
/// # Panics
/// If any reads otherwise.
#[must_use]
pub fn read_as_set(machine: &Life<'_>) -> Vec<View> {
    let [set, read] = ["vcpu", "cpu"].map(|kind| {
        let events = machine.own(kind);
        events.map(View::of).collect::<Vec<_>>()
    });
    assert_eq!(machine.booted()["cpus"], set.len());
    assert_eq!(set.len(), read.len());
    for (set, read) in set.iter().zip(&read) {
        assert_eq!(read.cpuid, set.read_under(read.xcr0));
        for (msr, value) in &set.msrs {
            assert_eq!(read.msrs.get(msr), Some(value), "MSR {msr:#x}");
        }
        for (msr, value) in &read.msrs {
            let shows_vmx = match *msr {
                // Linux locks it, as it is, where nobody has.
                IA32_FEATURE_CONTROL => *value & !FEATURE_CONTROL_LOCK != 0,
                _ => VMX_MSRS.contains(msr),
            };
            let known = set.msrs.contains_key(msr) || !shows_vmx;
            assert!(known, "MSR {msr:#x} has {value:#x}, which nobody set");
        }
    }
    read
}

fn hex(text: &str) -> u64 {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn number(text: &str) -> u32 {
    u32::try_from(hex(text)).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn key(place: &str) -> (u32, Option<u32>) {
    let (leaf, subleaf) = match place.split_once('.') {
        Some((leaf, subleaf)) => (leaf, Some(subleaf.parse().expect("a subleaf is a number"))),
        None => (place, None),
    };
    (number(leaf), subleaf)
}

fn four(registers: &str) -> [u32; 4] {
    let values: Vec<u32> = registers.split_whitespace().map(number).collect();
    values.try_into().expect("an answer is four registers")
}
