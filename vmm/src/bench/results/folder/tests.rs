use super::*;
use crate::bench::results::{Clock, Configuration, Environment, Level, Measured, Outcome};
use crate::bench::results::{Monitor, Phase, Plan, Settings};
use crate::bench::row::Row;

fn manifest() -> Manifest {
    Manifest::new(
        1_800_000_000,
        Plan {
            metal: "host".into(),
            emulated: false,
            levels: vec![1],
            rows: vec![Row::Cpuid],
            boots: 3,
            exposures: vec!["auto".into()],
            monitors: vec![Monitor {
                name: "nestling".into(),
                command: None,
            }],
            seed: 7,
            settings: Settings::default(),
        },
    )
}

fn boot(number: usize) -> Boot {
    let configuration = Configuration {
        exposure: "auto".into(),
        monitor: "nestling".into(),
    };
    let outcome = Outcome::Measured(Measured {
        clock: Clock::Tsc { khz: 2_000_000 },
        timer_cost: 20,
        work: 1,
        samples: vec![1000, 1001],
        operations: 2,
        counts: BTreeMap::from([(1, BTreeMap::from([("exits".into(), 2)]))]),
        baseline: BTreeMap::new(),
    });
    let phase = |pass, outcome| Phase {
        row: Row::Cpuid,
        pass,
        outcome,
    };
    let failed = Outcome::Failed("no /dev/cpu/0/msr".into());
    let level = Level {
        level: 1,
        environment: Environment::default(),
        fault: None,
        phases: vec![phase(0, outcome), phase(1, failed)],
    };
    Boot::new(number, configuration, 1_800_000_100, vec![level])
}

fn folder() -> (tempfile::TempDir, Folder) {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::create(root.path().join("run"), &manifest()).unwrap();
    (root, folder)
}

#[test]
fn what_is_kept_is_read_again() {
    let (_root, folder) = folder();
    folder.keep(&boot(2)).unwrap();
    folder.keep(&boot(0)).unwrap();
    let results = Results::read(&folder.path).unwrap();
    assert_eq!(results.manifest, manifest());
    assert_eq!(results.boots, [boot(0), boot(2)]);
    assert_eq!((results.missing(), results.damaged), (vec![1], vec![]));
    assert!(boot(0).measured(Row::Cpuid, 1, 0).is_some());
    assert!(boot(0).measured(Row::Cpuid, 1, 1).is_none());
    assert!(boot(0).phase(Row::Cpuid, 1, 1).is_some());
    assert!(boot(0).phase(Row::Cpuid, 2, 0).is_none());
}

#[test]
fn boots_are_counted_by_their_files() {
    let (_root, folder) = folder();
    assert_eq!(kept(&folder.path).unwrap(), BTreeSet::new());
    for number in [0, 11] {
        folder.keep(&boot(number)).unwrap();
    }
    fs::write(folder.path.join("boot-0003.json.7.partial"), "").unwrap();
    assert_eq!(kept(&folder.path).unwrap(), BTreeSet::from([0, 11]));
    let error = kept(&folder.path.join("none")).unwrap_err().to_string();
    assert!(error.contains("none"), "{error}");
}

#[test]
fn nothing_is_overwritten() {
    let (_root, folder) = folder();
    folder.keep(&boot(0)).unwrap();
    assert!(matches!(folder.keep(&boot(0)), Err(Error::Exists(_))));
    let again = Folder::create(&folder.path, &manifest());
    assert!(matches!(again, Err(Error::Exists(_))));
    // Nothing is left beside.
    assert_eq!(fs::read_dir(&folder.path).unwrap().count(), 2);
}

