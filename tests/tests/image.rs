//! `nestling image build`: the same input gives the same bytes, also without a network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nestling_tests::{binary, or_skip, skip};
use serde_json::Value;

/// The kernel that the cache of these tests' user holds, and its modules.
struct Kernel {
    file: PathBuf,
}

/// The kernel that a nest would boot, as a file.
fn kernel(folder: &Path) -> Kernel {
    let file = folder.join("vmlinuz");
    binary::command()
        .timeout(Duration::from_secs(600))
        .args(["image", "build", "--kernel-output"])
        .arg(&file)
        .assert()
        .success();
    Kernel { file }
}

/// Builds into a cache of its own, from `kernel` and this test's own program.
fn build(kernel: &Kernel, folder: &Path, name: &str) -> (Vec<u8>, Value) {
    let output = folder.join(format!("{name}.img"));
    let modules = folder.join("modules");
    fs::create_dir_all(modules.join("kernel")).unwrap();
    let built = binary::command()
        .args(["--format", "json", "image", "build", "--kernel"])
        .arg(&kernel.file)
        .arg("--modules")
        .arg(&modules)
        .arg("--program")
        .arg("/bin/true")
        .arg("--cache")
        .arg(folder.join(format!("{name}.cache")))
        .arg("--output")
        .arg(&output)
        .output()
        .unwrap();
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    (
        fs::read(&output).unwrap(),
        serde_json::from_slice(&built.stdout).unwrap(),
    )
}

#[test]
fn two_builds_from_the_same_input_are_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = kernel(folder.path());
    let (first, described) = build(&kernel, folder.path(), "first");
    let (second, again) = build(&kernel, folder.path(), "second");
    assert!(first == second, "the images differ");
    assert_eq!(described["digest"], again["digest"]);
    assert_eq!(described["version"], 1);
    assert!(first.starts_with(b"070701"), "no newc archive");
}

#[test]
fn an_added_file_changes_the_image() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = kernel(folder.path());
    let (_, described) = build(&kernel, folder.path(), "plain");
    let extra = folder.path().join("extra");
    fs::write(&extra, "more").unwrap();
    let output = binary::command()
        .args(["--format", "json", "image", "build", "--kernel"])
        .arg(&kernel.file)
        .arg("--modules")
        .arg(folder.path().join("modules"))
        .args(["--program", "/bin/true", "--add"])
        .arg(&extra)
        .arg("--cache")
        .arg(folder.path().join("cache"))
        .output()
        .unwrap();
    let other: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_ne!(other["digest"], described["digest"]);
}

#[test]
fn what_is_cached_needs_no_network() {
    or_skip!(skip::needs("unshare"));
    let folder = tempfile::tempdir().unwrap();
    // Fills the cache, if nothing has yet.
    let _ = kernel(folder.path());
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net"])
        .arg(binary::path())
        .args(["--format", "json", "image", "build"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if said.starts_with("unshare:") {
        skip::skip(&format!("no namespaces here: {}", said.trim()));
        return;
    }
    assert!(output.status.success(), "{said}");
    let described: Value = serde_json::from_slice(&output.stdout).unwrap();
    let image = described["initramfs"].as_str().unwrap();
    assert!(fs::metadata(image).unwrap().len() > 1 << 20);
}
