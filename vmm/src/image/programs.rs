//! Programs of the host that an image takes along, with all they need to run.
//!
//! Which libraries a dynamic program loads is for its own loader to say: it is
//! asked with `--list`, which maps them and runs none of their code (ld.so(8)).
//! What a program opens by name later, it doesn't know; that is for `--add`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::archive::{self, Content, Node, Tree};

/// Where an image's programs are looked for, in this order.
pub const SEARCH_PATH: &str = "/bin:/sbin:/usr/bin:/usr/sbin";
/// A script's interpreter may be a script; the kernel follows five.
const MAX_INTERPRETERS: usize = 5;
/// The kernel reads a script's first line so far.
const SCRIPT_LINE: u64 = 256;
/// Where loaders are, by the kinds of system there are. A loader is run, so a
/// program that names another one is not asked for its libraries.
const LOADER_DIRECTORIES: &[&str] = &[
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/nix/store",
    "/gnu/store",
];
/// Where a loader finds libraries outside its default directories.
const LOADER_CACHE: &str = "/etc/ld.so.cache";

/// Why a program can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be read.
    #[error("cannot read program {path:?}: {source}")]
    Read {
        /// The program, or one of its libraries.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is neither an x86-64 program nor a script.
    #[error("{path:?} cannot run in an image: {reason}")]
    NotAProgram {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// A library is not on this host.
    #[error("{path:?} needs {library}, which is not on this host: install it")]
    MissingLibrary {
        /// The program.
        path: PathBuf,
        /// The library as the program names it.
        library: String,
    },
    /// Its loader doesn't know it.
    #[error("{loader:?} cannot load {path:?}: {said}")]
    Loader {
        /// The program.
        path: PathBuf,
        /// The interpreter it names.
        loader: PathBuf,
        /// What that said.
        said: String,
    },
    /// It is no busybox, or says nothing of itself.
    #[error("{path:?} --list: {said}")]
    Busybox {
        /// The program.
        path: PathBuf,
        /// What became of it.
        said: String,
    },
    /// The image's tree refused it.
    #[error(transparent)]
    Tree(#[from] archive::Error),
}

/// What the start of a program says of it.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Static,
    Dynamic {
        loader: PathBuf,
    },
    Script {
        interpreter: PathBuf,
        argument: Option<String>,
    },
}

/// Adds the program at `path` to `tree`, at the same path, and its libraries,
/// its loader or its interpreter with it.
///
/// # Errors
/// What is missing, and where.
pub fn add(tree: &mut Tree, path: &Path) -> Result<(), Error> {
    add_nested(tree, path, MAX_INTERPRETERS)
}

fn add_nested(tree: &mut Tree, path: &Path, depth: usize) -> Result<(), Error> {
    if !path.is_absolute() {
        let full = std::path::absolute(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        return add_nested(tree, &full, depth);
    }
    let kind = inspect(path)?;
    add_file(tree, path)?;
    match kind {
        Kind::Static => Ok(()),
        Kind::Dynamic { loader } if !is_system_loader(&loader) => Err(Error::NotAProgram {
            path: path.to_owned(),
            reason: "its loader is not in /lib, /lib64, /usr/lib or a store",
        }),
        Kind::Dynamic { loader } => {
            for library in libraries(path, &loader)? {
                add_file(tree, &library)?;
            }
            add_file(tree, &loader)?;
            let cache = Path::new(LOADER_CACHE);
            if cache.is_file() {
                add_file(tree, cache)
            } else {
                Ok(())
            }
        }
        Kind::Script { .. } if depth == 0 => Err(Error::NotAProgram {
            path: path.to_owned(),
            reason: "its interpreters are scripts, too many of them",
        }),
        Kind::Script {
            interpreter,
            argument,
        } => {
            add_nested(tree, &interpreter, depth - 1)?;
            match argument {
                // `env` looks its argument up in PATH.
                Some(name) if interpreter.file_name().is_some_and(|file| file == "env") => {
                    let program = find(&name).ok_or_else(|| Error::MissingLibrary {
                        path: path.to_owned(),
                        library: name,
                    })?;
                    add_nested(tree, &program, depth - 1)
                }
                _ => Ok(()),
            }
        }
    }
}

/// Adds busybox, and a link in `/bin` for its shell and for each other applet of whose
/// name there is no program yet. Not every build has a shell that finds its applets
/// without.
///
/// # Errors
/// As [`add`]'s, and [`Error::Busybox`] where it doesn't say which applets it has.
pub fn add_busybox(tree: &mut Tree, busybox: &Path) -> Result<(), Error> {
    add(tree, busybox)?;
    let target = busybox.to_string_lossy().into_owned();
    for applet in applets(busybox)? {
        let mut places = SEARCH_PATH
            .split(':')
            .map(|place| Path::new(place).join(&applet));
        if applet == "sh" || places.all(|place| tree.get(place).is_none()) {
            let target = target.clone();
            tree.insert(Path::new("/bin").join(applet), Node::Symlink { target })?;
        }
    }
    Ok(())
}

/// The applets that `busybox` has, one of which is `sh`.
fn applets(busybox: &Path) -> Result<Vec<String>, Error> {
    let failed = |said: String| Error::Busybox {
        path: busybox.to_owned(),
        said,
    };
    let output = Command::new(busybox)
        .arg("--list")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    let listed = String::from_utf8_lossy(&output.stdout);
    let names = listed.lines().filter(|name| !name.contains('/'));
    let names: Vec<_> = names.map(str::to_owned).collect();
    if names.iter().any(|name| name == "sh") {
        Ok(names)
    } else {
        Err(failed("no sh among its applets".to_owned()))
    }
}

/// Takes the file itself, where a link leads to one.
fn add_file(tree: &mut Tree, path: &Path) -> Result<(), Error> {
    let read = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let source = fs::canonicalize(path).map_err(read)?;
    let mode = fs::metadata(&source).map_err(read)?.permissions().mode() & 0o777;
    tree.insert(
        path,
        Node::File {
            mode,
            content: Content::File(source),
        },
    )?;
    Ok(())
}

/// The first program of this name in `PATH`.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|path| {
            fs::metadata(path)
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
}

fn inspect(path: &Path) -> Result<Kind, Error> {
    let read = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let not = |reason| Error::NotAProgram {
        path: path.to_owned(),
        reason,
    };
    if fs::metadata(path).map_err(read)?.permissions().mode() & 0o111 == 0 {
        return Err(not("it is not executable"));
    }
    let mut file = File::open(path).map_err(read)?;
    let mut start = Vec::new();
    file.by_ref()
        .take(SCRIPT_LINE)
        .read_to_end(&mut start)
        .map_err(read)?;
    if let Some(line) = start.strip_prefix(b"#!") {
        let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let line = std::str::from_utf8(line).map_err(|_| not("its first line is not text"))?;
        let mut words = line.split_whitespace().map(str::to_owned);
        let interpreter = words
            .next()
            .ok_or_else(|| not("its first line names no interpreter"))?;
        return Ok(Kind::Script {
            interpreter: interpreter.into(),
            argument: words.next(),
        });
    }
    file.read_to_end(&mut start).map_err(read)?;
    interpreter(&start)
        .map(|loader| match loader {
            Some(loader) => Kind::Dynamic { loader },
            None => Kind::Static,
        })
        .map_err(not)
}

/// The loader an ELF program names in its `PT_INTERP` header, if any (System V
/// gABI, chapter 5).
fn interpreter(image: &[u8]) -> Result<Option<PathBuf>, &'static str> {
    const PT_INTERP: u64 = 3;
    const HEADER: usize = 56;
    const CUT: &str = "its program headers are cut short";
    // ELF64, little-endian, EM_X86_64.
    if image.get(..6) != Some(b"\x7fELF\x02\x01") || image.get(18..20) != Some(&[62, 0]) {
        return Err("it is neither an x86-64 ELF program nor a script");
    }
    let number = |at: usize, len: usize| -> Option<u64> {
        let bytes = image.get(at..at.checked_add(len)?)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |value, &byte| value << 8 | u64::from(byte)),
        )
    };
    let index = |value: Option<u64>| {
        value
            .and_then(|value| usize::try_from(value).ok())
            .ok_or(CUT)
    };
    let table = index(number(32, 8))?;
    let count = index(number(56, 2))?;
    for entry in 0..count {
        let at = table.checked_add(entry * HEADER).ok_or(CUT)?;
        if number(at, 4).ok_or(CUT)? != PT_INTERP {
            continue;
        }
        let start = index(number(at + 8, 8))?;
        let length = index(number(at + 32, 8))?;
        let text = start
            .checked_add(length)
            .and_then(|end| image.get(start..end))
            .ok_or(CUT)?;
        let text = text.strip_suffix(&[0]).unwrap_or(text);
        let text = std::str::from_utf8(text).map_err(|_| "its loader's name is not text")?;
        return Ok(Some(text.into()));
    }
    Ok(None)
}

