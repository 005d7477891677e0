//! Whose password is checked next
//!
//! A check is dear, so there are never more at a time than a few processors can do, and those
//! who wait for one are in lanes, one lane for each user name, at most one check of a lane at
//! a time. There are two kinds:
//!
//! - *known*: users of the file whose password was not seen right so far. Only a check can
//!   tell. The lane whose user failed least often lately goes first, and among those the
//!   longest waiting.
//! - *shadow*: names that are not in the file, and users whose right password is remembered,
//!   when another comes. These are wrong, and known to be; the work is done so that the time
//!   does not tell them from the others. Therefore one hash serves the first of each shadow
//!   lane at once, however many there are.
//!
//! Within a lane of either kind, who was turned away most often goes first. An attacker who
//! guesses the password of a user fills the lane again and again with what is new, and so the
//! user, who brings the same each time, gets in.
//!
//! The kinds take turns. So a password that is seen for the first time waits for a hash that
//! runs, for one of a shadow, and for those of users who did not fail lately either; how many
//! names an attacker makes up plays no part.
//!
//! No I/O, no thread, no clock: time comes as an argument, and runs are for the caller to do.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot::Sender;

use super::account::Account;
use super::fingerprint::Fingerprint;
use super::turned_away::TurnedAway;

/// As many passwords as wait for one user name
const PER_NAME: usize = 16;

/// As many passwords as wait for users of the file
const KNOWN: usize = 512;

/// As many as wait for a shadow, which costs nothing but memory
const SHADOW: usize = 8192;

/// As many requests as wait for the answer to another with the same credentials
const JOINED: usize = 8192;

/// What a check found
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Right,
    Wrong,
}

/// What is asked
pub(super) enum Question {
    /// Whether this is the password of the account
    Check {
        account: Arc<Account>,
        password: Box<[u8]>,
    },
    /// Nothing: it is wrong, and takes as long
    Shadow,
}

/// One hash to make
pub(super) enum Run {
    /// Check one password
    Check {
        name: Fingerprint,
        credentials: Fingerprint,
        account: Arc<Account>,
        password: Box<[u8]>,
    },
    /// Take the time of a check, for all of these
    Shadow(Vec<(Fingerprint, Fingerprint)>),
}

/// There is no room to wait
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// Those who wait, and what runs
#[derive(Default)]
pub(super) struct Lanes {
    known: HashMap<Fingerprint, Lane<Waiting>>,
    /// The passwords that wait in `known`
    known_waiting: usize,
    shadow: HashMap<Fingerprint, Lane<Fingerprint>>,
    shadow_waiting: usize,
    /// The shadow lanes of which one waits and none runs
    shadow_ready: Vec<Fingerprint>,
    /// Who waits for the answer about which credentials, be they waiting or running
    flights: HashMap<Fingerprint, Vec<Sender<Verdict>>>,
    joined: usize,
    turned_away: TurnedAway,
    ticket: u64,
    shadow_was_last: bool,
    swept: bool,
}

struct Lane<W> {
    /// With how often each was turned away before; who was most often stands in front
    waiting: VecDeque<(u32, W)>,
    running: bool,
}

struct Waiting {
    credentials: Fingerprint,
    account: Arc<Account>,
    password: Box<[u8]>,
    ticket: u64,
}

impl<W> Default for Lane<W> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            running: false,
        }
    }
}

impl<W> Lane<W> {
    fn is_full(&self) -> bool {
        self.waiting.len() >= PER_NAME
    }

    /// Lets one more wait, and gives back who has to give way for it, which may be itself
    fn insert(&mut self, times: u32, one: W) -> Option<W> {
        let behind = |other: &(u32, W)| other.0 >= times;
        let place = self.waiting.partition_point(behind);
        self.waiting.insert(place, (times, one));
        (self.waiting.len() > PER_NAME)
            .then(|| self.waiting.pop_back())
            .flatten()
            .map(|(_, last)| last)
    }
}

