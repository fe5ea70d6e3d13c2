//! Nests on emulated AMD-V with nested paging: QEMU's TCG.
//!
//! One boot of L0 carries most of the behaviours: its L1s, and the L2s of those,
//! are told what to do by a plan, and each test asserts on the part it is about.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

use std::fs;
use std::time::Duration;

use nestling_tests::nest::{Life, Nest, Shared, network};
use nestling_tests::plan::{System, Template, cpuid, disk_digest, disk_write};
use nestling_tests::{cpu, fleet, hypervisor, or_skip, pattern, skip};
use serde_json::{Value, json};

/// Not a multiple of a sector's worth of pattern words, nor of a page.
const LENGTH: usize = 1024 * 1024 + 512;
/// How often L2 executes CPUID: each is an exit, reflected to L1.
const CPUIDS: u64 = 1000;
/// The bare-metal hypervisor in the image.
const HYPERVISOR: &str = "/hypervisor";
/// The disk that L0 keeps in its memory.
const L0_FILE: &str = "/run/disk.img";

/// L1 without NPT, and without all else that this metal's KVM has for guests of
/// its guests.
const NO_NPT: &str = "svm,-npt";
const NO_FOUR: &str = "svm,-vmcb_clean,-flush_by_asid,-vgif,-svme_addr_chk,asids=2";

/// The run that most tests share, with what became of the host's disk.
struct Run {
    nest: Nest,
    host_disk: Vec<u8>,
}

fn run() -> Result<&'static Run, String> {
    static RUN: Shared<Run> = Shared::new();
    skip::needs("qemu-system-x86_64")?;
    Ok(RUN.get(|| {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("host.img");
        fs::write(&disk, vec![0; 4 << 20]).unwrap();
        let payload = folder.path().join("hypervisor");
        fs::write(&payload, hypervisor::image()).unwrap();
        let arguments = ["--metal", "svm", "--l2-net", "off", "--cpus", "2,1"];
        let template = Template::of(&arguments);
        let l2 = |name| template.machine(2, name);
        // In L1 and in L2: vda from L0's memory, vdb the host's file, vdc read-only.
        let main = template
            .machine(1, "main")
            .cpus(1)
            .disk(json!({ "path": L0_FILE, "create_mib": 4 }))
            .disk(json!({ "path": "/dev/vda" }))
            .disk(json!({ "path": "/run/fixed.img", "create_mib": 4 }))
            .watched()
            .runs("probe")
            .runs("cpu-dump")
            .boots(
                l2("hello")
                    .watched()
                    .runs("hello")
                    .runs("probe")
                    .runs(cpuid(CPUIDS)),
            )
            .boots(l2("reset").runs("reset").runs("hello"))
            .boots(l2("triple").runs("triple-fault").runs("hello"))
            .boots(l2("panic").runs("panic").runs("hello"))
            .boots(l2("hang").silence(30).runs("hang").runs("hello"))
            .boots(l2("memory").runs("out-of-memory"))
            .boots(l2("off").runs("power-off").runs("hello"))
            .boots(
                l2("disks")
                    .disk(json!({ "path": "/dev/vda" }))
                    .disk(json!({ "path": "/dev/vdb" }))
                    .disk(json!({ "path": "/dev/vdc", "readonly": true }))
                    .runs(disk_write("/dev/vda", LENGTH, 1))
                    .runs(disk_write("/dev/vdb", LENGTH, 2))
                    .runs(disk_write("/dev/vdc", LENGTH, 3)),
            )
            .runs(disk_digest("/dev/vda", LENGTH))
            .runs(disk_digest("/dev/vdc", LENGTH))
            .runs("hello");
        // Two processors that wait for each other cost much under an emulator.
        let pair = template
            .machine(1, "pair")
            .runs("cpu-dump")
            .boots(l2("inner pair").cpus(2).runs("hello"));
        let bare_metal = System::new(template.machine(1, "bare metal"), HYPERVISOR, 300)
            .cmdline("cpuid=1000")
            .ends_with(hypervisor::DONE);
        let l1 = |name| template.machine(1, name).cpus(1).with_kvm();
        let without = |controls, name| {
            l1(controls)
                .nested(controls)
                .runs("probe")
                .runs("cpu-dump")
                .boots(l2(name).runs("hello").runs("probe"))
        };
        let plan = template
            .machine(0, "L0")
            .more_memory(64)
            .boots(main)
            .runs(disk_digest(L0_FILE, LENGTH))
            .boots(pair)
            .boots_system(bare_metal)
            .boots(without(NO_NPT, "without NPT"))
            .boots(without(NO_FOUR, "without four"))
            .boots(fleet::machine(&template, "svm"))
            .boots(l1("shown off").nested("off").runs("probe").runs("cpu-dump"))
            .boots(l1("shown auto").nested("auto").runs("probe"))
            .boots(l1("L1 off").runs("power-off").runs("hello"))
            .boots(l1("L1 reset").runs("reset").runs("hello"))
            .runs("hello")
            .runs("power-off")
            .runs("probe");
        let nest = Nest::boot(
            &plan,
            &[
                "--metal",
                "svm",
                "--disk",
                disk.to_str().unwrap(),
                "--add",
                &format!("{}:{HYPERVISOR}", payload.display()),
            ],
            Duration::from_secs(1800),
        );
        Run {
            nest,
            host_disk: fs::read(&disk).unwrap(),
        }
    }))
}

