//! Templates over every recorded host, and over arbitrary ones.

use proptest::prelude::*;

use super::*;
use crate::cpuid::dumps::{self, Dump};
use crate::cpuid::{Cpuid, CpuidContext, feature, guest_cpuid, names};
use crate::msr::MsrSet;
use crate::nested::{CAPABILITY_MSRS, Exposure, HostFacts};

fn profile(facts: &HostFacts) -> Profile {
    let vmx = CAPABILITY_MSRS.filter_map(|msr| Some((msr, facts.vmx.get(msr)?)));
    let msrs: MsrSet = vmx.chain(facts.msrs.iter()).collect();
    Profile::of(&facts.supported, &msrs).unwrap()
}

fn guest(facts: &HostFacts, vcpu: u32) -> Cpuid {
    let context = CpuidContext {
        vcpu,
        vcpus: 2,
        exposure: Exposure::Off,
        tsc_deadline: true,
    };
    guest_cpuid(&facts.supported, &context).unwrap()
}

fn parse(json: &str) -> Result<Template, String> {
    serde_json::from_str(json).map_err(|error| error.to_string())
}

/// Every two hosts of one vendor, each with itself as well.
fn pairs() -> Vec<(Dump, Dump)> {
    let mut pairs = Vec::new();
    for a in dumps::all() {
        for b in dumps::all() {
            if a.facts.vendor() == b.facts.vendor() {
                pairs.push((dumps::named(&a.name), b));
            }
        }
    }
    pairs
}

#[test]
fn hosts_under_their_common_template_are_the_same_to_a_guest() {
    for (a, b) in pairs() {
        let pair = format!("{} and {}", a.name, b.name);
        let common = profile(&a.facts).common(&profile(&b.facts)).unwrap();
        let template = common.template("fleet");
        let [of_a, of_b] = [&a, &b].map(|dump| template.facts(&dump.facts).unwrap());
        assert_eq!(of_a.supported, of_b.supported, "{pair}");
        // On a host that can't nest there are none, and no template for it has any.
        if a.can_nest && b.can_nest {
            let read = |facts: &HostFacts| facts.vmx.read_with(&facts.supported);
            assert_eq!(read(&of_a), read(&of_b), "{pair}");
        }
        assert_eq!(of_a.msrs, of_b.msrs, "{pair}");
        for vcpu in [0, 1] {
            assert_eq!(guest(&of_a, vcpu), guest(&of_b, vcpu), "{pair}");
        }
        // Applied again, it changes nothing.
        assert_eq!(
            template.facts(&of_a).unwrap().supported,
            of_a.supported,
            "{pair}"
        );
    }
}

#[test]
fn a_hosts_own_template_takes_nothing_from_its_guests() {
    // One lists XSAVE's states without XSAVE.
    let xsave = names::find("XSAVE").unwrap();
    let sound = |dump: &Dump| dump.supported().has(xsave);
    for dump in dumps::all().into_iter().filter(sound) {
        let template = profile(&dump.facts).template("own");
        let facts = template.facts(&dump.facts).unwrap();
        for vcpu in [0, 1] {
            let (own, plain) = (guest(&facts, vcpu), guest(&dump.facts, vcpu));
            for ((leaf, subleaf), registers) in plain.iter() {
                let seen = own.get(leaf, subleaf.unwrap_or(0));
                let sizes = (leaf, subleaf.unwrap_or(0)) == (0xD, 1);
                if sizes || registers == seen {
                    continue;
                }
                panic!(
                    "{}: {leaf:#x} {subleaf:?}: {registers:x?}, now {seen:x?}",
                    dump.name
                );
            }
        }
        assert_eq!(facts.vmx, dump.facts.vmx, "{}", dump.name);
    }
}

#[test]
fn what_a_fleet_takes_away_is_said() {
    let [icelake, haswell] = ["intel-bochs-icelake", "intel-bochs-haswell"]
        .map(|name| profile(&dumps::named(name).facts));
    let common = icelake.common(&haswell).unwrap();
    let gone: Vec<String> = icelake
        .beyond(&common)
        .iter()
        .map(Lack::to_string)
        .collect();
    for lack in [
        "CLFLUSHOPT (CPUID.7H.0:EBX[23])",
        "IA32_VMX_PROCBASED_CTLS2[57]",
    ] {
        assert!(
            gone.iter().any(|gone| gone == lack),
            "{lack} is not in {gone:?}"
        );
    }
    assert_eq!(common.beyond(&icelake), []);
    assert_eq!(common.beyond(&haswell), []);
}