impl Lanes {
    /// Lets a question wait for its run; the answer goes to `sender`, which is dropped when
    /// the question has to give way
    pub(super) fn enqueue(
        &mut self,
        name: Fingerprint,
        credentials: Fingerprint,
        question: Question,
        sender: Sender<Verdict>,
        now: Instant,
    ) -> Result<(), Full> {
        if let Some(flight) = self.flights.get_mut(&credentials) {
            if self.joined >= JOINED {
                return Err(Full);
            }
            self.joined += 1;
            flight.push(sender);
            return Ok(());
        }
        self.flights.insert(credentials, vec![sender]);
        match question {
            Question::Check { account, password } => {
                if !self.make_room(&name, &account, now) {
                    self.turn_away(&credentials);
                    return Err(Full);
                }
                self.ticket += 1;
                let times = self.turned_away.times(&credentials);
                let waiting = Waiting {
                    credentials,
                    account,
                    password,
                    ticket: self.ticket,
                };
                self.known_waiting += 1;
                let last = self.known.entry(name).or_default().insert(times, waiting);
                if let Some(last) = last {
                    self.known_waiting -= 1;
                    self.turn_away(&last.credentials);
                }
            }
            Question::Shadow if self.shadow_waiting >= SHADOW => self.turn_away(&credentials),
            Question::Shadow => self.shadow_later(name, credentials),
        }
        if self.flights.contains_key(&credentials) {
            Ok(())
        } else {
            Err(Full)
        }
    }

    /// The next run, if anything waits that may run now
    pub(super) fn next(&mut self, now: Instant) -> Option<Run> {
        self.swept = false;
        let known = |lanes: &mut Self| lanes.next_known(now);
        let run = if self.shadow_was_last {
            known(self).or_else(|| self.next_shadow())
        } else {
            self.next_shadow().or_else(|| known(self))
        };
        if let Some(run) = &run {
            self.shadow_was_last = matches!(run, Run::Shadow(_));
        }
        run
    }

    /// Ends a run and gives back who waits for its answer
    ///
    /// What is known of the credentials must be remembered already, because equal ones that
    /// come from now on are a new question.
    pub(super) fn finish(&mut self, run: &Run, verdict: Verdict) -> Vec<Sender<Verdict>> {
        match run {
            Run::Check {
                name,
                credentials,
                account,
                ..
            } => {
                if let Some(lane) = self.known.get_mut(name) {
                    lane.running = false;
                    if verdict == Verdict::Right {
                        // Whatever else waits for this account is wrong now without a check.
                        let (wrong, rest) =
                            lane.waiting
                                .drain(..)
                                .partition::<VecDeque<_>, _>(|(_, waiting)| {
                                    Arc::ptr_eq(&waiting.account, account)
                                });
                        lane.waiting = rest;
                        self.known_waiting -= wrong.len();
                        for (_, waiting) in wrong {
                            self.shadow_later(*name, waiting.credentials);
                        }
                    }
                }
                self.drop_idle(name);
                self.land(credentials)
            }
            Run::Shadow(heads) => {
                let mut senders = Vec::with_capacity(heads.len());
                for (name, credentials) in heads {
                    if let Some(lane) = self.shadow.get_mut(name) {
                        lane.running = false;
                        if lane.waiting.is_empty() {
                            self.shadow.remove(name);
                        } else {
                            self.shadow_ready.push(*name);
                        }
                    }
                    senders.extend(self.land(credentials));
                }
                senders
            }
        }
    }

    /// How many requests wait, including those whose hash runs
    pub(super) fn waiting(&self) -> usize {
        self.flights.len() + self.joined
    }

    fn next_known(&mut self, now: Instant) -> Option<Run> {
        loop {
            let name = *self
                .known
                .iter()
                .filter(|(_, lane)| !lane.running)
                .filter_map(|(name, lane)| Some((name, &lane.waiting.front()?.1)))
                .min_by_key(|(_, first)| (first.account.failures(now), first.ticket))?
                .0;
            let (_, waiting) = self.known.get_mut(&name)?.waiting.pop_front()?;
            let Waiting {
                credentials,
                account,
                password,
                ..
            } = waiting;
            self.known_waiting -= 1;
            if self.abandoned(&credentials) {
                self.drop_idle(&name);
                continue;
            }
            if let Some(lane) = self.known.get_mut(&name) {
                lane.running = true;
            }
            return Some(Run::Check {
                name,
                credentials,
                account,
                password,
            });
        }
    }

