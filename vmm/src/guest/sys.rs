//! The system calls that an init needs and the standard library lacks.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::time::Duration;

use crate::nest::process;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn c_string(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// Mounts a file system without a device on `target` (mount(2)).
pub(crate) fn mount(kind: &str, target: &str, flags: libc::c_ulong, data: &str) -> io::Result<()> {
    let (kind, target, data) = (c_string(kind)?, c_string(target)?, c_string(data)?);
    // SAFETY: every pointer is to a NUL-terminated string that outlives the call.
    check(unsafe {
        libc::mount(
            kind.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            data.as_ptr().cast(),
        )
    })
    .map(drop)
}

/// Hands a module's image to the kernel (init_module(2)).
pub(crate) fn init_module(image: &[u8], parameters: &str) -> io::Result<()> {
    let parameters = c_string(parameters)?;
    // SAFETY: the kernel copies `image.len()` bytes and the string during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_init_module,
            image.as_ptr(),
            image.len(),
            parameters.as_ptr(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Sets the host name (sethostname(2)).
pub(crate) fn set_host_name(name: &str) -> io::Result<()> {
    // SAFETY: the kernel reads `name.len()` bytes.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// What the kernel is told at the end.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reboot {
    /// Power off by ACPI.
    PowerOff,
    /// Reset the machine.
    Reset,
}

/// Ends the system (reboot(2)); returns only if the kernel refuses.
pub(crate) fn reboot(how: Reboot) -> io::Error {
    let command = match how {
        Reboot::PowerOff => libc::RB_POWER_OFF,
        Reboot::Reset => libc::RB_AUTOBOOT,
    };
    // SAFETY: both calls take no pointers.
    unsafe {
        libc::sync();
        libc::reboot(command);
    }
    io::Error::last_os_error()
}

/// A child made by [`fork`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pid(libc::pid_t);

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// It exited with this code.
    Exited(i32),
    /// A signal ended it.
    Killed(i32),
}

/// Runs `work` in a new process, which exits with the code it returns. The
/// caller must be its process's only thread.
pub(crate) fn fork(work: impl FnOnce() -> i32) -> io::Result<Pid> {
    // SAFETY: with one thread there is no lock that another could hold across
    // the fork, so the child may run any code.
    match check(unsafe { libc::fork() })? {
        0 => {
            let code = work();
            // SAFETY: ends this process; the parent's exit handlers aren't its own.
            unsafe { libc::_exit(code) }
        }
        pid => Ok(Pid(pid)),
    }
}

/// As [`fork`], but into new namespaces (clone(2) with CLONE_NEW flags), and with other
/// threads about: then `work` may do no more than make system calls.
pub(crate) fn fork_into(namespaces: libc::c_int, work: impl FnOnce() -> i32) -> io::Result<Pid> {
    let flags = libc::c_long::from(namespaces | libc::SIGCHLD);
    // SAFETY: no stack is given, so the child goes on with a copy of this one, as after
    // fork(2).
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match check(libc::pid_t::try_from(pid).map_err(io::Error::other)?)? {
        0 => {
            let code = work();
            // SAFETY: as in `fork`.
            unsafe { libc::_exit(code) }
        }
        pid => Ok(Pid(pid)),
    }
}

/// A program's arguments as the kernel takes them.
pub(crate) struct Arguments {
    /// Each of the texts, and a null pointer.
    pointers: Vec<*const libc::c_char>,
    _texts: Vec<CString>,
}

impl Arguments {
    /// The first is the name by which the program is called.
    pub(crate) fn new(arguments: &[&str]) -> io::Result<Self> {
        let texts = arguments.iter().copied().map(c_string);
        let texts = texts.collect::<io::Result<Vec<_>>>()?;
        let pointers = texts.iter().map(|text| text.as_ptr());
        Ok(Self {
            pointers: pointers.chain([ptr::null()]).collect(),
            _texts: texts,
        })
    }
}

/// Starts a program with an empty environment (posix_spawn(3): vfork(2), then
/// execve(2)).
pub(crate) fn spawn(program: &str, arguments: &Arguments) -> io::Result<Pid> {
    let program = c_string(program)?;
    let mut pid = 0;
    // SAFETY: the kernel writes one pid_t; the program and the arguments are strings that
    // end in NUL, the arguments and the environment end in a null pointer, and nobody
    // writes to them; neither actions nor attributes are given.
    let error = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            ptr::null(),
            ptr::null(),
            arguments.pointers.as_ptr().cast(),
            [ptr::null_mut()].as_ptr(),
        )
    };
    match error {
        0 => Ok(Pid(pid)),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Becomes the program in an open file, with an empty environment (execveat(2));
/// returns only if that fails.
pub(crate) fn execute(program: BorrowedFd<'_>, arguments: &Arguments) -> io::Error {
    let environment = [ptr::null()];
    // SAFETY: as for `spawn`.
    unsafe {
        libc::fexecve(
            program.as_raw_fd(),
            arguments.pointers.as_ptr(),
            environment.as_ptr(),
        )
    };
    io::Error::last_os_error()
}

/// Reaps one child of this process, if one has ended.
pub(crate) fn reap() -> io::Result<Option<(Pid, Status)>> {
    wait(-1, libc::WNOHANG)
}

impl Pid {
    /// Waits for this child.
    pub(crate) fn wait(self) -> io::Result<Status> {
        loop {
            match wait(self.0, 0) {
                Ok(Some((_, status))) => return Ok(status),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A descriptor that becomes readable when it has ended.
    pub(crate) fn exit_descriptor(self) -> io::Result<OwnedFd> {
        process::descriptor(self.0)
    }

    /// Sends it a signal; one that is gone already is fine.
    pub(crate) fn signal(self, signal: libc::c_int) {
        // SAFETY: takes no pointers.
        unsafe { libc::kill(self.0, signal) };
    }
}

fn wait(pid: libc::pid_t, flags: libc::c_int) -> io::Result<Option<(Pid, Status)>> {
    let mut status = 0;
    // SAFETY: the kernel writes one int.
    let pid = check(unsafe { libc::waitpid(pid, &raw mut status, flags) })?;
    if pid == 0 {
        return Ok(None);
    }
    let status = if libc::WIFSIGNALED(status) {
        Status::Killed(libc::WTERMSIG(status))
    } else {
        Status::Exited(libc::WEXITSTATUS(status))
    };
    Ok(Some((Pid(pid), status)))
}

/// Sends a signal to every process but init (kill(2) with pid -1).
pub(crate) fn signal_all(signal: libc::c_int) {
    // SAFETY: takes no pointers.
    unsafe { libc::kill(-1, signal) };
}

/// Marks network interface `name` up (netdevice(7)).
pub(crate) fn link_up(name: &str) -> io::Result<()> {
    // SAFETY: takes no pointers; the descriptor is checked below.
    let socket =
        check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: a fresh descriptor that nothing else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let bytes = name.as_bytes();
    if bytes.len() >= request.ifr_name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    // SAFETY: SIOCGIFFLAGS writes into the ifreq passed.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) })?;
    // SAFETY: the call above set this member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    let up = libc::c_short::try_from(libc::IFF_UP).map_err(io::Error::other)?;
    request.ifr_ifru.ifru_flags = flags | up;
    // SAFETY: SIOCSIFFLAGS reads the ifreq passed.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) })
        .map(drop)
}

/// Makes a serial line pass bytes through unchanged at 115200 baud: what
/// cfmakeraw(3) sets, by the kernel's own interface (ioctl_tty(2)), since the C
/// library's differs between its versions.
pub(crate) fn make_raw(tty: &File) -> io::Result<()> {
    // SAFETY: all zeroes is a valid termios2; the kernel fills it.
    let mut settings: libc::termios2 = unsafe { mem::zeroed() };
    // SAFETY: TCGETS2 writes one termios2.
    check(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TCGETS2, &raw mut settings) })?;
    settings.c_iflag = 0;
    settings.c_oflag &= !libc::OPOST;
    settings.c_lflag = 0;
    settings.c_cflag &= !(libc::CSIZE | libc::PARENB | libc::CBAUD);
    settings.c_cflag |= libc::CS8 | libc::CREAD | libc::CLOCAL | libc::B115200;
    // SAFETY: TCSETS2 reads one termios2.
    check(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TCSETS2, &raw const settings) }).map(drop)
}

/// Waits until a terminal has sent what was written to it.
pub(crate) fn drain(tty: &File) {
    // SAFETY: the call takes a descriptor and no pointers.
    unsafe { libc::tcdrain(tty.as_raw_fd()) };
}

/// The release of the running kernel (uname(2)).
pub(crate) fn kernel_release() -> String {
    // SAFETY: all zeroes is a valid utsname; the kernel fills it.
    let mut name: libc::utsname = unsafe { mem::zeroed() };
    // SAFETY: the kernel writes one utsname, whose strings end in NUL.
    let release = unsafe {
        libc::uname(&raw mut name);
        CStr::from_ptr(name.release.as_ptr())
    };
    release.to_string_lossy().into_owned()
}

/// Time since the kernel's start, on its own clock.
pub(crate) fn uptime() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// Lets this thread run on processor `cpu` alone (sched_setaffinity(2)).
pub(crate) fn move_to(cpu: usize) -> io::Result<()> {
    // SAFETY: all zeroes is an empty set; CPU_SET checks its bound.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: as above.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the kernel reads the set during the call.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) })
        .map(drop)
}

/// XCR0, where the system has enabled XSAVE (SDM vol. 1, 13.3).
pub(crate) fn xcr0() -> Option<u64> {
    const OSXSAVE: u32 = 1 << 27;
    let enabled = std::arch::x86_64::__cpuid(1).ecx & OSXSAVE != 0;
    // SAFETY: XGETBV is there where CPUID tells that the system has enabled XSAVE.
    enabled.then(|| unsafe { std::arch::x86_64::_xgetbv(0) })
}

/// Occupies one processor for good, above every ordinary task.
pub(crate) fn spin_on(cpu: usize) -> io::Result<()> {
    move_to(cpu)?;
    let priority = libc::sched_param { sched_priority: 99 };
    // SAFETY: the kernel reads the parameters during the call.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) })?;
    loop {
        std::hint::spin_loop();
    }
}

/// Lets the program that `command` starts lead a session whose controlling
/// terminal is its standard input, as job control needs it.
pub(crate) fn take_terminal(command: &mut Command) {
    let child_side = || {
        // SAFETY: both calls are async-signal-safe and take no pointers. A console
        // that can't control a session still serves a shell without job control.
        unsafe {
            libc::setsid();
            libc::ioctl(0, libc::TIOCSCTTY, 1);
        }
        Ok(())
    };
    // SAFETY: the closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(child_side) };
}
