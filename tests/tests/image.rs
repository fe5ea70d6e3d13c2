//! `nestling image build`: the same input gives the same bytes, also without a network.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use nestling_tests::{binary, or_skip, skip};
use serde_json::Value;
use tempfile::TempDir;

/// Builds with these arguments; the answer's JSON.
fn build(arguments: &[&str]) -> Value {
    let output = binary::command()
        // The first build of all obtains the kernel.
        .timeout(Duration::from_secs(600))
        .args(["--format", "json", "image", "build"])
        .args(arguments)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The cache of this user's builds, which holds the kernel's package after one.
fn cache() -> &'static Path {
    static CACHE: OnceLock<PathBuf> = OnceLock::new();
    CACHE.get_or_init(|| {
        let image = build(&[])["initramfs"].as_str().unwrap().to_owned();
        // <cache>/images/<digest>.img
        Path::new(&image).ancestors().nth(2).unwrap().to_owned()
    })
}

/// A cache with that package and nothing else.
fn fresh() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    symlink(cache().join("packages"), folder.path().join("packages")).unwrap();
    folder
}

/// Builds in a fresh cache; the answer's JSON and the initramfs.
fn build_afresh(arguments: &[&str]) -> (Value, Vec<u8>) {
    let folder = fresh();
    let mut all = vec!["--cache", folder.path().to_str().unwrap()];
    all.extend(arguments);
    let answer = build(&all);
    let initramfs = fs::read(answer["initramfs"].as_str().unwrap()).unwrap();
    (answer, initramfs)
}

#[test]
fn two_builds_from_the_same_input_are_the_same_bytes() {
    let arguments = ["--program", "/bin/true"];
    let (answer, first) = build_afresh(&arguments);
    let (again, second) = build_afresh(&arguments);
    assert!(first == second, "the images differ");
    assert_eq!(answer["digest"], again["digest"]);
    assert_eq!(answer["version"], 1);
    assert!(first.starts_with(b"070701"), "no newc archive");
}

#[test]
fn an_added_file_changes_the_image_and_its_change_too() {
    let folder = fresh();
    let extra = folder.path().join("extra");
    let arguments = [
        "--cache",
        folder.path().to_str().unwrap(),
        "--add",
        extra.to_str().unwrap(),
    ];
    let mut digests = vec![build(&arguments[..2])["digest"].clone()];
    for text in ["one", "two", "one"] {
        fs::write(&extra, text).unwrap();
        digests.push(build(&arguments)["digest"].clone());
    }
    assert_ne!(digests[0], digests[1]);
    assert_ne!(digests[1], digests[2]);
    assert_eq!(digests[1], digests[3]);
}

#[test]
fn what_is_cached_needs_no_network() {
    or_skip!(skip::needs("unshare"));
    let folder = fresh();
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net"])
        .arg(binary::path())
        .args(["--format", "json", "image", "build", "--cache"])
        .arg(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if said.starts_with("unshare:") {
        skip::skip(&format!("no namespaces here: {}", said.trim()));
        return;
    }
    assert!(output.status.success(), "{said}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["digest"], build(&[])["digest"]);
}

#[test]
fn what_cannot_be_built_is_refused_in_one_line() {
    for (arguments, part) in [
        (["--kernel", "/nonexistent/vmlinuz"], "/nonexistent/vmlinuz"),
        (
            ["--program", "/nonexistent/program"],
            "/nonexistent/program",
        ),
        (["--add", "/nonexistent/file"], "/nonexistent/file"),
        (["--module", "no_such_module"], "no_such_module"),
    ] {
        let refusal = binary::refusal([&["image", "build"], &arguments[..]].concat());
        assert_eq!(refusal.code, 1, "{refusal:?}");
        assert!(refusal.line.contains(part), "{refusal:?}");
    }
}
