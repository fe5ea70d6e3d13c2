//! The newc archive that Linux unpacks as its initramfs.
//!
//! One tree makes the same bytes on every machine and at every level: entries
//! in order of their names, owner and group 0, no times, inode numbers by
//! counting. PID 1 packs its own root with this to make the image of the next
//! level. The format: `Documentation/driver-api/early-userspace/buffer-format.rst`
//! of the Linux kernel.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Headers and contents start at multiples of this.
const ALIGNMENT: u64 = 4;
/// The name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

const S_IFCHR: u32 = 0o020_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

/// Why a tree could not be put together or packed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name in the archive is empty, climbs upward or is not UTF-8.
    #[error("{0:?} cannot be a path in an image: it must be below the root, without \"..\"")]
    Path(PathBuf),
    /// Two entries want one name.
    #[error("the image would hold /{0} twice, with different contents")]
    Conflict(String),
    /// A file's length does not fit the format's 32-bit field.
    #[error("/{path} has {size} bytes: a file in an image must be smaller than 4 GiB")]
    TooLarge {
        /// The file in the archive.
        path: String,
        /// Its length in bytes.
        size: u64,
    },
    /// A file's length changed while it was packed.
    #[error("{0:?} changed while it was packed: try again when nothing writes to it")]
    Changed(PathBuf),
    /// A source file could not be read.
    #[error("cannot read {path:?}: {source}")]
    Read {
        /// The file on this machine.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The archive could not be written.
    #[error("cannot write the image: {0}")]
    Write(io::Error),
}

/// Where the bytes of a file come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// They are here.
    Bytes(Vec<u8>),
    /// They are read from this file when the tree is packed.
    File(PathBuf),
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory with these permission bits.
    Directory {
        /// Permission bits.
        mode: u32,
    },
    /// A regular file.
    File {
        /// Permission bits.
        mode: u32,
        /// Its bytes.
        content: Content,
    },
    /// A symbolic link.
    Symlink {
        /// What it says.
        target: String,
    },
    /// A character device.
    Device {
        /// Permission bits.
        mode: u32,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// The files of an image, by their path below its root.
///
/// A parent sorts before what is in it, so that packing in order gives the
/// kernel each directory before its contents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
}

impl Tree {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `node` at `path` (with or without a leading slash) and makes the
    /// directories above it. The same node twice is fine.
    ///
    /// # Errors
    /// [`Error::Path`] for a path outside the tree, [`Error::Conflict`] if
    /// something else stands there.
    pub fn insert(&mut self, path: impl AsRef<Path>, node: Node) -> Result<(), Error> {
        let name = normalize(path.as_ref())?;
        for (slash, _) in name.match_indices('/') {
            let parent = self.nodes.entry(name[..slash].to_owned());
            let parent = parent.or_insert(Node::Directory { mode: 0o755 });
            if !matches!(parent, Node::Directory { .. }) {
                return Err(Error::Conflict(name[..slash].to_owned()));
            }
        }
        match self.nodes.get(&name) {
            None => {
                self.nodes.insert(name, node);
                Ok(())
            }
            Some(present) if *present == node => Ok(()),
            Some(_) => Err(Error::Conflict(name)),
        }
    }

    /// Puts a file with these bytes at `path`.
    ///
    /// # Errors
    /// As [`insert`](Self::insert).
    pub fn insert_bytes(
        &mut self,
        path: impl AsRef<Path>,
        mode: u32,
        bytes: impl Into<Vec<u8>>,
    ) -> Result<(), Error> {
        let content = Content::Bytes(bytes.into());
        self.insert(path, Node::File { mode, content })
    }

    /// What stands at `path`.
    pub fn get(&self, path: impl AsRef<Path>) -> Option<&Node> {
        self.nodes.get(&normalize(path.as_ref()).ok()?)
    }

