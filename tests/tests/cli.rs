//! The command line: what it prints when asked, and what it says when it can't.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

use std::fs;
use std::path::{Path, PathBuf};

use nestling_tests::binary::{self, Refusal, refusal};
use nestling_tests::payload::{self, Code};
use nestling_tests::{or_skip, skip};
use tempfile::TempDir;

/// A folder with files to name on a command line.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A kernel that powers off at once.
    fn kernel(&self) -> String {
        self.write("kernel", Code::new().power_off().elf())
    }
}

/// Refuses `arguments` by `code`, and says all of `parts`.
fn refuses(arguments: &[&str], code: i32, parts: &[&str]) {
    check(&refusal(arguments), code, parts, &format!("{arguments:?}"));
}

fn check(refusal: &Refusal, code: i32, parts: &[&str], what: &str) {
    let Refusal { code: found, line } = refusal;
    assert_eq!(*found, code, "{what}: {line}");
    for part in parts {
        assert!(line.contains(part), "{what}: no {part:?} in: {line}");
    }
}

/// Refuses a kernel of these bytes.
fn refuses_kernel(bytes: &[u8], parts: &[&str]) {
    let files = Files::new();
    let kernel = files.write("kernel", bytes);
    let named = [&[kernel.as_str()], parts].concat();
    refuses(&["run", "--kernel", &kernel, "--memory", "64M"], 1, &named);
}

#[test]
fn every_command_explains_itself() {
    for command in [
        &[][..],
        &["run"],
        &["nest"],
        &["net"],
        &["net", "tap"],
        &["net", "switch"],
        &["net", "list"],
        &["net", "forward"],
        &["net", "spoofing"],
        &["bench"],
        &["bench", "list"],
        &["bench", "report"],
        &["bench", "compare"],
        &["cpu"],
        &["cpu", "dump"],
        &["cpu", "intersect"],
        &["cpu", "check"],
        &["cpu", "templates"],
        &["doctor"],
        &["image"],
        &["image", "build"],
        &["completions"],
        &["man"],
    ] {
        let output = binary::command()
            .args(command)
            .arg("--help")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{command:?}");
        assert!(text.contains("Usage: nestling"), "{command:?}: {text}");
        assert!(output.stderr.is_empty(), "{command:?}");
    }
}

#[test]
fn each_command_that_boots_or_builds_shows_examples() {
    for command in [&["run"][..], &["nest"], &["image", "build"]] {
        let output = binary::command()
            .args(command)
            .arg("--help")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let example = format!("    nestling {}", command.join(" "));
        assert!(text.contains("Examples:"), "{command:?}");
        assert!(text.contains(&example), "{command:?}: {text}");
    }
}