/// Asserts that L1 and L0 went on after the machine that had a fault.
fn lower_levels_went_on(nest: &Nest) {
    let main = nest.machine("main");
    assert!(main.output("hello").starts_with("hello from L1"));
    assert_eq!((main.fault(), main.how()), (None, "power-off"));
    let l0 = nest.machine("L0");
    assert!(l0.output("hello").starts_with("hello from L0"));
    assert_eq!(l0.fault(), None);
}

/// Asserts that a machine of L2 ended by this fault, and no other level did.
fn faulted(nest: &Nest, name: &str, kind: &str, how: &str) {
    let life = nest.machine(name);
    life.booted();
    assert_eq!((life.fault(), life.how()), (Some(kind), how));
    assert!(life.results("hello").is_empty(), "{name} went on");
    lower_levels_went_on(nest);
}

#[test]
fn l2_boots_and_says_hello() {
    let nest = &or_skip!(run()).nest;
    let l2 = nest.machine("hello");
    assert!(l2.output("hello").starts_with("hello from L2: Linux 6."));
    assert_eq!(l2.booted()["vendor"], "AuthenticAMD");
    assert_eq!((l2.fault(), l2.how()), (None, "power-off"));
}

#[test]
fn on_shows_l1_svm() {
    let nest = &or_skip!(run()).nest;
    shows_svm(&nest.machine("main"));
}

#[test]
fn auto_shows_l1_svm_where_the_metal_has_it() {
    let nest = &or_skip!(run()).nest;
    shows_svm(&nest.machine("shown auto"));
}

fn shows_svm(l1: &Life<'_>) {
    let probe = l1.probe();
    assert_eq!(probe["flags"]["svm"], true, "{probe}");
    assert_eq!(probe["flags"]["npt"], true, "{probe}");
    assert_eq!(probe["kvm"], true, "{probe}");
    assert_eq!(probe["parameters"]["kvm_amd.npt"], "Y", "{probe}");
    assert_eq!(l1.booted()["exposure"], "svm");
}

#[test]
fn off_leaves_l1_without_the_flag_and_without_kvm() {
    let nest = &or_skip!(run()).nest;
    let l1 = nest.machine("shown off");
    let probe = l1.probe();
    for flag in ["svm", "npt", "vmx", "ept"] {
        assert_eq!(probe["flags"][flag], false, "{probe}");
    }
    assert_eq!(probe["kvm"], false, "{probe}");
    assert_eq!(probe["parameters"], json!({}));
    assert_eq!(l1.booted()["exposure"], "off");
    assert_eq!((l1.fault(), l1.how()), (None, "power-off"));
}

#[test]
fn l1_reads_what_its_vcpus_were_given() {
    let nest = &or_skip!(run()).nest;
    for name in ["main", NO_NPT, NO_FOUR] {
        let views = cpu::read_as_set(&nest.machine(name));
        assert!(views[0].cpuid.contains_key(&cpu::SVM_LEAF), "{name}");
    }
    assert_eq!(cpu::read_as_set(&nest.machine("pair")).len(), 2);
    let [off] = &cpu::read_as_set(&nest.machine("shown off"))[..] else {
        panic!("one processor")
    };
    assert!(!off.cpuid.contains_key(&cpu::SVM_LEAF));
}

#[test]
fn without_npt_l1s_kvm_keeps_shadow_page_tables_and_l2_boots() {
    let nest = &or_skip!(run()).nest;
    let probe = nest.machine(NO_NPT).probe();
    assert_eq!(probe["flags"]["npt"], false, "{probe}");
    assert_eq!(probe["parameters"]["kvm_amd.npt"], "N", "{probe}");
    let [with, without] = ["hello", "without NPT"].map(|name| nest.machine(name));
    assert!(without.output("hello").starts_with("hello from L2"));
    assert_eq!((without.fault(), without.how()), (None, "power-off"));
    // Every change of L2's page tables is an exit.
    let [with, without] = [with.exit_count(), without.exit_count()];
    assert!(without > 3 * with, "{with} -> {without}");
}

