//! Namespaces of the kernel, entered by threads.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_int, c_ulong};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::thread;

use super::{Lab, output};

/// A network namespace, which lives as long as this or anybody in it.
pub struct Namespace(File);

impl Namespace {
    /// A new one.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new() -> io::Result<Self> {
        let open = || {
            leave_network()?;
            File::open("/proc/thread-self/ns/net")
        };
        on_a_thread(open).map(Self)
    }

    /// Runs `task` in it, with all threads and processes that `task` starts.
    ///
    /// # Panics
    /// If `task` does.
    pub fn enter<T: Send>(&self, task: impl FnOnce() -> T + Send) -> T {
        on_a_thread(|| {
            // SAFETY: setns changes only the calling thread, which ends with the task.
            let entered = unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) };
            result(entered).expect("a namespace of one's own can be entered");
            task()
        })
    }

    /// Takes an interface over from the guest.
    pub fn adopt(&self, lab: &Lab, interface: &str) {
        let path = self.path();
        lab.guest
            .enter(|| output("ip", &["link", "set", interface, "netns", &path]));
        self.enter(|| output("ip", &["link", "set", interface, "up"]));
    }

    /// A path by which other processes find it.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Runs `task` on a thread that ends with it and has the caller's name.
fn on_a_thread<T: Send>(task: impl FnOnce() -> T + Send) -> T {
    let name = thread::current().name().unwrap_or("test").to_owned();
    let ended = thread::scope(|scope| {
        let thread = thread::Builder::new().name(name).spawn_scoped(scope, task);
        thread.expect("a thread").join()
    });
    ended.unwrap_or_else(|payload| std::panic::resume_unwind(payload))
}

/// Moves the calling thread to a network namespace of its own.
pub(super) fn leave_network() -> io::Result<()> {
    // SAFETY: unshare changes only the calling thread.
    result(unsafe { libc::unshare(libc::CLONE_NEWNET) })
}

/// Moves the calling thread to a mount namespace of its own, where the folders
/// in which DHCP clients keep their state are empty.
pub(super) fn leave_mounts() -> io::Result<()> {
    // SAFETY: as above.
    result(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    mount(None, Path::new("/"), None, libc::MS_REC | libc::MS_PRIVATE)?;
    let names = fs::canonicalize(super::RESOLV_CONF)?;
    for folder in ["/run", "/var/lib"] {
        mount(None, Path::new(folder), Some(c"tmpfs"), 0)?;
        fs::create_dir(Path::new(folder).join("dhcpcd"))?;
    }
    // Where the file of resolvers is in one of them, it is missing now.
    if !names.exists() {
        fs::create_dir_all(names.parent().unwrap_or(Path::new("/")))?;
        fs::write(names, "")?;
    }
    Ok(())
}

/// Has the file `shown` stand at `at`, in the calling thread's namespace.
pub(super) fn mount_over(shown: &Path, at: &Path) -> io::Result<()> {
    mount(Some(shown), at, None, libc::MS_BIND)
}

fn mount(from: Option<&Path>, at: &Path, kind: Option<&CStr>, flags: c_ulong) -> io::Result<()> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes());
    let at = text(at)?;
    let from = text(from.unwrap_or(Path::new("none")))?;
    // SAFETY: strings that end, and no data.
    let mounted = unsafe {
        libc::mount(
            from.as_ptr(),
            at.as_ptr(),
            kind.map_or(ptr::null(), CStr::as_ptr),
            flags,
            ptr::null(),
        )
    };
    result(mounted)
}

/// The user whose rights the process has.
pub(super) fn user() -> libc::uid_t {
    // SAFETY: it can't fail.
    unsafe { libc::geteuid() }
}

/// Sends a signal to a process that hasn't been waited for.
pub(super) fn signal(process: u32, signal: c_int) -> io::Result<()> {
    let process = libc::pid_t::try_from(process).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: it touches no memory.
    result(unsafe { libc::kill(process, signal) })
}

fn result(returned: c_int) -> io::Result<()> {
    if returned == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
