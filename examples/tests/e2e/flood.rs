//! Wrong passwords, as many as come: the right ones do not wait for them, and memory stays flat

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::support::http::{self, Response, basic};
use crate::support::process::eventually;
use crate::support::site::Site;

/// What `registry htpasswd` and others make when nobody asks for less: about 50 ms
const COST: u32 = 10;

/// How many guesses are under way at a time, each on a connection of its own
///
/// As many as a process may open files where nobody allowed it more, and some left for others.
const GUESSES: u64 = 600;

/// How many times as long as alone a right password may take, in the middle of several
const TIMES: u32 = 20;

/// How much memory the attack may cost
const GROWTH: u64 = 16 << 20;

/// Asks once, on a connection of its own
fn ask(address: &str, user: &str, password: &str) -> (Response, Duration) {
    let begin = Instant::now();
    let authorization = basic(user, password);
    let headers = [("Authorization", &*authorization)];
    let answer = http::send(address, "GET", "/v2/", &headers, &[]);
    (answer.expect("answered"), begin.elapsed())
}

#[track_caller]
fn log_in(address: &str, user: &str) -> Duration {
    let (answer, took) = ask(address, user, &right(user));
    answer.expect(&[200]);
    took
}

fn right(user: &str) -> String {
    format!("the password of {user}")
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// What the attackers found
#[derive(Default)]
struct Found {
    /// How many guesses were answered
    answers: AtomicU64,
    /// How many of them by a time to come back
    turned_away: AtomicU64,
    /// What should not have come
    wrong: OnceLock<String>,
}

/// Guesses on one connection, one after the other, without end
async fn guess(address: &str, who: u64, found: &Found) -> io::Result<()> {
    let mut connection = BufReader::new(TcpStream::connect(address).await?);
    for round in 0u64.. {
        // Names that nobody has, that of one whose password is known to the registry, and that
        // of one who has not been there since it started.
        let user = match who % 3 {
            0 => format!("nobody-{who}-{round}"),
            1 => "cached".to_owned(),
            _ => "target".to_owned(),
        };
        let authorization = basic(&user, &format!("guess {who} {round}"));
        let request = format!(
            "GET /v2/ HTTP/1.1\r\nHost: {address}\r\nAuthorization: {authorization}\r\n\r\n"
        );
        connection.write_all(request.as_bytes()).await?;
        match status(&mut connection).await? {
            401 => {}
            // There are too many who wait.
            429 | 503 => {
                found.turned_away.fetch_add(1, Ordering::Relaxed);
            }
            other => {
                let _ = found.wrong.set(format!("{user} got {other}"));
            }
        }
        found.answers.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Reads an answer to its end, and gives its status
async fn status(connection: &mut BufReader<TcpStream>) -> io::Result<u16> {
    let (mut status, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        connection.read_line(&mut line).await?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        match line.split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().map_err(io::Error::other)?;
            }
            Some(_) => {}
            None => status = line.split(' ').nth(1).and_then(|text| text.parse().ok()),
        }
    }
    connection.read_exact(&mut vec![0; length]).await?;
    status.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

#[test]
fn wrong_passwords_keep_no_right_one_waiting() {
    let site = Site::new();
    let users = |name: &str, count: usize| -> Vec<String> {
        (0..count)
            .map(|number| format!("{name}-{number}"))
            .collect()
    };
    let (alone, first) = (users("alone", 3), users("first", 5));
    let others = ["cached", "target"].map(str::to_owned);
    for user in alone.iter().chain(&first).chain(&others) {
        site.user(user, &right(user), COST);
    }
    let server = site.serve_with(
        "version: 0.1\nlog: {level: info, accesslog: {disabled: true}}\n\
         storage: {inmemory: {}}\nhttp: {addr: \"127.0.0.1:0\"}\n\
         auth: {htpasswd: {realm: flooded, path: $SITE/htpasswd}}\n",
    );
    let address = &*server.address;

    // What a check takes on this machine at this time, by users who log in one by one.
    let check = median(alone.iter().map(|user| log_in(address, user)).collect());
    log_in(address, "cached");
    let again = log_in(address, "cached");
    assert!(again < check, "checked again: {again:?} against {check:?}");

    let found = Arc::<Found>::default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_io()
        .build()
        .expect("a runtime");
    for who in 0..GUESSES {
        let (address, found) = (address.to_owned(), found.clone());
        runtime.spawn(async move {
            if let Err(error) = guess(&address, who, &found).await {
                let _ = found.wrong.set(format!("a connection broke: {error}"));
            }
        });
    }
    let answers = || found.answers.load(Ordering::Relaxed);
    eventually("the attack is under way", || {
        (answers() > 3 * GUESSES).then_some(())
    });

    // From here on it is more of the same, for some seconds.
    let (begin, first_answers) = (Instant::now(), answers());
    let before = server.resident();
    let mut peak = before;
    let (mut cached, mut new) = (Vec::new(), Vec::new());
    for user in &first {
        new.push(log_in(address, user));
        for _ in 0..5 {
            cached.push(log_in(address, "cached"));
            peak = peak.max(server.resident());
        }
        thread::sleep(Duration::from_secs(1));
    }
    // Whose name is the one that is guessed at may be told to come back, and gets in.
    eventually("the one who is attacked gets in", || {
        let (answer, _) = ask(address, "target", &right("target"));
        let answer = answer.expect(&[200, 429, 503]);
        (answer.status == 200).then_some(())
    });
    peak = peak.max(server.resident());
    let rate = (answers() - first_answers) as f64 / begin.elapsed().as_secs_f64();
    runtime.shutdown_background();
    let (cached, new) = (median(cached), median(new));
    eprintln!(
        "{rate:.0} wrong passwords a second, {} of {} turned away; one check takes {check:?}; \
         meanwhile a known user {cached:?}, a new one {new:?}; memory {before} to {peak} bytes",
        found.turned_away.load(Ordering::Relaxed),
        answers(),
    );
    assert_eq!(found.wrong.get(), None);
    assert!(cached < check * TIMES, "{cached:?} against {check:?}");
    assert!(new < check * TIMES, "{new:?} against {check:?}");
    assert!(peak < before + GROWTH, "from {before} to {peak} bytes");
    let lines = server.errors().lines().count();
    assert!(lines < 100, "whoever guesses writes the log: {lines} lines");
    // Nobody is locked out, and nothing was learned.
    log_in(address, "target");
    eventually("those who waited have their answer", || {
        let answer = ask(address, "target", "guess").0.expect(&[401, 429, 503]);
        (answer.status == 401).then_some(())
    });
    assert!(server.stop().success());
}
