//! Intervals by the bootstrap.
//!
//! The independent unit is the boot: samples of one boot share its memory layout and
//! whatever else fate has dealt it. So boots are resampled, with replacement, then
//! the samples within each: a two-stage bootstrap, with the first stage's variance
//! corrected (Davison and Hinkley, Bootstrap Methods and their Application, 1997, 3.8).
//! What is estimated is the median over boots of each boot's median, which neither
//! interrupts nor one odd boot can move far.
//!
//! Intervals are percentile intervals. BCa, which often does better, takes its
//! acceleration from the jackknife, and the jackknife is inconsistent for a median
//! (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, 11.6). Percentiles
//! need no such thing, and don't care whether a ratio or its logarithm is meant.
//! Simulated, they cover 94 to 97 times in 100 from ten boots on, and 89 times at the
//! worst (seven boots, which an odd number of few values makes coarse).

use serde::{Deserialize, Serialize};

use super::{MIN_BOOTS, Random, Series, Sorted};

/// How intervals are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// How many resamples are made.
    pub replicates: usize,
    /// Where the random numbers begin; every estimate begins there again, so that
    /// none depends on what else was estimated.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self {
            replicates: 2000,
            seed: 0,
        }
    }
}

/// What the bounds of an [`Estimate`] are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spread {
    /// A bootstrap interval, which covers the true value 95 times in 100.
    Interval95,
    /// The lowest and the highest boot: fewer than [`MIN_BOOTS`] allow no more.
    Range,
}

/// A value and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The estimate.
    pub value: f64,
    /// Its lower bound.
    pub low: f64,
    /// Its upper bound.
    pub high: f64,
    /// What the bounds are.
    pub spread: Spread,
    /// How many boots it comes from.
    pub boots: usize,
}

impl Bootstrap {
    /// The median over boots, of each boot's median. `None` without boots.
    pub fn median(&self, boots: &[Series]) -> Option<Estimate> {
        let medians: Vec<f64> = boots.iter().map(Series::median).collect();
        let value = median(medians.iter().copied())?;
        let range = || Some((Sorted::new(medians.iter().copied())?, boots.len()));
        let group = Group::new(boots.iter(), self.seed);
        self.estimate(value, range, |random| group.resampled(random))
    }

    /// The ratio of two medians that the same boots have measured: `pairs` holds what
    /// each boot has of the one above and of the one below the line. A boot's two
    /// series stay together, so what it does to both cancels out.
    ///
    /// `None` without boots, or if anything below the line isn't above zero.
    pub fn paired_ratio(&self, pairs: &[(&Series, &Series)]) -> Option<Estimate> {
        if pairs.iter().any(|(_, under)| !positive(under)) {
            return None;
        }
        let over = median(pairs.iter().map(|(over, _)| over.median()))?;
        let under = median(pairs.iter().map(|(_, under)| under.median()))?;
        let range = || {
            let ratios = pairs
                .iter()
                .map(|(over, under)| over.median() / under.median());
            Some((Sorted::new(ratios)?, pairs.len()))
        };
        let over_group = Group::new(pairs.iter().map(|(over, _)| *over), self.seed);
        let under_group = Group::new(pairs.iter().map(|(_, under)| *under), self.seed);
        self.estimate(over / under, range, |random| {
            let chosen: Vec<(f64, f64)> = (0..pairs.len())
                .map(|_| {
                    let boot = random.below(pairs.len());
                    let over = over_group.resampled_boot(boot, random);
                    (over, under_group.resampled_boot(boot, random))
                })
                .collect();
            let over = median(chosen.iter().map(|(over, _)| *over))?;
            Some(over / median(chosen.iter().map(|(_, under)| *under))?)
        })
    }

