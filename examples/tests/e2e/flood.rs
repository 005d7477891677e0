//! Wrong passwords, as many as come: the right ones do not wait for them, and memory stays flat

use std::io::{self, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::http::{self, Response, basic};
use crate::support::process::eventually;
use crate::support::site::Site;

/// What `registry htpasswd` and others make when nobody asks for less: about 50 ms
const COST: u32 = 10;

/// How many attackers do not wait for each other
const THREADS: u64 = 4;

/// How many guesses each of them has under way
const CONNECTIONS: u64 = 64;

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

/// Guesses, on as many connections as there are, without end
fn attack(address: &str, who: u64, stop: &AtomicBool, answered: &AtomicU64) -> io::Result<()> {
    let connect = |_| http::open(address).map(BufReader::new);
    let mut connections: Vec<BufReader<TcpStream>> =
        (0..CONNECTIONS).map(connect).collect::<io::Result<_>>()?;
    for round in 0u64.. {
        for (number, connection) in (0u64..).zip(&mut connections) {
            let guess = format!("guess {who} {number} {round}");
            // Names that nobody has, that of one whose password is known to the registry, and
            // that of one who has not been there since it started.
            let user = match number % 3 {
                0 => format!("nobody-{who}-{number}-{round}"),
                1 => "cached".to_owned(),
                _ => "target".to_owned(),
            };
            let request = format!(
                "GET /v2/ HTTP/1.1\r\nHost: {address}\r\nAuthorization: {}\r\n\r\n",
                basic(&user, &guess)
            );
            connection.get_mut().write_all(request.as_bytes())?;
        }
        for connection in &mut connections {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let answer = http::read_response(connection, "GET")?;
            // It is wrong, or there are too many who wait.
            assert!(matches!(answer.status, 401 | 429 | 503), "{answer:?}");
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
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
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n\
         storage: {inmemory: {}}\nhttp: {addr: \"127.0.0.1:0\"}\n\
         auth: {htpasswd: {realm: flooded, path: $SITE/htpasswd}}\n",
    );
    let address = &*server.address;

    // What a check takes on this machine at this time, by users who log in one by one.
    let check = median(alone.iter().map(|user| log_in(address, user)).collect());
    log_in(address, "cached");
    let again = log_in(address, "cached");
    assert!(again < check, "checked again: {again:?} against {check:?}");

    let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let before = server.resident();
    let begin = Instant::now();
    let (cached, new, peak) = thread::scope(|scope| {
        let attackers: Vec<_> = (0..THREADS)
            .map(|who| {
                let (stop, answered) = (&stop, &answered);
                scope.spawn(move || attack(address, who, stop, answered))
            })
            .collect();
        let measured = std::panic::catch_unwind(|| {
            eventually("the attack is under way", || {
                let so_far = answered.load(Ordering::Relaxed);
                (so_far > THREADS * CONNECTIONS).then_some(())
            });
            let mut peak = server.resident();
            let mut cached = Vec::new();
            let mut new = Vec::new();
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
            (median(cached), median(new), peak.max(server.resident()))
        });
        stop.store(true, Ordering::Relaxed);
        for attacker in attackers {
            attacker
                .join()
                .expect("no wrong answer")
                .expect("no broken connection");
        }
        measured.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let answered = answered.into_inner();
    let rate = answered as f64 / begin.elapsed().as_secs_f64();
    eprintln!(
        "{answered} wrong passwords, {rate:.0} a second; one check takes {check:?}; meanwhile a \
         known user {cached:?}, a new one {new:?}; memory {before} to {peak} bytes"
    );
    assert!(cached < check * TIMES, "{cached:?} against {check:?}");
    assert!(new < check * TIMES, "{new:?} against {check:?}");
    assert!(peak < before + GROWTH, "from {before} to {peak} bytes");
    // Nobody is locked out, and nothing was learned.
    log_in(address, "target");
    ask(address, "target", "guess").0.expect(&[401]);
    assert!(server.stop().success());
}
