use super::*;
use crate::order::Disk;
use nestling_arch::hyperv;
use nestling_arch::template::{Template, Unnamed};

const LINE: &str = "/opt/x/vmm -k {kernel} -i {initrd} -a {cmdline}";

fn machine() -> Machine {
    Machine {
        cpus: 2,
        cpu_affinity: Vec::new(),
        memory_mib: 512,
        nested: Request::plain(When::On),
        cpu_template: None,
        hyperv: hyperv::Request::Off,
        cmdline: "console=ttyS0 quiet".into(),
        disks: vec![],
        nets: vec![],
        network: String::new(),
        forwards: vec![],
    }
}

fn disk(readonly: bool) -> Disk {
    Disk {
        path: "/run/disk".into(),
        readonly,
        create_mib: None,
    }
}

#[test]
fn a_monitor_has_a_name_and_a_command_line() {
    for (text, name, program) in [
        ("nestling", "nestling", None),
        (" qemu-q35 ", "qemu-q35", Some("qemu-system-x86_64")),
        ("qemu-microvm", "qemu-microvm", Some("qemu-system-x86_64")),
        (LINE, "vmm", Some("/opt/x/vmm")),
        (&format!("mine-1.0={LINE}"), "mine-1.0", Some("/opt/x/vmm")),
        (&format!("'a b' x=1 {LINE}"), "a b", Some("a b")),
    ] {
        let monitor: Monitor = text.parse().unwrap();
        assert_eq!(monitor.name, name, "{text}");
        let command = monitor.command.as_ref();
        assert_eq!(command.map(CommandLine::program), program, "{text}");
        let json = serde_json::to_string(&monitor).unwrap();
        assert_eq!(serde_json::from_str::<Monitor>(&json).unwrap(), monitor);
    }
}

#[test]
fn in_json_a_name_from_the_list_is_enough() {
    for name in ["nestling", "qemu-q35", "qemu-microvm"] {
        let json = serde_json::json!({ "name": name });
        let monitor: Monitor = serde_json::from_value(json).unwrap();
        assert_eq!(monitor, name.parse().unwrap());
    }
    let json = serde_json::json!({ "name": "other" });
    let error = serde_json::from_value::<Monitor>(json).unwrap_err();
    assert!(error.to_string().starts_with("unknown monitor \"other\":"));
}

#[test]
fn what_is_no_monitor_is_told_why() {
    for (text, why) in [
        (
            "",
            "unknown monitor \"\": nestling, qemu-q35, qemu-microvm, or",
        ),
        ("qemu", "unknown monitor \"qemu\": nestling, qemu-q35,"),
        (
            "x=",
            "monitor x: the command line doesn't begin with a program",
        ),
        ("x=vmm", "monitor x: the command line lacks {kernel}"),
        (
            "x=vmm {disks}",
            "monitor x: the command line has {disks}, which",
        ),
        ("vmm 'a", "monitor vmm 'a: the command line has a ' without"),
    ] {
        let error = text.parse::<Monitor>().unwrap_err().to_string();
        assert!(error.starts_with(why), "{text}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn ready_made_lines_boot_a_machine() {
    let values = |disk| Values {
        kernel: Path::new("/k"),
        initrd: Path::new("/i"),
        cmdline: "console=ttyS0 quiet",
        cpus: 2,
        memory_mib: 512,
        channel: Path::new("/c"),
        disk,
    };
    for (name, _) in READY_MADE {
        let monitor: Monitor = name.parse().unwrap();
        let command = monitor.command.unwrap();
        let words = |disk| {
            let words = command.arguments(&values(disk)).unwrap();
            let words: Vec<_> = words.iter().map(|word| word.to_str().unwrap()).collect();
            words.join("|")
        };
        let with = words(Some(Path::new("/d")));
        for part in [
            "|-smp|2|-m|512|",
            "|-serial|stdio|",
            ",path=/c|",
            ",name=nestling.channel|",
            ",format=raw,file=/d|",
            "|-kernel|/k|-initrd|/i|-append|console=ttyS0 quiet",
        ] {
            assert!(with.contains(part), "{part} in {with}");
        }
        assert!(!words(None).contains("disk"));
    }
}

#[test]
fn firmware_is_taken_from_the_first_folder_that_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    for file in ["a/pvh.bin", "b/pvh.bin", "b/real.rom", "b/other.bin"] {
        std::fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
        std::fs::write(root.join(file), file).unwrap();
    }
    std::os::unix::fs::symlink("real.rom", root.join("b/bios-microvm.bin")).unwrap();
    let folders = [root.join("absent"), root.join("a/../a"), root.join("b")];
    let addition = |source: &str, destination: &str| Addition {
        source: root.join(source),
        destination: root.join(destination),
    };
    assert_eq!(
        firmware(folders.iter().map(PathBuf::as_path)),
        [
            addition("b/real.rom", "b/bios-microvm.bin"),
            addition("a/pvh.bin", "a/pvh.bin"),
        ]
    );
}

#[test]
fn a_program_must_be_there() {
    let program = |line: &str| line.parse::<Monitor>().unwrap().program();
    assert_eq!(program("nestling").unwrap(), None);
    let absent = program("x=no-such-program {kernel} {initrd} {cmdline}").unwrap_err();
    assert_eq!(
        absent.to_string(),
        "monitor x: there is no program no-such-program on this host: install it"
    );
    let shell = program("/bin/sh {kernel} {initrd} {cmdline}").unwrap();
    assert_eq!(shell, Some("/bin/sh".into()));
}

#[test]
fn others_boot_only_plain_machines() {
    let other: Monitor = "qemu-q35".parse().unwrap();
    let changed = |change: &dyn Fn(&mut Machine)| {
        let mut machine = machine();
        change(&mut machine);
        assert!(Monitor::default().check(&machine).is_ok());
        other.check(&machine).err().map(|error| error.to_string())
    };
    for nested in ["on", "auto", "svm", "vmx"] {
        let told = changed(&|machine| machine.nested = nested.parse().unwrap());
        assert_eq!(told, None, "{nested}");
    }
    assert_eq!(changed(&|machine| machine.disks = vec![disk(false)]), None);
    type Change = fn(&mut Machine);
    let beyond: [(Change, &str); 6] = [
        (|m| m.nested = "svm,-npt".parse().unwrap(), "controls"),
        (|m| m.nested = "off".parse().unwrap(), "SVM hidden"),
        (|m| m.hyperv = "on".parse().unwrap(), "Hyper-V"),
        (|m| m.disks = vec![disk(true)], "a read-only disk"),
        (|m| m.disks = vec![disk(false); 2], "more than one disk"),
        (
            |m| m.cpu_template = Some(Template::new("t", Unnamed::Keep)),
            "a CPU template",
        ),
    ];
    for (change, what) in beyond {
        let told = changed(&change).unwrap_or_default();
        assert!(
            told.starts_with("monitor qemu-q35 cannot boot a machine with "),
            "{told}"
        );
        assert!(told.contains(what), "{told}");
    }
}
