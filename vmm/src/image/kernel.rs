//! Where an image's kernel and modules come from.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::cache::{self, Cache};
use super::package;

/// Debian packages tried in this order when nothing is asked for.
const DEFAULT_PACKAGES: &str = include_str!("../../../resources/kernels.toml");

/// Why no kernel could be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read {path:?}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no bzImage.
    #[error("{path:?} is not a Linux bzImage: {reason}")]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// What is missing.
        reason: &'static str,
    },
    /// The modules are of another kernel.
    #[error(
        "no modules for kernel {release} in {path:?}: give the directory that holds its .ko files"
    )]
    WrongModules {
        /// The kernel's release.
        release: String,
        /// Where they were looked for.
        path: PathBuf,
    },
    /// The host has no kernel file.
    #[error("no readable /boot/vmlinuz-* here: name a package or a kernel file")]
    NoHostKernel,
    /// A package failed.
    #[error(transparent)]
    Package(#[from] package::Error),
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] cache::Error),
}

/// Where to take the kernel from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Source {
    /// The first of the project's list of packages that can be had.
    #[default]
    Default,
    /// A package by its name.
    Package(String),
    /// A package file.
    PackageFile(PathBuf),
    /// The host's `/boot` and `/lib/modules`.
    Host,
    /// A kernel file, and the directory with its modules.
    Files {
        /// The bzImage.
        kernel: PathBuf,
        /// `/lib/modules/<release>`, or the directory above.
        modules: Option<PathBuf>,
    },
}

impl FromStr for Source {
    type Err = std::convert::Infallible;

    /// `host`, a file name that ends in `.deb`, another path, or else the name
    /// of a package.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "host" {
            Self::Host
        } else if text.ends_with(".deb") {
            Self::PackageFile(text.into())
        } else if text.contains('/') {
            Self::Files {
                kernel: text.into(),
                modules: None,
            }
        } else {
            Self::Package(text.to_owned())
        })
    }
}

/// A kernel that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Its bzImage.
    pub image: PathBuf,
    /// Its `/lib/modules/<release>`, if it has one.
    pub modules: Option<PathBuf>,
    /// What `uname -r` will say.
    pub release: String,
    /// Where it came from, for people.
    pub origin: String,
}

/// The list of packages in the resources.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Packages {
    packages: Vec<String>,
}

/// The packages tried when nothing is asked for, best first.
pub fn default_packages() -> Vec<String> {
    toml::from_str::<Packages>(DEFAULT_PACKAGES)
        .expect("resources/kernels.toml is part of the binary and covered by a test")
        .packages
}

impl Source {
    /// Finds the kernel, fetching and unpacking into `cache` where needed.
    ///
    /// # Errors
    /// For [`Default`](Self::Default) the first package's error.
    pub fn obtain(&self, cache: &Cache) -> Result<Kernel, Error> {
        match self {
            Self::Default => {
                let mut first = None;
                for name in default_packages() {
                    match Self::Package(name).obtain(cache) {
                        Ok(kernel) => return Ok(kernel),
                        Err(error) => first = first.or(Some(error)),
                    }
                }
                Err(first.unwrap_or(Error::NoHostKernel))
            }
            Self::Package(name) => {
                let file = package::obtain(name, &cache.packages())?;
                from_package(&file, cache)
            }
            Self::PackageFile(file) => from_package(file, cache),
            Self::Host => from_host(),
            Self::Files { kernel, modules } => {
                let release = release_of(kernel)?;
                let modules = match modules {
                    Some(directory) => Some(modules_of(directory, &release)?),
                    None => None,
                };
                let origin = kernel.display().to_string();
                Ok(Kernel {
                    image: kernel.clone(),
                    modules,
                    release,
                    origin,
                })
            }
        }
    }
}

fn from_package(file: &Path, cache: &Cache) -> Result<Kernel, Error> {
    let read = |source| Error::Read {
        path: file.to_owned(),
        source,
    };
    let digest = cache::digest_of(file).map_err(read)?;
    let directory = cache.directory("kernels", &digest, |target| {
        package::unpack(file, target).map_err(Error::from)
    })?;
    let (image, release) = newest_kernel(&directory.join("boot"))?
        .ok_or_else(|| package::Error::NoKernel(file.to_owned()))?;
    let modules = directory.join("lib/modules").join(&release);
    let origin = file
        .file_name()
        .unwrap_or(file.as_os_str())
        .to_string_lossy()
        .into_owned();
    Ok(Kernel {
        image,
        modules: modules.is_dir().then_some(modules),
        release,
        origin,
    })
}

/// The running kernel's files if they are there, else the newest.
fn from_host() -> Result<Kernel, Error> {
    let boot = Path::new("/boot");
    let running = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let running = boot.join(format!("vmlinuz-{}", running.trim()));
    let (image, release) = match release_of(&running) {
        Ok(release) => (running, release),
        Err(_) => newest_kernel(boot)?.ok_or(Error::NoHostKernel)?,
    };
    let modules = Path::new("/lib/modules").join(&release);
    let origin = image.display().to_string();
    Ok(Kernel {
        image,
        modules: modules.is_dir().then_some(modules),
        release,
        origin,
    })
}

