//! Kernel packages of Debian: reading one, and getting one by name.
//!
//! A package is an `ar` archive of `debian-binary`, `control.tar.*` and
//! `data.tar.*` (deb(5)). Names are resolved and fetched by the host's own apt,
//! which checks signatures; no root is needed for either.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

/// A chain of meta packages longer than this leads nowhere.
const MAX_DEPTH: usize = 4;
/// The most that a package's data may unpack to, several times what the largest
/// kernel with all its modules does.
const MAX_DATA: u64 = 2 << 30;

/// Why a package could not be had or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory failed.
    #[error("cannot {what} {path:?}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no Debian package.
    #[error("{path:?} is not a Debian package: {reason}")]
    NotAPackage {
        /// The file.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// The package holds no kernel.
    #[error("{0:?} holds no boot/vmlinuz-*: name a linux-image package, not a meta package")]
    NoKernel(PathBuf),
    /// A package's member points outside the place it is unpacked to.
    #[error("{package:?} is refused: it holds {member:?}, which leads outside")]
    Escapes {
        /// The package.
        package: PathBuf,
        /// Its member.
        member: PathBuf,
    },
    /// Apt doesn't know the name and nothing was fetched earlier.
    #[error("apt knows no package {name} ({said}): run apt-get update, or give a kernel file")]
    Unknown {
        /// The name asked for.
        name: String,
        /// The end of apt's message.
        said: String,
    },
    /// The package could not be fetched.
    #[error("cannot download {name}: apt-get says {said:?}")]
    Download {
        /// The package.
        name: String,
        /// The end of apt's message.
        said: String,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { what, path, source }
}

/// Unpacks the kernel and the modules of `package` below `target`: the paths
/// `boot/vmlinuz-*` and `lib/modules/**`, nothing else.
///
/// # Errors
/// What is wrong with the package, or the file that failed.
pub fn unpack(package: &Path, target: &Path) -> Result<(), Error> {
    let file = File::open(package).map_err(failed("open", package))?;
    let not_a_package = |reason: String| Error::NotAPackage {
        path: package.to_owned(),
        reason,
    };
    let mut archive = ar::Archive::new(BufReader::new(file));
    let mut first = true;
    while let Some(member) = archive.next_entry() {
        let member = member.map_err(|error| not_a_package(error.to_string()))?;
        let name = String::from_utf8_lossy(member.header().identifier()).into_owned();
        if first && name != "debian-binary" {
            break;
        }
        first = false;
        let Some(compression) = name.strip_prefix("data.tar") else {
            continue;
        };
        let data: Box<dyn Read + '_> = match compression {
            "" => Box::new(member),
            ".xz" => Box::new(liblzma::read::XzDecoder::new(member)),
            ".gz" => Box::new(flate2::read::GzDecoder::new(member)),
            ".zst" => Box::new(
                zstd::stream::read::Decoder::new(member)
                    .map_err(|error| not_a_package(error.to_string()))?,
            ),
            other => return Err(not_a_package(format!("its data is compressed as {other}"))),
        };
        let data = Bounded {
            inner: data,
            left: MAX_DATA,
        };
        return unpack_data(package, data, target);
    }
    Err(not_a_package("it has no data.tar member".to_owned()))
}

/// A reader that fails where there is more than expected, rather than let a
/// small package fill memory or a disk.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return match self.inner.read(&mut [0])? {
                0 => Ok(0),
                _ => Err(io::Error::new(
                    io::ErrorKind::FileTooLarge,
                    "its data are larger than any kernel's",
                )),
            };
        }
        let count = self.inner.by_ref().take(self.left).read(buffer)?;
        self.left -= u64::try_from(count).map_err(io::Error::other)?;
        Ok(count)
    }
}

fn unpack_data(package: &Path, data: impl Read, target: &Path) -> Result<(), Error> {
    let damaged = |error: io::Error| Error::NotAPackage {
        path: package.to_owned(),
        reason: error.to_string(),
    };
    let mut archive = tar::Archive::new(data);
    let mut kernel = false;
    for member in archive.entries().map_err(damaged)? {
        let mut member = member.map_err(damaged)?;
        let name = member.path().map_err(damaged)?.into_owned();
        let Some(path) = wanted(&name) else { continue };
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(Error::Escapes {
                package: package.to_owned(),
                member: name,
            });
        }
        if !member.header().entry_type().is_file() {
            continue;
        }
        let path = target.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed("create", parent))?;
        }
        kernel |= path.starts_with(target.join("boot"));
        let mut file = File::create(&path).map_err(failed("create", &path))?;
        io::copy(&mut member, &mut file).map_err(failed("write", &path))?;
    }
    if kernel {
        Ok(())
    } else {
        Err(Error::NoKernel(package.to_owned()))
    }
}