#[test]
fn four_features_of_svm_are_hidden_and_l2_boots() {
    let nest = &or_skip!(run()).nest;
    let leaf = |name| cpu::read_as_set(&nest.machine(name))[0].cpuid[&cpu::SVM_LEAF];
    let ([_, asids, _, all], [_, fewer, _, left]) = (leaf("main"), leaf(NO_FOUR));
    // VMCB clean bits, flush by ASID, virtual GIF, the VMCB's address check.
    let hidden = 1 << 5 | 1 << 6 | 1 << 16 | 1 << 28;
    assert_eq!(all & hidden, hidden, "{all:#x}");
    assert_eq!(left, all & !hidden);
    assert_eq!((asids > 2, fewer), (true, 2));
    let [with, without] = ["main", NO_FOUR].map(|name| nest.machine(name).probe());
    assert_eq!(with["parameters"]["kvm_amd.vgif"], "1", "{with}");
    assert_eq!(without["parameters"]["kvm_amd.vgif"], "0", "{without}");
    assert_eq!(without["parameters"]["kvm_amd.npt"], "Y", "{without}");
    let l2 = nest.machine("without four");
    assert!(l2.output("hello").starts_with("hello from L2"));
    assert_eq!((l2.fault(), l2.how()), (None, "power-off"));
}

#[test]
fn under_a_template_two_processors_are_the_same() {
    let nest = &or_skip!(run()).nest;
    let view = fleet::same_on_both(nest, "svm");
    assert!(view.cpuid.contains_key(&cpu::SVM_LEAF));
}

#[test]
fn l1_and_l2_have_two_processors() {
    let nest = &or_skip!(run()).nest;
    for name in ["pair", "inner pair"] {
        assert_eq!(nest.machine(name).booted()["cpus"], 2, "{name}");
    }
    let l2 = nest.machine("inner pair");
    assert!(l2.output("hello").contains(" 2 x "));
    assert_eq!((l2.fault(), l2.how()), (None, "power-off"));
    assert_eq!(nest.machine("hello").booted()["cpus"], 1);
}

#[test]
fn a_reset_in_l2_is_l2s_alone() {
    faulted(&or_skip!(run()).nest, "reset", "reset", "reset");
}

#[test]
fn a_triple_fault_in_l2_is_l2s_alone() {
    faulted(
        &or_skip!(run()).nest,
        "triple",
        "triple-fault",
        "triple-fault",
    );
}

#[test]
fn a_panic_in_l2_is_l2s_alone() {
    let nest = &or_skip!(run()).nest;
    let life = nest.machine("panic");
    assert_eq!(life.fault(), Some("panic"));
    assert!(life.results("hello").is_empty());
    let fault = life.own("fault").next().unwrap();
    assert!(
        fault["detail"].as_str().unwrap().contains("sysrq"),
        "{fault}"
    );
    lower_levels_went_on(nest);
}

#[test]
fn a_hang_in_l2_is_found_within_its_limit() {
    faulted(&or_skip!(run()).nest, "hang", "hang", "killed");
}

#[test]
fn memory_that_runs_out_in_l2_is_named() {
    let nest = &or_skip!(run()).nest;
    let life = nest.machine("memory");
    assert_eq!(life.fault(), Some("out-of-memory"));
    lower_levels_went_on(nest);
}

#[test]
fn each_level_powers_off_when_told_to() {
    let nest = &or_skip!(run()).nest;
    for name in ["off", "L1 off"] {
        let life = nest.machine(name);
        life.output("power-off");
        assert!(life.results("hello").is_empty(), "{name} went on");
        assert_eq!((life.fault(), life.how()), (None, "power-off"), "{name}");
    }
    let l0 = nest.machine("L0");
    l0.output("power-off");
    assert!(l0.results("probe").is_empty(), "L0 went on");
    // An emulator doesn't tell how its machine ended.
    assert_eq!((l0.fault(), l0.how()), (None, "exited"));
}

#[test]
fn a_reset_in_l1_is_l1s_alone() {
    let nest = &or_skip!(run()).nest;
    let life = nest.machine("L1 reset");
    assert_eq!((life.fault(), life.how()), (Some("reset"), "reset"));
    assert!(life.results("hello").is_empty());
    lower_levels_went_on(nest);
}

