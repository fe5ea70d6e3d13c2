//! The image as a bootable ISO: for an emulator that boots from nothing else, and
//! for a bare machine, from a disc or a USB stick.
//!
//! ISOLINUX loads the kernel and the initramfs; xorriso writes the file system
//! and the partition table that makes the same bytes boot from a stick. Times and
//! identifiers are fixed, so that the same image makes the same ISO.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::cache::Hasher;
use super::programs;

/// Changes whenever the same contents make another ISO than before.
const FORMAT: &str = "nestling iso 1";
/// The time in the ISO, for want of a true one: 1 January 2000, in seconds.
const EPOCH: &str = "946684800";
/// The same as xorriso writes a modification date, which is the ISO's identifier.
const DATE: &str = "2000010100000000";

/// The files of ISOLINUX, and the packages that have them in Debian.
const PARTS: &[(&str, &str)] = &[
    ("/usr/lib/ISOLINUX/isolinux.bin", "isolinux"),
    ("/usr/lib/ISOLINUX/isohdpfx.bin", "isolinux"),
    (
        "/usr/lib/syslinux/modules/bios/ldlinux.c32",
        "syslinux-common",
    ),
];

/// Why no ISO was made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A part of the host's is missing.
    #[error("no {file}, which an ISO is made with: apt-get install {package}")]
    Missing {
        /// The file or program.
        file: &'static str,
        /// Its Debian package.
        package: &'static str,
    },
    /// A file failed.
    #[error("cannot write {path:?}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// ISOLINUX takes one line.
    #[error("the ISO's command line holds a line break")]
    CommandLine,
    /// The program failed.
    #[error("xorriso cannot write the ISO: {0}")]
    Xorriso(String),
}

/// What goes onto the ISO.
#[derive(Debug, Clone, Copy)]
pub struct Layout<'a> {
    /// The bzImage.
    pub kernel: &'a Path,
    /// The initramfs.
    pub initramfs: &'a Path,
    /// The kernel's command line.
    pub command_line: &'a str,
}

impl Layout<'_> {
    /// A digest over all contents, given the initramfs's, which holds the kernel.
    pub fn digest(&self, initramfs: &str) -> String {
        let mut hasher = Hasher::new();
        // A hasher takes all that is written.
        let _ = write!(hasher, "{FORMAT}\n{initramfs}\n{}\n", self.command_line);
        hasher.finish()
    }
}

/// What is missing here to make an ISO: files or programs, with their packages.
pub fn missing() -> Vec<(&'static str, &'static str)> {
    let mut missing: Vec<_> = PARTS
        .iter()
        .filter(|(file, _)| !Path::new(file).is_file())
        .copied()
        .collect();
    if programs::find("xorriso").is_none() {
        missing.push(("xorriso", "xorriso"));
    }
    missing
}

/// Writes a bootable ISO to `path`.
///
/// # Errors
/// [`Error::Missing`] names the package to install.
pub fn write(layout: &Layout<'_>, path: &Path) -> Result<(), Error> {
    if let Some(&(file, package)) = missing().first() {
        return Err(Error::Missing { file, package });
    }
    if layout.command_line.contains(['\n', '\r']) {
        return Err(Error::CommandLine);
    }
    let staging = path.with_extension("staging");
    let written = stage(layout, &staging).and_then(|()| xorriso(&staging, path));
    // A directory left behind wastes room and does no harm.
    let _ = fs::remove_dir_all(&staging);
    written
}

/// Lays the ISO's files out; the large ones by links, which xorriso follows.
fn stage(layout: &Layout<'_>, staging: &Path) -> Result<(), Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Write { path, source }
    };
    if staging.exists() {
        fs::remove_dir_all(staging).map_err(failed(staging))?;
    }
    let directory = staging.join("isolinux");
    fs::create_dir_all(&directory).map_err(failed(&directory))?;
    // xorriso patches the loader in its place, so it is copied.
    for (part, _) in PARTS {
        let part = Path::new(part);
        let target = directory.join(part.file_name().unwrap_or(part.as_os_str()));
        fs::copy(part, &target).map_err(failed(&target))?;
    }
    for (source, name) in [(layout.kernel, "kernel"), (layout.initramfs, "initrd")] {
        let target = staging.join(name);
        let source = std::path::absolute(source).map_err(failed(source))?;
        symlink(source, &target).map_err(failed(&target))?;
    }
    let configuration = directory.join("isolinux.cfg");
    let text = format!(
        "DEFAULT nestling\nPROMPT 0\nTIMEOUT 0\n\
         LABEL nestling\n KERNEL /kernel\n INITRD /initrd\n APPEND {}\n",
        layout.command_line
    );
    fs::write(&configuration, text).map_err(failed(&configuration))
}

fn xorriso(staging: &Path, path: &Path) -> Result<(), Error> {
    let output = Command::new("xorriso")
        .env("SOURCE_DATE_EPOCH", EPOCH)
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .args([
            "-as",
            "mkisofs",
            "-quiet",
            "-follow-links",
            "-uid",
            "0",
            "-gid",
            "0",
        ])
        .args(["-volid", "NESTLING", "-output"])
        .arg(path)
        .arg("-isohybrid-mbr")
        .arg(staging.join("isolinux/isohdpfx.bin"))
        .args(["-eltorito-boot", "isolinux/isolinux.bin", "-no-emul-boot"])
        .args(["-eltorito-catalog", "isolinux/boot.cat"])
        .args(["-boot-load-size", "4", "-boot-info-table"])
        .arg(format!("--modification-date={DATE}"))
        .args(["--set_all_file_dates", DATE])
        .arg(staging)
        .output()
        .map_err(|error| Error::Xorriso(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said
        .lines()
        .rev()
        .find(|line| line.contains("FAILURE"))
        .unwrap_or(&said);
    Err(Error::Xorriso(said.trim().to_owned()))
}