/// The path below the target for what is kept of a package.
fn wanted(name: &Path) -> Option<PathBuf> {
    let name = name.strip_prefix(".").unwrap_or(name);
    let kernel = name.parent() == Some(Path::new("boot"))
        && name
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"vmlinuz-"));
    // Merged-usr packages of later releases.
    let modules = name.strip_prefix("usr").unwrap_or(name);
    if kernel {
        Some(name.to_owned())
    } else {
        modules
            .starts_with("lib/modules")
            .then(|| modules.to_owned())
    }
}

/// A package as apt describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    name: String,
    /// The last part of its path in the archive.
    file: String,
    /// The kernel package that this one stands for.
    leads_to: Option<String>,
}

/// Finds the package file for `name` in `cache`, or has apt download it there.
/// A meta package is followed to the kernel it stands for. Without apt or
/// network the package that `name` led to last time serves.
///
/// # Errors
/// [`Error::Unknown`] or [`Error::Download`] with apt's words.
pub fn obtain(name: &str, cache: &Path) -> Result<PathBuf, Error> {
    fs::create_dir_all(cache).map_err(failed("create", cache))?;
    // Says which file a name led to, for the day apt can't.
    let note = cache.join(format!("{}.latest", name.replace('/', "_")));
    let earlier = || {
        let file = fs::read_to_string(&note).ok()?;
        Some(cache.join(Path::new(&file).file_name()?)).filter(|path| path.is_file())
    };
    let record = match resolve(name) {
        Ok(record) => record,
        Err(error) => return earlier().ok_or(error),
    };
    let path = cache.join(&record.file);
    if !path.is_file()
        && let Err(error) = download(&record, cache)
    {
        return earlier().ok_or(error);
    }
    fs::write(&note, &record.file).map_err(failed("write", &note))?;
    Ok(path)
}

/// Follows `name` through meta packages to the package that holds a kernel.
fn resolve(name: &str) -> Result<Record, Error> {
    let mut next = name.to_owned();
    for _ in 0..MAX_DEPTH {
        let said = apt("apt-cache", &["show", "--no-all-versions", &next], None);
        let record = match &said {
            Ok(text) => parse_record(text),
            Err(_) => None,
        };
        let Some(record) = record else {
            let said = said.err().unwrap_or_else(|| "it has no record".to_owned());
            return Err(Error::Unknown { name: next, said });
        };
        match record.leads_to {
            Some(ref package) => next.clone_from(package),
            None => return Ok(record),
        }
    }
    Err(Error::Unknown {
        name: name.to_owned(),
        said: "it depends on itself".to_owned(),
    })
}

fn parse_record(text: &str) -> Option<Record> {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .map(str::trim)
    };
    let leads_to = field("Depends").and_then(|depends| {
        depends
            .split([',', '|'])
            .filter_map(|part| part.split_whitespace().next())
            .find(|package| package.starts_with("linux-image-"))
    });
    Some(Record {
        name: field("Package")?.to_owned(),
        file: Path::new(field("Filename")?)
            .file_name()?
            .to_str()?
            .to_owned(),
        leads_to: leads_to.map(str::to_owned),
    })
}

/// Downloads into a directory of its own first: what stands in `cache` is whole.
fn download(record: &Record, cache: &Path) -> Result<(), Error> {
    let partial = cache.join(format!(".{}.{}", record.file, std::process::id()));
    fs::create_dir_all(&partial).map_err(failed("create", &partial))?;
    let result = apt(
        "apt-get",
        &["download", "--quiet", &record.name],
        Some(&partial),
    )
    .map_err(|said| Error::Download {
        name: record.name.clone(),
        said,
    })
    .and_then(|_| {
        // Apt escapes a version's colon in its own way, so it is found by its end.
        let package = fs::read_dir(&partial)
            .map_err(failed("read", &partial))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension() == Some(OsStr::new("deb")))
            .ok_or_else(|| Error::Download {
                name: record.name.clone(),
                said: "nothing, and left no file".to_owned(),
            })?;
        let path = cache.join(&record.file);
        fs::rename(&package, &path).map_err(failed("create", &path))
    });
    // A directory left behind wastes room and does no harm.
    let _ = fs::remove_dir_all(&partial);
    result
}

