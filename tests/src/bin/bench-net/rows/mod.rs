//! What is measured, and how.

mod behaviour;
mod endurance;
mod exits;
mod guest;
mod idle;
mod latency;
mod stage;
mod throughput;

use crate::Failure;
use crate::contender::{ALL, Contender};
use crate::plan::Bench;
use crate::table::{Better, Bound, Row};

/// Those that are processes with memory of their own.
const PROCESSES: [Contender; 3] = [Contender::Passt, Contender::Slirp, Contender::Nestling];
const OURS: [Contender; 1] = [Contender::Nestling];

const TCP_65520_UP: &str = "tcp-65520-guest-to-host";
const TCP_65520_DOWN: &str = "tcp-65520-host-to-guest";
const TCP_1500_UP: &str = "tcp-1500-guest-to-host";
const TCP_1500_DOWN: &str = "tcp-1500-host-to-guest";
const TIMEOUTS: &str = "tcp-timeouts";
const REQUEST: &str = "tcp-request";
const CONNECT: &str = "tcp-connect";
const DATAGRAM: &str = "udp-request";
const IDLE_REQUEST: &str = "idle-request";
const IDLE_MEMORY: &str = "idle-memory";
const SOAK_PROBLEMS: &str = "soak-problems";
const SOAK_FLOWS: &str = "soak-flows-left";
const SOAK_DESCRIPTORS: &str = "soak-descriptors-left";
const GUEST_TCP_UP: &str = "qemu-guest-to-host";
const GUEST_TCP_DOWN: &str = "qemu-host-to-guest";
const GUEST_REQUEST: &str = "qemu-request";
const EXITS: &str = "exits";
const NAT_MAPPING: &str = "nat-mapping";
const NAT_FILTERING: &str = "nat-filtering";
const NAT_FILTERING_CHOSEN: &str = "nat-filtering-chosen";
const NAT_HAIRPINNING: &str = "nat-hairpinning";
const NAT_PORT: &str = "nat-port-preserved";
const NAT_OVERLOADING: &str = "nat-port-overloading";

/// All rows, in the order of the table.
pub(crate) static ROWS: [Row; 23] = [
    throughput(
        TCP_65520_UP,
        "TCP, guest to host, MTU 65520",
        &[Bound::OfVeth(0.40), Bound::AheadOfPeers],
    ),
    throughput(
        TCP_65520_DOWN,
        "TCP, host to guest, MTU 65520",
        &[Bound::OfVeth(0.40), Bound::AheadOfPeers],
    ),
    throughput(
        TCP_1500_UP,
        "TCP, guest to host, MTU 1500",
        &[Bound::OfVeth(0.35), Bound::AheadOfPeers],
    ),
    throughput(
        TCP_1500_DOWN,
        "TCP, host to guest, MTU 1500",
        &[Bound::OfVeth(0.35), Bound::AheadOfPeers],
    ),
    latency(REQUEST, "TCP request/response", &[Bound::OfPeers(1.0)]),
    latency(DATAGRAM, "UDP request/response", &[Bound::OfPeers(1.0)]),
    latency(
        CONNECT,
        "TCP connect/request/response",
        &[Bound::OfPeers(1.5)],
    ),
    once(
        IDLE_REQUEST,
        "TCP request/response beside idle flows",
        "ratio",
        &ALL,
        &[Bound::AtMost(1.1)],
    ),
    once(
        IDLE_MEMORY,
        "own memory for an idle flow",
        "bytes",
        &PROCESSES,
        &[Bound::AtMost(1024.0)],
    ),
    once(
        TIMEOUTS,
        "retransmission time-outs, both directions",
        "count",
        &OURS,
        &[Bound::AtMost(0.0)],
    ),
    once(
        SOAK_PROBLEMS,
        "soak: flows that went wrong",
        "count",
        &OURS,
        &[Bound::AtMost(0.0)],
    ),
    once(
        SOAK_FLOWS,
        "soak: flows left",
        "count",
        &OURS,
        &[Bound::AtMost(0.0)],
    ),
    once(
        SOAK_DESCRIPTORS,
        "soak: descriptors left",
        "count",
        &OURS,
        &[Bound::AtMost(0.0)],
    ),
    once(
        NAT_MAPPING,
        "NAT: mapping",
        "",
        &PROCESSES,
        &[Bound::Is(behaviour::INDEPENDENT)],
    ),
    once(
        NAT_FILTERING,
        "NAT: filtering",
        "",
        &PROCESSES,
        &[Bound::Is(behaviour::INDEPENDENT)],
    ),
    once(
        NAT_FILTERING_CHOSEN,
        "NAT: filtering, if told to go by port",
        "",
        &OURS,
        &[Bound::Is(behaviour::BY_PORT)],
    ),
    once(
        NAT_HAIRPINNING,
        "NAT: hairpinning",
        "",
        &PROCESSES,
        &[Bound::Is(behaviour::YES)],
    ),
    once(
        NAT_PORT,
        "NAT: port preserved",
        "",
        &PROCESSES,
        &[Bound::Is(behaviour::YES)],
    ),
    once(
        NAT_OVERLOADING,
        "NAT: port overloading",
        "",
        &PROCESSES,
        &[Bound::Is(behaviour::NO)],
    ),
    Row {
        contenders: &PROCESSES,
        ..throughput(
            GUEST_TCP_UP,
            "QEMU guest: TCP, guest to host",
            &[Bound::AheadOfPeers],
        )
    },
    Row {
        contenders: &PROCESSES,
        ..throughput(
            GUEST_TCP_DOWN,
            "QEMU guest: TCP, host to guest",
            &[Bound::AheadOfPeers],
        )
    },
    Row {
        contenders: &PROCESSES,
        ..latency(
            GUEST_REQUEST,
            "QEMU guest: TCP request/response",
            &[Bound::AheadOfPeers],
        )
    },
    once(
        EXITS,
        "exits to user space for 64 KiB sent by L1",
        "count",
        &OURS,
        &[Bound::Below(1.0)],
    ),
];

const fn throughput(id: &'static str, title: &'static str, bounds: &'static [Bound]) -> Row {
    Row {
        id,
        title,
        unit: "Gbit/s",
        better: Better::More,
        contenders: &ALL,
        bounds,
        every_round: true,
    }
}

const fn latency(id: &'static str, title: &'static str, bounds: &'static [Bound]) -> Row {
    Row {
        id,
        title,
        unit: "us",
        better: Better::Less,
        contenders: &ALL,
        bounds,
        every_round: true,
    }
}

const fn once(
    id: &'static str,
    title: &'static str,
    unit: &'static str,
    contenders: &'static [Contender],
    bounds: &'static [Bound],
) -> Row {
    Row {
        id,
        title,
        unit,
        better: Better::Less,
        contenders,
        bounds,
        every_round: false,
    }
}

/// Measures all that is selected, in the order of the table.
pub(crate) fn measure(bench: &mut Bench<'_>) -> Result<(), Failure> {
    throughput::measure(bench)?;
    latency::measure(bench)?;
    idle::measure(bench)?;
    endurance::sustained(bench)?;
    endurance::soak(bench)?;
    behaviour::measure(bench)?;
    guest::measure(bench)?;
    exits::measure(bench)
}
