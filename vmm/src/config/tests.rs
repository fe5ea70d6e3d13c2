use std::path::Path;

use super::*;

fn parse(text: &str) -> Result<ConfigFile, FileError> {
    ConfigFile::parse(text, Path::new("machine.toml"))
}

fn minimal() -> ConfigFile {
    ConfigFile {
        kernel: Some("vmlinuz".into()),
        ..ConfigFile::default()
    }
}

#[test]
fn a_file_says_all_that_flags_can() {
    let file = parse(
        r#"
        version = 1
        kernel = "vmlinuz"
        initrd = "initrd.img"
        module = ["vmlinuz,console=hvc0 a,b", { path = "ramdisk", cmdline = "x" }]
        cmdline = "console=hvc0"
        cpus = 2
        memory = { size = "1G", shared = true, hugepages = "2M", prefault = true }
        nested = "on"
        disk = ["a.img,readonly=on"]
        serial = "off"
        console = "file=out.log"
        channel = "unix=chan.sock"
        events = "fd=4"
        debug_exit = true
        no_reboot = true
        stats = true

        [[net]]
        tap = "tap0"
        mac = "52:54:00:12:34:56"
        queues = 2
        "#,
    )
    .expect("all keys are known");
    let config = VmConfig::from_merged(file).expect("valid");
    assert_eq!(config.cpus, 2);
    assert_eq!(
        config.memory,
        MemoryConfig {
            size: Size::mib(1024),
            shared: true,
            hugepages: HugePages::Size2M,
            prefault: true
        }
    );
    assert_eq!(config.nested, "on".parse().expect("a request"));
    let module = |path: &str, cmdline: &str| ModuleConfig {
        path: path.into(),
        cmdline: cmdline.into(),
    };
    assert_eq!(
        config.modules,
        [
            module("vmlinuz", "console=hvc0 a,b"),
            module("ramdisk", "x")
        ]
    );
    assert_eq!(
        config.disks,
        [DiskConfig {
            path: "a.img".into(),
            readonly: true,
            queues: None
        }]
    );
    assert_eq!(config.nets[0].mac, "52:54:00:12:34:56".parse().ok());
    assert_eq!(config.serial, ConsoleMode::Off);
    assert_eq!(config.console, ConsoleMode::File("out.log".into()));
    assert_eq!(config.events, Some(Endpoint::Descriptor(4)));
    assert!(config.debug_exit && config.no_reboot && config.stats);
}

#[test]
fn flags_win_and_lists_are_replaced() {
    let file = parse("kernel = \"a\"\ncpus = 2\ndisk = [\"x\", \"y\"]").expect("valid");
    let flags = ConfigFile {
        cpus: Some(4),
        disk: Some(vec!["z".parse().expect("a path")]),
        ..ConfigFile::default()
    };
    let merged = file.overlaid(flags);
    assert_eq!(merged.cpus, Some(4));
    assert_eq!(merged.kernel, Some("a".into()));
    assert_eq!(merged.disk.expect("given").len(), 1);
}

#[test]
fn paths_in_a_file_start_at_its_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("machine.toml");
    let text = "kernel = \"vmlinuz\"\ndisk = [\"/abs.img\"]\nmodule = [\"a,b\"]";
    std::fs::write(&path, text).expect("written");
    let file = ConfigFile::read(&path).expect("valid");
    assert_eq!(file.kernel, Some(folder.path().join("vmlinuz")));
    let module = &file.module.expect("given")[0];
    assert_eq!(module.path, folder.path().join("a"));
    assert_eq!(file.disk.expect("given")[0].path, Path::new("/abs.img"));
}

#[test]
fn what_is_wrong_in_a_file_is_said_with_its_line() {
    for (text, message) in [
        (
            "cpus = 2\nmemroy = \"1G\"\n",
            "machine.toml:2: unknown field `memroy`",
        ),
        (
            "cpus = \"two\"",
            "machine.toml:1: invalid type: string \"two\", expected u32",
        ),
        (
            "\n\nmemory = 512",
            "machine.toml:3: invalid type: integer `512`, expected a size",
        ),
        (
            "memory = { shared = true }",
            "machine.toml:1: missing field `size`",
        ),
        (
            "module = [\",quiet\"]",
            "machine.toml:1: `path=` is missing",
        ),
        (
            "disk = [{ path = \"x\", ro = true }]",
            "machine.toml:1: unknown field `ro`",
        ),
        ("nested = \"maybe\"", "machine.toml:1: "),
        ("cpus = ", "machine.toml:1: "),
        ("version = 2", "machine.toml: schema version 2 isn't known"),
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.starts_with(message), "{text}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn text_of_a_file_cannot_drive_a_terminal() {
    let error = parse("\"\\u001b[2J\\ra\" = 1").expect_err("no such key");
    let text = error.to_string();
    assert!(
        text.starts_with("machine.toml:1: unknown field `a`"),
        "{text}"
    );
}

#[test]
fn a_tap_is_no_standard_stream() {
    for text in ["fd=-1", "fd=0", "fd=2,queues=2"] {
        let error = text.parse::<NetConfig>().expect_err(text).to_string();
        assert!(
            error.ends_with("hand the tap in as descriptor 3 or more"),
            "{error}"
        );
    }
    assert_eq!("fd=3".parse::<NetConfig>().expect("valid").fd(), Some(3));
}

#[test]
fn limits_are_checked_before_anything_starts() {
    let with = |change: fn(&mut ConfigFile)| {
        let mut file = minimal();
        change(&mut file);
        VmConfig::from_merged(file)
    };
    let memory = |text: &str| Some(text.parse::<MemoryConfig>().expect(text));
    for (result, message) in [
        (VmConfig::from_merged(ConfigFile::default()), "no kernel"),
        (
            with(|f| f.cpus = Some(0)),
            "--cpus 0: a machine has 1 to 64 vCPUs",
        ),
        (
            with(|f| f.cpus = Some(65)),
            "--cpus 65: a machine has 1 to 64 vCPUs",
        ),
    ] {
        let error = result.expect_err(message).to_string();
        assert!(error.starts_with(message), "{error}");
    }
    for (size, message) in [
        ("14M", "--memory 14M: a machine has 16M to 32T of memory"),
        ("64T", "--memory 64T: a machine has 16M to 32T of memory"),
        ("33M", "--memory 33M: the size must be a multiple of 2M"),
        (
            "16777217",
            "--memory 16777217: the size must be a multiple of 2M",
        ),
        (
            "512M,hugepages=1G",
            "--memory 512M: the size must be a multiple of 1G",
        ),
    ] {
        let file = ConfigFile {
            memory: memory(size),
            ..minimal()
        };
        assert_eq!(
            VmConfig::from_merged(file).expect_err(size).to_string(),
            message
        );
    }
    let file = ConfigFile {
        channel: Some(Endpoint::Descriptor(5)),
        events: Some(Endpoint::Descriptor(5)),
        ..minimal()
    };
    assert!(matches!(
        VmConfig::from_merged(file),
        Err(ConfigError::SharedDescriptor(5))
    ));
}

proptest::proptest! {
    #[test]
    fn any_file_is_taken_or_refused_in_one_line(text: String) {
        if let Err(error) = parse(&text) {
            proptest::prop_assert_eq!(error.to_string().lines().count(), 1);
        }
    }
}
