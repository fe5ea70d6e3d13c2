use super::*;

/// Boots whose medians are spread by `between` around `centre`, and samples by
/// `within` around each; both log-normal, so that `centre` is the true median.
fn boots(random: &mut Random, count: usize, centre: f64, between: f64, within: f64) -> Vec<Series> {
    (0..count)
        .map(|_| {
            let boot = centre * (between * random.normal()).exp();
            let samples: Vec<f64> = (0..40)
                .map(|_| boot * (within * random.normal()).exp())
                .collect();
            Series::new(&samples).unwrap()
        })
        .collect()
}

/// In how many of 400 experiments the interval covers `truth`, in per cent.
fn coverage(truth: f64, mut experiment: impl FnMut(&mut Random) -> Estimate) -> f64 {
    let mut random = Random::new(11);
    let covered = (0..400)
        .filter(|_| {
            let estimate = experiment(&mut random);
            assert_eq!(estimate.spread, Spread::Interval95);
            assert!(estimate.low <= estimate.value && estimate.value <= estimate.high);
            (estimate.low..=estimate.high).contains(&truth)
        })
        .count();
    covered as f64 / 4.0
}

const QUICK: Bootstrap = Bootstrap {
    replicates: 200,
    seed: 0,
};

#[test]
fn intervals_of_medians_cover_as_stated() {
    for (count, between, within) in [
        (10, 0.05, 0.1),
        (10, 0.02, 0.5),
        (10, 0.3, 0.05),
        (11, 0.05, 0.1),
        (20, 0.1, 0.1),
    ] {
        let covered = coverage(100.0, |random| {
            QUICK
                .median(&boots(random, count, 100.0, between, within))
                .unwrap()
        });
        assert!(
            (93.0..=98.0).contains(&covered),
            "{count} {between} {within}: {covered}"
        );
    }
}

/// Of few boots the coarse distribution shows, most with seven.
#[test]
fn intervals_of_six_to_nine_boots_cover_a_little_less() {
    for count in 6..=9 {
        let covered = coverage(100.0, |random| {
            QUICK
                .median(&boots(random, count, 100.0, 0.3, 0.05))
                .unwrap()
        });
        assert!((86.0..=98.0).contains(&covered), "{count}: {covered}");
    }
}

#[test]
fn intervals_of_ratios_cover_as_stated() {
    let covered = coverage(20.0, |random| {
        let over = boots(random, 10, 2000.0, 0.05, 0.2);
        let under = boots(random, 10, 100.0, 0.05, 0.2);
        QUICK.ratio(&over, &under).unwrap()
    });
    assert!((93.0..=98.0).contains(&covered), "{covered}");
    let covered = coverage(20.0, |random| {
        let over = boots(random, 10, 2000.0, 0.05, 0.2);
        let under = boots(random, 10, 100.0, 0.05, 0.2);
        QUICK
            .paired_ratio(&over.iter().zip(&under).collect::<Vec<_>>())
            .unwrap()
    });
    assert!((93.0..=98.0).contains(&covered), "{covered}");
}

#[test]
fn what_a_boot_does_to_both_cancels_out_in_a_paired_ratio() {
    let mut random = Random::new(12);
    let under = boots(&mut random, 10, 100.0, 0.3, 0.01);
    let over: Vec<Series> = under
        .iter()
        .map(|series| {
            let scaled: Vec<f64> = series.values().values().iter().map(|v| v * 20.0).collect();
            Series::new(&scaled).unwrap()
        })
        .collect();
    let pairs: Vec<_> = over.iter().zip(&under).collect();
    let paired = QUICK.paired_ratio(&pairs).unwrap();
    let unpaired = QUICK.ratio(&over, &under).unwrap();
    assert!((paired.value - 20.0).abs() < 0.2);
    assert!(paired.high - paired.low < 0.2 * (unpaired.high - unpaired.low));
}

#[test]
fn few_boots_give_a_range_and_none_gives_nothing() {
    let one = |value: f64| Series::new(&[value]).unwrap();
    let bootstrap = Bootstrap::default();
    assert_eq!(bootstrap.median(&[]), None);
    let three = bootstrap.median(&[one(3.0), one(1.0), one(2.0)]).unwrap();
    assert_eq!((three.value, three.low, three.high), (2.0, 1.0, 3.0));
    assert_eq!((three.spread, three.boots), (Spread::Range, 3));
    let ratio = bootstrap
        .ratio(&[one(10.0), one(20.0), one(30.0)], &[one(1.0), one(2.0)])
        .unwrap();
    assert_eq!((ratio.low, ratio.high, ratio.boots), (5.0, 30.0, 2));
    let (over, under) = (one(6.0), one(2.0));
    let paired = bootstrap.paired_ratio(&[(&over, &under)]).unwrap();
    assert_eq!((paired.value, paired.low, paired.high), (3.0, 3.0, 3.0));
    assert_eq!(bootstrap.paired_ratio(&[]), None);
}

#[test]
fn nothing_is_divided_by_zero_or_less() {
    let bootstrap = Bootstrap::default();
    let zero = vec![Series::new(&[0.0, 5.0]).unwrap(); 10];
    let five = vec![Series::new(&[5.0]).unwrap(); 10];
    assert_eq!(bootstrap.ratio(&five, &zero), None);
    assert_eq!(bootstrap.ratio(&five, &[]), None);
    assert_eq!(bootstrap.ratio(&[], &five), None);
    let pairs: Vec<_> = five.iter().zip(&zero).collect();
    assert_eq!(bootstrap.paired_ratio(&pairs), None);
    assert!(bootstrap.ratio(&zero, &five).is_some());
}

#[test]
fn boots_that_are_all_alike_leave_no_doubt() {
    let same = vec![Series::new(&[5.0; 30]).unwrap(); 10];
    let estimate = Bootstrap::default().median(&same).unwrap();
    assert_eq!(
        (estimate.low, estimate.value, estimate.high),
        (5.0, 5.0, 5.0)
    );
}

#[test]
fn an_estimate_comes_out_the_same_every_time() {
    let boots = boots(&mut Random::new(13), 10, 100.0, 0.1, 0.1);
    let bootstrap = Bootstrap::default();
    assert_eq!(bootstrap.median(&boots), bootstrap.median(&boots));
    let other = Bootstrap {
        seed: 1,
        ..bootstrap
    };
    assert_ne!(bootstrap.median(&boots), other.median(&boots));
}
