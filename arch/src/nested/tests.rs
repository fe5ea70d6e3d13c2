//! Requests over every recorded host, and over hosts with a link taken out.

use super::*;
use crate::cpuid::dumps;

mod controls;

fn request(text: &str) -> Request {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn requests_resolve_by_what_the_host_can() {
    for dump in dumps::all() {
        let facts = &dump.facts;
        let best = match Extension::of(facts.vendor()) {
            Some(extension) if dump.can_nest => {
                Exposure::full(extension, facts).within(&facts.supported)
            }
            _ => Exposure::Off,
        };
        let resolved = |text| resolve(&request(text), facts);
        assert_eq!(resolved("auto"), Ok(best.clone()), "{}", dump.name);
        assert_eq!(resolved("off"), Ok(Exposure::Off), "{}", dump.name);
        match resolved("on") {
            Ok(exposure) => assert_eq!((dump.can_nest, exposure), (true, best), "{}", dump.name),
            Err(obstacle) => assert!(!dump.can_nest, "{}: {obstacle}", dump.name),
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
            resolve(&request("on"), &dumps::named(name).facts),
            Err(Obstacle::Missing(missing)),
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
    let full = Exposure::full(Extension::Svm, &facts);
    assert_eq!(resolve(&request("on"), &facts), Ok(full));
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
        ("intel-skylake-sp", "on", "VMX, EPT"),
        ("intel-bochs-haswell", "on", "VMX, EPT"),
        ("intel-bochs-haswell", "vmx,-ept", "VMX, no EPT"),
        (
            "intel-bochs-haswell",
            "vmx,-secondary_controls",
            "VMX, no EPT",
        ),
        ("amd-milan", "on", "SVM, NPT"),
        ("amd-qemu-tcg", "on", "SVM, NPT"),
        ("amd-qemu-tcg", "svm,-npt", "SVM, no NPT"),
        ("amd-milan", "off", "off"),
    ];
    for (name, text, words) in cases {
        let exposure = resolve(&request(text), &dumps::named(name).facts).unwrap();
        assert_eq!(exposure.describe(), words, "{name} {text}");
    }
    let unknown = Exposure::Vmx(VmxCapabilities::default());
    assert_eq!(unknown.describe(), "VMX");
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
