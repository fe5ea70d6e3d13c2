//! The host's proof that the deepest level is reached from outside: it fetches
//! that level's page by a static mapping.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nestling_devices::bus::lock;

use crate::channel::WorkloadResult;
use crate::guest::net::fetch::{Limits, Url, fetch};
use crate::guest::net::resolve::Resolver;

/// The time between two tries: the level has to boot before one succeeds.
const INTERVAL: Duration = Duration::from_millis(500);

/// How much of a page is taken, and how long that may last. A try that comes too
/// early waits for a packet that is sent again ever more rarely: a new one is
/// sooner there.
const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(10),
    bytes: 1 << 20,
};

/// Fetches a page as soon as it is there.
pub struct Fetcher {
    from: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    ended: AtomicBool,
    /// What came of the last try.
    found: Mutex<Option<Result<String, String>>>,
}

impl Fetcher {
    /// Begins to try, in a thread of its own.
    pub fn start(from: SocketAddr) -> Self {
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        // One that can't be started is one that found nothing.
        let _ = thread::Builder::new()
            .name("nestling-fetch".into())
            .spawn(move || attempt(from, &shared));
        Self { from, state }
    }

    /// Ends the tries, and says what came of them.
    pub fn finish(self) -> WorkloadResult {
        self.state.ended.store(true, Ordering::Relaxed);
        let found = lock(&self.state.found)
            .take()
            .unwrap_or_else(|| Err("the page was not asked for".into()));
        WorkloadResult {
            name: format!("fetch {}", self.from),
            ok: found.is_ok(),
            status: None,
            output: found.unwrap_or_else(|error| error),
        }
    }
}

fn attempt(from: SocketAddr, state: &State) {
    let url = Url {
        host: from.ip().to_string(),
        port: from.port(),
        path: "/".into(),
    };
    let resolver = Resolver::new(Vec::new(), None);
    while !state.ended.load(Ordering::Relaxed) {
        let found = match fetch(&url, &resolver, &LIMITS) {
            Ok(page) if page.status == 200 => {
                Ok(format!("the deepest level's page, {} bytes", page.length))
            }
            Ok(page) => Err(format!("{url} has status {}", page.status)),
            Err(error) => Err(error.to_string()),
        };
        let done = found.is_ok();
        *lock(&state.found) = Some(found);
        if done {
            return;
        }
        thread::sleep(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_page_that_comes_late_is_fetched() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let from = listener.local_addr().unwrap();
        drop(listener);
        let fetcher = Fetcher::start(from);
        let listener = TcpListener::bind(from).unwrap();
        let (mut client, _) = listener.accept().unwrap();
        let _read = client.read(&mut [0; 1024]).unwrap();
        client
            .write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello")
            .unwrap();
        drop(client);
        let start = Instant::now();
        while fetcher
            .state
            .found
            .lock()
            .unwrap()
            .as_ref()
            .is_none_or(Result::is_err)
        {
            assert!(start.elapsed() < Duration::from_secs(20));
            thread::sleep(Duration::from_millis(10));
        }
        let result = fetcher.finish();
        assert!(result.ok, "{}", result.output);
        assert_eq!(result.output, "the deepest level's page, 5 bytes");
    }

    #[test]
    fn a_page_that_never_comes_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let from = listener.local_addr().unwrap();
        drop(listener);
        let fetcher = Fetcher::start(from);
        while fetcher.state.found.lock().unwrap().is_none() {
            thread::sleep(Duration::from_millis(10));
        }
        let result = fetcher.finish();
        assert!(!result.ok);
        assert!(
            result.output.contains(&from.to_string()),
            "{}",
            result.output
        );
    }
}
