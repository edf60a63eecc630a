//! Amounts as people read them.

/// Bytes in the largest unit of which there is at least one; an amount that is a difference may be negative.
pub fn bytes(amount: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut shown = amount;
    let mut unit = 0;
    // What would be rounded to 1024.0 is one of the next unit.
    while shown.abs() >= 1023.95 && unit + 1 < UNITS.len() {
        shown /= 1024.0;
        unit += 1;
    }
    // No -0.
    if unit == 0 {
        format!("{:.0} B", shown.round() + 0.0)
    } else {
        format!("{shown:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_change_their_unit_where_rounding_does() {
        for (amount, text) in [
            (0.0, "0 B"),
            (-0.2, "0 B"),
            (1023.0, "1023 B"),
            (1024.0, "1.0 KiB"),
            (1_048_524.0, "1023.9 KiB"),
            (1_048_575.0, "1.0 MiB"),
            (-20_480.0, "-20.0 KiB"),
            (5.0 * f64::from(1 << 30), "5.0 GiB"),
            (u64::MAX as f64, "16777216.0 TiB"),
        ] {
            assert_eq!(bytes(amount), text, "{amount}");
        }
    }
}
