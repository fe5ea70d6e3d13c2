use std::net::TcpListener;
use std::thread::{self, JoinHandle};

use super::*;

const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(60),
    bytes: 1 << 20,
};

/// Answers one request with `answer`; returns what was asked.
fn server(answer: Vec<u8>) -> (Url, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/page?x=1", listener.local_addr().unwrap());
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            asked.extend(byte);
        }
        // The client may have closed before the end.
        let _ = stream.write_all(&answer);
        String::from_utf8(asked).unwrap()
    });
    (url.parse().unwrap(), thread)
}

fn fetched(answer: &[u8]) -> Result<Page, Error> {
    let (url, thread) = server(answer.to_vec());
    let page = fetch(&url, &Resolver::new(Vec::new(), None), &LIMITS);
    let asked = thread.join().unwrap();
    let expected = format!(
        "GET /page?x=1 HTTP/1.0\r\nHost: 127.0.0.1:{}\r\nUser-Agent: nestling\r\n\r\n",
        url.port
    );
    assert_eq!(asked, expected);
    page
}

#[test]
fn a_page_comes_whole() {
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    for answer in [
        "HTTP/1.0 200 OK\r\n\r\nabc",
        "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabcdef",
    ] {
        let page = fetched(answer.as_bytes()).unwrap();
        let found = (page.status, page.length, page.sha256.as_str());
        assert_eq!(found, (200, 3, abc), "{answer}");
    }
    let mut long = b"HTTP/1.0 404 Not Found\r\n\r\n".to_vec();
    long.resize(long.len() + (1 << 20), b'x');
    let page = fetched(&long).unwrap();
    assert_eq!((page.status, page.length), (404, 1 << 20));
    long.push(b'x');
    assert!(matches!(
        fetched(&long),
        Err(Error::TooLong {
            most: 0x10_0000,
            ..
        })
    ));
}

#[test]
fn bad_answers_are_told_apart() {
    for (answer, expected) in [
        ("", "the answer ends within its head"),
        ("SMTP\r\n\r\n", "does not start with HTTP/1"),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nabc",
            "ended after 3 of 4 bytes",
        ),
    ] {
        let text = fetched(answer.as_bytes()).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
    let endless = [b'x'; LONGEST_HEAD + 1];
    let text = fetched(&endless).unwrap_err().to_string();
    assert!(text.contains("head does not end"), "{text}");
}

#[test]
fn nobody_there_is_said_so() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let url: Url = format!("http://{address}").parse().unwrap();
    let error = fetch(&url, &Resolver::new(Vec::new(), None), &LIMITS).unwrap_err();
    let start = format!("cannot connect to {address} for http://{address}/: ");
    assert!(error.to_string().starts_with(&start), "{error}");
}

#[test]
fn pages_have_addresses() {
    for (text, host, port, path, shown) in [
        ("http://lab", "lab", 80, "/", "http://lab:80/"),
        (
            "http://lab:8080/a/b?c",
            "lab",
            8080,
            "/a/b?c",
            "http://lab:8080/a/b?c",
        ),
        (
            "http://[fd00::1]/",
            "fd00::1",
            80,
            "/",
            "http://[fd00::1]:80/",
        ),
        (
            "http://[fd00::1]:81",
            "fd00::1",
            81,
            "/",
            "http://[fd00::1]:81/",
        ),
    ] {
        let url: Url = text.parse().unwrap();
        let found = (url.host.as_str(), url.port, url.path.as_str());
        assert_eq!(found, (host, port, path), "{text}");
        assert_eq!(url.to_string(), shown);
        assert_eq!(shown.parse::<Url>().unwrap(), url);
    }
    for text in [
        "",
        "lab",
        "https://lab/",
        "http://",
        "http:///path",
        "http://lab:/",
        "http://lab:+1/",
        "http://lab:65536/",
        "http://me@lab/",
        "http://[lab]/",
        "http://[fd00::1/",
        "http://[fd00::1]x/",
        "http://lab/a b",
        "http://lab/\r\nHost: other",
        "http://lab/#top",
    ] {
        assert!(
            matches!(text.parse::<Url>(), Err(Error::Url(_))),
            "{text:?}"
        );
    }
}

#[test]
fn what_is_given_up_is_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url: Url = format!("http://{}/", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let limits = Limits {
        timeout: Duration::from_millis(50),
        ..LIMITS
    };
    let page = fetch(&url, &Resolver::new(Vec::new(), None), &limits);
    assert!(matches!(page, Err(Error::Timeout { .. })), "{page:?}");
    let (mut stream, _) = listener.accept().unwrap();
    let error = stream.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}
