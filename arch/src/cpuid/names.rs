//! The names of CPUID's feature bits, for reading and for saying them.
//!
//! Intel's are the SDM's (vol. 2A, CPUID), AMD's the APM's (vol. 3, appendix
//! E), KVM's those of Documentation/virt/kvm/x86/cpuid.rst. Where both vendors
//! have a bit of the same name in different places, AMD's begins with `AMD_`;
//! a bit of XCR0 that has a feature's name ends in `-state`.

use super::{Feature, Key, Register};
use Register::{Eax, Ebx, Ecx, Edx};

/// The names of one register's bits from bit 0 on; `-` where a bit has none.
struct Row(u32, Option<u32>, Register, &'static str);

const ROWS: [Row; 18] = [
    Row(
        0x1,
        None,
        Ecx,
        "SSE3 PCLMULQDQ DTES64 MONITOR DS-CPL VMX SMX EIST TM2 SSSE3 CNXT-ID SDBG FMA CMPXCHG16B \
         xTPR PDCM - PCID DCA SSE4.1 SSE4.2 x2APIC MOVBE POPCNT TSC-Deadline AESNI XSAVE OSXSAVE \
         AVX F16C RDRAND HYPERVISOR",
    ),
    Row(
        0x1,
        None,
        Edx,
        "FPU VME DE PSE TSC MSR PAE MCE CX8 APIC - SEP MTRR PGE MCA CMOV PAT PSE-36 PSN CLFSH - \
         DS ACPI MMX FXSR SSE SSE2 SS HTT TM - PBE",
    ),
    Row(0x6, None, Eax, "DTS TURBO ARAT"),
    Row(
        0x7,
        Some(0),
        Ebx,
        "FSGSBASE TSC_ADJUST SGX BMI1 HLE AVX2 FDP_EXCPTN_ONLY SMEP BMI2 ERMS INVPCID RTM RDT_M \
         ZERO_FCS_FDS MPX RDT_A AVX512F AVX512DQ RDSEED ADX SMAP AVX512_IFMA - CLFLUSHOPT CLWB \
         PT AVX512PF AVX512ER AVX512CD SHA AVX512BW AVX512VL",
    ),
    Row(
        0x7,
        Some(0),
        Ecx,
        "PREFETCHWT1 AVX512_VBMI UMIP PKU OSPKE WAITPKG AVX512_VBMI2 CET_SS GFNI VAES VPCLMULQDQ \
         AVX512_VNNI AVX512_BITALG TME_EN AVX512_VPOPCNTDQ - LA57 - - - - - RDPID KL \
         BUS_LOCK_DETECT CLDEMOTE - MOVDIRI MOVDIR64B ENQCMD SGX_LC PKS",
    ),
    Row(
        0x7,
        Some(0),
        Edx,
        "- SGX_KEYS AVX512_4VNNIW AVX512_4FMAPS FSRM UINTR - - AVX512_VP2INTERSECT SRBDS_CTRL \
         MD_CLEAR RTM_ALWAYS_ABORT - RTM_FORCE_ABORT SERIALIZE HYBRID TSXLDTRK - PCONFIG ARCH_LBR \
         CET_IBT - AMX_BF16 AVX512_FP16 AMX_TILE AMX_INT8 IBRS_IBPB STIBP L1D_FLUSH \
         ARCH_CAPABILITIES CORE_CAPABILITIES SSBD",
    ),
    Row(
        0x7,
        Some(1),
        Eax,
        "SHA512 SM3 SM4 RAO_INT AVX_VNNI AVX512_BF16 LASS CMPCCXADD ARCHPERFMONEXT - FZLRM FSRS \
         FSRCS - - - - FRED LKGS WRMSRNS NMI_SRC AMX_FP16 HRESET AVX_IFMA - - LAM MSRLIST - - - \
         MOVRS",
    ),
    Row(
        0x7,
        Some(1),
        Edx,
        "- - - - AVX_VNNI_INT8 AVX_NE_CONVERT - - AMX_COMPLEX - AVX_VNNI_INT16 - - UTMR PREFETCHI \
         USER_MSR - UIRET_UIF CET_SSS AVX10 - APX_F",
    ),
    Row(
        0x7,
        Some(2),
        Edx,
        "PSFD IPRED_CTRL RRSBA_CTRL DDPD_U BHI_CTRL MCDT_NO",
    ),
    Row(
        0xD,
        Some(0),
        Eax,
        "x87-state SSE-state AVX-state BNDREGS BNDCSR opmask ZMM_Hi256 Hi16_ZMM - PKRU - - - - - \
         - - XTILECFG XTILEDATA APX-state",
    ),
    Row(0xD, Some(1), Eax, "XSAVEOPT XSAVEC XGETBV_ECX1 XSAVES XFD"),
    Row(
        0x4000_0001,
        None,
        Eax,
        "KVM_FEATURE_CLOCKSOURCE KVM_FEATURE_NOP_IO_DELAY KVM_FEATURE_MMU_OP \
         KVM_FEATURE_CLOCKSOURCE2 KVM_FEATURE_ASYNC_PF KVM_FEATURE_STEAL_TIME KVM_FEATURE_PV_EOI \
         KVM_FEATURE_PV_UNHALT - KVM_FEATURE_PV_TLB_FLUSH KVM_FEATURE_ASYNC_PF_VMEXIT \
         KVM_FEATURE_PV_SEND_IPI KVM_FEATURE_POLL_CONTROL KVM_FEATURE_PV_SCHED_YIELD \
         KVM_FEATURE_ASYNC_PF_INT KVM_FEATURE_MSI_EXT_DEST_ID KVM_FEATURE_HC_MAP_GPA_RANGE \
         KVM_FEATURE_MIGRATION_CONTROL - - - - - - KVM_FEATURE_CLOCKSOURCE_STABLE_BIT",
    ),
    Row(
        0x8000_0001,
        None,
        Ecx,
        "LahfSahf CmpLegacy SVM ExtApicSpace AltMovCr8 ABM SSE4A MisAlignSse 3DNowPrefetch OSVW \
         IBS XOP SKINIT WDT - LWP FMA4 TCE - - - TBM TopologyExtensions PerfCtrExtCore \
         PerfCtrExtNB - DataBkptExt PerfTsc PerfCtrExtLLC MONITORX AddrMaskExt",
    ),
    Row(
        0x8000_0001,
        None,
        Edx,
        "- - - - - - - - - - - SYSCALL - - - - - - - - NX - MmxExt - - FFXSR Page1GB RDTSCP - LM \
         3DNowExt 3DNow",
    ),
    Row(0x8000_0007, None, Edx, "- - - - - - - - TscInvariant"),
    Row(
        0x8000_0008,
        None,
        Ebx,
        "CLZERO InstRetCntMsr RstrFpErrPtrs INVLPGB RDPRU - BE - MCOMMIT WBNOINVD - - IBPB \
         INT_WBINVD IBRS AMD_STIBP IbrsAlwaysOn StibpAlwaysOn IbrsPreferred IbrsSameMode \
         EferLmsleUnsupported INVLPGBnestedPages - PPIN AMD_SSBD SsbdVirtSpecCtrl SsbdNotRequired \
         CPPC AMD_PSFD BTC_NO IBPB_RET BranchSample",
    ),
    Row(
        0x8000_000A,
        None,
        Edx,
        "NP LbrVirt SVML NRIPS TscRateMsr VmcbClean FlushByAsid DecodeAssists PmcVirt - \
         PauseFilter - PauseFilterThreshold AVIC - VMSAVEvirt VGIF GMET x2AVIC SSSCheck SpecCtrl \
         ROGPT - HOST_MCE_OVERRIDE TlbiCtl VNMI IbsVirt ExtLvtOffset VmcbAddrChkChg",
    ),
    Row(
        0x8000_0021,
        None,
        Eax,
        "NoNestedDataBp FsGsKernelGsBaseNonSerializing LFenceAlwaysSerializing SmmPgCfgLock - - \
         NullSelectClearsBase UpperAddressIgnore AutomaticIBRS NoSmmCtlMSR AMD_FSRS FSRC - \
         PrefetchCtlMsr - - - CpuidUserDis EPSF - - - - - ERAPS - - SBPB IBPB_BRTYPE SRSO_NO",
    ),
];

/// The feature of that name, in whatever case.
pub fn find(name: &str) -> Option<Feature> {
    ROWS.iter()
        .find_map(|&Row(leaf, subleaf, register, names)| {
            let mut bits = (0..).zip(names.split_ascii_whitespace());
            let (bit, name) =
                bits.find(|(_, known)| *known != "-" && known.eq_ignore_ascii_case(name))?;
            Some(Feature {
                name,
                leaf,
                subleaf,
                register,
                bit,
            })
        })
}

/// All names, by leaf and bit.
pub fn all() -> impl Iterator<Item = &'static str> {
    let names = ROWS.iter().flat_map(|row| row.3.split_ascii_whitespace());
    names.filter(|name| *name != "-")
}