#[test]
fn a_disk_written_in_l2_reads_the_same_in_l1_and_l0() {
    let nest = &or_skip!(run()).nest;
    let expected = pattern::digest(&pattern::bytes(1, LENGTH));
    nest.machine("disks").output("disk-write /dev/vda");
    let l1 = nest.machine("main");
    assert_eq!(l1.output("disk-digest /dev/vda"), expected);
    let l0 = nest.machine("L0");
    assert_eq!(l0.output(&format!("disk-digest {L0_FILE}")), expected);
}

#[test]
fn a_disk_of_the_host_is_written_in_l2_byte_for_byte() {
    let run = or_skip!(run());
    run.nest.machine("disks").output("disk-write /dev/vdb");
    let (written, rest) = run.host_disk.split_at(LENGTH);
    assert!(written == pattern::bytes(2, LENGTH), "other bytes arrived");
    assert!(rest.iter().all(|byte| *byte == 0), "more was written");
}

#[test]
fn a_read_only_disk_refuses_writes() {
    let nest = &or_skip!(run()).nest;
    let life = nest.machine("disks");
    let results = life.results("disk-write /dev/vdc");
    assert_eq!(results.len(), 1);
    assert_eq!(results[0]["ok"], false, "{}", results[0]);
    let untouched = pattern::digest(&vec![0; LENGTH]);
    let l1 = nest.machine("main");
    assert_eq!(l1.output("disk-digest /dev/vdc"), untouched);
}

#[test]
fn a_bare_metal_hypervisor_in_l1_hosts_l2() {
    let nest = &or_skip!(run()).nest;
    hypervisor::hosts_l2(&nest.machine("bare metal"), "bare metal", "VMRUN");
}

#[test]
fn every_level_above_l0_is_counted() {
    let nest = &or_skip!(run()).nest;
    for name in ["main", "hello", "inner pair", "reset", "shown off"] {
        let counts = nest.machine(name).exits();
        assert!(counts["exits"].as_u64() > Some(1000), "{name}: {counts}");
        assert!(counts["user_exits"].as_u64() > Some(0), "{name}: {counts}");
    }
    let nested = &nest.machine("main").exits()["nested_run"];
    assert!(nested.as_u64() > Some(1000), "{nested}");
}

/// Asserts that two counts of the same thing differ by 5 % at the most.
fn agree(what: &str, one: &Value, other: u64) {
    let one = one.as_u64().unwrap();
    assert!(one.abs_diff(other) * 20 <= one, "{what}: {one} and {other}");
}

#[test]
fn a_thousand_cpuids_in_l2_are_lined_up_from_level_to_level() {
    let nest = &or_skip!(run()).nest;
    let phase = nest.phase(2, &format!("cpuid {CPUIDS}"));
    let (l1, l2) = (&phase["counts"]["1"], &phase["counts"]["2"]);
    let cost = &phase["costs"][0];
    assert_eq!((&cost["level"], &cost["exits"]), (&json!(2), &l2["exits"]));
    assert!(l2["exits"].as_u64() >= Some(CPUIDS), "{phase}");
    // Each entry into L2 that L0 carried out ended with an exit that L1 took.
    agree("entries", &l2["exits"], l1["nested_run"].as_u64().unwrap());
    assert!(cost["difference_percent"].as_f64() <= Some(5.0), "{cost}");
    // L0 takes at least an exit for the entry, and one that it reflects.
    let l0 = &cost["below"][0];
    assert_eq!((&l0["level"], &l0["exits"]), (&json!(0), &l1["exits"]));
    assert!(l0["per_exit"].as_f64() > Some(2.0), "{cost}");
}

#[test]
fn reasons_say_what_was_handled_and_what_was_reflected() {
    let nest = &or_skip!(run()).nest;
    let phase = nest.phase(2, &format!("cpuid {CPUIDS}"));
    let (l1, split) = (&phase["counts"]["1"], &phase["costs"][0]["split"]);
    let of = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{phase}"));
    assert!(of(&l1["reflected:CPUID"]) >= CPUIDS, "{phase}");
    assert!(of(&l1["exit:VMRUN"]) >= CPUIDS, "{phase}");
    agree("reflected", &split["reflected"], of(&l1["nested_run"]));
    // Every exit of L1's vCPU is L1's own, or L2's: handled by L0 or reflected.
    let all = of(&split["own"]) + of(&split["handled"]) + of(&split["reflected"]);
    agree("all", &l1["exits"], all);
    let traced = l1.as_object().unwrap().iter();
    let traced = traced.filter(|(name, _)| name.starts_with("exit:"));
    agree(
        "traced",
        &l1["exits"],
        traced.map(|(_, count)| of(count)).sum(),
    );
}

