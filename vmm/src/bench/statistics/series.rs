//! One boot's measurements in the order in which they were made: what belongs to
//! the warm-up, and how much the rest repeats itself.

use super::Random;
use super::sorted::{Sorted, floor};

/// How many parts a series is cut into when its warm-up is looked for.
const BATCHES: usize = 20;

/// What one boot has measured of one thing, without its warm-up.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    values: Sorted,
    discarded: usize,
    settled: bool,
    effective: usize,
}

impl Series {
    /// Takes values in the order in which they were measured; `None` if there is
    /// none that is finite.
    ///
    /// The warm-up ends where the values begin to look like those of the second
    /// half: the series is cut into twenty batches, and leading ones are left out
    /// as long as their median is outside the range of the medians of the last
    /// ten. Medians, for a single interrupt mustn't decide. A series that hasn't
    /// come there after its first half hasn't settled, and says so.
    pub fn new(measured: &[f64]) -> Option<Self> {
        let finite: Vec<f64> = measured
            .iter()
            .copied()
            .filter(|value| value.is_finite())
            .collect();
        let (discarded, settled) = warm_up(&finite);
        let kept = &finite[discarded..];
        let values = Sorted::new(kept.iter().copied())?;
        Some(Self {
            effective: effective_size(kept, values.median()),
            values,
            discarded,
            settled,
        })
    }

    /// The values without the warm-up.
    pub fn values(&self) -> &Sorted {
        &self.values
    }

    /// How many values of the warm-up were left out.
    pub fn discarded(&self) -> usize {
        self.discarded
    }

    /// Whether the series came to rest in its first half.
    pub fn settled(&self) -> bool {
        self.settled
    }

    /// How many independent values would tell as much about the median: fewer than
    /// there are where neighbours are alike.
    pub fn effective(&self) -> usize {
        self.effective
    }

    /// The median.
    pub fn median(&self) -> f64 {
        self.values.median()
    }

    /// The median of a random resample, with replacement, of the effective size.
    ///
    /// Drawn without making the resample. Its k-th smallest value is the one at
    /// the place where the k-th smallest of n uniform numbers falls, and that is of
    /// the beta distribution with k and n + 1 - k (David and Nagaraja, Order
    /// Statistics, 2.3); given it, the next one is the smallest of the n - k that
    /// are above it.
    pub fn resampled_median(&self, random: &mut Random) -> f64 {
        let size = self.effective;
        let values = self.values.values();
        let at = |place: f64| values[floor(place * values.len() as f64).min(values.len() - 1)];
        let k = size.div_ceil(2);
        let middle = random.beta(k as f64, (size + 1 - k) as f64);
        if size % 2 == 1 {
            return at(middle);
        }
        let next = 1.0 - (1.0 - middle) * random.unit().powf(1.0 / (size - k) as f64);
        f64::midpoint(at(middle), at(next))
    }
}

/// How many values at the start are warm-up, and whether they end in the first half.
fn warm_up(values: &[f64]) -> (usize, bool) {
    let length = values.len() / BATCHES;
    if length == 0 {
        return (0, true);
    }
    let medians: Vec<f64> = values
        .chunks_exact(length)
        .take(BATCHES)
        .filter_map(|batch| Some(Sorted::new(batch.iter().copied())?.median()))
        .collect();
    let (first, second) = medians.split_at(BATCHES / 2);
    let low = second.iter().copied().fold(f64::INFINITY, f64::min);
    let high = second.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let batches = first
        .iter()
        .take_while(|&&median| median < low || median > high)
        .count();
    (batches * length, batches < first.len())
}