    /// The ratio of two medians that different boots have measured.
    ///
    /// `None` without boots on either side, or if anything below the line isn't above
    /// zero.
    pub fn ratio(&self, over: &[Series], under: &[Series]) -> Option<Estimate> {
        if !under.iter().all(positive) {
            return None;
        }
        let value =
            median(over.iter().map(Series::median))? / median(under.iter().map(Series::median))?;
        let range = || {
            let over = Sorted::new(over.iter().map(Series::median))?;
            let under = Sorted::new(under.iter().map(Series::median))?;
            let ends = [over.min() / under.max(), over.max() / under.min()];
            Some((
                Sorted::new(ends)?,
                over.values().len().min(under.values().len()),
            ))
        };
        let over = Group::new(over.iter(), self.seed);
        let under = Group::new(under.iter(), self.seed);
        self.estimate(value, range, |random| {
            Some(over.resampled(random)? / under.resampled(random)?)
        })
    }

    fn estimate(
        &self,
        value: f64,
        range: impl FnOnce() -> Option<(Sorted, usize)>,
        mut resample: impl FnMut(&mut Random) -> Option<f64>,
    ) -> Option<Estimate> {
        let (range, boots) = range()?;
        let (low, high, spread) = if boots < MIN_BOOTS {
            (range.min(), range.max(), Spread::Range)
        } else {
            let mut random = Random::new(self.seed);
            let replicates = (0..self.replicates).filter_map(|_| resample(&mut random));
            let replicates = Sorted::new(replicates)?;
            let ends = (replicates.quantile(0.025), replicates.quantile(0.975));
            // The resampled medians needn't enclose the one that was measured.
            (ends.0.min(value), ends.1.max(value), Spread::Interval95)
        };
        Some(Estimate {
            value,
            low,
            high,
            spread,
            boots,
        })
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    Some(Sorted::new(values)?.median())
}

/// Boots to resample.
struct Group<'a> {
    boots: Vec<&'a Series>,
    /// The median over boots.
    centre: f64,
    /// What a boot's distance from the centre is multiplied by.
    ///
    /// Boots' medians differ because boots do, and because samples within them do; the
    /// second stage adds the latter once more. Brought nearer to the centre first, the
    /// resampled medians have the variance that was measured, and that of n boots
    /// instead of n - 1.
    scale: f64,
}

impl<'a> Group<'a> {
    fn new(boots: impl Iterator<Item = &'a Series>, seed: u64) -> Self {
        /// How often each boot is resampled to learn how its median varies.
        const PROBES: usize = 32;
        let boots: Vec<&Series> = boots.collect();
        let medians: Vec<f64> = boots.iter().map(|boot| boot.median()).collect();
        let between = variance(&medians);
        let mut random = Random::new(seed);
        let within = boots.iter().map(|boot| {
            let probes: Vec<f64> = (0..PROBES)
                .map(|_| boot.resampled_median(&mut random))
                .collect();
            variance(&probes)
        });
        let n = boots.len() as f64;
        let within = within.sum::<f64>() / n;
        let scale = if between > 0.0 {
            ((between - within).max(0.0) / between * n / (n - 1.0)).sqrt()
        } else {
            0.0
        };
        Self {
            centre: median(medians.into_iter()).unwrap_or(0.0),
            boots,
            scale,
        }
    }

    /// The median of one boot after resampling its samples.
    fn resampled_boot(&self, boot: usize, random: &mut Random) -> f64 {
        let boot = self.boots[boot];
        let shift = (self.scale - 1.0) * (boot.median() - self.centre);
        boot.resampled_median(random) + shift
    }

    /// The median over boots after resampling them, and the samples of each.
    fn resampled(&self, random: &mut Random) -> Option<f64> {
        median((0..self.boots.len()).map(|_| {
            let boot = random.below(self.boots.len());
            self.resampled_boot(boot, random)
        }))
    }
}

/// The unbiased variance; 0 for a single value.
fn variance(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    squares / (n - 1.0).max(1.0)
}

fn positive(series: &Series) -> bool {
    series.values().min() > 0.0
}

#[cfg(test)]
mod tests;
