//! The A/A control: the same work twice, which must come out the same.

use serde::{Deserialize, Serialize};

use super::{Bootstrap, Estimate, MIN_BOOTS, Random, Series, Spread};

/// Up to so many boots, all ways to swap signs are tried; above, some at random.
const EXACT: usize = 12;
const RANDOM_FLIPS: u32 = 10_000;

/// A difference that nobody would act on, however sure it is.
const NEGLIGIBLE: f64 = 0.01;
/// A control that can't tell differences up to this apart is noisy as well.
const TOLERABLE: f64 = 0.05;

/// What the A/A control says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Control {
    /// How many times as long the second measurement took as the first.
    pub ratio: Estimate,
    /// How likely a difference of this size is, were there none; `None` where there
    /// are too few boots to tell.
    pub p: Option<f64>,
    /// Whether the run is noisy: what is measured depends on when.
    pub noisy: bool,
    /// The same in words.
    pub words: String,
}

impl Control {
    /// Judges `pairs`: what each boot measured first, and what it measured of the
    /// very same thing again. `None` if there is nothing to judge.
    ///
    /// Quiet is a run whose second measurement differs from the first by less than
    /// 1 %, or by no more than chance explains (a sign-flip test on the logarithms of
    /// the boots' ratios, at 5 %), and whose ratio is known to 5 %.
    pub fn new(bootstrap: &Bootstrap, pairs: &[(&Series, &Series)]) -> Option<Self> {
        let swapped: Vec<_> = pairs.iter().map(|&(first, again)| (again, first)).collect();
        let ratio = bootstrap.paired_ratio(&swapped)?;
        let logarithms: Vec<f64> = swapped
            .iter()
            .map(|(again, first)| (again.median() / first.median()).ln())
            .filter(|logarithm| logarithm.is_finite())
            .collect();
        let p = (logarithms.len() >= MIN_BOOTS).then(|| sign_flip_p(&logarithms, bootstrap.seed));
        let shift = (ratio.value - 1.0).abs();
        let unsure = (1.0 - ratio.low).max(ratio.high - 1.0);
        let bounds = match ratio.spread {
            Spread::Interval95 => "95 % interval",
            Spread::Range => "range",
        };
        let (noisy, words) = if shift >= NEGLIGIBLE && p.is_some_and(|p| p <= 0.05) {
            let way = if ratio.value > 1.0 { "more" } else { "less" };
            let words = format!(
                "noisy: the same work took {} {way} the second time",
                percent(shift)
            );
            (true, words)
        } else if unsure > TOLERABLE {
            let words = format!(
                "noisy: the same work took between {:.3} and {:.3} times as long the second \
                 time ({bounds})",
                ratio.low, ratio.high
            );
            (true, words)
        } else {
            let words = format!(
                "quiet: the same work took the same time twice, within {}",
                percent(unsure)
            );
            (false, words)
        };
        Some(Self {
            ratio,
            p,
            noisy,
            words,
        })
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// How likely it is that the sum of `differences` is as far from zero as it is, if
/// each might as well have had the other sign (Fisher's randomisation test for
/// pairs): exact for up to twelve, else by random flips from `seed`. 1 without any.
pub fn sign_flip_p(differences: &[f64], seed: u64) -> f64 {
    let observed = differences.iter().sum::<f64>().abs();
    // What rounding makes of sums in another order.
    let slack = 1e-12 * differences.iter().map(|d| d.abs()).sum::<f64>();
    let extreme = |flip: &mut dyn FnMut(usize) -> bool| {
        let signed = differences.iter().enumerate();
        let sum: f64 = signed
            .map(|(index, d)| if flip(index) { -d } else { *d })
            .sum();
        sum.abs() >= observed - slack
    };
    if differences.len() <= EXACT {
        let ways = 1u32 << differences.len();
        let count = (0..ways)
            .filter(|way| extreme(&mut |index| way >> index & 1 == 1))
            .count();
        return count as f64 / f64::from(ways);
    }
    let mut random = Random::new(seed);
    let count = (0..RANDOM_FLIPS)
        .filter(|_| extreme(&mut |_| random.bits() & 1 == 1))
        .count();
    // What was measured is one of the ways as well, so p is never zero.
    (count + 1) as f64 / f64::from(RANDOM_FLIPS + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten boots that measure twice, the second time `shift` times as much.
    fn judge(random: &mut Random, between: f64, within: f64, shift: f64) -> Control {
        let series = |centre: f64, random: &mut Random| {
            let samples: Vec<f64> = (0..100)
                .map(|_| centre * (within * random.normal()).exp())
                .collect();
            Series::new(&samples).unwrap()
        };
        let boots: Vec<(Series, Series)> = (0..10)
            .map(|_| {
                let centre = 1000.0 * (between * random.normal()).exp();
                (series(centre, random), series(centre * shift, random))
            })
            .collect();
        let pairs: Vec<_> = boots.iter().map(|(first, again)| (first, again)).collect();
        Control::new(
            &Bootstrap {
                replicates: 300,
                seed: 0,
            },
            &pairs,
        )
        .unwrap()
    }

    fn noisy(between: f64, within: f64, shift: f64) -> usize {
        let mut random = Random::new(21);
        (0..100)
            .filter(|_| judge(&mut random, between, within, shift).noisy)
            .count()
    }

    #[test]
    fn quiet_on_quiet_data() {
        assert!(noisy(0.0, 0.02, 1.0) <= 1);
        // What differs between boots, and not within, is no noise of the control.
        assert!(noisy(0.2, 0.02, 1.0) <= 1);
        // Certain, and too small to matter.
        assert!(noisy(0.0, 0.001, 1.003) <= 1);
    }

    #[test]
    fn loud_on_shifted_data() {
        assert!(noisy(0.0, 0.02, 1.02) >= 99);
        assert!(noisy(0.2, 0.02, 0.95) >= 99);
        // Not shifted, but too wild to tell.
        assert!(noisy(0.0, 1.0, 1.0) >= 99);
    }

    #[test]
    fn the_verdict_is_in_words() {
        let mut random = Random::new(22);
        let shifted = judge(&mut random, 0.0, 0.001, 1.1);
        assert_eq!(
            shifted.words,
            "noisy: the same work took 10.0 % more the second time"
        );
        let quiet = judge(&mut random, 0.0, 0.001, 1.0);
        assert!(quiet.words.starts_with("quiet: "), "{}", quiet.words);
    }

    #[test]
    fn few_boots_are_judged_by_their_range() {
        let one = |value: f64| Series::new(&[value]).unwrap();
        let (first, again, far) = (one(100.0), one(101.0), one(120.0));
        let bootstrap = Bootstrap::default();
        let quiet = Control::new(&bootstrap, &[(&first, &again)]).unwrap();
        assert_eq!((quiet.noisy, quiet.p), (false, None));
        let noisy = Control::new(&bootstrap, &[(&first, &far)]).unwrap();
        assert!(noisy.noisy && noisy.words.contains("range"));
        assert_eq!(Control::new(&bootstrap, &[]), None);
        let zero = one(0.0);
        assert_eq!(Control::new(&bootstrap, &[(&zero, &first)]), None);
    }

    #[test]
    fn the_test_is_exact_for_few_and_close_for_many() {
        assert_eq!(sign_flip_p(&[], 0), 1.0);
        assert_eq!(sign_flip_p(&[0.0, 0.0], 0), 1.0);
        assert_eq!(sign_flip_p(&[1.0; 6], 0), 2.0 / 64.0);
        assert_eq!(
            sign_flip_p(&[1.0, 1.0, 1.0, 1.0, 1.0, -1.0], 0),
            14.0 / 64.0
        );
        // The sum of 14 equal signs is at least 8 with probability 2 * 470 / 16384.
        let mut differences = [1.0; 14];
        differences[..3].fill(-1.0);
        let p = sign_flip_p(&differences, 0);
        assert!((p - 940.0 / 16384.0).abs() < 0.01, "{p}");
    }
}
