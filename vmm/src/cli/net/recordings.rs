//! The files that ports' frames are recorded to.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nestling_devices::net::ports::pcap::{InterfaceId, Recording};

use crate::cli::Failure;

/// Frames can't be recorded.
#[derive(Debug, thiserror::Error)]
#[error("cannot record frames to {path}: {source}")]
struct Error {
    path: PathBuf,
    source: io::Error,
}

/// Recordings, each of as many ports as name its file.
#[derive(Default)]
pub(super) struct Recordings(Vec<(PathBuf, Recording)>);

impl Recordings {
    /// Has a port recorded to `path`. What the file held is gone.
    pub(super) fn add(
        &mut self,
        path: &Path,
        name: &str,
    ) -> Result<(Recording, InterfaceId), Failure> {
        let known = self.0.iter().find(|(known, _)| known == path);
        let recording = if let Some((_, recording)) = known {
            recording.clone()
        } else {
            let started = File::create(path).and_then(Recording::start);
            let recording = started.map_err(|source| failed(path, source))?;
            self.0.push((path.into(), recording.clone()));
            recording
        };
        let id = recording.add(name);
        Ok((recording, id))
    }

    /// Ends all of them, when nothing more can come.
    pub(super) fn finish(self) -> Result<(), Failure> {
        for (path, recording) in self.0 {
            recording.finish().map_err(|source| failed(&path, source))?;
            let dropped = recording.dropped();
            if dropped > 0 {
                tracing::warn!("{}: {dropped} frames are missing", path.display());
            }
        }
        Ok(())
    }
}

fn failed(path: &Path, source: io::Error) -> Failure {
    Failure::failed(Error {
        path: path.into(),
        source,
    })
}