/// Whether a program's loader is one that the system's owner put there.
fn is_system_loader(loader: &Path) -> bool {
    let climbs = loader
        .components()
        .any(|part| part == std::path::Component::ParentDir);
    !climbs
        && LOADER_DIRECTORIES
            .iter()
            .any(|directory| loader.starts_with(directory))
}

/// The libraries the loader maps for a program, by their full paths.
fn libraries(path: &Path, loader: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |said: String| Error::Loader {
        path: path.to_owned(),
        loader: loader.to_owned(),
        said,
    };
    let output = Command::new(loader)
        .arg("--list")
        .arg(path)
        .env_remove("LD_LIBRARY_PATH")
        .env_remove("LD_PRELOAD")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    // glibc ends with a failure where a library is missing, and names it.
    if let Some(library) = missing_library(&said) {
        return Err(Error::MissingLibrary {
            path: path.to_owned(),
            library,
        });
    }
    let listed = String::from_utf8_lossy(&output.stdout);
    let mut found = Vec::new();
    for line in listed.lines().map(str::trim) {
        let (name, target) = line.split_once(" => ").unwrap_or(("", line));
        if target.starts_with("not found") {
            return Err(Error::MissingLibrary {
                path: path.to_owned(),
                library: name.to_owned(),
            });
        }
        let file = target.rsplit_once(" (").map_or(target, |(file, _)| file);
        if file.starts_with('/') {
            found.push(PathBuf::from(file));
        }
    }
    if output.status.success() {
        Ok(found)
    } else {
        Err(failed(
            said.lines().last().unwrap_or("nothing").trim().to_owned(),
        ))
    }
}

