//! CPUID feature bits by the names the SDM and the APM give them.

use std::fmt;

use super::Key;

/// One of the four registers that CPUID answers in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Register {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

impl Register {
    /// All four, in their order.
    pub const ALL: [Self; 4] = [Self::Eax, Self::Ebx, Self::Ecx, Self::Edx];
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Eax => "EAX",
            Self::Ebx => "EBX",
            Self::Ecx => "ECX",
            Self::Edx => "EDX",
        })
    }
}

/// A single bit of CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// The manual's name.
    pub name: &'static str,
    /// EAX on input.
    pub leaf: u32,
    /// ECX on input, where the leaf has subleaves.
    pub subleaf: Option<u32>,
    /// The register that holds the bit.
    pub register: Register,
    /// The bit's number, 0 to 31.
    pub bit: u32,
}

impl Feature {
    const fn plain(name: &'static str, leaf: u32, register: Register, bit: u32) -> Self {
        Self {
            name,
            leaf,
            subleaf: None,
            register,
            bit,
        }
    }

    const fn indexed(
        name: &'static str,
        leaf: u32,
        subleaf: u32,
        register: Register,
        bit: u32,
    ) -> Self {
        Self {
            name,
            leaf,
            subleaf: Some(subleaf),
            register,
            bit,
        }
    }

    /// The bit as a mask of its register.
    pub const fn mask(&self) -> u32 {
        1 << self.bit
    }

    /// Where it is, as the manuals write it: `CPUID.7H.0:EBX[2]`.
    pub fn place(&self) -> String {
        let place = register_name((self.leaf, self.subleaf), self.register);
        format!("{place}[{}]", self.bit)
    }
}

/// A register of an answer as the manuals write it: `CPUID.7H.0:EBX`.
pub fn register_name((leaf, subleaf): Key, register: Register) -> String {
    match subleaf {
        None => format!("CPUID.{leaf:X}H:{register}"),
        Some(subleaf) => format!("CPUID.{leaf:X}H.{subleaf}:{register}"),
    }
}

impl fmt::Display for Feature {
    /// As the manuals write it: `VMX (CPUID.1H:ECX[5])`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.place())
    }
}

use Register::{Eax, Ebx, Ecx, Edx};

/// 64-bit layout of the debug store (SDM vol. 2A, CPUID).
pub const DTES64: Feature = Feature::plain("DTES64", 0x1, Ecx, 2);
/// MONITOR and MWAIT.
pub const MONITOR: Feature = Feature::plain("MONITOR", 0x1, Ecx, 3);
/// Virtual machine extensions (SDM vol. 3C, 24.6).
pub const VMX: Feature = Feature::plain("VMX", 0x1, Ecx, 5);
/// IA32_PERF_CAPABILITIES exists.
pub const PDCM: Feature = Feature::plain("PDCM", 0x1, Ecx, 15);
/// Process-context identifiers.
pub const PCID: Feature = Feature::plain("PCID", 0x1, Ecx, 17);
/// Safer mode extensions.
pub const SMX: Feature = Feature::plain("SMX", 0x1, Ecx, 6);
/// x2APIC mode (SDM vol. 3A, 11.12).
pub const X2APIC: Feature = Feature::plain("x2APIC", 0x1, Ecx, 21);
/// The local APIC's timer takes a TSC deadline (SDM vol. 3A, 11.5.4.1).
pub const TSC_DEADLINE: Feature = Feature::plain("TSC-Deadline", 0x1, Ecx, 24);
/// XSAVE and its like.
pub const XSAVE: Feature = Feature::plain("XSAVE", 0x1, Ecx, 26);
/// CR4.OSXSAVE, mirrored.
pub const OSXSAVE: Feature = Feature::plain("OSXSAVE", 0x1, Ecx, 27);
/// RDRAND.
pub const RDRAND: Feature = Feature::plain("RDRAND", 0x1, Ecx, 30);
/// A hypervisor is present: always 0 on a processor (APM vol. 3, appendix E).
pub const HYPERVISOR: Feature = Feature::plain("HYPERVISOR", 0x1, Ecx, 31);
/// Virtual-8086 mode extensions.
pub const VME: Feature = Feature::plain("VME", 0x1, Edx, 1);
/// Debugging extensions.
pub const DE: Feature = Feature::plain("DE", 0x1, Edx, 2);
/// Pages of 4 MiB.
pub const PSE: Feature = Feature::plain("PSE", 0x1, Edx, 3);
/// The time stamp counter.
pub const TSC: Feature = Feature::plain("TSC", 0x1, Edx, 4);
/// Physical address extension.
pub const PAE: Feature = Feature::plain("PAE", 0x1, Edx, 6);
/// The machine check exception.
pub const MCE: Feature = Feature::plain("MCE", 0x1, Edx, 7);
/// Global pages.
pub const PGE: Feature = Feature::plain("PGE", 0x1, Edx, 13);
/// Debug store.
pub const DS: Feature = Feature::plain("DS", 0x1, Edx, 21);
/// FXSAVE and FXRSTOR.
pub const FXSR: Feature = Feature::plain("FXSR", 0x1, Edx, 24);
/// Streaming SIMD extensions.
pub const SSE: Feature = Feature::plain("SSE", 0x1, Edx, 25);
/// The package has more than one logical processor.
pub const HTT: Feature = Feature::plain("HTT", 0x1, Edx, 28);