/// Runs an apt program and returns its output, or the end of its complaint.
fn apt(program: &str, arguments: &[&str], directory: Option<&Path>) -> Result<String, String> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    let output = command
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let text = String::from_utf8_lossy(&output.stderr);
        Err(text.lines().last().unwrap_or("nothing").trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn tar_of(members: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, text) in members {
            let mut header = tar::Header::new_gnu();
            // By hand, for the crate refuses to write a name that climbs upward.
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(u64::try_from(text.len()).unwrap());
            header.set_entry_type(tar::EntryType::Regular);
            header.set_cksum();
            builder.append(&header, text.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn package_of(data_name: &str, data: &[u8], directory: &Path) -> PathBuf {
        let path = directory.join("some.deb");
        let mut builder = ar::Builder::new(File::create(&path).unwrap());
        for (name, bytes) in [("debian-binary", b"2.0\n".as_slice()), (data_name, data)] {
            let length = u64::try_from(bytes.len()).unwrap();
            builder
                .append(&ar::Header::new(name.into(), length), bytes)
                .unwrap();
        }
        path
    }

    #[test]
    fn a_package_is_unpacked_whatever_its_compression() {
        let members = [
            ("./boot/vmlinuz-6", "kernel"),
            ("./usr/lib/modules/6/a.ko", "module"),
            ("./usr/share/doc/x", "text"),
        ];
        let tar = tar_of(&members);
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&tar).unwrap();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&tar).unwrap();
        let zst = zstd::stream::encode_all(tar.as_slice(), 1).unwrap();
        for (name, data) in [
            ("data.tar", tar),
            ("data.tar.xz", xz.finish().unwrap()),
            ("data.tar.gz", gz.finish().unwrap()),
            ("data.tar.zst", zst),
        ] {
            let root = tempfile::tempdir().unwrap();
            let package = package_of(name, &data, root.path());
            let target = root.path().join("out");
            unpack(&package, &target).unwrap();
            assert_eq!(
                fs::read_to_string(target.join("boot/vmlinuz-6")).unwrap(),
                "kernel"
            );
            assert_eq!(
                fs::read_to_string(target.join("lib/modules/6/a.ko")).unwrap(),
                "module"
            );
            assert!(!target.join("usr").exists(), "{name}");
        }
    }

    #[test]
    fn what_is_no_kernel_package_is_refused_with_the_reason() {
        let root = tempfile::tempdir().unwrap();
        let text = root.path().join("text.deb");
        fs::write(&text, "no archive at all").unwrap();
        let target = root.path().join("out");
        assert!(matches!(
            unpack(&text, &target),
            Err(Error::NotAPackage { .. })
        ));
        let package = package_of(
            "data.tar",
            &tar_of(&[("./usr/share/doc/x", "")]),
            root.path(),
        );
        assert!(matches!(unpack(&package, &target), Err(Error::NoKernel(_))));
        let package = package_of("data.tar.lz", b"", root.path());
        let error = unpack(&package, &target).unwrap_err().to_string();
        assert!(error.contains(".lz"), "{error}");
        let package = package_of(
            "data.tar",
            &tar_of(&[("lib/modules/../../x", "")]),
            root.path(),
        );
        assert!(matches!(
            unpack(&package, &target),
            Err(Error::Escapes { .. })
        ));
    }

    #[test]
    fn data_that_unpack_to_too_much_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let tar = tar_of(&[("boot/vmlinuz-6", &"x".repeat(5000))]);
        let size = u64::try_from(tar.len()).unwrap();
        let unpack = |left| {
            let inner = tar.as_slice();
            unpack_data(Path::new("some.deb"), Bounded { inner, left }, root.path())
        };
        unpack(size).unwrap();
        for left in [0, 511, 512, 3000] {
            let error = unpack(left).unwrap_err();
            let text = std::error::Error::source(&error)
                .map_or(error.to_string(), |source| source.to_string());
            assert!(text.contains("larger than any kernel's"), "{left}: {text}");
        }
    }

    #[test]
    fn links_and_absolute_names_are_not_unpacked() {
        let root = tempfile::tempdir().unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        for kind in [tar::EntryType::Symlink, tar::EntryType::Link] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(0);
            builder
                .append_link(&mut header, "lib/modules/6", "/etc")
                .unwrap();
        }
        let tar = builder.into_inner().unwrap();
        let mut members = tar_of(&[
            ("lib/modules/6/x.ko", "module"),
            ("boot/vmlinuz-6", "kernel"),
            ("/lib/modules/y.ko", "absolute"),
        ]);
        // Without the two blocks that end an archive.
        members.splice(0..0, tar[..tar.len() - 1024].iter().copied());
        let package = package_of("data.tar", &members, root.path());
        let target = root.path().join("out");
        unpack(&package, &target).unwrap();
        assert!(target.join("lib/modules/6/x.ko").is_file());
        assert!(!target.join("lib/modules/6").is_symlink());
        assert!(!target.join("lib/modules/y.ko").exists());
    }

    #[test]
    fn a_meta_package_leads_to_its_kernel() {
        let text = "Package: linux-image-cloud-amd64\n\
                    Depends: x (>= 2), linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\n\
                    Filename: pool/main/l/linux-image-cloud-amd64_6.1.192-2_amd64.deb\n";
        let record = parse_record(text).unwrap();
        assert_eq!(
            record.leads_to.as_deref(),
            Some("linux-image-6.1.0-56-cloud-amd64")
        );
        assert_eq!(record.file, "linux-image-cloud-amd64_6.1.192-2_amd64.deb");
        assert_eq!(parse_record("N: Unable to locate package\n"), None);
    }
}
