//! Where values go on an axis.

/// An axis from 0 to 1.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scale {
    Linear { low: f64, high: f64 },
    Log { low: f64, high: f64 },
}

impl Scale {
    /// An axis that holds all `values`, logarithmic where that can be, with some room at
    /// both ends. `None` without finite values.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let finite = values.into_iter().filter(|value| value.is_finite());
        let ends = finite.fold(None, |ends: Option<(f64, f64)>, value| {
            let (low, high) = ends.unwrap_or((value, value));
            Some((low.min(value), high.max(value)))
        });
        let (low, high) = ends?;
        Some(if low > 0.0 {
            let room = (high / low).powf(0.04).max(1.02);
            Self::Log {
                low: low / room,
                high: high * room,
            }
        } else {
            let room = ((high - low) * 0.04).max(0.1);
            Self::Linear {
                low: low - room,
                high: high + room,
            }
        })
    }

    /// Where `value` is, from 0 to 1; what is outside is at the nearer end.
    pub(super) fn place(self, value: f64) -> f64 {
        let place = match self {
            Self::Linear { low, high } => (value - low) / (high - low),
            Self::Log { low, high } => (value / low).ln() / (high / low).ln(),
        };
        place.clamp(0.0, 1.0)
    }

    /// Round values along the axis, at most `most` (if two fit).
    pub(super) fn ticks(self, most: usize) -> Vec<f64> {
        let (low, high, steps): (f64, f64, &[&[f64]]) = match self {
            Self::Log { low, high } => (low, high, &[&[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]]),
            Self::Linear { low, high } => return linear(low, high, most),
        };
        for digits in steps {
            let ticks = decades(low, high, digits);
            if ticks.len() <= most {
                return ticks;
            }
        }
        let all = decades(low, high, &[1.0]);
        let every = all.len().div_ceil(most.max(1));
        all.into_iter().step_by(every).collect()
    }
}

fn decades(low: f64, high: f64, digits: &[f64]) -> Vec<f64> {
    // The range of a double.
    (-300..=300)
        .flat_map(|exponent: i32| digits.iter().map(move |d| d * 10f64.powi(exponent)))
        .filter(|tick| (low..=high).contains(tick))
        .collect()
}

fn linear(low: f64, high: f64, most: usize) -> Vec<f64> {
    let rough = (high - low) / most.max(1) as f64;
    let decade = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|digit| digit * decade)
        .find(|step| *step >= rough)
        .unwrap_or(rough);
    let first = (low / step).ceil();
    (0..=most)
        .map(|n| (first + n as f64) * step)
        .filter(|tick| *tick <= high)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ticks_are_round() {
        let ticks = |values: [f64; 2]| Scale::of(values).unwrap().ticks(6);
        assert_eq!(ticks([1.0, 40.0]), [1.0, 2.0, 5.0, 10.0, 20.0]);
        assert_eq!(ticks([1.0, 1e4]), [1.0, 10.0, 100.0, 1e3, 1e4]);
        assert_eq!(ticks([-4.0, 16.0]), [0.0, 5.0, 10.0, 15.0]);
        assert!(Scale::of([f64::NAN]).is_none());
    }

    proptest! {
        #[test]
        fn places_are_in_order_and_on_the_axis(
            values in prop::collection::vec(-1e6..1e12, 1..20),
            most in 1usize..8,
        ) {
            let scale = Scale::of(values.iter().copied()).unwrap();
            let mut sorted = values;
            sorted.sort_by(f64::total_cmp);
            let places: Vec<f64> = sorted.iter().map(|v| scale.place(*v)).collect();
            prop_assert!(places.iter().all(|place| (0.0..=1.0).contains(place)));
            prop_assert!(places.is_sorted());
            prop_assert!(scale.ticks(most).len() <= most + 1);
        }
    }
}
