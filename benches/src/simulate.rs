//! Processes with processors in front of one store, as queues
//!
//! An operation is a number of requests, one after the other. Each takes processor time in one of
//! the processes, then perhaps calls of the store. A process serves what waits in the order in which
//! it came, on as many processors as it has; the store begins a call when it has begun the one
//! before it long enough ago, and answers after its latency. Processor times vary exponentially.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::random::Random;

/// What is simulated
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many processes there are; an operation's requests go to one after the other
    pub processes: usize,
    /// How many processors each has
    pub processors: usize,
    /// What is behind them
    pub store: Store,
    /// What comes, with its share of all
    pub work: Vec<(f64, Work)>,
    /// When it comes
    pub arrivals: Arrivals,
    /// How many operations
    pub operations: usize,
}

/// A store that answers each call alike
#[derive(Clone, Copy, Debug)]
pub struct Store {
    /// Seconds from a call to its answer
    pub latency: f64,
    /// How many calls a second it can begin
    pub calls: f64,
}

/// What an operation takes
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// How many requests it is
    pub requests: usize,
    /// Seconds of processor time, all requests together
    pub cpu: f64,
    /// How many calls of the store, all requests together
    pub calls: usize,
}

/// When operations come
#[derive(Clone, Copy, Debug)]
pub enum Arrivals {
    /// So many a second, by chance
    Open(f64),
    /// So many clients, each of which begins the next when one is done
    Closed(usize),
}

/// What came of it
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Operations a second
    pub rate: f64,
    /// Seconds that an operation took in the mean
    pub mean: f64,
    /// Seconds that half of the operations took at most
    pub p50: f64,
    /// Seconds that 99 of 100 took at most
    pub p99: f64,
    /// The share of the processors' time that was used
    pub busy: f64,
}

/// Something that happens to an operation
#[derive(PartialEq)]
struct Event {
    time: f64,
    operation: usize,
    what: What,
}

#[derive(Clone, Copy, PartialEq)]
enum What {
    /// A step begins: it wants a processor
    Compute,
    /// A step has computed: it may want the store
    Call,
}

struct Operation {
    work: Work,
    began: f64,
    step: usize,
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        let number = self.operation.cmp(&other.operation);
        self.time.total_cmp(&other.time).then(number)
    }
}

impl Work {
    /// A step is a request or a call, whatever there is more of
    fn steps(&self) -> usize {
        self.requests.max(self.calls).max(1)
    }
}

/// A simulation that is under way
struct Run<'a> {
    plan: &'a Plan,
    random: Random,
    operations: Vec<Operation>,
    events: BinaryHeap<Reverse<Event>>,
    /// When each processor of each process is free
    processors: Vec<Vec<f64>>,
    /// When the store can begin the next call
    store: f64,
    /// Seconds of processor time
    used: f64,
    /// How long each operation took
    times: Vec<f64>,
}

impl Plan {
    /// Runs it; the same seed gives the same outcome
    ///
    /// # Panics
    ///
    /// Without operations, work, processes or processors.
    pub fn run(&self, seed: u64) -> Outcome {
        let mut run = Run {
            plan: self,
            random: Random::new(seed),
            operations: Vec::with_capacity(self.operations),
            events: BinaryHeap::new(),
            processors: vec![vec![0.0; self.processors]; self.processes],
            store: 0.0,
            used: 0.0,
            times: Vec::with_capacity(self.operations),
        };
        match self.arrivals {
            Arrivals::Open(rate) => {
                let mut at = 0.0;
                for _ in 0..self.operations {
                    at += run.random.until_next(rate);
                    run.begin(at);
                }
            }
            Arrivals::Closed(clients) => {
                (0..clients.min(self.operations)).for_each(|_| run.begin(0.0));
            }
        }
        let mut now = 0.0;
        while let Some(Reverse(event)) = run.events.pop() {
            now = event.time;
            match event.what {
                What::Compute => run.compute(event),
                What::Call => run.call(event),
            }
        }
        let mut times = run.times;
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        Outcome {
            rate: times.len() as f64 / now,
            mean: times.iter().sum::<f64>() / times.len() as f64,
            p50: at(0.5),
            p99: at(0.99),
            busy: run.used / now / (self.processes * self.processors) as f64,
        }
    }
}

