//! The modules an image takes along.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::archive::{self, Tree};
use crate::guest::modinfo::{self, canonical};
use crate::guest::modules::{self as resolution, Lookup};

/// What a level needs, whether it hosts, is hosted or both. One that the kernel
/// has built in, or doesn't have, is left out.
pub const DEFAULT: &[&str] = &[
    "kvm",
    "kvm_amd",
    "kvm_intel",
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio_rng",
    // For levels under other monitors: all that a microvm's devices are on.
    "virtio_mmio",
    "pvpanic_pci",
    "button",
    "evdev",
    "tun",
    "bridge",
    "msr",
    "cpuid",
    // For L0 on an emulated machine: its disks.
    "ata_piix",
    "sd_mod",
];

/// Why the modules could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory or index could not be read.
    #[error("cannot read {path:?}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A module asked for by name is neither there nor built in.
    #[error("kernel {release} has no module {name}")]
    Missing {
        /// The module.
        name: String,
        /// The kernel's release.
        release: String,
    },
    /// A module's file belongs to another kernel.
    #[error("{path:?} is for kernel {found:?}, the image's kernel is {release}")]
    Foreign {
        /// The module.
        path: PathBuf,
        /// The release in its `vermagic`.
        found: String,
        /// The kernel's release.
        release: String,
    },
    /// A dependency is missing or unreadable.
    #[error(transparent)]
    Resolution(#[from] resolution::Error),
    /// The image's tree refused it.
    #[error(transparent)]
    Tree(#[from] archive::Error),
}

/// The module files of one kernel.
struct Index {
    directory: PathBuf,
    release: String,
    files: BTreeMap<String, PathBuf>,
    builtin: Vec<String>,
}

/// Adds to `tree`, below `/lib/modules/<release>`, the modules of
/// [`DEFAULT`] that are in `directory`, those in `extra`, and what they depend
/// on, uncompressed: another level's kernel would only have to unpack them again.
/// `modules.builtin` comes along for PID 1. Returns the names taken, in order.
///
/// # Errors
/// [`Error::Missing`] for one of `extra` only.
pub fn add(
    tree: &mut Tree,
    directory: &Path,
    release: &str,
    extra: &[String],
) -> Result<Vec<String>, Error> {
    let index = Index::open(directory, release)?;
    let root = Path::new("lib/modules").join(release);
    let mut taken = BTreeMap::new();
    let extra = extra.iter().map(|name| (name.as_str(), true));
    for (name, required) in DEFAULT.iter().map(|name| (*name, false)).chain(extra) {
        if required && !index.has(name) {
            let (name, release) = (name.to_owned(), release.to_owned());
            return Err(Error::Missing { name, release });
        }
        if index.has(name) {
            for module in resolution::resolve(name, &mut |name| index.look_up(name))? {
                taken.insert(module.name, module.image);
            }
        }
    }
    for (name, image) in &taken {
        let path = index
            .files
            .get(name)
            .map_or(Path::new(name), PathBuf::as_path);
        index.check_release(path, image)?;
        let below = path.strip_prefix(directory).unwrap_or(path);
        let file = below.with_file_name(format!("{name}.ko"));
        tree.insert_bytes(root.join(file), 0o644, image.as_slice())?;
    }
    let builtin = index
        .builtin
        .iter()
        .map(|line| format!("{line}\n"))
        .collect::<String>();
    tree.insert_bytes(root.join("modules.builtin"), 0o644, builtin)?;
    Ok(taken.into_keys().collect())
}

impl Index {
    fn open(directory: &Path, release: &str) -> Result<Self, Error> {
        let read = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Read { path, source }
        };
        let mut files = BTreeMap::new();
        // `build` and `source` are links to kernel sources: links are not followed.
        let mut open = vec![directory.to_owned()];
        while let Some(next) = open.pop() {
            for entry in fs::read_dir(&next).map_err(read(&next))? {
                let entry = entry.map_err(read(&next))?;
                let kind = entry.file_type().map_err(read(&entry.path()))?;
                if kind.is_dir() {
                    open.push(entry.path());
                } else if let Some(name) = entry.file_name().to_str().and_then(modinfo::name_of) {
                    files.insert(name, entry.path());
                }
            }
        }
        let builtin = directory.join("modules.builtin");
        let builtin = fs::read_to_string(&builtin).map_err(read(&builtin))?;
        Ok(Self {
            directory: directory.to_owned(),
            release: release.to_owned(),
            files,
            builtin: builtin.lines().map(str::to_owned).collect(),
        })
    }

    fn is_builtin(&self, name: &str) -> bool {
        self.builtin
            .iter()
            .filter_map(|line| Path::new(line).file_name()?.to_str())
            .any(|file| modinfo::name_of(file).as_deref() == Some(name))
    }

    fn has(&self, name: &str) -> bool {
        let name = canonical(name);
        self.files.contains_key(&name) || self.is_builtin(&name)
    }

    fn look_up(&self, name: &str) -> Result<Lookup, resolution::Error> {
        match self.files.get(name) {
            Some(path) => modinfo::read(path).map(Lookup::File).map_err(|source| {
                resolution::Error::Unreadable {
                    name: name.to_owned(),
                    source,
                }
            }),
            None if self.is_builtin(name) => Ok(Lookup::Present),
            None => Ok(Lookup::Absent),
        }
    }

    /// The kernel refuses a module whose `vermagic` begins with another release.
    fn check_release(&self, path: &Path, image: &[u8]) -> Result<(), Error> {
        const KEY: &[u8] = b"\0vermagic=";
        let value = image.windows(KEY.len()).position(|window| window == KEY);
        let Some(start) = value.map(|at| at + KEY.len()) else {
            return Ok(());
        };
        let value = image[start..]
            .split(|&byte| byte == b' ' || byte == 0)
            .next();
        let found = String::from_utf8_lossy(value.unwrap_or_default());
        if found == self.release {
            return Ok(());
        }
        let path = self.directory.join(path);
        Err(Error::Foreign {
            path,
            found: found.into_owned(),
            release: self.release.clone(),
        })
    }
}
