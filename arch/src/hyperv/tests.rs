//! Requests over what kernels list, and the leaves that come of them.

use proptest::prelude::*;

use super::*;
use crate::cpuid::dumps;

/// What Linux 6.12 lists on Intel, but for leaves that no enlightenment is in.
fn linux_6_12() -> Cpuid {
    let mut cpuid = Cpuid::default();
    for (leaf, [eax, ebx, ecx, edx]) in [
        (
            0x4000_0000,
            [0x4000_0082, 0x756E_694C, 0x564B_2078, 0x7648_204D],
        ),
        (0x4000_0001, [0x3123_7648, 0, 0, 0]),
        (0x4000_0003, [0x0000_AFFF, 0x0010_0030, 0, 0x0008_4D10]),
        (0x4000_0004, [0x0006_4E2C, 0xFFFF_FFFF, 0, 0]),
        (0x4000_000A, [0x000A_0101, 1, 0, 0]),
    ] {
        cpuid.insert(leaf, None, Registers { eax, ebx, ecx, edx });
    }
    cpuid
}

fn parse(text: &str) -> Request {
    text.parse().unwrap()
}

fn found(text: &str, supported: &Cpuid, vmx: bool) -> Result<Vec<&'static str>, Unsupported> {
    let found = resolve(&parse(text), supported, vmx)?;
    Ok(found.names().collect())
}

#[test]
fn names_are_unique_and_needs_stand_before() {
    let mut before: Vec<&str> = Vec::new();
    for enlightenment in &ENLIGHTENMENTS {
        assert!(
            !before.contains(&enlightenment.name),
            "{}",
            enlightenment.name
        );
        for need in enlightenment.needs {
            assert!(before.contains(need), "{}", enlightenment.name);
        }
        before.push(enlightenment.name);
    }
}

#[test]
fn on_is_all_that_there_is() {
    let supported = linux_6_12();
    let all = found("on", &supported, true).unwrap();
    assert_eq!(all.len(), ENLIGHTENMENTS.len());
    let plain = found("on", &supported, false).unwrap();
    let nested = ["evmcs", "emsr-bitmap", "tlbflush-direct"];
    assert_eq!(plain.len(), ENLIGHTENMENTS.len() - nested.len());
    assert!(nested.iter().all(|name| !plain.contains(name)));
    // What needs it goes with it.
    let few = found("on,-synic,-evmcs", &supported, true).unwrap();
    for name in ["synic", "stimer", "stimer-direct", "evmcs", "emsr-bitmap"] {
        assert!(!few.contains(&name), "{name}");
    }
    // So it does where the kernel lacks it.
    let mut older = supported;
    older.get_mut(0x4000_0003, None).unwrap().eax &= !(1 << 2);
    let few = found("on", &older, true).unwrap();
    assert!(!few.contains(&"stimer") && few.contains(&"time"));
}

#[test]
fn what_is_named_must_be_there() {
    let supported = linux_6_12();
    let named = found("vpindex,time,relaxed", &supported, false).unwrap();
    assert_eq!(named, ["relaxed", "time", "vpindex"]);
    assert_eq!(
        found("vapic,evmcs", &supported, false),
        Err(Unsupported::NeedsVmx("evmcs"))
    );
    let mut older = supported;
    older.get_mut(0x4000_000A, None).unwrap().eax = 0;
    assert_eq!(
        found("vapic,evmcs", &older, true),
        Err(Unsupported::Kvm("evmcs"))
    );
    let none = Cpuid::default();
    assert_eq!(found("on", &none, true), Err(Unsupported::None));
    assert_eq!(found("time", &none, true), Err(Unsupported::Kvm("time")));
    assert_eq!(found("off", &none, true), Ok(vec![]));
}