#[test]
fn the_whole_of_l2_is_lined_up_with_the_step_that_boots_it() {
    let nest = &or_skip!(run()).nest;
    let phase = nest.phase(1, "hello");
    let counted = &nest.machine("hello").exits()["exits"];
    assert_eq!(&phase["counts"]["2"]["exits"], counted);
    let entries = phase["counts"]["1"]["nested_run"].as_u64().unwrap();
    agree("entries", counted, entries);
}

#[test]
fn a_hypervisor_in_l1_is_seen_and_none_in_l2() {
    let nest = &or_skip!(run()).nest;
    let seen = |name: &str, state: &str| {
        let life = nest.machine(name);
        life.own("exits").any(|event| event["hypervisor"] == state)
    };
    assert!(seen("main", "none"), "before it loads KVM");
    assert!(seen("main", "runs-guest"));
    assert!(seen("hello", "none"));
    assert!(!seen("hello", "on") && !seen("hello", "runs-guest"));
}

#[test]
fn a_nest_with_faults_says_so_by_its_exit_code() {
    let nest = &or_skip!(run()).nest;
    assert_eq!(nest.status.code(), Some(1));
    assert_eq!(nest.report["ok"], false);
    let levels = nest.report["levels"].as_array().unwrap();
    assert_eq!(levels.len(), 3);
    assert_eq!(levels[0]["result"], "ok");
    assert_ne!(levels[2]["result"], "ok");
}

/// A chain that works, by the command line that a person would type.
fn reaches(arguments: &[&str], limit: u64) -> Result<Nest, String> {
    skip::needs("qemu-system-x86_64")?;
    let arguments = [&["--metal", "svm"], arguments].concat();
    Ok(Nest::run(&arguments, Duration::from_secs(limit)))
}

/// Asserts that every level did its work and shut down in order.
fn all_is_well(nest: &Nest, depth: u64) {
    assert_eq!(nest.status.code(), Some(0), "{}", nest.console);
    assert_eq!(nest.report["ok"], true);
    let levels = nest.report["levels"].as_array().unwrap();
    let numbers: Vec<_> = levels.iter().map(|level| &level["level"]).collect();
    assert_eq!(numbers, (0..=depth).collect::<Vec<_>>());
    for level in levels {
        assert_eq!(level["result"], "ok", "{level}");
        assert_eq!(level["booted"], true, "{level}");
        assert_eq!(level["vendor"], "AuthenticAMD", "{level}");
        // Under an emulator times mean nothing, so none are given.
        assert!(level["boot_ns"].is_null(), "{level}");
    }
    let deepest = nest.level(depth);
    let hello = format!("hello from L{depth}: ");
    assert!(deepest.output("hello").starts_with(&hello));
    assert_eq!((deepest.fault(), deepest.how()), (None, "power-off"));
}

#[test]
fn depth_3_reaches_l3() {
    let nest = or_skip!(reaches(&["--depth", "3"], 1200));
    all_is_well(&nest, 3);
    let addresses = [11, 12, 13].map(|last| format!("192.168.100.{last}/24"));
    network::is_used(&nest, &addresses.each_ref().map(String::as_str));
    for level in 0..3 {
        assert_eq!(nest.level(level).booted()["exposure"], "svm");
    }
}

#[test]
fn l2_is_a_full_member_of_l1s_network_by_a_bridge() {
    let nest = or_skip!(reaches(&["--l2-net", "bridge"], 900));
    all_is_well(&nest, 2);
    network::is_used(&nest, &["192.168.100.11/24", "192.168.100.12/24"]);
}

#[test]
fn l2_is_reached_behind_l1s_nat() {
    let nest = or_skip!(reaches(&["--l2-net", "nat"], 900));
    all_is_well(&nest, 2);
    network::is_used(&nest, &["192.168.100.11/24", "192.168.101.12/24"]);
}

#[test]
fn debians_6_1_kernel_boots_at_every_level() {
    let arguments = ["--depth", "2", "--kernel", "linux-image-cloud-amd64"];
    let nest = or_skip!(reaches(&arguments, 900));
    all_is_well(&nest, 2);
    for level in 0..=2 {
        let kernel = nest.level(level).booted()["kernel"].as_str().unwrap();
        assert!(kernel.starts_with("6.1."), "L{level} runs {kernel}");
    }
}
