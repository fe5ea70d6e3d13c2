//! Both streams arrive whatever the link, the guest and the peer do.

use proptest::prelude::*;

use super::guest::Habits;
use super::network::{Plan, World};
use crate::net::nat::tcp::flow::Link;

/// A guest and a link that are well.
pub(super) fn plan() -> Plan {
    Plan {
        seed: 1,
        habits: Habits {
            iss: 0xFFFF_F000,
            mss: 1460,
            scale: Some(7),
            buffer: 1 << 20,
            reassembles: true,
            burst: 65160,
        },
        link: Link {
            mss: 1460,
            burst: 65495,
        },
        iss: 0xFFFF_FF00,
        listens: false,
        from_guest: 3_000_000,
        to_guest: 3_000_000,
        loss: 0,
        repetition: 0,
        reordering: 0,
        full_port: 0,
        forgets: 0,
        capacity: 1 << 20,
        boast: 0,
        stride: 1 << 20,
    }
}

prop_compose! {
    fn habits()(
        iss: u32,
        mss in 88u16..4000,
        scale in prop::option::of(0u8..=14),
        buffer in prop_oneof![500usize..3000, 3000usize..300_000],
        reassembles: bool,
        burst in prop_oneof![100usize..1460, 1460usize..65160],
    ) -> Habits {
        // A window that can't be shown at a large shift is none.
        let scale = scale.map(|scale| scale.min(buffer.ilog2() as u8 - 7));
        Habits { iss, mss, scale, buffer, reassembles, burst }
    }
}

prop_compose! {
    fn any_plan()(
        seed: u64,
        habits in habits(),
        mss in 500u16..9000,
        burst in prop_oneof![Just(0u32), Just(65495)],
        iss: u32,
        listens: bool,
        from_guest in 0usize..60_000,
        to_guest in 0usize..60_000,
        loss in 0u8..30,
        repetition in 0u8..15,
        reordering in 0u8..30,
        full_port in 0u8..30,
        forgets in 0u8..30,
        capacity in prop_oneof![600usize..5000, 5000usize..500_000],
        boast in prop_oneof![Just(0usize), 0usize..20_000],
        stride in prop_oneof![100usize..5000, 5000usize..100_000],
    ) -> Plan {
        let link = Link { mss, burst: burst.max(mss.into()) };
        Plan {
            seed, habits, link, iss, listens, from_guest, to_guest, loss, repetition,
            reordering, full_port, forgets, capacity, boast, stride,
        }
    }
}

proptest! {
    #[test]
    fn streams_arrive_whole_over_any_link(plan in any_plan()) {
        let mut world = World::new(plan);
        world.run();
        world.check();
    }
}

#[test]
fn a_good_link_needs_no_timer() {
    for (listens, mss) in [(false, 1460), (true, 1460), (false, 65480)] {
        let mut plan = plan();
        plan.listens = listens;
        plan.link.mss = mss;
        plan.habits.mss = mss;
        let mut world = World::new(plan);
        let start = world.now;
        while world.host.ending.is_none() {
            assert!(world.step());
        }
        assert!(world.now.since(start).as_millis() < 200, "no time-out");
        assert_eq!(world.parks, 0);
        world.run();
        world.check();
    }
}
