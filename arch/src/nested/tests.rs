//! Requests over every recorded host, and over hosts with a link taken out.

use super::*;
use crate::cpuid::dumps;

#[test]
fn requests_resolve_by_what_the_host_can() {
    for dump in dumps::all() {
        let facts = &dump.facts;
        let best = match (dump.can_nest, facts.vendor()) {
            (false, _) => Exposure::Off,
            (true, Vendor::Intel) => Exposure::Vmx,
            (true, Vendor::Amd) => Exposure::Svm,
            (true, Vendor::Other) => panic!("{}: cannot nest", dump.name),
        };
        assert_eq!(resolve(Request::Auto, facts), Ok(best), "{}", dump.name);
        assert_eq!(
            resolve(Request::Off, facts),
            Ok(Exposure::Off),
            "{}",
            dump.name
        );
        match resolve(Request::On, facts) {
            Ok(exposure) => assert_eq!((dump.can_nest, exposure), (true, best), "{}", dump.name),
            Err(missing) => assert!(!dump.can_nest, "{}: {missing}", dump.name),
        }
    }
}

#[test]
fn the_first_missing_link_is_named() {
    let cases = [
        (
            "intel-skylake-sp-nested-off",
            Missing::Parameter(Extension::Vmx),
        ),
        ("amd-milan-nested-off", Missing::Parameter(Extension::Svm)),
        ("amd-epyc-pvm", Missing::Processor(Extension::Svm)),
    ];
    for (name, missing) in cases {
        assert_eq!(
            resolve(Request::On, &dumps::named(name).facts),
            Err(missing),
            "{name}"
        );
    }
}

#[test]
fn links_are_checked_from_the_processor_up() {
    for (name, extension) in [
        ("intel-skylake-sp", Extension::Vmx),
        ("amd-milan", Extension::Svm),
    ] {
        let mut facts = dumps::named(name).facts;
        facts.nested_state = 0;
        assert_eq!(
            available(&facts),
            Err(Missing::NestedState(extension)),
            "{name}"
        );
        facts.supported.clear(extension.feature());
        assert_eq!(available(&facts), Err(Missing::Kvm(extension)), "{name}");
        facts.nested_parameter = None;
        assert_eq!(available(&facts), Err(Missing::Kvm(extension)), "{name}");
        facts.nested_parameter = Some(false);
        assert_eq!(
            available(&facts),
            Err(Missing::Parameter(extension)),
            "{name}"
        );
        facts.module = false;
        assert_eq!(available(&facts), Err(Missing::Module(extension)), "{name}");
        facts.processor = false;
        assert_eq!(
            available(&facts),
            Err(Missing::Processor(extension)),
            "{name}"
        );
        facts.supported.remove_leaf(0);
        assert_eq!(available(&facts), Err(Missing::Vendor), "{name}");
    }
}

#[test]
fn a_module_that_cannot_be_seen_does_not_hinder() {
    let mut facts = dumps::named("amd-qemu-tcg").facts;
    facts.module = false;
    facts.nested_parameter = None;
    assert_eq!(resolve(Request::On, &facts), Ok(Exposure::Svm));
}

#[test]
fn the_error_says_what_and_what_to_do() {
    assert_eq!(
        Missing::Parameter(Extension::Vmx).to_string(),
        "nested virtualization is not available: /sys/module/kvm_intel/parameters/nested says \
         that nesting is off; run `modprobe -r kvm_intel && modprobe kvm_intel nested=1`, and put \
         `options kvm_intel nested=1` into /etc/modprobe.d/kvm.conf to keep it"
    );
    assert_eq!(
        Missing::Module(Extension::Svm).to_string(),
        "nested virtualization is not available: the kernel module kvm_amd is not loaded; run \
         `modprobe kvm_amd`; if that fails, turn SVM on in the firmware"
    );
}

#[test]
fn exposures_are_described_with_their_paging() {
    let cases = [
        ("intel-skylake-sp", Exposure::Vmx, "VMX, EPT"),
        ("intel-bochs-haswell", Exposure::Vmx, "VMX, EPT"),
        ("amd-milan", Exposure::Svm, "SVM, NPT"),
        ("amd-qemu-tcg", Exposure::Svm, "SVM, NPT"),
        ("amd-milan", Exposure::Off, "off"),
    ];
    for (name, exposure, words) in cases {
        assert_eq!(dumps::named(name).facts.describe(exposure), words, "{name}");
    }
}

#[test]
fn paging_that_is_missing_is_reported() {
    let mut intel = dumps::named("intel-skylake-sp").facts;
    for (msrs, words) in [
        // No secondary controls at all; secondary controls without EPT; none known.
        (vec![(0x482, 0)], "VMX, no EPT"),
        (
            vec![(0x482, 1 << 63), (0x48B, 0x3D_u64 << 32)],
            "VMX, no EPT",
        ),
        (vec![(0x482, 1 << 63), (0x48B, 0x3F_u64 << 32)], "VMX, EPT"),
        (vec![], "VMX"),
    ] {
        intel.vmx = msrs.into_iter().collect();
        assert_eq!(intel.describe(Exposure::Vmx), words);
    }

    let mut amd = dumps::named("amd-milan").facts;
    amd.supported.get_mut(SVM_LEAF, None).unwrap().edx &= !SvmFeatures::NP.bits();
    assert_eq!(amd.describe(Exposure::Svm), "SVM, no NPT");
    assert_eq!(resolve(Request::On, &amd), Ok(Exposure::Svm));
}

#[test]
fn facts_survive_as_text() {
    for dump in dumps::all() {
        let text = serde_json::to_string(&dump.facts).unwrap();
        assert_eq!(
            serde_json::from_str::<HostFacts>(&text).unwrap(),
            dump.facts,
            "{}",
            dump.name
        );
    }
}

#[test]
fn what_is_no_capability_msr_is_refused() {
    for text in [
        r#"{"0x47f": "0x0"}"#,
        r#"{"0x492": "0x0"}"#,
        r#"{"480": "0x0"}"#,
        r#"{"0x480": "?"}"#,
    ] {
        assert!(
            serde_json::from_str::<VmxCapabilities>(text).is_err(),
            "{text}"
        );
    }
    let mixed: VmxCapabilities = [(0x480, 1), (0x10A, 2)].into_iter().collect();
    assert_eq!((mixed.get(0x480), mixed.get(0x10A)), (Some(1), None));
}

#[test]
fn requests_are_read_and_written() {
    for request in [Request::Auto, Request::On, Request::Off] {
        assert_eq!(request.to_string().parse(), Ok(request));
        let json = serde_json::to_string(&request).unwrap();
        assert_eq!(json, format!("\"{request}\""));
    }
    for word in ["", "yes", "ON", "vmx"] {
        let error = word.parse::<Request>().unwrap_err();
        assert!(error.to_string().contains("auto, on or off"), "{error}");
    }
    assert_eq!(Request::default(), Request::Auto);
}