    /// All paths, without a leading slash, and what stands there, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// Takes in the file, link, device or directory tree at `source` on this
    /// machine as `path`. `exclude` names paths of this machine to leave out;
    /// a directory named there stays as an empty one. Sockets, pipes and block
    /// devices are left out, they have no contents to take.
    ///
    /// # Errors
    /// [`Error::Read`] for what cannot be read, and those of
    /// [`insert`](Self::insert).
    pub fn add(
        &mut self,
        source: &Path,
        path: impl AsRef<Path>,
        exclude: &[&Path],
    ) -> Result<(), Error> {
        let path = path.as_ref();
        let failed = |error| Error::Read {
            path: source.to_owned(),
            source: error,
        };
        let meta = fs::symlink_metadata(source).map_err(failed)?;
        let kind = meta.file_type();
        let mode = meta.permissions().mode() & 0o7777;
        let excluded = exclude.contains(&source);
        if kind.is_dir() {
            // The root itself is not an entry.
            if normalize(path).is_ok() {
                self.insert(path, Node::Directory { mode })?;
            }
            if !excluded {
                for entry in fs::read_dir(source).map_err(failed)? {
                    let name = entry.map_err(failed)?.file_name();
                    self.add(&source.join(&name), path.join(&name), exclude)?;
                }
            }
            return Ok(());
        }
        if excluded {
            return Ok(());
        }
        if kind.is_symlink() {
            let target = fs::read_link(source).map_err(failed)?;
            let target = utf8(&target)?.to_owned();
            self.insert(path, Node::Symlink { target })
        } else if kind.is_file() {
            let content = Content::File(source.to_owned());
            self.insert(path, Node::File { mode, content })
        } else if kind.is_char_device() {
            let (major, minor) = (libc::major(meta.rdev()), libc::minor(meta.rdev()));
            self.insert(path, Node::Device { mode, major, minor })
        } else {
            Ok(())
        }
    }

    /// Writes the tree as an archive to `out`, trailer included.
    ///
    /// # Errors
    /// A file that cannot be read, is too large or changes meanwhile, or a
    /// failure of `out`.
    pub fn write_to<W: Write>(&self, out: W) -> Result<W, Error> {
        let mut writer = Writer {
            out,
            inode: 0,
            offset: 0,
        };
        for (path, node) in &self.nodes {
            writer.entry(path, node)?;
        }
        writer.finish()
    }
}

/// `path` as the archive names it: relative, plain components only.
fn normalize(path: &Path) -> Result<String, Error> {
    use std::path::Component;
    let mut name = String::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(part) => {
                if !name.is_empty() {
                    name.push('/');
                }
                name.push_str(part.to_str().ok_or_else(|| Error::Path(path.to_owned()))?);
            }
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::Path(path.to_owned()));
            }
        }
    }
    // A NUL would end the name in the archive early.
    if name.is_empty() || name.contains('\0') {
        return Err(Error::Path(path.to_owned()));
    }
    Ok(name)
}

fn utf8(path: &Path) -> Result<&str, Error> {
    std::str::from_utf8(path.as_os_str().as_bytes()).map_err(|_| Error::Path(path.to_owned()))
}

/// The fields of a header that differ between entries.
#[derive(Default)]
struct Header {
    mode: u32,
    links: u32,
    size: u32,
    major: u32,
    minor: u32,
}

/// Writes entries one after another.
struct Writer<W> {
    out: W,
    inode: u32,
    offset: u64,
}

