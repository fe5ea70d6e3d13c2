//! KVM's counts of a machine of another process, by debugfs: a folder for each
//! machine, `kvm/<thread>-<descriptor>`, with a file for each counter, named as in the
//! statistics descriptor and added up over the vCPUs; and a folder for each vCPU.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Counts;

/// Where KVM's part of debugfs is.
const ROOT: &str = "/sys/kernel/debug/kvm";
/// A file's permission to be written: a counter can be cleared, a value of the moment
/// can't.
const WRITABLE: u32 = 0o200;
/// How the names of histograms end, of which debugfs shows only the first number.
const HISTOGRAM: &str = "_hist";
const VCPU: &str = "vcpu";

/// Why a machine's counts can't be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No debugfs to be found, for want of a mount or of a right.
    #[error(
        "no counts of a machine under another monitor: {path}: {source}; run as root, with \
         debugfs mounted (`mount -t debugfs debugfs /sys/kernel/debug`)"
    )]
    Access {
        /// What was tried.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// KVM knows no machine of the process.
    #[error("no counts of a machine under another monitor: process {0} has no machine of KVM's")]
    NoMachine(u32),
}

/// A machine's folder. It disappears with the machine.
#[derive(Debug, PartialEq, Eq)]
pub struct Vm(PathBuf);

impl Vm {
    /// The machine of the process `pid`, of one of its threads, or of a process in the
    /// group that it leads.
    ///
    /// # Errors
    /// [`Error`] says why there is none.
    pub fn of(pid: u32) -> Result<Self, Error> {
        Self::find(Path::new(ROOT), |thread| belongs(thread, pid))?.ok_or(Error::NoMachine(pid))
    }

    fn find(root: &Path, is_its: impl Fn(u32) -> bool) -> Result<Option<Self>, Error> {
        let failed = |source| Error::Access {
            path: root.to_owned(),
            source,
        };
        for entry in fs::read_dir(root).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let thread = name.to_str().and_then(|name| name.split_once('-'));
            let thread = thread.and_then(|(thread, _)| thread.parse().ok());
            if thread.is_some_and(&is_its) {
                return Ok(Some(Self(entry.path())));
            }
        }
        Ok(None)
    }

    /// All counters, of the machine and of its vCPUs added up.
    ///
    /// # Errors
    /// What the system says, which is that the folder isn't there if the machine has
    /// ended.
    pub fn read(&self) -> io::Result<Counts> {
        let mut counts = Counts::new();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let counter = metadata.is_file() && metadata.permissions().mode() & WRITABLE != 0;
            if !counter || name.ends_with(HISTOGRAM) {
                continue;
            }
            // Some other file than a counter, should there be one, is left out.
            if let Ok(count) = fs::read_to_string(entry.path())?.trim_end().parse() {
                counts.insert(name, count);
            }
        }
        Ok(counts)
    }

    /// The threads of the vCPUs; none unless each has run.
    #[must_use]
    pub fn threads(&self) -> Option<Vec<i32>> {
        let vcpus = fs::read_dir(&self.0).ok()?.flatten().filter(|entry| {
            let name = entry.file_name();
            name.to_str().is_some_and(|name| name.starts_with(VCPU))
        });
        let thread = |entry: fs::DirEntry| {
            let text = fs::read_to_string(entry.path().join("pid")).ok()?;
            text.trim_end().parse().ok().filter(|thread| *thread > 0)
        };
        let threads: Option<Vec<i32>> = vcpus.map(thread).collect();
        threads.filter(|threads| !threads.is_empty())
    }
}

/// Whether a thread is one of the process `pid`, or of the group that it leads.
fn belongs(thread: u32, pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{thread}/status"));
    status.is_ok_and(|status| names(&status, pid))
}

/// Whether a thread's status names `pid` as its process, or as its process group.
fn names(status: &str, pid: u32) -> bool {
    status.lines().any(|line| {
        let value = line
            .strip_prefix("Tgid:")
            .or_else(|| line.strip_prefix("NSpgid:"));
        let first = value.and_then(|value| value.split_whitespace().next());
        first.and_then(|first| first.parse().ok()) == Some(pid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &Path, mode: u32, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn counters_are_read_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("12-9");
        for (name, mode, text) in [
            ("exits", 0o644, "1034\n"),
            ("nested_run", 0o644, "7\n"),
            ("guest_mode", 0o444, "1\n"),
            ("halt_wait_hist", 0o644, "5\n"),
            ("other", 0o644, "a table\n1 2 3\n"),
            ("vcpu0/pid", 0o444, "14\n"),
            ("vcpu1/pid", 0o444, "0\n"),
        ] {
            file(&folder.join(name), mode, text);
        }
        file(&root.path().join("exits"), 0o644, "5000\n");
        let find = |thread| Vm::find(root.path(), |found| found == thread).unwrap();
        assert_eq!((find(11), find(9)), (None, None));
        let vm = find(12).unwrap();
        let counts = [("exits".to_owned(), 1034), ("nested_run".to_owned(), 7)];
        assert_eq!(vm.read().unwrap(), Counts::from(counts));
        assert_eq!(vm.threads(), None);
        file(&folder.join("vcpu1/pid"), 0o444, "15\n");
        let mut threads = vm.threads().unwrap();
        threads.sort_unstable();
        assert_eq!(threads, [14, 15]);
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(vm.read().unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(vm.threads(), None);
    }

    #[test]
    fn what_cannot_be_read_is_told_with_the_remedy() {
        let absent = Path::new("/nonexistent/kvm");
        let error = Vm::find(absent, |_| true).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/kvm: No such file"), "{error}");
        assert!(error.contains("mount -t debugfs"), "{error}");
    }

    #[test]
    fn a_thread_belongs_to_its_process_and_to_its_group() {
        let status = "Name:\tqemu\nTgid:\t12\nPid:\t14\nPPid:\t3\nNSpgid:\t10\t4\n";
        for (pid, belongs) in [(12, true), (10, true), (14, false), (3, false), (4, false)] {
            assert_eq!(names(status, pid), belongs, "{pid}");
        }
        let own = std::process::id();
        assert!(belongs(own, own) && !belongs(own, u32::MAX));
    }
}
