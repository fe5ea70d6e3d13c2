//! Debian's Xen, unpacked and not installed, and the image of its dom0.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::binary;

/// The packages, below the folder that they are unpacked to.
const HYPERVISOR: &str = "boot/xen-4.17-amd64.gz";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const PROGRAMS: &str = "usr/lib/xen-4.17/bin";
/// What dom0 runs: the tool, its daemons, and what shows a guest's console.
const NAMES: [&str; 5] = [
    "xl",
    "xenstored",
    "xenconsoled",
    "xenconsole",
    "xen-init-dom0",
];
/// What `xl` opens only as it ends.
const OPENED_LATE: &str = "/lib/x86_64-linux-gnu/libgcc_s.so.1";
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
/// Debian's kernel for clouds can be a guest of Xen's, and not its dom0.
const KERNEL: &str = "linux-image-amd64";
const MODULES: [&str; 4] = ["xen_privcmd", "xen_evtchn", "xen_gntdev", "xenfs"];

/// Xen, and what it boots first.
#[derive(Debug)]
pub struct Xen {
    folder: TempDir,
    hypervisor: PathBuf,
}

impl Xen {
    /// Builds dom0's image, with the folder `guests` in it and the order in there.
    ///
    /// # Errors
    /// The reason for a skip: Xen isn't here.
    ///
    /// # Panics
    /// If the image can't be built.
    pub fn build(guests: &Path) -> Result<Self, String> {
        let root = unpacked()?;
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let mut command = binary::command();
        command
            // The first build of all obtains the kernel.
            .timeout(Duration::from_secs(600))
            .args(["image", "build", "--kernel", KERNEL])
            .args(MODULES.iter().flat_map(|module| ["--module", module]))
            .arg("--order")
            .arg(guests.join("dom0.json"))
            .arg("--output")
            .arg(folder.path().join("dom0.img"))
            .arg("--kernel-output")
            .arg(folder.path().join("vmlinuz"));
        for (source, place) in files(&root) {
            command.args(["--add", &format!("{}:{place}", source.display())]);
        }
        let guests = format!("{}:/guests", guests.display());
        let output = command
            .args(["--add", &guests])
            .output()
            .expect("the binary can be run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "image build: {said}");
        Ok(Self {
            folder,
            hypervisor: root.join(HYPERVISOR),
        })
    }

    /// Arguments of `nestling nest` that take it into the image, as `/xen`,
    /// `/dom0/vmlinuz` and `/dom0/dom0.img`.
    #[must_use]
    pub fn image_arguments(&self) -> Vec<String> {
        let hypervisor = format!("{}:/xen", self.hypervisor.display());
        let dom0 = format!("{}:/dom0", self.folder.path().display());
        vec!["--add".into(), hypervisor, "--add".into(), dom0]
    }
}

/// Whether Xen is here.
///
/// # Errors
/// The reason for a skip.
pub fn needs() -> Result<(), String> {
    unpacked().map(drop)
}

/// Where `resources/setup` has unpacked it.
fn unpacked() -> Result<PathBuf, String> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
        .ok_or("neither XDG_CACHE_HOME nor HOME is set")?;
    let root = cache.join("nestling/xen");
    if root.join(HYPERVISOR).is_file() {
        Ok(root)
    } else {
        Err(format!(
            "{} has no Xen: run resources/setup",
            root.display()
        ))
    }
}

/// The programs and the libraries they load, by their place in the image.
fn files(root: &Path) -> Vec<(PathBuf, String)> {
    let mut files = vec![
        (LOADER.into(), LOADER.to_owned()),
        (OPENED_LATE.into(), OPENED_LATE.to_owned()),
    ];
    for name in NAMES {
        let program = root.join(PROGRAMS).join(name);
        for library in libraries(root, &program) {
            let name = library.file_name().expect("a library has a name");
            files.push((
                library.clone(),
                format!("/{LIBRARIES}/{}", name.to_string_lossy()),
            ));
        }
        files.push((program, format!("/{PROGRAMS}/{name}")));
    }
    files.sort();
    files.dedup();
    // A link would lead nowhere in the image.
    let whole = |(file, place): (PathBuf, _)| {
        let file = file.canonicalize().expect("what was listed is there");
        (file, place)
    };
    files.into_iter().map(whole).collect()
}

/// What the loader maps for `program`: Xen's libraries, and this host's.
fn libraries(root: &Path, program: &Path) -> Vec<PathBuf> {
    let output = Command::new(LOADER)
        .arg("--library-path")
        .arg(root.join(LIBRARIES))
        .arg("--list")
        .arg(program)
        .output()
        .expect("the loader can be run");
    let listed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}: {listed}", program.display());
    listed
        .lines()
        .filter_map(|line| line.split_once(" => ")?.1.split_once(" ("))
        .map(|(library, _)| PathBuf::from(library))
        .collect()
}
