//! The nest image: a kernel, and an initramfs whose `/init` is nestling itself.
//!
//! The same inputs make the same bytes. Inside stand `/init`, the kernel for the
//! next level at `/nestling/kernel`, a [`Manifest`] beside it, the modules a
//! level needs, and whatever programs and files were asked for.

pub mod archive;
pub mod cache;
pub mod iso;
pub mod kernel;
pub mod modules;
pub mod package;
pub mod programs;
pub mod unpacked;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use archive::{Content, Node, Tree};
use cache::{Cache, Hasher};
use kernel::Kernel;

/// Where the image keeps the kernel of the next level.
pub const KERNEL_PATH: &str = "/nestling/kernel";
/// Where the image says what it holds.
pub const MANIFEST_PATH: &str = "/nestling/manifest.json";
/// The version of [`Manifest`].
pub const MANIFEST_VERSION: u32 = 1;
/// Changes whenever the same options make other bytes than before.
const FORMAT: &str = "nestling image 1";
/// The level that `zstd` has as its own default.
const ZSTD_LEVEL: i32 = 3;

/// Why no image was built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No usable kernel.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// No usable modules.
    #[error(transparent)]
    Modules(#[from] modules::Error),
    /// A program can't be taken.
    #[error(transparent)]
    Program(#[from] programs::Error),
    /// The contents don't go together, or one can't be read.
    #[error(transparent)]
    Tree(#[from] archive::Error),
    /// The ISO could not be made.
    #[error(transparent)]
    Iso(#[from] iso::Error),
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// An output failed; a full disk says so here.
    #[error("cannot write {path:?}: {source}")]
    Write {
        /// The output.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// How the initramfs is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// As it is: quickest to boot, for no level has to unpack it.
    #[default]
    None,
    /// By zstd.
    Zstd,
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "zstd" => Ok(Self::Zstd),
            _ => Err(format!("unknown compression {text:?}: none or zstd")),
        }
    }
}

/// A file or directory to take along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addition {
    /// On this machine.
    pub source: PathBuf,
    /// In the image.
    pub destination: PathBuf,
}

impl FromStr for Addition {
    type Err = String;

    /// `SOURCE` or `SOURCE:DESTINATION`, which is absolute.
    fn from_str(text: &str) -> Result<Self, String> {
        let (source, destination) = match text.rsplit_once(":/") {
            Some((source, rest)) => (source.to_owned(), PathBuf::from(format!("/{rest}"))),
            None => {
                let full = std::path::absolute(text).map_err(|error| format!("{text}: {error}"))?;
                (text.to_owned(), full)
            }
        };
        if source.is_empty() {
            return Err(format!(
                "{text:?} names no file: SOURCE or SOURCE:/DESTINATION"
            ));
        }
        Ok(Self {
            source: source.into(),
            destination,
        })
    }
}

/// What to build.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where the kernel comes from.
    pub kernel: kernel::Source,
    /// Takes the modules from here: `/lib/modules/<release>`, or above.
    pub modules: Option<PathBuf>,
    /// Modules besides [`modules::DEFAULT`].
    pub extra_modules: Vec<String>,
    /// The program that becomes `/init`; nothing stands for this very binary.
    pub init: Option<PathBuf>,
    /// The order of the level that boots from the image by itself; without one,
    /// whoever boots it hands one over.
    pub order: Option<Vec<u8>>,
    /// Programs, taken with their libraries.
    pub programs: Vec<PathBuf>,
    /// Files and directories.
    pub additions: Vec<Addition>,
    /// How the initramfs is stored.
    pub compression: Compression,
    /// Also makes a bootable ISO, with this kernel command line.
    pub iso: Option<String>,
    /// The cache; nothing stands for [`Cache::default_path`].
    pub cache: Option<PathBuf>,
}

/// What an image says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`].
    pub version: u32,
    /// The version of nestling that built it.
    pub nestling: String,
    /// The kernel's release.
    pub kernel: String,
    /// The file the kernel came from.
    pub origin: String,
    /// Its modules, by name, without those built in.
    pub modules: Vec<String>,
    /// The program that a shell workload runs, if one was taken.
    pub shell: Option<String>,
}

/// A built image. Its files are in the cache, and stay whole until it is cleared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The bzImage.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// The bootable ISO, if one was asked for.
    pub iso: Option<PathBuf>,
    /// What is in the initramfs.
    pub manifest: Manifest,
    /// A digest over all contents; the same for the same image.
    pub digest: String,
}