    fn next_shadow(&mut self) -> Option<Run> {
        let mut heads = Vec::new();
        for name in std::mem::take(&mut self.shadow_ready) {
            // One that nobody waits for any more makes room for the one behind it.
            while let Some(lane) = self.shadow.get_mut(&name) {
                let Some((_, credentials)) = lane.waiting.pop_front() else {
                    self.shadow.remove(&name);
                    break;
                };
                self.shadow_waiting -= 1;
                lane.running = true;
                if !self.abandoned(&credentials) {
                    heads.push((name, credentials));
                    break;
                }
            }
        }
        (!heads.is_empty()).then_some(Run::Shadow(heads))
    }

    fn shadow_later(&mut self, name: Fingerprint, credentials: Fingerprint) {
        let times = self.turned_away.times(&credentials);
        let lane = self.shadow.entry(name).or_default();
        if !lane.running && lane.waiting.is_empty() {
            self.shadow_ready.push(name);
        }
        self.shadow_waiting += 1;
        if let Some(last) = lane.insert(times, credentials) {
            self.shadow_waiting -= 1;
            self.turn_away(&last);
        }
    }

    /// Gives no answer to these, and remembers it in their favour
    fn turn_away(&mut self, credentials: &Fingerprint) {
        self.turned_away.add(credentials);
        self.land(credentials);
    }

    /// Whether one more may wait in this lane, if need be in the place of another
    fn make_room(&mut self, name: &Fingerprint, account: &Account, now: Instant) -> bool {
        let lane_is_full = |lanes: &Self| lanes.known.get(name).is_some_and(Lane::is_full);
        if (lane_is_full(self) || self.known_waiting >= KNOWN) && !self.swept {
            // Once between two runs: it looks at everything that waits.
            self.swept = true;
            self.sweep();
        }
        // A full lane has to make room itself.
        if lane_is_full(self) || self.known_waiting < KNOWN {
            return true;
        }
        // Somebody who fails a lot gives way.
        let worst = self
            .known
            .iter()
            .filter_map(|(name, lane)| Some((*name, lane.waiting.front()?.1.account.failures(now))))
            .max_by_key(|(_, failures)| *failures);
        let Some((worst, failures)) = worst else {
            return false;
        };
        if failures <= account.failures(now) {
            return false;
        }
        if let Some((_, last)) = self
            .known
            .get_mut(&worst)
            .and_then(|lane| lane.waiting.pop_back())
        {
            self.known_waiting -= 1;
            self.turn_away(&last.credentials);
        }
        self.drop_idle(&worst);
        true
    }

    /// Forgets everything known that nobody waits for any more
    fn sweep(&mut self) {
        let mut lanes = std::mem::take(&mut self.known);
        lanes.retain(|_, lane| {
            lane.waiting
                .retain(|(_, waiting)| !self.abandoned(&waiting.credentials));
            lane.running || !lane.waiting.is_empty()
        });
        self.known_waiting = lanes.values().map(|lane| lane.waiting.len()).sum();
        self.known = lanes;
    }

    fn drop_idle(&mut self, name: &Fingerprint) {
        if let Some(lane) = self.known.get(name)
            && !lane.running
            && lane.waiting.is_empty()
        {
            self.known.remove(name);
        }
    }

    /// Whether all who asked are gone; then the question is forgotten
    fn abandoned(&mut self, credentials: &Fingerprint) -> bool {
        let gone = self
            .flights
            .get(credentials)
            .is_none_or(|flight| flight.iter().all(Sender::is_closed));
        if gone {
            self.land(credentials);
        }
        gone
    }

