//! Benchmarks of the registry: see `benches/` for the parts and `src/bin/` for whole processes

pub mod content;
pub mod count;
pub mod day;
pub mod http;
pub mod load;
pub mod machine;
pub mod plot;
pub mod process;
pub mod random;
pub mod report;
pub mod s3;
pub mod simulate;
pub mod site;
pub mod stock;
pub mod tls;

/// What a program of this package gives back
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The number in the middle; of an even count the higher of the two
///
/// # Panics
///
/// Without any number.
pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// Bytes as mebibytes
pub fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