#[test]
fn hyperv_signs_in_place_of_kvm() {
    let supported = linux_6_12();
    let mut cpuid = dumps::named("intel-skylake-sp").facts.supported;
    resolve(&parse("on"), &supported, true)
        .unwrap()
        .show(&mut cpuid);
    let seen = |leaf| {
        let Registers { eax, ebx, ecx, edx } = cpuid.get(leaf, 0);
        [eax, ebx, ecx, edx]
    };
    let [highest, name @ ..] = seen(0x4000_0000);
    assert_eq!(highest, 0x4000_000A);
    assert_eq!(name.map(u32::to_le_bytes).concat(), b"Microsoft Hv");
    assert_eq!(seen(0x4000_0001)[0].to_le_bytes(), *b"Hv#1");
    assert_eq!(seen(0x4000_0003), [0x2AFF, 0, 0, 0x0008_4510]);
    assert_eq!(seen(0x4000_0004), [0x4E2C, 0xFFF, 0, 0]);
    assert_eq!(seen(0x4000_000A), [0x000A_0101, 0, 0, 0]);
    let leaves: Vec<u32> = cpuid
        .leaves(0x4000_0000..=0x4FFF_FFFF)
        .into_iter()
        .collect();
    assert_eq!(
        leaves,
        [
            0x4000_0000,
            0x4000_0001,
            0x4000_0002,
            0x4000_0003,
            0x4000_0004,
            0x4000_0005,
            0x4000_000A
        ]
    );
    // Few of them: the leaf about nesting isn't there.
    let mut cpuid = Cpuid::default();
    resolve(&parse("time"), &supported, true)
        .unwrap()
        .show(&mut cpuid);
    assert_eq!(cpuid.get(0x4000_0000, 0).eax, 0x4000_0005);
    assert_eq!(cpuid.get(0x4000_0003, 0).eax, 0x0222);
    assert_eq!(cpuid.get(0x4000_0004, 0).ebx, u32::MAX);
    assert!(!cpuid.has_leaf(0x4000_000A));
}

#[test]
fn requests_are_read_and_written() {
    for text in [
        "off",
        "on",
        "on,-evmcs,-stimer",
        "relaxed",
        "relaxed,time,vpindex",
    ] {
        let request = parse(text);
        assert_eq!(request.to_string(), text);
        let json = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&json).unwrap(), request);
    }
    assert_eq!(Request::default(), Request::Off);
}

#[test]
fn what_is_no_request_is_refused() {
    for (text, said) in [
        ("", "\"\" is no enlightenment: there are relaxed, vapic, "),
        ("yes", "\"yes\" is no enlightenment"),
        ("on,-hv-time", "\"hv-time\" is no enlightenment"),
        ("time,", "\"\" is no enlightenment"),
        ("stimer", "stimer needs synic: add it, or leave both out"),
        ("stimer,synic,vpindex", "stimer needs time: add it"),
        ("evmcs", "evmcs needs vapic: add it"),
        (
            "time,-reset",
            "\"-reset\" takes from what `on` gives: write on before it",
        ),
        (
            "on,time",
            "\"time\" is among what `on` gives: leave one of them out",
        ),
        (
            "off,time",
            "off shows nothing of Hyper-V: leave \"time\" out",
        ),
    ] {
        let error = text.parse::<Request>().unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn nothing_is_shown_that_kvm_lacks(
        eax: u32, edx: u32, recommended: u32, nested: u32, vmx: bool,
    ) {
        let mut supported = Cpuid::default();
        for (leaf, eax, ebx, edx) in [
            (0x4000_0003, eax, 0, edx),
            (0x4000_0004, recommended, u32::MAX, 0),
            (0x4000_000A, nested, 0, 0),
        ] {
            supported.insert(leaf, None, Registers { eax, ebx, ecx: 0, edx });
        }
        if let Ok(found) = resolve(&parse("on"), &supported, vmx) {
            let mut cpuid = Cpuid::default();
            found.show(&mut cpuid);
            let seen = cpuid.get(0x4000_0003, 0);
            prop_assert_eq!(seen.eax & !(1 << 5) & !eax, 0);
            prop_assert_eq!(seen.edx & !edx, 0);
            prop_assert_eq!(cpuid.get(0x4000_0004, 0).eax & !recommended, 0);
        }
    }

    #[test]
    fn any_text_is_taken_or_refused(text: String) {
        let _ = text.parse::<Request>();
    }
}
