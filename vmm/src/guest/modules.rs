//! Loading kernel modules: which, in which order, with which parameters.
//!
//! The image holds few modules, so dependencies are read from the modules
//! themselves and no index has to be kept in step with them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::modinfo::{self, Modinfo, canonical};
use super::sys;

/// Why a module isn't loaded.
#[derive(Debug, Error)]
pub enum Error {
    /// Neither a file in the image, nor built in, nor loaded.
    #[error("module {0} is not in this image")]
    Absent(String),
    /// A module in the chain of dependencies depends on itself.
    #[error("module {0} depends on itself")]
    Cycle(String),
    /// The file is unusable.
    #[error("module {name}: {source}")]
    Unreadable {
        /// The module.
        name: String,
        /// Why.
        source: modinfo::Error,
    },
    /// The kernel refused it.
    #[error("kernel refused module {name}: {source}")]
    Refused {
        /// The module.
        name: String,
        /// What `init_module` answered.
        source: io::Error,
    },
}

/// A module to hand to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its canonical name.
    pub name: String,
    /// Its uncompressed image.
    pub image: Vec<u8>,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// Loaded already, or part of the kernel.
    Present,
    /// Nowhere to be found.
    Absent,
    /// A file, read and decompressed.
    File(Vec<u8>),
}

/// What has to be loaded for `wanted`, dependencies first.
///
/// # Errors
/// [`Error::Absent`] if it or a hard dependency is missing, [`Error::Cycle`],
/// [`Error::Unreadable`], or what `look_up` answers.
pub fn resolve(
    wanted: &str,
    look_up: &mut impl FnMut(&str) -> Result<Lookup, Error>,
) -> Result<Vec<Module>, Error> {
    let mut plan = Vec::new();
    visit(&canonical(wanted), look_up, &mut Vec::new(), &mut plan)?;
    Ok(plan)
}

fn visit(
    name: &str,
    look_up: &mut impl FnMut(&str) -> Result<Lookup, Error>,
    open: &mut Vec<String>,
    plan: &mut Vec<Module>,
) -> Result<(), Error> {
    if plan.iter().any(|module| module.name == name) {
        return Ok(());
    }
    if open.iter().any(|other| other == name) {
        return Err(Error::Cycle(name.to_owned()));
    }
    let image = match look_up(name)? {
        Lookup::Present => return Ok(()),
        Lookup::Absent => return Err(Error::Absent(name.to_owned())),
        Lookup::File(image) => image,
    };
    let info = Modinfo::parse(&image).map_err(|source| Error::Unreadable {
        name: name.to_owned(),
        source,
    })?;
    open.push(name.to_owned());
    for soft in &info.pre {
        let (planned, opened) = (plan.len(), open.len());
        // A soft dependency that can't be had is done without, wholly.
        if visit(soft, look_up, open, plan).is_err() {
            plan.truncate(planned);
            open.truncate(opened);
        }
    }
    for hard in &info.depends {
        visit(hard, look_up, open, plan)?;
    }
    open.pop();
    plan.push(Module {
        name: name.to_owned(),
        image,
    });
    Ok(())
}

/// The modules of the running kernel.
#[derive(Debug)]
pub struct Tree {
    files: BTreeMap<String, PathBuf>,
    builtin: Vec<String>,
}

impl Tree {
    /// Indexes `/lib/modules/<release>`. A tree that isn't there is empty.
    #[must_use]
    pub fn open(root: &Path) -> Self {
        let mut files = BTreeMap::new();
        walk(root, &mut files);
        let builtin = fs::read_to_string(root.join("modules.builtin")).unwrap_or_default();
        let builtin = builtin
            .lines()
            .filter_map(|line| Path::new(line).file_name()?.to_str())
            .filter_map(modinfo::name_of)
            .collect();
        Self { files, builtin }
    }

