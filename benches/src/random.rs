//! Random numbers that are the same every time

/// A sequence of random numbers, the same for the same seed
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number; this is splitmix64
    // Not an iterator: it never ends, and what it gives is no item of anything.
    #[expect(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to 1, without it
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number below `limit`
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// How long until something that comes `rate` times a second on average comes again, in seconds
    pub fn until_next(&mut self, rate: f64) -> f64 {
        -(1.0 - self.unit()).ln() / rate
    }
}
