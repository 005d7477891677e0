//! Durations as Go writes them

use std::time::Duration;

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads `5m`, `1h30m`, `1.5s`, `24h0m0s`; a number alone counts nanoseconds
///
/// # Errors
///
/// What is wrong.
pub(crate) fn parse(text: &str) -> Result<Duration, &'static str> {
    if text.starts_with('-') {
        return Err("a duration that is not negative");
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text
            .parse()
            .map(Duration::from_nanos)
            .map_err(|_| "a shorter duration");
    }
    let malformed = "a duration such as `90s`, `5m` or `1h30m`";
    let mut rest = text;
    let mut nanoseconds: u64 = 0;
    if rest.is_empty() {
        return Err(malformed);
    }
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or(malformed)?;
        let (number, tail) = rest.split_at(end);
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let (_, scale) = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or(malformed)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(malformed);
        }
        let long = |_| "a shorter duration";
        let whole: u64 = if whole.is_empty() {
            0
        } else {
            whole.parse().map_err(long)?
        };
        let mut part = whole.checked_mul(*scale).ok_or("a shorter duration")?;
        // Digits past the nanosecond add nothing.
        let mut worth = *scale;
        for digit in fraction.bytes() {
            worth /= 10;
            part += u64::from(digit - b'0') * worth;
        }
        nanoseconds = nanoseconds.checked_add(part).ok_or("a shorter duration")?;
        rest = tail;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Writes a duration so that [`parse`] reads the same
pub(crate) fn format(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    let mut rest = nanoseconds;
    for (unit, scale) in [
        ("h", 3_600_000_000_000_u128),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
        ("ns", 1),
    ] {
        let count = rest / scale;
        rest %= scale;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("0s", 0),
            ("5m", 300_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("24h0m0s", 86_400_000_000_000),
            ("168h", 604_800_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("10ms", 10_000_000),
            ("3us", 3_000),
            ("3µs", 3_000),
            ("1000000000", 1_000_000_000),
            ("+1s", 1_000_000_000),
            ("0.0000000001s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanoseconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "-1s",
            "5 m",
            "m",
            "5x",
            "1h30",
            ".s",
            "1.2.3s",
            "9999999999h",
            "1e3s",
            "99999999999999999999",
            "5M",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for nanoseconds in [
            0,
            1,
            999,
            1_500_000_000,
            5_400_000_000_000,
            86_400_000_000_001,
        ] {
            let duration = Duration::from_nanos(nanoseconds);
            assert_eq!(parse(&format(duration)), Ok(duration));
        }
        assert_eq!(format(Duration::from_secs(604_800)), "168h");
    }
}