#[test]
fn the_version_is_the_packages() {
    let output = binary::command().arg("--version").output().unwrap();
    let expected = format!("nestling {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

#[test]
fn shells_get_completions_that_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = binary::command()
            .args(["completions", shell])
            .output()
            .unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{shell}");
        for word in ["nest", "doctor", "--no-reboot", "--print-plan"] {
            let word = word.trim_start_matches(if shell == "fish" { "--" } else { "" });
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn manual_pages_are_written_for_every_command() {
    let folder = tempfile::tempdir().unwrap();
    binary::command()
        .arg("man")
        .arg(folder.path())
        .assert()
        .success();
    for page in [
        "nestling.1",
        "nestling-run.1",
        "nestling-nest.1",
        "nestling-doctor.1",
        "nestling-image-build.1",
    ] {
        let text = fs::read_to_string(folder.path().join(page)).expect(page);
        assert!(text.contains(".SH NAME"), "{page}");
    }
    let missing = folder.path().join("missing");
    refuses(&["man", missing.to_str().unwrap()], 1, &["missing"]);
}

#[test]
fn what_is_no_command_or_flag_is_refused_in_one_line() {
    refuses(&["frob"], 2, &["frob", "--help"]);
    refuses(&["run", "--frob"], 2, &["--frob"]);
    refuses(&["run", "--cpus", "two"], 2, &["two", "--cpus"]);
    refuses(&["run", "--memory", "lots"], 2, &["lots", "512M"]);
    refuses(&["run", "--nested", "maybe"], 2, &["maybe", "--nested"]);
    refuses(&["nest", "--metal", "wood"], 2, &["wood", "svm"]);
    refuses(&["--format", "xml", "doctor"], 2, &["xml", "json"]);
    refuses(&["--log", "[[", "doctor"], 2, &["--log", "[["]);
}

#[test]
fn a_machine_needs_a_kernel() {
    refuses(&["run"], 2, &["no kernel", "--kernel"]);
    let missing = ["run", "--kernel", "/nonexistent/vmlinuz"];
    refuses(&missing, 1, &["/nonexistent/vmlinuz", "No such file"]);
    refuses(&["run", "--kernel", "/"], 1, &["no regular file"]);
}

#[test]
fn what_is_no_kernel_is_refused() {
    refuses_kernel(&[0x90; 4096], &["not a kernel"]);
    refuses_kernel(b"#!/bin/sh\n", &["not a kernel"]);
    refuses_kernel(b"", &["empty"]);
}

#[test]
fn a_truncated_bzimage_is_refused() {
    refuses_kernel(&payload::bzimage_head(), &["truncated"]);
    refuses_kernel(&payload::bzimage_head()[..0x210], &["truncated"]);
}

#[test]
fn an_old_or_32_bit_bzimage_is_refused() {
    let mut image = payload::bzimage_head();
    image[0x206..0x208].copy_from_slice(&0x0200_u16.to_le_bytes());
    refuses_kernel(&image, &["boot protocol 2.00"]);
    let mut image = payload::bzimage_head();
    image.resize(1024 + (1 << 20), 0);
    image[0x236] = 0;
    refuses_kernel(&image, &["64-bit entry"]);
}

#[test]
fn a_truncated_elf_is_refused() {
    let image = Code::new().power_off().elf();
    for length in [32, 100, image.len() - 1] {
        refuses_kernel(&image[..length], &["truncated"]);
    }
}

#[test]
fn overlapping_segments_are_refused() {
    let code = [0xf4; 64];
    let image = payload::elf(&[(0x10_0000, &code, 64), (0x10_0020, &code, 64)]);
    refuses_kernel(&image, &["overlap", "0x100000", "0x100020"]);
}

#[test]
fn oversized_segments_are_refused() {
    let code = [0xf4; 64];
    // Beyond the machine's memory, around the end of all addresses, and a file
    // part larger than the memory it goes to.
    refuses_kernel(&payload::elf(&[(0x10_0000, &code, 1 << 40)]), &["memory"]);
    refuses_kernel(
        &payload::elf(&[(0x10_0000, &code, u64::MAX)]),
        &["oversized"],
    );
    refuses_kernel(&payload::elf(&[(0x10_0000, &code, 8)]), &["oversized"]);
}

#[test]
fn a_foreign_elf_is_refused() {
    let mut image = Code::new().power_off().elf();
    image[18] = 183; // EM_AARCH64
    refuses_kernel(&image, &["183", "62"]);
}

#[test]
fn a_multiboot_image_with_bad_addresses_is_refused() {
    const BASE: u32 = 0x20_0000;
    let end = BASE + 32 + 64;
    let good = [BASE, BASE, end, end + 0x100, BASE + 32];
    for (field, value, parts) in [
        (
            0,
            BASE - 4,
            &["header_addr 0x1ffffc", "load_addr 0x200000"][..],
        ),
        (1, BASE - 4, &["load_addr 0x1ffffc", "0x0 of the file"]),
        (2, BASE, &["load_end_addr 0x200000"]),
        (2, end + 1, &["load_end_addr 0x200061", "0x200060"]),
        (3, end - 1, &["bss_end_addr 0x20005f", "0x200060"]),
        (3, u32::MAX, &["RAM", "0xffffffff", "memory"]),
        (4, BASE - 1, &["entry_addr 0x1fffff", "0x200000..0x200060"]),
        (4, end, &["entry_addr 0x200060"]),
    ] {
        let mut addresses = good;
        addresses[field] = value;
        let image = payload::multiboot(1 << 16, addresses, &[0xf4; 64]);
        refuses_kernel(&image, parts);
    }
    let low = [0x7000, 0x7000, 0, 0, 0x7020];
    let image = payload::multiboot(1 << 16, low, &[0xf4; 64]);
    refuses_kernel(&image, &["0x7000", "below 1 MiB"]);
}

#[test]
fn a_multiboot_image_that_demands_too_much_is_refused() {
    for (flags, part) in [
        (1 << 2, "video mode"),
        (1 << 5, "0x20"),
        (0, "no address fields"),
    ] {
        let image = payload::multiboot(flags, [0; 5], &[]);
        refuses_kernel(&image, &["Multiboot", part]);
    }
    let short = &payload::multiboot(1 << 16, [0; 5], &[])[..28];
    refuses_kernel(short, &["address fields end at byte 32", "28"]);
}

#[test]
fn modules_that_cannot_be_had_are_refused() {
    or_skip!(skip::needs_kvm());
    let files = Files::new();
    let large = files.path("large");
    fs::File::create(&large)
        .unwrap()
        .set_len(128 << 20)
        .unwrap();
    let (kernel, large) = (files.kernel(), large.to_str().unwrap());
    let run = |modules: &[&str], code, parts: &[&str]| {
        let mut arguments = vec!["run", "--memory", "64M", "--kernel", &kernel];
        for module in modules {
            arguments.extend(["--module", module]);
        }
        refuses(&arguments, code, parts);
    };
    let missing = "/nonexistent/module";
    run(&[missing], 1, &[missing, "No such file"]);
    run(&[large], 1, &["module", large, "does not fit", "memory"]);
    run(&[",quiet"], 2, &["--module", "path="]);
    let small = files.write("small", b"a module");
    run(&[&format!("{small},caf\u{e9}")], 1, &[&small, "0xc3"]);
    let long = format!("{small},{}", "x".repeat(0x1_0000));
    run(&[&long, &long], 1, &["modules", "there is room for 131072"]);
}

#[test]
fn an_initrd_that_does_not_fit_is_refused() {
    or_skip!(skip::needs_kvm());
    let files = Files::new();
    let initrd = files.path("initrd");
    fs::File::create(&initrd)
        .unwrap()
        .set_len(128 << 20)
        .unwrap();
    let (kernel, initrd) = (files.kernel(), initrd.to_str().unwrap());
    refuses(
        &[
            "run", "--kernel", &kernel, "--initrd", initrd, "--memory", "64M",
        ],
        1,
        &["initrd", "does not fit", "memory"],
    );
    refuses(
        &[
            "run",
            "--kernel",
            &kernel,
            "--initrd",
            "/nonexistent/initrd",
        ],
        1,
        &["/nonexistent/initrd", "No such file"],
    );
}

#[test]
fn a_command_line_too_long_is_refused() {
    or_skip!(skip::needs_kvm());
    let files = Files::new();
    let long = "x".repeat(100_000);
    refuses(
        &["run", "--kernel", &files.kernel(), "--cmdline", &long],
        1,
        &["command line", "100000 bytes"],
    );
}

#[test]
fn machines_of_impossible_size_are_refused() {
    let files = Files::new();
    let kernel = files.kernel();
    for (flag, value, code, part) in [
        ("--cpus", "0", 2, "1 to 64"),
        ("--cpus", "65", 2, "1 to 64"),
        ("--cpus", "-1", 2, "--cpus"),
        ("--memory", "0", 2, "16M"),
        ("--memory", "8M", 2, "16M"),
        ("--memory", "33M", 2, "multiple of 2M"),
        ("--memory", "1025M,hugepages=1G", 2, "multiple of 1G"),
        ("--memory", "99999999T", 2, "--memory"),
        ("--memory", "64T", 2, "32T"),
        ("--memory", "16T", 1, "--memory"),
        ("--memory", "64M,frob=1", 2, "frob"),
    ] {
        let joined = format!("{flag}={value}");
        refuses(&["run", "--kernel", &kernel, &joined], code, &[part]);
    }
}

#[test]
fn disks_and_networks_that_cannot_be_had_are_refused() {
    or_skip!(skip::needs_kvm());
    let files = Files::new();
    let kernel = files.kernel();
    let run = |rest: &[&str], code, parts: &[&str]| {
        refuses(&[&["run", "--kernel", &kernel], rest].concat(), code, parts);
    };
    run(&["--disk", "/nonexistent/disk"], 1, &["/nonexistent/disk"]);
    run(&["--disk", "readonly=on"], 2, &["path="]);
    run(&["--disk", "path=/dev/null"], 1, &["/dev/null"]);
    run(&["--net", "mac=1"], 2, &["mac"]);
    run(&["--net", "tap=a/b"], 1, &["a/b"]);
    run(&["--channel", "fd=77"], 1, &["fd=77"]);
    run(
        &["--serial", "file=/nonexistent/log"],
        1,
        &["/nonexistent/log"],
    );
}

#[test]
fn a_configuration_is_refused_with_its_line() {
    let files = Files::new();
    for (text, parts) in [
        ("kernel = \"k\"\nfrob = 1\n", &[":2:", "frob"][..]),
        (
            "kernel = \"k\"\n\ncpus = \"two\"\n",
            &[":3:", "invalid type"],
        ),
        ("kernel = \"k\"\nmemory = true\n", &[":2:", "512M"]),
        ("kernel = \n", &[":1:"]),
        ("version = 99\n", &["version 99"]),
        ("[[disk]]\npath = \"a\"\nsize = 1\n", &["size"]),
    ] {
        let path = files.write("machine.toml", text);
        let parts = [&["machine.toml"], parts].concat();
        refuses(&["run", "--config", &path], 2, &parts);
    }
    let missing = ["run", "--config", "/nonexistent/machine.toml"];
    refuses(&missing, 2, &["/nonexistent/machine.toml"]);
}

#[test]
fn values_of_a_configuration_are_checked_like_flags() {
    let files = Files::new();
    let path = files.write("machine.toml", "kernel = \"k\"\ncpus = 65\n");
    refuses(&["run", "--config", &path], 2, &["1 to 64"]);
}

#[test]
fn requests_for_controls_that_can_not_be_are_explained() {
    let files = Files::new();
    for (request, parts) in [
        (
            "vmx,-unrestricted",
            &["did you mean unrestricted_guest?"][..],
        ),
        ("vmx,-frobnicate", &["frobnicate", "doctor --nested"]),
        ("svm,-ept", &["ept is one of VMX's controls", "for SVM"]),
        ("on,-ept,-npt", &["npt is one of SVM's controls", "for VMX"]),
        (
            "vmx,+unrestricted_guest,-ept",
            &["unrestricted_guest can't be used without ept"],
        ),
        ("-ept,+ept", &["ept can't be asked for and hidden"]),
        ("vmx,-cr3_load_exiting", &["cr3_load_exiting", "default1"]),
        ("off,-npt", &["\"-npt\""]),
        ("svm,asids=0", &["asids=0"]),
    ] {
        refuses(&["run", "--nested", request], 2, parts);
        refuses(&["nest", "--nested", request], 2, parts);
        refuses(&["doctor", "--nested", request], 2, parts);
        let path = files.write("machine.toml", format!("nested = {request:?}\n"));
        refuses(&["run", "--config", &path], 2, parts);
    }
}

#[test]
fn nested_on_is_refused_where_the_host_cannot_nest() {
    or_skip!(skip::needs_kvm());
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap();
    let has = |flag| cpuinfo.split_whitespace().any(|word| word == flag);
    if has("vmx") || has("svm") {
        skip::skip("this host's processor shows VMX or SVM");
        return;
    }
    let files = Files::new();
    refuses(
        &["run", "--kernel", &files.kernel(), "--nested", "on"],
        1,
        &["--nested on", "firmware"],
    );
    refuses(&["doctor", "--nested"], 1, &["firmware"]);
    refuses(
        &["nest", "--metal", "host"],
        1,
        &["cannot nest", "--metal svm"],
    );
}

#[test]
fn nests_of_impossible_shape_are_refused() {
    or_skip!(skip::needs("qemu-system-x86_64"));
    let files = Files::new();
    let plan = files.write("plan.json", "{\"machine\": 1}");
    for (arguments, code, parts) in [
        (&["--depth", "0"][..], 2, &["depth 0", "1 to 7"][..]),
        (&["--depth", "8"], 2, &["depth 8", "1 to 7"]),
        (&["--cpus", "0"], 2, &["0 vCPUs"]),
        (&["--cpus", "1,1,1"], 2, &["3 levels"]),
        (
            &["--nested", "on", "--nested", "auto", "--nested", "off"],
            2,
            &["--nested", "3 levels"],
        ),
        (&["--memory", "16M"], 2, &["16 MiB", "at least"]),
        (&["--memory", "16T"], 2, &["MiB", "lower --memory"]),
        (&["--workload", ""], 2, &["--workload"]),
        (&["--plan", "/nonexistent/plan"], 2, &["/nonexistent/plan"]),
        (&["--plan", &plan], 2, &["plan.json", "malformed"]),
        (&["--disk", "/nonexistent/disk"], 1, &["/nonexistent/disk"]),
        (&["--kernel", &plan], 1, &["plan.json", "bzImage"]),
    ] {
        refuses(
            &[&["nest", "--metal", "svm"], arguments].concat(),
            code,
            parts,
        );
    }
}

/// What `command` prints when run by a user without rights, in namespaces of its own.
fn unprivileged(script: &str, arguments: &[&str]) -> Result<std::process::Output, String> {
    skip::needs("unshare")?;
    let probe = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "true"])
        .output()
        .map_err(|error| format!("unshare: {error}"))?;
    if !probe.status.success() {
        let said = String::from_utf8_lossy(&probe.stderr);
        return Err(format!("no namespaces here: {}", said.trim()));
    }
    std::process::Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-ec",
            script,
            "sh",
        ])
        .arg(binary::path())
        .args(arguments)
        .output()
        .map_err(|error| format!("unshare: {error}"))
}