#[test]
fn a_file_that_was_cut_off_is_named_and_the_others_are_used() {
    let (_root, folder) = folder();
    for number in 0..3 {
        folder.keep(&boot(number)).unwrap();
    }
    let whole = fs::read(folder.path.join("boot-0001.json")).unwrap();
    for length in [0, 1, 20, whole.len() / 2, whole.len() - 3] {
        fs::write(folder.path.join("boot-0001.json"), &whole[..length]).unwrap();
        let results = Results::read(&folder.path).unwrap();
        assert_eq!(results.boots, [boot(0), boot(2)]);
        assert_eq!(results.damaged.len(), 1);
        assert_eq!(results.damaged[0].file, "boot-0001.json");
        let reason = format!("it ends too early, after {length} bytes");
        assert_eq!(results.damaged[0].reason, reason);
        assert_eq!(results.missing(), [1]);
    }
}

#[test]
fn a_damaged_boot_is_set_aside_and_measured_again() {
    let (_root, folder) = folder();
    for _ in 0..2 {
        fs::write(folder.path.join("boot-0001.json"), "{").unwrap();
        let damaged = Results::read(&folder.path).unwrap().damaged;
        folder.set_aside(&damaged[0]).unwrap();
    }
    folder.keep(&boot(1)).unwrap();
    let results = Results::read(&folder.path).unwrap();
    assert_eq!((results.boots, results.damaged), (vec![boot(1)], vec![]));
    assert!(folder.path.join("boot-0001.json.damaged-0").exists());
    assert!(folder.path.join("boot-0001.json.damaged-1").exists());
}

#[test]
fn what_does_not_belong_is_named() {
    let (_root, folder) = folder();
    folder.keep(&boot(0)).unwrap();
    let path = |name: &str| folder.path.join(name);
    fs::copy(path("boot-0000.json"), path("boot-0001.json")).unwrap();
    fs::write(path("boot-0002.json.77.partial"), "{").unwrap();
    folder.keep(&boot(9)).unwrap();
    fs::write(path("report.json"), "{}").unwrap();
    let results = Results::read(&folder.path).unwrap();
    assert_eq!(results.boots, [boot(0)]);
    let named: Vec<&str> = results.damaged.iter().map(|d| d.file.as_str()).collect();
    assert_eq!(
        named,
        [
            "boot-0001.json",
            "boot-0002.json.77.partial",
            "boot-0009.json"
        ]
    );
}

#[test]
fn errors_say_what_to_do() {
    let root = tempfile::tempdir().unwrap();
    let error = |path: &Path| Results::read(path).unwrap_err().to_string();
    let absent = root.path().join("absent");
    assert!(
        error(&absent).contains("No such file"),
        "{}",
        error(&absent)
    );
    assert!(error(root.path()).contains("nestling bench run"));
    let manifest = root.path().join("manifest.json");
    fs::write(
        &manifest,
        r#"{"version": 2, "nestling": "9.0.0", "layout": []}"#,
    )
    .unwrap();
    assert_eq!(
        error(root.path()),
        format!(
            "{} has version 2 of the format, and this nestling reads 1: \
             use the nestling that wrote it, 9.0.0",
            manifest.display()
        )
    );
    fs::write(&manifest, r#"{"version": 1"#).unwrap();
    assert!(error(root.path()).ends_with("is damaged: it ends too early, after 13 bytes"));
}

#[test]
fn a_boot_of_another_version_is_an_error() {
    let (_root, folder) = folder();
    fs::write(folder.path.join("boot-0000.json"), r#"{"version": 3}"#).unwrap();
    let error = Results::read(&folder.path).unwrap_err();
    assert!(matches!(error, Error::Version { found: 3, .. }));
}

#[test]
fn a_row_that_nobody_knows_is_named() {
    let (_root, folder) = folder();
    folder.keep(&boot(0)).unwrap();
    let path = folder.path.join("boot-0000.json");
    let text = fs::read_to_string(&path)
        .unwrap()
        .replace("\"cpuid\"", "\"cpu-id\"");
    fs::write(&path, text).unwrap();
    let damaged = Results::read(&folder.path).unwrap().damaged;
    assert!(
        damaged[0].reason.contains("no row is called `cpu-id`"),
        "{damaged:?}"
    );
}