/// The library in `x: error while loading shared libraries: L: cannot open ...`.
fn missing_library(said: &str) -> Option<String> {
    let (_, rest) = said.split_once("error while loading shared libraries: ")?;
    Some(rest.split(':').next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_brings_its_loader_and_its_libraries() {
        let shell = fs::canonicalize("/bin/sh").unwrap();
        let mut tree = Tree::new();
        add(&mut tree, &shell).unwrap();
        let Kind::Dynamic { loader } = inspect(&shell).unwrap() else {
            return assert!(tree.get(&shell).is_some());
        };
        assert!(tree.get(&loader).is_some());
        assert!(tree.iter().any(|(path, _)| path.contains("libc.so")));
    }

    #[test]
    fn a_program_is_not_asked_by_a_loader_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = root.path().join(name);
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let trace = root.path().join("it-ran");
        let script = format!("#!/bin/sh\ntouch {}\n", trace.display());
        let loader = write("ld.so", script.as_bytes());
        let name = loader.to_str().unwrap().as_bytes();
        // An ELF header and one program header, PT_INTERP, with the name behind.
        let mut image = vec![0; 120];
        image[..6].copy_from_slice(b"\x7fELF\x02\x01");
        image[18] = 62;
        image[32] = 64;
        image[56] = 1;
        image[64] = 3;
        image[72] = 120;
        image[96] = u8::try_from(name.len()).unwrap();
        image.extend_from_slice(name);
        let program = write("program", &image);
        assert_eq!(
            inspect(&program).unwrap(),
            Kind::Dynamic {
                loader: loader.clone()
            }
        );
        let error = add(&mut Tree::new(), &program).unwrap_err();
        assert!(error.to_string().contains("its loader"), "{error}");
        assert!(!trace.exists());
        for (loader, system) in [
            ("/lib64/ld-linux-x86-64.so.2", true),
            ("/lib/../tmp/ld.so", false),
            ("lib/ld.so", false),
            ("/libre/ld.so", false),
        ] {
            assert_eq!(is_system_loader(Path::new(loader)), system, "{loader}");
        }
    }

    #[test]
    #[allow(clippy::print_stderr)] // A skipped test says why.
    fn busyboxs_applets_are_found_by_their_names_but_for_those_of_other_programs() {
        let Some(busybox) = find("busybox") else {
            eprintln!("skipped: no busybox");
            return;
        };
        let mut tree = Tree::new();
        for other in ["/usr/sbin/ls", "/usr/bin/sh"] {
            tree.insert_bytes(other, 0o755, "another").unwrap();
        }
        add_busybox(&mut tree, &busybox).unwrap();
        let target = busybox.to_str().unwrap().to_owned();
        let link = Node::Symlink { target };
        assert!(tree.get(&busybox).is_some_and(|node| *node != link));
        for applet in ["/bin/sh", "/bin/mkdir", "/bin/mount"] {
            assert_eq!(tree.get(applet), Some(&link), "{applet}");
        }
        assert_eq!(tree.get("/bin/ls"), None);
    }

    #[test]
    fn what_names_no_applets_is_no_busybox() {
        let error = add_busybox(&mut Tree::new(), Path::new("/bin/true")).unwrap_err();
        let expected = "\"/bin/true\" --list: no sh among its applets";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_script_brings_its_interpreters() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let script = write("script", "#!/usr/bin/env sh\n");
        let mut tree = Tree::new();
        add(&mut tree, &script).unwrap();
        assert!(tree.get(&script).is_some() && tree.get("/usr/bin/env").is_some());
        let itself = root.path().join("loop");
        write("loop", &format!("#!{}\n", itself.display()));
        assert!(matches!(
            add(&mut Tree::new(), &itself),
            Err(Error::NotAProgram { .. })
        ));
    }

    #[test]
    fn what_cannot_run_is_refused() {
        for path in ["/etc/passwd", "/dev/null"] {
            let error = add(&mut Tree::new(), Path::new(path)).unwrap_err();
            assert!(
                matches!(error, Error::NotAProgram { .. }),
                "{path}: {error}"
            );
        }
        let absent = add(&mut Tree::new(), Path::new("/nonexistent")).unwrap_err();
        assert!(matches!(absent, Error::Read { .. }));
    }

    #[test]
    fn a_cut_program_is_an_error_and_no_panic() {
        let image = fs::read(fs::canonicalize("/usr/bin/env").unwrap()).unwrap();
        for length in 0..1024.min(image.len()) {
            if let Ok(Some(loader)) = interpreter(&image[..length]) {
                assert!(loader.is_absolute());
            }
        }
        assert!(interpreter(&image[..64]).is_err());
    }

    #[test]
    fn a_missing_library_is_named() {
        let said =
            "x: error while loading shared libraries: libfoo.so.1: cannot open shared object";
        assert_eq!(missing_library(said).as_deref(), Some("libfoo.so.1"));
        assert_eq!(missing_library("something else"), None);
    }
}
