//! The folder on the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Boot, Error, Manifest, VERSION};

const MANIFEST: &str = "manifest.json";
/// What a file is called until it is complete.
const PARTIAL: &str = ".partial";

/// A folder of results.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

/// All that a folder holds.
#[derive(Clone, Debug)]
pub struct Results {
    /// What was to be measured.
    pub manifest: Manifest,
    /// The boots that are over, in the order of their numbers.
    pub boots: Vec<Boot>,
    /// Files that can't be used.
    pub damaged: Vec<Damage>,
}

/// A file that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// Its name in the folder.
    pub file: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Folder {
    /// Makes the folder, if need be, and puts `manifest` into it.
    ///
    /// # Errors
    /// [`Error::Exists`] if it holds results already.
    pub fn create(path: impl Into<PathBuf>, manifest: &Manifest) -> Result<Self, Error> {
        let folder = Self { path: path.into() };
        fs::create_dir_all(&folder.path).map_err(at(&folder.path))?;
        folder.add(MANIFEST, manifest)?;
        Ok(folder)
    }

    /// A folder that holds results already.
    ///
    /// # Errors
    /// If it doesn't, or they are of another version.
    pub fn open(path: impl Into<PathBuf>) -> Result<(Self, Manifest), Error> {
        let folder = Self { path: path.into() };
        let manifest = folder.path.join(MANIFEST);
        if !manifest.exists() {
            // A folder that isn't there, or can't be read, says so itself.
            fs::read_dir(&folder.path).map_err(at(&folder.path))?;
            return Err(Error::NoManifest(folder.path));
        }
        let read: Manifest = read(&manifest)?;
        match read.plan.problem() {
            None => Ok((folder, read)),
            Some(reason) => Err(Error::Damaged {
                path: manifest,
                reason,
            }),
        }
    }

    /// Whether a boot of this number can be kept.
    ///
    /// # Errors
    /// [`Error::Exists`] if one is kept already.
    pub fn vacant(&self, number: usize) -> Result<(), Error> {
        let path = self.path.join(file_name(number));
        match path.try_exists() {
            Ok(true) => Err(Error::Exists(path)),
            Ok(false) => Ok(()),
            Err(error) => Err(at(&path)(error)),
        }
    }

    /// Keeps a boot that is over.
    ///
    /// # Errors
    /// [`Error::Exists`] if a boot of its number is kept already.
    pub fn keep(&self, boot: &Boot) -> Result<(), Error> {
        self.add(&file_name(boot.number), boot)
    }

    /// Gives a damaged file another name, so that its boot can be measured again. The
    /// file stays.
    pub fn set_aside(&self, damage: &Damage) -> Result<(), Error> {
        let path = self.path.join(&damage.file);
        let aside = (0..)
            .map(|n: u32| self.path.join(format!("{}.damaged-{n}", damage.file)))
            .find(|aside| !aside.exists())
            .expect("there are more numbers than files");
        fs::rename(&path, aside).map_err(at(&path))?;
        self.sync()
    }

    /// Reads all boots. A file that is damaged doesn't keep the others from being
    /// used.
    ///
    /// # Errors
    /// If the folder can't be read, or a boot is of another version.
    pub fn read(&self) -> Result<(Vec<Boot>, Vec<Damage>), Error> {
        let mut names: Vec<String> = names(&self.path)?.collect();
        names.sort();
        let mut boots = BTreeMap::new();
        let mut damaged = Vec::new();
        for file in names {
            let Some(number) = number(&file) else {
                if file.ends_with(PARTIAL) {
                    let reason = "its writing was interrupted".to_owned();
                    damaged.push(Damage { file, reason });
                }
                continue;
            };
            match read::<Boot>(&self.path.join(&file)) {
                Ok(boot) if boot.number == number => {
                    boots.insert(number, boot);
                }
                Ok(boot) => {
                    let reason = format!("it holds boot {}", boot.number);
                    damaged.push(Damage { file, reason });
                }
                Err(Error::Damaged { reason, .. }) => damaged.push(Damage { file, reason }),
                Err(error) => return Err(error),
            }
        }
        Ok((boots.into_values().collect(), damaged))
    }

    /// Writes a new file as a whole, and durably: under another name first, flushed,
    /// then linked to the name it is to have, which never replaces a file.
    fn add(&self, name: &str, content: &impl Serialize) -> Result<(), Error> {
        let path = self.path.join(name);
        let partial = self
            .path
            .join(format!("{name}.{}{PARTIAL}", std::process::id()));
        let written = write(&partial, content).and_then(|()| fs::hard_link(&partial, &path));
        // The first error is the one to report.
        let removed = fs::remove_file(&partial);
        match written {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::Exists(path));
            }
            written => written.map_err(at(&path))?,
        }
        removed.map_err(at(&partial))?;
        self.sync()
    }

    /// Makes the names in the folder durable.
    fn sync(&self) -> Result<(), Error> {
        let synced = File::open(&self.path).and_then(|folder| folder.sync_all());
        synced.map_err(at(&self.path))
    }
}

