//! The host's resolvers, followed as they change.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::net::services::dns::PORT;
use crate::net::services::dns::resolv::nameservers;

/// A file's identity: another file, or another text in it, has another. Its
/// length tells a text from its beginning, which may stand there first.
type Identity = (u64, u64, u64, i64, i64);

/// Where the resolvers are named.
#[derive(Debug)]
pub enum Resolvers {
    /// Here, for good.
    Fixed(Vec<SocketAddr>),
    /// In a file (resolv.conf(5)), with its identity when it was last read.
    File(PathBuf, Option<Identity>),
}

impl Resolvers {
    /// Those that the host itself uses.
    pub fn of_host() -> Self {
        Self::File("/etc/resolv.conf".into(), None)
    }

    /// The resolvers, if they changed since the last call. Where the file
    /// can't be read, those known stay.
    pub fn changed(&mut self) -> Option<Vec<SocketAddr>> {
        match self {
            Self::Fixed(servers) if servers.is_empty() => None,
            Self::Fixed(servers) => Some(std::mem::take(servers)),
            Self::File(path, known) => {
                let found = identity(path).ok();
                if found.is_none() || found == *known {
                    return None;
                }
                let text = fs::read(path).ok()?;
                *known = found;
                let servers = nameservers(&String::from_utf8_lossy(&text));
                // One that is reached by an interface's link alone can't be
                // told to a socket without the interface.
                let reached = servers.iter().filter(|server| server.zone.is_none());
                Some(
                    reached
                        .map(|server| SocketAddr::new(server.address, PORT))
                        .collect(),
                )
            }
        }
    }
}

fn identity(path: &PathBuf) -> io::Result<Identity> {
    let found = fs::metadata(path)?;
    Ok((
        found.dev(),
        found.ino(),
        found.size(),
        found.mtime(),
        found.mtime_nsec(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_followed_as_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let mut resolvers = Resolvers::File(path.clone(), None);
        assert_eq!(resolvers.changed(), None);
        fs::write(&path, "nameserver 192.0.2.1\nnameserver fe80::1%eth0\n").unwrap();
        let first = "192.0.2.1:53".parse().unwrap();
        assert_eq!(resolvers.changed(), Some(vec![first]));
        assert_eq!(resolvers.changed(), None);
        let other = folder.path().join("other");
        fs::write(&other, "nameserver 2001:db8::1\n").unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(
            resolvers.changed(),
            Some(vec!["[2001:db8::1]:53".parse().unwrap()])
        );
        fs::remove_file(&path).unwrap();
        assert_eq!(resolvers.changed(), None);
    }

    #[test]
    fn fixed_ones_are_told_once() {
        let server = "192.0.2.1:53".parse().unwrap();
        let mut resolvers = Resolvers::Fixed(vec![server]);
        assert_eq!(resolvers.changed(), Some(vec![server]));
        assert_eq!(resolvers.changed(), None);
    }
}
