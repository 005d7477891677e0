//! Several registries on one storage

use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::http;
use super::process::{Server, eventually};

/// Replicas, each at an address that it keeps
pub(crate) struct Fleet {
    /// `127.0.0.1:<port>` of each
    pub(crate) addresses: Vec<String>,
    launch: Box<dyn Fn(&str) -> Server + Send + Sync>,
    replicas: Vec<Mutex<Option<Server>>>,
    /// What each printed until it was killed or stopped
    logs: Vec<Mutex<String>>,
}

impl Fleet {
    /// Starts so many by `launch`, which is told where to listen
    #[track_caller]
    pub(crate) fn start(
        count: usize,
        launch: impl Fn(&str) -> Server + Send + Sync + 'static,
    ) -> Self {
        let fleet = Self {
            addresses: addresses(count),
            launch: Box::new(launch),
            replicas: (0..count).map(|_| Mutex::default()).collect(),
            logs: (0..count).map(|_| Mutex::default()).collect(),
        };
        for number in 0..count {
            fleet.begin(number);
        }
        fleet
    }

    /// How many there are
    pub(crate) fn len(&self) -> usize {
        self.addresses.len()
    }

    /// Starts one that was killed or stopped, and waits until it is ready
    #[track_caller]
    pub(crate) fn begin(&self, number: usize) {
        let server = (self.launch)(&self.addresses[number]);
        let address = &self.addresses[number];
        eventually("a replica is ready", || {
            let answer = http::send(address, "GET", "/v2/", &[], &[]).ok()?;
            matches!(answer.status, 200 | 401).then_some(())
        });
        *self.replicas[number].lock().expect("whole") = Some(server);
    }

    /// kill -9
    pub(crate) fn kill(&self, number: usize) {
        let mut server = self.take(number);
        server.kill();
        self.keep_log(number, &server);
    }

    /// SIGTERM; waits until it has ended, as it should
    #[track_caller]
    pub(crate) fn stop(&self, number: usize) {
        let mut server = self.take(number);
        server.begin_to_stop();
        eventually("a replica ends", || (!server.runs()).then_some(()));
        self.keep_log(number, &server);
        let status = server.ends();
        assert!(status.success(), "{status}");
    }

    /// Kills one after the other, each so long after the one before was ready again, until told,
    /// and counts
    pub(crate) fn kill_in_turn(&self, pause: Duration, kills: &AtomicUsize, stop: &AtomicBool) {
        for number in (0..self.len()).cycle() {
            // In small steps: at the end nobody waits for another kill.
            let mut left = pause;
            while !left.is_zero() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let step = left.min(Duration::from_millis(50));
                thread::sleep(step);
                left -= step;
            }
            self.kill(number);
            self.begin(number);
            kills.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Everything that one printed, however often it was started
    pub(crate) fn log_of(&self, number: usize) -> String {
        let mut log = self.logs[number].lock().expect("whole").clone();
        if let Some(server) = &*self.replicas[number].lock().expect("whole") {
            log.push_str(&server.log());
        }
        log
    }

    fn take(&self, number: usize) -> Server {
        let mut replica = self.replicas[number].lock().expect("whole");
        replica.take().expect("it runs")
    }

    fn keep_log(&self, number: usize, server: &Server) {
        let mut log = self.logs[number].lock().expect("whole");
        log.push_str(&server.log());
    }
}

/// Addresses that nobody listens on at this moment, and that no connection gets while their owner
/// is away for a moment: below the ports that the system gives by itself
fn addresses(count: usize) -> Vec<String> {
    const FIRST: u16 = 18_000;
    const PORTS: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % u32::from(PORTS)) as u16;
    let mut found = Vec::new();
    while found.len() < count {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(next < PORTS, "no port is free");
        let address = format!("127.0.0.1:{}", FIRST + (start + next) % PORTS);
        if TcpListener::bind(&address).is_ok() {
            found.push(address);
        }
    }
    found
}
