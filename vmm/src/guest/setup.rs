//! Making the system usable: mounts, modules, KVM, names, network links.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::facts::Processor;
use super::modules::Tree;
use super::report::say;
use super::sys;
use crate::order::{self, Kvm, Order};

/// Where set-up leaves what the level is to report.
pub(super) const NOTES: &str = "/run/nestling/notes";

/// Mounts the kernel's file systems. What can't be mounted is said and missed
/// where it is needed.
pub(super) fn mounts() {
    let safe = libc::MS_NOSUID | libc::MS_NOEXEC | libc::MS_NODEV;
    for (kind, target, flags, data) in [
        ("devtmpfs", "/dev", libc::MS_NOSUID, "mode=0755"),
        ("proc", "/proc", safe, ""),
        ("sysfs", "/sys", safe, ""),
        // Holds the next level's initramfs and disks, so nearly all memory.
        (
            "tmpfs",
            "/run",
            libc::MS_NOSUID | libc::MS_NODEV,
            "mode=0755,size=90%",
        ),
        (
            "tmpfs",
            "/tmp",
            libc::MS_NOSUID | libc::MS_NODEV,
            "mode=1777",
        ),
        (
            "devpts",
            "/dev/pts",
            libc::MS_NOSUID | libc::MS_NOEXEC,
            "mode=0620,ptmxmode=0666",
        ),
    ] {
        let mounted =
            fs::create_dir_all(target).and_then(|()| sys::mount(kind, target, flags, data));
        match mounted {
            // The kernel may have mounted devtmpfs by itself.
            Err(error) if error.raw_os_error() != Some(libc::EBUSY) => {
                say(&format!("cannot mount {kind} on {target}: {error}"));
            }
            _ => {}
        }
    }
}

/// Mounts the kernel's tracing, where it isn't yet. What can't be traced then
/// says so itself.
pub(super) fn mount_tracing() {
    mount_for_a_look("tracefs", "/sys/kernel/tracing");
}

/// Mounts debugfs, where KVM shows what machines under any monitor count, unless it is
/// there already. What can't be counted then says so itself.
pub(super) fn mount_debugfs() {
    mount_for_a_look("debugfs", "/sys/kernel/debug");
}

fn mount_for_a_look(kind: &str, target: &str) {
    let safe = libc::MS_NOSUID | libc::MS_NOEXEC | libc::MS_NODEV;
    let _ = sys::mount(kind, target, safe, "");
}

/// Reads the order's file, if it isn't too long to be one.
pub(super) fn read_order() -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(order::PATH)?
        .take(order::MAX_SIZE)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Everything that may fail without ending the level. The exit code is zero: what
/// failed is noted, and what then can't work will say so itself.
pub(super) fn run(order: &Order) -> i32 {
    let mut notes = Vec::new();
    if let Err(error) = sys::set_host_name(&format!("nestling-l{}", order.level)) {
        notes.push(format!("cannot set the host name: {error}"));
    }
    let tree = Tree::open(&Path::new("/lib/modules").join(sys::kernel_release()));
    for module in &order.modules {
        if let Err(error) = tree.load(module, "") {
            notes.push(error.to_string());
        }
    }
    if order.kvm.is_some() || order.measures() {
        prefer_huge_pages();
    }
    if let Some(kvm) = &order.kvm {
        load_kvm(&tree, kvm, &mut notes);
    }
    links_up(&mut notes);
    let written =
        fs::create_dir_all("/run/nestling").and_then(|()| fs::write(NOTES, notes.join("\n")));
    if let Err(error) = written {
        say(&format!("cannot write {NOTES}: {error}"));
    }
    0
}

/// Lets the monitor, and what is measured, have transparent huge pages where they ask
/// for them, also in little memory, where Linux turns them off by itself: a guest's first
/// touch of a page costs an exit, and below it that costs many.
fn prefer_huge_pages() {
    let setting = Path::new("/sys/kernel/mm/transparent_hugepage/enabled");
    let off = fs::read_to_string(setting).is_ok_and(|text| text.contains("[never]"));
    if off {
        // Without them the next level is slower, and works.
        let _ = fs::write(setting, "madvise");
    }
}

fn load_kvm(tree: &Tree, kvm: &Kvm, notes: &mut Vec<String>) {
    let (module, parameters) = match Processor::current().exposure() {
        "vmx" => ("kvm_intel", &kvm.intel),
        "svm" => ("kvm_amd", &kvm.amd),
        _ => return,
    };
    let parameters = format!("nested=1 {parameters}");
    for (module, parameters) in [("kvm", kvm.common.trim()), (module, parameters.trim_end())] {
        if let Err(error) = tree.load(module, parameters) {
            notes.push(error.to_string());
        }
    }
}

/// Brings every network link up.
fn links_up(notes: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir("/sys/class/net") else {
        return;
    };
    for name in entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
    {
        if let Err(error) = sys::link_up(&name) {
            notes.push(format!("cannot bring {name} up: {error}"));
        }
    }
}
