//! The folder in which the control sockets of a user's machines and nests are,
//! each named by its process's number.

#![allow(unsafe_code)]

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::socket;
use super::{Error, ask};
use crate::api::message::{Info, Reply, Request};

/// How a control socket's name ends.
const SUFFIX: &str = ".sock";

/// The folder, made if it isn't there: `$XDG_RUNTIME_DIR/nestling`, or without
/// that variable `/run/nestling` for root and `nestling-UID` in the folder for
/// temporary files for others.
///
/// # Errors
/// What the system says, or that others could write there.
pub fn directory() -> io::Result<PathBuf> {
    // SAFETY: takes no arguments and can't fail.
    let user = unsafe { libc::geteuid() };
    let path = match std::env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty()) {
        Some(runtime) => Path::new(&runtime).join("nestling"),
        None if user == 0 => "/run/nestling".into(),
        None => std::env::temp_dir().join(format!("nestling-{user}")),
    };
    match DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(io::Error::new(
                error.kind(),
                format!("{}: {error}", path.display()),
            ));
        }
        Ok(()) | Err(_) => {}
    }
    private(&path, user)?;
    Ok(path)
}

/// Whether `path` is a folder of the user's in which nobody else can put things.
fn private(path: &Path, user: u32) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if found.is_dir() && found.uid() == user && found.mode() & 0o022 == 0 {
        Ok(())
    } else {
        Err(io::Error::other(format!(
            "{} is no folder of this user's alone",
            path.display()
        )))
    }
}

/// Where the process of this number has its control socket.
///
/// # Errors
/// As [`directory`].
pub fn socket_of(process: u32) -> io::Result<PathBuf> {
    Ok(directory()?.join(format!("{process}{SUFFIX}")))
}

/// The control sockets at which somebody listens. Those left by processes that
/// were killed are removed on the way.
///
/// # Errors
/// As [`directory`], or the folder can't be read.
pub fn sockets() -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory()?)? {
        let path = entry?.path();
        if !path.to_string_lossy().ends_with(SUFFIX) {
            continue;
        }
        if socket::is_abandoned(&path) {
            // Another may have removed it meanwhile.
            let _ = fs::remove_file(&path);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// All that run, each with its socket. One that ends meanwhile is left out.
pub fn running() -> Result<Vec<(PathBuf, Info)>, Error> {
    let mut running = Vec::new();
    for path in sockets().map_err(Error::Directory)? {
        if let Ok(Reply::Info(info)) = ask(&path, Request::Info) {
            running.push((path, *info));
        }
    }
    Ok(running)
}

/// The one that a person calls `name`: by the path of its socket, its process's
/// number, or its name.
pub fn find(name: &str) -> Result<(PathBuf, Info), Error> {
    if name.contains('/') {
        let path = PathBuf::from(name);
        return match ask(&path, Request::Info)? {
            Reply::Info(info) => Ok((path, *info)),
            _ => Err(Error::Unknown(name.into())),
        };
    }
    let mut found: Vec<_> = running()?
        .into_iter()
        .filter(|(_, info)| info.name == name || info.pid.to_string() == name)
        .collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Error::Unknown(name.into())),
        count => Err(Error::Ambiguous {
            name: name.into(),
            count,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_that_others_can_write_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let user = fs::metadata(folder.path()).unwrap().uid();
        for (mode, fine) in [(0o700, true), (0o755, true), (0o770, false), (0o702, false)] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(private(folder.path(), user).is_ok(), fine, "{mode:o}");
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(private(folder.path(), user + 1).is_err());
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(private(&file, user).is_err());
    }
}