/// RDFSBASE and its like.
pub const FSGSBASE: Feature = Feature::indexed("FSGSBASE", 0x7, 0, Ebx, 0);
/// Software guard extensions.
pub const SGX: Feature = Feature::indexed("SGX", 0x7, 0, Ebx, 2);
/// Supervisor-mode execution prevention.
pub const SMEP: Feature = Feature::indexed("SMEP", 0x7, 0, Ebx, 7);
/// INVPCID.
pub const INVPCID: Feature = Feature::indexed("INVPCID", 0x7, 0, Ebx, 10);
/// RDSEED.
pub const RDSEED: Feature = Feature::indexed("RDSEED", 0x7, 0, Ebx, 18);
/// Supervisor-mode access prevention.
pub const SMAP: Feature = Feature::indexed("SMAP", 0x7, 0, Ebx, 20);
/// User-mode instruction prevention.
pub const UMIP: Feature = Feature::indexed("UMIP", 0x7, 0, Ecx, 2);
/// Protection keys for user pages.
pub const PKU: Feature = Feature::indexed("PKU", 0x7, 0, Ecx, 3);
/// CR4.PKE, mirrored.
pub const OSPKE: Feature = Feature::indexed("OSPKE", 0x7, 0, Ecx, 4);
/// TPAUSE, UMONITOR and UMWAIT.
pub const WAITPKG: Feature = Feature::indexed("WAITPKG", 0x7, 0, Ecx, 5);
/// Linear addresses of 57 bits.
pub const LA57: Feature = Feature::indexed("LA57", 0x7, 0, Ecx, 16);
/// RDPID.
pub const RDPID: Feature = Feature::indexed("RDPID", 0x7, 0, Ecx, 22);
/// SGX launch configuration.
pub const SGX_LC: Feature = Feature::indexed("SGX_LC", 0x7, 0, Ecx, 30);
/// Architectural last branch records.
pub const ARCH_LBR: Feature = Feature::indexed("ARCH_LBR", 0x7, 0, Edx, 19);
/// Tile arithmetic on bfloat16.
pub const AMX_BF16: Feature = Feature::indexed("AMX_BF16", 0x7, 0, Edx, 22);
/// Tile architecture.
pub const AMX_TILE: Feature = Feature::indexed("AMX_TILE", 0x7, 0, Edx, 24);
/// Tile arithmetic on 8-bit integers.
pub const AMX_INT8: Feature = Feature::indexed("AMX_INT8", 0x7, 0, Edx, 25);
/// Tile arithmetic on half-precision floats.
pub const AMX_FP16: Feature = Feature::indexed("AMX_FP16", 0x7, 1, Eax, 21);
/// Linear address masking.
pub const LAM: Feature = Feature::indexed("LAM", 0x7, 1, Eax, 26);
/// XSAVES and XRSTORS.
pub const XSAVES: Feature = Feature::indexed("XSAVES", 0xD, 1, Eax, 3);
/// XSAVE manages the tile configuration (XCR0 bit 17).
pub const XTILECFG: Feature = Feature::indexed("XTILECFG", 0xD, 0, Eax, 17);
/// XSAVE manages the tile data (XCR0 bit 18).
pub const XTILEDATA: Feature = Feature::indexed("XTILEDATA", 0xD, 0, Eax, 18);

/// The package's logical processors are cores, not threads (AMD).
pub const CMP_LEGACY: Feature = Feature::plain("CmpLegacy", 0x8000_0001, Ecx, 1);
/// Secure virtual machine (APM vol. 2, 15.4).
pub const SVM: Feature = Feature::plain("SVM", 0x8000_0001, Ecx, 2);
/// SKINIT and STGI without EFER.SVME.
pub const SKINIT: Feature = Feature::plain("SKINIT", 0x8000_0001, Ecx, 12);
/// Leaves 0x8000001D and 0x8000001E exist.
pub const TOPOLOGY_EXTENSIONS: Feature = Feature::plain("TopologyExtensions", 0x8000_0001, Ecx, 22);
/// Six core performance counters rather than four.
pub const PERF_CTR_EXT_CORE: Feature = Feature::plain("PerfCtrExtCore", 0x8000_0001, Ecx, 23);
/// Northbridge performance counters.
pub const PERF_CTR_EXT_NB: Feature = Feature::plain("PerfCtrExtNB", 0x8000_0001, Ecx, 24);
/// L3 performance counters.
pub const PERF_CTR_EXT_LLC: Feature = Feature::plain("PerfCtrExtLLC", 0x8000_0001, Ecx, 28);

/// RDTSCP.
pub const RDTSCP: Feature = Feature::plain("RDTSCP", 0x8000_0001, Edx, 27);

/// KVM tells an L1 hypervisor of a page that is not there yet by a nested VM
/// exit (Documentation/virt/kvm/x86/cpuid.rst).
pub const KVM_ASYNC_PF_VMEXIT: Feature =
    Feature::plain("KVM_FEATURE_ASYNC_PF_VMEXIT", 0x4000_0001, Eax, 10);
