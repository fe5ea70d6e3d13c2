//! Sockets by which programs of the same user ask a process of nestling's that
//! runs: a machine, a nest, a virtual network.

pub mod directory;
pub mod line;
pub mod machine;
pub mod message;
pub mod nest;
pub mod socket;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use message::{Reply, Request};
use socket::SocketFile;

/// Why a control socket can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket can't be made.
    #[error(
        "can't listen at the control socket {path}: {source}; --api-socket names another, or off"
    )]
    Listen {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder of the control sockets can't be had.
    #[error("no folder for control sockets: {0}; set XDG_RUNTIME_DIR")]
    Directory(io::Error),
    /// Nobody is there.
    #[error("nothing runs at the control socket {path}: {source}")]
    Connect {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("the process at {path} doesn't answer: {source}")]
    Talk {
        /// Where.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// What was asked for isn't there.
    #[error("{0}")]
    Refused(String),
    /// No process of this user has that name or number.
    #[error("no machine or nest of yours is called {0:?}: `nestling stat` lists those that run")]
    Unknown(String),
    /// Several have it.
    #[error("{name:?} is the name of {count} machines: name one by its process's number")]
    Ambiguous {
        /// The name.
        name: String,
        /// How many there are.
        count: usize,
    },
}

/// Who answers at a control socket. Called from the socket's own thread.
pub trait Answer: Send + Sync {
    /// Answers one request; an error is said in one line.
    fn answer(&self, request: Request) -> Result<Reply, String>;
}

/// The time since `start` in nanoseconds.
fn nanoseconds_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// A control socket at work. Dropping it removes it.
pub struct Server {
    _file: SocketFile,
}

impl Server {
    /// Listens at `path` on behalf of `who`. A socket that somebody left there by
    /// dying is replaced.
    pub fn listen(path: &Path, who: Arc<dyn Answer>) -> Result<Self, Error> {
        let failed = |source| Error::Listen {
            path: path.into(),
            source,
        };
        let (listener, file) = socket::listen(path).map_err(failed)?;
        line::serve(listener, "nestling-api", move |line| {
            line::request(line)
                .and_then(|request| who.answer(request))
                .unwrap_or_else(|message| Reply::Error { message })
        })
        .map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// Asks the process at a control socket for something.
pub fn ask(path: &Path, request: Request) -> Result<Reply, Error> {
    let reply = line::ask(path, request).map_err(|error| match error {
        line::Error::Connect(source) => Error::Connect {
            path: path.into(),
            source,
        },
        line::Error::Talk(source) => Error::Talk {
            path: path.into(),
            source,
        },
    })?;
    match reply {
        Reply::Error { message } => Err(Error::Refused(message)),
        reply => Ok(reply),
    }
}