#[test]
fn vendors_do_not_mix() {
    let [intel, amd] =
        ["intel-skylake-sp", "amd-milan"].map(|name| profile(&dumps::named(name).facts));
    let error = intel.common(&amd).unwrap_err().to_string();
    assert!(
        error.starts_with("Intel and AMD processors can't be one fleet"),
        "{error}"
    );
    let refusal = intel
        .template("fleet")
        .facts(&dumps::named("amd-milan").facts);
    assert_eq!(
        refusal.unwrap_err().to_string(),
        "the template fleet is for Intel processors, and this one's vendor is AMD: take one for \
         AMD"
    );
}

/// Which recorded hosts have a baseline, and the first that those lack that
/// haven't.
#[test]
fn baselines_fit_the_hosts_that_have_them() {
    let cases = [
        ("intel-skylake-sp", "x86-64-v4", None),
        ("intel-skylake-sp", "x86-64-v4-intel", None),
        ("intel-skylake-sp", "x86-64-v2-intel", None),
        ("intel-bochs-haswell", "x86-64-v3", None),
        ("intel-bochs-haswell", "x86-64-v3-intel", None),
        (
            "intel-bochs-haswell",
            "x86-64-v4",
            Some("AVX512F (CPUID.7H.0:EBX[16])"),
        ),
        ("amd-milan", "x86-64-v3", None),
        ("amd-milan", "x86-64-v3-amd", None),
        (
            "amd-qemu-tcg",
            "x86-64-v2-amd",
            Some("CMPXCHG16B (CPUID.1H:ECX[13])"),
        ),
    ];
    for (name, baseline, lack) in cases {
        let template = Template::named(baseline).unwrap();
        let found = template.facts(&dumps::named(name).facts);
        let first = found
            .as_ref()
            .err()
            .map(|refusal| refusal.lacks()[0].to_string());
        assert_eq!(first.as_deref(), lack, "{baseline} on {name}");
    }
}

#[test]
fn a_vendors_baseline_is_the_same_on_all_its_hosts() {
    for baseline in BASELINES
        .iter()
        .filter(|baseline| baseline.template().vendor.is_some())
    {
        let template = baseline.template();
        let fitting: Vec<HostFacts> = dumps::all()
            .iter()
            .filter_map(|dump| template.facts(&dump.facts).ok())
            .collect();
        for facts in &fitting {
            assert_eq!(guest(facts, 0), guest(&fitting[0], 0), "{template}");
        }
    }
    let template = Template::named("x86-64-v3-intel").unwrap();
    let facts = template
        .facts(&dumps::named("intel-skylake-sp").facts)
        .unwrap();
    let brand: Vec<u8> = (0x8000_0002..=0x8000_0004)
        .map(|leaf| facts.supported.get(leaf, 0))
        .flat_map(|r| [r.eax, r.ebx, r.ecx, r.edx].map(u32::to_le_bytes).concat())
        .collect();
    assert!(brand.starts_with(b"Intel x86-64-v3 processor\0"));
    assert_eq!(facts.supported.get(1, 0).eax, 0x0003_06F2);
}

#[test]
fn a_baseline_shows_no_feature_beyond_its_own() {
    let template = Template::named("x86-64-v3").unwrap();
    let facts = template
        .facts(&dumps::named("intel-skylake-sp").facts)
        .unwrap();
    for feature in [
        "AVX512F", "PKU", "AESNI", "RDRAND", "MPX", "RTM", "ADX", "PKRU", "opmask",
    ] {
        assert!(
            !facts.supported.has(names::find(feature).unwrap()),
            "{feature}"
        );
    }
    let own = &dumps::named("intel-skylake-sp").facts.supported;
    for leaf in [0x8000_0002, 0x8000_0008] {
        assert_eq!(facts.supported.get(leaf, 0), own.get(leaf, 0), "{leaf:#x}");
    }
    assert!(facts.supported.has(feature::VMX));
}