/// The kernel of the highest version among a directory's `vmlinuz-*`.
fn newest_kernel(boot: &Path) -> Result<Option<(PathBuf, String)>, Error> {
    let entries = match fs::read_dir(boot) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(Error::Read {
                path: boot.to_owned(),
                source,
            });
        }
    };
    let mut kernels: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"vmlinuz-"))
        })
        .filter_map(|path| release_of(&path).ok().map(|release| (path, release)))
        .collect();
    kernels.sort_by_key(|(_, release)| version_key(release));
    Ok(kernels.pop())
}

/// The numbers in a release, so that 6.12 is above 6.1.
fn version_key(release: &str) -> Vec<u64> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

/// The `<release>` directory for `directory`, which may be the one above it.
fn modules_of(directory: &Path, release: &str) -> Result<PathBuf, Error> {
    let below = directory.join(release);
    if below.is_dir() {
        return Ok(below);
    }
    let canonical = fs::canonicalize(directory).map_err(|source| Error::Read {
        path: directory.to_owned(),
        source,
    })?;
    if canonical.file_name().is_some_and(|name| name == release) {
        Ok(canonical)
    } else {
        Err(Error::WrongModules {
            release: release.to_owned(),
            path: directory.to_owned(),
        })
    }
}

/// Whether a kernel can be called that: one printable word, and no way up.
fn is_release(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'/')
}

/// The release a bzImage names in its setup header: `kernel_version` at 0x20e,
/// an offset less 0x200 to a string that begins with it
/// (`Documentation/arch/x86/boot.rst`).
pub fn release_of(kernel: &Path) -> Result<String, Error> {
    const MAGIC_AT: usize = 0x202;
    const VERSION_AT: usize = 0x20e;
    let read = |source| Error::Read {
        path: kernel.to_owned(),
        source,
    };
    let not = |reason| Error::NotAKernel {
        path: kernel.to_owned(),
        reason,
    };
    let mut file = File::open(kernel).map_err(read)?;
    let mut start = Vec::new();
    file.by_ref()
        .take(0x210)
        .read_to_end(&mut start)
        .map_err(read)?;
    if start.get(MAGIC_AT..MAGIC_AT + 4) != Some(b"HdrS") {
        return Err(not("it has no setup header"));
    }
    let pointer = start
        .get(VERSION_AT..VERSION_AT + 2)
        .ok_or_else(|| not("it is cut short"))?;
    let offset = 0x200 + u64::from(u16::from_le_bytes([pointer[0], pointer[1]]));
    file.seek(SeekFrom::Start(offset)).map_err(read)?;
    let mut text = Vec::new();
    file.take(256).read_to_end(&mut text).map_err(read)?;
    let release = text
        .split(|&byte| byte == 0 || byte == b' ')
        .next()
        .unwrap_or_default();
    match std::str::from_utf8(release) {
        // It becomes the name of a directory, and part of messages.
        Ok(release) if is_release(release) => Ok(release.to_owned()),
        _ => Err(not("it names no release")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(release: &str) -> Vec<u8> {
        let mut image = vec![0; 0x400];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
        let text = format!("{release} (someone@example) #1 SMP");
        image[0x300..0x300 + text.len()].copy_from_slice(text.as_bytes());
        image
    }

    #[test]
    fn a_release_is_read_from_the_setup_header() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("vmlinuz");
        fs::write(&path, kernel("6.12.1-cloud-amd64")).unwrap();
        assert_eq!(release_of(&path).unwrap(), "6.12.1-cloud-amd64");
        for image in [
            Vec::new(),
            kernel("")[..0x206].to_vec(),
            kernel("../../etc"),
            kernel("."),
            kernel("6.1\x1b[2J"),
            vec![b'x'; 4096],
        ] {
            fs::write(&path, image).unwrap();
            assert!(matches!(release_of(&path), Err(Error::NotAKernel { .. })));
        }
    }

    #[test]
    fn the_highest_version_is_the_newest() {
        let root = tempfile::tempdir().unwrap();
        for release in ["6.1.0-56", "6.12.107", "6.9.1"] {
            fs::write(
                root.path().join(format!("vmlinuz-{release}")),
                kernel(release),
            )
            .unwrap();
        }
        fs::write(root.path().join("vmlinuz-7"), "not a kernel").unwrap();
        let (_, release) = newest_kernel(root.path()).unwrap().unwrap();
        assert_eq!(release, "6.12.107");
    }

    #[test]
    fn modules_are_found_in_their_directory_or_the_one_above_and_must_match() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("6.1");
        fs::create_dir(&own).unwrap();
        assert_eq!(modules_of(root.path(), "6.1").unwrap(), own);
        assert_eq!(
            modules_of(&own, "6.1").unwrap(),
            own.canonicalize().unwrap()
        );
        assert!(matches!(
            modules_of(&own, "6.12"),
            Err(Error::WrongModules { .. })
        ));
    }

    #[test]
    fn a_word_says_which_source_is_meant() {
        for (text, source) in [
            ("host", Source::Host),
            (
                "linux-image-amd64",
                Source::Package("linux-image-amd64".into()),
            ),
            ("x.deb", Source::PackageFile("x.deb".into())),
            (
                "./k",
                Source::Files {
                    kernel: "./k".into(),
                    modules: None,
                },
            ),
        ] {
            assert_eq!(text.parse(), Ok(source));
        }
    }

    #[test]
    fn the_list_of_packages_is_readable() {
        assert!(
            default_packages()
                .iter()
                .all(|name| name.starts_with("linux-image-"))
        );
        assert_eq!(default_packages().len(), 2);
    }
}
