use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const TICK: Duration = Duration::from_nanos(1 << TICK_BITS);
const NOTHING: [u32; 0] = [];

fn expired(wheel: &mut Wheel<u32>, now: Time) -> Vec<u32> {
    let mut which = Vec::new();
    wheel.expire(now, |what| {
        which.push(*what);
        None
    });
    which
}

#[test]
fn timers_go_off_in_order_and_not_early() {
    let start = Time(12_345_678_901);
    let mut wheel = Wheel::new(start);
    let delays = [1, 63, 64, 65, 4095, 4096, 300_000, 7_440_000, 1_000_000_000];
    for delay in delays.into_iter().rev() {
        wheel.insert(start + Duration::from_millis(delay.into()), delay);
    }
    assert_eq!(expired(&mut wheel, start), NOTHING);
    for delay in delays {
        let at = start + Duration::from_millis(delay.into());
        assert_eq!(expired(&mut wheel, Time(at.0 - 1)), NOTHING);
        assert_eq!(expired(&mut wheel, at + TICK), [delay]);
    }
    assert!(wheel.is_empty());
    assert_eq!(wheel.next_deadline(), None);
}

#[test]
fn the_past_and_the_end_of_time_are_times() {
    let mut wheel = Wheel::new(Time(1 << 40));
    wheel.insert(Time::ZERO, 1);
    let never = wheel.insert(Time::NEVER, 2);
    assert_eq!(wheel.next_deadline(), Some(Time(1 << 40)));
    assert_eq!(expired(&mut wheel, Time(1 << 40)), [1]);
    // The clock may stand still, but going back does no harm either.
    assert_eq!(expired(&mut wheel, Time::ZERO), NOTHING);
    assert_eq!(
        expired(&mut wheel, Time(u64::MAX - (1 << TICK_BITS))),
        NOTHING
    );
    assert_eq!(wheel.cancel(never), Some(2));
    assert_eq!(wheel.cancel(never), None);
    assert!(!wheel.reset(never, Time::ZERO));
}

#[test]
fn a_timer_that_is_put_off_keeps_its_id() {
    let second = |s| Time::ZERO + Duration::from_secs(s);
    let mut wheel = Wheel::new(Time::ZERO);
    let id = wheel.insert(second(300), ());
    let last_packet = second(250);
    let idle = Duration::from_secs(300);
    let check = |_: &()| (last_packet + idle > second(301)).then_some(last_packet + idle);
    wheel.expire(second(301), check);
    assert_eq!(wheel.len(), 1);
    assert_eq!(wheel.pop(second(549)), None);
    assert!(wheel.reset(id, second(700)));
    assert_eq!(wheel.pop(second(600)), None);
    assert_eq!(wheel.pop(second(701)), Some(()));
    assert!(!wheel.reset(id, second(800)));
}

#[test]
fn a_timer_set_to_the_past_while_going_off_waits_for_a_tick() {
    let mut wheel = Wheel::new(Time::ZERO);
    wheel.insert(Time::ZERO, ());
    let mut count = 0;
    for tick in 0..10 {
        wheel.expire(Time::ZERO + TICK * tick, |()| {
            count += 1;
            Some(Time::ZERO)
        });
        assert_eq!(count, tick + 1);
    }
}

#[test]
fn deadlines_lead_to_each_timer_in_few_steps() {
    let mut wheel = Wheel::new(Time::ZERO);
    let day = Time::ZERO + Duration::from_secs(86_400);
    wheel.insert(day, 7);
    let mut steps = 0;
    let end = loop {
        let at = wheel.next_deadline().unwrap();
        steps += 1;
        if let Some(what) = wheel.pop(at) {
            assert_eq!(what, 7);
            break at;
        }
    };
    assert!(end >= day && end.since(day) < TICK, "{end:?}");
    assert!(steps <= LEVELS, "{steps}");
}

#[derive(Clone, Debug)]
enum Operation {
    Insert(u64),
    Reset(usize, u64),
    Cancel(usize),
    Advance(u64),
}

/// Delays of all sizes: half of them within the first levels.
fn delay() -> impl Strategy<Value = u64> {
    (0u32..60, any::<u64>()).prop_map(|(bits, random)| random >> (63 - bits))
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => delay().prop_map(Operation::Insert),
        2 => (any::<usize>(), delay()).prop_map(|(which, at)| Operation::Reset(which, at)),
        1 => any::<usize>().prop_map(Operation::Cancel),
        4 => delay().prop_map(Operation::Advance),
    ]
}

proptest! {
    #[test]
    fn a_wheel_is_a_sorted_list(operations in prop::collection::vec(operation(), 1..150)) {
        let mut now = Time(987_654_321);
        let mut wheel = Wheel::new(now);
        let mut ids = Vec::new();
        let mut model: HashMap<usize, Time> = HashMap::new();
        let pick = |ids: &[TimerId], which: usize| (!ids.is_empty()).then(|| which % ids.len());
        for operation in operations {
            match operation {
                Operation::Insert(delay) => {
                    let at = now + Duration::from_nanos(delay);
                    model.insert(ids.len(), at);
                    ids.push(wheel.insert(at, ids.len()));
                }
                Operation::Reset(which, delay) => {
                    let Some(which) = pick(&ids, which) else { continue };
                    let at = now + Duration::from_nanos(delay);
                    let set = model.get_mut(&which).map(|time| *time = at).is_some();
                    prop_assert_eq!(wheel.reset(ids[which], at), set);
                }
                Operation::Cancel(which) => {
                    let Some(which) = pick(&ids, which) else { continue };
                    let expected = model.remove(&which).map(|_| which);
                    prop_assert_eq!(wheel.cancel(ids[which]), expected);
                }
                Operation::Advance(delay) => {
                    now = now + Duration::from_nanos(delay);
                    let mut ticks = Vec::new();
                    while let Some(what) = wheel.pop(now) {
                        let at = model.remove(&what).unwrap();
                        prop_assert!(at <= now);
                        ticks.push(at.0.div_ceil(1 << TICK_BITS));
                    }
                    prop_assert!(ticks.is_sorted());
                    let due = |at: &Time| at.0.div_ceil(1 << TICK_BITS) <= now.0 >> TICK_BITS;
                    prop_assert!(!model.values().any(due), "{:?} at {:?}", model, now);
                }
            }
            prop_assert_eq!(wheel.len(), model.len());
            let first = model.values().min().map(|at| at.0.div_ceil(1 << TICK_BITS));
            let deadline = wheel.next_deadline().map(|at| at.0 >> TICK_BITS);
            prop_assert_eq!(first.is_some(), deadline.is_some());
            prop_assert!(deadline <= first.map(|tick| tick.max(now.0 >> TICK_BITS)));
        }
    }
}
