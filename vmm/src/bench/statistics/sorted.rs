//! Quantiles of what was measured.

use serde::{Deserialize, Serialize};

/// Values in ascending order: at least one, and all finite.
#[derive(Clone, Debug, PartialEq)]
pub struct Sorted(Vec<f64>);

impl Sorted {
    /// Sorts `values`; what isn't finite is left out. `None` if nothing is left.
    pub fn new(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values
            .into_iter()
            .filter(|value| value.is_finite())
            .collect();
        values.sort_by(f64::total_cmp);
        (!values.is_empty()).then_some(Self(values))
    }

    /// The values.
    pub fn values(&self) -> &[f64] {
        &self.0
    }

    /// The smallest value.
    pub fn min(&self) -> f64 {
        self.0[0]
    }

    /// The largest value.
    pub fn max(&self) -> f64 {
        self.0[self.0.len() - 1]
    }

    /// The value below which a share `p` of the values lies: type 7 of Hyndman and
    /// Fan (1996), which interpolates linearly and is the default of R and NumPy.
    /// `p` outside 0 to 1 is taken as the nearer end.
    pub fn quantile(&self, p: f64) -> f64 {
        let last = self.0.len() - 1;
        let place = (last as f64 * p).clamp(0.0, last as f64);
        let below = floor(place);
        let above = (below + 1).min(last);
        let (low, high) = (self.0[below], self.0[above]);
        low + (high - low) * place.fract()
    }

    /// The middle value, or the mean of the two in the middle.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// All quantiles that a report gives.
    pub fn quantiles(&self) -> Quantiles {
        Quantiles {
            min: self.min(),
            p50: self.median(),
            p90: self.quantile(0.9),
            p99: self.quantile(0.99),
            p99_9: self.quantile(0.999),
            max: self.max(),
        }
    }
}

/// The quantiles that a report gives.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// The smallest value.
    pub min: f64,
    /// The median.
    pub p50: f64,
    /// Nine in ten are no larger.
    pub p90: f64,
    /// 99 in 100 are no larger.
    pub p99: f64,
    /// 999 in 1000 are no larger.
    pub p99_9: f64,
    /// The largest value.
    pub max: f64,
}

/// The whole part of `place`, which isn't negative, as an index.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast from a float saturates, and a place is below a length"
)]
pub(super) fn floor(place: f64) -> usize {
    place as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantiles_are_numpys() {
        // numpy.quantile([3, 1, 4, 1, 5, 9, 2, 6, 5, 3.5], [0, .5, .9, .99, .999, 1])
        let values = Sorted::new([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0, 5.0, 3.5]).unwrap();
        let expected = [1.0, 3.75, 6.3, 8.73, 8.973, 9.0];
        for (p, expected) in [0.0, 0.5, 0.9, 0.99, 0.999, 1.0].into_iter().zip(expected) {
            let found = values.quantile(p);
            assert!((found - expected).abs() < 1e-12, "{p}: {found}");
        }
    }

    #[test]
    fn one_value_is_every_quantile_and_none_has_none() {
        let one = Sorted::new([7.0]).unwrap().quantiles();
        assert_eq!((one.min, one.p50, one.p99_9, one.max), (7.0, 7.0, 7.0, 7.0));
        assert_eq!(Sorted::new([]), None);
        assert_eq!(Sorted::new([f64::NAN, f64::INFINITY]), None);
        assert_eq!(Sorted::new([f64::NAN, 2.0]).unwrap().values(), [2.0]);
    }

    proptest! {
        #[test]
        fn quantiles_grow_and_stay_inside(
            values in prop::collection::vec(-1e9..1e9, 1..50),
            p in -0.5..1.5,
            q in -0.5..1.5,
        ) {
            let sorted = Sorted::new(values).unwrap();
            let (low, high) = if p < q { (p, q) } else { (q, p) };
            let (low, high) = (sorted.quantile(low), sorted.quantile(high));
            // Interpolation rounds.
            let slack = 1e-6;
            prop_assert!(low <= high + slack);
            prop_assert!(low >= sorted.min() - slack && high <= sorted.max() + slack);
        }
    }
}
