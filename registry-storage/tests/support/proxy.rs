//! What stands between a client and a server, and counts, cuts off or answers

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What becomes of a request
pub enum Verdict {
    /// The server gets it
    Pass,
    /// It is answered so, and the server never hears of it
    Answer(String),
    /// The server gets so many bytes of its body, and then the line is dead
    Cut(u64),
}

type Rule = Box<dyn FnMut(&str) -> Verdict + Send>;

/// A proxy for one server; each request has a connection of its own
pub struct Proxy {
    pub port: u16,
    rule: Arc<Mutex<Rule>>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let rule: Arc<Mutex<Rule>> = Arc::new(Mutex::new(Box::new(|_| Verdict::Pass)));
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (rules, seen) = (rule.clone(), heads.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (rules, seen) = (rules.clone(), seen.clone());
                std::thread::spawn(move || {
                    // A line that breaks is what these tests are about.
                    let _ = handle(client, server, &rules, &seen);
                });
            }
        });
        Self { port, rule, heads }
    }

    /// Decides what becomes of requests from now on, by their heads
    pub fn set(&self, rule: impl FnMut(&str) -> Verdict + Send + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    /// The first lines of the requests since the last look
    pub fn take(&self) -> Vec<String> {
        let heads = std::mem::take(&mut *self.heads.lock().unwrap());
        let lines = heads
            .iter()
            .map(|head| head.lines().next().unwrap().to_owned());
        lines.collect()
    }
}

fn handle(
    mut client: TcpStream,
    server: u16,
    rules: &Mutex<Rule>,
    seen: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if client.read(&mut byte)? == 0 {
            return Ok(());
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    seen.lock().unwrap().push(head.clone());
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    };
    let length = header("content-length").map_or(0, |length| length.parse().unwrap());
    let verdict = (rules.lock().unwrap())(&head);
    if let Verdict::Answer(answer) = verdict {
        std::io::copy(&mut (&client).take(length), &mut std::io::sink())?;
        return client.write_all(answer.as_bytes());
    }
    let mut upstream = TcpStream::connect(("127.0.0.1", server))?;
    for line in head.trim_end().split("\r\n") {
        if !line.to_ascii_lowercase().starts_with("connection:") {
            write!(upstream, "{line}\r\n")?;
        }
    }
    write!(upstream, "Connection: close\r\n\r\n")?;
    if let Verdict::Cut(bytes) = verdict {
        std::io::copy(&mut (&client).take(bytes), &mut upstream)?;
        upstream.shutdown(Shutdown::Both)?;
        return client.shutdown(Shutdown::Both);
    }
    let (mut from, mut to) = (client.try_clone()?, upstream.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
    });
    let copied = std::io::copy(&mut upstream, &mut client);
    client.shutdown(Shutdown::Both)?;
    copied.map(|_| ())
}

/// An answer as a server of S3 gives it
pub fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = match headers.contains("Content-Length") {
        true => String::new(),
        false => format!("Content-Length: {}\r\n", body.len()),
    };
    let date = "Last-Modified: Wed, 01 Jan 2025 00:00:00 GMT\r\nETag: \"e\"\r\n";
    format!("HTTP/1.1 {status}\r\n{date}{length}{headers}Connection: close\r\n\r\n{body}")
}

/// A refusal as a server of S3 gives it
pub fn refusal(status: &str, code: &str) -> String {
    let body =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message></Error>");
    answer(status, "Content-Type: application/xml\r\n", &body)
}