    /// Loads a module and what it depends on; `parameters` go to it alone, in
    /// the form `name=value name=value`.
    ///
    /// # Errors
    /// [`Error`] says which module couldn't be loaded and why.
    pub fn load(&self, name: &str, parameters: &str) -> Result<(), Error> {
        let name = canonical(name);
        for module in resolve(&name, &mut |name| self.look_up(name))? {
            let parameters = if module.name == name { parameters } else { "" };
            match sys::init_module(&module.image, parameters) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => {
                    return Err(Error::Refused {
                        name: module.name,
                        source,
                    });
                }
            }
        }
        Ok(())
    }

    fn look_up(&self, name: &str) -> Result<Lookup, Error> {
        if Path::new("/sys/module")
            .join(name)
            .join("initstate")
            .exists()
            || self.builtin.iter().any(|builtin| builtin == name)
        {
            return Ok(Lookup::Present);
        }
        match self.files.get(name) {
            None if Path::new("/sys/module").join(name).exists() => Ok(Lookup::Present),
            None => Ok(Lookup::Absent),
            Some(path) => {
                modinfo::read(path)
                    .map(Lookup::File)
                    .map_err(|source| Error::Unreadable {
                        name: name.to_owned(),
                        source,
                    })
            }
        }
    }
}

fn walk(directory: &Path, files: &mut BTreeMap<String, PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        // Not followed: `build` and `source` are links out of the tree.
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&path, files),
            Ok(_) => {
                if let Some(name) = entry.file_name().to_str().and_then(modinfo::name_of) {
                    files.insert(name, path);
                }
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::modinfo::tests::module;
    use super::*;

    fn names(wanted: &str, tree: &[(&str, &[&str])]) -> Result<Vec<String>, Error> {
        let mut look_up = |name: &str| {
            Ok(match tree.iter().find(|(file, _)| *file == name) {
                None => Lookup::Absent,
                Some((_, ["builtin"])) => Lookup::Present,
                Some((_, entries)) => Lookup::File(module(entries)),
            })
        };
        Ok(resolve(wanted, &mut look_up)?
            .into_iter()
            .map(|module| module.name)
            .collect())
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let tree: &[(&str, &[&str])] = &[
            ("kvm_amd", &["depends=kvm,ccp"]),
            ("kvm", &["depends=irqbypass"]),
            ("irqbypass", &["builtin"]),
            ("ccp", &["depends=rng-core,kvm"]),
            ("rng_core", &["depends="]),
        ];
        assert_eq!(
            names("kvm-amd", tree).unwrap(),
            ["kvm", "rng_core", "ccp", "kvm_amd"]
        );
    }

    #[test]
    fn a_missing_hard_dependency_is_named() {
        let error = names("a", &[("a", &["depends=b"]), ("b", &["depends=c"])]).unwrap_err();
        assert!(matches!(error, Error::Absent(name) if name == "c"));
    }

    #[test]
    fn a_missing_soft_dependency_is_left_out_with_what_it_brought() {
        let tree: &[(&str, &[&str])] = &[
            ("a", &["softdep=pre: b", "depends="]),
            ("b", &["depends=c,d"]),
            ("c", &["depends="]),
        ];
        assert_eq!(names("a", tree).unwrap(), ["a"]);
    }

    #[test]
    fn a_soft_dependency_that_failed_can_be_had_by_another() {
        let tree: &[(&str, &[&str])] = &[
            ("a", &["depends=b,c"]),
            ("b", &["softdep=pre: c d"]),
            ("c", &["depends=b"]),
            ("d", &["depends=b"]),
        ];
        assert_eq!(names("a", tree).unwrap(), ["b", "c", "a"]);
    }

    #[test]
    fn a_cycle_is_an_error() {
        let error = names("a", &[("a", &["depends=b"]), ("b", &["depends=a"])]).unwrap_err();
        assert!(matches!(error, Error::Cycle(name) if name == "a"));
    }

    #[test]
    fn a_tree_is_indexed_by_canonical_name() {
        let root = tempfile::tempdir().unwrap();
        let kernel = root.path().join("kernel/arch");
        fs::create_dir_all(&kernel).unwrap();
        fs::write(kernel.join("nestling-test.ko"), module(&["depends="])).unwrap();
        fs::write(
            root.path().join("modules.builtin"),
            "kernel/x/nestling-core.ko\n",
        )
        .unwrap();
        let tree = Tree::open(root.path());
        assert!(matches!(tree.look_up("nestling_test"), Ok(Lookup::File(_))));
        assert_eq!(tree.look_up("nestling_core").unwrap(), Lookup::Present);
        assert_eq!(tree.look_up("nestling_other").unwrap(), Lookup::Absent);
    }
}
