//! Who was told to come back, and how often

use std::collections::{HashMap, VecDeque};

use super::fingerprint::Fingerprint;

/// How many are remembered: some seconds of a flood, and a client comes back after one
const REMEMBERED: usize = 64 * 1024;

/// Counts for each credentials how often there was no room for them
///
/// It knows the last 65,536, in some two megabytes.
#[derive(Default)]
pub(super) struct TurnedAway {
    counts: HashMap<u64, Count>,
    /// Which are to be forgotten next; one that came back later has a later place, too
    order: VecDeque<(u64, u64)>,
    turn: u64,
}

struct Count {
    times: u32,
    turn: u64,
}

impl TurnedAway {
    /// How often these were turned away
    pub(super) fn times(&self, credentials: &Fingerprint) -> u32 {
        self.counts
            .get(&credentials.short())
            .map_or(0, |count| count.times)
    }

    /// Counts them once more
    pub(super) fn add(&mut self, credentials: &Fingerprint) {
        let credentials = credentials.short();
        self.turn += 1;
        let turn = self.turn;
        let count = self
            .counts
            .entry(credentials)
            .or_insert(Count { times: 0, turn });
        count.times = count.times.saturating_add(1);
        count.turn = turn;
        self.order.push_back((credentials, turn));
        if self.order.len() > REMEMBERED
            && let Some((oldest, turn)) = self.order.pop_front()
            && self
                .counts
                .get(&oldest)
                .is_some_and(|count| count.turn == turn)
        {
            self.counts.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_counted_and_the_rest_forgotten() {
        let mut turned_away = TurnedAway::default();
        let (often, once) = (Fingerprint::of(1), Fingerprint::of(2));
        turned_away.add(&once);
        for number in 0..3 * REMEMBERED as u64 {
            if number % 1000 == 0 {
                turned_away.add(&often);
            }
            turned_away.add(&Fingerprint::of(10 + number));
        }
        assert_eq!(turned_away.times(&once), 0);
        assert_eq!(turned_away.times(&often), 197);
        assert_eq!(turned_away.times(&Fingerprint::of(9)), 0);
        assert_eq!(turned_away.order.len(), REMEMBERED);
        assert!(turned_away.counts.len() <= REMEMBERED);
    }
}