impl Run<'_> {
    /// An operation begins
    fn begin(&mut self, at: f64) {
        let work = self.pick();
        let operation = self.operations.len();
        self.operations.push(Operation {
            work,
            began: at,
            step: 0,
        });
        self.then(at, operation, What::Compute);
    }

    fn then(&mut self, time: f64, operation: usize, what: What) {
        self.events.push(Reverse(Event {
            time,
            operation,
            what,
        }));
    }

    /// A step takes the processor of its process that is free first
    fn compute(&mut self, event: Event) {
        let operation = &self.operations[event.operation];
        let process = (event.operation + operation.step) % self.plan.processes;
        let burst = operation.work.cpu / operation.work.steps() as f64;
        let burst = burst * self.random.until_next(1.0);
        self.used += burst;
        let processors = self.processors[process].iter_mut();
        let first = processors.min_by(|a, b| a.total_cmp(b));
        let first = first.expect("a process has a processor");
        *first = first.max(event.time) + burst;
        let done = *first;
        self.then(done, event.operation, What::Call);
    }

    /// A step calls the store, if it has calls left, and is over
    fn call(&mut self, event: Event) {
        let operation = &mut self.operations[event.operation];
        let mut done = event.time;
        if operation.step < operation.work.calls {
            let start = self.store.max(event.time);
            self.store = start + 1.0 / self.plan.store.calls;
            done = start + self.plan.store.latency;
        }
        operation.step += 1;
        if operation.step < operation.work.steps() {
            self.then(done, event.operation, What::Compute);
            return;
        }
        self.times.push(done - operation.began);
        if self.operations.len() < self.plan.operations {
            self.begin(done);
        }
    }

    fn pick(&mut self) -> Work {
        let work = &self.plan.work;
        let mut rest = self.random.unit();
        let found = work.iter().find(|(share, _)| {
            rest -= share;
            rest < 0.0
        });
        // Shares that do not add up to one by a rounding error leave it to the last.
        let (_, work) = found.or_else(|| work.last()).expect("there is work");
        *work
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_STORE: Store = Store {
        latency: 0.0,
        calls: f64::INFINITY,
    };

    fn plan(work: Work, arrivals: Arrivals) -> Plan {
        Plan {
            processes: 1,
            processors: 1,
            store: NO_STORE,
            work: vec![(1.0, work)],
            arrivals,
            operations: 200_000,
        }
    }

    #[test]
    fn one_processor_waits_as_the_theory_of_queues_says() {
        let work = Work {
            requests: 1,
            cpu: 0.001,
            calls: 0,
        };
        // M/M/1: the mean time is 1 / (1000 - 700).
        let outcome = plan(work, Arrivals::Open(700.0)).run(1);
        assert!((outcome.mean * 300.0 - 1.0).abs() < 0.05, "{outcome:?}");
        assert!((outcome.busy - 0.7).abs() < 0.02, "{outcome:?}");
        assert!((outcome.rate - 700.0).abs() < 10.0, "{outcome:?}");
    }

    #[test]
    fn clients_that_wait_for_a_store_are_bound_by_its_latency_or_its_calls() {
        let work = Work {
            requests: 1,
            cpu: 0.000_001,
            calls: 10,
        };
        let mut plan = plan(work, Arrivals::Closed(4));
        plan.operations = 1_000;
        plan.store = Store {
            latency: 0.01,
            calls: 1e6,
        };
        // Ten calls of 10 ms, four clients.
        let outcome = plan.run(1);
        assert!((outcome.rate - 40.0).abs() < 1.0, "{outcome:?}");
        plan.store.calls = 100.0;
        let outcome = plan.run(1);
        assert!((outcome.rate - 10.0).abs() < 0.5, "{outcome:?}");
    }

    #[test]
    fn three_processes_do_three_times_the_work() {
        let work = Work {
            requests: 5,
            cpu: 0.001,
            calls: 0,
        };
        let mut plan = plan(work, Arrivals::Closed(64));
        plan.operations = 20_000;
        let one = plan.run(1);
        plan.processes = 3;
        let three = plan.run(1);
        assert!(
            (three.rate / one.rate - 3.0).abs() < 0.1,
            "{one:?} {three:?}"
        );
        assert!(one.busy > 0.98 && three.busy > 0.95, "{one:?} {three:?}");
    }
}