/// Builds an image, or finds the same one in the cache.
///
/// # Errors
/// [`Error`] says which input or output, and why.
pub fn build(options: &Options) -> Result<Image, Error> {
    let root = match &options.cache {
        Some(root) => root.clone(),
        None => Cache::default_path()?,
    };
    let cache = Cache::open(&root)?;
    let source = with_modules(&options.kernel, options.modules.as_ref());
    let kernel = source.obtain(&cache)?;
    let (tree, manifest) = assemble(options, &kernel)?;
    let digest = digest(&tree, options.compression)?;
    let initramfs = cache.file("images", &format!("{digest}.img"), |path| {
        write_initramfs(&tree, options.compression, path)
    })?;
    let iso = match &options.iso {
        None => None,
        Some(command_line) => {
            let layout = iso::Layout {
                kernel: &kernel.image,
                initramfs: &initramfs,
                command_line,
            };
            let key = layout.digest(&digest);
            Some(cache.file("images", &format!("{key}.iso"), |path| {
                iso::write(&layout, path).map_err(Error::from)
            })?)
        }
    };
    Ok(Image {
        kernel: kernel.image,
        initramfs,
        iso,
        manifest,
        digest,
    })
}

/// The source with the directory that `--modules` named.
fn with_modules(source: &kernel::Source, modules: Option<&PathBuf>) -> kernel::Source {
    match (source, modules) {
        (
            kernel::Source::Files {
                kernel,
                modules: None,
            },
            Some(directory),
        ) => kernel::Source::Files {
            kernel: kernel.clone(),
            modules: Some(directory.clone()),
        },
        (other, _) => other.clone(),
    }
}

/// Puts the contents together.
fn assemble(options: &Options, kernel: &Kernel) -> Result<(Tree, Manifest), Error> {
    let mut tree = Tree::new();
    for directory in ["dev", "etc", "proc", "run", "sys"] {
        tree.insert(directory, Node::Directory { mode: 0o755 })?;
    }
    tree.insert("tmp", Node::Directory { mode: 0o1777 })?;
    // The kernel opens it for /init before that could mount anything.
    tree.insert(
        "dev/console",
        Node::Device {
            mode: 0o600,
            major: 5,
            minor: 1,
        },
    )?;
    let init = options
        .init
        .clone()
        .unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
    tree.insert(
        "init",
        Node::File {
            mode: 0o755,
            content: Content::File(init),
        },
    )?;
    let image = Content::File(kernel.image.clone());
    tree.insert(
        KERNEL_PATH,
        Node::File {
            mode: 0o644,
            content: image,
        },
    )?;
    let modules = match &kernel.modules {
        Some(directory) => modules::add(
            &mut tree,
            directory,
            &kernel.release,
            &options.extra_modules,
        )?,
        None => Vec::new(),
    };
    if let Some(order) = &options.order {
        tree.insert_bytes(crate::order::PATH, 0o644, order.as_slice())?;
    }
    for program in &options.programs {
        programs::add(&mut tree, program)?;
    }
    for Addition {
        source,
        destination,
    } in &options.additions
    {
        tree.add(source, destination, &[])?;
    }
    let shell = add_shell(&mut tree)?;
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        nestling: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: kernel.release.clone(),
        origin: kernel.origin.clone(),
        modules,
        shell,
    };
    let text = serde_json::to_vec_pretty(&manifest).map_err(|error| Error::Write {
        path: MANIFEST_PATH.into(),
        source: error.into(),
    })?;
    tree.insert_bytes(MANIFEST_PATH, 0o644, text)?;
    Ok((tree, manifest))
}

/// Takes a shell: busybox with its applets where the host has it, else its `/bin/sh`.
fn add_shell(tree: &mut Tree) -> Result<Option<String>, Error> {
    const SHELL: &str = "/bin/sh";
    if tree.get(SHELL).is_some() {
        return Ok(Some(SHELL.to_owned()));
    }
    if let Some(busybox) = programs::find("busybox") {
        programs::add_busybox(tree, &busybox)?;
    } else if Path::new(SHELL).exists() {
        programs::add(tree, Path::new(SHELL))?;
    } else {
        return Ok(None);
    }
    Ok(Some(SHELL.to_owned()))
}

/// A digest over all that the initramfs is made of: the uncompressed archive.
fn digest(tree: &Tree, compression: Compression) -> Result<String, Error> {
    let mut hasher = Hasher::new();
    // A hasher takes all that is written.
    let _ = write!(hasher, "{FORMAT}\n{compression:?}\n");
    Ok(tree.write_to(hasher)?.finish())
}

fn write_initramfs(tree: &Tree, compression: Compression, path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(failed)?);
    match compression {
        Compression::None => tree.write_to(file).map(drop)?,
        Compression::Zstd => {
            let encoder = zstd::stream::write::Encoder::new(file, ZSTD_LEVEL).map_err(failed)?;
            let encoder = tree.write_to(encoder)?;
            encoder
                .finish()
                .and_then(|mut file| file.flush())
                .map_err(failed)?;
        }
    }
    Ok(())
}

/// Copies an output out of the cache; `path` has the old file or the new one.
///
/// # Errors
/// [`Error::Write`] with `path`.
pub fn export(cached: &Path, path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let copied = fs::copy(cached, &partial).and_then(|_| fs::rename(&partial, path));
    if copied.is_err() {
        let _ = fs::remove_file(&partial); // The first error is the one to report.
    }
    copied.map_err(failed)
}