impl<W: Write> Writer<W> {
    fn entry(&mut self, path: &str, node: &Node) -> Result<(), Error> {
        self.inode += 1;
        let fits = |size: u64| {
            u32::try_from(size).map_err(|_| Error::TooLarge {
                path: path.to_owned(),
                size,
            })
        };
        let length = |bytes: &[u8]| u64::try_from(bytes.len()).map_err(io::Error::other);
        match node {
            Node::Directory { mode } => self.header(
                path,
                &Header {
                    mode: S_IFDIR | mode,
                    links: 2,
                    ..Header::default()
                },
            ),
            &Node::Device { mode, major, minor } => {
                let mode = S_IFCHR | mode;
                self.header(
                    path,
                    &Header {
                        mode,
                        links: 1,
                        size: 0,
                        major,
                        minor,
                    },
                )
            }
            Node::Symlink { target } => {
                let size = fits(length(target.as_bytes()).map_err(Error::Write)?)?;
                let mode = S_IFLNK | 0o777;
                self.header(
                    path,
                    &Header {
                        mode,
                        links: 1,
                        size,
                        ..Header::default()
                    },
                )?;
                self.put(target.as_bytes())?;
                self.pad()
            }
            Node::File {
                mode,
                content: Content::Bytes(bytes),
            } => {
                let size = fits(length(bytes).map_err(Error::Write)?)?;
                let mode = S_IFREG | mode;
                self.header(
                    path,
                    &Header {
                        mode,
                        links: 1,
                        size,
                        ..Header::default()
                    },
                )?;
                self.put(bytes)?;
                self.pad()
            }
            Node::File {
                mode,
                content: Content::File(source),
            } => {
                let failed = |error| Error::Read {
                    path: source.clone(),
                    source: error,
                };
                let mut file = File::open(source).map_err(failed)?;
                let size = fits(file.metadata().map_err(failed)?.len())?;
                let mode = S_IFREG | mode;
                self.header(
                    path,
                    &Header {
                        mode,
                        links: 1,
                        size,
                        ..Header::default()
                    },
                )?;
                self.copy(source, &mut file, size.into())?;
                self.pad()
            }
        }
    }