#[test]
fn a_rule_masks_and_sets() {
    let host = dumps::named("intel-skylake-sp").facts;
    let template = parse(
        r#"{ "version": 1, "name": "lab", "hide": ["RTM", "avx512f"], "require": ["AESNI"],
             "cpuid": { "0x00000001": { "eax": "0x000306c3" },
                        "0x80000008": { "eax": { "mask": "0xffffff00", "set": "0x27" } },
                        "0x80000007": "00000000 00000000 00000000 00000000" } }"#,
    )
    .unwrap();
    let seen = template.facts(&host).unwrap().supported;
    assert_eq!(seen.get(1, 0).eax, 0x0003_06C3);
    assert_eq!(seen.get(1, 0).ecx, host.supported.get(1, 0).ecx);
    let sizes = host.supported.get(0x8000_0008, 0).eax;
    assert_eq!(seen.get(0x8000_0008, 0).eax, sizes & 0xFFFF_FF00 | 0x27);
    assert!(!seen.has_leaf(0x8000_0007));
    let hidden = 1 << 11 | 1 << 16;
    assert_eq!(seen.get(7, 0).ebx, host.supported.get(7, 0).ebx & !hidden);
}

#[test]
fn msrs_are_masked_and_checked() {
    let mut host = dumps::named("intel-skylake-sp").facts;
    host.supported
        .set(names::find("ARCH_CAPABILITIES").unwrap());
    host.msrs = [(0x10A, 0x2B), (0xC001_1029, 2)].into_iter().collect();
    let template = |text: &str| {
        let json = format!(r#"{{ "version": 1, "name": "lab", "msrs": {text} }}"#);
        parse(&json).unwrap()
    };
    let masked = template(r#"{ "IA32_ARCH_CAPABILITIES": { "mask": "0x9" } }"#);
    let facts = masked.facts(&host).unwrap();
    assert_eq!(facts.msrs.iter().collect::<Vec<_>>(), [(0x10A, 0x9)]);
    // EPT, and all that follows from it, is another part's; here it is a bit.
    let ept = template(r#"{ "0x48b": { "mask": "0xfffffffdffffffff" } }"#);
    let [before, after] = [&host, &ept.facts(&host).unwrap()].map(|facts| facts.vmx.get(0x48B));
    assert_eq!(after, before.map(|value| value & !(1 << 33)));
    let refused = |text| template(text).facts(&host).unwrap_err().to_string();
    // That returns are predicted otherwise may be claimed, better protection not.
    assert_eq!(
        refused(r#"{ "0x10a": "0x3f", "0x491": { "set": "0x2" } }"#),
        "the template lab asks for what this host lacks: SSB_NO (IA32_ARCH_CAPABILITIES[4]), \
         IA32_VMX_VMFUNC[1]"
    );
}

#[test]
fn what_a_host_lacks_is_all_named() {
    let host = dumps::named("intel-bochs-haswell").facts;
    let refused = |json: &str| {
        let json = format!(r#"{{ "version": 1, "name": "lab", {json} }}"#);
        parse(&json).unwrap().facts(&host).unwrap_err().to_string()
    };
    for (json, said) in [
        (
            r#""require": ["AVX512F", "SHA", "AESNI"]"#,
            "the template lab asks for what this host lacks: AVX512F (CPUID.7H.0:EBX[16]), SHA \
             (CPUID.7H.0:EBX[29])",
        ),
        (
            r#""cpuid": { "0x80000008": { "eax": "0x3039" }, "0xd.9": "8 a80 0 0" }"#,
            "the template lab asks for what this host lacks: CPUID.DH.9:EAX = 0x8 (it has 0x0), \
             CPUID.DH.9:EBX = 0xa80 (it has 0x0), CPUID.80000008H:EAX = 0x3039 (it has 0x283028)",
        ),
        (
            r#""msrs": { "0x10a": "0x1" }, "require": ["ARCH_CAPABILITIES"]"#,
            "the template lab asks for what this host lacks: IA32_ARCH_CAPABILITIES",
        ),
        (
            r#""hide": ["LM", "PAE"]"#,
            "the template lab hides what every 64-bit kernel needs: PAE (CPUID.1H:EDX[6]), LM \
             (CPUID.80000001H:EDX[29]); let the host's bits through there",
        ),
        (
            r#""hide": ["AVX-state"], "require": ["AVX2"]"#,
            "the template lab contradicts itself: AVX2 (CPUID.7H.0:EBX[5]) can't be without the \
             state in CPUID leaf 0xd, or the companion, that it hides",
        ),
    ] {
        assert_eq!(refused(json), said);
    }
}

#[test]
fn what_is_no_template_is_refused_with_its_place() {
    for (json, said) in [
        (
            r#""version": 2, "name": "a""#,
            "schema version 2 isn't known",
        ),
        (r#""version": 1, "name": " ""#, "name: it is empty"),
        (r#""version": 1"#, "missing field `name`"),
        (
            r#""version": 1, "name": "a", "mask": {}"#,
            "unknown field `mask`",
        ),
        (
            r#""version": 1, "name": "a", "vendor": "other""#,
            "vendor: `other` has no processors",
        ),
        (
            r#""version": 1, "name": "a", "vendor": "via""#,
            "unknown variant `via`",
        ),
        (
            r#""version": 1, "name": "a", "cpuid": { "seven": "0 0 0 0" }"#,
            "it is no CPUID leaf",
        ),
        (
            r#""version": 1, "name": "a", "cpuid": { "0x99": "0 0 0 0" }"#,
            "cpuid.\"0x99\": no leaf that KVM shows to guests is known by this number",
        ),
        (
            r#""version": 1, "name": "a", "cpuid": { "0x7": "0 0 0 0" }"#,
            "cpuid.\"0x7\": the leaf has subleaves; write the one that is meant",
        ),
        (
            r#""version": 1, "name": "a", "cpuid": { "0x1.0": "0 0 0 0" }"#,
            "cpuid.\"0x1.0\": the leaf has no subleaves",
        ),
        (
            r#""version": 1, "name": "a", "cpuid": { "0xb.0": "0 0 0 0" }"#,
            "cpuid.\"0xb.0\": the leaf follows from the machine's vCPUs",
        ),
        (
            r#""version": 1, "name": "a", "cpuid": { "0x1": "0 0 0" }"#,
            "cpuid.\"0x1\": `0 0 0` is not EAX, EBX, ECX and EDX",
        ),
        (
            r#""version": 1, "name": "a", "cpuid": { "0x1": { "esi": "0x0" } }"#,
            "unknown field `esi`, expected one of `eax`, `ebx`, `ecx`, `edx`",
        ),
        (
            r#""version": 1, "name": "a", "cpuid": { "0x0": { "ebx": "0x0" } }"#,
            "cpuid.\"0x0\".EBX: it is part of a name, which is always the host's; leave it out",
        ),
        (
            r#""version": 1, "name": "a", "cpuid": { "0x1": { "ecx": "12" } }"#,
            "cpuid.\"0x1\".ECX: `12` is no hexadecimal number of at most 32 bits",
        ),
        (
            r#""version": 1, "name": "a", "cpuid": { "0x1": { "ecx": { "set": "0x100000000" } } }"#,
            "cpuid.\"0x1\".ECX.set: `0x100000000` is no hexadecimal number of at most 32 bits",
        ),
        (
            r#""version": 1, "name": "a", "cpuid": { "0x1": { "ecx": { "sets": "0x1" } } }"#,
            "unknown field `sets`, expected `mask` or `set`",
        ),
        (
            r#""version": 1, "name": "a", "cpuid": { "0x1": { "ecx": 7 } }"#,
            "expected a hexadecimal number, or a map of mask and set",
        ),
        (
            r#""version": 1, "name": "a", "cpuid": { "0x1": "0 0 0 0", "0x01": "0 0 0 0" }"#,
            "cpuid.\"0x1\": the leaf is there twice",
        ),
        (
            r#""version": 1, "name": "a", "hide": ["AVX1024"]"#,
            "hide: no feature is called `AVX1024`",
        ),
        (
            r#""version": 1, "name": "a", "hide": ["AVX"], "require": ["avx"]"#,
            "AVX (CPUID.1H:ECX[28]): its bit is decided in two ways",
        ),
        (
            r#""version": 1, "name": "a", "hide": ["AVX"], "cpuid": { "0x1": { "ecx": "0x0" } }"#,
            "AVX (CPUID.1H:ECX[28]): its bit is decided in two ways",
        ),
        (
            r#""version": 1, "name": "a", "msrs": { "0x1a0": "0x1" }"#,
            "msrs.\"0x1a0\": it is no feature MSR that KVM lets a machine set; there are IA32_ARCH",
        ),
        (
            r#""version": 1, "name": "a", "msrs": { "0x10a": "1" }"#,
            "msrs.\"0x10a\": `1` is no hexadecimal number of at most 64 bits",
        ),
    ] {
        let error = parse(&format!("{{ {json} }}")).unwrap_err();
        assert!(error.contains(said), "{json}: {error}");
    }
    let error = parse(r#""x86-64-v5""#).unwrap_err();
    assert!(
        error.contains("there is no template `x86-64-v5`"),
        "{error}"
    );
}

#[test]
fn templates_survive_as_text() {
    let custom = parse(
        r#"{ "version": 1, "name": "lab", "vendor": "amd", "unnamed": "hide",
             "require": ["AVX"], "msrs": { "0x10a": { "mask": "0xff" } },
             "cpuid": { "0x7.0": { "ebx": { "mask": "0xf0", "set": "0x1" }, "ecx": "0x0" },
                        "0x7.1": {} } }"#,
    );
    let baselines = BASELINES.iter().map(Baseline::template);
    let fleets = dumps::all()
        .into_iter()
        .map(|dump| profile(&dump.facts).template(&dump.name));
    for template in baselines.chain(fleets).chain([custom.unwrap()]) {
        let text = serde_json::to_string(&template).unwrap();
        assert_eq!(parse(&text).unwrap(), template, "{text}");
    }
    assert_eq!(
        parse(r#""x86-64-v3""#),
        Ok(Template::named("x86-64-v3").unwrap())
    );
}

/// Any answers in the places that templates decide about, of one vendor.
fn any_profile() -> impl Strategy<Value = Profile> {
    let keys: Vec<Key> = [
        0x0,
        0x1,
        0x2,
        0x6,
        0x4000_0001,
        0x8000_0000,
        0x8000_0001,
        0x8000_0002,
    ]
    .into_iter()
    .chain([0x8000_0005, 0x8000_0008, 0x8000_000A, 0x8000_0021, 0x99])
    .map(|leaf| (leaf, None))
    .chain((0..4).map(|subleaf| (0x4, Some(subleaf))))
    .chain((0..3).map(|subleaf| (0x7, Some(subleaf))))
    .chain((0..20).map(|subleaf| (0xD, Some(subleaf))))
    .chain([(0x14, Some(0)), (0x8000_001D, Some(0))])
    .collect();
    // Few values, so that hosts often agree, and most bits, so that much is left.
    let register = prop::sample::select(vec![0, 1, 0xFF, 0x0001_0F0F, u32::MAX, 0xFFFF_FF00]);
    let registers = prop::array::uniform4(register);
    let answers = prop::collection::vec(registers, keys.len());
    let msr = prop::sample::select(vec![0, 1, 0xFFFF_FFFF, 0x0F0F_0000_00F0, u64::MAX]);
    let msrs = prop::collection::btree_map(0x480u32..=0x491, msr, 0..18);
    (answers, msrs).prop_map(move |(answers, msrs)| {
        let mut cpuid = Cpuid::default();
        for (&(leaf, subleaf), [eax, ebx, ecx, edx]) in keys.iter().zip(answers) {
            cpuid.insert(leaf, subleaf, Registers { eax, ebx, ecx, edx });
        }
        let vendor = dumps::named("amd-milan").facts.supported.get(0, 0);
        cpuid.insert(0, None, vendor);
        let needed = catalogue::NEEDED;
        for ((leaf, subleaf), register, bits) in needed {
            *cpuid.get_mut(leaf, subleaf).unwrap().get_mut(register) |= bits;
        }
        Profile::of(&cpuid, &msrs.into_iter().collect()).unwrap()
    })
}

proptest! {
    #[test]
    fn what_hosts_have_in_common_does_not_depend_on_the_order(
        a in any_profile(), b in any_profile(), c in any_profile(),
    ) {
        let common = |a: &Profile, b: &Profile| a.common(b).unwrap();
        prop_assert_eq!(&common(&a, &a), &a);
        prop_assert_eq!(common(&a, &b), common(&b, &a));
        prop_assert_eq!(common(&common(&a, &b), &c), common(&a, &common(&b, &c)));
        let ab = common(&a, &b);
        prop_assert_eq!(&common(&ab, &a), &ab);
        prop_assert_eq!(ab.beyond(&a), vec![]);
    }

    #[test]
    fn any_json_is_taken_or_refused(text: String) {
        let _ = parse(&text);
    }
}