    fn land(&mut self, credentials: &Fingerprint) -> Vec<Sender<Verdict>> {
        let senders = self.flights.remove(credentials).unwrap_or_default();
        self.joined -= senders.len().saturating_sub(1);
        senders
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use tokio::sync::oneshot::error::TryRecvError;
    use tokio::sync::oneshot::{self, Receiver};

    use super::*;
    use crate::htpasswd::hash::Hash;

    /// Lanes, with numbers for names and passwords
    struct Harness {
        lanes: Lanes,
        accounts: HashMap<u64, Arc<Account>>,
        passwords: u64,
        now: Instant,
    }

    const ADA: u64 = 1;
    const BOB: u64 = 2;

    impl Harness {
        fn new() -> Self {
            Self {
                lanes: Lanes::default(),
                accounts: HashMap::new(),
                passwords: 0,
                now: Instant::now(),
            }
        }

        fn account(&mut self, user: u64) -> Arc<Account> {
            let hash = "$2y$04$1OPuzxJJhXT5NoTnCgjGeu/f/Nf3FH214vJZnGn0oOaD4pYB4pnQa";
            self.accounts
                .entry(user)
                .or_insert_with(|| Arc::new(Account::new(Hash::parse(hash).unwrap())))
                .clone()
        }

        fn ask(
            &mut self,
            user: u64,
            password: u64,
            question: Question,
        ) -> Result<Receiver<Verdict>, Full> {
            let (sender, receiver) = oneshot::channel();
            let (name, credentials) = (Fingerprint::of(user), Fingerprint::of(password));
            self.lanes
                .enqueue(name, credentials, question, sender, self.now)
                .map(|()| receiver)
        }

        /// A password that comes for the first time, of a user of the file
        fn known(&mut self, user: u64) -> Result<Receiver<Verdict>, Full> {
            self.passwords += 1;
            let question = Question::Check {
                account: self.account(user),
                password: Box::default(),
            };
            self.ask(user, self.passwords, question)
        }

        /// The same, of a name that is not in the file
        fn shadow(&mut self, user: u64) -> Result<Receiver<Verdict>, Full> {
            self.passwords += 1;
            self.ask(user, self.passwords, Question::Shadow)
        }

        /// Does one run, of which every password is wrong
        fn step(&mut self) -> Option<Run> {
            let run = self.lanes.next(self.now)?;
            if let Run::Check { account, .. } = &run {
                account.failed(self.now);
            }
            self.finish(&run, Verdict::Wrong);
            Some(run)
        }

        fn finish(&mut self, run: &Run, verdict: Verdict) {
            for sender in self.lanes.finish(run, verdict) {
                let _ = sender.send(verdict);
            }
        }

        /// How many runs it takes until this is answered, while `flood` goes on
        fn runs_until(
            &mut self,
            receiver: &mut Receiver<Verdict>,
            mut flood: impl FnMut(&mut Self),
        ) -> usize {
            for run in 1..10_000 {
                flood(self);
                assert!(self.step().is_some(), "nothing runs");
                if receiver.try_recv().is_ok() {
                    return run;
                }
            }
            panic!("never answered");
        }

        fn is_empty(&self) -> bool {
            let lanes = &self.lanes;
            lanes.known.is_empty()
                && lanes.shadow.is_empty()
                && lanes.shadow_ready.is_empty()
                && lanes.flights.is_empty()
                && (lanes.known_waiting, lanes.shadow_waiting, lanes.joined) == (0, 0, 0)
        }
    }

    #[test]
    fn made_up_names_hold_up_nobody() {
        let mut harness = Harness::new();
        let mut kept = Vec::new();
        let mut name = 1000;
        let mut flood = |harness: &mut Harness| {
            for _ in 0..500 {
                name += 1;
                kept.extend(harness.shadow(name));
            }
        };
        for _ in 0..20 {
            flood(&mut harness);
        }
        // One that runs already, one of the flood, and her own.
        let running = harness.lanes.next(harness.now).unwrap();
        let mut ada = harness.known(ADA).unwrap();
        flood(&mut harness);
        harness.finish(&running, Verdict::Wrong);
        assert!(harness.runs_until(&mut ada, &mut flood) <= 2);
        while harness.step().is_some() {}
        assert!(harness.is_empty());
    }

    #[test]
    fn a_user_under_attack_holds_up_nobody_else() {
        let mut harness = Harness::new();
        let mut kept = Vec::new();
        let mut flood = |harness: &mut Harness| {
            for _ in 0..100 {
                kept.extend(harness.known(BOB));
                kept.extend(harness.shadow(kept.len() as u64 + 1000));
            }
        };
        for _ in 0..100 {
            flood(&mut harness);
            harness.step();
        }
        let mut ada = harness.known(ADA).unwrap();
        assert!(harness.runs_until(&mut ada, &mut flood) <= 2);
    }

    #[test]
    fn who_failed_least_goes_first_even_if_all_names_are_known_to_an_attacker() {
        let mut harness = Harness::new();
        let mut kept = Vec::new();
        let mut flood = |harness: &mut Harness| {
            for user in 100..300 {
                kept.extend(harness.known(user));
            }
        };
        // Everyone fails once, and goes on.
        for _ in 0..200 {
            flood(&mut harness);
            harness.step();
        }
        let mut ada = harness.known(ADA).unwrap();
        assert_eq!(harness.runs_until(&mut ada, &mut flood), 1);
    }

    #[test]
    fn what_waits_is_bounded_and_goes_away() {
        let mut harness = Harness::new();
        let mut kept = Vec::new();
        let mut turned_away = 0;
        for number in 0..10_000_u64 {
            for answer in [
                harness.known(100 + number % 1000),
                harness.shadow(10_000 + number),
                harness.known(ADA),
                harness.shadow(BOB),
                harness.ask(ADA, 1, Question::Shadow),
            ] {
                match answer {
                    Ok(receiver) => kept.push(receiver),
                    Err(Full) => turned_away += 1,
                }
            }
        }
        let waiting = harness.lanes.waiting();
        assert!(waiting <= KNOWN + SHADOW + JOINED, "{waiting}");
        assert!(turned_away > 0);
        assert_eq!(waiting, kept.len());
        assert_eq!(
            harness.lanes.known[&Fingerprint::of(ADA)].waiting.len(),
            PER_NAME
        );
        assert_eq!(
            harness.lanes.shadow[&Fingerprint::of(BOB)].waiting.len(),
            PER_NAME
        );
        while harness.step().is_some() {}
        assert!(harness.is_empty());
        assert!(kept.iter_mut().all(|receiver| receiver.try_recv().is_ok()));
    }

    #[test]
    fn many_passwords_of_one_name_take_as_long_whether_it_is_known_or_not() {
        let runs = |ask: fn(&mut Harness, u64) -> Result<Receiver<Verdict>, Full>| {
            let mut harness = Harness::new();
            let (mut order, mut refused) = (Vec::new(), 0);
            let mut kept = Vec::new();
            for _ in 0..PER_NAME + 5 {
                match ask(&mut harness, ADA) {
                    Ok(receiver) => kept.push(receiver),
                    Err(Full) => refused += 1,
                }
            }
            // Nothing of the same name runs beside it.
            let first = harness.lanes.next(harness.now).unwrap();
            assert!(harness.lanes.next(harness.now).is_none());
            harness.finish(&first, Verdict::Wrong);
            loop {
                order.push(
                    kept.iter_mut()
                        .filter_map(|one| one.try_recv().ok())
                        .count(),
                );
                if harness.step().is_none() {
                    return (order, refused);
                }
            }
        };
        let known = runs(Harness::known);
        assert_eq!(known, (vec![1; PER_NAME], 5));
        assert_eq!(runs(Harness::shadow), known);
    }

    #[test]
    fn who_comes_back_goes_before_who_is_new() {
        for question in [Harness::known, Harness::shadow] {
            let mut harness = Harness::new();
            let mut kept: Vec<_> = (0..PER_NAME)
                .map(|_| question(&mut harness, ADA).unwrap())
                .collect();
            // Who is new finds no room.
            assert!(question(&mut harness, ADA).is_err());
            let password = harness.passwords;
            // Who comes back takes that of the last, and is the first.
            harness.passwords -= 1;
            let mut back = question(&mut harness, ADA).unwrap();
            assert_eq!(harness.passwords, password);
            let mut last = kept.pop().unwrap();
            assert_eq!(last.try_recv(), Err(TryRecvError::Closed));
            let mut flood = |harness: &mut Harness| {
                harness.passwords += 1000;
                kept.extend((0..100).filter_map(|_| question(harness, ADA).ok()));
            };
            assert_eq!(harness.runs_until(&mut back, &mut flood), 1);
            // The one that gave way for it has a claim now, too.
            harness.passwords = PER_NAME as u64 - 1;
            let mut last = question(&mut harness, ADA).unwrap();
            assert_eq!(harness.runs_until(&mut last, |_| {}), 1);
            while harness.step().is_some() {}
            assert!(harness.is_empty());
        }
    }

    #[test]
    fn equal_credentials_are_one_question() {
        let mut harness = Harness::new();
        let mut receivers = vec![harness.known(ADA).unwrap()];
        let password = harness.passwords;
        let again = |harness: &mut Harness| harness.ask(ADA, password, Question::Shadow).unwrap();
        receivers.push(again(&mut harness));
        let run = harness.lanes.next(harness.now).unwrap();
        receivers.push(again(&mut harness));
        assert_eq!(harness.lanes.waiting(), 3);
        harness.finish(&run, Verdict::Right);
        for receiver in &mut receivers {
            assert_eq!(receiver.try_recv(), Ok(Verdict::Right));
        }
        assert!(harness.step().is_none() && harness.is_empty());
    }

    #[test]
    fn nothing_is_done_for_who_is_gone() {
        let mut harness = Harness::new();
        drop((harness.known(ADA), harness.shadow(BOB)));
        let mut stays = harness.shadow(BOB).unwrap();
        let Some(Run::Shadow(heads)) = harness.step() else {
            panic!("expected the one that stayed");
        };
        assert_eq!(heads.len(), 1);
        assert_eq!(stays.try_recv(), Ok(Verdict::Wrong));
        assert!(harness.step().is_none() && harness.is_empty());

        // Nor do they take the room of others.
        for _ in 0..PER_NAME {
            drop(harness.known(ADA).unwrap());
        }
        assert!(harness.known(ADA).is_ok());
    }

    #[test]
    fn after_the_right_password_the_others_need_no_check() {
        let mut harness = Harness::new();
        let mut right = harness.known(ADA).unwrap();
        let mut others: Vec<_> = (0..3).map(|_| harness.known(ADA).unwrap()).collect();
        let mut bob = harness.shadow(BOB).unwrap();
        let run = loop {
            match harness.lanes.next(harness.now).unwrap() {
                run @ Run::Check { .. } => break run,
                run @ Run::Shadow(_) => harness.finish(&run, Verdict::Wrong),
            }
        };
        harness.finish(&run, Verdict::Right);
        assert_eq!(right.try_recv(), Ok(Verdict::Right));
        assert_eq!(bob.try_recv(), Ok(Verdict::Wrong));
        for other in &mut others {
            assert!(other.try_recv().is_err());
            assert!(matches!(harness.step(), Some(Run::Shadow(_))));
            assert_eq!(other.try_recv(), Ok(Verdict::Wrong));
        }
        assert!(harness.step().is_none() && harness.is_empty());
    }

    #[test]
    fn who_fails_gives_way_when_there_is_no_room() {
        let mut harness = Harness::new();
        let users = (KNOWN / PER_NAME) as u64;
        let mut kept = Vec::new();
        for user in 100..100 + users {
            harness.account(user).failed(harness.now);
            kept.extend((0..PER_NAME).map(|_| harness.known(user).unwrap()));
        }
        harness.account(BOB).failed(harness.now);
        assert!(harness.known(BOB).is_err());
        let mut ada = harness.known(ADA).unwrap();
        let gave_way = kept
            .iter_mut()
            .map(Receiver::try_recv)
            .filter(|answer| matches!(answer, Err(TryRecvError::Closed)))
            .count();
        assert_eq!(gave_way, 1);
        assert_eq!(harness.runs_until(&mut ada, |_| {}), 1);
        while harness.step().is_some() {}
        assert!(harness.is_empty());
    }

    #[test]
    fn a_worker_more_runs_another_lane() {
        let mut harness = Harness::new();
        let _kept = [
            harness.known(ADA),
            harness.known(ADA),
            harness.known(BOB),
            harness.shadow(100),
            harness.shadow(101),
        ];
        let mut names = HashSet::new();
        let mut shadows = 0;
        while let Some(run) = harness.lanes.next(harness.now) {
            match run {
                Run::Check { name, .. } => assert!(names.insert(name)),
                Run::Shadow(heads) => shadows += heads.len(),
            }
        }
        assert_eq!((names.len(), shadows), (2, 2));
    }
}