impl Results {
    /// Reads all results of the folder at `path`.
    ///
    /// # Errors
    /// If it isn't a folder of results, or they are of another version.
    pub fn read(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let (folder, manifest) = Folder::open(path)?;
        let (mut boots, mut damaged) = folder.read()?;
        boots.retain(|boot| {
            let planned = manifest.plan.configuration(boot.number);
            let fits = planned.as_ref() == Some(&boot.configuration);
            if !fits {
                damaged.push(Damage {
                    file: file_name(boot.number),
                    reason: "it isn't what the manifest plans under its number".to_owned(),
                });
            }
            fits
        });
        Ok(Self {
            manifest,
            boots,
            damaged,
        })
    }

    /// The numbers of the boots that aren't there yet.
    pub fn missing(&self) -> Vec<usize> {
        let there: BTreeSet<usize> = self.boots.iter().map(|boot| boot.number).collect();
        (0..self.manifest.plan.total_boots())
            .filter(|number| !there.contains(number))
            .collect()
    }
}

/// The numbers of the boots whose files are in the folder at `path`, by their names
/// alone. On a network's file system, what other machines have added is seen as well.
///
/// # Errors
/// If the folder can't be read.
pub fn kept(path: &Path) -> Result<BTreeSet<usize>, Error> {
    Ok(names(path)?.filter_map(|name| number(&name)).collect())
}

fn names(folder: &Path) -> Result<impl Iterator<Item = String> + use<>, Error> {
    let entries = fs::read_dir(folder).map_err(at(folder))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()))
}

fn file_name(number: usize) -> String {
    format!("boot-{number:04}.json")
}

/// The number of the boot that a file of this name holds.
fn number(file: &str) -> Option<usize> {
    let number = file.strip_prefix("boot-")?.strip_suffix(".json")?;
    number.parse().ok()
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    |source| Error::File { path, source }
}

fn write(path: &Path, content: &impl Serialize) -> io::Result<()> {
    let mut file = File::create(path)?;
    let mut text = serde_json::to_vec(content)?;
    text.push(b'\n');
    file.write_all(&text)?;
    file.sync_all()
}

/// Reads a file whose version is looked at before anything else.
fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u64,
        nestling: Option<String>,
    }
    let text = fs::read(path).map_err(at(path))?;
    let damaged = |error: serde_json::Error| Error::Damaged {
        path: path.to_owned(),
        reason: if error.is_eof() {
            format!("it ends too early, after {} bytes", text.len())
        } else {
            error.to_string()
        },
    };
    let head: Versioned = serde_json::from_slice(&text).map_err(damaged)?;
    if head.version != u64::from(VERSION) {
        return Err(Error::Version {
            path: path.to_owned(),
            found: head.version,
            nestling: head.nestling,
        });
    }
    serde_json::from_slice(&text).map_err(damaged)
}

#[cfg(test)]
mod tests;
