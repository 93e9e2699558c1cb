//! As much of a web server as a scrape needs: one short request at a time, one answer, and the end of the connection.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Where the figures are.
pub const PATH: &str = "/metrics";

/// What the answer's text is: version 0.0.4 of the format, which all that scrape can read.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// How long a request may take to come, and an answer to go. Others wait for it.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of the longest request.
const LONGEST: usize = 16 << 10;
/// Lines of a request's head, at most.
const HEADERS: usize = 64;

/// Answers requests as long as the program runs.
pub fn serve(listener: &TcpListener, text: impl Fn() -> String) {
    loop {
        match listener.accept() {
            // Whoever breaks off has no answer coming.
            Ok((stream, _)) => drop(answer(stream, &text)),
            // Such as too many open files.
            Err(_) => std::thread::sleep(PATIENCE),
        }
    }
}

fn answer(mut stream: TcpStream, text: impl Fn() -> String) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let (status, more, body) = match target(&mut stream)? {
        Target::Figures => ("200 OK", "", text()),
        Target::Elsewhere => ("404 Not Found", "", format!("the figures are at {PATH}\n")),
        Target::Other => ("405 Method Not Allowed", "Allow: GET\r\n", format!("the figures are there to GET {PATH}\n")),
        Target::Unclear => ("400 Bad Request", "", "this is no request\n".into()),
    };
    let len = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {FORMAT}\r\nContent-Length: {len}\r\n{more}Connection: close\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())
}

/// What is asked for.
#[derive(Debug, PartialEq)]
enum Target {
    Figures,
    Elsewhere,
    Other,
    Unclear,
}

/// Reads a request as far as its head.
fn target(stream: &mut TcpStream) -> io::Result<Target> {
    let begun = Instant::now();
    let (mut request, mut part) = (Vec::new(), [0; 1024]);
    loop {
        let left = PATIENCE.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let read = stream.read(&mut part)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        request.extend(&part[..read]);
        match parse(&request) {
            Some(target) => return Ok(target),
            None if request.len() >= LONGEST => return Ok(Target::Unclear),
            None => {}
        }
    }
}

/// What a request asks for; none if there is more of it to come.
fn parse(request: &[u8]) -> Option<Target> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(request) {
        Ok(status) if status.is_partial() => return None,
        Ok(_) => {}
        Err(_) => return Some(Target::Unclear),
    }
    let path = parsed.path.and_then(|path| path.split('?').next());
    Some(match (parsed.method, path) {
        (Some("GET"), Some(PATH)) => Target::Figures,
        (Some("GET"), _) => Target::Elsewhere,
        _ => Target::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_understood() {
        let whole = b"GET /metrics?a=b HTTP/1.1\r\nHost: here\r\nAccept: */*\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]), None, "{end}");
        }
        assert_eq!(parse(whole), Some(Target::Figures));
        assert_eq!(parse(b"GET / HTTP/1.0\r\n\r\n"), Some(Target::Elsewhere));
        assert_eq!(parse(b"POST /metrics HTTP/1.1\r\n\r\n"), Some(Target::Other));
        assert_eq!(parse(b"\x16\x03\x01\x02\0\x01\0"), Some(Target::Unclear));
        let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(HEADERS + 1));
        assert_eq!(parse(many.as_bytes()), Some(Target::Unclear));
    }

    /// One who says nothing, or has more to say than a scrape, is left after a while; the next one is served.
    #[test]
    fn nobody_holds_the_others_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || serve(&listener, || "a 1\n".into()));
        let _silent = TcpStream::connect(address).unwrap();
        let mut long = TcpStream::connect(address).unwrap();
        let _ = long.write_all(&[&b"GET /metrics HTTP/1.1\r\n"[..], &b"A: b".repeat(LONGEST)].concat());
        let mut stream = TcpStream::connect(address).unwrap();
        // Else a server that waits for the first one would have the test wait too.
        stream.set_read_timeout(Some(30 * PATIENCE)).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert!(said.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; "), "{said}");
        assert!(said.ends_with("\r\n\r\na 1\n"), "{said}");
    }
}