/// The name of a bit, if it has one.
fn name((leaf, subleaf): Key, register: Register, bit: u32) -> Option<&'static str> {
    ROWS.iter()
        .find(|row| (row.0, row.1, row.2) == (leaf, subleaf, register))
        .and_then(|row| {
            row.3
                .split_ascii_whitespace()
                .nth(usize::try_from(bit).ok()?)
        })
        .filter(|name| *name != "-")
}

/// A bit as the manuals write it, with its name before the place if it has one:
/// `AVX2 (CPUID.7H.0:EBX[5])`.
pub fn describe(key: Key, register: Register, bit: u32) -> String {
    let (leaf, subleaf) = key;
    let feature = Feature {
        name: name(key, register, bit).unwrap_or_default(),
        leaf,
        subleaf,
        register,
        bit,
    };
    match feature.name {
        "" => feature.place(),
        _ => feature.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::feature::*;
    use super::*;

    #[test]
    fn the_passes_know_bits_by_the_same_names() {
        for feature in [
            DTES64,
            MONITOR,
            VMX,
            PDCM,
            X2APIC,
            TSC_DEADLINE,
            OSXSAVE,
            HYPERVISOR,
            DS,
            HTT,
            SGX,
            OSPKE,
            SGX_LC,
            ARCH_LBR,
            AMX_BF16,
            AMX_TILE,
            AMX_INT8,
            AMX_FP16,
            XTILECFG,
            XTILEDATA,
            CMP_LEGACY,
            SVM,
            SKINIT,
            TOPOLOGY_EXTENSIONS,
            PERF_CTR_EXT_CORE,
            PERF_CTR_EXT_NB,
            PERF_CTR_EXT_LLC,
            KVM_ASYNC_PF_VMEXIT,
        ] {
            assert_eq!(find(feature.name), Some(feature));
            assert_eq!(find(&feature.name.to_lowercase()), Some(feature));
        }
    }

    #[test]
    fn bits_are_where_the_manuals_have_them() {
        for (name, place) in [
            ("AVX2", "AVX2 (CPUID.7H.0:EBX[5])"),
            ("AVX512VL", "AVX512VL (CPUID.7H.0:EBX[31])"),
            ("PKS", "PKS (CPUID.7H.0:ECX[31])"),
            ("SSBD", "SSBD (CPUID.7H.0:EDX[31])"),
            ("movrs", "MOVRS (CPUID.7H.1:EAX[31])"),
            ("PBE", "PBE (CPUID.1H:EDX[31])"),
            ("APX_F", "APX_F (CPUID.7H.1:EDX[21])"),
            ("LM", "LM (CPUID.80000001H:EDX[29])"),
            ("AddrMaskExt", "AddrMaskExt (CPUID.80000001H:ECX[30])"),
            ("BranchSample", "BranchSample (CPUID.80000008H:EBX[31])"),
            ("VmcbAddrChkChg", "VmcbAddrChkChg (CPUID.8000000AH:EDX[28])"),
            ("SRSO_NO", "SRSO_NO (CPUID.80000021H:EAX[29])"),
            ("PKRU", "PKRU (CPUID.DH.0:EAX[9])"),
        ] {
            let feature = find(name).unwrap();
            let key = (feature.leaf, feature.subleaf);
            assert_eq!(feature.to_string(), place);
            assert_eq!(describe(key, feature.register, feature.bit), place);
        }
        assert_eq!(describe((0x1, None), Ecx, 16), "CPUID.1H:ECX[16]");
        assert_eq!(describe((0x15, None), Eax, 0), "CPUID.15H:EAX[0]");
        assert_eq!([find("-"), find(""), find("SSE5")], [None; 3]);
    }

    #[test]
    fn a_name_is_one_bit() {
        let mut seen = BTreeSet::new();
        for Row(_, _, _, names) in ROWS {
            assert!(names.split_ascii_whitespace().count() <= 32, "{names}");
            for name in names.split_ascii_whitespace().filter(|name| *name != "-") {
                assert!(seen.insert(name.to_lowercase()), "{name} is there twice");
            }
        }
    }
}
