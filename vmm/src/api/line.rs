//! Conversations over a control socket: one JSON object a line, each with the
//! version of the format, a reply to each request.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of the formats.
pub const VERSION: u32 = 1;

/// The longest request that is taken, in bytes: any is far shorter.
const MAX_REQUEST: u64 = 4096;
/// The longest reply that is taken, in bytes.
const MAX_REPLY: u64 = 16 << 20;

/// Who says nothing for so long has to call again: one is served at a time.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody is there.
    #[error("can't connect: {0}")]
    Connect(io::Error),
    /// The conversation broke off.
    #[error("no answer: {0}")]
    Talk(io::Error),
}

/// A line: a request or a reply with the version of the format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line<T> {
    /// [`VERSION`].
    pub version: u32,
    /// What is said.
    #[serde(flatten)]
    pub said: T,
}

impl<T> Line<T> {
    /// A line of this version.
    pub fn new(said: T) -> Self {
        Self {
            version: VERSION,
            said,
        }
    }
}

/// What a line asks for; an error says in one line why it asks for nothing.
pub fn request<Q: DeserializeOwned>(line: &str) -> Result<Q, String> {
    let Line { version, said } =
        serde_json::from_str(line).map_err(|error| format!("no request: {error}"))?;
    if version != VERSION {
        return Err(format!(
            "version {version} isn't known; this nestling reads {VERSION}"
        ));
    }
    Ok(said)
}

/// Answers whoever calls at `listener`, one after another, in a thread of this
/// name that ends with the process. `answer` is given each line.
///
/// # Errors
/// What the system says if there can be no thread.
pub fn serve<A: Serialize>(
    listener: UnixListener,
    thread: &str,
    answer: impl Fn(&str) -> A + Send + 'static,
) -> io::Result<()> {
    let attend = move || {
        for stream in listener.incoming().flatten() {
            // Who breaks off has no answer to miss.
            let _ = converse(&stream, &answer);
        }
    };
    thread::Builder::new()
        .name(thread.into())
        .spawn(attend)
        .map(drop)
}

fn converse<A: Serialize>(stream: &UnixStream, answer: impl Fn(&str) -> A) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if (&mut reader).take(MAX_REQUEST).read_line(&mut line)? == 0 {
            return Ok(());
        }
        write_line(stream, answer(&line))?;
    }
}

fn write_line<T: Serialize>(mut stream: &UnixStream, said: T) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Line::new(said))?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Asks whoever listens at `path` for something.
///
/// # Errors
/// [`Error`] says whether anybody was there.
pub fn ask<Q: Serialize, A: DeserializeOwned>(path: &Path, request: Q) -> Result<A, Error> {
    let stream = UnixStream::connect(path).map_err(Error::Connect)?;
    exchange(&stream, request).map_err(Error::Talk)
}

fn exchange<Q: Serialize, A: DeserializeOwned>(stream: &UnixStream, request: Q) -> io::Result<A> {
    stream.set_read_timeout(Some(2 * PATIENCE))?;
    write_line(stream, request)?;
    let mut line = String::new();
    if BufReader::new(stream)
        .take(MAX_REPLY)
        .read_line(&mut line)?
        == 0
    {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let Line { said, .. } = serde_json::from_str(&line)?;
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::socket::listen;

    #[test]
    fn each_line_is_answered_in_turn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (listener, _file) = listen(&path).unwrap();
        serve(
            listener,
            "test",
            |line| serde_json::json!({ "heard": request::<serde_json::Value>(line) }),
        )
        .unwrap();
        for word in ["first", "second"] {
            let said: serde_json::Value = ask(&path, serde_json::json!({ "do": word })).unwrap();
            assert_eq!(said["heard"]["Ok"]["do"], word);
        }
        let Err(Error::Connect(_)) = ask::<_, ()>(&folder.path().join("other"), ()) else {
            panic!("nobody is there");
        };
    }

    #[test]
    fn what_is_no_request_is_told_why() {
        for (line, said) in [
            ("x", "no request: "),
            ("{\"version\":2,\"a\":1}", "version 2 isn't known"),
        ] {
            let error = request::<serde_json::Value>(line).unwrap_err();
            assert!(error.starts_with(said), "{error}");
        }
    }
}