/// Runs a machine with something mounted over /dev/kvm's place.
fn with_kvm_hidden(script: &str, parts: &[&str]) {
    or_skip!(skip::needs_kvm());
    let files = Files::new();
    let kernel = files.kernel();
    let output = or_skip!(unprivileged(script, &["run", "--kernel", &kernel]));
    check(&binary::refused(&output), 1, parts, script);
}

#[test]
fn a_host_without_kvm_is_told_what_to_do() {
    with_kvm_hidden(
        "mount -t tmpfs none /dev; exec \"$@\"",
        &["/dev/kvm", "modprobe"],
    );
}

#[test]
fn a_user_without_permission_for_kvm_is_told_what_to_do() {
    with_kvm_hidden(
        "f=$(mktemp); chmod 0 $f; mount --bind $f /dev/kvm; rm $f; \
         exec setpriv --bounding-set -all --inh-caps -all \"$@\"",
        &["/dev/kvm", "permission", "kvm"],
    );
}

#[test]
fn unreadable_files_are_named() {
    let files = Files::new();
    let kernel = files.kernel();
    let script = "chmod 0 \"$4\"; exec setpriv --bounding-set -all --inh-caps -all \"$@\"";
    let output = or_skip!(unprivileged(script, &["run", "--kernel", &kernel]));
    check(
        &binary::refused(&output),
        1,
        &[&kernel, "Permission denied"],
        script,
    );
}

#[test]
fn a_busy_tap_is_named() {
    or_skip!(skip::needs_kvm());
    or_skip!(skip::needs("unshare"));
    or_skip!(skip::needs("ip"));
    if !Path::new("/dev/net/tun").exists() {
        skip::skip("there is no /dev/net/tun");
        return;
    }
    let files = Files::new();
    let held = files.write("held", Code::new().say("up").halt().elf());
    // The first machine holds the tap and its console says so; the second wants it.
    let script = "ip tuntap add dev t0 mode tap || exit 77
        \"$1\" run --kernel \"$2\" --net tap=t0 --memory 16M --serial file=\"$3\" \
            </dev/null 2>/dev/null &
        for i in $(seq 100); do [ -s \"$3\" ] && break; sleep 0.1; done
        \"$1\" run --kernel \"$2\" --net tap=t0 --memory 16M </dev/null
        code=$?; kill -KILL $!; wait; exit $code";
    let output = std::process::Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--net",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .arg(binary::path())
        .args([held, files.path("log").to_str().unwrap().to_owned()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(77) || said.starts_with("unshare:") {
        skip::skip(&format!("no taps here: {}", said.trim()));
        return;
    }
    check(&binary::refused(&output), 1, &["t0", "in use"], script);
}