    /// Copies exactly `size` bytes, and fails if `file` ends earlier or later:
    /// the header has gone out already.
    fn copy(&mut self, path: &Path, file: &mut File, size: u64) -> Result<(), Error> {
        let mut buffer = vec![0; 128 << 10];
        let mut left = size;
        loop {
            let count = match file.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(Error::Read {
                        path: path.to_owned(),
                        source,
                    });
                }
            };
            if count == 0 {
                break;
            }
            let taken =
                u64::try_from(count).map_err(|error| Error::Write(io::Error::other(error)))?;
            left = left
                .checked_sub(taken)
                .ok_or_else(|| Error::Changed(path.to_owned()))?;
            self.put(&buffer[..count])?;
        }
        if left == 0 {
            Ok(())
        } else {
            Err(Error::Changed(path.to_owned()))
        }
    }

    fn header(&mut self, path: &str, header: &Header) -> Result<(), Error> {
        let Header {
            mode,
            links,
            size,
            major,
            minor,
        } = header;
        let inode = self.inode;
        let name_len = path.len() + 1;
        // magic, inode, mode, uid, gid, links, mtime, size, device, rdevice, name, check
        let line = format!(
            "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{links:08x}{0:08x}{size:08x}\
             {0:08x}{0:08x}{major:08x}{minor:08x}{name_len:08x}{0:08x}",
            0
        );
        self.put(line.as_bytes())?;
        self.put(path.as_bytes())?;
        self.put(&[0])?;
        self.pad()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(Error::Write)?;
        let count = u64::try_from(bytes.len()).map_err(|e| Error::Write(io::Error::other(e)))?;
        self.offset += count;
        Ok(())
    }

    fn pad(&mut self) -> Result<(), Error> {
        const ZEROS: [u8; 4] = [0; 4];
        while !self.offset.is_multiple_of(ALIGNMENT) {
            self.put(&ZEROS[..1])?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<W, Error> {
        self.inode = 0;
        self.header(
            TRAILER,
            &Header {
                links: 1,
                ..Header::default()
            },
        )?;
        self.out.flush().map_err(Error::Write)?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;
    use std::os::unix::fs::symlink;

    /// Name, mode and contents of every entry, as the cpio crate reads them.
    fn read_back(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut cursor = Cursor::new(archive);
        let mut entries = Vec::new();
        loop {
            let mut reader = cpio::newc::Reader::new(&mut cursor).unwrap();
            if reader.entry().is_trailer() {
                return entries;
            }
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            entries.push((name, mode, bytes));
            reader.finish().unwrap();
        }
    }

    #[test]
    fn every_kind_of_entry_is_read_back_by_another_reader() {
        let mut tree = Tree::new();
        tree.insert_bytes("/a/file", 0o640, "hello").unwrap();
        tree.insert(
            "a/link",
            Node::Symlink {
                target: "file".into(),
            },
        )
        .unwrap();
        tree.insert(
            "dev/console",
            Node::Device {
                mode: 0o600,
                major: 5,
                minor: 1,
            },
        )
        .unwrap();
        let archive = tree.write_to(Vec::new()).unwrap();
        let expected = [
            ("a", S_IFDIR | 0o755, ""),
            ("a/file", S_IFREG | 0o640, "hello"),
            ("a/link", S_IFLNK | 0o777, "file"),
            ("dev", S_IFDIR | 0o755, ""),
            ("dev/console", S_IFCHR | 0o600, ""),
        ];
        let expected = expected.map(|(name, mode, text)| (name.to_owned(), mode, text.into()));
        assert_eq!(read_back(&archive), expected);
    }

    #[test]
    fn a_path_must_stay_below_the_root() {
        for path in ["", "/", "..", "a/../b", "a\0b"] {
            let error = Tree::new().insert_bytes(path, 0o644, "").unwrap_err();
            assert!(matches!(error, Error::Path(_)), "{path:?}: {error}");
        }
    }

    #[test]
    fn two_contents_for_one_path_are_a_conflict_and_the_same_twice_is_not() {
        let mut tree = Tree::new();
        tree.insert_bytes("a", 0o644, "1").unwrap();
        tree.insert_bytes("a", 0o644, "1").unwrap();
        assert!(
            matches!(tree.insert_bytes("a", 0o644, "2"), Err(Error::Conflict(path)) if path == "a")
        );
        assert!(
            matches!(tree.insert_bytes("a/b", 0o644, "2"), Err(Error::Conflict(path)) if path == "a")
        );
    }

    #[test]
    fn a_directory_is_taken_without_what_is_excluded() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("keep/below")).unwrap();
        fs::create_dir_all(at("proc/1")).unwrap();
        fs::write(at("keep/below/file"), "x").unwrap();
        fs::write(at("order"), "x").unwrap();
        symlink("keep", at("link")).unwrap();
        let mut tree = Tree::new();
        tree.add(root.path(), "/", &[&at("proc"), &at("order")])
            .unwrap();
        let names: Vec<_> = tree.iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            ["keep", "keep/below", "keep/below/file", "link", "proc"]
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let mut tree = Tree::new();
        let content = Content::File("/nonexistent/file".into());
        tree.insert(
            "a",
            Node::File {
                mode: 0o644,
                content,
            },
        )
        .unwrap();
        let error = tree.write_to(Vec::new()).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/file"), "{error}");
    }

    proptest! {
        #[test]
        fn the_same_files_make_the_same_bytes_in_any_order(
            files in proptest::collection::btree_map("[a-c]{1,3}(-[a-c]{1,2})?", proptest::collection::vec(any::<u8>(), 0..9), 0..9),
        ) {
            let mut forward = Tree::new();
            let mut backward = Tree::new();
            for (name, bytes) in &files {
                forward.insert_bytes(name, 0o644, bytes.as_slice()).unwrap();
            }
            for (name, bytes) in files.iter().rev() {
                backward.insert_bytes(name, 0o644, bytes.as_slice()).unwrap();
            }
            let archive = forward.write_to(Vec::new()).unwrap();
            prop_assert_eq!(&archive, &backward.write_to(Vec::new()).unwrap());
            prop_assert!(archive.len().is_multiple_of(4));
            let back: BTreeMap<_, _> =
                read_back(&archive).into_iter().map(|(name, _, bytes)| (name, bytes)).collect();
            prop_assert_eq!(back, files);
        }
    }
}
