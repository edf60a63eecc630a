//! Amounts as people read them.

/// Bytes in the largest unit of which there is at least one.
pub fn bytes(bytes: u64) -> String {
    slackwater_exporters::amounts::bytes(bytes as f64)
}

/// How many of something: whole below a thousand, else with one decimal.
pub fn count(count: f64) -> String {
    const UNITS: [&str; 4] = ["k", "M", "G", "T"];
    if count < 999.5 {
        // A rate below ten has a decimal that matters.
        let decimals = usize::from(count < 9.95 && count.fract() != 0.0);
        return format!("{count:.decimals$}");
    }
    let mut amount = count / 1000.0;
    let mut unit = 0;
    while amount >= 999.95 && unit + 1 < UNITS.len() {
        amount /= 1000.0;
        unit += 1;
    }
    format!("{amount:.1}{}", UNITS[unit])
}

/// `part` of `whole`; 0 of nothing.
pub fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// A share in percent.
pub fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

/// A time in the unit that suits it.
pub fn seconds(seconds: f64) -> String {
    if seconds < 0.9995 {
        format!("{:.0} ms", 1000.0 * seconds)
    } else if seconds < 120.0 {
        format!("{seconds:.1} s")
    } else if seconds < 7200.0 {
        format!("{:.0} min", seconds / 60.0)
    } else {
        format!("{:.1} h", seconds / 3600.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_keep_a_decimal_where_it_matters() {
        for (amount, text) in [
            (0.0, "0"),
            (0.25, "0.2"),
            (7.0, "7"),
            (12.3, "12"),
            (999.4, "999"),
            (999.6, "1.0k"),
            (999_960.0, "1.0M"),
            (1e15, "1000.0T"),
        ] {
            assert_eq!(count(amount), text, "{amount}");
        }
    }

    #[test]
    fn times_and_shares_have_the_unit_that_suits_them() {
        for (time, text) in [
            (0.05, "50 ms"),
            (0.9999, "1.0 s"),
            (90.0, "90.0 s"),
            (600.0, "10 min"),
            (9e3, "2.5 h"),
        ] {
            assert_eq!(seconds(time), text);
        }
        assert_eq!(percent(share(1, 8)), "12.5%");
        assert_eq!(percent(share(1, 0)), "0.0%");
    }
}
