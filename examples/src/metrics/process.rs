//! What the kernel knows of this process

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// What the kernel knows of this process, from `/proc` (Linux)
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct ProcessNumbers {
    /// Time on processors, of the process and of the kernel for it
    pub cpu_seconds: f64,
    /// Memory that is in RAM
    pub resident_bytes: u64,
    /// Address space
    pub virtual_bytes: u64,
    /// When the process began, in seconds since 1970
    pub start_seconds: f64,
    /// Open file descriptors
    pub open_files: u64,
    /// How many may be open; `None` without a limit
    pub max_files: Option<u64>,
}

impl ProcessNumbers {
    /// The numbers of now; `None` where there is no `/proc` as Linux has it
    pub fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let machine = fs::read_to_string("/proc/stat").ok()?;
        let limits = fs::read_to_string("/proc/self/limits").ok()?;
        // One of the entries is that of the folder which is being read.
        let open_files = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
        let mut numbers = parse(
            &stat,
            &machine,
            rustix::param::clock_ticks_per_second() as f64,
            rustix::param::page_size() as u64,
        )?;
        numbers.open_files = open_files.saturating_sub(1);
        numbers.max_files = max_files(&limits);
        Some(numbers)
    }
}

/// Reads `/proc/self/stat` and `/proc/stat` (proc(5))
fn parse(stat: &str, machine: &str, ticks: f64, page: u64) -> Option<ProcessNumbers> {
    // The name of the process, in parentheses, may hold spaces and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    // The first field of these is the third of the file.
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let boot = machine
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse::<u64>()
        .ok()?;
    Some(ProcessNumbers {
        cpu_seconds: (field(14)? + field(15)?) as f64 / ticks,
        resident_bytes: field(24)? * page,
        virtual_bytes: field(23)?,
        start_seconds: boot as f64 + field(22)? as f64 / ticks,
        open_files: 0,
        max_files: None,
    })
}

/// The soft limit of open files (`unlimited` is none)
fn max_files(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Reads the numbers at each scrape
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(numbers) = ProcessNumbers::read() else {
            return Ok(());
        };
        let cpu = ConstCounter::new(numbers.cpu_seconds);
        let metric = encoder.encode_descriptor(
            "process_cpu_seconds",
            "Total user and system CPU time spent in seconds",
            None,
            cpu.metric_type(),
        )?;
        cpu.encode(metric)?;
        let mut gauge = |name: &str, help: &str, value: f64| {
            let gauge = ConstGauge::new(value);
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)
        };
        gauge(
            "process_open_fds",
            "Number of open file descriptors",
            numbers.open_files as f64,
        )?;
        if let Some(max_files) = numbers.max_files {
            gauge(
                "process_max_fds",
                "Maximum number of open file descriptors",
                max_files as f64,
            )?;
        }
        gauge(
            "process_resident_memory_bytes",
            "Resident memory size in bytes",
            numbers.resident_bytes as f64,
        )?;
        gauge(
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes",
            numbers.virtual_bytes as f64,
        )?;
        gauge(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds",
            numbers.start_seconds,
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_move_the_fields() {
        let stat = "7 (a) b) (c) S 1 7 7 0 -1 4194560 900 0 0 0 150 50 0 0 20 0 3 0 1000 8192 25 18446744073709551615 1";
        let numbers = parse(
            stat,
            "cpu  1 2\nbtime 1700000000\nprocesses 1\n",
            100.0,
            4096,
        );
        let numbers = numbers.unwrap();
        assert_eq!(numbers.cpu_seconds, 2.0);
        assert_eq!(numbers.start_seconds, 1_700_000_010.0);
        assert_eq!(
            (numbers.virtual_bytes, numbers.resident_bytes),
            (8192, 102_400)
        );
        assert_eq!(parse("7 (x) S 1", "btime 1\n", 100.0, 4096), None);
        assert_eq!(parse(stat, "cpu  1 2\n", 100.0, 4096), None);
    }

    #[test]
    fn no_limit_is_no_number() {
        let limits =
            |text: &str| format!("Max processes 5 6 processes\nMax open files   {text}   files\n");
        assert_eq!(max_files(&limits("1024   4096")), Some(1024));
        assert_eq!(max_files(&limits("unlimited unlimited")), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_numbers_are_those_of_this_process() {
        let before = ProcessNumbers::read().unwrap();
        let files: Vec<_> = (0..50)
            .map(|_| fs::File::open("/proc/self/stat").unwrap())
            .collect();
        let memory = vec![1_u8; 64 << 20];
        let after = ProcessNumbers::read().unwrap();
        drop(files);
        // Other tests of this process open and close files too.
        assert!(
            after.open_files >= before.open_files + 25,
            "{before:?} {after:?}"
        );
        assert!(after.resident_bytes > (32 << 20), "{after:?}");
        assert!(after.virtual_bytes > memory.len() as u64);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs_f64();
        assert!(after.start_seconds < now + 2.0 && after.start_seconds > now - 86_400.0);
    }
}
