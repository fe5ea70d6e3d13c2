//! What the kernel tells in files: `/sys`, and what of `/proc` has the same form.
//! What isn't there, or may not be read, counts as not told.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::size::Size;

/// A pool of huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HugePages {
    /// The size of one.
    pub size: Size,
    /// How many nobody uses.
    pub free: u64,
    /// How many are reserved.
    pub total: u64,
}

/// The text of a file, without the line's end.
#[must_use]
pub fn text(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

/// A switch, such as a module's parameter, which the kernel prints as Y and N or 1
/// and 0.
#[must_use]
pub fn switch(path: &Path) -> Option<bool> {
    match text(path)?.as_str() {
        "Y" | "1" => Some(true),
        "N" | "0" => Some(false),
        _ => None,
    }
}

/// The choice that a file names, in brackets among all that there are.
#[must_use]
pub fn choice(path: &Path) -> Option<String> {
    let text = text(path)?;
    let (_, rest) = text.split_once('[')?;
    let (word, _) = rest.split_once(']')?;
    Some(word.to_owned())
}

/// The texts of the files in a folder, by their names.
#[must_use]
pub fn texts(folder: &Path) -> BTreeMap<String, String> {
    let names = names(folder, |_| true).into_iter();
    names
        .filter_map(|name| {
            let text = text(&folder.join(&name))?;
            Some((name, text))
        })
        .collect()
}

/// KVM's modules of those in the folder of modules, and what they were loaded with.
#[must_use]
pub fn kvm_modules(folder: &Path) -> BTreeMap<String, BTreeMap<String, String>> {
    names(folder, |name| name == "kvm" || name.starts_with("kvm_"))
        .into_iter()
        .map(|module| {
            let parameters = texts(&folder.join(&module).join("parameters"));
            (module, parameters)
        })
        .collect()
}

/// Pools of huge pages: folders named `hugepages-<size>kB`.
#[must_use]
pub fn huge_pages(folder: &Path) -> Vec<HugePages> {
    let mut pools: Vec<HugePages> = names(folder, |_| true)
        .iter()
        .filter_map(|name| {
            let kib: u64 = name
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse()
                .ok()?;
            let count = |file: &str| text(&folder.join(name).join(file))?.parse().ok();
            Some(HugePages {
                size: Size(kib.checked_mul(1024)?),
                free: count("free_hugepages")?,
                total: count("nr_hugepages")?,
            })
        })
        .collect();
    pools.sort_by_key(|pool| pool.size);
    pools
}

/// The names in a folder that `wanted` takes, in order.
#[must_use]
pub fn names(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| wanted(name))
        .collect();
    names.sort();
    names
}

/// Files below a fresh folder.
#[cfg(test)]
pub(crate) fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_kvms_with_or_without_parameters() {
        let root = folder(&[
            ("kvm/refcnt", "1\n"),
            ("kvm_amd/parameters/nested", "1\n"),
            ("kvm_amd/parameters/npt", "Y\n"),
            ("kvmgt/refcnt", "0\n"),
        ]);
        let found = kvm_modules(root.path());
        assert_eq!(found.keys().collect::<Vec<_>>(), ["kvm", "kvm_amd"]);
        assert!(found["kvm"].is_empty());
        assert_eq!(found["kvm_amd"]["npt"], "Y");
    }

    #[test]
    fn huge_pages_are_listed_from_the_smallest() {
        let root = folder(&[
            ("hugepages-1048576kB/free_hugepages", "0\n"),
            ("hugepages-1048576kB/nr_hugepages", "1\n"),
            ("hugepages-2048kB/free_hugepages", "3\n"),
            ("hugepages-2048kB/nr_hugepages", "4\n"),
            ("other/nr_hugepages", "4\n"),
        ]);
        let pool = |size, free, total| HugePages { size, free, total };
        assert_eq!(
            huge_pages(root.path()),
            [pool(Size::mib(2), 3, 4), pool(Size::mib(1024), 0, 1)]
        );
    }

    #[test]
    fn a_choice_is_the_word_in_brackets() {
        let root = folder(&[
            ("enabled", "always [madvise] never\n"),
            ("none", "always\n"),
        ]);
        let chosen = choice(&root.path().join("enabled"));
        assert_eq!(chosen.as_deref(), Some("madvise"));
        assert_eq!(choice(&root.path().join("none")), None);
    }

    #[test]
    fn a_switch_is_a_letter_or_a_digit() {
        let root = folder(&[("on", "Y\n"), ("off", "0\n"), ("level", "2\n")]);
        let switch = |name: &str| switch(&root.path().join(name));
        assert_eq!(switch("on"), Some(true));
        assert_eq!(switch("off"), Some(false));
        assert_eq!(switch("level"), None);
        assert_eq!(switch("absent"), None);
    }
}
