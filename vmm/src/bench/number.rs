//! Numbers as people read them: three digits, and a unit of fitting size.

use crate::bench::row::Quantity;
use crate::bench::statistics::{Estimate, Spread};

/// A value of `quantity` with its unit.
pub(super) fn value(value: f64, quantity: Quantity) -> String {
    let (size, unit) = unit(value, quantity);
    format!("{} {unit}", digits(value / size))
}

/// A value on an axis: as [`value`], and as short as it can be.
pub(super) fn tick(value: f64, quantity: Quantity) -> String {
    let (size, unit) = unit(value, quantity);
    format!("{} {unit}", plain(value / size))
}

/// The value of an estimate with its unit, and its bounds in the same unit.
pub(super) fn estimate(estimate: &Estimate, quantity: Quantity) -> (String, String) {
    let (size, _) = unit(estimate.value, quantity);
    let bounds = bounds(estimate, |bound| digits(bound / size));
    (value(estimate.value, quantity), bounds)
}

/// The largest unit that `value` has at least one of, and how much it is.
fn unit(value: f64, quantity: Quantity) -> (f64, &'static str) {
    let units = match quantity {
        Quantity::Time => [(1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")],
        Quantity::Throughput => [(1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1.0, "B/s")],
    };
    let fits = |unit: &&(f64, &str)| value.abs() >= unit.0;
    *units.iter().find(fits).unwrap_or(&units[3])
}

/// A number with three significant digits, at most three behind the point.
fn digits(value: f64) -> String {
    let size = value.abs();
    let behind = match size {
        _ if size >= 99.95 => 0,
        _ if size >= 9.995 => 1,
        _ if size >= 0.9995 => 2,
        _ => 3,
    };
    let text = format!("{value:.behind$}");
    // What rounds to zero has no sign.
    match text.strip_prefix('-') {
        Some(rest) if rest.chars().all(|c| c == '0' || c == '.') => rest.to_owned(),
        _ => text,
    }
}

/// A number with at most three significant digits.
pub(super) fn plain(value: f64) -> String {
    let text = digits(value);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// The bounds of an estimate, each as `form` writes it.
pub(super) fn bounds(estimate: &Estimate, form: impl Fn(f64) -> String) -> String {
    let (low, high) = (form(estimate.low), form(estimate.high));
    match estimate.spread {
        Spread::Interval95 => format!("[{low}, {high}]"),
        Spread::Range => format!("({low} to {high})"),
    }
}

/// A ratio with its bounds.
pub(super) fn ratio(estimate: &Estimate) -> String {
    format!("{}× {}", digits(estimate.value), bounds(estimate, digits))
}

/// A date of the Gregorian calendar from seconds since 1970, UTC (Hinnant's
/// days-to-civil algorithm).
pub(super) fn date(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..=9 => (year_of_era + era * 400, month + 3),
        _ => (year_of_era + era * 400 + 1, month - 9),
    };
    let minutes = seconds / 60 % 1440;
    format!(
        "{year}-{month:02}-{day:02} {:02}:{:02} UTC",
        minutes / 60,
        minutes % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_three_digits_and_a_fitting_unit() {
        for (given, expected) in [
            (0.0, "0.000 ns"),
            (-0.0001, "0.000 ns"),
            (-3.21, "-3.21 ns"),
            (0.5, "0.500 ns"),
            (42.04, "42.0 ns"),
            (999.96, "1000 ns"),
            (15_730.0, "15.7 µs"),
            (1_234_567.0, "1.23 ms"),
            (2.5e9, "2.50 s"),
            (7.2e12, "7200 s"),
        ] {
            assert_eq!(value(given, Quantity::Time), expected);
        }
        assert_eq!(value(1.25e9, Quantity::Throughput), "1.25 GB/s");
        assert_eq!(tick(2e3, Quantity::Time), "2 µs");
        assert_eq!(plain(100.0), "100");
        assert_eq!(plain(31.96), "32");
        assert_eq!(plain(0.0), "0");
        assert_eq!(plain(0.0125), "0.013");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(date(seconds), expected);
        }
    }
}
