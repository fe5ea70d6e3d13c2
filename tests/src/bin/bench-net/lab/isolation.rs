//! Mounts of the program's own, and as much of root as that takes.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use tempfile::TempDir;

use crate::Failure;

/// Gives the process mounts of its own, and in a user namespace of its own the
/// rights to make network namespaces, unless it is root. No thread may run yet.
pub(crate) fn isolate() -> Result<(), Failure> {
    // SAFETY: these calls take nothing and can't fail.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    let mut flags = libc::CLONE_NEWNS;
    if user != 0 {
        flags |= libc::CLONE_NEWUSER;
    }
    // SAFETY: the call takes no pointers; the caller has no other threads.
    if unsafe { libc::unshare(flags) } != 0 {
        let error = io::Error::last_os_error();
        return Err(format!(
            "cannot make namespaces: {error}; run as root, or where users may make user namespaces"
        )
        .into());
    }
    if user != 0 {
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
        fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    }
    // What is mounted from here on stays out of everybody else's sight.
    mount("none", Path::new("/"), "", libc::MS_REC | libc::MS_PRIVATE)?;
    Ok(())
}

/// A folder whose contents live in memory and end with the process.
#[derive(Debug)]
pub(super) struct Folder(TempDir);

impl Folder {
    /// Makes one among the temporary files.
    pub(super) fn new() -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("bench-net-").tempdir()?;
        mount("tmpfs", folder.path(), "tmpfs", 0)?;
        Ok(Self(folder))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Else the place that it is mounted on could not be removed.
        let _ = unmount(self.0.path());
    }
}

/// Shows the file of a namespace, or a folder, at another path as well.
pub(super) fn bind(source: &Path, target: &Path) -> io::Result<()> {
    let source = source.to_str().ok_or(io::ErrorKind::InvalidFilename)?;
    mount(source, target, "", libc::MS_BIND)
}

fn mount(source: &str, target: &Path, kind: &str, flags: libc::c_ulong) -> io::Result<()> {
    let source = CString::new(source)?;
    let target = CString::new(target.as_os_str().as_bytes())?;
    let kind = CString::new(kind)?;
    // SAFETY: all strings end with a zero byte and outlive the call; no data is passed.
    let result = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            ptr::null(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Takes a mount away, as soon as nobody uses it.
pub(super) fn unmount(target: &Path) -> io::Result<()> {
    let target = CString::new(target.as_os_str().as_bytes())?;
    // SAFETY: the string ends with a zero byte and outlives the call.
    if unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