/// How many independent values tell as much about the median.
///
/// The variance of a median grows with the autocorrelation of "is above the median"
/// (Geyer, 1992, for the sum: pairs of lags, as long as they are positive).
fn effective_size(values: &[f64], median: f64) -> usize {
    let n = values.len();
    let above: Vec<f64> = values
        .iter()
        .map(|&value| f64::from(u8::from(value > median)))
        .collect();
    let mean = above.iter().sum::<f64>() / n as f64;
    let variance = mean * (1.0 - mean);
    if variance <= 0.0 {
        return n;
    }
    let correlation = |lag: usize| {
        let products = above.iter().zip(&above[lag..]);
        let sum: f64 = products.map(|(a, b)| (a - mean) * (b - mean)).sum();
        sum / (n as f64 * variance)
    };
    let mut time = 1.0;
    for lag in (1..n / 2).step_by(2) {
        let pair = correlation(lag) + correlation(lag + 1);
        if pair <= 0.0 {
            break;
        }
        time += 2.0 * pair;
    }
    floor((n as f64 / time).ceil()).clamp(1, n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normals(random: &mut Random, count: usize) -> Vec<f64> {
        (0..count).map(|_| 100.0 + random.normal()).collect()
    }

    #[test]
    fn a_warm_up_is_left_out_and_a_quiet_start_is_not() {
        let mut random = Random::new(3);
        let mut values = normals(&mut random, 1000);
        let quiet = Series::new(&values).unwrap();
        assert!(quiet.settled());
        assert!(quiet.discarded() <= 100, "{}", quiet.discarded());
        for (index, value) in values.iter_mut().take(180).enumerate() {
            *value += 30.0 - index as f64 / 10.0;
        }
        let warm = Series::new(&values).unwrap();
        assert!(warm.settled());
        assert!(
            (150..=250).contains(&warm.discarded()),
            "{}",
            warm.discarded()
        );
        assert!((warm.median() - 100.0).abs() < 0.2);
    }

    #[test]
    fn what_never_comes_to_rest_says_so() {
        let drifting: Vec<f64> = (0..1000).map(f64::from).collect();
        let series = Series::new(&drifting).unwrap();
        assert!(!series.settled());
        assert_eq!(series.discarded(), 500);
    }

    #[test]
    fn a_single_interrupt_is_no_warm_up() {
        let mut values = vec![5.0; 200];
        values[0] = 1e6;
        let series = Series::new(&values).unwrap();
        assert_eq!((series.discarded(), series.settled()), (0, true));
    }

    #[test]
    fn few_values_are_kept_whole() {
        assert_eq!(Series::new(&[]), None);
        assert_eq!(Series::new(&[f64::NAN]), None);
        let one = Series::new(&[4.0]).unwrap();
        assert_eq!(
            (one.median(), one.effective(), one.discarded()),
            (4.0, 1, 0)
        );
        assert_eq!(one.resampled_median(&mut Random::new(1)), 4.0);
        let two = Series::new(&[4.0, 6.0]).unwrap();
        assert_eq!((two.median(), two.discarded()), (5.0, 0));
    }

    #[test]
    fn neighbours_that_are_alike_count_for_less() {
        let mut random = Random::new(4);
        let independent = Series::new(&normals(&mut random, 2000)).unwrap();
        assert!(
            independent.effective() > 1200,
            "{}",
            independent.effective()
        );
        // Each value five times.
        let repeated: Vec<f64> = normals(&mut random, 400)
            .into_iter()
            .flat_map(|value| [value; 5])
            .collect();
        let repeated = Series::new(&repeated).unwrap();
        assert!(
            (250..=600).contains(&repeated.effective()),
            "{}",
            repeated.effective()
        );
        // All the same: nothing to correlate.
        assert_eq!(Series::new(&[1.0; 50]).unwrap().effective(), 50);
    }

    #[test]
    fn resampled_medians_are_distributed_as_those_of_real_resamples() {
        let mut random = Random::new(5);
        for count in [9, 10] {
            let values: Vec<f64> = (0..count).map(|n| f64::from(n * n)).collect();
            let series = Series {
                effective: values.len(),
                ..Series::new(&values).unwrap()
            };
            let real = || {
                let resample = (0..values.len()).map(|_| values[random.below(values.len())]);
                Sorted::new(resample).unwrap().median()
            };
            let real = Sorted::new(std::iter::repeat_with(real).take(20_000)).unwrap();
            let drawn = || series.resampled_median(&mut random);
            let drawn = Sorted::new(std::iter::repeat_with(drawn).take(20_000)).unwrap();
            for p in [0.05, 0.25, 0.5, 0.75, 0.95] {
                let share = |of: &Sorted| {
                    let bound = real.quantile(p);
                    let below = of.values().partition_point(|&value| value <= bound);
                    below as f64 / of.values().len() as f64
                };
                let (real, drawn) = (share(&real), share(&drawn));
                assert!((real - drawn).abs() < 0.02, "{count}, {p}: {real} {drawn}");
            }
        }
    }
}
