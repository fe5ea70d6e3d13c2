//! What was built or unpacked before, under `$XDG_CACHE_HOME/nestling`.
//!
//! A name in the cache is a digest over everything the entry was made from, so
//! that a change to any input is a different name. Entries come into being whole,
//! by a rename. Builds exclude each other by a lock file.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// Why the cache could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory of the cache failed.
    #[error("cannot {what} {path:?}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nowhere to put it.
    #[error("neither XDG_CACHE_HOME nor HOME is set: name a cache directory")]
    NoHome,
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { what, path, source }
}

/// The hexadecimal SHA-256 of a file's contents.
///
/// # Errors
/// What the system said when it was read.
pub fn digest_of(path: &Path) -> io::Result<String> {
    let mut hasher = Hasher::new();
    io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(hasher.finish())
}

/// Where the cache at `root` keeps package files.
pub fn packages(root: &Path) -> PathBuf {
    root.join("packages")
}

/// A SHA-256 that can be written to.
#[derive(Debug, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Nothing hashed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The digest in hexadecimal.
    pub fn finish(self) -> String {
        use std::fmt::Write as _;
        self.0
            .finalize()
            .iter()
            .fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}"); // A String takes all that is written.
                text
            })
    }
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A cache directory, locked against other builds while this lives.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
    /// Holds the lock.
    _lock: File,
}

impl Cache {
    /// `$XDG_CACHE_HOME/nestling`, or `~/.cache/nestling`.
    ///
    /// # Errors
    /// [`Error::NoHome`] where neither variable is set.
    pub fn default_path() -> Result<PathBuf, Error> {
        let home = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        // The XDG specification: a relative path is to be ignored.
        let cache = home("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute());
        cache
            .or_else(|| Some(PathBuf::from(home("HOME")?).join(".cache")))
            .map(|path| path.join("nestling"))
            .ok_or(Error::NoHome)
    }

    /// Opens the cache at `root` and waits until no other build uses it.
    ///
    /// # Errors
    /// A directory or lock file that cannot be made.
    pub fn open(root: &Path) -> Result<Self, Error> {
        fs::create_dir_all(root).map_err(failed("create", root))?;
        let path = root.join("lock");
        let lock = File::create(&path).map_err(failed("create", &path))?;
        lock.lock().map_err(failed("lock", &path))?;
        Ok(Self {
            root: root.to_owned(),
            _lock: lock,
        })
    }

    /// Where package files are kept.
    pub fn packages(&self) -> PathBuf {
        packages(&self.root)
    }

    /// The directory `key` of a kind, made by `fill` if it isn't there.
    ///
    /// # Errors
    /// Those of `fill`, or the file that failed.
    pub fn directory<E: From<Error>>(
        &self,
        kind: &str,
        key: &str,
        fill: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let path = self.root.join(kind).join(key);
        if path.is_dir() {
            return Ok(path);
        }
        let partial = self.partial(kind, key)?;
        fs::create_dir_all(&partial).map_err(failed("create", &partial))?;
        let filled = fill(&partial).and_then(|()| {
            fs::rename(&partial, &path)
                .map_err(failed("create", &path))
                .map_err(E::from)
        });
        if filled.is_err() {
            let _ = fs::remove_dir_all(&partial); // The first error is the one to report.
        }
        filled.map(|()| path)
    }

    /// The file `key` of a kind, made by `fill` if it isn't there or isn't what
    /// was made then.
    ///
    /// # Errors
    /// Those of `fill`, or the file that failed.
    pub fn file<E: From<Error>>(
        &self,
        kind: &str,
        key: &str,
        fill: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let path = self.root.join(kind).join(key);
        let sum = self.root.join(kind).join(format!("{key}.sha256"));
        if intact(&path, &sum) {
            return Ok(path);
        }
        let partial = self.partial(kind, key)?;
        let filled = fill(&partial).and_then(|()| {
            let digest = digest_of(&partial).map_err(failed("read", &partial))?;
            fs::write(&sum, digest).map_err(failed("write", &sum))?;
            fs::rename(&partial, &path)
                .map_err(failed("create", &path))
                .map_err(E::from)
        });
        if filled.is_err() {
            let _ = fs::remove_file(&partial); // The first error is the one to report.
        }
        filled.map(|()| path)
    }

    /// A name beside the entry, cleared of what a killed build left there.
    fn partial(&self, kind: &str, key: &str) -> Result<PathBuf, Error> {
        let directory = self.root.join(kind);
        fs::create_dir_all(&directory).map_err(failed("create", &directory))?;
        let partial = directory.join(format!("{key}.partial"));
        let cleared = match fs::symlink_metadata(&partial) {
            Err(_) => Ok(()),
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(&partial),
            Ok(_) => fs::remove_file(&partial),
        };
        cleared.map_err(failed("remove", &partial))?;
        Ok(partial)
    }
}

/// Whether a file has the digest that was noted when it was made.
fn intact(path: &Path, sum: &Path) -> bool {
    let mut noted = String::new();
    File::open(sum)
        .and_then(|file| file.take(128).read_to_string(&mut noted))
        .is_ok()
        && digest_of(path).is_ok_and(|digest| digest == noted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(cache: &Cache, text: &str) -> PathBuf {
        cache
            .file("kind", "key", |path| {
                fs::write(path, text).map_err(failed("write", path))
            })
            .unwrap()
    }

    #[test]
    fn a_file_is_made_once_and_again_when_it_was_damaged() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path()).unwrap();
        let path = make(&cache, "first");
        make(&cache, "second");
        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
        fs::write(&path, "damaged").unwrap();
        make(&cache, "third");
        assert_eq!(fs::read_to_string(&path).unwrap(), "third");
    }

    #[test]
    fn a_failure_leaves_nothing_and_a_killed_build_is_cleared_away() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path()).unwrap();
        fs::create_dir_all(root.path().join("kind/key.partial/half")).unwrap();
        let result = cache.directory("kind", "key", |path| {
            fs::write(path.join("file"), "").map_err(failed("write", path))?;
            Err(Error::NoHome)
        });
        assert!(matches!(result, Err(Error::NoHome)));
        assert_eq!(fs::read_dir(root.path().join("kind")).unwrap().count(), 0);
    }

    #[test]
    fn a_digest_is_that_of_the_contents() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        fs::write(&path, "abc").unwrap();
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest_of(&path).unwrap(), expected);
    }
}
