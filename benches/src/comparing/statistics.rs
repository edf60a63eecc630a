//! What repeated measurements say, and what they do not.

use std::fmt;

/// The middle of `values`, of which there is at least one.
pub fn median(values: &[f64]) -> f64 {
    quantile(&sorted(values), 0.5)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Where `part` of the sorted values is below; between two, in proportion.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let place = part * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// The geometric mean of `values`; none if there are none.
pub fn geometric_mean(values: &[f64]) -> Option<f64> {
    let logarithms: f64 = values.iter().map(|value| value.ln()).sum();
    (!values.is_empty()).then(|| (logarithms / values.len() as f64).exp())
}

/// Repeated measurements of one thing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The middle one.
    pub median: f64,
    /// How far apart they are: the distance between the quartiles, or, of fewer than four, between
    /// the extremes. None is known of a single one.
    pub spread: Option<f64>,
}

impl Summary {
    /// Of `values`; none if there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let sorted = sorted(values);
        let spread = match sorted.len() {
            0 => return None,
            1 => None,
            2 | 3 => Some(sorted[sorted.len() - 1] - sorted[0]),
            _ => Some(quantile(&sorted, 0.75) - quantile(&sorted, 0.25)),
        };
        Some(Summary { median: quantile(&sorted, 0.5), spread })
    }

    /// Whether the two differ by more than either is spread.
    pub fn differs_from(&self, other: &Summary) -> bool {
        let difference = (self.median - other.median).abs();
        let beyond = |summary: &Summary| summary.spread.is_some_and(|spread| spread < difference);
        beyond(self) && beyond(other)
    }

    /// What this is against `other`, where less is better.
    pub fn against(&self, other: &Summary) -> Outcome {
        if !self.differs_from(other) {
            Outcome::Tie
        } else if self.median < other.median {
            Outcome::Ahead
        } else {
            Outcome::Behind
        }
    }
}

/// The median, and the spread in percent of it.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", three_digits(self.median))?;
        match self.spread {
            Some(spread) if self.median > 0.0 => {
                write!(f, " ({:.1}%)", spread / self.median * 100.0)
            }
            _ => Ok(()),
        }
    }
}

/// What one is against another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Better, by more than the spread.
    Ahead,
    /// Not to be told apart.
    Tie,
    /// Worse, by more than the spread.
    Behind,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Ahead => "ahead",
            Outcome::Tie => "tie",
            Outcome::Behind => "behind",
        })
    }
}

/// As much of a number as a noisy figure deserves.
pub fn three_digits(number: f64) -> String {
    match number {
        ..10.0 => format!("{number:.2}"),
        10.0..100.0 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(values: &[f64]) -> Summary {
        Summary::of(values).unwrap()
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_two() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn one_outlier_of_many_does_not_spread_them() {
        assert_eq!(summary(&[5.0, 1.0, 2.0, 3.0, 400.0]).spread, Some(3.0));
        assert_eq!(summary(&[5.0, 1.0, 2.0]).spread, Some(4.0));
        assert_eq!(summary(&[5.0]).spread, None);
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn nobody_wins_by_less_than_the_spread() {
        let (narrow, wide) = (summary(&[10.0, 10.1, 10.2]), summary(&[10.0, 11.0, 12.5]));
        assert_eq!(narrow.against(&wide), Outcome::Tie);
        assert_eq!(wide.against(&narrow), Outcome::Tie);
        let slower = summary(&[12.9, 13.0, 13.1]);
        assert_eq!(narrow.against(&slower), Outcome::Ahead);
        assert_eq!(slower.against(&narrow), Outcome::Behind);
        // Of one measurement nothing is known.
        assert_eq!(summary(&[1.0]).against(&slower), Outcome::Tie);
        // What repeats to the digit is told apart, and is the same as itself.
        let exact = summary(&[7.0, 7.0]);
        assert_eq!(exact.against(&summary(&[7.5, 7.5])), Outcome::Ahead);
        assert_eq!(exact.against(&exact), Outcome::Tie);
    }

    #[test]
    fn the_geometric_mean_of_a_half_and_a_double_is_one() {
        assert!((geometric_mean(&[0.5, 2.0]).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(geometric_mean(&[]), None);
    }

    #[test]
    fn a_cell_has_its_spread() {
        assert_eq!(summary(&[7.4, 7.5, 7.6]).to_string(), "7.50 (2.7%)");
        assert_eq!(summary(&[123.4]).to_string(), "123");
    }
}
